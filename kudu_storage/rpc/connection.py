"""A client's connection: many calls in flight, each answered, expired, cancelled or lost exactly once.

    NEW --open--> CONNECTING --socket--> NEGOTIATING --SASL_SUCCESS--> OPEN --close--> CLOSING --> CLOSED
    and from each of them to CLOSED when the stream ends.        `_set_open`, `close` and `lost` are the transitions.

C1  `on_done` of a call is called exactly once, from the loop and never from within `start_call`; after `cancel` never.
C2  No task and no timer belongs to a call: answers and expiries are dispatched from the connection's own callbacks.
C3  Calls made before the connection is open wait in it, under their deadlines, and go out with its first bytes.
C4  An error's `maybe_sent` is False only if no byte of the call was offered to the kernel.
C5  Calls under way and bytes not yet sent are bounded (ConnectionOptions); beyond it a call is refused, not queued.
C6  An answer to a call that is no longer waited for is dropped. One to a call that was never made ends the connection.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import copy
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, TypeAlias

from kudu_storage.common.limits import RPC_NEGOTIATION_FRAME_BYTES_MAX
from kudu_storage.errors import (
    BadFrame,
    CallTimeout,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    NegotiationFailed,
    RpcBackpressure,
    RpcError,
)
from kudu_storage.rpc.codes import is_fatal, remote_error
from kudu_storage.rpc.deadlines import Deadlines
from kudu_storage.rpc.framing import (
    CALL_ID_MAX,
    Buffer,
    Frame,
    FrameReader,
    Method,
    Payload,
    encode_request,
    parse_response,
    size_bytes,
)
from kudu_storage.rpc.link import Link, Outgoing, SocketLink, os_text
from kudu_storage.rpc.negotiation import ClientNegotiation
from kudu_storage.rpc.negotiation import State as NegotiationState
from kudu_storage.rpc.options import ConnectionOptions

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """The answer to a call: views of the memory that it was received in. Copy what is to be kept for long."""

    message: memoryview
    sidecars: tuple[memoryview, ...]


# From the loop; must not block. An exception it raises goes to the loop's handler.
OnDone: TypeAlias = Callable[[Reply | RpcError], None]


class State(Enum):
    """Where a connection is."""

    NEW = "new"
    CONNECTING = "connecting"
    NEGOTIATING = "negotiating"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Call(Outgoing):
    """A call under way."""

    __slots__ = ("_connection", "call_id", "method", "on_done", "tick")

    def __init__(self, connection: ClientConnection, call_id: int, method: Method, on_done: OnDone,
                 buffers: Sequence[Buffer], size: int) -> None:
        self.buffers = buffers
        self.size_bytes = size
        self.started = self.dropped = False
        self.call_id = call_id
        self.method = method
        self.on_done = on_done
        self.tick = -1
        self._connection = connection

    def cancel(self) -> bool:
        """Stop waiting; `on_done` will not be called. False if it was already. The peer may still carry it out."""
        return self._connection.forget(self)


class ClientConnection:
    """One connection to a server. Make it with `connect`, or give it a Link (`attach`)."""

    def __init__(self, options: ConnectionOptions | None = None, *, loop: asyncio.AbstractEventLoop | None = None,
                 call_id_end: int = CALL_ID_MAX + 1) -> None:
        self.options = options or ConnectionOptions()
        self.state = State.NEW
        self.peer_text = "the server"
        self.error: RpcError | None = None      # why it is closed, if not by `close`
        self.was_open = False
        self.on_end: Callable[[ClientConnection], None] | None = None   # told once, before the calls that are lost
        self._loop = loop or asyncio.get_running_loop()
        self._link: Link | None = None
        self._reader = FrameReader(RPC_NEGOTIATION_FRAME_BYTES_MAX)
        self._negotiation: ClientNegotiation | None = None
        self._calls: dict[int, Call] = {}
        self._early: deque[Call] = deque()      # made before the connection was open
        self._early_bytes = 0
        self._next_call_id = 0
        self._call_id_end = call_id_end         # ids start again before it; never below calls_max
        self._wrapped = False                   # call ids were used up once
        self._deadlines = Deadlines(self._loop, self._expired)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._open_task: asyncio.Task[None] | None = None
        self._setup_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_active = self._loop.time()

    # -- what can be asked ---------------------------------------------------------------------------------------------
    @property
    def in_flight(self) -> int:
        """Calls that have no outcome yet."""
        return len(self._calls)

    @property
    def queued_bytes(self) -> int:
        """Bytes of calls that wait for the kernel, or for the connection to open."""
        return self._early_bytes + (self._link.queued_bytes if self._link is not None else 0)

    @property
    def is_usable(self) -> bool:
        """Whether a new call has a chance: it is open, or about to be."""
        return self.state in (State.CONNECTING, State.NEGOTIATING, State.OPEN)

    async def opened(self) -> None:
        """Until the connection is open. Raises why it cannot be."""
        await asyncio.shield(self._opened)

    async def closed(self) -> None:
        """Until the connection has ended, for whatever reason (`error`)."""
        await asyncio.shield(self._closed)

    def check(self) -> None:
        """Derive each relation between the parts again (tests call it after each step)."""
        assert all(call_id == call.call_id for call_id, call in self._calls.items())
        assert len(self._deadlines) == sum(call.tick >= 0 for call in self._calls.values())
        assert self._early_bytes == sum(call.size_bytes for call in self._early)
        assert self.state is not State.CLOSED or not (self._calls or self._early)
        assert len(self._calls) <= self.options.calls_max
        assert not (self._early and self.state is State.OPEN)

    # -- opening -------------------------------------------------------------------------------------------------------
    def open(self, host: str, port: int) -> None:
        """Start connecting. Calls may be made at once (C3)."""
        assert self.state is State.NEW, "opened twice"
        if not 0 < port < 1 << 16:
            raise InvalidArgument(f"{host}: there is no port {port}")
        self.state = State.CONNECTING
        self.peer_text = f"{host}:{port}"
        self._setup_timer = self._loop.call_later(self.options.connect_s, self._setup_expired)
        self._open_task = self._loop.create_task(self._connect(host, port), name=f"connect to {self.peer_text}")

    async def _connect(self, host: str, port: int) -> None:
        try:
            sock = await _connected_socket(self._loop, host, port)
        except UnicodeError:
            self._end(ConnectionLost(f"cannot connect to {self.peer_text}: not a host's name"))
            return
        except OSError as error:
            self._end(ConnectionLost(f"cannot connect to {self.peer_text}: {os_text(error)}"))
            return
        if self.state is not State.CONNECTING:
            sock.close()
            return
        try:
            link = SocketLink(self._loop, sock, self)
        except OSError as error:    # it was reset before anything could be asked of it
            sock.close()
            self._end(ConnectionLost(f"cannot connect to {self.peer_text}: {os_text(error)}"))
            return
        self.attach(link)

    def attach(self, link: Link) -> None:
        """Take a connected byte stream and begin to negotiate."""
        assert self.state in (State.NEW, State.CONNECTING)
        self.state = State.NEGOTIATING
        self.peer_text = link.peer_text
        if self._setup_timer is None:
            self._setup_timer = self._loop.call_later(self.options.connect_s, self._setup_expired)
        self._link = link
        self._negotiation = ClientNegotiation(self.options.user, self.options.password, self.peer_text)
        link.resume_reading()
        self._send_bytes(self._negotiation.start())

    def _setup_expired(self) -> None:
        what = "connecting to" if self.state is State.CONNECTING else "negotiating with"
        self._fail(NegotiationFailed(f"{what} {self.peer_text} took longer than {self.options.connect_s:g} s"))

    def _negotiate(self, frame: Frame) -> None:
        assert self._negotiation is not None
        reply = self._negotiation.receive(frame)
        if self._negotiation.state is NegotiationState.DONE:
            self._set_open(reply)
        else:
            self._send_bytes(reply)

    def _set_open(self, context: bytes) -> None:
        self.state = State.OPEN
        self.was_open = True
        self._reader.frame_bytes_max = self.options.frame_bytes_max
        self._cancel_timers()
        self._send_bytes(context)
        early, self._early, self._early_bytes = self._early, deque(), 0
        assert self._link is not None
        for call in early:
            self._link.send(call, now=False)
        if self.options.idle_s:
            self._idle_timer = self._loop.call_later(self.options.idle_s, self._check_idle)
        self._opened.set_result(None)
        self._wake_for_room()

    def _send_bytes(self, data: bytes) -> None:
        assert self._link is not None
        self._link.send(Outgoing((data,), len(data)), now=True)

    # -- calls ---------------------------------------------------------------------------------------------------------
    def start_call(self, method: Method, message: Payload, on_done: OnDone, *, sidecars: Sequence[Payload] = (),
                   timeout_s: float | None = None, required_flags: Sequence[int] = (), request_id: bytes = b"") -> Call:
        """Send a request; `on_done` gets the Reply or the error (C1). Buffers must not change until then.

        Raises RpcBackpressure, ConnectionClosed, ConnectionLost or InvalidArgument if nothing of it will be sent.
        """
        calls = self._calls
        if not self.is_usable:
            raise self._why_unusable()
        call_id = self._next_call_id
        timeout_ms = 0
        if timeout_s is not None:
            timeout_ms = min(max(int(timeout_s * 1000), 1), 0xFFFFFFFF)
        buffers = encode_request(call_id, method, message, sidecars, timeout_ms=timeout_ms,
                                 required_flags=required_flags, request_id=request_id)
        size = len(buffers[0]) if len(buffers) == 1 else size_bytes(buffers)
        if size > self.options.frame_bytes_max:
            raise InvalidArgument(f"{method}: a call of {size} bytes; {self.options.frame_bytes_max} is the limit")
        if len(calls) >= self.options.calls_max or self.queued_bytes >= self.options.queue_bytes_max:
            raise RpcBackpressure(f"{len(calls)} calls to {self.peer_text} under way, {self.queued_bytes} bytes wait",
                                  advice="wait_for_room(), or wait for answers")
        call = Call(self, call_id, method, on_done, buffers, size)
        calls[call_id] = call
        self._advance_call_id()
        if timeout_s is not None:
            call.tick = self._deadlines.add(call_id, self._loop.time() + timeout_s)
        if self.state is State.OPEN:
            assert self._link is not None
            self._link.send(call, now=len(calls) == 1)
        else:
            self._early.append(call)
            self._early_bytes += size
        return call

    async def call(self, method: Method, message: Payload, *, sidecars: Sequence[Payload] = (),
                   timeout_s: float | None = None, required_flags: Sequence[int] = (),
                   request_id: bytes = b"") -> Reply:
        """Call and wait for the answer; waits for room first. Cancelling the wait cancels the call."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def on_done(outcome: Reply | RpcError) -> None:
            if future.cancelled():
                return
            if isinstance(outcome, Reply):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        while True:
            try:
                call = self.start_call(method, message, on_done, sidecars=sidecars, timeout_s=timeout_s,
                                       required_flags=required_flags, request_id=request_id)
                break
            except RpcBackpressure:
                timeout_s = await self._wait_within(timeout_s)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def _wait_within(self, timeout_s: float | None) -> float | None:
        """Wait for room; gives what is left of the time."""
        start = self._loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_for_room()
        except TimeoutError:
            raise CallTimeout(f"no room for a call to {self.peer_text} in time", maybe_sent=False) from None
        return None if timeout_s is None else max(timeout_s - (self._loop.time() - start), 0.001)

    async def wait_for_room(self) -> None:
        """Until one more call may be accepted, or the connection ended. Waiters are woken in turn."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._room_waiters.append(waiter)
        self._wake_for_room()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._room_waiters:
                self._room_waiters.remove(waiter)
            elif waiter.done():
                self._wake_for_room()   # it was woken in vain; the next one takes its place
            raise

    def _wake_for_room(self) -> None:
        """Wake one waiter for each call that may be accepted now, as far as numbers tell."""
        low_bytes = self.options.queue_bytes_max // 2
        if self.is_usable and self.queued_bytes > low_bytes:
            if self._link is not None:
                self._link.notify_below = low_bytes
            return      # otherwise `_set_open` sees to it
        places = self.options.calls_max - len(self._calls) if self.is_usable else len(self._room_waiters)
        while places > 0 and self._room_waiters:
            waiter = self._room_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                places -= 1

    def _advance_call_id(self) -> None:
        self._next_call_id += 1
        if self._next_call_id >= self._call_id_end:
            self._next_call_id, self._wrapped = 0, True
        while self._wrapped and self._next_call_id in self._calls and len(self._calls) < self._call_id_end:
            self._next_call_id = (self._next_call_id + 1) % self._call_id_end

    def forget(self, call: Call) -> bool:
        """Drop a call without an outcome (Call.cancel)."""
        if self._calls.get(call.call_id) is not call:
            return False
        self._remove(call)
        return True

    def _remove(self, call: Call) -> None:
        del self._calls[call.call_id]
        if call.tick >= 0:
            self._deadlines.discard(call.call_id, call.tick)
        if not call.started:
            call.dropped = True
            call.buffers = ()
            if self._early:
                self._early.remove(call)
                self._early_bytes -= call.size_bytes
        self._call_gone()

    def _call_gone(self) -> None:
        if self._room_waiters:
            self._wake_for_room()
        if self.state is State.CLOSING and not self._calls and self._link is not None:
            self._link.close()

    def _expired(self, call_id: int) -> None:
        call = self._calls[call_id]
        call.tick = -1
        self._remove(call)
        self._tell(call, CallTimeout(f"{call.method} on {self.peer_text}: no answer in time", maybe_sent=call.started))

    def _tell(self, call: Call, outcome: Reply | RpcError) -> None:
        try:
            call.on_done(outcome)
        except Exception as error:      # one caller's bug must not take the others' answers with it
            self._loop.call_exception_handler({"message": f"kudu_storage.rpc: on_done of {call.method}",
                                               "exception": error})

    # -- what the link tells -------------------------------------------------------------------------------------------
    def room(self) -> memoryview:
        """Where the link receives into."""
        return self._reader.room()

    def received(self, count: int) -> None:
        """The link received so many bytes."""
        self._last_active = self._loop.time()
        self._reader.received(count)
        try:
            while (frame := self._reader.next_frame()) is not None:
                if self.state is State.OPEN or self.state is State.CLOSING:
                    self._answer(frame)
                elif self.state is State.NEGOTIATING:
                    self._negotiate(frame)
                else:
                    return
                del frame       # so that the reader finds its memory free
        except RpcError as error:
            self._fail(error)

    def _answer(self, frame: Frame) -> None:
        response = parse_response(frame)
        call = self._calls.pop(response.call_id, None)
        if call is None:
            if response.call_id < 0 or (response.call_id >= self._next_call_id and not self._wrapped):
                raise BadFrame(f"an answer to call {response.call_id}, which was never made")
            return
        if call.tick >= 0:
            self._deadlines.discard(call.call_id, call.tick)
        if not call.started:
            call.dropped = True
        outcome: Reply | RpcError
        if response.is_error:
            outcome = remote_error(response.message, f"{call.method} on {self.peer_text}")
            if is_fatal(outcome.code) and self.state is State.OPEN:
                self.state = State.CLOSING      # the server closes; what it still answers is taken
                self.error = ConnectionLost(f"{self.peer_text} said {outcome.detail}")
        else:
            outcome = Reply(response.message, response.sidecars)
        self._tell(call, outcome)
        if self._room_waiters or self.state is State.CLOSING:
            self._call_gone()

    def drained(self) -> None:
        """The link has room again."""
        self._wake_for_room()

    def lost(self, error: Exception | None) -> None:
        """The stream ended."""
        if self.error is None and not isinstance(error, RpcError):
            if self.state is State.NEGOTIATING:
                why = f": {error}" if error else "; a server that is busy, or that knows another protocol, does that"
                error = NegotiationFailed(f"{self.peer_text} closed the connection during the negotiation{why}")
            elif self.state is not State.CLOSING:
                error = ConnectionLost(f"{self.peer_text} closed the connection{f': {error}' if error else ''}")
        self._end(error if isinstance(error, RpcError) else None)

    # -- ending --------------------------------------------------------------------------------------------------------
    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more calls, wait so long for those under way, then end; what is left gets ConnectionLost."""
        if self.state in (State.NEW, State.CLOSED):
            self._end(None)
            return
        if self._calls and grace_s > 0 and self.state in (State.OPEN, State.CLOSING):
            self.state = State.CLOSING
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(self._closed)
        self.abort()
        await self.closed()

    def abort(self) -> None:
        """End at once. Calls under way get ConnectionLost, from the loop."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSING
        if self._link is not None:
            self._link.abort()
        else:
            self._loop.call_soon(self._end, None)

    def _fail(self, error: RpcError) -> None:
        """End because of `error`, which each call gets the reason from."""
        if self.error is None:
            self.error = error
        if self._link is not None:
            self._link.abort(error)
        else:
            self._loop.call_soon(self._end, error)

    def _end(self, error: RpcError | None) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.error = self.error or error
        if self._open_task is not None and self._open_task is not asyncio.current_task(self._loop):
            self._open_task.cancel()
        self._cancel_timers()
        calls, self._calls = self._calls, {}
        self._early.clear()
        self._early_bytes = 0
        self._deadlines.clear()
        if not self._opened.done():
            self._opened.set_exception(self.error or ConnectionClosed(f"the connection to {self.peer_text} was closed"))
            self._opened.exception()    # nobody has to wait for it
        self._closed.set_result(None)
        _log.debug("connection to %s ended: %s", self.peer_text, self.error or "closed here")
        self._wake_for_room()
        if self.on_end is not None:
            try:
                self.on_end(self)
            except Exception as failed:
                self._loop.call_exception_handler({"message": f"kudu_storage.rpc: end of the connection to "
                                                              f"{self.peer_text}", "exception": failed})
        for call in calls.values():
            self._tell(call, self._loss_of(call))

    def _loss_of(self, call: Call) -> RpcError:
        if isinstance(self.error, NegotiationFailed):
            return copy.copy(self.error)
        why = self.error.detail if self.error else f"the connection to {self.peer_text} was closed"
        return ConnectionLost(f"{call.method}: {why}", maybe_sent=call.started)

    def _why_unusable(self) -> RpcError:
        if isinstance(self.error, NegotiationFailed):
            return copy.copy(self.error)
        if self.error is not None:
            return ConnectionLost(self.error.detail)
        return ConnectionClosed(f"the connection to {self.peer_text} is {self.state.value}")

    def _cancel_timers(self) -> None:
        for timer in (self._setup_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._setup_timer = self._idle_timer = None

    def _check_idle(self) -> None:
        left = self._last_active + self.options.idle_s - self._loop.time()
        if self._calls or left > 0:
            self._idle_timer = self._loop.call_later(left if left > 0 else self.options.idle_s, self._check_idle)
            return
        self.state = State.CLOSING
        if self._link is not None:
            self._link.close()


async def _connected_socket(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Connect to the first address that takes it; the last one's error otherwise."""
    error: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as failed:
            sock.close()
            error = failed
        except BaseException:
            sock.close()
            raise
    raise error or OSError(f"{host} has no address")


async def connect(host: str, port: int, options: ConnectionOptions | None = None) -> ClientConnection:
    """An open connection. Raises ConnectionLost, or NegotiationFailed (TlsRequired, AuthenticationRefused)."""
    connection = ClientConnection(options)
    connection.open(host, port)
    try:
        await connection.opened()
    except BaseException:
        connection.abort()
        raise
    return connection
