"""Deltas laid over base columns give the rows of the slow twin, at any snapshot, batch by batch."""
from __future__ import annotations

import struct
from collections.abc import Sequence

import delta_twin as twin
import pytest
from delta_rows import COLUMNS, SCHEMA, SNAPSHOTS, UNHURRIED, applied_of, cells_of, histories, rows_block, snapshots
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.delta import DeltaCells, DeltaRun, encode_change
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.errors import BadFormat, InternalError, InvalidArgument

ROWS = 12
CELL = {
    1: st.none() | st.integers(0, 9).map(lambda n: struct.pack("<q", n)),
    2: st.none() | st.binary(max_size=5),
    3: st.integers(0, 9).map(lambda n: struct.pack("<h", n)),
    99: st.none() | st.binary(max_size=3),      # a column that was dropped
}
CHANGES = st.fixed_dictionaries({}, optional=CELL)


def deltas(undo: bool) -> st.SearchStrategy[list[twin.Change]]:
    """A store in file order; of any content, sense or not."""
    one = st.tuples(st.integers(0, ROWS - 1), st.integers(0, 6),
                    st.one_of(CHANGES.filter(bool).map(lambda c: ("UPDATE", c)), st.just(("DELETE", {})),
                              CHANGES.map(lambda c: ("REINSERT", c))))
    return st.lists(one, max_size=12).map(lambda found: sorted(
        ((row, timestamp, *change) for row, timestamp, change in found),
        key=lambda c: (c[0], -c[1] if undo else c[1])))


def run_of(changes: Sequence[twin.Change], undo: bool) -> DeltaRun:
    cells = DeltaCells(undo=undo)
    for row, timestamp, kind, values in changes:
        cells.add(row, timestamp, encode_change(kind, values))
    return DeltaRun.decode(cells.take(), undo=undo, rows=ROWS)


def memory_of(changes: Sequence[twin.Change], rows: int = ROWS) -> DeltaMemStore:
    store = DeltaMemStore(rows)
    for row, timestamp, kind, values in changes:
        store.add(row, timestamp, encode_change(kind, values))
    return store


def part_of(block: ColumnBlock, first: int, end: int) -> ColumnBlock:
    return ColumnBlock.from_tuples(block.schema, block.to_tuples()[first:end])


BASE = rows_block(ROWS)


@UNHURRIED
@given(st.lists(deltas(True), max_size=3), st.lists(deltas(False), max_size=3), deltas(False), SNAPSHOTS,
       st.integers(1, ROWS))
def test_any_deltas_give_what_the_twin_gives(
        undos: list[list[twin.Change]], redos: list[list[twin.Change]], memory: list[twin.Change], snapshot: Snapshot,
        batch: int) -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), snapshot)
    for first in range(0, ROWS, batch):
        part = part_of(BASE, first, min(first + batch, ROWS))
        base = [dict(zip(COLUMNS, part.cells(i), strict=True)) for i in range(len(part))]
        states = twin.apply_deltas(base, first, undos, [*redos, memory], applied_of(snapshot))
        applier.prepare(first, len(part), [run_of(u, True) for u in undos], [run_of(r, False) for r in redos],
                        memory_of(memory))
        result = applier.apply(part)
        assert cells_of(result) == [state.cells for state in states if state.live]
        assert applier.selection() == bytes(state.live for state in states)
        for i in range(len(SCHEMA)):
            nulls = sum(row[i] is None for row in result.to_tuples())
            assert nulls == sum(cell[COLUMNS[i]] is None for cell in cells_of(result))


@UNHURRIED
@given(st.lists(deltas(False), max_size=2), SNAPSHOTS, st.permutations(range(len(COLUMNS))), st.integers(1, 4))
def test_columns_not_asked_for_are_stepped_over(redos: list[list[twin.Change]], snapshot: Snapshot, order: list[int],
                                                count: int) -> None:
    names = [SCHEMA.columns[i].name for i in order[:count]]
    picked = SCHEMA.project(names)
    layout = RowLayout(picked)
    runs = [run_of(r, False) for r in redos]
    whole, some = DeltaApplier(RowLayout(SCHEMA), snapshot), DeltaApplier(layout, snapshot)
    whole.prepare(0, ROWS, [], runs)
    some.prepare(0, ROWS, [], runs)
    rows = BASE.to_tuples()
    positions = [SCHEMA.names.index(name) for name in names]
    base = ColumnBlock.from_tuples(picked, [[row[i] for i in positions] for row in rows])
    assert some.apply(base).to_tuples() == [tuple(row[i] for i in positions) for row in whole.apply(BASE).to_tuples()]


def test_a_batch_without_changes_is_given_back_as_it_is() -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot(5))
    late = run_of([(1, 5, "DELETE", {}), (2, 7, "UPDATE", {3: b"\0\0"})], False)
    applier.prepare(0, ROWS, [], [late], memory_of([(0, 6, "DELETE", {})]))
    assert applier.apply(BASE) is BASE
    assert applier.updated_columns == []


def test_changes_of_dropped_columns_change_nothing() -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot.everything())
    applier.prepare(0, ROWS, [], [run_of([(1, 5, "UPDATE", {99: b"x"})], False)])
    assert applier.apply(BASE) is BASE


