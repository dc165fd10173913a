"""Major delta compaction: REDOs of some columns become base cells and UNDOs; the rest of the REDOs stays REDO.

Y1  Rows keep their numbers; a dead row keeps its place and its DELETE.
Y2  For each snapshot from the history mark on, a row's cells and liveness are what they were before.
A row with a REINSERT (old servers wrote such in REDO files) is left as it is: an UNDO at the time it died would need
cells that are folded already when the row is merged later. May not touch: files, but through column readers. One thread.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.base_rows cimport BaseRows, begin_row, check_cell, emit_row, new_rows
from kudu_storage._native.column_block cimport BlockBuffers, ColumnBlock, block_release
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_REINSERT, DELTA_BAD_CELL, DELTA_FINE, ByteBuffer, ChangeCell, Delta, DeltaCells, DeltaFault,
    buffer_append, buffer_free, change_next, change_open, change_put, change_start, raise_delta_fault,
)
from kudu_storage._native.delta_scan cimport DeltaMerge
from kudu_storage._native.row_history cimport RowHistory
from kudu_storage._native.row_layout cimport RowLayout, column_of_id

from kudu_storage.errors import InvalidArgument


cdef class ColumnFold:
    """Args:
        base: the rows of the columns to fold, none of which is a key column.
        layout: the tablet's; changes of columns that it lacks are dropped.
        redo: all REDO files of the rowset.
        history_mark: what happened before this timestamp needs no UNDO.
    """
    cdef readonly BaseRows base
    cdef readonly RowLayout layout
    cdef readonly DeltaMerge redo
    cdef RowHistory history
    cdef ByteBuffer deltas              # of the row in hand: Delta
    cdef ByteBuffer rest
    cdef int64_t row

    def __cinit__(self, BaseRows base not None, RowLayout layout not None, DeltaMerge redo not None, *,
                  uint64_t history_mark=0):
        if redo.undo or base.layout.info.key_count:
            raise InvalidArgument("REDOs are folded into columns that are no keys")
        self.base = base
        self.layout = layout
        self.redo = redo
        self.history = RowHistory(base.layout, history_mark)

    def __dealloc__(self):
        buffer_free(&self.deltas)
        buffer_free(&self.rest)

    def next(self, DeltaCells undo not None, DeltaCells redo not None):
        """The next rows of the folded columns as a block, or None; their UNDOs and what stays REDO are appended."""
        cdef BlockBuffers* base = self.base.load()
        cdef BlockBuffers* out
        cdef DeltaFault fault = DELTA_FINE
        cdef int status = 0
        if base == NULL:
            return None
        out = new_rows(&self.base.layout.info, base.row_count)
        try:
            if out == NULL:
                raise MemoryError()
            with nogil:
                status = _fold(self, base, out, undo, redo, &fault)
            if fault != DELTA_FINE:
                raise_delta_fault(fault, f"REDO delta of row {self.row}")
            if status < 0:
                raise MemoryError()
        except BaseException:
            block_release(out)
            raise
        finally:
            self.redo._forget()
            block_release(base)
        return ColumnBlock.wrap(out, self.base.layout.schema)


cdef int _fold(ColumnFold self, const BlockBuffers* base, BlockBuffers* out, DeltaCells undo, DeltaCells redo,
               DeltaFault* fault) except -2 nogil:
    cdef int64_t i
    cdef size_t n, binary_bytes = 0
    cdef bint whole
    for i in range(base.row_count):
        begin_row(self.history, base, i)
        whole = _take_deltas(self)
        if self.deltas.failed:
            return -1
        for n in range(self.deltas.size // sizeof(Delta)):
            if _fold_delta(self, <const Delta*> self.deltas.data + n, whole, redo, fault) < 0:
                return -1
            if fault[0] != DELTA_FINE:
                return 0
        if self.history.write(<uint32_t> self.row, undo, redo) < 0 or emit_row(self.history, out, &binary_bytes) < 0:
            return -1
        self.row += 1
    return 0


cdef int _take_deltas(ColumnFold self) except -2 nogil:
    """The REDOs of the row in hand. 1: one is a REINSERT."""
    cdef const Delta* found
    cdef int reinserted = 0
    self.deltas.size = 0
    self.redo.peek(&found)
    while found != NULL and <int64_t> found.row <= self.row:
        buffer_append(&self.deltas, <const uint8_t*> found, sizeof(Delta))
        if found.change_bytes > 0 and found.change[0] == CHANGE_REINSERT:
            reinserted = 1
        self.redo.step()
        self.redo.peek(&found)
    return reinserted


cdef int _fold_delta(ColumnFold self, const Delta* delta, bint whole, DeltaCells redo, DeltaFault* fault) noexcept nogil:
    """0, or -1: no memory."""
    cdef Cursor change = cursor_of(delta.change, delta.change_bytes)
    cdef ChangeCell cell
    cdef uint8_t type = 0
    cdef int32_t column
    cdef int more = 1
    fault[0] = change_open(&change, &type)
    if fault[0] != DELTA_FINE:
        return 0
    if whole or type == CHANGE_DELETE:
        return redo.append(delta.row, delta.timestamp, delta.change, delta.change_bytes)
    self.rest.size = 0
    change_start(&self.rest, type)
    self.history.open_update(delta.timestamp)
    while True:
        more = change_next(&change, &cell)
        if more <= 0:
            break
        column = column_of_id(&self.base.layout.info, cell.column_id)
        if column >= 0:
            fault[0] = check_cell(&self.base.layout.info, column, cell.data, cell.size)
            if fault[0] != DELTA_FINE:
                return 0
            self.history.set_cell(column, cell.data, cell.size)
        elif column_of_id(&self.layout.info, cell.column_id) >= 0:
            change_put(&self.rest, cell.column_id, cell.data, cell.size)
    self.history.close()
    if more < 0:
        fault[0] = DELTA_BAD_CELL
        return 0
    if self.rest.failed:
        return -1
    if self.rest.size > 1:
        return redo.append(delta.row, delta.timestamp, self.rest.data, self.rest.size)
    return 0
