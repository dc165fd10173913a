"""Whole replicas written anew: the same rows at every time, the same operations after them; or a word why not."""
from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import stopped
from click.testing import CliRunner

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.bootstrap.log_replay import Replay, replay_files
from kudu_storage.bootstrap.rebuild import rebuild, rebuild_checked
from kudu_storage.cli.replay import replay
from kudu_storage.common.opid import OpId
from kudu_storage.errors import CorruptionError, InvalidArgument, KuduStorageError, NotFound
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.file_system import check_file_system, server_instance
from kudu_storage.fs.layout import TabletFiles, find_tablet, find_tablets
from kudu_storage.fs.roots import server_roots
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.wal.verify import verify

REPLAY = Path(__file__).resolve().parents[1] / "golden" / "replay"
# Where the log alone goes back to the first operation, and one server is the only peer.
LOGS = ["s01_all_types_lz4", "s06_partitioned", "s07_big_cells", "s08_alter_schema", "s09_autoincrement_immutable",
        "s13_restart_rewrites_log", "s14_replicate_without_commit", "s15_flushed_partial_replay"]


def replicas(case: str) -> list[TabletFiles]:
    return [files for folder in sorted((REPLAY / case).iterdir()) if (folder / "wals").is_dir()
            for files in find_tablets(folder)]


def read_back(out: Path, tablet_id: str) -> Replay:
    return replay_files(find_tablet(out, tablet_id), blocks=open_block_manager([out], read_only=True))


def same_at(times: list[int], before: Replay, after: Replay) -> None:
    assert before.tablet is not None and after.tablet is not None
    for at in times:
        assert after.tablet.count_and_checksum(at=at) == before.tablet.count_and_checksum(at=at)


@pytest.mark.parametrize("case", LOGS)
def test_a_replica_whose_blocks_are_lost_comes_back_from_its_log(case: str, tmp_path: Path) -> None:
    for files in replicas(case):
        out = tmp_path / files.wal_dir.parent.parent.name      # several tablets of one server
        before = replay_files(files)
        done = rebuild(files, out)
        after = read_back(out, files.tablet_id)
        assert after.report.problems == []
        assert (after.report.rows, after.report.checksum) == (before.report.rows, before.report.checksum)
        assert after.report.last_opid == before.report.last_opid and str(done.first) == before.report.applied_opid
        last = before.report.applied_timestamp
        same_at([last - (step << 12) for step in (0, 1_000, 20_000, 300_000, 1_000_000, 5_000_000)], before, after)
        assert verify(out / "wals" / files.tablet_id).problems == ()
        report = check_file_system(server_roots(out))
        assert not report.has_fatal_errors and not report.missing and not report.orphaned


@pytest.mark.parametrize("server", stopped.golden_servers(), ids=lambda server: server.name)
def test_every_snapshot_of_a_whole_replica_stays_what_it_was(server: stopped.StoppedServer, tmp_path: Path) -> None:
    source, out = server.unpack(tmp_path / "source"), tmp_path / "out"
    with open_block_manager([source / "data"], read_only=True) as blocks:
        for files in find_tablets(source / "wal"):
            before = replay_files(files, blocks=blocks)
            rebuild(files, out, blocks=blocks)
            after = read_back(out, files.tablet_id)
            assert after.report.problems == [] and after.report.pending == before.report.pending
            assert after.report.checksum == before.report.checksum
            if files.tablet_id in server.checksums:
                assert after.report.checksum == server.checksums[files.tablet_id]
            assert after.tablet is not None
            for at, tablet, checksum in server.snapshots():
                if tablet == files.tablet_id:
                    assert after.tablet.checksum(at=at) == checksum


def test_pending_operations_follow_as_they_were(tmp_path: Path) -> None:
    server = next(s for s in stopped.golden_servers() if s.name == "leader-pending-kill9")
    source, out = server.unpack(tmp_path / "source"), tmp_path / "out"
    pending = 0
    with open_block_manager([source / "data"], read_only=True) as blocks:
        for files in find_tablets(source / "wal"):
            before = replay_files(files, blocks=blocks, include_pending=True)
            pending += rebuild(files, out, blocks=blocks).pending
            after = replay_files(find_tablet(out, files.tablet_id), include_pending=True,
                                 blocks=open_block_manager([out], read_only=True))
            assert after.report.checksum == before.report.checksum
    assert pending == 1


def test_ids_of_new_stores_exceed_the_old_ones(tmp_path: Path) -> None:
    files = replicas("s15_flushed_partial_replay")[0]
    assert files.superblock_path is not None
    old = read_superblock(files.superblock_path)
    rebuild(files, tmp_path / "out")
    path = find_tablet(tmp_path / "out", files.tablet_id).superblock_path
    assert path is not None
    new = read_superblock(path)
    assert min(r.id for r in new.rowsets) > max((r.id for r in old.rowsets), default=-1)
    assert new.last_durable_mrs_id >= old.last_durable_mrs_id and new.orphaned_blocks == ()
    assert (new.table_id, new.table_name, new.partition, new.schema) == \
        (old.table_id, old.table_name, old.partition, old.schema)


