"""Copies what is intact of a damaged log into a new folder. Never writes to its input.

Invariants:
 P1  The output is a prefix of the log: after the first place where an entry may be missing nothing is copied.
 P2  Whole segments are copied byte for byte; a damaged one is cut after its last good entry and has no footer.
 P3  Everything is on disk, names included, when repair() returns.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kudu_storage.errors import DiskError, InvalidArgument, KuduStorageError, Truncated
from kudu_storage.wal.reader import Segment, SegmentFile, list_segments, open_segment
from kudu_storage.wal.verify import Checked, check_file, check_segment

_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """What became of one segment file: "copied", "cut" (`bytes` of it were kept) or "left out"."""

    name: str
    action: str
    bytes: int
    entries: int
    reason: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """One piece a file of the input, in the order of the log."""

    pieces: tuple[Piece, ...]

    @property
    def complete(self) -> bool:
        """Nothing had to be left out or cut."""
        return all(p.action == "copied" for p in self.pieces)

    def to_json(self) -> dict[str, Any]:
        return {"segments": [{"name": p.name, "action": p.action, "bytes": p.bytes, "entries": p.entries,
                              "reason": p.reason} for p in self.pieces], "complete": self.complete}


@dataclass(frozen=True, slots=True)
class _Plan:
    """How much of a file to copy, and whether the log goes on after it."""

    action: str
    bytes: int
    entries: int
    reason: str
    goes_on: bool


def repair(directory: str | os.PathLike[str], out: str | os.PathLike[str]) -> RepairReport:
    """Copy the intact beginning of the log in `directory` to `out`, which must be empty or not exist.

    Index chunks are not copied: they are made anew from the segments. Raises NotFound, InvalidArgument, DiskError.
    """
    files = list_segments(directory)
    if not files:
        raise InvalidArgument("there are no segments in this folder", path=os.fspath(directory))
    target = _prepare(directory, out)
    pieces: list[Piece] = []
    stopped: str | None = None
    previous: int | None = None      # sequence number of the last segment taken
    last_index: int | None = None
    for file in files:
        name = os.path.basename(file.path)
        if stopped is not None:
            pieces.append(Piece(name, "left out", 0, 0, stopped))
            continue
        with _checked(file) as (segment, checked):
            plan = _plan(segment, checked, previous, last_index)
            if plan.action != "left out":
                _copy(file.path, os.path.join(target, name), plan.bytes)
            pieces.append(Piece(name, plan.action, plan.bytes, plan.entries, plan.reason))
            if not plan.goes_on:
                stopped = f"it follows {name}, where the intact part of the log ends"
            if segment is not None:
                previous = segment.sequence
            if checked.tally is not None and checked.tally.last_replicate is not None:
                last_index = checked.tally.last_replicate.index
    _sync_folder(target)
    return RepairReport(tuple(pieces))


@contextmanager
def _checked(file: SegmentFile) -> Iterator[tuple[Segment | None, Checked]]:
    """The file, read to its end; once more without its footer when only that cannot be read."""
    segment, checked = check_file(file)
    if segment is None and checked.report.status == "unreadable":
        try:
            segment = open_segment(file.path, ignore_footer=True)
        except KuduStorageError:
            segment = None
        else:
            checked = check_segment(segment)
    try:
        yield segment, checked
    finally:
        if segment is not None:
            segment.close()


def _plan(segment: Segment | None, checked: Checked, previous: int | None, last_index: int | None) -> _Plan:
    """Pure: what to do with one segment after `previous` (sequence number) and `last_index` (last operation)."""
    report = checked.report
    if report.status == "blank":
        return _Plan("left out", 0, 0, report.detail, True)
    if segment is None or checked.end_offset is None or checked.tally is None:
        return _Plan("left out", 0, 0, report.detail, False)
    if previous is not None and segment.sequence != previous + 1:
        return _Plan("left out", 0, 0, f"segment {previous + 1} is missing before it", False)
    first = checked.tally.first_replicate
    if last_index is not None and first is not None and first.index > last_index + 1:
        return _Plan("left out", 0, 0, f"operations {last_index + 1} to {first.index - 1} are missing before it", False)
    if checked.tally.jumps:
        # The batch with the jump and all after it are left out: what it stands on is not there.
        before, after, offset = checked.tally.jumps[0]
        return _Plan("cut", offset, 0, f"operations {before + 1} to {after - 1} are missing in it", False)
    if report.status in ("ok", "zero_tail"):
        return _Plan("copied", segment.file_size, report.entries, "", True)
    complete = (checked.end_offset == segment.end_offset and segment.closed) \
        or segment.is_damaged_footer(checked.end_offset, report.entries)
    return _Plan("cut", checked.end_offset, report.entries, report.detail, complete)


def _prepare(directory: str | os.PathLike[str], out: str | os.PathLike[str]) -> str:
    target = os.path.abspath(out)
    source = os.path.realpath(directory)
    if os.path.commonpath([os.path.realpath(target), source]) == source:
        raise InvalidArgument("the output folder is the input folder, or in it", path=target)
    try:
        os.makedirs(target, exist_ok=True)
        if os.listdir(target):
            raise InvalidArgument("the output folder is not empty", path=target, advice="name a new folder")
    except OSError as error:
        raise DiskError(f"cannot use the output folder: {error.strerror}", path=target) from error
    return target


def _copy(source: str, target: str, size: int) -> None:
    """The first `size` bytes of a file, durable."""
    try:
        with open(source, "rb") as reader, open(target, "xb") as writer:
            left = size
            while left:
                part = reader.read(min(left, _COPY_BYTES))
                if not part:
                    raise Truncated(f"the file became shorter than {size} bytes while it was copied", path=source)
                writer.write(part)
                left -= len(part)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise DiskError(f"cannot copy to {target}: {error.strerror}", path=source) from error


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
