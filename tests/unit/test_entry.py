from __future__ import annotations

from typing import Any

import pytest
from segments import golden, memory_file, scan

from kudu_storage._native.entry import EntryTally, parse_batch
from kudu_storage._native.segment import SegmentScanner
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec

BatchPB: Any = message_class("kudu.log.LogEntryBatchPB")
REPLICATE, COMMIT = 1, 2
WRITE_OP, NO_OP, ALTER_OP = 3, 1, 4


def replicate(term: int, index: int, op_type: int = NO_OP, timestamp: int = 4096) -> Any:
    entry = BatchPB().entry.add(type=REPLICATE)
    entry.replicate.id.term, entry.replicate.id.index = term, index
    entry.replicate.timestamp, entry.replicate.op_type = timestamp, op_type
    return entry


def commit(term: int, index: int, op_type: int = NO_OP) -> Any:
    entry = BatchPB().entry.add(type=COMMIT)
    entry.commit.commited_op_id.term, entry.commit.commited_op_id.index = term, index
    entry.commit.op_type = op_type
    return entry


def batch(*entries: Any) -> bytes:
    return bytes(BatchPB(entry=entries).SerializeToString())


def tally_of(*batches: bytes) -> EntryTally:
    data = b"".join(spec.build_entry(b, spec.Codec.NONE) for b in batches)
    tally = EntryTally()
    with memory_file(data) as fd:
        scanner = SegmentScanner(fd, first_offset=0, end_offset=len(data), file_size=len(data))
        while (chunk := scanner.next_chunk()) is not None:
            tally.add(chunk)
    assert scanner.outcome == "end"
    return tally


@pytest.mark.parametrize("name", ["none-closed", "snappy-closed", "lz4-closed", "zlib-closed", "replaced-ops"])
def test_entries_of_real_segments_equal_what_protobuf_reads(name: str) -> None:
    batches, _ = scan(golden(name).read_bytes())
    for data in batches:
        parsed = parse_batch(data)
        expected = BatchPB.FromString(data).entry
        assert len(parsed) == len(expected)
        for ours, theirs in zip(parsed, expected, strict=True):
            if theirs.type == REPLICATE:
                message = theirs.replicate
                assert ours["type"] == "REPLICATE" and ours["timestamp"] == message.timestamp
                assert ours["id"] == OpId(message.id.term, message.id.index)
                request = message.write_request if message.op_type == WRITE_OP else message.noop_request
                if message.op_type in (WRITE_OP, NO_OP):
                    assert ours["request"] == request.SerializeToString()
            else:
                message = theirs.commit
                assert ours["type"] == "COMMIT"
                assert ours["id"] == OpId(message.commited_op_id.term, message.commited_op_id.index)
                has_result = message.HasField("result")
                assert ours["result"] == (message.result.SerializeToString() if has_result else None)
            assert ours["message"] == message.SerializeToString()


def test_batch_with_both_kinds_gives_entries_in_order() -> None:
    parsed = parse_batch(batch(replicate(1, 2), commit(1, 1), replicate(1, 3, ALTER_OP)))
    assert [(e["type"], e["id"], e["op_type"]) for e in parsed] == [
        ("REPLICATE", OpId(1, 2), "NO_OP"), ("COMMIT", OpId(1, 1), "NO_OP"),
        ("REPLICATE", OpId(1, 3), "ALTER_SCHEMA_OP")]


def test_unknown_fields_are_skipped() -> None:
    entry = replicate(1, 1).SerializeToString() + b"\xa2\x06\x03abc" + b"\x98\x06\x05"
    data = b"\x12\x01x" + b"\x0a" + bytes([len(entry)]) + entry
    assert [e["id"] for e in parse_batch(data)] == [OpId(1, 1)]


@pytest.mark.parametrize("what", ["id", "timestamp", "op_type"])
def test_replicate_without_a_required_field_is_malformed(what: str) -> None:
    entry = replicate(1, 1)
    entry.replicate.ClearField(what)
    with pytest.raises(BadFormat):
        parse_batch(BatchPB(entry=[entry]).SerializePartialToString())


