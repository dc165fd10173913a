"""Replay of log entries into a MemRowSet: the native loop around the decisions of rules.pxd.

It is fed chunks of verified batches in log order and stops, with an event, whenever it needs something that only Python
can make: the mapping of a client's schema not seen before, the next tablet schema, an operation to be read again. Python
therefore runs per chunk and per schema, never per entry or row.

P1  Pending operations are those of the indexes first_pending .. next_index, one slot each, in a ring.
P2  A slot's bytes point into the chunk in hand, or were copied out at the chunk's end, or were left in the segment when
    copies would exceed PENDING_BYTES_MAX (then they are read again when needed).
P3  A COMMIT can be written before that of an operation before it, which a crash then loses. A row that such an operation
    without COMMIT names stays as it was before it: what later operations made of it is not known here.
P4  After a problem nothing more is applied; entries are still counted. Rows of the operation in hand, if some were
    applied, are hidden by `cut_timestamp`.
P5  With the rowsets on disk at hand (`stores`), a COMMIT's stores decide: what names none that is active was flushed and
    is passed over, unread; what names a MemRowSet goes into `rows`, where a key not met is dead; what names a rowset's
    delta store goes into that rowset's DeltaMemStore, at the row its key is found at.
May not touch: files, sockets. One thread at a time.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.bloom cimport city_hash64
from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, ByteBuffer, buffer_free, change_of_row, change_start,
)
from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.entry cimport (
    ENTRY_COMMIT, ENTRY_REPLICATE, OP_ALTER_SCHEMA, OP_CHANGE_CONFIG, OP_NO_OP, OP_PARTICIPANT, OP_WRITE, LogEntry,
    next_entry,
)
from kudu_storage._native.memrowset cimport STATE_ABSENT, STATE_LIVE, MemRowSet, Position, RowState
from kudu_storage._native.row_layout cimport LayoutInfo, Projection, ProjectionInfo, RowLayout
from kudu_storage._native.row_ops cimport (
    DECODE_END, DECODE_OK, ROW_DELETE, ROW_DELETE_IGNORE, ROW_INSERT, ROW_INSERT_IGNORE, ROW_UPDATE, ROW_UPDATE_IGNORE,
    ROW_UPSERT, ROW_UPSERT_IGNORE, ROW_VALID, DecodedRow, DecodeStatus, RowScratch, decode_row,
)
from kudu_storage._native.rowset_scan cimport KeyFinder
from kudu_storage._native.segment cimport BatchChunk
from kudu_storage.bootstrap.rules cimport (
    ACTION_CONTRADICTION, ACTION_DELETE, ACTION_INSERT, ACTION_NONE, ACTION_REMEMBER_DEAD, ACTION_UNKNOWN,
    ACTION_UPDATE, COMMIT_BUFFER, COMMIT_ORPHAN, COMMIT_OTHER_TERM, COMMIT_TWICE, COMMIT_WITHOUT_REPLICATE, KIND_DELETE,
    KIND_INSERT, KIND_UPDATE, KIND_UPSERT, OUTCOME_FAILED, OUTCOME_FLUSHED, OUTCOME_MUTATED, OUTCOME_NOTHING,
    OUTCOME_OPEN, REPLICATE_APPEND, REPLICATE_BELOW_APPLIED, REPLICATE_GAP, REPLICATE_OVER_COMMITTED,
    REPLICATE_REPLACE, ROW_DEAD, ROW_LIVE, ROW_UNKNOWN, CommitVerdict, ReplicateVerdict, RowAction, RowKind,
    RowKnowledge, RowOutcome, judge_commit, judge_replicate, judge_row,
)

from kudu_storage.common.limits import PENDING_BYTES_MAX
from kudu_storage.errors import InternalError

# What `feed`, `resume` and `finish` return.
cdef enum:
    EVENT_DONE = 0              # the chunk (or the log's end) is dealt with
    EVENT_CLIENT_SCHEMA = 1     # `event_bytes` is a SchemaPB: call add_projection, then resume
    EVENT_ALTER = 2             # `event_bytes` is an AlterSchemaRequestPB: call set_layout or keep_layout, then resume
    EVENT_RELOAD = 3            # call reload with the batch at (event_segment, event_offset), then resume
    EVENT_MEMORY = 4
    EVENT_PROBLEM = 5           # `problem` tells; nothing more is applied

DONE, CLIENT_SCHEMA, ALTER, RELOAD, PROBLEM = EVENT_DONE, EVENT_CLIENT_SCHEMA, EVENT_ALTER, EVENT_RELOAD, EVENT_PROBLEM

cdef enum ProblemCode:
    PROBLEM_NONE = 0
    PROBLEM_MALFORMED = 1               # an entry whose bytes pass their checksum and do not parse
    PROBLEM_GAP = 2
    PROBLEM_BELOW_APPLIED = 3
    PROBLEM_OVER_COMMITTED = 4
    PROBLEM_COMMIT_WITHOUT_REPLICATE = 5
    PROBLEM_COMMIT_OTHER_TERM = 6
    PROBLEM_COMMIT_TWICE = 7
    PROBLEM_WRITE_MALFORMED = 8
    PROBLEM_TRANSACTION = 9             # multi-row transactions are not supported
    PROBLEM_RESULT_COUNT = 10           # a COMMIT with fewer or more results than row operations
    PROBLEM_ROW_CONTRADICTION = 11
    PROBLEM_ROW_INVALID = 12            # a row that succeeded, says its COMMIT, and could not have
    PROBLEM_BAD_INDEX = 13              # an index below 1 or a negative term
    PROBLEM_SCHEMA = 14                 # set by Python: the schema of a write or an ALTER does not fit
    PROBLEM_STOPPED = 15                # set by Python: what follows cannot be trusted
    PROBLEM_ORPHAN_ALTER = 16           # an ALTER took effect whose request is older than this log

PROBLEM_NAMES = {
    PROBLEM_MALFORMED: "malformed", PROBLEM_GAP: "gap", PROBLEM_BELOW_APPLIED: "below_applied",
    PROBLEM_OVER_COMMITTED: "over_committed", PROBLEM_COMMIT_WITHOUT_REPLICATE: "commit_without_replicate",
    PROBLEM_COMMIT_OTHER_TERM: "commit_other_term", PROBLEM_COMMIT_TWICE: "commit_twice",
    PROBLEM_WRITE_MALFORMED: "write_malformed", PROBLEM_TRANSACTION: "transaction",
    PROBLEM_RESULT_COUNT: "result_count", PROBLEM_ROW_CONTRADICTION: "row_contradiction",
    PROBLEM_ROW_INVALID: "row_invalid", PROBLEM_BAD_INDEX: "bad_index", PROBLEM_SCHEMA: "schema",
    PROBLEM_STOPPED: "stopped", PROBLEM_ORPHAN_ALTER: "orphan_alter",
}

cdef struct PendingOp:
    int64_t term
    uint64_t timestamp
    int64_t file_offset         # of its batch
    int32_t segment
    int32_t ordinal             # its place in the batch
    int32_t op_type
    uint8_t committed           # its COMMIT was read; `result` holds the outcome
    uint8_t owns_request
    uint8_t owns_result
    uint8_t absent              # the request was left in the segment
    uint8_t applied             # out of turn, at the log's end
    Slice request
    Slice result

# What a COMMIT says of one row operation.
cdef struct _Outcome:
    RowOutcome outcome
    int32_t active_count        # stores that it changed and that are not flushed
    Py_ssize_t target           # of the last of them: its place in `rowsets`, or -1: the MemRowSet

cdef struct WriteRequest:
    Slice schema
    Slice rows
    Slice indirect
    int64_t auto_counter
    bint has_transaction

# A rowset on disk, as the superblock has it. The objects are the Replayer's `store_keeps`.
cdef struct RowSetStore:
    int64_t id
    int64_t last_durable_dms_id
    int64_t highest_dms_id      # that a COMMIT names; -1: none
    void* finder                # KeyFinder; NULL: rowsets are not at hand
    void* memory                # DeltaMemStore
    const uint8_t* live         # by row, what its files say of it; NULL unless pending operations are applied

cdef struct Counters:
    int64_t entries
    int64_t replicates
    int64_t commits
    int64_t batches
    int64_t replaced
    int64_t orphan_commits
    int64_t ops_applied
    int64_t rows_inserted
    int64_t rows_updated
    int64_t rows_deleted
    int64_t rows_failed
    int64_t rows_ignored
    int64_t rows_flushed        # decided by skip_on_replay
    int64_t rows_unknown

cdef enum:
    OP_TYPE_COUNT = 8
    PROJECTION_COUNT_MAX = 64


cdef struct KnownSchema:
    const uint8_t* raw          # a client schema's bytes
    size_t size
    const ProjectionInfo* projection


cdef class Replayer:
    """Applies a log to `rows`, whose layout must be set.

    Args:
        rows: the MemRowSet to fill.
        layout: its current layout.
        last_durable_mrs_id: of the superblock; None: there is none.
        rowsets: (id, last durable delta store id) of its rowsets.
        stores: of each of them (KeyFinder, DeltaMemStore): what the log has beyond its files goes in there (P5). None:
            rows come from the log alone.
    """
    cdef MemRowSet rows
    cdef RowLayout layout
    cdef const LayoutInfo* info
    # Client schemas met under the current layout. Clients of several kinds take turns within a chunk, so a write's
    # schema is looked up here without Python. `keeps` holds the objects that `known` points into, slot by slot.
    cdef KnownSchema[PROJECTION_COUNT_MAX] known
    cdef size_t known_count
    cdef size_t known_next              # the slot to use next: the oldest once all are in use
    cdef list keeps
    cdef const KnownSchema* selected    # that of the write in hand; NULL: none yet
    cdef RowScratch scratch
    # the window (P1): slot of index i is ring[(head + i - first_pending) & mask]
    cdef PendingOp* ring
    cdef size_t mask
    cdef size_t head
    cdef int64_t first_index            # of the first REPLICATE; -1 before it
    cdef int64_t first_pending
    cdef int64_t next_index
    cdef size_t pending_bytes
    cdef size_t pending_bytes_max
    # where we are
    cdef BatchChunk chunk
    cdef BatchChunk reloaded
    cdef Py_ssize_t batch
    cdef bint in_batch
    cdef Cursor cursor
    cdef int32_t ordinal
    cdef int32_t segment
    cdef int64_t finish_index
    cdef bint finishing
    cdef bint include_pending
    cdef MemRowSet in_doubt             # at the end: keys that an operation without COMMIT names (P3); else None
    # results
    cdef Counters counters
    cdef int64_t by_type[OP_TYPE_COUNT]
    cdef int64_t min_index
    cdef int64_t max_index
    cdef int64_t committed_index
    cdef int64_t highest_buffered       # highest index with a COMMIT among those pending
    cdef int64_t last_term
    cdef int64_t last_index
    cdef uint64_t highest_timestamp
    cdef int64_t highest_memrowset
    cdef int64_t highest_rowset
    cdef int64_t applied_index
    cdef int64_t applied_term
    cdef uint64_t applied_time
    cdef ProblemCode problem_code
    cdef int64_t problem_term
    cdef int64_t problem_index
    cdef int64_t problem_row
    cdef int64_t problem_offset
    cdef int32_t problem_segment
    cdef int32_t problem_detail
    cdef readonly object cut_timestamp      # None, or: nothing at or above it may be shown
    cdef bytes event_raw
    cdef int64_t reload_offset
    cdef int32_t reload_segment
    cdef bint knows_flushed                 # a superblock told what is flushed:
    cdef int64_t last_durable_mrs_id
    cdef RowSetStore* rowsets
    cdef Py_ssize_t rowset_count
    cdef readonly bint has_stores           # P5
    cdef list store_keeps
    cdef ByteBuffer change                  # scratch
    cdef int64_t orphan_term                # of the first orphaned COMMIT that needs replay; index 0: none
    cdef int64_t orphan_index
    cdef int64_t orphan_alter_term          # of the last COMMIT of an ALTER that is older than this log; index 0: none
    cdef int64_t orphan_alter_index

    def __cinit__(self, MemRowSet rows not None, RowLayout layout not None, *, last_durable_mrs_id=None,
                  rowsets=(), stores=None, size_t pending_bytes_max=PENDING_BYTES_MAX):
        self.rows = rows
        self.layout = layout
        self.info = &layout.info
        self.keeps = [None] * PROJECTION_COUNT_MAX
        self.scratch = RowScratch()
        self.scratch.reserve(max(layout.info.column_count, 1))
        self.mask = 255
        self.ring = <PendingOp*> calloc(self.mask + 1, sizeof(PendingOp))
        if self.ring == NULL:
            raise MemoryError()
        self.first_index = -1
        self.highest_memrowset = -1
        self.highest_rowset = -1
        self.min_index = -1
        self.max_index = -1
        self.applied_index = 0
        self.pending_bytes_max = pending_bytes_max
        self.knows_flushed = last_durable_mrs_id is not None
        self.last_durable_mrs_id = last_durable_mrs_id if self.knows_flushed else 0
        self.has_stores = stores is not None
        self.store_keeps = []
        self.rowsets = <RowSetStore*> calloc(len(rowsets) + 1, sizeof(RowSetStore))
        if self.rowsets == NULL:
            raise MemoryError()
        for rowset, durable in rowsets:
            self.rowsets[self.rowset_count].id = rowset
            self.rowsets[self.rowset_count].last_durable_dms_id = durable
            self.rowsets[self.rowset_count].highest_dms_id = -1
            self.rowset_count += 1
        if self.has_stores:
            self._take_stores(stores)

    cdef int _take_stores(self, stores) except -1:
        cdef KeyFinder finder
        cdef DeltaMemStore memory
        cdef Py_ssize_t i
        if len(stores) != self.rowset_count:
            raise InternalError(f"{len(stores)} stores of {self.rowset_count} rowsets")
        for i, (finder, memory) in enumerate(stores):
            self.store_keeps.append((finder, memory))
            self.rowsets[i].finder = <void*> finder
            self.rowsets[i].memory = <void*> memory
        return 0

    def __dealloc__(self):
        cdef int64_t index
        if self.ring != NULL:
            for index in range(self.first_pending, self.next_index):
                _release(self, self._slot(index))
            free(self.ring)
        free(self.rowsets)
        buffer_free(&self.change)

    cdef PendingOp* _slot(self, int64_t index) noexcept nogil:
        return &self.ring[(self.head + <size_t> (index - self.first_pending)) & self.mask]

    # -- what Python calls -----------------------------------------------------------------------------------------
    def feed(self, BatchChunk chunk not None, int32_t segment):
        """Take the next chunk of the log, of segment number `segment` (as the caller counts). Returns an event."""
        if self.chunk is not None:
            raise InternalError("feed before the last chunk was dealt with")
        self.chunk = chunk
        self.segment = segment
        self.batch = 0
        self.in_batch = False
        return self.resume()

    def resume(self):
        """Go on after an event."""
        cdef int event
        with nogil:
            event = _finish(self) if self.finishing else _run(self)
        if event == EVENT_MEMORY:
            raise MemoryError()
        if event == EVENT_DONE and not self.finishing:
            self.chunk = None
        if event == EVENT_CLIENT_SCHEMA or event == EVENT_ALTER:
            self.event_raw = self._event_bytes(event)
        if event == EVENT_PROBLEM:
            self._note_cut()
        return event

    def finish(self, *, bint include_pending=False):
        """The log has ended: apply what has a COMMIT and waited for an earlier one; with `include_pending` all that is
        pending, in order, worked out from the rows' state. Returns an event."""
        self.include_pending = include_pending
        self.finishing = True
        if not include_pending and self.highest_buffered > self.first_pending:
            self.in_doubt = MemRowSet()
            self.in_doubt.add_layout(RowLayout(self.layout.schema))
        self.finish_index = self.first_pending
        if self.problem_code != PROBLEM_NONE and self.problem_code != PROBLEM_STOPPED:
            return EVENT_DONE
        return self.resume()

    def set_live_rows(self, list live not None):
        """Before finish(include_pending=True), with stores: for each rowset a byte a row, 1: its files show it."""
        cdef Py_ssize_t i
        cdef bytes rows
        if not self.has_stores or len(live) != self.rowset_count:
            raise InternalError(f"live rows of {len(live)} rowsets")
        for i, rows in enumerate(live):
            if len(rows) != (<DeltaMemStore> self.rowsets[i].memory).row_count:
                raise InternalError(f"{len(rows)} live rows")
            self.store_keeps.append(rows)
            self.rowsets[i].live = <const uint8_t*> <const char*> rows

    def add_projection(self, Projection projection not None):
        """Answer to CLIENT_SCHEMA."""
        cdef KnownSchema* slot = &self.known[self.known_next]
        self.keeps[self.known_next] = (self.event_raw, projection)
        slot.raw = <const uint8_t*> <const char*> self.event_raw
        slot.size = len(self.event_raw)
        slot.projection = &projection.info
        self.selected = slot
        self.known_next = (self.known_next + 1) % PROJECTION_COUNT_MAX
        self.known_count = max(self.known_count, self.known_next or PROJECTION_COUNT_MAX)

    def set_layout(self, RowLayout layout not None):
        """Answer to ALTER: rows from now on are of this layout."""
        self.rows.add_layout(layout)
        self.layout = layout
        self.info = &layout.info
        self.scratch.reserve(max(layout.info.column_count, 1))
        self.known_count = 0
        self.known_next = 0
        self.selected = NULL
        self._front_done()

    def keep_layout(self):
        """Answer to ALTER: it changes nothing about columns."""
        self._front_done()

    def reload(self, BatchChunk chunk not None):
        """Answer to RELOAD: the batch read again."""
        cdef PendingOp* op = self._slot(self.finish_index if self.finishing else self.first_pending)
        cdef Cursor cursor
        cdef LogEntry entry
        cdef int32_t ordinal
        if chunk.count < 1:
            raise InternalError("an operation's batch could not be read again")
        cursor = cursor_of(chunk.data + chunk.batches[0].data_offset, chunk.batches[0].data_bytes)
        for ordinal in range(op.ordinal + 1):
            if next_entry(&cursor, &entry) != 1:
                raise InternalError("an operation was not found when its batch was read again")
        if entry.term != op.term or entry.type != ENTRY_REPLICATE:
            raise InternalError("another operation was found when a batch was read again")
        self.reloaded = chunk
        op.request = entry.request
        op.absent = False

    def stop(self):
        """Apply nothing that is fed from now on; it is only counted. What is pending stays pending."""
        if self.problem_code == PROBLEM_NONE:
            _problem(self, PROBLEM_STOPPED, 0, 0, -1, 0)

    def fail_schema(self):
        """Answer to CLIENT_SCHEMA or ALTER that cannot be met: stop here, as at a problem."""
        cdef int64_t index = self.finish_index if self.finishing else self.first_pending
        _problem(self, PROBLEM_SCHEMA, self._slot(index).term, index, -1, self._slot(index).file_offset)
        self.problem_segment = self._slot(index).segment
        self._note_cut()

    # -- what Python asks ------------------------------------------------------------------------------------------
    @property
    def event_bytes(self):
        return self.event_raw

    @property
    def event_place(self):
        """(segment, offset) of the batch to reload."""
        return self.reload_segment, self.reload_offset

    @property
    def problem(self):
        """None, or a dict: code, segment, offset, term, index, row, detail."""
        if self.problem_code == PROBLEM_NONE:
            return None
        return {"code": PROBLEM_NAMES[self.problem_code], "segment": self.problem_segment,
                "offset": self.problem_offset, "term": self.problem_term, "index": self.problem_index,
                "row": self.problem_row, "detail": self.problem_detail}

    @property
    def counts(self):
        """Totals so far, by name."""
        return dict(self.counters)

    @property
    def ops_by_type(self):
        """REPLICATE entries by kind of operation (Kudu's numbers), replaced ones too."""
        return {i: self.by_type[i] for i in range(OP_TYPE_COUNT) if self.by_type[i]}

    @property
    def last_opid(self):
        """(term, index) of the last REPLICATE, or None."""
        return None if self.first_index < 0 else (self.last_term, self.last_index)

    @property
    def applied_opid(self):
        """(term, index) of the last operation applied in turn, or None."""
        return None if self.applied_index == 0 else (self.applied_term, self.applied_index)

    @property
    def last_timestamp(self):
        """Timestamp of the last REPLICATE; 0: none."""
        return self.highest_timestamp

    @property
    def applied_timestamp(self):
        """Timestamp of the last operation applied in turn; 0 before the first."""
        return self.applied_time

    @property
    def committed(self):
        """The highest index with a COMMIT entry, or 0."""
        return self.committed_index

    @property
    def starts_at(self):
        """Index of the first REPLICATE, or None."""
        return None if self.first_index < 0 else self.first_index

    @property
    def orphan_to_replay(self):
        """(term, index) of the first COMMIT without REPLICATE that changed a store which is not flushed, or None."""
        return (self.orphan_term, self.orphan_index) if self.orphan_index else None

    @property
    def orphan_alter(self):
        """(term, index) of the last ALTER whose COMMIT this log has and whose request is older, or None. Only where the tablet's
        metadata is known: whether the header's schema has it is for the caller to judge; else it is a problem."""
        return (self.orphan_alter_term, self.orphan_alter_index) if self.orphan_alter_index else None

    def take_index_range(self):
        """Lowest and highest REPLICATE index since the last call, or None."""
        found = None if self.min_index < 0 else (self.min_index, self.max_index)
        self.min_index = -1
        self.max_index = -1
        return found

    @property
    def pending_count(self):
        """Operations that are pending, with or without a COMMIT that waits."""
        return self.next_index - self.first_pending

    def pending(self):
        """(term, index, op_type, committed, segment, offset) of the operations that are pending, in order."""
        cdef int64_t index
        cdef PendingOp* op
        found = []
        for index in range(self.first_pending, self.next_index):
            op = self._slot(index)
            found.append((op.term, index, op.op_type, bool(op.committed), op.segment, op.file_offset))
        return found

    def pending_operations(self):
        """(term, index, op_type, timestamp, request, result) of the pending operations, in order. `request` is None
        when it has none or was left in its segment, `result` when the operation has no COMMIT."""
        cdef int64_t index
        cdef PendingOp* op
        found = []
        for index in range(self.first_pending, self.next_index):
            op = self._slot(index)
            request = None if op.request.data == NULL else PyBytes_FromStringAndSize(<const char*> op.request.data,
                                                                                     op.request.size)
            result = None
            if op.committed:
                result = b"" if op.result.data == NULL else PyBytes_FromStringAndSize(<const char*> op.result.data,
                                                                                      op.result.size)
            found.append((op.term, index, op.op_type, op.timestamp, request, result))
        return found

    @property
    def highest_memrowset_id(self):
        """The highest id of a MemRowSet that a COMMIT names, or -1; see note_pending_stores."""
        return self.highest_memrowset

    @property
    def highest_rowset_id(self):
        """The highest id of a rowset that a COMMIT names, or -1; see note_pending_stores."""
        return self.highest_rowset

    @property
    def delta_store_ids(self):
        """(rowset, highest delta store that a COMMIT names) of the superblock's rowsets; see note_pending_stores."""
        cdef Py_ssize_t i
        return [(self.rowsets[i].id, self.rowsets[i].highest_dms_id) for i in range(self.rowset_count)
                if self.rowsets[i].highest_dms_id >= 0]

    def note_pending_stores(self):
        """Take note of the stores that COMMITs name whose turn has not come, for the ids above."""
        cdef int64_t index
        cdef Cursor results
        cdef _Outcome outcome
        for index in range(self.first_pending, self.next_index):
            if self._slot(index).committed:
                results = cursor_of(self._slot(index).result.data, self._slot(index).result.size)
                while _next_outcome(self, &results, &outcome) == 1:
                    pass

    def check(self):
        """Derive P1 and P2 afresh. Raises InternalError."""
        cdef int64_t index
        cdef size_t copied = 0
        cdef PendingOp* op
        if self.next_index - self.first_pending > <int64_t> self.mask + 1:
            raise InternalError("P1: more pending operations than slots")
        for index in range(self.first_pending, self.next_index):
            op = self._slot(index)
            copied += op.request.size if op.owns_request else 0
            copied += op.result.size if op.owns_result else 0
            if op.absent and op.request.data != NULL:
                raise InternalError(f"P2: the operation of index {index} is absent and present")
        if copied != self.pending_bytes:
            raise InternalError(f"P2: {copied} bytes of pending operations are held, {self.pending_bytes} accounted")

    # -- events ----------------------------------------------------------------------------------------------------
    cdef bytes _event_bytes(self, int event):
        cdef PendingOp* op = self._slot(self.finish_index if self.finishing else self.first_pending)
        cdef WriteRequest write
        if event == EVENT_ALTER:
            return PyBytes_FromStringAndSize(<const char*> op.request.data, op.request.size)
        _parse_write(op.request, &write)
        return PyBytes_FromStringAndSize(<const char*> write.schema.data, write.schema.size)

    cdef int _front_done(self) except -1:
        """The ALTER in hand is applied."""
        if self.finishing:
            self._slot(self.finish_index).applied = True
            self.counters.ops_applied += 1
        else:
            _pop_front(self)
        return 0

    cdef int _note_cut(self) except -1:
        cdef PendingOp* op
        if self.problem_code in (PROBLEM_WRITE_MALFORMED, PROBLEM_RESULT_COUNT, PROBLEM_ROW_CONTRADICTION,
                                 PROBLEM_ROW_INVALID, PROBLEM_TRANSACTION, PROBLEM_SCHEMA) \
                and self.first_pending <= self.problem_index < self.next_index:
            op = self._slot(self.problem_index)
            self.cut_timestamp = op.timestamp
        return 0


