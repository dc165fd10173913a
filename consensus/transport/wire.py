"""Messages between replicas: the core's values <-> the bytes of Kudu's ConsensusService. Pure: no I/O.

Operations pass as native slices (kudu_storage._native.consensus_ops): nothing here runs once an operation. What else is
in a message is protobuf's.

What Kudu's messages have no place for:
- `time_floor` (docs/raft.md, safe time) travels as a field that Kudu does not know and skips, TIME_FLOOR_FIELD, in
  requests and answers. A Kudu replica sends none, which is 0: no promise.
- `seq`, and of a vote `term` and `is_pre_election`, are the caller's: they stay with the call.

Parsers raise BadFrame, and nothing else, whatever the bytes.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from consensus.raft.inputs import SendFailed, SendFailure
from consensus.raft.messages import Kind, Run, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import UpdateError
from consensus.transport.codes import (
    CONSENSUS_ERRORS,
    WITHHELD,
    AppStatus,
    TabletError,
    denial_from,
    send_failure_from,
    set_consensus_error,
    set_error,
    update_error_from,
)
from consensus.transport.configs import record_config
from consensus.transport.names import Names
from kudu_storage._native.consensus_ops import fixed64_field, split_request
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.errors import BadFrame
from kudu_storage.protos import message_class
from kudu_storage.rpc.framing import Buffer

TIME_FLOOR_FIELD: Final = 2001
TABLET_ID_BYTES_MAX: Final = 256
_time_floor: Final = struct.Struct("<HQ")
_TIME_FLOOR_TAG: Final = 0x7D89     # TIME_FLOOR_FIELD, wire type fixed64, as a varint of two bytes


_update_request_pb: Any = message_class("kudu.consensus.ConsensusRequestPB")
_update_response_pb: Any = message_class("kudu.consensus.ConsensusResponsePB")
_vote_request_pb: Any = message_class("kudu.consensus.VoteRequestPB")
_vote_response_pb: Any = message_class("kudu.consensus.VoteResponsePB")
_run_election_pb: Any = message_class("kudu.consensus.RunLeaderElectionRequestPB")
# Terms, indexes and timestamps above these are refused: nobody gets there by counting, and what follows from them must
# still fit into a message.
_NUMBER_MAX: Final = 2**62
_TIMESTAMP_MAX: Final = 2**63 - 1
_KINDS: Final = {int(kind): kind for kind in Kind}


class Operations(NamedTuple):
    """What came with a request: a LogEntryBatchPB, as the log keeps it, and the highest timestamp in it."""

    body: bytes
    last_timestamp: int


class Addressed(NamedTuple):
    """A request, and whom it is for. `dest_uuid` is empty if the caller did not say (older Kudu)."""

    tablet_id: str
    dest_uuid: bytes
    message: UpdateRequest | VoteRequest


def _floor_field(time_floor: int) -> bytes:
    return _time_floor.pack(_TIME_FLOOR_TAG, time_floor) if time_floor else b""


def parse(message_type: Any, data: Buffer) -> Any:
    """A protobuf message. Raises BadFrame; a missing required field is a reason, too."""
    try:
        message = message_type.FromString(data)
    except DecodeError as error:
        raise BadFrame(f"invalid parameter for call: {error}") from None
    if not message.IsInitialized():
        raise BadFrame(f"invalid parameter for call: missing fields: {', '.join(message.FindInitializationErrors())}")
    return message


def caller_of(wire: bytes, names: Names) -> str:
    """Whoever calls. Raises BadFrame: that is no replica's uuid."""
    name = names.name(wire)
    if name is None:
        raise BadFrame(f"a call from {bytes(wire[:40])!r}, which is no replica's uuid")
    return name


def _time_floor_of(data: Buffer) -> int:
    time_floor = fixed64_field(data, TIME_FLOOR_FIELD)
    if time_floor > _TIMESTAMP_MAX:
        raise BadFrame(f"a timestamp of {time_floor}")
    return time_floor


