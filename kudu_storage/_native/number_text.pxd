"""Numbers as decimal text, without the GIL and without the locale. Every writer returns the number of bytes written."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    NUMBER_TEXT_BYTES_MAX = 48      # the longest text below: a sign, 39 digits, "0." in front

cdef int write_int64(int64_t value, uint8_t* out) noexcept nogil
# `cell`: a little-endian two's complement number of 4, 8 or 16 bytes. All `scale` (0..38) digits after the point.
cdef int write_decimal(const uint8_t* cell, uint32_t width, int scale, uint8_t* out) noexcept nogil
# The shortest text that reads back as the same 64-bit (32-bit) number and is nearest to it, laid out like repr(), but
# "NaN", "Infinity" and "-Infinity".
cdef int write_double(double value, uint8_t* out) noexcept nogil
cdef int write_float(float value, uint8_t* out) noexcept nogil
