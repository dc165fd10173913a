"""Every row operation of a log as a row of a table: who wrote what when, and what became of it. Read-only.

Columns: term, index, timestamp (hybrid time), op (INSERT, UPSERT, ...), outcome, set_columns (what the client gave a
value), then every column that the table had in this log, by its last name; a cell that the operation says nothing of is
null. An insert has its defaults filled in, an update and a delete only what they name. A table's column that is named
like one of the first six, or like another that was dropped, has its id added: `op#12`.

    outcome   applied     the COMMIT says that the row was changed
              failed      the server refused it
              ignored     it changed nothing (an _IGNORE operation, or nothing to do)
              flushed     the COMMIT was rewritten at a restart: applied to a store that is flushed, or ignored
              pending     there is no COMMIT
              replaced    a later term put another operation in its place

The log is read twice, for the COMMIT comes after the operation; one small value an operation is kept in between.
Up to damage everything is exported, then the typed error is raised.
May not touch: anything but the segments and `out`. pyarrow is imported only for its two formats.
"""
from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final, Literal

from kudu_storage.common.cell_text import PythonValue, json_value, python_value
from kudu_storage.common.row_codec import RowOperation
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, CorruptionError, InvalidArgument
from kudu_storage.wal.entries import (
    ALTER_SCHEMA_OP,
    COMMIT,
    REPLICATE,
    WRITE_OP,
    SchemaCache,
    SchemaHistory,
    alter_failed,
    decode_write_of,
    log_entries,
    schema_of_alter,
)

Format = Literal["jsonl", "csv", "arrow", "parquet"]
FORMATS: Final = ("jsonl", "csv", "arrow", "parquet")
META_COLUMNS: Final = ("term", "index", "timestamp", "op", "outcome", "set_columns")
_OUTCOMES: Final = ("applied", "failed", "ignored", "flushed", "pending", "replaced")
_APPLIED, _FAILED, _IGNORED, _FLUSHED, _PENDING, _REPLACED = range(len(_OUTCOMES))
_BATCH_ROWS: Final = 10_000


@dataclass(slots=True)
class _Fates:
    """What the first pass learns. A place is the number of a REPLICATE's entry in the log.

    outcomes: a byte a row of each committed write; without an entry it is pending or replaced. alters: the schemas of
    the ALTERs that were not refused.
    """

    outcomes: dict[int, bytes] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)
    first_schema: Schema | None = None
    alters: dict[int, Schema] = field(default_factory=dict)
    entries: int = 0                                                    # read before the end or the damage
    error: CorruptionError | None = None

    def columns(self) -> dict[int, ColumnSchema]:
        """Every column that the table had, by id, as it was last."""
        schemas = [*([self.first_schema] if self.first_schema else []), *(s for _, s in sorted(self.alters.items()))]
        return {column.id: column for schema in schemas for column in schema if column.id is not None}


@dataclass(slots=True)
class ExportRow:
    """One row operation. `cells`: by column id."""

    term: int
    index: int
    timestamp: int
    op: str
    outcome: str
    set_columns: list[int]
    cells: dict[int, bytes | None]


def export(source: str | os.PathLike[str], out: str | os.PathLike[str] | BinaryIO, format: str = "jsonl") -> int:
    """Write all row operations of a log folder, or of one segment file; returns how many.

    out: a path, or a binary stream that stays open. Values in "jsonl" as in kudu_storage.common.cell_text.json_value;
    "csv" the same, null as nothing; "arrow" is the Arrow IPC stream format.

    Raises InvalidArgument for an unknown format, ImportError without pyarrow, what opening segments raises, and for
    damage the typed error after everything before it is written.
    """
    if format not in FORMATS:
        raise InvalidArgument(f"unknown format {format!r}", advice=", ".join(FORMATS))
    writer = {"jsonl": _write_jsonl, "csv": _write_csv, "arrow": _write_arrow, "parquet": _write_parquet}[format]
    fates = _read_fates(source)
    counted = _Counted(_rows(source, fates))
    columns = fates.columns()
    with open(out, "wb") if isinstance(out, str | os.PathLike) else nullcontext(out) as stream:
        writer(stream, _names(columns), columns, counted)
    if fates.error is not None:
        raise fates.error
    return counted.count


class _Counted:
    def __init__(self, rows: Iterable[ExportRow]) -> None:
        self.rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[ExportRow]:
        for row in self.rows:
            self.count += 1
            yield row


