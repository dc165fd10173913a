"""Decoding one data block. Pure: a body in memory in, column buffers out; hostile bytes give -1 and a reason.

Body = [nullable: varint cells | varint bitmap bytes | bitmap as runs] then the present values in the file's encoding. A
block is read forward or at random; what is expensive to restart (runs, prefixes) goes on from where it was.
Invariants:
 D1  Nothing is read outside of the body, and nothing written outside of the rows asked for.
 D2  A null cell of a fixed kind is zeros; a null byte string is empty.
 D3  Every codeword is below the dictionary's count before it is followed.
"""
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

from kudu_storage._native.binary_block cimport (
    plain_free, plain_open, prefix_free, prefix_next, prefix_open, prefix_seek,
)
from kudu_storage._native.bitshuffle cimport (
    shuffled_free, shuffled_init, shuffled_open, shuffled_read, shuffled_read_u32,
)
from kudu_storage._native.buffer_pool cimport pool_give, pool_take
from kudu_storage._native.byte_buffer cimport buffer_free, buffer_reserve
from kudu_storage._native.cursor cimport Cursor, cursor_left, cursor_of, read_varint
from kudu_storage._native.rle cimport (
    bits_set, runs_open, runs_read_bits, runs_read_bools, runs_read_values, runs_skip,
)

cdef enum:
    DATA_BYTES_MAX = 0x7FFFFFFF
    COUNTS_HEADER_BYTES = 8


cdef inline int bad(BlockDecoder* decoder, const char* why) noexcept nogil:
    decoder.why = why
    return -1


cdef inline uint32_t fixed32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef void decoder_init(BlockDecoder* decoder, const ValueShape* shape) noexcept nogil:
    memset(decoder, 0, sizeof(BlockDecoder))
    decoder.shape = shape[0]
    shuffled_init(&decoder.shuffled)


cdef void decoder_free(BlockDecoder* decoder) noexcept nogil:
    shuffled_free(&decoder.shuffled)
    plain_free(&decoder.plain)
    prefix_free(&decoder.prefix)
    buffer_free(&decoder.codes)


# -- opening -----------------------------------------------------------------------------------------------------------
cdef int open_counted(BlockDecoder* decoder, const uint8_t* payload, size_t size) noexcept nogil:
    """u32 count | u32 ordinal | values or runs."""
    cdef uint64_t bytes
    if size < COUNTS_HEADER_BYTES:
        return bad(decoder, b"a block is shorter than its header")
    decoder.value_count = fixed32(payload)
    decoder.first_row = fixed32(payload + 4)
    decoder.values = payload + COUNTS_HEADER_BYTES
    size -= COUNTS_HEADER_BYTES
    if decoder.shape.encoding == ENCODING_RLE:
        decoder.runs_bytes = decoder.values
        decoder.runs_size = size
        runs_open(&decoder.runs, decoder.values, size, 1 if decoder.shape.is_bool else decoder.shape.width * 8)
        decoder.runs_at = 0
        return 0
    bytes = (decoder.value_count + 7) // 8 if decoder.shape.is_bool else decoder.value_count * decoder.shape.width
    if bytes != size:
        return bad(decoder, b"a plain block's size does not go with its count")
    return 0


cdef int open_shuffled(BlockDecoder* decoder, const uint8_t* payload, size_t size, bint codes) noexcept nogil:
    if shuffled_open(&decoder.shuffled, payload, size):
        return bad(decoder, decoder.shuffled.why)
    if decoder.shuffled.width > 4 if codes else decoder.shuffled.width != decoder.shape.width:
        return bad(decoder, b"a bitshuffle block's element size is not the column's")
    decoder.value_count = decoder.shuffled.count
    decoder.first_row = decoder.shuffled.ordinal
    return 0


cdef int open_plain_binary(BlockDecoder* decoder, const uint8_t* payload, size_t size) noexcept nogil:
    if plain_open(&decoder.plain, payload, size):
        return bad(decoder, decoder.plain.why)
    decoder.value_count = decoder.plain.count
    decoder.first_row = decoder.plain.ordinal
    return 0


