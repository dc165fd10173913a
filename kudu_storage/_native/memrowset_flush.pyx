"""A MemRowSet on its way to disk: base cells, keys, UNDOs and REDOs of its rows at a snapshot, batch by batch.

F1  Every row was inserted by an operation that is applied in the snapshot: the flush waited for them.
F2  Rows are numbered in key order without gaps; a row that is left out takes no number. FlushScan and MissedChanges
    leave out the same ones: rows inserted and deleted by one operation, and rows that died before the history mark.
F3  What changes after the snapshot is not looked at by FlushScan; MissedChanges hands it over.
May not touch: files. One thread for each object.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kudu_storage._native.arena cimport arena_at
from kudu_storage._native.atomics cimport load_acquire
from kudu_storage._native.base_rows cimport BATCH_BINARY_BYTES, emit_row, new_rows
from kudu_storage._native.column_block cimport (
    KIND_BINARY, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_UPDATE, ByteBuffer, DeltaCells, buffer_append, buffer_free, change_put, change_start,
)
from kudu_storage._native.memrowset cimport (
    LAYOUT_GHOST, VERSION_DELETE, VERSION_REINSERT, MemRowSet, RowCursor, RowHeader, VersionHeader,
    cursor_at_row, stored_cell,
)
from kudu_storage._native.mvcc cimport Snapshot, snapshot_applied
from kudu_storage._native.row_history cimport HISTORY_FINE, HistoryFault, RowHistory
from kudu_storage._native.row_layout cimport ColumnLayout, LayoutInfo, RowLayout, column_of_id

from kudu_storage._native.delta import CELL_SCHEMA
from kudu_storage.errors import InternalError, InvalidArgument

cdef enum Outcome:
    ROW_KEPT = 1
    ROW_LEFT_OUT = 0
    ROW_NO_MEMORY = -1
    ROW_NOT_APPLIED = -2            # F1 does not hold
    ROW_BAD_HISTORY = -3            # an update of a dead row, or the like: a bug
    ROW_MISSED_REINSERT = -4        # a row was reinserted after inserts should have gone to the next MemRowSet

_WHY = {
    ROW_NOT_APPLIED: "a MemRowSet is flushed at a snapshot that lacks one of its inserts",
    ROW_BAD_HISTORY: "a row's versions in a MemRowSet contradict each other",
    ROW_MISSED_REINSERT: "a row was reinserted in a MemRowSet that is being flushed",
}


# -- versions ----------------------------------------------------------------------------------------------------------
cdef int _versions_of(MemRowSet rows, RowHeader* row, ByteBuffer* versions) noexcept nogil:
    """The row's versions as pointers, newest first. 0, or -1: no memory."""
    cdef uint32_t ref = load_acquire(&row.newest)
    cdef VersionHeader* version
    versions.size = 0
    while ref:
        version = <VersionHeader*> arena_at(&rows.arena, ref)
        buffer_append(versions, <const uint8_t*> &version, sizeof(VersionHeader*))
        ref = version.older
    return -1 if versions.failed else 0


cdef inline bint _never_seen(const RowHeader* row, const ByteBuffer* versions) noexcept nogil:
    """The operation that inserted the row left it dead."""
    cdef const VersionHeader* newest
    if versions.size == 0:
        return False
    newest = (<const VersionHeader**> versions.data)[0]
    return newest.kind == VERSION_DELETE and newest.timestamp == row.timestamp