# -- reading -----------------------------------------------------------------------------------------------------------
def _read_fates(source: str | os.PathLike[str]) -> _Fates:
    fates = _Fates()
    logged: dict[int, int] = {}         # index -> place of its REPLICATE, while it has no COMMIT
    try:
        for place, (segment, entry) in enumerate(log_entries(source)):
            if fates.first_schema is None:
                fates.first_schema = Schema.from_pb(segment.header.schema)
            if entry.type == REPLICATE:
                _replace(fates, logged, entry.replicate.id.index)
                logged[entry.replicate.id.index] = place
                if entry.replicate.op_type == ALTER_SCHEMA_OP:
                    fates.alters[place] = schema_of_alter(entry.replicate)
            elif entry.type == COMMIT:
                _note_commit(fates, logged.pop(entry.commit.commited_op_id.index, None), entry.commit)
            fates.entries = place + 1
    except CorruptionError as error:
        if fates.first_schema is None:
            raise
        fates.error = error
    return fates


def _note_commit(fates: _Fates, place: int | None, commit: Any) -> None:
    if place is None:
        return          # its REPLICATE is older than this log
    if commit.op_type == WRITE_OP:
        fates.outcomes[place] = bytes(_outcome(op) for op in commit.result.ops)
    elif commit.op_type == ALTER_SCHEMA_OP and alter_failed(commit):
        fates.alters.pop(place, None)


def _replace(fates: _Fates, logged: dict[int, int], index: int) -> None:
    if index in logged:
        for void in [i for i in logged if i >= index]:
            fates.replaced.add(logged.pop(void))


def _outcome(result: Any) -> int:
    if result.HasField("failed_status"):
        return _FAILED
    if result.skip_on_replay:
        return _FLUSHED
    return _APPLIED if result.mutated_stores else _IGNORED


def _rows(source: str | os.PathLike[str], fates: _Fates) -> Iterator[ExportRow]:
    if fates.first_schema is None:
        return
    schemas = SchemaCache()
    history = SchemaHistory(fates.first_schema)
    for place, (_, entry) in enumerate(islice(log_entries(source), fates.entries)):
        if entry.type == REPLICATE:
            candidates = history.candidates(entry.replicate.id.index)
            if place in fates.alters:
                history.alter(entry.replicate.id.index, fates.alters[place])
            elif entry.replicate.op_type == WRITE_OP:
                yield from _write_rows(entry.replicate, candidates, schemas, fates, place)


def _write_rows(message: Any, candidates: list[Schema], schemas: SchemaCache, fates: _Fates,
                place: int) -> Iterator[ExportRow]:
    outcomes = fates.outcomes.get(place)
    operations, schema = decode_write_of(message.write_request, candidates, schemas)
    for i, operation in enumerate(operations):
        if outcomes is None:
            outcome = _REPLACED if place in fates.replaced else _PENDING
        else:
            outcome = outcomes[i] if i < len(outcomes) else _IGNORED
        yield ExportRow(message.id.term, message.id.index, message.timestamp, operation.op.name, _OUTCOMES[outcome],
                        [_id(schema, position) for position in sorted(_given(operation, schema))],
                        {_id(schema, position): cell for position, cell in operation.cells.items()})


def _given(operation: RowOperation, schema: Schema) -> set[int]:
    """Positions of the columns that the client gave a value; of updates and deletes also the key."""
    return operation.isset | {i for i in operation.cells if i < schema.key_column_count}


def _id(schema: Schema, position: int) -> int:
    found = schema.columns[position].id
    if found is None:
        raise BadFormat("the tablet's schema has columns without ids")
    return found


def _names(columns: dict[int, ColumnSchema]) -> dict[int, str]:
    """A name for each column id, no two alike."""
    names: dict[int, str] = {}
    taken = set(META_COLUMNS)
    for column_id in sorted(columns, reverse=True):     # a dropped column gives way to the newer one of its name
        name = columns[column_id].name
        names[column_id] = name if name not in taken else f"{name}#{column_id}"
        taken.add(name)
    return dict(sorted(names.items()))


# -- writing -----------------------------------------------------------------------------------------------------------
def _write_jsonl(out: BinaryIO, names: dict[int, str], columns: dict[int, ColumnSchema],
                 rows: Iterable[ExportRow]) -> None:
    for row in rows:
        line = json.dumps(_json_row(row, names, columns), ensure_ascii=False, separators=(",", ":"))
        out.write(line.encode("utf-8") + b"\n")


