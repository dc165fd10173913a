"""See memrow_writer.pxd. One thread at a time for each MemRowSet."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t

from kudu_storage._native.cursor cimport Cursor, Slice, cursor_of
from kudu_storage._native.memrowset cimport STATE_ABSENT, STATE_LIVE, Position
from kudu_storage._native.row_layout cimport Projection
from kudu_storage._native.row_ops cimport (
    CELL_UNSET, DECODE_END, DECODE_OK, ROW_DELETE, ROW_DELETE_IGNORE, ROW_IMMUTABLE_SET, ROW_INSERT, ROW_INSERT_IGNORE,
    ROW_UPDATE, ROW_UPDATE_IGNORE, ROW_UPSERT, ROW_UPSERT_IGNORE, ROW_VALID, DecodeStatus, decode_row,
)

from kudu_storage.errors import BadFormat, InternalError

EFFECTS = {
    EFFECT_INSERTED: "inserted", EFFECT_REINSERTED: "reinserted", EFFECT_UPDATED: "updated", EFFECT_DELETED: "deleted",
    EFFECT_NOTHING: "nothing", EFFECT_IGNORED: "ignored", EFFECT_ALREADY_PRESENT: "already_present",
    EFFECT_NOT_FOUND: "not_found", EFFECT_INVALID: "invalid", EFFECT_IMMUTABLE: "immutable",
}


cdef inline bint _changes_something(const DecodedRow* row, const LayoutInfo* layout) noexcept nogil:
    cdef int32_t i
    for i in range(layout.key_count, layout.column_count):
        if row.states[i] != CELL_UNSET and not layout.columns[i].immutable:
            return True
    return False


cdef RowEffect judge_effect(const DecodedRow* row, bint live) noexcept nogil:
    if row.fault != ROW_VALID:
        return EFFECT_INVALID
    if row.op == ROW_INSERT or row.op == ROW_INSERT_IGNORE:
        if live:
            return EFFECT_IGNORED if row.op == ROW_INSERT_IGNORE else EFFECT_ALREADY_PRESENT
        return EFFECT_INSERTED
    if row.op == ROW_UPSERT or row.op == ROW_UPSERT_IGNORE:
        if not live:
            return EFFECT_INSERTED
        if row.immutable_set and row.op == ROW_UPSERT:
            return EFFECT_IMMUTABLE
        return EFFECT_UPDATED
    if not live:
        return EFFECT_IGNORED if row.op == ROW_UPDATE_IGNORE or row.op == ROW_DELETE_IGNORE else EFFECT_NOT_FOUND
    if row.op == ROW_DELETE or row.op == ROW_DELETE_IGNORE:
        return EFFECT_DELETED
    if row.immutable_set and row.op == ROW_UPDATE:
        return EFFECT_IMMUTABLE
    return EFFECT_UPDATED


cdef RowEffect apply_to_memrowset(MemRowSet rows, const LayoutInfo* layout, const DecodedRow* row,
                                  uint64_t timestamp) noexcept nogil:
    cdef Position position
    cdef RowEffect effect
    cdef int status = 0
    cdef bint live, known
    if row.fault != ROW_VALID:
        return EFFECT_INVALID
    rows.find(row, &position)
    live = rows.state_at(&position) == STATE_LIVE
    known = rows.state_at(&position) != STATE_ABSENT
    effect = judge_effect(row, live)
    if effect == EFFECT_INSERTED:
        if known:
            effect = EFFECT_REINSERTED
            status = rows.reinsert(&position, row, timestamp)
        else:
            status = rows.insert(&position, row, timestamp)
    elif effect == EFFECT_UPDATED:
        if not _changes_something(row, layout):
            return EFFECT_NOTHING if row.op == ROW_UPSERT else EFFECT_IGNORED
        status = rows.update(&position, row, timestamp)
    elif effect == EFFECT_DELETED:
        status = rows.remove(&position, timestamp)
    return effect if status == 0 else EFFECT_NO_MEMORY


cdef class MemRowWriter:
    """Applies writes to `rows` and to nothing else.

    Args:
        rows: a MemRowSet whose newest layout is that of `projection`.
        projection: from the client's columns to the layout.
    """
    cdef readonly MemRowSet rows
    cdef readonly Projection projection
    cdef RowScratch scratch
    cdef int64_t counter

    def __cinit__(self, MemRowSet rows not None, Projection projection not None):
        if rows.current != &projection.layout.info:
            raise InternalError("a write's columns are mapped to another layout than the MemRowSet's")
        self.rows = rows
        self.projection = projection
        self.scratch = RowScratch()
        self.scratch.reserve(max(projection.layout.info.column_count, 1))

    def apply(self, bytes operations not None, bytes indirect not None, uint64_t timestamp, *, log_index=None):
        """Apply the rows and indirect_data of one write. One byte a row operation: its effect, a key of EFFECTS.

        Rows before a malformed one are applied.

        Raises:
            BadFormat: bytes that are no row operations.
        """
        cdef Cursor cursor = cursor_of(operations, <size_t> len(operations))
        cdef Slice bytes_of_cells
        cdef DecodeStatus status = DECODE_OK
        cdef RowEffect effect = EFFECT_NOTHING
        cdef DecodedRow* row = &self.scratch.row
        cdef bytearray effects = bytearray()
        if self.rows.frozen or self.rows.current != &self.projection.layout.info:
            raise InternalError("a write to a MemRowSet that takes none of that layout")
        bytes_of_cells.data = indirect
        bytes_of_cells.size = <size_t> len(indirect)
        row.indirect_bytes = 0
        if log_index is not None:
            self.rows.note_log_index(log_index)
        while True:
            status = decode_row(&cursor, bytes_of_cells, &self.projection.info, &self.projection.layout.info, row,
                                &self.counter)
            if status != DECODE_OK:
                break
            effect = apply_to_memrowset(self.rows, &self.projection.layout.info, row, timestamp)
            if effect == EFFECT_NO_MEMORY:
                raise MemoryError()
            effects.append(<uint8_t> effect)
        if status != DECODE_END:
            raise BadFormat(f"row operation {len(effects)} of a write is malformed")
        return bytes(effects)
