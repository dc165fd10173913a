"""The byte stream under a connection: one non-blocking socket, read into the owner's memory, written by scatter-gather.

asyncio's own transports are not used: before Python 3.12 they join what `writelines` is given, and they copy what the
socket does not take at once. Here a buffer is referred to until the kernel has it, and what is sent during one turn of
the loop leaves in one call.

L1  The owner's `lost` is called exactly once, from the loop and never from within `send`, `close` or `abort`.
L2  Frames leave in the order of `send`, whole. One that is dropped before it is offered to the kernel never leaves.
L3  After `close` what was sent arrives even if the peer was still sending: the stream is shut down on our side and
    read, for LINGER_S at most, until the peer ends it. Closing with unread bytes would reset it, and lose answers.
L4  `queued_bytes` is all that waits here. Nothing here bounds it: the owner does, with `notify_below` and `drained`.
May not touch: frames' contents. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from kudu_storage.common.limits import KIB, MIB
from kudu_storage.rpc.framing import Buffer

_IOV_MAX: Final = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 1024
# One sendmsg is offered no more than this: above it calls cost nothing beside the copying, and what has been offered
# can no longer be dropped.
_BATCH_BYTES: Final = 1 * MIB
LINGER_S: Final = 1.0
_DISCARD_BYTES: Final = 64 * KIB
# As Kudu's --tcp_keepalive_* flags: a peer whose machine is gone is noticed after 90 s, without any call.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 10))


class Outgoing:
    """One frame to be sent. `started` is set when its first byte is offered to the kernel."""

    __slots__ = ("buffers", "dropped", "size_bytes", "started")

    def __init__(self, buffers: Sequence[Buffer], size_bytes: int) -> None:
        self.buffers = buffers      # emptied when they are on their way
        self.size_bytes = size_bytes
        self.started = False
        self.dropped = False        # set by the owner; it has no effect once started


class LinkOwner(Protocol):
    """What a link tells the connection above it."""

    def room(self) -> memoryview:
        """Where the next bytes are received. Never empty while reading is not paused."""

    def received(self, count: int) -> None:
        """So many bytes were received into `room()`."""

    def drained(self) -> None:
        """`queued_bytes` is not above `notify_below` any more, which was reset to -1."""

    def lost(self, error: Exception | None) -> None:
        """The stream has ended: by the peer (None), by an error, or because it was closed."""


class Link(Protocol):
    """What a connection needs of a byte stream; tests stand in for it."""

    queued_bytes: int
    notify_below: int
    local_text: str
    peer_text: str
    peer_host: str

    def send(self, out: Outgoing, *, now: bool) -> None:
        """Queue a frame. `now`: nothing else is likely to follow in this turn of the loop."""

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""

    def close(self) -> None:
        """Send what is queued, then end the stream. Nothing is received any more."""

    def abort(self, error: Exception | None = None) -> None:
        """End the stream at once; `error` is what `lost` is told."""


def prepare(sock: socket.socket) -> None:
    """Set a stream socket up for calls: non-blocking, no delay, keepalive probes."""
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def address_text(address: Any) -> str:
    """host:port of a socket's address, or what else names it."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) or "a local socket"


