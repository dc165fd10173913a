"""Changes of one flushed rowset's rows that are not on disk yet.

Each row has the chain of its changes, newest first; a table of pages finds the head of a row's chain in one step, since a
rowset's rows are numbered densely. 256 rows make a page, which exists once one of them was changed.

    node    u64 timestamp | u32 next older (0 none) | u32 bytes | row change list          in the arena, 8-byte aligned

Writers take the lock. Readers take none: heads and links are published with release, nodes never change but for the link
that a late change of lower timestamp is put into, and nothing is freed before the store is.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.arena cimport Arena
from kudu_storage._native.delta cimport ByteBuffer
from kudu_storage._native.posix cimport pthread_mutex_t

cdef enum:
    PAGE_SHIFT = 8
    PAGE_ROWS = 1 << PAGE_SHIFT

cdef enum:
    PUT_NO_MEMORY = -1
    PUT_NO_SUCH_ROW = -2

cdef struct ChangeNode:
    uint64_t timestamp
    uint32_t older
    uint32_t change_bytes

# What the store counts, at one moment.
cdef struct StoreFacts:
    int64_t changes
    int64_t deletes
    uint64_t lowest
    uint64_t highest
    int64_t lowest_log_index
    size_t memory_bytes

cdef class DeltaMemStore:
    cdef Arena arena
    cdef uint32_t** pages
    cdef size_t page_count
    cdef size_t page_bytes              # of the pages that exist, and their table
    cdef pthread_mutex_t mutex
    cdef bint has_mutex
    cdef readonly int64_t row_count     # of the rowset
    # Written and read under the mutex:
    cdef int64_t changes
    cdef int64_t deletes
    cdef uint64_t lowest
    cdef uint64_t highest
    cdef int64_t lowest_log_index

    # Adds a change, a well-formed change list, which is copied. `log_index`: of its operation; INT64_MAX needs no anchor.
    # 0, PUT_NO_MEMORY or PUT_NO_SUCH_ROW.
    cdef int put(self, uint64_t row, uint64_t timestamp, const uint8_t* change, uint32_t size,
                 int64_t log_index) noexcept nogil
    # 1: the newest change of the row is a DELETE; 0: it is another; -1: the row has none here.
    cdef int last_is_delete(self, uint64_t row) noexcept nogil
    cdef StoreFacts facts(self) noexcept nogil
    # Appends the changes of rows [first, end) to `deltas` as Delta, in the order of a REDO file. 0, or -1: no memory.
    cdef int collect(self, uint64_t first, uint64_t end, ByteBuffer* deltas) noexcept nogil
