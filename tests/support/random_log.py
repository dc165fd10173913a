"""Random valid histories of a tablet as log segments, with the rows that they must give.

The rows come from the model in this file, which decides every row operation's outcome when it commits; replay, native
or reference, must arrive at the same from the COMMIT entries. One seed, one log.

A history has terms that begin with a NO_OP, writes of every kind, changes of the schema and the configuration,
operations that a later term replaces, COMMITs out of order, a tail without COMMITs, batches of several entries,
segments of several codecs, and an unclosed last segment.
"""
from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from kudu_storage.common import types
from kudu_storage.common.keys import encode_key
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec

NO_OP, WRITE_OP, ALTER_SCHEMA_OP, CHANGE_CONFIG_OP = 1, 3, 4, 5
OP_NAMES: Final = {NO_OP: "NO_OP", WRITE_OP: "WRITE_OP", ALTER_SCHEMA_OP: "ALTER_SCHEMA_OP",
                   CHANGE_CONFIG_OP: "CHANGE_CONFIG_OP"}
TABLET_ID: Final = b"0123456789abcdef0123456789abcdef"
FIRST_TIMESTAMP: Final = 7_354_150_000_000_000_000
# kudu.AppStatusPB.ErrorCode
NOT_FOUND, INVALID_ARGUMENT, ALREADY_PRESENT, IMMUTABLE = 1, 4, 6, 20

Cells = dict[int, bytes | None]     # by column id
Rows = dict[bytes, Cells]           # by encoded key


@dataclass
class RandomLog:
    """Segment files in order, and what they must give."""

    seed: int
    segments: list[bytes]
    first_schema: Schema
    last_schema: Schema
    entries: list[Any]                              # LogEntryPB, in file order
    rows: Rows                                      # committed, under the last schema
    snapshots: list[tuple[int, Rows]]               # after the operation with this timestamp, under the last schema
    pending: list[OpId]
    replaced: list[OpId]
    last_opid: OpId
    committed_index: int
    ops_by_type: Counter[str]
    codecs: list[spec.Codec]

    def rows_at(self, timestamp: int) -> Rows:
        """The rows after all operations with a timestamp < `timestamp`."""
        rows: Rows = {}
        for since, snapshot in self.snapshots:
            if since < timestamp:
                rows = snapshot
        return rows


@dataclass
class _Row:
    """One row operation as the client meant it: cells by column name."""

    op: RowOp
    cells: dict[str, bytes | None]


@dataclass
class _Operation:
    opid: OpId
    timestamp: int
    op_type: int
    message: Any
    schema_before: Schema           # of the tablet when this operation is applied
    counter_before: int
    rows: list[_Row] = field(default_factory=list)
    new_schema: Schema | None = None
    fails: bool = False             # an ALTER that is refused


def random_log(seed: int, *, steps: int = 80) -> RandomLog:
    """A log of about `steps` operations."""
    history = _History(random.Random(seed))
    for _ in range(steps):
        history.step()
    return history.finish(seed)


# -- schemas and values ------------------------------------------------------------------------------------------------
def _column(name: str, type_name: str, **rest: Any) -> ColumnSchema:
    extra: dict[str, Any] = {}
    if type_name.startswith("DECIMAL"):
        extra = {"precision": {"DECIMAL32": 9, "DECIMAL64": 18, "DECIMAL128": 38}[type_name], "scale": 2}
    elif type_name == "VARCHAR":
        extra = {"length": 100}
    return ColumnSchema(name=name, type=types.BY_NAME[type_name], **(extra | rest))


def _with_ids(columns: list[ColumnSchema]) -> Schema:
    return Schema(tuple(replace(c, id=10 + i) for i, c in enumerate(columns)))


def _schemas() -> list[Schema]:
    every_type = [_column(f"n_{name.lower()}", name, nullable=True) for name in types.BY_NAME]
    return [
        _with_ids([_column("k", "INT32", is_key=True), _column("v", "STRING", nullable=True)]),
        _with_ids([_column("k", "INT64", is_key=True)]),
        _with_ids([_column("a", "STRING", is_key=True), _column("b", "INT8", is_key=True),
                   _column("c", "BINARY", is_key=True), _column("d", "DOUBLE"),
                   _column("e", "BOOL", nullable=True, immutable=True)]),
        _with_ids([_column("k", "INT16", is_key=True), *every_type]),
        _with_ids([_column("k", "UNIXTIME_MICROS", is_key=True),
                   _column("fixed", "INT32", nullable=True, immutable=True),
                   _column("count", "INT64", read_default=bytes(8), write_default=b"\x07" + bytes(7)),
                   _column("name", "VARCHAR", write_default=b"none")]),
        _with_ids([_column("k", "INT32", is_key=True),
                   _column("auto_incrementing_id", "INT64", is_key=True, auto_incrementing=True),
                   _column("v", "DECIMAL64", nullable=True)]),
        _with_ids([_column("k", "VARCHAR", is_key=True), _column("x", "FLOAT"), _column("y", "DATE"),
                   _column("z", "DECIMAL128")]),
    ]


