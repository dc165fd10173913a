"""One measured piece of work in a process of its own: `work.py JSON` does it and answers one JSON object.

    work.py '{"job": "append", "system": "lmdb", "folder": ..., ...}'
    work.py --c LIBRARY ARGUMENT...     calls main() of a C loop that needs an interpreter around it (the wheel's LZ4)

CPU is user + system of this process, all threads, from the first append to the end of close(). Imports, opening, making
the pool and a few calls to warm up come before.
"""
from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peers import PEERS, KuduLog, Peer, make_batches

WARM_UP_CALLS_MAX = 32

Spec = dict[str, Any]
Result = dict[str, Any]


class Clock:
    """CPU and wall from its making on."""

    def __init__(self) -> None:
        gc.collect()
        self.cpu, self.wall = self._cpu(), time.perf_counter()

    @staticmethod
    def _cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def result(self, entries: int, **more: Any) -> Result:
        wall, cpu = time.perf_counter() - self.wall, self._cpu() - self.cpu
        return {"entries": entries, "wall_s": wall, "cpu_s": cpu, "entries_per_s": entries / wall, **more}


def read_pool(spec: Spec) -> list[bytes]:
    data = Path(spec["pool"]).read_bytes()
    size = spec["entry_bytes"]
    return [data[at:at + size] for at in range(0, len(data), size)]


def open_peer(spec: Spec) -> Peer:
    return PEERS[spec["system"]](Path(spec["folder"]), spec.get("durable", False), spec.get("compression", "none"))


