"""Snapshots: which timestamps are applied."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.mvcc import TIMESTAMP_END, Snapshot
from kudu_storage.errors import InvalidArgument

SMALL = st.integers(0, 30)


@given(SMALL, st.lists(SMALL), SMALL)
def test_what_is_below_or_listed_is_applied(all_before: int, applied: list[int], timestamp: int) -> None:
    snapshot = Snapshot(all_before, applied)
    assert snapshot.includes(timestamp) == (timestamp < all_before or timestamp in applied)
    assert snapshot.is_clean == (not snapshot.applied)


@given(SMALL, st.lists(SMALL))
def test_equal_snapshots_apply_the_same(all_before: int, applied: list[int]) -> None:
    snapshot = Snapshot(all_before, applied)
    assert snapshot == Snapshot(all_before, [*reversed(applied), *applied])
    assert hash(snapshot) == hash(Snapshot(all_before, applied))
    assert snapshot != Snapshot(all_before, [*applied, 31])


def test_everything_and_nothing() -> None:
    assert Snapshot.everything().includes(TIMESTAMP_END - 1)
    assert not Snapshot.nothing().includes(0)


@pytest.mark.parametrize("wrong", [-1, 2**64])
def test_numbers_that_are_no_timestamps_are_refused(wrong: int) -> None:
    with pytest.raises(InvalidArgument):
        Snapshot(wrong)
    if wrong > 0:
        with pytest.raises(InvalidArgument):
            Snapshot(0, [wrong])