# -- updates -----------------------------------------------------------------------------------------------------------
class UpdateEncoder:
    """Update requests of one replica to one peer: what does not change is encoded once."""

    __slots__ = ("_head", "_message")

    def __init__(self, tablet_id: str, me: str, to: str, names: Names) -> None:
        self._head: bytes = _update_request_pb(tablet_id=tablet_id, caller_uuid=names.wire(me),
                                               dest_uuid=names.wire(to)).SerializePartialToString()
        self._message = _update_request_pb()

    def encode(self, request: UpdateRequest) -> bytes:
        """All but the operations, whose field goes behind it."""
        message = self._message
        message.caller_term = request.term
        preceding = message.preceding_id
        preceding.term, preceding.index = request.preceding
        message.committed_index = request.committed_index
        message.all_replicated_index = request.all_replicated_index
        message.last_idx_appended_to_leader = request.last_index
        if request.safe_time:
            message.safe_timestamp = request.safe_time
        else:
            message.ClearField("safe_timestamp")
        rest: bytes = message.SerializePartialToString()
        return self._head + rest + _floor_field(request.time_floor)


def decode_update(data: Buffer, names: Names, call: object = None) -> Addressed:
    """A ConsensusRequestPB, whose operations become the payload (Operations). Raises BadFrame."""
    rest, body, run_tuples, timestamp = split_request(data)
    message = parse(_update_request_pb, rest)
    runs = _runs(run_tuples, names)
    if message.HasField("preceding_id"):
        preceding = OpId(message.preceding_id.term, message.preceding_id.index)
    elif runs:
        raise BadFrame("operations without the one that precedes them")
    else:
        preceding = MINIMUM_OPID
    term, safe_time = message.caller_term, message.safe_timestamp
    if term > _NUMBER_MAX or preceding.index > _NUMBER_MAX or max(safe_time, timestamp) > _TIMESTAMP_MAX:
        raise BadFrame(f"an update of term {term} after {preceding}, with timestamps {safe_time} and {timestamp}")
    request = UpdateRequest(
        caller_of(message.caller_uuid, names), term, preceding, message.committed_index, runs,
        message.all_replicated_index, safe_time, _time_floor_of(rest), message.last_idx_appended_to_leader, 0,
        Operations(body, timestamp) if runs else None, call)
    return Addressed(message.tablet_id, message.dest_uuid, request)


def _runs(run_tuples: Iterable[tuple[int, int, int, int, int, bytes | None]], names: Names) -> tuple[Run, ...]:
    return tuple([Run(term, first, last, _KINDS[kind], size,
                      None if record is None else record_config(record, first, names))
                  for term, first, last, kind, size, record in run_tuples])


def encode_update_response(response: UpdateResponse, names: Names) -> bytes:
    message = _update_response_pb(responder_uuid=names.wire(response.peer_id), responder_term=response.term)
    error = response.error
    if error is None or error in CONSENSUS_ERRORS:
        status = message.status
        status.last_received.term, status.last_received.index = response.last_received
        ours = status.last_received_current_leader
        ours.term, ours.index = response.last_received_current_leader
        status.last_committed_idx = response.last_committed_index
        if error is not None:
            set_consensus_error(status.error, error.value, AppStatus.ILLEGAL_STATE, error.name)
    elif error is UpdateError.TOMBSTONED:
        set_error(message.error, TabletError.TABLET_NOT_FOUND, AppStatus.ILLEGAL_STATE,
                  "Tablet not RUNNING: it is tombstoned")
    else:
        set_error(message.error, TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT,
                  "a request that no leader can have sent")
    data: bytes = message.SerializeToString()
    return data + _floor_field(response.time_floor)


