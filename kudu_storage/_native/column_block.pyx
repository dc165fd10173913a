"""Rows held column by column; the layout and who owns what are in column_block.pxd.

Knows the column types and nothing of tablets, logs or files. Invariants:
 B1  Buffers are written only while one reference exists; a ColumnBlock's buffers never change.
 B2  offsets[0] is 0 and offsets never go down; offsets[row_count] <= data_bytes <= 2**31 - 1.
 B3  A binary column's `data` is never NULL.
 B4  A wrapped block has exactly the kinds and widths that its schema says.
Retain and release are atomic and need no GIL. Python values are made here only for people and tests; everything that
moves many rows reads the buffers.
"""
import datetime
import decimal

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from kudu_storage._native.buffer_pool cimport pool_give, pool_take, pool_take_zeroed

from kudu_storage.errors import InternalError, InvalidArgument, Unsupported

cdef extern from * nogil:
    """
    static inline int64_t kudu_atomic_add(int64_t* at, int64_t change) {
        return __atomic_add_fetch(at, change, __ATOMIC_ACQ_REL);
    }
    static inline int64_t kudu_atomic_get(int64_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    """
    int64_t kudu_atomic_add(int64_t* at, int64_t change) noexcept
    int64_t kudu_atomic_get(int64_t* at) noexcept

cdef enum:
    WIDTH_MAX = 16                  # DECIMAL128
    ROW_CAPACITY_MAX = 0x7FFFFFFE   # offsets are 32-bit and have one entry more than there are rows
    DATA_BYTES_MAX = 0x7FFFFFFF
    DATA_BYTES_FIRST = 256

# What a cell is in Python; see to_tuples.
Value = int | float | bool | str | bytes | decimal.Decimal | datetime.date | datetime.datetime | None

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_MICROSECOND = datetime.timedelta(microseconds=1)
# Wide enough for any 128-bit number: scaling must never round.
_EXACT = decimal.Context(prec=80, traps=[decimal.Inexact, decimal.Overflow, decimal.InvalidOperation])


# -- buffers -----------------------------------------------------------------------------------------------------------
cdef BlockBuffers* block_new(int32_t column_count, int64_t row_capacity) noexcept nogil:
    cdef BlockBuffers* block
    if column_count < 0 or row_capacity < 0 or row_capacity > ROW_CAPACITY_MAX:
        return NULL
    block = <BlockBuffers*> calloc(1, sizeof(BlockBuffers))
    if block == NULL:
        return NULL
    block.columns = <ColumnBuffers*> calloc(<size_t> column_count + 1, sizeof(ColumnBuffers))
    if block.columns == NULL:
        free(block)
        return NULL
    block.references = 1
    block.row_capacity = row_capacity
    block.column_count = column_count
    return block


cdef int block_init_column(BlockBuffers* block, int32_t column, PhysicalKind kind, uint32_t width,
                           bint nullable) noexcept nogil:
    """Values and offsets start as zeros, so a null cell needs no writing and offsets[0] is right from the start."""
    return init_column(block, column, kind, width, nullable, True)


cdef int block_init_unset(BlockBuffers* block, int32_t column, PhysicalKind kind, uint32_t width,
                          bint nullable) noexcept nogil:
    return init_column(block, column, kind, width, nullable, False)


cdef int init_column(BlockBuffers* block, int32_t column, PhysicalKind kind, uint32_t width, bint nullable,
                     bint zeroed) noexcept nogil:
    """Called once a column; what was allocated before a failure is freed with the block."""
    cdef ColumnBuffers* buffers
    cdef size_t size
    cdef size_t bitmap_bytes = (<size_t> block.row_capacity + 7) // 8
    if column < 0 or column >= block.column_count or width > WIDTH_MAX or (kind == KIND_FIXED and width == 0):
        return -1
    buffers = &block.columns[column]
    buffers.kind = kind
    buffers.width = width if kind == KIND_FIXED else 0
    if nullable:
        buffers.validity = pool_take(bitmap_bytes + 1, NULL)
        if buffers.validity == NULL:
            return -1
        memset(buffers.validity, 0xFF, bitmap_bytes)
        buffers.validity[bitmap_bytes] = 0
    size = (<size_t> block.row_capacity + 1) * (width if kind == KIND_FIXED else sizeof(int32_t))
    if kind == KIND_FIXED:
        buffers.values = pool_take_zeroed(size) if zeroed else pool_take(size, NULL)
        return 0 if buffers.values != NULL else -1
    buffers.offsets = <int32_t*> (pool_take_zeroed(size) if zeroed else pool_take(size, NULL))
    buffers.data = pool_take(DATA_BYTES_FIRST, &buffers.data_capacity)  # never NULL: readers of empty cells need not look
    if buffers.offsets == NULL or buffers.data == NULL:
        return -1
    buffers.offsets[0] = 0
    return 0


