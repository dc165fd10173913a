"""Where a column file's bytes go: a growing range of an open file, through the disk seam. See block_sink.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.disk cimport Disk

cdef class BlockSink:
    cdef readonly Disk disk
    cdef readonly int fd
    cdef readonly object name
    cdef int64_t base           # where the block starts in the file
    cdef int64_t written        # bytes handed to the disk
    cdef ByteBuffer pending
    cdef int failed             # the first -errno; nothing is written after it
    cdef int append(self, const uint8_t* data, size_t size) noexcept nogil     # 0 or -errno
    cdef int flush(self) noexcept nogil                                         # 0 or -errno; not a sync
    cdef int64_t length(self) noexcept nogil
    cdef int raise_failure(self) except -1
