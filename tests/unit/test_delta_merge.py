"""REDO files merged: in order, whole, without the columns that were folded."""
from __future__ import annotations

import delta_twin as twin
import pytest
from delta_rows import UNHURRIED
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.delta import DeltaCells, DeltaRun, encode_change
from kudu_storage._native.delta_merge import merge_redos
from kudu_storage.errors import InternalError

CELLS = st.dictionaries(st.integers(1, 4), st.none() | st.binary(max_size=4), max_size=3)
CHANGE = st.one_of(CELLS.filter(bool).map(lambda c: ("UPDATE", c)), CELLS.map(lambda c: ("REINSERT", c)),
                   st.just(("DELETE", {})))
FILE = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), CHANGE), max_size=10).map(
    lambda found: sorted(((row, timestamp, *change) for row, timestamp, change in found), key=lambda c: c[:2]))


def run_of(changes: list[twin.Change]) -> DeltaRun:
    cells = DeltaCells(undo=False)
    for row, timestamp, kind, values in changes:
        cells.add(row, timestamp, encode_change(kind, values))
    return DeltaRun.decode(cells.take(), undo=False)


def without(change: twin.Change, columns: set[int]) -> twin.Change | None:
    row, timestamp, kind, cells = change
    left = {column: cell for column, cell in cells.items() if column not in columns}
    return None if kind == "UPDATE" and not left else (row, timestamp, kind, left)


@UNHURRIED
@given(st.lists(FILE, max_size=4), st.sets(st.integers(1, 5)), st.integers(0, 6), st.integers(0, 6))
def test_files_become_one_in_order(files: list[list[twin.Change]], columns: set[int], first: int, end: int) -> None:
    cells = DeltaCells(undo=False)
    merge_redos([run_of(file) for file in files], cells, first_row=first, end_row=end, without=columns)
    merged = sorted((change for file in files for change in file if first <= change[0] < end), key=lambda c: c[:2])
    expected = [left for change in merged if (left := without(change, columns)) is not None]
    assert DeltaRun.decode(cells.take(), undo=False).to_list() == expected
    assert cells.stats.delta_count == len(expected)


def test_undo_deltas_are_not_merged_so() -> None:
    undo = DeltaRun.decode(DeltaCells(undo=True).take(), undo=True)
    with pytest.raises(InternalError):
        merge_redos([undo], DeltaCells(undo=False))
    with pytest.raises(InternalError):
        merge_redos([run_of([])], DeltaCells(undo=True))
