"""Replay of a log in the plainest way: dictionaries, one entry at a time. The oracle of native replay.

It takes parsed LogEntryPB messages in file order and the first segment's schema, and shares nothing with the native
code but the schema classes. Its own proof is that it gives the rows of the stored tablets' truth files.

P1  Operations are applied in index order, each at most once.
P2  A REPLICATE of index i voids every logged operation of index >= i that has no COMMIT.
P3  The COMMIT says, row by row, what happened; only pending operations (asked for) are worked out from the rows.
P4  A log that does not start at index 1, or whose COMMITs were rewritten (`skip_on_replay`), is not whole: a key that
    it has not told about is unknown then, not absent, and a row is shown only when all of it follows from this log.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kudu_storage.common.hybrid_time import TIMESTAMP_MAX
from kudu_storage.common.keys import encode_key
from kudu_storage.common.limits import CELL_BYTES_MAX
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.common.row_codec import RowOp, RowOperation, decode_row_operations
from kudu_storage.common.schema import Schema
from kudu_storage.errors import Contradiction, MissingOperations
from kudu_storage.protos import enum_name

REPLICATE, COMMIT = 1, 2
WRITE_OP, ALTER_SCHEMA_OP = 3, 4

Cells = dict[int, bytes | None]     # by column id


@dataclass
class Version:
    """What a row is from `timestamp` on. `cells` is None when it is deleted."""

    timestamp: int
    cells: Cells | None


@dataclass
class Replayed:
    """What a log says."""

    schema: Schema                                                          # the last one
    whole: bool = True
    versions: dict[bytes, list[Version]] = field(default_factory=dict)      # by encoded key, oldest first
    schemas: list[tuple[int, Schema]] = field(default_factory=list)         # with the timestamp of its ALTER
    pending: list[OpId] = field(default_factory=list)
    replaced: list[OpId] = field(default_factory=list)
    last_opid: OpId = MINIMUM_OPID
    committed_index: int = 0
    ops_by_type: Counter[str] = field(default_factory=Counter)
    orphaned_commits: int = 0
    row_outcomes: Counter[str] = field(default_factory=Counter)             # applied, failed, ignored, unknown

    @property
    def rows(self) -> dict[bytes, Cells]:
        """All rows at the end, by encoded key in key order, with a cell for every column of the last schema."""
        return self.rows_at(TIMESTAMP_MAX)

    def rows_at(self, timestamp: int, schema: Schema | None = None) -> dict[bytes, Cells]:
        """The rows after all operations with a timestamp < `timestamp`, as `schema` (or the last one) has them."""
        shown = {}
        for key in sorted(self.versions):
            cells: Cells | None = None
            for version in self.versions[key]:
                if version.timestamp < timestamp:
                    cells = version.cells
            if cells is not None:
                shown[key] = {column.id: cells.get(column.id, column.read_default)
                              for column in (schema or self.schema) if column.id is not None}
        return shown

    def schema_at(self, timestamp: int) -> Schema:
        """The schema after all operations with a timestamp < `timestamp`."""
        return [schema for since, schema in self.schemas if since < timestamp][-1]


def replay(entries: Iterable[Any], schema: Schema, *, include_pending: bool = False,
           nothing_flushed: bool = False) -> Replayed:
    """Replay LogEntryPB messages. `schema` is the first segment's. Raises Contradiction or MissingOperations.

    `nothing_flushed`: the superblock says so (last_durable_mrs_id is -1). Then a COMMIT that was rewritten with
    `skip_on_replay` stands for an operation that changed nothing, since there was no flushed store to hold a change.

    Operations that have a COMMIT while one before them has none are applied at the end, in order: Raft commits in
    order, so the missing COMMIT was only not written yet. But not to rows that such a one without COMMIT names, nor
    past an ALTER without COMMIT.
    """
    entries = list(entries)
    state = _State(schema, whole=_is_whole(entries, nothing_flushed), nothing_flushed=nothing_flushed)
    for entry in entries:
        if entry.type == REPLICATE:
            state.replicate(entry.replicate)
        elif entry.type == COMMIT:
            state.commit(entry.commit)
    state.finish(include_pending)
    return state.result


def _is_whole(entries: list[Any], nothing_flushed: bool) -> bool:
    indexes = [e.replicate.id.index for e in entries if e.type == REPLICATE]
    rewritten = any(op.skip_on_replay for e in entries if e.type == COMMIT for op in e.commit.result.ops)
    return bool(indexes) and indexes[0] == 1 and (nothing_flushed or not rewritten)


class _State:
    def __init__(self, schema: Schema, *, whole: bool, nothing_flushed: bool) -> None:
        self.schema = schema
        self.result = Replayed(schema, whole=whole, schemas=[(-1, schema)])
        self.nothing_flushed = nothing_flushed
        self.logged: dict[int, Any] = {}        # index -> ReplicateMsg, not applied yet
        self.commits: dict[int, Any] = {}       # index -> CommitMsg of those
        self.first_index: int | None = None
        self.applied_index = 0
        self.in_doubt: set[bytes] = set()       # keys that an operation without COMMIT names, at the end

    # -- entries
    def replicate(self, message: Any) -> None:
        opid = OpId(message.id.term, message.id.index)
        self.result.ops_by_type[enum_name("kudu.consensus.OperationType", message.op_type)] += 1
        last = self.result.last_opid
        if self.first_index is None:
            self.first_index = opid.index
            self.applied_index = opid.index - 1
        elif opid.index > last.index + 1:
            raise MissingOperations(f"{opid} follows {last}")
        elif opid.term < last.term or (opid.index <= last.index and opid.term == last.term):
            raise Contradiction(f"{opid} follows {last}")
        if opid.index <= max(self.applied_index, self.result.committed_index):
            raise Contradiction(f"{opid} would replace a committed operation")
        for index in sorted(i for i in self.logged if i >= opid.index):
            self.result.replaced.append(_opid(self.logged.pop(index)))
        self.logged[opid.index] = message
        self.result.last_opid = opid

    def commit(self, message: Any) -> None:
        index = message.commited_op_id.index
        self.result.committed_index = max(self.result.committed_index, index)
        if self.first_index is None or index < self.first_index:
            self.result.orphaned_commits += 1
            return
        if index not in self.logged or index in self.commits:
            raise Contradiction(f"COMMIT of index {index}, which is not waiting for one")
        if self.logged[index].id.term != message.commited_op_id.term:
            raise Contradiction(f"COMMIT of {message.commited_op_id.term}.{index}, logged with another term")
        self.commits[index] = message
        while self.applied_index + 1 in self.commits:
            self.apply(self.applied_index + 1)

    def finish(self, include_pending: bool) -> None:
        self.result.pending = [_opid(m) for i, m in sorted(self.logged.items()) if i not in self.commits]
        for index in sorted(self.logged):
            if index in self.commits or include_pending:
                self.apply(index)
            elif self.logged[index].op_type == ALTER_SCHEMA_OP:
                break
            elif self.logged[index].op_type == WRITE_OP:
                self.in_doubt |= {encode_key(self.schema, o.key_cells(self.schema))
                                  for o in self.decoded(self.logged[index]) if o.failure is None}
        self.result.schema = self.schema

    # -- operations
    def apply(self, index: int) -> None:
        self.applied_index = index
        message = self.logged.pop(index)
        commit = self.commits.pop(index, None)
        if message.op_type == WRITE_OP:
            self.write(message, commit)
        elif message.op_type == ALTER_SCHEMA_OP and not _alter_failed(commit):
            self.schema = Schema.from_pb(message.alter_schema_request.schema)
            self.result.schemas.append((message.timestamp, self.schema))

    def decoded(self, message: Any) -> list[RowOperation]:
        request = message.write_request
        counter = request.auto_incrementing_column.auto_incrementing_counter \
            if request.HasField("auto_incrementing_column") else None
        return decode_row_operations(
            request.row_operations.rows, request.row_operations.indirect_data, Schema.from_pb(request.schema),
            self.schema, auto_incrementing_counter=counter, cell_bytes_max=CELL_BYTES_MAX)

    def write(self, message: Any, commit: Any | None) -> None:
        operations = self.decoded(message)
        results = [None] * len(operations) if commit is None else list(commit.result.ops)
        if len(results) != len(operations):
            raise Contradiction(f"{_opid(message)} has {len(operations)} rows, its COMMIT {len(results)} results")
        for operation, result in zip(operations, results, strict=True):
            outcome = self.row(operation, result, message.timestamp)
            self.result.row_outcomes[outcome] += 1

    # -- rows
    def row(self, operation: RowOperation, result: Any | None, timestamp: int) -> str:
        """Apply one row operation; says what became of it."""
        if result is not None and result.HasField("failed_status"):
            return "failed"
        if result is not None and not result.mutated_stores and (self.nothing_flushed or not result.skip_on_replay):
            return "ignored"
        if operation.failure is not None:
            if result is None:
                return "failed"
            raise Contradiction(f"COMMIT of a row that is refused: {operation.failure}")
        key = encode_key(self.schema, operation.key_cells(self.schema))
        if key in self.in_doubt:
            return "unknown"
        known = key in self.result.versions or self.result.whole
        cells = self.result.versions[key][-1].cells if key in self.result.versions else None
        # Rewritten COMMITs do not tell an operation that was ignored from one that did something.
        certain = result is not None and (not result.skip_on_replay or "IGNORE" not in operation.op.name)
        new = self.new_cells(operation, known, cells, certain, open_operation=result is None)
        if isinstance(new, str):
            return new
        self.result.versions.setdefault(key, []).append(Version(timestamp, new))
        return "applied"

    def new_cells(self, operation: RowOperation, known: bool, cells: Cells | None, certain: bool,
                  open_operation: bool) -> Cells | str | None:
        """The row's cells after the operation (None = deleted), or why it changes nothing that is known.

        `certain`: the log says that the operation did what it asks for.
        """
        whole_row = self.by_id(operation.cells)
        changes = self.by_id({i: operation.cells[i] for i in operation.isset
                              if i >= self.schema.key_column_count and not self.schema.columns[i].immutable})
        sets_all = len(changes) == len(self.schema) - self.schema.key_column_count
        refused = "ignored" if "IGNORE" in operation.op.name else "failed"
        if operation.op in (RowOp.INSERT, RowOp.INSERT_IGNORE):
            if cells is not None:
                return _impossible(operation, "the row exists") if certain else refused
            return whole_row if known or certain else "unknown"
        if operation.op.is_upsert:
            if cells is not None:
                names_immutable = any(self.schema.columns[i].immutable for i in operation.isset)
                return "failed" if open_operation and operation.op is RowOp.UPSERT and names_immutable \
                    else cells | changes
            return whole_row if known or sets_all else "unknown"
        if known and cells is None:
            return _impossible(operation, "there is no such row") if certain else refused
        if operation.op.is_delete:
            return None
        if cells is not None:
            return cells | changes
        return whole_row if sets_all and certain else "unknown"

    def by_id(self, cells: dict[int, bytes | None]) -> Cells:
        return {_id(self.schema, position): cell for position, cell in cells.items()}


def _id(schema: Schema, position: int) -> int:
    found = schema.columns[position].id
    if found is None:
        raise Contradiction("a tablet's schema without column ids")
    return found


def _opid(message: Any) -> OpId:
    return OpId(message.id.term, message.id.index)


def _alter_failed(commit: Any | None) -> bool:
    return commit is not None and any(op.HasField("failed_status") for op in commit.result.ops)


def _impossible(operation: RowOperation, why: str) -> str:
    raise Contradiction(f"COMMIT says that {operation.op.name} took effect, but {why}")
