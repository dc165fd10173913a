"""What an action will read and write and what goes once it is done, said before it runs. Pure: values, text, JSON.

 Q1  Sizes read are those of files and stores as they are; sizes written are bounds or estimates, and say which.
 Q2  The log does not shrink by what a freed anchor held, but as far as the lowest of those that stay: both are said.
Changes that arrive while the action runs are in no number here.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.delta_policy import DeltaFileFacts, RowSetDeltas
from kudu_storage.tablet.maintenance_facts import AnchorFacts, StoreInMemory, TabletFacts
from kudu_storage.tablet.maintenance_policy import Action, Policy, disk_bytes_of, rowset_count_of, rowsets_text
from kudu_storage.tablet.scoring import Kind

Bound = Literal["exactly", "at most", "about"]
_ITEMS_SHOWN: Final = 4         # of a kind, in text
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Item:
    """Something read, written or removed."""

    what: str
    bytes: int
    bound: Bound = "exactly"

    @property
    def text(self) -> str:
        size = size_text(self.bytes)
        return f"{self.what}, {size if self.bound == 'exactly' else f'{self.bound} {size}'}"

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "bytes": self.bytes, "bound": self.bound}


@dataclass(frozen=True, slots=True)
class Plan:
    """One action.

    reads: from disk. writes: new files. removes: files, once no scan reads them any more.
    anchors_freed: of the log, lowest index first. log_bytes_freed: of what the log keeps for anchors, how much it need
    not keep any more (Q2). held_by: the lowest anchor that stays.
    """

    action: Action
    reads: tuple[Item, ...] = ()
    writes: tuple[Item, ...] = ()
    removes: tuple[Item, ...] = ()
    memory_bytes_freed: int = 0
    anchors_freed: tuple[AnchorFacts, ...] = ()
    log_bytes_freed: int = 0
    held_by: AnchorFacts | None = None

    @property
    def read_bytes(self) -> int:
        return sum(item.bytes for item in self.reads)

    @property
    def write_bytes(self) -> int:
        return sum(item.bytes for item in self.writes)

    @property
    def removed_bytes(self) -> int:
        return sum(item.bytes for item in self.removes)

    def to_json(self, now: float) -> dict[str, Any]:
        """For json.dumps. now: seconds since 1970, for how long anchors have been held."""
        return {
            "action": self.action.to_json(), "reads": [item.to_json() for item in self.reads],
            "writes": [item.to_json() for item in self.writes], "removes": [item.to_json() for item in self.removes],
            "read_bytes": self.read_bytes, "write_bytes": self.write_bytes, "removed_bytes": self.removed_bytes,
            "memory_bytes_freed": self.memory_bytes_freed,
            "anchors_freed": [anchor.to_json(now) for anchor in self.anchors_freed],
            "log_bytes_freed": self.log_bytes_freed,
            "held_by": None if self.held_by is None else self.held_by.to_json(now),
        }

    def lines(self) -> list[str]:
        """For people."""
        action = self.action
        why = f": {action.text}" if action.text else ""
        lines = [f"{action.kind} of {action.target}{why}"]
        for verb, items in (("reads", self.reads), ("writes", self.writes), ("removes", self.removes)):
            lines += [f"  {verb} {item.text}" for item in items[:_ITEMS_SHOWN]]
            more = items[_ITEMS_SHOWN:]
            if more:
                lines.append(f"  {verb} {len(more)} more, {size_text(sum(item.bytes for item in more))}")
        if self.memory_bytes_freed:
            lines.append(f"  frees {size_text(self.memory_bytes_freed)} of memory")
        lines += [f"  frees the anchor of {anchor.owner} at operation {anchor.log_index}, "
                  f"{size_text(anchor.log_bytes)} of log" for anchor in self.anchors_freed]
        if self.anchors_freed:
            rest = "nothing else holds it" if self.held_by is None else \
                f"{self.held_by.owner} holds it from operation {self.held_by.log_index} on"
            lines.append(f"  the log needs {size_text(self.log_bytes_freed)} less: {rest}")
        return lines


def plan_of(facts: TabletFacts, action: Action, policy: Policy | None = None) -> Plan:
    """The plan of an action that was chosen from the facts. Raises InvalidArgument for one of another tablet."""
    if action.tablet_id != facts.tablet_id:
        raise InvalidArgument(f"an action of tablet {action.tablet_id}, and facts of tablet {facts.tablet_id}")
    return _PLANS[action.kind](facts, action, policy or Policy())


def size_text(count: int) -> str:
    """359 B, 1.4 KiB, 2.0 MiB."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


