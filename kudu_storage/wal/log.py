"""The public log: append, wait, read, anchor, collect, truncate. Opens files, never sockets.

The hot work is native (log_core.pyx writes, segment.pyx reads); here is what happens per call. Threads may share a Log.
It belongs to the process that opened it. Nothing is acknowledged before it is durable as `durability` says.
"""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kudu_storage._native.disk import Disk
from kudu_storage._native.log_entries import Entry, EntryIterator
from kudu_storage._native.log_voids import Voids
from kudu_storage._native.log_writer import Append, LogAppender, LogWriter
from kudu_storage.common import types
from kudu_storage.common.limits import MIB, SEGMENT_HEADER_BYTES_MAX
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.sizes import parse_bytes, whole_number
from kudu_storage.errors import (
    BadFormat,
    Collected,
    DiskError,
    InternalError,
    InvalidArgument,
    KuduStorageError,
    LogClosed,
    LogLocked,
    NoSpace,
    NotFound,
    NotYetWritten,
    WaitTimeout,
    WrongType,
)
from kudu_storage.protos import message_class
from kudu_storage.wal.anchors import Anchor, AnchorRegistry
from kudu_storage.wal.log_batches import Part, entry_bytes, read_batches
from kudu_storage.wal.log_index import clear_above, remove_below
from kudu_storage.wal.log_reading import LogReading, Source
from kudu_storage.wal.log_recovery import Recovered, recover, sync_file
from kudu_storage.wal.log_truncation import truncate_segments
from kudu_storage.wal.reader import list_segments, open_segment
from kudu_storage.wal.retention import GcPlan, GcResult, RetentionPolicy, SegmentFacts, plan_gc

if TYPE_CHECKING:
    from kudu_storage.wal.log_waiters import LoopWaiters

LOCK_NAME: Final = ".kudu-storage.lock"
CODECS: Final = {"none": 1, "snappy": 2, "lz4": 3, "zlib": 4}
_DURABILITIES: Final = {"fsync": 0, "os": 1}
_SEQUENCE_BYTES_MAX: Final = 11
_TABLET_ID_CHARACTERS_MAX: Final = 256
_T = TypeVar("_T")
_SCHEMA_VERSION_MAX: Final = (1 << 32) - 1
# What the system takes, less the longest name in a log's folder.
_PATH_BYTES_MAX: Final = 4095 - 64
_INDEX_MAX: Final = (1 << 62)
_MEMORY_MAX: Final = 1 << 47
_INTERVAL_MAX_S: Final = 86_400.0
SEGMENT_BYTES_MIN: Final = 16 * 1024
SEGMENT_BYTES_MAX: Final = 1024 * MIB



