"""Reading a log that is being written: where an operation is, parts of the log in order, single operations.

Recent entries come from the writer's cache, others from the segments. Of the segment being written only what is
acknowledged is looked at; what was replaced is skipped. No Python runs per entry: parts are chunks of about 1 MiB. May
not touch: files other than by reading.
"""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from kudu_storage._native.log_entries import CachedBatch, Entry, EntryIterator, chunk_entries
from kudu_storage._native.log_index import SLOT_BYTES, SlotCollector
from kudu_storage._native.log_lookup import Places, SegmentPlaces
from kudu_storage._native.log_replaced import Cuts
from kudu_storage._native.log_writer import LogWriter
from kudu_storage._native.segment import BatchChunk, SegmentScanner
from kudu_storage.errors import (
    Collected,
    CorruptionError,
    DiskError,
    KuduStorageError,
    MissingOperations,
    NotYetWritten,
)
from kudu_storage.wal.log_index import IndexReader
from kudu_storage.wal.log_replaced import ReplacedOperations, cuts_of, owner_of
from kudu_storage.wal.reader import Segment, open_segment
from kudu_storage.wal.retention import SegmentFacts

CHUNK_BYTES: Final = 1 << 18
# The first read behind a place that the dense index told: who asks for one operation wants little.
FIRST_CHUNK_BYTES: Final = 1 << 16
PLACES_MAX: Final = 4 << 20     # operations of one segment

