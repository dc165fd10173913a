"""Scans over all stores of a tablet: MemRowSets and rowsets on disk, one after the other or merged by primary key.

A key may be in several stores and is live in at most one of them. Blocks on the disk.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kudu_storage._native.block_merge import BlockMerge
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.memrowset import MemRowSet, RowScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout, with_deleted_column
from kudu_storage.common.schema import Schema
from kudu_storage.tablet.disk_rowset import BATCH_ROWS, DiskRowSet


def scan_stores(rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], layout: RowLayout, snapshot: Snapshot, *,
                tablet_schema: Schema | None = None, ordered: bool = False, lower: bytes | None = None,
                upper: bytes | None = None, batch_rows: int = BATCH_ROWS, since: Snapshot | None = None,
                deleted_column: str | None = None) -> Iterator[ColumnBlock]:
    """Rows of all stores at a snapshot.

    Args:
        layout: columns wanted, by id.
        tablet_schema: needed for an ordered scan whose columns are not all of the key: where to find the others.
        ordered: by primary key; else store after store, each by key.
        lower, upper: encoded keys; rows in [lower, upper).
        since: a diff scan: rows that changed after this snapshot. deleted_column: with those deleted since, marked in a
            BOOL column of that name. Unordered, a key that moved to another store shows there and, deleted, here.
    Raises:
        CorruptionError's kinds, DiskError.
    """
    touched = [r for r in rowsets if r.row_count and (lower is None or r.max_key >= lower)
               and (upper is None or r.min_key < upper)]
    if not ordered or len(touched) + len(memory) <= 1:
        return _one_after_the_other(touched, memory, layout, snapshot, lower, upper, batch_rows, since, deleted_column)
    return _merged(touched, memory, layout, snapshot, tablet_schema or layout.schema, lower, upper, batch_rows, since,
                   deleted_column)


def _one_after_the_other(rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], layout: RowLayout,
                         snapshot: Snapshot, lower: bytes | None, upper: bytes | None, batch_rows: int,
                         since: Snapshot | None, deleted_column: str | None) -> Iterator[ColumnBlock]:
    for rowset in rowsets:
        yield from _rowset_scan(rowset, layout, snapshot, lower, upper, batch_rows, since, deleted_column)
    for rows in memory:
        yield from _memory_scan(rows, layout, snapshot, lower, upper, batch_rows, since, deleted_column)


def _rowset_scan(rowset: DiskRowSet, layout: RowLayout, snapshot: Snapshot, lower: bytes | None, upper: bytes | None,
                 batch_rows: int, since: Snapshot | None, deleted_column: str | None) -> Iterator[ColumnBlock]:
    first, end = rowset.row_range(lower, upper)
    yield from rowset.scan(layout, snapshot, first=first, end=end, batch_rows=batch_rows, since=since,
                           deleted_column=deleted_column)


def _memory_scan(rows: MemRowSet, layout: RowLayout, snapshot: Snapshot, lower: bytes | None, upper: bytes | None,
                 batch_rows: int, since: Snapshot | None, deleted_column: str | None) -> Iterator[ColumnBlock]:
    return RowScan([rows], layout, [snapshot], batch_rows, lower=lower, upper=upper, since=since,
                   deleted_column=deleted_column)


def _merged(rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], layout: RowLayout, snapshot: Snapshot,
            tablet_schema: Schema, lower: bytes | None, upper: bytes | None, batch_rows: int, since: Snapshot | None,
            deleted_column: str | None) -> Iterator[ColumnBlock]:
    wide, keys = with_key_columns(layout, tablet_schema)
    # Generators: a rowset is not read before the merge comes to its first key.
    sources: list[Iterator[ColumnBlock]] = [
        _rowset_scan(r, wide, snapshot, lower, upper, batch_rows, since, deleted_column) for r in rowsets]
    sources += [_memory_scan(m, wide, snapshot, lower, upper, batch_rows, since, deleted_column) for m in memory]
    starts: list[bytes | None] = [r.min_key if lower is None else max(lower, r.min_key) for r in rowsets]
    starts += [None] * len(memory)
    schema = wide.schema
    if deleted_column is not None:
        schema = with_deleted_column(wide.schema, deleted_column)
    return BlockMerge(sources, schema, keys, batch_rows, columns=len(layout.schema), lower_keys=starts,
                      deleted_column=deleted_column is not None)


def with_key_columns(layout: RowLayout, tablet_schema: Schema) -> tuple[RowLayout, list[int]]:
    """A layout with all key columns, those that were missing behind the others; and where the key columns are in it."""
    columns = list(layout.schema.columns)
    places = []
    for key in tablet_schema.key_columns:
        place = next((i for i, c in enumerate(columns) if c.id == key.id), None)
        if place is None:
            place = len(columns)
            columns.append(replace(key, is_key=False))
        places.append(place)
    return (layout if len(columns) == len(layout.schema) else RowLayout(Schema(tuple(columns)))), places
