"""A tablet of a real server, a million rows flushed and 64 MiB of log to replay, opened by both from copies of it.

Kudu's time is its log line "Time spent bootstrapping tablet": the bootstrap's one thread, without the server's start.
Ours is Tablet.open(), the whole process's.
"""
from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import oracle
from make_log import used_bytes
from real_kudu import FLUSH, MIB, NO_MAINTENANCE, Took, clocked, load, quiet, spread
from replicas import copied, serving

from kudu_storage import Tablet

TABLE = "restart"
LOG_BYTES = 64 * MIB
PIECE = 100_000
COLUMNS = [{"column_name": "key", "column_type": "INT64"}, {"column_name": "int_val", "column_type": "INT32"},
           {"column_name": "string_val", "column_type": "STRING"}]


def fill(cluster: oracle.MiniCluster, table: str, rows: int, seed: int, *more: str) -> str:
    """Random keys and cells, by one client thread; the seed decides which."""
    return cluster.loadgen(f"--table_name={table}", "--num_threads=1", f"--num_rows_per_thread={rows}",
                           "--use_random_pk", "--use_random_non_pk", f"--seq_start={seed}", *more)


def made(binaries: oracle.KuduBinaries, folder: Path, rows: int) -> tuple[Path, str, int]:
    """The server's root after a kill, the tablet, and how many rows are in it."""
    cluster = oracle.MiniCluster(binaries, folder, tserver_flags=FLUSH)
    [server] = cluster.tservers
    with cluster:
        cluster.create_table(TABLE, COLUMNS, ["key"])
        fill(cluster, TABLE, rows, 0)
        quiet(server, "FlushMRSOp", 1)
        [tablet] = cluster.tablet_ids(TABLE)
        server.stop()
        server.flags = list(NO_MAINTENANCE)
        cluster.start()
        cluster.wait_healthy()
        wals, count = server.root / "wals" / tablet, rows
        before = log_bytes(wals)
        while log_bytes(wals) - before < LOG_BYTES:
            fill(cluster, TABLE, PIECE, count)
            count += PIECE
        server.kill()
        print(f"{rows} rows flushed, {count - rows} in {(log_bytes(wals) - before) / MIB:.0f} MiB of log")
    return server.root, tablet, count


def log_bytes(wals: Path) -> int:
    return sum(used_bytes(path) for path in wals.glob("wal-*"))


def ours(source: Path, folder: Path, count: int) -> Took:
    root = copied(source, folder)
    opened: list[Tablet] = []
    took = clocked(lambda: opened.append(Tablet.open(root)))
    with opened[0] as tablet:
        assert tablet.count() == count, f"{tablet.count()} rows"
    shutil.rmtree(folder)
    return took


def theirs(binaries: oracle.KuduBinaries, source: Path, folder: Path, tablet: str) -> Took:
    copied(source, folder)
    with serving(binaries, folder, NO_MAINTENANCE) as server:
        log = oracle.ReplicaServer(binaries, server).bootstrap(tablet)
    assert log.complete and log.real_s is not None and log.user_s is not None and log.sys_s is not None, log.failure
    shutil.rmtree(folder)
    return Took(log.real_s, log.user_s + log.sys_s)


def run(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    source, tablet, count = made(binaries, folder / "made", rows)
    mine: list[Took] = []
    kudu: list[Took] = []
    for number in range(rounds):
        for side in ("ours", "kudu") if number % 2 else ("kudu", "ours"):
            if side == "ours":
                mine.append(ours(source, folder / side, count))
            else:
                kudu.append(theirs(binaries, source, folder / side, tablet))
    pairs = list(zip(mine, kudu, strict=True))
    print(f"restart, {load()}: ours {statistics.median(t.real_s for t in mine):.2f} s, "
          f"Kudu {statistics.median(t.real_s for t in kudu):.2f} s\n"
          f"  time, ours over Kudu's: {spread([a.real_s / b.real_s for a, b in pairs])} clock   "
          f"{spread([a.cpu_s / b.cpu_s for a, b in pairs])} processor", flush=True)
