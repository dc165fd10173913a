from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native import crc32c
from kudu_storage.errors import InvalidArgument

reference: Any = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


@pytest.fixture(params=crc32c.engines())
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    before = crc32c.use_engine(request.param)
    yield request.param
    crc32c.use_engine(before)


def test_table_engine_is_always_there_and_the_best_one_is_chosen() -> None:
    assert crc32c.engines()[-1] == "table"
    assert crc32c.engine() == crc32c.engines()[0]


def test_known_answers(engine: str) -> None:
    # RFC 3720, appendix B.4, and the usual check value.
    assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert crc32c.crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c.crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c.crc32c(b"") == 0


def test_every_length_around_the_block_sizes_agrees_with_crcmod(engine: str) -> None:
    data = random.Random(7).randbytes(40_000)
    lengths = [*range(420), *range(1528, 1548), *range(12_280, 12_300), 13_900, 24_576, 36_864 + 1536 + 192 + 7]
    for length in lengths:
        assert crc32c.crc32c(data[:length]) == reference(data[:length]), (engine, length)


def test_unaligned_windows_agree_with_crcmod(engine: str) -> None:
    data = memoryview(random.Random(8).randbytes(14_000))
    for start in range(1, 17):
        assert crc32c.crc32c(data[start:]) == reference(bytes(data[start:]))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_continuing_equals_one_go(data: bytes, cut: int) -> None:
    assert crc32c.crc32c(data[cut:], crc32c.crc32c(data[:cut])) == crc32c.crc32c(data) == reference(data)


def test_accepts_any_contiguous_buffer() -> None:
    want = reference(b"abc")
    assert crc32c.crc32c(bytearray(b"abc")) == crc32c.crc32c(memoryview(b"xabc")[1:]) == want
    with pytest.raises(BufferError):
        crc32c.crc32c(memoryview(b"abcdef")[::2])


def test_unknown_engine_is_refused_and_changes_nothing() -> None:
    before = crc32c.engine()
    with pytest.raises(InvalidArgument):
        crc32c.use_engine("abacus")
    assert crc32c.engine() == before
