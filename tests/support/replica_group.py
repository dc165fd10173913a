"""Groups of RaftReplicas in one event loop, on real logs, with short timeouts."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from replica_process import free_addresses

from consensus import MemoryNetwork, RaftReplica, StateMachine
from consensus.raft import Timing
from kudu_storage._native.operations import Operation

MS = 1000
# Short enough for tests, long enough that a busy machine does not look like a dead leader.
TIMING = Timing(heartbeat_us=60 * MS, election_timeout_us=400 * MS, backoff_us_max=2000 * MS, late_us=200 * MS)
DEADLINE_S = 30.0


class Register(StateMachine):
    """Appends what it is given to a list; says how long that is."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.applied: list[int] = []

    def apply(self, op: Operation) -> int:
        assert op.payload is not None
        text = op.payload.decode()
        if text.startswith("!"):
            raise ValueError(text[1:])
        self.values.append(text)
        self.applied.append(op.index)
        return len(self.values)

    def snapshot(self) -> bytes:
        return json.dumps(self.values).encode()

    def restore(self, data: bytes) -> None:
        self.values = json.loads(data)


async def until(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition. AssertionError after the deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {deadline_s} s: {what or condition}"
        await asyncio.sleep(0.001)


class Group:
    """Replicas by name, those that run now. Options are RaftReplica's."""

    def __init__(self, folder: Path, names: str = "abc", *, wire: bool = False, **options: Any) -> None:
        """`wire`: over krpc on the loopback."""
        self.folder = folder
        self.names = names
        self.wire = wire
        self.peers: Mapping[str, str] = free_addresses(names) if wire else {
            n: f"127.0.0.1:{7000 + i}" for i, n in enumerate(names)}
        self.network = MemoryNetwork()
        self.options: dict[str, Any] = {"timing": TIMING, **options}
        self.replicas: dict[str, RaftReplica] = {}

    def make(self, name: str, **options: Any) -> RaftReplica:
        merged: dict[str, Any] = {"sm": Register(), "peers": self.peers, **self.options, **options}
        transport = None if self.wire else self.network.transport(name)
        replica = RaftReplica(self.folder / name, me=name, transport=transport, **merged)
        self.replicas[name] = replica
        return replica

    async def start(self, name: str, **options: Any) -> RaftReplica:
        replica = self.make(name, **options)
        await replica.start()
        return replica

    async def stop(self, name: str) -> None:
        await self.replicas.pop(name).close()

    async def __aenter__(self) -> Group:
        for name in self.names:
            await self.start(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.replicas):
            await self.stop(name)

    async def leader(self) -> RaftReplica:
        """One that has committed something in its term."""
        def found() -> RaftReplica | None:
            leaders = [r for r in self.replicas.values() if r.is_leader]
            newest = max(leaders, key=lambda r: r.status().term, default=None)
            return newest
        while True:
            await until(found, "a leader")
            leader = found()
            assert leader is not None
            try:
                await leader.read_barrier(timeout=2)
                return leader
            except Exception:
                continue

    async def level(self) -> None:
        """Until all have applied the same."""
        def is_level() -> bool:
            states = [r.status() for r in self.replicas.values()]
            return len({(s.last, s.applied_index) for s in states}) == 1 \
                and states[0].last.index == states[0].applied_index
        await until(is_level, "all replicas level")

    def values(self, name: str) -> list[str]:
        machine = self.replicas[name].machine
        assert isinstance(machine, Register)
        return machine.values
