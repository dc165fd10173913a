"""Containers that we write, read by the real `kudu`; and what we print for a stopped server against what it prints."""
from __future__ import annotations

import io
import json
import random
import subprocess
from pathlib import Path
from typing import Any, get_args

import oracle
import pytest
from click.testing import CliRunner, Result
from containers import CMETA, SUPERBLOCK, container, old_container, one_file, split
from fixtures import fixtures_root

from kudu_storage.cli.local_replica import local_replica
from kudu_storage.errors import KuduStorageError
from kudu_storage.fs.consensus_metadata import TYPE as CMETA_TYPE
from kudu_storage.fs.consensus_metadata import read_consensus_metadata, write_consensus_metadata
from kudu_storage.fs.instance import Instance, write_instance
from kudu_storage.fs.pb_container import container_bytes, write_container, write_single
from kudu_storage.fs.pb_dump import DumpFormat, dump_container
from kudu_storage.fs.superblock import read_superblock, write_superblock
from kudu_storage.protos import message_class

FORMATS: tuple[DumpFormat, ...] = get_args(DumpFormat)
ROOT = fixtures_root()
STOPPED = ROOT / "kudu-fixtures-disk" if ROOT is not None else None


def real_dump(kudu: oracle.KuduBinaries, path: Path, dump_format: DumpFormat) -> tuple[int, bytes]:
    option = [] if dump_format == "default" else [f"-{dump_format}"]
    done = subprocess.run([kudu.program("kudu"), "pbc", "dump", *option, str(path)], env=kudu.environment(),
                          capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout


def our_dump(path: Path, dump_format: DumpFormat) -> tuple[int, bytes]:
    out = io.StringIO()
    try:
        dump_container(path, out, dump_format=dump_format)
    except KuduStorageError:
        return 1, out.getvalue().encode("utf-8", "surrogateescape")
    return 0, out.getvalue().encode("utf-8", "surrogateescape")


def assert_same_in_all_formats(kudu: oracle.KuduBinaries, path: Path, code: int = 0) -> None:
    for dump_format in FORMATS:
        real = real_dump(kudu, path, dump_format)
        assert real[0] == code
        assert our_dump(path, dump_format) == real, dump_format


# -- what we write -----------------------------------------------------------------------------------------------------
def test_consensus_metadata_that_we_write_is_read_by_the_real_tool(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    message: Any = message_class(CMETA_TYPE)(current_term=2**40, voted_for="f" * 32)
    message.committed_config.opid_index = 12
    for number in range(5):
        peer = message.committed_config.peers.add(permanent_uuid=b"%032x" % number, member_type=number % 2)
        peer.last_known_addr.host, peer.last_known_addr.port = "host\u00fc", 7050
        peer.attrs.promote = number == 0
    path = tmp_path / "cmeta"
    write_consensus_metadata(path, message)
    assert_same_in_all_formats(kudu, path)
    assert b'"currentTerm":"1099511627776"' in real_dump(kudu, path, "json")[1]


def test_a_superblock_that_we_write_is_read_by_the_real_tool(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    path = tmp_path / "superblock"
    write_superblock(path, read_superblock(one_file(SUPERBLOCK, "s01")).message)
    assert_same_in_all_formats(kudu, path)
    assert real_dump(kudu, path, "default") == real_dump(kudu, one_file(SUPERBLOCK, "s01"), "default")


def test_an_instance_file_and_many_block_records_are_read_by_the_real_tool(kudu: oracle.KuduBinaries,
                                                                           tmp_path: Path) -> None:
    write_instance(tmp_path / "instance", Instance("a" * 32, 'quotes " \' \\ and <tags> & a tab\t'))
    assert_same_in_all_formats(kudu, tmp_path / "instance")
    records = []
    for number in range(300):
        record: Any = message_class("kudu.BlockRecordPB")(op_type=1 + number % 2, timestamp_us=number << 40)
        record.block_id.id = 2**64 - 1 - number
        records.append(record.SerializeToString())
    write_container(tmp_path / "blocks", "kudu.BlockRecordPB", records)
    assert_same_in_all_formats(kudu, tmp_path / "blocks")
    (tmp_path / "old").write_bytes(old_container(*split((tmp_path / "blocks").read_bytes())))
    assert_same_in_all_formats(kudu, tmp_path / "old")


def test_text_of_any_field_is_the_real_tools(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    """A superblock with everything that the texts treat apart: maps, unset and unknown fields, escapes, big numbers."""
    message: Any = read_superblock(one_file(SUPERBLOCK, "s01")).message.__deepcopy__()
    rng = random.Random(5)
    message.table_name = "".join(map(chr, [*range(1, 256), 0x600, 0x2028, 0x17B4, 0xFEFF, 0x1F600, 0xE0001, 0x1D173]))
    message.extra_config.history_max_age_sec = -(2**31)
    message.dimension_label = rng.randbytes(40).decode("latin-1")
    for column in message.schema.columns:
        column.read_default_value = bytes(range(256))
        column.comment = "a\x00b\u00e9\n"
    for key in (2**63 - 1, -5, 0):
        message.txn_metadata[key].aborted = bool(key)
    path = tmp_path / "f"
    write_single(path, message)
    assert_same_in_all_formats(kudu, path)
    unknown = bytes.fromhex("c0bb01 9601 c1bb01 0102030405060708 c2bb01 04 0a02ff00 c5bb01 01020304 c3bb01 0801 c4bb01")
    path.write_bytes(container(split(path.read_bytes())[0], message.SerializeToString() + unknown))
    for dump_format in ("default", "oneline", "debug"):
        assert our_dump(path, dump_format) == real_dump(kudu, path, dump_format)        # type: ignore[arg-type]


def test_a_cut_or_flipped_container_prints_and_fails_as_with_the_real_tool(kudu: oracle.KuduBinaries,
                                                                           tmp_path: Path) -> None:
    records = []
    for number in range(3):
        record: Any = message_class("kudu.BlockRecordPB")(op_type=1, timestamp_us=number)
        record.block_id.id = number
        records.append(record.SerializeToString())
    data = container_bytes("kudu.BlockRecordPB", records)
    path, rng = tmp_path / "f", random.Random(3)
    tail = len(data) - 120
    for end in [0, 7, 15, 16, 17, 30, *rng.sample(range(30, tail), 5), *range(tail, len(data), 5)]:
        path.write_bytes(data[:end])
        assert our_dump(path, "debug") == real_dump(kudu, path, "debug"), f"cut at {end}"
    for at in [0, 8, 12, 16, 20, *rng.sample(range(30, tail), 3), *range(tail, len(data), 7)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1:])
        assert our_dump(path, "debug") == real_dump(kudu, path, "debug"), f"flip at {at}"
    path.write_bytes(data + bytes(50))
    assert our_dump(path, "debug") == real_dump(kudu, path, "debug")


def test_a_server_starts_on_consensus_metadata_and_a_superblock_that_we_rewrote(
        one_server_cluster: oracle.MiniCluster) -> None:
    server = one_server_cluster.tservers[0]
    one_server_cluster.binaries.run("perf", "loadgen", one_server_cluster.master_address, "--keep_auto_table",
                                    "--num_rows_per_thread=50", "--num_threads=1", "--table_num_hash_partitions=2",
                                    "--table_num_replicas=1", check=True)
    server.stop()
    for path in (server.root / CMETA).iterdir():
        write_consensus_metadata(path, read_consensus_metadata(path).message)
    for path in (server.root / SUPERBLOCK).iterdir():
        write_superblock(path, read_superblock(path).message)
    server.start(f"--tserver_master_addrs={one_server_cluster.master_address}")

    def scan_succeeds() -> bool | None:
        done = one_server_cluster.binaries.run("cluster", "ksck", one_server_cluster.master_address, "--checksum_scan")
        return True if done.returncode == 0 else None

    assert oracle.wait_for("the tablets to be healthy again", scan_succeeds)


# -- a stopped server --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["many-rowsets-kill9", "file-bm-clean", "leader-pending-kill9"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The unpacked directories of a stopped server, and the flags that name them."""
    archive = None if STOPPED is None else STOPPED / f"{request.param}.tar.zst"
    if archive is None or not archive.exists():
        pytest.skip("no directories of stopped servers (KUDU_STORAGE_SHARED)")
    folder = tmp_path_factory.mktemp(str(request.param))
    command = ["tar", "--zstd", "-xf", str(archive), "-C", str(folder)]
    unpacked = subprocess.run(command, capture_output=True, check=False)
    if unpacked.returncode:
        pytest.skip(f"tar cannot unpack zstd here: {unpacked.stderr.decode()[:200]}")
    return folder, [f"--fs_wal_dir={folder}/wal", f"--fs_data_dirs={folder}/data"]


def real(kudu: oracle.KuduBinaries, *arguments: str) -> str:
    extra = ["--block_manager=file"] if any("file-bm" in argument for argument in arguments) else []
    return kudu.run("local_replica", *arguments, *extra, check=True).stdout


def ours(*arguments: str) -> str:
    result: Result = CliRunner().invoke(local_replica, list(arguments))
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout_bytes.decode("utf-8", "surrogateescape")


def in_order(text: str) -> str:
    """Orphaned blocks sorted: the real tool prints them in the order of a hash table."""
    before, mark, rest = text.partition("orphaned_blocks {")
    if not mark:
        return text
    blocks = [part for part in (mark + rest).split("orphaned_blocks {") if part]
    tail = blocks[-1].partition("}\n")
    blocks[-1] = tail[0] + tail[1]
    return before + "".join(sorted(blocks)) + tail[2]


def test_list_names_the_tablets_that_the_real_tool_names(kudu: oracle.KuduBinaries,
                                                         stopped: tuple[Path, list[str]]) -> None:
    folder, flags = stopped
    assert ours("list", *flags).splitlines() == sorted(real(kudu, "list", *flags).splitlines()) != []
    assert ours("list", str(folder / "wal")) == ours("list", *flags)


def test_metadata_segments_and_peers_print_as_with_the_real_tool(kudu: oracle.KuduBinaries,
                                                                 stopped: tuple[Path, list[str]]) -> None:
    folder, flags = stopped
    for tablet in ours("list", *flags).split():
        assert in_order(ours("dump", "meta", tablet, *flags)) == in_order(real(kudu, "dump", "meta", tablet, *flags))
        command = ("cmeta", "print_replica_uuids", tablet)
        assert ours(*command, str(folder / "wal")) == real(kudu, *command, *flags)
    for mode in ("--print_entries=decoded", "--print_entries=no", "--print_entries=pb"):
        assert ours("dump", "wals", tablet, mode, *flags) == real(kudu, "dump", "wals", tablet, mode, *flags)


def test_ranges_of_every_kind_print_as_with_the_real_tool(one_server_cluster: oracle.MiniCluster) -> None:
    kudu, server = one_server_cluster.binaries, one_server_cluster.tservers[0]
    table = {
        "table_name": "t",
        "schema": {"columns": [
            {"column_name": "a", "column_type": "STRING", "is_nullable": False},
            {"column_name": "b", "column_type": "INT64", "is_nullable": False},
            {"column_name": "v", "column_type": "DECIMAL", "type_attributes": {"precision": 20, "scale": 3}},
            {"column_name": "w", "column_type": "VARCHAR", "type_attributes": {"length": 9}, "comment": "x"},
        ], "key_column_names": ["a", "b"]},
        "partition": {
            "hash_partitions": [{"columns": ["b"], "num_buckets": 2, "seed": 7}],
            "range_partition": {"columns": ["a", "b"], "range_bounds": [
                {"upper_bound": {"bound_values": ["c", "-1"], "bound_type": "exclusive"}},
                {"lower_bound": {"bound_values": ["d", "5"], "bound_type": "inclusive"},
                 "upper_bound": {"bound_values": ["d", "900"], "bound_type": "exclusive"}},
            ], "custom_hash_schema_ranges": [{
                "range_bounds": {"lower_bound": {"bound_values": ["e", "0"], "bound_type": "inclusive"},
                                 "upper_bound": {"bound_values": ["e", "10"], "bound_type": "exclusive"}},
                "hash_schema": [{"columns": ["a"], "num_buckets": 3, "seed": 1}]}]},
        },
        "num_replicas": 1,
    }
    kudu.run("table", "create", one_server_cluster.master_address, json.dumps(table), check=True)
    server.stop()
    flags = [f"--fs_wal_dir={server.root}", f"--fs_data_dirs={server.root}"]
    tablets = ours("list", *flags).split()
    assert len(tablets) == 2 * 2 + 3
    for tablet in tablets:
        assert ours("dump", "meta", tablet, *flags) == real(kudu, "dump", "meta", tablet, *flags)
