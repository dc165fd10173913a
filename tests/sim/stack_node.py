"""Machines of the full simulation: a shipped RaftReplica on a disk that can crash, and what listens to it.

Beside each log runs the model of the other simulator (disk.py): what is durable is known twice, and after a crash the
log must be one that the model allows.
"""
from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from crash_disk import CrashedFolder, Fate
from virtual_time import VirtualLoop

from consensus import RaftReplica, StateMachine
from consensus.raft import effects as fx
from consensus.raft.configuration import Config
from consensus.raft.effects import Role
from consensus.raft.messages import Kind, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.timing import MS, Timing
from consensus.replica.log_port import Proposed
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.operations import operations
from kudu_storage.common.opid import OpId
from kudu_storage.errors import (
    CorruptionError,
    InvalidArgument,
    KuduStorageError,
    NoSpace,
    ReplicaClosed,
    ReplicaFailed,
)
from sim.disk import ModelDisk, Op, log_of
from sim.telling import became, received

if TYPE_CHECKING:
    from sim.stack import StackWorld

TIMING: Final = Timing(heartbeat_us=100 * MS, election_timeout_us=300 * MS, backoff_us_max=900 * MS, late_us=50 * MS,
                       leader_lost_spread_us=20 * MS, commit_delay_us=2 * MS, requests_in_flight_max=3,
                       bytes_in_flight_max=2000)
# Wall clocks differ by at most this from each other, jumps included.
CLOCK_ERROR_US: Final = 100 * MS


