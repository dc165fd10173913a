"""Scans over all stores of a tablet: MemRowSets and rowsets on disk, one after the other or merged by primary key.

 N1  A key may be in several stores and is live in at most one of them. So predicates are tested within each store, but
     for ordered diff scans, where a dead row of one store may give way to a live one of another: there, behind the
     merge.
 N2  What comes out is what filtering a scan of everything would leave, whatever was passed over on the way.
 N3  With threads, rows of an unordered scan come in any order of stores and of ranges of a rowset's rows; an ordered
     scan is the same with any number of threads.
Blocks on the disk. May not touch: files but through rowsets, the log.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from kudu_storage._native.block_filter import BlockFilter
from kudu_storage._native.block_merge import BlockMerge
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage._native.memrowset import MemRowSet, RowScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout, with_deleted_column
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.disk_rowset import BATCH_ROWS, DiskRowSet
from kudu_storage.tablet.predicates import Predicate, key_points, key_range
from kudu_storage.tablet.read_ahead import ReadAhead, Source, in_any_order, in_order
from kudu_storage.tablet.wire_blocks import ColumnarAnswers, RowwiseAnswers

# A thread's share of a rowset in an unordered scan.
PIECE_ROWS = 1 << 17
# Cells of fixed width in a batch; and the most rows of one, where nothing else bounds it, or predicates may leave few.
_BATCH_BYTES = 1 << 19
_BATCH_ROWS_MAX = 8 * BATCH_ROWS
# Keys of an in-list that are looked up one by one; more of them are a range and a test.
POINTS_MAX = 256


@dataclass(frozen=True)
class StoreScan:
    """What each store is asked for.

    Attributes:
        layout: columns read, by id. The first `kept` of them come out; those behind are there to be tested.
        tests: that rows must pass in every store; `more`: those that the key range [lower, upper) does not imply.
        points: encoded keys that alone can match, ascending; None: any.
        since, deleted_column: of a diff scan.
    """

    layout: RowLayout
    snapshot: Snapshot
    kept: int
    tests: ColumnTests | None = None
    more: ColumnTests | None = None
    lower: bytes | None = None
    upper: bytes | None = None
    points: Sequence[bytes] | None = None
    batch_rows: int = BATCH_ROWS
    since: Snapshot | None = None
    deleted_column: str | None = None

    def may_hold(self, rowset: DiskRowSet) -> bool:
        """Whether the rowset's keys could match, by its first and last one."""
        low, high = rowset.min_key, rowset.max_key
        if not rowset.row_count or (self.lower is not None and high < self.lower) \
                or (self.upper is not None and low >= self.upper):
            return False
        return self.points is None or any(low <= key <= high for key in self.points)

    def row_ranges(self, rowset: DiskRowSet) -> list[tuple[int, int]]:
        """The rows whose keys could match."""
        if self.points is None:
            return [rowset.row_range(self.lower, self.upper)]
        finder = rowset.finder()
        rows = [finder.find_row(key) for key in self.points
                if (self.lower is None or key >= self.lower) and (self.upper is None or key < self.upper)]
        return [(row, row + 1) for row in rows if row is not None]

    def rowset(self, rowset: DiskRowSet, ranges: Sequence[tuple[int, int]] | None = None) -> Iterator[ColumnBlock]:
        rows = self.row_ranges(rowset) if ranges is None else ranges
        yield from rowset.batches(self.layout, self.snapshot, rows, batch_rows=self.batch_rows, since=self.since,
                                  deleted_column=self.deleted_column, tests=self.more, kept=self.kept)

    def pieces(self, rowset: DiskRowSet) -> list[Source]:
        """A rowset as several scans."""
        ranges = self.row_ranges(rowset)
        if len(ranges) != 1:
            return [partial(self.rowset, rowset, ranges)]
        [(first, end)] = ranges
        cuts = [*range(first, end, PIECE_ROWS), end]
        return [partial(self.rowset, rowset, [piece]) for piece in pairwise(cuts)]

    def memory(self, rows: MemRowSet) -> Iterator[ColumnBlock]:
        scan = RowScan([rows], self.layout, [self.snapshot], self.batch_rows, lower=self.lower, upper=self.upper,
                       since=self.since, deleted_column=self.deleted_column)
        read = self.layout.schema
        if self.tests is None and self.kept == len(read):
            yield from scan
            return
        kept, places = Schema(read.columns[:self.kept]), list(range(self.kept))
        if self.deleted_column is not None:
            places.append(len(read))
            kept, read = (with_deleted_column(schema, self.deleted_column) for schema in (kept, read))
        chosen = BlockFilter(read, kept, self.tests or (), places)
        for block in scan:
            found = chosen.apply(block)
            if len(found):
                yield found


