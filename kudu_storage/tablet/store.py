"""One tablet's write path and clock: operations into the log, and from there, in order, into its rows.

 T1  OpId and timestamp are given in one step (`_order`), so their orders agree.
 T2  An operation is applied once it is acknowledged, in OpId order, by whoever waits first for it or for a later one
     (`_applying`). Its COMMIT is queued right after; nobody waits for that.
 T3  `_applied` is the timestamp of the last operation applied: a snapshot just above it is complete, without gaps.
 T4  A timestamp that was given out for reading is below those of all operations that come after it.
 T5  An operation that the log has and that could not be applied fails the tablet: only opening it again tells what is
     so.
 T6  The view is one reference to an immutable value, replaced as a whole under `_applying`; readers take it once, after
     their snapshot: what is applied there is in the view, or was carried over from a store that is not in it any more.
 T7  `history_mark` never goes down. It moves before anything below it is dropped, and readers compare it with their
     snapshot after they took the view: so none reads what was dropped.
 T8  Every operation that the log must keep is at or above an anchor: those of stores by what they hold, all others by
     "operations in flight", which moves up only while all stores have theirs.
 T9  A schema change is an operation like others, but that nothing else is in flight beside it (`quiesced`), and that
     the MemRowSet is empty when it is appended: what is decoded with a layout is applied with it, and a MemRowSet has
     one layout. It is in the superblock before its COMMIT is queued, and in the headers of segments from there on.
Locks, from the outside in: _applying, the superblock's, _order. May not touch: files, the log but through LogSink.
"""
from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kudu_storage._native.applier import Applier, FailedRow
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_batch import RowBatch
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage._native.row_stores import RowStores
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_builder import without_column_ids
from kudu_storage.errors import (
    BadFormat,
    InternalError,
    InvalidArgument,
    KuduStorageError,
    LogBackpressure,
    LogPoisoned,
    NoSpace,
    SchemaMismatch,
    TabletClosed,
    TabletFailed,
    Unsupported,
    WaitTimeout,
)
from kudu_storage.protos import message_class
from kudu_storage.tablet.metadata import SchemaChange
from kudu_storage.tablet.ports import Care, LogSink, Token
from kudu_storage.tablet.view import MemStore, View

NO_OP = 1
ALTER_SCHEMA = 4
STATUS_INVALID_ARGUMENT = 4         # kudu.AppStatusPB.ErrorCode
IN_FLIGHT_OWNER = "operations in flight"
# Rows refused of one operation that are remembered; a batch of 1 MiB has fewer rows than that.
FAILURES_MAX = 100_000
# After so many bytes of operations a tablet in somebody's care tells what it weighs.
WEIGH_EVERY_BYTES = 1 << 20
# Schemas of before that sessions may still hold operations for, and that are found again without being made anew.
FORMER_SCHEMAS_MAX = 8


@dataclass(frozen=True, slots=True)
class Columns:
    """A schema as batches have it: with ids, without, and serialised. `projection`: to the tablet's layout of now."""

    schema: Schema
    client: Schema
    client_bytes: bytes
    projection: Projection

    @classmethod
    def of(cls, schema: Schema, client: Schema, layout: RowLayout) -> Columns:
        """Raises BadFormat where the client's columns are not all there, by name and type."""
        return cls(schema, client, _schema_bytes(client), Projection(client, layout))


@dataclass(frozen=True, slots=True)
class Alteration:
    """A schema change that is an operation. record: makes the superblock tell of it, durably.

    new_memory: an id for a new MemRowSet.
    """

    change: SchemaChange
    record: Callable[[SchemaChange], object]
    new_memory_id: Callable[[], int]


@dataclass(slots=True, eq=False)
class InFlight:
    """An operation between its append and its COMMIT. `settled` is written last, by whoever holds `_applying`."""

    op_id: OpId
    timestamp: int
    batch: RowBatch | None              # None: a NO_OP, or a schema change
    token: Token
    projection: Projection | None = None        # of a batch with other columns than the tablet's
    alteration: Alteration | None = None
    settled: bool = False
    error: KuduStorageError | None = None
    failed_count: int = 0
    failures: list[FailedRow] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        """Nobody would wait for the log, well or badly."""
        try:
            return self.settled or self.token.done
        except KuduStorageError:
            return True