# -- the snapshot ------------------------------------------------------------------------------------------------------
cdef class FlushScan:
    """The rows of `rows` at `snapshot`.

    Args:
        rows: a MemRowSet that takes no more inserts.
        layout: the columns to write: the tablet's.
        snapshot: every insert into `rows` is applied in it.
        history_mark: what happened before this timestamp needs no UNDO.
    """
    cdef readonly MemRowSet rows
    cdef readonly RowLayout layout
    cdef readonly Snapshot snapshot
    cdef RowHistory history
    cdef RowCursor cursor
    cdef ByteBuffer versions
    cdef int32_t* base_columns          # [stored layout][output column] -> its column there, or -1

    def __cinit__(self, MemRowSet rows not None, RowLayout layout not None, Snapshot snapshot not None, *,
                  uint64_t history_mark=0):
        cdef Py_ssize_t stored
        cdef int32_t i
        self.rows = rows
        self.layout = layout
        self.snapshot = snapshot
        self.history = RowHistory(layout, history_mark)
        rows.start_cursor(&self.cursor, None, None)
        for column in layout.schema:
            if rows.column_types.get(column.id, column.type) is not column.type:
                raise InvalidArgument(f"column {column.name!r} (id {column.id}) is no {column.type.name} in the MemRowSet")
        self.base_columns = <int32_t*> calloc((len(rows.layouts) + 1) * (layout.info.column_count + 1), sizeof(int32_t))
        if self.base_columns == NULL:
            raise MemoryError()
        for stored in range(len(rows.layouts)):
            positions = {c.id: n for n, c in enumerate(rows.layouts[stored].schema)}
            for i in range(layout.info.column_count):
                self.base_columns[stored * layout.info.column_count + i] = positions.get(layout.info.columns[i].id, -1)

    def __dealloc__(self):
        free(self.base_columns)
        buffer_free(&self.versions)

    def next(self, DeltaCells undo not None, DeltaCells redo not None, *, uint32_t first_row, Py_ssize_t rows_max=4096):
        """The next rows: (base cells, encoded keys as a block of one BINARY column, how many of them are live), or None.

        Their UNDOs and REDOs are appended to `undo` and `redo`, with row ordinals from `first_row` on.

        Raises:
            InternalError: an insert that is not applied in the snapshot, or a history that contradicts itself.
        """
        cdef BlockBuffers* block
        cdef BlockBuffers* keys
        cdef int status
        cdef int64_t live = 0
        if rows_max < 1:
            raise InvalidArgument("a batch has at least one row")
        block = new_rows(&self.layout.info, rows_max)
        keys = block_new(1, rows_max)
        if block == NULL or keys == NULL:
            block_release(block)
            block_release(keys)
            raise MemoryError()
        with nogil:
            status = _fill(self, block, keys, undo, redo, first_row, &live)
        if status < 0 or block.row_count == 0:
            block_release(block)
            block_release(keys)
            if status == ROW_NO_MEMORY:
                raise MemoryError()
            if status < 0:
                raise InternalError(_WHY[status])
            return None
        rows_block = ColumnBlock.wrap(block, self.layout.schema)
        return rows_block, ColumnBlock.wrap(keys, CELL_SCHEMA), live


cdef int _fill(FlushScan self, BlockBuffers* block, BlockBuffers* keys, DeltaCells undo, DeltaCells redo,
               uint32_t first_row, int64_t* live) noexcept nogil:
    cdef int outcome
    cdef size_t binary_bytes = 0
    if block_init_column(keys, 0, KIND_BINARY, 0, False) < 0:
        return ROW_NO_MEMORY
    while block.row_count < block.row_capacity and binary_bytes < BATCH_BINARY_BYTES and cursor_at_row(&self.cursor):
        outcome = _lead_forward(self, <RowHeader*> arena_at(self.cursor.arena, self.cursor.rows[self.cursor.slot]))
        if outcome < 0:
            return outcome
        if outcome == ROW_KEPT:
            live[0] += not self.history.dead
            if self.history.write(first_row + <uint32_t> block.row_count, undo, redo) < 0 \
                    or _emit_key(&self.cursor, keys) < 0 or emit_row(self.history, block, &binary_bytes) < 0:
                return ROW_NO_MEMORY
        self.cursor.slot += 1
    return 0


