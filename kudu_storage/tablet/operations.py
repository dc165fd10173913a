"""Single row operations as values: what new_insert() and the like return."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kudu_storage._native.row_batch import UNSET
from kudu_storage.common.row_codec import RowOp
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument

KINDS: Final = {
    "insert": RowOp.INSERT, "upsert": RowOp.UPSERT, "update": RowOp.UPDATE, "delete": RowOp.DELETE,
    "insert_ignore": RowOp.INSERT_IGNORE, "upsert_ignore": RowOp.UPSERT_IGNORE, "update_ignore": RowOp.UPDATE_IGNORE,
    "delete_ignore": RowOp.DELETE_IGNORE,
}
Record = Mapping[str, Any] | Sequence[Any] | None


class WriteOperation:
    """An operation on one row: set its columns with `op["name"] = value` or by position, then session.apply(op)."""

    __slots__ = ("_schema", "kind", "values")

    def __init__(self, kind: RowOp, schema: Schema, record: Record = None) -> None:
        self.kind = int(kind)
        self._schema = schema
        if record is None or isinstance(record, Mapping):
            self.values: list[Any] = [UNSET] * len(schema)
            for name, value in (record or {}).items():
                self[name] = value
            return
        if isinstance(record, str | bytes) or not isinstance(record, Sequence):
            raise InvalidArgument(f"{record!r} is no record", advice="a dict, or a sequence of values in column order")
        if len(record) > len(schema):
            raise InvalidArgument(f"{len(record)} values for {len(schema)} columns")
        self.values = [*record, *[UNSET] * (len(schema) - len(record))]

    @property
    def schema(self) -> Schema:
        """Of the tablet as it was when the operation was made."""
        return self._schema

    def __setitem__(self, column: str | int, value: Any) -> None:
        self.values[self._position(column)] = value

    def __getitem__(self, column: str | int) -> Any:
        value = self.values[self._position(column)]
        return None if value is UNSET else value

    def _position(self, column: str | int) -> int:
        if isinstance(column, str):
            position = self._schema.find(column)
            if position is None:
                raise InvalidArgument(f"no column named {column!r}", advice=f"one of {', '.join(self._schema.names)}")
            return position
        if not 0 <= column < len(self.values):
            raise InvalidArgument(f"there is no column {column}", advice=f"0 to {len(self.values) - 1}")
        return column

    def __repr__(self) -> str:
        cells = {n: v for n, v in zip(self._schema.names, self.values, strict=True) if v is not UNSET}
        return f"<{RowOp(self.kind).name} {cells}>"