class TabletStore:
    """Rows of one tablet, with the log below them. `Tablet` (bootstrap) opens and wires it.

    Args:
        view: with one shared MemRowSet, filled by replay, and the rowsets.
        sink: the log.
        applied: timestamp of the last operation that replay applied, or that is in the rowsets; 0: none.
        applied_index: its index.
        needs_log_from: an index, if nothing was flushed yet: then all rows are in the log, and it must be whole, from
            there on, even where its operations changed nothing.
        read_only: why new operations are refused, or None. What the log holds already is applied all the same.
        history_seconds: how long a version is kept at least after it was replaced; negative: for ever.
        history_mark: below this hybrid time versions may be gone already.
        clock: microseconds since 1970; tests have their own.
    """

    def __init__(self, tablet_id: str, view: View, sink: LogSink, *, applied: int = 0, last_timestamp: int = 0,
                 applied_index: int = 0, needs_log_from: int | None = None, read_only: str | None = None,
                 history_seconds: int = -1, history_mark: int = 0, clock: Any = None) -> None:
        self.tablet_id = tablet_id
        self._view = view
        self._sink = sink
        self._read_only = read_only
        self._micros = clock or (lambda: time.time_ns() // 1000)
        self._order = threading.Lock()
        self._applying = threading.Lock()
        # By OpId; appended under _order, popped under _applying and _order.
        self._in_flight: deque[InFlight] = deque()
        self._applied = applied
        self._applied_index = applied_index
        self._needs_log_from = needs_log_from           # under _applying
        self._anchored: dict[str, int] = {}             # by owner; under _applying
        self._history_seconds = history_seconds
        self._history_mark = history_mark
        self._latest = Snapshot(applied + 1)            # may lag behind _applied; whoever needs it renews it
        self._last_timestamp = max(applied, last_timestamp)
        self._term = 0                                  # 0: not leading yet
        self._failure: TabletFailed | None = None
        self._closed = False
        self._care: Care | None = None
        self._unweighed_bytes = 0                       # appended since care was told; under _order
        self._pid = os.getpid()
        self._quiet: threading.Event | None = None      # set once `quiesced` ends; under _order
        self._counts_before: dict[str, int] = {}        # of appliers before a schema change
        # One reference each, replaced as a whole: what new batches have, and what those of before are mapped by.
        self._columns = Columns.of(view.schema, without_column_ids(view.schema), view.layout)
        self._former: deque[tuple[Schema, Schema]] = deque(maxlen=FORMER_SCHEMAS_MAX)     # with ids, and without
        self._mapped: Columns | None = None             # the last one that was not `_columns`; under _order
        self._applier = self._new_applier(view)
        self._place(view)
        # A tablet that nobody closed lets go of its folder all the same; what is in flight is in the log.
        self._finalizer = weakref.finalize(self, _abandon, sink, self._pid)

    # -- what others ask -----------------------------------------------------------------------------------------------
    @property
    def schema(self) -> Schema:
        """The tablet's schema, with column ids."""
        return self._view.schema

    @property
    def view(self) -> View:
        """The view as of now; one reference, which is replaced as a whole (T6)."""
        return self._view

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_of_this_process(self) -> bool:
        """Not of a parent that forked."""
        return os.getpid() == self._pid

    @property
    def is_read_only(self) -> bool:
        """No operation can be added."""
        return self._read_only is not None or self._applier is None

    def new_batch(self, schema: Schema | None = None) -> RowBatch:
        """An empty batch for this tablet's columns, or for those that it had (see append).

        Raises Unsupported where rows cannot be written.
        """
        self.require_writable()
        columns = self._columns
        if schema is None or schema is columns.schema:
            return RowBatch(columns.client)
        for known, client in tuple(self._former):
            if known is schema:
                return RowBatch(client)
        client = without_column_ids(schema)
        self._former.append((schema, client))
        return RowBatch(client)

    def require_writable(self) -> None:
        """Raises Unsupported."""
        if self._read_only is not None:
            raise Unsupported(self._read_only)
        self._writer()

    def counts(self) -> dict[str, int]:
        if self._applier is None:
            return {}
        return {name: count + self._counts_before.get(name, 0) for name, count in self._applier.counts.items()}

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def applied_timestamp(self) -> int:
        return self._applied

    @property
    def term(self) -> int:
        return self._term

    # -- in somebody's care --------------------------------------------------------------------------------------------
    def take_care(self, care: Care | None) -> None:
        """From now on `care` is told what the tablet weighs, and makes writers wait when memory is short."""
        self._care = care

    @property
    def memory_bytes(self) -> int:
        """Of the stores in memory that hold anything."""
        view = self._view
        stores = [store.rows.memory_bytes for store in view.memory if store.rows.row_count]
        for flushed in view.flushed:
            stores += [changes.memory_bytes for changes in (flushed.disk.memory, flushed.disk.flushing)
                       if changes is not None and changes.change_count]
        return sum(stores)

    def wait_for_room(self, timeout: float | None = None) -> None:
        """Until memory is below its budget. Raises MemoryBackpressure."""
        if self._care is not None and not self._care.has_room:
            self._care.wait_for_room(timeout)

    def _weigh(self) -> None:
        if self._care is not None:
            self._care.weighed(self.memory_bytes, self._sink.bytes_from([0])[0])

    # -- writing -------------------------------------------------------------------------------------------------------
    def append(self, batch: RowBatch) -> InFlight:
        """Into the log's queue, with OpId and timestamp. Nobody may add to the batch afterwards.

        A batch for columns of before is mapped to the tablet's by their names, as a server does it.

        Raises LogBackpressure (nothing was appended), SchemaMismatch (nor will it), NoSpace, LogPoisoned, TabletClosed,
        TabletFailed.
        """
        self._writer()
        with self._order:
            self._require_usable()
            if self._quiet is not None:
                raise LogBackpressure("the tablet's schema is being changed")
            columns = self._columns_of(batch)
            if self._term == 0:
                self._lead()
            operation = self._append(
                lambda op_id, at: batch.replicate(self.tablet_id.encode(), columns.client_bytes, *op_id, at),
                batch, projection=None if columns is self._columns else columns.projection)
            self._unweighed_bytes += batch.size_bytes
            heavy = self._unweighed_bytes >= WEIGH_EVERY_BYTES
            if heavy:
                self._unweighed_bytes = 0
        if heavy:
            self._weigh()
        return operation

    def _columns_of(self, batch: RowBatch) -> Columns:
        """Under _order."""
        client = batch.client_schema
        if client is self._columns.client:
            return self._columns
        if self._mapped is None or self._mapped.client is not client:
            try:
                self._mapped = Columns.of(client, client, self._view.layout)
            except BadFormat as error:
                raise SchemaMismatch(f"the table's schema was changed (version {self._view.schema_version}): "
                                     f"{error.detail}", intact="none of these operations is in the log",
                                     advice="make them again, with the columns of now") from error
        return self._mapped

    def write(self, batch: RowBatch, timeout: float | None = None) -> InFlight:
        """append(), waiting for room in memory and in the log's queue. Raises MemoryBackpressure, too."""
        self.wait_for_room(timeout)
        while True:
            try:
                return self.append(batch)
            except LogBackpressure:
                self.wait_oldest(timeout)

    def wait_oldest(self, timeout: float | None = None) -> None:
        """Until the operation longest in flight is acknowledged, or all of the queue is written."""
        oldest, quiet = self.oldest(), self._quiet
        if oldest is None and quiet is not None:
            if not quiet.wait(timeout):
                raise WaitTimeout("the tablet's schema is still being changed")
            return
        if oldest is None:
            self._sink.durable()        # raises when the log is gone
            return
        try:
            self.wait(oldest, timeout)
        except NoSpace:
            return                      # whoever sent it is told; there is room now

    def oldest(self) -> InFlight | None:
        with self._order:
            return self._in_flight[0] if self._in_flight else None

    def wait(self, operation: InFlight, timeout: float | None = None) -> InFlight:
        """Until the operation is durable and applied.

        Raises WaitTimeout (wait again: it may still be), NoSpace (it is not in the log), LogPoisoned (nobody knows),
        TabletFailed.
        """
        if not operation.settled:
            operation.token.wait(timeout)
        return self.settle(operation)

    def settle(self, operation: InFlight) -> InFlight:
        """Apply an operation that is acknowledged, after those before it. As wait()."""
        if not operation.settled:
            with self._applying:
                while not operation.settled:
                    self._apply_front()
        if operation.error is not None:
            raise operation.error
        return operation

    def flush_log(self, timeout: float | None = None) -> None:
        """Until all that was appended is durable and applied."""
        with self._order:
            last = self._in_flight[-1] if self._in_flight else None
        if last is not None:
            self.wait(last, timeout)

    def _append(self, encode: Callable[[OpId, int], bytes], batch: RowBatch | None = None, *,
                projection: Projection | None = None, alteration: Alteration | None = None) -> InFlight:
        while True:
            op_id = OpId(self._term, self._sink.next_index())
            timestamp = self._next_timestamp()
            token = self._sink.replicate(encode(op_id, timestamp))
            if token is not None:
                operation = InFlight(op_id, timestamp, batch, token, projection, alteration)
                self._in_flight.append(operation)
                return operation

    def _lead(self) -> None:
        """A leader's first operation is its term's NO_OP; it commits what earlier terms left."""
        self._term = self._sink.lead()
        try:
            self._append(no_op)
        except BaseException:
            self._term = 0          # a term without its NO_OP: the next one will have it
            raise

    def lead(self) -> InFlight:
        """Become leader now; the NO_OP. For opening a log with operations that have no COMMIT."""
        with self._order:
            self._lead()
            return self._in_flight[-1]

    @property
    def applier(self) -> Applier:
        """For opening, before anybody else has the store. Raises Unsupported."""
        return self._writer()

    def note_applied(self, timestamp: int, index: int) -> None:
        """Opening applied an operation of the log."""
        self._applied = max(self._applied, timestamp)
        self._applied_index = max(self._applied_index, index)

    # -- applying (T2): under _applying --------------------------------------------------------------------------------
    def _apply_front(self) -> None:
        if self._failure is not None:
            raise self._failure
        operation = self._in_flight[0]
        try:
            operation.token.wait()
        except (NoSpace, LogPoisoned) as error:
            operation.error = error
        else:
            self._apply(operation)
        with self._order:
            self._in_flight.popleft()
        operation.settled = True

    def _apply(self, operation: InFlight) -> None:
        try:
            if operation.alteration is not None:
                commit = self._apply_alteration(operation.alteration, operation.op_id)
            elif operation.batch is None:
                commit = no_op_commit(operation.op_id)
            else:
                applier = self._writer()
                commit = applier.apply(operation.batch, *operation.op_id, operation.timestamp, operation.projection)
                operation.failed_count = applier.failed
                if applier.failed:
                    operation.failures = applier.take_failures()
        except (KuduStorageError, MemoryError) as error:
            self._failure = TabletFailed(f"operation {operation.op_id} is in the log and could not be applied: {error}",
                                         intact="the log", advice="open the tablet again")
            raise self._failure from error
        self._applied = operation.timestamp
        self._applied_index = operation.op_id.index
        self._sink.commit(commit)

    # -- schema changes (T9) -------------------------------------------------------------------------------------------
    @property
    def is_quiet(self) -> bool:
        """Nobody may append just now."""
        return self._quiet is not None

    @contextlib.contextmanager
    def quiesced(self, timeout: float | None = None) -> Iterator[None]:
        """All that was appended is applied, and others wait with what they would append. One at a time.

        Raises WaitTimeout, LogPoisoned, TabletClosed, TabletFailed.
        """
        with self._order:
            self._require_usable()
            if self._quiet is not None:
                raise InternalError("a tablet is quiesced twice")
            quiet = self._quiet = threading.Event()
        try:
            while self.oldest() is not None:
                with contextlib.suppress(NoSpace):      # it is not in the log; whoever sent it is told
                    self.flush_log(timeout)
            yield
        finally:
            with self._order:
                self._quiet = None
            quiet.set()

    def alter(self, alteration: Alteration) -> InFlight:
        """Change the schema, durably; for who quiesced the tablet and flushed its MemRowSet.

        Raises NoSpace (it is not in the log), LogPoisoned, TabletFailed: it is in the log, and opening the tablet again
        does what is left.
        """
        self.require_writable()
        view = self._view
        if self._quiet is None or len(view.memory) > 1 or view.memory[0].rows.row_count:
            raise InternalError("a schema change beside rows in memory")
        with self._order:
            self._require_usable()
            if self._term == 0:
                self._lead()
            operation = self._append(
                lambda op_id, at: alter_schema(self.tablet_id, alteration.change, op_id, at), alteration=alteration)
        try:
            return self.wait(operation)
        finally:
            if not operation.settled and self._failure is None:
                # Nobody may apply it later, beside flushes and writers that know nothing of it.
                self.fail("waiting for a schema change was interrupted")

    def _apply_alteration(self, alteration: Alteration, op_id: OpId) -> bytes:
        change = alteration.change
        view = self._view
        rows = MemRowSet()
        rows.add_layout(RowLayout(change.schema))
        rows.share()
        store = MemStore(rows, alteration.new_memory_id())
        altered = replace(view, layout=RowLayout(change.schema), schema_version=change.version, memory=(store,))
        columns = Columns.of(change.schema, without_column_ids(change.schema), altered.layout)
        alteration.record(change)
        self._sink.set_schema(change.schema, change.version)
        self._use(altered, columns)
        return alter_commit(op_id)

    def apply_logged_alteration(self, change: SchemaChange) -> None:
        """A schema change of the log, while the tablet is opened: its MemRowSet is not shared yet, and nobody reads."""
        layout = RowLayout(change.schema)
        for store in self._view.memory:
            store.rows.add_layout(RowLayout(change.schema))
        self._use(replace(self._view, layout=layout, schema_version=change.version),
                  Columns.of(change.schema, without_column_ids(change.schema), layout))

    def _use(self, view: View, columns: Columns) -> None:
        self._counts_before = self.counts()
        former = self._columns
        applier = None if self._applier is None else Applier(
            view.memory[-1].rows, view.layout, columns.projection, store_id=view.memrowset_id,
            failures_max=FAILURES_MAX)
        with self._order:               # appends come with the columns of the layout that they are applied with
            self._former.append((former.schema, former.client))
            self._columns, self._mapped, self._applier, self._view = columns, None, applier, view
        self._place(view)

    # -- the view ------------------------------------------------------------------------------------------------------
    def swap(self, make: Callable[[View], View]) -> Snapshot:
        """Replace the view by what `make` makes of it, between two operations.

        Returns what is applied by then: operations in that snapshot used the old view, all others use the new one, and
        their COMMITs are queued behind those of the former.
        """
        with self._applying:
            view = make(self._view)
            self._place(view)
            self._view = view
            return Snapshot(self._applied + 1)

    def _place(self, view: View) -> None:
        if self._applier is None:
            return
        frozen = view.memory[0] if len(view.memory) > 1 else None
        heirs = view.heirs
        self._applier.place(
            view.memory[-1].rows, view.memory[-1].id,
            frozen=None if frozen is None else frozen.rows, frozen_id=-1 if frozen is None else frozen.id,
            frozen_heirs=None if heirs.of_memory is None else RowStores(heirs.of_memory),
            stores=RowStores((flushed.store for flushed in view.flushed), heirs.inherited),
            heirs=RowStores(heirs.of_rowsets))

    def note_flushed(self) -> None:
        """A superblock names a MemRowSet as flushed: the log need not be whole any more."""
        with self._applying:
            self._needs_log_from = None

    def log_bytes_from(self, indexes: Sequence[int]) -> list[int]:
        """As LogSink.bytes_from()."""
        return self._sink.bytes_from(indexes)

    def collect_log(self) -> int:
        """As LogSink.collect(), after all anchors were brought up to date."""
        self.move_anchors()
        return self._sink.collect()

    def sync_log(self) -> None:
        """Until every COMMIT queued so far survives a power cut. Raises as LogSink.sync()."""
        self._sink.sync()

    async def aside(self, function: Callable[[], object]) -> None:
        """As LogSink.aside()."""
        await self._sink.aside(function)

    def fail(self, why: str) -> None:
        """What is on disk is not known any more: nothing goes on before the tablet was opened again."""
        with self._applying:
            if self._failure is None:
                self._failure = TabletFailed(why, intact="the log", advice="open the tablet again")

    def move_anchors(self) -> dict[str, int]:
        """Have each store anchor the log at its first operation, and nothing else (T8). The anchors, by owner."""
        with self._applying:
            wanted = {}
            for store in self._view.memory:
                wanted[f"memrowset {store.id}"] = store.rows.min_log_index
            if self._needs_log_from is not None:
                wanted[f"memrowset {self._view.memory[0].id}"] = self._needs_log_from
            for flushed in self._view.flushed:
                wanted[f"store {flushed.id}/{flushed.store.dms_id}"] = flushed.disk.memory.min_log_index
                if flushed.disk.flushing is not None:
                    wanted[f"store {flushed.id}/{flushed.flushing_dms_id}"] = flushed.disk.flushing.min_log_index
            held = {owner: index for owner, index in wanted.items() if index is not None}
            held[IN_FLIGHT_OWNER] = self._applied_index + 1         # last, as dicts go
            for owner, index in held.items():
                if self._anchored.get(owner) != index:
                    self._sink.anchor(index, owner)
            for owner in self._anchored.keys() - held.keys():
                self._sink.release(owner)
            self._anchored = held
            return dict(held)

    # -- history -------------------------------------------------------------------------------------------------------
    @property
    def history_mark(self) -> int:
        """Below this hybrid time versions may be gone."""
        return self._history_mark

    def move_history_mark(self) -> int:
        """Let go of versions that were replaced long enough ago; the mark for whoever drops them (T7)."""
        with self._applying:
            self._history_mark = self.coming_history_mark
            return self._history_mark

    @property
    def coming_history_mark(self) -> int:
        """Where move_history_mark() would move it."""
        if self._history_seconds < 0:
            return self._history_mark
        oldest = from_micros(self._micros() - self._history_seconds * 1_000_000)
        return max(self._history_mark, min(oldest, self._applied + 1))

    def read_point(self, snapshot: Callable[[], Snapshot]) -> tuple[Snapshot, View]:
        """A snapshot and the view to read it from. Raises InvalidArgument below the history mark."""
        while True:
            seen = snapshot()
            view = self._view
            if seen.all_before >= self._history_mark:
                return seen, view
            if snapshot != self.latest:             # else the mark passed it just now: there is a newer one
                raise InvalidArgument(f"a snapshot at {seen.all_before} is below the tablet's history mark, "
                                      f"{self._history_mark}: versions of rows from before it may be gone",
                                      advice="a later snapshot")

    # -- time ----------------------------------------------------------------------------------------------------------
    def now(self) -> int:
        """A hybrid time above all operations so far and below all that follow (T4)."""
        with self._order:
            self._require_usable()
            return self._next_timestamp()

    def _next_timestamp(self) -> int:
        self._last_timestamp = max(from_micros(self._micros()), self._last_timestamp + 1)
        return self._last_timestamp

    def latest(self) -> Snapshot:
        """Everything that is applied (T3)."""
        latest = self._latest
        if latest.all_before <= self._applied:
            self._latest = latest = Snapshot(self._applied + 1)
        return latest

    def snapshot_at(self, timestamp: int, timeout: float | None = None) -> Snapshot:
        """Everything below `timestamp`; waits for operations in flight there.

        Raises InvalidArgument for a time to come, WaitTimeout.
        """
        with self._order:
            if not 0 <= timestamp <= max(from_micros(self._micros()), self._last_timestamp):
                raise InvalidArgument(f"a snapshot at {timestamp} lies in the future", advice="now(), or earlier")
            self._last_timestamp = max(self._last_timestamp, timestamp)
            below = [operation for operation in self._in_flight if operation.timestamp < timestamp]
        if below:
            with contextlib.suppress(NoSpace):      # it is not in the log; those before it are applied
                self.wait(below[-1], timeout)
        return Snapshot(timestamp)

    # -- ending --------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Apply what is in flight, queue its COMMITs, close the log. Once is enough."""
        if os.getpid() != self._pid:
            return                      # another thread of the parent's may have held a lock at the fork
        with self._order:
            if self._closed:
                return
            self._closed = True
        self._finalizer.detach()
        try:
            self._drain()
        finally:
            self._sink.close()

    def _drain(self) -> None:
        with self._applying:
            while self._in_flight and self._failure is None:
                self._apply_front()

    def require_usable(self) -> None:
        """Raises TabletClosed or TabletFailed."""
        self._require_usable()

    def _require_usable(self) -> None:
        if self._closed or os.getpid() != self._pid:
            raise TabletClosed("the tablet is closed" if self._closed else "the tablet was opened before a fork",
                               advice="Tablet.open()")
        if self._failure is not None:
            raise self._failure

    # -- pieces --------------------------------------------------------------------------------------------------------
    def _new_applier(self, view: View) -> Applier | None:
        try:
            return Applier(view.memory[-1].rows, view.layout, self._columns.projection, store_id=view.memrowset_id,
                           failures_max=FAILURES_MAX)
        except Unsupported:
            return None                 # its rows can be read

    def _writer(self) -> Applier:
        if self._applier is None:
            raise Unsupported("a tablet with an auto-incrementing column can only be read")
        return self._applier


def _abandon(sink: LogSink, pid: int) -> None:
    if os.getpid() == pid:
        with contextlib.suppress(KuduStorageError):
            sink.close()


# -- small messages ----------------------------------------------------------------------------------------------------
def no_op(op_id: OpId, timestamp: int) -> bytes:
    """The ReplicateMsg with which a term begins."""
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=timestamp, op_type=NO_OP)
    message.id.term, message.id.index = op_id
    message.noop_request.SetInParent()
    return bytes(message.SerializeToString())


