"""Scans with predicates, in any order and by key, with threads: always what filtering a whole scan would leave.

The oracle compares cells in Python, one at a time; the whole scan it filters is checked against the slow twin elsewhere
(MiniTablet.verify) and here.
"""
from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import delta_twin as twin
import pytest
from blocks import column
from mini_tablet import MiniTablet, expected_rows, key_of

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.tablet import scanning
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.predicates import Predicate, key_range
from kudu_storage.tablet.scanning import TabletScan, scan_stores

PLAIN, PREFIX, RLE, DICT, SHUFFLED = 1, 2, 4, 5, 6
_ENCODINGS = {"BOOL": (PLAIN, RLE), "FLOAT": (PLAIN, SHUFFLED), "DOUBLE": (PLAIN, SHUFFLED),
              "DECIMAL128": (PLAIN, SHUFFLED)}
Row = tuple[bytes | None, ...]


def encodings_of(kind: types.ColumnType) -> tuple[int, ...]:
    if kind.is_binary:
        return PLAIN, DICT, PREFIX
    return _ENCODINGS.get(kind.name, (PLAIN, SHUFFLED, RLE))


def schema_of(*keys: ColumnSchema) -> Schema:
    """All types and encodings behind the key; every other column takes NULL."""
    columns = list(keys)
    for name, kind in types.BY_NAME.items():
        for encoding in encodings_of(kind):
            nullable = len(columns) % 2 == 0
            columns.append(column(f"{name.lower()}_{encoding}", name, nullable=nullable, encoding=encoding))
    return Schema(tuple(replace(c, id=i, cfile_block_size=256 if i % 3 else 0) for i, c in enumerate(columns)))


SINGLE = schema_of(column("key", "INT32", is_key=True, nullable=False))
COMPOSITE = schema_of(column("name", "STRING", is_key=True, nullable=False, encoding=DICT),
                      column("number", "INT8", is_key=True, nullable=False),
                      column("rest", "BINARY", is_key=True, nullable=False))


# -- random data -------------------------------------------------------------------------------------------------------
def some_value(described: ColumnSchema, rng: random.Random) -> bytes:
    name, width = described.type.name, described.type.width_bytes
    if described.type.is_binary:
        return rng.choice((b"", b"a", b"a\0", b"ab", b"b\xff" if name == "BINARY" else b"bz",
                           b"word %d" % rng.randrange(9), b"long word, as long as that %d" % rng.randrange(99)))
    if name == "BOOL":
        return bytes([rng.randrange(2)])
    if name in ("FLOAT", "DOUBLE"):
        number = rng.choice((math.nan, math.inf, -math.inf, 0.0, -0.0, rng.randrange(-9, 9) / 4, 1e-40))
        return struct.pack("<f" if width == 4 else "<d", number)
    edge = 1 << (8 * width - 1)
    if name.startswith("DECIMAL") or rng.random() < 0.9:
        return rng.randrange(-20, 20).to_bytes(width, "little", signed=True)
    return rng.choice((-edge, edge - 1)).to_bytes(width, "little", signed=True)


def some_cell(described: ColumnSchema, rng: random.Random) -> bytes | None:
    return None if described.nullable and rng.random() < 0.2 else some_value(described, rng)


def some_row(schema: Schema, rng: random.Random, key: int) -> twin.Cells:
    keys: list[bytes | None] = [struct.pack("<i", key)]
    if schema.key_column_count > 1:
        keys = [b"\0" * (key % 3) + b"n", struct.pack("<b", key % 5 - 2), b"r" * (key // 15)]
    return dict(enumerate(keys + [some_cell(c, rng) for c in schema.columns[len(keys):]]))


def some_write(tablet: MiniTablet, rng: random.Random, keys: int) -> None:
    schema, count = tablet.schema, tablet.schema.key_column_count
    cells = some_row(schema, rng, rng.randrange(keys))
    state = tablet.state(key_of(schema, cells))
    key = {i: cells[i] for i in range(count)}
    if state is None or not state.live:
        tablet.write("INSERT" if state is None else "REINSERT", cells)
    elif rng.random() < 0.25:
        tablet.write("DELETE", key)
    else:
        chosen = rng.sample(range(count, len(schema)), rng.choice((1, 2, len(schema) - count)))
        tablet.write("UPDATE", {**key, **{i: cells[i] for i in sorted(chosen)}})


def filled(folder: Path, schema: Schema, seed: int) -> MiniTablet:
    """Rowsets that overlap, REDO and UNDO files, changes in memory, rows in memory."""
    rng = random.Random(seed)
    tablet = MiniTablet(folder, schema, target_bytes=rng.choice((4096, 1 << 20)))
    keys = rng.choice((40, 200))
    for _ in range(rng.randrange(2, 4)):
        for _ in range(rng.randrange(30, 200)):
            some_write(tablet, rng, keys)
        tablet.flush()
        for rowset_id in tablet.rowset_ids:
            if rng.random() < 0.4 and len(tablet.stores[rowset_id]):
                tablet.flush_deltas(rowset_id)
    for _ in range(rng.randrange(60)):
        some_write(tablet, rng, keys)
    return tablet


def stores_of(tablet: MiniTablet) -> list[DiskRowSet]:
    cache = BlockCache(1 << 20)
    opened = [DiskRowSet.open(message, tablet.blocks, tablet.schema, cache=cache)
              for message in tablet.metadata.message.rowsets]
    return [rowset.successor(rowset.message, memory=tablet.stores[rowset.id]) for rowset in opened]


# -- the oracle --------------------------------------------------------------------------------------------------------
def comparable(described: ColumnSchema, cell: bytes) -> Any:
    if described.type.is_binary:
        return cell
    if described.type.name in ("FLOAT", "DOUBLE"):
        return struct.unpack("<f" if len(cell) == 4 else "<d", cell)[0]
    return int.from_bytes(cell, "little", signed=True)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b}


def holds(schema: Schema, row: Row, predicate: Predicate) -> bool:
    position = schema.find(predicate.column)
    assert position is not None
    cell, described = row[position], schema.columns[position]
    if predicate.kind in ("null", "not_null"):
        return (cell is None) == (predicate.kind == "null")
    if cell is None:
        return False
    value, others = comparable(described, cell), [comparable(described, other) for other in predicate.cells]
    if predicate.kind == "in":
        return any(value == other for other in others)
    return _COMPARISONS[predicate.kind](value, others[0])


def some_predicates(schema: Schema, rng: random.Random, rows: Sequence[Row]) -> list[Predicate]:
    found = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        position = rng.randrange(schema.key_column_count) if rng.random() < 0.4 else rng.randrange(len(schema))
        described = schema.columns[position]
        kind = rng.choice(("eq", "lt", "le", "gt", "ge", "in", "null", "not_null"))

        def cell(position: int = position, described: ColumnSchema = described) -> bytes:
            seen = rng.choice(rows)[position] if rows and rng.random() < 0.7 else None
            return some_value(described, rng) if seen is None else seen
        cells = () if "null" in kind else tuple(cell() for _ in range(rng.choice((0, 1, 3, 9)) if kind == "in" else 1))
        found.append(Predicate(described.name, kind, cells))
    return found


def rows_of(blocks: Iterable[Any]) -> Iterator[Row]:
    for block in blocks:
        assert len(block)
        for row in range(len(block)):
            yield tuple(block.cells(row))


def in_some_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=repr)


# -- claims ------------------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "PIECE_ROWS", 29)


