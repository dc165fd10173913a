"""UTF-8 as the Unicode standard has it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure, header only."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline size_t ascii_run(const uint8_t* data, size_t size) noexcept nogil:
    """How many of the first bytes are ASCII, eight looked at in one step."""
    cdef size_t i = 0
    cdef uint64_t word
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        if word & <uint64_t> 0x8080808080808080:
            break
        i += 8
    while i < size and data[i] < 0x80:
        i += 1
    return i


cdef inline bint is_ascii(const uint8_t* data, size_t size) noexcept nogil:
    """Looks at many bytes in one step."""
    cdef size_t at = 0, end, i
    cdef uint8_t seen
    while at < size:
        end = min(at + 4096, size)
        seen = 0
        for i in range(at, end):
            seen |= data[i]
        if seen & 0x80:
            return False
        at = end
    return True


cdef inline size_t utf8_step(const uint8_t* data, size_t size, bint* valid) noexcept nogil:
    """Bytes of the character that `data` (size > 0) starts with. Where there is none, valid is false and the answer is
    the longest start of a character found there, at least one byte: what one U+FFFD stands for."""
    cdef uint8_t lead = data[0], low = 0x80, high = 0xBF
    cdef size_t length, i = 1
    valid[0] = lead < 0x80
    if lead < 0xC2 or lead > 0xF4:
        return 1
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead == 0xE0:
        low = 0xA0
    elif lead == 0xED:
        high = 0x9F
    elif lead == 0xF0:
        low = 0x90
    elif lead == 0xF4:
        high = 0x8F
    while i < length and i < size and low <= data[i] and data[i] <= high:
        low = 0x80
        high = 0xBF
        i += 1
    valid[0] = i == length
    return i


cdef inline bint is_utf8(const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t at = ascii_run(data, size)
    cdef bint valid
    while at < size:
        at += utf8_step(data + at, size - at, &valid)
        if not valid:
            return False
        if at < size and data[at] < 0x80:
            at += ascii_run(data + at, size - at)
    return True
