"""Kudu's dense log index: for each operation the segment and the batch that hold it. Read here, rebuilt, cut; the
writer's native code fills it while it appends. Layout and rules: docs/formats/log_index.md.

The index is a hint. It is never synced while the log is written, so after a crash a slot may be missing, old, or of an
operation that was replaced since: whoever follows one compares the OpId that he finds there. Invariants:
 X1  lookup() never raises for what a file holds or lacks: no file, a short one, an unused or absurd slot are all None.
 X2  A rebuilt chunk takes its name only when it is whole and on disk; until then the old one stays.
 X3  After rebuild(), refresh() and clear_above() there is no slot of a replaced operation and none above the log's end.
May not touch: segments other than by reading, the log's own list of them. Blocks on disk. rebuild(), refresh(),
clear_above() and remove_below() are for the one process that has the log open for writing; descriptors of chunks that a
writer or a reader has are stale afterwards (IndexReader.invalidate()).
"""
from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple

from kudu_storage._native.disk import Disk
from kudu_storage._native.log_index import SLOT_BYTES, SlotCollector
from kudu_storage.errors import BadFormat, DiskError, InvalidArgument, NotFound
from kudu_storage.fs.pb_container import sync_directory
from kudu_storage.wal.reader import Segment

SLOTS_PER_CHUNK: Final = 1_000_000
CHUNK_BYTES: Final = SLOTS_PER_CHUNK * SLOT_BYTES
# A chunk is a million operations: readers that catch up and readers at the tail seldom need more than two at a time.
_OPEN_CHUNKS_MAX: Final = 4
_TEMPORARY_INFIX: Final = ".kudutmp."           # Kudu removes files with it when it starts
_CHUNK_NAME: Final = re.compile(r"index\.([0-9]{9,18})\Z")
_SLOT: Final = struct.Struct("<qQQ")
_INT64_MAX: Final = (1 << 63) - 1


class IndexSlot(NamedTuple):
    """Where an operation is said to be. offset: of its batch's entry header; a batch can hold more than one."""

    term: int
    segment_sequence: int
    offset: int


def chunk_of(index: int) -> int:
    """The number of the chunk that has the slot of an operation."""
    return index // SLOTS_PER_CHUNK


def slot_offset(index: int) -> int:
    """Where in its chunk the slot of an operation is."""
    return index % SLOTS_PER_CHUNK * SLOT_BYTES


def chunk_name(chunk: int) -> str:
    return f"index.{chunk:09d}"


def list_chunks(directory: str | os.PathLike[str]) -> list[int]:
    """The numbers of the chunks in a log's folder, in order. Raises NotFound, DiskError."""
    found = (_CHUNK_NAME.match(name) for name in _names(os.fspath(directory)))
    # A number has one name: leading zeros beyond nine digits are another file's.
    return sorted(int(match[1]) for match in found if match and chunk_name(int(match[1])) == match[0])


