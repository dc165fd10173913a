"""What proposers are told: once each, and nothing certain before it is."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.replica.rounds import Call, Failure, Rounds
from consensus.replica.trail import MARKS_MAX, Trail
from kudu_storage.errors import Aborted, Timeout


@pytest.fixture
def loop() -> Any:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def call(loop: asyncio.AbstractEventLoop, count: int = 1, many: bool = False) -> Call:
    return Call(loop.create_future(), count, many)


def test_each_call_gets_the_results_of_its_own_operations(loop: asyncio.AbstractEventLoop) -> None:
    rounds = Rounds()
    calls = [call(loop), call(loop, 3, many=True), call(loop)]
    rounds.appended(1, 5, 9, calls)
    rounds.applied(1, 5, ["a", "b", "c", "d", "e"])
    assert [c.future.result() for c in calls] == ["a", ["b", "c", "d"], "e"] and len(rounds) == 0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(1, 5), max_size=12))
def test_results_may_come_in_any_pieces(counts: list[int], pieces: list[int]) -> None:
    loop = asyncio.new_event_loop()
    try:
        rounds, total = Rounds(), sum(counts)
        calls = [call(loop, n, many=True) for n in counts]
        rounds.appended(2, 1, total, calls)
        first = 1
        for piece in [*pieces, total]:
            last = min(first + piece - 1, total)
            if last >= first:
                rounds.applied(2, first, list(range(first, last + 1)))
            first = last + 1
        told = [c.future.result() for c in calls]
        assert [x for results in told for x in results] == list(range(1, total + 1))
        assert [len(results) for results in told] == counts
    finally:
        loop.close()


def test_nothing_is_said_of_a_replaced_operation_before_a_later_term_is_committed(loop: Any) -> None:
    rounds = Rounds()
    mine, later = call(loop), call(loop)
    rounds.appended(1, 5, 5, [mine])
    rounds.appended(3, 5, 5, [later])
    rounds.applied(1, 4, ["before"])
    assert not mine.future.done() and not later.future.done()
    rounds.applied(2, 5, [None])                # another leader's, of a term between the two
    assert isinstance(mine.future.exception(), Aborted) and not later.future.done()
    rounds.applied(4, 6, [None])
    assert isinstance(later.future.exception(), Aborted)


def test_a_later_term_below_ends_what_waits_above(loop: Any) -> None:
    rounds = Rounds()
    mine = call(loop)
    rounds.appended(1, 9, 9, [mine])
    rounds.applied(2, 3, [None])
    assert isinstance(mine.future.exception(), Aborted)


def test_an_old_operation_can_still_be_applied(loop: Any) -> None:
    rounds = Rounds()
    mine = call(loop)
    rounds.appended(1, 5, 5, [mine])
    rounds.applied(1, 5, ["after all"])
    assert mine.future.result() == "after all"


def test_an_exception_is_told_once_all_are_applied(loop: Any) -> None:
    rounds = Rounds()
    one, many = call(loop), call(loop, 3, many=True)
    rounds.appended(1, 1, 4, [one, many])
    rounds.applied(1, 1, [Failure(KeyError("x")), 1, Failure(ValueError("y"))])
    assert isinstance(one.future.exception(), KeyError) and not many.future.done()
    rounds.applied(1, 4, [2])
    assert isinstance(many.future.exception(), ValueError)


def test_who_gave_up_disturbs_nobody(loop: Any) -> None:
    rounds = Rounds()
    gone, stays = call(loop), call(loop)
    rounds.appended(1, 1, 2, [gone, stays])
    gone.future.cancel()
    rounds.applied(1, 1, ["a", "b"])
    assert stays.future.result() == "b"


def test_the_end_leaves_nobody_in_the_dark(loop: Any) -> None:
    rounds = Rounds()
    mine = call(loop)
    rounds.appended(1, 1, 1, [mine])
    rounds.fail_all("closed")
    error = mine.future.exception()
    assert isinstance(error, Timeout) and error.maybe_applied and len(rounds) == 0


# -- the trail ---------------------------------------------------------------------------------------------------------
def test_the_trail_tells_bytes_and_age_of_what_follows() -> None:
    trail = Trail()
    trail.note(10, 100, 1.0)
    trail.note(15, 50, 2.0)
    trail.note(16, 7, 3.0)
    assert trail.behind(16, 5.0) == (0, 0.0)
    assert trail.behind(15, 5.0) == (7, 2.0)
    assert trail.behind(10, 5.0) == (57, 3.0)
    assert trail.behind(12, 5.0) == (57, 3.0)           # within a batch: the whole batch
    assert trail.behind(0, 5.0) == (157, 4.0)
    trail.cut(11)
    assert trail.total_bytes == 100 and trail.behind(10, 5.0) == (0, 0.0) and trail.total_at(99) == 100


def test_the_trail_stays_small_and_exact_where_it_is_young() -> None:
    trail = Trail()
    for i in range(1, 5 * MARKS_MAX):
        trail.note(i, 1, float(i))
        assert len(trail._ends) <= MARKS_MAX
    last = 5 * MARKS_MAX - 1
    assert trail.behind(last - 100, 0.0)[0] == 100
    assert trail.behind(1, 0.0)[0] >= last - 2 * MARKS_MAX
