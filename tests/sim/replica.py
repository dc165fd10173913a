"""A model of the driver: performs the core's effects, in order, over the ports. One object is one life of a process."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus.raft import effects as fx
from consensus.raft.core import Raft
from consensus.raft.inputs import Input, Sent
from consensus.raft.messages import Kind, UpdateRequest, UpdateResponse, VoteResponse
from consensus.raft.refusals import Refusal, UpdateError
from consensus.raft.timing import Timing
from sim.disk import ModelDisk, Op
from sim.observer import Observer

# At most so many operations a request (the model's "1 MiB").
OPS_PER_REQUEST_MAX = 5


class Crashed(Exception):
    """The process dies between two effects."""


class Waiter:
    """A client that waits for what becomes of its operation."""

    __slots__ = ("op_id", "term")

    def __init__(self, op_id: int, term: int) -> None:
        self.op_id = op_id
        self.term = term


class Replica:
    """The core, its rounds and its state machine: a counter."""

    def __init__(self, name: str, disk: ModelDisk, timing: Timing, observer: Observer, world: Any,
                 unsure_until: int) -> None:
        self.name = name
        self.disk = disk
        self.world = world
        self.observer = observer
        self.raft = Raft(name, disk.recovered(unsure_until), timing)
        self.rounds: dict[int, int] = {}       # index -> term of operations in the log that are not applied
        self.applied = 0
        self.count = 0
        self.waiters: dict[int, list[Waiter]] = {}
        self.reads: list[tuple[int, int]] = []
        self.last_refusal: Refusal | None = None
        self.last_error: UpdateError | None = None
        self.effects_until_crash: int | None = None
        self.admits: int | None = None         # how many operations of a request find memory; None: all
        self._perform: dict[type, Callable[[Any], None]] = {
            fx.PersistVote: self._persist_vote, fx.PersistConfig: self._persist_config, fx.Append: self._append,
            fx.Truncate: self._truncate, fx.AbortRounds: self._abort, fx.CommitUpTo: self._commit,
            fx.SafeTime: self._safe_time, fx.Send: self._send, fx.Replicate: self._replicate, fx.Reply: self._reply,
            fx.RoleChanged: self._role_changed, fx.Schedule: self._schedule, fx.ReadReady: self._read_ready,
            fx.ReadFailed: self._read_failed, fx.NeedsCopy: self._nothing, fx.Done: self._nothing,
            fx.Refused: self._refused,
        }
        self._recover()

    def _recover(self) -> None:
        """Committed operations are applied again, the others begin as rounds."""
        committed = self.raft.state.commit_index
        for op in self.disk.ops:
            if op.index <= committed:
                self._apply(op)
            else:
                self.rounds[op.index] = op.term
        self.applied = committed

    # -- in ------------------------------------------------------------------------------------------------------------
    def step(self, event: Input) -> None:
        """One input, all its effects, and what the driver itself answers to them."""
        world = self.world
        queue: list[Input] = [event]
        while queue:
            event = queue.pop(0)
            self.queue, self.current = queue, event
            if type(event) is UpdateRequest:
                event = self._admitted(event)
            term, state = self.raft.state.term, self.raft.state
            effects = self.raft.step(event, world.now_us, world.random.random(), world.timestamp(self.name))
            for effect in effects:
                if self.effects_until_crash is not None:
                    self.effects_until_crash -= 1
                    if self.effects_until_crash < 0:
                        raise Crashed
                self._perform[type(effect)](effect)
            self.observer.stepped(self, event, term, state)

    def _admitted(self, request: UpdateRequest) -> UpdateRequest:
        if self.admits is None or not request.runs:
            return request
        assert isinstance(request.payload, list)
        ops = request.payload[:self.admits]
        from sim.disk import runs_of
        return UpdateRequest(request.leader_id, request.term, request.preceding, request.committed_index, runs_of(ops),
                             request.all_replicated_index, request.safe_time, request.time_floor, request.last_index,
                             request.seq, ops, request.call)

    # -- effects -------------------------------------------------------------------------------------------------------
    def _nothing(self, _: object) -> None:
        pass

    def _persist_vote(self, effect: fx.PersistVote) -> None:
        self.observer.vote_persisted(self.name, effect.term, effect.voted_for)
        self.disk.persist_vote(effect.term, effect.voted_for)

    def _persist_config(self, effect: fx.PersistConfig) -> None:
        self.disk.persist_config(effect.config)

    def _append(self, effect: fx.Append) -> None:
        payload = effect.payload
        run = effect.runs[0]
        if run.kind is not Kind.DATA and payload is None:
            payload = [Op(run.term, run.first, run.kind, effect.timestamp, None, run.config)]
        elif not isinstance(payload, list):
            # A proposal: its bytes are made now, when its place is known.
            assert isinstance(payload, tuple)
            timestamps, values = payload
            payload = [Op(run.term, run.first + i, run.kind, timestamps[i], v, None) for i, v in enumerate(values)]
            for op in payload:
                self.waiters.setdefault(op.index, []).append(Waiter(op.value, op.term))  # type: ignore[arg-type]
        self.disk.append(effect.batch, effect.runs, payload, effect.timestamp)
        for r in effect.runs:
            for index in range(r.first, r.last + 1):
                assert index not in self.rounds, f"R16: a round for {index} was there already"
                self.rounds[index] = r.term
        self.observer.appended(self, effect.runs[0].first, effect.runs[-1].last)
        self.world.appended(self)

    def _truncate(self, effect: fx.Truncate) -> None:
        self.observer.truncated(self, effect.after)
        self.disk.truncate(effect.batch, effect.after)
        self.world.appended(self)

    def _abort(self, effect: fx.AbortRounds) -> None:
        for index in range(effect.first.index, effect.last.index + 1):
            assert index in self.rounds, f"R12: {self.name} aborts {index} which is no round of its"
            del self.rounds[index]

    def _commit(self, effect: fx.CommitUpTo) -> None:
        self.observer.committed(self, self.applied + 1, effect.index)
        for op in self.disk.ops[self.applied:effect.index]:
            assert self.rounds.pop(op.index, None) == op.term, f"R16: {self.name} commits {op} which is no round of its"
            self._apply(op)
            for waiter in self.waiters.pop(op.index, ()):
                # Only now is it certain: while the operation was merely replaced here, it could still come back.
                if waiter.term == op.term:
                    self.world.history.applied(waiter.op_id, self.count, self.world.now_us)
                else:
                    self.world.history.failed(waiter.op_id)
        # Terms of a log never go down: behind what is committed now, no operation of an older term can follow.
        term = self.disk.ops[effect.index - 1].term
        for index in [i for i, waiting in self.waiters.items() if i > effect.index and waiting[0].term < term]:
            for waiter in self.waiters[index]:
                if waiter.term < term:
                    self.world.history.failed(waiter.op_id)
            self.waiters[index] = [w for w in self.waiters[index] if w.term >= term]
            if not self.waiters[index]:
                del self.waiters[index]
        self.applied = effect.index
        self.disk.commit_index = effect.index
        while self.reads and self.reads[0][1] <= self.applied:
            self.world.history.applied(self.reads.pop(0)[0], self.count, self.world.now_us)

    def _apply(self, op: Op) -> None:
        if op.kind is Kind.DATA:
            self.count += 1

    def _safe_time(self, effect: fx.SafeTime) -> None:
        self.observer.safe_time(self, effect.timestamp)

    def _send(self, effect: fx.Send) -> None:
        self.world.send(self.name, effect.to, effect.message)

    def _replicate(self, effect: fx.Replicate) -> None:
        r = effect.request
        found = self.disk.read(r.preceding.index + 1, effect.last, OPS_PER_REQUEST_MAX)
        assert found is not None
        self.world.send(self.name, effect.to, UpdateRequest(
            r.leader_id, r.term, r.preceding, r.committed_index, found.runs, r.all_replicated_index, r.safe_time,
            r.time_floor, r.last_index, r.seq, found.payload))
        self.queue.append(Sent(effect.to, r.seq, found.runs[-1].last, found.size_bytes))

    def _reply(self, effect: fx.Reply) -> None:
        message = effect.message
        if type(message) is VoteResponse:
            self.observer.vote_told(self, self.current, message)
        elif type(message) is UpdateResponse:
            self.last_error = message.error
            self.observer.acknowledged(self, message)
        self.world.send(self.name, effect.call, message)

    def _role_changed(self, effect: fx.RoleChanged) -> None:
        self.observer.role_changed(self, effect)
        self.world.role_changed(self, effect)

    def _schedule(self, effect: fx.Schedule) -> None:
        self.world.schedule_tick(self, effect.at_us)

    def _read_ready(self, effect: fx.ReadReady) -> None:
        token = effect.token
        assert isinstance(token, int)
        if effect.index <= self.applied:
            self.world.history.applied(token, self.count, self.world.now_us)
        else:
            self.reads.append((token, effect.index))

    def _read_failed(self, effect: fx.ReadFailed) -> None:
        self.world.history.failed(effect.token)

    def _refused(self, effect: fx.Refused) -> None:
        self.last_refusal = effect.refusal
        if effect.token is not None:
            self.world.history.failed(effect.token)
