"""Which rowsets to merge: those whose overlap costs lookups most, within a budget of bytes. Pure.

The value of merging a set is the sum of its members' widths less the width of their union: by so much falls the height
a lookup meets. Small rowsets add a little, since a tablet of many is slow however little they overlap; too little to
merge again and again what was merged (SMALL_ROWSET_WEIGHT below VALUE_MIN). Choosing the best set is a knapsack problem
for each leftmost member. As in Kudu (tablet/compaction_policy.cc, docs/design-docs/compaction-policy.md), a quick pass
gives a good set and an upper bound for each leftmost member; only where that bound promises more is the problem solved
exactly. Kudu also gives up when the quick pass finds next to nothing. That pass is right within a factor of two about
the sum of values, but not about what is left once the union is paid for, so here the bounds alone decide.
"""
from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.rowset_layout import Placed, RowSetFacts, lay_out

# A merge worth less is not done: it would lower the average height by less than this.
VALUE_MIN: Final = 0.01
SMALL_ROWSET_WEIGHT: Final = 0.009
# The exact solver runs where it might gain more than 5 %.
APPROXIMATION_RATIO: Final = 1.05
# A set whose widths exceed its union pays a little more for the union: sets without overlap are worth nothing or less.
UNION_PENALTY: Final = 1.003


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """Sizes in bytes; the budget counts in units, since the exact solver's work grows with their number."""

    budget_bytes: int = 256 << 20
    target_rowset_bytes: int = 32 << 20
    unit_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if min(self.budget_bytes, self.target_rowset_bytes, self.unit_bytes) <= 0:
            raise InvalidArgument("a compaction's budget, target size and unit are above 0")

    @property
    def budget_units(self) -> int:
        return max(1, self.budget_bytes // self.unit_bytes)

    def units_of(self, rowset: RowSetFacts) -> int:
        return max(1, rowset.data_bytes // self.unit_bytes)


@dataclass(frozen=True, slots=True)
class Compaction:
    """A merge to do. `value`: by how much the average height falls, about."""

    rowset_ids: tuple[int, ...]
    value: float
    read_bytes: int


@dataclass(frozen=True, slots=True)
class _Item:
    placed: Placed
    units: int
    value: float

    @property
    def density(self) -> float:
        return self.value / self.units


@dataclass(slots=True)
class _Best:
    items: tuple[_Item, ...] = ()
    value: float = 0.0

    def offer(self, items: Iterable[_Item], value: float) -> None:
        if value > self.value:
            self.items, self.value = tuple(items), value


def pick_rowsets(rowsets: Sequence[RowSetFacts], policy: CompactionPolicy | None = None) -> Compaction | None:
    """The best set of rowsets to merge, or None: no merge is worth its cost. `rowsets`: those free for compaction."""
    policy = policy or CompactionPolicy()
    if len(rowsets) < 2:
        return None
    items = [_item(p, policy) for p in lay_out(rowsets).placed]
    by_max = sorted(items, key=lambda i: (i.placed.rowset.max_key, i.placed.rowset.id))
    best = _Best()
    bounds = [_quick_pass(left, _candidates(left, by_max), policy.budget_units, best) for left in items]
    for left, bound in zip(items, bounds, strict=True):
        if bound > max(VALUE_MIN, best.value * APPROXIMATION_RATIO):
            _solve(left, _candidates(left, by_max), policy.budget_units, best)
    if best.value <= VALUE_MIN:
        return None
    ids = tuple(sorted(item.placed.rowset.id for item in best.items))
    return Compaction(ids, best.value, sum(item.placed.rowset.data_bytes for item in best.items))


def _item(placed: Placed, policy: CompactionPolicy) -> _Item:
    smallness = max(0.0, 1 - placed.rowset.disk_bytes / policy.target_rowset_bytes)
    return _Item(placed, policy.units_of(placed.rowset), placed.width + SMALL_ROWSET_WEIGHT * smallness)


def _candidates(left: _Item, by_max: Sequence[_Item]) -> list[_Item]:
    """Members of a set whose leftmost member is `left`, by max key: each widens the union by as little as can be."""
    return [item for item in by_max if item.placed.low >= left.placed.low]


def _worth(sum_of_values: float, union: float) -> float:
    return sum_of_values - (union if sum_of_values <= union else UNION_PENALTY * union)


def _quick_pass(left: _Item, candidates: Sequence[_Item], budget: int, best: _Best) -> float:
    """Offer good sets to `best`; an upper bound of what any set with that leftmost member is worth."""
    densest: list[tuple[float, int]] = []       # a heap, least dense first; one item more than fits, at most
    units, value, high, upper = 0, 0.0, left.placed.high, 0.0
    for index, item in enumerate(candidates):
        high = max(high, item.placed.high)
        heapq.heappush(densest, (item.density, index))
        units += item.units
        value += item.value
        while units - candidates[densest[0][1]].units > budget:
            dropped = candidates[heapq.heappop(densest)[1]]
            units -= dropped.units
            value -= dropped.value
        union = high - left.placed.low
        taken = [candidates[i] for _, i in densest]
        if units <= budget:
            fractional = value
        else:               # the last one fits in part, which no set can better; without it, or alone, it is a set
            least = candidates[densest[0][1]]
            fractional = value - (units - budget) * least.density
            rest = [item for item in taken if item is not least]
            taken = rest if value - least.value > least.value or least.units > budget else [least]
        upper = max(upper, _worth(fractional, union))
        best.offer(taken, _worth(sum(item.value for item in taken), union))
    return upper


def _solve(left: _Item, candidates: Sequence[_Item], budget: int, best: _Best) -> None:
    """The 0-1 knapsack by dynamic programming; the union grows with each candidate considered."""
    values = [0.0] * (budget + 1)               # the most that fits into so many units
    taken: list[list[bool]] = []
    high = left.placed.high
    found: tuple[int, int] | None = None        # candidates considered, units
    for count, item in enumerate(candidates, 1):
        high = max(high, item.placed.high)
        units, gain = item.units, item.value
        better = [False] * (budget + 1)
        if units <= budget:
            with_item = [v + gain for v in values[:budget + 1 - units]]
            for at in range(budget, units - 1, -1):
                if with_item[at - units] > values[at]:
                    values[at] = with_item[at - units]
                    better[at] = True
        taken.append(better)
        value = _worth(values[budget], high - left.placed.low)
        if value > best.value:
            found = (count, budget)
            best.value = value
    if found is not None:
        best.items = tuple(_trace(candidates, taken, *found))


def _trace(candidates: Sequence[_Item], taken: Sequence[Sequence[bool]], count: int, units: int) -> Iterable[_Item]:
    for index in range(count - 1, -1, -1):
        if taken[index][units]:
            yield candidates[index]
            units -= candidates[index].units
