"""Rowsets of a real server, compacted by us, keep the checksums that ksck reported at older snapshots, and do not grow.

Works on a copy of the stored directory of a stopped server. All changes below these snapshots had been flushed.
"""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root

from kudu_storage._native.base_rows import BaseRows
from kudu_storage._native.delta import DeltaRun
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.fs.block_references import rowset_blocks
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.superblock import from_message
from kudu_storage.tablet.compaction import (
    MergeInput,
    RowSetCompaction,
    RowSetFiles,
    compact_columns,
    compact_redos,
    drop_undos,
)
from kudu_storage.tablet.delta_policy import RowSetDeltas, ancient_undos
from kudu_storage.tablet.metadata import SuperblockChange, TabletMetadata

CASE = "many-rowsets-kill9"


def told() -> dict[str, dict[int, int]]:
    """Checksum by tablet and snapshot, as ksck reported them."""
    shared = fixtures_root()
    path = shared / "kudu-fixtures-disk" / "manifest.json" if shared else None
    if path is None or not path.exists():
        return {}
    found: dict[str, dict[int, int]] = {}
    for at, totals in json.loads(path.read_text(encoding="utf-8"))["fixtures"][CASE]["snapshots"].items():
        for tablet, total in totals.items():
            found.setdefault(tablet, {})[int(at)] = total
    return found


