"""What a replica finds in its folder: identity, metadata, snapshot, log. Blocks on the disk; an executor's work.

Everything is synced before the core is made (W8): the log syncs itself when it is opened.
"""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from consensus.raft.configuration import Config, Peer
from consensus.raft.state import Recovered
from consensus.replica.metadata import MetadataFile, make_folder
from consensus.replica.snapshots import Snapshot, read_snapshot, snapshot_path
from consensus.transport.configs import record_config
from consensus.transport.names import Names, is_uuid
from kudu_storage import Log
from kudu_storage._native.disk import Disk
from kudu_storage._native.operations import LogScan
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.errors import CorruptionError, InvalidArgument
from kudu_storage.fs.instance import Instance, read_instance, write_instance
from kudu_storage.wal.reader import list_segments, open_segment


class Found(NamedTuple):
    """All that is open now."""

    log: Log
    metadata: MetadataFile
    snapshot: Snapshot | None
    recovered: Recovered
    timestamp: int              # the highest in the log
    first_index: int            # of the log; of what comes next in one without operations


def tablet_id_of(group: str) -> str:
    """The same id wherever a group's name is given; 32 hexadecimal digits are their own."""
    return group if is_uuid(group) else hashlib.sha256(b"kudu-storage group " + group.encode()).hexdigest()[:32]


def first_config(me: str, peers: Mapping[str, str], join: bool) -> Config:
    """What a new replica takes for the group's configuration: for one that joins later, without itself."""
    members = {name: address for name, address in peers.items() if not (join and name == me)}
    if not members:
        raise InvalidArgument("a group has at least one member")
    if me not in peers:
        raise InvalidArgument(f"peers lacks {me} itself, and so the address to listen at")
    return Config(tuple(Peer(name, address=address) for name, address in members.items()))


def open_replica(folder: str, me: str, tablet_id: str, first: Config, names: Names, disk: Disk,
                 open_log: Callable[[str, OpId], Log]) -> Found:
    """Raises CorruptionError, LogLocked, InvalidArgument, DiskError."""
    make_folder(folder, disk)
    _check_instance(os.path.join(folder, "instance"), names.uuid(me), me, disk)
    metadata = MetadataFile.open(os.path.join(folder, "consensus-meta", tablet_id), first, names, disk)
    make_folder(os.path.join(folder, "snapshots"), disk)
    snapshot = read_snapshot(snapshot_path(folder, tablet_id))
    wal = os.path.join(folder, "wals", tablet_id)
    make_folder(wal, disk)
    begin = MINIMUM_OPID if snapshot is None else snapshot.last
    log = open_log(wal, begin)
    try:
        scan = scan_log(log.path)
        if not _goes_on_from(scan, begin):
            log.close()
            remove_log(wal, disk)
            log = open_log(wal, begin)
            scan = scan_log(log.path)
        return Found(log, metadata, snapshot, recovered_from(metadata, snapshot, scan, log, names), scan.timestamp,
                     log.first_index)
    except BaseException:
        log.close()
        raise


def _goes_on_from(scan: LogScan, begin: OpId) -> bool:
    """Whether a log leads past a snapshot. One that does not was there before the snapshot came from the leader, and a
    crash came between: all in it is covered by the snapshot, or was never committed."""
    if begin.index == 0 or scan.first_index in (0, begin.index + 1):
        return True
    if not scan.first_index <= begin.index <= scan.last_index:
        return False
    return max((span for span in scan.spans if span[1] <= begin.index), key=lambda s: s[1])[0] == begin.term


def remove_log(path: str, disk: Disk) -> None:
    """Segments go newest first, so that a crash leaves a log that ends earlier."""
    for file in reversed(list_segments(path)):
        disk.unlink(file.path)
        disk.sync_dir(path)
    for name in os.listdir(path):
        if name.startswith("index."):
            disk.unlink(os.path.join(path, name))


def _check_instance(path: str, uuid: str, me: str, disk: Disk) -> None:
    if not os.path.exists(path):
        write_instance(path, Instance(uuid, f"replica {me}"), disk=disk)
        return
    found = read_instance(path)
    if found.uuid != uuid:
        raise InvalidArgument(f"this folder belongs to {found.format_stamp or found.uuid}, not to replica {me}",
                              path=path, advice="a folder of its own for each replica")


def scan_log(path: str) -> LogScan:
    """All of a log that was opened, and so is whole."""
    scan = LogScan()
    for file in list_segments(path):
        with open_segment(file.path) as segment:
            scanner = segment.scanner()
            while (chunk := scanner.next_chunk()) is not None:
                scan.add(chunk)
            error = segment.error_of(scanner)
            if error is not None:
                raise error
    return scan


def recovered_from(metadata: MetadataFile, snapshot: Snapshot | None, scan: LogScan, log: Log,
                   names: Names) -> Recovered:
    last = log.last
    applied = MINIMUM_OPID if snapshot is None else snapshot.last
    base = _base(scan, applied)
    if metadata.term < last.term:
        raise CorruptionError(f"the log ends with {last}, the consensus metadata with term {metadata.term}",
                              path=metadata.path, advice="a copy of another replica; this one may have voted twice")
    ends = [*(first - 1 for _, first in scan.spans[1:]), last.index]
    spans = tuple((term, max(first, base.index + 1)) for (term, first), end in zip(scan.spans, ends, strict=False)
                  if end > base.index)
    configs: list[Any] = [record_config(record, index, names) for index, record in scan.configs if index > base.index]
    return Recovered(metadata.config, metadata.term, metadata.voted_for, base, spans, max(last.index, base.index),
                     tuple(configs), min(max(scan.commit_index, applied.index), max(last.index, base.index)))


def _base(scan: LogScan, applied: OpId) -> OpId:
    """The newest operation that is known by its name only, for what stood before it was collected."""
    first = scan.first_index
    if first == 1 or (first == 0 and applied.index == 0):
        return MINIMUM_OPID
    if 0 < first <= applied.index:
        return OpId(scan.spans[0][0], first)
    if first in (0, applied.index + 1):
        return applied
    raise CorruptionError(f"the log begins at {first}, the snapshot ends with {applied}",
                          advice="a copy of another replica")
