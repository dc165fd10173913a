"""See applier.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field
from kudu_storage._native.delta cimport ByteBuffer, buffer_append, buffer_free, buffer_room
from kudu_storage._native.memrowset cimport STATE_ABSENT, MemRowSet, Position
from kudu_storage._native.row_batch cimport RowBatch
from kudu_storage._native.row_layout cimport LayoutInfo, Projection, ProjectionInfo, RowLayout
from kudu_storage._native.row_ops cimport CELL_SET, CELL_UNSET, DECODE_END, DECODE_OK, DecodeStatus, RowScratch, decode_row
from kudu_storage._native.wire cimport put_varint, varint_size

from collections import namedtuple

from kudu_storage.common.row_codec import CELL_BYTES_DEFAULT_MAX
from kudu_storage.errors import BadFormat, Contradiction, InternalError, Unsupported

FailedRow = namedtuple("FailedRow", "number code reason key")

cdef enum:
    OP_WRITE = 3
    VARINT_BYTES_MAX = 10
    # kudu.AppStatusPB.ErrorCode
    STATUS_NOT_FOUND = 1
    STATUS_INVALID_ARGUMENT = 4
    STATUS_ALREADY_PRESENT = 6
    STATUS_IMMUTABLE = 20
    # What apply_all() returns.
    APPLIED = 0
    APPLY_MEMORY = -1
    APPLY_MALFORMED = -2
    APPLY_CONTRADICTION = -3

cdef enum Outcome:
    OUTCOME_OPEN = 0
    OUTCOME_SKIP = 1
    OUTCOME_CHANGED = 2

cdef struct Failure:
    int64_t number
    int32_t verdict
    uint32_t key_bytes          # the key follows

cdef struct Counts:
    int64_t inserted
    int64_t updated
    int64_t deleted
    int64_t ignored
    int64_t failed


cdef const char* reason_of(int32_t verdict) noexcept nogil:
    if verdict == VERDICT_PRESENT:
        return b"a row with this key exists"
    if verdict == VERDICT_ABSENT:
        return b"there is no row with this key"
    if verdict == VERDICT_IMMUTABLE:
        return b"an immutable column cannot be changed"
    if verdict == VERDICT_KEY_MISSING:
        return b"a key column has no value"
    if verdict == VERDICT_KEY_TOO_LONG:
        return b"the encoded key is longer than 16384 bytes"
    if verdict == VERDICT_NULL_FORBIDDEN:
        return b"a column that is not nullable has no value"
    if verdict == VERDICT_AUTO_INCREMENT:
        return b"the auto-incrementing column cannot take this value"
    if verdict == VERDICT_NOTHING_SET:
        return b"an update sets no column"
    if verdict == VERDICT_DELETE_WITH_VALUES:
        return b"a delete sets columns that are no key"
    return b"a cell is larger than a server takes"


cdef int32_t status_of(int32_t verdict) noexcept nogil:
    if verdict == VERDICT_PRESENT:
        return STATUS_ALREADY_PRESENT
    if verdict == VERDICT_ABSENT:
        return STATUS_NOT_FOUND
    return STATUS_IMMUTABLE if verdict == VERDICT_IMMUTABLE else STATUS_INVALID_ARGUMENT


cdef class Applier:
    cdef MemRowSet rows
    cdef RowLayout layout
    cdef const LayoutInfo* info
    cdef Projection projection
    cdef RowScratch scratch
    cdef int64_t store_id
    cdef uint32_t cell_bytes_max
    cdef int64_t failures_max
    cdef ByteBuffer results         # OperationResultPBs of the operation in hand
    cdef ByteBuffer failures        # Failure and key, one after the other
    cdef int64_t failures_kept
    cdef int64_t failed_now
    cdef Counts totals
    cdef uint8_t[24] mutated        # a row's result when it changed something: always the same bytes
    cdef size_t mutated_bytes

    def __cinit__(self, MemRowSet rows not None, RowLayout layout not None, Projection projection not None, *,
                  int64_t store_id, uint32_t cell_bytes_max=CELL_BYTES_DEFAULT_MAX, int64_t failures_max=1000):
        if layout.info.auto_increment >= 0:
            raise Unsupported("tables with an auto-incrementing column cannot be written")
        if projection.layout is not layout:
            raise InternalError("a projection to another layout")
        self.rows = rows
        self.layout = layout
        self.info = &layout.info
        self.projection = projection
        self.scratch = RowScratch()
        self.scratch.reserve(max(layout.info.column_count, 1))
        self.store_id = store_id
        self.cell_bytes_max = cell_bytes_max
        self.failures_max = failures_max
        # TxResultPB.ops = 1 { mutated_stores = 3 { mrs_id = 1 } }
        cdef size_t number = varint_size(<uint64_t> store_id)
        self.mutated[0] = 0x0A
        self.mutated[1] = <uint8_t> (3 + number)
        self.mutated[2] = 0x1A
        self.mutated[3] = <uint8_t> (1 + number)
        self.mutated[4] = 0x08
        put_varint(self.mutated + 5, <uint64_t> store_id)
        self.mutated_bytes = 5 + number

    def __dealloc__(self):
        buffer_free(&self.results)
        buffer_free(&self.failures)

    def apply(self, RowBatch batch not None, int64_t term, int64_t index, uint64_t timestamp):
        cdef Slice rows, indirect, none
        rows.data, rows.size = batch.rows.data, batch.rows.size
        indirect.data, indirect.size = batch.indirect.data, batch.indirect.size
        none.data, none.size = NULL, 0
        return self._apply(rows, indirect, self.projection, none, False, term, index, timestamp)

    def apply_logged(self, bytes rows not None, bytes indirect not None, Projection projection not None, int64_t term,
                     int64_t index, uint64_t timestamp, bytes results=None):
        cdef Slice row_bytes, indirect_bytes, decided
        if projection.layout is not self.layout:
            raise InternalError("a projection to another layout")
        row_bytes.data, row_bytes.size = <const uint8_t*> PyBytes_AS_STRING(rows), <size_t> PyBytes_GET_SIZE(rows)
        indirect_bytes.data = <const uint8_t*> PyBytes_AS_STRING(indirect)
        indirect_bytes.size = <size_t> PyBytes_GET_SIZE(indirect)
        decided.data, decided.size = NULL, 0
        if results is not None:
            decided.data, decided.size = <const uint8_t*> PyBytes_AS_STRING(results), <size_t> PyBytes_GET_SIZE(results)
        return self._apply(row_bytes, indirect_bytes, projection, decided, results is not None, term, index, timestamp)

    cdef bytes _apply(self, Slice rows, Slice indirect, Projection projection, Slice decided, bint has_results, int64_t term,
                      int64_t index, uint64_t timestamp):
        cdef int status
        self.results.size = 0
        self.results.failed = False
        self.failures.size = 0
        self.failures.failed = False
        self.failures_kept = 0
        self.failed_now = 0
        with nogil:
            status = apply_all(self, rows, indirect, &projection.info, decided, has_results, timestamp)
            self.rows.note_log_index(index)
        if status == APPLY_MEMORY or self.results.failed or self.failures.failed:
            raise MemoryError(f"no memory to apply operation {term}.{index}")
        if status == APPLY_MALFORMED:
            raise BadFormat(f"the write of operation {term}.{index} cannot be parsed")
        if status == APPLY_CONTRADICTION:
            raise Contradiction(f"operation {term}.{index}: its COMMIT does not fit the rows")
        return self._commit(term, index)

    cdef bytes _commit(self, int64_t term, int64_t index):
        """op_type = 1, commited_op_id = 2 {1 term, 2 index}, result = 3."""
        cdef size_t id_size = 2 + varint_size(<uint64_t> term) + varint_size(<uint64_t> index)
        cdef size_t total = 4 + id_size + 1 + varint_size(self.results.size) + self.results.size
        cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
        cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
        out[0] = 0x08
        out[1] = OP_WRITE
        out[2] = 0x12
        out[3] = <uint8_t> id_size
        out[4] = 0x08
        out = put_varint(out + 5, <uint64_t> term)
        out[0] = 0x10
        out = put_varint(out + 1, <uint64_t> index)
        out[0] = 0x1A
        out = put_varint(out + 1, self.results.size)
        if self.results.size:
            memcpy(out, self.results.data, self.results.size)
        return message

    def take_failures(self):
        cdef size_t at = 0
        cdef Failure failure
        found = []
        while at < self.failures.size:
            memcpy(&failure, self.failures.data + at, sizeof(Failure))
            at += sizeof(Failure)
            found.append(FailedRow(failure.number, status_of(failure.verdict),
                                   (<bytes> reason_of(failure.verdict)).decode("ascii"),
                                   PyBytes_FromStringAndSize(<const char*> self.failures.data + at, failure.key_bytes)))
            at += failure.key_bytes
        self.failures.size = 0
        return found

    @property
    def failed(self):
        return self.failed_now

    @property
    def counts(self):
        return dict(self.totals)


# -- without the GIL ---------------------------------------------------------------------------------------------------
cdef int apply_all(Applier self, Slice rows, Slice indirect, const ProjectionInfo* projection, Slice decided,
                   bint has_results, uint64_t timestamp) noexcept nogil:
    cdef Cursor at = cursor_of(rows.data, rows.size)
    cdef Cursor results = cursor_of(decided.data, decided.size)
    cdef DecodeStatus decoded
    cdef Outcome outcome = OUTCOME_OPEN
    cdef int64_t number = 0, counter = 0
    cdef int status
    self.scratch.row.indirect_bytes = 0
    while True:
        decoded = decode_row(&at, indirect, projection, self.info, &self.scratch.row, &counter)
        if decoded == DECODE_END:
            break
        if decoded != DECODE_OK:
            return APPLY_MALFORMED
        if has_results:
            status = next_outcome(&results, &outcome)
            if status != 1:
                return APPLY_CONTRADICTION if status == 0 else APPLY_MALFORMED
        status = APPLIED if outcome == OUTCOME_SKIP else apply_row(self, number, timestamp, outcome)
        if status != APPLIED:
            return status
        number += 1
    return APPLIED


cdef int next_outcome(Cursor* results, Outcome* outcome) noexcept nogil:
    """The next result of a COMMIT: 1, 0 at the end, -1 malformed."""
    cdef Field field
    cdef Cursor inner
    while True:
        if cursor_left(results) == 0:
            return 0
        if not read_field(results, &field):
            return -1
        if field.number == 1 and field.wire == 2:
            break
    outcome[0] = OUTCOME_SKIP
    inner = cursor_of(field.bytes.data, field.bytes.size)
    while cursor_left(&inner):
        if not read_field(&inner, &field):
            return -1
        if field.number == 3 and field.wire == 2:
            outcome[0] = OUTCOME_CHANGED
    return 1


cdef int apply_row(Applier self, int64_t number, uint64_t timestamp, Outcome outcome) noexcept nogil:
    cdef const DecodedRow* row = &self.scratch.row
    cdef Position position
    cdef RowState state = STATE_ABSENT
    cdef int32_t i, changes = 0
    cdef int status = 0
    cdef Verdict verdict
    for i in range(self.info.column_count):
        if row.states[i] == CELL_UNSET:
            continue
        changes += i >= self.info.key_count and not self.info.columns[i].immutable
        if row.states[i] == CELL_SET and row.sizes[i] > self.cell_bytes_max:
            return refuse(self, number, VERDICT_CELL_TOO_LARGE) if outcome == OUTCOME_OPEN else APPLY_CONTRADICTION
    if row.fault == ROW_VALID:
        self.rows.find(row, &position)
        state = self.rows.state_at(&position)
    verdict = judge_operation(row, state, changes)
    if outcome == OUTCOME_CHANGED and (verdict == VERDICT_NOTHING or verdict >= VERDICT_PRESENT):
        return APPLY_CONTRADICTION
    if verdict >= VERDICT_PRESENT:
        return refuse(self, number, verdict)
    if verdict == VERDICT_INSERT:
        self.totals.inserted += 1
        status = self.rows.insert(&position, row, timestamp) if state == STATE_ABSENT \
            else self.rows.reinsert(&position, row, timestamp)
    elif verdict == VERDICT_UPDATE:
        self.totals.updated += 1
        status = self.rows.update(&position, row, timestamp)
    elif verdict == VERDICT_DELETE:
        self.totals.deleted += 1
        status = self.rows.remove(&position, timestamp)
    else:
        self.totals.ignored += 1
        buffer_append(&self.results, <const uint8_t*> b"\x0a\x00", 2)
        return APPLIED
    buffer_append(&self.results, self.mutated, self.mutated_bytes)
    return APPLY_MEMORY if status < 0 else APPLIED


cdef int refuse(Applier self, int64_t number, Verdict verdict) noexcept nogil:
    """ops = 1 { failed_status = 2 { code = 1, message = 2 } }"""
    cdef const char* reason = reason_of(verdict)
    cdef size_t size = strlen(reason)
    cdef const DecodedRow* row = &self.scratch.row
    cdef Failure failure
    cdef uint8_t* out = buffer_room(&self.results, size + 16)
    self.totals.failed += 1
    self.failed_now += 1
    if out == NULL:
        return APPLY_MEMORY
    out[0] = 0x0A
    out[1] = <uint8_t> (6 + size)           # the texts are short: each length is one byte
    out[2] = 0x12
    out[3] = <uint8_t> (4 + size)
    out[4] = 0x08
    out[5] = <uint8_t> status_of(verdict)
    out[6] = 0x12
    out[7] = <uint8_t> size
    memcpy(out + 8, reason, size)
    self.results.size += 8 + size
    if self.failures_kept < self.failures_max:
        memset(&failure, 0, sizeof(Failure))
        failure.number = number
        failure.verdict = verdict
        failure.key_bytes = <uint32_t> row.key_size
        buffer_append(&self.failures, <const uint8_t*> &failure, sizeof(Failure))
        buffer_append(&self.failures, row.key, row.key_size)
        self.failures_kept += 1
    return APPLIED
