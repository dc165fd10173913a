"""`replay --fs_data_dirs`, `local_replica export` and `dump rowset` over a stopped server's directory."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import stopped
from click.testing import CliRunner, Result

from kudu_storage.cli.local_replica import local_replica
from kudu_storage.cli.replay import replay
from kudu_storage.errors import NotFound

SERVER = next(s for s in stopped.golden_servers() if s.name == "many-rowsets-part")
TABLET = "6ca1dbc8ce8b4c038aeb42d89b979d08"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SERVER.unpack(tmp_path_factory.mktemp("server"))


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]


def test_replay_with_data_dirs_shows_the_whole_replica_at_a_snapshot(root: Path, tmp_path: Path) -> None:
    at, _, total = next(s for s in SERVER.snapshots() if s[1] == TABLET)
    out = tmp_path / "rows.jsonl"
    result = run(replay, root / "wal", TABLET, f"--fs_data_dirs={root / 'data'}", "--at", at, "--report", "json",
                 "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["checksum"] == total and report["problems"] == []
    assert len(out.read_text().splitlines()) == report["rows"] > 0


def test_replay_without_data_dirs_still_says_that_part_is_in_flushed_stores(root: Path) -> None:
    result = run(replay, root / "wal", TABLET, "--report", "json", "--quiet")
    assert result.exit_code == 1
    assert [p["kind"] for p in json.loads(result.stdout)["problems"]] == ["flushed_rowsets"]


def test_all_tablets_of_one_table_are_merged_by_key(root: Path, tmp_path: Path) -> None:
    (root / "one").mkdir()
    for part in ("wals", "tablet-meta", "consensus-meta"):
        (root / "one" / part).mkdir()
        for path in (root / "wal" / part).iterdir():
            if path.name != TABLET:
                (root / "one" / part / path.name).symlink_to(path)
    out = tmp_path / "rows.jsonl"
    result = run(replay, root / "one", f"--fs_data_dirs={root / 'data'}", "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    keys = [(r["k1"], r["k2"], r["k3"]) for r in map(json.loads, out.read_text().splitlines())]
    assert keys == sorted(set(keys)) and len(keys) == SERVER.facts["tables"]["alltypes"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_export_writes_all_rows(root: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"rows.{suffix}"
    result = run(local_replica, "export", TABLET, f"--fs_wal_dir={root / 'wal'}", f"--fs_data_dirs={root / 'data'}",
                 "--out", out, "--columns", "c,k")
    assert result.exit_code == 0, result.output
    rows = SERVER.facts["tables"]["alt"]
    if suffix == "csv":
        lines = out.read_text().splitlines()
        assert lines[0] == "c,k" and len(lines) == rows + 1
        return
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = feather.read_table(out) if suffix == "arrow" else parquet.read_table(out)
    assert table.num_rows == rows and table.column_names == ["c", "k"]
    assert table.column("k").to_pylist() == sorted(table.column("k").to_pylist())


def test_export_says_beforehand_that_it_cannot_write_there(root: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none" / "rows.csv"):
        result = run(local_replica, "export", TABLET, f"--fs_wal_dir={root / 'wal'}", f"--fs_data_dirs={root / 'data'}",
                     "--out", out)
        assert result.exit_code == 2 and "is a folder, or in none that exists" in result.output


def test_data_that_lies_elsewhere_is_asked_for(root: Path) -> None:
    result = run(local_replica, "export", TABLET, f"--fs_wal_dir={root / 'wal'}")
    assert isinstance(result.exception, NotFound) and "--fs_data_dirs" in str(result.exception)


def test_dump_rowset_prints_base_cells_with_their_deltas(root: Path) -> None:
    result = run(local_replica, "dump", "rowset", TABLET, f"--fs_wal_dir={root / 'wal'}",
                 f"--fs_data_dirs={root / 'data'}", "--dump_metadata=false", "--nrows=1", "--rowset_index=0")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        'RowIdxInBlock: 0; Base: (int32 k=0, string bb_dict=NULL, int64 c=7, string d=NULL, string a="dflt"); Undo '
        "Mutations: [@7354143595127967744(SET [unknown column id 1]=\\x94\\xdf\\xe5\\xff), "
        "@7354143388894580736(DELETE)]; Redo Mutations: [];\n")


def test_dump_rowset_names_the_rowsets_there_are(root: Path) -> None:
    result = run(local_replica, "dump", "rowset", TABLET, f"--fs_wal_dir={root / 'wal'}",
                 f"--fs_data_dirs={root / 'data'}", "--rowset_index=99")
    assert result.exit_code != 0 and "0, 1" in str(result.exception)
