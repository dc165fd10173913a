"""What maintenance to do next, of everything that all tablets of a process could do. Pure.

Candidates say what they would free and gain; choose() takes one and says why. The order is that of Kudu's
util/maintenance_manager.cc:
 1. work that costs next to no I/O and frees log
 2. under memory pressure, what holds most log, since it is also the oldest memory: always taking the largest store
    would starve small ones
 3. what holds more log than a restart should replay
 4. what frees disk, unless something gains read speed and the dice are for that
 5. what gains most
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kudu_storage.errors import InvalidArgument

MIB: Final = 1 << 20

Kind = Literal["log_gc", "flush_memrowset", "flush_deltas", "minor_delta", "major_delta", "merge", "undo_gc",
               "rowset_gc"]
Reason = Literal["log", "memory", "replay", "disk", "gain"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that could be done now."""

    kind: Kind
    tablet_id: str
    target: str = ""            # which store or rowset, as anchors name it
    log_bytes: int = 0          # retained because of it, and free to go once it is done
    memory_bytes: int = 0
    disk_bytes: int = 0
    gain: float = 0.0           # in read cost; comparable between kinds: 1 is much
    low_io: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    candidate: Candidate
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class MaintenancePolicy:
    """Bounds as Kudu's flags have them by default."""

    log_bytes_max: int = 1024 * MIB         # --log_target_replay_size_mb
    flush_bytes: int = 1024 * MIB           # --flush_threshold_mb
    flush_after_s: float = 120.0            # --flush_threshold_secs
    flush_full_gain_after_s: float = 3600.0  # --flush_upper_bound_ms
    disk_bytes_min: int = 0                 # --data_gc_min_size_mb
    disk_chance: float = 0.5                # --data_gc_prioritization_prob

    def __post_init__(self) -> None:
        if self.flush_bytes <= 0 or self.flush_full_gain_after_s <= 0 or not 0 <= self.disk_chance <= 1:
            raise InvalidArgument("a flush size and time above 0 and a chance between 0 and 1 are needed")


def flush_gain(memory_bytes: int, age_s: float, policy: MaintenancePolicy) -> float:
    """What flushing a store of that size and age gains: little while it is young, above 1 once it is too large."""
    if memory_bytes >= policy.flush_bytes:
        return max(1.0, (memory_bytes - policy.flush_bytes) / MIB)
    if age_s <= policy.flush_after_s:
        return 0.0
    return min(1.0, max(age_s / policy.flush_full_gain_after_s, memory_bytes / policy.flush_bytes))


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """A delta store in memory."""

    name: str
    memory_bytes: int
    log_bytes: int
    age_s: float


def store_to_flush(stores: Iterable[StoreFacts], memory_used: float) -> StoreFacts | None:
    """Of a tablet's delta stores that hold anything, the one to flush first.

    `memory_used`, 0 to 1: the fuller memory is, the more a store's size counts, and the less the log it holds.
    """
    weight = min(1.0, max(0.0, memory_used))
    return max((s for s in stores if s.memory_bytes), default=None,
               key=lambda s: (s.memory_bytes * weight + s.log_bytes * (1 - weight), s.memory_bytes))


def choose(candidates: Sequence[Candidate], policy: MaintenancePolicy, *, memory_pressure: bool,
           dice: Callable[[], float]) -> Decision | None:
    """The next thing to do, or None. `dice` gives a number from 0 to 1, asked only where chance decides."""
    for found in (_free_log(candidates), _relieve_memory(candidates) if memory_pressure else None,
                  _shorten_replay(candidates, policy)):
        if found is not None:
            return found
    # After an hour all stores gain the same: those that hold most log go first.
    gaining = max(candidates, key=lambda c: (c.gain, c.log_bytes), default=None)
    freeing = max(candidates, key=lambda c: c.disk_bytes, default=None)
    gains = gaining is not None and gaining.gain > 0
    if freeing is not None and freeing.disk_bytes > policy.disk_bytes_min \
            and (not gains or dice() <= policy.disk_chance):
        return Decision(freeing, "disk", f"frees {freeing.disk_bytes} bytes on disk")
    if gains:
        assert gaining is not None
        return Decision(gaining, "gain", f"gains {gaining.gain:.6f}")
    return None


def _free_log(candidates: Sequence[Candidate]) -> Decision | None:
    best = max((c for c in candidates if c.low_io and c.log_bytes > 0), key=lambda c: c.log_bytes, default=None)
    return None if best is None else Decision(best, "log", f"frees {best.log_bytes} bytes of log")


def _holder(candidates: Sequence[Candidate]) -> Candidate | None:
    """Of those that free memory, the one that holds most log, then most memory."""
    return max((c for c in candidates if c.memory_bytes > 0), key=lambda c: (c.log_bytes, c.memory_bytes), default=None)


def _relieve_memory(candidates: Sequence[Candidate]) -> Decision | None:
    best = _holder(candidates)
    return None if best is None else Decision(
        best, "memory", f"memory is short: frees {best.memory_bytes} bytes of it and {best.log_bytes} bytes of log")


def _shorten_replay(candidates: Sequence[Candidate], policy: MaintenancePolicy) -> Decision | None:
    best = _holder(candidates)
    if best is None or best.log_bytes < policy.log_bytes_max:
        return None
    return Decision(best, "replay",
                    f"a restart would replay {best.log_bytes} bytes of log for {best.target or best.kind}")
