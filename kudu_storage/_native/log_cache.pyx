"""See log_cache.pxd. The class LogCache is the cache's public face."""
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.log_batch cimport (
    ENTRY_HEADER_BYTES, batch_memory, batch_new, batch_release, batch_retain,
)

from kudu_storage.errors import Collected, InvalidArgument, NotYetWritten

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


cdef void cache_truncate(BatchCache* cache, int64_t index) noexcept nogil:
    cdef Batch* batch
    while cache.count:
        batch = _at(cache, cache.count - 1)
        if _last(batch) <= index:
            return
        cache.count -= 1
        cache.bytes -= batch_memory(batch)
        batch_release(batch)


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


cdef class LogCache:
    """Messages of a log by index, bounded in bytes. The GIL serialises its calls.

    Args:
        bytes_max: bound; evictable messages beyond it are dropped, oldest first.
    """
    cdef BatchCache cache
    cdef int64_t pinned_from        # messages at or above it are not evicted for want of room

    def __cinit__(self, size_t bytes_max):
        cache_init(&self.cache, bytes_max, False)
        self.pinned_from = 0x7FFFFFFFFFFFFFFF

    def __dealloc__(self):
        cache_clear(&self.cache)

    def put(self, int64_t index, message):
        """Keep a copy of `message` under `index`. Messages at and above it are dropped first: it replaces them."""
        cdef Py_buffer view
        cdef Batch* batch
        if index < 1:
            raise InvalidArgument(f"index {index} is below 1")
        PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
        try:
            batch = batch_new(<size_t> view.len)
            if batch == NULL:
                raise MemoryError()
            memcpy(batch.bytes + ENTRY_HEADER_BYTES, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        batch.first_index = index
        batch.count = 1
        if cache_put(&self.cache, batch) < 0:
            batch_release(batch)
            raise MemoryError()
        batch_release(batch)
        cache_trim(&self.cache, self.pinned_from - 1)

    def put_many(self, int64_t first_index, list messages not None):
        """put() of each, with indexes from first_index on."""
        cdef Py_ssize_t i
        for i in range(len(messages)):
            self.put(first_index + i, messages[i])

    def pin_from(self, int64_t index):
        """Messages at or above `index` stay whatever the bound says (they are not durable yet, or a peer needs them)."""
        if index < 1:
            raise InvalidArgument(f"index {index} is below 1")
        self.pinned_from = index

    def evict(self, int64_t index):
        """Drop messages up to and including `index`: every peer has them."""
        cache_evict_to(&self.cache, index)

    def read(self, int64_t from_index, size_t max_bytes=1 << 20):
        """[(index, message)] from `from_index` on, up to the first hole and about max_bytes, at least one.

        Raises:
            NotYetWritten: above the last message. Collected: below, or in a hole: read it from the log.
        """
        cdef Batch* batch
        cdef size_t total = 0
        found = []
        while not found or total < max_bytes:
            batch = cache_find(&self.cache, from_index)
            if batch == NULL:
                break
            found.append((from_index, PyBytes_FromStringAndSize(<const char*> batch.bytes + ENTRY_HEADER_BYTES,
                                                                batch.body_bytes)))
            total += batch.body_bytes
            batch_release(batch)
            from_index += 1
        if not found:
            last = _last(_at(&self.cache, self.cache.count - 1)) if self.cache.count else 0
            if from_index > last:
                raise NotYetWritten(f"message {from_index} is above the last one, {last}")
            raise Collected(f"message {from_index} is not in the cache", advice="read it from the log")
        return found

    def stats(self):
        """Counts and bytes, by name."""
        return {"messages": self.cache.count, "bytes": self.cache.bytes, "bytes_max": self.cache.bytes_max,
                "hits": self.cache.hits, "misses": self.cache.misses, "evicted": self.cache.evicted,
                "first_index": _at(&self.cache, 0).first_index if self.cache.count else None,
                "last_index": _last(_at(&self.cache, self.cache.count - 1)) if self.cache.count else None}

    def check(self):
        """Derive C1 and C2 afresh. Raises AssertionError."""
        cdef size_t i, total = 0
        cdef int64_t last = 0
        for i in range(self.cache.count):
            assert _at(&self.cache, i).first_index > last, "C1"
            last = _last(_at(&self.cache, i))
            total += batch_memory(_at(&self.cache, i))
        assert total == self.cache.bytes, "C2"

    def __len__(self):
        return self.cache.count
