"""Opening a log's folder to write: where it ends, and cutting what a crash left half-written.

W3  A torn tail is cut at the last whole entry and only there; damage before good entries is an error with the offset.
    Bytes that were being written when the machine stopped can be lost sector by sector, in any order: an entry that
    lacks a whole sector (it reads as zeros: space is allocated ahead, never written twice) is torn, whatever follows.
W8  What was recovered (tail, metadata, directory) is synced before anybody is told where the log ends.
The last segment is closed with a footer when its tail was cut, so that the writer always begins a segment of its own.
Nothing is changed before all of the log was looked at: a log that is refused is left as it was.
"""
from __future__ import annotations

import itertools
import os
import struct
import time
from dataclasses import dataclass
from typing import Any, Final

from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.disk import Disk
from kudu_storage._native.entry import EntryTally
from kudu_storage._native.segment import find_entry_header
from kudu_storage.common.limits import MIB
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.errors import (
    BadFormat,
    CorruptionError,
    InvalidArgument,
    LimitExceeded,
    MissingOperations,
)
from kudu_storage.protos import message_class
from kudu_storage.wal.judgement import judge_end
from kudu_storage.wal.reader import FOOTER_MAGIC, Segment, SegmentFile, check_sequence, list_segments, open_segment
from kudu_storage.wal.retention import SegmentFacts

TEMPORARY_PREFIX = ".kudutmp."
SECTOR_BYTES: Final = 512
ENTRY_HEADER_BYTES: Final = 16
_PIECE_BYTES: Final = MIB


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
        CorruptionError: damage before good entries, or a segment or operations missing in the middle.
        InvalidArgument: the log is another tablet's.
    """
    opened: list[Segment] = []
    try:
        files = list_segments(directory)
        # Made ahead, or in a time without syncs: the log ends before them.
        blank = list(itertools.takewhile(lambda file: _is_all_zeros(file.path), reversed(files)))
        files = files[:len(files) - len(blank)]
        opened += (_open(file, file is files[-1]) for file in files)
        _check(opened, tablet_id)
        found = _look(sorted(opened, key=lambda s: s.sequence))
        for file in blank:
            disk.unlink(file.path)
        _remove_temporaries(directory, disk)
        return _settle(directory, found, disk)
    finally:
        for segment in opened:
            segment.close()


def _remove_temporaries(directory: str, disk: Disk) -> None:
    for name in os.listdir(directory):
        if name.startswith(TEMPORARY_PREFIX):
            disk.unlink(os.path.join(directory, name))


def _open(file: SegmentFile, is_last: bool) -> Segment:
    try:
        return open_segment(file.path)
    except (BadFormat, LimitExceeded):
        if not is_last:
            raise
        # A torn footer: the segment was not closed yet. If it is the header that is bad, this says so again.
        return open_segment(file.path, ignore_footer=True)


def _is_all_zeros(path: str) -> bool:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            if piece.strip(b"\0"):
                return False
    return True


def _check(segments: list[Segment], tablet_id: bytes | None) -> None:
    problems = check_sequence(segments)
    if problems:
        raise CorruptionError(problems[0].detail, segment=problems[0].segment, advice=problems[0].advice)
    for segment in segments:
        if tablet_id is not None and segment.header.tablet_id != tablet_id:
            raise InvalidArgument(f"the log is of tablet {segment.header.tablet_id.decode('ascii', 'replace')}, "
                                  f"not {tablet_id.decode('ascii', 'replace')}", path=segment.path)


@dataclass(frozen=True, slots=True)
class _Scanned:
    """A segment that was read: its entries, and where they end."""

    segment: Segment
    tally: EntryTally
    end_offset: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A log as it is: segments by sequence, and what is known of all but the last, which was read. unclosed: those
    without a footer; only the last, unless nothing was synced. empty: segments behind the last that hold no entry."""

    segments: list[Segment]
    facts: list[SegmentFacts]
    tally: EntryTally
    unclosed: list[_Scanned]
    empty: list[Segment]


def _look(ordered: list[Segment]) -> _Found:
    kept, empty, last = list(ordered), [], None
    while kept:
        last = _scan(kept[-1], is_last=True)
        if kept[-1].closed or last.tally.entries:
            break
        empty.append(kept.pop())
    unclosed = [_scan(segment, is_last=False) for segment in kept[:-1] if not segment.closed]
    scanned = {s.segment.sequence: s for s in unclosed}
    facts = [_facts_of_read(scanned[s.sequence]) if s.sequence in scanned else _facts_of_closed(s) for s in kept[:-1]]
    if kept and last is not None and not kept[-1].closed:
        unclosed.append(last)
    found = _Found(kept, facts, last.tally if kept and last is not None else EntryTally(), unclosed, empty)
    _check_operations(found)
    return found


def _check_operations(found: _Found) -> None:
    """No operations are missing between segments. (A log that was not synced can lose the end of any.)"""
    ranges = [(f.sequence, f.first_index, f.last_index) for f in found.facts]
    if found.segments:
        ranges.append((found.segments[-1].sequence, found.tally.min_replicate_index, found.tally.max_replicate_index))
    reached: int | None = None
    for sequence, first, last in ranges:
        if first is None or last is None:
            continue
        if reached is not None and first > reached + 1:
            raise MissingOperations(
                f"operation {reached} is followed by operation {first}: {first - reached - 1} are missing",
                segment=sequence, intact=f"everything up to index {reached}",
                advice="restore what is missing, or take the replica from a peer")
        reached = last


