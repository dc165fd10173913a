"""Scan results as Kudu's wire layouts: bytes by hand, round trips, answers of bounded size, refusals."""
from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, column, rows_of
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.wire_columns import ColumnarEncoder, decode_columnar
from kudu_storage._native.wire_rows import RowwiseEncoder, decode_rowwise
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, InternalError, InvalidArgument, LimitExceeded
from kudu_storage.protos import message_class
from kudu_storage.tablet.wire_blocks import ColumnarAnswer, ColumnarAnswers, RowwiseAnswer, RowwiseAnswers

BIG = 1 << 30
SMALL = Schema((column("id", "INT32", is_key=True, nullable=False), column("at", "UNIXTIME_MICROS"),
                column("text", "STRING"), column("flag", "BOOL", nullable=False)))


def small_block() -> ColumnBlock:
    return ColumnBlock.from_tuples(SMALL, [(1, 256, "ab", True), (2, None, None, False), (3, 768, "", True),
                                           (4, 1024, "c", False)])


class Given:
    """Blocks as a scan gives them."""

    def __init__(self, schema: Schema, blocks: Sequence[ColumnBlock]) -> None:
        self.schema, self._blocks = schema, blocks

    def blocks(self) -> Iterator[ColumnBlock]:
        return iter(self._blocks)


# -- bytes -------------------------------------------------------------------------------------------------------------
def test_rows_are_cells_one_behind_the_other_and_a_bitmap_of_nulls() -> None:
    encoder = RowwiseEncoder(SMALL)
    assert encoder.add(small_block(), 0, BIG) == 4
    count, rows, indirect = encoder.take()
    assert count == 4 and indirect is not None and bytes(indirect) == b"abc"
    assert bytes(rows) == b"".join([
        struct.pack("<iqQQBB", 1, 256, 0, 2, 1, 0),
        struct.pack("<iqQQBB", 2, 0, 0, 0, 0, 0b0110),
        struct.pack("<iqQQBB", 3, 768, 2, 0, 1, 0),
        struct.pack("<iqQQBB", 4, 1024, 2, 1, 0, 0)])


def test_padding_makes_room_behind_each_unixtime() -> None:
    encoder = RowwiseEncoder(SMALL, pad_unixtime=True)
    encoder.add(small_block(), 2, BIG, 1)
    count, rows, indirect = encoder.take()
    assert (count, bytes(rows), indirect) == (1, struct.pack("<iqqQQBB", 3, 768, 0, 0, 0, 1, 0), None)


def test_columns_are_values_or_offsets_bytes_and_a_bitmap_of_what_is_there() -> None:
    encoder = ColumnarEncoder(SMALL)
    assert encoder.add(small_block(), 0, BIG) == 4
    count, columns = encoder.take()
    assert count == 4
    assert [[None if part is None else bytes(part) for part in parts] for parts in columns] == [
        [struct.pack("<4i", 1, 2, 3, 4), None, None],
        [struct.pack("<4q", 256, 0, 768, 1024), None, b"\x0d"],
        [struct.pack("<5I", 0, 2, 2, 2, 3), b"abc", b"\x0d"],
        [b"\x01\x00\x01\x00", None, None]]


def test_bytes_of_groups_of_rows_lie_column_after_column() -> None:
    schema = Schema((column("a", "STRING", nullable=False), column("b", "BINARY")))
    block = ColumnBlock.from_tuples(schema, [("a1", b"b1"), ("a2", b"b2"), ("a3", None), ("a4", b"b4")])
    for group_rows, expected in [(1, b"a1b1a2b2a3a4b4"), (2, b"a1a2b1b2a3a4b4"), (3, b"a1a2a3b1b2a4b4"),
                                 (128, b"a1a2a3a4b1b2b4")]:
        for step in {group_rows, 2 * group_rows, 4}:
            encoder = RowwiseEncoder(schema, group_rows=group_rows)
            for first in range(0, 4, step):
                encoder.add(block, first, BIG, step)
            _, _, indirect = encoder.take()
            assert indirect is not None and bytes(indirect) == expected


