"""The data directories of a server: their instance files, locks, failures, and the groups that tablets spread over.

 D1  A directory opened for writing is locked as Kudu locks it: a record lock on `block_manager_instance`, so a running
     server keeps us out, and we keep it out. Reading takes no lock.
 D2  A directory that failed stays failed until it is opened again, and every use of it says so by name.
 D3  Want of space is no failure of a directory.
A directory that is missing or cannot be read when opening has failed; the others go on, if there are any.
Thread-safe. Blocks on the disk.
"""
from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kudu_storage._native.disk import Disk
from kudu_storage.errors import (
    BadFormat,
    DirectoryFailed,
    DirectoryLocked,
    DiskError,
    InvalidArgument,
    KuduStorageError,
    NoSpace,
    NotFound,
    Unsupported,
)
from kudu_storage.fs.layout import TEMPORARY_INFIX
from kudu_storage.fs.pb_container import read_single, write_single
from kudu_storage.protos import message_class

DATA: Final = "data"
INSTANCE_FILE: Final = "block_manager_instance"
TYPE: Final = "kudu.DirInstanceMetadataPB"
LOG, FILE = "log", "file"
_ELSEWHERE = "--fs_data_dirs names the roots if blocks lie elsewhere; kudu-storage fs format lays out a new file system"
# What says that the disk is broken, not the call (Kudu's Status::IsDiskFailure).
_FAILURES: Final = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO, errno.EROFS})
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCK: Final = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(slots=True, eq=False)
class DataDirectory:
    """One data directory. `failure` is written once, by whoever sees it first, and read by all."""

    path: Path                      # the `data` folder below the root
    uuid: str
    index: int                      # in all_uuids: the file kind's ids start with it
    block_size: int = 4096          # of the file system, by the instance file
    dir_type: str = LOG
    all_uuids: tuple[str, ...] = ()
    failure: DirectoryFailed | None = None
    lock_fd: int = field(default=-1, repr=False)

    def check(self) -> None:
        """Raises DirectoryFailed once the directory failed."""
        if self.failure is not None:
            raise DirectoryFailed(self.failure.detail, path=self.failure.path, advice=self.failure.advice)

    def judge(self, error: DiskError | OSError) -> KuduStorageError:
        """What an error of a file call here means: NoSpace, the directory's failure (D2), or only itself."""
        if error.errno in _NO_SPACE:
            return NoSpace(f"no space is left for blocks: {_reason(error)}", path=str(self.path),
                           advice="make room, or add a data directory")
        if error.errno in _FAILURES:
            if self.failure is None:
                self.failure = DirectoryFailed(
                    f"the data directory failed ({_reason(error)})", path=str(self.path),
                    advice="replace the disk; tablets with data there are copied from other replicas")
                self.failure.errno = error.errno
            return self.failure
        if isinstance(error, KuduStorageError):
            return error
        return DiskError(f"{error.strerror}", path=error.filename or str(self.path))

    def free_bytes(self) -> int:
        """Space for writers without privileges; 0 if nobody can tell."""
        try:
            found = os.statvfs(self.path)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize


def _reason(error: DiskError | OSError) -> str:
    return error.detail if isinstance(error, DiskError) else str(error.strerror)


class DataDirectories:
    """All data directories of a server, in the order of its flag."""

    def __init__(self, directories: Sequence[DataDirectory], *, read_only: bool, disk: Disk) -> None:
        self.all = tuple(directories)
        self.read_only = read_only
        self.disk = disk
        self._by_uuid = {directory.uuid: directory for directory in directories}
        self._random = random.Random()

    @property
    def dir_type(self) -> str:
        """"log" or "file"; all directories agree."""
        return next(directory.dir_type for directory in self.all if directory.failure is None)

    def healthy(self) -> list[DataDirectory]:
        return [directory for directory in self.all if directory.failure is None]

    def by_uuid(self, uuid: str) -> DataDirectory:
        """Raises InvalidArgument, naming those that are there."""
        if uuid not in self._by_uuid:
            raise InvalidArgument(f"no data directory has the uuid {uuid}", path=str(self.all[0].path),
                                  advice=f"one of {', '.join(self._by_uuid)}")
        return self._by_uuid[uuid]

    def candidates(self, group: Sequence[str] | None) -> list[DataDirectory]:
        """The directories of a group in the order in which a block should try them.

        Of two drawn at random the one with more space comes first, so that load and space are spread.
        Raises DirectoryFailed if one of the group failed.
        """
        members = self.healthy() if group is None else [self.by_uuid(uuid) for uuid in group]
        if group is not None:
            self.check_group(group)
        if not members:
            self.all[0].check()
        self._random.shuffle(members)
        if len(members) > 1 and members[0].free_bytes() < members[1].free_bytes():
            members[0], members[1] = members[1], members[0]
        return members

    def check_group(self, group: Sequence[str]) -> None:
        if not group:
            raise InvalidArgument("a tablet's group of data directories is empty")
        for uuid in group:
            self.by_uuid(uuid).check()

    def create_group(self, size: int) -> tuple[str, ...]:
        return tuple(directory.uuid for directory in self.candidates(None)[:size])

    def remove_temporaries(self) -> None:
        """Files that were being written at a crash. Only what is locked is cleaned."""
        for directory in self.healthy():
            try:
                for name in os.listdir(directory.path):
                    if TEMPORARY_INFIX in name:
                        self.disk.unlink(str(directory.path / name))
            except OSError as error:
                directory.judge(error)

    def close(self) -> None:
        for directory in self.all:
            fd, directory.lock_fd = directory.lock_fd, -1
            if fd >= 0:
                os.close(fd)


