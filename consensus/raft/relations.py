"""What must hold in one replica after every step, derived from scratch. Pure.

Relations between replicas (R1, R3, R5 to R7, R13, R15, R16) need all of them, and are checked where all of them are:
tests/sim.
"""
from __future__ import annotations

from consensus.raft.effects import Role
from consensus.raft.election import Mode
from consensus.raft.progress import Sending
from consensus.raft.quorum import majority_size
from consensus.raft.state import State


def check(s: State) -> None:
    s.terms.check()
    s.configs.check()
    _check_indexes(s)
    _check_role(s)
    if s.leadership is not None:
        _check_leader(s)


def _check_indexes(s: State) -> None:
    assert s.terms.last_term <= s.term, f"R2: log of term {s.terms.last_term} in term {s.term}"
    assert s.commit_index <= s.durability.index <= s.terms.last_index, (
        f"R14: commit {s.commit_index}, durable {s.durability.index}, last {s.terms.last_index}")
    assert s.matched_index <= s.terms.last_index, f"R5: {s.matched_index} agreed of {s.terms.last_index}"
    pending = s.configs.pending
    assert not pending or s.commit_index < pending[0].opid_index, "R9: a pending configuration is committed"
    assert s.configs.active.opid_index <= s.terms.last_index, "R9: the active configuration is not in the log"
    assert all(request.term == s.term for _, request in s.waiting), "R13: an answer of an older term waits"


def _check_role(s: State) -> None:
    leads = s.role is Role.LEADER
    assert leads == (s.leadership is not None), f"role {s.role}"
    assert leads == (s.leader_id == s.me), f"R1: {s.me} has role {s.role} and leader {s.leader_id}"
    stands = s.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)
    assert stands == (s.election is not None), f"role {s.role}"
    if not leads and not stands:
        assert s.role is s.standing_role(), f"R10: {s.role}"
    if stands or leads:
        assert s.is_voter(), f"R10: {s.role} without a vote"
    if s.role in (Role.CANDIDATE, Role.LEADER):
        assert s.voted_for == s.me, f"R3: {s.role} voted for {s.voted_for}"
    if s.election is not None:
        assert s.election.term == s.term + (s.election.mode is Mode.PRE), "R2"
    assert (s.election_at_us is None) == (s.role not in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)), (
        f"R11: {s.role} stands at {s.election_at_us}")
    assert not s.waiting or not leads, "R12: a leader owes answers to another"


def _check_leader(s: State) -> None:
    lead = s.leadership
    assert lead is not None
    members = {p.peer_id for p in s.configs.active.peers}
    assert set(lead.progress) | {s.me} == members, "R9: peers are not the configuration's"
    beyond = [c for c in s.configs.pending if not c.unsafe]
    assert len(beyond) <= 1, f"R9: {len(beyond)} pending configurations"
    assert s.terms.term_at(lead.first_index) == s.term, "R4: the leader's first operation is gone"
    for p in lead.progress.values():
        assert 0 <= p.match_index < p.next_index <= s.terms.last_index + 1, (
            f"P1: {p.peer_id} has {p.match_index}, next {p.next_index} of {s.terms.last_index}")
        assert p.in_flight_bytes == sum(size for *_, size in p.in_flight), "P1"
        assert not p.in_flight or p.in_flight[-1][2] < p.next_index, "P1"
        assert p.sending is not Sending.COPY or not p.in_flight, "P1"
    voters = s.configs.active.voters
    index = s.commit_index
    if index >= lead.first_index:
        # R8 and R13 afresh, one voter at a time. Falls short only when the configuration was changed after the commit.
        have = sum(s.durability.index >= index if v == s.me else lead.progress[v].match_index >= index for v in voters)
        assert have >= majority_size(len(voters)) or s.configs.active.opid_index > lead.first_index or any(
            p.doubts for p in lead.progress.values()), f"R13: {index} is committed with {have} of {len(voters)}"
