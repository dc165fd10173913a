"""Linearizable reads by read index: who waits for a majority's word, and who for the state machine. Opens nothing.

    ask -> joined (one barrier a turn of the loop) -> ReadBarrier -> ReadReady(index) -> applied to index -> done
             ^                                            |
             +---- unready: nothing of this term is committed yet; again with the next commit
"""
from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from bisect import insort
from collections.abc import Callable
from typing import Any

from consensus.raft import effects as fx
from consensus.raft.inputs import ReadBarrier
from kudu_storage.errors import KuduStorageError


class ReadGroup(list["Future[int]"]):
    """Reads that share a barrier: its token."""


class Reads:
    """All reads of one replica that are not answered yet."""

    def __init__(self, loop: AbstractEventLoop, feed: Callable[[ReadBarrier], None]) -> None:
        self._loop = loop
        self._feed = feed
        self._joining = ReadGroup()
        self._asked: list[ReadGroup] = []
        self._unready: list[ReadGroup] = []
        self._waiting: list[tuple[int, ReadGroup]] = []    # for the state machine, by index

    def ask(self) -> Future[int]:
        """A read that begins now. Those of one turn share a barrier, which begins after all of them."""
        future: Future[int] = self._loop.create_future()
        if not self._joining:
            self._loop.call_soon(self._start)
        self._joining.append(future)
        return future

    def _start(self) -> None:
        group, self._joining = self._joining, ReadGroup()
        if group:
            self._ask_core(group)

    def _ask_core(self, group: ReadGroup) -> None:
        self._asked.append(group)
        self._feed(ReadBarrier(group))

    def ready(self, effect: fx.ReadReady, applied: int) -> None:
        group: Any = effect.token
        self._forget(group)
        if effect.index <= applied:
            _tell(group, effect.index)
        else:
            insort(self._waiting, (effect.index, group), key=lambda waiting: waiting[0])

    def until_applied(self, index: int) -> Future[int]:
        """Until the state machine has come so far, which it has not."""
        group = ReadGroup([self._loop.create_future()])
        insort(self._waiting, (index, group), key=lambda waiting: waiting[0])
        return group[0]

    def applied(self, index: int) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= index:
            _tell(waiting[0][1], waiting[0][0])
            del waiting[0]

    def not_ready(self, group: Any) -> None:
        self._forget(group)
        self._unready.append(group)

    def retry(self) -> None:
        """Something was committed."""
        if self._unready:
            groups, self._unready = self._unready, []
            for group in groups:
                self._loop.call_soon(self._ask_core, group)

    def failed(self, group: Any, error: KuduStorageError) -> None:
        self._forget(group)
        for future in group:
            if not future.done():
                future.set_exception(error)

    def fail_unready(self, error: KuduStorageError) -> None:
        """Nobody will commit anything here."""
        groups, self._unready = self._unready, []
        for group in groups:
            self.failed(group, error)

    def fail_all(self, error: KuduStorageError) -> None:
        groups = [self._joining, *self._asked, *self._unready, *[group for _, group in self._waiting]]
        self._joining, self._asked, self._unready, self._waiting = ReadGroup(), [], [], []
        for group in groups:
            self.failed(group, error)

    def _forget(self, group: ReadGroup) -> None:
        self._asked = [other for other in self._asked if other is not group]


def _tell(group: ReadGroup, index: int) -> None:
    for future in group:
        if not future.done():
            future.set_result(index)
