"""Which stores in memory a log's COMMITs name, and from which operation on: what anchors a log, read from the log alone.

A COMMIT's result (tablet.proto: TxResultPB, OperationResultPB, MemStoreTargetPB) tells for each row operation the stores
that it changed: one, or two while a flush or compaction runs. The operation's time and size are in its REPLICATE, which
comes before the COMMIT, so those without one are kept: a ring, [first, next) by index. Nothing here judges the log's
order; an operation that is replaced is forgotten, one that is missing has no time.
"""
from collections import namedtuple

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field
from kudu_storage._native.entry cimport ENTRY_REPLICATE, LogEntry, next_entry
from kudu_storage._native.segment cimport BatchChunk

from kudu_storage.errors import BadFormat

StoreUse = namedtuple("StoreUse", "memrowset_id rowset_id dms_id first_index first_timestamp last_index operations rows "
                                  "bytes")
InFlight = namedtuple("InFlight", "first_index first_timestamp operations")

cdef enum:
    FIRST_CAPACITY = 64         # of both tables; a power of two
    OK = 0
    MALFORMED = -1
    NO_MEMORY = -2

cdef struct Operation:
    int64_t term
    uint64_t timestamp
    uint64_t request_bytes
    bint committed

cdef struct Use:
    int64_t memrowset           # -1: a delta store
    int64_t rowset
    int64_t delta_store
    int64_t first_index         # 0: the slot is free
    int64_t last_index
    int64_t operations
    int64_t rows
    uint64_t first_timestamp
    bint has_time               # of the first operation
    double bytes


cdef inline uint64_t _hash(int64_t memrowset, int64_t rowset, int64_t delta_store) noexcept nogil:
    cdef uint64_t value = <uint64_t> memrowset * <uint64_t> 0x9E3779B97F4A7C15
    value = (value ^ <uint64_t> rowset) * <uint64_t> 0xC2B2AE3D27D4EB4F
    value = (value ^ <uint64_t> delta_store) * <uint64_t> 0x9E3779B97F4A7C15
    return value ^ (value >> 29)


