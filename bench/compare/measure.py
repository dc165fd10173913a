"""Runs cells: builds the C loops, gives each run a fresh folder and a process of its own, forms ratios.

A round of a cell runs each of its programs once; which goes first moves on by one from round to round, so that a
machine that gets slower or faster in the meantime weighs on all alike. Ratios are formed within a round.
"""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cells
import peers
from cells import Cell, Scale

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ("log_append_limit", "log_read_limit", "ring_cache")
POOL_BYTES = 2 << 20       # beyond what LZ4 looks back (64 KiB), within a cache
POOL_ENTRIES_MAX = 1024
CACHE_WINDOW = 8192
GROUP_BYTES = 1 << 20       # what c-grouped joins into one pwritev, at most
C_FLAGS: dict[str, tuple[str, ...]] = {
    "c": (), "c-bare": (), "c-grouped": (), "c-two-step": ("--two-step",), "c-one-thread": ("--one-thread",),
    "c-zeroed": ("--zeroed",), "c-direct": ("--direct",), "c-zeroed-direct": ("--zeroed", "--direct"),
}
WORDS = ("insert", "update", "tablet", "leader", "peer-0", "commit", "row", "INT64", "timestamp=", "value:", ", ")

Result = dict[str, Any]


class Failed(Exception):
    """A run did not answer; the text is its last line."""


@dataclass(slots=True)
class Outcome:
    """All rounds of a cell.

    runs: by program, one result a round, None where it failed. absent: why one is not in. loads: the machine's load
    average of a minute after each round; the benchmark itself is about 1, its producers' threads more.
    """

    cell: Cell
    runs: dict[str, list[Result | None]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)


def needed_peer(system: str) -> str | None:
    """The program behind a name in a cell: kudu-objects is kudu; the C loops and plain Python need none."""
    name = system.removesuffix("-native").removesuffix("-objects")
    return name if name in peers.PEERS else "kudu" if system == "scan" else None


