"""Pure: which segments of a log may be removed, and why each of the others stays. Opens nothing, reads no clock.

Invariants (W5 of the design):
 G1  Segments go only from the front, in order: what remains has no hole.
 G2  The segment being written never goes, nor one with the last durable operation or a later one: after a restart the
     log must still know its end.
 G3  A segment with an operation at or above an anchor never goes, whatever the bounds say.
 G4  A lagging reader holds a segment only while that one and all after it are at most `segments_max` segments and
     `lag_bytes_max` bytes. (Kudu's log_max_segments_to_retain bounds what is kept for peers, not what is anchored.)
 G5  A kept segment names all its reasons, not just the first; a removed one has none.

Kudu's rules: consensus/log.cc (GetPrefixSizeToGC). Here anchors and the last durable index play the part of its index
for durability, lagging readers that of its index for peers.
"""
from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kudu_storage.errors import InvalidArgument
from kudu_storage.wal.anchors import AnchorInfo

ReasonKind = Literal["open", "durable", "anchor", "peer", "minimum", "age", "order"]
_REASONS_NAMED: Final = 5       # in one line; a segment can have thousands


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """segments_min: the newest so many stay, the open one counted (Kudu's log_min_segments_to_retain).
    segments_max: no more than so many are kept for lagging readers (Kudu's log_max_segments_to_retain).
    seconds_min: a segment stays so long after it was closed."""

    segments_min: int = 1
    segments_max: int = 80
    seconds_min: float = 0.0

    def __post_init__(self) -> None:
        if self.segments_min < 1:
            raise InvalidArgument(f"segments_min is {self.segments_min}: at least the segment being written stays")
        if self.segments_max < self.segments_min:
            raise InvalidArgument(f"segments_max {self.segments_max} is below segments_min {self.segments_min}")
        if not self.seconds_min >= 0:
            raise InvalidArgument(f"seconds_min is {self.seconds_min}: not a duration")


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What is known of a segment. first_index, last_index: smallest and largest of its REPLICATEs, replaced ones too;
    None when it has none (empty, or only COMMITs). closed_at_micros: since 1970; None when open or not known."""

    sequence: int
    first_index: int | None
    last_index: int | None
    bytes: int
    closed_at_micros: int | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a segment stays. holder: the anchor's owner, the reader's name, or what asks for it. index: the first
    operation that the holder needs, where there is one. since: seconds since 1970, for anchors. detail: what else there
    is to say."""

    kind: ReasonKind
    holder: str
    index: int | None = None
    since: float | None = None
    detail: str = ""

    @property
    def text(self) -> str:
        parts = [f"{self.kind}: {self.holder}"]
        if self.index is not None:
            parts.append(f"needs operations from {self.index} on")
        if self.since is not None:
            parts.append(f"since {time_text(self.since)}")
        if self.detail:
            parts.append(self.detail)
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "holder": self.holder, "index": self.index, "since": self.since, "text": self.text}


@dataclass(frozen=True, slots=True)
class KeptSegment:
    """A segment that stays, and all its reasons."""

    sequence: int
    reasons: tuple[Reason, ...]

    @property
    def required(self) -> bool:
        """No policy and no holder could let it go: the log itself needs it."""
        return any(reason.kind in ("open", "durable") for reason in self.reasons)

    @property
    def text(self) -> str:
        return "; ".join(reason.text for reason in self.reasons)

    def to_json(self) -> dict[str, Any]:
        return {"sequence": self.sequence, "reasons": [reason.to_json() for reason in self.reasons]}