def append(spec: Spec) -> Result:
    pool, calls, batch = read_pool(spec), spec["calls"], spec["batch"]
    peer = open_peer(spec)
    warm_up_calls = min(WARM_UP_CALLS_MAX, calls // 50 + 1)
    peer.each(make_batches(pool, warm_up_calls, batch))
    batches = make_batches(pool, calls, batch, warm_up_calls * batch)
    clock = Clock()
    if spec["mode"] == "grouped":
        peer.grouped(batches, spec["grouped_calls"])
    else:
        peer.each(batches)
    peer.close()
    return clock.result(calls * batch)


def durable(spec: Spec) -> Result:
    result, samples = asyncio.run(_with_tasks(spec)) if spec["mode"] == "asyncio" else _with_threads(spec)
    if not samples:
        raise RuntimeError("nothing was acknowledged in the time given")
    samples.sort()
    return {**result, "p50_us": samples[len(samples) // 2] * 1e6, "p99_us": samples[len(samples) * 99 // 100] * 1e6}


def _with_threads(spec: Spec) -> tuple[Result, list[float]]:
    peer, pool, samples = open_peer(spec), read_pool(spec), []
    peer.each(make_batches(pool, 4, 1))
    clock = Clock()
    until = clock.wall + spec["seconds"]

    def produce(first: int) -> None:
        for entries in make_batches(pool, 1 << 40, 1, first):
            started = time.perf_counter()
            if started >= until:
                return
            peer.commit(entries)
            samples.append(time.perf_counter() - started)

    if spec["producers"] == 1:
        produce(0)
    else:
        threads = [threading.Thread(target=produce, args=(i << 40,)) for i in range(spec["producers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    result = clock.result(len(samples))
    peer.close()
    return result, samples


async def _with_tasks(spec: Spec) -> tuple[Result, list[float]]:
    """A program without an awaitable is run as asyncio programs run such: in a pool of as many threads as tasks."""
    peer, pool, samples = open_peer(spec), read_pool(spec), []
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(spec["producers"])

    def submit(entries: list[bytes]) -> Any:
        return loop.run_in_executor(threads, peer.commit, entries)

    commit: Callable[[list[bytes]], Any] = peer.log.append_many if isinstance(peer, KuduLog) else submit
    await commit(pool[:1])
    clock = Clock()
    until = clock.wall + spec["seconds"]

    async def produce(first: int) -> None:
        for entries in make_batches(pool, 1 << 40, 1, first):
            started = time.perf_counter()
            if started >= until:
                return
            await commit(entries)
            samples.append(time.perf_counter() - started)

    await asyncio.gather(*(produce(i << 40) for i in range(spec["producers"])))
    result = clock.result(len(samples))
    threads.shutdown()
    peer.close()
    return result, samples


def fill(spec: Spec) -> Result:
    """Entries for others to read. "killed": the log is not closed."""
    peer = open_peer(spec)
    clock = Clock()
    batches = make_batches(read_pool(spec), spec["calls"], spec["batch"])
    if spec["keep_batches"]:
        peer.each(batches)      # calls that wait for each other are never joined: a batch stays a batch
    else:
        peer.grouped(batches, 64)
    result = clock.result(spec["calls"] * spec["batch"])
    if spec.get("mode") == "killed":
        answer_and_die(result)
    peer.close()
    return result


def scan(spec: Spec) -> Result:
    """system kudu-native: the segments by the native scanner. kudu-objects: what Log.read() gives. Else bytes."""
    if spec["system"] == "kudu-native":
        return scan_segments(Path(spec["folder"]))
    warm_up(spec["system"])
    peer = open_peer({**spec, "system": spec["system"].removesuffix("-objects")})
    clock = Clock()
    if spec["system"] == "kudu-objects":
        assert isinstance(peer, KuduLog)
        count = peer.scan_objects()
    else:
        count = peer.scan()
    result = clock.result(count)
    peer.close()
    return result


def warm_up(system: str) -> None:
    """What a process pays once, at its first log, is not what a log costs: imports, message schemas."""
    if system.startswith("kudu"):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):      # made, then recovered
                peer = KuduLog(Path(folder), False, "none")
                peer.commit([b"warm-up"])
                peer.scan()
                peer.close()


def scan_segments(folder: Path) -> Result:
    from kudu_storage.wal.reader import list_segments, open_segment

    warm_up("kudu")
    clock, batches = Clock(), 0
    for file in list_segments(folder):
        with open_segment(file.path) as segment:
            for chunk in segment.scan():
                batches += len(chunk)
    return clock.result(batches)


def random_reads(spec: Spec) -> Result:
    picks = [index + 1 for index in memoryview(Path(spec["picks"]).read_bytes()).cast("I")]
    peer = open_peer(spec)
    peer.get_each(picks[:100])
    clock = Clock()
    total = peer.get_each(picks)
    result = clock.result(len(picks))
    assert total == len(picks) * spec["entry_bytes"], total
    peer.close()
    return result


def open_log(spec: Spec) -> Result:
    """Log.open alone. "killed": appends something afterwards and dies, so that the next round finds a log like this."""
    warm_up("kudu")
    clock = Clock()
    peer = open_peer(spec)
    result = clock.result(1)
    if spec["mode"] == "killed":
        peer.commit([b"appended before the process is killed"])
        answer_and_die(result)
    peer.close()
    return result


def cache(spec: Spec) -> Result:
    """Insert `batch` messages a call, then evict what is older than `window`. The messages are made before: a cache
    copies them, so that the same ones may come again."""
    pool, batch, window, calls = read_pool(spec), spec["batch"], spec["window"], spec["calls"]
    made = list(make_batches(pool, len(pool) // batch, batch))
    batches = (made[number % len(made)] for number in range(calls))
    system = spec["system"]
    if system == "kudu":
        from kudu_storage._native.log_cache import LogCache

        bytes_max = (window + 4 * batch) * (spec["entry_bytes"] + 512)
        messages = LogCache(bytes_max)
        put_many, evict = messages.put_many, messages.evict
        clock = Clock()
        for number, entries in enumerate(batches):
            put_many(1 + number * batch, entries)
            evict((number + 1) * batch - window)
        evict(calls * batch)
    elif system == "dict":
        held: dict[int, bytes] = {}
        first = 0
        clock = Clock()
        for number, entries in enumerate(batches):
            held.update(zip(range(number * batch, (number + 1) * batch), entries, strict=True))
            for index in range(first, first := max(first, (number + 1) * batch - window)):
                del held[index]
    else:
        clock = Clock()
        for _ in enumerate(batches):
            pass
    return clock.result(calls * batch)


def memory(spec: Spec) -> Result:
    """With default options: appends and a full read; how far the process's peak rises."""
    pool = read_pool(spec)
    before, clock = peak_rss_bytes(), Clock()
    peer = KuduLog.with_defaults(Path(spec["folder"]))
    peer.grouped(make_batches(pool, spec["calls"], spec["batch"]), spec["grouped_calls"])
    count = peer.scan()
    peer.close()
    return clock.result(count, rise_mib=(peak_rss_bytes() - before) / (1 << 20))


def peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def answer_and_die(result: Result) -> None:
    print(json.dumps(result), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def host_c(arguments: list[str]) -> int:
    raw = [os.fsencode(argument) for argument in arguments]
    main = ctypes.CDLL(arguments[0]).main
    return int(main(len(raw), (ctypes.c_char_p * (len(raw) + 1))(*raw, None)))


JOBS: dict[str, Callable[[Spec], Result]] = {
    "append": append, "durable": durable, "fill": fill, "scan": scan, "random": random_reads, "open": open_log,
    "scan-segments": lambda spec: scan_segments(Path(spec["folder"])), "cache": cache, "memory": memory,
}

if __name__ == "__main__":
    if sys.argv[1] == "--c":
        sys.exit(host_c(sys.argv[2:]))
    task = json.loads(sys.argv[1])
    print(json.dumps(JOBS[task["job"]](task)))
