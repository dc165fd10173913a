"""What maintenance knows of a process's tablets, as values. Pure: whoever holds a tablet fills them in.

Times are seconds since 1970, unless a name says otherwise; log bytes count from the operation of an index to the log's
end, as LogSink.bytes_from() tells them.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.delta_policy import RowSetDeltas
from kudu_storage.tablet.rowset_layout import RowSetFacts


def memrowset_name(memrowset_id: int) -> str:
    """What anchors and plans call a MemRowSet."""
    return f"memrowset {memrowset_id}"


def delta_store_name(rowset_id: int, dms_id: int) -> str:
    """What anchors and plans call a DeltaMemStore."""
    return f"store {rowset_id}/{dms_id}"


@dataclass(frozen=True, slots=True)
class AnchorFacts:
    """Someone who keeps the log from an operation on. since: when that operation was written, or came to be held."""

    owner: str
    log_index: int
    log_bytes: int
    since: float

    def to_json(self, now: float) -> dict[str, Any]:
        return {"owner": self.owner, "log_index": self.log_index, "log_bytes": self.log_bytes, "since": self.since,
                "held_seconds": max(0.0, now - self.since)}


@dataclass(frozen=True, slots=True)
class StoreInMemory:
    """A MemRowSet, or the DeltaMemStore of a rowset, that holds something. anchor: named as the store is."""

    memory_bytes: int
    anchor: AnchorFacts
    rowset_id: int | None = None        # None: a MemRowSet

    @property
    def name(self) -> str:
        return self.anchor.owner


@dataclass(frozen=True, slots=True)
class LogFacts:
    """A tablet's log. other_anchors: of what no flush frees, such as operations in flight, readers, copies."""

    bytes: int = 0
    collectable_bytes: int = 0          # of segments that nobody needs
    collectable_count: int = 0          # those segments
    other_anchors: tuple[AnchorFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class TabletFacts:
    """One tablet at one moment.

    rowsets: all that are flushed and hold rows. deltas: of those, and of any others; by rowset id in any order.
    history_mark: hybrid time below which no snapshot may be asked for any more.
    priority, compaction_disabled: of the table's extra configuration.
    """

    tablet_id: str
    now: float
    stores: tuple[StoreInMemory, ...] = ()
    rowsets: tuple[RowSetFacts, ...] = ()
    deltas: tuple[RowSetDeltas, ...] = ()
    log: LogFacts = LogFacts()
    history_mark: int = 0
    priority: int = 0
    compaction_disabled: bool = False

    @property
    def memory_bytes(self) -> int:
        return sum(store.memory_bytes for store in self.stores)

    @property
    def anchors(self) -> tuple[AnchorFacts, ...]:
        """All of them, lowest index first: the first one decides what the log keeps."""
        held = (*(store.anchor for store in self.stores), *self.log.other_anchors)
        return tuple(sorted(held, key=lambda anchor: (anchor.log_index, anchor.owner)))

    def rowset(self, rowset_id: int) -> RowSetFacts | None:
        return next((rowset for rowset in self.rowsets if rowset.id == rowset_id), None)

    def deltas_of(self, rowset_id: int) -> RowSetDeltas | None:
        return next((deltas for deltas in self.deltas if deltas.rowset_id == rowset_id), None)


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What stores in memory use in this process, and how much they may.

    pressure_share: from so much of the budget on, flushing comes first (Kudu's --memory_pressure_percentage).
    """

    used_bytes: int
    budget_bytes: int
    pressure_share: float = 0.6

    def __post_init__(self) -> None:
        if self.budget_bytes <= 0 or not 0 < self.pressure_share <= 1:
            raise InvalidArgument("a memory budget and the share of it that is pressure are above 0")

    @property
    def used_share(self) -> float:
        return self.used_bytes / self.budget_bytes

    @property
    def is_short(self) -> bool:
        return self.used_share >= self.pressure_share


def anchors_of(held: Mapping[str, tuple[int, float]], log_bytes: Mapping[int, int]) -> tuple[AnchorFacts, ...]:
    """Anchors of what is held, (index, since) by owner. log_bytes: by index."""
    return tuple(AnchorFacts(owner, index, log_bytes[index], since)
                 for owner, (index, since) in sorted(held.items(), key=lambda item: (item[1][0], item[0])))


def bytes_from(segments: Iterable[tuple[int | None, int]], index: int) -> int:
    """Bytes of a log from the segment on that holds an operation. segments: (last index, bytes), oldest first.

    A segment of which no index is known (it holds none, or is being written) counts when one before it does, or when no
    closed one holds the operation.
    """
    total, found, tail = 0, False, 0
    for last_index, size in segments:
        if last_index is None:
            total += size if found else 0
            tail = tail + size
            continue
        tail = 0
        found = found or last_index >= index
        total += size if found else 0
    return total if found else tail
