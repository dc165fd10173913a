"""Column files of real Kudu: read as the real tool reads them, written again byte for byte, and refused when
damaged."""
from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import cfiles
import pytest

from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.cfile_writer import CFileWriter
from kudu_storage.cfile.block_source import open_column_file
from kudu_storage.cfile.dump import value_texts
from kudu_storage.errors import (
    BadChecksum,
    CorruptionError,
    ForeignFile,
    KuduStorageError,
    NewerVersion,
    Unsupported,
)
from kudu_storage.protos import message_class

MANIFEST: dict[str, dict[str, Any]] = json.loads((cfiles.GOLDEN / "manifest.json").read_text())
COLUMNS = [name for name, told in MANIFEST.items() if told["rows"]]
# Small ones of each way to store values: every bit of them is flipped.
FLIPPED = ["bool-rle-snappy", "int64-rle-lz4-nullable", "int32-bitshuffle-none", "binary-dict-none-nullable",
           "varchar-prefix-zlib", "delta", "keyindex"]


def golden(name: str) -> bytes:
    return (cfiles.GOLDEN / f"{name}.cfile").read_bytes()


def opened(data: bytes, **options: Any) -> CFileReader:
    source = cfiles.memory_source(data)
    return CFileReader(source.fd, 0, len(data), name="memory", owner=source.owner, **options)


def everything(data: bytes) -> list[Any]:
    """All that a reader can learn from a file."""
    reader = opened(data)
    cells = cfiles.all_cells(reader) if reader.num_values else []
    keys = reader.index_keys() if reader.has_value_index else []
    return [cells, keys, sorted(reader.metadata.items()), reader.type.name]


@pytest.mark.parametrize("name", COLUMNS)
def test_values_are_those_that_the_real_tool_printed(name: str) -> None:
    reader = open_column_file(cfiles.source_of(cfiles.GOLDEN / f"{name}.cfile"))
    assert reader.num_values == MANIFEST[name]["rows"]
    text = "".join(f"{value}\n" for value in value_texts(reader)).encode("utf-8", "surrogateescape")
    assert hashlib.sha256(text).hexdigest() == MANIFEST[name]["kudu_dump_sha256"]


@pytest.mark.parametrize("name", COLUMNS)
def test_the_slow_twin_agrees(name: str) -> None:
    data = golden(name)
    assert cfiles.all_cells(opened(data)) == cfiles.read_slowly(data)


def written_again(reader: CFileReader, sink: BlockSink) -> None:
    if "deltafilestats" in reader.metadata:
        writer = CFileWriter.for_deltas(sink)
        writer.add_metadata("deltafilestats", reader.metadata["deltafilestats"])
    elif not reader.has_positional_index:
        writer = CFileWriter.for_key_index(sink)
    else:
        few = reader.block_count > 1 and max(size for _, size in reader.block_pointers()) < 3000
        writer = CFileWriter(sink, reader.type, nullable=reader.is_nullable, encoding=cfiles.ENCODINGS[reader.encoding],
                             compression=cfiles.COMPRESSIONS[reader.compression], value_index=reader.has_value_index,
                             key_metadata=reader.has_value_index, block_bytes=1024 if few else 0)
    writer.append_block(reader.cursor().read_block())
    writer.finish()


@pytest.mark.parametrize("name", COLUMNS)
def test_written_again_it_is_the_same_file(name: str) -> None:
    # The bytes are Kudu's own but for what its LZ4 and zlib chose; the size may differ by that much.
    data = golden(name)
    reader = opened(data)
    again = cfiles.written(lambda sink: written_again(reader, sink))
    assert everything(again) == everything(data)
    assert len(again) <= len(data) * 1.05


def test_a_bloom_file_of_real_kudu_is_read() -> None:
    bloom = BloomReader(opened(golden("bloom")))
    (key,) = bloom.reader.index_keys()
    assert not any(bloom.probe(key + b"no such key %d" % i) for i in range(50))


# -- damage ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FLIPPED)
def test_no_flipped_bit_gives_a_wrong_value(name: str) -> None:
    data = golden(name)
    truth = everything(data)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = everything(bytes(damaged))
        except KuduStorageError:
            continue
        assert found == truth, f"bit {bit}"


