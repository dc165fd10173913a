"""A follower that is far behind, and a peer that is gone: what they cost the others.

    python bench/replicas/catch_up.py [--mib 256] [--seconds 5] [--dir DIR]

Three processes of ours, with sync. Written to: with all three, then as much with one of them killed; the leader's
memory meanwhile is sampled, and what the second run adds is to be no more than the cache (32 MiB). Then the dead one
comes back under a light load (one call at a time): how many bytes a second it takes until it is level, against what
this disk takes when a file is written from end to end and synced at the end, and the load's latencies before and
meanwhile.
"""
from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from load import Load
from systems import OurCaller, Ours, resident_bytes

MIB = 1 << 20


def disk_rate(folder: Path, mib: int) -> float:
    """MiB a second, written in turn to a new file, and synced."""
    block = random.randbytes(4 * MIB)
    path = folder / "sequential"
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(mib // 4):
            file.write(block)
        os.fdatasync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return mib / seconds


async def fill(caller: OurCaller, pid: int, mib: int) -> tuple[int, float]:
    """Write so much; the largest memory of the process meanwhile, and MiB a second."""
    left, most = mib * 1024 // 64, resident_bytes(pid)
    began = time.perf_counter()
    pool = [random.randbytes(1024) for _ in range(512)]
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    under_way = 0

    def begin() -> None:
        nonlocal left, under_way
        left -= 1
        under_way += 1
        at = left % 8 * 64
        caller.put(pool[at:at + 64], done)

    def done(safe: bool) -> None:
        nonlocal under_way, most
        assert safe
        under_way -= 1
        if left % 64 == 0:
            most = max(most, resident_bytes(pid))
        if left > 0:
            begin()
        elif not under_way and not ended.done():
            ended.set_result(None)

    for _ in range(4):
        begin()
    await ended
    return max(most, resident_bytes(pid)), mib / (time.perf_counter() - began)


async def lag_bytes(caller: OurCaller, name: str) -> int:
    lag: int = (await caller.ask("Status"))["lag"][name]
    return lag


async def until_level(caller: OurCaller, name: str) -> tuple[float, float]:
    """(MiB, seconds) from the first bytes that it takes until less than a MiB is left."""
    before = lag = await lag_bytes(caller, name)
    while (lag := await lag_bytes(caller, name)) >= before:
        await asyncio.sleep(0.01)
    first, began = lag, time.perf_counter()
    while (lag := await lag_bytes(caller, name)) > MIB:
        await asyncio.sleep(0.01)
    return (first - lag) / MIB, time.perf_counter() - began


async def run(args: argparse.Namespace, folder: Path) -> None:
    system = Ours(folder / "ours", True)
    await system.start()
    try:
        leader = await system.wait_for_leader()
        caller, watcher = await system.caller(leader), await system.caller(leader)
        pid = system.members[leader].pid
        await fill(caller, pid, 32)
        with_all, rate = await fill(caller, pid, args.mib)
        print(f"all three: {with_all / MIB:.0f} MiB in the leader at most, {rate:.0f} MiB/s")
        dead = (leader + 1) % 3
        system.send_signal(dead, signal.SIGKILL)
        without, rate = await fill(caller, pid, args.mib)
        print(f"one dead:  {without / MIB:.0f} MiB in the leader at most, {rate:.0f} MiB/s; "
              f"{(without - with_all) / MIB:+.0f} MiB")
        before = await Load(caller, 1, 1, 1024).run(args.seconds)
        rates = [disk_rate(folder, args.mib)]
        light = Load(caller, 1, 1, 1024)
        await system.restart(dead)
        level = asyncio.get_running_loop().create_task(until_level(watcher, "abc"[dead]))
        meanwhile = asyncio.get_running_loop().create_task(light.run(3600, 0))
        mib, seconds = await level
        light.end()
        figures = await meanwhile
        rates.append(disk_rate(folder, args.mib))
        after = await Load(caller, 1, 1, 1024).run(args.seconds)
        disk = sum(rates) / 2
        print(f"caught up: {mib:.0f} MiB in {seconds:.2f} s, {mib / seconds:.0f} MiB/s; the disk {rates[0]:.0f} and "
              f"{rates[1]:.0f} MiB/s: {mib / seconds / disk:.2f} of it")
        for name, found in (("before", before), ("meanwhile", figures), ("after, all three", after)):
            print(f"  {name:17} p50 {found.p50_ms:.3f} ms, p99 {found.p99_ms:.3f} ms")
        print(f"  load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d %H:%M')}")
    except BaseException:
        for number, member in enumerate(system.members):
            print(f"member {number}, exit {member.poll()}:", (system.folder / f"errors-{number}").read_text()[-2000:])
        raise
    finally:
        await system.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--dir", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir, ignore_cleanup_errors=True) as folder:
        asyncio.run(run(args, Path(folder)))


if __name__ == "__main__":
    main()