def _cell(rng: random.Random, column: ColumnSchema) -> bytes:
    kind = column.type
    if column.is_key:
        return _key_cell(rng, column)
    if kind.name == "BOOL":
        return bytes([rng.randrange(2)])
    if kind.name == "FLOAT":
        return struct.pack("<f", rng.choice([0.0, -0.0, 1.5, float("inf"), float("nan"), rng.uniform(-1e6, 1e6)]))
    if kind.name == "DOUBLE":
        return struct.pack("<d", rng.choice([0.0, 5e-324, -1e300, float("-inf"), rng.uniform(-1e6, 1e6)]))
    if kind.name == "BINARY":
        return rng.randbytes(rng.choice([0, 1, 5, 300]))
    if kind.is_binary:
        return rng.choice(["", "x", "ñandú", "a\x00b", "中文", "z" * 90, f"text {rng.randrange(1000)}"]).encode()
    if kind.name == "DATE":
        return rng.choice([-719162, 0, 2932896, rng.randrange(30000)]).to_bytes(4, "little", signed=True)
    bits = 8 * kind.width_bytes
    limit = 10**column.precision - 1 if kind.is_decimal else 2**(bits - 1) - 1
    number = rng.choice([0, 1, -1, limit, -limit, rng.randint(-limit, limit)])
    return number.to_bytes(kind.width_bytes, "little", signed=True)


def _key_cell(rng: random.Random, column: ColumnSchema) -> bytes:
    """From a small set, so that operations meet on the same rows."""
    if column.type.is_binary:
        return rng.choice([b"", b"a", b"a\x00", b"a\x00\x01", b"b", b"key"])
    return rng.choice([-2, -1, 0, 1, 2, 7]).to_bytes(column.type.width_bytes, "little", signed=True)