# -- the window --------------------------------------------------------------------------------------------------------
cdef void _release(Replayer self, PendingOp* op) noexcept nogil:
    if op.owns_request:
        self.pending_bytes -= op.request.size
        free(<void*> op.request.data)
    if op.owns_result:
        self.pending_bytes -= op.result.size
        free(<void*> op.result.data)
    memset(op, 0, sizeof(PendingOp))


cdef void _pop_front(Replayer self) noexcept nogil:
    cdef PendingOp* op = self._slot(self.first_pending)
    self.applied_index = self.first_pending
    self.applied_term = op.term
    self.applied_time = max(self.applied_time, op.timestamp)
    self.counters.ops_applied += 1
    _release(self, op)
    self.head = (self.head + 1) & self.mask
    self.first_pending += 1


cdef int _grow_ring(Replayer self) noexcept nogil:
    cdef size_t count = <size_t> (self.next_index - self.first_pending), i
    cdef PendingOp* ring = <PendingOp*> calloc((self.mask + 1) * 2, sizeof(PendingOp))
    if ring == NULL:
        return -1
    for i in range(count):
        ring[i] = self.ring[(self.head + i) & self.mask]
    free(self.ring)
    self.ring = ring
    self.head = 0
    self.mask = self.mask * 2 + 1
    return 0


