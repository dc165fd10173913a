"""Bitshuffle against the slow twin, on every engine that this processor has."""
from __future__ import annotations

import random
from collections.abc import Iterator

import cfiles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native import bitshuffle
from kudu_storage.errors import BadFormat

WIDTHS = [1, 2, 4, 8, 16]


@pytest.fixture(params=bitshuffle.engines())
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    before = bitshuffle.use_engine(request.param)
    yield request.param
    bitshuffle.use_engine(before)


def elements(width: int, count: int, seed: int = 1) -> bytes:
    """Some runs, some noise."""
    source = random.Random(seed)
    return b"".join(source.choice([bytes(width), source.randbytes(width),
                                   b"\x01" + bytes(width - 1)]) for _ in range(count))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 263, 1000, 2056])
def test_the_slow_twin_reads_what_is_written(engine: str, width: int, count: int) -> None:
    data = elements(width, count)
    block = bitshuffle.encode(data, width, 77)
    assert cfiles.shuffled(block) == ([data[i:i + width] for i in range(0, len(data), width)], 77)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 8, 100, 8192, 20_003])
def test_round_trip(engine: str, width: int, count: int) -> None:
    data = elements(width, count, seed=count)
    assert bitshuffle.decode(bitshuffle.encode(data, width)) == data


@pytest.mark.parametrize("width", WIDTHS)
def test_engines_write_the_same_bytes(width: int) -> None:
    data = elements(width, 3001)
    blocks = set()
    for name in bitshuffle.engines():
        before = bitshuffle.use_engine(name)
        blocks.add(bitshuffle.encode(data, width))
        bitshuffle.use_engine(before)
    assert len(blocks) == 1


@given(st.sampled_from(WIDTHS), st.integers(0, 5000), st.integers(0, 5000))
def test_any_range_can_be_read(width: int, first: int, count: int) -> None:
    data = elements(width, 5000)
    count = min(count, 5000 - first)
    block = bitshuffle.encode(data, width)
    assert bitshuffle.decode(block, first, count) == data[first * width:(first + count) * width]


def test_a_range_outside_is_refused() -> None:
    block = bitshuffle.encode(bytes(40), 4)
    for first, count in [(0, 11), (11, 0), (10, 1), (2**40, 1)]:
        with pytest.raises(BadFormat):
            bitshuffle.decode(block, first, count)


def test_cut_blocks_are_refused_at_every_length() -> None:
    block = bitshuffle.encode(elements(4, 300), 4)
    for length in range(len(block)):
        with pytest.raises(BadFormat):
            bitshuffle.decode(block[:length])


@pytest.mark.parametrize("field", range(5))
@pytest.mark.parametrize("value", [0, 3, 2**31, 2**32 - 1])
def test_a_header_that_lies_is_refused_or_harmless(field: int, value: int) -> None:
    data = elements(4, 300)
    block = bytearray(bitshuffle.encode(data, 4))
    block[4 * field:4 * field + 4] = value.to_bytes(4, "little")
    if field == 0:      # the ordinal is the reader's business
        assert bitshuffle.decode(block) == data
    else:
        with pytest.raises(BadFormat):
            bitshuffle.decode(block)
