"""Small real segments cut at every byte and with every bit flipped: a clean end or a typed one, never a wrong entry.

Always: what is returned is a prefix of the true batches; the offset named is where that prefix ends; a closed segment
never ends quietly before its end; a byte-by-byte comparison with the specification on a sample.
"""
from __future__ import annotations

import os
import random
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from segments import CODEC_FOLDERS, memory_file, scan_fd, shortened

from kudu_storage._native.entry import EntryTally, parse_batch
from kudu_storage._native.segment import SegmentScanner
from kudu_storage.errors import BadFormat, CorruptionError, KuduStorageError
from kudu_storage.wal import format as spec
from kudu_storage.wal.reader import open_segment

CASES = [(codec, kind) for codec in CODEC_FOLDERS for kind in ("closed", "unclosed")]
# Snappy and zlib go through Python for each entry; their segments are shorter so that every bit is still affordable.
ENTRY_BYTES = {"none": 5000, "lz4": 5000, "snappy": 3000, "zlib": 3000}
QUIET = {"end", "zero_tail", "torn_tail"}


@cache
def case(codec: str, kind: str) -> tuple[bytes, spec.Segment, list[bytes], list[int]]:
    """(file, header and footer, true batches, offsets after 0, 1, ... of them)."""
    data = shortened(f"{codec}-closed", ENTRY_BYTES[codec], closed=kind == "closed")
    segment = spec.parse_segment(data)
    batches, outcome = spec.read_batches(data, segment)
    assert len(batches) >= 3 and outcome.error is None
    return data, segment, [b.data for b in batches], [*(b.offset for b in batches), outcome.offset]


def check_prefix(batches: list[bytes], scanner: SegmentScanner, truth: list[bytes], offsets: list[int]) -> None:
    assert batches == truth[:len(batches)]
    assert scanner.offset == offsets[len(batches)]
    assert scanner.outcome in QUIET or (scanner.outcome == "corrupt" and scanner.error_kind and scanner.detail)


@pytest.mark.parametrize(("codec", "kind"), CASES)
def test_every_flipped_bit_of_the_entries_gives_a_prefix_and_a_verdict(codec: str, kind: str) -> None:
    data, segment, truth, offsets = case(codec, kind)
    last = offsets[-2]
    with memory_file(data) as fd:
        for at in range(segment.entries_offset, offsets[-1]):
            for bit in range(8):
                os.pwrite(fd, bytes([data[at] ^ (1 << bit)]), at)
                batches, scanner = scan_fd(fd, segment, len(data))
                check_prefix(batches, scanner, truth, offsets)
                # Checksums see every single flipped bit, and exactly the entry that holds it.
                assert offsets[len(batches)] <= at < offsets[len(batches) + 1]
                quiet = kind == "unclosed" and at >= last
                assert scanner.outcome == ("torn_tail" if quiet else "corrupt"), (at, bit)
            os.pwrite(fd, data[at:at + 1], at)
        assert scan_fd(fd, segment, len(data))[0] == truth


@pytest.mark.parametrize(("codec", "kind"), CASES)
def test_every_cut_gives_a_prefix_and_a_verdict(codec: str, kind: str) -> None:
    data, segment, truth, offsets = case(codec, kind)
    with memory_file(data) as fd:
        for size in range(len(data) - 1, segment.entries_offset - 1, -1):
            os.ftruncate(fd, size)
            # Without its last byte a segment has no footer: all of them are read as unclosed.
            cut = spec.Segment(segment.header, segment.entries_offset, None, size)
            batches, scanner = scan_fd(fd, cut, size)
            check_prefix(batches, scanner, truth, offsets)
            assert len(batches) == sum(offset <= size for offset in offsets[1:])
            assert scanner.outcome == ("end" if size in offsets else "torn_tail")


@pytest.mark.parametrize(("codec", "kind"), CASES)
def test_a_cut_that_the_reader_was_not_told_of_ends_the_scan(codec: str, kind: str) -> None:
    data, segment, truth, offsets = case(codec, kind)
    with memory_file(data) as fd:
        for size in range(offsets[-1] - 1, segment.entries_offset - 1, -1):
            os.ftruncate(fd, size)
            batches, scanner = scan_fd(fd, segment, len(data))
            check_prefix(batches, scanner, truth, offsets)
            assert scanner.outcome == ("corrupt" if kind == "closed" else "torn_tail")


