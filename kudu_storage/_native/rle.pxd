"""Kudu's hybrid of runs and bit-packed groups (the same scheme as Parquet's), and bitmaps. See rle.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.byte_buffer cimport ByteBuffer

# Reads forward. `width` is 1, or 8, 16, 32, 64. The bytes belong to someone else and must outlive it.
cdef struct RunReader:
    const uint8_t* start
    const uint8_t* pos          # next run header
    const uint8_t* end
    uint32_t width
    uint64_t repeat_left
    uint64_t literal_left       # values
    const uint8_t* literal      # of the current literal run
    uint64_t literal_bit        # width 1: next bit of `literal`
    uint64_t value              # of the current repeated run

cdef void runs_open(RunReader* runs, const uint8_t* data, size_t size, uint32_t width) noexcept nogil
# Width 1: sets bits at .. at + count of `bitmap` and returns how many are 1; -1: the bytes end too early or are no
# runs.
cdef int64_t runs_read_bits(RunReader* runs, uint64_t count, uint8_t* bitmap, uint64_t at) noexcept nogil
# Width 1: one byte a value, 0 or 1. 0 or -1.
cdef int runs_read_bools(RunReader* runs, uint64_t count, uint8_t* target) noexcept nogil
# Other widths: count * width / 8 bytes. 0 or -1.
cdef int runs_read_values(RunReader* runs, uint64_t count, uint8_t* target) noexcept nogil
# Skips; width 1: the number of ones skipped, else 0; or -1.
cdef int64_t runs_skip(RunReader* runs, uint64_t count) noexcept nogil

# Appends to `out`, which belongs to the caller and stays with this writer until runs_finish.
cdef struct RunWriter:
    ByteBuffer* out
    uint32_t width
    uint64_t current
    uint64_t repeat_count
    uint32_t buffered_count
    uint64_t[8] buffered
    uint32_t literal_count
    int64_t indicator_at        # offset in `out` of the literal run's header byte, or -1

cdef void runs_begin(RunWriter* writer, ByteBuffer* out, uint32_t width) noexcept nogil
cdef int runs_put(RunWriter* writer, uint64_t value, uint64_t count) noexcept nogil     # 0, or -1: out of memory
cdef int runs_finish(RunWriter* writer) noexcept nogil

cdef void bits_set(uint8_t* bitmap, uint64_t at, uint64_t count, bint value) noexcept nogil
# Copies `count` bits; returns how many are 1.
cdef int64_t bits_copy(uint8_t* target, uint64_t at, const uint8_t* source, uint64_t source_at,
                       uint64_t count) noexcept nogil