# -- refused -----------------------------------------------------------------------------------------------------------
def refused(files: TabletFiles, out: Path, error: type[KuduStorageError], word: str) -> None:
    with pytest.raises(error, match=word):
        rebuild(files, out)
    assert not out.exists() or not list((out / "tablet-meta").iterdir())


def test_a_log_that_was_collected_needs_the_flushed_rows(tmp_path: Path) -> None:
    refused(replicas("s16_log_gc")[0], tmp_path / "out", CorruptionError, "flushed stores")


def test_a_damaged_log_is_not_rebuilt(tmp_path: Path) -> None:
    shutil.copytree(REPLAY / "s01_all_types_lz4", tmp_path / "source")
    files = next(f for folder in (tmp_path / "source").iterdir() if (folder / "wals").is_dir()
                 for f in find_tablets(folder))
    segment = next(path for path in sorted(files.wal_dir.iterdir()) if path.name.startswith("wal-"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 4
    segment.write_bytes(data)
    refused(files, tmp_path / "out", CorruptionError, "checksum|CRC|crc")


@pytest.mark.parametrize("part", ["tablet-meta", "consensus-meta"])
def test_metadata_that_is_missing_is_named(part: str, tmp_path: Path) -> None:
    shutil.copytree(replicas("s01_all_types_lz4")[0].wal_dir.parent.parent, tmp_path / "source")
    for file in (tmp_path / "source" / part).iterdir():
        file.unlink()
    refused(find_tablets(tmp_path / "source")[0], tmp_path / "out", NotFound, part)


def test_which_of_several_servers_it_was_must_be_said(tmp_path: Path) -> None:
    files = replicas("r03_replaced_ops")[0]
    with pytest.raises(NotFound, match="--uuid") as error:
        rebuild(files, tmp_path / "out")
    uuid = str(error.value).split("any of ")[1][:32]
    with pytest.raises(InvalidArgument, match="no peer"):
        rebuild(files, tmp_path / "out", uuid="0" * 32)
    done = rebuild(files, tmp_path / "out", uuid=uuid)
    assert server_instance(server_roots(tmp_path / "out")).uuid == done.server_uuid == uuid
    assert read_back(tmp_path / "out", files.tablet_id).report.checksum == replay_files(files).report.checksum


def test_nothing_is_written_over(tmp_path: Path) -> None:
    first, other = replicas("s01_all_types_lz4")[0], replicas("s07_big_cells")[0]
    rebuild(first, tmp_path / "out")
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(InvalidArgument, match="there already"):
        rebuild(first, tmp_path / "out")
    with pytest.raises(InvalidArgument, match="file system of server"):
        rebuild(other, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InvalidArgument, match="not empty"):
        rebuild(first, tmp_path / "full")
    with pytest.raises(NotFound):
        rebuild(first, tmp_path / "no" / "such" / "out")
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_failure_at_any_call_leaves_no_tablet_and_a_folder_for_another_try(tmp_path: Path) -> None:
    files = replicas("s14_replicate_without_commit")[0]
    expected = replay_files(files).report
    tried = 0
    for kind in ("write", "sync", "sync_dir", "open", "rename"):
        for k in range(1, 200):
            disk, out = RecordingDisk(), tmp_path / f"{kind}{k}"
            disk.fail(kind, k, errno.EIO)
            try:
                rebuild(files, out, disk=disk)
            except KuduStorageError:
                tried += 1
                if (out / "tablet-meta").is_dir():
                    assert not [name for name in (out / "tablet-meta").iterdir() if len(name.name) == 32]
                done = rebuild_checked(files, out, (expected.rows, expected.checksum))
                assert done.first == OpId.parse(expected.applied_opid or "")
                shutil.rmtree(out)
            else:
                assert read_back(out, files.tablet_id).report.checksum == expected.checksum
                break
    assert tried > 20


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_rebuilds_and_says_so(tmp_path: Path) -> None:
    folder = replicas("s06_partitioned")[0].wal_dir.parent.parent
    done = CliRunner().invoke(replay, [str(folder), "--rebuild", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output.count("rows and checksum are the same") == len(find_tablets(folder))
    collected = replicas("s16_log_gc")[0].wal_dir.parent.parent
    done = CliRunner().invoke(replay, [str(collected), "--rebuild", str(tmp_path / "other"), "--quiet"])
    assert done.exit_code == 1 and "not rebuilt: " in done.output and not (tmp_path / "other").exists()
    for wrong in (["--at", "1"], ["--include-pending"]):
        assert CliRunner().invoke(replay, [str(folder), "--rebuild", str(tmp_path), *wrong]).exit_code == 2
    assert CliRunner().invoke(replay, [str(folder), "--uuid", "0" * 32]).exit_code == 2
