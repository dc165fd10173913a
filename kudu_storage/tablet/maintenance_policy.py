"""What a process's tablets could do for their stores, and which of it comes next. Pure.

scoring.py has the order (Kudu's util/maintenance_manager.cc) and the gain of a flush; here the facts of tablets become
its candidates, one of each kind at most for a tablet, as Kudu's operations are:
 flush_memrowset  all rows in memory; as old as the oldest change in them
 flush_deltas     the store that holds most log; the fuller memory is, the more its size counts instead
 minor_delta      the rowset with most REDO files             major_delta  the one with most changes for its size
 merge            the set of rowsets that lowers the tablet's height most, within the budget
 undo_gc          all UNDO files below the history mark       rowset_gc    all rowsets dead since before it
 log_gc           segments that nobody needs
 P1  What a running action rewrites, and what failed lately, is not chosen: Withheld says so. The rest of the tablet is.
 P2  Merging rowsets most of whose history could be dropped unread waits for undo_gc (Kudu's
     --rowset_compaction_ancient_delta_max_ratio).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, TypeVar

from kudu_storage.tablet.compaction_policy import Compaction, CompactionPolicy, pick_rowsets
from kudu_storage.tablet.delta_policy import RowSetDeltas, ancient_undos, is_dead_and_ancient, worst_deltas
from kudu_storage.tablet.maintenance_facts import MemoryFacts, StoreInMemory, TabletFacts
from kudu_storage.tablet.rowset_layout import RowSetFacts
from kudu_storage.tablet.scoring import (
    Candidate,
    Kind,
    MaintenancePolicy,
    Reason,
    StoreFacts,
    choose,
    flush_gain,
    store_to_flush,
)

# Kudu's --maintenance_op_multiplier and --max_priority_range.
PRIORITY_FACTOR: Final = 1.1
PRIORITY_MAX: Final = 5
# Kudu's --rowset_compaction_ancient_delta_max_ratio.
ANCIENT_SHARE_MAX: Final = 0.2
# At most one of each at a time in a tablet, whatever it works on.
_ONE_AT_A_TIME: Final[frozenset[Kind]] = frozenset({"flush_memrowset", "merge", "log_gc", "undo_gc", "rowset_gc"})
_REMEMBERED_LAYOUTS: Final = 256

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Policy:
    """All bounds: of what is done, and of one merge."""

    maintenance: MaintenancePolicy = field(default_factory=MaintenancePolicy)
    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. What a tablet needs to do exactly that; reason and text: why it was chosen."""

    kind: Kind
    tablet_id: str
    target: str = ""                        # stores and rowsets, as anchors name them
    rowset_ids: tuple[int, ...] = ()
    block_ids: tuple[int, ...] = ()         # delta files: REDOs to compact, UNDOs to drop
    column_ids: tuple[int, ...] = ()        # that a major compaction gives new base data
    reason: Reason | None = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tablet_id": self.tablet_id, "target": self.target,
                "rowset_ids": list(self.rowset_ids), "block_ids": list(self.block_ids),
                "column_ids": list(self.column_ids), "reason": self.reason, "text": self.text}


@dataclass(frozen=True, slots=True)
class Option:
    """An action that could be taken, and what it is judged by."""

    action: Action
    candidate: Candidate

    def to_json(self) -> dict[str, Any]:
        candidate = self.candidate
        return {"kind": candidate.kind, "target": candidate.target, "log_bytes": candidate.log_bytes,
                "memory_bytes": candidate.memory_bytes, "disk_bytes": candidate.disk_bytes, "gain": candidate.gain}


@dataclass(frozen=True, slots=True)
class Withheld:
    """What of one tablet is not to be chosen (P1)."""

    kinds: frozenset[Kind] = frozenset()                            # nothing of these kinds
    rowset_ids: frozenset[int] = frozenset()                        # nothing on these rowsets
    failed: frozenset[tuple[Kind, int]] = frozenset()               # nothing of that kind on that rowset

    def takes(self, kind: Kind, rowset_id: int) -> bool:
        return rowset_id not in self.rowset_ids and (kind, rowset_id) not in self.failed

    def joined(self, other: Withheld) -> Withheld:
        return Withheld(self.kinds | other.kinds, self.rowset_ids | other.rowset_ids, self.failed | other.failed)


NOTHING_WITHHELD: Final = Withheld()


