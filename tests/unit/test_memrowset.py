"""The MemRowSet: effects of row operations, snapshots, bounds, diffs, readers beside the writer; and its flush."""
from __future__ import annotations

import struct
import threading
from typing import Any

import delta_twin as twin
import pytest
from blocks import column
from delta_rows import SCHEMA, UNHURRIED, applied_of, cells_of, histories, snapshots
from hypothesis import given, settings
from hypothesis import strategies as st
from memrows import MemRows

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.delta import DeltaCells, DeltaRun
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.memrowset import MemRowSet, RowScan
from kudu_storage._native.memrowset_flush import FlushScan, MissedChanges
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.keys import encode_key
from kudu_storage.common.row_codec import RowOp
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InternalError, InvalidArgument

ALL = Snapshot.everything()


def key_of(number: int) -> bytes:
    return struct.pack("<i", number)


def row_of(number: int, small: int = 0, text: bytes | None = None) -> twin.Cells:
    return {0: key_of(number), 1: None, 2: text, 3: struct.pack("<h", small)}


def scanned(rows: MemRows, snapshot: Snapshot | int | None, **more: Any) -> list[tuple[Any, ...]]:
    return [row for block in RowScan([rows.rows], rows.layout, [snapshot], 3, **more) for row in block.to_tuples()]


def cells_scanned(rows: MemRows, snapshot: Snapshot, **more: Any) -> list[twin.Cells]:
    return [cells for block in RowScan([rows.rows], rows.layout, [snapshot], 3, **more) for cells in cells_of(block)]


# -- writes ------------------------------------------------------------------------------------------------------------
def test_row_operations_have_the_effects_that_a_server_reports() -> None:
    rows = MemRows(SCHEMA)
    key, cells, change = {0: key_of(1)}, row_of(1), {0: key_of(1), 3: struct.pack("<h", 5)}
    table = [
        (RowOp.UPDATE, change, "not_found"), (RowOp.DELETE, key, "not_found"), (RowOp.UPDATE_IGNORE, change, "ignored"),
        (RowOp.DELETE_IGNORE, key, "ignored"), (RowOp.INSERT, {0: key_of(1)}, "invalid"),
        (RowOp.INSERT, cells, "inserted"), (RowOp.INSERT, cells, "already_present"),
        (RowOp.INSERT_IGNORE, cells, "ignored"), (RowOp.UPDATE, change, "updated"), (RowOp.UPSERT, cells, "updated"),
        (RowOp.DELETE, key, "deleted"), (RowOp.DELETE, key, "not_found"), (RowOp.UPSERT, cells, "reinserted"),
        (RowOp.DELETE, key, "deleted"), (RowOp.INSERT_IGNORE, cells, "reinserted"), (RowOp.UPDATE, key, "invalid"),
        (RowOp.DELETE, cells, "invalid"),
    ]
    effects = rows.write(1, *((op, given) for op, given, _ in table))
    assert list(zip([op.name for op, _, _ in table], effects, strict=True)) \
        == [(op.name, effect) for op, _, effect in table]
    assert rows.rows.row_count == 1


def test_an_upsert_of_key_columns_alone_changes_nothing() -> None:
    rows = MemRows(Schema((column("k", "INT32", is_key=True, nullable=False, id=0), column("n", "INT8", id=1))))
    assert rows.write(1, (RowOp.UPSERT, {0: key_of(1), 1: b"\5"}), (RowOp.UPSERT, {0: key_of(1)})) \
        == ["inserted", "nothing"]
    assert scanned(rows, None) == [(1, 5)]


def test_immutable_columns_keep_their_value() -> None:
    schema = Schema((column("k", "INT32", is_key=True, nullable=False, id=0), column("n", "INT8", id=1, immutable=True),
                     column("m", "INT8", id=2)))
    rows = MemRows(schema)
    cells = {0: key_of(1), 1: b"\5", 2: b"\6"}
    assert rows.write(1, (RowOp.INSERT, cells), (RowOp.UPDATE, {0: key_of(1), 1: b"\1"}),
                      (RowOp.UPSERT, {0: key_of(1), 1: b"\1"}), (RowOp.UPSERT_IGNORE, {0: key_of(1), 1: b"\1"}),
                      (RowOp.UPDATE_IGNORE, {0: key_of(1), 1: b"\1", 2: b"\7"})) \
        == ["inserted", "immutable", "immutable", "ignored", "updated"]
    assert scanned(rows, None) == [(1, 5, 7)]


