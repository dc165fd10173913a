"""Block stores and file systems of ours under the real `kudu fs` and a real tablet server, and theirs under ours."""
from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import oracle
import pytest
from block_store import content
from click.testing import CliRunner, Result
from fixtures import fixtures_root

from kudu_storage.cli.flags import to_gnu_spelling
from kudu_storage.cli.fs import fs
from kudu_storage.cli.local_replica import local_replica
from kudu_storage.errors import DirectoryLocked
from kudu_storage.fs.blocks import BlockOptions, open_block_manager

ROOT = fixtures_root()
STOPPED = ROOT / "kudu-fixtures-disk" if ROOT is not None else None
KINDS = ("log", "file")


def ours(*arguments: object) -> Result:
    return CliRunner().invoke(fs, to_gnu_spelling([str(argument) for argument in arguments]))


def place(folder: Path, data: int = 2) -> list[str]:
    return [f"--fs_wal_dir={folder}/wal", "--fs_data_dirs=" + ",".join(f"{folder}/data{i}" for i in range(data))]


def roots_of(folder: Path, data: int = 2) -> list[Path]:
    return [folder / f"data{number}" for number in range(data)]


def without_order(report: str) -> list[str]:
    """Reports list data directories in an order of their own."""
    return sorted(word.strip(",") for line in report.splitlines()
                  for word in (line.split() if "data directories" in line else [line]))


# -- what we lay out and write -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_the_real_tool_finds_nothing_wrong_with_what_we_formatted_and_wrote(kudu: oracle.KuduBinaries, kind: str,
                                                                           tmp_path: Path) -> None:
    uuid = "0123456789abcdef0123456789abcdef"
    assert ours("format", *place(tmp_path), f"-uuid={uuid}", f"--block_manager={kind}").exit_code == 0
    flags = [*place(tmp_path), f"--block_manager={kind}"]
    assert kudu.run("fs", "dump", "uuid", *flags, check=True).stdout == f"{uuid}\n" == \
        ours("dump", "uuid", *place(tmp_path)).stdout
    live = _history(roots_of(tmp_path))
    real = kudu.run("fs", "check", *flags, check=True).stdout
    assert f"Total orphaned blocks: {len(live)} (0 repaired)" in real and "Total missing blocks: 0" in real
    assert "Misaligned" not in real
    assert without_order(ours("check", *place(tmp_path)).stdout) == without_order(real)
    for block_id, size in live.items():
        dumped = subprocess.run([kudu.program("kudu"), "fs", "dump", "block", str(block_id), *flags],
                                env=kudu.environment(), capture_output=True, check=True).stdout
        assert dumped == content(block_id, size) == ours("dump", "block", block_id, *place(tmp_path)).stdout_bytes
    tree = kudu.run("fs", "dump", "tree", *flags, check=True).stdout
    assert sorted(tree.splitlines()) == sorted(ours("dump", "tree", *place(tmp_path)).stdout.splitlines())


def _history(roots: Sequence[Path]) -> dict[int, int]:
    """Transactions, dropped ones, deletions, full containers, reopening. Returns the live blocks' sizes."""
    live: dict[int, int] = {}
    options = BlockOptions(buffer_bytes=3000, container_bytes_max=100_000)
    for _ in range(3):
        with open_block_manager(roots, options=options) as manager:
            for number in range(6):
                with manager.transaction() as transaction:
                    made = {}
                    for size in (0, 10, 4096, 5000 * number):
                        block = transaction.create_block()
                        block.append(content(block.id, size))
                        made[block.id] = size
                    if number % 3 != 2:
                        transaction.commit()
                        live.update(made)
            doomed = sorted(live)[::3]
            assert set(manager.delete_blocks(doomed)) == set(doomed)
            for block_id in doomed:
                del live[block_id]
    return live


