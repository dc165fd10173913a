"""Every file call of a scripted run fails once: what is acknowledged is there, what failed is told, nothing hangs."""
from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import DiskError, KuduStorageError, LogBackpressure, LogPoisoned, NoSpace, NotYetWritten
from kudu_storage.protos import message_class
from kudu_storage.wal.verify import verify

if TYPE_CHECKING:
    from conftest import Counts

KINDS = ("open", "write", "sync", "allocate", "truncate", "rename", "unlink", "sync_dir")
OPTIONS: dict[str, Any] = {"segment_size": "16KiB", "compression": "none"}
WAIT_S = 60


class Trial:
    """A scripted run in which something may fail.

    acknowledged: payloads of indexes 1 and up. unknown: those behind them that a poisoned log left open. refused: of
    entries that failed for want of space, so they must never be seen.
    """

    def __init__(self, path: Path, disk: RecordingDisk) -> None:
        self.path = path
        self.disk = disk
        self.acknowledged: list[bytes] = []
        self.unknown: list[bytes] = []
        self.refused: set[bytes] = set()
        self.first_kept_max = 1
        self.failures: list[KuduStorageError] = []
        self.poisoned = False
        self.cut_failed = False
        self._made = 0
        self.log = self._opened()

    def run(self) -> None:
        for size in (10, 3000, 700):
            self.append([size])
        self.commit(1)
        for _ in range(3):
            self.append([2500, 40], [1], [3000])
            self.prepare()
        self.close()
        if self.poisoned:
            return
        self.log = self._opened()
        self.collect()
        self.append([900] * 5)
        self.truncate(len(self.acknowledged) - 2)
        self.append([6000], [6000], [50])
        self.append([9000])
        self.prepare()
        self.append([9000])
        self.prepare()
        self.close()

    # -- steps ---------------------------------------------------------------------------------------------------------
    def append(self, *batches: list[int]) -> None:
        """Batches in flight together, then waited for in order."""
        waiting = []
        for sizes in batches:
            payloads = [self._payload(size) for size in sizes]
            try:
                waiting.append((self._append(payloads), payloads))
            except LogPoisoned as error:
                self._is_poisoned(error, payloads)
        for token, payloads in waiting:
            try:
                token.wait(timeout=WAIT_S)
            except NoSpace as error:
                self.failures.append(error)
                self.refused.update(payloads)
            except LogPoisoned as error:
                self._is_poisoned(error, payloads)
            else:
                assert not self.poisoned, "a poisoned log acknowledges"
                assert token.first.index == len(self.acknowledged) + 1, "indexes are not contiguous"
                self.acknowledged += payloads

    def _append(self, payloads: list[bytes]) -> Any:
        while True:
            try:
                return self.log.append_many(payloads)
            except LogBackpressure:
                pass            # indexes were taken back at this moment

    def prepare(self) -> None:
        """Whether the next segment can be made ahead is nobody's concern."""
        self.log._writer.prepare()

    def commit(self, index: int) -> None:
        try:
            self.log.append_commit(message_class("kudu.consensus.CommitMsg")(
                op_type=4, commited_op_id={"term": 1, "index": index}))
        except LogPoisoned as error:
            self._is_poisoned(error, [])

    def collect(self) -> None:
        try:
            self.log.gc()
        except LogPoisoned as error:
            self._is_poisoned(error, [])
        except DiskError as error:
            self.failures.append(error)
        self.first_kept_max = self.log.first_index

    def truncate(self, index: int) -> None:
        before = self.acknowledged
        self.cut_failed = True
        try:
            self.log.truncate_after(index)
        except NoSpace as error:
            self.failures.append(error)
            assert index <= self.log.last.index <= len(before)
            self.acknowledged = before[:self.log.last.index]
        except LogPoisoned as error:
            if not self.poisoned:
                self.acknowledged = before[:index]
            self._is_poisoned(error, [] if self.poisoned else before[index:])
        else:
            self.cut_failed = False
            self.acknowledged = before[:index]
            self.refused.update(before[index:])

    def close(self) -> None:
        try:
            self.log.close()
        except (LogPoisoned, NoSpace) as error:
            if isinstance(error, LogPoisoned):
                self._is_poisoned(error, [])
            else:
                self.failures.append(error)
        else:
            assert not self.poisoned, "a poisoned log closes as if all were well"

    # -- what is expected ----------------------------------------------------------------------------------------------
    def _is_poisoned(self, error: LogPoisoned, payloads: list[bytes]) -> None:
        self.poisoned = True
        self.failures.append(error)
        self.unknown += payloads
        with pytest.raises(LogPoisoned):
            self.log.append(b"after the poison")

    def _opened(self) -> Log:
        try:
            return Log.open(self.path, create=True, disk=self.disk, **OPTIONS)
        except DiskError as error:
            self.failures.append(error)
            return Log.open(self.path, create=True, disk=self.disk, **OPTIONS)      # it fails once

    def _payload(self, size: int) -> bytes:
        self._made += 1
        return b"<%d>" % self._made + b"%c" % (64 + self._made % 60) * size

    def judge(self) -> None:
        """Reopen on a good disk."""
        with Log.open(self.path, create=True, **OPTIONS) as log:
            first, entries = log.first_index, list(log.read())
            kept = [bytes(e.payload) for e in entries]
            assert [e.index for e in entries] == list(range(first, first + len(kept)))
            assert first <= self.first_kept_max
            assert not self.refused.intersection(kept), "an entry that was refused or truncated is there"
            possible = (self.acknowledged + self.unknown)[first - 1:]
            assert kept == possible[:len(kept)]
            assert first - 1 + len(kept) >= len(self.acknowledged), "an acknowledged entry is lost"
            log.append(b"goes on").wait(timeout=WAIT_S)
        assert verify(self.path).problems == ()


