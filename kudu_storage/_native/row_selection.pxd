"""Which rows of one rowset pass the tests of one column, by what is stored. See row_selection.pyx."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.cfile_reader cimport ColumnCursor
from kudu_storage._native.column_tests cimport ColumnTests
from kudu_storage._native.delta_apply cimport CellUpdate
from kudu_storage._native.row_layout cimport ColumnLayout, RowLayout

cdef class ColumnSelector:
    """One thread; see RowSetReader."""
    cdef readonly int32_t column            # of the layout
    cdef RowLayout layout
    cdef ColumnTests tests
    cdef ColumnCursor cursor                # None: the rowset lacks the column
    cdef const ColumnLayout* info
    cdef uint8_t* words                     # the verdict on each dictionary entry; NULL: not yet needed
    cdef bint some_word, every_word, null_passes
    cdef ByteBuffer codes
    cdef ByteBuffer bits
    cdef ByteBuffer verdicts
    cdef readonly int64_t decoded_rows      # cells that were decoded for it, not counting codewords
    # Clears picked[i] of the rows first + i of the rowset whose cells, patched by `updates`, do not pass.
    cdef int select(self, uint64_t first, uint64_t count, const CellUpdate* updates, int64_t update_count,
                    uint8_t* picked) except -1 nogil
    cdef int _select_base(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil
    cdef int _select_codes(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil
    cdef int _select_cells(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil
    cdef int _judge_words(self) except -1 nogil

# Whether the picked ones of `count` rows are so few, or lie so close, that reading them by runs beats reading all.
cdef bint runs_are_few(const uint8_t* picked, int64_t count) noexcept nogil
# The picked rows' numbers in half-open runs: the next one at or after `at`; False at the end.
cdef bint next_run(const uint8_t* picked, int64_t count, int64_t at, int64_t* first, int64_t* end) noexcept nogil
