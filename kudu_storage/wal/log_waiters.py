"""Awaiting a log's tokens: one eventfd, told once a group, resolves the futures of all operations that are durable.

A log is awaited from one event loop at a time. Imported when the first token is awaited: a program without asyncio does
not load it. Invariants:
 E1  In one step under the lock the log is asked to tell (arm), and the future put among those of the loop that is told:
     whoever wants the log for another loop finds it there and is refused.
 E2  Futures are resolved, and readers removed, in their loop's thread only.
 E3  A descriptor is closed only when the log does not write to it any more, and its loop does not wait for it.
May not touch: files.
"""
from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque

from kudu_storage._native.log_writer import Append, LogWriter
from kudu_storage.errors import InvalidArgument, KuduStorageError, LogClosed


class _Binding:
    """A loop that the log tells, and the futures that wait in it, in the order of their operations."""

    fd = -1

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.pending: deque[tuple[Append, asyncio.Future[None]]] = deque()      # under the lock
        self.hurrying = False
        self.pid = os.getpid()

    @property
    def in_use(self) -> bool:
        """Whether somebody waits there who can still be told."""
        return not self.loop.is_closed() and any(not future.done() for _, future in self.pending)

    def leave(self) -> None:
        """Let go of the loop, from any thread. The log does not write to the eventfd any more."""
        if self.loop.is_closed() or self.pid != os.getpid():
            # A child of a fork shares the parent's selector: what it removes there is removed for the parent.
            self.end()
            return
        # In its own thread too: it may be a finalizer that interrupts wait(). Also when it does not run: its thread may
        # be about to run or close it. Closed, it forgets this call, and with it the last who knows the binding.
        try:
            self.loop.call_soon_threadsafe(self.end)
        except RuntimeError:        # it was closed this moment
            self.end()

    def end(self) -> None:
        """In the loop's thread. All tokens are settled, or nobody can be told any more."""
        if self.fd < 0:
            return
        alive = not self.loop.is_closed() and self.pid == os.getpid()
        if alive:
            self.loop.remove_reader(self.fd)
        self.close()
        while self.pending:
            token, future = self.pending.popleft()
            if alive and not future.done():
                _settle(token, future)

    def close(self) -> None:
        """Close the descriptor, once."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        # The loop was closed before it got to end(): what watched the descriptor is gone.
        self.close()


class LoopWaiters:
    """The futures of one log. Threads may share it, each with its loop."""

    def __init__(self, writer: LogWriter) -> None:
        # One that its owner may take again: within it the collector may run, and close a log that nobody refers to.
        self._lock = threading.RLock()
        self._binding: _Binding | None = None       # these two under the lock
        self._writer: LogWriter | None = None       # None: the log is closed
        self.attach(writer)

    def attach(self, writer: LogWriter) -> None:
        """Serve this writer (the log has a new one after a truncation: the tokens of the one before are settled)."""
        with self._lock:
            if self._writer is not None and self._writer is not writer:
                self._writer.set_async(-1, self)
            self._writer = writer
            writer.set_async(-1 if self._binding is None else self._binding.fd, self)

    async def wait(self, token: Append) -> None:
        """Until the token is settled. Raises what Append.wait() raises."""
        loop = asyncio.get_running_loop()
        with self._lock:
            writer = self._writer
            if writer is None:
                _require_settled(token)
                return
            if writer.arm(token):
                return
            binding = self._binding
            if binding is None or binding.loop is not loop:
                binding = self._bind(loop, writer)
                if writer.arm(token):       # again: what was done in between told nobody here
                    return
            future = loop.create_future()
            binding.pending.append((token, future))
            if not binding.hurrying:
                # After the tasks that are ready have appended too: then they share a group.
                binding.hurrying = True
                loop.call_soon(self._hurry, binding)
        await future

    def _bind(self, loop: asyncio.AbstractEventLoop, writer: LogWriter) -> _Binding:
        """Let the log tell this loop from now on. Under the lock."""
        before = self._binding
        if before is not None and before.in_use:
            raise InvalidArgument("the log's tokens are awaited in another event loop",
                                  advice="await them there, or use wait() in a thread")
        binding = _Binding(loop)
        try:
            loop.add_reader(binding.fd, self._ready, binding)
        except BaseException:           # a loop that watches no descriptors
            binding.close()
            raise
        self._binding = binding
        writer.set_async(binding.fd, self)
        if before is not None:
            before.leave()
        if self._writer is None:            # closed within these lines
            writer.set_async(-1, self)
            binding.leave()
        return binding

    def _hurry(self, binding: _Binding) -> None:
        binding.hurrying = False
        writer = self._writer
        if writer is not None:
            writer.hurry()

    def _ready(self, binding: _Binding) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(binding.fd)
        with self._lock:
            settled = self._take_settled(binding)
        for future, error in settled:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _take_settled(self, binding: _Binding) -> list[tuple[asyncio.Future[None], KuduStorageError | None]]:
        writer, settled = self._writer, []
        while writer is not None and binding.pending:       # of a closed log end() settles all
            token, future = binding.pending[0]
            error = None
            try:
                if not writer.arm(token):
                    break
            except KuduStorageError as raised:
                error = raised
            binding.pending.popleft()
            settled.append((future, error))
        return settled

    def close(self) -> None:
        """Let go of the loop and the eventfd. The writer is closed: every token is settled, one way or the other.

        Safe from any thread and from finalizers; what still waits is told in the loop's thread.
        """
        with self._lock:
            writer, self._writer = self._writer, None
            binding, self._binding = self._binding, None
            if writer is not None:
                writer.set_async(-1, self)
        if binding is not None:
            binding.leave()


def _require_settled(token: Append) -> None:
    if not token.done:
        raise LogClosed("the log is closed")


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
