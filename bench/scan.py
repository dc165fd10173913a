"""A million flushed rows of a real tablet server into Arrow, in this process, in turn with Kudu, pyarrow and DuckDB.

    python bench/scan.py [--rows N] [--rounds N] [--folder DIR]

`kudu perf loadgen` fills a table of one tablet (INT64 key, INT32, STRING of 32 characters) and a second, wide one of
twenty columns; its server flushes them and goes on without maintenance. Then, in turn, with files in the page cache and
our block cache warm:
  ours       all columns of the very files that the server has open, into a pyarrow.Table (its own Arrow memory)
  kudu       `kudu perf table_scan`: rows a second as it tells them, of client and server together
  parquet    pyarrow.parquet.read_table of the same rows, LZ4
  duckdb     SELECT * of the same rows from a database file into a pyarrow.Table, where duckdb can be imported
Ratios are formed within a round: their time over ours, by the clock, and by processor time: of this process, and for
Kudu of its server alone, so without what the client spends on taking the rows. With one thread each, and with as many
as there are processors; all columns, and one. Then scans with predicates that leave one row in a hundred: a range of
keys, and numbers here and there.
"""
from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import oracle
import pyarrow
import pyarrow.parquet

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.predicates import Column
from kudu_storage.tablet.scanning import TabletScan

MIB = 1 << 20
NARROW, WIDE = "narrow", "wide"
FLUSH = ("--flush_threshold_secs=1", "--flush_threshold_mb=64", "--maintenance_manager_polling_interval_ms=100",
         "--enable_rowset_compaction=false")
QUIET_SECONDS = 5.0


@dataclass
class Table:
    """One table's flushed rowsets, and the same rows elsewhere."""

    name: str
    rowsets: list[DiskRowSet]
    schema: Any
    parquet: Path
    duckdb: Any

    def ours(self, columns: Sequence[str] | None, threads: int, **more: Any) -> pyarrow.Table:
        return pyarrow.table(TabletScan(self.rowsets, [], self.schema, Snapshot.everything(), columns=columns,
                                        threads=threads, **more))


def filled(cluster: oracle.MiniCluster, name: str, columns: int, rows: int) -> None:
    specs = [{"column_name": "key", "column_type": "INT64"}, {"column_name": "int_val", "column_type": "INT32"},
             {"column_name": "string_val", "column_type": "STRING"}]
    specs += [{"column_name": f"more_{i}", "column_type": "STRING" if i % 4 == 3 else "INT64"}
              for i in range(columns - 3)]
    cluster.create_table(name, specs, ["key"])
    cluster.loadgen(f"--table_name={name}", "--num_threads=1", f"--num_rows_per_thread={rows}",
                    "--use_random_non_pk=true")


def flushed(server: oracle.Server) -> None:
    """Until no flush has ended for a while: the log tells of each."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        ended = server.log_text().count("FlushMRSOp")
        if ended != seen:
            seen, since = ended, time.monotonic()
        time.sleep(0.2)


def opened(root: Path, tablet: str, name: str, folder: Path) -> Table:
    superblock = read_superblock(root / "tablet-meta" / tablet)
    blocks = open_block_manager([root], read_only=True)
    cache = BlockCache(2048 * MIB)
    rowsets = [DiskRowSet.open(message, blocks, superblock.schema, cache=cache)
               for message in superblock.message.rowsets]
    table = Table(name, rowsets, superblock.schema, folder / f"{name}.parquet", None)
    whole = table.ours(None, 1)
    pyarrow.parquet.write_table(whole, table.parquet, compression="lz4")
    try:
        import duckdb
    except ImportError:
        return table
    (folder / f"{name}.duckdb").unlink(missing_ok=True)
    table.duckdb = duckdb.connect(str(folder / f"{name}.duckdb"))
    table.duckdb.execute(f"CREATE TABLE {name} AS SELECT * FROM whole; CHECKPOINT")
    return table


# -- one measurement ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Took:
    real_s: float
    cpu_s: float


def timed(work: Callable[[], Any], rows: int) -> Took:
    cpu, real = time.process_time(), time.perf_counter()
    result = work()
    took = Took(time.perf_counter() - real, time.process_time() - cpu)
    assert result.num_rows == rows, f"{result.num_rows} rows"
    return took


def processor_seconds(pid: int) -> float:
    """Of another process, by its own clock: what clock_getcpuclockid() gives on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


def kudu_scan(cluster: oracle.MiniCluster, table: str, rows: int, columns: Sequence[str] | None) -> Took:
    more = [f"--columns={','.join(columns)}"] if columns else []
    [server] = cluster.tservers
    before = processor_seconds(server.pid)
    said = cluster.binaries.run("perf", "table_scan", cluster.master_address, table, "--num_threads=1", *more,
                                check=True).stdout
    found = re.search(r"Total count (\d+) cost ([\d.]+) seconds", said)
    assert found is not None and int(found[1]) == rows, said
    return Took(float(found[2]), processor_seconds(server.pid) - before)


