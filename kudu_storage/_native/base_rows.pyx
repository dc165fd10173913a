"""See base_rows.pxd. May not touch: files, but through column readers."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kudu_storage._native.cfile_reader cimport CFileReader, ColumnCursor
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, ColumnBlock, block_append_bytes, block_init_column, block_new, block_release,
)
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_REINSERT, DELTA_BAD_CELL, DELTA_FINE, DELTA_NULL_FORBIDDEN, DELTA_WRONG_WIDTH, ChangeCell,
    change_next, change_open,
)
from kudu_storage._native.row_history cimport HISTORY_FINE
from kudu_storage._native.row_layout cimport ColumnLayout, column_of_id

from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum:
    ROWS_FIRST = 128
    ROWS_MAX = 4096
    BATCH_BYTES = 1 << 20           # of one rowset's cells in memory, about


# -- reading -----------------------------------------------------------------------------------------------------------
cdef class BaseRows:
    """Args:
        layout: the columns wanted.
        readers: for each of them its column file, or None where the rowset lacks it: rows have its read default then.
        row_count: of the rowset.
        batch_bytes: of cells in memory at a time, about.
    Raises: BadFormat for a column file of another type or number of rows.
    """

    def __cinit__(self, RowLayout layout not None, readers, int64_t row_count, *, int64_t batch_bytes=BATCH_BYTES):
        cdef CFileReader reader
        self.layout = layout
        self.row_count = row_count
        self.batch_bytes = batch_bytes
        self.batch_rows = ROWS_FIRST
        self.cursors = []
        if len(readers) != layout.info.column_count:
            raise InvalidArgument(f"{len(readers)} column files for {layout.info.column_count} columns")
        for column, found in zip(layout.schema, readers, strict=True):
            if found is None:
                if column.read_default is None and not column.nullable:
                    raise BadFormat(f"the rowset lacks column {column.name!r}, which has no default and no NULLs")
                self.cursors.append(None)
                continue
            reader = found
            if reader.type is not column.type or <int64_t> reader.row_count != row_count \
                    or (reader.shape.nullable and not column.nullable):
                raise BadFormat(f"column {column.name!r} has {reader.row_count} cells of {reader.type.name}, its rowset "
                                f"{row_count} rows and the schema {column.type.name}", path=reader.name)
            reader.prepare_rows()
            self.cursors.append(reader.cursor())

    cdef BlockBuffers* load(self) except? NULL:
        cdef int64_t count = min(self.batch_rows, self.row_count - self.next_row)
        cdef int64_t first = self.next_row, binary_bytes = 0
        cdef BlockBuffers* block
        cdef ColumnCursor cursor
        cdef int32_t i
        if count <= 0:
            return NULL
        block = new_rows(&self.layout.info, count)
        if block == NULL:
            raise MemoryError()
        try:
            for i in range(self.layout.info.column_count):
                if self.cursors[i] is None:
                    if _fill_default(&self.layout.info.columns[i], &block.columns[i], count) < 0:
                        raise MemoryError()
                else:
                    cursor = self.cursors[i]
                    with nogil:
                        cursor.read(<uint64_t> first, <uint64_t> count, &block.columns[i], 0)
                binary_bytes += <int64_t> block.columns[i].data_bytes
        except BaseException:
            block_release(block)
            raise
        block.row_count = count
        self.next_row += count
        binary_bytes += count * self.layout.info.fixed_bytes
        if binary_bytes > self.batch_bytes:
            self.batch_rows = max(1, count // 2)
        elif binary_bytes < self.batch_bytes // 4:
            self.batch_rows = min(ROWS_MAX, count * 2)
        return block

    def next(self):
        """The next rows as a block, or None at the end."""
        cdef BlockBuffers* block = self.load()
        return None if block == NULL else ColumnBlock.wrap(block, self.layout.schema)


cdef int _fill_default(const ColumnLayout* info, ColumnBuffers* column, int64_t count) noexcept nogil:
    """Read default or NULL in all rows. 0, or -1: no memory."""
    cdef int64_t row
    if not info.has_read_default:
        memset(column.validity, 0, <size_t> (count + 7) // 8)
        column.null_count = count
        return 0
    for row in range(count):
        if info.width:
            memcpy(column.values + row * info.width, info.read_default.data, info.width)
            continue
        if block_append_bytes(column, info.read_default.data, info.read_default.size) < 0:
            return -1
        column.offsets[row + 1] = <int32_t> column.data_bytes
    return 0


# -- rows --------------------------------------------------------------------------------------------------------------
cdef void begin_row(RowHistory history, const BlockBuffers* block, int64_t row) noexcept nogil:
    cdef const ColumnBuffers* column
    cdef int32_t i
    history.begin()
    for i in range(block.column_count):
        column = &block.columns[i]
        if column.validity != NULL and not (column.validity[row >> 3] >> (row & 7)) & 1:
            history.begin_cell(i, NULL, 0)
        elif column.kind == KIND_FIXED:
            history.begin_cell(i, column.values + row * column.width, column.width)
        else:
            history.begin_cell(i, column.data + column.offsets[row],
                               <uint32_t> (column.offsets[row + 1] - column.offsets[row]))


cdef DeltaFault check_cell(const LayoutInfo* layout, int column, const void* data, size_t size) noexcept nogil:
    if data == NULL:
        return DELTA_FINE if layout.columns[column].nullable else DELTA_NULL_FORBIDDEN
    if layout.columns[column].width and layout.columns[column].width != size:
        return DELTA_WRONG_WIDTH
    return DELTA_FINE


cdef HistoryFault apply_redo(RowHistory history, const Delta* delta, DeltaFault* fault) noexcept nogil:
    cdef Cursor change = cursor_of(delta.change, delta.change_bytes)
    cdef ChangeCell cell
    cdef uint8_t type = 0
    cdef int32_t column
    cdef int more
    cdef HistoryFault found
    fault[0] = change_open(&change, &type)
    if fault[0] != DELTA_FINE:
        return HISTORY_FINE
    if type == CHANGE_DELETE:
        return history.deleted(delta.timestamp)
    found = history.open_reinsert(delta.timestamp) if type == CHANGE_REINSERT else history.open_update(delta.timestamp)
    if found != HISTORY_FINE:
        return found
    while True:
        more = change_next(&change, &cell)
        if more <= 0:
            break
        column = column_of_id(&history.layout.info, cell.column_id)
        if column < 0:
            continue
        fault[0] = check_cell(&history.layout.info, column, cell.data, cell.size)
        if fault[0] != DELTA_FINE:
            return HISTORY_FINE
        if type == CHANGE_REINSERT:     # its UNDO has all old cells already
            history.begin_cell(column, cell.data, cell.size)
        else:
            history.set_cell(column, cell.data, cell.size)
    if more < 0:
        fault[0] = DELTA_BAD_CELL
    elif type != CHANGE_REINSERT:
        history.close()
    return HISTORY_FINE


cdef int emit_row(RowHistory history, BlockBuffers* block, size_t* binary_bytes) noexcept nogil:
    cdef int64_t row = block.row_count
    cdef int32_t i
    cdef ColumnBuffers* column
    for i in range(block.column_count):
        column = &block.columns[i]
        if history.cells[i] == NULL and column.validity != NULL:
            column.validity[row >> 3] &= ~(<uint8_t> (1 << (row & 7)))
            column.null_count += 1
        if column.kind == KIND_FIXED:
            if history.cells[i] != NULL:
                memcpy(column.values + row * column.width, history.cells[i], column.width)
            continue
        if history.cells[i] != NULL:
            if block_append_bytes(column, history.cells[i], history.sizes[i]) < 0:
                return -1
            binary_bytes[0] += history.sizes[i]
        column.offsets[row + 1] = <int32_t> column.data_bytes
    block.row_count = row + 1
    return 0


cdef BlockBuffers* new_rows(const LayoutInfo* layout, int64_t capacity) noexcept nogil:
    cdef BlockBuffers* block = block_new(layout.column_count, capacity)
    cdef const ColumnLayout* info
    cdef int32_t i
    if block == NULL:
        return NULL
    for i in range(layout.column_count):
        info = &layout.columns[i]
        if block_init_column(block, i, KIND_FIXED if info.width else KIND_BINARY, info.width, info.nullable) < 0:
            block_release(block)
            return NULL
    return block
