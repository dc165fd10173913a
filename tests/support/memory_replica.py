"""A replica without disk, for tests of the transport: the core, a log in memory that is durable at once, no rows."""
from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from consensus.raft import effects as fx
from consensus.raft.configuration import Config
from consensus.raft.core import Raft
from consensus.raft.inputs import LogDurable, SendFailed, Sent, Start, Tick
from consensus.raft.messages import Kind, Message, Run, UpdateRequest
from consensus.raft.state import Recovered
from consensus.transport import Endpoint, IncomingCall, Operations
from kudu_storage._native.consensus_ops import log_body, log_runs
from kudu_storage.protos import message_class

OPS_PER_REQUEST_MAX = 50


class MemoryReplica:
    """Performs the core's effects on a real loop, clock and transport."""

    def __init__(self, endpoint: Endpoint, tablet_id: str, config: Config) -> None:
        self.raft = Raft(endpoint.me, Recovered(config))
        self.transport = endpoint.transport(tablet_id)
        self.ops: list[bytes] = []          # a LogEntryBatchPB each; operation 1 is the first
        self.connections: list[tuple[str, bool]] = []
        self.failure: Exception | None = None
        self._stepped = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._last_timestamp = 0

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.transport.start(self._deliver, lambda peer, up: self.connections.append((peer, up)))
        self.feed(Start())

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.transport.stop()

    async def until(self, condition: Callable[[], Any], deadline_s: float = 30.0) -> None:
        """Until it holds after some step."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                if self.failure is not None:
                    raise self.failure
                self._stepped.clear()
                await self._stepped.wait()

    # -- in ------------------------------------------------------------------------------------------------------------
    def _deliver(self, sender: str, message: Message | SendFailed, call: IncomingCall | None) -> None:
        del sender, call        # the message has both
        self.feed(message)

    def _timestamp(self) -> int:
        self._last_timestamp = max(int(time.time() * 1e6) << 12, self._last_timestamp + 1)
        return self._last_timestamp

    def feed(self, event: Any) -> None:
        queue = [event]
        try:
            while queue:
                for effect in self.raft.step(queue.pop(0), int(self._loop.time() * 1e6), random.random(),
                                             self._timestamp()):
                    self._perform(effect, queue)
            self.raft.check()
        except Exception as error:
            self.failure = error
        self._stepped.set()

    # -- effects -------------------------------------------------------------------------------------------------------
    def _perform(self, effect: Any, queue: list[Any]) -> None:
        kind = type(effect)
        if kind is fx.Append:
            self._append(effect)
            self._loop.call_soon(self.feed, LogDurable(effect.batch))
        elif kind is fx.Truncate:
            del self.ops[effect.after:]
            self._loop.call_soon(self.feed, LogDurable(effect.batch))
        elif kind is fx.Send:
            self.transport.send(effect.to, effect.message)
        elif kind is fx.Replicate:
            queue.append(self._replicate(effect))
        elif kind is fx.Reply:
            self.transport.reply(effect.call, effect.message)
        elif kind is fx.Schedule:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(effect.at_us / 1e6, self.feed, Tick())

    def _append(self, effect: fx.Append) -> None:
        first, last = effect.runs[0].first, effect.runs[-1].last
        assert first == len(self.ops) + 1
        if effect.payload is None:
            assert effect.runs[0].kind is Kind.NO_OP
            made: Any = message_class("kudu.log.LogEntryBatchPB")()
            replicate = made.entry.add(type=1).replicate
            replicate.id.term, replicate.id.index = effect.runs[0].term, first
            replicate.timestamp, replicate.op_type = effect.timestamp, 1
            replicate.noop_request.timestamp_in_opid_order = True
            self.ops.append(made.SerializeToString())
            return
        assert isinstance(effect.payload, Operations)
        self.ops += [log_body([effect.payload.body], index, index) for index in range(first, last + 1)]
        for run in effect.runs:
            if run.config is not None:
                for peer in run.config.peers:
                    self.transport.set_address(peer.peer_id, peer.address)

    def _replicate(self, effect: fx.Replicate) -> Sent:
        r = effect.request
        first = r.preceding.index + 1
        parts = self.ops[first - 1:min(effect.last, first + OPS_PER_REQUEST_MAX - 1)]
        runs = tuple([Run(term, start, end, Kind(kind), size)
                      for term, start, end, kind, size, _ in log_runs(b"".join(parts))[0]])
        self.transport.send(effect.to, UpdateRequest(
            r.leader_id, r.term, r.preceding, r.committed_index, runs, r.all_replicated_index, r.safe_time,
            r.time_floor, r.last_index, r.seq, parts))
        return Sent(effect.to, r.seq, runs[-1].last, sum(map(len, parts)))
