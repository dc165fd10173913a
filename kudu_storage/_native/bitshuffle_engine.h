/* The bit transposition of bitshuffle, several engines, chosen by the caller at run time. Pure: memory in, memory out.
 *
 * k elements of e bytes, k a multiple of 8. Shuffled form: 8*e rows of k/8 bytes; row r holds bit r%8 of byte r/8 of every
 * element, least significant bit first.
 *
 *     element 0..k-1, bytes b0..b(e-1)   <->   plane b = byte b of every element (k bytes)   <->   rows 8b..8b+7
 *
 * Both directions go through the planes, which fit the first-level cache: a block is 8 KiB by the format's own rule
 * (limits in bitshuffle.pyx keep it so). Rows to planes is a transposition of 8x8 bit tiles; planes to elements one of bytes.
 */
#ifndef KUDU_STORAGE_BITSHUFFLE_ENGINE_H
#define KUDU_STORAGE_BITSHUFFLE_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define KUDU_BSHUF_X86 1
#include <immintrin.h>
#endif

/* rows: 8 rows of `stride` bytes each; plane: 8 * groups bytes. Both handle groups first..groups-1 only. */
typedef void (*kudu_bshuf_rows_fn)(const uint8_t *rows, size_t stride, uint8_t *plane, size_t first, size_t groups);
typedef void (*kudu_bshuf_plane_fn)(const uint8_t *plane, uint8_t *rows, size_t stride, size_t first, size_t groups);

typedef struct kudu_bshuf_engine {
    const char *name;
    kudu_bshuf_rows_fn rows_to_plane;
    kudu_bshuf_plane_fn plane_to_rows;
} kudu_bshuf_engine;

/* An 8x8 bit matrix, byte j = row j, transposed: three rounds of swapping halves, as in Hacker's Delight 7-3. */
static inline uint64_t kudu_bshuf_tile(uint64_t x) {
    uint64_t t = (x ^ (x >> 7)) & UINT64_C(0x00AA00AA00AA00AA);
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & UINT64_C(0x0000CCCC0000CCCC);
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & UINT64_C(0x00000000F0F0F0F0);
    return x ^ t ^ (t << 28);
}

/* ---- portable ---------------------------------------------------------------------------------------------------- */
static void kudu_bshuf_rows_to_plane_c(const uint8_t *rows, size_t stride, uint8_t *plane, size_t first, size_t groups) {
    for (size_t g = first; g < groups; g++) {
        uint64_t tile = 0;
        for (int r = 0; r < 8; r++)
            tile |= (uint64_t)rows[r * stride + g] << (8 * r);
        tile = kudu_bshuf_tile(tile);
        for (int j = 0; j < 8; j++)
            plane[8 * g + j] = (uint8_t)(tile >> (8 * j));
    }
}

static void kudu_bshuf_plane_to_rows_c(const uint8_t *plane, uint8_t *rows, size_t stride, size_t first, size_t groups) {
    for (size_t g = first; g < groups; g++) {
        uint64_t tile = 0;
        for (int j = 0; j < 8; j++)
            tile |= (uint64_t)plane[8 * g + j] << (8 * j);
        tile = kudu_bshuf_tile(tile);
        for (int r = 0; r < 8; r++)
            rows[r * stride + g] = (uint8_t)(tile >> (8 * r));
    }
}

static void kudu_bshuf_planes_to_elements_c(const uint8_t *planes, uint8_t *elements, size_t first, size_t count,
                                            size_t total, size_t width) {
    for (size_t i = first; i < count; i++)
        for (size_t b = 0; b < width; b++)
            elements[i * width + b] = planes[b * total + i];
}

static void kudu_bshuf_elements_to_planes(const uint8_t *elements, uint8_t *planes, size_t count, size_t width) {
    switch (width) {     /* constant strides, so that the compiler can vectorise */
    case 1:
        memcpy(planes, elements, count);
        return;
#define KUDU_BSHUF_SPLIT(W)                                                                      \
    case W:                                                                                      \
        for (size_t b = 0; b < W; b++)                                                           \
            for (size_t i = 0; i < count; i++)                                                   \
                planes[b * count + i] = elements[i * W + b];                                     \
        return;
    KUDU_BSHUF_SPLIT(2)
    KUDU_BSHUF_SPLIT(4)
    KUDU_BSHUF_SPLIT(8)
    KUDU_BSHUF_SPLIT(16)
#undef KUDU_BSHUF_SPLIT
    }
}

#ifdef KUDU_BSHUF_X86
/* ---- SSE2, which every x86-64 has -------------------------------------------------------------------------------- */
#define KUDU_BSHUF_TILES(V, SET1, SRL, SLL, XOR, AND)                                                               \
    static inline V kudu_bshuf_tiles_##V(V x) {                                                                     \
        V t = AND(XOR(x, SRL(x, 7)), SET1(0x00AA00AA00AA00AALL));                                                   \
        x = XOR(x, XOR(t, SLL(t, 7)));                                                                              \
        t = AND(XOR(x, SRL(x, 14)), SET1(0x0000CCCC0000CCCCLL));                                                    \
        x = XOR(x, XOR(t, SLL(t, 14)));                                                                             \
        t = AND(XOR(x, SRL(x, 28)), SET1(0x00000000F0F0F0F0LL));                                                    \
        return XOR(x, XOR(t, SLL(t, 28)));                                                                          \
    }
