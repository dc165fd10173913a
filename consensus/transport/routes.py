"""Where incoming messages go: one Route for each replica that this server has, by tablet id.

A route also knows by which connections which peer speaks, so that the end of a peer's process is news at once.
May not touch: sockets. Runs on one loop's thread.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from consensus.raft.inputs import SendFailed
from consensus.raft.messages import Message
from consensus.transport.names import Names
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.services import Peer, Request

if TYPE_CHECKING:
    from consensus.transport.admin import ReplicaAdmin

# A peer's connection is up, or its process is gone. From the loop; must not block.
OnConnection: TypeAlias = Callable[[str, bool], None]


class Deliver(Protocol):
    """From the loop; must not block. `call` is what `reply` wants back, None for answers and for RunElection."""

    def __call__(self, from_peer: str, message: Message | SendFailed, call: IncomingCall | None, /) -> None: ...


class IncomingCall:
    """A request that wants an answer. The transport answers it; the core hands it through unread."""

    __slots__ = ("request", "route")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.route: Route | None = None

    def respond(self, data: bytes) -> None:
        """Answer, unless that was done already: by `Route.close`, or because the replica failed on the request."""
        route = self.route
        if route is not None and self in route.calls:
            route.calls.discard(self)
            if not self.request.answered:
                self.request.respond(data)


class Route:
    """One replica of this server."""

    def __init__(self, tablet_id: str, names: Names, deliver: Deliver, on_connection: OnConnection | None,
                 admin: ReplicaAdmin | None) -> None:
        self.tablet_id, self.names, self.deliver, self.admin = tablet_id, names, deliver, admin
        self.on_connection = on_connection
        self.calls: set[IncomingCall] = set()       # not answered yet
        self.heard: dict[Peer, str] = {}            # who speaks by a connection
        self._callbacks: dict[Peer, Callable[[Exception | None], None]] = {}

    def take(self, call: IncomingCall, sender: str) -> None:
        """A request of `sender`: note by which connection it speaks, and that it waits for an answer."""
        call.route = self
        self.calls.add(call)
        connection = call.request.peer
        if self.heard.get(connection) != sender:
            self._hear(connection, sender)

    def _hear(self, connection: Peer, sender: str) -> None:
        before = self.heard.get(connection)
        is_new = sender not in self.heard.values()
        self.heard[connection] = sender
        if before is None:
            callback = self._callbacks[connection] = partial(self._ended, connection)
            connection.end_callbacks.append(callback)
        if is_new and self.on_connection is not None:
            self.on_connection(sender, True)

    def _ended(self, connection: Peer, error: Exception | None) -> None:
        del error   # however it ended: a live leader keeps its connection
        self._callbacks.pop(connection, None)
        sender = self.heard.pop(connection, None)
        if sender is not None and self.on_connection is not None and sender not in self.heard.values():
            self.on_connection(sender, False)

    def close(self) -> None:
        """Nothing is delivered any more; whoever waits for an answer gets one that says so."""
        self.on_connection = None
        for connection, callback in self._callbacks.items():
            if callback in connection.end_callbacks:
                connection.end_callbacks.remove(callback)
        self._callbacks.clear()
        self.heard.clear()
        calls, self.calls = self.calls, set()
        for call in calls:
            if not call.request.answered:
                call.request.fail("Service unavailable: the replica is shutting down",
                                  RpcCode.ERROR_UNAVAILABLE)
