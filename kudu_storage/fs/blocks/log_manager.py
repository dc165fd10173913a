"""The log block manager: many blocks in few files, as Kudu keeps them (docs/formats/blocks.md).

A block gathers its first bytes in memory, then takes a container for itself until it is finished, so that it lies
in one piece. Finished blocks become durable together in `commit`; until then they are nothing but bytes behind the
last block that counts.

 L1  A container has one writer at a time: who took it out of `_available`, or made it.
 L2  Locks: a container's before the manager's, containers' by path. The disk is never touched under the manager's lock,
     but for opening a file to read.
 L3  A block in `_blocks` is durable (B2), one that is not there is gone or never was.
 L4  The space of a deleted block is given back when nobody has it open any more (B4).
 L5  The container that alone knows the highest id ever recorded is not removed (B5).
"""
from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from kudu_storage._native.disk import Disk
from kudu_storage.errors import (
    DirectoryFailed,
    DiskError,
    InternalError,
    InvalidArgument,
    KuduStorageError,
    NoSpace,
    NoSuchBlock,
)
from kudu_storage.fs.blocks.container import Container
from kudu_storage.fs.blocks.directories import DataDirectories, DataDirectory
from kudu_storage.fs.blocks.log_loading import Loaded, is_full, load_directory, merge, repair, wants_compaction
from kudu_storage.fs.blocks.manager import BlockTransaction, ReadableBlock, WritableBlock, block_name
from kudu_storage.fs.blocks.open_files import OpenFiles
from kudu_storage.fs.blocks.options import BlockOptions
from kudu_storage.fs.blocks.records import Extent, align_up, create_record, delete_record
from kudu_storage.fs.blocks.report import FsReport, MalformedRecord
from kudu_storage.fs.blocks.store import BlockStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

_OPEN: Final = "open"
_FINISHED: Final = "finished"
_COMMITTED: Final = "committed"
_ABORTED: Final = "aborted"


class LogWritableBlock:
    """A block of the log block manager that is being written. Belongs to one thread at a time."""

    def __init__(self, manager: LogBlockManager, block_id: int, group: Sequence[str] | None) -> None:
        self._manager = manager
        self._id = block_id
        self._group = group
        self._state = _OPEN
        self._length = 0
        self._buffer = bytearray()
        self._container: Container | None = None
        self._fd = -1           # open while the container is reserved
        self._start = 0
        self._written = 0

    @property
    def id(self) -> int:
        return self._id

    @property
    def bytes_appended(self) -> int:
        return self._length

    @property
    def extent(self) -> Extent:
        """Where the block lies, once it is finished."""
        return Extent(self._start, self._length)

    @property
    def container(self) -> Container:
        """Where the block lies, once it has a place."""
        if self._container is None:
            raise InternalError("the block has no place yet")
        return self._container

    def append(self, data: Buffer) -> None:
        self._expect_open()
        view = memoryview(data).cast("B")
        if self._container is None and len(self._buffer) + len(view) <= self._manager.options.buffer_bytes:
            self._buffer += view
        else:
            self._write_or_abort(view)
        self._length += len(view)

    def finish(self) -> None:
        if self._state == _FINISHED:
            return
        self._expect_open()
        if self._container is None:
            self._write_or_abort(memoryview(b""))
        container, self._state = self.container, _FINISHED
        container.close_file(self._fd)
        self._fd = -1
        self._manager.release(container, align_up(self.extent.end, container.directory.block_size))

    def abort(self) -> None:
        state, self._state = self._state, _ABORTED if self._state != _COMMITTED else _COMMITTED
        if state == _OPEN and self._container is not None:
            container = self._container
            container.close_file(self._fd)
            self._fd = -1
            if self._written:
                container.cut_data(self._start)
            self._manager.release(container, container.next_offset)
            self._manager.no_longer_pending(container)
        elif state == _FINISHED:
            self._manager.give_back(self.container, self.extent)
            self._manager.no_longer_pending(self.container)
        self._buffer = bytearray()

    def committed(self) -> None:
        """It is durable now."""
        self._state = _COMMITTED

    def _expect_open(self) -> None:
        if self._state != _OPEN:
            raise InvalidArgument(f"block {block_name(self._id)} is {self._state}")

    def _write_or_abort(self, view: memoryview) -> None:
        try:
            self._write(view)
        except BaseException:
            self.abort()
            raise

    def _write(self, view: memoryview) -> None:
        if self._container is None:
            self._take_place()
        self._write_here(view)

    def _take_place(self) -> None:
        """Reserve a container and move what was gathered there: in the first directory that has room for it."""
        trouble: NoSpace | None = None
        for directory in self._manager.directories.candidates(self._group):
            try:
                container = self._manager.reserve(directory)
            except NoSpace as error:
                trouble = error
                continue
            self._container, self._start = container, container.next_offset
            try:
                self._fd = container.open_data()
                self._write_here(memoryview(self._buffer))
            except NoSpace as error:
                trouble = error
                self._leave()
                continue
            self._buffer = bytearray()
            return
        raise trouble or InternalError("no data directory to choose from")

    def _leave(self) -> None:
        """Let go of a container that had no room."""
        container, self._container = self.container, None
        container.close_file(self._fd)
        self._fd, self._written = -1, 0
        container.cut_data(container.next_offset)
        self._manager.release(container, container.next_offset)
        self._manager.no_longer_pending(container)

    def _write_here(self, view: memoryview) -> None:
        if not len(view):
            return
        offset = self._start + self._written
        self._written += len(view)
        self.container.write_data(self._fd, view, offset, len(view), self._manager.options.preallocate_bytes)


