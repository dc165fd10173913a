"""A stage for transcripts: the simulator's replicas and disks, but time, network and disks move only when the text says
so.

One line is one command or one expectation; tests/scenarios/README.md lists them. AssertionError carries the line.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from consensus.raft.configuration import Change, ChangeType, Config, MemberType, Peer
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
    UnsafeChangeConfig,
)
from consensus.raft.messages import Kind, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.state import Recovered
from consensus.raft.timing import MS, Timing
from kudu_storage.common.opid import OpId
from sim.disk import ModelDisk, Op, runs_of
from sim.history import History
from sim.observer import Observer
from sim.replica import Replica

KINDS = {"update": UpdateRequest, "answer": UpdateResponse, "ask": VoteRequest, "vote": VoteResponse,
         "stand": RunElection}


class _Luck:
    """Each replica's luck is fixed: who stands first is part of the story."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        self.now = ""

    def random(self) -> float:
        return self.of.get(self.now, 0.5)


class Machine:
    def __init__(self, name: str, disk: ModelDisk) -> None:
        self.name = name
        self.disk = disk
        self.replica: Replica | None = None
        self.tick_us: int | None = None
        self.sync_by_hand = False
        self.paused = False
        self.clock = 0
        self.backlog: list[Input] = []


class Stage:
    def __init__(self) -> None:
        self.now_us = 0
        self.timing = Timing()
        self.random = _Luck()
        self.machines: dict[str, Machine] = {}
        self.wire: list[tuple[str, str, Any]] = []
        self.taken: list[tuple[str, str, Any]] = []
        self.cuts: set[tuple[str, str]] = set()
        self.history = History()
        self.observer = Observer(self.timing.election_timeout_us)
        self.refusals: list[str] = []
        self.sent: list[tuple[str, str, Any]] = []
        self.reads: dict[str, int] = {}
        self.syncing: dict[str, tuple[int, int] | None] = {}

    # -- what replicas call --------------------------------------------------------------------------------------------
    def timestamp(self, name: str) -> int:
        machine = self.machines[name]
        machine.clock = max(machine.clock + 1, self.now_us)
        return machine.clock

    def disk_of(self, name: str) -> ModelDisk:
        return self.machines[name].disk

    def send(self, sender: str, to: Any, message: Any) -> None:
        if isinstance(message, UpdateRequest | VoteRequest):
            object.__setattr__(message, "call", sender)
        self.sent.append((sender, to, message))
        if (sender, to) not in self.cuts:
            self.wire.append((sender, to, message))

    def appended(self, replica: Replica) -> None:
        if not self.machines[replica.name].sync_by_hand:
            # Not within the step that appended: the disk takes its time, however little.
            self.wire.append((replica.name, replica.name, "sync"))

    def schedule_tick(self, replica: Replica, at_us: int) -> None:
        self.machines[replica.name].tick_us = at_us

    def role_changed(self, replica: Replica, effect: RoleChanged) -> None:
        if effect.role is Role.LEADER:
            machine = self.machines[replica.name]
            machine.clock = max(machine.clock, effect.time_floor)

    # -- moving --------------------------------------------------------------------------------------------------------
    def step(self, name: str, event: Input) -> None:
        machine = self.machines[name]
        if machine.paused:
            machine.backlog.append(event)
            return
        if machine.replica is None:
            return
        self.random.now = name
        machine.replica.step(event)
        self.observer.full_check(machine.replica)

    def sync(self, name: str) -> None:
        disk = self.machines[name].disk
        found = disk.begin_sync()
        if found is not None:
            disk.synced(found[1])
            self.step(name, LogDurable(found[0]))

    def deliver(self, match: Callable[[str, str, Any], bool], count: int = 10_000) -> int:
        done = 0
        while done < count:
            at = next((i for i, m in enumerate(self.wire) if match(*m)), None)
            if at is None:
                break
            _, to, message = self.wire.pop(at)
            if message == "sync":
                self.sync(to)
            else:
                done += 1
                self.step(to, message)
        return done

    def pass_time(self, until_us: int, deliver: bool) -> None:
        """Ticks when they are due; with `deliver`, everything on the wire arrives a tenth of a millisecond later."""
        while True:
            if deliver and self.wire:
                self.now_us += 100
                self.deliver(lambda s, t, m: True, 1)
                assert len(self.sent) < 20_000, "the replicas never stop talking (spinning)"
                continue
            due = [(m.tick_us, m.name) for m in self.machines.values() if m.tick_us is not None and not m.paused
                   and m.replica is not None]
            if not due or min(due)[0] > until_us:
                break
            at_us, name = min(due)
            self.now_us = max(self.now_us, at_us)
            self.machines[name].tick_us = None
            self.step(name, Tick())
        self.now_us = max(self.now_us, until_us)

    # -- the text ------------------------------------------------------------------------------------------------------
    def play(self, path: Path) -> None:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text = line.split("#")[0].strip()
            if not text:
                continue
            try:
                self.perform(text)
            except AssertionError as error:
                raise AssertionError(f"{path.name}:{number}: {text}\n    {error}") from error
        for machine in self.machines.values():
            if machine.replica is not None:
                self.observer.full_check(machine.replica)

    def perform(self, text: str) -> None:
        for pattern, command in _COMMANDS:
            found = pattern.fullmatch(text)
            if found:
                command(self, *found.groups())
                return
        raise AssertionError(f"no such command: {text}")

    def replica(self, name: str) -> Replica:
        found = self.machines[name].replica
        assert found is not None, f"{name} is down"
        return found