def scan_stores(rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], layout: RowLayout, snapshot: Snapshot, *,
                tablet_schema: Schema | None = None, ordered: bool = False, lower: bytes | None = None,
                upper: bytes | None = None, batch_rows: int = BATCH_ROWS, since: Snapshot | None = None,
                deleted_column: str | None = None, threads: int = 1) -> Iterator[ColumnBlock]:
    """Rows of all stores at a snapshot.

    Args:
        layout: columns wanted, by id.
        tablet_schema: needed for an ordered scan whose columns are not all of the key: where to find the others.
        ordered: by primary key; else store after store, each by key.
        lower, upper: encoded keys; rows in [lower, upper).
        since: a diff scan: rows that changed after this snapshot. deleted_column: with those deleted since, marked in a
            BOOL column of that name. Unordered, a key that moved to another store shows there and, deleted, here.
        threads: stores read at a time.
    Raises:
        CorruptionError's kinds, DiskError.
    """
    scan = StoreScan(layout, snapshot, len(layout.schema), lower=lower, upper=upper, batch_rows=batch_rows, since=since,
                     deleted_column=deleted_column)
    touched = [r for r in rowsets if scan.may_hold(r)]
    if not ordered or len(touched) + len(memory) <= 1:
        return _store_by_store(scan, touched, memory, ordered, threads)
    wide, keys = with_key_columns(layout, tablet_schema or layout.schema)
    scan = replace(scan, layout=wide, kept=len(wide.schema))
    return _merged(scan, touched, memory, keys, len(layout.schema), threads)


def _store_by_store(scan: StoreScan, rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], ordered: bool,
                    threads: int) -> Iterator[ColumnBlock]:
    """Without a merge: there is one store at most, or no order is asked for."""
    sources: list[Source] = []
    for rowset in rowsets:
        sources += [partial(scan.rowset, rowset)] if threads <= 1 else scan.pieces(rowset)
    sources += [partial(scan.memory, rows) for rows in memory]
    if ordered:
        yield from in_order(sources, threads)
    else:
        yield from in_any_order(sources, threads)


def _merged(scan: StoreScan, rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], keys: Sequence[int],
            columns: int, threads: int) -> Iterator[ColumnBlock]:
    """By primary key. `keys`: where its columns are among those that stores give; the first `columns` come out."""
    by_key = sorted(rowsets, key=lambda r: r.min_key)
    # A rowset is not read before the merge comes to its first key, unless a thread has the time.
    sources: list[Source] = [partial(scan.memory, rows) for rows in memory]
    sources += [partial(scan.rowset, rowset) for rowset in by_key]
    starts: list[bytes | None] = [None] * len(memory)
    starts += [r.min_key if scan.lower is None else max(scan.lower, r.min_key) for r in by_key]
    schema = Schema(scan.layout.schema.columns[:scan.kept])
    if scan.deleted_column is not None:
        schema = with_deleted_column(schema, scan.deleted_column)
    ahead = ReadAhead(sources, threads)
    try:
        ahead.start()
        yield from BlockMerge(ahead.iterators(), schema, keys, scan.batch_rows, columns=columns, lower_keys=starts,
                              deleted_column=scan.deleted_column is not None)
    finally:
        ahead.close()


def with_key_columns(layout: RowLayout, tablet_schema: Schema) -> tuple[RowLayout, list[int]]:
    """A layout with all key columns, those that were missing behind the others; and where the key columns are in it."""
    schema, places = _with_columns(layout.schema, tablet_schema.key_columns)
    return (layout if len(schema) == len(layout.schema) else RowLayout(schema)), places


def _with_columns(schema: Schema, wanted: Sequence[ColumnSchema]) -> tuple[Schema, list[int]]:
    """A schema that has these columns too, behind the others where it had not; and where it has them."""
    columns = list(schema.columns)
    places = []
    for column in wanted:
        place = next((i for i, c in enumerate(columns) if c.id == column.id), None)
        if place is None:
            place = len(columns)
            columns.append(replace(column, is_key=False))
        places.append(place)
    return (schema if len(columns) == len(schema) else Schema(tuple(columns))), places


