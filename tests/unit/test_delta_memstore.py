"""The delta store in memory: order, sizes, and readers beside a writer."""
from __future__ import annotations

import threading

import delta_twin as twin
import pytest
from delta_rows import SCHEMA, rows_block
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.delta import DeltaCells, DeltaRun, encode_change
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.errors import BadFormat, InvalidArgument

ROWS = 700      # three pages
CHANGE = st.one_of(st.just(("DELETE", {})), st.binary(max_size=9).map(lambda b: ("UPDATE", {2: b})))
CHANGES = st.lists(st.tuples(st.sampled_from([0, 1, 255, 256, 511, 699]), st.integers(0, 5) | st.just(2**64 - 1),
                             CHANGE))


def drained(store: DeltaMemStore, bytes_max: int) -> list[twin.Change]:
    found: list[twin.Change] = []
    row: int | None = 0
    cells = DeltaCells(undo=False)
    while row is not None:
        row = store.write_to(cells, row, bytes_max=bytes_max)
        found += DeltaRun.decode(cells.take(), undo=False, rows=store.row_count).to_list()
    assert cells.stats.delta_count == len(store)
    return found


@given(CHANGES, st.integers(1, 100))
def test_changes_come_out_by_row_and_time_and_arrival(arrived: list[tuple[int, int, tuple[str, twin.Cells]]],
                                                      bytes_max: int) -> None:
    store = DeltaMemStore(ROWS)
    for index, (row, timestamp, change) in enumerate(arrived):
        store.add(row, timestamp, encode_change(*change), log_index=100 - index)
    expected = sorted(((row, timestamp, *change) for row, timestamp, change in arrived), key=lambda c: c[:2])
    assert store.to_list() == expected
    assert drained(store, bytes_max) == expected
    assert (len(store), store.delete_count) == (len(arrived), sum(c[2] == "DELETE" for c in expected))
    times = [c[1] for c in expected]
    assert (store.min_timestamp, store.max_timestamp) == ((min(times), max(times)) if times else (None, None))
    assert store.min_log_index == (101 - len(arrived) if arrived else None)
    for row in range(ROWS):
        newest = [c[2] for c in expected if c[0] == row][-1:]
        assert store.is_deleted(row) == (newest[0] == "DELETE" if newest else None)


def test_a_change_that_needs_no_anchor_holds_no_log() -> None:
    store = DeltaMemStore(1)
    store.add(0, 1, b"\x02")
    assert store.min_log_index is None
    store.add(0, 2, b"\x02", log_index=7)
    assert store.min_log_index == 7


def test_memory_grows_with_changes_and_pages() -> None:
    store = DeltaMemStore(1_000_000)
    empty = store.memory_bytes
    assert empty < 64 << 10
    store.add(5, 1, encode_change("UPDATE", {2: b"x" * 1000}))
    assert 1000 + 1024 <= store.memory_bytes - empty <= 1100 + 1024
    store.add(6, 1, b"\x02")
    assert store.memory_bytes - empty <= 1200 + 1024


@pytest.mark.parametrize("row", [3, 2**32])
def test_rows_that_the_rowset_lacks_are_refused(row: int) -> None:
    store = DeltaMemStore(3)
    with pytest.raises(InvalidArgument):
        store.add(row, 1, b"\x02")
    assert store.is_deleted(row) is None and len(store) == 0


def test_malformed_changes_are_refused() -> None:
    store = DeltaMemStore(3)
    with pytest.raises(BadFormat):
        store.add(0, 1, b"\x01\x05\x03a")
    with pytest.raises(BadFormat):
        store.add(0, 1, b"")
    assert store.to_list() == []


@pytest.mark.parametrize("rows", [-1, 2**32])
def test_a_rowset_has_at_most_as_many_rows_as_ordinals(rows: int) -> None:
    with pytest.raises(InvalidArgument):
        DeltaMemStore(rows)


def test_readers_see_whole_operations_while_writers_write() -> None:
    """An operation changes `small` of all rows; a snapshot below what is complete shows equal cells everywhere."""
    rows, operations = 300, 400
    store = DeltaMemStore(rows)
    base = rows_block(rows)
    complete = [0]
    problems: list[str] = []

    def write() -> None:
        for timestamp in range(1, operations + 1):
            change = encode_change("UPDATE", {3: timestamp.to_bytes(2, "little")})
            for row in range(rows):
                store.add(row, timestamp, change)
            complete[0] = timestamp

    def read() -> None:
        layout = RowLayout(SCHEMA)
        while complete[0] < operations:
            seen = complete[0]
            applier = DeltaApplier(layout, Snapshot(seen + 1))
            applier.prepare(0, rows, [], [], store)
            if seen and {row[3] for row in applier.apply(base).to_tuples()} != {seen}:
                problems.append(f"torn at {seen}")
                return

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(store) == rows * operations
