"""A crash behind every file call of scripted runs: what was acknowledged is there, and only what was appended."""
from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crash_disk import CrashedFolder, Fate, each_state, fates
from log_history import LogScript, Moment, check_reopens, scripted

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import CorruptionError

if TYPE_CHECKING:
    from conftest import Counts


def busy_run(script: LogScript) -> None:
    """Waits, groups, segments that roll, some made ahead, COMMITs, collection, truncation inside a batch, reopening."""
    script.prepare()
    for size in (1, 100, 3000, 20, 600):
        script.append(size)
    script.commit(2)
    tokens = [script.append(*sizes, wait=False) for sizes in ((700,) * 4, (9,), (5000, 1, 1))]
    for token in tokens:
        script.wait(token)
    for number in range(5):
        script.append(4000, 30)
        if number != 2:
            script.prepare()
    script.commit(15)
    script.append(2500)
    script.prepare()
    script.reopen()
    assert script.gc() > 0
    script.append(300, 300, 300, 300, 300)
    script.append(50)
    script.truncate_after(script.log.last.index - 3)            # inside the batch of five
    script.append(200)
    script.append(6000, wait=False)
    script.wait(script.append(6000, wait=False))
    script.prepare()
    script.append(9000)


def cutting_run(script: LogScript) -> None:
    """Truncations over several segments, to the beginning, and of nothing."""
    for _ in range(6):
        script.append(5000, 700, 4000)
    script.prepare()
    script.truncate_after(18)
    script.prepare()
    script.truncate_after(8)
    script.prepare()
    script.append(10, 8000, 20)
    script.append(9000)
    script.reopen()
    script.truncate_after(10)
    script.append(40)
    script.truncate_after(0)
    script.append(3000, 3000)
    script.append(30)


def full_run(script: LogScript) -> None:
    """The disk is full now and then: while writing, allocating, closing a segment, making the next one, also ahead."""
    script.append(3000, 20)
    for partial in (0, 10, 2000, 3500):
        script.refused("write", partial, 1500, 700, 700)
        script.append(40, 400)
    script.append(9000)
    # Two of these never fit into one segment.
    script.refused("write", 5, 9000)                         # the footer
    script.cannot_prepare("allocate")
    script.append(9000)
    script.prepare()
    script.refused("write", 5, 9000)                         # the footer: the segment made ahead goes
    script.prepare()
    script.append(9000)
    script.refused("rename", 0, 9000, 10)
    script.append(50)
    script.append(9000)
    script.refused("allocate", 0, 9000, 10)
    script.append(100, 9000)


RUNS = {"busy": busy_run, "cutting": cutting_run, "full": full_run}


def crash_everywhere(script: LogScript, counts: Counts, states_per_call: int, start: dict[str, bytes] | None = None,
                     *, may_refuse: bool = False, **reopen: Any) -> None:
    """Every crash point, several fates each. The same folder with the same promises is opened once.

    may_refuse: when not all that was written is there, the log may also be refused as damaged.
    """
    seen: set[tuple[bytes, Moment]] = set()
    calls = script.disk.calls()
    for made in range(len(calls) + 1):
        moment = script.at(made)

        def check(path: Path, digest: bytes, fate: Fate, moment: Moment = moment, made: int = made) -> None:
            all_kept = fate.data == "kept" and fate.names == "new"
            promise = moment.after_kill() if all_kept else moment
            if may_refuse and not all_kept:
                # Without syncs the names of the first segments can be gone, which looks like a collection.
                promise = replace(promise, first=len(promise.entries) + 1)
            counts.tried += 1
            counts.states.add(digest)
            if (digest, replace(promise, calls=0)) in seen:
                return
            seen.add((digest, replace(promise, calls=0)))
            try:
                check_reopens(path, promise, **reopen)
            except CorruptionError as error:
                if all_kept or not may_refuse:
                    error.add_note(describe(made, fate))
                    raise
            except BaseException as error:
                error.add_note(describe(made, fate))
                raise

        def describe(made: int, fate: Fate) -> str:
            return f"crash behind call {made} ({calls[made - 1][:6] if made else 'none'}), {fate}"

        each_state(CrashedFolder(script.path, calls[:made], start), fates(made, states_per_call), check)


