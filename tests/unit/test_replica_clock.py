"""The hybrid clock, and what a replica does about peers whose clocks are wrong."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from fake_ports import Bench
from virtual_time import run

from consensus.raft import Kind, Run, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError
from consensus.replica.clock import AHEAD_US_MAX, HybridClock
from consensus.transport.wire import Operations
from kudu_storage.common.opid import MINIMUM_OPID

SECOND_US = 1_000_000


def hybrid(us: int, logical: int = 0) -> int:
    return us << 12 | logical


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, us: int) -> None:
        self.us = us

    def __call__(self) -> int:
        return self.us * 1000


@pytest.fixture
def clocked() -> tuple[HybridClock, Wall]:
    wall = Wall(1000 * SECOND_US)
    return HybridClock(asyncio.new_event_loop(), wall), wall


def test_readings_grow_when_the_wall_clock_stands_still_or_goes_back(clocked: tuple[HybridClock, Wall]) -> None:
    clock, wall = clocked
    readings = [clock.timestamp() for _ in range(3)]
    wall.us -= 50 * SECOND_US
    readings.append(clock.timestamp())
    assert readings == [hybrid(1000 * SECOND_US, logical) for logical in range(4)]


def test_readings_follow_what_was_observed(clocked: tuple[HybridClock, Wall]) -> None:
    clock, _ = clocked
    clock.observe(hybrid(1005 * SECOND_US))
    assert clock.timestamp() == hybrid(1005 * SECOND_US, 1)


def test_nothing_is_believed_that_is_further_ahead_than_clocks_differ(clocked: tuple[HybridClock, Wall]) -> None:
    clock, wall = clocked
    latest = hybrid(wall.us + AHEAD_US_MAX, 4095)
    assert clock.believes(latest) and not clock.believes(latest + 1)
    assert clock.timestamp() == hybrid(wall.us), "asking changes nothing"


def test_the_bound_is_from_the_wall_clock_and_does_not_creep(clocked: tuple[HybridClock, Wall]) -> None:
    """Ten seconds ahead ten times would be a hundred."""
    clock, wall = clocked
    clock.observe(hybrid(wall.us + AHEAD_US_MAX))
    assert not clock.believes(hybrid(wall.us + AHEAD_US_MAX + 1))
    clock.observe(hybrid(wall.us + 60 * SECOND_US))     # of the own log
    assert clock.believes(hybrid(wall.us + 60 * SECOND_US)), "what the own log has is no news"


# -- in the driver -----------------------------------------------------------------------------------------------------
def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def sync() -> None:
        run(test())  # type: ignore[arg-type]
    sync.__name__, sync.__doc__ = test.__name__, test.__doc__
    return sync


def now_hybrid(ahead_us: int) -> int:
    return hybrid(time.time_ns() // 1000 + ahead_us)


def update(timestamp: int, term: int = 2) -> UpdateRequest:
    return UpdateRequest("b", term, MINIMUM_OPID, 0, (), time_floor=timestamp)


@in_virtual_time
async def test_an_update_from_the_future_changes_nothing() -> None:
    bench = Bench()
    bench.driver.received("b", update(now_hybrid(AHEAD_US_MAX + 60 * SECOND_US)), "call")
    assert bench.take() == ["reply call: UpdateResponse"]
    answer = bench.transport.replies[-1][1]
    assert (answer.error, answer.term) == (UpdateError.MALFORMED, 1)
    state = bench.raft.state
    assert (state.term, state.leader_id, state.times.floor) == (1, None, 0)
    assert bench.driver._clock.timestamp() < now_hybrid(SECOND_US)
    bench.driver.close()


@in_virtual_time
async def test_so_do_operations_from_the_future_whoever_sent_them() -> None:
    """A Kudu leader sends no floor: its operations say what its clock is."""
    bench = Bench()
    operations = Operations(b"", now_hybrid(AHEAD_US_MAX + 60 * SECOND_US))
    request = replace(update(0), runs=(Run(2, 1, 1, Kind.DATA),), payload=operations)
    bench.driver.received("b", request, "call")
    assert bench.take() == ["reply call: UpdateResponse"] and bench.raft.state.term == 1
    bench.driver.close()


@in_virtual_time
async def test_timestamps_that_a_good_clock_can_give_are_followed() -> None:
    bench = Bench()
    timestamp = now_hybrid(AHEAD_US_MAX // 2)
    request = replace(update(0), runs=(Run(2, 1, 1, Kind.DATA),), payload=Operations(b"", timestamp))
    bench.driver.received("b", request, "call")
    assert bench.take() == ["vote 2 None"]
    assert bench.driver._clock.timestamp() > timestamp
    bench.driver.close()


@in_virtual_time
async def test_an_older_term_does_not_move_the_clock() -> None:
    bench = Bench()
    bench.driver.received("b", update(now_hybrid(AHEAD_US_MAX // 2), term=0), "call")
    assert bench.driver._clock.timestamp() < now_hybrid(SECOND_US)
    bench.driver.close()


@in_virtual_time
async def test_a_vote_from_the_future_does_not_count() -> None:
    bench = Bench()
    while not any(isinstance(m, VoteRequest) for _, m in bench.transport.sent):
        await asyncio.sleep(0.01)
    bench.take()
    vote = VoteResponse("b", 2, True, True, time_floor=now_hybrid(AHEAD_US_MAX + 60 * SECOND_US))
    bench.driver.received("b", vote, None)
    assert bench.take() == [], "it would have to lead with that clock"
    bench.driver.received("b", replace(vote, time_floor=now_hybrid(0)), None)
    assert bench.take() == ["vote 2 a"]
    bench.driver.close()


@in_virtual_time
async def test_each_peer_is_complained_of_once_until_it_is_right_again() -> None:
    bench = Bench()
    said: list[object] = []
    from consensus.replica import driver

    class Ears:
        def warning(self, *parts: object) -> None:
            said.append(parts[2])

    original, driver._log = driver._log, Ears()  # type: ignore[assignment]
    try:
        for ahead_us in (60, 60, 0, 60):
            bench.driver.received("b", update(now_hybrid(ahead_us * SECOND_US)), "call")
        assert said == ["b", "b"]
    finally:
        driver._log = original
    bench.driver.close()


@in_virtual_time
async def test_an_answer_from_the_future_is_only_an_answer() -> None:
    """What peers promise is never more than what this leader promised itself (S1), so it cannot move anything."""
    bench = Bench()
    answer = UpdateResponse("b", 1, time_floor=now_hybrid(AHEAD_US_MAX + 60 * SECOND_US))
    bench.driver.received("b", answer, None)
    assert bench.driver._clock.timestamp() < now_hybrid(SECOND_US)
    bench.driver.close()
