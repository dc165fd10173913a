"""Messages between replicas as bytes: each comes out as it went in, and Kudu's schemas say the same of it."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from consensus_wire import CHANGE_CONFIG, NO_OP, TABLET, WRITE, batch, config_record, request
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.raft.configuration import Change, ChangeType, Config, MemberType, Peer
from consensus.raft.inputs import SendFailed, SendFailure
from consensus.raft.messages import Kind, Run, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import Refusal, UpdateError, VoteDenial
from consensus.transport import codes, configs, wire
from consensus.transport.names import Names, is_uuid, uuid_of_name
from kudu_storage._native.consensus_ops import ops_field
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFrame, InvalidArgument
from kudu_storage.protos import message_class

A, B, C = (letter * 32 for letter in "abc")
NAMES = Names([A, B, C])
indexes = st.integers(0, 2**62)
op_ids = st.builds(OpId, indexes, indexes)
timestamps = st.integers(0, 2**63 - 1)


def pb(name: str, data: bytes) -> Any:
    return message_class(f"kudu.consensus.{name}").FromString(data)     # type: ignore[attr-defined]


# -- names -------------------------------------------------------------------------------------------------------------
def test_names_and_uuids_are_found_both_ways() -> None:
    names = Names(["a", B])
    assert is_uuid(names.uuid("a")) and names.uuid(B) == B
    assert names.name(names.wire("a")) == "a"
    assert names.name(B.encode()) == B
    assert uuid_of_name("a") == Names().uuid("a") != uuid_of_name("b")


def test_a_uuid_that_nobody_named_is_its_own_name() -> None:
    assert Names(["a"]).name(C.encode()) == C


@pytest.mark.parametrize("wire_name", [b"", b"a", b"A" * 32, b"\xff" * 32, b"a" * 31, b"a" * 33, b"a" * 31 + b"\n"])
def test_what_is_no_uuid_names_nobody(wire_name: bytes) -> None:
    assert NAMES.name(wire_name) is None


def test_two_names_of_one_replica_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        Names(["a", uuid_of_name("a")])
    with pytest.raises(InvalidArgument):
        Names([""])


# -- updates -----------------------------------------------------------------------------------------------------------
def update(**fields: Any) -> UpdateRequest:
    return replace(UpdateRequest(A, 3, OpId(2, 10), 9), **fields)


@given(st.builds(UpdateRequest, st.just(A), st.integers(0, 2**62), op_ids, indexes, st.just(()), indexes, timestamps,
                 timestamps, indexes))
@settings(max_examples=100, deadline=None)
def test_updates_come_out_as_they_went_in(message: UpdateRequest) -> None:
    encoder = wire.UpdateEncoder(TABLET, A, B, NAMES)
    encoder.encode(update(safe_time=5, time_floor=6))       # nothing of an earlier one is left in a later one
    addressed = wire.decode_update(encoder.encode(message), NAMES)
    assert addressed == (TABLET, B.encode(), message)


def test_an_update_is_what_kudu_calls_so() -> None:
    data = wire.UpdateEncoder(TABLET, A, B, NAMES).encode(update(safe_time=5, time_floor=6, last_index=11,
                                                                 all_replicated_index=8))
    message = pb("ConsensusRequestPB", data)
    assert message.tablet_id == TABLET
    assert (message.caller_uuid, message.dest_uuid) == (A.encode(), B.encode())
    assert (message.caller_term, message.committed_index, message.all_replicated_index) == (3, 9, 8)
    assert (message.preceding_id.term, message.preceding_id.index) == (2, 10)
    assert (message.safe_timestamp, message.last_idx_appended_to_leader) == (5, 11)
    without = pb("ConsensusRequestPB", wire.UpdateEncoder(TABLET, A, B, NAMES).encode(update()))
    assert not without.HasField("safe_timestamp")


def test_operations_travel_as_runs_and_as_entries_of_the_log() -> None:
    record = config_record([A, B])
    ops = [(2, 11, WRITE, b"eleven"), (2, 12, WRITE, b"twelve"), (2, 13, CHANGE_CONFIG, record), (3, 14, NO_OP, b"")]
    data = wire.UpdateEncoder(TABLET, A, B, NAMES).encode(update()) + ops_field([batch(ops)], 11, 14)
    message = wire.decode_update(data, NAMES).message
    assert isinstance(message, UpdateRequest)
    assert message.payload == wire.Operations(batch(ops), 1014)
    config = Config((Peer(A), Peer(B)), 13)
    assert [replace(run, size_bytes=0) for run in message.runs] == [
        Run(2, 11, 12), Run(2, 13, 13, Kind.CONFIG, 0, config), Run(3, 14, 14, Kind.NO_OP)]


def test_a_request_of_older_kudu_without_optional_fields_is_taken() -> None:
    addressed = wire.decode_update(request(caller_uuid=A.encode(), caller_term=4).SerializeToString(), NAMES)
    assert addressed == (TABLET, b"", UpdateRequest(A, 4, OpId(0, 0), 0))


@pytest.mark.parametrize("data", [
    b"", b"\x0a", request(caller_uuid=b"nobody").SerializeToString(),
    request(caller_uuid=b"\xff" * 32).SerializeToString(),
    request([(1, 1, WRITE, b"")], caller_uuid=A.encode()).SerializeToString(),      # preceded by what?
    request([(1, 1, CHANGE_CONFIG, config_record(["nobody"]))], caller_uuid=A.encode(),
            preceding_id={"term": 0, "index": 0}).SerializeToString(),
    request(caller_uuid=A.encode(), preceding_id={"term": 1}).SerializePartialToString(),
], ids=range(7))
def test_requests_that_make_no_sense_are_bad_frames(data: bytes) -> None:
    with pytest.raises(BadFrame):
        wire.decode_update(data, NAMES)


@pytest.mark.parametrize("message", [
    update(term=2**62 + 1), update(preceding=OpId(1, 2**62 + 1)), update(safe_time=2**63), update(time_floor=2**63)],
    ids=range(4))
def test_numbers_that_nothing_can_follow_are_bad_frames(message: UpdateRequest) -> None:
    with pytest.raises(BadFrame):
        wire.decode_update(wire.UpdateEncoder(TABLET, A, B, NAMES).encode(message), NAMES)


def test_answers_with_numbers_that_nothing_can_follow_are_bad_frames() -> None:
    for response in (UpdateResponse(B, 2**62 + 1), UpdateResponse(B, 2**62 + 1, error=UpdateError.MALFORMED),
                     UpdateResponse(B, 1, time_floor=2**63)):
        with pytest.raises(BadFrame):
            wire.decode_update_response(wire.encode_update_response(response, NAMES), B, 7)
    for vote in (VoteResponse(B, 1, False, True, 2**62 + 1), VoteResponse(B, 1, False, True, 1, None, 2**63)):
        with pytest.raises(BadFrame):
            wire.decode_vote_response(wire.encode_vote_response(vote, NAMES), B, VoteRequest(A, 4, OpId(3, 7)))


@given(st.builds(UpdateResponse, st.just(B), indexes, op_ids, op_ids, indexes,
                 st.sampled_from([None, *codes.CONSENSUS_ERRORS]), st.just(7), timestamps))
@settings(max_examples=100, deadline=None)
def test_answers_to_updates_come_out_as_they_went_in(response: UpdateResponse) -> None:
    data = wire.encode_update_response(response, NAMES)
    assert wire.decode_update_response(data, B, 7) == response
    assert pb("ConsensusResponsePB", data).responder_uuid == B.encode()


def test_a_tombstone_answers_as_if_there_were_no_tablet() -> None:
    data = wire.encode_update_response(UpdateResponse(B, 3, error=UpdateError.TOMBSTONED), NAMES)
    assert pb("ConsensusResponsePB", data).error.code == codes.TabletError.TABLET_NOT_FOUND
    assert wire.decode_update_response(data, B, 7) == SendFailed(B, 7, SendFailure.NO_SUCH_TABLET)


def test_a_request_that_was_impossible_is_answered_with_the_term_and_without_a_word_about_the_log() -> None:
    data = wire.encode_update_response(UpdateResponse(B, 5, OpId(1, 1), error=UpdateError.MALFORMED), NAMES)
    message = pb("ConsensusResponsePB", data)
    assert message.error.code == codes.TabletError.UNKNOWN_ERROR and not message.HasField("status")
    assert wire.decode_update_response(data, B, 7) == UpdateResponse(B, 5, error=UpdateError.MALFORMED, seq=7)


def test_errors_of_kudu_servers_are_failures_of_the_call() -> None:
    for code in codes.TabletError:
        message: Any = message_class("kudu.consensus.ConsensusResponsePB")()
        codes.set_error(message.error, code, codes.AppStatus.ILLEGAL_STATE, "")
        failure = SendFailure.NO_SUCH_TABLET if code is codes.TabletError.TABLET_NOT_FOUND else SendFailure.UNREACHABLE
        assert wire.decode_update_response(message.SerializeToString(), B, 7) == SendFailed(B, 7, failure)


def test_an_answer_that_says_nothing_is_a_bad_frame() -> None:
    for data in (b"", pb("ConsensusResponsePB", b"").SerializeToString(), b"\x10\x05", b"\xff"):
        with pytest.raises(BadFrame):
            wire.decode_update_response(data, B, 7)


# -- votes -------------------------------------------------------------------------------------------------------------
@given(st.builds(VoteRequest, st.just(A), st.integers(1, 2**62), op_ids, st.booleans(), st.booleans()))
@settings(max_examples=100, deadline=None)
def test_vote_requests_come_out_as_they_went_in(message: VoteRequest) -> None:
    data = wire.encode_vote_request(message, TABLET, B, NAMES)
    assert wire.decode_vote_request(data, NAMES) == (TABLET, B.encode(), message)


@pytest.mark.parametrize("denial", [None, *VoteDenial])
def test_votes_come_out_as_they_went_in(denial: VoteDenial | None) -> None:
    asked = VoteRequest(A, 4, OpId(3, 7), is_pre_election=True)
    term = 0 if denial in codes.WITHHELD else 6
    response = VoteResponse(B, 4, True, denial is None, term, denial, 99)
    data = wire.encode_vote_response(response, NAMES)
    assert wire.decode_vote_response(data, B, asked) == response
    message = pb("VoteResponsePB", data)
    assert message.HasField("responder_term") == bool(term)
    assert message.consensus_error.code == (denial.value if denial else 0)


def test_the_term_of_a_kudu_voter_that_hears_a_leader_is_not_taken() -> None:
    message: Any = message_class("kudu.consensus.VoteResponsePB")(responder_uuid=B.encode(), responder_term=9)
    codes.set_consensus_error(message.consensus_error, VoteDenial.LEADER_IS_ALIVE.value,
                              codes.AppStatus.INVALID_ARGUMENT, "")
    answer = wire.decode_vote_response(message.SerializeToString(), B, VoteRequest(A, 4, OpId(3, 7)))
    assert answer == VoteResponse(B, 4, False, False, 0, VoteDenial.LEADER_IS_ALIVE)


def test_a_denial_for_a_reason_that_we_do_not_know_is_a_denial() -> None:
    message: Any = message_class("kudu.consensus.VoteResponsePB")(vote_granted=True, responder_term=9)
    codes.set_consensus_error(message.consensus_error, 5, codes.AppStatus.INVALID_ARGUMENT, "")    # NOT_IN_QUORUM
    answer = wire.decode_vote_response(message.SerializeToString(), B, VoteRequest(A, 4, OpId(3, 7)))
    assert answer is not None and not answer.granted and answer.denial is None


def test_a_server_without_the_tablet_gives_no_vote() -> None:
    message: Any = message_class("kudu.consensus.VoteResponsePB")(vote_granted=True)
    codes.set_error(message.error, codes.TabletError.TABLET_NOT_FOUND, codes.AppStatus.NOT_FOUND, "")
    assert wire.decode_vote_response(message.SerializeToString(), B, VoteRequest(A, 4, OpId(3, 7))) is None


@pytest.mark.parametrize("fields", [{"candidate_term": 0}, {"candidate_term": -1}, {"candidate_term": 2**63 - 1},
                                    {"candidate_uuid": b"nobody"},
                                    {"candidate_status": {"last_received": {"term": -1, "index": 1}}},
                                    {"candidate_status": {"last_received": {"term": 1, "index": -1}}}], ids=str)
def test_impossible_candidates_are_bad_frames(fields: dict[str, Any]) -> None:
    message: Any = message_class("kudu.consensus.VoteRequestPB")(**{
        "tablet_id": TABLET, "candidate_uuid": A.encode(), "candidate_term": 1,
        "candidate_status": {"last_received": {"term": 1, "index": 1}}, **fields})
    with pytest.raises(BadFrame):
        wire.decode_vote_request(message.SerializeToString(), NAMES)


# -- configurations ----------------------------------------------------------------------------------------------------
PEERS = (Peer(A, MemberType.VOTER, "127.0.0.1:7050"), Peer(B, MemberType.NON_VOTER, "[::1]:1", promote=True),
         Peer(C, replace=True))


@pytest.mark.parametrize("config", [Config(PEERS), Config(PEERS[:1], 77, unsafe=True)], ids=str)
def test_configurations_come_out_as_they_went_in(config: Config) -> None:
    assert configs.config_from(configs.config_to(config, NAMES), NAMES) == config


def test_a_record_of_a_change_leaves_its_index_to_its_place_in_the_log() -> None:
    before, after = Config(PEERS[:2], 5), Config(PEERS, 9)
    record = configs.config_record(TABLET, before, after, NAMES)
    message = pb("ChangeConfigRecordPB", record)
    assert message.old_config.opid_index == 5 and not message.new_config.HasField("opid_index")
    assert configs.record_config(record, 9, NAMES) == after


@pytest.mark.parametrize("peers", [
    [{"permanent_uuid": b""}], [{"member_type": 1}], [{"permanent_uuid": A.encode(), "member_type": 999}],
    [{"permanent_uuid": A.encode(), "last_known_addr": {"host": "", "port": 1}}],
    [{"permanent_uuid": A.encode(), "last_known_addr": {"host": "h", "port": 70_000}}],
    [{"permanent_uuid": b"%032x" % i} for i in range(configs.PEERS_MAX + 1)],
], ids=range(6))
def test_configurations_that_cannot_be_are_bad_frames(peers: list[dict[str, Any]]) -> None:
    message: Any = message_class("kudu.consensus.RaftConfigPB")(peers=peers)
    with pytest.raises(BadFrame):
        configs.config_from(message, NAMES)


def test_changes_are_what_the_core_calls_so() -> None:
    peer_pb: Any = message_class("kudu.consensus.RaftPeerPB")
    peer = peer_pb(permanent_uuid=C.encode(), member_type=0, last_known_addr={"host": "h", "port": 5},
                   attrs={"promote": True})
    assert configs.change_from(1, peer, NAMES) == Change(ChangeType.ADD, C, MemberType.NON_VOTER, "h:5", True, None)
    assert configs.change_from(2, peer_pb(permanent_uuid=C.encode()), NAMES) == Change(ChangeType.REMOVE, C)
    assert configs.change_from(3, peer_pb(permanent_uuid=C.encode(), attrs={"replace": False}), NAMES) == Change(
        ChangeType.MODIFY, C, replace=False)
    for change_type, item in ((None, peer), (0, peer), (9, peer), (1, None), (1, peer_pb()),
                              (1, peer_pb(permanent_uuid=C.encode())),
                              (1, peer_pb(permanent_uuid=C.encode(), member_type=0))):
        with pytest.raises(InvalidArgument):
            configs.change_from(change_type, item, NAMES)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        configs.split_address(address)


def test_each_refusal_has_codes() -> None:
    tablet_codes = message_class("kudu.tserver.TabletServerErrorPB").DESCRIPTOR.enum_types_by_name["Code"]
    app_codes = message_class("kudu.AppStatusPB").DESCRIPTOR.enum_types_by_name["ErrorCode"]
    for refusal in Refusal:
        code, status = codes.refusal_code(refusal)
        assert tablet_codes.values_by_number[code].name == code.name
        assert app_codes.values_by_number[status].name == status.name
    consensus_codes = message_class("kudu.consensus.ConsensusErrorPB").DESCRIPTOR.enum_types_by_name["Code"]
    for error in codes.CONSENSUS_ERRORS:
        assert consensus_codes.values_by_number[error.value].name == error.name
    for denial in VoteDenial:
        assert consensus_codes.values_by_number[denial.value].name.endswith(denial.name)
