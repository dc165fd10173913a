"""Messages for logs in tests, and what a log of entries holds by the simplest reading of the rules."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kudu_storage.common.opid import OpId
from kudu_storage.protos import message_class

NO_OP, WRITE_OP = 1, 3


def replicate(term: int, index: int, *, timestamp: int = 1, payload: bytes | None = None) -> Any:
    """A NO_OP; with a payload, the one that append() would write."""
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=timestamp, op_type=NO_OP)
    message.id.term, message.id.index = term, index
    if payload is None:
        message.noop_request.SetInParent()
    else:
        message.noop_request.payload_for_tests = payload
    return message


def commit(term: int, index: int) -> Any:
    message: Any = message_class("kudu.consensus.CommitMsg")(op_type=NO_OP)
    message.commited_op_id.term, message.commited_op_id.index = term, index
    return message


def live_operations(entries: Iterable[Any]) -> list[Any]:
    """ReplicateMsg of all LogEntryPB that count, by index: one voids all before it with its index or a higher one."""
    live: list[Any] = []
    for entry in entries:
        if entry.type != 1:
            continue
        while live and live[-1].id.index >= entry.replicate.id.index:
            live.pop()
        live.append(entry.replicate)
    return live


def opid_of(message: Any) -> OpId:
    return OpId(message.id.term, message.id.index)
