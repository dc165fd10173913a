"""The scheduler: threads, claims, failures, leaving. Time stands still unless a test moves it."""
from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from maintained import MIB, TABLET, FakeTablet, ManualClock, changes_in_memory, rows_in_memory, rowset, tablet

import kudu_storage.tablet.scheduler as scheduler_module
from kudu_storage.errors import DiskError, InvalidArgument, MemoryBackpressure
from kudu_storage.tablet.maintenance_facts import TabletFacts
from kudu_storage.tablet.maintenance_policy import Action
from kudu_storage.tablet.scheduler import RETRY_AFTER_MAX_S, Scheduler, default_budget_bytes, process_scheduler

OTHER = "f" * 32
WAIT_S = 30         # until a test gives up on a thread
OLD = tablet(rows_in_memory(age_s=600))
IDLE = tablet()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def manual(clock: ManualClock, **options: object) -> Scheduler:
    """One whose threads never start: tests call run_one()."""
    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, clock=clock, dice=lambda: 0.0, **options)  # type: ignore[arg-type]
    scheduler._start_threads = lambda: None  # type: ignore[method-assign]
    return scheduler


@pytest.fixture
def threaded(clock: ManualClock) -> Iterator[Scheduler]:
    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, clock=clock, dice=lambda: 0.0)
    yield scheduler
    scheduler.stop()
    scheduler.check()


def failing(error: Exception) -> FakeTablet:
    def run(_: Action) -> bool:
        raise error

    return FakeTablet(OLD, run)


# -- choosing ----------------------------------------------------------------------------------------------------------
def test_of_all_tablets_the_most_urgent_action_runs(clock: ManualClock) -> None:
    scheduler = manual(clock)
    young, old = FakeTablet(tablet(rows_in_memory(age_s=300), tablet_id=OTHER)), FakeTablet(OLD)
    scheduler.register(young)
    scheduler.register(old)
    action = scheduler.run_one()
    assert action is not None and (action.tablet_id, action.reason) == (TABLET, "gain")
    assert (old.ran, young.ran) == ([action], [])
    assert scheduler.stats()["totals"] == {"flush_memrowset": {"done": 1, "nothing": 0, "failed": 0, "seconds": 0.0}}


def test_memory_of_all_tablets_together_makes_pressure(clock: ManualClock) -> None:
    scheduler = manual(clock)
    tablets = [FakeTablet(tablet(rows_in_memory(250 * MIB, 5 * MIB), tablet_id=f"{i:032x}")) for i in range(2)]
    for one in tablets:
        scheduler.register(one)
    assert scheduler.run_one() is None
    third = FakeTablet(tablet(rows_in_memory(100 * MIB, 9 * MIB)))
    scheduler.register(third)
    action = scheduler.run_one()
    assert action is not None and (action.reason, action.tablet_id) == ("memory", TABLET)
    assert scheduler.stats()["memory"] == {"used_bytes": 600 * MIB, "budget_bytes": 1000 * MIB, "short": True,
                                           "full": False, "writers_waiting": 0}


def test_memory_may_be_counted_elsewhere(clock: ManualClock) -> None:
    scheduler = manual(clock, used_bytes=lambda: 999 * MIB)
    scheduler.register(one := FakeTablet(tablet(rows_in_memory())))
    action = scheduler.run_one()
    assert action is not None and action.reason == "memory" and one.ran == [action]


