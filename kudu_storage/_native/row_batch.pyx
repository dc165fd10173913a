"""See row_batch.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from libc.string cimport memcpy, memset
from libc.stdlib cimport calloc, free
from libc.stdint cimport uint64_t

from kudu_storage._native.column_block cimport stored_bytes, stored_float, stored_integer
from kudu_storage._native.delta cimport buffer_append, buffer_free, buffer_room
from kudu_storage._native.wire cimport put_bytes, put_fixed64, put_varint, varint_size

from kudu_storage.common.row_codec import CELL_BYTES_DEFAULT_MAX
from kudu_storage.errors import InternalError, InvalidArgument

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow) except? -1
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    OP_WRITE = 3


class _Unset:
    """Stands for a column that an operation does not set."""

    def __repr__(self):
        return "UNSET"


UNSET = _Unset()
cdef object _UNSET = UNSET


cdef class RowBatch:

    def __cinit__(self, schema, *, uint32_t cell_bytes_max=CELL_BYTES_DEFAULT_MAX):
        cdef int32_t i
        cdef BatchColumn* column
        cdef str kind
        self.schema = schema
        self.described = list(schema)
        self.positions = {c.name: n for n, c in enumerate(schema)}
        self.column_count = <int32_t> len(schema)
        self.key_count = schema.key_column_count
        self.bitmap_bytes = <size_t> (self.column_count + 7) // 8
        self.has_nullable = any(c.nullable for c in schema)
        self.columns = <BatchColumn*> calloc(<size_t> self.column_count + 1, sizeof(BatchColumn))
        if self.columns == NULL:
            raise MemoryError()
        for i, described in enumerate(self.described):
            kind = described.type.name
            column = &self.columns[i]
            column.width = described.type.width_bytes
            column.cell_bytes_max = cell_bytes_max
            column.characters_max = described.length if kind == "VARCHAR" else 0
            column.nullable = described.nullable
            column.is_text = kind == "STRING" or kind == "VARCHAR"
            column.is_bool = kind == "BOOL"
            column.is_real = kind == "FLOAT" or kind == "DOUBLE"
            column.is_plain_integer = kind in ("INT8", "INT16", "INT32", "INT64")

    def __dealloc__(self):
        free(self.columns)
        buffer_free(&self.rows)
        buffer_free(&self.indirect)

    def __len__(self):
        return self.count

    @property
    def client_schema(self):
        """What it was made for."""
        return self.schema

    @property
    def size_bytes(self):
        """Of the operations, as a request carries them."""
        return self.rows.size + self.indirect.size

    # -- one operation ---------------------------------------------------------------------------------------------
    cdef uint8_t* begin(self, int32_t op) noexcept nogil:
        cdef size_t head = 1 + self.bitmap_bytes * (2 if self.has_nullable else 1)
        cdef uint8_t* out = buffer_room(&self.rows, head)
        if out == NULL:
            return NULL
        out[0] = <uint8_t> op
        memset(out + 1, 0, head - 1)
        self.rows.size += head
        return out

    cdef int put_indirect(self, const uint8_t* data, size_t size) noexcept nogil:
        cdef uint64_t[2] place
        place[0] = self.indirect.size
        place[1] = size
        if size:
            buffer_append(&self.indirect, data, size)
        buffer_append(&self.rows, <const uint8_t*> place, 16)
        return -1 if self.rows.failed or self.indirect.failed else 0

    cdef int _put_value(self, int32_t i, object value) except -1:
        """A cell that is not NULL."""
        cdef BatchColumn* column = &self.columns[i]
        cdef int overflow = 0
        cdef long long number
        cdef Py_ssize_t size
        cdef const char* text
        cdef bytes cell
        if column.is_plain_integer and PyLong_CheckExact(value):
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow or (column.width < 8 and not -(1LL << (8 * column.width - 1)) <= number < 1LL << (8 * column.width - 1)):
                raise InvalidArgument(f"column {self.described[i].name!r} ({self.described[i].type.name}): {value!r} is "
                                      "out of range")
            buffer_append(&self.rows, <const uint8_t*> &number, column.width)       # little-endian, as the machine
        elif column.is_text and type(value) is str and not column.characters_max and value.isascii():
            text = PyUnicode_AsUTF8AndSize(value, &size)
            self._check_size(i, size)
            self.put_indirect(<const uint8_t*> text, <size_t> size)
        elif column.width == 0:
            cell = stored_bytes(self.described[i], self.count, value)
            self._check_size(i, PyBytes_GET_SIZE(cell))
            self.put_indirect(<const uint8_t*> PyBytes_AS_STRING(cell), <size_t> PyBytes_GET_SIZE(cell))
        else:
            if column.is_real:
                cell = stored_float(self.described[i], self.count, value)
            else:
                cell = self._integer_cell(i, value)
            buffer_append(&self.rows, <const uint8_t*> PyBytes_AS_STRING(cell), column.width)
        if self.rows.failed or self.indirect.failed:
            raise MemoryError()
        return 0

    cdef bytes _integer_cell(self, int32_t i, object value):
        described = self.described[i]
        try:
            return stored_integer(described, self.count, value).to_bytes(described.type.width_bytes, "little", signed=True)
        except OverflowError:
            raise InvalidArgument(f"column {described.name!r} ({described.type.name}): {value!r} is out of range") from None

    cdef int _check_size(self, int32_t i, Py_ssize_t size) except -1:
        if <size_t> size > self.columns[i].cell_bytes_max:
            raise InvalidArgument(f"column {self.described[i].name!r}: a value of {size} bytes, the limit of a cell is "
                                  f"{self.columns[i].cell_bytes_max}")
        return 0

    cdef int _set(self, int32_t i, object value, Py_ssize_t head) except -1:
        cdef uint8_t* bitmaps = self.rows.data + head + 1
        if value is None and not self.columns[i].nullable:
            raise InvalidArgument(f"column {self.described[i].name!r} ({self.described[i].type.name}) is not nullable")
        bitmaps[i >> 3] |= <uint8_t> (1 << (i & 7))
        if value is None:
            bitmaps[self.bitmap_bytes + (i >> 3)] |= <uint8_t> (1 << (i & 7))
        else:
            self._put_value(i, value)       # moves the buffer: `bitmaps` is of no use afterwards
        return 0

    cdef int _add(self, int32_t op, object cells) except -1:
        cdef size_t head = self.rows.size, indirect = self.indirect.size
        cdef int32_t i = 0
        if len(cells) > self.column_count:
            raise InvalidArgument(f"{len(cells)} values for {self.column_count} columns")
        try:
            if self.begin(op) == NULL:
                raise MemoryError()
            for value in cells:
                if value is not _UNSET:
                    self._set(i, value, head)
                i += 1
        except BaseException:
            self.rows.size = head
            self.indirect.size = indirect
            self.rows.failed = self.indirect.failed = False
            raise
        self.count += 1
        return 0

    def add(self, int32_t op, cells not None):
        self._add(op, cells)

    def add_named(self, int32_t op, cells not None):
        cdef list values = [_UNSET] * self.column_count
        for name, value in cells.items():
            position = self.positions.get(name)
            if position is None:
                raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(self.positions)}")
            values[position] = value
        self._add(op, values)

    def mark(self):
        return self.count, <Py_ssize_t> self.rows.size, <Py_ssize_t> self.indirect.size

    def truncate(self, mark not None):
        count, rows, indirect = mark
        if not 0 <= count <= self.count or not 0 <= rows <= self.rows.size or not 0 <= indirect <= self.indirect.size:
            raise InternalError("a mark of another batch")
        self.count, self.rows.size, self.indirect.size = count, rows, indirect
        self.rows.failed = self.indirect.failed = False

    # -- the message -----------------------------------------------------------------------------------------------
    def replicate(self, bytes tablet_id not None, bytes schema not None, int64_t term, int64_t index, uint64_t timestamp):
        # id = 1 {1 term, 2 index}, timestamp = 2, op_type = 4, write_request = 5 {1 tablet_id, 2 schema,
        # 3 row_operations {2 rows, 3 indirect_data}}
        cdef size_t id_size = 2 + varint_size(<uint64_t> term) + varint_size(<uint64_t> index)
        cdef size_t tablet = <size_t> len(tablet_id), client = <size_t> len(schema)
        cdef size_t operations = 2 + varint_size(self.rows.size) + self.rows.size + varint_size(self.indirect.size) \
            + self.indirect.size
        cdef size_t request = 3 + varint_size(tablet) + tablet + varint_size(client) + client + varint_size(operations) \
            + operations
        cdef size_t total = 2 + id_size + 9 + 2 + 1 + varint_size(request) + request
        cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
        cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
        cdef const uint8_t* start = out
        out[0] = 0x0A
        out[1] = <uint8_t> id_size
        out[2] = 0x08
        out = put_varint(out + 3, <uint64_t> term)
        out[0] = 0x10
        out = put_varint(out + 1, <uint64_t> index)
        out[0] = 0x11
        out = put_fixed64(out + 1, timestamp)
        out[0] = 0x20
        out[1] = OP_WRITE
        out[2] = 0x2A
        out = put_varint(out + 3, request)
        out[0] = 0x0A
        out = put_bytes(put_varint(out + 1, tablet), <const uint8_t*> PyBytes_AS_STRING(tablet_id), tablet)
        out[0] = 0x12
        out = put_bytes(put_varint(out + 1, client), <const uint8_t*> PyBytes_AS_STRING(schema), client)
        out[0] = 0x1A
        out = put_varint(out + 1, operations)
        out[0] = 0x12
        out = put_varint(out + 1, self.rows.size)
        if self.rows.size:
            out = put_bytes(out, self.rows.data, self.rows.size)
        out[0] = 0x1A
        out = put_varint(out + 1, self.indirect.size)
        if self.indirect.size:
            out = put_bytes(out, self.indirect.data, self.indirect.size)
        if out != start + total:
            raise InternalError("an operation was measured wrong")
        return message

    def __repr__(self):
        return f"<RowBatch of {self.count} operations, {self.size_bytes} bytes>"
