"""Which maintenance comes next, from the facts of all tablets: Kudu's answers, case by case."""
from __future__ import annotations

import pytest
from maintained import (
    MIB,
    TABLET,
    changes_in_memory,
    delta_file,
    deltas,
    rows_in_memory,
    rowset,
    tablet,
)

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.maintenance_facts import LogFacts, MemoryFacts, TabletFacts, bytes_from
from kudu_storage.tablet.maintenance_policy import (
    Action,
    Policy,
    Withheld,
    next_action,
    possible_actions,
    withheld_while_running,
)

PLENTY = MemoryFacts(0, 1000 * MIB)
SHORT = MemoryFacts(900 * MIB, 1000 * MIB)
OTHER = "f" * 32
GC = LogFacts(100 * MIB, 8 * MIB, 1)
OVERLAP = (rowset(1, 0, 1000), rowset(2, 0, 1000))
OLD_UNDO = deltas(5, undos=[delta_file(50, 3 * MIB, 10, 20)])


def never() -> float:
    raise AssertionError("no dice were needed")


def chosen(*tablets: TabletFacts, memory: MemoryFacts = PLENTY, withheld: dict[str, Withheld] | None = None,
           dice: float | None = None, policy: Policy | None = None) -> Action | None:
    found = next_action({facts.tablet_id: facts for facts in tablets}, memory, policy or Policy(),
                        dice=never if dice is None else lambda: dice, withheld=withheld)
    if found is None:
        return None
    assert found[0] == found[1].tablet_id
    return found[1]


def what(action: Action | None) -> tuple[str, str, str] | None:
    return None if action is None else (action.kind, action.target, str(action.reason))


# -- the order ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("facts", "memory", "dice", "expected"), [
    # Nothing is old, large or overlapping.
    ((tablet(rows_in_memory(age_s=119)),), PLENTY, None, None),
    ((tablet(rowsets=[rowset(1, 0, 9), rowset(2, 10, 19)]),), PLENTY, None, None),
    # Log that nobody needs goes first, also when memory is short.
    ((tablet(rows_in_memory(500 * MIB), rowsets=OVERLAP, log=GC),), SHORT, None, ("log_gc", "1 segment", "log")),
    # Memory is short: of all stores the one that holds most log, whatever its size.
    ((tablet(rows_in_memory(500 * MIB, 10 * MIB)), tablet(rows_in_memory(MIB, 20 * MIB, store_id=7), tablet_id=OTHER)),
     SHORT, None, ("flush_memrowset", "memrowset 7", "memory")),
    # Equal in log: the larger one.
    ((tablet(rows_in_memory(5 * MIB, 10 * MIB)), tablet(rows_in_memory(9 * MIB, 10 * MIB, store_id=7),
                                                        tablet_id=OTHER)),
     SHORT, None, ("flush_memrowset", "memrowset 7", "memory")),
    # Memory is short and nothing frees any: other work goes on.
    ((tablet(rowsets=OVERLAP),), SHORT, None, ("merge", "rowsets 1, 2", "gain")),
    # More log than a restart should replay: a merge waits.
    ((tablet(changes_in_memory(3, 1, 1024 * MIB), rowsets=OVERLAP),), PLENTY, None, ("flush_deltas", "store 3/0",
                                                                                    "replay")),
    ((tablet(changes_in_memory(3, 1, 1023 * MIB), rowsets=OVERLAP),), PLENTY, None, ("merge", "rowsets 1, 2", "gain")),
    # History that can go, or a gain in reading: chance decides, so that neither starves.
    ((tablet(rowsets=OVERLAP, deltas=[OLD_UNDO], history_mark=500),), PLENTY, 0.5, ("undo_gc", "rowset 5", "disk")),
    ((tablet(rowsets=OVERLAP, deltas=[OLD_UNDO], history_mark=500),), PLENTY, 0.51, ("merge", "rowsets 1, 2", "gain")),
    ((tablet(deltas=[OLD_UNDO], history_mark=500),), PLENTY, None, ("undo_gc", "rowset 5", "disk")),
    ((tablet(deltas=[OLD_UNDO], history_mark=20),), PLENTY, None, None),
])
def test_what_comes_first(facts: tuple[TabletFacts, ...], memory: MemoryFacts, dice: float | None,
                          expected: tuple[str, str, str] | None) -> None:
    assert what(chosen(*facts, memory=memory, dice=dice)) == expected


