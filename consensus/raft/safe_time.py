"""Until when reads are repeatable. Pure.

Timestamps are opaque numbers that grow. A *floor* is a promise: whoever knows it gives no timestamp at or below it. A
leader sends its clock's reading as a floor with every message; when a majority has it, any later leader has it too,
because each voter tells its floor with its vote. So what a majority knows is safe as soon as all operations below it
are committed.

S1  What a leader declares safe is at most its own floor and one known to a majority, and lies before its first
    operation not yet committed.
S2  A follower adopts a declared time only when it has committed what the leader had when it declared it.
S3  Safe time never goes back.

A replica that starts has forgotten the floors it knew. So it neither votes nor stands until its clock has passed any
that it can have known: `Recovered.unsure_until`, its wall clock at the start plus the largest difference between two
clocks. Starting with a floor that high instead would push all clocks ahead, further with each restart.
"""
from __future__ import annotations

from collections import deque
from typing import Final

# Declarations that wait for their commit index. Beyond this the newest takes the place of the one before it.
_DECLARED_MAX: Final = 32


class SafeTimes:
    """Floors, the leader's uncommitted timestamps, the follower's declared ones."""

    __slots__ = ("_declared", "_uncommitted", "floor", "safe")

    def __init__(self) -> None:
        self.floor = 0
        self.safe = 0
        # Leader: (last index, first timestamp) of each append that is not committed.
        self._uncommitted: deque[tuple[int, int]] = deque()
        # Follower: (commit index needed, time).
        self._declared: deque[tuple[int, int]] = deque()

    def raise_floor(self, timestamp: int) -> None:
        if timestamp > self.floor:
            self.floor = timestamp

    def appended(self, last_index: int, first_timestamp: int, last_timestamp: int) -> None:
        """A leader gave timestamps to operations up to `last_index`."""
        self._uncommitted.append((last_index, first_timestamp))
        self.floor = max(self.floor, last_timestamp)

    def forget(self) -> None:
        """The role or the leader changed: what was declared or begun counts no more."""
        self._uncommitted.clear()
        self._declared.clear()

    def lead(self, commit_index: int, majority_floor: int) -> int:
        """The time that a leader may declare safe (S1)."""
        uncommitted = self._uncommitted
        while uncommitted and uncommitted[0][0] <= commit_index:
            uncommitted.popleft()
        # Peers' floors may lie above our own (they started later), and then promise nothing for us.
        bound = min(majority_floor, self.floor)
        if uncommitted:
            bound = min(bound, uncommitted[0][1] - 1)
        self.safe = max(self.safe, bound)
        return self.safe

    def declare(self, commit_index: int, timestamp: int) -> None:
        """A leader said that `timestamp` is safe for those that have committed `commit_index`."""
        declared = self._declared
        if declared and (len(declared) == _DECLARED_MAX or declared[-1][0] == commit_index):
            declared.pop()
        declared.append((commit_index, timestamp))

    def follow(self, commit_index: int) -> bool:
        """Adopts what may be adopted (S2). Whether safe time grew."""
        declared, before = self._declared, self.safe
        while declared and declared[0][0] <= commit_index:
            self.safe = max(self.safe, declared.popleft()[1])
        return self.safe > before
