"""Native batches of operations: parts, objects, COMMITs, and the scan of a whole log; protobuf is the oracle."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.operations import LogScan, encode_commits, look, operations
from kudu_storage.errors import BadFormat, InvalidArgument
from kudu_storage.protos import message_class

_batch: Any = message_class("kudu.log.LogEntryBatchPB")
_record: Any = message_class("kudu.consensus.ChangeConfigRecordPB")
ALL = 1 << 62
RECORD = _record(tablet_id=b"t", old_config={}, new_config={"peers": [{"permanent_uuid": b"a"}]}).SerializeToString()


def batch(*ops: tuple[int, int, bytes | str | None]) -> bytes:
    """(term, index, payload): None begins a term, text is a configuration."""
    made = _batch()
    for term, index, payload in ops:
        message = made.entry.add(type=1).replicate
        message.id.term, message.id.index, message.timestamp = term, index, index * 10
        message.op_type = 5 if isinstance(payload, str) else 1
        if isinstance(payload, str):
            message.change_config_record.ParseFromString(RECORD)
        elif payload is None:
            message.noop_request.SetInParent()
        else:
            message.noop_request.payload_for_tests = payload
    return bytes(made.SerializeToString())


def size(*ops: tuple[int, int, bytes | str | None]) -> int:
    return len(batch(*ops))


A, B, C, D, E = (1, 1, None), (1, 2, b"two"), (1, 3, b""), (2, 4, b"four"), (2, 5, "config")


def test_rows_of_one_term_and_kind_are_one_run() -> None:
    body = batch(A, B, C, D, E)
    begin, end, runs = look(body, 1, 5, ALL)
    assert (begin, end) == (0, len(body))
    assert runs == [(1, 1, 1, 1, size(A), None), (1, 2, 3, 0, size(B, C), None), (2, 4, 4, 0, size(D), None),
                    (2, 5, 5, 5, size(E), RECORD)]


def test_a_part_is_the_bytes_of_its_operations() -> None:
    body = batch(A, B, C, D, E)
    begin, end, runs = look(body, 2, 4, ALL)
    assert body[begin:end] == batch(B, C, D) and [r[:3] for r in runs] == [(1, 2, 3), (2, 4, 4)]
    assert look(body, 6, 9, ALL) == (0, 0, [])


@pytest.mark.parametrize("room", [0, 1, size(B), size(B, C) - 1])
def test_at_least_one_operation_is_given_however_little_room_there_is(room: int) -> None:
    body = batch(A, B, C, D)
    begin, end, runs = look(body, 2, 4, room)
    assert body[begin:end] == batch(B) and runs == [(1, 2, 2, 0, size(B), None)]


def test_operations_have_their_payloads_and_nothing_else_has() -> None:
    found = operations(batch(A, B, C, D, E), 1, 4)
    assert [(o.term, o.index, o.timestamp, o.kind, o.payload) for o in found] == [
        (1, 1, 10, 1, None), (1, 2, 20, 0, b"two"), (1, 3, 30, 0, b""), (2, 4, 40, 0, b"four")]


def test_a_batch_that_is_cut_off_is_refused() -> None:
    body = batch(B, C)
    for end in range(1, len(body)):
        if end != size(B):
            for use in (lambda b: look(b, 1, 9, ALL), lambda b: operations(b, 1, 9), lambda b: LogScan().add_batch(b)):
                with pytest.raises(BadFormat):
                    use(body[:end])


def test_a_hole_in_a_batch_is_refused() -> None:
    with pytest.raises(BadFormat, match="5 follows 2"):
        look(batch((1, 2, b"x"), (1, 5, b"y")), 1, 9, ALL)


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**62), st.integers(0, 40), st.sampled_from([0, 1, 5])),
                min_size=1, max_size=5))
def test_commits_name_each_operation_as_protobuf_would(rows: list[tuple[int, int, int, int]]) -> None:
    runs: Any = [(term, first, first + more, kind, 0, None) for term, first, more, kind in rows]
    found = [(e.type, e.commit.op_type, e.commit.commited_op_id.term, e.commit.commited_op_id.index)
             for e in _batch.FromString(encode_commits(runs)).entry]
    assert found == [(2, 5 if kind == 5 else 1, term, index) for term, first, more, kind in rows
                     for index in range(first, first + more + 1)]
    assert encode_commits(runs) == _batch.FromString(encode_commits(runs)).SerializeToString()


@pytest.mark.parametrize("run", [(1, 0, 1), (1, 3, 2), (-1, 1, 1)])
def test_commits_of_nothing_are_refused(run: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidArgument):
        encode_commits([(*run, 0, 0, None)])


def test_a_scan_leaves_out_what_was_replaced() -> None:
    scan = LogScan()
    for body in (batch(A, B), encode_commits([(1, 1, 1, 1, 0, None)]), batch((1, 3, "lost"), (1, 4, b"lost")),
                 batch((3, 3, None), (3, 4, "kept"), (3, 5, b"x")), batch((4, 6, None)), batch((5, 6, None))):
        scan.add_batch(body)
    assert scan.spans == [(1, 1), (3, 3), (5, 6)]
    assert scan.configs == [(4, RECORD)]
    assert (scan.first_index, scan.last_index, scan.commit_index, scan.timestamp) == (1, 6, 1, 60)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 1)), max_size=12))
def test_a_scan_sees_the_log_as_its_reader_does(steps: list[tuple[int, int, int]]) -> None:
    """Random appends, each perhaps behind a replacement, in ascending terms: a list is the oracle."""
    log: list[int] = []
    scan, term = LogScan(), 1
    for back, count, rise in steps:
        term += rise
        del log[max(0, len(log) - back):]
        first = len(log) + 1
        log += [term] * count
        scan.add_batch(batch(*[(term, first + i, b"x") for i in range(count)]))
    spans = [(t, i + 1) for i, t in enumerate(log) if i == 0 or log[i - 1] != t]
    assert scan.spans == spans and scan.last_index == len(log)
