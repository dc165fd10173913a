"""The flushed rowsets of a replica, as bootstrap needs them: opened, and how far back they tell."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kudu_storage._native.block_cache import BlockCache
from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.common.limits import MIB
from kudu_storage.errors import KuduStorageError
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.fs.superblock import Superblock
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.wal.report import Problem

# Enough for key lookups of the log's rows; each block of a column is read once anyway.
_CACHE_BYTES: Final = 64 * MIB
# Kudu's --tablet_history_max_age_sec. A server may have been started with another; what it did to the files tells more.
_HISTORY_SECONDS: Final = 7 * 24 * 3600


def open_rowsets(superblock: Superblock, blocks: BlockManager, cache: BlockCache | None = None) -> list[DiskRowSet]:
    """In the superblock's order. Raises as DiskRowSet.open."""
    cache = cache or BlockCache(_CACHE_BYTES)
    return [DiskRowSet.open(message, blocks, superblock.schema, cache=cache) for message in superblock.message.rowsets]


def damage(error: KuduStorageError) -> Problem:
    """What is wrong with a flushed store. The file is named: the store has many."""
    place = f"{error.path}: " if error.path else ""
    return Problem(error.kind, None, error.offset, f"{place}{error.detail}",
                   error.advice or "no rows are shown; copy the tablet from another replica")


def history_mark(superblock: Superblock, rowsets: Sequence[DiskRowSet], last_timestamp: int) -> int | None:
    """Hybrid time below which snapshots may lack versions; None: nothing tells of one.

    What is known: undo deltas that are gone from a rowset, and the age from which on the server may drop them (deleted
    rows leave no trace of it).
    """
    marks = [mark for mark in (rowset.history_mark() for rowset in rowsets) if mark is not None]
    newest = max((r.max_timestamp or 0 for r in rowsets), default=0)
    newest = max(newest, last_timestamp)
    seconds = history_seconds(superblock)
    if newest and seconds >= 0 and rowsets:
        marks.append(max(0, newest - from_micros(seconds * 1_000_000)))
    return max(marks, default=None)


def history_seconds(superblock: Superblock) -> int:
    """How long a version is kept at least after it was replaced; negative: for ever."""
    config = superblock.message.extra_config
    return int(config.history_max_age_sec) if config.HasField("history_max_age_sec") else _HISTORY_SECONDS
