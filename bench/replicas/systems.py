"""What is compared, each as three processes on the loopback behind the same few calls.

    system = Etcd(folder, sync=True)
    await system.start()
    caller = await system.caller()          # to the leader, or to the member that is given
    caller.put(values, done)                # several values: one call; done(True) once they are safe and applied
    await system.stop()

Settings favour the program that is compared.
"""
from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from http2 import GrpcConnection, connect

from kudu_storage.rpc import ClientConnection, ConnectionOptions, Method
from kudu_storage.rpc import connect as connect_krpc

HERE = Path(__file__).resolve().parent
Done = Callable[[bool], None]
TIMEOUT_S = 10.0
START_S = 60.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class System:
    """Three processes, by number."""

    name: ClassVar[str]

    def __init__(self, folder: Path, sync: bool, value_bytes: int = 1024) -> None:
        self.folder, self.sync, self.value_bytes = folder, sync, value_bytes
        self.members: list[subprocess.Popen[str]] = []
        self.gone: set[int] = set()

    def command(self, number: int) -> list[str]:
        raise NotImplementedError

    async def leader(self) -> int | None:
        """The member that leads, as far as those that can be asked know."""
        raise NotImplementedError

    async def caller(self, number: int | None = None) -> Caller:
        raise NotImplementedError

    def spawn(self, number: int) -> subprocess.Popen[str]:
        errors = open(self.folder / f"errors-{number}", "a")    # noqa: SIM115  # the process has it
        process = subprocess.Popen(self.command(number), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        errors.close()
        return process

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.members = [self.spawn(number) for number in range(3)]
        for number in range(3):
            await self.ready(number)
        await self.wait_for_leader()

    async def restart(self, number: int) -> None:
        self.members[number] = self.spawn(number)
        self.gone.discard(number)
        await self.ready(number)

    async def ready(self, number: int) -> None:
        """Until a member that was started serves."""
        out = self.members[number].stdout
        assert out is not None
        line = await asyncio.get_running_loop().run_in_executor(None, out.readline)
        assert line == "ready\n", f"{self.name} {number}: {(self.folder / f'errors-{number}').read_text()[-2000:]}"

    async def wait_for_leader(self) -> int:
        async with asyncio.timeout(START_S):
            while True:
                number = await self.leader()
                if number is not None and number not in self.gone:
                    return number
                await asyncio.sleep(0.05)

    def send_signal(self, number: int, what: signal.Signals) -> None:
        self.members[number].send_signal(what)
        if what is signal.SIGKILL:
            self.members[number].wait()
        if what in (signal.SIGKILL, signal.SIGSTOP):
            self.gone.add(number)

    def cpu_s(self) -> float:
        return sum(cpu_s(m.pid) for m in self.members if m.poll() is None)

    async def stop(self) -> None:
        for member in self.members:
            if member.poll() is None:
                member.send_signal(signal.SIGCONT)
                member.kill()
            member.wait()
            for pipe in (member.stdin, member.stdout):
                if pipe is not None:
                    pipe.close()


class Caller:
    """One way to a member."""

    def put(self, values: list[bytes], done: Done) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


# -- ours --------------------------------------------------------------------------------------------------------------
class OurCaller(Caller):
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def put(self, values: list[bytes], done: Done) -> None:
        if len(values) == 1:
            method, message = _PUT, values[0]
        else:
            method, message = _PUT_MANY, struct.pack("<I", len(values[0])) + b"".join(values)
        try:
            self.connection.start_call(method, message, lambda answer: done(not isinstance(answer, Exception)),
                                       timeout_s=TIMEOUT_S)
        except Exception:
            asyncio.get_running_loop().call_soon(done, False)

    async def ask(self, what: str, **job: Any) -> Any:
        reply = await self.connection.call(Method("bench.Values", what), json.dumps(job).encode(), timeout_s=600)
        return json.loads(bytes(reply.message)) if what != "Profile" else bytes(reply.message).decode()

    async def close(self) -> None:
        await self.connection.close()


_PUT = Method("bench.Values", "Put")
_PUT_MANY = Method("bench.Values", "PutMany")


class Ours(System):
    name = "kudu-storage"

    def __init__(self, folder: Path, sync: bool, value_bytes: int = 1024, extra: tuple[str, ...] = ()) -> None:
        super().__init__(folder, sync, value_bytes)
        ports = free_ports(6)
        self.peers = {name: f"127.0.0.1:{port}" for name, port in zip("abc", ports, strict=False)}
        self.ports = ports[3:]
        self.extra = extra

    def command(self, number: int) -> list[str]:
        name = "abc"[number]
        return [sys.executable, str(HERE / "replica_server.py"), str(self.folder / name), name, json.dumps(self.peers),
                str(self.ports[number]), "fsync" if self.sync else "os", *self.extra]

    async def leader(self) -> int | None:
        for number in range(3):
            if number in self.gone:
                continue
            try:
                caller = await self.caller(number)
                async with asyncio.timeout(1):
                    leads = (await caller.ask("Status"))["leads"]
                await caller.close()
            except Exception:
                continue
            if leads:
                return number
        return None

    async def caller(self, number: int | None = None) -> OurCaller:
        if number is None:
            number = await self.wait_for_leader()
        return OurCaller(await connect_krpc("127.0.0.1", self.ports[number], ConnectionOptions(user="bench")))


# -- etcd --------------------------------------------------------------------------------------------------------------
def _field(number: int, data: bytes) -> bytes:
    length, size = len(data), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


class EtcdCaller(Caller):
    """Several connections in turn, as etcd's own benchmark has them."""

    def __init__(self, connections: list[GrpcConnection]) -> None:
        self.connections = connections
        self._next = 0

    def put(self, values: list[bytes], done: Done) -> None:
        self._next += 1
        connection = self.connections[self._next % len(self.connections)]
        puts = [_field(1, b"k%d" % (self._next * len(values) + i & 0xFFFF)) + _field(2, v)
                for i, v in enumerate(values)]
        if len(puts) == 1:
            connection.call("/etcdserverpb.KV/Put", puts[0], lambda answer: done(bool(answer)))
        else:
            transaction = b"".join([_field(2, _field(2, put)) for put in puts])     # success: RequestOp.request_put
            connection.call("/etcdserverpb.KV/Txn", transaction, lambda answer: done(bool(answer)))

    async def close(self) -> None:
        for connection in self.connections:
            connection.close()


class Etcd(System):
    name = "etcd"
    connections = 8

    def __init__(self, folder: Path, sync: bool, value_bytes: int = 1024) -> None:
        super().__init__(folder, sync, value_bytes)
        ports = free_ports(6)
        self.ports, self.peer_ports = ports[:3], ports[3:]

    def command(self, number: int) -> list[str]:
        me, peer = f"http://127.0.0.1:{self.ports[number]}", f"http://127.0.0.1:{self.peer_ports[number]}"
        cluster = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(self.peer_ports))
        state = "existing" if (self.folder / f"m{number}").exists() else "new"
        return ["etcd", "--name", f"m{number}", "--data-dir", str(self.folder / f"m{number}"),
                "--listen-client-urls", me, "--advertise-client-urls", me, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--initial-cluster-state", state, "--logger", "zap", "--log-level",
                "error", "--quota-backend-bytes", str(8 << 30), *([] if self.sync else ["--unsafe-no-fsync"])]

    async def ready(self, number: int) -> None:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.ports[number])
                    writer.close()
                    return
                except OSError:
                    assert self.members[number].poll() is None, (self.folder / f"errors-{number}").read_text()[-2000:]
                    await asyncio.sleep(0.05)

    async def leader(self) -> int | None:
        for number in range(3):
            if number in self.gone:
                continue
            try:
                async with asyncio.timeout(1):
                    me, leader = await self._ids(number)
            except (OSError, TimeoutError, ValueError):
                continue
            if leader and me == leader:
                return number
        return None

    async def _ids(self, number: int) -> tuple[int, int]:
        """Of the member asked and of the leader it knows (Maintenance.Status)."""
        connection = await connect(self.ports[number])
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        connection.call("/etcdserverpb.Maintenance/Status", b"",
                        lambda answer: None if future.done() else future.set_result(answer))
        try:
            answer = await future
        finally:
            connection.close()
        if answer is None:
            raise ValueError("no status")
        fields = dict(_fields(answer))
        header = dict(_fields(fields[1]))       # type: ignore[arg-type]
        return int(header[2]), int(fields.get(4, 0))

    async def caller(self, number: int | None = None) -> EtcdCaller:
        if number is None:
            number = await self.wait_for_leader()
        return EtcdCaller([await connect(self.ports[number]) for _ in range(self.connections)])