def test_chosen_columns_go_out_in_the_order_asked_for() -> None:
    rows = RowwiseEncoder(SMALL, places=[3, 0])
    rows.add(small_block(), 0, BIG, 2)
    assert bytes(rows.take()[1]) == struct.pack("<BiBi", 1, 1, 0, 2)
    columns = ColumnarEncoder(SMALL, places=[3, 0])
    columns.add(small_block(), 0, BIG, 2)
    assert [bytes(data) for data, _, _ in columns.take()[1]] == [b"\x01\x00", struct.pack("<2i", 1, 2)]
    for encoder in (RowwiseEncoder, ColumnarEncoder):
        with pytest.raises(InvalidArgument):
            encoder(SMALL, places=[4])


def test_no_columns_leave_the_row_count() -> None:
    nothing = Schema(())
    scan = Given(nothing, [ColumnBlock.from_tuples(nothing, [()] * 5)] * 2)
    for answers in (RowwiseAnswers(scan), ColumnarAnswers(scan)):
        answer = answers.next(0)
        assert answer.row_count == 10 and answer.size_bytes == 0 and not answers.has_more()


def test_an_answer_without_rows_is_empty_in_all_parts() -> None:
    rows, columns = RowwiseAnswers(Given(SMALL, [])).next(), ColumnarAnswers(Given(SMALL, [])).next()
    assert (rows.row_count, rows.size_bytes, columns.row_count, columns.size_bytes) == (0, 0, 0, 0)
    assert decode_rowwise(SMALL, 0, rows.rows, rows.indirect).to_tuples() == []
    assert decode_columnar(SMALL, 0, columns.columns).to_tuples() == []


def test_messages_name_the_sidecars() -> None:
    scan = Given(SMALL, [small_block()])
    rows, columns = RowwiseAnswers(scan).next(), ColumnarAnswers(scan).next()
    response = message_class("kudu.tserver.ScanResponsePB")()
    rows.describe(response.data, 3)
    columns.describe(response.columnar_data)
    assert (response.data.num_rows, response.data.rows_sidecar, response.data.indirect_data_sidecar) == (4, 3, 4)
    assert len(rows.sidecars) == 2 and len(columns.sidecars) == 7
    told = [(c.data_sidecar, c.varlen_data_sidecar if c.HasField("varlen_data_sidecar") else None,
             c.non_null_bitmap_sidecar if c.HasField("non_null_bitmap_sidecar") else None)
            for c in response.columnar_data.columns]
    assert response.columnar_data.num_rows == 4
    assert told == [(0, None, None), (1, None, 2), (3, 4, 5), (6, None, None)]


# -- round trips -------------------------------------------------------------------------------------------------------
def decoded_rows(schema: Schema, answer: RowwiseAnswer, pad: bool = False) -> list[tuple[Any, ...]]:
    return decode_rowwise(schema, answer.row_count, answer.rows, answer.indirect, pad_unixtime=pad).to_tuples()


def decoded_columns(schema: Schema, answer: ColumnarAnswer) -> list[tuple[Any, ...]]:
    return decode_columnar(schema, answer.row_count, answer.columns).to_tuples()


@given(st.lists(rows_of(ALL_TYPES), max_size=4), st.integers(0, 3000), st.booleans())
def test_rows_come_back_whatever_the_answers_hold(parts: list[list[tuple[Any, ...]]], bytes_max: int,
                                                  pad: bool) -> None:
    scan = Given(ALL_TYPES, [ColumnBlock.from_tuples(ALL_TYPES, part) for part in parts])
    expected = [row for part in parts for row in part]
    by_row = list(RowwiseAnswers(scan, pad_unixtime=pad, group_rows=3).all(bytes_max))
    assert [row for answer in by_row for row in decoded_rows(ALL_TYPES, answer, pad)] == expected
    by_column = list(ColumnarAnswers(scan).all(bytes_max))
    assert [row for answer in by_column for row in decoded_columns(ALL_TYPES, answer)] == expected
    for answer in [*by_row, *by_column]:
        assert answer.row_count == 1 or 0 < answer.size_bytes <= bytes_max


