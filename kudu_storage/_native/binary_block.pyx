"""Blocks of byte strings. Pure: bytes in, values out; every offset and length is checked before it is followed.

Plain:   u32 ordinal | u32 count | u32 where the offsets start | values | group varints of `count` offsets
Prefix:  group varint (count, ordinal, restart interval, 0) | entries | u32 restart offsets | u32 number of them
         entry = varint shared with the value before | varint bytes that follow | bytes; each `interval`-th shares
         nothing, which is where a reader may start; the first entry is not in the list.
Group varint: a byte with four lengths - 1 of 2 bits, the first number's on top, then four little-endian numbers.
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.byte_buffer cimport (
    buffer_append, buffer_append_byte, buffer_append_fixed32, buffer_append_varint, buffer_free,
)
from kudu_storage._native.cursor cimport Cursor, read_varint

from kudu_storage.errors import BadFormat

cdef enum:
    PLAIN_HEADER_BYTES = 12
    PREFIX_HEADER_BYTES_MIN = 5


cdef inline uint32_t fixed32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


# -- group varints -----------------------------------------------------------------------------------------------------
cdef inline const uint8_t* read_group(const uint8_t* pos, const uint8_t* end, uint32_t* out) noexcept nogil:
    """Four numbers; NULL when they are cut off."""
    cdef uint32_t tag, i, size
    if pos >= end:
        return NULL
    tag = pos[0]
    pos += 1
    if end - pos < 16 and <uint32_t> (end - pos) < 4 + (tag >> 6) + ((tag >> 4) & 3) + ((tag >> 2) & 3) + (tag & 3):
        return NULL
    if end - pos >= 16:
        for i in range(4):
            size = ((tag >> (6 - 2 * i)) & 3) + 1
            out[i] = fixed32(pos) & (<uint32_t> 0xFFFFFFFF >> (32 - 8 * size))
            pos += size
        return pos
    for i in range(4):
        size = ((tag >> (6 - 2 * i)) & 3) + 1
        if end - pos >= 4:
            out[i] = fixed32(pos) & (<uint32_t> 0xFFFFFFFF >> (32 - 8 * size))
        else:
            out[i] = 0
            memcpy(&out[i], pos, size)
        pos += size
    return pos


cdef inline uint32_t number_bytes(uint32_t value) noexcept nogil:
    return 1 + (value > 0xFF) + (value > 0xFFFF) + (value > 0xFFFFFF)


cdef int append_group(ByteBuffer* out, uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    cdef uint32_t[4] numbers
    cdef uint32_t tag = 0
    cdef int i
    numbers[0] = a
    numbers[1] = b
    numbers[2] = c
    numbers[3] = d
    for i in range(4):
        tag = (tag << 2) | (number_bytes(numbers[i]) - 1)
    if buffer_append_byte(out, <uint8_t> tag):
        return -1
    for i in range(4):
        if buffer_append(out, <const uint8_t*> &numbers[i], number_bytes(numbers[i])):
            return -1
    return 0


# -- plain, reading ----------------------------------------------------------------------------------------------------
cdef void plain_free(PlainBlock* block) noexcept nogil:
    free(block.offsets)
    memset(block, 0, sizeof(PlainBlock))


cdef inline int bad_plain(PlainBlock* block, const char* why) noexcept nogil:
    block.why = why
    block.count = 0
    return -1


cdef int plain_open(PlainBlock* block, const uint8_t* payload, size_t size) noexcept nogil:
    cdef uint32_t i, offsets_at, count, falls = 0
    cdef const uint8_t* pos
    cdef const uint8_t* end = payload + size
    cdef uint32_t* grown
    if size < PLAIN_HEADER_BYTES:
        return bad_plain(block, b"a plain block is shorter than its header")
    block.data = payload
    block.ordinal = fixed32(payload)
    count = fixed32(payload + 4)
    offsets_at = fixed32(payload + 8)
    if offsets_at < PLAIN_HEADER_BYTES or offsets_at > size:
        return bad_plain(block, b"a plain block's offsets lie outside of it")
    # Four offsets take at least five bytes: the count is bounded before anything is allocated.
    if (<uint64_t> count + 3) // 4 * 5 > size - offsets_at:
        return bad_plain(block, b"a plain block is too short for its count")
    if (<size_t> count + 4) > block.capacity:
        grown = <uint32_t*> realloc(block.offsets, (<size_t> count + 4) * sizeof(uint32_t))
        if grown == NULL:
            return bad_plain(block, b"out of memory")
        block.offsets = grown
        block.capacity = <size_t> count + 4
    pos = payload + offsets_at
    i = 0
    while i < count:
        pos = read_group(pos, end, block.offsets + i)
        if pos == NULL:
            return bad_plain(block, b"a plain block's offsets are cut off")
        i += 4
    block.offsets[count] = offsets_at
    for i in range(count):          # without a way out, so that several are looked at in one step
        falls |= block.offsets[i + 1] < block.offsets[i]
    if falls or block.offsets[0] < PLAIN_HEADER_BYTES:
        return bad_plain(block, b"a plain block's offsets go backwards or outside")
    block.count = count
    return 0


# -- plain, writing ----------------------------------------------------------------------------------------------------
cdef void plain_writer_reset(PlainWriter* writer) noexcept nogil:
    writer.data.size = 0
    writer.offsets.size = 0
    writer.count = 0
    writer.size_estimate = PLAIN_HEADER_BYTES


cdef void plain_writer_free(PlainWriter* writer) noexcept nogil:
    buffer_free(&writer.data)
    buffer_free(&writer.offsets)


cdef int plain_writer_add(PlainWriter* writer, const uint8_t* value, size_t size) noexcept nogil:
    cdef uint32_t offset
    cdef uint8_t[12] header
    if writer.data.size == 0:
        memset(header, 0, PLAIN_HEADER_BYTES)
        if buffer_append(&writer.data, header, PLAIN_HEADER_BYTES):
            return -1
    if size > 0x7FFFFFFF - writer.data.size:
        return -1
    offset = <uint32_t> writer.data.size
    if buffer_append_fixed32(&writer.offsets, offset) or buffer_append(&writer.data, value, size):
        return -1
    writer.size_estimate += size + number_bytes(offset) + (writer.count % 4 == 0)
    writer.count += 1
    return 0


cdef int plain_writer_finish(PlainWriter* writer, uint32_t ordinal, ByteBuffer* out) noexcept nogil:
    cdef size_t start = out.size
    cdef uint32_t i, offsets_at
    cdef uint32_t[4] group
    cdef const uint32_t* offsets = <const uint32_t*> writer.offsets.data
    if writer.data.size:
        if buffer_append(out, writer.data.data, writer.data.size):
            return -1
    else:
        for i in range(3):
            if buffer_append_fixed32(out, 0):
                return -1
    offsets_at = <uint32_t> (out.size - start)
    memcpy(out.data + start, &ordinal, 4)
    memcpy(out.data + start + 4, &writer.count, 4)
    memcpy(out.data + start + 8, &offsets_at, 4)
    i = 0
    while i < writer.count:
        memset(group, 0, sizeof(group))
        memcpy(group, offsets + i, 4 * min(<uint32_t> 4, writer.count - i))
        if append_group(out, group[0], group[1], group[2], group[3]):
            return -1
        i += 4
    return 0


cdef const uint8_t* plain_writer_value(const PlainWriter* writer, uint32_t index, size_t* size) noexcept nogil:
    cdef const uint32_t* offsets = <const uint32_t*> writer.offsets.data
    cdef size_t end = offsets[index + 1] if index + 1 < writer.count else writer.data.size
    size[0] = end - offsets[index]
    return writer.data.data + offsets[index]


# -- prefix, reading ---------------------------------------------------------------------------------------------------
cdef void prefix_free(PrefixBlock* block) noexcept nogil:
    buffer_free(&block.value)
    memset(block, 0, sizeof(PrefixBlock))


cdef inline int bad_prefix(PrefixBlock* block, const char* why) noexcept nogil:
    block.why = why
    return -1


cdef int prefix_open(PrefixBlock* block, const uint8_t* payload, size_t size) noexcept nogil:
    cdef uint32_t[4] header
    cdef const uint8_t* entries
    block.value.size = 0
    block.count = 0
    if size < PREFIX_HEADER_BYTES_MIN + 4:
        return bad_prefix(block, b"a prefix block is shorter than its header")
    entries = read_group(payload, payload + size - 4, header)
    if entries == NULL:
        return bad_prefix(block, b"a prefix block's header is cut off")
    block.data = payload
    block.ordinal = header[1]
    block.interval = header[2]
    block.restart_count = fixed32(payload + size - 4)
    if <uint64_t> block.restart_count * 4 > <uint64_t> (payload + size - 4 - entries):
        return bad_prefix(block, b"a prefix block's restart points do not fit into it")
    block.entries = entries
    block.entries_end = payload + size - 4 - <size_t> block.restart_count * 4
    # An entry takes at least two bytes.
    if <uint64_t> header[0] * 2 > <uint64_t> (block.entries_end - entries):
        return bad_prefix(block, b"a prefix block is too short for its count")
    if block.restart_count and (block.interval == 0 or
                                <uint64_t> block.restart_count * block.interval >= header[0]):
        return bad_prefix(block, b"a prefix block has more restart points than its count allows")
    block.count = header[0]
    block.pos = entries
    block.next = 0
    return 0


cdef int prefix_next(PrefixBlock* block) noexcept nogil:
    cdef Cursor cursor
    cdef uint64_t shared, rest
    cursor.pos = block.pos
    cursor.end = block.entries_end
    if block.next >= block.count:
        return bad_prefix(block, b"rows outside of a prefix block")
    if not read_varint(&cursor, &shared) or not read_varint(&cursor, &rest) \
            or rest > <uint64_t> (cursor.end - cursor.pos):
        return bad_prefix(block, b"an entry of a prefix block is cut off")
    if shared > block.value.size:
        return bad_prefix(block, b"an entry of a prefix block shares more than there is")
    block.value.size = shared
    if buffer_append(&block.value, cursor.pos, rest):
        return bad_prefix(block, b"out of memory")
    block.pos = cursor.pos + rest
    block.next += 1
    return 0


cdef int prefix_seek(PrefixBlock* block, uint32_t index) noexcept nogil:
    """Goes on from where it is when that is nearer than the restart point before `index`."""
    cdef uint32_t restart = 0, offset
    if index > block.count:
        return bad_prefix(block, b"rows outside of a prefix block")
    if block.restart_count:
        restart = min(index // block.interval, block.restart_count)
    if block.next > index or block.next < restart * block.interval:
        block.pos = block.entries
        block.value.size = 0
        block.next = 0
        if restart:
            offset = fixed32(block.entries_end + (<size_t> restart - 1) * 4)
            if offset < <size_t> (block.entries - block.data) or offset >= <size_t> (block.entries_end - block.data):
                return bad_prefix(block, b"a restart point of a prefix block lies outside of it")
            block.pos = block.data + offset
            block.next = restart * block.interval
    while block.next < index:
        if prefix_next(block):
            return -1
    return 0


# -- prefix, writing ---------------------------------------------------------------------------------------------------
cdef void prefix_writer_reset(PrefixWriter* writer) noexcept nogil:
    writer.data.size = 0
    writer.restarts.size = 0
    writer.last.size = 0
    writer.first.size = 0
    writer.count = 0
    writer.since_restart = 0


cdef void prefix_writer_free(PrefixWriter* writer) noexcept nogil:
    buffer_free(&writer.data)
    buffer_free(&writer.restarts)
    buffer_free(&writer.last)
    buffer_free(&writer.first)


cdef size_t common_prefix(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil:
    cdef size_t i = 0, size = min(a_size, b_size)
    while i + 8 <= size and memcmp(a + i, b + i, 8) == 0:
        i += 8
    while i < size and a[i] == b[i]:
        i += 1
    return i


cdef int prefix_writer_add(PrefixWriter* writer, const uint8_t* value, size_t size) noexcept nogil:
    cdef size_t shared = 0
    if writer.count == 0:
        writer.first.size = 0
        if buffer_append(&writer.first, value, size):
            return -1
    if writer.since_restart < PREFIX_RESTART_INTERVAL:
        shared = common_prefix(writer.last.data, writer.last.size, value, size)
    else:
        if buffer_append_fixed32(&writer.restarts, <uint32_t> writer.data.size):
            return -1
        writer.since_restart = 0
    if buffer_append_varint(&writer.data, shared) or buffer_append_varint(&writer.data, size - shared) \
            or buffer_append(&writer.data, value + shared, size - shared):
        return -1
    writer.last.size = shared
    if buffer_append(&writer.last, value + shared, size - shared):
        return -1
    writer.since_restart += 1
    writer.count += 1
    return 0


cdef int prefix_writer_finish(PrefixWriter* writer, uint32_t ordinal, ByteBuffer* out) noexcept nogil:
    cdef size_t start = out.size, i, restart_count = writer.restarts.size // 4
    cdef uint32_t header_bytes
    if append_group(out, writer.count, ordinal, PREFIX_RESTART_INTERVAL, 0):
        return -1
    header_bytes = <uint32_t> (out.size - start)
    if buffer_append(out, writer.data.data, writer.data.size):
        return -1
    for i in range(restart_count):
        if buffer_append_fixed32(out, header_bytes + (<const uint32_t*> writer.restarts.data)[i]):
            return -1
    return buffer_append_fixed32(out, <uint32_t> restart_count)


# -- for tests ---------------------------------------------------------------------------------------------------------
def encode_plain(values, ordinal=0):
    """The plain block of the byte strings."""
    cdef PlainWriter writer
    cdef ByteBuffer out
    cdef bytes value
    memset(&writer, 0, sizeof(writer))
    memset(&out, 0, sizeof(out))
    plain_writer_reset(&writer)
    try:
        for value in values:
            if plain_writer_add(&writer, value, len(value)):
                raise MemoryError
        if plain_writer_finish(&writer, ordinal, &out):
            raise MemoryError
        return out.data[:out.size]
    finally:
        plain_writer_free(&writer)
        buffer_free(&out)


def decode_plain(block):
    """All values of a plain block."""
    cdef bytes source = bytes(block)
    cdef PlainBlock opened
    memset(&opened, 0, sizeof(opened))
    try:
        if plain_open(&opened, source, len(source)):
            raise BadFormat((<bytes> opened.why).decode())
        return [opened.data[opened.offsets[i]:opened.offsets[i + 1]] for i in range(opened.count)]
    finally:
        plain_free(&opened)


def encode_prefix(values, ordinal=0):
    """The prefix block of the byte strings."""
    cdef PrefixWriter writer
    cdef ByteBuffer out
    cdef bytes value
    memset(&writer, 0, sizeof(writer))
    memset(&out, 0, sizeof(out))
    try:
        for value in values:
            if prefix_writer_add(&writer, value, len(value)):
                raise MemoryError
        if prefix_writer_finish(&writer, ordinal, &out):
            raise MemoryError
        return out.data[:out.size]
    finally:
        prefix_writer_free(&writer)
        buffer_free(&out)


def decode_prefix(block, first=0):
    """Values `first` and up of a prefix block."""
    cdef bytes source = bytes(block)
    cdef PrefixBlock opened
    cdef list values = []
    memset(&opened, 0, sizeof(opened))
    try:
        if prefix_open(&opened, source, len(source)) or prefix_seek(&opened, first):
            raise BadFormat((<bytes> opened.why).decode())
        while opened.next < opened.count:
            if prefix_next(&opened):
                raise BadFormat((<bytes> opened.why).decode())
            values.append(opened.value.data[:opened.value.size] if opened.value.size else b"")
        return values
    finally:
        prefix_free(&opened)
