"""A log that nobody refers to any more is written, synced, closed and let go of at once: no collector is needed."""
from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.wal.reader import list_segments, open_segment


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_parts(log: Log) -> None:
    assert len(list(log.read())) == len(list(log.payloads())) == 20
    for index in range(1, 21):
        log.get(index)
    iterator = log.read(3)
    next(iterator)          # and is dropped in the middle


def follow(log: Log) -> None:
    for _ in log.tail(1, timeout=0):
        pass
    follower = log.tail(1)
    next(follower)


def cut(log: Log) -> None:
    log.truncate_after(18)
    log.append_many([b"x", b"y"]).wait()


def replace(log: Log) -> None:
    log.append_replicate(replicate(2, 20, payload=b"new"), replace=True).wait()
    log.append_commit(commit(2, 20))


def hold(log: Log) -> None:
    with log.anchor(1, "somebody"):
        log.gc()
    log.anchor(5, "who never lets go")
    repr(log), log.stats(), log.first_index


def await_token(log: Log) -> None:
    async def main() -> None:
        await log.append_replicate(replicate(3, 21))
        log.truncate_after(20)

    asyncio.run(main())


def nothing(log: Log) -> None:
    pass


@pytest.mark.parametrize("use", [nothing, read_parts, follow, cut, replace, hold, await_token])
@pytest.mark.parametrize("cache_size", [0, 1 << 20])
def test_the_last_reference_closes_the_log_at_once(use: Callable[[Log], None], cache_size: int,
                                                   tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, segment_size="16KiB", cache_size=cache_size, disk=disk)
    log.append_many([b"%d" % i for i in range(10)]).wait()
    log.append_many([bytes(2000)] * 10).wait()
    use(log)
    log.append(b"not waited for")
    last, synced, gone = log.last, disk.attempts("sync"), weakref.ref(log)
    del log
    assert gone() is None
    assert disk.attempts("sync") > synced
    with open_segment(list_segments(tmp_path)[-1].path) as segment:
        assert segment.closed
    with Log.open(tmp_path) as again:           # nobody has the folder
        assert again.last == last
        assert bytes(again.get(last.index)) == b"not waited for"


@pytest.mark.parametrize("cache_size", [0, 1 << 20])
def test_a_log_stays_while_it_is_read(cache_size: int, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        for _ in range(40):
            log.append(bytes(1000)).wait()
    iterator = Log.open(tmp_path, cache_size=cache_size).read()
    assert [e.index for e in iterator] == [*range(1, 41)]
    with Log.open(tmp_path):                    # at its end the iterator let go of the log
        pass
    follower = Log.open(tmp_path).tail(timeout=0)
    assert [e.index for e in follower] == [*range(1, 41)]
    with Log.open(tmp_path):
        pass
    entry = next(Log.open(tmp_path).read(7))    # an entry keeps its bytes, not the log
    with Log.open(tmp_path) as log:
        assert bytes(entry) == bytes(log.get(7))
