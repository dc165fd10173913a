"""Shallow parse of log entries, and the tally that verification and statistics need. Never looks into a request.

Strict where protobuf is lax: a field with the wrong wire type, a message repeated where one is expected, or a negative
term or index makes the batch malformed. Kudu writes none of these.
"""
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field
from kudu_storage._native.segment cimport BatchChunk, BatchRef

from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2

cdef enum:
    SIZE_BUCKETS = 32         # bucket b: batches of 2**(b-1) .. 2**b - 1 bytes
    JUMPS_MAX = 100


cdef bint _parse_opid(Slice bytes, int64_t* term, int64_t* index) noexcept nogil:
    cdef Cursor cursor = cursor_of(bytes.data, bytes.size)
    cdef Field field
    cdef int seen = 0
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 1 or field.number == 2:
            if field.wire != WIRE_VARINT or field.value > <uint64_t> INT64_MAX:
                return False
            if field.number == 1:
                term[0] = <int64_t> field.value
            else:
                index[0] = <int64_t> field.value
            seen |= <int> field.number
    return seen == 3


cdef inline bint _known_op(uint64_t op_type) noexcept nogil:
    return op_type <= OP_PARTICIPANT and op_type != 2


cdef bint _parse_replicate(LogEntry* entry) noexcept nogil:
    cdef Cursor cursor = cursor_of(entry.message.data, entry.message.size)
    cdef Field field
    cdef bint has_id = False, has_timestamp = False, has_type = False
    cdef Slice write, alter, config, participant, noop
    write.data = alter.data = config.data = participant.data = noop.data = NULL
    write.size = alter.size = config.size = participant.size = noop.size = 0
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 1:
            if field.wire != WIRE_BYTES or has_id or not _parse_opid(field.bytes, &entry.term, &entry.index):
                return False
            has_id = True
        elif field.number == 2:
            if field.wire != WIRE_FIXED64:
                return False
            entry.timestamp = field.value
            has_timestamp = True
        elif field.number == 4:
            if field.wire != WIRE_VARINT or not _known_op(field.value):
                return False
            entry.op_type = <int32_t> field.value
            has_type = True
        elif field.number == 5 or field.number == 6 or field.number == 7 or field.number == 9 or field.number == 999:
            if field.wire != WIRE_BYTES:
                return False
            if field.number == 5:
                if write.data != NULL:
                    return False
                write = field.bytes
            elif field.number == 6:
                if alter.data != NULL:
                    return False
                alter = field.bytes
            elif field.number == 7:
                if config.data != NULL:
                    return False
                config = field.bytes
            elif field.number == 9:
                if participant.data != NULL:
                    return False
                participant = field.bytes
            else:
                if noop.data != NULL:
                    return False
                noop = field.bytes
    if not (has_id and has_timestamp and has_type):
        return False
    if entry.op_type == OP_WRITE:
        entry.request = write
    elif entry.op_type == OP_ALTER_SCHEMA:
        entry.request = alter
    elif entry.op_type == OP_CHANGE_CONFIG:
        entry.request = config
    elif entry.op_type == OP_PARTICIPANT:
        entry.request = participant
    elif entry.op_type == OP_NO_OP:
        entry.request = noop
    return True


cdef bint _parse_commit(LogEntry* entry) noexcept nogil:
    cdef Cursor cursor = cursor_of(entry.message.data, entry.message.size)
    cdef Field field
    cdef bint has_id = False, has_type = False
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 1:
            if field.wire != WIRE_VARINT or not _known_op(field.value):
                return False
            entry.op_type = <int32_t> field.value
            has_type = True
        elif field.number == 2:
            if field.wire != WIRE_BYTES or has_id or not _parse_opid(field.bytes, &entry.term, &entry.index):
                return False
            has_id = True
        elif field.number == 3:
            if field.wire != WIRE_BYTES or entry.result.data != NULL:
                return False
            entry.result = field.bytes
    # The schema calls the id optional; a COMMIT of nothing in particular says nothing, and Kudu never writes one.
    return has_id and has_type


