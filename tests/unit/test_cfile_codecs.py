"""Runs and blocks of byte strings against the slow twin."""
from __future__ import annotations

from contextlib import suppress

import cfiles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native import binary_block, bloom, rle
from kudu_storage.errors import BadFormat

STRINGS = st.lists(st.binary(max_size=40), max_size=120)


def with_runs(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    run = st.tuples(values, st.sampled_from([1, 1, 2, 7, 8, 9, 100, 600]))
    return st.lists(run, max_size=30).map(lambda runs: [value for value, count in runs for _ in range(count)])


@pytest.mark.parametrize("width", [1, 8, 16, 32, 64])
@given(data=st.data())
def test_runs_round_trip_and_the_twin_reads_them(width: int, data: st.DataObject) -> None:
    values = data.draw(with_runs(st.sampled_from([0, 1, 2**width - 1]) | st.integers(0, 2**width - 1)))
    skip = data.draw(st.integers(0, len(values)))
    packed = rle.encode(values, width)
    assert cfiles.runs(packed, width, len(values)) == values
    expected = b"".join(value.to_bytes(max(1, width // 8), "little") for value in values[skip:])
    assert rle.decode(packed, width, len(values) - skip, skip) == expected


@given(with_runs(st.integers(0, 1)), st.integers(0, 70))
def test_bits_land_where_they_belong(values: list[int], at: int) -> None:
    bitmap, ones = rle.decode_bits(rle.encode(values, 1), len(values), at)
    assert ones == sum(values)
    assert [bitmap[i // 8] >> i % 8 & 1 for i in range(at, at + len(values))] == values
    assert not any(bitmap[i // 8] >> i % 8 & 1 for i in range(at))


def test_a_literal_run_longer_than_one_header_allows_is_split() -> None:
    values = [i & 1 for i in range(63 * 8 * 3 + 5)]
    assert cfiles.runs(rle.encode(values, 1), 1, len(values)) == values


@pytest.mark.parametrize("width", [1, 8, 16, 32, 64])
def test_runs_that_end_too_early_are_refused(width: int) -> None:
    packed = rle.encode(range(100) if width > 1 else [0, 1] * 50, width)
    for length in range(len(packed)):
        with pytest.raises(BadFormat):
            rle.decode(packed[:length], width, 100)


@pytest.mark.parametrize("empty", [b"\x00\x00", b"\x01"])
def test_a_run_of_nothing_is_refused(empty: bytes) -> None:
    with pytest.raises(BadFormat):
        rle.decode(empty * 10, 1, 1)


@given(STRINGS)
def test_plain_blocks_round_trip_and_the_twin_reads_them(values: list[bytes]) -> None:
    block = binary_block.encode_plain(values, 5)
    assert binary_block.decode_plain(block) == values
    assert cfiles.plain_strings(block) == (values, 5)


@given(STRINGS.map(sorted), st.integers(0, 120))
def test_prefix_blocks_round_trip_and_the_twin_reads_them(values: list[bytes], first: int) -> None:
    block = binary_block.encode_prefix(values, 5)
    assert cfiles.prefixed_strings(block) == (values, 5)
    assert binary_block.decode_prefix(block, min(first, len(values))) == values[first:]


@pytest.mark.parametrize("kind", ["plain", "prefix"])
def test_flipped_and_cut_string_blocks_are_read_or_refused(kind: str) -> None:
    encode, decode = getattr(binary_block, f"encode_{kind}"), getattr(binary_block, f"decode_{kind}")
    block = encode([b"k%04d" % i * (i % 3) for i in range(40)])
    refused = 0
    for length in range(len(block)):
        with pytest.raises(BadFormat):
            decode(block[:length])
    for bit in range(8 * len(block)):
        changed = bytearray(block)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(changed))
        except BadFormat:
            refused += 1
    assert refused > 100
    with suppress(BadFormat):
        decode(b"\xff" * 64)


@given(st.binary(max_size=16))
def test_short_keys_hash_as_the_twin_says(key: bytes) -> None:
    assert bloom.key_hash(key) == cfiles.city_hash64(key)
