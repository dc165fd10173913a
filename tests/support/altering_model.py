"""Random schema changes of a tablet against a plain model: rows by key, cells by column id.

The model knows the rules only: names map to columns, a column that a row was written without reads as it was when the
column was added, defaults are taken when a row is inserted.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tablet_model import VERBS

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.errors import InvalidArgument, RowErrors

Key = tuple[str, int]
KEY_NAMES_MAX = 2


@dataclass(frozen=True)
class ModelColumn:
    name: str
    kind: str
    nullable: bool
    default: Any                # of inserts
    uid: int                    # never used twice
    immutable: bool = False


def first_columns() -> list[ModelColumn]:
    return [ModelColumn("v", "string", True, None, 0), ModelColumn("n", "int32", False, 9, 1),
            ModelColumn("once", "int8", True, None, 2, True)]


_VALUES = {
    "string": lambda rng: rng.choice(["", "text", "x" * rng.randrange(200)]),
    "int32": lambda rng: rng.randrange(-2**31, 2**31), "int8": lambda rng: rng.randrange(-128, 128),
    "int64": lambda rng: rng.randrange(-2**63, 2**63), "double": lambda rng: float(rng.randrange(1000)),
    "bool": lambda rng: rng.random() < 0.5, "binary": lambda rng: bytes(rng.randrange(256) for _ in range(3)),
}


@dataclass
class AlteringModel:
    """rows: by key, cells by the columns' uids. `read_defaults`: what rows without a cell have."""

    keys: list[str] = field(default_factory=lambda: ["a", "b"])
    columns: list[ModelColumn] = field(default_factory=first_columns)
    read_defaults: dict[int, Any] = field(default_factory=dict)
    rows: dict[Key, dict[int, Any]] = field(default_factory=dict)
    snapshots: list[tuple[int, dict[Key, dict[int, Any]]]] = field(default_factory=list)
    refused: int = 0
    next_uid: int = 3
    table_name: str = "table"
    coming: AlteringModel | None = None     # a change under way: a crash leaves the one or the other

    def adopt(self, changed: AlteringModel) -> None:
        """Its columns."""
        self.keys, self.columns, self.read_defaults = changed.keys, changed.columns, changed.read_defaults
        self.next_uid, self.table_name = changed.next_uid, changed.table_name

    def copy(self) -> AlteringModel:
        return replace(self, keys=list(self.keys), columns=list(self.columns), rows=self.frozen_rows(), snapshots=[],
                       read_defaults=dict(self.read_defaults), coming=None)

    def frozen_rows(self) -> dict[Key, dict[int, Any]]:
        return {key: dict(cells) for key, cells in self.rows.items()}

    def schema(self) -> kudu.Schema:
        builder = kudu.schema_builder()
        builder.add_column(self.keys[0], kudu.string, nullable=False)
        builder.add_column(self.keys[1], kudu.int16, nullable=False)
        for column in self.columns:
            builder.add_column(column.name, column.kind, nullable=column.nullable, default=column.default,
                               immutable=column.immutable)
        return builder.set_primary_keys(self.keys).build()

    # -- rows ----------------------------------------------------------------------------------------------------------
    def apply(self, verb: str, key: Key, values: dict[int, Any], columns: list[ModelColumn] | None = None) -> None:
        """`columns`: those that the operation was made for; it is by their names that they are found."""
        there = self.rows.get(key)
        kind, _, ignore = verb.partition("_")
        if kind == "delete":
            if self.rows.pop(key, None) is None:
                self.refused += not ignore
            return
        of = {column.uid: column for column in self.columns}
        values = {uid: value for uid, value in values.items() if uid in of}
        immutable = {uid for uid in values if of[uid].immutable}
        if kind == "update":
            if (immutable and not ignore) or not values.keys() - immutable:
                self.refused += 1
            elif there is None:
                self.refused += not ignore
            else:
                there.update({uid: value for uid, value in values.items() if uid not in immutable})
            return
        missing = any(not c.nullable and c.default is None and c.uid not in values for c in self.columns)
        if missing:
            self.refused += 1
        elif there is None:
            self.rows[key] = {c.uid: values.get(c.uid, c.default) for c in self.columns}
        elif kind == "insert" or (immutable and not ignore):
            self.refused += not ignore
        else:
            there.update({uid: value for uid, value in values.items() if uid not in immutable})

    def tuples(self, rows: dict[Key, dict[int, Any]] | None = None) -> list[tuple[Any, ...]]:
        """In order, with the columns of now."""
        rows = self.rows if rows is None else rows
        return [(*key, *(cells.get(c.uid, self.read_defaults.get(c.uid)) for c in self.columns))
                for key, cells in sorted(rows.items(), key=lambda item: (item[0][0].encode(), item[0][1]))]

    # -- changes -------------------------------------------------------------------------------------------------------
    def fresh_name(self, rng: random.Random) -> str:
        """Often one that was there before."""
        taken = {*self.keys, *(c.name for c in self.columns)}
        names = [name for name in ("v", "n", "once", "w", "x", "y", "z") if name not in taken]
        return rng.choice(names) if names else f"c{self.next_uid}"

    def change(self, alterer: kudu.SchemaAlterer, rng: random.Random) -> None:
        """One random step, noted in the alterer and done here."""
        step = rng.random()
        if step < 0.4 and len(self.columns) < 8:
            self._add(alterer, rng)
        elif step < 0.6 and len(self.columns) > 1:
            gone = rng.choice(self.columns)
            self.columns.remove(gone)
            alterer.drop_column(gone.name)
        elif step < 0.7:
            at, name = rng.randrange(len(self.columns)), self.fresh_name(rng)
            alterer.rename_column(self.columns[at].name, name)
            self.columns[at] = replace(self.columns[at], name=name)
        elif step < 0.75:
            at = rng.randrange(2)
            name = self.keys[at][0] + ("" if len(self.keys[at]) > 1 else "2")
            alterer.alter_column(self.keys[at]).rename(name)
            self.keys[at] = name
        elif step < 0.85:
            at = rng.randrange(len(self.columns))
            column = self.columns[at]
            default = _VALUES[column.kind](rng) if not column.nullable or rng.random() < 0.6 else None
            alterer.alter_column(column.name).default(default)
            self.columns[at] = replace(column, default=default)
        elif step < 0.95:
            column = rng.choice(self.columns)
            alterer.alter_column(column.name).encoding(rng.choice(["plain", "auto"])).compression(
                rng.choice(["none", "lz4", "zlib", "snappy"])).block_size(rng.choice([0, 4096])).comment("a note")
        else:
            self.table_name = f"table{rng.randrange(5)}"
            alterer.rename(self.table_name)

    def _add(self, alterer: kudu.SchemaAlterer, rng: random.Random) -> None:
        kind, nullable = rng.choice(list(_VALUES)), rng.random() < 0.5
        default = _VALUES[kind](rng) if not nullable or rng.random() < 0.4 else None
        column = ModelColumn(self.fresh_name(rng), kind, nullable, default, self.next_uid, rng.random() < 0.1)
        self.next_uid += 1
        alterer.add_column(column.name, kind, nullable=nullable, default=default, immutable=column.immutable)
        self.columns.append(column)
        self.read_defaults[column.uid] = default


