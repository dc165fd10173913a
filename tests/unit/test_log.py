"""The log, as its users call it."""
from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kudu_storage import Log, LogCache
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_core import pool_threads
from kudu_storage.common.opid import OpId
from kudu_storage.errors import (
    Collected,
    InvalidArgument,
    LogClosed,
    LogLocked,
    LogPoisoned,
    NoSpace,
    NotFound,
    NotYetWritten,
)
from kudu_storage.wal.verify import verify

CODECS = ["none", "lz4", "snappy", "zlib"]


def payloads(log: Log, start: int | None = None) -> list[bytes]:
    return [bytes(e.payload) for e in log.read(start)]


@pytest.mark.parametrize("codec", CODECS)
def test_what_was_appended_is_read_from_cache_from_disk_and_after_reopening(codec: str, tmp_path: Path) -> None:
    entries = [b"%d" % i * (i % 50) for i in range(500)]
    with Log.open(tmp_path / "log", create=True, compression=codec, segment_size="16KiB") as log:
        token = log.append(entries[0])
        assert (token.first, token.last) == (OpId(1, 1), OpId(1, 1))
        log.append_many(entries[1:300]).wait(timeout=30)
        for entry in entries[300:]:
            token = log.append(entry)
        token.wait(timeout=30)
        assert log.durable == log.last == OpId(1, 500)
        assert payloads(log) == entries
    for cache in ("16MiB", 0):
        with Log.open(tmp_path / "log", compression=codec, cache_size=cache) as log:
            assert log.last == OpId(1, 500)
            assert payloads(log) == entries
            assert payloads(log, 437) == entries[436:]
    assert verify(tmp_path / "log").problems == ()


