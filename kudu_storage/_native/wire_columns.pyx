"""Scan results column by column: Kudu's ColumnarRowBlockPB sidecars from column blocks, and back. Opens nothing.

Source: common/columnar_serialization.cc, tserver/tablet_service.cc. Per column, for n rows:

    data        n values, little-endian; of bytes: n + 1 u32 offsets, the first 0; nothing at all when n is 0
    varlen      the bytes of all cells, one behind the other; columns of bytes alone have it
    bitmap      (n + 7) / 8 bytes, bit i: row i is *not* NULL; columns that may be NULL alone have it

 L1  The place of a NULL is zeros, its bytes are none, the bitmap's spare bits are zeros. Old memory never leaves.
 L2  An answer holds at least one row, and else no more than the bytes asked for; it ends between two rows.
 L3  Decoding trusts nothing; a block is never larger than what came.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column,
    block_new, block_release,
)
from kudu_storage._native.wire_buffer cimport (
    WIRE_BYTES_MAX, WireBuffer, WireColumn, WireColumns, cell_is_null, data_bytes_of,
)

from kudu_storage.errors import BadFormat, InvalidArgument, LimitExceeded

cdef enum:
    HINT_BYTES_MAX = 8 << 20        # memory taken before rows are there; --scanner_max_batch_size_bytes
    ROW_COUNT_MAX = 0x7FFFFFFE
    OFFSET_BYTES = 4


cdef inline size_t bitmap_bytes(int64_t rows) noexcept nogil:
    return <size_t> (rows + 7) // 8


# -- encoding ----------------------------------------------------------------------------------------------------------
cdef inline uint8_t validity_byte(const uint8_t* validity, int64_t bit, int64_t count) noexcept nogil:
    """`count` bits (1 to 8) from `bit` on, zeros behind; no byte is read that has none of them."""
    cdef const uint8_t* at = validity + (bit >> 3)
    cdef int shift = <int> (bit & 7)
    cdef uint32_t bits = at[0] >> shift
    if shift + count > 8:
        bits |= <uint32_t> at[1] << (8 - shift)
    return <uint8_t> (bits & ((1 << count) - 1))


cdef void copy_validity(const uint8_t* validity, int64_t first, int64_t count, uint8_t* out, int64_t bit) noexcept nogil:
    """Bits from `first` on to those from `bit` on. Bits behind `bit` in its byte are zeros; so are those behind the end."""
    cdef int64_t some
    cdef uint8_t bits
    while count:
        some = min(8 - (bit & 7), count)
        bits = <uint8_t> ((1 << some) - 1) if validity == NULL else validity_byte(validity, first, some)
        if bit & 7:
            out[bit >> 3] |= <uint8_t> (bits << (bit & 7))
        else:
            out[bit >> 3] = bits
        bit += some
        first += some
        count -= some


cdef class ColumnSidecars:
    """What goes out of one column. `varlen` and `bitmap` are empty where the column has none."""
    cdef WireBuffer data
    cdef WireBuffer varlen
    cdef WireBuffer bitmap

    def __cinit__(self):
        self.data = WireBuffer()
        self.varlen = WireBuffer()
        self.bitmap = WireBuffer()

    cdef int put(self, const WireColumn* column, const ColumnBuffers* source, int64_t first, int64_t count, int64_t rows,
                 size_t expected) noexcept nogil:
        """0 or -1: out of memory. `expected`: rows that the answer may come to hold."""
        cdef int status
        if column.width:
            status = self.put_fixed(source, first, count, expected)
        elif source.null_count:
            status = self.put_some_bytes(source, first, count, rows, expected)
        else:
            status = self.put_all_bytes(source, first, count, rows, expected)
        if status == 0 and column.nullable:
            status = self.put_bitmap(source, first, count, rows, expected)
        return status

    cdef int put_fixed(self, const ColumnBuffers* source, int64_t first, int64_t count, size_t expected) noexcept nogil:
        cdef size_t width = source.width
        cdef uint8_t* out = self.data.extend(<size_t> count * width, expected * width)
        cdef int64_t row
        if out == NULL:
            return -1
        memcpy(out, source.values + <size_t> first * width, <size_t> count * width)
        if source.null_count:
            for row in range(count):
                if cell_is_null(source, first + row):
                    memset(out + <size_t> row * width, 0, width)
        return 0

    cdef uint8_t* put_offset_zero(self, int64_t count, int64_t rows, size_t expected) noexcept nogil:
        """Where the ends of `count` cells go."""
        cdef uint8_t* out = self.data.extend(<size_t> (count + (rows == 0)) * OFFSET_BYTES, (expected + 1) * OFFSET_BYTES)
        if out != NULL and rows == 0:
            memset(out, 0, OFFSET_BYTES)
            out += OFFSET_BYTES
        return out

    cdef int put_all_bytes(self, const ColumnBuffers* source, int64_t first, int64_t count, int64_t rows,
                           size_t expected) noexcept nogil:
        cdef size_t size = data_bytes_of(source, first, count)
        cdef uint32_t shift = <uint32_t> self.varlen.size - <uint32_t> source.offsets[first]
        cdef uint8_t* ends = self.put_offset_zero(count, rows, expected)
        cdef uint8_t* out = self.varlen.extend(size, <size_t> (<double> size / <double> count * <double> expected))
        cdef const int32_t* offsets = source.offsets + first + 1
        cdef int64_t row
        cdef uint32_t end
        if ends == NULL or out == NULL:
            return -1
        if size:
            memcpy(out, source.data + source.offsets[first], size)
        for row in range(count):
            end = <uint32_t> offsets[row] + shift       # may wrap on the way, and never in the sum
            memcpy(ends + <size_t> row * OFFSET_BYTES, &end, OFFSET_BYTES)
        return 0

    cdef int put_some_bytes(self, const ColumnBuffers* source, int64_t first, int64_t count, int64_t rows,
                            size_t expected) noexcept nogil:
        """With NULLs, whose bytes, should there be any, stay here."""
        cdef size_t room = data_bytes_of(source, first, count), size
        cdef uint8_t* ends = self.put_offset_zero(count, rows, expected)
        cdef uint8_t* out = self.varlen.extend(room, <size_t> (<double> room / <double> count * <double> expected))
        cdef uint32_t end
        cdef int64_t row
        if ends == NULL or out == NULL:
            return -1
        end = <uint32_t> (self.varlen.size - room)
        for row in range(first, first + count):
            size = data_bytes_of(source, row, 1)
            if size and not cell_is_null(source, row):
                memcpy(self.varlen.data + end, source.data + source.offsets[row], size)
                end += <uint32_t> size
            memcpy(ends, &end, OFFSET_BYTES)
            ends += OFFSET_BYTES
        self.varlen.size = end
        return 0

    cdef int put_bitmap(self, const ColumnBuffers* source, int64_t first, int64_t count, int64_t rows,
                        size_t expected) noexcept nogil:
        cdef size_t more = bitmap_bytes(rows + count) - bitmap_bytes(rows)
        if self.bitmap.extend(more, bitmap_bytes(<int64_t> expected)) == NULL:
            return -1
        copy_validity(source.validity, first, count, self.bitmap.data, rows)
        return 0

    cdef size_t size(self) noexcept nogil:
        return self.data.size + self.varlen.size + self.bitmap.size


cdef class ColumnarEncoder:
    cdef WireColumns columns
    cdef list sidecars
    cdef int64_t count
    cdef size_t fixed_bytes         # of a row in all `data`
    cdef size_t binary_count
    cdef size_t nullable_count
    cdef size_t used

    def __cinit__(self, schema, *, places=None):
        cdef int32_t i
        self.columns = WireColumns(schema, places)
        for i in range(self.columns.count):
            self.fixed_bytes += self.columns.columns[i].width or OFFSET_BYTES
            self.binary_count += self.columns.columns[i].width == 0
            self.nullable_count += self.columns.columns[i].nullable
        self._clear()

    def _clear(self):
        self.sidecars = [ColumnSidecars() for _ in range(self.columns.count)]
        self.count = 0
        self.used = 0

    @property
    def row_count(self):
        return self.count

    @property
    def size_bytes(self):
        return self.used

    def add(self, ColumnBlock block not None, int64_t first, int64_t bytes_max, rows_max=None):
        cdef int64_t left = block.buffers.row_count - first
        cdef int64_t taken
        if left < 0 or first < 0 or not 0 <= bytes_max <= WIRE_BYTES_MAX:
            raise InvalidArgument(f"row {first} of {block.buffers.row_count}, in {bytes_max} bytes")
        self.columns.check_block(block)
        if rows_max is not None:
            left = min(left, max(rows_max, 0))
        left = min(left, ROW_COUNT_MAX - self.count)
        taken = self._fitting(block.buffers, first, left, <size_t> bytes_max)
        if taken:
            try:
                self._put(block.buffers, first, taken, <size_t> bytes_max)
            except MemoryError:
                self._clear()
                raise
        return taken

    def take(self):
        cdef ColumnSidecars column
        cdef int32_t i
        cdef int64_t count = self.count
        taken = []
        for i in range(self.columns.count):
            column = self.sidecars[i]
            taken.append((memoryview(column.data),
                          None if self.columns.columns[i].width else memoryview(column.varlen),
                          memoryview(column.bitmap) if self.columns.columns[i].nullable else None))
        self._clear()
        return count, taken

    cdef size_t _wire_bytes(self, const BlockBuffers* block, int64_t first, int64_t count) noexcept nogil:
        cdef size_t size = self.fixed_bytes * <size_t> count
        cdef int32_t i
        cdef const WireColumn* column
        if count == 0:
            return 0
        size += (bitmap_bytes(self.count + count) - bitmap_bytes(self.count)) * self.nullable_count
        if self.count == 0:
            size += OFFSET_BYTES * self.binary_count
        for i in range(self.columns.count if self.binary_count else 0):
            column = &self.columns.columns[i]
            if column.width == 0:
                size += data_bytes_of(&block.columns[column.place], first, count)
        return size

    cdef int64_t _fitting(self, const BlockBuffers* block, int64_t first, int64_t left, size_t bytes_max) noexcept nogil:
        """L2. Sizes grow with the rows, so halving finds the most that fit."""
        cdef int64_t low = 0, high = left, middle
        if self.used + self._wire_bytes(block, first, left) <= bytes_max:
            return left
        while low < high:
            middle = low + (high - low + 1) // 2
            if self.used + self._wire_bytes(block, first, middle) <= bytes_max:
                low = middle
            else:
                high = middle - 1
        return 1 if low == 0 and self.count == 0 and left else low

    cdef int _put(self, const BlockBuffers* block, int64_t first, int64_t count, size_t bytes_max) except -1:
        """One turn without the GIL for each column: there are few, and each copies much."""
        cdef size_t size = self._wire_bytes(block, first, count)
        cdef double share = <double> min(bytes_max, <size_t> HINT_BYTES_MAX) / <double> (size + 1)
        cdef size_t expected = <size_t> (<double> count * max(share, 1.0))
        cdef ColumnSidecars column
        cdef int32_t i
        cdef int status
        for i in range(self.columns.count):
            column = self.sidecars[i]
            self.used -= column.size()
            with nogil:
                status = column.put(&self.columns.columns[i], &block.columns[self.columns.columns[i].place], first, count,
                                    self.count, expected)
            if status:
                raise MemoryError("no memory for an answer's rows")
            self.used += column.size()
        self.count += count
        return 0


# -- decoding ----------------------------------------------------------------------------------------------------------
cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY = 1
    FAULT_BOOL = 2
    FAULT_OFFSET = 3
    FAULT_NULL_BYTES = 4

cdef dict _FAULTS = {
    FAULT_BOOL: "is a BOOL that is neither 0 nor 1",
    FAULT_OFFSET: "does not end behind its start and within the bytes that came",
    FAULT_NULL_BYTES: "is NULL and has bytes",
}


cdef void take_validity(ColumnBuffers* target, const uint8_t* bitmap, int64_t count) noexcept nogil:
    cdef int64_t row
    memcpy(target.validity, bitmap, bitmap_bytes(count))
    for row in range(count):
        target.null_count += not (bitmap[row >> 3] >> (row & 7)) & 1


cdef Fault take_fixed(ColumnBuffers* target, const uint8_t* data, int64_t count, bint is_bool, int64_t* at) noexcept nogil:
    cdef int64_t row
    memcpy(target.values, data, <size_t> count * target.width)
    for row in range(count if is_bool or target.null_count else 0):
        if cell_is_null(target, row):
            memset(target.values + <size_t> row * target.width, 0, target.width)
        elif is_bool and target.values[row] > 1:
            at[0] = row
            return FAULT_BOOL
    return FAULT_NONE


cdef Fault take_binary(ColumnBuffers* target, const uint8_t* data, int64_t count, const uint8_t* varlen,
                       size_t varlen_bytes, int64_t* at) noexcept nogil:
    """Offsets start at 0, never go down and end where the bytes do."""
    cdef uint32_t start, end
    cdef int64_t row
    memcpy(&start, data, OFFSET_BYTES)
    at[0] = 0
    if start:
        return FAULT_OFFSET
    for row in range(count):
        memcpy(&end, data + <size_t> (row + 1) * OFFSET_BYTES, OFFSET_BYTES)
        at[0] = row
        if end < start or end > varlen_bytes:
            return FAULT_OFFSET
        if end > start and cell_is_null(target, row):
            return FAULT_NULL_BYTES
        target.offsets[row + 1] = <int32_t> end
        start = end
    if start != varlen_bytes:
        return FAULT_OFFSET
    return FAULT_NONE if not start or block_append_bytes(target, varlen, start) == 0 else FAULT_MEMORY


cdef bytes sizes_differ(object column, int64_t rows, int64_t data, int64_t varlen, int64_t bitmap):
    """What is wrong with the lengths of a column's sidecars; -1: there is none. None: nothing."""
    cdef int64_t expected
    if column.type.is_binary:
        expected = (rows + 1) * OFFSET_BYTES
        if data != expected and (rows or data):
            return b"%d bytes of offsets, not %d" % (data, expected)
        if varlen < 0 or varlen > WIRE_BYTES_MAX or (rows == 0 and varlen):
            return b"%d bytes of cells" % varlen if varlen >= 0 else b"no bytes of cells"
    elif data != rows * column.type.width_bytes:
        return b"%d bytes of values, not %d" % (data, rows * column.type.width_bytes)
    elif varlen >= 0:
        return b"bytes of cells besides its values"
    expected = <int64_t> bitmap_bytes(rows) if column.nullable else -1
    if bitmap != expected:
        return b"a bitmap of %d bytes, not %d" % (bitmap, expected) if bitmap >= 0 and expected >= 0 \
            else b"no bitmap" if bitmap < 0 else b"a bitmap, and cannot be NULL"
    return None


