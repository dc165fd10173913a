"""Recent batches of one log, by index: bounded in bytes, possibly with holes, oldest evicted first.

C1  Batches are ordered by first_index and do not overlap.
C2  `bytes` is the sum of batch_memory() of the batches held.
C3  A log's cache grows to bytes_max while it is read. When a cacheful went by that nobody asked for, and before anybody ever
    asked, it keeps UNREAD_BYTES_MAX: what is never read should not cost fresh memory, nor drive out of the processor's
    caches what is at work. The page cache has the rest.
C4  Eviction drops the cache's reference only: a reader that holds a batch keeps it.
The owner serialises all calls (a log holds its mutex).
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t

from kudu_storage._native.log_batch cimport Batch

cdef struct BatchCache:
    Batch** slots           # ring of a power of two
    size_t mask             # slots - 1; 0 before the first put
    size_t head
    size_t count
    size_t bytes
    size_t bytes_max
    size_t bytes_limit      # at most bytes_max (C3)
    bint adapts             # C3 holds; else bytes_limit is bytes_max
    size_t unread_bytes     # put since anybody asked
    int64_t hits
    int64_t misses
    int64_t evicted

cdef void cache_init(BatchCache* cache, size_t bytes_max, bint adapts) noexcept nogil
cdef void cache_clear(BatchCache* cache) noexcept nogil
# Takes a reference. Batches above it are dropped first (they were replaced). 0, or -1: out of memory (nothing is kept).
cdef int cache_put(BatchCache* cache, Batch* batch) noexcept nogil
# Evicts, oldest first, batches whose operations are all <= `evictable`, until `bytes` is at most bytes_limit.
cdef void cache_trim(BatchCache* cache, int64_t evictable) noexcept nogil
# Evicts batches whose operations are all <= index.
cdef void cache_evict_to(BatchCache* cache, int64_t index) noexcept nogil
# Drops batches that hold an operation > index.
cdef void cache_truncate(BatchCache* cache, int64_t index) noexcept nogil
# Drops batches with a serial above it: they were not written and never will be.
cdef void cache_drop_unwritten(BatchCache* cache, int64_t serial) noexcept nogil
# The batch that holds `index`, with a reference for the caller; NULL: a hole, or not there.
cdef Batch* cache_find(BatchCache* cache, int64_t index) noexcept nogil