def withheld_while_running(action: Action) -> Withheld:
    """What nobody else may begin in that action's tablet before it ends."""
    kinds = frozenset({action.kind}) & _ONE_AT_A_TIME
    return Withheld(kinds, frozenset(action.rowset_ids))


# -- the choice --------------------------------------------------------------------------------------------------------
def next_action(tablets: Mapping[Key, TabletFacts], memory: MemoryFacts, policy: Policy, *,
                dice: Callable[[], float], withheld: Mapping[Key, Withheld] | None = None) -> tuple[Key, Action] | None:
    """The one thing to do now, with its reason, and for which tablet; or None: nothing is worth it.

    tablets, withheld: by any key, since a process may hold several replicas of one tablet. dice: a number from 0 to 1,
    asked only where chance decides.
    """
    options = [(key, option) for key, facts in tablets.items()
               for option in possible_actions(facts, policy, memory=memory,
                                              withheld=(withheld or {}).get(key, NOTHING_WITHHELD))]
    decision = choose([option.candidate for _, option in options], policy.maintenance, memory_pressure=memory.is_short,
                      dice=dice)
    if decision is None:
        return None
    key, chosen = next((key, option) for key, option in options if option.candidate is decision.candidate)
    return key, replace(chosen.action, reason=decision.reason, text=decision.text)


def possible_actions(facts: TabletFacts, policy: Policy, *, memory: MemoryFacts,
                     withheld: Withheld = NOTHING_WITHHELD) -> list[Option]:
    """All that could be done for one tablet."""
    found = (*_flushes(facts, policy.maintenance, memory, withheld), *_compactions(facts, policy, withheld),
             *_collections(facts, withheld))
    return [_with_priority(option, facts.priority) for option in found if option.action.kind not in withheld.kinds]


def _with_priority(option: Option, priority: int) -> Option:
    factor = PRIORITY_FACTOR ** max(-PRIORITY_MAX, min(PRIORITY_MAX, priority))
    if factor == 1 or not option.candidate.gain:
        return option
    return Option(option.action, replace(option.candidate, gain=option.candidate.gain * factor))


def _option(facts: TabletFacts, kind: Kind, target: str, *, rowset_ids: Sequence[int] = (),
            block_ids: Sequence[int] = (), column_ids: Sequence[int] = (), **scores: Any) -> Option:
    return Option(Action(kind, facts.tablet_id, target, tuple(rowset_ids), tuple(block_ids), tuple(column_ids)),
                  Candidate(kind, facts.tablet_id, target, **scores))


def rowsets_text(rowset_ids: Sequence[int]) -> str:
    """What plans call several rowsets."""
    return f"rowset{'' if len(rowset_ids) == 1 else 's'} {', '.join(map(str, rowset_ids))}"


# -- flushes -----------------------------------------------------------------------------------------------------------
def _flushes(facts: TabletFacts, policy: MaintenancePolicy, memory: MemoryFacts, withheld: Withheld
             ) -> Iterator[Option]:
    rows = [store for store in facts.stores if store.rowset_id is None]
    if rows:
        size, age = sum(store.memory_bytes for store in rows), max(_age_s(facts, store) for store in rows)
        yield _option(facts, "flush_memrowset", ", ".join(store.name for store in rows), memory_bytes=size,
                      log_bytes=max(store.anchor.log_bytes for store in rows), gain=flush_gain(size, age, policy))
    changes = {store.name: store for store in facts.stores
               if store.rowset_id is not None and withheld.takes("flush_deltas", store.rowset_id)}
    best = store_to_flush((StoreFacts(name, store.memory_bytes, store.anchor.log_bytes, _age_s(facts, store))
                           for name, store in changes.items()), memory.used_share if memory.is_short else 0.0)
    if best is not None:
        # By the age of the oldest, as in Kudu: it is the one that is flushed, or among those of the log's last segment.
        age = max(_age_s(facts, store) for store in changes.values())
        rowset_id = changes[best.name].rowset_id
        assert rowset_id is not None
        yield _option(facts, "flush_deltas", best.name, rowset_ids=[rowset_id], memory_bytes=best.memory_bytes,
                      log_bytes=best.log_bytes, gain=flush_gain(best.memory_bytes, age, policy))


def _age_s(facts: TabletFacts, store: StoreInMemory) -> float:
    return max(0.0, facts.now - store.anchor.since)


