"""Segment files of a log in the making. See log_segment.pxd. May not touch: the queue, the mutex, the pool.

A segment that is made ahead is synced with its header before it counts as made, so a roll only gives it its name.
"""
from libc.errno cimport EDQUOT, EIO, ENAMETOOLONG, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc

from kudu_storage._native.log_core cimport DURABILITY_FSYNC, DURABILITY_OS
from kudu_storage._native.wire cimport put_bytes, put_fixed32, put_varint, varint_size

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDWR
    enum: O_CREAT
    enum: O_EXCL

cdef enum:
    MAGIC_BYTES = 12                    # and the header's length
    ZEROS_BYTES = 64 << 10
    ZERO_PARTS = 16                     # of them in a step: 1 MiB
    ZEROED_BYTES_MAX = 64 << 20         # of a larger segment; its rest is only allocated

cdef uint8_t ZEROS[ZEROS_BYTES]


cdef bint is_no_space(int64_t status) noexcept nogil:
    return status == -ENOSPC or status == -EDQUOT


cdef int of_sync(int status) noexcept nogil:
    return -EIO if is_no_space(status) else status


cdef int64_t write_all(LogCore* core, int fd, iovec* parts, int count, int64_t total, int64_t offset) noexcept nogil:
    cdef int64_t status, done = 0
    while done < total:
        status = core.ops.pwritev(core.disk, fd, parts, count, offset + done)
        if status < 0:
            return status
        if status == 0:
            return -EIO
        done += status
        while count and <size_t> status >= parts[0].iov_len:
            status -= <int64_t> parts[0].iov_len
            parts += 1
            count -= 1
        if count and status:
            parts[0].iov_base = <uint8_t*> parts[0].iov_base + status
            parts[0].iov_len -= <size_t> status
    return 0


# -- one file ----------------------------------------------------------------------------------------------------------
cdef int64_t header_bytes(const LogCore* core, int64_t sequence) noexcept nogil:
    return <int64_t> (MAGIC_BYTES + core.header_before_bytes + 1 + varint_size(<uint64_t> sequence) + core.header_after_bytes)


cdef void segment_name(const LogCore* core, int64_t sequence, char* name) noexcept nogil:
    snprintf(name, PATH_BYTES, b"%s/wal-%09lld", core.directory, <long long> sequence)


cdef int make_file(LogCore* core, const char* temporary, int64_t sequence) noexcept nogil:
    cdef int64_t size = header_bytes(core, sequence), status
    cdef uint8_t* header = <uint8_t*> malloc(<size_t> size)
    cdef uint8_t* out
    cdef iovec part
    cdef int fd
    if header == NULL:
        return OUT_OF_MEMORY
    out = put_bytes(header, <const uint8_t*> b"kudulogf", 8)
    out = put_fixed32(out, <uint32_t> (size - MAGIC_BYTES))
    out = put_bytes(out, core.header_before, core.header_before_bytes)
    out[0] = 0x30                                       # sequence_number = 6
    out = put_varint(out + 1, <uint64_t> sequence)
    out = put_bytes(out, core.header_after, core.header_after_bytes)
    core.ops.unlink(core.disk, temporary)               # left by a crash; mostly there is none
    fd = core.ops.open(core.disk, temporary, O_RDWR | O_CREAT | O_EXCL)
    if fd >= 0:
        part.iov_base = header
        part.iov_len = <size_t> size
        status = write_all(core, fd, &part, 1, size, 0)
        if status < 0:
            core.ops.close(core.disk, fd)
            core.ops.unlink(core.disk, temporary)
            fd = <int> status
    free(header)
    return fd


cdef int make_segment(LogCore* core, int64_t sequence) noexcept nogil:
    cdef char temporary[PATH_BYTES]
    cdef char name[PATH_BYTES]
    cdef int fd, status = 0
    if snprintf(temporary, PATH_BYTES, b"%s/.kudutmp.newsegment%06lld", core.directory, <long long> sequence) >= PATH_BYTES:
        return -ENAMETOOLONG
    segment_name(core, sequence, name)
    fd = make_file(core, temporary, sequence)
    if fd < 0:
        return fd
    if core.durability != DURABILITY_OS:
        status = of_sync(core.ops.sync(core.disk, fd))
    if status == 0:
        status = core.ops.rename(core.disk, temporary, name)
    if status == 0 and core.durability != DURABILITY_OS:
        status = of_sync(core.ops.sync_dir(core.disk, core.directory))
    if status < 0:
        core.ops.close(core.disk, fd)
        core.ops.unlink(core.disk, temporary)
        return status
    return fd