cdef int _own(Replayer self, Slice* slice) noexcept nogil:
    """Copy the slice's bytes out of the chunk: 0, or -1: out of memory."""
    cdef uint8_t* copy
    copy = <uint8_t*> malloc(slice.size if slice.size else 1)
    if copy == NULL:
        return -1
    if slice.size:
        memcpy(copy, slice.data, slice.size)
    slice.data = copy
    self.pending_bytes += slice.size
    return 0


cdef int _detach(Replayer self) noexcept nogil:
    """At the chunk's end: nothing may point into it any more (P2)."""
    cdef int64_t index
    cdef PendingOp* op
    for index in range(self.first_pending, self.next_index):
        op = self._slot(index)
        if op.request.data != NULL and not op.owns_request:
            if self.pending_bytes + op.request.size > self.pending_bytes_max:
                op.request.data = NULL
                op.absent = True
            else:
                if _own(self, &op.request) < 0:
                    return -1
                op.owns_request = True
        if op.result.data != NULL and not op.owns_result:
            if _own(self, &op.result) < 0:
                return -1
            op.owns_result = True
    return 0


# -- entries -----------------------------------------------------------------------------------------------------------
cdef int _problem(Replayer self, ProblemCode code, int64_t term, int64_t index, int64_t row, int64_t offset) noexcept nogil:
    if self.problem_code == PROBLEM_NONE or self.problem_code == PROBLEM_STOPPED:
        self.problem_code = code
        self.problem_term = term
        self.problem_index = index
        self.problem_row = row
        self.problem_offset = offset
        self.problem_segment = self.segment
    return EVENT_PROBLEM


