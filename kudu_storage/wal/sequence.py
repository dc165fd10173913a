"""Which segments follow each other. Pure: works on headers and names that were read."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from kudu_storage.wal.reader import Segment
from kudu_storage.wal.report import Problem


def trusted_run(segments: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    """The segments from the first readable one on that follow each other without a gap, in order, and the rest.

    Kudu orders by the number in the header. A header has no checksum, though: where the headers' numbers are not
    consecutive and the file names' are, the names are taken.
    """
    ordered = sorted(segments, key=lambda s: s.sequence)
    numbers = [s.sequence for s in ordered]
    names = sorted(s.name_sequence for s in segments if s.name_sequence is not None)
    if not _consecutive(numbers) and len(names) == len(segments) and _consecutive(names):
        ordered = sorted(segments, key=lambda s: s.name_sequence or 0)
        numbers = names
    end = 1
    while end < len(ordered) and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return ordered[:end], ordered[end:]


def _consecutive(numbers: Sequence[int]) -> bool:
    return all(after == before + 1 for before, after in itertools.pairwise(numbers))


def tablet_problems(segments: Sequence[Segment]) -> list[Problem]:
    """Headers of one log that name different tablets (headers have no checksum)."""
    counts = Counter(s.header.tablet_id for s in segments)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    advice = "move it away if it is of another tablet; a damaged header does not hurt the entries"
    return [Problem("contradiction", s.sequence, 0,
                    f"the header names tablet {_text(s.header.tablet_id)}, other segments name {_text(usual)}", advice)
            for s in segments if s.header.tablet_id != usual]


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")