@pytest.mark.parametrize("name", FLIPPED)
def test_a_cut_file_is_refused_at_every_length(name: str) -> None:
    data = golden(name)
    for length in range(len(data)):
        with pytest.raises(CorruptionError):
            opened(data[:length])


def test_damage_is_reported_with_path_and_offset() -> None:
    data = bytearray(golden("int32-bitshuffle-none"))
    data[20] ^= 1
    with pytest.raises(BadChecksum) as caught:
        opened(bytes(data)).cursor().read_block()
    assert (caught.value.path, caught.value.offset) == ("memory", 16)


def test_version_one_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="version 1"):
        opened(b"kuducfil" + golden("delta")[8:])


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(ForeignFile):
        opened(b"kudulogf" + golden("delta")[8:])


def with_footer(data: bytes, **fields: Any) -> bytes:
    """The file with fields of its footer changed, and a checksum that fits."""
    footer = cfiles.footer_of(data)
    size = footer.ByteSize()
    start = len(data) - 12 - struct.unpack("<I", data[-4:])[0] - 4
    for name, value in fields.items():
        setattr(footer, name, value)
    size = footer.ByteSize()
    tail = footer.SerializeToString() + b"kuducfl2" + struct.pack("<I", size)
    return data[:start] + struct.pack("<I", cfiles.crc32c(tail)) + tail


def test_arrays_and_unknown_features_are_refused_by_name() -> None:
    data = golden("int32-bitshuffle-none")
    with pytest.raises(Unsupported, match="arrays"):
        opened(with_footer(data, incompatible_features=3))
    with pytest.raises(NewerVersion):
        opened(with_footer(data, incompatible_features=5))


def test_types_and_encodings_that_do_not_go_together_are_refused() -> None:
    data = golden("int32-bitshuffle-none")
    for changed in ({"encoding": 5}, {"encoding": 2}, {"encoding": 3}, {"compression": 999}, {"data_type": 21},
                    {"data_type": 12}):
        with pytest.raises((CorruptionError, Unsupported)):
            opened(with_footer(data, **changed))


@pytest.mark.parametrize("rows", [0, 1, 10**6, 2**40])
def test_a_row_count_that_lies_is_refused(rows: int) -> None:
    data = with_footer(golden("int32-bitshuffle-none"), num_values=rows)
    with pytest.raises(CorruptionError):
        opened(data).cursor().read_block(0, min(rows, 1))
        opened(data).block_rows()
        raise AssertionError("read")


def without_checksums(data: bytes) -> bytes:
    """The same values as a server with --cfile_write_checksums=false has them: one block, no index needed."""
    footer = cfiles.footer_of(data)
    tree = footer.posidx_info.root_block
    ((key, offset, size),) = cfiles.leaves(data, tree, 1)
    block = data[offset:offset + size - 4]
    entry = bytes([len(key)]) + key + bytes([12]) + bytes([len(block) & 127 | 128, len(block) >> 7])
    node = entry + struct.pack("<I", 0) + b"\x08\x01\x10\x00" + struct.pack("<I", 4)
    tree.offset, tree.size = 12 + len(block), len(node)
    footer.incompatible_features = 0
    tail = footer.SerializeToString()
    return b"kuducfl2" + bytes(4) + block + node + tail + b"kuducfl2" + struct.pack("<I", len(tail))


def test_a_file_without_checksums_is_read_only_when_asked_for() -> None:
    data = golden("int32-bitshuffle-none")
    plain = without_checksums(data)
    with pytest.raises((CorruptionError, Unsupported)):
        opened(plain)
    assert cfiles.all_cells(opened(plain, allow_unchecked=True)) == cfiles.read_slowly(data)


def test_a_missing_checksum_flag_in_a_file_with_checksums_is_damage() -> None:
    with pytest.raises((CorruptionError, Unsupported)):
        opened(with_footer(golden("int32-bitshuffle-none"), incompatible_features=0))


def test_message_of_the_footer_is_the_schema_that_the_repository_has() -> None:
    footer = message_class("kudu.cfile.CFileFooterPB").FromString(cfiles.footer_of(golden("delta")).SerializeToString())
    assert footer == cfiles.footer_of(golden("delta"))


def test_golden_files_are_all_listed() -> None:
    assert {Path(name).stem for name in cfiles.GOLDEN.glob("*.cfile")} == set(MANIFEST)
