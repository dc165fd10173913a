"""LZ4 raw blocks (no frame, no size prefix) through the `lz4` wheel's own C code."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

# Bytes written to `target`, or -1: not an LZ4 block, or it does not fit. Never reads or writes outside the two windows.
cdef Py_ssize_t lz4_decompress(const uint8_t* source, size_t source_bytes,
                               uint8_t* target, size_t target_bytes) noexcept nogil
# Bytes written to `target`, or -1 when it is too small. lz4_bound(n) bytes are always enough for n bytes.
cdef Py_ssize_t lz4_compress(const uint8_t* source, size_t source_bytes,
                             uint8_t* target, size_t target_bytes) noexcept nogil
cdef size_t lz4_bound(size_t source_bytes) noexcept nogil