@pytest.mark.parametrize(("codec", "kind"), CASES)
def test_flips_cuts_and_zeros_agree_with_the_specification(codec: str, kind: str) -> None:
    data, segment, _, _ = case(codec, kind)
    rng = random.Random(f"{codec} {kind}")
    for _ in range(250):
        damaged = bytearray(data)
        begin = rng.randrange(segment.entries_offset, len(data))
        match rng.randrange(4):
            case 0:
                damaged[begin] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[begin:]
            case 2:
                end = min(len(data), begin + rng.randrange(1, 60))
                damaged[begin:end] = bytes(end - begin)
            case _:
                damaged[begin:begin] = rng.randbytes(rng.randrange(1, 40))
        blob = bytes(damaged)
        try:
            known = spec.parse_segment(blob)
        except CorruptionError:
            continue
        expected, outcome = spec.read_batches(blob, known)
        with memory_file(blob) as fd:
            batches, scanner = scan_fd(fd, known, len(blob), target_bytes=rng.choice((64, 1000, 1 << 20)))
        assert batches == [b.data for b in expected] and scanner.offset == outcome.offset
        assert (scanner.outcome == "corrupt") == (outcome.error is not None)
        if outcome.ending is not None:
            assert scanner.outcome == {spec.Ending.FOOTER: "end", spec.Ending.END_OF_FILE: "end",
                                       spec.Ending.ZEROS: "zero_tail", spec.Ending.TORN: "torn_tail"}[outcome.ending]


@pytest.mark.parametrize("kind", ["closed", "unclosed"])
def test_every_flipped_bit_of_header_and_footer_is_read_or_refused_with_a_type(tmp_path: Path, kind: str) -> None:
    data, segment, truth, _ = case("none", kind)
    path = tmp_path / "wal-000000001"
    path.write_bytes(data)
    places = [*range(segment.entries_offset), *range(segment.entries_end, len(data))]
    fd = os.open(path, os.O_RDWR)
    try:
        for at in places:
            for bit in range(8):
                os.pwrite(fd, bytes([data[at] ^ (1 << bit)]), at)
                try:
                    with open_segment(path) as opened:
                        got = [chunk[i] for chunk in opened.scan() for i in range(len(chunk))]
                    # A flip in the header's length or in the footer may hide entries, never make some up.
                    assert all(batch in truth for batch in got)
                except KuduStorageError as error:
                    assert isinstance(error, (CorruptionError, NotImplementedError)) and error.detail
            os.pwrite(fd, data[at:at + 1], at)
    finally:
        os.close(fd)


@pytest.mark.parametrize("codec", CODEC_FOLDERS)
def test_every_cut_file_opens_or_is_refused_with_a_type(tmp_path: Path, codec: str) -> None:
    data, _, truth, _ = case(codec, "closed")
    path = tmp_path / "wal-000000001"
    path.write_bytes(data)
    for size in range(len(data) - 1, -1, -1):
        os.truncate(path, size)
        try:
            with open_segment(path) as opened:
                got = [chunk[i] for chunk in opened.scan() for i in range(len(chunk))]
            assert got == truth[:len(got)]
        except CorruptionError as error:
            assert error.detail


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_every_flipped_bit_inside_a_batch_is_parsed_or_malformed(codec: str) -> None:
    """The parser behind the checksums: bytes that a writer with a bug could have stored."""
    for batch in case(codec, "closed")[2][:4]:
        damaged = bytearray(batch)
        for at in range(len(batch)):
            for bit in range(8):
                damaged[at] = batch[at] ^ (1 << bit)
                with suppress(BadFormat):
                    parse_batch(bytes(damaged))
            damaged[at] = batch[at]


def test_random_batches_never_upset_the_tally() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        data = spec.build_entry(rng.randbytes(rng.randrange(1, 60)), spec.Codec.NONE)
        tally = EntryTally()
        with memory_file(data) as fd:
            chunk = SegmentScanner(fd, first_offset=0, end_offset=len(data), file_size=len(data)).next_chunk()
        assert chunk is not None
        try:
            tally.add(chunk)
        except BadFormat:
            assert tally.entries == 0 and tally.malformed_offset == 0
