"""See wire_buffer.pxd. Knows blocks and their schemas; opens nothing. One thread a buffer while it is written."""
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport calloc, free, realloc

from kudu_storage._native.buffer_pool cimport pool_give, pool_take
from kudu_storage._native.column_block cimport KIND_BINARY

from kudu_storage.errors import InternalError, InvalidArgument

cdef uint8_t _nothing = 0       # some readers want an address for no bytes too


cdef class WireBuffer:

    def __dealloc__(self):
        pool_give(self.data)
        self.data = NULL

    cdef uint8_t* extend(self, size_t more, size_t hint) noexcept nogil:
        cdef size_t capacity
        cdef uint8_t* grown
        if self.data == NULL:
            self.data = pool_take(max(more, hint, <size_t> 64), &self.capacity)
            if self.data == NULL:
                return NULL
        elif more > self.capacity - self.size:
            capacity = max(self.size + more, self.capacity * 2)
            grown = <uint8_t*> realloc(self.data, capacity)
            if grown == NULL:
                return NULL
            self.data = grown
            self.capacity = capacity
        self.size += more
        return self.data + self.size - more

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data if self.data != NULL else &_nothing, <Py_ssize_t> self.size, True, flags)


cdef class WireColumns:

    def __cinit__(self, schema, places=None):
        cdef int32_t i, place
        chosen = list(range(len(schema)) if places is None else places)
        if not all(isinstance(place, int) and 0 <= place < len(schema) for place in chosen):
            raise InvalidArgument(f"columns {chosen} of a block of {len(schema)} columns")
        self.schema = schema
        self.count = <int32_t> len(chosen)
        self.columns = <WireColumn*> calloc(<size_t> self.count + 1, sizeof(WireColumn))
        if self.columns == NULL:
            raise MemoryError()
        for i in range(self.count):
            place = chosen[i]
            column = schema.columns[place]
            self.columns[i].place = place
            self.columns[i].width = column.type.width_bytes
            self.columns[i].nullable = column.nullable
            self.any_nullable = self.any_nullable or column.nullable

    def __dealloc__(self):
        free(self.columns)
        self.columns = NULL

    cdef int check_block(self, ColumnBlock block) except -1:
        """Everything behind this trusts kinds, widths and that only nullable columns have nulls."""
        cdef int32_t i
        cdef const ColumnBuffers* column
        if block.buffers.column_count != len(self.schema):
            raise InternalError(f"a block of {block.buffers.column_count} columns where {len(self.schema)} are encoded")
        for i in range(self.count):
            column = &block.buffers.columns[self.columns[i].place]
            if (0 if column.kind == KIND_BINARY else column.width) != self.columns[i].width \
                    or (column.null_count and not self.columns[i].nullable):
                described = self.schema.columns[self.columns[i].place]
                raise InternalError(f"column {described.name!r} of a block is not the {described.type.name} that is encoded")
        return 0
