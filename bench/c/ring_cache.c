/* The limit for a cache of recent messages: a ring buffer in one block of memory.
 *
 *     ring_cache --messages N --message-bytes N --window N --batch N
 *         Inserts copies of N messages, in calls of --batch; after each call evicts what is older than --window messages.
 *         Each message has a slot with its index, place and size, as a cache that can be asked for an index must.
 *
 * Messages come from a pool of 1,024. Answers one JSON object; "sum" adds a byte of each evicted message.
 */
#include "limit.h"

enum { POOL_ENTRIES = 1024 };

struct slot {
    uint64_t index;
    size_t place, size;
};

static struct {
    uint8_t *memory;
    size_t capacity, head, tail, used;          /* bytes; tail is where the next message goes */
    struct slot *slots;
    uint64_t first, end, mask;                  /* indexes held */
} ring;

static uint64_t evicted_sum;

static void evict_one(void) {
    struct slot *slot = &ring.slots[ring.first++ & ring.mask];
    evicted_sum += ring.memory[slot->place];
    ring.used -= slot->size + (slot->place < ring.head ? ring.capacity - ring.head : 0);
    ring.head = slot->place + slot->size;
}

static void insert(const uint8_t *message, size_t size) {
    int wraps = ring.capacity - ring.tail < size;   /* no message lies across the end */
    size_t gap = wraps ? ring.capacity - ring.tail : 0;
    while (ring.first < ring.end && (ring.capacity - ring.used < size + gap || ring.end - ring.first > ring.mask))
        evict_one();
    if (wraps) {
        ring.tail = 0;
        ring.used += gap;
    }
    memcpy(ring.memory + ring.tail, message, size);
    ring.slots[ring.end & ring.mask] = (struct slot){ring.end, ring.tail, size};
    ring.end++;
    ring.tail += size;
    ring.used += size;
}

int main(int argc, char **argv) {
    limit_init();
    uint64_t messages = option_number(argc, argv, "--messages", 1000000), window = option_number(argc, argv, "--window", 8192);
    size_t size = option_number(argc, argv, "--message-bytes", 1024), batch = option_number(argc, argv, "--batch", 128);
    if (size == 0 || batch == 0 || window == 0)
        die("sizes and counts are above 0");
    uint8_t *pool = need(malloc(POOL_ENTRIES * size));
    for (size_t i = 0; i < POOL_ENTRIES * size; i++)
        pool[i] = (uint8_t)(i * 131 + (i >> 8));
    ring.capacity = (window + 2 * batch) * size;
    ring.memory = need(malloc(ring.capacity));
    memset(ring.memory, 0, ring.capacity);
    for (ring.mask = 1; ring.mask < window + 2 * batch; ring.mask *= 2)
        ;
    ring.slots = need(calloc(ring.mask, sizeof *ring.slots));
    ring.mask--;
    ring.first = ring.end = 1;
    struct usage from = usage_now();
    for (uint64_t done = 0; done < messages;) {
        for (size_t i = 0; i < batch && done < messages; i++, done++)
            insert(pool + done % POOL_ENTRIES * size, size);
        while (ring.end - ring.first > window)
            evict_one();
    }
    while (ring.first < ring.end)
        evict_one();
    printf("{");
    print_usage(from, messages, messages * size);
    printf(", \"sum\": %llu}\n", (unsigned long long)evicted_sum);
    fflush(stdout);
    return 0;
}
