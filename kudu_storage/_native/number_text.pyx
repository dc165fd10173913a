"""Numbers as decimal text. Pure: a number in, bytes out.

Shortest text of binary floats: R. Giulietti, "The Schubfach way to render doubles". The number c * 2**q has a rounding
interval, all of which reads back as that number. Scaled by a power of ten, 10**-k, that interval is at least 2 and less
than 20 wide, so that it holds a multiple of 10 or, failing that, of 1: the shortest text. Everything is done in units of
a quarter, with one 128-bit approximation of the power of ten a number; bits lost to it are kept as a sticky last bit.
The powers are worked out exactly when the module is loaded.
"""
from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from * nogil:
    """
    typedef unsigned __int128 kudu_u128;

    /* Bits 128.. of (high:low) * x, the last bit set when bits 64..127 hold more than rounding noise. */
    static inline uint64_t kudu_scale_double(uint64_t high, uint64_t low, uint64_t x) {
        kudu_u128 upper = (kudu_u128) high * x + (uint64_t) (((kudu_u128) low * x) >> 64);
        return (uint64_t) (upper >> 64) | ((uint64_t) upper > 1);
    }

    /* The same with a 64-bit power: bits 64.. of power * x, sticky from bits 32..63. */
    static inline uint64_t kudu_scale_float(uint64_t power, uint32_t x) {
        kudu_u128 product = (kudu_u128) power * x;
        return (uint64_t) (product >> 64) | ((uint32_t) (product >> 32) > 1);
    }

    /* value = limbs[2] * 10**38 + limbs[1] * 10**19 + limbs[0] */
    static inline void kudu_limbs(uint64_t high, uint64_t low, uint64_t* limbs) {
        const uint64_t base = 10000000000000000000ULL;
        kudu_u128 value = ((kudu_u128) high << 64) | low;
        limbs[0] = (uint64_t) (value % base);
        value /= base;
        limbs[1] = (uint64_t) (value % base);
        limbs[2] = (uint64_t) (value / base);
    }
    """
    uint64_t kudu_scale_double(uint64_t high, uint64_t low, uint64_t x) noexcept
    uint64_t kudu_scale_float(uint64_t power, uint32_t x) noexcept
    void kudu_limbs(uint64_t high, uint64_t low, uint64_t* limbs) noexcept

cdef enum:
    POWER_MIN = -292        # -k of the largest double
    POWER_MAX = 324         # -k of the smallest
    POWER_COUNT = POWER_MAX - POWER_MIN + 1
    DOUBLE_FRACTION_BITS = 52
    FLOAT_FRACTION_BITS = 23
    DOUBLE_EXPONENT_BIAS = 1075     # of the number seen as an integer times a power of two
    FLOAT_EXPONENT_BIAS = 150
    # The one float (of all 2**31) whose shortest text, 7.038531e-26, gives a neighbour when a reader parses it as a 64-bit
    # number first, as readers of JSON do, and rounds that. It gets a digit more.
    TWICE_ROUNDED_BITS = 0x15AE43FD
    TWICE_ROUNDED_DIGITS = 70385307
    TWICE_ROUNDED_EXPONENT = -33
    FIXED_POINT_MAX = 16            # repr() writes no exponent while the point is within -3..16 of the first digit
    FIXED_POINT_MIN = -3

# Power p is rounded up to high:low * 2**(floor(log2(10**p)) - 127), so that the first bit is set.
cdef uint64_t[POWER_COUNT] _power_high
cdef uint64_t[POWER_COUNT] _power_low