cdef bint _spoilt(Cursor batch) noexcept nogil:
    """Whether a batch of several entries has one that cannot be parsed. Then none of them counts, as on a server: its
    good ones must not be applied before the bad one shows. A single entry shows itself at once."""
    cdef Cursor rest = batch
    cdef Field field
    cdef LogEntry entry
    cdef int status = 1
    if not cursor_left(&rest) or (read_field(&rest, &field) and not cursor_left(&rest)):
        return False
    while status > 0:
        status = next_entry(&batch, &entry)
    return status < 0


cdef int _run(Replayer self) except -1 nogil:
    """Apply what is ready, then take entries, until the chunk is used up or an event comes."""
    cdef int status
    cdef LogEntry entry
    while True:
        if self.problem_code == PROBLEM_NONE:
            status = _drain(self)
            if status != EVENT_DONE:
                return status
        if not self.in_batch:
            if self.batch >= self.chunk.count:
                return EVENT_MEMORY if _detach(self) < 0 else EVENT_DONE
            self.cursor = cursor_of(self.chunk.data + self.chunk.batches[self.batch].data_offset,
                                    self.chunk.batches[self.batch].data_bytes)
            self.in_batch = True
            self.ordinal = 0
            self.counters.batches += 1
            status = -1 if _spoilt(self.cursor) else next_entry(&self.cursor, &entry)
        else:
            status = next_entry(&self.cursor, &entry)
        if status == 0:
            self.in_batch = False
            self.batch += 1
            continue
        if status < 0:
            self.in_batch = False
            status = self.problem_code
            _problem(self, PROBLEM_MALFORMED, 0, 0, -1, self.chunk.batches[self.batch].file_offset)
            self.batch += 1
            if status == PROBLEM_NONE:
                return EVENT_PROBLEM
            continue
        self.counters.entries += 1
        status = _take_entry(self, &entry)
        self.ordinal += 1
        if status != EVENT_DONE:
            return status


