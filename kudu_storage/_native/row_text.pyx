"""Rows as text: JSON lines and CSV. Pure: a block in, bytes out; the rows are written without the GIL.

The encodings are described in docs/formats/rows.md. A writer's plan of the columns is made once a block from its schema;
no Python object is made for a cell.
"""
import json

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from kudu_storage._native.column_block cimport BlockBuffers, ColumnBlock, ColumnBuffers
from kudu_storage._native.number_text cimport (
    NUMBER_TEXT_BYTES_MAX, write_decimal, write_double, write_float, write_int64,
)
from kudu_storage._native.utf8 cimport utf8_step

from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum Form:
    FORM_INTEGER
    FORM_BOOL
    FORM_FLOAT
    FORM_DOUBLE
    FORM_DECIMAL
    FORM_TEXT
    FORM_BYTES

cdef enum:
    OUT_BYTES_FIRST = 65536
    SCALE_MAX = 38
    # What a byte means in a string: copied as it is, escaped in JSON, the start of a character of several bytes.
    BYTE_PLAIN = 0
    BYTE_ESCAPED = 1
    BYTE_HIGH = 2

cdef struct Out:
    uint8_t* data
    size_t size
    size_t capacity

cdef struct ColumnPlan:
    Form form
    int scale
    const uint8_t* prefix           # written before the cell; borrowed from Plan.prefixes
    size_t prefix_bytes

cdef uint8_t[256] _byte_class
cdef const char* _HEX = b"0123456789abcdef"
cdef const char* _BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _fill_byte_classes():
    for byte in range(256):
        _byte_class[byte] = BYTE_HIGH if byte >= 0x80 else BYTE_ESCAPED if byte < 0x20 or byte in b'"\\' else BYTE_PLAIN


_fill_byte_classes()


# -- the bytes written so far ------------------------------------------------------------------------------------------
cdef int grow(Out* out, size_t size) noexcept nogil:
    cdef size_t capacity = out.capacity * 2 if out.capacity else OUT_BYTES_FIRST
    cdef uint8_t* data
    if capacity < out.size + size:
        capacity = out.size + size
    data = <uint8_t*> realloc(out.data, capacity)
    if data == NULL:
        return -1
    out.data = data
    out.capacity = capacity
    return 0


cdef inline int reserve(Out* out, size_t size) noexcept nogil:
    """Room for `size` more bytes: 0, or -1 when memory is short."""
    return 0 if out.capacity - out.size >= size else grow(out, size)


cdef inline void put(Out* out, uint8_t byte) noexcept nogil:
    out.data[out.size] = byte
    out.size += 1


cdef inline void put_bytes(Out* out, const void* data, size_t size) noexcept nogil:
    memcpy(out.data + out.size, data, size)
    out.size += size


# -- strings -----------------------------------------------------------------------------------------------------------
cdef void put_escape(Out* out, uint8_t byte) noexcept nogil:
    """At most six bytes."""
    cdef uint8_t letter = 0
    if byte == c'"' or byte == c'\\':
        letter = byte
    elif byte == 8:
        letter = c'b'
    elif byte == 9:
        letter = c't'
    elif byte == 10:
        letter = c'n'
    elif byte == 12:
        letter = c'f'
    elif byte == 13:
        letter = c'r'
    put(out, c'\\')
    if letter:
        put(out, letter)
        return
    put_bytes(out, b"u00", 3)
    put(out, _HEX[byte >> 4])
    put(out, _HEX[byte & 15])


cdef inline size_t put_character(Out* out, const uint8_t* data, size_t size) noexcept nogil:
    """A character of several bytes, or U+FFFD for what is none: at most four bytes. Returns the bytes used up."""
    cdef bint valid
    cdef size_t length = utf8_step(data, size, &valid)
    if valid:
        put_bytes(out, data, length)
    else:
        put_bytes(out, b"\xef\xbf\xbd", 3)
    return length