def _fill_powers():
    cdef int i
    for i in range(POWER_COUNT):
        power = i + POWER_MIN
        if power >= 0:
            number, shift = 10 ** power, 128 - (10 ** power).bit_length()
            number = number << shift if shift >= 0 else -(-number >> -shift)
        else:
            divisor = 10 ** -power
            number = -(-(1 << (divisor.bit_length() + 127)) // divisor)
        _power_high[i] = number >> 64
        _power_low[i] = number & 0xFFFFFFFFFFFFFFFF


_fill_powers()


# -- integers and decimals ---------------------------------------------------------------------------------------------
cdef inline int count_digits(uint64_t value) noexcept nogil:
    cdef int count = 1
    while value >= 10000:
        value //= 10000
        count += 4
    if value >= 1000:
        return count + 3
    if value >= 100:
        return count + 2
    return count + (value >= 10)


cdef inline void write_digits(uint64_t value, int count, uint8_t* out) noexcept nogil:
    """The last `count` digits of value, zeros in front."""
    while count > 0:
        count -= 1
        out[count] = <uint8_t> (48 + value % 10)
        value //= 10


cdef inline int write_uint64(uint64_t value, uint8_t* out) noexcept nogil:
    cdef int count = count_digits(value)
    write_digits(value, count, out)
    return count


cdef int write_int64(int64_t value, uint8_t* out) noexcept nogil:
    if value < 0:
        out[0] = b"-"
        return 1 + write_uint64(0 - <uint64_t> value, out + 1)
    return write_uint64(<uint64_t> value, out)


cdef int write_magnitude(uint64_t high, uint64_t low, uint8_t* out) noexcept nogil:
    """A 128-bit number without sign."""
    cdef uint64_t[3] limbs
    cdef int count, i
    if high == 0:
        return write_uint64(low, out)
    kudu_limbs(high, low, limbs)
    i = 2 if limbs[2] else 1
    count = write_uint64(limbs[i], out)
    while i > 0:
        i -= 1
        write_digits(limbs[i], 19, out + count)
        count += 19
    return count


cdef int write_decimal(const uint8_t* cell, uint32_t width, int scale, uint8_t* out) noexcept nogil:
    cdef int32_t small
    cdef int64_t number = 0
    cdef uint64_t low, high
    cdef uint8_t[40] digits
    cdef int count, whole, written = 0
    if width == 4:
        memcpy(&small, cell, 4)
        number = small
    else:
        memcpy(&number, cell, 8)
    low = <uint64_t> number
    high = <uint64_t> (number >> 63)
    if width == 16:
        memcpy(&high, cell + 8, 8)
    if high >> 63:
        out[0] = b"-"
        written = 1
        low = 0 - low
        high = ~high + (low == 0)
    count = write_magnitude(high, low, digits)
    whole = count - scale if count > scale else 0
    if whole:
        memcpy(out + written, digits, whole)
        written += whole
    else:
        out[written] = b"0"
        written += 1
    if scale:
        out[written] = b"."
        memset(out + written + 1, b"0", scale)
        memcpy(out + written + 1 + scale - (count - whole), digits + whole, count - whole)
        written += 1 + scale
    return written


# -- binary floats -----------------------------------------------------------------------------------------------------
cdef struct Decimal:
    uint64_t digits
    int exponent


cdef inline int floor_log10_pow2(int q, bint closer) noexcept nogil:
    """floor(log10(2**q)), or of three quarters of it: the lower neighbour of a power of two is half as far away."""
    return (q * 1262611 - (524031 if closer else 0)) >> 22


cdef inline int floor_log2_pow10(int power) noexcept nogil:
    return (power * 1741647) >> 19


cdef inline Decimal choose(uint64_t lower, uint64_t value, uint64_t upper, int k) noexcept nogil:
    """The shortest decimal in lower..upper (quarters of 10**k), the nearest to `value` where there is a choice."""
    cdef Decimal result
    cdef uint64_t whole = value // 4, tens, middle
    cdef bint below_fits, above_fits
    if whole >= 10:
        tens = whole // 10
        below_fits = lower <= 40 * tens
        above_fits = 40 * tens + 40 <= upper
        if below_fits != above_fits:
            result.digits = tens + above_fits
            result.exponent = k + 1
            return result
    below_fits = lower <= 4 * whole
    above_fits = 4 * whole + 4 <= upper
    result.exponent = k
    if below_fits != above_fits:
        result.digits = whole + above_fits
    else:
        middle = 4 * whole + 2
        result.digits = whole + (value > middle or (value == middle and (whole & 1) == 1))
    return result


cdef Decimal shortest_double(uint64_t fraction, int exponent) noexcept nogil:
    cdef Decimal result
    cdef uint64_t c = fraction, high, low, lower, value, upper
    cdef int q = 1 - DOUBLE_EXPONENT_BIAS, k, h
    cdef bint closer = fraction == 0 and exponent > 1
    cdef bint odd
    if exponent:
        c |= <uint64_t> 1 << DOUBLE_FRACTION_BITS
        q = exponent - DOUBLE_EXPONENT_BIAS
        if q <= 0 and q >= -DOUBLE_FRACTION_BITS and c & ((<uint64_t> 1 << -q) - 1) == 0:     # a whole number below 2**53
            result.digits = c >> -q
            result.exponent = 0
            return result
    odd = c & 1
    k = floor_log10_pow2(q, closer)
    h = q + floor_log2_pow10(-k) + 1
    high = _power_high[-k - POWER_MIN]
    low = _power_low[-k - POWER_MIN]
    lower = kudu_scale_double(high, low, (4 * c - 2 + closer) << h) + odd
    value = kudu_scale_double(high, low, (4 * c) << h)
    upper = kudu_scale_double(high, low, (4 * c + 2) << h) - odd
    return choose(lower, value, upper, k)


cdef Decimal shortest_float(uint32_t fraction, int exponent) noexcept nogil:
    cdef Decimal result
    cdef uint32_t c = fraction
    cdef uint64_t power, lower, value, upper
    cdef int q = 1 - FLOAT_EXPONENT_BIAS, k, h
    cdef bint closer = fraction == 0 and exponent > 1
    cdef bint odd
    if exponent:
        c |= <uint32_t> 1 << FLOAT_FRACTION_BITS
        q = exponent - FLOAT_EXPONENT_BIAS
        if q <= 0 and q >= -FLOAT_FRACTION_BITS and c & ((<uint32_t> 1 << -q) - 1) == 0:
            result.digits = c >> -q
            result.exponent = 0
            return result
    odd = c & 1
    k = floor_log10_pow2(q, closer)
    h = q + floor_log2_pow10(-k) + 1
    power = _power_high[-k - POWER_MIN] + (_power_low[-k - POWER_MIN] != 0)
    lower = kudu_scale_float(power, (4 * c - 2 + closer) << h) + odd
    value = kudu_scale_float(power, (4 * c) << h)
    upper = kudu_scale_float(power, (4 * c + 2) << h) - odd
    return choose(lower, value, upper, k)


cdef int write_scientific(const uint8_t* digits, int count, int exponent, uint8_t* out) noexcept nogil:
    """d.ddde+xx, the exponent with at least two digits."""
    cdef int written = 1
    out[0] = digits[0]
    if count > 1:
        out[1] = b"."
        memcpy(out + 2, digits + 1, count - 1)
        written = count + 1
    out[written] = b"e"
    out[written + 1] = b"-" if exponent < 0 else b"+"
    exponent = -exponent if exponent < 0 else exponent
    write_digits(<uint64_t> exponent, 3 if exponent > 99 else 2, out + written + 2)
    return written + (5 if exponent > 99 else 4)


cdef int write_positive(Decimal number, uint8_t* out) noexcept nogil:
    cdef uint8_t[20] digits
    cdef int count, point
    while number.digits % 10 == 0:
        number.digits //= 10
        number.exponent += 1
    count = write_uint64(number.digits, digits)
    point = count + number.exponent         # digits before the point; the rest are zeros in front
    if point > FIXED_POINT_MAX or point < FIXED_POINT_MIN:
        return write_scientific(digits, count, point - 1, out)
    if point <= 0:
        memset(out, b"0", 2 - point)
        out[1] = b"."
        memcpy(out + 2 - point, digits, count)
        return 2 - point + count
    if point >= count:
        memcpy(out, digits, count)
        memset(out + count, b"0", point - count + 2)
        out[point] = b"."
        return point + 2
    memcpy(out, digits, point)
    out[point] = b"."
    memcpy(out + point + 1, digits + point, count - point)
    return count + 1


cdef inline int write_not_finite(bint is_nan, bint negative, uint8_t* out) noexcept nogil:
    if is_nan:
        memcpy(out, b"NaN", 3)
        return 3
    memcpy(out, b"-Infinity" if negative else b"Infinity", 9 if negative else 8)
    return 9 if negative else 8


cdef int write_double(double value, uint8_t* out) noexcept nogil:
    cdef uint64_t bits, fraction
    cdef int exponent
    cdef bint negative
    memcpy(&bits, &value, 8)
    fraction = bits & ((<uint64_t> 1 << DOUBLE_FRACTION_BITS) - 1)
    exponent = <int> (bits >> DOUBLE_FRACTION_BITS) & 0x7FF
    negative = bits >> 63
    if exponent == 0x7FF:
        return write_not_finite(fraction != 0, negative, out)
    if negative:
        out[0] = b"-"
    if exponent == 0 and fraction == 0:
        memcpy(out + negative, b"0.0", 3)
        return negative + 3
    return negative + write_positive(shortest_double(fraction, exponent), out + negative)


cdef int write_float(float value, uint8_t* out) noexcept nogil:
    cdef uint32_t bits, fraction
    cdef int exponent
    cdef bint negative
    cdef Decimal number
    memcpy(&bits, &value, 4)
    fraction = bits & ((<uint32_t> 1 << FLOAT_FRACTION_BITS) - 1)
    exponent = <int> (bits >> FLOAT_FRACTION_BITS) & 0xFF
    negative = bits >> 31
    if exponent == 0xFF:
        return write_not_finite(fraction != 0, negative, out)
    if negative:
        out[0] = b"-"
    if exponent == 0 and fraction == 0:
        memcpy(out + negative, b"0.0", 3)
        return negative + 3
    if bits & 0x7FFFFFFF == TWICE_ROUNDED_BITS:
        number.digits = TWICE_ROUNDED_DIGITS
        number.exponent = TWICE_ROUNDED_EXPONENT
    else:
        number = shortest_float(fraction, exponent)
    return negative + write_positive(number, out + negative)


def double_text(double value):
    cdef uint8_t[NUMBER_TEXT_BYTES_MAX] out
    cdef int size = write_double(value, out)
    return out[:size].decode("ascii")


def float_text(double value):
    cdef uint8_t[NUMBER_TEXT_BYTES_MAX] out
    cdef int size = write_float(<float> value, out)
    return out[:size].decode("ascii")
