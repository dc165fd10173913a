"""See row_ops.pxd."""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.cursor cimport cursor_left, read_fixed64, read_slice
from kudu_storage._native.row_layout cimport ColumnLayout, bit_is_set

cdef enum:
    ENCODED_KEY_BYTES_MAX = 16384       # common/limits.py

cdef const uint8_t* NO_BYTES = <const uint8_t*> b""


cdef class RowScratch:
    def __cinit__(self):
        memset(&self.row, 0, sizeof(DecodedRow))
        self.row.key = <uint8_t*> calloc(ENCODED_KEY_BYTES_MAX + 8, 1)
        if self.row.key == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.row.key)
        free(self.row.cells)
        free(self.row.sizes)
        free(self.row.states)

    cdef int reserve(self, int32_t columns) except -1:
        if columns <= self.column_capacity:
            return 0
        free(self.row.cells)
        free(self.row.sizes)
        free(self.row.states)
        self.column_capacity = 0
        self.row.cells = <const uint8_t**> calloc(columns, sizeof(uint8_t*))
        self.row.sizes = <uint32_t*> calloc(columns, sizeof(uint32_t))
        self.row.states = <uint8_t*> calloc(columns, 1)
        if self.row.cells == NULL or self.row.sizes == NULL or self.row.states == NULL:
            raise MemoryError()
        self.column_capacity = columns
        return 0


cdef inline bint _is_insert(int32_t op) noexcept nogil:
    return op == ROW_INSERT or op == ROW_INSERT_IGNORE


cdef inline bint _is_upsert(int32_t op) noexcept nogil:
    return op == ROW_UPSERT or op == ROW_UPSERT_IGNORE


cdef inline bint _is_update(int32_t op) noexcept nogil:
    return op == ROW_UPDATE or op == ROW_UPDATE_IGNORE


cdef inline bint _is_delete(int32_t op) noexcept nogil:
    return op == ROW_DELETE or op == ROW_DELETE_IGNORE


cdef inline void _encode_integer(const uint8_t* cell, uint32_t width, uint8_t* out) noexcept nogil:
    """Big-endian with the sign bit flipped, so that memcmp order is numeric order."""
    cdef uint32_t i
    for i in range(width):
        out[i] = cell[width - 1 - i]
    out[0] ^= 0x80


cdef bint encode_key(const LayoutInfo* layout, DecodedRow* row) noexcept nogil:
    cdef int32_t i
    cdef uint32_t width, size, j
    cdef size_t used = 0
    cdef const uint8_t* cell
    cdef uint8_t* out = row.key
    cdef uint64_t prefix = 0
    for i in range(layout.key_count):
        width = layout.columns[i].width
        cell = row.cells[i]
        if width:
            if used + width > ENCODED_KEY_BYTES_MAX:
                return False
            _encode_integer(cell, width, out + used)
            used += width
            continue
        size = row.sizes[i]
        if i == layout.key_count - 1:
            if used + size > ENCODED_KEY_BYTES_MAX:
                return False
            memcpy(out + used, cell, size)
            used += size
            continue
        # A binary column with columns behind it: 00 becomes 00 01, and 00 00 ends it.
        for j in range(size):
            if used + 4 > ENCODED_KEY_BYTES_MAX:
                return False
            out[used] = cell[j]
            used += 1
            if cell[j] == 0:
                out[used] = 1
                used += 1
        if used + 2 > ENCODED_KEY_BYTES_MAX:
            return False
        out[used] = 0
        out[used + 1] = 0
        used += 2
    row.key_size = used
    memset(out + used, 0, 8)
    for i in range(8):
        prefix = (prefix << 8) | out[i]
    row.key_prefix = prefix
    return True


cdef inline DecodeStatus _read_cell(Cursor* rows, Slice indirect, const ColumnLayout* column, const uint8_t** cell,
                                    uint32_t* size) noexcept nogil:
    cdef Slice fixed
    cdef uint64_t offset, length
    if column.width:
        if not read_slice(rows, column.width, &fixed):
            return DECODE_CUT_OFF
        cell[0] = fixed.data
        size[0] = column.width
        return DECODE_OK
    if not read_fixed64(rows, &offset) or not read_fixed64(rows, &length):
        return DECODE_CUT_OFF
    if length > indirect.size or offset > indirect.size - length or length > 0x7FFFFFFF:
        return DECODE_BAD_INDIRECT
    # An empty cell of a request without indirect data has no address; NULL would make it a NULL cell.
    cell[0] = indirect.data + offset if length else NO_BYTES
    size[0] = <uint32_t> length
    return DECODE_OK


