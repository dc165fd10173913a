/* CRC-32C (Castagnoli, reflected, polynomial 0x1EDC6F41) in plain C, several engines, chosen by the caller at run time.
 *
 * All functions take and return the *register* (not inverted); kudu_crc32c() wraps one with the usual inversions, so that
 * kudu_crc32c(kudu_crc32c(0, a), b) is the CRC of a followed by b. Header only: crc32c.pyx and bench/c/walk_segment.c
 * compile the same text.
 */
#ifndef KUDU_STORAGE_CRC32C_ENGINE_H
#define KUDU_STORAGE_CRC32C_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t (*kudu_crc_fn)(uint32_t reg, const uint8_t *data, size_t size);

#define KUDU_CRC_POLY_REFLECTED 0x82F63B78u

/* ---- table engine: slicing by 8 --------------------------------------------------------------------------------- */

static uint32_t kudu_crc_table[8][256];

static void kudu_crc_table_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t reg = i;
        for (int bit = 0; bit < 8; bit++)
            reg = (reg >> 1) ^ (KUDU_CRC_POLY_REFLECTED & (0u - (reg & 1)));
        kudu_crc_table[0][i] = reg;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) {
            uint32_t before = kudu_crc_table[k - 1][i];
            kudu_crc_table[k][i] = (before >> 8) ^ kudu_crc_table[0][before & 0xFF];
        }
}

static uint32_t kudu_crc_by_table(uint32_t reg, const uint8_t *data, size_t size) {
    while (size >= 8) {
        uint32_t low = reg ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        reg = kudu_crc_table[7][low & 0xFF] ^ kudu_crc_table[6][(low >> 8) & 0xFF]
            ^ kudu_crc_table[5][(low >> 16) & 0xFF] ^ kudu_crc_table[4][low >> 24]
            ^ kudu_crc_table[3][data[4]] ^ kudu_crc_table[2][data[5]]
            ^ kudu_crc_table[1][data[6]] ^ kudu_crc_table[0][data[7]];
        data += 8;
        size -= 8;
    }
    while (size--)
        reg = (reg >> 8) ^ kudu_crc_table[0][(reg ^ *data++) & 0xFF];
    return reg;
}

/* x^exponent mod P, bit-reflected (bit 31 is x^0). */
static uint32_t kudu_crc_power(uint64_t exponent) {
    uint32_t value = 0x80000000u;
    while (exponent--)
        value = (value >> 1) ^ (KUDU_CRC_POLY_REFLECTED & (0u - (value & 1)));
    return value;
}

/* ---- x86-64: the crc32 instruction on three independent streams ------------------------------------------------ *
 * The instruction takes 3 cycles but one can start each cycle. Three neighbouring blocks of n bytes are checksummed at
 * once; afterwards the first register is moved on by 2n bytes and the second by n bytes. Moving by n bytes is a
 * multiplication by x^(8n). With pclmul: the 32 x 32 bit product of reflected values is one power of x short of the
 * 64-bit reading that the crc32 instruction gives it, and that instruction multiplies by x^32 itself, so the constant is
 * x^(8n - 33). Without pclmul the same multiplication goes through four tables of 256.                              */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KUDU_CRC_HAVE_X86 1
#include <immintrin.h>

enum { KUDU_CRC_BLOCKS = 3 };
static const size_t kudu_crc_block_bytes[KUDU_CRC_BLOCKS] = {4096, 512, 64};
static uint32_t kudu_crc_shift_once[KUDU_CRC_BLOCKS];     /* x^(8n - 33) */
static uint32_t kudu_crc_shift_twice[KUDU_CRC_BLOCKS];    /* x^(16n - 33) */
static uint32_t kudu_crc_zeros[KUDU_CRC_BLOCKS][4][256];  /* register moved on by n zero bytes, by byte of the register */

static void kudu_crc_x86_init(void) {
    for (int b = 0; b < KUDU_CRC_BLOCKS; b++) {
        size_t n = kudu_crc_block_bytes[b];
        kudu_crc_shift_once[b] = kudu_crc_power(8 * n - 33);
        kudu_crc_shift_twice[b] = kudu_crc_power(16 * n - 33);
        /* Linear map: image of each single bit, then of each byte. */
        uint32_t image[32];
        for (int bit = 0; bit < 32; bit++) {
            uint32_t reg = 1u << bit;
            for (size_t i = 0; i < n; i++)
                reg = (reg >> 8) ^ kudu_crc_table[0][reg & 0xFF];
            image[bit] = reg;
        }
        for (int byte = 0; byte < 4; byte++)
            for (uint32_t value = 0; value < 256; value++) {
                uint32_t sum = 0;
                for (int bit = 0; bit < 8; bit++)
                    if (value >> bit & 1)
                        sum ^= image[8 * byte + bit];
                kudu_crc_zeros[b][byte][value] = sum;
            }
    }
}

static inline uint64_t kudu_load64(const uint8_t *data) {
    uint64_t value;
    memcpy(&value, data, 8);
    return value;
}

