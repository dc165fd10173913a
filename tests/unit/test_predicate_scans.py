"""Scans with predicates, in any order and by key, with threads: always what filtering a whole scan would leave.

The oracle compares cells in Python, one at a time; the whole scan it filters is checked against the slow twin elsewhere
(MiniTablet.verify) and here.
"""
from __future__ import annotations

import math
import random
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import delta_twin as twin
import pytest
import stopped
from blocks import column
from mini_tablet import MiniTablet, expected_rows, key_of

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage._native.delta_apply import DeltaApplier
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.rowset_scan import RowSetReader
from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.tablet import read_ahead, scanning
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


# -- what is not read --------------------------------------------------------------------------------------------------
WIDE_APART = Schema((
    column("key", "INT32", is_key=True, nullable=False, id=0, cfile_block_size=512),
    column("number", "INT64", nullable=False, id=1, cfile_block_size=512),
    column("text", "STRING", id=2, encoding=PLAIN, cfile_block_size=512),
    column("word", "STRING", id=3, encoding=DICT),
))
ROWS = 3000


@pytest.fixture(scope="module")
def many_blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniTablet]:
    tablet = MiniTablet(tmp_path_factory.mktemp("many") / "t", WIDE_APART)
    for key in range(ROWS):
        tablet.write("INSERT", {0: struct.pack("<i", key), 1: struct.pack("<q", key * 7 % ROWS),
                                2: b"some text %05d" % key, 3: b"word %d" % (key % 5)})
    tablet.flush()
    yield tablet
    tablet.close()


def scanned(tablet: MiniTablet, columns: Sequence[str], *predicates: Predicate) -> tuple[list[Row], int]:
    """The rows, and how many blocks of files it took."""
    cache = BlockCache(1 << 24)
    [message] = tablet.metadata.message.rowsets
    rowset = DiskRowSet.open(message, tablet.blocks, tablet.schema, cache=cache)
    rows = list(rows_of(TabletScan([rowset], [], tablet.schema, Snapshot(tablet.now + 1), columns=columns,
                                   predicates=predicates)))
    return rows, cache.stats()["misses"]


def number(value: int) -> bytes:
    return struct.pack("<q", value)


def test_other_columns_are_read_only_around_the_rows_that_are_left(many_blocks: MiniTablet) -> None:
    _, texts = scanned(many_blocks, ["text"])
    _, numbers = scanned(many_blocks, ["number"])
    rows, both = scanned(many_blocks, ["text"], Predicate("number", "eq", (number(700),)))
    assert rows == [(b"some text 00100",)]
    assert texts > 90 and both < numbers + 8


def test_rows_that_an_earlier_test_refused_are_not_decoded_for_a_later_one(many_blocks: MiniTablet) -> None:
    [message] = many_blocks.metadata.message.rowsets
    rowset = DiskRowSet.open(message, many_blocks.blocks, many_blocks.schema)
    tests = ColumnTests(WIDE_APART, [(2, "ge", (b"some text 01",)), (1, "in", (number(7), number(14)))])
    reader = RowSetReader(DeltaApplier(RowLayout(WIDE_APART), Snapshot.everything()),
                          [rowset.column(i) for i in range(4)], ROWS, tests, 1)
    assert reader.read(0, ROWS, [], []) is None
    assert reader.decoded_for_tests == ROWS + 2


def test_a_key_range_reads_only_its_blocks(many_blocks: MiniTablet) -> None:
    _, all_of_them = scanned(many_blocks, ["text"])
    bounds = [Predicate("key", kind, (struct.pack("<i", key),)) for kind, key in (("gt", 1499), ("le", 1503))]
    rows, blocks = scanned(many_blocks, ["text"], *bounds)
    assert [row[0] for row in rows] == [b"some text %05d" % key for key in range(1500, 1504)]
    assert all_of_them > 90 and blocks < 16


def test_keys_of_an_in_list_are_looked_up(many_blocks: MiniTablet) -> None:
    keys = (5, 2000, 2999, ROWS + 1, -3)
    rows, blocks = scanned(many_blocks, ["key"], Predicate("key", "in", tuple(struct.pack("<i", key) for key in keys)))
    assert rows == [(struct.pack("<i", key),) for key in (5, 2000, 2999)]
    assert blocks < 16


def test_a_rowset_whose_keys_lie_elsewhere_is_not_opened(many_blocks: MiniTablet) -> None:
    below, above = struct.pack("<i", -1), struct.pack("<i", ROWS)
    for predicate in (Predicate("key", "ge", (above,)), Predicate("key", "le", (below,)),
                      Predicate("key", "in", (below, above))):
        assert scanned(many_blocks, ["text"], predicate) == ([], scanned(many_blocks, [])[1])


