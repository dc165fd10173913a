"""Flushed rowsets for a tablet that is written on: opened, with the delta store that takes their changes, and which of
their rows are live.

Blocks on disk. May not touch: the log, the superblock's file.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.row_stores import LiveRows, RowStore
from kudu_storage.common.schema import Schema
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.tablet.disk_rowset import BATCH_ROWS, DiskRowSet
from kudu_storage.tablet.view import FlushedRowSet


def has_deaths(rowset: DiskRowSet) -> bool:
    """Whether its REDO files may have deleted a row."""
    return any(file.stats is None or file.stats.delete_count for file in rowset.redo_files)


def live_parts(rowset: DiskRowSet) -> Iterator[tuple[int, bytes]]:
    """(first row, a byte a row: 1, its files show it at last), part by part. Raises as reading does."""
    applier = DeltaApplier(RowLayout(Schema(())), Snapshot.everything())
    redos = [file.window() for file in rowset.redo_files]
    for first in range(0, rowset.row_count, BATCH_ROWS):
        count = min(BATCH_ROWS, rowset.row_count - first)
        applier.prepare(first, count, [], [run for w in redos for run in w.runs(first, first + count)])
        yield first, applier.selection()


def live_rows(rowset: DiskRowSet) -> bytes:
    """A byte a row, 1: the rowset's files show it at last."""
    return b"".join(part for _, part in live_parts(rowset))


def with_store(disk: DiskRowSet, dms_id: int) -> FlushedRowSet:
    """A rowset that is not in use yet, ready for changes."""
    live = LiveRows(disk.row_count)
    if has_deaths(disk):
        for first, part in live_parts(disk):
            live.note_dead(first, part)
    live.note_deletes(disk.memory)
    return FlushedRowSet(disk, RowStore(disk.id, dms_id, disk.finder(), disk.memory, live))


def open_flushed(message: Any, blocks: BlockManager, schema: Schema, cache: BlockCache, dms_id: int) -> FlushedRowSet:
    """Open a rowset whose blocks are durable. Raises as DiskRowSet.open."""
    return with_store(DiskRowSet.open(message, blocks, schema, cache=cache), dms_id)


def with_new_memory(flushed: FlushedRowSet, dms_id: int) -> FlushedRowSet:
    """The same with an empty delta store that takes changes from now on; the one before is to be flushed."""
    memory = DeltaMemStore(flushed.disk.row_count)
    disk = flushed.disk.successor(flushed.disk.message, memory=memory, flushing=flushed.disk.memory)
    store = flushed.store
    return FlushedRowSet(disk, RowStore(store.rowset_id, dms_id, store.finder, memory, store.live), store.dms_id)


def with_files(flushed: FlushedRowSet, message: Any, *, flushed_memory: bool = False) -> FlushedRowSet:
    """The same with the files of another entry of the superblock. flushed_memory: they hold what was being flushed."""
    disk = flushed.disk.successor(message, flushing=None if flushed_memory else flushed.disk.flushing)
    return FlushedRowSet(disk, flushed.store, None if flushed_memory else flushed.flushing_dms_id)
