"""Writing stores anew while they take changes: the two halves that a flush and a merge compaction have in common.

 1. What a snapshot has is written, made durable and opened (begin). Changes go to the old stores.
 2. From a moment on changes go to the new rowsets' delta stores as well (the view's Heirs). What came between the
    snapshot and that moment is written as REDO files (finish), and then a superblock may name the new rowsets.
 R1  Until a superblock names them, the blocks written here are this object's: drop() deletes them.
 R2  The new rowsets' delta stores hold what came after the moment, and their REDO files are older than that.
Order and reasons: docs/tablet.md. Blocks on disk. May not touch: the log, the superblock, the view.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.row_stores import RowStore
from kudu_storage.common.schema import Schema
from kudu_storage.errors import KuduStorageError
from kudu_storage.fs.blocks import BlockManager, BlockTransaction
from kudu_storage.tablet.flushed import has_deaths, live_parts, open_flushed, with_files
from kudu_storage.tablet.rowset_writer import WrittenRowSet
from kudu_storage.tablet.view import FlushedRowSet


class NewBlocks:
    """Blocks that no superblock names yet (R1)."""

    def __init__(self, blocks: BlockManager, group: Sequence[str]) -> None:
        self._blocks = blocks
        self._group = group
        self._transaction = blocks.transaction(group)
        self._ids: tuple[int, ...] = ()

    @property
    def transaction(self) -> BlockTransaction:
        """Where the next blocks go."""
        return self._transaction

    def commit(self) -> None:
        """Make durable what was written so far; it can be opened from then on. Raises as BlockTransaction.commit."""
        self._ids += self._transaction.commit()
        self._transaction = self._blocks.transaction(self._group)

    def keep(self) -> None:
        """A superblock names them."""
        self._ids = ()

    def drop(self) -> None:
        """Delete them all. What cannot be deleted is garbage, found when the tablet is opened."""
        self._transaction.abort()
        with contextlib.suppress(KuduStorageError):
            self._blocks.delete_blocks(self._ids)
        self._ids = ()


@dataclass(frozen=True, slots=True)
class _Finished:
    rowset: FlushedRowSet
    dead: tuple[tuple[int, bytes], ...]     # see live_parts


class Rewrite:
    """One flush or merge. Made by begin()."""

    def __init__(self, written: list[WrittenRowSet], new: list[FlushedRowSet], blocks: NewBlocks) -> None:
        self.written = written
        self._new = new
        self._blocks = blocks
        self._finished: list[_Finished] = []

    @classmethod
    def begin(cls, write: Callable[[BlockTransaction], list[WrittenRowSet]], new_blocks: NewBlocks,
              blocks: BlockManager, schema: Schema, cache: BlockCache,
              take_delta_store_id: Callable[[int], int]) -> Rewrite:
        """Write the rowsets and open them. Raises what `write` and the block store raise."""
        written = write(new_blocks.transaction)
        new_blocks.commit()
        new = [open_flushed(_copy(rowset.message), blocks, schema, cache, take_delta_store_id(rowset.id))
               for rowset in written]
        return cls(written, new, new_blocks)

    @property
    def heirs(self) -> tuple[RowStore, ...]:
        """Where changes go as well from the second half on."""
        return tuple(rowset.store for rowset in self._new)

    def finish(self, write_missed: Callable[[BlockTransaction], None]) -> None:
        """Write what the first half did not have, durably, and open it."""
        write_missed(self._blocks.transaction)
        self._blocks.commit()
        self._finished = [_finished(rowset, _copy(written.message))
                          for rowset, written in zip(self._new, self.written, strict=True)]

    def rowsets(self) -> tuple[FlushedRowSet, ...]:
        """The new rowsets for the view. To be called while no operation is applied."""
        for finished in self._finished:
            for first, part in finished.dead:
                finished.rowset.store.live.note_dead(first, part)
        return tuple(finished.rowset for finished in self._finished)


def _copy(message: Any) -> Any:
    """REDO files are added to what a writer made; what is opened does not change."""
    return type(message).FromString(message.SerializeToString())


def _finished(rowset: FlushedRowSet, message: Any) -> _Finished:
    if list(message.redo_deltas) == list(rowset.disk.message.redo_deltas):
        return _Finished(rowset, ())
    successor = with_files(rowset, message)
    dead = tuple(live_parts(successor.disk)) if has_deaths(successor.disk) else ()
    return _Finished(successor, dead)
