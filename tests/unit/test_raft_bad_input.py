"""What no good peer sends and no good caller asks: refused, with the reason, and the state is as it was.

Bytes that are no message, frames that are too large and messages of other groups never come so far:
test_transport_wire.py, test_rpc_framing.py, test_transport_krpc.py. Clocks: test_replica_clock.py.
"""
from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

from consensus.raft import effects as fx
from consensus.raft.configuration import Change, ChangeType, Config, MemberType, Peer, voters
from consensus.raft.core import Raft
from consensus.raft.inputs import (
    ChangeConfig,
    CopyDone,
    Input,
    LogCut,
    LogDurable,
    Propose,
    SendFailed,
    SendFailure,
    Sent,
    Start,
    Transfer,
    UnsafeChangeConfig,
)
from consensus.raft.messages import Kind, Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import Refusal, UpdateError, VoteDenial
from consensus.raft.state import Recovered
from kudu_storage.common.opid import OpId

NOW = 10_000_000
# What each step sets, whatever comes.
OF_THE_STEP = {"effects", "now_us", "luck", "clock", "scheduled_us"}


def frozen(value: Any) -> Any:
    """All of a state, as plain values."""
    if isinstance(value, (int, str, float, bool, Enum, type(None))):
        return value
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return [frozen(item) for item in value]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    assert names, type(value)
    return {name: frozen(getattr(value, name)) for name in names if name not in OF_THE_STEP}


def step(core: Raft, event: Input) -> list[fx.Effect]:
    return core.step(event, NOW, 0.5, NOW)


def update(*runs: Run, term: int = 2, after: tuple[int, int] = (2, 5), committed: int = 0,
           leader: str = "a") -> UpdateRequest:
    return UpdateRequest(leader, term, OpId(*after), committed, runs, call="call")


@pytest.fixture
def follower() -> Raft:
    """b, in term 2 of leader a, with 2.1 (a no-op) to 2.5, of which 3 are committed."""
    core = Raft("b", Recovered(voters("a", "b", "c")))
    step(core, Start())
    step(core, update(Run(2, 1, 1, Kind.NO_OP), Run(2, 2, 5), after=(0, 0), committed=3))
    step(core, LogDurable(1))
    assert (core.state.commit_index, core.state.leader_id) == (3, "a")
    return core


@pytest.fixture
def leader() -> Raft:
    """a, of term 1, with 1.1 to 1.4 that b has, too; c has said nothing."""
    core = Raft("a", Recovered(Config((Peer("a"), Peer("b"), Peer("c"), Peer("d", MemberType.NON_VOTER)))))
    step(core, Start())
    step(core, RunElection())
    step(core, VoteResponse("b", 1, False, True))
    step(core, Sent("b", 1, 1, 10))
    step(core, LogDurable(1))
    step(core, UpdateResponse("b", 1, OpId(1, 1), OpId(1, 1), 0, seq=1))
    step(core, Propose(3, 30, NOW + 10, NOW + 12))
    step(core, LogDurable(2))
    assert core.state.leadership is not None and core.state.commit_index == 1
    assert core.state.terms.last == OpId(1, 4)
    return core


def config_run(*peers: Peer, index: int = 6, opid_index: int = 6) -> Run:
    return Run(2, index, index, Kind.CONFIG, 9, Config(peers, opid_index))


# -- a follower --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("request_", [
    update(after=(2, -1)), update(after=(-1, 2)), update(after=(0, 5)), update(after=(2, 0)), update(after=(3, 5)),
    update(term=0, after=(0, 0)), update(committed=-1),
    update(Run(2, 7, 8)), update(Run(2, 5, 6)), update(Run(2, 6, 5)), update(Run(2, 6, 7), Run(2, 9, 9)),
    update(Run(2, 6, 7), Run(2, 7, 8)), update(Run(1, 6, 6)), update(Run(3, 6, 6)), update(Run(2, 6, 6), Run(1, 7, 7)),
    update(Run(0, 6, 6), after=(0, 5)),
    update(Run(2, 6, 6, Kind.CONFIG)), update(config_run(Peer("a"), opid_index=7)), update(config_run()),
    update(config_run(Peer("a", MemberType.NON_VOTER))), update(config_run(Peer("a"), Peer("a"))),
    update(config_run(*[Peer(name) for name in "abcdefgh"])), update(config_run(Peer(""))),
    update(Run(2, 6, 7, Kind.CONFIG, 9, voters("a"))),
    update(leader="c"), update(term=3, after=(1, 2), leader="c"),
    update(Run(3, 3, 3), term=3, after=(2, 2), leader="c"),
], ids=["index below 0", "term below 0", "no term", "no index", "preceding of a later term", "term 0", "commit below 0",
        "gap before the first", "not behind the preceding one", "ends before it begins", "gap between", "overlap",
        "older term than the preceding", "later term than the leader", "terms that fall", "operations of term 0",
        "configuration missing", "configuration of another index", "no members", "no voter", "a member twice",
        "too many voters", "a member without a name", "two operations, one configuration",
        "a second leader of the term", "a leader that lacks what is committed", "a leader that replaces it"])
