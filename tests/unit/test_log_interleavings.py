"""Interleavings of the log that lose nothing, give back nothing void and leave nobody waiting."""
from __future__ import annotations

import asyncio
import copy
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_entries import EntryIterator
from kudu_storage.errors import (
    Collected,
    InvalidArgument,
    KuduStorageError,
    LogBackpressure,
    LogClosed,
    LogPoisoned,
    NoSpace,
    NotYetWritten,
)
from kudu_storage.protos import message_class


def _operation(term: int, index: int, payload: bytes = b"") -> Any:
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=1, op_type=1)
    message.id.term, message.id.index = term, index
    message.noop_request.payload_for_tests = payload
    return message


# -- who writes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_waiter_does_not_write_for_others_for_ever(tmp_path: Path, durability: str) -> None:
    returned, bound = threading.Event(), 20_000_000
    appended = 0
    with Log.open(tmp_path, create=True, durability=durability, compression="none", segment_size="1GiB") as log:
        def produce() -> None:
            nonlocal appended
            batch = [b""] * 100
            while appended < bound and not returned.is_set():
                try:
                    log.append_many(batch)
                    appended += 100
                except LogBackpressure:
                    pass

        producer = threading.Thread(target=produce)
        producer.start()
        for _ in range(20):
            log.append(b"mine").wait()
        returned.set()
        producer.join()
    assert appended < bound


def test_more_busy_logs_than_threads_are_all_served(tmp_path: Path) -> None:
    async def main() -> None:
        logs = [Log.open(tmp_path / str(i), create=True, durability="os") for i in range(12)]
        acknowledged = [0] * len(logs)

        async def produce(number: int) -> None:
            # Whoever is served first goes on until all were served.
            while not all(acknowledged) and acknowledged[number] < 20_000:
                await logs[number].append(b"x")
                acknowledged[number] += 1

        await asyncio.gather(*(produce(i) for i in range(len(logs)) for _ in range(2)))
        assert max(acknowledged) < 20_000
        for log in logs:
            log.close()

    asyncio.run(main())


# -- truncation --------------------------------------------------------------------------------------------------------
def test_a_token_awaited_while_the_log_is_truncated_is_settled(tmp_path: Path) -> None:
    async def main() -> None:
        with Log.open(tmp_path, create=True) as log:
            log.append_many([b"a", b"b", b"c"]).wait()
            token = log.append(b"d")
            waiting = asyncio.ensure_future(_await(token))
            await asyncio.sleep(0)
            log.truncate_after(2)
            await asyncio.wait_for(waiting, 20)

    asyncio.run(main())


async def _await(token: Any) -> None:
    await token


def test_closing_waits_for_a_truncation(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk, compression="none")
    for i in range(10):
        log.append(bytes([i])).wait()
    disk.hold("sync_dir")
    cutter = threading.Thread(target=log.truncate_after, args=(5,))
    cutter.start()
    while not disk.waiting:
        pass
    closer = threading.Thread(target=log.close)
    closer.start()
    closer.join(0.2)
    held = False
    try:
        Log.open(tmp_path).close()
    except KuduStorageError:
        held = True
    disk.release()
    cutter.join()
    closer.join()
    assert held
    with Log.open(tmp_path) as again:
        assert again.last.index == 5


@pytest.mark.parametrize("cache_size", [0, "16MiB"])
def test_a_reader_does_not_go_on_in_another_history(tmp_path: Path, cache_size: Any) -> None:
    with Log.open(tmp_path, create=True, compression="none", cache_size=cache_size, segment_size="16KiB") as log:
        for _ in range(60):
            log.append(b"old" + bytes(1000))
        log.flush()
        entries = log.read(1)
        first = [bytes(next(entries))[:3] for _ in range(20)]
        log.truncate_after(10)
        for _ in range(60):
            log.append(b"new" + bytes(1000))
        log.flush()
        seen = first
        with pytest.raises((NotYetWritten, Collected)):
            for entry in entries:
                seen.append(bytes(entry)[:3])
        assert b"new" not in seen


def test_a_reader_before_the_cut_goes_on_behind_it(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression="none", cache_size=0, segment_size="16KiB") as log:
        for _ in range(60):
            log.append(b"old" + bytes(1000))
        log.flush()
        entries = log.read(1)
        seen = [bytes(next(entries))[:3] for _ in range(20)]
        log.truncate_after(50)
        for _ in range(20):
            log.append(b"new" + bytes(1000))
        log.flush()
        seen += [bytes(e)[:3] for e in entries]
        assert seen == [b"old"] * 50 + [b"new"] * 10