cdef int open_values(BlockDecoder* decoder, const uint8_t* payload, size_t size) noexcept nogil:
    cdef int encoding = decoder.shape.encoding
    if encoding == ENCODING_BIT_SHUFFLE:
        return open_shuffled(decoder, payload, size, False)
    if decoder.shape.width:
        return open_counted(decoder, payload, size)
    if encoding == ENCODING_PLAIN:
        return open_plain_binary(decoder, payload, size)
    if encoding == ENCODING_PREFIX:
        if prefix_open(&decoder.prefix, payload, size):
            return bad(decoder, decoder.prefix.why)
        decoder.value_count = decoder.prefix.count
        decoder.first_row = decoder.prefix.ordinal
        return 0
    if size < 4:
        return bad(decoder, b"a dictionary-coded block is shorter than its header")
    decoder.mode = <int> fixed32(payload)
    if decoder.mode == DICT_CODES:
        return open_shuffled(decoder, payload + 4, size - 4, True)
    if decoder.mode == DICT_PLAIN:
        return open_plain_binary(decoder, payload + 4, size - 4)
    return bad(decoder, b"a dictionary-coded block's mode is neither 1 nor 2")


cdef int decoder_open(BlockDecoder* decoder, const uint8_t* body, size_t size) noexcept nogil:
    cdef Cursor cursor = cursor_of(body, size)
    cdef uint64_t cells = 0, bitmap_bytes = 0
    decoder.row_count = 0
    decoder.why = NULL
    decoder.mode = 0
    if decoder.shape.nullable:
        if not read_varint(&cursor, &cells) or not read_varint(&cursor, &bitmap_bytes) \
                or bitmap_bytes > cursor_left(&cursor) or cells > <uint64_t> 0xFFFFFFFF:
            return bad(decoder, b"a nullable block's bitmap is cut off")
        decoder.validity_bytes = cursor.pos
        decoder.validity_size = bitmap_bytes
        runs_open(&decoder.validity, cursor.pos, bitmap_bytes, 1)
        decoder.validity_row = 0
        decoder.validity_ones = 0
        cursor.pos += bitmap_bytes
    if open_values(decoder, cursor.pos, cursor_left(&cursor)):
        return -1
    if not decoder.shape.nullable:
        cells = decoder.value_count
    elif decoder.value_count > cells:
        return bad(decoder, b"a nullable block has more values than cells")
    decoder.row_count = cells
    return 0


# -- values, by number among the present ones --------------------------------------------------------------------------
cdef int seek_runs(BlockDecoder* decoder, uint64_t first) noexcept nogil:
    if decoder.runs_at > first:
        runs_open(&decoder.runs, decoder.runs_bytes, decoder.runs_size, decoder.runs.width)
        decoder.runs_at = 0
    if runs_skip(&decoder.runs, first - decoder.runs_at) < 0:
        return bad(decoder, b"a block's runs end before its count")
    decoder.runs_at = first
    return 0


cdef int read_fixed(BlockDecoder* decoder, uint64_t first, uint64_t count, uint8_t* target) noexcept nogil:
    cdef uint64_t i
    cdef int failed
    if first > decoder.value_count or count > decoder.value_count - first:
        return bad(decoder, b"a block has fewer values than its bitmap says")
    if decoder.shape.encoding == ENCODING_BIT_SHUFFLE:
        if shuffled_read(&decoder.shuffled, first, count, target):
            return bad(decoder, decoder.shuffled.why)
        return 0
    if decoder.shape.encoding == ENCODING_RLE:
        if seek_runs(decoder, first):
            return -1
        if decoder.shape.is_bool:
            failed = runs_read_bools(&decoder.runs, count, target)
        else:
            failed = runs_read_values(&decoder.runs, count, target)
        decoder.runs_at = first + count
        return bad(decoder, b"a block's runs end before its count") if failed else 0
    if decoder.shape.is_bool:
        for i in range(first, first + count):
            target[i - first] = (decoder.values[i >> 3] >> (i & 7)) & 1
        return 0
    memcpy(target, decoder.values + first * decoder.shape.width, count * decoder.shape.width)
    return 0