class LogBlockManager(BlockStore):
    """A block store of containers. See BlockManager for what each call promises."""

    def __init__(self, directories: DataDirectories, options: BlockOptions) -> None:
        super().__init__(directories)
        self.options = options
        self.report = FsReport()
        self._disk: Disk = directories.disk
        self._lock = Lock()
        # All below: read and written under _lock.
        self._blocks: dict[int, tuple[Container, Extent]] = {}
        self._containers: dict[str, Container] = {}
        self._available: dict[str, list[Container]] = {directory.uuid: [] for directory in directories.all}
        self._pending: dict[str, int] = {}      # blocks with a place, neither committed nor aborted, by container
        self._next_id = 1
        self._id_recorded_max = 0
        self._files = OpenFiles(options.idle_files_max)
        self._readers: dict[int, int] = {}                  # how often a block is open
        self._doomed: dict[int, tuple[Container, Extent]] = {}      # deleted while open
        # Appended to by readers, in any thread and also by the garbage collector; emptied under _lock.
        self._closings: deque[tuple[int, str]] = deque()

    # -- opening -------------------------------------------------------------------------------------------------------
    @classmethod
    def open(cls, directories: DataDirectories, options: BlockOptions, *,
             tolerate_fatal: bool = False) -> LogBlockManager:
        """Read all containers; repair them unless opened read-only.

        With `tolerate_fatal` malformed records are only reported, and then nothing is repaired.
        Raises CorruptionError and its kinds, DirectoryFailed if all directories failed, DiskError.
        """
        manager = cls(directories, options)
        loaded = []
        for directory in directories.healthy():
            with contextlib.suppress(DirectoryFailed):      # the others go on
                loaded.append(load_directory(directory, manager._disk, options, read_only=directories.read_only))
        if not loaded:
            directories.all[0].check()
        for part in loaded:
            for container in part.containers:
                part.malformed += manager._adopt(container)
            merge(manager.report, part, options)
        if not tolerate_fatal:
            manager.report.raise_if_fatal()
        if not directories.read_only and not manager.report.has_fatal_errors:
            for part in loaded:
                manager._repair(part)
        manager._offer_containers()
        return manager

    def _repair(self, part: Loaded) -> None:
        before = list(part.containers)
        with contextlib.suppress(DirectoryFailed):
            try:
                # Names that a killed process made may not be durable yet, and we are going to build on them.
                self._disk.sync_dir(str(part.directory.path))
            except DiskError as error:
                raise part.directory.judge(error) from error
            repair(part, self.options, self._id_recorded_max)
        for container in before:
            if container not in part.containers:
                del self._containers[container.path]

    def _adopt(self, container: Container) -> Iterable[MalformedRecord]:
        """Take a container's blocks into the map. A block that another one has too is a malformed record."""
        twice: list[MalformedRecord] = []
        for block_id, extent in container.live.items():
            if block_id in self._blocks:
                twice.append(MalformedRecord(container.path, _as_message(block_id, extent)))
            else:
                self._blocks[block_id] = container, extent
        self._containers[container.path] = container
        self._id_recorded_max = max(self._id_recorded_max, container.id_max)
        self._next_id = max(self._next_id, self._id_recorded_max + 1)
        return twice

    def _offer_containers(self) -> None:
        for container in self._containers.values():
            if not is_full(container, self.options):
                self._available[container.directory.uuid].append(container)

    # -- BlockManager --------------------------------------------------------------------------------------------------
    def create_block(self, group: Sequence[str] | None = None) -> LogWritableBlock:
        self._check_writable()
        if group is None:
            self.directories.candidates(None)
        else:
            self.directories.check_group(group)
        with self._lock:
            block_id = self._next_id
            self._next_id += 1
        return LogWritableBlock(self, block_id, group)

    def transaction(self, group: Sequence[str] | None = None) -> BlockTransaction:
        return BlockTransaction(self, group)

    def commit(self, blocks: Iterable[WritableBlock]) -> None:
        self._check_writable()
        wanted = [_own(block) for block in blocks]
        try:
            by_container: dict[str, list[LogWritableBlock]] = {}
            for block in wanted:
                block.finish()
                by_container.setdefault(block.container.path, []).append(block)
            parts = [(found[0].container, found) for _, found in sorted(by_container.items())]
            for container, _ in parts:
                container.directory.check()
                container.sync_data()
            with contextlib.ExitStack() as locks:
                for container, _ in parts:
                    locks.enter_context(container.lock)
                self._record_creation(parts)
        except BaseException:
            for block in reversed(wanted):
                block.abort()
            raise

    def _record_creation(self, parts: list[tuple[Container, list[LogWritableBlock]]]) -> None:
        """Append and sync the CREATE records of all containers, or of none. With their locks held."""
        written: list[tuple[Container, int]] = []
        try:
            for container, blocks in parts:
                stamp = container.next_timestamp(_now_us())
                data = b"".join(create_record(block.id, block.extent, stamp) for block in blocks)
                container.append_records(data)
                written.append((container, len(data)))
            for container, _ in written:
                container.sync_records()
        except BaseException:
            for container, _ in written:
                with contextlib.suppress(KuduStorageError):     # then its directory has failed
                    container.cut_records()
            raise
        with self._lock:
            for (container, blocks), (_, size) in zip(parts, written, strict=True):
                container.add_live({block.id: block.extent for block in blocks}, size)
                for block in blocks:
                    block.committed()
                    self._blocks[block.id] = container, block.extent
                self._id_recorded_max = max(self._id_recorded_max, container.id_max)
                self._pending[container.path] -= len(blocks)

    def open_block(self, block_id: int) -> ReadableBlock:
        self._drain()
        with self._lock:
            self._check_open()
            container, extent = self._find(block_id)
            container.directory.check()
            path = container.data_path
            try:
                fd = self._files.acquire(path)
            except OSError as error:
                raise container.directory.judge(error) from error
            self._readers[block_id] = self._readers.get(block_id, 0) + 1
        return ReadableBlock(block_id, fd, extent.offset, extent.length, path,
                             lambda: self._let_go(block_id, path), container.directory.judge)

    def delete_blocks(self, block_ids: Iterable[int]) -> tuple[int, ...]:
        self._check_writable()
        self._drain()
        by_container: dict[str, list[int]] = {}
        containers: dict[str, Container] = {}
        with self._lock:
            for block_id in dict.fromkeys(block_ids):
                found = self._blocks.get(block_id)
                if found is not None:
                    containers[found[0].path] = found[0]
                    by_container.setdefault(found[0].path, []).append(block_id)
        deleted: list[int] = []
        trouble: KuduStorageError | None = None
        for path, wanted in sorted(by_container.items()):
            try:
                deleted += self._delete_in(containers[path], wanted)
            except KuduStorageError as error:
                trouble = trouble or error      # what lies elsewhere is deleted all the same
        if trouble is not None:
            raise trouble
        return tuple(deleted)

    def live_blocks(self) -> dict[int, int]:
        with self._lock:
            return {block_id: extent.length for block_id, (container, extent) in self._blocks.items()
                    if container.directory.failure is None}

    def notify_block_id(self, block_id: int) -> None:
        with self._lock:
            self._next_id = max(self._next_id, block_id + 1)

    def find_path(self, block_id: int) -> str | None:
        with self._lock:
            found = self._blocks.get(block_id)
        return None if found is None else found[0].data_path

    def close(self) -> None:
        self._drain()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._files.close()
        self.directories.close()

    def check(self) -> None:
        """Derives from the containers what the manager says of blocks. For tests."""
        with self._lock:
            derived = {block_id: (container, extent) for container in self._containers.values()
                       for block_id, extent in container.live.items()}
            if {k: (c, e.offset, e.length) for k, (c, e) in derived.items()} != \
                    {k: (c, e.offset, e.length) for k, (c, e) in self._blocks.items()}:
                raise InternalError("the map of blocks and the containers differ")
            available = [container for found in self._available.values() for container in found]
            if len(set(available)) != len(available) or any(container.reserved for container in available):
                raise InternalError("a container is offered twice, or while someone writes to it")
            if any(block_id >= self._next_id for block_id in self._blocks):
                raise InternalError("the next id was given out before")
            containers = list(self._containers.values())
        for container in containers:
            container.check()

    # -- containers, for writable blocks -------------------------------------------------------------------------------
    def reserve(self, directory: DataDirectory) -> Container:
        """A container with room, for one writer (L1); a new one if there is none.

        Raises NoSpace, DirectoryFailed, DiskError.
        """
        directory.check()
        with self._lock:
            self._check_open()
            found = self._available[directory.uuid]
            while found:
                container = found.pop()
                if not is_full(container, self.options):
                    container.reserved = True
                    self._pending[container.path] = self._pending.get(container.path, 0) + 1
                    return container
        container = Container(directory, uuid4().hex, self._disk, reserved=True)
        container.create_files()
        with self._lock:
            self._containers[container.path] = container
            self._pending[container.path] = 1
        return container

    def release(self, container: Container, next_offset: int) -> None:
        """The writer is done; the next one starts at `next_offset`."""
        with self._lock:
            container.next_offset = next_offset
            container.reserved = False
            if not is_full(container, self.options):
                self._available[container.directory.uuid].append(container)

    def no_longer_pending(self, container: Container) -> None:
        """One block fewer waits in it to be committed."""
        with self._lock:
            self._pending[container.path] -= 1
        with container.lock:
            self._tidy(container)

    def give_back(self, container: Container, extent: Extent) -> None:
        """The space of a finished block that nobody will ever read, and no record names."""
        size = container.directory.block_size
        end = align_up(extent.end, size)
        with self._lock:
            last = container.next_offset == end and not container.reserved
            if last:        # nothing lies behind it: the next block may have the place
                container.reserved = True
                found = self._available[container.directory.uuid]
                if container in found:
                    found.remove(container)
        if last:
            container.cut_data(extent.offset)
            self.release(container, extent.offset)
        elif extent.length:
            container.punch([(extent.offset, end - extent.offset)])

    # -- deletion ------------------------------------------------------------------------------------------------------
    def _delete_in(self, container: Container, wanted: list[int]) -> list[int]:
        container.directory.check()
        with container.lock:
            ids = [block_id for block_id in wanted if block_id in container.live]
            if not ids:
                return ids
            stamp = container.next_timestamp(_now_us())
            data = b"".join(delete_record(block_id, stamp) for block_id in ids)
            container.append_records(data)
            try:
                container.sync_records()
            except DiskError as error:
                raise container.directory.judge(error) from error
            free: list[Extent] = []
            with self._lock:
                for block_id, extent in zip(ids, container.drop_live(ids, len(data)), strict=True):
                    del self._blocks[block_id]
                    if self._readers.get(block_id):
                        self._doomed[block_id] = container, extent
                    else:
                        free.append(extent)
            if not self._tidy(container):
                container.punch(_holes(container, free))
        return ids

    def _tidy(self, container: Container) -> bool:
        """Remove a full container without live blocks, rewrite one with few. With its lock held.

        True if it was removed.
        """
        with self._lock:
            idle = is_full(container, self.options) and not container.reserved \
                and not self._pending.get(container.path) and container.path in self._containers
            dead = idle and not container.live and container.id_max != self._id_recorded_max
            if dead:
                del self._containers[container.path]
                self._pending.pop(container.path, None)
                found = self._available[container.directory.uuid]
                if container in found:      # it was full by its records before anyone took it out
                    found.remove(container)
                self._files.forget(container.data_path)
                for block_id in [key for key, (other, _) in self._doomed.items() if other is container]:
                    del self._doomed[block_id]
        # Neither is needed now: what fails here is done when opening, and a directory's failure is kept.
        with contextlib.suppress(KuduStorageError):
            if dead:
                container.remove_files()
            elif idle and wants_compaction(container):
                container.compact(_now_us())
        return dead

    # -- readers -------------------------------------------------------------------------------------------------------
    def _let_go(self, block_id: int, path: str) -> None:
        self._closings.append((block_id, path))
        self._drain()

    def _drain(self) -> None:
        """Note what readers have closed. Never waits: the garbage collector may close one while a lock is held."""
        if not self._closings or not self._lock.acquire(blocking=False):
            return
        free: list[tuple[Container, Extent]] = []
        try:
            while self._closings:
                block_id, path = self._closings.popleft()
                self._files.release(path)
                self._readers[block_id] -= 1
                if not self._readers[block_id]:
                    del self._readers[block_id]
                    if block_id in self._doomed:
                        free.append(self._doomed.pop(block_id))
        finally:
            self._lock.release()
        for container, extent in free:
            if not self.read_only and not self._closed:
                container.punch(_holes(container, [extent]))

    # -- small ones ----------------------------------------------------------------------------------------------------
    def _find(self, block_id: int) -> tuple[Container, Extent]:
        try:
            return self._blocks[block_id]
        except KeyError:
            failed = next((directory for directory in self.directories.all if directory.failure is not None), None)
            if failed is not None:
                failed.check()      # it may lie there
            raise NoSuchBlock(f"no block {block_name(block_id)}", path=str(self.directories.all[0].path),
                              advice="kudu-storage fs check") from None


