"""Opening log segments for reading: which files belong to a log, header, footer, and how a scan ends. Read-only.

The rules are Kudu's (consensus/log_util.cc, log_reader.cc; docs/formats/wal.md). May not touch: rows, tablets, anything
that writes. Invariants:
 R1  A segment counts as closed only when its last 12 bytes carry the footer magic; everything else is read by scanning.
 R2  A length from the file is compared with its limit and with the file's size before it is used.
 R3  Nothing here decides what to do about damage: it is reported with the place, and what is intact before it.
"""
from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from kudu_storage._native.segment import BatchChunk, SegmentScanner, find_entry_header, read_batch_at
from kudu_storage.common.limits import SEGMENT_HEADER_BYTES_MAX
from kudu_storage.errors import (
    BadFormat,
    BlankSegment,
    Contradiction,
    CorruptionError,
    DiskError,
    ForeignFile,
    InternalError,
    LimitExceeded,
    MissingSegment,
    NewerVersion,
    NotFound,
    RenamedSegment,
    Truncated,
    Unsupported,
)
from kudu_storage.protos import message_class
from kudu_storage.wal.report import Problem, error_class

if TYPE_CHECKING:
    from google.protobuf.message import Message

HEADER_MAGIC: Final = b"kudulogf"
FOOTER_MAGIC: Final = b"closedls"
MAGIC_AND_LENGTH_BYTES: Final = 12
CODEC_NAMES: Final = {1: "NO_COMPRESSION", 2: "SNAPPY", 3: "LZ4", 4: "ZLIB"}

_U32: Final = struct.Struct("<I")
_CODEC_FIELD: Final = 9
_SEQUENCE = re.compile(r"wal-([0-9]{1,18})\Z")
_REPAIR: Final = "kudu-storage wal repair --out DIR copies what is intact"


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A file that Kudu would take for a segment. `sequence` is what its name says, None when that is no number."""

    path: str
    sequence: int | None


def list_segments(directory: str | os.PathLike[str]) -> list[SegmentFile]:
    """The segment files in a tablet's log folder, by sequence number. Raises NotFound, DiskError.

    As in Kudu a name counts when it is "wal", one dash and something; hidden files (preallocated segments that have no
    name yet) and index chunks do not.
    """
    root = os.fspath(directory)
    try:
        names = os.listdir(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("there is no log folder here", path=root) from error
    except OSError as error:
        raise DiskError(f"cannot list the log folder: {error.strerror}", path=root) from error
    found = [SegmentFile(os.path.join(root, name), sequence_of_name(name)) for name in names if is_segment_name(name)]
    return sorted(found, key=lambda f: (f.sequence is None, f.sequence or 0, f.path))


def is_segment_name(name: str) -> bool:
    """Whether Kudu takes a file of this name for a segment."""
    parts = name.split("-")
    return not name.startswith(".") and len(parts) == 2 and parts[0] == "wal"


def sequence_of_name(name: str) -> int | None:
    """The sequence number in a segment file's name, if it is one."""
    match = _SEQUENCE.match(os.path.basename(name))
    return int(match.group(1)) if match else None