def test_nothing_runs_where_nothing_is_worth_it_or_possible(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(idle := FakeTablet(IDLE))
    assert scheduler.run_one() is None
    idle.current = None
    assert scheduler.run_one() is None
    assert scheduler.stats()["failures"] == []


def test_what_runs_is_claimed_while_it_runs(clock: ManualClock) -> None:
    scheduler = manual(clock)
    facts = tablet(rows_in_memory(age_s=1), changes_in_memory(1, age_s=900), changes_in_memory(3, 1, 1, age_s=800),
                   rowsets=[rowset(1, 0, 1000), rowset(2, 0, 1000), rowset(3, 2000, 3000)])
    begun: list[tuple[str, str]] = []

    def run(action: Action) -> bool:
        begun.append((action.kind, action.target))
        scheduler.check()
        assert len(scheduler.stats()["running"]) == len(begun)
        if scheduler.run_one() is None:         # as another thread would, in the midst of this one
            begun.append(("nothing", "else"))
        return True

    one = FakeTablet(facts, run)
    scheduler.register(one)
    assert scheduler.run_one() is not None
    assert begun == [("merge", "rowsets 1, 2"), ("flush_deltas", "store 3/0"), ("nothing", "else")]
    assert scheduler.stats()["running"] == []


# -- failures ----------------------------------------------------------------------------------------------------------
def test_a_failing_action_waits_longer_each_time_and_is_reported(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(broken := failing(DiskError("no luck", path="/somewhere")))
    delays = []
    for attempt in range(1, 12):
        assert scheduler.run_one() is not None
        assert scheduler.run_one() is None
        (failure,) = scheduler.stats()["failures"]
        assert failure["attempts"] == attempt and "no luck" in failure["error"]
        assert (failure["kind"], failure["rowset_id"]) == ("flush_memrowset", None)
        delays.append(failure["retry_in_seconds"])
        clock.time += failure["retry_in_seconds"] - 0.001
        assert scheduler.run_one() is None
        clock.time += 0.002
    assert delays[:4] == [1, 2, 4, 8] and delays[-1] == RETRY_AFTER_MAX_S
    assert len(broken.ran) == 11
    assert scheduler.stats()["totals"]["flush_memrowset"]["failed"] == 11


def test_success_ends_a_series_of_failures(clock: ManualClock) -> None:
    scheduler = manual(clock)
    outcomes = iter([DiskError("first"), True, DiskError("second")])

    def run(_: Action) -> bool:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    scheduler.register(one := FakeTablet(OLD, run))
    for _ in range(3):
        assert scheduler.run_one() is not None
        clock.time += 1.5
    assert [f["attempts"] for f in scheduler.stats()["failures"]] == [1]
    assert [e["outcome"] for e in scheduler.stats()["ended"]] == ["failed", "done", "failed"]
    assert len(one.ran) == 3


def test_what_fails_on_some_rowsets_goes_on_with_others(clock: ManualClock) -> None:
    scheduler = manual(clock)
    facts = tablet(changes_in_memory(1, MIB, 9 * MIB, 900), changes_in_memory(2, MIB, MIB, 800))

    def run(action: Action) -> bool:
        if 1 in action.rowset_ids:
            raise DiskError("rowset 1 cannot be read")
        return True

    scheduler.register(one := FakeTablet(facts, run))
    assert [scheduler.run_one() is not None for _ in range(2)] == [True, True]
    assert [action.target for action in one.ran] == ["store 1/0", "store 2/0"]
    assert [f["rowset_id"] for f in scheduler.stats()["failures"]] == [1]
    one.current = tablet(rowsets=[rowset(1, 0, 1000), rowset(2, 0, 1000)])
    action = scheduler.run_one()
    assert action is not None and action.kind == "merge"        # another kind of work may well be possible


def test_an_action_that_finds_nothing_to_do_is_not_tried_at_once_again(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(one := FakeTablet(OLD, lambda _: False))
    assert scheduler.run_one() is not None
    assert scheduler.run_one() is None
    assert scheduler.stats()["totals"]["flush_memrowset"] == {"done": 0, "nothing": 1, "failed": 0, "seconds": 0.0}
    clock.time += 1
    assert scheduler.run_one() is not None and len(one.ran) == 2


def test_a_tablet_that_cannot_tell_its_facts_does_not_stop_the_others(clock: ManualClock) -> None:
    scheduler = manual(clock)
    mute, well = FakeTablet(tablet(tablet_id=OTHER)), FakeTablet(OLD)
    mute.facts_error = DiskError("no facts")
    scheduler.register(mute)
    scheduler.register(well)
    assert scheduler.run_one() is not None and len(well.ran) == 1
    (failure,) = scheduler.stats()["failures"]
    assert (failure["tablet_id"], failure["kind"]) == (OTHER, None)
    mute.facts_error = None
    clock.time += 2
    scheduler.run_one()
    assert scheduler.stats()["failures"] == []


def test_a_plan_is_made_before_the_action_runs_and_told(clock: ManualClock) -> None:
    scheduler = manual(clock)
    during: list[list[str]] = []

    def run(_: Action) -> bool:
        during.extend(r["plan"] for r in scheduler.stats()["running"])
        clock.time += 5
        return True

    one = FakeTablet(OLD, run)
    scheduler.register(one)
    scheduler.run_one()
    assert during and during[0][0].startswith("flush_memrowset of memrowset 1: gains")
    (ended,) = json.loads(json.dumps(scheduler.stats()))["ended"]
    assert (ended["seconds"], ended["plan"]) == (5, during[0])


def test_only_the_last_few_actions_are_remembered(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(one := FakeTablet(OLD))
    for _ in range(20):
        scheduler.run_one()
    assert len(one.ran) == 20 and len(scheduler.stats()["ended"]) == 8


# -- tablets come and go -----------------------------------------------------------------------------------------------
def test_a_tablet_is_registered_once_and_can_come_back(clock: ManualClock) -> None:
    scheduler = manual(clock)
    one = FakeTablet(OLD)
    scheduler.register(one)
    with pytest.raises(InvalidArgument, match="is registered"):
        scheduler.register(one)
    scheduler.unregister(FakeTablet(OLD))           # another replica: not this one
    assert scheduler.stats()["tablets"] == [TABLET]
    scheduler.unregister(one)
    scheduler.unregister(one)
    assert scheduler.run_one() is None
    scheduler.register(one)
    assert scheduler.run_one() is not None


def test_replicas_of_one_tablet_are_told_apart(clock: ManualClock) -> None:
    scheduler = manual(clock)
    broken, well = failing(DiskError("no luck")), FakeTablet(OLD)
    scheduler.register(broken)
    scheduler.register(well)
    assert [scheduler.run_one() is not None for _ in range(2)] == [True, True]
    assert (len(broken.ran), len(well.ran)) == (1, 1)
    scheduler.unregister(well)
    assert scheduler.run_one() is None
    assert scheduler.stats()["tablets"] == [TABLET]


def test_failures_go_with_their_tablet(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(broken := failing(DiskError("no luck")))
    scheduler.run_one()
    scheduler.unregister(broken)
    scheduler.register(broken)
    assert scheduler.run_one() is not None


def test_a_tablet_that_nobody_closed_is_forgotten(clock: ManualClock) -> None:
    scheduler = manual(clock)
    scheduler.register(FakeTablet(OLD))
    gc.collect()
    assert scheduler.run_one() is None
    assert scheduler.stats()["tablets"] == []


# -- threads -----------------------------------------------------------------------------------------------------------
class Held:
    """A tablet whose action waits for the test."""

    def __init__(self, facts: TabletFacts = OLD) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.tablet = FakeTablet(facts, self._run)

    def _run(self, _: Action) -> bool:
        self.tablet.current = IDLE
        self.begun.set()
        assert self.go.wait(WAIT_S)
        return True


def test_there_is_a_thread_as_long_as_there_is_a_tablet(threaded: Scheduler, clock: ManualClock) -> None:
    assert threaded.stats()["threads"] == 0
    one, two = FakeTablet(IDLE), FakeTablet(tablet(tablet_id=OTHER))
    threaded.register(one)
    threaded.register(two)
    assert threaded.stats()["threads"] == 1
    threads = set(threaded._threads)
    threaded.unregister(one)
    assert threaded.stats()["threads"] == 1
    threaded.unregister(two)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert threaded.stats()["threads"] == 0
    threaded.register(one)
    assert threaded.stats()["threads"] == 1
    threaded.unregister(one)


def test_a_wake_up_is_never_lost(threaded: Scheduler, clock: ManualClock) -> None:
    begun = threading.Semaphore(0)

    def run(_: Action) -> bool:
        one.current = IDLE
        begun.release()
        return True

    one = FakeTablet(IDLE, run)
    threaded.register(one)
    for _ in range(50):         # the thread is anywhere between two waits
        one.current = OLD
        threaded.wake()
        assert begun.acquire(timeout=WAIT_S)
    threaded.unregister(one)


def test_the_thread_outlives_errors_of_every_kind(threaded: Scheduler, clock: ManualClock) -> None:
    ran = threading.Semaphore(0)
    errors: list[Exception] = [DiskError("a disk"), ValueError("a bug"), MemoryError(), RecursionError()]

    def run(_: Action) -> bool:
        clock.time += 1000
        ran.release()
        if errors:
            raise errors.pop()
        one.current = IDLE
        return True

    one = FakeTablet(OLD, run)
    threaded.register(one)
    for _ in range(5):
        clock.time += 1000
        threaded.wake()
        assert ran.acquire(timeout=WAIT_S)
        assert clock.waiting.acquire(timeout=WAIT_S)
    threaded.unregister(one)
    totals = threaded.stats()["totals"]["flush_memrowset"]
    assert (totals["done"], totals["failed"]) == (1, 4)


def test_the_thread_outlives_a_choice_that_cannot_be_made(clock: ManualClock) -> None:
    broken = True

    def used_bytes() -> int:
        if broken:
            raise ValueError("nobody can count this")
        return 0

    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, used_bytes=used_bytes, clock=clock)
    held = Held()
    held.go.set()
    scheduler.register(held.tablet)
    assert clock.waiting.acquire(timeout=WAIT_S)
    assert "nobody can count" in scheduler.stats()["trouble"]
    broken = False
    scheduler.wake()
    assert held.begun.wait(WAIT_S)
    scheduler.stop()
    assert scheduler.stats()["trouble"] is None


def test_unregister_waits_for_the_running_action(threaded: Scheduler) -> None:
    held = Held()
    threaded.register(held.tablet)
    assert held.begun.wait(WAIT_S)
    left = threading.Event()

    def leave() -> None:
        threaded.unregister(held.tablet)
        left.set()

    leaver = threading.Thread(target=leave)
    leaver.start()
    while threaded.stats()["tablets"]:
        pass
    assert not left.is_set()
    held.go.set()
    leaver.join(WAIT_S)
    assert left.is_set() and threaded.stats()["running"] == []


def test_stop_waits_for_the_running_action_and_leaves_no_thread(clock: ManualClock) -> None:
    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, clock=clock)
    held = Held()
    scheduler.register(held.tablet)
    assert held.begun.wait(WAIT_S)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    while not scheduler.stats()["stopped"]:
        pass
    assert stopper.is_alive()
    held.go.set()
    stopper.join(WAIT_S)
    assert not stopper.is_alive()
    stats = scheduler.stats()
    assert (stats["threads"], stats["running"], [e["outcome"] for e in stats["ended"]]) == (0, [], ["done"])
    with pytest.raises(InvalidArgument, match="stopped"):
        scheduler.register(FakeTablet(OLD))
    scheduler.stop()


def test_a_tablet_may_close_itself_from_its_own_action(threaded: Scheduler) -> None:
    closed = threading.Event()

    def run(_: Action) -> bool:
        threaded.unregister(one)
        closed.set()
        return True

    one = FakeTablet(OLD, run)
    threaded.register(one)
    assert closed.wait(WAIT_S)
    threaded.unregister(one)


def test_several_threads_share_the_work_and_never_a_rowset(clock: ManualClock) -> None:
    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, clock=clock, thread_count=3)
    helds = [Held(tablet(rows_in_memory(age_s=600), tablet_id=f"{i:032x}")) for i in range(3)]
    for held in helds:
        scheduler.register(held.tablet)
    for held in helds:
        assert held.begun.wait(WAIT_S)
    assert len(scheduler.stats()["running"]) == 3
    scheduler.check()
    for held in helds:
        held.go.set()
    scheduler.stop()
    assert all(len(held.tablet.ran) == 1 for held in helds)


def test_a_child_process_has_neither_threads_nor_tablets_and_can_have_its_own(threaded: Scheduler) -> None:
    held = Held()
    threaded.register(held.tablet)
    assert held.begun.wait(WAIT_S)
    with threaded._condition:                   # as if another thread were just at it
        child = os.fork()
    if child == 0:
        code = 1
        try:
            stats = threaded.stats()
            fresh = Held(tablet(rows_in_memory(age_s=600), tablet_id=OTHER))
            fresh.go.set()
            threaded.unregister(held.tablet)
            threaded.register(fresh.tablet)
            ran = fresh.begun.wait(WAIT_S)
            threaded.stop()
            code = 0 if ran and (stats["tablets"], stats["threads"], stats["running"]) == ([], 0, []) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    held.go.set()
    threaded.unregister(held.tablet)
    assert [e["outcome"] for e in threaded.stats()["ended"]] == ["done"]


def test_a_process_has_one() -> None:
    assert process_scheduler() is process_scheduler()
    assert process_scheduler().stats()["threads"] == 0
    assert default_budget_bytes() >= 64 * MIB


@pytest.mark.parametrize("wrong", [{"thread_count": 0}, {"interval_s": 0}, {"memory_budget_bytes": 0}])
def test_settings_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        Scheduler(**wrong)  # type: ignore[arg-type]


# -- memory at its budget ----------------------------------------------------------------------------------------------
FULL_BYTES = 1001 * MIB


def full(scheduler: Scheduler, one: FakeTablet) -> None:
    scheduler.register(one)
    scheduler.weighed(one, FULL_BYTES, 0)
    assert not scheduler.has_room


def waiting_writer(scheduler: Scheduler, one: FakeTablet, timeout: float | None = WAIT_S
                   ) -> tuple[threading.Thread, list[MemoryBackpressure | None]]:
    """Of a thread that waits by now: it, and how its waiting ends."""
    outcome: list[MemoryBackpressure | None] = []

    def write() -> None:
        try:
            scheduler.wait_for_room(one, timeout)
            outcome.append(None)
        except MemoryBackpressure as error:
            outcome.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while scheduler.stats()["memory"]["writers_waiting"] == 0 and not outcome:
        pass
    return writer, outcome


def test_a_writer_waits_until_a_flush_has_made_room(clock: ManualClock) -> None:
    scheduler = manual(clock)

    def run(_: Action) -> bool:
        one.current = IDLE
        return True

    one = FakeTablet(tablet(rows_in_memory(FULL_BYTES)), run)
    full(scheduler, one)
    writer, outcome = waiting_writer(scheduler, one)
    action = scheduler.run_one()
    assert action is not None and (action.kind, action.reason) == ("flush_memrowset", "memory")
    assert outcome == [] and not scheduler.has_room         # nobody has looked since
    assert scheduler.run_one() is None
    writer.join(WAIT_S)
    assert outcome == [None] and scheduler.has_room
    assert scheduler.stats()["memory"]["writers_waiting"] == 0


def test_memory_of_all_tablets_makes_each_writer_wait(clock: ManualClock) -> None:
    scheduler = manual(clock)
    one, other = FakeTablet(OLD), FakeTablet(tablet(tablet_id=OTHER))
    for member, size in ((one, 600 * MIB), (other, 400 * MIB)):
        scheduler.register(member)
        scheduler.weighed(member, size, 0)
    assert not scheduler.has_room
    writer, outcome = waiting_writer(scheduler, one)
    scheduler.unregister(other)                             # what it held is gone with it
    writer.join(WAIT_S)
    assert outcome == [None]


def test_a_writer_that_waited_long_enough_is_told_how_full_memory_is(clock: ManualClock) -> None:
    scheduler = manual(clock)
    full(scheduler, one := FakeTablet(OLD))
    with pytest.raises(MemoryBackpressure, match=rf"hold {FULL_BYTES} bytes .* budget is {1000 * MIB}; .*no room") as e:
        scheduler.wait_for_room(one, 0)
    assert e.value.retry and isinstance(e.value, TimeoutError)


def test_a_writer_is_told_that_flushing_fails(clock: ManualClock) -> None:
    """However long it would wait."""
    scheduler = manual(clock)
    one = failing(DiskError("no luck"))
    full(scheduler, one)
    one.current = tablet(rows_in_memory(FULL_BYTES))
    writer, outcome = waiting_writer(scheduler, one, None)
    assert scheduler.run_one() is not None
    writer.join(WAIT_S)
    assert len(outcome) == 1 and "a flush failed: DiskError: no luck" in str(outcome[0])
    with pytest.raises(MemoryBackpressure, match="no luck"):
        scheduler.wait_for_room(one, None)


@pytest.mark.parametrize("how", ["unregister", "stop", "budget"])
def test_a_writer_does_not_wait_for_flushes_that_nobody_does(how: str, clock: ManualClock) -> None:
    scheduler = manual(clock)
    full(scheduler, one := FakeTablet(OLD))
    writer, outcome = waiting_writer(scheduler, one, None)
    if how == "unregister":
        scheduler.unregister(one)
    elif how == "stop":
        scheduler.stop()
    else:
        scheduler.memory_budget_bytes = 2 * FULL_BYTES
    writer.join(WAIT_S)
    assert outcome == [None]
    scheduler.wait_for_room(one, None)


def test_where_memory_is_counted_elsewhere_that_counts(clock: ManualClock) -> None:
    used = 0
    scheduler = manual(clock, used_bytes=lambda: used)
    scheduler.register(one := FakeTablet(IDLE))
    scheduler.weighed(one, FULL_BYTES, 0)
    assert scheduler.has_room
    used = FULL_BYTES
    scheduler.weighed(one, 0, 0)
    assert not scheduler.has_room


def test_what_a_tablet_weighs_wakes_the_thread_when_it_calls_for_a_flush(threaded: Scheduler, clock: ManualClock
                                                                         ) -> None:
    """The clock of this test never ends a wait."""
    bounds = threaded.policy.maintenance
    threaded.register(one := FakeTablet(IDLE))
    assert clock.waiting.acquire(timeout=WAIT_S)
    threaded.weighed(one, 1, 1)
    assert not clock.waiting.acquire(timeout=0.01)
    for weights in ((bounds.flush_bytes, 0), (0, bounds.log_bytes_max), (600 * MIB, 0)):
        threaded.weighed(one, *weights)
        assert clock.waiting.acquire(timeout=WAIT_S), weights
    threaded.unregister(one)


def test_looks_that_find_nothing_are_further_apart(clock: ManualClock) -> None:
    waits: list[float] = []
    enough = threading.Event()

    class Counting(ManualClock):
        def wait(self, condition: threading.Condition, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) >= 6:
                enough.set()
                condition.wait()

    scheduler = Scheduler(memory_budget_bytes=1000 * MIB, clock=Counting())
    scheduler.register(one := FakeTablet(IDLE))
    assert enough.wait(WAIT_S)
    assert waits[:6] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    scheduler.wake()
    while len(waits) == 6:
        pass
    assert waits[6] == 0.25
    scheduler.unregister(one)
    scheduler.stop()


def test_a_budget_that_is_none_is_refused(clock: ManualClock) -> None:
    scheduler = manual(clock)
    with pytest.raises(InvalidArgument):
        scheduler.memory_budget_bytes = 0
    assert scheduler.memory_budget_bytes == 1000 * MIB


def test_the_budget_is_of_what_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = default_budget_bytes()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(scheduler_module, "_GROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    for text, budget in (("max\n", None), (str(1 << 60), None), ("536870912\n", 256 * MIB), ("1", 64 * MIB),
                         ("", None)):
        limit.write_text(text)
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert default_budget_bytes() == (max(64 * MIB, total // 2) if budget is None else budget), text
    assert whole <= max(64 * MIB, total // 2)