def test_the_lowest_log_index_is_kept() -> None:
    rows = MemRows(SCHEMA)
    assert rows.rows.min_log_index is None
    for index in (7, 5, 9):
        rows.write(index, (RowOp.INSERT, row_of(index)), log_index=index)
    assert rows.rows.min_log_index == 5


def test_a_shared_memrowset_takes_no_other_layout() -> None:
    with pytest.raises(InternalError):
        MemRows(SCHEMA).rows.add_layout(RowLayout(SCHEMA))
    with pytest.raises(InternalError):
        MemRowSet().share()


def test_a_memrowset_that_is_neither_shared_nor_frozen_is_not_scanned() -> None:
    rows = MemRowSet()
    rows.add_layout(RowLayout(SCHEMA))
    with pytest.raises(InternalError):
        RowScan([rows], RowLayout(SCHEMA), [None], 1)


# -- snapshots ---------------------------------------------------------------------------------------------------------
@settings(UNHURRIED, max_examples=200)
@given(histories(), snapshots(), snapshots())
def test_rows_are_shown_as_they_were(rows: list[list[twin.Op]], snapshot: Snapshot, since: Snapshot) -> None:
    written = MemRows(SCHEMA)
    written.replay(rows)
    now, then = applied_of(snapshot), applied_of(since)
    states = [twin.state_at(ops, now) for ops in rows]
    assert cells_scanned(written, snapshot) == [s.cells for s in states if s is not None and s.live]
    expected = [(state.cells, not state.live) for ops, state in zip(rows, states, strict=True)
                if state is not None and twin.shown_in_diff(ops, then, now)]
    found = [(cells, row[-1]) for block in
             RowScan([written.rows], written.layout, [snapshot], 3, since=since, deleted_column="gone")
             for cells, row in zip(cells_of(block), block.to_tuples(), strict=True)]
    assert found == expected
    assert cells_scanned(written, snapshot, since=since) == [cells for cells, gone in expected if not gone]


def test_only_a_diff_scan_shows_deleted_rows() -> None:
    with pytest.raises(InvalidArgument):
        scanned(MemRows(SCHEMA), ALL, deleted_column="gone")


TEXT_KEYS = Schema((column("a", "STRING", is_key=True, nullable=False, id=0),
                    column("b", "STRING", is_key=True, nullable=False, id=1), column("n", "INT8", id=2)))


@UNHURRIED
@given(st.sets(st.tuples(st.text("ab\0", max_size=4), st.text("ab\0", max_size=12)), max_size=150),
       st.none() | st.binary(max_size=6) | st.integers(0, 200), st.none() | st.binary(max_size=6) | st.integers(0, 200))
def test_bounds_cut_at_keys_and_parts_of_keys(keys: set[tuple[str, str]], lower: Any, upper: Any) -> None:
    rows = MemRows(TEXT_KEYS)
    encoded = {encode_key(TEXT_KEYS, [a.encode(), b.encode()]): (a, b) for a, b in keys}
    rows.write(1, *((RowOp.INSERT, {0: a.encode(), 1: b.encode(), 2: None}) for a, b in keys))
    ordered = sorted(encoded)
    low, high = (None if bound is None else bound if isinstance(bound, bytes)
                 else ordered[bound % len(ordered)] if ordered else b"" for bound in (lower, upper))
    expected = [encoded[k] for k in ordered if (low is None or k >= low) and (high is None or k < high)]
    assert [row[:2] for row in scanned(rows, None, lower=low, upper=high)] == expected


@UNHURRIED
@given(st.sets(st.integers(-300, 300)), st.none() | st.binary(max_size=6), st.none() | st.binary(max_size=6))
def test_bounds_cut_at_keys_that_are_all_prefix(keys: set[int], lower: bytes | None, upper: bytes | None) -> None:
    rows = MemRows(SCHEMA)
    rows.write(1, *((RowOp.INSERT, row_of(k)) for k in keys))
    expected = [k for k in sorted(keys) if (lower is None or encode_key(SCHEMA, [key_of(k)]) >= lower)
                and (upper is None or encode_key(SCHEMA, [key_of(k)]) < upper)]
    assert [row[0] for row in scanned(rows, None, lower=lower, upper=upper)] == expected


def test_a_scan_goes_on_while_rows_are_inserted_between_its_blocks() -> None:
    rows = MemRows(SCHEMA)
    rows.write(1, *((RowOp.INSERT, row_of(10 * k)) for k in range(500)))
    scan = RowScan([rows.rows], rows.layout, [2], 7)
    found: list[int] = []
    for step, block in enumerate(scan):
        found += [row[0] for row in block.to_tuples()]
        rows.write(2, *((RowOp.INSERT, row_of(10 * k + 1 + step % 9)) for k in range(step % 5, 500, 50)
                        if (10 * k + 1 + step % 9) not in found))
    assert found == [10 * k for k in range(500)]


