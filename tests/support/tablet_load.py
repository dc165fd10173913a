"""A tablet that is only numbers, under random load: what the policy decides takes time, and the load goes on meanwhile.

One tick is a second. Rows come in at random places of the key space, in a hot range or in order, with phases of rest;
changes go to random rowsets. Files are bytes with time ranges. A disk does so many bytes a second.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from maintained import MIB, TABLET

from kudu_storage.common.hybrid_time import from_micros
from kudu_storage.tablet.delta_policy import DeltaFileFacts, RowSetDeltas
from kudu_storage.tablet.maintenance_facts import (
    AnchorFacts,
    LogFacts,
    StoreInMemory,
    TabletFacts,
    bytes_from,
    delta_store_name,
    memrowset_name,
)
from kudu_storage.tablet.maintenance_plan import Plan, plan_of
from kudu_storage.tablet.maintenance_policy import Action, Policy
from kudu_storage.tablet.rowset_layout import RowSetFacts, average_height

KEY_SPACE = 1 << 32
COLUMN = 11
SEGMENT_BYTES = 4 * MIB


@dataclass
class Store:
    """A MemRowSet or DeltaMemStore: bytes, and the first operation in it."""

    id: int
    bytes: int = 0
    log_index: int = 0
    since: float = 0.0
    low: int = KEY_SPACE
    high: int = 0

    def add(self, size: int, log_index: int, now: float, low: int = 0, high: int = 0) -> None:
        if not self.bytes:
            self.log_index, self.since = log_index, now
        self.bytes += size
        self.low, self.high = min(self.low, low), max(self.high, high)


@dataclass
class Rows:
    """A flushed rowset."""

    id: int
    low: int
    high: int
    base_bytes: int
    memory: Store
    redos: list[DeltaFileFacts] = field(default_factory=list)
    undos: list[DeltaFileFacts] = field(default_factory=list)

    @property
    def delta_bytes(self) -> int:
        return sum(file.file_bytes for file in (*self.redos, *self.undos))


@dataclass
class Peaks:
    """The highest of each that was seen."""

    memory_bytes: int = 0
    log_bytes: int = 0
    height: float = 0.0
    anchor_age_s: float = 0.0
    redo_files: int = 0
    rowset_count: int = 0

    def note(self, other: Peaks) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


class LoadedTablet:
    """Implements Maintained."""

    tablet_id = TABLET

    def __init__(self, seed: int, policy: Policy, *, disk_bytes_a_second: int, history_s: int,
                 budget_bytes: int) -> None:
        self.random = random.Random(seed)
        self.policy = policy
        self.time = 1_000_000.0
        self.peaks = Peaks()
        self.ran: dict[str, int] = {}
        self.quiet = False
        self._rate = disk_bytes_a_second
        self._history_s = history_s
        self._budget_bytes = budget_bytes
        self._next_id = 1
        self._next_block = 1
        self._index = 1
        self._segments: list[tuple[int | None, int]] = [(None, 0)]
        self._frozen: list[Store] = []
        self._rows_in_memory = Store(0)
        self.rowsets: dict[int, Rows] = {}
        self._phase: Callable[[], None] = self._scattered
        self._phase_end = 0.0
        self._sequence = 0
        self._seen_layout: tuple[RowSetFacts, ...] = ()
        self._seen_height = 0.0

    # -- load ----------------------------------------------------------------------------------------------------------
    def tick(self) -> None:
        self.time += 1
        if self.time >= self._phase_end:
            self._phase = self.random.choice([self._scattered, self._hot, self._in_order, self._resting])
            self._phase_end = self.time + self.random.randint(20, 300)
        # A server under pressure throttles writers.
        if not self.quiet and self.memory_bytes < self._budget_bytes:
            self._phase()
        self.peaks.note(self.now_at())

    def _scattered(self) -> None:
        self._insert(self.random.randint(0, 300_000), 0, KEY_SPACE - 1)
        self._change(self.random.randint(0, 400_000), list(self.rowsets))

    def _hot(self) -> None:
        low = self.random.randrange(KEY_SPACE // 2)
        self._insert(self.random.randint(0, 500_000), low, low + KEY_SPACE // 50)
        self._change(self.random.randint(0, 2_000_000), sorted(self.rowsets)[:2])

    def _in_order(self) -> None:
        self._sequence = (self._sequence + KEY_SPACE // 20_000) % (KEY_SPACE - KEY_SPACE // 1000)
        self._insert(self.random.randint(0, 1_500_000), self._sequence, self._sequence + KEY_SPACE // 20_000)

    def _resting(self) -> None:
        if self.random.random() < 0.02:
            self._change(self.random.randint(1, 200), list(self.rowsets))

    def _insert(self, size: int, low: int, high: int) -> None:
        if size:
            self._rows_in_memory.add(size, self._log(size), self.time, low, high)

    def _change(self, size: int, ids: list[int]) -> None:
        chosen = self.random.sample(ids, min(len(ids), self.random.randint(1, 5)))
        for rowset_id in chosen:
            share = max(1, size // len(chosen))
            self.rowsets[rowset_id].memory.add(share, self._log(share), self.time)

    def _log(self, size: int) -> int:
        index = self._index
        self._index += 1
        _, open_bytes = self._segments[-1]
        self._segments[-1] = (None, open_bytes + size)
        if open_bytes + size >= SEGMENT_BYTES:
            self._segments[-1] = (index, open_bytes + size)
            self._segments.append((None, 0))
        return index

    # -- how it stands -------------------------------------------------------------------------------------------------
    @property
    def memory_bytes(self) -> int:
        return sum(store.bytes for store in self._stores())

    def _stores(self) -> list[Store]:
        return [*self._frozen, self._rows_in_memory, *(rowset.memory for rowset in self.rowsets.values())]

    def now_at(self) -> Peaks:
        held = [store.since for store in self._stores() if store.bytes]
        return Peaks(self.memory_bytes, sum(size for _, size in self._segments),
                     self._height(),
                     self.time - min(held, default=self.time),
                     max((len(r.redos) for r in self.rowsets.values()), default=0), len(self.rowsets))

    def _height(self) -> float:
        layout = tuple(map(self._facts_of, self.rowsets.values()))
        if layout != self._seen_layout:
            self._seen_layout, self._seen_height = layout, average_height(layout)
        return self._seen_height

    def _facts_of(self, rowset: Rows) -> RowSetFacts:
        size = rowset.base_bytes + rowset.delta_bytes
        return RowSetFacts(rowset.id, rowset.low.to_bytes(8, "big"), rowset.high.to_bytes(8, "big"), size,
                           size + size // 20)

    def facts(self) -> TabletFacts:
        stores = [StoreInMemory(s.bytes, self._anchor(s, memrowset_name(s.id)))
                  for s in (*self._frozen, self._rows_in_memory) if s.bytes]
        stores += [StoreInMemory(r.memory.bytes, self._anchor(r.memory, delta_store_name(r.id, r.memory.id)), r.id)
                   for r in self.rowsets.values() if r.memory.bytes]
        deltas = [RowSetDeltas(r.id, {COLUMN: r.base_bytes // 2}, tuple(r.redos), tuple(r.undos))
                  for r in self.rowsets.values()]
        free = self._collectable()
        return TabletFacts(self.tablet_id, self.time, tuple(stores),
                           tuple(self._facts_of(r) for r in self.rowsets.values()), tuple(deltas),
                           LogFacts(sum(size for _, size in self._segments), sum(size for _, size in free), len(free)),
                           self._at(self.time - self._history_s))

    def _anchor(self, store: Store, name: str) -> AnchorFacts:
        return AnchorFacts(name, store.log_index, bytes_from(self._segments, store.log_index), store.since)

    def _collectable(self) -> list[tuple[int | None, int]]:
        lowest = min((s.log_index for s in self._stores() if s.bytes), default=self._index)
        return [segment for segment in self._segments if segment[0] is not None and segment[0] < lowest]

    @staticmethod
    def _at(seconds: float) -> int:
        return from_micros(int(seconds * 1e6))

    # -- maintenance ---------------------------------------------------------------------------------------------------
    def plan(self, action: Action) -> Plan:
        return plan_of(self.facts(), action, self.policy)

    def run(self, action: Action) -> bool:
        """Begin, let the time pass that its plan's bytes take, end."""
        plan = self.plan(action)
        self.ran[action.kind] = self.ran.get(action.kind, 0) + 1
        end = getattr(self, f"_{action.kind}")(action)
        for _ in range(round((plan.read_bytes + plan.write_bytes) / self._rate)):
            self.tick()
        end()
        return True

    def _flush_memrowset(self, action: Action) -> Callable[[], None]:
        frozen = self._rows_in_memory
        self._frozen.append(frozen)
        self._rows_in_memory = Store(frozen.id + 1)

        def end() -> None:
            self._frozen.remove(frozen)
            self._add_rowsets(frozen.bytes * 3 // 4, frozen.low, frozen.high)

        return end

    def _flush_deltas(self, action: Action) -> Callable[[], None]:
        rowset = self.rowsets[action.rowset_ids[0]]
        flushed, rowset.memory = rowset.memory, Store(rowset.memory.id + 1)
        self._frozen.append(flushed)

        def end() -> None:
            self._frozen.remove(flushed)
            rowset.redos.append(self._file(flushed.bytes // 2 + 1, flushed.since, self.time))

        return end

    def _minor_delta(self, action: Action) -> Callable[[], None]:
        rowset = self.rowsets[action.rowset_ids[0]]

        def end() -> None:
            merged = [f for f in rowset.redos if f.block_id in action.block_ids]
            first = rowset.redos.index(merged[0])
            rowset.redos[first:first + len(merged)] = [self._joined(merged)]

        return end

    def _major_delta(self, action: Action) -> Callable[[], None]:
        rowset = self.rowsets[action.rowset_ids[0]]
        folded = list(rowset.redos)

        def end() -> None:
            rowset.redos = [f for f in rowset.redos if f not in folded]
            rowset.undos.insert(0, self._joined(folded))

        return end

    def _merge(self, action: Action) -> Callable[[], None]:
        inputs = [self.rowsets[i] for i in action.rowset_ids]
        seen = [rowset.memory for rowset in inputs]
        for rowset in inputs:
            rowset.memory = Store(rowset.memory.id + 1)
        self._frozen += seen

        def end() -> None:
            self._frozen = [store for store in self._frozen if store not in seen]
            deltas = [f for r in inputs for f in (*r.redos, *r.undos)]
            for rowset in inputs:
                del self.rowsets[rowset.id]
            new = self._add_rowsets(sum(r.base_bytes for r in inputs), min(r.low for r in inputs),
                                    max(r.high for r in inputs))
            if deltas:
                new[0].undos.append(self._joined(deltas))
            for rowset in inputs:               # what came meanwhile went to the new ones as well
                if rowset.memory.bytes:
                    new[0].memory.add(rowset.memory.bytes, rowset.memory.log_index, rowset.memory.since)

        return end

    def _undo_gc(self, action: Action) -> Callable[[], None]:
        for rowset_id in action.rowset_ids:
            rowset = self.rowsets[rowset_id]
            rowset.undos = [f for f in rowset.undos if f.block_id not in action.block_ids]
        return lambda: None

    def _log_gc(self, action: Action) -> Callable[[], None]:
        for segment in self._collectable():
            self._segments.remove(segment)
        return lambda: None

    # -- pieces --------------------------------------------------------------------------------------------------------
    def _add_rowsets(self, size: int, low: int, high: int) -> list[Rows]:
        """So many bytes, spread evenly over a range of keys, in rowsets of the target size."""
        count = max(1, round(size / self.policy.compaction.target_rowset_bytes))
        width = max(2, (high - low) // count)
        made = []
        for i in range(count):
            first = low + i * width
            rowset = Rows(self._next_id, first, max(first + 1, first + width - 1), max(1, size // count), Store(0))
            self._next_id += 1
            self.rowsets[rowset.id] = rowset
            made.append(rowset)
        return made

    def _file(self, size: int, first: float, last: float) -> DeltaFileFacts:
        self._next_block += 1
        return DeltaFileFacts(self._next_block, size, self._at(first), self._at(last), 0, 0, {COLUMN: 1})

    def _joined(self, files: list[DeltaFileFacts]) -> DeltaFileFacts:
        self._next_block += 1
        return replace(files[0], block_id=self._next_block, file_bytes=sum(f.file_bytes for f in files),
                       min_timestamp=min(f.min_timestamp for f in files),
                       max_timestamp=max(f.max_timestamp for f in files))
