"""Deltas of several stores as one ordered run, read piece by piece: what compactions read. See delta_scan.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kudu_storage._native.cfile_reader cimport ColumnCursor
from kudu_storage._native.delta cimport ByteBuffer, Delta, DeltaRun
from kudu_storage._native.delta_memstore cimport DeltaMemStore

cdef class DeltaScan:
    """One store's deltas in the order of its kind. A piece is in memory at a time."""
    cdef readonly bint undo
    cdef readonly int64_t row_count         # of the rowset
    cdef const Delta* deltas                # the piece in hand
    cdef Py_ssize_t count, at
    cdef bint started
    cdef Delta before                       # the last of the piece before, without its change
    cdef list kept                          # owners of pieces that someone may still point into
    # Puts the next piece in hand; 0 deltas: the end. May block on disk.
    cdef int load(self) except -1
    cdef int _load_checked(self) except -1 with gil

cdef class FileDeltas(DeltaScan):
    cdef ColumnCursor cursor
    cdef uint32_t leaf                      # the next one
    cdef DeltaRun run

cdef class MemoryDeltas(DeltaScan):
    cdef readonly DeltaMemStore store
    cdef uint64_t row                       # the next one
    cdef ByteBuffer collected

cdef class DeltaMerge:
    """The deltas of `scans`; equal (row, timestamp) in the order of the scans."""
    cdef readonly bint undo
    cdef readonly list scans
    cdef void** raw                         # the scans, borrowed
    cdef int32_t* heap                      # numbers of scans that have a delta, the next one's first
    cdef int32_t size
    cdef bint started
    # The delta in hand, or NULL: the end. Its change stays where it is until release().
    cdef int peek(self, const Delta** delta) except -1 nogil
    cdef int step(self) except -1 nogil
    # Nobody points into deltas that were stepped over any more.
    cdef int release(self) except -1 nogil
    cdef int _forget(self) except -1 with gil
    cdef bint _less(self, int32_t a, int32_t b) noexcept nogil
    cdef void _sift(self, int32_t at) noexcept nogil
    cdef int _start(self) except -1 nogil
