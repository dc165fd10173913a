"""Random histories of a small tablet against a plain dict: what each verb does, by the rules alone."""
from __future__ import annotations

import random
from typing import Any

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.errors import RowErrors

VERBS = ("insert", "upsert", "update", "delete", "insert_ignore", "upsert_ignore", "update_ignore", "delete_ignore")
Rows = dict[tuple[str, int], tuple[Any, ...]]
Operation = tuple[str, dict[str, Any]]


def model_schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("a", kudu.string, nullable=False)
    builder.add_column("b", kudu.int16, nullable=False)
    builder.add_column("v", kudu.string)
    builder.add_column("n", kudu.int32, nullable=False, default=9)
    builder.add_column("once", kudu.int8, immutable=True)
    return builder.set_primary_keys(["a", "b"]).build()


class Model:
    """The rows, and every state that a snapshot was taken of."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.refused = 0
        self.snapshots: list[tuple[int, Rows]] = []

    def copy(self) -> Model:
        other = Model()
        other.rows = dict(self.rows)
        return other

    def apply(self, verb: str, record: dict[str, Any]) -> None:
        """`refused` counts what a server would refuse."""
        key = (record["a"], record["b"])
        kind, _, ignore = verb.partition("_")
        there = self.rows.get(key)
        changes = {name: value for name, value in record.items() if name not in ("a", "b")}
        if kind == "delete":
            if self.rows.pop(key, None) is None:
                self.refused += not ignore
            return
        if kind == "update":
            if ("once" in changes and not ignore) or not changes.keys() - {"once"}:
                self.refused += 1
            elif there is None:
                self.refused += not ignore
            else:
                self._change(key, changes)
            return
        if there is None:
            self.rows[key] = (*key, changes.get("v"), changes.get("n", 9), changes.get("once"))
        elif kind == "insert" or ("once" in changes and not ignore):
            self.refused += not ignore
        else:
            self._change(key, changes)

    def _change(self, key: tuple[str, int], changes: dict[str, Any]) -> None:
        a, b, v, n, once = self.rows[key]
        self.rows[key] = (a, b, changes.get("v", v), changes.get("n", n), once)

    def sorted(self) -> list[tuple[Any, ...]]:
        return in_order(self.rows)


def in_order(rows: Rows) -> list[tuple[Any, ...]]:
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0].encode(), key[1]))]


def _key(row: tuple[Any, ...]) -> tuple[bytes, int]:
    return row[0].encode(), row[1]


def random_operation(rng: random.Random) -> Operation:
    verb = rng.choice(VERBS)
    record: dict[str, Any] = {"a": rng.choice(["", "a", "a\0", "ab", "é"]), "b": rng.randrange(-3, 4)}
    if not verb.startswith("delete"):
        if rng.random() < 0.7:
            record["v"] = rng.choice([None, "", "text", "x" * rng.randrange(300)])
        if rng.random() < 0.5:
            record["n"] = rng.randrange(-2**31, 2**31)
        if rng.random() < 0.2:
            record["once"] = rng.choice([None, 1])
    return verb, record


def write_batch(tablet: Tablet, model: Model, operations: list[Operation]) -> None:
    """One flush, in the tablet and in the model; both must refuse as many rows."""
    session = tablet.new_session()
    before = model.refused
    for verb, record in operations:
        session.apply(getattr(session, f"new_{verb}")(record))
        model.apply(verb, record)
    refused = 0
    try:
        session.flush()
    except RowErrors as errors:
        refused = errors.count
    assert refused == model.refused - before


def check_rows(tablet: Tablet, model: Model) -> None:
    """Now, by key, and at every snapshot taken since it was opened."""
    assert tablet.scanner().ordered().open().read_all_tuples() == model.sorted()
    assert sorted(tablet.scanner().open().read_all_tuples(), key=_key) == model.sorted()
    for at, rows in model.snapshots:
        assert tablet.scanner().set_snapshot(at).ordered().open().read_all_tuples() == in_order(rows)
    for a in ("", "a", "a\0"):
        assert tablet.get((a, 1)) == model.rows.get((a, 1))
