"""Whole replicas of stopped real servers: rows, counts and checksums are what the servers told, at each snapshot."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import stopped

from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.bootstrap.log_replay import Replay, replay
from kudu_storage.errors import InvalidArgument
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.scanning import scan_stores

SERVERS = [*stopped.golden_servers(), *stopped.shared_servers()]


@pytest.fixture(scope="module", params=SERVERS, ids=[s.name for s in SERVERS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
           ) -> tuple[stopped.StoppedServer, Path]:
    found: stopped.StoppedServer = request.param
    return found, found.unpack(tmp_path_factory.mktemp(found.name))


def whole(root: Path, tablet: str, **more: int) -> Replay:
    return replay(root / "wal", tablet, data_dirs=[root / "data"], **more)


def test_rows_and_checksums_are_those_of_the_server(server: tuple[stopped.StoppedServer, Path]) -> None:
    facts, root = server
    tables: Counter[str] = Counter()
    lines: dict[str, list[str]] = {}
    for tablet_id, total in facts.checksums.items():
        result = whole(root, tablet_id)
        assert result.report.problems == []
        assert result.report.checksum == total
        assert result.tablet is not None and result.report.table is not None
        table = result.report.table.rpartition(".")[2]
        tables[table] += result.report.rows
        lines.setdefault(table, []).extend(stopped.row_lines(result.tablet))
        assert result.tablet.count() == result.report.rows
    assert {n: c for n, c in tables.items() if n in facts.facts["tables"]} == facts.facts["tables"]
    for table, found in lines.items():
        truth = root / "truth" / f"{table}.rows.tsv"
        assert sorted(found) == (stopped.truth_lines(truth) if truth.exists() else [])


def test_older_snapshots_have_the_checksums_that_ksck_reported(server: tuple[stopped.StoppedServer, Path]) -> None:
    facts, root = server
    for at, tablet_id, total in facts.snapshots():
        assert whole(root, tablet_id, at=at).report.checksum == total


def test_an_ordered_scan_has_each_row_once_by_key(server: tuple[stopped.StoppedServer, Path]) -> None:
    facts, root = server
    for tablet_id in facts.checksums:
        tablet = whole(root, tablet_id).tablet
        assert tablet is not None
        columns = [c.name for c in tablet.schema.key_columns]
        keys = [key for block in tablet.scan(columns, batch_rows=7) for key in map(tuple, block.to_tuples())]
        assert keys == sorted(set(keys))
        assert sum(checksum(b) for b in tablet.scan(batch_rows=7)) % 2**64 == facts.checksums[tablet_id]


def test_history_of_all_rowsets_is_whole_and_snapshots_before_the_mark_are_refused(
        server: tuple[stopped.StoppedServer, Path]) -> None:
    facts, root = server
    for tablet_id in facts.checksums:
        tablet = whole(root, tablet_id).tablet
        assert tablet is not None
        if tablet.history_mark is not None:
            tablet.count(at=tablet.history_mark)
            with pytest.raises(InvalidArgument, match="history mark"):
                tablet.count(at=tablet.history_mark - 1)
            with pytest.raises(InvalidArgument, match="history mark"):
                whole(root, tablet_id, at=tablet.history_mark - 1)


def test_keys_are_found_at_their_rows_and_bounds_cut_scans(server: tuple[stopped.StoppedServer, Path]) -> None:
    facts, root = server
    with open_block_manager([root / "data"], read_only=True) as blocks:
        for tablet_id in facts.checksums:
            superblock = read_superblock(root / "wal" / "tablet-meta" / tablet_id)
            layout = RowLayout(superblock.schema)
            for message in superblock.message.rowsets:
                rowset = DiskRowSet.open(message, blocks, superblock.schema)
                assert rowset.history_is_whole() and rowset.history_mark() is None
                finder = rowset.finder()
                assert finder.find_row(rowset.min_key) == 0
                assert finder.find_row(rowset.max_key) == rowset.row_count - 1
                assert finder.find_row(rowset.min_key + b"\0") is None
                assert rowset.row_range(rowset.max_key, None) == (rowset.row_count - 1, rowset.row_count)
                assert rowset.row_range(None, rowset.min_key) == (0, 0)
                everything = Snapshot.everything()
                parts = [sum(checksum(b) for b in scan_stores([rowset], [], layout, everything, lower=low, upper=high))
                         for low, high in ((None, None), (None, rowset.max_key), (rowset.max_key, None))]
                assert parts[0] % 2**64 == (parts[1] + parts[2]) % 2**64
