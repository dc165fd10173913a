"""Replicas as processes over loopback: killed, stopped and started again, nothing that was acknowledged is lost."""
from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from replica_process import RemoteError, ReplicaProcess, free_addresses

DEADLINE_S = 60.0


class Processes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers = free_addresses("abc")
        self.up: dict[str, ReplicaProcess] = {}
        self.acknowledged: list[str] = []
        self.unsure: set[str] = set()
        self._number = 0

    async def __aenter__(self) -> Processes:
        await asyncio.gather(*[self.start(name) for name in "abc"])
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.up.values():
            process.signal(signal.SIGCONT)
            await process.kill()

    async def start(self, name: str) -> None:
        process = ReplicaProcess(self.folder, name, self.peers)
        await process.start()
        self.up[name] = process

    async def leader(self) -> str:
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            processes = dict(self.up)
            states = await asyncio.gather(*[p.do("status") for p in processes.values()], return_exceptions=True)
            leading = [(s["term"], name) for name, s in zip(processes, states, strict=True)
                       if isinstance(s, dict) and s["leader"]]
            if leading:
                return max(leading)[1]
            assert asyncio.get_running_loop().time() < end, "no leader"
            await asyncio.sleep(0.01)

    async def propose(self, count: int) -> None:
        """So many values, until each is acknowledged or unsure."""
        while count:
            self._number += 1
            value = str(self._number)
            try:
                name = await self.leader()
                if name not in self.up:
                    continue
                await self.up[name].do("propose", value=value, timeout=3)
            except RemoteError as error:
                assert error.name in ("NotLeader", "Aborted", "Timeout", "Ended"), str(error)
                if error.name in ("Timeout", "Ended"):
                    self.unsure.add(value)
                continue
            self.acknowledged.append(value)
            count -= 1

    async def check(self) -> None:
        """Every replica has all that was acknowledged, in order, and nothing else but what is unsure."""
        value = f"last {self._number}"
        while True:
            try:
                await self.up[await self.leader()].do("propose", value=value)
                break
            except RemoteError:
                value += "'"
                self.unsure.add(value)
        self.acknowledged.append(value)
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            lists: list[list[str]] = await asyncio.gather(*[p.do("values") for p in self.up.values()])
            if all(value in found for found in lists):
                break
            assert asyncio.get_running_loop().time() < end, "replicas are not level"
            await asyncio.sleep(0.01)
        for found in lists:
            assert found == lists[0] and len(set(found)) == len(found)
            assert [v for v in found if v not in self.unsure] == self.acknowledged


def run(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main, 180))


def test_nothing_acknowledged_is_lost_when_leaders_are_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with Processes(tmp_path) as group:
            for _ in range(3):
                await group.propose(50)
                name = await group.leader()
                before = len(group.acknowledged)
                writing = asyncio.create_task(group.propose(20))
                while len(group.acknowledged) < before + 5:
                    await asyncio.sleep(0.001)
                await group.up.pop(name).kill()
                await writing
                await group.start(name)
            await group.check()
    run(main())


def test_all_killed_at_once_come_back_with_all_they_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with Processes(tmp_path) as group:
            await group.propose(100)
            await asyncio.gather(*[group.up.pop(name).kill() for name in "abc"])
            await asyncio.gather(*[group.start(name) for name in "abc"])
            await group.check()
            leader = await group.leader()
            assert await group.up[leader].do("read") == await group.up[leader].do("values")
    run(main())


def test_a_stopped_leader_comes_back_as_a_follower(tmp_path: Path) -> None:
    async def main() -> None:
        async with Processes(tmp_path) as group:
            await group.propose(10)
            name = await group.leader()
            paused = group.up.pop(name)
            paused.signal(signal.SIGSTOP)
            await group.propose(10)
            paused.signal(signal.SIGCONT)
            group.up[name] = paused
            await group.check()
            assert await group.leader() != name or (await paused.do("status"))["term"] > 1
            for process in group.up.values():
                await process.stop()
    run(main())
