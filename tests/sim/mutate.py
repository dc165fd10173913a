"""Breaks the code on purpose, one rule at a time, and shows that a transcript, a test or a seed notices.

    python -m sim.mutate [--markdown FILE] [RULE...]        with tests/, tests/support/ and the root on the path

Each mutation (mutations.py) is a replacement in one file, made in a copy of the packages; a native module is built
anew there. docs/raft-mutations.md is this script's output, with what the mutated code says.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import kudu_storage
from sim.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
# Where what was built is: the checkout itself, or where the package was installed.
BUILT = Path(kudu_storage.__file__).resolve().parents[1]
SEEDS = {"core": 120, "stack": 40, "": 0}
TIMEOUT_S = 600


class Verdict(NamedTuple):
    """What noticed, and what it said; None: it did not, or was not asked."""

    mutation: Mutation
    scenario: str | None = None
    test: str | None = None
    seed: str | None = None

    @property
    def missed(self) -> bool:
        """What is named beside a mutation must notice it; where nothing is, a seed must."""
        m = self.mutation
        if m.scenario and self.scenario is None:
            return True
        return self.scenario is None and self.test is None and self.seed is None


class BadMutation(Exception):
    """The text to replace is not there, or not once; or what was made of it cannot be built."""


def mutated(mutation: Mutation, into: Path) -> None:
    """A copy of the packages with one bug in it."""
    text = (ROOT / mutation.path).read_text()
    if text.count(mutation.old) != 1 or not mutation.old:
        times = text.count(mutation.old)
        raise BadMutation(f"{mutation.what}: the text to replace is {times} times in {mutation.path}")
    shutil.copytree(ROOT / "consensus", into / "consensus", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation.path.startswith("kudu_storage/"):
        shutil.copytree(BUILT / "kudu_storage", into / "kudu_storage",
                        ignore=shutil.ignore_patterns("__pycache__", "*.pyx", "*.proto"))
    (into / mutation.path).write_text(text.replace(mutation.old, mutation.new))
    if mutation.path.endswith(".pyx"):
        _build(mutation, into)


def _build(mutation: Mutation, into: Path) -> None:
    """The one module whose source is there."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, into / name)
    for pattern in ("*.pxd", "*.h"):
        for source in (ROOT / "kudu_storage").rglob(pattern):
            shutil.copy(source, into / source.relative_to(ROOT))
    for built in (into / mutation.path).parent.glob(Path(mutation.path).stem + ".*.so"):
        built.unlink()
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=into, capture_output=True,
                          text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise BadMutation(f"{mutation.what}: {done.stderr[-2000:]}")


def _run(into: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (into, ROOT / "tests", ROOT / "tests/support", BUILT)))
    try:
        return subprocess.run([sys.executable, "-B", *arguments], env={**os.environ, "PYTHONPATH": path}, cwd=into,
                              capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, f"nothing within {TIMEOUT_S} s", "")


_PLAY = ("import sys; from pathlib import Path; from sim.stage import Stage; import consensus.raft as r; "
         "assert r.__file__.startswith(sys.argv[2]), r.__file__; Stage().play(Path(sys.argv[1]))")

# What a bug makes of the rest of a run may be any error. The first seed is wanted, so they come one after the other.
_SEEDS = """
import logging, sys
import consensus.raft as raft
assert raft.__file__.startswith(sys.argv[1]), raft.__file__
logging.disable(logging.CRITICAL)
from sim.stack import StackWorld
from sim.world import World
for seed in range(int(sys.argv[3])):
    try:
        if sys.argv[2] == "stack":
            StackWorld(seed).run(5.0)
        else:
            World(seed).run(2000)
    except Exception as error:
        print(f"seed {seed}: {str(error).splitlines()[0] if str(error) else repr(error)}")
        sys.exit(1)
"""


def by_scenario(mutation: Mutation, into: Path) -> str | None:
    """The line of the transcript that notices."""
    done = _run(into, "-c", _PLAY, str(ROOT / "tests/scenarios" / f"{mutation.scenario}.txt"), str(into))
    if not done.returncode:
        return None
    line = re.search(rf"{mutation.scenario}\.txt:\d+: .*", done.stderr)
    return line[0] if line else _last_line(done)


def by_test(mutation: Mutation, into: Path) -> str | None:
    """The first test that fails."""
    done = _run(into, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"),
                "--rootdir", str(ROOT), *(str(ROOT / name) for name in mutation.tests.split()))
    if not done.returncode:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return re.sub(r"^.*?(?=tests/)", "", failed[1]) if failed else _last_line(done)


def by_seed(mutation: Mutation, into: Path, count: int) -> str | None:
    """The first seed that notices, and what it says."""
    done = _run(into, "-c", _SEEDS, str(into), mutation.seeds, str(count))
    return _last_line(done) if done.returncode else None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return said[-1] if said else f"exit code {done.returncode}"


