"""The parts of the Raft core by themselves, against slow and obvious twins."""
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.raft import (
    Change,
    ChangeType,
    Config,
    MemberType,
    Peer,
    Raft,
    Recovered,
    Refusal,
    Timing,
    is_sound,
    voters,
)
from consensus.raft.configuration import changed, survivors
from consensus.raft.durability import Durability
from consensus.raft.effects import Replicate, Role, Send
from consensus.raft.election import Election, Mode, Outcome
from consensus.raft.inputs import ChangeConfig, LogDurable, Propose, Sent, Start, StepDown, Tick, Transfer
from consensus.raft.messages import UpdateRequest, UpdateResponse, VoteResponse
from consensus.raft.quorum import majority_size, majority_value
from consensus.raft.safe_time import SafeTimes
from consensus.raft.terms import Terms
from consensus.raft.timing import election_wait_us
from kudu_storage.common.opid import OpId


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 12)), max_size=30), st.integers(0, 3))
def test_terms_answers_like_a_list_of_terms(changes: list[tuple[bool, int, int]], base: int) -> None:
    terms = Terms(OpId(1 if base else 0, base))
    twin = [0] * base + [1 if base else 0]           # twin[i]: term of operation i, from base on
    for truncates, count, step in changes:
        if truncates:
            after = max(base, len(twin) - 1 - count)
            terms.truncate_after(after)
            del twin[after + 1:]
        else:
            term = max(twin[-1], 1) + (step == 0)
            twin += [term] * count
            terms.append(term, len(twin) - 1)
        terms.check()
        assert terms.last == OpId(twin[-1], len(twin) - 1)
        assert [terms.term_at(i) for i in range(base, len(twin) + 1)] == [*twin[base:], -1]
        for term, first in itertools.product(range(6), range(base + 1, len(twin))):
            expected = next((i for i in range(first, len(twin)) if twin[i] != term), len(twin))
            assert terms.first_mismatch(term, first, len(twin)) == expected
        again = Terms(terms.base, terms.spans(), terms.last_index)
        assert [again.term_at(i) for i in range(base, len(twin))] == twin[base:]


def test_index_0_of_an_empty_log_is_a_legal_question() -> None:
    terms = Terms()
    assert terms.term_at(0) == 0
    assert terms.holds(OpId(0, 0))
    assert terms.term_at(1) == -1
    assert terms.last == OpId(0, 0)
    assert Terms(OpId(3, 10)).term_at(0) == -1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_majority_value_is_what_more_than_half_have_reached(values: list[int]) -> None:
    best = max(v for v in [*values, -1] if sum(w >= v for w in values) >= majority_size(len(values)))
    assert majority_value(list(values)) == best


@pytest.mark.parametrize("config", [
    Config(()), Config((Peer("a", MemberType.NON_VOTER),)), Config((Peer("a"), Peer("a"))), Config((Peer(""),)),
    voters(*"abcdefgh"),
], ids=["empty", "no voter", "twice", "nameless", "too many"])
def test_configurations_that_cannot_be(config: Config) -> None:
    assert not is_sound(config)


def test_a_change_keeps_everybody_else_as_they_were() -> None:
    before = Config((Peer("a", address="h:1"), Peer("b", replace=True), Peer("c", MemberType.NON_VOTER, promote=True)))
    after = changed(before, (Change(ChangeType.MODIFY, "c", MemberType.VOTER, promote=False),), "a")
    assert isinstance(after, Config)
    assert after.peers == (*before.peers[:2], Peer("c"))


@pytest.mark.parametrize(("change", "refusal"), [
    (Change(ChangeType.ADD, "d"), Refusal.BAD_CONFIG),
    (Change(ChangeType.REMOVE, "x"), Refusal.UNKNOWN_PEER),
    (Change(ChangeType.MODIFY, "b"), Refusal.BAD_CONFIG),
    (Change(ChangeType.MODIFY, "a", MemberType.NON_VOTER), Refusal.PEER_IS_LEADER),
])
def test_changes_that_are_refused(change: Change, refusal: Refusal) -> None:
    assert changed(voters("a", "b", "c"), (change,), "a") is refusal


def test_one_peer_is_changed_once_a_request() -> None:
    change = Change(ChangeType.MODIFY, "b", replace=True)
    assert changed(voters("a", "b", "c"), (change, change), "a") is Refusal.BAD_CONFIG


def test_the_eighth_voter_is_refused() -> None:
    change = Change(ChangeType.ADD, "h", MemberType.VOTER)
    assert changed(voters(*"abcdefg"), (change,), "a") is Refusal.BAD_CONFIG


def test_an_unsafe_change_needs_this_replica_as_a_voter() -> None:
    config = voters("a", "b", "c")
    assert survivors(config, frozenset("bc"), "a") is Refusal.BAD_CONFIG
    after = survivors(config, frozenset("a"), "a")
    assert isinstance(after, Config) and after.unsafe and after.voters == ("a",)


def test_a_report_on_replaced_operations_does_not_count_for_those_that_have_their_indexes() -> None:
    durability = Durability(1)
    old = durability.append(5)
    durability.truncate_after(1)
    new = durability.append(5)
    assert not durability.durable(old)
    assert durability.index == 1
    assert durability.durable(new)
    assert durability.index == 5


