"""The log in small (pytest-benchmark): append, durable append, reads, opening, cache. Ratios: bench/compare/run.py."""
from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "compare"))
import peers
from cells import BATCHES, ENTRY_BYTES, PRODUCERS, size_text

CALLS = 200
READ_ENTRIES = 20_000
CACHE_WINDOW = 8192

ABSENT = peers.missing("kudu")
needs_log = pytest.mark.skipif(ABSENT is not None, reason=f"kudu_storage.Log cannot be measured: {ABSENT}")


def entries_of(size_bytes: int, count: int) -> list[bytes]:
    pool = [random.Random(i).randbytes(size_bytes) for i in range(64)]
    return next(peers.make_batches(pool, 1, count))


def open_log(folder: Path, durability: str = "os", compression: str = "none") -> Any:
    from kudu_storage import Log  # type: ignore[attr-defined, unused-ignore]

    return Log.open(str(folder), create=True, durability=durability, compression=compression)


def open_peer(folder: Path) -> peers.KuduLog:
    return peers.KuduLog(folder, durable=False, compression="none")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Any]:
    """A log of entries of 256 bytes, in batches of 100."""
    with open_log(tmp_path / "log") as log:
        entries = entries_of(256, 100)
        for _ in range(READ_ENTRIES // 100):
            log.append_many(entries).wait()
        yield log


def rate(benchmark: Any, entries: int) -> None:
    if benchmark.stats:     # absent under --benchmark-disable
        benchmark.extra_info["entries/s"] = round(entries / benchmark.stats["median"])


@needs_log
@pytest.mark.parametrize("wait", ["each", "once"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size_bytes", ENTRY_BYTES, ids=size_text)
def test_append(benchmark: Any, tmp_path: Path, size_bytes: int, batch: int, wait: str) -> None:
    entries, calls = entries_of(size_bytes, batch), max(4, min(CALLS, (16 << 20) // (size_bytes * batch)))

    with closing(open_peer(tmp_path / "log")) as peer:
        if wait == "each":
            benchmark.pedantic(lambda: peer.each([entries] * calls), rounds=5, warmup_rounds=1)
        else:
            benchmark.pedantic(lambda: peer.grouped([entries] * calls, calls), rounds=5, warmup_rounds=1)
        assert peer.log.last.index % (calls * batch) == 0
    rate(benchmark, calls * batch)


@needs_log
@pytest.mark.parametrize("batch", BATCHES)
def test_append_lz4(benchmark: Any, tmp_path: Path, batch: int) -> None:
    entries = [b"%d: a line of text that is like other lines of text " % i * 20 for i in range(batch)]

    def append() -> None:
        for _ in range(CALLS):
            log.append_many(entries).wait()

    with open_log(tmp_path / "log", compression="lz4") as log:
        benchmark.pedantic(append, rounds=5, warmup_rounds=1)
    rate(benchmark, CALLS * batch)


@needs_log
@pytest.mark.parametrize("producers", PRODUCERS)
def test_durable_append_by_threads(benchmark: Any, tmp_path: Path, producers: int) -> None:
    entries, calls = entries_of(1024, 1), max(1, CALLS // producers)

    def produce(_: int) -> None:
        for _ in range(calls):
            log.append_many(entries).wait()

    with open_log(tmp_path / "log", durability="fsync") as log, ThreadPoolExecutor(producers) as threads:
        benchmark.pedantic(lambda: list(threads.map(produce, range(producers))), rounds=5, warmup_rounds=1)
    rate(benchmark, calls * producers)


@needs_log
@pytest.mark.parametrize("producers", PRODUCERS)
def test_durable_append_by_tasks(benchmark: Any, tmp_path: Path, producers: int) -> None:
    entries, calls = entries_of(1024, 1), max(1, CALLS // producers)

    async def produce() -> None:
        for _ in range(calls):
            await log.append_many(entries)

    async def all_of_them() -> None:
        await asyncio.gather(*(produce() for _ in range(producers)))

    with open_log(tmp_path / "log", durability="fsync") as log, asyncio.Runner() as runner:
        benchmark.pedantic(lambda: runner.run(all_of_them()), rounds=5, warmup_rounds=1)
    rate(benchmark, calls * producers)


@needs_log
def test_sequential_read(benchmark: Any, filled: Any) -> None:
    read = benchmark(lambda: sum(1 for entry in filled.read(from_index=1) if bytes(entry.payload)))
    assert read == READ_ENTRIES
    rate(benchmark, READ_ENTRIES)


@needs_log
def test_read_of_1_mib_behind_the_cache(benchmark: Any, filled: Any) -> None:
    read = benchmark(lambda: sum(1 for _ in filled.read(from_index=1, max_bytes=1 << 20)))
    assert 0 < read < READ_ENTRIES


@needs_log
def test_random_read(benchmark: Any, filled: Any) -> None:
    picks = random.Random(1).choices(range(1, READ_ENTRIES + 1), k=500)
    found = benchmark(lambda: [next(iter(filled.read(from_index=i, max_bytes=1))).op_id.index for i in picks])
    assert found == picks
    rate(benchmark, len(picks))


@needs_log
def test_opening_after_a_clean_close(benchmark: Any, tmp_path: Path) -> None:
    with closing(open_peer(tmp_path / "log")) as peer:
        peer.grouped([entries_of(16384, 64)] * 64, 64)
        last = peer.log.last.index

    def reopen() -> int:
        with open_log(tmp_path / "log") as log:
            return int(log.last.index)

    assert benchmark.pedantic(reopen, rounds=10, warmup_rounds=1) == last


def test_cache_insert_and_evict(benchmark: Any) -> None:
    log_cache = pytest.importorskip("kudu_storage._native.log_cache", reason="the log cache is not built")
    messages = log_cache.LogCache(64 << 20)
    batch, inserted = entries_of(1024, 128), 0

    def insert_and_evict() -> None:
        nonlocal inserted
        for _ in range(100):
            messages.put_many(inserted + 1, batch)
            inserted += len(batch)
            messages.evict(inserted - CACHE_WINDOW)

    benchmark.pedantic(insert_and_evict, rounds=20, warmup_rounds=1)
    assert len(messages) == CACHE_WINDOW
    rate(benchmark, 100 * len(batch))
