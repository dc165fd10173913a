"""Opening a log's folder to write: where it ends, and cutting what a crash left half-written.

W3  A torn tail is cut at the last whole entry and only there; damage before good entries is an error with the offset.
W8  What was recovered (tail, metadata, directory) is synced before anybody is told where the log ends.
The last segment is closed with a footer when its tail was cut, so that the writer always begins a segment of its own.
"""
from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import Any

from kudu_storage._native.disk import Disk
from kudu_storage._native.entry import EntryTally
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.errors import BadFormat, BlankSegment, CorruptionError, InvalidArgument
from kudu_storage.protos import message_class
from kudu_storage.wal.judgement import judge_end
from kudu_storage.wal.reader import FOOTER_MAGIC, Segment, SegmentFile, check_sequence, list_segments, open_segment
from kudu_storage.wal.retention import SegmentFacts

TEMPORARY_PREFIX = ".kudutmp."


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a log goes on."""

    segments: tuple[SegmentFacts, ...]
    last: OpId
    tablet_id: bytes | None
    sequence: int                   # of the last segment, 0 without any
    cut_bytes: int                  # of a torn tail
    last_timestamp: int = 0         # the highest of the last segment that has operations
    schema: bytes | None = None     # of the last segment's header: a LogSegmentHeaderPB with nothing else, serialised


def recover(directory: str, disk: Disk, *, tablet_id: bytes | None = None) -> Recovered:
    """Find the end of the log in `directory`, cutting a torn tail. The caller holds the folder's lock.

    Raises:
        CorruptionError: damage before good entries, or a segment missing in the middle.
        InvalidArgument: the log is another tablet's.
    """
    _remove_temporaries(directory, disk)
    opened: list[Segment] = []
    try:
        for file in list_segments(directory):
            segment = _open(file, disk)
            if segment is not None:
                opened.append(segment)
        _check(opened, tablet_id)
        return _recover(directory, opened, disk)
    finally:
        for segment in opened:
            segment.close()


def _remove_temporaries(directory: str, disk: Disk) -> None:
    for name in os.listdir(directory):
        if name.startswith(TEMPORARY_PREFIX):
            disk.unlink(os.path.join(directory, name))


def _open(file: SegmentFile, disk: Disk) -> Segment | None:
    try:
        return open_segment(file.path)
    except BlankSegment:
        disk.unlink(file.path)
        return None


def _check(segments: list[Segment], tablet_id: bytes | None) -> None:
    problems = check_sequence(segments)
    if problems:
        raise CorruptionError(problems[0].detail, segment=problems[0].segment, advice=problems[0].advice)
    for segment in segments:
        if tablet_id is not None and segment.header.tablet_id != tablet_id:
            raise InvalidArgument(f"the log is of tablet {segment.header.tablet_id.decode('ascii', 'replace')}, "
                                  f"not {tablet_id.decode('ascii', 'replace')}", path=segment.path)


def _recover(directory: str, segments: list[Segment], disk: Disk) -> Recovered:
    facts: list[SegmentFacts] = []
    last, cut, timestamp = MINIMUM_OPID, 0, 0
    ordered = sorted(segments, key=lambda s: s.sequence)
    for segment in ordered[:-1]:
        # Written with durability "os" it may not be on the disk yet; one that is costs nothing.
        _sync_file(segment.path, disk)
        facts.append(_facts_of_closed(segment))
    if ordered:
        final = ordered[-1]
        tally, end_offset = _scan(final)
        cut = final.file_size - end_offset if not final.closed else 0
        if not final.closed and tally.entries == 0:
            disk.unlink(final.path)
            disk.sync_dir(directory)
        else:
            if not final.closed:
                _seal(final, tally, end_offset, disk)
            else:
                _sync_file(final.path, disk)
            closed_at = final.footer.close_timestamp_micros if final.footer is not None else time.time_ns() // 1000
            facts.append(SegmentFacts(final.sequence, tally.min_replicate_index, tally.max_replicate_index,
                                      os.stat(final.path).st_size, closed_at))
        disk.sync_dir(directory)
        last, timestamp = _last_operation(ordered, tally)
    return Recovered(tuple(facts), last, ordered[-1].header.tablet_id if ordered else None,
                     facts[-1].sequence if facts else (ordered[-1].sequence - 1 if ordered else 0), cut, timestamp,
                     _schema_of(ordered[-1]) if ordered else None)


def _schema_of(segment: Segment) -> bytes:
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")()
    header.schema.CopyFrom(segment.header.schema)
    header.schema_version = segment.header.schema_version
    return bytes(header.SerializePartialToString())


def _facts_of_closed(segment: Segment) -> SegmentFacts:
    if segment.footer is None:
        # A segment that others follow and that was never closed: its entries are all that can be asked.
        tally, _ = _scan(segment)
        return SegmentFacts(segment.sequence, tally.min_replicate_index, tally.max_replicate_index,
                            segment.file_size)
    footer = segment.footer
    has = footer.HasField("min_replicate_index")
    return SegmentFacts(segment.sequence, footer.min_replicate_index if has else None,
                        footer.max_replicate_index if has else None, segment.file_size, footer.close_timestamp_micros)


def _scan(segment: Segment) -> tuple[EntryTally, int]:
    """All entries of a segment; raises for damage that is not a torn tail (W3)."""
    tally, scanner = EntryTally(), segment.scanner()
    malformed = None
    try:
        while (chunk := scanner.next_chunk()) is not None:
            tally.add(chunk)
    except BadFormat as error:
        malformed = error
        malformed.offset = tally.malformed_offset
    end = judge_end(segment, scanner, tally.entries, malformed)
    if end.problems:
        problem = end.problems[0]
        raise CorruptionError(problem.detail, path=segment.path, segment=segment.sequence, offset=problem.offset,
                              advice=problem.advice)
    return tally, end.offset


def _last_operation(segments: list[Segment], tally: EntryTally) -> tuple[OpId, int]:
    """Id of the last REPLICATE (of the last segment, or of the last one that holds any), and its segment's highest
    timestamp."""
    if tally.last_replicate is not None:
        return OpId(*tally.last_replicate), tally.max_timestamp or 0
    for segment in reversed(segments[:-1]):
        if segment.footer is not None and not segment.footer.HasField("max_replicate_index"):
            continue
        earlier, _ = _scan(segment)
        if earlier.last_replicate is not None:
            return OpId(*earlier.last_replicate), earlier.max_timestamp or 0
    return MINIMUM_OPID, 0


def footer_bytes(entries: int, min_index: int | None, max_index: int | None) -> bytes:
    """A segment's end: LogSegmentFooterPB, magic, length."""
    footer: Any = message_class("kudu.log.LogSegmentFooterPB")(
        num_entries=entries, close_timestamp_micros=time.time_ns() // 1000)
    if min_index is not None and max_index is not None:
        footer.min_replicate_index, footer.max_replicate_index = min_index, max_index
    data: bytes = footer.SerializeToString()
    return data + FOOTER_MAGIC + struct.pack("<I", len(data))


def _seal(segment: Segment, tally: EntryTally, end_offset: int, disk: Disk) -> None:
    """Cut the tail and close the segment, durably."""
    fd = disk.open(segment.path, os.O_RDWR)
    try:
        disk.truncate(fd, end_offset)
        footer = footer_bytes(tally.entries, tally.min_replicate_index, tally.max_replicate_index)
        disk.pwrite(fd, footer, end_offset)
        disk.sync(fd)
    finally:
        disk.close(fd)


def _sync_file(path: str, disk: Disk) -> None:
    fd = disk.open(path, os.O_RDWR)
    try:
        disk.sync(fd)
    finally:
        disk.close(fd)