class StackLoop(VirtualLoop):
    """What an executor does takes some virtual time, and no thread. Nothing is read from descriptors."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def run_in_executor(self, executor: Any, function: Any, *arguments: Any) -> Any:
        future = self.create_future()
        self.call_later(self._random.choice((0.0002, 0.001, 0.005)), self._execute, future, function, arguments)
        return future

    def _execute(self, future: asyncio.Future[Any], function: Any, arguments: tuple[Any, ...]) -> None:
        if future.cancelled():
            return
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
            future.exception()          # whoever does not look is dead

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        if not isinstance(fd, int):
            super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        return not isinstance(fd, int) and super().remove_reader(fd)


class StackCounter(StateMachine):
    def __init__(self) -> None:
        self.count = 0

    def apply(self, op: Any) -> int:
        self.count += 1
        return self.count

    def snapshot(self) -> bytes:
        return b"%d" % self.count

    def restore(self, data: bytes) -> None:
        self.count = int(data)


class NodeClock:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._last = 0

    def now_us(self) -> int:
        return self._node.world.now_us

    def timestamp(self) -> int:
        self._last = max(self._last + 1, self._node.world.now_us + self._node.wall_offset_us)
        return self._last

    def believes(self, timestamp: int) -> bool:
        return timestamp <= self._node.world.now_us + CLOCK_ERROR_US

    def observe(self, timestamp: int) -> None:
        self._last = max(self._last, timestamp)


class NodeLuck:
    def __init__(self, random: Random) -> None:
        self.luck = random.random


class StackReplica(RaftReplica):
    """The shipped one; its log writes when the world says so, and the world listens."""

    node: Node

    def _open_log(self, path: str, begin: OpId) -> Log:
        log = super()._open_log(path, begin)
        log.writer.write_by_hand()
        return log

    def _assemble(self, found: Any) -> None:
        # The observer holds all to the strong promise of safe time, so whoever restarts must not forget (safe_time.py).
        node = self.node
        if node.replica is not self:
            raise ReplicaClosed("it died while it opened its files")
        unsure = node.world.now_us + node.wall_offset_us + CLOCK_ERROR_US if node.life > 1 else 0
        found = found._replace(recovered=replace(found.recovered, unsure_until=unsure))
        super()._assemble(found)
        node.listen(self, found)


class Watched:
    """A replica as the observer knows them."""

    def __init__(self, node: Node, replica: StackReplica) -> None:
        self.name = node.name
        self.world = node.world
        self.disk = node.model
        self.raft = replica._raft
        self.last_error: Any = None

    @property
    def applied(self) -> int:
        """As the other simulator has it, where operations are applied when they are committed."""
        return int(self.raft.state.commit_index)

    @property
    def rounds(self) -> dict[int, int]:
        return {op.index: op.term for op in self.disk.ops[self.raft.state.commit_index:]}


class ListenedCore:
    """The core, with the observer behind each step."""

    def __init__(self, raft: Any, node: Node) -> None:
        self._raft = raft
        self._node = node
        self.current: Any = None

    def step(self, event: Any, *rest: Any) -> Any:
        world, watched = self._node.world, self._node.watched
        world.steps += 1
        self.current = event
        if self._node.failed:
            world.violated(f"D3: {self._node.name} failed, and takes {event}")
        if world.tell is not None:
            world.tell(received(world.now_us, self._node.name, event))
        term, state = self._raft.state.term, self._raft.state
        effects = self._raft.step(event, *rest)
        if world.tell is not None:
            for effect in effects:
                world.tell(became(self._node.name, effect))
        world.guard(world.observer.stepped, watched, event, term, state)
        return effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raft, name)


def _given(effect: fx.Append, first: int, last: int) -> list[Op]:
    """Operations as they were given to the log."""
    run, payload = effect.runs[0], effect.payload
    if payload is None:
        return [Op(run.term, run.first, run.kind, effect.timestamp, None, run.config)]
    if isinstance(payload, Proposed):
        return [Op(run.term, i, run.kind, payload.timestamp, payload.payloads[i - run.first], None)
                for i in range(first, last + 1)]
    configs = {run.first: run.config for run in effect.runs if run.config is not None}
    found = [o for part in payload for o in operations(part, first, last)]  # type: ignore[attr-defined]
    return [Op(o.term, o.index, Kind(o.kind), o.timestamp, o.payload, configs.get(o.index)) for o in found]


class Node:
    """A machine: its folder outlives its process."""

    def __init__(self, name: str, world: StackWorld, first: Config) -> None:
        self.name = name
        self.world = world
        self.first = first
        self.model = ModelDisk(first)
        self.watched: Any = None
        self.replica: StackReplica | None = None
        self.disk = RecordingDisk()
        self.start_files: dict[str, bytes] = {}
        self.folder = world.new_folder(name)
        self.life = 0
        self.slow = 1
        self.wall_offset_us = 0
        self.pending_votes: list[tuple[int, str | None]] = []
        self.pending_configs: list[Config] = []
        self.dying = False
        self.failed = False
        self.effects_until_crash: int | None = None
        self.paused_until_us = 0
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.listening = False      # its files were open once
        self._syncing = False

    # -- life ----------------------------------------------------------------------------------------------------------
    def boot(self) -> None:
        self.life += 1
        self.dying = self.failed = False
        self.effects_until_crash = None
        self._syncing = False
        self.disk = RecordingDisk()
        peers = {n: "" for n in self.world.nodes} | {self.name: ""}
        replica = StackReplica(self.folder, me=self.name, peers=peers, sm=StackCounter(), timing=TIMING, disk=self.disk,
                               transport=self.world.network.transport(self.name),
                               segment_size="16KiB", cache_size="16KiB", snapshot_every=self.world.snapshot_every,
                               clock=NodeClock(self), random=NodeLuck(self.world.random))
        replica._first = self.first
        replica.node = self
        self.replica = replica
        self.world.loop.create_task(self._start(replica, self.life))

    async def _start(self, replica: StackReplica, life: int) -> None:
        try:
            await replica.start()
        except (CorruptionError, InvalidArgument) as error:
            self.world.violated(f"{self.name} cannot read its own files: {error}")
        except KuduStorageError:
            if life == self.life:
                self.world.crash(self)

    def listen(self, replica: StackReplica, found: Any) -> None:
        """The replica's files are open, and nothing was done yet."""
        world = self.world
        model = self._recovered_model(replica, found)
        self.model = model
        self.watched = Watched(self, replica)
        driver = replica._driver
        core = driver.raft = ListenedCore(replica._raft, self)  # type: ignore[assignment]
        perform = driver._perform
        actions: dict[type, Any] = {
            fx.PersistVote: self._vote, fx.PersistConfig: self._config, fx.Append: self._append,
            fx.Truncate: self._truncate, fx.CommitUpTo: self._commit, fx.SafeTime: self._safe_time,
            fx.Reply: self._reply, fx.RoleChanged: self._role}
        for kind, action in actions.items():
            perform[kind] = self._hooked(perform[kind], action, core)
        for kind, performed in perform.items():
            perform[kind] = self._counted(performed)
        self._make_it_sleep(replica)
        wait_for = replica._port._wait_for

        def waiting(pending: Any) -> None:
            wait_for(pending)
            self._work_soon(replica)

        replica._port._wait_for = waiting  # type: ignore[method-assign]
        fail = type(replica)._fail.__get__(replica)

        def failed(error: BaseException) -> None:
            fail(error)
            self.replica_failed(replica, error)

        replica._fail = failed  # type: ignore[method-assign]
        replica._driver._handlers.failed = failed
        replica._port._events = replica._port._events._replace(failed=failed)
        replica._applier._on_failed = failed
        world.guard(world.observer.restarted, self.watched)

    @staticmethod
    def _hooked(perform: Any, action: Any, core: Any) -> Any:
        return lambda effect: action(effect, perform, core)

    def _counted(self, perform: Any) -> Any:
        """A dying process performs nothing; one may die between any two effects; one that failed must not (D3)."""
        def counted(effect: Any) -> Any:
            if self.dying:
                return None
            if self.failed:
                self.world.violated(f"D3: {self.name} failed, and performs {effect}")
            if self.effects_until_crash is not None:
                self.effects_until_crash -= 1
                if self.effects_until_crash < 0:
                    self.dying = True
                    self.world.loop.call_soon(self.world.crash_if, self, self.life)
                    return None
            return perform(effect)
        return counted

    # -- sleep ---------------------------------------------------------------------------------------------------------
    @property
    def asleep(self) -> bool:
        return self.paused_until_us > self.world.now_us

    def sleep(self, seconds: float) -> None:
        self.paused_until_us = max(self.paused_until_us, self.world.now_us + int(seconds * 1e6))
        self.world.loop.call_later(seconds, self._woken, self.life)

    def _woken(self, life: int) -> None:
        if life == self.life and not self.asleep:
            self.wake()

    def wake(self) -> None:
        self.paused_until_us = 0
        deferred, self._deferred = self._deferred, []
        for call, arguments in deferred:
            call(*arguments)
        if self.replica is not None and hasattr(self.replica, "_driver"):
            self.replica._driver._run()

    def _when_awake(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def patient(*arguments: Any) -> None:
            if self.asleep:
                self._deferred.append((call, arguments))
            else:
                call(*arguments)
        return patient

    def _make_it_sleep(self, replica: StackReplica) -> None:
        """What comes waits in the driver's queue, and what was under way goes on when the process does."""
        driver, applier = replica._driver, replica._applier
        run = driver._run
        driver._run = lambda: None if self.asleep else run()  # type: ignore[method-assign]
        driver._go_on = self._when_awake(driver._go_on)  # type: ignore[method-assign]
        applier._turn = self._when_awake(applier._turn)  # type: ignore[method-assign]

    def replica_failed(self, replica: StackReplica, error: BaseException) -> None:
        if replica is self.replica and not self.dying:
            if not isinstance(error, (OSError, KuduStorageError)) or "injected" not in self.world.reasons:
                self.world.violated(f"{self.name} failed: {error!r}", error)
            self.failed = True
            self.world.faults["replica failed"] += 1
            status = replica.status()
            if not status.failure or status.state != "failed" or replica.is_leader:
                self.world.violated(f"D3: {self.name} failed, and says {status}")
            for make in (lambda: replica.propose(b"x"), replica.read_barrier):
                self.world.loop.create_task(self._is_refused(make))
            # It stays so until somebody comes.
            self.world.loop.call_later(self.world.random.choice((0.01, 0.1, 0.5)), self.world.crash_if, self, self.life)

    async def _is_refused(self, make: Callable[[], Any]) -> None:
        try:
            await make()
        except (ReplicaFailed, ReplicaClosed):
            return
        except KuduStorageError as error:
            self.world.violated(f"D3: {self.name} failed, and refuses with {error!r}", error)
        else:
            self.world.violated(f"D3: {self.name} failed, and does what it is asked")

    # -- what the model hears ------------------------------------------------------------------------------------------
    def _vote(self, effect: Any, perform: Any, _: Any) -> Any:
        self.pending_votes.append((effect.term, effect.voted_for))
        return self._when_done(perform(effect), lambda: self._voted(effect))

    def _voted(self, effect: Any) -> None:
        self.pending_votes.clear()
        self.world.guard(self.world.observer.vote_persisted, self.name, effect.term, effect.voted_for)
        self.model.persist_vote(effect.term, effect.voted_for)

    def _config(self, effect: Any, perform: Any, _: Any) -> Any:
        self.pending_configs.append(effect.config)
        return self._when_done(perform(effect), lambda: self._configured(effect.config))

    def _configured(self, config: Config) -> None:
        self.pending_configs.clear()
        self.model.persist_config(config)

    def _when_done(self, future: asyncio.Future[None], then: Any) -> asyncio.Future[None]:
        life = self.life

        def done(finished: asyncio.Future[None]) -> None:
            if life == self.life and not finished.cancelled() and finished.exception() is None:
                then()

        future.add_done_callback(done)
        return future

    def _append(self, effect: fx.Append, perform: Any, _: Any) -> Any:
        room = perform(effect)
        assert room is None and self.replica is not None
        first, last = effect.runs[0].first, effect.runs[-1].last
        ops: list[Op] = []
        configs = {run.first: run.config for run in effect.runs if run.config is not None}
        while first <= last:
            found = self.replica._port.applicable(first, last)
            if found is None:           # too large for the cache, or thrown away for want of space
                ops += _given(effect, first, last)
                break
            ops += [Op(o.term, o.index, Kind(o.kind), o.timestamp, o.payload, configs.get(o.index))
                    for o in found.operations]
            first = found.operations[-1].index + 1
        terms = [(r.term, i) for r in effect.runs for i in range(r.first, r.last + 1)]
        if [(op.term, op.index) for op in ops] != terms:
            self.world.violated(f"{self.name} appended {terms}, the log has {ops}")
        self.model.append(effect.batch, effect.runs, ops, effect.timestamp)
        self.world.guard(self.world.observer.appended, self.watched, effect.runs[0].first, effect.runs[-1].last)
        return None

    def _truncate(self, effect: Any, perform: Any, _: Any) -> None:
        self.world.guard(self.world.observer.truncated, self.watched, effect.after)
        self.model.truncate(effect.batch, effect.after)
        perform(effect)

    def _commit(self, effect: Any, perform: Any, _: Any) -> None:
        before = self.world.observer.commits.get(self.name, 0)
        self.world.guard(self.world.observer.committed, self.watched, before + 1, effect.index)
        for op in self.model.ops[before:effect.index]:
            self.world.committed_ops.setdefault(op.index, op)
        self.model.commit_index = effect.index
        perform(effect)

    def _safe_time(self, effect: Any, perform: Any, _: Any) -> None:
        self.world.guard(self.world.observer.safe_time, self.watched, effect.timestamp)
        perform(effect)

    def _reply(self, effect: Any, perform: Any, core: Any) -> None:
        if type(effect.message) is VoteResponse and isinstance(core.current, VoteRequest):
            self.world.guard(self.world.observer.vote_told, self.watched, core.current, effect.message)
        elif type(effect.message) is UpdateResponse:
            self.world.guard(self.world.observer.acknowledged, self.watched, effect.message)
        perform(effect)

    def _role(self, effect: Any, perform: Any, _: Any) -> None:
        self.world.guard(self.world.observer.role_changed, self.watched, effect)
        if effect.role is Role.LEADER:
            self.world.leader_hint = self.name
        elif effect.role is Role.CANDIDATE:
            self.world.elections += 1
        perform(effect)

    # -- the disk ------------------------------------------------------------------------------------------------------
    def _work_soon(self, replica: StackReplica) -> None:
        if not self._syncing:
            self._syncing = True
            took_s = self.slow * self.world.random.choice((0.0002, 0.001, 0.005))
            self.world.loop.call_later(took_s, self._work, replica, self.life)

    def _work(self, replica: StackReplica, life: int) -> None:
        if life != self.life or self.dying:
            return
        if self.asleep:
            self._when_awake(self._work)(replica, life)
            return
        self._syncing = False
        if replica._port._fd < 0:       # between two logs: one was copied from a peer
            return
        port = replica._port
        batches = dict(self.model.batches)
        self.model.begin_sync()
        port._writer.pump()
        done = 0
        failed: KuduStorageError | None = None
        for pending in port._pending:
            try:
                if pending.token is None or pending.token.done:
                    done = pending.batch
            except KuduStorageError as error:
                failed = error
                break
        self.model.synced(max((count for batch, count in batches.items() if batch <= done), default=0))
        if isinstance(failed, NoSpace):     # a poisoned log may hold what was written
            self.model.no_space()
        port._settle()
        if port._pending:
            self._work_soon(replica)

    def _recovered_model(self, replica: StackReplica, found: Any) -> ModelDisk:
        """What the files hold, as a model; it must be a state that the old model may be in after a crash."""
        raft, port, old = replica._raft, replica._port, self.model
        model = ModelDisk(found.metadata.config)
        model.term, model.voted_for = found.metadata.term, found.metadata.voted_for
        configs = {c.opid_index: c for c in found.recovered.configs}
        first, last = found.first_index, raft.state.terms.last_index
        # What was collected, or never came because a snapshot did, was committed: everybody's is the same.
        model.records = [self.world.committed_ops[i] for i in range(1, first)]
        while first <= last:
            piece = port._fetch_applicable(first, last)
            for found_piece in piece:
                model.records += [Op(o.term, o.index, Kind(o.kind), o.timestamp, o.payload, configs.get(o.index))
                                  for o in found_piece.operations]
                first = found_piece.operations[-1].index + 1
        model.ops = list(model.records)
        model.synced_count = len(model.records)
        model.commit_index = found.recovered.commit_index
        world = self.world
        copied = found.snapshot is not None and found.snapshot.last.index > len(old.ops)
        if self.listening and not copied:
            names = [(op.term, op.index) for op in model.ops]
            allowed = any(names == [(op.term, op.index) for op in log_of(old.records[:count])]
                          for count in range(old.synced_count, len(old.records) + 1))
            if not allowed:
                world.violated(f"W1: {self.name} has {names[-9:]} after a crash; synced were "
                               f"{[(o.term, o.index) for o in old.records[:old.synced_count]][-9:]}, written "
                               f"{[(o.term, o.index) for o in old.records[old.synced_count:]][:9]}")
            votes = [(old.term, old.voted_for), *self.pending_votes]
            if (model.term, model.voted_for) not in votes:
                world.violated(f"R3: {self.name} has {(model.term, model.voted_for)} after a crash, not one of {votes}")
            if model.config not in [old.config, *self.pending_configs]:
                world.violated(f"R9: {self.name} has {model.config} after a crash, not {old.config}")
            if model.term != old.term or model.voted_for != old.voted_for:
                world.guard(world.observer.vote_persisted, self.name, model.term, model.voted_for)
        self.listening = True
        self.pending_votes.clear()
        self.pending_configs.clear()
        return model

    def die(self) -> None:
        """The process is gone, perhaps in the middle of a write; what its disk keeps is decided now."""
        replica, self.replica = self.replica, None
        self.life += 1
        self.paused_until_us = 0
        self._deferred.clear()
        self.dying = True
        random = self.world.random
        calls = self.disk.calls()
        if replica is not None and hasattr(replica, "_port") and replica._port._fd >= 0 and random.random() < 0.5:
            before = len(calls)
            replica._port._writer.pump()
            calls = self.disk.calls()
            calls = calls[:random.randint(before, len(calls))]
        fate = random.choice((
            Fate("old", "lost"), Fate("new", "kept"), Fate("new", "lost", "new"), Fate("prefix", "torn"),
            Fate("any", "torn", "new"), Fate("any", "scrambled", "new", 512), Fate("prefix", "scrambled", "old", 4096)))
        fate = Fate(fate.names, fate.data, fate.sizes, fate.unit, random.randrange(1 << 30))
        target = self.world.new_folder(self.name)
        CrashedFolder(self.folder, calls, self.start_files).materialise(fate, target)
        if replica is not None:
            self._bury(replica)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = target
        self.start_files = {}
        for path in sorted(Path(target).rglob("*"), reverse=True):
            if path.name.startswith("index."):
                path.unlink()           # hints, and large
            elif path.is_file():
                self.start_files[str(path.relative_to(target))] = path.read_bytes()
            elif not any(path.iterdir()):
                path.rmdir()            # CrashedFolder knows folders by the files in them

    @staticmethod
    def _bury(replica: StackReplica) -> None:
        """No word of a dead process is heard any more. Its handles go."""
        replica._state = "closed"
        if hasattr(replica, "_driver"):
            replica._driver.close()
            replica._applier.close()
            replica._port.close()
        if hasattr(replica, "_log"):
            with contextlib.suppress(KuduStorageError):
                replica._log.close()
