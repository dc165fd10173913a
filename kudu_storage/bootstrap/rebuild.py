"""A whole replica written anew from what another one's files prove: superblock, consensus metadata, rowsets, fresh log.

For a replica whose data blocks are lost while its log goes back to the first operation, and for one that is to leave
orphaned blocks, long logs or many small rowsets behind.
 R1  Only a history that is complete is written: the first problem that files which are whole and untouched cannot have
     is raised instead (a torn tail, which a crash leaves, is cut off). Nothing is written before all of it was read.
 R2  Every version of every row is kept: snapshots show the same rows in both replicas.
 R3  The new log begins at the last operation applied, which stands there as a NO_OP with that operation's id: peers
     compare ids. Operations without a COMMIT follow as they were: only a leader knows what becomes of them. A COMMIT
     that waits for an earlier operation's cannot be taken over, since it names the old replica's stores: refused.
 R4  The new stores' ids exceed all that the old files name, as C4 of docs/tablet.md asks.
 R5  A server knows a tablet by its superblock, which comes last: a crash before leaves no tablet.
"""
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.disk import Disk
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.bootstrap.log_replay import PendingOperation, RecoveredRows, recover_rows, replay_files
from kudu_storage.bootstrap.metadata import load_metadata
from kudu_storage.common.limits import MIB
from kudu_storage.common.opid import OpId
from kudu_storage.errors import (
    InternalError,
    InvalidArgument,
    KuduStorageError,
    MissingOperations,
    NotFound,
    Unsupported,
)
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.consensus_metadata import ConsensusMetadata, write_consensus_metadata
from kudu_storage.fs.file_system import format_file_system, server_instance
from kudu_storage.fs.layout import CONSENSUS_META, TABLET_META, WALS, TabletFiles, find_tablet
from kudu_storage.fs.roots import ServerRoots, server_roots
from kudu_storage.fs.superblock import READY, Superblock, write_superblock
from kudu_storage.protos import message_class
from kudu_storage.tablet.compaction import MergeInput, RowSetCompaction, RowSetFiles
from kudu_storage.tablet.rowset_writer import WrittenRowSet, flush_mem_rowset
from kudu_storage.tablet.store import no_op, no_op_commit
from kudu_storage.wal.log import Log

if TYPE_CHECKING:
    from kudu_storage.fs.blocks.manager import BlockTransaction

_NO_OP, _WRITE_OP = 1, 3
_CACHE_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was written. bytes: of the rowsets' files."""

    tablet_id: str
    path: str
    server_uuid: str
    rowsets: int
    rows: int                   # dead ones that history keeps too
    bytes: int
    first: OpId                 # with which the new log begins
    pending: int                # operations that follow it


def rebuild(files: TabletFiles, out: str | os.PathLike[str], *, blocks: BlockManager | None = None,
            uuid: str | None = None, disk: Disk | None = None) -> Rebuilt:
    """Write the replica whose files are given as a replica of a file system in `out`, durably.

    Args:
        files: of the source, which is only read.
        out: a folder that is empty, does not exist, or holds a file system of the same server without this tablet: WAL
            root and data root.
        blocks: the source's block store. None: rows come from the log alone, which must then go back to the first
            operation.
        uuid: of the source's server, one of the tablet's peers. Needed where no instance file tells.
    Raises:
        CorruptionError and its kinds, NotFound: the history is not complete; says what is missing.
        InvalidArgument: `out` holds something else. Unsupported: an operation whose outcome only a server can settle.
        NoSpace, DiskError: nothing that counts is left in `out`.
    """
    source = _Source.open(files, uuid)
    recovered = recover_rows(files, blocks, BlockCache(_CACHE_BYTES))
    source.check(recovered)
    disk = Disk() if disk is None else disk
    roots = _roots(out, source, disk)
    with contextlib.closing(open_block_manager(roots.data_roots, read_only=False, disk=disk)) as new_blocks, \
            _undone_on_failure(roots, source.superblock.tablet_id):
        rowsets, rowset_blocks = _write_rowsets(source, recovered, blocks, new_blocks)
        cmeta = roots.metadata_root / CONSENSUS_META / source.superblock.tablet_id
        write_consensus_metadata(cmeta, source.consensus.message, disk=disk)
        first = _begin_log(roots, source, recovered, disk)
        try:
            _write_superblock(roots, source, recovered, rowsets, new_blocks, disk)
        except BaseException:
            # It may have its name already, and be the one that a power cut leaves: it goes before what it names.
            _remove_superblock(roots, source.superblock.tablet_id)
            new_blocks.delete_blocks(rowset_blocks)
            raise
    return Rebuilt(source.superblock.tablet_id, str(roots.wal_root), source.uuid, len(rowsets),
                   sum(r.row_count for r in rowsets), sum(r.file_bytes for r in rowsets), first,
                   len(recovered.pending))


