"""Filling one data block after another in a file's encoding. Pure: values in, bodies out.

When a block is full follows Kudu's rules, so that files come out as large as its own: BIT_SHUFFLE by number of values,
all others when what they would take passes the target size. A dictionary that passes it ends its block at once, and the
blocks behind are plain.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.binary_block cimport (
    plain_writer_add, plain_writer_finish, plain_writer_free, plain_writer_reset, plain_writer_value, prefix_writer_add,
    prefix_writer_finish, prefix_writer_free, prefix_writer_reset,
)
from kudu_storage._native.bitshuffle cimport shuffled_write
from kudu_storage._native.bloom cimport city_hash64
from kudu_storage._native.byte_buffer cimport (
    buffer_append, buffer_append_byte, buffer_append_fixed32, buffer_append_varint, buffer_free, buffer_reserve,
)
from kudu_storage._native.cfile_block cimport (
    DICT_CODES, DICT_PLAIN, ENCODING_BIT_SHUFFLE, ENCODING_DICT, ENCODING_PREFIX, ENCODING_RLE,
)
from kudu_storage._native.rle cimport runs_begin, runs_finish, runs_put

cdef enum:
    SLOTS_FIRST = 1024
    RUN_CHUNK = 512             # values between two looks at an RLE block's size
    COUNTS_HEADER_BYTES = 8


cdef int encoder_init(BlockEncoder* encoder, const ValueShape* shape, size_t block_bytes) noexcept nogil:
    memset(encoder, 0, sizeof(BlockEncoder))
    encoder.shape = shape[0]
    encoder.block_bytes = block_bytes
    if shape.encoding == ENCODING_DICT:
        encoder.mode = DICT_CODES
        encoder.slots = <uint32_t*> calloc(SLOTS_FIRST, sizeof(uint32_t))
        if encoder.slots == NULL:
            return -1
        encoder.slot_mask = SLOTS_FIRST - 1
        plain_writer_reset(&encoder.dictionary)
    encoder_reset(encoder)
    return 0


cdef void encoder_free(BlockEncoder* encoder) noexcept nogil:
    buffer_free(&encoder.fixed)
    buffer_free(&encoder.run_bytes)
    buffer_free(&encoder.validity_bytes)
    plain_writer_free(&encoder.plain)
    plain_writer_free(&encoder.dictionary)
    prefix_writer_free(&encoder.prefix)
    free(encoder.slots)
    encoder.slots = NULL


cdef void encoder_reset(BlockEncoder* encoder) noexcept nogil:
    if encoder.mode == DICT_CODES and dictionary_full(encoder):
        encoder.mode = DICT_PLAIN
    encoder.cell_count = 0
    encoder.value_count = 0
    encoder.fixed.size = 0
    encoder.run_bytes.size = 0
    encoder.validity_bytes.size = 0
    runs_begin(&encoder.runs, &encoder.run_bytes, 1 if encoder.shape.is_bool else encoder.shape.width * 8)
    runs_begin(&encoder.validity, &encoder.validity_bytes, 1)
    plain_writer_reset(&encoder.plain)
    prefix_writer_reset(&encoder.prefix)


cdef inline bint dictionary_full(const BlockEncoder* encoder) noexcept nogil:
    return encoder.dictionary.size_estimate > encoder.block_bytes


cdef bint encoder_full(const BlockEncoder* encoder) noexcept nogil:
    cdef int encoding = encoder.shape.encoding
    if encoding == ENCODING_BIT_SHUFFLE:
        return encoder.value_count >= encoder.block_bytes // encoder.shape.width
    if encoding == ENCODING_RLE:
        return encoder.run_bytes.size + COUNTS_HEADER_BYTES > encoder.block_bytes
    if encoder.shape.is_bool:
        return encoder.value_count // 8 + COUNTS_HEADER_BYTES > encoder.block_bytes
    if encoder.shape.width:
        return encoder.fixed.size + COUNTS_HEADER_BYTES > encoder.block_bytes
    if encoding == ENCODING_PREFIX:
        return encoder.prefix.data.size > encoder.block_bytes
    if encoder.mode == DICT_CODES:
        return encoder.value_count >= encoder.block_bytes // 4 or dictionary_full(encoder)
    return encoder.plain.size_estimate > encoder.block_bytes


cdef inline int add_cells(BlockEncoder* encoder, uint64_t count, bint present) noexcept nogil:
    encoder.cell_count += count
    return runs_put(&encoder.validity, present, count) if encoder.shape.nullable else 0


cdef int encoder_add_nulls(BlockEncoder* encoder, uint64_t count) noexcept nogil:
    return add_cells(encoder, count, False)


# -- fixed width -------------------------------------------------------------------------------------------------------
cdef uint64_t room(const BlockEncoder* encoder) noexcept nogil:
    """Values until a look at the block's size is due; at least 1."""
    cdef uint64_t limit
    if encoder.shape.encoding == ENCODING_RLE:
        return RUN_CHUNK
    if encoder.shape.encoding == ENCODING_BIT_SHUFFLE:
        limit = encoder.block_bytes // encoder.shape.width
    elif encoder.shape.is_bool:
        limit = encoder.block_bytes * 8
    else:
        limit = encoder.block_bytes // encoder.shape.width + 1
    return limit - encoder.value_count if limit > encoder.value_count else 1


