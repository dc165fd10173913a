"""The delta codec: bytes of real Kudu's delta files, written and read; hostile ones refused."""
from __future__ import annotations

from typing import Any

import delta_twin as twin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.delta import (
    CELL_SCHEMA,
    DeltaCells,
    DeltaRun,
    DeltaStats,
    decode_change,
    decode_mvarint,
    encode_change,
    encode_mvarint,
)
from kudu_storage.errors import BadFormat, InvalidArgument
from kudu_storage.protos import message_class

U64 = st.integers(0, 2**64 - 1) | st.integers(0, 70_000)
CELLS = st.dictionaries(st.integers(0, 2**31 - 1), st.none() | st.binary(max_size=300), max_size=5)


def changes() -> st.SearchStrategy[tuple[str, dict[int, bytes | None]]]:
    return st.one_of(st.tuples(st.just("UPDATE"), CELLS.filter(bool)), st.tuples(st.just("REINSERT"), CELLS),
                     st.just(("DELETE", {})))


def block_of(cells: list[bytes]) -> ColumnBlock:
    return ColumnBlock.from_tuples(CELL_SCHEMA, [(cell,) for cell in cells])


def decoded(cells: list[bytes], *, undo: bool = False, rows: int | None = None) -> DeltaRun:
    return DeltaRun.decode(block_of(cells), undo=undo, rows=rows)


def in_order(listed: list[twin.Change], undo: bool) -> list[twin.Change]:
    return sorted(listed, key=lambda c: (c[0], -c[1] if undo else c[1]))


@given(U64)
def test_numbers_come_back_and_match_the_twin(value: int) -> None:
    data = encode_mvarint(value)
    assert data == twin.mvarint(value)
    assert decode_mvarint(data + b"more") == (value, len(data))


@given(U64, U64)
def test_numbers_sort_as_their_bytes_do(one: int, other: int) -> None:
    assert (one < other) == (encode_mvarint(one) < encode_mvarint(other))


@given(U64)
def test_a_number_cut_off_anywhere_is_refused(value: int) -> None:
    data = encode_mvarint(value)
    for end in range(len(data)):
        with pytest.raises(BadFormat):
            decode_mvarint(data[:end])


@given(changes())
def test_change_lists_come_back_and_match_the_twin(change: tuple[str, dict[int, bytes | None]]) -> None:
    data = encode_change(*change)
    assert data == twin.change_list(*change)
    assert decode_change(data) == change


@pytest.mark.parametrize("data", [
    b"", b"\x00", b"\x04", b"\x01", b"\x02\x00", b"\x01\x80", b"\x01\x05", b"\x01\x05\x03a", b"\x03\x05\x80",
    b"\x01" + b"\xff" * 9 + b"\x01\x00",                       # a column id above all ids
    b"\x01\x05\xff\xff\xff\xff\x7f",                           # a cell larger than any
])
def test_malformed_change_lists_are_refused(data: bytes) -> None:
    with pytest.raises(BadFormat):
        decode_change(data)
    with pytest.raises(BadFormat):
        decoded([b"\x00\x00" + data])
    with pytest.raises(BadFormat):
        DeltaCells(undo=False).add(0, 0, data)


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        [(row, timestamp, kind, cells)] = decoded([data]).to_list()
    except BadFormat:
        return
    again = DeltaCells(undo=False)
    again.add(row, timestamp, encode_change(kind, cells))
    assert DeltaRun.decode(again.take(), undo=False).to_list() == [(row, timestamp, kind, cells)]


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 3), U64 | st.integers(0, 3), changes())),
       st.booleans())
