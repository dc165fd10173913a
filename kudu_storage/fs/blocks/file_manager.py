"""The file block manager: one file a block, as Kudu keeps them where holes cannot be punched.

    DATA/xx/yy/zz/NNNNNNNNNNNNNNNN      bits 40-47, 32-39 and 24-31 of the id in hexadecimal; the id in decimal

 F1  The top 16 bits of an id are the directory's place in the list of all uuids; the rest is drawn at random.
 F2  A block is written under another name and gets its own when its bytes are durable (B1). Kudu writes under the final
     name at once; that is why it may find parts of blocks after a crash, and we not.
 F3  On return from `commit` the names are durable too, and those of new folders.
No list of blocks is kept: the folders are it.
"""
from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from kudu_storage.errors import (
    DirectoryFailed,
    DiskError,
    InvalidArgument,
    NoSpace,
    NoSuchBlock,
)
from kudu_storage.fs.blocks.directories import DataDirectories, DataDirectory
from kudu_storage.fs.blocks.manager import BlockTransaction, ReadableBlock, WritableBlock, block_name
from kudu_storage.fs.blocks.report import FsReport
from kudu_storage.fs.blocks.store import BlockStore
from kudu_storage.fs.layout import TEMPORARY_INFIX

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RANDOM_BITS = 48


def block_path(directory: DataDirectory, block_id: int) -> str:
    """Where the block's file is, in its directory."""
    parts = (f"{block_id >> shift & 0xFF:02x}" for shift in (40, 32, 24))
    return os.path.join(directory.path, *parts, block_name(block_id))


