"""Replicas on real loopback sockets: what is sent is delivered, what is not for us is not, what ends is told."""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from consensus_wire import NO_OP, TABLET, WRITE, batch, request
from transport_nodes import DEADLINE_S, FakeAdmin, Node, group, introduce

from consensus.raft.inputs import SendFailed, SendFailure
from consensus.raft.messages import Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError, VoteDenial
from consensus.transport import Endpoint, Operations, TransportOptions
from consensus.transport.peers import EARLY_BYTES_MAX
from consensus.transport.service import SERVICE
from kudu_storage.common.opid import OpId
from kudu_storage.errors import ConnectionLost, InvalidArgument, NoSuchMethod, RequestRefused, ServerUnavailable
from kudu_storage.protos import message_class
from kudu_storage.rpc import Method, connect
from kudu_storage.rpc.connection import ClientConnection

UPDATE = UpdateRequest("a", 3, OpId(2, 10), 9, all_replicated_index=8, safe_time=5, time_floor=6, last_index=11)
VOTE = VoteRequest("a", 4, OpId(3, 12))


def on_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await test()

    asyncio.run(limited())


async def raw(node: Node) -> ClientConnection:
    host, _, port = node.endpoint.address.rpartition(":")
    return await connect(host, int(port))


# -- messages ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [None, UpdateError.INVALID_TERM, UpdateError.PRECEDING_ENTRY_DIDNT_MATCH,
                                   UpdateError.CANNOT_PREPARE])
def test_an_update_and_its_answer_arrive_as_they_were_sent(error: UpdateError | None) -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            ops = [(2, 11, NO_OP, b""), (3, 12, NO_OP, b"a user's")]
            runs = (Run(2, 11, 11), Run(3, 12, 12))
            a.transport.send("b", replace(UPDATE, runs=runs, payload=batch(ops), seq=5))
            sender, message, call = await b.next()
            assert sender == "a"
            assert replace(message, runs=(), payload=None) == UPDATE
            assert [(run.term, run.first, run.last) for run in message.runs] == [(2, 11, 11), (3, 12, 12)]
            assert message.payload == Operations(batch(ops), 1012)
            assert call is message.call
            answer = UpdateResponse("b", 3, OpId(3, 12), OpId(3, 12), 9, error, 0, 7)
            b.transport.reply(call, answer)
            assert await a.next() == ("b", replace(answer, seq=5), None)

    on_loop(run)


@pytest.mark.parametrize("denial", [None, VoteDenial.ALREADY_VOTED, VoteDenial.LEADER_IS_ALIVE])
def test_a_vote_request_and_the_vote_arrive_as_they_were_sent(denial: VoteDenial | None) -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            asked = replace(VOTE, is_pre_election=True, ignore_live_leader=True)
            a.transport.send("b", asked)
            sender, message, call = await b.next()
            assert (sender, message) == ("a", asked)
            vote = VoteResponse("b", 4, True, denial is None, 0 if denial is VoteDenial.LEADER_IS_ALIVE else 4, denial,
                                8)
            b.transport.reply(call, vote)
            assert await a.next() == ("b", vote, None)

    on_loop(run)


def test_a_leader_tells_its_successor_to_stand() -> None:
    async def run() -> None:
        async with group("a", "b", admin=FakeAdmin()) as (a, b):
            a.transport.send("b", RunElection("a"))
            assert await b.next() == ("", RunElection(), None)

    on_loop(run)


def test_many_updates_in_flight_are_answered_in_any_order() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            for seq in range(1, 201):
                a.transport.send("b", replace(UPDATE, seq=seq, last_index=seq))
            came = [await b.next() for _ in range(200)]
            assert [message.last_index for _, message, _ in came] == list(range(1, 201))
            for _, message, call in reversed(came):
                b.transport.reply(call, UpdateResponse("b", 3, OpId(3, message.last_index)))
            answers = [(await a.next())[1] for _ in range(200)]
            assert {answer.seq for answer in answers} == set(range(1, 201))
            assert all(answer.seq == answer.last_received.index for answer in answers)

    on_loop(run)


