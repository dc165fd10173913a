"""See arena.pxd."""
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset


cdef int arena_init(Arena* arena) noexcept nogil:
    memset(arena, 0, sizeof(Arena))
    arena_grow(arena, 8)        # its reference is 0, which stays "none"
    return 0 if arena.chunk_count else -1


cdef void arena_free(Arena* arena) noexcept nogil:
    cdef uint32_t i
    for i in range(arena.chunk_count):
        if arena.owned[i]:
            free(arena.chunks[i])
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
    chunks = <uint8_t**> realloc(arena.chunks, capacity * sizeof(uint8_t*))
    if chunks == NULL:
        return False
    arena.chunks = chunks
    owned = <uint8_t*> realloc(arena.owned, capacity)
    if owned == NULL:
        return False
    arena.owned = owned
    arena.chunk_capacity = capacity
    return True


cdef uint32_t arena_grow(Arena* arena, size_t size) noexcept nogil:
    """Start a new chunk, or several in one piece for a large object, and allocate from it. `size` is a multiple of 8."""
    cdef size_t pieces = (size + ARENA_CHUNK_BYTES - 1) >> ARENA_CHUNK_SHIFT
    cdef uint32_t first = arena.chunk_count
    cdef uint8_t* memory
    cdef size_t i
    if pieces > ARENA_CHUNKS_MAX or not _reserve_entries(arena, <uint32_t> pieces):
        return 0
    memory = <uint8_t*> malloc(pieces << ARENA_CHUNK_SHIFT)
    if memory == NULL:
        return 0
    for i in range(pieces):
        arena.chunks[first + i] = memory + (i << ARENA_CHUNK_SHIFT)
        arena.owned[first + i] = i == 0
    arena.chunk_count = first + <uint32_t> pieces
    # The last piece goes on as the current chunk. In the very first one, unit 0 stays unused: reference 0 means none.
    arena.used = size - ((pieces - 1) << ARENA_CHUNK_SHIFT)
    arena.bytes_reserved += pieces << ARENA_CHUNK_SHIFT
    arena.bytes_used += size
    return first << ARENA_UNITS_SHIFT
