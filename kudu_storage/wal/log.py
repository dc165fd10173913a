"""The public log: append, wait, read, anchor, collect, truncate. Opens files, never sockets.

The hot work is native (log_core.pyx writes, segment.pyx reads); here is what happens per call. Threads may share a Log.
It belongs to the process that opened it. Nothing is acknowledged before it is durable as `durability` says.
"""
from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from kudu_storage._native.disk import Disk
from kudu_storage._native.log_writer import Append, Entry, LogWriter, chunk_entries
from kudu_storage.common.limits import MIB
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.common.sizes import parse_bytes
from kudu_storage.errors import (
    Collected,
    DiskError,
    InternalError,
    InvalidArgument,
    LogClosed,
    LogLocked,
    NoSpace,
    NotFound,
    NotYetWritten,
)
from kudu_storage.protos import message_class
from kudu_storage.wal.anchors import Anchor, AnchorRegistry
from kudu_storage.wal.log_index import IndexReader, clear_above, remove_below
from kudu_storage.wal.log_recovery import Recovered, recover
from kudu_storage.wal.log_truncation import truncate_segments
from kudu_storage.wal.reader import Segment, list_segments, open_segment
from kudu_storage.wal.retention import GcPlan, GcResult, RetentionPolicy, SegmentFacts, plan_gc

if TYPE_CHECKING:
    from kudu_storage.wal.log_waiters import LoopWaiters

LOCK_NAME: Final = ".kudu-storage.lock"
CODECS: Final = {"none": 1, "snappy": 2, "lz4": 3, "zlib": 4}
_DURABILITIES: Final = {"fsync": 0, "os": 1}
SEGMENT_BYTES_MIN: Final = 16 * 1024
SEGMENT_BYTES_MAX: Final = 1024 * MIB


