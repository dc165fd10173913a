"""A server by its address: connects when there is something to call, and again after a loss. Retries no call.

H1  At most one connection at a time. A call goes to the one that is usable, else to a new one, where it waits.
H2  After a failed attempt to connect the next one waits (doubling, bounded); calls in between fail at once with that
    attempt's error, so that a caller with other replicas to ask does not wait for a dead one. A connection that was
    open and is lost is made again at the next call.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence

from kudu_storage.errors import ConnectionClosed
from kudu_storage.rpc.connection import Call, ClientConnection, OnDone, Reply
from kudu_storage.rpc.framing import Method, Payload
from kudu_storage.rpc.options import ConnectionOptions

BACK_OFF_S_MIN = 0.05
BACK_OFF_S_MAX = 2.0


class Channel:
    """Calls to one address; made and used on one loop."""

    def __init__(self, host: str, port: int, options: ConnectionOptions | None = None) -> None:
        self.host, self.port = host, port
        self.options = options or ConnectionOptions()
        self._loop = asyncio.get_running_loop()
        # Told of each connection that ends, or could not be made, before its calls are.
        self.on_end: Callable[[ClientConnection], None] | None = None
        self._connection: ClientConnection | None = None
        self._closed = False
        self._failures = 0
        self._not_before = 0.0

    @property
    def connection(self) -> ClientConnection | None:
        """The present connection, usable or not."""
        return self._connection

    def start_call(self, method: Method, message: Payload, on_done: OnDone, *, sidecars: Sequence[Payload] = (),
                   timeout_s: float | None = None, required_flags: Sequence[int] = (), request_id: bytes = b"") -> Call:
        """As ClientConnection.start_call."""
        return self._usable().start_call(method, message, on_done, sidecars=sidecars, timeout_s=timeout_s,
                                         required_flags=required_flags, request_id=request_id)

    async def call(self, method: Method, message: Payload, *, sidecars: Sequence[Payload] = (),
                   timeout_s: float | None = None, required_flags: Sequence[int] = (),
                   request_id: bytes = b"") -> Reply:
        """As ClientConnection.call."""
        return await self._usable().call(method, message, sidecars=sidecars, timeout_s=timeout_s,
                                         required_flags=required_flags, request_id=request_id)

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more calls; see ClientConnection.close."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close(grace_s)

    def _usable(self) -> ClientConnection:
        connection = self._connection
        if connection is not None and connection.is_usable:
            return connection
        if self._closed:
            raise ConnectionClosed(f"the channel to {self.host}:{self.port} is closed")
        if connection is not None and self._loop.time() < self._not_before:
            raise copy.copy(connection.error) if connection.error is not None else ConnectionClosed(
                f"the channel to {self.host}:{self.port} waits before it tries again")
        self._connection = connection = ClientConnection(self.options, loop=self._loop)
        connection.on_end = self._ended
        connection.open(self.host, self.port)
        return connection

    def _ended(self, connection: ClientConnection) -> None:
        if connection.was_open:
            self._failures = 0
        else:
            self._not_before = self._loop.time() + min(BACK_OFF_S_MIN * 2**self._failures, BACK_OFF_S_MAX)
            self._failures = min(self._failures + 1, 16)
        if self.on_end is not None:
            self.on_end(connection)
