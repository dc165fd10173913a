"""An event loop whose clock moves only when nothing else can happen. Sockets are real, waiting is not.

When no callback is ready and no socket is, the clock jumps to the next timer. No names may be looked up on such a loop:
that is done by a thread, which the clock does not wait for; use socket pairs.
"""
from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
STALL_S = 20.0


class Stalled(AssertionError):
    """Nothing is ready, no timer runs: the loop would wait for ever."""


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]  # an alias, chosen at run time
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is not None:
            self.now += timeout
            return []
        events = super().select(STALL_S)
        if not events:
            raise Stalled("nothing is ready and no timer runs")
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """See above."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        self.reported: list[dict[str, Any]] = []
        super().__init__(self._virtual)
        self.set_exception_handler(lambda _loop, context: self.reported.append(context))

    def time(self) -> float:
        return self._virtual.now


def run(main: Coroutine[Any, Any, _T], *, expect_reports: bool = False) -> _T:
    """Run to the end on a loop of its own; a report to the loop's exception handler is a failure unless expected."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        loop.run_until_complete(asyncio.sleep(0))
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, f"tasks left behind: {left}"
        assert expect_reports or not loop.reported, loop.reported
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()
