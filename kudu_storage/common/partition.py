"""Partitions: which tablet a row belongs to, from its key. Pure functions and values.

A partition key is the hash buckets, four bytes big-endian each, then the encoded range columns; tablets own half-open
ranges of it. A bucket is MurmurHash2 (64 bits) of the encoded hash columns, modulo the bucket count. A range may have
hash dimensions of its own in place of the table's. Source: common/partition.cc, util/hash_util.h.

Messages are read by their attributes only; this module does not import the message classes.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from kudu_storage.common.cell_text import debug_text
from kudu_storage.common.keys import decode_key_cell, encode_key_cell
from kudu_storage.common.limits import COLUMN_COUNT_MAX
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, Unsupported

BUCKET_BYTES: Final = 4
_MURMUR_PRIME: Final = 0xC6A4A7935BD1E995
_MASK64: Final = 2**64 - 1
_RANGE_LOWER_BOUND: Final = 6       # kudu.RowOperationsPB.Type
_RANGE_UPPER_BOUND: Final = 7
_EXCLUSIVE_BOUNDS: Final = (8, 9)
# The least value of a type where it is not the least integer of its width; DATE begins with the year 1.
_DATE_MIN: Final = -719162


def murmur2_64(data: bytes, seed: int = 0) -> int:
    """MurmurHash2, the 64-bit variant for 64-bit machines (MurmurHash64A)."""
    h = seed ^ (len(data) * _MURMUR_PRIME & _MASK64)
    whole = len(data) & ~7
    for i in range(0, whole, 8):
        k = int.from_bytes(data[i:i + 8], "little") * _MURMUR_PRIME & _MASK64
        k = (k ^ k >> 47) * _MURMUR_PRIME & _MASK64
        h = (h ^ k) * _MURMUR_PRIME & _MASK64
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * _MURMUR_PRIME & _MASK64
    h = (h ^ h >> 47) * _MURMUR_PRIME & _MASK64
    return h ^ h >> 47


@dataclass(frozen=True, slots=True)
class HashDimension:
    """One level of hashing. Columns are positions in the table's schema."""

    columns: tuple[int, ...]
    bucket_count: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RangeHashSchema:
    """Hash dimensions that one range has instead of the table's. Bounds are encoded; an empty upper one is open."""

    lower: bytes
    upper: bytes
    dimensions: tuple[HashDimension, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """One tablet's share of the key space: bounds [start, end) of partition keys; an empty end is open."""

    hash_buckets: tuple[int, ...]
    start: bytes
    end: bytes

    @classmethod
    def from_pb(cls, pb: Any) -> Partition:
        """From a kudu.PartitionPB. Raises BadFormat for bounds shorter than their buckets."""
        hashed = BUCKET_BYTES * len(pb.hash_buckets)
        for bound in (pb.partition_key_start, pb.partition_key_end):
            if 0 < len(bound) < hashed and len(bound) % BUCKET_BYTES:
                raise BadFormat(f"partition key of {len(bound)} bytes ends inside a hash bucket")
        return cls(tuple(pb.hash_buckets), pb.partition_key_start, pb.partition_key_end)

    @property
    def range_start(self) -> bytes:
        """The encoded range columns of the start; empty for an open one."""
        return self.start[BUCKET_BYTES * len(self.hash_buckets):]

    @property
    def range_end(self) -> bytes:
        return self.end[BUCKET_BYTES * len(self.hash_buckets):]


@dataclass(frozen=True, slots=True)
class PartitionSchema:
    """How a table's rows are spread over its tablets."""

    schema: Schema
    hash_dimensions: tuple[HashDimension, ...]
    range_columns: tuple[int, ...]                  # positions in the schema
    range_hash_schemas: tuple[RangeHashSchema, ...] = ()    # by lower bound

    @classmethod
    def from_pb(cls, pb: Any, schema: Schema) -> PartitionSchema:
        """From a kudu.PartitionSchemaPB and the table's schema. Raises BadFormat or Unsupported."""
        if pb.HasField("range_schema"):
            range_columns = _columns(pb.range_schema.columns, schema)
        else:
            range_columns = tuple(i for i, c in enumerate(schema.key_columns) if not c.auto_incrementing)
        plain = cls(schema, _dimensions(pb.hash_schema, schema), range_columns)
        custom = sorted((plain._range_hash_schema(r) for r in pb.custom_hash_schema_ranges), key=lambda r: r.lower)
        return cls(schema, plain.hash_dimensions, range_columns,
                   tuple(r for r in custom if r.dimensions != plain.hash_dimensions))

    def _range_hash_schema(self, pb: Any) -> RangeHashSchema:
        lower, upper = (self.encode_range(row) for row in _bounds(pb.range_bounds, self.schema))
        return RangeHashSchema(lower, upper, _dimensions(pb.hash_schema, self.schema))

    # -- which partition a row is in -----------------------------------------------------------------------------------
    def dimensions_at(self, range_key: bytes) -> tuple[HashDimension, ...]:
        """The hash dimensions of rows with these encoded range columns."""
        for custom in reversed(self.range_hash_schemas):
            if custom.lower <= range_key:
                return custom.dimensions if not custom.upper or range_key < custom.upper else self.hash_dimensions
        return self.hash_dimensions

    def bucket(self, dimension: HashDimension, key_cells: Sequence[bytes]) -> int:
        """The bucket of a row in one hash dimension. `key_cells` are the raw cells of its key columns."""
        return murmur2_64(self._encode(dimension.columns, key_cells), dimension.seed) % dimension.bucket_count

    def encode_range(self, key_cells: Sequence[bytes | None]) -> bytes:
        """The encoded range columns of a row. None stands for "from the least value": all None encode to nothing."""
        if all(key_cells[i] is None for i in self.range_columns):
            return b""
        return self._encode(self.range_columns, [
            _least_cell(column) if cell is None else cell
            for column, cell in zip(self.schema.key_columns, key_cells, strict=True)])

    def _encode(self, columns: tuple[int, ...], key_cells: Sequence[bytes]) -> bytes:
        last = len(columns) - 1
        return b"".join(encode_key_cell(self.schema.columns[column], key_cells[column], is_last=i == last)
                        for i, column in enumerate(columns))

    def partition_key(self, key_cells: Sequence[bytes]) -> bytes:
        """The partition key of a row by the raw cells of its key columns."""
        range_key = self.encode_range(key_cells)
        return b"".join(self.bucket(d, key_cells).to_bytes(BUCKET_BYTES, "big")
                        for d in self.dimensions_at(range_key)) + range_key

    def contains(self, partition: Partition, key_cells: Sequence[bytes]) -> bool:
        """Whether a row belongs to a partition of this table."""
        range_key = self.encode_range(key_cells)
        dimensions = self.dimensions_at(range_key)
        # With other dimensions a range has another number of buckets, so the partition keys would not compare.
        if len(dimensions) != len(partition.hash_buckets):
            return False
        if range_key < partition.range_start or (partition.range_end and range_key >= partition.range_end):
            return False
        return all(self.bucket(d, key_cells) == b for d, b in zip(dimensions, partition.hash_buckets, strict=True))

    # -- text ----------------------------------------------------------------------------------------------------------
    def describe(self, partition: Partition) -> str:
        """A partition as Kudu's tools name it: `HASH (id) PARTITION 1, RANGE (day) PARTITION 3 <= VALUES < 7`."""
        dimensions = self.dimensions_at(partition.range_start)
        if len(dimensions) != len(partition.hash_buckets):
            return f"<hash-partition-error: {len(partition.hash_buckets)} vs {len(dimensions)} expected buckets>"
        parts = [f"HASH ({self._names(d.columns)}) PARTITION {b}"
                 for d, b in zip(dimensions, partition.hash_buckets, strict=True)]
        if self.range_columns:
            parts.append(f"RANGE ({self._names(self.range_columns)}) PARTITION "
                         + self.describe_range(partition.range_start, partition.range_end))
        return ", ".join(parts)

    def describe_range(self, start: bytes, end: bytes) -> str:
        """Encoded bounds as text: `UNBOUNDED`, `VALUES < 7`, `3 <= VALUES`, `3 <= VALUES < 7`."""
        try:
            lower, upper = self.decode_range(start), self.decode_range(end)
        except BadFormat as error:
            return f"<range-key-decode-error: {error.detail}>"
        if not start and not end:
            return "UNBOUNDED"
        if not start:
            return f"VALUES < {self._bound_text(upper)}"
        if not end:
            return f"{self._bound_text(lower)} <= VALUES"
        return f"{self._bound_text(lower)} <= VALUES < {self._bound_text(upper)}"

    def decode_range(self, encoded: bytes) -> list[bytes | None]:
        """Cells of the range columns; None for those that a shortened bound leaves out. Raises BadFormat."""
        cells: list[bytes | None] = []
        rest = encoded
        for i, position in enumerate(self.range_columns):
            if not rest:
                cells.append(None)
                continue
            cell, rest = decode_key_cell(self.schema.columns[position], rest, is_last=i + 1 == len(self.range_columns))
            cells.append(cell)
        if rest:
            raise BadFormat(f"range key has {len(rest)} bytes after its last column")
        return cells

    def _bound_text(self, cells: list[bytes | None]) -> str:
        columns = [self.schema.columns[position] for position in self.range_columns]
        texts = [debug_text(column, _least_cell(column) if cell is None else cell)
                 for column, cell in zip(columns, cells, strict=True)]
        return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"

    def _names(self, columns: tuple[int, ...]) -> str:
        return ", ".join(self.schema.columns[position].name for position in columns)


def _least_cell(column: ColumnSchema) -> bytes:
    """The least value of a key column's type, which an unset column of a bound stands for."""
    if column.type.is_binary:
        return b""
    width = column.type.width_bytes
    least = _DATE_MIN if column.type.name == "DATE" else -(1 << (8 * width - 1))
    return least.to_bytes(width, "little", signed=True)


def _columns(identifiers: Any, schema: Schema) -> tuple[int, ...]:
    if len(identifiers) > COLUMN_COUNT_MAX:
        raise BadFormat(f"a partition level of {len(identifiers)} columns")
    by_id = {column.id: i for i, column in enumerate(schema.columns)}
    found = []
    for identifier in identifiers:
        position = by_id.get(identifier.id) if identifier.HasField("id") else schema.find(identifier.name)
        if position is None or position >= schema.key_column_count:
            what = f"id {identifier.id}" if identifier.HasField("id") else repr(identifier.name)
            raise BadFormat(f"partitioned by column {what}, which is no key column of the schema")
        found.append(position)
    return tuple(found)


def _dimensions(pbs: Any, schema: Schema) -> tuple[HashDimension, ...]:
    for pb in pbs:
        if pb.num_buckets < 1:
            raise BadFormat(f"a hash partition with {pb.num_buckets} buckets")
    return tuple(HashDimension(_columns(pb.columns, schema), pb.num_buckets, pb.seed) for pb in pbs)


def _bounds(pb: Any, schema: Schema) -> list[list[bytes | None]]:
    """The two bounds of a range with hash dimensions of its own, as cells of the key columns; None where unset.

    They are stored as two row operations over the whole schema: type, bitmap of set columns, bitmap of NULLs (only if a
    column may be NULL), then the cells; strings are offset and length in `indirect_data`.
    """
    rows, indirect = pb.rows, pb.indirect_data
    bitmap_bytes = (len(schema) + 7) // 8
    bitmaps = 2 if any(column.nullable for column in schema) else 1
    result: list[list[bytes | None]] = []
    kinds: list[int] = []
    at = 0
    while at < len(rows):
        kinds.append(rows[at])
        is_set = _take(rows, at + 1, bitmap_bytes)
        at += 1 + bitmap_bytes * bitmaps
        cells: list[bytes | None] = [None] * len(schema)
        for i, column in enumerate(schema):
            if is_set[i >> 3] >> (i & 7) & 1:
                cell = _take(rows, at, column.type.width_bytes or 16)
                at += len(cell)
                cells[i] = cell if column.type.width_bytes else _take(
                    indirect, int.from_bytes(cell[:8], "little"), int.from_bytes(cell[8:], "little"))
        result.append(cells[: schema.key_column_count])
    if any(kind in _EXCLUSIVE_BOUNDS for kind in kinds):
        raise Unsupported("a range whose bounds are not stored in the form [lower, upper)")
    if kinds != [_RANGE_LOWER_BOUND, _RANGE_UPPER_BOUND]:
        raise BadFormat(f"a range with bounds of the kinds {kinds} instead of a lower and an upper one")
    return result


def _take(data: bytes, offset: int, size: int) -> bytes:
    if offset > len(data) or size > len(data) - offset:
        raise BadFormat("a range's bounds end in the middle of a value")
    return data[offset:offset + size]