def decode_update_response(data: Buffer, peer: str, seq: int) -> UpdateResponse | SendFailed:
    """The answer of `peer` to the request numbered `seq`. Raises BadFrame.

    A refusal that says nothing about the log is a SendFailed; only one with a term, which is newer than what Kudu
    sends with such errors, is worth an UpdateResponse: it may tell the leader that its term is over.
    """
    message = parse(_update_response_pb, data)
    status = message.status
    if message.responder_term > _NUMBER_MAX:
        raise BadFrame(f"an answer of term {message.responder_term}")
    if message.HasField("error"):
        failure = send_failure_from(message.error.code)
        if failure is SendFailure.UNREACHABLE and message.HasField("responder_term"):
            return UpdateResponse(peer, message.responder_term, error=UpdateError.MALFORMED, seq=seq)
        return SendFailed(peer, seq, failure)
    if not message.HasField("responder_term") or not message.HasField("status"):
        raise BadFrame("an answer to an update that says nothing")
    error = update_error_from(status.error.code) if status.HasField("error") else None
    last, ours = status.last_received, status.last_received_current_leader
    return UpdateResponse(peer, message.responder_term, OpId(last.term, last.index), OpId(ours.term, ours.index),
                          status.last_committed_idx, error, seq, _time_floor_of(data))


# -- votes -------------------------------------------------------------------------------------------------------------
def encode_vote_request(request: VoteRequest, tablet_id: str, to: str, names: Names) -> bytes:
    message = _vote_request_pb(tablet_id=tablet_id, candidate_uuid=names.wire(request.candidate_id),
                               candidate_term=request.term, dest_uuid=names.wire(to))
    last = message.candidate_status.last_received
    last.term, last.index = request.last_received
    if request.is_pre_election:
        message.is_pre_election = True
    message.ignore_live_leader = request.ignore_live_leader
    data: bytes = message.SerializeToString()
    return data


def decode_vote_request(data: Buffer, names: Names, call: object = None) -> Addressed:
    """A VoteRequestPB. Raises BadFrame."""
    message = parse(_vote_request_pb, data)
    last = message.candidate_status.last_received
    if not 1 <= message.candidate_term <= _NUMBER_MAX or last.term < 0 or last.index < 0:
        raise BadFrame(f"no candidate can have term {message.candidate_term} and last operation "
                       f"{last.term}.{last.index}")
    request = VoteRequest(caller_of(message.candidate_uuid, names), message.candidate_term,
                          OpId(last.term, last.index), message.is_pre_election, message.ignore_live_leader, call)
    return Addressed(message.tablet_id, message.dest_uuid, request)


def encode_vote_response(response: VoteResponse, names: Names) -> bytes:
    message = _vote_response_pb(responder_uuid=names.wire(response.voter_id), vote_granted=response.granted)
    if response.denial not in WITHHELD:     # those say no term (VoteResponse)
        message.responder_term = response.responder_term
    if response.denial is not None:
        set_consensus_error(message.consensus_error, response.denial.value, AppStatus.INVALID_ARGUMENT,
                            response.denial.name)
    data: bytes = message.SerializeToString()
    return data + _floor_field(response.time_floor)


def decode_vote_response(data: Buffer, voter: str, asked: VoteRequest) -> VoteResponse | None:
    """The answer of `voter` to `asked`; None: it could not even consider it. Raises BadFrame.

    A Kudu voter that withholds its vote tells its term all the same; it is not taken from it (VoteResponse).
    """
    message = parse(_vote_response_pb, data)
    if message.HasField("error"):
        return None
    if message.responder_term > _NUMBER_MAX:
        raise BadFrame(f"a vote of term {message.responder_term}")
    denial = denial_from(message.consensus_error.code) if message.HasField("consensus_error") else None
    granted = message.vote_granted and not message.HasField("consensus_error")
    return VoteResponse(voter, asked.term, asked.is_pre_election, granted,
                        0 if denial in WITHHELD else max(message.responder_term, 0), denial,
                        _time_floor_of(data))


# -- commands ----------------------------------------------------------------------------------------------------------
def encode_run_election(tablet_id: str, to: str, names: Names) -> bytes:
    data: bytes = _run_election_pb(tablet_id=tablet_id.encode(), dest_uuid=names.wire(to)).SerializeToString()
    return data
