"""The block cache, driven by readers: bounded, scan-resistant, safe to share."""
from __future__ import annotations

import threading

import cfiles
import pytest
from blocks import one_column

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage.cfile.block_source import BlockSource, open_column_file, shared_block_cache
from kudu_storage.errors import BadChecksum, InvalidArgument

ROWS = 20_000
FILE = cfiles.written_column(one_column("INT64", *range(ROWS), nullable=False), encoding=1, block_bytes=4096)


def reader_with(cache: BlockCache | None, file: bytes = FILE, cache_id: int | None = None) -> CFileReader:
    made = cfiles.memory_source(file)
    return open_column_file(BlockSource(made.fd, 0, len(file), "memory", made.owner, cache_id), cache=cache)


def test_a_block_is_read_once() -> None:
    cache = BlockCache(1 << 20)
    reader = reader_with(cache)
    first = cfiles.all_cells(reader)
    misses = cache.stats()["misses"]
    assert cfiles.all_cells(reader) == first
    assert cache.stats()["misses"] == misses and cache.stats()["hits"] >= reader.block_count
    cache.check()


def test_it_never_holds_more_than_its_capacity() -> None:
    cache = BlockCache(50_000)
    reader = reader_with(cache)
    for first in range(0, ROWS, 100):
        reader.cursor().read_block(first, 100)
        assert cache.stats()["bytes"] <= 50_000
        cache.check()
    assert cache.stats()["evicted"] > 0


def test_a_scan_does_not_push_out_what_is_read_again_and_again() -> None:
    cache = BlockCache(60_000)
    reader = reader_with(cache)
    for _ in range(3):
        reader.cursor().read_block(0, 2000)
    hot = cache.stats()
    cfiles.all_cells(reader)
    before = cache.stats()
    assert before["evicted"] > hot["evicted"]
    reader.cursor().read_block(0, 2000)
    assert cache.stats()["misses"] == before["misses"]
    cache.check()


def test_readers_of_one_file_share_and_those_of_others_do_not() -> None:
    cache = BlockCache(1 << 20)
    cfiles.all_cells(reader_with(cache, cache_id=7))
    misses = cache.stats()["misses"]
    cfiles.all_cells(reader_with(cache, cache_id=7))
    assert cache.stats()["misses"] == misses
    cfiles.all_cells(reader_with(cache, cache_id=8))
    assert cache.stats()["misses"] == 2 * misses


def test_a_deleted_file_is_forgotten() -> None:
    cache = BlockCache(1 << 20)
    for cache_id in (7, 8):
        cfiles.all_cells(reader_with(cache, cache_id=cache_id))
    half = cache.stats()["blocks"] // 2
    cache.forget(7)
    assert cache.stats()["blocks"] == half
    cache.check()


@pytest.mark.parametrize("capacity", [0, 10, 5000])
def test_a_cache_too_small_for_a_block_keeps_none_and_reading_works(capacity: int) -> None:
    cache = BlockCache(capacity)
    assert len(cfiles.all_cells(reader_with(cache))) == ROWS
    cache.check()


def test_damage_is_never_cached() -> None:
    cache = BlockCache(1 << 20)
    damaged = bytearray(FILE)
    damaged[100] ^= 1
    reader = reader_with(cache, bytes(damaged))
    for _ in range(2):
        with pytest.raises(BadChecksum):
            reader.cursor().read_block(0, 1)


def test_threads_share_a_reader_and_a_small_cache() -> None:
    cache = BlockCache(30_000)
    reader = reader_with(cache)
    expected = cfiles.all_cells(reader)
    wrong: list[int] = []

    def scan(start: int) -> None:
        cursor = reader.cursor()
        for first in [*range(start, ROWS, 997), *range(0, start, 997)]:
            count = min(600, ROWS - first)
            if cfiles.cells_of(cursor.read_block(first, count)) != expected[first:first + count]:
                wrong.append(first)

    threads = [threading.Thread(target=scan, args=(start,)) for start in (0, 5000, 9000, 15_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    cache.check()


def test_the_process_has_one() -> None:
    assert shared_block_cache() is shared_block_cache()


def test_a_senseless_capacity_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        BlockCache(-1)
