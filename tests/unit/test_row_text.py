"""Rows as JSON lines and CSV, read back by parsers that know nothing of us."""
from __future__ import annotations

import base64
import csv as csv_module
import io
import json
import math
import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, as_single, one_column, rows_of, truth_tables
from fixtures import fixtures_root
from hypothesis import example, given
from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.number_text import double_text, float_text
from kudu_storage._native.row_text import csv, csv_header, csv_pieces, jsonl, jsonl_pieces
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, InvalidArgument

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def json_value(kind: str, value: Any) -> Any:
    """What a parser of the JSON should find for a value of a block."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return (value - EPOCH) // (EPOCH.resolution)
    if isinstance(value, date):
        return value.toordinal() - date(1970, 1, 1).toordinal()
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def parsed(text: bytes, schema: Schema) -> list[tuple[Any, ...]]:
    """The JSON lines' values in column order; FLOATs as a 32-bit reader gets them."""
    rows = []
    for line in text.decode("utf-8").split("\n")[:-1]:
        row = json.loads(line)
        assert list(row) == schema.names
        rows.append(tuple(as_single(row[c.name]) if c.type.name == "FLOAT" and isinstance(row[c.name], float)
                          else row[c.name] for c in schema))
    return rows


def single_cell(block: ColumnBlock) -> str:
    text = jsonl(block).decode("utf-8")
    assert text.startswith('{"c":') and text.endswith("}\n")
    return text[5:-2]


# -- JSON lines --------------------------------------------------------------------------------------------------------
@given(rows_of(ALL_TYPES))
def test_json_parses_back_to_the_rows(rows: list[tuple[Any, ...]]) -> None:
    text = jsonl(ColumnBlock.from_tuples(ALL_TYPES, rows))
    expected = [tuple(json_value(c.type.name, v) for c, v in zip(ALL_TYPES, row, strict=True)) for row in rows]
    assert parsed(text, ALL_TYPES) == expected


def test_a_row_looks_as_documented() -> None:
    schema = Schema(ALL_TYPES.columns[:17])
    text = jsonl(ColumnBlock.from_tuples(schema, [SAMPLE_ROW[:17]])).decode("utf-8")
    assert text == (
        '{"id":7,"c_int8":-128,"c_int16":300,"c_int32":-70000,"c_int64":9007199254740993,"c_string":"é \\"\\n",'
        '"c_bool":true,"c_float":0.1,"c_double":1e+300,"c_binary":"AP8=","c_unixtime_micros":1709208000000005,'
        '"c_decimal32":"-12.30","c_decimal64":"5.0000","c_decimal128":"-0.0000000001","c_varchar":"v","c_date":-1,'
        '"n_int8":null}\n')


@given(st.text())
@example("".join(map(chr, range(256))))
@example("\u2028\ufffd\U0010ffff")
def test_only_quotes_backslashes_and_control_characters_are_escaped(text: str) -> None:
    cell = single_cell(one_column("STRING", text))
    assert json.loads(cell) == text
    assert cell == json.dumps(text, ensure_ascii=False)


@given(st.binary())
@example(b"\xed\xa0\x80")
@example(b"\xf0\x9f\x98")
@example(b"\xe2\x82A\xc0\xaf\xf4\x90\x80\x80")
@example(b"abc\xf0\x9f\x98\x80\xf0\x9f")
def test_invalid_utf8_becomes_replacement_characters_as_in_python(data: bytes) -> None:
    block = one_column("STRING", data.decode("utf-8", "surrogateescape"))
    assert json.loads(single_cell(block)) == data.decode("utf-8", "replace")
    [[cell]] = list(csv_module.reader(io.StringIO(csv(block).decode("utf-8"), newline="")))
    assert cell == data.decode("utf-8", "replace")


@pytest.mark.parametrize(("value", "text"), [
    (math.nan, '"NaN"'), (math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (-0.0, "-0.0"), (0.0, "0.0"),
    (5.0, "5.0")])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_floats_that_json_has_no_number_for_are_strings(kind: str, value: float, text: str) -> None:
    assert single_cell(one_column(kind, value)) == text


@given(st.integers(-10**38 + 1, 10**38 - 1), st.integers(0, 38))
@example(10**37, 38)
@example(-1, 38)
@example(2**64, 0)
@example(10**19, 19)
def test_decimals_are_written_with_all_digits_of_their_scale(unscaled: int, scale: int) -> None:
    value = Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), -scale))
    block = one_column("DECIMAL128", value, precision=38, scale=scale)
    assert single_cell(block) == f'"{value:f}"'
    assert csv(block) == f"{value:f}\n".encode()


@given(st.binary())
def test_binary_is_base64(data: bytes) -> None:
    assert single_cell(one_column("BINARY", data)) == f'"{base64.b64encode(data).decode()}"'


def test_column_names_are_escaped() -> None:
    column = replace(one_column("INT8").schema.columns[0], name='é"\\\n')
    text = jsonl(ColumnBlock.from_tuples(Schema((column,)), [(1,)])).decode("utf-8")
    assert json.loads(text) == {'é"\\\n': 1}


def test_rows_without_columns_are_empty_objects() -> None:
    assert jsonl(ColumnBlock.from_tuples(Schema(()), [(), ()])) == b"{}\n{}\n"


def test_a_decimal_of_impossible_scale_is_refused() -> None:
    block = ColumnBlock.from_tuples(Schema((_scaled(-1),)), [])
    for write in (jsonl, csv):
        with pytest.raises(BadFormat, match="column 'c': a decimal cannot have scale -1"):
            write(block)
    with pytest.raises(BadFormat):
        jsonl(ColumnBlock.from_tuples(Schema((_scaled(39),)), []))


