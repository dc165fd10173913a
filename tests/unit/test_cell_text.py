"""Cells as text and values. The expected texts are what the real tool prints for these cells."""
from __future__ import annotations

import json
import math
import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage.common import types
from kudu_storage.common.cell_text import column_text, debug_text, escape_hex, json_value, python_value
from kudu_storage.common.schema import ColumnSchema
from kudu_storage.errors import BadFormat


def column(type_name: str, **rest: object) -> ColumnSchema:
    return ColumnSchema("c", types.BY_NAME[type_name], **rest)  # type: ignore[arg-type]


def integer(value: int, type_name: str) -> bytes:
    return value.to_bytes(types.BY_NAME[type_name].width_bytes, "little", signed=True)


@pytest.mark.parametrize(("value", "text"), [
    (0.5, "0.5"), (-489516.12, "-489516.12"), (3.4028235e38, "3.4028235e+38"), (1.1754944e-38, "1.1754944e-38"),
    (932151.0, "932151"), (math.inf, "inf"), (-math.inf, "-inf"),
])
def test_a_float_prints_with_six_or_eight_digits(value: float, text: str) -> None:
    assert debug_text(column("FLOAT"), struct.pack("<f", value)) == text


@pytest.mark.parametrize(("value", "text"), [
    (74656000234.409668, "74656000234.409668"), (1.7976931348623157e308, "1.7976931348623157e+308"),
    (5e-324, "4.94065645841247e-324"), (652235071498.675, "652235071498.675"),
])
def test_a_double_prints_with_fifteen_or_seventeen_digits(value: float, text: str) -> None:
    assert debug_text(column("DOUBLE"), struct.pack("<d", value)) == text


@pytest.mark.parametrize(("days", "text"), [
    (-719162, "1-01-01"), (0, "1970-01-01"), (2932896, "9999-12-31"), (-1, "1969-12-31"), (11016, "2000-02-29"),
    (2932897, "value 2932897 out of range for DATE type"),
])
def test_dates_print_without_padding_and_within_their_range(days: int, text: str) -> None:
    assert debug_text(column("DATE"), integer(days, "DATE")) == text


@pytest.mark.parametrize(("micros", "text"), [
    (-1, "1969-12-31T23:59:59.999999Z"), (0, "1970-01-01T00:00:00.000000Z"),
    (-62135596800000000, "1-01-01T00:00:00.000000Z"), (2**63 - 1, "294247-01-10T04:00:54.775807Z"),
])
def test_times_print_in_utc_for_any_year(micros: int, text: str) -> None:
    assert debug_text(column("UNIXTIME_MICROS"), integer(micros, "UNIXTIME_MICROS")) == text


def test_large_decimals_print_without_the_zeros_inside_as_the_real_tool_does() -> None:
    # 28379895352847830605498582418961491556 has a zero after its first 18 digits.
    cell = integer(28379895352847830605498582418961491556, "DECIMAL128")
    assert debug_text(column("DECIMAL128"), cell) == "2837989535284783065498582418961491556_D128"
    assert python_value(column("DECIMAL128", scale=3), cell) == Decimal("28379895352847830605498582418961491.556")
    assert debug_text(column("DECIMAL32"), integer(-1206545, "DECIMAL32")) == "-1206545_D32"


def test_hexadecimal_digits_after_an_escaped_byte_are_escaped_too() -> None:
    assert escape_hex(b"V\xc7A\xc8\"\n12\x004g") == b'V\\xc7\\x41\\xc8\\"\\n12\\x00\\x34g'


def test_strings_keep_bytes_above_ascii_and_escape_control_characters_in_octal() -> None:
    assert debug_text(column("STRING"), 'ñ"\t\x01'.encode()) == '"ñ\\"\\t\\001"'
    assert debug_text(column("STRING"), b"\xff").encode("utf-8", "surrogateescape") == b'"\xff"'


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_json_float_parses_to_the_same_32_bits(value: float) -> None:
    shown = json.loads(json.dumps(json_value(column("FLOAT"), struct.pack("<f", value))))
    assert struct.pack("<f", shown) == struct.pack("<f", value)


def test_json_values_are_those_of_the_stored_truth_files() -> None:
    assert json_value(column("DOUBLE"), struct.pack("<d", math.nan)) == "NaN"
    assert json_value(column("DOUBLE"), struct.pack("<d", -math.inf)) == "-Infinity"
    assert json_value(column("DECIMAL64", scale=4), integer(-5, "DECIMAL64")) == "-0.0005"
    assert json_value(column("DECIMAL64", scale=4), integer(0, "DECIMAL64")) == "0.0000"
    assert json_value(column("BINARY"), b"\x00\xff") == "AP8="
    assert json_value(column("DATE"), integer(-3, "DATE")) == -3
    assert json_value(column("BOOL"), b"\x01") is True
    assert json_value(column("STRING"), None) is None


def test_cells_of_the_wrong_size_and_text_that_is_no_utf8_are_refused() -> None:
    with pytest.raises(BadFormat):
        python_value(column("INT32"), b"\x00")
    with pytest.raises(BadFormat):
        python_value(column("STRING"), b"\xff")


def test_a_column_is_named_with_its_type() -> None:
    assert column_text(column("DECIMAL32", precision=7, scale=2, nullable=True)) == "c DECIMAL(7, 2) NULLABLE"
    assert column_text(column("VARCHAR", length=17, immutable=True)) == "c VARCHAR(17) NOT NULL IMMUTABLE"