# -- flushes -----------------------------------------------------------------------------------------------------------
def _flush_memrowset(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    stores = [store for store in facts.stores if store.rowset_id is None]
    size = sum(store.memory_bytes for store in stores)
    count = rowset_count_of(size, policy.compaction)
    written = Item(f"{_count(count, 'rowset')}: columns, UNDO deltas, bloom filter, key index", size, "at most")
    return _without_stores(facts, action, stores, written)


def _flush_deltas(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    stores = [store for store in facts.stores if store.rowset_id in action.rowset_ids]
    written = Item(f"a REDO file of {rowsets_text(action.rowset_ids)}", sum(store.memory_bytes for store in stores),
                   "at most")
    return _without_stores(facts, action, stores, written)


def _without_stores(facts: TabletFacts, action: Action, stores: Sequence[StoreInMemory], *written: Item) -> Plan:
    freed = {store.name for store in stores}
    stay = [anchor for anchor in facts.anchors if anchor.owner not in freed]
    held_by = stay[0] if stay else None
    before = max((anchor.log_bytes for anchor in facts.anchors), default=0)
    after = 0 if held_by is None else held_by.log_bytes
    return Plan(action, writes=written, memory_bytes_freed=sum(store.memory_bytes for store in stores),
                anchors_freed=tuple(anchor for anchor in facts.anchors if anchor.owner in freed),
                log_bytes_freed=max(0, before - after), held_by=held_by)


# -- compactions -------------------------------------------------------------------------------------------------------
def _minor_delta(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    files = _files(facts, action)
    size = sum(file.file_bytes for file in files)
    read = Item(f"{_count(len(files), 'REDO file')} of {rowsets_text(action.rowset_ids)}", size)
    return Plan(action, (read,), (Item(f"a REDO file of {rowsets_text(action.rowset_ids)}", size, "about"),), (read,))


def _major_delta(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    where = rowsets_text(action.rowset_ids)
    base_bytes = sum(deltas.column_bytes.get(column, 0) for deltas in _deltas(facts, action)
                     for column in action.column_ids)
    base = Item(f"{_count(len(action.column_ids), 'column')} of {where}", base_bytes)
    redos = Item(f"{_count(len(action.block_ids), 'REDO file')} of {where}",
                 sum(file.file_bytes for file in _files(facts, action)))
    written = (Item(base.what, base_bytes, "about"), Item("UNDO and remaining REDO deltas", redos.bytes, "about"))
    return Plan(action, (base, redos), written, (base, redos))


def _merge(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    """The changes in memory of its rowsets are read along with their files."""
    read, removed = [], []
    for rowset_id in action.rowset_ids:
        rowset = facts.rowset(rowset_id)
        data_bytes = 0 if rowset is None else rowset.data_bytes
        read.append(Item(f"columns and deltas of rowset {rowset_id}", data_bytes))
        removed.append(Item(f"rowset {rowset_id}", disk_bytes_of(facts, rowset_id)))
    count = rowset_count_of(sum(item.bytes for item in read), policy.compaction)
    written = Item(f"{_count(count, 'rowset')} without overlap", sum(item.bytes for item in removed), "about")
    plan = _without_stores(facts, action, [s for s in facts.stores if s.rowset_id in action.rowset_ids], written)
    return replace(plan, reads=tuple(read), removes=tuple(removed))


# -- what can go -------------------------------------------------------------------------------------------------------
def _undo_gc(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    removed = []
    for deltas in _deltas(facts, action):
        files = [file for file in deltas.undos if file.block_id in action.block_ids]
        removed.append(Item(f"{_count(len(files), 'UNDO file')} of rowset {deltas.rowset_id}",
                            sum(file.file_bytes for file in files)))
    return Plan(action, removes=tuple(removed))


def _rowset_gc(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    """The DeltaMemStore of a dead rowset goes along, with what it keeps of the log."""
    removed = tuple(Item(f"rowset {rowset_id}", disk_bytes_of(facts, rowset_id)) for rowset_id in action.rowset_ids)
    plan = _without_stores(facts, action, [s for s in facts.stores if s.rowset_id in action.rowset_ids])
    return replace(plan, removes=removed)


def _log_gc(facts: TabletFacts, action: Action, policy: Policy) -> Plan:
    lowest = facts.anchors[0] if facts.anchors else None
    segments = Item(f"{_count(facts.log.collectable_count, 'segment')} of the log", facts.log.collectable_bytes)
    return Plan(action, removes=(segments,), held_by=lowest)


_PLANS: Final[dict[Kind, Callable[[TabletFacts, Action, Policy], Plan]]] = {
    "log_gc": _log_gc, "flush_memrowset": _flush_memrowset, "flush_deltas": _flush_deltas,
    "minor_delta": _minor_delta, "major_delta": _major_delta, "merge": _merge, "undo_gc": _undo_gc,
    "rowset_gc": _rowset_gc,
}


# -- pieces ------------------------------------------------------------------------------------------------------------
def _deltas(facts: TabletFacts, action: Action) -> list[RowSetDeltas]:
    found = map(facts.deltas_of, action.rowset_ids)
    return [deltas for deltas in found if deltas is not None]


def _files(facts: TabletFacts, action: Action) -> list[DeltaFileFacts]:
    return [file for deltas in _deltas(facts, action) for file in (*deltas.redos, *deltas.undos)
            if file.block_id in action.block_ids]


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
