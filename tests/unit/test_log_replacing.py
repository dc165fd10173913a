"""Replacing operations while they are read: what readers see changes when the replacement is written, not before."""
from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from racing import DEADLINE_S, together
from typed_entries import replicate

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_voids import Voids
from kudu_storage.common.opid import OpId
from kudu_storage.errors import Collected, NoSpace, NotYetWritten, WaitTimeout

OLD = [b"old%d" % i for i in range(1, 21)]
NEVER = 2**63 - 1


@contextlib.contextmanager
def held(disk: RecordingDisk, kind: str) -> Iterator[None]:
    """Calls of this kind wait within."""
    disk.hold(kind)
    try:
        yield
    finally:
        disk.release()


def old_log(path: Path, disk: RecordingDisk | None = None, **options: Any) -> Log:
    """Twenty operations, one a batch, in more than one segment."""
    log = Log.open(path, create=True, compression="none", segment_size="16KiB", disk=disk, **options)
    for index, payload in enumerate(OLD, 1):
        log.append_replicate(replicate(1, index, payload=payload + bytes(2000))).wait()
    return log


def read(log: Log, start: int = 1) -> list[bytes]:
    return [bytes(e).rstrip(b"\0") for e in log.read(start)]


def replace_from(log: Log, index: int, *payloads: bytes) -> Any:
    return log.append_replicate(*(replicate(2, index + i, payload=p) for i, p in enumerate(payloads)), replace=True)


