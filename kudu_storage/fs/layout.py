"""Where a Kudu server keeps a tablet's files, and which names there mean something.

Read-only: lists folders, opens nothing.

    ROOT/instance                           uuid of the server
    ROOT/wals/TABLET/wal-000000001          segments, numbered from 1, nine digits at least
    ROOT/wals/TABLET/index.000000000        index chunks
    ROOT/wals/TABLET.recovery/              the old log while a starting server rewrites it
    ROOT/consensus-meta/TABLET              term, vote, configuration
    ROOT/tablet-meta/TABLET                 superblock

Names with `.kudutmp` in them are files that were being written at a crash; hidden names and everything else that does
not fit, such as copies called `TABLET.recovery-something`, belong to nobody and are passed over.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kudu_storage.errors import DiskError, NotFound

WALS: Final = "wals"
CONSENSUS_META: Final = "consensus-meta"
TABLET_META: Final = "tablet-meta"
INSTANCE: Final = "instance"
RECOVERY_SUFFIX: Final = ".recovery"
TEMPORARY_INFIX: Final = ".kudutmp"
_NAMES_SHOWN: Final = 20        # a server may hold thousands of tablets
_TABLET_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_SEGMENT: Final = re.compile(r"wal-([0-9]+)\Z")
_INDEX_CHUNK: Final = re.compile(r"index\.([0-9]+)\Z")


@dataclass(frozen=True, slots=True)
class TabletFiles:
    """The files of one replica. What is None was not there; `wal_dir` is named even where it is missing."""

    tablet_id: str
    wal_dir: Path
    recovery_dir: Path | None = None
    cmeta_path: Path | None = None
    superblock_path: Path | None = None
    instance_path: Path | None = None

    @property
    def log_dir(self) -> Path | None:
        """The folder whose segments count, or None without any.

        While TABLET.recovery exists it holds the whole log, and the new one beside it is a part of a copy.
        """
        if self.recovery_dir is not None:
            return self.recovery_dir
        return self.wal_dir if self.wal_dir.is_dir() else None


def segment_name(sequence: int) -> str:
    """The file name of a segment."""
    return f"wal-{sequence:09d}"


def segment_sequence(name: str) -> int | None:
    """The sequence number in a segment's file name, or None for any other name."""
    match = _SEGMENT.match(name)
    return int(match[1]) if match else None


def index_chunk_name(chunk: int) -> str:
    """The file name of a log index chunk."""
    return f"index.{chunk:09d}"


def index_chunk_number(name: str) -> int | None:
    """The number in an index chunk's file name, or None for any other name."""
    match = _INDEX_CHUNK.match(name)
    return int(match[1]) if match else None


def is_tablet_id(name: str) -> bool:
    """Kudu's form of a tablet id: 32 lowercase hexadecimal digits."""
    return _TABLET_ID.match(name) is not None


def find_tablets(folder: str | os.PathLike[str], *, metadata_dir: str | os.PathLike[str] | None = None
                 ) -> list[TabletFiles]:
    """The replicas found from a folder, by tablet id.

    Args:
        folder: a server's WAL root, any folder that holds `wals`, `consensus-meta` or `tablet-meta`, that `wals` folder
            itself, or the segment folder of one tablet (metadata is then found beside `wals`, if it is in one).
        metadata_dir: the root of `consensus-meta` and `tablet-meta`, where it is another than that of `wals`.

    Raises NotFound if the folder is none of these, DiskError if it cannot be listed.
    """
    base = Path(os.path.abspath(folder))
    names = set(_names(base))
    metadata_root = None if metadata_dir is None else Path(os.path.abspath(metadata_dir))
    if names & {WALS, CONSENSUS_META, TABLET_META}:
        return list(_tablets_of(base, metadata_root or base))
    if base.name == WALS:
        return list(_tablets_of(base.parent, metadata_root or base.parent))
    if base.parent.name == WALS or any(segment_sequence(name) is not None for name in names):
        return [_tablet_of(base, metadata_root)]
    raise NotFound("no tablets here", path=str(base),
                   advice=f"a folder that holds {WALS}, {CONSENSUS_META} or {TABLET_META}, or one tablet's segments")


def find_tablet(folder: str | os.PathLike[str], tablet_id: str, *,
                metadata_dir: str | os.PathLike[str] | None = None) -> TabletFiles:
    """The one replica with that id. Raises NotFound, naming those that are there."""
    tablets = find_tablets(folder, metadata_dir=metadata_dir)
    for tablet in tablets:
        if tablet.tablet_id == tablet_id:
            return tablet
    raise NotFound(f"no tablet {tablet_id} here", path=os.fspath(folder),
                   advice=f"one of {_some(t.tablet_id for t in tablets)}" if tablets else None)


def _some(names: Iterable[str]) -> str:
    """The first of many names."""
    known = list(names)
    return ", ".join(known[:_NAMES_SHOWN]) + (", ..." if len(known) > _NAMES_SHOWN else "")


def _tablets_of(wal_root: Path, metadata_root: Path) -> Iterator[TabletFiles]:
    wals = wal_root / WALS
    ids = {name.removesuffix(RECOVERY_SUFFIX) for name in _names_if_there(wals)}
    for kind in (TABLET_META, CONSENSUS_META):
        ids.update(_names_if_there(metadata_root / kind))
    for tablet_id in sorted(filter(is_tablet_id, ids)):
        yield _files(tablet_id, wals / tablet_id, metadata_root, wal_root)


def _tablet_of(folder: Path, metadata_root: Path | None) -> TabletFiles:
    """One tablet by its segment folder, which may also be the old log of a rewrite or a copy of it."""
    tablet_id = folder.name.partition(RECOVERY_SUFFIX)[0]
    root = folder.parent.parent if folder.parent.name == WALS else None
    found = _files(tablet_id, folder, metadata_root or root, root)
    if folder.name == tablet_id:
        return found
    # Named on purpose, so it is the log to read, whatever stands beside it.
    return TabletFiles(tablet_id, folder, None, found.cmeta_path, found.superblock_path, found.instance_path)


def _files(tablet_id: str, wal_dir: Path, metadata_root: Path | None, wal_root: Path | None) -> TabletFiles:
    recovery = wal_dir.with_name(tablet_id + RECOVERY_SUFFIX)
    roots = [root for root in (wal_root, metadata_root) if root is not None]
    return TabletFiles(
        tablet_id=tablet_id,
        wal_dir=wal_dir,
        recovery_dir=recovery if recovery.is_dir() else None,
        cmeta_path=_if_file(metadata_root and metadata_root / CONSENSUS_META / tablet_id),
        superblock_path=_if_file(metadata_root and metadata_root / TABLET_META / tablet_id),
        instance_path=next(filter(None, (_if_file(root / INSTANCE) for root in roots)), None),
    )


def _if_file(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None


def _names_if_there(folder: Path) -> list[str]:
    return _names(folder) if folder.is_dir() else []


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        raise NotFound("no such folder", path=str(folder)) from None
    except NotADirectoryError:
        raise NotFound("not a folder", path=str(folder),
                       advice="the folder that holds it, or `wal dump` for one segment file") from None
    except OSError as error:
        raise DiskError(f"cannot list: {error.strerror}", path=str(folder)) from error
