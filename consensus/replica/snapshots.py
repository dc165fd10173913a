"""The file of a state machine's snapshot, beside the log: replaced durably. Blocks on the disk.

    bytes  what
        8  "kuduraft"
        4  version, 1
        8  term     \\  of the last operation that is in it
        8  index    /
        4  bytes of the configuration that was committed then, a RaftConfigPB
        8  bytes of the state
        4  CRC-32C of all of that
        .  the configuration, the state
        4  CRC-32C of these
Little-endian. The log may lose what is at or below `index`; it never does before the file is durable.
"""
from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadChecksum, DiskError, ForeignFile, LimitExceeded, NewerVersion, Truncated
from kudu_storage.fs.pb_container import replace_file

_MAGIC: Final = b"kuduraft"
_HEAD: Final = struct.Struct("<8sIqqIQ")
_CRC: Final = struct.Struct("<I")
CONFIG_BYTES_MAX: Final = 1 << 20


class Snapshot(NamedTuple):
    """A state machine's state as of an operation."""

    last: OpId
    config: bytes
    data: bytes


def encode(snapshot: Snapshot) -> bytes:
    head = _HEAD.pack(_MAGIC, 1, *snapshot.last, len(snapshot.config), len(snapshot.data))
    body = snapshot.config + snapshot.data
    return b"".join((head, _CRC.pack(crc32c(head)), body, _CRC.pack(crc32c(body))))


def write_snapshot(path: str, snapshot: Snapshot, disk: Disk) -> None:
    """Raises DiskError."""
    replace_file(path, encode(snapshot), disk=disk)


def read_snapshot(path: str) -> Snapshot | None:
    """None: there is none. Raises CorruptionError, DiskError."""
    if not os.path.exists(path):
        return None
    return decode(read_bytes(path), path)


def read_bytes(path: str) -> bytes:
    """The file. Raises DiskError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DiskError(f"cannot read the snapshot: {error.strerror}", path=path) from error


def decode(data: bytes, path: str | None = None) -> Snapshot:
    """The snapshot in a file's bytes. Raises CorruptionError."""
    size = _HEAD.size
    if len(data) < size + 4:
        raise Truncated(f"a snapshot of {len(data)} bytes has no whole header", path=path)
    magic, version, term, index, config_bytes, data_bytes = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ForeignFile("this is no snapshot of a state machine", path=path)
    if version != 1:
        raise NewerVersion(f"a snapshot of version {version}; this release knows 1", path=path)
    if _CRC.unpack_from(data, size)[0] != crc32c(data[:size]):
        raise BadChecksum("the header's checksum does not match", path=path, offset=0)
    if config_bytes > CONFIG_BYTES_MAX:
        raise LimitExceeded(f"a configuration of {config_bytes} bytes", path=path)
    begin, end = size + 4, size + 4 + config_bytes + data_bytes
    if len(data) != end + 4:
        raise Truncated(f"a snapshot of {len(data)} bytes should have {end + 4}", path=path)
    if _CRC.unpack_from(data, end)[0] != crc32c(data[begin:end]):
        raise BadChecksum("the checksum of what it holds does not match", path=path, offset=begin)
    return Snapshot(OpId(term, index), data[begin:begin + config_bytes], data[begin + config_bytes:end])


def snapshot_path(folder: str, tablet_id: str) -> str:
    return os.path.join(folder, "snapshots", tablet_id)
