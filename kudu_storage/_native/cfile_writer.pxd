"""Column files, written: append values, finish. Bloom files too. See cfile_writer.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.block_sink cimport BlockSink
from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.cfile_block cimport ValueShape
from kudu_storage._native.cfile_encode cimport BlockEncoder
from kudu_storage._native.cfile_index cimport BlockPointer, NodeWriter
from kudu_storage._native.column_block cimport ColumnBuffers

cdef enum:
    INDEX_LEVELS_MAX = 16

cdef struct TreeWriter:
    NodeWriter[INDEX_LEVELS_MAX] levels     # leaf first
    int depth                               # levels in use

cdef class CFileWriter:
    cdef readonly BlockSink sink
    cdef readonly object type
    cdef BlockEncoder encoder
    cdef ValueShape shape
    cdef int codec
    cdef bint write_positions, write_values
    cdef bint shorten_keys      # value index keys are separators; else whole keys
    cdef bint delta_keys        # value index keys are the (row, timestamp) that values start with
    cdef bint key_metadata      # min_key and max_key go into the footer
    cdef uint64_t row_count
    cdef uint64_t block_count
    cdef TreeWriter positions, values
    cdef ByteBuffer body, stored, footer
    cdef ByteBuffer first_key, last_key, key        # encoded; last_key is that of the block before
    cdef object pairs
    cdef bint finished, failed
    # Rows first .. first + count of a column buffer of the file's kind and width.
    cdef int append(self, const ColumnBuffers* column, int64_t first, int64_t count) except -1 nogil
    # Present values back to back, in memory form.
    cdef int append_fixed(self, const uint8_t* values, uint64_t count) except -1 nogil
    cdef int append_string(self, const uint8_t* value, size_t size) except -1 nogil     # one present byte string
    cdef int append_nulls(self, uint64_t count) except -1 nogil
    # A block that the caller encoded, under `key` in the value index: bloom files.
    cdef int append_raw(self, const uint8_t* body, size_t size, const uint8_t* key, size_t key_size,
                        const uint8_t* last, size_t last_size) except -1 nogil
    cdef int64_t complete(self) except -1 nogil         # writes indexes and footer; the file's length
    cdef int _trouble(self, int status) except -1 with gil
    cdef int _write(self, const uint8_t* body, size_t size, BlockPointer* pointer) except -1 nogil
    cdef int _compress(self, const uint8_t* body, size_t size, const uint8_t** data, size_t* data_size) except -1 nogil
    cdef Py_ssize_t _compress_with_gil(self, const uint8_t* body, size_t size) except -2 with gil
    cdef int _finish_block(self) except -1 nogil
    cdef int _encode_key(self, const uint8_t* value, size_t size, ByteBuffer* key) except -1 nogil
    cdef int _index(self, TreeWriter* tree, int level, const uint8_t* key, size_t size,
                    const BlockPointer* pointer) except -1 nogil
    cdef int _close_node(self, TreeWriter* tree, int level, BlockPointer* pointer) except -1 nogil
    cdef int _finish_tree(self, TreeWriter* tree, BlockPointer* root) except -1 nogil
    cdef int _index_block(self, const BlockPointer* pointer, const uint8_t* key, size_t size) except -1 nogil
    cdef int _write_header(self) except -1 nogil
    cdef int _write_footer(self, const BlockPointer* positions, const BlockPointer* values,
                           const BlockPointer* dictionary) except -1 nogil
    cdef int _add_pair(self, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size) except -1 nogil

cdef class BloomWriter:
    cdef readonly CFileWriter writer
    cdef uint32_t bloom_bytes, hash_count, keys_max, key_count
    cdef ByteBuffer bits, body, first, last
    # One encoded key; ascending over the whole file.
    cdef int add_key(self, const uint8_t* key, size_t size) except -1 nogil
    cdef int _finish_block(self) except -1 nogil
    cdef int64_t complete(self) except -1 nogil
