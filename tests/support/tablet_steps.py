"""Steps of a tablet's maintenance, by name, each on something that a random generator picks."""
from __future__ import annotations

import random
from collections.abc import Callable

from kudu_storage import Tablet


def rowset_ids(tablet: Tablet) -> list[int]:
    return [rowset["id"] for rowset in tablet.stats()["layout"]]


def some_rowset(tablet: Tablet, rng: random.Random) -> int:
    ids = rowset_ids(tablet)
    return rng.choice(ids) if ids else 0


def major(tablet: Tablet, rng: random.Random) -> None:
    columns = [column.id for column in tablet.schema if not column.is_key]
    tablet.maintenance.compact_columns(some_rowset(tablet, rng),
                                       rng.sample(columns, rng.randrange(1, len(columns) + 1)))  # type: ignore[arg-type]


def minor(tablet: Tablet, rng: random.Random) -> None:
    rowset = tablet._store.view.rowset(some_rowset(tablet, rng))
    files = [] if rowset is None else [delta.block.id for delta in rowset.disk.message.redo_deltas]
    if len(files) >= 2:
        first = rng.randrange(len(files) - 1)
        assert rowset is not None
        tablet.maintenance.compact_redos(rowset.id, files[first:rng.randrange(first + 2, len(files) + 1)])


def merge(tablet: Tablet, rng: random.Random) -> None:
    ids = rowset_ids(tablet)
    if ids:
        tablet.maintenance.merge(rng.sample(ids, rng.randrange(1, len(ids) + 1)))


def forget(tablet: Tablet, rng: random.Random) -> None:
    for rowset_id in rowset_ids(tablet):
        tablet.maintenance.forget_rowset(rowset_id)
        tablet.maintenance.forget_undos(rowset_id)


STEPS: dict[str, Callable[[Tablet, random.Random], object]] = {
    "flush": lambda tablet, _: tablet.maintenance.flush_memory(),
    "flush deltas": lambda tablet, rng: tablet.maintenance.flush_deltas(some_rowset(tablet, rng)),
    "flush all": lambda tablet, _: tablet.flush(),
    "minor": minor, "major": major, "merge": merge, "forget": forget,
    "compact": lambda tablet, _: tablet.compact(),
    "gc": lambda tablet, _: tablet.log.gc(),
}
