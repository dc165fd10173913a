"""Who holds the log: order, times, the floor, typed errors, threads."""
from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from kudu_storage.errors import Collected, InternalError, InvalidArgument
from kudu_storage.wal.anchors import Anchor, AnchorInfo, AnchorRegistry
from kudu_storage.wal.holders import (
    anchor_lines,
    anchors_json,
    duration_text,
    explanation_json,
    plan_lines,
    result_lines,
)
from kudu_storage.wal.retention import GcPlan, GcResult, SegmentFacts, plan_gc


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> AnchorRegistry:
    return AnchorRegistry(clock=clock)


def test_the_lowest_anchor_is_the_one_that_keeps_most(registry: AnchorRegistry) -> None:
    assert registry.lowest() is None
    high = registry.register(30, "store 7", kind="store")
    low = registry.register(10, "rowset 3", kind="rowset")
    assert registry.lowest() is low
    low.release()
    assert registry.lowest() is high


def test_holders_come_by_index_then_by_age(registry: AnchorRegistry, clock: Clock) -> None:
    registry.register(5, "b")
    clock.now += 1
    registry.register(5, "a", kind="copy")
    registry.register(2, "c", kind="operation")
    assert registry.holders() == [AnchorInfo(2, "c", "operation", 1_700_000_001.0),
                                  AnchorInfo(5, "b", "reader", 1_700_000_000.0),
                                  AnchorInfo(5, "a", "copy", 1_700_000_001.0)]


def test_a_moved_anchor_holds_its_new_index_since_it_moved(registry: AnchorRegistry, clock: Clock) -> None:
    anchor = registry.register(5, "tail")
    clock.now += 10
    anchor.move_to(5)
    assert anchor.since == 1_700_000_000.0
    anchor.move_to(9)
    assert (anchor.index, anchor.since) == (9, 1_700_000_010.0)
    assert [a.index for a in registry.holders()] == [9]
    anchor.move_to(3)
    assert registry.lowest() is anchor and anchor.index == 3
    registry.check()


def test_leaving_the_block_lets_go_even_by_an_error(registry: AnchorRegistry) -> None:
    with pytest.raises(KeyError), registry.register(5, "reader") as anchor:
        assert anchor.held and len(registry) == 1
        raise KeyError
    assert not anchor.held and len(registry) == 0


def test_release_may_be_repeated_and_says_whether_it_did_something(registry: AnchorRegistry) -> None:
    anchor = registry.register(5, "reader")
    assert anchor.release() is True
    assert anchor.release() is False


def test_a_registry_asked_to_release_twice_refuses(registry: AnchorRegistry) -> None:
    anchor = registry.register(5, "reader")
    registry.release(anchor)
    with pytest.raises(InvalidArgument, match="released before"):
        registry.release(anchor)


def test_a_registry_does_not_release_an_anchor_of_another_log(registry: AnchorRegistry) -> None:
    anchor = AnchorRegistry().register(5, "reader")
    with pytest.raises(InvalidArgument, match="another log"):
        registry.release(anchor)
    assert anchor.held


def test_a_released_anchor_cannot_be_moved(registry: AnchorRegistry) -> None:
    anchor = registry.register(5, "rowset 3", kind="rowset")
    anchor.release()
    with pytest.raises(InvalidArgument, match="rowset 'rowset 3' was released before"):
        anchor.move_to(6)
    assert anchor.index == 5 and len(registry) == 0


@pytest.mark.parametrize("index", [-1, -(1 << 63)])
def test_negative_indexes_are_refused(registry: AnchorRegistry, index: int) -> None:
    anchor = registry.register(5, "reader")
    with pytest.raises(InvalidArgument):
        registry.register(index, "reader")
    with pytest.raises(InvalidArgument):
        anchor.move_to(index)
    with pytest.raises(InvalidArgument):
        registry.raise_floor(index)
    assert anchor.index == 5 and len(registry) == 1


