"""Logs put together operation by operation, for tests that need one certain order of entries."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kudu_storage.common import types
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec

TABLET_ID: Final = "0123456789abcdef0123456789abcdef"
FIRST_TIMESTAMP: Final = 1000
TIMESTAMP_STEP: Final = 10

# An operation and its cells by client column.
RowOperation = tuple[RowOp, dict[int, bytes | None]]


def column(name: str, kind: str, **more: Any) -> ColumnSchema:
    """A column of the type with that name."""
    return ColumnSchema(name=name, type=types.BY_NAME[kind], **more)


KEY_AND_TEXT: Final = Schema((column("k", "INT64", is_key=True, id=10), column("v", "STRING", nullable=True, id=11)))


def client_of(schema: Schema) -> Schema:
    """The schema as a client sends it."""
    return Schema(tuple(replace(c, id=None, read_default=None, write_default=None) for c in schema))


def int64(number: int) -> bytes:
    """A cell."""
    return number.to_bytes(8, "little", signed=True)


@dataclass
class CraftedLog:
    """A log of one segment, a batch an entry. Methods append an entry; those for operations return it."""

    schema: Schema = KEY_AND_TEXT
    next_index: int = 1
    term: int = 1
    timestamp: int = FIRST_TIMESTAMP
    entries: list[Any] = field(default_factory=list)

    def operation(self, op_type: int) -> Any:
        """A REPLICATE of that kind, still without its request."""
        entry: Any = message_class("kudu.log.LogEntryPB")(type=1)
        message = entry.replicate
        message.id.term, message.id.index = self.term, self.next_index
        message.timestamp, message.op_type = self.timestamp, op_type
        self.next_index += 1
        self.timestamp += TIMESTAMP_STEP
        self.entries.append(entry)
        return entry

    def write(self, rows: Sequence[RowOperation], client: Schema | None = None) -> Any:
        """A WRITE_OP."""
        client = client or client_of(self.schema)
        entry = self.operation(3)
        request = entry.replicate.write_request
        request.tablet_id = TABLET_ID.encode()
        client.to_pb(request.schema)
        request.row_operations.rows, request.row_operations.indirect_data = encode_row_operations(rows, client)
        return entry

    def alter(self, schema: Schema, version: int) -> Any:
        """An ALTER_SCHEMA_OP."""
        entry = self.operation(4)
        request = entry.replicate.alter_schema_request
        request.tablet_id = TABLET_ID.encode()
        schema.to_pb(request.schema)
        request.schema_version = version
        return entry

    def commit(self, replicate: Any, mutated_rows: int = 0) -> None:
        """The COMMIT of an operation that changed that many rows of the MemRowSet."""
        entry: Any = message_class("kudu.log.LogEntryPB")(type=2)
        entry.commit.op_type = replicate.replicate.op_type
        entry.commit.commited_op_id.CopyFrom(replicate.replicate.id)
        for _ in range(mutated_rows):
            entry.commit.result.ops.add().mutated_stores.add(mrs_id=0)
        self.entries.append(entry)

    def applied(self, rows: Sequence[RowOperation], client: Schema | None = None) -> None:
        """A WRITE_OP and its COMMIT."""
        self.commit(self.write(rows, client), len(rows))

    def save(self, folder: Path, batches: Iterable[Sequence[Any]] | None = None,
             codec: spec.Codec = spec.Codec.NONE) -> Path:
        """Write the segment; the tablet's folder. `batches`: another grouping of the entries."""
        header: Any = message_class("kudu.log.LogSegmentHeaderPB")(
            tablet_id=TABLET_ID.encode(), sequence_number=1, schema_version=0)
        self.schema.to_pb(header.schema)
        tablet = folder / TABLET_ID
        tablet.mkdir(parents=True)
        (tablet / "wal-000000001").write_bytes(
            spec.build_segment(header, [[e] for e in self.entries] if batches is None else batches, codec))
        return tablet
