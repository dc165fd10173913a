"""How far in bytes and in time one place in the log is behind another. Pure.

One mark a batch, at most MARKS_MAX: then every second one of the older half is forgotten, so that what is long ago is
known less exactly.
"""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

MARKS_MAX: Final = 4096


class Trail:
    """Where the log was when."""

    __slots__ = ("_ends", "_times", "_totals", "total_bytes")

    def __init__(self) -> None:
        self._ends: list[int] = []          # last index of a batch
        self._totals: list[int] = []        # bytes up to it
        self._times: list[float] = []       # when it was appended
        self.total_bytes = 0

    def note(self, last: int, size_bytes: int, now: float) -> None:
        self.total_bytes += size_bytes
        self._ends.append(last)
        self._totals.append(self.total_bytes)
        self._times.append(now)
        if len(self._ends) > MARKS_MAX:
            half = MARKS_MAX // 2
            for marks in (self._ends, self._totals, self._times):
                del marks[1:half:2]

    def cut(self, after: int) -> None:
        """Operations above `after` are gone."""
        while self._ends and self._ends[-1] > after:
            self._ends.pop()
            self._totals.pop()
            self._times.pop()
        if self._totals:
            self.total_bytes = self._totals[-1]

    def total_at(self, index: int) -> int:
        """Bytes up to `index`, as far as whole batches go."""
        at = bisect_right(self._ends, index)
        return self._totals[at - 1] if at else 0

    def behind(self, index: int, now: float) -> tuple[int, float]:
        """(bytes, seconds) from `index` to the end: what follows it, and the age of the first of that."""
        at = bisect_left(self._ends, index)
        if at < len(self._ends) and self._ends[at] == index:
            at += 1
        if at == len(self._ends):
            return 0, 0.0
        before = self._totals[at - 1] if at else 0
        return self.total_bytes - before, now - self._times[at]