def duck(table: Table, columns: Sequence[str] | None, threads: int) -> pyarrow.Table:
    table.duckdb.execute(f"SET threads = {threads}")
    return table.duckdb.sql(f"SELECT {', '.join(columns) if columns else '*'} FROM {table.name}").to_arrow_table()


def compare(table: Table, rows: int, rounds: int, columns: Sequence[str] | None, threads: int,
            kudu: Callable[[], Took] | None) -> None:
    """Scans of all rows."""
    parts: dict[str, Callable[[], Took]] = {
        "ours": lambda: timed(lambda: table.ours(columns, threads), rows),
        "parquet": lambda: timed(lambda: pyarrow.parquet.read_table(
            table.parquet, columns=columns and list(columns), use_threads=threads > 1), rows),
    }
    if table.duckdb is not None:
        parts["duckdb"] = lambda: timed(lambda: duck(table, columns, threads), rows)
    if kudu is not None:
        parts["kudu"] = kudu
    what = f"{table.name}, {'all columns' if columns is None else ','.join(columns)}, {threads} threads"
    in_turn(what, parts, rounds)


def compare_selective(table: Table, rows: int, rounds: int) -> None:
    """Scans with predicates, all columns, one thread."""
    key, number = (Column(table.schema.columns[table.schema.find(name)]) for name in ("key", "int_val"))
    first, end, below = rows // 2, rows // 2 + rows // 100, (1 << 31) // 100
    for what, predicates, filters, where in (
            ("1 % of keys", [key >= first, key < end], [("key", ">=", first), ("key", "<", end)],
             f"key >= {first} AND key < {end}"),
            ("int_val below its 1 %", [number < below], [("int_val", "<", below)], f"int_val < {below}")):
        found = table.ours(None, 1, predicates=predicates).num_rows
        parts: dict[str, Callable[[], Took]] = {
            "ours": lambda predicates=predicates, found=found: timed(
                lambda: table.ours(None, 1, predicates=predicates), found),
            "parquet": lambda filters=filters, found=found: timed(
                lambda: pyarrow.parquet.read_table(table.parquet, filters=filters, use_threads=False), found)}
        if table.duckdb is not None:
            table.duckdb.execute("SET threads = 1")
            parts["duckdb"] = lambda where=where, found=found: timed(
                lambda: table.duckdb.sql(f"SELECT * FROM {table.name} WHERE {where}").to_arrow_table(), found)
        in_turn(f"{table.name}, {what}: {found} rows", parts, rounds)


def in_turn(what: str, parts: dict[str, Callable[[], Took]], rounds: int) -> None:
    took: dict[str, list[Took]] = {name: [] for name in parts}
    for name in parts:      # warm
        parts[name]()
    for number in range(rounds):
        for name in parts if number % 2 else reversed(parts):
            took[name].append(parts[name]())
    print(f"{what}: ours {statistics.median(t.real_s for t in took['ours']) * 1000:.1f} ms")
    for name in parts:
        if name != "ours":
            pairs = list(zip(took[name], took["ours"], strict=True))
            print(f"  x {name:8} {spread([other.real_s / ours.real_s for other, ours in pairs])} clock"
                  f"   {spread([other.cpu_s / ours.cpu_s for other, ours in pairs])} processor")


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


# -- the run -----------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="kept, and used again")
    given = parser.parse_args()
    binaries = oracle.find_kudu()
    if binaries is None:
        sys.exit(f"the real Kudu is not here: {oracle.HOW_TO_GET}")
    with tempfile.TemporaryDirectory() as made:
        run(binaries, given.folder or Path(made), given.rows, given.rounds)


def run(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cluster = oracle.MiniCluster(binaries, folder, tserver_flags=FLUSH)
    [server] = cluster.tservers
    kept = server.root.exists()
    try:
        if not kept:
            cluster.start()
            filled(cluster, NARROW, 3, rows)
            filled(cluster, WIDE, 20, rows // 4)
            flushed(server)
            server.stop()
        server.flags = ["--enable_maintenance_manager=false"]
        cluster.start()
        cluster.wait_healthy()
        for name, count in ((NARROW, rows), (WIDE, rows // 4)):
            [tablet] = cluster.tablet_ids(name)
            table = opened(server.root, tablet, name, folder)
            print(f"{name}: {len(table.rowsets)} rowsets, {sum(r.row_count for r in table.rowsets)} rows flushed")
            for threads in (1, os.cpu_count() or 1):
                for columns in (None, ["int_val"], ["string_val"]):
                    kudu = None if threads > 1 else lambda name=name, count=count, columns=columns: kudu_scan(
                        cluster, name, count, columns)
                    compare(table, count, rounds, columns, threads, kudu)
            if name == NARROW:
                compare_selective(table, count, rounds)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
