"""Segments that our specification writes, read by the real `kudu wal dump`; and our dump against it."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import oracle
import pytest
from random_log import random_log

from kudu_storage.errors import KuduStorageError
from kudu_storage.wal import format as spec
from kudu_storage.wal.dump import dump_segment


def real_dump(kudu: oracle.KuduBinaries, path: Path, mode: str, truncate: int) -> tuple[int, bytes]:
    """Exit code and standard output."""
    import subprocess

    done = subprocess.run([kudu.program("kudu"), "wal", "dump", f"-print_entries={mode}", f"-truncate_data={truncate}",
                           str(path)], env=kudu.environment(), capture_output=True, timeout=120, check=False)
    return done.returncode, done.stdout


def our_dump(path: Path, mode: str, truncate: int) -> tuple[int, bytes]:
    out = io.BytesIO()
    try:
        dump_segment(path, out, print_entries=mode, truncate_data=truncate)
    except KuduStorageError:
        return 1, out.getvalue()
    return 0, out.getvalue()


def one_segment(path: Path, codec: spec.Codec, closed: bool, **header_fields: Any) -> int:
    """A whole random log as one segment; returns the number of its entries."""
    log = random_log(12)
    header = spec.parse_segment(log.segments[0]).header
    for name, value in header_fields.items():
        setattr(header, name, value)
    batches = [[entry] for entry in log.entries]
    path.write_bytes(spec.build_segment(header, batches, codec, footer=spec.footer_of(batches, 1) if closed else None))
    return len(log.entries)


@pytest.mark.parametrize("codec", list(spec.Codec))
@pytest.mark.parametrize("closed", [False, True])
def test_the_real_tool_reads_what_the_specification_writes(kudu: oracle.KuduBinaries, tmp_path: Path,
                                                           codec: spec.Codec, closed: bool) -> None:
    path = tmp_path / "wal-000000001"
    count = one_segment(path, codec, closed)
    code, text = real_dump(kudu, path, "id", 0)
    assert code == 0
    assert text.count(b"REPLICATE ") + text.count(b"COMMIT ") == count
    assert (b"Footer:" in text) == closed


def test_the_real_tool_reads_entry_headers_of_old_servers(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    path = tmp_path / "wal-000000001"
    one_segment(path, spec.Codec.NONE, True, DEPRECATED_major_version=1, DEPRECATED_minor_version=0)
    assert real_dump(kudu, path, "decoded", 0) == our_dump(path, "decoded", 0)


@pytest.mark.parametrize("seed", range(6))
def test_random_logs_dump_as_the_real_tool_dumps_them(kudu: oracle.KuduBinaries, tmp_path: Path, seed: int) -> None:
    for i, data in enumerate(random_log(seed).segments):
        path = tmp_path / f"wal-{i + 1:09d}"
        path.write_bytes(data)
        for mode, truncate in (("decoded", 100), ("pb", 7), ("id", 0)):
            assert our_dump(path, mode, truncate) == real_dump(kudu, path, mode, truncate)


def test_a_segment_cut_anywhere_dumps_as_the_real_tool_dumps_it(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    whole = next(log for log in map(random_log, range(100)) if len(log.segments) > 1).segments[0]
    path = tmp_path / "wal-000000001"
    for end in range(13, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        assert our_dump(path, "id", 0) == real_dump(kudu, path, "id", 0), f"cut at {end}"
