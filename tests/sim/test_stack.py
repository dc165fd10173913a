"""The whole shipped replica, simulated: seed after seed, on disks that crash, fill up and fail."""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from sim.fleet import Job, total
from sim.stack import FAULTS, StackWorld
from sim.world import Violation

# The same by hand: `python -m sim.run --stack --seeds 0:300`, with tests/ and tests/support/ on the path. More: --soak.
SEED_COUNT = int(os.environ.get("KUDU_STORAGE_STACK_SEEDS", "300"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)       # replicas whose disks fail say so
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_the_shipped_replica_keeps_every_relation_on_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    tally = total(Job(stack=True, seconds=5.0), 0, SEED_COUNT)
    with capsys.disabled():
        print(f"\n{tally}")
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.seeds == SEED_COUNT
    assert tally.answered > tally.seeds * 50, "hardly anything was ever committed: the simulation shows little"
    assert min(tally.faults[name] for name in FAULTS) > tally.seeds * 0.3
    assert tally.faults["replica failed"] and tally.faults["snapshot sent"]
    assert tally.stuck <= 1 + tally.seeds // 500, "the known hole is rare; something else must look like it"


def test_a_seed_gives_the_same_run_again() -> None:
    runs = [StackWorld(11) for _ in range(2)]
    for world in runs:
        world.run(2.0)
    first, second = runs
    assert [vars_of(c) for c in first.history.calls] == [vars_of(c) for c in second.history.calls]
    assert (first.now_us, first.steps, first.faults) == (second.now_us, second.steps, second.faults)


def vars_of(call: Any) -> tuple[object, ...]:
    return tuple(getattr(call, name) for name in call.__slots__)


# -- deliberate bugs: the simulation notices each ---------------------------------------------------------------------
def fails(monkeypatch: pytest.MonkeyPatch, target: str, bug: Any, seeds: int = 40) -> str:
    """What the first seed says that notices the bug."""
    monkeypatch.setattr(target, bug)
    for seed in range(seeds):
        try:
            StackWorld(seed).run(5.0)
        except Violation as violation:
            return str(violation)
    raise AssertionError(f"{seeds} seeds do not notice it")


def test_a_driver_that_does_not_wait_for_the_vote_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(self: Any, future: Any, effects: Any, at: int) -> None:
        self._again = False
        self._go_through(effects, at)

    assert "R3" in fails(monkeypatch, "consensus.replica.driver.Driver._wait_for", impatient)


def test_a_log_port_that_reports_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from consensus.replica.log_port import LogPort

    wait_for = LogPort._wait_for

    def hasty(self: Any, pending: Any) -> None:
        wait_for(self, pending)
        self._loop.call_soon(self._events.durable, pending.batch)

    assert "R1" in fails(monkeypatch, "consensus.replica.log_port.LogPort._wait_for", hasty)


def test_reading_what_was_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: a batch read from disk, with what another leader replaced in it."""
    def careless(part: Any, last: int) -> Any:
        from kudu_storage._native.log_entries import CachedBatch
        from kudu_storage.wal.log_batches import encode_entry

        if isinstance(part, CachedBatch):
            return [(part, last)]
        if isinstance(part, list):
            return [(b"".join(map(encode_entry, part)), last)]
        return [(body, last) for body in part[0]]

    fails(monkeypatch, "kudu_storage.wal.log_batches._bodies", careless, 400)


def test_rounds_that_abort_what_is_merely_replaced_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from consensus.replica.driver import Driver

    init = Driver.__init__

    def hasty(self: Any, *args: Any, **kwargs: Any) -> None:
        from kudu_storage.errors import Aborted

        init(self, *args, **kwargs)
        rounds = kwargs["handlers"].appended.__self__._rounds
        from consensus.raft import effects as fx

        def abort(_: fx.AbortRounds) -> None:
            while rounds._waiting:
                rounds._fail_head(Aborted("replaced"))

        kwargs["handlers"].aborted = abort

    assert "had begun" in fails(monkeypatch, "consensus.replica.driver.Driver.__init__", hasty)
