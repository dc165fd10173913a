"""Column files for tests: those of stopped servers, and a slow reading of the format that shares no code with ours.

The twin below is the specification: it follows kudu-disk's description value by value, with the standard library and
the `lz4` and `cramjam` packages, and is never used outside of tests.
"""
from __future__ import annotations

import atexit
import functools
import io
import itertools
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cramjam
import crcmod.predefined
import lz4.block
from fixtures import fixtures_root

from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.cfile_writer import CFileWriter
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.disk import Disk
from kudu_storage.cfile.block_source import BlockSource
from kudu_storage.fs.pb_container import read_container
from kudu_storage.protos import message_class

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cfile"
WIDTHS = {1: 1, 3: 2, 5: 4, 7: 8, 8: 0, 9: 1, 10: 4, 11: 8, 12: 0, 13: 8, 15: 4, 16: 8, 17: 16, 19: 0, 20: 4}
BOOL, PLAIN, PREFIX, RLE, DICT, BIT_SHUFFLE = 9, 1, 2, 4, 5, 6


# -- where files are ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class StoredBlock:
    """One live block of a stopped server."""

    block_id: int
    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), self.length, self.offset)


@functools.cache
def stopped_servers() -> Path | None:
    """A folder with one unpacked server directory for each archive; None where there are no archives."""
    root = fixtures_root()
    archives = sorted((root / "kudu-fixtures-disk").glob("*.tar.zst")) if root else []
    if not archives or shutil.which("zstd") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="kudu-stopped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for archive in archives:
        plain = subprocess.run(["zstd", "-dcq", str(archive)], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            tar.extractall(folder / archive.name.removesuffix(".tar.zst"), filter="data")
    return folder


def stored_blocks(root: Path) -> Iterator[StoredBlock]:
    """The live blocks under a data root, from its containers' metadata or from its files."""
    for metadata in sorted((root / "data").glob("*.metadata")):
        container = read_container(metadata)
        live: dict[int, tuple[int, int]] = {}
        for record in container.records:
            parsed: Any = container.parse(record)
            if parsed.op_type == 1:
                live[parsed.block_id.id] = (parsed.offset, parsed.length)
            else:
                live.pop(parsed.block_id.id, None)
        for block_id, (offset, length) in live.items():
            yield StoredBlock(block_id, metadata.with_suffix(".data"), offset, length)
    for path in sorted((root / "data").glob("??/??/??/*")):
        yield StoredBlock(int(path.name), path, 0, path.stat().st_size)


class OpenFile:
    """A file's descriptor, closed with the last reader that holds this."""

    def __init__(self, path: Path | str) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.fd)


def source_of(path: Path | str, offset: int = 0, length: int | None = None) -> BlockSource:
    file = OpenFile(path)
    size = os.fstat(file.fd).st_size - offset if length is None else length
    return BlockSource(file.fd, offset, size, str(path), file)


def memory_source(data: bytes) -> BlockSource:
    """A column file in memory."""
    fd = os.memfd_create("cfile")
    os.write(fd, data)
    path = f"/proc/self/fd/{fd}"
    source = source_of(path, 0, len(data))
    os.close(fd)
    return source


# -- the slow twin -----------------------------------------------------------------------------------------------------
def footer_of(data: bytes) -> Any:
    assert data[:8] == b"kuducfl2" and data[-12:-4] == b"kuducfl2"
    (size,) = struct.unpack("<I", data[-4:])
    (crc,) = struct.unpack("<I", data[-16 - size:-12 - size])
    assert crc == crc32c(data[-12 - size:])
    return message_class("kudu.cfile.CFileFooterPB").FromString(data[-12 - size:-12])


def body_of(data: bytes, pointer: Any, compression: int) -> bytes:
    stored = data[pointer.offset:pointer.offset + pointer.size]
    assert struct.unpack("<I", stored[-4:])[0] == crc32c(stored[:-4])
    stored = stored[:-4]
    if compression == 1:
        return stored
    (size,) = struct.unpack("<I", stored[:4])
    stored = stored[4:]
    if len(stored) == size:
        return stored
    return {2: lambda: bytes(cramjam.snappy.decompress_raw(stored)), 4: lambda: zlib.decompress(stored),
            3: lambda: lz4.block.decompress(stored, uncompressed_size=size)}[compression]()


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def node_entries(body: bytes) -> tuple[bool, list[tuple[bytes, int, int]]]:
    """Whether it is a leaf, and its (key, offset, size)."""
    (size,) = struct.unpack("<I", body[-4:])
    trailer: Any = message_class("kudu.cfile.IndexBlockTrailerPB").FromString(body[-4 - size:-4])
    start = len(body) - 4 - size - 4 * trailer.num_entries
    entries = []
    for at in struct.unpack_from(f"<{trailer.num_entries}I", body, start):
        length, at = varint(body, at)
        offset, after = varint(body, at + length)
        entries.append((body[at:at + length], offset, varint(body, after)[0]))
    return trailer.type == 0, entries


