"""Operations between the log and the wire: the same ReplicateMsg bytes, in other frames. See consensus_ops.pyi.

    log   LogEntryBatchPB    0A <entry> 08 01 12 <size> <ReplicateMsg>     one for each operation
    wire  ConsensusRequestPB                  32 <size> <ReplicateMsg>     among the request's other fields

Two passes: the first measures, the second copies each message once, into memory of the exact size. No Python runs per
operation; the GIL is held, since the caller is a loop that has nothing else to do meanwhile.

May not touch: files, locks, requests' contents (a ReplicateMsg is parsed as far as entry.pyx does it).
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, Field, cursor_left, cursor_of, read_field
from kudu_storage._native.entry cimport (
    ENTRY_REPLICATE,
    OP_CHANGE_CONFIG,
    OP_NO_OP,
    LogEntry,
    next_entry,
)
from kudu_storage._native.log_batch cimport ENTRY_HEADER_BYTES
from kudu_storage._native.log_entries cimport CachedBatch
from kudu_storage._native.segment cimport BatchChunk
from kudu_storage._native.wire cimport put_bytes, put_varint, varint_size

from kudu_storage.errors import BadFormat, BadFrame, FrameTooLarge, InvalidArgument

cdef enum:
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    OPS_FIELD = 6               # ConsensusRequestPB.ops
    OPS_TAG = 0x32
    ENTRY_TAG = 0x0A            # LogEntryBatchPB.entry
    TYPE_TAG = 0x08             # LogEntryPB.type
    REPLICATE_TAG = 0x12        # LogEntryPB.replicate
    RUNS_MAX = 4096             # a request of 1 MiB with as many configurations in it is none that anybody sends

# Terms and indexes above it are refused: nobody gets there by counting, and adding to them must not overflow.
cdef int64_t NUMBER_MAX = (<int64_t> 1) << 62

cdef enum:                      # as consensus.raft.messages.Kind numbers them
    KIND_DATA = 0
    KIND_NO_OP = 1
    KIND_CONFIG = 5


# -- sizes and writing -------------------------------------------------------------------------------------------------
cdef inline size_t _entry_body_bytes(size_t message) noexcept nogil:
    return 3 + varint_size(message) + message


cdef inline size_t _log_bytes(size_t message) noexcept nogil:
    cdef size_t body = _entry_body_bytes(message)
    return 1 + varint_size(body) + body


cdef inline size_t _wire_bytes(size_t message) noexcept nogil:
    return 1 + varint_size(message) + message


cdef inline uint8_t* _put_log(uint8_t* out, const uint8_t* message, size_t size) noexcept nogil:
    out[0] = ENTRY_TAG
    out = put_varint(out + 1, _entry_body_bytes(size))
    out[0] = TYPE_TAG
    out[1] = ENTRY_REPLICATE
    out[2] = REPLICATE_TAG
    return put_bytes(put_varint(out + 3, size), message, size)


cdef inline uint8_t* _put_wire(uint8_t* out, const uint8_t* message, size_t size) noexcept nogil:
    out[0] = OPS_TAG
    return put_bytes(put_varint(out + 1, size), message, size)


# -- from the log ------------------------------------------------------------------------------------------------------
cdef struct Range:
    int64_t first               # wanted
    int64_t last
    int64_t next                # the next index that must come
    size_t bytes                # of what was found, in the form that is made
    bint wire                   # ops of a request; else entries of a batch
    uint8_t* out                # NULL: measure
    uint8_t* end                # of the memory that was measured


cdef int _walk(Cursor* batch, Range* found) noexcept nogil:
    """Take the wanted operations of one batch. 0; -1: malformed; -2: not consecutive; -3: not what was measured."""
    cdef LogEntry entry
    cdef size_t size
    cdef int status
    while found.next <= found.last:
        status = next_entry(batch, &entry)
        if status <= 0:
            return status
        if entry.type != ENTRY_REPLICATE or entry.index < found.first:
            continue
        if entry.index != found.next:
            return -2
        found.next += 1
        size = _wire_bytes(entry.message.size) if found.wire else _log_bytes(entry.message.size)
        if found.out == NULL:
            found.bytes += size
        elif size > <size_t> (found.end - found.out):
            return -3
        elif found.wire:
            found.out = _put_wire(found.out, entry.message.data, entry.message.size)
        else:
            found.out = _put_log(found.out, entry.message.data, entry.message.size)
    return 0


cdef int _walk_part(object part, Range* found) except -4:
    """One part: a batch of the cache, a chunk of a segment, or the bytes of a LogEntryBatchPB."""
    cdef Cursor cursor
    cdef Py_buffer view
    cdef CachedBatch cached
    cdef BatchChunk chunk
    cdef Py_ssize_t i
    cdef int status = 0
    if isinstance(part, CachedBatch):
        cached = part
        if cached.batch == NULL:
            raise InvalidArgument("this holds no batch")
        cursor = cursor_of(cached.batch.bytes + ENTRY_HEADER_BYTES, cached.batch.body_bytes)
        return _walk(&cursor, found)
    if isinstance(part, BatchChunk):
        chunk = part
        for i in range(chunk.count):
            cursor = cursor_of(chunk.data + chunk.batches[i].data_offset, chunk.batches[i].data_bytes)
            status = _walk(&cursor, found)
            if status < 0:
                break
        return status
    PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
    cursor = cursor_of(<const uint8_t*> view.buf, <size_t> view.len)
    status = _walk(&cursor, found)
    PyBuffer_Release(&view)
    return status


cdef object _cut(object parts, int64_t first, int64_t last, bint wire):
    cdef Range found
    cdef bytes made
    cdef int turn, status
    cdef tuple all_parts = tuple(parts)
    if first < 1 or last < first or last > NUMBER_MAX:
        raise InvalidArgument(f"no operations {first} to {last}")
    made = None
    found.first = first
    found.last = last
    found.wire = wire
    found.bytes = 0
    found.out = NULL
    for turn in range(2):
        found.next = first
        for part in all_parts:
            status = _walk_part(part, &found)
            if status == -1:
                raise BadFormat("a log entry batch cannot be parsed")
            if status == -3:
                break
            if status == -2:
                raise InvalidArgument(f"operations {first} to {last} do not follow each other: {found.next} is missing")
            if found.next > last:
                break
        if found.next <= last and turn == 0:
            raise InvalidArgument(f"operations {first} to {last} end with {found.next - 1}")
        if turn == 0:
            made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> found.bytes)
            found.out = <uint8_t*> PyBytes_AS_STRING(made)
            found.end = found.out + found.bytes
    if found.out != found.end:
        raise InvalidArgument("the log's bytes changed while they were read")
    return made


def ops_field(parts, int64_t first, int64_t last):
    """See consensus_ops.pyi."""
    return _cut(parts, first, last, True)


def log_body(parts, int64_t first, int64_t last):
    """See consensus_ops.pyi."""
    return _cut(parts, first, last, False)


# -- from the wire -----------------------------------------------------------------------------------------------------
cdef struct Sizes:
    size_t rest                 # bytes of the fields that are no operations
    size_t body                 # of the LogEntryBatchPB to be made
    int64_t count


cdef bint _measure(const uint8_t* data, size_t size, Sizes* sizes) noexcept nogil:
    cdef Cursor cursor = cursor_of(data, size)
    cdef Field field
    cdef const uint8_t* at
    sizes.rest = sizes.body = 0
    sizes.count = 0
    while cursor_left(&cursor):
        at = cursor.pos
        if not read_field(&cursor, &field):
            return False
        if field.number == OPS_FIELD:
            if field.wire != WIRE_BYTES:
                return False
            sizes.count += 1
            sizes.body += _log_bytes(field.bytes.size)
        else:
            sizes.rest += <size_t> (cursor.pos - at)
    return True


cdef void _separate(const uint8_t* data, size_t size, uint8_t* rest, uint8_t* body) noexcept nogil:
    """What _measure has gone through already, so nothing can be malformed."""
    cdef Cursor cursor = cursor_of(data, size)
    cdef Field field
    cdef const uint8_t* at
    while cursor_left(&cursor):
        at = cursor.pos
        if not read_field(&cursor, &field):
            return
        if field.number == OPS_FIELD:
            body = _put_log(body, field.bytes.data, field.bytes.size)
        else:
            rest = put_bytes(rest, at, <size_t> (cursor.pos - at))


cdef bint _has_payload(const LogEntry* entry) noexcept nogil:
    """Whether a NO_OP carries a user's bytes (NoOpRequestPB.payload_for_tests), which makes it theirs."""
    cdef Cursor cursor
    cdef Field field
    if entry.request.data == NULL:
        return False
    cursor = cursor_of(entry.request.data, entry.request.size)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 1 and field.wire == WIRE_BYTES:
            return True
    return False