cdef int block_append_bytes(ColumnBuffers* column, const uint8_t* bytes, size_t size) noexcept nogil:
    """Only the bytes: the caller writes the row's end, offsets[row + 1] = data_bytes, for null rows too."""
    cdef size_t capacity = column.data_capacity
    cdef uint8_t* grown
    if size > DATA_BYTES_MAX - column.data_bytes:
        return -1
    if column.data_bytes + size > capacity:
        capacity *= 2
        if capacity < column.data_bytes + size:
            capacity = column.data_bytes + size
        if capacity > DATA_BYTES_MAX:
            capacity = DATA_BYTES_MAX
        grown = <uint8_t*> realloc(column.data, capacity)
        if grown == NULL:
            return -1
        column.data = grown
        column.data_capacity = capacity
    if size:
        memcpy(column.data + column.data_bytes, bytes, size)
        column.data_bytes += size
    return 0


cdef void block_retain(BlockBuffers* block) noexcept nogil:
    kudu_atomic_add(&block.references, 1)


cdef void block_release(BlockBuffers* block) noexcept nogil:
    cdef int32_t i
    if block == NULL or kudu_atomic_add(&block.references, -1) != 0:
        return
    for i in range(block.column_count):
        pool_give(block.columns[i].validity)
        pool_give(block.columns[i].values)
        pool_give(block.columns[i].offsets)
        pool_give(block.columns[i].data)
    free(block.columns)
    free(block)


cdef inline bint is_null(const ColumnBuffers* column, int64_t row) noexcept nogil:
    return column.validity != NULL and not (column.validity[row >> 3] >> (row & 7)) & 1


# -- cells to Python values --------------------------------------------------------------------------------------------
cdef object integer_at(const ColumnBuffers* column, int64_t row):
    """The little-endian two's complement number of a fixed cell."""
    cdef const uint8_t* cell = column.values + row * column.width
    cdef int8_t tiny
    cdef int16_t small
    cdef int32_t normal
    cdef int64_t big
    if column.width == 8:
        memcpy(&big, cell, 8)
        return big
    if column.width == 4:
        memcpy(&normal, cell, 4)
        return normal
    if column.width == 2:
        memcpy(&small, cell, 2)
        return small
    if column.width == 1:
        memcpy(&tiny, cell, 1)
        return tiny
    return int.from_bytes(PyBytes_FromStringAndSize(<const char*> cell, column.width), "little", signed=True)


cdef object cell_bytes(const ColumnBuffers* column, int64_t row):
    if column.kind == KIND_FIXED:
        return PyBytes_FromStringAndSize(<const char*> column.values + row * column.width, column.width)
    return PyBytes_FromStringAndSize(<const char*> column.data + column.offsets[row],
                                     column.offsets[row + 1] - column.offsets[row])


cdef object float_at(const ColumnBuffers* column, int64_t row):
    cdef float single
    cdef double value
    if column.width == 4:
        memcpy(&single, column.values + row * 4, 4)
        return <double> single
    memcpy(&value, column.values + row * 8, 8)
    return value


cdef object text_at(const ColumnBuffers* column, int64_t row):
    cdef int32_t size = column.offsets[row + 1] - column.offsets[row]
    if size == 0:
        return ""
    return PyUnicode_DecodeUTF8(<char*> column.data + column.offsets[row], size, "surrogateescape")


cdef object datetime_at(const ColumnBuffers* column, int64_t row, object name):
    number = integer_at(column, row)
    try:
        return _EPOCH + datetime.timedelta(microseconds=number)
    except OverflowError:
        raise Unsupported(f"column {name!r} row {row}: {number} microseconds since 1970 are outside the years 1 to 9999",
                          advice="the Arrow or JSONL output, which keep the number") from None


cdef object date_at(const ColumnBuffers* column, int64_t row, object name):
    number = integer_at(column, row)
    try:
        return datetime.date.fromordinal(_EPOCH_DAY + number)
    except (ValueError, OverflowError):
        raise Unsupported(f"column {name!r} row {row}: day {number} since 1970 is outside the years 1 to 9999",
                          advice="the Arrow or JSONL output, which keep the number") from None


