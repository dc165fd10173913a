"""The superblock of one replica: schema, partition, flushed rowsets and whether the data counts. Blocks on the disk."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

from kudu_storage._native.disk import Disk
from kudu_storage.common.partition import Partition, PartitionSchema
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, CorruptionError, Unsupported
from kudu_storage.fs.pb_container import as_text, read_single, write_single
from kudu_storage.protos import enum_name, message_class

TYPE: Final = "kudu.tablet.TabletSuperBlockPB"
READY: Final = "TABLET_DATA_READY"
# last_durable_mrs_id while nothing has been flushed, last_durable_dms_id while a rowset has no flushed delta store.
NOTHING_DURABLE: Final = -1


@dataclass(frozen=True, slots=True)
class RowSetMetadata:
    """One flushed rowset, as far as replay must know it."""

    id: int
    last_durable_dms_id: int
    live_row_count: int | None


@dataclass(frozen=True, slots=True)
class Superblock:
    """A replica's metadata. `message` is the whole TabletSuperBlockPB; do not change it."""

    tablet_id: str
    table_id: str
    table_name: str
    schema: Schema
    schema_version: int
    partition_schema: PartitionSchema
    partition: Partition
    last_durable_mrs_id: int
    rowsets: tuple[RowSetMetadata, ...]
    tablet_data_state: str              # a name of kudu.tablet.TabletDataState
    orphaned_blocks: tuple[int, ...]    # ids of blocks to delete that may be gone already
    message: Any = field(repr=False, compare=False)

    @property
    def is_ready(self) -> bool:
        """The replica's data counts: it is neither being copied nor deleted."""
        return self.tablet_data_state == READY


def read_superblock(path: str | os.PathLike[str]) -> Superblock:
    """Raises as `read_single` does, and Unsupported or BadFormat for a schema that cannot be handled."""
    message: Any = read_single(path, message_class(TYPE))
    return from_message(message, os.fspath(path))


def from_message(message: Any, path: str | None = None) -> Superblock:
    """The metadata in a kudu.tablet.TabletSuperBlockPB. Raises Unsupported or BadFormat."""
    try:
        if any(isinstance(column.name, bytes) for column in message.schema.columns):
            raise BadFormat("a column's name is not UTF-8")
        schema = Schema.from_pb(message.schema)
        partition_schema = PartitionSchema.from_pb(message.partition_schema, schema)
        partition = Partition.from_pb(message.partition)
    except (CorruptionError, Unsupported) as error:
        error.path = error.path or path
        raise
    return Superblock(
        tablet_id=message.tablet_id.decode("latin-1"),
        table_id=message.table_id.decode("latin-1"),
        table_name=as_text(message.table_name),
        schema=schema,
        schema_version=message.schema_version,
        partition_schema=partition_schema,
        partition=partition,
        last_durable_mrs_id=message.last_durable_mrs_id,
        rowsets=tuple(RowSetMetadata(
            id=rowset.id, last_durable_dms_id=rowset.last_durable_dms_id,
            live_row_count=rowset.live_row_count if rowset.HasField("live_row_count") else None,
        ) for rowset in message.rowsets),
        tablet_data_state=enum_name("kudu.tablet.TabletDataState", message.tablet_data_state),
        orphaned_blocks=tuple(block.id for block in message.orphaned_blocks),
        message=message,
    )


def write_superblock(path: str | os.PathLike[str], message: Any, *, disk: Disk | None = None) -> None:
    """Replace the file durably by a kudu.tablet.TabletSuperBlockPB. Raises DiskError or InvalidArgument."""
    write_single(path, message, disk=disk)
