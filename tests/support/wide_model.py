"""A plain model of a tablet with any schema: rows, the states that snapshots were taken of, the keys touched between.

The schema is a parameter of each operation, so that it may change in a history's course.
"""
from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.schema_builder import COMPRESSIONS
from kudu_storage.errors import RowErrors

VERBS = ("insert", "upsert", "update", "delete", "insert_ignore", "upsert_ignore", "update_ignore", "delete_ignore")
Key = tuple[Any, ...]
Rows = dict[Key, tuple[Any, ...]]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODINGS = {"binary": ["auto", "plain", "prefix", "dict"], "integer": ["auto", "plain", "rle", "bitshuffle"],
              "real": ["auto", "plain", "bitshuffle"], "bool": ["auto", "plain", "rle"]}
_KINDS: dict[str, str] = {
    "int8": "integer", "int16": "integer", "int32": "integer", "int64": "integer", "date": "integer",
    "unixtime_micros": "integer", "decimal": "real", "string": "binary", "binary": "binary", "varchar": "binary",
    "bool": "bool", "float": "real", "double": "real",
}
_KEY_TYPES = [name for name in _KINDS if name not in ("bool", "float", "double")]


def random_schema(rng: random.Random) -> Schema:
    """One to three key columns; value columns of many types, encodings, codecs and block sizes."""
    builder = kudu.schema_builder()
    keys = [f"k{i}" for i in range(rng.choice([1, 1, 2, 2, 3]))]
    for name in keys:
        _add(builder, name, rng.choice(_KEY_TYPES), False, rng)
    for number, kind in enumerate(rng.sample(list(_KINDS), rng.randrange(1, len(_KINDS) + 1))):
        spec = _add(builder, f"v{number}", kind, rng.random() < 0.7, rng)
        if number and rng.random() < 0.1:
            spec.immutable()
    return builder.set_primary_keys(keys).build()


def _add(builder: Any, name: str, kind: str, nullable: bool, rng: random.Random) -> Any:
    spec = builder.add_column(name, kind, nullable=nullable, encoding=rng.choice(_ENCODINGS[_KINDS[kind]]),
                              compression=rng.choice([c for c in COMPRESSIONS if c != "default"]))
    if kind == "decimal":
        precision = rng.choice([5, 15, 30])
        spec.precision(precision).scale(2)
    if kind == "varchar":
        spec.length(8)
    if rng.random() < 0.5:
        spec.block_size(rng.choice([512, 4096]))
    return spec


def random_value(column: ColumnSchema, rng: random.Random) -> Any:
    """Few enough that equal ones meet; the extremes among them."""
    kind = column.type
    if kind.name.startswith("INT"):
        top = 1 << (8 * kind.width_bytes - 1)
        return rng.choice([0, 1, -1, top - 1, -top, rng.randrange(-top, top)])
    if kind.is_decimal:
        top = 10 ** column.precision
        unscaled = rng.choice([0, top - 1, 1 - top, rng.randrange(-top + 1, top)])
        return Decimal(f"{unscaled}E-2")            # arithmetic would round to the context's digits
    text = rng.choice(["", "a", "a\0", "a\0\1b", "é", "word", "ab" * rng.randrange(4)])
    return {
        "STRING": lambda: text * rng.choice([1, 1, 30]), "VARCHAR": lambda: text[:8], "BINARY": lambda: text.encode(),
        "BOOL": lambda: rng.random() < 0.5, "FLOAT": lambda: rng.choice([0.0, -1.5, math.inf, 2.0 ** rng.randrange(9)]),
        "DOUBLE": lambda: rng.choice([0.0, -math.inf, rng.random()]),
        "DATE": lambda: date(1970, 1, 1) + timedelta(days=rng.randrange(-9000, 9000)),
        "UNIXTIME_MICROS": lambda: EPOCH + timedelta(microseconds=rng.randrange(-2**50, 2**50)),
    }[kind.name]()


def random_keys(schema: Schema, count: int, rng: random.Random) -> list[Key]:
    return list({tuple(random_value(column, rng) for column in schema.key_columns): None for _ in range(count)})


