"""What the encoders of scan results share: growing memory that becomes a sidecar, and the columns that go into it."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from kudu_storage._native.column_block cimport BlockBuffers, ColumnBlock, ColumnBuffers

cdef enum:
    WIRE_BYTES_MAX = 0x7FFFFFFF     # all sidecars of one answer; rpc/transfer.h

cdef class WireBuffer:
    """One sidecar. Written by one encoder, which lets go of it before anybody else has it; then it never changes."""
    cdef uint8_t* data
    cdef size_t size
    cdef size_t capacity
    # Room for `more` bytes, of `hint` in all when these are the first: where to write, or NULL: out of memory.
    cdef uint8_t* extend(self, size_t more, size_t hint) noexcept nogil

cdef struct WireColumn:
    int32_t place           # in the blocks that come
    uint32_t width          # of a value in the block; 0: bytes
    bint nullable
    bint padded             # rows: a UNIXTIME_MICROS takes 16 bytes
    size_t offset           # rows: of the cell in a row

cdef class WireColumns:
    """The columns of one projection: places in blocks of `schema`, in the order of the wire."""
    cdef readonly object schema
    cdef WireColumn* columns
    cdef int32_t count
    cdef bint any_nullable
    # InternalError unless the block is one of `schema`.
    cdef int check_block(self, ColumnBlock block) except -1

cdef inline bint cell_is_null(const ColumnBuffers* column, int64_t row) noexcept nogil:
    return column.validity != NULL and not (column.validity[row >> 3] >> (row & 7)) & 1

cdef inline size_t data_bytes_of(const ColumnBuffers* column, int64_t first, int64_t count) noexcept nogil:
    return <size_t> (column.offsets[first + count] - column.offsets[first])