cdef int _take_entry(Replayer self, const LogEntry* entry) noexcept nogil:
    cdef int64_t offset = self.chunk.batches[self.batch].file_offset
    if entry.index < 1 or entry.term < 0 or entry.index >> 62:      # room for index + 1
        if self.problem_code == PROBLEM_NONE:
            return _problem(self, PROBLEM_BAD_INDEX, entry.term, entry.index, -1, offset)
        return EVENT_DONE
    if entry.type == ENTRY_REPLICATE:
        self.counters.replicates += 1
        if 0 <= entry.op_type < OP_TYPE_COUNT:
            self.by_type[entry.op_type] += 1
        if self.min_index < 0 or entry.index < self.min_index:
            self.min_index = entry.index
        if entry.index > self.max_index:
            self.max_index = entry.index
        self.last_term = entry.term
        self.last_index = entry.index
        self.highest_timestamp = max(self.highest_timestamp, entry.timestamp)
        if self.problem_code == PROBLEM_NONE:
            return _take_replicate(self, entry, offset)
    else:
        self.counters.commits += 1
        if entry.index > self.committed_index:
            self.committed_index = entry.index
        if self.problem_code == PROBLEM_NONE:
            return _take_commit(self, entry, offset)
    return EVENT_DONE


cdef int _take_replicate(Replayer self, const LogEntry* entry, int64_t offset) noexcept nogil:
    cdef ReplicateVerdict verdict
    cdef PendingOp* op
    cdef int64_t index
    if self.first_index < 0:
        self.first_index = entry.index
        self.first_pending = entry.index
        self.next_index = entry.index
    verdict = judge_replicate(entry.index, self.first_pending, self.next_index, self.highest_buffered)
    if verdict == REPLICATE_GAP:
        return _problem(self, PROBLEM_GAP, entry.term, entry.index, -1, offset)
    if verdict == REPLICATE_BELOW_APPLIED:
        return _problem(self, PROBLEM_BELOW_APPLIED, entry.term, entry.index, -1, offset)
    if verdict == REPLICATE_OVER_COMMITTED:
        return _problem(self, PROBLEM_OVER_COMMITTED, entry.term, entry.index, -1, offset)
    if verdict == REPLICATE_REPLACE:
        for index in range(entry.index, self.next_index):
            _release(self, self._slot(index))
        self.counters.replaced += self.next_index - entry.index
        self.next_index = entry.index
    if self.next_index - self.first_pending > <int64_t> self.mask:
        if _grow_ring(self) < 0:
            return EVENT_MEMORY
    op = self._slot(entry.index)
    memset(op, 0, sizeof(PendingOp))
    op.term = entry.term
    op.timestamp = entry.timestamp
    op.op_type = entry.op_type
    op.request = entry.request
    op.segment = self.segment
    op.file_offset = offset
    op.ordinal = self.ordinal
    self.next_index = entry.index + 1
    return EVENT_DONE


