"""Column files that we wrote, read again: all types, encodings and codecs, any range, keys, filters, metadata."""
from __future__ import annotations

import bisect
import errno
import itertools
import os
import random
from typing import Any

import cfiles
import pytest
from blocks import cells, column, one_column
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.cfile_reader import CFileReader, ValueFilter
from kudu_storage._native.cfile_writer import BloomWriter, CFileWriter
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.disk import Disk, RecordingDisk
from kudu_storage.cfile.block_source import open_column_file
from kudu_storage.cfile.dump import value_texts
from kudu_storage.common import types
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, DiskError, InvalidArgument

CODECS = [1, 2, 3, 4]


def opened(data: bytes) -> CFileReader:
    return open_column_file(cfiles.memory_source(data))


def drawn_block(data: st.DataObject, kind: str, nullable: bool) -> ColumnBlock:
    one = cells(kind) if not nullable else st.one_of(st.none(), cells(kind))
    runs = data.draw(st.lists(st.tuples(one, st.sampled_from([1, 1, 3, 9, 200])), max_size=25))
    schema = Schema((column("c", kind, nullable=nullable),))
    return ColumnBlock.from_tuples(schema, [(value,) for value, count in runs for _ in range(count)])


@pytest.mark.parametrize("kind", types.BY_NAME)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_column_comes_back_and_the_twin_reads_it(kind: str, data: st.DataObject) -> None:
    nullable = data.draw(st.booleans())
    block = drawn_block(data, kind, nullable)
    file = cfiles.written_column(block, encoding=data.draw(st.sampled_from([0, 1, 2, 4, 5, 6])),
                                 compression=data.draw(st.sampled_from(CODECS)),
                                 block_bytes=data.draw(st.sampled_from([0, 512, 1024])))
    expected = cfiles.cells_of(block)
    reader = opened(file)
    assert cfiles.read_slowly(file) == expected
    assert cfiles.all_cells(reader) == expected
    cursor = reader.cursor()
    for _ in range(4):
        first = data.draw(st.integers(0, len(expected)))
        end = data.draw(st.integers(first, len(expected)))
        assert cfiles.cells_of(cursor.read_block(first, end - first)) == expected[first:end]


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize(("kind", "encoding"), [("INT32", 6), ("INT64", 4), ("BOOL", 4), ("STRING", 5), ("STRING", 2)])
def test_selected_rows_are_those_of_the_whole(kind: str, encoding: int, nullable: bool) -> None:
    source = random.Random(5)
    values: list[Any] = [source.choice([None, 1] if nullable else [1, 2]) and
                         {"BOOL": True, "STRING": f"v{source.randrange(50):03}"}.get(kind, source.randrange(99))
                         for _ in range(9000)]
    block = one_column(kind, *sorted(values) if encoding == 2 and not nullable else values, nullable=nullable)
    expected = cfiles.cells_of(block)
    cursor = opened(cfiles.written_column(block, encoding=encoding, block_bytes=2048)).cursor()
    for density in (0.01, 0.5, 0.99):
        bits = [source.random() < density for _ in range(8000)]
        packed = sum(bit << i for i, bit in enumerate(bits)).to_bytes(1000, "little")
        got = cfiles.cells_of(cursor.read_block_selected(500, 8000, packed))
        assert got == [expected[500 + i] for i, bit in enumerate(bits) if bit]
    ranges = [(8000, 9000), (0, 3), (4095, 4097), (10, 10)]
    assert cfiles.cells_of(cursor.read_block_ranges(ranges)) == [c for a, b in ranges for c in expected[a:b]]


def test_nulls_alone_make_a_block_of_a_few_bytes() -> None:
    block = one_column("INT64", *[None] * 100_000)
    file = cfiles.written_column(block)
    assert len(file) < 250
    assert cfiles.all_cells(opened(file)) == [None] * 100_000


def test_an_empty_file_has_an_index_without_entries() -> None:
    reader = opened(cfiles.written_column(one_column("STRING"), encoding=5))
    assert (reader.num_values, reader.block_count, reader.dictionary_values()) == (0, 0, [])
    assert cfiles.all_cells(reader) == []


def test_encodings_that_a_type_has_not_fall_back_to_its_default() -> None:
    for kind, default in [("INT8", "BIT_SHUFFLE"), ("DOUBLE", "BIT_SHUFFLE"), ("BOOL", "RLE"), ("STRING",
                                                                                                "DICT_ENCODING")]:
        block = ColumnBlock.from_tuples(Schema((column("c", kind, nullable=True),)), [(None,)])
        assert opened(cfiles.written_column(block, encoding=0)).encoding == default
    assert opened(cfiles.written_column(one_column("DOUBLE", 1.0), encoding=4)).encoding == "BIT_SHUFFLE"
    assert opened(cfiles.written_column(one_column("STRING", "x"), encoding=6)).encoding == "DICT_ENCODING"


