"""Memory of batches, kept for the next ones. See log_batch.pxd. Opens nothing; needs no GIL.

M1  What is kept is at most KEPT_BYTES_MAX, over all logs of the process; `kept_bytes` is its sum.
M2  A block is kept in the class of its size; it is given to batches that need no more than that, and little less.
M3  The mutex is taken after any other and held for some instructions only. A fork's child starts with nothing kept.
"""
from libc.stdlib cimport malloc
from libc.string cimport memset

from kudu_storage._native.posix cimport (
    pthread_atfork, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock,
)

cdef enum:
    KEPT_BYTES_MAX = 8 << 20
    SMALL_BYTES = 1024          # up to it malloc keeps blocks by itself, without a lock
    SMALL_BITS = 10
    STEPS_BITS = 3              # classes in a doubling: at most an eighth is wasted
    CLASSES = 13 << 3           # up to KEPT_BYTES_MAX

cdef struct Kept:
    pthread_mutex_t mutex
    Batch* first[CLASSES]
    size_t kept_bytes

cdef Kept KEPT
memset(&KEPT, 0, sizeof(Kept))
pthread_mutex_init(&KEPT.mutex, NULL)

cdef extern from * nogil:
    """
    #define kudu_top_bit(value) (63 - __builtin_clzll(value))
    """
    int kudu_top_bit(uint64_t value)


cdef void _after_fork() noexcept nogil:
    """Another thread of the parent may have been at work: its lists are nobody's here, and the mutex may be held."""
    memset(&KEPT, 0, sizeof(Kept))
    pthread_mutex_init(&KEPT.mutex, NULL)


pthread_atfork(NULL, NULL, _after_fork)


cdef inline int _class_of(size_t* size) noexcept nogil:
    """Rounds `size`, which is above SMALL_BYTES, up to its class; at or above CLASSES: too large to keep."""
    cdef int top = kudu_top_bit(size[0] - 1)
    cdef size_t step = (<size_t> 1) << (top - STEPS_BITS)
    size[0] = (size[0] + step - 1) & ~(step - 1)
    top = kudu_top_bit(size[0])
    return <int> (((top - SMALL_BITS) << STEPS_BITS) + ((size[0] >> (top - STEPS_BITS)) & ((1 << STEPS_BITS) - 1)))


cdef Batch* batch_new(size_t body_bytes) noexcept nogil:
    cdef size_t size = sizeof(Batch) + ENTRY_HEADER_BYTES + body_bytes + BATCH_SLACK_BYTES
    cdef Batch* batch = NULL
    cdef int kind
    if size > SMALL_BYTES:
        kind = _class_of(&size)
        if kind < CLASSES:
            pthread_mutex_lock(&KEPT.mutex)
            batch = KEPT.first[kind]
            if batch != NULL:
                KEPT.first[kind] = batch.next
                KEPT.kept_bytes -= size
            pthread_mutex_unlock(&KEPT.mutex)
    if batch == NULL:
        batch = <Batch*> malloc(size)
        if batch == NULL:
            return NULL
    batch.references = 1
    batch.next = NULL
    batch.serial = 0
    batch.body_bytes = body_bytes
    batch.memory_bytes = size
    batch.bytes = <uint8_t*> batch + sizeof(Batch)
    batch.stored = NULL
    batch.stored_bytes = 0
    return batch


cdef void batch_drop(Batch* batch) noexcept nogil:
    cdef size_t size = batch.memory_bytes
    cdef Batch* excess = NULL
    cdef Batch* next
    cdef int kind
    if batch.stored != NULL:
        free(batch.stored)
    if size <= SMALL_BYTES:
        free(batch)
        return
    kind = _class_of(&size)
    if kind >= CLASSES:
        free(batch)
        return
    pthread_mutex_lock(&KEPT.mutex)
    if KEPT.kept_bytes + size > KEPT_BYTES_MAX:
        excess = _take_all()        # of sizes that nobody may want any more
    batch.next = KEPT.first[kind]
    KEPT.first[kind] = batch
    KEPT.kept_bytes += size
    pthread_mutex_unlock(&KEPT.mutex)
    while excess != NULL:
        next = excess.next
        free(excess)
        excess = next


cdef Batch* _take_all() noexcept nogil:
    """All that is kept, as one list. Call with the mutex held."""
    cdef Batch* all = NULL
    cdef Batch* batch
    cdef int kind
    for kind in range(CLASSES):
        while KEPT.first[kind] != NULL:
            batch = KEPT.first[kind]
            KEPT.first[kind] = batch.next
            batch.next = all
            all = batch
    KEPT.kept_bytes = 0
    return all


def kept_bytes():
    """Bytes kept for batches to come, of all logs together."""
    pthread_mutex_lock(&KEPT.mutex)
    try:
        return KEPT.kept_bytes
    finally:
        pthread_mutex_unlock(&KEPT.mutex)
