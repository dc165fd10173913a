"""Operations between the log and the wire: native slices against what protobuf makes of the same operations."""
from __future__ import annotations

from typing import Any

import pytest
from consensus_wire import CHANGE_CONFIG, NO_OP, WRITE, batch, config_record, request

from kudu_storage._native.consensus_ops import fixed64_field, log_body, log_runs, ops_field, split_request
from kudu_storage.errors import BadFormat, BadFrame, FrameTooLarge, InvalidArgument
from kudu_storage.protos import message_class

RECORD = config_record(["a" * 32, "b" * 32])
OPS = [(1, 1, NO_OP, b""), (1, 2, WRITE, b"two"), (1, 3, WRITE, b"x" * 200), (1, 4, CHANGE_CONFIG, RECORD),
       (2, 5, NO_OP, b""), (2, 6, NO_OP, b"a user's"), (2, 7, WRITE, b"y" * 20_000)]


def parsed(data: bytes) -> Any:
    return message_class("kudu.consensus.ConsensusRequestPB").FromString(data)  # type: ignore[attr-defined]


def test_operations_of_the_log_are_what_protobuf_puts_in_a_request() -> None:
    ops = request(OPS).SerializeToString()[len(request().SerializeToString()):]
    assert ops_field([batch(OPS)], 1, 7) == ops


@pytest.mark.parametrize("first", range(1, 8))
def test_any_range_of_any_batches_can_be_taken(first: int) -> None:
    parts = [batch(OPS[:2], commits=[1]), batch(OPS[2:3]), b"", batch([], commits=[2, 3]), batch(OPS[3:])]
    for last in range(first, 8):
        wanted = OPS[first - 1:last]
        assert list(parsed(request().SerializeToString() + ops_field(parts, first, last)).ops) == list(
            request(wanted).ops)
        assert log_body(parts, first, last) == batch(wanted)


def test_a_missing_operation_is_an_error_and_never_left_out() -> None:
    for parts in ([batch(OPS[:2]), batch(OPS[3:])], [batch(OPS[:6])], [batch(OPS[1:])], []):
        with pytest.raises(InvalidArgument):
            ops_field(parts, 1, 7)
    for first, last in ((0, 1), (3, 2), (-1, 4), (1, 2**63 - 1)):
        with pytest.raises(InvalidArgument):
            ops_field([batch(OPS)], first, last)


def test_bytes_that_are_no_batch_are_refused() -> None:
    with pytest.raises(BadFormat):
        ops_field([b"\x0a\x05abc"], 1, 1)
    with pytest.raises(TypeError):
        ops_field(["text"], 1, 1)   # type: ignore[list-item]


def test_parts_that_change_between_the_passes_overrun_nothing() -> None:
    class Parts:
        """Each pass over it would see larger operations."""

        size = 10

        def __iter__(self) -> Any:
            self.size *= 100
            return iter([batch([(1, 1, WRITE, b"x" * self.size)])])

    assert len(ops_field(Parts(), 1, 1)) > 1000     # type: ignore[arg-type]  # gone through once


def test_a_request_is_separated_into_fields_and_log_entries() -> None:
    message = request(OPS, preceding_id={"term": 1, "index": 0}, committed_index=3, dest_uuid=b"b" * 32,
                      safe_timestamp=77, last_idx_appended_to_leader=9)
    rest, body, runs, timestamp = split_request(message.SerializeToString())
    assert body == batch(OPS)
    assert timestamp == 1007
    without = parsed(rest)
    assert not without.ops
    without.ops.extend(message.ops)
    assert without == message
    assert [run[:4] for run in runs] == [(1, 1, 1, 1), (1, 2, 3, 0), (1, 4, 4, 5), (2, 5, 5, 1), (2, 6, 7, 0)]
    assert [run[5] for run in runs] == [None, None, RECORD, None, None]
    assert sum(run[4] for run in runs) == len(body)
    assert log_runs(body) == (runs, timestamp)


def test_operations_may_stand_anywhere_among_the_fields() -> None:
    head = request(committed_index=3).SerializeToString()
    ops = ops_field([batch(OPS)], 1, 7)
    (rest, *found), (other, *again) = split_request(head + ops), split_request(ops + head)
    assert (rest, found) == (other, again)
    assert rest == head


def test_a_heartbeat_has_no_operations() -> None:
    data = request(committed_index=3).SerializeToString()
    assert split_request(memoryview(data)) == (data, b"", [], 0)


@pytest.mark.parametrize("ops", [
    [(1, 1, NO_OP, b""), (1, 3, NO_OP, b"")],                   # a gap
    [(1, 2, WRITE, b""), (1, 2, WRITE, b"")],                   # twice
    [(1, 2, CHANGE_CONFIG, RECORD), (1, 4, WRITE, b"")],        # a gap behind a configuration
    [(2, 1, WRITE, b""), (1, 2, WRITE, b"")],                   # a term that goes down
    [(0, 1, WRITE, b"")],
    [(1, 0, WRITE, b"")],
    [(-1, 1, WRITE, b"")],
    [(1, -5, WRITE, b"")],
    [(1, 2**63 - 1, WRITE, b""), (1, 1, WRITE, b"")],           # nothing can follow it
    [(2**63 - 1, 1, WRITE, b"")],
    [(1, 1, 2, b"")],                                           # no such type
], ids=str)
def test_impossible_operations_are_refused(ops: Any) -> None:
    message = request()
    for term, index, op_type, payload in ops:
        added = message.ops.add()
        added.id.term, added.id.index, added.timestamp = term, index, 1
        added.op_type = op_type if op_type != 2 else 1
        if op_type == CHANGE_CONFIG:
            added.change_config_record.ParseFromString(payload)
    data = message.SerializeToString()
    if ops[0][2] == 2:
        data = data.replace(b"\x20\x01", b"\x20\x02")
    with pytest.raises(BadFrame):
        split_request(data)


def test_a_configuration_that_does_not_say_what_it_is_is_refused() -> None:
    message = request()
    added = message.ops.add()
    added.id.term, added.id.index, added.timestamp, added.op_type = 1, 1, 1, CHANGE_CONFIG
    with pytest.raises(BadFrame):
        split_request(message.SerializeToString())


def test_many_small_runs_are_refused_before_they_become_many_objects() -> None:
    ops = [(term, term, WRITE, b"") for term in range(1, 4097)]
    assert len(split_request(request(ops).SerializeToString())[2]) == 4096
    with pytest.raises(FrameTooLarge):
        split_request(request([*ops, (5000, 4097, WRITE, b"")]).SerializeToString())


def test_a_field_that_kudu_does_not_know_is_found_and_kept_apart() -> None:
    data = request().SerializeToString() + b"\x89\x7d" + (1 << 60).to_bytes(8, "little")
    assert fixed64_field(data, 2001) == 1 << 60
    assert fixed64_field(data, 2002) == 0
    assert fixed64_field(b"", 2001) == 0
    assert parsed(data).tablet_id == request().tablet_id
    with pytest.raises(BadFrame):
        fixed64_field(data[:-1], 2001)
