"""Flipped bits in any file of a replica: found and named, or harmless; never a wrong row, never a crash.

Each flip is undone before the next one. KUDU_STORAGE_FLIPS sets how many there are for each tablet,
KUDU_STORAGE_SEED which.
"""
from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
import stopped

from kudu_storage.bootstrap.log_replay import Replay, replay
from kudu_storage.errors import CorruptionError, InternalError, KuduStorageError
from kudu_storage.fs.block_references import live_references
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.tablet.replayed import ReplayedTablet

FLIPS = int(os.environ.get("KUDU_STORAGE_FLIPS", "250"))
SEED = int(os.environ.get("KUDU_STORAGE_SEED", "20"))
TABLETS = [
    ("many-rowsets-part", "6ca1dbc8ce8b4c038aeb42d89b979d08"),
    ("many-rowsets-part", "fa3bb3e8e5ca43bfa61dc1926225081c"),
    ("leader-pending-kill9", "812f094f529e4ee1b3213cb926cd0519"),
    ("file-bm-clean", "6e1fcc878cc94a1394006db199ddad71"),
]


def read(root: Path, tablet: str) -> Replay:
    return replay(root / "wal", tablet, data_dirs=[root / "data"])


def flip(path: Path, offset: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def places(root: Path, tablet: str, chosen: random.Random) -> list[tuple[Path, int, int]]:
    """Bits of the tablet's blocks, of its log and metadata, and of all other files; most where something is written."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.stat().st_size and "truth" not in p.parts]
    own = [(p, 0, p.stat().st_size) for p in files if tablet in str(p)]
    metadata = root / "wal" / "tablet-meta" / tablet
    with open_block_manager([root / "data"], read_only=True) as manager:
        opened = [manager.open_block(r.block_id) for r in live_references(read_superblock(metadata).message)]
        blocks = [(Path(block.path), block.offset, block.length) for block in opened]
    found = []
    for _ in range(FLIPS):
        kind = chosen.random()
        whole = chosen.choice(files)
        path, start, size = chosen.choice(blocks) if kind < 0.5 else chosen.choice(own) if kind < 0.75 else \
            (whole, 0, whole.stat().st_size)
        data = path.read_bytes()
        offset = start + chosen.randrange(size)
        for _ in range(1000):
            if data[offset]:
                break
            offset = start + chosen.randrange(size)
        found.append((path, offset, chosen.randrange(8)))
    return found


@pytest.mark.parametrize(("name", "tablet"), TABLETS)
def test_a_flipped_bit_is_named_or_harmless(name: str, tablet: str, tmp_path: Path) -> None:
    server = next(s for s in stopped.golden_servers() if s.name == name)
    root = server.unpack(tmp_path / name)
    sound = read(root, tablet)
    assert sound.tablet is not None and sound.report.problems == []
    truth = sorted(stopped.row_lines(sound.tablet))
    older = next((at for at, other, _ in server.snapshots() if other == tablet), None)
    fates: Counter[str] = Counter()
    for path, offset, bit in places(root, tablet, random.Random(SEED)):
        flip(path, offset, bit)
        try:
            fates[fate(root, tablet, sound, truth, path, older)] += 1
        except AssertionError as error:
            raise AssertionError(f"{path} offset {offset} bit {bit}: {error}") from error
        finally:
            flip(path, offset, bit)
    assert sorted(stopped.row_lines(read(root, tablet).tablet)) == truth
    assert fates["named"] > FLIPS // 3 and fates["harmless"] > FLIPS // 100, fates


def older_is_sound(found: ReplayedTablet, sound: ReplayedTablet | None, at: int, path: Path) -> bool:
    """UNDO files are only read at an older snapshot."""
    assert sound is not None
    try:
        return found.checksum(at=at) == sound.checksum(at=at)
    except CorruptionError as error:
        assert path.name in str(error), f"not named: {error}"
        return True


def fate(root: Path, tablet: str, sound: Replay, truth: list[str], path: Path, older: int | None) -> str:
    try:
        found = read(root, tablet)
    except InternalError:
        raise
    except KuduStorageError as error:
        assert path.name in str(error) or path.stem in str(error), f"not named: {error}"
        return "named"
    if found.report.problems and found.tablet is None:
        return "named"
    assert found.tablet is not None
    if older is not None and not older_is_sound(found.tablet, sound.tablet, older, path):
        assert found.report.problems, "other rows at an older snapshot, and no word of it"
    rows = sorted(stopped.row_lines(found.tablet))
    cut = bool(found.report.problems) or statuses(found) != statuses(sound)
    if rows == truth:
        return "named" if cut else "harmless"
    # The log cannot be trusted to its end: the rows are those of an earlier moment, all of them.
    assert cut, "other rows, and no word of it"
    assert sound.tablet is not None
    if rows:
        assert found.report.applied_opid != sound.report.applied_opid
        assert rows == sorted(stopped.row_lines(_At(sound.tablet, found.report.applied_timestamp + 1)))
    return "named"


def statuses(result: Replay) -> list[str]:
    return [segment.status for segment in result.report.segments]


class _At:
    """A tablet at an earlier snapshot."""

    def __init__(self, tablet: object, at: int) -> None:
        self._tablet, self._at = tablet, at
        self.schema = tablet.schema  # type: ignore[attr-defined]

    def scan(self) -> object:
        return self._tablet.scan(at=self._at)  # type: ignore[attr-defined]
