"""Make a write-ahead log with the real Kudu server, for benchmarks: one tablet, one replica, nothing flushed.

    python bench/make_log.py --kind loadgen --rows 1000000 --out DIR

`loadgen` writes as bulk loaders do, thousands of rows an operation; `single` one row an operation, which makes two
small log entries a row. The server is killed (SIGKILL) once all rows are acknowledged and their checksum is known, so
the last segment has no footer. DIR gets `wals/`, `consensus-meta/`, `tablet-meta/`, `instance` and `meta.json`, which
says what is in them: any replay must arrive at `rows` and `checksum`.

Needs the real Kudu (`.ci/fetch-kudu`). Never writes into an existing DIR.
"""
from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import oracle

TABLE = "bench"
SINGLE_WRITERS = 16  # one row in flight each; the server groups what is in flight into its appends
NO_FLUSH = ("--enable_maintenance_manager=false", "--memory_limit_hard_bytes=8589934592")


def main() -> None:
    arguments = _parse()
    binaries = oracle.find_kudu()
    if binaries is None:
        sys.exit(f"the real Kudu is not here: {oracle.HOW_TO_GET}")
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists; remove it or name another folder")
    with tempfile.TemporaryDirectory(prefix="make-log.", dir=arguments.work) as work:
        meta = make(binaries, Path(work), arguments)
    print(json.dumps(meta, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a log with the real Kudu server.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kind", choices=("loadgen", "single"), default="loadgen")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--codec", choices=("lz4", "snappy", "zlib", "no_compression"), default="lz4")
    parser.add_argument("--string-columns", type=int, default=1, metavar="N")
    parser.add_argument("--string-len", type=int, default=32, metavar="BYTES", help="length of each row's string")
    parser.add_argument("--random-values", action="store_true",
                        help="random cells beside the keys; they compress badly")
    parser.add_argument("--work", type=Path, default=None, metavar="DIR", help="where the server lives meanwhile")
    return parser.parse_args()


def make(binaries: oracle.KuduBinaries, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the server, fill the table, kill the server, copy the replica out; returns what meta.json holds."""
    flags = [*NO_FLUSH, f"--log_compression_codec={arguments.codec}"]
    with oracle.MiniCluster(binaries, work, tserver_flags=flags) as cluster:
        cluster.create_table(TABLE, columns(arguments.string_columns), ["key"])
        started = time.monotonic()
        cluster.loadgen(*load_flags(arguments))
        load_seconds = time.monotonic() - started
        (tablet_id, checksum), = cluster.checksums().items()
        schema = cluster.describe(TABLE)
        rows = _count_rows(cluster)
        cluster.kill()
        root = cluster.tservers[0].root
        meta = {
            "kind": arguments.kind, "rows": rows, "checksum": checksum, "codec": arguments.codec,
            "table": TABLE, "tablet_id": tablet_id, "tserver_uuid": cluster.tservers[0].uuid, "schema": schema,
            "string_columns": arguments.string_columns, "string_len": arguments.string_len,
            "random_values": arguments.random_values, "kudu_version": oracle.VERSION,
            "load_seconds": round(load_seconds, 1), **log_sizes(root / "wals" / tablet_id),
        }
        if rows != arguments.rows:
            raise oracle.OracleError(f"asked for {arguments.rows} rows, the table has {rows}")
        copy_out(root, arguments.out, meta)
    return meta


def columns(string_count: int) -> list[dict[str, str]]:
    """What `kudu perf loadgen` makes itself, with as many strings as asked for; it fills any table it is given."""
    strings = ["string_val"] if string_count == 1 else [f"string_val_{number}" for number in range(1, string_count + 1)]
    typed = [("key", "INT64"), ("int_val", "INT32"), *((name, "STRING") for name in strings)]
    return [{"column_name": name, "column_type": kind} for name, kind in typed]


def load_flags(arguments: argparse.Namespace) -> list[str]:
    threads = SINGLE_WRITERS if arguments.kind == "single" else 1
    if arguments.rows % threads:
        raise SystemExit(f"--rows must be a multiple of {threads} for --kind {arguments.kind}")
    flags = [f"-table_name={TABLE}", f"-num_threads={threads}", f"-num_rows_per_thread={arguments.rows // threads}",
             f"-string_len={arguments.string_len}", "-show_first_n_errors=1"]
    if arguments.kind == "single":
        flags.append("-flush_per_n_rows=1")
    if arguments.random_values:
        flags.append("-use_random_non_pk")
    return flags


def _count_rows(cluster: oracle.MiniCluster) -> int:
    """By a scan of every row, not by the server's live row count."""
    done = cluster.binaries.run("perf", "table_scan", cluster.master_address, TABLE, "-columns=key",
                                timeout_s=600, check=True)
    found = re.search(r"Total count (\d+)", done.stdout)
    if found is None:
        raise oracle.OracleError(f"no row count in:\n{done.stdout}")
    return int(found[1])


def log_sizes(segments: Path) -> dict[str, Any]:
    """Bytes of the segments; the preallocated zero tail of the last one is not counted."""
    paths = sorted(segments.glob("wal-*"))
    return {"segments": len(paths), "log_bytes": sum(used_bytes(path) for path in paths),
            "file_bytes": sum(path.stat().st_size for path in paths)}


def used_bytes(path: Path) -> int:
    """File size without trailing zeros. The last entry may itself end in zeros, so this may be a few bytes short."""
    chunk = 1 << 20
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end > 0:
            start = max(0, end - chunk)
            file.seek(start)
            kept = len(file.read(end - start).rstrip(b"\0"))
            if kept:
                return start + kept
            end = start
    return 0


def copy_out(root: Path, out: Path, meta: dict[str, Any]) -> None:
    """All or nothing: DIR appears when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        tablet_id = meta["tablet_id"]
        shutil.copytree(root / "wals" / tablet_id, staging / "wals" / tablet_id,
                        ignore=shutil.ignore_patterns(".kudutmp*"))
        for part in ("consensus-meta", "tablet-meta"):
            (staging / part).mkdir()
            shutil.copy2(root / part / tablet_id, staging / part / tablet_id)
        shutil.copy2(root / "instance", staging / "instance")
        (staging / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        staging.chmod(0o755)
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


if __name__ == "__main__":
    main()
