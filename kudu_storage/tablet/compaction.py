"""Flushes and compactions of what is on disk, as changes of the superblock: blocks are written, nothing is recorded.

Each function reads rowsets, writes new blocks into a transaction and returns the RowSetEdit or SuperblockChange that
TabletMetadata.commit is to make durable with it. The caller holds the locks that docs/tablet.md asks for, and swaps the
view afterwards. Batches pass here, rows do not; memory is a batch or two of each input.
 N1  Inputs are only read. When anything raises, dropping the transaction leaves all as it was (C7).
May block on disk. May not touch: the log, the superblock's file.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kudu_storage._native.base_rows import BaseRows
from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.column_fold import ColumnFold
from kudu_storage._native.delta import DeltaStats
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.delta_scan import DeltaMerge, FileDeltas
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_merge import MissedDeltas, RowSetMerge, RowSetSource
from kudu_storage.cfile.block_source import BlockSource, open_column_file
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, InvalidArgument
from kudu_storage.fs.blocks import BlockManager, BlockTransaction
from kudu_storage.protos import message_class
from kudu_storage.tablet.delta_policy import DeltaFileFacts
from kudu_storage.tablet.metadata import RowSetEdit, SuperblockChange
from kudu_storage.tablet.rowset_writer import (
    DELTA_STATS,
    STATS_KEY,
    TARGET_ROWSET_BYTES,
    DeltaWriter,
    WrittenDeltas,
    WrittenRowSet,
    column_writer,
    write_missed,
    write_rows,
)


# -- inputs ------------------------------------------------------------------------------------------------------------
class RowSetFiles:
    """The files of one recorded rowset, opened when first asked for. One thread."""

    def __init__(self, blocks: BlockManager, message: Any, *, cache: BlockCache | None = None) -> None:
        self.message = message
        self._blocks = blocks
        self._cache = cache
        self._open: dict[int, CFileReader] = {}

    @property
    def id(self) -> int:
        return int(self.message.id)

    def file(self, block_id: int) -> CFileReader:
        """A column file or delta file by its block. Raises as opening blocks and column files does."""
        if block_id not in self._open:
            block = self._blocks.open_block(block_id)
            self._open[block_id] = open_column_file(
                BlockSource(block.fd, block.offset, block.length, block.path, owner=block), cache=self._cache)
        return self._open[block_id]

    def column(self, column_id: int | None) -> CFileReader | None:
        """The file of a column, or None: the rowset was written before the column was added."""
        for column in self.message.columns:
            if column.column_id == column_id:
                return self.file(column.block.id)
        return None

    @property
    def row_count(self) -> int:
        """Rows, dead ones too. Raises BadFormat for a rowset without any column."""
        if not self.message.columns:
            raise BadFormat(f"rowset {self.id} has no column")
        return self.file(self.message.columns[0].block.id).num_values

    @property
    def undo_ids(self) -> tuple[int, ...]:
        """UNDO files, newest first."""
        return tuple(delta.block.id for delta in self.message.undo_deltas)

    @property
    def redo_ids(self) -> tuple[int, ...]:
        """REDO files, oldest first."""
        return tuple(delta.block.id for delta in self.message.redo_deltas)

    def deltas(self, block_ids: Iterable[int], *, undo: bool) -> DeltaMerge:
        """Some delta files as one run."""
        return DeltaMerge([FileDeltas(self.file(block_id), self.row_count, undo=undo) for block_id in block_ids],
                          undo=undo)

    def facts(self, block_id: int) -> DeltaFileFacts:
        """What the policies want to know of a delta file. Raises BadFormat for one without statistics."""
        reader = self.file(block_id)
        if STATS_KEY not in reader.metadata:
            raise BadFormat("a delta file without statistics", path=reader.name)
        stats = DeltaStats.from_pb(message_class(DELTA_STATS).FromString(reader.metadata[STATS_KEY]))
        with self._blocks.open_block(block_id) as block:
            size = block.length
        return DeltaFileFacts(block_id, size, stats.min_timestamp, stats.max_timestamp, stats.delete_count,
                              stats.reinsert_count, stats.update_counts)

    def close(self) -> None:
        """Let go of the blocks."""
        self._open.clear()


# -- deltas ------------------------------------------------------------------------------------------------------------
def flush_delta_store(store: DeltaMemStore, dms_id: int, transaction: BlockTransaction) -> tuple[RowSetEdit,
                                                                                                 WrittenDeltas | None]:
    """A DeltaMemStore that takes no more changes as one REDO file.

    Returns the edit of its rowset, and the file; None for an empty store, whose id is then durable all the same.
    Raises NoSpace, DirectoryFailed or DiskError.
    """
    writer = DeltaWriter(transaction, undo=False)
    row: int | None = 0
    while row is not None:
        row = store.write_to(writer.cells, row)
        writer.flush()
    file = writer.finish()
    if file is None:
        return RowSetEdit(durable_dms_id=dms_id), None
    return RowSetEdit(add_redos=(file.block_id,), durable_dms_id=dms_id,
                      live_rows=file.stats.reinsert_count - file.stats.delete_count), file


def compact_redos(rowset: RowSetFiles, block_ids: Sequence[int], transaction: BlockTransaction) -> RowSetEdit:
    """Minor compaction: adjacent REDO files become one. Raises as reading and writing do."""
    writer = DeltaWriter(transaction, undo=False)
    merge = rowset.deltas(block_ids, undo=False)
    more = True
    while more:
        more = merge.copy_to(writer.cells)
        writer.flush()
    file = writer.finish()
    return RowSetEdit(remove_redos=tuple(block_ids), add_redos=() if file is None else (file.block_id,))


def compact_columns(rowset: RowSetFiles, layout: RowLayout, column_ids: Iterable[int], transaction: BlockTransaction, *,
                    history_mark: int = 0) -> RowSetEdit:
    """Major compaction: all REDOs of some columns become new base data and UNDOs; the rest stays one REDO file.

    Raises InvalidArgument for key columns or ids that the layout lacks, and as reading and writing do.
    """
    wanted = set(column_ids)
    columns = [column for column in layout.schema if column.id in wanted]
    if not columns or len(columns) != len(wanted) or any(column.is_key for column in columns):
        raise InvalidArgument(f"columns {sorted(wanted)} cannot be folded")
    folded = RowLayout(Schema(tuple(columns)))
    base = BaseRows(folded, [rowset.column(column.id) for column in columns], rowset.row_count)
    fold = ColumnFold(base, layout, rowset.deltas(rowset.redo_ids, undo=False), history_mark=history_mark)
    files = [column_writer(transaction, column, only_key=False) for column in columns]
    undo, redo = DeltaWriter(transaction, undo=True), DeltaWriter(transaction, undo=False)
    while (block := fold.next(undo.cells, redo.cells)) is not None:
        for i, (_, writer) in enumerate(files):
            writer.append_block(block, i)
        undo.flush()
        redo.flush()
    for _, writer in files:
        writer.finish()
    new_undo, new_redo = undo.finish(), redo.finish()
    return RowSetEdit(
        column_blocks={column.id: block_id for column, (block_id, _) in zip(columns, files, strict=True)
                       if column.id is not None},
        remove_redos=rowset.redo_ids, add_redos=() if new_redo is None else (new_redo.block_id,),
        add_undo=None if new_undo is None else new_undo.block_id)


# -- rowsets -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class MergeInput:
    """A rowset to merge. memory: its DeltaMemStore, which may go on taking changes; None: it has none."""

    files: RowSetFiles
    memory: DeltaMemStore | None = None


class RowSetCompaction:
    """A merge compaction in its two halves: what the snapshot has, then what came while that was written.

    Args:
        snapshot: has every change in the inputs' files.
        history_mark: from which on every snapshot stays what it is; rows and UNDOs from before are dropped.
    """

    def __init__(self, inputs: Sequence[MergeInput], layout: RowLayout, snapshot: Snapshot, *,
                 history_mark: int = 0) -> None:
        if not inputs:
            raise InvalidArgument("nothing to merge")
        self._inputs = tuple(inputs)
        self._layout = layout
        self._merge = RowSetMerge([self._source(given) for given in inputs], layout, snapshot,
                                  history_mark=history_mark)
        self.rowsets: list[WrittenRowSet] = []

    def _source(self, given: MergeInput) -> RowSetSource:
        files = given.files
        base = BaseRows(self._layout, [files.column(column.id) for column in self._layout.schema], files.row_count)
        return RowSetSource(base, files.deltas(files.undo_ids, undo=True), files.deltas(files.redo_ids, undo=False),
                            given.memory)

    def write(self, transaction: BlockTransaction, take_rowset_id: Callable[[], int], *,
              target_bytes: int = TARGET_ROWSET_BYTES) -> list[WrittenRowSet]:
        """The rows at the snapshot as new rowsets; none where all rows were dead and ancient."""
        self.rowsets = write_rows(self._merge, self._layout.schema, transaction, take_rowset_id,
                                  target_bytes=target_bytes)
        return self.rowsets

    def write_missed(self, until: Snapshot, transaction: BlockTransaction) -> None:
        """REDO files of what the inputs' DeltaMemStores have at `until` and had not at the snapshot.

        From a moment before `until` on, changes go to the new rowsets, too.
        """
        write_missed(MissedDeltas(self._merge, until), self.rowsets, transaction)

    def place_of(self, input_index: int, row: int) -> tuple[int, int] | None:
        """(index of a new rowset, row in it) of an input's row; None: it was left out or is part of another's past."""
        place = self._merge.sources[input_index].place_of(row)
        if place is None:
            return None
        for index, rowset in enumerate(self.rowsets):
            if place < rowset.row_count:
                return index, place
            place -= rowset.row_count
        return None

    def change(self) -> SuperblockChange:
        """The new rowsets in place of the inputs."""
        return SuperblockChange(add=tuple(rowset.message for rowset in self.rowsets),
                                remove=tuple(given.files.id for given in self._inputs))


# -- history -----------------------------------------------------------------------------------------------------------
def drop_undos(files: Iterable[DeltaFileFacts]) -> RowSetEdit:
    """Undo GC: forget whole UNDO files (delta_policy.ancient_undos says which)."""
    return RowSetEdit(remove_undos=tuple(file.block_id for file in files))


def drop_rowsets(rowset_ids: Iterable[int]) -> SuperblockChange:
    """Deleted-rowset GC: forget whole rowsets (delta_policy.is_dead_and_ancient says which)."""
    return SuperblockChange(remove=tuple(rowset_ids))