_COMMANDS: list[tuple[re.Pattern[str], Callable[..., None]]] = []


def _command(pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        _COMMANDS.append((re.compile(pattern), function))
        return function
    return register


def _ms(text: str) -> int:
    return int(text) * MS


def _config(text: str) -> Config:
    """`a,b,c+,d?,e!`: voters, a learner to promote, a learner, a voter to replace."""
    return Config(tuple(Peer(p.rstrip("?+!"), MemberType.NON_VOTER if p.rstrip("!")[-1] in "?+" else MemberType.VOTER,
                             promote="+" in p, replace="!" in p) for p in text.split(",")))


def _ops(text: str) -> list[OpId]:
    """`1.1-3,2.4`: operations 1 to 3 of term 1, operation 4 of term 2."""
    ops: list[OpId] = []
    for part in text.split(",") if text != "nothing" else []:
        term, _, range_ = part.partition(".")
        first, _, last = range_.partition("-")
        ops += [OpId(int(term), i) for i in range(int(first), int(last or first) + 1)]
    return ops


def _show(ops: list[Op]) -> list[OpId]:
    return [OpId(op.term, op.index) for op in ops]


@_command(r"group (\S+)(?: with (.+))?")
def _group(stage: Stage, peers: str, others: str | None) -> None:
    config = _config(peers)
    names = [p.peer_id for p in config.peers] + (others or "").split()
    for at, name in enumerate(names):
        stage.machines[name] = Machine(name, ModelDisk(config))
        stage.random.of[name] = at / max(1, len(names))


@_command(r"(\w+) has log (\S+) term (\d+)(?: vote (\w+))?(?: committed (\d+))?")
def _has_log(stage: Stage, name: str, log: str, term: str, vote: str | None, committed: str | None) -> None:
    """Before it starts."""
    disk = stage.machines[name].disk
    ops = [Op(op.term, op.index, Kind.DATA, op.index, str(op), None) for op in _ops(log)]
    disk.records, disk.ops, disk.synced_count = list(ops), list(ops), len(ops)
    disk.term, disk.voted_for, disk.commit_index = int(term), vote, int(committed or 0)
    known = stage.observer.committed_terms
    known += [op.term for op in ops[len(known) - 1:disk.commit_index]]
    stage.observer.committed_in += [ops[i - 1].term for i in range(len(stage.observer.committed_in), len(known))]
    before = 0
    for op in ops:
        stage.observer.ops.setdefault((op.term, op.index), (op.value, before))
        before = op.term


@_command(r"(?:re)?start ((?:\w )*\w)(?: unsure for (\d+) ms)?")
def _start(stage: Stage, names: str, unsure_ms: str | None) -> None:
    for name in names.split():
        machine = stage.machines[name]
        machine.paused, machine.tick_us, machine.backlog = False, None, []
        unsure_until = stage.now_us + _ms(unsure_ms) if unsure_ms else 0
        machine.replica = Replica(name, machine.disk, stage.timing, stage.observer, stage, unsure_until)
        stage.observer.restarted(machine.replica)
        stage.step(name, Start())


@_command(r"tombstone (\w+) at (\d+)\.(\d+)")
def _tombstone(stage: Stage, name: str, term: str, index: str) -> None:
    machine = stage.machines[name]
    disk = machine.disk
    machine.replica = Replica(name, disk, stage.timing, stage.observer, stage, 0)
    from consensus.raft.core import Raft
    machine.replica.raft = Raft(name, Recovered(disk.config, disk.term, disk.voted_for,
                                                tombstone=OpId(int(term), int(index))), stage.timing)
    stage.step(name, Start())


@_command(r"luck (\w+) ([\d.]+)")
def _set_luck(stage: Stage, name: str, luck: str) -> None:
    stage.random.of[name] = float(luck)


@_command(r"run (\d+) ms")
def _run(stage: Stage, ms: str) -> None:
    stage.pass_time(stage.now_us + _ms(ms), True)


@_command(r"wait (\d+) ms")
def _wait(stage: Stage, ms: str) -> None:
    stage.pass_time(stage.now_us + _ms(ms), False)


@_command(r"tick (\w+)")
def _tick(stage: Stage, name: str) -> None:
    """Time goes on to this replica's next tick; nobody else's comes."""
    machine = stage.machines[name]
    assert machine.tick_us is not None, f"{name} asked for no tick"
    stage.now_us, machine.tick_us = max(stage.now_us, machine.tick_us), None
    stage.step(name, Tick())


@_command(r"settle")
def _settle(stage: Stage) -> None:
    """Everything on the wire arrives, and all that it causes."""
    stage.pass_time(stage.now_us, True)


@_command(r"deliver(?: (update|answer|ask|vote|stand)(s?))? (\w+) -> (\w+)")
def _deliver(stage: Stage, kind: str | None, plural: str | None, sender: str, to: str) -> None:
    """`deliver update a -> b`: the first of them; `updates`, or no kind at all: all that are there."""
    wanted = KINDS[kind] if kind else object
    count = 1 if kind and not plural else 10_000
    done = stage.deliver(lambda s, t, m: (s, t) == (sender, to) and isinstance(m, wanted), count)
    assert done, f"nothing from {sender} to {to}"


@_command(r"sync (\w+)")
def _sync(stage: Stage, name: str) -> None:
    stage.sync(name)


@_command(r"(\w+) syncs by hand")
def _by_hand(stage: Stage, name: str) -> None:
    stage.machines[name].sync_by_hand = True


@_command(r"(\w+) syncs by itself")
def _by_itself(stage: Stage, name: str) -> None:
    stage.machines[name].sync_by_hand = False
    stage.wire.append((name, name, "sync"))


@_command(r"drop(?: (update|answer|ask|vote|stand)s?)? (\w+) -> (\w+)")
def _drop(stage: Stage, kind: str | None, sender: str, to: str) -> None:
    wanted = KINDS[kind] if kind else object
    stage.wire = [m for m in stage.wire if m[:2] != (sender, to) or not isinstance(m[2], wanted) or m[2] == "sync"]


@_command(r"take(?: (update|answer|ask|vote|stand)s?)? (\w+) -> (\w+)")
def _take(stage: Stage, kind: str | None, sender: str, to: str) -> None:
    """Out of the wire and aside, to be put back later: messages overtake each other."""
    wanted = KINDS[kind] if kind else object
    taken = [m for m in stage.wire if m[:2] == (sender, to) and isinstance(m[2], wanted) and m[2] != "sync"]
    assert taken, f"nothing from {sender} to {to}"
    stage.taken += taken
    stage.wire = [m for m in stage.wire if m not in taken]


@_command(r"copy(?: (update|answer|ask|vote|stand)s?)? (\w+) -> (\w+)")
def _copy(stage: Stage, kind: str | None, sender: str, to: str) -> None:
    """A second copy aside, to be put back later: messages are delivered twice."""
    wanted = KINDS[kind] if kind else object
    copies = [m for m in stage.wire if m[:2] == (sender, to) and isinstance(m[2], wanted) and m[2] != "sync"]
    assert copies, f"nothing from {sender} to {to}"
    stage.taken += copies


@_command(r"forge (\w+) -> (\w+): term (\d+) after (\d+\.\d+)(?: ops (\S+))?(?: committed (\d+))?")
def _forge(stage: Stage, sender: str, to: str, term: str, after: str, ops: str | None, committed: str | None) -> None:
    """An update request that no core made."""
    made = [Op(op.term, op.index, Kind.DATA, stage.now_us, "forged", None) for op in _ops(ops or "nothing")]
    request = UpdateRequest(sender, int(term), OpId.parse(after), int(committed or 0), runs_of(made), payload=made)
    object.__setattr__(request, "call", sender)
    stage.step(to, request)


@_command(r"(\w+) has no space")
def _no_space(stage: Stage, name: str) -> None:
    stage.step(name, LogCut(stage.machines[name].disk.no_space()))


@_command(r"(\w+) begins a sync")
def _begins(stage: Stage, name: str) -> None:
    stage.syncing[name] = stage.machines[name].disk.begin_sync()


@_command(r"(\w+) ends its sync")
def _ends(stage: Stage, name: str) -> None:
    found = stage.syncing.pop(name)
    assert found is not None
    stage.machines[name].disk.synced(found[1])
    stage.step(name, LogDurable(found[0]))


@_command(r"put back")
def _put_back(stage: Stage) -> None:
    stage.wire += stage.taken
    stage.taken = []


@_command(r"cut (\w+) -> (\w+)")
def _cut_one(stage: Stage, a: str, b: str) -> None:
    stage.cuts.add((a, b))
    stage.wire = [m for m in stage.wire if m[:2] != (a, b)]


@_command(r"isolate (\w+)")
def _isolate(stage: Stage, name: str) -> None:
    for other in stage.machines:
        if other != name:
            _cut_one(stage, name, other)
            _cut_one(stage, other, name)


@_command(r"mend")
def _mend(stage: Stage) -> None:
    stage.cuts.clear()


@_command(r"crash (\w+)(?: (keeping all|losing all))?")
def _crash(stage: Stage, name: str, keeping: str | None) -> None:
    machine = stage.machines[name]
    machine.replica, machine.tick_us = None, None
    if keeping == "keeping all":
        machine.disk.synced_count = len(machine.disk.records)
    elif keeping == "losing all":
        del machine.disk.records[machine.disk.synced_count:]
    machine.disk.crash(Random(0))
    stage.observer.crashed(machine)
    stage.wire = [m for m in stage.wire if m[:2] != (name, name)]


@_command(r"pause (\w+)")
def _pause(stage: Stage, name: str) -> None:
    stage.machines[name].paused = True


@_command(r"wake (\w+)")
def _wake(stage: Stage, name: str) -> None:
    """SIGCONT: what is overdue comes first, then what arrived meanwhile."""
    machine = stage.machines[name]
    machine.paused = False
    backlog, machine.backlog = machine.backlog, []
    if machine.tick_us is not None and machine.tick_us <= stage.now_us:
        machine.tick_us = None
        stage.step(name, Tick())
    for event in backlog:
        stage.step(name, event)


@_command(r"propose (\w+)(?: (\d+))?")
def _propose(stage: Stage, name: str, count: str | None) -> None:
    ids = [stage.history.invoke(True, stage.now_us) for _ in range(int(count or 1))]
    stamps = [stage.timestamp(name) for _ in ids]
    before = stage.replica(name).raft.next_index
    stage.step(name, Propose(len(ids), len(ids), stamps[0], stamps[-1], (stamps, ids)))
    if stage.replica(name).raft.next_index == before:
        for call_id in ids:
            stage.history.failed(call_id)


@_command(r"read (\w+)")
def _read(stage: Stage, name: str) -> None:
    stage.reads[name] = stage.history.invoke(False, stage.now_us)
    stage.step(name, ReadBarrier(stage.reads[name]))


@_command(r"stand (\w+)")
def _stand(stage: Stage, name: str) -> None:
    stage.step(name, RunElection())


@_command(r"(\w+) loses the connection from (\w+)")
def _lost(stage: Stage, name: str, leader: str) -> None:
    stage.step(name, LeaderLost(leader))


@_command(r"call (\w+) -> (\w+) fails")
def _fails(stage: Stage, name: str, to: str) -> None:
    seq = max(m.seq for s, t, m in stage.sent if (s, t) == (name, to) and isinstance(m, UpdateRequest))
    stage.step(name, SendFailed(to, seq))


@_command(r"step down (\w+)")
def _step_down(stage: Stage, name: str) -> None:
    stage.step(name, StepDown())


@_command(r"transfer (\w+)(?: to (\w+))?")
def _transfer(stage: Stage, name: str, to: str | None) -> None:
    stage.step(name, Transfer(to))


@_command(r"(\w+) admits (\d+|all)")
def _admits(stage: Stage, name: str, count: str) -> None:
    stage.replica(name).admits = None if count == "all" else int(count)


@_command(r"change (\w+) (.+?)(?: cas (-?\d+))?")
def _change(stage: Stage, name: str, changes: str, cas: str | None) -> None:
    """`add d`, `add d learner`, `add d promote`, `remove c`, `demote c`, `promote d`, `replace c`, several with
    `and`."""
    items = []
    for text in changes.split(" and "):
        verb, peer, *rest = text.split()
        if verb == "add":
            type_ = MemberType.NON_VOTER if rest else MemberType.VOTER
            items.append(Change(ChangeType.ADD, peer, type_, promote=rest == ["promote"]))
        elif verb == "remove":
            items.append(Change(ChangeType.REMOVE, peer))
        elif verb == "replace":
            items.append(Change(ChangeType.MODIFY, peer, replace=True))
        else:
            type_ = {"promote": MemberType.VOTER, "demote": MemberType.NON_VOTER}[verb]
            items.append(Change(ChangeType.MODIFY, peer, type_))
    stage.step(name, ChangeConfig(tuple(items), None if cas is None else int(cas), "change"))


@_command(r"force (\w+) to keep (.+)")
def _force(stage: Stage, name: str, retained: str) -> None:
    stage.step(name, UnsafeChangeConfig(frozenset(retained.split()), "change"))


# -- expectations ------------------------------------------------------------------------------------------------------
@_command(r"= (\w+) leads term (\d+)")
def _leads(stage: Stage, name: str, term: str) -> None:
    state = stage.replica(name).raft.state
    assert state.role is Role.LEADER and state.term == int(term), f"{name} is {state.role.value} in term {state.term}"


@_command(r"= (\w+) is (follower|pre-candidate|candidate|leader|learner|non-participant|tombstoned) in term (\d+)")
def _is_role(stage: Stage, name: str, role: str, term: str) -> None:
    state = stage.replica(name).raft.state
    assert (state.role.value, state.term) == (role, int(term)), f"{name} is {state.role.value} in term {state.term}"


@_command(r"= nobody leads")
def _nobody(stage: Stage) -> None:
    leaders = [m.name for m in stage.machines.values() if m.replica and m.replica.raft.state.leadership is not None]
    assert not leaders, f"{leaders} lead"


@_command(r"= (\w+) has log (\S+)")
def _log(stage: Stage, name: str, log: str) -> None:
    have = _show(stage.machines[name].disk.ops)
    assert have == _ops(log), f"{name} has {', '.join(map(str, have))}"


@_command(r"= (\w+) has durable vote (\w+) in term (\d+)")
def _vote(stage: Stage, name: str, vote: str, term: str) -> None:
    disk = stage.machines[name].disk
    assert (str(disk.voted_for), disk.term) == (vote, int(term)), f"{disk.voted_for} in term {disk.term}"


@_command(r"= (\w+) (?:has )?committed (\d+)")
def _committed(stage: Stage, name: str, index: str) -> None:
    state = stage.replica(name).raft.state
    assert state.commit_index == int(index), f"{name} committed {state.commit_index}"


@_command(r"= (\w+) has config (\S+)(?: pending)?")
def _has_config(stage: Stage, name: str, config: str) -> None:
    have = stage.replica(name).raft.state.configs.active
    assert str(have) == config, f"{name} has {have}"


@_command(r"= (\w+) has committed config (\S+) of index (-?\d+)")
def _has_committed_config(stage: Stage, name: str, config: str, index: str) -> None:
    have = stage.replica(name).raft.state.configs.committed
    on_disk = stage.machines[name].disk.config
    assert (str(have), have.opid_index) == (config, int(index)), f"{name} has {have} of {have.opid_index}"
    assert on_disk == have, f"on disk is {on_disk}"


@_command(r"= (\w+) all replicated (\d+)")
def _all_replicated(stage: Stage, name: str, index: str) -> None:
    from consensus.raft.replication import all_replicated_index
    have = all_replicated_index(stage.replica(name).raft.state)
    assert have == int(index), f"{have}"


@_command(r"= (\w+) refused: (.+)")
def _refused(stage: Stage, name: str, why: str) -> None:
    have = stage.replica(name).last_refusal
    assert have is not None and have.value == why, f"{have}"


@_command(r"= (\w+) (grants|denies) (\w+)(?: by ([A-Z_]+))?")
def _grants(stage: Stage, voter: str, what: str, candidate: str, why: str | None) -> None:
    answers = [m for s, t, m in stage.sent if (s, t) == (voter, candidate) and isinstance(m, VoteResponse)]
    assert answers, f"{voter} has not answered {candidate}"
    last = answers[-1]
    denial = last.denial.name if last.denial else None
    assert last.granted == (what == "grants") and (why is None or denial == why), f"granted {last.granted}, {denial}"


@_command(r"= (\w+) has not answered (\w+)")
def _silent(stage: Stage, name: str, to: str) -> None:
    answers = [m for s, t, m in stage.sent
               if (s, t) == (name, to) and isinstance(m, UpdateResponse) and m.error is None]
    assert not answers, f"{answers[-1]}"


@_command(r"= (\w+) answered (\w+) with ([A-Z_]+)")
def _answered(stage: Stage, name: str, to: str, error: str) -> None:
    answers = [m for s, t, m in stage.sent if (s, t) == (name, to) and isinstance(m, UpdateResponse)]
    assert answers, f"{name} has not answered {to}"
    last = answers[-1].error
    assert last is not None and last.name == error, f"{last}"


@_command(r"forget")
def _forget(stage: Stage) -> None:
    """What was said so far no longer counts for `said` and `has not answered`."""
    stage.sent.clear()


@_command(r"= (\w+) said at most (\d+) messages")
def _said(stage: Stage, name: str, count: str) -> None:
    have = [m for s, _, m in stage.sent if s == name]
    assert len(have) <= int(count), f"{len(have)}"


@_command(r"= (\w+) said (?:no|(\d+)) (update|answer|ask|vote|stand)s?(?: to (\w+))?")
def _said_kind(stage: Stage, name: str, count: str | None, kind: str, to: str | None) -> None:
    have = [m for s, t, m in stage.sent if s == name and isinstance(m, KINDS[kind]) and to in (None, t)]
    assert len(have) == int(count or 0), f"{len(have)}"


@_command(r"= (\w+) has rounds (\S+)")
def _rounds(stage: Stage, name: str, rounds: str) -> None:
    have = [OpId(term, index) for index, term in sorted(stage.replica(name).rounds.items())]
    assert have == _ops(rounds), f"{name} has rounds {', '.join(map(str, have))}"


@_command(r"= call (\d+) (was applied as (\d+)|certainly failed|is uncertain)")
def _call(stage: Stage, call: str, what: str, result: str | None) -> None:
    have = stage.history.calls[int(call) - 1]
    said = "was applied as " + str(have.result) if have.result >= 0 else "is uncertain"
    said = "certainly failed" if have.certainly_not else said
    assert said == what, f"it {said}"


@_command(r"= read (\w+) (saw (\d+)|waits|failed)")
def _read_saw(stage: Stage, name: str, what: str, result: str | None) -> None:
    have = stage.history.calls[stage.reads[name]]
    said = "failed" if have.certainly_not else "waits" if have.result < 0 else f"saw {have.result}"
    assert said == what, f"it {said}"


@_command(r"= (\w+) safe time (is before|reaches) (\d+) ms")
def _safe_time(stage: Stage, name: str, what: str, ms: str) -> None:
    have = stage.replica(name).raft.state.times.safe
    assert (have >= _ms(ms)) == (what == "reaches"), f"{have} us"
