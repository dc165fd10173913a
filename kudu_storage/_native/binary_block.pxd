"""Blocks of byte strings: plain (values, then their offsets) and prefix (each value by what it shares). See
binary_block.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kudu_storage._native.byte_buffer cimport ByteBuffer

# -- plain -------------------------------------------------------------------------------------------------------------
# An open plain block. `data` belongs to someone else; `offsets` is its own and kept from block to block.
cdef struct PlainBlock:
    const uint8_t* data         # start of the block; value i is data[offsets[i] .. offsets[i + 1]]
    uint32_t ordinal
    uint32_t count
    uint32_t* offsets           # count + 1, never going down, all inside the block
    size_t capacity
    const char* why

cdef void plain_free(PlainBlock* block) noexcept nogil
cdef int plain_open(PlainBlock* block, const uint8_t* payload, size_t size) noexcept nogil      # 0, or -1 with `why`

cdef struct PlainWriter:
    ByteBuffer data             # the header's place, then values
    ByteBuffer offsets          # u32 each
    uint32_t count
    size_t size_estimate        # as Kudu counts: header, values, offsets as group varints

cdef void plain_writer_reset(PlainWriter* writer) noexcept nogil
cdef void plain_writer_free(PlainWriter* writer) noexcept nogil
cdef int plain_writer_add(PlainWriter* writer, const uint8_t* value, size_t size) noexcept nogil    # 0, -1: memory
cdef int plain_writer_finish(PlainWriter* writer, uint32_t ordinal, ByteBuffer* out) noexcept nogil
cdef const uint8_t* plain_writer_value(const PlainWriter* writer, uint32_t index, size_t* size) noexcept nogil

# -- prefix ------------------------------------------------------------------------------------------------------------
# An open prefix block, read forward value by value; `value` is its own.
cdef struct PrefixBlock:
    const uint8_t* data
    const uint8_t* entries
    const uint8_t* entries_end
    const uint8_t* pos          # next entry
    uint32_t ordinal
    uint32_t count
    uint32_t interval
    uint32_t restart_count
    uint32_t next               # index of the entry at pos
    ByteBuffer value            # the entry before pos
    const char* why

cdef void prefix_free(PrefixBlock* block) noexcept nogil
cdef int prefix_open(PrefixBlock* block, const uint8_t* payload, size_t size) noexcept nogil
cdef int prefix_seek(PrefixBlock* block, uint32_t index) noexcept nogil     # the next prefix_next gives `index`
cdef int prefix_next(PrefixBlock* block) noexcept nogil                     # into `value`

cdef enum:
    PREFIX_RESTART_INTERVAL = 16

cdef struct PrefixWriter:
    ByteBuffer data             # entries
    ByteBuffer restarts         # u32 each, relative to the entries
    ByteBuffer last
    ByteBuffer first
    uint32_t count
    uint32_t since_restart

cdef void prefix_writer_reset(PrefixWriter* writer) noexcept nogil
cdef void prefix_writer_free(PrefixWriter* writer) noexcept nogil
cdef int prefix_writer_add(PrefixWriter* writer, const uint8_t* value, size_t size) noexcept nogil
cdef int prefix_writer_finish(PrefixWriter* writer, uint32_t ordinal, ByteBuffer* out) noexcept nogil
cdef size_t common_prefix(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil
