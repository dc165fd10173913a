"""Columns and predicates, as in kudu-python: `t["id"] >= 1`, `t["name"].in_list([...])`, `t["note"].is_null()`. Pure.

 P1  All predicates of a scan must hold.
 P2  Key bounds that they imply are only a hint: every predicate is tested on every row that is read.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kudu_storage.common.keys import encode_key_cell
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.schema_builder import cell_of
from kudu_storage.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Predicate:
    """One column against values. `kind`: eq, lt, le, gt, ge, in, null, not_null; `cells` are raw."""

    column: str
    kind: str
    cells: tuple[bytes, ...] = ()


class Column:
    """A column of a tablet, for predicates."""

    __hash__ = None     # type: ignore[assignment]      # == makes a predicate

    def __init__(self, spec: ColumnSchema) -> None:
        self.spec = spec

    @property
    def name(self) -> str:
        return self.spec.name

    def _compare(self, kind: str, value: Any) -> Predicate:
        if value is None:
            raise InvalidArgument(f"column {self.name!r}: nothing compares with None",
                                  advice="is_null(), is_not_null()")
        return Predicate(self.name, kind, (cell_of(self.spec, value),))

    def __eq__(self, value: object) -> Predicate:       # type: ignore[override]
        return self._compare("eq", value)

    def __lt__(self, value: Any) -> Predicate:
        return self._compare("lt", value)

    def __le__(self, value: Any) -> Predicate:
        return self._compare("le", value)

    def __gt__(self, value: Any) -> Predicate:
        return self._compare("gt", value)

    def __ge__(self, value: Any) -> Predicate:
        return self._compare("ge", value)

    def __ne__(self, value: object) -> Predicate:       # type: ignore[override]
        raise InvalidArgument(f"column {self.name!r}: there is no predicate for 'is not equal'")

    def in_list(self, values: Iterable[Any]) -> Predicate:
        """One of the values. None among them is refused: no NULL equals anything."""
        return Predicate(self.name, "in", tuple(self._compare("eq", value).cells[0] for value in values))

    def is_null(self) -> Predicate:
        return Predicate(self.name, "null")

    def is_not_null(self) -> Predicate:
        return Predicate(self.name, "not_null")

    def __repr__(self) -> str:
        return f"<Column {self.name!r} {self.spec.type.name}>"


# -- what predicates say about keys ------------------------------------------------------------------------------------
def key_bounds(schema: Schema, predicates: Sequence[Predicate]) -> tuple[bytes | None, bytes | None]:
    """The first encoded key that can match and the first one behind all that can; None: no bound."""
    prefix = b""
    last = schema.key_column_count - 1
    for i, column in enumerate(schema.key_columns):
        mine = [p for p in predicates if p.column == column.name]
        equal = next((p.cells[0] for p in mine if p.kind == "eq"), None)
        if equal is None:
            return _range_bounds(prefix, column, mine, is_last=i == last)
        prefix += encode_key_cell(column, equal, is_last=i == last)
    return (prefix, prefix + b"\0") if prefix else (None, None)


def _range_bounds(prefix: bytes, column: ColumnSchema, mine: Sequence[Predicate], *,
                  is_last: bool) -> tuple[bytes | None, bytes | None]:
    lower, upper = prefix or None, _after(prefix)
    for predicate in mine:
        if predicate.kind not in ("ge", "gt", "le", "lt"):
            continue
        bound = prefix + encode_key_cell(column, predicate.cells[0], is_last=is_last)
        if predicate.kind in ("ge", "gt"):
            lower = bound if lower is None else max(lower, bound)
        else:
            end = bound if predicate.kind == "lt" else _after(bound)
            upper = end if upper is None else upper if end is None else min(upper, end)
    return lower, upper


def _after(prefix: bytes) -> bytes | None:
    """The first byte string above all that start with `prefix`; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
