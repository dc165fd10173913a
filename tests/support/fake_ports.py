"""A driver whose ports are the test's: what it does is a list of words; what takes time ends when the test says so."""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from consensus.raft import Config, Raft, Recovered, Run, Timing, voters
from consensus.raft.messages import UpdateRequest
from consensus.replica.clock import HybridClock
from consensus.replica.driver import Driver, Handlers
from consensus.replica.ports import Slice


class Luck:
    def luck(self) -> float:
        return 0.0


class FakeLog:
    """Appends are noted. `full`: there is no room. `cached`: reads find something."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.full: asyncio.Future[None] | None = None
        self.cached = True
        self.fetching: asyncio.Future[Slice] | None = None
        self.runs: list[Run] = []

    def append(self, batch: int, runs: Sequence[Run], payload: object, timestamp: int) -> asyncio.Future[None] | None:
        if self.full is not None:
            return self.full
        self.runs += runs
        self.said.append(f"append {batch}: {' '.join(map(str, runs))}")
        return None

    def truncate(self, batch: int, after: int) -> None:
        self.runs = [r for r in self.runs if r.first <= after]
        self.said.append(f"truncate {batch} after {after}")

    def read(self, first: int, last: int, max_bytes: int) -> Slice | None:
        return self.slice(first, last) if self.cached else None

    def fetch(self, first: int, last: int, max_bytes: int) -> asyncio.Future[Slice]:
        self.said.append(f"fetch {first}-{last}")
        self.fetching = asyncio.get_running_loop().create_future()
        return self.fetching

    def slice(self, first: int, last: int) -> Slice:
        runs = tuple(Run(r.term, max(r.first, first), min(r.last, last), r.kind, 0, r.config) for r in self.runs
                     if r.last >= first and r.first <= last)
        return Slice(runs, [], 100)


class FakeMetadata:
    """Each write is done when the test sets the result of the first of `pending`."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.pending: list[asyncio.Future[None]] = []

    def _write(self, what: str) -> asyncio.Future[None]:
        self.said.append(what)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        return future

    def persist_vote(self, term: int, voted_for: str | None) -> asyncio.Future[None]:
        return self._write(f"vote {term} {voted_for}")

    def persist_config(self, config: Config) -> asyncio.Future[None]:
        return self._write(f"config {config}")


class FakeTransport:
    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.sent: list[tuple[str, Any]] = []
        self.replies: list[tuple[object, Any]] = []

    def send(self, to: str, message: Any) -> None:
        self.sent.append((to, message))
        if type(message) is UpdateRequest:
            self.said.append(f"send {to}: update {' '.join(map(str, message.runs)) or 'empty'}")
        else:
            self.said.append(f"send {to}: {type(message).__name__} {message.term if hasattr(message, 'term') else ''}")

    def reply(self, call: object, message: Any) -> None:
        self.replies.append((call, message))
        self.said.append(f"reply {call}: {type(message).__name__}")


class Bench:
    """A driver on fake ports, in a running event loop (best one of virtual time)."""

    def __init__(self, recovered: Recovered | None = None, timing: Timing | None = None, *, start: bool = True) -> None:
        self.said: list[str] = []
        self.log = FakeLog(self.said)
        self.metadata = FakeMetadata(self.said)
        self.transport = FakeTransport(self.said)
        self.handlers = Handlers()
        self.handlers.committed = lambda index: self.said.append(f"commit {index}")
        self.handlers.failed = lambda error: self.said.append(f"failed {error}")
        self.handlers.refused = lambda effect: self.said.append(f"refused {effect.refusal.name}")
        loop = asyncio.get_running_loop()
        # A term above 0: it waits for an election timeout before it stands.
        self.raft = Raft("a", recovered or Recovered(voters("a", "b", "c"), term=1), timing)
        self.driver = Driver(self.raft, loop, clock=HybridClock(loop), random=Luck(), log=self.log,
                             metadata=self.metadata, transport=self.transport, handlers=self.handlers)
        if start:
            self.driver.start()

    async def wrote(self) -> None:
        """The first write of the metadata that is under way is durable."""
        self.metadata.pending.pop(0).set_result(None)
        await asyncio.sleep(0)

    def take(self) -> list[str]:
        """What was done since the last call."""
        taken, self.said[:] = list(self.said), []
        return taken
