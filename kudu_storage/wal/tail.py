"""Follows a log that is being written: new batches of the last segment, then of the segments after it. Read-only.

Time and waiting are the caller's: `wait` is called when there is nothing new, and says whether to go on. Invariants:
 T1  A batch is given out once, in order, and only when whole: what looks torn is looked at again after waiting.
 T2  A segment is left only when it is closed and read to its footer, or when the next one has begun and a last look
     found nothing more.
"""
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Final

from kudu_storage._native.segment import BatchChunk
from kudu_storage.errors import BlankSegment, CorruptionError, NotFound, Truncated
from kudu_storage.wal.reader import Segment, SegmentFile, list_segments, open_segment

# A writer that is in the middle of an append can look like damage; after this many looks it is damage.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class NewBatches:
    """Batches that were not there before."""

    sequence: int
    chunk: BatchChunk


class LogTail:
    """Iterate to get NewBatches. Owns one descriptor at a time; close() or use as a context manager."""

    def __init__(self, directory: str | os.PathLike[str], wait: Callable[[], bool], *,
                 from_start: bool = False) -> None:
        """wait(): sleep or not, then True to look again, False to end. from_start: begin with the first segment's
        first entry instead of what is written from now on."""
        self._directory = os.fspath(directory)
        self._wait = wait
        self._from_start = from_start
        self._segment: Segment | None = None
        self._offset = 0

    def __enter__(self) -> LogTail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def __iter__(self) -> Iterator[NewBatches]:
        try:
            yield from self._follow()
        finally:
            self.close()

    def _follow(self) -> Iterator[NewBatches]:
        if not self._begin():
            return
        looks = 0
        while True:
            # Asked before reading: when the next segment exists now, this one gets no more entries after this look.
            successor = self._successor()
            error = yield from self._read_new()
            looks = looks + 1 if error is not None else 0
            if error is None and successor is not None:
                self._move_to(successor)
                continue
            if successor is not None:
                successor.close()
            if error is not None and looks >= _LOOKS:
                raise error
            if not self._wait():
                return

    def _begin(self) -> bool:
        """Open the segment to start with; waits for one. False when told to stop."""
        while True:
            usable = [s for f in list_segments(self._directory) if (s := _try_open(f)) is not None]
            if usable:
                chosen = usable[0] if self._from_start else usable[-1]
                for segment in usable:
                    if segment is not chosen:
                        segment.close()
                self._move_to(chosen)
                if not self._from_start:
                    deque(self._read_new(), maxlen=0)
                return True
            if not self._wait():
                return False

    def _move_to(self, segment: Segment) -> None:
        self.close()
        self._segment = segment
        self._offset = segment.first_offset

    def _read_new(self) -> Generator[NewBatches, None, CorruptionError | None]:
        """Everything from the remembered offset on. Returns the error that damage would be, if it stays so."""
        assert self._segment is not None
        self._refresh()
        scanner = self._segment.scanner(self._offset)
        while (chunk := scanner.next_chunk()) is not None:
            self._offset = scanner.offset
            yield NewBatches(self._segment.sequence, chunk)
        return self._segment.error_of(scanner)

    def _refresh(self) -> None:
        """Look at size and footer again: a segment that is closed is cut to its footer."""
        assert self._segment is not None
        try:
            fresh = open_segment(self._segment.path)
        except (NotFound, CorruptionError):
            return              # removed or half closed: the descriptor we hold still has all that was written
        self._segment.close()
        self._segment = fresh

    def _successor(self) -> Segment | None:
        assert self._segment is not None
        wanted = self._segment.sequence + 1
        for file in list_segments(self._directory):
            if file.sequence == wanted:
                return _try_open(file)
        return None


def _try_open(file: SegmentFile) -> Segment | None:
    """None for a file that has no header yet, or was removed meanwhile."""
    try:
        return open_segment(file.path)
    except (BlankSegment, Truncated, NotFound):
        return None