cdef int _lead_forward(FlushScan self, RowHeader* row) noexcept nogil:
    """Lead the history to the snapshot: Outcome."""
    cdef size_t i
    cdef const VersionHeader* version
    cdef HistoryFault fault = HISTORY_FINE
    if _versions_of(self.rows, row, &self.versions) < 0:
        return ROW_NO_MEMORY
    if _never_seen(row, &self.versions):
        return ROW_LEFT_OUT
    if row.layout == LAYOUT_GHOST or not snapshot_applied(&self.snapshot.info, row.timestamp):
        return ROW_NOT_APPLIED
    self.history.begin()
    _take_stored(self, row.layout, <const uint8_t*> row + sizeof(RowHeader) + row.key_bytes)
    self.history.inserted(row.timestamp)
    i = self.versions.size // sizeof(VersionHeader*)
    while i and fault == HISTORY_FINE:
        i -= 1
        version = (<const VersionHeader**> self.versions.data)[i]
        if not snapshot_applied(&self.snapshot.info, version.timestamp):
            break
        fault = _take_version(self, version)
    if fault != HISTORY_FINE:
        return ROW_BAD_HISTORY
    return ROW_LEFT_OUT if self.history.is_ancient() else ROW_KEPT


cdef HistoryFault _take_version(FlushScan self, const VersionHeader* version) noexcept nogil:
    cdef const uint8_t* payload = <const uint8_t*> version + sizeof(VersionHeader)
    cdef HistoryFault fault
    if version.kind == VERSION_DELETE:
        return self.history.deleted(version.timestamp)
    if version.kind == VERSION_REINSERT:
        fault = self.history.open_reinsert(version.timestamp)
        if fault == HISTORY_FINE:
            _take_stored(self, version.layout, payload)
        return fault
    fault = self.history.open_update(version.timestamp)
    if fault == HISTORY_FINE:
        _take_update(self, payload, version.payload_bytes)
        self.history.close()
    return fault


cdef void _take_stored(FlushScan self, uint16_t number, const uint8_t* stored) noexcept nogil:
    """All cells from a stored row; columns that it lacks take their read default."""
    cdef const LayoutInfo* base = self.rows.infos[number]
    cdef const int32_t* columns = self.base_columns + <Py_ssize_t> number * self.layout.info.column_count
    cdef const ColumnLayout* info
    cdef const uint8_t* cell
    cdef uint32_t size = 0
    cdef int32_t i
    for i in range(self.layout.info.column_count):
        info = &self.layout.info.columns[i]
        if columns[i] >= 0:
            cell = stored_cell(base, stored, columns[i], &size)
            self.history.begin_cell(i, cell, 0 if cell == NULL else size)
        elif info.has_read_default:
            self.history.begin_cell(i, info.read_default.data, <uint32_t> info.read_default.size)
        else:
            self.history.begin_cell(i, NULL, 0)


cdef void _take_update(FlushScan self, const uint8_t* payload, uint32_t payload_bytes) noexcept nogil:
    cdef const uint8_t* end = payload + payload_bytes
    cdef uint32_t id, stored
    cdef int32_t column
    while payload < end:
        memcpy(&id, payload, 4)
        memcpy(&stored, payload + 4, 4)
        payload += 8
        column = column_of_id(&self.layout.info, id)
        if column >= 0:
            self.history.set_cell(column, payload if stored else NULL, stored - 1 if stored else 0)
        if stored:
            payload += stored - 1


cdef int _emit_key(const RowCursor* cursor, BlockBuffers* keys) noexcept nogil:
    cdef ColumnBuffers* column = &keys.columns[0]
    cdef const RowHeader* row = <const RowHeader*> arena_at(cursor.arena, cursor.rows[cursor.slot])
    cdef uint8_t[8] prefix
    cdef uint32_t i
    cdef int status
    if cursor.key_in_prefix:
        for i in range(cursor.key_fixed_bytes):
            prefix[i] = <uint8_t> (cursor.prefixes[cursor.slot] >> (56 - 8 * i))
        status = block_append_bytes(column, prefix, cursor.key_fixed_bytes)
    else:
        status = block_append_bytes(column, <const uint8_t*> row + sizeof(RowHeader), row.key_bytes)
    if status < 0:
        return -1
    keys.row_count += 1
    column.offsets[keys.row_count] = <int32_t> column.data_bytes
    return 0


