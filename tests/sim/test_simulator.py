"""The simulated group keeps its promises, seed after seed; and the simulator keeps its own."""
from __future__ import annotations

import os

import pytest

from sim.fleet import Job, run_seeds, total
from sim.history import History
from sim.world import FAULTS, World

# The same by hand: `python -m sim.run --seeds 0:5000`, with tests/ and tests/support/ on the path. More: --soak.
SEED_COUNT = int(os.environ.get("KUDU_STORAGE_SIM_SEEDS", "5000"))


@pytest.mark.slow
def test_every_relation_holds_on_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    tally = total(Job(steps=2000), 0, SEED_COUNT)
    with capsys.disabled():
        print(f"\n{tally}")
    assert not tally.violations, "\n".join(tally.violations)
    assert (tally.seeds, tally.steps >= 2000 * SEED_COUNT) == (SEED_COUNT, True)
    assert tally.answered > tally.seeds * 50, "hardly anything was ever committed: the simulation shows little"
    assert min(tally.faults[name] for name in FAULTS) > tally.seeds * 0.5
    assert tally.elections > tally.seeds
    assert tally.stuck <= 1 + tally.seeds // 500, "the known hole is rare; something else must look like it"


def test_the_sum_does_not_depend_on_who_ran_what() -> None:
    job, sums = Job(steps=200), []
    for workers in (1, 2):
        parts = list(run_seeds(job, 5, 50, workers))
        sums.append((sum(p.seeds for p in parts), sum(p.steps for p in parts), sum(p.calls for p in parts)))
    assert sums[0] == sums[1] and sums[0][0] == 45


def test_a_soak_ends_when_it_is_stopped() -> None:
    parts = run_seeds(Job(steps=50), 0, None, 1)
    seen = [next(parts).seeds for _ in range(3)]
    parts.close()  # type: ignore[attr-defined]
    assert seen == [20, 20, 20]


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
