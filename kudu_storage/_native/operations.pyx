"""What a replica must know of the operations in a batch, without a word of Python for each: see operations.pyi.

Batches are serialised LogEntryBatchPB, as the log's cache has them. May not touch: files, locks. Holds the GIL: what it reads is
in memory, and little.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, cursor_left, cursor_of
from kudu_storage._native.entry cimport ENTRY_COMMIT, ENTRY_REPLICATE, OP_CHANGE_CONFIG, OP_NO_OP, LogEntry, next_entry
from kudu_storage._native.log_entries cimport Found, take_entry
from kudu_storage._native.segment cimport BatchChunk
from kudu_storage._native.wire cimport put_varint, varint_size

from kudu_storage.errors import BadFormat, InvalidArgument


cdef inline int32_t _kind(const Found* found) noexcept nogil:
    """0: the state machine's. 1: begins a term. 5: a configuration."""
    if found.is_user:
        return 0
    if found.op_type == OP_NO_OP or found.op_type == OP_CHANGE_CONFIG:
        return found.op_type
    return 0


cdef object _malformed():
    return BadFormat("a batch of operations cannot be parsed")


@cython.no_gc
@cython.freelist(256)
cdef class Operation:
    """One operation, for whoever applies it. `payload` is None for those that are not the state machine's."""
    cdef readonly int64_t index
    cdef readonly int64_t term
    cdef readonly uint64_t timestamp
    cdef readonly int32_t kind
    cdef readonly bytes payload

    def __repr__(self):
        size = "no payload" if self.payload is None else f"{len(self.payload)} bytes"
        return f"<Operation {self.term}.{self.index} {size}>"


