"""Delta files read by ranges of rows: nothing is missed, nothing far away is decoded."""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import cfiles
import pytest

from kudu_storage._native.delta import DeltaCells, DeltaRun, encode_change
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.cfile.block_source import open_column_file
from kudu_storage.errors import BadFormat
from kudu_storage.protos import message_class
from kudu_storage.tablet.delta_files import STATS_KEY, DeltaFile

ROWS = 3000
Told = list[tuple[int, int, str, dict[int, bytes | None]]]


def deltas(undo: bool) -> Iterator[tuple[int, int]]:
    """Rows with none, one and many deltas: those of row 1500 fill blocks of their own."""
    for row in range(0, ROWS, 2):
        times = range(10, 10 + (2000 if row == 1500 else 1 + row % 3))
        yield from ((row, t) for t in (reversed(times) if undo else times))


def delta_file(undo: bool = True, *, stats: bool = True, rows: int = ROWS, shift: int = 0) -> tuple[DeltaFile, Told]:
    cells = DeltaCells(undo=undo)
    for row, timestamp in deltas(undo):
        cells.add(row, timestamp, encode_change("UPDATE", {7: struct.pack("<q", row * timestamp) * 4}))
    message: Any = message_class("kudu.tablet.DeltaStatsPB")()
    cells.stats.to_pb(message)
    message.min_timestamp += shift
    block = cells.take()

    def write(sink: Any) -> None:
        writer = cfiles.CFileWriter.for_deltas(sink)
        writer.append_block(block)
        if stats:
            writer.add_metadata(STATS_KEY, message.SerializeToString())
        writer.finish()

    reader = open_column_file(cfiles.memory_source(cfiles.written(write)))
    return DeltaFile(reader, undo=undo, row_count=rows), DeltaRun.decode(block, undo=undo).to_list()


@pytest.mark.parametrize("undo", [True, False])
@pytest.mark.parametrize("batch", [1, 700, 2999, 5000])
def test_a_window_holds_all_deltas_of_its_rows_in_order(undo: bool, batch: int) -> None:
    file, told = delta_file(undo)
    assert len(file.leaf_rows()) > 3 and file.delta_count == len(told)
    window = file.window()
    for first in range(0, ROWS, batch) if batch > 1 else (0, 1, 1498, 1499, 1500, 1501, 2998, 2999):
        end = min(first + batch, ROWS)
        found = [delta for run in window.runs(first, end) for delta in run.to_list() if first <= delta[0] < end]
        assert found == [delta for delta in told if first <= delta[0] < end]


def test_a_window_decodes_no_block_far_from_its_rows() -> None:
    file, _ = delta_file()
    assert sum(len(run) for run in file.window().runs(0, 10)) < file.delta_count // 3


def test_a_file_is_passed_over_only_if_its_statistics_allow_it() -> None:
    undo, redo = delta_file(True)[0], delta_file(False)[0]
    newest = 10 + 1999
    assert undo.matters(Snapshot(newest)) and not undo.matters(Snapshot(newest + 1))
    assert redo.matters(Snapshot(11)) and not redo.matters(Snapshot(10))
    assert redo.matters(Snapshot(5, [12]))
    assert not undo.matters(Snapshot.everything()) and redo.matters(Snapshot.everything())
    assert undo.matters(Snapshot.everything(), since=Snapshot(5))
    assert delta_file(True, stats=False)[0].matters(Snapshot.everything())


def test_deltas_that_contradict_the_footer_or_the_rowset_are_refused() -> None:
    with pytest.raises(BadFormat, match="timestamps"):
        delta_file(shift=5)[0].window().runs(0, 10)
    with pytest.raises(BadFormat, match="outside its rowset"):
        delta_file(rows=100)[0].window().runs(0, 10)


def test_a_column_that_holds_no_deltas_is_refused() -> None:
    from blocks import one_column

    reader = open_column_file(cfiles.memory_source(cfiles.written_column(one_column("INT32", 1, 2))))
    with pytest.raises(BadFormat):
        DeltaFile(reader, undo=True, row_count=2)
