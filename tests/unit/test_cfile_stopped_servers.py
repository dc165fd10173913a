"""Every column file of the stopped servers, read by ours and by the slow twin."""
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cfiles
import pytest

from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.cfile_writer import BloomWriter, CFileWriter
from kudu_storage.cfile.block_source import open_column_file
from kudu_storage.fs.pb_container import read_single
from kudu_storage.protos import message_class

SERVERS = ["file-bm-clean", "leader-pending-kill9", "many-rowsets-kill9"]


@pytest.fixture(params=SERVERS)
def data_root(request: pytest.FixtureRequest) -> Path:
    servers = cfiles.stopped_servers()
    if servers is None:
        pytest.skip("no archives of stopped servers beside this checkout, or no zstd")
    return servers / request.param / "data"


def test_every_cell_equals_the_slow_twins(data_root: Path) -> None:
    blocks = list(cfiles.stored_blocks(data_root))
    assert blocks
    for block in blocks:
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        expected = cfiles.read_slowly(block.read())
        assert reader.num_values == len(expected)
        if expected:
            cells = reader.cursor().read_block()
            assert [cells.cells(row)[0] for row in range(len(cells))] == expected, block


def test_min_and_max_keys_are_the_first_and_last_row(data_root: Path) -> None:
    found = 0
    for block in cfiles.stored_blocks(data_root):
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        if "min_key" not in reader.metadata:
            continue
        cursor = reader.cursor()
        assert cursor.find(reader.metadata["min_key"]) == (0, True)
        assert cursor.find(reader.metadata["max_key"]) == (reader.num_values - 1, True)
        assert cursor.find(reader.metadata["max_key"] + b"\0") == (reader.num_values, False)
        found += 1
    assert found


def written_again(reader: CFileReader, sink: BlockSink) -> None:
    if "deltafilestats" in reader.metadata:
        writer = CFileWriter.for_deltas(sink)
        writer.add_metadata("deltafilestats", reader.metadata["deltafilestats"])
    elif not reader.has_positional_index:
        writer = CFileWriter.for_key_index(sink)
    else:
        few = reader.block_count > 1 and max(size for _, size in reader.block_pointers()[:-1]) < 3000
        writer = CFileWriter(sink, reader.type, nullable=reader.is_nullable, encoding=cfiles.ENCODINGS[reader.encoding],
                             compression=cfiles.COMPRESSIONS[reader.compression], value_index=reader.has_value_index,
                             key_metadata=reader.has_value_index, block_bytes=1024 if few else 0)
    writer.append_block(reader.cursor().read_block())
    writer.finish()


def test_files_written_again_have_kudus_size(data_root: Path) -> None:
    """With the same LZ4 and zlib most come out byte for byte; others may choose other matches."""
    theirs = ours = 0
    for block in cfiles.stored_blocks(data_root):
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        if not reader.num_values:
            continue
        again = cfiles.written(functools.partial(written_again, reader))
        theirs += block.length
        ours += len(again)
        read_again = open_column_file(cfiles.memory_source(again))
        assert cfiles.all_cells(read_again) == cfiles.all_cells(reader)
        assert read_again.block_rows() == reader.block_rows()
        if reader.has_value_index:
            assert read_again.index_keys() == reader.index_keys()
    assert ours <= theirs * 1.05


def test_bloom_files_are_those_that_we_would_write(data_root: Path) -> None:
    """For each rowset: its keys from the key index or the key column, a bloom file of them, the same bytes as
    Kudu's."""
    blocks = {block.block_id: block for block in cfiles.stored_blocks(data_root)}
    superblock: Any = message_class("kudu.tablet.TabletSuperBlockPB")
    compared = 0
    for path in sorted((data_root.parent / "wal" / "tablet-meta").iterdir()):
        tablet = read_single(path, superblock)
        for rowset in tablet.rowsets:
            if rowset.HasField("adhoc_index_block"):
                source = blocks[rowset.adhoc_index_block.id]
            else:
                first_id = tablet.schema.columns[0].id
                source = next(blocks[c.block.id] for c in rowset.columns if c.column_id == first_id)
            reader = open_column_file(cfiles.source_of(source.path, source.offset, source.length))
            keys = [cell for cell in cfiles.all_cells(reader) if cell is not None]
            if reader.type.width_bytes:
                half, width = 2 ** (8 * reader.type.width_bytes - 1), reader.type.width_bytes
                keys = [(int.from_bytes(key, "little", signed=True) + half).to_bytes(width, "big") for key in keys]

            def write(sink: BlockSink, keys: list[bytes] = keys) -> None:
                writer = BloomWriter(sink)
                writer.add_keys(keys)
                writer.finish()

            assert cfiles.written(write) == blocks[rowset.bloom_block.id].read()
            bloom = blocks[rowset.bloom_block.id]
            probes = BloomReader(open_column_file(cfiles.source_of(bloom.path, bloom.offset, bloom.length)))
            assert all(probes.probe(key) for key in keys)
            compared += 1
    assert compared
