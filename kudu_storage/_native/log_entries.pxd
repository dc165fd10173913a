"""Entries of a log as objects: what read() and get() give. See log_entries.pyi.

A payload is never copied before somebody asks for bytes: an entry keeps alive what holds it (a batch of the cache, a chunk
that the segment reader returned, the bytes that a lookup read).
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from kudu_storage._native.cursor cimport Cursor
from kudu_storage._native.log_batch cimport Batch

cdef struct Found:
    int32_t type            # ENTRY_REPLICATE or ENTRY_COMMIT; of a COMMIT nothing else is set
    int32_t op_type
    int64_t index
    int64_t term
    uint64_t timestamp
    const uint8_t* data     # a user entry's payload, or the operation's request; NULL: it has none
    Py_ssize_t size
    bint is_user

cdef class CachedBatch:
    """A batch held by a reader."""
    cdef Batch* batch       # one reference

cdef class Entry:
    cdef object owner       # keeps the bytes
    cdef const uint8_t* data
    cdef Py_ssize_t size
    cdef readonly int64_t index
    cdef readonly int64_t term
    cdef readonly uint64_t timestamp
    cdef readonly int32_t op_type
    cdef readonly bint is_user      # an opaque entry of append(): a NO_OP with a payload

# Takes the next entry of the LogEntryBatchPB under `cursor`: 1 = *found filled, 0 = used up, -1 = malformed.
cdef int take_entry(Cursor* cursor, Found* found) noexcept nogil
cdef Entry make_entry(object owner, const Found* found)
