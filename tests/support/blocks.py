"""Blocks for tests: a schema with every column type, rows for it, and the stored tables' rows as blocks."""
from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock, Value
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema

_PRECISION = {"DECIMAL32": 9, "DECIMAL64": 18, "DECIMAL128": 38}
_SCALE = {"DECIMAL32": 2, "DECIMAL64": 4, "DECIMAL128": 10}


def column(name: str, kind: str, **more: Any) -> ColumnSchema:
    """A column of the type called `kind`, decimals with a precision and scale."""
    more = {"precision": _PRECISION.get(kind, 0), "scale": _SCALE.get(kind, 0), "nullable": True, **more}
    return ColumnSchema(name, types.BY_NAME[kind], **more)


ALL_TYPES = Schema((column("id", "INT32", is_key=True, nullable=False),
                    *(column(f"c_{kind.lower()}", kind, nullable=False) for kind in types.BY_NAME),
                    *(column(f"n_{kind.lower()}", kind) for kind in types.BY_NAME)))


def one_column(kind: str, *values: Value, **more: Any) -> ColumnBlock:
    """A block with one column `c`."""
    return ColumnBlock.from_tuples(Schema((column("c", kind, **more),)), [(value,) for value in values])


def cells(kind: str) -> st.SearchStrategy[Any]:
    """Values of a column type, with its edges."""
    if kind in _PRECISION:
        edge = 10 ** _PRECISION[kind] - 1
        scale = _SCALE[kind]
        return st.integers(-edge, edge).map(lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale)))
    return {
        "INT8": st.integers(-2**7, 2**7 - 1), "INT16": st.integers(-2**15, 2**15 - 1),
        "INT32": st.integers(-2**31, 2**31 - 1), "INT64": st.integers(-2**63, 2**63 - 1),
        "STRING": st.text(), "VARCHAR": st.text(), "BINARY": st.binary(), "BOOL": st.booleans(),
        "FLOAT": st.floats(width=32, allow_nan=False), "DOUBLE": st.floats(allow_nan=False),
        "UNIXTIME_MICROS": st.datetimes(timezones=st.just(UTC)), "DATE": st.dates(),
    }[kind]


def rows_of(schema: Schema, max_size: int = 12) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Rows that fit the schema."""
    values = [st.one_of(st.none(), cells(c.type.name)) if c.nullable else cells(c.type.name) for c in schema]
    return st.lists(st.tuples(*values), max_size=max_size)


def as_single(value: float) -> float:
    """The 32-bit number that a reader of `value` gets."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


SAMPLE_ROW: tuple[Value, ...] = (
    7,
    -128, 300, -70000, 2**53 + 1, 'é "\n', True, as_single(0.1), 1e300, b"\x00\xff",
    datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC),
    Decimal("-12.30"), Decimal("5.0000"), Decimal("-0.0000000001"), "v", date(1969, 12, 31),
    *[None] * len(types.BY_NAME),
)


# -- stored tables -----------------------------------------------------------------------------------------------------
class TruthTable:
    """One table of a stored case: its schema, final rows, and the checksum that ksck reported over its tablets."""

    def __init__(self, case: Path, table: dict[str, Any]) -> None:
        self.name = f"{case.name}/{table['name']}"
        self.schema = Schema(tuple(_truth_column(c) for c in table["schema"]["columns"]))
        sums = [tablet["ksck_checksums"] for tablet in table["tablets"]]
        # None where the case did not ask ksck.
        self.checksum = sum(next(iter(replicas.values())) for replicas in sums) if all(sums) else None
        path = case / table["rows_file"]
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]

    def block(self) -> ColumnBlock:
        return ColumnBlock.from_tuples(self.schema, [
            [truth_value(c, row[c.name]) for c in self.schema] for row in self.rows])


def truth_tables(root: Path) -> Sequence[TruthTable]:
    return [TruthTable(path.parents[1], table)
            for path in sorted((root / "kudu-fixtures").glob("*/truth/truth.json"))
            for table in json.loads(path.read_text(encoding="utf-8"))["tables"]]


def _truth_column(told: dict[str, Any]) -> ColumnSchema:
    return ColumnSchema(told["name"], types.BY_NAME[told["wire_type"]], nullable=told["nullable"], is_key=told["key"],
                        precision=told.get("precision", 0), scale=told.get("scale", 0))


def truth_value(told: ColumnSchema, value: Any) -> Value:
    """A value of a truth file as a block takes it."""
    if value is None:
        return None
    if told.type.name == "BINARY":
        return base64.b64decode(value)
    if told.type.is_decimal:
        return Decimal(value)
    if told.type.name in ("FLOAT", "DOUBLE"):
        return float(value)
    return value    # type: ignore[no-any-return]
