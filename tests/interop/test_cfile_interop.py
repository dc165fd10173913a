"""Column files that we write, in a log block manager's container, read by the real `kudu fs dump cfile`."""
from __future__ import annotations

import random
import shutil
import subprocess
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import cfiles
import oracle
import pytest
from blocks import column

from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.cfile_writer import BloomWriter, CFileWriter
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.disk import Disk
from kudu_storage.cfile.block_source import open_column_file
from kudu_storage.cfile.dump import value_texts
from kudu_storage.common import types
from kudu_storage.common.schema import Schema
from kudu_storage.fs.pb_container import write_container
from kudu_storage.protos import message_class

ALIGNMENT = 4096


class Container:
    """One container of a log block manager, assembled here: blocks behind one another, then its metadata."""

    def __init__(self, root: Path) -> None:
        self.data_path = root / "data" / f"{'ab' * 16}.data"
        self.file = open(self.data_path, "w+b")     # noqa: SIM115
        self.records: list[bytes] = []
        self.end = 0
        self.blocks: dict[int, tuple[int, int]] = {}

    def add(self, block_id: int, write: Any) -> None:
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        length = write(BlockSink(Disk(), self.file.fileno(), offset, name=str(self.data_path)))
        self.blocks[block_id] = (offset, length)
        record: Any = message_class("kudu.BlockRecordPB")()
        record.block_id.id, record.op_type, record.timestamp_us = block_id, 1, 1
        record.offset, record.length = offset, length
        self.records.append(record.SerializeToString())
        self.end = offset + length

    def close(self) -> None:
        self.file.close()
        write_container(self.data_path.with_suffix(".metadata"), "kudu.BlockRecordPB", self.records)


@pytest.fixture
def file_system(kudu: oracle.KuduBinaries, tmp_path: Path) -> Path:
    """A data root that the real tool formatted."""
    root = tmp_path / "fs"
    kudu.run("fs", "format", f"--fs_wal_dir={root}", f"--fs_data_dirs={root}", *oracle.CLOCK_FLAGS, check=True)
    return root


