"""A flushed rowset as Kudu's own tool prints it (`kudu local_replica dump rowset`): base cells with all their deltas.

For people: Python touches each row. Source of the layout: tablet/compaction.cc, tools/tool_action_local_replica.cc.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

from kudu_storage._native.block_merge import encoded_keys
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_scan import RowSetReader
from kudu_storage.common.cell_text import debug_text, row_text
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.tablet.delta_files import DeltaWindow
from kudu_storage.tablet.disk_rowset import DiskRowSet

# The tool numbers rows within the blocks in which a compaction reads them (--rowset_compaction_rows_per_block).
_BLOCK_ROWS = 100
_Delta = tuple[int, int, str, dict[int, bytes | None]]


def row_lines(rowset: DiskRowSet, schema: Schema) -> Iterator[str]:
    """One line a row: its base cells, UNDO deltas from the newest on, REDO deltas from the oldest on."""
    columns = {c.id: c for c in schema}
    reader = _base_reader(rowset, schema)
    undos = [file.window() for file in rowset.undo_files]
    redos = [file.window() for file in rowset.redo_files]
    for first in range(0, rowset.row_count, _BLOCK_ROWS):
        end = min(first + _BLOCK_ROWS, rowset.row_count)
        block = reader.read(first, end - first, [], [])
        assert block is not None
        undo_texts = _texts_by_row(undos, first, end, columns)
        redo_texts = _texts_by_row(redos, first, end, columns)
        for row in range(end - first):
            cells = dict(enumerate(block.cells(row)))
            yield (f"RowIdxInBlock: {row}; Base: {row_text(schema, cells)}; "
                   f"Undo Mutations: [{', '.join(undo_texts.get(first + row, ()))}]; "
                   f"Redo Mutations: [{', '.join(redo_texts.get(first + row, ()))}];")


def key_lines(rowset: DiskRowSet, schema: Schema, *, readable: bool, bounds_only: bool) -> Iterator[str]:
    """The keys of all rows, dead ones too, or of the first and the last one: as text, or encoded in hexadecimal."""
    keys = Schema(tuple(schema.key_columns))
    reader = _base_reader(rowset, keys)
    last = rowset.row_count - 1
    ranges: Sequence[range] = [range(0, 1), range(last, last + 1)] if bounds_only and last >= 0 else \
        [range(first, min(first + _BLOCK_ROWS, last + 1)) for first in range(0, last + 1, _BLOCK_ROWS)]
    for rows in ranges:
        block = reader.read(rows.start, len(rows), [], [])
        assert block is not None
        if readable:
            yield from (row_text(keys, dict(enumerate(block.cells(row)))) for row in range(len(rows)))
        else:
            yield from (key.hex() for key in encoded_keys(block, range(len(keys))))


def _base_reader(rowset: DiskRowSet, schema: Schema) -> RowSetReader:
    applier = DeltaApplier(RowLayout(schema), Snapshot.everything())
    return RowSetReader(applier, [rowset.column(c.id) for c in schema], rowset.row_count)


def _texts_by_row(windows: Sequence[DeltaWindow], first: int, end: int, columns: dict[int | None, ColumnSchema]
                  ) -> dict[int, list[str]]:
    """In the order of files: the tool does not sort what several files have of a row."""
    found: dict[int, list[str]] = {}
    for window in windows:
        for run in window.runs(first, end):
            for delta in run.to_list():
                if first <= delta[0] < end:
                    found.setdefault(delta[0], []).append(_delta_text(delta, columns))
    return found


def _delta_text(delta: _Delta, columns: dict[int | None, ColumnSchema]) -> str:
    _, timestamp, kind, cells = delta
    if kind == "DELETE":
        return f"@{timestamp}(DELETE)"
    prefix = "SET" if kind == "UPDATE" else kind
    return f"@{timestamp}({prefix} {', '.join(_cell_text(columns.get(i), i, cell) for i, cell in cells.items())})"


def _cell_text(column: ColumnSchema | None, column_id: int, cell: bytes | None) -> str:
    if column is not None:
        return f"{column.name}={debug_text(column, cell)}"
    shown = "NULL" if cell is None else "".join(chr(b) if 32 < b < 127 else f"\\x{b:02x}" for b in cell)
    return f"[unknown column id {column_id}]={shown}"
