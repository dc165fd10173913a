"""Merge compaction: rows of several rowsets by key, with their whole history, as one run of rows to write.

Rows of one key are chained newest first: the one that is live, else the one that died last. An older one's cells become
a REINSERT undo at the time it died, and its UNDOs follow.

Z1  Every delta in the inputs' files, and every UNDO, is applied in the snapshot: the merge waited for them. Changes in
    memory that it lacks are left to MissedDeltas.
Z2  At most one row of a key is live. Rows come out in key order, numbered without gaps; `places` says which became what.
Z3  Dropped is: an UNDO before the history mark, and a row that died before it. All else stays.
May not touch: files, but through column readers. One thread for each object.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from kudu_storage._native.base_rows cimport BATCH_BINARY_BYTES, BaseRows, apply_redo, begin_row, emit_row, new_rows
from kudu_storage._native.cfile_index cimport compare_bytes
from kudu_storage._native.column_block cimport (
    KIND_BINARY, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_REINSERT, CHANGE_UPDATE, DELTA_FINE, ByteBuffer, ChangeCell, Delta, DeltaCells, DeltaFault,
    buffer_append, buffer_free, change_next, change_open, change_put, change_start, raise_delta_fault,
)
from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.delta_scan cimport DeltaMerge, MemoryDeltas
from kudu_storage._native.mvcc cimport Snapshot, snapshot_applied
from kudu_storage._native.row_history cimport HISTORY_FINE, RowHistory, Undo
from kudu_storage._native.row_layout cimport RowLayout, column_of_id
from kudu_storage._native.row_ops cimport CELL_SET, RowScratch, encode_key

from kudu_storage._native.delta import CELL_SCHEMA
from kudu_storage.errors import Contradiction, InternalError, InvalidArgument

cdef enum:
    LEFT_OUT = 0xFFFFFFFF           # a place of a row that has none

cdef enum Trouble:
    FINE = 0
    NO_MEMORY = -1
    BAD_DELTA = -2
    BAD_HISTORY = -3
    NOT_APPLIED = -4
    TWO_LIVE = -5
    LONG_KEY = -6
    DISORDER = -7

cdef dict _WHY = {
    BAD_HISTORY: "the REDOs of a row contradict each other",
    TWO_LIVE: "a key has two live rows",
    LONG_KEY: "an encoded key is longer than any that can be inserted",
    DISORDER: "the keys of a rowset do not ascend",
}


# -- one rowset --------------------------------------------------------------------------------------------------------
cdef class RowSetSource:
    """A rowset to be merged; used once.

    Args:
        base: its rows in all columns of the tablet.
        undo, redo: its delta files.
        memory: its DeltaMemStore, or None.
    """
    cdef readonly BaseRows base
    cdef readonly DeltaMerge undo
    cdef readonly DeltaMerge redo
    cdef readonly DeltaMemStore memory
    cdef DeltaMerge recent              # of memory
    cdef RowHistory history
    cdef RowScratch scratch
    cdef BlockBuffers* block
    cdef int64_t at
    cdef int64_t row                    # the one in hand, or row_count
    cdef uint32_t* places               # by row: its number among all that were written, or LEFT_OUT
    cdef ByteBuffer last_key
    cdef size_t left                    # UNDOs made from REDOs of the row in hand that are not written yet
    cdef bint ghost                     # its cells are to be written as a REINSERT
    cdef uint64_t born                  # when the row in hand came to life last, as far as its UNDOs say

    def __cinit__(self, BaseRows base not None, DeltaMerge undo not None, DeltaMerge redo not None,
                  DeltaMemStore memory=None):
        if redo.undo or not undo.undo or base.layout.info.key_count < 1:
            raise InvalidArgument("a rowset is merged with all its columns, UNDOs and REDOs")
        self.base = base
        self.undo = undo
        self.redo = redo
        self.memory = memory
        self.recent = DeltaMerge([] if memory is None else [MemoryDeltas(memory)], undo=False)
        self.scratch = RowScratch()
        self.scratch.reserve(base.layout.info.column_count)
        self.places = <uint32_t*> malloc(<size_t> (base.row_count + 1) * sizeof(uint32_t))
        if self.places == NULL:
            raise MemoryError()
        memset(self.places, 0xFF, <size_t> (base.row_count + 1) * sizeof(uint32_t))
        self.row = -1

    def __dealloc__(self):
        free(self.places)
        buffer_free(&self.last_key)
        block_release(self.block)
        self.block = NULL

    def place_of(self, int64_t row):
        """The number of that row among all that the merge wrote, or None: it was left out or is part of another's
        history."""
        if not 0 <= row < self.base.row_count:
            raise IndexError(row)
        return None if self.places[row] == LEFT_OUT else self.places[row]

    cdef int _next_block(self) except -1 with gil:
        block_release(self.block)
        self.block = NULL
        self.block = self.base.load()
        self.at = 0
        return 0

    cdef int _release(self) except -1 with gil:
        self.undo._forget()
        self.redo._forget()
        return 0


cdef int _advance(RowSetSource self) except -8 nogil:
    """To the next row, with its key in `scratch`: FINE, LONG_KEY, DISORDER or NO_MEMORY. At the end block is NULL."""
    cdef int32_t i
    cdef const ColumnBuffers* column
    self.row += 1
    self.at += 1
    if self.block == NULL or self.at >= self.block.row_count:
        self._next_block()
        if self.block == NULL:
            return FINE
    for i in range(self.base.layout.info.key_count):
        column = &self.block.columns[i]
        self.scratch.row.states[i] = CELL_SET
        if column.kind == KIND_BINARY:
            self.scratch.row.cells[i] = column.data + column.offsets[self.at]
            self.scratch.row.sizes[i] = <uint32_t> (column.offsets[self.at + 1] - column.offsets[self.at])
        else:
            self.scratch.row.cells[i] = column.values + self.at * column.width
            self.scratch.row.sizes[i] = column.width
    if not encode_key(&self.base.layout.info, &self.scratch.row):
        return LONG_KEY
    if self.row and compare_bytes(self.last_key.data, self.last_key.size, self.scratch.row.key,
                                  self.scratch.row.key_size) >= 0:
        return DISORDER
    self.last_key.size = 0
    buffer_append(&self.last_key, self.scratch.row.key, self.scratch.row.key_size)
    return NO_MEMORY if self.last_key.failed else FINE


cdef inline int _compare(RowSetSource a, RowSetSource b) noexcept nogil:
    if a.scratch.row.key_prefix != b.scratch.row.key_prefix:
        return -1 if a.scratch.row.key_prefix < b.scratch.row.key_prefix else 1
    return compare_bytes(a.scratch.row.key, a.scratch.row.key_size, b.scratch.row.key, b.scratch.row.key_size)


cdef int _lead(RowSetSource self, Snapshot snapshot, DeltaFault* fault) except -8 nogil:
    """The row in hand to the snapshot: Trouble."""
    cdef const Delta* found
    cdef Delta delta
    begin_row(self.history, self.block, self.at)
    self.redo.peek(&found)
    while found != NULL and <int64_t> found.row <= self.row:
        delta = found[0]
        if not snapshot_applied(&snapshot.info, delta.timestamp):
            return NOT_APPLIED
        if apply_redo(self.history, &delta, fault) != HISTORY_FINE:
            return BAD_HISTORY
        if fault[0] != DELTA_FINE:
            return BAD_DELTA
        self.redo.step()
        self.redo.peek(&found)
    self.recent.peek(&found)
    while found != NULL and <int64_t> found.row <= self.row:
        delta = found[0]
        if snapshot_applied(&snapshot.info, delta.timestamp):
            if apply_redo(self.history, &delta, fault) != HISTORY_FINE:
                return BAD_HISTORY
            if fault[0] != DELTA_FINE:
                return BAD_DELTA
        self.recent.step()
        self.recent.peek(&found)
    return FINE


# -- all of them -------------------------------------------------------------------------------------------------------
cdef class RowSetMerge:
    """The rows of `sources` at `snapshot`, as a FlushScan gives those of a MemRowSet.

    Args:
        layout: the columns to write: the tablet's, and every source's.
        history_mark: as of which all snapshots must stay what they are.
    """
    cdef readonly RowLayout layout
    cdef readonly Snapshot snapshot
    cdef readonly list sources
    cdef uint64_t mark
    cdef void** raw                     # the sources that have rows left, borrowed
    cdef void** chain                   # those of the key in hand, newest first
    cdef int32_t count
    cdef uint32_t written
    cdef bint started
    cdef ByteBuffer change

    def __cinit__(self, sources, RowLayout layout not None, Snapshot snapshot not None, *, uint64_t history_mark=0):
        cdef RowSetSource source
        cdef Py_ssize_t i
        self.sources = list(sources)
        self.layout = layout
        self.snapshot = snapshot
        self.mark = history_mark
        self.raw = <void**> calloc(len(self.sources) + 1, sizeof(void*))
        self.chain = <void**> calloc(len(self.sources) + 1, sizeof(void*))
        if self.raw == NULL or self.chain == NULL:
            raise MemoryError()
        for i in range(len(self.sources)):
            source = self.sources[i]
            if source.base.layout is not layout or source.row >= 0:
                raise InvalidArgument("a source of other columns, or one that was merged already")
            source.history = RowHistory(layout, history_mark)
            self.raw[i] = <void*> source
        self.count = <int32_t> len(self.sources)

    def __dealloc__(self):
        free(self.raw)
        free(self.chain)
        buffer_free(&self.change)

    def next(self, DeltaCells undo not None, DeltaCells redo not None, *, uint32_t first_row, Py_ssize_t rows_max=4096):
        """The next rows: (base cells, encoded keys as a block of one BINARY column, how many of them are live), or None.

        Their UNDOs and REDOs are appended to `undo` and `redo`, with row ordinals from `first_row` on.

        Raises:
            Contradiction: rows, keys or deltas of the inputs that cannot be. BadFormat and others: as reading does.
        """
        cdef BlockBuffers* block
        cdef BlockBuffers* keys
        cdef int status
        cdef int64_t live = 0
        cdef DeltaFault fault = DELTA_FINE
        if rows_max < 1:
            raise InvalidArgument("a batch has at least one row")
        block = new_rows(&self.layout.info, rows_max)
        keys = block_new(1, rows_max)
        try:
            if block == NULL or keys == NULL or block_init_column(keys, 0, KIND_BINARY, 0, False) < 0:
                raise MemoryError()
            with nogil:
                status = _merge(self, block, keys, undo, redo, first_row, &live, &fault)
            self._judge(status, fault)
            if block.row_count == 0:
                block_release(block)
                block_release(keys)
                return None
        except BaseException:
            block_release(block)
            block_release(keys)
            raise
        rows_block = ColumnBlock.wrap(block, self.layout.schema)
        return rows_block, ColumnBlock.wrap(keys, CELL_SCHEMA), live

    cdef int _judge(self, int status, DeltaFault fault) except -1:
        if status == NO_MEMORY:
            raise MemoryError()
        if status == BAD_DELTA:
            raise_delta_fault(fault, "REDO delta")
        if status == NOT_APPLIED:
            raise InternalError("a rowset is merged at a snapshot that lacks a delta of one of its files")
        if status < 0:
            raise Contradiction(_WHY[status])
        return 0


cdef int _merge(RowSetMerge self, BlockBuffers* block, BlockBuffers* keys, DeltaCells undo, DeltaCells redo,
                uint32_t first_row, int64_t* live, DeltaFault* fault) except -8 nogil:
    cdef size_t binary_bytes = 0
    cdef int status
    cdef int32_t same
    if not self.started:
        self.started = True
        status = _advance_all(self, self.raw, self.count)
        if status != FINE:
            return status
    while block.row_count < block.row_capacity and binary_bytes < BATCH_BINARY_BYTES and self.count:
        same = _take_least(self)
        status = _lead_chain(self, same, fault)
        if status == FINE:
            status = _write_chain(self, <RowSetSource> self.chain[0], same, block, keys, undo, redo, first_row, live, &binary_bytes)
        if status == FINE:
            status = _advance_all(self, self.chain, same)
        if status != FINE:
            return status
    return FINE


cdef int _advance_all(RowSetMerge self, void** sources, int32_t count) except -8 nogil:
    cdef int32_t i, kept = 0
    cdef int status
    for i in range(count):
        status = _advance(<RowSetSource> sources[i])
        if status != FINE:
            return status
    for i in range(self.count):
        if (<RowSetSource> self.raw[i]).block != NULL:
            self.raw[kept] = self.raw[i]
            kept += 1
    self.count = kept
    return FINE


cdef int32_t _take_least(RowSetMerge self) noexcept nogil:
    """Those with the least key into `chain`; how many."""
    cdef int32_t i, found = 0
    cdef int order
    for i in range(self.count):
        order = -1 if found == 0 else _compare(<RowSetSource> self.raw[i], <RowSetSource> self.chain[0])
        if order < 0:
            found = 0
        if order <= 0:
            self.chain[found] = self.raw[i]
            found += 1
    return found


cdef int _lead_chain(RowSetMerge self, int32_t count, DeltaFault* fault) except -8 nogil:
    """Each row to the snapshot, then newest first."""
    cdef int32_t i, j
    cdef int status
    cdef int32_t live = 0
    cdef void* moved
    for i in range(count):
        status = _lead(<RowSetSource> self.chain[i], self.snapshot, fault)
        if status != FINE:
            return status
        live += not (<RowSetSource> self.chain[i]).history.dead
    if live > 1:
        return TWO_LIVE
    if count == 1:
        return FINE
    for i in range(count):
        status = _note_birth(<RowSetSource> self.chain[i])
        if status != FINE:
            return status
    for i in range(1, count):
        moved = self.chain[i]
        j = i
        while j and _is_newer(<RowSetSource> moved, <RowSetSource> self.chain[j - 1]):
            self.chain[j] = self.chain[j - 1]
            j -= 1
        self.chain[j] = moved
    return FINE


cdef int _note_birth(RowSetSource self) except -8 nogil:
    """When the row came to life: where its newest UNDO is not a DELETE nothing is known, and nothing need be."""
    cdef const Delta* found
    self.undo.peek(&found)
    self.born = 0
    while found != NULL and <int64_t> found.row < self.row:
        self.undo.step()
        self.undo.peek(&found)
    if found != NULL and <int64_t> found.row == self.row and found.change_bytes \
            and found.change[0] == CHANGE_DELETE:
        self.born = found.timestamp
    return FINE


cdef inline bint _is_newer(RowSetSource a, RowSetSource b) noexcept nogil:
    """A row that was born and died by one operation is newer than one that died by the same."""
    if a.history.dead != b.history.dead:
        return not a.history.dead
    if a.history.deleted_at != b.history.deleted_at:
        return a.history.deleted_at > b.history.deleted_at
    return a.born > b.born


# -- out ---------------------------------------------------------------------------------------------------------------
cdef int _write_chain(RowSetMerge self, RowSetSource newest, int32_t count, BlockBuffers* block, BlockBuffers* keys,
                      DeltaCells undo, DeltaCells redo, uint32_t first_row, int64_t* live,
                      size_t* binary_bytes) except -8 nogil:
    cdef uint32_t row = first_row + <uint32_t> block.row_count
    cdef int32_t i
    cdef uint8_t delete = CHANGE_DELETE
    cdef bint kept = not newest.history.is_ancient()
    if kept:
        live[0] += not newest.history.dead
        newest.places[newest.row] = self.written
        self.written += 1
        if newest.history.dead and redo.append(row, newest.history.deleted_at, &delete, 1) < 0:
            return NO_MEMORY
    for i in range(count):
        (<RowSetSource> self.chain[i]).left = (<RowSetSource> self.chain[i]).history.undos.size // sizeof(Undo)
        (<RowSetSource> self.chain[i]).ghost = i > 0
        if (<RowSetSource> self.chain[i]).history.undos.failed or (<RowSetSource> self.chain[i]).history.changes.failed:
            return NO_MEMORY
    if _write_undos(self, count, row, undo, kept) < 0:
        return NO_MEMORY
    if kept and (_emit_key(newest, keys) < 0 or emit_row(newest.history, block, binary_bytes) < 0):
        return NO_MEMORY
    for i in range(count):
        if (<RowSetSource> self.chain[i]).row & 255 == 255 or count > 1:
            (<RowSetSource> self.chain[i])._release()
    return FINE


cdef int _write_undos(RowSetMerge self, int32_t count, uint32_t row, DeltaCells undo, bint kept) except -8 nogil:
    """The UNDOs of all rows of the key, newest first; stepped over if not kept.

    The lives of a key do not overlap, but those that one input has may lie between those of another. Where two inputs
    have UNDOs of one time, that is one's birth and the other's death: the DELETE comes before the REINSERT.
    """
    cdef int32_t i, first
    cdef uint64_t timestamp, best = 0
    cdef uint8_t type, best_type = 0
    while True:
        first = -1
        for i in range(count):
            if not _next_undo(<RowSetSource> self.chain[i], &timestamp, &type):
                continue
            if first < 0 or timestamp > best or (timestamp == best and best_type == CHANGE_REINSERT
                                                 and type != CHANGE_REINSERT):
                first = i
                best = timestamp
                best_type = type
        if first < 0:
            return 0
        if _take_undo(self, <RowSetSource> self.chain[first], row, undo, kept and best >= self.mark) < 0:
            return -1


cdef bint _made_first(RowSetSource self, const Delta* found) noexcept nogil:
    """The newest UNDO made from REDOs comes before the one on disk: a major compaction may have left a REDO that is older
    than an UNDO of other columns."""
    cdef const Undo* made = <const Undo*> self.history.undos.data
    return self.left > 0 and (found == NULL or <int64_t> found.row > self.row
                              or found.timestamp <= made[self.left - 1].timestamp)


cdef bint _next_undo(RowSetSource self, uint64_t* timestamp, uint8_t* type) except -8 nogil:
    """The row's next UNDO; False: there is none."""
    cdef const Undo* made = <const Undo*> self.history.undos.data
    cdef const Delta* found
    if self.ghost:
        timestamp[0] = self.history.deleted_at
        type[0] = CHANGE_REINSERT
        return True
    self.undo.peek(&found)
    if _made_first(self, found):
        timestamp[0] = made[self.left - 1].timestamp
        type[0] = self.history.changes.data[made[self.left - 1].start]
        return True
    if found == NULL or <int64_t> found.row > self.row:
        return False
    timestamp[0] = found.timestamp
    type[0] = found.change[0]
    return True


