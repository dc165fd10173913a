"""Operations of a log as serialised batches, from wherever they are: for whoever passes them on as bytes.

Reads files, so it may block. What Raft replaced is left out.
"""
from __future__ import annotations

from typing import Any

from kudu_storage._native.log_entries import CachedBatch, Entry
from kudu_storage._native.operations import look
from kudu_storage.common.varint import encode_varint
from kudu_storage.protos import message_class
from kudu_storage.wal.log_reading import Source

# A batch of the cache, or the bytes of a LogEntryBatchPB.
Part = CachedBatch | bytes
_CHANGE_CONFIG = 5


def read_batches(source: Source, first: int, last: int, max_bytes: int) -> list[Part]:
    """Batches of exactly the operations `first` to `last`, or about max_bytes of them, at least one.

    Exactly: what stood behind them in a batch may have been replaced. Raises as Source does when it is called.
    """
    parts: list[Part] = []
    index, left = first, max_bytes
    while index <= last:
        for part, end in _bodies(source(index), last):
            begin, stop, runs = look(part, index, end, max(left, 1))
            if not runs:
                continue
            size = stop - begin
            # Not the next one: the rest of the batch before did not fit.
            if parts and (size > left or runs[0][1] != index):
                return parts
            whole = memoryview(part)
            parts.append(part if size == len(whole) else bytes(whole[begin:stop]))
            index = runs[-1][2] + 1
            left -= size
            if index > last or left <= 0:
                return parts
    return parts


def _bodies(part: Any, last: int) -> list[tuple[Part, int]]:
    """Each batch of a part, and the last index that counts in it."""
    if isinstance(part, CachedBatch):
        return [(part, last)]
    if isinstance(part, list):
        return [(b"".join(map(encode_entry, part)), last)]
    chunk, below = part
    return [(body, min(last, below - 1)) for body in chunk]


def encode_entry(entry: Entry) -> bytes:
    """An entry of an opaque log or a configuration as it was appended: LogEntryBatchPB.entry."""
    message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=entry.timestamp, op_type=entry.op_type)
    message.id.term, message.id.index = entry.term, entry.index
    if entry.is_user:
        message.noop_request.payload_for_tests = bytes(entry)
    elif entry.op_type == _CHANGE_CONFIG:
        message.change_config_record.ParseFromString(bytes(entry))
    else:
        message.noop_request.ParseFromString(bytes(entry))
    return entry_bytes(1, message.SerializeToString())


def entry_bytes(kind: int, message: bytes) -> bytes:
    """LogEntryBatchPB.entry { type: kind, replicate | commit: message }; the message's field is one above its kind."""
    entry = bytes((0x08, kind, (kind + 1) << 3 | 2)) + encode_varint(len(message)) + message
    return b"\x0a" + encode_varint(len(entry)) + entry
