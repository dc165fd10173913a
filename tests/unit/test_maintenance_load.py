"""An hour of random load on a tablet that is only numbers: what the policy decides keeps everything bounded."""
from __future__ import annotations

import threading

import pytest
from maintained import MIB
from tablet_load import SEGMENT_BYTES, LoadedTablet

from kudu_storage.tablet.compaction_policy import CompactionPolicy
from kudu_storage.tablet.maintenance_policy import Policy
from kudu_storage.tablet.scheduler import Scheduler
from kudu_storage.tablet.scoring import MaintenancePolicy

HOUR_S = 3600
BUDGET_BYTES = 64 * MIB
POLICY = Policy(MaintenancePolicy(log_bytes_max=96 * MIB, flush_bytes=16 * MIB),
                CompactionPolicy(budget_bytes=64 * MIB, target_rowset_bytes=8 * MIB, unit_bytes=4 * MIB))


class LoadClock:
    def __init__(self, tablet: LoadedTablet) -> None:
        self._tablet = tablet

    def now(self) -> float:
        return self._tablet.time

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        raise AssertionError("no thread of the scheduler's runs here")


def drive(tablet: LoadedTablet, seconds: float, *, maintain: bool = True) -> None:
    scheduler = Scheduler(POLICY, memory_budget_bytes=BUDGET_BYTES, clock=LoadClock(tablet), dice=tablet.random.random)
    scheduler._start_threads = lambda: None  # type: ignore[method-assign]
    scheduler.register(tablet)
    end = tablet.time + seconds
    while tablet.time < end:
        if not maintain or scheduler.run_one() is None:
            tablet.tick()
    assert scheduler.stats()["failures"] == []


def loaded(seed: int) -> LoadedTablet:
    return LoadedTablet(seed, POLICY, disk_bytes_a_second=20 * MIB, history_s=600, budget_bytes=BUDGET_BYTES)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_memory_log_overlap_and_delta_files_stay_bounded(seed: int) -> None:
    tablet = loaded(seed)
    drive(tablet, HOUR_S)
    peaks = tablet.peaks
    print(f"seed {seed}: {peaks} {tablet.ran}")
    assert peaks.rowset_count >= 10                                  # there was something to do
    assert peaks.memory_bytes <= 0.8 * BUDGET_BYTES
    assert peaks.log_bytes <= POLICY.maintenance.log_bytes_max + 4 * SEGMENT_BYTES
    assert peaks.height <= 4
    assert peaks.redo_files <= 20
    assert peaks.anchor_age_s <= 400
    assert {"flush_memrowset", "flush_deltas", "merge", "major_delta", "undo_gc", "log_gc"} <= set(tablet.ran)


def test_without_maintenance_nothing_stays_bounded() -> None:
    """So the bounds above are none that the load itself keeps."""
    tablet = loaded(0)
    drive(tablet, HOUR_S, maintain=False)
    assert tablet.peaks.memory_bytes >= BUDGET_BYTES
    assert tablet.peaks.anchor_age_s > 3000


@pytest.mark.parametrize("seed", range(2))
def test_once_the_load_ends_everything_is_flushed_and_the_log_is_let_go(seed: int) -> None:
    tablet = loaded(100 + seed)
    drive(tablet, 900)
    tablet.quiet = True
    drive(tablet, 1500)
    at = tablet.now_at()
    assert (at.memory_bytes, at.anchor_age_s) == (0, 0.0)
    assert at.log_bytes <= SEGMENT_BYTES                             # the one being written
    assert at.height <= 2
    assert all(not rowset.undos and len(rowset.redos) <= 1 for rowset in tablet.rowsets.values())
