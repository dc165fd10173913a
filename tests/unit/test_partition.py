from __future__ import annotations

import struct
from typing import Any

import pytest
from containers import CMETA, SUPERBLOCK, metadata_files
from hypothesis import given
from hypothesis import strategies as st
from truth import GOLDEN, json_cell, truth_rows

from kudu_storage.bootstrap import replay
from kudu_storage.common import types
from kudu_storage.common.partition import HashDimension, Partition, PartitionSchema, murmur2_64
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, Unsupported
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.protos import message_class

CASE = GOLDEN / "s06_partitioned"
SUPERBLOCKS = {path.name: read_superblock(path) for path in metadata_files(SUPERBLOCK) if CASE.name in path.parts}


def homes(cells: list[bytes]) -> list[str]:
    """The tablets that take a row with this key."""
    return [t for t, found in SUPERBLOCKS.items() if found.partition_schema.contains(found.partition, cells)]


def key_cells(row: dict[str, Any]) -> list[bytes]:
    """host STRING, metric INT32, ts UNIXTIME_MICROS."""
    return [row["host"].encode(), struct.pack("<i", row["metric"]), struct.pack("<q", row["ts"])]


def table(*columns: ColumnSchema) -> Schema:
    return Schema(columns)


def column(name: str, kind: str = "INT32", **more: Any) -> ColumnSchema:
    return ColumnSchema(name, types.BY_NAME[kind], is_key=True, **more)


# -- against tablets of a real server ----------------------------------------------------------------------------------
@pytest.mark.parametrize("tablet_id", SUPERBLOCKS)
def test_each_row_of_a_tablet_hashes_into_its_bucket_and_range(tablet_id: str) -> None:
    found = SUPERBLOCKS[tablet_id]
    tablet = replay(CASE / "t1", tablet_id).tablet
    assert tablet is not None and tablet.count() > 5
    partition, schema = found.partition, found.partition_schema
    for host, metric, ts in tablet.rows(["host", "metric", "ts"]):
        cells = key_cells({"host": host, "metric": metric, "ts": json_cell(ts)})
        assert schema.contains(partition, cells)
        assert schema.bucket(schema.hash_dimensions[0], cells) == partition.hash_buckets[0]
        assert partition.start <= schema.partition_key(cells) < partition.end
        assert homes(cells) == [tablet_id]


def test_every_row_of_the_table_is_in_exactly_one_tablet() -> None:
    rows = truth_rows(CASE / "rows" / "p.jsonl")
    found = [homes(key_cells(row)) for row in rows]
    assert len(rows) == 215 and {len(tablets) for tablets in found} == {1}
    assert {tablets[0] for tablets in found} == set(SUPERBLOCKS)


def test_partitions_are_named_as_kudu_names_them() -> None:
    assert sorted(s.partition_schema.describe(s.partition) for s in SUPERBLOCKS.values()) == [
        f"HASH (host) PARTITION {bucket}, RANGE (ts) PARTITION "
        f"1970-01-01T00:00:0{second}.000000Z <= VALUES < 1970-01-01T00:00:0{second + 1}.000000Z"
        for bucket in (0, 1) for second in (0, 1, 2)]


# -- pieces ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("data", "seed", "expected"), [
    # Known answers of MurmurHash64A that others published (Kudu's own util/hash_util-test.cc among them).
    (b"ab", 0, 7115271465109541368),
    (b"abcdefg", 0, 2601573339036254301),
    (b"quick brown fox", 42, 3575930248840144026),
])
def test_hash_gives_the_known_answers(data: bytes, seed: int, expected: int) -> None:
    assert murmur2_64(data, seed) == expected


def plain(schema: Schema, *hashes: HashDimension, ranges: tuple[int, ...] = ()) -> PartitionSchema:
    return PartitionSchema(schema, hashes, ranges)


def test_partition_key_is_buckets_then_encoded_range_columns() -> None:
    schema = table(column("a", "STRING"), column("b"))
    parted = plain(schema, HashDimension((0,), 7), HashDimension((1,), 5, seed=3), ranges=(0, 1))
    cells = [b"x\x00y", struct.pack("<i", -2)]
    buckets = [parted.bucket(d, cells) for d in parted.hash_dimensions]
    assert buckets == [murmur2_64(b"x\x00y") % 7, murmur2_64(b"\x7f\xff\xff\xfe", 3) % 5]
    range_key = b"x\x00\x01y\x00\x00\x7f\xff\xff\xfe"
    assert parted.partition_key(cells) == b"".join(b.to_bytes(4, "big") for b in buckets) + range_key


@given(st.lists(st.tuples(st.binary(max_size=6), st.integers(-2**31, 2**31 - 1)), min_size=2, max_size=2))
def test_range_keys_sort_as_their_values(values: list[tuple[bytes, int]]) -> None:
    parted = plain(table(column("a", "STRING"), column("b")), ranges=(0, 1))
    keys = [parted.encode_range([text, struct.pack("<i", number)]) for text, number in values]
    assert (keys[0] < keys[1]) == (values[0] < values[1])
    assert [parted.decode_range(key) for key in keys] == [[text, struct.pack("<i", number)] for text, number in values]


