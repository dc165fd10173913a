"""Log entries as protobuf messages, for the tools that show them to people. One Python object an entry: not for replay.

May not touch: rows in stores. Damage is judged by kudu_storage.wal.reader; here is only what a batch holds.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from kudu_storage.common.row_codec import RowOperation, decode_row_operations
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, BlankSegment, CorruptionError, NotFound, Unsupported
from kudu_storage.protos import message_class
from kudu_storage.wal.reader import Segment, list_segments, open_segment

# Values of kudu.log.LogEntryTypePB and kudu.consensus.OperationType.
REPLICATE: Final = 1
COMMIT: Final = 2
WRITE_OP: Final = 3
ALTER_SCHEMA_OP: Final = 4
# Clients of one tablet rarely use more than a few schemas; this only bounds the memory of a strange log.
_SCHEMAS_MAX: Final = 1000


def segment_entries(segment: Segment) -> Iterator[Any]:
    """All LogEntryPBs of a segment, in file order, by Kudu's end rules.

    Ends quietly where Kudu would. Raises the typed error for damage, after the entries before it: also for a batch that
    passes its checksum and cannot be parsed, and, at the end, for a footer that counts other entries than were there.
    """
    count = 0
    for chunk in segment.scan():
        for i, (offset, _, _) in enumerate(chunk.refs()):
            batch = _parse_batch(chunk[i])
            if batch is None:
                if segment.malformed_status(offset) == "torn_tail":
                    return
                raise BadFormat("entry cannot be parsed", path=segment.path, segment=segment.sequence, offset=offset,
                                intact=f"{count} entries before it are intact")
            count += len(batch.entry)
            yield from batch.entry
    error = segment.entry_count_error(count)
    if error is not None:
        raise error


def _parse_batch(data: bytes) -> Any | None:
    from google.protobuf.message import DecodeError

    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    try:
        batch.ParseFromString(data)
    except DecodeError:
        return None
    return batch if batch.IsInitialized() else None


class SchemaCache:
    """Schemas of requests by their serialized bytes: the same few come with every write."""

    def __init__(self) -> None:
        self._schemas: dict[bytes, Schema] = {}

    def of(self, pb: Any) -> Schema:
        """The Schema of a SchemaPB. Raises Unsupported or BadFormat."""
        key: bytes = pb.SerializeToString()
        schema = self._schemas.get(key)
        if schema is None:
            if len(self._schemas) >= _SCHEMAS_MAX:
                self._schemas.clear()
            schema = self._schemas[key] = Schema.from_pb(pb)
        return schema


def decode_write(request: Any, tablet_schema: Schema, schemas: SchemaCache) -> list[RowOperation]:
    """The row operations of a WriteRequestPB. Raises BadFormat, Contradiction or Unsupported."""
    counter = None
    if request.HasField("auto_incrementing_column"):
        counter = request.auto_incrementing_column.auto_incrementing_counter
    return decode_row_operations(request.row_operations.rows, request.row_operations.indirect_data,
                                 schemas.of(request.schema), tablet_schema, auto_incrementing_counter=counter)


def decode_write_of(request: Any, candidates: list[Schema],
                    schemas: SchemaCache) -> tuple[list[RowOperation], Schema]:
    """The row operations, and the first of the tablet's possible schemas that fits the request.

    Raises as decode_write() does for the first one when none fits.
    """
    first_error: CorruptionError | Unsupported | None = None
    for schema in candidates:
        try:
            return decode_write(request, schema, schemas), schema
        except (CorruptionError, Unsupported) as error:
            first_error = first_error or error
    raise first_error or BadFormat("a write without a tablet schema")


class SchemaHistory:
    """The tablet's schema at each index of a log, as its ALTER_SCHEMA operations change it.

    Call `at` for every REPLICATE in file order: one that replaces operations takes back the ALTERs among them.
    """

    def __init__(self, first: Schema) -> None:
        self._since: list[tuple[int, Schema]] = [(-1, first)]       # index of the ALTER, ascending

    def at(self, index: int) -> Schema:
        """The schema that the operation of this index is applied with."""
        return self.candidates(index)[0]

    def candidates(self, index: int) -> list[Schema]:
        """The same, and before it, newest first, those that hold when an ALTER without a COMMIT so far is refused."""
        while self._since[-1][0] >= index:
            self._since.pop()
        return [schema for _, schema in reversed(self._since)]

    def alter(self, index: int, schema: Schema) -> None:
        """The ALTER of this index was logged."""
        self._since.append((index, schema))

    def refuse(self, index: int) -> None:
        """The ALTER of this index was committed as failed: it changed nothing."""
        self._since = [(i, schema) for i, schema in self._since if i != index]

    def follow(self, entry: Any) -> None:
        """Take note of an entry, after `at` was called for it."""
        if entry.type == REPLICATE and entry.replicate.op_type == ALTER_SCHEMA_OP:
            self.alter(entry.replicate.id.index, schema_of_alter(entry.replicate))
        elif entry.type == COMMIT and entry.commit.op_type == ALTER_SCHEMA_OP and alter_failed(entry.commit):
            self.refuse(entry.commit.commited_op_id.index)


def schema_of_alter(message: Any) -> Schema:
    """The schema that an ALTER_SCHEMA operation asks for."""
    return Schema.from_pb(message.alter_schema_request.schema)


def alter_failed(commit: Any) -> bool:
    """Does this COMMIT of an ALTER_SCHEMA operation say that it was refused?"""
    return any(op.HasField("failed_status") for op in commit.result.ops)


def open_log(source: str | os.PathLike[str]) -> Iterator[Segment]:
    """The segments of a log folder in order, or the one segment file named; each is closed when the next is asked for.

    As Kudu does, a file that was preallocated and never got a header is passed over. Raises NotFound when there is no
    segment, and what open_segment() raises.
    """
    paths = [f.path for f in list_segments(source)] if os.path.isdir(source) else [os.fspath(source)]
    if not paths:
        raise NotFound("there is no log segment in this folder", path=os.fspath(source))
    for path in paths:
        try:
            segment = open_segment(path)
        except BlankSegment:
            continue
        with segment:
            yield segment


def log_entries(source: str | os.PathLike[str]) -> Iterator[tuple[Segment, Any]]:
    """All entries of a log, with the segment that each is in. Errors as of open_log() and segment_entries()."""
    for segment in open_log(source):
        for entry in segment_entries(segment):
            yield segment, entry