KUDU_BSHUF_TILES(__m128i, _mm_set1_epi64x, _mm_srli_epi64, _mm_slli_epi64, _mm_xor_si128, _mm_and_si128)

static void kudu_bshuf_rows_to_plane_sse2(const uint8_t *rows, size_t stride, uint8_t *plane, size_t first, size_t groups) {
    size_t g = first;
    for (; g + 16 <= groups; g += 16) {
        __m128i r[8], a[8], b[8];
        for (int i = 0; i < 8; i++)
            r[i] = _mm_loadu_si128((const __m128i *)(rows + i * stride + g));
        for (int i = 0; i < 4; i++) {
            a[i] = _mm_unpacklo_epi8(r[2 * i], r[2 * i + 1]);
            a[4 + i] = _mm_unpackhi_epi8(r[2 * i], r[2 * i + 1]);
        }
        for (int h = 0; h < 2; h++) {       /* groups 0-7, then 8-15 */
            b[4 * h + 0] = _mm_unpacklo_epi16(a[4 * h], a[4 * h + 1]);
            b[4 * h + 1] = _mm_unpackhi_epi16(a[4 * h], a[4 * h + 1]);
            b[4 * h + 2] = _mm_unpacklo_epi16(a[4 * h + 2], a[4 * h + 3]);
            b[4 * h + 3] = _mm_unpackhi_epi16(a[4 * h + 2], a[4 * h + 3]);
        }
        __m128i *out = (__m128i *)(plane + 8 * g);
        for (int h = 0; h < 2; h++)
            for (int q = 0; q < 2; q++) {
                __m128i low = _mm_unpacklo_epi32(b[4 * h + q], b[4 * h + 2 + q]);
                __m128i high = _mm_unpackhi_epi32(b[4 * h + q], b[4 * h + 2 + q]);
                _mm_storeu_si128(out + 4 * h + 2 * q, kudu_bshuf_tiles___m128i(low));
                _mm_storeu_si128(out + 4 * h + 2 * q + 1, kudu_bshuf_tiles___m128i(high));
            }
    }
    kudu_bshuf_rows_to_plane_c(rows, stride, plane, g, groups);
}

static void kudu_bshuf_plane_to_rows_sse2(const uint8_t *plane, uint8_t *rows, size_t stride, size_t first, size_t groups) {
    size_t g = first;
    for (; g + 2 <= groups; g += 2) {
        __m128i x = _mm_loadu_si128((const __m128i *)(plane + 8 * g));
        for (int r = 7; r >= 0; r--) {
            uint16_t bits = (uint16_t)_mm_movemask_epi8(x);
            memcpy(rows + r * stride + g, &bits, 2);
            x = _mm_add_epi8(x, x);
        }
    }
    kudu_bshuf_plane_to_rows_c(plane, rows, stride, g, groups);
}

/* ---- AVX2: the low lane does groups g..g+15, the high lane g+16..g+31 ---------------------------------------------- */
#define KUDU_AVX2 __attribute__((target("avx2")))

KUDU_AVX2 static void kudu_bshuf_rows_to_plane_avx2(const uint8_t *rows, size_t stride, uint8_t *plane, size_t first,
                                                    size_t groups) {
    const __m256i m7 = _mm256_set1_epi64x(0x00AA00AA00AA00AALL);
    const __m256i m14 = _mm256_set1_epi64x(0x0000CCCC0000CCCCLL);
    const __m256i m28 = _mm256_set1_epi64x(0x00000000F0F0F0F0LL);
    size_t g = first;
    for (; g + 32 <= groups; g += 32) {
        __m256i r[8], a[8], b[8], c[8];
        for (int i = 0; i < 8; i++)
            r[i] = _mm256_loadu_si256((const __m256i *)(rows + i * stride + g));
        for (int i = 0; i < 4; i++) {
            a[i] = _mm256_unpacklo_epi8(r[2 * i], r[2 * i + 1]);
            a[4 + i] = _mm256_unpackhi_epi8(r[2 * i], r[2 * i + 1]);
        }
        for (int h = 0; h < 2; h++) {
            b[4 * h + 0] = _mm256_unpacklo_epi16(a[4 * h], a[4 * h + 1]);
            b[4 * h + 1] = _mm256_unpackhi_epi16(a[4 * h], a[4 * h + 1]);
            b[4 * h + 2] = _mm256_unpacklo_epi16(a[4 * h + 2], a[4 * h + 3]);
            b[4 * h + 3] = _mm256_unpackhi_epi16(a[4 * h + 2], a[4 * h + 3]);
        }
        for (int h = 0; h < 2; h++)
            for (int q = 0; q < 2; q++) {
                c[4 * h + 2 * q] = _mm256_unpacklo_epi32(b[4 * h + q], b[4 * h + 2 + q]);
                c[4 * h + 2 * q + 1] = _mm256_unpackhi_epi32(b[4 * h + q], b[4 * h + 2 + q]);
            }
        for (int i = 0; i < 8; i++) {
            __m256i x = c[i], t;
            t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 7)), m7);
            x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 7)));
            t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 14)), m14);
            x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 14)));
            t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 28)), m28);
            x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 28)));
            _mm_storeu_si128((__m128i *)(plane + 8 * g + 16 * i), _mm256_castsi256_si128(x));
            _mm_storeu_si128((__m128i *)(plane + 8 * g + 128 + 16 * i), _mm256_extracti128_si256(x, 1));
        }
    }
    kudu_bshuf_rows_to_plane_sse2(rows, stride, plane, g, groups);
}