@given(st.lists(st.tuples(st.integers(0, 99), st.one_of(st.none(), st.text(max_size=5))), max_size=40),
       st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_columns_in_pieces_are_the_same_as_in_one(rows: list[tuple[Any, ...]], steps: list[int]) -> None:
    """Bitmaps are put together at any bit."""
    schema = Schema((column("a", "INT16"), column("b", "STRING")))
    block = ColumnBlock.from_tuples(schema, [(a if a % 3 else None, b) for a, b in rows])
    whole, pieces = ColumnarEncoder(schema), ColumnarEncoder(schema)
    assert whole.add(block, 0, BIG) == len(rows)
    first = turn = 0
    while first < len(rows):
        first += pieces.add(block, first, BIG, steps[turn % len(steps)])
        turn += 1
    assert whole.size_bytes == pieces.size_bytes
    assert whole.take() == pieces.take()


def test_an_answer_takes_what_fits_and_no_more() -> None:
    """Exactly: one byte less, one row less."""
    block = ColumnBlock.from_tuples(ALL_TYPES, [SAMPLE_ROW] * 20)
    for encoder in (RowwiseEncoder(ALL_TYPES), ColumnarEncoder(ALL_TYPES)):
        sizes = [0]
        for row in range(20):
            assert encoder.add(block, row, BIG, 1) == 1
            sizes.append(encoder.size_bytes)
        encoder.take()
        for row_count in range(2, 21):
            for less in (0, 1):
                assert encoder.add(block, 0, sizes[row_count] - less) == row_count - less
                assert encoder.size_bytes == sizes[row_count - less]
                encoder.take()


def test_a_row_larger_than_asked_for_goes_alone() -> None:
    schema = Schema((column("a", "STRING"),))
    block = ColumnBlock.from_tuples(schema, [("x" * 1000,), ("y",), ("z" * 1000,)])
    for answers in (RowwiseAnswers(Given(schema, [block])), ColumnarAnswers(Given(schema, [block]))):
        assert [answer.row_count for answer in answers.all(100)] == [1, 1, 1]


def test_encoders_refuse_what_they_were_not_made_for() -> None:
    other = ColumnBlock.from_tuples(Schema((column("id", "INT64"),)), [(1,)])
    with_null = Schema((column("id", "INT32"), *SMALL.columns[1:]))
    same_width = ColumnBlock.from_tuples(with_null, [(None, None, None, True)])
    for encoder in (RowwiseEncoder(SMALL), ColumnarEncoder(SMALL)):
        for block in (other, same_width):
            with pytest.raises(InternalError):
                encoder.add(block, 0, BIG)
        for first, bytes_max in [(-1, BIG), (5, BIG), (0, -1), (0, 1 << 31)]:
            with pytest.raises(InvalidArgument):
                encoder.add(small_block(), first, bytes_max)
        assert encoder.add(small_block(), 4, BIG) == encoder.add(small_block(), 0, BIG, -1) == encoder.row_count == 0
    with pytest.raises(InvalidArgument):
        RowwiseEncoder(SMALL, group_rows=0)


def test_what_was_taken_does_not_change() -> None:
    encoder = RowwiseEncoder(SMALL)
    encoder.add(small_block(), 0, BIG)
    _, rows, indirect = encoder.take()
    before = bytes(rows), bytes(indirect or b"")
    encoder.add(ColumnBlock.from_tuples(SMALL, [(9, 9, "zzzz", True)] * 50), 0, BIG)
    encoder.take()
    assert (bytes(rows), bytes(indirect or b"")) == before and rows.readonly


# -- hostile bytes -----------------------------------------------------------------------------------------------------
ONE_TEXT = Schema((column("t", "STRING"),))


def text_row(offset: int, size: int, nulls: int = 0) -> bytes:
    return struct.pack("<QQB", offset, size, nulls)


@pytest.mark.parametrize(("rows", "count", "why"), [
    (text_row(0, 5), 1, "outside"), (text_row(5, 0), 1, "outside"), (text_row(2**64 - 1, 2), 1, "outside"),
    (text_row(1, 2**64 - 1), 1, "outside"), (text_row(0, 3) + text_row(1, 2), 2, "row 1.*share"),
    (text_row(0, 1)[:-1], 1, "17 bytes in 16"), (text_row(0, 1), 2, "2 rows"), (b"", 1, "1 rows"),
    (text_row(0, 0), 0, "0 rows"),
])
def test_rows_that_cannot_be_are_refused(rows: bytes, count: int, why: str) -> None:
    with pytest.raises(BadFormat, match=why):
        decode_rowwise(ONE_TEXT, count, rows, b"abcd")


def test_nulls_and_bools_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadFormat, match=r"'flag' in row 0.*NULL"):
        decode_rowwise(SMALL, 1, struct.pack("<iqQQBB", 1, 2, 0, 0, 1, 0b1000))
    with pytest.raises(BadFormat, match=r"'flag' in row 0.*BOOL"):
        decode_rowwise(SMALL, 1, struct.pack("<iqQQBB", 1, 2, 0, 0, 2, 0))
    under_nulls = struct.pack("<iqQQBB", 1, 2, 77, 1 << 60, 1, 0b0110)
    assert decode_rowwise(SMALL, 1, under_nulls).to_tuples() == [(1, None, None, True)]


