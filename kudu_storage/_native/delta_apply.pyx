"""See delta_apply.pxd.

Knows deltas, snapshots and columns; nothing of files. Invariants, in docs/tablet.md: V1 to V6. Besides:
 L1  updates[c] holds at most one entry a row, rows ascending, rows of the batch only.
 L2  A batch of deltas that does not fit the layout raises and leaves the applier without a batch.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.cfile_block cimport column_reserve
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, ColumnBlock, block_append_bytes, block_init_column, block_new, block_release,
)
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_REINSERT, CHANGE_UPDATE, DELTA_BAD_CELL, DELTA_FINE, DELTA_NULL_FORBIDDEN, DELTA_WRONG_WIDTH,
    ChangeCell, Delta, DeltaRun, buffer_append, buffer_free, buffer_room, change_next, change_open, raise_delta_fault,
)
from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.mvcc cimport (
    SnapshotInfo, snapshot_applied, snapshot_may_apply_from, snapshot_may_lack_up_to,
)
from kudu_storage._native.row_layout cimport ColumnLayout, LayoutInfo, bit_is_set, column_of_id

from kudu_storage._native.row_layout import with_deleted_column
from kudu_storage.errors import InternalError, InvalidArgument

cdef enum:
    BATCH_ROWS_MAX = 1 << 24

# Consecutive deltas of one store that name rows of the batch.
cdef struct Slice:
    const Delta* deltas
    size_t count
    uint8_t redo

cdef struct Entry:
    const Delta* delta
    uint8_t redo

# A delta as a diff scan orders them: by timestamp, UNDO before REDO, then logical order. Source: tablet/delta_store.h.
cdef struct Mark:
    uint64_t timestamp
    int64_t order
    uint8_t redo
    uint8_t type

cdef struct MarkPair:
    Mark oldest
    Mark newest
    uint8_t count               # 0, 1, or 2 for more


# -- which deltas count ------------------------------------------------------------------------------------------------
cdef inline bint _relevant(const SnapshotInfo* snapshot, const Delta* delta, uint8_t redo) noexcept nogil:
    return snapshot_applied(snapshot, delta.timestamp) == redo


cdef void _count(DeltaApplier self) noexcept nogil:
    """counts[r + 1]: relevant deltas of row r."""
    cdef const Slice* slices = <const Slice*> self.slices.data
    cdef size_t s, i
    cdef const Slice* part
    memset(self.counts, 0, (<size_t> self.row_count + 2) * sizeof(uint32_t))
    for s in range(self.slices.size // sizeof(Slice)):
        part = &slices[s]
        for i in range(part.count):
            if _relevant(&self.snapshot.info, &part.deltas[i], part.redo):
                self.counts[part.deltas[i].row - self.first_row + 1] += 1


cdef int _gather(DeltaApplier self) noexcept nogil:
    """Bring relevant deltas together by row, each row's in the order of stores and files. Then counts[r] .. counts[r + 1]."""
    cdef const Slice* slices = <const Slice*> self.slices.data
    cdef size_t s, i, place
    cdef int64_t row
    cdef const Slice* part
    cdef Entry* entries
    for row in range(self.row_count):
        self.counts[row + 1] += self.counts[row]
    self.entries.size = 0
    entries = <Entry*> buffer_room(&self.entries, (<size_t> self.counts[self.row_count] + 1) * sizeof(Entry))
    if entries == NULL:
        return -1
    for s in range(self.slices.size // sizeof(Slice)):
        part = &slices[s]
        for i in range(part.count):
            if not _relevant(&self.snapshot.info, &part.deltas[i], part.redo):
                continue
            row = part.deltas[i].row - self.first_row
            place = self.counts[row]
            self.counts[row] += 1
            entries[place].delta = &part.deltas[i]
            entries[place].redo = part.redo
    row = self.row_count            # counts[r] is now where row r ends: shift back to where it starts
    while row > 0:
        self.counts[row] = self.counts[row - 1]
        row -= 1
    self.counts[0] = 0
    return 0


cdef inline bint _comes_before(const Entry* one, const Entry* other) noexcept nogil:
    """UNDO by descending, REDO by ascending timestamp; equal ones stay as they are."""
    if one.redo != other.redo:
        return other.redo
    if one.redo:
        return one.delta.timestamp < other.delta.timestamp
    return one.delta.timestamp > other.delta.timestamp


cdef void _order(Entry* entries, size_t count) noexcept nogil:
    """Stable; one row's deltas of one store are in order already, so this is a merge of few runs."""
    cdef size_t i, at
    cdef Entry moved
    for i in range(1, count):
        at = i
        moved = entries[i]
        while at and _comes_before(&moved, &entries[at - 1]):
            entries[at] = entries[at - 1]
            at -= 1
        entries[at] = moved


# -- what they do ------------------------------------------------------------------------------------------------------
cdef DeltaFault _note_cell(DeltaApplier self, int32_t column, uint32_t row, const ChangeCell* cell) noexcept nogil:
    cdef ByteBuffer* updates = &self.updates[column]
    cdef const ColumnLayout* info = &self.layout.info.columns[column]
    cdef CellUpdate* last
    cdef CellUpdate update
    if cell.data == NULL:
        if not info.nullable:
            return DELTA_NULL_FORBIDDEN
    elif info.width and cell.size != info.width:
        return DELTA_WRONG_WIDTH
    update.row = row
    update.size = cell.size
    update.data = cell.data
    if updates.size:
        last = <CellUpdate*> (updates.data + updates.size) - 1
        if last.row == row:
            last[0] = update
            return DELTA_FINE
    buffer_append(updates, <const uint8_t*> &update, sizeof(CellUpdate))
    return DELTA_FINE


cdef DeltaFault _apply_delta(DeltaApplier self, uint32_t row, const Delta* delta) noexcept nogil:
    cdef Cursor change = cursor_of(delta.change, delta.change_bytes)
    cdef uint8_t type = 0
    cdef ChangeCell cell
    cdef int32_t column
    cdef int more
    cdef DeltaFault fault = change_open(&change, &type)
    if fault != DELTA_FINE:
        return fault
    if type != CHANGE_UPDATE:
        self.live[row] = type == CHANGE_REINSERT
    while True:
        more = change_next(&change, &cell)
        if more <= 0:
            return DELTA_FINE if more == 0 else DELTA_BAD_CELL
        column = column_of_id(&self.layout.info, cell.column_id)
        if column >= 0:
            fault = _note_cell(self, column, row, &cell)
            if fault != DELTA_FINE:
                return fault


cdef int _apply_all(DeltaApplier self) noexcept nogil:
    """0; -1: no memory; -2: `problem`."""
    cdef Entry* entries = <Entry*> self.entries.data
    cdef int64_t row
    cdef size_t i
    cdef int32_t column
    for row in range(self.row_count):
        if self.counts[row] == self.counts[row + 1]:
            continue
        _order(entries + self.counts[row], self.counts[row + 1] - self.counts[row])
        for i in range(self.counts[row], self.counts[row + 1]):
            self.problem.fault = _apply_delta(self, <uint32_t> row, entries[i].delta)
            if self.problem.fault != DELTA_FINE:
                self.problem.row = entries[i].delta.row
                self.problem.timestamp = entries[i].delta.timestamp
                return -2
    for column in range(self.layout.info.column_count):
        if self.updates[column].failed:
            return -1
    return 0


# -- diff scans --------------------------------------------------------------------------------------------------------
cdef inline bint _older(const Mark* one, const Mark* other) noexcept nogil:
    if one.timestamp != other.timestamp:
        return one.timestamp < other.timestamp
    if one.redo != other.redo:
        return not one.redo
    return one.order < other.order


cdef int _mark_all(DeltaApplier self) noexcept nogil:
    """For each row its oldest and newest delta that is applied in `snapshot` and not in `since`."""
    cdef const Slice* slices = <const Slice*> self.slices.data
    cdef size_t s, i
    cdef const Slice* part
    cdef const Delta* delta
    cdef MarkPair* pairs
    cdef MarkPair* pair
    cdef Mark mark
    cdef int64_t seen = 0
    self.marks.size = 0
    pairs = <MarkPair*> buffer_room(&self.marks, <size_t> self.row_count * sizeof(MarkPair) + 1)
    if pairs == NULL:
        return -1
    memset(pairs, 0, <size_t> self.row_count * sizeof(MarkPair))
    for s in range(self.slices.size // sizeof(Slice)):
        part = &slices[s]
        for i in range(part.count):
            delta = &part.deltas[i]
            if snapshot_applied(&self.since.info, delta.timestamp) \
                    or not snapshot_applied(&self.snapshot.info, delta.timestamp):
                continue
            seen += 1
            mark.timestamp = delta.timestamp
            mark.redo = part.redo
            mark.order = seen if part.redo else -seen       # UNDO files have the later change first
            mark.type = delta.change[0]
            pair = &pairs[delta.row - self.first_row]
            if pair.count == 0 or _older(&mark, &pair.oldest):
                pair.oldest = mark
            if pair.count == 0 or _older(&pair.newest, &mark):
                pair.newest = mark
            pair.count = 1 if pair.count == 0 else 2
    return 0


cdef inline bint _selected(const MarkPair* pair) noexcept nogil:
    cdef bint dead_before, dead_after
    if pair.count < 2:
        return pair.count == 1
    dead_before = pair.oldest.type == (CHANGE_REINSERT if pair.oldest.redo else CHANGE_DELETE)
    dead_after = pair.newest.type == (CHANGE_DELETE if pair.newest.redo else CHANGE_REINSERT)
    return not (dead_before and dead_after)


cdef void _select(DeltaApplier self, bint with_deleted) noexcept nogil:
    cdef const MarkPair* pairs = <const MarkPair*> self.marks.data
    cdef int64_t row
    self.shown_count = 0
    for row in range(self.row_count):
        self.shown[row] = self.live[row] or with_deleted
        if self.since is not None and not _selected(&pairs[row]):
            self.shown[row] = 0
        self.shown_count += self.shown[row]


# -- patching ----------------------------------------------------------------------------------------------------------
cdef inline int64_t _run_end(const uint8_t* shown, int64_t row, int64_t limit) noexcept nogil:
    """The end of the run of shown rows that starts at `row`."""
    while row < limit and shown[row]:
        row += 1
    return row


cdef void _copy_validity(const ColumnBuffers* base, int64_t first, int64_t end, ColumnBuffers* out,
                         int64_t at) noexcept nogil:
    """`out` has all bits set so far."""
    cdef int64_t row
    if base.validity == NULL or base.null_count == 0 or out.validity == NULL:
        return
    for row in range(first, end):
        if not bit_is_set(base.validity, <size_t> row):
            out.validity[(at + row - first) >> 3] &= ~(<uint8_t> (1 << ((at + row - first) & 7)))
            out.null_count += 1


cdef int _copy_run(const ColumnBuffers* base, int64_t first, int64_t end, ColumnBuffers* out, int64_t at) noexcept nogil:
    """Rows [first, end) of `base` to `at` in `out`."""
    cdef int64_t row
    cdef int32_t shift
    _copy_validity(base, first, end, out, at)
    if base.kind == KIND_FIXED:
        memcpy(out.values + at * out.width, base.values + first * base.width, <size_t> (end - first) * base.width)
        return 0
    shift = <int32_t> out.data_bytes - base.offsets[first]
    if block_append_bytes(out, base.data + base.offsets[first], <size_t> (base.offsets[end] - base.offsets[first])) < 0:
        return -1
    for row in range(first, end):
        out.offsets[at + row - first + 1] = base.offsets[row + 1] + shift
    return 0


cdef int _put_cell(ColumnBuffers* out, int64_t at, const CellUpdate* update) noexcept nogil:
    if update.data == NULL:
        out.validity[at >> 3] &= ~(<uint8_t> (1 << (at & 7)))
        out.null_count += 1
    if out.kind == KIND_FIXED:
        if update.data != NULL:
            memcpy(out.values + at * out.width, update.data, out.width)
        return 0
    if update.data != NULL and block_append_bytes(out, update.data, update.size) < 0:
        return -1
    out.offsets[at + 1] = <int32_t> out.data_bytes
    return 0


cdef inline void _pack_width(const uint8_t* cells, const uint8_t* shown, int64_t count, uint8_t* out,
                             size_t width) noexcept nogil:
    """To be inlined with a constant width. Without branches; a cell not shown is overwritten by the next one: `out` has a
    place more than there are rows shown."""
    cdef int64_t row
    for row in range(count):
        memcpy(out, cells + row * width, width)
        out += width * shown[row]


cdef void _pack_fixed(const ColumnBuffers* base, const uint8_t* shown, int64_t count, ColumnBuffers* out) noexcept nogil:
    if base.width == 8:
        _pack_width(base.values, shown, count, out.values, 8)
    elif base.width == 4:
        _pack_width(base.values, shown, count, out.values, 4)
    elif base.width == 2:
        _pack_width(base.values, shown, count, out.values, 2)
    elif base.width == 1:
        _pack_width(base.values, shown, count, out.values, 1)
    else:
        _pack_width(base.values, shown, count, out.values, 16)


cdef int _pack_strings(const ColumnBuffers* base, const uint8_t* shown, int64_t count, ColumnBuffers* out) noexcept nogil:
    cdef int64_t row, at = 0
    cdef size_t bytes = 0, size
    for row in range(count):
        bytes += <size_t> (base.offsets[row + 1] - base.offsets[row]) * shown[row]
    if column_reserve(out, bytes):
        return -1
    for row in range(count):
        if shown[row]:
            size = <size_t> (base.offsets[row + 1] - base.offsets[row])
            memcpy(out.data + out.data_bytes, base.data + base.offsets[row], size)
            out.data_bytes += size
            at += 1
            out.offsets[at] = <int32_t> out.data_bytes
    return 0


cdef int _pack(const ColumnBuffers* base, const uint8_t* shown, int64_t count, ColumnBuffers* out) noexcept nogil:
    """The shown rows of a column that no delta changes."""
    cdef int64_t row, at = 0
    if base.validity != NULL and base.null_count and out.validity != NULL:
        for row in range(count):
            if not shown[row]:
                continue
            if not bit_is_set(base.validity, <size_t> row):
                out.validity[at >> 3] &= ~(<uint8_t> (1 << (at & 7)))
                out.null_count += 1
            at += 1
    if base.kind == KIND_FIXED:
        _pack_fixed(base, shown, count, out)
        return 0
    return _pack_strings(base, shown, count, out)


cdef int _write_deleted(DeltaApplier self, BlockBuffers* out, int32_t target) noexcept nogil:
    cdef int64_t row, at = 0
    if block_init_column(out, target, KIND_FIXED, 1, False) < 0:
        return -1
    for row in range(self.row_count):
        if self.shown[row]:
            out.columns[target].values[at] = not self.live[row]
            at += 1
    return 0


# -- the object --------------------------------------------------------------------------------------------------------
cdef int _work(DeltaApplier self, bint with_deleted) noexcept nogil:
    cdef int32_t column
    cdef int status = 0
    memset(self.live, 1, <size_t> self.row_count)
    for column in range(self.layout.info.column_count):
        self.updates[column].size = 0
    if self.slices.size == 0 and self.since is None:        # rows without deltas cost next to nothing
        memset(self.shown, 1, <size_t> self.row_count)
        self.shown_count = self.row_count
        return 0
    if self.slices.size:
        _count(self)
        status = _gather(self)
        if status == 0:
            status = _apply_all(self)
    if status == 0 and self.since is not None:
        status = _mark_all(self)
    if status == 0:
        _select(self, with_deleted)
    return status


cdef int _reserve(DeltaApplier self, int64_t row_count) except -1:
    if row_count <= self.row_capacity and self.flags != NULL:
        return 0
    free(self.flags)
    free(self.counts)
    self.row_capacity = 0
    self.flags = <uint8_t*> calloc(<size_t> row_count + 1, 2)
    self.counts = <uint32_t*> calloc(<size_t> row_count + 2, sizeof(uint32_t))
    if self.flags == NULL or self.counts == NULL:
        raise MemoryError()
    self.live = self.flags
    self.shown = self.flags + row_count
    self.row_capacity = row_count
    return 0


cdef int _add_run(DeltaApplier self, DeltaRun run, int64_t row_count, bint undo) except -1:
    cdef Slice part
    cdef Py_ssize_t first
    if run.undo != undo:
        raise InternalError("UNDO and REDO deltas were mixed up")
    if self.since is None and run.count and not (
            snapshot_may_lack_up_to(&self.snapshot.info, run.stats.highest) if undo
            else snapshot_may_apply_from(&self.snapshot.info, run.stats.lowest)):
        return 0
    first = run.first_at(<uint64_t> self.first_row)
    part.deltas = run.deltas + first
    part.count = <size_t> (run.first_at(<uint64_t> (self.first_row + row_count)) - first)
    part.redo = not undo
    if part.count:
        buffer_append(&self.slices, <const uint8_t*> &part, sizeof(Slice))
    return 0


cdef int _add_memory(DeltaApplier self, DeltaMemStore memory, int64_t row_count) except -1:
    cdef Slice part
    cdef int status
    self.memory_deltas.size = 0
    with nogil:
        status = memory.collect(<uint64_t> self.first_row, <uint64_t> (self.first_row + row_count), &self.memory_deltas)
    if status < 0:
        raise MemoryError()
    part.deltas = <const Delta*> self.memory_deltas.data
    part.count = self.memory_deltas.size // sizeof(Delta)
    part.redo = 1
    if part.count:
        buffer_append(&self.slices, <const uint8_t*> &part, sizeof(Slice))
    return 0


cdef int _check_base(DeltaApplier self, ColumnBlock base) except -1:
    cdef int32_t i
    cdef const BlockBuffers* buffers = base.buffers
    if buffers.row_count != self.row_count or buffers.column_count != self.layout.info.column_count:
        raise InvalidArgument(f"base cells of {buffers.row_count} rows and {buffers.column_count} columns for a batch of "
                              f"{self.row_count} rows and {self.layout.info.column_count} columns")
    for i in range(buffers.column_count):
        if buffers.columns[i].width != self.layout.info.columns[i].width:
            raise InvalidArgument(f"base column {i} is not of the type of {self.layout.schema.columns[i].name!r}")
    return 0


cdef class DeltaApplier:
    """Args:
        layout: the columns wanted, in the order of the base columns.
        snapshot: what is seen.
        since: for a diff scan: rows are shown only if something was applied to them that this snapshot lacks.
        deleted_column: for a diff scan: show rows deleted since, too, and say so in a BOOL column of that name.
    """
    def __cinit__(self, RowLayout layout not None, Snapshot snapshot not None, *, Snapshot since=None,
                  deleted_column=None):
        if deleted_column is not None and since is None:
            raise InvalidArgument("only a diff scan shows deleted rows")
        self.layout = layout
        self.snapshot = snapshot
        self.since = since
        self.deleted_column = deleted_column
        self.out_schema = layout.schema if deleted_column is None else with_deleted_column(layout.schema, deleted_column)
        self.keeps = []
        self.updates = <ByteBuffer*> calloc(<size_t> layout.info.column_count + 1, sizeof(ByteBuffer))
        if self.updates == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int32_t i
        if self.updates != NULL:
            for i in range(self.layout.info.column_count):
                buffer_free(&self.updates[i])
        free(self.updates)
        free(self.flags)
        free(self.counts)
        buffer_free(&self.entries)
        buffer_free(&self.slices)
        buffer_free(&self.memory_deltas)
        buffer_free(&self.marks)

    @property
    def schema(self):
        """Of the blocks that apply() returns."""
        return self.out_schema

    def prepare(self, int64_t first_row, int64_t row_count, list undos not None, list redos not None,
                DeltaMemStore memory=None):
        """Take up rows [first_row, first_row + row_count).

        Args:
            undos: DeltaRuns of the UNDO files.
            redos: DeltaRuns of the REDO files, oldest file first.
            memory: the rowset's DeltaMemStore.
        Raises:
            BadFormat: a delta that does not fit its column.
        """
        cdef int status
        cdef bint with_deleted = self.deleted_column is not None
        if first_row < 0 or not 0 <= row_count <= BATCH_ROWS_MAX:
            raise InvalidArgument(f"a batch of {row_count} rows from {first_row} on")
        _reserve(self, row_count)
        self.first_row = first_row
        self.row_count = 0
        self.shown_count = 0
        self.keeps = [undos[:], redos[:], memory]
        self.slices.size = 0
        for run in undos:
            _add_run(self, run, row_count, True)
        for run in redos:
            _add_run(self, run, row_count, False)
        if memory is not None:
            _add_memory(self, memory, row_count)
        if self.slices.failed:
            raise MemoryError()
        self.row_count = row_count
        if self.slices.size or self.since is not None:
            with nogil:
                status = _work(self, with_deleted)
        else:
            status = _work(self, with_deleted)
        if status < 0:
            self.row_count = 0
            if status == -2:
                raise_delta_fault(self.problem.fault, f"delta of row {self.problem.row} at {self.problem.timestamp}")
            raise MemoryError()

    cdef int patch(self, int32_t column, const ColumnBuffers* base, BlockBuffers* out, int32_t target) noexcept nogil:
        cdef const CellUpdate* update = <const CellUpdate*> self.updates[column].data
        cdef const CellUpdate* end
        cdef ColumnBuffers* to
        cdef int64_t row = 0, at = 0, stop
        if block_init_column(out, target, base.kind, base.width,
                             self.layout.info.columns[column].nullable or base.validity != NULL) < 0:
            return -1
        to = &out.columns[target]
        if self.updates[column].size == 0 and self.shown_count < self.row_count:
            return _pack(base, self.shown, self.row_count, to)
        end = update + self.updates[column].size // sizeof(CellUpdate) if update != NULL else NULL
        while row < self.row_count:
            while update != end and <int64_t> update.row < row:
                update += 1                                 # of a row that is not shown
            stop = self.row_count if update == end else <int64_t> update.row
            if not self.shown[row]:
                row += 1
                continue
            if row == stop:
                if _put_cell(to, at, update) < 0:
                    return -1
                row += 1
                at += 1
                continue
            stop = stop if self.shown_count == self.row_count else _run_end(self.shown, row, stop)
            if _copy_run(base, row, stop, to, at) < 0:
                return -1
            at += stop - row
            row = stop
        return 0

    def apply(self, ColumnBlock base not None):
        """The rows of the batch that are shown, patched. `base`: the base cells of the batch's rows.

        Returns `base` itself when nothing changes.
        """
        cdef BlockBuffers* out
        cdef int status
        cdef int32_t i, columns = self.layout.info.column_count
        _check_base(self, base)
        if self.deleted_column is None and self.shown_count == self.row_count and not self.updated_columns:
            return base
        out = block_new(columns + (self.deleted_column is not None), self.shown_count)
        if out == NULL:
            raise MemoryError()
        with nogil:
            status = 0
            for i in range(columns):
                if status == 0:
                    status = self.patch(i, &base.buffers.columns[i], out, i)
            if status == 0 and out.column_count > columns:
                status = _write_deleted(self, out, columns)
            out.row_count = self.shown_count
        if status < 0:
            block_release(out)
            raise MemoryError()
        return ColumnBlock.wrap(out, self.out_schema)

    @property
    def updated_columns(self):
        """Positions of the columns with cells that change in this batch."""
        cdef int32_t i
        return [i for i in range(self.layout.info.column_count) if self.updates[i].size]

    def selection(self):
        """One byte a row of the batch: 1 shown, 0 not."""
        return self.shown[:self.row_count] if self.row_count else b""
