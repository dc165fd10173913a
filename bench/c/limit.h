/* What the limit programs share: clocks, options, errors, the entry header. Header only, one program each.
 *
 * Entry as stored, the envelope of Kudu's log:
 *     0  u32 length of the body as stored       8  u32 CRC-32C of the body as stored
 *     4  u32 length before compression         12  u32 CRC-32C of bytes 0..11
 *    16  body
 */
#ifndef LIMIT_H
#define LIMIT_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crc32c_engine.h"

enum { HEADER_BYTES = 16 };

static kudu_crc_fn limit_crc_run;

static void limit_init(void) {
    static struct kudu_crc_engine engines[4];
    kudu_crc_engines(engines);
    limit_crc_run = engines[0].run;
}

static inline uint32_t limit_crc(const uint8_t *data, size_t size) {
    return ~limit_crc_run(~0u, data, size);
}

static inline uint32_t load32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}

static inline void put_header(uint8_t *entry, uint32_t stored, uint32_t plain) {
    memcpy(entry, &stored, 4);
    memcpy(entry + 4, &plain, 4);
    uint32_t crc = limit_crc(entry + HEADER_BYTES, stored);
    memcpy(entry + 8, &crc, 4);
    crc = limit_crc(entry, 12);
    memcpy(entry + 12, &crc, 4);
}

__attribute__((noreturn, format(printf, 1, 2)))
static void die(const char *format, ...) {
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
    exit(1);
}

static inline void *need(void *memory) {
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static inline double wall_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

struct usage {
    double wall, user, sys;
};

static inline struct usage usage_now(void) {
    struct rusage raw;
    getrusage(RUSAGE_SELF, &raw);
    return (struct usage){wall_now(), raw.ru_utime.tv_sec + raw.ru_utime.tv_usec / 1e6,
                          raw.ru_stime.tv_sec + raw.ru_stime.tv_usec / 1e6};
}

/* The fields that each program's answer has; the caller prints the braces. */
static inline void print_usage(struct usage from, uint64_t entries, uint64_t bytes) {
    struct usage to = usage_now();
    double wall = to.wall - from.wall, user = to.user - from.user, sys = to.sys - from.sys;
    printf("\"entries\": %llu, \"bytes\": %llu, \"wall_s\": %.6f, \"user_s\": %.6f, \"sys_s\": %.6f, \"cpu_s\": %.6f, "
           "\"entries_per_s\": %.1f",
           (unsigned long long)entries, (unsigned long long)bytes, wall, user, sys, user + sys,
           wall > 0 ? entries / wall : 0.0);
}

/* "--name value" or NULL; "--name" alone is found by has_option. */
static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

static inline int has_option(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return 0;
}

static inline uint64_t option_number(int argc, char **argv, const char *name, uint64_t otherwise) {
    const char *text = option(argc, argv, name, NULL);
    if (text == NULL)
        return otherwise;
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || *end || end == text)
        die("%s takes a number, not %s", name, text);
    return value;
}

/* A whole file in memory; the pool of payloads. */
static inline uint8_t *read_whole(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) < 0)
        die("cannot open %s", path);
    uint8_t *data = need(malloc(about.st_size + 1));
    for (*size = 0; *size < (size_t)about.st_size;) {
        ssize_t count = read(fd, data + *size, about.st_size - *size);
        if (count <= 0)
            die("cannot read %s", path);
        *size += count;
    }
    close(fd);
    return data;
}

#endif