cdef int column_reserve(ColumnBuffers* column, size_t more) noexcept nogil:
    cdef size_t capacity = column.data_capacity
    cdef uint8_t* grown
    if more > DATA_BYTES_MAX - column.data_bytes:
        return -1
    if column.data_bytes + more + BLOCK_PADDING_BYTES <= capacity:
        return 0
    capacity = max(capacity * 2, column.data_bytes + more + BLOCK_PADDING_BYTES)
    grown = pool_take(capacity, &capacity)
    if grown == NULL:
        return -1
    if column.data_bytes:
        memcpy(grown, column.data, column.data_bytes)
    pool_give(column.data)
    column.data = grown
    column.data_capacity = capacity
    return 0


cdef int read_plain(BlockDecoder* decoder, uint64_t first, uint64_t count, ColumnBuffers* out,
                    int32_t* ends) noexcept nogil:
    """All bytes in one piece; ends[i] becomes where value first + i ends in out.data."""
    cdef const uint32_t* offsets = decoder.plain.offsets + first
    cdef size_t bytes = offsets[count] - offsets[0]
    cdef int64_t shift = <int64_t> out.data_bytes - offsets[0]
    cdef uint64_t i
    if column_reserve(out, bytes):
        return bad(decoder, b"more than 2 GiB of byte strings in one batch, or out of memory")
    memcpy(out.data + out.data_bytes, decoder.plain.data + offsets[0], bytes)
    for i in range(count):
        ends[i] = <int32_t> (offsets[i + 1] + shift)
    out.data_bytes += bytes
    return 0


cdef int read_prefixed(BlockDecoder* decoder, uint64_t first, uint64_t count, ColumnBuffers* out,
                       int32_t* ends) noexcept nogil:
    cdef uint64_t i
    if prefix_seek(&decoder.prefix, <uint32_t> first):
        return bad(decoder, decoder.prefix.why)
    for i in range(count):
        if prefix_next(&decoder.prefix):
            return bad(decoder, decoder.prefix.why)
        if column_reserve(out, decoder.prefix.value.size):
            return bad(decoder, b"more than 2 GiB of byte strings in one batch, or out of memory")
        if decoder.prefix.value.size:
            memcpy(out.data + out.data_bytes, decoder.prefix.value.data, decoder.prefix.value.size)
            out.data_bytes += decoder.prefix.value.size
        ends[i] = <int32_t> out.data_bytes
    return 0


cdef uint32_t* read_codewords(BlockDecoder* decoder, uint64_t first, uint64_t count,
                              const Dictionary* dictionary) noexcept nogil:
    """The checked codewords in the decoder's scratch; NULL with `why`."""
    cdef uint32_t* codes
    cdef uint32_t highest = 0
    cdef uint64_t i
    decoder.codes.size = 0
    if buffer_reserve(&decoder.codes, count * sizeof(uint32_t) + 1):
        bad(decoder, b"out of memory")
        return NULL
    codes = <uint32_t*> decoder.codes.data
    if shuffled_read_u32(&decoder.shuffled, first, count, codes):
        bad(decoder, decoder.shuffled.why)
        return NULL
    for i in range(count):
        highest = max(highest, codes[i])
    if count and (dictionary == NULL or highest >= dictionary.count):
        bad(decoder, b"a codeword outside of the dictionary")
        return NULL
    return codes


cdef int read_coded(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                    ColumnBuffers* out, int32_t* ends) noexcept nogil:
    """Looks twice: first how many bytes, then the copies, short values sixteen bytes at a time (both sides are
    padded)."""
    cdef const uint32_t* codes = read_codewords(decoder, first, count, dictionary)
    cdef const uint32_t* offsets
    cdef uint64_t i, bytes = 0
    cdef uint32_t begin, size
    cdef uint8_t* target
    if codes == NULL:
        return -1
    if count == 0:
        return 0
    offsets = dictionary.offsets
    for i in range(count):
        bytes += offsets[codes[i] + 1] - offsets[codes[i]]
    if column_reserve(out, bytes):
        return bad(decoder, b"more than 2 GiB of byte strings in one batch, or out of memory")
    target = out.data + out.data_bytes
    for i in range(count):
        begin = offsets[codes[i]]
        size = offsets[codes[i] + 1] - begin
        if size <= 16:
            memcpy(target, dictionary.data + begin, 16)
        else:
            memcpy(target, dictionary.data + begin, size)
        target += size
        ends[i] = <int32_t> (target - out.data)
    out.data_bytes += bytes
    return 0


