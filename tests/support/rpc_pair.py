"""A client and a server connected by a socket pair, on one loop; and a peer that speaks raw bytes."""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from kudu_storage.rpc import ConnectionOptions, Method, Server, ServerOptions, Service, ServiceRegistry
from kudu_storage.rpc.connection import ClientConnection
from kudu_storage.rpc.framing import Frame, FrameReader
from kudu_storage.rpc.link import SocketLink
from kudu_storage.rpc.negotiation import CONNECTION_HEADER, ClientNegotiation, ServerNegotiation, State
from kudu_storage.rpc.server import ServerConnection

SERVICE = "test.Service"
ECHO = Method(SERVICE, "Echo")


def service(methods: Mapping[str, Any] | None = None, flags: tuple[int, ...] = ()) -> Service:
    return Service(SERVICE, {"Echo": lambda request: bytes(request.message), **(methods or {})}, flags)


def connect_raw(options: ConnectionOptions | None = None) -> tuple[ClientConnection, socket.socket]:
    """A client, and the other end of its stream."""
    near, far = socket.socketpair()
    far.setblocking(False)
    client = ClientConnection(options or ConnectionOptions(user="tester", idle_s=0))
    client.attach(SocketLink(asyncio.get_running_loop(), near, client))
    return client, far


def pair(methods: Mapping[str, Any] | None = None, *, flags: tuple[int, ...] = (),
         options: ConnectionOptions | None = None,
         server_options: ServerOptions | None = None) -> tuple[ClientConnection, ServerConnection, Server]:
    """A client and the server's side of its connection; negotiated when the loop has run."""
    client, far = connect_raw(options)
    server = Server(ServiceRegistry([service(methods, flags)]), server_options or ServerOptions(idle_s=0))
    served = server.adopt(far)
    assert served is not None
    return client, served, server


async def turns(count: int = 20) -> None:
    """Let the loop run so many turns: all that is ready happens."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], limit: int = 100_000) -> None:
    """Let the loop run until the condition holds; without waiting, so that no timer is made to expire."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not come to hold")


class RawPeer:
    """The other end of a stream, driven by hand: a server that negotiates, or a client that does."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.reader = FrameReader()
        self.frames: list[Frame] = []
        self.ended = False

    def close(self) -> None:
        self.sock.close()

    def receive(self) -> None:
        """Take what has come."""
        while not self.ended:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.ended = True
                return
            self.frames.extend(self.reader.feed(data))

    async def frame(self) -> Frame:
        """The next frame, when it has come."""

        def come() -> bool:
            self.receive()
            return bool(self.frames) or self.ended

        await until(come)
        assert self.frames, "the stream ended"
        return self.frames.pop(0)

    async def end(self) -> None:
        """Until the other side has ended the stream."""

        def come() -> bool:
            self.receive()
            return self.ended

        await until(come)

    async def send(self, data: bytes) -> None:
        """All of it, as the other side takes it."""
        left = memoryview(data)
        while left:
            try:
                left = left[self.sock.send(left):]
            except BlockingIOError:
                await asyncio.sleep(0)

    async def serve(self) -> None:
        """Negotiate as a server."""
        negotiation = ServerNegotiation()
        await until(self._header_has_come)
        while negotiation.state is not State.DONE:
            await self.send(negotiation.receive(await self.frame()))

    def _header_has_come(self) -> bool:
        try:
            if len(self.sock.recv(len(CONNECTION_HEADER), socket.MSG_PEEK)) < len(CONNECTION_HEADER):
                return False
        except BlockingIOError:
            return False
        assert self.sock.recv(len(CONNECTION_HEADER)) == CONNECTION_HEADER
        return True

    async def introduce(self) -> None:
        """Negotiate as a client."""
        negotiation = ClientNegotiation("tester")
        await self.send(negotiation.start())
        while negotiation.state is not State.DONE:
            await self.send(negotiation.receive(await self.frame()))


async def raw_client(server: Server) -> tuple[RawPeer, ServerConnection]:
    """A hand-driven client of a server, introduced."""
    near, far = socket.socketpair()
    served = server.adopt(far)
    assert served is not None
    peer = RawPeer(near)
    await peer.introduce()
    return peer, served