# -- reading -----------------------------------------------------------------------------------------------------------
class IndexReader:
    """Looks slots up by pread; opens chunks when they are first asked for. Safe from any thread. Close it."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)
        # The lock is held over the pread too: a descriptor closed by invalidate() could be another file's by then.
        self._lock = threading.Lock()
        self._open: OrderedDict[int, int] = OrderedDict()       # chunk -> descriptor, the longest unused first

    def lookup(self, index: int) -> IndexSlot | None:
        """The slot of an operation; None when there is none. Raises InvalidArgument (a negative index), DiskError."""
        if index < 0:
            raise InvalidArgument(f"{index} is no index of an operation: it is negative")
        with self._lock:
            descriptor = self._descriptor(chunk_of(index))
            if descriptor is None:
                return None
            try:
                data = os.pread(descriptor, SLOT_BYTES, slot_offset(index))
            except OSError as error:
                raise _disk_error("cannot read the log index", error, self._path(chunk_of(index))) from error
        return _slot(data)

    def slots(self, first: int, last: int) -> bytes:
        """The slots of consecutive operations, back to back as in the file; zeros for those that are not there.

        Raises InvalidArgument (a negative index), DiskError.
        """
        if not 0 <= first <= last:
            raise InvalidArgument(f"{first} to {last} are no indexes of operations")
        parts = []
        with self._lock:
            for chunk in range(chunk_of(first), chunk_of(last) + 1):
                start = max(first, chunk * SLOTS_PER_CHUNK)
                size = (min(last, (chunk + 1) * SLOTS_PER_CHUNK - 1) - start + 1) * SLOT_BYTES
                descriptor = self._descriptor(chunk)
                try:
                    data = b"" if descriptor is None else os.pread(descriptor, size, slot_offset(start))
                except OSError as error:
                    raise _disk_error("cannot read the log index", error, self._path(chunk)) from error
                parts.append(data.ljust(size, b"\0"))
        return b"".join(parts)

    def invalidate(self) -> None:
        """Close all chunks: they were replaced or removed. The next lookup opens what is there then."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    close = invalidate

    def __enter__(self) -> IndexReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):       # __init__ did not get that far
            self.close()

    def __repr__(self) -> str:
        return f"<IndexReader {self._directory!r}, {len(self._open)} chunks open>"

    def _path(self, chunk: int) -> str:
        return os.path.join(self._directory, chunk_name(chunk))

    def _descriptor(self, chunk: int) -> int | None:
        """Under the lock. None: there is no such chunk (not remembered: the writer may make it any time)."""
        if chunk in self._open:
            self._open.move_to_end(chunk)
            return self._open[chunk]
        try:
            # O_NONBLOCK: a pipe of this name must not hold us up.
            descriptor = os.open(self._path(chunk), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _disk_error("cannot open the log index", error, self._path(chunk)) from error
        if len(self._open) >= _OPEN_CHUNKS_MAX:
            os.close(self._open.popitem(last=False)[1])
        self._open[chunk] = descriptor
        return descriptor


def _slot(data: bytes) -> IndexSlot | None:
    if len(data) < SLOT_BYTES:
        return None
    slot = IndexSlot(*_SLOT.unpack(data))
    # Offset 0 is the segment's header: never used. The others are no numbers that a log could have.
    if slot.offset == 0 or slot.term < 0 or slot.offset > _INT64_MAX or slot.segment_sequence > _INT64_MAX:
        return None
    return slot


# -- rebuilding --------------------------------------------------------------------------------------------------------
def rebuild(directory: str | os.PathLike[str], segments: Iterable[Segment]) -> int:
    """Make the chunks in `directory` anew from the log's segments, in order; how many operations are in them.

    The chunks are on disk, names included, on return; chunks that no operation needs are gone. Replaced operations get
    no slot. Raises the typed error of a damaged segment, InvalidArgument (segments out of order), NotFound, DiskError;
    then the old chunks stay (DiskError: or some new ones are in place; each is right or absent).
    """
    folder = os.fspath(directory)
    _remove_leftovers(folder)
    chunks = _NewChunks(folder)
    try:
        _index_segments(segments, chunks)
        chunks.put_in_place()
    except OSError as error:
        if isinstance(error, DiskError | NotFound):
            raise
        raise _disk_error("cannot rebuild the log index", error, folder) from error
    finally:
        chunks.discard()
    return chunks.live.count


def refresh(directory: str | os.PathLike[str], segments: Iterable[Segment]) -> int:
    """Write the slots of the log's newest segments into the chunks that are there; how many operations have one now.

    For opening after a crash, which may have lost slots of what was written last: older segments need not be read.
    Works in place; not all slots written are synced (a lost one is only missing). Slots of what these segments replace,
    and above their last operation, are gone on return; segments without operations change nothing. Raises as rebuild().
    """
    folder = os.fspath(directory)
    chunks = _ChunksInPlace(folder)
    try:
        _index_segments(segments, chunks)
        if chunks.live.end:
            clear_above(folder, chunks.live.end - 1)
    except OSError as error:
        if isinstance(error, DiskError | NotFound):
            raise
        raise _disk_error("cannot bring the log index up to date", error, folder) from error
    finally:
        chunks.close()
    return chunks.live.count


def _index_segments(segments: Iterable[Segment], chunks: _Chunks) -> None:
    previous: int | None = None
    for segment in segments:
        if previous is not None and segment.sequence <= previous:
            raise InvalidArgument(f"segment {segment.sequence} is listed behind segment {previous}", path=segment.path)
        previous = segment.sequence
        _index_segment(segment, chunks)


def _index_segment(segment: Segment, chunks: _Chunks) -> None:
    collector = SlotCollector(segment.sequence)
    for chunk in segment.scan():
        slots, runs = collector.take(chunk)
        view, at = memoryview(slots), 0
        for first, count in runs:
            chunks.put(first, view[at:at + count * SLOT_BYTES])
            at += count * SLOT_BYTES
        if collector.malformed_offset is not None:
            if segment.malformed_status(collector.malformed_offset) == "torn_tail":
                return
            raise BadFormat("the entry batch passes its checksum but is no LogEntryBatchPB of REPLICATE and COMMIT "
                            "entries", path=segment.path, segment=segment.sequence, offset=collector.malformed_offset)


@dataclass(slots=True)
class _Run:
    first: int
    end: int


class _Live:
    """The operations that count, as runs of indexes that rise and do not touch. A log without damage has one run."""

    def __init__(self) -> None:
        self.runs: list[_Run] = []

    @property
    def end(self) -> int:
        """One above the last operation; 0 when there is none."""
        return self.runs[-1].end if self.runs else 0

    @property
    def count(self) -> int:
        return sum(run.end - run.first for run in self.runs)

    def cut(self, first: int) -> None:
        """Operations from `first` on are replaced."""
        while self.runs and self.runs[-1].first >= first:
            self.runs.pop()
        if self.runs:
            self.runs[-1].end = min(self.runs[-1].end, first)

    def add(self, first: int, end: int) -> None:
        """first >= self.end."""
        if self.runs and self.runs[-1].end == first:
            self.runs[-1].end = end
        else:
            self.runs.append(_Run(first, end))


class _Chunks:
    """Chunks being written. One is open at a time: a log fills one after the other."""

    def __init__(self, folder: str) -> None:
        self.live = _Live()
        self._folder = folder
        self._current: tuple[int, int] | None = None    # (chunk, descriptor)

    def put(self, first: int, slots: memoryview) -> None:
        """Slots of consecutive operations. An operation at or below the last one replaces it and all above it."""
        end = first + len(slots) // SLOT_BYTES
        if first < self.live.end:
            self._cut(first)
        self.live.add(first, end)
        for index, part in _by_chunk(first, slots):
            _write_all(self._open(chunk_of(index)), part, slot_offset(index))

    def close(self) -> None:
        if self._current is not None:
            descriptor = self._current[1]
            self._current = None
            os.close(descriptor)

    def _open(self, chunk: int) -> int:
        if self._current is None or self._current[0] != chunk:
            self.close()
            self._current = (chunk, self._open_file(chunk))
        return self._current[1]

    def _cut(self, first: int) -> None:
        """No slot from `first` on is left."""
        raise NotImplementedError

    def _open_file(self, chunk: int) -> int:
        """A descriptor of the chunk, which is made when it is not there."""
        raise NotImplementedError


class _ChunksInPlace(_Chunks):
    """The log's own chunks."""

    def _cut(self, first: int) -> None:
        self.live.cut(first)
        self.close()
        clear_above(self._folder, first - 1)

    def _open_file(self, chunk: int) -> int:
        path = os.path.join(self._folder, chunk_name(chunk))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(descriptor, CHUNK_BYTES)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class _NewChunks(_Chunks):
    """Chunks being made under temporary names. Each file ends with its last slot until it is put in place."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._paths: dict[int, str] = {}            # chunk -> temporary file

    def put_in_place(self) -> None:
        """Durable on return; chunks of the folder that were not made are removed."""
        self.close()
        for chunk in sorted(self._paths):
            with _opened(self._paths[chunk]) as descriptor:
                os.ftruncate(descriptor, CHUNK_BYTES)
                os.fsync(descriptor)
        unneeded = [chunk for chunk in list_chunks(self._folder) if chunk not in self._paths]
        for chunk in sorted(self._paths):
            os.rename(self._paths[chunk], os.path.join(self._folder, chunk_name(chunk)))
            del self._paths[chunk]
        for chunk in unneeded:
            os.unlink(os.path.join(self._folder, chunk_name(chunk)))
        sync_directory(self._folder)

    def discard(self) -> None:
        """Remove what was not put in place."""
        self.close()
        for path in self._paths.values():
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    def _cut(self, first: int) -> None:
        self.live.cut(first)
        self.close()
        for chunk in [c for c in self._paths if c > chunk_of(first)]:
            os.unlink(self._paths[chunk])
            del self._paths[chunk]
        if chunk_of(first) in self._paths:
            os.ftruncate(self._open(chunk_of(first)), slot_offset(first))

    def _open_file(self, chunk: int) -> int:
        if chunk in self._paths:
            return os.open(self._paths[chunk], os.O_RDWR | os.O_CLOEXEC)
        descriptor, self._paths[chunk] = tempfile.mkstemp(prefix=chunk_name(chunk) + _TEMPORARY_INFIX, dir=self._folder)
        return descriptor


def _by_chunk(first: int, slots: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(first index, slots) of the parts that lie in one chunk each."""
    while slots:
        room = CHUNK_BYTES - slot_offset(first)
        yield first, slots[:room]
        slots = slots[room:]
        first += room // SLOT_BYTES


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


# -- cutting -----------------------------------------------------------------------------------------------------------
def clear_above(directory: str | os.PathLike[str], index: int, disk: Disk | None = None) -> None:
    """No slot above `index` is left, durably: for a log that was truncated. disk: the file system.

    Chunks that lie wholly above it are removed, the last one first. Raises InvalidArgument, NotFound, DiskError.
    """
    if index < 0:
        raise InvalidArgument(f"{index} is no index of an operation: it is negative")
    folder, first = os.fspath(directory), index + 1
    chunks, disk = list_chunks(folder), Disk() if disk is None else disk
    for chunk in reversed([c for c in chunks if c > chunk_of(first)]):
        disk.unlink(os.path.join(folder, chunk_name(chunk)))
    if chunk_of(first) in chunks:
        _clear_chunk_from(os.path.join(folder, chunk_name(chunk_of(first))), slot_offset(first), disk)
    disk.sync_dir(folder)


def _clear_chunk_from(path: str, offset: int, disk: Disk) -> None:
    """Zeros from `offset` on, by giving the space back. A file that a crash leaves cut short reads the same."""
    fd = disk.open(path, os.O_RDWR)
    try:
        if os.fstat(fd).st_size > offset:
            disk.truncate(fd, offset)
        disk.truncate(fd, CHUNK_BYTES)
        disk.sync(fd, path)
    finally:
        disk.close(fd)


def remove_below(directory: str | os.PathLike[str], first_kept_index: int, disk: Disk | None = None) -> list[str]:
    """Remove the chunks without any slot from `first_kept_index` on, as Kudu does after a collection; their names.

    Not synced: a chunk that comes back after a crash only says where things were. Raises NotFound, DiskError.
    """
    folder = os.fspath(directory)
    names = [chunk_name(chunk) for chunk in list_chunks(folder) if chunk < chunk_of(first_kept_index)]
    disk = Disk() if disk is None else disk
    for name in names:
        disk.unlink(os.path.join(folder, name))
    return names


# -- files -------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("there is no log folder here", path=folder) from error
    except OSError as error:
        raise _disk_error("cannot list the log folder", error, folder) from error


def _remove_leftovers(folder: str) -> None:
    """Temporary chunks of a rebuild that a crash ended."""
    for name in _names(folder):
        if name.startswith("index.") and _TEMPORARY_INFIX in name:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _disk_error(what: str, error: OSError, path: str) -> DiskError:
    return DiskError(f"{what}: {error.strerror}", path=path)
