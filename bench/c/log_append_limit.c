/* The file system's limit for appending to a log: what no log can do without, and nothing else.
 *
 *     log_append_limit --dir DIR --data POOL --batch N --entry-bytes N --entries N [--envelope N] [--group N]
 *                      [--lz4-lib SO] [--segment-bytes N]
 *         One thread. Per batch: copy each entry behind its envelope, CRC-32C of body and header, one pwrite into a file
 *         preallocated by fallocate; files roll at the segment size. No sync. --group N: one pwritev per N batches.
 *     log_append_limit ... --sync --seconds N --producers N [--zeroed] [--direct] [--one-thread]
 *         Threads that append a batch each and wait until it is durable: one write and one fdatasync per group, a group
 *         being whatever arrived during the one before. --zeroed: segments are filled with zeros and synced ahead by a
 *         thread beside, so that fdatasync finds no metadata to write. --direct: O_DIRECT | O_DSYNC, no fdatasync; the
 *         last block is written again by the next group. --one-thread: no threads; one batch of each producer, one write,
 *         one fdatasync, and again. Nobody is woken, so this is the disk's limit, where many threads show the scheduler's.
 *
 * POOL holds payloads of entry-bytes, a power of two of them; an entry is an 8-byte counter and the payload of counter
 * modulo their number, without its first 8 bytes. The lz4 wheel's shared object needs an interpreter around it: the runner builds this text as a shared object too
 * and calls main() from Python, so that both sides compress with the same code. Answers one JSON object. CPU is user +
 * system of the loop, from the first append to the last file closed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sys/uio.h>

#include "limit.h"

enum { GROUP_MAX = 1024, BLOCK_BYTES = 4096, SAMPLES_MAX = 1 << 18 };

typedef int (*compress_fn)(const char *source, char *target, int source_bytes, int target_bytes);
typedef int (*bound_fn)(int bytes);

static struct {
    const char *dir;
    uint8_t *pool;
    uint8_t *envelope;          /* what stands before each payload in a body */
    size_t envelope_bytes, entry_bytes, batch, body_bytes, stored_max, segment_bytes, group;
    uint64_t entries, pool_mask;
    compress_fn compress;
    uint8_t *scratch;           /* body before compression */
    int zeroed, direct;
} job;

/* ---- a batch ----------------------------------------------------------------------------------------------------- */

