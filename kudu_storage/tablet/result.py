"""What scans return: rows as values, and whole results as columns."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema
from kudu_storage.errors import MissingExtra


class Row(tuple[Any, ...]):
    """One row: a tuple in column order whose values can be had by column name, too."""

    __slots__ = ()
    _names: dict[str, int] = {}     # noqa: RUF012      # of the subclass that row_type() makes

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return tuple.__getitem__(self, self._names[key])
        return tuple.__getitem__(self, key)

    def as_dict(self) -> dict[str, Any]:
        return dict(zip(self._names, self, strict=True))


def row_type(schema: Schema) -> type[Row]:
    """A Row of these columns."""
    names = {name: position for position, name in enumerate(schema.names)}
    return type("Row", (Row,), {"__slots__": (), "_names": names})


class ScanResult:
    """All rows of a scan, by columns, in memory. Any Arrow library takes it, as often as wanted and without a copy."""

    def __init__(self, schema: Schema, blocks: Sequence[ColumnBlock]) -> None:
        self.schema = schema
        self.blocks = tuple(blocks)
        self.num_rows = sum(len(block) for block in blocks)

    @property
    def num_columns(self) -> int:
        return len(self.schema)

    @property
    def column_names(self) -> list[str]:
        return self.schema.names

    def __len__(self) -> int:
        return self.num_rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.schema, self.blocks).__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        from kudu_storage._native.arrow import ArrowStream

        return ArrowStream(self.schema, ()).__arrow_c_schema__()

    def tuples(self) -> Iterator[tuple[Any, ...]]:
        for block in self.blocks:
            yield from block.to_tuples()

    def __repr__(self) -> str:
        return f"<ScanResult of {self.num_rows} rows, {self.num_columns} columns>"


def polars_frame(result: ScanResult) -> Any:
    """A polars.DataFrame. Raises MissingExtra."""
    try:
        import polars
    except ImportError as error:
        raise MissingExtra("to_polars() needs the package polars, which cannot be imported",
                           advice="pip install 'kudu-storage[polars]'") from error
    return polars.DataFrame(result)


def pandas_frame(result: ScanResult) -> Any:
    """A pandas.DataFrame. Raises MissingExtra."""
    try:
        import pandas  # noqa: F401
        import pyarrow
    except ImportError as error:
        raise MissingExtra("to_pandas() needs the packages pandas and pyarrow, which cannot be imported",
                           advice="pip install 'kudu-storage[pandas]'") from error
    return pyarrow.table(result).to_pandas()
