"""Log entries as protobuf messages, for the tools that show them to people. One Python object an entry: not for replay.

May not touch: rows in stores. Damage is judged by kudu_storage.wal.reader; here is only what a batch holds.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kudu_storage.common.row_codec import RowOperation, decode_row_operations
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat
from kudu_storage.protos import message_class
from kudu_storage.wal.reader import Segment

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
        for (offset, _, _), data in zip(chunk.refs(), chunk, strict=True):
            batch = _parse_batch(data)
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
