"""Bytes from anyone, where replicas' messages are expected: the outcome is a message or a BadFrame, nothing else."""
from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import pairwise
from typing import Any

import pytest
from consensus_wire import CHANGE_CONFIG, NO_OP, TABLET, WRITE, batch, config_record, request
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_nodes import FakeAdmin

from consensus.raft.messages import UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError, VoteDenial
from consensus.transport import Endpoint, wire
from consensus.transport.configs import change_from, config_from, record_config
from consensus.transport.names import Names
from consensus.transport.service import SERVICE
from kudu_storage._native.consensus_ops import fixed64_field, log_body, log_runs, ops_field, split_request
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat, BadFrame, InvalidArgument, RequestRefused
from kudu_storage.protos import message_class
from kudu_storage.rpc import Method, connect

A, B = "a" * 32, "b" * 32
NAMES = Names([A, B])
OPS = [(1, 5, NO_OP, b""), (1, 6, WRITE, b"row" * 50), (2, 7, CHANGE_CONFIG, config_record([A, B])),
       (2, 8, NO_OP, b"a user's"), (3, 9, WRITE, b"")]
ASKED = VoteRequest(A, 4, OpId(3, 12))
UPDATE = request(OPS, caller_uuid=A.encode(), preceding_id={"term": 1, "index": 4},
                 committed_index=4).SerializeToString()
MESSAGES = {
    "update": UPDATE,
    "update with a floor": wire.UpdateEncoder(TABLET, A, B, NAMES).encode(
        UpdateRequest(A, 3, OpId(1, 4), 4, time_floor=1 << 60)) + ops_field([batch(OPS)], 5, 9),
    "answer": wire.encode_update_response(UpdateResponse(B, 3, OpId(3, 9), OpId(2, 8), 7, None, 0, 1 << 60), NAMES),
    "refusal": wire.encode_update_response(UpdateResponse(B, 3, error=UpdateError.MALFORMED), NAMES),
    "vote request": wire.encode_vote_request(ASKED, TABLET, B, NAMES),
    "vote": wire.encode_vote_response(VoteResponse(B, 4, False, False, 5, VoteDenial.ALREADY_VOTED, 9), NAMES),
}


def parse_all(data: bytes) -> None:
    """Each parser on the same bytes."""
    for parse in (lambda: wire.decode_update(data, NAMES), lambda: wire.decode_update_response(data, B, 1),
                  lambda: wire.decode_vote_request(data, NAMES), lambda: wire.decode_vote_response(data, B, ASKED),
                  lambda: fixed64_field(data, wire.TIME_FLOOR_FIELD), lambda: log_runs(data)):
        with contextlib.suppress(BadFrame):
            parse()     # type: ignore[no-untyped-call]
    with contextlib.suppress(BadFormat, InvalidArgument):
        assert len(log_body([data], 5, 9)) > len(ops_field([data], 5, 9))


def consistent(data: bytes) -> None:
    """What split_request takes, it takes apart without loss."""
    try:
        rest, body, runs, _ = split_request(data)
    except BadFrame:
        return
    if not runs:
        assert (rest, body) == (data, b"")
        return
    assert sum(run[4] for run in runs) == len(body)
    first, last = runs[0][1], runs[-1][2]
    for one, other in pairwise(runs):
        assert one[2] + 1 == other[1] and 1 <= one[0] <= other[0]
    ops = ops_field([body], first, last)
    assert log_body([body], first, last) == body
    assert split_request(rest + ops)[1:3] == (body, runs)


@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES.keys())
def test_messages_cut_at_every_byte(data: bytes) -> None:
    for at in range(len(data) + 1):
        parse_all(data[:at])
        parse_all(data[at:])
        consistent(data[:at])


@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES.keys())
def test_messages_with_each_bit_flipped(data: bytes) -> None:
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            parse_all(bytes(flipped))
            consistent(bytes(flipped))


@given(st.binary(max_size=200))
@settings(max_examples=400, deadline=None)
def test_any_bytes(data: bytes) -> None:
    parse_all(data)
    consistent(data)


# Lengths and numbers that are about to wrap, where a length or a number is expected.
NASTY = [b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 10, b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07",
         b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x00", b"\x7f"]


def test_lengths_that_wrap() -> None:
    for prefix in (b"\x32", b"\x32\x10\x0a", b"\x0a", b"\x0a\x10\x08\x01\x12", b"\x3a", b"\x89\x7d"):
        for length in NASTY:
            for rest in (b"", b"x" * 40):
                parse_all(prefix + length + rest)
                consistent(prefix + length + rest)


def test_pieces_of_messages_in_any_order() -> None:
    luck = random.Random(20)
    pieces = [*MESSAGES.values(), *NASTY, batch(OPS), b"\x32", b"\x0a", b"\x12"]
    for _ in range(3000):
        data = bytearray()
        for _ in range(luck.randint(1, 5)):
            piece = luck.choice(pieces)
            start = luck.randint(0, len(piece))
            data += piece[start:luck.randint(start, len(piece))]
        parse_all(bytes(data))
        consistent(bytes(data))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.sampled_from([NO_OP, WRITE]), st.binary(max_size=3)),
                max_size=6))