def rebuild_checked(files: TabletFiles, out: str | os.PathLike[str], expected: tuple[int, int], *,
                    blocks: BlockManager | None = None, uuid: str | None = None) -> Rebuilt:
    """rebuild(), then read what was written: it must have the rows and the checksum of the source's replay.

    Raises InternalError if it has not; the new superblock is then gone again.
    """
    done = rebuild(files, out, blocks=blocks, uuid=uuid)
    with contextlib.closing(open_block_manager([done.path], read_only=True)) as new_blocks:
        there = find_tablet(Path(done.path), done.tablet_id)
        found = replay_files(there, blocks=new_blocks).report
    if found.problems or (found.rows, found.checksum) != expected:
        _remove_superblock(server_roots(done.path), done.tablet_id)
        raise InternalError(f"the rebuilt replica has {found.rows} rows with checksum {found.checksum}, the old one "
                            f"{expected[0]} with {expected[1]}", path=done.path)
    return done


# -- what there is -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Source:
    """A replica's metadata, none of which a log can stand for."""

    files: TabletFiles
    superblock: Superblock
    consensus: ConsensusMetadata
    uuid: str

    @classmethod
    def open(cls, files: TabletFiles, uuid: str | None) -> _Source:
        found = load_metadata(files)
        if found.superblock is None:
            raise NotFound("without tablet metadata nobody knows the table, its partition and its schema",
                           path=str(files.superblock_path or files.wal_dir), advice=_copy("tablet-meta"))
        if found.consensus is None:
            raise NotFound("without consensus metadata nobody knows the replica's term, vote and peers",
                           path=str(files.cmeta_path or files.wal_dir), advice=_copy("consensus-meta"))
        return cls(files, found.superblock, found.consensus, _server_of(files, found.consensus, found.uuid, uuid))

    def check(self, recovered: RecoveredRows) -> None:
        """Raises for what the new log could not say (R3)."""
        path, advice = str(self.files.wal_dir), "start a server on the replica once"
        for operation in recovered.pending:
            op_id = OpId(operation.term, operation.index)
            if operation.op_type not in (_NO_OP, _WRITE_OP) or (operation.op_type == _WRITE_OP
                                                                and operation.request is None):
                raise Unsupported(f"operation {op_id} (type {operation.op_type}) has no COMMIT", path=path,
                                  advice=advice)
            if operation.result is not None:
                raise Unsupported(f"operation {op_id} has a COMMIT, and one before it has none", path=path,
                                  advice=advice)
        if recovered.applied is None and recovered.pending:
            raise MissingOperations("no operation of the log has a COMMIT", path=path, advice=advice)


def _server_of(files: TabletFiles, consensus: ConsensusMetadata, found: str | None, named: str | None) -> str:
    if found is not None and named not in (None, found):
        raise InvalidArgument(f"the replica is of server {found}, not of {named}", path=str(files.instance_path))
    peers = [peer.uuid for peer in consensus.peers]
    uuid = found or named or (peers[0] if len(peers) == 1 else None)
    if uuid is None:
        raise NotFound(f"there is no instance file, and any of {', '.join(peers)} may be the replica's server",
                       path=str(files.instance_path or files.wal_dir), advice="name it with --uuid")
    if named is not None and named not in peers:
        raise InvalidArgument(f"{named} is no peer of the tablet", path=str(files.cmeta_path),
                              advice=f"one of {', '.join(peers)}")
    return uuid


def _copy(folder: str) -> str:
    return f"copy the replica's file in {folder} from a backup; of another replica, change the uuid"


# -- where it goes -----------------------------------------------------------------------------------------------------
def _roots(out: str | os.PathLike[str], source: _Source, disk: Disk) -> ServerRoots:
    roots = server_roots(out)
    tablet_id = source.superblock.tablet_id
    try:
        there = server_instance(roots).uuid
    except NotFound:
        if not roots.wal_root.parent.is_dir():
            raise NotFound("no such folder", path=str(roots.wal_root.parent)) from None
        format_file_system(roots, uuid=source.uuid, disk=disk)
        return roots
    if there != source.uuid:
        raise InvalidArgument(f"the file system of server {there}; the replica is of {source.uuid}",
                              path=str(roots.wal_root), advice="an empty folder")
    for folder in (roots.metadata_root / TABLET_META, roots.metadata_root / CONSENSUS_META, roots.wal_root / WALS):
        if (folder / tablet_id).exists():
            raise InvalidArgument("files of that tablet are there already", path=str(folder / tablet_id),
                                  advice="an empty folder")
    return roots


