"""Rowsets being written: base column files, key index, bloom filter, UNDO and REDO files, as blocks of one transaction.

A flush of a MemRowSet and a merge compaction differ only in where their rows come from (RowFeed, MissedFeed). What is
written counts once the transaction is committed and a superblock names it: kudu_storage.tablet.metadata does both.
 K1  Rows go into a rowset in key order; it is closed at the first batch behind its target size.
 K2  A new rowset's id is taken when it is begun, not when it is recorded (C4 in docs/tablet.md).
 K3  When anything raises, the transaction is to be dropped: no rowset of it counts.
Batches pass here, rows do not. May block on disk. One thread for each object. May not touch: the log, the superblock.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from kudu_storage._native.cfile_writer import BloomWriter, CFileWriter
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.delta import DeltaCells, DeltaStats
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.memrowset_flush import FlushScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_sink import StoreSink, add_bloom_keys, key_at
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import InvalidArgument
from kudu_storage.fs.blocks import BlockTransaction
from kudu_storage.protos import message_class

ROWSET: Final = "kudu.tablet.RowSetDataPB"
DELTA_STATS: Final = "kudu.tablet.DeltaStatsPB"
STATS_KEY: Final = "deltafilestats"
TARGET_ROWSET_BYTES: Final = 32 << 20       # as Kudu's budgeted_compaction_target_rowset_size


class RowFeed(Protocol):
    """Where rows come from: a FlushScan or a RowSetMerge."""

    def next(self, undo: DeltaCells, redo: DeltaCells, *, first_row: int,
             rows_max: int = 4096) -> tuple[ColumnBlock, ColumnBlock, int] | None:
        """The next rows: cells, encoded keys, how many are live. Their deltas are appended."""


class MissedFeed(Protocol):
    """Changes that came while the rows were written: MissedChanges or MissedDeltas."""

    def next(self, redo: DeltaCells, row_count: int) -> int:
        """Append those of the next rowset, which has so many rows."""


@dataclass(frozen=True, slots=True)
class WrittenDeltas:
    """A delta file in a block. `stats`: what its footer says."""

    block_id: int
    file_bytes: int
    stats: DeltaStats = field(repr=False, compare=False)


@dataclass(slots=True)
class WrittenRowSet:
    """A rowset in blocks. `message`: its RowSetDataPB, to which REDO files may be added until it is recorded."""

    message: Any
    row_count: int
    file_bytes: int
    undo: WrittenDeltas | None = None
    redos: list[WrittenDeltas] = field(default_factory=list)

    @property
    def id(self) -> int:
        return int(self.message.id)

    def add_redo(self, file: WrittenDeltas) -> None:
        """A REDO file with later changes than those before."""
        self.message.redo_deltas.add().block.id = file.block_id
        self.message.live_row_count -= file.stats.delete_count - file.stats.reinsert_count
        self.redos.append(file)
        self.file_bytes += file.file_bytes


# -- delta files -------------------------------------------------------------------------------------------------------
class DeltaWriter:
    """One delta file, begun with the first delta: without any there is no file."""

    def __init__(self, transaction: BlockTransaction, *, undo: bool) -> None:
        self.cells = DeltaCells(undo=undo)
        self._transaction = transaction
        self._block_id = 0
        self._writer: CFileWriter | None = None

    def flush(self) -> None:
        """Write what `cells` holds."""
        if not len(self.cells):
            return
        if self._writer is None:
            block = self._transaction.create_block()
            self._block_id = block.id
            self._writer = CFileWriter.for_deltas(StoreSink(block))
        self._writer.append_block(self.cells.take())

    @property
    def size_bytes(self) -> int:
        """Written so far, about."""
        return 0 if self._writer is None else self._writer.size_bytes

    def finish(self) -> WrittenDeltas | None:
        """End the file. None: no delta was added."""
        self.flush()
        if self._writer is None:
            return None
        message: Any = message_class(DELTA_STATS)()
        self.cells.stats.to_pb(message)
        self._writer.add_metadata(STATS_KEY, message.SerializeToString())
        return WrittenDeltas(self._block_id, self._writer.finish(), self.cells.stats)


# -- base data ---------------------------------------------------------------------------------------------------------
def column_writer(transaction: BlockTransaction, column: ColumnSchema, *, only_key: bool) -> tuple[int, CFileWriter]:
    """A column file as the schema wants it, in a new block: (block id, writer). only_key: it is the whole key."""
    block = transaction.create_block()
    return block.id, CFileWriter(
        StoreSink(block), column.type, nullable=column.nullable, encoding=column.encoding,
        compression=column.compression, block_bytes=max(0, column.cfile_block_size), value_index=only_key,
        key_metadata=only_key)


class RowSetWriter:
    """One rowset. `schema`: of the tablet, with column ids."""

    def __init__(self, transaction: BlockTransaction, schema: Schema, rowset_id: int) -> None:
        self._message: Any = message_class(ROWSET)(id=rowset_id, last_durable_dms_id=-1)
        self._columns: list[CFileWriter] = []
        for column in schema:
            block_id, writer = column_writer(transaction, column,
                                             only_key=column.is_key and schema.key_column_count == 1)
            stored = self._message.columns.add(column_id=column.id)
            stored.block.id = block_id
            self._columns.append(writer)
        block = transaction.create_block()
        self._message.bloom_block.id = block.id
        self._bloom = BloomWriter(StoreSink(block))
        self._keys: CFileWriter | None = None
        if schema.key_column_count > 1:
            block = transaction.create_block()
            self._message.adhoc_index_block.id = block.id
            self._keys = CFileWriter.for_key_index(StoreSink(block))
        self.undo = DeltaWriter(transaction, undo=True)
        self.redo = DeltaWriter(transaction, undo=False)
        self.row_count = 0
        self._live = 0
        self._max_key = b""

    def append(self, rows: ColumnBlock, keys: ColumnBlock, live: int) -> None:
        """Rows behind those before, and their encoded keys. Their deltas are in `undo.cells` and `redo.cells`."""
        for i, writer in enumerate(self._columns):
            writer.append_block(rows, i)
        add_bloom_keys(self._bloom, keys)
        if self._keys is not None:
            self._keys.append_block(keys)
        if not self.row_count:
            self._message.min_encoded_key = key_at(keys, 0)
        self._max_key = key_at(keys, len(keys) - 1)
        self.row_count += len(rows)
        self._live += live
        self.undo.flush()
        self.redo.flush()

    @property
    def size_bytes(self) -> int:
        """Base data and deltas written so far, blocks being filled not counted."""
        return sum(writer.size_bytes for writer in self._columns) + self.undo.size_bytes + self.redo.size_bytes

    def finish(self) -> WrittenRowSet:
        """End all files."""
        if not self.row_count:
            raise InvalidArgument("a rowset has at least one row")
        size = sum(writer.finish() for writer in self._columns) + self._bloom.finish()
        if self._keys is not None:
            size += self._keys.finish()
        self._message.max_encoded_key = self._max_key
        self._message.live_row_count = self._live
        undo, redo = self.undo.finish(), self.redo.finish()
        if undo is not None:
            self._message.undo_deltas.add().block.id = undo.block_id
            size += undo.file_bytes
        if redo is not None:        # its DELETEs are not among the live rows
            self._message.redo_deltas.add().block.id = redo.block_id
            size += redo.file_bytes
        return WrittenRowSet(self._message, self.row_count, size, undo, [redo] if redo is not None else [])


# -- runs of rows ------------------------------------------------------------------------------------------------------
def write_rows(feed: RowFeed, schema: Schema, transaction: BlockTransaction, take_rowset_id: Callable[[], int], *,
               target_bytes: int = TARGET_ROWSET_BYTES, batch_rows: int = 4096) -> list[WrittenRowSet]:
    """All rows of `feed` as rowsets of about `target_bytes` each (K1). None at all where no row is left.

    Args:
        take_rowset_id: TabletMetadata.take_rowset_id.

    Raises NoSpace, DirectoryFailed or DiskError, and what `feed` raises (K3).
    """
    written: list[WrittenRowSet] = []
    writer: RowSetWriter | None = None
    # The deltas of the first batch come before it is known whether there is a rowset: their cells wait here.
    while True:
        if writer is None:
            undo, redo = DeltaCells(undo=True), DeltaCells(undo=False)
        else:
            undo, redo = writer.undo.cells, writer.redo.cells
        batch = feed.next(undo, redo, first_row=0 if writer is None else writer.row_count, rows_max=batch_rows)
        if batch is None:
            break
        if writer is None:
            writer = RowSetWriter(transaction, schema, take_rowset_id())
            writer.undo.cells, writer.redo.cells = undo, redo
        writer.append(*batch)
        if writer.size_bytes >= target_bytes:
            written.append(writer.finish())
            writer = None
    if writer is not None:
        written.append(writer.finish())
    return written


def flush_mem_rowset(rows: MemRowSet, layout: RowLayout, snapshot: Snapshot, transaction: BlockTransaction,
                     take_rowset_id: Callable[[], int], *, history_mark: int = 0,
                     target_bytes: int = TARGET_ROWSET_BYTES) -> list[WrittenRowSet]:
    """A MemRowSet at a snapshot as rowsets. It takes no more inserts, and all it took are applied in the snapshot.

    Raises as `write_rows` does.
    """
    scan = FlushScan(rows, layout, snapshot, history_mark=history_mark)
    return write_rows(scan, layout.schema, transaction, take_rowset_id, target_bytes=target_bytes)


def write_missed(feed: MissedFeed, rowsets: list[WrittenRowSet], transaction: BlockTransaction) -> None:
    """What changed while `rowsets` were written, as a REDO file of each that it concerns. Raises as `write_rows`."""
    for rowset in rowsets:
        writer = DeltaWriter(transaction, undo=False)
        feed.next(writer.cells, rowset.row_count)
        file = writer.finish()
        if file is not None:
            rowset.add_redo(file)
