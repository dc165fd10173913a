"""Entries of a log as objects, and the iterator over them: no Python runs per entry. See log_entries.pxd.

May not touch: files, locks. One thread at a time may use an iterator; an Entry is immutable.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy

from kudu_storage._native.cursor cimport Field, cursor_left, cursor_of, read_field, read_varint
from kudu_storage._native.entry cimport ENTRY_REPLICATE, OP_NO_OP, LogEntry, next_entry
from kudu_storage._native.log_batch cimport ENTRY_HEADER_BYTES, batch_release
from kudu_storage._native.segment cimport BatchChunk

from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat, InvalidArgument


# -- parsing -----------------------------------------------------------------------------------------------------------
cdef inline bint _take_user(Cursor* batch, Found* found) noexcept nogil:
    """An entry laid out exactly as append() does it (log_writer.pyx). False: another one; nothing was taken."""
    cdef Cursor cursor = batch[0]
    cdef uint64_t entry_bytes, message_bytes, noop_bytes, payload_bytes, term, index
    cdef const uint8_t* at
    cdef const uint8_t* end
    if cursor_left(&cursor) < 28 or cursor.pos[0] != 0x0A:          # entry: the shortest one
        return False
    cursor.pos += 1
    if not read_varint(&cursor, &entry_bytes) or entry_bytes > cursor_left(&cursor) or entry_bytes < 26:
        return False
    end = cursor.pos + entry_bytes
    cursor.end = end
    at = cursor.pos
    if at[0] != 0x08 or at[1] != ENTRY_REPLICATE or at[2] != 0x12:  # type, replicate
        return False
    cursor.pos = at + 3
    if not read_varint(&cursor, &message_bytes) or message_bytes != cursor_left(&cursor) or message_bytes < 22:
        return False
    at = cursor.pos
    if at[0] != 0x0A or at[1] < 4 or at[1] > 22 or <uint64_t> at[1] + 18 > message_bytes or at[2] != 0x08:     # id, term
        return False
    cursor.end = at + 2 + at[1]
    cursor.pos = at + 3
    if not read_varint(&cursor, &term) or cursor_left(&cursor) < 2 or cursor.pos[0] != 0x10:
        return False
    cursor.pos += 1
    if not read_varint(&cursor, &index) or cursor_left(&cursor) or term > <uint64_t> INT64_MAX \
            or index > <uint64_t> INT64_MAX:
        return False
    cursor.end = end
    at = cursor.pos
    if cursor_left(&cursor) < 15 or at[0] != 0x11 or at[9] != 0x20 or at[10] != OP_NO_OP or at[11] != 0xBA \
            or at[12] != 0x3E:                                      # timestamp, op_type, noop_request
        return False
    memcpy(&found.timestamp, at + 1, 8)
    cursor.pos = at + 13
    if not read_varint(&cursor, &noop_bytes) or noop_bytes != cursor_left(&cursor) or noop_bytes == 0 \
            or cursor.pos[0] != 0x0A:
        return False
    cursor.pos += 1
    if not read_varint(&cursor, &payload_bytes) or payload_bytes != cursor_left(&cursor):
        return False
    found.type = ENTRY_REPLICATE
    found.op_type = OP_NO_OP
    found.term = <int64_t> term
    found.index = <int64_t> index
    found.is_user = True
    found.data = cursor.pos
    found.size = <Py_ssize_t> payload_bytes
    batch.pos = end
    return True


cdef inline bint _payload_of(const LogEntry* entry, const uint8_t** data, Py_ssize_t* size) noexcept nogil:
    """A NO_OP's payload; False: it has none, or is another operation (then its whole request is given)."""
    cdef Cursor cursor
    cdef Field field
    data[0] = entry.request.data
    size[0] = <Py_ssize_t> entry.request.size
    if entry.op_type != OP_NO_OP or entry.request.data == NULL:
        return False
    cursor = cursor_of(entry.request.data, entry.request.size)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return False
        if field.number == 1 and field.wire == 2:
            data[0] = field.bytes.data
            size[0] = <Py_ssize_t> field.bytes.size
            return True
    return False


cdef int take_entry(Cursor* cursor, Found* found) noexcept nogil:
    cdef LogEntry entry
    cdef int status
    if _take_user(cursor, found):
        return 1
    status = next_entry(cursor, &entry)
    if status <= 0:
        return status
    found.type = entry.type
    if entry.type == ENTRY_REPLICATE:
        found.op_type = entry.op_type
        found.index = entry.index
        found.term = entry.term
        found.timestamp = entry.timestamp
        found.is_user = _payload_of(&entry, &found.data, &found.size)
    return 1