# -- replacement -------------------------------------------------------------------------------------------------------
def test_a_replacement_that_found_no_space_is_never_read(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk, compression="none") as log:
        for i in range(1, 11):
            log.append_replicate(_operation(1, i, b"old")).wait()
        disk.fail("write", 1, errno.ENOSPC)
        with pytest.raises(NoSpace):
            log.append_replicate(_operation(2, 5, b"never"), replace=True).wait()
        log.append_replicate(_operation(2, 11, b"new")).wait()
        assert [bytes(e) for e in log.read()] == [b"old"] * 10 + [b"new"]
        assert bytes(log.get(5)) == b"old"


# -- other faults ------------------------------------------------------------------------------------------------------
def test_a_failed_sync_of_the_folder_in_a_collection_poisons_the_log(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk, compression="none", segment_size="16KiB")
    for _ in range(60):
        log.append(bytes(1000)).wait()
    disk.fail("sync_dir", 1, errno.EIO)
    with pytest.raises(LogPoisoned):
        log.gc()
    with pytest.raises(LogPoisoned):
        log.append(b"x")
    with pytest.raises(LogPoisoned):
        log.close()


def test_a_synced_interval_log_is_durable_after_a_full_disk(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk, durability="interval:1000s", compression="none") as log:
        log.append(b"kept").wait()
        disk.fail("write", 1, errno.ENOSPC)
        with pytest.raises(NoSpace):
            log.append(b"refused").wait()
        assert log.durable.index == 1           # the cut was synced, and all before it


# -- misuse ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", [2**70, -(2**70), 2**63, -1, 0])
def test_an_absurd_index_is_a_typed_error(tmp_path: Path, index: int) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append(b"x").wait()
        with pytest.raises((NotYetWritten, InvalidArgument)):
            log.get(index)


def test_a_limit_of_bytes_beyond_all_numbers_is_no_limit(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"a", b"b"]).wait()
        assert [bytes(e) for e in log.read(1, max_bytes=2**70)] == [b"a", b"b"]


@pytest.mark.parametrize("options", [{"queue_size": 2**70}, {"cache_size": 2**70}, {"tablet_id": "é"},
                                     {"tablet_id": "a" * 9_000_000}, {"durability": "interval:9999999999999999s"}])
def test_absurd_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Log.open(tmp_path / "log", create=True, **options)


@pytest.mark.parametrize("compression", ["none", "lz4", "snappy", "zlib"])
def test_what_compresses_best_is_read_back(tmp_path: Path, compression: str) -> None:
    with Log.open(tmp_path, create=True, compression=compression, cache_size=0) as log:
        log.append(bytes(3 << 20)).wait()
    with Log.open(tmp_path) as log:
        assert [len(e) for e in log.read()] == [3 << 20]


def test_objects_that_no_log_made_are_errors_not_crashes() -> None:
    from kudu_storage._native.log_entries import CachedBatch
    from kudu_storage._native.log_lookup import SegmentPlaces
    from kudu_storage._native.log_writer import Append, LogAppender

    with pytest.raises(InvalidArgument):
        Append().wait()
    with pytest.raises(InvalidArgument):
        assert Append().done
    with pytest.raises(LogClosed):
        LogAppender().append(b"")
    with pytest.raises(LogClosed):
        LogAppender().append_many([b""])
    with pytest.raises(InvalidArgument):
        assert CachedBatch().last_index
    before = os.fstat(0)
    with pytest.raises(TypeError):
        SegmentPlaces()  # type: ignore[call-arg]
    assert os.fstat(0) == before


def test_a_log_is_not_copied(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log, pytest.raises(TypeError):
        copy.copy(log)


def test_an_iterator_that_is_at_work_refuses_a_second_thread() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def source(index: int) -> list[Any]:
        inside.set()
        go_on.wait()
        raise Collected("gone")

    entries = EntryIterator(source, 1, 10)
    def read() -> None:
        with pytest.raises(Collected):
            next(entries)

    first = threading.Thread(target=read)
    first.start()
    inside.wait()
    with pytest.raises(InvalidArgument):
        next(entries)
    go_on.set()
    first.join()
