"""Columns and predicates, as in kudu-python: `t["id"] >= 1`, `t["name"].in_list([...])`, `t["note"].is_null()`. Pure.

 P1  All predicates of a scan must hold.
 P2  What key_range() takes out of `rest` holds for each row of its range, and for no other row.
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
@dataclass(frozen=True, slots=True)
class KeyRange:
    """Encoded keys in [lower, upper) are all that can match; None: no bound. `rest`: what the range does not say."""

    lower: bytes | None
    upper: bytes | None
    rest: tuple[Predicate, ...]


def key_range(schema: Schema, predicates: Sequence[Predicate]) -> KeyRange:
    """Equality on the first columns of the key, then a range of the next: rows in it need no other test of these."""
    prefix = b""
    rest = list(predicates)
    last = schema.key_column_count - 1
    for i, column in enumerate(schema.key_columns):
        mine = [p for p in predicates if p.column == column.name]
        equal = next((p for p in mine if p.kind == "eq"), None)
        if equal is None:
            return _range_of(prefix, column, mine, rest, is_last=i == last)
        prefix += encode_key_cell(column, equal.cells[0], is_last=i == last)
        rest = [p for p in rest if p is not equal]
    return KeyRange(prefix, prefix + b"\0", tuple(rest)) if last >= 0 else KeyRange(None, None, tuple(rest))


def _range_of(prefix: bytes, column: ColumnSchema, mine: Sequence[Predicate], rest: Sequence[Predicate], *,
              is_last: bool) -> KeyRange:
    lowers = [prefix] if prefix else []
    uppers = [_after(prefix)]
    said = []
    for predicate in mine:
        if not predicate.cells:
            continue
        bounds = sorted(prefix + encode_key_cell(column, cell, is_last=is_last) for cell in predicate.cells)
        # The first key behind those whose column has a value: at the end of a key nothing follows a byte string.
        behind = [bound + b"\0" if is_last else _after(bound) for bound in bounds]
        if predicate.kind in ("ge", "gt"):
            bound = bounds[0] if predicate.kind == "ge" else behind[0]
            if bound is None:
                continue
            lowers.append(bound)
        elif predicate.kind in ("le", "lt"):
            uppers.append(bounds[0] if predicate.kind == "lt" else behind[0])
        elif predicate.kind == "in":
            lowers.append(bounds[0])
            uppers.append(behind[-1])
            continue
        else:
            continue
        said.append(predicate)
    ends = [upper for upper in uppers if upper is not None]
    return KeyRange(max(lowers, default=None), min(ends, default=None),
                    tuple(p for p in rest if not any(p is other for other in said)))


def _after(prefix: bytes) -> bytes | None:
    """The first byte string above all that start with `prefix`; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def key_points(schema: Schema, predicates: Sequence[Predicate], most: int) -> list[bytes] | None:
    """The encoded keys of an in-list on a key of one column, at most so many, by key; None: there is no such list."""
    if schema.key_column_count != 1:
        return None
    [column] = schema.key_columns
    lists = [p for p in predicates if p.column == column.name and p.kind == "in" and len(p.cells) <= most]
    if not lists:
        return None
    shortest = min(lists, key=lambda p: len(p.cells))
    return sorted({encode_key_cell(column, cell, is_last=True) for cell in shortest.cells})
