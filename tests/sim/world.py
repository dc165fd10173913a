"""The world: time, network, faults, clients and the replicas in it, all from one seed.

Time is a heap of events; nothing happens between two of them. One event is one step of the simulation.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any

from consensus.raft import configuration
from consensus.raft.configuration import Change, ChangeType, MemberType
from consensus.raft.effects import Role, RoleChanged
from consensus.raft.inputs import (
    ChangeConfig,
    Input,
    LeaderLost,
    LogCut,
    LogDurable,
    Propose,
    ReadBarrier,
    SendFailed,
    Start,
    StepDown,
    Tick,
    Transfer,
)
from consensus.raft.messages import RunElection, UpdateRequest, VoteRequest
from consensus.raft.timing import MS, Timing
from sim.disk import ModelDisk
from sim.history import History
from sim.observer import Observer
from sim.replica import Crashed, Replica
from sim.telling import received

TIMING = Timing(heartbeat_us=100 * MS, election_timeout_us=300 * MS, backoff_us_max=900 * MS, late_us=50 * MS,
                leader_lost_spread_us=20 * MS, commit_delay_us=2 * MS, requests_in_flight_max=3,
                bytes_in_flight_max=40)
# Wall clocks differ by at most this from each other, jumps included.
CLOCK_ERROR_US = 100 * MS
NAMES = "abcdefgh"
CLIENT_WAIT_US = 2_000 * MS


class Violation(Exception):
    """A relation does not hold. The text says which, when, and how to see it again."""


@dataclass(frozen=True)
class Plan:
    """What of a seed's run is left out: how a violation is shrunk to what causes it (shrink.py).

    Faults and clients' calls are numbered. Each fault has luck of its own, so that one fewer does not change the
    others.
    """

    without_faults: frozenset[int] = frozenset()
    without_calls: frozenset[int] = frozenset()
    steady_network: bool = False        # nothing is lost, doubled or reordered by itself
    no_faults: bool = False             # but those that somebody injects


EVERYTHING = Plan()


class Node:
    """A machine: its disk outlives its process."""

    def __init__(self, name: str, disk: ModelDisk) -> None:
        self.name = name
        self.disk = disk
        self.replica: Replica | None = None
        self.life = 0
        self.paused_until_us = 0
        self.backlog: list[Any] = []
        self.syncing = False
        self.slow = 1
        self.wall_offset_us = 0
        self.clock = 0
        self.tick_us = -1
        self.life_of_syncs = 0


class World:
    def __init__(self, seed: int, voter_count: int | None = None, tell: Callable[[str], None] | None = None,
                 plan: Plan = EVERYTHING) -> None:
        self.seed = seed
        self.plan = plan
        # Streams of their own, so that what is left out of a plan changes as little else as possible.
        random = Random(seed)
        self.random = Random(random.random())       # replicas and disks
        self._network_luck = Random(random.random())
        self._client_luck = Random(random.random())
        self._fault_luck = Random(random.random())
        self.tell = tell
        self.now_us = 1_000_000
        self.steps = 0
        self.faults: Counter[str] = Counter()
        self.fault_count = self.call_count = 0      # those left out, too
        self._heap: list[tuple[int, int, int, Any, Any, Any]] = []
        self._order = 0
        count = voter_count or random.choice((1, 3, 3, 3, 5, 5, 7))
        first = configuration.voters(*NAMES[:count])
        names = NAMES[:count] + ("" if count == 7 else NAMES[count])
        self.nodes = {name: Node(name, ModelDisk(first)) for name in names}
        self.history = History()
        self.observer = Observer(TIMING.election_timeout_us)
        self.loss = random.choice((0.0, 0.0, 0.02, 0.1))
        self.duplication = random.choice((0.0, 0.02, 0.1))
        self.delay_us = random.choice((1, 5, 20)) * MS
        self.spread = random.choice((1.1, 3.0, 10.0))
        if plan.steady_network:
            self.loss = self.duplication = 0.0
            self.spread = 1.0
        self.blocked: set[tuple[str, str]] = set()
        self._luck_of_fault = Random(seed)
        self._names = list(self.nodes)
        self.leader_hint = NAMES[0]
        self.leader_since_us = 0
        self.elections = 0
        self.terms_stood_in: set[int] = set()
        self.calm = False
        self.stuck = False
        self.leader_after_us = self.level_after_us = self.elections_after = 0
        for node in self.nodes.values():
            node.wall_offset_us = random.randint(-CLOCK_ERROR_US // 2, CLOCK_ERROR_US // 2)
            self._start(node)
        for _ in range(random.choice((1, 2, 4))):
            self._at(self.now_us + 50 * MS, _CLIENT)
        self._fault_pause_us = random.choice((50, 150, 400)) * MS
        if not plan.no_faults:
            self._at(self.now_us + 400 * MS, _FAULT)

    # -- running -------------------------------------------------------------------------------------------------------
    def run(self, steps: int) -> None:
        """Faults for `steps` events, then none, until the group must have recovered."""
        try:
            self._advance(steps)
            self._recover()
            self.check()
            self.history.check()
        except AssertionError as error:
            raise Violation(f"{error}\n  at step {self.steps} of seed {self.seed}\n"
                            f"  again: python -m sim.run --seed {self.seed} --steps {steps} --trace (or --shrink)"
                            ) from error

    def _advance(self, steps: int) -> None:
        heap, until = self._heap, self.steps + steps
        while self.steps < until:
            self.steps += 1
            at_us, _, kind, a, b, c = heappop(heap)
            self.now_us = at_us
            self._handle(kind, a, b, c)
            if self.steps % 50 == 0:
                self.check()

    def check(self) -> None:
        for node in self.nodes.values():
            if node.replica is not None:
                self.observer.full_check(node.replica)

    def _recover(self) -> None:
        """The last fault is over: a leader within three election timeouts, all level within ten seconds.

        It is over when what a slow network still carries has arrived: an old leader's messages count as its life.
        """
        self.calm = True
        self.blocked.clear()
        self.loss = self.duplication = 0.0
        self.delay_us, self.spread = 2 * MS, 2.0
        for node in self.nodes.values():
            node.slow = 1
            if node.replica is None:
                self._start(node)
            else:
                node.replica.effects_until_crash = None
                node.replica.admits = None
            if node.paused_until_us > self.now_us:
                node.paused_until_us = self.now_us
                self._at(self.now_us, _RESUME, node, node.life)
        began_us, elections = self.now_us, self.elections
        arrived_us = max((event[0] for event in self._heap if event[2] == _MESSAGE), default=began_us)
        deadline_us = max(began_us, arrived_us) + 3 * TIMING.election_timeout_us
        while self._leader() is None:
            if self.now_us > deadline_us and self._stuck_by_removal():
                self.stuck = True
                return
            assert self.now_us <= deadline_us, f"liveness: no leader {self.now_us - began_us} us after the last fault"
            self._advance(1)
        self.leader_after_us = self.now_us - began_us
        while not self._level():
            assert self.now_us <= began_us + 10_000 * MS, "liveness: replicas are not level 10 s after the last fault"
            self._advance(1)
        self.level_after_us = self.now_us - began_us
        self.elections_after = self.elections - elections

    def _leader(self) -> Replica | None:
        """One that a majority follows."""
        for node in self.nodes.values():
            replica = node.replica
            if replica is None or replica.raft.state.leadership is None:
                continue
            state = replica.raft.state
            others = [self.nodes[v].replica for v in state.configs.active.voters]
            if sum(r is not None and r.raft.state.leader_id == replica.name and r.raft.state.term == state.term
                   for r in others) > len(others) // 2:
                return replica
        return None

    def _stuck_by_removal(self) -> bool:
        """The known hole (docs/raft.md): who has the newest log is no voter by the last operation in it, which nobody
        else has.

        It may not stand, and those that may lack what it has.
        """
        states = [n.replica.raft.state for n in self.nodes.values() if n.replica is not None]
        newest = max(states, key=lambda s: s.terms.last)
        others = [s.terms.last for s in states if s.is_voter()]
        asked = any(newest.me in s.configs.active.voters for s in states)
        return asked and not newest.is_voter() and bool(newest.configs.pending) and newest.terms.last > max(others)

    def _level(self) -> bool:
        leader = self._leader()
        if leader is None or leader.raft.state.commit_index < leader.raft.state.terms.last_index:
            return False
        members = [p.peer_id for p in leader.raft.state.configs.active.peers]
        states = [r.raft.state for m in members if (r := self.nodes[m].replica) is not None]
        return len(states) == len(members) and all(
            s.terms.last == leader.raft.state.terms.last and s.commit_index == leader.raft.state.commit_index
            for s in states)

    # -- events --------------------------------------------------------------------------------------------------------
    def _at(self, at_us: int, kind: int, a: Any = None, b: Any = None, c: Any = None) -> None:
        self._order += 1
        heappush(self._heap, (at_us, self._order, kind, a, b, c))

    def _handle(self, kind: int, a: Any, b: Any, c: Any) -> None:
        if kind == _MESSAGE:
            node = self.nodes[a]
            if node.replica is not None:
                self._step(node, b)
        elif kind == _TICK:
            if a.life == b and a.replica is not None and c == a.tick_us:
                self._step(a, Tick())
        elif kind == _SYNCED:
            if (a.life, a.life_of_syncs) == b:
                self._synced(a, c)
        elif kind == _CLIENT:
            self._client()
        elif kind == _FAULT:
            if not self.calm:
                self._fault()
                self.check()
        elif kind == _RESUME:
            if a.life == b and a.paused_until_us <= self.now_us:
                backlog, a.backlog = a.backlog, []
                for event in backlog:
                    self._step(a, event)
        elif kind == _RESTART and a.replica is None:
            self._start(a)
        elif kind == _HEAL:
            self.blocked.discard(a)

    def _step(self, node: Node, event: Input) -> None:
        replica = node.replica
        if replica is None:
            return
        if node.paused_until_us > self.now_us:
            node.backlog.append(event)
            return
        if self.tell is not None:
            self.tell(received(self.now_us, node.name, event))
        try:
            replica.step(event)
        except Crashed:
            self._crash(node)

    # -- what replicas call --------------------------------------------------------------------------------------------
    def timestamp(self, name: str) -> int:
        node = self.nodes[name]
        node.clock = max(node.clock + 1, self.now_us + node.wall_offset_us)
        return node.clock

    def disk_of(self, name: str) -> ModelDisk:
        return self.nodes[name].disk

    def send(self, sender: str, to: Any, message: Any) -> None:
        kind = type(message)
        if kind is UpdateRequest or kind is VoteRequest:
            object.__setattr__(message, "call", sender)
            if kind is VoteRequest:
                replica = self.nodes[sender].replica
                assert replica is None or replica.raft.state.leadership is None, f"R11: leader {sender} asks for votes"
        random = self._network_luck
        if (sender, to) in self.blocked or random.random() < self.loss:
            if kind is UpdateRequest and random.random() < 0.3:
                self._at(self.now_us + 50 * MS, _MESSAGE, sender, SendFailed(to, message.seq))
            return
        delay = self.delay_us
        self._at(self.now_us + int(delay * (1 + (self.spread - 1) * random.random())), _MESSAGE, to, message)
        if self.duplication and random.random() < self.duplication:
            self._at(self.now_us + int(delay * (1 + 20 * random.random())), _MESSAGE, to, message)

    def appended(self, replica: Replica) -> None:
        node = self.nodes[replica.name]
        if not node.syncing:
            self._begin_sync(node)

    def _begin_sync(self, node: Node) -> None:
        found = node.disk.begin_sync()
        node.syncing = found is not None
        if found is not None:
            took_us = int(node.slow * self.random.choice((200, 1000, 5000)))
            self._at(self.now_us + took_us, _SYNCED, node, (node.life, node.life_of_syncs), found)

    def _synced(self, node: Node, found: tuple[int, int]) -> None:
        node.disk.synced(found[1])
        self._begin_sync(node)
        self._step(node, LogDurable(found[0]))

    def schedule_tick(self, replica: Replica, at_us: int) -> None:
        node = self.nodes[replica.name]
        node.tick_us = at_us
        self._at(max(at_us, self.now_us), _TICK, node, node.life, at_us)

    def role_changed(self, replica: Replica, effect: RoleChanged) -> None:
        node = self.nodes[replica.name]
        if effect.role is Role.LEADER:
            node.clock = max(node.clock, effect.time_floor)
            self.leader_hint = replica.name
        elif effect.role is Role.CANDIDATE:
            self.elections += 1
            self.terms_stood_in.add(effect.term)

    # -- clients -------------------------------------------------------------------------------------------------------
    def _client(self) -> None:
        random = self._client_luck
        number, self.call_count = self.call_count, self.call_count + 1
        self._at(self.now_us + random.randint(1, 40 * MS), _CLIENT)
        name = self.leader_hint if random.random() < 0.9 else random.choice(self._names)
        reads, count = random.random() < 0.3, random.choice((1, 1, 2, 6))
        node = self.nodes[name]
        if node.replica is None or node.paused_until_us > self.now_us or number in self.plan.without_calls:
            return
        if reads:
            self._step(node, ReadBarrier(self.history.invoke(False, self.now_us)))
            return
        # Only one waiter a proposal: each operation of a batch is a call of its own.
        ids = [self.history.invoke(True, self.now_us) for _ in range(count)]
        stamps = [self.timestamp(name) for _ in ids]
        before = node.replica.raft.state.terms.last_index
        self._step(node, Propose(len(ids), len(ids), stamps[0], stamps[-1], (stamps, ids), None))
        if node.replica is not None and node.replica.raft.state.terms.last_index == before:
            for i in ids:
                self.history.failed(i)

    # -- faults --------------------------------------------------------------------------------------------------------
    def _fault(self) -> None:
        number, self.fault_count = self.fault_count, self.fault_count + 1
        self._luck_of_fault = random = Random(self._fault_luck.getrandbits(64))
        self._at(self.now_us + random.randint(1, 2 * self._fault_pause_us), _FAULT)
        name = random.choices(FAULTS, _WEIGHTS)[0]
        at_leader, node = random.random() < 0.4, self.nodes[random.choice(self._names)]
        if number not in self.plan.without_faults:
            self.inject(name, self.nodes[self.leader_hint] if at_leader else node)

    def inject(self, name: str, node: Node) -> None:
        self.faults[name] += 1
        if self.tell is not None:
            self.tell(f"{self.now_us / 1e6:9.6f}  ** {name.replace('_', ' ')} ({node.name})")
        getattr(self, f"_fault_{name}")(node)

    def _start(self, node: Node) -> None:
        node.life += 1
        node.paused_until_us = 0
        node.backlog = []
        node.syncing = False
        node.tick_us = -1
        node.clock = 0
        unsure_until = max(0, self.now_us + node.wall_offset_us + CLOCK_ERROR_US)
        if node.life == 1:
            unsure_until = 0
        node.replica = Replica(node.name, node.disk, TIMING, self.observer, self, unsure_until)
        self.observer.restarted(node.replica)
        self._step(node, Start())

    def _crash(self, node: Node) -> None:
        node.replica = None
        node.life += 1
        node.disk.crash(self.random)
        self.observer.crashed(node)
        if self.random.random() < 0.5:
            # The kernel closes its connections: everybody who can be reached learns of it.
            for other in self.nodes.values():
                if other is not node and (node.name, other.name) not in self.blocked:
                    self._at(self.now_us + MS, _MESSAGE, other.name, LeaderLost(node.name))
        self._at(self.now_us + self.random.randint(1, 600) * MS, _RESTART, node)

    def _fault_crash(self, node: Node) -> None:
        if node.replica is not None:
            self._crash(node)

    def _fault_crash_between_effects(self, node: Node) -> None:
        if node.replica is not None:
            node.replica.effects_until_crash = self._luck_of_fault.randint(0, 20)

    def _fault_crash_all(self, _: Node) -> None:
        for node in self.nodes.values():
            self._fault_crash(node)

    def _fault_isolate(self, node: Node) -> None:
        self._block([(node.name, o) for o in self.nodes] + [(o, node.name) for o in self.nodes])

    def _fault_deafen(self, node: Node) -> None:
        """One way: what it says is heard, what others say it does not hear."""
        self._block([(o, node.name) for o in self.nodes])

    def _fault_split(self, _: Node) -> None:
        names = list(self.nodes)
        self._luck_of_fault.shuffle(names)
        cut = self._luck_of_fault.randint(1, len(names) - 1) if len(names) > 1 else 0
        self._block([p for a in names[:cut] for b in names[cut:] for p in ((a, b), (b, a))])

    def _fault_break_link(self, node: Node) -> None:
        other = self._luck_of_fault.choice(list(self.nodes))
        self._block([(node.name, other)] + ([(other, node.name)] if self._luck_of_fault.random() < 0.5 else []))

    def _block(self, pairs: list[tuple[str, str]]) -> None:
        until_us = self.now_us + self._luck_of_fault.randint(50, 1500) * MS
        for pair in pairs:
            if pair not in self.blocked:
                self.blocked.add(pair)
                self._at(until_us, _HEAL, pair)

    def _fault_pause(self, node: Node) -> None:
        """SIGSTOP: the process sleeps, its timers with it; what arrives waits."""
        if node.replica is not None:
            node.paused_until_us = self.now_us + self._luck_of_fault.randint(20, 900) * MS
            self._at(node.paused_until_us, _RESUME, node, node.life)

    def _fault_clock_jump(self, node: Node) -> None:
        node.wall_offset_us = self._luck_of_fault.randint(-CLOCK_ERROR_US // 2, CLOCK_ERROR_US // 2)

    def _fault_full_disk(self, node: Node) -> None:
        """What is queued fails, in order. A sync under way ends after that, and has nothing to say of it."""
        if node.replica is not None and node.paused_until_us <= self.now_us:
            after = node.disk.no_space()
            node.life_of_syncs += 1
            node.syncing = False
            self._step(node, LogCut(after))

    def _fault_slow_disk(self, node: Node) -> None:
        node.slow = self._luck_of_fault.choice((1, 20, 100))

    def _fault_short_memory(self, node: Node) -> None:
        if node.replica is not None:
            node.replica.admits = self._luck_of_fault.choice((None, 1, 2))

    def _fault_transfer(self, node: Node) -> None:
        to = self._luck_of_fault.choice([None, *self.nodes])
        self._step(self.nodes[self.leader_hint], Transfer(to))

    def _fault_step_down(self, _: Node) -> None:
        self._step(self.nodes[self.leader_hint], StepDown())

    def _fault_run_election(self, node: Node) -> None:
        self._step(node, RunElection())

    def _fault_config(self, node: Node) -> None:
        leader = self.nodes[self.leader_hint]
        if leader.replica is None:
            return
        active = leader.replica.raft.state.configs.active
        peer = active.peer(node.name)
        choice = self._luck_of_fault.random()
        if peer is None:
            type_ = MemberType.VOTER if choice < 0.5 else MemberType.NON_VOTER
            change = Change(ChangeType.ADD, node.name, type_, promote=choice > 0.7)
        elif choice < 0.4 and len(active.voters) > 2:
            change = Change(ChangeType.REMOVE, node.name)
        elif choice < 0.6:
            change = Change(ChangeType.MODIFY, node.name, replace=not peer.replace)
        else:
            change = Change(ChangeType.MODIFY, node.name, MemberType(1 - peer.member_type), promote=choice > 0.8)
        cas = leader.replica.raft.state.configs.committed.opid_index if choice < 0.5 else None
        self._step(leader, ChangeConfig((change,), cas))

    def _fault_network(self, _: Node) -> None:
        self.loss = self._luck_of_fault.choice((0.0, 0.0, 0.05, 0.3))
        self.delay_us = self._luck_of_fault.choice((1, 5, 20, 60)) * MS


_MESSAGE, _TICK, _SYNCED, _CLIENT, _FAULT, _RESUME, _RESTART, _HEAL = range(8)
_FAULT_WEIGHTS = {
    "crash": 4, "crash_between_effects": 4, "crash_all": 1, "isolate": 3, "deafen": 2, "split": 2, "break_link": 3,
    "pause": 4,
    "clock_jump": 2, "slow_disk": 2, "short_memory": 1, "transfer": 3, "step_down": 2, "run_election": 2, "config": 5,
    "network": 2, "full_disk": 2,
}
FAULTS, _WEIGHTS = list(_FAULT_WEIGHTS), list(_FAULT_WEIGHTS.values())