# -- the history -------------------------------------------------------------------------------------------------------
class _History:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.model = _Model(rng.choice(_schemas()))
        self.first_schema = self.model.schema
        self.versions = {id(self.first_schema): 0}      # by the object: an ALTER may make an equal schema again
        # What the leader knows when it takes an operation: all that is logged before it.
        self.tail_schema = self.model.schema
        self.tail_counter = 0
        self.next_column_id = 100
        self.term = 1
        self.next_index = 1
        self.timestamp = FIRST_TIMESTAMP
        self.logged: list[_Operation] = []              # not committed, in index order
        self.commits: list[Any] = []                    # COMMIT entries that are not written yet
        self.replaced: list[OpId] = []
        self.last_opid = MINIMUM_OPID
        self.ops_by_type: Counter[str] = Counter()
        # (entry, the tablet's schema when it was written)
        self.written: list[tuple[Any, Schema]] = []
        self.log(NO_OP)

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.62:
            self.log(WRITE_OP)
        elif choice < 0.68:
            self.log(ALTER_SCHEMA_OP)
        elif choice < 0.70:
            self.log(CHANGE_CONFIG_OP)
        elif choice < 0.75:
            self.new_term()
        else:
            self.commit_some(self.rng.randint(1, 6))
        while self.commits and self.rng.random() < 0.5:
            # The COMMITs of operations that are applied at the same time come in any order.
            self.write_entry(self.commits.pop(self.rng.randrange(min(3, len(self.commits)))))

    def finish(self, seed: int) -> RandomLog:
        self.commit_some(self.rng.choice([0, 1, len(self.logged)]))
        while self.commits:
            self.write_entry(self.commits.pop(self.rng.randrange(len(self.commits))))
        segments, codecs = self.segments()
        last = self.model.schema
        return RandomLog(
            seed=seed, segments=segments, first_schema=self.first_schema, last_schema=last,
            entries=[entry for entry, _ in self.written], rows=_under(last, self.model.rows),
            snapshots=[(timestamp, _under(last, rows)) for timestamp, rows in self.model.snapshots],
            pending=[op.opid for op in self.logged], replaced=self.replaced, last_opid=self.last_opid,
            committed_index=self.model.applied_index, ops_by_type=self.ops_by_type, codecs=codecs)

    def write_entry(self, entry: Any) -> None:
        self.written.append((entry, self.model.schema))

    # -- terms
    def new_term(self) -> None:
        """A new leader, which may not have the last operations that are not committed."""
        self.term += self.rng.choice([1, 1, 2])
        keep = self.rng.randint(0, len(self.logged))
        gone = self.logged[keep:]
        del self.logged[keep:]
        if gone:
            self.replaced += [op.opid for op in gone]
            self.next_index = gone[0].opid.index
            self.tail_schema = gone[0].schema_before
            self.tail_counter = gone[0].counter_before
        self.log(NO_OP)

    # -- operations
    def log(self, op_type: int) -> None:
        opid = OpId(self.term, self.next_index)
        self.timestamp += self.rng.choice([1, 4096, 4_096_000])
        message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=self.timestamp, op_type=op_type)
        message.id.term, message.id.index = opid
        operation = _Operation(opid, self.timestamp, op_type, message, self.tail_schema, self.tail_counter)
        if op_type == WRITE_OP:
            self.fill_write(operation)
        elif op_type == ALTER_SCHEMA_OP:
            self.fill_alter(operation)
        elif op_type == CHANGE_CONFIG_OP:
            record = message.change_config_record
            record.tablet_id = TABLET_ID
            record.old_config.opid_index = -1
            record.new_config.opid_index = -1
        else:
            message.noop_request.SetInParent()
        self.logged.append(operation)
        self.next_index += 1
        self.last_opid = opid
        self.ops_by_type[OP_NAMES[op_type]] += 1
        entry: Any = message_class("kudu.log.LogEntryPB")(type=1)
        entry.replicate.CopyFrom(message)
        self.write_entry(entry)
        if operation.fails:
            # Nothing that is logged after it may depend on an outcome that the log does not tell.
            self.commit_some(len(self.logged))

    def fill_write(self, operation: _Operation) -> None:
        client = self.client_schema()
        operation.rows = [self.random_row(client) for _ in range(self.rng.choice([1, 1, 2, 5, 12]))]
        request = operation.message.write_request
        request.tablet_id = TABLET_ID
        client.to_pb(request.schema)
        positions = [(row.op, {i: row.cells[c.name] for i, c in enumerate(client) if c.name in row.cells})
                     for row in operation.rows]
        rows, indirect = encode_row_operations(positions, client)
        request.row_operations.rows = rows
        if indirect:
            request.row_operations.indirect_data = indirect
        if any(c.auto_incrementing for c in client):
            request.auto_incrementing_column.auto_incrementing_counter = self.tail_counter
            self.tail_counter = _give_numbers(operation.rows, self.tail_schema, self.tail_counter)

    def client_schema(self) -> Schema:
        """The tablet's columns as a client may have them: no ids, other order, optional columns left out."""
        keys = list(self.tail_schema.key_columns)
        others = [c for c in self.tail_schema.columns[len(keys):]
                  if not (c.nullable or c.write_default is not None) or self.rng.random() < 0.9]
        if self.rng.random() < 0.3:
            self.rng.shuffle(others)
        return Schema(tuple(replace(c, id=None, read_default=None, write_default=None) for c in (*keys, *others)))

    def random_row(self, client: Schema) -> _Row:
        op = self.rng.choice(list(RowOp))
        cells: dict[str, bytes | None] = {}
        existing = self.rng.choice(list(self.model.rows.values())) if self.model.rows and self.rng.random() < 0.5 \
            else None
        for column, tablet_column in zip(client.key_columns, self.tail_schema.key_columns, strict=True):
            if column.auto_incrementing and op in (RowOp.INSERT, RowOp.INSERT_IGNORE):
                continue
            if column.auto_incrementing:
                cells[column.name] = self.rng.randint(0, 12).to_bytes(8, "little")
            else:
                cells[column.name] = _cell(self.rng, column)
            if existing is not None and tablet_column.id in existing:
                cells[column.name] = existing[tablet_column.id]
        set_share = 0.01 if op.is_delete else self.rng.choice([0.2, 0.8, 1.0])
        for column in client.columns[client.key_column_count:]:
            required = op.is_insert and not column.nullable and self.rng.random() < 0.95
            if required or self.rng.random() < set_share:
                is_null = self.rng.random() < (0.3 if column.nullable else 0.01)
                cells[column.name] = None if is_null else _cell(self.rng, column)
        return _Row(op, cells)

    def fill_alter(self, operation: _Operation) -> None:
        new = self.altered_schema()
        operation.new_schema = new
        operation.fails = self.rng.random() < 0.15
        request = operation.message.alter_schema_request
        request.tablet_id = TABLET_ID
        new.to_pb(request.schema)
        request.schema_version = operation.opid.index
        self.versions[id(new)] = operation.opid.index
        if not operation.fails:
            self.tail_schema = new

    def altered_schema(self) -> Schema:
        keys = list(self.tail_schema.key_columns)
        others = list(self.tail_schema.columns[len(keys):])
        change = self.rng.choice(["add", "add_default", "drop", "rename", "default"] if others else ["add"])
        if change == "add":
            others.append(_column(f"added_{self.next_column_id}", self.rng.choice(["INT32", "STRING", "DECIMAL128"]),
                                  nullable=True, id=self.take_column_id()))
        elif change == "add_default":
            others.append(_column(f"added_{self.next_column_id}", "STRING", id=self.take_column_id(),
                                  read_default=b"before", write_default=b"before"))
        elif change == "drop":
            others.pop(self.rng.randrange(len(others)))
        else:
            i = self.rng.randrange(len(others))
            if change == "rename":
                others[i] = replace(others[i], name=f"renamed_{operation_name(others[i])}")
            else:
                others[i] = replace(others[i], write_default=_cell(self.rng, others[i]))
        return Schema((*keys, *others))

    def take_column_id(self) -> int:
        """Never the same twice, even if an ALTER is replaced: a master gives the ids out."""
        self.next_column_id += 1
        return self.next_column_id

    # -- commits
    def commit_some(self, count: int) -> None:
        for operation in self.logged[:count]:
            entry: Any = message_class("kudu.log.LogEntryPB")(type=2)
            entry.commit.op_type = operation.op_type
            entry.commit.commited_op_id.term, entry.commit.commited_op_id.index = operation.opid
            self.model.apply(operation, entry.commit)
            self.commits.append(entry)
        del self.logged[:count]

    # -- files
    def segments(self) -> tuple[list[bytes], list[spec.Codec]]:
        """Entries in batches of one type, batches in segments."""
        segments: list[bytes] = []
        codecs: list[spec.Codec] = []
        rest = self.written
        while rest or not segments:
            count = self.rng.choice([3, 20, 60, len(rest)])
            batches = self.batches([entry for entry, _ in rest[:count]])
            header: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=TABLET_ID,
                                                                       sequence_number=len(segments) + 1)
            schema = rest[0][1] if segments else self.first_schema
            schema.to_pb(header.schema)
            header.schema_version = self.versions[id(schema)]
            rest = rest[count:]
            codecs.append(self.rng.choice(list(spec.Codec)))
            footer = spec.footer_of(batches, 1_700_000_000_000_000) if rest else None
            segments.append(spec.build_segment(header, batches, codecs[-1], footer=footer))
        segments[-1] += self.rng.choice([b"", bytes(100), bytes(5000), b"torn\x00bytes at the end of a segment"])
        return segments, codecs

    def batches(self, entries: list[Any]) -> list[list[Any]]:
        batches: list[list[Any]] = []
        for entry in entries:
            if batches and batches[-1][0].type == entry.type and self.rng.random() < 0.4:
                batches[-1].append(entry)
            else:
                batches.append([entry])
        return batches


