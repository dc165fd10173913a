"""Finding operations in a log: by kind, index, term, time, or the row that they touch. Read-only.

One pass, so that the first match comes at once. Operations are found whatever became of them: also those that a later
term replaced and those without a COMMIT. May not touch: anything but the segments.
"""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from kudu_storage.common.cell_text import debug_text
from kudu_storage.common.hybrid_time import from_micros, to_datetime
from kudu_storage.common.opid import OpId
from kudu_storage.common.row_codec import RowOperation
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import CorruptionError, InvalidArgument, Unsupported
from kudu_storage.protos import enum_name
from kudu_storage.protos.text import short_debug_string
from kudu_storage.wal.entries import (
    ALTER_SCHEMA_OP,
    REPLICATE,
    WRITE_OP,
    SchemaCache,
    SchemaHistory,
    decode_write_of,
    log_entries,
)

KeyPart = str | int | bytes


@dataclass(frozen=True, slots=True)
class Match:
    """One operation found."""

    segment: int            # sequence number
    opid: OpId
    timestamp: int
    op_type: str            # WRITE_OP, NO_OP, ...
    detail: str             # one line: what it does, as far as it was asked for

    def __str__(self) -> str:
        return f"{self.opid}@{self.timestamp} {time_text(self.timestamp)} {self.op_type} {self.detail}".rstrip()


def grep(source: str | os.PathLike[str], *, op_type: str | None = None,
         index: tuple[int | None, int | None] | None = None, term: int | None = None,
         since: int | str | None = None, until: int | str | None = None, key: Sequence[KeyPart] | None = None,
         limit: int | None = None) -> Iterator[Match]:
    """The operations of a log folder, or of one segment file, that match everything given.

    op_type: Kudu's name, in any case, with or without "_OP". index: first and last, both included, None for open.
    since, until: a hybrid time, or ISO time (UTC unless it names a zone); since <= time < until. key: one value a key
    column, as text or as Python has it; only writes that touch that row match, and `detail` has what they do to it.

    Raises InvalidArgument for a condition that makes no sense, what opening segments raises, and for damage the typed
    error after the matches before it.
    """
    wanted_type = _op_type(op_type) if op_type is not None else None
    first_index, last_index = index or (None, None)
    first_time, end_time = parse_time(since), parse_time(until)
    left = limit
    schemas = SchemaCache()
    for segment, message, tablet_schemas in _operations(source):
        if left is not None and left <= 0:
            return
        opid = OpId(message.id.term, message.id.index)
        name = enum_name("kudu.consensus.OperationType", message.op_type)
        if (wanted_type is not None and name != wanted_type) or (term is not None and opid.term != term) \
                or not _within(opid.index, first_index, None if last_index is None else last_index + 1) \
                or not _within(message.timestamp, first_time, end_time):
            continue
        detail = _detail(message, tablet_schemas, schemas) if key is None \
            else _key_detail(message, tablet_schemas, schemas, key)
        if detail is not None:
            yield Match(segment, opid, message.timestamp, name, detail)
            left = None if left is None else left - 1


def _operations(source: str | os.PathLike[str]) -> Iterator[tuple[int, Any, list[Schema]]]:
    """Segment number, ReplicateMsg, and the schemas that the tablet may have for it, the likeliest first."""
    history: SchemaHistory | None = None
    for segment, entry in log_entries(source):
        if history is None:
            history = SchemaHistory(Schema.from_pb(segment.header.schema))
        if entry.type == REPLICATE:
            yield segment.sequence, entry.replicate, history.candidates(entry.replicate.id.index)
        history.follow(entry)


def _within(value: int, first: int | None, end: int | None) -> bool:
    return (first is None or value >= first) and (end is None or value < end)


