"""Runs: RLE columns and the presence bitmaps of nullable blocks. Pure: bytes in, values out.

A run is a varint h, then: h & 1 -> h >> 1 groups of 8 values, packed least significant bit first; else one value in
ceil(width / 8) bytes, repeated h >> 1 times. There is no total count: the caller knows how many values to take. The
last literal group is cut short behind its last value (Kudu's) or padded with zeros. A run of no values is refused: a
reader would never get on.
"""
from libc.string cimport memcpy, memset

from kudu_storage._native.byte_buffer cimport buffer_append, buffer_append_byte, buffer_append_varint, buffer_free
from kudu_storage._native.cursor cimport Cursor, read_varint

from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum:
    # One header byte holds at most 63 groups; a longer literal run is split, as Kudu does.
    LITERAL_GROUPS_MAX = 63

cdef extern from *:
    """
    #define kudu_popcount(x) __builtin_popcountll(x)
    """
    int kudu_popcount(uint64_t x) noexcept nogil


# -- bitmaps -----------------------------------------------------------------------------------------------------------
cdef void bits_set(uint8_t* bitmap, uint64_t at, uint64_t count, bint value) noexcept nogil:
    cdef uint64_t whole
    while count and at & 7:
        bitmap[at >> 3] = <uint8_t> ((bitmap[at >> 3] & ~(1 << (at & 7))) | (<int> value << (at & 7)))
        at += 1
        count -= 1
    whole = count >> 3
    if whole:
        memset(bitmap + (at >> 3), 0xFF if value else 0, whole)
        at += whole << 3
        count &= 7
    while count:
        bitmap[at >> 3] = <uint8_t> ((bitmap[at >> 3] & ~(1 << (at & 7))) | (<int> value << (at & 7)))
        at += 1
        count -= 1


cdef inline uint64_t load_bits(const uint8_t* source, uint64_t at, uint32_t count) noexcept nogil:
    """`count` <= 56 bits from bit `at`; touches only the bytes that hold them."""
    cdef uint64_t word = 0
    cdef uint32_t shift = <uint32_t> (at & 7)
    memcpy(&word, source + (at >> 3), (shift + count + 7) >> 3)
    return (word >> shift) & ((<uint64_t> 1 << count) - 1)


cdef int64_t bits_copy(uint8_t* target, uint64_t at, const uint8_t* source, uint64_t source_at,
                       uint64_t count) noexcept nogil:
    cdef int64_t ones = 0
    cdef uint64_t bits, word
    cdef uint32_t taken, shift
    while count:
        shift = <uint32_t> (at & 7)
        taken = <uint32_t> min(count, <uint64_t> (56 - shift))
        bits = load_bits(source, source_at, taken)
        ones += kudu_popcount(bits)
        word = 0
        memcpy(&word, target + (at >> 3), (shift + taken + 7) >> 3)
        word &= ~(((<uint64_t> 1 << taken) - 1) << shift)
        word |= bits << shift
        memcpy(target + (at >> 3), &word, (shift + taken + 7) >> 3)
        at += taken
        source_at += taken
        count -= taken
    return ones


cdef int64_t count_bits(const uint8_t* source, uint64_t at, uint64_t count) noexcept nogil:
    cdef int64_t ones = 0
    cdef uint32_t taken
    while count:
        taken = <uint32_t> min(count, <uint64_t> 56)
        ones += kudu_popcount(load_bits(source, at, taken))
        at += taken
        count -= taken
    return ones


# -- reading -----------------------------------------------------------------------------------------------------------
cdef void runs_open(RunReader* runs, const uint8_t* data, size_t size, uint32_t width) noexcept nogil:
    memset(runs, 0, sizeof(RunReader))
    runs.start = data
    runs.pos = data
    runs.end = data + size
    runs.width = width


cdef int next_run(RunReader* runs) noexcept nogil:
    cdef Cursor cursor
    cdef uint64_t header, values, left
    cdef size_t value_bytes = (runs.width + 7) >> 3
    cursor.pos = runs.pos
    cursor.end = runs.end
    if cursor.pos >= cursor.end or not read_varint(&cursor, &header) or header >> 1 == 0 or header >> 33:
        return -1
    left = <uint64_t> (cursor.end - cursor.pos)
    if header & 1:
        values = (header >> 1) * 8
        if values > left * 8 // runs.width:
            values = left * 8 // runs.width
            if values == 0:
                return -1
        runs.literal = cursor.pos
        runs.literal_bit = 0
        runs.literal_left = values
        runs.pos = cursor.pos + (values * runs.width + 7) // 8
        return 0
    if left < value_bytes:
        return -1
    runs.value = 0
    memcpy(&runs.value, cursor.pos, value_bytes)
    if runs.width == 1 and runs.value > 1:
        return -1
    runs.pos = cursor.pos + value_bytes
    runs.repeat_left = header >> 1
    return 0


