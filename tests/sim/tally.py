"""What was run, and what came of it."""
from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from sim.stack import StackWorld
from sim.world import Violation, World


@dataclass
class Tally:
    """Of any number of seeds; two of them add up."""

    seeds: int = 0
    steps: int = 0
    cpu_s: float = 0.0
    stuck: int = 0
    calls: int = 0
    answered: int = 0
    elections: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    leader_after_ms: Counter[int] = field(default_factory=Counter)      # the last fault
    level_after_ms: Counter[int] = field(default_factory=Counter)
    elections_after: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def run(self, seed: int, steps: int) -> None:
        began = time.process_time()
        world = World(seed)
        self._run(world, steps)
        self.cpu_s += time.process_time() - began

    def run_stack(self, seed: int, seconds: float) -> None:
        """The whole replica, for so many seconds of faults."""
        began = time.process_time()
        world = StackWorld(seed)
        self._run(world, seconds)
        self.cpu_s += time.process_time() - began

    def _run(self, world: World | StackWorld, length: float) -> None:
        try:
            world.run(length)  # type: ignore[arg-type]  # steps, or seconds
        except Violation as violation:
            self.violations.append(str(violation))
        self.seeds += 1
        self.steps += world.steps
        self.stuck += world.stuck
        self.calls += len(world.history.calls)
        self.answered += sum(c.result >= 0 for c in world.history.calls)
        self.elections += world.elections
        self.faults.update(world.faults)
        self.leader_after_ms[world.leader_after_us // 1000] += 1
        self.level_after_ms[world.level_after_us // 1000] += 1
        self.elections_after[world.elections_after] += 1

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)

    def __str__(self) -> str:
        faults = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in self.faults.most_common())
        after = ", ".join(f"{count} times {number}" for number, count in sorted(self.elections_after.items()))
        cost = self.cpu_s / max(self.steps, 1) * 1e6
        return (f"{self.seeds} seeds, {self.steps} steps, {cost:.0f} us of CPU a step; "
                f"{self.calls} calls, {self.answered} answered; {self.elections} elections; "
                f"{len(self.violations)} violations\n"
                f"after the last fault: a leader in {_at(self.leader_after_ms, 0.5)} ms (median), "
                f"{_at(self.leader_after_ms, 1)} ms (worst); level in {_at(self.level_after_ms, 0.5)} ms (median), "
                f"{_at(self.level_after_ms, 1)} ms (worst); elections: {after}\n"
                f"{self.stuck} stuck by the removal of the one with the newest log\n"
                f"{self.faults.total()} faults: {faults}")


def _at(values: Counter[int], part: float) -> int:
    """The value that this part of all does not exceed."""
    left = part * values.total()
    for value, count in sorted(values.items()):
        left -= count
        if left <= 0:
            return value
    return 0