def real_values(kudu: oracle.KuduBinaries, root: Path, block_id: int) -> bytes:
    done = subprocess.run([kudu.program("kudu"), "fs", "dump", "cfile", str(block_id), f"--fs_wal_dir={root}",
                           f"--fs_data_dirs={root}", "--print_meta=false"], env=kudu.environment(), capture_output=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def our_values(container: Container, block_id: int) -> bytes:
    offset, length = container.blocks[block_id]
    reader = open_column_file(cfiles.source_of(container.data_path, offset, length))
    return "".join(f"{text}\n" for text in value_texts(reader)).encode("utf-8", "surrogateescape")


def sample(kind: str, source: random.Random) -> Any:
    """Runs and noise of a type."""
    few = source.random() < 0.6
    number = source.choice([0, 1, -5]) if few else source.randrange(-100, 100)
    return {
        "BOOL": number > 0, "FLOAT": number / 4, "DOUBLE": number / 3, "STRING": f"text {number}",
        "VARCHAR": f"v{number}" * 3,
        "BINARY": bytes([number % 256, 0, 255]), "DATE": date(2020 + number % 5, 1, 1),
        "UNIXTIME_MICROS": datetime(2020, 1, 1, 0, 0, number % 60, tzinfo=UTC),
    }.get(kind, Decimal(number) if kind.startswith("DECIMAL") else number)


def block_of(kind: str, nullable: bool, rows: int) -> ColumnBlock:
    source = random.Random(kind + str(nullable))
    values: list[tuple[Any]] = []
    while len(values) < rows:
        value = None if nullable and source.random() < 0.3 else sample(kind, source)
        values += [(value,)] * source.choice([1, 1, 4, 30])
    scale = {"scale": 0} if kind.startswith("DECIMAL") else {}
    return ColumnBlock.from_tuples(Schema((column("c", kind, nullable=nullable, **scale),)), values)


def test_the_real_tool_reads_every_type_encoding_and_codec_that_we_write(kudu: oracle.KuduBinaries,
                                                                         file_system: Path) -> None:
    container = Container(file_system)
    wanted = 0
    codecs = 0
    for kind, column_type in types.BY_NAME.items():
        encodings = [1, 2, 5] if column_type.is_binary else [1, 4] if kind == "BOOL" else [1, 4, 6]
        for encoding in encodings:
            for nullable in (False, True):
                block = block_of(kind, nullable, 4000)
                codecs += 1
                wanted += 1

                def write(sink: BlockSink, block: ColumnBlock = block, encoding: int = encoding,
                          nullable: bool = nullable,
                          codec: int = 1 + codecs % 4, column_type: types.ColumnType = column_type) -> int:
                    writer = CFileWriter(sink, column_type, nullable=nullable, encoding=encoding, compression=codec,
                                         block_bytes=1024 if codec == 1 else 0)
                    writer.append_block(block)
                    return writer.finish()

                container.add(wanted, write)
    container.close()
    for block_id in range(1, wanted + 1):
        ours = our_values(container, block_id)
        assert ours.count(b"\n") >= 4000
        assert real_values(kudu, file_system, block_id) == ours


def test_the_real_tool_reads_key_index_delta_and_overflowed_dictionary(kudu: oracle.KuduBinaries,
                                                                       file_system: Path) -> None:
    container = Container(file_system)
    keys = [b"key %07d" % i for i in range(20_000)]

    def key_index(sink: BlockSink) -> int:
        writer = CFileWriter.for_key_index(sink)
        writer.append_strings(keys)
        return writer.finish()

    def deltas(sink: BlockSink) -> int:
        writer = CFileWriter.for_deltas(sink)
        writer.append_strings([bytes([row, 5, 2]) for row in range(240)])
        return writer.finish()

    def overflowed(sink: BlockSink) -> int:
        writer = CFileWriter(sink, types.BY_NAME["STRING"], encoding=5, block_bytes=4096, value_index=True)
        writer.append_strings([b"%09d" % i for i in range(3000)])
        return writer.finish()

    def bloom(sink: BlockSink) -> int:
        writer = BloomWriter(sink)
        writer.add_keys(keys)
        return writer.finish()

    for block_id, write in enumerate((key_index, deltas, overflowed, bloom), 1):
        container.add(block_id, write)
    container.close()
    for block_id in range(1, 4):        # the tool cannot print a bloom file, its own neither
        assert real_values(kudu, file_system, block_id) == our_values(container, block_id)
    checked = kudu.run("fs", "check", f"--fs_wal_dir={file_system}", f"--fs_data_dirs={file_system}", check=True).stdout
    assert "Total live blocks: 4\n" in checked
    assert f"Total live bytes: {sum(n for _, n in container.blocks.values())}\n" in checked


def test_stopped_servers_files_are_printed_as_the_real_tool_prints_them(kudu: oracle.KuduBinaries,
                                                                        tmp_path: Path) -> None:
    servers = cfiles.stopped_servers()
    if servers is None:
        pytest.skip("no archives of stopped servers beside this checkout, or no zstd")
    root = shutil.copytree(servers / "leader-pending-kill9", tmp_path / "copy")
    found = 0
    for block in cfiles.stored_blocks(root / "data"):
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        if not reader.num_values:
            continue                    # a bloom file, which the tool cannot print
        done = subprocess.run([kudu.program("kudu"), "fs", "dump", "cfile", str(block.block_id),
                               f"--fs_wal_dir={root}/wal",
                               f"--fs_data_dirs={root}/data", "--print_meta=false"], env=kudu.environment(),
                              capture_output=True, timeout=120, check=True)
        assert done.stdout == "".join(f"{text}\n" for text in value_texts(reader)).encode("utf-8", "surrogateescape")
        found += 1
    assert found
