"""A tablet's superblock as it changes: rowsets come, go and get other files; ids; blocks to delete.

 C1-C8 are in docs/tablet.md. Besides:
 T1  `message` is what the last durable superblock says. Nobody but this object changes it.
 T2  Ids are given once. MemRowSet, rowset, delta store and column ids exceed every one in the superblock and all that
     were noted from the retained log and the rowsets' deltas.
 T3  Blocks that a superblock names no more are in its `orphaned_blocks` before they are deleted, and leave it after.
 T4  When it is not known which superblock a power cut would leave, nothing is deleted any more and nothing replaced:
     `failed` says why, until the tablet is opened again.
Thread-safe. Only commit() and delete_orphans() block on disk, one at a time; ids and `message` never wait for them. May
not touch: the log, but through the `sync_log` it is handed.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Self

from kudu_storage._native.disk import Disk
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InternalError, InvalidArgument, KuduStorageError
from kudu_storage.fs.block_references import live_references, named_block_ids, rowset_blocks
from kudu_storage.fs.blocks import BlockManager, BlockTransaction
from kudu_storage.fs.pb_container import as_text, container_bytes, read_single, replace_file, serialize
from kudu_storage.fs.superblock import NOTHING_DURABLE, TYPE
from kudu_storage.protos import message_class


# -- changes, as values ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RowSetEdit:
    """Other files for a rowset that stays.

    column_blocks: new base data by column id.
    remove_redos: adjacent REDO files; `add_redos` take their place, or come last where none is removed.
    add_undo: a file with UNDOs newer than all others.
    durable_dms_id: the DeltaMemStore that `add_redos` hold.
    live_rows: by how many the number of live rows grows.
    """

    column_blocks: Mapping[int, int] = field(default_factory=dict)
    remove_redos: tuple[int, ...] = ()
    add_redos: tuple[int, ...] = ()
    add_undo: int | None = None
    remove_undos: tuple[int, ...] = ()
    durable_dms_id: int | None = None
    live_rows: int = 0


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """Other columns, with ids; `version` is above all before. table_name: None: it stays."""

    schema: Schema
    version: int
    table_name: str | None = None


@dataclass(frozen=True, slots=True)
class SuperblockChange:
    """What the next superblock says otherwise. add: RowSetDataPB of new rowsets. remove: ids. edit: by rowset id.

    durable_mrs_id: MemRowSets up to this one are flushed.
    """

    add: tuple[Any, ...] = ()
    remove: tuple[int, ...] = ()
    edit: Mapping[int, RowSetEdit] = field(default_factory=dict)
    durable_mrs_id: int | None = None
    schema: SchemaChange | None = None


def apply_change(message: Any, change: SuperblockChange) -> Any:
    """A new TabletSuperBlockPB: `message` changed, with the blocks it names no more orphaned. Pure.

    Raises InvalidArgument for a rowset or file that is not there, an id that is taken, a store flushed twice, a schema
    that is no newer.
    """
    changed: Any = message_class(TYPE)()
    changed.CopyFrom(message)
    _replace_rowsets(changed, change)
    if change.durable_mrs_id is not None:
        if change.durable_mrs_id <= message.last_durable_mrs_id:
            raise InvalidArgument(f"MemRowSet {change.durable_mrs_id} was flushed before")
        changed.last_durable_mrs_id = change.durable_mrs_id
    if change.schema is not None:
        _set_schema(changed, change.schema)
    named = {reference.block_id for reference in live_references(changed)}
    orphaned = {block.id for block in changed.orphaned_blocks}
    for reference in live_references(message):
        if reference.block_id not in named and reference.block_id not in orphaned:
            changed.orphaned_blocks.add(id=reference.block_id)
    return changed


def _set_schema(changed: Any, change: SchemaChange) -> None:
    if change.version <= changed.schema_version:
        raise InvalidArgument(f"schema version {change.version} is not above {changed.schema_version}")
    changed.ClearField("schema")
    change.schema.to_pb(changed.schema)
    changed.schema_version = change.version
    if change.table_name is not None:
        changed.table_name = change.table_name


def _replace_rowsets(changed: Any, change: SuperblockChange) -> None:
    rowsets = {rowset.id: rowset for rowset in changed.rowsets}
    for rowset_id in (*change.remove, *change.edit):
        if rowset_id not in rowsets:
            raise InvalidArgument(f"no rowset {rowset_id}")
    for rowset_id, edit in change.edit.items():
        _edit_rowset(rowsets[rowset_id], edit)
    for rowset in change.add:
        if rowset.id in rowsets:
            raise InvalidArgument(f"rowset id {rowset.id} is taken")
        rowsets[rowset.id] = rowset
    kept = [rowset for rowset_id, rowset in rowsets.items() if rowset_id not in set(change.remove)]
    copies = [type(rowset).FromString(rowset.SerializeToString()) for rowset in kept]
    del changed.rowsets[:]
    changed.rowsets.extend(copies)
    if not changed.supports_live_row_count:
        for rowset in changed.rowsets:
            rowset.ClearField("live_row_count")


def _edit_rowset(rowset: Any, edit: RowSetEdit) -> None:
    for column_id, block_id in edit.column_blocks.items():
        stored = [column for column in rowset.columns if column.column_id == column_id]
        (stored[0] if stored else rowset.columns.add(column_id=column_id)).block.id = block_id
    _edit_redos(rowset, edit)
    undos = [delta.block.id for delta in rowset.undo_deltas]
    if not set(edit.remove_undos) <= set(undos):
        raise InvalidArgument(f"rowset {rowset.id} has no UNDO files {set(edit.remove_undos) - set(undos)}")
    undos = [block_id for block_id in undos if block_id not in edit.remove_undos]
    _set_deltas(rowset.undo_deltas, undos if edit.add_undo is None else [edit.add_undo, *undos])
    if edit.durable_dms_id is not None:
        if edit.durable_dms_id <= rowset.last_durable_dms_id:
            raise InvalidArgument(f"delta store {edit.durable_dms_id} of rowset {rowset.id} was flushed before")
        rowset.last_durable_dms_id = edit.durable_dms_id
    rowset.live_row_count += edit.live_rows


def _edit_redos(rowset: Any, edit: RowSetEdit) -> None:
    redos = [delta.block.id for delta in rowset.redo_deltas]
    at = len(redos)
    if edit.remove_redos:
        at = redos.index(edit.remove_redos[0]) if edit.remove_redos[0] in redos else -1
        if at < 0 or redos[at:at + len(edit.remove_redos)] != list(edit.remove_redos):
            raise InvalidArgument(f"rowset {rowset.id} has no adjacent REDO files {edit.remove_redos}")
        del redos[at:at + len(edit.remove_redos)]
    redos[at:at] = edit.add_redos
    _set_deltas(rowset.redo_deltas, redos)


def _set_deltas(deltas: Any, block_ids: Iterable[int]) -> None:
    del deltas[:]
    for block_id in block_ids:
        deltas.add().block.id = block_id


# -- the superblock ----------------------------------------------------------------------------------------------------
class TabletMetadata:
    """The superblock of one tablet. Args: its file, what that says, the store of its blocks."""

    def __init__(self, path: str | os.PathLike[str], message: Any, blocks: BlockManager, *,
                 disk: Disk | None = None) -> None:
        self.path = os.fspath(path)
        self._blocks = blocks
        self._disk = Disk() if disk is None else disk
        self._replacing = Lock()        # one replace at a time; taken before _lock
        self._lock = Lock()
        # All below: under _lock, held for a few instructions. _message and _failure are set under _replacing, too.
        self._message = message
        self._failure: KuduStorageError | None = None
        self._next_mrs_id: int = max(message.last_durable_mrs_id, NOTHING_DURABLE) + 1
        self._next_rowset_id: int = max((rowset.id for rowset in message.rowsets), default=-1) + 1
        self._next_column_id: int = max(column_ids_of(message), default=-1) + 1
        self._next_dms_ids: dict[int, int] = {rowset.id: rowset.last_durable_dms_id + 1 for rowset in message.rowsets}
        for block_id in named_block_ids(message):
            blocks.notify_block_id(block_id)

    @classmethod
    def open(cls, path: str | os.PathLike[str], blocks: BlockManager, *, disk: Disk | None = None) -> Self:
        """Raises as `read_single` does."""
        return cls(path, read_single(path, message_class(TYPE)), blocks, disk=disk)

    @classmethod
    def create(cls, path: str | os.PathLike[str], message: Any, blocks: BlockManager, *,
               disk: Disk | None = None) -> Self:
        """Write the first superblock; durable on return. Raises DiskError, InvalidArgument."""
        metadata = cls(path, message, blocks, disk=disk)
        replace_file(metadata.path, container_bytes(TYPE, [serialize(message)]), disk=metadata._disk)
        return metadata

    @property
    def message(self) -> Any:
        """The TabletSuperBlockPB that is on disk (T1); do not change it."""
        with self._lock:
            return self._message

    @property
    def failed(self) -> KuduStorageError | None:
        """Why nothing is replaced any more (T4)."""
        with self._lock:
            return self._failure

    def rowset(self, rowset_id: int) -> Any:
        """The RowSetDataPB of that id; do not change it. Raises InvalidArgument."""
        for rowset in self.message.rowsets:
            if rowset.id == rowset_id:
                return rowset
        raise InvalidArgument(f"no rowset {rowset_id}")

    # -- ids -----------------------------------------------------------------------------------------------------------
    def note_log_ids(self, *, mrs_ids: Iterable[int] = (), dms_ids: Iterable[tuple[int, int]] = ()) -> None:
        """Stores that COMMITs in the retained log name: MemRowSets; (rowset, delta store). Before any id is taken."""
        with self._lock:
            self._next_mrs_id = max(self._next_mrs_id, max(mrs_ids, default=-1) + 1)
            for rowset_id, dms_id in dms_ids:
                self._next_rowset_id = max(self._next_rowset_id, rowset_id + 1)
                self._next_dms_ids[rowset_id] = max(self._next_dms_ids.get(rowset_id, 0), dms_id + 1)

    def note_column_ids(self, ids: Iterable[int]) -> None:
        """Columns that the log, or deltas, know or knew."""
        with self._lock:
            self._next_column_id = max(self._next_column_id, max(ids, default=-1) + 1)

    @property
    def next_column_id(self) -> int:
        """Above all ids that columns have or had, as far as anything tells; note_column_ids() takes it (T2)."""
        with self._lock:
            return self._next_column_id

    @property
    def table_name(self) -> str:
        return as_text(self.message.table_name)

    def take_mem_rowset_id(self) -> int:
        """An id for a new MemRowSet (T2)."""
        with self._lock:
            self._next_mrs_id += 1
            return self._next_mrs_id - 1

    def take_rowset_id(self) -> int:
        """An id for a new rowset (T2)."""
        with self._lock:
            self._next_rowset_id += 1
            return self._next_rowset_id - 1

    def take_delta_store_id(self, rowset_id: int) -> int:
        """An id for a new DeltaMemStore of that rowset, which need not be recorded yet (T2)."""
        with self._lock:
            dms_id = self._next_dms_ids.get(rowset_id, 0)
            self._next_dms_ids[rowset_id] = dms_id + 1
            return dms_id

    # -- changes -------------------------------------------------------------------------------------------------------
    def commit(self, change: SuperblockChange, transaction: BlockTransaction | None = None, *,
               sync_log: Callable[[], object] | None = None) -> Any:
        """Make the transaction's blocks durable, then the log, then the superblock that names them. Returns it.

        Args:
            sync_log: returns when every COMMIT into a store that `change` calls flushed is durable (C2).

        Raises what each step raises. Then the superblock is what it was and the new blocks are gone, or, where that
        cannot be known, `failed` is set (T4).
        """
        with self._replacing:
            self._check()
            changed = apply_change(self._message, change)
            data = container_bytes(TYPE, [serialize(changed)])
            created = () if transaction is None else transaction.commit()
            try:
                if sync_log is not None:
                    sync_log()
                replace_file(self.path, data, disk=self._disk)
            except BaseException as error:
                self._after_failure(changed != self._message and self._is_in_place(data), created, error)
                raise
            with self._lock:
                self._message = changed
            return changed

    def delete_orphans(self, *, keep: Collection[int] = ()) -> tuple[int, ...]:
        """Delete the blocks that the superblock on disk names no more; the next one does not list them (T3).

        Args:
            keep: blocks that are left for a later call.

        Returns the ids that were there. Raises NoSpace, DirectoryFailed or DiskError; what is left stays listed.
        """
        with self._replacing:
            self._check()
            wanted = [block.id for block in self._message.orphaned_blocks if block.id not in keep]
            deleted = self._blocks.delete_blocks(wanted)
            changed: Any = message_class(TYPE)()
            changed.CopyFrom(self._message)
            del changed.orphaned_blocks[:]
            for block in self._message.orphaned_blocks:
                if block.id in keep:
                    changed.orphaned_blocks.add(id=block.id)
            with self._lock:
                self._message = changed     # T1 but for the list, which is always safe to shorten
            return deleted

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _after_failure(self, replaced: bool, created: tuple[int, ...], error: BaseException) -> None:
        """Nothing was replaced: drop the new blocks. The new superblock has its name already: fail."""
        if replaced:
            failure = error if isinstance(error, KuduStorageError) else InternalError(
                f"a superblock was replaced and {type(error).__name__} came before it was durable", path=self.path)
            with self._lock:
                self._failure = failure
            return
        with contextlib.suppress(KuduStorageError):     # then they are garbage, found when the directory is opened
            self._blocks.delete_blocks(created)

    def _is_in_place(self, data: bytes) -> bool:
        try:
            with open(self.path, "rb") as file:
                return file.read() == data
        except FileNotFoundError:
            return False
        except OSError:
            return True         # it may be

    def check(self) -> None:
        """T2 and the orphans, from scratch. Raises InternalError."""
        with self._lock:
            live = [reference.block_id for reference in live_references(self._message)]
            if len(set(live)) != len(live) or set(live) & {block.id for block in self._message.orphaned_blocks}:
                raise InternalError("a block is named twice", path=self.path)
            for rowset in self._message.rowsets:
                if rowset.id >= self._next_rowset_id \
                        or rowset.last_durable_dms_id >= self._next_dms_ids.get(rowset.id, 0):
                    raise InternalError(f"an id of rowset {rowset.id} would be given out again", path=self.path)


def column_ids_of(message: Any) -> tuple[int, ...]:
    """Of the columns that a TabletSuperBlockPB has, and of those that rowsets have files of."""
    return (*(column.id for column in message.schema.columns),
            *(column.column_id for rowset in message.rowsets for column in rowset.columns))


def blocks_of(rowsets: Iterable[Any]) -> tuple[int, ...]:
    """All blocks of some RowSetDataPBs."""
    return tuple(reference.block_id for rowset in rowsets for reference in rowset_blocks(rowset))