def test_codewords_are_judged_without_being_expanded(many_blocks: MiniTablet) -> None:
    [message] = many_blocks.metadata.message.rowsets
    rowset = DiskRowSet.open(message, many_blocks.blocks, many_blocks.schema)
    for kind, cells, count in (("eq", (b"word 3",), ROWS // 5), ("le", (b"word 9",), ROWS), ("gt", (b"word 9",), 0),
                               ("not_null", (), ROWS), ("null", (), 0)):
        tests = ColumnTests(WIDE_APART, [(3, kind, cells)])
        reader = RowSetReader(DeltaApplier(RowLayout(WIDE_APART), Snapshot.everything()),
                              [rowset.column(i) for i in range(4)], ROWS, tests, 0)
        block = reader.read(0, ROWS, [], [])
        assert (0 if block is None else len(block)) == count
        assert reader.decoded_for_tests == 0


def test_one_rowset_is_in_order_with_threads_too(many_blocks: MiniTablet) -> None:
    [message] = many_blocks.metadata.message.rowsets
    for _ in range(20):
        rowset = DiskRowSet.open(message, many_blocks.blocks, many_blocks.schema)
        scan = TabletScan([rowset], [], WIDE_APART, Snapshot(many_blocks.now + 1), columns=["key"], ordered=True,
                          threads=3, batch_rows=10)
        assert list(rows_of(scan)) == [(struct.pack("<i", key),) for key in range(ROWS)]


# -- threads -----------------------------------------------------------------------------------------------------------
def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "kudu-storage scan"]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_scan_that_is_left_early_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    ordered: bool) -> None:
    monkeypatch.setattr(read_ahead, "GROUP_BLOCKS", 1)
    tablet = filled(tmp_path / "t", SINGLE, 3)
    rowsets = stores_of(tablet)
    scan = TabletScan(rowsets, [tablet.mem.rows], SINGLE, Snapshot(tablet.now + 1), ordered=ordered, threads=3,
                      batch_rows=2)
    blocks = iter(scan)
    next(blocks)        # threads are at work then, unless they were quick enough to have ended
    del blocks
    assert not running()
    tablet.close()


@pytest.mark.parametrize("ordered", [False, True])
def test_damage_found_on_a_thread_reaches_who_takes_the_rows(tmp_path: Path, ordered: bool) -> None:
    tablet = filled(tmp_path / "t", SINGLE, 3)
    rowsets = stores_of(tablet)
    victim = type(rowsets[-1].message)()
    victim.CopyFrom(rowsets[-1].message)
    first, second = victim.columns[1].block, victim.columns[2].block
    first.id, second.id = second.id, first.id
    rowsets[-1] = DiskRowSet.open(victim, tablet.blocks, SINGLE)
    scan = TabletScan(rowsets, [], SINGLE, Snapshot(tablet.now + 1), ordered=ordered, threads=3)
    with pytest.raises(BadFormat, match="a file of"):
        list(scan)
    assert not running()
    tablet.close()


def test_an_arrow_consumer_gets_the_rows_of_a_scan_on_threads(many_blocks: MiniTablet) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    [message] = many_blocks.metadata.message.rowsets
    rowset = DiskRowSet.open(message, many_blocks.blocks, many_blocks.schema)
    scan = TabletScan([rowset], [], WIDE_APART, Snapshot(many_blocks.now + 1), columns=["number", "word"], threads=3)
    for _ in range(2):
        table = pyarrow.table(scan)
        assert sorted(table["number"].to_pylist()) == list(range(ROWS))
        assert table.schema.names == ["number", "word"]


# -- files of real servers ---------------------------------------------------------------------------------------------
SERVERS = [*stopped.golden_servers(), *stopped.shared_servers()]


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: s.name)
def test_predicates_on_a_real_servers_files_leave_what_a_filter_leaves(server: stopped.StoppedServer,
                                                                       tmp_path: Path) -> None:
    root = server.unpack(tmp_path)
    rng = random.Random(server.name)
    matched = 0
    [metadata] = root.rglob("tablet-meta")
    with open_block_manager([_data_root(root)], read_only=True) as blocks:
        for tablet in sorted(server.checksums):
            superblock = read_superblock(metadata / tablet)
            schema = superblock.schema
            cache = BlockCache(1 << 24)
            rowsets = [DiskRowSet.open(m, blocks, schema, cache=cache) for m in superblock.message.rowsets]
            moments = [int(at) for at in server.facts["snapshots"]][:2]
            for snapshot in (Snapshot.everything(), *map(Snapshot, moments)):
                whole = list(rows_of(scan_stores(rowsets, [], RowLayout(schema), snapshot, ordered=True)))
                for _ in range(6):
                    predicates = some_predicates(schema, rng, whole)
                    wanted = [row for row in whole if all(holds(schema, row, p) for p in predicates)]
                    matched += len(wanted)
                    ordered = rng.random() < 0.5
                    scan = TabletScan(rowsets, [], schema, snapshot, predicates=predicates, ordered=ordered,
                                      threads=rng.choice((1, 2)))
                    found = list(rows_of(scan))
                    assert found == wanted if ordered else in_some_order(found) == in_some_order(wanted), predicates
    assert matched


def _data_root(root: Path) -> Path:
    [instance] = root.rglob("block_manager_instance")
    return instance.parent.parent