def test_an_update_that_no_leader_can_have_sent(follower: Raft, request_: UpdateRequest) -> None:
    before = frozen(follower.state)
    (reply,) = step(follower, request_)
    assert isinstance(reply, fx.Reply) and isinstance(reply.message, UpdateResponse)
    assert reply.message.error is UpdateError.MALFORMED
    assert reply.message.last_received == OpId(0, 0), "not a word about the log"
    assert frozen(follower.state) == before
    follower.check()


@pytest.mark.parametrize("runs", [(), (Run(1, 6, 9),)])
def test_an_update_of_an_older_term(follower: Raft, runs: tuple[Run, ...]) -> None:
    before = frozen(follower.state)
    (reply,) = step(follower, update(*runs, term=1, after=(1, 5), leader="c"))
    assert isinstance(reply, fx.Reply) and isinstance(reply.message, UpdateResponse)
    assert (reply.message.error, reply.message.term) == (UpdateError.INVALID_TERM, 2)
    assert frozen(follower.state) == before


@pytest.mark.parametrize(("request_", "denial"), [
    (VoteRequest("c", 1, OpId(9, 99), ignore_live_leader=True), VoteDenial.INVALID_TERM),
    (VoteRequest("c", 3, OpId(2, 5)), VoteDenial.LEADER_IS_ALIVE),
    (VoteRequest("stranger", 3, OpId(9, 99), True), VoteDenial.LEADER_IS_ALIVE),
])
def test_a_vote_that_is_not_given(follower: Raft, request_: VoteRequest, denial: VoteDenial) -> None:
    before = frozen(follower.state)
    (reply,) = step(follower, request_)
    assert isinstance(reply, fx.Reply) and isinstance(reply.message, VoteResponse)
    assert (reply.message.granted, reply.message.denial) == (False, denial)
    assert frozen(follower.state) == before


@pytest.mark.parametrize("event", [
    VoteResponse("a", 2, False, True), VoteResponse("stranger", 9, True, True), UpdateResponse("c", 2, OpId(2, 9)),
    UpdateResponse("stranger", 1), LogDurable(1), LogCut(5), LogCut(99), Sent("c", 3, 9, 9), SendFailed("c", 3),
    SendFailed("c", 3, SendFailure.COLLECTED), CopyDone("c"),
], ids=str)
def test_what_is_no_followers_business(follower: Raft, event: Input) -> None:
    before = frozen(follower.state)
    assert step(follower, event) == []
    assert frozen(follower.state) == before


# -- a leader ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("event", [
    UpdateResponse("stranger", 1, OpId(1, 4), OpId(1, 4), seq=2), UpdateResponse("b", 0, OpId(1, 4), OpId(1, 4), seq=2),
    UpdateResponse("c", 1, OpId(1, 4), OpId(1, 4), seq=0), Sent("stranger", 3, 4, 10), Sent("b", 99, 4, 10),
    Sent("b", 2, 99, 10), SendFailed("stranger", 3), SendFailed("b", 0), CopyDone("b"), CopyDone("stranger"),
    VoteResponse("c", 1, False, True), RunElection(), LogDurable(1), LogCut(4),
], ids=str)
def test_a_leader_does_not_believe_it(leader: Raft, event: Input) -> None:
    before = frozen(leader.state)
    assert step(leader, event) == []
    assert frozen(leader.state) == before
    leader.check()


def test_an_answer_that_speaks_of_what_the_leader_does_not_have_acknowledges_nothing(leader: Raft) -> None:
    for op in (OpId(1, 99), OpId(2, 4), OpId(0, 4)):
        step(leader, UpdateResponse("c", 1, op, op, 99, seq=leader.state.seq))
        assert leader.state.leadership is not None and leader.state.commit_index == 1
        assert leader.state.leadership.progress["c"].match_index == 0
        leader.check()


