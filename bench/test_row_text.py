"""What readers of blocks cost: text out, Arrow export, row checksum. MB are of the text, or else of the cells.

    pytest bench/test_row_text.py --benchmark-columns=min,median,stddev,rounds
"""
from __future__ import annotations

import random
from typing import Any

import pytest

from kudu_storage._native.arrow import ArrowStream
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_text import csv, jsonl
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema

ROWS = 65_536
SCHEMA = Schema((
    ColumnSchema("id", types.BY_NAME["INT64"], is_key=True),
    ColumnSchema("host", types.BY_NAME["STRING"]),
    ColumnSchema("at", types.BY_NAME["UNIXTIME_MICROS"]),
    ColumnSchema("value", types.BY_NAME["DOUBLE"], nullable=True),
    ColumnSchema("load", types.BY_NAME["FLOAT"]),
    ColumnSchema("price", types.BY_NAME["DECIMAL64"], precision=18, scale=4),
    ColumnSchema("ok", types.BY_NAME["BOOL"]),
    ColumnSchema("note", types.BY_NAME["STRING"], nullable=True),
))


@pytest.fixture(scope="module")
def block() -> ColumnBlock:
    rng = random.Random(3)
    return ColumnBlock.from_tuples(SCHEMA, [
        (n, f"host-{n % 100}.example", 1_700_000_000_000_000 + n, rng.random() if n % 10 else None, rng.random() * 100,
         n, n % 2 == 0, f'note {n} with a "quote"' if n % 3 else None) for n in range(ROWS)])


def cell_bytes(block: ColumnBlock) -> int:
    return sum(len(cell) for row in range(0, ROWS, 64) for cell in block.cells(row) if cell is not None) * 64


def report(benchmark: Any, size_bytes: int) -> None:
    benchmark.extra_info["megabytes"] = size_bytes / 1e6
    if benchmark.stats is not None:     # None with --benchmark-disable
        benchmark.extra_info["MB/s"] = round(size_bytes / 1e6 / benchmark.stats["median"])
        benchmark.extra_info["rows/s"] = round(ROWS / benchmark.stats["median"])


def test_jsonl(benchmark: Any, block: ColumnBlock) -> None:
    report(benchmark, len(benchmark(jsonl, block)))


def test_csv(benchmark: Any, block: ColumnBlock) -> None:
    report(benchmark, len(benchmark(csv, block)))


def test_row_checksum(benchmark: Any, block: ColumnBlock) -> None:
    assert benchmark(checksum, block) > 0
    report(benchmark, cell_bytes(block))


def test_arrow_export(benchmark: Any, block: ColumnBlock) -> None:
    pa = pytest.importorskip("pyarrow")
    table = benchmark(lambda: pa.table(ArrowStream(SCHEMA, [block])))
    assert table.num_rows == ROWS
    report(benchmark, cell_bytes(block))


def test_tuples_for_comparison(benchmark: Any, block: ColumnBlock) -> None:
    assert len(benchmark(block.to_tuples)) == ROWS
    report(benchmark, cell_bytes(block))
