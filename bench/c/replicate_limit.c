/* The limit of replication: the bytes of a Raft group between processes, and nothing else.
 *
 *     replicate_limit --dir DIR --seconds N [--bytes N] [--outstanding N] [--batch N] [--sync]
 *
 * A leader and two followers as processes, connected over TCP on the loopback; a client in the fourth. The client keeps
 * `outstanding` calls of `batch` values under way. The leader takes all that is ready, sends it to both followers, writes it
 * and (--sync) fdatasyncs it while they do the same, waits for one of them, and tells the client how much is safe. No
 * terms, no checksums, no log that could be read again. Files are allocated ahead in steps, as a log's segments are.
 * Answers one JSON object: calls, seconds, latencies in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "limit.h"

enum { READY_BYTES_MAX = 1 << 20, ALLOCATE_BYTES = 64 << 20, CALLS_MAX = 1 << 23 };

static const char *dir;
static int syncing;
static uint8_t buffer[READY_BYTES_MAX];

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- sockets and files ------------------------------------------------------------------------------------------- */

static void without_delay(int fd) {
    int one = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
        die("TCP_NODELAY");
}

static int listening(uint16_t *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) || listen(fd, 4) ||
        getsockname(fd, (struct sockaddr *)&at, &size))
        die("listen");
    *port = ntohs(at.sin_port);
    return fd;
}

static int connected(uint16_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
        die("connect");
    without_delay(fd);
    return fd;
}

static int accepted(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        die("accept");
    without_delay(fd);
    return fd;
}

static void send_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t count = send(fd, data, size, MSG_NOSIGNAL);
        if (count <= 0)
            exit(0);    /* the other side is done */
        data += count;
        size -= (size_t)count;
    }
}

static size_t receive_ready(int fd) {
    ssize_t count = recv(fd, buffer, sizeof buffer, 0);
    if (count <= 0)
        exit(0);
    return (size_t)count;
}

static uint64_t receive_total(int fd) {
    uint64_t total;
    if (recv(fd, &total, sizeof total, MSG_WAITALL) != sizeof total)
        exit(0);
    return total;
}

static int log_file(int number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/limit-%d", dir, number);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (fd < 0)
        die("%s", path);
    return fd;
}

static void append(int fd, size_t size, uint64_t at) {
    static uint64_t allocated;
    if (at + size > allocated) {
        if (posix_fallocate(fd, (off_t)allocated, ALLOCATE_BYTES))
            die("fallocate");
        allocated += ALLOCATE_BYTES;
    }
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(fd, buffer + done, size - done, (off_t)(at + done));
        if (count < 0)
            die("write");
        done += (size_t)count;
    }
    if (syncing && fdatasync(fd))
        die("fdatasync");
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

static void follow(int listener, int number) {
    int leader = accepted(listener), log = log_file(number);
    for (uint64_t total = 0;;) {
        size_t size = receive_ready(leader);
        append(log, size, total);
        total += size;
        send_all(leader, (uint8_t *)&total, sizeof total);
    }
}

static void lead(int listener, const uint16_t *ports) {
    int followers[2] = {connected(ports[0]), connected(ports[1])};
    int client = accepted(listener), log = log_file(0);
    for (uint64_t total = 0;;) {
        size_t size = receive_ready(client);
        for (int i = 0; i < 2; i++)
            send_all(followers[i], buffer, size);
        append(log, size, total);
        total += size;
        for (uint64_t safe = 0; safe < total;) {
            struct pollfd ready[2] = {{followers[0], POLLIN, 0}, {followers[1], POLLIN, 0}};
            if (poll(ready, 2, -1) < 0)
                die("poll");
            for (int i = 0; i < 2; i++)
                if (ready[i].revents) {
                    uint64_t other = receive_total(followers[i]);
                    safe = other > safe ? other : safe;
                }
        }
        send_all(client, (uint8_t *)&total, sizeof total);
    }
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void load(uint16_t port, size_t outstanding, size_t call_bytes, double seconds) {
    int leader = connected(port);
    uint8_t *values = calloc(outstanding, call_bytes);
    float *latency_us = malloc(sizeof *latency_us * CALLS_MAX);
    double *began = malloc(sizeof *began * outstanding);
    if (!values || !latency_us || !began)
        die("memory");
    double start = now_s(), end = start + seconds, now = start;
    uint64_t sent = 0, done = 0;
    while (now < end && done < CALLS_MAX) {
        size_t room = outstanding - (size_t)(sent - done);
        for (size_t i = 0; i < room; i++)
            began[(sent + i) % outstanding] = now;
        send_all(leader, values, room * call_bytes);
        sent += room;
        uint64_t total = receive_total(leader) / call_bytes;
        now = now_s();
        for (; done < total && done < CALLS_MAX; done++)
            latency_us[done] = (float)((now - began[done % outstanding]) * 1e6);
    }
    qsort(latency_us, done, sizeof *latency_us, compare);
    printf("{\"calls\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", (unsigned long long)done,
           now - start, done ? latency_us[done / 2] : 0, done ? latency_us[done * 99 / 100] : 0);
    fflush(stdout);
    close(leader);
}

static void begin(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

int main(int count, char **words) {
    double seconds = 1;
    size_t outstanding = 1, batch = 1, bytes = 1024;
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = i + 1 < count ? words[i + 1] : "";
        if (!strcmp(word, "--sync")) {
            syncing = 1;
            continue;
        }
        if (!strcmp(word, "--dir"))
            dir = value;
        else if (!strcmp(word, "--seconds"))
            seconds = atof(value);
        else if (!strcmp(word, "--bytes"))
            bytes = (size_t)atol(value);
        else if (!strcmp(word, "--outstanding"))
            outstanding = (size_t)atol(value);
        else if (!strcmp(word, "--batch"))
            batch = (size_t)atol(value);
        else
            die("unknown option %s", word);
        i++;
    }
    if (!dir || !outstanding || !batch || !bytes)
        die("usage: see the head of the source");
    uint16_t ports[3];
    int listeners[3];
    for (int i = 0; i < 3; i++)
        listeners[i] = listening(&ports[i]);
    for (int i = 2; i >= 0; i--) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            begin();
            if (i)
                follow(listeners[i], i);
            else
                lead(listeners[0], ports + 1);
            return 0;
        }
    }
    load(ports[0], outstanding, bytes * batch, seconds);
    while (wait(NULL) > 0) {
    }
    return 0;
}
