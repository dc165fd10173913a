"""Megabytes a second of flushes and compactions, by processor time and by the clock.

    python bench/flush.py [--rows N] [--strings N] [--folder DIR]

Loadgen-like rows: a growing INT64 key, a random INT32, random STRINGs of 32 characters. Megabytes are those of the
cells. Steps: a MemRowSet to disk; a merge of two rowsets whose keys interleave; each row's INT32 changed and the deltas
to disk, twice; the two REDO files into one; all of it into the column; the merge again, with the REDO files. Memory:
how much the process's peak grew.
"""
from __future__ import annotations

import argparse
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kudu_storage._native.applier import Applier
from kudu_storage._native.delta import encode_change
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.disk import Disk
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage.common import types
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.blocks.directories import create_directories
from kudu_storage.tablet.compaction import (
    MergeInput,
    RowSetCompaction,
    RowSetFiles,
    compact_columns,
    compact_redos,
    flush_delta_store,
)
from kudu_storage.tablet.rowset_writer import flush_mem_rowset

BATCH = 2000


def schema_of(strings: int) -> tuple[Schema, Schema]:
    """The tablet's and a client's."""
    plain = [ColumnSchema("key", types.BY_NAME["INT64"], is_key=True, id=0), ColumnSchema(
        "int_val", types.BY_NAME["INT32"], id=1)]
    plain += [ColumnSchema(f"string_{i}", types.BY_NAME["STRING"], id=2 + i) for i in range(strings)]
    client = [ColumnSchema(c.name, c.type, is_key=c.is_key) for c in plain]
    return Schema(tuple(plain)), Schema(tuple(client))


def filled(schema: Schema, client: Schema, keys: range, timestamp: int) -> tuple[MemRowSet, RowLayout]:
    layout, rows = RowLayout(schema), MemRowSet()
    rows.add_layout(layout)
    rows.share()
    projection = Projection(client, layout)
    applier = Applier(rows, layout, projection, store_id=0)
    rng = random.Random(keys.start)
    for at in range(0, len(keys), BATCH):
        operations = []
        for key in keys[at:at + BATCH]:
            cells: dict[int, bytes | None] = {0: struct.pack("<q", key), 1: struct.pack("<i", rng.randrange(1 << 31))}
            cells.update((i, rng.randbytes(16).hex().encode()) for i in range(2, len(schema)))
            operations.append((RowOp.INSERT, cells))
        applier.apply_logged(*encode_row_operations(operations, client), projection, 1, at + 1, timestamp + at)
    return rows, layout


def measured(what: str, megabytes: float, work: Callable[[], Any]) -> Any:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, real = time.process_time(), time.monotonic()
    result = work()
    cpu, real = time.process_time() - cpu, time.monotonic() - real
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(f"{what:34} {megabytes / cpu:8.1f} MB/s of processor {megabytes / real:8.1f} MB/s by the clock "
          f"{cpu:7.3f} s  peak +{grown:.0f} MiB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--strings", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        run(Path(folder), given.rows, given.strings)


def run(folder: Path, row_count: int, strings: int) -> None:
    create_directories([folder], [f"{1:032x}"], "log", Disk())
    blocks = open_block_manager([folder])
    schema, client = schema_of(strings)
    megabytes = row_count * (12 + 32 * strings) / 1e6
    ids = iter(range(100))

    def flushed(rows: MemRowSet, layout: RowLayout) -> Any:
        with blocks.transaction() as transaction:
            [written] = flush_mem_rowset(rows, layout, Snapshot.everything(), transaction, lambda: next(ids),
                                         target_bytes=1 << 40)
            transaction.commit()
            return written

    rows, layout = filled(schema, client, range(0, 2 * row_count, 2), 1000)
    first = measured("flush of a MemRowSet", megabytes, partial(flushed, rows, layout))
    size = first.file_bytes / 1e6
    print(f"  {megabytes:.1f} MB of cells, {size:.1f} MB of files; {first.undo.file_bytes / 1e6:.1f} MB of them UNDO")

    other, other_layout = filled(schema, client, range(1, 2 * row_count, 2), 1000)
    second = flushed(other, other_layout)
    del rows, other

    def merge() -> None:
        compaction = RowSetCompaction([MergeInput(RowSetFiles(blocks, rowset.message)) for rowset in (first, second)],
                                      layout, Snapshot.everything())
        with blocks.transaction() as transaction:
            compaction.write(transaction, lambda: next(ids))
            transaction.commit()

    measured("merge of two rowsets", 2 * megabytes, merge)

    def changed(timestamp: int) -> Any:
        store = DeltaMemStore(row_count)
        rng = random.Random(timestamp)
        for row in range(row_count):
            store.add(row, timestamp, encode_change("UPDATE", {1: struct.pack("<i", rng.randrange(1 << 31))}))

        def flush() -> Any:
            with blocks.transaction() as transaction:
                _, file = flush_delta_store(store, timestamp, transaction)
                transaction.commit()
                return file
        return measured("flush of a DeltaMemStore", len(store) * 7 / 1e6, flush)

    for timestamp in (10_000_000, 20_000_000):
        first.add_redo(changed(timestamp))
    files = RowSetFiles(blocks, first.message)
    redo_bytes = sum(file.file_bytes for file in first.redos) / 1e6

    def minor() -> None:
        with blocks.transaction() as transaction:
            compact_redos(files, files.redo_ids, transaction)
            transaction.commit()

    def major() -> None:
        with blocks.transaction() as transaction:
            compact_columns(files, layout, [1], transaction)
            transaction.commit()

    measured("minor compaction of two files", redo_bytes, minor)
    measured("major compaction of one column", redo_bytes + row_count * 4 / 1e6, major)
    measured("merge of the same, with REDOs", 2 * megabytes, merge)
    blocks.close()


if __name__ == "__main__":
    main()
