"""CPU time of decoding and encoding column files, by processor time (other work on the machine does not count).

    python bench/cfile.py [--rows N] [--rounds N]

Decoding goes through ColumnCursor.read_block in batches of 64 Ki rows into fresh column buffers, from cached blocks
("warm") and with reading, checksum and decompression ("cold", page cache). Loadgen-like values: a growing key, numbers
mod a million, strings from a small and from a large set.
"""
from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.block_sink import BlockSink
from kudu_storage._native.cfile_reader import CFileReader, ValueFilter
from kudu_storage._native.cfile_writer import CFileWriter
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.disk import Disk
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema

BATCH = 65_536


def columns(rows: int) -> Iterator[tuple[str, str, bool, int, list[object]]]:
    """name, type, nullable, encoding, values"""
    source = random.Random(1)
    numbers = [source.randrange(1_000_000) for _ in range(rows)]
    yield "int64 growing, bitshuffle", "INT64", False, 6, list(range(rows))
    yield "int32 of a million, bitshuffle", "INT32", False, 6, numbers[:]
    yield "int64 of a million, bitshuffle", "INT64", False, 6, numbers[:]
    yield "int64 of a million, 10 % null", "INT64", True, 6, [n if n % 10 else None for n in numbers]
    yield "double, bitshuffle", "DOUBLE", False, 6, [n / 8 for n in numbers]
    yield "bool, rle", "BOOL", False, 4, [n % 50 == 0 for n in numbers]
    yield "string of 100, dict", "STRING", False, 5, [f"state {n % 100:03}" for n in numbers]
    yield "string of 100, dict, 10 % null", "STRING", True, 5, [
        f"state {n % 100:03}" if n % 10 else None for n in numbers]
    yield "string of a million, plain", "STRING", False, 1, [f"value {n:07}" for n in numbers]
    yield "string growing, prefix", "STRING", False, 2, [f"key {n:09}" for n in range(rows)]


def timed(work: Callable[[], None], rounds: int) -> float:
    """The least processor seconds of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print(f"{'column':34} {'bytes':>10} {'warm ns':>8} {'GB/s':>6} {'cold ns':>8} {'write ns':>9}")
    for name, kind, nullable, encoding, values in columns(given.rows):
        schema = Schema((ColumnSchema("c", types.BY_NAME[kind], nullable=nullable),))
        block = ColumnBlock.from_tuples(schema, [(value,) for value in values])
        width = types.BY_NAME[kind].width_bytes
        memory = width * given.rows if width else sum(len(str(v)) for v in values if v is not None) + 4 * given.rows
        fd = os.memfd_create("bench")

        def write(fd: int = fd, kind: str = kind, nullable: bool = nullable, encoding: int = encoding,
                  block: ColumnBlock = block) -> int:
            os.ftruncate(fd, 0)
            writer = CFileWriter(BlockSink(Disk(), fd), types.BY_NAME[kind], nullable=nullable, encoding=encoding)
            writer.append_block(block)
            return writer.finish()

        write_s = timed(lambda write=write: write() and None, 3)
        length = os.fstat(fd).st_size

        def scan(reader: CFileReader, rows: int = given.rows) -> None:
            cursor = reader.cursor()
            for first in range(0, rows, BATCH):
                cursor.read_block(first, min(BATCH, rows - first))

        cached = CFileReader(fd, 0, length, cache=BlockCache(1 << 30))
        scan(cached)
        warm_s = timed(lambda reader=cached, scan=scan: scan(reader), given.rounds)
        cold = CFileReader(fd, 0, length)
        cold_s = timed(lambda reader=cold, scan=scan: scan(reader), given.rounds)
        each = 1e9 / given.rows
        print(f"{name:34} {length:>10} {warm_s * each:>8.2f} {memory / warm_s / 1e9:>6.2f} {cold_s * each:>8.2f} "
              f"{write_s * each:>9.2f}")
        if kind == "STRING":
            wanted = ValueFilter(cached, equal=b"state 042")
            filter_s = timed(lambda reader=cached, wanted=wanted: reader.cursor().matching(wanted) and None, 3)
            print(f"{'  equality, rows as a Python list':34} {'':>10} {filter_s * each:>8.2f}")
        os.close(fd)


if __name__ == "__main__":
    main()