KUDU_AVX2 static void kudu_bshuf_plane_to_rows_avx2(const uint8_t *plane, uint8_t *rows, size_t stride, size_t first,
                                                    size_t groups) {
    size_t g = first;
    for (; g + 4 <= groups; g += 4) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(plane + 8 * g));
        for (int r = 7; r >= 0; r--) {
            uint32_t bits = (uint32_t)_mm256_movemask_epi8(x);
            memcpy(rows + r * stride + g, &bits, 4);
            x = _mm256_add_epi8(x, x);
        }
    }
    kudu_bshuf_plane_to_rows_c(plane, rows, stride, g, groups);
}

/* ---- planes to elements: 16 elements at a time, pairs of planes, then pairs of pairs -------------------------------- */
static void kudu_bshuf_planes_to_elements(const uint8_t *planes, uint8_t *elements, size_t count, size_t width) {
    size_t i = 0;
    if (width != 2 && width != 4 && width != 8) {
        if (width == 1)
            memcpy(elements, planes, count);
        else
            kudu_bshuf_planes_to_elements_c(planes, elements, 0, count, count, width);
        return;
    }
    for (; i + 16 <= count; i += 16) {
        __m128i p[8], q[8];
        __m128i *out = (__m128i *)(elements + i * width);
        for (size_t b = 0; b < width; b++)
            p[b] = _mm_loadu_si128((const __m128i *)(planes + b * count + i));
        if (width == 2) {
            _mm_storeu_si128(out, _mm_unpacklo_epi8(p[0], p[1]));
            _mm_storeu_si128(out + 1, _mm_unpackhi_epi8(p[0], p[1]));
            continue;
        }
        for (size_t b = 0; b < width; b += 2) {     /* q[b], q[b+1]: elements 0-7 and 8-15 of byte pair b */
            q[b] = _mm_unpacklo_epi8(p[b], p[b + 1]);
            q[b + 1] = _mm_unpackhi_epi8(p[b], p[b + 1]);
        }
        if (width == 4) {
            for (int h = 0; h < 2; h++) {
                _mm_storeu_si128(out + 2 * h, _mm_unpacklo_epi16(q[h], q[2 + h]));
                _mm_storeu_si128(out + 2 * h + 1, _mm_unpackhi_epi16(q[h], q[2 + h]));
            }
            continue;
        }
        for (int h = 0; h < 2; h++) {
            __m128i low0 = _mm_unpacklo_epi16(q[h], q[2 + h]), low1 = _mm_unpackhi_epi16(q[h], q[2 + h]);
            __m128i high0 = _mm_unpacklo_epi16(q[4 + h], q[6 + h]), high1 = _mm_unpackhi_epi16(q[4 + h], q[6 + h]);
            _mm_storeu_si128(out + 4 * h, _mm_unpacklo_epi32(low0, high0));
            _mm_storeu_si128(out + 4 * h + 1, _mm_unpackhi_epi32(low0, high0));
            _mm_storeu_si128(out + 4 * h + 2, _mm_unpacklo_epi32(low1, high1));
            _mm_storeu_si128(out + 4 * h + 3, _mm_unpackhi_epi32(low1, high1));
        }
    }
    kudu_bshuf_planes_to_elements_c(planes, elements, i, count, count, width);
}
#else
static void kudu_bshuf_planes_to_elements(const uint8_t *planes, uint8_t *elements, size_t count, size_t width) {
    kudu_bshuf_planes_to_elements_c(planes, elements, 0, count, count, width);
}
#endif

/* Fills `engines` (room for 3), fastest first; returns how many this processor can run. */
static int kudu_bshuf_engines(kudu_bshuf_engine *engines) {
    int n = 0;
#ifdef KUDU_BSHUF_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        engines[n++] = (kudu_bshuf_engine){"avx2", kudu_bshuf_rows_to_plane_avx2, kudu_bshuf_plane_to_rows_avx2};
    engines[n++] = (kudu_bshuf_engine){"sse2", kudu_bshuf_rows_to_plane_sse2, kudu_bshuf_plane_to_rows_sse2};
#endif
    engines[n++] = (kudu_bshuf_engine){"portable", kudu_bshuf_rows_to_plane_c, kudu_bshuf_plane_to_rows_c};
    return n;
}

#endif