Part = CachedBatch | tuple[BatchChunk, int] | list[Entry]
View = Callable[[], tuple[dict[str, Any], list[SegmentFacts]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where to read.

    offset: of the batch, if the dense index tells. below: from this index on later segments replace its operations.
    cuts: where it replaces its own. facts: what is known of the segment. written: the log's last acknowledged operation
    at that time.
    """

    segment: Segment
    offset: int | None
    below: int
    cuts: Cuts | None
    facts: SegmentFacts
    written: int


class LogReading:
    """What reading a log needs besides its writer. Any thread.

    It does not refer to the log, which has it: a log that nobody refers to must go at once. So the log's state (the
    writer's, and the segments as of then) is asked for with a `view` that who reads brings along: it keeps the log.

    Args:
        mutex: no cut and no collection changes the files while it is held.
    """

    def __init__(self, path: str, writer: LogWriter, mutex: AbstractContextManager[bool]) -> None:
        self.path = path
        self.writer = writer            # of now: a truncation makes another
        self._mutex = mutex
        self._index = IndexReader(path)
        self._replaced = ReplacedOperations()
        # Cuts and replacements. Readers begun before one must not go on behind it.
        self.voids = writer.voids
        self._places = Places(self.voids)
        self.find = self._places.find

    # -- what happens to the files -------------------------------------------------------------------------------------
    def check_follows(self, index: int, count: int) -> int:
        """Whether a follower, who has what was before `index`, may go on there. Returns the number of cuts by now.

        Args:
            count: that the follower knows of.
        Raises:
            NotYetWritten: what he was given is void.
        """
        count, stayed = self.voids.since(count)
        if stayed < index - 1:
            raise NotYetWritten(f"operations above index {stayed} were truncated or replaced after they were read",
                                path=self.path, advice="read from there again")
        return count

    def collected(self, first_kept_index: int) -> None:
        with self._mutex:
            self._index.invalidate()
            self._places.drop_below(first_kept_index)

    def truncated(self) -> None:
        """Segments were cut, or are about to be made whole again: nothing is known of them any more."""
        with self._mutex:
            self._index.invalidate()
            self._places.clear()
            self._replaced.forget()
            self.voids.forget_replaced()

    def close(self) -> None:
        self._index.close()
        self._places.clear()

    # -- reading -------------------------------------------------------------------------------------------------------
    def source(self, view: View, void_count: int | None = None) -> Source:
        """void_count: of a follower, who must not go on in another history wherever he begins."""
        return Source(self, view, void_count)

    def get(self, index: int, view: View) -> Entry:
        """An acknowledged operation. Raises Collected, CorruptionError, DiskError."""
        with self._mutex:
            if self._add_places(index, view) and (entry := self.find(index)) is not None:
                return entry
        for entry in EntryIterator(Source(self, view), index, index):
            return entry
        raise self.gone(index)

    def gone(self, index: int) -> Collected:
        return Collected(f"index {index} is not in the log any more", path=self.path,
                         advice="it was collected or truncated while it was read")

    def locate(self, index: int, view: View) -> Place | None:
        """Where `index` is. None: no segment holds it. The caller closes the segment."""
        with self._mutex:
            state, segments = view()
            owner = owner_of(index, segments)
            if owner is None:
                return None
            facts, below = owner
            # It may be closed this moment: then its footer is behind what was acknowledged.
            segment = open_segment(self.path_of(facts.sequence), ignore_footer=facts.is_open)
        try:
            if facts.is_open:
                segment.end_offset = segment.file_size = state["offset"]
                cuts = cuts_of(segment) if state["segment_replacements"] else None
            else:
                cuts = self._replaced.of_closed(segment, segments)
            return Place(segment, self._hint(segment, index, below, cuts), below, cuts, facts, state["written_index"])
        except BaseException:
            segment.close()
            raise

    def path_of(self, sequence: int) -> str:
        return os.path.join(self.path, f"wal-{sequence:09d}")

    def _hint(self, segment: Segment, index: int, below: int, cuts: Cuts | None) -> int | None:
        """Where the dense index says that the operation is in this segment, if it is there."""
        try:
            slot = self._index.lookup(index)
        except DiskError:
            return None
        if slot is None or slot.segment_sequence != segment.sequence \
                or not segment.first_offset <= slot.offset < segment.end_offset:
            return None
        try:
            entries = chunk_entries(segment.batch_at(slot.offset), index, below, cuts)
        except (CorruptionError, DiskError):
            return None
        return slot.offset if entries and entries[0].index == index else None

    # -- places of closed segments -------------------------------------------------------------------------------------
    def _add_places(self, index: int, view: View) -> bool:
        """Learn where the closed segment that has `index` has its operations. False: nothing was learnt."""
        if self._places.covers(index):
            return False
        _, segments = view()
        owner = owner_of(index, segments)
        if owner is None or owner[0].is_open:
            return False
        facts, below = owner
        first, last, below = facts.first_index, facts.last_index, min(below, self.voids.replaced_from)
        if first is None or last is None or min(last, below - 1) < index:
            return False
        last = min(last, below - 1)
        if last - first >= PLACES_MAX:
            return False                # a footer has no checksum: its numbers are not to be trusted with memory
        with open_segment(self.path_of(facts.sequence)) as segment:
            if segment.v1 or self._replaced.of_closed(segment, segments) is not None:
                return False
            try:
                slots = self._index.slots(first, last)
            except DiskError:               # it is a hint: the segment tells too
                slots = bytes((last - first + 1) * SLOT_BYTES)
            places = self._places_of(segment, first, last, slots)
            if places.unknown:
                places = self._places_of(segment, first, last, _read_slots(segment, first, last))
        self._places.add(places)
        return True

    def _places_of(self, segment: Segment, first: int, last: int, slots: bytes) -> SegmentPlaces:
        return SegmentPlaces(os.dup(segment.fd), sequence=segment.sequence, first=first, last=last,
                             first_offset=segment.first_offset, end_offset=segment.end_offset, codec=segment.codec,
                             slots=slots)


def _read_slots(segment: Segment, first: int, last: int) -> bytes:
    """The slots of a segment's operations, from reading it. Those behind damage are zeros."""
    found = bytearray((last - first + 1) * SLOT_BYTES)
    collector = SlotCollector(segment.sequence)
    scanner = segment.scanner()
    while (chunk := scanner.next_chunk()) is not None and collector.malformed_offset is None:
        slots, runs = collector.take(chunk)
        at = 0
        for start, count in runs:
            low, high = max(start, first), min(start + count, last + 1)
            if low < high:
                source = at + (low - start) * SLOT_BYTES
                size = (high - low) * SLOT_BYTES
                to = (low - first) * SLOT_BYTES
                found[to:to + size] = slots[source:source + size]
            at += count * SLOT_BYTES
    return bytes(found)


def _intact(index: int) -> dict[str, str]:
    return {"intact": f"everything up to index {index - 1}",
            "advice": "restore what is missing, or take the replica from a peer"}


class Source:
    """Parts of a log in order, for an EntryIterator. One thread at a time. Lets go of its segment at the latest when it
    goes itself."""

    def __init__(self, reading: LogReading, view: View, void_count: int | None = None) -> None:
        self._reading = reading
        self._view = view               # refers to the log, which stays while it is read
        self._place: Place | None = None
        self._read: Place | None = None         # the last one that was read to its end (its file is closed)
        self._scanner: SegmentScanner | None = None
        self._chunk_bytes = CHUNK_BYTES
        self._asked = -1
        # The first index that was asked for; 0: of a follower, who was given what was before.
        self._begin = -1 if void_count is None else 0
        self._void_count = reading.voids.count if void_count is None else void_count

    def __call__(self, index: int) -> Part:
        """The next part, which holds `index`. Raises Collected, NotYetWritten, CorruptionError, DiskError."""
        if self._begin < 0:
            self._begin = index
        while True:
            part = self._next(index)
            # Asked after the part was found: a cut that it does not know of, it does not show either.
            if self._reading.voids.count == self._void_count or self._goes_on_at(index):
                return part

    def _goes_on_at(self, index: int) -> bool:
        """After a cut. False: the part may be from before it; find it again."""
        if index > self._begin:
            self._void_count = self._reading.check_follows(index, self._void_count)
        else:
            self._void_count = self._reading.voids.count
        self.close()
        self._asked = -1
        return False

    def _next(self, index: int) -> Part:
        while True:
            if self._scanner is not None and (part := self._next_chunk(index)) is not None:
                return part
            if index == self._asked:
                raise self._absent(index)
            self._asked = index
            batch = self._reading.writer.cached(index)
            if batch is not None:
                return batch
            self._place = self._reading.locate(index, self._view)
            if self._place is None:
                raise self._reading.gone(index)
            offset = self._place.offset
            self._scanner = self._place.segment.scanner(offset, whole=self._place.facts.is_open)
            self._chunk_bytes = CHUNK_BYTES if offset is None else FIRST_CHUNK_BYTES

    def _next_chunk(self, index: int) -> Part | None:
        place, scanner = self._place, self._scanner
        assert place is not None and scanner is not None
        chunk = scanner.next_chunk(self._chunk_bytes)
        self._chunk_bytes = CHUNK_BYTES
        if chunk is not None:
            return (chunk, place.below) if place.cuts is None else chunk_entries(chunk, index, place.below, place.cuts)
        error = place.segment.error_of(scanner)
        self.close()
        self._read = place
        if error is not None:
            raise error
        return None

    def missing(self, index: int, found: int, offset: int | None) -> CorruptionError:
        """The error when `found` comes where `index` should: no log jumps. (One that goes back replaces.)"""
        segment = self._place.segment if self._place is not None else None
        self.close()
        self._asked = -1            # who asks again is told again
        last = f"operation {index}" if found == index + 1 else f"operations {index} to {found - 1}"
        return MissingOperations(
            f"{last} should come before operation {found}, and {'is' if found == index + 1 else 'are'} missing",
            path=segment.path if segment is not None else self._reading.path,
            segment=segment.sequence if segment is not None else None, offset=offset, **_intact(index))

    def _absent(self, index: int) -> KuduStorageError:
        """The error when an operation is not where it was said to be."""
        place, self._asked = self._read, -1
        if place is None or index > place.written:
            return self._reading.gone(index)        # replaced by a shorter history while it was read
        return MissingOperations(
            f"operation {index} is missing at the segment's end: it should hold those up to {place.facts.last_index}",
            path=place.segment.path, segment=place.facts.sequence, offset=place.segment.end_offset, **_intact(index))

    def close(self) -> None:
        if self._place is not None:
            self._place.segment.close()
        self._place = self._scanner = None

    def __del__(self) -> None:
        place = getattr(self, "_place", None)
        if place is not None:
            place.segment.close()