cdef int64_t runs_read_bits(RunReader* runs, uint64_t count, uint8_t* bitmap, uint64_t at) noexcept nogil:
    cdef int64_t ones = 0
    cdef uint64_t taken
    while count:
        if runs.repeat_left:
            taken = min(count, runs.repeat_left)
            bits_set(bitmap, at, taken, runs.value != 0)
            if runs.value:
                ones += <int64_t> taken
            runs.repeat_left -= taken
        elif runs.literal_left:
            taken = min(count, runs.literal_left)
            ones += bits_copy(bitmap, at, runs.literal, runs.literal_bit, taken)
            runs.literal_bit += taken
            runs.literal_left -= taken
        else:
            if next_run(runs):
                return -1
            continue
        at += taken
        count -= taken
    return ones


cdef int runs_read_bools(RunReader* runs, uint64_t count, uint8_t* target) noexcept nogil:
    cdef uint64_t taken, i, bit
    while count:
        if runs.repeat_left:
            taken = min(count, runs.repeat_left)
            memset(target, <int> runs.value, taken)
            runs.repeat_left -= taken
        elif runs.literal_left:
            taken = min(count, runs.literal_left)
            bit = runs.literal_bit
            for i in range(taken):
                target[i] = (runs.literal[(bit + i) >> 3] >> ((bit + i) & 7)) & 1
            runs.literal_bit += taken
            runs.literal_left -= taken
        else:
            if next_run(runs):
                return -1
            continue
        target += taken
        count -= taken
    return 0


cdef inline void fill(uint8_t* target, uint64_t value, uint64_t count, size_t bytes) noexcept nogil:
    cdef uint64_t i
    for i in range(count):
        memcpy(target + i * bytes, &value, bytes)


cdef int runs_read_values(RunReader* runs, uint64_t count, uint8_t* target) noexcept nogil:
    cdef size_t bytes = runs.width >> 3
    cdef uint64_t taken
    while count:
        if runs.repeat_left:
            taken = min(count, runs.repeat_left)
            if bytes == 4:
                fill(target, runs.value, taken, 4)
            elif bytes == 8:
                fill(target, runs.value, taken, 8)
            elif bytes == 2:
                fill(target, runs.value, taken, 2)
            else:
                memset(target, <int> runs.value, taken)
            runs.repeat_left -= taken
        elif runs.literal_left:
            taken = min(count, runs.literal_left)
            memcpy(target, runs.literal, taken * bytes)
            runs.literal += taken * bytes
            runs.literal_left -= taken
        else:
            if next_run(runs):
                return -1
            continue
        target += taken * bytes
        count -= taken
    return 0


cdef int64_t runs_skip(RunReader* runs, uint64_t count) noexcept nogil:
    cdef int64_t ones = 0
    cdef uint64_t taken
    while count:
        if runs.repeat_left:
            taken = min(count, runs.repeat_left)
            if runs.width == 1 and runs.value:
                ones += <int64_t> taken
            runs.repeat_left -= taken
        elif runs.literal_left:
            taken = min(count, runs.literal_left)
            if runs.width == 1:
                ones += count_bits(runs.literal, runs.literal_bit, taken)
                runs.literal_bit += taken
            else:
                runs.literal += taken * (runs.width >> 3)
            runs.literal_left -= taken
        else:
            if next_run(runs):
                return -1
            continue
        count -= taken
    return ones


# -- writing -----------------------------------------------------------------------------------------------------------
cdef void runs_begin(RunWriter* writer, ByteBuffer* out, uint32_t width) noexcept nogil:
    memset(writer, 0, sizeof(RunWriter))
    writer.out = out
    writer.width = width
    writer.indicator_at = -1


cdef int flush_literals(RunWriter* writer, bint close) noexcept nogil:
    """Writes the buffered values; with `close` also the literal run's header. Only the last group can be short: whole
    bytes."""
    cdef uint32_t i
    cdef uint8_t packed = 0
    if writer.indicator_at < 0:
        writer.indicator_at = <int64_t> writer.out.size
        if buffer_append_byte(writer.out, 0):
            return -1
    if writer.buffered_count:
        if writer.width == 1:
            for i in range(writer.buffered_count):
                packed |= <uint8_t> (writer.buffered[i] << i)
            if buffer_append_byte(writer.out, packed):
                return -1
        else:
            for i in range(writer.buffered_count):
                if buffer_append(writer.out, <const uint8_t*> &writer.buffered[i], writer.width >> 3):
                    return -1
        writer.buffered_count = 0
    if close:
        writer.out.data[writer.indicator_at] = <uint8_t> ((((writer.literal_count + 7) >> 3) << 1) | 1)
        writer.indicator_at = -1
        writer.literal_count = 0
    return 0


