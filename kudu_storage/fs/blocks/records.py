"""Block records of one container: what they say together, and how they are written. Pure.

 R1  Records are folded in file order, per container: an id may have been created and deleted in one container and live
     in another.
 R2  A byte range that a record ever named is never written again: the end of the last block counts also when deleted.
 R3  All records of one append carry one time, later than those before. Damage that sectors of one lost append explain
     is a torn tail; any other damage is corruption.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from kudu_storage._native.crc32c import crc32c
from kudu_storage.common.limits import PB_RECORD_BYTES_MAX
from kudu_storage.errors import BadChecksum, BadFormat, CorruptionError, Truncated
from kudu_storage.fs.pb_container import PbContainer, record_bytes
from kudu_storage.protos import message_class

TYPE: Final = "kudu.BlockRecordPB"
CREATE: Final = 1
DELETE: Final = 2
_SECTOR_BYTES: Final = 512          # what a disk writes in one piece at least
_U32X2: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a block lies in its container's data file."""

    offset: int
    length: int
    timestamp_us: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(slots=True)
class FoldedRecords:
    """What a container's records come to. Ends are not aligned yet."""

    live: dict[int, Extent] = field(default_factory=dict)
    record_count: int = 0
    id_max: int = 0
    id_max_extent: Extent | None = None         # of the block with that id, live or deleted
    end: int = 0                                # of the last block, live or deleted
    timestamp_us_max: int = 0
    malformed: list[Any] = field(default_factory=list)


def align_up(offset: int, block_size: int) -> int:
    """The next multiple of the file system's block size."""
    return -(-offset // block_size) * block_size


def fold(records: Iterable[bytes], data_size: Callable[[], int], path: str) -> FoldedRecords:
    """Replay a container's records (R1, R2).

    data_size: asked again whenever a block seems to lie beyond it, for the file may be growing.
    Raises BadFormat for a record that is no BlockRecordPB.
    """
    folded = FoldedRecords()
    cls: Any = message_class(TYPE)
    known_size = 0
    for body in records:
        record = _parsed(cls, body, path)
        folded.record_count += 1
        folded.timestamp_us_max = max(folded.timestamp_us_max, record.timestamp_us)
        if record.op_type == CREATE:
            if record.length > 0 and record.offset + record.length > known_size:
                known_size = data_size()
            _create(folded, record, known_size)
        elif record.op_type != DELETE or folded.live.pop(record.block_id.id, None) is None:
            folded.malformed.append(record)
    return folded


def _parsed(cls: Any, body: bytes, path: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        record = cls.FromString(body)
    except DecodeError as error:
        raise BadFormat(f"not a {TYPE}: {error}", path=path) from None
    if not record.IsInitialized():
        raise BadFormat(f"a {TYPE} without required fields", path=path)
    return record


def _create(folded: FoldedRecords, record: Any, data_size: int) -> None:
    block_id = record.block_id.id
    inside = record.length == 0 or record.offset + record.length <= data_size
    whole = record.HasField("offset") and record.HasField("length") and record.offset >= 0 and record.length >= 0
    if not whole or not inside or block_id in folded.live:
        folded.malformed.append(record)
        return
    extent = Extent(record.offset, record.length, record.timestamp_us)
    folded.live[block_id] = extent
    folded.end = max(folded.end, extent.end)
    if block_id >= folded.id_max:
        folded.id_max, folded.id_max_extent = block_id, extent


def create_record(block_id: int, extent: Extent, timestamp_us: int) -> bytes:
    """A CREATE as it lies in the file."""
    record: Any = message_class(TYPE)(op_type=CREATE, timestamp_us=timestamp_us, offset=extent.offset,
                                      length=extent.length)
    record.block_id.id = block_id
    return record_bytes(record.SerializeToString())


def delete_record(block_id: int, timestamp_us: int) -> bytes:
    """A DELETE as it lies in the file."""
    record: Any = message_class(TYPE)(op_type=DELETE, timestamp_us=timestamp_us)
    record.block_id.id = block_id
    return record_bytes(record.SerializeToString())


def compacted(live: dict[int, Extent], id_max: int, id_max_extent: Extent | None, timestamp_us: int) -> list[bytes]:
    """The bodies of the records that a rewritten container needs: the live blocks; the highest id if deleted (B5)."""
    kept = sorted(live.items(), key=lambda item: (item[1].offset, item[0]))
    framed = [create_record(block_id, extent, extent.timestamp_us) for block_id, extent in kept]
    if id_max not in live and id_max_extent is not None:
        framed += [create_record(id_max, id_max_extent, timestamp_us), delete_record(id_max, timestamp_us)]
    return [record[8:-4] for record in framed]


def gaps(extents: Iterable[Extent], end: int, block_size: int) -> Iterator[tuple[int, int]]:
    """The (offset, size) of whole file system blocks below `end` that no extent touches."""
    at = 0
    for extent in sorted(extents, key=lambda extent: extent.offset):
        if extent.length == 0:
            continue
        first = extent.offset // block_size * block_size
        if first > at:
            yield at, first - at
        at = max(at, align_up(extent.end, block_size))
    if end > at:
        yield at, end - at


# -- a torn tail -------------------------------------------------------------------------------------------------------
def torn_tail(container: PbContainer, data: bytes) -> bool:
    """Whether the damage behind the last good record is what a crash leaves of one append that was never durable (R3).

    `container` is the tolerant reading of `data`. Sectors reach a disk in any order; one that did not is all zeros.
    """
    error = container.error
    if isinstance(error, Truncated):
        return True
    start = container.offsets[-1]
    if not isinstance(error, BadChecksum | BadFormat | CorruptionError) or container.version < 2:
        return False
    rest = list(_records_behind(data, start))
    times = {time for _, time in rest}
    damage_end = min((offset for offset, _ in rest), default=len(data))
    return len(times) <= 1 and _has_lost_sector(data, start, damage_end)


def _has_lost_sector(data: bytes, start: int, end: int) -> bool:
    at = start
    while at < end:
        stop = min((at // _SECTOR_BYTES + 1) * _SECTOR_BYTES, end)
        if not any(data[at:stop]):
            return True
        at = stop
    return False


def _records_behind(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """(offset, time) of all whole records behind some damage, wherever they start."""
    cls: Any = message_class(TYPE)
    at = start + 1
    while at + 12 <= len(data):
        size, check = _U32X2.unpack_from(data, at)
        end = at + 8 + size + 4
        if size <= PB_RECORD_BYTES_MAX and end <= len(data) and crc32c(data[at:at + 4]) == check \
                and crc32c(data[at + 8:end - 4]) == struct.unpack_from("<I", data, end - 4)[0]:
            try:
                yield at, _parsed(cls, data[at + 8:end - 4], "").timestamp_us
                at = end
                continue
            except BadFormat:
                pass
        at += 1
