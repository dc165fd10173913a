"""Reading the containers of a data directory, and repairing what crashes left there.

Repairs, in this order; each of them may be cut short by another crash:
    torn record at the end of a metadata file     cut off, durably
    files that never held a block                 removed
    full container without live blocks            removed, unless the highest block id is known from it alone
    full container with more space than it needs  cut behind its last block
    full container, at most half of its records live   metadata rewritten
    space between live blocks that is taken        given back, after the records are durable
Nothing is repaired while there are malformed records: they may be what tells where blocks are.
"""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from kudu_storage._native.disk import Disk
from kudu_storage.errors import BadFormat, CorruptionError, DirectoryFailed, DiskError, KuduStorageError
from kudu_storage.fs.blocks.container import DATA_SUFFIX, METADATA_SUFFIX, Container
from kudu_storage.fs.blocks.directories import DataDirectory
from kudu_storage.fs.blocks.options import BlockOptions
from kudu_storage.fs.blocks.records import TYPE, align_up, fold, gaps, torn_tail
from kudu_storage.fs.blocks.report import ExtraSpace, FsReport, IncompleteContainer, MalformedRecord, PartialRecord
from kudu_storage.fs.pb_container import parse_container

_T = TypeVar("_T")
# Shorter metadata files hold nothing (Kudu's kPBContainerMinimumValidLength).
_METADATA_BYTES_MIN = 12
# Files may take so much more than their blocks: file systems count in their own ways (Kudu's default).
_EXCESS_FRACTION = 0.10


@dataclass(slots=True)
class Loaded:
    """One directory's containers, and their part of the report."""

    directory: DataDirectory
    disk: Disk
    containers: list[Container] = field(default_factory=list)
    incomplete: list[IncompleteContainer] = field(default_factory=list)
    partial: dict[str, PartialRecord] = field(default_factory=dict)         # by container path
    extra_space: dict[str, ExtraSpace] = field(default_factory=dict)
    malformed: list[MalformedRecord] = field(default_factory=list)
    misaligned: list[tuple[str, int]] = field(default_factory=list)


def is_full(container: Container, options: BlockOptions) -> bool:
    """It takes no more blocks."""
    return container.next_offset >= options.container_bytes_max \
        or container.record_count >= options.container_records_max


def wants_compaction(container: Container) -> bool:
    """At most half of the records are live, and a rewrite would drop some."""
    needed = len(container.live) + (0 if container.id_max in container.live or not container.id_max else 2)
    return len(container.live) * 2 <= container.record_count and needed < container.record_count


# -- reading -----------------------------------------------------------------------------------------------------------
def load_directory(directory: DataDirectory, disk: Disk, options: BlockOptions, *, read_only: bool) -> Loaded:
    """All containers of a directory. Writes nothing.

    Raises DirectoryFailed, or what is wrong with a file of a container, by name: its blocks cannot be known then.
    """
    loaded = Loaded(directory, disk)
    for name in _container_names(directory):
        container = Container(directory, name, disk)
        try:
            if _load(container, loaded):
                loaded.containers.append(container)
                _examine(container, loaded, options)
        except FileNotFoundError as error:
            if read_only:       # removed by the server meanwhile
                continue
            raise CorruptionError("one of the two files of a container is missing", path=error.filename,
                                  advice="kudu-storage fs check tells which tablets miss blocks") from error
        except DiskError:
            raise
        except OSError as error:
            raise directory.judge(error) from error
    return loaded


def _container_names(directory: DataDirectory) -> Iterator[str]:
    try:
        names = os.listdir(directory.path)
    except OSError as error:
        raise directory.judge(error) from error
    stems = {name.removesuffix(suffix) for name in names for suffix in (DATA_SUFFIX, METADATA_SUFFIX)
             if name.endswith(suffix)}
    yield from sorted(stems)


