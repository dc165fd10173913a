"""Hostile column files: bytes changed at random, with checksums that fit, so that every decoder sees them.

A reader answers with values or with an error of the tree; anything else, and any access outside of its memory, is a bug
(.ci/sanitize runs this on instrumented code).
"""
from __future__ import annotations

import random
import struct
from contextlib import suppress

import cfiles
import pytest
from blocks import one_column
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.cfile_reader import CFileReader, ValueFilter
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_scan import RowSetReader
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, KuduStorageError

GOLDEN = sorted(cfiles.GOLDEN.glob("*.cfile"))
TRIES = 150
ROWS_MAX = 5000


def exercise(data: bytes) -> None:
    """All ways to read."""
    source = cfiles.memory_source(data)
    reader = CFileReader(source.fd, 0, len(data), owner=source.owner)
    cursor = reader.cursor()
    count = min(reader.num_values, ROWS_MAX)
    with suppress(KuduStorageError):
        cursor.read_block(0, count)
    for first in (count // 2, 0, count - 1):
        with suppress(KuduStorageError):
            cursor.read_block(max(first, 0), min(3, count))
    with suppress(KuduStorageError):
        cursor.read_block_selected(0, count, b"\x5a" * (count // 8 + 1))
    with suppress(KuduStorageError):
        reader.index_keys()
        for key in (b"", b"\x80", b"\xff" * 20, *reader.metadata.values()):
            cursor.find(key)
    scan_with_tests(reader, count)
    if reader.type.is_binary:
        with suppress(KuduStorageError):
            cursor.matching(ValueFilter(reader, lower=b"a", upper=b"z"), 0, count)
        with suppress(KuduStorageError):
            cursor.codewords(0, count)
        with suppress(KuduStorageError):
            bloom = BloomReader(reader)
            bloom.probe(b"some key"), bloom.probe(b"\xff\xff")


def scan_with_tests(reader: CFileReader, count: int) -> None:
    """As a scan with predicates reads it: whole blocks, codewords, and the few rows that others left."""
    schema = Schema((ColumnSchema("c", reader.type, nullable=reader.is_nullable, id=0),))
    cell = b"m" if reader.type.is_binary else b"\1" * reader.type.width_bytes
    for tests in ([(0, "ge", (cell,))], [(0, "in", (cell, cell[:-1] + b"\2"))], [(0, "null", ())],
                  [(0, "not_null", ()), (0, "lt", (cell,))]):
        with suppress(KuduStorageError):
            applier = DeltaApplier(RowLayout(schema), Snapshot.everything())
            rows = RowSetReader(applier, [reader], reader.num_values, ColumnTests(schema, tests))
            for first in range(0, count, 700):
                rows.read(first, min(700, count - first), [], [])


def changed(source: random.Random, data: bytearray, start: int, end: int) -> None:
    """A few bytes of data[start:end] replaced by bits flipped, edges of numbers, or noise."""
    for _ in range(source.choice([1, 1, 2, 5])):
        at = source.randrange(start, end)
        how = source.randrange(4)
        if how == 0:
            data[at] ^= 1 << source.randrange(8)
        elif how == 1:
            data[at] = source.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif how == 2:
            number = source.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, end - start])
            size = min(4, end - at)
            data[at:at + size] = struct.pack("<I", number)[:size]
        else:
            data[at] = source.randrange(256)


def all_blocks(data: bytes) -> list[tuple[int, int]]:
    """(offset, size) of every data, index and dictionary block."""
    footer = cfiles.footer_of(data)
    found: list[tuple[int, int]] = []
    for present, tree in ((footer.HasField("posidx_info"), footer.posidx_info), (footer.HasField("validx_info"),
                                                                                 footer.validx_info)):
        if present:
            root = tree.root_block
            found += [(root.offset, root.size), *((o, s) for _, o, s in cfiles.leaves(data, root, footer.compression))]
    if footer.HasField("dict_block_ptr"):
        found.append((footer.dict_block_ptr.offset, footer.dict_block_ptr.size))
    return sorted(set(found))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_changed_blocks_with_fitting_checksums_are_read_or_refused(path: str) -> None:
    data = cfiles.GOLDEN.joinpath(path).read_bytes()
    source = random.Random(len(data))
    blocks = all_blocks(data)
    for _ in range(TRIES):
        damaged = bytearray(data)
        offset, size = source.choice(blocks)
        changed(source, damaged, offset, offset + size - 4)
        struct.pack_into("<I", damaged, offset + size - 4, cfiles.crc32c(bytes(damaged[offset:offset + size - 4])))
        with suppress(KuduStorageError):
            exercise(bytes(damaged))


@pytest.mark.parametrize("null", [False, True])
def test_a_codeword_above_the_dictionary_is_an_error_in_a_scan_with_predicates(null: bool) -> None:
    words = [b"word %d" % (i % 3) if not null or i % 4 else None for i in range(200)]
    data = cfiles.written_column(one_column("BINARY", *words, nullable=null), encoding=5)
    footer = cfiles.footer_of(data)
    schema = Schema((ColumnSchema("c", types.BY_NAME["BINARY"], nullable=null, id=0),))
    tests = ColumnTests(schema, [(0, "eq", (b"word 1",))])
    at = footer.dict_block_ptr.offset
    size = footer.dict_block_ptr.size - 4
    # The same dictionary with one entry less: the data's codewords 2 lead outside.
    fewer = cfiles.written_column(one_column("BINARY", b"word 0", b"word 1", nullable=False), encoding=5)
    other = cfiles.footer_of(fewer).dict_block_ptr
    short = fewer[other.offset:other.offset + other.size - 4]
    assert len(short) <= size and data[at:at + size] != short
    damaged = bytearray(data[:at] + short + struct.pack("<I", cfiles.crc32c(short)))
    footer.dict_block_ptr.size = len(short) + 4
    footer_bytes = footer.SerializeToString()
    rest = data[at + size + 4:len(data) - 16 - struct.unpack("<I", data[-4:])[0]]
    damaged += b"\0" * (size - len(short)) + rest
    tail = footer_bytes + b"kuducfl2" + struct.pack("<I", len(footer_bytes))
    damaged += struct.pack("<I", cfiles.crc32c(tail)) + tail
    source = cfiles.memory_source(bytes(damaged))
    reader = CFileReader(source.fd, 0, len(damaged), owner=source.owner)
    rows = RowSetReader(DeltaApplier(RowLayout(schema), Snapshot.everything()), [reader], 200, tests)
    with pytest.raises(BadFormat, match="outside of the dictionary"):
        rows.read(0, 200, [], [])


@pytest.mark.parametrize("path", GOLDEN[::6], ids=lambda p: p.stem)
def test_changed_footers_with_fitting_checksums_are_read_or_refused(path: str) -> None:
    data = cfiles.GOLDEN.joinpath(path).read_bytes()
    source = random.Random(len(data))
    (size,) = struct.unpack("<I", data[-4:])
    start = len(data) - 12 - size
    for _ in range(TRIES * 2):
        damaged = bytearray(data)
        changed(source, damaged, start, len(data) - 12)
        struct.pack_into("<I", damaged, start - 4, cfiles.crc32c(bytes(damaged[start:])))
        with suppress(KuduStorageError):
            exercise(bytes(damaged))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.booleans())
