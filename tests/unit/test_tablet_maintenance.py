"""Tablets in the care of a scheduler: what it plans happens, and rows stay what they are."""
from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tablet_model import Model, check_rows, model_schema, random_operation, write_batch

from kudu_storage import Tablet
from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.compaction_policy import CompactionPolicy
from kudu_storage.tablet.maintenance_facts import MemoryFacts
from kudu_storage.tablet.maintenance_policy import Action, Policy
from kudu_storage.tablet.scheduler import Scheduler, process_scheduler
from kudu_storage.tablet.scoring import MaintenancePolicy

MIB = 1 << 20
WAIT_S = 30             # until a test gives up on a thread
OPTIONS: dict[str, Any] = {"durability": "os", "segment_size": "16KiB", "maintenance": "manual"}
EAGER = Policy(MaintenancePolicy(log_bytes_max=64 << 10, flush_after_s=0.0, flush_full_gain_after_s=5.0),
               CompactionPolicy(budget_bytes=4 * MIB, target_rowset_bytes=64 << 10, unit_bytes=16 << 10))
# Writers that never rest soon hold more log than any small bound, and flushes would leave no time for merges.
BUSY = Policy(MaintenancePolicy(flush_after_s=0.0, flush_full_gain_after_s=5.0), EAGER.compaction)
PLENTY = MemoryFacts(0, 1 << 40)


def eager(*tablets: Tablet, dice: Callable[[], float] = lambda: 0.0, budget_bytes: int = 1 << 40) -> Scheduler:
    """Its thread never starts: tests call run_one()."""
    scheduler = Scheduler(EAGER, memory_budget_bytes=budget_bytes, dice=dice)
    scheduler._start_threads = lambda: None  # type: ignore[method-assign]
    for tablet in tablets:
        scheduler.register(tablet.maintained)
    return scheduler


def run_all(scheduler: Scheduler) -> list[Action]:
    actions = []
    while (action := scheduler.run_one()) is not None:
        actions.append(action)
        assert len(actions) < 500, [(a.kind, a.target, a.text) for a in actions[-10:]]
    scheduler.check()
    assert scheduler.stats()["failures"] == []
    return actions


def writes(tablet: Tablet, model: Model, rng: random.Random, batches: int = 10) -> None:
    for _ in range(batches):
        write_batch(tablet, model, [random_operation(rng) for _ in range(rng.randrange(1, 25))])


def owners(tablet: Tablet) -> set[str]:
    return {anchor["owner"] for anchor in tablet.stats()["anchors"]}


@pytest.mark.parametrize("seed", range(4))
def test_all_that_is_worth_doing_gets_done_and_rows_stay(seed: int, tmp_path: Path) -> None:
    rng, model = random.Random(seed), Model()
    kinds: set[str] = set()
    with Tablet.create(tmp_path / "t", model_schema(), history_seconds=0, **OPTIONS) as tablet:
        scheduler = eager(tablet, dice=rng.random)
        for _ in range(8):
            writes(tablet, model, rng)
            kinds |= {action.kind for action in run_all(scheduler)}
            check_rows(tablet, model)
        facts = tablet.maintained.facts()
        assert facts is not None and facts.stores == ()
        assert {anchor.owner for anchor in facts.anchors} == {"operations in flight"}
        assert facts.log.collectable_bytes == 0
        assert facts.log.bytes <= 64 << 10
        assert len(facts.rowsets) <= 2
        assert sum(len(deltas.undos) for deltas in facts.deltas) <= 2
    assert kinds >= {"flush_memrowset", "merge", "log_gc"}
    with Tablet.open(tmp_path / "t", **OPTIONS) as tablet:
        check_rows(tablet, model)


