"""`wal dump` against what the real tool printed for every stored segment of real servers.

The stored texts were made by `kudu wal dump -print_entries=MODE -truncate_data=0` of Kudu 1.18.1.
"""
from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root

from kudu_storage.errors import KuduStorageError
from kudu_storage.wal.dump import dump_segment

ROOT = fixtures_root()
FIXTURES = ROOT / "kudu-fixtures" if ROOT is not None else None
pytestmark = pytest.mark.skipif(FIXTURES is None, reason="no stored tablets of real servers (KUDU_STORAGE_SHARED)")


def stored_dumps() -> list[Path]:
    return sorted(FIXTURES.glob("*/truth/dumps/*/*/wal-*.txt*")) if FIXTURES is not None else []


def name_of(path: Path) -> str:
    case, _, _, server, tablet, file = path.parts[-6:]
    return f"{case.split('_')[0]}-{server}-{tablet[:6]}-{file.split('.txt')[0]}"


@pytest.mark.parametrize("stored", stored_dumps(), ids=name_of)
def test_dump_is_the_real_tools_byte_for_byte(stored: Path) -> None:
    case, _, _, server, tablet, file = stored.parts[-6:]
    segment, mode = file.split(".")[:2]
    wanted = stored.read_bytes()
    out = io.BytesIO()
    dump_segment(stored.parents[4] / server / "wals" / tablet / segment, out, print_entries=mode, truncate_data=0)
    assert out.getvalue() == (gzip.decompress(wanted) if stored.suffix == ".gz" else wanted), case


def damages() -> list[tuple[str, str, dict[str, Any]]]:
    if FIXTURES is None:
        return []
    stored = json.loads((FIXTURES / "damaged" / "damage.json").read_text())["damages"]
    return [(d["name"], file, verdict) for d in stored for file, verdict in d["tool"].items() if "/wal-" in file]


@pytest.mark.parametrize(("name", "file", "verdict"), damages(), ids=[d[0] for d in damages()])
def test_a_damaged_segment_prints_the_same_entries_and_fails_when_the_real_tool_fails(
        name: str, file: str, verdict: dict[str, Any]) -> None:
    assert FIXTURES is not None
    out = io.BytesIO()
    try:
        dump_segment(FIXTURES / "damaged" / name / file, out, print_entries="id", print_meta=False)
        code = 0
    except KuduStorageError:
        code = 1
    lines = out.getvalue().decode().splitlines()
    assert (code, len(lines)) == (verdict["rc"], verdict["entries_printed"])
    if verdict.get("last_entry"):
        kind, opid = verdict["last_entry"].split()
        assert lines[-1].startswith(f"{opid}@" if kind == "R" else f"COMMIT {opid}")