@dataclass(frozen=True, slots=True)
class GcPlan:
    """remove: sequence numbers, oldest first, to be removed in that order. bytes: what that frees.
    first_kept_index: smallest index that stays, for AnchorRegistry.raise_floor() before anything is removed; None when
    there is no operation at all."""

    remove: tuple[int, ...]
    bytes: int
    keep: tuple[KeptSegment, ...]
    first_kept_index: int | None

    @property
    def blocked_by(self) -> str | None:
        """What keeps the oldest segment that stays; None when nothing but the log itself does."""
        if not self.keep or self.keep[0].required:
            return None
        reasons = self.keep[0].reasons
        named = "; ".join(reason.text for reason in reasons[:_REASONS_NAMED])
        more = len(reasons) - _REASONS_NAMED
        return f"{named}; and {more} more" if more > 0 else named

    def to_json(self) -> dict[str, Any]:
        return {"remove": list(self.remove), "bytes": self.bytes, "blocked_by": self.blocked_by,
                "keep": [kept.to_json() for kept in self.keep]}


@dataclass(frozen=True, slots=True, repr=False)
class GcResult:
    """What a collection did. segments: how many were removed. blocked_by, kept: as in the plan it followed."""

    segments: int
    bytes: int
    blocked_by: str | None
    kept: tuple[KeptSegment, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"segments": self.segments, "bytes": self.bytes, "blocked_by": self.blocked_by,
                "kept": [kept.to_json() for kept in self.kept]}

    def __repr__(self) -> str:
        blocked = f", blocked by {self.blocked_by}" if self.blocked_by else ""
        return f"<GcResult {self.segments} segments removed, {self.bytes} bytes, {len(self.kept)} kept{blocked}>"


def plan_gc(segments: Sequence[SegmentFacts], *, anchors: Sequence[AnchorInfo] = (),
            lagging_readers: Sequence[tuple[str, int]] = (), lag_bytes_max: int | None = None,
            durable_index: int, now_micros: int, policy: RetentionPolicy | None = None) -> GcPlan:
    """Decide what to remove.

    segments: all of the log, by sequence number. anchors: all that are held (AnchorRegistry.holders()).
    lagging_readers: name and next index of each reader or peer that is to be fed from the log as long as it stays
    within the bounds; the operation before the next one counts as needed, because a peer is told what it follows.
    durable_index: the last durable operation (of a replica: the last committed one; it and all later ones stay).
    Raises InvalidArgument.
    """
    rules = _Rules(segments, anchors, lagging_readers, lag_bytes_max, durable_index, now_micros,
                   policy or RetentionPolicy())
    own = [rules.reasons_of(position) for position in range(len(segments))]
    first_kept = next((position for position, reasons in enumerate(own) if reasons), len(segments))
    keep = [KeptSegment(segment.sequence, tuple(own[position]) + _order_of(segments, first_kept, position))
            for position, segment in enumerate(segments) if position >= first_kept]
    removed = segments[:first_kept]
    return GcPlan(tuple(s.sequence for s in removed), sum(s.bytes for s in removed), tuple(keep),
                  _first_kept_index(removed, segments[first_kept:]))


def _first_kept_index(removed: Sequence[SegmentFacts], kept: Sequence[SegmentFacts]) -> int | None:
    """Not the largest removed one plus one: replaced operations may have reached above the first that stays."""
    first = min((s.first_index for s in kept if s.first_index is not None), default=None)
    if first is None:
        first = max((s.last_index + 1 for s in removed if s.last_index is not None), default=None)
    return first


def _order_of(segments: Sequence[SegmentFacts], first_kept: int, position: int) -> tuple[Reason, ...]:
    """G1 as a reason, for all segments behind the first one that stays."""
    if position == first_kept:
        return ()
    return (Reason("order", f"wal-{segments[first_kept].sequence:09d}", detail="which is older, stays"),)


