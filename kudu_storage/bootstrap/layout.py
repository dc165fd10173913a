"""Laying out a tablet in a Kudu file system of its own: what a server's master would have told it to make.

Order: consensus metadata, then the log with the first term's NO_OP, then the superblock. A server knows a tablet by
its superblock, so a crash in between leaves no tablet, only files that nobody names.
"""
from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Any

from kudu_storage._native.disk import Disk
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_builder import with_column_ids
from kudu_storage.errors import DiskError, InvalidArgument, NotFound
from kudu_storage.fs.blocks.directories import open_directories
from kudu_storage.fs.consensus_metadata import OPID_INDEX_NONE, write_consensus_metadata
from kudu_storage.fs.consensus_metadata import TYPE as CMETA_TYPE
from kudu_storage.fs.file_system import format_file_system, server_instance
from kudu_storage.fs.layout import CONSENSUS_META, TABLET_META, WALS, is_tablet_id
from kudu_storage.fs.roots import ServerRoots, server_roots
from kudu_storage.fs.superblock import NOTHING_DURABLE, READY, write_superblock
from kudu_storage.fs.superblock import TYPE as SUPERBLOCK_TYPE
from kudu_storage.protos import message_class
from kudu_storage.tablet.store import no_op, no_op_commit
from kudu_storage.wal.log import Log

FIRST_TERM = 1
# Where a server says it listens; a replica that is its own only voter never asks.
_ADDRESS = ("127.0.0.1", 7050)


def create_tablet(folder: str | os.PathLike[str], schema: Schema, *, table_name: str, tablet_id: str | None = None,
                  compression: str = "lz4", history_seconds: int | None = None, disk: Disk | None = None) -> str:
    """Make a tablet in `folder`, which is empty, new, or holds a file system without tablets; its id.

    Durable on return.
    """
    tablet_id = secrets.token_hex(16) if tablet_id is None else tablet_id
    if not is_tablet_id(tablet_id):
        raise InvalidArgument(f"{tablet_id!r} is no tablet id", advice="32 hexadecimal digits in lower case")
    if not table_name:
        raise InvalidArgument("a table has a name")
    if history_seconds is not None and not -1 <= history_seconds < 1 << 31:
        raise InvalidArgument(f"a history of {history_seconds} seconds", advice="0 or more; -1: for ever")
    if schema.key_column_count == 0:
        raise InvalidArgument("the schema has no key", advice="schema_builder() makes schemas")
    stored = with_column_ids(schema)
    disk = Disk() if disk is None else disk
    roots = _prepared_roots(folder, disk)
    uuid = server_instance(roots).uuid
    directories = open_directories(roots.data_roots, read_only=False, disk=disk)
    try:
        if _tablets_in(roots):
            raise InvalidArgument("there is a tablet already", path=str(roots.wal_root), advice="Tablet.open()")
        _write_consensus_metadata(roots, tablet_id, uuid, disk)
        _begin_log(roots, tablet_id, stored, compression, disk)
        _write_superblock(roots, tablet_id, stored, table_name, [d.uuid for d in directories.all], history_seconds,
                          disk)
    finally:
        directories.close()
    return tablet_id


def _prepared_roots(folder: str | os.PathLike[str], disk: Disk) -> ServerRoots:
    roots = server_roots(folder)
    try:
        os.makedirs(roots.wal_root.parent, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the folder: {error.strerror}", path=str(roots.wal_root.parent)) from error
    try:
        server_instance(roots)
    except NotFound:
        format_file_system(roots, disk=disk)
    return roots


def _tablets_in(roots: ServerRoots) -> list[str]:
    return [name for name in os.listdir(roots.metadata_root / TABLET_META) if is_tablet_id(name)]


def _write_consensus_metadata(roots: ServerRoots, tablet_id: str, uuid: str, disk: Disk) -> None:
    message: Any = message_class(CMETA_TYPE)(current_term=FIRST_TERM, voted_for=uuid)
    message.committed_config.opid_index = OPID_INDEX_NONE
    message.committed_config.OBSOLETE_local = False
    member = type(message.committed_config.peers.add()).DESCRIPTOR.fields_by_name["member_type"].enum_type
    peer = message.committed_config.peers[0]
    peer.permanent_uuid, peer.member_type = uuid.encode(), member.values_by_name["VOTER"].number
    peer.last_known_addr.host, peer.last_known_addr.port = _ADDRESS
    write_consensus_metadata(roots.metadata_root / CONSENSUS_META / tablet_id, message, disk=disk)


def _begin_log(roots: ServerRoots, tablet_id: str, schema: Schema, compression: str, disk: Disk) -> None:
    first = OpId(FIRST_TERM, 1)
    folder: Path = roots.wal_root / WALS / tablet_id
    disk.make_dir(str(folder))
    disk.sync_dir(str(folder.parent))
    with Log.open(folder, create=True, tablet_id=tablet_id, schema=schema, compression=compression, disk=disk) as log:
        log.append_replicate(no_op(first, from_micros(time.time_ns() // 1000)))
        log.append_commit(no_op_commit(first)).wait()


def _write_superblock(roots: ServerRoots, tablet_id: str, schema: Schema, table_name: str,
                      data_dirs: list[str], history_seconds: int | None, disk: Disk) -> None:
    message: Any = message_class(SUPERBLOCK_TYPE)(
        tablet_id=tablet_id.encode(), table_id=secrets.token_hex(16).encode(), table_name=table_name,
        last_durable_mrs_id=NOTHING_DURABLE, schema_version=0, supports_live_row_count=True)
    schema.to_pb(message.schema)
    if history_seconds is not None:
        message.extra_config.history_max_age_sec = history_seconds
    states = type(message).DESCRIPTOR.fields_by_name["tablet_data_state"].enum_type
    message.tablet_data_state = states.values_by_name[READY].number
    message.partition.partition_key_start = message.partition.partition_key_end = b""
    message.partition_schema.range_schema.SetInParent()
    message.data_dir_group.uuids.extend(uuid.encode() for uuid in data_dirs)
    write_superblock(roots.metadata_root / TABLET_META / tablet_id, message, disk=disk)
