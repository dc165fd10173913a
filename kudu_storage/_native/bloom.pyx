"""Bloom filters as Kudu stores them. Pure: bytes in, bits out.

Block body: u32 n | BloomBlockHeaderPB{1: number of hashes} of n bytes | bits. The hash is CityHash64 of the encoded
key, with constants that differ from the published ones, so no library of that name fits. Probe i looks at bit
(low + i * high mod 2**32) mod bits, where low and high are the hash's halves; bit p is byte p / 8, mask 1 << p % 8.
A wrong filter loses keys: a missed one means that a duplicate row gets in.
"""
from libc.string cimport memcpy

from kudu_storage._native.cursor cimport Cursor, Field, cursor_left, cursor_of, read_field

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    static const uint64_t kudu_k0 = UINT64_C(0xa5b85c5e198ed849);
    static const uint64_t kudu_k1 = UINT64_C(0x8d58ac26afe12e47);
    static const uint64_t kudu_k2 = UINT64_C(0xc47b6e9e3a970ed3);
    static const uint64_t kudu_k3 = UINT64_C(0xc70f6907e782aa0b);

    static inline uint64_t kudu_load64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline uint64_t kudu_load32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
    static inline uint64_t kudu_rotate(uint64_t v, unsigned by) { return (v >> (by & 63)) | (v << (-by & 63)); }
    static inline uint64_t kudu_mix(uint64_t v) { return v ^ (v >> 47); }

    /* The first argument is the high word. */
    static inline uint64_t kudu_pair(uint64_t high, uint64_t low) {
        const uint64_t mul = UINT64_C(0xc6a4a7935bd1e995);
        uint64_t a = kudu_mix((low ^ high) * mul);
        return kudu_mix((high ^ a) * mul) * mul;
    }

    static uint64_t kudu_city_short(const uint8_t *s, size_t n) {
        if (n > 8) {
            uint64_t a = kudu_load64(s), b = kudu_load64(s + n - 8);
            return kudu_pair(a, kudu_rotate(b + n, (unsigned) n)) ^ b;
        }
        if (n >= 4)
            return kudu_pair(n + (kudu_load32(s) << 3), kudu_load32(s + n - 4));
        if (n > 0) {
            uint32_t y = (uint32_t) s[0] + ((uint32_t) s[n >> 1] << 8);
            uint32_t z = (uint32_t) n + ((uint32_t) s[n - 1] << 2);
            return kudu_mix(y * kudu_k2 ^ z * kudu_k3) * kudu_k2;
        }
        return kudu_k2;
    }

    static uint64_t kudu_city_32(const uint8_t *s, size_t n) {
        uint64_t a = kudu_load64(s) * kudu_k1, b = kudu_load64(s + 8);
        uint64_t c = kudu_load64(s + n - 8) * kudu_k2, d = kudu_load64(s + n - 16) * kudu_k0;
        return kudu_pair(kudu_rotate(a - b, 43) + kudu_rotate(c, 30) + d,
                         a + kudu_rotate(b ^ kudu_k3, 20) - c + n);
    }

    static uint64_t kudu_city_64(const uint8_t *s, size_t n) {
        uint64_t z = kudu_load64(s + 24);
        uint64_t a = kudu_load64(s) + (n + kudu_load64(s + n - 16)) * kudu_k0;
        uint64_t b = kudu_rotate(a + z, 52), c = kudu_rotate(a, 37);
        a += kudu_load64(s + 8);
        c += kudu_rotate(a, 7);
        a += kudu_load64(s + 16);
        uint64_t vf = a + z, vs = b + kudu_rotate(a, 31) + c;
        a = kudu_load64(s + 16) + kudu_load64(s + n - 32);
        z += kudu_load64(s + n - 8);
        b = kudu_rotate(a + z, 52);
        c = kudu_rotate(a, 37);
        a += kudu_load64(s + n - 24);
        c += kudu_rotate(a, 7);
        a += kudu_load64(s + n - 16);
        uint64_t wf = a + z, ws = b + kudu_rotate(a, 31) + c;
        uint64_t r = kudu_mix((vf + ws) * kudu_k2 + (wf + vs) * kudu_k0);
        return kudu_mix(r * kudu_k0 + vs) * kudu_k2;
    }

    typedef struct { uint64_t a, b; } kudu_two;

    static inline kudu_two kudu_weak(const uint8_t *s, uint64_t a, uint64_t b) {
        uint64_t w = kudu_load64(s), x = kudu_load64(s + 8), y = kudu_load64(s + 16), z = kudu_load64(s + 24);
        a += w;
        b = kudu_rotate(b + a + z, 51);
        uint64_t c = a;
        a += x + y;
        b += kudu_rotate(a, 23);
        return (kudu_two) {a + z, b + c};
    }

    static uint64_t kudu_city(const uint8_t *s, size_t n) {
        if (n <= 16)
            return kudu_city_short(s, n);
        if (n <= 32)
            return kudu_city_32(s, n);
        if (n <= 64)
            return kudu_city_64(s, n);
        uint64_t x = kudu_load64(s + n - 40), y = kudu_load64(s + n - 16) + kudu_load64(s + n - 56);
        uint64_t z = kudu_pair(kudu_load64(s + n - 48) + n, kudu_load64(s + n - 24));
        kudu_two v = kudu_weak(s + n - 64, n, z), w = kudu_weak(s + n - 32, y + kudu_k1, x);
        x = x * kudu_k1 + kudu_load64(s);
        for (n = (n - 1) & ~(size_t) 63; n != 0; n -= 64, s += 64) {
            x = kudu_rotate(x + y + v.a + kudu_load64(s + 8), 37) * kudu_k1;
            y = kudu_rotate(y + v.b + kudu_load64(s + 48), 42) * kudu_k1;
            x ^= w.b;
            y += v.a + kudu_load64(s + 40);
            z = kudu_rotate(z + w.a, 33) * kudu_k1;
            v = kudu_weak(s, v.b * kudu_k1, x + w.a);
            w = kudu_weak(s + 32, z + w.b, y + kudu_load64(s + 16));
            uint64_t t = z;
            z = x;
            x = t;
        }
        return kudu_pair(kudu_pair(v.a, w.a) + kudu_mix(y) * kudu_k1 + z, kudu_pair(v.b, w.b) + x);
    }
    """
    uint64_t kudu_city(const uint8_t* data, size_t size) noexcept

cdef enum:
    HASH_COUNT_MAX = 64


cdef uint64_t city_hash64(const uint8_t* data, size_t size) noexcept nogil:
    return kudu_city(data, size)


cdef int bloom_open(BloomBits* bloom, const uint8_t* body, size_t size) noexcept nogil:
    cdef uint32_t header
    cdef Cursor cursor
    cdef Field field
    cdef uint64_t hashes = 0
    if size < 4:
        return -1
    memcpy(&header, body, 4)
    if header > size - 4:
        return -1
    cursor = cursor_of(body + 4, header)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return -1
        if field.number == 1 and field.wire == 0:
            hashes = field.value
    if hashes == 0 or hashes > HASH_COUNT_MAX or size - 4 - header == 0:
        return -1
    bloom.bits = body + 4 + header
    bloom.bit_count = (size - 4 - header) * 8
    bloom.hash_count = <uint32_t> hashes
    return 0


cdef bint bloom_may_contain(const BloomBits* bloom, uint64_t key_hash) noexcept nogil:
    cdef uint32_t probe = <uint32_t> key_hash, step = <uint32_t> (key_hash >> 32), i
    cdef uint64_t bit
    for i in range(bloom.hash_count):
        bit = probe % bloom.bit_count
        if not (bloom.bits[bit >> 3] >> (bit & 7)) & 1:
            return False
        probe += step
    return True


cdef void bloom_add(uint8_t* bits, uint64_t bit_count, uint32_t hash_count, uint64_t key_hash) noexcept nogil:
    cdef uint32_t probe = <uint32_t> key_hash, step = <uint32_t> (key_hash >> 32), i
    cdef uint64_t bit
    for i in range(hash_count):
        bit = probe % bit_count
        bits[bit >> 3] |= <uint8_t> (1 << (bit & 7))
        probe += step


def key_hash(bytes key not None):
    """The 64-bit hash of an encoded key."""
    return city_hash64(key, len(key))
