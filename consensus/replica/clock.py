"""The clocks and the luck of a replica that runs in real time."""
from __future__ import annotations

import random
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

_LOGICAL_BITS: Final = 12
# A reading further ahead than this is a broken clock or an attack: who took it would give timestamps of the future from
# then on, and make all others do so. Kudu's --max_clock_sync_error_usec (clock/hybrid_clock.cc).
AHEAD_US_MAX: Final = 10_000_000


class HybridClock:
    """ports.Clock: the loop's time to measure, the wall clock to order; readings are Kudu's hybrid timestamps.

    One event loop uses it. `wall_ns` is the wall clock: nanoseconds since 1970.
    """

    __slots__ = ("_last", "_loop", "_wall_ns")

    def __init__(self, loop: AbstractEventLoop, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._loop = loop
        self._wall_ns = wall_ns
        self._last = 0

    def now_us(self) -> int:
        return int(self._loop.time() * 1e6)

    def timestamp(self) -> int:
        now = (self._wall_ns() // 1000) << _LOGICAL_BITS
        self._last = now if now > self._last else self._last + 1
        return self._last

    def believes(self, timestamp: int) -> bool:
        return timestamp <= self._last or (timestamp >> _LOGICAL_BITS) - self._wall_ns() // 1000 <= AHEAD_US_MAX

    def observe(self, timestamp: int) -> None:
        if timestamp > self._last:
            self._last = timestamp


class SystemRandom:
    """ports.Random."""

    __slots__ = ("luck",)

    def __init__(self) -> None:
        self.luck = random.Random().random