class FileWritableBlock:
    """A block that is being written to a file of its own. Belongs to one thread at a time."""

    def __init__(self, manager: FileBlockManager, directory: DataDirectory, block_id: int, fd: int,
                 temporary: str) -> None:
        self._manager = manager
        self.directory = directory
        self._id = block_id
        self.fd = fd
        self.temporary = temporary
        self.path = block_path(directory, block_id)
        self._length = 0
        self._state = "open"

    @property
    def id(self) -> int:
        return self._id

    @property
    def bytes_appended(self) -> int:
        return self._length

    def append(self, data: Buffer) -> None:
        if self._state != "open":
            raise InvalidArgument(f"block {block_name(self._id)} is {self._state}")
        view = memoryview(data).cast("B")
        try:
            self._manager.directories.disk.write(self.fd, view, self._length, self.temporary)
        except DiskError as error:
            self.abort()
            raise self.directory.judge(error) from error
        self._length += len(view)

    def finish(self) -> None:
        if self._state == "open":
            self._state = "finished"
        elif self._state != "finished":
            raise InvalidArgument(f"block {block_name(self._id)} is {self._state}")

    def abort(self) -> None:
        if self._state in ("aborted", "committed"):
            return
        self._state = "aborted"
        disk = self._manager.directories.disk
        self.close()
        for path in (self.temporary, self.path):    # the second one if a commit failed half-way
            with contextlib.suppress(DiskError):
                disk.unlink(path)

    def committed(self) -> None:
        self._state = "committed"

    def close(self) -> None:
        """Let go of the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(DiskError):
                self._manager.directories.disk.close(fd)


class FileBlockManager(BlockStore):
    """A block store of one file a block. See BlockManager for what each call promises."""

    def __init__(self, directories: DataDirectories) -> None:
        super().__init__(directories)
        self.report = FsReport(data_dirs=[str(directory.path) for directory in directories.all])
        self._random = random.SystemRandom()
        self._lock = Lock()
        # Folders below `data` whose names are durable: those that we synced. A killed process may have made others.
        # Replaced under _lock, read by all.
        self._durable_folders: frozenset[str] = frozenset()

    @classmethod
    def open(cls, directories: DataDirectories) -> FileBlockManager:
        """Opens nothing but, for writing, cleans up what a crash left."""
        manager = cls(directories)
        if not directories.read_only:
            for directory in directories.healthy():
                manager._clean(directory)
        return manager

    def _clean(self, directory: DataDirectory) -> None:
        """Remove blocks that were being written."""
        disk = self.directories.disk
        try:
            for folder, _, names in os.walk(directory.path, onerror=_raise):
                for name in names:
                    if TEMPORARY_INFIX in name:
                        disk.unlink(os.path.join(folder, name))
        except OSError as error:
            directory.judge(error)      # notes a failed directory; what else went wrong only costs space

    # -- BlockManager --------------------------------------------------------------------------------------------------
    def create_block(self, group: Sequence[str] | None = None) -> FileWritableBlock:
        self._check_writable()
        trouble: NoSpace | None = None
        for directory in self.directories.candidates(group):
            try:
                return self._create_in(directory)
            except NoSpace as error:
                trouble = error
        assert trouble is not None
        raise trouble

    def _create_in(self, directory: DataDirectory) -> FileWritableBlock:
        while True:
            block_id = directory.index << _RANDOM_BITS | self._random.getrandbits(_RANDOM_BITS)
            path = block_path(directory, block_id)
            if not block_id or os.path.exists(path):
                continue
            temporary = f"{path}{TEMPORARY_INFIX}.{secrets.token_hex(3)}"
            try:
                self._make_folders(os.path.dirname(path))
                fd = self.directories.disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except DiskError as error:
                raise directory.judge(error) from error
            return FileWritableBlock(self, directory, block_id, fd, temporary)

    def _make_folders(self, folder: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for path in reversed(missing):
            try:
                self.directories.disk.make_dir(path)
            except DiskError as error:
                if error.errno != errno.EEXIST:     # someone else was faster
                    raise

    def transaction(self, group: Sequence[str] | None = None) -> BlockTransaction:
        return BlockTransaction(self, group)

    def commit(self, blocks: Iterable[WritableBlock]) -> None:
        self._check_writable()
        wanted = [_own(block) for block in blocks]
        try:
            for block in wanted:
                block.finish()
                self._judged(block.directory, "sync", block.fd, block.temporary)
                block.close()
            for block in wanted:
                self._judged(block.directory, "rename", block.temporary, block.path)
            self._sync_folders(wanted)
        except BaseException:
            for block in wanted:
                block.abort()
            raise
        for block in wanted:
            block.committed()

    def _sync_folders(self, blocks: list[FileWritableBlock]) -> None:
        """The names of blocks, and of the folders above that nobody has seen durable yet (F3)."""
        wanted: dict[str, DataDirectory] = {}
        new: set[str] = set()
        for block in blocks:
            folder, top = os.path.dirname(block.path), str(block.directory.path)
            wanted[folder] = block.directory
            while folder != top and folder not in self._durable_folders:
                new.add(folder)
                folder = os.path.dirname(folder)
                wanted[folder] = block.directory
        for folder, directory in wanted.items():
            self._judged(directory, "sync_dir", folder)
        with self._lock:
            self._durable_folders = self._durable_folders | new

    def open_block(self, block_id: int) -> ReadableBlock:
        self._check_open()
        directory = self._directory_of(block_id)
        directory.check()
        path = block_path(directory, block_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoSuchBlock(f"no block {block_name(block_id)}", path=path, advice="kudu-storage fs check") from None
        except OSError as error:
            raise directory.judge(error) from error
        return ReadableBlock(block_id, fd, 0, os.fstat(fd).st_size, path, lambda: os.close(fd), directory.judge)

    def delete_blocks(self, block_ids: Iterable[int]) -> tuple[int, ...]:
        self._check_writable()
        deleted: list[int] = []
        folders: dict[str, DataDirectory] = {}
        for block_id in dict.fromkeys(block_ids):
            try:
                directory = self._directory_of(block_id)
            except NoSuchBlock:
                continue
            directory.check()
            path = block_path(directory, block_id)
            try:
                self.directories.disk.unlink(path)
            except DiskError as error:
                if error.errno == errno.ENOENT:
                    continue
                raise directory.judge(error) from error
            folders[os.path.dirname(path)] = directory
            deleted.append(block_id)
        for folder, directory in folders.items():
            self._judged(directory, "sync_dir", folder)
        return tuple(deleted)

    def live_blocks(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for directory in self.directories.healthy():
            try:
                found.update(_blocks_in(directory))
            except OSError as error:
                trouble = directory.judge(error)
                if not isinstance(trouble, DirectoryFailed):
                    raise trouble from error
        return found

    def notify_block_id(self, block_id: int) -> None:
        """Ids are drawn from 2 to the power of 48; that is what Kudu relies on, too."""

    def find_path(self, block_id: int) -> str | None:
        try:
            path = block_path(self._directory_of(block_id), block_id)
        except NoSuchBlock:
            return None
        return path if os.path.exists(path) else None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.directories.close()

    # -- small ones ----------------------------------------------------------------------------------------------------
    def _directory_of(self, block_id: int) -> DataDirectory:
        index = block_id >> _RANDOM_BITS
        for directory in self.directories.all:
            if directory.index == index:
                return directory
        raise NoSuchBlock(f"block {block_name(block_id)} belongs to data directory {index}, which is not among these",
                          path=str(self.directories.all[0].path), advice="name all of them with --fs_data_dirs")

    def _judged(self, directory: DataDirectory, call: str, *arguments: object) -> None:
        directory.check()
        try:
            getattr(self.directories.disk, call)(*arguments)
        except DiskError as error:
            raise directory.judge(error) from error


def _own(block: WritableBlock) -> FileWritableBlock:
    if not isinstance(block, FileWritableBlock):
        raise InvalidArgument("a block of another block manager")
    return block


def _blocks_in(directory: DataDirectory) -> Iterator[tuple[int, int]]:
    """(id, length) of files whose place fits their name. Raises OSError."""
    for folder, _, names in os.walk(directory.path, onerror=_raise):
        for name in names:
            if name.isdecimal() and name.isascii() and int(name) < 1 << 64 \
                    and block_path(directory, int(name)) == os.path.join(folder, name):
                yield int(name), os.stat(os.path.join(folder, name)).st_size


def _raise(error: OSError) -> None:
    raise error