def test_reading_below_at_and_above_the_ends_has_defined_answers(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        assert list(log.read(from_index=1)) == []
        assert (log.last, log.durable) == (OpId(0, 0), OpId(0, 0))
        log.append_many([b"a", b"b", b"c"]).wait()
        assert payloads(log, 0) == [b"a", b"b", b"c"]
        assert list(log.read(from_index=4)) == []
        with pytest.raises(NotYetWritten):
            log.read(from_index=5)
        with pytest.raises(InvalidArgument):
            log.read(from_index=-1)
        assert len(list(log.read(1, max_bytes=1))) == 1


def test_collection_keeps_what_an_anchor_needs_and_names_it(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none") as log:
        for _ in range(100):
            log.append(bytes(1000)).wait()
        with log.anchor(index=3, owner="snapshot-7"):
            held = log.gc()
            assert held.segments == 0
            assert held.blocked_by is not None and "snapshot-7" in held.blocked_by
            assert log.gc_plan().blocked_by == held.blocked_by
        plan = log.gc_plan()
        with log.anchor(index=1, owner="a late one"):       # a plan promises nothing
            assert log.gc_plan().remove == ()
        freed = log.gc()
        assert freed.segments > 0 and freed.bytes > 0
        assert (freed.segments, freed.bytes) == (len(plan.remove), plan.bytes)
        with pytest.raises(Collected):
            log.read(from_index=1)
        assert len(payloads(log)) == 101 - log.first_index
    with Log.open(tmp_path) as log:
        assert log.last == OpId(1, 100)


@pytest.mark.parametrize("index", [0, 1, 4, 5, 17, 99])
def test_truncated_entries_do_not_come_back(index: int, tmp_path: Path) -> None:
    entries = [b"%03d" % i * 100 for i in range(100)]
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        for first in range(0, 100, 10):
            log.append_many(entries[first:first + 10]).wait()
        log.truncate_after(index)
        assert payloads(log) == entries[:index]
        assert log.last.index == index
        log.append(b"new").wait()
        assert payloads(log) == [*entries[:index], b"new"]
    with Log.open(tmp_path) as log:
        assert payloads(log) == [*entries[:index], b"new"]
    assert verify(tmp_path).problems == ()


def test_a_torn_tail_is_cut_at_the_last_whole_entry(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression="none") as log:
        log.append(b"kept").wait()
        log.append(b"torn").wait()
    path = tmp_path / "wal-000000001"
    whole = path.read_bytes()
    path.write_bytes(whole[:whole.index(b"torn") + 2])
    with Log.open(tmp_path) as log:
        assert payloads(log) == [b"kept"]
        log.append(b"more").wait()
    assert verify(tmp_path).problems == ()


def test_wrong_index_chunks_do_no_harm(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        for i in range(300):
            log.append(b"%d" % i * 30).wait()
        expected = payloads(log)
    for path in tmp_path.glob("index.*"):
        path.write_bytes(os.urandom(24 * 400))
    with Log.open(tmp_path, cache_size=0) as log:
        assert [payloads(log, i)[0] for i in range(1, 301, 7)] == expected[::7]


def test_one_writer_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Log.open(tmp_path / "none")
    with Log.open(tmp_path, create=True), pytest.raises(LogLocked):
        Log.open(tmp_path)
    with Log.open(tmp_path, create=True) as log:
        pass
    with pytest.raises(LogClosed):
        log.append(b"late")


def test_sixty_four_tasks_share_groups(tmp_path: Path) -> None:
    async def main() -> dict[str, int]:
        async with await Log.aopen(tmp_path, create=True, segment_size="64KiB") as log:
            async def task(number: int) -> None:
                for step in range(20):
                    token = await log.append(b"%d-%d" % (number, step))
                    assert token.done

            await asyncio.gather(*(task(i) for i in range(64)))
            assert len(payloads(log)) == 1280
            return log.stats()

    assert asyncio.run(main())["groups"] < 640


def test_threads_append_and_wait_in_order(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="64KiB") as log:
        def work(number: int) -> None:
            for step in range(50):
                log.append(b"%d-%d" % (number, step)).wait(timeout=60)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(payloads(log)) == sorted(b"%d-%d" % (i, s) for i in range(8) for s in range(50))
    assert pool_threads()[0] <= 4


def test_a_failed_sync_poisons_the_log(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk)
    log.append(b"good").wait()
    disk.fail("sync", 1, 5)
    token = log.append(b"lost")
    with pytest.raises(LogPoisoned):
        token.wait(timeout=10)
    with pytest.raises(LogPoisoned):
        log.append(b"more")
    with pytest.raises(LogPoisoned):
        log.close()
    with Log.open(tmp_path) as again:
        assert payloads(again)[0] == b"good"


def test_a_full_disk_fails_what_waits_and_then_goes_on(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk) as log:
        log.append(b"before").wait()
        disk.fail("write", 1, 28, partial=7)
        token = log.append(b"x" * 1000)
        with pytest.raises(NoSpace):
            token.wait(timeout=10)
        assert log.last == OpId(1, 1)
        assert log.append(b"after").wait().last == OpId(1, 2)
        assert payloads(log) == [b"before", b"after"]
    with Log.open(tmp_path) as log:
        assert payloads(log) == [b"before", b"after"]
    assert verify(tmp_path).problems == ()


def test_every_acknowledged_entry_survives_sigkill(tmp_path: Path) -> None:
    script = """
import asyncio, os, sys
from kudu_storage import Log
async def main():
    log = await Log.aopen(sys.argv[1], create=True, segment_size="64KiB")
    async def task(i):
        while True:
            token = await log.append(b"%d" % i)
            os.write(1, b"%d\\n" % token.last_index)
    await asyncio.gather(*(task(i) for i in range(64)))
asyncio.run(main())
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(500)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().split(b"\n")[:-1] if line]
    child.wait()
    child.stdout.close()
    with Log.open(tmp_path / "log") as log:
        assert log.last.index >= max(acknowledged)
        assert [e.index for e in log.read()] == list(range(1, log.last.index + 1))


def test_entries_nobody_waited_for_are_there_after_a_normal_exit(tmp_path: Path) -> None:
    script = "import sys; from kudu_storage import Log; log = Log.open(sys.argv[1], create=True); log.append(b'left')"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "log")], check=True)
    with Log.open(tmp_path / "log") as log:
        assert payloads(log) == [b"left"]


def test_the_synchronous_log_needs_no_asyncio(tmp_path: Path) -> None:
    script = ("import sys; from kudu_storage import Log\nwith Log.open(sys.argv[1], create=True) as log:\n"
              "    log.append(b'x').wait()\nassert 'asyncio' not in sys.modules")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "log")], check=True)


def test_the_cache_is_bounded_and_may_have_holes() -> None:
    cache = LogCache(10_000)
    for index in range(1, 101):
        cache.put(index, bytes(1000))
    assert cache.stats()["bytes"] <= 10_000
    cache.check()
    with pytest.raises(Collected):
        cache.read(1)
    with pytest.raises(NotYetWritten):
        cache.read(101)
    cache.put(200, b"later")
    assert cache.read(200) == [(200, b"later")]
    cache.put(100, b"again")
    assert cache.read(100) == [(100, b"again")]
    with pytest.raises(NotYetWritten):
        cache.read(200)
    cache.evict(100)
    assert len(cache) == 0
    cache.check()
