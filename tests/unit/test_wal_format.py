"""The executable specification of the segment format: it reads what it writes, and ends where Kudu ends."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root
from random_log import random_log

from kudu_storage.errors import BadFormat, ForeignFile, LimitExceeded, NewerVersion, Truncated
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.format import Codec, Ending

ROOT = fixtures_root()
needs_fixtures = pytest.mark.skipif(ROOT is None, reason="no stored tablets of real servers (KUDU_STORAGE_SHARED)")


def header(**fields: Any) -> Any:
    made: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=b"t", sequence_number=1, **fields)
    made.schema.SetInParent()
    return made


def entries(count: int) -> list[Any]:
    made = []
    for index in range(1, count + 1):
        entry: Any = message_class("kudu.log.LogEntryPB")(type=1)
        entry.replicate.id.term, entry.replicate.id.index = 1, index
        entry.replicate.timestamp, entry.replicate.op_type = index, 1
        made.append(entry)
    return made


def batches() -> list[list[Any]]:
    made = entries(6)
    return [made[:1], made[1:4], made[4:]]


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("closed", [False, True])
def test_a_segment_reads_as_it_was_written(codec: Codec, closed: bool) -> None:
    footer = spec.footer_of(batches(), 7) if closed else None
    data = spec.build_segment(header(), batches(), codec, footer=footer)
    read, outcome = spec.read_entries(data)
    assert read == entries(6)
    assert outcome.error is None
    assert outcome.ending is (Ending.FOOTER if closed else Ending.END_OF_FILE)
    assert spec.parse_segment(data).codec is codec


def test_a_footer_counts_entries_and_spans_the_indexes() -> None:
    footer = spec.footer_of(batches(), 7)
    assert (footer.num_entries, footer.min_replicate_index, footer.max_replicate_index) == (6, 1, 6)


def test_segments_of_old_servers_have_entry_headers_of_twelve_bytes() -> None:
    old = header(DEPRECATED_major_version=1, DEPRECATED_minor_version=0)
    data = spec.build_segment(old, batches())
    assert spec.parse_segment(data).entry_header_bytes == 12
    assert spec.read_entries(data)[0] == entries(6)


def test_an_unclosed_segment_cut_at_any_byte_gives_whole_batches_and_ends_cleanly() -> None:
    data = spec.build_segment(header(), batches(), Codec.LZ4)
    segment = spec.parse_segment(data)
    whole, _ = spec.read_batches(data, segment)
    ends = [batch.offset for batch in whole[1:]] + [len(data)]
    for end in range(segment.entries_offset, len(data)):
        read, outcome = spec.read_batches(data[:end], spec.parse_segment(data[:end]))
        assert outcome.error is None
        assert len(read) == sum(e <= end for e in ends)


def test_a_closed_segment_refuses_any_flipped_bit_in_its_entries() -> None:
    data = spec.build_segment(header(), batches(), Codec.NONE, footer=spec.footer_of(batches()))
    segment = spec.parse_segment(data)
    for bit in range(8 * segment.entries_offset, 8 * segment.entries_end):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        read, outcome = spec.read_entries(bytes(flipped))
        assert outcome.error is not None
        assert read == entries(6)[:len(read)]


def test_a_bad_entry_is_the_end_of_an_unclosed_segment_only_if_no_entry_follows() -> None:
    data = bytearray(spec.build_segment(header(), batches(), Codec.NONE))
    offsets = [b.offset for b in spec.read_batches(bytes(data), spec.parse_segment(bytes(data)))[0]]
    last, middle = bytearray(data), bytearray(data)
    last[offsets[2] + 20] ^= 1
    middle[offsets[1] + 20] ^= 1
    assert spec.read_entries(bytes(last))[1].ending is Ending.TORN
    assert spec.read_entries(bytes(middle))[1].error is not None
    assert len(spec.read_entries(bytes(middle))[0]) == 1


def test_zeros_after_the_last_entry_are_preallocated_space() -> None:
    data = spec.build_segment(header(), batches()) + bytes(10_000)
    assert spec.read_entries(data)[1].ending is Ending.ZEROS


def test_a_footer_that_counts_wrong_is_an_error_after_all_entries() -> None:
    footer = spec.footer_of(batches())
    footer.num_entries += 1
    read, outcome = spec.read_entries(spec.build_segment(header(), batches(), footer=footer))
    assert len(read) == 6
    assert isinstance(outcome.error, BadFormat)


@pytest.mark.parametrize(("data", "error"), [
    (b"", Truncated), (bytes(12), Truncated), (b"kudulogX" + bytes(4), ForeignFile),
    (b"kudulogf\xff\xff\xff\xff", LimitExceeded), (b"kudulogf\x10\x00\x00\x00short", Truncated),
    (b"kudulogf\x01\x00\x00\x00\xff", BadFormat),
])
def test_what_is_no_segment_is_refused_by_kind(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        spec.read_entries(data)


def test_a_feature_of_the_future_is_refused() -> None:
    with pytest.raises(NewerVersion):
        spec.read_entries(spec.build_segment(header(incompatible_features=[1]), batches()))


@pytest.mark.parametrize("seed", range(10))
def test_random_logs_read_as_they_were_made(seed: int) -> None:
    log = random_log(seed)
    read = [entry for segment in log.segments for entry in spec.read_entries(segment)[0]]
    assert read == log.entries


@needs_fixtures
def test_segments_of_the_real_server_come_out_byte_for_byte_when_written_again() -> None:
    """But for LZ4, whose compressor may choose other matches."""
    again = 0
    for path in sorted(_fixtures().glob("[rs]*/*/wals/*/wal-*")):
        data = path.read_bytes()
        segment = spec.parse_segment(data)
        read, outcome = spec.read_batches(data, segment)
        assert outcome.error is None
        assert data.startswith(spec.build_header(segment.header))
        if segment.footer is not None:
            assert data.endswith(spec.build_footer(segment.footer))
        if segment.codec is not Codec.LZ4:
            entries_bytes = b"".join(spec.build_entry(batch.data, segment.codec) for batch in read)
            assert data[segment.entries_offset:outcome.offset] == entries_bytes
            again += 1
    assert again >= 6


def damages() -> list[tuple[str, str, dict[str, Any]]]:
    if ROOT is None:
        return []
    stored = json.loads((ROOT / "kudu-fixtures" / "damaged" / "damage.json").read_text())["damages"]
    return [(d["name"], file, verdict) for d in stored for file, verdict in d["tool"].items() if "/wal-" in file]


@needs_fixtures
@pytest.mark.parametrize(("name", "file", "verdict"), damages(), ids=[d[0] for d in damages()])
def test_damaged_segments_end_where_the_real_tool_ends(name: str, file: str, verdict: dict[str, Any]) -> None:
    data = (_fixtures() / "damaged" / name / file).read_bytes()
    try:
        read, outcome = spec.read_entries(data)
        found = len(read), int(outcome.error is not None)
    except (BadFormat, ForeignFile, LimitExceeded, Truncated):
        found = 0, 1
    assert found == (verdict["entries_printed"], verdict["rc"])


def _fixtures() -> Path:
    assert ROOT is not None
    return ROOT / "kudu-fixtures"
