"""The same log work on kudu_storage.Log, RocksDB, LMDB, SQLite, a naive Python log and plain C, interleaved.

    python bench/compare/run.py [--quick] [--json FILE] [--only PATTERN ...] [--list]

PATTERN is a cell's name, the start of one, or a shell pattern: append/each, 'durable/*/64', read. Programs that are not
installed or not built are named and left out. bench/compare/README.md says what is compared and how.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cells
import peers
from measure import Bench, Outcome, Spread, cpu_per_entry, ratios

HEADINGS = {
    "append": ("CPU us/entry", "x C, driver subtracted", "x C, driver included"),
    "cache": ("CPU us/entry", "x C, driver subtracted", "x C, driver included"),
    "scan": ("CPU us/entry", "x C", "entries/s"),
    "random": ("CPU us/entry", "x C", "entries/s"),
    "durable": ("entries/s", "of C with fdatasync", "p50 us"),
    "open": ("CPU ms", "of a full scan", "wall ms"),
    "memory": ("peak rise MiB", "", ""),
}


def main() -> None:
    arguments = _parse()
    chosen = cells.chosen(arguments.only)
    if arguments.list:
        print("\n".join(cell.name for cell in chosen))
        return
    if not chosen:
        sys.exit("no cell has such a name; see --list")
    scale = cells.QUICK if arguments.quick else cells.FULL
    rounds = arguments.rounds or scale.rounds
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="compare.", dir=arguments.dir) as work:
        bench = Bench(Path(work), scale)
        for name, why in bench.absent.items():
            print(f"without {name}: {why}")
        print(_machine_line(work), flush=True)
        for cell in chosen:
            outcome = bench.run_cell(cell, rounds)
            outcomes.append(outcome)
            print(table(outcome), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report(outcomes, arguments.quick, rounds), indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare logs; see bench/compare/README.md.")
    parser.add_argument("--quick", action="store_true", help="little work, 3 rounds: to try, not for figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run and every ratio")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN",
                        help="cells by name, start of name or pattern")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    return parser.parse_args()


def table(outcome: Outcome) -> str:
    """A cell as text: a line a program."""
    kind = outcome.cell.kind
    lines = [f"\n{outcome.cell.name:<34}" + "".join(f"{heading:>27}" for heading in HEADINGS[kind])]
    for system in outcome.cell.systems:
        runs = [run for run in outcome.runs.get(system, []) if run is not None]
        if runs:
            lines.append(f"  {system:<32}" + "".join(f"{column:>27}" for column in _columns(outcome, system, runs)))
        if system in outcome.absent:
            lines.append(f"  {system:<32}{outcome.absent[system]}")
    if outcome.loads:
        lines.append(f"  load {min(outcome.loads):.1f}..{max(outcome.loads):.1f}")
    return "\n".join(lines)


def _columns(outcome: Outcome, system: str, runs: list[dict[str, Any]]) -> list[str]:
    def median(name: str) -> float:
        return float(statistics.median(run[name] for run in runs))

    kind, whole = outcome.cell.kind, _spread_text(ratios(outcome, system, net=False))
    cpu_us = f"{statistics.median(map(cpu_per_entry, runs)) * 1e6:.3f}"
    if kind == "durable":
        return [f"{median('entries_per_s'):,.0f}", whole, f"{median('p50_us'):.0f}"]
    if kind == "open":
        return [f"{median('cpu_s') * 1e3:.2f}", whole, f"{median('wall_s') * 1e3:.2f}"]
    if kind == "memory":
        return [f"{max(run['rise_mib'] for run in runs):.1f}"]
    if kind in {"scan", "random"}:
        return [cpu_us, whole, f"{median('entries_per_s'):,.0f}"]
    return [cpu_us, _spread_text(ratios(outcome, system, net=True)), whole]


def _spread_text(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f}..{spread.high:.2f})"


def report(outcomes: list[Outcome], quick: bool, rounds: int) -> dict[str, Any]:
    """Everything, for other programs to read."""
    def ratio(outcome: Outcome, system: str, net: bool) -> dict[str, float] | None:
        spread = ratios(outcome, system, net=net)
        return None if spread is None else dataclasses.asdict(spread)

    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release(),
                    "load": os.getloadavg()},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "quick": quick, "rounds": rounds,
        "versions": peers.versions(),
        "settings": {name: peer.settings for name, peer in peers.PEERS.items() if peer.settings},
        "cells": [{
            "cell": dataclasses.asdict(outcome.cell), "absent": outcome.absent, "loads": outcome.loads,
            "systems": {system: {"runs": runs, "ratio": ratio(outcome, system, False),
                                 "ratio_without_driver": ratio(outcome, system, True)}
                        for system, runs in outcome.runs.items()},
        } for outcome in outcomes],
    }


def _machine_line(work: str) -> str:
    load = "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())
    found = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    return f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release()}, load {load}\n{found}; files in {work}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