@pytest.mark.parametrize("codec", ["none", "lz4", "zlib"])
@pytest.mark.parametrize("run", list(RUNS))
def test_fsync_loses_nothing_acknowledged_at_any_call(run: str, codec: str, tmp_path: Path, counts: Counts) -> None:
    options: dict[str, Any] = {"segment_size": "16KiB", "compression": codec}
    with scripted(tmp_path / "log", **options) as script:
        RUNS[run](script)
    crash_everywhere(script, counts, 16, **options)
    counts.runs.add(f"{run} {codec}")


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("run", list(RUNS))
def test_interval_loses_nothing_that_was_said_to_be_durable(run: str, codec: str, tmp_path: Path,
                                                            counts: Counts) -> None:
    options: dict[str, Any] = {"segment_size": "16KiB", "compression": codec, "durability": "interval:10s"}
    with scripted(tmp_path / "log", **options) as script:
        RUNS[run](script)
    crash_everywhere(script, counts, 16, **options)


@pytest.mark.parametrize("run", list(RUNS))
def test_os_loses_nothing_when_the_process_dies_and_makes_nothing_up_when_the_machine_does(
        run: str, tmp_path: Path, counts: Counts) -> None:
    options: dict[str, Any] = {"segment_size": "16KiB", "compression": "lz4", "durability": "os"}
    with scripted(tmp_path / "log", **options) as script:
        RUNS[run](script)
    crash_everywhere(script, counts, 8, may_refuse=True, **options)


def test_opening_syncs_what_a_log_without_syncs_left(tmp_path: Path, counts: Counts) -> None:
    options: dict[str, Any] = {"segment_size": "16KiB", "compression": "none", "durability": "os"}
    with scripted(tmp_path / "log", **options) as script:
        for _ in range(6):
            script.append(5000, 700)
        script.reopen(durability="fsync")
        opened = len(script.disk)
        script.append(20)
    calls = script.disk.calls()
    for made in range(opened, len(calls) + 1):
        moment = script.at(made)
        each_state(CrashedFolder(script.path, calls[:made]), fates(made, 8),
                   lambda path, digest, fate, moment=moment: check_reopens(path, moment))  # type: ignore[misc]
        counts.tried += 12


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_while_a_crash_is_recovered_from_loses_nothing(seed: int, tmp_path: Path, counts: Counts) -> None:
    options: dict[str, Any] = {"segment_size": "16KiB", "compression": "none"}
    with scripted(tmp_path / "log", **options) as script:
        busy_run(script)
    calls = script.disk.calls()
    rng = random.Random(seed)
    for _ in range(10):
        made = rng.randrange(len(calls) + 1)
        moment = script.at(made)
        (fate,) = itertools.islice(fates(rng.randrange(1 << 30), 8), 4 + rng.randrange(8), None, 100)

        def check(path: Path, digest: bytes, fate: Fate, moment: Moment = moment) -> None:
            crash_again(path, moment, counts, options)

        each_state(CrashedFolder(script.path, calls[:made]), iter([fate]), check)


def crash_again(path: Path, moment: Moment, counts: Counts, options: dict[str, Any]) -> None:
    """Open what a crash left, append a little, and crash behind each call of that."""
    start = {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith("index.")}
    again = LogScript(path, RecordingDisk(), moment, **options)
    again.append(700, 20)
    again.append(5000)
    again.close()
    crash_everywhere(again, counts, 4, start, **options)


def test_a_thousand_states_were_tried(counts: Counts) -> None:
    wanted = {f"{run} {codec}" for run, codec in itertools.product(RUNS, ("none", "lz4", "zlib"))}
    if not wanted <= counts.runs:
        pytest.skip("not all of the scripted runs were selected")
    assert len(counts.states) >= 1000
