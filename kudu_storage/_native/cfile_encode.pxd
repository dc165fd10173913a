"""One data block of a column file being filled. See cfile_encode.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.binary_block cimport PlainWriter, PrefixWriter
from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.cfile_block cimport ValueShape
from kudu_storage._native.rle cimport RunWriter

cdef struct BlockEncoder:
    ValueShape shape
    size_t block_bytes          # when a block is full
    uint64_t cell_count         # nulls included
    uint64_t value_count
    ByteBuffer fixed            # fixed values, or codewords (u32)
    ByteBuffer run_bytes
    RunWriter runs
    ByteBuffer validity_bytes
    RunWriter validity
    PlainWriter plain
    PrefixWriter prefix
    uint8_t[16] first
    uint8_t[16] last            # of an RLE block, whose values are gone when it ends
    # DICT: the dictionary grows over the whole file; once it is full, blocks are plain.
    int mode
    PlainWriter dictionary
    uint32_t* slots             # codeword + 1, or 0
    size_t slot_mask

cdef int encoder_init(BlockEncoder* encoder, const ValueShape* shape, size_t block_bytes) noexcept nogil
cdef void encoder_free(BlockEncoder* encoder) noexcept nogil
cdef void encoder_reset(BlockEncoder* encoder) noexcept nogil       # before each block
# How many of the values were taken (the rest after the block was finished), or -1: out of memory.
cdef int64_t encoder_add_fixed(BlockEncoder* encoder, const uint8_t* values, uint64_t count) noexcept nogil
# 1 taken, 0 the block must be finished first, -1 out of memory.
cdef int encoder_add_string(BlockEncoder* encoder, const uint8_t* value, size_t size) noexcept nogil
cdef int encoder_add_nulls(BlockEncoder* encoder, uint64_t count) noexcept nogil
cdef bint encoder_full(const BlockEncoder* encoder) noexcept nogil
# Appends the body to `out`; the encoder is then to be reset.
cdef int encoder_finish(BlockEncoder* encoder, uint32_t first_row, ByteBuffer* out) noexcept nogil
# First and last value of the block as they lie in memory; the pointers hold until the reset.
cdef void encoder_edges(const BlockEncoder* encoder, const uint8_t** first, size_t* first_size, const uint8_t** last,
                        size_t* last_size) noexcept nogil
