"""Bitshuffle + LZ4 in the framing of Kudu's BIT_SHUFFLE blocks, decoded piece by piece. See bitshuffle.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kudu_storage._native.byte_buffer cimport ByteBuffer

cdef enum:
    BSHUF_PIECE_BYTES_MAX = 8192

# An open block. `data` belongs to someone else and must outlive it; the rest is its own and kept from block to block.
cdef struct ShuffledBlock:
    const uint8_t* data         # the pieces, behind the 20-byte header
    size_t size
    uint64_t count              # elements, padding not counted
    uint64_t padded
    uint32_t ordinal
    uint32_t width              # bytes of an element as stored
    uint64_t piece_elements     # of all pieces but the last
    uint32_t piece_count
    uint32_t* starts            # offset of each piece's length field in `data`
    uint32_t starts_capacity
    uint32_t held               # the piece decoded in `scratch`; piece_count: none
    uint8_t* scratch            # 3 * BSHUF_PIECE_BYTES_MAX: elements, shuffled, planes
    const char* why             # what is wrong, after a failure

cdef void shuffled_init(ShuffledBlock* block) noexcept nogil
cdef void shuffled_free(ShuffledBlock* block) noexcept nogil
# Looks at header and piece lengths: 0, or -1 with `why`.
cdef int shuffled_open(ShuffledBlock* block, const uint8_t* payload, size_t size) noexcept nogil
# Elements first .. first + count, as stored, into `target` (count * width bytes): 0, or -1 with `why`.
cdef int shuffled_read(ShuffledBlock* block, uint64_t first, uint64_t count, uint8_t* target) noexcept nogil
# The same, widened to 32 bits. Width 1, 2 or 4 only.
cdef int shuffled_read_u32(ShuffledBlock* block, uint64_t first, uint64_t count, uint32_t* target) noexcept nogil
# Appends a whole block, header included, to `out`: 0, or -1: out of memory. `elements` has room for 7 elements more.
cdef int shuffled_write(ByteBuffer* out, uint8_t* elements, uint64_t count, uint32_t width,
                        uint32_t ordinal) noexcept nogil