def test_operations_for_two_peers_are_encoded_once() -> None:
    class Parts(list[bytes]):
        turns = 0

        def __iter__(self) -> Any:
            self.turns += 1
            return super().__iter__()

    async def run() -> None:
        async with group("a", "b", "c") as (a, b, c):
            parts = Parts([batch([(3, 11, WRITE, b"x" * 10_000)])])
            for to in ("b", "c"):
                a.transport.send(to, replace(UPDATE, runs=(Run(3, 11, 11),), payload=parts))
            for node in (b, c):
                assert (await node.next())[1].payload.body == parts[0]
            assert parts.turns == 1
            again = Parts([batch([(4, 11, WRITE, b"another")])])      # the same index of another term
            a.transport.send("b", replace(UPDATE, term=4, runs=(Run(4, 11, 11),), payload=again))
            assert (await b.next())[1].payload.body == again[0]

    on_loop(run)


def test_a_request_of_a_mebibyte_arrives_whole() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            body = batch([(3, index, WRITE, bytes([index % 251]) * 1000) for index in range(11, 1035)])
            a.transport.send("b", replace(UPDATE, runs=(Run(3, 11, 1034),), payload=body))
            _, message, _ = await b.next()
            assert message.payload.body == body
            assert [(run.first, run.last) for run in message.runs] == [(11, 1034)]

    on_loop(run)


# -- who it is for -----------------------------------------------------------------------------------------------------
def test_replicas_of_one_server_get_what_is_theirs() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            other_a, other_b = (Node(node.endpoint, "another tablet") for node in (a, b))
            await other_a.start()
            await other_b.start()
            other_a.transport.send("b", replace(VOTE, term=9))
            a.transport.send("b", VOTE)
            assert (await other_b.next())[1].term == 9
            assert (await b.next())[1].term == 4
            assert b.received.empty() and other_b.received.empty()
            await other_a.transport.stop()
            await other_b.transport.stop()
            a.transport.send("b", VOTE)     # the servers go on
            assert (await b.next())[1] == VOTE

    on_loop(run)


def test_a_server_has_one_replica_of_a_tablet() -> None:
    async def run() -> None:
        async with group("a") as (a,):
            with pytest.raises(InvalidArgument):
                await Node(a.endpoint).start()

    on_loop(run)


def test_an_unknown_tablet_is_told_as_such() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            await b.transport.stop()
            other = Node(b.endpoint, "another tablet")
            await other.start()
            introduce([a, other])
            a.transport.send("b", replace(UPDATE, seq=3))
            assert await a.next() == ("b", SendFailed("b", 3, SendFailure.NO_SUCH_TABLET), None)
            assert other.received.empty()
            await other.transport.stop()

    on_loop(run)


def test_what_is_for_another_server_reaches_no_replica() -> None:
    async def run() -> None:
        async with group("a", "b", "c") as (a, b, c):
            a.transport.set_address("c", b.endpoint.address)    # where c was, b is now
            a.transport.send("c", replace(UPDATE, seq=3))
            a.transport.send("c", VOTE)
            assert await a.next() == ("c", SendFailed("c", 3, SendFailure.UNREACHABLE), None)
            a.transport.send("b", replace(VOTE, term=9))
            assert (await b.next())[1].term == 9
            assert b.received.empty() and c.received.empty() and a.received.empty()

    on_loop(run)


def test_bytes_that_are_no_request_reach_no_replica_and_the_connection_goes_on() -> None:
    gap = request([(3, 11, WRITE, b""), (3, 13, WRITE, b"")], caller_uuid=b"a" * 32, tablet_id=TABLET,
                  preceding_id={"term": 3, "index": 10}).SerializeToString()

    async def run() -> None:
        async with group("b") as (b,):
            connection = await raw(b)
            for method in ("UpdateConsensus", "RequestConsensusVote", "ChangeConfig", "GetLastOpId"):
                for data in (b"", b"\xff\xff", *((gap,) if method == "UpdateConsensus" else ())):
                    with pytest.raises(RequestRefused):
                        await connection.call(Method(SERVICE, method), data, timeout_s=10)
            with pytest.raises(NoSuchMethod):
                await connection.call(Method(SERVICE, "MultiRaftUpdateConsensus"), b"", timeout_s=10)
            await connection.call(Method(SERVICE, "GetNodeInstance"), b"", timeout_s=10)
            assert b.received.empty() and b.connections.empty()
            await connection.close()

    on_loop(run)


