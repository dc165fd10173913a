"""The simulated group keeps its promises, seed after seed; and the simulator keeps its own."""
from __future__ import annotations

import os

import pytest

from sim.history import History
from sim.run import Tally
from sim.world import World

# In full: `python -m sim.run --seeds 0:5000`, with tests/ on the path. More of them: --soak.
SEED_COUNT = int(os.environ.get("KUDU_STORAGE_SIM_SEEDS", "1000"))
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_every_relation_holds_on_seeds_from(first: int) -> None:
    tally = Tally()
    for seed in range(first, first + CHUNK):
        tally.run(seed, 2000)
    print(tally)
    assert tally.answered > tally.seeds * 50, "hardly anything was ever committed: the simulation shows little"
    assert tally.faults.total() > tally.seeds * 30
    assert tally.elections > tally.seeds
    assert tally.stuck <= 2, "the known hole is rare; something else must look like it"


def test_a_seed_gives_the_same_run_again() -> None:
    runs = [World(11) for _ in range(2)]
    for world in runs:
        world.run(1500)
    first, second = runs
    assert [vars_of(c) for c in first.history.calls] == [vars_of(c) for c in second.history.calls]
    assert (first.now_us, first.steps, first.faults) == (second.now_us, second.steps, second.faults)


def vars_of(call: object) -> tuple[object, ...]:
    return tuple(getattr(call, name) for name in call.__slots__)  # type: ignore[attr-defined]


def history(*calls: tuple[bool, int, int, int]) -> History:
    """(is an addition, invoked, returned, result) each; result -1 for no answer."""
    h = History()
    for is_add, invoked_us, returned_us, result in calls:
        call_id = h.invoke(is_add, invoked_us)
        if result >= 0:
            h.applied(call_id, result, returned_us)
    return h


def test_the_checker_accepts_an_unanswered_addition_that_took_place() -> None:
    history((True, 0, 10, 1), (True, 5, 0, -1), (True, 20, 30, 3)).check()


@pytest.mark.parametrize("calls", [
    [(True, 0, 10, 1), (False, 20, 30, 0)],
    [(True, 0, 10, 1), (True, 5, 15, 1)],
    [(True, 0, 10, 2)],
    [(True, 0, 10, 2), (True, 11, 20, 1)],
    [(True, 0, 10, 2), (True, 15, 0, -1)],
    [(False, 0, 5, 1), (True, 6, 9, 1)],
], ids=["stale read", "same count twice", "count from nowhere", "order of time broken", "explained too late",
        "read of the future"])
def test_the_checker_refuses(calls: list[tuple[bool, int, int, int]]) -> None:
    with pytest.raises(AssertionError):
        history(*calls).check()


def test_the_checker_refuses_an_addition_that_was_said_to_have_failed() -> None:
    h = history((True, 0, 0, -1))
    h.failed(0)
    with pytest.raises(AssertionError):
        h.applied(0, 1, 5)