cdef int put_runs(BlockEncoder* encoder, const uint8_t* values, uint64_t count) noexcept nogil:
    cdef uint32_t width = encoder.shape.width
    cdef uint64_t i, value
    if encoder.value_count == 0:
        memcpy(encoder.first, values, width)
    for i in range(count):
        value = 0
        memcpy(&value, values + i * width, width)
        if runs_put(&encoder.runs, value, 1):
            return -1
    memcpy(encoder.last, values + (count - 1) * width, width)
    return 0


cdef int64_t encoder_add_fixed(BlockEncoder* encoder, const uint8_t* values, uint64_t count) noexcept nogil:
    cdef uint64_t taken = min(count, room(encoder))
    if taken == 0:
        return 0
    if encoder.shape.encoding == ENCODING_RLE:
        if put_runs(encoder, values, taken):
            return -1
    elif buffer_append(&encoder.fixed, values, taken * encoder.shape.width):
        return -1
    encoder.value_count += taken
    if add_cells(encoder, taken, True):
        return -1
    return <int64_t> taken


# -- byte strings ------------------------------------------------------------------------------------------------------
cdef int grow_slots(BlockEncoder* encoder) noexcept nogil:
    cdef size_t mask = encoder.slot_mask * 2 + 1, slot, size
    cdef uint32_t* slots = <uint32_t*> calloc(mask + 1, sizeof(uint32_t))
    cdef const uint8_t* value
    cdef uint32_t code
    if slots == NULL:
        return -1
    for code in range(encoder.dictionary.count):
        value = plain_writer_value(&encoder.dictionary, code, &size)
        slot = city_hash64(value, size) & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = code + 1
    free(encoder.slots)
    encoder.slots = slots
    encoder.slot_mask = mask
    return 0


cdef int add_coded(BlockEncoder* encoder, const uint8_t* value, size_t size) noexcept nogil:
    cdef size_t slot = city_hash64(value, size) & encoder.slot_mask, other_size
    cdef const uint8_t* other
    cdef uint32_t code
    while encoder.slots[slot]:
        code = encoder.slots[slot] - 1
        other = plain_writer_value(&encoder.dictionary, code, &other_size)
        if other_size == size and memcmp(other, value, size) == 0:
            return 1 if buffer_append_fixed32(&encoder.fixed, code) == 0 else -1
        slot = (slot + 1) & encoder.slot_mask
    if dictionary_full(encoder):
        return 0
    code = encoder.dictionary.count
    if plain_writer_add(&encoder.dictionary, value, size):
        return -1
    encoder.slots[slot] = code + 1
    if <size_t> encoder.dictionary.count * 2 > encoder.slot_mask and grow_slots(encoder):
        return -1
    return 1 if buffer_append_fixed32(&encoder.fixed, code) == 0 else -1


cdef int encoder_add_string(BlockEncoder* encoder, const uint8_t* value, size_t size) noexcept nogil:
    cdef int taken
    if encoder.shape.encoding == ENCODING_PREFIX:
        taken = -1 if prefix_writer_add(&encoder.prefix, value, size) else 1
    elif encoder.mode == DICT_CODES:
        taken = add_coded(encoder, value, size)
    else:
        taken = -1 if plain_writer_add(&encoder.plain, value, size) else 1
    if taken <= 0:
        return taken
    encoder.value_count += 1
    return -1 if add_cells(encoder, 1, True) else 1


