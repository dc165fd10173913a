"""Inserts with the log on and not synced, and upserts of keys that lie in flushed rowsets: rows a second.

ours       insert_arrow() or upsert_arrow() of a pyarrow.Table, one call
rocksdict  a WriteBatch for each 1,000 rows into its write-ahead log and memtable; keys and values are bytes already
sqlite3    executemany() of tuples in one transaction, WAL, synchronous=OFF
kudu       `kudu perf loadgen`, one client thread, the same rows in the same order; the time that it reports
Processor time is the whole process's, for Kudu the server's alone, so without the client that makes the rows.
"""
from __future__ import annotations

import importlib
import re
import shutil
import sqlite3
import statistics
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import oracle
from real_kudu import FLUSH, NO_MAINTENANCE, Took, clocked, load, processor_seconds, quiet, spread
from restart import COLUMNS, fill
from shapes import loadgen_keys, loadgen_schema, loadgen_table

from kudu_storage import Tablet

BATCH = 1000
UPSERTS = 20_000        # a minute of Kudu's, or less
Part = Callable[[Path], Took]


# -- the sides ---------------------------------------------------------------------------------------------------------
def our_insert(table: Any, folder: Path) -> Took:
    with Tablet.create(folder, loadgen_schema(), durability="os") as tablet:
        return clocked(lambda: tablet.insert_arrow(table))


def rocksdict_insert(pairs: Sequence[tuple[bytes, bytes]], folder: Path) -> Took:
    rocksdict: Any = importlib.import_module("rocksdict")
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(256 << 20)        # all rows in memory, as ours and Kudu's
    database = rocksdict.Rdict(str(folder), options)

    def insert() -> None:
        for at in range(0, len(pairs), BATCH):
            batch = rocksdict.WriteBatch(raw_mode=True)
            put = batch.put
            for key, value in pairs[at:at + BATCH]:
                put(key, value)
            database.write(batch)

    took = clocked(insert)
    database.close()
    return took


def sqlite3_insert(rows: Sequence[tuple[int, int, str]], folder: Path) -> Took:
    folder.mkdir()
    database = sqlite3.connect(folder / "s.db")
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=off")
    database.execute("create table t(key integer primary key, int_val int not null, string_val text)")

    def insert() -> None:
        database.executemany("insert into t values(?, ?, ?)", rows)
        database.commit()

    took = clocked(insert)
    database.close()
    return took


def kudu_writes(cluster: oracle.MiniCluster, work: Callable[[], str]) -> Took:
    [server] = cluster.tservers
    before = processor_seconds(server.pid)
    said = work()
    found = re.search(r"time total\s*: ([\d.]+) ms", said)
    assert found is not None, said
    return Took(float(found[1]) / 1000, processor_seconds(server.pid) - before)


def kudu_insert(cluster: oracle.MiniCluster, rows: int, random_keys: bool, folder: Path) -> Took:
    cluster.create_table(folder.name, COLUMNS, ["key"])
    if random_keys:
        took = kudu_writes(cluster, lambda: fill(cluster, folder.name, rows, 0))
    else:
        took = kudu_writes(cluster, lambda: cluster.loadgen(
            f"--table_name={folder.name}", "--num_threads=1", f"--num_rows_per_thread={rows}", "--use_random_non_pk"))
    cluster.binaries.run("table", "delete", cluster.master_address, folder.name, check=True)
    return took


# -- in turn -----------------------------------------------------------------------------------------------------------
def in_turn(what: str, rows: int, parts: dict[str, Part], folder: Path, rounds: int) -> None:
    took: dict[str, list[Took]] = {name: [] for name in parts}
    for number in range(rounds):
        for name in parts if number % 2 else reversed(parts):
            place = folder / f"{name}{number}"
            took[name].append(parts[name](place))
            shutil.rmtree(place, ignore_errors=True)
    print(f"{what}, {load()}")
    for name in parts:
        pairs = list(zip(took["ours"], took[name], strict=True))
        ratios = "" if name == "ours" else (
            f"   ours / {name}: {spread([b.real_s / a.real_s for a, b in pairs])} clock   "
            f"{spread([b.cpu_s / a.cpu_s for a, b in pairs])} processor")
        print(f"  {name:10} {rows / statistics.median(t.real_s for t in took[name]):12,.0f} rows/s by the clock "
              f"{rows / statistics.median(t.cpu_s for t in took[name]):12,.0f} of processor{ratios}", flush=True)


def inserts(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    with oracle.MiniCluster(binaries, folder / "cluster", tserver_flags=NO_MAINTENANCE) as cluster:
        for random_keys in (False, True):
            table = loadgen_table(loadgen_keys(rows) if random_keys else list(range(rows)))
            tuples = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
            pairs = [(struct.pack(">q", key), struct.pack("<i", number) + text.encode())
                     for key, number, text in tuples]
            in_turn(f"insert, {'random' if random_keys else 'growing'} keys", rows, {
                "ours": lambda place, table=table: our_insert(table, place),
                "rocksdict": lambda place, pairs=pairs: rocksdict_insert(pairs, place),
                "sqlite3": lambda place, tuples=tuples: sqlite3_insert(tuples, place),
                "kudu": lambda place, random_keys=random_keys: kudu_insert(cluster, rows, random_keys, place),
            }, folder, rounds)


def upserts(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    table = loadgen_table(loadgen_keys(rows))
    again = table.slice(0, UPSERTS)
    cluster = oracle.MiniCluster(binaries, folder / "cluster", tserver_flags=FLUSH)
    [server] = cluster.tservers
    with cluster, Tablet.create(folder / "ours", loadgen_schema(), durability="os") as tablet:
        tablet.insert_arrow(table)
        tablet.flush()
        cluster.create_table("upserts", COLUMNS, ["key"])
        fill(cluster, "upserts", rows, 0)
        quiet(server, "FlushMRSOp", 1)
        server.stop()
        server.flags = list(NO_MAINTENANCE)
        cluster.start()
        cluster.wait_healthy()
        in_turn(f"upsert of {UPSERTS} of {rows} flushed rows, random keys", UPSERTS, {
            "ours": lambda place: clocked(lambda: tablet.upsert_arrow(again)),
            "kudu": lambda place: kudu_writes(cluster, lambda: fill(cluster, "upserts", UPSERTS, 0, "--use_upsert")),
        }, folder, rounds)
        assert tablet.count() == rows
