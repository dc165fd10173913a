"""A flushed rowset: its files opened from a superblock's entry, scanned at a snapshot, asked for keys.

 W1  Files are immutable, and stay readable as long as this object lives, also after their
     blocks were deleted.
 W2  A file is opened when first needed, and then kept: a column not asked for costs nothing.
 W3  What is read is what the rowset's other files say it must be: as many rows, the column's type, keys within bounds.
Thread-safe; scans and finders belong to one thread each. Calls block on the disk. May not touch: the log.
"""
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage._native.delta import DeltaCells, DeltaRun
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_scan import KeyFinder, RowSetReader
from kudu_storage.cfile.block_source import BlockSource, open_column_file
from kudu_storage.common.limits import MIB
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, CorruptionError, KuduStorageError
from kudu_storage.fs.block_references import rowset_blocks
from kudu_storage.fs.blocks.manager import NO_BLOCK, block_name
from kudu_storage.tablet.delta_files import DeltaFile

if TYPE_CHECKING:
    from kudu_storage._native.block_cache import BlockCache
    from kudu_storage._native.column_block import ColumnBlock
    from kudu_storage.fs.blocks.manager import BlockManager

BATCH_ROWS = 8192
# A batch grows from few rows to as many as hold so many bytes of byte strings: cells may be 64 MiB, a column's 2 GiB.
_FEW_ROWS = 16
_BATCH_BYTES = 16 * MIB
_MIN_KEY, _MAX_KEY = "min_key", "max_key"


