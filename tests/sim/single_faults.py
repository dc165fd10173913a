"""One fault at a time, in a group that is at rest: how many elections it takes until the group is at rest again."""
from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from consensus.raft.timing import MS
from sim.world import FAULTS, Plan, World

# They change how the network is from then on, or nothing that an election could follow from.
LASTING = ("network", "short_memory")
# They are of the group, or of its leader, whomever they are said to be of.
OF_NOBODY = ("crash_all", "split", "transfer", "step_down")
KINDS = tuple(name for name in FAULTS if name not in LASTING)
AFTERWARDS_US = 3_000 * MS      # longer than any of these faults


@dataclass
class Outcome:
    """Of one kind of fault. An election is a term in which somebody stood; pre-elections leave no trace."""

    terms: Counter[int] = field(default_factory=Counter)
    leaderless_ms: list[int] = field(default_factory=list)


def at_rest(seed: int, voters: int) -> World:
    world = World(seed, voter_count=voters, plan=Plan(no_faults=True, steady_network=True))
    world.delay_us, world.spread = 2 * MS, 2.0
    while world.now_us < 3_000 * MS or world._leader() is None:
        world._advance(1)
    return world


def one_fault(seed: int, kind: str, at_leader: bool, voters: int) -> tuple[int, int]:
    """Elections that it takes, and for how many us nobody led a majority."""
    world = at_rest(seed, voters)
    leader = world._leader()
    assert leader is not None
    node = world.nodes[leader.name] if at_leader else next(n for n in world.nodes.values() if n.name != leader.name)
    terms = world.terms_stood_in = set()
    world.inject(kind, node)
    end_us, leaderless_us, before_us = world.now_us + AFTERWARDS_US, 0, world.now_us
    while world.now_us < end_us:
        world._advance(1)
        if world._leader() is None:
            leaderless_us += world.now_us - before_us
        before_us = world.now_us
    return len(terms), leaderless_us


def measure(kind: str, at_leader: bool, voters: int, seeds: range) -> Outcome:
    outcome = Outcome()
    for seed in seeds:
        elections, leaderless_us = one_fault(seed, kind, at_leader, voters)
        outcome.terms[elections] += 1
        outcome.leaderless_ms.append(leaderless_us // 1000)
    outcome.leaderless_ms.sort()
    return outcome


def cases() -> list[tuple[str, bool, int]]:
    """(fault, of the leader, voters)."""
    return [(kind, at_leader, voters) for kind in KINDS for at_leader in (True, False) for voters in (3, 5)
            if at_leader or kind not in OF_NOBODY]


def table(seed_count: int, workers: int) -> list[str]:
    """A row for each kind of fault, of the leader and of somebody else, in groups of three and five."""
    lines = ["| fault | of | voters | 0 | 1 | 2 | more elections | without a leader, ms: median, worst |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = [pool.submit(measure, *case, range(seed_count)) for case in cases()]
        for (kind, at_leader, voters), future in zip(cases(), found, strict=True):
            outcome = future.result()
            more = sum(count for number, count in outcome.terms.items() if number > 2)
            times = outcome.leaderless_ms
            whom = "-" if kind in OF_NOBODY else "leader" if at_leader else "other"
            lines.append(f"| {kind.replace('_', ' ')} | {whom} | {voters} | {outcome.terms[0]} | {outcome.terms[1]} | "
                         f"{outcome.terms[2]} | {more} | {times[len(times) // 2]}, {times[-1]} |")
    return lines