@dataclass(slots=True)
class Segment:
    """An open segment. Owns its descriptor: close it, or use it as a context manager.

    header: LogSegmentHeaderPB. footer: LogSegmentFooterPB of a closed segment, else None. Entries lie in
    first_offset..end_offset of the file. codec: Kudu's CompressionType number. notes: oddities that are no error.
    """

    path: str
    fd: int
    header: Any
    footer: Any | None
    first_offset: int
    end_offset: int
    file_size: int
    codec: int
    notes: tuple[str, ...] = field(default=())

    @property
    def sequence(self) -> int:
        """The sequence number in the header (which has no checksum; see `renamed`)."""
        return int(self.header.sequence_number)

    @property
    def name_sequence(self) -> int | None:
        """The sequence number in the file's name."""
        return sequence_of_name(self.path)

    @property
    def closed(self) -> bool:
        return self.footer is not None

    @property
    def v1(self) -> bool:
        """Entry headers of 12 bytes without a compressed length: Kudu 1.2 and older."""
        return bool(self.header.HasField("DEPRECATED_major_version"))

    @property
    def entry_header_bytes(self) -> int:
        return 12 if self.v1 else 16

    @property
    def codec_name(self) -> str:
        return CODEC_NAMES[self.codec]

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def scanner(self, first_offset: int | None = None, *, whole: bool = False) -> SegmentScanner:
        """A native scan of all entries, or of those from the entry header at `first_offset` on.

        whole: whatever is no entry before `end_offset` is damage, as in a closed segment.
        """
        return SegmentScanner(self.fd, first_offset=self.first_offset if first_offset is None else first_offset,
                              end_offset=self.end_offset, file_size=self.file_size, codec=self.codec, v1=self.v1,
                              closed=self.closed or whole)

    def scan(self, target_bytes: int = 1 << 20) -> Iterator[BatchChunk]:
        """All entries in chunks. Ends quietly where Kudu would; raises the typed error after what is intact."""
        scanner = self.scanner()
        batches = 0
        while (chunk := scanner.next_chunk(target_bytes)) is not None:
            batches += len(chunk)
            yield chunk
        error = self.error_of(scanner, f"{batches} batches before it are intact")
        if error is not None:
            raise error

    def error_of(self, scanner: SegmentScanner, intact: str | None = None) -> CorruptionError | None:
        """The typed error that a finished scan stands for; None when it ended as a segment may end."""
        if scanner.outcome is None:
            raise InternalError("asked for the outcome of a scan that has not ended", path=self.path)
        if scanner.outcome != "corrupt":
            return None
        return error_class(scanner.error_kind)(scanner.detail or "damaged", path=self.path, segment=self.sequence,
                                               offset=scanner.offset, intact=intact, advice=_REPAIR)

    def entry_count_error(self, entries: int) -> CorruptionError | None:
        """Kudu's check at the end of a closed segment: the footer's count must be the number of entries read."""
        if self.footer is None or self.footer.num_entries == entries:
            return None
        return Contradiction(f"the footer promises {self.footer.num_entries} entries, {entries} were read",
                             path=self.path, segment=self.sequence, offset=self.end_offset,
                             intact=f"{entries} entries passed their checksums", advice=_REPAIR)

    def malformed_status(self, offset: int) -> Literal["torn_tail", "corrupt"]:
        """What Kudu makes of a batch at `offset` that passes its checksum and cannot be parsed."""
        if self.closed:
            return "corrupt"
        found = find_entry_header(self.fd, offset + self.entry_header_bytes, self.file_size, self.v1)
        return "torn_tail" if found is None else "corrupt"

    def is_damaged_footer(self, offset: int, entries: int) -> bool:
        """Whether the bytes from `offset` to the end of an unclosed segment are a footer for exactly `entries` entries
        whose magic or length was damaged. Then nothing is missing before it."""
        size = self.file_size - offset - MAGIC_AND_LENGTH_BYTES
        if self.closed or size <= 0 or size > SEGMENT_HEADER_BYTES_MAX:
            return False
        try:
            footer = _parse("kudu.log.LogSegmentFooterPB", _read_exactly(self.fd, offset, size), "footer", {})
        except CorruptionError:
            return False
        trailer = _read_exactly(self.fd, self.file_size - MAGIC_AND_LENGTH_BYTES, MAGIC_AND_LENGTH_BYTES)
        alike = sum(a == b for a, b in zip(trailer, FOOTER_MAGIC + _U32.pack(size), strict=True))
        return bool(footer.num_entries == entries) and alike >= MAGIC_AND_LENGTH_BYTES // 2

    def batch_at(self, offset: int) -> BatchChunk:
        """The one batch whose entry header is at `offset`. Raises the typed error when it is not there whole."""
        return read_batch_at(self.fd, offset, file_size=self.file_size, codec=self.codec, v1=self.v1)


