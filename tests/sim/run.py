"""Runs seeds of the simulators. Needs tests/ and tests/support/ on the path.

    python -m sim.run --seeds 0:5000            on all processors; --stack: the whole replica
    python -m sim.run --soak                    from a seed that nobody has seen yet, until stopped
    python -m sim.run --seed 7 --trace          one of them, told line by line
    python -m sim.run --seed 7 --shrink         what of it is needed for the violation, told line by line
    python -m sim.run --single-faults 50        elections that one fault in a group at rest takes
"""
from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from random import SystemRandom
from typing import Any

from sim.fleet import Job, run_seeds, worker_count
from sim.shrink import Shrinker, transcript
from sim.single_faults import table
from sim.stack import StackWorld
from sim.tally import Tally
from sim.world import World

TOLD_EVERY_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:50", help="first:end")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stack", action="store_true", help="the whole replica: driver, log and files")
    parser.add_argument("--seconds", type=float, default=5.0, help="of faults, in the time of --stack")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--soak", nargs="?", type=int, const=-1, metavar="FIRST", help="until stopped")
    parser.add_argument("--workers", type=int, default=worker_count())
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--single-faults", type=int, metavar="SEEDS")
    arguments = parser.parse_args()
    if arguments.single_faults:
        print("\n".join(table(arguments.single_faults, arguments.workers)))
        return 0
    if arguments.seed is not None:
        return _shrink(arguments) if arguments.shrink else _one(arguments)
    job = Job(arguments.stack, arguments.steps, arguments.seconds)
    first, end = (int(n) for n in arguments.seeds.split(":"))
    if arguments.soak is None:
        return _many(job, first, end, arguments)
    first = arguments.soak if arguments.soak >= 0 else SystemRandom().randrange(10**6, 10**12)
    print(f"seeds from {first} on", flush=True)
    return _many(job, first, None, arguments)


def _one(arguments: argparse.Namespace) -> int:
    tell = _told if arguments.trace else None
    if arguments.stack:
        logging.disable(logging.CRITICAL)       # replicas whose disks fail say so
        StackWorld(arguments.seed, tell=tell).run(arguments.seconds)
    else:
        World(arguments.seed, tell=tell).run(arguments.steps)
    return 0


def _told(line: str) -> None:
    print(line)


def _shrink(arguments: argparse.Namespace) -> int:
    if arguments.stack:
        raise SystemExit("only seeds of the core's simulator are shrunk; --trace tells one of the stack")
    shrinker = Shrinker(arguments.seed, arguments.steps)
    shrunk = shrinker.shrink()
    if shrunk is None:
        print(f"seed {arguments.seed} violates nothing")
        return 0
    print("\n".join(transcript(arguments.seed, shrunk)))
    print(f"{shrunk.faults} faults and {shrunk.calls} calls of clients are left, {shrunk.steps} steps "
          f"({shrunk.runs} runs)")
    return 1


def _many(job: Job, first: int, end: int | None, arguments: argparse.Namespace) -> int:
    tally, told = Tally(), time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    parts = run_seeds(job, first, end, arguments.workers)
    try:
        for part in parts:
            tally.add(part)
            for said in part.violations:
                print(said, flush=True)
            if arguments.first and tally.violations:
                break
            if end is None and time.monotonic() - told > TOLD_EVERY_S:
                print(tally, flush=True)
                told = time.monotonic()
    except KeyboardInterrupt:
        pass
    finally:
        parts.close()  # type: ignore[attr-defined]  # a generator
    print(tally)
    return 1 if tally.violations else 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
