"""Reading one flushed rowset: finding a key's row, and batches of rows as they are at a snapshot. See rowset_scan.pyx."""
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from kudu_storage._native.bloom_reader cimport BloomReader
from kudu_storage._native.cfile_reader cimport CFileReader, ColumnCursor
from kudu_storage._native.column_block cimport BlockBuffers
from kudu_storage._native.delta_apply cimport DeltaApplier

cdef class KeyFinder:
    """Row numbers by encoded key, in one rowset. One thread; any number of finders may share the files."""
    cdef readonly CFileReader index
    cdef readonly BloomReader bloom         # or None
    cdef readonly bytes min_key
    cdef readonly bytes max_key
    cdef const uint8_t* low
    cdef const uint8_t* high
    cdef size_t low_bytes, high_bytes
    cdef ColumnCursor cursor
    cdef readonly int64_t bloom_misses      # keys within the rowset's range that its bloom filter turned away
    # The row, or -1: the rowset has no such key. `key_hash`: city_hash64 of the key.
    cdef int64_t find(self, const uint8_t* key, size_t size, uint64_t key_hash) except -2 nogil
    # The first row whose key is not below `key`; the row count where there is none.
    cdef int64_t find_bound(self, const uint8_t* key, size_t size) except -1 nogil

cdef class RowSetReader:
    """Rows of one rowset, batch by batch. One thread."""
    cdef readonly DeltaApplier applier
    cdef readonly int64_t row_count
    cdef readonly int64_t read_bytes        # of byte strings, in the base columns of the batch read last
    cdef readonly object schema             # of the blocks that come out
    cdef int32_t kept                       # of the layout's columns, the first ones
    cdef list selectors                     # ColumnSelectors, those that cost least first
    cdef bint few_runs                      # of shown rows, in the batch in hand
    cdef list cursors                       # by column of the layout: ColumnCursor, or None where the rowset lacks it
    cdef PyObject** cursor_of               # the same, borrowed, for code without the GIL; NULL for None
    cdef int _read_base(self, int32_t column, int64_t first, int64_t count, BlockBuffers* out,
                        int32_t target) except -1 nogil
    cdef int _refuse_missing(self, int32_t column) except -1 with gil
    cdef int _read_picked(self, int32_t column, BlockBuffers* out) except -1 nogil
    cdef int _select(self) except -1
    cdef int _read_column(self, int32_t column, BlockBuffers* out) except -1 nogil