@settings(max_examples=300, deadline=None)
def test_operations_are_taken_exactly_if_they_follow_each_other(ops: Any) -> None:
    follow = all(op[0] >= 1 and op[1] >= 1 for op in ops) and all(
        after[1] == before[1] + 1 and after[0] >= before[0] for before, after in pairwise(ops))
    data = request(ops).SerializeToString()
    if follow:
        assert split_request(data)[1] == batch(ops)
    else:
        with pytest.raises(BadFrame):
            split_request(data)


@given(st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=200, deadline=None)
def test_requests_of_administration_with_any_fields(values: list[bytes]) -> None:
    for name, use in (("RaftConfigPB", lambda message: config_from(message, NAMES)),
                      ("RaftPeerPB", lambda message: change_from(1, message, NAMES))):
        with contextlib.suppress(BadFrame, InvalidArgument):
            use(wire.parse(message_class(f"kudu.consensus.{name}"), b"".join(values)))
    with contextlib.suppress(BadFrame):
        record_config(b"".join(values), 1, NAMES)


def mutated(luck: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(luck.randint(1, 3)):
        kind = luck.randrange(4)
        at = luck.randrange(len(made) + 1)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << luck.randrange(8)
        elif kind == 1:
            del made[at:at + luck.randint(1, 8)]
        elif kind == 2:
            made[at:at] = luck.choice(NASTY)
        else:
            made[at:at] = made[at:at + luck.randint(1, 30)]
    return bytes(made)


ADMINISTRATION: dict[str, dict[str, Any]] = {
    "ChangeConfig": {"type": 1, "server": {"permanent_uuid": b"c" * 32, "member_type": 0,
                                           "last_known_addr": {"host": "h", "port": 1}, "attrs": {"promote": True}}},
    "BulkChangeConfig": {"config_changes": [{"type": 2, "peer": {"permanent_uuid": B.encode()}}]},
    "UnsafeChangeConfig": {"caller_id": b"t", "new_config": {"peers": [{"permanent_uuid": A.encode()}]}},
    "LeaderStepDown": {"mode": 2, "new_leader_uuid": B.encode()}, "RunLeaderElection": {},
    "GetLastOpId": {"opid_type": 2}, "GetConsensusState": {"report_health": 2, "tablet_ids": [TABLET.encode()]},
    "GetNodeInstance": {},
    "StartTabletCopy": {"copy_peer_uuid": A.encode(), "copy_peer_addr": {"host": "h", "port": 1}},
}


def requests() -> list[tuple[str, bytes]]:
    found = [("UpdateConsensus", MESSAGES["update"]), ("UpdateConsensus", MESSAGES["update with a floor"]),
             ("RequestConsensusVote", MESSAGES["vote request"])]
    for method, fields in ADMINISTRATION.items():
        kind: Any = message_class(f"kudu.consensus.{method}RequestPB")
        tablet = {"tablet_id": TABLET.encode()} if "tablet_id" in kind.DESCRIPTOR.fields_by_name else {}
        found.append((method, kind(**tablet, **fields).SerializeToString()))
    return found


def test_whatever_is_asked_over_a_connection_gets_an_answer_and_the_next_question_too() -> None:
    luck = random.Random(6)
    bugs: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
        endpoint = Endpoint("a", "127.0.0.1:0")
        transport = endpoint.transport(TABLET, FakeAdmin())

        def deliver(sender: str, message: Any, call: Any) -> None:
            if isinstance(message, UpdateRequest):
                assert sender == message.leader_id
                transport.reply(call, UpdateResponse("a", 1))
            elif isinstance(message, VoteRequest):
                transport.reply(call, VoteResponse("a", 1, False, False, 1))

        await transport.start(deliver)
        host, _, port = endpoint.address.rpartition(":")
        connection = await connect(host, int(port))
        answered = refused = 0
        for _ in range(150):
            for method, data in requests():
                try:
                    await connection.call(Method(SERVICE, method), mutated(luck, data), timeout_s=20)
                    answered += 1
                except RequestRefused:
                    refused += 1
        assert answered > 200 and refused > 200
        assert not endpoint.service.routes[TABLET].calls
        await connection.close()
        await transport.stop()

    asyncio.run(run())
    assert not bugs
