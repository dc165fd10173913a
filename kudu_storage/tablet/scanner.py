"""Scans of one tablet, with kudu-python's names.

    t.scanner().add_predicate(t["id"] >= 10).set_projected_column_names(["id", "v"]).open().read_all_tuples()

 S1  View and snapshot are taken once, in open(), and held to the end of the scan: what it reads is not deleted before.
 S2  Rows come by primary key after set_fault_tolerant() or ordered(), else store by store, each by key; with several
     threads then in any order.
One thread uses a scanner; any number of scanners may run.
"""
from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout, with_deleted_column
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.predicates import Predicate
from kudu_storage.tablet.result import ScanResult, pandas_frame, polars_frame
from kudu_storage.tablet.scanning import TabletScan, scan_stores
from kudu_storage.tablet.store import TabletStore
from kudu_storage.tablet.view import View
from kudu_storage.tablet.wire_blocks import ColumnarAnswers, RowwiseAnswers

BATCH_ROWS = 4096
THREADS_MAX = 256
DELETED_COLUMN = "is_deleted"
READ_MODES = ("latest", "snapshot", "read_your_writes")


class Scanner:
    """A scan being described; open() fixes what it sees."""

    def __init__(self, store: TabletStore, timeout: float | None = None) -> None:
        self._store = store
        self._timeout = timeout
        self._predicates: list[Predicate] = []
        self._names: list[str] | None = None
        self._limit: int | None = None
        self._mode = "latest"
        self._at: int | None = None
        self._batch_rows: int | None = None
        self._threads = 1
        self._since: int | None = None
        self._ordered = False
        self._view: View | None = None
        self._blocks: Iterator[ColumnBlock] | None = None
        self._schema: Schema | None = None
        self._ahead: ColumnBlock | None = None

    # -- what is wanted ------------------------------------------------------------------------------------------------
    def add_predicate(self, predicate: Predicate) -> Scanner:
        """All predicates added must hold."""
        self._require_not_open()
        if not isinstance(predicate, Predicate):
            raise InvalidArgument(f"{predicate!r} is no predicate", advice="t['column'] >= value, and the like")
        self._position(predicate.column)
        self._predicates.append(predicate)
        return self

    def add_predicates(self, predicates: Iterable[Predicate]) -> Scanner:
        for predicate in predicates:
            self.add_predicate(predicate)
        return self

    def set_projected_column_names(self, names: Sequence[str]) -> Scanner:
        """Only these columns, in this order."""
        self._require_not_open()
        if isinstance(names, str):
            names = [names]
        for name in names:
            self._position(name)
        if len(set(names)) != len(names):
            raise InvalidArgument("a column is asked for twice")
        self._names = list(names)
        return self

    def set_projected_column_indexes(self, indexes: Sequence[int]) -> Scanner:
        names = self._store.schema.names
        try:
            return self.set_projected_column_names([names[i] for i in indexes])
        except IndexError:
            raise InvalidArgument(f"a column index is outside of 0 to {len(names) - 1}") from None

    def set_limit(self, limit: int) -> Scanner:
        """At most so many rows."""
        self._require_not_open()
        if limit < 0:
            raise InvalidArgument(f"a limit of {limit} rows")
        self._limit = limit
        return self

    limit = set_limit

    def set_batch_rows(self, rows: int) -> Scanner:
        """Rows in a batch, at most. Default: as many as suit the columns."""
        self._require_not_open()
        if rows < 1:
            raise InvalidArgument(f"batches of {rows} rows")
        self._batch_rows = rows
        return self

    def set_threads(self, threads: int) -> Scanner:
        """So many threads read and decode beside the one that takes the rows; 1: that one does it. Order stays (S2)."""
        self._require_not_open()
        if not 1 <= threads <= THREADS_MAX:
            raise InvalidArgument(f"{threads} threads", advice=f"1 to {THREADS_MAX}")
        self._threads = threads
        return self

    def set_read_mode(self, mode: Literal["latest", "snapshot", "read_your_writes"]) -> Scanner:
        """"latest": what is applied; "snapshot": at set_snapshot()'s time, or now; "read_your_writes": as of now."""
        self._require_not_open()
        if mode not in READ_MODES:
            raise InvalidArgument(f"there is no read mode {mode!r}", advice=", ".join(READ_MODES))
        self._mode = mode
        return self

    def set_snapshot(self, at: int | datetime.datetime) -> Scanner:
        """A hybrid time, as now() gives, or a datetime with a time zone: operations before it are seen."""
        self._require_not_open()
        self._at = hybrid_time_of(at)
        self._mode = "snapshot"
        return self

    def set_diff(self, since: int | datetime.datetime, until: int | datetime.datetime | None = None) -> Scanner:
        """Rows that changed from `since` on and before `until` (default: now), as they are then, by primary key.

        Those deleted meanwhile come too, marked in a last column `is_deleted`; what had not existed before and does not
        any more is left out. As Kudu's diff scans, which incremental backups use.
        """
        self._require_not_open()
        if self._store.schema.find(DELETED_COLUMN) is not None:
            raise InvalidArgument(f"the table has a column named {DELETED_COLUMN}")
        self._since = hybrid_time_of(since)
        self._ordered = True
        self._mode, self._at = "snapshot", None if until is None else hybrid_time_of(until)
        return self

    def set_fault_tolerant(self, ordered: bool = True) -> Scanner:
        """Rows by primary key (S2)."""
        self._require_not_open()
        self._ordered = ordered
        return self

    def ordered(self) -> Scanner:
        """Rows by primary key (S2)."""
        return self.set_fault_tolerant()

    # -- reading -------------------------------------------------------------------------------------------------------
    def open(self) -> Scanner:
        """Take view and snapshot.

        Raises InvalidArgument for a time to come or below the history mark, WaitTimeout, TabletClosed.
        """
        if self._blocks is None:
            self._store.require_usable()
            wanted = self._store.latest if self._mode == "latest" else self._at_time
            snapshot, self._view = self._store.read_point(wanted)
            self._schema, self._blocks = self._start(self._view, snapshot)
        return self

    def has_more_rows(self) -> bool:
        self.open()
        if self._ahead is None:
            self._ahead = next(self._rest(), None)
        return self._ahead is not None

    def next_batch(self) -> ScanResult:
        """The next rows. Empty at the end."""
        block = self._ahead if self.has_more_rows() else None
        self._ahead = None
        return ScanResult(self.schema, [] if block is None else [block])

    def read_next_batch_tuples(self) -> list[tuple[Any, ...]]:
        return list(self.next_batch().tuples())

    def read_all_tuples(self) -> list[tuple[Any, ...]]:
        """All rows that are left, as tuples of Python values."""
        rows: list[tuple[Any, ...]] = []
        for block in self.blocks():
            rows += block.to_tuples()
        return rows

    def blocks(self) -> Iterator[ColumnBlock]:
        """All rows that are left, as column blocks."""
        while self.has_more_rows():
            block, self._ahead = self._ahead, None
            assert block is not None
            yield block

    def to_arrow(self) -> ScanResult:
        """All rows that are left: an object with num_rows that any Arrow library takes (__arrow_c_stream__)."""
        blocks = list(self.blocks())
        return ScanResult(self.schema, blocks)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows that are left, batch by batch as the consumer asks."""
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.open().schema, self.blocks()).__arrow_c_stream__(requested_schema)

    def rowwise_answers(self, *, pad_unixtime: bool = False) -> RowwiseAnswers:
        """The rows that are left as Kudu's servers send them, row by row: see wire_blocks.

        `pad_unixtime`: each UNIXTIME_MICROS takes 16 bytes.
        """
        return RowwiseAnswers(self.open(), pad_unixtime=pad_unixtime)

    def columnar_answers(self) -> ColumnarAnswers:
        """The rows that are left as Kudu's servers send them, column by column: see wire_blocks."""
        return ColumnarAnswers(self.open())

    def to_polars(self) -> Any:
        """A polars.DataFrame. Raises MissingExtra."""
        return polars_frame(self.to_arrow())

    def to_pandas(self) -> Any:
        """A pandas.DataFrame. Raises MissingExtra."""
        return pandas_frame(self.to_arrow())

    def xbatches(self) -> Iterator[list[tuple[Any, ...]]]:
        """The rows that are left, a list of tuples for each batch."""
        for block in self.blocks():
            yield block.to_tuples()

    def count(self) -> int:
        """How many rows are left."""
        return sum(len(block) for block in self.blocks())

    @property
    def schema(self) -> Schema:
        """Of the rows that come out."""
        if self._schema is not None:
            return self._schema
        read = self._store.schema if self._names is None else self._store.schema.project(self._names)
        return read if self._since is None else with_deleted_column(read, DELETED_COLUMN)

    def close(self) -> None:
        self._blocks, self._ahead, self._view = iter(()), None, None

    def __repr__(self) -> str:
        state = "open" if self._blocks is not None else "not open"
        return f"<Scanner of {', '.join(self.schema.names)}; {len(self._predicates)} predicates, {self._mode}, {state}>"

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for block in self.blocks():
            yield from block.to_tuples()

    def __enter__(self) -> Scanner:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- pieces --------------------------------------------------------------------------------------------------------
    def _at_time(self) -> Snapshot:
        at = self._store.now() if self._at is None or self._mode == "read_your_writes" else self._at
        return self._store.snapshot_at(at, self._timeout)

    def _start(self, view: View, snapshot: Snapshot) -> tuple[Schema, Iterator[ColumnBlock]]:
        since = None if self._since is None else self._beginning(snapshot)
        scan = TabletScan(view.rowsets, view.memrowsets, view.schema, snapshot, columns=self._names,
                          predicates=self._predicates, ordered=self._ordered, threads=self._threads,
                          limit=self._limit, batch_rows=self._batch_rows, since=since,
                          deleted_column=None if since is None else DELETED_COLUMN)
        return scan.schema, self._checked(scan)

    def _beginning(self, end: Snapshot) -> Snapshot:
        since = self._store.read_point(lambda: Snapshot(self._since or 0))[0]      # not below the history mark
        if since.all_before > end.all_before:
            raise InvalidArgument(f"changes from {since.all_before} to {end.all_before}: that is backwards")
        return since

    def _checked(self, scan: TabletScan) -> Iterator[ColumnBlock]:
        for block in scan:
            self._store.require_usable()
            yield block

    def _rest(self) -> Iterator[ColumnBlock]:
        assert self._blocks is not None
        return self._blocks

    def _position(self, name: str) -> int:
        return _position(self._store.schema, name)

    def _require_not_open(self) -> None:
        if self._blocks is not None:
            raise InvalidArgument("the scan is open already", advice="a new scanner()")