cdef inline int _kind_of(const LogEntry* entry) noexcept nogil:
    if entry.op_type == OP_CHANGE_CONFIG:
        return KIND_CONFIG
    if entry.op_type == OP_NO_OP and not _has_payload(entry):
        return KIND_NO_OP
    return KIND_DATA


cdef struct Open:               # the run that the next operation may belong to
    int64_t term
    int64_t first
    int64_t last
    int kind
    size_t bytes


cdef int _close(list runs, const Open* run, object record) except -1:
    if len(runs) >= RUNS_MAX:
        raise FrameTooLarge(f"a request with more than {RUNS_MAX} changes of term or kind of operation")
    runs.append((run.term, run.first, run.last, run.kind, run.bytes, record))
    return 0


cdef list _runs_of(const uint8_t* body, size_t size, uint64_t* timestamp):
    """Operations as ranges, and their highest timestamp. Raises BadFrame for what no leader sends."""
    cdef Cursor cursor = cursor_of(body, size)
    cdef LogEntry entry
    cdef Open run
    cdef list runs = []
    cdef const uint8_t* at
    cdef int status, kind
    timestamp[0] = 0
    run.last = run.first = 0
    run.term = 0
    run.kind = KIND_CONFIG
    run.bytes = 0
    while True:
        at = cursor.pos
        status = next_entry(&cursor, &entry)
        if status == 0:
            break
        if status < 0:
            raise BadFrame("an operation that cannot be parsed")
        if entry.index < 1 or entry.term < 1 or entry.index > NUMBER_MAX or entry.term > NUMBER_MAX:
            raise BadFrame(f"no operation can be {entry.term}.{entry.index}")
        if run.last and (entry.index != run.last + 1 or entry.term < run.term):
            raise BadFrame(f"operation {entry.term}.{entry.index} after {run.term}.{run.last}")
        if entry.timestamp > timestamp[0]:
            timestamp[0] = entry.timestamp
        kind = _kind_of(&entry)
        if run.first and (kind == KIND_CONFIG or kind != run.kind or entry.term != run.term):
            if run.kind != KIND_CONFIG:
                _close(runs, &run, None)
            run.first = 0
        if not run.first:
            run.first = entry.index
            run.term = entry.term
            run.kind = kind
            run.bytes = 0
        run.last = entry.index
        run.bytes += <size_t> (cursor.pos - at)
        if kind == KIND_CONFIG:
            if entry.request.data == NULL:
                raise BadFrame(f"operation {entry.term}.{entry.index} changes the configuration and does not say how")
            _close(runs, &run, PyBytes_FromStringAndSize(<const char*> entry.request.data,
                                                         <Py_ssize_t> entry.request.size))
            run.first = 0
    if run.first:
        _close(runs, &run, None)
    return runs


