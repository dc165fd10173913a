"""A block being written: bytes are gathered and written at the end of a range of an open file, never over others.

Opens, syncs and closes nothing: the block store that owns the file does, before it records the block. One thread at a
time.
"""
from libc.errno cimport ENOMEM, ENOSPC

from kudu_storage._native.byte_buffer cimport buffer_append, buffer_free
from kudu_storage._native.disk cimport iovec

import os

from kudu_storage.errors import DiskError, InvalidArgument

cdef enum:
    PENDING_BYTES_MAX = 262144


cdef class BlockSink:
    def __init__(self, Disk disk not None, int fd, offset=0, *, name=None):
        if offset < 0 or self.disk is not None:
            raise InvalidArgument(f"a block at offset {offset}, or a sink used twice", path=name)
        self.disk = disk
        self.fd = fd
        self.base = offset
        self.name = name

    def __dealloc__(self):
        buffer_free(&self.pending)

    cdef int64_t length(self) noexcept nogil:
        return self.written + <int64_t> self.pending.size

    cdef int append(self, const uint8_t* data, size_t size) noexcept nogil:
        if self.failed:
            return self.failed
        if buffer_append(&self.pending, data, size):
            self.failed = -ENOMEM
            return self.failed
        return self.flush() if self.pending.size >= PENDING_BYTES_MAX else 0

    cdef int flush(self) noexcept nogil:
        cdef iovec part
        cdef size_t done = 0
        cdef int64_t got
        if self.failed:
            return self.failed
        while done < self.pending.size:
            part.iov_base = self.pending.data + done
            part.iov_len = self.pending.size - done
            got = self.disk.ops.pwritev(self.disk.context, self.fd, &part, 1, self.base + self.written)
            if got <= 0:
                self.failed = <int> got if got else -ENOSPC
                return self.failed
            done += <size_t> got
            self.written += got
        self.pending.size = 0
        return 0

    cdef int raise_failure(self) except -1:
        if not self.failed:
            return 0
        error = DiskError(f"cannot write a block: {os.strerror(-self.failed)}", path=self.name,
                          offset=self.base + self.written)
        error.errno = -self.failed
        raise error

    @property
    def size_bytes(self):
        return self.length()

    @property
    def offset(self):
        return self.base
