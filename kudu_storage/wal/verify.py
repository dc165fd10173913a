"""Reads a whole log and says what it holds and what is wrong with it. Read-only; decides nothing.

Invariants:
 V1  Every segment file of the folder gets exactly one report, whatever is wrong with it.
 V2  A zero or torn tail of an unclosed last segment is how a log normally ends: no problem.
 V3  Entries counted are those that Kudu's reader would return before it stops.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kudu_storage._native.entry import EntryTally
from kudu_storage._native.segment import BatchChunk
from kudu_storage.errors import BadFormat, BlankSegment, DiskError, KuduStorageError, MissingOperations
from kudu_storage.wal.judgement import judge_end, unreadable_end
from kudu_storage.wal.reader import Segment, SegmentFile, check_sequence, list_segments, open_segment, sequence_of_name
from kudu_storage.wal.report import Problem, SegmentReport, error_class
from kudu_storage.wal.sequence import tablet_problems

_FETCH = "restore the segment from a backup, or take the replica from a peer"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All segments in order, and all problems."""

    segments: tuple[SegmentReport, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The object that `wal verify --report json` prints."""
        return {"segments": [s.to_json() for s in self.segments], "problems": [p.to_json() for p in self.problems]}


@dataclass(frozen=True, slots=True)
class Checked:
    """One segment read to its end: its report, the problem that stopped it, and what was counted before.

    end_offset: first byte of the file that is not a good entry (None when the header could not be read).
    """

    report: SegmentReport
    problems: tuple[Problem, ...]
    tally: EntryTally | None
    end_offset: int | None = None


def verify(path: str | os.PathLike[str], progress: Callable[[SegmentReport], None] | None = None, *,
           each: Callable[[BatchChunk], None] | None = None) -> VerifyReport:
    """Check a tablet's log folder, or one segment file as if it were the last of its log.

    each: called with every chunk of good entries, in the log's order; where it raises BadFormat with the offset of a
    batch, that one is malformed.
    Raises only NotFound and DiskError for the folder itself; damage is in the report.
    """
    files, opened, checked = log_files(path), [], []
    try:
        for file in files:
            segment, result = check_file(file, each)
            if segment is not None:
                opened.append(segment)
            checked.append(result)
            if progress is not None:
                progress(result.report)
        problems = [p for c in checked for p in c.problems]
        unreadable = {c.report.sequence for c in checked if c.tally is None and c.report.sequence is not None}
        problems += check_sequence(opened, unreadable) if os.path.isdir(path) else []
        problems += tablet_problems(opened)
    finally:
        for segment in opened:
            segment.close()
    checked.sort(key=lambda c: (c.report.sequence is None, c.report.sequence or 0))
    problems += _unclosed_problems(checked) + _index_problems(checked)
    return VerifyReport(tuple(c.report for c in checked), tuple(sorted(problems, key=_place)))


def log_files(path: str | os.PathLike[str]) -> list[SegmentFile]:
    """The segment files under a folder, or the one file named."""
    if os.path.isdir(path):
        return list_segments(path)
    return [SegmentFile(os.fspath(path), sequence_of_name(os.fspath(path)))]


def check_file(file: SegmentFile, each: Callable[[BatchChunk], None] | None = None) -> tuple[Segment | None, Checked]:
    """Open and read one file. The segment, if it could be opened, is left open for the caller."""
    started = time.monotonic()
    try:
        segment = open_segment(file.path)
    except KuduStorageError as error:
        return None, _not_opened(file, error, time.monotonic() - started)
    try:
        return segment, check_segment(segment, each)
    except BaseException:
        segment.close()
        raise


def _not_opened(file: SegmentFile, error: KuduStorageError, seconds: float) -> Checked:
    blank = isinstance(error, BlankSegment)
    try:
        size = os.stat(file.path).st_size
    except OSError:
        size = 0
    report = SegmentReport(file.sequence, file.path, 0, 0, 0, size, None, False, None, None,
                           "blank" if blank else "unreadable", error.detail, seconds)
    return Checked(report, () if blank else (Problem.of(error, file.sequence),), None)


def check_segment(segment: Segment, each: Callable[[BatchChunk], None] | None = None) -> Checked:
    """Read all entries of an open segment. each: as for verify()."""
    started = time.monotonic()
    tally, scanner = EntryTally(), segment.scanner()
    problems: list[Problem] = []
    malformed: BadFormat | None = None
    refused: DiskError | None = None
    try:
        while (chunk := scanner.next_chunk()) is not None:
            tally.add(chunk)
            if each is not None:
                each(chunk)
    except BadFormat as error:
        malformed = error
        malformed.offset = segment.first_offset if error.offset is None else error.offset
    except DiskError as error:
        refused = error
    end = unreadable_end(segment, scanner, tally.entries, refused) if refused is not None \
        else judge_end(segment, scanner, tally.entries, malformed)
    problems += end.problems
    wrong_range = _footer_range_error(segment, tally) if end.status == "ok" else None
    if wrong_range is not None:
        end.status, end.detail = "corrupt", wrong_range.detail
        problems.append(Problem.of(wrong_range))
    problems += [_jump(segment.sequence, *jump) for jump in tally.jumps]
    report = SegmentReport(
        segment.sequence, segment.path, tally.entries, tally.replicates, tally.commits, segment.file_size,
        segment.codec_name, segment.closed, tally.min_replicate_index, tally.max_replicate_index, end.status,
        "; ".join(filter(None, [end.detail, *segment.notes])), time.monotonic() - started)
    return Checked(report, tuple(problems), tally, end.offset)


def _footer_range_error(segment: Segment, tally: EntryTally) -> KuduStorageError | None:
    """The footer's smallest and largest index against the entries. Kudu does not ask; log removal relies on them."""
    if segment.footer is None:
        return None
    footer = segment.footer
    said = tuple(getattr(footer, name) if footer.HasField(name) else None
                 for name in ("min_replicate_index", "max_replicate_index"))
    read = (tally.min_replicate_index, tally.max_replicate_index)
    if said == read:
        return None
    return error_class("contradiction")(
        f"the footer promises operations {_range(*said)}, {_range(*read)} were read", path=segment.path,
        segment=segment.sequence, offset=segment.end_offset)


def _range(first: int | None, last: int | None) -> str:
    return "none" if first is None and last is None else f"{first} to {last}"


def _jump(sequence: int | None, before: int, after: int, offset: int | None) -> Problem:
    return Problem(MissingOperations.kind, sequence, offset,
                   f"operation {before} is followed by operation {after}: {after - before - 1} are missing", _FETCH)


def _index_problems(checked: Sequence[Checked]) -> list[Problem]:
    """Operations missing between one segment and the next."""
    problems: list[Problem] = []
    last: int | None = None
    for item in checked:
        tally = item.tally
        if tally is None or tally.first_replicate is None or tally.last_replicate is None:
            continue
        first = tally.first_replicate.index
        if last is not None and first > last + 1:
            problems.append(_jump(item.report.sequence, last, first, None))
        last = tally.last_replicate.index
    return problems


def _unclosed_problems(checked: Sequence[Checked]) -> list[Problem]:
    """Segments without a footer that others follow: a writer closes a segment before it begins the next one."""
    problems: list[Problem] = []
    used = [c for c in checked if c.report.status not in ("blank", "unreadable")]
    for item in used[:-1]:
        report = item.report
        if report.footer or report.status == "corrupt":
            continue
        kind = "torn_tail" if report.status == "torn_tail" else "truncated"
        detail = "the segment has no footer although others follow: entries at its end may be missing"
        problems.append(Problem(kind, report.sequence, item.end_offset,
                                f"{detail} ({report.detail})" if report.detail else detail,
                                "compare its last operation with the next segment's first one"))
    return problems


def _place(problem: Problem) -> tuple[int, int]:
    return (-1 if problem.segment is None else problem.segment, -1 if problem.offset is None else problem.offset)
