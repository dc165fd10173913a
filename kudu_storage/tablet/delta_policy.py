"""Which deltas to compact, and how; which to forget. Pure.

Each REDO file of a rowset is another place to look on each read, so many small ones become one (minor). Once the
changes weigh enough against the columns they change, they are folded into those columns (major): then reads find them
at no cost.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

# From so many REDO files on, a rowset needs a minor compaction as urgently as anything can (score 1).
REDO_FILES_MAX: Final = 1000
# Major compaction: bytes of changes for a byte of the columns that they change.
MAJOR_RATIO_MIN: Final = 0.1

Kind = Literal["minor", "major"]


@dataclass(frozen=True, slots=True)
class DeltaFileFacts:
    """One delta file, from its footer."""

    block_id: int
    file_bytes: int
    min_timestamp: int
    max_timestamp: int
    delete_count: int = 0
    reinsert_count: int = 0
    update_counts: Mapping[int, int] = field(default_factory=dict)      # by column id


@dataclass(frozen=True, slots=True)
class RowSetDeltas:
    """One rowset's deltas on disk and the columns they change."""

    rowset_id: int
    column_bytes: Mapping[int, int]                 # base data by column id
    redos: tuple[DeltaFileFacts, ...] = ()          # oldest first
    undos: tuple[DeltaFileFacts, ...] = ()
    live_row_count: int | None = None
    memory_max_timestamp: int | None = None         # of the DeltaMemStore; None while it is empty


@dataclass(frozen=True, slots=True)
class DeltaCompaction:
    """One to do. Minor: `block_ids` are adjacent REDO files. Major: all of them, and `column_ids` get new base data."""

    kind: Kind
    rowset_id: int
    block_ids: tuple[int, ...]
    column_ids: tuple[int, ...]
    score: float
    read_bytes: int
    write_bytes: int


def minor_compaction(rowset: RowSetDeltas) -> DeltaCompaction | None:
    """Merge the newest REDO files, going back as long as an older one is no larger than all newer ones together.

    So each change is rewritten a number of times that grows with the logarithm of their number only.
    """
    if len(rowset.redos) < 2:
        return None
    first, newer_bytes = len(rowset.redos) - 1, rowset.redos[-1].file_bytes
    while first and rowset.redos[first - 1].file_bytes <= newer_bytes:
        first -= 1
        newer_bytes += rowset.redos[first].file_bytes
    if first == len(rowset.redos) - 1:      # each is larger than all behind it: the last two, or it would never end
        first -= 1
        newer_bytes += rowset.redos[first].file_bytes
    return DeltaCompaction("minor", rowset.rowset_id, tuple(f.block_id for f in rowset.redos[first:]), (),
                           min(1.0, len(rowset.redos) / REDO_FILES_MAX), newer_bytes, newer_bytes)


def major_compaction(rowset: RowSetDeltas) -> DeltaCompaction | None:
    """Fold the changes of all REDO files into the columns they change, if they weigh enough against these."""
    columns = sorted({column for file in rowset.redos for column in file.update_counts})
    redo_bytes = sum(file.file_bytes for file in rowset.redos)
    base_bytes = sum(rowset.column_bytes.get(column, 0) for column in columns)
    if not columns or redo_bytes == 0:
        return None
    ratio = redo_bytes / base_bytes if base_bytes else 1.0
    if ratio < MAJOR_RATIO_MIN:
        return None
    # New base data, and an UNDO for each REDO.
    return DeltaCompaction("major", rowset.rowset_id, tuple(f.block_id for f in rowset.redos), tuple(columns),
                           min(1.0, ratio), redo_bytes + base_bytes, redo_bytes + base_bytes)


def worst_deltas(rowsets: Iterable[RowSetDeltas], kind: Kind) -> DeltaCompaction | None:
    """The delta compaction with the highest score, or None. `rowsets`: those free for compaction."""
    choose = minor_compaction if kind == "minor" else major_compaction
    found = [c for c in map(choose, rowsets) if c is not None]
    return max(found, key=lambda c: (c.score, -c.rowset_id), default=None)


def ancient_undos(rowset: RowSetDeltas, history_mark: int) -> Sequence[DeltaFileFacts]:
    """UNDO files that no snapshot within the history can need: all they hold happened before the mark."""
    return [file for file in rowset.undos if file.max_timestamp < history_mark]


def is_dead_and_ancient(rowset: RowSetDeltas, history_mark: int) -> bool:
    """No row is live, and none was since the mark: the rowset can go as a whole.

    The last row died with one of the REDOs, so all of them being ancient is enough. Without REDO no row of it died, and
    it is not touched.
    """
    if rowset.live_row_count != 0:
        return False
    latest = [file.max_timestamp for file in rowset.redos]
    if rowset.memory_max_timestamp is not None:
        latest.append(rowset.memory_max_timestamp)
    return bool(latest) and max(latest) < history_mark