def judge(mutation: Mutation, seeds: dict[str, int]) -> Verdict:
    """`seeds`: at most so many of each simulator; of a mutation for which they are given only those that need them."""
    with tempfile.TemporaryDirectory(prefix="mutated-") as folder:
        into = Path(folder)
        mutated(mutation, into)
        return Verdict(mutation, by_scenario(mutation, into) if mutation.scenario else None,
                       by_test(mutation, into) if mutation.tests else None,
                       by_seed(mutation, into, seeds[mutation.seeds]) if seeds[mutation.seeds] else None)


def _row(verdict: Verdict) -> str:
    """One line of the page."""
    m = verdict.mutation
    cells = (m.rule, m.what, verdict.scenario or verdict.test or ("MISSED" if verdict.missed else "-"),
             re.sub(r"/\S*/stack-\w+/", "", verdict.seed or "-"))      # a run's scratch folder
    return "| " + " | ".join(text.replace("|", "\\|")[:120] for text in cells) + " |"


HEAD = """# Deliberate bugs, and what notices them

Output of `python -m sim.mutate --markdown docs/raft-mutations.md` (with `tests/`, `tests/support/` and the root on
the path). Each is a replacement in one file, made in a copy of the packages; a native module is built anew there.
{missed} of {count} are missed. The third column is the line of a transcript in `tests/scenarios`, or the test, that
notices; the fourth the first seed of the core's simulator, or of the whole stack's (from W1 on), that notices by
itself, `-` if none of those that ran does (at most {core} and {stack}; fewer where verdicts were kept of a shorter
run): some bugs only cost time, are kept harmless by a second rule, or need what the simulators do not have (readers,
logs without syncs). A part of these run with the tests (`tests/sim/test_mutations.py`).

R1 to R16 are the invariants of Raft ([raft.md](raft.md)), W1 to W8 those of the log ([log.md](log.md)): W1 durable
when told, W2 a poisoned log tells nothing, W3 a torn tail is cut and nothing else, W4 names are durable, W5 what is
needed is not collected, W6 a full disk, W7 lengths are checked, W8 opening syncs. D, L, P and A are those that
`driver.py`, `log_port.py`, `rounds.py` and `state_machine.py` of `consensus/replica` state
([replica.md](replica.md)).

| rule | mutation | transcript and line, or test, that notices | first seed that notices |
| --- | --- | --- | --- |
"""


def run_all(mutations: Iterable[Mutation], seeds: dict[str, int], workers: int,
            kept: Path | None = None) -> list[Verdict]:
    """All verdicts. `kept`: a file that has those of before, and gets each as it comes: what was stopped goes on."""
    known = _known(kept)
    verdicts = []
    with ThreadPoolExecutor(workers) as pool:
        for verdict in pool.map(lambda m: known.get(m) or judge(m, seeds), mutations):
            if kept is not None and verdict.mutation not in known:
                with kept.open("a") as file:
                    file.write(json.dumps([astuple(verdict.mutation), *verdict[1:]]) + "\n")
            _tell(verdict)
            verdicts.append(verdict)
    return verdicts


def _known(kept: Path | None) -> dict[Mutation, Verdict]:
    """A mutation that was changed is another one; the code around it may have changed, too: then remove the file."""
    if kept is None or not kept.exists():
        return {}
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    return {m: Verdict(m, *said) for fields, *said in rows for m in [Mutation(*fields)]}


def _tell(verdict: Verdict) -> None:
    m = verdict.mutation
    print(f"{'SURVIVED' if verdict.missed else 'caught  '} {m.rule:<12} {m.what}", flush=True)
    for said in (verdict.scenario, verdict.test, verdict.seed):
        if said is not None:
            print(f"         {said[:200]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rules, such as R8; all by default")
    parser.add_argument("--core-seeds", type=int, default=SEEDS["core"], help="at most so many for each")
    parser.add_argument("--stack-seeds", type=int, default=SEEDS["stack"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="verdicts, to go on from when stopped")
    arguments = parser.parse_args()
    seeds = {"core": arguments.core_seeds, "stack": arguments.stack_seeds, "": 0}
    chosen = [m for m in MUTATIONS if not arguments.names or m.rule in arguments.names]
    verdicts = run_all(chosen, seeds, arguments.workers, arguments.keep)
    missed = sum(v.missed for v in verdicts)
    print(f"{len(verdicts)} mutations, {missed} missed")
    if arguments.markdown:
        head = HEAD.format(missed=missed or "None", count=len(verdicts), **seeds)
        Path(arguments.markdown).write_text(head + "".join(_row(v) + "\n" for v in verdicts))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
