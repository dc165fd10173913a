"""Inserts from Arrow into a Tablet against sqlite3's executemany, and reads by key: rows a second, ratios with spread.

    python bench/tablet_writes.py [--rows 500000] [--rounds 5] [--random] [--durability os]

Both take turns in one process; sqlite3 runs with journal_mode=WAL and synchronous=OFF where the log does not sync,
else synchronous=FULL. Times are processor time of the process (its threads too) unless --wall.
"""
from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow

import kudu_storage.client as kudu
from kudu_storage import Tablet

READS = 20_000


def schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    builder.add_column("int_val", kudu.int32, nullable=False)
    builder.add_column("string_val", kudu.string)
    return builder.build()


def clocked(clock: Callable[[], float], work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def round_of(folder: Path, rows: list[tuple[int, int, str]], table: Any, durability: str,
             clock: Callable[[], float]) -> dict[str, float]:
    found = {}
    keys = [row[0] for row in rows[:READS]]
    with Tablet.create(folder / "t", schema(), durability=durability) as tablet:
        found["ours insert"] = len(rows) / clocked(clock, lambda: tablet.insert_arrow(table))
        found["ours get"] = len(keys) / clocked(clock, lambda: [tablet.get(key) for key in keys])
        found["ours scan to Arrow"] = len(rows) / clocked(clock, lambda: tablet.scanner().to_arrow())
        assert tablet.count() == len(rows)
    with sqlite3.connect(folder / "s.db") as database:
        database.execute("pragma journal_mode=wal")
        database.execute(f"pragma synchronous={'full' if durability == 'fsync' else 'off'}")
        database.execute("create table t(key integer primary key, int_val int not null, string_val text)")

        def insert() -> None:
            database.executemany("insert into t values(?, ?, ?)", rows)
            database.commit()

        found["sqlite3 insert"] = len(rows) / clocked(clock, insert)
        select = "select * from t where key = ?"
        found["sqlite3 get"] = len(keys) / clocked(
            clock, lambda: [database.execute(select, (key,)).fetchone() for key in keys])
    database.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", action="store_true", help="keys in random order")
    parser.add_argument("--durability", default="os")
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    keys = list(range(options.rows))
    if options.random:
        random.Random(1).shuffle(keys)
    rows = [(key, key & 0x7FFFFFFF, f"string value {key}") for key in keys]
    table = pyarrow.table({"key": pyarrow.array(keys, pyarrow.int64()), "string_val": [row[2] for row in rows],
                           "int_val": pyarrow.array([row[1] for row in rows], pyarrow.int32())})
    clock = time.perf_counter if options.wall else time.process_time
    rounds = []
    for _ in range(options.rounds):
        folder = Path(tempfile.mkdtemp())
        rounds.append(round_of(folder, rows, table, options.durability, clock))
        shutil.rmtree(folder)
    for name in rounds[0]:
        rates = [one[name] for one in rounds]
        print(f"{name:20} {statistics.median(rates):12,.0f} rows/s   ({min(rates):,.0f} to {max(rates):,.0f})")
    for what in ("insert", "get"):
        ratios = [one[f"ours {what}"] / one[f"sqlite3 {what}"] for one in rounds]
        print(f"{what}: ours / sqlite3 = {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
