"""Python's handle on a log's writing half: encoding entries, tokens, waiting. The work is in log_core.pyx.

User entries are NO_OP REPLICATEs whose payload travels in NoOpRequestPB.payload_for_tests (field 1; present, even if empty, it
marks a user's entry), so that real tools print them and a real server replays them as nothing. An entry is encoded once, here.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.errno cimport ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strerror

from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.disk cimport Disk
from kudu_storage._native.entry cimport ENTRY_REPLICATE, OP_NO_OP, LogEntry, next_entry
from kudu_storage._native.log_batch cimport (
    BATCH_SLACK_BYTES, ENTRY_HEADER_BYTES, Batch, Epoch, batch_new, batch_release, epoch_release, kudu_add, kudu_load,
)
from kudu_storage._native.log_cache cimport cache_find, cache_init
from kudu_storage._native.log_entries cimport CachedBatch
from kudu_storage._native.log_core cimport (
    APPEND_FULL, APPEND_MUCH, APPEND_OK, APPEND_POISONED, TOKEN_CLOSED, TOKEN_DONE, TOKEN_NO_SPACE, TOKEN_PENDING,
    AHEAD_BUSY, AHEAD_READY, TOKEN_POISONED, AppendStatus, Durability, LogCore, TokenState, core_append, core_close,
    core_fork_generation, core_new, core_poison, core_prepare, core_pump, core_release, core_schedule, core_token_state,
    core_wait,
)
from kudu_storage._native.log_voids cimport Voids, voids_retain
from kudu_storage._native.posix cimport (
    coarse_realtime_us, monotonic_us, pthread_cond_signal, pthread_cond_wait, pthread_mutex_lock, pthread_mutex_unlock,
)
from kudu_storage._native.wire cimport put_bytes, put_fixed64, put_varint, varint_size

from kudu_storage._native import codec as _codec
from kudu_storage._native import lz4 as _lz4
from kudu_storage._native.log_batch import kept_bytes
from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX
from kudu_storage.common.opid import OpId
from kudu_storage.errors import (
    BadFormat, InvalidArgument, LogBackpressure, LogClosed, LogPoisoned, NoSpace, OutOfMemory, WaitTimeout, WrongType,
)

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject** ob_item

cdef enum:
    NOOP_FIELD = 999
    WAIT_SLICE_US = 100000          # how long a wait may hold up Ctrl-C
    FOREVER_S = 1000000000          # timeouts above it are none

cdef size_t BATCH_BYTES_MAX = ENTRY_BATCH_BYTES_MAX


# -- encoding ----------------------------------------------------------------------------------------------------------
# LogEntryBatchPB { entry: LogEntryPB { type: REPLICATE, replicate: ReplicateMsg {
#     id { term, index } timestamp op_type: NO_OP noop_request { payload } } } }
cdef inline size_t _id_size(int64_t term, int64_t index) noexcept nogil:
    return 2 + varint_size(<uint64_t> term) + varint_size(<uint64_t> index)


cdef enum:
    ENVELOPE_BYTES_MAX = 64     # 1 + 5 + 2 + 1 + 5 + 2 + 11 + 11 + 9 + 2 + 2 + 5 + 1 + 5 = 62; a whole copy's width
assert <int> ENVELOPE_BYTES_MAX <= <int> BATCH_SLACK_BYTES

# What stands before a payload, for all entries of a batch whose payloads and indexes have the same sizes. Only the index
# differs between them. Entries are many and envelopes longer than some payloads: made once, copied, patched.
cdef struct Envelope:
    size_t payload_bytes        # that it is made for
    int64_t index_end           # and for indexes below this
    size_t bytes
    size_t index_at
    uint8_t text[ENVELOPE_BYTES_MAX]


cdef void _make_envelope(Envelope* envelope, int64_t term, int64_t index, uint64_t timestamp, size_t size) noexcept nogil:
    cdef size_t id_size = _id_size(term, index)
    cdef size_t noop = 1 + varint_size(size) + size
    cdef size_t message = 2 + id_size + 9 + 2 + 2 + varint_size(noop) + noop
    cdef uint8_t* out = envelope.text
    out[0] = 0x0A                                           # entry
    out = put_varint(out + 1, 2 + 1 + varint_size(message) + message)
    out[0] = 0x08                                           # type
    out[1] = ENTRY_REPLICATE
    out[2] = 0x12                                           # replicate
    out = put_varint(out + 3, message)
    out[0] = 0x0A                                           # id
    out[1] = <uint8_t> id_size
    out[2] = 0x08
    out = put_varint(out + 3, <uint64_t> term)
    out[0] = 0x10
    envelope.index_at = <size_t> (out + 1 - envelope.text)
    out = put_varint(out + 1, <uint64_t> index)
    out[0] = 0x11                                           # timestamp
    out = put_fixed64(out + 1, timestamp)
    out[0] = 0x20                                           # op_type
    out[1] = OP_NO_OP
    out[2] = 0xBA                                           # noop_request = 999, wire type 2
    out[3] = 0x3E
    out = put_varint(out + 4, noop)
    out[0] = 0x0A                                           # payload_for_tests
    out = put_varint(out + 1, size)
    envelope.bytes = <size_t> (out - envelope.text)
    envelope.payload_bytes = size
    # Indexes are below 2^63: nine groups of seven bits.
    envelope.index_end = INT64_MAX if varint_size(<uint64_t> index) == 9 else (<int64_t> 1) << (7 * varint_size(<uint64_t> index))


cdef inline uint8_t* _put_entry(uint8_t* out, const Envelope* envelope, int64_t index, const uint8_t* payload) noexcept nogil:
    """Writes ENVELOPE_BYTES_MAX at first, whatever the envelope's size: a copy of constant length is some instructions."""
    memcpy(out, envelope.text, ENVELOPE_BYTES_MAX)
    put_varint(out + envelope.index_at, <uint64_t> index)
    return put_bytes(out + envelope.bytes, payload, envelope.payload_bytes)


