"""A checked window over bytes that someone else owns, and protobuf wire primitives on it.

The owner of the bytes must outlive the cursor. Every read compares with `end` first; a read that would pass it returns
the failure value and leaves the cursor where it was. Source of the wire rules: protobuf's encoding specification.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef struct Slice:
    const uint8_t* data         # NULL: absent
    size_t size

cdef struct Cursor:
    const uint8_t* pos          # next unread byte
    const uint8_t* end          # one past the last byte; pos <= end always

cdef struct Field:
    uint32_t number
    uint32_t wire               # 0 varint, 1 fixed64, 2 bytes, 5 fixed32
    uint64_t value              # varint, fixed64, fixed32
    Slice bytes                 # wire type 2


cdef inline Cursor cursor_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef Cursor cursor
    cursor.pos = data
    cursor.end = data + size
    return cursor


cdef inline size_t cursor_left(const Cursor* cursor) noexcept nogil:
    return <size_t> (cursor.end - cursor.pos)


cdef inline bint read_varint(Cursor* cursor, uint64_t* out) noexcept nogil:
    """At most ten bytes; False when cut off or longer."""
    cdef const uint8_t* pos = cursor.pos
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    if pos < cursor.end and pos[0] < 0x80:
        out[0] = pos[0]
        cursor.pos = pos + 1
        return True
    while pos < cursor.end and shift < 70:
        byte = pos[0]
        pos += 1
        if shift < 64:
            value |= (<uint64_t> (byte & 0x7F)) << shift
        if byte < 0x80:
            out[0] = value
            cursor.pos = pos
            return True
        shift += 7
    return False


cdef inline bint read_fixed32(Cursor* cursor, uint32_t* out) noexcept nogil:
    if cursor_left(cursor) < 4:
        return False
    memcpy(out, cursor.pos, 4)
    cursor.pos += 4
    return True


cdef inline bint read_fixed64(Cursor* cursor, uint64_t* out) noexcept nogil:
    if cursor_left(cursor) < 8:
        return False
    memcpy(out, cursor.pos, 8)
    cursor.pos += 8
    return True


cdef inline bint read_slice(Cursor* cursor, size_t size, Slice* out) noexcept nogil:
    if cursor_left(cursor) < size:
        return False
    out.data = cursor.pos
    out.size = size
    cursor.pos += size
    return True


cdef inline bint read_field(Cursor* cursor, Field* field) noexcept nogil:
    """The next field of a message. False at a malformed one; call only while cursor_left() > 0. Groups are refused."""
    cdef uint64_t tag, size
    cdef uint32_t small
    field.value = 0
    field.bytes.data = NULL
    field.bytes.size = 0
    if not read_varint(cursor, &tag) or tag >> 32 or tag >> 3 == 0:
        return False
    field.number = <uint32_t> (tag >> 3)
    field.wire = <uint32_t> (tag & 7)
    if field.wire == 0:
        return read_varint(cursor, &field.value)
    if field.wire == 1:
        return read_fixed64(cursor, &field.value)
    if field.wire == 2:
        return read_varint(cursor, &size) and size <= cursor_left(cursor) \
            and read_slice(cursor, <size_t> size, &field.bytes)
    if field.wire == 5:
        if not read_fixed32(cursor, &small):
            return False
        field.value = small
        return True
    return False
