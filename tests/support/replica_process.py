"""A replica of a replicated list in a process of its own, told what to do line by line; and the other end of that.

As a program: replica_process.py FOLDER NAME ADDRESSES-AS-JSON. A line of JSON comes in, {"id", "do", ...}, and one goes
out, {"id", "result"} or {"id", "error", "text"}; they may overtake each other.
"""
from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


# -- the program -------------------------------------------------------------------------------------------------------
async def serve(folder: str, name: str, peers: Mapping[str, str]) -> None:
    from replica_group import TIMING, Register

    from consensus import RaftReplica

    machine = Register()
    async with RaftReplica(folder, me=name, peers=peers, sm=machine, timing=TIMING) as replica:
        async def handle(line: dict[str, Any]) -> Any:
            if line["do"] == "propose":
                return await replica.propose(line["value"].encode(), timeout=line.get("timeout", 5))
            if line["do"] == "read":
                await replica.read_barrier(timeout=5)
                return machine.values
            if line["do"] == "values":
                return machine.values
            status = replica.status()
            return {"leader": replica.is_leader, "term": status.term, "applied": status.applied_index,
                    "last": status.last.index, "known": status.leader}

        async def answer(line: dict[str, Any]) -> None:
            try:
                reply = {"id": line["id"], "result": await handle(line)}
            except Exception as error:
                reply = {"id": line["id"], "error": type(error).__name__, "text": str(error)}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()

        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = set()
        print(json.dumps({"id": 0, "result": "ready"}), flush=True)
        while line := await reader.readline():
            task = asyncio.create_task(answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


# -- the other end -----------------------------------------------------------------------------------------------------
class RemoteError(Exception):
    """What the replica raised. `name` is the class."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class ReplicaProcess:
    """One process. Ended by pid, and by nothing else."""

    def __init__(self, folder: Path, name: str, peers: Mapping[str, str]) -> None:
        self.name = name
        self._arguments = [str(folder / name), name, json.dumps(dict(peers))]
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next = 1
        self._ended = False
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)])
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *self._arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=1 << 24, env={**os.environ, "PYTHONPATH": path})
        ready = self._waiting[0] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())
        await ready

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            reply = json.loads(line)
            future = self._waiting.pop(reply["id"])
            if future.done():
                continue
            if "error" in reply:
                future.set_exception(RemoteError(reply["error"], reply["text"]))
            else:
                future.set_result(reply["result"])
        self._ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RemoteError("Ended", "the process is gone"))

    async def do(self, what: str, **more: Any) -> Any:
        assert self._process.stdin is not None
        if self._ended:
            raise RemoteError("Ended", "the process is gone")
        number, self._next = self._next, self._next + 1
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": number, "do": what, **more}).encode() + b"\n")
        return await future

    def signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def stop(self) -> None:
        """An orderly end: its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        if self._reading is not None:
            await self._reading


def free_addresses(names: str) -> dict[str, str]:
    """Addresses on the loopback whose ports were free just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    addresses = {name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return addresses


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