cdef int _take_undo(RowSetMerge self, RowSetSource source, uint32_t row, DeltaCells undo, bint kept) except -8 nogil:
    """Write the source's next UNDO, or step over it. 0, or -1: no memory."""
    cdef const Undo* made = <const Undo*> source.history.undos.data
    cdef const Delta* found
    cdef int status = 0
    if source.ghost:        # what is left of a row that died before the newest of its key came
        source.ghost = False
        return _write_ghost(self, source, row, undo) if kept else 0
    source.undo.peek(&found)
    if _made_first(source, found):
        source.left -= 1
        made += source.left
        return undo.append(row, made.timestamp, source.history.changes.data + made.start, made.end - made.start) \
            if kept else 0
    if kept:
        status = _copy_change(self, row, found, undo)
    source.undo.step()
    return status


cdef int _write_ghost(RowSetMerge self, RowSetSource ghost, uint32_t row, DeltaCells undo) noexcept nogil:
    cdef int32_t i
    self.change.size = 0
    change_start(&self.change, CHANGE_REINSERT)
    for i in range(self.layout.info.key_count, self.layout.info.column_count):
        change_put(&self.change, <uint32_t> self.layout.info.columns[i].id, ghost.history.cells[i],
                   ghost.history.sizes[i])
    return -1 if self.change.failed else undo.append(row, ghost.history.deleted_at, self.change.data, self.change.size)


