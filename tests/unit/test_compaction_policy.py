"""Which rowsets are merged: held against trying every set."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from delta_rows import UNHURRIED
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.compaction_policy import (
    APPROXIMATION_RATIO,
    SMALL_ROWSET_WEIGHT,
    UNION_PENALTY,
    VALUE_MIN,
    CompactionPolicy,
    pick_rowsets,
)
from kudu_storage.tablet.rowset_layout import RowSetFacts, average_height, lay_out, share_of

MIB = 1 << 20


def rowset(number: int, low: int, high: int, mib: int = 32) -> RowSetFacts:
    return RowSetFacts(number, low.to_bytes(4, "big"), high.to_bytes(4, "big"), mib * MIB, mib * MIB)


ROWSETS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), max_size=6).map(
    lambda found: [rowset(i, min(a, b), max(a, b), mib) for i, (a, b, mib) in enumerate(found)])


def worth(rowsets: Sequence[RowSetFacts], picked: Sequence[int], policy: CompactionPolicy) -> float:
    """What merging the picked ones is worth, from the definition; minus infinity above the budget."""
    placed = [p for p in lay_out(rowsets).placed if p.rowset.id in picked]
    if sum(max(1, p.rowset.data_bytes // policy.unit_bytes) for p in placed) > policy.budget_units:
        return float("-inf")
    total = sum(p.width + SMALL_ROWSET_WEIGHT * max(0.0, 1 - p.rowset.disk_bytes / policy.target_rowset_bytes)
                for p in placed)
    union = max(p.high for p in placed) - min(p.low for p in placed)
    return total - (union if total <= union else UNION_PENALTY * union)


@settings(UNHURRIED, max_examples=150)
@given(ROWSETS, st.integers(1, 120))
def test_the_pick_is_within_the_budget_and_as_good_as_any(rowsets: list[RowSetFacts], budget_mib: int) -> None:
    policy = CompactionPolicy(budget_bytes=budget_mib * MIB)
    ids = [r.id for r in rowsets]
    best = max((worth(rowsets, picked, policy) for n in range(1, len(ids) + 1) for picked in combinations(ids, n)),
               default=0.0)
    found = pick_rowsets(rowsets, policy)
    if found is None:
        assert best <= VALUE_MIN * APPROXIMATION_RATIO + 1e-9 or len(rowsets) < 2
        return
    assert found.value > VALUE_MIN
    assert worth(rowsets, found.rowset_ids, policy) >= found.value - 1e-9
    assert found.value * APPROXIMATION_RATIO >= best - 1e-9
    assert found.read_bytes == sum(r.data_bytes for r in rowsets if r.id in found.rowset_ids)


def test_rowsets_over_one_another_are_merged_and_lower_the_height() -> None:
    rowsets = [rowset(1, 0, 100), rowset(2, 0, 100), rowset(3, 200, 300)]
    found = pick_rowsets(rowsets)
    assert found is not None and found.rowset_ids == (1, 2)
    merged = [rowset(4, 0, 100, 64), rowset(3, 200, 300)]
    assert average_height(rowsets) - average_height(merged) > VALUE_MIN


def test_rowsets_side_by_side_are_left_alone() -> None:
    assert pick_rowsets([rowset(i, 10 * i, 10 * i + 9) for i in range(30)]) is None


def test_small_rowsets_are_merged_although_they_do_not_overlap() -> None:
    rowsets = [RowSetFacts(i, bytes([2 * i]), bytes([2 * i + 1]), 100_000, 100_000) for i in range(50)]
    found = pick_rowsets(rowsets)
    assert found is not None and len(found.rowset_ids) == 50


def test_merging_what_was_merged_is_worth_nothing() -> None:
    assert pick_rowsets([rowset(1, 0, 100, 200), rowset(2, 101, 200, 200)]) is None


def test_what_is_above_the_budget_is_not_picked() -> None:
    rowsets = [rowset(1, 0, 100, 300), rowset(2, 0, 100, 300)]
    assert pick_rowsets(rowsets) is None
    assert pick_rowsets(rowsets, CompactionPolicy(budget_bytes=600 * MIB)) is not None


def test_a_tablet_of_few_rowsets_has_nothing_to_merge() -> None:
    assert pick_rowsets([]) is None
    assert pick_rowsets([rowset(1, 0, 5)]) is None


def test_many_rowsets_are_decided_on_in_bounded_work() -> None:
    rowsets = [rowset(i, (i * 7919) % 1000, (i * 7919) % 1000 + 1 + i % 60, 1 + i % 40) for i in range(120)]
    found = pick_rowsets(rowsets)
    assert found is not None
    assert worth(rowsets, found.rowset_ids, CompactionPolicy()) >= found.value - 1e-9


@settings(UNHURRIED, max_examples=200)
@given(ROWSETS)
def test_places_are_shares_of_the_data(rowsets: list[RowSetFacts]) -> None:
    layout = lay_out(rowsets)
    assert [p.rowset.min_key for p in layout.placed] == sorted(r.min_key for r in rowsets)
    assert all(0 <= p.low <= p.high <= 1 + 1e-9 for p in layout.placed)
    wide = [p for p in layout.placed if p.rowset.max_key > p.rowset.min_key and p.rowset.data_bytes]
    if wide:
        assert min(p.low for p in wide) == pytest.approx(0) and max(p.high for p in wide) == pytest.approx(1)
        assert sum(p.width for p in layout.placed) == pytest.approx(layout.average_height)
        assert 1 - 1e-9 <= layout.average_height <= len(rowsets) + 1e-9


def test_a_share_is_read_off_behind_the_common_part_of_the_keys() -> None:
    facts = RowSetFacts(1, b"user00000000", b"user99999999", 100, 100)
    assert share_of(facts, b"user00000000", b"user50000000") == pytest.approx(0.55, abs=0.06)
    assert share_of(facts, facts.min_key, facts.max_key) == 1
    assert share_of(RowSetFacts(1, b"x", b"x", 100, 100), b"x", b"x") == 0


@pytest.mark.parametrize("wrong", [{"budget_bytes": 0}, {"target_rowset_bytes": -1}, {"unit_bytes": 0}])
def test_policies_without_room_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        CompactionPolicy(**wrong)