__attribute__((target("sse4.2")))
static uint32_t kudu_crc_x86_short(uint32_t reg, const uint8_t *data, size_t size) {
    uint64_t wide = reg;
    while (size >= 8) {
        wide = _mm_crc32_u64(wide, kudu_load64(data));
        data += 8;
        size -= 8;
    }
    reg = (uint32_t)wide;
    if (size & 4) {
        uint32_t value;
        memcpy(&value, data, 4);
        reg = _mm_crc32_u32(reg, value);
        data += 4;
    }
    if (size & 2) {
        uint16_t value;
        memcpy(&value, data, 2);
        reg = _mm_crc32_u16(reg, value);
        data += 2;
    }
    if (size & 1)
        reg = _mm_crc32_u8(reg, *data);
    return reg;
}

__attribute__((target("sse4.2")))
static inline void kudu_crc_three(const uint8_t *data, size_t n, uint64_t *a, uint64_t *b, uint64_t *c) {
    uint64_t first = *a, second = 0, third = 0;
    for (size_t i = 0; i < n; i += 8) {
        first = _mm_crc32_u64(first, kudu_load64(data + i));
        second = _mm_crc32_u64(second, kudu_load64(data + n + i));
        third = _mm_crc32_u64(third, kudu_load64(data + 2 * n + i));
    }
    *a = first;
    *b = second;
    *c = third;
}

__attribute__((target("sse4.2,pclmul")))
static uint32_t kudu_crc_by_sse42_pclmul(uint32_t reg, const uint8_t *data, size_t size) {
    for (int b = 0; b < KUDU_CRC_BLOCKS; b++) {
        size_t n = kudu_crc_block_bytes[b];
        __m128i shifts = _mm_set_epi64x(kudu_crc_shift_once[b], kudu_crc_shift_twice[b]);
        while (size >= 3 * n) {
            uint64_t first = reg, second, third;
            kudu_crc_three(data, n, &first, &second, &third);
            __m128i far = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)first), shifts, 0x00);
            __m128i near = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)second), shifts, 0x10);
            uint64_t product = (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(far, near));
            reg = (uint32_t)(third ^ _mm_crc32_u64(0, product));
            data += 3 * n;
            size -= 3 * n;
        }
    }
    return kudu_crc_x86_short(reg, data, size);
}

static inline uint32_t kudu_crc_skip(int b, uint32_t reg) {
    return kudu_crc_zeros[b][0][reg & 0xFF] ^ kudu_crc_zeros[b][1][(reg >> 8) & 0xFF]
         ^ kudu_crc_zeros[b][2][(reg >> 16) & 0xFF] ^ kudu_crc_zeros[b][3][reg >> 24];
}

__attribute__((target("sse4.2")))
static uint32_t kudu_crc_by_sse42(uint32_t reg, const uint8_t *data, size_t size) {
    for (int b = 0; b < KUDU_CRC_BLOCKS; b++) {
        size_t n = kudu_crc_block_bytes[b];
        while (size >= 3 * n) {
            uint64_t first = reg, second, third;
            kudu_crc_three(data, n, &first, &second, &third);
            reg = kudu_crc_skip(b, kudu_crc_skip(b, (uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
            data += 3 * n;
            size -= 3 * n;
        }
    }
    return kudu_crc_x86_short(reg, data, size);
}
#endif

/* ---- ARMv8: the optional crc32c instructions --------------------------------------------------------------------- */
#if defined(__aarch64__) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
#define KUDU_CRC_HAVE_ARM 1
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif

__attribute__((target("+crc")))
static uint32_t kudu_crc_by_armv8(uint32_t reg, const uint8_t *data, size_t size) {
    while (size >= 8) {
        uint64_t value;
        memcpy(&value, data, 8);
        __asm__("crc32cx %w0, %w0, %x1" : "+r"(reg) : "r"(value));
        data += 8;
        size -= 8;
    }
    while (size--) {
        uint32_t value = *data++;
        __asm__("crc32cb %w0, %w0, %w1" : "+r"(reg) : "r"(value));
    }
    return reg;
}
#endif

/* ---- choice ---------------------------------------------------------------------------------------------------- */

struct kudu_crc_engine {
    const char *name;
    kudu_crc_fn run;
};

/* Fills `engines` (room for 4) with what this processor can run, fastest first; returns how many. Call once. */
static int kudu_crc_engines(struct kudu_crc_engine *engines) {
    int count = 0;
    kudu_crc_table_init();
#ifdef KUDU_CRC_HAVE_X86
    kudu_crc_x86_init();
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        engines[count++] = (struct kudu_crc_engine){"sse4.2+pclmul", kudu_crc_by_sse42_pclmul};
    if (__builtin_cpu_supports("sse4.2"))
        engines[count++] = (struct kudu_crc_engine){"sse4.2", kudu_crc_by_sse42};
#endif
#ifdef KUDU_CRC_HAVE_ARM
    if (getauxval(AT_HWCAP) & HWCAP_CRC32)
        engines[count++] = (struct kudu_crc_engine){"armv8-crc", kudu_crc_by_armv8};
#endif
    engines[count++] = (struct kudu_crc_engine){"table", kudu_crc_by_table};
    return count;
}

#endif
