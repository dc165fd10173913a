"""Progress of long work on standard error: one line rewritten on a terminal, else a line every ten seconds."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable

_LINE_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.1


class ProgressLine:
    """Callable as kudu_storage.bootstrap.log_replay.Progress. `clock` gives seconds and is for tests."""

    def __init__(self, label: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._quiet = quiet
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._started = clock()
        self._next = self._started + (0.0 if self._terminal else _LINE_EVERY_S)
        self._drawn = False

    def __call__(self, done_bytes: int, total_bytes: int, rows: int) -> None:
        now = self._clock()
        if self._quiet or now < self._next:
            return
        self._next = now + (_REDRAW_EVERY_S if self._terminal else _LINE_EVERY_S)
        elapsed = max(now - self._started, 1e-9)
        share = done_bytes / total_bytes if total_bytes else 1.0
        left = f", {elapsed / share - elapsed:.0f} s left" if share > 0.01 else ""
        text = f"{self._label}: {share:4.0%}, {rows} row operations, {rows / elapsed:,.0f}/s{left}"
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else text + "\n")
        sys.stderr.flush()
        self._drawn = True

    def close(self) -> None:
        """Remove the line from a terminal."""
        if self._terminal and self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