cdef int _take_commit(Replayer self, const LogEntry* entry, int64_t offset) noexcept nogil:
    cdef CommitVerdict verdict
    cdef PendingOp* op = NULL
    cdef bint pending = self.first_index >= 0 and self.first_pending <= entry.index < self.next_index
    if self.first_index < 0:
        verdict = COMMIT_ORPHAN
    else:
        if pending:
            op = self._slot(entry.index)
        verdict = judge_commit(entry.index, entry.term, self.first_index, self.first_pending, self.next_index,
                               op.term if pending else 0, op.committed if pending else False)
    if verdict == COMMIT_ORPHAN:
        self.counters.orphan_commits += 1
        if entry.op_type == OP_ALTER_SCHEMA and not _has_failed(self, entry.result):
            if not self.knows_flushed:
                return _problem(self, PROBLEM_ORPHAN_ALTER, entry.term, entry.index, -1, offset)
            self.orphan_alter_term, self.orphan_alter_index = entry.term, entry.index
        _check_orphan(self, entry)
        return EVENT_DONE
    if verdict == COMMIT_WITHOUT_REPLICATE:
        return _problem(self, PROBLEM_COMMIT_WITHOUT_REPLICATE, entry.term, entry.index, -1, offset)
    if verdict == COMMIT_OTHER_TERM:
        return _problem(self, PROBLEM_COMMIT_OTHER_TERM, entry.term, entry.index, -1, offset)
    if verdict == COMMIT_TWICE:
        return _problem(self, PROBLEM_COMMIT_TWICE, entry.term, entry.index, -1, offset)
    op.committed = True
    op.result = entry.result
    if entry.index > self.highest_buffered:
        self.highest_buffered = entry.index
    return EVENT_DONE


cdef void _check_orphan(Replayer self, const LogEntry* entry) noexcept nogil:
    """A COMMIT without its REPLICATE is harmless only if what it changed is flushed (tablet_bootstrap.cc)."""
    cdef Cursor results = cursor_of(entry.result.data, entry.result.size)
    cdef _Outcome outcome
    if not self.knows_flushed or self.orphan_index:
        return
    while _next_outcome(self, &results, &outcome) == 1:
        if outcome.outcome == OUTCOME_MUTATED and outcome.active_count:
            self.orphan_term = entry.term
            self.orphan_index = entry.index
            return


cdef int _read_store(Replayer self, Slice message, _Outcome* out) noexcept nogil:
    """Parse a MemStoreTargetPB: 0, or -1 malformed. A store that is not flushed counts as active.

    A rowset that the superblock does not know is gone: flushed since.
    """
    cdef Cursor cursor = cursor_of(message.data, message.size)
    cdef Field field
    cdef int64_t memrowset = -1, rowset = -1, delta_store = -1
    cdef Py_ssize_t i
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return -1
        if field.wire != 0:
            continue
        if field.number == 1:
            memrowset = <int64_t> field.value
        elif field.number == 2:
            rowset = <int64_t> field.value
        elif field.number == 3:
            delta_store = <int64_t> field.value
    if memrowset >= 0:
        self.highest_memrowset = max(self.highest_memrowset, memrowset)
        if memrowset > self.last_durable_mrs_id:
            out.active_count += 1
            out.target = -1
        return 0
    self.highest_rowset = max(self.highest_rowset, rowset)
    for i in range(self.rowset_count):
        if self.rowsets[i].id == rowset:
            self.rowsets[i].highest_dms_id = max(self.rowsets[i].highest_dms_id, delta_store)
        if self.rowsets[i].id == rowset and delta_store > self.rowsets[i].last_durable_dms_id:
            out.active_count += 1
            out.target = i
    return 0


# -- applying ----------------------------------------------------------------------------------------------------------
cdef int _drain(Replayer self) except -1 nogil:
    """Apply the operations at the front that have their COMMIT (D1)."""
    cdef PendingOp* op
    cdef int status
    while self.first_pending < self.next_index:
        op = self._slot(self.first_pending)
        if not op.committed:
            return EVENT_DONE
        status = _apply(self, op, self.first_pending)
        if status != EVENT_DONE:
            return status
        _pop_front(self)
    return EVENT_DONE


cdef int _finish(Replayer self) except -1 nogil:
    cdef PendingOp* op
    cdef int status
    while self.finish_index < self.next_index:
        op = self._slot(self.finish_index)
        if op.committed or self.include_pending:
            if not op.applied:
                status = _apply(self, op, self.finish_index)
                if status != EVENT_DONE:
                    return status
                op.applied = True
                self.counters.ops_applied += 1
        elif self.finish_index >= self.highest_buffered or op.op_type == OP_ALTER_SCHEMA:
            return EVENT_DONE       # no COMMIT follows, or what follows needs a schema that may not be
        elif op.op_type == OP_WRITE:
            status = _apply(self, op, self.finish_index)
            if status != EVENT_DONE:
                return status
        self.finish_index += 1
    return EVENT_DONE


cdef bint _has_failed(Replayer self, Slice result) noexcept nogil:
    """Whether the COMMIT of an operation without rows says that it failed."""
    cdef Cursor results = cursor_of(result.data, result.size)
    cdef _Outcome outcome
    return _next_outcome(self, &results, &outcome) == 1 and outcome.outcome == OUTCOME_FAILED


cdef int _apply(Replayer self, PendingOp* op, int64_t index) except -1 nogil:
    if op.absent:
        self.reload_segment = op.segment
        self.reload_offset = op.file_offset
        return EVENT_RELOAD
    if op.op_type == OP_WRITE:
        return _apply_write(self, op, index)
    if op.op_type == OP_ALTER_SCHEMA:
        if op.committed and _has_failed(self, op.result):
            return EVENT_DONE
        if op.request.data == NULL:
            return _write_problem(self, PROBLEM_WRITE_MALFORMED, op, index, -1)
        return EVENT_ALTER
    if op.op_type == OP_PARTICIPANT:
        return _write_problem(self, PROBLEM_TRANSACTION, op, index, -1)
    return EVENT_DONE


