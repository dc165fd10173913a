"""A power cut behind every file call of flushes, compactions and superblock replaces: the old state or the new one.

Also calls that fail: a flush or compaction for which there is no space leaves all as it was, and the next one works.
"""
from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import delta_rows
import delta_twin as twin
import pytest
from block_store import TINY
from crash_disk import CrashedFolder, Fate, each_state, fates
from mini_tablet import DATA_UUID, MiniTablet, Rows, expected_rows, random_write, read_rowset

from kudu_storage._native.disk import Disk, RecordingDisk
from kudu_storage.errors import DirectoryFailed, KuduStorageError
from kudu_storage.fs.block_references import live_references
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.blocks.directories import create_directories
from kudu_storage.tablet.compaction import RowSetFiles
from kudu_storage.tablet.metadata import SuperblockChange, TabletMetadata

if TYPE_CHECKING:
    from conftest import Counts

SCHEMA = delta_rows.SCHEMA
# What a step does once its writes are done; each is a superblock replace or more.
STEPS: dict[str, Callable[[MiniTablet], object]] = {
    "flush": lambda tablet: tablet.flush(),
    "deltas": lambda tablet: tablet.flush_deltas(tablet.rowset_ids[0]),
    "minor": lambda tablet: tablet.minor(tablet.rowset_ids[0], 0, 2),
    "major": lambda tablet: tablet.major(tablet.rowset_ids[0], [1, 2]),
    "merge": lambda tablet: tablet.merge(tablet.rowset_ids),
    "orphans": lambda tablet: tablet.metadata.delete_orphans(),
    "replace": lambda tablet: tablet.metadata.commit(SuperblockChange()),
}
SCRIPT = ["flush", "flush", "deltas", "deltas", "minor", "orphans", "deltas", "major", "orphans", "replace", "merge",
          "orphans", "replace", "flush", "merge", "orphans"]


def prepared(tmp_path: Path, disk: Disk, kind: str = "log") -> MiniTablet:
    root = tmp_path / "root"
    root.mkdir()
    create_directories([root], [DATA_UUID], kind, Disk())
    (root / "tablet-meta").mkdir()
    return MiniTablet(root, disk=disk, options=TINY, laid_out=True, target_bytes=3000)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


State = list[list[tuple[int, bool, twin.Cells]]]


def on_disk(message: Any, blocks: BlockManager, times: list[int]) -> State:
    """All rows that a superblock and its blocks have at some times, without memory: (rowset, live, cells)."""
    rowsets = [RowSetFiles(blocks, rowset) for rowset in message.rowsets]
    return [[(files.id, state.live, state.cells) for files in rowsets
             for state in read_rowset(files, SCHEMA, twin.before(at))] for at in times]


def writes(tablet: MiniTablet, rng: random.Random) -> None:
    for _ in range(30):
        random_write(tablet, rng, 25)


@pytest.mark.parametrize("kind", ["log", "file"])
def test_a_power_cut_leaves_the_old_state_or_the_new_one(kind: str, tmp_path: Path, counts: Counts) -> None:
    disk = RecordingDisk()
    tablet = prepared(tmp_path, disk, kind)
    rng = random.Random(kind)
    start = {name: data for name, data in files_below(tablet.folder).items()
             if name == "data/block_manager_instance"}
    start["tablet-meta/.keep"] = b""
    first_call = len(disk)
    times = [tablet.now + step for step in (1, 40, 95, 200, 400)]
    # (calls before, the superblock after it, its rows)
    states: list[tuple[int, State]] = [(first_call, on_disk(tablet.metadata.message, tablet.blocks, times))]
    for step in SCRIPT:
        writes(tablet, rng)
        STEPS[step](tablet)
        states.append((len(disk), on_disk(tablet.metadata.message, tablet.blocks, times)))
    tablet.close()
    calls = disk.calls()
    seen: set[tuple[bytes, int]] = set()
    for made in range(first_call, len(calls) + 1):
        done = max(i for i, (count, _) in enumerate(states) if count <= made)
        allowed = [state for _, state in states[done:done + 2]]

        def check(path: Path, digest: bytes, fate: Fate, made: int = made, done: int = done,
                  allowed: list[State] = allowed) -> None:
            counts.tried += 1
            counts.states.add(digest)
            if (digest, done) in seen:
                return
            seen.add((digest, done))
            try:
                judge(path, times, allowed)
            except BaseException as error:
                error.add_note(f"power cut behind call {made} ({calls[made - 1][:6]}), {fate}, state {done}")
                raise

        each_state(CrashedFolder(tablet.folder, calls[:made], start), fates(made, 4), check)


