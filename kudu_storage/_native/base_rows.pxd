"""Base cells of a rowset batch by batch, and rows led forward by deltas: what compactions share. See base_rows.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t

from kudu_storage._native.column_block cimport BlockBuffers, ColumnBuffers
from kudu_storage._native.delta cimport Delta, DeltaFault
from kudu_storage._native.row_history cimport HistoryFault, RowHistory
from kudu_storage._native.row_layout cimport LayoutInfo, RowLayout

cdef enum:
    BATCH_BINARY_BYTES = 4 << 20            # a batch that is written ends when its byte strings take so much

cdef class BaseRows:
    """Rows of some columns, read from the first one to the last."""
    cdef readonly RowLayout layout
    cdef readonly int64_t row_count
    cdef list cursors                       # by column: ColumnCursor, or None: the rowset lacks it
    cdef int64_t next_row
    cdef int64_t batch_rows                 # wanted next; follows the size of rows
    cdef int64_t batch_bytes
    # The next batch with one reference for the caller, or NULL at the end. May block on disk.
    cdef BlockBuffers* load(self) except? NULL

# One row of a block into the history, which points into the block.
cdef void begin_row(RowHistory history, const BlockBuffers* block, int64_t row) noexcept nogil
# A cell that its column can have?
cdef DeltaFault check_cell(const LayoutInfo* layout, int column, const void* data, size_t size) noexcept nogil
# Leads a row forward by one REDO. `fault` is set when its cells do not fit; else the history's own.
cdef HistoryFault apply_redo(RowHistory history, const Delta* delta, DeltaFault* fault) noexcept nogil
# The history's cells as the next row of `block`. 0, or -1: no memory.
cdef int emit_row(RowHistory history, BlockBuffers* block, size_t* binary_bytes) noexcept nogil
# Buffers for all columns of the layout. NULL: no memory.
cdef BlockBuffers* new_rows(const LayoutInfo* layout, int64_t capacity) noexcept nogil
