"""Segments that are made before they are needed: used by the roll, harmless when they fail, gone when the log rests."""
from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_writer import LogWriter
from kudu_storage.errors import LogClosed, LogPoisoned, NoSpace
from kudu_storage.wal.verify import verify

KIB = 1024
SEGMENT_BYTES = 256 * KIB
AHEAD = ".kudutmp.newsegmentahead"
DEADLINE_S = 60
# What the pool does by itself, or what this thread does at once; nothing else may differ.
PREPARED = ["pool", "caller"]


def opened(path: Path, disk: RecordingDisk | None = None, **options: Any) -> Log:
    return Log.open(path, create=True, compression="none", segment_size=SEGMENT_BYTES, disk=disk, **options)


def eventually(true: Callable[[], bool]) -> None:
    """The pool works at its own time."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "never"
        os.sched_yield()


def is_ahead(log: Log) -> bool:
    return bool(log.stats()["segment_ahead"])


def roll(log: Log) -> None:
    """Append until a new segment begins; one entry is in it then."""
    sequence = log.stats()["sequence"]
    while log.stats()["sequence"] == sequence:
        log.append(os.urandom(16 * KIB)).wait()


def fill(log: Log, part: float) -> None:
    while log.stats()["offset"] < part * SEGMENT_BYTES:
        log.append(os.urandom(16 * KIB)).wait()


def make_ahead(log: Log, how: str) -> None:
    """A log that is busy, and has its next segment."""
    fill(log, 0.9)
    roll(log)
    if how == "caller":
        assert log._writer.prepare()
    fill(log, 0.5)
    eventually(lambda: is_ahead(log))


def calls_since(disk: RecordingDisk, mark: int) -> list[tuple[str, str]]:
    """(kind, file) of calls; of a rename the new name."""
    names: dict[int, str] = {}
    found = []
    for number, (kind, fd, status, _, _, _, data) in enumerate(disk.calls()):
        names_one = kind in ("open", "rename", "unlink", "sync_dir")
        name = os.fsdecode(data.split(b"\0")[-1]) if names_one else names.get(fd, "")
        if kind == "open" and status >= 0:
            names[fd] = name
        if number >= mark:
            found.append((kind, os.path.basename(name)))
    return found


# -- used --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", PREPARED)
@pytest.mark.parametrize("durability", ["fsync", "os", "interval:3600s"])
def test_a_roll_only_names_the_segment_that_was_made_ahead(durability: str, how: str, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk, durability=durability) as log:
        make_ahead(log, how)
        assert (tmp_path / AHEAD).stat().st_size == SEGMENT_BYTES
        fill(log, 0.93)
        mark, used = len(disk), log.stats()["segments_made_ahead"]
        roll(log)
        assert log.stats()["segments_made_ahead"] == used + 1
        calls = calls_since(disk, mark)
        renamed = [name for kind, name in calls if kind == "rename"]
        assert renamed == [f"wal-{log.stats()['sequence']:09d}"]
        assert ("open", AHEAD) not in calls and not [kind for kind, _ in calls if kind == "allocate"]
        at = calls.index(("rename", renamed[0]))
        assert [kind for kind, _ in calls[at:at + 2]] == ["rename", "write" if durability == "os" else "sync_dir"]
        assert not (tmp_path / AHEAD).exists()
        count = log.last.index
    with opened(tmp_path) as log:
        assert [e.index for e in log.read()] == list(range(1, count + 1))
    assert verify(tmp_path).problems == ()


def test_a_segment_counts_as_made_only_when_all_of_it_is_durable(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk) as log:
        mark = len(disk)
        assert log._writer.prepare()
        kinds = [kind for kind, _ in calls_since(disk, mark)]
        assert kinds == ["unlink", "open", "write", "allocate", "write", "sync"]
        # Zeros are written where entries will come, so that their syncs write no more than the entries.
        header = len(disk.calls()[mark + 2][6])
        assert disk.calls()[mark + 4][4:6] == (header, SEGMENT_BYTES - header)
        assert (tmp_path / AHEAD).read_bytes()[header:] == bytes(SEGMENT_BYTES - header)


def test_segments_of_a_log_that_is_not_busy_are_not_made_ahead(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk) as log:
        fill(log, 0.9)                      # whether it will ever roll is not known
        assert not is_ahead(log)
        roll(log)
        assert log.stats()["segments_made_ahead"] == 0
    assert AHEAD not in {name for _, name in calls_since(disk, 0)}
    with Log.open(tmp_path / "small", create=True, segment_size="64KiB", disk=disk) as log:
        for _ in range(40):
            log.append(os.urandom(16 * KIB)).wait()
        assert log.stats()["sequence"] > 5
    assert AHEAD not in {name for _, name in calls_since(disk, 0)}


def test_a_segment_still_in_the_making_is_not_waited_for(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk) as log:
        fill(log, 0.5)
        disk.hold("unlink", calls=1)
        made: list[bool] = []
        maker = threading.Thread(target=lambda: made.append(log._writer.prepare()))
        maker.start()
        eventually(lambda: disk.waiting == 1)
        roll(log)
        assert disk.waiting == 1 and log.stats()["segments_made_ahead"] == 0
        disk.release()
        maker.join(DEADLINE_S)
        assert made == [False]                  # its number was taken
        assert not (tmp_path / AHEAD).exists()
        assert log._writer.prepare()
        count = log.last.index
    with opened(tmp_path) as log:
        assert [e.index for e in log.read()] == list(range(1, count + 1))


@pytest.mark.parametrize("others", [3, 4])
def test_no_log_waits_for_a_thread_that_makes_a_segment(others: int, tmp_path: Path) -> None:
    """Of four threads one at most makes segments, and only while another one is free."""
    disk = RecordingDisk()
    busy = [opened(tmp_path / f"busy{i}", disk) for i in range(3)]
    for log in busy:
        fill(log, 0.9)
        roll(log)
    disk.hold("unlink")
    for log in busy:
        fill(log, 0.3)
    eventually(lambda: disk.waiting == 1)
    served = [Log.open(tmp_path / f"served{i}", create=True) for i in range(others)]
    for log in served:
        log.append(b"left to the pool")
    eventually(lambda: all(log.durable.index == 1 for log in served))
    assert disk.waiting == 1
    disk.release()
    for log in (*busy, *served):
        log.close()


# -- failures ----------------------------------------------------------------------------------------------------------
def kinds_of_making(durability: str, tmp_path: Path) -> list[str]:
    disk = RecordingDisk()
    with opened(tmp_path / "trial", disk, durability=durability) as log:
        mark = len(disk)
        assert log._writer.prepare()
        return [kind for kind, _ in calls_since(disk, mark)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_any_call_of_making_may_fail(durability: str, number: int, tmp_path: Path) -> None:
    kinds = kinds_of_making(durability, tmp_path)
    assert set(kinds) >= {"unlink", "open", "write", "allocate"}
    for number_of_call, kind in enumerate(kinds):
        attempt = kinds[:number_of_call + 1].count(kind)
        disk = RecordingDisk()
        folder = tmp_path / f"{kind}-{attempt}"
        with opened(folder, disk, durability=durability) as log:
            log.append(b"before").wait()
            disk.fail(kind, attempt, number, partial=7)
            made = log._writer.prepare()
            # Without an old one to remove, or without space set aside, it is as good.
            assert made == (kind == "unlink" or (kind == "allocate" and number == errno.EIO))
            assert (folder / AHEAD).exists() == made
            roll(log)
            assert log.stats()["segments_made_ahead"] == made
            assert not log.stats()["poisoned"]
            count = log.last.index
        with opened(folder) as log:
            assert log.last.index == count


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=lambda n: errno.errorcode[n])
def test_a_roll_that_cannot_name_it_makes_its_own_segment(number: int, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk) as log:
        assert log._writer.prepare()
        disk.fail("rename", 1, number)
        log.append(b"first").wait()
        assert log.stats()["segments_made_ahead"] == 0
        assert not (tmp_path / AHEAD).exists()
        assert [bytes(e) for e in log.read()] == [b"first"]


def test_a_folder_that_cannot_be_synced_after_the_naming_poisons_the_log(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = opened(tmp_path, disk)
    assert log._writer.prepare()
    disk.fail("sync_dir", 1, errno.EIO)
    with pytest.raises(LogPoisoned):
        log.append(b"first").wait()
    with pytest.raises(LogPoisoned):
        log.close()
    with opened(tmp_path) as log:
        assert log.last.index == 0


def test_a_full_disk_gets_the_space_of_the_segment_made_ahead(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with opened(tmp_path, disk) as log:
        make_ahead(log, "caller")
        disk.fail("write", 1, errno.ENOSPC)
        with pytest.raises(NoSpace):
            log.append(b"refused").wait()
        assert not (tmp_path / AHEAD).exists()
        log.append(b"goes on").wait()


# -- who ends it -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["close", "del", "truncate", "poison"])
def test_a_log_that_ends_leaves_no_segment_made_ahead(end: str, tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = opened(tmp_path, disk)
    log.append_many([b"1", b"2", b"3"]).wait()
    assert log._writer.prepare()
    assert (tmp_path / AHEAD).exists()
    if end == "close":
        log.close()
    elif end == "del":
        del log
        gc.collect()
    elif end == "truncate":
        log.truncate_after(1)
        assert not is_ahead(log)
    else:
        disk.fail("sync", 1, errno.EIO)
        with pytest.raises(LogPoisoned):
            log.append(b"unknown").wait()
        assert not log._writer.prepare()
    assert not (tmp_path / AHEAD).exists()


@pytest.mark.parametrize("call", ["open", "write", "allocate", "sync"])
def test_closing_waits_for_a_segment_in_the_making(call: str, tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = opened(tmp_path, disk)
    log.append(b"kept").wait()
    disk.hold(call)
    made: list[bool] = []
    maker = threading.Thread(target=lambda: made.append(log._writer.prepare()))
    maker.start()
    eventually(lambda: disk.waiting == 1)
    closer = threading.Thread(target=log.close)
    closer.start()
    eventually(lambda: _refuses(log))
    assert closer.is_alive()
    disk.release()
    closer.join(DEADLINE_S)
    maker.join(DEADLINE_S)
    assert len(made) == 1           # who was faster does not matter
    assert not (tmp_path / AHEAD).exists()
    calls = calls_since(disk, 0)
    assert calls.count(("open", AHEAD)) == 1
    with opened(tmp_path) as again:
        assert [bytes(e) for e in again.read()] == [b"kept"]


def _refuses(log: Log) -> bool:
    try:
        log.append(b"late")
    except LogClosed:
        return True
    return False


def test_what_a_crash_left_of_one_is_removed_at_opening(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append(b"kept").wait()
    (tmp_path / AHEAD).write_bytes(bytes(100_000))
    with opened(tmp_path) as log:
        assert not (tmp_path / AHEAD).exists()
        assert [bytes(e) for e in log.read()] == [b"kept"]


def test_the_child_of_a_fork_leaves_it_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append(b"before").wait()
        assert log._writer.prepare()
        child = os.fork()
        if child == 0:
            try:
                log._writer.prepare()
            except LogClosed:
                log.close()
                del log
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (tmp_path / AHEAD).exists() and is_ahead(log)
        roll(log)
        assert log.stats()["segments_made_ahead"] == 1


# -- rest --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def resting(tmp_path: Path) -> Iterator[Callable[[RecordingDisk], LogWriter]]:
    """Makes writers that count as idle at once."""
    from kudu_storage.wal.log import _header_parts, _header_schema, _opaque_schema

    made: list[LogWriter] = []

    def make(disk: RecordingDisk) -> LogWriter:
        before, after = _header_parts(b"a" * 32, 1, _header_schema(_opaque_schema(), 0))
        made.append(LogWriter(str(tmp_path), header_before=before, header_after=after, segment_bytes=SEGMENT_BYTES,
                              idle_s=0.0, disk=disk))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def held_bytes(path: Path) -> int:
    """What the log's segments take, also one that is being made."""
    total = 0
    for file in path.iterdir():
        if not file.name.startswith("index."):
            with contextlib.suppress(FileNotFoundError):        # it went meanwhile
                total += file.stat().st_size
    return total


