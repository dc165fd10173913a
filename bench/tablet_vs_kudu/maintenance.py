"""Flushes and compactions of the same tablet by both, from copies of one folder: megabytes a second, and memory.

Kudu's time is `real` and `user` + `sys` of its log lines "... complete": the one thread that did it. Ours is the whole
process's. Megabytes are those of the files that were written, and for compactions also of those read.
"""
from __future__ import annotations

import random
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import oracle
import pyarrow
from real_kudu import FLUSH, MIB, Took, clocked, load, quiet, spread
from replicas import copied, file_bytes, logged, serving
from shapes import Shape, loadgen_keys, loadgen_schema, loadgen_table

from kudu_storage import Tablet
from kudu_storage.tablet.compaction_policy import CompactionPolicy

BUDGET_MIB = 256        # Kudu's default, and ours
PIECES = 4
FEW = 20_000            # changes that Kudu is to replay: it takes a minute for them
OPTIONS = ("rowset_compaction", "minor_delta_compaction", "major_delta_compaction", "flush_memrowset",
           "flush_deltamemstores")
QUICK = ("--flush_threshold_secs=1", "--maintenance_manager_polling_interval_ms=100", "--enable_log_gc=false",
         f"--tablet_compaction_budget_mb={BUDGET_MIB}")


def only(*allowed: str) -> list[str]:
    """Flags of a server that does nothing but this."""
    return [*QUICK, *(f"--enable_{name}={'true' if name in allowed else 'false'}" for name in OPTIONS)]


# -- tablets to begin with ---------------------------------------------------------------------------------------------
def random_rows(rows: int) -> Shape:
    return Shape("loadgen, random keys", rows, loadgen_schema(), loadgen_table(loadgen_keys(rows)))