def test_a_server_takes_nothing_that_claims_to_be_from_itself() -> None:
    async def run() -> None:
        async with group("b") as (b,):
            connection = await raw(b)
            mine = b.endpoint.uuid.encode()
            vote: Any = message_class("kudu.consensus.VoteRequestPB")(
                tablet_id=TABLET, candidate_uuid=mine, candidate_term=5,
                candidate_status={"last_received": {"term": 4, "index": 9}})
            for method, message in (("UpdateConsensus", request(caller_uuid=mine)), ("RequestConsensusVote", vote)):
                with pytest.raises(RequestRefused):
                    await connection.call(Method(SERVICE, method), message.SerializeToString(), timeout_s=10)
            assert b.received.empty() and b.connections.empty()
            await connection.close()

    on_loop(run)


# -- failures ----------------------------------------------------------------------------------------------------------
def test_a_peer_that_is_not_there_is_told_later_and_reached_when_it_comes() -> None:
    async def run() -> None:
        async with group("a") as (a,):
            b = Node(Endpoint("b", "127.0.0.1:0"))
            await b.start()
            address = b.endpoint.address
            await b.transport.stop()
            a.transport.set_address("b", address)
            a.transport.send("b", replace(UPDATE, seq=1))
            assert a.received.empty()       # not from within send
            assert await a.next() == ("b", SendFailed("b", 1), None)
            a.transport.send("b", replace(UPDATE, seq=2))       # while it waits before it tries again
            assert a.received.empty()
            assert await a.next() == ("b", SendFailed("b", 2), None)
            a.transport.send("nobody knows", replace(UPDATE, seq=3))
            assert await a.next() == ("nobody knows", SendFailed("nobody knows", 3), None)
            again = Node(Endpoint("b", address, peers={"a": a.endpoint.address}))
            await again.start()
            seq = 10
            while again.received.empty():
                a.transport.send("b", replace(UPDATE, seq=seq))
                seq += 1
                await asyncio.sleep(0)
            assert (await again.next())[1] == UPDATE
            await again.transport.stop()

    on_loop(run)


def test_a_peer_that_dies_is_told_at_once_by_all_that_was_on_its_way() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            for seq in (1, 2):
                a.transport.send("b", replace(UPDATE, seq=seq))
            calls = [(await b.next())[2] for _ in (1, 2)]
            assert await b.next_connection() == ("a", True)
            assert b.endpoint.server is not None
            for connection in list(b.endpoint.server.connections):
                connection.abort(ConnectionLost("as if it were killed"))
            assert {(await a.next())[1] for _ in (1, 2)} == {SendFailed("b", 1), SendFailed("b", 2)}
            assert await b.next_connection() == ("a", False)
            for call in calls:      # too late, and no harm
                b.transport.reply(call, UpdateResponse("b", 3))
            a.transport.send("b", replace(UPDATE, seq=3))       # a lost connection is made again at once
            assert (await b.next())[1] == UPDATE
            assert await b.next_connection() == ("a", True)

    on_loop(run)


def test_the_end_of_a_leaders_process_is_news_to_each_replica_that_heard_it() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            second_a, second_b = Node(a.endpoint, "second"), Node(b.endpoint, "second")
            silent = Node(b.endpoint, "never heard of a")
            for node in (second_a, second_b, silent):
                await node.start()
            a.transport.send("b", UPDATE)
            second_a.transport.send("b", UPDATE)
            for node in (b, second_b):
                assert await node.next_connection() == ("a", True)
            await a.endpoint.peers.close()
            for node in (b, second_b):
                assert await node.next_connection() == ("a", False)
            assert silent.connections.empty()
            for node in (second_a, second_b, silent):
                await node.transport.stop()

    on_loop(run)


