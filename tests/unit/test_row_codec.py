"""Row operations of a write request: what each kind decodes to, and what is refused."""
from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest

from kudu_storage.common import types
from kudu_storage.common.row_codec import RowOp, RowOperation, decode_row_operations, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, Contradiction, CorruptionError


def column(name: str, type_name: str, **rest: object) -> ColumnSchema:
    return ColumnSchema(name, types.BY_NAME[type_name], **rest)  # type: ignore[arg-type]


TABLET = Schema(tuple(replace(c, id=i) for i, c in enumerate([
    column("k", "INT32", is_key=True), column("s", "STRING", nullable=True),
    column("d", "INT32", write_default=b"\x09\x00\x00\x00"), column("fixed", "INT8", nullable=True, immutable=True),
])))
CLIENT = Schema(tuple(replace(c, id=None, write_default=None) for c in TABLET))
ONE, TWO = b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"


def decode(op: int, cells: dict[int, bytes | None], client: Schema = CLIENT, tablet: Schema = TABLET,
           **options: int) -> RowOperation:
    rows, indirect = encode_row_operations([(op, cells)], client)
    (operation,) = decode_row_operations(rows, indirect, client, tablet, **options)
    return operation


def test_an_insert_is_a_whole_row_with_defaults_for_what_was_not_set() -> None:
    operation = decode(RowOp.INSERT, {0: ONE})
    assert operation.failure is None
    assert operation.cells == {0: ONE, 1: None, 2: b"\x09\x00\x00\x00", 3: None}
    assert operation.isset == {0}
    assert operation.text(TABLET) == "INSERT (int32 k=1, string s=NULL, int32 d=9, int8 fixed=NULL)"


def test_an_update_names_only_what_it_changes_and_null_is_a_change() -> None:
    operation = decode(RowOp.UPDATE, {0: ONE, 1: None, 2: TWO})
    assert (operation.cells, operation.isset) == ({0: ONE, 1: None, 2: TWO}, {1, 2})
    assert operation.text(TABLET) == "MUTATE (int32 k=1) SET s=NULL, d=2"


def test_a_delete_is_its_key() -> None:
    assert decode(RowOp.DELETE, {0: TWO}).text(TABLET) == "MUTATE (int32 k=2) DELETE"


def test_client_columns_are_matched_by_name_in_any_order_and_may_be_fewer() -> None:
    client = Schema((CLIENT.columns[0], CLIENT.columns[3], CLIENT.columns[1]))
    operation = decode(RowOp.UPSERT, {0: ONE, 1: b"\x05", 2: b"text"}, client)
    assert operation.cells == {0: ONE, 1: b"text", 2: b"\x09\x00\x00\x00", 3: b"\x05"}
    assert operation.isset == {0, 1, 3}


@pytest.mark.parametrize(("op", "cells", "message"), [
    (RowOp.INSERT, {1: b"x"}, "Invalid argument: No value provided for required column: k INT32 NOT NULL"),
    (RowOp.INSERT, {0: ONE, 2: None},
     "Invalid argument: NULL values not allowed for non-nullable column: d INT32 NOT NULL"),
    (RowOp.UPDATE, {0: ONE}, "Invalid argument: No fields updated, key is: (int32 k=1)"),
    (RowOp.UPDATE, {1: b"x"}, "Invalid argument: No value provided for key column: k INT32 NOT NULL"),
    (RowOp.UPDATE, {0: ONE, 2: None},
     "Invalid argument: NULL value not allowed for non-nullable column: d INT32 NOT NULL"),
    (RowOp.UPDATE, {0: ONE, 3: b"\x01"},
     "Immutable: UPDATE not allowed for immutable column: fixed INT8 NULLABLE IMMUTABLE"),
    (RowOp.DELETE, {0: ONE, 1: b"x"},
     "Invalid argument: DELETE should not have a value for column: s STRING NULLABLE"),
    (RowOp.INSERT, {0: ONE, 1: bytes(65537)},
     "Invalid argument: value too large for column 's' (65537 bytes, maximum is 65536 bytes)"),
])
def test_a_refused_row_says_why_in_the_words_of_the_real_server(op: RowOp, cells: dict[int, bytes | None],
                                                                message: str) -> None:
    assert str(decode(op, cells).failure) == message


def test_rows_after_a_refused_one_are_still_read() -> None:
    rows, indirect = encode_row_operations(
        [(RowOp.INSERT, {0: ONE, 2: None, 1: b"a"}), (RowOp.DELETE, {0: ONE, 1: b"b"}), (RowOp.INSERT, {0: TWO})],
        CLIENT)
    operations = decode_row_operations(rows, indirect, CLIENT, TABLET)
    assert [o.failure is None for o in operations] == [False, False, True]
    assert operations[2].cells[0] == TWO


