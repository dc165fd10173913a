"""Segments that our specification writes, read by the real `kudu wal dump`; and our dump against it."""
from __future__ import annotations

import io
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from random_log import random_log

from kudu_storage.common import types
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import KuduStorageError
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.dump import dump_segment


def real_dump(kudu: oracle.KuduBinaries, path: Path, mode: str, truncate: int) -> tuple[int, bytes]:
    """Exit code and standard output."""
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


def any_cell(rng: random.Random, kind: types.ColumnType) -> bytes:
    if kind.is_binary:
        return rng.randbytes(rng.randrange(12))
    if kind.name == "BOOL":
        return bytes([rng.randrange(2)])
    # All lengths of numbers, so that the edges between their printed forms are met.
    number = rng.getrandbits(rng.randrange(1, 8 * kind.width_bytes)) * rng.choice([1, -1])
    return rng.choice([number.to_bytes(kind.width_bytes, "little", signed=True), rng.randbytes(kind.width_bytes)])


def test_cells_of_any_bits_print_as_the_real_tool_prints_them(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    rng = random.Random(8)
    columns = [ColumnSchema("k", types.BY_NAME["INT32"], is_key=True)]
    for name, kind in types.BY_NAME.items():
        precision = {"DECIMAL32": 9, "DECIMAL64": 18, "DECIMAL128": 38}.get(name, 0)
        columns.append(ColumnSchema(f"c_{name}", kind, precision=precision, length=50 if name == "VARCHAR" else 0))
    client = Schema(tuple(columns))
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=b"t", sequence_number=1)
    Schema(tuple(replace(c, id=i) for i, c in enumerate(columns))).to_pb(header.schema)
    entry: Any = message_class("kudu.log.LogEntryPB")(type=1)
    entry.replicate.id.term, entry.replicate.id.index = 1, 1
    entry.replicate.timestamp, entry.replicate.op_type = 1, 3
    request = entry.replicate.write_request
    request.tablet_id = b"t"
    client.to_pb(request.schema)
    rows = [(RowOp.INSERT, {i: any_cell(rng, c.type) for i, c in enumerate(columns)}) for _ in range(4000)]
    request.row_operations.rows, request.row_operations.indirect_data = encode_row_operations(rows, client)
    path = tmp_path / "wal-000000001"
    path.write_bytes(spec.build_segment(header, [[entry]]))
    ours, real = our_dump(path, "decoded", 0), real_dump(kudu, path, "decoded", 0)
    different = [(a, b) for a, b in zip(ours[1].split(b"\n"), real[1].split(b"\n"), strict=True) if a != b]
    assert different == []
    assert ours == real