def with_rowsets(shape: Shape, root: Path) -> Path:
    """Its rows in several rowsets over the same range of keys."""
    piece = -(-shape.rows // PIECES)
    with Tablet.create(root, shape.schema, durability="os") as tablet:
        for at in range(0, shape.rows, piece):
            tablet.insert_arrow(shape.table.slice(at, piece))
            tablet.flush()
        tablet.log.gc()
    return root


def change(shape: Shape, root: Path, seed: int, *, flush: bool, rows: int | None = None) -> None:
    """The INT32 of all or some rows anew, in another order."""
    rng = random.Random(seed)
    order = rng.sample(range(shape.rows), rows or shape.rows)
    data = pyarrow.table({"key": shape.table["key"].take(order),
                          "int_val": pyarrow.array([rng.randrange(1 << 31) for _ in order], pyarrow.int32())})
    with Tablet.open(root, durability="os") as tablet:
        tablet.apply_arrow(data, "update")
        if flush:
            tablet.flush()


# -- one measurement ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Step:
    """What both do: `name` is Kudu's operation, `count` how many of them at least, `work` the same of ours."""

    what: str
    name: str
    flags: Sequence[str]
    work: Callable[[Tablet], object]
    count: int = 1


@dataclass(frozen=True)
class Result:
    took: Took
    read: int
    written: int
    grown_bytes: int = 0

    @property
    def megabytes(self) -> float:
        return (self.read + self.written) / 1e6


def memory(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def ours(step: Step, source: Path, folder: Path) -> Result:
    root = copied(source, folder)
    before = file_bytes(root)
    with Tablet.open(root, durability="os") as tablet:
        Path("/proc/self/clear_refs").write_text("5")       # the peak begins anew
        held = memory("VmRSS")
        took = clocked(lambda: step.work(tablet))
        grown = memory("VmHWM") - held
    after = file_bytes(root)
    shutil.rmtree(folder)
    return result_of(step, took, before, after, grown)


def theirs(binaries: oracle.KuduBinaries, step: Step, source: Path, folder: Path) -> Result:
    root = copied(source, folder)
    before = file_bytes(root)
    with serving(binaries, folder, step.flags) as server:
        ended = quiet(server, step.name, step.count)
    after = file_bytes(root)
    shutil.rmtree(folder)
    return result_of(step, sum((one.took for one in ended), Took(0, 0)), before, after, 0)


def result_of(step: Step, took: Took, before: dict[str, int], after: dict[str, int], grown: int) -> Result:
    if "Flush" in step.name:
        return Result(took, 0, sum(after.values()) - sum(before.values()), grown)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    if "Delta" not in step.name:
        changed = list(before.keys() | after.keys())
    return Result(took, sum(before.get(name, 0) for name in changed), sum(after.get(name, 0) for name in changed),
                  grown)


def compare(binaries: oracle.KuduBinaries, step: Step, source: Path, folder: Path, rounds: int) -> None:
    mine: list[Result] = []
    kudu: list[Result] = []
    for number in range(rounds):
        for side in ("ours", "kudu") if number % 2 else ("kudu", "ours"):
            place = folder / f"{side}-{number}"
            if side == "ours":
                mine.append(ours(step, source, place))
            else:
                kudu.append(theirs(binaries, step, source, place))
    pairs = list(zip(mine, kudu, strict=True))
    print(f"{step.what}, {load()}\n"
          f"  ours {speeds(mine)}   read {mine[0].read / 1e6:.1f} MB, written {mine[0].written / 1e6:.1f} MB, peak "
          f"+{max(one.grown_bytes for one in mine) / MIB:.0f} MiB\n"
          f"  kudu {speeds(kudu)}   read {kudu[0].read / 1e6:.1f} MB, written {kudu[0].written / 1e6:.1f} MB\n"
          f"  MB/s, ours over Kudu's: {spread([rate(a) / rate(b) for a, b in pairs])} clock   "
          f"{spread([cpu_rate(a) / cpu_rate(b) for a, b in pairs])} processor", flush=True)


def rate(result: Result) -> float:
    return result.megabytes / result.took.real_s


def cpu_rate(result: Result) -> float:
    return result.megabytes / result.took.cpu_s


def speeds(results: Sequence[Result]) -> str:
    return (f"{statistics.median(map(rate, results)):6.0f} MB/s by the clock, "
            f"{statistics.median(map(cpu_rate, results)):6.0f} of processor")


# -- the run -----------------------------------------------------------------------------------------------------------
def each_rowset(work: Callable[[Tablet, int], object]) -> Callable[[Tablet], object]:
    return lambda tablet: [work(tablet, rowset["id"]) for rowset in tablet.stats()["layout"]]


FLUSH_ROWS = Step("flush of a MemRowSet", "FlushMRSOp", FLUSH, lambda tablet: tablet.maintenance.flush_memory())
FLUSH_DELTAS = Step(f"flush of four DeltaMemStores, {FEW:,} changes", "FlushDeltaMemStoresOp",
                    only("flush_deltamemstores"),
                    each_rowset(lambda tablet, rowset: tablet.maintenance.flush_deltas(rowset)), PIECES)
MINOR = Step("minor compaction of two REDO files a rowset", "MinorDeltaCompactionOp", only("minor_delta_compaction"),
             each_rowset(lambda tablet, rowset: tablet.maintenance.compact_redos(rowset)), PIECES)
MAJOR = Step("major compaction of the INT32", "MajorDeltaCompactionOp", only("major_delta_compaction"),
             each_rowset(lambda tablet, rowset: tablet.maintenance.compact_columns(rowset)), PIECES)
POLICY = CompactionPolicy(budget_bytes=BUDGET_MIB * MIB)
MERGE = Step("merge of four rowsets", "CompactRowSetsOp", only("rowset_compaction"),
             lambda tablet: tablet.maintenance.merge(policy=POLICY))
MERGE_CHANGED = Step("merge of four rowsets, two REDO files each", "CompactRowSetsOp", only("rowset_compaction"),
                     lambda tablet: tablet.maintenance.merge(policy=POLICY))


def run(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    shape = random_rows(rows)
    compare(binaries, FLUSH_ROWS, logged(shape, folder / "logged"), folder, rounds)
    source = with_rowsets(shape, folder / "rowsets")
    compare(binaries, MERGE, source, folder, rounds)
    few = folder / "few"
    shutil.copytree(source, few)
    change(shape, few, 1, flush=False, rows=FEW)
    compare(binaries, FLUSH_DELTAS, few, folder, rounds)
    change(shape, source, 2, flush=True)
    change(shape, source, 3, flush=True)
    for step in (MINOR, MAJOR, MERGE_CHANGED):
        compare(binaries, step, source, folder, rounds)
