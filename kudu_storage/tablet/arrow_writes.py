"""Rows from any Arrow stream into the tablet, in batches: encoding, logging, applying overlap; no Python per row."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from kudu_storage._native.arrow_rows import ArrowRows
from kudu_storage.common.limits import MIB
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument, MemoryBackpressure, NoSpace, RowError, SchemaMismatch
from kudu_storage.tablet.operations import KINDS
from kudu_storage.tablet.session import row_errors
from kudu_storage.tablet.store import InFlight, TabletStore

BATCH_BYTES: Final = MIB // 2
# Appended and not waited for: what the log's queue holds, and what is being applied.
IN_FLIGHT_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of a stream's rows: how many stand, how many were refused, and the errors of the first of those."""

    rows: int
    refused: int = 0
    errors: tuple[RowError, ...] = ()


class _Writer:
    def __init__(self, store: TabletStore, kind: int, timeout: float | None, error_limit: int) -> None:
        self._store = store
        self._kind = kind
        self._timeout = timeout
        self._error_limit = error_limit
        self._sent: deque[InFlight] = deque()
        self._written = 0
        self._errors: list[RowError] = []
        self._failed = 0

    def write(self, rows: ArrowRows, schema: Schema) -> WriteReport:
        try:
            more = True
            while more:
                batch = self._store.new_batch(schema)
                try:
                    more = rows.fill(batch, BATCH_BYTES)
                finally:                # what came before a value that does not fit is written, too
                    if batch.count:
                        self._sent.append(self._store.write(batch, self._timeout))
                while len(self._sent) > IN_FLIGHT_MAX:
                    self._answer()
            self._answer_all()
        except (InvalidArgument, MemoryBackpressure, SchemaMismatch) as error:
            self._answer_all()
            error.intact = f"{self._written} rows before it are written"
            raise
        return WriteReport(self._written, self._failed, tuple(self._errors))

    def _answer_all(self) -> None:
        while self._sent:
            self._answer()

    def _answer(self) -> None:
        try:
            operation = self._store.wait(self._sent[0], self._timeout)
        except NoSpace as error:
            error.intact = f"{self._written} rows are written, none after them"
            raise
        self._sent.popleft()
        assert operation.batch is not None
        self._written += operation.batch.count - operation.failed_count
        self._failed += operation.failed_count
        room = max(self._error_limit - len(self._errors), 0)
        self._errors += row_errors(self._store.schema, operation.failures[:room], self._kind)
        operation.batch = None


def write_arrow(store: TabletStore, data: Any, kind: str, *, timeout: float | None = None,
                error_limit: int = 1000) -> WriteReport:
    """Apply one operation of `kind` for each row of `data`. Durable and readable on return.

    Raises:
        InvalidArgument: no Arrow stream, columns or values that do not fit; rows before the value are written.
        MemoryBackpressure: rows before it are written.
        SchemaMismatch: a column of the stream was dropped or renamed on the way; rows before that are written.
        NoSpace, WaitTimeout, LogPoisoned.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"there is no operation {kind!r}", advice=", ".join(KINDS))
    operation = int(KINDS[kind])
    schema = store.schema           # to the end: the tablet's may be changed meanwhile
    rows = ArrowRows(data, store.new_batch(schema), operation)
    return _Writer(store, operation, timeout, error_limit).write(rows, schema)


