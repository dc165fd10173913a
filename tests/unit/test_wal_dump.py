"""`wal dump`: options, streams, and what is printed before an error."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from random_log import random_log

from kudu_storage.common.schema import Schema
from kudu_storage.errors import CorruptionError, InvalidArgument
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.dump import dump_segment, parse_print_type, truncate_fields


@pytest.mark.parametrize(("text", "meaning"), [
    ("decoded", "decoded"), ("true", "decoded"), ("1", "decoded"), ("YES", "decoded"), (" y", "decoded"),
    ("false", "none"), ("0", "none"), ("No", "none"), ("n", "none"), ("false,x", "none"), ("pb", "pb"), ("id", "id"),
])
def test_print_entries_is_read_as_the_real_tool_reads_it(text: str, meaning: str) -> None:
    assert parse_print_type(text) == meaning


@pytest.mark.parametrize("text", ["", "DECODED", "truee", "falsely", "all"])
def test_other_values_of_print_entries_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_print_type(text)


@pytest.fixture
def closed_segment(tmp_path: Path) -> Path:
    """The first segment of a log that has several."""
    log = next(log for log in map(random_log, range(100)) if len(log.segments) > 1)
    path = tmp_path / "wal-000000001"
    path.write_bytes(log.segments[0])
    return path


def dump(path: Path, **options: Any) -> str:
    out = io.BytesIO()
    dump_segment(path, out, **options)
    return out.getvalue().decode("utf-8", "surrogateescape")


def test_meta_and_entries_can_be_left_out(closed_segment: Path) -> None:
    with_meta = dump(closed_segment, print_entries="id")
    entries = dump(closed_segment, print_entries="id", print_meta=False)
    meta = dump(closed_segment, print_entries="false")
    assert meta.startswith("Header:\n") and "Footer:\nnum_entries:" in meta
    assert entries.count("\n") > 1 and "Header" not in entries
    head, _, foot = meta.partition("Footer:")
    assert with_meta == head + entries + "Footer:" + foot
    assert dump(closed_segment, print_entries="no", print_meta=False) == ""


def test_a_text_stream_gets_the_same_text(closed_segment: Path) -> None:
    text = io.StringIO()
    dump_segment(closed_segment, text)
    raw = io.BytesIO()
    wrapped = io.TextIOWrapper(raw, encoding="ascii")
    wrapped.write("before\n")
    dump_segment(closed_segment, wrapped)
    assert raw.getvalue().decode("utf-8", "surrogateescape") == "before\n" + text.getvalue()
    assert text.getvalue() == dump(closed_segment)


def test_entries_before_damage_are_printed_and_no_footer_after_it(closed_segment: Path) -> None:
    whole = dump(closed_segment, print_entries="id")
    data = bytearray(closed_segment.read_bytes())
    batches, _ = spec.read_batches(bytes(data), spec.parse_segment(bytes(data)))
    data[batches[-1].offset + 16] ^= 1
    closed_segment.write_bytes(data)
    out = io.BytesIO()
    with pytest.raises(CorruptionError):
        dump_segment(closed_segment, out, print_entries="id")
    printed = out.getvalue().decode()
    assert printed and whole.startswith(printed)
    assert "Footer:" not in printed


def test_a_footer_that_counts_wrong_is_an_error_after_all_entries(tmp_path: Path) -> None:
    log = random_log(3)
    header = spec.parse_segment(log.segments[0]).header
    footer = spec.footer_of([log.entries])
    footer.num_entries -= 1
    path = tmp_path / "wal-000000001"
    path.write_bytes(spec.build_segment(header, [[e] for e in log.entries], footer=footer))
    out = io.BytesIO()
    with pytest.raises(CorruptionError):
        dump_segment(path, out, print_entries="id", print_meta=False)
    assert out.getvalue().count(b"\n") == len(log.entries)


def test_long_fields_are_cut_at_any_depth_even_inside_a_character() -> None:
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=b"0123456789", sequence_number=1)
    column = header.schema.columns.add(name="ñandú", type=8)
    column.read_default_value = b"short"
    truncate_fields(header, 5)
    assert header.tablet_id == b"01234<truncated>"
    assert column.read_default_value == b"short"
    assert "ñand".encode() in header.SerializeToString()
    truncate_fields(header, 1)
    assert b"\xc3<truncated>" in header.SerializeToString()


def test_dump_follows_alters_in_file_order(tmp_path: Path) -> None:
    log = next(log for log in map(random_log, range(200))
               if log.ops_by_type["ALTER_SCHEMA_OP"] > 2 and not log.replaced and len(log.segments) == 1)
    path = tmp_path / "wal-000000001"
    path.write_bytes(log.segments[0])
    text = dump(path, print_meta=False)
    assert text.count("REPLICATE ALTER_SCHEMA_OP") == log.ops_by_type["ALTER_SCHEMA_OP"]
    assert text.count("\tTablet: ") == log.ops_by_type["WRITE_OP"]
    assert Schema.from_pb(spec.parse_segment(log.segments[0]).header.schema) == log.first_schema