def attempts_of_a_good_run(path: Path) -> dict[str, int]:
    trial = Trial(path, RecordingDisk())
    trial.run()
    assert trial.failures == []
    trial.judge()
    return {kind: trial.disk.attempts(kind) for kind in KINDS}


def failed_file(disk: RecordingDisk, kind: str) -> str:
    """The name of the file whose call of this kind failed; "" for calls that name no open file."""
    names: dict[int, str] = {}
    for call, fd, status, _, _, _, data in disk.calls():
        if call == "open" and status >= 0:
            names[fd] = Path(data.decode()).name
        if call == "rename" and status >= 0:
            old, new = (Path(path.decode()).name for path in data.split(b"\0"))
            names = {number: new if name == old else name for number, name in names.items()}
        if call == kind and status < 0 and not (call == "unlink" and status == -errno.ENOENT):
            return names.get(fd, "")
    return ""


def run_with_fault(path: Path, kind: str, attempt: int, number: int, partial: int, counts: Counts) -> Trial:
    disk = RecordingDisk()
    disk.fail(kind, attempt, number, partial=partial)
    counts.faults += 1
    trial = Trial(path, disk)
    try:
        trial.run()
        trial.judge()
    except BaseException as error:
        error.add_note(f"{kind} {attempt} failed with {errno.errorcode[number]}, {partial} bytes written, "
                       f"file {failed_file(disk, kind)!r}; told: {trial.failures!r}")
        raise
    return trial


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("kind", KINDS)
def test_any_call_may_fail_once(kind: str, number: int, tmp_path: Path, counts: Counts) -> None:
    total = attempts_of_a_good_run(tmp_path / "good")[kind]
    assert total > 0
    for attempt in range(1, total + 1):
        for partial in (0, 20, 700) if kind == "write" else (0,):
            trial = run_with_fault(tmp_path / f"{attempt}-{partial}", kind, attempt, number, partial, counts)
            expect(trial, kind, number, failed_file(trial.disk, kind))