# -- opening -----------------------------------------------------------------------------------------------------------
def open_directories(data_roots: Iterable[str | os.PathLike[str]], *, read_only: bool, disk: Disk) -> DataDirectories:
    """Read, and lock unless `read_only`, the data directories below these roots.

    Raises NotFound or DirectoryFailed if none can be used, DirectoryLocked, Unsupported for another kind of block
    manager, BadFormat where the instance files contradict each other, and what read_single raises for damage.
    """
    paths = [Path(os.path.abspath(root)) / DATA for root in data_roots]
    if not paths:
        raise InvalidArgument("no data directory was named", advice="--fs_data_dirs=DIR")
    opened: list[DataDirectory | DirectoryFailed] = []
    try:
        opened += (_open_one(path, read_only) for path in paths)
        found = [directory for directory in opened if isinstance(directory, DataDirectory)]
        if not found:
            first = next(directory for directory in opened if isinstance(directory, DirectoryFailed))
            raise NotFound(first.detail, path=first.path, advice=_ELSEWHERE) if first.errno == errno.ENOENT else first
        _check_set(found)
    except BaseException:
        for directory in opened:
            if isinstance(directory, DataDirectory) and directory.lock_fd >= 0:
                os.close(directory.lock_fd)
        raise
    unused = [uuid for uuid in found[0].all_uuids if uuid not in {directory.uuid for directory in found}]
    directories = [directory if isinstance(directory, DataDirectory) else _failed(path, directory, unused)
                   for path, directory in zip(paths, opened, strict=True)]
    for directory in directories:
        if directory.uuid in found[0].all_uuids:
            directory.index = found[0].all_uuids.index(directory.uuid)
    return DataDirectories(directories, read_only=read_only, disk=disk)


def _open_one(path: Path, read_only: bool) -> DataDirectory | DirectoryFailed:
    instance = path / INSTANCE_FILE
    lock_fd = -1
    try:
        if not read_only:
            lock_fd = _lock(instance)
        message: Any = read_single(instance, message_class(TYPE))
    except (NotFound, DiskError, OSError) as error:
        if lock_fd >= 0:
            os.close(lock_fd)
        if isinstance(error, DirectoryLocked):
            raise
        failure = DirectoryFailed(f"there is no usable data directory here ({error})", path=str(path))
        failure.errno = errno.ENOENT if isinstance(error, NotFound | FileNotFoundError) else error.errno
        return failure
    except BaseException:
        if lock_fd >= 0:
            os.close(lock_fd)
        raise
    try:
        return _from_message(message, path, lock_fd)
    except BaseException:
        if lock_fd >= 0:
            os.close(lock_fd)
        raise


def _from_message(message: Any, path: Path, lock_fd: int) -> DataDirectory:
    if message.dir_type not in (LOG, FILE):
        raise Unsupported(f"block manager {message.dir_type!r}", path=str(path / INSTANCE_FILE),
                          advice="the real kudu tools" if message.dir_type == "logr" else None)
    block_size = message.filesystem_block_size_bytes or 4096
    if block_size & (block_size - 1) or not 512 <= block_size <= 1 << 20:
        raise BadFormat(f"a file system block of {block_size} bytes", path=str(path / INSTANCE_FILE))
    all_uuids = tuple(uuid.decode("latin-1") for uuid in message.dir_set.all_uuids)
    return DataDirectory(path=path, uuid=message.dir_set.uuid.decode("latin-1"), index=0, block_size=block_size,
                         dir_type=message.dir_type, all_uuids=all_uuids, lock_fd=lock_fd)


def _lock(instance: Path) -> int:
    """Kudu's lock, held by the descriptor. One of this process keeps others of this process out as well."""
    fd = os.open(instance, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DirectoryLocked("the data directory is open for writing elsewhere", path=str(instance),
                                  advice="stop the server, or open read-only") from error
        raise
    return fd


def _check_set(found: list[DataDirectory]) -> None:
    """The instance files belong together."""
    for directory in found:
        if directory.uuid not in directory.all_uuids:
            raise BadFormat(f"uuid {directory.uuid} is not in its own list of directories",
                            path=str(directory.path / INSTANCE_FILE))
        if directory.dir_type != found[0].dir_type:
            raise BadFormat(f"block manager {directory.dir_type!r}, but {found[0].dir_type!r} in {found[0].path}",
                            path=str(directory.path / INSTANCE_FILE))
    uuids = [directory.uuid for directory in found]
    twice = next((uuid for uuid in uuids if uuids.count(uuid) > 1), None)
    if twice is not None:
        raise BadFormat(f"two data directories have the uuid {twice}", path=str(found[0].path))


def _failed(path: Path, failure: DirectoryFailed, unused: list[str]) -> DataDirectory:
    """A directory that cannot tell its uuid: one that the others list and nobody has, as Kudu does it."""
    return DataDirectory(path=path, uuid=unused.pop(0) if unused else f"unknown: {path}", index=-1, failure=failure)


# -- laying out --------------------------------------------------------------------------------------------------------
def create_directories(data_roots: Sequence[Path], uuids: Sequence[str], dir_type: str, disk: Disk) -> None:
    """Make the `data` folders, with their instance files, in roots that exist. Names are durable on return."""
    for root, uuid in zip(data_roots, uuids, strict=True):
        path = root / DATA
        disk.make_dir(str(path))
        message: Any = message_class(TYPE)()
        message.dir_set.uuid = uuid.encode()
        message.dir_set.all_uuids.extend(sorted(other.encode() for other in uuids))
        message.dir_type = dir_type
        message.filesystem_block_size_bytes = os.stat(path).st_blksize
        write_single(path / INSTANCE_FILE, message, disk=disk)
        disk.sync_dir(str(root))