def test_cells_are_written_as_the_twin_writes_them_and_read_back(
        listed: list[tuple[int, int, tuple[str, Any]]], undo: bool) -> None:
    ordered = in_order([(row, timestamp, *change) for row, timestamp, change in listed], undo)
    cells = DeltaCells(undo=undo)
    for row, timestamp, kind, values in ordered:
        cells.add(row, timestamp, encode_change(kind, values))
    block = cells.take()
    assert [row[0] for row in block.to_tuples()] == [twin.delta_cell(c) for c in ordered]
    run = DeltaRun.decode(block, undo=undo)
    assert run.to_list() == ordered
    for stats in (cells.stats, run.stats):
        assert stats.delta_count == len(ordered)
        assert stats.delete_count == sum(c[2] == "DELETE" for c in ordered)
        assert stats.reinsert_count == sum(c[2] == "REINSERT" for c in ordered)
        assert stats.min_timestamp == min((c[1] for c in ordered), default=2**64 - 1)
        assert stats.max_timestamp == max((c[1] for c in ordered), default=0)
        counts: dict[int, int] = {}
        for change in ordered:
            for column in change[3]:
                counts[column] = counts.get(column, 0) + 1
        assert stats.update_counts == counts


def test_taking_cells_empties_them_and_statistics_go_on() -> None:
    cells = DeltaCells(undo=True)
    assert len(cells.take()) == 0
    cells.add(1, 5, encode_change("DELETE", {}))
    assert (len(cells), len(cells.take()), len(cells)) == (1, 1, 0)
    cells.add(2, 3, encode_change("DELETE", {}))
    assert cells.take().to_tuples() == [(b"\x02\x03\x02",)]
    assert (cells.stats.delete_count, cells.stats.min_timestamp, cells.stats.max_timestamp) == (2, 3, 5)


def test_deltas_out_of_order_are_refused() -> None:
    low, high, next_row = (twin.delta_cell((r, t, "DELETE", {})) for r, t in ((1, 5), (1, 6), (2, 1)))
    assert len(decoded([low, low, high, next_row])) == 4
    assert len(decoded([high, low, low, next_row], undo=True)) == 4
    for wrong, undo in (([high, low], False), ([low, high], True), ([next_row, low], False), ([next_row, low], True)):
        with pytest.raises(BadFormat, match=r"delta 1.*order"):
            decoded(wrong, undo=undo)


def test_a_delta_of_a_row_that_is_not_there_is_refused() -> None:
    cells = [twin.delta_cell((row, 1, "DELETE", {})) for row in (0, 9)]
    assert len(decoded(cells, rows=10)) == 2
    with pytest.raises(BadFormat, match="no such row"):
        decoded(cells, rows=9)
    with pytest.raises(BadFormat):
        decoded([twin.mvarint(2**32) + b"\x01\x02"])


def test_only_a_binary_column_holds_deltas() -> None:
    from blocks import one_column
    with pytest.raises(InvalidArgument):
        DeltaRun.decode(one_column("INT8", 1), undo=False)
    with pytest.raises(InvalidArgument):
        DeltaRun.decode(one_column("BINARY", None), undo=False)


def test_statistics_become_the_message_of_a_footer_and_come_back() -> None:
    cells = DeltaCells(undo=False)
    cells.add(0, 7, encode_change("UPDATE", {11: b"x", 12: None}))
    cells.add(0, 9, encode_change("DELETE", {}))
    pb: Any = message_class("kudu.tablet.DeltaStatsPB")()
    cells.stats.to_pb(pb)
    assert (pb.delete_count, pb.reinsert_count, pb.min_timestamp, pb.max_timestamp) == (1, 0, 7, 9)
    assert {c.col_id: c.update_count for c in pb.column_stats} == {11: 1, 12: 1}
    back = DeltaStats.from_pb(pb)
    assert back.update_counts == {11: 1, 12: 1}
    back.merge(cells.stats)
    assert back.update_counts == {11: 2, 12: 2} and back.delete_count == 2
    pb.delete_count = -1
    with pytest.raises(BadFormat):
        DeltaStats.from_pb(pb)


@pytest.mark.parametrize(("kind", "cells"), [("UPDATE", {}), ("DELETE", {1: b""}), ("INSERT", {})])
def test_changes_that_do_not_exist_are_not_encoded(kind: str, cells: dict[int, bytes | None]) -> None:
    with pytest.raises(InvalidArgument):
        encode_change(kind, cells)