# -- dictionaries ------------------------------------------------------------------------------------------------------
def test_a_full_dictionary_goes_over_to_plain_blocks_and_stays() -> None:
    values = [f"{i % 7}" for i in range(3000)] + [f"unlike any other {i}" for i in range(3000)] + ["3"] * 500
    file = cfiles.written_column(one_column("STRING", *values), encoding=5, block_bytes=4096)
    reader = opened(file)
    assert cfiles.all_cells(reader) == [value.encode() for value in values] == cfiles.read_slowly(file)
    cursor = reader.cursor()
    coded = cursor.codewords(0, len(values))
    assert 3000 <= len(coded) < 3500        # as far as blocks hold codewords
    assert [reader.dictionary_values()[code or 0] for code in coded] == [v.encode() for v in values[:len(coded)]]
    assert cursor.codewords(6000, 10) == []


@pytest.mark.parametrize(("encoding", "block_bytes"), [(5, 0), (5, 2048), (1, 2048), (2, 2048)])
@pytest.mark.parametrize("bounds", [{"equal": b"k07"}, {"lower": b"k10"}, {"upper": b"k10"}, {"lower": b"k03",
                                                                                              "upper": b"k05"},
                                    {"equal": b"nothing"}, {}])
def test_filters_accept_what_plain_comparison_accepts(encoding: int, block_bytes: int, bounds: dict[str,
                                                                                                    bytes]) -> None:
    source = random.Random(8)
    values = [None if source.random() < 0.2 else f"k{source.randrange(30):02}" for _ in range(2000)]
    values += [f"k{i:02}{i}" for i in range(2000)]
    reader = opened(cfiles.written_column(one_column("STRING", *values), encoding=encoding, block_bytes=block_bytes))

    def accepted(value: str | None) -> bool:
        if value is None:
            return False
        if "equal" in bounds:
            return value.encode() == bounds["equal"]
        return bounds.get("lower", b"") <= value.encode() and ("upper" not in bounds
                                                               or value.encode() < bounds["upper"])

    rows = reader.cursor().matching(ValueFilter(reader, **bounds), 5, 3900)
    assert rows == [row for row in range(5, 3905) if accepted(values[row])]


# -- keys --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "encoding"), [("INT8", 6), ("INT16", 4), ("INT32", 6), ("INT32", 1), ("INT64", 4),
                                                ("DECIMAL128", 6), ("DATE", 6)])
def test_integer_keys_are_found_by_their_encoded_form(kind: str, encoding: int) -> None:
    width = types.BY_NAME[kind].width_bytes
    half = 2 ** (8 * min(width, 8) - 1) if kind != "DATE" else 700_000
    source = random.Random(2)
    keys = sorted({source.randrange(-half, half) for _ in range(3000)} | {-half, half - 1})
    block = one_column(kind, *keys, nullable=False, **({"precision": 38, "scale": 0} if kind == "DECIMAL128" else {}))
    reader = opened(cfiles.written_column(block, encoding=encoding, block_bytes=512, value_index=True,
                                          key_metadata=True))

    def encoded(key: int) -> bytes:
        return (key + 2 ** (8 * width - 1)).to_bytes(width, "big")

    cursor = reader.cursor()
    for key in {*keys[::7], *(source.randrange(-half, half) for _ in range(300)), keys[0], keys[-1]}:
        row = bisect.bisect_left(keys, key)
        assert cursor.find(encoded(key)) == (row, row < len(keys) and keys[row] == key)
    assert (reader.metadata["min_key"], reader.metadata["max_key"]) == (encoded(keys[0]), encoded(keys[-1]))


@settings(deadline=None, max_examples=60)
@given(keys=st.sets(st.binary(max_size=12), max_size=400), probes=st.lists(st.binary(max_size=12), max_size=40),
       encoding=st.sampled_from([1, 2, 5]), block_bytes=st.sampled_from([512, 4096]))
def test_byte_keys_are_found(keys: set[bytes], probes: list[bytes], encoding: int, block_bytes: int) -> None:
    ordered = sorted(keys)
    block = one_column("BINARY", *ordered, nullable=False)
    reader = opened(cfiles.written_column(block, encoding=encoding, block_bytes=block_bytes, value_index=True))
    cursor = reader.cursor()
    for probe in [*probes, *ordered]:
        row = bisect.bisect_left(ordered, probe)
        assert cursor.find(probe) == (row, row < len(ordered) and ordered[row] == probe)


def test_index_keys_separate_blocks_and_are_short() -> None:
    keys = [b"a common beginning %08d" % i for i in range(5000)]
    reader = opened(cfiles.written_strings(CFileWriter.for_key_index, keys))
    firsts = reader.block_rows()
    found = reader.index_keys()
    assert len(firsts) > 3 and len(found[0]) == 1
    for key, first in itertools.islice(zip(found, firsts, strict=True), 1, None):
        assert keys[first - 1] < key <= keys[first]
        assert keys[first - 1] >= key[:-1]      # one byte less would not separate
    assert (reader.metadata["min_key"], reader.metadata["max_key"]) == (keys[0], keys[-1])


