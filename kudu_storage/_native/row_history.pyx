"""See row_history.pxd.

H1  Cells of the row and UNDOs written so far always lead back, newest UNDO first, to each state since begin().
H2  A row that is dead keeps the cells it died with.
"""
from libc.stddef cimport size_t
from libc.stdlib cimport calloc, free

from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_REINSERT, CHANGE_UPDATE, buffer_append, buffer_free, change_put, change_start,
)

cdef void _open(RowHistory self, uint64_t timestamp, uint8_t type) noexcept nogil:
    cdef Undo undo
    undo.timestamp = timestamp
    undo.start = self.changes.size
    undo.end = 0
    buffer_append(&self.undos, <const uint8_t*> &undo, sizeof(Undo))
    change_start(&self.changes, type)


cdef void _close(RowHistory self, bint keep_empty) noexcept nogil:
    """Drops an UPDATE of nothing: all its columns were dropped from the schema since; and what is ancient."""
    cdef Undo* undo
    if self.undos.failed or self.changes.failed:
        return
    undo = <Undo*> (self.undos.data + self.undos.size) - 1
    undo.end = self.changes.size
    if undo.timestamp < self.mark or (undo.end - undo.start == 1 and not keep_empty):
        self.changes.size = undo.start
        self.undos.size -= sizeof(Undo)


cdef class RowHistory:

    def __cinit__(self, RowLayout layout not None, uint64_t mark):
        cdef size_t columns = <size_t> layout.info.column_count + 1
        self.layout = layout
        self.mark = mark
        self.cells = <const uint8_t**> calloc(columns, sizeof(uint8_t*))
        self.sizes = <uint32_t*> calloc(columns, sizeof(uint32_t))
        if self.cells == NULL or self.sizes == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.cells)
        free(self.sizes)
        buffer_free(&self.changes)
        buffer_free(&self.undos)

    cdef void begin(self) noexcept nogil:
        self.dead = False
        self.changes.size = 0
        self.undos.size = 0

    cdef void begin_cell(self, int32_t column, const uint8_t* data, uint32_t size) noexcept nogil:
        self.cells[column] = data
        self.sizes[column] = size

    cdef void inserted(self, uint64_t timestamp) noexcept nogil:
        _open(self, timestamp, CHANGE_DELETE)
        _close(self, True)

    cdef HistoryFault open_update(self, uint64_t timestamp) noexcept nogil:
        if self.dead:
            return HISTORY_DEAD_CHANGED
        _open(self, timestamp, CHANGE_UPDATE)
        return HISTORY_FINE

    cdef HistoryFault open_reinsert(self, uint64_t timestamp) noexcept nogil:
        """The old row goes into a REINSERT at the time it died; back there, it was dead until `timestamp`."""
        cdef int32_t i
        if not self.dead:
            return HISTORY_LIVE_REINSERTED
        self.dead = False
        _open(self, self.deleted_at, CHANGE_REINSERT)
        for i in range(self.layout.info.key_count, self.layout.info.column_count):
            change_put(&self.changes, <uint32_t> self.layout.info.columns[i].id, self.cells[i], self.sizes[i])
        _close(self, True)
        _open(self, timestamp, CHANGE_DELETE)
        _close(self, True)
        return HISTORY_FINE

    cdef void set_cell(self, int32_t column, const uint8_t* data, uint32_t size) noexcept nogil:
        """Of an open UPDATE; key columns never change."""
        change_put(&self.changes, <uint32_t> self.layout.info.columns[column].id, self.cells[column],
                   self.sizes[column])
        self.cells[column] = data
        self.sizes[column] = size

    cdef void close(self) noexcept nogil:
        _close(self, False)

    cdef HistoryFault deleted(self, uint64_t timestamp) noexcept nogil:
        if self.dead:
            return HISTORY_DEAD_CHANGED
        self.dead = True
        self.deleted_at = timestamp
        return HISTORY_FINE

    cdef bint is_ancient(self) noexcept nogil:
        return self.dead and self.deleted_at < self.mark

    cdef int write(self, uint32_t row, DeltaCells undo, DeltaCells redo) noexcept nogil:
        cdef const Undo* undos = <const Undo*> self.undos.data
        cdef size_t i = self.undos.size // sizeof(Undo)
        cdef uint8_t delete = CHANGE_DELETE
        if self.changes.failed or self.undos.failed:
            return -1
        while i:
            i -= 1
            if undo.append(row, undos[i].timestamp, self.changes.data + undos[i].start,
                           undos[i].end - undos[i].start) < 0:
                return -1
        if self.dead:
            return redo.append(row, self.deleted_at, &delete, 1)
        return 0
