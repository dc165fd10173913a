/* The limit for a sequential scan of an uncompressed segment: 1 MiB preads, and of each entry both checksums.
 *
 * walk(fd, first, file_size, walked): entries from offset `first` on, until a header that is not one. Stores how many bytes
 * they take. -1: out of memory or a read error. The checksum engine is the package's own, so that the loops differ in
 * everything else only.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crc32c_engine.h"

#define WINDOW (1 << 20)

static uint32_t crc32c(const uint8_t *data, size_t size) {
    return ~kudu_crc_by_sse42_pclmul(~0u, data, size);
}

int64_t walk(int fd, int64_t first, int64_t file_size, int64_t *walked) {
    size_t capacity = 2 * WINDOW, have = 0, at = 0;
    uint8_t *buffer = malloc(capacity);
    int64_t offset = first, entries = 0;
    if (buffer == NULL)
        return -1;
    kudu_crc_x86_init();
    for (;;) {
        uint32_t head[4];
        size_t need = 16;
        if (have - at >= 16) {
            memcpy(head, buffer + at, 16);
            if (crc32c(buffer + at, 12) != head[3])
                break;
            need += head[0];
        }
        if (have - at < need) {
            ssize_t got;
            memmove(buffer, buffer + at, have - at);
            have -= at;
            at = 0;
            if (need + WINDOW > capacity) {
                uint8_t *larger = realloc(buffer, need + WINDOW);
                if (larger == NULL)
                    break;
                buffer = larger;
                capacity = need + WINDOW;
            }
            got = pread(fd, buffer + have, WINDOW, offset + (int64_t) have);
            if (got <= 0)
                break;
            have += (size_t) got;
            continue;
        }
        if (crc32c(buffer + at + 16, head[0]) != head[2])
            break;
        at += need;
        offset += (int64_t) need;
        entries++;
    }
    free(buffer);
    *walked = offset - first;
    (void) file_size;
    return entries;
}
