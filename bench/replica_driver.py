"""Python per replicated batch: CPU time of the event loop's thread, by replica, for batches of different sizes.

    python bench/replica_driver.py [--batches 3000] [--transport memory|krpc]

Three replicas in one loop, durability "os" (what the disk does is not Python's), one batch at a time, so that nothing
is shared between batches. The state machine's own apply() is measured apart and taken off: it is the user's.
"""
from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from consensus import MemoryNetwork, RaftReplica, StateMachine


class Nothing(StateMachine):
    def apply(self, op: Any) -> None:
        return None


async def group(folder: str, kind: str) -> list[RaftReplica]:
    network = MemoryNetwork()
    peers = {name: f"127.0.0.1:{17300 + i}" for i, name in enumerate("abc")}
    replicas = [RaftReplica(Path(folder) / name, me=name, peers=peers, sm=Nothing(), durability="os",
                            transport=network.transport(name) if kind == "memory" else None) for name in peers]
    for replica in replicas:
        await replica.start()
    leader = await replicas[0].wait_for_leader()
    while True:
        try:
            await next(r for r in replicas if r.name == leader).read_barrier()
            break
        except Exception:
            leader = await replicas[0].wait_for_leader()
    return sorted(replicas, key=lambda r: r.name != leader)


async def measure(args: argparse.Namespace, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        replicas = await group(folder, args.transport)
        leader, batch = replicas[0], [b"x" * args.bytes] * size
        for _ in range(100):
            await leader.propose_many(batch)
        profile = cProfile.Profile(time.thread_time) if args.profile else None
        began = time.thread_time()
        if profile:
            profile.enable()
        for _ in range(args.batches):
            await leader.propose_many(batch)
        if profile:
            profile.disable()
        spent = time.thread_time() - began
        machine, op = leader.machine, None
        began = time.thread_time()
        for _ in range(size * 1000):
            machine.apply(op)  # type: ignore[arg-type]
        apply_us = (time.thread_time() - began) / 1000 * 1e6
        us = spent / args.batches * 1e6 / len(replicas)
        print(f"{size:>6} operations a batch: {us:7.1f} us of the loop's thread per batch and replica, "
              f"{us - apply_us:7.1f} without apply()")
        for replica in replicas:
            await replica.close()
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 64, 1000])
    parser.add_argument("--transport", choices=["memory", "krpc"], default="memory")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    for size in args.sizes:
        asyncio.run(measure(args, size))


if __name__ == "__main__":
    main()
