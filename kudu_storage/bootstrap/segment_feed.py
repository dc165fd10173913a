"""The reading half of a replay: a thread that scans segments a few chunks ahead of the one that applies them."""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kudu_storage._native.segment import BatchChunk, SegmentScanner
from kudu_storage.errors import DiskError
from kudu_storage.wal.reader import Segment

QUEUE_CHUNKS = 3


@dataclass(slots=True)
class ScannedSegment:
    """All of a segment was read, or as much as could be. `error`: the disk refused to give the rest."""

    number: int
    scanner: SegmentScanner
    seconds: float
    error: DiskError | None = None


Item = tuple[int, BatchChunk, int] | ScannedSegment


class SegmentFeed(threading.Thread):
    """Scans segments in order. items() yields (number, chunk, end offset), and a ScannedSegment after each segment."""

    def __init__(self, segments: list[Segment]) -> None:
        super().__init__(name="kudu-storage-replay-reader", daemon=True)
        self._segments = segments
        self._given_up = threading.Event()
        self._queue: queue.Queue[Item | BaseException | None] = queue.Queue(QUEUE_CHUNKS)

    def run(self) -> None:
        try:
            for number, segment in enumerate(self._segments):
                started = time.perf_counter()
                scanner = segment.scanner()
                refused = None
                try:
                    while (chunk := scanner.next_chunk()) is not None:
                        if not self._put((number, chunk, scanner.offset)):
                            return
                except DiskError as error:      # what was read is good all the same, and so may the next segments be
                    refused = error
                if not self._put(ScannedSegment(number, scanner, time.perf_counter() - started, refused)):
                    return
            self._put(None)
        except BaseException as error:  # handed to the thread that replays, which raises it
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._given_up.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def items(self) -> Iterator[Item]:
        """What was read, in order. Raises what the reading thread raised."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop reading; call always."""
        self._given_up.set()
        if self.is_alive():
            self.join()