class Log(LogAppender):
    """A write-ahead log in Kudu's format, in one folder. Make it with Log.open(); LogAppender has append()."""

    def __init__(self, path: str, writer: LogWriter, lock_fd: int, recovered: Recovered, settings: dict[str, Any],
                 disk: Disk) -> None:
        self._path = path
        self._pid = os.getpid()
        self._writer = writer
        self._lock_fd = lock_fd
        self._disk = disk
        self._settings = settings
        self._recovered = recovered
        self._mutex = threading.RLock()         # guards the list of segments, collection and truncation
        self._segments = list(recovered.segments)       # closed ones that are kept, by sequence
        self._known_sequence = recovered.sequence       # segments up to it were looked at
        self._reading = LogReading(path, writer, self._mutex)
        self._find = self._reading.find                 # of closed segments, those that were asked before
        self.anchors = AnchorRegistry(floor=self._first_index())
        self._waiters: LoopWaiters | None = None
        self._waiters_mutex = threading.RLock()         # guards making them, and which writer they serve
        self._attach(writer)
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_quietly, writer, lock_fd, self._pid)

    # -- opening -------------------------------------------------------------------------------------------------------
    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False, durability: str = "fsync",
             segment_size: int | str = 8 * MIB, compression: str = "lz4", queue_size: int | str = 4 * MIB,
             cache_size: int | str = 16 * MIB, retention: RetentionPolicy | None = None, tablet_id: str | None = None,
             schema: Schema | None = None, schema_version: int = 0, begin: OpId | None = None,
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
            schema, schema_version: of the tablet's rows, with column ids, for the headers of new segments. Default:
                what the last segment says; of a new log, one that suits opaque entries.
            begin: the operation behind which a log without any begins (of a snapshot, say). It is not kept
                before there is an entry. Default: 0.0.
        Raises:
            NotFound, LogLocked, CorruptionError, InvalidArgument, DiskError.
        """
        folder = _folder(path)
        settings = _settings(durability, segment_size, compression, queue_size, cache_size)
        _check_types(tablet_id=(tablet_id, str), retention=(retention, RetentionPolicy), schema=(schema, Schema),
                     disk=(disk, Disk))
        if tablet_id is not None and not (tablet_id.isascii() and tablet_id.isprintable()
                                          and 0 < len(tablet_id) <= _TABLET_ID_CHARACTERS_MAX):
            raise InvalidArgument("that is no tablet's id", advice="32 hex digits")
        header_schema = _header_schema(schema or _opaque_schema(), schema_version)
        settings["retention"] = retention or RetentionPolicy()
        disk = Disk() if disk is None else disk
        _ensure_folder(folder, create, disk)
        lock_fd = _lock(folder, create, disk)
        try:
            recovered = recover(folder, disk, tablet_id=tablet_id.encode() if tablet_id else None)
            if begin is not None and recovered.last.index == 0:
                if not 0 <= begin.index < _INDEX_MAX - 1:
                    raise InvalidArgument(f"a log cannot begin behind operation {begin}", path=folder)
                recovered = dataclasses.replace(recovered, last=begin)
            if recovered.last.index >= _INDEX_MAX:
                raise InvalidArgument(f"operation {recovered.last} has the last index there is", path=folder)
            settings["tablet_id"] = recovered.tablet_id or (tablet_id or secrets.token_hex(16)).encode()
            settings["schema"] = recovered.schema if schema is None and recovered.schema is not None \
                else header_schema
            writer = _make_writer(folder, recovered, settings, disk, Voids())
            return cls(folder, writer, lock_fd, recovered, settings, disk)
        except BaseException:
            _unlock(lock_fd, os.getpid())
            raise

    @classmethod
    async def aopen(cls, path: str | os.PathLike[str], **options: Any) -> Log:
        """open() without holding up the event loop. Options as there."""
        return await aside(lambda: cls.open(path, **options))

    def close(self) -> None:
        """Write and sync what is queued, close the segment with its footer, let go of the folder. Once is enough.

        Raises:
            LogPoisoned: a write or sync failed before, so what was queued may not be in the log.
        """
        # Not while another thread cuts or collects: the folder's lock would go under its feet. In a child of a fork
        # that thread does not live, and may hold the mutex for ever.
        with self._mutex if os.getpid() == self._pid else contextlib.nullcontext():
            if self._closed:
                return
            self._closed = True
            self._finalizer.detach()
            try:
                self._writer.close()
            finally:
                self._reading.close()
                if self._waiters is not None:
                    self._waiters.close()
                _unlock(self._lock_fd, self._pid)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a log cannot be copied nor pickled: it owns its folder")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Log:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await aside(self.close)

    # -- appending -----------------------------------------------------------------------------------------------------
    def append_replicate(self, *messages: Any, replace: bool = False) -> Append:
        """Queue operations as one batch: kudu.consensus.ReplicateMsg messages, or their bytes, with the next indexes.

        Args:
            replace: the first may have an index that the log has already: then that operation and all above it are
                replaced. Their entries stay in the files and are not read any more once what replaces them is
                written; should that fail for want of space, they are as before.
        """
        return self._append_typed(1, messages, replace)

    def append_commit(self, *messages: Any) -> Append:
        """Queue kudu.consensus.CommitMsg messages, or their bytes, as one batch. The token names the last operation."""
        return self._append_typed(2, messages, False)

    def _append_typed(self, kind: int, messages: tuple[Any, ...], replace: bool) -> Append:
        # An operation is encoded once: bytes are wrapped as they are, and checked by the writer.
        return self.append_entries(b"".join(
            entry_bytes(kind, message if isinstance(message, bytes) else _serialised(message))
            for message in messages), replace=replace)

    def append_entries(self, batch: bytes, *, replace: bool = False) -> Append:
        """Queue a serialised LogEntryBatchPB: REPLICATEs, as append_replicate() does, or COMMITs."""
        return self._writer.append_entries(batch, replace=replace)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was appended so far is acknowledged."""
        self._writer.flush(timeout)

    def sync(self) -> None:
        """Make durable all that is acknowledged, whatever the log's durability promises.

        Raises DiskError, LogClosed.
        """
        if self._settings["durability"] == _DURABILITIES["fsync"]:
            return                          # it is
        with self._mutex:
            self._require_open()
            for segment in list_segments(self._path):
                sync_file(segment.path, self._disk)
            self._disk.sync_dir(self._path)

    @property
    def writer(self) -> LogWriter:
        """The writing half, for who drives it himself. truncate_after() makes another one."""
        return self._writer

    def set_schema(self, schema: Schema, version: int) -> None:
        """What the headers of segments say that are begun from now on: the tablet's rows have other columns.

        Raises InvalidArgument for a schema that no header holds, LogClosed, LogPoisoned.
        """
        header_schema = _header_schema(schema, version)
        _, after = _header_parts(self._settings["tablet_id"], self._settings["codec"], header_schema)
        with self._mutex:
            self._require_open()
            self._writer.set_header(after)
            self._settings["schema"] = header_schema

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
        value = whole_number(value, "a term")
        if value > _INDEX_MAX:
            raise InvalidArgument(f"term {value} is above all that a log can have")
        self._require_open()
        self._writer.term = value

    @property
    def last(self) -> OpId:
        """Id of the last entry appended, 0.0 for an empty log."""
        return self._writer.last

    @property
    def durable(self) -> OpId:
        """Id of the last entry that is synced to disk."""
        return self._writer.durable

    @property
    def first_index(self) -> int:
        """Index of the first entry that the log still holds; of the next one to come in an empty log."""
        return self._first_index()

    def _first_index(self) -> int:
        state, segments = self._view()
        # Not simply the first segment's: what Raft replaced may have reached higher than what replaced it.
        first = min((f.first_index for f in segments if f.first_index is not None), default=None)
        return int(state["written_index"]) + 1 if first is None else first

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, by name."""
        state, segments = self._view()
        return {
            "path": self._path, "last": str(self.last), "durable": str(self.durable), "first_index": self.first_index,
            "segments": len(segments), "cut_bytes": self._recovered.cut_bytes,
            "closed_bytes": sum(f.bytes for f in segments if not f.is_open), "anchors": len(self.anchors), **state,
        }

    def __repr__(self) -> str:
        try:
            state = "closed" if self._closed else f"{self.first_index}..{int(self._writer.next_index) - 1}"
        except KuduStorageError:        # a child of a fork, a folder that vanished
            state = "not usable"
        return f"<Log {self._path!r} {state}, {self._settings['durability_text']}, {self._settings['compression']}>"

    # -- reading -------------------------------------------------------------------------------------------------------
    def read(self, from_index: int | None = None, max_bytes: int | str | None = None) -> Iterator[Entry]:
        """The entries from `from_index` (default: the first) to the end as of this call, or about max_bytes of them.

        Recent ones come from the cache, others from disk; payloads are not copied. From last+1 there is nothing.

        One thread at a time may use an iterator.

        Raises:
            Collected: below the first entry kept. NotYetWritten: above last+1. InvalidArgument: negative. LogClosed.
            While iterating: Collected: collected before it was read. NotYetWritten: entries that were given are
            truncated by now, so that the rest would be of another history. MissingOperations: the log jumps over some.
            CorruptionError, DiskError.
        """
        return EntryIterator(*self._range(from_index, max_bytes))

    def payloads(self, from_index: int | None = None, max_bytes: int | str | None = None) -> Iterator[bytes]:
        """As read(), each entry only as the bytes of its payload: at a third of the cost."""
        return EntryIterator(*self._range(from_index, max_bytes), as_bytes=True)

    def read_batches(self, first: int, last: int, max_bytes: int) -> list[Part]:
        """The acknowledged operations `first` to `last`, or about max_bytes of them, as serialised batches.

        Raises as iterating over read() does.
        """
        self._require_open()
        return read_batches(self._reading.source(self._view), first, last, max_bytes)

    def get(self, index: int) -> Entry:
        """The entry with this index. As read() for one, and much faster when it is on disk.

        Raises:
            Collected: below the first entry kept. NotYetWritten: above the last one. InvalidArgument: not positive.
        """
        if type(index) is not int:
            index = whole_number(index, "the index of an entry")
        try:
            entry = self._find(index)
        except OverflowError:
            entry = None                # below or above all that a log can have
        if entry is not None:
            return entry
        self._require_open()
        written = self._writer.written_index
        if index > written:
            raise NotYetWritten(f"index {index} is above the last one, {written}", path=self._path)
        if index < 1:
            raise InvalidArgument(f"{index} is no index of an entry")
        return self._reading.get(self._start(index, written), self._view)

    def _range(self, from_index: int | None, max_bytes: int | str | None) -> tuple[Source, int, int, int | None]:
        self._require_open()
        end = self._writer.written_index
        start = self._start(from_index, end)
        return self._reading.source(self._view), start, end, None if max_bytes is None else parse_bytes(max_bytes)

    def tail(self, from_index: int | None = None, timeout: float | None = None) -> Iterator[Entry]:
        """read() that goes on with what is appended later, as it is acknowledged.

        Args:
            timeout: seconds to wait for the next entry; None: for ever. Ends quietly when it passes, or when the log is
                closed.
        Raises:
            As read(); NotYetWritten: what was read already was truncated or replaced. LogPoisoned.
        """
        self._require_open()
        voids = self._reading.voids.count       # of before: what becomes void from here on is noticed
        index = self._start(from_index, self._writer.written_index)
        while True:
            writer = self._writer
            voids = self._reading.check_follows(index, voids)
            try:
                writer.wait_written(index, timeout)
            except WaitTimeout:
                return
            except LogClosed:
                with self._mutex:       # until a truncation, if it was one, has made another writer
                    if writer is self._writer:
                        return
                continue
            try:
                self._require_open()
                end = self._writer.written_index
                start = self._start(index, end)
            except NotYetWritten:
                continue                # truncated meanwhile
            except Collected:
                if index <= self._writer.written_index:
                    raise
                continue
            entries: Iterator[Entry] = EntryIterator(self._reading.source(self._view, voids), start, end)
            try:
                for entry in entries:
                    yield entry
                    index = entry.index + 1
            except Collected:
                voids = self._reading.check_follows(index, voids)
                if index <= self._writer.written_index:
                    raise

    def _start(self, from_index: int | None, written: int) -> int:
        first = self.first_index
        if from_index is None:
            return first
        from_index = whole_number(from_index, "the index of an entry")
        if from_index < 0:
            raise InvalidArgument(f"index {from_index} is negative")
        # Index 0 is the empty operation before the first one: reading from it is reading from the log's beginning.
        if from_index < first and not (from_index == 0 and first == 1):
            raise Collected(f"index {from_index} is below the first one kept, {first}", path=self._path)
        if from_index > written + 1:
            raise NotYetWritten(f"index {from_index} is above the last one, {written}", path=self._path)
        return max(from_index, 1)

    def _view(self) -> tuple[dict[str, Any], list[SegmentFacts]]:
        """The writer's state, and all segments as of then: those closed since the last call are looked at once."""
        self._require_own()
        with self._mutex:
            state = self._writer.state
            last = state["sequence"] - 1 if state["open"] else state["sequence"]
            for sequence in range(self._known_sequence + 1, last + 1):
                self._segments.append(self._closed_facts(sequence))
                self._known_sequence = sequence
            segments = list(self._segments)
        if state["open"]:
            first = state["segment_first_index"] or None
            # Of an operation above the last one nobody asks, so the last one will do for what it replaced too.
            written = state["written_index"] if first else None
            segments.append(SegmentFacts(state["sequence"], first, written, state["offset"], None, True))
        return state, segments

    def _closed_facts(self, sequence: int) -> SegmentFacts:
        with open_segment(self._reading.path_of(sequence)) as segment:
            footer = segment.footer
            if footer is None:
                raise InternalError("a segment before the open one has no footer", path=segment.path)
            has = footer.HasField("min_replicate_index")
            return SegmentFacts(sequence, footer.min_replicate_index if has else None,
                                footer.max_replicate_index if has else None, segment.file_size,
                                footer.close_timestamp_micros)

    # -- keeping and collecting ----------------------------------------------------------------------------------------
    def anchor(self, index: int, owner: str) -> Anchor:
        """Keep entries from `index` on until the anchor is released; a context manager."""
        self._require_open()
        return self.anchors.register(index, owner)

    def gc(self) -> GcResult:
        """Remove the segments that nothing needs, oldest first, and say what blocks the rest.

        Raises:
            DiskError: a segment could not be removed; those before it are. LogPoisoned: reopen it. LogClosed.
        """
        self._require_open()
        with self._mutex:
            self._require_open()
            state, segments = self._view()
            plan = self._plan(segments, self._end_index(state))
            try:
                for sequence in plan.remove:
                    self._remove(sequence)
                if plan.remove and plan.first_kept_index is not None:
                    remove_below(self._path, plan.first_kept_index, self._disk)
            finally:
                if plan.remove and plan.first_kept_index is not None:
                    self._reading.collected(plan.first_kept_index)
            return GcResult(len(plan.remove), plan.bytes, plan.blocked_by, plan.keep)

    def gc_plan(self) -> GcPlan:
        """What gc() would do now, and who keeps the rest. Nothing is promised: an anchor may come before it."""
        with self._mutex:
            self._require_open()
            state, segments = self._view()
        return self._plan_of(segments, self._end_index(state))

    def _end_index(self, state: dict[str, Any]) -> int:
        """What must not go is what a restart would need to know the log's end; "os" promises nothing about that."""
        return int(state["written_index"] if self._settings["durability"] == 1 else state["durable_index"])

    def bytes_from(self, indexes: Sequence[int]) -> list[int]:
        """For each index the bytes of the segments from the one on that holds it: what an anchor there keeps."""
        _, segments = self._view()
        return [sum(f.bytes for f in segments if f.is_open or f.last_index is None or f.last_index >= index)
                for index in indexes]

    def _remove(self, sequence: int) -> None:
        self._disk.unlink(self._reading.path_of(sequence))
        self._segments = [f for f in self._segments if f.sequence != sequence]
        try:
            # One by one: a crash must not bring back an older segment when a younger one is gone.
            self._disk.sync_dir(self._path)
        except DiskError as error:
            self._writer.poison(error.errno or errno.EIO)
            raise self._writer.poisoned() from error

    def _plan(self, segments: list[SegmentFacts], durable: int) -> GcPlan:
        """A plan that no anchor can be registered against any more."""
        while True:
            plan = self._plan_of(segments, durable)
            if not plan.remove or plan.first_kept_index is None:
                return plan
            if self.anchors.raise_floor(plan.first_kept_index) is None:
                return plan

    def _plan_of(self, segments: list[SegmentFacts], durable: int) -> GcPlan:
        return plan_gc(segments, anchors=self.anchors.holders(), durable_index=durable,
                       now_micros=time.time_ns() // 1000, policy=self._settings["retention"])

    def truncate_after(self, index: int) -> None:
        """Remove all entries above `index`, durably on return; the next entry gets index + 1.

        Raises:
            Collected: below the first entry kept - 1. NotYetWritten: above the last one. NoSpace: some entries above
            `index` may still be there, and the log goes on behind `last`. LogPoisoned: reopen it.
        """
        index = whole_number(index, "the index of an entry")
        self._require_open()
        with self._mutex:
            self._require_open()
            self._writer.flush()
            state = self._writer.state
            first = self.first_index
            if index > state["written_index"]:
                raise NotYetWritten(f"index {index} is above the last one, {state['written_index']}", path=self._path)
            if index < 0:
                raise InvalidArgument(f"index {index} is negative")
            # Without its last operation kept, a log would not know after reopening where it goes on.
            if index < first and not (index == 0 and first == 1):
                raise Collected(f"index {index} is below the first one kept, {first}", path=self._path)
            if index == state["written_index"]:
                return
            # Who reads meanwhile is told now, and who is told now and reads on before all is cut is told again.
            self._reading.voids.add(index)
            try:
                self._cut(index)
            except BaseException as error:
                self._go_on_after(error)
                raise
            finally:
                self._reading.voids.add(index)

    def _cut(self, index: int) -> None:
        self._writer.close()
        truncate_segments(self._path, index, self._disk)
        clear_above(self._path, index, self._disk)
        self._begin_again()

    def _begin_again(self) -> None:
        """A new writer behind what the files hold now."""
        self._reading.truncated()
        self._recovered = recover(self._path, self._disk)
        self._segments = list(self._recovered.segments)
        self._known_sequence = self._recovered.sequence
        self._replace_writer()

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
        except NoSpace:
            raise
        except DiskError as again:
            number = again.errno
        except Exception:
            self._writer.poison(errno.EIO)
            raise
        self._writer.poison(number or errno.EIO)
        if isinstance(error, OSError):
            raise self._writer.poisoned() from error

    def _replace_writer(self) -> None:
        end = dataclasses.replace(self._recovered, last_timestamp=int(self._writer.last_timestamp))
        writer = _make_writer(self._path, end, self._settings, self._disk, self._reading.voids, int(self._writer.term))
        self._finalizer.detach()
        self._writer = self._reading.writer = writer
        self._finalizer = weakref.finalize(self, _close_quietly, writer, self._lock_fd, self._pid)
        self._attach(writer)
        with self._waiters_mutex:
            if self._waiters is not None:
                self._waiters.attach(writer)

    def _attach(self, writer: LogWriter) -> None:
        """Let the writer make its waiters when the first token is awaited. It must not keep this object alive."""
        me = weakref.ref(self)

        def make_waiters(waited_on: LogWriter) -> None:
            from kudu_storage.wal.log_waiters import LoopWaiters

            log = me()
            if log is None:
                LoopWaiters(waited_on)          # the writer is closed and has no token that waits
                return
            with log._waiters_mutex:            # threads may come here together, each with its loop
                if log._waiters is None:
                    log._waiters = LoopWaiters(log._writer)
                if waited_on is log._writer:
                    log._waiters.attach(waited_on)
                else:
                    waited_on.set_async(-1, log._waiters)   # that of before a truncation: closed

        writer.waiter_factory = make_waiters

    def _require_open(self) -> None:
        if self._closed:
            raise LogClosed("the log is closed", path=self._path)
        self._require_own()

    def _require_own(self) -> None:
        """Before any lock: in a child of a fork another thread of the parent may hold it for ever."""
        if os.getpid() != self._pid:
            raise LogClosed("the log was opened before a fork", path=self._path,
                            advice="open the log in the process that uses it")


# -- pieces ------------------------------------------------------------------------------------------------------------
def _serialised(message: Any) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        data = message.SerializeToString()
    except AttributeError:
        raise WrongType(f"an operation is a message or its bytes, not {type(message).__name__}") from None
    except EncodeError as error:        # fields that are required are not set
        raise BadFormat(f"a {type(message).__name__} cannot be serialised: {error}") from error
    if not isinstance(data, bytes):
        raise WrongType(f"an operation is a message or its bytes, not {type(message).__name__}")
    return data


def _opaque_schema() -> Schema:
    """The least that a tablet can have: a log of opaque entries has no rows."""
    return Schema((ColumnSchema("index", types.BY_NAME["INT64"], is_key=True, id=10),))


def _settings(durability: str, segment_size: int | str, compression: str, queue_size: int | str,
              cache_size: int | str) -> dict[str, Any]:
    mode, interval = _durability(durability)
    if not isinstance(compression, str) or compression not in CODECS:
        raise InvalidArgument(f"there is no compression {compression!r}", advice=", ".join(CODECS))
    size = parse_bytes(segment_size)
    if not SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX:
        raise InvalidArgument(f"segment_size of {size} bytes is not within {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}")
    queue, cache = parse_bytes(queue_size), parse_bytes(cache_size)
    if max(queue, cache) > _MEMORY_MAX:
        raise InvalidArgument(f"queue_size of {queue} and cache_size of {cache} bytes: no process has that much")
    return {"durability": mode, "interval_s": interval, "durability_text": durability, "segment_bytes": size,
            "compression": compression, "codec": CODECS[compression], "queued_bytes_max": queue,
            "cache_bytes_max": cache}


def _durability(text: str) -> tuple[int, float]:
    if not isinstance(text, str):
        raise WrongType(f"durability is text, not {type(text).__name__}", advice='"fsync", "os" or "interval:50ms"')
    if text in _DURABILITIES:
        return _DURABILITIES[text], 0.0
    name, _, interval = text.partition(":")
    if name == "interval" and interval.isascii():
        for suffix, factor in (("ms", 1e-3), ("s", 1.0)):
            number = interval.removesuffix(suffix)
            if number != interval and number.replace(".", "", 1).isdecimal() \
                    and 0 < float(number) * factor <= _INTERVAL_MAX_S:
                return 2, float(number) * factor
    raise InvalidArgument(f"there is no durability {text!r}", advice='"fsync", "os" or "interval:50ms"')


def _make_writer(folder: str, recovered: Recovered, settings: dict[str, Any], disk: Disk, voids: Voids,
                 term: int = 1) -> LogWriter:
    before, after = _header_parts(settings["tablet_id"], settings["codec"], settings["schema"])
    return LogWriter(folder, header_before=before, header_after=after, codec=settings["codec"],
                     durability=settings["durability"], interval_s=settings["interval_s"],
                     segment_bytes=settings["segment_bytes"], queued_bytes_max=settings["queued_bytes_max"],
                     cache_bytes_max=settings["cache_bytes_max"], sequence=recovered.sequence,
                     term=max(recovered.last.term, term), last_term=recovered.last.term,
                     next_index=recovered.last.index + 1, last_timestamp=recovered.last_timestamp, voids=voids,
                     disk=disk)


def _header_parts(tablet_id: bytes, codec: int, schema: bytes) -> tuple[bytes, bytes]:
    """LogSegmentHeaderPB before and after its sequence number. schema: its fields of that kind, serialised."""
    header: Any = message_class("kudu.log.LogSegmentHeaderPB").FromString(schema)
    before: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=tablet_id)
    if codec > 1:
        header.compression_codec = codec
    parts = before.SerializePartialToString(), header.SerializePartialToString()
    if sum(map(len, parts)) > SEGMENT_HEADER_BYTES_MAX - _SEQUENCE_BYTES_MAX:
        raise InvalidArgument(f"a schema of {len(parts[1])} bytes does not fit a segment's header")
    return parts


