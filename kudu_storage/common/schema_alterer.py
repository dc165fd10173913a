"""Changes of a table's schema, step by step, with the names that kudu-python's alterer uses. Pure.

    alterer.add_column("note", string, nullable=True)
    alterer.alter_column("v", rename_to="value").default(7)
    alterer.drop_column("old")

Steps are taken in order, as a master takes them (master/catalog_manager.cc, ApplyAlterSchemaSteps; common/schema.cc):
 A1  Columns of the key are neither added nor dropped; they may be renamed. No column changes its type or nullability.
 A2  A new column that is not nullable has a default. Rows from before it read that default for ever: `default()` of
     alter_column() changes only what later inserts get.
 A3  A column keeps its id under any name; a new one has an id above all that were ever used, as far as anybody knows.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from kudu_storage.common.limits import COLUMN_ID_MAX
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.schema_builder import (
    COLUMN_COUNT_DEFAULT_MAX,
    COMPRESSIONS,
    ENCODINGS,
    ColumnSpec,
    KuduType,
    cell_of,
    check_column_name,
    check_comment,
    check_encoding,
    column_spec,
    named_setting,
)
from kudu_storage.errors import InvalidArgument

_BLOCK_BYTES_END: Final = 2**31
_Step = Callable[[list[ColumnSchema], Callable[[], int]], list[ColumnSchema]]


class ColumnChange:
    """What is to change of one column. Each method returns it, so that calls can be chained."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._steps: list[Callable[[ColumnSchema], ColumnSchema]] = []
        self._new_name: str | None = None

    def rename(self, new_name: str) -> ColumnChange:
        """Another name; predicates and clients that know the old one do not find it any more."""
        check_column_name(new_name)
        self._new_name = new_name
        return self

    def default(self, value: Any) -> ColumnChange:
        """What later inserts have that do not set the column (A2). None: no default, as clear_default()."""
        if value is None:
            return self.clear_default()
        return self._with(lambda column: replace(column, write_default=cell_of(column, value)))

    def clear_default(self) -> ColumnChange:
        """Later inserts have NULL, or must set the column if it is not nullable."""
        return self._with(lambda column: replace(column, write_default=None))

    remove_default = clear_default

    def encoding(self, encoding: str) -> ColumnChange:
        """Of files written from now on, as are the next two."""
        number = ENCODINGS[named_setting("encoding", self._name, encoding, ENCODINGS)]
        return self._with(lambda column: replace(check_encoding(column, encoding), encoding=number))

    def compression(self, compression: str) -> ColumnChange:
        number = COMPRESSIONS[named_setting("compression", self._name, compression, COMPRESSIONS)]
        return self._with(lambda column: replace(column, compression=number))

    def block_size(self, block_size: int) -> ColumnChange:
        """Bytes of a block before encoding; 0: the default."""
        if not 0 <= block_size < _BLOCK_BYTES_END:
            raise InvalidArgument(f"column {self._name!r}: a block of {block_size} bytes")
        return self._with(lambda column: replace(column, cfile_block_size=block_size))

    def comment(self, comment: str) -> ColumnChange:
        check_comment(self._name, comment)
        return self._with(lambda column: replace(column, comment=comment))

    def immutable(self, is_immutable: bool = True) -> ColumnChange:
        """Set once, by an insert; later changes are refused."""
        return self._with(lambda column: _with_immutable(column, bool(is_immutable)))

    def _with(self, step: Callable[[ColumnSchema], ColumnSchema]) -> ColumnChange:
        self._steps.append(step)
        return self

    def _apply(self, columns: list[ColumnSchema], _: Callable[[], int]) -> list[ColumnSchema]:
        position = _position(columns, self._name)
        column = columns[position]
        for step in self._steps:
            column = step(column)
        if self._new_name is not None and self._new_name != self._name:
            _require_free(columns, self._new_name)
            column = replace(column, name=self._new_name)
        return [*columns[:position], column, *columns[position + 1:]]


