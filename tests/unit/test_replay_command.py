"""`kudu-storage replay`: what scripts rely on."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from truth import GOLDEN, copy_replica, truth_rows

from kudu_storage.cli.flags import to_gnu_spelling
from kudu_storage.cli.main import root

S01 = GOLDEN / "s01_all_types_lz4" / "t1"
S06 = GOLDEN / "s06_partitioned" / "t1"
S09 = GOLDEN / "s09_autoincrement_immutable" / "t1"
CRASHED = GOLDEN / "s14_replicate_without_commit" / "crashed"
FIELDS = {
    "tablet_id", "table", "replica_uuid", "last_opid", "committed_index", "current_term", "voted_for", "ops_by_type",
    "pending", "replaced", "rows", "checksum", "flushed_rowsets", "segments", "problems", "seconds",
}
SEGMENT_FIELDS = {"sequence", "entries", "replicates", "commits", "bytes", "codec", "footer", "min_index", "max_index",
                  "status", "detail", "seconds"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(root, to_gnu_spelling(["replay", *map(str, arguments)]))


def test_without_format_and_out_only_the_report_is_printed() -> None:
    result = run(S01)
    assert result.exit_code == 0
    assert result.stdout.startswith("Tablet ")
    assert '{"id"' not in result.stdout


def test_report_json_is_one_object_with_the_promised_fields() -> None:
    result = run(S01, "--report", "json")
    report = json.loads(result.stdout)
    assert set(report) >= FIELDS
    assert all(set(s) >= SEGMENT_FIELDS for s in report["segments"])
    assert report["replica_uuid"] is None
    assert isinstance(report["checksum"], int)


def test_report_json_prints_one_object_a_tablet() -> None:
    lines = run(S06, "-report=json").stdout.splitlines()
    assert len(lines) == len(list((S06 / "wals").iterdir()))
    assert len({json.loads(line)["tablet_id"] for line in lines}) == len(lines)


def test_out_holds_the_rows_and_standard_output_only_the_report(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = run(S06, "--format", "jsonl", "--out", out, "--report", "json")
    assert result.exit_code == 0
    assert all("tablet_id" in json.loads(line) for line in result.stdout.splitlines())
    shown = [json.loads(line) for line in out.read_text().split("\n") if line]
    # By primary key over all six tablets.
    assert shown == truth_rows(GOLDEN / "s06_partitioned" / "rows" / "p.jsonl.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("suffix", ["csv", "arrow", "parquet"])
def test_the_format_follows_from_the_name_of_the_file(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"rows.{suffix}"
    assert run(S01, "--out", out).exit_code == 0
    if suffix == "csv":
        assert out.read_text().count("\n") > 182
    elif suffix == "arrow":
        pyarrow = pytest.importorskip("pyarrow")
        assert pyarrow.ipc.open_file(out).read_all().num_rows == 182
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(out).num_rows == 182


def test_rows_to_standard_output_leave_the_report_to_standard_error() -> None:
    result = run(S01, "--format", "jsonl")
    assert len([json.loads(line) for line in result.stdout.split("\n") if line]) == 182
    assert "Tablet" in result.stderr


def test_rows_and_a_json_report_do_not_share_standard_output() -> None:
    assert run(S01, "--format", "jsonl", "--report", "json").exit_code == 2


def test_tablets_of_several_tables_do_not_go_into_one_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["replay", str(S09), "--out", str(tmp_path / "x.jsonl")])
    assert result.exit_code != 0
    assert "tables" in str(result.exception)


def test_a_named_tablet_is_replayed_alone() -> None:
    tablet = sorted((S06 / "wals").iterdir())[2].name
    assert json.loads(run(S06, tablet, "--report", "json").stdout)["tablet_id"] == tablet


def test_one_segment_folder_is_enough() -> None:
    folder = next((S01 / "wals").iterdir())
    assert json.loads(run(folder, "--report", "json").stdout)["rows"] == 182


def test_include_pending_applies_what_has_no_commit() -> None:
    assert json.loads(run(CRASHED, "--report", "json").stdout)["rows"] == 49
    assert json.loads(run(CRASHED, "--include-pending", "--report", "json").stdout)["rows"] == 50


def test_at_shows_operations_with_a_lower_timestamp() -> None:
    assert json.loads(run(S01, "--at", "1", "--report", "json").stdout)["rows"] == 0
    assert json.loads(run(S01, "--at", "2099-01-01T00:00:00Z", "--report", "json").stdout)["rows"] == 182
    assert run(S01, "--at", "yesterday").exit_code == 2
    assert run(S01, "--at", "2999-01-01").exit_code == 2


def test_exit_code_1_says_that_a_problem_was_found(tmp_path: Path) -> None:
    copy = copy_replica(S01, tmp_path / "replica")
    shutil.rmtree(copy / "consensus-meta")
    result = run(copy, "--report", "json")
    assert result.exit_code == 1
    assert [p["kind"] for p in json.loads(result.stdout)["problems"]] == ["missing_metadata"]


def test_a_folder_without_tablets_is_a_usage_error_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "kudu_storage", "replay", str(tmp_path)], capture_output=True,
                          text=True)
    assert done.returncode == 2
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_recovery_folder_of_a_restart_is_the_log(tmp_path: Path) -> None:
    copy = copy_replica(S01, tmp_path / "replica")
    wals = next((copy / "wals").iterdir())
    wals.rename(wals.with_name(wals.name + ".recovery"))
    wals.mkdir()
    assert json.loads(run(copy, "--report", "json").stdout)["rows"] == 182


def test_the_replica_is_left_as_it_was(tmp_path: Path) -> None:
    copy = copy_replica(S01, tmp_path / "replica")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.rglob("*") if p.is_file()}
    run(copy, "--out", tmp_path / "rows.jsonl")
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("out", [".", "missing/rows.jsonl"])
def test_a_place_where_no_file_can_be_is_a_usage_error_before_the_replay(tmp_path: Path, out: str) -> None:
    result = run(S01, "--out", tmp_path / out)
    assert result.exit_code == 2
    assert "Tablet " not in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_line_and_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "kudu_storage", "replay", str(S01), "--out", "/dev/full"],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "No space left" in done.stderr and "Traceback" not in done.stderr