cdef int read_strings(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                      ColumnBuffers* out, int32_t* ends) noexcept nogil:
    if first > decoder.value_count or count > decoder.value_count - first:
        return bad(decoder, b"a block has fewer values than its bitmap says")
    if decoder.shape.encoding == ENCODING_PREFIX:
        return read_prefixed(decoder, first, count, out, ends)
    if decoder.mode == DICT_CODES:
        return read_coded(decoder, first, count, dictionary, out, ends)
    return read_plain(decoder, first, count, out, ends)


# -- rows: the bitmap, then the values spread over the present cells ---------------------------------------------------
cdef int64_t read_validity(BlockDecoder* decoder, uint64_t first, uint64_t count, uint8_t* bitmap, int64_t at,
                           uint64_t* first_value) noexcept nogil:
    """How many of the rows are present, their bits in `bitmap` (unless NULL); -1 with `why`."""
    cdef int64_t ones
    if first < decoder.validity_row:
        runs_open(&decoder.validity, decoder.validity_bytes, decoder.validity_size, 1)
        decoder.validity_row = 0
        decoder.validity_ones = 0
    ones = runs_skip(&decoder.validity, first - decoder.validity_row)
    if ones >= 0:
        decoder.validity_row = first
        decoder.validity_ones += <uint64_t> ones
        first_value[0] = decoder.validity_ones
        if bitmap != NULL:
            ones = runs_read_bits(&decoder.validity, count, bitmap, <uint64_t> at)
        else:
            ones = runs_skip(&decoder.validity, count)
    if ones < 0:
        return bad(decoder, b"a nullable block's bitmap ends before its last cell")
    decoder.validity_row = first + count
    decoder.validity_ones += <uint64_t> ones
    return ones


cdef inline bint bit_at(const uint8_t* bitmap, int64_t at) noexcept nogil:
    return (bitmap[at >> 3] >> (at & 7)) & 1


cdef inline void spread_width(uint8_t* cells, uint64_t count, uint64_t present, const uint8_t* source, size_t width,
                              const uint8_t* validity, int64_t at) noexcept nogil:
    """To be inlined with a constant width. Without branches: where nulls lie cannot be predicted."""
    cdef uint64_t low, high, i = 0
    cdef uint64_t keep
    cdef const uint8_t* end = source + present * width
    while source < end:
        keep = bit_at(validity, at + <int64_t> i)
        low = 0
        memcpy(&low, source, min(width, <size_t> 8))
        low &= <uint64_t> 0 - keep
        if width == 16:
            memcpy(&high, source + 8, 8)
            high &= <uint64_t> 0 - keep
            memcpy(cells + i * width + 8, &high, 8)
        memcpy(cells + i * width, &low, min(width, <size_t> 8))
        source += keep * width
        i += 1
    memset(cells + i * width, 0, (count - i) * width)


cdef void spread_fixed(uint8_t* cells, uint64_t count, uint64_t present, uint32_t width, const uint8_t* validity,
                       int64_t at) noexcept nogil:
    """The present values lie at the end of `cells`; reading never falls behind writing."""
    cdef const uint8_t* source = cells + (count - present) * width
    if width == 8:
        spread_width(cells, count, present, source, 8, validity, at)
    elif width == 4:
        spread_width(cells, count, present, source, 4, validity, at)
    elif width == 2:
        spread_width(cells, count, present, source, 2, validity, at)
    elif width == 1:
        spread_width(cells, count, present, source, 1, validity, at)
    else:
        spread_width(cells, count, present, source, 16, validity, at)


cdef void spread_ends(int32_t* ends, int32_t start, uint64_t count, uint64_t present, const uint8_t* validity,
                      int64_t at) noexcept nogil:
    cdef const int32_t* source = ends + (count - present)
    cdef int32_t end = start
    cdef uint64_t i
    for i in range(count):
        if bit_at(validity, at + <int64_t> i):
            end = source[0]
            source += 1
        ends[i] = end