@given(st.integers(0, 100_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_for_an_election_stays_within_its_bounds(failures: int, luck: float) -> None:
    timing = Timing()
    wait = election_wait_us(timing, failures, luck)
    assert timing.election_timeout_us <= wait <= timing.backoff_us_max


def test_the_wait_grows_with_each_failure() -> None:
    waits = [election_wait_us(Timing(), n, 0.999) for n in range(8)]
    assert waits == sorted(waits) and waits[4] > 3 * waits[0]


def test_an_election_counts_voters_only_and_each_once() -> None:
    election = Election(Mode.REAL, 1, "a")
    election.votes.update(x=True, y=True)
    assert election.outcome(("a", "b", "c")) is Outcome.OPEN
    election.votes["b"] = True
    assert election.outcome(("a", "b", "c")) is Outcome.WON


def test_safe_time_follows_the_commit_index() -> None:
    times = SafeTimes()
    times.declare(5, 100)
    times.declare(7, 200)
    assert not times.follow(4)
    assert times.follow(6) and times.safe == 100
    assert times.follow(7) and times.safe == 200


def test_many_declarations_do_not_starve_the_first() -> None:
    times = SafeTimes()
    for index in range(1, 1000):
        times.declare(index, index * 10)
    assert times.follow(1) and times.safe == 10
    assert times.follow(999) and times.safe == 9990


@pytest.mark.parametrize("event", [Propose(1, 1, 1, 1, None, "t"), Transfer(token="t"), StepDown("t")])
def test_a_follower_refuses_what_only_a_leader_does(event: Propose | Transfer | StepDown) -> None:
    core = Raft("a", Recovered(voters("a", "b", "c")))
    core.step(Start(), 0, 0.5, 0)
    (refused,) = core.step(event, 0, 0.5, 0)
    assert getattr(refused, "refusal", None) is Refusal.NOT_LEADER
    core.check()


def test_a_leader_tells_how_far_each_peer_is() -> None:
    core = Raft("a", Recovered(voters("a"), base=OpId(1, 5), last_index=5, term=1))
    core.step(Start(), 7, 0.5, 1)
    status = core.status()
    assert (status.role, status.term, status.last, status.commit_index) == (Role.LEADER, 2, OpId(2, 6), 5)
    core.step(LogDurable(1), 8, 0.5, 2)
    core.step(ChangeConfig((Change(ChangeType.ADD, "b", MemberType.NON_VOTER),)), 9, 0.5, 3)
    (peer,) = core.status().peers
    assert (peer.peer_id, peer.match_index, peer.lag_ops) == ("b", 0, 7)
    assert core.status().pending_config is not None
    core.check()


def leader_of_two(timing: Timing) -> tuple[Raft, int]:
    """a leads term 1 with b; its NO_OP is durable on both. Gives the number of b's last request."""
    core = Raft("a", Recovered(voters("a", "b"), term=0), timing)
    core.step(Start(), 0, 0.0, 1)
    core.step(Tick(), core.state.election_at_us or 0, 0.0, 2)
    core.step(VoteResponse("b", 1, True, True), core.state.now_us, 0.0, 3)
    core.step(VoteResponse("b", 1, False, True), core.state.now_us, 0.0, 4)
    return core, replicated(core, core.state.seq)


def replicated(core: Raft, seq: int) -> int:
    """What was offered to b is sent, durable there, and here; gives the request's number."""
    last = core.state.terms.last
    now_us = core.state.now_us
    core.step(Sent("b", seq, last.index, 1), now_us, 0.0, 5)
    core.step(LogDurable(core.state.durability.batch), now_us, 0.0, 6)
    core.step(UpdateResponse("b", 1, last, last, 0, seq=seq), now_us, 0.0, 7)
    assert core.state.commit_index == last.index
    return seq


def test_a_commit_index_waits_for_operations_to_travel_with_and_then_goes_alone() -> None:
    core, _ = leader_of_two(Timing(commit_delay_us=2000))
    progress = core.state.leadership.progress["b"]          # type: ignore[union-attr]  # it leads
    begun = core.state.now_us
    assert progress.told_commit == 0 and core.state.scheduled_us == begun + 2000
    effects = core.step(Propose(1, 1, 100, 100), begun + 500, 0.0, 100)
    (replicate,) = [e for e in effects if isinstance(e, Replicate)]
    assert replicate.request.committed_index == 1           # it travelled
    replicated(core, replicate.request.seq)
    effects = core.step(Tick(), begun + 2000, 0.0, 101)
    (send,) = [e for e in effects if isinstance(e, Send)]
    assert isinstance(send.message, UpdateRequest) and send.message.committed_index == 2
    core.step(UpdateResponse("b", 1, core.state.terms.last, core.state.terms.last, 2, seq=send.message.seq),
              begun + 2001, 0.0, 102)
    assert not [e for e in core.step(Tick(), begun + 4001, 0.0, 103) if isinstance(e, Send)]
    core.check()


def test_without_a_delay_a_commit_index_is_told_at_once() -> None:
    core, _ = leader_of_two(Timing())
    assert core.state.leadership is not None and core.state.leadership.progress["b"].told_commit == 1