# -- while it is queued ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_until_the_replacement_is_written_all_see_the_old_operations(cache: int, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with old_log(tmp_path, disk, cache_size=cache) as log:
        assert bytes(log.get(6)).startswith(b"old6")            # from now on its place is known
        entries = log.read(3)
        assert bytes(next(entries)).startswith(b"old3")
        followed = log.tail(1, timeout=0)
        assert [next(followed).index for _ in range(10)] == list(range(1, 11))
        with held(disk, "write"):
            token = replace_from(log, 5, b"new5", b"new6")
            while not disk.waiting:         # a thread of the pool writes it, not one of the waits below
                os.sched_yield()
            assert not token.done
            assert (log.last, log.durable) == (OpId(2, 6), OpId(1, 20))
            assert read(log) == OLD
            assert [bytes(log.get(i)).rstrip(b"\0") for i in range(1, 21)] == OLD
            assert [bytes(e).rstrip(b"\0") for e in entries] == OLD[3:]
            assert [e.index for e in followed] == list(range(11, 21))
            with pytest.raises(NotYetWritten):
                log.read(22)
        token.wait()
        assert read(log) == [*OLD[:4], b"new5", b"new6"]
        assert [bytes(log.get(i)) for i in (5, 6)] == [b"new5", b"new6"]
        with pytest.raises(NotYetWritten):
            log.get(7)


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_a_replacement_that_found_no_space_leaves_the_old_operations_to_all(cache: int, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with old_log(tmp_path, disk, cache_size=cache) as log:
        entries, followed = log.read(1), log.tail(1, timeout=0)
        for _ in range(10):
            next(entries)
            next(followed)
        disk.fail("write", 1, errno.ENOSPC)
        with pytest.raises(NoSpace):
            replace_from(log, 5, b"never").wait()
        assert (log.last, log.durable) == (OpId(1, 20), OpId(1, 20))
        assert read(log) == OLD
        assert [bytes(log.get(i)).rstrip(b"\0") for i in range(1, 21)] == OLD
        assert [e.index for e in entries] == [e.index for e in followed] == list(range(11, 21))
        log.append_replicate(replicate(3, 21, payload=b"goes on")).wait()
        assert read(log) == [*OLD, b"goes on"]


# -- once it is written ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_an_iterator_does_not_go_on_in_the_history_that_replaced_what_it_gave(cache: int, tmp_path: Path) -> None:
    with old_log(tmp_path, cache_size=cache) as log:
        ahead, behind = log.read(1), log.read(1)
        given = [bytes(next(ahead)).rstrip(b"\0") for _ in range(10)]
        next(behind)
        replace_from(log, 5, *(b"new%d" % i for i in range(5, 31))).wait()
        with pytest.raises(NotYetWritten, match="index 4"):
            given += [bytes(e).rstrip(b"\0") for e in ahead]
        assert given == OLD[:len(given)]
        # One that had not come so far may go on, unless the part it had was of before.
        rest: list[bytes] = []
        with contextlib.suppress(NotYetWritten):
            rest += [bytes(e).rstrip(b"\0") for e in behind]
        assert rest in ([*OLD[1:4], *(b"new%d" % i for i in range(5, 21))], OLD[1:1 + len(rest)])


def test_whoever_follows_is_told_of_a_replacement_and_only_then(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with old_log(tmp_path, disk) as log:
        followed = log.tail(1, timeout=DEADLINE_S)
        for _ in range(20):
            next(followed)
        above = log.tail(21, timeout=0)
        assert list(above) == []
        replace_from(log, 5, *(b"new%d" % i for i in range(5, 31))).wait()
        with pytest.raises(NotYetWritten, match="index 4"):
            next(followed)
        again = log.tail(5, timeout=0)
        assert [bytes(e) for e in again] == [b"new%d" % i for i in range(5, 31)]


def test_what_was_replaced_is_not_found_by_its_place(tmp_path: Path) -> None:
    with old_log(tmp_path, cache_size=0) as log:
        for index in (2, 12):
            log.get(index)              # the places of their segments are known
        replace_from(log, 12, b"new12").wait()
        assert bytes(log.get(12)) == b"new12"
        with pytest.raises(NotYetWritten):
            log.get(13)
        assert bytes(log.get(2)).startswith(b"old2")
        log.truncate_after(11)
        log.append(b"newer12").wait()
        assert bytes(log.get(12)) == b"newer12"


def test_readers_see_one_history_or_the_next_while_operations_are_replaced(tmp_path: Path) -> None:
    """Each turn replaces all from some index on; a payload names its turn. In a history turns do not go down."""
    turns, width = 60, 30
    with Log.open(tmp_path, create=True, cache_size=3000, segment_size="16KiB") as log:
        done = threading.Event()
        firsts: list[int] = []

        def payload(turn: int, index: int) -> bytes:
            return b"%d.%d." % (turn, index) + bytes(index * 7 % 300)

        def write() -> None:
            try:
                for turn in range(turns):
                    first = 1 if turn == 0 else max(2, log.last.index - turn * 11 % (width + 10))
                    firsts.append(first)
                    for index in range(first, first + width):
                        log.append_replicate(replicate(turn + 1, index, payload=payload(turn, index)),
                                             replace=index == first)
                        if index % 4 == turn % 4:
                            log.flush(DEADLINE_S)
                log.flush(DEADLINE_S)
            finally:
                done.set()

        def turn_of(entry: Any) -> int:
            turn, index, _ = bytes(entry).split(b".", 2)
            assert int(index) == entry.index and bytes(entry) == payload(int(turn), entry.index)
            assert entry.term == int(turn) + 1
            return int(turn)

        def check(entries: Any, start: int) -> int:
            """Of one iterator: turns do not go down, and a turn's operations begin where that turn began."""
            before, index = 0, start
            for entry in entries:
                turn = turn_of(entry)
                assert entry.index == index and turn >= before, (entry, before)
                for between in range(before + 1, turn + 1):
                    # Operations that this iterator gave were not void by a later turn that it gave as well.
                    assert index == start or firsts[between] >= index, (entry, between, firsts[between])
                before, index = turn, index + 1
            return index

        def read_all() -> None:
            while not done.is_set():
                with contextlib.suppress(NotYetWritten, Collected):
                    check(log.read(1), 1)

        def read_points() -> None:
            step = 0
            while not done.is_set():
                step += 1
                with contextlib.suppress(NotYetWritten, Collected):
                    turn_of(log.get(1 + step * 7919 % max(log.durable.index, 1)))

        def follow() -> None:
            while not done.is_set():
                with contextlib.suppress(NotYetWritten, Collected, WaitTimeout):
                    check(log.tail(1, timeout=0.01), 1)

        together(write, read_all, read_points, follow)
        last = [turn_of(entry) for entry in log.read(1)]
        assert len(last) == log.last.index and last == sorted(last)


# -- the account of it -------------------------------------------------------------------------------------------------
def test_cuts_are_told_to_those_who_began_before_them() -> None:
    voids = Voids()
    assert (voids.count, voids.since(0), voids.replaced_from) == (0, (0, NEVER), NEVER)
    for stayed in (10, 30, 20):
        voids.add(stayed)
    assert [voids.since(n) for n in range(4)] == [(3, 10), (3, 20), (3, 20), (3, NEVER)]
    assert voids.replaced_from == NEVER         # what is cut off is found by no place: these are forgotten as a whole
    voids.add(5)
    assert [voids.since(n)[1] for n in range(5)] == [5, 5, 5, 5, NEVER]


def test_of_very_many_cuts_none_is_missed() -> None:
    voids = Voids()
    for stayed in range(1, 1001):
        voids.add(stayed)
    for known in range(1000):
        assert voids.since(known)[1] <= known + 1
    assert [voids.since(known)[1] for known in range(950, 1000)] == list(range(951, 1001))
    assert voids.since(1000) == (1000, NEVER)