class Bench:
    """Where runs happen. One at a time: two would disturb each other."""

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work, self.scale = work, scale
        self.native_cache = self._has_cache()
        self.absent = {name: why for name in peers.PEERS if (why := peers.missing(name)) is not None}
        self._build()

    @staticmethod
    def _has_cache() -> bool:
        try:
            import kudu_storage._native.log_cache  # noqa: F401
        except ImportError:
            return False
        return True

    def _build(self) -> None:
        flags = ["-std=gnu11", "-O3", "-Wall", *(["-msse4.2"] if os.uname().machine == "x86_64" else []),
                 f"-I{ROOT / 'kudu_storage' / '_native'}"]
        for program in PROGRAMS:
            source = str(ROOT / "bench" / "c" / f"{program}.c")
            for target, more in ((program, []), (f"{program}.so", ["-shared", "-fPIC"])):
                subprocess.run([os.environ.get("CC", "cc"), *flags, *more, "-o", str(self.work / target), source,
                                "-lpthread", "-ldl"], check=True)

    def pool(self, entry_bytes: int) -> Path:
        """A power of two of payloads: text-like bytes, which LZ4 makes about half as long."""
        path = self.work / f"pool-{entry_bytes}"
        if not path.exists():
            source = random.Random(entry_bytes)
            count = min(POOL_ENTRIES_MAX, POOL_BYTES // entry_bytes)
            path.write_bytes(b"".join(_payload(source, entry_bytes) for _ in range(count)))
        return path

    # -- one cell ------------------------------------------------------------------------------------------------------
    def run_cell(self, cell: Cell, rounds: int) -> Outcome:
        outcome = Outcome(cell)
        systems = []
        for system in cell.systems:
            if (why := self._why_absent(cell, system)) is not None:
                outcome.absent[system] = why
            else:
                systems.append(system)
        outcome.runs = {system: [] for system in systems}
        try:
            with self._prepared(cell, systems) as state:
                for number in range(rounds if systems else 0):
                    turn = number % len(systems)
                    for system in systems[turn:] + systems[:turn]:
                        self._run_into(outcome, system, state)
                    outcome.loads.append(os.getloadavg()[0])
        except Failed as error:
            outcome.absent[cell.base] = f"failed to prepare: {error}"
        return outcome

    def _run_into(self, outcome: Outcome, system: str, state: dict[str, Path]) -> None:
        result = None
        try:
            result = self._run(outcome.cell, system, state)
        except Failed as error:
            outcome.absent[system] = f"failed: {error}"
        outcome.runs[system].append(result)

    def _why_absent(self, cell: Cell, system: str) -> str | None:
        if cell.kind == "cache":
            return None if system != "kudu" or self.native_cache else "not built: kudu_storage._native.log_cache"
        if cell.compression == "lz4" and _lz4_library() is None:
            return "not installed (pip install lz4)"
        peer = needed_peer(system)
        return self.absent.get(peer) if peer is not None else None

    def _run(self, cell: Cell, system: str, state: dict[str, Path]) -> Result:
        folder = Path(tempfile.mkdtemp(prefix="run.", dir=self.work))
        try:
            result = getattr(self, f"_{cell.kind}")(cell, system, folder, state)
            stored = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.name.startswith("index."))
            return {**result, "stored_bytes": stored} if stored else dict(result)
        finally:
            shutil.rmtree(folder)

    # -- kinds of cells ------------------------------------------------------------------------------------------------
    def _append(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        calls = cells.call_count(cell, self.scale)
        if system in C_FLAGS:
            return self._c_append(cell, system, folder, calls)
        return self._python("append", cell, system, folder, calls=calls, mode=cell.mode, compression=cell.compression,
                            grouped_calls=cells.GROUPED_CALLS)

    def _c_append(self, cell: Cell, system: str, folder: Path, calls: int) -> Result:
        envelope = 0 if system == "c-bare" else cells.envelope_bytes(cell.entry_bytes, calls * cell.batch)
        group = max(1, min(1000, GROUP_BYTES // (cell.batch * cell.entry_bytes))) if system == "c-grouped" else 1
        return self._c("log_append_limit", "--dir", folder, "--data", self.pool(cell.entry_bytes),
                       "--batch", cell.batch, "--entry-bytes", cell.entry_bytes, "--entries", calls * cell.batch,
                       "--envelope", envelope, "--group", group, lz4=cell.compression == "lz4")

    def _durable(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        if system in C_FLAGS:
            envelope = cells.envelope_bytes(cell.entry_bytes, 1 << 16)
            return self._c("log_append_limit", "--dir", folder, "--data", self.pool(cell.entry_bytes),
                           "--entry-bytes", cell.entry_bytes, "--envelope", envelope, "--sync",
                           "--seconds", max(1, round(self.scale.durable_seconds)), "--producers", cell.producers,
                           *C_FLAGS[system])
        return self._python("durable", cell, system, folder, durable=True, mode=cell.mode, producers=cell.producers,
                            seconds=self.scale.durable_seconds)

    def _scan(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        if system in C_FLAGS:
            result = self._c("log_read_limit", *_segments(state["files"]), lz4=cell.compression == "lz4")
            result = _in_entries(result, cell.batch)
        else:
            result = self._python("scan", cell, system, state[needed_peer(system) or system],
                                  compression=cell.compression)
            if system == "kudu-native":
                result = _in_entries(result, cell.batch)
        expected = cells.call_count(cell, _read_scale(self.scale)) * cell.batch
        if result["entries"] != expected:
            raise Failed(f"{result['entries']} entries were read, {expected} were written")
        return result

    def _random(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        if system in C_FLAGS:
            return self._c("log_read_limit", *_segments(state["files"]), "--table-in", state["table"],
                           "--picks", state["picks"], *C_FLAGS[system])
        return self._python("random", cell, system, state[system], picks=str(state["picks"]))

    def _open(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        job = "scan-segments" if system == "scan" else "open"
        return self._python(job, cell, "kudu", state["kudu"], mode=cell.mode)

    def _cache(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        calls = self.scale.cache_messages // cell.batch
        if system == "c":
            return self._c("ring_cache", "--messages", calls * cell.batch, "--message-bytes", cell.entry_bytes,
                           "--window", CACHE_WINDOW, "--batch", cell.batch)
        return self._python("cache", cell, system, folder, calls=calls, window=CACHE_WINDOW)

    def _memory(self, cell: Cell, system: str, folder: Path, state: dict[str, Path]) -> Result:
        calls = self.scale.memory_bytes // (cell.batch * cell.entry_bytes)
        return self._python("memory", cell, system, folder, calls=calls, grouped_calls=cells.GROUPED_CALLS)

    # -- data that several rounds read ---------------------------------------------------------------------------------
    @contextmanager
    def _prepared(self, cell: Cell, systems: list[str]) -> Iterator[dict[str, Path]]:
        if cell.kind not in {"scan", "random", "open"} or not systems:
            yield {}
            return
        folder = Path(tempfile.mkdtemp(prefix="data.", dir=self.work))
        try:
            yield self._fill_all(cell, systems, folder)
        finally:
            shutil.rmtree(folder)

    def _fill_all(self, cell: Cell, systems: list[str], folder: Path) -> dict[str, Path]:
        state: dict[str, Path] = {}
        scale = _read_scale(self.scale, self.scale.open_bytes if cell.kind == "open" else self.scale.read_bytes)
        calls = cells.call_count(cell, scale)
        for peer in sorted({p for s in systems if (p := needed_peer(s)) is not None}):
            (folder / peer).mkdir()
            state[peer] = folder / peer
            self._python("fill", cell, peer, state[peer], calls=calls, mode=cell.mode, compression=cell.compression,
                         keep_batches=peer == "kudu" and cell.kind != "open")
        if "kudu" in state:
            state["files"] = state["kudu"]
        else:
            state["files"] = folder / "c"
            state["files"].mkdir()
            self._c_append(cell, "c", state["files"], calls)
        if cell.kind == "random":
            self._make_table(folder, state, calls)
        return state

    def _make_table(self, folder: Path, state: dict[str, Path], entries: int) -> None:
        state["table"], state["picks"] = folder / "table", folder / "picks"
        found = self._c("log_read_limit", *_segments(state["files"]), "--table", state["table"])["entries"]
        if found != entries:
            raise Failed(f"{found} batches for {entries} entries: one a batch is what is compared")
        source = random.Random(1)
        picks = [source.randrange(entries) for _ in range(self.scale.random_reads)]
        state["picks"].write_bytes(struct.pack(f"={len(picks)}I", *picks))

    # -- processes -----------------------------------------------------------------------------------------------------
    def _python(self, job: str, cell: Cell, system: str, folder: Path, **more: Any) -> Result:
        spec = {"job": job, "system": system, "folder": str(folder), "batch": cell.batch,
                "entry_bytes": cell.entry_bytes, "pool": str(self.pool(cell.entry_bytes)), **more}
        return _answer([sys.executable, str(HERE / "work.py"), json.dumps(spec)])

    def _c(self, program: str, *arguments: object, lz4: bool = False) -> Result:
        texts = [str(argument) for argument in arguments]
        if not lz4:
            return _answer([str(self.work / program), *texts])
        return _answer([sys.executable, str(HERE / "work.py"), "--c", str(self.work / f"{program}.so"), *texts,
                        "--lz4-lib", str(_lz4_library())])


def _in_entries(result: Result, batch: int) -> Result:
    """The answer of a program that counts batches."""
    return {**result, "entries": result["entries"] * batch, "entries_per_s": result["entries_per_s"] * batch}


def _answer(command: list[str]) -> Result:
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode not in (0, -signal.SIGKILL) or not lines:
        raise Failed((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    result: Result = json.loads(lines[-1])
    return result


def _payload(source: random.Random, size: int) -> bytes:
    text = ""
    while len(text) < size:
        text += source.choice(WORDS) if source.random() < 0.6 else f"{source.getrandbits(32):08x} "
    return text[:size].encode()


def _read_scale(scale: Scale, size_bytes: int | None = None) -> Scale:
    return Scale(**{**{name: getattr(scale, name) for name in scale.__slots__},
                    "append_bytes": size_bytes or scale.read_bytes, "append_calls": 1 << 40})


def _segments(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.startswith(("wal-", "limit-")))


def _lz4_library() -> str | None:
    try:
        from lz4.block import _block
    except ImportError:
        return None
    return str(_block.__file__)


# -- figures -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        return cls(statistics.median(values), min(values), max(values)) if values else None


def cpu_per_entry(result: Result) -> float:
    return float(result["cpu_s"]) / float(result["entries"])


def ratios(outcome: Outcome, system: str, *, net: bool) -> Spread | None:
    """A program's figure over that of the cell's base, by rounds. CPU an entry; entries a second where durable.

    net: without what the driver alone takes; only for programs in Python that are driven by it.
    """
    kind, base = outcome.cell.kind, outcome.runs.get(outcome.cell.base, [])
    drivers = outcome.runs.get("driver", [])
    values = []
    for number, (run, under) in enumerate(zip(outcome.runs.get(system, []), base, strict=False)):
        driver = drivers[number] if number < len(drivers) else None
        if run is None or under is None:
            continue
        if kind == "durable":
            values.append(run["entries_per_s"] / under["entries_per_s"])
        elif kind == "open":
            values.append(run["cpu_s"] / under["cpu_s"])
        elif not net:
            values.append(cpu_per_entry(run) / cpu_per_entry(under))
        elif driver is not None and system not in C_FLAGS and system != "driver":
            values.append((cpu_per_entry(run) - cpu_per_entry(driver)) / cpu_per_entry(under))
    return Spread.of(values)
