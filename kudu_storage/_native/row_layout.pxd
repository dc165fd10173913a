"""How rows of one table schema lie in memory, and how a client's columns map to them.

A stored row:
    null bitmap, one bit a column, 1 = NULL   (absent when no column is nullable)
    fixed part: each column's cell; a binary column has u32 offset from the row's start | u32 size
    the bytes of the binary cells
Nothing is aligned: cells are read with memcpy. Both objects are immutable once made.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from kudu_storage._native.cursor cimport Slice

cdef struct ColumnLayout:
    int32_t id
    uint32_t width              # bytes of a fixed cell; 0 for binary columns
    uint32_t row_offset         # of the cell, or of its offset and size, in a stored row
    uint8_t nullable
    uint8_t immutable
    uint8_t has_write_default
    uint8_t has_read_default
    Slice write_default         # bytes of Python objects that `schema` keeps alive
    Slice read_default

cdef struct LayoutInfo:
    ColumnLayout* columns
    int32_t column_count
    int32_t key_count
    int32_t auto_increment      # its column, or -1
    uint32_t bitmap_bytes
    uint32_t fixed_bytes        # bitmap and fixed part
    uint32_t key_fixed_bytes    # size of each encoded key when all key columns are fixed, else 0
    uint16_t number             # place in its MemRowSet's list of layouts
    int32_t* by_id              # columns by ascending id: pairs of id, column
    uint8_t* defaults_used      # by column: 1 once an insert left it unset (the one thing here that changes)

cdef struct ProjectionInfo:
    int32_t client_count
    uint32_t bitmap_bytes
    bint has_nullable           # then operations carry a NULL bitmap
    int32_t* tablet_column      # of each client column

cdef class RowLayout:
    cdef LayoutInfo info
    cdef readonly object schema     # kudu_storage.common.schema.Schema

cdef class Projection:
    cdef ProjectionInfo info
    cdef readonly RowLayout layout


cdef inline bint bit_is_set(const uint8_t* bitmap, size_t bit) noexcept nogil:
    return (bitmap[bit >> 3] >> (bit & 7)) & 1


cdef inline int32_t column_of_id(const LayoutInfo* layout, uint32_t id) noexcept nogil:
    """The column of that id, or -1: dropped since, or not asked for."""
    cdef int32_t low = 0, high = layout.column_count, middle
    cdef uint32_t found
    while low < high:
        middle = (low + high) >> 1
        found = <uint32_t> layout.by_id[2 * middle]
        if found == id:
            return layout.by_id[2 * middle + 1]
        if found < id:
            low = middle + 1
        else:
            high = middle
    return -1