def random_operation(schema: Schema, keys: list[Key], rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A verb, and values by column name."""
    verb = rng.choice(VERBS)
    key = rng.choice(keys)
    record = dict(zip(schema.names, key, strict=False))
    if not verb.startswith("delete"):
        whole = rng.random() < 0.5
        for column in schema.columns[len(key):]:
            must = not column.nullable and not verb.startswith("update")
            if must or (not column.immutable and whole) or rng.random() < 0.15:
                null = column.nullable and rng.random() < 0.2
                record[column.name] = None if null else random_value(column, rng)
    return verb, record


@dataclass
class Touched:
    """Keys that were changed, in order. Doubtful: nothing may have been written for them."""

    surely: list[Key] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)

    def add(self, key: Key, sure: bool = True) -> None:
        if not sure:
            self.doubtful.add(len(self.surely))
        self.surely.append(key)

    def between(self, first: int, end: int) -> tuple[set[Key], set[Key]]:
        """(surely touched, maybe touched)."""
        numbers = range(first, end)
        return ({self.surely[i] for i in numbers if i not in self.doubtful}, {self.surely[i] for i in numbers})


@dataclass(frozen=True)
class State:
    """A moment: its hybrid time, the rows then, how many touches there were before."""

    at: int
    rows: Rows
    touches: int


class WideModel:
    def __init__(self) -> None:
        self.rows: Rows = {}
        self.refused = 0
        self.states: list[State] = []
        self.touched = Touched()

    def apply(self, schema: Schema, verb: str, record: dict[str, Any]) -> None:
        """`refused` counts what a server would refuse."""
        key = tuple(record[column.name] for column in schema.key_columns)
        kind, _, ignore = verb.partition("_")
        there = self.rows.get(key)
        changes = {name: value for name, value in record.items() if schema.find(name) not in range(len(key))}
        fixed = {column.name for column in schema if column.immutable}
        if kind == "delete":
            self._remove(key, there, ignore)
        elif kind == "update":
            if (changes.keys() & fixed and not ignore) or not changes.keys() - fixed:
                self.refused += 1
            elif there is None:
                self.refused += not ignore
            else:
                self._change(schema, key, changes, fixed)
        elif there is None:
            self.rows[key] = (*key, *(changes.get(column.name) for column in schema.columns[len(key):]))
            self.touched.add(key)
        elif kind == "insert" or (changes.keys() & fixed and not ignore):
            self.refused += not ignore
        else:
            self._change(schema, key, changes, fixed)

    def _remove(self, key: Key, there: object, ignore: str) -> None:
        if there is None:
            self.refused += not ignore
        else:
            del self.rows[key]
            self.touched.add(key)

    def _change(self, schema: Schema, key: Key, changes: dict[str, Any], fixed: set[str]) -> None:
        old = self.rows[key]
        self.rows[key] = tuple(changes.get(name, cell) if name not in fixed else cell
                               for name, cell in zip(schema.names, old, strict=True))
        self.touched.add(key, bool(changes.keys() - fixed))

    def note(self, at: int) -> None:
        """A snapshot was taken."""
        self.states.append(State(at, dict(self.rows), len(self.touched.surely)))


def order_of(value: Any) -> Any:
    """Cells in the order of encoded keys."""
    return value.encode() if isinstance(value, str) else value


def in_order(rows: Rows) -> list[tuple[Any, ...]]:
    return [rows[key] for key in sorted(rows, key=lambda key: tuple(map(order_of, key)))]


def write_batch(tablet: Tablet, model: WideModel, schema: Schema, operations: list[tuple[str, dict[str, Any]]]) -> None:
    """One flush, in the tablet and in the model; both must refuse as many rows."""
    session, before, refused = tablet.new_session(), model.refused, 0
    for verb, record in operations:
        session.apply(getattr(session, f"new_{verb}")(record))
    try:
        session.flush()
    except RowErrors as errors:
        refused = errors.count
    for verb, record in operations:
        model.apply(schema, verb, record)
    assert refused == model.refused - before


def check_rows(tablet: Tablet, model: WideModel, rng: random.Random) -> None:
    """Now and at every state: scans, lookups; and what changed between two states."""
    width = tablet.schema.key_column_count
    assert tablet.scanner().ordered().open().read_all_tuples() == in_order(model.rows)
    unordered = tablet.scanner().set_threads(rng.choice([1, 2])).read_all_tuples()
    assert len(unordered) == len(model.rows) and {row[:width]: row for row in unordered} == model.rows
    for state in model.states:
        rows = tablet.scanner().set_snapshot(state.at).ordered().read_all_tuples()
        assert rows == in_order(state.rows)
        assert tablet.count(state.at) == len(state.rows)
    keys = sorted(set(model.touched.surely), key=repr)
    for key in rng.sample(keys, min(6, len(keys))):
        assert tablet.get(key) == model.rows.get(key)
        for state in model.states[-2:]:
            assert tablet.get(key, at=state.at) == state.rows.get(key)
    if len(model.states) >= 2:
        first, last = sorted(rng.sample(range(len(model.states)), 2))
        check_diff(tablet, model, model.states[first], model.states[last])


def check_diff(tablet: Tablet, model: WideModel, since: State, until: State) -> None:
    width = tablet.schema.key_column_count
    rows = tablet.scanner().set_diff(since.at, until.at).read_all_tuples()
    found = {row[:width]: row for row in rows}
    assert len(found) == len(rows) and rows == in_order(found)
    surely, maybe = model.touched.between(since.touches, until.touches)
    shown = {key for key in surely if key in since.rows or key in until.rows}
    assert shown <= found.keys() <= maybe
    for key, row in found.items():
        assert row[-1] == (key not in until.rows)
        assert row[-1] or row[:-1] == until.rows[key]
        assert not row[-1] or key in since.rows