cdef inline void _take_auto_increment(const LayoutInfo* layout, DecodedRow* row, int64_t* counter) noexcept nogil:
    """Give the auto-incrementing column its value: counted for inserts, the client's own for upserts."""
    cdef int32_t column = layout.auto_increment
    cdef int64_t value
    if _is_insert(row.op):
        if row.states[column] != CELL_UNSET:
            row.fault = ROW_AUTO_INCREMENT
            return
        if counter[0] == INT64_MAX or counter[0] < 0:       # all numbers are used, or none is known: no row
            row.fault = ROW_AUTO_INCREMENT
            return
        counter[0] += 1
        row.auto_value = counter[0]
        row.cells[column] = <const uint8_t*> &row.auto_value
        row.sizes[column] = 8
        row.states[column] = CELL_SET
    elif _is_upsert(row.op):
        if row.states[column] != CELL_SET:
            row.fault = ROW_AUTO_INCREMENT
            return
        memcpy(&value, row.cells[column], 8)
        if value < 0:
            row.fault = ROW_AUTO_INCREMENT
        elif value > counter[0]:
            counter[0] = value


cdef inline void _check_row(const LayoutInfo* layout, DecodedRow* row) noexcept nogil:
    """What a server refuses about a row by itself (row_operations.cc)."""
    cdef int32_t i
    for i in range(layout.key_count):
        if row.states[i] != CELL_SET:
            row.fault = ROW_KEY_MISSING
            return
    for i in range(layout.key_count, layout.column_count):
        if row.states[i] == CELL_UNSET:
            if (_is_insert(row.op) or _is_upsert(row.op)) and not layout.columns[i].nullable \
                    and not layout.columns[i].has_write_default and i != layout.auto_increment:
                row.fault = ROW_NULL_FORBIDDEN
            continue
        row.set_count += 1
        if row.states[i] == CELL_NULL and not layout.columns[i].nullable:
            row.fault = ROW_NULL_FORBIDDEN
        if layout.columns[i].immutable:
            row.immutable_set = True
    if _is_delete(row.op) and row.set_count:
        row.fault = ROW_DELETE_WITH_VALUES
    elif _is_update(row.op) and row.set_count == 0:
        row.fault = ROW_NOTHING_SET


cdef DecodeStatus decode_row(Cursor* rows, Slice indirect, const ProjectionInfo* projection, const LayoutInfo* layout,
                             DecodedRow* row, int64_t* counter) noexcept nogil:
    cdef Slice type_byte, set_bitmap, null_bitmap
    cdef int32_t i, column
    cdef DecodeStatus status
    if cursor_left(rows) == 0:
        return DECODE_END
    read_slice(rows, 1, &type_byte)
    row.op = type_byte.data[0]
    if not (_is_insert(row.op) or _is_upsert(row.op) or _is_update(row.op) or _is_delete(row.op)):
        return DECODE_BAD_TYPE
    row.fault = ROW_VALID
    row.immutable_set = False
    row.set_count = 0
    row.key_size = 0
    null_bitmap.data = NULL
    if not read_slice(rows, projection.bitmap_bytes, &set_bitmap):
        return DECODE_CUT_OFF
    if projection.has_nullable and not read_slice(rows, projection.bitmap_bytes, &null_bitmap):
        return DECODE_CUT_OFF
    memset(row.states, CELL_UNSET, layout.column_count)
    for i in range(projection.client_count):
        if not bit_is_set(set_bitmap.data, i):
            continue
        column = projection.tablet_column[i]
        if null_bitmap.data != NULL and bit_is_set(null_bitmap.data, i):
            row.states[column] = CELL_NULL
            # As the server does: a NULL for a column that cannot be NULL fails the row and still takes up its bytes.
            if not layout.columns[column].nullable:
                status = _read_cell(rows, indirect, &layout.columns[column], &row.cells[column], &row.sizes[column])
                if status != DECODE_OK:
                    return status
            continue
        status = _read_cell(rows, indirect, &layout.columns[column], &row.cells[column], &row.sizes[column])
        if status != DECODE_OK:
            return status
        if layout.columns[column].width == 0:
            # Clients write each cell's bytes once. Were sharing allowed, a short request could make rows without end.
            row.indirect_bytes += row.sizes[column]
            if row.indirect_bytes > indirect.size:
                return DECODE_BAD_INDIRECT
        row.states[column] = CELL_SET
    if layout.auto_increment >= 0:
        _take_auto_increment(layout, row, counter)
    _check_row(layout, row)
    if row.fault != ROW_KEY_MISSING and not encode_key(layout, row):
        row.fault = ROW_KEY_TOO_LONG
    return DECODE_OK