/* Copies one batch to `out`, compresses and seals it; the bytes it takes. */
static size_t make_batch(uint8_t *out, uint64_t first, uint8_t *scratch) {
    uint8_t *body = job.compress ? scratch : out + HEADER_BYTES, *to = body;
    for (size_t i = 0; i < job.batch; i++) {
        uint64_t number = first + i;
        memcpy(to, job.envelope, job.envelope_bytes);
        if (job.envelope_bytes >= 16)
            memcpy(to + 12, &number, 3);    /* as a log's has its index: LZ4 meets alike bytes on both sides */
        to += job.envelope_bytes;
        memcpy(to, &number, 8);
        memcpy(to + 8, job.pool + (number & job.pool_mask) * job.entry_bytes + 8, job.entry_bytes - 8);
        to += job.entry_bytes;
    }
    size_t stored = job.body_bytes;
    if (job.compress) {
        int count = job.compress((const char *)body, (char *)out + HEADER_BYTES, (int)job.body_bytes, (int)job.stored_max);
        if (count <= 0)
            die("LZ4 failed");
        stored = (size_t)count;
    }
    put_header(out, (uint32_t)stored, (uint32_t)job.body_bytes);
    return HEADER_BYTES + stored;
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

struct segment {
    int fd;
    uint64_t offset, number;
};

static int open_segment(uint64_t number, int zeroed, int direct) {
    char path[4096];
    snprintf(path, sizeof path, "%s/limit-%09llu", job.dir, (unsigned long long)number);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        die("cannot create %s", path);
    if (fallocate(fd, 0, 0, job.segment_bytes) < 0)
        die("fallocate");
    if (zeroed) {
        static const size_t chunk = 1 << 20;
        uint8_t *zeros = need(calloc(1, chunk));
        for (uint64_t at = 0; at < job.segment_bytes; at += chunk) {
            size_t part = job.segment_bytes - at < chunk ? job.segment_bytes - at : chunk;
            if (pwrite(fd, zeros, part, at) != (ssize_t)part)
                die("cannot fill %s", path);
        }
        free(zeros);
        if (fdatasync(fd) < 0)
            die("fdatasync");
    }
    if (direct) {
        close(fd);
        fd = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        if (fd < 0)
            die("cannot open %s for direct writes", path);
    }
    return fd;
}

static void close_segment(struct segment *segment) {
    if (segment->fd >= 0 && (ftruncate(segment->fd, segment->offset) < 0 || close(segment->fd) < 0))
        die("cannot close a segment");
    segment->fd = -1;
}

static void roll(struct segment *segment) {
    close_segment(segment);
    segment->fd = open_segment(++segment->number, 0, 0);
    segment->offset = 0;
}

/* ---- without sync ------------------------------------------------------------------------------------------------ */

static void append_all(void) {
    size_t slot_bytes = HEADER_BYTES + job.stored_max;
    uint8_t *buffer = need(malloc(slot_bytes * job.group));
    struct iovec parts[GROUP_MAX];
    struct segment segment = {-1, 0, 0};
    uint64_t calls = job.entries / job.batch, written = 0;
    struct usage from = usage_now();
    for (uint64_t call = 0; call < calls;) {
        size_t held = 0, bytes = 0;
        for (; held < job.group && call < calls; held++, call++) {
            parts[held].iov_base = buffer + held * slot_bytes;
            parts[held].iov_len = make_batch(parts[held].iov_base, call * job.batch, job.scratch);
            bytes += parts[held].iov_len;
        }
        if (segment.fd < 0 || segment.offset + bytes > job.segment_bytes)
            roll(&segment);
        ssize_t count = held == 1 ? pwrite(segment.fd, parts[0].iov_base, bytes, segment.offset)
                                  : pwritev(segment.fd, parts, (int)held, segment.offset);
        if (count != (ssize_t)bytes)
            die("short write");
        segment.offset += bytes;
        written += bytes;
    }
    close_segment(&segment);
    printf("{");
    print_usage(from, calls * job.batch, written);
    printf("}\n");
}

/* ---- durable ----------------------------------------------------------------------------------------------------- *
 * Producers copy under the mutex into the group that collects. Whoever finds no leader leads: takes the group, writes and
 * syncs it without the mutex, and wakes all. Everything below is guarded by `mutex`, but a taken group by its leader.   */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t done;
    uint8_t *collecting, *taken;        /* BLOCK_BYTES of room for the block begun before, then batches */
    size_t collected, capacity;
    uint64_t ticket, durable;           /* groups begun, groups durable */
    int leading;
    struct segment segment;             /* the leader's */
    size_t begun;                       /* bytes of the last block already on disk; direct writes only; the leader's */
    uint8_t block[BLOCK_BYTES];
    uint64_t syncs, written, entries;
    double until;
} durable = {.mutex = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER, .segment = {-1, 0, 0}};

/* The next segment, made ahead of need by a thread of its own. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int fd, stop;
} ahead = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, -1, 0};

static void *prepare_segments(void *unused) {
    (void)unused;
    for (uint64_t number = 1;; number++) {
        int fd = open_segment(number, job.zeroed, job.direct);
        pthread_mutex_lock(&ahead.mutex);
        while (ahead.fd >= 0 && !ahead.stop)
            pthread_cond_wait(&ahead.changed, &ahead.mutex);
        int stop = ahead.stop;
        if (stop)
            close(fd);
        else
            ahead.fd = fd;
        pthread_cond_broadcast(&ahead.changed);
        pthread_mutex_unlock(&ahead.mutex);
        if (stop)
            return NULL;
    }
}

static int next_segment(void) {
    pthread_mutex_lock(&ahead.mutex);
    while (ahead.fd < 0)
        pthread_cond_wait(&ahead.changed, &ahead.mutex);
    int fd = ahead.fd;
    ahead.fd = -1;
    pthread_cond_broadcast(&ahead.changed);
    pthread_mutex_unlock(&ahead.mutex);
    return fd;
}

/* `data` is aligned and has BLOCK_BYTES of room before it. */
static void write_group(uint8_t *data, size_t bytes) {
    struct segment *segment = &durable.segment;
    if (segment->fd < 0 || segment->offset + bytes + BLOCK_BYTES > job.segment_bytes) {
        close_segment(segment);
        segment->fd = next_segment();
        segment->offset = 0;
        durable.begun = 0;
    }
    if (job.direct) {
        /* From the start of the block that holds the end so far, padded with zeros to whole blocks. The shift moves the
         * group by less than a block so that it follows what the block already holds. */
        size_t total = durable.begun + bytes, padded = (total + BLOCK_BYTES - 1) & ~(size_t)(BLOCK_BYTES - 1);
        uint8_t *start = data - BLOCK_BYTES;
        memmove(start + durable.begun, data, bytes);
        memcpy(start, durable.block, durable.begun);
        memset(start + total, 0, padded - total);
        if (pwrite(segment->fd, start, padded, segment->offset - durable.begun) != (ssize_t)padded)
            die("direct write");
        durable.begun = total % BLOCK_BYTES;
        memcpy(durable.block, start + total - durable.begun, durable.begun);
    } else if (pwrite(segment->fd, data, bytes, segment->offset) != (ssize_t)bytes || fdatasync(segment->fd) < 0) {
        die("write and sync");
    }
    segment->offset += bytes;
}

