"""Asking a bloom file whether a key may be in its rowset. See bloom_reader.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from kudu_storage._native.cfile_reader cimport CFileReader

cdef class BloomReader:
    cdef readonly CFileReader reader
    # False: the key is certainly not there. May read a block; safe from several threads at once.
    cdef bint may_contain(self, const uint8_t* key, size_t size, uint64_t key_hash) except -1 nogil
