"""Deltas: what a change of one flushed row looks like, in delta files and in memory.

    cell of a delta file    mvarint row ordinal | mvarint timestamp | row change list
    row change list         u8 type (1 UPDATE, 2 DELETE, 3 REINSERT) | for UPDATE and REINSERT repeated:
                            varint column id | varint size + 1, 0 = NULL | the cell as it lies in memory
    mvarint                 sqlite4's: 1 to 9 bytes whose memcmp order is the numbers' order

Order of a file: REDO by row, then timestamp ascending; UNDO by row, then timestamp descending. Equal (row, timestamp) keep
the order in which they are to be applied. Source: tablet/deltafile.h, common/row_changelist.h, tablet/delta_key.h.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.column_block cimport BlockBuffers, ColumnBuffers
from kudu_storage._native.cursor cimport Cursor, Slice
from kudu_storage._native.row_layout cimport LayoutInfo
from kudu_storage._native.row_ops cimport DecodedRow

cdef enum:
    CHANGE_UPDATE = 1
    CHANGE_DELETE = 2
    CHANGE_REINSERT = 3
    MVARINT_BYTES_MAX = 9
    VARINT32_BYTES_MAX = 5

cdef enum DeltaFault:
    DELTA_FINE = 0
    DELTA_BAD_KEY = 1               # row or timestamp cut off, or a row above 2**32 - 1
    DELTA_BAD_TYPE = 2              # no change list, or one of a type that does not exist
    DELTA_BAD_CELL = 3              # a column id or size cut off or out of range, a cell cut off
    DELTA_DELETE_WITH_CELLS = 4
    DELTA_EMPTY_UPDATE = 5
    DELTA_DISORDER = 6
    DELTA_ROW_OUTSIDE = 7           # a row that its rowset does not have
    DELTA_WRONG_WIDTH = 8           # a cell that its column's type cannot have
    DELTA_NULL_FORBIDDEN = 9

cdef struct Delta:
    uint64_t timestamp
    uint32_t row
    uint32_t change_bytes
    const uint8_t* change           # a row change list

cdef struct ChangeCell:
    uint32_t column_id
    uint32_t size
    const uint8_t* data             # NULL: the cell becomes NULL

# -- reading: all of it bounds-checked ---------------------------------------------------------------------------------
cdef bint read_mvarint(Cursor* cursor, uint64_t* value) noexcept nogil
# Reads the type of a change list and leaves the cursor at its first cell.
cdef DeltaFault change_open(Cursor* change, uint8_t* type) noexcept nogil
# 1: `cell` is the next one; 0: the end; -1: DELTA_BAD_CELL.
cdef int change_next(Cursor* change, ChangeCell* cell) noexcept nogil
# Takes apart one cell of a delta file and checks its change list to the end.
cdef DeltaFault delta_parse(const uint8_t* data, size_t size, Delta* delta) noexcept nogil

# -- writing -----------------------------------------------------------------------------------------------------------
cdef size_t put_mvarint(uint8_t* out, uint64_t value) noexcept nogil        # at most MVARINT_BYTES_MAX bytes
cdef size_t put_varint32(uint8_t* out, uint32_t value) noexcept nogil       # at most VARINT32_BYTES_MAX bytes

# Bytes that grow. `failed` sticks: memory was short, and what is in `data` is of no use.
cdef struct ByteBuffer:
    uint8_t* data
    size_t size
    size_t capacity
    bint failed

cdef void buffer_free(ByteBuffer* buffer) noexcept nogil
cdef uint8_t* buffer_room(ByteBuffer* buffer, size_t size) noexcept nogil   # where `size` more bytes may be put, or NULL
cdef void buffer_append(ByteBuffer* buffer, const uint8_t* data, size_t size) noexcept nogil
cdef void change_start(ByteBuffer* buffer, uint8_t type) noexcept nogil
cdef void change_put(ByteBuffer* buffer, uint32_t column_id, const uint8_t* data, uint32_t size) noexcept nogil
# The UPDATE that a decoded row operation means: its set columns without keys and immutable ones. False: it sets none.
cdef bint change_of_row(ByteBuffer* buffer, const LayoutInfo* layout, const DecodedRow* row) noexcept nogil

cdef struct ColumnCount:
    uint32_t column_id
    int64_t updates

cdef class DeltaStats:
    """What a delta file's footer says about it. One thread writes."""
    cdef readonly int64_t delete_count
    cdef readonly int64_t reinsert_count
    cdef readonly int64_t delta_count
    cdef uint64_t lowest
    cdef uint64_t highest
    cdef ColumnCount* columns       # by ascending id
    cdef size_t column_count
    cdef size_t column_capacity
    cdef int add(self, uint64_t timestamp, const uint8_t* change, size_t size) noexcept nogil       # 0, or -1: no memory

cdef class DeltaRun:
    """Deltas of one file, or of consecutive cells of one, parsed and checked; in file order. Immutable, any thread."""
    cdef Delta* deltas
    cdef readonly Py_ssize_t count
    cdef readonly bint undo
    cdef readonly DeltaStats stats
    cdef BlockBuffers* owner        # whose bytes the deltas point into
    cdef Py_ssize_t first_at(self, uint64_t row) noexcept nogil     # of the first delta of that row or a later one

cdef class DeltaCells:
    """Cells of a delta file in the making, in file order. One thread."""
    cdef readonly bint undo
    cdef readonly DeltaStats stats
    cdef ByteBuffer bytes
    cdef ByteBuffer ends            # int32 end of each cell, 0 first
    cdef readonly int64_t count     # cells since the last take()
    # 0, or -1: memory is short, or more than 2 GiB since the last take().
    cdef int append(self, uint32_t row, uint64_t timestamp, const uint8_t* change, size_t size) noexcept nogil

# Raises the error that stands for `fault`.
cdef int raise_delta_fault(DeltaFault fault, object where) except -1