@pytest.mark.parametrize("what", ["commited_op_id", "op_type"])
def test_commit_without_operation_or_type_is_malformed(what: str) -> None:
    entry = commit(1, 1)
    entry.commit.ClearField(what)
    with pytest.raises(BadFormat):
        parse_batch(BatchPB(entry=[entry]).SerializePartialToString())


@pytest.mark.parametrize("data", [
    b"\x0a",                                  # length missing
    b"\x0a\x05\x08\x01",                      # longer than what is left
    b"\x0a\x02\x08\x01",                      # REPLICATE without a ReplicateMsg
    b"\x0a\x03\x08\xe7\x07",                  # FLUSH_MARKER
    b"\x08\x01",                              # the entries as a varint
    b"\x0b\x0c",                              # a group
    b"\x0a\x0c\x08\x02\x1a\x08\x08\x03\x12\x04\x08\x01\x10\x01\x00",      # tag 0 at the end
])
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadFormat):
        parse_batch(data)


def test_every_cut_of_a_batch_is_malformed_or_a_prefix_of_its_entries() -> None:
    data = batch(replicate(1, 2), commit(1, 1), replicate(3, 3, WRITE_OP))
    whole = parse_batch(data)
    for length in range(len(data)):
        try:
            assert parse_batch(data[:length]) == whole[:len(parse_batch(data[:length]))]
        except BadFormat:
            continue


def test_negative_term_or_index_is_malformed() -> None:
    with pytest.raises(BadFormat):
        parse_batch(batch(replicate(1, -1)))


def test_tally_counts_kinds_ranges_and_batches() -> None:
    tally = tally_of(batch(replicate(1, 5, WRITE_OP, 10), replicate(1, 6, WRITE_OP, 30)), batch(commit(1, 5, WRITE_OP)),
                     batch(replicate(2, 7, NO_OP, 20), commit(1, 6, WRITE_OP)))
    assert (tally.entries, tally.replicates, tally.commits, tally.batches) == (5, 3, 2, 3)
    assert (tally.single_entry_batches, tally.mixed_batches) == (1, 1)
    assert (tally.min_replicate_index, tally.max_replicate_index, tally.max_commit_index) == (5, 7, 6)
    assert (tally.first_replicate, tally.last_replicate, tally.max_term) == (OpId(1, 5), OpId(2, 7), 2)
    assert (tally.min_timestamp, tally.max_timestamp) == (10, 30)
    assert tally.ops_by_type == {"WRITE_OP": 2, "NO_OP": 1}
    assert sum(tally.batch_sizes.values()) == 3 and tally.jumps == ()


def test_empty_tally_has_no_ranges() -> None:
    tally = EntryTally()
    assert (tally.min_replicate_index, tally.max_commit_index, tally.last_replicate, tally.min_timestamp) == (None,) * 4


def test_tally_remembers_jumps_forward_and_counts_steps_back() -> None:
    first = batch(replicate(1, 1))
    tally = tally_of(first, batch(replicate(1, 5)), batch(replicate(2, 3), replicate(2, 4)), batch(replicate(2, 8)))
    assert [(before, after) for before, after, _ in tally.jumps] == [(1, 5), (4, 8)]
    assert tally.jumps[0][2] == 16 + len(first)
    assert (tally.forward_jumps, tally.backward_jumps) == (2, 1)


def test_malformed_batch_stops_the_tally_with_its_offset_and_is_not_counted() -> None:
    good, bad = batch(replicate(1, 1)), batch(replicate(1, 2)) + b"\x0a\x02\x08\x01"
    data = b"".join(spec.build_entry(b, spec.Codec.NONE) for b in (good, bad, good))
    tally = EntryTally()
    with memory_file(data) as fd:
        chunk = SegmentScanner(fd, first_offset=0, end_offset=len(data), file_size=len(data)).next_chunk()
        assert chunk is not None
        with pytest.raises(BadFormat) as caught:
            tally.add(chunk)
    assert caught.value.offset == tally.malformed_offset == 16 + len(good)
    assert tally.entries == 1 and tally.last_replicate == OpId(1, 1)
