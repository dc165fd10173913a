"""Replicas that `replay --rebuild` wrote, started by a real tablet server: the same rows, and it goes on from there."""
from __future__ import annotations

from pathlib import Path

import oracle
import stopped

from kudu_storage.bootstrap.log_replay import replay_files
from kudu_storage.bootstrap.rebuild import rebuild_checked
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.layout import find_tablets

REPLAY = Path(__file__).resolve().parents[1] / "golden" / "replay"


def test_a_real_server_starts_on_what_the_log_alone_gave_back(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    out = tmp_path / "ours" / "fs"
    out.parent.mkdir()
    folder = next(path for path in (REPLAY / "s08_alter_schema").iterdir() if (path / "wals").is_dir())
    sums = {}
    for files in find_tablets(folder):
        report = replay_files(files).report
        sums[files.tablet_id] = report.checksum
        rebuild_checked(files, out, (report.rows, report.checksum))
    check = kudu.run("fs", "check", f"--fs_wal_dir={out}", f"--fs_data_dirs={out}", check=True).stdout
    assert "0 (0 repaired)" in check
    with oracle.cluster_on_replica(kudu, out, tmp_path / "c") as cluster:
        assert cluster.checksums() == sums


def rebuilt(name: str, tmp_path: Path) -> dict[str, tuple[int, int]]:
    """A stored server's replicas in tmp_path/ours/fs: (checksum, pending operations) of each."""
    server = next(s for s in stopped.golden_servers() if s.name == name)
    source, out = server.unpack(tmp_path / "source"), tmp_path / "ours" / "fs"
    out.parent.mkdir()
    found = {}
    with open_block_manager([source / "data"], read_only=True) as blocks:
        for files in find_tablets(source / "wal"):
            report = replay_files(files, blocks=blocks).report
            rebuild_checked(files, out, (report.rows, report.checksum), blocks=blocks)
            found[files.tablet_id] = report.checksum, len(report.pending)
    return found


def test_a_real_server_starts_on_a_whole_replica(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    found = rebuilt("many-rowsets-part", tmp_path)
    with oracle.cluster_on_replica(kudu, tmp_path / "ours" / "fs", tmp_path / "c") as cluster:
        assert cluster.checksums() == {tablet: checksum for tablet, (checksum, _) in found.items()}


def test_a_real_server_finds_the_operations_that_were_pending(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    found = rebuilt("leader-pending-kill9", tmp_path)
    server = oracle.Server(kudu, "kudu-tserver", tmp_path / "ours", ["--tserver_master_addrs=127.0.0.1:1"])
    try:
        server.start()
        for tablet, (_, pending) in found.items():
            log = oracle.ReplicaServer(kudu, server).bootstrap(tablet)
            assert log.complete, log.failure
            assert log.stats["pending"] == pending
    finally:
        server.stop()
    assert sum(pending for _, pending in found.values()) == 1
