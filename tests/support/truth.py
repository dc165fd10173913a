"""Known answers of the stored tablets: their rows as JSON values, written here a second time and plainly."""
from __future__ import annotations

import base64
import datetime
import decimal
import gzip
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures import fixtures_root

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "replay"


@dataclass(frozen=True)
class Replica:
    """One replica of a case: `facts` is its entry in case.json."""

    case: str
    root: Path
    rows_file: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.case}-{self.facts['server']}-{self.facts['tablet'][:6]}"

    @property
    def tablet_id(self) -> str:
        return str(self.facts["tablet"])


def golden_replicas() -> Iterator[Replica]:
    """Those in the repository."""
    for path in sorted(GOLDEN.glob("*/case.json")):
        yield from _replicas(json.loads(path.read_text()), path.parent, "")


def stored_replicas() -> Iterator[Replica]:
    """Those beside the repository that are not in it; none where there is no such folder."""
    root = fixtures_root()
    if root is None or not (root / "kudu-fixtures" / "manifest.json").exists():
        return
    kept = {path.parent.name for path in GOLDEN.glob("*/case.json")}
    folder = root / "kudu-fixtures"
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        if case["case"] not in kept:
            yield from _replicas(case, folder, case["case"])


def _replicas(case: dict[str, Any], folder: Path, below: str) -> Iterator[Replica]:
    files = {t["name"]: folder / t["rows_file"] for t in case["tables"]}
    for facts in case["replicas"]:
        yield Replica(case["case"], folder / below / facts["server"], files[facts["table"]], facts)


def truth_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a truth file."""
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode().splitlines()]


def comparable(rows: list[dict[str, Any]], floats: set[str]) -> list[str]:
    """Rows as texts that are equal when the rows are; `floats` names the 32-bit columns."""
    def cell(name: str, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name in floats:
            return struct.pack("<f", value).hex()
        return float(value).hex() if isinstance(value, float) else value

    return [json.dumps({n: cell(n, v) for n, v in row.items()}, sort_keys=True) for row in rows]


def json_rows(tablet: Any, **scan: Any) -> list[dict[str, Any]]:
    """A tablet's rows in the encoding of the truth files."""
    columns = list(tablet.schema)
    return [{c.name: json_cell(v) for c, v in zip(columns, row, strict=True)} for row in tablet.rows(**scan)]


def float_columns(tablet: Any) -> set[str]:
    return {c.name for c in tablet.schema if c.type.name == "FLOAT"}


def json_cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, datetime.datetime):
        elapsed = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    if isinstance(value, datetime.date):
        return (value - datetime.date(1970, 1, 1)).days
    return value


def copy_replica(source: Path, target: Path) -> Path:
    """A writable copy of a replica's files."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
