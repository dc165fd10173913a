from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native import codec, lz4
from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX
from kudu_storage.errors import BadFormat, LimitExceeded, Unsupported
from kudu_storage.wal import format as spec

CODECS = [1, 2, 3, 4]
TEXT = b"the same words again and again, the same words again and again, and then 12345 others" * 40


@pytest.fixture(params=["native", "package"])
def lz4_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    native = lz4.use_native(request.param == "native")
    if request.param == "native" and not native:
        pytest.skip("this lz4 wheel does not export its C functions")
    yield request.param
    lz4.use_native(True)


def test_engine_names_what_is_used(lz4_engine: str) -> None:
    assert lz4.engine() == {"native": "lz4 wheel, native", "package": "lz4 package"}[lz4_engine]


@pytest.mark.parametrize("number", CODECS)
def test_round_trip(number: int, lz4_engine: str) -> None:
    for data in (TEXT, b"x", random.Random(1).randbytes(5000), bytes(100_000)):
        assert codec.decompress(codec.compress(data, number), number, len(data)) == data


@pytest.mark.parametrize("number", CODECS)
def test_reads_what_the_specification_writes_and_the_other_way_round(number: int, lz4_engine: str) -> None:
    assert codec.decompress(spec.compress(TEXT, spec.Codec(number)), number, len(TEXT)) == TEXT
    assert spec.decompress(codec.compress(TEXT, number), len(TEXT), spec.Codec(number)) == TEXT


@pytest.mark.parametrize("number", CODECS)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_any_other_size_than_the_true_one_is_refused(number: int, wrong: int, lz4_engine: str) -> None:
    stored = codec.compress(TEXT, number)
    with pytest.raises((BadFormat, LimitExceeded)):
        codec.decompress(stored, number, len(TEXT) + wrong)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_cut_input_is_refused_at_every_length(number: int, lz4_engine: str) -> None:
    stored = codec.compress(TEXT[:700], number)
    for length in range(len(stored)):
        with pytest.raises((BadFormat, LimitExceeded)):
            codec.decompress(stored[:length], number, 700)


@pytest.mark.parametrize("number", [2, 3, 4])
@given(data=st.binary(max_size=80), size=st.integers(0, 2000))
def test_arbitrary_bytes_give_the_size_asked_for_or_a_typed_error(number: int, data: bytes, size: int) -> None:
    with suppress(BadFormat, LimitExceeded):
        assert len(codec.decompress(data, number, size)) == size


def test_size_above_the_limit_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(LimitExceeded):
        codec.decompress(b"x" * 100, 3, ENTRY_BATCH_BYTES_MAX + 1)


@pytest.mark.parametrize(("number", "ratio"), [(2, 22), (3, 255), (4, 1032)])
def test_size_that_the_codec_cannot_reach_is_refused_before_anything_is_allocated(number: int, ratio: int) -> None:
    with pytest.raises(LimitExceeded):
        codec.decompress(b"x" * 100, number, 100 * ratio + 1)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_most_compressible_input_is_below_the_ratio(number: int) -> None:
    data = bytes(4 << 20)
    assert codec.decompress(codec.compress(data, number), number, len(data)) == data


def test_unknown_codec_is_refused_by_number() -> None:
    with pytest.raises(Unsupported, match="999"):
        codec.decompress(b"", 999, 0)
