"""Operations and messages of replicas, made by protobuf alone, to compare the native slices with."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kudu_storage.protos import message_class

TABLET = "0123456789abcdef0123456789abcdef"
NO_OP, WRITE, CHANGE_CONFIG = 1, 3, 5
Op = tuple[int, int, int, bytes]    # term, index, op_type, payload


def replicate(message: Any, op: Op) -> None:
    term, index, op_type, payload = op
    message.id.term, message.id.index = term, index
    message.timestamp = 1000 + index
    message.op_type = op_type
    if op_type == WRITE:
        message.write_request.tablet_id = TABLET.encode()
        message.write_request.row_operations.rows = payload
    elif op_type == CHANGE_CONFIG:
        message.change_config_record.ParseFromString(payload)
    elif payload:
        message.noop_request.payload_for_tests = payload
    else:
        message.noop_request.SetInParent()


def batch(ops: Iterable[Op], commits: Sequence[int] = ()) -> bytes:
    """A LogEntryBatchPB."""
    made: Any = message_class("kudu.log.LogEntryBatchPB")()
    for op in ops:
        entry = made.entry.add(type=1)
        replicate(entry.replicate, op)
    for index in commits:
        entry = made.entry.add(type=2)
        entry.commit.op_type = WRITE
        entry.commit.commited_op_id.term, entry.commit.commited_op_id.index = 1, index
    data: bytes = made.SerializeToString()
    return data


def request(ops: Iterable[Op] = (), **fields: Any) -> Any:
    """A ConsensusRequestPB with its required fields."""
    made: Any = message_class("kudu.consensus.ConsensusRequestPB")(
        **{"tablet_id": TABLET, "caller_uuid": b"a" * 32, "caller_term": 1, **fields})
    for op in ops:
        replicate(made.ops.add(), op)
    return made


def config_record(uuids: Sequence[str]) -> bytes:
    made: Any = message_class("kudu.consensus.ChangeConfigRecordPB")(tablet_id=TABLET.encode())
    for config in (made.old_config, made.new_config):
        for uuid in uuids:
            config.peers.add(permanent_uuid=uuid.encode(), member_type=1)
    made.old_config.opid_index = -1
    data: bytes = made.SerializeToString()
    return data
