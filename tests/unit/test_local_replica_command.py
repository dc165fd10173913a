from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from containers import REPLAY
from truth import copy_replica

from kudu_storage.cli.local_replica import local_replica
from kudu_storage.errors import BadChecksum, NotFound
from kudu_storage.fs.instance import Instance, write_instance

CASE = REPLAY / "s06_partitioned" / "t1"
TABLETS = sorted(path.name for path in (CASE / "tablet-meta").iterdir())
CHANGES = REPLAY / "r05_config_changes" / "t1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(local_replica, [str(a) for a in arguments])


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return copy_replica(CASE, tmp_path / "server")


# -- where -------------------------------------------------------------------------------------------------------------
def test_the_real_tools_flags_and_one_folder_find_the_same(server: Path) -> None:
    outputs = {run("list", *where).stdout for where in (
        [server], ["--fs_wal_dir", server], ["--fs-wal-dir", server, "--fs_data_dirs", server],
        ["--fs_wal_dir", server, "--fs_data_dirs", server / "nowhere", "--fs_metadata_dir", server])}
    assert outputs == {"".join(f"{t}\n" for t in TABLETS)}


def test_metadata_in_a_root_of_its_own_is_used(server: Path, tmp_path: Path) -> None:
    for kind in ("tablet-meta", "consensus-meta"):
        shutil.move(server / kind, tmp_path / "meta" / kind)
    assert run("dump", "meta", TABLETS[0], server).exit_code == 1
    assert run("dump", "meta", TABLETS[0], server, "--fs_metadata_dir", tmp_path / "meta").stdout == \
        run("dump", "meta", TABLETS[0], CASE).stdout


def test_no_place_and_two_places_are_usage_errors(server: Path) -> None:
    for where in ([], [server, "--fs_wal_dir", server]):
        assert run("list", *where).exit_code == 2


def test_unknown_tablet_names_those_that_are_there(server: Path) -> None:
    result = run("dump", "meta", "f" * 32, server)
    assert isinstance(result.exception, NotFound) and TABLETS[0] in str(result.exception)


def test_a_broken_instance_file_is_warned_of_and_does_not_stop_the_look(server: Path) -> None:
    write_instance(server / "instance", Instance("a" * 32, "stamp"))
    assert run("list", server).stderr == ""
    (server / "instance").write_bytes(b"nonsense of some length")
    result = run("list", server)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 6
    assert "instance" in result.stderr and result.stderr.startswith("warning: ")


# -- list --------------------------------------------------------------------------------------------------------------
def test_list_names_a_tablet_without_metadata_and_says_so(server: Path) -> None:
    (server / "tablet-meta" / TABLETS[0]).unlink()
    result = run("list", server)
    assert result.stdout.splitlines() == TABLETS
    assert result.stderr.count("\n") == 1 and TABLETS[0] in result.stderr


def test_list_detail_goes_on_after_a_damaged_superblock_and_exits_1(server: Path) -> None:
    path = server / "tablet-meta" / TABLETS[2]
    path.write_bytes(path.read_bytes()[:-1])
    result = run("list", "--list_detail", server)
    assert result.exit_code == 1 and result.stderr.startswith("Truncated: ")
    assert result.stdout.count("Tablet: ") == 6 and result.stdout.count("  Partition: HASH (host)") == 5


# -- dump --------------------------------------------------------------------------------------------------------------
def test_dump_meta_names_partition_table_schema_and_superblock() -> None:
    lines = run("dump", "meta", TABLETS[0], CASE).stdout.splitlines()
    assert lines[0].startswith("Partition: HASH (host) PARTITION ")
    assert lines[1].startswith("Table name: p Table id: ")
    assert lines[2:11] == ["Schema (version=0): (", "    0:host STRING NOT NULL,", "    1:metric INT32 NOT NULL,",
                           "    2:ts UNIXTIME_MICROS NOT NULL,", "    3:value DOUBLE NOT NULL,",
                           "    4:note STRING NULLABLE,", "    PRIMARY KEY (host, metric, ts)", ")", "Superblock:"]
    assert f'tablet_id: "{TABLETS[0]}"' in lines


def test_dump_of_a_damaged_superblock_is_the_typed_error(server: Path) -> None:
    path = server / "tablet-meta" / TABLETS[0]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    result = run("dump", "meta", TABLETS[0], server)
    assert isinstance(result.exception, BadChecksum) and str(path) in str(result.exception)


