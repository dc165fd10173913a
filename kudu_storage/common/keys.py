"""Encoded primary keys: bytes whose order under memcmp is the order of the keys. Pure functions of bytes.

This is the slow, obvious form: the specification that the native encoder is held against, and the one that inspection
tools use. Source: common/key_encoder.h.

    integers     big-endian, the sign bit flipped (decimals, DATE and UNIXTIME_MICROS as their integers)
    byte strings last column: as they are; others: each 00 becomes 00 01, then 00 00 ends the column
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kudu_storage.common.limits import ENCODED_KEY_BYTES_MAX
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, InvalidArgument, LimitExceeded

_SEPARATOR: Final = b"\x00\x00"


def encode_key(schema: Schema, cells: Sequence[bytes]) -> bytes:
    """The encoded key of a row whose key cells are `cells`, in column order (more cells than key columns do no harm).

    Raises InvalidArgument for a cell of the wrong size or a missing one, LimitExceeded above Kudu's 16 KiB.
    """
    key_columns = schema.key_columns
    if len(cells) < len(key_columns):
        raise InvalidArgument(f"a key of {len(key_columns)} columns needs as many cells, got {len(cells)}")
    last = len(key_columns) - 1
    encoded = b"".join(encode_key_cell(column, cells[i], is_last=i == last) for i, column in enumerate(key_columns))
    if len(encoded) > ENCODED_KEY_BYTES_MAX:
        raise LimitExceeded(f"encoded key of {len(encoded)} bytes, the limit is {ENCODED_KEY_BYTES_MAX}")
    return encoded


def encode_key_cell(column: ColumnSchema, cell: bytes, *, is_last: bool) -> bytes:
    """One column's part of an encoded key."""
    if column.type.is_binary:
        return cell if is_last else cell.replace(b"\x00", b"\x00\x01") + _SEPARATOR
    if len(cell) != column.type.width_bytes:
        raise InvalidArgument(f"key column {column.name!r}: a cell of {column.type.name} has "
                              f"{column.type.width_bytes} bytes, got {len(cell)}")
    big_endian = cell[::-1]
    return bytes([big_endian[0] ^ 0x80]) + big_endian[1:]


def decode_key(schema: Schema, encoded: bytes) -> list[bytes]:
    """The key cells of an encoded key. Raises BadFormat for bytes that no key encodes to."""
    cells = []
    rest = encoded
    last = schema.key_column_count - 1
    for i, column in enumerate(schema.key_columns):
        cell, rest = decode_key_cell(column, rest, is_last=i == last)
        cells.append(cell)
    if rest:
        raise BadFormat(f"encoded key has {len(rest)} bytes after its last column")
    return cells


def decode_key_cell(column: ColumnSchema, encoded: bytes, *, is_last: bool) -> tuple[bytes, bytes]:
    """One cell of an encoded key and the bytes after it. Raises BadFormat."""
    if column.type.is_binary:
        return (encoded, b"") if is_last else _take_separated(column, encoded)
    width = column.type.width_bytes
    if len(encoded) < width:
        raise BadFormat(f"encoded key is too short for column {column.name!r}: {len(encoded)} of {width} bytes")
    big_endian = bytes([encoded[0] ^ 0x80]) + encoded[1:width]
    return big_endian[::-1], encoded[width:]


def _take_separated(column: ColumnSchema, encoded: bytes) -> tuple[bytes, bytes]:
    cell = bytearray()
    at = 0
    while True:
        zero = encoded.find(b"\x00", at)
        if zero < 0 or zero + 1 == len(encoded):
            raise BadFormat(f"encoded key has no separator after column {column.name!r}")
        cell += encoded[at:zero]
        if encoded[zero + 1] == 0:
            return bytes(cell), encoded[zero + 2:]
        if encoded[zero + 1] != 1:
            raise BadFormat(f"encoded key has 00 {encoded[zero + 1]:02x} inside column {column.name!r}")
        cell.append(0)
        at = zero + 2
