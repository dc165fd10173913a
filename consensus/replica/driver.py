"""Drives the Raft core of one replica: inputs in, one at a time; effects out, in order, over ports. Runs in one event
loop; opens nothing itself.

    feed -> inputs -> step -> effects -> ports          An effect that must be durable first, or finds no room, gives a
              ^                            |            future: the rest of its step, and all inputs, wait for it. Other
              +---- what happened ---------+            replicas of the loop run on.

D1  Effects of a step are performed first to last, and the next input comes after the last of them.
D2  What stands behind PersistVote or PersistConfig is not performed before that is durable (R3).
D3  When something fails that must not, the replica stops: it performs nothing any more, so it neither votes nor leads,
    nor acknowledges.
D4  Proposals that wait together become one batch, as large as one request; its timestamp is taken when it is stepped,
    after all that was promised.
D5  A message whose timestamps are too far ahead of this clock is refused before the core sees it: whoever sent it is no
    live leader and gives no vote.

It costs some calls a batch, whatever is in it: no line here runs once an operation.
"""
from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, Future, TimerHandle, wait
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from consensus.raft import effects as fx
from consensus.raft.configuration import Config
from consensus.raft.core import Raft
from consensus.raft.effects import Effect
from consensus.raft.inputs import Input, LeaderLost, Propose, SendFailed, SendFailure, Sent, Start, Tick
from consensus.raft.messages import UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError
from consensus.replica.log_port import REQUEST_BYTES_MAX, Proposed
from consensus.replica.ports import Clock, Random, Transport
from consensus.replica.rounds import Call
from kudu_storage.errors import Collected, KuduStorageError

_log = logging.getLogger(__name__)
# Operations of one batch: few enough that applying them does not hold up a heartbeat for long.
BATCH_OPS_MAX: Final = 4096


class Proposals:
    """What was proposed and not stepped yet: a batch that grows until its turn comes."""

    __slots__ = ("calls", "payloads", "size_bytes")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.calls: list[Call] = []
        self.size_bytes = 0

    def has_room(self, count: int, size_bytes: int) -> bool:
        return not self.payloads or (self.size_bytes + size_bytes <= REQUEST_BYTES_MAX
                                     and len(self.payloads) + count <= BATCH_OPS_MAX)


class Handlers:
    """Whom the driver tells what is not a port's business. The replica sets these."""

    def __init__(self) -> None:
        ignore: Callable[[Any], None] = lambda _: None  # noqa: E731
        self.appended: Callable[[fx.Append], None] = ignore
        self.config_appended: Callable[[Config], None] = ignore
        self.committed: Callable[[int], None] = ignore
        self.aborted: Callable[[fx.AbortRounds], None] = ignore
        self.role_changed: Callable[[fx.RoleChanged], None] = ignore
        self.read_ready: Callable[[fx.ReadReady], None] = ignore
        self.read_failed: Callable[[fx.ReadFailed], None] = ignore
        self.done: Callable[[fx.Done], None] = ignore
        self.refused: Callable[[fx.Refused], None] = ignore
        self.safe_time: Callable[[fx.SafeTime], None] = ignore
        self.needs_copy: Callable[[fx.NeedsCopy], None] = ignore
        self.failed: Callable[[BaseException], None] = ignore