def test_what_a_plan_says_is_what_happens(tmp_path: Path) -> None:
    rng, model = random.Random(7), Model()
    with Tablet.create(tmp_path / "t", model_schema(), **OPTIONS) as tablet:
        writes(tablet, model, rng)
        tablet.flush()
        writes(tablet, model, rng, 20)
        before = tablet.maintained.facts()
        plans = {plan.action.kind: plan for plan in tablet.maintained.plans(PLENTY, EAGER)}
        assert before is not None and {"flush_memrowset", "flush_deltas"} <= set(plans)
        for kind in ("flush_deltas", "flush_memrowset"):
            plan = tablet.maintained.plan(plans[kind].action)
            freed = {anchor.owner for anchor in plan.anchors_freed}
            assert freed and freed <= owners(tablet)
            assert tablet.maintained.run(plan.action)
            assert not freed & owners(tablet)
            assert not tablet.maintained.run(plan.action)          # there is nothing of it left
            after = tablet.maintained.facts()
            assert after is not None
            assert before.memory_bytes - after.memory_bytes == plan.memory_bytes_freed
            lowest = after.anchors[0]
            assert plan.held_by is not None
            assert (lowest.owner, lowest.log_index) == (plan.held_by.owner, plan.held_by.log_index)
            before = after
        (collect,) = [p for p in tablet.maintained.plans(PLENTY, EAGER) if p.action.kind == "log_gc"]
        held = before.log.bytes
        assert tablet.maintained.run(collect.action)
        after = tablet.maintained.facts()
        assert after is not None and held - after.log.bytes == collect.removed_bytes > 0
        check_rows(tablet, model)


def test_files_that_a_merge_reads_are_those_that_go(tmp_path: Path) -> None:
    rng, model = random.Random(8), Model()
    with Tablet.create(tmp_path / "t", model_schema(), **OPTIONS) as tablet:
        for _ in range(3):
            tablet.flush()
            writes(tablet, model, rng)
        (plan,) = [p for p in tablet.maintained.plans(PLENTY, EAGER) if p.action.kind == "merge"]
        sizes = {rowset["id"]: rowset for rowset in tablet.stats()["layout"]}
        assert plan.read_bytes == sum(sizes[i]["data_bytes"] for i in plan.action.rowset_ids)
        assert plan.removed_bytes == sum(sizes[i]["disk_bytes"] for i in plan.action.rowset_ids)
        freed = {anchor.owner for anchor in plan.anchors_freed}
        assert freed and freed <= owners(tablet)
        assert tablet.maintained.run(plan.action)
        assert not freed & owners(tablet)
        left = {rowset["id"] for rowset in tablet.stats()["layout"]}
        assert not left & set(plan.action.rowset_ids)
        check_rows(tablet, model)


def test_short_memory_flushes_the_store_that_holds_most_log(tmp_path: Path) -> None:
    rng, model = random.Random(9), Model()
    with Tablet.create(tmp_path / "t", model_schema(), **OPTIONS) as tablet:
        writes(tablet, model, rng)
        action = eager(tablet, budget_bytes=1).run_one()
        assert action is not None and (action.kind, action.reason) == ("flush_memrowset", "memory")


def test_a_reader_that_holds_the_log_is_named(tmp_path: Path) -> None:
    rng, model = random.Random(10), Model()
    with Tablet.create(tmp_path / "t", model_schema(), **OPTIONS) as tablet:
        with tablet.log.anchor(1, "someone who copies"):
            writes(tablet, model, rng, 30)
            run_all(eager(tablet))
            facts = tablet.maintained.facts()
            assert facts is not None
            assert (facts.anchors[0].owner, facts.log.collectable_bytes) == ("someone who copies", 0)
        assert [action.kind for action in run_all(eager(tablet))] == ["log_gc"]


def test_a_closed_tablet_has_no_facts(tmp_path: Path) -> None:
    tablet = Tablet.create(tmp_path / "t", model_schema(), **OPTIONS)
    scheduler = eager(tablet)
    tablet.close()
    assert tablet.maintained.facts() is None
    assert scheduler.run_one() is None and scheduler.stats()["failures"] == []


