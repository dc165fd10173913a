"""Verified, decompressed blocks of column files, shared by all readers of a process. See block_cache.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.posix cimport pthread_mutex_t

# A block in memory. Immutable once published; freed with its last reference, on any thread, without the GIL.
cdef struct CachedBlock:
    int64_t references          # changed atomically; the cache's own is one of them
    uint64_t file_id
    uint64_t offset
    size_t size                 # of the body; BLOCK_PADDING_BYTES zeros follow
    uint8_t* data
    # The cache's, under its mutex:
    CachedBlock* chain          # next in the hash bucket
    CachedBlock* newer          # neighbours in its queue
    CachedBlock* older
    bint is_protected

cdef CachedBlock* cached_block_new(uint64_t file_id, uint64_t offset, size_t size) noexcept nogil   # NULL: memory
cdef void cached_block_retain(CachedBlock* block) noexcept nogil
cdef void cached_block_release(CachedBlock* block) noexcept nogil       # NULL is allowed

cdef struct BlockQueue:
    CachedBlock* newest
    CachedBlock* oldest
    size_t bytes

cdef class BlockCache:
    cdef pthread_mutex_t mutex
    cdef CachedBlock** buckets
    cdef size_t bucket_mask
    cdef size_t count
    cdef size_t capacity_bytes
    cdef BlockQueue probation
    cdef BlockQueue protected
    cdef int64_t hits
    cdef int64_t misses
    cdef int64_t evicted
    # A reference for the caller, or NULL.
    cdef CachedBlock* find(self, uint64_t file_id, uint64_t offset) noexcept nogil
    # Takes a reference of its own; a block that is there already or too large is not kept. Never fails.
    cdef void put(self, CachedBlock* block) noexcept nogil
    cdef void drop_file(self, uint64_t file_id) noexcept nogil
    cdef CachedBlock** _slot(self, uint64_t file_id, uint64_t offset) noexcept nogil
    cdef void _promote(self, CachedBlock* block) noexcept nogil
    cdef void _unlink(self, CachedBlock* block) noexcept nogil
    cdef CachedBlock* _take(self, bint everything, uint64_t file_id) noexcept nogil
    cdef void _release(self, CachedBlock* leaving) noexcept nogil

cdef uint64_t next_file_id() noexcept nogil