# -- tokens ------------------------------------------------------------------------------------------------------------
# No cycle goes through a token for good: the waiters let go of theirs when the log is closed, at the latest.
@cython.no_gc
@cython.freelist(64)
@cython.final
cdef class Append:
    """What append() returns: the operations' ids, and when they are acknowledged. Any thread may wait; any loop may await."""
    cdef LogWriter writer
    cdef Epoch* epoch
    cdef int64_t serial
    cdef int64_t first_term
    cdef readonly int64_t first_index
    cdef readonly int64_t last_index
    cdef readonly int64_t term

    def __dealloc__(self):
        epoch_release(self.epoch)

    @property
    def first(self):
        """OpId of the first entry."""
        return OpId(self.first_term, self.first_index)

    @property
    def last(self):
        """OpId of the last entry."""
        return OpId(self.term, self.last_index)

    @property
    def done(self):
        """Whether it is acknowledged: durable as the log's durability says. Raises what wait() would."""
        return self._settle(self._state())

    def wait(self, timeout=None):
        """Until acknowledged. Returns self.

        Args:
            timeout: seconds; None: for ever.
        Raises:
            WaitTimeout: it may still be acknowledged later. NoSpace, OutOfMemory: it is not in the log. LogPoisoned:
            unknown.
        """
        if self.writer is None:
            raise _no_token()
        if not self._settle(self.writer._wait(self.epoch, self.serial, 0, timeout)):
            raise WaitTimeout(f"operation {self.last} is not acknowledged after {timeout} s",
                              advice="wait again: it may still be")
        return self

    def __await__(self):
        if self._settle(self._state()):
            return self
        yield from self.writer.wait_async(self).__await__()
        return self

    cdef int _state(self) except -1:
        cdef TokenState state
        if self.writer is None:
            raise _no_token()
        if self.writer.is_foreign():
            return TOKEN_CLOSED
        pthread_mutex_lock(&self.writer.core.mutex)
        state = core_token_state(self.writer.core, self.epoch, self.serial, 0)
        pthread_mutex_unlock(&self.writer.core.mutex)
        return state

    cdef bint _settle(self, int state) except -1:
        if state == TOKEN_DONE:
            return True
        if state == TOKEN_NO_SPACE and self.epoch.error == ENOMEM:
            raise OutOfMemory(f"no memory to write operation {self.last}", path=self.writer.path,
                              intact=f"the log holds everything up to index {self.epoch.last_index}",
                              advice="free memory and append again")
        if state == TOKEN_NO_SPACE:
            raise NoSpace(f"no space for operation {self.last}: {_words(self.epoch.error)}", path=self.writer.path,
                          intact=f"the log holds everything up to index {self.epoch.last_index}",
                          advice="free space and append again")
        self.writer.raise_for(state)
        return False

    def __repr__(self):
        return f"<Append {self.first}..{self.last}>"


cdef object _no_token():
    return InvalidArgument("this token belongs to no log", advice="tokens are made by append()")


cdef str _words(int error):
    return (<bytes> strerror(error)).decode("ascii", "replace")


cdef object _too_large(size_t size, size_t limit):
    return InvalidArgument(f"a batch of {size} bytes is above the limit of {limit}", advice="several smaller batches")


