"""Scan of one log segment: bytes in, verified and decompressed entry batches out. No policy about what damage means.

Layout of an entry (docs/formats/wal.md):
    u32 stored length | u32 length | u32 crc of the stored bytes | u32 crc of those 12 bytes | stored bytes   (v2)
    u32 length | u32 crc of the bytes | u32 crc of those 8 bytes | bytes                                      (v1)
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.crc32c cimport crc32c_fn

cdef struct BatchRef:
    int64_t file_offset         # of the entry's header
    size_t data_offset          # of its LogEntryBatchPB in the chunk's data
    uint32_t data_bytes         # after decompression
    uint32_t stored_bytes       # as in the file, without the header

cdef class BatchChunk:
    """Some consecutive batches of one segment. Immutable once returned; owns its bytes."""
    cdef uint8_t* data
    cdef size_t data_bytes
    cdef size_t data_capacity
    cdef BatchRef* batches
    cdef Py_ssize_t count
    cdef Py_ssize_t batch_capacity

    cdef void take_spare_refs(self) noexcept

# What stopped a scan; the numbers that its text needs.
cdef struct Stop:
    int reason                  # STOP_* in segment.pyx
    int64_t offset              # of the entry's header
    uint32_t stored_bytes       # as its header says
    uint32_t data_bytes
    uint32_t expected_crc
    uint32_t computed_crc
    int os_error                # errno of STOP_IO

cdef class SegmentScanner:
    """See segment.pyi."""
    cdef readonly int fd
    cdef readonly int64_t offset        # first byte not consumed by a returned batch
    cdef readonly int64_t end_offset    # entries end here: the footer's first byte, or the file's size
    cdef readonly int64_t file_size
    cdef readonly int codec
    cdef readonly bint v1
    cdef readonly bint closed
    cdef readonly str outcome
    cdef readonly str detail
    cdef readonly str error_kind
    cdef bint ended
    cdef Stop stop
    cdef size_t header_bytes
    cdef crc32c_fn crc                  # of now; for fill() and what it calls
    # raw[raw_pos:raw_end] are bytes read and not yet consumed; raw[raw_pos] is the file's byte `offset`.
    cdef uint8_t* raw
    cdef size_t raw_capacity
    cdef size_t raw_pos
    cdef size_t raw_end

    cdef void fill(self, BatchChunk chunk, size_t target) noexcept nogil
    cdef int refill(self, size_t needed, size_t target) noexcept nogil
    cdef int parse_header(self, const uint8_t* header) noexcept nogil
    cdef int append_copy(self, BatchChunk chunk, const uint8_t* body, size_t target) noexcept nogil
    cdef void set_outcome(self) except *
    cdef str describe(self)
