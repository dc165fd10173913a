"""The whole of what is shipped, simulated: RaftReplica with its driver, log, metadata and files. Only time, network and
disk are the simulation's, all from one seed.

Time is an event loop's that jumps to its next timer. A disk is a RecordingDisk over a folder in memory: writes wait in
the log's queue until the simulated disk is at work, and a crash leaves what a real one may leave of the calls so far
(crash_disk.py). The observer holds everything against R1 to R16, clients' calls are checked for linearizability.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from crash_disk import scratch_root

from consensus.raft.configuration import Change, ChangeType, MemberType, voters
from consensus.raft.messages import RunElection
from consensus.raft.timing import MS
from consensus.transport.memory import MemoryNetwork
from kudu_storage.errors import (
    Aborted,
    ConnectionLost,
    KuduStorageError,
    NotLeader,
    ProposalsFull,
    ReplicaClosed,
    ReplicaFailed,
    Timeout,
)
from sim.disk import ModelDisk, Op
from sim.history import History
from sim.observer import Observer
from sim.stack_node import CLOCK_ERROR_US, TIMING, Node, StackCounter, StackLoop, StackReplica
from sim.world import Violation

NAMES: Final = "abcdefgh"
CLIENT_WAIT_S: Final = 2.0
CALM_S: Final = 10.0


class StackNetwork(MemoryNetwork):
    """Loses, doubles, delays and reorders."""

    def __init__(self, world: StackWorld) -> None:
        super().__init__()
        self._world = world

    def carry(self, sender: str, to: str, message: Any, call: object) -> bool:
        world = self._world
        if (sender, to) in self._blocked or world.random.random() < world.loss:
            return True
        if to not in self._here:
            return False
        for _ in range(2 if world.random.random() < world.duplication else 1):
            delay_us = world.delay_us * (1 + (world.spread - 1) * world.random.random())
            world.loop.call_later(delay_us / 1e6, self._arrive, sender, to, message, call)
        return True

    async def copy(self, sender: str, to: str, data: bytes) -> None:
        await asyncio.sleep(self._world.delay_us / 1e6)
        while (node := self._world.nodes[to]).asleep:
            await asyncio.sleep((node.paused_until_us - self._world.now_us) / 1e6)
        if self._world.random.random() < self._world.loss:
            raise ConnectionLost("lost", maybe_sent=True)
        self._world.faults["snapshot sent"] += 1
        await super().copy(sender, to, data)

    def _arrive(self, sender: str, to: str, message: Any, call: object) -> None:
        target = self._here.get(to)
        if target is not None and target._deliver is not None:
            target._deliver(sender, message, call)

    def block(self, pairs: list[tuple[str, str]], seconds: float) -> None:
        for pair in pairs:
            if pair not in self._blocked:
                self._blocked.add(pair)
                self._world.loop.call_later(seconds, self._blocked.discard, pair)

    def vanish(self, name: str, tell: bool) -> None:
        """The process is gone; its kernel may close its connections."""
        transport = self._here.pop(name, None)
        if transport is not None:
            transport._deliver = transport._on_connection = None
        if tell:
            for other in self._here.values():
                if (name, other.me) not in self._blocked:
                    other.lost(name)


class StackWorld:
    """The group, its clients and its faults."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.tell = tell
        self.random = random = Random(seed)
        self.loop = StackLoop(random)
        self.root = tempfile.mkdtemp(prefix="stack-", dir=scratch_root())
        self._folders = 0
        self.steps = 0
        self.elections = 0
        self.faults: Counter[str] = Counter()
        self.reasons: set[str] = set()
        self.violation: AssertionError | None = None
        self.history = History()
        self.observer = Observer(TIMING.election_timeout_us)
        self.network = StackNetwork(self)
        self.loss = random.choice((0.0, 0.0, 0.02, 0.1))
        self.duplication = random.choice((0.0, 0.02, 0.1))
        self.delay_us = random.choice((1, 5, 20)) * MS
        self.spread = random.choice((1.1, 3.0, 10.0))
        self.committed_ops: dict[int, Op] = {}
        self.snapshot_every = random.choice(("1GiB", "4KiB", "16KiB"))
        self.sizes = random.choice(((0, 10, 300), (0, 1000, 5000), (1000, 5000, 12000)))
        self.leader_hint = "a"
        self.calm = False
        self.stuck = False
        self.leader_after_us = self.level_after_us = self.elections_after = 0
        count = random.choice((1, 3, 3, 3, 5))
        first = voters(*NAMES[:count])
        self.nodes: dict[str, Node] = {}
        for name in NAMES[:count + 1]:
            self.nodes[name] = Node(name, self, first)
        for name in self.nodes:
            self.network.names.add(name)

    @property
    def now_us(self) -> int:
        return int(self.loop.time() * 1e6)

    def new_folder(self, name: str) -> str:
        self._folders += 1
        path = os.path.join(self.root, f"{name}{self._folders}")
        os.mkdir(path)
        return path

    def disk_of(self, name: str) -> ModelDisk:
        return self.nodes[name].model

    # -- verdicts ------------------------------------------------------------------------------------------------------
    def guard(self, check: Any, *arguments: Any) -> None:
        """A check within callbacks of the replica, which would take an AssertionError for a failure of its own."""
        try:
            check(*arguments)
        except AssertionError as error:
            self.violated(str(error), error)

    def violated(self, text: str, cause: BaseException | None = None) -> None:
        if self.violation is None:
            self.violation = AssertionError(text)
            self.violation.__cause__ = cause

    def check(self) -> None:
        if self.violation is not None:
            raise self.violation
        for node in self.nodes.values():
            replica = node.replica
            if replica is not None and replica._state == "running" and replica._driver._blocked is None \
                    and not replica._driver._inputs and not node.dying:
                if replica._raft.state.terms.base.index == 0:
                    self.observer.full_check(node.watched)
                else:
                    replica._raft.check()

    # -- running -------------------------------------------------------------------------------------------------------
    def run(self, seconds: float) -> None:
        """Faults for so much virtual time, then none, until the group must have recovered."""
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._main(seconds))
            reported = [c for c in loop.reported if "exception" in c]
            assert not reported, reported[0]
        except AssertionError as error:
            again = f"python -m sim.run --stack --seed {self.seed} --seconds {seconds} --trace"
            raise Violation(f"{error}\n  at {self.now_us} us of seed {self.seed}\n  again: {again}") from error
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        for node in self.nodes.values():
            node.dying = True
            if node.replica is not None:
                node._bury(node.replica)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        self.loop.close()
        shutil.rmtree(self.root, ignore_errors=True)

    async def _main(self, seconds: float) -> None:
        for node in self.nodes.values():
            node.wall_offset_us = self.random.randint(-CLOCK_ERROR_US // 2, CLOCK_ERROR_US // 2)
            node.boot()
        clients = [self.loop.create_task(self._client()) for _ in range(self.random.choice((1, 2, 4)))]
        end = self.loop.time() + seconds
        pause = self.random.choice((0.05, 0.15, 0.4))
        await asyncio.sleep(0.4)
        while self.loop.time() < end:
            self._fault()
            await asyncio.sleep(self.random.random() * 2 * pause)
            self.check()
        await self._recover()
        self.calm = True
        for client in clients:
            await client
        self.check()
        self.history.check()

    async def _recover(self) -> None:
        self.network.heal()
        self.loss = self.duplication = 0.0
        self.delay_us, self.spread = 2 * MS, 2.0
        for node in self.nodes.values():
            node.slow = 1
            node.disk.fail("write", 0, 0)
            node.disk.fail("sync", 0, 0)
            node.effects_until_crash = None
            if node.asleep:
                node.wake()
            if node.failed or node.dying:
                self.crash(node)        # somebody came
            if node.replica is None:
                node.boot()
        began_us, elections = self.now_us, self.elections
        while not self._level():
            self.check()
            if not self.leader_after_us:
                self._look_for_leader(began_us)
            late = self.now_us - began_us > CALM_S * 1e6
            if late and self._stuck_by_removal():
                self.stuck = True
                return
            assert not late, f"liveness: not level {CALM_S} s after the last fault: {self._states()}"
            await asyncio.sleep(0.02)
        self.level_after_us = self.now_us - began_us
        self.elections_after = self.elections - elections

    def _look_for_leader(self, began_us: int) -> None:
        passed_us = self.now_us - began_us
        if self._leader() is not None:
            self.leader_after_us = passed_us
        else:
            assert passed_us <= 3 * TIMING.election_timeout_us or self._stuck_by_removal(), (
                f"liveness: no leader {passed_us} us after the last fault: {self._states()}")

    def _leader(self) -> StackReplica | None:
        running = [n.replica for n in self.nodes.values() if n.replica is not None and n.replica.is_leader]
        return max(running, key=lambda r: r._raft.state.term, default=None)

    def _states(self) -> list[str]:
        told = []
        for node in self.nodes.values():
            told.append(repr(node.replica))
            if node.replica is not None and node.replica.is_leader:
                told += [str(p) for p in node.replica._raft.status().peers]
        return told

    def _level(self) -> bool:
        running = [n.replica for n in self.nodes.values() if n.replica is not None and n.replica._state == "running"]
        leader = self._leader()
        if len(running) < len(self.nodes) or leader is None:
            return False
        last = leader._raft.state.terms.last
        members = [p.peer_id for p in leader._raft.state.configs.active.peers]
        return all(r._raft.state.terms.last == last and r._applier.applied == last.index
                   for r in running if r.name in members)

    def _stuck_by_removal(self) -> bool:
        """The known hole (docs/raft.md), as in world.py."""
        states = [n.replica._raft.state for n in self.nodes.values() if n.replica is not None and
                  hasattr(n.replica, "_raft")]
        if not states:
            return False
        newest = max(states, key=lambda s: s.terms.last)
        others = [s.terms.last for s in states if s.is_voter()]
        asked = any(newest.me in s.configs.active.voters for s in states)
        return asked and not newest.is_voter() and bool(newest.configs.pending) and newest.terms.last > max(others)

    # -- clients -------------------------------------------------------------------------------------------------------
    async def _client(self) -> None:
        random = self.random
        while not self.calm:
            await asyncio.sleep(random.randint(1, 40) / 1000)
            name = self.leader_hint if random.random() < 0.9 else random.choice(list(self.nodes))
            replica = self.nodes[name].replica
            if replica is None or replica._state != "running" or self.nodes[name].asleep:
                continue
            if random.random() < 0.3:
                await self._read(replica)
            else:
                await self._add(replica, random.choice((1, 1, 2, 6)))

    async def _add(self, replica: StackReplica, count: int) -> None:
        ids = [self.history.invoke(True, self.now_us) for _ in range(count)]
        try:
            payloads = [b"%d %s" % (i, self.random.randbytes(self.random.choice(self.sizes))) for i in ids]
            results = await replica.propose_many(payloads, timeout=CLIENT_WAIT_S)
        except (NotLeader, Aborted, ProposalsFull):
            for i in ids:
                self.history.failed(i)
        except (Timeout, ReplicaClosed, ReplicaFailed):
            pass
        else:
            for i, result in zip(ids, results, strict=True):
                self.history.applied(i, result, self.now_us)

    async def _read(self, replica: StackReplica) -> None:
        number = self.history.invoke(False, self.now_us)
        machine = replica.machine
        assert isinstance(machine, StackCounter)
        try:
            await replica.read_barrier(timeout=CLIENT_WAIT_S)
        except KuduStorageError:
            self.history.failed(number)
        else:
            self.history.applied(number, machine.count, self.now_us)

    # -- faults --------------------------------------------------------------------------------------------------------
    def _fault(self) -> None:
        random = self.random
        name = random.choices(FAULTS, _WEIGHTS)[0]
        node = self.nodes[self.leader_hint if random.random() < 0.4 else random.choice(list(self.nodes))]
        self.faults[name] += 1
        if self.tell is not None:
            self.tell(f"{self.now_us / 1e6:9.6f}  ** {name.replace('_', ' ')} ({node.name})")
        getattr(self, f"_fault_{name}")(node)

    def crash_if(self, node: Node, life: int) -> None:
        if node.life == life:
            self.crash(node)

    def crash(self, node: Node) -> None:
        if node.replica is None:
            return
        node.die()
        self.network.vanish(node.name, self.random.random() < 0.5)
        self.observer.crashed(node)
        life = node.life
        self.loop.call_later(self.random.randint(1, 600) / 1000, self._restart, node, life)

    def _restart(self, node: Node, life: int) -> None:
        if node.life == life and node.replica is None:
            node.boot()

    def _fault_crash(self, node: Node) -> None:
        self.crash(node)

    def _fault_crash_all(self, _: Node) -> None:
        for node in self.nodes.values():
            self.crash(node)

    def _fault_crash_between_effects(self, node: Node) -> None:
        node.effects_until_crash = self.random.randint(0, 20)

    def _fault_pause(self, node: Node) -> None:
        """SIGSTOP: neither its loop nor its threads run; what arrives waits."""
        if node.replica is not None:
            node.sleep(self.random.randint(20, 900) / 1000)

    def _fault_split(self, _: Node) -> None:
        names = list(self.nodes)
        self.random.shuffle(names)
        cut = self.random.randint(1, len(names) - 1)
        self.network.block([p for a in names[:cut] for b in names[cut:] for p in ((a, b), (b, a))],
                           self.random.randint(50, 1500) / 1000)

    def _fault_break_link(self, node: Node) -> None:
        other = self.random.choice(list(self.nodes))
        self.network.block([(node.name, other)] + ([(other, node.name)] if self.random.random() < 0.5 else []),
                           self.random.randint(50, 1500) / 1000)

    def _fault_snapshot(self, node: Node) -> None:
        self._feed(node.name, lambda r: r.snapshot())

    def _fault_fall_behind(self, node: Node) -> None:
        """Cut off for so long that the others let go of what it lacks: it will need their snapshot."""
        seconds = self.random.randint(800, 2000) / 1000
        self.network.block([p for o in self.nodes for p in ((node.name, o), (o, node.name))], seconds)
        for other in self.nodes:
            if other != node.name:
                for part in (0.5, 0.9):
                    self.loop.call_later(part * seconds, self._feed, other, lambda r: r.snapshot())

    def _fault_isolate(self, node: Node) -> None:
        pairs = [p for o in self.nodes for p in ((node.name, o), (o, node.name))]
        self.network.block(pairs, self.random.randint(50, 1500) / 1000)

    def _fault_deafen(self, node: Node) -> None:
        self.network.block([(o, node.name) for o in self.nodes], self.random.randint(50, 1500) / 1000)

    def _fault_clock_jump(self, node: Node) -> None:
        node.wall_offset_us = self.random.randint(-CLOCK_ERROR_US // 2, CLOCK_ERROR_US // 2)

    def _fault_slow_disk(self, node: Node) -> None:
        node.slow = self.random.choice((1, 20, 100))

    def _fault_full_disk(self, node: Node) -> None:
        node.disk.fail("write", self.random.randint(1, 3), errno.ENOSPC, partial=self.random.choice((0, 17, 600)))

    def _fault_broken_disk(self, node: Node) -> None:
        self.reasons.add("injected")
        node.disk.fail("sync", self.random.randint(1, 3), errno.EIO)

    def _feed(self, name: str, make: Any) -> None:
        replica = self.nodes[name].replica
        if replica is not None and replica._state == "running":
            self.loop.create_task(self._quietly(make(replica)))

    @staticmethod
    async def _quietly(call: Any) -> None:
        with contextlib.suppress(KuduStorageError):
            await call

    def _fault_transfer(self, _: Node) -> None:
        to = self.random.choice([None, *self.nodes])
        self._feed(self.leader_hint, lambda r: r.transfer_leadership(to, timeout=1))

    def _fault_step_down(self, _: Node) -> None:
        self._feed(self.leader_hint, lambda r: r.step_down(timeout=1))

    def _fault_run_election(self, node: Node) -> None:
        replica = node.replica
        if replica is not None and replica._state == "running":
            replica._driver.received("", RunElection(), None)

    def _fault_config(self, node: Node) -> None:
        leader = self.nodes[self.leader_hint].replica
        if leader is None or leader._state != "running":
            return
        active = leader._raft.state.configs.active
        peer = active.peer(node.name)
        choice = self.random.random()
        if peer is None:
            type_ = MemberType.VOTER if choice < 0.5 else MemberType.NON_VOTER
            change = Change(ChangeType.ADD, node.name, type_, promote=choice > 0.7)
        elif choice < 0.4 and len(active.voters) > 2:
            change = Change(ChangeType.REMOVE, node.name)
        else:
            change = Change(ChangeType.MODIFY, node.name, MemberType(1 - peer.member_type), promote=choice > 0.8)
        self._feed(self.leader_hint, lambda r: r.change_config(changes=[change], timeout=1))

    def _fault_network(self, _: Node) -> None:
        self.loss = self.random.choice((0.0, 0.0, 0.05, 0.3))
        self.delay_us = self.random.choice((1, 5, 20, 60)) * MS


_FAULT_WEIGHTS = {"crash": 4, "crash_between_effects": 4, "crash_all": 1, "isolate": 2, "deafen": 2, "split": 2,
                  "break_link": 3, "pause": 4, "clock_jump": 2, "slow_disk": 2, "full_disk": 2, "broken_disk": 1,
                  "transfer": 3, "step_down": 2, "run_election": 2, "config": 4, "network": 2, "snapshot": 2,
                  "fall_behind": 1}
FAULTS, _WEIGHTS = list(_FAULT_WEIGHTS), list(_FAULT_WEIGHTS.values())
