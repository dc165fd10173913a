"""What the policies want to know of flushed rowsets: where they lie, what they weigh. Blocks on disk."""
from __future__ import annotations

from kudu_storage.fs.block_references import COLUMN, REDO, UNDO, rowset_blocks
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.tablet.compaction import RowSetFiles
from kudu_storage.tablet.delta_policy import DeltaFileFacts, RowSetDeltas
from kudu_storage.tablet.rowset_layout import RowSetFacts
from kudu_storage.tablet.view import FlushedRowSet

_REMEMBERED_MAX = 100_000


class RowSetSizes:
    """Sizes of blocks, which never change, and facts of delta files; each looked up once. Any thread."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        # By block id. Blocks go, their entries with the next that is too many.
        self._bytes: dict[int, int] = {}
        self._deltas: dict[int, DeltaFileFacts] = {}

    def block_bytes(self, block_id: int) -> int:
        found = self._bytes.get(block_id)
        if found is None:
            if len(self._bytes) >= _REMEMBERED_MAX:
                self._bytes.clear()
            with self._blocks.open_block(block_id) as block:
                found = self._bytes[block_id] = block.length
        return found

    def facts(self, flushed: FlushedRowSet) -> RowSetFacts:
        """For where to merge. Raises as opening blocks does."""
        sizes = [(self.block_bytes(r.block_id), r.kind) for r in rowset_blocks(flushed.disk.message)]
        return RowSetFacts(flushed.id, flushed.disk.min_key, flushed.disk.max_key,
                           sum(size for size, kind in sizes if kind in (COLUMN, REDO, UNDO)),
                           sum(size for size, _ in sizes))

    def deltas(self, flushed: FlushedRowSet, files: RowSetFiles) -> RowSetDeltas:
        """For which deltas to compact. Raises as opening blocks does, BadFormat for a file without statistics."""
        columns = {c.column_id: self.block_bytes(c.block.id) for c in flushed.disk.message.columns}
        return RowSetDeltas(
            flushed.id, columns, tuple(self._facts(files, block_id) for block_id in files.redo_ids),
            tuple(self._facts(files, block_id) for block_id in files.undo_ids),
            live_row_count=flushed.store.live.row_count - flushed.store.live.dead_count,
            memory_max_timestamp=flushed.disk.memory.max_timestamp)

    def _facts(self, files: RowSetFiles, block_id: int) -> DeltaFileFacts:
        found = self._deltas.get(block_id)
        if found is None:
            if len(self._deltas) >= _REMEMBERED_MAX:
                self._deltas.clear()
            found = self._deltas[block_id] = files.facts(block_id)
        return found
