"""`local_replica info`: rowset layout, anchors, and what maintenance would do, of stopped servers."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import stopped
from click.testing import CliRunner, Result
from containers import REPLAY

from kudu_storage.bootstrap.replica_info import ReplicaInfo, replica_info
from kudu_storage.cli.local_replica import local_replica
from kudu_storage.common.hybrid_time import from_micros, to_micros
from kudu_storage.errors import NotFound
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.layout import find_tablet
from kudu_storage.fs.superblock import read_superblock

SERVER = next(s for s in stopped.golden_servers() if s.name == "many-rowsets-part")
TABLET = "6ca1dbc8ce8b4c038aeb42d89b979d08"
WEEK_S = 7 * 24 * 3600


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SERVER.unpack(tmp_path_factory.mktemp("server"))


def run(root: Path, *more: object) -> Result:
    arguments = ["info", TABLET, f"--fs_wal_dir={root / 'wal'}", f"--fs_data_dirs={root / 'data'}", *more]
    return CliRunner().invoke(local_replica, [str(a) for a in arguments])


def look(root: Path, now: float) -> ReplicaInfo:
    with open_block_manager([root / "data"], read_only=True) as blocks:
        return replica_info(find_tablet(root / "wal", TABLET), blocks, now=now)


def test_the_json_tells_layout_anchors_and_plans(root: Path) -> None:
    result = run(root, "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["table"], found["last_durable_mrs_id"], found["problems"]) == ("alt", 8, [])
    assert [(r["id"], r["rows"], r["live_rows"], len(r["redos"]), len(r["undos"])) for r in found["rowsets"]] == \
        [(0, 500, 404, 1, 5), (1, 200, 199, 1, 3), (2, 2, 2, 0, 1), (3, 1, 1, 0, 1), (4, 1, 1, 0, 1)]
    assert found["rowsets"][1]["min_key_text"] == "(int32 k=500)"
    assert 1.3 < found["average_height"] < 1.5
    anchors = {a["owner"]: a for a in found["anchors"]}
    assert [(a["owner"], a["log_index"], a["operations"]) for a in found["anchors"]] == \
        [("store 1/3", 91, 23), ("store 0/5", 94, 23), ("memrowset 9", 97, 8)]
    assert (anchors["store 1/3"]["rowset_id"], anchors["store 1/3"]["dms_id"]) == (1, 3)
    assert (anchors["memrowset 9"]["memrowset_id"], anchors["memrowset 9"]["rowset_id"]) == (9, None)
    assert {p["kind"] for p in found["maintenance"]["possible"]} >= {"flush_memrowset", "flush_deltas", "merge"}
    assert found["maintenance"]["next"]["action"]["reason"] in ("gain", "disk")


def test_the_text_tells_the_same(root: Path) -> None:
    result = run(root)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"Tablet {TABLET} of table alt"
    assert any(line.startswith("Rowsets: 5, 45.2 KiB; a lookup meets 1.42") for line in lines)
    assert any(line.split()[:3] == ["store", "1/3", "91"] for line in lines)
    assert any(line.startswith("  first: ") for line in lines)


def test_anchors_are_as_old_as_their_operations(root: Path) -> None:
    """An hour after the last write every store is due; right after the first one, none is."""
    written = min(a.since for a in look(root, 0.0).facts.anchors)
    early, late = look(root, written + 100), look(root, written + 4000)
    flushes = {o.action.kind: o.candidate.gain for o in early.options if o.action.kind.startswith("flush")}
    assert set(flushes.values()) == {0.0}
    assert {o.candidate.gain for o in late.options if o.action.kind.startswith("flush")} == {1.0}
    assert late.next_plan is not None and late.next_plan.action.kind in ("flush_memrowset", "flush_deltas")
    assert late.next_plan.memory_bytes_freed > 0 and late.next_plan.anchors_freed


def test_history_that_is_old_enough_can_go(root: Path) -> None:
    newest = max(file.max_timestamp for rowset in look(root, 0.0).rowsets for file in rowset.deltas.undos)
    now = to_micros(newest) / 1e6 + WEEK_S + 1
    found = look(root, now)
    assert found.facts.history_mark == pytest.approx(from_micros(int((now - WEEK_S) * 1e6)), abs=1 << 13)
    (undos,) = [p for p in found.plans if p.action.kind == "undo_gc"]
    assert len(undos.action.block_ids) == sum(len(r.deltas.undos) for r in found.rowsets) == 11
    assert undos.removed_bytes > 0 and undos.write_bytes == 0
    assert not any(o.action.kind == "merge" for o in found.options)     # that waits for it


def test_all_tablets_of_all_servers_can_be_looked_at(tmp_path: Path) -> None:
    for server in [*stopped.golden_servers(), *stopped.shared_servers()]:
        root = server.unpack(tmp_path / server.name)
        for tablet in sorted(path.name for path in (root / "wal" / "tablet-meta").iterdir()):
            with open_block_manager([root / "data"], read_only=True) as blocks:
                found = replica_info(find_tablet(root / "wal", tablet), blocks, now=2e9)
            assert not found.problems
            live = {store.rowset_id for store in found.facts.stores if store.rowset_id is not None}
            assert live <= {rowset.id for rowset in found.rowsets}
            assert len(found.plans) == len(found.options)


def test_a_damaged_rowset_is_a_problem_and_the_others_are_shown(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy", symlinks=True)
    found = look(copy, 2e9)
    with open_block_manager([copy / "data"], read_only=True) as blocks:
        block = blocks.open_block(next(iter(found.superblock.message.rowsets)).columns[0].block.id)
        path, offset = block.path, block.offset
        block.close()
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"no column file")
    result = run(copy, "--format", "json")
    assert result.exit_code == 1
    told: dict[str, Any] = json.loads(result.stdout)
    assert [r["id"] for r in told["rowsets"]] == [1, 2, 3, 4]
    assert len(told["problems"]) == 1 and "rowset 0" in told["problems"][0]["detail"]
    assert "Problem: " in run(copy).stdout


def test_a_replica_with_nothing_but_its_superblock_is_told(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / "wal" / "wals" / TABLET)
    result = run(copy, "--format", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["anchors"], [p["kind"] for p in found["problems"]]) == ([], ["no_log"])
    assert "nothing in it is unflushed" in run(copy).stdout
    (copy / "wal" / "tablet-meta" / TABLET).unlink()
    (copy / "wal" / "wals" / TABLET).mkdir()
    assert isinstance(run(copy).exception, NotFound)


@pytest.mark.parametrize("case", sorted(p.name for p in REPLAY.iterdir() if (p / "t1").is_dir()))
def test_logs_without_data_directories_show_their_anchors(case: str) -> None:
    folder = REPLAY / case / "t1"
    for path in sorted((folder / "tablet-meta").iterdir()):
        result = CliRunner().invoke(local_replica, ["info", path.name, str(folder), "--format", "json"])
        found = json.loads(result.stdout)
        superblock = read_superblock(path)
        assert [p["kind"] for p in found["problems"]] == (["flushed_rowsets"] if superblock.rowsets else [])
        durable = {r.id: r.last_durable_dms_id for r in superblock.rowsets}
        for anchor in found["anchors"]:
            if anchor["memrowset_id"] is not None:
                assert anchor["memrowset_id"] > superblock.last_durable_mrs_id
            elif anchor["rowset_id"] is not None:
                assert anchor["dms_id"] > durable[anchor["rowset_id"]]