def _own(block: WritableBlock) -> LogWritableBlock:
    if not isinstance(block, LogWritableBlock):
        raise InvalidArgument("a block of another block manager")
    return block


def _now_us() -> int:
    return time.time_ns() // 1000


def _holes(container: Container, extents: Iterable[Extent]) -> list[tuple[int, int]]:
    """What may be given back of these, neighbours joined. Nothing where blocks lie off the boundaries (old servers)."""
    size = container.directory.block_size
    extents = sorted((extent for extent in extents if extent.length), key=lambda extent: extent.offset)
    if any(extent.offset % size for extent in (*extents, *container.live.values())):
        return []
    holes: list[tuple[int, int]] = []
    for extent in extents:
        end = align_up(extent.end, size)
        if holes and sum(holes[-1]) == extent.offset:
            holes[-1] = holes[-1][0], end - holes[-1][0]
        else:
            holes.append((extent.offset, end - extent.offset))
    return holes


def _as_message(block_id: int, extent: Extent) -> object:
    from typing import Any

    from kudu_storage.fs.blocks.records import CREATE, TYPE
    from kudu_storage.protos import message_class

    record: Any = message_class(TYPE)(op_type=CREATE, timestamp_us=extent.timestamp_us, offset=extent.offset,
                                      length=extent.length)
    record.block_id.id = block_id
    return record
