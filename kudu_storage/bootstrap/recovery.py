"""A tablet's files, read and replayed, made into the running store: its view, ids, and what had no COMMIT."""
from __future__ import annotations

import contextlib
import time
from typing import Any

from kudu_storage._native.row_layout import Projection
from kudu_storage.bootstrap.log_port import LogPort
from kudu_storage.bootstrap.log_replay import PendingOperation, RecoveredRows
from kudu_storage.bootstrap.rowsets_on_disk import history_mark, history_seconds
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_builder import without_column_ids
from kudu_storage.errors import KuduStorageError, Unsupported
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.fs.file_system import needed_blocks
from kudu_storage.fs.pb_container import as_text
from kudu_storage.fs.roots import ServerRoots
from kudu_storage.fs.superblock import Superblock
from kudu_storage.protos import message_class
from kudu_storage.tablet.flushed import with_store
from kudu_storage.tablet.metadata import SchemaChange, SuperblockChange, TabletMetadata
from kudu_storage.tablet.store import TabletStore, alter_commit, no_op_commit
from kudu_storage.tablet.view import MemStore, View

_NO_OP, _WRITE_OP, _ALTER_SCHEMA_OP = 1, 3, 4


def store_of(superblock: Superblock, recovered: RecoveredRows, metadata: TabletMetadata, port: LogPort) -> TabletStore:
    """The running store of what was recovered; operations without COMMIT are still to come. Its MemRowSet is not shared
    yet: nobody may read."""
    dms_ids = list(recovered.delta_store_ids)
    if recovered.rowset_id >= 0 and all(rowset != recovered.rowset_id for rowset, _ in dms_ids):
        dms_ids.append((recovered.rowset_id, 0))
    metadata.note_log_ids(mrs_ids=[recovered.memrowset_id], dms_ids=dms_ids)
    metadata.note_column_ids([recovered.column_id])
    flushed = [with_store(rowset, metadata.take_delta_store_id(rowset.id)) for rowset in recovered.rowsets]
    view = View(recovered.layout, recovered.schema_version,
                (MemStore(recovered.rows, metadata.take_mem_rowset_id()),)).with_rowsets(tuple(flushed))
    newest = max((rowset.max_timestamp or 0 for rowset in recovered.rowsets), default=0)        # C8
    applied = max(recovered.applied_timestamp, newest)
    flushed_before = recovered.rowsets or superblock.last_durable_mrs_id >= 0
    return TabletStore(
        superblock.tablet_id, view, port, applied=applied, last_timestamp=max(recovered.last_timestamp, newest),
        applied_index=max(recovered.applied.index if recovered.applied else 0, port.log.first_index - 1, 0),
        needs_log_from=None if flushed_before else max(port.log.first_index, 1),
        read_only=_part_of_a_table(superblock), history_seconds=history_seconds(superblock),
        history_mark=_mark_of(superblock, recovered, applied))