def test_a_table_that_is_not_to_be_compacted_is_not(tmp_path: Path) -> None:
    rng, model = random.Random(11), Model()
    with Tablet.create(tmp_path / "t", model_schema(), **OPTIONS) as tablet:
        tablet.maintained._config.disable_compaction = True
        scheduler = eager(tablet)
        for _ in range(3):
            writes(tablet, model, rng)
            assert {action.kind for action in run_all(scheduler)} <= {"flush_memrowset", "flush_deltas", "log_gc"}
        assert len(tablet.stats()["layout"]) >= 2


# -- in the background -------------------------------------------------------------------------------------------------
def test_a_process_cares_for_its_tablets_while_they_are_written(tmp_path: Path) -> None:
    """Its scheduler, its thread: what is written meanwhile is there, also after the next opening."""
    scheduler = process_scheduler()
    before = outcomes(scheduler)        # other tests' tablets: some were made to fail
    usual, scheduler.policy = scheduler.policy, BUSY
    options = {**OPTIONS, "segment_size": "256KiB", "maintenance": "background"}
    models = [Model(), Model()]
    done = threading.Event()
    try:
        tablets = [Tablet.create(tmp_path / str(i), model_schema(), **options)
                   for i in range(2)]
        assert scheduler.stats()["threads"] == 1
        writers = [threading.Thread(target=write_until, args=(tablet, model, random.Random(number), done))
                   for number, (tablet, model) in enumerate(zip(tablets, models, strict=True))]
        for writer in writers:
            writer.start()
        wanted = {"flush_memrowset", "merge", "log_gc"}
        wait_for(lambda: wanted <= {kind for kind, how in outcomes(scheduler) - before if how == "done"}, scheduler)
        done.set()
        for writer in writers:
            writer.join(WAIT_S)
        for tablet, model in zip(tablets, models, strict=True):
            check_rows(tablet, model)
            tablet.close()
        assert (scheduler.stats()["tablets"], scheduler.stats()["running"]) == ([], [])
        assert "failed" not in {outcome for _, outcome in outcomes(scheduler) - before}, scheduler.stats()
    finally:
        done.set()
        scheduler.policy = usual
    for number, model in enumerate(models):
        with Tablet.open(tmp_path / str(number), **options) as tablet:
            check_rows(tablet, model)


def outcomes(scheduler: Scheduler) -> Counter[tuple[str, str]]:
    """How often each kind of action ended how."""
    return Counter({(kind, outcome): total[outcome] for kind, total in scheduler.stats()["totals"].items()
                    for outcome in ("done", "nothing", "failed")})


def write_until(tablet: Tablet, model: Model, rng: random.Random, done: threading.Event) -> None:
    while not done.is_set():
        write_batch(tablet, model, [random_operation(rng) for _ in range(10)])


def wait_for(condition: Callable[[], bool], scheduler: Scheduler) -> None:
    passed = threading.Event()
    for _ in range(WAIT_S * 20):
        if condition():
            return
        scheduler.wake()
        passed.wait(0.05)
    raise AssertionError(scheduler.stats())


def test_a_tablet_in_care_that_nobody_closed_lets_go_of_its_folder(tmp_path: Path) -> None:
    tablet = Tablet.create(tmp_path / "t", model_schema(), durability="os", segment_size="16KiB")
    threads = list(process_scheduler()._threads)
    del tablet
    assert threads
    for _ in range(WAIT_S * 10):        # the thread may just be looking at it
        gc.collect()
        process_scheduler().wake()
        threads[0].join(0.1)
        if not threads[0].is_alive():
            break
    assert not threads[0].is_alive()
    Tablet.open(tmp_path / "t", **OPTIONS).close()


def test_another_kind_of_maintenance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="maintenance"):
        Tablet.create(tmp_path / "t", model_schema(), maintenance="never")
