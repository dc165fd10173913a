"""Sessions: operations are gathered into batches, one write request each, and their rows' errors are handed back.

    manual       apply() only gathers; flush() sends and waits
    sync         apply() sends and waits
    background   apply() sends whole batches and waits for nobody; what is left goes a second later at the latest

 N1  What is gathered and not yet answered is bounded: beyond it, apply() raises SessionFull (manual) or waits.
 N2  Every operation that apply() took is answered exactly once: it stands, or its error is in get_pending_errors().
     An error of the log as a whole is raised; operations that are surely not in the log are kept for the next flush().
Threads may share a session; its lock is held while it waits.
"""
from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal

from kudu_storage._native.applier import FailedRow
from kudu_storage._native.row_batch import RowBatch
from kudu_storage.common.cell_text import python_value
from kudu_storage.common.keys import decode_key
from kudu_storage.common.limits import MIB
from kudu_storage.common.row_codec import RowOp
from kudu_storage.common.sizes import parse_bytes
from kudu_storage.errors import (
    InvalidArgument,
    KuduStorageError,
    LogBackpressure,
    MemoryBackpressure,
    NoSpace,
    RowError,
    RowErrors,
    RowExists,
    RowImmutable,
    RowInvalid,
    RowNotFound,
    SchemaMismatch,
    SessionFull,
)
from kudu_storage.tablet.operations import KINDS, Record, WriteOperation
from kudu_storage.tablet.store import InFlight, TabletStore

if TYPE_CHECKING:
    from kudu_storage.common.schema import Schema

FlushMode = Literal["manual", "sync", "background"]
FLUSH_MODES: Final = {"manual": "manual", "sync": "sync", "background": "background", "auto_flush_sync": "sync",
                      "auto_flush_background": "background", "manual_flush": "manual"}
BATCH_BYTES: Final = MIB            # a write request's operations
_ROW_ERRORS: Final = {1: RowNotFound, 6: RowExists, 20: RowImmutable}


