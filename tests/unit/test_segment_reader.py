from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from segments import CODEC_FOLDERS, golden, memory_file, scan, scan_fd, shortened

from kudu_storage._native import lz4
from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.segment import SegmentScanner, find_entry_header, read_batch_at
from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX
from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    BlankSegment,
    DiskError,
    ForeignFile,
    InvalidArgument,
    KuduStorageError,
    LimitExceeded,
    NewerVersion,
    NotFound,
    Truncated,
    Unsupported,
)
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.reader import check_sequence, is_segment_name, list_segments, open_segment

NONE = spec.Codec.NONE
Header: Any = message_class("kudu.log.LogSegmentHeaderPB")


def entries(*bodies: bytes) -> bytes:
    return b"".join(spec.build_entry(body, NONE) for body in bodies)


def run(data: bytes, *, closed: bool = False, codec: int = 1, v1: bool = False, end: int | None = None,
        target_bytes: int = 1 << 20) -> tuple[list[bytes], SegmentScanner]:
    with memory_file(data) as fd:
        scanner = SegmentScanner(fd, first_offset=0, end_offset=len(data) if end is None else end,
                                 file_size=len(data), codec=codec, v1=v1, closed=closed)
        batches: list[bytes] = []
        while (chunk := scanner.next_chunk(target_bytes)) is not None:
            batches += [chunk[i] for i in range(len(chunk))]
        return batches, scanner


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def header_bytes(**fields: Any) -> bytes:
    header = Header(tablet_id=b"t" * 32, sequence_number=7, **fields)
    header.schema.SetInParent()
    return spec.build_header(header)


# -- the scan ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", CODEC_FOLDERS)
@pytest.mark.parametrize("kind", ["closed", "unclosed"])
@pytest.mark.parametrize("target_bytes", [1, 700, 5000, 1 << 20])
def test_batches_equal_the_specification_whatever_the_chunk_size(codec: str, kind: str, target_bytes: int) -> None:
    data = golden(f"{codec}-{kind}").read_bytes()
    expected, outcome = spec.read_batches(data, spec.parse_segment(data))
    batches, scanner = scan(data, target_bytes=target_bytes)
    assert batches == [b.data for b in expected]
    assert (scanner.outcome, scanner.offset, scanner.error_kind) == ("end", outcome.offset, None)


def test_lz4_through_the_package_gives_the_same_batches() -> None:
    data = golden("lz4-closed").read_bytes()
    native, _ = scan(data)
    lz4.use_native(False)
    try:
        assert scan(data)[0] == native
    finally:
        lz4.use_native(True)


def test_refs_name_offsets_and_sizes_of_each_batch() -> None:
    data = golden("lz4-closed").read_bytes()
    expected, _ = spec.read_batches(data, spec.parse_segment(data))
    with open_segment(golden("lz4-closed")) as segment:
        refs = [ref for chunk in segment.scan(4096) for ref in chunk.refs()]
    assert [(offset, size) for offset, _, size in refs] == [(b.offset, len(b.data)) for b in expected]
    assert sum(stored + 16 for _, stored, _ in refs) == segment.end_offset - segment.first_offset


def test_entry_larger_than_the_read_size_is_returned_whole() -> None:
    big = os.urandom(3 << 20)
    batches, scanner = run(entries(b"a", big, b"b"), target_bytes=65536)
    assert batches == [b"a", big, b"b"] and scanner.outcome == "end"


def test_chunks_stay_valid_after_the_scanner_went_on() -> None:
    data = entries(*[bytes([i]) * 1000 for i in range(100)])
    with memory_file(data) as fd:
        scanner = SegmentScanner(fd, first_offset=0, end_offset=len(data), file_size=len(data))
        chunks = []
        while (chunk := scanner.next_chunk(3000)) is not None:
            chunks.append(chunk)
    assert len(chunks) > 10
    assert [c[i] for c in chunks for i in range(len(c))] == [bytes([i]) * 1000 for i in range(100)]


def test_v1_entries_have_twelve_byte_headers() -> None:
    batches, scanner = run(spec.build_entry_v1(b"one") + spec.build_entry_v1(b"two"), v1=True)
    assert batches == [b"one", b"two"] and scanner.outcome == "end"


def test_segment_without_entries_ends_at_once() -> None:
    batches, scanner = run(b"")
    assert batches == [] and (scanner.outcome, scanner.offset) == ("end", 0)


# -- how a segment ends ------------------------------------------------------------------------------------------------
def test_zeros_after_the_last_entry_of_an_unclosed_segment_are_its_end() -> None:
    good = entries(b"one", b"two")
    for zeros in (1, 15, 16, 17, 40, 3 << 20):
        batches, scanner = run(good + bytes(zeros))
        assert batches == [b"one", b"two"]
        assert (scanner.outcome, scanner.offset, scanner.error_kind) == ("zero_tail", len(good), None), zeros


