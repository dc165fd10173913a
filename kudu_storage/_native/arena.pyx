"""See arena.pxd."""
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from kudu_storage._native.atomics cimport store_pointer

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifdef MADV_POPULATE_WRITE
    /* A hint: one call maps all pages of a chunk instead of 512 page faults. Huge pages would be cheaper still, but
       where memory is fragmented the kernel compacts it first, which made filling an arena up to three times slower. */
    #define kudu_populate(memory, size) ((void) madvise((memory), (size), MADV_POPULATE_WRITE))
    #else
    #define kudu_populate(memory, size) ((void) 0)
    #endif
    """
    void kudu_populate(void* memory, size_t size) nogil


cdef int arena_init(Arena* arena) noexcept nogil:
    memset(arena, 0, sizeof(Arena))
    arena_grow(arena, 8)        # its reference is 0, which stays "none"
    return 0 if arena.chunk_count else -1


cdef void arena_free(Arena* arena) noexcept nogil:
    cdef uint32_t i
    for i in range(arena.chunk_count):
        if arena.owned[i]:
            free(arena.chunks[i])
    for i in range(arena.outgrown_count):
        free(arena.outgrown[i])
    free(arena.chunks)
    free(arena.owned)
    memset(arena, 0, sizeof(Arena))


cdef bint _reserve_entries(Arena* arena, uint32_t more) noexcept nogil:
    cdef uint32_t capacity = arena.chunk_capacity
    cdef uint8_t** chunks
    cdef uint8_t* owned
    if arena.chunk_count + more > ARENA_CHUNKS_MAX:
        return False
    if arena.chunk_count + more <= capacity:
        return True
    while capacity < arena.chunk_count + more:
        capacity = capacity * 2 if capacity else 64
    owned = <uint8_t*> realloc(arena.owned, capacity)
    if owned == NULL:
        return False
    arena.owned = owned
    chunks = <uint8_t**> malloc(capacity * sizeof(uint8_t*))
    if chunks == NULL:
        return False
    if arena.chunk_count:
        memcpy(chunks, arena.chunks, arena.chunk_count * sizeof(uint8_t*))
    if arena.chunks != NULL:
        arena.outgrown[arena.outgrown_count] = arena.chunks
        arena.outgrown_count += 1
    store_pointer(<void**> &arena.chunks, chunks)
    arena.chunk_capacity = capacity
    return True


cdef uint32_t arena_grow(Arena* arena, size_t size) noexcept nogil:
    """Start a new chunk, or several in one piece for a large object, and allocate from it. `size` is a multiple of 8."""
    cdef size_t pieces = (size + ARENA_CHUNK_BYTES - 1) >> ARENA_CHUNK_SHIFT
    cdef uint32_t first = arena.chunk_count
    cdef void* memory = NULL
    cdef size_t i
    if pieces > ARENA_CHUNKS_MAX or not _reserve_entries(arena, <uint32_t> pieces):
        return 0
    if posix_memalign(&memory, ARENA_CHUNK_BYTES, pieces << ARENA_CHUNK_SHIFT) != 0:
        return 0
    if first > 0:               # a small MemRowSet stays in its first chunk and touches only the pages it needs
        kudu_populate(memory, pieces << ARENA_CHUNK_SHIFT)
    for i in range(pieces):
        arena.chunks[first + i] = <uint8_t*> memory + (i << ARENA_CHUNK_SHIFT)
        arena.owned[first + i] = i == 0
    arena.chunk_count = first + <uint32_t> pieces
    # The last piece goes on as the current chunk. In the very first one, unit 0 stays unused: reference 0 means none.
    arena.used = size - ((pieces - 1) << ARENA_CHUNK_SHIFT)
    arena.bytes_reserved += pieces << ARENA_CHUNK_SHIFT
    arena.bytes_used += size
    return first << ARENA_UNITS_SHIFT