def test_an_anchor_needs_an_owner_and_a_known_kind(registry: AnchorRegistry) -> None:
    with pytest.raises(InvalidArgument, match="owner"):
        registry.register(1, "")
    with pytest.raises(InvalidArgument, match="copy, operation, reader, rowset, store"):
        registry.register(1, "x", kind="other")  # type: ignore[arg-type]


def test_nothing_can_be_anchored_below_what_was_collected(registry: AnchorRegistry) -> None:
    anchor = registry.register(20, "reader")
    assert registry.raise_floor(15) is None
    with pytest.raises(Collected, match="below 15"):
        registry.register(14, "late")
    with pytest.raises(Collected):
        anchor.move_to(14)
    assert registry.register(15, "in time").index == 15
    registry.check()


def test_the_floor_stops_at_the_lowest_anchor_and_names_it(registry: AnchorRegistry) -> None:
    registry.register(10, "rowset 3", kind="rowset")
    blocked = registry.raise_floor(11)
    assert blocked is not None and blocked.owner == "rowset 3"
    assert registry.floor == 0
    assert registry.raise_floor(10) is None
    assert registry.raise_floor(4) is None and registry.floor == 10


def test_check_notices_an_anchor_under_a_wrong_index(registry: AnchorRegistry) -> None:
    anchor = registry.register(5, "reader")
    registry.check()
    anchor._index = 6
    with pytest.raises(InternalError, match="A1"):
        registry.check()


def test_the_repr_is_one_line_that_names_the_owner(registry: AnchorRegistry) -> None:
    anchor = registry.register(5, "rowset\n3", kind="rowset")
    for text in (repr(anchor), repr(registry)):
        assert "\n" not in text and "rowset" in text
    anchor.release()
    assert "released" in repr(anchor)


def test_threads_leave_exactly_what_they_hold() -> None:
    registry, held, errors = AnchorRegistry(), [], []

    def work(number: int) -> None:
        try:
            for step in range(300):
                anchor = registry.register(step, f"thread {number}")
                anchor.move_to(step + 1)
                registry.lowest()
                if step % 3:
                    anchor.release()
                else:
                    held.append(anchor)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    registry.check()
    assert sorted(info.index for info in registry.holders()) == sorted(anchor.index for anchor in held)


def test_an_anchor_and_the_floor_never_both_win() -> None:
    for _ in range(200):
        registry, start, outcome = AnchorRegistry(), threading.Barrier(2), {}

        def register(registry: AnchorRegistry = registry, start: threading.Barrier = start,
                     outcome: dict[str, bool] = outcome) -> None:
            start.wait()
            try:
                registry.register(5, "reader")
                outcome["anchored"] = True
            except Collected:
                outcome["anchored"] = False

        thread = threading.Thread(target=register)
        thread.start()
        start.wait()
        collected = registry.raise_floor(6) is None
        thread.join()
        assert outcome["anchored"] is not collected


# -- finalizers: the collector can run in any line ---------------------------------------------------------------------
class Holder:
    """Lets go of its anchor when it is collected, as a rowset or a reader that nobody closed does."""

    def __init__(self, anchor: Anchor, and_then: Callable[[], object] = lambda: None) -> None:
        self.anchor, self.and_then = anchor, and_then
        self.me = self          # so that only the collector finds it

    def __del__(self) -> None:
        self.anchor.release()
        self.and_then()


