"""Protobuf wire primitives for writing into room that was measured before."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    cdef size_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t> (value | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t> value
    return out + 1


cdef inline uint8_t* put_bytes(uint8_t* out, const uint8_t* data, size_t size) noexcept nogil:
    memcpy(out, data, size)
    return out + size


cdef inline uint8_t* put_fixed32(uint8_t* out, uint32_t value) noexcept nogil:
    memcpy(out, &value, 4)
    return out + 4


cdef inline uint8_t* put_fixed64(uint8_t* out, uint64_t value) noexcept nogil:
    memcpy(out, &value, 8)
    return out + 8
