"""See log_cache.pxd. The class LogCache is the public one, which holds messages one by one."""
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.log_batch cimport batch_memory, batch_new, batch_release, batch_retain
from kudu_storage._native.prefetch cimport CACHE_LINE_BYTES, prefetch

from kudu_storage.errors import Collected, InvalidArgument, NotYetWritten

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject** ob_item

cdef enum:
    UNREAD_BYTES_MAX = 256 << 10


cdef inline Batch* _at(const BatchCache* cache, size_t position) noexcept nogil:
    return cache.slots[(cache.head + position) & cache.mask]


cdef inline int64_t _last(const Batch* batch) noexcept nogil:
    return batch.first_index + batch.count - 1


cdef void cache_init(BatchCache* cache, size_t bytes_max, bint adapts) noexcept nogil:
    memset(cache, 0, sizeof(BatchCache))
    cache.bytes_max = bytes_max
    cache.bytes_limit = bytes_max
    cache.adapts = adapts
    cache.unread_bytes = bytes_max


cdef inline void _note_put(BatchCache* cache, size_t size) noexcept nogil:
    cache.bytes += size
    if cache.adapts:
        cache.unread_bytes += size
        if cache.unread_bytes > cache.bytes_max:
            cache.bytes_limit = min(cache.bytes_max, <size_t> UNREAD_BYTES_MAX)


cdef void _drop_first(BatchCache* cache) noexcept nogil:
    cdef Batch* batch = _at(cache, 0)
    cache.bytes -= batch_memory(batch)
    cache.head = (cache.head + 1) & cache.mask
    cache.count -= 1
    batch_release(batch)


cdef void cache_clear(BatchCache* cache) noexcept nogil:
    while cache.count:
        _drop_first(cache)
    free(cache.slots)
    cache.slots = NULL
    cache.mask = 0
    cache.head = 0


cdef int _grow(BatchCache* cache) noexcept nogil:
    cdef size_t capacity = (cache.mask + 1) * 2 if cache.slots != NULL else 64
    cdef size_t i
    cdef Batch** slots = <Batch**> calloc(capacity, sizeof(Batch*))
    if slots == NULL:
        return -1
    for i in range(cache.count):
        slots[i] = _at(cache, i)
    free(cache.slots)
    cache.slots = slots
    cache.mask = capacity - 1
    cache.head = 0
    return 0


cdef int cache_put(BatchCache* cache, Batch* batch) noexcept nogil:
    if cache.count and _last(_at(cache, cache.count - 1)) >= batch.first_index:
        cache_truncate(cache, batch.first_index - 1)
    if cache.slots == NULL or cache.count > cache.mask:
        if _grow(cache) < 0:
            return -1
    batch_retain(batch)
    cache.slots[(cache.head + cache.count) & cache.mask] = batch
    cache.count += 1
    _note_put(cache, batch_memory(batch))
    return 0


cdef void cache_trim(BatchCache* cache, int64_t evictable) noexcept nogil:
    while cache.bytes > cache.bytes_limit and cache.count and _last(_at(cache, 0)) <= evictable:
        _drop_first(cache)
        cache.evicted += 1


cdef void cache_evict_to(BatchCache* cache, int64_t index) noexcept nogil:
    while cache.count and _last(_at(cache, 0)) <= index:
        _drop_first(cache)
        cache.evicted += 1


cdef inline void _drop_last(BatchCache* cache) noexcept nogil:
    cdef Batch* batch = _at(cache, cache.count - 1)
    cache.count -= 1
    cache.bytes -= batch_memory(batch)
    batch_release(batch)


cdef void cache_truncate(BatchCache* cache, int64_t index) noexcept nogil:
    while cache.count and _last(_at(cache, cache.count - 1)) > index:
        _drop_last(cache)


cdef void cache_drop_unwritten(BatchCache* cache, int64_t serial) noexcept nogil:
    while cache.count and _at(cache, cache.count - 1).serial > serial:
        _drop_last(cache)


