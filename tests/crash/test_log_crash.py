"""A crash behind every file call of scripted runs: what was acknowledged is there, and nothing else than what was appended."""
from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crash_disk import CrashedFolder, Fate, each_state, fates
from log_history import LogScript, check_reopens, scripted

from kudu_storage.errors import CorruptionError

if TYPE_CHECKING:
    from conftest import Counts


def busy_run(script: LogScript) -> None:
    """Waits, groups, segments that roll, COMMITs, collection, truncation inside a batch, reopening."""
    for size in (1, 100, 3000, 20, 600):
        script.append(size)
    script.commit(2)
    tokens = [script.append(*sizes, wait=False) for sizes in ((700,) * 4, (9,), (5000, 1, 1))]
    for token in tokens:
        script.wait(token)
    for _ in range(5):
        script.append(4000, 30)
    script.commit(15)
    script.append(2500)
    script.reopen()
    assert script.gc() > 0
    script.append(300, 300, 300, 300, 300)
    script.append(50)
    script.truncate_after(script.log.last.index - 3)            # inside the batch of five
    script.append(200)
    script.append(6000, wait=False)
    script.wait(script.append(6000, wait=False))
    script.append(9000)


def cutting_run(script: LogScript) -> None:
    """Truncations over several segments, to the beginning, and of nothing."""
    for _ in range(6):
        script.append(5000, 700, 4000)
    script.truncate_after(18)
    script.truncate_after(8)
    script.append(10, 8000, 20)
    script.append(9000)
    script.reopen()
    script.truncate_after(10)
    script.append(40)
    script.truncate_after(0)
    script.append(3000, 3000)
    script.append(30)


RUNS = {"busy": busy_run, "cutting": cutting_run}


def crash_everywhere(script: LogScript, counts: Counts, states_per_call: int, start: dict[str, bytes] | None = None,
                     **reopen: Any) -> None:
    """Every crash point, several fates each. The same folder with the same promises is opened once."""
    seen: set[tuple[bytes, int, int]] = set()
    calls = script.disk.calls()
    for made in range(len(calls) + 1):
        moment = script.at(made)

        def check(path: Path, digest: bytes, fate: Fate, moment=moment, made=made) -> None:
            counts.tried += 1
            counts.states.add(digest)
            if (digest, moment.certain, len(moment.entries)) in seen:
                return
            seen.add((digest, moment.certain, len(moment.entries)))
            try:
                check_reopens(path, moment, **reopen)
            except BaseException as error:
                error.add_note(f"crash behind call {made} ({calls[made - 1][:6] if made else 'none'}), {fate}")
                raise

        each_state(CrashedFolder(script.path, calls[:made], start), fates(made, states_per_call), check)


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("run", list(RUNS))
def test_fsync_loses_nothing_acknowledged_at_any_call(run: str, codec: str, tmp_path: Path, counts: Counts) -> None:
    options = {"segment_size": "16KiB", "compression": codec}
    with scripted(tmp_path / "log", **options) as script:
        RUNS[run](script)
    crash_everywhere(script, counts, 16, **options)
    counts.runs.add(f"{run} {codec}")


def test_a_thousand_states_were_tried(counts: Counts) -> None:
    wanted = {f"{run} {codec}" for run, codec in itertools.product(RUNS, ("none", "lz4"))}
    if not wanted <= counts.runs:
        pytest.skip("not all of the scripted runs were selected")
    assert len(counts.states) >= 1000