def leaves(data: bytes, pointer: Any, compression: int) -> Iterator[tuple[bytes, int, int]]:
    is_leaf, entries = node_entries(body_of(data, pointer, compression))
    for key, offset, size in entries:
        if is_leaf:
            yield key, offset, size
        else:
            child = type(pointer)(offset=offset, size=size)
            yield from leaves(data, child, compression)


def runs(data: bytes, width: int, count: int) -> list[int]:
    """`count` unsigned values of `width` bits."""
    values: list[int] = []
    at = 0
    while len(values) < count:
        header, at = varint(data, at)
        if header & 1:
            size = (header >> 1) * width
            packed = int.from_bytes(data[at:at + size], "little")
            values += [packed >> (i * width) & ((1 << width) - 1) for i in range((header >> 1) * 8)]
            at += size
        else:
            size = (width + 7) // 8
            values += [int.from_bytes(data[at:at + size], "little")] * (header >> 1)
            at += size
    return values[:count]


def shuffled(data: bytes) -> tuple[list[bytes], int]:
    """The elements and the ordinal."""
    ordinal, count, total, padded, width = struct.unpack_from("<5I", data)
    assert total == len(data) and padded == (count + 7) // 8 * 8
    piece = max(128, (8192 // width) & ~7)
    elements: list[bytes] = []
    at = 20
    for first in range(0, padded, piece):
        k = min(piece, padded - first)
        (size,) = struct.unpack_from(">I", data, at)
        rows = lz4.block.decompress(data[at + 4:at + 4 + size], uncompressed_size=k * width)
        at += 4 + size
        for i in range(k):
            value = 0
            for row in range(8 * width):
                value |= (rows[row * (k // 8) + i // 8] >> (i % 8) & 1) << row
            elements.append(value.to_bytes(width, "little"))
    assert at == len(data)
    return elements[:count], ordinal


def group_varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    values: list[int] = []
    while len(values) < count:
        tag, at = data[at], at + 1
        for shift in (6, 4, 2, 0):
            size = (tag >> shift & 3) + 1
            values.append(int.from_bytes(data[at:at + size], "little"))
            at += size
    return values[:count], at


def plain_strings(data: bytes) -> tuple[list[bytes], int]:
    ordinal, count, end = struct.unpack_from("<3I", data)
    offsets = [*group_varints(data, end, count)[0], end]
    return [data[a:b] for a, b in itertools.pairwise(offsets)], ordinal


def prefixed_strings(data: bytes) -> tuple[list[bytes], int]:
    (count, ordinal, _, _), at = group_varints(data, 0, 4)
    values: list[bytes] = []
    for _ in range(count):
        shared, at = varint(data, at)
        rest, at = varint(data, at)
        values.append((values[-1][:shared] if shared else b"") + data[at:at + rest])
        at += rest
    return values, ordinal


def block_cells(footer: Any, body: bytes, dictionary: list[bytes]) -> tuple[int, list[bytes | None]]:
    """The ordinal and the cells of a data block; fixed values as their bytes in memory."""
    width, cells, bitmap = WIDTHS[footer.data_type], 0, b""
    if footer.is_type_nullable:
        cells, at = varint(body, 0)
        size, at = varint(body, at)
        bitmap, body = body[at:at + size], body[at + size:]
    values: list[bytes]
    if footer.encoding == BIT_SHUFFLE:
        values, ordinal = shuffled(body)
    elif width and (footer.encoding == RLE or footer.data_type == BOOL):
        count, ordinal = struct.unpack_from("<2I", body)
        bits = 1 if footer.data_type == BOOL else 8 * width
        if footer.encoding == RLE:
            numbers = runs(body[8:], bits, count)
        else:
            numbers = [body[8 + i // 8] >> (i % 8) & 1 for i in range(count)]
        values = [number.to_bytes(width, "little") for number in numbers]
    elif width:
        count, ordinal = struct.unpack_from("<2I", body)
        values = [body[8 + i * width:8 + (i + 1) * width] for i in range(count)]
    elif footer.encoding == PREFIX:
        values, ordinal = prefixed_strings(body)
    elif footer.encoding == PLAIN:
        values, ordinal = plain_strings(body)
    elif body[:4] == b"\x01\0\0\0":
        codes, ordinal = shuffled(body[4:])
        values = [dictionary[int.from_bytes(code, "little")] for code in codes]
    else:
        assert body[:4] == b"\x02\0\0\0"
        values, ordinal = plain_strings(body[4:])
    if not footer.is_type_nullable:
        return ordinal, list(values)
    present = iter(values)
    return ordinal, [next(present) if bit else None for bit in runs(bitmap, 1, cells)]


def read_slowly(data: bytes) -> list[bytes | None]:
    """All cells of a column file."""
    footer = footer_of(data)
    dictionary: list[bytes] = []
    if footer.encoding == DICT:
        dictionary = plain_strings(body_of(data, footer.dict_block_ptr, footer.compression))[0]
    tree = footer.posidx_info if footer.HasField("posidx_info") else footer.validx_info
    cells: list[bytes | None] = []
    if not footer.num_values:
        return cells
    for _, offset, size in leaves(data, tree.root_block, footer.compression):
        pointer = type(tree.root_block)(offset=offset, size=size)
        ordinal, more = block_cells(footer, body_of(data, pointer, footer.compression), dictionary)
        assert ordinal == len(cells)
        cells += more
    assert len(cells) == footer.num_values
    return cells


# -- writing for tests -------------------------------------------------------------------------------------------------
ENCODINGS = {"PLAIN_ENCODING": PLAIN, "PREFIX_ENCODING": PREFIX, "RLE": RLE, "DICT_ENCODING": DICT,
             "BIT_SHUFFLE": BIT_SHUFFLE}
COMPRESSIONS = {"NO_COMPRESSION": 1, "SNAPPY": 2, "LZ4": 3, "ZLIB": 4}


def written(write: Callable[[BlockSink], Any], disk: Disk | None = None) -> bytes:
    """The bytes that `write` put into the sink it was given."""
    fd = os.memfd_create("cfile")
    try:
        write(BlockSink(disk or Disk(), fd, 0, name="memory"))
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def written_column(block: ColumnBlock, **options: Any) -> bytes:
    """A column file of a block's one column."""
    (column,) = block.schema

    def write(sink: BlockSink) -> None:
        writer = CFileWriter(sink, column.type, nullable=column.nullable, **options)
        writer.append_block(block)
        writer.finish()

    return written(write)


def written_strings(make: Callable[[BlockSink], CFileWriter], values: list[bytes]) -> bytes:
    def write(sink: BlockSink) -> None:
        writer = make(sink)
        writer.append_strings(values)
        writer.finish()

    return written(write)


def cells_of(block: ColumnBlock) -> list[bytes | None]:
    return [block.cells(row)[0] for row in range(len(block))]


def all_cells(reader: CFileReader) -> list[bytes | None]:
    return cells_of(reader.cursor().read_block())


def city_hash64(data: bytes) -> int:
    """CityHash64 with the constants that Kudu has, for keys up to 16 bytes; written from the published algorithm."""
    mask = 2**64 - 1
    k2, k3 = 0xC47B6E9E3A970ED3, 0xC70F6907E782AA0B

    def mix(v: int) -> int:
        return (v ^ v >> 47) & mask

    def pair(high: int, low: int) -> int:
        mul = 0xC6A4A7935BD1E995
        a = mix((low ^ high) * mul & mask)
        return mix((high ^ a) * mul & mask) * mul & mask

    n = len(data)
    assert n <= 16
    if n > 8:
        a, b = int.from_bytes(data[:8], "little"), int.from_bytes(data[-8:], "little")
        turned = (b + n & mask) >> n | (b + n) << 64 - n & mask
        return pair(a, turned) ^ b
    if n >= 4:
        return pair(n + (int.from_bytes(data[:4], "little") << 3), int.from_bytes(data[-4:], "little"))
    if n:
        y, z = data[0] + (data[n >> 1] << 8), n + (data[-1] << 2)
        return mix((y * k2 ^ z * k3) & mask) * k2 & mask
    return k2
