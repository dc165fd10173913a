"""A Tablet on disk: flush, upserts of flushed rows, compaction, reads by key and reopening, in rows a second.

    python bench/tablet_disk.py [--rows 300000] [--rounds 3] [--folder DIR]

Times are processor time of the process (its threads too), the best and the worst of all rounds. Keys are 64-bit
numbers in random order; the log is written and not synced.
"""
from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow

import kudu_storage.client as kudu
from kudu_storage import Tablet

READS = 5_000


def schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    builder.add_column("int_val", kudu.int32, nullable=False)
    builder.add_column("string_val", kudu.string)
    return builder.build()


def table_of(keys: list[int]) -> Any:
    return pyarrow.table({"key": pyarrow.array(keys, pyarrow.int64()),
                          "int_val": pyarrow.array(range(len(keys)), pyarrow.int32()),
                          "string_val": pyarrow.array([f"string {key}" for key in keys])})


def round_of(folder: Path, count: int) -> dict[str, float]:
    """Rows a second, by step."""
    found: dict[str, float] = {}

    def measure(step: str, rows: int, work: Callable[[], object]) -> None:
        start = time.process_time()
        work()
        found[step] = rows / (time.process_time() - start)

    rng = random.Random(count)
    keys = list(range(count))
    rng.shuffle(keys)
    first = table_of(keys)
    rng.shuffle(keys)
    second = table_of(keys)
    with Tablet.create(folder / "t", schema(), durability="os") as tablet:
        measure("insert from Arrow", count, lambda: tablet.insert_arrow(first))
        measure("flush of rows", count, tablet.flush)
        measure("scan into Arrow", count, lambda: tablet.scanner().to_arrow())
        measure("upsert of flushed rows", count, lambda: tablet.upsert_arrow(second))
        measure("flush of changes", count, tablet.flush)
        measure("scan with changes", count, lambda: tablet.scanner().to_arrow())
        measure("compaction", count, tablet.compact)
        measure("reads by key", READS, lambda: [tablet.get(rng.randrange(count)) for _ in range(READS)])
    measure("opening again", count, lambda: Tablet.open(folder / "t").close())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    rounds = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            rounds.append(round_of(Path(folder), given.rows))
    for step in rounds[0]:
        speeds = sorted(found[step] for found in rounds)
        print(f"{step:24} {speeds[-1]:12,.0f} rows/s   {speeds[0]:12,.0f}")


if __name__ == "__main__":
    main()
