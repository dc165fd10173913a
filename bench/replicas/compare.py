"""Replicated writes: three processes on the loopback, a client in the fourth; ours, etcd, pysyncobj, the limit in C.

    python bench/replicas/compare.py [--rounds 5] [--seconds 3] [--systems ours etcd pysyncobj] [--json FILE]

Rounds are interleaved; each starts fresh groups on empty folders of the same disk. Prints, of each case, the median
with the smallest and the largest, and ratios formed within a round. "local": proposers in the leader's own process.
etcd is called by gRPC over HTTP/2 frames written by hand (http2.py), eight connections; the client's CPU is shown. On a
machine that others use `chrt -r 1` before the command keeps them out of the latencies, of all that is compared.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from load import Load
from systems import SYSTEMS, OurCaller, System

ROOT = Path(__file__).resolve().parents[2]
# Name, calls under way, values a call.
CASES = (("64 under way", 64, 1), ("64 in a call", 1, 64), ("one", 1, 1))
WARM = (4, 64, 1.0)     # before them: a log's first segment is not like those that follow
Row = dict[str, float]


def build_limit(folder: Path) -> Path:
    program = folder / "replicate_limit"
    subprocess.run(["gcc", "-O2", "-I", str(ROOT / "kudu_storage/_native"), "-o", str(program),
                    str(ROOT / "bench/c/replicate_limit.c")], check=True)
    return program


def limit(program: Path, folder: Path, sync: bool, seconds: float) -> dict[str, Row]:
    found = {}
    for name, outstanding, batch in CASES:
        folder.mkdir()
        words = [str(program), "--dir", str(folder), "--seconds", str(seconds), "--outstanding", str(outstanding),
                 "--batch", str(batch), *(["--sync"] if sync else [])]
        answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        found[name] = {"values_per_s": answer["calls"] * batch / answer["seconds"], "p50_ms": answer["p50_us"] / 1e3,
                       "p99_ms": answer["p99_us"] / 1e3}
        shutil.rmtree(folder)
    return found


async def measure(system: System, seconds: float) -> dict[str, Row]:
    found: dict[str, Row] = {}
    await system.start()
    try:
        caller = await system.caller()
        await Load(caller, WARM[0], WARM[1], system.value_bytes).run(WARM[2])
        for name, outstanding, batch in CASES:
            cpu = system.cpu_s()
            figures = await Load(caller, outstanding, batch, system.value_bytes).run(seconds)
            assert not figures.failed, f"{system.name}: {figures.failed} calls of {name!r} failed"
            found[name] = {**figures._asdict(), "servers_cpu_us": (system.cpu_s() - cpu) / (seconds + 0.3) * 1e6
                           / figures.values_per_s}
        if isinstance(caller, OurCaller):
            for name, outstanding, batch in CASES:
                answer = await caller.ask("Local", outstanding=outstanding, batch=batch, bytes=system.value_bytes,
                                          seconds=seconds)
                found[f"local, {name}"] = {"values_per_s": answer["calls"] * batch / answer["seconds"],
                                           "p50_ms": answer["p50_us"] / 1e3, "p99_ms": answer["p99_us"] / 1e3}
        await caller.close()
    finally:
        await system.stop()
        shutil.rmtree(system.folder, ignore_errors=True)
    return found


async def run_round(args: argparse.Namespace, folder: Path, program: Path, sync: bool) -> dict[str, dict[str, Row]]:
    found = {}
    for name in args.systems:
        found[name] = await measure(SYSTEMS[name](folder / name, sync), args.seconds)
    found["limit"] = limit(program, folder / "limit", sync, args.seconds)
    return found


def spread(values: list[float], digits: int = 2) -> str:
    return (f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})")


def report(rounds: list[dict[str, dict[str, Row]]], sync: bool) -> None:
    print(f"\n{'with' if sync else 'without'} sync, {len(rounds)} rounds")
    for case in dict.fromkeys(case for found in rounds[0].values() for case in found):
        for name in rounds[0]:
            rows = [found[name][case] for found in rounds if case in found[name]]
            if rows:
                print(f"  {case:20} {name:10} {spread([r['values_per_s'] for r in rows], 0):32} values/s   p50 "
                      f"{spread([r['p50_ms'] for r in rows], 3):26} ms   p99 "
                      f"{spread([r['p99_ms'] for r in rows], 3):26}"
                      + (f"  CPU us a value: servers {spread([r['servers_cpu_us'] for r in rows], 0)}, client "
                         f"{spread([r['client_cpu_us'] for r in rows], 0)}" if "servers_cpu_us" in rows[0] else ""))
        for other in rounds[0]:
            if other == "ours" or "ours" not in rounds[0] or case not in rounds[0]["ours"]:
                continue
            base = case.removeprefix("local, ")
            pairs = [(found["ours"][case], found[other][base]) for found in rounds]
            print(f"    ours / {other}: values/s "
                  f"{spread([a['values_per_s'] / b['values_per_s'] for a, b in pairs])}, p50 "
                  f"{spread([a['p50_ms'] / b['p50_ms'] for a, b in pairs])}, p99 "
                  f"{spread([a['p99_ms'] / b['p99_ms'] for a, b in pairs])}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--sync", choices=["yes", "no", "both"], default="both")
    parser.add_argument("--dir", default=None, help="on the disk to be measured; default: the temporary folder")
    parser.add_argument("--json", default=None)
    args = parser.parse_args()
    modes = {"yes": [True], "no": [False], "both": [True, False]}[args.sync]
    found: dict[bool, list[Any]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        program = build_limit(Path(folder))
        for number in range(args.rounds):
            for mode in modes:
                print(f"round {number + 1}, {'with' if mode else 'without'} sync, load {os.getloadavg()[0]:.1f}, "
                      f"{time.strftime('%Y-%m-%d %H:%M')}", flush=True)
                found[mode].append(asyncio.run(run_round(args, Path(folder), program, mode)))
    for mode in modes:
        report(found[mode], mode)
    if args.json:
        Path(args.json).write_text(json.dumps({str(mode): found[mode] for mode in modes}, indent=1))


if __name__ == "__main__":
    main()