def operation_name(column: ColumnSchema) -> str:
    """A short new name; renames can pile up."""
    return column.name.rsplit("_", 1)[-1]


def _give_numbers(rows: list[_Row], schema: Schema, counter: int) -> int:
    """Fill in what the server gives out for the auto-incrementing column; returns the counter afterwards."""
    name = next(c.name for c in schema if c.auto_incrementing)
    for row in rows:
        if row.op in (RowOp.INSERT, RowOp.INSERT_IGNORE):
            counter += 1
            row.cells[name] = counter.to_bytes(8, "little")
        elif row.op.is_upsert:
            counter = max(counter, int.from_bytes(row.cells[name] or b"", "little"))
    return counter


def _under(schema: Schema, rows: Mapping[bytes, Cells]) -> Rows:
    """Rows as the columns of `schema`, by id; what a row was written without comes from the column's read default."""
    return {key: {c.id: row.get(c.id, c.read_default) for c in schema if c.id is not None}
            for key, row in sorted(rows.items())}


# -- the model ---------------------------------------------------------------------------------------------------------
class _Refused(Exception):
    """A row that the server refuses."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Model:
    """What a tablet would have done. Fills in COMMIT results."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows: Rows = {}
        self.snapshots: list[tuple[int, Rows]] = []
        self.applied_index = 0
        self.memrowset_id = 0
        self.born: dict[bytes, int] = {}        # key -> MemRowSet that the row was inserted into

    def apply(self, operation: _Operation, commit: Any) -> None:
        self.applied_index = operation.opid.index
        if operation.op_type == WRITE_OP:
            for row in operation.rows:
                self.apply_row(row, commit.result.ops.add())
        elif operation.op_type == ALTER_SCHEMA_OP:
            self.apply_alter(operation, commit)
        self.snapshots.append((operation.timestamp, {key: dict(row) for key, row in self.rows.items()}))

    def apply_alter(self, operation: _Operation, commit: Any) -> None:
        if operation.fails:
            status = commit.result.ops.add().failed_status
            status.code, status.message = INVALID_ARGUMENT, "the model refuses this one"
        elif operation.new_schema is not None:
            self.schema = operation.new_schema
            self.memrowset_id += 1      # an ALTER flushes the MemRowSet

    def apply_row(self, row: _Row, result: Any) -> None:
        try:
            self.change(row, result)
        except _Refused as refused:
            result.failed_status.code, result.failed_status.message = refused.code, str(refused)

    def change(self, row: _Row, result: Any) -> None:
        if row.op.is_insert:
            self.insert(row, self.full_row(row), result)
        elif row.op.is_update:
            self.update(row, self.changes(row), result)
        else:
            if len(row.cells) > self.schema.key_column_count:
                raise _Refused(INVALID_ARGUMENT, "a DELETE with values")
            self.delete(row, result)

    def key(self, row: _Row) -> bytes:
        return encode_key(self.schema, [row.cells[c.name] or b"" for c in self.schema.key_columns])

    def full_row(self, row: _Row) -> Cells:
        cells: Cells = {}
        for column in self.schema:
            if column.name not in row.cells and column.write_default is None and not column.nullable:
                raise _Refused(INVALID_ARGUMENT, f"no value for {column.name}")
            cell = row.cells.get(column.name, column.write_default)
            if cell is None and not column.nullable:
                raise _Refused(INVALID_ARGUMENT, f"NULL for {column.name}")
            cells[_id(column)] = cell
        return cells

    def changes(self, row: _Row) -> Cells:
        cells: Cells = {}
        for column in self.schema.columns[self.schema.key_column_count:]:
            if column.name not in row.cells:
                continue
            if column.immutable:
                if row.op is RowOp.UPDATE:
                    raise _Refused(IMMUTABLE, f"{column.name} is immutable")
                continue
            if row.cells[column.name] is None and not column.nullable:
                raise _Refused(INVALID_ARGUMENT, f"NULL for {column.name}")
            cells[_id(column)] = row.cells[column.name]
        if not cells:
            raise _Refused(INVALID_ARGUMENT, "an UPDATE of nothing")
        return cells

    def insert(self, row: _Row, cells: Cells, result: Any) -> None:
        key = self.key(row)
        if key not in self.rows:
            self.rows[key] = cells
            self.born[key] = self.memrowset_id
            self.mutated(key, result)
        elif row.op.is_upsert:
            self.upsert(row, key, cells, result)
        elif row.op is RowOp.INSERT:
            raise _Refused(ALREADY_PRESENT, "key already present")

    def upsert(self, row: _Row, key: bytes, cells: Cells, result: Any) -> None:
        given = [c for c in self.schema.columns[self.schema.key_column_count:] if c.name in row.cells]
        if row.op is RowOp.UPSERT and any(c.immutable for c in given):
            raise _Refused(IMMUTABLE, "an immutable column")
        changed = {_id(c): cells[_id(c)] for c in given if not c.immutable}
        if changed:
            self.rows[key] = self.rows[key] | changed
            self.mutated(key, result)

    def update(self, row: _Row, changes: Cells, result: Any) -> None:
        key = self.key(row)
        if key in self.rows:
            self.rows[key] = self.rows[key] | changes
            self.mutated(key, result)
        elif row.op is RowOp.UPDATE:
            raise _Refused(NOT_FOUND, "key not found")

    def delete(self, row: _Row, result: Any) -> None:
        key = self.key(row)
        if key in self.rows:
            del self.rows[key]
            self.mutated(key, result)
        elif row.op is RowOp.DELETE:
            raise _Refused(NOT_FOUND, "key not found")

    def mutated(self, key: bytes, result: Any) -> None:
        store = result.mutated_stores.add()
        if self.born[key] == self.memrowset_id:
            store.mrs_id = self.memrowset_id
        else:
            store.rs_id, store.dms_id = self.born[key], 0


def _id(column: ColumnSchema) -> int:
    assert column.id is not None
    return column.id
