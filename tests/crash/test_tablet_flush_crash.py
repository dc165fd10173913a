"""A power cut behind every file call of flushes and compactions through a tablet with its log, writers going on: what a
session's flush returned for is there, once, and the tablet goes on. And steps whose file calls fail.

KUDU_STORAGE_CRASH_STEP=1 cuts behind every call (minutes); by default it is every seventh, beginning at the first.
"""
from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crash_disk import CrashedFolder, Fate, each_state, fates
from tablet_model import Model, check_rows, model_schema, random_operation, write_batch

from kudu_storage import Tablet
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import DirectoryFailed, KuduStorageError, LogPoisoned, TabletFailed
from kudu_storage.fs.file_system import check_file_system
from kudu_storage.fs.roots import server_roots

if TYPE_CHECKING:
    from conftest import Counts

CRASH_STEP = int(os.environ.get("KUDU_STORAGE_CRASH_STEP", "7"))
OPTIONS: dict[str, Any] = {"segment_size": "16KiB", "compression": "none", "rowset_size": 1500, "maintenance": "manual"}
Rows = list[tuple[Any, ...]]


def rowset_ids(tablet: Tablet) -> list[int]:
    return [rowset["id"] for rowset in tablet.stats()["layout"]]


def minor(tablet: Tablet) -> None:
    for rowset_id in rowset_ids(tablet):
        tablet.maintenance.compact_redos(rowset_id)


def major(tablet: Tablet) -> None:
    for rowset_id in rowset_ids(tablet)[:1]:
        tablet.maintenance.compact_columns(rowset_id, [2, 3])


STEPS: dict[str, Callable[[Tablet], object]] = {
    "flush": lambda tablet: tablet.maintenance.flush_memory(),
    "deltas": lambda tablet: [tablet.maintenance.flush_deltas(rowset_id) for rowset_id in rowset_ids(tablet)],
    "minor": minor, "major": major,
    "merge": lambda tablet: tablet.maintenance.merge(rowset_ids(tablet)),
    "gc": lambda tablet: tablet.log.gc(),
}


