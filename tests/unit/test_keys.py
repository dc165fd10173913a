"""Encoded keys: round trip, order, and the bytes of Kudu's own rules."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage.common import types
from kudu_storage.common.keys import decode_key, encode_key
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, InvalidArgument, LimitExceeded


def key_schema(*type_names: str) -> Schema:
    return Schema(tuple(ColumnSchema(f"k{i}", types.BY_NAME[name], is_key=True, precision=9, length=10)
                        for i, name in enumerate(type_names)))


def int_cell(value: int, width: int) -> bytes:
    return value.to_bytes(width, "little", signed=True)


KEY_TYPES = [name for name, kind in types.BY_NAME.items() if kind.is_key_type]


@st.composite
def schemas_and_keys(draw: st.DrawFn) -> tuple[Schema, list[bytes], list[bytes]]:
    names = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=4))
    schema = key_schema(*names)

    def one_key() -> list[bytes]:
        return [draw(st.lists(st.sampled_from([0, 1, 2, 255]), max_size=5).map(bytes)) if c.type.is_binary
                else draw(st.binary(min_size=c.type.width_bytes, max_size=c.type.width_bytes)) for c in schema]
    return schema, one_key(), one_key()


def comparable(schema: Schema, cells: list[bytes]) -> tuple[object, ...]:
    return tuple(cell if c.type.is_binary else int.from_bytes(cell, "little", signed=True)
                 for c, cell in zip(schema, cells, strict=True))


@given(schemas_and_keys())
def test_a_decoded_key_is_the_one_that_was_encoded(case: tuple[Schema, list[bytes], list[bytes]]) -> None:
    schema, cells, _ = case
    assert decode_key(schema, encode_key(schema, cells)) == cells


@given(schemas_and_keys())
def test_encoded_keys_sort_as_the_keys_do(case: tuple[Schema, list[bytes], list[bytes]]) -> None:
    schema, a, b = case
    assert (encode_key(schema, a) < encode_key(schema, b)) == (comparable(schema, a) < comparable(schema, b))


def test_integers_are_big_endian_with_the_sign_bit_flipped() -> None:
    assert encode_key(key_schema("INT32"), [int_cell(1, 4)]) == b"\x80\x00\x00\x01"
    assert encode_key(key_schema("INT32"), [int_cell(-1, 4)]) == b"\x7f\xff\xff\xff"
    assert encode_key(key_schema("INT8"), [int_cell(-128, 1)]) == b"\x00"


def test_strings_end_with_a_separator_except_in_the_last_column() -> None:
    assert encode_key(key_schema("STRING", "STRING"), [b"a\x00b", b"c\x00d"]) == b"a\x00\x01b\x00\x00c\x00d"


@pytest.mark.parametrize("encoded", [b"no separator", b"a\x00", b"a\x00\x02b\x00\x00c", b""])
def test_bytes_that_are_no_key_are_refused(encoded: bytes) -> None:
    with pytest.raises(BadFormat):
        decode_key(key_schema("STRING", "STRING"), encoded)


def test_a_key_with_bytes_left_over_or_missing_is_refused() -> None:
    for encoded in (b"\x80\x00\x00", b"\x80\x00\x00\x00\x00"):
        with pytest.raises(BadFormat):
            decode_key(key_schema("INT32"), encoded)


def test_cells_that_do_not_fit_the_schema_are_the_callers_fault() -> None:
    with pytest.raises(InvalidArgument):
        encode_key(key_schema("INT32"), [b"\x01"])
    with pytest.raises(InvalidArgument):
        encode_key(key_schema("INT32", "INT8"), [bytes(4)])


def test_a_key_above_the_limit_of_the_real_server_is_refused() -> None:
    assert len(encode_key(key_schema("STRING"), [bytes(16 * 1024)])) == 16 * 1024
    with pytest.raises(LimitExceeded):
        encode_key(key_schema("STRING"), [bytes(16 * 1024 + 1)])
