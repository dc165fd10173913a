"""A batch of rows held column by column: what scans fill and what Arrow, JSON, CSV, checksums and tuples read.

The buffers belong to a reference-counted C struct, so that an Arrow consumer can release them on any thread without
the GIL. Writers fill a block while they hold the only reference; after that nobody changes it.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef enum PhysicalKind:
    # Fixed width, little-endian, in `values`: INT8..INT64, UNIXTIME_MICROS, DATE, FLOAT, DOUBLE, DECIMAL32/64/128.
    # BOOL is one byte a value, 0 or 1.
    KIND_FIXED = 0
    # STRING, BINARY, VARCHAR: bytes offsets[i] .. offsets[i + 1] of `data`.
    KIND_BINARY = 1

cdef struct ColumnBuffers:
    PhysicalKind kind
    uint32_t width             # bytes of one value (fixed kinds), else 0
    uint8_t* validity          # bit i, least significant first: 1 = present; NULL = the column has no nulls
    int64_t null_count         # number of clear bits in validity (0 when NULL)
    uint8_t* values            # fixed kinds: row_capacity * width bytes; a null cell is zeros
    int32_t* offsets           # binary kinds: row_capacity + 1 entries
    uint8_t* data              # binary kinds
    size_t data_bytes          # used
    size_t data_capacity

cdef struct BlockBuffers:
    int64_t references         # changed atomically
    int64_t row_count
    int64_t row_capacity
    int32_t column_count
    ColumnBuffers* columns

cdef BlockBuffers* block_new(int32_t column_count, int64_t row_capacity) noexcept nogil     # NULL: out of memory
# Allocates the buffers of column `column`: 0 or -1 (out of memory). `nullable` allocates validity, all bits set.
cdef int block_init_column(BlockBuffers* block, int32_t column, PhysicalKind kind, uint32_t width,
                           bint nullable) noexcept nogil
# The same with values and offsets[1..] that are anything: for who writes each row, whatever happens to the block.
cdef int block_init_unset(BlockBuffers* block, int32_t column, PhysicalKind kind, uint32_t width,
                          bint nullable) noexcept nogil
# Appends `size` bytes to the column's data: 0, or -1 when memory is short or the column would exceed 2**31 - 1 bytes.
cdef int block_append_bytes(ColumnBuffers* column, const uint8_t* bytes, size_t size) noexcept nogil
cdef void block_retain(BlockBuffers* block) noexcept nogil
cdef void block_release(BlockBuffers* block) noexcept nogil

cdef class ColumnBlock:
    """Python's handle on a block. `schema` is the kudu_storage.common.schema.Schema of its columns, in order."""
    cdef BlockBuffers* buffers
    cdef readonly object schema

    @staticmethod
    cdef ColumnBlock wrap(BlockBuffers* buffers, object schema)   # takes over the caller's reference

# A Python value as the cell it is stored as; InvalidArgument names column and row. An integer's width is for the caller.
cdef object stored_integer(object schema, int64_t row, object value)
cdef bytes stored_bytes(object schema, int64_t row, object value)
cdef bytes stored_float(object schema, int64_t row, object value)
# A cell that is not NULL as a Python value, as to_tuples() gives it. `kind`: the name of the column's type.
cdef object value_at(const ColumnBuffers* column, int64_t row, str kind, object schema)
