"""Writes with updates for an hour into a Tablet in the care of background maintenance: what stays flat, as CSV and SVG.

    python bench/long_run.py [--seconds 3600] [--rows-per-second 20000] [--folder DIR] [--out bench/plots]
    python bench/long_run.py --draw bench/plots/long_run.csv

A child process writes batches: upserts of a bounded set of keys, deletes and updates among them, and a window of new
keys whose oldest are deleted. What batch n does follows from n alone, so the parent knows what the table must hold.
Every few minutes the child is killed, or closes the tablet, and another one opens it: the time of that is measured, the
whole table is compared with the parent's, cell by cell, and writing goes on. Needs numpy and pyarrow.
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy
import pyarrow

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.common.limits import MIB
from kudu_storage.tablet.maintenance_policy import Policy
from kudu_storage.tablet.scheduler import process_scheduler
from kudu_storage.tablet.scoring import MaintenancePolicy

KEYS = 300_000              # bounded set; the window's keys are above
WINDOW_FIRST = 1_000_000
UPSERTS, WINDOW_ROWS, WINDOW_BATCHES = 3_300, 700, 150
DELETES, UPDATES, SESSION_UPSERTS = 150, 100, 50
ROWS_PER_BATCH = UPSERTS + 2 * WINDOW_ROWS + DELETES + UPDATES + SESSION_UPSERTS
POLICY = Policy(MaintenancePolicy(log_bytes_max=256 * MIB, flush_bytes=64 * MIB))
OPTIONS: dict[str, Any] = {"durability": "os", "segment_size": "8MiB", "block_cache_size": "64MiB"}
PADS = [bytes(row).hex() for row in numpy.random.default_rng(1).integers(0, 256, (997, 16), dtype=numpy.uint8)]


# -- what batch n does -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Batch:
    number: int
    upserts: numpy.ndarray
    deletes: numpy.ndarray
    updates: numpy.ndarray
    session_upserts: numpy.ndarray

    @classmethod
    def of(cls, number: int) -> Batch:
        dice = numpy.random.default_rng(number)
        # Half of the upserts hit a tenth of the keys.
        hot = dice.integers(0, KEYS // 10, UPSERTS // 2)
        return cls(number, numpy.concatenate([hot, dice.integers(0, KEYS, UPSERTS - len(hot))]),
                   *(dice.integers(0, KEYS, count) for count in (DELETES, UPDATES, SESSION_UPSERTS)))

    @property
    def arrives(self) -> numpy.ndarray:
        return window_keys(self.number)

    @property
    def leaves(self) -> numpy.ndarray:
        return window_keys(self.number - WINDOW_BATCHES)


def window_keys(number: int) -> numpy.ndarray:
    if number < 0:
        return numpy.empty(0, numpy.int64)
    first = WINDOW_FIRST + number * WINDOW_ROWS
    return numpy.arange(first, first + WINDOW_ROWS)


def values(keys: numpy.ndarray, batch: int | numpy.ndarray) -> numpy.ndarray:
    return ((keys * 1_000_003 + numpy.asarray(batch) * 7_919) & 0x7FFFFFFF).astype(numpy.int32)


def text(key: int, batch: int) -> str:
    return f"{key} as of {batch} {PADS[(key + batch) % 997]}"


def rows_of(keys: numpy.ndarray, batch: int) -> pyarrow.Table:
    return pyarrow.table({"key": keys.astype(numpy.int64), "int_val": values(keys, batch),
                          "string_val": pyarrow.array([text(key, batch) for key in keys.tolist()])})


class Model:
    """Of each key of the bounded set the batches that gave it its number and its text; -1: there is no such row."""

    def __init__(self) -> None:
        self.int_from = numpy.full(KEYS, -1)
        self.text_from = numpy.full(KEYS, -1)
        self.batches = 0

    def apply(self, number: int) -> None:
        assert number == self.batches, (number, self.batches)
        batch = Batch.of(number)
        self._set(batch.upserts, number)
        self._set(batch.deletes, -1)
        there = batch.updates[self.int_from[batch.updates] >= 0]
        self.int_from[there] = number
        self._set(batch.session_upserts, number)
        self.batches = number + 1

    def _set(self, keys: numpy.ndarray, number: int) -> None:
        self.int_from[keys] = self.text_from[keys] = number

    def check(self, table: pyarrow.Table) -> None:
        """Raises AssertionError: another row, or another cell."""
        bounded = numpy.flatnonzero(self.int_from >= 0)
        first = max(0, self.batches - WINDOW_BATCHES)
        window = [window_keys(number) for number in range(first, self.batches)]
        from_batch = numpy.repeat(numpy.arange(first, self.batches), WINDOW_ROWS)
        keys = numpy.concatenate([bounded, *window])
        numbers = values(keys, numpy.concatenate([self.int_from[bounded], from_batch]))
        text_from = numpy.concatenate([self.text_from[bounded], from_batch])
        table = table.sort_by("key")
        assert table.num_rows == len(keys), f"{table.num_rows} rows, not {len(keys)}"
        assert (table["key"].to_numpy() == keys).all(), "other keys"
        assert (table["int_val"].to_numpy() == numbers).all(), "other numbers"
        assert table["string_val"].to_pylist() == list(map(text, keys.tolist(), text_from.tolist())), "other texts"


# -- the child: writes -------------------------------------------------------------------------------------------------
def schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    builder.add_column("int_val", kudu.int32, nullable=False)
    builder.add_column("string_val", kudu.string)
    return builder.build()


def write_batch(tablet: Tablet, number: int) -> None:
    """Twice in a row is the same as once: what a kill left of a batch is written again."""
    batch = Batch.of(number)
    tablet.apply_arrow(rows_of(batch.upserts, number), "upsert")
    tablet.apply_arrow(rows_of(batch.arrives, number), "upsert" if number % 2 else "insert_ignore")
    for gone in (batch.leaves, batch.deletes):
        tablet.apply_arrow(pyarrow.table({"key": gone.astype(numpy.int64)}), "delete_ignore")
    session = tablet.new_session()
    for key, value in zip(batch.updates.tolist(), values(batch.updates, number).tolist(), strict=True):
        session.apply(tablet.new_update_ignore({"key": key, "int_val": value}))
    session.flush()         # before the upserts: the order of two operations on one key is that of their batches
    for key, value in zip(batch.session_upserts.tolist(), values(batch.session_upserts, number).tolist(), strict=True):
        session.apply(tablet.new_upsert({"key": key, "int_val": value, "string_val": text(key, number)}))
    session.flush()


def say(kind: str, **what: Any) -> None:
    print(json.dumps({"is": kind, **what}), flush=True)


def child(folder: Path, first: int, rate: float, sample_every: float) -> None:
    """Until stdin ends: then close."""
    process_scheduler().policy = POLICY
    start, used = time.perf_counter(), time.process_time()
    path = folder / "t"
    if first == 0:
        tablet = Tablet.create(path, schema(), history_seconds=HISTORY_SECONDS, **OPTIONS)
    else:
        tablet = Tablet.open(path, **OPTIONS)
    say("open", seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - used)
    write_batch(tablet, first)
    dump = folder / "table.arrow"
    table = pyarrow.table(tablet.scanner().to_arrow())
    with pyarrow.OSFile(str(dump), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    del table
    say("dump", batch=first, path=str(dump))
    write_steadily(tablet, first + 1, rate, sample_every)
    start = time.perf_counter()
    tablet.close()
    say("closed", seconds=time.perf_counter() - start)


def write_steadily(tablet: Tablet, number: int, rate: float, sample_every: float) -> None:
    next_sample, slowest = time.perf_counter() + sample_every, 0.0
    due = time.perf_counter()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
        start = time.perf_counter()
        due = max(due + ROWS_PER_BATCH / rate, start - 5)       # what was late is made up for, at most 5 s
        write_batch(tablet, number)
        slowest = max(slowest, time.perf_counter() - start)
        say("batch", number=number)
        number += 1
        if start >= next_sample:
            say("sample", slowest_batch_ms=slowest * 1e3, **sample_of(tablet))
            next_sample, slowest = start + sample_every, 0.0


def sample_of(tablet: Tablet) -> dict[str, float]:
    stats, log = tablet.stats(), tablet.log.stats()
    layout = stats["layout"]
    stores = [rowset["delta_store"] for rowset in layout if rowset.get("delta_store")]
    doing = process_scheduler().stats()
    return {
        "rss_mib": rss_bytes() / MIB, "cpu_seconds": time.process_time(),
        "memory_mib": (stats["memrowset"]["memory_bytes"] + sum(s["memory_bytes"] for s in stores)) / MIB,
        "log_segments": log["segments"], "log_mib": (log["closed_bytes"] + log["offset"]) / MIB,
        "log_written_mib": log["bytes_written"] / MIB,
        "rowsets": len(layout), "redo_files": sum(rowset["redo_files"] for rowset in layout),
        "undo_files": sum(rowset["undo_files"] for rowset in layout),
        "rows_on_disk": sum(rowset["rows"] for rowset in layout),
        "disk_mib": disk_bytes(Path(tablet.path)) / MIB,
        "actions": sum(total["done"] for total in doing["totals"].values()),
        "actions_failed": sum(total["failed"] for total in doing["totals"].values()),
        "maintenance_seconds": sum(total["seconds"] for total in doing["totals"].values()),
    }


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def disk_bytes(folder: Path) -> int:
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):        # collected meanwhile
                total += os.stat(os.path.join(at, name)).st_blocks * 512
    return total


# -- the parent: kills, compares, writes down --------------------------------------------------------------------------
class Run:
    def __init__(self, folder: Path, given: argparse.Namespace, out: IO[str]) -> None:
        self.folder, self.given = folder, given
        self.model, self.start, self.rows = Model(), time.monotonic(), csv.writer(out)
        self.out, self.columns, self.open_seconds, self.open_cpu = out, [], 0.0, 0.0

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.start) / 60

    def run(self) -> None:
        lives = 0
        while self.minutes * 60 < self.given.seconds:
            left = self.given.seconds - self.minutes * 60
            self.live(min(self.given.restart_every, left), kill=lives % 2 == 0)
            lives += 1

    def live(self, seconds: float, *, kill: bool) -> None:
        """One child, until it is killed or closes."""
        given = self.given
        command = [sys.executable, __file__, "--child", str(self.model.batches), "--folder", str(self.folder),
                   "--rows-per-second", str(given.rows_per_second), "--sample-every", str(given.sample_every),
                   "--history-seconds", str(given.history_seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        until, told = time.monotonic() + seconds, False
        try:
            for line in process.stdout:
                if line.endswith("\n"):     # of one that was killed the last may be cut
                    self.hear(json.loads(line))
                if time.monotonic() > until and not told:
                    told = True
                    if kill:
                        process.send_signal(signal.SIGKILL)
                    else:
                        process.stdin.close()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code == -signal.SIGKILL and not (told and kill):
            print(f"{self.minutes:6.1f} min: killed by somebody else (is there memory?)", flush=True)
        elif code != (-signal.SIGKILL if kill else 0):
            raise SystemExit(f"the child ended with {code}")

    def hear(self, message: dict[str, Any]) -> None:
        kind = message.pop("is")
        if kind == "open":
            self.open_seconds, self.open_cpu = message["seconds"], message["cpu_seconds"]
            print(f"{self.minutes:6.1f} min: opened in {self.open_seconds:.2f} s", flush=True)
        elif kind == "dump":
            self.model.apply(message["batch"])
            with pyarrow.memory_map(message["path"]) as file:
                self.model.check(pyarrow.ipc.open_file(file).read_all())
            print(f"{self.minutes:6.1f} min: the table is what {self.model.batches} batches make", flush=True)
        elif kind == "batch":
            self.model.apply(message["number"])
        elif kind == "sample":
            self.write({"minutes": self.minutes, "rows_written": self.model.batches * ROWS_PER_BATCH,
                        "open_seconds": self.open_seconds, "open_cpu_seconds": self.open_cpu, **message})
        elif kind == "closed":
            print(f"{self.minutes:6.1f} min: closed in {message['seconds']:.2f} s", flush=True)

    def write(self, sample: dict[str, float]) -> None:
        if not self.columns:
            self.columns = list(sample)
            self.rows.writerow(self.columns)
        self.rows.writerow([round(sample[name], 3) for name in self.columns])
        self.out.flush()


# -- plots -------------------------------------------------------------------------------------------------------------
PLOTS = {
    "memory": ("Memory of the process and of its stores, MiB", ("rss_mib", "memory_mib")),
    "log": ("Log retained: segments of 8 MiB, and MiB", ("log_segments", "log_mib")),
    "restart": ("Time to open again, s", ("open_seconds", "open_cpu_seconds")),
    "rowsets": ("Rowsets and delta files", ("rowsets", "redo_files", "undo_files")),
    "disk": ("On disk in all, MiB", ("disk_mib",)),
    "latency": ("Slowest batch between two samples, ms", ("slowest_batch_ms",)),
}
COLORS = ("#1f77b4", "#d62728", "#2ca02c")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 260, 60, 30, 30


def draw(samples: list[dict[str, str]], out: Path) -> None:
    minutes = [float(sample["minutes"]) for sample in samples]
    for name, (title, columns) in PLOTS.items():
        series = {column: [float(sample[column]) for sample in samples] for column in columns}
        (out / f"long_run-{name}.svg").write_text("\n".join(svg(title, minutes, series)) + "\n")


def svg(title: str, minutes: list[float], series: dict[str, list[float]]) -> Iterator[str]:
    right, top = max(minutes) or 1, max(max(ys) for ys in series.values()) * 1.05 or 1

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * x / right

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top

    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    yield f'<text x="{LEFT}" y="18" font-size="13">{title}, by minutes</text>'
    for part in range(5):
        y, x = top * part / 4, right * part / 4
        yield (f'<path d="M{LEFT} {y_of(y):.1f}H{WIDTH - 10}" stroke="#ddd"/>'
               f'<text x="{LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>'
               f'<text x="{x_of(x):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{x:.0f}</text>')
    for number, ((name, ys), color) in enumerate(zip(series.items(), COLORS, strict=False)):
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(minutes, ys, strict=True))
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.3"/>'
        yield f'<text x="{WIDTH - 10 - 120 * number}" y="18" fill="{color}" text-anchor="end">{name}</text>'
    yield "</svg>"


def summary(samples: list[dict[str, str]]) -> Iterator[str]:
    """Median and largest of each quarter."""
    yield f"{'':20}" + "".join(f"{f'quarter {n}':>22}" for n in range(1, 5)) + "     (median, largest)"
    for name in [n for n in samples[0] if n not in ("minutes", "rows_written", "cpu_seconds")]:
        ys = [float(sample[name]) for sample in samples]
        parts = [ys[len(ys) * n // 4:len(ys) * (n + 1) // 4] or ys[-1:] for n in range(4)]
        yield f"{name:20}" + "".join(f"{numpy.median(part):11.4g}{max(part):11.4g}" for part in parts)


def report(path: Path, out: Path) -> None:
    with path.open() as file:
        samples = list(csv.DictReader(file))
    draw(samples, out)
    print("\n".join(summary(samples)))


HISTORY_SECONDS = 300


def main() -> None:
    global HISTORY_SECONDS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rows-per-second", type=float, default=20_000)
    parser.add_argument("--restart-every", type=float, default=240)
    parser.add_argument("--sample-every", type=float, default=15)
    parser.add_argument("--history-seconds", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "plots")
    parser.add_argument("--draw", type=Path, metavar="CSV")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    HISTORY_SECONDS = given.history_seconds
    if given.child is not None:
        return child(given.folder, given.child, given.rows_per_second, given.sample_every)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.draw is None:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder, (given.out / "long_run.csv").open("w") as out:
            Run(Path(folder), given, out).run()
    return report(given.draw or given.out / "long_run.csv", given.out)


if __name__ == "__main__":
    main()