cdef int next_entry(Cursor* batch, LogEntry* entry) noexcept nogil:
    cdef Field field
    cdef Cursor cursor
    cdef Slice replicate, commit
    cdef bint has_type = False
    while True:
        if not cursor_left(batch):
            return 0
        if not read_field(batch, &field):
            return -1
        if field.number == 1:
            break
    if field.wire != WIRE_BYTES:
        return -1
    entry.type = 0
    entry.op_type = OP_UNKNOWN
    entry.term = entry.index = 0
    entry.timestamp = 0
    entry.request.data = entry.result.data = replicate.data = commit.data = NULL
    entry.request.size = entry.result.size = replicate.size = commit.size = 0
    cursor = cursor_of(field.bytes.data, field.bytes.size)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return -1
        if field.number == 1:
            if field.wire != WIRE_VARINT or (field.value != ENTRY_REPLICATE and field.value != ENTRY_COMMIT):
                return -1
            entry.type = <int32_t> field.value
            has_type = True
        elif field.number == 2:
            if field.wire != WIRE_BYTES or replicate.data != NULL:
                return -1
            replicate = field.bytes
        elif field.number == 3:
            if field.wire != WIRE_BYTES or commit.data != NULL:
                return -1
            commit = field.bytes
    if not has_type:
        return -1
    if entry.type == ENTRY_REPLICATE:
        entry.message = replicate
        return 1 if replicate.data != NULL and _parse_replicate(entry) else -1
    entry.message = commit
    return 1 if commit.data != NULL and _parse_commit(entry) else -1


OP_NAMES = {OP_UNKNOWN: "UNKNOWN_OP", OP_NO_OP: "NO_OP", OP_WRITE: "WRITE_OP", OP_ALTER_SCHEMA: "ALTER_SCHEMA_OP",
            OP_CHANGE_CONFIG: "CHANGE_CONFIG_OP", OP_PARTICIPANT: "PARTICIPANT_OP"}


cdef struct Counts:
    int64_t entries
    int64_t replicates
    int64_t commits
    int64_t[7] ops                    # REPLICATEs by OP_*
    int64_t min_replicate_index
    int64_t max_replicate_index
    int64_t max_commit_index
    int64_t first_term                # of the first REPLICATE
    int64_t first_index
    int64_t last_term                 # of the last REPLICATE
    int64_t last_index
    int64_t max_term
    uint64_t min_timestamp
    uint64_t max_timestamp
    int64_t backward                  # REPLICATEs whose index is not above the one before
    int64_t forward                   # REPLICATEs whose index is more than one above the one before


