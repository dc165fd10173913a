"""Calls between real replicas: ours read what they say, and what ours would say in their place are the same bytes."""
from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.raft.configuration import MemberType
from consensus.raft.messages import Kind, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError
from consensus.transport import configs, wire
from consensus.transport.names import Names
from kudu_storage._native.consensus_ops import log_body, ops_field
from kudu_storage._native.entry import parse_batch
from kudu_storage.protos import message_class

CALLS = json.loads((Path(__file__).parent / "transport" / "consensus_calls.json").read_text())


def calls(method: str) -> list[tuple[bytes, bytes]]:
    return [(bytes.fromhex(call["request"]), bytes.fromhex(call["response"])) for call in CALLS
            if call["method"] == method]


def pb(name: str, data: bytes) -> Any:
    return message_class(f"kudu.consensus.{name}").FromString(data)     # type: ignore[attr-defined]


def names_in(request: bytes) -> tuple[Names, UpdateRequest, str, str]:
    names = Names()
    tablet_id, dest, message = wire.decode_update(request, names)
    assert isinstance(message, UpdateRequest)
    return names, message, tablet_id, dest.decode()


UPDATES = calls("UpdateConsensus")
VOTES = calls("RequestConsensusVote")


def test_there_are_calls_of_each_kind() -> None:
    assert len(UPDATES) > 30 and len(VOTES) == 6
    kinds: Counter[Kind] = Counter()
    errors: Counter[UpdateError | None] = Counter()
    for request, response in UPDATES:
        _, message, _, dest = names_in(request)
        kinds.update(run.kind for run in message.runs)
        answer = wire.decode_update_response(response, dest, 1)
        assert isinstance(answer, UpdateResponse)
        errors[answer.error] += 1
    assert set(kinds) == set(Kind)
    assert set(errors) == {None, UpdateError.PRECEDING_ENTRY_DIDNT_MATCH}


@pytest.mark.parametrize("call", UPDATES, ids=range(len(UPDATES)))
def test_updates_of_a_real_leader_are_what_ours_would_send(call: tuple[bytes, bytes]) -> None:
    names, message, tablet_id, dest = names_in(call[0])
    ours = wire.UpdateEncoder(tablet_id, message.leader_id, dest, names).encode(message)
    if message.runs:
        body = message.payload.body     # type: ignore[attr-defined]
        ours += ops_field([body], message.runs[0].first, message.runs[-1].last)
    theirs = pb("ConsensusRequestPB", call[0])
    # Kudu's fields stand in the order of their numbers, ours behind one another: the same message in as many bytes.
    assert len(ours) == len(call[0])
    assert pb("ConsensusRequestPB", ours) == theirs


@pytest.mark.parametrize("call", UPDATES, ids=range(len(UPDATES)))
def test_operations_of_a_real_leader_keep_their_bytes(call: tuple[bytes, bytes]) -> None:
    _, message, _, _ = names_in(call[0])
    ops = pb("ConsensusRequestPB", call[0]).ops
    if not ops:
        assert message.runs == () and message.payload is None
        return
    payload = message.payload
    assert isinstance(payload, wire.Operations)
    assert [entry["message"] for entry in parse_batch(payload.body)] == [op.SerializeToString() for op in ops]
    assert payload.last_timestamp == max(op.timestamp for op in ops)
    first, last = message.runs[0].first, message.runs[-1].last
    assert (first, last) == (ops[0].id.index, ops[-1].id.index)
    assert log_body([payload.body], first, last) == payload.body
    assert ops_field([payload.body], first, last) in call[0]


@pytest.mark.parametrize("call", UPDATES, ids=range(len(UPDATES)))
def test_answers_of_a_real_follower_are_what_ours_would_say(call: tuple[bytes, bytes]) -> None:
    names, _, _, dest = names_in(call[0])
    answer = wire.decode_update_response(call[1], dest, 1)
    assert isinstance(answer, UpdateResponse)
    theirs, ours = (pb("ConsensusResponsePB", data) for data in
                    (call[1], wire.encode_update_response(answer, names)))
    for message in (theirs, ours):
        message.ClearField("server_quiescing")
        message.status.error.status.ClearField("message")
        if not message.status.HasField("last_received_current_leader"):     # Kudu leaves 0.0 out
            message.status.last_received_current_leader.term = message.status.last_received_current_leader.index = 0
        if not message.status.error.code:
            message.status.ClearField("error")
    assert ours == theirs


def test_a_change_of_configuration_of_real_replicas_is_understood() -> None:
    changes = [(run, names) for request, _ in UPDATES for names, message, _, _ in [names_in(request)]
               for run in message.runs if run.kind is Kind.CONFIG]
    assert changes
    for run, _ in changes:
        assert run.config is not None and run.config.opid_index == run.first
        assert len(run.config.peers) == 3 and all(peer.address for peer in run.config.peers)
    # NON_VOTER and back. Whoever demotes a replica must say that it is not to be replaced, else the master does.
    assert {len(run.config.voters) for run, _ in changes if run.config is not None} == {2, 3}


@pytest.mark.parametrize("call", VOTES, ids=range(len(VOTES)))
def test_votes_of_real_replicas_are_what_ours_would_say(call: tuple[bytes, bytes]) -> None:
    names = Names()
    tablet_id, dest, message = wire.decode_vote_request(call[0], names)
    assert isinstance(message, VoteRequest)
    again = pb("VoteRequestPB", wire.encode_vote_request(message, tablet_id, dest.decode(), names))
    assert again == pb("VoteRequestPB", call[0])
    answer = wire.decode_vote_response(call[1], dest.decode(), message)
    assert isinstance(answer, VoteResponse) and answer.granted
    assert pb("VoteResponsePB", wire.encode_vote_response(answer, names)) == pb("VoteResponsePB", call[1])


def test_states_of_real_replicas_are_understood_and_said_again() -> None:
    states = [tablet.cstate for _, response in calls("GetConsensusState")
              for tablet in pb("GetConsensusStateResponsePB", response).tablets]
    assert states
    names = Names()
    for state in states:
        config = configs.config_from(state.committed_config, names)
        assert len(config.peers) == 3
        again = configs.config_to(config, names)
        for peer in state.committed_config.peers:
            peer.ClearField("health_report")
        assert configs.config_from(again, names) == config
        assert again.peers == state.committed_config.peers


def test_a_change_that_a_master_or_tool_asked_for_is_understood() -> None:
    requests = [pb("ChangeConfigRequestPB", request) for request, _ in calls("ChangeConfig")]
    assert [configs.change_from(request.type, request.server, Names()).member_type for request in requests] == [
        MemberType.NON_VOTER, MemberType.VOTER]
    changed = configs.change_from(requests[0].type, requests[0].server, Names())
    assert replace(changed, member_type=None).promote is None
