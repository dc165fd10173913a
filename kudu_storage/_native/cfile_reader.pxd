"""Column files, read: open, look up by row or key, decode runs of rows into column buffers. See cfile_reader.pyx.

A CFileReader is immutable after prepare_*() and shared by threads; each column of a scan has a ColumnCursor of its own.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.binary_block cimport PlainBlock
from kudu_storage._native.block_cache cimport BlockCache, CachedBlock
from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.cfile_block cimport BlockDecoder, Dictionary, ValueShape
from kudu_storage._native.cfile_index cimport BlockPointer, FlatIndex
from kudu_storage._native.column_block cimport BlockBuffers, ColumnBuffers

cdef struct RowRange:
    uint64_t first
    uint64_t end                # one past the last row

cdef class CFileReader:
    cdef int fd
    cdef int64_t base           # where the file starts in fd
    cdef uint64_t length
    cdef uint64_t file_id       # its name in the block cache
    cdef BlockCache cache       # None: every block is read again
    cdef object owner           # keeps fd open
    cdef readonly object name   # path for messages
    cdef readonly object type   # common.types.ColumnType
    cdef readonly dict metadata # footer pairs: str -> bytes
    cdef ValueShape shape
    cdef int codec
    cdef bint checksums
    cdef uint64_t row_count
    cdef bint has_positions, has_values, has_dictionary
    cdef BlockPointer positions_root, values_root, dictionary_pointer
    # Loaded on demand under the GIL, then never changed:
    cdef bint positions_ready, values_ready, dictionary_ready
    cdef FlatIndex positions    # data blocks in row order
    cdef ByteBuffer first_rows  # u32 each, one for each entry of `positions`
    cdef FlatIndex values
    cdef Dictionary dictionary
    cdef PlainBlock dictionary_plain
    cdef CachedBlock* dictionary_block
    # What a cursor needs before it runs without the GIL. Both may block on disk.
    cpdef int prepare_rows(self) except -1
    cpdef int prepare_keys(self) except -1
    # The block's body, verified and decompressed, with a reference for the caller.
    cdef CachedBlock* fetch(self, BlockPointer pointer) except NULL nogil
    # Also says (unless NULL) that it was not in the cache.
    cdef CachedBlock* fetch_told(self, BlockPointer pointer, bint* from_disk) except NULL nogil
    cdef int fail(self, int kind, uint64_t offset, const char* why) except -1 with gil
    cdef bytes _raw(self, uint64_t offset, uint64_t size)
    cdef int _read_header(self) except -1
    cdef int _read_footer(self, bint allow_unchecked) except -1
    cdef int _parse_footer(self, bytes footer, bint allow_unchecked) except -1
    cdef int _check_footer(self, int encoding, uint64_t features, bint allow_unchecked) except -1
    cdef int _walk(self, BlockPointer pointer, FlatIndex* flat, int depth, uint64_t* budget) except -1 nogil
    cdef int _rows_from_index(self, FlatIndex* flat, ByteBuffer* rows) except -1
    cdef int _rows_from_blocks(self, FlatIndex* flat, ByteBuffer* rows) except -1
    cdef int _load_dictionary(self) except -1

cdef class ValueFilter:
    """Byte strings in [lower, upper), or equal to lower: judged once for each dictionary entry of one file."""
    cdef readonly CFileReader reader
    cdef bytes lower            # None: unbounded
    cdef bytes upper            # None: unbounded
    cdef bint equal             # == lower; upper is not looked at
    cdef const uint8_t* lower_data
    cdef const uint8_t* upper_data
    cdef size_t lower_size, upper_size
    cdef bint has_lower, has_upper
    cdef uint8_t* matches       # 1 for each codeword that matches
    cdef readonly int64_t match_count
    cdef bint accepts(self, const uint8_t* value, size_t size) noexcept nogil

cdef class ColumnCursor:
    cdef readonly CFileReader reader
    cdef BlockDecoder decoder
    cdef CachedBlock* block     # the open one, or NULL
    cdef BlockPointer pointer   # where it lies
    cdef uint64_t block_first   # rows block_first .. block_end are in it
    cdef uint64_t block_end
    cdef int64_t block_index    # in the reader's `positions`; -1 unknown
    cdef uint64_t advised_to    # bytes of the file that the kernel was told to read ahead
    cdef ColumnBuffers scratch
    cdef int64_t scratch_rows
    cdef ByteBuffer codes
    # Rows first .. first + count into rows at .. of `out` (see decoder_read): the whole work of a scan's column. By row
    # number needs a positional index, or reader.prepare_rows() called before (it reads a file without one from end to
    # end).
    cdef int read(self, uint64_t first, uint64_t count, ColumnBuffers* out, int64_t at) except -1 nogil
    cdef int read_ranges(self, const RowRange* ranges, int64_t range_count, ColumnBuffers* out,
                         int64_t at) except -1 nogil
    # Only the rows first + i whose bit i of `selection` is set, packed from `at` on; returns how many.
    cdef int64_t read_selected(self, uint64_t first, uint64_t count, const uint8_t* selection, ColumnBuffers* out,
                               int64_t at) except -1 nogil
    # As many rows from `first` on, up to `count`, as are stored as codewords; 0: the block of `first` is not.
    cdef int64_t read_codes(self, uint64_t first, uint64_t count, uint32_t* codes, uint8_t* validity, int64_t at,
                            int64_t* null_count) except -1 nogil
    # Clears the bits at .. at + count of `selection` whose rows do not match; nulls never do. Codewords are not
    # expanded.
    cdef int apply_filter(self, ValueFilter filter, uint64_t first, uint64_t count, uint8_t* selection,
                          int64_t at) except -1 nogil
    # The first row whose encoded key is >= `key` (row count: none), and whether it is equal. Needs prepare_keys().
    cdef int seek_key(self, const uint8_t* key, size_t size, uint64_t* row, bint* exact) except -1 nogil
    # For files that are walked by their value index (deltas, key indexes), without prepare_rows(): opens its block
    # `index` of reader.values.count and returns its number of rows; block_first is the first of them, and read() then
    # serves them.
    cdef int64_t open_leaf(self, uint32_t index) except -1 nogil
    cdef int open_row(self, uint64_t row) except -1 nogil       # opens the block that holds `row`
    cdef int open_block(self, BlockPointer pointer, int64_t index) except -1 nogil
    cdef int _refuse(self) except -1 nogil
    cdef void _read_ahead(self, int64_t index) noexcept nogil
    cdef int _lower_bound(self, const uint8_t* key, size_t size, uint64_t* row, bint* exact) except -1 nogil
    cdef int _compare(self, uint64_t row, const uint8_t* key, size_t size, int* order) except -1 nogil
    cdef BlockBuffers* _new_block(self, int64_t rows) except NULL
    cdef object _wrap(self, BlockBuffers* block, object column)
    cdef int _check_rows(self, first, count) except -1
    cdef int _reserve_scratch(self, int64_t rows) except -1 nogil