def _load(container: Container, loaded: Loaded) -> bool:
    """Read one container's metadata. False if it holds nothing and was noted as incomplete."""
    data_size, metadata = _size(container.data_path), _bytes(container.metadata_path)
    if len(metadata or b"") < _METADATA_BYTES_MIN and not data_size:
        loaded.incomplete.append(IncompleteContainer(container.path))
        return False
    if metadata is None:
        raise FileNotFoundError(2, "missing", container.metadata_path)
    records = parse_container(metadata, container.metadata_path, tolerant=True)
    if records.type_name != TYPE:
        raise BadFormat(f"the container holds {records.type_name}, not {TYPE}", path=container.metadata_path)
    if records.error is not None and not torn_tail(records, metadata):
        raise records.error
    if data_size is None:
        folded = fold(records.records, lambda: sys.maxsize, container.metadata_path)
        if records.error is None and not folded.live and not folded.malformed:
            loaded.incomplete.append(IncompleteContainer(container.path))
            return False
        raise FileNotFoundError(2, "missing", container.data_path)
    folded = fold(records.records, lambda: _size(container.data_path) or 0, container.metadata_path)
    container.take(folded)
    container.data_end, container.metadata_end = data_size, records.offsets[-1]
    loaded.malformed += (MalformedRecord(container.path, record) for record in folded.malformed)
    if records.error is not None:
        loaded.partial[container.path] = PartialRecord(container.path, records.offsets[-1])
    return True


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _examine(container: Container, loaded: Loaded, options: BlockOptions) -> None:
    """Note misaligned blocks, and the space that a full container does not need."""
    size = container.directory.block_size
    loaded.misaligned += ((container.path, block_id) for block_id, extent in container.live.items()
                          if extent.offset % size)
    if is_full(container, options):
        taken, needed = container.allocated_bytes(), container.live_bytes_aligned
        if taken > needed * (1 + _EXCESS_FRACTION):
            loaded.extra_space[container.path] = ExtraSpace(container.path, taken - needed)


# -- repairing ---------------------------------------------------------------------------------------------------------
def repair(loaded: Loaded, options: BlockOptions, id_max: int) -> None:
    """Repair a directory that is locked. id_max: the highest id known from any container.

    Raises DirectoryFailed, or DiskError where a torn record cannot be cut off; want of space only delays a repair.
    """
    directory = loaded.directory
    for container in loaded.containers:
        if container.path in loaded.partial:
            container.cut_records()
            loaded.partial[container.path].repaired = True
    for entry in loaded.incomplete:
        Container(directory, os.path.basename(entry.container), loaded.disk).remove_files()
        entry.repaired = True
    for container in list(loaded.containers):
        if not is_full(container, options):
            _reclaim(container)
        elif not container.live and container.id_max != id_max:
            container.remove_files()
            loaded.containers.remove(container)
        else:
            _repair_full(container)
        if container.path in loaded.extra_space:
            loaded.extra_space[container.path].repaired = True


def _repair_full(container: Container) -> None:
    if container.data_end > container.next_offset:
        container.cut_data(container.next_offset)
    if wants_compaction(container):
        try:
            container.compact(int(time.time() * 1e6))
        except DirectoryFailed:
            raise
        except KuduStorageError:
            pass        # want of space: the old file stays and is as good
    _reclaim(container)


def _reclaim(container: Container) -> None:
    """Give back what no live block needs: of deleted blocks, and of those that a crash left without a record."""
    size = container.directory.block_size
    reserve = max(0, align_up(container.data_end, size) - container.next_offset)
    needed = container.live_bytes_aligned
    if container.allocated_bytes() <= needed * (1 + _EXCESS_FRACTION) + reserve:
        return
    with container.lock:
        container.sync_records()        # a DELETE that is only in memory must not lose to a power cut
        container.punch(gaps(container.live.values(), container.next_offset, size))


def merge(report: FsReport, loaded: Loaded, options: BlockOptions) -> None:
    """Add one directory's findings to the report. Repairs that follow are seen in it: the entries are the same."""
    report.data_dirs.append(str(loaded.directory.path))
    report.incomplete = _joined(report.incomplete, loaded.incomplete)
    report.partial = _joined(report.partial, list(loaded.partial.values()))
    report.extra_space = _joined(report.extra_space, list(loaded.extra_space.values()))
    report.malformed = _joined(report.malformed, loaded.malformed)
    report.misaligned = _joined(report.misaligned, loaded.misaligned)
    report.rocksdb_checked = True
    for container in loaded.containers:
        report.container_count += 1
        report.full_container_count += is_full(container, options)
        report.live_block_count += len(container.live)
        report.live_block_bytes += container.live_bytes
        report.live_block_bytes_aligned += container.live_bytes_aligned


def _joined(old: list[_T] | None, new: list[_T]) -> list[_T]:
    return [*(old or ()), *new]
