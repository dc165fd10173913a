"""From the leader's SIGKILL or SIGSTOP to the next acknowledged write, with default settings: ours, etcd, pysyncobj.

    python bench/replicas/failover.py [--times 20] [--systems ours etcd pysyncobj] [--signals KILL STOP] [--json FILE]

Three processes on the loopback, a client in the fourth. Writes go on until the signal; from then on a new one is
offered to each of the others every 10 ms, whatever became of the ones before, and the first that is acknowledged
counts. Then the member comes back, and the group is left alone for a second. The systems take turns.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from load import Load
from systems import SYSTEMS, Caller, System

OFFER_S = 0.01
REST_S = 1.0
GIVE_UP_S = 30.0


async def first_write(system: System, others: list[int], began: float) -> float:
    """Seconds from `began` to the first acknowledged of the writes offered to `others`."""
    loop = asyncio.get_running_loop()
    acknowledged: asyncio.Future[float] = loop.create_future()

    def done(safe: bool) -> None:
        if safe and not acknowledged.done():
            acknowledged.set_result(time.perf_counter() - began)

    async def offer(caller: Caller) -> None:
        while not acknowledged.done():
            caller.put([os.urandom(system.value_bytes)], done)
            await asyncio.sleep(OFFER_S)

    callers = [await system.caller(number) for number in others]
    tasks = [loop.create_task(offer(caller)) for caller in callers]
    try:
        return await asyncio.wait_for(acknowledged, GIVE_UP_S)
    except TimeoutError:
        print(f"{system.name}: nothing was acknowledged within {GIVE_UP_S:g} s", flush=True)
        return math.inf
    finally:
        for task in tasks:
            task.cancel()
        for caller in callers:
            await caller.close()


async def once(system: System, what: signal.Signals) -> float:
    leader = await system.wait_for_leader()
    caller = await system.caller(leader)
    with contextlib.suppress(TimeoutError):     # pysyncobj forgets some calls when its leader changes
        await asyncio.wait_for(Load(caller, 4, 1, system.value_bytes).run(0.3, 0.1), 3)
    others = [number for number in range(3) if number != leader]
    began = time.perf_counter()
    system.send_signal(leader, what)
    seconds = await first_write(system, others, began)
    await caller.close()
    if what is signal.SIGKILL:
        await system.restart(leader)
    else:
        system.send_signal(leader, signal.SIGCONT)
        system.gone.discard(leader)
    await asyncio.sleep(REST_S)
    return seconds


async def run(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    systems = {name: SYSTEMS[name](folder / name, True) for name in args.systems}
    found: dict[str, list[float]] = {}
    try:
        for system in systems.values():
            await system.start()
        for number in range(args.times):
            for word in args.signals:
                for name, system in systems.items():
                    seconds = await once(system, signal.Signals[f"SIG{word}"])
                    found.setdefault(f"{name}, SIG{word}", []).append(seconds)
            if number % 5 == 4:
                print(f"{number + 1} of {args.times}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d %H:%M')}",
                      {name: round(statistics.median(seconds), 3) for name, seconds in found.items()}, flush=True)
    finally:
        for system in systems.values():
            await system.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--signals", nargs="*", default=["KILL", "STOP"], choices=["KILL", "STOP"])
    parser.add_argument("--dir", default=None)
    parser.add_argument("--json", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir, ignore_cleanup_errors=True) as folder:
        found = asyncio.run(run(args, Path(folder)))
    for name, seconds in found.items():
        print(f"{name:22} median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}, "
              f"of {len(seconds)}")
    if args.json:
        Path(args.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