def open_segment(path: str | os.PathLike[str], *, ignore_footer: bool = False) -> Segment:
    """Open a segment file read-only and read its header and footer.

    ignore_footer: take the segment for an unclosed one, whatever its end looks like (to save what is before a footer
    that cannot be read).

    Raises NotFound, DiskError, Truncated (also an empty file), BlankSegment (never used; may be ignored), ForeignFile,
    NewerVersion, Unsupported (a codec that is none of log codecs), LimitExceeded, BadFormat.
    """
    name = os.fspath(path)
    try:
        # O_NONBLOCK: a pipe with a segment's name must not hold us up.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound("there is no such segment file", path=name) from error
    except OSError as error:
        raise DiskError(f"cannot open the segment: {error.strerror}", path=name) from error
    try:
        return _open(name, fd, ignore_footer)
    except OSError as error:
        os.close(fd)
        if isinstance(error, DiskError):
            raise
        raise DiskError(f"cannot read the segment: {error.strerror}", path=name) from error
    except BaseException:
        os.close(fd)
        raise


def _open(path: str, fd: int, ignore_footer: bool) -> Segment:
    file_size = os.fstat(fd).st_size
    header, first_offset = read_header(path, fd, file_size)
    codec, notes = _codec_of(path, header)
    footer = None
    if not ignore_footer:
        footer = read_footer(path, fd, file_size, first_offset, sequence=int(header.sequence_number))
    end_offset = file_size
    if footer is not None:
        # Kudu counts back by the parsed message's size, not by the stored length.
        end_offset -= int(footer.ByteSize()) + MAGIC_AND_LENGTH_BYTES
    return Segment(path, fd, header, footer, first_offset, end_offset, file_size, codec, notes)


def read_header(path: str, fd: int, file_size: int) -> tuple[Any, int]:
    """(LogSegmentHeaderPB, offset of the first entry). Raises as open_segment()."""
    sequence = sequence_of_name(path)
    place: dict[str, Any] = {"path": path, "segment": sequence, "offset": 0}
    if file_size == 0:
        raise Truncated("the segment file is empty: even its header is missing", **place,
                        advice="restore it, or move it away if it is the last segment (its operations are lost)")
    start = _read_exactly(fd, 0, min(MAGIC_AND_LENGTH_BYTES, file_size))
    if len(start) < MAGIC_AND_LENGTH_BYTES:
        raise Truncated(f"the file has {len(start)} bytes, a segment starts with {MAGIC_AND_LENGTH_BYTES}", **place)
    if not any(start):
        raise BlankSegment("the segment was preallocated and never got a header", **place,
                           advice="it holds nothing and may be ignored")
    if not start.startswith(HEADER_MAGIC):
        raise ForeignFile(f"this is no log segment: it starts with {start[:8]!r}, not with {HEADER_MAGIC!r}", **place)
    (size,) = _U32.unpack_from(start, 8)
    if size > SEGMENT_HEADER_BYTES_MAX:
        raise LimitExceeded(f"segment header of {size} bytes is above the limit of {SEGMENT_HEADER_BYTES_MAX}", **place)
    if size > file_size - MAGIC_AND_LENGTH_BYTES:
        raise Truncated(f"the file ends within the segment header of {size} bytes", **place)
    header = _parse("kudu.log.LogSegmentHeaderPB", _read_exactly(fd, MAGIC_AND_LENGTH_BYTES, size), "header", place)
    if len(header.incompatible_features):
        raise NewerVersion(f"the segment uses features {list(header.incompatible_features)} of a newer version",
                           **place, advice="read it with the version that wrote it")
    return header, MAGIC_AND_LENGTH_BYTES + size


