"""A server's directories as a whole: laying them out, whose they are, and what is missing or left over in them.

 F1  A root gets its `instance` file last: where there is one, the layout is complete.
 F2  Looking never writes. A repair holds the locks of the data directories.
Blocks on the disk. May not touch: the contents of blocks, logs.
"""
from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from kudu_storage._native.disk import Disk
from kudu_storage.errors import BadFormat, CorruptionError, DiskError, InvalidArgument, KuduStorageError, NotFound
from kudu_storage.fs.block_references import live_references
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.blocks.directories import DATA, FILE, INSTANCE_FILE, LOG, create_directories
from kudu_storage.fs.blocks.report import FsReport, OrphanedBlock
from kudu_storage.fs.instance import Instance, read_instance, write_instance
from kudu_storage.fs.layout import CONSENSUS_META, INSTANCE, TABLET_META, WALS, is_tablet_id
from kudu_storage.fs.roots import ServerRoots
from kudu_storage.fs.superblock import TYPE as SUPERBLOCK_TYPE

_UUID = re.compile(r"[0-9a-f]{32}\Z")


def all_roots(roots: ServerRoots) -> list[Path]:
    """Every root once: those of data, then of logs, then of metadata."""
    return list(dict.fromkeys((*roots.data_roots, roots.wal_root, roots.metadata_root)))


# -- laying out --------------------------------------------------------------------------------------------------------
def format_file_system(roots: ServerRoots, *, uuid: str | None = None, block_manager: str = LOG,
                       disk: Disk | None = None) -> Instance:
    """Lay out a Kudu file system in roots that are empty or do not exist (their parents must).

    Args:
        uuid: of the server, 32 hexadecimal digits with or without dashes. Default: a new one.
        block_manager: "log" or "file".

    Durable on return. Raises InvalidArgument, DiskError; nothing that was made stays then.
    """
    if block_manager not in (LOG, FILE):
        raise InvalidArgument(f"block manager {block_manager!r}", advice=f"{LOG} or {FILE}")
    instance = Instance(_server_uuid(uuid), _stamp())
    disk = Disk() if disk is None else disk
    taken = [str(root) for root in all_roots(roots) if root.exists() and (not root.is_dir() or any(root.iterdir()))]
    if taken:
        raise InvalidArgument(f"not empty: {', '.join(taken)}", path=taken[0], advice="empty folders, or other ones")
    made = _Made(disk)
    try:
        _lay_out(roots, instance, block_manager, made)
    except BaseException:
        made.undo(roots)
        raise
    return instance


class _Made:
    """Folders made so far, so that a failure can take them back."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._folders: list[str] = []

    def folder(self, path: Path) -> None:
        if not path.is_dir():
            self.disk.make_dir(str(path))
            self._folders.append(str(path))

    def undo(self, roots: ServerRoots) -> None:
        """What is in the way of another try, as far as the disk lets us."""
        files = [root / INSTANCE for root in all_roots(roots)] + \
            [root / DATA / INSTANCE_FILE for root in roots.data_roots]
        for file in files:
            with contextlib.suppress(KuduStorageError):
                self.disk.unlink(str(file))
        for folder in [*(str(root / DATA) for root in roots.data_roots), *reversed(self._folders)]:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _lay_out(roots: ServerRoots, instance: Instance, block_manager: str, made: _Made) -> None:
    for root in all_roots(roots):
        made.folder(root)
    for folder in (roots.wal_root / WALS, roots.metadata_root / TABLET_META, roots.metadata_root / CONSENSUS_META):
        made.folder(folder)
    create_directories(roots.data_roots, [uuid4().hex for _ in roots.data_roots], block_manager, made.disk)
    for root in all_roots(roots):
        made.disk.sync_dir(str(root))
        write_instance(root / INSTANCE, instance, disk=made.disk)
        made.disk.sync_dir(str(root.parent))


def _server_uuid(uuid: str | None) -> str:
    if uuid is None:
        return uuid4().hex
    plain = uuid.replace("-", "").lower()
    if not _UUID.match(plain):
        raise InvalidArgument(f"{uuid!r} is no uuid", advice="32 hexadecimal digits")
    return plain


def _stamp() -> str:
    return f"Formatted at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} on {platform.node() or '<unknown host>'}"


# -- whose it is -------------------------------------------------------------------------------------------------------
def server_instance(roots: ServerRoots) -> Instance:
    """The server that all roots belong to. Roots without an instance file are passed over.

    Raises NotFound if none has one, BadFormat if they disagree, Unsupported, CorruptionError.
    """
    found: dict[Path, Instance] = {}
    for root in all_roots(roots):
        with contextlib.suppress(NotFound, DiskError):
            found[root] = read_instance(root / INSTANCE)
    if not found:
        raise NotFound("no instance file in any root", path=str(all_roots(roots)[0]),
                       advice="kudu-storage fs format lays out a new file system")
    first = next(iter(found))
    for root, instance in found.items():
        if instance.uuid != found[first].uuid:
            raise BadFormat(f"server uuid {instance.uuid}, but {found[first].uuid} in {first}",
                            path=str(root / INSTANCE), advice="roots of one server only")
    return found[first]


# -- checking ----------------------------------------------------------------------------------------------------------
def check_file_system(roots: ServerRoots, *, repair: bool = False, disk: Disk | None = None) -> FsReport:
    """What Kudu's `fs check` looks for. With `repair`, left-over blocks and what crashes left are removed.

    Fatal errors are in the report. Raises what opening the directories and reading superblocks can raise.
    """
    server_instance(roots)
    manager = open_block_manager(roots.data_roots, read_only=not repair, disk=disk, tolerate_fatal=True)
    try:
        report = manager.report
        report.wal_dir, report.metadata_dir = str(roots.wal_root), str(roots.metadata_root)
        if not report.has_fatal_errors:
            _compare(manager, report, needed_blocks(roots), repair)
        return report
    finally:
        manager.close()


def needed_blocks(roots: ServerRoots) -> dict[int, str]:
    """The tablet of each block that a superblock names as live. Raises CorruptionError for one named twice."""
    from kudu_storage.fs.pb_container import read_single
    from kudu_storage.protos import message_class

    needed: dict[int, str] = {}
    for path in superblock_paths(roots):
        for reference in live_references(read_single(path, message_class(SUPERBLOCK_TYPE))):
            if reference.block_id in needed:
                raise CorruptionError(f"block {reference.block_id} belongs to tablet {needed[reference.block_id]}, too",
                                      path=str(path))
            needed[reference.block_id] = path.name
    return needed


def superblock_paths(roots: ServerRoots) -> Sequence[Path]:
    """All superblocks, by tablet id. Raises NotFound, DiskError."""
    folder = roots.metadata_root / TABLET_META
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if is_tablet_id(name)]
    except FileNotFoundError:
        raise NotFound("no such folder", path=str(folder), advice="--fs_metadata_dir=DIR") from None
    except OSError as error:
        raise DiskError(f"cannot list: {error.strerror}", path=str(folder)) from error


def _compare(manager: BlockManager, report: FsReport, needed: dict[int, str], repair: bool) -> None:
    there = manager.live_blocks()
    report.missing = [(block_id, needed[block_id]) for block_id in sorted(needed.keys() - there.keys())]
    report.orphaned = [OrphanedBlock(block_id, there[block_id]) for block_id in sorted(there.keys() - needed.keys())]
    if repair and report.orphaned:
        deleted = set(manager.delete_blocks(orphan.id for orphan in report.orphaned))
        for orphan in report.orphaned:
            orphan.repaired = orphan.id in deleted
