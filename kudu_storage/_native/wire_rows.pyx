"""Scan results row by row: Kudu's RowwiseRowBlockPB sidecars from column blocks, and back. Opens nothing.

Source: common/wire_protocol.cc (SerializeRowBlock, RewriteRowBlockPointers), tserver/tablet_service.cc.

    row         cell of column 0 | cell of column 1 | ... | bitmap        little-endian, nothing between them
    cell        the value; bytes: u64 offset into the indirect data, u64 length; a padded UNIXTIME_MICROS: value, 8 zeros
    bitmap      (columns + 7) / 8 bytes, bit i: column i is NULL; there only when some column may be
    indirect    bytes of all cells; here, as there, those of `group_rows` rows column after column

 R1  What is not a cell's value is zeros: a NULL's place, padding, the bitmap's spare bits. Old memory never leaves.
 R2  An answer holds at least one row, and else no more than the bytes asked for; it ends between two rows.
 R3  Decoding trusts nothing: all sizes and places are checked, and cells may not share bytes, so a block is never
     larger than what came.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
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
    GROUP_ROWS = 128                # --scanner_batch_size_rows
    HINT_BYTES_MAX = 8 << 20        # memory taken before rows are there; --scanner_max_batch_size_bytes
    SLICE_BYTES = 16
    PAD_BYTES = 8
    ROW_COUNT_MAX = 0x7FFFFFFE

ctypedef fused Value:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef class RowFormat:
    """Where cells lie in a row."""
    cdef WireColumns columns
    cdef size_t stride
    cdef size_t bitmap              # its offset in the row
    cdef bint any_padded
    cdef bint any_binary

    def __cinit__(self, WireColumns columns, bint pad_unixtime):
        cdef int32_t i
        cdef WireColumn* column
        self.columns = columns
        for i in range(columns.count):
            column = &columns.columns[i]
            column.padded = pad_unixtime and columns.schema.columns[column.place].type.name == "UNIXTIME_MICROS"
            column.offset = self.bitmap
            self.bitmap += (column.width or SLICE_BYTES) + (PAD_BYTES if column.padded else 0)
            self.any_padded = self.any_padded or column.padded
            self.any_binary = self.any_binary or column.width == 0
        self.stride = self.bitmap + (<size_t> (columns.count + 7) // 8 if columns.any_nullable else 0)


# -- encoding ----------------------------------------------------------------------------------------------------------
cdef inline void put_values(Value zero, const uint8_t* source, int64_t count, uint8_t* out, size_t stride) noexcept nogil:
    """`zero` says the width."""
    cdef int64_t row
    for row in range(count):
        memcpy(out, source + <size_t> row * sizeof(Value), sizeof(Value))
        out += stride


cdef void put_fixed(const ColumnBuffers* column, int64_t first, int64_t count, uint8_t* out, size_t stride) noexcept nogil:
    cdef const uint8_t* source = column.values + <size_t> first * column.width
    cdef int64_t row
    if column.width == 8:
        put_values(<uint64_t> 0, source, count, out, stride)
    elif column.width == 4:
        put_values(<uint32_t> 0, source, count, out, stride)
    elif column.width == 2:
        put_values(<uint16_t> 0, source, count, out, stride)
    elif column.width == 1:
        put_values(<uint8_t> 0, source, count, out, stride)
    else:
        for row in range(count):
            memcpy(out + <size_t> row * stride, source + <size_t> row * 16, 16)


cdef void put_null(uint8_t* cell, size_t size, uint8_t* row, size_t bitmap, int32_t number) noexcept nogil:
    memset(cell, 0, size)
    row[bitmap + <size_t> (number >> 3)] |= <uint8_t> (1 << (number & 7))


cdef inline void put_slice(uint8_t* cell, uint64_t offset, uint64_t size) noexcept nogil:
    memcpy(cell, &offset, 8)
    memcpy(cell + 8, &size, 8)


cdef class RowwiseEncoder:
    cdef RowFormat format
    cdef WireBuffer rows
    cdef WireBuffer indirect
    cdef int64_t count
    cdef int64_t group_rows

    def __cinit__(self, schema, *, places=None, bint pad_unixtime=False, int64_t group_rows=GROUP_ROWS):
        if group_rows < 1:
            raise InvalidArgument(f"groups of {group_rows} rows")
        self.format = RowFormat(WireColumns(schema, places), pad_unixtime)
        self.group_rows = group_rows
        self._clear()

    def _clear(self):
        self.rows = WireBuffer()
        self.indirect = WireBuffer()
        self.count = 0

    @property
    def row_count(self):
        return self.count

    @property
    def size_bytes(self):
        return self.rows.size + self.indirect.size

    def add(self, ColumnBlock block not None, int64_t first, int64_t bytes_max, rows_max=None):
        cdef int64_t left = block.buffers.row_count - first
        cdef int64_t taken = 0
        cdef int status = 0
        if left < 0 or first < 0 or not 0 <= bytes_max <= WIRE_BYTES_MAX:
            raise InvalidArgument(f"row {first} of {block.buffers.row_count}, in {bytes_max} bytes")
        self.format.columns.check_block(block)
        if rows_max is not None:
            left = min(left, max(rows_max, 0))
        left = min(left, ROW_COUNT_MAX - self.count)
        with nogil:
            taken = self._fitting(block.buffers, first, left, <size_t> bytes_max)
            if taken:
                status = self._put(block.buffers, first, taken, <size_t> bytes_max)
        if status:
            self._clear()
            raise MemoryError("no memory for an answer's rows")
        return taken

    def take(self):
        cdef int64_t count = self.count
        rows, indirect = memoryview(self.rows), memoryview(self.indirect)
        self._clear()
        return count, rows, indirect if len(indirect) else None

    cdef size_t _wire_bytes(self, const BlockBuffers* block, int64_t first, int64_t count) noexcept nogil:
        cdef size_t size = self.format.stride * <size_t> count
        cdef int32_t i
        cdef const WireColumn* column
        for i in range(self.format.columns.count if self.format.any_binary else 0):
            column = &self.format.columns.columns[i]
            if column.width == 0:
                size += data_bytes_of(&block.columns[column.place], first, count)
        return size

    cdef int64_t _fitting(self, const BlockBuffers* block, int64_t first, int64_t left, size_t bytes_max) noexcept nogil:
        """R2. Sizes grow with the rows, so halving finds the most that fit."""
        cdef int64_t low = 0, high = left, middle
        cdef size_t used = self.rows.size + self.indirect.size
        if used + self._wire_bytes(block, first, left) <= bytes_max:
            return left
        while low < high:
            middle = low + (high - low + 1) // 2
            if used + self._wire_bytes(block, first, middle) <= bytes_max:
                low = middle
            else:
                high = middle - 1
        return 1 if low == 0 and self.count == 0 and left else low

    cdef int _put(self, const BlockBuffers* block, int64_t first, int64_t count, size_t bytes_max) noexcept nogil:
        cdef size_t size = self.format.stride * <size_t> count
        cdef size_t data = self._wire_bytes(block, first, count) - size
        cdef size_t hint = min(bytes_max, <size_t> HINT_BYTES_MAX)
        cdef int64_t group
        cdef int32_t i
        cdef uint8_t* out
        # The first block tells how the bytes asked for will be shared.
        out = self.rows.extend(size, <size_t> (<double> hint * <double> size / <double> (size + data + 1)))
        if out == NULL:
            return -1
        if self.format.any_padded or self.format.columns.any_nullable:
            memset(out, 0, size)
        if data and self.indirect.extend(data, <size_t> (<double> hint * <double> data / <double> (size + data))) == NULL:
            return -1
        self.indirect.size -= data      # room; cells take it below
        while count:
            group = min(self.group_rows - self.count % self.group_rows, count)
            for i in range(self.format.columns.count):
                self._put_column(i, &block.columns[self.format.columns.columns[i].place], first, group, out)
            out += <size_t> group * self.format.stride
            first += group
            count -= group
            self.count += group
        return 0

    cdef void _put_column(self, int32_t number, const ColumnBuffers* source, int64_t first, int64_t count,
                          uint8_t* out) noexcept nogil:
        cdef const WireColumn* column = &self.format.columns.columns[number]
        cdef int64_t row
        cdef size_t stride = self.format.stride
        if column.width:
            put_fixed(source, first, count, out + column.offset, stride)
        else:
            self._put_bytes(source, first, count, out + column.offset)
        if source.null_count:
            for row in range(count):
                if cell_is_null(source, first + row):
                    put_null(out + <size_t> row * stride + column.offset, column.width or SLICE_BYTES,
                             out + <size_t> row * stride, self.format.bitmap, number)

    cdef void _put_bytes(self, const ColumnBuffers* source, int64_t first, int64_t count, uint8_t* out) noexcept nogil:
        cdef size_t stride = self.format.stride
        cdef uint64_t at = self.indirect.size, size
        cdef int64_t row
        cdef uint8_t* data = self.indirect.data
        if source.null_count == 0:      # the cells' bytes lie one behind the other here too
            size = data_bytes_of(source, first, count)
            if size:
                memcpy(data + at, source.data + source.offsets[first], size)
        for row in range(first, first + count):
            size = 0 if cell_is_null(source, row) else <uint64_t> (source.offsets[row + 1] - source.offsets[row])
            put_slice(out, at, size)
            if source.null_count and size:
                memcpy(data + at, source.data + source.offsets[row], size)
            at += size
            out += stride
        self.indirect.size = at


# -- decoding ----------------------------------------------------------------------------------------------------------
cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY = 1
    FAULT_NULL = 2
    FAULT_BOOL = 3
    FAULT_PLACE = 4
    FAULT_SHARED = 5

cdef dict _FAULTS = {
    FAULT_NULL: "is NULL in a column that has none",
    FAULT_BOOL: "is a BOOL that is neither 0 nor 1",
    FAULT_PLACE: "lies outside the indirect data",
    FAULT_SHARED: "ends cells that are longer than the indirect data: some share bytes",
}


cdef class _Decoding:
    """One answer being read; `row` and `column` are where it went wrong."""
    cdef RowFormat format
    cdef const uint8_t* rows
    cdef const uint8_t* indirect
    cdef size_t indirect_bytes
    cdef size_t indirect_left       # R3: what cells may still take
    cdef int64_t row
    cdef int32_t column

    cdef Fault run(self, BlockBuffers* block, const uint8_t* is_bool) noexcept nogil:
        cdef Fault fault
        cdef int32_t i
        cdef ColumnBuffers* target
        cdef const WireColumn* column
        for i in range(block.column_count):
            self.column = i
            column = &self.format.columns.columns[i]
            target = &block.columns[i]
            if block_init_column(block, i, KIND_FIXED if column.width else KIND_BINARY, column.width, column.nullable) < 0:
                return FAULT_MEMORY
            fault = self.nulls(target, block.row_capacity) if self.format.columns.any_nullable else FAULT_NONE
            if fault == FAULT_NONE:
                fault = self.fixed(target, block.row_capacity, is_bool[i]) if column.width \
                    else self.binary(target, block.row_capacity)
            if fault != FAULT_NONE:
                return fault
        block.row_count = block.row_capacity
        return FAULT_NONE

    cdef Fault nulls(self, ColumnBuffers* target, int64_t count) noexcept nogil:
        cdef const uint8_t* at = self.rows + self.format.bitmap + <size_t> (self.column >> 3)
        cdef uint8_t mask = <uint8_t> (1 << (self.column & 7))
        cdef int64_t row
        for row in range(count):
            if at[0] & mask:
                if target.validity == NULL:
                    self.row = row
                    return FAULT_NULL
                target.validity[row >> 3] &= <uint8_t> ~(1 << (row & 7))
                target.null_count += 1
            at += self.format.stride
        return FAULT_NONE

    cdef Fault fixed(self, ColumnBuffers* target, int64_t count, bint is_bool) noexcept nogil:
        cdef const uint8_t* cell = self.rows + self.format.columns.columns[self.column].offset
        cdef size_t width = target.width
        cdef uint8_t* out = target.values
        cdef int64_t row
        for row in range(count):
            if not cell_is_null(target, row):       # else zeros, which are there already
                if is_bool and cell[0] > 1:
                    self.row = row
                    return FAULT_BOOL
                memcpy(out, cell, width)
            out += width
            cell += self.format.stride
        return FAULT_NONE

    cdef Fault binary(self, ColumnBuffers* target, int64_t count) noexcept nogil:
        cdef const uint8_t* cell = self.rows + self.format.columns.columns[self.column].offset
        cdef uint64_t offset, size
        cdef int64_t row
        for row in range(count):
            if not cell_is_null(target, row):
                memcpy(&offset, cell, 8)
                memcpy(&size, cell + 8, 8)
                self.row = row
                if offset > self.indirect_bytes or size > self.indirect_bytes - offset:
                    return FAULT_PLACE
                if size > self.indirect_left:
                    return FAULT_SHARED
                self.indirect_left -= size
                if size and block_append_bytes(target, self.indirect + offset, size) < 0:
                    return FAULT_MEMORY
            target.offsets[row + 1] = <int32_t> target.data_bytes
            cell += self.format.stride
        return FAULT_NONE


def decode_rowwise(schema, row_count, rows, indirect=None, *, bint pad_unixtime=False):
    cdef RowFormat format = RowFormat(WireColumns(schema), pad_unixtime)
    cdef _Decoding decoding = _Decoding()
    cdef const uint8_t[::1] row_bytes = memoryview(rows).cast("B")
    cdef const uint8_t[::1] cell_bytes = memoryview(b"" if indirect is None else indirect).cast("B")
    cdef bytes is_bool = bytes(column.type.name == "BOOL" for column in schema)
    cdef const uint8_t* bools = is_bool
    cdef BlockBuffers* block
    cdef Fault fault
    if not 0 <= row_count <= ROW_COUNT_MAX:
        raise LimitExceeded(f"an answer of {row_count} rows, the most are {ROW_COUNT_MAX}")
    if row_count * format.stride != len(row_bytes):
        raise BadFormat(f"{row_count} rows of {format.stride} bytes in {len(row_bytes)} bytes")
    if len(cell_bytes) > WIRE_BYTES_MAX:
        raise LimitExceeded(f"{len(cell_bytes)} bytes of indirect data, the most are {WIRE_BYTES_MAX}")
    decoding.format = format
    decoding.rows = &row_bytes[0] if len(row_bytes) else NULL
    decoding.indirect = &cell_bytes[0] if len(cell_bytes) else NULL
    decoding.indirect_bytes = decoding.indirect_left = <size_t> len(cell_bytes)
    block = block_new(format.columns.count, row_count)
    if block == NULL:
        raise MemoryError("no memory for a block")
    with nogil:
        fault = decoding.run(block, bools)
    if fault == FAULT_NONE:
        return ColumnBlock.wrap(block, schema)
    block_release(block)
    if fault == FAULT_MEMORY:
        raise MemoryError("no memory for a block")
    name = schema.columns[decoding.column].name
    raise BadFormat(f"the cell of column {name!r} in row {decoding.row} of an answer {_FAULTS[fault]}")