def test_readers_see_whole_operations_while_a_writer_writes() -> None:
    """Each operation inserts a row and sets `small` of a few; a snapshot of complete ones shows exactly those."""
    rows, operations = MemRows(SCHEMA), 1500
    complete = [0]
    problems: list[str] = []
    rows.write(1, *((RowOp.INSERT, row_of(-k)) for k in range(1, 9)))

    def write() -> None:
        for timestamp in range(2, operations):
            small = struct.pack("<h", timestamp)
            rows.write(timestamp, (RowOp.INSERT, row_of(timestamp * 7919 % 100_003, text=b"x" * (timestamp % 50))),
                       *((RowOp.UPDATE, {0: key_of(-k), 3: small}) for k in range(1, 9)))
            complete[0] = timestamp

    def read() -> None:
        while complete[0] < operations - 1:
            seen = complete[0]
            if seen < 2:
                continue
            found = scanned(rows, seen + 1)
            if {row[3] for row in found[:8]} != {seen} or len(found) != 8 + seen - 1:
                problems.append(f"{len(found)} rows at {seen}: {found[:8]}")
                return

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# -- flush -------------------------------------------------------------------------------------------------------------
def flushed(rows: MemRows, snapshot: Snapshot, rows_max: int, mark: int = 0) \
        -> tuple[list[ColumnBlock], list[bytes], ColumnBlock, ColumnBlock, int]:
    scan = FlushScan(rows.rows, rows.layout, snapshot, history_mark=mark)
    undo, redo = DeltaCells(undo=True), DeltaCells(undo=False)
    blocks: list[ColumnBlock] = []
    keys: list[bytes] = []
    live = count = 0
    while (batch := scan.next(undo, redo, first_row=count, rows_max=rows_max)) is not None:
        blocks.append(batch[0])
        keys += [key for key, in batch[1].to_tuples()]      # type: ignore[misc]
        live += batch[2]
        count += len(batch[0])
    return blocks, keys, undo.take(), redo.take(), live


@settings(UNHURRIED, max_examples=300)
@given(histories(), snapshots(), st.integers(1, 4), st.integers(0, 17) | st.just(0))
def test_a_flush_writes_what_the_twin_writes(rows: list[list[twin.Op]], snapshot: Snapshot, batch: int,
                                             mark: int) -> None:
    applied = applied_of(snapshot)
    rows = [ops for ops in rows if applied(ops[0].timestamp)]
    written = MemRows(SCHEMA)
    written.replay(rows)
    expected = [(ops, row) for ops in rows if (row := twin.flush_row(ops, applied, mark)) is not None]
    blocks, keys, undo, redo, live = flushed(written, snapshot, batch, mark)
    assert [cells for block in blocks for cells in cells_of(block)] == [row.cells for _, row in expected]
    assert keys == [encode_key(SCHEMA, [ops[0].cells[0] or b""]) for ops, _ in expected]
    assert DeltaRun.decode(undo, undo=True).to_list() == [(i, *u) for i, (_, row) in enumerate(expected)
                                                          for u in row.undos]
    assert DeltaRun.decode(redo, undo=False).to_list() == [(i, *r) for i, (_, row) in enumerate(expected)
                                                           for r in row.redos]
    assert live == sum(not row.redos for _, row in expected)


@settings(UNHURRIED, max_examples=200)
@given(histories(), snapshots(), snapshots(), snapshots(), st.integers(1, 3))
def test_what_is_flushed_reads_like_the_memrowset(rows: list[list[twin.Op]], flush_at: Snapshot, until: Snapshot,
                                                  read_at: Snapshot, rowset_rows: int) -> None:
    """Base, UNDO, REDO and the missed changes together, at any snapshot that has no change behind `until`."""
    until = Snapshot(max(flush_at.all_before, until.all_before), (*flush_at.applied, *until.applied))
    has_inserts, has_changes = applied_of(flush_at), applied_of(until)
    rows = [[op for op in ops if has_changes(op.timestamp)] for ops in rows if has_inserts(ops[0].timestamp)]
    rows = [ops for ops in rows if not any(op.kind == "REINSERT" and not has_inserts(op.timestamp) for op in ops)]
    written = MemRows(SCHEMA)
    written.replay(rows)
    missed = MissedChanges(written.rows, written.layout, flush_at, until)
    blocks, _, undo, redo, _ = flushed(written, flush_at, rowset_rows)     # each block a rowset of its own
    undos, redos = DeltaRun.decode(undo, undo=True).to_list(), DeltaRun.decode(redo, undo=False).to_list()
    shown: list[twin.Cells] = []
    first = 0
    for block in blocks:
        late = DeltaCells(undo=False)
        assert missed.next(late, len(block)) == len(block)
        runs = [_renumbered(changes, first, len(block), undo) for changes, undo in ((undos, True), (redos, False))]
        applier = DeltaApplier(written.layout, read_at)
        applier.prepare(0, len(block), [runs[0]], [runs[1], DeltaRun.decode(late.take(), undo=False, rows=len(block))])
        shown += cells_of(applier.apply(block))
        first += len(block)
    assert missed.next(DeltaCells(undo=False), 1) == 0
    assert shown == cells_scanned(written, read_at)