cdef int decoder_read(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                      ColumnBuffers* out, int64_t at) noexcept nogil:
    cdef uint64_t present = count, first_value = first
    cdef int64_t ones
    cdef int32_t start
    cdef uint8_t* cells
    if first > decoder.row_count or count > decoder.row_count - first:
        return bad(decoder, b"rows outside of a block")
    if decoder.shape.nullable:
        ones = read_validity(decoder, first, count, out.validity, at, &first_value)
        if ones < 0:
            return -1
        present = <uint64_t> ones
        if present < count:
            if out.validity == NULL:
                return bad(decoder, b"a null in a column that has none")
            out.null_count += <int64_t> (count - present)
    elif out.validity != NULL:
        bits_set(out.validity, <uint64_t> at, count, True)
    if decoder.shape.width:
        cells = out.values + at * decoder.shape.width
        if read_fixed(decoder, first_value, present, cells + (count - present) * decoder.shape.width):
            return -1
        if present < count:
            spread_fixed(cells, count, present, decoder.shape.width, out.validity, at)
        return 0
    start = <int32_t> out.data_bytes
    if read_strings(decoder, first_value, present, dictionary, out, out.offsets + at + 1 + (count - present)):
        return -1
    if present < count:
        spread_ends(out.offsets + at + 1, start, count, present, out.validity, at)
    return 0


cdef size_t decoder_mean_bytes(const BlockDecoder* decoder) noexcept nogil:
    if decoder.shape.width or decoder.value_count == 0 or decoder.shape.encoding == ENCODING_PREFIX \
            or decoder.mode == DICT_CODES:
        return 0
    return (decoder.plain.offsets[decoder.value_count] - decoder.plain.offsets[0]) // decoder.row_count + 1


cdef int decoder_read_codes(BlockDecoder* decoder, uint64_t first, uint64_t count, const Dictionary* dictionary,
                            uint32_t* codes, uint8_t* validity, int64_t at, int64_t* null_count) noexcept nogil:
    cdef uint64_t present = count, first_value = first, i
    cdef int64_t ones
    cdef const uint32_t* source
    if first > decoder.row_count or count > decoder.row_count - first or decoder.mode != DICT_CODES:
        return bad(decoder, b"rows outside of a block of codewords")
    if decoder.shape.nullable:
        ones = read_validity(decoder, first, count, validity, at, &first_value)
        if ones < 0:
            return -1
        present = <uint64_t> ones
        if present < count and validity == NULL:
            return bad(decoder, b"a null in a column that has none")
        null_count[0] += <int64_t> (count - present)
    elif validity != NULL:
        bits_set(validity, <uint64_t> at, count, True)
    if first_value > decoder.value_count or present > decoder.value_count - first_value:
        return bad(decoder, b"a block has fewer values than its bitmap says")
    source = read_codewords(decoder, first_value, present, dictionary)
    if source == NULL:
        return -1
    codes += at
    if present == count:
        memcpy(codes, source, count * sizeof(uint32_t))
        return 0
    for i in range(count):
        if bit_at(validity, at + <int64_t> i):
            codes[i] = source[0]
            source += 1
        else:
            codes[i] = 0
    return 0


cdef int decoder_value(BlockDecoder* decoder, uint64_t row, const Dictionary* dictionary, uint8_t* scratch,
                       const uint8_t** data, size_t* size) noexcept nogil:
    cdef const uint32_t* codes
    if row >= decoder.value_count or decoder.value_count != decoder.row_count:
        return bad(decoder, b"rows outside of a block, or nulls among keys")
    if decoder.shape.width:
        data[0] = scratch
        size[0] = decoder.shape.width
        return read_fixed(decoder, row, 1, scratch)
    if decoder.shape.encoding == ENCODING_PREFIX:
        if prefix_seek(&decoder.prefix, <uint32_t> row) or prefix_next(&decoder.prefix):
            return bad(decoder, decoder.prefix.why)
        data[0] = decoder.prefix.value.data
        size[0] = decoder.prefix.value.size
        return 0
    if decoder.mode == DICT_CODES:
        codes = read_codewords(decoder, row, 1, dictionary)
        if codes == NULL:
            return -1
        data[0] = dictionary.data + dictionary.offsets[codes[0]]
        size[0] = dictionary.offsets[codes[0] + 1] - dictionary.offsets[codes[0]]
        return 0
    data[0] = decoder.plain.data + decoder.plain.offsets[row]
    size[0] = decoder.plain.offsets[row + 1] - decoder.plain.offsets[row]
    return 0
