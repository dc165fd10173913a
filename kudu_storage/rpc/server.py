"""The server's side: listening sockets, and one ServerConnection for each peer.

    connection:  HEADER --hrpc--> NEGOTIATING --context--> OPEN --stop--> DRAINING --last answer--> CLOSED
                 and from each of them to CLOSED when the stream ends, a frame is bad or a timer says so.

V1  What a peer can make us hold is bounded (ServerOptions): calls being handled (one more is answered SERVER_TOO_BUSY),
    bytes of their requests and bytes of unsent answers (beyond which nothing more is received from that peer).
V2  Each request of an open connection gets exactly one answer, or the connection ends.
V3  No task belongs to a call unless its handler is a coroutine. A future that a handler gives is not the connection's:
    it is not cancelled when that ends.
V4  Stopping refuses new calls (FATAL_SERVER_SHUTTING_DOWN), lets those under way finish within the grace, then ends.
V5  A call whose deadline has passed before it could be handled is answered SERVER_TOO_BUSY, as Kudu does.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final

from kudu_storage.common.limits import RPC_NEGOTIATION_FRAME_BYTES_MAX
from kudu_storage.errors import ConnectionLost, InternalError, KuduStorageError, NegotiationFailed, RpcError
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.framing import (
    LENGTH_WORD_BYTES,
    Buffer,
    Frame,
    FrameReader,
    encode_error,
    encode_response,
    parse_request,
    size_bytes,
)
from kudu_storage.rpc.link import Link, Outgoing, SocketLink, address_text, os_text
from kudu_storage.rpc.negotiation import CONNECTION_HEADER, ServerNegotiation, is_trusted
from kudu_storage.rpc.negotiation import State as NegotiationState
from kudu_storage.rpc.options import ServerOptions
from kudu_storage.rpc.services import LATER, Answer, CallRefused, Handler, Request, Response, ServiceRegistry

_log = logging.getLogger(__name__)
_BACKLOG: Final = 1024
_ACCEPTS_AT_ONCE: Final = 64
# Out of descriptors: the listening socket stays readable, so it is left alone for so long.
_ACCEPT_PAUSE_S: Final = 0.5
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class State(Enum):
    """Where a connection is."""

    HEADER = "before the connection header"
    NEGOTIATING = "negotiating"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class ServerConnection:
    """One peer. Give it a Link with `attach`."""

    def __init__(self, registry: ServiceRegistry, options: ServerOptions, loop: asyncio.AbstractEventLoop,
                 server: Server | None = None) -> None:
        self.options = options
        self.state = State.HEADER
        self.peer_text = "a peer"
        self.error: Exception | None = None     # why it is closed, if anything was wrong
        self.end_callbacks: list[Callable[[Exception | None], None]] = []
        self._registry, self._loop, self._server = registry, loop, server
        self._link: Link | None = None
        self._reader = FrameReader(RPC_NEGOTIATION_FRAME_BYTES_MAX)
        self._negotiation = ServerNegotiation()
        self._pending_count = 0     # requests without an answer yet
        self._pending_bytes = 0     # their frames
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False        # nothing is received (V1)
        self._resuming = False
        self._late = False          # frames being handled have waited in memory; deadlines may have passed
        self._unsent_before = 0     # bytes of answers that waited when it was last looked whether the peer is idle
        self._timer: asyncio.TimerHandle | None = None
        self._last_active = loop.time()

    @property
    def user(self) -> str:
        """Who the peer says it is."""
        return self._negotiation.user

    @property
    def pending_calls(self) -> int:
        """Requests without an answer yet."""
        return self._pending_count

    def check(self) -> None:
        """Derive each relation between the parts again (tests call it after each step)."""
        options = self.options
        assert 0 <= self._pending_count <= options.calls_max
        assert (self._pending_count == 0) <= (self._pending_bytes == 0)
        assert self._pending_bytes <= options.pending_bytes_max + options.frame_bytes_max
        if self._link is not None and self.state is State.OPEN:
            assert self._paused or self._pending_bytes <= options.pending_bytes_max
            assert self._paused or self._link.queued_bytes <= options.send_bytes_max

    def attach(self, link: Link) -> None:
        """Take a connected byte stream and wait for the peer to introduce itself."""
        self._link = link
        self.peer_text = link.peer_text
        self._negotiation = ServerNegotiation(trusted=self.options.trust_all or is_trusted(link.peer_host))
        self._timer = self._loop.call_later(self.options.negotiation_s, self._negotiation_expired)
        link.resume_reading()

    # -- what the link tells -------------------------------------------------------------------------------------------
    def room(self) -> memoryview:
        """Where the link receives into."""
        return self._reader.room()

    def received(self, count: int) -> None:
        """The link received so many bytes."""
        self._last_active = self._loop.time()
        self._reader.received(count)
        self._pump()

    def drained(self) -> None:
        """Half of the unsent answers are gone."""
        self._resume()

    def lost(self, error: Exception | None) -> None:
        """The stream ended."""
        self.state = State.CLOSED
        self.error = self.error or error
        if self._timer is not None:
            self._timer.cancel()
        _log.debug("connection from %s ended: %s", self.peer_text, self.error or "closed")
        if self._server is not None:
            self._server.forget(self)
        callbacks, self.end_callbacks = self.end_callbacks, []
        for callback in callbacks:
            try:
                callback(self.error)
            except Exception as failed:     # one caller's bug is not the others'
                self._loop.call_exception_handler({"message": f"kudu_storage.rpc: end of the connection from "
                                                              f"{self.peer_text}", "exception": failed})

    def _pump(self) -> None:
        reader = self._reader
        try:
            if self.state is State.HEADER and not self._take_header():
                return
            while not self._paused:
                frame = reader.next_frame()
                if frame is None:
                    return
                if self.state is State.OPEN or self.state is State.DRAINING:
                    self._handle(frame)
                elif self.state is State.NEGOTIATING:
                    self._negotiate(frame)
                else:
                    return
                del frame       # so that the reader finds its memory free
        except RpcError as error:
            self._fail(error)

    def _take_header(self) -> bool:
        header = self._reader.take(len(CONNECTION_HEADER))
        if header is None:
            return False
        self._negotiation.check_connection_header(header)
        self.state = State.NEGOTIATING
        return True

    def _negotiate(self, frame: Frame) -> None:
        assert self._link is not None
        try:
            reply = self._negotiation.receive(frame)
        except RpcError as error:
            if farewell := self._negotiation.farewell:
                self._link.send(Outgoing((farewell,), len(farewell)), now=True)
            self.error = error
            self.state = State.CLOSED
            self._link.close()
            return
        if reply:
            self._link.send(Outgoing((reply,), len(reply)), now=True)
        if self._negotiation.state is NegotiationState.DONE:
            self.state = State.OPEN
            self._reader.frame_bytes_max = self.options.frame_bytes_max
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self.options.idle_s:
                self._timer = self._loop.call_later(self.options.idle_s, self._check_idle)

    def _negotiation_expired(self) -> None:
        self._fail(NegotiationFailed(f"{self.peer_text} did not introduce itself in {self.options.negotiation_s:g} s"))

    # -- requests ------------------------------------------------------------------------------------------------------
    def _handle(self, frame: Frame) -> None:
        parsed = parse_request(frame)
        deadline = self._last_active + parsed.timeout_ms / 1000 if parsed.timeout_ms else None
        request = Request(self, parsed, deadline, LENGTH_WORD_BYTES + len(frame.header) + len(frame.main))
        if self._pending_count >= self.options.calls_max:
            request.mark_answered()
            self._send(encode_error(request.call_id, RpcCode.ERROR_SERVER_TOO_BUSY,
                                    f"Service unavailable: {request.method} request on {request.service} from "
                                    f"{self.peer_text} dropped due to backpressure: {self._pending_count} calls of "
                                    "this connection are being handled"))
            return
        if self._late and deadline is not None and deadline <= self._loop.time():
            request.mark_answered()
            self._send(encode_error(request.call_id, RpcCode.ERROR_SERVER_TOO_BUSY,
                                    "Timed out: Call waited in the queue past client deadline"))
            return
        self._pending_count += 1
        self._pending_bytes += request.size_bytes
        if self._pending_bytes > self.options.pending_bytes_max:
            self._pause()
        handler = self._find_handler(request)
        if handler is not None:
            self._run(handler, request)

    def _find_handler(self, request: Request) -> Handler | None:
        """The handler; None if the request was refused already, in Kudu's words."""
        if self.state is State.DRAINING:
            self.refuse(request, RpcCode.FATAL_SERVER_SHUTTING_DOWN, "Service unavailable: Service is shutting down")
            return None
        service = self._registry.find(request.service)
        if service is None:
            where = self._link.local_text if self._link is not None else ""
            self.refuse(request, RpcCode.ERROR_NO_SUCH_SERVICE,
                        f"Not found: service {request.service} not registered on {where}")
            return None
        if request.required_flags:
            unknown = [flag for flag in request.required_flags if flag not in service.feature_flags]
            if unknown:
                self.refuse(request, RpcCode.ERROR_INVALID_REQUEST, "unsupported feature flags",
                            unsupported_flags=unknown)
                return None
        handler = service.methods.get(request.method)
        if handler is None:
            self.refuse(request, RpcCode.ERROR_NO_SUCH_METHOD,
                        f"Invalid argument: call on service {request.service} received at {self.peer_text} with an "
                        f"invalid method name: {request.method}")
        return handler

    def _run(self, handler: Handler, request: Request) -> None:
        try:
            result = handler(request)
        except Exception as error:
            self._refuse_for(request, error)
            return
        kind = result.__class__     # the common kinds first: asking whether something can be awaited is slow
        if kind is bytes or kind is Response or kind is memoryview:
            self.answer(request, result)    # type: ignore[arg-type]  # as just found
            return
        if result is LATER:
            return
        if isinstance(result, asyncio.Future):      # a task for it would cost more than the rest of the call
            result.add_done_callback(partial(self._settled, request))
        elif inspect.isawaitable(result):
            task = self._loop.create_task(self._wait_for(result, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.answer(request, result)    # type: ignore[arg-type]  # what is left of the union

    def _settled(self, request: Request, done: asyncio.Future[Answer]) -> None:
        if request.answered:
            return
        if done.cancelled():
            self.refuse(request, RpcCode.ERROR_UNAVAILABLE, "Service unavailable: the call was cancelled")
            return
        error = done.exception()
        if error is None:
            self.answer(request, done.result())
        elif isinstance(error, Exception):
            self._refuse_for(request, error)
        else:
            raise error

    async def _wait_for(self, waiting: Awaitable[Answer], request: Request) -> None:
        try:
            answer = await waiting
        except asyncio.CancelledError:
            if not request.answered:
                self.refuse(request, RpcCode.ERROR_UNAVAILABLE, "Service unavailable: the call was cancelled")
            raise
        except Exception as error:
            self._refuse_for(request, error)
            return
        self.answer(request, answer)

    def _refuse_for(self, request: Request, error: Exception) -> None:
        if isinstance(error, CallRefused):
            self.refuse(request, error.code, error.detail, error.extensions)
            return
        if isinstance(error, KuduStorageError) and not isinstance(error, InternalError):
            self.refuse(request, RpcCode.ERROR_APPLICATION, str(error))
            return
        self._loop.call_exception_handler({"message": f"kudu_storage.rpc: handler of {request!r}", "exception": error})
        if not request.answered:
            self.refuse(request, RpcCode.ERROR_APPLICATION, "Runtime error: the handler failed; see the server's log")

    # -- answers -------------------------------------------------------------------------------------------------------
    def answer(self, request: Request, answer: Answer) -> None:
        """Send the answer to a request (Request.respond)."""
        if isinstance(answer, Response):
            buffers = encode_response(request.call_id, answer.message, answer.sidecars)
        else:
            buffers = encode_response(request.call_id, answer)
        self._finish(request, buffers)

    def refuse(self, request: Request, code: int, text: str, extensions: Mapping[int, Buffer] | None = None,
               unsupported_flags: Sequence[int] = ()) -> None:
        """Send an ErrorStatusPB in answer to a request (Request.fail)."""
        self._finish(request, encode_error(request.call_id, code, text, extensions, unsupported_flags))

    def _finish(self, request: Request, buffers: list[Buffer]) -> None:
        size = len(buffers[0]) if len(buffers) == 1 else size_bytes(buffers)
        if size > self.options.frame_bytes_max:
            buffers = encode_error(request.call_id, RpcCode.ERROR_APPLICATION,
                                   f"Runtime error: the answer to {request.method} takes {size} bytes; "
                                   f"{self.options.frame_bytes_max} is the limit")
            size = len(buffers[0])
        request.mark_answered()
        self._pending_count -= 1
        self._pending_bytes -= request.size_bytes
        self._send(buffers, size)
        if self._paused:
            self._resume()
        if self.state is State.DRAINING and not self._pending_count and self._link is not None:
            self._link.close()

    def _send(self, buffers: list[Buffer], size: int = 0) -> None:
        if self.state is State.CLOSED or self._link is None:
            return      # S2
        self._link.send(Outgoing(buffers, size or size_bytes(buffers)), now=not self._pending_count)
        if self._link.queued_bytes > self.options.send_bytes_max:
            self._link.notify_below = self.options.send_bytes_max // 2
            self._pause()

    # -- backpressure --------------------------------------------------------------------------------------------------
    def _pause(self) -> None:
        assert self._link is not None
        if not self._paused:
            self._paused = True
            self._link.pause_reading()

    def _resume(self) -> None:
        """Go on receiving if nothing speaks against it any more; from the loop, since a handler may be the caller."""
        if self._paused and not self._resuming and self._may_receive():
            self._resuming = True
            self._loop.call_soon(self._go_on)

    def _may_receive(self) -> bool:
        return (self._link is not None and self.state is not State.CLOSED
                and self._pending_bytes <= self.options.pending_bytes_max
                and self._link.queued_bytes <= self.options.send_bytes_max)

    def _go_on(self) -> None:
        self._resuming = False
        if not self._paused or not self._may_receive():
            return
        self._paused = False
        self._late = True
        self._pump()        # frames that were received before the pause
        self._late = False
        if not self._paused and self._may_receive():
            self._link.resume_reading()     # type: ignore[union-attr]  # _may_receive looked

    # -- ending --------------------------------------------------------------------------------------------------------
    def drain(self) -> None:
        """Refuse new calls; close when the last answer is out."""
        if self.state is State.OPEN and self._pending_count:
            self.state = State.DRAINING
        elif self._link is not None and self.state is not State.CLOSED:
            self.state = State.DRAINING
            self._link.close()

    def abort(self, error: Exception | None = None) -> None:
        """End at once; handlers that wait are cancelled."""
        for task in list(self._tasks):
            task.cancel()
        if self._link is not None:
            self._link.abort(error)

    def _fail(self, error: RpcError) -> None:
        self.error = error
        self.state = State.CLOSED
        if self._link is not None:
            self._link.abort(error)

    def _check_idle(self) -> None:
        left = self._last_active + self.options.idle_s - self._loop.time()
        unsent = self._link.queued_bytes if self._link is not None else 0
        if left <= 0 and unsent and unsent == self._unsent_before:
            self._fail(ConnectionLost(f"{self.peer_text} takes no answers: {unsent} bytes wait for it"))
        elif left > 0 or unsent or self._pending_count:
            self._unsent_before = unsent
            self._timer = self._loop.call_later(left if left > 0 else self.options.idle_s, self._check_idle)
        else:
            self.drain()


class Server:
    """Listens and serves. `await start(host, port)`, then `await stop(grace_s)`."""

    def __init__(self, registry: ServiceRegistry, options: ServerOptions | None = None) -> None:
        self.registry = registry
        self.options = options or ServerOptions()
        self.connections: set[ServerConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._stopping = False
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: host and port."""
        return [sock.getsockname()[:2] for sock in self._listening]

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen on every address that the host has; gives the first. Port 0 is one of the kernel's choice."""
        for family, kind, protocol, _, address in await self._loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            try:
                self._listen(socket.socket(family, kind, protocol), address)
            except OSError as error:
                self._stop_listening()
                raise ConnectionLost(f"cannot listen on {address_text(address)}: {os_text(error)}") from error
        return self.addresses[0]

    def _listen(self, sock: socket.socket, address: object) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)      # type: ignore[arg-type]  # what getaddrinfo gave
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self._listening.append(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                _log.warning("cannot accept connections: %s", error)
                self._loop.remove_reader(listening)
                self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again, listening)
                return
            if len(self.connections) >= self.options.connections_max:
                sock.close()
                continue
            self.adopt(sock)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    def adopt(self, sock: socket.socket) -> ServerConnection | None:
        """Serve a connected socket, which is ours from now on. None if it was reset already."""
        connection = ServerConnection(self.registry, self.options, self._loop, self)
        try:
            link = SocketLink(self._loop, sock, connection)
        except OSError:
            sock.close()
            return None
        self.connections.add(connection)
        connection.attach(link)
        return connection

    def forget(self, connection: ServerConnection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop listening, let calls finish within the grace, end all connections (V4)."""
        self._stop_listening()
        for connection in list(self.connections):
            connection.drain()
        await self._wait_until_gone(grace_s)
        for connection in list(self.connections):
            connection.abort()
        await self._wait_until_gone(None)

    def _stop_listening(self) -> None:
        for sock in self._listening:
            self._loop.remove_reader(sock)
            sock.close()
        self._listening.clear()

    async def _wait_until_gone(self, timeout_s: float | None) -> None:
        if not self.connections:
            return
        self._all_gone = self._loop.create_future()
        await asyncio.wait([self._all_gone], timeout=timeout_s)