def test_learners_acknowledge_and_nothing_is_committed_by_that(leader: Raft) -> None:
    step(leader, UpdateResponse("d", 1, OpId(1, 4), OpId(1, 4), 0, seq=leader.state.seq))
    assert leader.state.commit_index == 1


def add(name: str, kind: MemberType | None = MemberType.VOTER) -> Change:
    return Change(ChangeType.ADD, name, kind)


@pytest.mark.parametrize(("event", "refusal"), [
    (ChangeConfig((add("b"),), None, "t"), Refusal.BAD_CONFIG),
    (ChangeConfig((add("e"), add("e")), None, "t"), Refusal.BAD_CONFIG),
    (ChangeConfig((add("e", None),), None, "t"), Refusal.BAD_CONFIG),
    (ChangeConfig((add(""),), None, "t"), Refusal.BAD_CONFIG),
    (ChangeConfig((), None, "t"), Refusal.BAD_CONFIG),
    (ChangeConfig((add("e"), add("f")), None, "t"), Refusal.TOO_MANY_VOTERS_CHANGED),
    (ChangeConfig((Change(ChangeType.REMOVE, "b"), Change(ChangeType.REMOVE, "c")), None, "t"),
     Refusal.TOO_MANY_VOTERS_CHANGED),
    (ChangeConfig((Change(ChangeType.REMOVE, "a"),), None, "t"), Refusal.PEER_IS_LEADER),
    (ChangeConfig((Change(ChangeType.REMOVE, "x"),), None, "t"), Refusal.UNKNOWN_PEER),
    (ChangeConfig((add("e"),), 7, "t"), Refusal.CAS_FAILED),
    (UnsafeChangeConfig(frozenset(), "t"), Refusal.BAD_CONFIG),
    (UnsafeChangeConfig(frozenset("bc"), "t"), Refusal.BAD_CONFIG),
    (UnsafeChangeConfig(frozenset("ax"), "t"), Refusal.UNKNOWN_PEER),
    (Transfer("d", "t"), Refusal.NOT_A_VOTER), (Transfer("x", "t"), Refusal.NOT_A_VOTER),
    (Propose(1, 9, 1, 1, None, "t"), Refusal.BEHIND_CLOCK), (Propose(0, 9, NOW + 20, NOW + 20, None, "t"),
                                                             Refusal.BEHIND_CLOCK),
    (Propose(2, 9, NOW + 20, NOW + 19, None, "t"), Refusal.BEHIND_CLOCK),
], ids=str)
def test_a_request_that_is_refused(leader: Raft, event: Input, refusal: Refusal) -> None:
    before = frozen(leader.state)
    (refused,) = step(leader, event)
    assert isinstance(refused, fx.Refused) and (refused.token, refused.refusal) == ("t", refusal)
    assert frozen(leader.state) == before
    leader.check()


def test_a_second_change_while_one_is_pending(leader: Raft) -> None:
    step(leader, ChangeConfig((add("e"),), None, "first"))
    before = frozen(leader.state)
    (refused,) = step(leader, ChangeConfig((add("f", MemberType.NON_VOTER),), None, "second"))
    assert isinstance(refused, fx.Refused) and refused.refusal is Refusal.CHANGE_PENDING
    assert frozen(leader.state) == before


def test_the_eighth_voter() -> None:
    core = Raft("a", Recovered(voters(*"abcdefg")))
    step(core, Start())
    step(core, RunElection())
    for voter in "bcd":
        step(core, VoteResponse(voter, 1, False, True))
    seq = core.state.seq
    step(core, LogDurable(1))
    for peer in "bcd":
        step(core, UpdateResponse(peer, 1, OpId(1, 1), OpId(1, 1), seq=seq))
    assert core.state.commit_index == 1
    before = frozen(core.state)
    (refused,) = step(core, ChangeConfig((add("h"),), None, "t"))
    assert isinstance(refused, fx.Refused) and refused.refusal is Refusal.BAD_CONFIG
    assert frozen(core.state) == before


def test_a_change_is_a_change(leader: Raft) -> None:
    """Else `frozen` would show nothing."""
    for event in (Propose(1, 9, NOW + 20, NOW + 20, None, "t"), ChangeConfig((add("e"),), None, "t"),
                  UpdateResponse("c", 1, OpId(1, 4), OpId(1, 4), seq=2), Transfer("b", "t")):
        before = frozen(leader.state)
        step(leader, event)
        assert frozen(leader.state) != before
    assert frozen(replace(Run(1, 1, 1), last=2)) != frozen(Run(1, 1, 1))