cdef int _copy_change(RowSetMerge self, uint32_t row, const Delta* delta, DeltaCells undo) noexcept nogil:
    cdef Cursor change = cursor_of(delta.change, delta.change_bytes)
    cdef ChangeCell cell
    cdef uint8_t type = 0
    if delta.change_bytes == 1:         # a DELETE, as most UNDOs are
        return undo.append(row, delta.timestamp, delta.change, 1)
    change_open(&change, &type)         # checked when it was decoded
    self.change.size = 0
    change_start(&self.change, type)
    while change_next(&change, &cell) > 0:
        if column_of_id(&self.layout.info, cell.column_id) >= 0:
            change_put(&self.change, cell.column_id, cell.data, cell.size)
    if self.change.failed:
        return -1
    if type == CHANGE_UPDATE and self.change.size == 1:
        return 0
    return undo.append(row, delta.timestamp, self.change.data, self.change.size)


cdef int _emit_key(RowSetSource source, BlockBuffers* keys) noexcept nogil:
    cdef ColumnBuffers* column = &keys.columns[0]
    if block_append_bytes(column, source.scratch.row.key, source.scratch.row.key_size) < 0:
        return -1
    keys.row_count += 1
    column.offsets[keys.row_count] = <int32_t> column.data_bytes
    return 0


