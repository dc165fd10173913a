"""Streams of blocks merged by primary key."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from blocks import ALL_TYPES, column, rows_of
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.block_merge import BlockMerge, encoded_keys
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.keys import encode_key
from kudu_storage.common.schema import Schema
from kudu_storage.errors import Contradiction, InvalidArgument

SCHEMA = Schema((column("a", "STRING", is_key=True, nullable=False), column("b", "INT16", is_key=True, nullable=False),
                 column("v", "STRING"), column("n", "INT64")))
KEYS = [0, 1]
Row = tuple[str, int, str | None, int | None]
TEXTS = st.text("\0\x01ab", max_size=3)


def in_blocks(schema: Schema, rows: Sequence[tuple[object, ...]], size: int) -> Iterator[ColumnBlock]:
    for first in range(0, len(rows), size):
        yield ColumnBlock.from_tuples(schema, rows[first:first + size])      # type: ignore[arg-type]


def by_key(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: encode_key(SCHEMA, [r[0].encode(), r[1].to_bytes(2, "little", signed=True)]))


@st.composite
def spread_rows(draw: st.DrawFn) -> list[list[Row]]:
    """Rows with different keys, dealt out to some sources."""
    keys = draw(st.lists(st.tuples(TEXTS, st.integers(-3, 3)), unique=True, max_size=40))
    sources: list[list[Row]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for key in keys:
        sources[draw(st.integers(0, len(sources) - 1))].append(
            (*key, draw(st.none() | TEXTS), draw(st.none() | st.integers(0, 9))))
    return [by_key(rows) for rows in sources]


@given(spread_rows(), st.integers(1, 5), st.integers(1, 7), st.booleans())
def test_rows_of_all_sources_come_out_by_key(sources: list[list[Row]], size: int, batch: int, told: bool) -> None:
    lower = [encoded_keys(next(in_blocks(SCHEMA, rows, 1)), KEYS)[0] if rows and told else None for rows in sources]
    merged = BlockMerge([in_blocks(SCHEMA, rows, size) for rows in sources], SCHEMA, KEYS, batch, lower_keys=lower)
    blocks = list(merged)
    assert [row for block in blocks for row in block.to_tuples()] == by_key([r for rows in sources for r in rows])
    assert all(0 < len(block) <= max(size, batch) for block in blocks)


@given(spread_rows(), st.integers(1, 3))
def test_columns_only_needed_for_the_order_are_left_out(sources: list[list[Row]], batch: int) -> None:
    order = [2, 0, 1]
    schema = Schema(tuple(column(n, k) for n, k in (("v", "STRING"), ("a", "STRING"), ("b", "INT16"))))
    turned = [[tuple(row[i] for i in order) for row in rows] for rows in sources]
    merged = BlockMerge([in_blocks(schema, rows, 3) for rows in turned], schema, [1, 2], batch, columns=1)
    rows = by_key([row for rows in sources for row in rows])
    assert [v for block in merged for v, in block.to_tuples()] == [row[2] for row in rows]
    assert merged.schema.names == ["v"]


def test_a_source_is_not_begun_before_its_turn() -> None:
    begun = []

    def source(name: str, rows: list[Row]) -> Iterator[ColumnBlock]:
        begun.append(name)
        yield from in_blocks(SCHEMA, rows, 2)

    early: list[Row] = [("a", n, None, n) for n in range(6)]
    late: list[Row] = [("b", n, None, n) for n in range(2)]
    merged = BlockMerge([source("late", late), source("early", early)], SCHEMA, KEYS, 100, lower_keys=[b"b", b"a"])
    seen = 0
    while seen < len(early):
        assert begun == (["early"] if seen else [])
        seen += len(next(merged))
    assert [r for block in merged for r in block.to_tuples()] == late


def test_a_key_that_two_sources_have_is_refused() -> None:
    rows: list[Row] = [("a", 1, "x", 1), ("b", 1, "x", 1)]
    merged = BlockMerge([in_blocks(SCHEMA, rows, 2), in_blocks(SCHEMA, rows[1:], 1)], SCHEMA, KEYS, 10)
    with pytest.raises(Contradiction, match="live in two rowsets"):
        list(merged)


def test_rows_out_of_order_are_refused() -> None:
    rows: list[Row] = [("b", 1, "x", 1), ("a", 1, "x", 1)]
    for sources in ([rows], [rows, [("0", 1, "x", 1), ("c", 1, "x", 1)]]):
        with pytest.raises(Contradiction, match="order"):
            list(BlockMerge([in_blocks(SCHEMA, source, 2) for source in sources], SCHEMA, KEYS, 10))


def test_in_a_diff_scan_the_dead_row_of_a_key_gives_way() -> None:
    schema = Schema((column("k", "INT32", nullable=False), column("is_deleted", "BOOL", nullable=False)))
    for sources in ([[(1, True), (2, False)], [(1, False), (3, True)]],
                    [[(1, False), (2, False)], [(1, True), (3, True)]]):
        merged = BlockMerge([in_blocks(schema, source, 9) for source in sources], schema, [0], 9, deleted_column=True)
        assert [r for block in merged for r in block.to_tuples()] == [(1, False), (2, False), (3, True)]


@given(st.data())
def test_keys_are_encoded_as_the_specification_says(data: st.DataObject) -> None:
    keys = [i for i, c in enumerate(ALL_TYPES) if not c.nullable and c.type.name not in ("BOOL", "FLOAT", "DOUBLE")]
    key_schema = Schema(tuple(column(ALL_TYPES.columns[i].name, ALL_TYPES.columns[i].type.name, is_key=True,
                                     nullable=False) for i in keys))
    block = ColumnBlock.from_tuples(ALL_TYPES, data.draw(rows_of(ALL_TYPES, max_size=4)))
    expected = []
    for row in range(len(block)):
        cells = block.cells(row)
        expected.append(encode_key(key_schema, [cells[i] or b"" for i in keys]))
    assert encoded_keys(block, keys) == expected


def test_a_merge_needs_key_columns_that_are_there() -> None:
    with pytest.raises(InvalidArgument):
        BlockMerge([], SCHEMA, [], 10)
    with pytest.raises(InvalidArgument):
        BlockMerge([], SCHEMA, [9], 10)
    assert list(BlockMerge([], SCHEMA, KEYS, 10)) == []
