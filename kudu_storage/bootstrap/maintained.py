"""An open tablet as the scheduler of this process sees it: facts from its view and its log, actions to its maintenance.

 M1  Facts are of one view; a store that is flushed meanwhile is left out, one that comes meanwhile is in the next ones.
 M2  Log bytes of a store are those that its flush could free: the segment being written is not among them, as in Kudu.
 M3  An action does what it was chosen for as far as that is still there: others may have flushed or compacted since.
The tablet holds this, the scheduler does so weakly. May not touch: files, but through the objects it is given.
"""
from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kudu_storage.errors import KuduStorageError, TabletClosed, TabletFailed
from kudu_storage.fs.superblock import Superblock
from kudu_storage.tablet.maintenance import Done, Maintenance
from kudu_storage.tablet.maintenance_facts import (
    AnchorFacts,
    LogFacts,
    MemoryFacts,
    StoreInMemory,
    TabletFacts,
    delta_store_name,
    memrowset_name,
)
from kudu_storage.tablet.maintenance_plan import Plan, plan_of
from kudu_storage.tablet.maintenance_policy import Action, Policy, possible_actions
from kudu_storage.tablet.scheduler import Scheduler
from kudu_storage.tablet.store import TabletStore
from kudu_storage.tablet.view import View
from kudu_storage.wal.log import Log

_BEYOND_INDEX: Final = 1 << 62      # no closed segment holds an operation from it on


class MaintainedTablet:
    """Implements tablet.scheduler.Maintained. clock: seconds since 1970, the one of the log's anchors."""

    def __init__(self, superblock: Superblock, store: TabletStore, log: Log, maintenance: Maintenance, *,
                 clock: Callable[[], float] = time.time) -> None:
        self.tablet_id = store.tablet_id
        self._config = superblock.message.extra_config
        self._store = store
        self._log = log
        self._maintenance = maintenance
        self._clock = clock

    # -- facts ---------------------------------------------------------------------------------------------------------
    def facts(self) -> TabletFacts | None:
        """As of now; None: closed or failed. Raises as opening blocks does, for files not looked at before."""
        try:
            self._store.require_usable()
        except (TabletClosed, TabletFailed):
            return None
        view = self._store.view
        anchors = self._anchors()
        stores = tuple(_stores(view, {anchor.owner: anchor for anchor in anchors}))
        named = {store.name for store in stores}
        others = tuple(anchor for anchor in anchors if anchor.owner not in named)
        sizes = self._maintenance.sizes
        return TabletFacts(
            self.tablet_id, self._clock(), stores,
            tuple(sizes.facts(flushed) for flushed in view.flushed if flushed.disk.row_count),
            tuple(map(self._maintenance.deltas_of, view.flushed)), self._log_facts(others),
            self._store.coming_history_mark, self._config.maintenance_priority, self._config.disable_compaction)

    def _anchors(self) -> list[AnchorFacts]:
        self._store.move_anchors()
        held = self._log.anchors.holders()
        *sizes, tail = self._store.log_bytes_from([*(anchor.index for anchor in held), _BEYOND_INDEX])
        return [AnchorFacts(anchor.owner, anchor.index, max(0, size - tail), anchor.since)
                for anchor, size in zip(held, sizes, strict=True)]

    def _log_facts(self, others: tuple[AnchorFacts, ...]) -> LogFacts:
        plan = self._log.gc_plan()
        return LogFacts(self._store.log_bytes_from([0])[0], plan.bytes, len(plan.remove), others)

    # -- plans and actions ---------------------------------------------------------------------------------------------
    def plan(self, action: Action, policy: Policy | None = None) -> Plan:
        """What the action would do now. Raises TabletClosed, TabletFailed."""
        return plan_of(self._facts_or_error(), action, policy)

    def plans(self, memory: MemoryFacts, policy: Policy | None = None) -> list[Plan]:
        """Of everything that could be done now. Raises as plan()."""
        facts, policy = self._facts_or_error(), policy or Policy()
        return [plan_of(facts, option.action, policy) for option in possible_actions(facts, policy, memory=memory)]

    def _facts_or_error(self) -> TabletFacts:
        facts = self.facts()
        if facts is None:
            self._store.require_usable()
            raise TabletClosed("the tablet was closed meanwhile")
        return facts

    def run(self, action: Action) -> bool:
        """Do it (M3). Raises what the step raises; of several rowsets all are tried first."""
        if action.kind == "log_gc":
            return self._store.collect_log() > 0
        if action.kind == "flush_memrowset":
            return self._maintenance.flush_memory() is not None
        if action.kind == "merge":
            return self._maintenance.merge(action.rowset_ids) is not None
        steps: dict[str, Callable[[int], Done | None]] = {
            "flush_deltas": self._maintenance.flush_deltas, "minor_delta": self._maintenance.compact_redos,
            "major_delta": self._maintenance.compact_columns, "undo_gc": self._maintenance.forget_undos,
            "rowset_gc": self._maintenance.forget_rowset}
        return _each(steps[action.kind], action.rowset_ids)


class SchedulerCare:
    """Implements tablet.ports.Care: the scheduler, for one tablet's store. Does not keep the tablet."""

    def __init__(self, scheduler: Scheduler, tablet: MaintainedTablet) -> None:
        self._scheduler = scheduler
        self._tablet = weakref.ref(tablet)

    def weighed(self, memory_bytes: int, log_bytes: int) -> None:
        tablet = self._tablet()
        if tablet is not None:
            self._scheduler.weighed(tablet, memory_bytes, log_bytes)

    @property
    def has_room(self) -> bool:
        return self._scheduler.has_room

    def wait_for_room(self, timeout: float | None) -> None:
        tablet = self._tablet()
        if tablet is not None:
            self._scheduler.wait_for_room(tablet, timeout)


def _each(step: Callable[[int], Done | None], rowset_ids: Iterable[int]) -> bool:
    done, error = False, None
    for rowset_id in rowset_ids:
        try:
            done |= step(rowset_id) is not None
        except KuduStorageError as raised:
            error = error or raised
    if error is not None:
        raise error
    return done


def _stores(view: View, anchors: dict[str, AnchorFacts]) -> Iterator[StoreInMemory]:
    """Those that hold something and have their anchor (M1)."""
    for memory in view.memory:
        name = memrowset_name(memory.id)
        if memory.rows.row_count and name in anchors:
            yield StoreInMemory(memory.rows.memory_bytes, anchors[name])
    for flushed in view.flushed:
        for changes, dms_id in ((flushed.disk.flushing, flushed.flushing_dms_id),
                                (flushed.disk.memory, flushed.store.dms_id)):
            if changes is None or dms_id is None or not changes.change_count:
                continue
            name = delta_store_name(flushed.id, dms_id)
            if name in anchors:
                yield StoreInMemory(changes.memory_bytes, anchors[name], flushed.id)