def test_the_reason_is_told_with_its_numbers() -> None:
    action = chosen(tablet(rows_in_memory(64 * MIB, 2000 * MIB)))
    assert action is not None and action.tablet_id == TABLET
    assert str(2000 * MIB) in action.text and "memrowset 1" in action.text
    assert action.to_json()["reason"] == "replay"


# -- flushes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("memory_bytes", "age_s", "gain"), [
    (MIB, 120, 0.0), (MIB, 121, 121 / 3600), (512 * MIB, 121, 0.5), (1024 * MIB, 0, 1.0), (1034 * MIB, 0, 10.0),
    (MIB, 7200, 1.0),
])
@pytest.mark.parametrize("kind", ["flush_memrowset", "flush_deltas"])
def test_stores_are_flushed_by_size_or_after_two_minutes(kind: str, memory_bytes: int, age_s: float,
                                                         gain: float) -> None:
    store = rows_in_memory(memory_bytes, MIB, age_s) if kind == "flush_memrowset" else \
        changes_in_memory(3, memory_bytes, MIB, age_s)
    (option,) = possible_actions(tablet(store), Policy(), memory=PLENTY)
    assert (option.action.kind, option.candidate.gain) == (kind, pytest.approx(gain))
    assert (chosen(tablet(store)) is not None) == (gain > 0)


def test_of_old_stores_the_one_that_anchors_most_log_goes_first() -> None:
    stores = [changes_in_memory(3, 50 * MIB, 10 * MIB, 130), changes_in_memory(4, 1, 90 * MIB, 900)]
    assert what(chosen(tablet(*stores))) == ("flush_deltas", "store 4/0", "gain")
    assert what(chosen(tablet(rows_in_memory(9 * MIB, 10 * MIB, 130), *stores))) == ("flush_deltas", "store 4/0",
                                                                                    "gain")


def test_the_fuller_memory_is_the_more_a_delta_stores_size_counts() -> None:
    facts = tablet(changes_in_memory(3, 50 * MIB, 10 * MIB), changes_in_memory(4, MIB, 20 * MIB))
    assert what(chosen(facts, memory=SHORT)) == ("flush_deltas", "store 3/0", "memory")
    assert what(chosen(facts, memory=MemoryFacts(600, 3000))) is None
    options = possible_actions(facts, Policy(), memory=MemoryFacts(599, 1000))
    assert [o.action.target for o in options] == ["store 4/0"]


def test_a_memrowset_that_failed_to_flush_goes_together_with_the_one_after_it() -> None:
    facts = tablet(rows_in_memory(MIB, 30 * MIB, 700, store_id=4), rows_in_memory(2 * MIB, MIB, 1, store_id=5))
    (option,) = possible_actions(facts, Policy(), memory=PLENTY)
    assert option.action.target == "memrowset 4, memrowset 5"
    assert (option.candidate.memory_bytes, option.candidate.log_bytes) == (3 * MIB, 30 * MIB)
    assert option.candidate.gain == pytest.approx(700 / 3600)


# -- compactions and what can go ---------------------------------------------------------------------------------------
def test_each_kind_takes_the_worst_rowset() -> None:
    many = deltas(7, redos=[delta_file(b, 10) for b in range(70, 75)])
    heavy = deltas(8, redos=[delta_file(80, 9 * MIB)])
    options = {o.action.kind: o for o in possible_actions(tablet(deltas=[many, heavy]), Policy(), memory=PLENTY)}
    assert set(options) == {"minor_delta", "major_delta"}
    assert options["minor_delta"].action.rowset_ids == (7,)
    assert options["minor_delta"].action.block_ids == (70, 71, 72, 73, 74)
    assert (options["major_delta"].action.rowset_ids, options["major_delta"].action.column_ids) == ((8,), (11,))
    assert what(chosen(tablet(deltas=[many, heavy]))) == ("major_delta", "rowset 8", "gain")


def test_all_history_of_a_tablet_that_can_go_goes_at_once() -> None:
    facts = tablet(deltas=[deltas(5, undos=[delta_file(51, 3, 600, 700), delta_file(50, 4, 10, 20)]),
                           deltas(6, undos=[delta_file(60, 5, 10, 499)])], history_mark=500)
    action = chosen(facts)
    assert action is not None
    assert (action.kind, action.rowset_ids, action.block_ids) == ("undo_gc", (5, 6), (50, 60))