cdef int write_json_string(Out* out, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t at = 0, first
    if reserve(out, size + 2):
        return -1
    put(out, c'"')
    while at < size:
        first = at
        while at < size and _byte_class[data[at]] == BYTE_PLAIN:
            at += 1
        # Room for this run, one escape, and the closing quote.
        if reserve(out, at - first + 8):
            return -1
        put_bytes(out, data + first, at - first)
        if at == size:
            break
        if _byte_class[data[at]] == BYTE_HIGH:
            at += put_character(out, data + at, size - at)
        else:
            put_escape(out, data[at])
            at += 1
    if reserve(out, 1):
        return -1
    put(out, c'"')
    return 0


cdef bint needs_quotes(const uint8_t* data, size_t size) noexcept nogil:
    """Empty text too: without quotes it would be a null."""
    cdef size_t i
    for i in range(size):
        if data[i] == c',' or data[i] == c'"' or data[i] == c'\n' or data[i] == c'\r':
            return True
    return size == 0


cdef int write_csv_string(Out* out, const uint8_t* data, size_t size) noexcept nogil:
    """A byte becomes three at most (U+FFFD), a quote two."""
    cdef size_t at = 0
    cdef bint quoted = needs_quotes(data, size)
    if reserve(out, 3 * size + 2):
        return -1
    if quoted:
        put(out, c'"')
    while at < size:
        if data[at] >= 0x80:
            at += put_character(out, data + at, size - at)
            continue
        if data[at] == c'"':
            put(out, c'"')
        put(out, data[at])
        at += 1
    if quoted:
        put(out, c'"')
    return 0


cdef int write_base64(Out* out, const uint8_t* data, size_t size, bint quoted) noexcept nogil:
    cdef size_t at = 0
    cdef unsigned int group
    if reserve(out, (size + 2) // 3 * 4 + 2):
        return -1
    if quoted:
        put(out, c'"')
    while at + 3 <= size:
        group = <unsigned int> data[at] << 16 | <unsigned int> data[at + 1] << 8 | data[at + 2]
        put(out, _BASE64[group >> 18])
        put(out, _BASE64[group >> 12 & 63])
        put(out, _BASE64[group >> 6 & 63])
        put(out, _BASE64[group & 63])
        at += 3
    if at < size:
        group = <unsigned int> data[at] << 16
        if at + 1 < size:
            group |= <unsigned int> data[at + 1] << 8
        put(out, _BASE64[group >> 18])
        put(out, _BASE64[group >> 12 & 63])
        put(out, _BASE64[group >> 6 & 63] if at + 1 < size else c'=')
        put(out, c'=')
    if quoted:
        put(out, c'"')
    return 0


# -- cells -------------------------------------------------------------------------------------------------------------
cdef inline bint is_present(const ColumnBuffers* column, int64_t row) noexcept nogil:
    return column.validity == NULL or (column.validity[row >> 3] >> (row & 7)) & 1


cdef inline int64_t integer_cell(const ColumnBuffers* column, int64_t row) noexcept nogil:
    cdef const uint8_t* cell = column.values + row * column.width
    cdef int64_t big
    cdef int32_t normal
    cdef int16_t small
    if column.width == 8:
        memcpy(&big, cell, 8)
        return big
    if column.width == 4:
        memcpy(&normal, cell, 4)
        return normal
    if column.width == 2:
        memcpy(&small, cell, 2)
        return small
    return <int8_t> cell[0]


cdef inline void write_bool(Out* out, bint value) noexcept nogil:
    if value:
        put_bytes(out, b"true", 4)
    else:
        put_bytes(out, b"false", 5)


cdef void write_binary_float(Out* out, const ColumnPlan* plan, const uint8_t* cell, bint json) noexcept nogil:
    """JSON has no numbers for NaN and the infinities, so there they are strings."""
    cdef double wide
    cdef float narrow
    cdef bint finite
    if plan.form == FORM_FLOAT:
        memcpy(&narrow, cell, 4)
        wide = narrow
    else:
        memcpy(&wide, cell, 8)
    finite = wide - wide == 0
    if json and not finite:
        put(out, c'"')
    if plan.form == FORM_FLOAT:
        out.size += write_float(narrow, out.data + out.size)
    else:
        out.size += write_double(wide, out.data + out.size)
    if json and not finite:
        put(out, c'"')


cdef int write_fixed(Out* out, const ColumnPlan* plan, const ColumnBuffers* column, int64_t row,
                     bint json) noexcept nogil:
    cdef const uint8_t* cell = column.values + row * column.width
    if reserve(out, NUMBER_TEXT_BYTES_MAX + 2):
        return -1
    if plan.form == FORM_INTEGER:
        out.size += write_int64(integer_cell(column, row), out.data + out.size)
    elif plan.form == FORM_BOOL:
        write_bool(out, cell[0] != 0)
    elif plan.form == FORM_DECIMAL:
        if json:
            put(out, c'"')
        out.size += write_decimal(cell, column.width, plan.scale, out.data + out.size)
        if json:
            put(out, c'"')
    else:
        write_binary_float(out, plan, cell, json)
    return 0


cdef int write_cell(Out* out, const ColumnPlan* plan, const ColumnBuffers* column, int64_t row,
                    bint json) noexcept nogil:
    cdef const uint8_t* data
    cdef size_t size
    if plan.form != FORM_TEXT and plan.form != FORM_BYTES:
        return write_fixed(out, plan, column, row, json)
    data = column.data + column.offsets[row]
    size = <size_t> (column.offsets[row + 1] - column.offsets[row])
    if plan.form == FORM_BYTES:
        return write_base64(out, data, size, json or size == 0)
    return write_json_string(out, data, size) if json else write_csv_string(out, data, size)


cdef int write_row(Out* out, const ColumnPlan* plans, const BlockBuffers* block, int64_t row, bint json) noexcept nogil:
    cdef int32_t i
    cdef const ColumnBuffers* column
    for i in range(block.column_count):
        column = &block.columns[i]
        if reserve(out, plans[i].prefix_bytes + 4):
            return -1
        put_bytes(out, plans[i].prefix, plans[i].prefix_bytes)
        if is_present(column, row):
            if write_cell(out, &plans[i], column, row, json):
                return -1
        elif json:
            put_bytes(out, b"null", 4)
    if reserve(out, 3):
        return -1
    if json:
        if block.column_count == 0:
            put(out, c'{')
        put(out, c'}')
    put(out, c'\n')
    return 0


# -- plans -------------------------------------------------------------------------------------------------------------
cdef Form form_of(object kind) except *:
    cdef str name = kind.name
    if kind.is_decimal:
        return FORM_DECIMAL
    return {"BOOL": FORM_BOOL, "FLOAT": FORM_FLOAT, "DOUBLE": FORM_DOUBLE, "STRING": FORM_TEXT, "VARCHAR": FORM_TEXT,
            "BINARY": FORM_BYTES}.get(name, FORM_INTEGER)


cdef bytes prefix_of(object column, int32_t position, bint json_form):
    if not json_form:
        return b"," if position else b""
    return (b"," if position else b"{") + json.dumps(column.name, ensure_ascii=False).encode() + b":"


cdef class _Writer:
    """Writes the rows of one block. Not to be used by two threads at once."""
    cdef ColumnBlock block
    cdef bint json_form
    cdef list prefixes              # owns what the plans' prefixes point into
    cdef ColumnPlan* plans
    cdef Out out
    cdef int64_t next_row

    def __cinit__(self, ColumnBlock block not None, bint json_form):
        cdef int32_t i
        cdef bytes prefix
        memset(&self.out, 0, sizeof(Out))
        self.block = block
        self.json_form = json_form
        self.prefixes = []
        self.next_row = 0
        self.plans = <ColumnPlan*> calloc(<size_t> block.buffers.column_count + 1, sizeof(ColumnPlan))
        if self.plans == NULL:
            raise MemoryError("no memory to write rows as text")
        for i, column in enumerate(block.schema):
            if column.type.is_decimal and not 0 <= column.scale <= SCALE_MAX:
                raise BadFormat(f"column {column.name!r}: a decimal cannot have scale {column.scale}")
            prefix = prefix_of(column, i, json_form)
            self.prefixes.append(prefix)
            self.plans[i].form = form_of(column.type)
            self.plans[i].scale = column.scale
            self.plans[i].prefix = <const uint8_t*> PyBytes_AS_STRING(prefix)
            self.plans[i].prefix_bytes = <size_t> PyBytes_GET_SIZE(prefix)

    def __dealloc__(self):
        free(self.plans)
        free(self.out.data)
        self.plans = NULL
        self.out.data = NULL

    cdef bytes rows(self, size_t size_max):
        """The next rows, until size_max bytes are reached or the block ends; empty at its end."""
        cdef BlockBuffers* buffers = self.block.buffers
        cdef int failed = 0
        self.out.size = 0
        with nogil:
            while self.next_row < buffers.row_count and self.out.size < size_max and not failed:
                failed = write_row(&self.out, self.plans, buffers, self.next_row, self.json_form)
                self.next_row += 1
        if failed:
            raise MemoryError("no memory to write rows as text")
        return PyBytes_FromStringAndSize(<const char*> self.out.data, <Py_ssize_t> self.out.size)


def _pieces(ColumnBlock block not None, bint json_form, piece_bytes):
    cdef _Writer writer = _Writer(block, json_form)
    cdef size_t size_max
    if piece_bytes <= 0:
        raise InvalidArgument(f"a piece of {piece_bytes} bytes")
    size_max = piece_bytes
    while piece := writer.rows(size_max):
        yield piece


def jsonl(ColumnBlock block not None):
    return (<_Writer> _Writer(block, True)).rows(<size_t> -1)


def jsonl_pieces(ColumnBlock block not None, piece_bytes):
    return _pieces(block, True, piece_bytes)


def csv(ColumnBlock block not None, bint header=False):
    cdef bytes rows = (<_Writer> _Writer(block, False)).rows(<size_t> -1)
    return csv_header(block.schema) + rows if header else rows


def csv_pieces(ColumnBlock block not None, piece_bytes):
    return _pieces(block, False, piece_bytes)


def csv_header(schema):
    cdef Out out
    cdef bytes name
    cdef list names = []
    for column in schema:
        name = column.name.encode("utf-8", "replace")
        memset(&out, 0, sizeof(Out))
        try:
            if write_csv_string(&out, <const uint8_t*> PyBytes_AS_STRING(name), <size_t> PyBytes_GET_SIZE(name)):
                raise MemoryError("no memory to write column names")
            names.append(PyBytes_FromStringAndSize(<const char*> out.data, <Py_ssize_t> out.size))
        finally:
            free(out.data)
    return b",".join(names) + b"\n"
