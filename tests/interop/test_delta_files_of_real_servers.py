"""Delta files of a real server, laid over its base columns, give the checksums that ksck reported at older snapshots.

Reads the stored directory of a stopped server. All changes below these snapshots had been flushed, so neither memory
nor the log is needed.
"""
from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.delta import DeltaRun, DeltaStats
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.fs.pb_container import read_container, read_single
from kudu_storage.fs.superblock import TYPE, from_message
from kudu_storage.protos import message_class

cfile_reader = pytest.importorskip("kudu_storage._native.cfile_reader", reason="column files cannot be read yet")

CASE = "many-rowsets-kill9"
BATCH_ROWS = 777
CREATE = 1


class StoredServer:
    """A stopped server's directory with log block manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blocks: dict[int, tuple[int, int, int]] = {}       # descriptor, offset, length by block id
        self._descriptors: list[int] = []
        record_class: Any = message_class("kudu.BlockRecordPB")
        for metadata in root.glob("data/data/*.metadata"):
            descriptor = os.open(metadata.with_suffix(".data"), os.O_RDONLY)
            self._descriptors.append(descriptor)
            for body in read_container(metadata, tolerant=True).records:
                record = body if not isinstance(body, bytes) else record_class.FromString(body)
                if record.op_type == CREATE:    # type: ignore[attr-defined]
                    self.blocks[record.block_id.id] = (descriptor, record.offset, record.length)  # type: ignore
                else:
                    self.blocks.pop(record.block_id.id, None)  # type: ignore[attr-defined]

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def superblock(self, tablet_id: str) -> Any:
        return read_single(self.root / "wal" / "tablet-meta" / tablet_id, message_class(TYPE))

    def column_file(self, block: Any) -> Any:
        return cfile_reader.CFileReader(*self.blocks[block.id])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredServer]:
    shared = fixtures_root()
    archive = shared / "kudu-fixtures-disk" / f"{CASE}.tar.zst" if shared else None
    if archive is None or not archive.exists():
        pytest.skip("no stored directories of real servers")
    root = tmp_path_factory.mktemp(CASE)
    unpacked = subprocess.run(["tar", "--zstd", "-xf", archive, "-C", root], capture_output=True, text=True)
    if unpacked.returncode:
        pytest.skip(f"the archive cannot be unpacked: {unpacked.stderr}")
    server = StoredServer(root)
    yield server
    server.close()


def snapshots_of(shared: Path | None) -> list[tuple[str, int, int]]:
    """(tablet id, snapshot, checksum) as ksck reported them."""
    path = shared / "kudu-fixtures-disk" / "manifest.json" if shared else None
    if path is None or not path.exists():
        return []
    told = json.loads(path.read_text(encoding="utf-8"))["fixtures"][CASE]["snapshots"]
    return [(tablet, int(at), total) for at, totals in told.items() for tablet, total in totals.items()]


def base_column(server: StoredServer, rowset: Any, column: ColumnSchema, rows: int) -> list[Any]:
    files = {c.column_id: c.block for c in rowset.columns}
    if column.id in files:
        return [row[0] for row in server.column_file(files[column.id]).cursor().read_block(column=column).to_tuples()]
    default = column.read_default
    if default is None:
        return [None] * rows
    value: Any = int.from_bytes(default, "little", signed=True)
    if column.type.is_binary:
        value = default if column.type.name == "BINARY" else default.decode()
    elif column.type.name == "BOOL":
        value = default != b"\0"
    return [value] * rows


def deltas(server: StoredServer, files: Any, undo: bool, rows: int) -> list[DeltaRun]:
    return [DeltaRun.decode(server.column_file(f.block).cursor().read_block(), undo=undo, rows=rows) for f in files]


def parts_of(schema: Schema, rows: list[tuple[Any, ...]]) -> Iterator[tuple[int, ColumnBlock]]:
    for first in range(0, len(rows), BATCH_ROWS):
        yield first, ColumnBlock.from_tuples(schema, rows[first:first + BATCH_ROWS])


@pytest.mark.parametrize(("tablet_id", "at", "expected"), snapshots_of(fixtures_root()) or
                         [pytest.param("", 0, 0, marks=pytest.mark.skip(reason="no stored directories"))])
def test_older_snapshots_have_the_checksums_that_ksck_reported(stored: StoredServer, tablet_id: str, at: int,
                                                               expected: int) -> None:
    superblock = stored.superblock(tablet_id)
    schema = from_message(superblock).schema
    applier = DeltaApplier(RowLayout(schema), Snapshot(at))
    total = 0
    for rowset in superblock.rowsets:
        count = stored.column_file(rowset.columns[0].block).num_values
        columns = [base_column(stored, rowset, c, count) for c in schema]
        undos = deltas(stored, rowset.undo_deltas, True, count)
        redos = deltas(stored, rowset.redo_deltas, False, count)
        for first, part in parts_of(schema, list(zip(*columns, strict=True))):
            applier.prepare(first, len(part), undos, redos)
            total += checksum(applier.apply(part))
    assert total % 2**64 == expected


def test_counted_statistics_are_those_of_the_footers(stored: StoredServer) -> None:
    seen = 0
    stats_class: Any = message_class("kudu.tablet.DeltaStatsPB")
    for path in (stored.root / "wal" / "tablet-meta").iterdir():
        for rowset in stored.superblock(path.name).rowsets:
            for undo, files in ((True, rowset.undo_deltas), (False, rowset.redo_deltas)):
                for file in files:
                    reader = stored.column_file(file.block)
                    told = DeltaStats.from_pb(stats_class.FromString(reader.metadata["deltafilestats"]))
                    found = DeltaRun.decode(reader.cursor().read_block(), undo=undo).stats
                    assert (found.delete_count, found.reinsert_count, found.update_counts) \
                        == (told.delete_count, told.reinsert_count, told.update_counts)
                    assert (found.min_timestamp, found.max_timestamp) == (told.min_timestamp, told.max_timestamp)
                    seen += 1
    assert seen > 100