def os_text(error: OSError) -> str:
    """What the operating system says; asyncio puts other words in its place."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


class SocketLink:
    """A Link over a connected socket, which it owns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: LinkOwner) -> None:
        prepare(sock)
        self.queued_bytes = 0
        self.notify_below = -1
        self.local_text, self.peer_text = address_text(sock.getsockname()), address_text(sock.getpeername())
        peer = sock.getpeername()
        self.peer_host = str(peer[0]) if isinstance(peer, tuple) else ""
        self._loop, self._sock, self._owner = loop, sock, owner
        self._queue: deque[Outgoing] = deque()  # not started
        self._iov: list[Buffer] = []            # offered to the kernel, not yet taken
        self._iov_bytes = 0
        self._corked = False        # the owner is being told of received bytes; its answers leave together afterwards
        self._scheduled = False     # a flush is due in the next turn of the loop
        self._blocked = False       # the kernel's buffer is full; the loop tells when it is not
        self._closing = False
        self._closed = False
        self._reading = False
        self._linger_timer: asyncio.TimerHandle | None = None

    # -- receiving -----------------------------------------------------------------------------------------------------
    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        if not self._reading and not self._closing and not self._closed:
            self._reading = True
            self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        if not self._reading:
            return      # paused earlier in the same turn
        try:
            count = self._sock.recv_into(self._owner.room())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not count:
            self._lose(None)
            return
        self._corked = True
        try:
            self._owner.received(count)
        except Exception as error:      # a bug above: this connection cannot go on, the loop's handler tells of it
            self._report(error)
            self._lose(error)
            return
        finally:
            self._corked = False
        if self._queue and not self._blocked:
            self._flush()

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"kudu_storage.rpc: connection to {self.peer_text}",
                                           "exception": error})

    # -- sending -------------------------------------------------------------------------------------------------------
    def send(self, out: Outgoing, *, now: bool) -> None:
        if self._closed or self._closing:
            return
        self._queue.append(out)
        self.queued_bytes += out.size_bytes
        if self._corked or self._blocked or self._scheduled:
            return
        if now:
            self._flush()
        else:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        if not self._blocked and not self._closed:
            self._flush()

    def _gather(self) -> bool:
        """Refill the scatter-gather list from the queue. False if nothing waits."""
        iov, queue, size = self._iov, self._queue, 0
        while queue and size < _BATCH_BYTES and len(iov) < _IOV_MAX:
            out = queue.popleft()
            if out.dropped:
                self.queued_bytes -= out.size_bytes
                continue
            out.started = True
            iov.extend(out.buffers)
            out.buffers = ()
            size += out.size_bytes
        self._iov_bytes = size
        return bool(iov)

    def _flush(self) -> None:
        iov = self._iov
        try:
            while iov or self._gather():
                if len(iov) == 1:
                    sent = self._sock.send(iov[0])
                else:
                    sent = self._sock.sendmsg(iov if len(iov) <= _IOV_MAX else iov[:_IOV_MAX])
                self.queued_bytes -= sent
                self._iov_bytes -= sent
                if self._iov_bytes:
                    _cut(iov, sent)
                else:
                    iov.clear()
        except (BlockingIOError, InterruptedError):
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._sock, self._writable)
        except OSError as error:
            self._blocked = True        # nothing more is tried; the loss is told from the loop (L1)
            self._loop.call_soon(self._lose, error)
            return
        if self.queued_bytes <= self.notify_below:
            self.notify_below = -1
            self._loop.call_soon(self._owner.drained)
        if self._closing and not self._blocked:
            self._linger()

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._blocked = False
        self._flush()

    # -- ending --------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        if self._closing or self._closed:
            return
        self.pause_reading()
        self._closing = True
        if not self._blocked:
            self._loop.call_soon(self._flush_scheduled)

    def _linger(self) -> None:
        """All is sent: say so, and wait for the peer to end the stream too (L3)."""
        if self._linger_timer is not None:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._loop.call_soon(self._lose, error)
            return
        self._loop.add_reader(self._sock, self._discard)
        self._linger_timer = self._loop.call_later(LINGER_S, self._lose, None)

    def _discard(self) -> None:
        try:
            if self._sock.recv(_DISCARD_BYTES):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._lose(None)

    def abort(self, error: Exception | None = None) -> None:
        self.pause_reading()
        self._closing = True
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._reading = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._queue.clear()
        self._iov.clear()
        self.queued_bytes = 0
        self._sock.close()
        self._owner.lost(error)


def _cut(iov: list[Buffer], sent: int) -> None:
    """Take the first `sent` bytes off a scatter-gather list, which is longer."""
    for index, buffer in enumerate(iov):
        view = memoryview(buffer)
        if sent < view.nbytes:
            iov[index] = view.cast("B")[sent:] if sent else buffer
            del iov[:index]
            return
        sent -= view.nbytes