# -- arguments ---------------------------------------------------------------------------------------------------------
cdef bytes _as_bytes(payload):
    try:
        return bytes(memoryview(payload))
    except (TypeError, ValueError, BufferError) as error:
        raise WrongType(f"a payload is bytes or another buffer, not {type(payload).__name__}: {error}") from None


cdef list _as_list(payloads):
    if not isinstance(payloads, (str, bytes, bytearray, memoryview)):
        try:
            return list(payloads)
        except TypeError:
            pass
    raise WrongType(f"a batch is a list of payloads, not {type(payloads).__name__}", advice="append() takes one payload")


cdef double _seconds(timeout) except? -1:
    cdef double seconds
    try:
        if isinstance(timeout, (str, bytes, bytearray)):
            raise TypeError
        seconds = float(timeout)
    except OverflowError:
        seconds = FOREVER_S if timeout > 0 else 0
    except (TypeError, ValueError):
        raise WrongType(f"a timeout is a number of seconds or None, not {timeout!r:.80}") from None
    if seconds != seconds:
        raise InvalidArgument("a timeout of nan seconds is neither short nor long")
    return seconds


# -- the writer --------------------------------------------------------------------------------------------------------
cdef class LogWriter:
    """The one writer of a log's folder. Threads may share it: the GIL and the core's mutex serialise appends.

    Args:
        path: the folder, which exists.
        header_before, header_after: LogSegmentHeaderPB, serialised, before and after its sequence_number.
        codec: kudu.CompressionType number.
        durability: 0 fsync, 1 os, 2 interval.
        interval_s: for durability 2.
        segment_bytes: at which a segment is closed.
        queued_bytes_max: bound of what is not written yet.
        cache_bytes_max: bound of the cache.
        sequence: number of the last segment that exists.
        term, last_term, next_index: where the log goes on: terms of new entries and of the last one.
        idle_s: without a group for so long, or up to twice that, the log lets go of space beyond 64 KiB.
        zero_ahead: write zeros to segments that are made ahead of need, for durability 0.
        voids: where to tell what was replaced. Default: one of its own.
        disk: the file system.
    """
    cdef LogCore* core
    cdef Disk disk
    cdef readonly str path
    cdef readonly Voids voids       # what was cut off or replaced
    cdef readonly object waiters    # what wait_async gives its futures to; set by the room above
    cdef public object waiter_factory       # makes them when the first token is awaited
    cdef bint compresses_here
    cdef bint closed

    def __cinit__(self, str path not None, *, bytes header_before not None, bytes header_after not None, int codec=1,
                  int durability=0, double interval_s=0.05, int64_t segment_bytes=8 << 20,
                  size_t queued_bytes_max=4 << 20, size_t cache_bytes_max=16 << 20, int64_t sequence=0, int64_t term=1,
                  int64_t last_term=0, int64_t next_index=1, uint64_t last_timestamp=0, double idle_s=5.0,
                  bint zero_ahead=True, Voids voids=None, Disk disk not None=Disk()):
        cdef bytes encoded = path.encode("utf-8", "surrogateescape")
        self.path = path
        self.disk = disk
        self.core = core_new(disk.ops, disk.context, PyBytes_AS_STRING(encoded))
        if self.core == NULL:
            raise MemoryError()
        self.core.header_before = <uint8_t*> malloc(len(header_before) + 1)
        self.core.header_after = <uint8_t*> malloc(len(header_after) + 1)
        if self.core.header_before == NULL or self.core.header_after == NULL:
            raise MemoryError()
        memcpy(self.core.header_before, PyBytes_AS_STRING(header_before), len(header_before))
        memcpy(self.core.header_after, PyBytes_AS_STRING(header_after), len(header_after))
        self.core.header_before_bytes = len(header_before)
        self.core.header_after_bytes = len(header_after)
        self.core.codec = codec
        self.core.durability = <Durability> durability
        self.core.interval_us = <int64_t> (interval_s * 1e6)
        self.core.segment_bytes = segment_bytes
        self.core.idle_us = max(<int64_t> (idle_s * 1e6), 1000)
        self.core.zero_ahead = zero_ahead
        self.voids = Voids() if voids is None else voids
        voids_retain(self.voids.list)
        self.core.voids = self.voids.list
        self.core.queued_bytes_max = queued_bytes_max
        self.core.sequence = sequence
        self.core.seen_sequence = sequence
        self.core.term = term
        self.core.last_term = self.core.written_term = self.core.durable_term = last_term
        self.core.next_index = next_index
        self.core.written_index = next_index - 1
        self.core.durable_index = next_index - 1
        self.core.last_timestamp = last_timestamp
        cache_init(&self.core.cache, cache_bytes_max, True)
        # Snappy and zlib (and LZ4 without its C entry points) need the GIL, which the pool's threads must not wait for.
        self.compresses_here = codec > 1 and not (codec == 3 and _lz4.engine() == "lz4 wheel, native")

    def __dealloc__(self):
        if self.core == NULL:
            return
        if not self.closed and self.disk is not None and not self.is_foreign():
            # The pool may be at work with the disk, which goes when this does.
            with nogil:
                core_close(self.core, True)
        core_release(self.core)

    # -- appending -------------------------------------------------------------------------------------------------
    cpdef Append append_many(self, list payloads, uint64_t timestamp=0):
        """Queue opaque entries as one batch. Returns an Append at once; never waits for the disk.

        timestamp: of the entries; 0: now, but after all before.

        With durability "os", when much is queued and nobody writes it, it gives that to the kernel before it returns.

        Raises:
            LogBackpressure, LogPoisoned, LogClosed, InvalidArgument (too large, or no entry).
        """
        cdef Py_ssize_t i, count = PyList_GET_SIZE(payloads)
        cdef list held = payloads
        cdef Append token = None
        if count == 0:
            raise InvalidArgument("a batch has at least one entry")
        for i in range(count):
            if not PyBytes_CheckExact(<object> PyList_GET_ITEM(held, i)):
                held = [p if type(p) is bytes else _as_bytes(p) for p in payloads]
                break
        if self.compresses_here and held is payloads:
            held = list(held)       # other threads may run meanwhile
        while token is None:
            token = self._append_payloads((<PyListObject*> held).ob_item, PyList_GET_SIZE(held), timestamp)
        return token

    cdef Append append_one(self, payload):
        """append_many() of one."""
        cdef bytes held = payload if type(payload) is bytes else _as_bytes(payload)
        cdef PyObject* item = <PyObject*> held
        cdef Append token = None
        while token is None:
            token = self._append_payloads(&item, 1, 0)
        return token

    cdef Append _append_payloads(self, PyObject** payloads, Py_ssize_t count, uint64_t timestamp):
        """Of bytes objects, which the caller holds. None: the next index is another by now."""
        cdef Py_ssize_t i
        cdef size_t body = 0, size
        cdef int64_t term = self.core.term, index
        cdef Batch* batch
        cdef uint8_t* out
        cdef Envelope envelope
        self._check_usable()
        index = kudu_load(&self.core.next_index)
        if timestamp == 0:
            timestamp = self._next_timestamp()
        else:
            self.core.last_timestamp = max(self.core.last_timestamp, timestamp)
        envelope.index_end = 0
        for i in range(count):
            size = <size_t> PyBytes_GET_SIZE(<object> payloads[i])
            if index + i >= envelope.index_end or size != envelope.payload_bytes:
                _make_envelope(&envelope, term, index + i, timestamp, size)
            body += envelope.bytes + size
        self._check_size(body)
        batch = batch_new(body)
        if batch == NULL:
            raise MemoryError()
        out = batch.bytes + ENTRY_HEADER_BYTES
        # The envelope is the last entry's now; where all are alike it is everybody's.
        if varint_size(<uint64_t> index) != varint_size(<uint64_t> (index + count - 1)):
            envelope.index_end = 0
        for i in range(count):
            size = <size_t> PyBytes_GET_SIZE(<object> payloads[i])
            if index + i >= envelope.index_end or size != envelope.payload_bytes:
                _make_envelope(&envelope, term, index + i, timestamp, size)
            out = _put_entry(out, &envelope, index + i, <const uint8_t*> PyBytes_AS_STRING(<object> payloads[i]))
        batch.first_index = index
        batch.term = term
        batch.count = <int32_t> count
        batch.kind = ENTRY_REPLICATE
        return self._queue(batch, index, term)

    def append_entries(self, bytes body not None, *, bint replace=False, bint lazy=False):
        """Queue a serialised LogEntryBatchPB as it is: all REPLICATEs, the first at the next index, or all COMMITs.

        replace: the first may have an index that the log has: that operation and all above it are replaced.
        lazy: write it with what comes next, or when told to hurry(); for what nobody waits for.
        Raises:
            BadFormat: not parsable, kinds mixed, an index that is not the next one. As append_many().
        """
        cdef Append token = None
        while token is None:
            token = self._append_body(body, replace, lazy)
        return token

    cdef Append _append_body(self, bytes body, bint replace, bint lazy):
        """None: the next index is another by now."""
        cdef Batch* batch
        cdef Cursor cursor = cursor_of(<const uint8_t*> PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        cdef LogEntry entry
        cdef int status, kind = 0, count = 0
        cdef int64_t first = 0, first_term = 0, term = 0, next_index
        self._check_usable()
        next_index = kudu_load(&self.core.next_index)
        self._check_size(<size_t> len(body))
        while True:
            status = next_entry(&cursor, &entry)
            if status == 0:
                break
            if status < 0:
                raise BadFormat("a log entry batch cannot be parsed")
            if kind and entry.type != kind:
                raise BadFormat("a batch holds one kind of entry", advice="REPLICATEs and COMMITs apart")
            kind = entry.type
            if kind == ENTRY_REPLICATE:
                if count == 0:
                    first, first_term = entry.index, entry.term
                    if not 0 < first <= next_index or (first < next_index and not replace):
                        raise BadFormat(f"an entry has index {first}, the next one is {next_index}")
                    # What an operation replaces may be of a later term than itself. So may have been what a full disk
                    # took back, whose term new entries would get; who replaces knows the terms himself.
                    term = 0 if first < next_index else self.core.last_term if replace else self.core.term
                if entry.index != first + count:
                    raise BadFormat(f"an entry has index {entry.index}, the next one is {first + count}")
                # Later entries of append_many() get higher timestamps.
                self.core.last_timestamp = max(self.core.last_timestamp, entry.timestamp)
                if entry.term < term:
                    raise BadFormat(f"an entry of term {entry.term} comes after one of term {term}")
            term = entry.term
            count += 1
        if count == 0:
            raise InvalidArgument("a batch has at least one entry")
        batch = batch_new(<size_t> len(body))
        if batch == NULL:
            raise MemoryError()
        memcpy(batch.bytes + ENTRY_HEADER_BYTES, PyBytes_AS_STRING(body), len(body))
        batch.first_index = first if kind == ENTRY_REPLICATE else next_index - 1
        batch.term = term if kind == ENTRY_REPLICATE else self.core.term
        batch.count = count
        batch.kind = kind
        return self._queue(batch, next_index, first_term if kind == ENTRY_REPLICATE else batch.term, lazy)

    cdef Append _queue(self, Batch* batch, int64_t next_index, int64_t first_term, bint lazy=False):
        """Takes over the batch's reference. None: the log's next index is not `next_index` any more (another thread
        appended while this one compressed, or the disk was full and indexes were taken back)."""
        cdef Append token = Append.__new__(Append)
        cdef AppendStatus status
        cdef size_t queued = 0
        cdef bint moved = False
        if self.compresses_here:
            try:
                self._compress(batch)
            except BaseException:
                batch_release(batch)
                raise
        token.writer = self
        token.first_index = batch.first_index
        token.last_index = batch.first_index + batch.count - 1 if batch.kind == ENTRY_REPLICATE else batch.first_index
        token.term = batch.term
        token.first_term = first_term
        pthread_mutex_lock(&self.core.mutex)
        if self.core.next_index != next_index:
            moved = True
            status = APPEND_FULL
        else:
            status = core_append(self.core, batch, not lazy)
            token.epoch = self.core.epoch
            kudu_add(&token.epoch.references, 1)
            token.serial = self.core.next_serial - 1
            queued = self.core.queued_bytes
        pthread_mutex_unlock(&self.core.mutex)
        if status == APPEND_OK:
            return token
        if status == APPEND_MUCH:
            with nogil:
                core_pump(self.core)
            return token
        batch_release(batch)
        if moved:
            return None
        if status == APPEND_FULL:
            raise LogBackpressure(f"{queued} bytes are queued, the bound is {self.core.queued_bytes_max}",
                                  path=self.path, advice="wait for an earlier append, or use a larger queue")
        if status == APPEND_POISONED:
            raise self.poisoned()
        raise LogClosed("the log is closed", path=self.path)

    cdef int _compress(self, Batch* batch) except -1:
        cdef bytes packed = _codec.compress(
            PyBytes_FromStringAndSize(<const char*> batch.bytes + ENTRY_HEADER_BYTES, batch.body_bytes), self.core.codec)
        if <size_t> len(packed) > BATCH_BYTES_MAX:
            raise _too_large(len(packed), BATCH_BYTES_MAX)
        batch.stored = <uint8_t*> malloc(ENTRY_HEADER_BYTES + <size_t> len(packed))
        if batch.stored == NULL:
            raise MemoryError()
        memcpy(batch.stored + ENTRY_HEADER_BYTES, PyBytes_AS_STRING(packed), len(packed))
        batch.stored_bytes = <size_t> len(packed)
        return 0

    cdef int _check_size(self, size_t body) except -1:
        # What LZ4 cannot compress grows by a 255th; readers refuse what is stored above the limit.
        cdef size_t limit = BATCH_BYTES_MAX - BATCH_BYTES_MAX // 128 if self.core.codec == 3 else BATCH_BYTES_MAX
        if body > limit:
            raise _too_large(body, limit)
        return 0

    cdef uint64_t _next_timestamp(self) noexcept:
        """Hybrid time: now, but above the last one."""
        cdef uint64_t now = (<uint64_t> coarse_realtime_us()) << 12
        self.core.last_timestamp = max(now, self.core.last_timestamp + 1)
        return self.core.last_timestamp

    cdef int _check_usable(self) except -1:
        if self.core.poison_errno:
            raise self.poisoned()
        if self.closed:
            raise LogClosed("the log is closed", path=self.path)
        if self.is_foreign():
            raise self._foreign()
        return 0

    cdef bint is_foreign(self) noexcept:
        """In a child of the process that opened the log. Its locks may be held for ever there."""
        return self.core.fork_generation != core_fork_generation()

    cdef object _foreign(self):
        return LogClosed("the log was opened before a fork", path=self.path,
                         advice="open the log in the process that uses it")

    cdef int raise_for(self, int state) except -1:
        """The error of a state that says nothing of one token alone."""
        if state == TOKEN_POISONED:
            raise self.poisoned()
        if state == TOKEN_CLOSED:
            raise self._foreign() if self.is_foreign() else LogClosed("the log is closed", path=self.path)
        return 0

    cdef int _wait(self, const Epoch* epoch, int64_t serial, int64_t index, timeout) except -1:
        """As core_wait(), with a timeout as people give it, and open to Ctrl-C."""
        cdef int64_t deadline = INT64_MAX
        cdef double seconds
        cdef TokenState state
        if self.is_foreign():
            return TOKEN_CLOSED
        if timeout is not None:
            seconds = _seconds(timeout)
            if seconds < FOREVER_S:
                deadline = monotonic_us() + (<int64_t> (seconds * 1e6) if seconds > 0 else 0)
        while True:
            with nogil:
                state = core_wait(self.core, epoch, serial, index, deadline, WAIT_SLICE_US)
            if state != TOKEN_PENDING:
                return state
            PyErr_CheckSignals()
            if deadline != INT64_MAX and monotonic_us() >= deadline:
                return state

    def poisoned(self):
        """The error that stands for a poisoned log."""
        what = (<bytes> self.core.poison_what).decode() if self.core.poison_what != NULL else "it was closed"
        return LogPoisoned(f"{what}: {_words(self.core.poison_errno)}", path=self.path,
                           intact=f"everything up to index {self.core.durable_index} is in the log",
                           advice="reopen the log: only the disk knows what it holds")

    def poison(self, int error):
        """Work on the log's files outside of this object failed: it is as after a failed sync."""
        with nogil:
            core_poison(self.core, error, b"a truncation or collection failed")

    # -- waiting ---------------------------------------------------------------------------------------------------
    def set_async(self, int event_fd, waiters):
        """Where to tell an event loop: an eventfd, and the object whose `wait(token)` coroutine waits on it."""
        pthread_mutex_lock(&self.core.mutex)
        self.core.event_fd = event_fd
        pthread_mutex_unlock(&self.core.mutex)
        self.waiters = waiters

    def wait_async(self, Append token not None):
        """A coroutine that ends when the token is settled."""
        if self.waiters is None:
            self.waiter_factory(self)           # calls set_async
        return self.waiters.wait(token)

    def arm(self, Append token not None):
        """Ask for one word on the eventfd when a group ends; True: no need to wait, the token is settled."""
        cdef TokenState state
        cdef LogCore* core
        if token.writer is None:
            raise _no_token()
        if token.writer.is_foreign():
            raise self._foreign()
        core = token.writer.core        # not this one's, if the log was truncated since
        pthread_mutex_lock(&core.mutex)
        state = core_token_state(core, token.epoch, token.serial, 0)
        if state == TOKEN_PENDING:
            core.async_waiters = 1
        pthread_mutex_unlock(&core.mutex)
        return token._settle(state)

    def hurry(self):
        """Somebody waits: let the pool write now."""
        if self.is_foreign():
            raise self._foreign()
        cdef bint alone = False
        pthread_mutex_lock(&self.core.mutex)
        self.core.urgent = True
        self.core.eager_serial = self.core.next_serial - 1
        if self.core.queue_first != NULL:
            core_schedule(self.core)
            alone = not self.core.scheduled
        pthread_cond_signal(&self.core.work)
        pthread_mutex_unlock(&self.core.mutex)
        if alone:                       # the system gives no thread
            with nogil:
                core_pump(self.core)

    def write_by_hand(self):
        """From now on nothing is written but by pump(), and by whoever waits: a simulation says when the disk is at work."""
        pthread_mutex_lock(&self.core.mutex)
        self.core.scheduled = True          # as if the pool had it in its list already
        pthread_mutex_unlock(&self.core.mutex)

    def pump(self):
        """Write what is queued, in this thread."""
        if self.is_foreign():
            raise self._foreign()
        with nogil:
            core_pump(self.core)

    def prepare(self):
        """Make the next segment now, in this thread, as the pool does for busy logs. Whether there is one made ahead."""
        cdef bint ready
        if self.is_foreign():
            raise self._foreign()
        with nogil:
            ready = core_prepare(self.core)
        return ready

    def set_header(self, bytes header_after not None):
        """Give segments that are begun from now on another header behind its sequence number. Waits for a group that is being
        written; a segment that was made ahead is made again."""
        cdef uint8_t* fresh
        cdef uint8_t* old
        cdef size_t size = <size_t> len(header_after)
        cdef bint closing
        self._check_usable()
        fresh = <uint8_t*> malloc(size + 1)
        if fresh == NULL:
            raise MemoryError()
        memcpy(fresh, PyBytes_AS_STRING(header_after), size)
        with nogil:
            pthread_mutex_lock(&self.core.mutex)
            while not self.core.closing:
                if self.core.ahead.fd >= 0 or self.core.ahead.state == AHEAD_BUSY:
                    self.core.ahead.unwanted = True
                if not self.core.pumping and self.core.ahead.state != AHEAD_BUSY:
                    break
                # Whoever pumps or makes a segment reads the header without the mutex.
                self.core.sync_waiters += 1
                pthread_cond_wait(&self.core.progress, &self.core.mutex)
                self.core.sync_waiters -= 1
            closing = self.core.closing
            old = fresh
            if not closing:
                old = self.core.header_after
                self.core.header_after = fresh
                self.core.header_after_bytes = size
            pthread_mutex_unlock(&self.core.mutex)
        free(old)
        if closing:
            raise LogClosed("the log is closed", path=self.path)

    def flush(self, timeout=None):
        """Until all that was appended is acknowledged. Raises as Append.wait()."""
        cdef Append token = Append.__new__(Append)
        self._check_usable()
        token.writer = self
        token.term = token.first_term = self.core.term
        pthread_mutex_lock(&self.core.mutex)
        token.first_index = token.last_index = self.core.next_index - 1
        token.serial = self.core.next_serial - 1
        token.epoch = self.core.epoch
        kudu_add(&token.epoch.references, 1)
        pthread_mutex_unlock(&self.core.mutex)
        token.wait(timeout)

    def wait_written(self, int64_t index, timeout=None):
        """Until the operation `index` is acknowledged, whoever appends it.

        Raises:
            WaitTimeout, LogPoisoned, LogClosed.
        """
        cdef int state = self._wait(NULL, 0, index, timeout)
        self.raise_for(state)
        if state == TOKEN_PENDING:
            raise WaitTimeout(f"there is no operation {index} after {timeout} s")

    def close(self, *, bint seal=True):
        """Write and sync all that is queued and close the segment with a footer. Once; later calls only raise.

        Raises:
            LogPoisoned: what was queued may not be in the log. NoSpace, OutOfMemory: what was queued is not in the log.
        """
        cdef int64_t refusals = self.core.refusals
        if self.closed:
            if self.core.poison_errno:
                raise self.poisoned()
            return
        self.closed = True
        if self.is_foreign():
            return                  # the parent's log is the parent's
        with nogil:
            core_close(self.core, seal)
        if self.core.poison_errno:
            raise self.poisoned()
        if self.core.refusals != refusals:
            what, error = ("memory", OutOfMemory) if self.core.refusal_errno == ENOMEM else ("space", NoSpace)
            raise error(f"no {what} for what was queued", path=self.path,
                        intact=f"the log holds everything up to index {self.core.written_index}",
                        advice=f"free {what}, open the log and append the rest again")

    # -- reading ---------------------------------------------------------------------------------------------------
    def cached(self, int64_t index, *, bint unwritten=False):
        """The batch that holds `index` as (LogEntryBatchPB bytes holder), or None: read it from disk.

        unwritten: also one that is not acknowledged yet, as Raft sends it to peers.
        """
        cdef Batch* batch
        cdef CachedBatch found
        if self.is_foreign():
            raise self._foreign()
        pthread_mutex_lock(&self.core.mutex)
        batch = cache_find(&self.core.cache, index)
        if batch != NULL and not unwritten and batch.serial > self.core.written_serial:
            batch_release(batch)
            batch = NULL            # what it replaces is what is acknowledged
        pthread_mutex_unlock(&self.core.mutex)
        if batch == NULL:
            return None
        found = CachedBatch.__new__(CachedBatch)
        found.batch = batch
        return found

    @property
    def state(self):
        """A consistent view: next_index, written_index, durable_index, term, sequence and so on, by name."""
        # Taken under the mutex, made objects of without it: these can start the collector, and that runs anything.
        cdef int64_t next_index, written_index, durable_index, term, sequence, offset, first_index, replacements
        cdef int64_t bytes_written, groups, batches, no_space, hits, misses, rolls_ahead
        cdef size_t queued, cache_bytes, cache_bytes_max
        cdef bint is_open, poisoned, is_ahead
        if self.is_foreign():
            raise self._foreign()
        pthread_mutex_lock(&self.core.mutex)
        next_index, written_index, durable_index = self.core.next_index, self.core.written_index, self.core.durable_index
        term, sequence, is_open = self.core.term, self.core.seen_sequence, self.core.seen_open
        offset, first_index = self.core.seen_offset, self.core.seen_min_index
        replacements, queued = self.core.seen_replacements, self.core.queued_bytes
        bytes_written, groups, batches = self.core.bytes_written, self.core.groups, self.core.batches_written
        no_space, poisoned = self.core.no_space_count, self.core.poison_errno != 0
        cache_bytes, cache_bytes_max = self.core.cache.bytes, self.core.cache.bytes_max
        hits, misses = self.core.cache.hits, self.core.cache.misses
        rolls_ahead, is_ahead = self.core.rolls_ahead, self.core.ahead.state == AHEAD_READY
        pthread_mutex_unlock(&self.core.mutex)
        return {
            "next_index": next_index, "written_index": written_index, "durable_index": durable_index, "term": term,
            # Of the segment being written, as far as it is acknowledged; of none when there is none.
            "sequence": sequence, "open": is_open, "offset": offset if is_open else 0,
            "segment_first_index": first_index if is_open else 0, "segment_replacements": replacements if is_open else 0,
            "queued_bytes": queued, "bytes_written": bytes_written, "groups": groups, "syncs": kudu_load(&self.core.syncs),
            "batches_written": batches, "no_space_count": no_space, "cache_bytes": cache_bytes,
            "cache_bytes_max": cache_bytes_max, "kept_bytes": kept_bytes(), "cache_hits": hits, "cache_misses": misses,
            "poisoned": poisoned,
            # Segments that were made before they were needed, and whether there is one.
            "segments_made_ahead": rolls_ahead, "segment_ahead": is_ahead,
        }

    @property
    def next_index(self):
        return kudu_load(&self.core.next_index)

    @property
    def last(self):
        """OpId of the last entry appended."""
        cdef int64_t term, index
        if self.is_foreign():
            raise self._foreign()
        pthread_mutex_lock(&self.core.mutex)
        term, index = self.core.last_term, self.core.next_index - 1
        pthread_mutex_unlock(&self.core.mutex)
        return OpId(term, index)

    @property
    def durable(self):
        """OpId of the last entry that is synced."""
        cdef int64_t term, index
        if self.is_foreign():
            raise self._foreign()
        pthread_mutex_lock(&self.core.mutex)
        term, index = self.core.durable_term, self.core.durable_index
        pthread_mutex_unlock(&self.core.mutex)
        return OpId(term, index)

    @property
    def durable_index(self):
        return self.state["durable_index"]

    @property
    def written_index(self):
        cdef int64_t index
        if self.is_foreign():
            raise self._foreign()
        pthread_mutex_lock(&self.core.mutex)
        index = self.core.written_index
        pthread_mutex_unlock(&self.core.mutex)
        return index

    @property
    def last_timestamp(self):
        """The highest hybrid time of an entry so far."""
        return self.core.last_timestamp

    @property
    def term(self):
        return self.core.term

    @term.setter
    def term(self, int64_t value):
        if value < self.core.term:
            raise InvalidArgument(f"term {value} is below the log's term {self.core.term}")
        self.core.term = value


# -- the face ----------------------------------------------------------------------------------------------------------
cdef class LogAppender:
    """What a Log does once a batch: its base class, without a Python frame in between."""
    cdef public LogWriter _writer

    def append(self, payload):
        """Queue one opaque entry. Returns at once a token: `.wait(timeout=)`, or await it.

        Raises:
            LogBackpressure, LogPoisoned, LogClosed, InvalidArgument.
        """
        if self._writer is None:
            raise _not_opened()
        return self._writer.append_one(payload)

    def append_many(self, payloads):
        """Queue opaque entries as one batch, acknowledged together. As append()."""
        if self._writer is None:
            raise _not_opened()
        return self._writer.append_many(payloads if type(payloads) is list else _as_list(payloads))


cdef object _not_opened():
    return LogClosed("the log was not opened", advice="Log.open() makes one")
