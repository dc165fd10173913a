"""Memory of one MemRowSet: objects are allocated, never moved, and freed all at once.

A reference is 32 bits: 14 bits of chunk, 18 bits of offset in units of 8 bytes. It halves what row headers and tree
leaves cost against pointers and reaches 32 GiB, after which allocation fails as if memory were short. Reference 0 means
none. One writer at a time; any number of readers may follow references that were published to them (atomics.pxd): the
table of chunks is replaced when it grows, and old tables stay until the end.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from kudu_storage._native.atomics cimport load_pointer

cdef enum:
    ARENA_UNIT_SHIFT = 3
    ARENA_CHUNK_SHIFT = 21                                          # 2 MiB
    ARENA_CHUNK_BYTES = 1 << ARENA_CHUNK_SHIFT
    ARENA_UNITS_SHIFT = ARENA_CHUNK_SHIFT - ARENA_UNIT_SHIFT        # 18
    ARENA_UNITS_MASK = (1 << ARENA_UNITS_SHIFT) - 1
    ARENA_CHUNKS_MAX = 1 << (32 - ARENA_UNITS_SHIFT)
    ARENA_TABLES_MAX = 10                                           # capacities 64, 128 ... 32768

cdef struct Arena:
    uint8_t** chunks        # start of each chunk; an object above 2 MiB covers several consecutive entries
    uint8_t* owned          # 1 where chunks[i] was allocated by itself
    uint32_t chunk_count
    uint32_t chunk_capacity
    uint8_t** outgrown[ARENA_TABLES_MAX]    # former tables of chunks
    uint32_t outgrown_count
    size_t used             # bytes used of the last chunk
    size_t bytes_reserved   # of all chunks
    size_t bytes_used       # handed out, after rounding to units

cdef int arena_init(Arena* arena) noexcept nogil        # 0, or -1: out of memory
cdef void arena_free(Arena* arena) noexcept nogil
cdef uint32_t arena_grow(Arena* arena, size_t size) noexcept nogil


cdef inline uint8_t* arena_at(const Arena* arena, uint32_t ref) noexcept nogil:
    cdef uint8_t** chunks = <uint8_t**> load_pointer(<void**> &arena.chunks)
    return chunks[ref >> ARENA_UNITS_SHIFT] + ((<size_t> (ref & ARENA_UNITS_MASK)) << ARENA_UNIT_SHIFT)


cdef inline uint32_t arena_alloc(Arena* arena, size_t size) noexcept nogil:
    """A reference to `size` bytes aligned to 8, or 0: out of memory."""
    cdef size_t start = arena.used
    size = (size + 7) & ~(<size_t> 7)
    if size > ARENA_CHUNK_BYTES - start:
        return arena_grow(arena, size)
    arena.used = start + size
    arena.bytes_used += size
    return ((arena.chunk_count - 1) << ARENA_UNITS_SHIFT) | <uint32_t> (start >> ARENA_UNIT_SHIFT)
