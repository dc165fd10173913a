"""All segments of one log as text, as the real `kudu local_replica dump wals` prints them: one after the other.

The real tool opens all segments first and prints nothing when one is bad or missing. Here what can be read is printed,
and what is wrong is returned. May not touch: anything but the segments, read-only, and `out`.
"""
from __future__ import annotations

import os
from contextlib import ExitStack
from typing import BinaryIO, TextIO

from kudu_storage.errors import BlankSegment, KuduStorageError
from kudu_storage.wal.dump import dump_segment, parse_print_type
from kudu_storage.wal.reader import Segment, check_sequence, list_segments, open_segment
from kudu_storage.wal.report import Problem


def dump_log(folder: str | os.PathLike[str], out: TextIO | BinaryIO, *, print_entries: str = "decoded",
             print_meta: bool = True, truncate_data: int = 100) -> list[Problem]:
    """Print a tablet's log folder by sequence number. Segments that were never written to are passed over, as in Kudu.

    Raises NotFound, DiskError or InvalidArgument as list_segments and dump_segment do; damage is returned.
    """
    parse_print_type(print_entries)
    problems: list[Problem] = []
    with ExitStack() as stack:
        segments: list[Segment] = []
        unreadable: set[int] = set()
        for file in list_segments(folder):
            try:
                segments.append(stack.enter_context(open_segment(file.path)))
            except BlankSegment:
                continue
            except KuduStorageError as error:
                problems.append(Problem.of(error, file.sequence))
                if file.sequence is not None:
                    unreadable.add(file.sequence)
        problems += check_sequence(segments, unreadable)
        paths = [segment.path for segment in sorted(segments, key=lambda s: s.sequence)]
    for path in paths:
        try:
            dump_segment(path, out, print_entries=print_entries, print_meta=print_meta, truncate_data=truncate_data)
        except KuduStorageError as error:
            problems.append(Problem.of(error))
    return problems