def _scaled(scale: int) -> ColumnSchema:
    return replace(one_column("DECIMAL32").schema.columns[0], scale=scale)


@pytest.mark.parametrize("piece_bytes", [1, 100, 10**6])
def test_pieces_are_whole_rows_and_make_up_the_text(piece_bytes: int) -> None:
    block = ColumnBlock.from_tuples(ALL_TYPES, [(n, *SAMPLE_ROW[1:]) for n in range(50)])
    for pieces, whole in ((list(jsonl_pieces(block, piece_bytes)), jsonl(block)),
                          (list(csv_pieces(block, piece_bytes)), csv(block))):
        assert b"".join(pieces) == whole
        assert all(piece.endswith(b"\n") for piece in pieces)
        assert len(pieces) == (50 if piece_bytes == 1 else 1 if piece_bytes == 10**6 else len(pieces))


def test_a_piece_of_no_bytes_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        list(jsonl_pieces(one_column("INT8", 1), 0))


# -- CSV ---------------------------------------------------------------------------------------------------------------
def test_csv_tells_null_from_empty() -> None:
    schema = Schema((*one_column("INT8").schema, *_named("s", "STRING"), *_named("b", "BINARY")))
    block = ColumnBlock.from_tuples(schema, [(1, None, None), (None, "", b""), (2, "a", b"a")])
    assert csv(block, True) == b'c,s,b\n1,,\n,"",""\n2,a,YQ==\n'


def _named(name: str, kind: str) -> Sequence[ColumnSchema]:
    return [replace(one_column(kind).schema.columns[0], name=name)]


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_csv_strings_read_back_by_the_standard_reader(rows: list[tuple[str, str]]) -> None:
    schema = Schema((*one_column("STRING").schema, *_named("d", "VARCHAR")))
    text = csv(ColumnBlock.from_tuples(schema, rows)).decode("utf-8")
    assert [tuple(row) for row in csv_module.reader(io.StringIO(text, newline=""))] == rows


@pytest.mark.parametrize("text", ["a,b", 'say "x"', "two\nlines", "cr\rx", ""])
def test_csv_quotes_only_what_needs_it(text: str) -> None:
    assert csv(one_column("STRING", text)).decode() == '"' + text.replace('"', '""') + '"\n'
    assert csv(one_column("STRING", "plain text")) == b"plain text\n"


def test_csv_numbers_have_the_forms_of_the_json() -> None:
    schema = Schema(ALL_TYPES.columns[:17])
    text = csv(ColumnBlock.from_tuples(schema, [SAMPLE_ROW[:17]])).decode("utf-8")
    assert text == ('7,-128,300,-70000,9007199254740993,"é ""\n",true,0.1,1e+300,AP8=,1709208000000005,-12.30,5.0000,'
                    '-0.0000000001,v,-1,\n')
    assert csv(one_column("DOUBLE", math.nan, -math.inf)) == b"NaN\n-Infinity\n"


def test_csv_header_quotes_names() -> None:
    assert csv_header(Schema((*_named('a"b', "INT8"), *_named("c,d", "INT8"), *_named("é", "INT8")))) \
        == '"a""b","c,d",é\n'.encode()


# -- numbers -----------------------------------------------------------------------------------------------------------
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_written_as_repr_has_them(value: float) -> None:
    assert double_text(value) == repr(value)


def test_doubles_of_random_bits_and_at_every_power_of_two_are_written_as_repr_has_them() -> None:
    rng = random.Random(20)
    patterns = [rng.getrandbits(64) for _ in range(50_000)]
    patterns += [exponent << 52 | fraction for exponent in range(2047) for fraction in (0, 1, 2**51, 2**52 - 1)]
    values = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in patterns]
    finite = [value for value in values if math.isfinite(value)]
    assert [double_text(value) for value in finite] == [repr(value) for value in finite]


def shortest_digits(value: float) -> int:
    """The fewest significant digits that read back as the 32-bit number."""
    return next(n for n in range(1, 10) if as_single_or_none(f"{value:.{n - 1}e}") == value)


def as_single_or_none(text: str) -> float | None:
    try:
        return as_single(float(text))
    except OverflowError:
        return None


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(3.4028234663852886e38)
@example(1.401298464324817e-45)
@example(1.1754943508222875e-38)
@example(16777216.0)
@example(9.007199254740992e15)
def test_floats_read_back_as_the_same_32_bit_number_and_have_no_digit_too_many(value: float) -> None:
    text = float_text(value)
    assert struct.pack("<f", float(text)) == struct.pack("<f", value)
    if value:
        mantissa = text.lstrip("-").partition("e")[0].replace(".", "").lstrip("0").rstrip("0")
        assert len(mantissa) == shortest_digits(value)


def test_the_one_float_that_a_64_bit_parse_would_round_twice_has_a_digit_more() -> None:
    value = struct.unpack("<f", struct.pack("<I", 0x15AE43FD))[0]
    assert as_single(float("7.038531e-26")) != value
    assert as_single(float(float_text(value))) == value
    assert as_single(float(float_text(-value))) == -value


# -- stored tables -----------------------------------------------------------------------------------------------------
def test_rows_of_stored_tables_equal_their_truth_files() -> None:
    root = fixtures_root()
    if root is None:
        pytest.skip("no stored tablets: set KUDU_STORAGE_SHARED")
    tables = truth_tables(root)
    assert tables
    for table in tables:
        expected = [tuple(as_single(row[c.name]) if c.type.name == "FLOAT" and isinstance(row[c.name], float)
                          else row[c.name] for c in table.schema) for row in table.rows]
        assert parsed(jsonl(table.block()), table.schema) == expected, table.name