cdef class StoreAnchors:
    """See store_anchors.pyi."""

    cdef Operation* ring
    cdef uint64_t ring_mask
    cdef int64_t first              # [first, next): operations of which the first has no COMMIT; 0: none yet
    cdef int64_t next
    cdef Use* uses                  # open addressing
    cdef uint64_t use_mask
    cdef uint64_t use_count
    cdef Use* last_use              # of the row operation before: rows of a batch mostly go to one store

    def __cinit__(self):
        self.ring = <Operation*> calloc(FIRST_CAPACITY, sizeof(Operation))
        self.uses = <Use*> calloc(FIRST_CAPACITY, sizeof(Use))
        if self.ring == NULL or self.uses == NULL:
            raise MemoryError()
        self.ring_mask = self.use_mask = FIRST_CAPACITY - 1

    def __dealloc__(self):
        free(self.ring)
        free(self.uses)

    def add(self, BatchChunk chunk not None):
        cdef Py_ssize_t at = 0
        cdef int status = OK
        with nogil:
            while at < chunk.count:
                status = self.add_batch(cursor_of(chunk.data + chunk.batches[at].data_offset,
                                                  chunk.batches[at].data_bytes))
                if status != OK:
                    break
                at += 1
        if status == NO_MEMORY:
            raise MemoryError()
        if status == MALFORMED:
            raise BadFormat("the entry batch passes its checksum but cannot be parsed",
                            offset=chunk.batches[at].file_offset)

    cdef int add_batch(self, Cursor batch) noexcept nogil:
        cdef LogEntry entry
        cdef int status
        while True:
            status = next_entry(&batch, &entry)
            if status <= 0:
                return OK if status == 0 else MALFORMED
            if entry.index < 1 or entry.index >> 62:        # room for index + 1
                return MALFORMED
            status = self.add_replicate(&entry) if entry.type == ENTRY_REPLICATE else self.add_commit(&entry)
            if status != OK:
                return status

    cdef int add_replicate(self, const LogEntry* entry) noexcept nogil:
        cdef Operation* operation
        if entry.index < self.first or entry.index > self.next:
            self.first = self.next = entry.index        # the log begins here, or some are missing
        self.next = entry.index + 1                     # those from it on are replaced
        if <uint64_t> (self.next - self.first) > self.ring_mask + 1 and self.grow_ring() != OK:
            return NO_MEMORY
        operation = &self.ring[<uint64_t> entry.index & self.ring_mask]
        operation.term = entry.term
        operation.timestamp = entry.timestamp
        operation.request_bytes = entry.request.size
        operation.committed = False
        return OK

    cdef int grow_ring(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.ring_mask + 1
        cdef Operation* ring = <Operation*> calloc(mask + 1, sizeof(Operation))
        cdef int64_t index
        if ring == NULL:
            return NO_MEMORY
        for index in range(self.first, self.next):
            ring[<uint64_t> index & mask] = self.ring[<uint64_t> index & self.ring_mask]
        free(self.ring)
        self.ring = ring
        self.ring_mask = mask
        return OK

    cdef int add_commit(self, const LogEntry* entry) noexcept nogil:
        cdef Operation* operation = NULL
        cdef int status
        if self.first <= entry.index < self.next:
            operation = &self.ring[<uint64_t> entry.index & self.ring_mask]
            if operation.term != entry.term:
                operation = NULL
        status = self.add_result(entry, operation)
        if operation != NULL:
            operation.committed = True
            while self.first < self.next and self.ring[<uint64_t> self.first & self.ring_mask].committed:
                self.first += 1
        return status

    cdef int add_result(self, const LogEntry* entry, const Operation* operation) noexcept nogil:
        cdef Cursor results = cursor_of(entry.result.data, entry.result.size)
        cdef Field field
        cdef int64_t count = 0
        cdef double share = 0
        cdef int status
        while cursor_left(&results):
            if not read_field(&results, &field):
                return MALFORMED
            count += field.number == 1 and field.wire == 2
        if count and operation != NULL:
            share = <double> operation.request_bytes / <double> count
        results = cursor_of(entry.result.data, entry.result.size)
        while cursor_left(&results):
            if not read_field(&results, &field):
                return MALFORMED
            if field.number == 1 and field.wire == 2:
                status = self.add_row(field.bytes, entry.index, operation, share)
                if status != OK:
                    return status
        return OK

    cdef int add_row(self, Slice result, int64_t index, const Operation* operation, double share) noexcept nogil:
        """One OperationResultPB. One that failed, or is in a flushed store, names no store."""
        cdef Cursor cursor = cursor_of(result.data, result.size)
        cdef Field field
        cdef bint counts = True
        cdef int status
        while cursor_left(&cursor):
            if not read_field(&cursor, &field):
                return MALFORMED
            if (field.number == 1 and field.wire == 0 and field.value) or (field.number == 2 and field.wire == 2):
                counts = False
        if not counts:
            return OK
        cursor = cursor_of(result.data, result.size)
        while cursor_left(&cursor):
            if not read_field(&cursor, &field):
                return MALFORMED
            if field.number == 3 and field.wire == 2:
                status = self.add_store(field.bytes, index, operation, share)
                if status != OK:
                    return status
        return OK

    cdef int add_store(self, Slice target, int64_t index, const Operation* operation, double share) noexcept nogil:
        """One MemStoreTargetPB."""
        cdef Cursor cursor = cursor_of(target.data, target.size)
        cdef Field field
        cdef int64_t memrowset = -1, rowset = -1, delta_store = -1
        cdef Use* use
        while cursor_left(&cursor):
            if not read_field(&cursor, &field):
                return MALFORMED
            if field.wire != 0:
                continue
            if field.number == 1:
                memrowset = <int64_t> field.value
            elif field.number == 2:
                rowset = <int64_t> field.value
            elif field.number == 3:
                delta_store = <int64_t> field.value
        if memrowset >= 0:
            rowset = delta_store = -1
        else:
            memrowset = -1
            if rowset < 0 or delta_store < 0:
                return OK
        use = self.use_of(memrowset, rowset, delta_store)
        if use == NULL:
            return NO_MEMORY
        if use.first_index == 0 or index < use.first_index:
            use.first_index = index
            use.has_time = operation != NULL
            use.first_timestamp = operation.timestamp if operation != NULL else 0
        if use.last_index != index:
            use.operations += 1
        use.last_index = index if index > use.last_index else use.last_index
        use.rows += 1
        use.bytes += share
        return OK

    cdef Use* use_of(self, int64_t memrowset, int64_t rowset, int64_t delta_store) noexcept nogil:
        """The slot of a store, made if there is none; NULL: no memory."""
        cdef Use* use = self.last_use
        if use != NULL and use.memrowset == memrowset and use.rowset == rowset and use.delta_store == delta_store:
            return use
        if 2 * (self.use_count + 1) > self.use_mask and self.grow_uses() != OK:
            return NULL
        use = self.slot_of(self.uses, self.use_mask, memrowset, rowset, delta_store)
        if use.operations == 0:
            use.memrowset, use.rowset, use.delta_store = memrowset, rowset, delta_store
            self.use_count += 1
        self.last_use = use
        return use

    cdef Use* slot_of(self, Use* uses, uint64_t mask, int64_t memrowset, int64_t rowset,
                      int64_t delta_store) noexcept nogil:
        cdef uint64_t at = _hash(memrowset, rowset, delta_store) & mask
        while uses[at].operations and not (uses[at].memrowset == memrowset and uses[at].rowset == rowset
                                           and uses[at].delta_store == delta_store):
            at = (at + 1) & mask
        return &uses[at]

    cdef int grow_uses(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.use_mask + 1, at
        cdef Use* uses = <Use*> calloc(mask + 1, sizeof(Use))
        cdef Use* use
        if uses == NULL:
            return NO_MEMORY
        for at in range(self.use_mask + 1):
            use = &self.uses[at]
            if use.operations:
                self.slot_of(uses, mask, use.memrowset, use.rowset, use.delta_store)[0] = use[0]
        free(self.uses)
        self.uses = uses
        self.use_mask = mask
        self.last_use = NULL
        return OK

    @property
    def stores(self):
        cdef uint64_t at
        cdef Use* use
        found = []
        for at in range(self.use_mask + 1):
            use = &self.uses[at]
            if use.operations:
                found.append(StoreUse(
                    None if use.memrowset < 0 else use.memrowset, None if use.rowset < 0 else use.rowset,
                    None if use.delta_store < 0 else use.delta_store, use.first_index,
                    use.first_timestamp if use.has_time else None, use.last_index, use.operations, use.rows,
                    <int64_t> use.bytes))
        return sorted(found, key=_place_of)

    @property
    def in_flight(self):
        cdef int64_t index, count = 0
        if self.first >= self.next:
            return None
        for index in range(self.first, self.next):
            count += not self.ring[<uint64_t> index & self.ring_mask].committed
        return InFlight(self.first, self.ring[<uint64_t> self.first & self.ring_mask].timestamp, count)


def _place_of(use):
    return use.first_index, -1 if use.memrowset_id is None else use.memrowset_id, use.rowset_id or 0, use.dms_id or 0
