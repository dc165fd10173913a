"""A closed loop of calls: so many under way, each followed by the next as soon as it is answered."""
from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import NamedTuple

from systems import Caller

POOL = 512


class Figures(NamedTuple):
    """Of one run. A call that was refused is none."""

    values_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    client_cpu_us: float        # of this process, a value

    @classmethod
    def of(cls, times: list[float], batch: int, seconds: float, failed: int, cpu_s: float) -> Figures:
        times.sort()
        count = len(times)
        if not count:
            return cls(0.0, float("inf"), float("inf"), failed, 0.0)
        return cls(count * batch / seconds, times[count // 2] * 1e3, times[count * 99 // 100] * 1e3, failed,
                   cpu_s / count / batch * 1e6)


class Load:
    """See above. Run it once."""

    def __init__(self, caller: Caller, outstanding: int, batch: int, value_bytes: int) -> None:
        self.caller, self.outstanding, self.batch = caller, outstanding, batch
        # Nothing that could be compressed; each call takes others.
        self.pool = [random.randbytes(value_bytes) for _ in range(max(POOL, batch))]
        self._at = 0
        self.times: list[float] = []
        self.failed = 0
        self._under_way = 0

    async def run(self, seconds: float, warm_s: float = 0.3) -> Figures:
        self._ended = asyncio.get_running_loop().create_future()
        gc.disable()
        self._counted_from = time.perf_counter() + warm_s
        self._until = self._counted_from + seconds
        cpu = time.process_time()
        for _ in range(self.outstanding):
            self._under_way += 1
            self._begin()
        await self._ended
        gc.enable()
        cpu = time.process_time() - cpu
        return Figures.of(self.times, self.batch, seconds, self.failed, cpu * seconds / (seconds + warm_s))

    def end(self) -> None:
        """Begin no more calls."""
        self._until = time.perf_counter()

    def _begin(self) -> None:
        began = time.perf_counter()

        def done(safe: bool) -> None:
            now = time.perf_counter()
            if not safe:
                self.failed += 1
            elif self._counted_from <= now < self._until:
                self.times.append(now - began)
            if now < self._until:
                self._begin()
                return
            self._under_way -= 1
            if not self._under_way and not self._ended.done():
                self._ended.set_result(None)

        self._at = at = self._at + self.batch if self._at + 2 * self.batch <= len(self.pool) else 0
        self.caller.put(self.pool[at:at + self.batch], done)