@pytest.mark.parametrize("schema", [SINGLE, COMPOSITE], ids=["single", "composite"])
@pytest.mark.parametrize("seed", range(8))
def test_a_scan_with_predicates_is_a_filtered_scan(tmp_path: Path, schema: Schema, seed: int) -> None:
    tablet = filled(tmp_path / "t", schema, seed)
    rng, rowsets, memory = random.Random(seed), stores_of(tablet), [tablet.mem.rows]
    matched = 0
    for at in (tablet.now + 1, rng.randrange(tablet.first_timestamp, tablet.now), rng.randrange(tablet.now)):
        snapshot = Snapshot(at)
        whole = list(rows_of(scan_stores(rowsets, memory, RowLayout(schema), snapshot, ordered=True)))
        assert {key_of(schema, dict(enumerate(row))): dict(enumerate(row)) for row in whole} \
            == expected_rows(tablet.histories, twin.before(at))
        for _ in range(25):
            predicates = some_predicates(schema, rng, whole)
            names = rng.sample(schema.names, rng.choice((1, 3, len(schema))))
            places = [schema.names.index(name) for name in names]
            wanted = [tuple(row[i] for i in places) for row in whole if all(holds(schema, row, p) for p in predicates)]
            matched += len(wanted)
            scan = TabletScan(rowsets, memory, schema, snapshot, columns=names, predicates=predicates,
                              threads=rng.choice((1, 3)), batch_rows=rng.choice((None, 7, 100)))
            assert in_some_order(rows_of(scan)) == in_some_order(wanted), f"seed {seed}: {predicates} at {at}"
            by_key = TabletScan(rowsets, memory, schema, snapshot, columns=names, predicates=predicates, ordered=True,
                                threads=rng.choice((1, 3)), batch_rows=rng.choice((None, 7, 100)))
            assert list(rows_of(by_key)) == wanted, f"seed {seed}: {predicates} at {at}, ordered"
            limit = rng.randrange(len(wanted) + 2)
            first = TabletScan(rowsets, memory, schema, snapshot, columns=names, predicates=predicates, ordered=True,
                               threads=rng.choice((1, 3)), limit=limit)
            assert list(rows_of(first)) == wanted[:limit]
    assert matched
    tablet.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_diff_scan_with_predicates_is_a_filtered_diff_scan(tmp_path: Path, seed: int) -> None:
    schema = SINGLE if seed % 2 else COMPOSITE
    tablet = filled(tmp_path / "t", schema, 100 + seed)
    rng, rowsets, memory = random.Random(seed), stores_of(tablet), [tablet.mem.rows]
    matched = 0
    for _ in range(3):
        since, until = sorted(rng.sample(range(tablet.now + 2), 2))
        for deleted in (None, "gone"):
            ends: dict[str, Any] = {"since": Snapshot(since), "deleted_column": deleted}
            for ordered in (False, True):
                whole = list(rows_of(scan_stores(rowsets, memory, RowLayout(schema), Snapshot(until), ordered=ordered,
                                                 **ends)))
                for _ in range(8):
                    predicates = some_predicates(schema, rng, whole)
                    scan = TabletScan(rowsets, memory, schema, Snapshot(until), predicates=predicates, ordered=ordered,
                                      threads=rng.choice((1, 3)), **ends)
                    wanted = [row for row in whole if all(holds(schema, row, p) for p in predicates)]
                    found = list(rows_of(scan))
                    matched += len(wanted)
                    assert found == wanted if ordered else in_some_order(found) == in_some_order(wanted), \
                        f"seed {seed}: {predicates} from {since} to {until}"
    assert matched
    tablet.close()


@pytest.mark.parametrize("schema", [SINGLE, COMPOSITE], ids=["single", "composite"])
@pytest.mark.parametrize("seed", range(5))
def test_what_a_key_range_takes_from_the_predicates_it_says_itself(schema: Schema, seed: int) -> None:
    from kudu_storage.common.keys import encode_key_cell

    rng = random.Random(seed)
    rows = [tuple(some_value(c, rng) for c in schema.key_columns) for _ in range(60)]
    keys = Schema(schema.key_columns)
    last = len(keys) - 1
    taken = 0
    for _ in range(200):
        predicates = some_predicates(keys, rng, rows)
        found = key_range(schema, predicates)
        said = [p for p in predicates if not any(p is other for other in found.rest)]
        taken += len(said)
        for row in rows:
            encoded = b"".join(encode_key_cell(c, cell, is_last=i == last)
                               for i, (c, cell) in enumerate(zip(keys, row, strict=True)))
            inside = (found.lower is None or encoded >= found.lower) and (found.upper is None or encoded < found.upper)
            if all(holds(keys, row, p) for p in predicates):
                assert inside
            if inside:
                assert all(holds(keys, row, p) for p in said), (predicates, row)
    assert taken
