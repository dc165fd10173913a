"""The driver on fake ports: effects in order, nothing told before it is durable, a failed disk ends all."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fake_ports import Bench
from virtual_time import run

from consensus.raft import Kind, Run, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.inputs import LogDurable, ReadBarrier, SendFailed
from consensus.replica.rounds import Call
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.errors import Collected, DiskError, InternalError

Test = Callable[[], Awaitable[None]]


def in_virtual_time(test: Test) -> Callable[[], None]:
    def sync() -> None:
        run(test())  # type: ignore[arg-type]
    sync.__name__, sync.__doc__ = test.__name__, test.__doc__
    return sync


def call() -> Call:
    return Call(asyncio.get_running_loop().create_future(), 1, False)


def update(*runs: Run) -> UpdateRequest:
    return UpdateRequest("b", 2, MINIMUM_OPID, 0, runs, payload=[])


async def stand(bench: Bench) -> None:
    """Until the real election's vote is being written."""
    while not any(isinstance(m, VoteRequest) for _, m in bench.transport.sent):
        await asyncio.sleep(0.01)
    term = bench.transport.sent[-1][1].term
    bench.driver.received("b", VoteResponse("b", term, True, True), None)


async def lead(bench: Bench) -> Bench:
    await stand(bench)
    await bench.wrote()
    bench.driver.received("b", VoteResponse("b", bench.raft.state.term, False, True), None)
    assert bench.raft.state.leadership is not None
    return bench


async def level(bench: Bench) -> None:
    """All that was sent to b and c is durable there, and here."""
    for peer in "bc":
        sent = [m for to, m in bench.transport.sent if to == peer and isinstance(m, UpdateRequest)]
        last = bench.raft.state.terms.last
        bench.driver.received(peer, UpdateResponse(peer, bench.raft.state.term, last, last, 0, seq=sent[-1].seq), None)
    bench.driver.feed(LogDurable(bench.raft.state.durability.batch))
    bench.take()


@in_virtual_time
async def test_a_candidate_asks_nobody_before_its_vote_is_durable() -> None:
    bench = Bench()
    await stand(bench)
    assert bench.take() == ["send b: VoteRequest 2", "send c: VoteRequest 2", "vote 2 a"]
    await asyncio.sleep(0.2)
    assert bench.take() == []
    await bench.wrote()
    assert bench.take() == ["send b: VoteRequest 2", "send c: VoteRequest 2"]
    bench.driver.close()


@in_virtual_time
async def test_a_vote_is_told_when_it_is_durable() -> None:
    bench = Bench()
    bench.driver.received("b", VoteRequest("b", 5, MINIMUM_OPID), "call")
    assert bench.take() == ["vote 5 b"]
    await bench.wrote()
    assert bench.take() == ["reply call: VoteResponse"]
    assert bench.transport.replies[0][1].granted
    bench.driver.close()


@in_virtual_time
async def test_inputs_wait_in_order_while_something_must_become_durable() -> None:
    bench = Bench()
    bench.driver.received("b", VoteRequest("b", 5, MINIMUM_OPID), 1)
    bench.driver.received("c", VoteRequest("c", 5, MINIMUM_OPID), 2)
    bench.driver.feed(ReadBarrier("token"))
    assert bench.take() == ["vote 5 b"]
    await bench.wrote()
    assert bench.take() == ["reply 1: VoteResponse", "reply 2: VoteResponse", "refused NOT_LEADER"]
    assert [m.granted for _, m in bench.transport.replies] == [True, False]
    bench.driver.close()


@in_virtual_time
async def test_a_vote_that_cannot_be_written_ends_everything() -> None:
    bench = Bench()
    bench.driver.received("b", VoteRequest("b", 5, MINIMUM_OPID), 1)
    bench.metadata.pending[0].set_exception(DiskError("no"))
    await asyncio.sleep(0)
    assert bench.take() == ["vote 5 b", "failed no"]
    bench.driver.received("c", VoteRequest("c", 9, MINIMUM_OPID), 2)
    bench.driver.feed(ReadBarrier("token"))
    await asyncio.sleep(60)
    assert bench.take() == [] and bench.transport.replies == []


@in_virtual_time
async def test_entries_are_acknowledged_when_durable() -> None:
    bench = Bench()
    bench.driver.received("b", update(Run(2, 1, 1, Kind.NO_OP), Run(2, 2, 4)), "call")
    assert bench.take() == ["vote 2 None"]
    await bench.wrote()
    assert bench.take() == ["append 1: 2.1 no-op 2.2-4"]
    bench.driver.feed(LogDurable(1))
    assert bench.take() == ["reply call: UpdateResponse"]
    assert bench.transport.replies[0][1].last_received_current_leader == OpId(2, 4)
    bench.driver.close()


@in_virtual_time
async def test_a_leader_sends_while_its_own_disk_is_at_work() -> None:
    bench = await lead(Bench())
    await level(bench)
    bench.driver.propose([b"x", b"y"], 2, call())
    await asyncio.sleep(0)
    assert bench.take() == ["append 2: 2.2-3", "send b: update 2.2-3", "send c: update 2.2-3"]
    bench.driver.close()


