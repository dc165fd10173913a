"""See delta.pxd.

D1  A DeltaRun's deltas were parsed to their last byte: whoever applies them need not look for cut-off cells again.
D2  A DeltaRun is in the order of its kind, UNDO or REDO, and names only rows that its rowset has.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from kudu_storage._native.column_block cimport (
    KIND_BINARY, ColumnBlock, block_new, block_release, block_retain,
)
from kudu_storage._native.cursor cimport cursor_left, cursor_of, read_slice, read_varint
from kudu_storage._native.row_ops cimport CELL_SET, CELL_UNSET

from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum:
    # common/limits.py: CELL_BYTES_MAX and COLUMN_ID_MAX
    CELL_BYTES_MAX = 64 << 20
    COLUMN_ID_MAX = 0x7FFFFFFF
    DATA_BYTES_MAX = 0x7FFFFFFF

# What a delta file's cells are as a column.
CELL_SCHEMA = Schema((ColumnSchema("delta", types.BY_NAME["BINARY"]),))
TYPE_NAMES = {CHANGE_UPDATE: "UPDATE", CHANGE_DELETE: "DELETE", CHANGE_REINSERT: "REINSERT"}
_TYPES = {name: number for number, name in TYPE_NAMES.items()}

_FAULTS = {
    DELTA_BAD_KEY: "its row or timestamp is cut off or out of range",
    DELTA_BAD_TYPE: "its change list is of no known type",
    DELTA_BAD_CELL: "a cell of its change list is cut off or out of range",
    DELTA_DELETE_WITH_CELLS: "a DELETE with cells",
    DELTA_EMPTY_UPDATE: "an UPDATE of nothing",
    DELTA_DISORDER: "it is out of order",
    DELTA_ROW_OUTSIDE: "its rowset has no such row",
    DELTA_WRONG_WIDTH: "a cell of another width than its column's type",
    DELTA_NULL_FORBIDDEN: "a NULL for a column that is not nullable",
}


cdef int raise_delta_fault(DeltaFault fault, object where) except -1:
    raise BadFormat(f"{where}: {_FAULTS[fault]}")


# -- numbers -----------------------------------------------------------------------------------------------------------
cdef bint read_mvarint(Cursor* cursor, uint64_t* value) noexcept nogil:
    cdef Slice bytes
    cdef uint8_t first
    cdef size_t more, i
    if cursor_left(cursor) == 0:
        return False
    first = cursor.pos[0]
    if first <= 240:
        value[0] = first
        cursor.pos += 1
        return True
    more = 1 if first <= 248 else 2 if first == 249 else first - 247
    if cursor_left(cursor) < 1 + more:
        return False
    cursor.pos += 1
    read_slice(cursor, more, &bytes)
    if first <= 248:
        value[0] = 240 + 256 * (<uint64_t> first - 241) + bytes.data[0]
    elif first == 249:
        value[0] = 2288 + 256 * <uint64_t> bytes.data[0] + bytes.data[1]
    else:
        value[0] = 0
        for i in range(more):
            value[0] = (value[0] << 8) | bytes.data[i]
    return True


cdef size_t put_mvarint(uint8_t* out, uint64_t value) noexcept nogil:
    cdef size_t more, i
    if value <= 240:
        out[0] = <uint8_t> value
        return 1
    if value <= 2287:
        value -= 240
        out[0] = <uint8_t> (241 + (value >> 8))
        out[1] = <uint8_t> value
        return 2
    if value <= 67823:
        value -= 2288
        out[0] = 249
        out[1] = <uint8_t> (value >> 8)
        out[2] = <uint8_t> value
        return 3
    more = 3
    while more < 8 and value >> (8 * more):
        more += 1
    out[0] = <uint8_t> (247 + more)
    for i in range(more):
        out[1 + i] = <uint8_t> (value >> (8 * (more - 1 - i)))
    return 1 + more


cdef size_t put_varint32(uint8_t* out, uint32_t value) noexcept nogil:
    cdef size_t used = 0
    while value >= 0x80:
        out[used] = <uint8_t> (value | 0x80)
        value >>= 7
        used += 1
    out[used] = <uint8_t> value
    return used + 1


# -- change lists ------------------------------------------------------------------------------------------------------
cdef DeltaFault change_open(Cursor* change, uint8_t* type) noexcept nogil:
    if cursor_left(change) == 0:
        return DELTA_BAD_TYPE
    type[0] = change.pos[0]
    change.pos += 1
    if type[0] == CHANGE_UPDATE:
        return DELTA_EMPTY_UPDATE if cursor_left(change) == 0 else DELTA_FINE
    if type[0] == CHANGE_DELETE:
        return DELTA_DELETE_WITH_CELLS if cursor_left(change) else DELTA_FINE
    return DELTA_FINE if type[0] == CHANGE_REINSERT else DELTA_BAD_TYPE


cdef int change_next(Cursor* change, ChangeCell* cell) noexcept nogil:
    cdef uint64_t id, stored
    cdef Slice bytes
    if cursor_left(change) == 0:
        return 0
    if not read_varint(change, &id) or id > COLUMN_ID_MAX or not read_varint(change, &stored) \
            or stored > CELL_BYTES_MAX + 1:
        return -1
    cell.column_id = <uint32_t> id
    cell.size = 0
    cell.data = NULL
    if stored:
        if not read_slice(change, <size_t> stored - 1, &bytes):
            return -1
        cell.data = bytes.data
        cell.size = <uint32_t> bytes.size
    return 1


cdef DeltaFault delta_parse(const uint8_t* data, size_t size, Delta* delta) noexcept nogil:
    cdef Cursor cursor = cursor_of(data, size)
    cdef uint64_t row
    cdef uint8_t type
    cdef ChangeCell cell
    cdef DeltaFault fault
    cdef int more = 1
    if not read_mvarint(&cursor, &row) or row >> 32 != 0 or not read_mvarint(&cursor, &delta.timestamp):
        return DELTA_BAD_KEY
    delta.row = <uint32_t> row
    delta.change = cursor.pos
    delta.change_bytes = <uint32_t> cursor_left(&cursor)
    fault = change_open(&cursor, &type)
    if fault != DELTA_FINE:
        return fault
    while more > 0:
        more = change_next(&cursor, &cell)
    return DELTA_FINE if more == 0 else DELTA_BAD_CELL


# -- growing bytes -----------------------------------------------------------------------------------------------------
cdef void buffer_free(ByteBuffer* buffer) noexcept nogil:
    free(buffer.data)
    memset(buffer, 0, sizeof(ByteBuffer))


cdef uint8_t* buffer_room(ByteBuffer* buffer, size_t size) noexcept nogil:
    cdef size_t capacity = buffer.capacity
    cdef uint8_t* grown
    if buffer.failed:
        return NULL
    if size > capacity - buffer.size:
        if size > (<size_t> 1 << 40) - buffer.size:
            buffer.failed = True
            return NULL
        capacity = max(2 * capacity, buffer.size + size, <size_t> 256)
        grown = <uint8_t*> realloc(buffer.data, capacity)
        if grown == NULL:
            buffer.failed = True
            return NULL
        buffer.data = grown
        buffer.capacity = capacity
    return buffer.data + buffer.size


cdef void buffer_append(ByteBuffer* buffer, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint8_t* out = buffer_room(buffer, size)
    if out != NULL and size:
        memcpy(out, data, size)
        buffer.size += size


cdef void change_start(ByteBuffer* buffer, uint8_t type) noexcept nogil:
    buffer_append(buffer, &type, 1)


cdef void change_put(ByteBuffer* buffer, uint32_t column_id, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint8_t* out = buffer_room(buffer, 2 * VARINT32_BYTES_MAX + <size_t> size)
    cdef size_t used
    if out == NULL:
        return
    used = put_varint32(out, column_id)
    used += put_varint32(out + used, 0 if data == NULL else size + 1)
    if data != NULL and size:
        memcpy(out + used, data, size)
        used += size
    buffer.size += used


cdef bint change_of_row(ByteBuffer* buffer, const LayoutInfo* layout, const DecodedRow* row) noexcept nogil:
    cdef int32_t i
    cdef bint any_cell = False
    for i in range(layout.key_count, layout.column_count):
        if row.states[i] == CELL_UNSET or layout.columns[i].immutable:
            continue
        if not any_cell:
            change_start(buffer, CHANGE_UPDATE)
            any_cell = True
        if row.states[i] == CELL_SET:
            change_put(buffer, <uint32_t> layout.columns[i].id, row.cells[i], row.sizes[i])
        else:
            change_put(buffer, <uint32_t> layout.columns[i].id, NULL, 0)
    return any_cell


# -- statistics --------------------------------------------------------------------------------------------------------
cdef int _count_update(DeltaStats stats, uint32_t column_id, int64_t updates) noexcept nogil:
    cdef size_t low = 0, high = stats.column_count, middle, capacity
    cdef ColumnCount* grown
    while low < high:
        middle = (low + high) >> 1
        if stats.columns[middle].column_id < column_id:
            low = middle + 1
        else:
            high = middle
    if low < stats.column_count and stats.columns[low].column_id == column_id:
        stats.columns[low].updates += updates
        return 0
    if stats.column_count == stats.column_capacity:
        capacity = max(2 * stats.column_capacity, <size_t> 8)
        grown = <ColumnCount*> realloc(stats.columns, capacity * sizeof(ColumnCount))
        if grown == NULL:
            return -1
        stats.columns = grown
        stats.column_capacity = capacity
    high = stats.column_count
    while high > low:
        stats.columns[high] = stats.columns[high - 1]
        high -= 1
    stats.columns[low].column_id = column_id
    stats.columns[low].updates = updates
    stats.column_count += 1
    return 0


cdef class DeltaStats:

    def __cinit__(self):
        self.lowest = 0xFFFFFFFFFFFFFFFF

    def __dealloc__(self):
        free(self.columns)

    cdef int add(self, uint64_t timestamp, const uint8_t* change, size_t size) noexcept nogil:
        """`change` is well-formed."""
        cdef Cursor cursor = cursor_of(change, size)
        cdef ChangeCell cell
        cdef uint8_t type
        if change_open(&cursor, &type) != DELTA_FINE:
            return 0
        self.delta_count += 1
        self.lowest = min(self.lowest, timestamp)
        self.highest = max(self.highest, timestamp)
        if type == CHANGE_DELETE:
            self.delete_count += 1
        elif type == CHANGE_REINSERT:
            self.reinsert_count += 1
        while change_next(&cursor, &cell) > 0:
            if _count_update(self, cell.column_id, 1) < 0:
                return -1
        return 0

    @property
    def min_timestamp(self):
        """The lowest timestamp; 2**64 - 1 when there is no delta, as Kudu writes it."""
        return self.lowest

    @property
    def max_timestamp(self):
        return self.highest

    @property
    def update_counts(self):
        """By column id: in how many UPDATEs and REINSERTs it is set."""
        return {self.columns[i].column_id: self.columns[i].updates for i in range(self.column_count)}

    def merge(self, DeltaStats other not None):
        """Count what `other` counted too."""
        cdef size_t i
        self.delta_count += other.delta_count
        self.delete_count += other.delete_count
        self.reinsert_count += other.reinsert_count
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        for i in range(other.column_count):
            if _count_update(self, other.columns[i].column_id, other.columns[i].updates) < 0:
                raise MemoryError()

    def to_pb(self, pb):
        """Fill an empty kudu.tablet.DeltaStatsPB."""
        pb.delete_count = self.delete_count
        pb.reinsert_count = self.reinsert_count
        pb.min_timestamp = self.lowest
        pb.max_timestamp = self.highest
        for column_id, updates in self.update_counts.items():
            pb.column_stats.add(col_id=column_id, update_count=updates)

    @staticmethod
    def from_pb(pb):
        """What a footer says; `delta_count` is not in it and stays 0."""
        cdef DeltaStats stats = DeltaStats()
        for name in ("delete_count", "reinsert_count"):
            if getattr(pb, name) < 0:
                raise BadFormat(f"delta statistics with a {name} of {getattr(pb, name)}")
        stats.delete_count = pb.delete_count
        stats.reinsert_count = pb.reinsert_count
        stats.lowest = pb.min_timestamp
        stats.highest = pb.max_timestamp
        for column in pb.column_stats:
            if column.col_id < 0 or column.update_count < 0:
                raise BadFormat(f"delta statistics of column {column.col_id} with {column.update_count} updates")
            if _count_update(stats, column.col_id, column.update_count) < 0:
                raise MemoryError()
        return stats


# -- decoded deltas ----------------------------------------------------------------------------------------------------
cdef inline bint _in_order(const Delta* before, const Delta* delta, bint undo) noexcept nogil:
    if before.row != delta.row:
        return before.row < delta.row
    return before.timestamp >= delta.timestamp if undo else before.timestamp <= delta.timestamp


cdef DeltaFault _decode(DeltaRun run, const ColumnBuffers* column, int64_t rows, int64_t row_limit,
                        Py_ssize_t* failed) noexcept nogil:
    cdef Py_ssize_t i
    cdef Delta* delta
    cdef DeltaFault fault
    for i in range(rows):
        failed[0] = i
        delta = &run.deltas[i]
        fault = delta_parse(column.data + column.offsets[i], <size_t> (column.offsets[i + 1] - column.offsets[i]), delta)
        if fault != DELTA_FINE:
            return fault
        if row_limit >= 0 and <int64_t> delta.row >= row_limit:
            return DELTA_ROW_OUTSIDE
        if i and not _in_order(&run.deltas[i - 1], delta, run.undo):
            return DELTA_DISORDER
        run.count = i + 1
        if run.stats.add(delta.timestamp, delta.change, delta.change_bytes) < 0:
            failed[0] = -1
            return DELTA_FINE
    failed[0] = 0
    return DELTA_FINE


cdef class DeltaRun:

    def __cinit__(self):
        self.stats = DeltaStats()

    def __dealloc__(self):
        free(self.deltas)
        block_release(self.owner)

    @staticmethod
    def decode(ColumnBlock cells not None, *, bint undo, rows=None):
        """Cells of a delta file, as read from it: a block with one BINARY column. They are not copied.

        Args:
            undo: they are of an UNDO file.
            rows: number of rows of the rowset, if known.
        Raises:
            BadFormat: a cell that is malformed, out of order, or names a row that is not there.
        """
        cdef DeltaRun run = DeltaRun()
        cdef DeltaFault fault
        cdef Py_ssize_t failed
        cdef int64_t row_limit = -1 if rows is None else rows
        cdef const BlockBuffers* buffers = cells.buffers
        if buffers.column_count != 1 or buffers.columns[0].kind != KIND_BINARY or buffers.columns[0].null_count:
            raise InvalidArgument("deltas are the cells of one binary column without NULLs")
        run.undo = undo
        run.owner = cells.buffers
        block_retain(run.owner)
        run.deltas = <Delta*> malloc(<size_t> (buffers.row_count + 1) * sizeof(Delta))
        if run.deltas == NULL:
            raise MemoryError()
        with nogil:
            fault = _decode(run, &buffers.columns[0], buffers.row_count, row_limit, &failed)
        if fault != DELTA_FINE:
            raise_delta_fault(fault, f"{'UNDO' if undo else 'REDO'} delta {failed}")
        if failed < 0:
            raise MemoryError()
        return run

    cdef Py_ssize_t first_at(self, uint64_t row) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.deltas[middle].row < row:
                low = middle + 1
            else:
                high = middle
        return low

    def __len__(self):
        return self.count

    def to_list(self):
        """[(row, timestamp, type, {column id: cell or None})], for people and tests."""
        return [(self.deltas[i].row, self.deltas[i].timestamp,
                 *decode_change(self.deltas[i].change[:self.deltas[i].change_bytes])) for i in range(self.count)]


# -- cells to write ----------------------------------------------------------------------------------------------------
cdef class DeltaCells:
    """Args:
        undo: for an UNDO file.
    """

    def __cinit__(self, *, bint undo):
        self.undo = undo
        self.stats = DeltaStats()

    def __dealloc__(self):
        buffer_free(&self.bytes)
        buffer_free(&self.ends)

    cdef int append(self, uint32_t row, uint64_t timestamp, const uint8_t* change, size_t size) noexcept nogil:
        cdef uint8_t* out
        cdef int32_t end
        if size > DATA_BYTES_MAX - 2 * MVARINT_BYTES_MAX - self.bytes.size:
            return -1
        if self.ends.size == 0:
            end = 0
            buffer_append(&self.ends, <const uint8_t*> &end, sizeof(int32_t))
        out = buffer_room(&self.bytes, 2 * MVARINT_BYTES_MAX + size)
        if out == NULL:
            return -1
        self.bytes.size += put_mvarint(out, row)
        self.bytes.size += put_mvarint(self.bytes.data + self.bytes.size, timestamp)
        memcpy(self.bytes.data + self.bytes.size, change, size)
        self.bytes.size += size
        end = <int32_t> self.bytes.size
        buffer_append(&self.ends, <const uint8_t*> &end, sizeof(int32_t))
        self.count += 1
        return -1 if self.ends.failed else self.stats.add(timestamp, change, size)

    def add(self, uint32_t row, uint64_t timestamp, bytes change not None):
        """Append one delta. Raises BadFormat for a change list that is malformed."""
        cdef Cursor cursor = cursor_of(change, <size_t> len(change))
        cdef DeltaFault fault
        cdef uint8_t type
        cdef ChangeCell cell
        cdef int more = 1
        fault = change_open(&cursor, &type)
        while fault == DELTA_FINE and more > 0:
            more = change_next(&cursor, &cell)
        if fault != DELTA_FINE or more < 0:
            raise_delta_fault(fault if fault != DELTA_FINE else DELTA_BAD_CELL, f"change of row {row}")
        if self.append(row, timestamp, change, <size_t> len(change)) < 0:
            raise MemoryError()

    def __len__(self):
        return self.count

    def take(self):
        """The cells since the last take() as a block with one BINARY column. `stats` goes on counting."""
        cdef BlockBuffers* block = block_new(1, 0)
        cdef ColumnBuffers* column
        if block == NULL:
            raise MemoryError()
        if self.ends.size == 0:
            buffer_append(&self.ends, b"\0\0\0\0", sizeof(int32_t))
        if buffer_room(&self.bytes, 1) == NULL or self.ends.failed:
            block_release(block)
            raise MemoryError()
        column = &block.columns[0]
        column.kind = KIND_BINARY
        column.offsets = <int32_t*> self.ends.data
        column.data = self.bytes.data
        column.data_bytes = self.bytes.size
        column.data_capacity = self.bytes.capacity
        block.row_count = self.count
        block.row_capacity = self.count
        memset(&self.bytes, 0, sizeof(ByteBuffer))
        memset(&self.ends, 0, sizeof(ByteBuffer))
        self.count = 0
        return ColumnBlock.wrap(block, CELL_SCHEMA)


# -- for people and tests ----------------------------------------------------------------------------------------------
def encode_mvarint(uint64_t value):
    cdef uint8_t[MVARINT_BYTES_MAX] out
    cdef size_t used = put_mvarint(out, value)
    return (<const uint8_t*> out)[:used]


def decode_mvarint(bytes data not None):
    """(number, bytes it took). Raises BadFormat where it is cut off."""
    cdef Cursor cursor = cursor_of(data, <size_t> len(data))
    cdef uint64_t value
    if not read_mvarint(&cursor, &value):
        raise BadFormat("a number is cut off")
    return value, len(data) - cursor_left(&cursor)


def encode_change(str type not None, dict cells not None):
    """A row change list. `cells`: by column id, None for NULL.

    Raises:
        InvalidArgument: no such type, a DELETE with cells, an UPDATE without.
    """
    cdef ByteBuffer buffer
    cdef bytes data
    if type not in _TYPES or bool(cells) and type == "DELETE" or not cells and type == "UPDATE":
        raise InvalidArgument(f"a change of type {type!r} with {len(cells)} cells")
    memset(&buffer, 0, sizeof(ByteBuffer))
    try:
        change_start(&buffer, _TYPES[type])
        for column_id, cell in cells.items():
            if cell is None:
                change_put(&buffer, column_id, NULL, 0)
            else:
                data = cell
                change_put(&buffer, column_id, data, <uint32_t> len(data))
        if buffer.failed:
            raise MemoryError()
        return buffer.data[:buffer.size]
    finally:
        buffer_free(&buffer)


def decode_change(bytes change not None):
    """(type, {column id: cell or None}) of a row change list. Raises BadFormat."""
    cdef Cursor cursor = cursor_of(change, <size_t> len(change))
    cdef uint8_t type
    cdef ChangeCell cell
    cdef int more = 1
    cdef DeltaFault fault = change_open(&cursor, &type)
    if fault != DELTA_FINE:
        raise_delta_fault(fault, "change list")
    cells = {}
    while True:
        more = change_next(&cursor, &cell)
        if more < 0:
            raise_delta_fault(DELTA_BAD_CELL, "change list")
        if more == 0:
            return TYPE_NAMES[type], cells
        cells[cell.column_id] = None if cell.data == NULL else cell.data[:cell.size]
