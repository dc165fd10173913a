"""One row of a MemRowSet by its key, at a snapshot: what RowScan does for one key, without a scan's cost.

 L1  Beside the writer, as a scan (M5 of memrowset): the tree is only read through a cursor, rows and versions never change.
 L2  Newest version first; for each cell the first that is applied and sets it wins (_resolve in memrowset.pyx says the same).
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.arena cimport arena_at
from kudu_storage._native.atomics cimport load_acquire
from kudu_storage._native.column_block cimport KIND_BINARY, KIND_FIXED, ColumnBuffers, value_at
from kudu_storage._native.memrowset cimport (
    LAYOUT_GHOST, VERSION_DELETE, VERSION_REINSERT, MemRowSet, RowCursor, RowHeader, VersionHeader, cursor_at_row, stored_cell,
)
from kudu_storage._native.mvcc cimport Snapshot, SnapshotInfo, snapshot_applied
from kudu_storage._native.row_layout cimport ColumnLayout, LayoutInfo, RowLayout, column_of_id
from kudu_storage._native.row_ops cimport CELL_NULL, CELL_SET, CELL_UNSET

cdef struct FoundCell:
    const uint8_t* data
    uint32_t size
    uint32_t state              # CELL_*


cdef class RowLookup:
    cdef RowLayout layout
    cdef list described
    cdef list kinds

    def __cinit__(self, RowLayout layout not None):
        self.layout = layout
        self.described = list(layout.schema)
        self.kinds = [c.type.name for c in self.described]

    def get(self, MemRowSet rows not None, Snapshot snapshot not None, bytes key not None):
        cdef RowCursor cursor
        cdef FoundCell* cells
        rows.start_cursor(&cursor, key, None)
        if not cursor_at_row(&cursor) or not has_key(&cursor, key, <size_t> len(key)):
            return None
        # Its own for each call: making values may run other Python code.
        cells = <FoundCell*> malloc((<size_t> self.layout.info.column_count + 1) * sizeof(FoundCell))
        if cells == NULL:
            raise MemoryError()
        try:
            if not resolve(rows, &self.layout.info, &snapshot.info,
                           <RowHeader*> arena_at(&rows.arena, cursor.rows[cursor.slot]), cells):
                return None
            return self._values(cells)
        finally:
            free(cells)

    cdef list _values(self, const FoundCell* cells):
        cdef int32_t i
        cdef ColumnBuffers column
        cdef int32_t[2] offsets
        cdef list values = [None] * self.layout.info.column_count
        memset(&column, 0, sizeof(ColumnBuffers))
        for i in range(self.layout.info.column_count):
            if cells[i].state != CELL_SET:
                continue
            column.width = self.layout.info.columns[i].width
            if column.width:
                column.kind = KIND_FIXED
                column.values = <uint8_t*> cells[i].data
            else:
                column.kind = KIND_BINARY
                offsets[0], offsets[1] = 0, <int32_t> cells[i].size
                column.offsets = offsets
                column.data = <uint8_t*> cells[i].data
                column.data_bytes = cells[i].size
            values[i] = value_at(&column, 0, self.kinds[i], self.described[i])
        return values


cdef bint has_key(const RowCursor* cursor, const uint8_t* key, size_t size) noexcept nogil:
    """The row in hand, the first at or above the key, is that of the key."""
    cdef const RowHeader* row
    cdef uint64_t prefix = 0
    cdef size_t i
    if cursor.key_in_prefix:
        for i in range(8):
            prefix = (prefix << 8) | (key[i] if i < size else 0)
        return size == cursor.key_fixed_bytes and prefix == cursor.prefixes[cursor.slot]
    row = <const RowHeader*> arena_at(cursor.arena, cursor.rows[cursor.slot])
    return row.key_bytes == size and memcmp(<const uint8_t*> row + sizeof(RowHeader), key, size) == 0


cdef bint resolve(MemRowSet rows, const LayoutInfo* layout, const SnapshotInfo* snapshot, RowHeader* row,
                  FoundCell* cells) noexcept nogil:
    """The row's cells at the snapshot; False: it is not visible there."""
    cdef uint32_t ref = load_acquire(&row.newest)
    cdef const VersionHeader* version
    memset(cells, 0, <size_t> layout.column_count * sizeof(FoundCell))         # CELL_UNSET
    while ref:
        version = <const VersionHeader*> arena_at(&rows.arena, ref)
        ref = version.older
        if not snapshot_applied(snapshot, version.timestamp):
            continue
        if version.kind == VERSION_DELETE:
            return False
        if version.kind == VERSION_REINSERT:
            take_base(layout, rows.infos[version.layout], <const uint8_t*> version + sizeof(VersionHeader), cells)
            return True
        take_update(layout, <const uint8_t*> version + sizeof(VersionHeader), version.payload_bytes, cells)
    if row.layout == LAYOUT_GHOST or not snapshot_applied(snapshot, row.timestamp):
        return False
    take_base(layout, rows.infos[row.layout], <const uint8_t*> row + sizeof(RowHeader) + row.key_bytes, cells)
    return True


cdef void take_update(const LayoutInfo* layout, const uint8_t* payload, uint32_t size, FoundCell* cells) noexcept nogil:
    cdef const uint8_t* end = payload + size
    cdef uint32_t id, stored
    cdef int32_t column
    while payload < end:
        memcpy(&id, payload, 4)
        memcpy(&stored, payload + 4, 4)
        payload += 8
        column = column_of_id(layout, id)
        if column >= 0 and cells[column].state == CELL_UNSET:
            cells[column].state = CELL_SET if stored else CELL_NULL
            cells[column].data = payload
            cells[column].size = stored - 1 if stored else 0
        if stored:
            payload += stored - 1


cdef void take_base(const LayoutInfo* layout, const LayoutInfo* base, const uint8_t* stored, FoundCell* cells) noexcept nogil:
    """Fill what no update has set; columns that the stored row lacks take their read default."""
    cdef int32_t i, column
    cdef const ColumnLayout* info
    for i in range(layout.column_count):
        if cells[i].state != CELL_UNSET:
            continue
        info = &layout.columns[i]
        column = i if base == layout else column_of_id(base, <uint32_t> info.id)
        if column >= 0:
            cells[i].data = stored_cell(base, stored, column, &cells[i].size)
        elif info.has_read_default:
            cells[i].data = info.read_default.data
            cells[i].size = <uint32_t> info.read_default.size
        cells[i].state = CELL_NULL if cells[i].data == NULL else CELL_SET
