"""Which folders and names belong to a tablet, and which roots the real tool's flags mean."""
from __future__ import annotations

from pathlib import Path

import pytest

from kudu_storage.errors import InvalidArgument, NotFound, Unsupported
from kudu_storage.fs.instance import Instance, write_instance
from kudu_storage.fs.layout import (
    find_tablet,
    find_tablets,
    index_chunk_name,
    index_chunk_number,
    is_tablet_id,
    segment_name,
    segment_sequence,
)
from kudu_storage.fs.pb_container import write_single
from kudu_storage.fs.roots import server_roots, single_root
from kudu_storage.protos import message_class

A, B, C = "a" * 32, "b" * 32, "0123456789abcdef" * 2


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Tablet A with everything, B with metadata alone, C with a log alone."""
    touch(tmp_path, "instance", f"wals/{A}/wal-000000001", f"wals/{A}/index.000000000", f"tablet-meta/{A}",
          f"consensus-meta/{A}", f"tablet-meta/{B}", f"consensus-meta/{B}", f"wals/{C}/wal-000000007")
    return tmp_path


def ids(folder: Path) -> list[str]:
    return [files.tablet_id for files in find_tablets(folder)]


def test_names_of_segments_and_index_chunks_go_both_ways() -> None:
    assert (segment_name(1), index_chunk_name(12)) == ("wal-000000001", "index.000000012")
    assert (segment_sequence("wal-000000001"), segment_sequence("wal-1234567890")) == (1, 1234567890)
    assert index_chunk_number("index.000000012") == 12
    for name in (".kudutmp.newsegmentAbc123", "wal-", "wal-1.bak", "xwal-1", "wal-000000001\n", "index.1x"):
        assert segment_sequence(name) is None and index_chunk_number(name) is None


def test_tablet_ids_are_32_lowercase_hexadecimal_digits() -> None:
    assert is_tablet_id(A) and is_tablet_id("0" * 32)
    assert not any(map(is_tablet_id, (A[:-1], A + "a", A.upper(), "g" * 32, A + "\n", f"{A}.recovery")))


def test_all_tablets_of_a_root_are_found_whatever_part_of_them_is_there(server: Path) -> None:
    assert ids(server) == sorted([A, B, C])
    found = {files.tablet_id: files for files in find_tablets(server)}
    a = found[A]
    assert (a.log_dir, a.superblock_path, a.cmeta_path, a.instance_path) == (
        server / "wals" / A, server / "tablet-meta" / A, server / "consensus-meta" / A, server / "instance")
    assert found[B].log_dir is None and found[B].superblock_path is not None
    assert found[C].log_dir is not None and found[C].superblock_path is None and found[C].cmeta_path is None


def test_a_tablet_is_found_from_the_root_the_wals_folder_and_its_own_folder(server: Path) -> None:
    assert ids(server) == ids(server / "wals") == sorted([A, B, C])
    (own,) = find_tablets(server / "wals" / A)
    assert own == find_tablet(server, A)


def test_segments_in_a_folder_of_any_name_are_one_tablet_without_metadata(tmp_path: Path) -> None:
    touch(tmp_path, "log/wal-000000001")
    (found,) = find_tablets(tmp_path / "log")
    assert (found.tablet_id, found.log_dir, found.superblock_path) == ("log", tmp_path / "log", None)


def test_the_old_log_of_an_unfinished_restart_counts(server: Path) -> None:
    touch(server, f"wals/{A}.recovery/wal-000000001", f"wals/{B}.recovery/wal-000000001",
          f"wals/{C}.recovery-1795445996514521/wal-000000001")
    found = {files.tablet_id: files for files in find_tablets(server)}
    assert found[A].log_dir == server / "wals" / f"{A}.recovery"
    assert found[B].log_dir == server / "wals" / f"{B}.recovery"
    assert found[C].log_dir == server / "wals" / C       # a kept copy is nobody's log
    (named,) = find_tablets(server / "wals" / f"{C}.recovery-1795445996514521")
    assert (named.tablet_id, named.log_dir) == (C, server / "wals" / f"{C}.recovery-1795445996514521")


def test_temporary_and_foreign_names_are_passed_over(server: Path) -> None:
    touch(server, f"tablet-meta/{A}.kudutmp.x1y2z3", "tablet-meta/.hidden", "wals/lost+found/wal-000000001",
          f"consensus-meta/{'d' * 31}")
    assert ids(server) == sorted([A, B, C])


def test_a_folder_of_something_else_and_an_unknown_tablet_are_told(server: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="wals"):
        find_tablets(server / "tablet-meta")
    with pytest.raises(NotFound, match="no such folder"):
        find_tablets(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="not a folder"):
        find_tablets(server / "instance")
    with pytest.raises(NotFound, match=A):
        find_tablet(server, "f" * 32)


# -- roots -------------------------------------------------------------------------------------------------------------
def test_metadata_is_in_the_wal_root_unless_the_first_data_root_has_it_or_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, f"wal/wals/{A}/wal-000000001", f"data/tablet-meta/{A}", f"meta/tablet-meta/{A}", "data2/x")
    wal, data, data2, meta = (tmp_path / name for name in ("wal", "data", "data2", "meta"))
    assert server_roots(wal).metadata_root == wal
    assert server_roots(wal).data_roots == (wal,)
    assert server_roots(wal, f"{data2},{data}").metadata_root == wal
    assert server_roots(wal, f"{data},{data2}").metadata_root == data
    roots = server_roots(wal, str(data), str(meta))
    assert roots.metadata_root == meta
    (found,) = roots.tablets()
    assert (found.superblock_path, found.log_dir) == (meta / "tablet-meta" / A, wal / "wals" / A)
    with pytest.raises(InvalidArgument):
        server_roots("")


def test_one_folder_stands_for_all_roots(server: Path) -> None:
    assert [f.tablet_id for f in single_root(server).tablets()] == sorted([A, B, C])
    (own,) = single_root(server / "wals" / A).tablets()
    assert own.superblock_path == server / "tablet-meta" / A


def test_instance_files_are_checked_in_every_root(tmp_path: Path) -> None:
    touch(tmp_path, "wal/wals/x", "data/instance")
    write_instance(tmp_path / "wal" / "instance", Instance(A, "stamp"))
    roots = server_roots(tmp_path / "wal", str(tmp_path / "data"))
    assert [error.path for error in roots.check_instances()] == [str(tmp_path / "data" / "instance")]
    write_single(tmp_path / "data" / "instance",
                 message_class("kudu.InstanceMetadataPB")(uuid=A.encode(), format_stamp="s", server_key=b"k"))
    with pytest.raises(Unsupported, match="encrypted"):
        roots.check_instances()