def scan_view(view: View, layout: RowLayout, snapshot: Snapshot, *, ordered: bool = False, lower: bytes | None = None,
              upper: bytes | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[ColumnBlock]:
    """All rows of a view at a snapshot; see scan_stores."""
    if not view.flushed:            # by key in any case
        return RowScan(view.memrowsets, layout, [snapshot] * len(view.memory), batch_rows, lower=lower, upper=upper)
    return scan_stores(view.rowsets, view.memrowsets, layout, snapshot, tablet_schema=view.schema, ordered=ordered,
                       lower=lower, upper=upper, batch_rows=batch_rows)


def _position(schema: Schema, name: str) -> int:
    position = schema.find(name)
    if position is None:
        raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(schema.names)}")
    return position


def hybrid_time_of(at: int | datetime.datetime) -> int:
    """A moment as hybrid time. Raises InvalidArgument."""
    if isinstance(at, bool) or not isinstance(at, int | datetime.datetime):
        raise InvalidArgument(f"{at!r} is no moment", advice="a hybrid time, or a datetime with a time zone")
    if isinstance(at, int):
        return at
    if at.utcoffset() is None:
        raise InvalidArgument(f"{at!r} has no time zone")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return from_micros((at - epoch) // datetime.timedelta(microseconds=1))