@in_virtual_time
async def test_proposals_of_one_turn_are_one_batch() -> None:
    bench = await lead(Bench())
    await level(bench)
    appended: list[Any] = []
    bench.handlers.appended = appended.append
    calls = [call() for _ in range(5)]
    for one in calls:
        bench.driver.propose([b"x"], 1, one)
    assert bench.driver.unstepped_bytes == 5 and bench.take() == []
    await asyncio.sleep(0)
    assert bench.take()[0] == "append 2: 2.2-6" and appended[0].token == calls
    assert bench.driver.unstepped_bytes == 0
    bench.driver.close()


@in_virtual_time
async def test_a_batch_is_no_larger_than_a_request() -> None:
    bench = await lead(Bench())
    await level(bench)
    for _ in range(3):
        bench.driver.propose([b""], 600 << 10, call())
    await asyncio.sleep(0)
    assert [w for w in bench.take() if w.startswith("append")] == ["append 2: 2.2", "append 3: 2.3", "append 4: 2.4"]
    bench.driver.close()


@in_virtual_time
async def test_an_append_without_room_is_done_again_before_anything_else() -> None:
    bench = await lead(Bench())
    await level(bench)
    bench.log.full = full = asyncio.get_running_loop().create_future()
    bench.driver.propose([b"x"], 1, call())
    await asyncio.sleep(0)
    bench.driver.propose([b"y"], 1, call())
    bench.driver.received("c", VoteRequest("c", 1, MINIMUM_OPID), 1)
    await asyncio.sleep(0)
    assert bench.take() == []
    bench.log.full = None
    full.set_result(None)
    await asyncio.sleep(0)
    assert bench.take() == ["append 2: 2.2", "send b: update 2.2", "send c: update 2.2", "append 3: 2.3",
                            "reply 1: VoteResponse", "send b: update 2.3", "send c: update 2.3"]
    bench.driver.close()


@in_virtual_time
async def test_what_must_be_fetched_holds_up_nobody_else() -> None:
    bench = await lead(Bench())
    await level(bench)
    bench.log.cached = False
    bench.driver.propose([b"x"], 1, call())
    await asyncio.sleep(0)
    assert bench.take() == ["append 2: 2.2", "fetch 2-2", "fetch 2-2"]
    bench.driver.received("b", VoteRequest("b", 1, MINIMUM_OPID), 1)
    assert bench.take() == ["reply 1: VoteResponse"]
    assert bench.log.fetching is not None
    bench.log.fetching.set_result(bench.log.slice(2, 2))
    await asyncio.sleep(0)
    assert bench.take() == ["send c: update 2.2"]
    bench.driver.close()


@in_virtual_time
async def test_a_peer_whose_operations_are_collected_needs_a_copy() -> None:
    bench = await lead(Bench())
    await level(bench)
    copies: list[str] = []
    bench.handlers.needs_copy = lambda effect: copies.append(effect.peer_id)
    bench.log.cached = False
    bench.driver.propose([b"x"], 1, call())
    await asyncio.sleep(0)
    assert bench.log.fetching is not None
    bench.log.fetching.set_exception(Collected("gone"))
    await asyncio.sleep(0)
    assert copies == ["c"]
    bench.driver.close()


@in_virtual_time
async def test_calls_that_nobody_answers_are_given_up() -> None:
    bench = await lead(Bench())
    await level(bench)
    fed: list[Any] = []
    bench.raft = bench.driver.raft = _Noting(bench.raft, fed)  # type: ignore[assignment]
    bench.driver.propose([b"x"], 1, call())
    while not any(isinstance(e, SendFailed) for e in fed):
        await asyncio.sleep(0.05)
        sent = [m for to, m in bench.transport.sent if to == "b" and isinstance(m, UpdateRequest)]
        last = bench.raft.state.terms.last
        bench.driver.received("b", UpdateResponse("b", 2, last, last, 0, seq=sent[-1].seq), None)
    assert {e.peer_id for e in fed if isinstance(e, SendFailed)} == {"c"}
    bench.driver.close()


class _Noting:
    """A core that notes its inputs."""

    def __init__(self, raft: Any, fed: list[Any]) -> None:
        self._raft = raft
        self._fed = fed

    def step(self, event: Any, *rest: Any) -> Any:
        self._fed.append(event)
        return self._raft.step(event, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raft, name)


@in_virtual_time
async def test_a_bug_stops_the_replica() -> None:
    bench = Bench()

    def broken(*_: object) -> None:
        raise InternalError("a bug")

    bench.log.append = broken  # type: ignore[method-assign, assignment]
    bench.driver.received("b", update(Run(2, 1, 1, Kind.NO_OP)), "call")
    await bench.wrote()
    assert bench.take() == ["vote 2 None", "failed a bug"] and bench.driver.failure is not None


@in_virtual_time
async def test_what_comes_before_the_start_waits() -> None:
    bench = Bench(start=False)
    bench.driver.received("b", VoteRequest("b", 5, MINIMUM_OPID), "call")
    assert bench.take() == []
    bench.driver.start()
    assert bench.take() == ["vote 5 b"]
    bench.driver.close()