def in_time(work: Callable[[], None]) -> None:
    """Run it in a thread, which a deadlock must not keep."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for itself"
    if errors:
        raise errors[0]


class CollectingClock:
    """The registry asks for the time with its lock held: then the collector runs."""

    def __init__(self) -> None:
        self.garbage: list[Holder] = []

    def __call__(self) -> float:
        self.garbage.clear()
        gc.collect()
        return 1.0


def test_a_finalizer_that_interrupts_the_registry_lets_go_of_its_anchor() -> None:
    def work() -> None:
        clock = CollectingClock()
        registry = AnchorRegistry(clock=clock)
        first, seen = registry.register(1, "first"), []

        def ask() -> None:
            seen.append((len(registry), [info.index for info in registry.holders()], registry.lowest()))

        clock.garbage.append(Holder(first, ask))
        second = registry.register(2, "second")         # the collector releases the first one here
        assert (first.held, first.release()) == (False, False)
        assert seen == [(0, [], None)]
        clock.garbage.append(Holder(second, ask))
        third = registry.register(3, "third")
        clock.garbage.append(Holder(registry.register(4, "fourth"), ask))
        third.move_to(9)                                # and one here
        assert [info.index for info in registry.holders()] == [9]
        assert seen[1:] == [(0, [], None), (1, [3], third)]
        assert registry.raise_floor(9) is None
        registry.check()

    in_time(work)


@pytest.mark.parametrize("change", [lambda r, a: r.register(5, "x"), lambda r, a: a.move_to(7),
                                    lambda r, a: r.raise_floor(1)])
def test_a_finalizer_that_interrupts_the_registry_cannot_change_it(
        change: Callable[[AnchorRegistry, Anchor], object]) -> None:
    def work() -> None:
        clock, refused = CollectingClock(), []
        registry = AnchorRegistry(clock=clock)
        anchor = registry.register(3, "mine")

        def attempt() -> None:
            with pytest.raises(InvalidArgument, match="finalizer"):
                change(registry, anchor)
            refused.append(True)

        clock.garbage.append(Holder(registry.register(1, "goes"), attempt))
        registry.register(2, "stays")
        assert refused == [True]
        assert [info.index for info in registry.holders()] == [2, 3]
        registry.check()

    in_time(work)


def test_the_collector_may_run_at_every_allocation() -> None:
    def work() -> None:
        registry = AnchorRegistry()
        kept = [registry.register(i, "kept") for i in range(0, 3000, 3)]
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for step in range(3000):
                Holder(registry.register(step, "garbage"))
                kept[step % 1000].move_to(step)
                registry.raise_floor(0)
                if step % 50 == 0:
                    registry.holders()
                    registry.lowest()
        finally:
            gc.set_threshold(*before)
        gc.collect()
        registry.check()
        assert [info.index for info in registry.holders()] == sorted(anchor.index for anchor in kept)

    in_time(work)


def test_an_anchor_is_released_exactly_once_by_whoever_comes_first() -> None:
    registry = AnchorRegistry()
    for _ in range(100):
        anchor, start, won = registry.register(1, "shared"), threading.Barrier(4), []

        def release(anchor: Anchor = anchor, start: threading.Barrier = start, won: list[bool] = won) -> None:
            start.wait()
            won.append(anchor.release())

        threads = [threading.Thread(target=release) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False, False, False, True]
        assert len(registry) == 0
    registry.check()


class RegistryMachine(RuleBasedStateMachine):
    """Against a plain dict."""

    anchors: Bundle[Anchor] = Bundle("anchors")

    def __init__(self) -> None:
        super().__init__()
        self.registry = AnchorRegistry(clock=Clock())
        self.model: dict[Anchor, int] = {}
        self.floor = 0

    @rule(target=anchors, index=st.integers(0, 50))
    def register(self, index: int) -> object:
        if index < self.floor:
            with pytest.raises(Collected):
                self.registry.register(index, "x")
            return multiple()
        anchor = self.registry.register(index, "x")
        self.model[anchor] = index
        return anchor

    @rule(anchor=anchors, index=st.integers(0, 50))
    def move(self, anchor: Anchor, index: int) -> None:
        if index < self.floor:
            with pytest.raises(Collected):
                anchor.move_to(index)
        else:
            anchor.move_to(index)
            self.model[anchor] = index

    @rule(anchor=consumes(anchors))
    def release(self, anchor: Anchor) -> None:
        anchor.release()
        del self.model[anchor]

    @rule(index=st.integers(0, 50))
    def raise_floor(self, index: int) -> None:
        blocked = self.registry.raise_floor(index)
        lowest = min(self.model.values(), default=index)
        assert (blocked is None) == (lowest >= index)
        if blocked is None:
            self.floor = max(self.floor, index)
        else:
            assert blocked.index == lowest

    @invariant()
    def same_as_the_model(self) -> None:
        self.registry.check()
        assert [info.index for info in self.registry.holders()] == sorted(self.model.values())
        lowest = self.registry.lowest()
        assert (None if lowest is None else lowest.index) == min(self.model.values(), default=None)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- shown to people and programs --------------------------------------------------------------------------------------
HOLDERS = [AnchorInfo(120, "reader \x1b[31m", "reader", 1_700_000_000.0),
           AnchorInfo(7, "4f00 rowset 12", "rowset", 1_699_990_000.0)]


def test_the_table_lists_the_lowest_holder_first_with_how_long_it_holds() -> None:
    assert anchor_lines(HOLDERS, now=1_700_000_002.0) == [
        "INDEX  KIND    OWNER            SINCE                      HELD",
        "    7  rowset  4f00 rowset 12   2023-11-14T19:26:40.000Z  2h46m",
        "  120  reader  reader \\x1b[31m  2023-11-14T22:13:20.000Z     2s"]
    assert anchor_lines([], now=0.0) == ["nobody holds the log"]


def test_holders_as_json_carry_the_same() -> None:
    first, second = json.loads(json.dumps(anchors_json(HOLDERS, now=1_700_000_002.0)))
    assert first == {"index": 7, "owner": "4f00 rowset 12", "kind": "rowset", "since": 1_699_990_000.0,
                     "held_seconds": 10_002.0}
    assert second["held_seconds"] == 2.0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (-5, "0s"), (0.25, "0.25s"), (59, "59s"), (302, "5m2s"),
                                               (3600, "1h0m"), (273_600, "3d4h")])
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def plan() -> GcPlan:
    segments = [SegmentFacts(n, 10 * n, 10 * n + 9, 100, n, is_open=n == 4) for n in range(1, 5)]
    return plan_gc(segments, anchors=[AnchorInfo(25, "rowset 9", "rowset", 1_700_000_000.0)], durable_index=49,
                   now_micros=100)


def test_a_plan_reads_as_what_goes_and_why_the_rest_stays() -> None:
    assert plan_lines(plan()) == [
        "would remove 1 segment, 100 bytes: wal-000000001",
        "blocked by anchor: rowset 9, needs operations from 25 on, since 2023-11-14T22:13:20.000Z, of kind rowset",
        "wal-000000002 stays",
        "    anchor: rowset 9, needs operations from 25 on, since 2023-11-14T22:13:20.000Z, of kind rowset",
        "wal-000000003 stays",
        "    anchor: rowset 9, needs operations from 25 on, since 2023-11-14T22:13:20.000Z, of kind rowset",
        "    order: wal-000000002, which is older, stays",
        "wal-000000004 stays",
        "    open: the writer, it is being written",
        "    durable: recovery, needs operations from 49 on, where the log ends",
        "    anchor: rowset 9, needs operations from 25 on, since 2023-11-14T22:13:20.000Z, of kind rowset",
        "    minimum: the policy, the newest segment stays",
        "    order: wal-000000002, which is older, stays"]


def test_a_result_reads_as_what_went() -> None:
    made = plan()
    lines = result_lines(GcResult(len(made.remove), made.bytes, made.blocked_by, made.keep))
    assert lines[0] == "removed 1 segment, 100 bytes"
    assert lines[1:] == plan_lines(made)[1:]
    assert result_lines(GcResult(0, 0, None))[1] == "nothing holds back what the log does not need"


def test_an_explanation_as_json_survives_json() -> None:
    made = plan()
    value = explanation_json(made, HOLDERS, now=1_700_000_002.0)
    assert json.loads(json.dumps(value)) == value
    assert value["remove"] == [1] and [k["sequence"] for k in value["keep"]] == [2, 3, 4]
    assert value["keep"][0]["reasons"][0]["holder"] == "rowset 9"
    assert len(value["anchors"]) == 2