def test_noise_is_refused(noise: bytes, framed: bool) -> None:
    with pytest.raises(KuduStorageError):
        exercise(b"kuducfl2" + noise + b"kuducfl2" + struct.pack("<I", len(noise) // 2) if framed else noise)


def test_an_index_that_points_at_itself_ends() -> None:
    """An internal node whose child is the node itself."""
    data = cfiles.written_column(one_column("INT32", *range(10), nullable=False))
    footer = cfiles.footer_of(data)
    root = footer.posidx_info.root_block
    tail_at = len(data) - 16 - struct.unpack("<I", data[-4:])[0]
    # Four entries, each of which leads to the node at the place where it will lie.
    at = tail_at
    entry = b"\x04\0\0\0\0" + bytes([at & 127 | 128, at >> 7])
    size = 4 * (len(entry) + 1 + 4) + 4 + 4 + 4
    entries = [entry + bytes([size])] * 4
    body = b"".join(entries) + b"".join(struct.pack("<I", i * len(entries[0])) for i in range(4))
    body += b"\x08\x04\x10\x01" + struct.pack("<I", 4)
    assert len(body) + 4 == size < 128
    root.offset, root.size = at, size
    tail = footer.SerializeToString()
    tail += b"kuducfl2" + struct.pack("<I", len(tail))
    looped = data[:tail_at] + body + struct.pack("<I", cfiles.crc32c(body)) + struct.pack("<I",
                                                                                          cfiles.crc32c(tail)) + tail
    with pytest.raises(KuduStorageError, match="circle"):
        exercise(looped)


@pytest.mark.parametrize("encoding", [1, 2, 5])
def test_lengths_that_promise_gigabytes_allocate_nothing(encoding: int) -> None:
    data = cfiles.written_column(one_column("BINARY", *[b"value %d" % i for i in range(30)], nullable=False),
                                 encoding=encoding)
    for offset, size in all_blocks(data):
        for at in range(offset, min(offset + size - 4, offset + 24)):
            damaged = bytearray(data)
            room = min(4, offset + size - 4 - at)
            damaged[at:at + room] = b"\xff\xff\xff\x7f"[:room]
            struct.pack_into("<I", damaged, offset + size - 4, cfiles.crc32c(bytes(damaged[offset:offset + size - 4])))
            with suppress(KuduStorageError):
                exercise(bytes(damaged))