def test_rowsets_dead_since_before_the_mark_go_as_a_whole() -> None:
    dead = deltas(5, redos=[delta_file(50, 10, 10, 20, deletes=9, updates={})], live=0)
    young = deltas(6, redos=[delta_file(60, 10, 10, 900, deletes=9, updates={})], live=0)
    facts = tablet(rowsets=[rowset(5, 0, 9), rowset(6, 10, 19)], deltas=[dead, young], history_mark=500)
    assert what(chosen(facts)) == ("rowset_gc", "rowset 5", "disk")


def test_a_merge_waits_until_history_that_can_go_unread_is_gone() -> None:
    def merges(ancient: int, recent: int) -> bool:
        files = [delta_file(51, recent, 600, 700), delta_file(50, ancient, 10, 20)]
        facts = tablet(rowsets=OVERLAP, deltas=[deltas(1, undos=files), deltas(2)], history_mark=500)
        return any(o.action.kind == "merge" for o in possible_actions(facts, Policy(), memory=PLENTY))

    assert merges(0, 100) and merges(20, 80)
    assert not merges(21, 79)


def test_a_table_without_compactions_is_flushed_and_cleaned_all_the_same() -> None:
    facts = tablet(rows_in_memory(age_s=200), rowsets=OVERLAP, log=GC, history_mark=500, compaction_disabled=True,
                   deltas=[OLD_UNDO, deltas(7, redos=[delta_file(b, 9 * MIB) for b in (70, 71)])])
    kinds = {o.action.kind for o in possible_actions(facts, Policy(), memory=PLENTY)}
    assert kinds == {"flush_memrowset", "undo_gc", "log_gc"}


@pytest.mark.parametrize(("priority", "wins"), [(-1, False), (0, False), (1, True), (99, True)])
def test_a_tables_priority_weighs_gains(priority: int, wins: bool) -> None:
    """1.1 to the power of it, five at most, as in Kudu."""
    preferred = tablet(rows_in_memory(age_s=1700), priority=priority)
    other = tablet(rows_in_memory(age_s=1800), tablet_id=OTHER)
    action = chosen(other, preferred)
    assert action is not None and (action.tablet_id == TABLET) == wins
    (option,) = possible_actions(preferred, Policy(), memory=PLENTY)
    assert option.candidate.gain == pytest.approx(1700 / 3600 * 1.1 ** min(priority, 5))


# -- what is not chosen ------------------------------------------------------------------------------------------------
def test_what_runs_is_not_begun_again_and_the_rest_goes_on() -> None:
    facts = tablet(rows_in_memory(age_s=900), changes_in_memory(1, 5, 5, 800), changes_in_memory(3, 1, 1, 700),
                   rowsets=[*OVERLAP, rowset(3, 0, 1000)])
    seen = []
    withheld = Withheld()
    while (action := chosen(facts, withheld={TABLET: withheld})) is not None:
        seen.append((action.kind, action.target))
        withheld = withheld.joined(withheld_while_running(action))
    assert seen == [("merge", "rowsets 1, 2, 3"), ("flush_memrowset", "memrowset 1")]
    assert chosen(facts, withheld={OTHER: withheld}) is not None


def test_rowsets_on_which_something_failed_are_left_out_of_it_only() -> None:
    facts = tablet(changes_in_memory(1, 5, 5, 800), rowsets=[*OVERLAP, rowset(3, 0, 1000)])
    withheld = Withheld(failed=frozenset({("merge", 1)}))
    assert what(chosen(facts, withheld={TABLET: withheld})) == ("merge", "rowsets 2, 3", "gain")
    targets = {o.action.target for o in possible_actions(facts, Policy(), memory=PLENTY, withheld=withheld)}
    assert "store 1/0" in targets


# -- facts -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("index", "expected"), [(1, 175), (10, 175), (11, 75), (20, 75), (21, 35), (25, 35), (99, 5)])
def test_log_bytes_count_from_the_segment_that_holds_the_operation(index: int, expected: int) -> None:
    assert bytes_from([(10, 100), (20, 40), (25, 30), (None, 5)], index) == expected


def test_a_segment_without_operations_counts_with_what_lies_before_it() -> None:
    assert bytes_from([(None, 1), (10, 10), (None, 100), (20, 1000)], 5) == 1110
    assert bytes_from([(None, 1), (10, 10), (None, 100), (20, 1000)], 11) == 1000
    assert bytes_from([], 1) == 0


@pytest.mark.parametrize("wrong", [(1, 0, 0.6), (1, 10, 0.0), (1, 10, 1.5)])
def test_budgets_without_sense_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(InvalidArgument):
        MemoryFacts(*wrong)