class TabletScan:
    """A scan of a tablet's stores: column blocks when iterated, or an Arrow C stream; from the start each time.

    Args:
        rowsets, memory: of one view; they must hold all that the snapshot has.
        schema: of the tablet, with column ids.
        snapshot: what is seen.
        columns: names of what comes out, in this order; None: all.
        predicates: all must hold.
        ordered: by primary key; else as it comes (N3).
        threads: that read and decode, beside who takes the rows; 1: none beside.
        limit: at most so many rows.
        batch_rows: rows of a batch, at most. Default: chosen here.
        lower, upper: encoded keys; rows in [lower, upper).
        since: a diff scan: rows that changed after this snapshot, as they are at `snapshot`.
        deleted_column: of a diff scan: with the rows deleted since, marked in a BOOL column of that name.
    Attributes:
        schema: of what comes out.
    Raises:
        InvalidArgument: a column that is not there. While rows are taken: CorruptionError's kinds, DiskError.
    """

    def __init__(self, rowsets: Sequence[DiskRowSet], memory: Sequence[MemRowSet], schema: Schema, snapshot: Snapshot,
                 *, columns: Sequence[str] | None = None, predicates: Sequence[Predicate] = (), ordered: bool = False,
                 threads: int = 1, limit: int | None = None, batch_rows: int | None = None, lower: bytes | None = None,
                 upper: bytes | None = None, since: Snapshot | None = None, deleted_column: str | None = None) -> None:
        kept = schema if columns is None else schema.project(columns)
        self.schema = kept if deleted_column is None else with_deleted_column(kept, deleted_column)
        self._columns = len(kept)
        self._threads = threads
        self._limit = limit
        keys = key_range(schema, predicates)
        lower = keys.lower if lower is None else lower if keys.lower is None else max(lower, keys.lower)
        upper = keys.upper if upper is None else upper if keys.upper is None else min(upper, keys.upper)
        scan = StoreScan(RowLayout(kept), snapshot, len(kept), lower=lower, upper=upper, since=since,
                         points=key_points(schema, predicates, POINTS_MAX), deleted_column=deleted_column)
        self._rowsets = [r for r in rowsets if scan.may_hold(r)]
        self._memory = list(memory)
        self._ordered = ordered
        self._merged = ordered and len(self._rowsets) + len(self._memory) > 1
        self._keys: list[int] = []
        if self._merged:
            kept, self._keys = _with_columns(kept, schema.key_columns)
        read, _ = _with_columns(kept, [schema.columns[_position(schema, p.column)] for p in predicates])
        self._late: BlockFilter | None = None
        if self._merged and since is not None and predicates:      # N1
            self._late = BlockFilter(read if deleted_column is None else with_deleted_column(read, deleted_column),
                                     self.schema, _tests(read, predicates) or (),
                                     [*range(self._columns), *([len(read)] if deleted_column is not None else [])])
            scan = replace(scan, layout=RowLayout(read), kept=len(read))
        else:
            scan = replace(scan, layout=RowLayout(read), kept=len(kept), tests=_tests(read, predicates),
                           more=_tests(read, keys.rest))
        self._scan = replace(scan, batch_rows=batch_rows or _batch_rows(read, bool(keys.rest), threads))

    def __iter__(self) -> Iterator[ColumnBlock]:
        blocks = self._blocks()
        return blocks if self._limit is None else _limited(blocks, self._limit)

    def _blocks(self) -> Iterator[ColumnBlock]:
        if not self._merged:
            yield from _store_by_store(self._scan, self._rowsets, self._memory, self._ordered, self._threads)
            return
        columns = self._columns if self._late is None else self._scan.kept
        for block in _merged(self._scan, self._rowsets, self._memory, self._keys, columns, self._threads):
            found = block if self._late is None else self._late.apply(block)
            if len(found):
                yield found

    def blocks(self) -> Iterator[ColumnBlock]:
        """As when iterated."""
        return iter(self)

    def rowwise_answers(self, *, pad_unixtime: bool = False) -> RowwiseAnswers:
        """The rows as Kudu's servers send them, row by row: see wire_blocks."""
        return RowwiseAnswers(self, pad_unixtime=pad_unixtime)

    def columnar_answers(self) -> ColumnarAnswers:
        """The rows as Kudu's servers send them, column by column: see wire_blocks."""
        return ColumnarAnswers(self)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.schema, self).__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        stores = f"{len(self._rowsets)} rowsets, {len(self._memory)} in memory"
        return f"<TabletScan of {', '.join(self.schema.names)}; {stores}>"


def _batch_rows(read: Schema, tested: bool, threads: int) -> int:
    """As many rows as fill the second-level cache, so that Python runs seldom; more where it must change threads."""
    if tested:
        return 4 * BATCH_ROWS
    if any(column.type.is_binary for column in read):
        return 2 * BATCH_ROWS if threads > 1 else BATCH_ROWS
    width = sum(column.type.width_bytes for column in read)
    return max(BATCH_ROWS, min(_BATCH_ROWS_MAX, _BATCH_BYTES // max(width, 1)))


def _tests(read: Schema, predicates: Sequence[Predicate]) -> ColumnTests | None:
    if not predicates:
        return None
    return ColumnTests(read, [(_position(read, p.column), p.kind, p.cells) for p in predicates])


def _position(schema: Schema, name: str) -> int:
    position = schema.find(name)
    if position is None:
        raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(schema.names)}")
    return position


def _limited(blocks: Iterator[ColumnBlock], limit: int) -> Iterator[ColumnBlock]:
    left = limit
    if left <= 0:
        return
    for block in blocks:
        taken = block if len(block) <= left else BlockFilter(block.schema, block.schema, ()).apply(block, left)
        left -= len(taken)
        yield taken
        if not left:
            return