cdef bint _parse_write(Slice request, WriteRequest* write) noexcept nogil:
    """Shallow parse of a tserver.WriteRequestPB; False: malformed."""
    cdef Cursor cursor, inner
    cdef Field field
    memset(write, 0, sizeof(WriteRequest))
    if request.data == NULL:
        return False
    cursor = cursor_of(request.data, request.size)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 2 and field.wire == 2:
            write.schema = field.bytes
        elif field.number == 3 and field.wire == 2:
            inner = cursor_of(field.bytes.data, field.bytes.size)
            while cursor_left(&inner):
                if not read_field(&inner, &field):
                    return False
                if field.number == 2 and field.wire == 2:
                    write.rows = field.bytes
                elif field.number == 3 and field.wire == 2:
                    write.indirect = field.bytes
        elif field.number == 7 and field.wire == 0:
            write.has_transaction = True
        elif field.number == 8 and field.wire == 2:
            inner = cursor_of(field.bytes.data, field.bytes.size)
            while cursor_left(&inner):
                if not read_field(&inner, &field):
                    return False
                if field.number == 1 and field.wire == 0:
                    write.auto_counter = <int64_t> field.value
    return write.schema.data != NULL


cdef int _next_outcome(Replayer self, Cursor* results, _Outcome* out) noexcept nogil:
    """The next OperationResultPB of a TxResultPB: 1, 0 at the end, -1 malformed."""
    cdef Field field
    cdef Cursor inner
    cdef bint skipped = False, failed = False, mutated = False
    while True:
        if cursor_left(results) == 0:
            return 0
        if not read_field(results, &field):
            return -1
        if field.number == 1 and field.wire == 2:
            break
    out.active_count = 0
    out.target = -1
    inner = cursor_of(field.bytes.data, field.bytes.size)
    while cursor_left(&inner):
        if not read_field(&inner, &field):
            return -1
        if field.number == 1 and field.wire == 0:
            skipped = field.value != 0
        elif field.number == 2 and field.wire == 2:
            failed = True
        elif field.number == 3 and field.wire == 2:
            mutated = True
            if _read_store(self, field.bytes, out) < 0:      # two of them while a compaction runs
                return -1
    if failed:
        out.outcome = OUTCOME_FAILED
    elif skipped:
        out.outcome = OUTCOME_FLUSHED
    elif mutated:
        out.outcome = OUTCOME_MUTATED
    else:
        out.outcome = OUTCOME_NOTHING
    return 1


cdef inline bint _is_schema(const KnownSchema* known, Slice schema) noexcept nogil:
    return known.size == schema.size and memcmp(known.raw, schema.data, schema.size) == 0


cdef bint _select_schema(Replayer self, Slice schema) noexcept nogil:
    """Point `selected` at the client schema with these bytes; False: not met yet."""
    cdef size_t i
    if self.selected != NULL and _is_schema(self.selected, schema):
        return True
    for i in range(self.known_count):
        if _is_schema(&self.known[i], schema):
            self.selected = &self.known[i]
            return True
    return False


cdef int _pass_over(Replayer self, const PendingOp* op) noexcept nogil:
    """1: no row operation of a committed write changed a store that is active, so its rows need not be looked at. 0: some
    did. -1: the COMMIT is malformed."""
    cdef Cursor results = cursor_of(op.result.data, op.result.size)
    cdef _Outcome outcome
    cdef int64_t failed = 0, ignored = 0, flushed = 0
    cdef int more
    while True:
        more = _next_outcome(self, &results, &outcome)
        if more <= 0:
            break
        if outcome.active_count and outcome.outcome == OUTCOME_MUTATED:
            return 0
        failed += outcome.outcome == OUTCOME_FAILED
        ignored += outcome.outcome == OUTCOME_NOTHING
        flushed += outcome.outcome == OUTCOME_FLUSHED or outcome.outcome == OUTCOME_MUTATED
    if more < 0:
        return -1
    self.counters.rows_failed += failed
    self.counters.rows_ignored += ignored
    self.counters.rows_flushed += flushed
    return 1


cdef int _apply_write(Replayer self, PendingOp* op, int64_t index) except -1 nogil:
    cdef WriteRequest write
    cdef Cursor rows, results
    cdef _Outcome outcome
    cdef DecodedRow* row = &self.scratch.row
    cdef DecodeStatus decoded
    cdef int64_t counter, number = 0
    cdef int status
    if not _parse_write(op.request, &write):
        return _write_problem(self, PROBLEM_WRITE_MALFORMED, op, index, -1)
    if write.has_transaction:
        return _write_problem(self, PROBLEM_TRANSACTION, op, index, -1)
    if self.has_stores and op.committed:
        status = _pass_over(self, op)
        if status != 0:
            return EVENT_DONE if status > 0 else _write_problem(self, PROBLEM_WRITE_MALFORMED, op, index, -1)
    if not _select_schema(self, write.schema):
        return EVENT_CLIENT_SCHEMA
    rows = cursor_of(write.rows.data, write.rows.size)
    results = cursor_of(op.result.data, op.result.size)
    counter = write.auto_counter
    row.indirect_bytes = 0
    while True:
        decoded = decode_row(&rows, write.indirect, self.selected.projection, self.info, row, &counter)
        if decoded == DECODE_END:
            break
        if decoded != DECODE_OK:
            self.problem_detail = decoded
            return _write_problem(self, PROBLEM_WRITE_MALFORMED, op, index, number)
        if op.committed:
            status = _next_outcome(self, &results, &outcome)
            if status == 0:
                return _write_problem(self, PROBLEM_RESULT_COUNT, op, index, number)
            if status < 0:
                return _write_problem(self, PROBLEM_WRITE_MALFORMED, op, index, number)
        else:
            outcome.outcome = OUTCOME_OPEN
            outcome.active_count = 0
            outcome.target = -1
        status = _apply_row(self, op, index, number, row, &outcome)
        if status != EVENT_DONE:
            return status
        number += 1
    if op.committed and _next_outcome(self, &results, &outcome) != 0:
        return _write_problem(self, PROBLEM_RESULT_COUNT, op, index, number)
    return EVENT_DONE


cdef int _write_problem(Replayer self, ProblemCode code, const PendingOp* op, int64_t index, int64_t row) noexcept nogil:
    _problem(self, code, op.term, index, row, op.file_offset)
    self.problem_segment = op.segment
    return EVENT_PROBLEM


cdef inline RowKind _kind_of(int32_t op) noexcept nogil:
    if op == ROW_INSERT or op == ROW_INSERT_IGNORE:
        return KIND_INSERT
    if op == ROW_UPSERT or op == ROW_UPSERT_IGNORE:
        return KIND_UPSERT
    return KIND_UPDATE if op == ROW_UPDATE or op == ROW_UPDATE_IGNORE else KIND_DELETE