def test_zeros_before_the_footer_are_corruption() -> None:
    data = entries(b"one") + bytes(40)
    _, scanner = run(data, closed=True)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "bad_checksum")


@pytest.mark.parametrize("left", [1, 15, 16, 17, 18])
def test_cut_last_entry_is_a_torn_tail_when_unclosed_and_corruption_when_closed(left: int) -> None:
    good = entries(b"one")
    data = good + entries(b"two")[:left]
    batches, scanner = run(data)
    assert batches == [b"one"]
    assert (scanner.outcome, scanner.offset, scanner.error_kind) == ("torn_tail", len(good), "torn_tail")
    batches, scanner = run(data, closed=True)
    assert batches == [b"one"]
    assert (scanner.outcome, scanner.offset, scanner.error_kind) == ("corrupt", len(good), "truncated")


def test_damage_before_a_good_entry_is_corruption_with_both_offsets() -> None:
    first, second, third = entries(b"one"), entries(b"two" * 9), entries(b"three")
    second = second[:-1] + b"?"
    batches, scanner = run(first + second + third)
    assert batches == [b"one"]
    assert (scanner.outcome, scanner.offset, scanner.error_kind) == ("corrupt", len(first), "bad_checksum")
    assert f"at offset {len(first) + len(second)}" in (scanner.detail or "")
    assert f"computed {crc32c(b'two' * 8 + b'tw?')}" in (scanner.detail or "")


def test_good_entry_far_after_the_damage_is_found_across_read_windows() -> None:
    bad = bytearray(entries(b"two"))
    bad[13] ^= 1
    for gap in ((1 << 20) - 16 - 8, (1 << 20) - 3, 1 << 20, (2 << 20) + 5):
        data = bytes(bad) + bytes(gap) + entries(b"three")
        _, scanner = run(data)
        assert scanner.outcome == "corrupt", gap
        assert f"at offset {len(bad) + gap}" in (scanner.detail or "")


def test_header_with_nothing_after_it_does_not_count_as_an_entry() -> None:
    header = entries(b"three")[:16]
    bad = b"\x01" * 16
    _, scanner = run(bad + header)
    assert scanner.outcome == "torn_tail"
    _, scanner = run(bad + header + b"x")
    assert scanner.outcome == "corrupt"


def test_find_entry_header_agrees_with_the_specification_on_noise() -> None:
    import random

    noise = random.Random(3).randbytes(5000)
    for data in (noise, noise + entries(b"x"), bytes(9000) + entries(b"x") + noise, noise + bytes(9000)):
        with memory_file(data) as fd:
            found = find_entry_header(fd, 0, len(data))
        assert (found is not None) == spec.any_entry_header(data, 0, 16)


def test_both_lengths_must_agree_without_a_codec() -> None:
    start = struct.pack("<III", 3, 4, crc32c(b"abc"))
    data = start + struct.pack("<I", crc32c(start)) + b"abc"
    _, scanner = run(data, closed=True)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "bad_format")


def test_length_zero_is_refused() -> None:
    start = struct.pack("<III", 0, 0, 0)
    _, scanner = run(start + struct.pack("<I", crc32c(start)) + b"x", closed=True)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "bad_format")


@pytest.mark.parametrize("length", [ENTRY_BATCH_BYTES_MAX + 1, 0xFFFFFFFF, 20_000])
def test_length_that_cannot_be_is_a_limit_error_even_at_the_tail_of_an_unclosed_segment(length: int) -> None:
    start = struct.pack("<III", 3, length, crc32c(b"abc"))
    data = start + struct.pack("<I", crc32c(start)) + b"abc"
    _, scanner = run(data, codec=3)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "limit_exceeded")


@pytest.mark.parametrize("codec", [3, 4])
def test_no_entry_is_larger_than_the_limit_although_so_many_bytes_could_be_compressed_to_that(codec: int) -> None:
    stored = bytes(ENTRY_BATCH_BYTES_MAX // 200)
    start = struct.pack("<III", len(stored), ENTRY_BATCH_BYTES_MAX + 1, crc32c(stored))
    _, scanner = run(start + struct.pack("<I", crc32c(start)) + stored, codec=codec, closed=True)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "limit_exceeded")
    assert "above the limit" in (scanner.detail or "")


