"""Proposals that must have an outcome by some time, with one timer of the loop: one each would cost as much as all
else that the driver does for a proposal. Opens nothing.

T1  A proposal is expired at most 1/TICKS_PER_S s late, and never early.
T2  One that has its outcome is forgotten at once: what is kept follows from what waits, not from the timeout.
Runs on one loop's thread.
"""
from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from typing import Final

from consensus.replica.rounds import Call
from kudu_storage.errors import Timeout

TICKS_PER_S: Final = 64      # a power of two, so that a tick's time is exact


class Timeouts:
    """See above."""

    __slots__ = ("_armed_tick", "_loop", "_timer", "_waiting")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, set[Call]] = {}        # by the tick at which they expire
        self._timer: TimerHandle | None = None
        self._armed_tick = 0

    def add(self, call: Call, timeout_s: float) -> None:
        """Fail it unless it has its outcome by then. The call removes itself (`Call.expiring`)."""
        tick = int((self._loop.time() + timeout_s) * TICKS_PER_S) + 1
        waiting = self._waiting.get(tick)
        if waiting is None:
            waiting = self._waiting[tick] = set()
            if self._timer is None or tick < self._armed_tick:
                self._arm(tick)
        waiting.add(call)
        call.expiring = waiting

    def close(self) -> None:
        """Whoever waits is told otherwise. It may be used again: a replica goes on behind its leader's snapshot."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_tick = tick
        self._timer = self._loop.call_at(tick / TICKS_PER_S, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = int(self._loop.time() * TICKS_PER_S)
        expired = [call for tick in sorted(self._waiting) if tick <= now for call in self._waiting[tick]]
        self._waiting = {tick: waiting for tick, waiting in self._waiting.items() if tick > now and waiting}
        if self._waiting:
            self._arm(min(self._waiting))
        for call in expired:
            call.fail(Timeout("no answer in time", maybe_applied=True))
