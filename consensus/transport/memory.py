"""The transport of replicas in one program and on one event loop: messages are handed over as they are.

    network = MemoryNetwork()
    RaftReplica(..., me="a", transport=network.transport("a"))

As over a wire, delivery is not promised, nothing is delivered from within a call, and a replica that goes resets its
connections. Payloads are not copied. May not touch: files, sockets.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from consensus.raft.inputs import SendFailed
from consensus.raft.messages import RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.transport.names import Names
from kudu_storage.errors import ConnectionLost


class _Call(NamedTuple):
    """Who wants an answer."""

    caller: str


class MemoryNetwork:
    """Who can be reached, and by whom. `names` is shared, so a new member has its name everywhere."""

    def __init__(self) -> None:
        self.names = Names()
        self._here: dict[str, MemoryTransport] = {}
        self._blocked: set[tuple[str, str]] = set()

    def transport(self, me: str) -> MemoryTransport:
        self.names.add(me)
        return MemoryTransport(self, me)

    # -- faults --------------------------------------------------------------------------------------------------------
    def isolate(self, name: str) -> None:
        """Nothing goes to it or comes from it until `heal`."""
        for other in self._here:
            self._blocked |= {(name, other), (other, name)}

    def heal(self) -> None:
        self._blocked.clear()

    # -- for transports ------------------------------------------------------------------------------------------------
    def join(self, transport: MemoryTransport) -> None:
        self._here[transport.me] = transport

    def leave(self, transport: MemoryTransport) -> None:
        if self._here.get(transport.me) is transport:
            del self._here[transport.me]
            for other in self._here.values():
                if (transport.me, other.me) not in self._blocked:
                    other.lost(transport.me)

    def carry(self, sender: str, to: str, message: Any, call: object) -> bool:
        """Whether there is anybody to take it."""
        if (sender, to) in self._blocked:
            return True             # nobody knows that it is lost
        target = self._here.get(to)
        if target is None:
            return False
        target.take(sender, message, call)
        return True

    async def copy(self, sender: str, to: str, data: bytes) -> None:
        await asyncio.sleep(0)
        target = self._here.get(to)
        if target is None or target.on_copy is None or (sender, to) in self._blocked or (to, sender) in self._blocked:
            raise ConnectionLost(f"{to} cannot be reached", maybe_sent=False)
        await target.on_copy(data)


class MemoryTransport:
    """consensus.replica.ports.Network."""

    def __init__(self, network: MemoryNetwork, me: str) -> None:
        self.me = me
        self.names = network.names
        self._network = network
        self.on_copy: Callable[[bytes], Awaitable[None]] | None = None
        self._deliver: Callable[[str, Any, object], None] | None = None
        self._on_connection: Callable[[str, bool], None] | None = None
        self._call = _Call(me)
        self._arrived: list[tuple[str, Any, object]] = []

    async def start(self, deliver: Callable[[str, Any, object], None],
                    on_connection: Callable[[str, bool], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deliver, self._on_connection = deliver, on_connection
        self._network.join(self)

    async def stop(self) -> None:
        self._network.leave(self)
        self._deliver = self._on_connection = None
        self._arrived.clear()

    def set_address(self, peer: str, address: str) -> None:
        """In one program nobody needs one."""

    def send(self, to: str, message: UpdateRequest | VoteRequest | RunElection) -> None:
        if not self._network.carry(self.me, to, message, self._call) and type(message) is UpdateRequest:
            self.take(to, SendFailed(to, message.seq), None)

    def reply(self, call: object, message: UpdateResponse | VoteResponse) -> None:
        if isinstance(call, _Call):
            self._network.carry(self.me, call.caller, message, None)

    async def copy(self, to: str, data: bytes) -> None:
        """Give a peer a snapshot, until it is installed. Raises ConnectionLost."""
        await self._network.copy(self.me, to, data)

    def take(self, sender: str, message: Any, call: object) -> None:
        if not self._arrived:
            self._loop.call_soon(self._hand_over)
        self._arrived.append((sender, message, call))

    def lost(self, peer: str) -> None:
        """The connection to a peer was reset."""
        if self._on_connection is not None:
            self._loop.call_soon(self._on_connection, peer, False)

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        for sender, message, call in arrived:
            if self._deliver is not None:
                self._deliver(sender, message, call)