class _Rules:
    """The questions asked about each segment, with what is derived once for all of them."""

    def __init__(self, segments: Sequence[SegmentFacts], anchors: Sequence[AnchorInfo],
                 lagging_readers: Sequence[tuple[str, int]], lag_bytes_max: int | None, durable_index: int,
                 now_micros: int, policy: RetentionPolicy) -> None:
        _check_segments(segments)
        self.segments = segments
        self.policy = policy
        self.lag_bytes_max = lag_bytes_max
        self.durable_index = durable_index
        self.now_micros = now_micros
        ordered = sorted(anchors, key=lambda anchor: anchor.index)
        self.anchor_indexes = [anchor.index for anchor in ordered]
        # Shared by all segments that they hold: a log can have thousands of anchors.
        self.anchor_reasons = [Reason("anchor", a.owner, a.index, a.since, f"of kind {a.kind}") for a in ordered]
        readers = sorted(lagging_readers, key=lambda reader: reader[1])
        self.reader_indexes = [next_index - 1 for _, next_index in readers]
        self.reader_reasons = [Reason("peer", name, next_index) for name, next_index in readers]
        self.bytes_from = _suffix_sums([segment.bytes for segment in segments])
        self.closed_at = _closed_at_the_latest(segments)

    def reasons_of(self, position: int) -> list[Reason]:
        """All but the order of removal, most binding first."""
        segment = self.segments[position]
        reasons: list[Reason] = []
        if segment.is_open:
            reasons.append(Reason("open", "the writer", detail="it is being written"))
        if segment.last_index is not None:
            reasons += self._index_reasons(segment.last_index, position)
        if len(self.segments) - position <= self.policy.segments_min:
            newest = "segment stays" if self.policy.segments_min == 1 else f"{self.policy.segments_min} segments stay"
            reasons.append(Reason("minimum", "the policy", detail=f"the newest {newest}"))
        return reasons + self._age_reasons(position)

    def _index_reasons(self, last_index: int, position: int) -> list[Reason]:
        reasons: list[Reason] = []
        if last_index >= self.durable_index:
            reasons.append(Reason("durable", "recovery", self.durable_index, detail="where the log ends"))
        reasons += self.anchor_reasons[:bisect_right(self.anchor_indexes, last_index)]
        if self._within_lag_bounds(position):
            reasons += self.reader_reasons[:bisect_right(self.reader_indexes, last_index)]
        return reasons

    def _within_lag_bounds(self, position: int) -> bool:
        if len(self.segments) - position > self.policy.segments_max:
            return False
        return self.lag_bytes_max is None or self.bytes_from[position] <= self.lag_bytes_max

    def _age_reasons(self, position: int) -> list[Reason]:
        seconds = self.policy.seconds_min
        if not seconds or self.segments[position].is_open:
            return []
        closed_at = self.closed_at[position]
        if closed_at is None:
            return [Reason("age", "the policy", detail=f"nobody knows whether it was closed {seconds:g} s ago")]
        if self.now_micros - closed_at >= seconds * 1e6:
            return []
        return [Reason("age", "the policy",
                       detail=f"closed at {time_text(closed_at / 1e6)}, less than {seconds:g} s ago")]


def _check_segments(segments: Sequence[SegmentFacts]) -> None:
    for before, after in itertools.pairwise(segments):
        if after.sequence <= before.sequence:
            raise InvalidArgument(f"segment {after.sequence} is listed behind segment {before.sequence}")
        if before.is_open:
            raise InvalidArgument(f"segment {before.sequence} is open, and segment {after.sequence} follows it")


def _suffix_sums(sizes: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(reversed(sizes)))[::-1]


def _closed_at_the_latest(segments: Sequence[SegmentFacts]) -> list[int | None]:
    """For each segment the time at which it was closed; where that is not known (a crash left it without a footer), the
    time at which the next one was: it cannot have been later."""
    times: list[int | None] = []
    known: int | None = None
    for segment in reversed(segments):
        if segment.closed_at_micros is not None:
            known = segment.closed_at_micros
        times.append(known)
    return times[::-1]


def time_text(seconds: float) -> str:
    """Seconds since 1970 as 2025-01-31T12:00:00.000Z; a number where no calendar reaches."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3f} s"
