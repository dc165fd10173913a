"""A crash behind every file call of scripted runs over a block store: blocks are whole or are not, durable ones are."""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from block_store import BlockScript, data_roots, goes_on, judge
from crash_disk import CrashedFolder, Fate, each_state, fates

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.fs.blocks import open_block_manager

if TYPE_CHECKING:
    from conftest import Counts


def creating_run(script: BlockScript) -> None:
    """Blocks of all sizes, alone and together, in turn and at once, dropped ones between them; reopening."""
    script.create(10)
    script.create(0, 100, 5000, 700)
    script.create(9000, 300, commit=False)
    script.create(4096, 8192, 1, interleaved=True)
    script.create(2000, 3000, commit=False, interleaved=True)
    script.reopen()
    script.create(20_000, 50)
    script.create(700)


def deleting_run(script: BlockScript) -> None:
    """Deletions of some and of all, in full containers too, so that these are rewritten and removed."""
    first = script.create(10, 5000, 700, 12_000)
    script.delete(first[1])
    second = script.create(20_000, 900)
    script.delete(first[0], second[0])
    third = script.create(15_000, 15_000, 15_000)
    script.delete(*third[:2])
    script.reopen()
    fourth = script.create(40, 45_000)
    script.delete(first[2], first[3], second[1])
    script.delete(fourth[1])
    for _ in range(3):
        script.delete(*script.create(10, 20, 30))
    script.reopen()
    script.create(800)


def rewriting_run(script: BlockScript) -> None:
    """Full containers that are rewritten, and appended to afterwards."""
    ids = script.create(*[10] * 14)
    script.delete(*ids[:8])
    script.delete(ids[9])
    script.delete(*ids[10:12])
    script.reopen()
    script.delete(ids[13])
    script.create(100)


def full_run(script: BlockScript) -> None:
    """The disk is full now and then, behind a part of the bytes or of the records: others take the same place."""
    script.create(100)
    for partial in (0, 60, 200):
        script.refused("write", 4, 10, 20, 30, partial=partial)     # the records
        script.create(300, 5)
    script.refused("write", 2, 10, 5000, partial=100)
    script.create(5000)


RUNS = {"creating": creating_run, "deleting": deleting_run, "rewriting": rewriting_run}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def crash_everywhere(script: BlockScript, start: dict[str, bytes], counts: Counts, states_per_call: int,
                     first_call: int = 0) -> None:
    """Every crash point, several fates each; the same state with the same promise is opened once."""
    calls = script.disk.calls()
    seen: set[tuple[bytes, object]] = set()
    for made in range(first_call, len(calls) + 1):
        promise, sizes = script.at(made), script.known_at(made)

        def check(path: Path, digest: bytes, fate: Fate, made: int = made, promise=promise, sizes=sizes) -> None:  # type: ignore[no-untyped-def]
            counts.tried += 1
            counts.states.add(digest)
            key = (digest, (promise.durable, promise.deleting, promise.deleted))
            if key in seen:
                return
            seen.add(key)
            try:
                # The data directory of the state, below a root of its own.
                root = path.with_name(path.name + "-root")
                root.mkdir()
                try:
                    os.symlink(path, root / "data")
                    with open_block_manager([root], read_only=True) as reader:
                        judge(reader, promise, sizes)
                    with open_block_manager([root], options=script.options) as manager:
                        judge(manager, promise, sizes)
                        made_then = goes_on(manager, promise)
                    with open_block_manager([root], options=script.options) as manager:
                        judge(manager, promise, {**sizes, **made_then})
                finally:
                    shutil.rmtree(root)
            except BaseException as error:
                last = calls[made - 1][:6] if made else "none"
                error.add_note(f"crash behind call {made} ({last}), {fate}")
                raise

        each_state(CrashedFolder(script.root / "data", calls[:made], start), fates(made, states_per_call), check)


@pytest.mark.parametrize("kind", ["log", "file"])
@pytest.mark.parametrize("run", ["creating", "deleting", "rewriting"])
def test_blocks_are_whole_or_are_not_after_a_crash_at_any_call(run: str, kind: str, tmp_path: Path,
                                                              counts: Counts) -> None:
    (root,) = data_roots(tmp_path, kind)
    start = files_below(root / "data")
    script = BlockScript(root)
    RUNS[run](script)
    crash_everywhere(script, start, counts, 10)


def test_what_was_refused_for_want_of_space_never_comes_back_with_other_bytes(tmp_path: Path, counts: Counts) -> None:
    (root,) = data_roots(tmp_path)
    start = files_below(root / "data")
    script = BlockScript(root)
    full_run(script)
    crash_everywhere(script, start, counts, 10)


def test_a_crash_while_repairing_loses_nothing(tmp_path: Path, counts: Counts) -> None:
    """The states that a first crash left are opened on a recording disk, and that opening crashes again."""
    (root,) = data_roots(tmp_path)
    start = files_below(root / "data")
    script = BlockScript(root)
    deleting_run(script)
    calls = script.disk.calls()
    for made in range(0, len(calls), 3):
        fate = list(fates(made, 6))[made // 3 % 10]
        state = tmp_path / f"state{made}"
        (state / "data").mkdir(parents=True)
        CrashedFolder(root / "data", calls[:made], start).materialise(fate, state / "data")
        left = files_below(state / "data")
        second = RecordingDisk()
        open_block_manager([state], options=script.options, disk=second).close()
        promise, sizes = script.at(made), script.known_at(made)
        for again in range(len(second) + 1):
            def check(path: Path, digest: bytes, fate: Fate, promise=promise, sizes=sizes) -> None:     # type: ignore[no-untyped-def]
                counts.tried += 1
                counts.states.add(digest)
                root = path.with_name(path.name + "-root")
                root.mkdir()
                try:
                    os.symlink(path, root / "data")
                    with open_block_manager([root], options=script.options) as manager:
                        judge(manager, promise, sizes)
                        goes_on(manager, promise)
                finally:
                    shutil.rmtree(root)
            each_state(CrashedFolder(state / "data", second.calls()[:again], left), fates(made + again, 2), check)
        shutil.rmtree(state)