def _settle(directory: str, found: _Found, disk: Disk) -> Recovered:
    """Cut, close and sync."""
    facts, tally = list(found.facts), found.tally
    for segment in found.empty:
        disk.unlink(segment.path)
    for scanned in found.unclosed:
        _seal(scanned, disk)
    for segment in found.segments:
        if segment.closed:
            # Written with durability "os" it may not be on the disk yet; one that is costs nothing.
            sync_file(segment.path, disk)
    if found.segments:
        final = found.segments[-1]
        closed_at = final.footer.close_timestamp_micros if final.footer is not None else time.time_ns() // 1000
        facts.append(SegmentFacts(final.sequence, tally.min_replicate_index, tally.max_replicate_index,
                                  os.stat(final.path).st_size, closed_at))
    known = [*found.segments, *found.empty]
    if known:
        disk.sync_dir(directory)
    newest = max(known, key=lambda s: s.sequence, default=None)
    sequence = facts[-1].sequence if facts else min((s.sequence for s in known), default=1) - 1
    last, timestamp = _last_operation(found.segments, tally)
    return Recovered(tuple(facts), last, newest.header.tablet_id if newest else None, sequence,
                     sum(s.segment.file_size - s.end_offset for s in found.unclosed), timestamp,
                     _schema_of(newest) if newest else None)


def _facts_of_read(scanned: _Scanned) -> SegmentFacts:
    tally = scanned.tally
    return SegmentFacts(scanned.segment.sequence, tally.min_replicate_index, tally.max_replicate_index,
                        scanned.segment.file_size)


def _schema_of(segment: Segment) -> bytes:
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")()
    header.schema.CopyFrom(segment.header.schema)
    header.schema_version = segment.header.schema_version
    return bytes(header.SerializePartialToString())


def _facts_of_closed(segment: Segment) -> SegmentFacts:
    footer: Any = segment.footer
    has = footer.HasField("min_replicate_index")
    return SegmentFacts(segment.sequence, footer.min_replicate_index if has else None,
                        footer.max_replicate_index if has else None, segment.file_size, footer.close_timestamp_micros)


def _scan(segment: Segment, *, is_last: bool) -> _Scanned:
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
    torn = is_last and not segment.closed and malformed is None and (not end.lossy or _is_torn(segment, end.offset))
    if end.problems and not torn:
        problem = end.problems[0]
        raise CorruptionError(problem.detail, path=segment.path, segment=segment.sequence, offset=problem.offset,
                              advice=problem.advice)
    return _Scanned(segment, tally, end.offset)


def _is_torn(segment: Segment, offset: int) -> bool:
    """Whether a crash ended the writing of the bad entry at `offset`, although what looks like an entry follows."""
    if segment.v1:
        return False
    header = os.pread(segment.fd, ENTRY_HEADER_BYTES, offset)
    if len(header) < ENTRY_HEADER_BYTES:
        return True
    if crc32c(header[:12]) == int.from_bytes(header[12:], "little"):
        end = offset + ENTRY_HEADER_BYTES + int.from_bytes(header[:4], "little")
        # What looked like an entry can be within its payload.
        if end >= segment.file_size or find_entry_header(segment.fd, end, segment.file_size) is None:
            return True
    else:
        end = find_entry_header(segment.fd, offset + 1, segment.file_size) or segment.file_size
    return _lacks_sector(segment, offset, end)


def _lacks_sector(segment: Segment, first: int, end: int) -> bool:
    """Whether a sector that holds bytes of [first, end) has only zeros from `first` on."""
    at = first
    while at < end:
        stop = at // _PIECE_BYTES * _PIECE_BYTES + _PIECE_BYTES
        piece = os.pread(segment.fd, stop - at, at)
        if not piece:
            return False
        sector = at
        while sector < min(end, at + len(piece)):
            next_sector = sector // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES
            if not piece[sector - at:next_sector - at].strip(b"\0"):
                return True
            sector = next_sector
        at = stop
    return False


def _last_operation(segments: list[Segment], tally: EntryTally) -> tuple[OpId, int]:
    """Id of the last REPLICATE (of the last segment, or of the last one that holds any), and its segment's highest
    timestamp."""
    if tally.last_replicate is not None:
        return OpId(*tally.last_replicate), tally.max_timestamp or 0
    for segment in reversed(segments[:-1]):
        if segment.footer is not None and not segment.footer.HasField("max_replicate_index"):
            continue
        earlier = _scan(segment, is_last=False).tally
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


def _seal(scanned: _Scanned, disk: Disk) -> None:
    """Cut the tail and close the segment, durably."""
    tally, end_offset = scanned.tally, scanned.end_offset
    fd = disk.open(scanned.segment.path, os.O_RDWR)
    try:
        if scanned.segment.file_size > end_offset:
            # Durable before the footer: behind a footer nothing of the tail may come back.
            disk.truncate(fd, end_offset)
            disk.sync(fd)
        footer = footer_bytes(tally.entries, tally.min_replicate_index, tally.max_replicate_index)
        disk.pwrite(fd, footer, end_offset)
        disk.sync(fd)
    finally:
        disk.close(fd)


def sync_file(path: str, disk: Disk) -> None:
    fd = disk.open(path, os.O_RDWR)
    try:
        disk.sync(fd)
    finally:
        disk.close(fd)
