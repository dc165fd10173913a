"""The block cache: bounded in bytes, scan-resistant, entries counted by reference. Opens nothing.

Two queues, each from newest to oldest (a segmented LRU):
    put -> probation --hit--> protected --(above 4/5 of capacity)--> oldest back to probation
           probation's oldest leave the cache
A scan that reads each block once fills probation only and cannot push out what is read again and again. A reader keeps
its own reference while it decodes a block, so that one visit is one lookup.
 K1  probation.bytes + protected.bytes <= capacity_bytes (bytes of evicted blocks that are in use are their users').
 K2  protected.bytes <= capacity_bytes * 4 / 5.
 K3  Each block is in one queue and one hash bucket, or in neither.
The mutex is held for pointer moves only: no I/O, no GIL, no freeing of large memory under it.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from kudu_storage._native.posix cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

from kudu_storage.errors import InternalError, InvalidArgument

cdef extern from * nogil:
    """
    static inline int64_t kudu_block_add(int64_t* at, int64_t change) {
        return __atomic_add_fetch(at, change, __ATOMIC_ACQ_REL);
    }
    static uint64_t kudu_file_ids = 1;
    static inline uint64_t kudu_next_file_id(void) {
        return __atomic_fetch_add(&kudu_file_ids, 1, __ATOMIC_RELAXED);
    }
    """
    int64_t kudu_block_add(int64_t* at, int64_t change) noexcept
    uint64_t kudu_next_file_id() noexcept

cdef enum:
    PADDING = 16                # cfile_block.pxd: BLOCK_PADDING_BYTES
    BUCKETS_MIN = 1024
    BYTES_PER_BUCKET = 32768    # a block is usually larger


cdef uint64_t next_file_id() noexcept nogil:
    return kudu_next_file_id()


cdef CachedBlock* cached_block_new(uint64_t file_id, uint64_t offset, size_t size) noexcept nogil:
    cdef CachedBlock* block = <CachedBlock*> malloc(sizeof(CachedBlock) + size + PADDING)
    if block == NULL:
        return NULL
    memset(block, 0, sizeof(CachedBlock))
    block.references = 1
    block.file_id = file_id
    block.offset = offset
    block.size = size
    block.data = <uint8_t*> block + sizeof(CachedBlock)
    memset(block.data + size, 0, PADDING)
    return block


cdef void cached_block_retain(CachedBlock* block) noexcept nogil:
    kudu_block_add(&block.references, 1)


cdef void cached_block_release(CachedBlock* block) noexcept nogil:
    if block != NULL and kudu_block_add(&block.references, -1) == 0:
        free(block)


cdef inline size_t charge(const CachedBlock* block) noexcept nogil:
    return block.size + PADDING + sizeof(CachedBlock)


cdef void queue_push(BlockQueue* queue, CachedBlock* block) noexcept nogil:
    block.older = queue.newest
    block.newer = NULL
    if queue.newest != NULL:
        queue.newest.newer = block
    else:
        queue.oldest = block
    queue.newest = block
    queue.bytes += charge(block)


cdef void queue_remove(BlockQueue* queue, CachedBlock* block) noexcept nogil:
    if block.newer != NULL:
        block.newer.older = block.older
    else:
        queue.newest = block.older
    if block.older != NULL:
        block.older.newer = block.newer
    else:
        queue.oldest = block.newer
    block.newer = NULL
    block.older = NULL
    queue.bytes -= charge(block)


cdef inline uint64_t hash_of(uint64_t file_id, uint64_t offset) noexcept nogil:
    cdef uint64_t mixed = (file_id * <uint64_t> 0x9E3779B97F4A7C15) ^ (offset * <uint64_t> 0xC2B2AE3D27D4EB4F)
    return mixed ^ (mixed >> 29)


cdef class BlockCache:
    def __cinit__(self, capacity_bytes):
        cdef size_t buckets = BUCKETS_MIN
        if not 0 <= capacity_bytes < 1 << 46:
            raise InvalidArgument(f"a block cache of {capacity_bytes} bytes")
        while buckets < capacity_bytes // BYTES_PER_BUCKET:
            buckets *= 2
        self.capacity_bytes = capacity_bytes
        self.bucket_mask = buckets - 1
        pthread_mutex_init(&self.mutex, NULL)
        self.buckets = <CachedBlock**> calloc(buckets, sizeof(CachedBlock*))
        if self.buckets == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.buckets != NULL:
            self._release(self._take(True, 0))
            free(self.buckets)
        pthread_mutex_destroy(&self.mutex)

    cdef CachedBlock** _slot(self, uint64_t file_id, uint64_t offset) noexcept nogil:
        """Where the chain points to the block, or its end."""
        cdef CachedBlock** slot = &self.buckets[hash_of(file_id, offset) & self.bucket_mask]
        while slot[0] != NULL and (slot[0].file_id != file_id or slot[0].offset != offset):
            slot = &slot[0].chain
        return slot

    cdef CachedBlock* find(self, uint64_t file_id, uint64_t offset) noexcept nogil:
        cdef CachedBlock* block
        pthread_mutex_lock(&self.mutex)
        block = self._slot(file_id, offset)[0]
        if block == NULL:
            self.misses += 1
        else:
            self.hits += 1
            cached_block_retain(block)
            self._promote(block)
        pthread_mutex_unlock(&self.mutex)
        return block

    cdef void _promote(self, CachedBlock* block) noexcept nogil:
        cdef CachedBlock* demoted
        queue_remove(&self.protected if block.is_protected else &self.probation, block)
        block.is_protected = True
        queue_push(&self.protected, block)
        while self.protected.bytes > self.capacity_bytes // 5 * 4:
            demoted = self.protected.oldest
            queue_remove(&self.protected, demoted)
            demoted.is_protected = False
            queue_push(&self.probation, demoted)

    cdef void put(self, CachedBlock* block) noexcept nogil:
        cdef CachedBlock* leaving = NULL
        cdef CachedBlock* oldest
        cdef CachedBlock** slot
        if charge(block) > self.capacity_bytes:
            return
        pthread_mutex_lock(&self.mutex)
        slot = self._slot(block.file_id, block.offset)
        if slot[0] == NULL:
            while self.probation.bytes + self.protected.bytes + charge(block) > self.capacity_bytes:
                oldest = self.probation.oldest if self.probation.oldest != NULL else self.protected.oldest
                self._unlink(oldest)
                oldest.chain = leaving
                leaving = oldest
                self.evicted += 1
            slot = self._slot(block.file_id, block.offset)      # the chain may have changed
            cached_block_retain(block)
            block.chain = NULL
            slot[0] = block
            queue_push(&self.probation, block)
            self.count += 1
        pthread_mutex_unlock(&self.mutex)
        self._release(leaving)

    cdef void _unlink(self, CachedBlock* block) noexcept nogil:
        cdef CachedBlock** slot = self._slot(block.file_id, block.offset)
        slot[0] = block.chain
        queue_remove(&self.protected if block.is_protected else &self.probation, block)
        self.count -= 1

    cdef CachedBlock* _take(self, bint everything, uint64_t file_id) noexcept nogil:
        """Unlinks the blocks of a file (or all); they come back chained, still holding the cache's reference."""
        cdef CachedBlock* leaving = NULL
        cdef CachedBlock* block
        cdef CachedBlock* older
        cdef int queue
        for queue in range(2):
            block = self.protected.newest if queue else self.probation.newest
            while block != NULL:
                older = block.older
                if everything or block.file_id == file_id:
                    self._unlink(block)
                    block.chain = leaving
                    leaving = block
                block = older
        return leaving

    cdef void _release(self, CachedBlock* leaving) noexcept nogil:
        cdef CachedBlock* block
        while leaving != NULL:
            block = leaving
            leaving = block.chain
            cached_block_release(block)

    cdef void drop_file(self, uint64_t file_id) noexcept nogil:
        cdef CachedBlock* leaving
        pthread_mutex_lock(&self.mutex)
        leaving = self._take(False, file_id)
        pthread_mutex_unlock(&self.mutex)
        self._release(leaving)

    def forget(self, file_id):
        """Drop all blocks of a file, which was deleted or whose number will be used again."""
        self.drop_file(file_id)

    def stats(self):
        """Counts since the start, and what is held now."""
        pthread_mutex_lock(&self.mutex)
        hits, misses, evicted = self.hits, self.misses, self.evicted
        blocks, probation, protected = self.count, self.probation.bytes, self.protected.bytes
        pthread_mutex_unlock(&self.mutex)
        return {"hits": hits, "misses": misses, "evicted": evicted, "blocks": blocks,
                "bytes": probation + protected, "protected_bytes": protected, "capacity_bytes": self.capacity_bytes}

    def check(self):
        """K1 to K3, derived afresh."""
        cdef size_t total = 0, bytes = 0, queued = 0, i
        cdef CachedBlock* block
        for i in range(self.bucket_mask + 1):
            block = self.buckets[i]
            while block != NULL:
                total += 1
                block = block.chain
        for is_protected in (False, True):
            bytes = 0
            block = self.protected.newest if is_protected else self.probation.newest
            while block != NULL:
                queued += 1
                bytes += charge(block)
                if block.is_protected != is_protected:
                    raise InternalError("K3: a block in the wrong queue")
                block = block.older
            if bytes != (self.protected.bytes if is_protected else self.probation.bytes):
                raise InternalError("K1: a queue's bytes do not add up")
        if total != self.count or queued != total:
            raise InternalError("K3: buckets and queues hold different numbers of blocks")
        if self.probation.bytes + self.protected.bytes > self.capacity_bytes \
                or self.protected.bytes > self.capacity_bytes // 5 * 4:
            raise InternalError("K1, K2: above capacity")