# -- what came later ---------------------------------------------------------------------------------------------------
cdef class MissedChanges:
    """Changes of rows of `rows` that `flushed` lacks and `until` has, as REDOs of the rows that a FlushScan gave.

    Args:
        flushed, history_mark: as the FlushScan's. Later changes than those of `until` go to both places already.
    """
    cdef readonly MemRowSet rows
    cdef readonly RowLayout layout
    cdef readonly Snapshot flushed
    cdef readonly Snapshot until
    cdef uint64_t mark
    cdef RowCursor cursor
    cdef ByteBuffer versions
    cdef ByteBuffer change

    def __cinit__(self, MemRowSet rows not None, RowLayout layout not None, Snapshot flushed not None,
                  Snapshot until not None, *, uint64_t history_mark=0):
        self.rows = rows
        self.layout = layout
        self.flushed = flushed
        self.until = until
        self.mark = history_mark
        rows.start_cursor(&self.cursor, None, None)

    def __dealloc__(self):
        buffer_free(&self.versions)
        buffer_free(&self.change)

    def next(self, DeltaCells redo not None, uint32_t row_count):
        """Append the missed changes of the next `row_count` rows, those of one new rowset, numbered from 0.

        Returns the number of rows, less than `row_count` only at the end.
        """
        cdef uint32_t row = 0
        cdef int outcome = 0
        with nogil:
            while row < row_count and cursor_at_row(&self.cursor):
                outcome = _hand_over(self, <RowHeader*> arena_at(self.cursor.arena, self.cursor.rows[self.cursor.slot]),
                                     row, redo)
                if outcome < 0:
                    break
                row += outcome == ROW_KEPT
                self.cursor.slot += 1
        if outcome == ROW_NO_MEMORY:
            raise MemoryError()
        if outcome < 0:
            raise InternalError(_WHY[outcome])
        return row


cdef int _hand_over(MissedChanges self, RowHeader* row, uint32_t ordinal, DeltaCells redo) noexcept nogil:
    cdef const VersionHeader* version
    cdef size_t i
    if _versions_of(self.rows, row, &self.versions) < 0:
        return ROW_NO_MEMORY
    if _never_seen(row, &self.versions) or _died_early(self):
        return ROW_LEFT_OUT
    i = self.versions.size // sizeof(VersionHeader*)
    while i:
        i -= 1
        version = (<const VersionHeader**> self.versions.data)[i]
        if snapshot_applied(&self.flushed.info, version.timestamp) \
                or not snapshot_applied(&self.until.info, version.timestamp):
            continue
        if version.kind == VERSION_REINSERT:
            return ROW_MISSED_REINSERT
        _encode_change(self, version)
        if self.change.failed:
            return ROW_NO_MEMORY
        if self.change.size > 0 and redo.append(ordinal, version.timestamp, self.change.data, self.change.size) < 0:
            return ROW_NO_MEMORY
    return ROW_KEPT


cdef bint _died_early(MissedChanges self) noexcept nogil:
    """At `flushed` the row was dead, and had been since before the mark."""
    cdef const VersionHeader* version
    cdef size_t i
    for i in range(self.versions.size // sizeof(VersionHeader*)):
        version = (<const VersionHeader**> self.versions.data)[i]
        if snapshot_applied(&self.flushed.info, version.timestamp):
            return version.kind == VERSION_DELETE and version.timestamp < self.mark
    return False


cdef void _encode_change(MissedChanges self, const VersionHeader* version) noexcept nogil:
    """The version as a row change list, without columns dropped since; empty when nothing is left of it."""
    cdef const uint8_t* payload = <const uint8_t*> version + sizeof(VersionHeader)
    cdef const uint8_t* end = payload + version.payload_bytes
    cdef uint32_t id, stored
    self.change.size = 0
    change_start(&self.change, CHANGE_DELETE if version.kind == VERSION_DELETE else CHANGE_UPDATE)
    if version.kind == VERSION_DELETE:
        return
    while payload < end:
        memcpy(&id, payload, 4)
        memcpy(&stored, payload + 4, 4)
        payload += 8
        if column_of_id(&self.layout.info, id) >= 0:
            change_put(&self.change, id, payload if stored else NULL, stored - 1 if stored else 0)
        if stored:
            payload += stored - 1
    if self.change.size == 1:
        self.change.size = 0
