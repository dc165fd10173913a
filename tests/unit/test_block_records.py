from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage.errors import BadFormat
from kudu_storage.fs.blocks.records import (
    TYPE,
    Extent,
    FoldedRecords,
    align_up,
    compacted,
    create_record,
    delete_record,
    fold,
    gaps,
    torn_tail,
)
from kudu_storage.fs.pb_container import container_bytes, parse_container
from kudu_storage.protos import message_class


def bodies(*framed: bytes) -> list[bytes]:
    return [record[8:-4] for record in framed]


def folded(*framed: bytes, size: int = 1 << 40) -> FoldedRecords:
    return fold(bodies(*framed), lambda: size, "f")


def create(block_id: int, offset: int, length: int) -> bytes:
    return create_record(block_id, Extent(offset, length), 1)


# -- what records come to ----------------------------------------------------------------------------------------------
def test_deleted_blocks_are_gone_and_still_count_for_ids_and_for_where_the_next_block_starts() -> None:
    found = folded(create(3, 0, 10), create(9, 4096, 5000), delete_record(9, 2))
    assert found.live == {3: Extent(0, 10, 1)}
    assert (found.id_max, found.end, found.record_count) == (9, 9096, 3)
    assert not found.malformed


def test_an_id_may_be_created_again_after_its_deletion() -> None:
    found = folded(create(3, 0, 10), delete_record(3, 2), create(3, 4096, 7))
    assert found.live[3].offset == 4096 and not found.malformed


@pytest.mark.parametrize("framed", [
    (create(1, 0, 10), create(1, 4096, 10)), (delete_record(1, 1),), (create(1, -4096, 10),), (create(1, 0, -1),),
    (create(1, 0, 101),), (create(1, 96, 5),), (create(1, 2**62, 1),),
], ids=["twice", "deleted only", "negative offset", "negative length", "too long", "beyond", "far beyond"])
def test_records_that_contradict_the_file_or_each_other_are_malformed(framed: tuple[bytes, ...]) -> None:
    assert len(folded(*framed, size=100).malformed) == 1


def test_an_empty_block_may_lie_at_the_end_of_the_file() -> None:
    assert not folded(create(1, 4096, 0), size=100).malformed


def test_the_size_of_the_file_is_asked_again_for_a_block_beyond_it() -> None:
    sizes = iter([5, 5000])
    found = fold(bodies(create(1, 0, 5), create(2, 4096, 5)), lambda: next(sizes), "f")
    assert len(found.live) == 2


def test_a_create_without_offset_is_malformed_and_one_without_id_is_no_record() -> None:
    record: Any = message_class(TYPE)(op_type=1, timestamp_us=1, length=5)
    record.block_id.id = 1
    assert len(fold([record.SerializeToString()], lambda: 100, "f").malformed) == 1
    with pytest.raises(BadFormat):
        fold([message_class(TYPE)(op_type=1, timestamp_us=1).SerializePartialToString()], lambda: 100, "f")
    with pytest.raises(BadFormat):
        fold([b"\xff\xff"], lambda: 100, "f")


# -- rewriting ---------------------------------------------------------------------------------------------------------
@given(st.dictionaries(st.integers(1, 2**64 - 1), st.integers(0, 10**6), min_size=1, max_size=20), st.data())
def test_a_rewritten_container_says_the_same_of_live_blocks_and_of_the_highest_id(sizes: dict[int, int],
                                                                                  data: st.DataObject) -> None:
    framed, at = [], 0
    for block_id, size in sizes.items():
        framed.append(create(block_id, at, size))
        at = align_up(at + size, 4096)
    dead = data.draw(st.sets(st.sampled_from(sorted(sizes))))
    framed += [delete_record(block_id, 2) for block_id in sorted(dead)]
    before = folded(*framed)
    after = fold(compacted(before.live, before.id_max, before.id_max_extent, 3), lambda: 1 << 40, "f")
    assert (after.live, after.id_max, after.malformed) == (before.live, before.id_max, [])
    assert after.record_count <= len(after.live) + 2


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3 * 4096))), st.integers(0, 80))
def test_gaps_are_the_whole_blocks_that_no_extent_touches(places: list[tuple[int, int]], end: int) -> None:
    extents = [Extent(block * 4096 // 3, length) for block, length in places]
    touched = {page for extent in extents if extent.length
               for page in range(extent.offset // 4096, (extent.end - 1) // 4096 + 1)}
    found = [page for offset, size in gaps(extents, end * 4096, 4096)
             for page in range(offset // 4096, (offset + size) // 4096)]
    last = max([end - 1, *touched])
    assert {page for page in found if page < end} == {page for page in range(end) if page not in touched}
    assert len(found) == len(set(found)) and not touched & set(found) and all(page <= last for page in found)


# -- torn tails --------------------------------------------------------------------------------------------------------
def container(*appends: list[bytes]) -> bytes:
    return container_bytes(TYPE, []) + b"".join(record for append in appends for record in append)


def append_of(first: int, count: int, time: int) -> list[bytes]:
    return [create_record(first + i, Extent(4096 * (first + i), 4000), time) for i in range(count)]


def is_torn(data: bytes) -> bool:
    read = parse_container(data, "f", tolerant=True)
    assert read.error is not None
    return torn_tail(read, data)


def test_any_sectors_of_the_last_append_may_be_lost() -> None:
    rng = random.Random(4)
    before = container(append_of(1, 3, 1000))
    data = before + b"".join(append_of(10, 60, 2000))
    for _ in range(200):
        image = bytearray(data[:rng.randint(len(before) + 1, len(data))])
        for sector in range(len(before) // 512, len(image) // 512 + 1):
            first, end = max(len(before), sector * 512), min(len(image), (sector + 1) * 512)
            if rng.random() < 0.4:
                image[first:end] = bytes(max(0, end - first))
        read = parse_container(bytes(image), "f", tolerant=True)
        assert len(read.records) >= 3
        assert read.error is None or torn_tail(read, bytes(image))


def test_a_cut_at_any_byte_is_a_torn_tail() -> None:
    data = container(append_of(1, 2, 1000))
    start = len(container())
    for end in range(start + 1, len(data)):
        read = parse_container(data[:end], "f", tolerant=True)
        assert read.error is None or torn_tail(read, data[:end])


def test_a_flipped_bit_is_no_torn_tail() -> None:
    data = container(append_of(1, 30, 1000), append_of(50, 1, 2000))
    for at in range(len(container()), len(data), 3):
        for bit in (0, 4):
            image = bytearray(data)
            image[at] ^= 1 << bit
            read = parse_container(bytes(image), "f", tolerant=True)
            # A length that became huge is above every limit, or ends behind the file: damage, but Kudu cuts it off too.
            if read.error is not None and read.error.kind == "bad_checksum":
                assert not torn_tail(read, bytes(image)), at


def test_a_lost_sector_before_a_later_append_is_damage() -> None:
    data = bytearray(container(append_of(1, 40, 1000), append_of(50, 2, 2000), append_of(60, 2, 3000)))
    data[1536:2048] = bytes(512)
    assert not is_torn(bytes(data))
