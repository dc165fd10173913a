"""Bloom files, read: the index gives the one filter that could know a key. Immutable once opened.

Damage is an error, never "not there": a wrong no would let a duplicate row in.
"""
from libc.stdint cimport int64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from kudu_storage._native.block_cache cimport CachedBlock, cached_block_release
from kudu_storage._native.bloom cimport BloomBits, bloom_may_contain, bloom_open, city_hash64
from kudu_storage._native.cfile_index cimport BlockPointer, flat_at_or_before, flat_pointer

from kudu_storage.errors import BadFormat

cdef enum:
    FAIL_FORMAT = 2             # cfile_reader.pyx


cdef class BloomReader:
    def __init__(self, CFileReader reader not None):
        if reader.type.name != "BINARY" or not reader.has_values or reader.row_count:
            raise BadFormat("a column file that is no bloom file", path=reader.name)
        reader.prepare_keys()
        self.reader = reader

    cdef bint may_contain(self, const uint8_t* key, size_t size, uint64_t key_hash) except -1 nogil:
        cdef int64_t index = flat_at_or_before(&self.reader.values, key, size)
        cdef BlockPointer pointer
        cdef CachedBlock* block
        cdef BloomBits bloom
        cdef bint found
        if index < 0:
            return False
        pointer = flat_pointer(&self.reader.values, <unsigned int> index)
        block = self.reader.fetch(pointer)
        if bloom_open(&bloom, block.data, block.size):
            cached_block_release(block)
            self.reader.fail(FAIL_FORMAT, pointer.offset, b"a bloom block's header is malformed")
            return False
        found = bloom_may_contain(&bloom, key_hash)
        cached_block_release(block)
        return found

    def probe(self, bytes key not None):
        """Whether an encoded key may be in the file's rowset."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(key)
        return bool(self.may_contain(data, PyBytes_GET_SIZE(key), city_hash64(data, PyBytes_GET_SIZE(key))))