def test_update_ignore_passes_over_immutable_columns() -> None:
    operation = decode(RowOp.UPDATE_IGNORE, {0: ONE, 2: TWO, 3: b"\x01"})
    assert operation.failure is None and operation.error_ignored
    assert operation.cells == {0: ONE, 2: TWO}


AUTO = Schema(tuple(replace(c, id=i) for i, c in enumerate([
    column("k", "INT8", is_key=True), column("auto_incrementing_id", "INT64", is_key=True, auto_incrementing=True)])))
AUTO_CLIENT = Schema(tuple(replace(c, id=None) for c in AUTO))


def test_the_server_numbers_rows_of_an_auto_incrementing_column() -> None:
    rows, indirect = encode_row_operations(
        [(RowOp.INSERT, {0: b"\x01"}), (RowOp.UPSERT, {0: b"\x01", 1: (40).to_bytes(8, "little")}),
         (RowOp.INSERT_IGNORE, {0: b"\x02"})], AUTO_CLIENT)
    operations = decode_row_operations(rows, indirect, AUTO_CLIENT, AUTO, auto_incrementing_counter=6)
    assert [int.from_bytes(o.cells[1] or b"", "little") for o in operations] == [7, 40, 41]
    assert all(1 in o.isset for o in operations)


@pytest.mark.parametrize(("op", "cells", "counter"), [
    (RowOp.UPSERT, {0: b"\x01"}, 0), (RowOp.INSERT, {0: b"\x01", 1: bytes(8)}, 0), (RowOp.INSERT, {0: b"\x01"}, None),
    (RowOp.INSERT, {0: b"\x01"}, 2**63 - 1), (RowOp.UPSERT, {0: b"\x01", 1: b"\xff" * 8}, 0),
])
def test_a_request_that_misuses_the_auto_incrementing_column_is_refused_as_a_whole(
        op: RowOp, cells: dict[int, bytes | None], counter: int | None) -> None:
    rows, indirect = encode_row_operations([(op, cells)], AUTO_CLIENT)
    with pytest.raises(BadFormat, match="auto-incrementing"):
        decode_row_operations(rows, indirect, AUTO_CLIENT, AUTO, auto_incrementing_counter=counter)


@pytest.mark.parametrize("client", [
    Schema((*CLIENT.columns, column("other", "INT8", nullable=True))),
    Schema((column("k", "INT64", is_key=True), *CLIENT.columns[1:])),
    Schema((CLIENT.columns[0], column("s", "STRING"))),
    Schema((column("s", "STRING", nullable=True),)),
])
def test_a_schema_that_does_not_fit_the_tablets_is_a_contradiction(client: Schema) -> None:
    with pytest.raises(Contradiction):
        decode_row_operations(b"", b"", client, TABLET)


def test_a_request_cut_at_any_byte_ends_in_whole_rows_or_a_typed_error() -> None:
    rows, indirect = encode_row_operations(
        [(RowOp.INSERT, {0: ONE, 1: b"text", 2: TWO}), (RowOp.DELETE, {0: ONE}), (RowOp.UPDATE, {0: ONE, 1: b"y"})],
        CLIENT)
    counts = []
    for end in range(len(rows)):
        with contextlib.suppress(BadFormat):
            counts.append(len(decode_row_operations(rows[:end], indirect, CLIENT, TABLET)))
    assert counts == [0, 1, 2], "only at the start of each of the three rows"


def test_any_flipped_bit_gives_rows_or_a_typed_error() -> None:
    rows, indirect = encode_row_operations([(RowOp.UPSERT, {0: ONE, 1: b"text", 2: TWO, 3: None})], CLIENT)
    refused = 0
    for bit in range(8 * len(rows)):
        flipped = bytearray(rows)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode_row_operations(bytes(flipped), indirect, CLIENT, TABLET)
        except CorruptionError:
            refused += 1
    assert refused > 64, "at least where a string's offset and length are"


@pytest.mark.parametrize("number", [0, 4, 6, 7, 8, 9, 14, 255])
def test_operations_that_a_write_cannot_hold_are_refused(number: int) -> None:
    with pytest.raises(BadFormat, match="operation type"):
        decode_row_operations(bytes([number, 0, 0]), b"", CLIENT, TABLET)


def test_random_requests_come_back_as_they_were_written() -> None:
    rng = random.Random(5)
    for _ in range(200):
        cells: dict[int, bytes | None] = {0: rng.randbytes(4)}
        for i, value in ((1, rng.randbytes(rng.randrange(9))), (2, rng.randbytes(4)), (3, rng.randbytes(1))):
            if rng.random() < 0.6:
                cells[i] = None if i != 2 and rng.random() < 0.3 else value
        operation = decode(rng.choice([RowOp.INSERT, RowOp.UPSERT, RowOp.INSERT_IGNORE, RowOp.UPSERT_IGNORE]), cells)
        assert operation.failure is None
        assert {i: operation.cells[i] for i in operation.isset} == cells
