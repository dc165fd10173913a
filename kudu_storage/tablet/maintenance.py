"""What keeps a tablet's rows on disk and quick to read: flushes, delta compactions, merges, and forgetting history.

Each runs beside readers and writers, in the thread that asked for it; several may run, as the locks allow:
 _flushing   one flush of a MemRowSet at a time; _merging: one merge at a time
 a lock for each rowset: whoever rewrites its files holds it; a schema change holds all of these
Those are taken in this order, rowsets by id. The view is swapped by TabletStore, between two operations.
 F1  When a step fails, the view is what it was, its blocks are deleted, and inputs go on (C7 of docs/tablet.md). One
     thing outlives it: a MemRowSet or DeltaMemStore that was swapped out takes no more rows, is read on, and is the
     first that the next flush writes.
 F2  Where nobody knows which superblock a power cut would leave, the tablet fails: changes would go to stores that the
     other one calls flushed.
 F3  Blocks that are replaced are deleted once no scan holds a view with them.
May not touch: the log, but through TabletStore.
"""
from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.memrowset_flush import MissedChanges
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_alterer import SchemaAlterer
from kudu_storage.errors import InternalError, InvalidArgument, KuduStorageError, TabletClosed
from kudu_storage.fs.block_references import rowset_blocks
from kudu_storage.fs.blocks import BlockManager, BlockTransaction
from kudu_storage.tablet import delta_policy
from kudu_storage.tablet.compaction import (
    MergeInput,
    RowSetCompaction,
    RowSetFiles,
    compact_columns,
    compact_redos,
    drop_rowsets,
    drop_undos,
    flush_delta_store,
)
from kudu_storage.tablet.compaction_policy import CompactionPolicy, pick_rowsets
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.flushed import with_files, with_new_memory
from kudu_storage.tablet.metadata import RowSetEdit, SchemaChange, SuperblockChange, TabletMetadata, apply_change
from kudu_storage.tablet.rewriting import NewBlocks, Rewrite
from kudu_storage.tablet.rowset_facts import RowSetSizes
from kudu_storage.tablet.rowset_writer import TARGET_ROWSET_BYTES, flush_mem_rowset, write_missed
from kudu_storage.tablet.scoring import Kind
from kudu_storage.tablet.store import Alteration, TabletStore
from kudu_storage.tablet.view import FlushedRowSet, Heirs, MemStore, View