cdef object value_at(const ColumnBuffers* column, int64_t row, str kind, object schema):
    """A cell that is not NULL as a Python value. `kind`: the name of the column's type."""
    if column.kind == KIND_BINARY:
        return cell_bytes(column, row) if kind == "BINARY" else text_at(column, row)
    if kind == "BOOL":
        return column.values[row] != 0
    if kind == "FLOAT" or kind == "DOUBLE":
        return float_at(column, row)
    if kind == "UNIXTIME_MICROS":
        return datetime_at(column, row, schema.name)
    if kind == "DATE":
        return date_at(column, row, schema.name)
    if kind.startswith("DECIMAL"):
        return decimal.Decimal(integer_at(column, row)).scaleb(-schema.scale, context=_EXACT)
    return integer_at(column, row)


cdef list column_values(const ColumnBuffers* column, int64_t row_count, object schema):
    """All cells of one column as Python values."""
    cdef int64_t row
    cdef str kind = schema.type.name
    cdef list values = [None] * row_count
    cdef bint is_integer = kind in ("INT8", "INT16", "INT32", "INT64")
    for row in range(row_count):
        if not is_null(column, row):
            values[row] = integer_at(column, row) if is_integer else value_at(column, row, kind, schema)
    return values


# -- Python values to cells --------------------------------------------------------------------------------------------
cdef object refuse(object schema, int64_t row, object value, str why):
    return InvalidArgument(f"column {schema.name!r} ({schema.type.name}) row {row}: {value!r} {why}")


cdef object stored_integer(object schema, int64_t row, object value):
    """The number that the cell holds: the integer itself, days, microseconds, or a decimal times ten to its scale."""
    cdef str kind = schema.type.name
    if schema.type.is_decimal:
        return unscaled(schema, row, value)
    if kind == "UNIXTIME_MICROS" and isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise refuse(schema, row, value, "has no time zone")
        return (value - _EPOCH) // _MICROSECOND
    if kind == "DATE" and isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.toordinal() - _EPOCH_DAY
    if kind == "BOOL":
        if not isinstance(value, bool):
            raise refuse(schema, row, value, "is not a bool")
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(schema, row, value, "is not a value of that type")
    return value


cdef object unscaled(object schema, int64_t row, object value):
    if isinstance(value, bool) or not isinstance(value, (int, decimal.Decimal)):
        raise refuse(schema, row, value, "is not a decimal.Decimal or int")
    value = decimal.Decimal(value)
    if not value.is_finite():
        raise refuse(schema, row, value, "is not finite")
    try:
        number = int(value.scaleb(schema.scale, context=_EXACT).to_integral_exact(context=_EXACT))
    except decimal.DecimalException:
        raise refuse(schema, row, value, f"does not fit scale {schema.scale}") from None
    if schema.precision and abs(number) >= 10 ** schema.precision:
        raise refuse(schema, row, value, f"has more than {schema.precision} digits")
    return number


cdef bytes stored_bytes(object schema, int64_t row, object value):
    if schema.type.name == "BINARY":
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise refuse(schema, row, value, "is not bytes")
        return bytes(value)
    if not isinstance(value, str):
        raise refuse(schema, row, value, "is not a str")
    if schema.length and len(value) > schema.length:
        raise refuse(schema, row, value, f"is longer than {schema.length} characters")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise refuse(schema, row, value, "cannot be encoded as UTF-8") from None


cdef bytes stored_float(object schema, int64_t row, object value):
    cdef double number
    cdef float single
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(schema, row, value, "is not a float")
    try:
        number = value
    except OverflowError:
        raise refuse(schema, row, value, "is out of range") from None
    if schema.type.width_bytes == 8:
        return PyBytes_FromStringAndSize(<const char*> &number, 8)
    single = <float> number
    if single - single != 0 and number - number == 0:   # became infinite
        raise refuse(schema, row, value, "is out of range")
    return PyBytes_FromStringAndSize(<const char*> &single, 4)


cdef int put_fixed(ColumnBuffers* column, int64_t row, object schema, object value) except -1:
    cdef bytes cell
    if schema.type.name == "FLOAT" or schema.type.name == "DOUBLE":
        cell = stored_float(schema, row, value)
        memcpy(column.values + row * column.width, PyBytes_AS_STRING(cell), column.width)
        return 0
    number = stored_integer(schema, row, value)
    try:
        cell = number.to_bytes(column.width, "little", signed=True)
    except OverflowError:
        raise refuse(schema, row, value, "is out of range") from None
    memcpy(column.values + row * column.width, PyBytes_AS_STRING(cell), column.width)
    return 0