static void lead(void) {
    uint8_t *group = durable.collecting;
    size_t bytes = durable.collected;
    uint64_t ticket = durable.ticket++;
    durable.leading = 1;
    durable.collecting = durable.taken;
    durable.taken = group;
    durable.collected = 0;
    pthread_mutex_unlock(&durable.mutex);
    write_group(group + BLOCK_BYTES, bytes);
    pthread_mutex_lock(&durable.mutex);
    durable.durable = ticket + 1;
    durable.leading = 0;
    durable.syncs++;
    durable.written += bytes;
    pthread_cond_broadcast(&durable.done);
}

struct producer {
    pthread_t thread;
    uint64_t first;
    float *samples;
    size_t sample_count;
};

static void *produce(void *argument) {
    struct producer *self = argument;
    uint8_t *batch = need(malloc(HEADER_BYTES + job.stored_max)), *scratch = need(malloc(job.body_bytes));
    uint64_t number = self->first, entries = 0;
    for (double started = wall_now(); started < durable.until; number += job.batch) {
        size_t bytes = make_batch(batch, number, scratch);
        pthread_mutex_lock(&durable.mutex);
        memcpy(durable.collecting + BLOCK_BYTES + durable.collected, batch, bytes);
        durable.collected += bytes;
        uint64_t ticket = durable.ticket;
        while (durable.durable <= ticket) {
            if (durable.leading)
                pthread_cond_wait(&durable.done, &durable.mutex);
            else
                lead();
        }
        pthread_mutex_unlock(&durable.mutex);
        entries += job.batch;
        double ended = wall_now();
        if (self->sample_count < SAMPLES_MAX)
            self->samples[self->sample_count++] = (float)(ended - started);
        started = ended;
    }
    __atomic_add_fetch(&durable.entries, entries, __ATOMIC_RELAXED);
    free(batch);
    free(scratch);
    return NULL;
}