class Session:
    """Where operations are applied. Make it with Tablet.new_session()."""

    def __init__(self, store: TabletStore, *, flush_mode: str = "manual", timeout: float | None = None,
                 buffer_size: int | str = 64 * MIB, error_limit: int = 1000, flush_interval: float = 1.0) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._timeout = timeout
        self._buffer_bytes = parse_bytes(buffer_size)
        self._error_limit = error_limit
        self._interval = flush_interval
        self._batch: RowBatch | None = None             # being filled
        self._batch_schema: Schema | None = None        # of the operations in it
        self._kinds: list[int] = []                     # of its operations
        self._sealed: deque[tuple[RowBatch, list[int]]] = deque()
        self._sent: deque[tuple[InFlight, RowBatch, list[int]]] = deque()
        self._held_bytes = 0                            # of sealed and sent batches
        self._errors: list[RowError] = []
        self._error_count = 0                           # since get_pending_errors()
        self._unreported = 0                            # rows refused that no flush has raised yet
        self._fresh: list[RowError] = []                # of those, as many as `error_limit`
        self._failure: KuduStorageError | None = None   # of a flush in the background
        self._timer: threading.Timer | None = None
        self._closed = False
        self._mode = _mode(flush_mode)

    # -- kudu-python's verbs -------------------------------------------------------------------------------------------
    def new_insert(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "insert", record)

    def new_insert_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "insert_ignore", record)

    def new_upsert(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "upsert", record)

    def new_upsert_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "upsert_ignore", record)

    def new_update(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "update", record)

    def new_update_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "update_ignore", record)

    def new_delete(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "delete", record)

    def new_delete_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self._store.schema, "delete_ignore", record)

    @property
    def flush_mode(self) -> str:
        return self._mode

    def set_flush_mode(self, flush_mode: str) -> None:
        """Raises InvalidArgument while operations wait."""
        with self._lock:
            if self.has_pending_operations():
                raise InvalidArgument("operations are waiting", advice="flush() first")
            self._mode = _mode(flush_mode)

    def set_timeout_ms(self, timeout_ms: float) -> None:
        self._timeout = timeout_ms / 1000

    # -- operations ----------------------------------------------------------------------------------------------------
    def apply(self, operation: WriteOperation) -> None:
        """Take one operation. What it says is checked against the columns here; a refused one leaves no trace.

        Raises:
            InvalidArgument: a wrong type, a value out of range or too large. SessionFull (manual): flush() first.
            RowErrors (sync): the row was refused. What flush() can raise (sync, background).
        """
        with self._lock:
            self._require_open()
            schema = operation.schema
            if self._batch is None or schema is not self._batch_schema:     # the tablet's was changed in between
                self._seal()
                self._batch, self._kinds = self._store.new_batch(schema), []
                self._batch_schema = schema
            if self._mode == "manual" and self._held_bytes + self._batch.size_bytes >= self._buffer_bytes:
                raise SessionFull(f"{self._held_bytes + self._batch.size_bytes} bytes of operations wait, the bound is "
                                  f"{self._buffer_bytes}", advice="flush(), or a larger buffer_size")
            self._batch.add(operation.kind, operation.values)
            self._kinds.append(operation.kind)
            if self._mode == "sync":
                self.flush()
            elif self._batch.size_bytes >= BATCH_BYTES:
                self._seal()
                if self._mode == "background":
                    self._send()
            elif self._mode == "background" and self._timer is None:
                self._start_timer()

    def flush(self, timeout: float | None = None) -> None:
        """Send what was applied and wait until all of it is durable, as the log's durability says, and readable.

        Raises:
            RowErrors: some rows were refused; all others stand. WaitTimeout: flush() again, nothing is lost.
            NoSpace, MemoryBackpressure: what is not in the log is kept for the next flush(). LogPoisoned, TabletFailed,
            TabletClosed.
        """
        timeout = self._timeout if timeout is None else timeout
        with self._lock:
            self._require_open()
            self._raise_failure()
            self._seal()
            self._send(timeout)
            while self._sent:
                self._answer(self._sent[0], lambda sent: self._store.wait(sent, timeout))
            self._raise_row_errors()

    async def flush_async(self) -> None:
        """flush() without holding up the event loop while the log is written.

        Raises as flush(); MemoryBackpressure at once where flush() would wait: sleep, and flush_async() again.
        """
        with self._lock:
            self._require_open()
            self._raise_failure()
            self._seal()
        while self._sealed:
            self._store.wait_for_room(0)
            try:
                with self._lock:
                    if self._sealed:        # others may flush this session, too
                        self._send_one(self._store.append)
            except LogBackpressure:
                oldest = self._store.oldest()
                if oldest is not None:
                    await oldest.token
                    self._store.settle(oldest)
                else:                   # the tablet's schema is being changed
                    await self._store.aside(self._store.wait_oldest)
        while self._sent:
            sent = self._sent[0]
            with contextlib.suppress(NoSpace):      # told by settle()
                await sent[0].token
            with self._lock:
                if self._sent and self._sent[0] is sent:
                    self._answer(sent, self._store.settle)
        with self._lock:
            self._raise_row_errors()

    def has_pending_operations(self) -> bool:
        """Some operations are not answered yet."""
        with self._lock:
            return bool(self._sealed or self._sent or (self._batch is not None and self._batch.count))

    def get_pending_errors(self) -> tuple[list[RowError], bool]:
        """The rows refused since the last call, and whether there were more than `error_limit` of them."""
        with self._lock:
            errors, overflowed = self._errors, self._error_count > len(self._errors)
            self._errors, self._error_count = [], 0
            self._fresh, self._unreported = [], 0
            return errors, overflowed

    def close(self) -> None:
        """Flush what is left. Raises what flush() can."""
        with self._lock:
            if self._closed:
                return
            try:
                if self.has_pending_operations():
                    self.flush()
            finally:
                self._closed = True
                self._stop_timer()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._closed = True
            self._stop_timer()

    def __repr__(self) -> str:
        return f"<Session {self._mode}, {self._held_bytes} bytes wait>"

    # -- sending: under the lock ---------------------------------------------------------------------------------------
    def _seal(self) -> None:
        if self._batch is not None and self._batch.count:
            self._sealed.append((self._batch, self._kinds))
            self._held_bytes += self._batch.size_bytes
            self._batch = None

    def _send(self, timeout: float | None = None) -> None:
        while self._sealed:
            self._send_one(lambda batch: self._store.write(batch, timeout))
            if self._mode == "background":
                self._collect(timeout)

    def _send_one(self, append: Callable[[RowBatch], InFlight]) -> None:
        batch, kinds = self._sealed[0]
        try:
            sent = append(batch)
        except SchemaMismatch as error:
            self._sealed.popleft()
            self._held_bytes -= batch.size_bytes
            self._refuse(kinds, error)
            return
        self._sealed.popleft()
        self._sent.append((sent, batch, kinds))

    def _refuse(self, kinds: list[int], error: SchemaMismatch) -> None:
        """All operations of a batch, for want of a column that they set."""
        self._note_errors([RowInvalid(RowOp(kind).name.lower(), None, error.detail)
                           for kind in kinds[:self._error_limit]], len(kinds))

    def _collect(self, timeout: float | None) -> None:
        """Answer what is acknowledged already, and wait while more than the bound is held (N1)."""
        while self._sent and (self._sent[0][0].acknowledged or self._held_bytes > self._buffer_bytes):
            self._answer(self._sent[0], lambda sent: self._store.wait(sent, timeout))

    def _answer(self, sent: tuple[InFlight, RowBatch, list[int]], settle: Callable[[InFlight], InFlight]) -> None:
        """The oldest operation sent: wait for it and note what became of its rows."""
        operation, batch, kinds = sent
        try:
            settle(operation)
        except NoSpace:
            # None of those behind it is in the log either (K1 of ports): all go back, in order.
            self._sealed.extendleft((b, k) for _, b, k in reversed(self._sent))
            self._sent.clear()
            raise
        self._sent.popleft()
        self._held_bytes -= batch.size_bytes
        self._note_errors(row_errors(self._store.schema, operation.failures[:self._error_limit], kinds),
                          operation.failed_count)

    def _note_errors(self, errors: list[RowError], count: int) -> None:
        self._error_count += count
        self._unreported += count
        self._errors += errors[:self._error_limit - len(self._errors)]
        self._fresh += errors[:self._error_limit - len(self._fresh)]

    def _raise_row_errors(self) -> None:
        count, errors = self._unreported, self._fresh
        self._unreported, self._fresh = 0, []
        if count:
            raise RowErrors(errors, count)

    # -- the background ------------------------------------------------------------------------------------------------
    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._interval, self._flush_in_background)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _flush_in_background(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed or self._store.closed:
                return
            try:
                self._seal()
                self._send()
                while self._sent:
                    self._answer(self._sent[0], self._store.wait)
            except KuduStorageError as error:
                self._failure = error           # for the next flush()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None and not isinstance(failure, NoSpace | MemoryBackpressure):    # those are tried again
            raise failure

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidArgument("the session is closed", advice="new_session()")
        self._store.require_usable()


def new_operation(schema: Schema, kind: str, record: Record) -> WriteOperation:
    return WriteOperation(KINDS[kind], schema, record)


def row_errors(schema: Schema, failures: Iterable[FailedRow], kinds: list[int] | int) -> list[RowError]:
    """The typed errors of rows refused. `kinds`: of each operation of the batch, or of all."""
    errors = []
    for failure in failures:
        kind = RowOp(kinds if isinstance(kinds, int) else kinds[failure.number]).name.lower()
        errors.append(_ROW_ERRORS.get(failure.code, RowInvalid)(kind, _key(schema, failure.key), failure.reason))
    return errors


def _key(schema: Schema, encoded: bytes) -> dict[str, object] | None:
    if not encoded:
        return None
    cells = zip(schema.key_columns, decode_key(schema, encoded), strict=True)
    values = (python_value(column, cell) for column, cell in cells)
    return dict(zip(schema.names, values, strict=False))


def _mode(flush_mode: str) -> str:
    found = FLUSH_MODES.get(str(flush_mode).lower())
    if found is None:
        raise InvalidArgument(f"there is no flush mode {flush_mode!r}", advice="manual, sync or background")
    return found