class Log:
    """A write-ahead log in Kudu's format, in one folder. Make it with Log.open()."""

    def __init__(self, path: str, writer: LogWriter, lock_fd: int, recovered: Recovered, settings: dict[str, Any],
                 disk: Disk) -> None:
        self._path = path
        self._writer = writer
        self._lock_fd = lock_fd
        self._disk = disk
        self._settings = settings
        self._recovered = recovered
        self._mutex = threading.RLock()         # guards the list of segments, collection and truncation
        self._segments = list(recovered.segments)       # closed ones that are kept, by sequence
        self._known_sequence = recovered.sequence       # segments up to it were looked at
        self._last_recovered = recovered.last
        self.anchors = AnchorRegistry(floor=self._first_index())
        self._index = IndexReader(path)
        self._waiters: LoopWaiters | None = None
        self._attach(writer)
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_quietly, writer, lock_fd)

    # -- opening -------------------------------------------------------------------------------------------------------
    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False, durability: str = "fsync",
             segment_size: int | str = 8 * MIB, compression: str = "lz4", queue_size: int | str = 4 * MIB,
             cache_size: int | str = 16 * MIB, retention: RetentionPolicy | None = None, tablet_id: str | None = None,
             disk: Disk | None = None) -> Log:
        """Open a log to append and read.

        Args:
            path: its folder.
            create: make folder and log where there is none.
            durability: "fsync" (acknowledged when synced), "os" (when the kernel has it) or "interval:50ms" (as "os",
                and synced that often).
            segment_size: bytes, or text such as "16KiB"; 16 KiB to 1 GiB.
            compression: "lz4", "snappy", "zlib" or "none", for new segments.
            queue_size: bound of what is appended and not written yet; beyond it append raises LogBackpressure.
            cache_size: bound of recent entries kept in memory.
            retention: what gc() keeps.
            tablet_id: 32 hex digits; refuse the log of another tablet. Default: what the folder holds, or a new one.
        Raises:
            NotFound, LogLocked, CorruptionError, InvalidArgument, DiskError.
        """
        folder = os.path.abspath(os.fspath(path))
        settings = _settings(durability, segment_size, compression, queue_size, cache_size)
        settings["retention"] = retention or RetentionPolicy()
        disk = Disk() if disk is None else disk
        _ensure_folder(folder, create, disk)
        lock_fd = _lock(folder, create, disk)
        try:
            recovered = recover(folder, disk, tablet_id=tablet_id.encode() if tablet_id else None)
            settings["tablet_id"] = recovered.tablet_id or (tablet_id or secrets.token_hex(16)).encode()
            writer = _make_writer(folder, recovered, settings, disk)
            return cls(folder, writer, lock_fd, recovered, settings, disk)
        except BaseException:
            os.close(lock_fd)
            raise

    @classmethod
    async def aopen(cls, path: str | os.PathLike[str], **options: Any) -> Log:
        """open() without holding up the event loop. Options as there."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, lambda: cls.open(path, **options))

    def close(self) -> None:
        """Write and sync what is queued, close the segment with its footer, let go of the folder. Once is enough.

        Raises:
            LogPoisoned: a write or sync failed before, so what was queued may not be in the log.
        """
        if self._closed:
            return
        self._closed = True
        self._finalizer.detach()
        try:
            self._writer.close()
        finally:
            self._index.close()
            if self._waiters is not None:
                self._waiters.close()
            os.close(self._lock_fd)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Log:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.close)

    # -- appending -----------------------------------------------------------------------------------------------------
    def append(self, payload: bytes) -> Append:
        """Queue one opaque entry. Returns at once a token: `.wait(timeout=)`, or await it.

        Raises:
            LogBackpressure, LogPoisoned, LogClosed, InvalidArgument.
        """
        return self._writer.append_many([payload])

    def append_many(self, payloads: list[bytes]) -> Append:
        """Queue opaque entries as one batch, acknowledged together. As append()."""
        return self._writer.append_many(payloads)

    def append_replicate(self, *messages: Any) -> Append:
        """Queue operations: kudu.consensus.ReplicateMsg messages with the next indexes, as one batch."""
        return self._append_typed(1, "replicate", messages)

    def append_commit(self, *messages: Any) -> Append:
        """Queue kudu.consensus.CommitMsg messages, as one batch. The token is settled with the entries before it."""
        return self._append_typed(2, "commit", messages)

    def _append_typed(self, kind: int, name: str, messages: tuple[Any, ...]) -> Append:
        batch: Any = message_class("kudu.log.LogEntryBatchPB")()
        for message in messages:
            entry = batch.entry.add()
            entry.type = kind
            getattr(entry, name).MergeFromString(
                message if isinstance(message, bytes) else message.SerializeToString())
        return self._writer.append_entries(batch.SerializeToString())

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was appended so far is acknowledged."""
        self._writer.flush(timeout)

    # -- where it stands -----------------------------------------------------------------------------------------------
    @property
    def path(self) -> str:
        return self._path

    @property
    def term(self) -> int:
        """The term of new entries. It can only be raised."""
        return int(self._writer.term)

    @term.setter
    def term(self, value: int) -> None:
        self._writer.term = value

    @property
    def last(self) -> OpId:
        """Id of the last entry appended, 0.0 for an empty log."""
        return self._opid(int(self._writer.next_index) - 1)

    @property
    def durable(self) -> OpId:
        """Id of the last entry that is synced to disk."""
        return self._opid(int(self._writer.durable_index))

    @property
    def first_index(self) -> int:
        """Index of the first entry that the log still holds; of the next one to come in an empty log."""
        return self._first_index()

    def _opid(self, index: int) -> OpId:
        if index <= 0:
            return MINIMUM_OPID
        if index == self._last_recovered.index:
            return self._last_recovered
        batch = self._writer.cached(index)
        if batch is not None:
            return OpId(batch.term, index)
        for entry in self.read(index, max_bytes=1):
            return OpId(entry.term, entry.index)
        return OpId(self.term, index)

    def _first_index(self) -> int:
        state = self._writer.state
        for facts in self._closed_segments(state["sequence"]):
            if facts.first_index is not None:
                return facts.first_index
        return int(state["segment_first_index"]) or int(state["written_index"]) + 1

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, by name."""
        state = self._writer.state
        segments = self._closed_segments(state["sequence"])
        return {
            "path": self._path, "last": str(self.last), "durable": str(self.durable), "first_index": self.first_index,
            "segments": len(segments) + (1 if state["offset"] else 0),
            "closed_bytes": sum(f.bytes for f in segments), "anchors": len(self.anchors), **state,
        }

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.first_index}..{int(self._writer.next_index) - 1}"
        return f"<Log {self._path!r} {state}, {self._settings['durability_text']}, {self._settings['compression']}>"

    # -- reading -------------------------------------------------------------------------------------------------------
    def read(self, from_index: int | None = None, max_bytes: int | str | None = None) -> Iterator[Entry]:
        """The entries from `from_index` (default: the first) to the end as of this call, or about max_bytes of them.

        Recent ones come from the cache, others from disk; payloads are not copied. From last+1 there is nothing.

        Raises:
            Collected: below the first entry kept. NotYetWritten: above last+1. InvalidArgument: negative.
        """
        self._require_open()
        state = self._writer.state
        end, start = state["written_index"], self._start(from_index, state["written_index"])
        limit = None if max_bytes is None else parse_bytes(max_bytes)
        return self._read(start, end, limit)

    def tail(self, from_index: int | None = None, timeout: float | None = None) -> Iterator[Entry]:
        """read() that goes on with what is appended later, as it is acknowledged.

        Args:
            timeout: seconds to wait for the next entry; None: for ever. Ends quietly when it passes.
        """
        from kudu_storage.errors import WaitTimeout

        index = self._start(from_index, self._writer.written_index)
        while True:
            try:
                self._writer.wait_written(index, timeout)
                for entry in self.read(index):
                    yield entry
                    index = entry.index + 1
            except WaitTimeout:
                return
            except LogClosed:
                if self._closed:
                    return
                with self._mutex:       # until the truncation that closed the writer has made another
                    pass
            except NotYetWritten:
                pass                    # truncated meanwhile: it goes on with what comes at this index
            except Collected:
                if index <= self._writer.written_index:
                    raise

    def _start(self, from_index: int | None, written: int) -> int:
        first = self.first_index
        if from_index is None:
            return first
        if from_index < 0:
            raise InvalidArgument(f"index {from_index} is negative")
        # Index 0 is the empty operation before the first one: reading from it is reading from the log's beginning.
        if from_index < first and not (from_index == 0 and first == 1):
            raise Collected(f"index {from_index} is below the first one kept, {first}", path=self._path)
        if from_index > written + 1:
            raise NotYetWritten(f"index {from_index} is above the last one, {written}", path=self._path)
        return max(from_index, 1)

    def _read(self, index: int, end: int, limit: int | None) -> Iterator[Entry]:
        taken = 0
        while index <= end:
            batch = self._writer.cached(index)
            entries = iter(batch.entries(index)) if batch is not None else self._read_disk(index, end)
            before = index
            for entry in entries:
                if entry.index > end:
                    return
                yield entry
                index = entry.index + 1
                taken += len(entry)
                if limit is not None and taken >= limit:
                    return
            if index == before:
                raise Collected(f"index {index} is not in the log any more", path=self._path,
                                advice="it was collected or truncated while it was read")

    def _read_disk(self, index: int, end: int) -> Iterator[Entry]:
        """Entries from `index` on, of the one segment that holds it."""
        segment, offset = self._locate(index)
        with segment:
            scanner = segment.scanner(offset)
            target = 1 << 16 if offset is not None else 1 << 20
            while (chunk := scanner.next_chunk(target)) is not None:
                entries = chunk_entries(chunk, index)
                yield from entries
                if entries and entries[-1].index >= end:
                    return
                target = 1 << 20
            error = segment.error_of(scanner)
            if error is not None:
                raise error

    def _locate(self, index: int) -> tuple[Segment, int | None]:
        """The segment that holds `index`, open, and the offset of its batch if the index tells."""
        slot = self._index.lookup(index)
        if slot is not None:
            try:
                segment = self._open_segment(slot.segment_sequence)
            except NotFound:
                pass
            else:
                if segment.first_offset <= slot.offset < segment.end_offset and _is_entry(segment, slot.offset, index):
                    return segment, slot.offset
                segment.close()         # a hint that was wrong
        state = self._writer.state
        for facts in reversed(self._closed_segments(state["sequence"])):
            if facts.first_index is not None and facts.first_index <= index:
                if facts.last_index is not None and index <= facts.last_index:
                    return self._open_segment(facts.sequence), None
                break
        return self._open_segment(state["sequence"]), None

    def _open_segment(self, sequence: int) -> Segment:
        """Open a segment to read. Of the one being written only what is acknowledged is seen."""
        state = self._writer.state
        segment = open_segment(self._segment_path(sequence))
        if sequence == state["sequence"] and not segment.closed:
            segment.end_offset = segment.file_size = state["offset"]
        return segment

    def _segment_path(self, sequence: int) -> str:
        return os.path.join(self._path, f"wal-{sequence:09d}")

    def _closed_segments(self, open_sequence: int) -> list[SegmentFacts]:
        """What is known of the segments before the open one; those that were closed since are looked at once."""
        with self._mutex:
            for sequence in range(self._known_sequence + 1, open_sequence):
                with open_segment(self._segment_path(sequence)) as segment:
                    footer = segment.footer
                    if footer is None:
                        raise InternalError("a segment before the open one has no footer", path=segment.path)
                    has = footer.HasField("min_replicate_index")
                    self._segments.append(SegmentFacts(
                        sequence, footer.min_replicate_index if has else None,
                        footer.max_replicate_index if has else None, segment.file_size, footer.close_timestamp_micros))
                self._known_sequence = sequence
            return list(self._segments)

    # -- keeping and collecting ----------------------------------------------------------------------------------------
    def anchor(self, index: int, owner: str) -> Anchor:
        """Keep entries from `index` on until the anchor is released; a context manager."""
        return self.anchors.register(index, owner)

    def gc(self) -> GcResult:
        """Remove the segments that nothing needs, oldest first, and say what blocks the rest."""
        self._require_open()
        with self._mutex:
            state = self._writer.state
            facts = self._closed_segments(state["sequence"])
            written = state["written_index"]
            first = state["segment_first_index"] or None
            now = SegmentFacts(state["sequence"], first, written if first else None, state["offset"], None, True)
            segments = [*facts, now] if state["offset"] else facts
            # What must not go is what a restart would need to know the log's end; "os" promises nothing about that.
            plan = self._plan(segments, written if self._settings["durability"] == 1 else state["durable_index"])
            for sequence in plan.remove:
                self._disk.unlink(self._segment_path(sequence))
                self._segments = [f for f in self._segments if f.sequence != sequence]
                # One by one: a crash must not bring back an older segment when a younger one is gone.
                self._disk.sync_dir(self._path)
            if plan.remove and plan.first_kept_index is not None:
                remove_below(self._path, plan.first_kept_index)
                self._index.invalidate()
            return GcResult(len(plan.remove), plan.bytes, plan.blocked_by, plan.keep)

    def _plan(self, segments: list[SegmentFacts], durable: int) -> GcPlan:
        """A plan that no anchor can be registered against any more."""
        while True:
            plan = plan_gc(segments, anchors=self.anchors.holders(), durable_index=durable,
                           now_micros=time.time_ns() // 1000, policy=self._settings["retention"])
            if not plan.remove or plan.first_kept_index is None:
                return plan
            if self.anchors.raise_floor(plan.first_kept_index) is None:
                return plan

    def truncate_after(self, index: int) -> None:
        """Remove all entries above `index`, durably on return; the next entry gets index + 1.

        Raises:
            Collected: below the first entry kept - 1. NotYetWritten: above the last one. NoSpace: some entries above
            `index` may still be there, and the log goes on behind `last`. LogPoisoned: reopen it.
        """
        self._require_open()
        with self._mutex:
            self._writer.flush()
            state = self._writer.state
            if index > state["written_index"]:
                raise NotYetWritten(f"index {index} is above the last one, {state['written_index']}", path=self._path)
            if index < self.first_index - 1 or index < 0:
                raise Collected(f"index {index} is below what the log holds", path=self._path)
            if index == state["written_index"]:
                return
            try:
                self._cut(index)
            except BaseException as error:
                self._go_on_after(error)
                raise

    def _cut(self, index: int) -> None:
        self._writer.close()
        sequences = [file.sequence for file in list_segments(self._path) if file.sequence is not None]
        last = truncate_segments(self._path, sequences, index, self._disk)
        clear_above(self._path, index)
        self._index.invalidate()
        self._begin_again(index, last)

    def _begin_again(self, last_index: int | None = None, last: OpId | None = None) -> None:
        """A new writer behind what the files hold now. last_index: of a log that may be empty."""
        self._recovered = recover(self._path, self._disk)
        self._segments = list(self._recovered.segments)
        self._known_sequence = self._recovered.sequence
        self._last_recovered = last if last is not None else self._recovered.last
        self._replace_writer(self._recovered.last.index if last_index is None else last_index)

    def _go_on_after(self, error: BaseException) -> None:
        """A truncation failed. For want of space the log goes on with what it holds; else it is poisoned."""
        number = getattr(error, "errno", None)
        try:
            if isinstance(error, NoSpace) or number in (errno.ENOSPC, errno.EDQUOT):
                self._begin_again()
                if not isinstance(error, NoSpace):
                    raise NoSpace("no space to truncate the log", path=self._path,
                                  intact=f"it ends at index {self._recovered.last.index}",
                                  advice="free space and truncate again") from error
                return
        except DiskError as again:
            number = again.errno
        self._writer.poison(number or errno.EIO)
        if isinstance(error, DiskError):
            raise self._writer.poisoned() from error

    def _replace_writer(self, last_index: int) -> None:
        recovered = self._recovered
        base = OpId(max(self._last_recovered.term, int(self._writer.term)), last_index)
        end = Recovered(recovered.segments, base, recovered.tablet_id, recovered.sequence, 0)
        writer = _make_writer(self._path, end, self._settings, self._disk)
        self._finalizer.detach()
        self._writer = writer
        self._finalizer = weakref.finalize(self, _close_quietly, writer, self._lock_fd)
        self._attach(writer)
        if self._waiters is not None:
            self._waiters.attach(writer)

    def _attach(self, writer: LogWriter) -> None:
        """Let the writer make its waiters when the first token is awaited. It must not keep this object alive."""
        me = weakref.ref(self)

        def make_waiters(waited_on: LogWriter) -> None:
            from kudu_storage.wal.log_waiters import LoopWaiters

            waiters = LoopWaiters(waited_on)
            log = me()
            if log is not None:
                log._waiters = waiters

        writer.waiter_factory = make_waiters

    def _require_open(self) -> None:
        if self._closed:
            raise LogClosed("the log is closed", path=self._path)


# -- pieces ------------------------------------------------------------------------------------------------------------
def _settings(durability: str, segment_size: int | str, compression: str, queue_size: int | str,
              cache_size: int | str) -> dict[str, Any]:
    mode, interval = _durability(durability)
    if compression not in CODECS:
        raise InvalidArgument(f"there is no compression {compression!r}", advice=", ".join(CODECS))
    size = parse_bytes(segment_size)
    if not SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX:
        raise InvalidArgument(f"segment_size of {size} bytes is not within {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}")
    return {"durability": mode, "interval_s": interval, "durability_text": durability, "segment_bytes": size,
            "compression": compression, "codec": CODECS[compression], "queued_bytes_max": parse_bytes(queue_size),
            "cache_bytes_max": parse_bytes(cache_size)}


def _durability(text: str) -> tuple[int, float]:
    if text in _DURABILITIES:
        return _DURABILITIES[text], 0.0
    name, _, interval = text.partition(":")
    if name == "interval":
        for suffix, factor in (("ms", 1e-3), ("s", 1.0)):
            number = interval.removesuffix(suffix)
            if number != interval and number.replace(".", "", 1).isdecimal() and float(number) > 0:
                return 2, float(number) * factor
    raise InvalidArgument(f"there is no durability {text!r}", advice='"fsync", "os" or "interval:50ms"')


def _make_writer(folder: str, recovered: Recovered, settings: dict[str, Any], disk: Disk) -> LogWriter:
    before, after = _header_parts(settings["tablet_id"], settings["codec"])
    return LogWriter(folder, header_before=before, header_after=after, codec=settings["codec"],
                     durability=settings["durability"], interval_s=settings["interval_s"],
                     segment_bytes=settings["segment_bytes"], queued_bytes_max=settings["queued_bytes_max"],
                     cache_bytes_max=settings["cache_bytes_max"], sequence=recovered.sequence,
                     term=max(recovered.last.term, 1), next_index=recovered.last.index + 1, disk=disk)


def _header_parts(tablet_id: bytes, codec: int) -> tuple[bytes, bytes]:
    """LogSegmentHeaderPB before and after its sequence number. The schema is the least that a tablet can have: a log of
    opaque entries has no rows."""
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")()
    before: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=tablet_id)
    column = header.schema.columns.add(id=10, name="index", type=7, is_key=True)
    column.is_nullable = False
    header.schema_version = 0
    if codec > 1:
        header.compression_codec = codec
    return before.SerializePartialToString(), header.SerializePartialToString()


def _ensure_folder(folder: str, create: bool, disk: Disk) -> None:
    if os.path.isdir(folder):
        return
    if os.path.exists(folder):
        raise InvalidArgument("this is a file, a log is a folder", path=folder)
    if not create:
        raise NotFound("there is no such folder", path=folder, advice="create=True makes it")
    missing = []
    parent = folder
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the log's folder: {error.strerror}", path=folder) from error
    for made in reversed(missing):
        disk.sync_dir(os.path.dirname(made))


def _lock(folder: str, create: bool, disk: Disk) -> int:
    """One writer a folder, across processes and within one. The lock goes with the descriptor.

    The file stays: it says that there is a log here, even without a segment (nothing appended yet, or all truncated).
    """
    name = os.path.join(folder, LOCK_NAME)
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        there = os.path.exists(name)
        if not there and not create and not list_segments(folder):
            raise NotFound("there is no log in this folder", path=folder, advice="create=True makes one")
        fd = os.open(name, flags if there else flags | os.O_CREAT, 0o644)
    except OSError as error:
        if isinstance(error, NotFound):
            raise
        raise DiskError(f"cannot open the log's folder for writing: {error.strerror}", path=folder) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not there:
            disk.sync_dir(folder)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise LogLocked("the log is open for writing elsewhere", path=folder,
                            advice="close it there, or read it with kudu-storage wal") from error
        raise
    return fd


def _is_entry(segment: Segment, offset: int, index: int) -> bool:
    """Whether the batch at `offset` holds operation `index`: the dense index is only a hint."""
    from kudu_storage.errors import CorruptionError

    try:
        entries = chunk_entries(segment.batch_at(offset), 1)
    except CorruptionError:
        return False
    return bool(entries) and entries[0].index <= index <= entries[-1].index


def _close_quietly(writer: LogWriter, lock_fd: int) -> None:
    """For logs that nobody closed: at the interpreter's exit, or when the last reference went."""
    from kudu_storage.errors import KuduStorageError

    try:
        writer.close()
    except KuduStorageError:
        pass        # whoever waited for these entries was told
    finally:
        os.close(lock_fd)
