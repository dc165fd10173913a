"""Tablets for tests of maintenance: facts by hand, and one that a scheduler can drive."""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from kudu_storage.tablet.delta_policy import DeltaFileFacts, RowSetDeltas
from kudu_storage.tablet.maintenance_facts import (
    AnchorFacts,
    LogFacts,
    StoreInMemory,
    TabletFacts,
    delta_store_name,
    memrowset_name,
)
from kudu_storage.tablet.maintenance_plan import Plan, plan_of
from kudu_storage.tablet.maintenance_policy import Action
from kudu_storage.tablet.rowset_layout import RowSetFacts

MIB = 1 << 20
NOW = 1_000_000.0
TABLET = "0123456789abcdef0123456789abcdef"


def rows_in_memory(memory_bytes: int = MIB, log_bytes: int = MIB, age_s: float = 0, *, store_id: int = 1,
                   log_index: int = 1, now: float = NOW) -> StoreInMemory:
    return StoreInMemory(memory_bytes, AnchorFacts(memrowset_name(store_id), log_index, log_bytes, now - age_s))


def changes_in_memory(rowset_id: int, memory_bytes: int = MIB, log_bytes: int = MIB, age_s: float = 0, *,
                      dms_id: int = 0, log_index: int = 1, now: float = NOW) -> StoreInMemory:
    anchor = AnchorFacts(delta_store_name(rowset_id, dms_id), log_index, log_bytes, now - age_s)
    return StoreInMemory(memory_bytes, anchor, rowset_id)


def rowset(rowset_id: int, low: int, high: int, data_bytes: int = 32 * MIB) -> RowSetFacts:
    return RowSetFacts(rowset_id, low.to_bytes(8, "big"), high.to_bytes(8, "big"), data_bytes, data_bytes + MIB)


def delta_file(block_id: int, file_bytes: int = MIB, first: int = 1000, last: int = 2000, *, deletes: int = 0,
               updates: Mapping[int, int] | None = None) -> DeltaFileFacts:
    return DeltaFileFacts(block_id, file_bytes, first, last, deletes, 0, {11: 5} if updates is None else updates)


def deltas(rowset_id: int, redos: Sequence[DeltaFileFacts] = (), undos: Sequence[DeltaFileFacts] = (), *,
           column_bytes: Mapping[int, int] | None = None, live: int | None = 10) -> RowSetDeltas:
    return RowSetDeltas(rowset_id, column_bytes or {10: 10 * MIB, 11: 10 * MIB}, tuple(redos), tuple(undos), live)


def anchor(owner: str, log_index: int, log_bytes: int, age_s: float = 0) -> AnchorFacts:
    return AnchorFacts(owner, log_index, log_bytes, NOW - age_s)


def tablet(*stores: StoreInMemory, tablet_id: str = TABLET, rowsets: Sequence[RowSetFacts] = (),
           deltas: Sequence[RowSetDeltas] = (), log: LogFacts | None = None, history_mark: int = 0, priority: int = 0,
           compaction_disabled: bool = False) -> TabletFacts:
    return TabletFacts(tablet_id, NOW, tuple(stores), tuple(rowsets), tuple(deltas), log or LogFacts(), history_mark,
                       priority, compaction_disabled)


class FakeTablet:
    """Gives the facts that a test sets, runs what the test says. `ran`: the actions begun, in order."""

    def __init__(self, facts: TabletFacts | None, run: Callable[[Action], bool] | None = None) -> None:
        self.current = facts
        self.tablet_id = TABLET if facts is None else facts.tablet_id
        self.ran: list[Action] = []
        self.facts_error: Exception | None = None
        self._run = run

    def facts(self) -> TabletFacts | None:
        if self.facts_error is not None:
            raise self.facts_error
        return self.current

    def plan(self, action: Action) -> Plan:
        assert self.current is not None
        return plan_of(self.current, action)

    def run(self, action: Action) -> bool:
        self.ran.append(action)
        return True if self._run is None else self._run(action)


class ManualClock:
    """Stands still, unless told. A thread that waits goes on when told or notified; `waits` counts how often one began
    to."""

    def __init__(self) -> None:
        self.time = 100.0
        self.waits = 0
        self.waiting = threading.Semaphore(0)

    def now(self) -> float:
        return self.time

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self.waits += 1
        self.waiting.release()
        condition.wait()