def _fields(data: bytes) -> list[tuple[int, bytes | int]]:
    """Fields of a message, numbers and bytes only."""
    found: list[tuple[int, bytes | int]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            found.append((key >> 3, data[at:at + value]))
            at += value
        else:
            found.append((key >> 3, value))
    return found


# -- pysyncobj ---------------------------------------------------------------------------------------------------------
class SyncObjCaller(Caller, asyncio.Protocol):
    def __init__(self) -> None:
        self._waiting: list[Done] = []
        self._lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        told, self._waiting = self._waiting[:len(data)], self._waiting[len(data):]
        for done, byte in zip(told, data, strict=True):
            done(byte == ord("1"))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(False)

    def put(self, values: list[bytes], done: Done) -> None:
        if self._lost:
            asyncio.get_running_loop().call_soon(done, False)
            return
        left = len(values)      # there is no call for several: they are proposed next to each other

        def one(safe: bool) -> None:
            nonlocal left
            left -= 1
            if not left:
                done(safe)

        self._waiting += [one] * len(values)
        self._transport.write(b"".join(values))

    async def close(self) -> None:
        self._transport.close()


class SyncObj(System):
    name = "pysyncobj"

    def __init__(self, folder: Path, sync: bool, value_bytes: int = 1024) -> None:
        super().__init__(folder, sync, value_bytes)
        ports = free_ports(6)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:3]]
        self.ports = ports[3:]

    def command(self, number: int) -> list[str]:
        others = ",".join(a for a in self.addresses if a != self.addresses[number])
        return [sys.executable, str(HERE / "syncobj_server.py"), self.addresses[number], others,
                str(self.ports[number]), str(self.folder / f"journal-{number}"), str(self.value_bytes),
                "1" if self.sync else "0"]

    async def leader(self) -> int | None:
        for number in range(3):
            member = self.members[number]
            if number in self.gone or member.stdin is None or member.stdout is None:
                continue
            member.stdin.write("\n")
            member.stdin.flush()
            line = await asyncio.get_running_loop().run_in_executor(None, member.stdout.readline)
            if line.strip() in self.addresses:
                found = self.addresses.index(line.strip())
                if found not in self.gone:
                    return found
        return None

    async def caller(self, number: int | None = None) -> SyncObjCaller:
        if number is None:
            number = await self.wait_for_leader()
        _, caller = await asyncio.get_running_loop().create_connection(SyncObjCaller, "127.0.0.1", self.ports[number])
        return caller


SYSTEMS: dict[str, type[System]] = {"ours": Ours, "etcd": Etcd, "pysyncobj": SyncObj}
