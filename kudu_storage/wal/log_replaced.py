"""Operations that Raft replaced are never read: finding out which ones, at the least cost.

In a log an operation voids all before it with its index or a higher one. Across segments the smallest index of each
tells (footers have it). Within one segment nobody wrote it down, so the segment is read once, natively, unless its
footer proves that there is nothing to find. May not touch: segments other than by reading.
"""
from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from kudu_storage._native.log_replaced import Cuts
from kudu_storage.wal.reader import Segment
from kudu_storage.wal.retention import SegmentFacts

INT64_MAX: Final = (1 << 63) - 1


def owner_of(index: int, segments: Sequence[SegmentFacts]) -> tuple[SegmentFacts, int] | None:
    """The segment that holds the operation, if any does, and from which index on later ones replace its operations."""
    below = INT64_MAX
    for facts in reversed(segments):
        if facts.first_index is None:
            continue
        if facts.first_index <= index:
            return (facts, below) if facts.last_index is not None and index <= facts.last_index else None
        below = min(below, facts.first_index)
    return None


class ReplacedOperations:
    """Where the closed segments of a log replace their own operations. Remembers what it had to read for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, Cuts | None] = {}        # by sequence; under the lock

    def of_closed(self, segment: Segment, segments: Sequence[SegmentFacts]) -> Cuts | None:
        """None: nowhere. segments: all of the log."""
        with self._lock:
            if segment.sequence in self._known:
                return self._known[segment.sequence]
        cuts = None if _is_plain(segment, segments) else cuts_of(segment)
        with self._lock:
            self._known[segment.sequence] = cuts
        return cuts

    def forget(self) -> None:
        """Segments were cut: their numbers can be given again."""
        with self._lock:
            self._known.clear()


def cuts_of(segment: Segment) -> Cuts | None:
    """Read all of the segment for it."""
    cuts = Cuts()
    for chunk in segment.scan():
        cuts.add(chunk)
    cuts.close()
    return cuts if len(cuts) else None


def _is_plain(segment: Segment, segments: Sequence[SegmentFacts]) -> bool:
    """All its operations follow those of earlier segments, so that none between its ends is missing, and it has as many
    entries as there are indexes between them: then it has neither COMMITs nor an index twice."""
    footer = segment.footer
    if footer is None or not footer.HasField("min_replicate_index"):
        return False
    earlier = [f.last_index for f in segments if f.sequence < segment.sequence and f.last_index is not None]
    if earlier:
        follows = footer.min_replicate_index > max(earlier)
    else:
        # What was collected is not known, but below index 1 there was nothing.
        follows = footer.min_replicate_index == 1
    return bool(follows and footer.num_entries == footer.max_replicate_index - footer.min_replicate_index + 1)
