"""Base-128 varints as protobuf has them. Pure. For a few numbers at a time: bulk work is native (_native/wire.pxd)."""
from __future__ import annotations


def encode_varint(value: int) -> bytes:
    """`value`, 0 or above, seven bits a byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
