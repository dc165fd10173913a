"""What a collection may remove: Kudu's rules case by case, then any log against a model that tries every prefix."""
from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage.errors import InvalidArgument
from kudu_storage.wal.anchors import AnchorInfo
from kudu_storage.wal.retention import GcPlan, GcResult, RetentionPolicy, SegmentFacts, plan_gc, time_text

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


def log(count: int = 5, *, bytes: int = 100) -> list[SegmentFacts]:
    """Segment n has the operations 10n to 10n+9; the last one is open; one was closed each second until NOW."""
    return [SegmentFacts(n, 10 * n, 10 * n + 9, bytes, NOW - (count - n) * SECOND if n < count else None, n == count)
            for n in range(1, count + 1)]


def anchor(index: int, owner: str = "rowset 3") -> AnchorInfo:
    return AnchorInfo(index, owner, "rowset", 1_699_999_000.0)


def plan(segments: list[SegmentFacts], *, anchors: list[AnchorInfo] | None = None,
         readers: list[tuple[str, int]] | None = None, lag_bytes_max: int | None = None, durable: int | None = None,
         policy: RetentionPolicy | None = None) -> GcPlan:
    last = max((s.last_index for s in segments if s.last_index is not None), default=0)
    return plan_gc(segments, anchors=anchors or [], lagging_readers=readers or [], lag_bytes_max=lag_bytes_max,
                   durable_index=last if durable is None else durable, now_micros=NOW, policy=policy)


def kinds(made: GcPlan) -> dict[int, list[str]]:
    return {kept.sequence: [reason.kind for reason in kept.reasons] for kept in made.keep}


def test_without_holders_all_but_the_open_segment_may_go_oldest_first() -> None:
    made = plan(log(5))
    assert made.remove == (1, 2, 3, 4) and made.bytes == 400
    assert kinds(made) == {5: ["open", "durable", "minimum"]}
    assert made.blocked_by is None and made.first_kept_index == 50


def test_an_anchor_keeps_its_segment_and_all_later_ones() -> None:
    made = plan(log(5), anchors=[anchor(35)])
    assert made.remove == (1, 2)
    assert kinds(made) == {3: ["anchor"], 4: ["anchor", "order"], 5: ["open", "durable", "anchor", "minimum", "order"]}
    assert made.blocked_by == ("anchor: rowset 3, needs operations from 35 on, since 2023-11-14T21:56:40.000Z, "
                               "of kind rowset")


@pytest.mark.parametrize(("index", "removed"), [(19, ()), (20, (1,)), (29, (1,)), (30, (1, 2))])
def test_an_anchor_at_the_last_operation_of_a_segment_keeps_it(index: int, removed: tuple[int, ...]) -> None:
    assert plan(log(5), anchors=[anchor(index)]).remove == removed


def test_anchors_are_not_bounded_by_the_largest_number_of_segments() -> None:
    assert plan(log(9), anchors=[anchor(10)], policy=RetentionPolicy(segments_max=2)).remove == ()


def test_a_segment_names_every_holder_not_only_the_first() -> None:
    made = plan(log(4), anchors=[anchor(25, "late"), anchor(12, "early")], readers=[("peer-b", 13)])
    first = made.keep[0]
    assert first.sequence == 1
    assert [(r.kind, r.holder, r.index) for r in first.reasons] == [("anchor", "early", 12), ("peer", "peer-b", 13)]
    assert [r.holder for r in made.keep[1].reasons] == ["early", "late", "peer-b", "wal-000000001"]


def test_a_lagging_peer_keeps_what_it_needs_and_the_operation_before() -> None:
    assert plan(log(5), readers=[("peer-b", 31)]).remove == (1, 2)
    assert plan(log(5), readers=[("peer-b", 30)]).remove == (1,)        # it is told what operation 30 follows: 29


def test_a_peer_is_let_go_beyond_the_largest_number_of_segments() -> None:
    made = plan(log(6), readers=[("dead", 1)], policy=RetentionPolicy(segments_max=3))
    assert made.remove == (1, 2, 3)
    assert made.blocked_by == "peer: dead, needs operations from 1 on"


def test_a_peer_is_let_go_beyond_the_largest_lag_in_bytes() -> None:
    assert plan(log(6), readers=[("dead", 1)], lag_bytes_max=250).remove == (1, 2, 3, 4)
    assert plan(log(6), readers=[("dead", 1)], lag_bytes_max=300).remove == (1, 2, 3)


def test_the_newest_segments_stay_up_to_the_minimum() -> None:
    made = plan(log(5), policy=RetentionPolicy(segments_min=3))
    assert made.remove == (1, 2)
    assert made.blocked_by == "minimum: the policy, the newest 3 segments stay"


def test_a_segment_stays_for_the_time_the_policy_names_after_it_was_closed() -> None:
    made = plan(log(5), policy=RetentionPolicy(seconds_min=2.0))
    assert made.remove == (1, 2, 3)         # closed 4, 3 and exactly 2 seconds ago
    assert made.blocked_by is not None
    assert made.blocked_by.startswith("age: the policy, closed at 2023-11-14T22:13:19.000Z, less than 2 s ago")


