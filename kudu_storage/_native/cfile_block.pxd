"""One data block of a column file, opened and read row by row range into column buffers. See cfile_block.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.binary_block cimport PlainBlock, PrefixBlock
from kudu_storage._native.bitshuffle cimport ShuffledBlock
from kudu_storage._native.byte_buffer cimport ByteBuffer
from kudu_storage._native.column_block cimport ColumnBuffers
from kudu_storage._native.rle cimport RunReader

cdef enum:          # kudu.EncodingType
    ENCODING_AUTO = 0
    ENCODING_PLAIN = 1
    ENCODING_PREFIX = 2
    ENCODING_RLE = 4
    ENCODING_DICT = 5
    ENCODING_BIT_SHUFFLE = 6

cdef enum:
    DICT_CODES = 1
    DICT_PLAIN = 2
    # Bytes behind `data` of a block or dictionary that may be read (not interpreted): short values are copied 16 at a
    # time.
    BLOCK_PADDING_BYTES = 16

# What the values of a file are; the same for all of its blocks.
cdef struct ValueShape:
    int encoding
    uint32_t width              # bytes of a fixed value; 0: byte strings
    bint is_bool
    bint nullable

# The values that codewords stand for. Immutable once loaded; lives as long as the reader that loaded it.
cdef struct Dictionary:
    const uint8_t* data
    const uint32_t* offsets     # count + 1
    uint32_t count

cdef struct BlockDecoder:
    ValueShape shape
    uint64_t row_count          # cells of the open block, nulls included
    uint64_t first_row          # its ordinal
    uint64_t value_count        # cells that are present
    int mode                    # DICT: DICT_CODES or DICT_PLAIN
    RunReader validity          # nullable
    const uint8_t* validity_bytes
    size_t validity_size
    uint64_t validity_row       # next row of `validity`
    uint64_t validity_ones      # present cells before it
    const uint8_t* values       # plain fixed kinds, behind the header
    ShuffledBlock shuffled
    RunReader runs
    const uint8_t* runs_bytes
    size_t runs_size
    uint64_t runs_at
    PlainBlock plain
    PrefixBlock prefix
    ByteBuffer codes            # scratch
    const char* why             # what is wrong, after a failure

cdef void decoder_init(BlockDecoder* decoder, const ValueShape* shape) noexcept nogil
cdef void decoder_free(BlockDecoder* decoder) noexcept nogil
# Opens a block's body (decompressed, followed by BLOCK_PADDING_BYTES). It must outlive the decoding. 0, or -1 with
# `why`.
cdef int decoder_open(BlockDecoder* decoder, const uint8_t* body, size_t size) noexcept nogil
# Rows first .. first + count of the block (relative to it) into rows at .. at + count of `out`: values, offsets,
# validity, null_count. Byte strings are appended to out.data; offsets[at] must be data_bytes. 0, or -1 with `why`.
cdef int decoder_read(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                      ColumnBuffers* out, int64_t at) noexcept nogil
# The same as codewords (mode DICT_CODES only); a null's codeword is 0. `validity` may be NULL when nothing is null.
cdef int decoder_read_codes(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                            uint32_t* codes, uint8_t* validity, int64_t at, int64_t* null_count) noexcept nogil
# One value of a block without nulls: its bytes, good until the next call. `scratch` has room for 16 bytes.
cdef int decoder_value(BlockDecoder* decoder, uint64_t row, const Dictionary* dictionary, uint8_t* scratch,
                       const uint8_t** data, size_t* size) noexcept nogil
# How long the byte strings of the open block are on average, as far as it is cheap to tell; else 0.
cdef size_t decoder_mean_bytes(const BlockDecoder* decoder) noexcept nogil
cdef int column_reserve(ColumnBuffers* column, size_t more) noexcept nogil      # 0, or -1: memory, or above 2 GiB
