"""Logs for the benchmarks, built from real batches without Python per row at measuring time."""
from __future__ import annotations

import struct
from pathlib import Path

from kudu_storage._native.codec import compress
from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.segment import SegmentScanner
from kudu_storage.protos import message_class

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "wal"
CODECS = {"none": 1, "snappy": 2, "lz4": 3, "zlib": 4}


def real_batches() -> tuple[list[bytes], bytes]:
    """(LogEntryBatchPBs, serialized header) of a real segment without compression."""
    from kudu_storage.wal.reader import open_segment

    with open_segment(GOLDEN / "none-closed" / "wal-000000001") as segment:
        batches = [chunk[i] for chunk in segment.scan() for i in range(len(chunk))]
        return batches, segment.header.SerializeToString()


def build_log(path: Path, size_bytes: int, codec: str = "none", batch_bytes: int = 0) -> Path:
    """A segment file of about `size_bytes` (decompressed): the real batches again and again, joined to batches of at
    least `batch_bytes` (a LogEntryBatchPB followed by another is one with the entries of both)."""
    batches, header_bytes = real_batches()
    header = message_class("kudu.log.LogSegmentHeaderPB").FromString(header_bytes)
    header.ClearField("compression_codec")  # type: ignore[arg-type]
    if codec != "none":
        header.compression_codec = CODECS[codec]  # type: ignore[attr-defined]
    raw = header.SerializeToString()
    joined: list[bytes] = []
    part = b""
    for batch in batches * max(1, batch_bytes // sum(map(len, batches)) + 1):
        part += batch
        if len(part) >= batch_bytes:
            joined.append(part)
            part = b""
    entries = b"".join(_entry(batch, CODECS[codec]) for batch in joined)
    rounds = max(1, size_bytes // sum(map(len, joined)))
    with open(path, "wb") as file:
        file.write(b"kudulogf" + struct.pack("<I", len(raw)) + raw)
        for _ in range(rounds):
            file.write(entries)
    return path


def _entry(batch: bytes, codec: int) -> bytes:
    stored = compress(batch, codec)
    start = struct.pack("<III", len(stored), len(batch), crc32c(stored))
    return start + struct.pack("<I", crc32c(start)) + stored


def scan_all(scanner: SegmentScanner) -> int:
    """Number of batches."""
    batches = 0
    while (chunk := scanner.next_chunk()) is not None:
        batches += len(chunk)
    return batches