def judge(path: Path, times: list[int], allowed: list[State]) -> None:
    """The reopened tablet shows one of the allowed states, and a flush and a merge go on from it."""
    blocks = open_block_manager([path], options=TINY)
    try:
        metadata = TabletMetadata.open(MiniTablet.superblock_path(path), blocks)
        metadata.check()
        named = {reference.block_id for reference in live_references(metadata.message)}
        assert named <= blocks.live_blocks().keys(), "the superblock names blocks that are not there"
        assert on_disk(metadata.message, blocks, times) in allowed, "neither the old state nor the new one"
        metadata.delete_orphans()
        metadata.commit(SuperblockChange())
        assert named <= blocks.live_blocks().keys()
    finally:
        blocks.close()


# -- calls that fail ---------------------------------------------------------------------------------------------------
def ready_for(step: str, tablet: MiniTablet, rng: random.Random) -> None:
    """Everything that a step needs, and something to do for it."""
    for _ in range(2):
        writes(tablet, rng)
        tablet.flush()
        for _ in range(2):
            writes(tablet, rng)
            for rowset_id in tablet.rowset_ids:
                tablet.flush_deltas(rowset_id)
    writes(tablet, rng)


@pytest.mark.parametrize("step", ["flush", "deltas", "minor", "major", "merge"])
@pytest.mark.parametrize("kind", ["log", "file"])
def test_a_step_without_space_fails_and_leaks_nothing_and_the_next_one_works(step: str, kind: str, tmp_path: Path,
                                                                             counts: Counts) -> None:
    for call in ("write", "sync", "rename", "open", "truncate", "allocate", "sync_dir"):
        attempt = 0
        while True:
            attempt += 1
            folder = tmp_path / f"{call}{attempt}"
            folder.mkdir()
            if not fails_once(step, kind, call, attempt, folder, counts):
                shutil.rmtree(folder)
                break
            shutil.rmtree(folder)


def fails_once(step: str, kind: str, call: str, attempt: int, folder: Path, counts: Counts) -> bool:
    """The attempt-th call of a kind within a step fails. False: there are not as many."""
    disk = RecordingDisk()
    tablet = prepared(folder, disk, kind)
    rng = random.Random(step)
    ready_for(step, tablet, rng)
    tablet.metadata.delete_orphans()
    before, live = tablet.metadata.message, tablet.blocks.live_blocks()
    expected = expected_rows(tablet.histories, lambda _: True)
    mem, mem_id = tablet.mem, tablet.mem_id
    disk.fail(call, attempt, errno.ENOSPC)
    failed: KuduStorageError | None = None
    try:
        STEPS[step](tablet)
    except KuduStorageError as error:
        failed = error
    finally:
        disk.fail(call, 0, 0)
    try:
        if failed is None:
            return was_refused(disk, call)
        counts.faults += 1
        if tablet.metadata.failed is None:
            after_a_failure(tablet, step, before, live, expected, mem, mem_id, failed)
        return True
    except BaseException as error:
        error.add_note(f"{call} {attempt} of {step} on the {kind} store failed: {failed}")
        raise
    finally:
        with contextlib.suppress(KuduStorageError):
            tablet.close()


def was_refused(disk: RecordingDisk, call: str) -> bool:
    """A call failed that could be done without, such as a preallocation."""
    return any(kind == call and status == -errno.ENOSPC for kind, _, status, *_ in disk.calls())


def after_a_failure(tablet: MiniTablet, step: str, before: Any, live: dict[int, int], expected: Rows, mem: Any,
                    mem_id: int, failed: KuduStorageError) -> None:
    assert tablet.metadata.message is before, "the superblock changed"
    if step == "flush":     # C7: inputs go on
        tablet.mem, tablet.mem_id = mem, mem_id
    if isinstance(failed, DirectoryFailed) or not tablet.blocks.live_blocks():
        reopens(tablet, before)     # a sync that failed takes the directory out of use until then
        return
    assert tablet.blocks.live_blocks() == live, "blocks were left behind"
    assert tablet.rows(tablet.now + 1) == expected
    STEPS[step](tablet)
    tablet.verify([tablet.now + 1])
    tablet.verify_counts()


def reopens(tablet: MiniTablet, before: Any) -> None:
    """The directory opened again has all that the old superblock names, and it is the old one."""
    tablet.blocks.close()
    with contextlib.closing(open_block_manager([tablet.folder], options=TINY)) as blocks:
        metadata = TabletMetadata.open(MiniTablet.superblock_path(tablet.folder), blocks)
        assert metadata.message == before
        assert {reference.block_id for reference in live_references(before)} <= blocks.live_blocks().keys()