def test_a_segment_that_a_crash_left_is_as_old_as_the_next_one() -> None:
    segments = log(5)
    segments[1] = dataclasses.replace(segments[1], closed_at_micros=None)
    assert plan(segments, policy=RetentionPolicy(seconds_min=2.0)).remove == (1, 2, 3)
    unknown = [dataclasses.replace(s, closed_at_micros=None) for s in segments]
    made = plan(unknown, policy=RetentionPolicy(seconds_min=2.0))
    assert made.remove == () and made.blocked_by is not None and "nobody knows" in made.blocked_by
    assert plan(unknown).remove == (1, 2, 3, 4)


def test_what_ends_the_log_stays_when_nothing_was_written_after_it() -> None:
    segments = log(3)
    segments[2] = SegmentFacts(3, None, None, 50, None, is_open=True)
    made = plan(segments)
    assert made.remove == (1,)
    assert kinds(made) == {2: ["durable"], 3: ["open", "minimum", "order"]}
    assert made.blocked_by is None


def test_operations_that_are_not_durable_or_committed_stay() -> None:
    assert plan(log(5), durable=35).remove == (1, 2)


def test_a_segment_with_only_commits_goes_with_those_before_it_and_stays_behind_one_that_stays() -> None:
    segments = log(5)
    segments[1] = dataclasses.replace(segments[1], first_index=None, last_index=None)
    assert plan(segments).remove == (1, 2, 3, 4)
    made = plan(segments, anchors=[anchor(15)])
    assert made.remove == () and kinds(made)[2] == ["order"]


def test_replaced_operations_do_not_raise_the_first_index_that_stays() -> None:
    segments = [SegmentFacts(1, 1, 30, 10, 1), SegmentFacts(2, 20, 40, 10, None, is_open=True)]
    made = plan(segments)
    assert made.remove == (1,) and made.first_kept_index == 20


def test_an_empty_log_has_nothing_to_remove() -> None:
    made = plan([])
    assert made == GcPlan((), 0, (), None) and made.blocked_by is None


def test_a_plan_is_the_same_with_or_without_those_anchors_that_hold_nothing_more() -> None:
    crowd = [anchor(35 + n % 20, f"store {n}") for n in range(5000)]
    made = plan(log(5), anchors=crowd)
    assert made.remove == plan(log(5), anchors=[anchor(35)]).remove
    assert made.blocked_by is not None and made.blocked_by.endswith("; and 1245 more")
    assert len(made.blocked_by) < 600


@pytest.mark.parametrize("fields", [{"segments_min": 0}, {"segments_min": -1}, {"segments_min": 3, "segments_max": 2},
                                    {"seconds_min": -0.5}, {"seconds_min": float("nan")}])
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        RetentionPolicy(**fields)  # type: ignore[arg-type]


def test_segments_out_of_order_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="listed behind"):
        plan(log(3)[::-1])
    with pytest.raises(InvalidArgument, match="is open"):
        plan([SegmentFacts(1, 1, 2, 3, None, is_open=True), SegmentFacts(2, 3, 4, 5)])


def test_reasons_and_results_are_text_and_json() -> None:
    made = plan(log(3), anchors=[anchor(12)])
    value = json.loads(json.dumps(made.to_json()))
    assert value["keep"][0]["reasons"] == [{
        "kind": "anchor", "holder": "rowset 3", "index": 12, "since": 1_699_999_000.0,
        "text": "anchor: rowset 3, needs operations from 12 on, since 2023-11-14T21:56:40.000Z, of kind rowset"}]
    result = GcResult(2, 200, made.blocked_by, made.keep)
    assert json.loads(json.dumps(result.to_json()))["kept"] == value["keep"]
    assert repr(result) == f"<GcResult 2 segments removed, 200 bytes, 3 kept, blocked by {made.blocked_by}>"
    assert repr(GcResult(0, 0, None)) == "<GcResult 0 segments removed, 0 bytes, 0 kept>"


def test_times_that_no_calendar_has_are_numbers() -> None:
    assert time_text(0.0) == "1970-01-01T00:00:00.000Z"
    assert time_text(1e300).endswith(" s")


# -- any log -----------------------------------------------------------------------------------------------------------
@st.composite
def any_log(draw: st.DrawFn) -> list[SegmentFacts]:
    segments: list[SegmentFacts] = []
    next_index, closed_at, count = 1, NOW - 30 * SECOND, draw(st.integers(0, 8))
    for sequence in range(count):
        operations = draw(st.integers(0, 5))
        next_index = max(1, next_index - draw(st.sampled_from([0, 0, 0, 3])))       # some replace older ones
        first, last = (next_index, next_index + operations - 1) if operations else (None, None)
        next_index += operations
        closed_at += draw(st.integers(0, 8)) * SECOND
        is_open = sequence == count - 1 and draw(st.booleans())
        known = not is_open and draw(st.sampled_from([True, True, False]))
        segments.append(SegmentFacts(sequence + 4, first, last, draw(st.integers(0, 9)), closed_at if known else None,
                                     is_open))
    return segments


