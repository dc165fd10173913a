"""A log in an event loop: tokens awaited by many tasks, cancelled, in other loops, in loops that are gone."""
from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_writer import Append
from kudu_storage.errors import InvalidArgument, LogClosed, LogPoisoned, NoSpace

DEADLINE_S = 60.0


def run(main: Any) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main, DEADLINE_S)

    return asyncio.run(bounded())


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("durability", ["fsync", "os", "interval:5ms"])
@pytest.mark.parametrize("codec", ["none", "lz4", "snappy", "zlib"])
def test_sixty_four_tasks_each_get_their_own_entries(codec: str, durability: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with await Log.aopen(tmp_path, create=True, compression=codec, durability=durability,
                                   segment_size="32KiB") as log:
            async def task(number: int) -> list[tuple[int, bytes]]:
                mine = []
                for step in range(10):
                    payload = b"%d-%d" % (number, step) * 9
                    token = await (log.append(payload) if step % 3 else log.append_many([payload, payload]))
                    assert isinstance(token, Append) and token.done
                    mine += [(i, payload) for i in range(token.first.index, token.last.index + 1)]
                return mine

            mine = await asyncio.gather(*(task(number) for number in range(64)))
            written = {entry.index: bytes(entry) for entry in log.read()}
            assert written == {index: payload for part in mine for index, payload in part}
            assert list(written) == list(range(1, len(written) + 1))

    run(main())


def test_tokens_may_be_awaited_late_twice_and_in_any_order(tmp_path: Path) -> None:
    async def main() -> None:
        with Log.open(tmp_path, create=True) as log:
            tokens = [log.append(b"%d" % i) for i in range(20)]
            for token in [*reversed(tokens), *tokens]:
                assert await token is token
            waits = [asyncio.ensure_future(_wait(log.append(b"x"))) for _ in range(3)]
            assert len(await asyncio.gather(*waits)) == 3

    run(main())


async def _wait(token: Append) -> Append:
    return await token


def test_a_cancelled_await_leaves_the_entry_and_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        disk = RecordingDisk()
        with Log.open(tmp_path, create=True, disk=disk) as log:
            await log.append(b"first")
            disk.hold("write")
            try:
                tokens = [log.append(b"%d" % i) for i in range(3)]
                tasks = [asyncio.ensure_future(_wait(token)) for token in tokens]
                await until(lambda: disk.waiting)
                tasks[1].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[1]
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(_wait(tokens[2]), 0.001)
            finally:
                disk.release()
            await asyncio.gather(tasks[0], tasks[2])
            assert await tokens[1] is tokens[1]
            assert [bytes(e) for e in log.read()] == [b"first", b"0", b"1", b"2"]

    run(main())


def test_a_log_serves_one_loop_after_the_other(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        tokens = []
        for _ in range(3):
            async def main() -> None:
                tokens.append(log.append(b"x"))
                await tokens[-1]
                await tokens[0]

            run(main())
        assert [e.index for e in log.read()] == [1, 2, 3]


def test_a_token_pending_in_one_loop_is_refused_in_another_and_settled_by_wait(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk) as log:
        async def other(token: Append) -> None:
            with pytest.raises(InvalidArgument, match="another event loop"):
                await token

        async def main() -> None:
            await log.append(b"first")
            disk.hold("write")
            try:
                token = log.append(b"x")
                task = asyncio.ensure_future(_wait(token))
                await until(lambda: disk.waiting)
                await asyncio.to_thread(lambda: asyncio.run(other(token)))
            finally:
                disk.release()
            await task
            assert await asyncio.to_thread(token.wait, 30) is token

        run(main())


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_loops(count: int, main: Callable[[int], Coroutine[Any, Any, None]]) -> list[threading.Thread]:
    """Threads that have begun, each with an event loop for main(its number)."""
    threads = [threading.Thread(target=lambda number=number: run(main(number)), daemon=True)  # type: ignore[misc]
               for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@pytest.mark.usefixtures("switching")
def test_of_loops_that_await_the_first_token_together_one_is_told_and_the_others_refused(tmp_path: Path) -> None:
    for turn in range(60):
        disk, start = RecordingDisk(), threading.Barrier(3)
        told, refused = [], []

        with Log.open(tmp_path / str(turn), create=True, disk=disk) as log:
            async def main(number: int, log: Log = log, told: list[int] = told, refused: list[int] = refused,
                           start: threading.Barrier = start) -> None:
                token = log.append(b"x")
                start.wait()
                try:
                    await token
                    told.append(number)
                except InvalidArgument:
                    refused.append(number)

            disk.hold("write")
            threads = in_loops(3, main)
            end = time.monotonic() + DEADLINE_S
            while len(refused) < 2 and time.monotonic() < end:
                os.sched_yield()
            disk.release()
            join(threads)
            assert (len(told), len(refused)) == (1, 2)
            run(_wait(log.append(b"and the log serves the next one")))


@pytest.mark.usefixtures("switching")
def test_loops_that_await_by_turns_lose_no_token_and_no_descriptor(tmp_path: Path) -> None:
    gc.collect()
    descriptors, refused = len(os.listdir("/proc/self/fd")), 0
    for durability in ("os", "fsync"):
        with Log.open(tmp_path / durability, create=True, durability=durability) as log:
            async def main(number: int, log: Log = log) -> None:
                nonlocal refused
                for _ in range(150):
                    token = log.append(b"%d" % number)
                    try:
                        await token
                    except InvalidArgument:
                        refused += 1
                        token.wait(DEADLINE_S)
                    assert token.done

            join(in_loops(4, main))
            assert log.last.index == 600
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.usefixtures("switching")
def test_a_first_await_beside_a_truncation_or_a_close_ends(tmp_path: Path) -> None:
    for turn in range(60):
        start = threading.Barrier(2)
        log = Log.open(tmp_path / str(turn), create=True)
        log.append_many([b"1", b"2"]).wait()
        tokens = [log.append(b"x")]

        async def main(number: int, log: Log = log, tokens: list[Append] = tokens,
                       start: threading.Barrier = start) -> None:
            start.wait()
            await tokens[0]
            with contextlib.suppress(LogClosed):
                await log.append(b"y")

        threads = in_loops(1, main)
        start.wait()
        if turn % 2:
            log.truncate_after(1)
            log.append(b"z").wait()
        else:
            log.close()
        join(threads)
        log.close()


def test_a_loop_that_ended_without_being_closed_gives_the_log_to_the_next(tmp_path: Path) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        with Log.open(tmp_path, create=True) as log:
            for turn in range(6):
                loop = (first, second)[turn % 2]
                loop.run_until_complete(asyncio.wait_for(_wait(log.append(b"x")), DEADLINE_S))
                task = loop.create_task(_wait(log.append(b"y")))
                task.cancel()       # a future that nobody waits for any more holds nothing
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("then", ["runs on", "is closed"])
def test_closing_beside_a_loop_between_two_runs_leaves_its_selector_alone(then: str, tmp_path: Path) -> None:
    gc.collect()
    descriptors, loop, disk = len(os.listdir("/proc/self/fd")), asyncio.new_event_loop(), RecordingDisk()
    log = Log.open(tmp_path, create=True, disk=disk)
    loop.run_until_complete(_wait(log.append(b"first")))
    disk.hold("write")
    task = loop.create_task(_wait(log.append(b"second")))
    loop.run_until_complete(until(lambda: disk.waiting))
    disk.release()
    watched = len(loop._selector.get_map())        # type: ignore[attr-defined]
    threads = [threading.Thread(target=log.close)]
    threads[0].start()
    join(threads)
    # The thread of a loop that does not run may be about to run or close it: only it takes out what the loop watches.
    assert len(loop._selector.get_map()) == watched        # type: ignore[attr-defined]
    if then == "runs on":
        assert loop.run_until_complete(asyncio.wait_for(task, DEADLINE_S)).done
    else:
        task.cancel()
    loop.close()
    del task, loop
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_loop_closed_with_tokens_pending_does_no_harm(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk) as log:
        async def leave() -> Append:
            await log.append(b"first")
            disk.hold("write")
            token = log.append(b"left behind")
            task = asyncio.ensure_future(_wait(token))
            await until(lambda: disk.waiting)
            assert not task.done()
            return token

        token = run(leave())
        disk.release()
        assert token.wait(timeout=30).done

        async def again() -> None:
            await token
            await log.append(b"again")

        run(again())
        assert [bytes(e) for e in log.read()] == [b"first", b"left behind", b"again"]


def test_errors_reach_those_who_await_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        disk = RecordingDisk()
        log = Log.open(tmp_path, create=True, disk=disk)
        await log.append(b"good")
        disk.fail("write", 1, 28)
        results = await asyncio.gather(*(_wait(log.append(b"full")) for _ in range(5)), return_exceptions=True)
        assert any(isinstance(r, NoSpace) for r in results)
        assert all(isinstance(r, (NoSpace, Append)) for r in results)
        disk.fail("write", 0, 0)
        await log.append(b"goes on")
        disk.fail("sync", 1, 5)
        results = await asyncio.gather(*(_wait(log.append(b"lost")) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(r, LogPoisoned) for r in results)
        with pytest.raises(LogPoisoned):
            log.close()

    run(main())


@pytest.mark.parametrize("where", ["loop", "thread", "collected"])
def test_closing_settles_awaited_tokens_and_leaves_no_descriptor(where: str, tmp_path: Path) -> None:
    gc.collect()            # what earlier tests left
    descriptors = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        log: Log | None = Log.open(tmp_path, create=True)
        assert log is not None
        await log.append(b"first")
        tasks = [asyncio.ensure_future(_wait(log.append(b"%d" % i))) for i in range(10)]
        await asyncio.sleep(0)
        if where == "loop":
            log.close()
        elif where == "thread":
            await asyncio.to_thread(log.close)
        else:
            log = None
            gc.collect()
        assert len(await asyncio.gather(*tasks)) == 10

    run(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with Log.open(tmp_path) as log:
        assert log.last.index == 11


def test_tasks_go_on_behind_a_truncation(tmp_path: Path) -> None:
    async def main() -> None:
        async with await Log.aopen(tmp_path, create=True) as log:
            for turn in range(4):
                await asyncio.gather(*(_wait(log.append(b"x")) for _ in range(10)))
                await asyncio.to_thread(log.truncate_after, 5 * (turn + 1))
                assert log.last.index == 5 * (turn + 1)
                assert (await log.append(b"new")).last.index == 5 * (turn + 1) + 1
                await asyncio.to_thread(log.truncate_after, 5 * (turn + 1))

    run(main())


def test_threads_and_tasks_share_a_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with await Log.aopen(tmp_path, create=True, segment_size="32KiB") as log:
            def work() -> None:
                for _ in range(100):
                    log.append(b"thread").wait(timeout=DEADLINE_S)

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()

            async def task() -> None:
                for _ in range(30):
                    await log.append(b"task")

            await asyncio.gather(*(task() for _ in range(10)))
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert len(list(log.read())) == 600

    run(main())