def test_an_index_of_many_nodes_has_levels_and_finds_every_block() -> None:
    source = random.Random(4)
    keys = sorted({source.randbytes(300) for _ in range(20_000)})
    file = cfiles.written_column(one_column("BINARY", *keys, nullable=False), encoding=1, block_bytes=512,
                                 value_index=True,
                                 shorten_keys=False)
    root = cfiles.footer_of(file).validx_info.root_block
    assert not cfiles.node_entries(cfiles.body_of(file, root, 1))[0]        # the root is no leaf
    reader = opened(file)
    cursor = reader.cursor()
    for row in range(0, len(keys), 191):
        assert cursor.find(keys[row]) == (row, True)
        assert cfiles.cells_of(cursor.read_block(row, 1)) == [keys[row]]


# -- deltas and blooms -------------------------------------------------------------------------------------------------
def delta(row: int, timestamp: int) -> bytes:
    return bytes([row, 250]) + timestamp.to_bytes(3, "big") + b"\x02"


def test_a_delta_file_indexes_whole_delta_keys() -> None:
    deltas = [delta(row, 70_000 + step) + bytes(900) for row in range(200) for step in range(3)]
    def write(sink: BlockSink) -> None:
        writer = CFileWriter.for_deltas(sink)
        writer.append_strings(deltas)
        writer.add_metadata("deltafilestats", b"\x08\x01")
        writer.finish()
    reader = opened(cfiles.written(write))
    assert (reader.compression, reader.encoding, reader.has_positional_index) == ("LZ4", "PLAIN_ENCODING", False)
    assert reader.metadata == {"deltafilestats": b"\x08\x01"}
    assert [deltas[row][:5] for row in reader.block_rows()] == reader.index_keys()
    assert cfiles.all_cells(reader) == deltas


def test_a_delta_without_its_key_is_refused() -> None:
    for value in (b"", b"\x05", b"\xff\x00", b"\x05\xfa\x00"):
        with pytest.raises(InvalidArgument):
            cfiles.written_strings(CFileWriter.for_deltas, [value])


def test_a_bloom_file_never_denies_its_keys_and_denies_most_others() -> None:
    keys = sorted(f"key {i}".encode() for i in range(5000))
    def write(sink: BlockSink) -> None:
        writer = BloomWriter(sink)
        assert writer.keys_per_block == 1710
        writer.add_keys(keys)
        writer.finish()
    bloom = BloomReader(opened(cfiles.written(write)))
    assert all(bloom.probe(key) for key in keys)
    assert sum(bloom.probe(f"other {i}".encode()) for i in range(5000)) < 20
    assert not bloom.probe(b"")


def test_a_column_is_no_bloom_file() -> None:
    with pytest.raises(BadFormat):
        BloomReader(opened(cfiles.written_column(one_column("BINARY", b"x"))))


# -- the sink ----------------------------------------------------------------------------------------------------------
def test_a_file_lies_at_its_offset_and_nothing_before_it_changes() -> None:
    fd = os.memfd_create("container")
    try:
        os.write(fd, b"\xaa" * 5000)
        writer = CFileWriter(BlockSink(Disk(), fd, 4096, name="container"), types.BY_NAME["INT32"])
        writer.append_block(one_column("INT32", *range(100_000), nullable=False))
        length = writer.finish()
        assert os.pread(fd, 4096, 0) == b"\xaa" * 4096
        reader = CFileReader(fd, 4096, length)
        assert cfiles.cells_of(reader.cursor().read_block(99_999, 1)) == [(99_999).to_bytes(4, "little")]
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_is_an_error_and_the_writer_stays_failed(error: int) -> None:
    disk = RecordingDisk()
    disk.fail("write", 1, error)
    fd = os.memfd_create("cfile")
    try:
        writer = CFileWriter(BlockSink(disk, fd, 0, name="here"), types.BY_NAME["INT64"], encoding=1)
        with pytest.raises(DiskError, match="here") as caught:
            writer.append_block(one_column("INT64", *range(200_000), nullable=False))
        assert caught.value.errno == error
        with pytest.raises(InvalidArgument):
            writer.finish()
    finally:
        os.close(fd)


def test_writers_refuse_what_is_not_theirs() -> None:
    fd = os.memfd_create("cfile")
    try:
        writer = CFileWriter(BlockSink(Disk(), fd), types.BY_NAME["INT64"])
        with pytest.raises(InvalidArgument):
            writer.append_block(one_column("INT32", 1, nullable=False))
        writer = CFileWriter(BlockSink(Disk(), fd), types.BY_NAME["INT32"])
        with pytest.raises(InvalidArgument):
            writer.append_block(one_column("INT32", None))
        for options in ({"positional_index": False}, {"value_index": True, "nullable": True}, {"compression": 9}):
            with pytest.raises(InvalidArgument):
                CFileWriter(BlockSink(Disk(), fd), types.BY_NAME["INT32"], **options)
        with pytest.raises(InvalidArgument):
            CFileWriter(BlockSink(Disk(), fd), types.BY_NAME["BOOL"], value_index=True)
    finally:
        os.close(fd)


def test_values_are_printed_as_kudu_prints_them() -> None:
    reader = opened(cfiles.written_column(one_column("STRING", "a", None, 'b"')))
    assert list(value_texts(reader)) == ['"a"', "NULL", '"b\\""']
