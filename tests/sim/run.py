"""Runs seeds: `python -m sim.run --seeds 0:100`, `--seed 7 --trace`, or `--soak` until stopped; `--stack` for the
whole replica. Needs tests/ and tests/support/ on the path."""
from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from sim.stack import StackWorld
from sim.world import Violation, World


@dataclass
class Tally:
    """What was run, and what came of it."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    stuck: int = 0
    calls: int = 0
    answered: int = 0
    elections: int = 0
    leader_after_us: list[int] = field(default_factory=list)
    elections_after: Counter[int] = field(default_factory=Counter)
    level_after_us: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def run(self, seed: int, steps: int) -> None:
        began = time.process_time()
        world = World(seed)
        world.run(steps)
        self._count(world, began)

    def run_stack(self, seed: int, seconds: float) -> None:
        """The whole replica, for so many seconds of faults."""
        began = time.process_time()
        world = StackWorld(seed)
        world.run(seconds)
        self._count(world, began)

    def _count(self, world: World | StackWorld, began: float) -> None:
        self.seconds += time.process_time() - began
        self.seeds += 1
        self.steps += world.steps
        self.stuck += world.stuck
        self.calls += len(world.history.calls)
        self.answered += sum(c.result >= 0 for c in world.history.calls)
        self.elections += world.elections
        self.faults.update(world.faults)
        self.leader_after_us.append(world.leader_after_us)
        self.level_after_us.append(world.level_after_us)
        self.elections_after[world.elections_after] += 1

    def __str__(self) -> str:
        leader, level = sorted(self.leader_after_us), sorted(self.level_after_us)
        faults = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
        return (f"{self.seeds} seeds, {self.steps} steps, {self.seconds / max(self.steps, 1) * 1e6:.0f} us a step; "
                f"{self.calls} calls, {self.answered} answered; {self.elections} elections\n"
                f"after the last fault: a leader in {leader[len(leader) // 2] // 1000} ms (median), "
                f"{leader[-1] // 1000} ms (worst), level in {level[-1] // 1000} ms (worst), "
                f"elections {dict(self.elections_after)}\n"
                f"{self.stuck} stuck by the removal of the one with the newest log\n"
                f"{self.faults.total()} faults: {faults}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:50", help="first:end")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--soak", action="store_true", help="from the first seed on, until stopped")
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--stack", action="store_true", help="the whole replica: driver, log and files")
    parser.add_argument("--seconds", type=float, default=5.0, help="of faults, in the time of --stack")
    arguments = parser.parse_args()
    if arguments.stack:
        logging.disable(logging.CRITICAL)       # replicas whose disks fail say so
    if arguments.seed is not None:
        if arguments.stack:
            StackWorld(arguments.seed, trace=arguments.trace).run(arguments.seconds)
        else:
            World(arguments.seed, trace=arguments.trace).run(arguments.steps)
        return 0
    first, end = (int(n) for n in arguments.seeds.split(":"))
    tally = Tally()
    seed, failed = first, 0
    try:
        while arguments.soak or seed < end:
            try:
                if arguments.stack:
                    tally.run_stack(seed, arguments.seconds)
                else:
                    tally.run(seed, arguments.steps)
            except Violation as violation:
                failed += 1
                print(violation, flush=True)
                if arguments.first:
                    return 1
            seed += 1
            if arguments.soak and seed % 500 == 0:
                print(tally, flush=True)
    except KeyboardInterrupt:
        pass
    if tally.seeds:
        print(tally)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
