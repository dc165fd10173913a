"""Row operations of a WriteRequestPB, decoded one at a time into a scratch without copying cells.

Layout of an operation in RowOperationsPB.rows (common/row_operations.cc):
    u8 type | bitmap of set columns | bitmap of NULL columns (only if the client's schema has a nullable column) |
    cells of the set non-null columns in client order; a binary cell is u64 offset | u64 size into indirect_data
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, Slice
from kudu_storage._native.row_layout cimport LayoutInfo, ProjectionInfo

cdef enum:
    ROW_INSERT = 1
    ROW_UPDATE = 2
    ROW_DELETE = 3
    ROW_UPSERT = 5
    ROW_INSERT_IGNORE = 10
    ROW_UPDATE_IGNORE = 11
    ROW_DELETE_IGNORE = 12
    ROW_UPSERT_IGNORE = 13

cdef enum:
    CELL_UNSET = 0
    CELL_SET = 1
    CELL_NULL = 2

cdef enum DecodeStatus:
    DECODE_OK = 1
    DECODE_END = 0
    DECODE_CUT_OFF = -1             # the bytes end inside an operation
    DECODE_BAD_TYPE = -2            # not a row operation of a write
    DECODE_BAD_INDIRECT = -3        # a binary cell points outside indirect_data, or cells share bytes of it

# Why a row alone would be refused by a server (its COMMIT then says failed).
cdef enum RowFault:
    ROW_VALID = 0
    ROW_KEY_MISSING = 1
    ROW_KEY_TOO_LONG = 2
    ROW_NULL_FORBIDDEN = 3
    ROW_AUTO_INCREMENT = 4
    ROW_NOTHING_SET = 5
    ROW_DELETE_WITH_VALUES = 6
    ROW_IMMUTABLE_SET = 7           # only where the row exists

cdef struct DecodedRow:
    int32_t op
    RowFault fault
    bint immutable_set              # a column that may not change is set: matters only where the row exists
    int32_t set_count               # set columns that are no key columns
    const uint8_t** cells           # by tablet column; valid where state is CELL_SET
    uint32_t* sizes
    uint8_t* states
    uint8_t* key                    # encoded (common/key_encoder.h)
    size_t key_size
    uint64_t key_prefix             # first 8 bytes, big-endian value, zero filled
    int64_t auto_value
    uint64_t indirect_bytes         # that the cells of this request took so far; the caller starts each request with 0

cdef class RowScratch:
    """Room for one decoded row of up to `column_capacity` columns."""
    cdef DecodedRow row
    cdef int32_t column_capacity
    cdef int reserve(self, int32_t columns) except -1

# Decodes the next operation. `counter` is the auto-incrementing counter, carried from one operation to the next.
cdef DecodeStatus decode_row(Cursor* rows, Slice indirect, const ProjectionInfo* projection, const LayoutInfo* layout,
                             DecodedRow* row, int64_t* counter) noexcept nogil
# Encodes the key of `row` from its key cells; False: longer than the limit.
cdef bint encode_key(const LayoutInfo* layout, DecodedRow* row) noexcept nogil
