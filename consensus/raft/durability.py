"""How much of the log survives a crash. Pure.

D1  `index` never exceeds the last operation, and what it covers is durable in its present form.
D2  Appends are numbered. An index would not do: when operations were replaced, a report on the old ones must not count
    for the new ones that have their indexes.
"""
from __future__ import annotations

from collections import deque


class Durability:
    """The appends whose durability has not been reported yet, and the index up to which it has."""

    __slots__ = ("_unsynced", "batch", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.batch = 0
        self._unsynced: deque[tuple[int, int]] = deque()

    def append(self, last_index: int) -> int:
        """The number of a new append that ends with `last_index`."""
        self.batch += 1
        self._unsynced.append((self.batch, last_index))
        return self.batch

    def truncate_after(self, index: int) -> int:
        """The number of a truncation, which also stands in the log's queue."""
        self.batch += 1
        self.index = min(self.index, index)
        self._unsynced = deque((batch, min(last, index)) for batch, last in self._unsynced)
        self._unsynced.append((self.batch, index))
        return self.batch

    def durable(self, batch: int) -> bool:
        """Takes a report. Whether `index` grew."""
        before = self.index
        unsynced = self._unsynced
        while unsynced and unsynced[0][0] <= batch:
            self.index = max(self.index, unsynced.popleft()[1])
        return self.index > before

    @property
    def pending(self) -> bool:
        return bool(self._unsynced)
