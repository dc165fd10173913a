"""One container of the log block manager: its two files, and the order in which they are written.

    NAME.data        blocks, each from a boundary of the file system's blocks on, preallocated in steps
    NAME.metadata    protobuf container of BlockRecordPB, only ever appended to

 C1  A container appears with a whole metadata header, durable, before a byte of data is written.
 C2  A CREATE record is appended after the data is durable, and counts once it is durable itself.
 C3  One append to the metadata is one write and one sync. After a failed one the file is cut back and synced before
     anything else is done; where that fails too the directory has failed.
 C4  Space is given back after the DELETE record is durable; bytes that a record ever named are not written again.
 C5  The data file goes before the metadata file, and the directory is synced between: no data without records.
 C6  A rewritten metadata file has its name durably before a record is appended to it.
`lock` guards the metadata and what is counted here. Who has the container reserved writes behind `next_offset`, alone.
"""
from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kudu_storage.errors import DiskError, InternalError, KuduStorageError
from kudu_storage.fs.blocks.directories import DataDirectory
from kudu_storage.fs.blocks.records import TYPE, Extent, FoldedRecords, align_up, compacted
from kudu_storage.fs.pb_container import container_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kudu_storage._native.disk import Disk

DATA_SUFFIX: Final = ".data"
METADATA_SUFFIX: Final = ".metadata"
_CANNOT_ALLOCATE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_CANNOT_PUNCH: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(slots=True, eq=False)
class Container:
    """State and file operations of one container. Errors are judged by the directory: NoSpace, DirectoryFailed."""

    directory: DataDirectory
    name: str
    disk: Disk = field(repr=False)
    next_offset: int = 0            # where the next block starts
    data_end: int = 0               # size of the data file: what is preallocated
    metadata_end: int = 0
    record_count: int = 0
    live: dict[int, Extent] = field(default_factory=dict, repr=False)
    id_max: int = 0                 # highest id ever recorded here
    id_max_extent: Extent | None = None
    timestamp_us_max: int = 0
    reserved: bool = False          # someone writes behind next_offset; guarded by the manager's lock
    lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def path(self) -> str:
        """Without a suffix, as Kudu's messages name it."""
        return str(self.directory.path / self.name)

    @property
    def data_path(self) -> str:
        return self.path + DATA_SUFFIX

    @property
    def metadata_path(self) -> str:
        return self.path + METADATA_SUFFIX

    @property
    def live_bytes(self) -> int:
        return sum(extent.length for extent in self.live.values())

    @property
    def live_bytes_aligned(self) -> int:
        size = self.directory.block_size
        return sum(align_up(extent.end, size) - extent.offset // size * size
                   for extent in self.live.values() if extent.length)

    def take(self, folded: FoldedRecords) -> None:
        """Start from what the metadata says."""
        self.live, self.record_count = folded.live, folded.record_count
        self.next_offset = align_up(folded.end, self.directory.block_size)
        self.id_max, self.id_max_extent = folded.id_max, folded.id_max_extent
        self.timestamp_us_max = folded.timestamp_us_max

    def check(self) -> None:
        """What is counted agrees with the live blocks."""
        if any(align_up(extent.end, self.directory.block_size) > self.next_offset for extent in self.live.values()):
            raise InternalError(f"a live block ends behind {self.next_offset}", path=self.path)
        if self.record_count < len(self.live) or (self.live and max(self.live) > self.id_max):
            raise InternalError("fewer records than live blocks, or a lower highest id", path=self.path)

    # -- data ----------------------------------------------------------------------------------------------------------
    def open_data(self) -> int:
        """A descriptor to write blocks with. Raises NoSpace, DirectoryFailed, DiskError."""
        return self._judged(self.disk.open, self.data_path, os.O_RDWR)  # type: ignore[no-any-return]

    def write_data(self, fd: int, data: Buffer, offset: int, size: int, step: int) -> None:
        """Write bytes at an offset that belongs to the caller, in preallocated space if that is possible."""
        if step and offset + size > self.data_end:
            end = align_up(offset + size, step)
            try:
                self.disk.allocate(fd, self.data_end, end - self.data_end, self.data_path)
            except DiskError as error:
                if error.errno not in _CANNOT_ALLOCATE:
                    raise self.directory.judge(error) from error
            else:
                self.data_end = end
        self._judged(self.disk.write, fd, data, offset, self.data_path)
        self.data_end = max(self.data_end, offset + size)

    def sync_data(self) -> None:
        """Make all data that was written durable."""
        fd = self.open_data()
        try:
            self._judged(self.disk.sync, fd, self.data_path)
        finally:
            self.close_file(fd)

    def cut_data(self, end: int) -> None:
        """Give back what is allocated behind `end`. Only space is at stake, so a failure changes nothing."""
        with contextlib.suppress(KuduStorageError):
            fd = self.open_data()
            try:
                self._judged(self.disk.truncate, fd, end)
                self.data_end = end
            finally:
                self.close_file(fd)

    def punch(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Give back (offset, size) ranges of whole blocks. False if the file system cannot, or failed."""
        try:
            fd = self.open_data()
            try:
                for offset, size in ranges:
                    self.disk.punch_hole(fd, offset, size, self.data_path)
            finally:
                self.close_file(fd)
        except DiskError as error:
            if error.errno not in _CANNOT_PUNCH:
                self.directory.judge(error)
            return False
        return True

    def allocated_bytes(self) -> int:
        """What the data file takes of the disk. Raises DirectoryFailed or DiskError."""
        try:
            return os.stat(self.data_path).st_blocks * 512
        except OSError as error:
            raise self.directory.judge(error) from error

    # -- metadata ------------------------------------------------------------------------------------------------------
    def append_records(self, data: bytes) -> None:
        """Write records behind the last one, without making them durable. With the lock held.

        Raises NoSpace, DirectoryFailed, DiskError: none of them is there then (C3).
        """
        fd = self._judged(self.disk.open, self.metadata_path, os.O_RDWR)
        try:
            try:
                self.disk.write(fd, data, self.metadata_end, self.metadata_path)
            except DiskError as error:
                self._cut(fd)
                raise self.directory.judge(error) from error
        finally:
            self.close_file(fd)

    def cut_records(self) -> None:
        """Take back what append_records() wrote. With the lock held."""
        fd = self._judged(self.disk.open, self.metadata_path, os.O_RDWR)
        try:
            self._cut(fd)
        finally:
            self.close_file(fd)

    def _cut(self, fd: int) -> None:
        """To the last record that counts, durably: its space may be written again afterwards (C3)."""
        try:
            self.disk.truncate(fd, self.metadata_end)
            self.disk.sync(fd, self.metadata_path)
        except DiskError as error:
            error.errno = errno.EIO     # whatever the system said: what is on the disk is not known any more
            raise self.directory.judge(error) from error

    def sync_records(self) -> None:
        """Make the records durable. With the lock held. A failure fails the directory."""
        fd = self._judged(self.disk.open, self.metadata_path, os.O_RDWR)
        try:
            self._judged(self.disk.sync, fd, self.metadata_path)
        finally:
            self.close_file(fd)

    def add_live(self, blocks: dict[int, Extent], metadata_bytes: int) -> None:
        """Count blocks whose CREATE records are durable. With the lock held."""
        self.metadata_end += metadata_bytes
        self.record_count += len(blocks)
        self.live.update(blocks)
        highest = max(blocks)
        if highest >= self.id_max:
            self.id_max, self.id_max_extent = highest, blocks[highest]

    def drop_live(self, block_ids: Iterable[int], metadata_bytes: int) -> list[Extent]:
        """Count blocks whose DELETE records are durable; where they were. With the lock held."""
        self.metadata_end += metadata_bytes
        extents = [self.live.pop(block_id) for block_id in block_ids]
        self.record_count += len(extents)
        return extents

    def next_timestamp(self, now_us: int) -> int:
        """The time of the next append: now, but later than the last one (R3). With the lock held."""
        self.timestamp_us_max = max(now_us, self.timestamp_us_max + 1)
        return self.timestamp_us_max

    def compact(self, now_us: int) -> None:
        """Rewrite the metadata with the records that are needed. With the lock held, nothing appended meanwhile.

        Raises NoSpace, DirectoryFailed, DiskError: the old file stays then, unless the directory failed.
        """
        bodies = compacted(self.live, self.id_max, self.id_max_extent, self.next_timestamp(now_us))
        size = self._replace_metadata(container_bytes(TYPE, bodies))
        try:
            self.disk.sync_dir(str(self.directory.path))        # C6
        except DiskError as error:
            raise self.directory.judge(error) from error
        self.metadata_end, self.record_count = size, len(bodies)

    def _replace_metadata(self, data: bytes) -> int:
        temporary = f"{self.metadata_path}.kudutmp.{secrets.token_hex(3)}"
        fd = self._judged(self.disk.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                self.disk.write(fd, data, 0, temporary)
                self.disk.sync(fd, temporary)
            finally:
                self.close_file(fd)
            self.disk.rename(temporary, self.metadata_path)
        except DiskError as error:
            with contextlib.suppress(DiskError):
                self.disk.unlink(temporary)
            raise self.directory.judge(error) from error
        return len(data)

    # -- names ---------------------------------------------------------------------------------------------------------
    def create_files(self) -> None:
        """Make both files (C1). Raises NoSpace, DirectoryFailed, DiskError; nothing is left then."""
        self.close_file(self._judged(self.disk.open, self.data_path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        try:
            self.metadata_end = self._replace_metadata(container_bytes(TYPE, []))
            self._judged(self.disk.sync_dir, str(self.directory.path))
        except KuduStorageError:
            with contextlib.suppress(DiskError):
                self.disk.unlink(self.metadata_path)
            with contextlib.suppress(DiskError):
                self.disk.unlink(self.data_path)
            raise

    def remove_files(self) -> None:
        """Remove a container without live blocks (C5). Files that are gone are no error."""
        self._unlink(self.data_path)
        self._judged(self.disk.sync_dir, str(self.directory.path))
        self._unlink(self.metadata_path)

    def _unlink(self, path: str) -> None:
        try:
            self.disk.unlink(path)
        except DiskError as error:
            if error.errno != errno.ENOENT:
                raise self.directory.judge(error) from error

    def close_file(self, fd: int) -> None:
        """Close; the system has nothing to say that a sync has not said."""
        if fd >= 0:
            with contextlib.suppress(DiskError):
                self.disk.close(fd)

    def _judged(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except DiskError as error:
            raise self.directory.judge(error) from error
