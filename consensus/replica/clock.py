"""The clocks and the luck of a replica that runs in real time."""
from __future__ import annotations

import random
import time
from asyncio import AbstractEventLoop
from typing import Final

_LOGICAL_BITS: Final = 12


class HybridClock:
    """ports.Clock: the loop's time to measure, the wall clock to order; readings are Kudu's hybrid timestamps.

    One event loop uses it.
    """

    __slots__ = ("_last", "_loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._last = 0

    def now_us(self) -> int:
        return int(self._loop.time() * 1e6)

    def timestamp(self) -> int:
        now = (time.time_ns() // 1000) << _LOGICAL_BITS
        self._last = now if now > self._last else self._last + 1
        return self._last

    def observe(self, timestamp: int) -> None:
        if timestamp > self._last:
            self._last = timestamp


class SystemRandom:
    """ports.Random."""

    __slots__ = ("luck",)

    def __init__(self) -> None:
        self.luck = random.Random().random