cdef int _find_live(Replayer self, const DecodedRow* row, Py_ssize_t* target, int64_t* place) except -1 nogil:
    """The rowset in which the row is live and its place there; none: `target` is -1. For operations without COMMIT."""
    cdef Py_ssize_t i
    cdef uint64_t key_hash = city_hash64(row.key, row.key_size)
    cdef int dead
    target[0] = -1
    for i in range(self.rowset_count):
        place[0] = (<KeyFinder> self.rowsets[i].finder).find(row.key, row.key_size, key_hash)
        if place[0] < 0:
            continue
        dead = (<DeltaMemStore> self.rowsets[i].memory).last_is_delete(<uint64_t> place[0])
        if dead == 0 or (dead < 0 and self.rowsets[i].live != NULL and self.rowsets[i].live[place[0]]):
            target[0] = i
            return 0
    return 0


cdef int _apply_to_rowset(Replayer self, const PendingOp* op, int64_t index, int64_t number, const DecodedRow* row,
                          RowOutcome outcome, Py_ssize_t target, int64_t place) except -1 nogil:
    """A change of a row on disk. `place`: its row there, or -1: to be looked for."""
    cdef RowSetStore* store = &self.rowsets[target]
    cdef RowKnowledge knowledge = ROW_LIVE
    cdef RowAction action
    cdef int status
    if place < 0:
        place = (<KeyFinder> store.finder).find(row.key, row.key_size, city_hash64(row.key, row.key_size))
    if place < 0 or (<DeltaMemStore> store.memory).last_is_delete(<uint64_t> place) == 1:
        knowledge = ROW_DEAD
    action = judge_row(_kind_of(row.op), row.op >= ROW_INSERT_IGNORE, outcome, knowledge, False, row.immutable_set)
    self.change.size = 0
    if action == ACTION_DELETE:
        self.counters.rows_deleted += 1
        change_start(&self.change, CHANGE_DELETE)
    elif action == ACTION_UPDATE and change_of_row(&self.change, self.info, row):
        self.counters.rows_updated += 1
    elif action == ACTION_UPDATE or action == ACTION_NONE:
        self.counters.rows_ignored += 1
        return EVENT_DONE
    else:
        return _write_problem(self, PROBLEM_ROW_CONTRADICTION, op, index, number)
    if self.change.failed:
        return EVENT_MEMORY
    status = (<DeltaMemStore> store.memory).put(<uint64_t> place, op.timestamp, self.change.data,
                                                <uint32_t> self.change.size, index)
    return EVENT_DONE if status == 0 else EVENT_MEMORY


cdef inline int _apply_row(Replayer self, const PendingOp* op, int64_t index, int64_t number, const DecodedRow* row,
                           const _Outcome* result) except -1 nogil:
    cdef RowOutcome outcome = result.outcome
    cdef Py_ssize_t target = result.target
    cdef int64_t place = -1
    cdef Position position
    cdef RowKnowledge knowledge
    cdef RowState state
    cdef RowAction action
    cdef RowKind kind
    cdef int status = 0
    if outcome == OUTCOME_FAILED:
        self.counters.rows_failed += 1
        return EVENT_DONE
    if outcome == OUTCOME_NOTHING:
        self.counters.rows_ignored += 1
        return EVENT_DONE
    if row.fault != ROW_VALID:
        if outcome == OUTCOME_OPEN:
            self.counters.rows_failed += self.in_doubt is None
            return EVENT_DONE
        if outcome == OUTCOME_MUTATED:
            self.problem_detail = row.fault
            return _write_problem(self, PROBLEM_ROW_INVALID, op, index, number)
        self.counters.rows_ignored += 1
        return EVENT_DONE
    if self.has_stores and op.committed:
        if outcome == OUTCOME_FLUSHED or result.active_count == 0:
            self.counters.rows_flushed += 1
            return EVENT_DONE
        if result.active_count > 1:
            return _write_problem(self, PROBLEM_ROW_CONTRADICTION, op, index, number)
    if self.in_doubt is not None:
        self.in_doubt.find(row, &position)
        if not op.committed:        # only to note its rows
            return EVENT_DONE if position.found or self.in_doubt.insert_ghost(&position, row, op.timestamp) == 0 \
                else EVENT_MEMORY
        if position.found:
            self.counters.rows_unknown += 1
            return EVENT_DONE
    if self.has_stores and target >= 0:
        return _apply_to_rowset(self, op, index, number, row, outcome, target, -1)
    self.rows.find(row, &position)
    state = self.rows.state_at(&position)
    if self.has_stores and not op.committed and state != STATE_LIVE:
        _find_live(self, row, &target, &place)
        if target >= 0:
            return _apply_to_rowset(self, op, index, number, row, outcome, target, place)
    if state == STATE_ABSENT:
        knowledge = ROW_DEAD if self.first_index == 1 or self.has_stores else ROW_UNKNOWN
    else:
        knowledge = ROW_LIVE if state == STATE_LIVE else ROW_DEAD
    kind = _kind_of(row.op)
    action = judge_row(kind, row.op >= ROW_INSERT_IGNORE, outcome, knowledge,
                       row.set_count == self.info.column_count - self.info.key_count and not row.immutable_set,
                       row.immutable_set)
    if action == ACTION_UPDATE and row.set_count == 0:
        action = ACTION_NONE        # an UPSERT of a key alone leaves a live row as it is
    # A restart marks rows that did nothing as well; only those that did something are in a flushed store.
    if outcome == OUTCOME_FLUSHED and action != ACTION_NONE:
        self.counters.rows_flushed += 1
    if action == ACTION_INSERT or action == ACTION_UPDATE or action == ACTION_DELETE:
        self.rows.note_log_index(index)
    if action == ACTION_INSERT:
        self.counters.rows_inserted += 1
        status = self.rows.insert(&position, row, op.timestamp) if state == STATE_ABSENT \
            else self.rows.reinsert(&position, row, op.timestamp)
    elif action == ACTION_UPDATE:
        self.counters.rows_updated += 1
        status = self.rows.update(&position, row, op.timestamp)
    elif action == ACTION_DELETE:
        self.counters.rows_deleted += 1
        status = self.rows.remove(&position, op.timestamp)
    elif action == ACTION_REMEMBER_DEAD:
        self.counters.rows_deleted += 1
        status = self.rows.insert_ghost(&position, row, op.timestamp)
    elif action == ACTION_UNKNOWN:
        self.counters.rows_unknown += 1
    elif action == ACTION_CONTRADICTION:
        return _write_problem(self, PROBLEM_ROW_CONTRADICTION, op, index, number)
    else:
        self.counters.rows_ignored += 1
    return EVENT_MEMORY if status < 0 else EVENT_DONE
