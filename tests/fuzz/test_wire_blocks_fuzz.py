"""Answers to scans from anyone: damaged sidecars become a block of the right shape or a CorruptionError."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage._native.arrow import ArrowStream
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.wire_columns import ColumnarEncoder, decode_columnar
from kudu_storage._native.wire_rows import RowwiseEncoder, decode_rowwise
from kudu_storage.errors import CorruptionError

BIG = 1 << 30
LENGTHS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


def row_bytes() -> int:
    encoder = RowwiseEncoder(ALL_TYPES)
    encoder.add(ColumnBlock.from_tuples(ALL_TYPES, [SAMPLE_ROW]), 0, BIG)
    return len(encoder.take()[1])


STRIDE = row_bytes()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One change: a bit, a word of an interesting value, bytes more or less."""
    kind = rng.randrange(4) if data else 3
    at = rng.randrange(len(data) or 1)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]
    if kind == 1:
        word = rng.choice(LENGTHS).to_bytes(8, "little")[:rng.choice([4, 8])]
        return (data[:at] + word + data[at + len(word):])[:len(data)]
    if kind == 2:
        return data[:at]
    return data + rng.randbytes(rng.randrange(1, 9))


def read_all(block: ColumnBlock) -> None:
    """Every cell, raw, and through Arrow's reader, which looks at all buffers."""
    for row in range(len(block)):
        block.cells(row)
    encoded = RowwiseEncoder(block.schema)
    assert encoded.add(block, 0, BIG) == len(block)
    columns = ColumnarEncoder(block.schema)
    assert columns.add(block, 0, BIG) == len(block)
    count, parts = columns.take()
    again = decode_columnar(block.schema, count, parts)
    assert [again.cells(row) for row in range(count)] == [block.cells(row) for row in range(count)]
    capsule = ArrowStream(block.schema, [block]).__arrow_c_stream__()
    assert capsule is not None


def read_or_refused(read: Callable[[], ColumnBlock]) -> bool:
    """Whether it was refused."""
    try:
        block = read()
    except CorruptionError:
        return True
    read_all(block)
    return False


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pad", [False, True])
def test_damaged_rows_are_read_or_refused(seed: int, pad: bool) -> None:
    rng = random.Random(seed)
    encoder = RowwiseEncoder(ALL_TYPES, pad_unixtime=pad)
    encoder.add(ColumnBlock.from_tuples(ALL_TYPES, [SAMPLE_ROW, SAMPLE_ROW[:1] + SAMPLE_ROW[1:16] * 2] * 3), 0, BIG)
    count, rows, indirect = encoder.take()
    assert indirect is not None
    refused = 0
    for _ in range(400):
        parts: list[Any] = [count, bytes(rows), bytes(indirect)]
        place = rng.randrange(3)
        parts[place] = rng.choice([0, count - 1, count + 1, -1, 2**40]) if place == 0 else damaged(parts[place], rng)
        refused += read_or_refused(lambda parts=parts: decode_rowwise(ALL_TYPES, *parts, pad_unixtime=pad))
    assert refused > 100


@pytest.mark.parametrize("seed", range(8))
def test_damaged_columns_are_read_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    encoder = ColumnarEncoder(ALL_TYPES)
    encoder.add(ColumnBlock.from_tuples(ALL_TYPES, [SAMPLE_ROW, SAMPLE_ROW[:1] + SAMPLE_ROW[1:16] * 2] * 3), 0, BIG)
    count, taken = encoder.take()
    refused = 0
    for _ in range(400):
        columns: list[list[bytes | None]] = [[None if part is None else bytes(part) for part in parts]
                                             for parts in taken]
        number, place = rng.randrange(len(columns)), rng.randrange(3)
        part = columns[number][place]
        columns[number][place] = None if part is not None and rng.random() < 0.1 else damaged(part or b"", rng)
        refused += read_or_refused(lambda columns=columns: decode_columnar(ALL_TYPES, count, columns))  # type: ignore[misc]
    assert refused > 100


@settings(max_examples=200)
@given(st.integers(0, 5), st.binary(max_size=1500), st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(count: int, rows: bytes, indirect: bytes) -> None:
    read_or_refused(lambda: decode_rowwise(ALL_TYPES, count, rows, indirect))
    fitted = (rows + bytes(count * STRIDE))[:count * STRIDE]        # past the check of its size
    read_or_refused(lambda: decode_rowwise(ALL_TYPES, count, fitted, indirect))
    parts = [(rows[:4 * i], indirect, rows[:1]) for i in range(len(ALL_TYPES))]
    read_or_refused(lambda: decode_columnar(ALL_TYPES, count, parts))


@settings(max_examples=50)
@given(rows_of(ALL_TYPES))
def test_blocks_that_were_read_are_as_those_that_were_sent(rows: list[tuple[Any, ...]]) -> None:
    encoder = RowwiseEncoder(ALL_TYPES)
    encoder.add(ColumnBlock.from_tuples(ALL_TYPES, rows), 0, BIG)
    count, data, indirect = encoder.take()
    block = decode_rowwise(ALL_TYPES, count, data, indirect)
    assert block.to_tuples() == rows
    read_all(block)