@pytest.mark.parametrize("codec", [2, 3, 4])
def test_bytes_that_do_not_decompress_are_reported_as_such(codec: int) -> None:
    stored = b"\xff" * 40
    start = struct.pack("<III", len(stored), 60, crc32c(stored))
    data = start + struct.pack("<I", crc32c(start)) + stored
    _, scanner = run(data, codec=codec, closed=True)
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "bad_format")
    assert "decompress" in (scanner.detail or "")


def test_file_shorter_than_its_named_size_ends_the_scan() -> None:
    data = entries(b"one", b"two" * 50)
    with memory_file(data[:-5]) as fd:
        scanner = SegmentScanner(fd, first_offset=0, end_offset=len(data), file_size=len(data), closed=True)
        assert [c[0] for c in iter(scanner.next_chunk, None)] == [b"one"]
    assert (scanner.outcome, scanner.error_kind) == ("corrupt", "truncated")


def test_failed_read_is_a_disk_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(DiskError):
            SegmentScanner(fd, first_offset=0, end_offset=100, file_size=100).next_chunk()
    finally:
        os.close(fd)


def test_ranges_outside_the_file_are_refused() -> None:
    for first, end in ((-1, 5), (0, 11)):
        with pytest.raises(InvalidArgument):
            SegmentScanner(0, first_offset=first, end_offset=end, file_size=10)


def test_read_batch_at_returns_one_batch_or_the_typed_error() -> None:
    good = entries(b"one", b"two")
    bad = bytearray(good)
    bad[-1] ^= 1
    with memory_file(good) as fd:
        chunk = read_batch_at(fd, 19, file_size=len(good))
        assert len(chunk) == 1 and chunk[0] == b"two"
        with pytest.raises(Truncated):
            read_batch_at(fd, len(good), file_size=len(good))
        with pytest.raises(BadChecksum):
            read_batch_at(fd, 1, file_size=len(good))
    with memory_file(bytes(bad)) as fd, pytest.raises(BadChecksum):
        read_batch_at(fd, 19, file_size=len(bad))


# -- header and footer -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("data", "error"), [
    (b"", Truncated), (b"kudulogf\x05", Truncated), (bytes(12), BlankSegment), (bytes(8 << 20), BlankSegment),
    (bytes(11), Truncated), (b"kuducntr" + bytes(40), ForeignFile), (b"kudulogX" + bytes(40), ForeignFile),
    (b"kudulogf" + struct.pack("<I", (8 << 20) + 1) + bytes(50), LimitExceeded),
    (b"kudulogf" + struct.pack("<I", 100) + bytes(50), Truncated),
    (b"kudulogf" + struct.pack("<I", 4) + b"\xff" * 4, BadFormat),
    (b"kudulogf" + struct.pack("<I", 0), BadFormat),
], ids=lambda value: value.__name__ if isinstance(value, type) else f"{value[:8]!r}+{len(value)}")
def test_files_that_are_no_segments_are_told_apart(tmp_path: Path, data: bytes, error: type[KuduStorageError]) -> None:
    with pytest.raises(error):
        open_segment(write(tmp_path / "wal-000000001", data))


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_segment(tmp_path / "wal-000000001")


def test_incompatible_feature_is_a_newer_version(tmp_path: Path) -> None:
    with pytest.raises(NewerVersion):
        open_segment(write(tmp_path / "wal-000000007", header_bytes(incompatible_features=[3])))


def test_unknown_codec_number_means_no_compression_with_a_note(tmp_path: Path) -> None:
    data = header_bytes()[12:] + b"\x48\x2a"        # field 9 = 42
    path = write(tmp_path / "wal-000000007", b"kudulogf" + struct.pack("<I", len(data)) + data + entries(b"x"))
    with open_segment(path) as segment:
        assert segment.codec_name == "NO_COMPRESSION" and len(segment.notes) == 1
        assert [c[0] for c in segment.scan()] == [b"x"]


@pytest.mark.parametrize("codec", [0, 999])
def test_codec_that_is_known_and_no_log_codec_is_refused(tmp_path: Path, codec: int) -> None:
    with pytest.raises(Unsupported):
        open_segment(write(tmp_path / "wal-000000007", header_bytes(compression_codec=codec)))


def test_deprecated_version_fields_mean_v1_entries(tmp_path: Path) -> None:
    data = header_bytes(DEPRECATED_major_version=1, DEPRECATED_minor_version=0) + spec.build_entry_v1(b"old")
    with open_segment(write(tmp_path / "wal-000000007", data)) as segment:
        assert segment.v1 and [c[0] for c in segment.scan()] == [b"old"]


def test_footer_magic_alone_decides_whether_a_segment_is_closed(tmp_path: Path) -> None:
    data = bytearray(shortened("lz4-closed", 3000, closed=True))
    with open_segment(write(tmp_path / "wal-000000001", bytes(data))) as segment:
        assert segment.closed
    data[-12] ^= 1
    with open_segment(write(tmp_path / "wal-000000001", bytes(data))) as segment:
        assert not segment.closed and segment.end_offset == len(data)