@pytest.mark.parametrize("cells", [{1: b"1234567"}, {3: None}, {3: b""}])
def test_cells_that_their_column_cannot_have_are_refused(cells: twin.Cells) -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot.everything())
    with pytest.raises(BadFormat, match="row 4 at 9"):
        applier.prepare(0, ROWS, [], [run_of([(4, 9, "UPDATE", cells)], False)])
    assert applier.row_count == 0
    applier.prepare(0, ROWS, [], [])
    assert applier.apply(BASE) is BASE


def test_undo_and_redo_are_not_mixed_up() -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot.everything())
    with pytest.raises(InternalError):
        applier.prepare(0, ROWS, [run_of([], False)], [])


def test_base_cells_must_be_those_of_the_batch() -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot.everything())
    applier.prepare(0, ROWS - 1, [], [])
    with pytest.raises(InvalidArgument):
        applier.apply(BASE)
    other = RowLayout(SCHEMA.project(["key", "small", "number", "text"]))
    with pytest.raises(InvalidArgument):
        applier = DeltaApplier(other, Snapshot.everything())
        applier.prepare(0, ROWS, [], [])
        applier.apply(BASE)


def test_only_a_diff_scan_shows_deleted_rows() -> None:
    with pytest.raises(InvalidArgument):
        DeltaApplier(RowLayout(SCHEMA), Snapshot(1), deleted_column="is_deleted")


def test_a_batch_of_no_rows_has_none() -> None:
    applier = DeltaApplier(RowLayout(SCHEMA), Snapshot(1))
    applier.prepare(3, 0, [], [])
    assert (applier.selection(), len(applier.apply(rows_block(0)))) == (b"", 0)


# -- histories that make sense: a rowset flushed at some point, read at others -----------------------------------------
@settings(UNHURRIED, max_examples=200)
@given(histories(), snapshots(), snapshots(), snapshots(), st.integers(0, 3))
def test_a_flushed_rowset_shows_each_row_as_it_was(
        rows: list[list[twin.Op]], flushed_at: Snapshot, snapshot: Snapshot, since: Snapshot, in_memory: int) -> None:
    flushed_applied, now, then = applied_of(flushed_at), applied_of(snapshot), applied_of(since)
    rows = [ops for ops in rows if flushed_applied(ops[0].timestamp)]
    written = [(ops, twin.flush_row(ops, flushed_applied)) for ops in rows]
    kept = [(ops, row) for ops, row in written if row is not None]
    undo = [(i, *u) for i, (_, row) in enumerate(kept) for u in row.undos]
    early = [(i, *r) for i, (_, row) in enumerate(kept) for r in row.redos]
    late = [(i, op.timestamp, op.kind, op.cells) for i, (ops, _) in enumerate(kept) for op in ops
            if not flushed_applied(op.timestamp)]
    last = len(late) - in_memory if in_memory else len(late)
    late.sort(key=lambda c: c[1])
    to_disk, to_memory = late[:max(last, 0)], late[max(last, 0):]
    base = ColumnBlock.from_tuples(SCHEMA, [])
    if kept:
        base = rows_block(len(kept), [row.cells for _, row in kept])
    runs = ([DeltaRun.decode(_cells(undo, True), undo=True)], [DeltaRun.decode(_cells(early, False), undo=False),
            DeltaRun.decode(_cells(sorted(to_disk, key=lambda c: (c[0], c[1])), False), undo=False)])
    memory = memory_of(to_memory, len(kept))

    applier = DeltaApplier(RowLayout(SCHEMA), snapshot)
    applier.prepare(0, len(kept), *runs, memory)
    states = [twin.state_at(ops, now) for ops, _ in kept]
    assert cells_of(applier.apply(base)) == [s.cells for s in states if s is not None and s.live]

    diff = DeltaApplier(RowLayout(SCHEMA), snapshot, since=since, deleted_column="gone")
    diff.prepare(0, len(kept), *runs, memory)
    expected = [(state.cells, not state.live) for (ops, _), state in zip(kept, states, strict=True)
                if state is not None and twin.shown_in_diff(ops, then, now)]
    result = diff.apply(base)
    assert result.schema.names == [*SCHEMA.names, "gone"]
    shown = [(cells, row[-1]) for cells, row in zip(cells_of(result), result.to_tuples(), strict=True)]
    # A dead row has a key and no defined cells besides: undoing the REINSERT of a later life is a DELETE, which gives
    # no cells back, so those of that life stay.
    assert [(None if gone else cells, gone) for cells, gone in shown] == \
        [(None if gone else cells, gone) for cells, gone in expected]

    live = DeltaApplier(RowLayout(SCHEMA), snapshot, since=since)
    live.prepare(0, len(kept), *runs, memory)
    assert cells_of(live.apply(base)) == [cells for cells, gone in expected if not gone]


def _cells(changes: Sequence[twin.Change], undo: bool) -> ColumnBlock:
    cells = DeltaCells(undo=undo)
    for row, timestamp, kind, values in changes:
        cells.add(row, timestamp, encode_change(kind, values))
    return cells.take()
