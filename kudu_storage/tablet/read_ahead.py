"""Scans of several stores on threads of their own, with bounded queues in between: in any order, or each in its own.

 A1  A thread holds no GIL while it reads and decodes; between batches it takes it for a few microseconds.
 A2  A queue holds a fixed number of groups of blocks, and a group's size is bounded (but for its last block): who fills
     it waits for who empties it. Groups, since a change of threads costs more than decoding a small block.
 A3  The first error reaches who takes the blocks, and ends the scan. When the taker stops, for whatever reason, threads
     end at their next block, and are waited for.
May not touch: stores, files; it is given iterators.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from kudu_storage._native.column_block import ColumnBlock

Source = Callable[[], Iterator[ColumnBlock]]
ROOM_GROUPS = 3         # for each thread: one being taken, one ready, one that is put
GROUP_BLOCKS = 16
GROUP_BYTES = 1 << 20


class Channel:
    """Blocks on their way from some threads to one taker: `room` groups of them."""

    def __init__(self, room: int, producers: int) -> None:
        self._changed = threading.Condition()
        self._groups: deque[list[ColumnBlock]] = deque()        # these under `_changed`
        self._room = room
        self._producers = producers
        self._error: BaseException | None = None
        self._closed = False
        self._taken: deque[ColumnBlock] = deque()               # the taker's own

    def fill(self, sources: Iterator[Source]) -> None:
        """Of one producer: all blocks of these sources."""
        error: BaseException | None = None
        group: list[ColumnBlock] = []
        size = 0
        try:
            for source in sources:
                for block in source():
                    group.append(block)
                    size += block.cell_bytes
                    if size >= GROUP_BYTES or len(group) >= GROUP_BLOCKS:
                        if not self._put(group):
                            return
                        group, size = [], 0
            self._put(group)
        except BaseException as raised:     # again by take()
            error = raised
        finally:
            self._end(error)

    def _put(self, group: list[ColumnBlock]) -> bool:
        """False: nobody takes any more."""
        with self._changed:
            while len(self._groups) >= self._room and not self._closed:
                self._changed.wait()
            if group and not self._closed:
                self._groups.append(group)
                self._changed.notify_all()
            return not self._closed

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._producers -= 1
            self._error = self._error or error
            self._changed.notify_all()

    def take(self) -> ColumnBlock | None:
        """The next block; None at the end. Raises what a producer raised."""
        if not self._taken:
            with self._changed:
                while not self._groups and self._producers and self._error is None:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                if len(self._groups) >= self._room:
                    self._changed.notify_all()
                for group in self._groups:
                    self._taken.extend(group)
                self._groups.clear()
        return self._taken.popleft() if self._taken else None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._groups.clear()
            self._changed.notify_all()


class _Turns:
    """Things handed out to several threads, each once."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._lock = threading.Lock()
        self._sources = iter(sources)

    def __iter__(self) -> Iterator[Source]:
        return self

    def __next__(self) -> Source:
        with self._lock:
            return next(self._sources)


def _started(work: Sequence[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one, name="kudu-storage scan", daemon=True) for one in work]
    for thread in threads:
        thread.start()
    return threads


def in_any_order(sources: Sequence[Source], threads: int) -> Iterator[ColumnBlock]:
    """All blocks, as they come."""
    count = min(threads, len(sources))
    if count <= 1:
        for source in sources:
            yield from source()
        return
    channel = Channel(count * ROOM_GROUPS, count)
    turns = _Turns(sources)
    workers = _started([lambda: channel.fill(turns)] * count)
    try:
        while (block := channel.take()) is not None:
            yield block
    finally:
        channel.close()
        for worker in workers:
            worker.join()


class ReadAhead:
    """Sources each in its own order, read on threads before their turn comes: the first ones first.

    A source that is asked for before a thread has come to it is read by who asks. So no thread waits for another.
    """

    def __init__(self, sources: Sequence[Source], threads: int) -> None:
        self._sources = sources
        self._threads = min(threads, len(sources))
        self._lock = threading.Lock()
        self._next = 0                                          # under the lock: the next source that no thread has
        self._channels: dict[int, Channel | None] = {}          # under it: those begun; None: by who asked
        self._closed = False
        self._workers: list[threading.Thread] = []

    def iterators(self) -> list[Iterator[ColumnBlock]]:
        return [self._blocks(number) for number in range(len(self._sources))]

    def start(self) -> None:
        if self._threads > 1:
            self._workers = _started([self._work] * self._threads)

    def _work(self) -> None:
        while (turn := self._claim()) is not None:
            number, channel = turn
            channel.fill(iter((self._sources[number],)))

    def _claim(self) -> tuple[int, Channel] | None:
        with self._lock:
            while self._next in self._channels:
                self._next += 1
            if self._closed or self._next == len(self._sources):
                return None
            channel = self._channels[self._next] = Channel(ROOM_GROUPS, 1)
            return self._next, channel

    def _blocks(self, number: int) -> Iterator[ColumnBlock]:
        with self._lock:
            channel = self._channels.setdefault(number, None)
        if channel is None:
            yield from self._sources[number]()
            return
        while (block := channel.take()) is not None:
            yield block

    def close(self) -> None:
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
        for channel in channels:
            if channel is not None:
                channel.close()
        for worker in self._workers:
            worker.join()


def in_order(sources: Sequence[Source], threads: int) -> Iterator[ColumnBlock]:
    """All blocks of the first source, then of the next."""
    ahead = ReadAhead(sources, threads)
    try:
        ahead.start()
        for blocks in ahead.iterators():
            yield from blocks
    finally:
        ahead.close()