@pytest.mark.parametrize("count", [-1, 2**31 - 1, 2**64])
def test_row_counts_that_cannot_be_are_refused(count: int) -> None:
    with pytest.raises(LimitExceeded):
        decode_rowwise(Schema(()), count, b"")
    with pytest.raises(LimitExceeded):
        decode_columnar(Schema(()), count, [])


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


@pytest.mark.parametrize(("parts", "why"), [
    ((offsets(0, 2), b"abc", b"\x01"), "row 0"), ((offsets(1, 3), b"abc", b"\x01"), "row 0"),
    ((offsets(0, 4), b"abc", b"\x01"), "row 0"), ((offsets(0, 2**32 - 1), b"abc", b"\x01"), "row 0"),
    ((offsets(0), b"", b"\x01"), "4 bytes of offsets"), ((offsets(0, 3, 3), b"abc", b"\x01"), "12 bytes of offsets"),
    ((offsets(0, 3), b"abc", b"\x00"), "NULL and has bytes"), ((offsets(0, 3), b"abc", b""), "bitmap of 0"),
    ((offsets(0, 3), b"abc", b"\x01\x00"), "bitmap of 2"), ((offsets(0, 3), b"abc", None), "no bitmap"),
    ((offsets(0, 3), None, b"\x01"), "no bytes"), ((None, b"abc", b"\x01"), "no data"),
])
def test_columns_that_cannot_be_are_refused(parts: Any, why: str) -> None:
    with pytest.raises(BadFormat, match=why):
        decode_columnar(ONE_TEXT, 1, [parts])


def test_columns_of_values_that_cannot_be_are_refused() -> None:
    schema = Schema((column("b", "BOOL", nullable=False),))
    for parts, why in [((b"\x02", None, None), "BOOL"), ((b"\x01\x01", None, None), "2 bytes of values"),
                       ((b"\x01", b"", None), "besides"), ((b"\x01", None, b"\x01"), "cannot be NULL")]:
        with pytest.raises(BadFormat, match=why):
            decode_columnar(schema, 1, [parts])
    with pytest.raises(BadFormat, match="2 columns"):
        decode_columnar(schema, 1, [(b"\x01", None, None)] * 2)
    nullable = Schema((column("b", "BOOL"),))
    block = decode_columnar(nullable, 2, [(b"\x01\xff", None, b"\xfd")])
    assert block.to_tuples() == [(True,), (None,)]
    encoder = ColumnarEncoder(nullable)
    encoder.add(block, 0, BIG)      # what stood under the NULL and in the spare bits is gone
    assert [bytes(part or b"") for part in encoder.take()[1][0]] == [b"\x01\x00", b"", b"\x01"]
