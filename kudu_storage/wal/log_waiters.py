"""Awaiting a log's tokens: one eventfd, told once a group, resolves the futures of all operations that are durable.

A log is awaited from one event loop at a time. Imported when the first token is awaited: a program without asyncio does
not load it.
"""
from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque

from kudu_storage._native.log_writer import Append, LogWriter
from kudu_storage.errors import InvalidArgument, KuduStorageError


class LoopWaiters:
    """The futures of one log. All methods run in the loop's thread."""

    def __init__(self, writer: LogWriter) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[tuple[Append, asyncio.Future[None]]] = deque()     # in the order of their operations
        self._hurrying = False
        self._writer = writer
        self.attach(writer)

    def attach(self, writer: LogWriter) -> None:
        """Serve this writer (the log has a new one after a truncation)."""
        self._writer = writer
        writer.set_async(self._fd, self)

    async def wait(self, token: Append) -> None:
        """Until the token is settled. Raises what Append.wait() raises."""
        loop = asyncio.get_running_loop()
        self._bind(loop)
        if self._writer.arm(token):
            return
        future = loop.create_future()
        self._pending.append((token, future))
        if not self._hurrying:
            # After the tasks that are ready have appended too: then they share a group.
            self._hurrying = True
            loop.call_soon(self._hurry)
        await future

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed() and self._pending:
            raise InvalidArgument("the log's tokens are awaited in another event loop",
                                  advice="await them there, or use wait() in a thread")
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._pending.clear()       # of a loop that was closed: nobody can be told any more
        self._hurrying = False
        self._loop = loop
        loop.add_reader(self._fd, self._ready)

    def _hurry(self) -> None:
        self._hurrying = False
        self._writer.hurry()

    def _ready(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        while self._pending:
            token, future = self._pending[0]
            try:
                if not self._writer.arm(token):
                    return
                error = None
            except KuduStorageError as raised:
                error = raised
            self._pending.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def close(self) -> None:
        """Let go of the loop and the eventfd. Safe from any thread; what still waits is told in the loop's thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._release()
        elif asyncio._get_running_loop() is loop or not loop.is_running():
            self._end()
        else:
            try:
                loop.call_soon_threadsafe(self._end)
            except RuntimeError:        # it was closed this moment
                self._release()

    def _end(self) -> None:
        assert self._loop is not None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
        self._release()

    def _release(self) -> None:
        """The writer is closed: every token is settled, one way or the other."""
        pending, self._pending = self._pending, deque()
        alive = self._loop is not None and not self._loop.is_closed()
        for token, future in pending:
            if alive and not future.done():
                _settle(token, future)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _settle(token: Append, future: asyncio.Future[None]) -> None:
    try:
        done = token.done
    except KuduStorageError as error:
        future.set_exception(error)
        return
    if done:
        future.set_result(None)
    else:
        future.cancel()
