"""Rowsets on disk: changes in memory, stores being flushed, diff scans, damage that is named."""
from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import stopped

from kudu_storage._native.delta import encode_change
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.bootstrap.rowsets_on_disk import history_mark
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, InvalidArgument
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.scanning import scan_stores

SERVER = next(s for s in stopped.golden_servers() if s.name == "many-rowsets-part")
TABLET = "6ca1dbc8ce8b4c038aeb42d89b979d08"         # k INT32 key, bb_dict, c INT64, d, a
ROWS = 7
EVERYTHING = Snapshot.everything()
LATE = 2**63


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SERVER.unpack(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def blocks(root: Path) -> Iterator[BlockManager]:
    with open_block_manager([root / "data"], read_only=True) as manager:
        yield manager


def superblock_of(root: Path, tablet: str = TABLET) -> Superblock:
    return read_superblock(root / "wal" / "tablet-meta" / tablet)


def rowsets_of(superblock: Superblock, blocks: BlockManager) -> list[DiskRowSet]:
    return [DiskRowSet.open(message, blocks, superblock.schema) for message in superblock.message.rowsets]


def cells(blocks: Iterator[Any]) -> list[list[bytes | None]]:
    return [block.cells(row) for block in blocks for row in range(len(block))]


def test_changes_in_memory_are_seen_from_their_timestamp_on(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    rowset = rowsets_of(superblock, blocks)[0]
    layout = RowLayout(superblock.schema)
    before = cells(rowset.scan(layout, EVERYTHING, batch_rows=ROWS))
    key = before[3][0]
    assert key is not None
    row = rowset.find_row(bytes([key[3] ^ 0x80, key[2], key[1], key[0]]))
    assert row is not None
    c_id = superblock.schema.columns[2].id
    assert c_id is not None
    rowset.memory.add(row, LATE, encode_change("UPDATE", {c_id: struct.pack("<q", 77)}))
    rowset.memory.add(row, LATE + 9, encode_change("DELETE", {}))
    assert cells(rowset.scan(layout, Snapshot(LATE), batch_rows=ROWS)) == before
    changed = [list(r) for r in before]
    changed[3][2] = struct.pack("<q", 77)
    assert cells(rowset.scan(layout, Snapshot(LATE + 1), batch_rows=ROWS)) == changed
    assert cells(rowset.scan(layout, EVERYTHING, batch_rows=ROWS)) == changed[:3] + changed[4:]


def test_a_store_that_is_being_flushed_lies_between_files_and_memory(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    rowset = rowsets_of(superblock, blocks)[0]
    layout = RowLayout(superblock.schema)
    c_id = superblock.schema.columns[2].id
    assert c_id is not None
    list(rowset.scan(layout, EVERYTHING))
    for row in range(0, rowset.row_count, 3):
        rowset.memory.add(row, LATE, encode_change("UPDATE", {c_id: struct.pack("<q", row)}))
    after = rowset.successor(rowset.message, memory=DeltaMemStore(rowset.row_count), flushing=rowset.memory)
    assert cells(after.scan(layout, EVERYTHING)) == cells(rowset.scan(layout, EVERYTHING, batch_rows=ROWS))
    assert after.index is rowset.index and after.column(c_id) is rowset.column(c_id)
    for row in range(0, rowset.row_count, 6):
        for store in (after.memory, rowset.memory):
            store.add(row, LATE + 1, encode_change("DELETE", {}))
    # `rowset.memory` is what `after` flushes: decoded once, at its first scan, when it took no more changes.
    assert cells(after.scan(layout, EVERYTHING)) == cells(rowset.scan(layout, EVERYTHING, batch_rows=ROWS))
    assert cells(after.scan(layout, Snapshot(LATE))) == cells(rowset.scan(layout, Snapshot(LATE)))


def by_key(rows: list[list[bytes | None]], keys: int) -> dict[tuple[bytes | None, ...], list[bytes | None]]:
    return {tuple(row[:keys]): row for row in rows}


@pytest.mark.parametrize("tablet", sorted(SERVER.checksums))
def test_a_diff_scan_has_what_changed_between_two_snapshots(root: Path, blocks: BlockManager, tablet: str) -> None:
    superblock = superblock_of(root, tablet)
    layout, keys = RowLayout(superblock.schema), superblock.schema.key_column_count
    rowsets = rowsets_of(superblock, blocks)
    moments = sorted({at for at, _, _ in SERVER.snapshots()})
    seen_deleted = 0
    for since, until in pairwise(moments):
        old, new = (by_key(cells(scan_stores(rowsets, [], layout, Snapshot(at), ordered=True)), keys)
                    for at in (since, until))
        found = cells(scan_stores(rowsets, [], layout, Snapshot(until), since=Snapshot(since), ordered=True,
                                  batch_rows=ROWS, deleted_column="is_deleted"))
        shown = by_key(found, keys)
        assert len(shown) == len(found)
        for key, row in shown.items():
            if row[-1] == b"\1":
                assert key in old and key not in new
                seen_deleted += 1
            else:
                assert new[key] == row[:-1]
        assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} <= shown.keys()
    assert seen_deleted


def test_order_does_not_need_the_key_among_the_columns(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    rowsets = rowsets_of(superblock, blocks)
    layout = RowLayout(superblock.schema.project(["c"]))
    whole = cells(scan_stores(rowsets, [], RowLayout(superblock.schema), EVERYTHING, ordered=True))
    found = cells(scan_stores(rowsets, [], layout, EVERYTHING, ordered=True, tablet_schema=superblock.schema))
    assert found == [[row[2]] for row in whole]
    memory = MemRowSet()
    memory.add_layout(layout)
    memory.freeze()
    unordered = cells(scan_stores(rowsets_of(superblock, blocks), [memory], layout, EVERYTHING))
    assert sorted(unordered, key=repr) == sorted(found, key=repr)


def test_no_columns_at_all_still_count_rows(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    rowset = rowsets_of(superblock, blocks)[0]
    none, all_columns = (sum(len(b) for b in rowset.scan(RowLayout(schema), EVERYTHING))
                         for schema in (Schema(()), superblock.schema))
    assert none == all_columns == rowset.message.live_row_count


def test_rows_outside_the_rowset_are_refused(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    rowset = rowsets_of(superblock, blocks)[0]
    with pytest.raises(InvalidArgument):
        list(rowset.scan(RowLayout(superblock.schema), EVERYTHING, end=rowset.row_count + 1))


def test_history_that_was_collected_bounds_snapshots(root: Path, blocks: BlockManager) -> None:
    """Without its oldest UNDO file a rowset's rows seem to have been there for ever."""
    superblock = superblock_of(root)
    message = superblock.message.rowsets[0]
    cut = type(message)()
    cut.CopyFrom(message)
    oldest = min(range(len(message.undo_deltas)), key=lambda i: _newest(superblock, blocks, i))
    del cut.undo_deltas[oldest]
    rowset = DiskRowSet.open(cut, blocks, superblock.schema)
    mark = rowset.history_mark()
    assert not rowset.history_is_whole() and mark is not None
    assert mark > _newest(superblock, blocks, oldest)
    assert history_mark(superblock, [rowset], 0) == mark


def _newest(superblock: Superblock, blocks: BlockManager, file: int) -> int:
    stats = rowsets_of(superblock, blocks)[0].undo_files[file].stats
    assert stats is not None
    return stats.max_timestamp


def test_batches_are_bounded_by_the_bytes_of_their_cells(root: Path, blocks: BlockManager,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    superblock = superblock_of(root)
    rowset = rowsets_of(superblock, blocks)[0]
    layout = RowLayout(superblock.schema)
    whole = list(rowset.scan(layout, EVERYTHING))
    assert len(whole[0]) <= 16 < max(len(b) for b in whole)
    monkeypatch.setattr("kudu_storage.tablet.disk_rowset._BATCH_BYTES", 200)
    bounded = list(rowset.scan(layout, EVERYTHING))
    assert max(len(b) for b in bounded[2:]) < 40 < max(len(b) for b in whole)
    assert cells(iter(bounded)) == cells(iter(whole))


def test_columns_whose_files_were_exchanged_are_refused(root: Path, blocks: BlockManager) -> None:
    superblock = superblock_of(root)
    message = type(superblock.message.rowsets[0])()
    message.CopyFrom(superblock.message.rowsets[0])
    first, second = message.columns[1].block, message.columns[2].block
    first.id, second.id = second.id, first.id
    rowset = DiskRowSet.open(message, blocks, superblock.schema)
    with pytest.raises(BadFormat, match="a file of"):
        list(rowset.scan(RowLayout(superblock.schema), EVERYTHING))