def _header_schema(schema: Schema, version: int) -> bytes:
    version = whole_number(version, "a schema's version")
    if not 0 <= version <= _SCHEMA_VERSION_MAX:
        raise InvalidArgument(f"a schema's version cannot be {version}")
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(schema_version=version)
    schema.to_pb(header.schema)
    return bytes(header.SerializePartialToString())


def _folder(path: str | os.PathLike[str]) -> str:
    try:
        folder = os.fsdecode(path)
    except TypeError:
        raise WrongType(f"a path is text, not {type(path).__name__}") from None
    if not folder or "\0" in folder:
        raise InvalidArgument(f"{folder!r:.80} is no path of a folder")
    folder = os.path.abspath(folder)
    if len(os.fsencode(folder)) > _PATH_BYTES_MAX:
        raise InvalidArgument(f"a path of {len(folder)} characters is too long", advice="a folder nearer the root")
    return folder


def _check_types(**arguments: tuple[object, type]) -> None:
    """By name: what was given, and its type unless it is None."""
    for name, (value, kind) in arguments.items():
        if value is not None and not isinstance(value, kind):
            raise WrongType(f"{name} is a {kind.__name__}, not {type(value).__name__}")


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


async def aside(function: Callable[[], _T]) -> _T:
    """What function() returns, by a thread of the event loop's executor: it may wait."""
    import asyncio  # a program without an event loop does not load it

    return await asyncio.get_running_loop().run_in_executor(None, function)


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


def _unlock(fd: int, pid: int) -> None:
    """Let go of the folder. A child of a fork shares the lock: it must neither release nor keep it."""
    if os.getpid() == pid:
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _close_quietly(writer: LogWriter, lock_fd: int, pid: int) -> None:
    """For logs that nobody closed: at the interpreter's exit, or when the last reference went."""
    try:
        writer.close()
    except KuduStorageError:
        pass        # whoever waited for these entries was told
    finally:
        if writer.waiters is not None:
            writer.waiters.close()
        _unlock(lock_fd, pid)
