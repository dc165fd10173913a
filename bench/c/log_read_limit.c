/* The limit for reading a log: pread and CRC-32C, nothing kept.
 *
 *     log_read_limit FILE... [--lz4-lib SO]
 *         Sequential: 1 MiB a pread, both checksums of each entry; with --lz4-lib each body is decompressed too.
 *     log_read_limit FILE... --table OUT
 *         Writes the table of entries, three u64 each: position of its file among FILE, offset, bytes with header.
 *     log_read_limit FILE... --table-in TABLE --picks PICKS [--two-step]
 *         Random: for each u32 in PICKS that entry of TABLE: one pread of exactly its bytes, both checksums. --two-step:
 *         header first, then the body, as one who knows only the offset must.
 *
 * FILE is a segment of Kudu's log (a header from "kudulogf" on, entries, maybe a footer) or entries alone, as
 * log_append_limit writes them. A file ends where no entry header is intact, and with a body that is not, the program
 * fails. Answers one JSON object; "sum" adds all body checksums, so that nothing can be left out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "limit.h"

enum { CHUNK_BYTES = 1 << 20, BODY_BYTES_MAX = 64 << 20 };

typedef int (*decompress_fn)(const char *source, char *target, int source_bytes, int target_bytes);

static decompress_fn decompress;
static uint8_t *buffer, *plain;
static size_t capacity;
static uint64_t entries, walked;
static uint32_t sum;

struct place {
    uint64_t file, offset, bytes;
};

static int header_ok(const uint8_t *entry) {
    uint32_t stored = load32(entry);
    return stored && stored <= BODY_BYTES_MAX && load32(entry + 12) == limit_crc(entry, 12);
}

static void check_body(const uint8_t *entry) {
    uint32_t stored = load32(entry), length = load32(entry + 4), crc = limit_crc(entry + HEADER_BYTES, stored);
    if (crc != load32(entry + 8))
        die("body checksum mismatch");
    if (decompress) {
        if (length > BODY_BYTES_MAX || decompress((const char *)entry + HEADER_BYTES, (char *)plain, (int)stored,
                                                  (int)length) != (int)length)
            die("LZ4 failed");
    }
    sum += crc;
    entries++;
    walked += HEADER_BYTES + stored;
}

static size_t read_at(int fd, uint8_t *to, size_t size, uint64_t offset) {
    ssize_t count = pread(fd, to, size, offset);
    if (count < 0)
        die("pread");
    return (size_t)count;
}

static uint64_t first_offset(int fd) {
    uint8_t head[12];
    if (read_at(fd, head, sizeof head, 0) == sizeof head && memcmp(head, "kudulogf", 8) == 0)
        return 12 + (uint64_t)load32(head + 8);
    return 0;
}

static void walk(int fd, uint64_t file, FILE *table) {
    uint64_t offset = first_offset(fd);
    for (size_t want = CHUNK_BYTES;;) {
        if (want > capacity)
            buffer = need(realloc(buffer, capacity = want));
        size_t have = read_at(fd, buffer, want, offset), at = 0;
        while (have - at >= HEADER_BYTES) {
            const uint8_t *entry = buffer + at;
            if (!header_ok(entry))
                return;
            size_t bytes = HEADER_BYTES + (size_t)load32(entry);
            if (bytes > have - at) {
                if (have < want)
                    return;     /* torn at the end of the file */
                break;
            }
            check_body(entry);
            if (table) {
                struct place place = {file, offset + at, bytes};
                if (fwrite(&place, sizeof place, 1, table) != 1)
                    die("cannot write the table");
            }
            at += bytes;
        }
        if (have < want)
            return;
        want = at ? CHUNK_BYTES : HEADER_BYTES + (size_t)load32(buffer);
        offset += at;
    }
}

static void read_picks(const int *fds, uint64_t fd_count, const struct place *places, size_t place_count,
                       const uint32_t *picks, size_t pick_count, int two_step) {
    for (size_t i = 0; i < pick_count; i++) {
        if (picks[i] >= place_count || places[picks[i]].file >= fd_count)
            die("a pick beyond the table, or a table of other files");
        const struct place *place = &places[picks[i]];
        if (place->bytes > capacity)
            buffer = need(realloc(buffer, capacity = place->bytes));
        size_t first = two_step ? HEADER_BYTES : place->bytes, have = read_at(fds[place->file], buffer, first, place->offset);
        if (have != first || !header_ok(buffer) || HEADER_BYTES + (size_t)load32(buffer) != place->bytes)
            die("no such entry at %llu", (unsigned long long)place->offset);
        if (two_step) {
            size_t rest = place->bytes - HEADER_BYTES;
            if (read_at(fds[place->file], buffer + HEADER_BYTES, rest, place->offset + HEADER_BYTES) != rest)
                die("short entry");
        }
        check_body(buffer);
    }
}

int main(int argc, char **argv) {
    limit_init();
    int files = 0;
    while (1 + files < argc && strncmp(argv[1 + files], "--", 2) != 0)
        files++;
    if (files == 0)
        die("usage: log_read_limit FILE... [options; see the source's first lines]");
    int *fds = need(malloc(files * sizeof(int)));
    for (int i = 0; i < files; i++)
        if ((fds[i] = open(argv[1 + i], O_RDONLY | O_CLOEXEC)) < 0)
            die("cannot open %s", argv[1 + i]);
    buffer = need(malloc(capacity = CHUNK_BYTES));
    const char *library = option(argc, argv, "--lz4-lib", NULL), *out = option(argc, argv, "--table", NULL);
    const char *table_in = option(argc, argv, "--table-in", NULL), *picks_in = option(argc, argv, "--picks", NULL);
    if (library != NULL) {
        void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        decompress = handle ? (decompress_fn)dlsym(handle, "LZ4_decompress_safe") : NULL;
        if (decompress == NULL)
            die("no LZ4 in %s: %s", library, dlerror());
        plain = need(malloc(BODY_BYTES_MAX));
    }
    struct usage from;
    if (table_in != NULL && picks_in != NULL) {
        size_t table_bytes, picks_bytes;
        struct place *places = (struct place *)read_whole(table_in, &table_bytes);
        uint32_t *picks = (uint32_t *)read_whole(picks_in, &picks_bytes);
        from = usage_now();
        read_picks(fds, files, places, table_bytes / sizeof *places, picks, picks_bytes / sizeof *picks,
                   has_option(argc, argv, "--two-step"));
    } else {
        FILE *table = out ? fopen(out, "wb") : NULL;
        if (out && table == NULL)
            die("cannot create %s", out);
        from = usage_now();
        for (int i = 0; i < files; i++)
            walk(fds[i], i, table);
        if (table && fclose(table))
            die("cannot write %s", out);
    }
    printf("{");
    print_usage(from, entries, walked);
    printf(", \"sum\": %u}\n", sum);
    fflush(stdout);
    return 0;
}
