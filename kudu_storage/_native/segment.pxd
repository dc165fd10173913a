"""Scan of one log segment: bytes in, verified and decompressed entry batches out. No policy about what damage means.

Layout of an entry (docs/formats/wal.md):
    u32 stored length | u32 length | u32 crc of the stored bytes | u32 crc of those 12 bytes | stored bytes   (v2)
    u32 length | u32 crc of the bytes | u32 crc of those 8 bytes | bytes                                      (v1)
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

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

cdef class SegmentScanner:
    """See segment.pyi."""