def look(batch, int64_t first, int64_t last, size_t max_bytes):
    """Which part of `batch` holds the operations from `first` to `last`, or about max_bytes of them, at least one.

    Returns:
        (begin, end, runs): offsets in the batch, and (term, first, last, kind, bytes, request) for each row of operations
        of one term and kind; `request` is that of a configuration, else None.
    """
    cdef Py_buffer view
    cdef Cursor cursor
    cdef Found found
    cdef const uint8_t* base
    cdef const uint8_t* at
    cdef const uint8_t* begin = NULL
    cdef const uint8_t* end = NULL
    cdef const uint8_t* run_begin = NULL
    cdef int64_t run_first = 0, run_last = 0, run_term = 0
    cdef int32_t run_kind = 0, kind
    cdef int status = 0
    cdef object request = None
    cdef list runs = []
    PyObject_GetBuffer(batch, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*> view.buf
        cursor = cursor_of(base, <size_t> view.len)
        while cursor_left(&cursor):
            at = cursor.pos
            status = take_entry(&cursor, &found)
            if status <= 0:
                break
            if found.type != ENTRY_REPLICATE or found.index < first:
                continue
            if found.index > last or (begin != NULL and <size_t> (cursor.pos - begin) > max_bytes):
                break
            kind = _kind(&found)
            if begin == NULL:
                begin = at
            elif kind != 0 or run_kind != 0 or found.term != run_term:
                runs.append((run_term, run_first, run_last, run_kind, at - run_begin, request))
                run_begin = NULL
            elif found.index != run_last + 1:
                raise BadFormat(f"operation {found.index} follows {run_last}")
            if run_begin == NULL:
                run_begin, run_first, run_term, run_kind = at, found.index, found.term, kind
                request = PyBytes_FromStringAndSize(<const char*> found.data, found.size) if kind == OP_CHANGE_CONFIG else None
            run_last = found.index
            end = cursor.pos
        if status < 0:
            raise _malformed()
        if begin == NULL:
            return 0, 0, runs
        runs.append((run_term, run_first, run_last, run_kind, end - run_begin, request))
        return begin - base, end - base, runs
    finally:
        PyBuffer_Release(&view)


def operations(batch, int64_t first, int64_t last):
    """The operations of `batch` from `first` to `last` as objects."""
    cdef Py_buffer view
    cdef Cursor cursor
    cdef Found found
    cdef int status
    cdef Operation made
    cdef list all_made = []
    PyObject_GetBuffer(batch, &view, PyBUF_SIMPLE)
    try:
        cursor = cursor_of(<const uint8_t*> view.buf, <size_t> view.len)
        while True:
            status = take_entry(&cursor, &found)
            if status < 0:
                raise _malformed()
            if status == 0:
                return all_made
            if found.type != ENTRY_REPLICATE or found.index < first or found.index > last:
                continue
            made = Operation.__new__(Operation)
            made.index = found.index
            made.term = found.term
            made.timestamp = found.timestamp
            made.kind = _kind(&found)
            if made.kind == 0:
                made.payload = PyBytes_FromStringAndSize(<const char*> found.data, found.size)
            all_made.append(made)
    finally:
        PyBuffer_Release(&view)


# -- COMMITs -----------------------------------------------------------------------------------------------------------
# LogEntryBatchPB { entry: LogEntryPB { type: COMMIT, commit: CommitMsg { op_type, commited_op_id { term, index } } } }
cdef inline size_t _commit_size(int64_t term, int64_t index) noexcept nogil:
    """Of one entry: 0A n 08 02 1A n 08 op 12 n 08 term 10 index. All lengths fit one byte."""
    return 2 + 4 + 4 + 2 + varint_size(<uint64_t> term) + varint_size(<uint64_t> index)


cdef uint8_t* _put_commit(uint8_t* out, int64_t term, int64_t index, uint8_t op_type) noexcept nogil:
    cdef size_t size = _commit_size(term, index)
    out[0] = 0x0A
    out[1] = <uint8_t> (size - 2)
    out[2] = 0x08
    out[3] = ENTRY_COMMIT
    out[4] = 0x1A
    out[5] = <uint8_t> (size - 6)
    out[6] = 0x08
    out[7] = op_type
    out[8] = 0x12
    out[9] = <uint8_t> (size - 10)
    out[10] = 0x08
    out = put_varint(out + 11, <uint64_t> term)
    out[0] = 0x10
    return put_varint(out + 1, <uint64_t> index)


def encode_commits(list runs not None):
    """A batch of COMMITs for the operations of `runs`, which are as look() gives them."""
    cdef int64_t term, first, last, index
    cdef int32_t kind
    cdef size_t size = 0
    cdef bytes body
    cdef uint8_t* out
    for run in runs:
        term, first, last = run[0], run[1], run[2]
        if term < 0 or first < 1 or last < first:
            raise InvalidArgument(f"{term}.{first}-{last} names no operations")
        for index in range(first, last + 1):
            size += _commit_size(term, index)
    body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
    out = <uint8_t*> PyBytes_AS_STRING(body)
    for run in runs:
        term, first, last, kind = run[0], run[1], run[2], run[3]
        for index in range(first, last + 1):
            out = _put_commit(out, term, index, OP_CHANGE_CONFIG if kind == OP_CHANGE_CONFIG else OP_NO_OP)
    return body


# -- a whole log -------------------------------------------------------------------------------------------------------
cdef class LogScan:
    """What a replica must know of its log when it starts. Give it all segments' chunks in order."""
    cdef readonly list spans            # (term, first index), of what was not replaced
    cdef readonly list configs          # (index, request), likewise
    cdef readonly int64_t first_index   # 0: no operation
    cdef readonly int64_t last_index
    cdef readonly int64_t commit_index  # of the last operation with a COMMIT
    cdef readonly uint64_t timestamp    # the highest

    def __init__(self):
        self.spans = []
        self.configs = []

    def add(self, BatchChunk chunk not None):
        cdef Py_ssize_t i
        cdef Cursor cursor
        for i in range(chunk.count):
            cursor = cursor_of(chunk.data + chunk.batches[i].data_offset, chunk.batches[i].data_bytes)
            self._take(&cursor)

    def add_batch(self, batch):
        """add() of one batch."""
        cdef Py_buffer view
        cdef Cursor cursor
        PyObject_GetBuffer(batch, &view, PyBUF_SIMPLE)
        try:
            cursor = cursor_of(<const uint8_t*> view.buf, <size_t> view.len)
            self._take(&cursor)
        finally:
            PyBuffer_Release(&view)

    cdef int _take(self, Cursor* cursor) except -1:
        cdef LogEntry entry
        cdef int status
        while True:
            status = next_entry(cursor, &entry)
            if status < 0:
                raise _malformed()
            if status == 0:
                return 0
            if entry.type == ENTRY_COMMIT:
                self.commit_index = max(self.commit_index, entry.index)
                continue
            if self.first_index == 0:
                self.first_index = entry.index
            elif entry.index <= self.last_index:
                self._void(entry.index)
            if not self.spans or self.spans[len(self.spans) - 1][0] != entry.term:
                self.spans.append((entry.term, entry.index))
            self.last_index = entry.index
            self.timestamp = max(self.timestamp, entry.timestamp)
            if entry.op_type == OP_CHANGE_CONFIG and entry.request.data != NULL:
                self.configs.append((entry.index, PyBytes_FromStringAndSize(
                    <const char*> entry.request.data, <Py_ssize_t> entry.request.size)))

    cdef int _void(self, int64_t index) except -1:
        """An operation replaces all from its index on."""
        while self.spans and self.spans[len(self.spans) - 1][1] >= index:
            self.spans.pop()
        while self.configs and self.configs[len(self.configs) - 1][0] >= index:
            self.configs.pop()
        self.first_index = min(self.first_index, index)
        return 0
