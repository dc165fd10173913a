"""Row operations being encoded as Kudu's clients encode them: RowOperationsPB's two byte strings (row_ops.pxd).

E1  `rows` holds whole operations only, `count` of them; a refused one leaves nothing behind.
E2  Once an operation of the log was made of it, nobody adds to it: the applier decodes the same bytes.
Filled by one thread at a time.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from kudu_storage._native.delta cimport ByteBuffer

cdef struct BatchColumn:
    uint32_t width              # bytes of a fixed cell; 0 for binary columns
    uint32_t cell_bytes_max
    uint32_t characters_max     # VARCHAR; 0: none
    uint8_t nullable
    uint8_t is_text             # STRING or VARCHAR
    uint8_t is_bool
    uint8_t is_real             # FLOAT or DOUBLE
    uint8_t is_plain_integer    # INT8 to INT64

cdef class RowBatch:
    cdef object schema                  # the client's, without ids
    cdef list described                 # its columns
    cdef dict positions                 # by name
    cdef BatchColumn* columns
    cdef int32_t column_count
    cdef int32_t key_count
    cdef size_t bitmap_bytes
    cdef bint has_nullable
    cdef ByteBuffer rows
    cdef ByteBuffer indirect
    cdef readonly int64_t count
    # The bytes of an operation without its cells, bitmaps clear, or NULL: out of memory.
    cdef uint8_t* begin(self, int32_t op) noexcept nogil
    # A binary cell of the operation in hand: 0, or -1 out of memory.
    cdef int put_indirect(self, const uint8_t* data, size_t size) noexcept nogil
    cdef int _put_value(self, int32_t i, object value) except -1
    cdef bytes _integer_cell(self, int32_t i, object value)
    cdef int _check_size(self, int32_t i, Py_ssize_t size) except -1
    cdef int _set(self, int32_t i, object value, Py_ssize_t head) except -1
    cdef int _add(self, int32_t op, object cells) except -1
