"""Column and table schemas: what Kudu's SchemaPB says, as plain values.

Messages are read and filled by their attributes only; this module does not import the message classes.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kudu_storage.common import types
from kudu_storage.common.limits import COLUMN_COUNT_MAX, COLUMN_ID_MAX
from kudu_storage.common.types import ColumnType
from kudu_storage.errors import BadFormat, InvalidArgument, Unsupported


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """One column. Defaults are raw cells as in types.py, or None for "no default"."""

    name: str
    type: ColumnType
    nullable: bool = False
    is_key: bool = False
    id: int | None = None               # None in a client's schema
    read_default: bytes | None = None   # for rows written before the column existed
    write_default: bytes | None = None  # for inserts that do not set the column
    precision: int = 0                  # decimals
    scale: int = 0
    length: int = 0                     # VARCHAR, in characters
    encoding: int = 0                   # kudu.EncodingType; 0 = AUTO_ENCODING
    compression: int = 0                # kudu.CompressionType; 0 = DEFAULT_COMPRESSION
    cfile_block_size: int = 0           # bytes; 0 = the server's default
    immutable: bool = False
    auto_incrementing: bool = False
    comment: str = ""

    @classmethod
    def from_pb(cls, pb: Any) -> ColumnSchema:
        """From a kudu.ColumnSchemaPB. Raises Unsupported for arrays and unknown types, BadFormat for nonsense."""
        if pb.HasField("nested_type"):
            raise Unsupported(f"column {pb.name!r} is an array; array columns are not supported")
        kind = types.by_number(pb.type)
        for what in ("read_default_value", "write_default_value"):
            if pb.HasField(what) and kind.width_bytes and len(getattr(pb, what)) != kind.width_bytes:
                raise BadFormat(f"column {pb.name!r}: {what} has {len(getattr(pb, what))} bytes, "
                                f"a cell of {kind.name} has {kind.width_bytes}")
        if pb.HasField("id") and not 0 <= pb.id <= COLUMN_ID_MAX:
            raise BadFormat(f"column {pb.name!r}: id {pb.id} is out of range")
        attributes = pb.type_attributes
        return cls(
            name=pb.name, type=kind, nullable=pb.is_nullable, is_key=pb.is_key,
            id=pb.id if pb.HasField("id") else None,
            read_default=pb.read_default_value if pb.HasField("read_default_value") else None,
            write_default=pb.write_default_value if pb.HasField("write_default_value") else None,
            precision=attributes.precision, scale=attributes.scale, length=attributes.length,
            encoding=pb.encoding, compression=pb.compression, cfile_block_size=pb.cfile_block_size,
            immutable=pb.immutable, auto_incrementing=pb.is_auto_incrementing, comment=pb.comment,
        )

    def to_pb(self, pb: Any) -> None:
        """Fill an empty kudu.ColumnSchemaPB."""
        if self.id is not None:
            pb.id = self.id
        pb.name, pb.type, pb.is_key, pb.is_nullable = self.name, self.type.number, self.is_key, self.nullable
        if self.read_default is not None:
            pb.read_default_value = self.read_default
        if self.write_default is not None:
            pb.write_default_value = self.write_default
        pb.encoding, pb.compression, pb.cfile_block_size = self.encoding, self.compression, self.cfile_block_size
        if self.type.is_decimal:
            pb.type_attributes.precision, pb.type_attributes.scale = self.precision, self.scale
        elif self.type.name == "VARCHAR":
            pb.type_attributes.length = self.length
        if self.comment:
            pb.comment = self.comment
        pb.immutable = self.immutable
        if self.auto_incrementing:
            pb.is_auto_incrementing = True


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns in table order, the key columns first."""

    columns: tuple[ColumnSchema, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        if len(names) > COLUMN_COUNT_MAX:
            raise BadFormat(f"schema has {len(names)} columns, the limit is {COLUMN_COUNT_MAX}")
        object.__setattr__(self, "_index", {name: i for i, name in enumerate(names)})
        if len(self._index) != len(names):
            raise BadFormat("schema has two columns of the same name")
        ids = [c.id for c in self.columns if c.id is not None]
        if len(set(ids)) != len(ids):
            raise BadFormat("schema has two columns of the same id")
        if ids and len(ids) != len(names):
            raise BadFormat("schema has columns with and without an id")
        keys = [c.is_key for c in self.columns]
        if keys != sorted(keys, reverse=True):
            raise BadFormat("key columns are not the first columns of the schema")
        for column in self.columns[: self.key_column_count]:
            if column.nullable or not column.type.is_key_type:
                raise BadFormat(f"column {column.name!r} ({column.type.name}) cannot be a key column")

    @classmethod
    def from_pb(cls, pb: Any) -> Schema:
        """From a kudu.SchemaPB. Raises Unsupported or BadFormat."""
        return cls(tuple(ColumnSchema.from_pb(c) for c in pb.columns))

    def to_pb(self, pb: Any) -> None:
        """Fill an empty kudu.SchemaPB."""
        for column in self.columns:
            column.to_pb(pb.columns.add())

    @property
    def key_column_count(self) -> int:
        return sum(1 for c in self.columns if c.is_key)

    @property
    def key_columns(self) -> tuple[ColumnSchema, ...]:
        return self.columns[: self.key_column_count]

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    def find(self, name: str) -> int | None:
        """Position of the column of that name, or None."""
        return self._index.get(name)

    def project(self, names: Sequence[str]) -> Schema:
        """The named columns in the given order. They keep `is_key` only while they form a prefix that allows it."""
        picked = []
        for name in names:
            position = self.find(name)
            if position is None:
                raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(self.names)}")
            picked.append(self.columns[position])
        return Schema(tuple(picked)) if [c.is_key for c in picked] == sorted((c.is_key for c in picked), reverse=True) \
            else Schema(tuple(_without_key(c) for c in picked))

    def __iter__(self) -> Iterator[ColumnSchema]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def _without_key(column: ColumnSchema) -> ColumnSchema:
    from dataclasses import replace
    return replace(column, is_key=False)
