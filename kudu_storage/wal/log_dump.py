"""All segments of one log as text, as the real `kudu local_replica dump wals` prints them: one after the other.

A segment without a footer gets the one that Kudu makes for it in memory when it opens a log. The real tool prints
nothing when one segment is bad or missing; here what can be read is printed, and what is wrong is returned.
May not touch: anything but the segments, read-only, and `out`.
"""
from __future__ import annotations

import os
from typing import Any, BinaryIO, TextIO

from kudu_storage.errors import KuduStorageError
from kudu_storage.protos import message_class
from kudu_storage.protos.text import debug_string
from kudu_storage.wal.dump import binary_or_text_writer, dump_segment, parse_print_type
from kudu_storage.wal.report import Problem, SegmentReport
from kudu_storage.wal.verify import verify


def dump_log(folder: str | os.PathLike[str], out: TextIO | BinaryIO, *, print_entries: str = "decoded",
             print_meta: bool = True, truncate_data: int = 100) -> list[Problem]:
    """Print a tablet's log folder by sequence number; segments that were never written to are passed over, as in Kudu.

    Options and `out` as in dump_segment(). Returns what `verify` says is wrong with the log, and what could not be
    printed. Raises InvalidArgument for an unknown `print_entries`, NotFound or DiskError for the folder.
    """
    parse_print_type(print_entries)
    report = verify(folder)
    problems = list(report.problems)
    damaged = {problem.segment for problem in problems}
    write = binary_or_text_writer(out)
    for segment in report.segments:
        if segment.status in ("blank", "unreadable"):
            continue
        try:
            dump_segment(segment.path, out, print_entries=print_entries, print_meta=print_meta,
                         truncate_data=truncate_data)
        except KuduStorageError as error:
            if segment.sequence not in damaged:
                problems.append(Problem.of(error, segment.sequence))
            continue
        if print_meta and not segment.footer:
            write("Footer:\n" + debug_string(_rebuilt_footer(segment)))
    return problems


def _rebuilt_footer(segment: SegmentReport) -> Any:
    """The LogSegmentFooterPB that Kudu derives from the entries (consensus/log_util.cc, RebuildFooterByScanning)."""
    footer: Any = message_class("kudu.log.LogSegmentFooterPB")(num_entries=segment.entries)
    if segment.min_index is not None:
        footer.min_replicate_index, footer.max_replicate_index = segment.min_index, segment.max_index
    return footer