# -- compactions -------------------------------------------------------------------------------------------------------
def _compactions(facts: TabletFacts, policy: Policy, withheld: Withheld) -> Iterator[Option]:
    if facts.compaction_disabled:
        return
    minor = worst_deltas((d for d in facts.deltas if withheld.takes("minor_delta", d.rowset_id)), "minor")
    if minor is not None:
        yield _option(facts, "minor_delta", rowsets_text([minor.rowset_id]), rowset_ids=[minor.rowset_id],
                      block_ids=minor.block_ids, gain=minor.score)
    major = worst_deltas((d for d in facts.deltas if withheld.takes("major_delta", d.rowset_id)), "major")
    if major is not None:
        yield _option(facts, "major_delta", rowsets_text([major.rowset_id]), rowset_ids=[major.rowset_id],
                      block_ids=major.block_ids, column_ids=major.column_ids, gain=major.score)
    if "merge" in withheld.kinds:
        return
    free = tuple(r for r in facts.rowsets if withheld.takes("merge", r.id))
    merge = _best_merge(free, policy.compaction)
    if merge is not None and _ancient_share(facts, merge.rowset_ids) <= ANCIENT_SHARE_MAX:
        yield _option(facts, "merge", rowsets_text(merge.rowset_ids), rowset_ids=merge.rowset_ids, gain=merge.value)


@lru_cache(_REMEMBERED_LAYOUTS)
def _best_merge(rowsets: tuple[RowSetFacts, ...], policy: CompactionPolicy) -> Compaction | None:
    """Remembered: finding it is the costly part of a look that is taken several times a second, and layouts change
    with a flush or compaction only."""
    return pick_rowsets(rowsets, policy)


def _ancient_share(facts: TabletFacts, rowset_ids: Sequence[int]) -> float:
    """Of the bytes of those rowsets' UNDO files, those below the history mark."""
    chosen = [deltas for deltas in facts.deltas if deltas.rowset_id in rowset_ids]
    whole = sum(file.file_bytes for deltas in chosen for file in deltas.undos)
    ancient = sum(file.file_bytes for deltas in chosen for file in ancient_undos(deltas, facts.history_mark))
    return ancient / whole if whole else 0.0


# -- what can go -------------------------------------------------------------------------------------------------------
def _collections(facts: TabletFacts, withheld: Withheld) -> Iterator[Option]:
    ancient = [(d, ancient_undos(d, facts.history_mark)) for d in facts.deltas
               if withheld.takes("undo_gc", d.rowset_id)]
    ancient = [(deltas, files) for deltas, files in ancient if files]
    if ancient:
        ids = [deltas.rowset_id for deltas, _ in ancient]
        yield _option(facts, "undo_gc", rowsets_text(ids), rowset_ids=ids,
                      block_ids=[file.block_id for _, files in ancient for file in files],
                      disk_bytes=sum(file.file_bytes for _, files in ancient for file in files))
    dead = [deltas.rowset_id for deltas in facts.deltas if withheld.takes("rowset_gc", deltas.rowset_id)
            and is_dead_and_ancient(deltas, facts.history_mark)]
    if dead:
        yield _option(facts, "rowset_gc", rowsets_text(dead), rowset_ids=dead,
                      disk_bytes=sum(disk_bytes_of(facts, rowset_id) for rowset_id in dead))
    if facts.log.collectable_bytes > 0:
        count = facts.log.collectable_count
        yield _option(facts, "log_gc", f"{count} segment{'' if count == 1 else 's'}",
                      log_bytes=facts.log.collectable_bytes, low_io=True)


def disk_bytes_of(facts: TabletFacts, rowset_id: int) -> int:
    """What a rowset's files hold on disk, as far as is known."""
    rowset, deltas = facts.rowset(rowset_id), facts.deltas_of(rowset_id)
    if rowset is not None:
        return rowset.disk_bytes
    return 0 if deltas is None else delta_bytes(deltas) + sum(deltas.column_bytes.values())


def delta_bytes(deltas: RowSetDeltas) -> int:
    return sum(file.file_bytes for file in (*deltas.redos, *deltas.undos))


def rowset_count_of(data_bytes: int, policy: CompactionPolicy) -> int:
    """How many rowsets so much data becomes."""
    return max(1, math.ceil(data_bytes / policy.target_rowset_bytes))