def no_op_commit(op_id: OpId) -> bytes:
    message: Any = message_class("kudu.consensus.CommitMsg")(op_type=NO_OP)
    message.commited_op_id.term, message.commited_op_id.index = op_id
    return bytes(message.SerializeToString())


def alter_schema(tablet_id: str, change: SchemaChange, op_id: OpId, timestamp: int) -> bytes:
    """The ReplicateMsg of a schema change, as a server makes it of its master's request."""
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=timestamp, op_type=ALTER_SCHEMA)
    message.id.term, message.id.index = op_id
    request = message.alter_schema_request
    request.tablet_id = tablet_id.encode()
    request.schema_version = change.version
    change.schema.to_pb(request.schema)
    if change.table_name is not None:
        request.new_table_name = change.table_name
    return bytes(message.SerializeToString())


def alter_commit(op_id: OpId, refused: str | None = None) -> bytes:
    """The CommitMsg of a schema change. refused: why it changed nothing."""
    message: Any = message_class("kudu.consensus.CommitMsg")(op_type=ALTER_SCHEMA)
    message.commited_op_id.term, message.commited_op_id.index = op_id
    if refused is not None:
        status = message.result.ops.add().failed_status
        status.code, status.message = STATUS_INVALID_ARGUMENT, refused
    return bytes(message.SerializeToString())


def _schema_bytes(schema: Schema) -> bytes:
    message: Any = message_class("kudu.SchemaPB")()
    schema.to_pb(message)
    return bytes(message.SerializeToString())