def test_a_peer_that_takes_connections_and_nothing_else_costs_bounded_memory() -> None:
    async def run() -> None:
        async with group("a") as (a,):
            with socket.create_server(("127.0.0.1", 0)) as mute:
                a.transport.set_address("b", f"127.0.0.1:{mute.getsockname()[1]}")
                body = batch([(3, 11, WRITE, b"x" * 100_000)])
                for seq in range(1, 101):
                    a.transport.send("b", replace(UPDATE, seq=seq, runs=(Run(3, 11, 11),), payload=body))
                assert 0 < a.endpoint.peers.waiting_bytes("b") <= EARLY_BYTES_MAX
                failed = {(await a.next())[1].seq for _ in range(98)}
                assert failed == set(range(3, 101))     # the first two wait for the connection
                assert a.received.empty()

    on_loop(run)


def test_an_update_that_nobody_answers_fails_by_its_deadline() -> None:
    async def run() -> None:
        async with group("a", "b", options=TransportOptions(update_timeout_s=0.05)) as (a, b):
            a.transport.send("b", replace(UPDATE, seq=4))
            _, _, call = await b.next()
            assert await a.next() == ("b", SendFailed("b", 4), None)
            b.transport.reply(call, UpdateResponse("b", 3))     # nobody waits for it any more
            a.transport.send("b", replace(UPDATE, seq=5))
            _, _, call = await b.next()
            b.transport.reply(call, UpdateResponse("b", 3))
            assert (await a.next())[1].seq == 5

    on_loop(run)


def test_after_stop_nothing_is_delivered_and_whoever_waits_is_told() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            keeps_server = Node(b.endpoint, "another tablet")
            await keeps_server.start()
            connection = await raw(b)
            waiting = asyncio.ensure_future(connection.call(
                Method(SERVICE, "UpdateConsensus"), request(caller_uuid=b"a" * 32).SerializeToString(), timeout_s=10))
            _, _, call = await b.next()
            await b.transport.stop()
            with pytest.raises(ServerUnavailable):
                await waiting
            b.transport.reply(call, UpdateResponse("b", 3))     # dropped
            a.transport.send("b", replace(UPDATE, seq=6))
            assert (await a.next())[1] == SendFailed("b", 6, SendFailure.NO_SUCH_TABLET)
            assert b.received.empty()
            assert b.connections.qsize() == 1       # its start; its end was not ours to tell
            await connection.close()
            await keeps_server.transport.stop()

    on_loop(run)


def test_a_replica_that_fails_on_a_message_answers_and_the_others_go_on() -> None:
    async def run() -> None:
        async with group("a", "b") as (a, b):
            reported: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

            def broken(*_: Any) -> None:
                raise RuntimeError("a bug")

            second_a, second_b = Node(a.endpoint, "second"), Node(b.endpoint, "second")
            await second_a.start()
            await second_b.transport.start(broken)
            second_a.transport.send("b", replace(UPDATE, seq=2))
            assert (await second_a.next())[1] == SendFailed("b", 2)
            assert len(reported) == 1
            a.transport.send("b", UPDATE)
            assert (await b.next())[1] == UPDATE
            await second_a.transport.stop()
            await second_b.transport.stop()

    on_loop(run)


def test_an_address_that_is_taken_is_an_error_and_leaves_nothing_behind() -> None:
    async def run() -> None:
        async with group("a") as (a,):
            other = Node(Endpoint("b", a.endpoint.address))
            with pytest.raises(ConnectionLost):
                await other.start()
            assert not other.endpoint.service.routes
            again = Node(Endpoint("b", "127.0.0.1:0"))
            await again.start()
            await again.transport.stop()

    on_loop(run)


@pytest.mark.parametrize("options", [{"update_timeout_s": 0}, {"vote_timeout_s": -1}], ids=str)
def test_timeouts_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        TransportOptions(**options)


@pytest.mark.parametrize("tablet_id", ["", "x" * 257])
def test_a_tablet_needs_an_id(tablet_id: str) -> None:
    with pytest.raises(InvalidArgument):
        Endpoint("a", "127.0.0.1:0").transport(tablet_id)