# -- ahead of need -----------------------------------------------------------------------------------------------------
cdef int _ahead_name(const LogCore* core, char* name) noexcept nogil:
    """The same for all: there is one at a time."""
    if snprintf(name, PATH_BYTES, b"%s/.kudutmp.newsegmentahead", core.directory) >= PATH_BYTES:
        return -ENAMETOOLONG
    return 0


cdef int ahead_step(LogCore* core) noexcept nogil:
    cdef char name[PATH_BYTES]
    cdef int status
    if core.ahead.fd < 0:
        status = _ahead_name(core, name)
        if status == 0:
            status = make_file(core, name, core.ahead.sequence)
        if status < 0:
            return status
        core.ahead.fd = status
        core.ahead.allocated = core.ahead.zeroed = header_bytes(core, core.ahead.sequence)
        core.ahead.asked = False
        return 0
    if not core.ahead.asked:
        core.ahead.asked = True
        status = core.ops.allocate(core.disk, core.ahead.fd, core.ahead.allocated, core.segment_bytes - core.ahead.allocated)
        if is_no_space(status):
            return status
        if status == 0:         # else a file system without fallocate: writes find out whether there is room
            core.ahead.allocated = core.segment_bytes
        return 0
    if core.durability == DURABILITY_OS:
        return 1
    if core.zero_ahead and core.durability == DURABILITY_FSYNC and core.ahead.zeroed < _zeros_end(core):
        status = _zero_some(core)
        return 1 if status == 0 and core.ahead.zeroed == _zeros_end(core) else status
    status = of_sync(core.ops.sync(core.disk, core.ahead.fd))
    return 1 if status == 0 else status


cdef inline int64_t _zeros_end(const LogCore* core) noexcept nogil:
    return min(core.ahead.allocated, <int64_t> ZEROED_BYTES_MAX)


cdef int _zero_some(LogCore* core) noexcept nogil:
    """A file system notes of what is allocated whether it was ever written, so a sync of what was not has more to write. After
    zeros it has not. Synced with the header, if that was not yet."""
    cdef iovec parts[ZERO_PARTS]
    cdef int64_t size = min(_zeros_end(core) - core.ahead.zeroed, <int64_t> ZEROS_BYTES * ZERO_PARTS), status
    cdef int64_t left = size
    cdef int count = 0
    while left:
        parts[count].iov_base = ZEROS
        parts[count].iov_len = <size_t> min(left, <int64_t> ZEROS_BYTES)
        left -= <int64_t> parts[count].iov_len
        count += 1
    status = write_all(core, core.ahead.fd, parts, count, size, core.ahead.zeroed)
    if status == 0:
        core.ahead.zeroed += size
        # Bit by bit: syncs of what is appended meanwhile should not wait for all of it.
        status = of_sync(core.ops.sync(core.disk, core.ahead.fd))
    return <int> status


cdef void ahead_remove(LogCore* core) noexcept nogil:
    cdef char name[PATH_BYTES]
    if core.ahead.fd < 0:
        return
    core.ops.close(core.disk, core.ahead.fd)
    core.ahead.fd = -1
    if _ahead_name(core, name) == 0:
        core.ops.unlink(core.disk, name)


cdef int ahead_rename(LogCore* core) noexcept nogil:
    cdef char temporary[PATH_BYTES]
    cdef char name[PATH_BYTES]
    cdef int fd = core.ahead.fd, status = _ahead_name(core, temporary)
    segment_name(core, core.ahead.sequence, name)
    if status == 0:
        status = core.ops.rename(core.disk, temporary, name)
    if status < 0:
        ahead_remove(core)
        return status
    core.ahead.fd = -1
    return fd