/* All producers in the caller's thread: a group is one batch of each. */
static void produce_alone(struct producer *self, size_t producers) {
    uint64_t number = 0;
    uint8_t *scratch = need(malloc(job.body_bytes)), *to = durable.collecting + BLOCK_BYTES;
    for (double started = wall_now(); started < durable.until;) {
        size_t bytes = 0;
        for (size_t i = 0; i < producers; i++, number += job.batch)
            bytes += make_batch(to + bytes, number, scratch);
        write_group(to, bytes);
        durable.syncs++;
        durable.written += bytes;
        double ended = wall_now();
        if (self->sample_count < SAMPLES_MAX)
            self->samples[self->sample_count++] = (float)(ended - started);
        started = ended;
    }
    durable.entries = number;
    free(scratch);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static uint8_t *group_buffer(size_t bytes) {
    void *memory;
    if (posix_memalign(&memory, BLOCK_BYTES, bytes))
        die("out of memory");
    memset(memory, 0, bytes);
    return memory;
}

static void append_durably(size_t producers, double seconds, int one_thread) {
    struct producer *all = need(calloc(producers, sizeof *all));
    pthread_t preparing;
    durable.capacity = producers * (HEADER_BYTES + job.stored_max) + 3 * BLOCK_BYTES;
    if (durable.capacity > job.segment_bytes)
        die("a group of all producers does not fit a segment");
    durable.collecting = group_buffer(durable.capacity);
    durable.taken = group_buffer(durable.capacity);
    pthread_create(&preparing, NULL, prepare_segments, NULL);
    durable.segment.fd = next_segment();
    struct usage from = usage_now();
    durable.until = from.wall + seconds;
    for (size_t i = 0; i < producers; i++) {
        all[i].first = i << 40;
        all[i].samples = need(malloc(SAMPLES_MAX * sizeof(float)));
        if (!one_thread && pthread_create(&all[i].thread, NULL, produce, &all[i]))
            die("cannot start a thread");
    }
    if (one_thread)
        produce_alone(all, producers);
    size_t count = 0;
    for (size_t i = 0; i < producers; i++) {
        if (!one_thread)
            pthread_join(all[i].thread, NULL);
        count += all[i].sample_count;
    }
    close_segment(&durable.segment);
    printf("{");
    print_usage(from, durable.entries, durable.written);
    float *samples = need(malloc((count + 1) * sizeof(float)));
    count = 0;
    for (size_t i = 0; i < producers; i++) {
        memcpy(samples + count, all[i].samples, all[i].sample_count * sizeof(float));
        count += all[i].sample_count;
    }
    qsort(samples, count, sizeof(float), by_value);
    printf(", \"syncs\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", (unsigned long long)durable.syncs,
           count ? samples[count / 2] * 1e6 : 0, count ? samples[count * 99 / 100] * 1e6 : 0);
    pthread_mutex_lock(&ahead.mutex);
    ahead.stop = 1;
    pthread_cond_broadcast(&ahead.changed);
    pthread_mutex_unlock(&ahead.mutex);
    pthread_join(preparing, NULL);
}

int main(int argc, char **argv) {
    limit_init();
    size_t pool_bytes;
    const char *pool = option(argc, argv, "--data", NULL), *library = option(argc, argv, "--lz4-lib", NULL);
    job.dir = option(argc, argv, "--dir", NULL);
    if (pool == NULL || job.dir == NULL)
        die("usage: log_append_limit --dir DIR --data POOL [options; see the source's first lines]");
    job.pool = read_whole(pool, &pool_bytes);
    job.batch = option_number(argc, argv, "--batch", 1);
    job.entry_bytes = option_number(argc, argv, "--entry-bytes", 1024);
    job.entries = option_number(argc, argv, "--entries", 100000);
    job.envelope_bytes = option_number(argc, argv, "--envelope", 0);
    job.group = option_number(argc, argv, "--group", 1);
    job.segment_bytes = option_number(argc, argv, "--segment-bytes", 8 << 20);
    job.zeroed = has_option(argc, argv, "--zeroed");
    job.direct = has_option(argc, argv, "--direct");
    job.body_bytes = job.batch * (job.envelope_bytes + job.entry_bytes);
    job.stored_max = job.body_bytes;
    job.envelope = need(malloc(job.envelope_bytes + 1));
    memset(job.envelope, 0x55, job.envelope_bytes);
    errno = 0;
    if (job.entry_bytes < 8)
        die("--entry-bytes from 8");
    job.pool_mask = pool_bytes / job.entry_bytes - 1;
    if (pool_bytes % job.entry_bytes || pool_bytes == 0 || (job.pool_mask & (job.pool_mask + 1)))
        die("%s does not hold a power of two of payloads of %zu bytes", pool, job.entry_bytes);
    if (job.batch < 1 || job.group < 1 || job.group > GROUP_MAX)
        die("--batch from 1, --group from 1 to %d", GROUP_MAX);
    if (has_option(argc, argv, "--lz4") && library == NULL)
        die("--lz4 needs --lz4-lib SO");
    if (library != NULL) {
        void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        bound_fn bound = handle ? (bound_fn)dlsym(handle, "LZ4_compressBound") : NULL;
        job.compress = handle ? (compress_fn)dlsym(handle, "LZ4_compress_default") : NULL;
        if (job.compress == NULL || bound == NULL)
            die("no LZ4 in %s: %s", library, dlerror());
        job.stored_max = bound((int)job.body_bytes);
        job.scratch = need(malloc(job.body_bytes));
    }
    if (has_option(argc, argv, "--sync"))
        append_durably(option_number(argc, argv, "--producers", 1), option_number(argc, argv, "--seconds", 2),
                       has_option(argc, argv, "--one-thread"));
    else
        append_all();
    fflush(stdout);
    return 0;
}
