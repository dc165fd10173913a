"""The hash and the bit arithmetic of Kudu's bloom filters. See bloom.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef uint64_t city_hash64(const uint8_t* data, size_t size) noexcept nogil

# A filter in memory that someone else owns.
cdef struct BloomBits:
    const uint8_t* bits
    uint64_t bit_count
    uint32_t hash_count

# Opens a bloom block's body: 0, or -1: not one.
cdef int bloom_open(BloomBits* bloom, const uint8_t* body, size_t size) noexcept nogil
cdef bint bloom_may_contain(const BloomBits* bloom, uint64_t key_hash) noexcept nogil
cdef void bloom_add(uint8_t* bits, uint64_t bit_count, uint32_t hash_count, uint64_t key_hash) noexcept nogil