cdef int put_cell(ColumnBuffers* column, int64_t row, object schema, object value) except -1:
    cdef bytes data
    if value is None:
        if column.validity == NULL:
            raise refuse(schema, row, value, "in a column that is not nullable")
        column.validity[row >> 3] &= <uint8_t> ~(1 << (row & 7))
        column.null_count += 1
    elif column.kind == KIND_FIXED:
        put_fixed(column, row, schema, value)
    else:
        data = stored_bytes(schema, row, value)
        if block_append_bytes(column, <const uint8_t*> PyBytes_AS_STRING(data), <size_t> PyBytes_GET_SIZE(data)):
            raise MemoryError(f"column {schema.name!r}: no memory for row {row}, or more than 2 GiB in one block")
    if column.kind == KIND_BINARY:
        column.offsets[row + 1] = <int32_t> column.data_bytes
    return 0


# -- the handle --------------------------------------------------------------------------------------------------------
cdef int check_layout(const BlockBuffers* block, object schema) except -1:
    """B4: later readers trust kinds, widths and buffers without looking again."""
    cdef int32_t i
    cdef const ColumnBuffers* column
    if block.column_count != len(schema) or not 0 <= block.row_count <= block.row_capacity:
        raise InternalError(f"a block of {block.column_count} columns and {block.row_count} rows "
                            f"does not fit its schema of {len(schema)} columns or its {block.row_capacity} places")
    for i, described in enumerate(schema):
        column = &block.columns[i]
        if described.type.is_binary:
            fits = column.kind == KIND_BINARY and column.offsets != NULL and column.data != NULL \
                and <size_t> column.offsets[block.row_count] <= column.data_bytes
        else:
            fits = column.kind == KIND_FIXED and column.values != NULL and column.width == described.type.width_bytes
        if not fits:
            raise InternalError(f"column {described.name!r} of a block is not laid out as {described.type.name}")
    return 0


cdef class ColumnBlock:

    def __cinit__(self):
        self.buffers = NULL

    def __init__(self):
        raise TypeError("blocks come from scans and ColumnBlock.from_tuples")

    def __dealloc__(self):
        block_release(self.buffers)
        self.buffers = NULL

    @staticmethod
    cdef ColumnBlock wrap(BlockBuffers* buffers, object schema):
        """Takes over the reference, also when it raises. NULL, what block_new gives without memory, is a MemoryError."""
        cdef ColumnBlock block = ColumnBlock.__new__(ColumnBlock)
        block.buffers = buffers
        block.schema = schema
        if buffers == NULL:
            raise MemoryError("no memory for a block")
        check_layout(buffers, schema)
        return block

    @classmethod
    def from_tuples(cls, schema, rows):
        cdef int64_t row
        cdef int32_t i
        cdef BlockBuffers* buffers
        cdef list all_rows = list(rows)
        cdef int32_t column_count = <int32_t> len(schema)
        cdef ColumnBlock block = ColumnBlock.__new__(ColumnBlock)
        buffers = block.buffers = block_new(column_count, len(all_rows))
        if buffers == NULL:
            raise MemoryError("no memory for a block")
        block.schema = schema
        for i, column in enumerate(schema):
            if block_init_column(buffers, i, KIND_BINARY if column.type.is_binary else KIND_FIXED,
                                 column.type.width_bytes, column.nullable):
                raise MemoryError("no memory for a block")
        columns = list(schema)
        for row in range(len(all_rows)):
            values = all_rows[row]
            if len(values) != column_count:
                raise InvalidArgument(f"row {row} has {len(values)} values for {column_count} columns")
            for i in range(column_count):
                put_cell(&buffers.columns[i], row, columns[i], values[i])
        buffers.row_count = len(all_rows)
        return block

    def to_tuples(self):
        cdef int32_t i
        columns = [column_values(&self.buffers.columns[i], self.buffers.row_count, self.schema.columns[i])
                   for i in range(self.buffers.column_count)]
        return list(zip(*columns)) if columns else [()] * self.buffers.row_count

    def cells(self, row):
        cdef int32_t i
        if not 0 <= row < self.buffers.row_count:
            raise IndexError(f"row {row} of a block of {self.buffers.row_count} rows")
        return [None if is_null(&self.buffers.columns[i], row) else cell_bytes(&self.buffers.columns[i], row)
                for i in range(self.buffers.column_count)]

    @property
    def row_count(self):
        return self.buffers.row_count

    @property
    def cell_bytes(self):
        cdef int32_t i
        cdef size_t total = 0
        for i in range(self.buffers.column_count):
            total += <size_t> self.buffers.row_count * self.buffers.columns[i].width + self.buffers.columns[i].data_bytes
        return total

    @property
    def references(self):
        return kudu_atomic_get(&self.buffers.references)

    def __len__(self):
        return self.buffers.row_count

    def __repr__(self):
        return f"<ColumnBlock of {self.buffers.row_count} rows, {self.buffers.column_count} columns>"
