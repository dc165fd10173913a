"""Where a tablet's rowsets lie in its key space, and how much they overlap. Pure.

The key space is measured in data: a key's position is the share of all data that lies below it, estimated as if each
rowset's data were spread evenly between its least and greatest key. A rowset's width is its share of that scale; the
height at a key is the number of rowsets a lookup of it must ask. Source of the measure: tablet/rowset_info.cc.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_TAIL_BYTES = 8     # of the keys' parts that differ, as many as make a number


@dataclass(frozen=True, slots=True)
class RowSetFacts:
    """What decisions need to know of one flushed rowset."""

    id: int
    min_key: bytes          # encoded
    max_key: bytes
    data_bytes: int         # base columns and deltas: what a compaction reads
    disk_bytes: int         # those, bloom filter and key index


@dataclass(frozen=True, slots=True)
class Placed:
    """A rowset with its place on the scale of shares, 0 to 1."""

    rowset: RowSetFacts
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class Layout:
    """All rowsets, and the height that a lookup meets on average, over the data."""

    placed: tuple[Placed, ...]      # by min key
    average_height: float


def share_of(rowset: RowSetFacts, low: bytes, high: bytes) -> float:
    """The share of the rowset's data in [low, high], both within its keys. 0 where its keys cannot be told apart."""
    common = 0
    for one, other in zip(rowset.min_key, rowset.max_key, strict=False):
        if one != other:
            break
        common += 1
    first, last = _tail(rowset.min_key, common), _tail(rowset.max_key, common)
    return (_tail(high, common) - _tail(low, common)) / (last - first) if last > first else 0.0


def _tail(key: bytes, start: int) -> int:
    return int.from_bytes(key[start:start + _TAIL_BYTES].ljust(_TAIL_BYTES, b"\0"), "big")


def lay_out(rowsets: Iterable[RowSetFacts]) -> Layout:
    """Place the rowsets by sweeping over their ends."""
    ordered = sorted(rowsets, key=lambda r: (r.min_key, r.max_key, r.id))
    ends = sorted({key for r in ordered for key in (r.min_key, r.max_key)})
    position = {ends[0]: 0.0} if ends else {}
    height_sum = total = 0.0
    active: list[RowSetFacts] = []
    upcoming = iter(ordered)
    following = next(upcoming, None)
    for low, high in pairwise(ends):
        while following is not None and following.min_key <= low:
            active.append(following)
            following = next(upcoming, None)
        active = [r for r in active if r.max_key > low]
        width = sum(r.data_bytes * share_of(r, low, high) for r in active)
        height_sum += len(active) * width
        total += width
        position[high] = total
    scale = 1 / total if total else 0.0
    return Layout(tuple(Placed(r, position[r.min_key] * scale, position[r.max_key] * scale) for r in ordered),
                  height_sum * scale)


def average_height(rowsets: Sequence[RowSetFacts]) -> float:
    return lay_out(rowsets).average_height
