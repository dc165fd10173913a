"""Scan MB/s and CRC GB/s (pytest-benchmark). The ratio to a plain C loop is measured by scan_vs_c.py, interleaved."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from logs import CODECS, build_log, scan_all
from scan_vs_c import build_c

from kudu_storage._native import crc32c
from kudu_storage._native.entry import EntryTally
from kudu_storage.wal.reader import open_segment

SIZE_BYTES = 64 << 20


@pytest.mark.parametrize("name", crc32c.engines())
def test_crc32c_of_1_mib(benchmark: Any, name: str) -> None:
    data = os.urandom(1 << 20)
    before = crc32c.use_engine(name)
    try:
        benchmark(crc32c.crc32c, data)
    finally:
        crc32c.use_engine(before)
    benchmark.extra_info["GB/s"] = len(data) / benchmark.stats["median"] / 1e9


@pytest.mark.parametrize("codec", CODECS)
def test_scan(benchmark: Any, tmp_path: Path, codec: str) -> None:
    with open_segment(build_log(tmp_path / "wal-000000001", SIZE_BYTES, codec)) as segment:
        batches = benchmark(lambda: scan_all(segment.scanner()))
        assert batches > 0
        benchmark.extra_info["MB/s"] = segment.file_size / benchmark.stats["median"] / 1e6


def test_scan_by_plain_c(benchmark: Any, tmp_path: Path) -> None:
    import ctypes

    library, walked = build_c(tmp_path), ctypes.c_int64()
    with open_segment(build_log(tmp_path / "wal-000000001", SIZE_BYTES)) as segment:
        entries = benchmark(lambda: library.walk(segment.fd, segment.first_offset, segment.file_size,
                                                 ctypes.byref(walked)))
        assert entries == scan_all(segment.scanner())
        benchmark.extra_info["MB/s"] = walked.value / benchmark.stats["median"] / 1e6


def test_scan_and_parse_entries(benchmark: Any, tmp_path: Path) -> None:
    with open_segment(build_log(tmp_path / "wal-000000001", SIZE_BYTES)) as segment:
        def run() -> int:
            tally, scanner = EntryTally(), segment.scanner()
            while (chunk := scanner.next_chunk()) is not None:
                tally.add(chunk)
            return tally.entries

        assert benchmark(run) > 0
        benchmark.extra_info["MB/s"] = segment.file_size / benchmark.stats["median"] / 1e6
