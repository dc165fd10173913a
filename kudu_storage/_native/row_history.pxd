"""One row's way forward in time, from which its way back is written: REDOs in, cells and UNDOs out.

The table in docs/tablet.md (Flush of a MemRowSet) says what becomes what. Used by flushes, merge and major compactions.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.delta cimport ByteBuffer, DeltaCells, DeltaFault
from kudu_storage._native.row_layout cimport RowLayout

cdef enum HistoryFault:
    HISTORY_FINE = 0
    HISTORY_DEAD_CHANGED = 1        # an UPDATE or DELETE of a dead row
    HISTORY_LIVE_REINSERTED = 2

# A change list in `changes`.
cdef struct Undo:
    uint64_t timestamp
    size_t start
    size_t end

cdef class RowHistory:
    cdef readonly RowLayout layout
    cdef uint64_t mark              # UNDOs with a timestamp below are ancient: not written
    # The row as far as it was led: by column of the layout. A cell's bytes belong to whoever set it.
    cdef const uint8_t** cells      # NULL: NULL
    cdef uint32_t* sizes
    cdef bint dead
    cdef uint64_t deleted_at        # where dead
    cdef ByteBuffer changes         # the UNDOs' change lists, oldest first
    cdef ByteBuffer undos           # what they are, oldest first: Undo

    # Start a row: its cells are then to be set with begin_cell() for every column.
    cdef void begin(self) noexcept nogil
    cdef void begin_cell(self, int32_t column, const uint8_t* data, uint32_t size) noexcept nogil
    cdef void inserted(self, uint64_t timestamp) noexcept nogil
    # An UPDATE or REINSERT is opened, its cells are set, then it is closed.
    cdef HistoryFault open_update(self, uint64_t timestamp) noexcept nogil
    cdef HistoryFault open_reinsert(self, uint64_t timestamp) noexcept nogil
    cdef void set_cell(self, int32_t column, const uint8_t* data, uint32_t size) noexcept nogil
    cdef void close(self) noexcept nogil
    cdef HistoryFault deleted(self, uint64_t timestamp) noexcept nogil
    # The row died before the mark: nobody can see it any more.
    cdef bint is_ancient(self) noexcept nogil
    # Write what is left behind for row `row`. 0, or -1: no memory.
    cdef int write(self, uint32_t row, DeltaCells undo, DeltaCells redo) noexcept nogil
