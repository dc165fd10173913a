"""The seam between those who write files and the file system: one table of file calls, real or recording.

All writes, syncs and renames of the log and of the block stores go through a DiskOps, so that tests can fail the k-th call and compute what a crash
would have left. Calls return 0, a descriptor or a count, or -errno; they become exceptions on the caller's thread only.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef struct DiskOps:
    int (*open)(void* context, const char* path, int flags) noexcept nogil
    int (*close)(void* context, int fd) noexcept nogil
    # Writes all parts, or as much as it could: the number of bytes, or -errno with a part possibly written.
    int64_t (*pwritev)(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept nogil
    int (*sync)(void* context, int fd) noexcept nogil                   # fdatasync: the bytes and the size are durable
    int (*allocate)(void* context, int fd, int64_t offset, int64_t size) noexcept nogil     # fallocate; the file grows
    int (*truncate)(void* context, int fd, int64_t size) noexcept nogil
    int (*rename)(void* context, const char* source, const char* target) noexcept nogil
    int (*unlink)(void* context, const char* path) noexcept nogil
    int (*sync_dir)(void* context, const char* path) noexcept nogil     # names in the directory are durable
    # The range reads as zeros and takes no space; the size stays.
    int (*punch_hole)(void* context, int fd, int64_t offset, int64_t size) noexcept nogil
    int (*make_dir)(void* context, const char* path) noexcept nogil

cdef class Disk:
    """A DiskOps and what it works on. Whoever keeps `ops` must keep the object."""
    cdef const DiskOps* ops
    cdef void* context
