"""Metadata files of real servers, from the repository's golden replicas."""
from __future__ import annotations

import struct
from pathlib import Path

import crcmod.predefined

REPLAY = Path(__file__).resolve().parents[1] / "golden" / "replay"
METADATA = REPLAY.parent / "metadata"
CMETA, SUPERBLOCK = "consensus-meta", "tablet-meta"
crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


def metadata_files(kind: str) -> list[Path]:
    """All undamaged files of a kind, by name."""
    return sorted(path for path in REPLAY.glob(f"*/*/{kind}/*") if "damaged" not in path.parts)


def one_file(kind: str, case: str) -> Path:
    """The first replica's file in a golden case, such as "r05"."""
    return next(path for path in metadata_files(kind) if path.parts[-4].startswith(case))


def record(body: bytes) -> bytes:
    """A version 2 record, its checksums made by another implementation than the package's."""
    length = struct.pack("<I", len(body))
    return length + struct.pack("<I", crc32c(length)) + body + struct.pack("<I", crc32c(body))


def container(*bodies: bytes) -> bytes:
    """A version 2 container of these record bodies; the first is the description of the others."""
    header = b"kuducntr" + struct.pack("<I", 2)
    return header + struct.pack("<I", crc32c(header)) + b"".join(map(record, bodies))


def old_container(*bodies: bytes) -> bytes:
    """The same in version 1: no checksum over the header, one over length and body together."""
    records = (struct.pack("<I", len(body)) + body for body in bodies)
    return b"kuducntr" + struct.pack("<I", 1) + b"".join(r + struct.pack("<I", crc32c(r)) for r in records)


def split(data: bytes) -> list[bytes]:
    """The record bodies of a whole version 2 container; nothing is checked."""
    bodies, at = [], 16
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        bodies.append(data[at + 8:at + 8 + size])
        at += 8 + size + 4
    return bodies