TABLETS = sorted(told()) or [pytest.param("", marks=pytest.mark.skip(reason="no stored directories"))]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = fixtures_root()
    archive = shared / "kudu-fixtures-disk" / f"{CASE}.tar.zst" if shared else None
    if archive is None or not archive.exists():
        pytest.skip("no stored directories of real servers")
    root = tmp_path_factory.mktemp(CASE)
    done = subprocess.run(["tar", "--zstd", "-xf", archive, "-C", root], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the archive cannot be unpacked: {done.stderr}")
    return root


@pytest.fixture
def server(unpacked: Path, tmp_path: Path) -> Iterator[tuple[Path, BlockManager]]:
    shutil.copytree(unpacked / "data", tmp_path / "data")
    shutil.copytree(unpacked / "wal" / "tablet-meta", tmp_path / "tablet-meta")
    blocks = open_block_manager([tmp_path / "data"])
    yield tmp_path, blocks
    blocks.close()


def opened(server: tuple[Path, BlockManager], tablet_id: str) -> tuple[TabletMetadata, RowLayout]:
    metadata = TabletMetadata.open(server[0] / "tablet-meta" / tablet_id, server[1])
    return metadata, RowLayout(from_message(metadata.message).schema)


def sum_at(metadata: TabletMetadata, blocks: BlockManager, layout: RowLayout, at: int) -> int:
    applier = DeltaApplier(layout, Snapshot(at))
    total = 0
    for rowset in metadata.message.rowsets:
        files = RowSetFiles(blocks, rowset)
        undos, redos = ([DeltaRun.decode(files.file(i).cursor().read_block(), undo=undo, rows=files.row_count)
                         for i in ids] for undo, ids in ((True, files.undo_ids), (False, files.redo_ids)))
        base = BaseRows(layout, [files.column(column.id) for column in layout.schema], files.row_count)
        first = 0
        while (block := base.next()) is not None:
            applier.prepare(first, len(block), undos, redos)
            total += checksum(applier.apply(block))
            first += len(block)
    return total % 2**64


def expect_sums(server: tuple[Path, BlockManager], metadata: TabletMetadata, layout: RowLayout, tablet_id: str,
                mark: int = 0) -> None:
    for at, expected in told()[tablet_id].items():
        if at >= mark:
            assert sum_at(metadata, server[1], layout, at) == expected, f"at {at}"


@pytest.mark.parametrize("tablet_id", TABLETS)
def test_merged_rowsets_keep_all_snapshots(server: tuple[Path, BlockManager], tablet_id: str) -> None:
    metadata, layout = opened(server, tablet_id)
    rowsets = list(metadata.message.rowsets)
    if not rowsets:
        pytest.skip("nothing was flushed")
    expect_sums(server, metadata, layout, tablet_id)
    merge(server[1], metadata, layout, rowsets[::2])
    expect_sums(server, metadata, layout, tablet_id)
    merge(server[1], metadata, layout, list(metadata.message.rowsets))
    expect_sums(server, metadata, layout, tablet_id)
    mark = sorted(told()[tablet_id])[-2]
    merge(server[1], metadata, layout, list(metadata.message.rowsets), mark)
    expect_sums(server, metadata, layout, tablet_id, mark)
    metadata.check()


def merge(blocks: BlockManager, metadata: TabletMetadata, layout: RowLayout, rowsets: list[Any], mark: int = 0) -> None:
    compaction = RowSetCompaction([MergeInput(RowSetFiles(blocks, rowset)) for rowset in rowsets], layout,
                                  Snapshot.everything(), history_mark=mark)
    with blocks.transaction() as transaction:
        compaction.write(transaction, metadata.take_rowset_id, target_bytes=200_000)
        metadata.commit(compaction.change(), transaction)
    metadata.delete_orphans()


@pytest.mark.parametrize("tablet_id", TABLETS)
def test_compacted_deltas_keep_all_snapshots(server: tuple[Path, BlockManager], tablet_id: str) -> None:
    metadata, layout = opened(server, tablet_id)
    for rowset in list(metadata.message.rowsets):
        with server[1].transaction() as transaction:
            files = RowSetFiles(server[1], rowset)
            if len(files.redo_ids) > 1:
                metadata.commit(SuperblockChange(edit={files.id: compact_redos(files, files.redo_ids, transaction)}),
                                transaction)
    expect_sums(server, metadata, layout, tablet_id)
    for rowset in list(metadata.message.rowsets):
        with server[1].transaction() as transaction:
            files = RowSetFiles(server[1], rowset)
            changed = {column for i in files.redo_ids for column in files.facts(i).update_counts}
            known = {column.id for column in layout.schema} & changed
            if known:
                metadata.commit(SuperblockChange(edit={
                    files.id: compact_columns(files, layout, known, transaction)}), transaction)
    expect_sums(server, metadata, layout, tablet_id)
    mark = sorted(told()[tablet_id])[1]
    for rowset in list(metadata.message.rowsets):
        files = RowSetFiles(server[1], rowset)
        ancient = ancient_undos(RowSetDeltas(files.id, {}, undos=tuple(map(files.facts, files.undo_ids))), mark)
        metadata.commit(SuperblockChange(edit={files.id: drop_undos(ancient)}))
    expect_sums(server, metadata, layout, tablet_id, mark)


@pytest.mark.parametrize("tablet_id", TABLETS)
def test_files_are_at_most_five_percent_larger_than_those_of_the_real_server(
        server: tuple[Path, BlockManager], tablet_id: str, record_property: Any) -> None:
    """Each rowset is written again, alone: the same rows, keys and UNDOs."""
    metadata, layout = opened(server, tablet_id)
    theirs, ours = 0, 0
    for rowset in metadata.message.rowsets:
        if {column.column_id for column in rowset.columns} != {column.id for column in layout.schema}:
            continue        # of another schema
        if len(rowset.redo_deltas):
            continue        # its REDOs would become UNDOs
        compaction = RowSetCompaction([MergeInput(RowSetFiles(server[1], rowset))], layout, Snapshot.everything())
        with server[1].transaction() as transaction:
            [written] = compaction.write(transaction, metadata.take_rowset_id)
            ids = transaction.commit()
        lengths = server[1].live_blocks()
        theirs += sum(lengths[reference.block_id] for reference in rowset_blocks(rowset))
        ours += sum(lengths[block_id] for block_id in ids)
        assert written.file_bytes == sum(lengths[block_id] for block_id in ids)
    record_property("bytes", (ours, theirs))
    print(f"{tablet_id}: ours {ours}, theirs {theirs}")
    assert ours <= theirs * 1.05
