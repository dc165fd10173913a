"""Data directories that real servers left, against what the real tool says of their blocks."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from kudu_storage.fs.blocks import open_block_manager

GOLDEN = Path(__file__).parent / "blocks"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("kind", ["log", "file"])
def test_live_blocks_and_their_bytes_are_those_that_the_real_tool_sees(kind: str, read_only: bool,
                                                                      tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / kind, tmp_path / kind)
    with open_block_manager([tmp_path / kind], read_only=read_only) as manager:
        found = {}
        for block_id, length in manager.live_blocks().items():
            with manager.open_block(block_id) as block:
                found[str(block_id)] = {"bytes": length, "sha256": hashlib.sha256(block.read()).hexdigest()}
    assert found == EXPECTED[kind]


def test_reading_leaves_every_byte_as_it_was(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "log", tmp_path / "log")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "log/data").iterdir()}
    with open_block_manager([tmp_path / "log"], read_only=True) as manager:
        assert len(manager.live_blocks()) == len(EXPECTED["log"])
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "log/data").iterdir()} == before


def test_ids_go_on_behind_the_highest_that_was_recorded(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "log", tmp_path / "log")
    with open_block_manager([tmp_path / "log"]) as manager:
        assert manager.create_block().id == 23
        manager.delete_blocks([22])
    with open_block_manager([tmp_path / "log"]) as manager:
        assert manager.create_block().id == 23
