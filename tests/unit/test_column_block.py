"""Column blocks: values in, the same values out; what does not fit is refused by column and row."""
from __future__ import annotations

import math
import struct
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, one_column, rows_of
from hypothesis import given

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument, Unsupported


@given(rows_of(ALL_TYPES))
def test_tuples_come_back_as_they_went_in(rows: list[tuple[Any, ...]]) -> None:
    block = ColumnBlock.from_tuples(ALL_TYPES, rows)
    assert block.to_tuples() == rows
    assert len(block) == block.row_count == len(rows)


def test_decimals_keep_their_scale_and_every_digit() -> None:
    widest = Decimal("-9999999999999999999999999999.9999999999")
    [(value,), (zero,)] = one_column("DECIMAL128", widest, 0).to_tuples()
    assert str(value) == str(widest)
    assert str(zero) in ("0E-10", "0.0000000000") and zero.as_tuple().exponent == -10   # type: ignore[union-attr]


def test_floats_keep_their_bits() -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    for value, (back,) in zip(values, one_column("DOUBLE", *values).to_tuples(), strict=True):
        assert struct.pack("<d", back) == struct.pack("<d", value)


def test_cells_are_little_endian_bytes_as_kudu_keeps_them() -> None:
    cells = ColumnBlock.from_tuples(ALL_TYPES, [SAMPLE_ROW]).cells(0)
    named = dict(zip(ALL_TYPES.names, cells, strict=True))
    assert named["c_int16"] == b"\x2c\x01"
    assert named["c_bool"] == b"\x01"
    assert named["c_decimal32"] == (-1230).to_bytes(4, "little", signed=True)
    assert named["c_decimal128"] == b"\xff" * 16
    assert named["c_date"] == b"\xff\xff\xff\xff"
    assert named["c_string"] == 'é "\n'.encode()
    assert named["n_int8"] is None


def test_cells_refuses_a_row_outside_the_block() -> None:
    block = one_column("INT8", 1)
    for row in (-1, 1):
        with pytest.raises(IndexError):
            block.cells(row)


def test_bytes_that_are_not_utf8_become_lone_surrogates_and_back() -> None:
    text = b"a\xff\xc3".decode("utf-8", "surrogateescape")
    block = one_column("STRING", text)
    assert block.cells(0) == [b"a\xff\xc3"]
    assert block.to_tuples() == [(text,)]


def test_many_nulls_of_a_long_column_stay_where_they_are() -> None:
    values = [None if n % 3 else f"row {n}" * 50 for n in range(1000)]
    assert [value for (value,) in one_column("STRING", *values).to_tuples()] == values


def test_a_block_without_columns_has_rows() -> None:
    block = ColumnBlock.from_tuples(Schema(()), [(), ()])
    assert block.to_tuples() == [(), ()]


@pytest.mark.parametrize("number", [2**63 - 1, -2**63, 253402300800000000, -62135596800000001])
def test_times_outside_datetime_are_refused_and_never_wrapped(number: int) -> None:
    with pytest.raises(Unsupported, match=rf"column 'c' row 1: {number} microseconds"):
        one_column("UNIXTIME_MICROS", 0, number).to_tuples()


@pytest.mark.parametrize("day", [2932897, -719163, 2**31 - 1, -2**31])
def test_days_outside_date_are_refused(day: int) -> None:
    with pytest.raises(Unsupported, match=f"column 'c' row 0: day {day} "):
        one_column("DATE", day).to_tuples()


@pytest.mark.parametrize(("kind", "value"), [
    ("INT8", 128), ("INT8", -129), ("INT64", 2**63), ("INT32", 1.0), ("INT32", "1"), ("INT32", True),
    ("BOOL", 1), ("FLOAT", 1e39), ("FLOAT", "1"), ("DOUBLE", 10**400), ("DOUBLE", True),
    ("STRING", b"x"), ("STRING", "\ud800"), ("BINARY", "x"),
    ("DATE", datetime(2020, 1, 1)), ("UNIXTIME_MICROS", datetime(2020, 1, 1)), ("UNIXTIME_MICROS", 2**63),
    ("DECIMAL32", Decimal("0.001")), ("DECIMAL32", Decimal("10000000")), ("DECIMAL32", Decimal("NaN")),
    ("DECIMAL32", 1.5), ("DECIMAL128", Decimal(10) ** 28), ("DECIMAL64", Decimal("1E+1000")),
])
def test_a_value_that_the_column_cannot_hold_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"column 'c' \({kind}\) row 1"):
        one_column(kind, None, value)


def test_a_null_in_a_column_that_is_not_nullable_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="row 0: None in a column that is not nullable"):
        one_column("INT8", None, nullable=False)


def test_a_varchar_longer_than_its_column_is_refused() -> None:
    assert one_column("VARCHAR", "ééé", length=3).to_tuples() == [("ééé",)]
    with pytest.raises(InvalidArgument, match="longer than 3 characters"):
        one_column("VARCHAR", "éééé", length=3)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="row 0 has 2 values for 1 columns"):
        ColumnBlock.from_tuples(one_column("INT8").schema, [(1, 2)])


def test_blocks_are_not_made_by_calling_the_class() -> None:
    with pytest.raises(TypeError):
        ColumnBlock()