def read_footer(path: str, fd: int, file_size: int, first_offset: int, sequence: int | None = None) -> Any | None:
    """LogSegmentFooterPB, or None when the segment was not closed. Raises LimitExceeded, BadFormat."""
    if file_size < first_offset or file_size < 2 * MAGIC_AND_LENGTH_BYTES:
        return None
    trailer = _read_exactly(fd, file_size - MAGIC_AND_LENGTH_BYTES, MAGIC_AND_LENGTH_BYTES)
    if not trailer.startswith(FOOTER_MAGIC):
        return None
    place: dict[str, Any] = {"path": path, "segment": sequence, "offset": file_size - MAGIC_AND_LENGTH_BYTES,
                             "advice": _REPAIR}
    (size,) = _U32.unpack_from(trailer, 8)
    if size == 0 or size > SEGMENT_HEADER_BYTES_MAX:
        raise LimitExceeded(f"segment footer of {size} bytes is zero or above the limit of {SEGMENT_HEADER_BYTES_MAX}",
                            **place)
    if size > file_size - first_offset - MAGIC_AND_LENGTH_BYTES:
        raise BadFormat(f"segment footer of {size} bytes would begin before the first entry", **place)
    data = _read_exactly(fd, file_size - MAGIC_AND_LENGTH_BYTES - size, size)
    return _parse("kudu.log.LogSegmentFooterPB", data, "footer", place)


def _codec_of(path: str, header: Any) -> tuple[int, tuple[str, ...]]:
    """Kudu's codec number of the entries, and notes. A number that the schema does not know counts as none."""
    if not header.HasField("compression_codec"):
        if _has_unknown_field(header, _CODEC_FIELD):
            return 1, ("the header names a compression codec that is unknown here: entries are read as not compressed",)
        return 1, ()
    codec = int(header.compression_codec)
    if codec not in CODEC_NAMES:
        raise Unsupported(f"the segment header names compression codec {codec}, which no log uses", path=path,
                          segment=int(header.sequence_number))
    return codec, ()


def _has_unknown_field(message: Message, number: int) -> bool:
    from google.protobuf.unknown_fields import UnknownFieldSet

    return any(f.field_number == number for f in UnknownFieldSet(message))


def _parse(name: str, data: bytes, what: str, place: dict[str, Any]) -> Any:
    from google.protobuf.message import DecodeError

    message: Any = message_class(name)()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BadFormat(f"the segment {what} cannot be parsed: {error}", **place) from error
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise BadFormat(f"the segment {what} lacks {missing}", **place)
    return message


def _read_exactly(fd: int, offset: int, size: int) -> bytes:
    """Bytes of the file; the caller compared the range with the file's size."""
    parts: list[bytes] = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            raise Truncated("the file became shorter while it was read", offset=offset)
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)


# -- the log as a whole ------------------------------------------------------------------------------------------------
def check_sequence(segments: Sequence[Segment], unreadable: Collection[int] = ()) -> list[Problem]:
    """Gaps, doubles and renamed files among the open segments of one log, in any order.

    unreadable: sequence numbers of files that are there and could not be opened; they are not called missing.

    Kudu asks only that the sequence numbers in the headers are consecutive; they need not start at 1, because old
    segments are removed when nothing needs them.
    """
    problems = [Problem.of(error) for s in segments if (error := renamed(s)) is not None]
    ordered = sorted(segments, key=lambda s: s.sequence)
    for before, after in itertools.pairwise(ordered):
        if after.sequence == before.sequence:
            problems.append(Problem.of(RenamedSegment(
                f"{before.path} and {after.path} both say that they are segment {after.sequence}",
                segment=after.sequence, advice="move the copy out of the folder")))
        elif not _gap_explained(before.sequence + 1, after.sequence, unreadable):
            problems.append(Problem.of(MissingSegment(
                f"segment {before.sequence} is followed by segment {after.sequence}: {_between(before, after)}",
                segment=before.sequence + 1, advice="restore what is missing, or take the replica from a peer")))
    return problems


def _gap_explained(first: int, end: int, unreadable: Collection[int]) -> bool:
    return end - first <= len(unreadable) and all(sequence in unreadable for sequence in range(first, end))


def renamed(segment: Segment) -> RenamedSegment | None:
    """A file name that disagrees with its header about the sequence number (one of the two was changed)."""
    if segment.name_sequence == segment.sequence:
        return None
    return RenamedSegment(
        f"the file is named {os.path.basename(segment.path)}, its header says segment {segment.sequence}",
        path=segment.path, segment=segment.sequence, advice="give the file the name that its header says")


def _between(before: Segment, after: Segment) -> str:
    first, last = before.sequence + 1, after.sequence - 1
    return f"segment {first} is missing" if first == last else f"segments {first} to {last} are missing"
