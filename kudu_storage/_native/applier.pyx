"""See applier.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset, strlen

from kudu_storage._native.bloom cimport city_hash64
from kudu_storage._native.cfile_index cimport compare_bytes
from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, ByteBuffer, buffer_append, buffer_free, buffer_room, change_of_row, change_start,
)
from kudu_storage._native.memrowset cimport STATE_ABSENT, STATE_LIVE, MemRowSet, Position, RowState
from kudu_storage._native.row_batch cimport RowBatch
from kudu_storage._native.row_layout cimport LayoutInfo, Projection, ProjectionInfo, RowLayout
from kudu_storage._native.row_ops cimport CELL_SET, CELL_UNSET, DECODE_END, DECODE_OK, DecodeStatus, RowScratch, decode_row
from kudu_storage._native.row_stores cimport RowStore, RowStores, StorePlace
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
    APPLY_NO_HEIR = -4          # a row's second place was not found: a bug
    APPLY_RAISED = -9
    # An operation with fewer bytes of rows is not worth looking up in key order.
    SEEK_AHEAD_BYTES_MIN = 512

cdef enum Outcome:
    OUTCOME_OPEN = 0
    OUTCOME_SKIP = 1
    OUTCOME_CHANGED = 2

cdef struct Failure:
    int64_t number
    int32_t verdict
    uint32_t key_bytes          # the key follows

# A MemRowSet as COMMITs name it: mutated_stores = 3 { mrs_id = 1 } of an OperationResultPB.
cdef struct Target:
    uint8_t[16] data
    size_t size

# Where the row in hand is live.
cdef enum Place:
    PLACE_NONE = 0
    PLACE_ROWS = 1              # in the MemRowSet
    PLACE_FROZEN = 2            # in the one that is being flushed
    PLACE_STORE = 3             # on disk

cdef struct Found:
    Place place
    Position position           # in `rows`, always
    RowState state              # there
    Position frozen_position
    StorePlace* store
    int64_t row

# A row of the operation in hand, to be looked for on disk in key order.
cdef struct Sought:
    size_t offset               # of the key in `keys`; `key` once they are all there
    const uint8_t* key
    size_t key_bytes
    int64_t number

cdef struct Seen:
    StorePlace* store           # NULL: the key is live in no rowset
    int64_t row

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


cdef void set_target(Target* target, int64_t mrs_id) noexcept nogil:
    cdef size_t number = varint_size(<uint64_t> mrs_id)
    target.data[0] = 0x1A
    target.data[1] = <uint8_t> (1 + number)
    target.data[2] = 0x08
    put_varint(target.data + 3, <uint64_t> mrs_id)
    target.size = 3 + number


cdef class Applier:
    cdef MemRowSet rows
    cdef MemRowSet frozen           # takes changes of its live rows, no new ones; or None
    cdef RowStores stores
    cdef RowStores frozen_heirs     # the rowsets that `frozen` becomes: changes of its rows go there as well; or None
    cdef RowStores heirs            # the same for the inherited ones of `stores`
    cdef RowLayout layout
    cdef const LayoutInfo* info
    cdef Projection projection
    cdef RowScratch scratch
    cdef Target rows_target
    cdef Target frozen_target
    cdef int64_t index              # of the operation in hand
    cdef uint32_t cell_bytes_max
    cdef int64_t failures_max
    cdef ByteBuffer results         # OperationResultPBs of the operation in hand
    cdef ByteBuffer failures        # Failure and key, one after the other
    cdef ByteBuffer change          # of the row in hand, for a delta store
    cdef ByteBuffer keys            # of the operation in hand, and below what is looked up ahead
    cdef ByteBuffer sought          # Sought, by key
    cdef ByteBuffer seen            # Seen, by number
    cdef bint is_seen               # `seen` is of the operation in hand
    cdef bint seeks_ahead           # many rows of the last operation were on disk
    cdef int64_t on_disk            # rows of the operation in hand that were
    cdef int64_t failures_kept
    cdef int64_t failed_now
    cdef Counts totals

    def __cinit__(self, MemRowSet rows not None, RowLayout layout not None, Projection projection not None, *,
                  int64_t store_id, uint32_t cell_bytes_max=CELL_BYTES_DEFAULT_MAX, int64_t failures_max=1000):
        if layout.info.auto_increment >= 0:
            raise Unsupported("tables with an auto-incrementing column cannot be written")
        if projection.layout is not layout:
            raise InternalError("a projection to another layout")
        self.layout = layout
        self.info = &layout.info
        self.projection = projection
        self.scratch = RowScratch()
        self.scratch.reserve(max(layout.info.column_count, 1))
        self.cell_bytes_max = cell_bytes_max
        self.failures_max = failures_max
        self.place(rows, store_id)

    def place(self, MemRowSet rows not None, int64_t store_id, *, MemRowSet frozen=None, int64_t frozen_id=-1,
              RowStores frozen_heirs=None, RowStores stores=None, RowStores heirs=None):
        if (frozen is None) != (frozen_id < 0) or (frozen is None and frozen_heirs is not None):
            raise InternalError("a MemRowSet that is being flushed has an id, and only such a one has heirs")
        self.rows, self.frozen = rows, frozen
        self.stores = RowStores() if stores is None else stores
        self.frozen_heirs, self.heirs = frozen_heirs, RowStores() if heirs is None else heirs
        set_target(&self.rows_target, store_id)
        if frozen is not None:
            set_target(&self.frozen_target, frozen_id)

    def __dealloc__(self):
        buffer_free(&self.results)
        buffer_free(&self.failures)
        buffer_free(&self.change)
        buffer_free(&self.keys)
        buffer_free(&self.sought)
        buffer_free(&self.seen)

    def apply(self, RowBatch batch not None, int64_t term, int64_t index, uint64_t timestamp, Projection projection=None):
        cdef Slice rows, indirect, none
        if projection is not None and projection.layout is not self.layout:
            raise InternalError("a projection to another layout")
        rows.data, rows.size = batch.rows.data, batch.rows.size
        indirect.data, indirect.size = batch.indirect.data, batch.indirect.size
        none.data, none.size = NULL, 0
        return self._apply(rows, indirect, self.projection if projection is None else projection, none, False, term, index,
                           timestamp)

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
        self.index = index
        with nogil:
            status = apply_all(self, rows, indirect, &projection.info, decided, has_results, timestamp)
        if status == APPLY_MEMORY or self.results.failed or self.failures.failed:
            raise MemoryError(f"no memory to apply operation {term}.{index}")
        if status == APPLY_MALFORMED:
            raise BadFormat(f"the write of operation {term}.{index} cannot be parsed")
        if status == APPLY_CONTRADICTION:
            raise Contradiction(f"operation {term}.{index}: its COMMIT does not fit the rows")
        if status == APPLY_NO_HEIR:
            raise InternalError(f"operation {term}.{index}: a row is missing in the rowset that is being written")
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
                   bint has_results, uint64_t timestamp) except APPLY_RAISED nogil:
    cdef Cursor at = cursor_of(rows.data, rows.size)
    cdef Cursor results = cursor_of(decided.data, decided.size)
    cdef DecodeStatus decoded
    cdef Outcome outcome = OUTCOME_OPEN
    cdef int64_t number = 0, counter = 0
    cdef int status
    self.is_seen = False
    if self.stores.count and self.seeks_ahead and rows.size >= SEEK_AHEAD_BYTES_MIN:
        status = seek_ahead(self, rows, indirect, projection)
        if status != APPLIED:
            return status
    self.on_disk = 0
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
    self.seeks_ahead = self.on_disk * 4 > number
    return APPLIED


cdef int by_key(const void* one, const void* other) noexcept nogil:
    cdef const Sought* a = <const Sought*> one
    cdef const Sought* b = <const Sought*> other
    return compare_bytes(a.key, a.key_bytes, b.key, b.key_bytes)


cdef int seek_ahead(Applier self, Slice rows, Slice indirect, const ProjectionInfo* projection) except APPLY_RAISED nogil:
    """Find all rows of the operation that are on disk, in key order: a block of keys is then decoded once for all of its
    rows. A row found live may be dead when its turn comes (then the key is live in no rowset), never the other way."""
    cdef const DecodedRow* row = &self.scratch.row
    cdef Cursor at = cursor_of(rows.data, rows.size)
    cdef Sought sought
    cdef Sought* wanted
    cdef Seen* seen
    cdef Seen nothing
    cdef int64_t counter = 0, number = 0
    cdef size_t i, count
    memset(&nothing, 0, sizeof(Seen))
    self.keys.size = self.sought.size = self.seen.size = 0
    self.scratch.row.indirect_bytes = 0
    while decode_row(&at, indirect, projection, self.info, &self.scratch.row, &counter) == DECODE_OK:
        if row.fault == ROW_VALID:
            sought.offset, sought.key, sought.key_bytes, sought.number = self.keys.size, NULL, row.key_size, number
            buffer_append(&self.keys, row.key, row.key_size)
            buffer_append(&self.sought, <const uint8_t*> &sought, sizeof(Sought))
        buffer_append(&self.seen, <const uint8_t*> &nothing, sizeof(Seen))
        number += 1
    if self.keys.failed or self.sought.failed or self.seen.failed:
        return APPLY_MEMORY
    wanted, seen = <Sought*> self.sought.data, <Seen*> self.seen.data
    count = self.sought.size // sizeof(Sought)
    for i in range(count):
        wanted[i].key = self.keys.data + wanted[i].offset
    if count:
        qsort(wanted, count, sizeof(Sought), by_key)
    for i in range(count):
        number = wanted[i].number
        self.stores.find(wanted[i].key, wanted[i].key_bytes, city_hash64(wanted[i].key, wanted[i].key_bytes), True,
                         &seen[number].store, &seen[number].row)
    self.is_seen = True
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


cdef int apply_row(Applier self, int64_t number, uint64_t timestamp, Outcome outcome) except APPLY_RAISED nogil:
    cdef const DecodedRow* row = &self.scratch.row
    cdef Found found
    cdef int32_t i, changes = 0
    cdef int status
    cdef Verdict verdict
    for i in range(self.info.column_count):
        if row.states[i] == CELL_UNSET:
            continue
        changes += i >= self.info.key_count and not self.info.columns[i].immutable
        if row.states[i] == CELL_SET and row.sizes[i] > self.cell_bytes_max:
            return refuse(self, number, VERDICT_CELL_TOO_LARGE) if outcome == OUTCOME_OPEN else APPLY_CONTRADICTION
    found.place = PLACE_NONE
    if row.fault == ROW_VALID:
        find_row(self, row, number, &found)
    verdict = judge_operation(row, found.place != PLACE_NONE, changes)
    if outcome == OUTCOME_CHANGED and (verdict == VERDICT_NOTHING or verdict >= VERDICT_PRESENT):
        return APPLY_CONTRADICTION
    if verdict >= VERDICT_PRESENT:
        return refuse(self, number, verdict)
    if verdict == VERDICT_NOTHING:
        self.totals.ignored += 1
        buffer_append(&self.results, <const uint8_t*> b"\x0a\x00", 2)
        return APPLIED
    if verdict == VERDICT_INSERT:
        self.totals.inserted += 1
        status = self.rows.insert(&found.position, row, timestamp) if found.state == STATE_ABSENT \
            else self.rows.reinsert(&found.position, row, timestamp)
        self.rows.note_log_index(self.index)
        put_result(self, &self.rows_target, NULL, NULL)
        return APPLY_MEMORY if status < 0 else APPLIED
    self.totals.updated += verdict == VERDICT_UPDATE
    self.totals.deleted += verdict == VERDICT_DELETE
    return change_row(self, row, &found, verdict, timestamp)


cdef int find_row(Applier self, const DecodedRow* row, int64_t number, Found* found) except APPLY_RAISED nogil:
    """Where the row is live. Memory first: most rows that change were written lately, and it costs no file."""
    self.rows.find(row, &found.position)
    found.state = self.rows.state_at(&found.position)
    if found.state == STATE_LIVE:
        found.place = PLACE_ROWS
        return APPLIED
    if self.frozen is not None:
        self.frozen.find(row, &found.frozen_position)
        if self.frozen.state_at(&found.frozen_position) == STATE_LIVE:
            found.place = PLACE_FROZEN
            return APPLIED
    if self.is_seen:
        found.store = (<Seen*> self.seen.data)[number].store
        found.row = (<Seen*> self.seen.data)[number].row
        if found.store != NULL and (<RowStore> found.store.store).live.is_dead(found.row):
            found.store = NULL
    elif self.stores.count:
        self.stores.find(row.key, row.key_size, city_hash64(row.key, row.key_size), True, &found.store, &found.row)
    else:
        return APPLIED
    if found.store != NULL:
        self.on_disk += 1
        found.place = PLACE_STORE
    return APPLIED


cdef int change_row(Applier self, const DecodedRow* row, Found* found, Verdict verdict,
                    uint64_t timestamp) except APPLY_RAISED nogil:
    """Update or delete a live row where it is, and in the rowset that it is being copied to."""
    cdef int status
    if found.place == PLACE_ROWS:
        status = change_memory(self, self.rows, &found.position, row, verdict, timestamp)
        put_result(self, &self.rows_target, NULL, NULL)
        return status
    self.change.size = 0
    if verdict == VERDICT_DELETE:
        change_start(&self.change, CHANGE_DELETE)
    else:
        change_of_row(&self.change, self.info, row)
    if self.change.failed:
        return APPLY_MEMORY
    if found.place == PLACE_FROZEN:
        status = change_memory(self, self.frozen, &found.frozen_position, row, verdict, timestamp)
        if status == APPLIED and self.frozen_heirs is not None:
            return change_heir(self, self.frozen_heirs, row, &self.frozen_target, NULL, verdict, timestamp)
        put_result(self, &self.frozen_target, NULL, NULL)
        return status
    status = change_store(self, found.store.store, found.row, verdict, timestamp)
    if status == APPLIED and found.store.inherited:
        return change_heir(self, self.heirs, row, NULL, found.store.store, verdict, timestamp)
    put_result(self, NULL, found.store.store, NULL)
    return status


cdef int change_memory(Applier self, MemRowSet rows, const Position* position, const DecodedRow* row, Verdict verdict,
                       uint64_t timestamp) noexcept nogil:
    cdef int status = rows.update(position, row, timestamp) if verdict == VERDICT_UPDATE \
        else rows.remove(position, timestamp)
    rows.note_log_index(self.index)
    return APPLY_MEMORY if status < 0 else APPLIED


cdef int change_store(Applier self, void* store, int64_t row, Verdict verdict, uint64_t timestamp) noexcept nogil:
    if (<RowStore> store).memory.put(<uint64_t> row, timestamp, self.change.data, <uint32_t> self.change.size,
                                     self.index) < 0:
        return APPLY_MEMORY
    if verdict == VERDICT_DELETE and (<RowStore> store).live.mark_dead(row) < 0:
        return APPLY_MEMORY
    return APPLIED


cdef int change_heir(Applier self, RowStores heirs, const DecodedRow* row, const Target* memory, void* store,
                     Verdict verdict, uint64_t timestamp) except APPLY_RAISED nogil:
    cdef int64_t at = -1
    cdef StorePlace* heir = NULL
    heirs.find(row.key, row.key_size, city_hash64(row.key, row.key_size), True, &heir, &at)
    if heir == NULL:
        return APPLY_NO_HEIR
    put_result(self, memory, store, heir.store)
    return change_store(self, heir.store, at, verdict, timestamp)


cdef void put_result(Applier self, const Target* memory, void* store, void* heir) noexcept nogil:
    """TxResultPB.ops = 1 { mutated_stores = 3 ... }, the store that was there first before its heir."""
    cdef size_t size = 0
    cdef uint8_t head[2]
    if memory != NULL:
        size += memory.size
    if store != NULL:
        size += (<RowStore> store).target_bytes
    if heir != NULL:
        size += (<RowStore> heir).target_bytes
    head[0], head[1] = 0x0A, <uint8_t> size         # two targets have less than 64 bytes
    buffer_append(&self.results, head, 2)
    if memory != NULL:
        buffer_append(&self.results, memory.data, memory.size)
    if store != NULL:
        buffer_append(&self.results, (<RowStore> store).target, (<RowStore> store).target_bytes)
    if heir != NULL:
        buffer_append(&self.results, (<RowStore> heir).target, (<RowStore> heir).target_bytes)


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