@pytest.mark.parametrize(("length", "error"), [(0, LimitExceeded), ((8 << 20) + 1, LimitExceeded),
                                               (100_000, BadFormat), (3, BadFormat)])
def test_footer_length_that_cannot_be_is_an_error(tmp_path: Path, length: int, error: type[KuduStorageError]) -> None:
    data = shortened("lz4-closed", 3000, closed=True)[:-4] + struct.pack("<I", length)
    with pytest.raises(error):
        open_segment(write(tmp_path / "wal-000000001", data))


def test_entry_count_of_the_footer_is_compared(tmp_path: Path) -> None:
    with open_segment(golden("lz4-closed")) as segment:
        assert segment.entry_count_error(88) is None
        error = segment.entry_count_error(87)
        assert error is not None and error.kind == "contradiction" and error.offset == segment.end_offset


def test_damaged_footer_is_told_from_lost_entries(tmp_path: Path) -> None:
    data = bytearray(shortened("lz4-closed", 3000, closed=True))
    data[-10] ^= 4
    batches, scanner = scan(bytes(data))
    assert scanner.outcome == "torn_tail"
    with open_segment(write(tmp_path / "wal-000000001", bytes(data))) as segment:
        assert segment.is_damaged_footer(scanner.offset, len(batches))
        assert not segment.is_damaged_footer(scanner.offset, len(batches) + 1)


def test_scan_raises_the_typed_error_after_what_is_intact(tmp_path: Path) -> None:
    data = bytearray(golden("lz4-closed").read_bytes())
    data[20_000] ^= 1
    path = write(tmp_path / "wal-000000001", bytes(data))
    seen = 0
    with open_segment(path) as segment, pytest.raises(BadChecksum) as caught:
        for chunk in segment.scan(4096):
            seen += len(chunk)
    assert caught.value.segment == 1 and caught.value.path == str(path)
    assert caught.value.intact == f"{seen} batches before it are intact" and caught.value.advice


# -- the folder --------------------------------------------------------------------------------------------------------
def test_names_follow_the_rule_of_the_real_reader(tmp_path: Path) -> None:
    for name in ("wal-000000010", "wal-000000002", "wal-x", "index.000000000", ".kudutmp.newsegmentAb12Cd", "wal",
                 "wal-1-2", ".wal-000000003", "walk-000000001"):
        (tmp_path / name).touch()
    assert [os.path.basename(f.path) for f in list_segments(tmp_path)] == ["wal-000000002", "wal-000000010", "wal-x"]
    assert is_segment_name("wal-000000001") and not is_segment_name(".wal-000000001")


def test_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list_segments(tmp_path / "nowhere")


def open_copies(folder: Path, *pairs: tuple[str, str]) -> list[Any]:
    for name, target in pairs:
        shutil.copyfile(golden(name), folder / target)
    return [open_segment(folder / target) for _, target in pairs]


def test_consecutive_segments_are_no_problem(tmp_path: Path) -> None:
    opened = open_copies(tmp_path, ("lz4-unclosed", "wal-000000002"), ("lz4-closed", "wal-000000001"))
    assert check_sequence(opened) == []


def test_renamed_and_doubled_segments_are_told_apart(tmp_path: Path) -> None:
    opened = open_copies(tmp_path, ("lz4-closed", "wal-000000001"), ("lz4-closed", "wal-000000009"))
    problems = check_sequence(opened)
    assert [p.kind for p in problems] == ["renamed_segment", "renamed_segment"]
    assert "wal-000000009" in problems[0].detail and "both" in problems[1].detail


def test_gap_in_the_sequence_names_what_is_missing(tmp_path: Path) -> None:
    data = bytearray(golden("lz4-unclosed").read_bytes())
    header, offset = spec.parse_header(bytes(data))
    header.sequence_number = 4
    opened = open_copies(tmp_path, ("lz4-closed", "wal-000000001"))
    opened.append(open_segment(write(tmp_path / "wal-000000004", spec.build_header(header) + data[offset:])))
    (problem,) = check_sequence(opened)
    assert (problem.kind, problem.segment) == ("missing_segment", 2) and "2 to 3" in problem.detail
    assert check_sequence(opened, {2, 3}) == []


def test_scan_of_an_open_file_needs_no_name() -> None:
    data = golden("lz4-closed").read_bytes()
    with memory_file(data) as fd:
        batches, _ = scan_fd(fd, spec.parse_segment(data), len(data))
    assert len(batches) == 88