def expect(trial: Trial, kind: str, number: int, file: str) -> None:
    """W2 and W6: which failures poison, and which do not."""
    raised = {type(error) for error in trial.failures}
    if file.endswith(".newsegmentahead"):
        assert raised == set(), "what is made ahead of need is not needed"
        return
    of_segment = file.startswith("wal-") or ".newsegment" in file
    if kind in ("sync", "sync_dir"):
        assert raised, "a failed sync went unnoticed"
        assert NoSpace not in raised, "a failed sync is not a matter of space"
    if kind == "write" and number == errno.EIO and of_segment:
        assert raised and NoSpace not in raised
    if kind == "write" and number == errno.ENOSPC and of_segment:
        assert LogPoisoned not in raised
    if kind == "allocate":
        assert raised == ({NoSpace} if number == errno.ENOSPC else set())
    if file.startswith("index.") and not trial.cut_failed:
        assert raised == set(), "what the writer notes in the index is only a hint"
    if file.startswith("index.") and kind == "sync":
        assert trial.cut_failed, "a cut is done only when no slot above it is left"


@pytest.mark.parametrize("partial", [0, 30, 1000])
def test_a_full_disk_fails_all_in_order_and_the_same_log_goes_on(partial: int, tmp_path: Path, counts: Counts) -> None:
    disk = RecordingDisk()
    trial = Trial(tmp_path, disk)
    for round_number in range(12):
        trial.append([2000], [30, 30])
        for kind in ("write", "allocate"):
            disk.fail(kind, 1, errno.ENOSPC, partial=partial if kind == "write" else 0, onwards=True)
        counts.faults += 1
        refused = len(trial.refused)
        trial.append([3000], [10, 10], [500])
        assert len(trial.refused) == refused + 4 and not trial.poisoned, f"round {round_number}"
        assert trial.log.last.index == len(trial.acknowledged)
        assert [bytes(e.payload) for e in trial.log.read()] == trial.acknowledged
        for kind in ("write", "allocate"):
            disk.fail(kind, 0, 0)
    trial.append([100], [9000])
    trial.close()
    trial.judge()


def test_no_room_for_a_footer_loses_nothing(tmp_path: Path, counts: Counts) -> None:
    disk = RecordingDisk()
    trial = Trial(tmp_path, disk)
    trial.append([5000, 20])
    disk.fail("write", 1, errno.ENOSPC, partial=5, onwards=True)
    counts.faults += 1
    trial.close()
    assert trial.failures == []
    trial.judge()


def test_closing_says_that_what_nobody_waited_for_is_not_there(tmp_path: Path, counts: Counts) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk)
    log.append(b"kept").wait()
    disk.fail("write", 1, errno.ENOSPC, onwards=True)
    counts.faults += 1
    log.append(b"lost")
    with pytest.raises(NoSpace):
        log.flush()
        log.close()
    disk.fail("write", 0, 0)
    log.close()
    with Log.open(tmp_path) as again:
        assert [bytes(e.payload) for e in again.read()] == [b"kept"]


def test_an_interval_log_acknowledges_nothing_behind_its_last_sync_once_a_sync_failed(tmp_path: Path,
                                                                                     counts: Counts) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk, durability="interval:3600s")
    token = log.append(b"with the kernel").wait()
    disk.fail("sync", 1, errno.EIO)
    counts.faults += 1
    with pytest.raises(LogPoisoned):
        log.close()
    with pytest.raises(LogPoisoned):
        token.wait()
    with pytest.raises(LogPoisoned):
        log.append(b"more")


@pytest.mark.parametrize("how", ["closed", "truncated"])
def test_whoever_follows_a_log_is_told_when_it_is(how: str, tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    seen: list[bytes] = []
    told: list[type[BaseException] | None] = []
    first = threading.Event()

    def follow() -> None:
        try:
            for entry in log.tail(1):
                seen.append(bytes(entry.payload))
                first.set()
            told.append(None)
        except NotYetWritten as error:
            told.append(type(error))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    log.append(b"one").wait()
    assert first.wait(WAIT_S)
    if how == "truncated":
        log.truncate_after(0)
        log.append_many([b"again", b"two"]).wait()
        follower.join(WAIT_S)
    log.close()
    follower.join(WAIT_S)
    assert not follower.is_alive()
    assert seen == [b"one"]
    assert told == [None if how == "closed" else NotYetWritten]
