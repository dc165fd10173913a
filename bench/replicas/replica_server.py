"""One replica of ours as a process, and a krpc service by which others reach it: an embedding server, a small one.

    python replica_server.py FOLDER NAME '{"a": "127.0.0.1:...", ...}' SERVICE_PORT DURABILITY

Service bench.Values: `Put` takes a value, `PutMany` values behind a u32 that says how large each is; both answer
nothing once they are applied. `Status` and `Local` speak JSON. The state machine counts.
"""
from __future__ import annotations

import asyncio
import json
import random
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from consensus import RaftReplica, StateMachine
from kudu_storage.rpc import Server, ServerOptions, Service, ServiceRegistry

CALLS_MAX = 10_000


class Count(StateMachine):
    def __init__(self) -> None:
        self.count = 0

    def apply(self, op: Any) -> bytes:
        self.count += 1
        return b""


class Values:
    """The service."""

    def __init__(self, replica: RaftReplica) -> None:
        self.replica = replica

    def service(self) -> Service:
        return Service("bench.Values", {"Put": self.put, "PutMany": self.put_many, "Status": self.status,
                                        "Local": self.local, "Profile": self.profile})

    def put(self, request: Any) -> Any:
        return self.replica.submit(bytes(request.message))      # answered when that is done, with what apply() returned

    async def put_many(self, request: Any) -> bytes:
        data = bytes(request.message)
        size = struct.unpack_from("<I", data)[0]
        await self.replica.propose_many([data[at:at + size] for at in range(4, len(data), size)])
        return b""

    def status(self, request: Any) -> bytes:
        status = self.replica.status()
        return json.dumps({
            "name": self.replica.name, "leader": status.leader, "leads": self.replica.is_leader, "term": status.term,
            "last": status.last.index, "applied": status.applied_index, "rss": resident_bytes(),
            "lag": {peer.name: peer.lag_bytes for peer in status.peers}}).encode()

    async def local(self, request: Any) -> bytes:
        """Proposers in this process: as many as `outstanding`, each a task that proposes again and again."""
        job = json.loads(bytes(request.message))
        end = time.perf_counter() + job["seconds"]
        batch = [random.randbytes(job["bytes"]) for _ in range(job["batch"])]
        times: list[float] = []

        async def proposer() -> None:
            now = time.perf_counter()
            while now < end:
                if len(batch) == 1:
                    await self.replica.propose(batch[0])
                else:
                    await self.replica.propose_many(batch)
                times.append(-now + (now := time.perf_counter()))

        began = time.perf_counter()
        await asyncio.gather(*[proposer() for _ in range(job["outstanding"])])
        times.sort()
        return json.dumps({"calls": len(times), "seconds": time.perf_counter() - began,
                           "p50_us": times[len(times) // 2] * 1e6,
                           "p99_us": times[len(times) * 99 // 100] * 1e6}).encode()

    async def profile(self, request: Any) -> bytes:
        """cProfile of this loop for so many seconds; the text."""
        import cProfile
        import io
        import pstats
        job = json.loads(bytes(request.message))
        profile = cProfile.Profile(time.thread_time)
        profile.enable()
        await asyncio.sleep(job["seconds"])
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(45)
        return text.getvalue().encode()


def resident_bytes() -> int:
    """Of this process, anonymous memory and files together."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def serve(folder: str, name: str, peers: dict[str, str], port: int, durability: str) -> None:
    async with RaftReplica(folder, me=name, peers=peers, sm=Count(), durability=durability) as replica:
        server = Server(ServiceRegistry([Values(replica).service()]), ServerOptions(calls_max=CALLS_MAX))
        await server.start("127.0.0.1", port)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)      # until the parent is gone
        await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