# -- objects -----------------------------------------------------------------------------------------------------------
@cython.no_gc                   # a batch refers to no entry
cdef class CachedBatch:
    def __dealloc__(self):
        if self.batch != NULL:
            batch_release(self.batch)

    @property
    def first_index(self):
        if self.batch == NULL:
            raise InvalidArgument("this holds no batch")
        return self.batch.first_index

    @property
    def last_index(self):
        if self.batch == NULL:
            raise InvalidArgument("this holds no batch")
        return self.batch.first_index + self.batch.count - 1

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.batch == NULL:
            raise InvalidArgument("this holds no batch")
        PyBuffer_FillInfo(view, self, self.batch.bytes + ENTRY_HEADER_BYTES, <Py_ssize_t> self.batch.body_bytes, 1, flags)

    @property
    def term(self):
        if self.batch == NULL:
            raise InvalidArgument("this holds no batch")
        return self.batch.term


@cython.no_gc                   # nor does anything else that holds an entry's bytes
@cython.freelist(256)
cdef class Entry:
    """One REPLICATE of a log. A buffer: memoryview(entry) is its payload, without a copy."""

    @property
    def op_id(self):
        """OpId."""
        return OpId(self.term, self.index)

    @property
    def payload(self):
        """A memoryview of a user entry's payload, or of the operation's request. bytes() copies it."""
        return memoryview(self)

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<const char*> self.data, self.size)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*> (self.data if self.data != NULL else <const uint8_t*> b""), self.size, 1, flags)

    def __repr__(self):
        return f"<Entry {self.term}.{self.index} {self.size} bytes>"


cdef Entry make_entry(object owner, const Found* found):
    cdef Entry made = Entry.__new__(Entry)
    made.owner = owner
    made.data = found.data
    made.size = found.size
    made.index = found.index
    made.term = found.term
    made.timestamp = found.timestamp
    made.op_type = found.op_type
    made.is_user = found.is_user
    return made


cdef object _malformed():
    return BadFormat("a log entry batch cannot be parsed")


# -- many --------------------------------------------------------------------------------------------------------------
cdef class EntryIterator:
    """See log_entries.pyi."""

    cdef object source
    cdef object missing         # of the source: the error of operations that should be there; None: jumps are no error
    cdef bint as_bytes
    cdef bint ended
    cdef bint asking            # the source, which may let other threads run
    cdef int64_t index          # of the next one
    cdef int64_t end            # the last one that is wanted
    cdef int64_t left           # bytes; after the entry that uses them up comes none
    # What the source gave last:
    cdef object owner
    cdef int64_t below
    cdef Cursor cursor
    cdef BatchChunk chunk       # None: the batch under the cursor is all
    cdef Py_ssize_t batch       # of the chunk, the next one
    cdef list made              # entries that are objects already; None: there are none
    cdef Py_ssize_t made_next

    def __init__(self, source, int64_t index, int64_t end, max_bytes=None, *, bint as_bytes=False):
        self.source = source
        self.missing = getattr(source, "missing", None)
        self.index = index
        self.end = end
        self.left = INT64_MAX if max_bytes is None else min(max(max_bytes, 0), INT64_MAX)
        self.as_bytes = as_bytes
        self.cursor = cursor_of(NULL, 0)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Found found
        cdef int status
        cdef Entry entry
        while not self.ended:
            status = 1
            while cursor_left(&self.cursor):
                status = take_entry(&self.cursor, &found)
                if status <= 0:
                    break
                if found.type != ENTRY_REPLICATE or found.index < self.index or found.index >= self.below:
                    continue
                if found.index > self.index and self.missing is not None:
                    raise self.hole(found.index)
                if found.index > self.end:
                    self.ended = True
                    break
                self.took(found.index, found.size)
                if self.as_bytes:
                    return PyBytes_FromStringAndSize(<const char*> found.data, found.size)
                return make_entry(self.owner, &found)
            if status < 0:
                raise _malformed()
            if self.ended:
                break
            if self.made is not None and self.made_next < PyList_GET_SIZE(self.made):
                entry = <Entry> PyList_GET_ITEM(self.made, self.made_next)
                self.made_next += 1
                if entry.index > self.index and self.missing is not None:
                    raise self.hole(entry.index)
                if entry.index > self.end:
                    break
                self.took(entry.index, entry.size)
                return bytes(entry) if self.as_bytes else entry
            if not self.more():
                break
        self.end_now()
        raise StopIteration

    cdef void took(self, int64_t index, Py_ssize_t size) noexcept:
        self.index = index + 1
        self.left -= size
        if self.left <= 0:
            self.ended = True

    cdef bint more(self) except -1:
        """Go to the next batch; False: there is none that is wanted."""
        cdef CachedBatch cached
        if self.chunk is not None and self.batch < self.chunk.count:
            self.cursor = cursor_of(self.chunk.data + self.chunk.batches[self.batch].data_offset,
                                    self.chunk.batches[self.batch].data_bytes)
            self.batch += 1
            return True
        self.chunk = None
        self.owner = self.made = None
        if self.index > self.end:
            return False
        if self.asking:
            raise InvalidArgument("another thread is reading with this iterator", advice="one iterator a thread")
        self.asking = True
        try:
            given = self.source(self.index)
        finally:
            self.asking = False
        if isinstance(given, CachedBatch):
            cached = given
            self.owner = cached
            self.below = INT64_MAX
            self.cursor = cursor_of(cached.batch.bytes + ENTRY_HEADER_BYTES, cached.batch.body_bytes)
        elif isinstance(given, list):
            self.made = given
            self.made_next = 0
        else:
            self.owner, self.below = given
            self.chunk = self.owner
            self.batch = 0
        return True

    cdef object hole(self, int64_t found):
        """The error: the next operation that counts is `found`. Who calls again makes the source look again."""
        cdef object chunk = self.chunk, offset = None
        if self.made is not None:
            chunk = (<Entry> PyList_GET_ITEM(self.made, self.made_next - 1)).owner
        if isinstance(chunk, BatchChunk):
            offset = _offset_of(chunk, found)
        self.owner = self.chunk = self.made = None
        self.cursor = cursor_of(NULL, 0)
        return self.missing(self.index, found, offset)

    cdef int end_now(self) except -1:
        self.ended = True
        self.source = self.missing = self.owner = self.chunk = self.made = None
        self.cursor = cursor_of(NULL, 0)
        return 0


