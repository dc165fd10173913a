"""Sees everything in the simulated group and holds it against R1 to R16. No replica sees the observer.

What can be decided when it happens is decided then, from the disks and messages themselves: the core's own bookkeeping
is not believed. AssertionError names the relation that does not hold.
"""
from __future__ import annotations

from bisect import bisect_left
from typing import Any

from consensus.raft import effects as fx
from consensus.raft.inputs import LeaderLost
from consensus.raft.messages import Kind, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.quorum import majority_size
from consensus.raft.refusals import UpdateError
from kudu_storage.common.opid import OpId


class Observer:
    def __init__(self, election_timeout_us: int) -> None:
        self._election_timeout_us = election_timeout_us
        self.leaders: dict[int, str] = {}                       # term -> who led it
        self.votes: dict[tuple[str, int], str] = {}             # (voter, term) -> candidate, as told
        self.terms: dict[str, int] = {}                         # highest term each replica ever had durable
        self.ops: dict[tuple[int, int], tuple[object, int]] = {}  # (term, index) -> (value, term of the one before)
        self.committed_terms: list[int] = [0]                   # by index
        self.committed_in: list[int] = [0]                      # by index: the term in which it was first committed
        self.safe: dict[str, tuple[int, int]] = {}              # replica -> (safe time, commit index then)
        self.heard_us: dict[str, int] = {}                      # replica -> when a live leader was last heard
        self._leading: set[str] = set()
        self.commits: dict[str, int] = {}                       # replica -> commit index, of this life

    # -- votes and terms -----------------------------------------------------------------------------------------------
    def vote_persisted(self, name: str, term: int, voted_for: str | None) -> None:
        assert term >= self.terms.get(name, 0), f"R2: {name} goes from term {self.terms[name]} to {term}"
        self.terms[name] = term

    def vote_told(self, replica: Any, request: object, response: VoteResponse) -> None:
        assert isinstance(request, VoteRequest)
        if not response.granted:
            return
        candidate, heard = request.candidate_id, self.heard_us.get(replica.name)
        assert request.ignore_live_leader or replica.name not in self._leading, f"R11: leader {replica.name} votes"
        if heard is not None and not request.ignore_live_leader:
            since = replica.world.now_us - heard
            assert since >= self._election_timeout_us, (
                f"R11: {replica.name} votes for {candidate}, {since} us after it heard a leader")
        if response.is_pre_election:
            return
        key = (replica.name, response.term)
        before = self.votes.setdefault(key, candidate)
        assert before == candidate, f"R3: {replica.name} votes for {before} and {candidate} in term {response.term}"
        disk = replica.disk
        assert (disk.term, disk.voted_for) == (response.term, candidate), f"R3: {replica.name} votes in memory"

    def role_changed(self, replica: Any, effect: fx.RoleChanged) -> None:
        if effect.role is not fx.Role.LEADER:
            return
        name, term = replica.name, effect.term
        assert self.leaders.setdefault(term, name) == name, f"R1: {self.leaders[term]} and {name} lead term {term}"
        disk = replica.disk
        assert (disk.term, disk.voted_for) == (term, name), f"R3: {name} leads term {term} without a durable vote"
        voters = replica.raft.state.configs.active.voters
        have = sum(v == name or self.votes.get((v, term)) == name for v in voters)
        assert have >= majority_size(len(voters)), f"R10: {name} leads term {term} by {have} of {len(voters)} voters"
        # A candidate may learn that it won long after others went on: it need have only what was committed before its
        # term.
        last = min(bisect_left(self.committed_in, term), len(self.committed_terms)) - 1
        ops = disk.ops
        assert last <= len(ops) and (not last or ops[last - 1].term == self.committed_terms[last]), (
            f"R6: leader {name} of term {term} lacks {self.committed_terms[last]}.{last}")

    # -- the log -------------------------------------------------------------------------------------------------------
    def appended(self, replica: Any, first: int, last: int) -> None:
        ops = replica.disk.ops
        before = ops[first - 2].term if first > 1 else 0
        for op in ops[first - 1:last]:
            seen = (op.value if op.kind is Kind.DATA else op.kind, before)
            known = self.ops.setdefault((op.term, op.index), seen)
            assert known == seen, f"R5: {op.term}.{op.index} is {known!r:.40} and, on {replica.name}, {seen!r:.40}"
            before = op.term

    def truncated(self, replica: Any, after: int) -> None:
        ops = replica.disk.ops
        if replica.raft.state.leadership is not None:
            raise AssertionError(f"R4: leader {replica.name} removes operations after {after}")
        committed = self.commits.get(replica.name, 0)
        assert after >= committed, f"R7: {replica.name} removes {after + 1}, it committed {committed} of {len(ops)}"

    def acknowledged(self, replica: Any, response: UpdateResponse) -> None:
        """R13: what an answer without error speaks of is durable."""
        if response.error is not None:
            return
        for op in (response.last_received_current_leader, response.last_received):
            assert op.index == 0 or replica.disk.durably_holds(op), f"R13: {replica.name} acknowledged {op} too soon"

    def committed(self, replica: Any, first: int, last: int) -> None:
        name, ops, state = replica.name, replica.disk.ops, replica.raft.state
        before = self.commits.get(name, 0)
        assert last > before, f"R14: {name} commits {last} after {before}"
        assert last <= len(ops) and replica.disk.durably_holds(OpId(ops[last - 1].term, last)), (
            f"R14: {name} commits {last}, which is not durable there")
        self.commits[name] = last
        terms = self.committed_terms
        safe, safe_index = self.safe.get(name, (-1, 0))
        for op in ops[first - 1:last]:
            if op.index < len(terms):
                assert terms[op.index] == op.term, f"R7: {op.index} has term {terms[op.index]}, on {name} {op.term}"
            else:
                terms.append(op.term)
                self.committed_in.append(max(self.committed_in[-1], state.term))
            assert op.index <= safe_index or op.timestamp > safe, (
                f"R15: {op.term}.{op.index} of {op.timestamp} is committed on {name}, where {safe} is safe")
        if state.leadership is not None:
            op = ops[last - 1]
            assert op.term == state.term, f"R8: {name} commits {op.term}.{op.index} by counting in term {state.term}"
            voters = state.configs.active.voters
            have = [v for v in voters if replica.world.disk_of(v).durably_holds(OpId(op.term, op.index))]
            assert len(have) >= majority_size(len(voters)), f"R13: {op.term}.{op.index} is committed on {have}"

    def safe_time(self, replica: Any, timestamp: int) -> None:
        before, index = self.safe.get(replica.name, (0, 0))
        if timestamp > before:
            self.safe[replica.name] = (timestamp, max(index, replica.applied))

    def crashed(self, node: Any) -> None:
        self.commits.pop(node.name, None)
        self._leading.discard(node.name)

    def restarted(self, replica: Any) -> None:
        """A committed configuration on disk can be news: the process died before it could say so."""
        committed, terms = replica.raft.state.commit_index, self.committed_terms
        self.commits[replica.name] = committed
        for op in replica.disk.ops[:committed]:
            if op.index == len(terms):
                terms.append(op.term)
                self.committed_in.append(max(self.committed_in[-1], replica.raft.state.term))
            assert terms[op.index] == op.term, f"R7: {op} was committed otherwise"
        self.heard_us.pop(replica.name, None)

    # -- after each step -----------------------------------------------------------------------------------------------
    def stepped(self, replica: Any, event: object, term_before: int, state: Any) -> None:
        """The cheap relations between an input and what became of the replica."""
        name = replica.name
        kind = type(event)
        replica.raft.check()
        assert state.term >= term_before, f"R2: {name} goes from {term_before} to {state.term}"
        if kind is UpdateRequest:
            assert isinstance(event, UpdateRequest)
            if event.term > term_before and replica.last_error is not UpdateError.MALFORMED:
                assert state.leadership is None and state.term == event.term, f"R12: {name} leads on below {event.term}"
            if event.term == state.term and state.leader_id == event.leader_id:
                self.heard_us[name] = replica.world.now_us
        elif kind is LeaderLost:
            self.heard_us.pop(name, None)
        elif kind is UpdateResponse:
            assert isinstance(event, UpdateResponse)
            assert event.term <= term_before or state.leadership is None, f"R12: {name} leads on below {event.term}"
            assert event.error is not UpdateError.MALFORMED, f"{name} was told that its request cannot be"
        if state.leadership is not None:
            self._leading.add(name)
        elif name in self._leading:
            # It stopped leading by itself, so it knows that this leader is gone.
            self._leading.discard(name)
            self.heard_us.pop(name, None)

    def full_check(self, replica: Any) -> None:
        """Everything again, for one replica: its core's relations, and its rounds, log and configuration from its
        disk."""
        replica.raft.check()
        state, disk = replica.raft.state, replica.disk
        ops = disk.ops
        terms = [op.term for op in ops]
        befores = [0, *terms[:-1]]
        assert state.terms.last == (OpId(terms[-1], len(ops)) if ops else OpId(0, 0)), f"R5: {state.terms.last}"
        spans = [(term, i) for i, (before, term) in enumerate(zip(befores, terms, strict=False), 1) if before != term]
        assert state.terms.spans() == spans, f"R5: {state.terms.spans()} instead of {spans}"
        committed = state.commit_index
        assert replica.rounds == {op.index: op.term for op in ops[committed:]}, (
            f"R16: {replica.name} has rounds {replica.rounds} for {ops[committed:]}")
        carried = [op.config for op in ops if op.config is not None]
        newest = max([disk.config, *carried], key=lambda c: c.opid_index)
        assert state.configs.active == newest, f"R9: {state.configs.active} is active on {replica.name}, not {newest}"
        behind = [c.opid_index for c in carried if c.opid_index <= committed]
        assert disk.config.opid_index >= max(behind, default=-1), f"R9: committed {behind}, persisted {disk.config}"
        assert (disk.term, disk.voted_for) == (state.term, state.voted_for), f"R3: {replica.name} has a vote in memory"
        known = self.ops
        recorded = [known[pair][1] for pair in zip(terms, range(1, len(ops) + 1), strict=True)]
        assert recorded == befores[:len(ops)], f"R5: {replica.name} has {terms}, others' predecessors are {recorded}"
        count = min(committed, len(self.committed_terms) - 1)
        assert terms[:count] == self.committed_terms[1:count + 1], f"R7: {replica.name} has {terms[:count]}"
