"""The row checksum's gathering of small cells, for whoever has a row's cells at hand: a block, a MemRowSet."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from kudu_storage._native.crc32c cimport crc32c_extend

cdef enum:
    # Small cells are gathered, because one CRC over many bytes is far cheaper than many over a few.
    GATHER_BYTES = 4096

cdef struct Gather:
    uint32_t crc
    size_t used
    uint8_t[GATHER_BYTES] bytes


cdef inline void flush(Gather* gather) noexcept nogil:
    gather.crc = crc32c_extend(gather.crc, gather.bytes, gather.used)
    gather.used = 0


cdef inline void add(Gather* gather, const uint8_t* data, size_t size) noexcept nogil:
    if size > GATHER_BYTES - gather.used:
        flush(gather)
        if size > GATHER_BYTES:
            gather.crc = crc32c_extend(gather.crc, data, size)
            return
    if size:
        memcpy(gather.bytes + gather.used, data, size)
        gather.used += size
