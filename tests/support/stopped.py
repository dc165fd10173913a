"""Whole directories of stopped real servers, with the rows and checksums that the servers themselves told."""
from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures import fixtures_root

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "replica"


@dataclass(frozen=True)
class StoppedServer:
    """A fixture: an archive, and its entry in the manifest."""

    name: str
    archive: Path
    facts: dict[str, Any]

    @property
    def checksums(self) -> dict[str, int]:
        return dict(self.facts["checksums"])

    def snapshots(self) -> Iterator[tuple[int, str, int]]:
        """(snapshot, tablet id, checksum)."""
        for at, totals in self.facts["snapshots"].items():
            for tablet, total in totals.items():
                yield int(at), tablet, total

    def unpack(self, target: Path) -> Path:
        """The folder with `data`, `wal` and `truth`. Raises OSError where the archive cannot be unpacked here."""
        target.mkdir(parents=True, exist_ok=True)
        if self.archive.suffix == ".zst":
            done = subprocess.run(["tar", "--zstd", "-xf", self.archive, "-C", target], capture_output=True, text=True)
            if done.returncode:
                raise OSError(done.stderr)
        else:
            with tarfile.open(self.archive) as archive:
                archive.extractall(target, filter="data")
        return target


def golden_servers() -> list[StoppedServer]:
    """Those in the repository."""
    return list(_servers(GOLDEN / "manifest.json"))


def shared_servers() -> list[StoppedServer]:
    """Those beside it that are not in it; none where there is no such folder, or no zstd."""
    root = fixtures_root()
    if root is None or shutil.which("zstd") is None:
        return []
    kept = {server.name for server in golden_servers()}
    return [s for s in _servers(root / "kudu-fixtures-disk" / "manifest.json") if s.name not in kept]


def _servers(manifest: Path) -> Iterator[StoppedServer]:
    if not manifest.exists():
        return
    for name, facts in sorted(json.loads(manifest.read_text(encoding="utf-8"))["fixtures"].items()):
        yield StoppedServer(name, manifest.parent / facts["file"], facts)


# -- truth -------------------------------------------------------------------------------------------------------------
def truth_lines(path: Path) -> list[str]:
    """The rows of a truth file, sorted."""
    return sorted(path.read_text(encoding="utf-8").splitlines())


def row_lines(tablet: Any) -> Iterator[str]:
    """A tablet's rows as the truth files have them: raw cells, written here a second time and plainly."""
    columns = list(tablet.schema)
    for block in tablet.scan():
        for row in range(len(block)):
            yield "\t".join(_cell(c.type.name, cell) for c, cell in zip(columns, block.cells(row), strict=True))


def _cell(kind: str, cell: bytes | None) -> str:
    if cell is None:
        return "\\N"
    if kind in ("STRING", "BINARY", "VARCHAR"):
        return cell.hex()
    if kind == "BOOL":
        return "true" if cell != b"\0" else "false"
    if kind == "FLOAT":
        return f"{struct.unpack('<I', cell)[0]:x}"
    if kind == "DOUBLE":
        return f"{struct.unpack('<Q', cell)[0]:x}"
    return str(int.from_bytes(cell, "little", signed=True))
