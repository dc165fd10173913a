"""Memory of the log's appending side: what the cache keeps, what blocks are kept for, how messages lie in LogCache."""
from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from kudu_storage import Log, LogCache
from kudu_storage._native.log_batch import kept_bytes
from kudu_storage.errors import Collected, NotYetWritten

KIB = 1024


def test_batches_over_a_change_of_the_index_width_read_back(tmp_path: Path) -> None:
    sizes = [0, 1, 50, 127, 128, 129, 50, 50, 300, 20_000]
    expected = []
    with Log.open(tmp_path, create=True, durability="os", compression="none", cache_size=0) as log:
        while len(expected) < 17_000:
            step = 90 if len(expected) < 400 else 1_501
            payloads = [bytes([i % 251]) * sizes[i % 9] for i in range(len(expected), len(expected) + step)]
            token = log.append_many(payloads)
            expected += payloads
            assert token.last_index == len(expected)
            token.wait()
        expected.append(bytes(sizes[-1]))
        log.append(expected[-1]).wait()
        assert [(e.index, bytes(e)) for e in log.read()] == list(enumerate(expected, 1))


def test_what_nobody_reads_is_not_kept(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, durability="os", cache_size="1MiB") as log:
        for _ in range(64):
            log.append(bytes(32 * KIB)).wait()
        assert log.stats()["cache_bytes"] <= 256 * KIB
        list(log.read(log.last.index))
        for _ in range(16):
            log.append(bytes(32 * KIB)).wait()
        assert log.stats()["cache_bytes"] > 512 * KIB
        for _ in range(64):
            log.append(bytes(32 * KIB)).wait()
        assert log.stats()["cache_bytes"] <= 256 * KIB


def test_blocks_kept_for_later_are_bounded(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, durability="os", cache_size="64MiB", queue_size="64MiB") as log:
        log.append(b"first").wait()
        list(log.read(1))
        for size in (5_000, 100_000, 1_000_000):
            for _ in range(20_000_000 // size // 2):
                log.append(bytes(size)).wait()
        assert log.stats()["cache_bytes"] > 16 << 20
    del log
    assert kept_bytes() <= 8 << 20


def test_an_append_that_finds_much_queued_leaves_it_with_the_kernel(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, durability="os", compression="none", queue_size="1MiB") as log:
        # More than the queue holds, and nobody waits: each third or so writes what is there.
        for _ in range(100):
            log.append(bytes(100 * KIB))
        log.flush()
        assert log.stats()["queued_bytes"] == 0 and log.last.index == 100


@pytest.mark.parametrize("seed", range(20))
def test_the_public_cache_does_what_a_dictionary_does(seed: int) -> None:
    source = random.Random(seed)
    cache, model, following = LogCache(1 << 30), {}, 1
    for _ in range(300):
        choice = source.random()
        if choice < 0.6:
            messages = [source.randbytes(source.choice([0, 1, 1000, 70_000])) for _ in range(source.randrange(8))]
            index = following + source.choice([0, 0, 0, 3, -4])
            index = max(index, 1)
            if messages:
                model = {i: m for i, m in model.items() if i < index}
            cache.put_many(index, messages if source.random() < 0.7 else [memoryview(m) for m in messages])  # type: ignore[misc]
            model.update(enumerate(messages, index))
            following = index + len(messages)
        elif choice < 0.8:
            limit = source.randrange(max(1, following - 20), following + 2)
            cache.evict(limit)
            model = {i: m for i, m in model.items() if i > limit}
        else:
            index = source.randrange(max(1, following - 20), following + 2)
            if index in model:
                for found, message in cache.read(index, max_bytes=source.choice([0, 2000, 1 << 20])):
                    assert message == model[found]
            else:
                with pytest.raises((Collected, NotYetWritten)):
                    cache.read(index)
        cache.check()
        stats = cache.stats()
        assert (stats["messages"], stats["first_index"], stats["last_index"]) == \
            (len(model), min(model, default=None), max(model, default=None))


SHORT_OF_MEMORY = """
import os, resource, sys
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import NoSpace, OutOfMemory

disk = RecordingDisk()
log = Log.open(sys.argv[1], create=True, compression="lz4", queue_size="256MiB", disk=disk)
log.append(b"before").wait()
disk.hold("write")
log.append(b"held")
while not disk.waiting:
    os.sched_yield()
token = log.append(os.urandom(64 << 20))        # what it is compressed into is as large, and not there yet
pages = int(open("/proc/self/statm").read().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + (8 << 20), limits[1]))
disk.release()
try:
    token.wait()
except OutOfMemory as error:
    assert isinstance(error, MemoryError) and not isinstance(error, OSError)
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_AS, limits)
assert log.stats()["no_space_count"] == 0
log.append(b"goes on").wait()
print([bytes(e) for e in log.read()])
log.close()
"""


def test_memory_that_is_short_while_writing_is_told_as_such_and_the_log_goes_on(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path)], capture_output=True, text=True,
                          timeout=120)
    assert done.stdout.splitlines() == ["OutOfMemory", "[b'before', b'held', b'goes on']"], done.stderr
