"""The flushed rowsets of a replica, as bootstrap needs them: opened, their live rows, and how far back they tell."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.limits import MIB
from kudu_storage.common.schema import Schema
from kudu_storage.errors import KuduStorageError
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.fs.superblock import Superblock
from kudu_storage.tablet.disk_rowset import BATCH_ROWS, DiskRowSet
from kudu_storage.wal.report import Problem

# Enough for key lookups of the log's rows; each block of a column is read once anyway.
_CACHE_BYTES: Final = 64 * MIB
# Kudu's --tablet_history_max_age_sec. A server may have been started with another; what it did to the files tells more.
_HISTORY_SECONDS: Final = 7 * 24 * 3600


def open_rowsets(superblock: Superblock, blocks: BlockManager) -> list[DiskRowSet]:
    """In the superblock's order. Raises as DiskRowSet.open."""
    cache = BlockCache(_CACHE_BYTES)
    return [DiskRowSet.open(message, blocks, superblock.schema, cache=cache) for message in superblock.message.rowsets]


def damage(error: KuduStorageError) -> Problem:
    """What is wrong with a flushed store. The file is named: the store has many."""
    place = f"{error.path}: " if error.path else ""
    return Problem(error.kind, None, error.offset, f"{place}{error.detail}",
                   error.advice or "no rows are shown; copy the tablet from another replica")


def live_rows(rowset: DiskRowSet) -> bytes:
    """A byte a row, 1: the rowset's files show it at last."""
    applier = DeltaApplier(RowLayout(Schema(())), Snapshot.everything())
    redos = [file.window() for file in rowset.redo_files]
    parts = []
    for first in range(0, rowset.row_count, BATCH_ROWS):
        count = min(BATCH_ROWS, rowset.row_count - first)
        applier.prepare(first, count, [], [run for w in redos for run in w.runs(first, first + count)])
        parts.append(applier.selection())
    return b"".join(parts)


def history_mark(superblock: Superblock, rowsets: Sequence[DiskRowSet], last_timestamp: int) -> int | None:
    """Hybrid time below which snapshots may lack versions; None: nothing tells of one.

    What is known: undo deltas that are gone from a rowset, and the age from which on the server may drop them (deleted
    rows leave no trace of it).
    """
    marks = [mark for mark in (rowset.history_mark() for rowset in rowsets) if mark is not None]
    newest = max((r.max_timestamp or 0 for r in rowsets), default=0)
    newest = max(newest, last_timestamp)
    config = superblock.message.extra_config
    seconds = config.history_max_age_sec if config.HasField("history_max_age_sec") else _HISTORY_SECONDS
    if newest and seconds >= 0 and rowsets:
        marks.append(max(0, newest - from_micros(seconds * 1_000_000)))
    return max(marks, default=None)
