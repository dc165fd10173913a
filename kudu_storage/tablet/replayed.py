"""A tablet whose rows were rebuilt from its log: read-only, any snapshot of the replayed history.

May not touch: the log, files. Thread-safe: nothing changes after replay, and each scan is a new object.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument

if TYPE_CHECKING:
    from kudu_storage._native.column_block import ColumnBlock
    from kudu_storage._native.memrowset import MemRowSet

BATCH_ROWS = 4096


class ReplayedTablet:
    """Rows of one tablet.

    Args:
        tablet_id: 32 hex digits.
        rows: a frozen MemRowSet.
        layout: the layout of the current schema.
        at: default snapshot of scans.
        visible_below: hybrid time at or above which nothing may be shown, whatever is asked for, or None.
    """

    def __init__(self, tablet_id: str, rows: MemRowSet, layout: RowLayout, *, at: int | None = None,
                 visible_below: int | None = None) -> None:
        self.tablet_id = tablet_id
        self._rows = rows
        self._layout = layout
        self._at = at
        self._visible_below = visible_below

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
            InvalidArgument: no such column.
        """
        return self._scan(columns, at, batch_rows)

    def _scan(self, columns: Sequence[str] | None, at: int | None, batch_rows: int) -> RowScan:
        layout = self._layout if columns is None else RowLayout(self.schema.project(columns))
        return RowScan([self._rows], layout, [self._bound(at)], batch_rows)

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
        return self._scan(None, at, BATCH_ROWS).checksum()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows as an Arrow C stream: `pyarrow.table(tablet)`, `polars.DataFrame(tablet)`."""
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.schema, self.scan()).__arrow_c_stream__(requested_schema)

    def _bound(self, at: int | None) -> int | None:
        bounds = [t for t in (self._at if at is None else at, self._visible_below) if t is not None]
        return min(bounds, default=None)

    def __repr__(self) -> str:
        return f"<ReplayedTablet {self.tablet_id}: {len(self.schema)} columns, {self._rows.row_count} keys>"


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
    scan = RowScan([t._rows for t in tablets], RowLayout(schema), [t._bound(None) for t in tablets], batch_rows)
    return schema, iter(scan)
