"""A tablet whose rows were rebuilt from its log, and its flushed rowsets if they were at hand: read-only, any snapshot
of the history there is.

May not touch: the log. Thread-safe: nothing changes after replay, and each scan is a new object.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kudu_storage._native.block_merge import BlockMerge
from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.scanning import scan_stores, with_key_columns

if TYPE_CHECKING:
    from kudu_storage._native.column_block import ColumnBlock
    from kudu_storage._native.memrowset import MemRowSet
    from kudu_storage.fs.blocks import BlockManager
    from kudu_storage.tablet.disk_rowset import DiskRowSet

BATCH_ROWS = 4096


class ReplayedTablet:
    """Rows of one tablet.

    Args:
        tablet_id: 32 hex digits.
        rows: a frozen MemRowSet.
        layout: the layout of the current schema.
        at: default snapshot of scans.
        visible_below: hybrid time at or above which nothing may be shown, whatever is asked for, or None.
        rowsets: on disk; None: rows are those of the log alone.
        blocks: what keeps their files open.
        history_mark: hybrid time below which versions of the flushed rows are gone, as far as is known.
    Raises:
        InvalidArgument: `at` is below the history mark.
    """

    def __init__(self, tablet_id: str, rows: MemRowSet, layout: RowLayout, *, at: int | None = None,
                 visible_below: int | None = None, rowsets: Sequence[DiskRowSet] | None = None,
                 blocks: BlockManager | None = None, history_mark: int | None = None) -> None:
        self.tablet_id = tablet_id
        self._rowsets = rowsets
        self._blocks = blocks
        self.history_mark = history_mark
        self._rows = rows
        self._layout = layout
        self._at = at
        self._visible_below = visible_below
        self._check_history(at)

    @property
    def schema(self) -> Schema:
        """The current schema, with column ids."""
        return self._layout.schema

    @property
    def rows_in_memory(self) -> MemRowSet:
        """All rows and versions, frozen: what a flush writes."""
        return self._rows

    def scan(self, columns: Sequence[str] | None = None, *, at: int | None = None,
             batch_rows: int = BATCH_ROWS) -> Iterator[ColumnBlock]:
        """Rows by primary key, as column blocks.

        Args:
            columns: names, in the order wanted; default all.
            at: hybrid time of the snapshot; default the tablet's.
        Raises:
            InvalidArgument: no such column, or `at` is below the history mark.
            CorruptionError's kinds, DiskError: a flushed rowset cannot be read.
        """
        return self._scan_layout(self._layout_of(columns), at, batch_rows)

    def _layout_of(self, columns: Sequence[str] | None) -> RowLayout:
        return self._layout if columns is None else RowLayout(self.schema.project(columns))

    def _scan_layout(self, layout: RowLayout, at: int | None, batch_rows: int) -> Iterator[ColumnBlock]:
        if self._rowsets is None:
            return RowScan([self._rows], layout, [self._bound(at)], batch_rows)
        return scan_stores(self._rowsets, [self._rows], layout, self._snapshot(at), tablet_schema=self.schema,
                           ordered=True, batch_rows=batch_rows)

    def _snapshot(self, at: int | None) -> Snapshot:
        bound = self._bound(at)
        return Snapshot.everything() if bound is None else Snapshot(bound)

    def rows(self, columns: Sequence[str] | None = None, *, at: int | None = None) -> Iterator[tuple[object, ...]]:
        """Rows by primary key, as tuples of Python values. For small results; scan() is for the others."""
        for block in self.scan(columns, at=at):
            yield from block.to_tuples()

    def count(self, *, at: int | None = None) -> int:
        """Number of rows."""
        keys = [self.schema.columns[0].name] if len(self.schema) else []
        return sum(len(block) for block in self.scan(keys, at=at))

    def checksum(self, *, at: int | None = None) -> int:
        """Sum of the row checksums, as `kudu cluster ksck --checksum_scan` reports it."""
        return self.count_and_checksum(at=at)[1]

    def count_and_checksum(self, *, at: int | None = None) -> tuple[int, int]:
        """count() and checksum() in one scan."""
        if self._rowsets is None:
            return RowScan([self._rows], self._layout, [self._bound(at)], BATCH_ROWS).checksum()
        rows = total = 0
        # By key, so that a row which is live in two stores is found out.
        for block in scan_stores(self._rowsets, [self._rows], self._layout, self._snapshot(at), ordered=True):
            rows += len(block)
            total += checksum(block)
        return rows, total % 2**64

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows as an Arrow C stream: `pyarrow.table(tablet)`, `polars.DataFrame(tablet)`."""
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.schema, self.scan()).__arrow_c_stream__(requested_schema)

    def _check_history(self, at: int | None) -> None:
        if at is not None and self.history_mark is not None and at < self.history_mark:
            raise InvalidArgument(f"a snapshot at {at} is below the tablet's history mark, {self.history_mark}: "
                                  "versions of rows from before it may be gone", advice="a later snapshot")

    def _bound(self, at: int | None) -> int | None:
        self._check_history(at)
        bounds = [t for t in (self._at if at is None else at, self._visible_below) if t is not None]
        return min(bounds, default=None)

    def __repr__(self) -> str:
        disk = "" if self._rowsets is None else f", {len(self._rowsets)} rowsets on disk"
        return f"<ReplayedTablet {self.tablet_id}: {len(self.schema)} columns, {self._rows.row_count} keys{disk}>"


def merged_scan(tablets: Sequence[ReplayedTablet],
                batch_rows: int = BATCH_ROWS) -> tuple[Schema, Iterator[ColumnBlock]]:
    """The rows of several tablets of one table by primary key, in the columns of the newest schema among them.

    Raises:
        InvalidArgument: no tablet, or key columns that differ: they are not of one table.
    """
    if not tablets:
        raise InvalidArgument("no tablets to scan")
    schema = max((t.schema for t in tablets), key=lambda s: max((c.id or 0 for c in s), default=0))
    key_types = [c.type for c in schema.key_columns]
    if any([c.type for c in t.schema.key_columns] != key_types for t in tablets):
        raise InvalidArgument("the tablets have different key columns: they are not of one table")
    layout = RowLayout(schema)
    if len(tablets) == 1:
        return schema, tablets[0]._scan_layout(layout, None, batch_rows)
    if all(t._rowsets is None for t in tablets):
        scan = RowScan([t._rows for t in tablets], layout, [t._bound(None) for t in tablets], batch_rows)
        return schema, iter(scan)
    wide, keys = with_key_columns(layout, schema)
    return schema, BlockMerge([t._scan_layout(wide, None, batch_rows) for t in tablets], wide.schema, keys, batch_rows)
