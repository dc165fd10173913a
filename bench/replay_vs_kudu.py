"""Replay one log in the real Kudu and in kudu-storage, in turn, and print the ratios.

    python bench/replay_vs_kudu.py DIR [DIR ...] --rounds 7 --json FILE

DIR comes from `make_log.py`. A round runs both; which goes first changes from round to round, so that a machine that
gets slower or faster in the meantime weighs on both alike.

Kudu's time is its tablet server's own log line, "Time spent bootstrapping tablet: real .. user .. sys ..": the
bootstrap's one thread, without the server's start and without its log appender's thread. Ours is the whole process:
interpreter start, imports, replay, checksum, report. Both choices favour Kudu. The CPU of Kudu's whole process is shown
beside it.

A round counts only if both arrive at the rows of `meta.json` and ours at its checksum; otherwise nothing is reported
and the exit code is 1. Needs the real Kudu (`.ci/fetch-kudu`); `--only kudu` and `--only ours` run one side.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import oracle

REPOSITORY = Path(__file__).resolve().parents[1]
MIB = 1 << 20
ALLOWANCE_BYTES = 64 * MIB  # memory that does not grow with the rows


class Mismatch(Exception):
    """A replay ended with other rows than the log holds: its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replay by one system. `process_cpu_s` is the whole process, `cpu_s` what is compared."""

    wall_s: float
    cpu_s: float
    process_cpu_s: float
    peak_rss_bytes: int
    inner_s: float  # ours: `seconds` of the report; Kudu: between its two log lines


def main() -> None:
    arguments = _parse()
    binaries = oracle.find_kudu()
    if binaries is None and arguments.only != "ours":
        sys.exit(f"the real Kudu is not here: {oracle.HOW_TO_GET}")
    results = []
    for directory in arguments.directories:
        try:
            results.append(compare(binaries, directory, arguments))
        except Mismatch as mismatch:
            sys.exit(f"{directory}: {mismatch}; no figures")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "logs": results}, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replay logs in the real Kudu and in kudu-storage, interleaved.")
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("kudu", "ours"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every value and ratio there")
    parser.add_argument("--work", type=Path, default=None, metavar="DIR",
                        help="where Kudu's copies go; best on the disk that DIR is on")
    return parser.parse_args()


def compare(binaries: oracle.KuduBinaries | None, directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    meta = json.loads((directory / "meta.json").read_text())
    print(f"{directory.name}: {meta['rows']:,} rows, {meta['log_bytes'] / MIB:.0f} MiB {meta['codec']}, "
          f"{meta['segments']} segments; rows in memory {rows_bytes(meta) / MIB:.0f} MiB", flush=True)
    sides = [side for side in ("kudu", "ours") if arguments.only in (None, side)]
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(arguments.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            run = run_kudu(_required(binaries), directory, meta, arguments.work) if side == "kudu" else \
                run_ours(directory, meta)
            runs[side].append(run)
            print(f"  round {number + 1} {side:<5} {describe(run)}  load {os.getloadavg()[0]:.1f}", flush=True)
    summary = summarize(runs, meta)
    for name, value in summary.items():
        print(f"  {name:<34} median {value['median']:.3g}  ({value['min']:.3g} .. {value['max']:.3g})")
    return {"log": directory.name, "meta": meta, "summary": summary,
            "runs": {side: [asdict(run) for run in values] for side, values in runs.items()}}


def _required(binaries: oracle.KuduBinaries | None) -> oracle.KuduBinaries:
    assert binaries is not None
    return binaries


def run_kudu(binaries: oracle.KuduBinaries, directory: Path, meta: dict[str, Any], work: Path | None) -> Run:
    """A tablet server with Kudu's defaults on a fresh copy; maintenance is off so that no flush shares its CPU."""
    with (
        tempfile.TemporaryDirectory(prefix="replay-vs-kudu.", dir=work) as folder,
        oracle.start_tserver_on_replica(binaries, directory, Path(folder) / "t", uuid=meta["tserver_uuid"],
                                        flags=["--enable_maintenance_manager=false"]) as replica,
    ):
        log = replica.bootstrap(meta["tablet_id"])
        if not log.complete or log.real_s is None or log.user_s is None or log.sys_s is None:
            raise Mismatch(f"Kudu's bootstrap failed: {log.failure}")
        if log.stats["inserts_seen"] - log.stats["inserts_ignored"] != meta["rows"]:
            raise Mismatch(f"Kudu replayed {log.stats}, the log holds {meta['rows']} rows")
        return Run(log.real_s, log.user_s + log.sys_s, replica.server.cpu_seconds(), replica.server.peak_rss_bytes(),
                   log.wall_s)


def run_ours(directory: Path, meta: dict[str, Any]) -> Run:
    """`kudu-storage replay DIR --report json` as a process of its own."""
    command = [sys.executable, "-m", "kudu_storage", "replay", str(directory), "--report", "json"]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # the child's own peak and CPU, which wait() does not give
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise Mismatch(f"replay ended with {process.returncode}: {errors.read().decode(errors='replace')[-2000:]}")
        report = json.loads(output.read())
    for name in ("rows", "checksum"):
        if report[name] != meta[name]:
            raise Mismatch(f"replay reports {name} {report[name]}, the server that wrote the log {meta[name]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(wall_s, cpu_s, cpu_s, usage.ru_maxrss * 1024, float(report["seconds"]))


def describe(run: Run) -> str:
    return (f"wall {run.wall_s:6.2f} s  cpu {run.cpu_s:6.2f} s (process {run.process_cpu_s:6.2f})  "
            f"inner {run.inner_s:6.2f} s  peak {run.peak_rss_bytes / MIB:5.0f} MiB")


def rows_bytes(meta: dict[str, Any]) -> int:
    """Row-format bytes plus encoded keys of all rows, for the tables that make_log.py makes."""
    rows, strings, length = int(meta["rows"]), int(meta["string_columns"]), int(meta["string_len"])
    key, integer, reference = 8, 4, 16
    return rows * (key + integer + strings * (reference + length) + key)


def summarize(runs: dict[str, list[Run]], meta: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians with spread. Ratios pair the two runs of one round, so that slow minutes cancel."""
    summary: dict[str, dict[str, float]] = {}
    for side, values in runs.items():
        summary[f"{side} rows/s"] = spread([meta["rows"] / run.wall_s for run in values])
        summary[f"{side} cpu us/row"] = spread([run.cpu_s * 1e6 / meta["rows"] for run in values])
    if "ours" in runs:
        budget = 2 * rows_bytes(meta) + ALLOWANCE_BYTES
        summary["ours peak memory / its limit"] = spread([run.peak_rss_bytes / budget for run in runs["ours"]])
    if {"kudu", "ours"} <= runs.keys():
        pairs = list(zip(runs["kudu"], runs["ours"], strict=True))
        summary["speed, ours / kudu (wall)"] = spread([kudu.wall_s / ours.wall_s for kudu, ours in pairs])
        summary["speed, ours / kudu (inner)"] = spread([kudu.inner_s / ours.inner_s for kudu, ours in pairs])
        summary["cpu a row, ours / kudu"] = spread([ours.cpu_s / kudu.cpu_s for kudu, ours in pairs])
        summary["peak memory, ours / kudu"] = spread([o.peak_rss_bytes / k.peak_rss_bytes for k, o in pairs])
    return summary


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures by."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "python": platform.python_version(), "kernel": platform.release(), "kudu": oracle.VERSION}


if __name__ == "__main__":
    main()