cdef object _offset_of(BatchChunk chunk, int64_t index):
    """In the segment, of the last batch of the chunk that holds this operation."""
    cdef Cursor cursor
    cdef Found found
    cdef Py_ssize_t i
    for i in range(chunk.count - 1, -1, -1):
        cursor = cursor_of(chunk.data + chunk.batches[i].data_offset, chunk.batches[i].data_bytes)
        while take_entry(&cursor, &found) == 1:
            if found.type == ENTRY_REPLICATE and found.index == index:
                return chunk.batches[i].file_offset
    return None


def chunk_entries(BatchChunk chunk not None, int64_t from_index=1, int64_t below=INT64_MAX, cuts=None):
    """The operations of a chunk that the segment reader returned, as Entry objects, without those that were replaced.

    Args:
        from_index: the first that is wanted.
        below: later segments replace operations with this index and higher ones.
        cuts: where the segment itself replaces operations; None: nowhere.
    """
    cdef list found = []
    cdef list batch
    cdef Py_ssize_t i
    for i in range(chunk.count):
        batch = _batch_entries(chunk, i, from_index if cuts is None else 0, below)
        if cuts is not None:
            batch = _live(batch, cuts.below(chunk.batches[i].file_offset), from_index)
        found += batch
    return found


cdef list _batch_entries(BatchChunk chunk, Py_ssize_t number, int64_t from_index, int64_t below):
    cdef Cursor cursor = cursor_of(chunk.data + chunk.batches[number].data_offset, chunk.batches[number].data_bytes)
    cdef Found found
    cdef int status
    cdef list made = []
    while True:
        status = take_entry(&cursor, &found)
        if status == 0:
            return made
        if status < 0:
            raise _malformed()
        if found.type == ENTRY_REPLICATE and from_index <= found.index < below:
            made.append(make_entry(chunk, &found))


cdef list _live(list batch, cut, int64_t from_index):
    """What neither `cut` nor a later entry of the same batch replaces, from `from_index` on."""
    cdef int64_t lowest = INT64_MAX if cut is None else cut
    cdef Entry entry
    cdef list kept = []
    for entry in reversed(batch):
        if entry.index < lowest:
            lowest = entry.index
            if lowest >= from_index:
                kept.append(entry)
    kept.reverse()
    return kept