@contextlib.contextmanager
def _undone_on_failure(roots: ServerRoots, tablet_id: str) -> Iterator[None]:
    """What has the tablet's name goes again, so that another try finds the folder as this one did."""
    try:
        yield
    except BaseException:
        shutil.rmtree(roots.wal_root / WALS / tablet_id, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(roots.metadata_root / CONSENSUS_META / tablet_id)
        raise


def _remove_superblock(roots: ServerRoots, tablet_id: str) -> None:
    folder = roots.metadata_root / TABLET_META
    with contextlib.suppress(OSError):
        os.unlink(folder / tablet_id)
    with contextlib.suppress(KuduStorageError):
        Disk().sync_dir(str(folder))


# -- writing -----------------------------------------------------------------------------------------------------------
def _write_rowsets(source: _Source, recovered: RecoveredRows, old: BlockManager | None,
                   new: BlockManager) -> tuple[list[WrittenRowSet], tuple[int, ...]]:
    """Each rowset is written anew with the deltas that its files and the log have; then the rows in memory (R2)."""
    ids = iter(range(_first_rowset_id(source, recovered), 1 << 62))
    written: list[WrittenRowSet] = []
    with new.transaction() as transaction:
        for rowset in recovered.rowsets:
            assert old is not None
            files = RowSetFiles(old, _message_of(source, rowset.id))
            try:
                compaction = RowSetCompaction([MergeInput(files, rowset.memory)], recovered.layout,
                                              Snapshot.everything())
                written += compaction.write(transaction, lambda: next(ids))
            finally:
                files.close()
        written += _write_memory(recovered, transaction, lambda: next(ids))
        return written, transaction.commit()


def _write_memory(recovered: RecoveredRows, transaction: BlockTransaction, take_id: Any) -> list[WrittenRowSet]:
    recovered.rows.freeze()
    return flush_mem_rowset(recovered.rows, recovered.layout, Snapshot.everything(), transaction, take_id)


def _message_of(source: _Source, rowset_id: int) -> Any:
    return next(r for r in source.superblock.message.rowsets if r.id == rowset_id)


def _first_rowset_id(source: _Source, recovered: RecoveredRows) -> int:
    return max(recovered.rowset_id, *(r.id for r in source.superblock.rowsets), -1) + 1 \
        if source.superblock.rowsets else recovered.rowset_id + 1


def _begin_log(roots: ServerRoots, source: _Source, recovered: RecoveredRows, disk: Disk) -> OpId:
    """R3. A log in which nothing is applied has nothing in it."""
    tablet_id, first = source.superblock.tablet_id, recovered.applied
    folder = roots.wal_root / WALS / tablet_id
    disk.make_dir(str(folder))
    disk.sync_dir(str(folder.parent))
    begin = None if first is None else OpId(0, first.index - 1)
    with Log.open(folder, create=True, tablet_id=tablet_id, schema=recovered.layout.schema,
                  schema_version=recovered.schema_version, begin=begin, disk=disk) as log:
        if first is None:
            return OpId(0, 0)
        log.term = first.term
        log.append_replicate(no_op(first, recovered.applied_timestamp))
        log.append_commit(no_op_commit(first))
        for operation in recovered.pending:
            log.append_replicate(_replicate(operation)).wait()
        log.flush()
    return first


def _replicate(operation: PendingOperation) -> bytes:
    """The ReplicateMsg of an operation that is a NO_OP or a write."""
    op_id = OpId(operation.term, operation.index)
    if operation.op_type == _NO_OP:
        return no_op(op_id, operation.timestamp)
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=operation.timestamp, op_type=_WRITE_OP)
    message.id.term, message.id.index = op_id
    message.write_request.MergeFromString(operation.request)
    return bytes(message.SerializeToString())


def _write_superblock(roots: ServerRoots, source: _Source, recovered: RecoveredRows, rowsets: Sequence[WrittenRowSet],
                      blocks: BlockManager, disk: Disk) -> None:
    message: Any = type(source.superblock.message)()
    message.CopyFrom(source.superblock.message)
    states = message.DESCRIPTOR.fields_by_name["tablet_data_state"].enum_type
    message.tablet_data_state = states.values_by_name[READY].number
    message.schema.Clear()
    recovered.layout.schema.to_pb(message.schema)
    message.schema_version = recovered.schema_version
    message.last_durable_mrs_id = max(source.superblock.last_durable_mrs_id, recovered.memrowset_id, 0)
    del message.rowsets[:], message.orphaned_blocks[:]
    message.rowsets.extend(rowset.message for rowset in rowsets)
    if not message.supports_live_row_count:
        for rowset in message.rowsets:
            rowset.ClearField("live_row_count")
    message.ClearField("tombstone_last_logged_opid")
    message.data_dir_group.Clear()
    message.data_dir_group.uuids.extend(uuid.encode() for uuid in blocks.create_group(1))
    write_superblock(roots.metadata_root / TABLET_META / source.superblock.tablet_id, message, disk=disk)