MERGES_MAX: Final = 100     # in one call; each lowers what the next can gain


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was taken. target: the store or rowsets, as anchors name them. rowset_ids: those that came of it."""

    kind: Kind
    target: str
    rowset_ids: tuple[int, ...] = ()


class Maintenance:
    """Of one open tablet."""

    def __init__(self, store: TabletStore, metadata: TabletMetadata, blocks: BlockManager, cache: BlockCache, *,
                 target_rowset_bytes: int = TARGET_ROWSET_BYTES) -> None:
        self.store = store
        self._metadata = metadata
        self._blocks = blocks
        self._cache = cache
        self._target_bytes = target_rowset_bytes
        self._flushing = threading.Lock()
        self._merging = threading.Lock()
        self._rowset_locks: dict[int, threading.Lock] = {}
        self._idle = threading.Condition()
        self._running_count = 0                 # under _idle
        self._closed = False                    # under _idle
        self._retired: list[weakref.ref[DiskRowSet]] = []       # that a scan may still read (F3)
        self.sizes = RowSetSizes(blocks)

    def close(self) -> None:
        """Until nothing runs any more; nothing is begun afterwards."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._running_count == 0)
        if self._metadata.failed is None:
            self.delete_orphans()

    # -- flushes -------------------------------------------------------------------------------------------------------
    def flush_memory(self) -> Done | None:
        """All rows in memory to disk, while writers go on. None: there were none.

        Raises NoSpace, DirectoryFailed, DiskError, LogPoisoned, TabletFailed: see F1.
        """
        with self._running(), self._flushing:
            found = self._flush_all_memory()
        self.clean_up()
        return found

    def _flush_all_memory(self) -> Done | None:
        found = self._flush_oldest() if len(self.store.view.memory) > 1 else None     # one that failed before
        if self.store.view.memory[-1].rows.row_count:
            self._freeze()
            found = self._flush_oldest()
        return found

    def _freeze(self) -> None:
        view = self.store.view
        rows = MemRowSet()
        rows.add_layout(RowLayout(view.schema))         # a layout of its own: it is numbered by its MemRowSet
        rows.share()
        new = MemStore(rows, self._metadata.take_mem_rowset_id())
        self.store.swap(lambda view: replace(view, memory=(*view.memory, new)))

    def _flush_oldest(self) -> Done:
        view = self.store.view
        frozen, layout = view.memory[0], view.layout
        mark = self.store.move_history_mark()
        seen = self.store.latest()             # what is applied: every insert into `frozen` among it
        with self._new_blocks(lambda heirs: replace(heirs, of_memory=None)) as new_blocks:
            rewrite = self._begin(new_blocks, lambda transaction: flush_mem_rowset(
                frozen.rows, layout, seen, transaction, self._metadata.take_rowset_id, history_mark=mark,
                target_bytes=self._target_bytes))
            until = self.store.swap(lambda view: replace(view, heirs=replace(view.heirs, of_memory=rewrite.heirs)))
            missed = MissedChanges(frozen.rows, layout, seen, until, history_mark=mark)
            rewrite.finish(lambda transaction: write_missed(missed, rewrite.written, transaction))
            added = tuple(rowset.message for rowset in rewrite.written)
            self._record(SuperblockChange(add=added, durable_mrs_id=frozen.id), new_blocks, sync_log=True)
        self._install(lambda view: replace(
            view.with_rowsets(rewrite.rowsets()), memory=view.memory[1:], heirs=replace(view.heirs, of_memory=None)))
        self.store.note_flushed()
        return Done("flush_memrowset", f"memrowset {frozen.id}", tuple(rowset.id for rowset in rewrite.written))

    def flush_deltas(self, rowset_id: int) -> Done | None:
        """A rowset's changes in memory to disk, while writers go on. None: there were none.

        Raises as flush_memory().
        """
        with self._running(), self._locked([rowset_id]):
            done = self._flush_deltas(rowset_id)
        self.clean_up()
        return done

    def _flush_deltas(self, rowset_id: int) -> Done | None:
        found = self._settle(rowset_id)
        flushed = self.store.view.rowset(rowset_id)
        if flushed is None or not flushed.disk.memory.change_count:
            return found
        renewed = with_new_memory(flushed, self._metadata.take_delta_store_id(rowset_id))
        self.store.swap(lambda view: view.with_rowsets((renewed,)))
        self._retire([flushed])
        return self._settle(rowset_id)

    def _settle(self, rowset_id: int) -> Done | None:
        """Write the delta store that was swapped out, if there is one."""
        flushed = self.store.view.rowset(rowset_id)
        if flushed is None or flushed.disk.flushing is None or flushed.flushing_dms_id is None:
            return None
        memory, dms_id = flushed.disk.flushing, flushed.flushing_dms_id
        self._edit(flushed, lambda _, transaction: flush_delta_store(memory, dms_id, transaction)[0],
                   flushed_memory=True)
        return Done("flush_deltas", f"store {rowset_id}/{dms_id}", (rowset_id,))

    # -- schema changes ------------------------------------------------------------------------------------------------
    def alter(self, alterer: SchemaAlterer, *, timeout: float | None = None) -> Schema:
        """Change the schema, as a server does on its master's word (tablet.cc, AlterSchema); the schema of now.

        Rows in memory are flushed first, while writers go on. Then they wait until the rest is flushed, the change is
        in the log and the superblock tells of it. Nothing else rewrites files meanwhile.

        Args:
            timeout: seconds to wait for operations under way, before anything is changed.
        Raises:
            InvalidArgument: a change that does not fit. WaitTimeout, and what flush_memory() can raise: nothing was
            changed. NoSpace: nothing was changed, either. TabletFailed: it is in the log; opening the tablet does the
            rest.
        """
        with self._running(), self._flushing, self._merging, \
                self._locked([flushed.id for flushed in self.store.view.flushed]):
            self.store.require_writable()
            change = self._change_of(alterer)
            if change is not None:
                self._flush_all_memory()
                with self.store.quiesced(timeout):
                    self._flush_all_memory()
                    self._metadata.note_column_ids(column.id or 0 for column in change.schema)
                    self.store.alter(Alteration(change, self._record_schema, self._metadata.take_mem_rowset_id))
        self.clean_up()
        return self.store.schema

    def _change_of(self, alterer: SchemaAlterer) -> SchemaChange | None:
        """None: it changes nothing. Raises InvalidArgument."""
        view = self.store.view
        # Deltas of dropped columns stay in files and in memory until a merge.
        self._metadata.note_column_ids(
            column_id for flushed in view.flushed for file in (*flushed.disk.undo_files, *flushed.disk.redo_files)
            if file.stats is not None for column_id in file.stats.update_counts)
        schema = alterer.schema(view.schema, self._metadata.next_column_id)
        name = alterer.table_name if alterer.table_name != self._metadata.table_name else None
        if schema == view.schema and name is None:
            return None
        return SchemaChange(schema, view.schema_version + 1, name)

    def _record_schema(self, change: SchemaChange) -> None:
        self._metadata.commit(SuperblockChange(schema=change), sync_log=self.store.sync_log)

    @property
    def table_name(self) -> str:
        """By the superblock."""
        return self._metadata.table_name

    # -- compactions of deltas -----------------------------------------------------------------------------------------
    def compact_redos(self, rowset_id: int, block_ids: Sequence[int] | None = None) -> Done | None:
        """Minor: adjacent REDO files become one. Default: those that the policy picks; None: there are none."""
        with self._running(), self._locked([rowset_id]):
            flushed = self._ready(rowset_id)
            if flushed is None:
                return None
            if block_ids is None:
                chosen = delta_policy.minor_compaction(self.deltas_of(flushed))
                block_ids = () if chosen is None else chosen.block_ids
            if not block_ids:
                return None
            ids = tuple(block_ids)
            self._edit(flushed, lambda files, transaction: compact_redos(files, ids, transaction))
        self.clean_up()
        return Done("minor_delta", f"rowset {rowset_id}", (rowset_id,))

    def compact_columns(self, rowset_id: int, column_ids: Sequence[int] | None = None) -> Done | None:
        """Major: the REDOs of some columns become base data. Default: those that the policy picks."""
        with self._running(), self._locked([rowset_id]):
            flushed = self._ready(rowset_id)
            if flushed is None:
                return None
            if column_ids is None:
                chosen = delta_policy.major_compaction(self.deltas_of(flushed))
                column_ids = () if chosen is None else chosen.column_ids
            known = {column.id for column in self.store.schema if not column.is_key}
            ids = [column for column in column_ids if column in known]
            if not ids or not flushed.disk.redo_files:
                return None
            layout, mark = self.store.view.layout, self.store.move_history_mark()
            self._edit(flushed, lambda files, transaction: compact_columns(files, layout, ids, transaction,
                                                                           history_mark=mark))
        self.clean_up()
        return Done("major_delta", f"rowset {rowset_id}", (rowset_id,))

    # -- merges --------------------------------------------------------------------------------------------------------
    def merge(self, rowset_ids: Sequence[int] | None = None, policy: CompactionPolicy | None = None) -> Done | None:
        """Rowsets become one run of rowsets without overlap, while writers go on.

        Default: those that the policy picks within its budget, of those that nothing else rewrites. None: it picks
        none. Raises as flush_memory().
        """
        with self._running(), self._merging:
            if rowset_ids is not None:
                with self._locked(rowset_ids):
                    done = self._merge(rowset_ids)
            else:
                with self._picked(policy) as picked:
                    done = self._merge(picked) if picked else None
        self.clean_up()
        return done

    @contextlib.contextmanager
    def _picked(self, policy: CompactionPolicy | None) -> Iterator[Sequence[int]]:
        held: dict[int, threading.Lock] = {}
        try:
            for flushed in self.store.view.flushed:
                lock = self._lock_of(flushed.id)
                if lock.acquire(blocking=False):
                    held[flushed.id] = lock
            facts = [self.sizes.facts(flushed) for flushed in self.store.view.flushed
                     if flushed.id in held and flushed.disk.row_count]
            compaction = pick_rowsets(facts, policy)
            picked = () if compaction is None else compaction.rowset_ids
            for rowset_id in held.keys() - set(picked):
                held.pop(rowset_id).release()
            yield picked
        finally:
            for lock in held.values():
                lock.release()

    def _merge(self, rowset_ids: Sequence[int]) -> Done | None:
        inputs = [flushed for flushed in map(self._ready, sorted(set(rowset_ids))) if flushed is not None]
        if not inputs:
            return None
        ids = frozenset(flushed.id for flushed in inputs)
        layout = self.store.view.layout
        mark = self.store.move_history_mark()
        seen = self.store.latest()             # what is applied: all that the inputs' files hold among it
        compaction = RowSetCompaction([MergeInput(self._files(flushed), flushed.disk.memory) for flushed in inputs],
                                      layout, seen, history_mark=mark)
        none_left = Heirs()
        with self._new_blocks(lambda heirs: replace(none_left, of_memory=heirs.of_memory)) as new_blocks:
            rewrite = self._begin(new_blocks, lambda transaction: compaction.write(
                transaction, self._metadata.take_rowset_id, target_bytes=self._target_bytes))
            until = self.store.swap(lambda view: replace(view, heirs=Heirs(view.heirs.of_memory, rewrite.heirs, ids)))
            rewrite.finish(lambda transaction: compaction.write_missed(until, transaction))
            self._record(compaction.change(), new_blocks, sync_log=True)
        self._install(lambda view: replace(view.with_rowsets(rewrite.rowsets(), ids),
                                           heirs=Heirs(view.heirs.of_memory)))
        self._retire(inputs)
        for rowset_id in ids:
            self._rowset_locks.pop(rowset_id, None)
        return Done("merge", "rowsets " + ", ".join(map(str, sorted(ids))),
                    tuple(rowset.id for rowset in rewrite.written))

    # -- forgetting ----------------------------------------------------------------------------------------------------
    def forget_undos(self, rowset_id: int) -> Done | None:
        """Drop the UNDO files that only snapshots below the history mark need. None: there are none."""
        with self._running(), self._locked([rowset_id]):
            flushed = self.store.view.rowset(rowset_id)
            if flushed is None:
                return None
            mark = self.store.move_history_mark()
            ancient = delta_policy.ancient_undos(self.deltas_of(flushed), mark)
            if not ancient:
                return None
            self._edit(flushed, lambda *_: drop_undos(ancient))
        self.clean_up()
        return Done("undo_gc", f"rowset {rowset_id}", (rowset_id,))

    def forget_rowset(self, rowset_id: int) -> Done | None:
        """Drop a rowset whose rows all died before the history mark. None: it is not such a one."""
        with self._running(), self._locked([rowset_id]):
            flushed = self._ready(rowset_id)
            mark = self.store.move_history_mark()
            if flushed is None or not delta_policy.is_dead_and_ancient(
                    self.deltas_of(flushed), mark):
                return None
            with self._new_blocks(lambda heirs: heirs) as new_blocks:
                self._record(drop_rowsets([rowset_id]), new_blocks, sync_log=True)
            self._install(lambda view: view.with_rowsets((), frozenset([rowset_id])))
            self._retire([flushed])
            self._rowset_locks.pop(rowset_id, None)
        self.clean_up()
        return Done("rowset_gc", f"rowset {rowset_id}")

    # -- several at once -----------------------------------------------------------------------------------------------
    def compact(self, policy: CompactionPolicy | None = None) -> list[Done]:
        """Everything that the policies find worth doing: merges, each within the budget, then each rowset's deltas."""
        done: list[Done] = []
        while len(done) < MERGES_MAX and (merged := self.merge(policy=policy)) is not None:
            done.append(merged)
        for rowset_id in [flushed.id for flushed in self.store.view.flushed]:
            found = self.forget_rowset(rowset_id)
            if found is None:
                found = self.compact_columns(rowset_id) or self.compact_redos(rowset_id)
            done += [step for step in (found, self.forget_undos(rowset_id)) if step is not None]
        return done

    def clean_up(self) -> None:
        """After a step: the log is kept for what is left in memory only, and what was replaced goes."""
        self.store.move_anchors()
        self.delete_orphans()

    def delete_orphans(self) -> tuple[int, ...]:
        """Delete the blocks that were replaced and that no scan reads. What cannot be deleted now waits."""
        alive = [rowset for rowset in (reference() for reference in self._retired) if rowset is not None]
        self._retired = [weakref.ref(rowset) for rowset in alive]
        keep = {reference.block_id for rowset in alive for reference in rowset_blocks(rowset.message)}
        try:
            return self._metadata.delete_orphans(keep=keep)
        except KuduStorageError:
            return ()

    # -- what there is -------------------------------------------------------------------------------------------------
    def layout(self) -> list[dict[str, Any]]:
        """The rowsets, by id: where they lie and what they weigh (None: that cannot be found out now)."""
        return [self._describe(flushed) for flushed in self.store.view.flushed]

    def _describe(self, flushed: FlushedRowSet) -> dict[str, Any]:
        disk, live = flushed.disk, flushed.store.live
        facts = None
        with contextlib.suppress(KuduStorageError):     # its directory failed, or is not held any more
            facts = self.sizes.facts(flushed)
        return {
            "id": flushed.id, "rows": disk.row_count, "live_rows": disk.row_count - live.dead_count,
            "min_key": disk.min_key.hex(), "max_key": disk.max_key.hex(),
            "data_bytes": facts and facts.data_bytes,
            "disk_bytes": facts and facts.disk_bytes,
            "redo_files": len(disk.redo_files), "undo_files": len(disk.undo_files),
            "delta_store": {"id": flushed.store.dms_id, "changes": disk.memory.change_count,
                            "memory_bytes": disk.memory.memory_bytes},
        }

    def deltas_of(self, flushed: FlushedRowSet) -> delta_policy.RowSetDeltas:
        """Facts of a rowset's delta files. Raises as opening blocks does."""
        return self.sizes.deltas(flushed, self._files(flushed))

    # -- pieces --------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        with self._idle:
            if self._closed:
                raise TabletClosed("the tablet is closed", advice="Tablet.open()")
            self._running_count += 1
        try:
            self.store.require_usable()
            yield
        finally:
            with self._idle:
                self._running_count -= 1
                self._idle.notify_all()

    def _lock_of(self, rowset_id: int) -> threading.Lock:
        return self._rowset_locks.setdefault(rowset_id, threading.Lock())

    @contextlib.contextmanager
    def _locked(self, rowset_ids: Sequence[int]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for rowset_id in sorted(set(rowset_ids)):
                stack.enter_context(self._lock_of(rowset_id))
            yield

    def _ready(self, rowset_id: int) -> FlushedRowSet | None:
        """A rowset, all of whose changes are in its files or its one delta store. None: it is gone."""
        self._settle(rowset_id)
        return self.store.view.rowset(rowset_id)

    def _files(self, flushed: FlushedRowSet) -> RowSetFiles:
        return RowSetFiles(self._blocks, flushed.disk.message, cache=self._cache)

    def _begin(self, new_blocks: NewBlocks, write: Callable[[BlockTransaction], Any]) -> Rewrite:
        return Rewrite.begin(write, new_blocks, self._blocks, self.store.schema, self._cache,
                             self._metadata.take_delta_store_id)

    @contextlib.contextmanager
    def _new_blocks(self, without: Callable[[Heirs], Heirs]) -> Iterator[NewBlocks]:
        """Blocks to be recorded. If that fails, they go, and `without` takes back what heirs were named (F1)."""
        group = [uuid.decode("latin-1") for uuid in self._metadata.message.data_dir_group.uuids]
        new_blocks = NewBlocks(self._blocks, group)
        try:
            yield new_blocks
        except BaseException as error:
            failure = self._metadata.failed
            if failure is not None:             # F2
                self.store.fail(f"nobody knows which superblock is on disk: {failure}")
                raise
            self.store.swap(lambda view: replace(view, heirs=without(view.heirs)))
            new_blocks.drop()
            if isinstance(error, InvalidArgument):      # of a policy or a change that does not fit: ours
                raise InternalError(f"a change of the superblock that does not fit: {error}") from error
            raise

    def _record(self, change: SuperblockChange, new_blocks: NewBlocks, *, sync_log: bool) -> None:
        self._metadata.commit(change, sync_log=self.store.sync_log if sync_log else None)
        new_blocks.keep()

    def _install(self, make: Callable[[View], View]) -> None:
        """The view that the superblock on disk tells of."""
        try:
            self.store.swap(make)
        except BaseException as error:
            self.store.fail(f"what was written is recorded and cannot be used: {error}")
            raise

    def _edit(self, flushed: FlushedRowSet, make: Callable[[RowSetFiles, BlockTransaction], RowSetEdit], *,
              flushed_memory: bool = False) -> None:
        """Other files for a rowset, whose lock is held."""
        with self._new_blocks(lambda heirs: heirs) as new_blocks:
            edit = make(self._files(flushed), new_blocks.transaction)
            new_blocks.commit()
            change = SuperblockChange(edit={flushed.id: edit})
            message = next(r for r in apply_change(self._metadata.message, change).rowsets if r.id == flushed.id)
            edited = with_files(flushed, message, flushed_memory=flushed_memory)
            self._record(change, new_blocks, sync_log=flushed_memory)
        self._install(lambda view: view.with_rowsets((edited,)))
        self._retire([flushed])

    def _retire(self, rowsets: Sequence[FlushedRowSet]) -> None:
        self._retired += [weakref.ref(flushed.disk) for flushed in rowsets]