def _mark_of(superblock: Superblock, recovered: RecoveredRows, applied: int) -> int:
    """Below it versions may be gone: the files tell a part of it, and the time since they were written the rest."""
    mark = history_mark(superblock, recovered.rowsets, applied) or 0
    seconds = history_seconds(superblock)
    if seconds >= 0 and (recovered.rowsets or superblock.last_durable_mrs_id >= 0):
        mark = max(mark, from_micros(time.time_ns() // 1000 - seconds * 1_000_000))
    return min(mark, applied + 1)


def _part_of_a_table(superblock: Superblock) -> str | None:
    """A row outside of a tablet's own partition would be found by no client."""
    partition = superblock.partition
    if partition.hash_buckets or partition.start or partition.end:
        return "this tablet holds a part of its table; only tablets that hold all of it can be written"
    return None


# -- operations without COMMIT -----------------------------------------------------------------------------------------
def commit_pending(store: TabletStore, recovered: RecoveredRows, superblock: Superblock, metadata: TabletMetadata,
                   port: LogPort) -> None:
    """Commit and apply them, as a server does that is its own only voter. Raises Unsupported."""
    for operation in recovered.pending:
        if operation.op_type not in (_NO_OP, _WRITE_OP, _ALTER_SCHEMA_OP):
            op_id = OpId(operation.term, operation.index)
            raise Unsupported(f"operation {op_id} (type {operation.op_type}) has no COMMIT",
                              path=port.log.path, advice="start a server on the replica once")
    # A segment that is begun from here on may be the first one kept: the schema change is not behind it then.
    for operation in recovered.pending:
        change = _schema_change(operation)
        if change is not None and change.version > recovered.replayed_version:
            port.set_schema(change.schema, change.version)
    leading = store.lead()
    leading.token.wait()
    version = recovered.replayed_version
    for operation in recovered.pending:
        change = _schema_change(operation)
        if change is None:
            commit = _apply_pending(store, operation, superblock)
        else:
            commit = _alter_pending(store, operation, change, version, metadata)
            version = max(version, change.version)
        if operation.result is None:
            port.commit(commit)
        store.note_applied(operation.timestamp, operation.index)
    store.settle(leading)


def _schema_change(operation: PendingOperation) -> SchemaChange | None:
    """None: it is no schema change, or one that failed. Raises BadFormat, Unsupported."""
    if operation.op_type != _ALTER_SCHEMA_OP:
        return None
    if operation.result:
        result: Any = message_class("kudu.tablet.TxResultPB").FromString(operation.result)
        if any(row.HasField("failed_status") for row in result.ops):
            return None
    request: Any = message_class("kudu.tserver.AlterSchemaRequestPB").FromString(operation.request or b"")
    return SchemaChange(Schema.from_pb(request.schema), request.schema_version,
                        as_text(request.new_table_name) if request.HasField("new_table_name") else None)


def _alter_pending(store: TabletStore, operation: PendingOperation, change: SchemaChange, version: int,
                   metadata: TabletMetadata) -> bytes:
    """`version`: of the schema at its place in the log, which the superblock's may be ahead of (tablet.cc)."""
    op_id = OpId(operation.term, operation.index)
    if change.version <= version:
        return alter_commit(op_id, f"Skipping requested alter to schema version {change.version}, tablet already "
                                   f"version {version}")
    metadata.note_column_ids(column.id or 0 for column in change.schema)
    if change.version > store.view.schema_version:
        if change.version > metadata.message.schema_version:
            metadata.commit(SuperblockChange(schema=change))
        store.apply_logged_alteration(change)
    return alter_commit(op_id)


def _apply_pending(store: TabletStore, operation: PendingOperation, superblock: Superblock) -> bytes:
    op_id = OpId(operation.term, operation.index)
    if operation.op_type == _NO_OP:
        return no_op_commit(op_id)
    if operation.op_type == _ALTER_SCHEMA_OP:
        return b""                      # it failed, and its COMMIT says so
    request: Any = message_class("kudu.tserver.WriteRequestPB").FromString(operation.request or b"")
    projection = Projection(without_column_ids(Schema.from_pb(request.schema)), store.view.layout)
    return store.applier.apply_logged(request.row_operations.rows, request.row_operations.indirect_data, projection,
                                      *op_id, operation.timestamp, _left_to_do(operation.result, superblock))


def _left_to_do(result: bytes | None, superblock: Superblock) -> bytes | None:
    """A COMMIT's result without the rows whose stores were flushed: those are on disk."""
    if result is None:
        return None
    message: Any = message_class("kudu.tablet.TxResultPB").FromString(result)
    durable = {rowset.id: rowset.last_durable_dms_id for rowset in superblock.rowsets}
    for row in message.ops:
        if not any(_is_active(store, superblock.last_durable_mrs_id, durable) for store in row.mutated_stores):
            del row.mutated_stores[:]
    return bytes(message.SerializeToString())


def _is_active(store: Any, durable_mrs_id: int, durable_dms_ids: dict[int, int]) -> bool:
    if store.HasField("mrs_id") and store.mrs_id >= 0:
        return bool(store.mrs_id > durable_mrs_id)
    return bool(store.rs_id in durable_dms_ids and store.dms_id > durable_dms_ids[store.rs_id])


# -- what a crash left -------------------------------------------------------------------------------------------------
def delete_garbage(roots: ServerRoots, blocks: BlockManager) -> None:
    """Blocks that no superblock here names (C1). Where one cannot be read, nobody knows: nothing is deleted."""
    with contextlib.suppress(KuduStorageError):
        needed = needed_blocks(roots)
        garbage = blocks.live_blocks().keys() - needed.keys()
        if garbage:
            blocks.delete_blocks(sorted(garbage))
