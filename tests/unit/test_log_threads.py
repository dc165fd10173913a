"""Readers against the writer, collection and truncation; many appenders. The thread sanitizer runs these too."""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from racing import DEADLINE_S, together

from kudu_storage import Log
from kudu_storage.errors import Collected, LogBackpressure, LogClosed, NotYetWritten
from kudu_storage.wal.verify import verify

CODECS = ["none", "lz4", "snappy", "zlib"]


def payload_of(index: int) -> bytes:
    return b"%d." % index * (index % 23 + 1)


def append_retrying(log: Log, payload: bytes) -> int:
    while True:
        try:
            return log.append(payload).first_index
        except LogBackpressure:
            log.flush()


def assert_right(log: Log, start: int | None) -> int:
    """Every entry is the one with its index, without holes. Returns how many were read."""
    count, before = 0, None
    for entry in log.read(start):
        assert before is None or entry.index == before + 1
        assert bytes(entry) == payload_of(entry.index), entry
        before, count = entry.index, count + 1
    return count


@pytest.mark.parametrize("codec", CODECS)
def test_appenders_lose_nothing_and_each_keeps_its_order(codec: str, tmp_path: Path) -> None:
    threads, steps = 6, 150
    with Log.open(tmp_path, create=True, compression=codec, segment_size="32KiB", queue_size="16KiB") as log:
        def work(number: int) -> Callable[[], None]:
            def run() -> None:
                last = 0
                for step in range(steps):
                    while True:
                        try:
                            token = log.append(b"%d-%d" % (number, step) * 10)
                            break
                        except LogBackpressure:
                            log.flush()
                    assert token.first_index > last
                    last = token.first_index
                    if step % 5 == number % 5:
                        assert token.wait(timeout=DEADLINE_S).done
            return run

        together(*(work(number) for number in range(threads)))
        log.flush()
        seen: dict[int, int] = {}
        for index, entry in enumerate(log.read(), 1):
            number, step = map(int, bytes(entry)[:len(entry) // 10].split(b"-"))
            assert entry.index == index and step == seen.get(number, -1) + 1
            seen[number] = step
        assert seen == dict.fromkeys(range(threads), steps - 1)
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize("cache", [0, 4000, 1 << 20])
@pytest.mark.parametrize("durability", ["fsync", "interval:1ms", "os"])
def test_readers_race_the_writer_and_the_collector(cache: int, durability: str, tmp_path: Path) -> None:
    count = 3000
    with Log.open(tmp_path, create=True, cache_size=cache, segment_size="16KiB", durability=durability) as log:
        done = threading.Event()

        def write() -> None:
            for index in range(1, count + 1):
                assert append_retrying(log, payload_of(index)) == index
                if index % 50 == 0:
                    log.flush(DEADLINE_S)
            log.flush(DEADLINE_S)
            done.set()

        def read_all() -> None:
            while not done.is_set():
                with contextlib.suppress(Collected):        # the collector was faster
                    assert_right(log, None)

        def read_points() -> None:
            step = 0
            while not done.is_set():
                first, last = log.first_index, int(log.stats()["written_index"])
                step += 1
                try:
                    for entry in log.read(first + step * 7919 % max(last - first + 1, 1), max_bytes=500):
                        assert bytes(entry) == payload_of(entry.index)
                except Collected:
                    pass
                except NotYetWritten:
                    assert last == 0

        def collect() -> None:
            while not done.is_set():
                first = log.first_index
                with log.anchor(first, owner="test"):
                    log.gc()
                    assert log.first_index == first         # this thread is the only one that collects
                log.gc()
                log.anchors.check()

        def follow() -> None:
            index = 0
            try:
                for entry in log.tail(1 if log.first_index == 1 else None, timeout=DEADLINE_S):
                    assert bytes(entry) == payload_of(entry.index) and entry.index > index
                    index = entry.index
                    if index == count:
                        return
            except Collected:
                assert log.first_index > index

        together(write, read_all, read_points, collect, follow)
        assert log.last.index == count
        assert assert_right(log, None) == count + 1 - log.first_index
    assert verify(tmp_path).problems == ()


def test_readers_race_truncations(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, cache_size=2000, segment_size="16KiB") as log:
        done = threading.Event()

        def write() -> None:
            for turn in range(25):
                first = log.last.index + 1
                for index in range(first, first + 120):
                    append_retrying(log, payload_of(index))
                log.flush(DEADLINE_S)
                log.truncate_after(log.last.index - turn * 3 % 60)
            done.set()

        def read() -> None:
            while not done.is_set():
                with contextlib.suppress(Collected):        # what was to be read was cut off
                    assert_right(log, None)

        def look() -> None:
            while not done.is_set():
                assert log.first_index == 1
                assert "poisoned" in log.stats()
                assert log.durable.index >= 0

        together(write, read, look)
        assert assert_right(log, None) == log.last.index
    assert verify(tmp_path).problems == ()


def test_closing_races_appends_waits_and_reads(tmp_path: Path) -> None:
    for turn in range(15):
        folder = tmp_path / str(turn)
        log = Log.open(folder, create=True, segment_size="16KiB", cache_size=1000)
        acknowledged: list[int] = []
        some = threading.Event()

        def append() -> None:
            try:
                while True:
                    token = log.append(b"x" * 50)       # noqa: B023 - one turn at a time
                    token.wait(timeout=DEADLINE_S)
                    acknowledged.append(token.last_index)       # noqa: B023
                    some.set()          # noqa: B023
            except LogClosed:
                pass

        def read() -> None:
            try:
                while True:
                    for _ in log.read():        # noqa: B023
                        pass
            except LogClosed:
                pass

        def close() -> None:
            some.wait(DEADLINE_S)       # noqa: B023
            log.close()         # noqa: B023

        together(append, append, read, close)
        with Log.open(folder) as again:
            assert again.last.index >= max(acknowledged)
            assert len(list(again.read())) == again.last.index


def test_many_logs_share_the_pool(tmp_path: Path) -> None:
    logs = [Log.open(tmp_path / str(i), create=True, segment_size="16KiB",
                     durability=["fsync", "os", "interval:1ms"][i % 3]) for i in range(12)]

    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            for step in range(120):
                for log in logs:
                    append_retrying(log, b"%d" % step)
                if step % 10 == number:
                    logs[number].flush(DEADLINE_S)
        return run

    together(*(work(number) for number in range(4)))
    for log in logs:
        log.close()
    for i in range(len(logs)):
        with Log.open(tmp_path / str(i)) as log:
            assert log.last.index == 480