cdef Batch* cache_find(BatchCache* cache, int64_t index) noexcept nogil:
    cdef size_t low = 0, high = cache.count, middle
    cdef Batch* batch
    cache.unread_bytes = 0
    cache.bytes_limit = cache.bytes_max
    while low < high:
        middle = (low + high) >> 1
        if _at(cache, middle).first_index <= index:
            low = middle + 1
        else:
            high = middle
    if low:
        batch = _at(cache, low - 1)
        if index <= _last(batch):
            cache.hits += 1
            batch_retain(batch)
            return batch
    cache.misses += 1
    return NULL


# -- the public face ---------------------------------------------------------------------------------------------------
# Messages lie in slabs, one behind the other, as in a ring buffer; a slab goes when its last message went. Its place holds the
# message's index and size.
cdef struct Message:
    int64_t index
    Batch* slab             # its `count` is of the messages that it still holds
    uint8_t* data
    size_t size

cdef enum:
    SLAB_BYTES = 64 << 10
    MESSAGE_SLOTS_FIRST = 64


cdef class LogCache:
    """Messages of a log by index, bounded in bytes. The GIL serialises its calls.

    Args:
        bytes_max: bound of messages and their slots; evictable messages beyond it are dropped, oldest first.
    """
    cdef Message* slots             # ring of a power of two
    cdef size_t mask                # slots - 1; 0 before the first put
    cdef size_t head
    cdef size_t count
    cdef size_t bytes
    cdef size_t bytes_max
    cdef Batch* slab                # where the next message goes
    cdef size_t slab_used
    cdef int64_t hits
    cdef int64_t misses
    cdef int64_t evicted
    cdef int64_t pinned_from        # messages at or above it are not evicted for want of room

    def __cinit__(self, size_t bytes_max):
        self.bytes_max = bytes_max
        self.pinned_from = 0x7FFFFFFFFFFFFFFF

    def __dealloc__(self):
        while self.count:
            self.drop_first()
        if self.slab != NULL:
            batch_release(self.slab)
        free(self.slots)

    cdef inline Message* at(self, size_t position) noexcept:
        return &self.slots[(self.head + position) & self.mask]

    cdef inline void let_go(self, Message* message) noexcept:
        """Its slot is not the cache's any more."""
        cdef Batch* slab = message.slab
        self.bytes -= message.size + sizeof(Message)
        slab.count -= 1
        if slab.count == 0:
            if slab == self.slab:
                self.slab_used = 0
            else:
                batch_release(slab)

    cdef inline void drop_first(self) noexcept:
        cdef Message* message = self.at(0)
        self.head = (self.head + 1) & self.mask
        self.count -= 1
        self.let_go(message)

    cdef int grow(self) except -1:
        cdef size_t capacity = (self.mask + 1) * 2 if self.slots != NULL else MESSAGE_SLOTS_FIRST
        cdef size_t i
        cdef Message* slots = <Message*> calloc(capacity, sizeof(Message))
        if slots == NULL:
            raise MemoryError()
        for i in range(self.count):
            slots[i] = self.at(i)[0]
        free(self.slots)
        self.slots = slots
        self.mask = capacity - 1
        self.head = 0
        return 0

    cdef int next_slab(self, size_t size) except -1:
        cdef Batch* slab = batch_new(max(size, <size_t> SLAB_BYTES))
        if slab == NULL:
            raise MemoryError()
        slab.count = 0
        if self.slab != NULL and self.slab.count == 0:
            batch_release(self.slab)
        self.slab = slab
        self.slab_used = 0
        return 0

    cdef inline int keep(self, int64_t index, const void* data, size_t size) except -1:
        cdef Message* message
        if self.slots == NULL or self.count > self.mask:
            self.grow()
        if self.slab == NULL or self.slab.body_bytes - self.slab_used < size:
            self.next_slab(size)
        message = self.at(self.count)
        message.index = index
        message.slab = self.slab
        message.data = self.slab.bytes + self.slab_used
        message.size = size
        memcpy(message.data, data, size)
        self.slab.count += 1
        self.slab_used += size
        self.count += 1
        self.bytes += size + sizeof(Message)
        while self.bytes > self.bytes_max and self.count and self.at(0).index < self.pinned_from:
            self.drop_first()
            self.evicted += 1
        return 0

    cdef int make_way(self, int64_t index) except -1:
        """For a message with this index."""
        if index < 1:
            raise InvalidArgument(f"index {index} is below 1")
        while self.count and self.at(self.count - 1).index >= index:
            self.count -= 1
            self.let_go(self.at(self.count))
        return 0

    def put(self, int64_t index, message):
        """Keep a copy of `message` under `index`. Messages at and above it are dropped first: it replaces them."""
        cdef Py_buffer view
        PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
        try:
            self.make_way(index)
            self.keep(index, view.buf, <size_t> view.len)
        finally:
            PyBuffer_Release(&view)

    def put_many(self, int64_t first_index, list messages not None):
        """put() of each, with indexes from first_index on."""
        cdef Py_ssize_t i, count = PyList_GET_SIZE(messages)
        cdef PyObject** items = (<PyListObject*> messages).ob_item
        cdef bint plain = True
        for i in range(count):
            plain = plain and PyBytes_CheckExact(<object> items[i])
        if not plain:
            for i, message in enumerate(list(messages)):
                self.put(first_index + i, message)
            return
        if count == 0:
            return
        self.make_way(first_index)
        for i in range(count):
            if i + 2 < count:
                prefetch(PyBytes_AS_STRING(<object> items[i + 2]))
                prefetch(PyBytes_AS_STRING(<object> items[i + 2]) + CACHE_LINE_BYTES)
            self.keep(first_index + i, PyBytes_AS_STRING(<object> items[i]), <size_t> PyBytes_GET_SIZE(<object> items[i]))

    def pin_from(self, int64_t index):
        """Messages at or above `index` stay whatever the bound says (they are not durable yet, or a peer needs them)."""
        if index < 1:
            raise InvalidArgument(f"index {index} is below 1")
        self.pinned_from = index

    def evict(self, int64_t index):
        """Drop messages up to and including `index`: every peer has them."""
        while self.count and self.at(0).index <= index:
            self.drop_first()
            self.evicted += 1

    cdef size_t find(self, int64_t index) noexcept:
        """The position of the first message at or above it."""
        cdef size_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.at(middle).index < index:
                low = middle + 1
            else:
                high = middle
        return low

    def read(self, int64_t from_index, size_t max_bytes=1 << 20):
        """[(index, message)] from `from_index` on, up to the first hole and about max_bytes, at least one.

        Raises:
            NotYetWritten: above the last message. Collected: below, or in a hole: read it from the log.
        """
        cdef size_t position = self.find(from_index), total = 0
        cdef Message* message
        found = []
        while position < self.count and self.at(position).index == from_index and (not found or total < max_bytes):
            message = self.at(position)
            found.append((from_index, PyBytes_FromStringAndSize(<const char*> message.data, <Py_ssize_t> message.size)))
            total += message.size
            position += 1
            from_index += 1
        self.hits += len(found)
        if not found:
            self.misses += 1
            last = self.at(self.count - 1).index if self.count else 0
            if from_index > last:
                raise NotYetWritten(f"message {from_index} is above the last one, {last}")
            raise Collected(f"message {from_index} is not in the cache", advice="read it from the log")
        return found

    def stats(self):
        """Counts and bytes, by name."""
        return {"messages": self.count, "bytes": self.bytes, "bytes_max": self.bytes_max,
                "hits": self.hits, "misses": self.misses, "evicted": self.evicted,
                "first_index": self.at(0).index if self.count else None,
                "last_index": self.at(self.count - 1).index if self.count else None}

    def check(self):
        """Derive order, bytes and the slabs' counts afresh. Raises AssertionError."""
        cdef size_t i, total = 0
        cdef int64_t last = 0
        cdef Message* message
        live = {}
        for i in range(self.count):
            message = self.at(i)
            assert message.index > last, "order"
            last = message.index
            total += message.size + sizeof(Message)
            live[<size_t> message.slab] = live.get(<size_t> message.slab, 0) + 1
        assert total == self.bytes, "bytes"
        for i in range(self.count):
            assert self.at(i).slab.count == live[<size_t> self.at(i).slab], "slabs"

    def __len__(self):
        return self.count