class DiskRowSet:
    """Made by `open`.

    Attributes:
        id: of the rowset, unique in its tablet.
        message: its kudu.tablet.RowSetDataPB; not to be changed.
        row_count: rows in its files, dead ones too.
        min_key, max_key: the first and last encoded key; b"" for a rowset without rows.
        undo_files, redo_files: its delta files, as the superblock lists them (REDO: oldest first).
        memory: changes that are not flushed.
        flushing: an older such store that is being written as a REDO file and takes no more changes; or None.
    """

    def __init__(self, message: Any, blocks: BlockManager, schema: Schema, cache: BlockCache | None,
                 before: DiskRowSet | None = None, memory: DeltaMemStore | None = None,
                 flushing: DeltaMemStore | None = None) -> None:
        self.message = message
        self.id: int = message.id
        self.last_durable_dms_id: int = message.last_durable_dms_id
        self._blocks = blocks
        self._schema = schema
        self._cache = cache
        self._lock = threading.Lock()
        self._column_blocks: dict[int, int] = {c.column_id: c.block.id for c in message.columns}
        # Open files by block id: those of the rowset before this one serve on.
        self._files: dict[int, CFileReader] = {} if before is None else dict(before._files)
        self._bloom: BloomReader | None = None
        self._index = self._open_index(schema)
        self.row_count = self._index.num_values
        self.min_key, self.max_key = self._key_bounds()
        self.undo_files = tuple(self._open_delta(d.block.id, undo=True) for d in message.undo_deltas)
        self.redo_files = tuple(self._open_delta(d.block.id, undo=False) for d in message.redo_deltas)
        self.memory = DeltaMemStore(self.row_count) if memory is None else memory
        self.flushing = flushing
        self._flushing_runs: list[DeltaRun] | None = None
        self._forget_unnamed()

    @classmethod
    def open(cls, message: Any, blocks: BlockManager, schema: Schema, *, cache: BlockCache | None = None) -> DiskRowSet:
        """Open the rowset of a kudu.tablet.RowSetDataPB.

        Args:
            schema: of the tablet; its key columns matter.
            cache: for verified blocks; None: each is read again.
        Raises:
            NoSuchBlock, DirectoryFailed, DiskError, CorruptionError's kinds, Unsupported.
        """
        return cls(message, blocks, schema, cache)

    def successor(self, message: Any, *, memory: DeltaMemStore | None = None, flushing: DeltaMemStore | None = None,
                  schema: Schema | None = None) -> DiskRowSet:
        """The same rows under another entry of a superblock: after, or during, a flush or compaction of its deltas.

        Files that both name stay open and are shared. This object goes on as it is, for the scans that hold it.

        Args:
            memory: its delta memory store. Default: this one's.
            flushing: a store that the message's files do not hold yet and that takes no more changes.
        """
        return DiskRowSet(message, self._blocks, schema or self._schema, self._cache, self,
                          self.memory if memory is None else memory, flushing)

    # -- files ---------------------------------------------------------------------------------------------------------
    def _open(self, block_id: int, what: str) -> CFileReader:
        with self._lock:
            reader = self._files.get(block_id)
            if reader is None:
                reader = self._files[block_id] = self._open_anew(block_id, what)
            return reader

    def _open_anew(self, block_id: int, what: str) -> CFileReader:
        block = self._blocks.open_block(block_id)
        name = f"{block.path}: block {block_name(block_id)} ({what} of rowset {self.id})"
        try:
            return open_column_file(BlockSource(block.fd, block.offset, block.length, name, block), cache=self._cache)
        except KuduStorageError as error:
            error.path = error.path or name
            raise

    def _forget_unnamed(self) -> None:
        named = {reference.block_id for reference in rowset_blocks(self.message)}
        self._files = {block_id: reader for block_id, reader in self._files.items() if block_id in named}

    def _open_index(self, schema: Schema) -> CFileReader:
        """The file whose value index finds keys: the ad hoc index of a composite key, else the key column's."""
        if self.message.HasField("adhoc_index_block") and self.message.adhoc_index_block.id != NO_BLOCK:
            return self._open(self.message.adhoc_index_block.id, "key index")
        keys = schema.key_columns
        if len(keys) != 1 or keys[0].id not in self._column_blocks:
            raise BadFormat(f"rowset {self.id} has no key index", advice="another replica of the tablet")
        reader = self.column(keys[0].id)
        assert reader is not None
        return reader

    def _key_bounds(self) -> tuple[bytes, bytes]:
        bounds = self._index.metadata.get(_MIN_KEY), self._index.metadata.get(_MAX_KEY)
        if bounds[0] is None or bounds[1] is None:
            if self.row_count:
                raise BadFormat("the file of keys does not tell the first and last one", path=self._index.name)
            return b"", b""
        if bounds[0] > bounds[1]:
            raise BadFormat("the first key of a rowset is above its last one", path=self._index.name)
        return bounds[0], bounds[1]

    def _open_delta(self, block_id: int, *, undo: bool) -> DeltaFile:
        return DeltaFile(self._open(block_id, "UNDO deltas" if undo else "REDO deltas"), undo=undo,
                         row_count=self.row_count)

    def column(self, column_id: int | None) -> CFileReader | None:
        """The file of a column, or None: the rowset was written before the column was added."""
        if column_id is None or column_id not in self._column_blocks:
            return None
        return self._open(self._column_blocks[column_id], f"column {column_id}")

    @property
    def index(self) -> CFileReader:
        """The file whose value index finds keys."""
        return self._index

    def bloom(self) -> BloomReader | None:
        """The bloom filter, or None where the rowset has none."""
        if not self.message.HasField("bloom_block") or self.message.bloom_block.id == NO_BLOCK:
            return None
        if self._bloom is None:
            self._bloom = BloomReader(self._open(self.message.bloom_block.id, "bloom filter"))
        return self._bloom

    def _memory_runs(self) -> list[DeltaRun]:
        """The store that is being flushed, as the deltas of a file."""
        if self.flushing is None or not self.flushing.change_count:
            return []
        if self._flushing_runs is None:
            cells = DeltaCells(undo=False)
            runs: list[DeltaRun] = []
            row: int | None = 0
            while row is not None:
                row = self.flushing.write_to(cells, row)
                runs.append(DeltaRun.decode(cells.take(), undo=False, rows=self.row_count))
            self._flushing_runs = runs
        return self._flushing_runs

    # -- keys ----------------------------------------------------------------------------------------------------------
    def finder(self, *, with_bloom: bool = True) -> KeyFinder:
        """Looks up keys, for one thread."""
        return KeyFinder(self._index, self.bloom() if with_bloom else None, self.min_key, self.max_key)

    def find_row(self, key: bytes) -> int | None:
        """The row of an encoded key, dead or live, or None. For single questions; finder() for many."""
        return self.finder().find_row(key)

    def row_range(self, lower: bytes | None, upper: bytes | None) -> tuple[int, int]:
        """The rows whose encoded keys are in [lower, upper); None: no bound."""
        first, end = 0, self.row_count
        if not end:
            return 0, 0
        finder = self.finder(with_bloom=False) if lower is not None or upper is not None else None
        if finder is not None and lower is not None and lower > self.min_key:
            first = finder.first_row(lower)
        if finder is not None and upper is not None and upper <= self.max_key:
            end = finder.first_row(upper)
        return first, max(first, end)

    # -- rows ----------------------------------------------------------------------------------------------------------
    def scan(self, layout: RowLayout, snapshot: Snapshot, *, first: int = 0, end: int | None = None,
             batch_rows: int = BATCH_ROWS, since: Snapshot | None = None, deleted_column: str | None = None,
             tests: ColumnTests | None = None, kept: int | None = None) -> Iterator[ColumnBlock]:
        """Rows [first, end) as they are at the snapshot, by key, in blocks of the layout's columns; none is empty.

        Args:
            layout: columns wanted, by id. Those that the rowset lacks have their read default, or NULL.
            since, deleted_column: for a diff scan; see DeltaApplier.
            tests: of the layout's columns; only rows that pass come out. Columns are then read as far as rows are left.
            kept: so many of the layout's first columns come out (default all); those behind are there to be tested.
        Raises:
            CorruptionError's kinds, DiskError: what is damaged is named.
        """
        return self.batches(layout, snapshot, [(first, self.row_count if end is None else end)], batch_rows=batch_rows,
                            since=since, deleted_column=deleted_column, tests=tests, kept=kept)

    def batches(self, layout: RowLayout, snapshot: Snapshot, ranges: Sequence[tuple[int, int]], *,
                batch_rows: int = BATCH_ROWS, since: Snapshot | None = None, deleted_column: str | None = None,
                tests: ColumnTests | None = None, kept: int | None = None) -> Iterator[ColumnBlock]:
        """As scan(), for several ranges of rows, one after the other."""
        applier = DeltaApplier(layout, snapshot, since=since, deleted_column=deleted_column)
        undos = [f.window() for f in self.undo_files if f.matters(snapshot, since)]
        redos = [f.window() for f in self.redo_files if f.matters(snapshot, since)]
        in_flush = self._memory_runs()
        reader = RowSetReader(applier, [self.column(c.id) for c in layout.schema], self.row_count, tests, kept)
        step = min(batch_rows, _FEW_ROWS) if any(c.type.is_binary for c in layout.schema) else batch_rows
        for first, end in ranges:
            at = first
            while at < end:
                count = min(step, end - at)
                try:
                    block = reader.read(at, count, [run for w in undos for run in w.runs(at, at + count)],
                                        [*(run for w in redos for run in w.runs(at, at + count)), *in_flush],
                                        self.memory if self.memory.change_count else None)
                except (CorruptionError, MemoryError) as error:
                    if count > _FEW_ROWS and layout.schema:     # cells of another size than before, or damage
                        step = _FEW_ROWS
                        continue
                    if isinstance(error, CorruptionError):
                        error.path = error.path or f"rowset {self.id}"
                    raise
                at += count
                step = _next_step(count, reader.read_bytes, batch_rows)
                if block is not None:
                    yield block

    # -- history -------------------------------------------------------------------------------------------------------
    @property
    def max_timestamp(self) -> int | None:
        """The highest one in its delta files, as far as their footers tell; None: no deltas."""
        return max((f.stats.max_timestamp for f in (*self.undo_files, *self.redo_files) if f.stats is not None),
                   default=None)

    def history_is_whole(self) -> bool:
        """Whether the UNDO files lead back to before each row's insert. A garbage collection of history cuts that.

        Each life of a row has a DELETE at its insert, and each but the last one a REINSERT.
        """
        stats = [f.stats for f in self.undo_files]
        return sum(s.delete_count - s.reinsert_count for s in stats if s is not None) >= self.row_count

    def history_mark(self) -> int | None:
        """A timestamp from which on the rowset's history is surely whole; None: all of it is, or nothing tells.

        Garbage collection takes all files of a rowset that lie below its mark. So those left end at or above it.
        """
        if self.history_is_whole():
            return None
        return min((f.stats.max_timestamp for f in self.undo_files if f.stats is not None), default=None)

    def __repr__(self) -> str:
        return f"<DiskRowSet {self.id}: {self.row_count} rows, {len(self._column_blocks)} columns>"


def _next_step(rows: int, read_bytes: int, batch_rows: int) -> int:
    """Rows of the next batch, after one of `rows` rows with so many bytes of byte strings."""
    wanted = rows * _BATCH_BYTES // read_bytes if read_bytes else batch_rows
    return max(1, min(batch_rows, 8 * max(rows, _FEW_ROWS), wanted))
