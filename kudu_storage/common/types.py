"""Column types of Kudu 1.18.1 and how their cells look in memory, in a client's row operations and on disk.

A cell of a fixed type is its little-endian bytes; BOOL is one byte, 0 or 1. STRING, BINARY and VARCHAR cells are bytes.
Source: common/common.proto (DataType), common/types.h.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kudu_storage.errors import Unsupported


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One column type. `width_bytes` is the size of a cell, or 0 for types of variable length."""

    number: int          # kudu.DataType
    name: str            # Kudu's name of it
    width_bytes: int
    is_key_type: bool    # may be part of a primary key

    @property
    def is_binary(self) -> bool:
        """Cells are byte strings of any length."""
        return self.width_bytes == 0

    @property
    def is_decimal(self) -> bool:
        return self.name.startswith("DECIMAL")


_ALL = (
    ColumnType(1, "INT8", 1, True),
    ColumnType(3, "INT16", 2, True),
    ColumnType(5, "INT32", 4, True),
    ColumnType(7, "INT64", 8, True),
    ColumnType(8, "STRING", 0, True),
    ColumnType(9, "BOOL", 1, False),
    ColumnType(10, "FLOAT", 4, False),
    ColumnType(11, "DOUBLE", 8, False),
    ColumnType(12, "BINARY", 0, True),
    ColumnType(13, "UNIXTIME_MICROS", 8, True),
    ColumnType(15, "DECIMAL32", 4, True),
    ColumnType(16, "DECIMAL64", 8, True),
    ColumnType(17, "DECIMAL128", 16, True),
    ColumnType(19, "VARCHAR", 0, True),
    ColumnType(20, "DATE", 4, True),
)
BY_NUMBER: Final = {t.number: t for t in _ALL}
BY_NAME: Final = {t.name: t for t in _ALL}
# Types that the format knows and a table of 1.18.1 cannot have as a stored column, or that we refuse.
_REFUSED: Final = {
    0: "UINT8", 2: "UINT16", 4: "UINT32", 6: "UINT64", 14: "INT128", 18: "IS_DELETED", 21: "NESTED (array)",
    999: "UNKNOWN_DATA",
}


def by_number(number: int) -> ColumnType:
    """The type with kudu.DataType `number`. Raises Unsupported, naming the type, for those not handled."""
    found = BY_NUMBER.get(number)
    if found is None:
        name = _REFUSED.get(number, f"number {number}")
        raise Unsupported(f"column type {name} is not supported",
                          advice="a newer version of kudu-storage, or the real kudu tools")
    return found