def test_an_idle_log_holds_at_most_64_kib(resting: Callable[[RecordingDisk], LogWriter], tmp_path: Path) -> None:
    writer = resting(RecordingDisk())
    for _ in range(5):
        for _ in range(9):
            writer.append_many([os.urandom(16 * KIB)]).wait()       # more than half a segment: busy
        written = writer.state["bytes_written"] + 9 * 100
        writer.prepare()
        eventually(lambda: not (tmp_path / AHEAD).exists())
        eventually(lambda: held_bytes(tmp_path) <= written + 64 * KIB)      # noqa: B023
        writer.append_many([b"little"]).wait()
        eventually(lambda: held_bytes(tmp_path) <= written + 64 * KIB)      # noqa: B023
    writer.close()
    assert verify(tmp_path).problems == ()


def test_a_log_that_rests_may_fail_to_give_its_space_back(resting: Callable[[RecordingDisk], LogWriter],
                                                          tmp_path: Path) -> None:
    disk = RecordingDisk()
    disk.fail("truncate", 1, errno.EIO, onwards=True)
    writer = resting(disk)
    for _ in range(9):
        writer.append_many([os.urandom(16 * KIB)]).wait()
    eventually(lambda: disk.attempts("truncate") > 0)
    writer.append_many([b"goes on"]).wait()
    assert not writer.state["poisoned"]
    disk.fail("truncate", 0, 0)