# -- what came later ---------------------------------------------------------------------------------------------------
cdef struct Missed:
    uint32_t place
    uint32_t order
    Delta delta


cdef int _missed_order(const void* a, const void* b) noexcept nogil:
    cdef const Missed* first = <const Missed*> a
    cdef const Missed* second = <const Missed*> b
    if first.place != second.place:
        return -1 if first.place < second.place else 1
    return -1 if first.order < second.order else 1


cdef class MissedDeltas:
    """Changes in the merged rowsets' DeltaMemStores that the merge's snapshot lacks and `until` has, as REDOs of the new
    rows. Later ones go to both places already.
    """
    cdef readonly RowSetMerge merge
    cdef readonly Snapshot until
    cdef Missed* missed
    cdef size_t count
    cdef size_t at
    cdef uint32_t first_place           # of the next rowset

    def __cinit__(self, RowSetMerge merge not None, Snapshot until not None):
        self.merge = merge
        self.until = until
        self.missed = NULL
        self._collect()

    def __dealloc__(self):
        free(self.missed)

    cdef int _collect(self) except -1:
        cdef ByteBuffer deltas
        cdef ByteBuffer found
        cdef RowSetSource source
        cdef Missed missed
        cdef const Delta* delta
        cdef size_t i
        memset(&deltas, 0, sizeof(ByteBuffer))
        memset(&found, 0, sizeof(ByteBuffer))
        try:
            for source in self.merge.sources:
                if source.memory is None:
                    continue
                deltas.size = 0
                if source.memory.collect(0, <uint64_t> source.memory.row_count, &deltas) < 0:
                    raise MemoryError()
                for i in range(deltas.size // sizeof(Delta)):
                    delta = <const Delta*> deltas.data + i
                    if snapshot_applied(&self.merge.snapshot.info, delta.timestamp) \
                            or not snapshot_applied(&self.until.info, delta.timestamp):
                        continue
                    missed.place = source.places[delta.row]
                    missed.order = <uint32_t> self.count
                    missed.delta = delta[0]
                    if missed.place == LEFT_OUT:
                        raise InternalError(f"row {delta.row} was dead when its rowset was merged, and changed later")
                    buffer_append(&found, <const uint8_t*> &missed, sizeof(Missed))
                    self.count += 1
            if found.failed:
                raise MemoryError()
            self.missed = <Missed*> found.data
            found.data = NULL
        finally:
            buffer_free(&deltas)
            buffer_free(&found)
        if self.count:
            qsort(self.missed, self.count, sizeof(Missed), &_missed_order)
        return 0

    def next(self, DeltaCells redo not None, uint32_t row_count):
        """Append the missed changes of the next `row_count` rows, those of one new rowset, numbered from 0.

        Returns the number of rows, less than `row_count` only at the end.
        """
        cdef uint32_t rows = min(row_count, self.merge.written - self.first_place)
        cdef Missed* missed
        cdef int status = 0
        with nogil:
            while self.at < self.count and self.missed[self.at].place < self.first_place + rows and status == 0:
                missed = &self.missed[self.at]
                status = redo.append(missed.place - self.first_place, missed.delta.timestamp, missed.delta.change,
                                     missed.delta.change_bytes)
                self.at += 1
        if status < 0:
            raise MemoryError()
        self.first_place += rows
        return rows
