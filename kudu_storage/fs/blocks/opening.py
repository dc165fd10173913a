"""Opening the block store of a server: which kind it is, the instance files say."""
from __future__ import annotations

import os
from collections.abc import Iterable

from kudu_storage._native.disk import Disk
from kudu_storage.fs.blocks.directories import LOG, open_directories
from kudu_storage.fs.blocks.file_manager import FileBlockManager
from kudu_storage.fs.blocks.log_manager import LogBlockManager
from kudu_storage.fs.blocks.options import BlockOptions

__all__ = ["BlockOptions", "open_block_manager"]


def open_block_manager(data_roots: Iterable[str | os.PathLike[str]], *, read_only: bool = False,
                       options: BlockOptions | None = None, disk: Disk | None = None,
                       tolerate_fatal: bool = False) -> LogBlockManager | FileBlockManager:
    """Open the data directories below these roots (the values of --fs_data_dirs).

    Args:
        read_only: write nothing and take no lock; also while a server is running there.
        options: settings of the log kind.
        disk: what all writes go through; tests record it.
        tolerate_fatal: report contradictions between records and files instead of raising CorruptionError.

    Raises NotFound, DirectoryFailed when all directories failed, DirectoryLocked, Unsupported, CorruptionError and its
    kinds, DiskError, InvalidArgument.
    """
    directories = open_directories(data_roots, read_only=read_only, disk=Disk() if disk is None else disk)
    try:
        if not read_only:
            directories.remove_temporaries()
        if directories.dir_type == LOG:
            return LogBlockManager.open(directories, options or BlockOptions(), tolerate_fatal=tolerate_fatal)
        return FileBlockManager.open(directories)
    except BaseException:
        directories.close()
        raise
