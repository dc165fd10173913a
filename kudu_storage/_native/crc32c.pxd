"""CRC-32C as Kudu stores it: plain Castagnoli, not masked."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

# The CRC of the bytes so far (`crc`, 0 for none) followed by `size` bytes at `data`.
cdef uint32_t crc32c_extend(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil

# For loops over many short pieces: the chosen engine's function, and what crc32c_extend() does, with it.
ctypedef uint32_t (*crc32c_fn)(uint32_t reg, const uint8_t* data, size_t size) noexcept nogil
cdef crc32c_fn crc32c_function() noexcept nogil

cdef inline uint32_t crc32c_by(crc32c_fn run, uint32_t crc, const uint8_t* data, size_t size) noexcept nogil:
    return ~run(~crc, data, size)
