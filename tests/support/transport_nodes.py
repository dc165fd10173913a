"""Replicas without a core: transports on real loopback sockets, and what was delivered to them."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from consensus_wire import TABLET

from consensus.raft.configuration import Change, Config, Peer
from consensus.raft.effects import Role
from consensus.raft.refusals import Refusal
from consensus.raft.status import Status
from consensus.transport import Endpoint, TransportOptions
from consensus.transport.routes import IncomingCall
from kudu_storage.common.opid import OpId

DEADLINE_S = 20.0


class Node:
    """One replica of an endpoint."""

    def __init__(self, endpoint: Endpoint, tablet_id: str = TABLET, admin: Any = None) -> None:
        self.endpoint = endpoint
        self.name = endpoint.me
        self.transport = endpoint.transport(tablet_id, admin)
        self.received: asyncio.Queue[tuple[str, Any, IncomingCall | None]] = asyncio.Queue()
        self.connections: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def start(self) -> None:
        await self.transport.start(lambda *delivered: self.received.put_nowait(delivered),
                                   lambda peer, up: self.connections.put_nowait((peer, up)))

    async def next(self) -> tuple[str, Any, IncomingCall | None]:
        async with asyncio.timeout(DEADLINE_S):
            return await self.received.get()

    async def next_connection(self) -> tuple[str, bool]:
        async with asyncio.timeout(DEADLINE_S):
            return await self.connections.get()


def introduce(nodes: Sequence[Node]) -> None:
    """Tell each endpoint where the others are."""
    for node in nodes:
        for other in nodes:
            if other.endpoint is not node.endpoint:
                node.transport.set_address(other.name, other.endpoint.address)


@asynccontextmanager
async def group(*names: str, admin: Any = None, options: TransportOptions | None = None) -> AsyncIterator[list[Node]]:
    """Started replicas of one tablet that know each other."""
    nodes = [Node(Endpoint(name, "127.0.0.1:0", options=options), admin=admin) for name in names]
    for node in nodes:
        await node.start()
    introduce(nodes)
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.transport.stop()


class FakeAdmin:
    """Says what it was made to say, and remembers what it was asked."""

    def __init__(self, me: str = "a") -> None:
        self.state: Status | None = Status(
            Role.LEADER, 3, me, me, Config((Peer(me, address="127.0.0.1:1"), Peer("b")), 7), None, OpId(3, 12), 12, 11,
            10, 0, 0, ())
        self.committed: OpId | None = OpId(3, 11)
        self.refusal: Refusal | None = None
        self.error: Exception | None = None
        self.asked: list[Any] = []

    def status(self) -> Status | None:
        return self.state

    def last_op_id(self, committed: bool) -> OpId | None:
        return self.committed if committed else OpId(3, 12)

    def _answer(self, *asked: Any) -> Refusal | None:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return self.refusal

    async def change_config(self, changes: tuple[Change, ...], cas_opid_index: int | None) -> Refusal | None:
        return self._answer("change", changes, cas_opid_index)

    async def unsafe_change_config(self, retained: frozenset[str]) -> Refusal | None:
        return self._answer("unsafe", retained)

    async def step_down(self) -> Refusal | None:
        return self._answer("step down")

    async def transfer_leadership(self, to: str | None) -> Refusal | None:
        return self._answer("transfer", to)