cdef int decode_column(BlockBuffers* block, int32_t number, object column, object sidecars) except -1:
    """Fills one column of a block whose row_capacity is the answer's row count."""
    data, varlen, bitmap = (None if part is None else memoryview(part).cast("B") for part in sidecars)
    if data is None:
        raise BadFormat(f"column {column.name!r} of an answer has no data")
    cdef int64_t rows = block.row_capacity, row = 0
    cdef const uint8_t[::1] values = data
    cdef const uint8_t[::1] cells = b"" if varlen is None else varlen
    cdef const uint8_t[::1] bits = b"" if bitmap is None else bitmap
    cdef const uint8_t* values_at = &values[0] if len(values) else NULL
    cdef const uint8_t* cells_at = &cells[0] if len(cells) else NULL
    cdef size_t cells_bytes = <size_t> len(cells)
    cdef const uint8_t* bits_at = &bits[0] if len(bits) else NULL
    cdef bint binary = column.type.is_binary, is_bool = column.type.name == "BOOL", nullable = column.nullable
    cdef uint32_t width = column.type.width_bytes
    cdef ColumnBuffers* target = &block.columns[number]
    cdef Fault fault = FAULT_NONE
    wrong = sizes_differ(column, rows, len(values), -1 if varlen is None else len(cells),
                         -1 if bitmap is None else len(bits))
    if wrong is not None:
        raise BadFormat(f"column {column.name!r} of an answer of {rows} rows has {wrong.decode()}")
    with nogil:
        if block_init_column(block, number, KIND_BINARY if binary else KIND_FIXED, width, nullable) < 0:
            fault = FAULT_MEMORY
        elif rows:
            if nullable:
                take_validity(target, bits_at, rows)
            fault = take_binary(target, values_at, rows, cells_at, cells_bytes, &row) if binary \
                else take_fixed(target, values_at, rows, is_bool, &row)
    if fault == FAULT_MEMORY:
        raise MemoryError("no memory for a block")
    if fault != FAULT_NONE:
        raise BadFormat(f"the cell of column {column.name!r} in row {row} of an answer {_FAULTS[fault]}")
    return 0


def decode_columnar(schema, row_count, columns):
    cdef BlockBuffers* block
    cdef int32_t i
    sidecars = list(columns)
    if not 0 <= row_count <= ROW_COUNT_MAX:
        raise LimitExceeded(f"an answer of {row_count} rows, the most are {ROW_COUNT_MAX}")
    if len(sidecars) != len(schema):
        raise BadFormat(f"{len(sidecars)} columns in an answer, not {len(schema)}")
    block = block_new(<int32_t> len(sidecars), row_count)
    if block == NULL:
        raise MemoryError("no memory for a block")
    try:
        for i in range(block.column_count):
            decode_column(block, i, schema.columns[i], sidecars[i])
        block.row_count = block.row_capacity
    except BaseException:
        block_release(block)
        raise
    return ColumnBlock.wrap(block, schema)
