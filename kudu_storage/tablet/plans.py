"""What maintenance could do for one tablet now: of each step what it would read, write, free and gain, before it runs.

Looks, and changes nothing but the tablet's anchors, which it brings up to date. Blocks on disk where sizes of files are
not known yet. What to do of it is decided in scoring.py; maintenance.py does it.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kudu_storage.tablet import delta_policy
from kudu_storage.tablet.compaction_policy import CompactionPolicy, pick_rowsets
from kudu_storage.tablet.scoring import Candidate, Kind, MaintenancePolicy, flush_gain
from kudu_storage.tablet.store import IN_FLIGHT_OWNER
from kudu_storage.tablet.view import FlushedRowSet

if TYPE_CHECKING:
    from kudu_storage.tablet.maintenance import Maintenance


@dataclass(frozen=True, slots=True)
class Plan:
    """A step. anchors: the log's anchors that it releases. rowset_ids: those that it rewrites or drops."""

    candidate: Candidate
    read_bytes: int = 0
    write_bytes: int = 0
    anchors: tuple[str, ...] = ()
    rowset_ids: tuple[int, ...] = ()


class Planner:
    """Looks at one tablet once.

    Args:
        since: by store, when it was first seen to hold something; the caller keeps it from one look to the next.
        clock: seconds that never go back; tests have their own.
    """

    def __init__(self, maintenance: Maintenance, since: dict[str, float],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._maintenance = maintenance
        self._clock = clock
        self._since = since

    def plans(self, policy: MaintenancePolicy | None = None, compaction: CompactionPolicy | None = None) -> list[Plan]:
        """Everything that could be done. Raises as opening blocks does, TabletClosed, TabletFailed."""
        policy = policy or MaintenancePolicy()
        store, now = self._maintenance.store, self._clock()
        store.require_usable()
        anchors = store.move_anchors()
        # Asked at once: the log grows meanwhile.
        all_bytes, *sizes = store.log_bytes_from([0, *anchors.values()])
        kept = dict(zip(anchors, sizes, strict=True))
        tail = kept[IN_FLIGHT_OWNER]
        held = {owner: size - tail for owner, size in kept.items()}
        known = {owner: self._since.get(owner, now) for owner in anchors}
        self._since.clear()
        self._since.update(known)
        found = [self._log_gc(all_bytes - max(sizes))]
        view = store.view
        for memory in view.memory:
            name = f"memrowset {memory.id}"
            found.append(self._flush("flush_memrowset", name, memory.rows.memory_bytes if memory.rows.row_count else 0,
                                     held, policy, now, memory.rows.content_bytes))
        for flushed in view.flushed:
            found += self._of_rowset(flushed, held, policy, now)
        found.append(self._merge(compaction))
        return [plan for plan in found if plan is not None]

    def _log_gc(self, free: int) -> Plan | None:
        return Plan(self._candidate("log_gc", "log", log_bytes=free, low_io=True)) if free > 0 else None

    def _flush(self, kind: Kind, name: str, memory_bytes: int, held: dict[str, int], policy: MaintenancePolicy,
               now: float, write_bytes: int) -> Plan | None:
        if name not in held or not memory_bytes:
            return None
        gain = flush_gain(memory_bytes, now - self._since[name], policy)
        return Plan(self._candidate(kind, name, log_bytes=held[name], memory_bytes=memory_bytes, gain=gain),
                    write_bytes=write_bytes, anchors=(name,))

    def _of_rowset(self, flushed: FlushedRowSet, held: dict[str, int], policy: MaintenancePolicy,
                   now: float) -> Iterator[Plan | None]:
        name, memory = f"rowset {flushed.id}", flushed.disk.memory
        ids = (flushed.id,)
        yield self._flush("flush_deltas", f"store {flushed.id}/{flushed.store.dms_id}",
                          memory.memory_bytes if memory.change_count else 0, held, policy, now, memory.memory_bytes)
        if flushed.disk.flushing is not None:
            yield self._flush("flush_deltas", f"store {flushed.id}/{flushed.flushing_dms_id}",
                              flushed.disk.flushing.memory_bytes, held, policy, now, flushed.disk.flushing.memory_bytes)
        deltas = self._maintenance.deltas_of(flushed)
        for compaction in (delta_policy.minor_compaction(deltas), delta_policy.major_compaction(deltas)):
            if compaction is not None:
                kind: Kind = "minor_delta" if compaction.kind == "minor" else "major_delta"
                yield Plan(self._candidate(kind, name, gain=compaction.score),
                           compaction.read_bytes, compaction.write_bytes, (), ids)
        mark = self._maintenance.store.coming_history_mark
        ancient = sum(file.file_bytes for file in delta_policy.ancient_undos(deltas, mark))
        if ancient:
            yield Plan(self._candidate("undo_gc", name, disk_bytes=ancient, low_io=True), rowset_ids=ids)
        if delta_policy.is_dead_and_ancient(deltas, mark):
            size = self._maintenance.sizes.facts(flushed).disk_bytes
            yield Plan(self._candidate("rowset_gc", name, disk_bytes=size, low_io=True),
                       anchors=(f"store {flushed.id}/{flushed.store.dms_id}",), rowset_ids=ids)

    def _merge(self, policy: CompactionPolicy | None) -> Plan | None:
        flushed = [rowset for rowset in self._maintenance.store.view.flushed if rowset.disk.row_count]
        chosen = pick_rowsets([self._maintenance.sizes.facts(rowset) for rowset in flushed], policy)
        if chosen is None:
            return None
        stores = tuple(f"store {rowset.id}/{rowset.store.dms_id}" for rowset in flushed
                       if rowset.id in chosen.rowset_ids and rowset.disk.memory.change_count)
        name = "rowsets " + ", ".join(map(str, sorted(chosen.rowset_ids)))
        return Plan(self._candidate("merge", name, gain=chosen.value), chosen.read_bytes, chosen.read_bytes, stores,
                    tuple(sorted(chosen.rowset_ids)))

    def _candidate(self, kind: Kind, target: str, *, log_bytes: int = 0, memory_bytes: int = 0, disk_bytes: int = 0,
                   gain: float = 0.0, low_io: bool = False) -> Candidate:
        return Candidate(kind, self._maintenance.store.tablet_id, target, log_bytes=log_bytes,
                         memory_bytes=memory_bytes, disk_bytes=disk_bytes, gain=gain, low_io=low_io)
