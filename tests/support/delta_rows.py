"""Rows and histories for tests of deltas: a small schema with a nullable, a binary and a plain column."""
from __future__ import annotations

import struct
from collections.abc import Sequence

import delta_twin as twin
from blocks import column
from hypothesis import strategies as st

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.common.schema import Schema

SCHEMA = Schema((
    column("key", "INT32", is_key=True, nullable=False, id=0),
    column("number", "INT64", id=1),
    column("text", "STRING", id=2),
    column("small", "INT16", nullable=False, id=3),
))
COLUMNS = [0, 1, 2, 3]
SNAPSHOTS = st.builds(Snapshot, st.integers(0, 9), st.lists(st.integers(0, 7), max_size=2))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Snapshots that may occur: none has a later operation on a row and lacks an earlier one, since rows are locked.

    Rows with an even key have even timestamps only, the others odd ones; the snapshot has more of the one or the other.
    """
    low, high = sorted((draw(st.integers(0, 17)), draw(st.integers(0, 17))))
    return Snapshot(low, range(low + draw(st.integers(0, 1)), high, 2)) if draw(st.booleans()) else Snapshot(low)

NUMBER = st.none() | st.integers(0, 9).map(lambda n: struct.pack("<q", n))
TEXT = st.none() | st.text("abc", max_size=5).map(str.encode)
SMALL = st.integers(0, 9).map(lambda n: struct.pack("<h", n))


def applied_of(snapshot: Snapshot) -> twin.Applied:
    return twin.one_of(snapshot.applied, snapshot.all_before)


def cells_of(block: ColumnBlock) -> list[twin.Cells]:
    """The rows by column id; columns behind those of SCHEMA are left out."""
    return [dict(zip(COLUMNS, block.cells(i), strict=False)) for i in range(len(block))]


def rows_block(count: int, rows: Sequence[twin.Cells] = ()) -> ColumnBlock:
    """`rows`, or that many rows of different kinds."""
    given = rows or [{0: struct.pack("<i", i), 1: None if i % 3 == 0 else struct.pack("<q", i),
                      2: None if i % 4 == 1 else b"text %d" % i, 3: struct.pack("<h", -i)} for i in range(count)]
    return ColumnBlock.from_tuples(SCHEMA, [_values(cells) for cells in given])


def _values(cells: twin.Cells) -> tuple[int | str | None, ...]:
    key, number, text, small = (cells[c] for c in COLUMNS)
    assert key is not None and small is not None
    return (struct.unpack("<i", key)[0], None if number is None else struct.unpack("<q", number)[0],
            None if text is None else text.decode(), struct.unpack("<h", small)[0])


@st.composite
def history(draw: st.DrawFn, key: int) -> list[twin.Op]:
    """What happens to one row: it starts with an INSERT; timestamps never fall and may repeat."""
    times = sorted(2 * t + key % 2 for t in draw(st.lists(st.integers(0, 7), min_size=1, max_size=8)))
    whole = st.fixed_dictionaries({1: NUMBER, 2: TEXT, 3: SMALL})
    some = st.fixed_dictionaries({}, optional={1: NUMBER, 2: TEXT, 3: SMALL}).filter(bool)
    ops = [twin.Op(times[0], "INSERT", {0: struct.pack("<i", key), **draw(whole)})]
    for timestamp in times[1:]:
        if ops[-1].kind == "DELETE":
            ops.append(twin.Op(timestamp, "REINSERT", draw(whole)))
        elif draw(st.integers(0, 2)) == 0:
            ops.append(twin.Op(timestamp, "DELETE"))
        else:
            ops.append(twin.Op(timestamp, "UPDATE", draw(some)))
    return ops


def histories(rows_max: int = 6) -> st.SearchStrategy[list[list[twin.Op]]]:
    return st.integers(0, rows_max).flatmap(lambda n: st.tuples(*(history(key) for key in range(n))).map(list))