def test_the_real_tool_repairs_what_we_wrote_and_we_go_on(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    ours("format", *place(tmp_path))
    live = _history(roots_of(tmp_path))
    report = kudu.run("fs", "check", "-repair", *place(tmp_path), check=True).stdout
    assert f"Total orphaned blocks: {len(live)} ({len(live)} repaired)" in report
    with open_block_manager(roots_of(tmp_path)) as manager:
        assert manager.live_blocks() == {}
        assert manager.create_block().id > max(live), "an id is given out again"


@pytest.mark.parametrize("kind", KINDS)
def test_we_repair_as_the_real_tool_does(kudu: oracle.KuduBinaries, kind: str, tmp_path: Path) -> None:
    ours("format", *place(tmp_path), f"--block_manager={kind}")
    live = _history(roots_of(tmp_path))
    told = ours("check", "--repair", *place(tmp_path)).stdout
    assert f"Total orphaned blocks: {len(live)} ({len(live)} repaired)" in told
    real = kudu.run("fs", "check", *place(tmp_path), f"--block_manager={kind}", check=True).stdout
    assert "Total orphaned blocks: 0 (0 repaired)" in real


def test_a_torn_record_and_half_made_containers_are_told_and_repaired_as_by_the_real_tool(
        kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    ours("format", *place(tmp_path, 1))
    _history(roots_of(tmp_path, 1))
    data = tmp_path / "data0" / "data"
    with next(iter(sorted(data.glob("*.metadata")))).open("ab") as file:
        file.write(b"\x2d\0\0")
    (data / ("e" * 32 + ".data")).touch()
    expected = kudu.run("fs", "check", *place(tmp_path, 1), check=True).stdout
    assert "Total LBM partial records: 1 (0 repaired)" in expected
    assert "Total incomplete LBM containers: 1 (0 repaired)" in expected
    assert ours("check", *place(tmp_path, 1)).stdout == expected
    repaired = ours("check", "--repair", *place(tmp_path, 1)).stdout
    assert "Total LBM partial records: 1 (1 repaired)" in repaired
    assert "Total incomplete LBM containers: 1 (1 repaired)" in repaired
    clean = kudu.run("fs", "check", *place(tmp_path, 1), check=True).stdout
    assert "Total LBM partial records: 0" in clean and "Total incomplete LBM containers: 0" in clean


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_tablet_server_starts_on_what_we_formatted(kudu: oracle.KuduBinaries, kind: str, tmp_path: Path) -> None:
    cluster = oracle.MiniCluster(kudu, tmp_path, tservers=1, tserver_flags=[
        "--enable_maintenance_manager=false", f"--block_manager={kind}"])
    (server,) = cluster.tservers
    server.folder.mkdir(parents=True)
    assert ours("format", f"--fs_wal_dir={server.root}", f"--block_manager={kind}").exit_code == 0
    uuid = ours("dump", "uuid", server.root).stdout.strip()
    with cluster:
        with pytest.raises(DirectoryLocked):
            open_block_manager([server.root])
        assert open_block_manager([server.root], read_only=True).live_blocks() == {}
        listed = kudu.run("tserver", "list", cluster.master_address, "-columns=uuid", "-format=csv", check=True)
        assert listed.stdout.split() == [uuid]
        kudu.run("perf", "loadgen", cluster.master_address, "--keep_auto_table", "--num_rows_per_thread=500",
                 "--num_threads=1", "--table_num_hash_partitions=2", "--table_num_replicas=1", check=True)
        # A dirty stop, then what is there must be readable.
        server.stop()
        check = ours("check", server.root)
        assert check.exit_code == 0 and "Total missing blocks: 0" in check.stdout


def test_our_lock_keeps_the_real_tool_from_repairing(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    ours("format", *place(tmp_path))
    with open_block_manager(roots_of(tmp_path)):
        refused = kudu.run("fs", "check", "-repair", *place(tmp_path))
        assert refused.returncode != 0 and "lock" in refused.stderr
        kudu.run("fs", "check", *place(tmp_path), check=True)
    kudu.run("fs", "check", "-repair", *place(tmp_path), check=True)


# -- what real servers left --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["many-rowsets-kill9", "file-bm-clean", "leader-pending-kill9"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The unpacked directories of a stopped server, the flags that name them, and its kind of block manager."""
    archive = None if STOPPED is None else STOPPED / f"{request.param}.tar.zst"
    if archive is None or not archive.exists():
        pytest.skip("no directories of stopped servers (KUDU_STORAGE_SHARED)")
    folder = tmp_path_factory.mktemp(str(request.param))
    command = ["tar", "--zstd", "-xf", str(archive), "-C", str(folder)]
    unpacked = subprocess.run(command, capture_output=True, check=False)
    if unpacked.returncode:
        pytest.skip(f"tar cannot unpack zstd here: {unpacked.stderr.decode()[:200]}")
    kind = "file" if "file-bm" in request.param else "log"
    return folder, [f"--fs_wal_dir={folder}/wal", f"--fs_data_dirs={folder}/data"], kind


def test_check_uuid_and_tree_print_as_with_the_real_tool(kudu: oracle.KuduBinaries,
                                                         stopped: tuple[Path, list[str], str]) -> None:
    _, flags, kind = stopped
    for command in (["check"], ["dump", "uuid"]):
        assert ours(*command, *flags).stdout == \
            kudu.run("fs", *command, *flags, f"--block_manager={kind}", check=True).stdout
    tree = kudu.run("fs", "dump", "tree", *flags, f"--block_manager={kind}", check=True).stdout
    assert sorted(ours("dump", "tree", *flags).stdout.splitlines()) == sorted(tree.splitlines())


def test_live_blocks_are_those_that_the_real_tool_lists(kudu: oracle.KuduBinaries,
                                                        stopped: tuple[Path, list[str], str]) -> None:
    folder, flags, kind = stopped
    listed = kudu.run("fs", "list", *flags, f"--block_manager={kind}", "-columns=block-id", "-format=csv", check=True)
    with open_block_manager([folder / "data"], read_only=True) as manager:
        live = manager.live_blocks()
        assert sorted(live) == sorted(map(int, listed.stdout.split())) != []
        for block_id in sorted(live)[::40]:
            dumped = subprocess.run(
                [kudu.program("kudu"), "fs", "dump", "block", str(block_id), *flags, f"--block_manager={kind}"],
                env=kudu.environment(), capture_output=True, check=True).stdout
            with manager.open_block(block_id) as block:
                assert block.read() == dumped


@pytest.mark.parametrize("columns", ["tablet-id, rowset-id, block-id, block-kind", "Table,table_id,tablet-id,partition",
                                     "rowset-id,table"])
@pytest.mark.parametrize("form", ["pretty", "space", "tsv", "csv", "json"])
def test_list_prints_as_with_the_real_tool(kudu: oracle.KuduBinaries, stopped: tuple[Path, list[str], str],
                                           columns: str, form: str) -> None:
    _, flags, kind = stopped
    arguments = ["list", *flags, f"-columns={columns}", f"-format={form}"]
    real = kudu.run("fs", *arguments, f"--block_manager={kind}", check=True).stdout
    if form == "json":
        assert sorted(map(str, json.loads(ours(*arguments).stdout))) == sorted(map(str, json.loads(real)))
        assert len(ours(*arguments).stdout) == len(real)
    else:
        assert sorted(ours(*arguments).stdout.splitlines()) == sorted(real.splitlines())


def test_list_takes_the_real_tools_filters(kudu: oracle.KuduBinaries, stopped: tuple[Path, list[str], str]) -> None:
    _, flags, kind = stopped
    rows = ours("list", *flags, "-columns=tablet-id,rowset-id,block-id,column-id,table-id,table", "-format=csv")
    tablet, rowset, block, column, table_id, table = rows.stdout.splitlines()[1].split(",")
    for narrowed in ([f"-tablet_id={tablet.upper()}", f"-column_id={column or 0}"],
                     [f"-rowset_id={rowset}", f"-tablet_id={tablet}"],
                     [f"-block_id={block}"], [f"-table_id={table_id}"], [f"-table_name={table}"], ["-table_name=none"]):
        columns = "-columns=tablet-id,rowset-id,block-id,block-kind,column-id"
        arguments = ["list", *flags, "-format=csv", columns, *narrowed]
        real = kudu.run("fs", *arguments, f"--block_manager={kind}", check=True).stdout
        assert sorted(ours(*arguments).stdout.splitlines()) == sorted(real.splitlines()), narrowed


def test_block_ids_and_data_sizes_print_as_with_the_real_tool(kudu: oracle.KuduBinaries,
                                                              stopped: tuple[Path, list[str], str]) -> None:
    _, flags, kind = stopped

    def both(*arguments: str) -> tuple[str, str]:
        real = kudu.run("local_replica", *arguments, *flags, f"--block_manager={kind}", check=True).stdout
        return CliRunner().invoke(local_replica, [*arguments, *flags]).stdout, real

    tablets = both("list")[0].split()
    for tablet in tablets:
        shown, real = both("dump", "block_ids", tablet)
        assert shown == real != ""
    for pattern in ("*", f"{tablets[0][:5]}*", f"?{tablets[-1][1:]}", "none"):
        shown, real = both("data_size", pattern)
        assert sorted(shown.splitlines()) == sorted(real.splitlines())
