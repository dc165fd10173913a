"""Making the segment files of a log: name, header, space; also ahead of need. For log_core.pyx, which says when.

    .kudutmp.newsegment000007   being made by a roll        \\  renamed to wal-000000007 when all of its header is durable;
    .kudutmp.newsegmentahead    made ahead, one at a time   /   what a crash leaves of them goes when the log is opened
All calls may wait for the disk: never with the log's mutex held.
"""
from libc.stdint cimport int64_t

from kudu_storage._native.disk cimport iovec
from kudu_storage._native.log_core cimport LogCore

cdef enum:
    PATH_BYTES = 4096
    FIRST_ALLOCATION = 64 << 10         # what an idle log may hold
    OUT_OF_MEMORY = -(1 << 20)          # a status that is no errno: nothing was written, and it is not the disk's fault

cdef bint is_no_space(int64_t status) noexcept nogil
# A failed sync is final, also one for want of space: nobody knows what the disk has.
cdef int of_sync(int status) noexcept nogil
# 0, or -errno with a part possibly written. Changes `parts`.
cdef int64_t write_all(LogCore* core, int fd, iovec* parts, int count, int64_t total, int64_t offset) noexcept nogil
# The bytes of the header that segment `sequence` begins with.
cdef int64_t header_bytes(const LogCore* core, int64_t sequence) noexcept nogil
# PATH_BYTES are enough for each name of a log that was opened.
cdef void segment_name(const LogCore* core, int64_t sequence, char* name) noexcept nogil
# A new file `temporary` with the segment's header, neither synced nor renamed: its descriptor, -errno or OUT_OF_MEMORY.
cdef int make_file(LogCore* core, const char* temporary, int64_t sequence) noexcept nogil
# The next segment as a roll makes it: header, sync, its name, sync of the folder. Its descriptor, -errno or OUT_OF_MEMORY.
cdef int make_segment(LogCore* core, int64_t sequence) noexcept nogil
# One bounded step of making core.ahead, which is the caller's (AHEAD_BUSY). 1: it is made; 0: call again; else it failed.
cdef int ahead_step(LogCore* core) noexcept nogil
# Removes the file, if there is one. core.ahead is the caller's.
cdef void ahead_remove(LogCore* core) noexcept nogil
# Gives core.ahead, which is made and the caller's, the segment's name: the descriptor, now the caller's, or -errno: it is gone.
cdef int ahead_rename(LogCore* core) noexcept nogil
