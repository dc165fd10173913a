"""Which directories a server was started with, from the flags that name them. Read-only: looks whether names exist.

    --fs_wal_dir       logs, and metadata unless that is elsewhere
    --fs_data_dirs     data blocks, comma-separated; the WAL root where it is not given
    --fs_metadata_dir  consensus-meta and tablet-meta; where it is not given, the first data root if that has a
                       tablet-meta folder (servers before 1.6 kept it there), else the WAL root
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kudu_storage.errors import CorruptionError, InvalidArgument
from kudu_storage.fs.instance import read_instance
from kudu_storage.fs.layout import INSTANCE, TABLET_META, TabletFiles, find_tablet, find_tablets


@dataclass(frozen=True, slots=True)
class ServerRoots:
    """The directories of one server. `single` is set where one folder of any known kind stands for all of them."""

    wal_root: Path
    data_roots: tuple[Path, ...]
    metadata_root: Path
    single: bool = False

    def tablets(self) -> list[TabletFiles]:
        """The replicas here, by tablet id. Raises NotFound or DiskError."""
        return find_tablets(self.wal_root, metadata_dir=None if self.single else self.metadata_root)

    def tablet(self, tablet_id: str) -> TabletFiles:
        """The one replica with that id. Raises NotFound, naming those that are there."""
        return find_tablet(self.wal_root, tablet_id, metadata_dir=None if self.single else self.metadata_root)

    def check_instances(self) -> list[CorruptionError]:
        """What is wrong with the instance files that are there; none need be.

        Raises Unsupported for a server whose files are encrypted: nothing else of it could be read.
        """
        found: list[CorruptionError] = []
        for root in dict.fromkeys((self.wal_root, self.metadata_root, *self.data_roots)):
            path = root / INSTANCE
            if not path.is_file():
                continue
            try:
                read_instance(path)
            except CorruptionError as error:
                found.append(error)
        return found


def server_roots(wal_dir: str | os.PathLike[str], data_dirs: str = "", metadata_dir: str = "") -> ServerRoots:
    """The roots that these values of Kudu's flags mean. Raises InvalidArgument for an empty WAL root."""
    if not os.fspath(wal_dir):
        raise InvalidArgument("no WAL root was named", advice="--fs_wal_dir=DIR")
    wal_root = _absolute(wal_dir)
    data_roots = tuple(dict.fromkeys(_absolute(name) for name in data_dirs.split(",") if name)) or (wal_root,)
    if metadata_dir:
        metadata_root = _absolute(metadata_dir)
    else:
        metadata_root = data_roots[0] if (data_roots[0] / TABLET_META).exists() else wal_root
    return ServerRoots(wal_root, data_roots, metadata_root)


def single_root(folder: str | os.PathLike[str]) -> ServerRoots:
    """One folder that stands for all: what find_tablets() takes."""
    root = _absolute(folder)
    return ServerRoots(root, (root,), root, single=True)


def _absolute(name: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(name))
