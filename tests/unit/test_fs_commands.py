from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from block_store import content
from click.testing import CliRunner, Result
from containers import SUPERBLOCK, one_file

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.cli.flags import to_gnu_spelling
from kudu_storage.cli.main import main, root
from kudu_storage.cli.table import human_bytes, table_text
from kudu_storage.errors import BadFormat, CorruptionError, DiskError, InvalidArgument, NoSuchBlock, NotFound
from kudu_storage.fs.block_references import live_references, named_block_ids
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.file_system import check_file_system, format_file_system, server_instance
from kudu_storage.fs.instance import Instance, write_instance
from kudu_storage.fs.roots import server_roots
from kudu_storage.fs.superblock import read_superblock, write_superblock


def run(*arguments: object) -> Result:
    return CliRunner().invoke(root, to_gnu_spelling(["fs", *map(str, arguments)]))


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A formatted root whose one tablet has a rowset of two columns, an UNDO file and a bloom filter."""
    folder = tmp_path / "server"
    format_file_system(server_roots(folder))
    with open_block_manager([folder]) as manager, manager.transaction() as transaction:
        for size in (10, 5000, 0, 300):
            block = transaction.create_block()
            block.append(content(block.id, size))
        ids = transaction.commit()
    path = one_file(SUPERBLOCK, "s01")
    message: Any = read_superblock(path).message.__deepcopy__()
    del message.rowsets[:]
    rowset = message.rowsets.add(id=4, last_durable_dms_id=-1)
    for column_id, block_id in ((1, ids[1]), (0, ids[0])):
        column = rowset.columns.add(column_id=column_id)
        column.block.id = block_id
    rowset.undo_deltas.add().block.id = ids[2]
    rowset.bloom_block.id = ids[3]
    message.orphaned_blocks.add(id=99)
    write_superblock(folder / "tablet-meta" / path.name, message)
    return folder


# -- format ------------------------------------------------------------------------------------------------------------
def test_format_lays_out_every_root_once_and_refuses_what_is_not_empty(tmp_path: Path) -> None:
    places = [f"--fs_wal_dir={tmp_path}/w", f"--fs_data_dirs={tmp_path}/a,{tmp_path}/b",
              f"--fs_metadata_dir={tmp_path}/m"]
    uuid = "ABCDEF01-2345-6789-abcd-ef0123456789"
    assert run("format", *places, "-uuid", uuid).exit_code == 0
    assert run("dump", "uuid", *places).stdout == uuid.replace("-", "").lower() + "\n"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == sorted((
        "a", "a/data", "a/data/block_manager_instance", "a/instance",
        "b", "b/data", "b/data/block_manager_instance", "b/instance",
        "m", "m/consensus-meta", "m/instance", "m/tablet-meta", "w", "w/instance", "w/wals"))
    again = run("format", *places)
    assert isinstance(again.exception, InvalidArgument) and "not empty" in str(again.exception)
    with open_block_manager([tmp_path / "a", tmp_path / "b"]) as manager:
        assert len(manager.create_group()) == 2


@pytest.mark.parametrize("call", ["make_dir", "open", "write", "sync", "rename", "sync_dir"])
def test_a_format_that_fails_leaves_nothing_in_the_way_of_another(call: str, tmp_path: Path) -> None:
    roots = server_roots(tmp_path / "w", f"{tmp_path}/a,{tmp_path}/b")
    good, folder = RecordingDisk(), tmp_path / "good"
    folder.mkdir()
    format_file_system(server_roots(folder / "w", f"{folder}/a,{folder}/b"), disk=good)
    for attempt in range(1, good.attempts(call) + 1):
        disk = RecordingDisk()
        disk.fail(call, attempt, errno.ENOSPC)
        with pytest.raises(DiskError):
            format_file_system(roots, disk=disk)
        assert not any((tmp_path / name).exists() for name in "wab"), f"{call} {attempt}"
    format_file_system(roots)
    assert len(server_instance(roots).uuid) == 32


def test_a_uuid_or_a_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    for arguments in ({"uuid": "x" * 32}, {"uuid": "ab"}, {"block_manager": "logr"}):
        with pytest.raises(InvalidArgument):
            format_file_system(server_roots(tmp_path / "w"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_roots_of_two_servers_are_refused(server: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_instance(tmp_path / "other" / "instance", Instance("f" * 32, "x"))
    with pytest.raises(BadFormat, match="server uuid"):
        server_instance(server_roots(server, str(tmp_path / "other")))
    with pytest.raises(NotFound):
        server_instance(server_roots(tmp_path / "nowhere"))


# -- check -------------------------------------------------------------------------------------------------------------
def test_check_finds_a_sound_file_system_sound_and_writes_nothing(server: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in server.rglob("*")}
    result = run("check", server)
    assert result.exit_code == 0 and "Total live blocks: 4\n" in result.stdout
    assert "Total missing blocks: 0\nTotal orphaned blocks: 0 (0 repaired)\n" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in server.rglob("*")} == before


def test_check_tells_left_over_blocks_and_removes_them_when_asked(server: Path) -> None:
    with open_block_manager([server]) as manager, manager.transaction() as transaction:
        transaction.create_block().append(b"x" * 77)
        transaction.commit()
    told = "Total orphaned blocks: 1 ({0} repaired)\nTotal orphaned block bytes: 77 ({1} repaired)\n"
    assert told.format(0, 0) in run("check", server).stdout
    assert told.format(1, 77) in run("check", "-repair", server).stdout
    assert told.format(0, 0).replace("1", "0").replace("77", "0") in run("check", server).stdout


def test_a_missing_block_is_fatal_named_and_exits_1(server: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_block_manager([server]) as manager:
        manager.delete_blocks([2])
    (tablet,) = [path.name for path in (server / "tablet-meta").iterdir()]
    with pytest.raises(SystemExit) as ended:
        main(["fs", "check", str(server)])
    assert ended.value.code == 1
    result = run("check", server)
    told = f"Total missing blocks: 1\nFatal error: tablet {tablet} missing blocks: [ 0000000000000002 ]\n"
    assert told in result.stdout
    assert isinstance(result.exception, CorruptionError)


def test_a_block_that_two_tablets_name_is_refused(server: Path) -> None:
    (path,) = (server / "tablet-meta").iterdir()
    shutil.copy(path, path.with_name("f" * 32))
    with pytest.raises(CorruptionError, match="belongs to tablet"):
        check_file_system(server_roots(server))


# -- list and dump -----------------------------------------------------------------------------------------------------
def test_list_has_a_row_for_what_the_finest_field_asks_for(server: Path) -> None:
    assert run("list", server, "-columns=block-id,block-kind,column-id,rowset_id", "-format=csv").stdout == \
        "1,column,0,4\n2,column,1,4\n3,undo,,4\n4,bloom,,4\n"
    assert run("list", server, "-columns=rowset-id", "-format=tsv").stdout == "4\n"
    assert len(json.loads(run("list", server, "-columns=Table,partition", "-format=json").stdout)) == 1
    for narrowed, ids in (("-column_id=1", "2\n"), ("-block_id=4", "4\n"), ("-rowset_id=5", ""), ("-table_name=x", "")):
        assert run("list", server, "-columns=block-id", "-format=space", narrowed).stdout == ids


def test_an_unknown_field_is_refused_and_those_that_are_known_are_named(server: Path) -> None:
    result = run("list", server, "-columns=table,cfile-size")
    assert isinstance(result.exception, InvalidArgument)
    assert "cfile-size" in str(result.exception) and "block-kind" in str(result.exception)


def test_a_block_is_printed_as_it_is_and_a_missing_one_is_named(server: Path) -> None:
    assert run("dump", "block", 2, server).stdout_bytes == content(2, 5000)
    assert run("dump", "block", 3, server).stdout_bytes == b""
    assert isinstance(run("dump", "block", 7, server).exception, NoSuchBlock)
    assert run("dump", "block", "x", server).exit_code == 2


def test_the_tree_shows_folders_and_files_by_depth(server: Path) -> None:
    lines = run("dump", "tree", server).stdout.splitlines()
    assert lines[0] == f"File-System Root: {server}"
    assert {"|-instance", "|-data/", "|----block_manager_instance", "|-wals/"} <= set(lines)


def test_a_superblock_names_its_blocks_in_kudus_order_and_orphans_for_their_ids(server: Path) -> None:
    (path,) = (server / "tablet-meta").iterdir()
    message = read_superblock(path).message
    assert [(block.block_id, block.kind) for block in live_references(message)] == \
        [(1, "column"), (2, "column"), (3, "undo"), (4, "bloom")]
    assert list(named_block_ids(message)) == [1, 2, 3, 4, 99]


def test_sizes_and_tables_are_written_as_by_the_real_tool() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 1434, 1 << 20, 5 << 30)] == \
        ["0B", "1023B", "1.0K", "1.4K", "1.00M", "5.00G"]
    assert table_text(("a", "long name"), [("wide cell", "x"), ("", "y")], "pretty") == \
        "     a     | long name\n-----------+-----------\n wide cell | x\n           | y\n"
    assert table_text((), [], "pretty") == ""