def _renumbered(changes: list[twin.Change], first: int, count: int, undo: bool) -> DeltaRun:
    from kudu_storage._native.delta import encode_change
    cells = DeltaCells(undo=undo)
    for row, timestamp, kind, values in changes:
        if first <= row < first + count:
            cells.add(row - first, timestamp, encode_change(kind, values))
    return DeltaRun.decode(cells.take(), undo=undo, rows=count)


def test_a_flush_that_lacks_an_insert_is_refused() -> None:
    rows = MemRows(SCHEMA)
    rows.write(5, (RowOp.INSERT, row_of(1)))
    with pytest.raises(InternalError, match="lacks one of its inserts"):
        flushed(rows, Snapshot(5), 1)


def test_a_row_reinserted_during_its_flush_is_told() -> None:
    rows = MemRows(SCHEMA)
    rows.write(5, (RowOp.INSERT, row_of(1)))
    rows.write(7, (RowOp.DELETE, {0: key_of(1)}), (RowOp.INSERT, row_of(1)))
    with pytest.raises(InternalError, match="reinserted"):
        MissedChanges(rows.rows, rows.layout, Snapshot(6), ALL).next(DeltaCells(undo=False), 1)


def test_rows_left_out_for_their_age_are_left_out_of_the_missed_ones_too() -> None:
    rows = MemRows(SCHEMA)
    for k in range(4):
        rows.write(1, (RowOp.INSERT, row_of(k)))
    rows.write(2, (RowOp.DELETE, {0: key_of(1)}))
    rows.write(9, (RowOp.UPDATE, {0: key_of(2), 3: b"\7\0"}), (RowOp.DELETE, {0: key_of(3)}))
    blocks, _, _, _, live = flushed(rows, Snapshot(5), 10, mark=4)
    assert [row[0] for row in blocks[0].to_tuples()] == [0, 2, 3] and live == 3
    late = DeltaCells(undo=False)
    assert MissedChanges(rows.rows, rows.layout, Snapshot(5), ALL, history_mark=4).next(late, 9) == 3
    assert DeltaRun.decode(late.take(), undo=False).to_list() == [(1, 9, "UPDATE", {3: b"\7\0"}), (2, 9, "DELETE", {})]


def test_columns_added_since_take_their_default_and_dropped_ones_go() -> None:
    rows = MemRows(SCHEMA)
    rows.write(1, (RowOp.INSERT, row_of(1, text=b"a")))
    rows.write(2, (RowOp.UPDATE, {0: key_of(1), 2: b"b"}))
    rows.write(3, (RowOp.UPDATE, {0: key_of(1), 2: b"c", 3: b"\1\0"}))
    later = Schema((*(c for c in SCHEMA if c.name != "text"),
                    column("fresh", "INT8", nullable=False, id=9, read_default=b"\4")))
    scan = FlushScan(rows.rows, RowLayout(later), ALL)
    undo, redo = DeltaCells(undo=True), DeltaCells(undo=False)
    batch = scan.next(undo, redo, first_row=0)
    assert batch is not None
    assert batch[0].to_tuples() == [(1, None, 1, 4)]
    assert DeltaRun.decode(undo.take(), undo=True).to_list() \
        == [(0, 3, "UPDATE", {3: b"\0\0"}), (0, 1, "DELETE", {})]
    late = DeltaCells(undo=False)
    MissedChanges(rows.rows, RowLayout(later), Snapshot(2), ALL).next(late, 1)
    assert DeltaRun.decode(late.take(), undo=False).to_list() == [(0, 3, "UPDATE", {3: b"\1\0"})]