def split_request(data):
    """See consensus_ops.pyi."""
    cdef Py_buffer view
    cdef Sizes sizes
    cdef bytes rest = b""
    cdef bytes body = b""
    cdef uint64_t timestamp = 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not _measure(<const uint8_t*> view.buf, <size_t> view.len, &sizes):
            raise BadFrame("a request that cannot be parsed")
        if sizes.count == 0:
            return PyBytes_FromStringAndSize(<const char*> view.buf, view.len), b"", [], 0
        rest = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> sizes.rest)
        body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> sizes.body)
        _separate(<const uint8_t*> view.buf, <size_t> view.len, <uint8_t*> PyBytes_AS_STRING(rest),
                  <uint8_t*> PyBytes_AS_STRING(body))
    finally:
        PyBuffer_Release(&view)
    runs = _runs_of(<const uint8_t*> PyBytes_AS_STRING(body), sizes.body, &timestamp)
    return rest, body, runs, timestamp


def log_runs(body):
    """See consensus_ops.pyi."""
    cdef Py_buffer view
    cdef uint64_t timestamp = 0
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        runs = _runs_of(<const uint8_t*> view.buf, <size_t> view.len, &timestamp)
    finally:
        PyBuffer_Release(&view)
    return runs, timestamp


def fixed64_field(data, int number):
    """See consensus_ops.pyi."""
    cdef Py_buffer view
    cdef Cursor cursor
    cdef Field field
    cdef uint64_t value = 0
    cdef bint sound = True
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cursor = cursor_of(<const uint8_t*> view.buf, <size_t> view.len)
    while sound and cursor_left(&cursor):
        sound = read_field(&cursor, &field)
        if sound and field.number == <unsigned int> number and field.wire == WIRE_FIXED64:
            value = field.value
    PyBuffer_Release(&view)
    if not sound:
        raise BadFrame("a message that cannot be parsed")
    return value
