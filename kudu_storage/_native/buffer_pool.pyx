"""See buffer_pool.pxd. Opens nothing.

Buffers lie in lists by size, eight lists for each power of two, so that at most an eighth is wasted.
 K1  No more than KEPT_BYTES_MAX are kept; buffers below 32 KiB or from 16 MiB on never are. A buffer that comes when
     all room is taken drives out others, of each list in turn: sizes that nobody asks for any more do not stay.
 K2  A list's buffers all hold at least the list's size, by malloc_usable_size().
 K3  Who finds the lock taken goes on to malloc or free: nobody waits here, and a lock that a fork left taken does no harm.
Builds with AddressSanitizer keep nothing, so that each buffer's end and end of life are watched.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from kudu_storage._native.posix cimport pthread_mutex_init, pthread_mutex_t, pthread_mutex_unlock

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void* buffer)

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_trylock(pthread_mutex_t* mutex)

cdef extern from * nogil:
    """
    #if defined(__SANITIZE_ADDRESS__)
    #define KUDU_POOL_BYTES_MAX 0
    #else
    #define KUDU_POOL_BYTES_MAX (64u << 20)
    #endif
    #define kudu_highest_bit(x) (63 - __builtin_clzll(x))
    """
    const size_t KEPT_BYTES_MAX "KUDU_POOL_BYTES_MAX"   # a million rows of a small table
    int kudu_highest_bit(size_t x)

cdef enum:
    KEPT_MIN_BIT = 15               # 32 KiB: malloc recycles what is smaller well enough
    KEPT_MAX_BIT = 24
    STEPS = 8                       # lists for each power of two
    LISTS = (KEPT_MAX_BIT - KEPT_MIN_BIT) * STEPS

cdef struct Kept:
    Kept* next

ctypedef Kept* KeptList

cdef pthread_mutex_t _lock
cdef KeptList[LISTS] _lists
cdef size_t _kept_bytes = 0
cdef int _hand = 0                  # the list that gives way next
pthread_mutex_init(&_lock, NULL)


cdef inline int list_below(size_t size) noexcept nogil:
    """The list whose size is the highest at or below `size`; -1: none is."""
    cdef int bit
    if size < <size_t> 1 << KEPT_MIN_BIT or size >= <size_t> 1 << KEPT_MAX_BIT:
        return -1
    bit = kudu_highest_bit(size)
    return (bit - KEPT_MIN_BIT) * STEPS + <int> ((size - (<size_t> 1 << bit)) >> (bit - 3))


cdef inline size_t list_size(int number) noexcept nogil:
    cdef size_t base = <size_t> 1 << (KEPT_MIN_BIT + number // STEPS)
    return base + (base >> 3) * <size_t> (number % STEPS)


cdef int list_above(size_t size) noexcept nogil:
    """The list whose size is the lowest at or above `size`; -1: none."""
    cdef int number = list_below(size)
    if number >= 0 and list_size(number) < size:
        number += 1
    return number if number < LISTS else -1


cdef uint8_t* take_kept(int number) noexcept nogil:
    global _kept_bytes
    cdef Kept* found
    if pthread_mutex_trylock(&_lock):
        return NULL
    found = _lists[number]
    if found != NULL:
        _lists[number] = found.next
        _kept_bytes -= malloc_usable_size(found)
    pthread_mutex_unlock(&_lock)
    return <uint8_t*> found


cdef uint8_t* pool_take(size_t size, size_t* capacity) noexcept nogil:
    cdef int number = list_above(size)
    cdef uint8_t* buffer = NULL
    if number >= 0:
        size = list_size(number)
        buffer = take_kept(number)
    if buffer == NULL:
        buffer = <uint8_t*> malloc(size)
    if capacity != NULL:
        capacity[0] = size
    return buffer


cdef uint8_t* pool_take_zeroed(size_t size) noexcept nogil:
    cdef int number = list_above(size)
    cdef uint8_t* buffer = NULL
    if number >= 0:
        buffer = take_kept(number)
        if buffer != NULL:
            memset(buffer, 0, size)
            return buffer
        size = list_size(number)
    return <uint8_t*> calloc(size, 1)


cdef Kept* make_room(size_t size) noexcept nogil:
    """Takes buffers out of the lists until `size` more bytes fit; they are chained. Under the lock."""
    global _hand, _kept_bytes
    cdef Kept* leaving = NULL
    cdef Kept* found
    while _kept_bytes and _kept_bytes + size > KEPT_BYTES_MAX:
        found = _lists[_hand]
        if found != NULL:
            _lists[_hand] = found.next
            _kept_bytes -= malloc_usable_size(found)
            found.next = leaving
            leaving = found
        _hand = (_hand + 1) % LISTS
    return leaving


cdef void pool_give(void* buffer) noexcept nogil:
    global _kept_bytes
    cdef size_t size
    cdef int number
    cdef Kept* leaving = NULL
    cdef Kept* next
    if buffer == NULL:
        return
    size = malloc_usable_size(buffer)
    number = list_below(size)
    if number >= 0 and pthread_mutex_trylock(&_lock) == 0:
        leaving = make_room(size)
        if _kept_bytes + size <= KEPT_BYTES_MAX:
            (<Kept*> buffer).next = _lists[number]
            _lists[number] = <Kept*> buffer
            _kept_bytes += size
            buffer = NULL
        pthread_mutex_unlock(&_lock)
    free(buffer)
    while leaving != NULL:
        next = leaving.next
        free(leaving)
        leaving = next


def kept_bytes():
    return _kept_bytes


def drop_all():
    cdef int number
    cdef uint8_t* found
    for number in range(LISTS):
        while True:
            found = take_kept(number)
            if found == NULL:
                break
            free(found)
