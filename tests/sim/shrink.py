"""Makes a failing seed small: leaves out faults and calls of clients as long as the same relation is still broken.

Delta debugging over what a Plan can leave out. A run without a fault is another run from there on, so that what is left
is a cause, and not always the smallest one.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sim.world import EVERYTHING, Plan, Violation, World


class Shrunk(NamedTuple):
    plan: Plan
    steps: int
    said: str
    faults: int
    calls: int
    runs: int


def _relation(said: str) -> str:
    return said.split(":")[0]


class Shrinker:
    def __init__(self, seed: int, steps: int) -> None:
        self.seed = seed
        self.steps = steps
        self.runs = 0
        self.said = ""
        self.last: World | None = None

    def attempt(self, plan: Plan) -> tuple[str, World] | None:
        """What is violated under a plan, if anything is."""
        self.runs += 1
        world = World(self.seed, plan=plan)
        try:
            world.run(self.steps)
        except Violation as violation:
            return str(violation), world
        return None

    def fails(self, plan: Plan) -> bool:
        found = self.attempt(plan)
        if found is None or _relation(found[0]) != _relation(self.said):
            return False
        self.said, self.last = found
        # Nothing behind this step can be the cause. What is checked at the end only needs all of the run.
        if self.last.calm is False:
            self.steps = min(self.steps, self.last.steps)
        return True

    def shrink(self) -> Shrunk | None:
        """None: the seed does not fail."""
        found = self.attempt(EVERYTHING)
        if found is None:
            return None
        self.said, self.last = found
        plan = EVERYTHING
        assert self.fails(plan)
        for steady in (True, False):
            if self.fails(Plan(steady_network=steady)):
                plan = Plan(steady_network=steady)
                break
        while True:
            faults = range(self.last.fault_count)
            known = [n for n in faults if n not in plan.without_faults]
            kept = _minimal(known, lambda some, p=plan, f=faults: self.fails(  # type: ignore[misc]
                Plan(_all_but(f, some), p.without_calls, p.steady_network)))
            plan = Plan(_all_but(faults, kept), plan.without_calls, plan.steady_network)
            assert self.fails(plan)
            calls = range(self.last.call_count)
            asked = [n for n in calls if n not in plan.without_calls]
            kept_calls = _minimal(asked, lambda some, p=plan, c=calls: self.fails(  # type: ignore[misc]
                Plan(p.without_faults, _all_but(c, some), p.steady_network)))
            plan = Plan(plan.without_faults, _all_but(calls, kept_calls), plan.steady_network)
            assert self.fails(plan)
            # With fewer calls the same steps take longer: faults may come that were not there before.
            if self.last.fault_count <= len(faults) and self.last.call_count <= len(calls):
                return Shrunk(plan, self.steps, self.said, len(kept), len(kept_calls), self.runs)

def _all_but(numbers: Sequence[int], kept: Sequence[int]) -> frozenset[int]:
    return frozenset(numbers).difference(kept)


def _minimal(items: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """Zeller's ddmin: a list that fails and of which no single item can go."""
    if fails([]):
        return []
    parts = 2
    while len(items) > 1:
        size = -(-len(items) // parts)
        chunks = [items[at:at + size] for at in range(0, len(items), size)]
        smaller = next((rest for chunk in chunks if fails(rest := [i for i in items if i not in chunk])), None)
        if smaller is not None:
            items, parts = smaller, max(parts - 1, 2)
        elif size == 1:
            break
        else:
            parts = min(2 * parts, len(items))
    return items


def transcript(seed: int, shrunk: Shrunk) -> list[str]:
    """The run that is left, as lines for people."""
    lines: list[str] = []
    try:
        World(seed, tell=lines.append, plan=shrunk.plan).run(shrunk.steps)
    except Violation as violation:
        lines.append(f"violated: {str(violation).splitlines()[0]}")
    return lines