# -- the body ----------------------------------------------------------------------------------------------------------
cdef int finish_counted(BlockEncoder* encoder, uint32_t first_row, ByteBuffer* out) noexcept nogil:
    cdef uint64_t i, bit
    cdef uint8_t packed
    if buffer_append_fixed32(out, <uint32_t> encoder.value_count) or buffer_append_fixed32(out, first_row):
        return -1
    if encoder.shape.encoding == ENCODING_RLE:
        if runs_finish(&encoder.runs):
            return -1
        return buffer_append(out, encoder.run_bytes.data, encoder.run_bytes.size)
    if not encoder.shape.is_bool:
        return buffer_append(out, encoder.fixed.data, encoder.fixed.size)
    i = 0
    while i < encoder.value_count:
        packed = 0
        for bit in range(min(<uint64_t> 8, encoder.value_count - i)):
            packed |= <uint8_t> ((encoder.fixed.data[i + bit] != 0) << bit)
        if buffer_append_byte(out, packed):
            return -1
        i += 8
    return 0


cdef int finish_codes(BlockEncoder* encoder, uint32_t first_row, ByteBuffer* out) noexcept nogil:
    """Codewords take the narrowest of 1, 2 and 4 bytes; narrowed in place, which never overtakes reading."""
    cdef uint32_t highest = 0, width = 1, code
    cdef uint64_t i
    for i in range(encoder.value_count):
        memcpy(&code, encoder.fixed.data + i * 4, 4)
        highest = max(highest, code)
    if highest > 0xFFFF:
        width = 4
    elif highest > 0xFF:
        width = 2
    if width < 4:
        for i in range(encoder.value_count):
            memcpy(&code, encoder.fixed.data + i * 4, 4)
            memcpy(encoder.fixed.data + i * width, &code, width)
    if buffer_append_fixed32(out, DICT_CODES) or buffer_reserve(&encoder.fixed, 8 * 4):
        return -1
    return shuffled_write(out, encoder.fixed.data, encoder.value_count, width, first_row)


cdef int encoder_finish(BlockEncoder* encoder, uint32_t first_row, ByteBuffer* out) noexcept nogil:
    if encoder.shape.nullable:
        if runs_finish(&encoder.validity) or buffer_append_varint(out, encoder.cell_count) \
                or buffer_append_varint(out, encoder.validity_bytes.size) \
                or buffer_append(out, encoder.validity_bytes.data, encoder.validity_bytes.size):
            return -1
    if encoder.shape.encoding == ENCODING_BIT_SHUFFLE:
        if buffer_reserve(&encoder.fixed, 8 * encoder.shape.width):
            return -1
        return shuffled_write(out, encoder.fixed.data, encoder.value_count, encoder.shape.width, first_row)
    if encoder.shape.width:
        return finish_counted(encoder, first_row, out)
    if encoder.shape.encoding == ENCODING_PREFIX:
        return prefix_writer_finish(&encoder.prefix, first_row, out)
    if encoder.mode == DICT_CODES:
        return finish_codes(encoder, first_row, out)
    if encoder.mode == DICT_PLAIN and buffer_append_fixed32(out, DICT_PLAIN):
        return -1
    return plain_writer_finish(&encoder.plain, first_row, out)


cdef void encoder_edges(const BlockEncoder* encoder, const uint8_t** first, size_t* first_size, const uint8_t** last,
                        size_t* last_size) noexcept nogil:
    """To be asked before encoder_finish, which may rearrange the values."""
    cdef uint32_t width = encoder.shape.width, code
    if width:
        first_size[0] = width
        last_size[0] = width
        if encoder.shape.encoding == ENCODING_RLE:
            first[0] = encoder.first
            last[0] = encoder.last
        else:
            first[0] = encoder.fixed.data
            last[0] = encoder.fixed.data + (encoder.value_count - 1) * width
    elif encoder.shape.encoding == ENCODING_PREFIX:
        first[0] = encoder.prefix.first.data
        first_size[0] = encoder.prefix.first.size
        last[0] = encoder.prefix.last.data
        last_size[0] = encoder.prefix.last.size
    elif encoder.mode == DICT_CODES:
        memcpy(&code, encoder.fixed.data, 4)
        first[0] = plain_writer_value(&encoder.dictionary, code, first_size)
        memcpy(&code, encoder.fixed.data + (encoder.value_count - 1) * 4, 4)
        last[0] = plain_writer_value(&encoder.dictionary, code, last_size)
    else:
        first[0] = plain_writer_value(&encoder.plain, 0, first_size)
        last[0] = plain_writer_value(&encoder.plain, encoder.plain.count - 1, last_size)
