"""Golden segments, and small segment files in memory to damage."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kudu_storage._native.segment import SegmentScanner
from kudu_storage.wal import format as spec

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wal"
COUNTS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "counts.json").read_text())
CODEC_FOLDERS = {"none": spec.Codec.NONE, "snappy": spec.Codec.SNAPPY, "lz4": spec.Codec.LZ4, "zlib": spec.Codec.ZLIB}


def golden(name: str) -> Path:
    """The one segment in a golden folder such as "lz4-closed"."""
    (path,) = sorted((GOLDEN / name).glob("wal-*"))
    return path


def shortened(name: str, entry_bytes: int, *, closed: bool) -> bytes:
    """A golden segment with only its first entries, about `entry_bytes` of them, and a footer that fits when closed."""
    data = golden(name).read_bytes()
    segment = spec.parse_segment(data)
    batches, _ = spec.read_batches(data, segment)
    kept = [b for b in batches if b.offset < segment.entries_offset + entry_bytes]
    end = batches[len(kept)].offset if len(kept) < len(batches) else segment.entries_end
    if not closed:
        return data[:end]
    entries = [spec._parse("kudu.log.LogEntryBatchPB", batch.data, "entry").entry for batch in kept]
    return data[:end] + spec.build_footer(spec.footer_of(entries))


@contextmanager
def memory_file(data: bytes) -> Iterator[int]:
    """A descriptor of an anonymous file in memory with these bytes."""
    fd = os.memfd_create("segment")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def scan(data: bytes, *, closed: bool | None = None, target_bytes: int = 1 << 20) -> tuple[list[bytes], SegmentScanner]:
    """All batches of a segment given as bytes, and the finished scanner."""
    segment = spec.parse_segment(data)
    with memory_file(data) as fd:
        return scan_fd(fd, segment, len(data), closed=closed, target_bytes=target_bytes)


def scan_fd(fd: int, segment: spec.Segment, size: int, *, closed: bool | None = None,
            target_bytes: int = 1 << 20) -> tuple[list[bytes], SegmentScanner]:
    """The same for an open file whose header and footer are known."""
    scanner = SegmentScanner(fd, first_offset=segment.entries_offset, end_offset=segment.entries_end, file_size=size,
                             codec=int(segment.codec), v1=segment.entry_header_bytes == 12,
                             closed=segment.footer is not None if closed is None else closed)
    batches: list[bytes] = []
    while (chunk := scanner.next_chunk(target_bytes)) is not None:
        batches += [chunk[i] for i in range(len(chunk))]
    return batches, scanner