# -- what a match says -------------------------------------------------------------------------------------------------
def _detail(message: Any, tablet_schemas: list[Schema], schemas: SchemaCache) -> str:
    if message.op_type == WRITE_OP:
        decoded = _decode(message, tablet_schemas, schemas)
        if isinstance(decoded, str):
            return decoded
        operations, _ = decoded
        counts = Counter(operation.op.name for operation in operations)
        return f"{len(operations)} rows: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    if message.op_type == ALTER_SCHEMA_OP:
        columns = ", ".join(c.name for c in message.alter_schema_request.schema.columns)
        return f"version {message.alter_schema_request.schema_version}: {columns}"
    if message.HasField("change_config_record"):
        return short_debug_string(message.change_config_record.new_config)
    return ""


def _key_detail(message: Any, tablet_schemas: list[Schema], schemas: SchemaCache,
                key: Sequence[KeyPart]) -> str | None:
    """What a write does to one row; None when it does not touch it."""
    if message.op_type != WRITE_OP:
        return None
    decoded = _decode(message, tablet_schemas, schemas)
    if isinstance(decoded, str):
        return decoded          # it may concern the row; better shown than lost
    operations, schema = decoded
    cells = dict(enumerate(key_cells(schema, key)))
    touching = [f"row {i}: {_row_text(operation, schema)}" for i, operation in enumerate(operations)
                if all(operation.cells.get(position) == cell for position, cell in cells.items())]
    return "; ".join(touching) or None


def _row_text(operation: RowOperation, schema: Schema) -> str:
    if operation.failure is None:
        return operation.text(schema)
    given = ", ".join(f"{schema.columns[i].name}={debug_text(schema.columns[i], cell)}"
                      for i, cell in sorted(operation.cells.items()))
    return f"{operation.op.name} ({given}) refused: {operation.failure}"


def _decode(message: Any, tablet_schemas: list[Schema],
            schemas: SchemaCache) -> tuple[list[RowOperation], Schema] | str:
    try:
        return decode_write_of(message.write_request, tablet_schemas, schemas)
    except (CorruptionError, Unsupported) as error:
        return f"row operations cannot be read: {error}"


# -- conditions --------------------------------------------------------------------------------------------------------
def _op_type(text: str) -> str:
    name = text.upper()
    name = name if name.endswith("_OP") or name == "NO_OP" else f"{name}_OP"
    known = [enum_name("kudu.consensus.OperationType", number) for number in range(7)]
    if name not in known:
        raise InvalidArgument(f"no kind of operation is called {text!r}",
                              advice=", ".join(n for n in known if not n.startswith(("number", "UNKNOWN"))))
    return name


def parse_time(value: int | str | None) -> int | None:
    """A hybrid time from a number, its text, or an ISO time. Raises InvalidArgument."""
    if value is None or isinstance(value, int):
        return value
    if value.strip().isdecimal():
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidArgument(f"neither a hybrid time nor an ISO time: {value!r}",
                              advice="a number as `wal dump` prints after the @, or 2026-01-31T12:00:00") from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return from_micros((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds)


def time_text(timestamp: int) -> str:
    """The wall clock of a hybrid time in UTC, or "-" beyond what calendars have."""
    try:
        return to_datetime(timestamp).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError):
        return "-"


def key_cells(schema: Schema, key: Sequence[KeyPart]) -> list[bytes]:
    """The key's cells from one value a key column. Raises InvalidArgument."""
    columns = schema.key_columns
    if len(key) != len(columns):
        raise InvalidArgument(f"the key has {len(columns)} columns ({', '.join(c.name for c in columns)}), "
                              f"{len(key)} values were given")
    return [_key_cell(column, part) for column, part in zip(columns, key, strict=True)]


def _key_cell(column: ColumnSchema, part: KeyPart) -> bytes:
    if column.type.is_binary:
        if isinstance(part, int):
            part = str(part)
        return part.encode() if isinstance(part, str) else part
    try:
        number = int(Decimal(part if not isinstance(part, bytes) else part.decode()).scaleb(column.scale))
        return number.to_bytes(column.type.width_bytes, "little", signed=True)
    except (InvalidOperation, OverflowError, UnicodeDecodeError, ValueError):
        raise InvalidArgument(f"{part!r} is no value of key column {column.name!r} ({column.type.name})") from None
