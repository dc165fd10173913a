"""What the end of a segment's scan means. Pure but for looking at the bytes behind the last entry.

J1  A zero or torn tail of an unclosed last segment is how a log normally ends: no problem.
J2  A problem that says entries may be missing stops whoever applies them; one about a footer alone does not.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from kudu_storage._native.segment import SegmentScanner
from kudu_storage.errors import BadFormat, DiskError, KuduStorageError
from kudu_storage.wal.reader import Segment
from kudu_storage.wal.report import Problem, SegmentStatus

_SAVE = "kudu-storage wal repair --out DIR copies what is intact"


@dataclass(slots=True)
class SegmentEnd:
    """How a segment ends. `offset`: first byte that is not a good entry. `lossy`: entries may be missing at its end."""

    status: SegmentStatus
    detail: str
    offset: int
    lossy: bool = False
    problems: list[Problem] = field(default_factory=list)


def judge_end(segment: Segment, scanner: SegmentScanner, entries: int,
              malformed: BadFormat | None = None) -> SegmentEnd:
    """The end of a scan that has returned None, or that was given up at a `malformed` batch (its offset is set).

    Args:
        entries: log entries in the batches before.
    """
    if malformed is not None and malformed.offset is not None:
        status: SegmentStatus = segment.malformed_status(malformed.offset)
        end = SegmentEnd(status, malformed.detail, malformed.offset)
        error: KuduStorageError | None = malformed if status == "corrupt" else None
    else:
        outcome = scanner.outcome or "corrupt"
        end = SegmentEnd("ok" if outcome == "end" else outcome, scanner.detail or "", scanner.offset)
        error = segment.error_of(scanner)
    if error is not None:
        end.lossy = True
    elif end.status == "ok":
        error = segment.entry_count_error(entries)
    if error is not None:
        end.status, end.detail = "corrupt", error.detail
        end.problems.append(Problem(error.kind, segment.sequence, error.offset,
                                    f"{error.detail}; {entries} entries before it are intact", error.advice or _SAVE))
    elif end.status == "torn_tail" and segment.is_damaged_footer(end.offset, entries):
        end.status = "corrupt"
        end.detail = f"the magic or length of the footer is damaged; all {entries} entries are intact"
        end.problems.append(Problem(BadFormat.kind, segment.sequence, end.offset, end.detail,
                                    "kudu-storage wal repair --out DIR leaves the footer out"))
    return end


def unreadable_end(segment: Segment, scanner: SegmentScanner, entries: int, error: DiskError) -> SegmentEnd:
    """The end of a scan that the disk broke off."""
    problem = Problem(error.kind, segment.sequence, scanner.offset,
                      f"{error.detail}; {entries} entries before it are intact",
                      error.advice or "copy the file to another disk as far as it can be read, or use another replica")
    return SegmentEnd("unreadable", error.detail, scanner.offset, True, [problem])