class Life:
    """A tablet's life on a recording disk: after which call which rows were promised."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.disk = RecordingDisk()
        self.rng = random.Random(seed)
        self.model = Model()
        self.promises: list[tuple[int, Rows | None]] = [(0, None)]      # None: not created yet
        root.mkdir()
        self.tablet = Tablet.create(root, model_schema(), disk=self.disk, **OPTIONS)
        self.promise()
        self.first_call = len(self.disk)
        self.keep_writing()

    def keep_writing(self) -> None:
        """Writers go on while a step runs."""
        store = self.tablet._store
        swap, sync_log = store.swap, store.sync_log

        def swap_and_write(make: Any) -> Any:
            self.write()
            found = swap(make)
            self.write()
            return found

        def sync_and_write() -> None:
            self.write()
            sync_log()
            self.write()

        store.swap = swap_and_write             # type: ignore[method-assign]
        store.sync_log = sync_and_write         # type: ignore[method-assign]

    def promise(self) -> None:
        self.promises.append((len(self.disk), self.model.sorted()))

    def write(self) -> None:
        write_batch(self.tablet, self.model, [random_operation(self.rng) for _ in range(self.rng.randrange(1, 8))])
        self.promise()

    def run(self, script: str) -> None:
        for step in script.split():
            if step == "write":
                self.write()
            elif step == "reopen":
                self.tablet.close()
                self.tablet = Tablet.open(self.root, disk=self.disk, **OPTIONS)
                self.keep_writing()
            else:
                STEPS[step](self.tablet)
        self.tablet.close()

    def allowed(self, calls: int) -> list[Rows]:
        """What was promised last, and what was under way."""
        last = max(i for i, (made, _) in enumerate(self.promises) if made <= calls)
        return [rows or [] for _, rows in self.promises[last:last + 2]]


SCRIPTS = {
    "flushes": "write write flush write deltas gc write flush write reopen write flush gc",
    "compactions": "write flush write flush write deltas write deltas minor major write merge gc write reopen write "
                   "merge",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_was_flushed_survives_a_power_cut_during_flushes_and_compactions(script: str, tmp_path: Path,
                                                                              counts: Counts) -> None:
    life = Life(tmp_path / "t", 1)
    life.run(SCRIPTS[script])
    calls = life.disk.calls()
    seen: set[tuple[bytes, int]] = set()
    for made in range(life.first_call, len(calls) + 1, CRASH_STEP):
        allowed = life.allowed(made)

        def check(path: Path, digest: bytes, fate: Fate, made: int = made, allowed: list[Rows] = allowed) -> None:
            counts.tried += 1
            counts.states.add(digest)
            key = digest, hash(repr(allowed))
            if key in seen:
                return
            seen.add(key)
            try:
                check_opens(path, allowed)
            except BaseException as error:
                error.add_note(f"power cut behind call {made} ({calls[made - 1][:6]}), {fate}")
                raise

        each_state(CrashedFolder(life.root, calls[:made]), fates(made, 2), check)


def check_opens(path: Path, allowed: list[Rows]) -> None:
    with Tablet.open(path, **OPTIONS) as tablet:
        rows = tablet.scanner().ordered().open().read_all_tuples()
        assert rows in allowed
        session = tablet.new_session()
        session.apply(session.new_upsert({"a": "after", "b": 1}))
        session.flush()
        tablet.flush()
    after = sorted([*rows, ("after", 1, None, 9, None)], key=lambda row: (row[0].encode(), row[1]))
    with Tablet.open(path, **OPTIONS) as tablet:
        assert tablet.scanner().ordered().open().read_all_tuples() == after
    report = check_file_system(server_roots(path))
    assert not report.missing and not report.orphaned and not report.has_fatal_errors


@pytest.mark.parametrize("step", ["flush", "deltas", "merge"])
def test_no_superblock_names_a_store_as_flushed_before_its_last_commit_is_durable(step: str, tmp_path: Path,
                                                                                  counts: Counts) -> None:
    """Nobody writes meanwhile, so nothing but the flush itself has the last COMMIT synced. An operation without COMMIT
    would be committed when the tablet is opened, in a term of its own."""
    disk = RecordingDisk()
    rng, model = random.Random(step), Model()
    root = tmp_path / "t"
    root.mkdir()
    tablet = Tablet.create(root, model_schema(), disk=disk, **OPTIONS)
    for name in ("flush", "flush"):
        write_batch(tablet, model, [random_operation(rng) for _ in range(30)])
        STEPS[name](tablet)
    write_batch(tablet, model, [random_operation(rng) for _ in range(30)])
    before = Path(tablet.maintenance._metadata.path).read_bytes()
    first_call = len(disk)
    STEPS[step](tablet)
    calls = disk.calls()
    name = Path(tablet.maintenance._metadata.path).relative_to(root)
    tablet.close()
    seen: set[bytes] = set()
    judged = 0

    def check(path: Path, digest: bytes, fate: Fate) -> None:
        nonlocal judged
        if digest in seen or (path / name).read_bytes() == before:
            return
        seen.add(digest)
        counts.states.add(digest)
        judged += 1
        with Tablet.open(path, **OPTIONS) as opened:
            assert opened.stats()["term"] == 0, fate

    renamed = max(i for i in range(first_call, len(calls)) if calls[i][0] == "rename")      # the new superblock's
    for made in (renamed + 1, renamed + 2):
        each_state(CrashedFolder(root, calls[:made]), fates(made, 4), check)
    assert judged


# -- faults ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", ["flush", "deltas", "minor", "major", "merge"])
def test_a_step_without_space_leaves_the_tablet_as_it_was_and_the_next_one_works(step: str, tmp_path: Path,
                                                                                 counts: Counts) -> None:
    for call in ("write", "sync", "rename", "open", "sync_dir"):
        attempt = 0
        while fails_once(step, call, attempt := attempt + 1, tmp_path / f"{call}{attempt}", counts):
            shutil.rmtree(tmp_path / f"{call}{attempt}")


def fails_once(step: str, call: str, attempt: int, folder: Path, counts: Counts) -> bool:
    """The attempt-th call of a kind within a step fails, while writers rest. False: there are not as many."""
    disk = RecordingDisk()
    rng, model = random.Random(step), Model()
    tablet = Tablet.create(folder, model_schema(), disk=disk, **OPTIONS)
    for name in ("flush", "flush", "deltas", "deltas"):
        write_batch(tablet, model, [random_operation(rng) for _ in range(30)])
        STEPS[name](tablet)
    write_batch(tablet, model, [random_operation(rng) for _ in range(30)])
    model.snapshots.append((tablet.now(), dict(model.rows)))
    disk.fail(call, attempt, errno.ENOSPC)
    failed: KuduStorageError | None = None
    try:
        STEPS[step](tablet)
    except KuduStorageError as error:
        failed = error
    finally:
        disk.fail(call, 0, 0)
    allowed = [model]
    try:
        if failed is not None:
            counts.faults += 1
            allowed = goes_on(tablet, model, rng, step)
        return failed is not None or was_refused(disk, call)
    except BaseException as error:
        error.add_note(f"{call} {attempt} of {step} failed: {failed!r}")
        raise
    finally:
        try:
            tablet.close()
        except KuduStorageError:        # the log's own call failed: a COMMIT that nobody waited for
            assert failed is not None or was_refused(disk, call)
        with Tablet.open(folder, **OPTIONS) as reopened:
            rows = reopened.scanner().ordered().open().read_all_tuples()
            [found] = [one for one in allowed if one.sorted() == rows]
            check_rows(reopened, found)


def was_refused(disk: RecordingDisk, call: str) -> bool:
    """A call failed that could be done without, such as the deletion of what was replaced."""
    return any(kind == call and status == -errno.ENOSPC for kind, _, status, *_ in disk.calls())


def goes_on(tablet: Tablet, model: Model, rng: random.Random, step: str) -> list[Model]:
    """The tablet after the failure; what it may hold when it is opened again."""
    batch = [random_operation(rng) for _ in range(20)]
    after = model.copy()
    after.snapshots = model.snapshots
    try:
        check_rows(tablet, model)
        write_batch(tablet, after, batch)
    except (TabletFailed, DirectoryFailed):
        return [model]      # nobody knows which superblock is on disk; or the only data directory is out of use
    except LogPoisoned:
        return [model, after]
    check_rows(tablet, after)
    STEPS[step](tablet)
    tablet.flush()
    check_rows(tablet, after)
    return [after]