def test_dump_wals_prints_segments_in_order_and_the_footer_that_kudu_would_rebuild() -> None:
    case = REPLAY / "s01_all_types_lz4"
    (facts,) = json.loads((case / "case.json").read_text())["replicas"]
    result = run("dump", "wals", facts["tablet"], case / "t1", "--print_entries", "id")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("sequence_number")] == [
        f"sequence_number: {i + 1}" for i in range(facts["segments"])]
    assert lines.count("Footer:") == facts["segments"]
    assert lines[-1].startswith("max_replicate_index: ")
    assert sum("\tREPLICATE " in line for line in lines) == sum(facts["ops_by_type"].values())
    quiet = run("dump", "wals", facts["tablet"], case / "t1", "--print_entries", "id", "--noprint_meta")
    assert "Footer" not in quiet.stdout and "REPLICATE" in quiet.stdout


def test_dump_wals_prints_what_is_there_of_a_log_with_a_hole_and_exits_1(tmp_path: Path) -> None:
    case = REPLAY / "s01_all_types_lz4"
    root = copy_replica(case / "t1", tmp_path / "server")
    (folder,) = (root / "wals").iterdir()
    (folder / "wal-000000002").unlink()
    (folder / "wal-000000004").write_bytes(bytes(4096))
    (folder / "wal-000000006").write_bytes(b"kudulogf")
    result = run("dump", "wals", folder.name, root, "--print_entries", "no")
    assert result.exit_code == 1
    assert [line for line in result.stdout.splitlines() if line.startswith("sequence_number")] == [
        "sequence_number: 1", "sequence_number: 3", "sequence_number: 5"]
    assert "segment 2 is missing" in result.stderr and "wal-000000006" in result.stderr


def test_dump_wals_prints_entries_before_damage_and_goes_on_with_the_next_segment(tmp_path: Path) -> None:
    root = copy_replica(REPLAY / "s01_all_types_lz4" / "t1", tmp_path / "server")
    (folder,) = (root / "wals").iterdir()
    data = bytearray((folder / "wal-000000001").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "wal-000000001").write_bytes(data)
    result = run("dump", "wals", folder.name, root, "--print_entries", "id")
    assert result.exit_code == 1 and result.stderr.count("bad_checksum: wal-000000001 offset ") == 1
    assert result.stdout.startswith("Header:") and "sequence_number: 5" in result.stdout


def test_dump_wals_says_when_an_unfinished_restart_left_the_old_log(server: Path) -> None:
    folder = server / "wals" / TABLETS[0]
    wanted = run("dump", "wals", TABLETS[0], server).stdout
    shutil.copytree(folder, folder.with_name(f"{TABLETS[0]}.recovery"))
    both = run("dump", "wals", TABLETS[0], server)
    assert both.stdout == wanted and ".recovery" in both.stderr
    shutil.rmtree(folder)
    alone = run("dump", "wals", TABLETS[0], server)
    assert alone.stdout == wanted and "printed instead" in alone.stderr


def test_dump_wals_refuses_an_unknown_mode() -> None:
    assert run("dump", "wals", TABLETS[0], CASE, "--print_entries", "nonsense").exit_code == 1


# -- cmeta -------------------------------------------------------------------------------------------------------------
def test_uuids_of_several_tablets_come_a_line_each() -> None:
    result = run("cmeta", "print_replica_uuids", f"{TABLETS[1]},{TABLETS[0]}", CASE)
    assert [line.split(", peers: ")[0] for line in result.stdout.splitlines()] == [
        f"tablet: {TABLETS[1]}", f"tablet: {TABLETS[0]}"]
    (tablet,) = (p.name for p in (CHANGES / "consensus-meta").iterdir())
    text = run("cmeta", "print_replica_uuids", tablet, CHANGES).stdout
    assert len(text.strip().split(", peers: ")[1].split()) >= 3


def test_no_tablet_and_a_tablet_without_the_file_are_told(server: Path) -> None:
    assert run("cmeta", "print_replica_uuids", ",", server).exit_code == 2
    (server / "consensus-meta" / TABLETS[0]).unlink()
    result = run("cmeta", "print_replica_uuids", TABLETS[0], server)
    assert isinstance(result.exception, NotFound) and "consensus-meta" in str(result.exception)