class SchemaAlterer:
    """Changes of one table, noted down; schema() says what they come to."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._table_name: str | None = None

    def rename(self, table_name: str) -> SchemaAlterer:
        """Give the table another name."""
        if not isinstance(table_name, str) or not table_name or "\0" in table_name:
            raise InvalidArgument(f"{table_name!r} is no name of a table")
        self._table_name = table_name
        return self

    def add_column(self, name: str, type_: KuduType | str | None = None, nullable: bool | None = None,
                   compression: str | None = None, encoding: str | None = None, default: Any = None,
                   block_size: int | None = None, precision: int | None = None, scale: int | None = None,
                   length: int | None = None, comment: str | None = None, immutable: bool = False) -> ColumnSpec:
        """Add a column behind the others; what is not given here can be said on what this returns (A2)."""
        spec = column_spec(name, type_, nullable=nullable, compression=compression, encoding=encoding,
                           default=default, block_size=block_size, precision=precision, scale=scale, length=length,
                           comment=comment)
        if immutable:
            spec.immutable()
        self._steps.append(lambda columns, next_id: [*columns, _added(columns, spec, next_id)])
        return spec

    def alter_column(self, name: str, rename_to: str | None = None) -> ColumnChange:
        """Change what may be changed of a column: see ColumnChange."""
        change = ColumnChange(name)
        if rename_to is not None:
            change.rename(rename_to)
        self._steps.append(change._apply)
        return change

    def rename_column(self, name: str, new_name: str) -> SchemaAlterer:
        self.alter_column(name, new_name)
        return self

    def drop_column(self, name: str) -> SchemaAlterer:
        """Drop a column: its cells are not read any more, and go with the next compaction."""
        self._steps.append(lambda columns, _: _without(columns, name))
        return self

    @property
    def table_name(self) -> str | None:
        """The table's new name; None: it keeps its own."""
        return self._table_name

    def schema(self, schema: Schema, next_id: int) -> Schema:
        """What becomes of `schema`, whose columns have ids, when new ones begin at `next_id`.

        Raises InvalidArgument for steps that do not fit it.
        """
        last = next_id - 1

        def take_id() -> int:
            nonlocal last
            last += 1
            if last > COLUMN_ID_MAX:
                raise InvalidArgument(f"the table has used up its column ids, {COLUMN_ID_MAX}")
            return last

        columns = list(schema.columns)
        for step in self._steps:
            columns = step(columns, take_id)
        if len(columns) > max(COLUMN_COUNT_DEFAULT_MAX, len(schema)):
            raise InvalidArgument(f"{len(columns)} columns, a table has at most {COLUMN_COUNT_DEFAULT_MAX}")
        return Schema(tuple(columns))


def _position(columns: list[ColumnSchema], name: str) -> int:
    for position, column in enumerate(columns):
        if column.name == name:
            return position
    raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(c.name for c in columns)}")


def _require_free(columns: list[ColumnSchema], name: str) -> None:
    if any(column.name == name for column in columns):
        raise InvalidArgument(f"there is a column {name!r} already")


def _added(columns: list[ColumnSchema], spec: ColumnSpec, next_id: Callable[[], int]) -> ColumnSchema:
    column = spec.build()
    _require_free(columns, column.name)
    if not column.nullable and column.read_default is None:
        raise InvalidArgument(f"column {column.name!r} is new and not nullable: the rows that are there need a default",
                              advice="default=..., or nullable=True")
    return replace(column, id=next_id())


def _without(columns: list[ColumnSchema], name: str) -> list[ColumnSchema]:
    position = _position(columns, name)
    if columns[position].is_key:
        raise InvalidArgument(f"column {name!r} is part of the key and cannot be dropped")
    return [*columns[:position], *columns[position + 1:]]


def _with_immutable(column: ColumnSchema, is_immutable: bool) -> ColumnSchema:
    if column.is_key and is_immutable:
        raise InvalidArgument(f"column {column.name!r}: a key column is never changed anyway")
    return replace(column, immutable=is_immutable)