def _json_row(row: ExportRow, names: dict[int, str], columns: dict[int, ColumnSchema]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "term": row.term, "index": row.index, "timestamp": row.timestamp, "op": row.op, "outcome": row.outcome,
        "set_columns": [names[i] for i in row.set_columns],
    }
    for column_id, name in names.items():
        shown[name] = _lenient(json_value, columns[column_id], row.cells.get(column_id))
    return shown


def _lenient(convert: Any, column: ColumnSchema, cell: bytes | None) -> Any:
    """Text that is not UTF-8 is shown with escapes instead of ending the export."""
    try:
        return convert(column, cell)
    except BadFormat:
        if cell is None or not column.type.is_binary:
            raise
        return cell.decode("utf-8", "backslashreplace")


def _write_csv(out: BinaryIO, names: dict[int, str], columns: dict[int, ColumnSchema],
               rows: Iterable[ExportRow]) -> None:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*META_COLUMNS, *names.values()])
    for row in rows:
        shown = _json_row(row, names, columns)
        shown["set_columns"] = " ".join(shown["set_columns"])
        writer.writerow([_csv_value(value) for value in shown.values()])
    text.detach()


def _csv_value(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


# -- Arrow -------------------------------------------------------------------------------------------------------------
def _write_arrow(out: BinaryIO, names: dict[int, str], columns: dict[int, ColumnSchema],
                 rows: Iterable[ExportRow]) -> None:
    pa = _pyarrow()
    schema = _arrow_schema(pa, names, columns)
    with pa.ipc.new_stream(out, schema) as writer:
        for batch in _record_batches(pa, schema, names, columns, rows):
            writer.write_batch(batch)


def _write_parquet(out: BinaryIO, names: dict[int, str], columns: dict[int, ColumnSchema],
                   rows: Iterable[ExportRow]) -> None:
    pa = _pyarrow()
    import pyarrow.parquet as pq

    schema = _arrow_schema(pa, names, columns)
    with pq.ParquetWriter(out, schema) as writer:
        for batch in _record_batches(pa, schema, names, columns, rows):
            writer.write_batch(batch)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ImportError("the formats arrow and parquet need pyarrow: pip install 'kudu-storage[arrow]'") from None
    return pyarrow


def _arrow_schema(pa: Any, names: dict[int, str], columns: dict[int, ColumnSchema]) -> Any:
    meta = [("term", pa.int64()), ("index", pa.int64()), ("timestamp", pa.uint64()), ("op", pa.string()),
            ("outcome", pa.string()), ("set_columns", pa.list_(pa.string()))]
    return pa.schema([*meta, *((name, _arrow_type(pa, columns[i])) for i, name in names.items())])


def _arrow_type(pa: Any, column: ColumnSchema) -> Any:
    if column.type.is_decimal:
        return pa.decimal128(column.precision, column.scale)
    return {
        "INT8": pa.int8(), "INT16": pa.int16(), "INT32": pa.int32(), "INT64": pa.int64(), "BOOL": pa.bool_(),
        "FLOAT": pa.float32(), "DOUBLE": pa.float64(), "STRING": pa.string(), "VARCHAR": pa.string(),
        "BINARY": pa.binary(), "DATE": pa.date32(), "UNIXTIME_MICROS": pa.timestamp("us", tz="UTC"),
    }[column.type.name]


def _record_batches(pa: Any, schema: Any, names: dict[int, str], columns: dict[int, ColumnSchema],
                    rows: Iterable[ExportRow]) -> Iterator[Any]:
    source = iter(rows)
    while part := list(islice(source, _BATCH_ROWS)):
        arrays = [
            pa.array([r.term for r in part], pa.int64()), pa.array([r.index for r in part], pa.int64()),
            pa.array([r.timestamp for r in part], pa.uint64()), pa.array([r.op for r in part], pa.string()),
            pa.array([r.outcome for r in part], pa.string()),
            pa.array([[names[i] for i in r.set_columns] for r in part], pa.list_(pa.string())),
        ]
        for column_id in names:
            column = columns[column_id]
            values = [_lenient(python_value, column, r.cells.get(column_id)) for r in part]
            arrays.append(_arrow_array(pa, column, values))
        yield pa.record_batch(arrays, schema=schema)


def _arrow_array(pa: Any, column: ColumnSchema, values: list[PythonValue]) -> Any:
    if column.type.name == "DATE":
        return pa.array(values, pa.int32()).cast(pa.date32())
    if column.type.name == "UNIXTIME_MICROS":
        return pa.array(values, pa.int64()).cast(_arrow_type(pa, column))
    return pa.array(values, _arrow_type(pa, column))
