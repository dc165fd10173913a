"""The row checksum: against a plain calculation, and against what ksck said of the stored tables."""
from __future__ import annotations

from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, one_column, rows_of, truth_tables
from fixtures import fixtures_root
from hypothesis import given

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.row_checksum import checksum


def plain_checksum(block: ColumnBlock) -> int:
    total = 0
    for row in range(block.row_count):
        data = b""
        for position, (column, cell) in enumerate(zip(block.schema, block.cells(row), strict=True)):
            data += position.to_bytes(4, "little")
            if column.nullable:
                data += bytes([cell is not None])
            data += cell or b""
        total += crc32c(data)
    return total % 2**64


@given(rows_of(ALL_TYPES))
def test_checksum_is_the_sum_over_rows_of_the_crc_of_their_cells(rows: list[tuple[Any, ...]]) -> None:
    block = ColumnBlock.from_tuples(ALL_TYPES, rows)
    assert checksum(block) == plain_checksum(block)


@pytest.mark.parametrize("size", [0, 1, 4086, 4087, 4088, 4091, 4092, 4096, 4097, 100_000])
def test_cells_around_the_size_of_the_gathering_buffer_count_in_full(size: int) -> None:
    block = one_column("BINARY", bytes(range(256)) * (size // 256 + 1), b"x" * size, None)
    assert checksum(block) == plain_checksum(block)


def test_rows_may_come_in_any_order_and_in_any_blocks() -> None:
    rows = [(n, *SAMPLE_ROW[1:]) for n in range(10)]
    whole = checksum(ColumnBlock.from_tuples(ALL_TYPES, rows))
    parts = [checksum(ColumnBlock.from_tuples(ALL_TYPES, part)) for part in (rows[7:], rows[:7][::-1])]
    assert whole == sum(parts)


def test_an_empty_block_adds_nothing() -> None:
    assert checksum(ColumnBlock.from_tuples(ALL_TYPES, [])) == 0


def test_checksums_of_stored_tables_are_those_that_ksck_reported() -> None:
    root = fixtures_root()
    if root is None:
        pytest.skip("no stored tablets: set KUDU_STORAGE_SHARED")
    tables = [table for table in truth_tables(root) if table.checksum is not None]
    assert tables
    assert {t.name: checksum(t.block()) for t in tables} == {t.name: t.checksum for t in tables}
