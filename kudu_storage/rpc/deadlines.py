"""Deadlines of many calls with one timer of the loop.

A timer for each call would cost more than the call. Calls are kept by their deadline rounded up to TICKS_PER_S, so an
expiry is told at most one tick late and never early. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TICKS_PER_S: Final = 256     # a power of two, so that a tick's time is exact
_NEVER: Final = 1 << 62


class Deadlines:
    """Call ids by deadline. `on_expired` is called with each that expires; it was then removed already."""

    __slots__ = ("_armed_tick", "_by_tick", "_loop", "_on_expired", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[int], None]) -> None:
        self._loop, self._on_expired = loop, on_expired
        self._by_tick: dict[int, set[int]] = {}     # no set is empty
        self._timer: asyncio.TimerHandle | None = None
        self._armed_tick = _NEVER

    def __len__(self) -> int:
        return sum(map(len, self._by_tick.values()))

    def add(self, key: int, deadline: float) -> int:
        """Watch a deadline (by the loop's clock). Gives the tick, which `discard` wants back."""
        tick = int(deadline * TICKS_PER_S) + 1
        members = self._by_tick.get(tick)
        if members is not None:
            members.add(key)
        else:
            self._by_tick[tick] = {key}
            if tick < self._armed_tick:
                self._arm(tick)
        return tick

    def discard(self, key: int, tick: int) -> None:
        """Stop watching. The timer is left alone: it finds out by itself, at most once for each tick armed."""
        members = self._by_tick.get(tick)
        if members is not None:
            members.discard(key)
            if not members:
                del self._by_tick[tick]

    def clear(self) -> None:
        """Watch nothing any more."""
        self._by_tick.clear()
        self._disarm()

    def _arm(self, tick: int) -> None:
        self._disarm()
        self._armed_tick = tick
        self._timer = self._loop.call_at(tick / TICKS_PER_S, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed_tick = None, _NEVER

    def _fire(self) -> None:
        self._timer, self._armed_tick = None, _NEVER
        now = int(self._loop.time() * TICKS_PER_S)
        expired: list[int] = []
        for tick in sorted(tick for tick in self._by_tick if tick <= now):
            expired.extend(sorted(self._by_tick.pop(tick)))
        if self._by_tick:
            self._arm(min(self._by_tick))
        for key in expired:
            self._on_expired(key)
