"""Elections, from both sides. Pure.

A vote is given once a term, and is durable before it is told (R3). Whoever is asked answers by its log and its term,
also when its own configuration says that it is no voter: it may be a voter in one that it has not received yet, and its
vote may be the one that is missing. Whoever asks, asks and counts voters only (R10).
"""
from __future__ import annotations

from typing import Final

from consensus.raft.effects import PersistVote, Reply, Role, Send
from consensus.raft.election import Election, Mode, Outcome
from consensus.raft.inputs import LeaderLost, Start, Tick
from consensus.raft.leading import become_leader, lead_tick
from consensus.raft.messages import RunElection, VoteRequest, VoteResponse
from consensus.raft.refusals import VoteDenial
from consensus.raft.state import State

_WITHHELD: Final = frozenset({VoteDenial.LEADER_IS_ALIVE, VoteDenial.BUSY})


def on_start(s: State, _: Start) -> None:
    """A restarted replica does not know whether a leader is alive, so it waits; the two exceptions cannot disturb
    one."""
    s.role = s.standing_role()
    s.await_election()
    s.announce()
    if s.role is not Role.FOLLOWER:
        return
    if s.configs.active.voters == (s.me,):
        s.election_at_us = s.now_us
        if s.is_sure():
            stand(s, Mode.REAL)
    elif s.term == 0:
        s.election_at_us = s.now_us + int(s.luck * s.timing.heartbeat_us)


def on_tick(s: State, _: Tick) -> None:
    late = s.scheduled_us is not None and s.now_us - s.scheduled_us > s.timing.late_us
    s.scheduled_us = None
    if s.leadership is not None:
        lead_tick(s, late)
    elif s.election_at_us is not None and s.now_us >= s.election_at_us:
        if (late and not s.excused) or s.waiting:
            # This process slept, or its disk is at work on what the leader sent: neither is the leader's silence. A
            # late tick is
            # forgiven once: messages that came meanwhile are behind it in the queue.
            s.excused = True
            s.election_at_us = s.now_us + s.timing.heartbeat_us
            return
        if not s.is_sure():
            s.election_at_us = s.now_us + s.timing.heartbeat_us // 5
            return
        if s.election is not None:
            s.failures += 1
        stand(s, Mode.PRE)


def on_leader_lost(s: State, event: LeaderLost) -> None:
    """Ends withholding for this leader alone, and waits no longer for it."""
    if s.leadership is None and s.leader_id == event.leader_id:
        s.withhold_until_us = 0
        if s.election_at_us is not None and s.election is None:
            s.election_at_us = min(s.election_at_us, s.now_us + int(s.luck * s.timing.leader_lost_spread_us))


def on_run_election(s: State, _: RunElection) -> None:
    """R11: not a sitting leader. A learner is no candidate for anything."""
    if s.leadership is None and s.standing_role() is Role.FOLLOWER and s.is_sure():
        stand(s, Mode.FORCED)


def stand(s: State, mode: Mode) -> None:
    assert s.leadership is None, "R11"
    assert s.is_voter(), "R10"
    if mode is not Mode.PRE:
        s.advance_term(s.term + 1, s.me)
    s.election = Election(mode, s.term + 1 if mode is Mode.PRE else s.term, s.me)
    s.role = Role.FOLLOWER
    s.await_election()
    s.role = Role.PRE_CANDIDATE if mode is Mode.PRE else Role.CANDIDATE
    s.announce()
    request = VoteRequest(s.me, s.election.term, s.last_received, mode is Mode.PRE, mode is Mode.FORCED)
    s.effects.extend(Send(voter, request) for voter in s.configs.active.voters if voter != s.me)
    _count(s, s.election)


def on_vote_response(s: State, response: VoteResponse) -> None:
    election = s.election
    if response.responder_term > s.term and not response.granted:
        # Also after a pre-election, else a voter with a higher term and a shorter log and we would refuse each other
        # for
        # ever. When only the term was wrong the next attempt need not wait: terms do not rise by it.
        term_was_wrong = response.denial is not VoteDenial.LAST_OPID_TOO_OLD
        hurry = election is not None and election.mode is Mode.PRE and term_was_wrong
        s.failures += election is not None
        s.advance_term(response.responder_term)
        if hurry and s.election_at_us is not None:
            s.election_at_us = s.now_us + int(s.luck * s.timing.heartbeat_us)
        return
    if election is None or response.term != election.term:
        return
    if response.is_pre_election is not (election.mode is Mode.PRE):
        return
    s.times.raise_floor(response.time_floor)
    election.votes[response.voter_id] = response.granted
    election.withheld |= response.denial in _WITHHELD
    _count(s, election)


def _count(s: State, election: Election) -> None:
    outcome = election.outcome(s.configs.active.voters)
    if outcome is Outcome.LOST:
        s.failures += not election.withheld
        s.become_follower()
    elif outcome is Outcome.WON:
        if election.mode is Mode.PRE:
            stand(s, Mode.REAL)
        else:
            become_leader(s)


def on_vote_request(s: State, request: VoteRequest) -> None:
    if not request.ignore_live_leader and (s.leadership is not None or s.now_us < s.withhold_until_us):
        _answer(s, request, VoteDenial.LEADER_IS_ALIVE)
        return
    if not s.is_sure():
        _answer(s, request, VoteDenial.BUSY)
        return
    if request.term < s.term:
        _answer(s, request, VoteDenial.INVALID_TERM)
        return
    if request.term == s.term and s.voted_for is not None:
        _answer(s, request, None if s.voted_for == request.candidate_id else VoteDenial.ALREADY_VOTED)
        return
    behind = request.last_received < s.last_received
    if not request.is_pre_election:
        vote = None if behind else request.candidate_id
        if request.term > s.term:
            s.advance_term(request.term, vote)
        elif vote is not None:
            s.voted_for = vote
            s.become_follower()
            s.effects.append(PersistVote(s.term, vote))
    if behind and s.election is None and s.election_at_us is not None:
        # Nobody leads, and this log is the better one: whoever asked cannot win before we do.
        s.election_at_us = min(s.election_at_us, s.now_us + int(s.luck * s.timing.heartbeat_us))
    if not behind and request.is_pre_election:
        _yield_to(s, request)
    _answer(s, request, VoteDenial.LAST_OPID_TOO_OLD if behind else None)


def _yield_to(s: State, request: VoteRequest) -> None:
    """Two that ask at the same time would both be encouraged, and then split the votes. Both see the other's question,
    so that both know which of them goes on: the one with the newer log, or else the greater name."""
    mine = s.election
    if mine is not None and mine.mode is Mode.PRE and request.term >= mine.term \
            and (request.last_received, request.candidate_id) > (s.last_received, s.me):
        s.become_follower()


def _answer(s: State, request: VoteRequest, denial: VoteDenial | None) -> None:
    withheld = denial in _WITHHELD
    s.effects.append(Reply(request.call, VoteResponse(
        s.me, request.term, request.is_pre_election, denial is None, 0 if withheld else s.term, denial, s.times.floor)))
