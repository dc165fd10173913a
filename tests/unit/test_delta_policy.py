"""Which deltas are compacted, and which are forgotten."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kudu_storage.tablet.delta_policy import (
    REDO_FILES_MAX,
    DeltaFileFacts,
    RowSetDeltas,
    ancient_undos,
    is_dead_and_ancient,
    major_compaction,
    minor_compaction,
    worst_deltas,
)


def redo(number: int, size: int, columns: dict[int, int] | None = None, last: int = 10,
         deletes: int = 0) -> DeltaFileFacts:
    return DeltaFileFacts(number, size, 1, last, deletes, 0, columns or {})


def rowset(*sizes: int, base: int = 1000, number: int = 1) -> RowSetDeltas:
    return RowSetDeltas(number, {11: base, 12: base}, tuple(redo(i, size, {11: 1}) for i, size in enumerate(sizes)))


def test_small_files_are_merged_and_a_large_old_one_is_left() -> None:
    found = minor_compaction(rowset(5000, 10, 10, 10))
    assert found is not None
    assert (found.kind, found.block_ids, found.read_bytes) == ("minor", (1, 2, 3), 30)
    assert found.score == 4 / REDO_FILES_MAX


def test_one_file_is_not_merged() -> None:
    assert minor_compaction(rowset(5)) is None and minor_compaction(rowset()) is None


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=40))
def test_minor_compaction_takes_a_run_that_ends_in_the_newest(sizes: list[int]) -> None:
    found = minor_compaction(rowset(*sizes))
    assert found is not None and len(found.block_ids) >= 2
    assert found.block_ids == tuple(range(found.block_ids[0], len(sizes)))


@given(st.integers(2, 3000))
def test_a_change_is_rewritten_a_logarithm_of_times(flushes: int) -> None:
    """Flush files of one size, compact whenever four lie there: bytes written are within flushes times a logarithm."""
    files: list[int] = []
    written = 0
    for _ in range(flushes):
        files.append(1)
        if len(files) >= 4 and files[-4] <= sum(files[-3:]):
            found = minor_compaction(rowset(*files))
            assert found is not None
            files[found.block_ids[0]:] = [found.write_bytes]
            written += found.write_bytes
    assert sum(files) == flushes
    assert written <= flushes * (flushes.bit_length() + 2)


def test_changes_that_weigh_enough_are_folded_into_their_columns() -> None:
    found = major_compaction(rowset(60, 60))
    assert found is not None
    assert (found.kind, found.column_ids, found.block_ids, found.read_bytes) == ("major", (11,), (0, 1), 1120)
    assert found.score == 0.12
    assert major_compaction(rowset(60)) is None


def test_deletes_alone_cannot_be_folded() -> None:
    assert major_compaction(RowSetDeltas(1, {11: 10}, (redo(1, 1000, deletes=5),))) is None


def test_a_column_without_base_data_is_always_worth_folding() -> None:
    found = major_compaction(RowSetDeltas(1, {}, (redo(1, 5, {11: 1}),)))
    assert found is not None and found.score == 1


def test_the_worst_rowset_comes_first() -> None:
    rowsets = [rowset(1, 1, number=1), rowset(1, 1, 1, number=2), rowset(900, number=3)]
    minor, major = worst_deltas(rowsets, "minor"), worst_deltas(rowsets, "major")
    assert minor is not None and minor.rowset_id == 2
    assert major is not None and major.rowset_id == 3
    assert worst_deltas([], "major") is None


def test_undo_files_go_when_all_in_them_is_ancient() -> None:
    undos = (redo(1, 5, last=3), redo(2, 5, last=10), redo(3, 5, last=9))
    assert [f.block_id for f in ancient_undos(RowSetDeltas(1, {}, undos=undos), 10)] == [1, 3]


def test_a_rowset_goes_when_its_last_row_died_before_the_mark() -> None:
    dead = RowSetDeltas(1, {}, (redo(1, 5, last=9, deletes=3),), live_row_count=0)
    assert is_dead_and_ancient(dead, 10)
    assert not is_dead_and_ancient(dead, 9)
    assert not is_dead_and_ancient(RowSetDeltas(1, {}, dead.redos, live_row_count=1), 10)
    assert not is_dead_and_ancient(RowSetDeltas(1, {}, dead.redos, live_row_count=None), 10)
    assert not is_dead_and_ancient(RowSetDeltas(1, {}, dead.redos, (), 0, memory_max_timestamp=12), 10)
    assert not is_dead_and_ancient(RowSetDeltas(1, {}, live_row_count=0), 10)
