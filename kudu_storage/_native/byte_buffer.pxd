"""A growing run of bytes in C memory. Header only; the owner frees it."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef struct ByteBuffer:
    uint8_t* data           # NULL until the first byte
    size_t size
    size_t capacity


cdef inline void buffer_free(ByteBuffer* buffer) noexcept nogil:
    free(buffer.data)
    buffer.data = NULL
    buffer.size = 0
    buffer.capacity = 0


cdef inline int buffer_reserve(ByteBuffer* buffer, size_t more) noexcept nogil:
    """Room for `more` bytes behind the used ones: 0, or -1: out of memory, nothing changed."""
    cdef size_t capacity = buffer.capacity
    cdef uint8_t* grown
    if more <= capacity - buffer.size and buffer.data != NULL:
        return 0
    if more > (<size_t> 1 << 46):
        return -1
    capacity *= 2
    if capacity < buffer.size + more:
        capacity = buffer.size + more
    if capacity < 64:
        capacity = 64
    grown = <uint8_t*> realloc(buffer.data, capacity)
    if grown == NULL:
        return -1
    buffer.data = grown
    buffer.capacity = capacity
    return 0


cdef inline int buffer_append(ByteBuffer* buffer, const uint8_t* data, size_t size) noexcept nogil:
    if buffer_reserve(buffer, size):
        return -1
    if size:
        memcpy(buffer.data + buffer.size, data, size)
        buffer.size += size
    return 0


cdef inline int buffer_append_byte(ByteBuffer* buffer, uint8_t byte) noexcept nogil:
    return buffer_append(buffer, &byte, 1)


cdef inline int buffer_append_fixed32(ByteBuffer* buffer, uint32_t value) noexcept nogil:
    return buffer_append(buffer, <const uint8_t*> &value, 4)


cdef inline int buffer_append_varint(ByteBuffer* buffer, uint64_t value) noexcept nogil:
    cdef uint8_t[10] encoded
    cdef size_t size = 0
    while value >= 0x80:
        encoded[size] = <uint8_t> (value | 0x80)
        size += 1
        value >>= 7
    encoded[size] = <uint8_t> value
    return buffer_append(buffer, encoded, size + 1)
