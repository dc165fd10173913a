"""The real Kudu beside us in benchmarks: finding it, its processor time, what its log says of maintenance, ratios.

Shared by the benchmarks of this folder; each starts its own servers through tests/support/oracle.py.
"""
from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import oracle

MIB = 1 << 20
QUIET_SECONDS = 5.0
DEADLINE_SECONDS = 600.0
FLUSH = ("--flush_threshold_secs=1", "--flush_threshold_mb=64", "--maintenance_manager_polling_interval_ms=100",
         "--enable_rowset_compaction=false")
NO_MAINTENANCE = ("--enable_maintenance_manager=false",)

_ENDED = re.compile(r"(\w+Op)\([^)]*\) complete\. Timing: real ([\d.]+)s\s+user ([\d.]+)s\s+sys ([\d.]+)s "
                    r"Metrics: (\{.*\})")


def programs() -> oracle.KuduBinaries:
    found = oracle.find_kudu()
    if found is None:
        sys.exit(f"the real Kudu is not here: {oracle.HOW_TO_GET}")
    return found


# -- times -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Took:
    """Seconds by the clock and of processors."""

    real_s: float
    cpu_s: float

    def __add__(self, other: Took) -> Took:
        return Took(self.real_s + other.real_s, self.cpu_s + other.cpu_s)


def clocked(work: Callable[[], object]) -> Took:
    """Of this process, all its threads."""
    cpu, real = time.process_time(), time.perf_counter()
    work()
    return Took(time.perf_counter() - real, time.process_time() - cpu)


def processor_seconds(pid: int) -> float:
    """Of another process, by its own clock: what clock_getcpuclockid() gives on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


# -- what a server logs of its maintenance -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Ended:
    """One operation of the maintenance manager, as the server's log tells of it."""

    name: str
    took: Took
    metrics: dict[str, Any]


def ended_operations(text: str) -> list[Ended]:
    return [Ended(found[1], Took(float(found[2]), float(found[3]) + float(found[4])), json.loads(found[5]))
            for found in _ENDED.finditer(text)]


def quiet(server: oracle.Server, name: str, at_least: int = 0) -> list[Ended]:
    """Wait until `at_least` operations of this name have ended, and none for a while."""
    seen: list[Ended] = []
    since = time.monotonic()
    while len(seen) < at_least or time.monotonic() - since < QUIET_SECONDS:
        server.raise_if_ended()
        found = [ended for ended in ended_operations(server.log_text()) if ended.name == name]
        if len(found) != len(seen):
            seen, since = found, time.monotonic()
        if time.monotonic() - since > DEADLINE_SECONDS:
            raise oracle.OracleError(f"{len(seen)} {name} ended, none for {DEADLINE_SECONDS:g} s")
        time.sleep(0.1)
    return seen
