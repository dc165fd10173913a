"""What maintenance does next, and why."""
from __future__ import annotations

import pytest

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.scoring import (
    MIB,
    Candidate,
    Decision,
    MaintenancePolicy,
    StoreFacts,
    choose,
    flush_gain,
    store_to_flush,
)

POLICY = MaintenancePolicy()
GC = Candidate("log_gc", "t1", log_bytes=8 * MIB, low_io=True)
YOUNG = Candidate("flush_memrowset", "t1", "memrowset 4", log_bytes=100 * MIB, memory_bytes=900 * MIB, gain=0.5)
OLD = Candidate("flush_deltas", "t2", "store 7/3", log_bytes=2000 * MIB, memory_bytes=MIB, gain=0.1)
MERGE = Candidate("merge", "t1", gain=0.9)
UNDOS = Candidate("undo_gc", "t3", disk_bytes=50 * MIB)


def never() -> float:
    raise AssertionError("no dice were needed")


def chosen(*candidates: Candidate, pressure: bool = False, policy: MaintenancePolicy = POLICY,
           dice: float | None = None) -> Decision | None:
    return choose(candidates, policy, memory_pressure=pressure, dice=never if dice is None else lambda: dice)


def test_nothing_is_done_when_there_is_nothing() -> None:
    assert chosen() is None
    assert chosen(Candidate("merge", "t1"), Candidate("log_gc", "t1", low_io=True)) is None


@pytest.mark.parametrize(("candidates", "pressure", "dice", "winner", "reason"), [
    ((MERGE, OLD, GC, UNDOS), True, None, GC, "log"),
    ((MERGE, YOUNG, OLD, UNDOS), True, None, OLD, "memory"),
    ((MERGE, YOUNG, OLD, UNDOS), False, None, OLD, "replay"),
    ((MERGE, YOUNG, UNDOS), False, 0.4, UNDOS, "disk"),
    ((MERGE, YOUNG, UNDOS), False, 0.6, MERGE, "gain"),
    ((MERGE, YOUNG), False, None, MERGE, "gain"),
    ((UNDOS,), False, None, UNDOS, "disk"),
])
def test_the_order_of_reasons(candidates: tuple[Candidate, ...], pressure: bool, dice: float | None, winner: Candidate,
                              reason: str) -> None:
    decision = chosen(*candidates, pressure=pressure, dice=dice)
    assert decision is not None
    assert (decision.candidate, decision.reason) == (winner, reason)


def test_an_old_store_is_flushed_however_small_it_is() -> None:
    """It holds the log: age wins over size, also when memory is short."""
    decision = chosen(YOUNG, OLD, pressure=True)
    assert decision is not None and decision.candidate is OLD
    assert "memory is short" in decision.text
    decision = chosen(YOUNG, OLD)
    assert decision is not None and "store 7/3" in decision.text


def test_memory_that_nothing_frees_does_not_hide_other_work() -> None:
    decision = chosen(MERGE, pressure=True)
    assert decision is not None and decision.candidate is MERGE


def test_a_store_gains_with_age_and_size() -> None:
    assert flush_gain(5 * MIB, 60, POLICY) == 0
    assert flush_gain(5 * MIB, 180, POLICY) == pytest.approx(180 / 3600)
    assert flush_gain(512 * MIB, 180, POLICY) == 0.5
    assert flush_gain(5 * MIB, 99_999, POLICY) == 1
    assert flush_gain(1024 * MIB, 1, POLICY) == 1
    assert flush_gain(1088 * MIB, 1, POLICY) == 64


def test_of_delta_stores_the_one_with_most_log_goes_until_memory_is_full() -> None:
    large, old, empty = StoreFacts("a", 100, 5, 1), StoreFacts("b", 10, 90, 9), StoreFacts("c", 0, 999, 9)
    assert store_to_flush([large, old, empty], 0.0) is old
    assert store_to_flush([large, old, empty], 0.9) is large
    assert store_to_flush([empty], 0.5) is None


@pytest.mark.parametrize("wrong", [{"flush_bytes": 0}, {"flush_full_gain_after_s": 0}, {"disk_chance": 1.5}])
def test_policies_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        MaintenancePolicy(**wrong)  # type: ignore[arg-type]


def test_of_stores_that_gain_the_same_the_one_that_holds_most_log_goes() -> None:
    rows = Candidate("flush_memrowset", "t1", "memrowset 4", log_bytes=10, memory_bytes=900, gain=1.0)
    changes = Candidate("flush_deltas", "t1", "store 7/3", log_bytes=20, memory_bytes=1, gain=1.0)
    decision = chosen(rows, changes)
    assert decision is not None and decision.candidate is changes
