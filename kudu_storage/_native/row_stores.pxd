"""Flushed rowsets as the apply path sees them: which one has a key, whether the row is live, where its changes go.

S1  A row is live unless its base was written dead or a DELETE came since: LiveRows knows the latest state, files and
    memory together, and is kept true by whoever puts changes into the store. It takes a bit a row once one is dead.
S2  A key may be in several rowsets and is live in at most one (V7 of docs/tablet.md).
S3  A table of stores never changes; another view has another table, of the same stores.
One thread at a time: the applier's.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.rowset_scan cimport KeyFinder

cdef class LiveRows:
    cdef uint8_t* dead                      # a bit a row; NULL: all are live
    cdef readonly int64_t row_count
    cdef readonly int64_t dead_count
    cdef bint is_dead(self, int64_t row) noexcept nogil
    cdef int mark_dead(self, int64_t row) noexcept nogil        # 0, or -1: no memory

cdef class RowStore:
    cdef readonly int64_t rowset_id
    cdef readonly int64_t dms_id
    cdef readonly KeyFinder finder
    cdef readonly DeltaMemStore memory
    cdef readonly LiveRows live
    cdef uint8_t[32] target                 # mutated_stores = 3 of an OperationResultPB
    cdef size_t target_bytes

cdef struct StorePlace:
    void* store                             # a RowStore; the table keeps it
    const uint8_t* low
    const uint8_t* high
    size_t low_bytes
    size_t high_bytes
    Py_ssize_t reach                        # of this place and those before, the one with the greatest last key
    bint inherited                          # a change of a row here concerns the new rowsets, too

cdef class RowStores:
    cdef list keeps
    cdef StorePlace* places                 # by first key
    cdef Py_ssize_t count
    # The store that has the key (NULL: none), and the row. live_only: only a live row counts.
    # Its result is no pointer, since a NULL that may stand for an exception would take the GIL for each new key.
    cdef int find(self, const uint8_t* key, size_t size, uint64_t key_hash, bint live_only, StorePlace** found,
                  int64_t* row) except -1 nogil