class Driver:
    """See above. `log` and `metadata` are ports whose calls may give a future to wait for."""

    def __init__(self, raft: Raft, loop: AbstractEventLoop, *, clock: Clock, random: Random, log: Any, metadata: Any,
                 transport: Transport, handlers: Handlers) -> None:
        self.raft = raft
        self.failure: BaseException | None = None
        self.unstepped_bytes = 0                    # of proposals
        self._loop = loop
        self._clock = clock
        self._random = random
        self._log = log
        self._metadata = metadata
        self._transport = transport
        self._handlers = handlers
        self._inputs: deque[Input | Proposals] = deque()
        self._proposals: Proposals | None = None    # the last of the inputs, if it may still grow
        self._blocked: Future[Any] | None = None
        self._running = True                        # not before start()
        self._again = False                         # the effect that gave a future must be performed again
        self._timer: TimerHandle | None = None
        self._unanswered: dict[str, list[tuple[int, int]]] = {}     # peer -> (seq, when it was sent)
        self._now_us = 0                            # of the last step
        self._ahead: set[str] = set()               # peers whose clocks are not believed
        self._patience_us = raft.state.timing.election_timeout_us
        self._perform: dict[type, Callable[[Any], Future[Any] | None]] = {
            fx.PersistVote: lambda e: metadata.persist_vote(e.term, e.voted_for),
            fx.PersistConfig: lambda e: metadata.persist_config(e.config),
            fx.Append: self._append, fx.Truncate: lambda e: log.truncate(e.batch, e.after),
            fx.AbortRounds: lambda e: handlers.aborted(e), fx.CommitUpTo: lambda e: handlers.committed(e.index),
            fx.SafeTime: lambda e: handlers.safe_time(e), fx.Send: self._send, fx.Replicate: self._replicate,
            fx.Reply: lambda e: transport.reply(e.call, e.message), fx.RoleChanged: self._role_changed,
            fx.Schedule: self._schedule, fx.ReadReady: lambda e: handlers.read_ready(e),
            fx.ReadFailed: lambda e: handlers.read_failed(e), fx.NeedsCopy: lambda e: handlers.needs_copy(e),
            fx.Done: lambda e: handlers.done(e), fx.Refused: lambda e: handlers.refused(e),
        }

    # -- in ------------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """The ports are ready. What came until now waited."""
        self._inputs.appendleft(Start())
        self._running = False
        self._run()

    def feed(self, event: Input) -> None:
        """An input, whenever the driver comes to it."""
        self._proposals = None
        self._inputs.append(event)
        if not self._running and self._blocked is None:
            self._run()

    def propose(self, payloads: list[bytes], size_bytes: int, call: Call) -> None:
        """Operations for the next batch. It is stepped in the loop's next turn: what comes in this one goes with it."""
        batch = self._proposals
        if batch is None or not batch.has_room(len(payloads), size_bytes):
            batch = self._proposals = Proposals()
            self._inputs.append(batch)
            if len(self._inputs) == 1 and not self._running and self._blocked is None:
                self._loop.call_soon(self._run)
        batch.payloads += payloads
        batch.calls.append(call)
        batch.size_bytes += size_bytes
        self.unstepped_bytes += size_bytes

    def received(self, sender: str, message: Any, call: object) -> None:
        """A message came, or word that one was not sent: ports.Deliver."""
        kind = type(message)
        if kind is UpdateResponse:
            self._answered(message.peer_id, message.seq)
        elif kind is UpdateRequest:
            # Operations of a Kudu leader come without a floor.
            latest = max(message.time_floor, getattr(message.payload, "last_timestamp", 0))
            if not self._believes(sender, latest):
                state = self.raft.state
                self._transport.reply(call, UpdateResponse(state.me, state.term, error=UpdateError.MALFORMED,
                                                           seq=message.seq))
                return
            if message.term >= self.raft.state.term:
                self._clock.observe(latest)
            if message.call is not call:
                message = _with_call(message, call)
        elif kind is VoteRequest and message.call is not call:
            message = _with_call(message, call)
        elif kind is VoteResponse and not self._believes(sender, message.time_floor):
            return      # with this vote we would have to lead with a clock that nobody follows
        self.feed(message)

    def _believes(self, sender: str, timestamp: int) -> bool:
        """Whether a peer's clock can be right; D5. Says once of each peer that it is not."""
        if self._clock.believes(timestamp):
            self._ahead.discard(sender)
            return True
        if sender not in self._ahead:
            self._ahead.add(sender)
            _log.warning("%s: %s is refused: its timestamp %d is further ahead of this machine's clock than clocks may "
                         "differ; look after the clocks of both", self.raft.state.me, sender, timestamp)
        return False

    def connection(self, peer: str, up: bool) -> None:
        """ports.OnConnection."""
        if not up:
            self._give_up(peer)
            self.feed(LeaderLost(peer))

    def _run(self) -> None:
        if self._running or self._blocked is not None:
            return
        self._running = True
        inputs = self._inputs
        try:
            while inputs and self._blocked is None and self.failure is None:
                event = inputs.popleft()
                if type(event) is Proposals:
                    if event is self._proposals:
                        self._proposals = None
                    event = self._as_input(event)
                clock = event.last_timestamp if type(event) is Propose else self._clock.timestamp()
                self._now_us = now_us = self._clock.now_us()
                effects = self.raft.step(event, now_us, self._random.luck(), clock)  # type: ignore[arg-type]
                self._go_through(effects, 0)
                if type(event) is Tick:
                    self._look_for_silence()
        except Exception as error:
            self.fail(error)
        finally:
            self._running = False

    def _as_input(self, batch: Proposals) -> Propose:
        self.unstepped_bytes -= batch.size_bytes
        timestamp = self._clock.timestamp()
        return Propose(len(batch.payloads), batch.size_bytes, timestamp, timestamp,
                       Proposed(batch.payloads, timestamp), batch.calls)

    # -- effects -------------------------------------------------------------------------------------------------------
    def _go_through(self, effects: list[Effect], at: int) -> None:
        perform = self._perform
        for i in range(at, len(effects)):
            effect = effects[i]
            future = perform[type(effect)](effect)
            if future is not None:
                self._wait_for(future, effects, i if self._again else i + 1)
                return

    def _wait_for(self, future: Future[Any], effects: list[Effect], at: int) -> None:
        self._again = False
        self._blocked = future
        future.add_done_callback(lambda done: self._go_on(done, effects, at))

    def _go_on(self, done: Future[Any], effects: list[Effect], at: int) -> None:
        self._blocked = None
        if done.cancelled() or (done.exception() is not None and self.failure is not None) or self.failure is not None:
            return
        try:
            done.result()
            self._running = True
            self._go_through(effects, at)
        except Exception as error:
            self.fail(error)
            return
        finally:
            self._running = False
        self._run()

    def _append(self, effect: fx.Append) -> Future[Any] | None:
        room: Future[Any] | None = self._log.append(effect.batch, effect.runs, effect.payload, effect.timestamp)
        if room is not None:
            self._again = True
            return room
        if effect.token is not None:
            self._handlers.appended(effect)
        for run in effect.runs:
            if run.config is not None:
                self._handlers.config_appended(run.config)
        return None

    def _role_changed(self, effect: fx.RoleChanged) -> None:
        self._clock.observe(effect.time_floor)
        self._unanswered.clear()
        self._handlers.role_changed(effect)

    def _schedule(self, effect: fx.Schedule) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = (effect.at_us - self._clock.now_us()) / 1e6
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.feed(Tick())

    # -- to the peers --------------------------------------------------------------------------------------------------
    def _send(self, effect: fx.Send) -> None:
        message = effect.message
        if type(message) is UpdateRequest:
            self._await_answer(effect.to, message.seq)
        self._transport.send(effect.to, message)

    def _replicate(self, effect: fx.Replicate) -> None:
        request = effect.request
        first = request.preceding.index + 1
        found = self._log.read(first, effect.last, REQUEST_BYTES_MAX)
        if found is not None:
            self._send_slice(effect.to, request, found)
            return
        fetched = self._log.fetch(first, effect.last, REQUEST_BYTES_MAX)
        fetched.add_done_callback(lambda done: self._fetched(effect.to, request, done))

    def _fetched(self, to: str, request: UpdateRequest, done: Future[Any]) -> None:
        if self.failure is not None or done.cancelled():
            return
        error = done.exception()
        if error is None and done.result().runs:
            if self.raft.state.leadership is not None and self.raft.state.term == request.term:
                self._send_slice(to, request, done.result())
        elif isinstance(error, KuduStorageError) or error is None:
            failure = SendFailure.COLLECTED if isinstance(error, Collected) else SendFailure.UNREACHABLE
            self.feed(SendFailed(to, request.seq, failure))
        else:
            self.fail(error)

    def _send_slice(self, to: str, r: UpdateRequest, found: Any) -> None:
        self._await_answer(to, r.seq)
        self._transport.send(to, UpdateRequest(
            r.leader_id, r.term, r.preceding, r.committed_index, found.runs, r.all_replicated_index, r.safe_time,
            r.time_floor, r.last_index, r.seq, found.payload))
        self.feed(Sent(to, r.seq, found.runs[-1].last, found.size_bytes))

    # -- answers that do not come --------------------------------------------------------------------------------------
    def _await_answer(self, peer: str, seq: int) -> None:
        """Calls are noted an eighth of the patience apart: an answer to a later one is one to all before."""
        waiting = self._unanswered.get(peer)
        if waiting is None:
            self._unanswered[peer] = [(seq, self._now_us)]
        elif not waiting or self._now_us - waiting[-1][1] > self._patience_us // 8:
            waiting.append((seq, self._now_us))

    def _answered(self, peer: str, seq: int) -> None:
        waiting = self._unanswered.get(peer)
        while waiting and waiting[0][0] <= seq:
            del waiting[0]

    def _look_for_silence(self) -> None:
        """Calls that were not answered for an election timeout have failed."""
        deadline_us = self._now_us - self._patience_us
        for peer, waiting in self._unanswered.items():
            if waiting and waiting[0][1] < deadline_us:
                self._give_up(peer)

    def _give_up(self, peer: str) -> None:
        waiting = self._unanswered.get(peer)
        if waiting:
            waiting.clear()
            self._inputs.append(SendFailed(peer, self.raft.state.seq))

    # -- the end -------------------------------------------------------------------------------------------------------
    def fail(self, error: BaseException) -> None:
        """D3."""
        if self.failure is None:
            self.failure = error
            self.close()
            self._handlers.failed(error)

    def close(self) -> None:
        """Nothing is performed any more. The calls that wait are given back by `unstepped`."""
        if self.failure is None:
            self.failure = StoppedError()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def quiet(self) -> None:
        """Until nothing is being written for a driver that was closed."""
        if self._blocked is not None:
            await wait([self._blocked])

    def unstepped(self) -> list[Call]:
        """Calls whose operations never reached the log."""
        calls = [call for item in self._inputs if type(item) is Proposals for call in item.calls]
        self._inputs.clear()
        self._proposals = None
        return calls


class StoppedError(Exception):
    """The replica was closed; not a failure."""


def _with_call(r: Any, call: object) -> Any:
    """replace(r, call=call), at a third of the cost."""
    if type(r) is VoteRequest:
        return VoteRequest(r.candidate_id, r.term, r.last_received, r.is_pre_election, r.ignore_live_leader, call)
    return UpdateRequest(r.leader_id, r.term, r.preceding, r.committed_index, r.runs, r.all_replicated_index,
                         r.safe_time, r.time_floor, r.last_index, r.seq, r.payload, call)
