"""The four codecs of log entries and of column file blocks, by Kudu's CompressionType numbers."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    CODEC_NONE = 1
    CODEC_SNAPPY = 2
    CODEC_LZ4 = 3
    CODEC_ZLIB = 4

# False when `source_bytes` of this codec cannot possibly hold `target_bytes`. Ask before allocating the target.
cdef bint codec_can_expand(int codec, uint64_t source_bytes, uint64_t target_bytes) noexcept nogil
# 0 when `source` was exactly `target_bytes` bytes, -1 for anything else. Snappy and zlib take the GIL inside.
cdef int codec_decompress(int codec, const uint8_t* source, size_t source_bytes,
                          uint8_t* target, size_t target_bytes) noexcept nogil