cdef class EntryTally:
    """Counts of everything added so far. See entry.pyi."""

    cdef Counts counts
    cdef int64_t single_count
    cdef int64_t several_count
    cdef int64_t mixed_count
    cdef int64_t stored_total
    cdef int64_t data_total
    cdef int64_t[SIZE_BUCKETS] buckets
    cdef int64_t largest
    cdef list jump_list
    cdef readonly object malformed_offset

    def __cinit__(self):
        self.counts.min_replicate_index = INT64_MAX
        self.counts.max_replicate_index = -1
        self.counts.max_commit_index = -1
        self.counts.min_timestamp = <uint64_t> -1
        self.jump_list = []
        self.malformed_offset = None

    def add(self, BatchChunk chunk not None):
        """Count all entries of the chunk. A malformed batch is counted not at all and stops with BadFormat."""
        cdef Py_ssize_t at = 0
        cdef int64_t from_index, to_index
        cdef bint malformed = False
        while at < chunk.count and not malformed:
            with nogil:
                at = self.add_from(chunk, at, &malformed, &from_index, &to_index)
            if at < chunk.count and not malformed:
                # Batch `at` was counted and jumps forward: that is rare, so Python remembers it.
                if len(self.jump_list) < JUMPS_MAX:
                    self.jump_list.append((from_index, to_index, chunk.batches[at].file_offset))
                at += 1
        if malformed:
            self.malformed_offset = chunk.batches[at].file_offset
            raise BadFormat("the entry batch passes its checksum but is no LogEntryBatchPB of REPLICATE and COMMIT "
                            "entries", offset=self.malformed_offset,
                            intact=f"{self.counts.entries} entries before it are intact")

    cdef Py_ssize_t add_from(self, BatchChunk chunk, Py_ssize_t at, bint* malformed, int64_t* from_index,
                             int64_t* to_index) noexcept nogil:
        """Count from batch `at` on; returns the first batch that is malformed or jumps forward, else the count."""
        cdef int jumped
        while at < chunk.count:
            jumped = self.add_batch(chunk, &chunk.batches[at], from_index, to_index)
            if jumped < 0:
                malformed[0] = True
                return at
            if jumped:
                return at
            at += 1
        return at

    cdef int add_batch(self, BatchChunk chunk, BatchRef* ref, int64_t* from_index, int64_t* to_index) noexcept nogil:
        """0, 1 = there is a jump from from_index to to_index in it, -1 = malformed and nothing was counted."""
        cdef Cursor cursor = cursor_of(chunk.data + ref.data_offset, ref.data_bytes)
        cdef Counts counts = self.counts
        cdef LogEntry entry
        cdef int status, bucket, jumped = 0
        cdef int64_t entries
        cdef uint64_t size
        while True:
            status = next_entry(&cursor, &entry)
            if status < 0:
                return -1
            if status == 0:
                break
            counts.entries += 1
            if entry.type == ENTRY_COMMIT:
                counts.commits += 1
                counts.max_commit_index = max(counts.max_commit_index, entry.index)
                continue
            if counts.replicates == 0:
                counts.first_term = entry.term
                counts.first_index = entry.index
            elif entry.index <= counts.last_index:
                counts.backward += 1
            elif entry.index > counts.last_index + 1:
                if not jumped:
                    from_index[0] = counts.last_index
                    to_index[0] = entry.index
                counts.forward += 1
                jumped = 1
            counts.replicates += 1
            counts.ops[entry.op_type] += 1
            counts.last_term = entry.term
            counts.last_index = entry.index
            counts.max_term = max(counts.max_term, entry.term)
            counts.min_replicate_index = min(counts.min_replicate_index, entry.index)
            counts.max_replicate_index = max(counts.max_replicate_index, entry.index)
            counts.min_timestamp = min(counts.min_timestamp, entry.timestamp)
            counts.max_timestamp = max(counts.max_timestamp, entry.timestamp)
        entries = counts.entries - self.counts.entries
        if entries <= 1:
            self.single_count += 1
        else:
            self.several_count += 1
            if counts.commits != self.counts.commits and counts.replicates != self.counts.replicates:
                self.mixed_count += 1
        self.counts = counts
        self.stored_total += ref.stored_bytes
        self.data_total += ref.data_bytes
        self.largest = max(self.largest, <int64_t> ref.data_bytes)
        size = ref.data_bytes
        bucket = 0
        while size and bucket < SIZE_BUCKETS - 1:
            size >>= 1
            bucket += 1
        self.buckets[bucket] += 1
        return jumped

    @property
    def entries(self):
        return self.counts.entries

    @property
    def replicates(self):
        return self.counts.replicates

    @property
    def commits(self):
        return self.counts.commits

    @property
    def batches(self):
        return self.single_count + self.several_count

    @property
    def single_entry_batches(self):
        return self.single_count

    @property
    def mixed_batches(self):
        return self.mixed_count

    @property
    def stored_bytes(self):
        return self.stored_total

    @property
    def data_bytes(self):
        return self.data_total

    @property
    def largest_batch_bytes(self):
        return self.largest

    @property
    def batch_sizes(self):
        return {(1 << b) - 1: self.buckets[b] for b in range(SIZE_BUCKETS) if self.buckets[b]}

    @property
    def ops_by_type(self):
        return {OP_NAMES[i]: self.counts.ops[i] for i in range(7) if self.counts.ops[i]}

    @property
    def min_replicate_index(self):
        return self.counts.min_replicate_index if self.counts.replicates else None

    @property
    def max_replicate_index(self):
        return self.counts.max_replicate_index if self.counts.replicates else None

    @property
    def max_commit_index(self):
        return self.counts.max_commit_index if self.counts.commits else None

    @property
    def first_replicate(self):
        return OpId(self.counts.first_term, self.counts.first_index) if self.counts.replicates else None

    @property
    def last_replicate(self):
        return OpId(self.counts.last_term, self.counts.last_index) if self.counts.replicates else None

    @property
    def max_term(self):
        return self.counts.max_term if self.counts.replicates else None

    @property
    def min_timestamp(self):
        return self.counts.min_timestamp if self.counts.replicates else None

    @property
    def max_timestamp(self):
        return self.counts.max_timestamp if self.counts.replicates else None

    @property
    def backward_jumps(self):
        return self.counts.backward

    @property
    def forward_jumps(self):
        return self.counts.forward

    @property
    def jumps(self):
        return tuple(self.jump_list)


def parse_batch(bytes data not None):
    """The entries of one LogEntryBatchPB, for tests and for printing: dicts of what next_entry() finds."""
    cdef Cursor cursor = cursor_of(<const unsigned char*> (<const char*> data), <size_t> len(data))
    cdef LogEntry entry
    cdef int status
    result = []
    while True:
        status = next_entry(&cursor, &entry)
        if status == 0:
            return result
        if status < 0:
            raise BadFormat("not a LogEntryBatchPB of REPLICATE and COMMIT entries")
        result.append({
            "type": "REPLICATE" if entry.type == ENTRY_REPLICATE else "COMMIT",
            "op_type": OP_NAMES[entry.op_type],
            "id": OpId(entry.term, entry.index),
            "timestamp": entry.timestamp,
            "message": _bytes(entry.message),
            "request": _bytes(entry.request),
            "result": _bytes(entry.result),
        })


cdef object _bytes(Slice slice):
    return None if slice.data == NULL else (<const char*> slice.data)[:slice.size]