cdef int flush_repeats(RunWriter* writer) noexcept nogil:
    if buffer_append_varint(writer.out, writer.repeat_count << 1) \
            or buffer_append(writer.out, <const uint8_t*> &writer.current, (writer.width + 7) >> 3):
        return -1
    writer.buffered_count = 0
    writer.repeat_count = 0
    return 0


cdef int flush_group(RunWriter* writer) noexcept nogil:
    """Eight values are buffered: part of a repeated run, or literals."""
    if writer.repeat_count >= 8:
        writer.buffered_count = 0
        return flush_literals(writer, True) if writer.literal_count else 0
    writer.literal_count += writer.buffered_count
    if flush_literals(writer, (writer.literal_count >> 3) >= LITERAL_GROUPS_MAX):
        return -1
    writer.repeat_count = 0
    return 0


cdef int runs_put(RunWriter* writer, uint64_t value, uint64_t count) noexcept nogil:
    while count:
        if writer.repeat_count and writer.current == value:
            if writer.repeat_count >= 8:
                # A header holds 31 bits of count in Kudu's decoder.
                if writer.repeat_count + count > 0x3FFFFFFF:
                    if flush_repeats(writer):
                        return -1
                    continue
                writer.repeat_count += count
                return 0
            writer.repeat_count += 1
        else:
            if writer.repeat_count >= 8 and flush_repeats(writer):
                return -1
            writer.repeat_count = 1
            writer.current = value
        writer.buffered[writer.buffered_count] = value
        writer.buffered_count += 1
        count -= 1
        if writer.buffered_count == 8 and flush_group(writer):
            return -1
    return 0


cdef int runs_finish(RunWriter* writer) noexcept nogil:
    cdef bint all_repeat = writer.literal_count == 0 and (writer.repeat_count == writer.buffered_count
                                                           or writer.buffered_count == 0)
    if writer.literal_count == 0 and writer.repeat_count == 0 and writer.buffered_count == 0:
        return 0
    if writer.repeat_count and all_repeat:
        return flush_repeats(writer)
    writer.literal_count += writer.buffered_count
    writer.repeat_count = 0
    return flush_literals(writer, True)


# -- for tests ---------------------------------------------------------------------------------------------------------
def encode(values, int width):
    """The runs of unsigned `values` of `width` bits (1, 8, 16, 32 or 64)."""
    cdef RunWriter writer
    cdef ByteBuffer out
    memset(&out, 0, sizeof(ByteBuffer))
    if width not in (1, 8, 16, 32, 64):
        raise InvalidArgument(f"runs of {width} bits")
    runs_begin(&writer, &out, width)
    try:
        for value in values:
            if runs_put(&writer, value, 1):
                raise MemoryError
        if runs_finish(&writer):
            raise MemoryError
        return out.data[:out.size]
    finally:
        buffer_free(&out)


def decode(data, int width, count, skip=0):
    """`count` values behind the first `skip`, little-endian bytes (one byte a value for width 1)."""
    cdef bytes source = bytes(data)
    cdef RunReader runs
    cdef uint64_t wanted = count
    cdef bytearray target = bytearray(max(1, count * max(1, width // 8)))
    cdef uint8_t* out = target
    if width not in (1, 8, 16, 32, 64):
        raise InvalidArgument(f"runs of {width} bits")
    runs_open(&runs, source, len(source), width)
    if runs_skip(&runs, skip) < 0 \
            or (runs_read_bools(&runs, wanted, out) if width == 1 else runs_read_values(&runs, wanted, out)):
        raise BadFormat("runs end before the last value")
    return bytes(target[:count * max(1, width // 8)])


def decode_bits(data, count, at=0):
    """`count` values of width 1 as a bitmap that starts at bit `at`, and how many are 1."""
    cdef bytes source = bytes(data)
    cdef RunReader runs
    cdef bytearray target = bytearray((count + at + 7) // 8 + 1)
    cdef int64_t ones
    runs_open(&runs, source, len(source), 1)
    ones = runs_read_bits(&runs, count, target, at)
    if ones < 0:
        raise BadFormat("runs end before the last value")
    return bytes(target), ones