@pytest.mark.parametrize(("start", "end", "text"), [
    (None, None, "UNBOUNDED"), (None, 7, "VALUES < 7"), (3, None, "3 <= VALUES"), (3, 7, "3 <= VALUES < 7")])
def test_open_and_closed_ranges_as_text(start: int | None, end: int | None, text: str) -> None:
    parted = plain(table(column("k")), ranges=(0,))
    bounds = [b"" if v is None else parted.encode_range([struct.pack("<i", v)]) for v in (start, end)]
    assert parted.describe_range(*bounds) == text
    assert parted.describe(Partition((), *bounds)) == f"RANGE (k) PARTITION {text}"


def test_range_bounds_are_half_open() -> None:
    parted = plain(table(column("k")), ranges=(0,))
    partition = Partition((), *(parted.encode_range([struct.pack("<i", v)]) for v in (3, 7)))
    assert [k for k in range(10) if parted.contains(partition, [struct.pack("<i", k)])] == [3, 4, 5, 6]


# -- from messages -----------------------------------------------------------------------------------------------------
def message() -> Any:
    return message_class("kudu.PartitionSchemaPB")()


def hashed(pb: Any, columns: list[str], buckets: int) -> None:
    dimension = pb.add(num_buckets=buckets)
    for name in columns:
        dimension.columns.add(name=name)


def bounds(pb: Any, lower: int, upper: int, kinds: tuple[int, int] = (6, 7)) -> None:
    pb.range_bounds.rows = b"".join(
        bytes([kind, 1]) + struct.pack("<i", value) for kind, value in zip(kinds, (lower, upper), strict=True))


def test_a_range_with_hash_dimensions_of_its_own_uses_them_inside_its_bounds_only() -> None:
    pb = message()
    hashed(pb.hash_schema, ["k"], 2)
    pb.range_schema.columns.add(name="k")
    own = pb.custom_hash_schema_ranges.add()
    bounds(own, 100, 200)
    hashed(own.hash_schema, ["k"], 3)
    hashed(own.hash_schema, ["k"], 4)
    parted = PartitionSchema.from_pb(pb, table(column("k")))

    def dimensions(k: int) -> list[int]:
        return [d.bucket_count for d in parted.dimensions_at(parted.encode_range([struct.pack("<i", k)]))]

    assert [dimensions(k) for k in (99, 100, 199, 200)] == [[2], [3, 4], [3, 4], [2]]
    cells = [struct.pack("<i", 150)]
    assert len(parted.partition_key(cells)) == 4 + 4 + 4


def test_without_a_range_schema_the_key_columns_are_the_range() -> None:
    pb = message()
    assert PartitionSchema.from_pb(pb, table(column("a"), column("b"))).range_columns == (0, 1)
    with_counter = table(column("a"), column("i", "INT64", auto_incrementing=True))
    assert PartitionSchema.from_pb(pb, with_counter).range_columns == (0,)
    pb.range_schema.SetInParent()
    assert PartitionSchema.from_pb(pb, table(column("a"))).range_columns == ()


def test_columns_are_found_by_id_or_by_name() -> None:
    pb = message()
    pb.range_schema.columns.add(id=11)
    pb.range_schema.columns.add(name="a")
    schema = table(column("a", id=10), column("b", id=11))
    assert PartitionSchema.from_pb(pb, schema).range_columns == (1, 0)


def test_nonsense_is_refused_by_name() -> None:
    schema = table(column("k"))
    pb = message()
    hashed(pb.hash_schema, ["k"], 0)
    with pytest.raises(BadFormat, match="0 buckets"):
        PartitionSchema.from_pb(pb, schema)
    pb = message()
    pb.range_schema.columns.add(name="other")
    with pytest.raises(BadFormat, match="'other'"):
        PartitionSchema.from_pb(pb, schema)
    for kinds, error in (((8, 9), Unsupported), ((7, 6), BadFormat)):
        pb = message()
        bounds(pb.custom_hash_schema_ranges.add(), 1, 2, kinds)
        with pytest.raises(error):
            PartitionSchema.from_pb(pb, schema)
    pb = message()
    own = pb.custom_hash_schema_ranges.add()
    bounds(own, 1, 2)
    own.range_bounds.rows = own.range_bounds.rows[:-1]
    with pytest.raises(BadFormat, match="middle of a value"):
        PartitionSchema.from_pb(pb, schema)
    with pytest.raises(BadFormat, match="inside a hash bucket"):
        Partition.from_pb(message_class("kudu.PartitionPB")(hash_buckets=[1, 2], partition_key_start=b"abcde"))


def test_all_golden_superblocks_describe_their_partition() -> None:
    found: list[Superblock] = [read_superblock(path) for path in metadata_files(SUPERBLOCK)]
    assert len(found) == len(metadata_files(CMETA))
    assert not [s for s in found if "error" in s.partition_schema.describe(s.partition)]