def alter(tablet: Tablet, model: AlteringModel, rng: random.Random) -> None:
    """A change of one to three steps. Ids are used once. Others may write while it flushes, with the columns of before:
    the model has its own at once when the tablet has."""
    before = {column.id for column in tablet.schema}
    alterer, changed = tablet.new_table_alterer(), model.copy()
    for _ in range(rng.randrange(1, 4)):
        changed.change(alterer, rng)
    model.coming = changed
    alterer.alter()
    model.coming = None
    model.adopt(changed)
    assert tablet.schema.names == [*model.keys, *(c.name for c in model.columns)]
    assert tablet.table_name == model.table_name
    added = {column.id for column in tablet.schema} - before
    assert not added or min(i for i in added if i is not None) > max(i for i in before if i is not None)


def random_write(model: AlteringModel, rng: random.Random) -> tuple[str, Key, dict[int, Any]]:
    key = rng.choice(["", "a", "a\0", "ab", "é"]), rng.randrange(-3, 4)
    verb, values = rng.choice(VERBS), {}
    if not verb.startswith("delete"):
        for column in model.columns:
            if rng.random() < (0.15 if column.immutable else 0.5):
                null = column.nullable and rng.random() < 0.2
                values[column.uid] = None if null else _VALUES[column.kind](rng)
    return verb, key, values


def apply_write(session: Any, model: AlteringModel, write: tuple[str, Key, dict[int, Any]]) -> None:
    verb, key, values = write
    names = {column.uid: column.name for column in model.columns}
    record = {model.keys[0]: key[0], model.keys[1]: key[1], **{names[uid]: value for uid, value in values.items()}}
    session.apply(getattr(session, f"new_{verb}")(record))
    model.apply(verb, key, values)


def write_some(tablet: Tablet, model: AlteringModel, rng: random.Random, most: int = 12) -> None:
    """One flush, in the tablet and in the model; both must refuse as many rows."""
    session, before, refused = tablet.new_session(), model.refused, 0
    for _ in range(rng.randrange(1, most)):
        apply_write(session, model, random_write(model, rng))
    try:
        session.flush()
    except RowErrors as errors:
        refused = errors.count
    assert refused == model.refused - before


def check_all(tablet: Tablet, model: AlteringModel) -> None:
    """Now, by key, and at every snapshot taken since it was opened: with the columns of now."""
    rows = model.tuples()
    assert tablet.scanner().ordered().open().read_all_tuples() == rows
    assert sorted(tablet.scanner().open().read_all_tuples(), key=_key) == rows
    for at, then in model.snapshots:
        assert tablet.scanner().set_snapshot(at).ordered().open().read_all_tuples() == model.tuples(then)
    by_key = {row[:2]: row for row in rows}
    for a in ("", "a", "a\0"):
        assert tablet.get((a, 1)) == by_key.get((a, 1))


def _key(row: tuple[Any, ...]) -> tuple[bytes, int]:
    return row[0].encode(), row[1]


def impossible_changes(tablet: Tablet) -> None:
    """Changes that are refused leave everything as it is."""
    key = tablet.schema.names[0]
    for note in (lambda a: a.drop_column(key), lambda a: a.drop_column("no such"),
                 lambda a: a.add_column(key, "int8"), lambda a: a.add_column("nn", "int8", nullable=False),
                 lambda a: a.rename_column(key, tablet.schema.names[1])):
        before = tablet.schema
        alterer = tablet.new_table_alterer()
        note(alterer)
        try:
            alterer.alter()
        except InvalidArgument:
            assert tablet.schema is before
        else:
            raise AssertionError("an impossible change was made")
