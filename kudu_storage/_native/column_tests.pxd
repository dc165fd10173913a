"""Tests of cells: what a scan's predicates are once columns and values are bytes. See column_tests.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from kudu_storage._native.column_block cimport ColumnBuffers
from kudu_storage._native.cursor cimport Slice

cdef enum CellKind:
    CELL_INTEGER            # signed, little-endian; BOOL too
    CELL_REAL
    CELL_BYTES

cdef enum TestKind:
    TEST_EQ
    TEST_LT
    TEST_LE
    TEST_GT
    TEST_GE
    TEST_IN
    TEST_NULL
    TEST_NOT_NULL

cdef struct Test:
    int32_t column
    TestKind kind
    CellKind cells
    uint32_t width
    Slice* values           # ascending; the tests' owner keeps their bytes
    int32_t value_count
    # A comparison of integers of at most 8 bytes, as a range; low > high: none.
    int64_t low, high
    # A comparison, by how the cell may stand to the value.
    uint8_t less, equal, greater

cdef class ColumnTests:
    """Tests of some columns of a schema; all must hold. Immutable; shared by threads."""
    cdef readonly object schema
    cdef list keeps
    cdef Test* tests
    cdef int32_t test_count
    cdef int _add(self, int32_t column, str kind, list cells) except -1
    # Whether a cell passes all tests of a column. `cell` NULL: a NULL.
    cdef bint passes(self, int32_t column, const uint8_t* cell, size_t size) noexcept nogil
    # Clears picked[row] of the rows of a column that do not pass.
    cdef void run(self, int32_t column, const ColumnBuffers* cells, int64_t count, uint8_t* picked) noexcept nogil
