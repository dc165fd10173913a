"""The oracle itself works: Kudu's tool runs, a small cluster lives and dies, a server opens a stored replica."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import oracle
import pytest
from fixtures import fixtures_root

CASE = "s10_concurrent_writers"


@pytest.fixture
def replica() -> Path:
    """One stored replica, `wals/` and its neighbours."""
    root = fixtures_root()
    if root is None or not (root / "kudu-fixtures" / CASE / "t1").is_dir():
        pytest.skip(f"needs the stored Kudu replicas (kudu-fixtures/{CASE}); set KUDU_STORAGE_SHARED to their folder")
    return root / "kudu-fixtures" / CASE / "t1"


def _truth(replica: Path) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((replica.parent / "truth" / "truth.json").read_text())
    return truth


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that name the folder, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in command and "kudu-" in command:
            found.append(command)
    return found


def test_wal_dump_prints_the_stored_segments_as_recorded(kudu: oracle.KuduBinaries, replica: Path) -> None:
    (segments,) = (replica / "wals").iterdir()
    dumps = replica.parent / "truth" / "dumps" / "t1" / segments.name
    for segment in sorted(segments.glob("wal-*")):
        done = kudu.run("wal", "dump", "-print_entries=id", "-truncate_data=0", segment)
        assert done.returncode == 0, done.stderr
        assert done.stdout == (dumps / f"{segment.name}.id.txt").read_text()


def test_cluster_takes_rows_and_leaves_no_process_behind(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    with oracle.MiniCluster(kudu, tmp_path, tservers=1) as cluster:
        pids = [server.pid for server in cluster.servers]
        assert all(map(_is_running, pids))
        cluster.loadgen("-num_threads=1", "-num_rows_per_thread=100", "-keep_auto_table",
                        "-table_num_hash_partitions=2")
        (table,) = cluster.table_names()
        assert "PRIMARY KEY (key)" in cluster.describe(table)
        assert set(cluster.checksums()) == set(cluster.tablet_ids(table))
        assert len(cluster.tablet_ids(table)) == 2
    assert not any(map(_is_running, pids))
    assert _processes_in(tmp_path) == []


def test_killed_cluster_comes_back_with_its_rows(one_server_cluster: oracle.MiniCluster) -> None:
    cluster = one_server_cluster
    cluster.create_table("t", [{"column_name": "key", "column_type": "INT64"}], ["key"])
    cluster.loadgen("-table_name=t", "-num_threads=1", "-num_rows_per_thread=50")
    before = cluster.checksums()
    cluster.kill()
    cluster.start()
    assert before and cluster.checksums() == before


def test_failed_start_reports_the_log_and_leaves_no_process(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    with pytest.raises(oracle.OracleError, match="no_such_flag"), \
            oracle.MiniCluster(kudu, tmp_path, tserver_flags=["--no_such_flag=1"]):
        pass
    assert _processes_in(tmp_path) == []


def test_server_on_stored_replica_bootstraps_as_recorded(
        kudu: oracle.KuduBinaries, replica: Path, tmp_path: Path) -> None:
    truth = _truth(replica)
    (tablet,) = truth["tables"][0]["tablets"]
    recorded = "\n".join("I20250101 00:00:00.000000  1 " + line for line in tablet["files"]["t1"]["real_bootstrap"])
    expected = oracle.parse_bootstrap_log(recorded, tablet["tablet_id"])
    assert expected.complete and expected.stats["read"] == 321
    stored = {path: path.read_bytes() for path in replica.rglob("*") if path.is_file()}

    with oracle.start_tserver_on_replica(kudu, replica, tmp_path / "t", uuid=truth["tservers"]["t1"]) as server:
        log = server.bootstrap(tablet["tablet_id"])
        assert log.complete, log.failure
        assert (log.segments, log.stats) == (expected.segments, expected.stats)
        assert len(server.dump_rows(tablet["tablet_id"])) == truth["tables"][0]["rows"]

    assert _processes_in(tmp_path) == []
    assert {path: path.read_bytes() for path in replica.rglob("*") if path.is_file()} == stored


def test_cluster_on_stored_replica_gives_the_recorded_checksum(
        kudu: oracle.KuduBinaries, replica: Path, tmp_path: Path) -> None:
    truth = _truth(replica)
    recorded = {tablet["tablet_id"]: tablet["ksck_checksums"]["t1"] for tablet in truth["tables"][0]["tablets"]}
    with oracle.cluster_on_replica(kudu, replica, tmp_path / "c", uuid=truth["tservers"]["t1"]) as cluster:
        assert cluster.checksums() == recorded
    assert _processes_in(tmp_path) == []


def test_server_on_damaged_replica_reports_the_failure(
        kudu: oracle.KuduBinaries, replica: Path, tmp_path: Path) -> None:
    truth = _truth(replica)
    (tablet,) = truth["tables"][0]["tablets"]
    copy = tmp_path / "replica"
    oracle.copy_replicas(replica, copy)
    (copy / "wals" / tablet["tablet_id"] / "wal-000000002").unlink()
    with oracle.start_tserver_on_replica(kudu, copy, tmp_path / "t", uuid=truth["tservers"]["t1"]) as server:
        log = server.bootstrap(tablet["tablet_id"])
    assert not log.complete
    assert log.failure is not None and "Segment sequence numbers" in log.failure


def test_kudu_that_is_not_executable_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in oracle.PROGRAMS:
        (tmp_path / "bin" / program).write_text("#!/bin/sh\n")
    monkeypatch.setenv("KUDU_BIN_DIR", str(tmp_path))
    assert oracle.find_kudu() is None
    for program in oracle.PROGRAMS:
        (tmp_path / "bin" / program).chmod(0o755)
    found = oracle.find_kudu()
    assert found is not None and found.home == tmp_path.resolve()


def test_missing_kudu_skips_with_a_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUDU_BIN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(pytest.skip.Exception, match=r"is missing; run \.ci/fetch-kudu"):
        oracle.require_kudu()


def test_replicas_that_differ_are_not_given_one_checksum() -> None:
    replicas = [{"ts_uuid": "a", "checksum": "1"}, {"ts_uuid": "b", "checksum": "2"}]
    report = {"checksum_results": {"tables": [{"tablets": [{"tablet_id": "t", "replica_checksums": replicas}]}]}}
    with pytest.raises(oracle.OracleError, match="differ"):
        oracle.parse_checksums(json.dumps(report))