INDEXES = st.integers(0, 45)
ARGUMENTS = st.fixed_dictionaries({
    "segments": any_log(),
    "anchors": st.lists(st.builds(AnchorInfo, INDEXES, st.sampled_from("abc"), st.just("rowset"), st.just(0.0)),
                        max_size=3),
    "lagging_readers": st.lists(st.tuples(st.sampled_from("pqr"), INDEXES), max_size=3),
    "lag_bytes_max": st.none() | st.integers(0, 40),
    "durable_index": INDEXES,
    "now_micros": st.just(NOW),
    "policy": st.builds(lambda low, more, seconds: RetentionPolicy(low, low + more, seconds), st.integers(1, 4),
                        st.integers(0, 6), st.sampled_from([0.0, 3.0, 10.0])),
})


class Model:
    """The definition, slowly: a prefix may go when each of its segments may, given what would be left from it on."""

    def __init__(self, segments: list[SegmentFacts], anchors: list[AnchorInfo], lagging_readers: list[tuple[str, int]],
                 lag_bytes_max: int | None, durable_index: int, now_micros: int, policy: RetentionPolicy) -> None:
        self.segments, self.anchors, self.readers, self.policy = segments, anchors, lagging_readers, policy
        self.lag_bytes_max, self.durable_index, self.now = lag_bytes_max, durable_index, now_micros

    def needed_by(self, at: int) -> set[tuple[str, str]]:
        segment, rest = self.segments[at], self.segments[at:]
        last = -1 if segment.last_index is None else segment.last_index
        found = {("anchor", a.owner) for a in self.anchors if 0 <= a.index <= last}
        in_bounds = len(rest) <= self.policy.segments_max and (
            self.lag_bytes_max is None or sum(s.bytes for s in rest) <= self.lag_bytes_max)
        if last >= 0 and in_bounds:
            found |= {("peer", name) for name, index in self.readers if index - 1 <= last}
        if segment.is_open:
            found.add(("open", "the writer"))
        if 0 <= last >= self.durable_index:
            found.add(("durable", "recovery"))
        if len(rest) <= self.policy.segments_min:
            found.add(("minimum", "the policy"))
        closed = next((s.closed_at_micros for s in rest if s.closed_at_micros is not None), None)
        if self.policy.seconds_min and not segment.is_open and (
                closed is None or self.now < closed + self.policy.seconds_min * SECOND):
            found.add(("age", "the policy"))
        return found

    def longest_prefix(self) -> int:
        return max(k for k in range(len(self.segments) + 1) if not any(self.needed_by(at) for at in range(k)))


@settings(max_examples=600, deadline=None)
@given(ARGUMENTS)
def test_a_plan_removes_the_longest_prefix_that_nobody_needs_and_names_all_who_need_the_rest(arguments: dict) -> None:  # type: ignore[type-arg]
    model, made = Model(**arguments), plan_gc(**arguments)
    segments, count = arguments["segments"], model.longest_prefix()
    assert list(made.remove) == [s.sequence for s in segments[:count]]
    assert made.bytes == sum(s.bytes for s in segments[:count])
    assert [kept.sequence for kept in made.keep] == [s.sequence for s in segments[count:]]
    for at, kept in enumerate(made.keep, start=count):
        expected = model.needed_by(at) | ({("order", f"wal-{segments[count].sequence:09d}")} if at > count else set())
        assert {(r.kind, r.holder) for r in kept.reasons} == expected
        assert expected


@settings(max_examples=300, deadline=None)
@given(ARGUMENTS)
def test_what_remains_is_without_a_hole_and_has_every_anchored_operation(arguments: dict) -> None:  # type: ignore[type-arg]
    made, segments = plan_gc(**arguments), arguments["segments"]
    sequences = [*made.remove, *(kept.sequence for kept in made.keep)]
    assert sequences == [s.sequence for s in segments]
    assert all(after == before + 1 for before, after in pairwise(sequences))
    removed = {s.sequence: s for s in segments if s.sequence in made.remove}
    lowest = min((a.index for a in arguments["anchors"]), default=None)
    for segment in removed.values():
        assert not segment.is_open
        assert lowest is None or segment.last_index is None or segment.last_index < lowest


@settings(max_examples=300, deadline=None)
@given(ARGUMENTS, INDEXES)
def test_one_more_anchor_never_frees_more(arguments: dict, index: int) -> None:  # type: ignore[type-arg]
    before = plan_gc(**arguments).remove
    more = [*arguments["anchors"], AnchorInfo(index, "z", "store", 1.0)]
    after = plan_gc(**{**arguments, "anchors": more}).remove
    assert before[:len(after)] == after


@settings(max_examples=300, deadline=None)
@given(ARGUMENTS)
def test_planning_again_after_a_collection_removes_nothing_more(arguments: dict) -> None:  # type: ignore[type-arg]
    made = plan_gc(**arguments)
    rest = [s for s in arguments["segments"] if s.sequence not in made.remove]
    assert plan_gc(**{**arguments, "segments": rest}).remove == ()
