"""krpc calls between two processes on the loopback, against a plain asyncio echo of as many bytes.

    python bench/rpc.py [--rounds N] [--seconds S] [--message-bytes N]

Calls a second, the median and the 99th percentile of one call when one is outstanding, CPU microseconds a call of both
processes together. The floor moves the same numbers of bytes and does nothing with them: asyncio protocols, no frames,
no futures, no deadlines, all answers of one read written at once. The rounds of all subjects alternate; medians are
shown with the smallest and largest. The server is a process of its own.
"""
from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kudu_storage.rpc import ConnectionOptions, Method, Server, ServerOptions, Service, ServiceRegistry, connect
from kudu_storage.rpc.framing import encode_request, encode_response

ECHO = Method("bench.EchoService", "Echo")
TIMEOUT_S = 10.0


def cpu_s(pid: int | str) -> float:
    """CPU time of a process' main thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


# -- servers, in the child ---------------------------------------------------------------------------------------------
class PlainServer(asyncio.Protocol):
    """Answers `answer_bytes` for each `request_bytes` that came."""

    def __init__(self, request_bytes: int, answer: bytes) -> None:
        self.request_bytes, self.answer, self.pending = request_bytes, answer, 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        count, self.pending = divmod(self.pending + len(data), self.request_bytes)
        if count:
            self.transport.write(self.answer * count)


async def serve(message_bytes: int) -> None:
    registry = ServiceRegistry([Service(ECHO.service, {"Echo": lambda request: request.message})])
    _, krpc_port = await Server(registry, ServerOptions(calls_max=10_000)).start()
    request_bytes, answer = sizes(message_bytes)
    plain = await asyncio.get_running_loop().create_server(lambda: PlainServer(request_bytes, bytes(answer)),
                                                           "127.0.0.1", 0)
    print(krpc_port, plain.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def sizes(message_bytes: int) -> tuple[int, int]:
    """Bytes on the wire of a request and its answer."""
    message = bytes(message_bytes)
    return (len(b"".join(encode_request(10_000, ECHO, message, timeout_ms=int(TIMEOUT_S * 1000)))),
            len(b"".join(encode_response(10_000, message))))


# -- clients: each gives the number of calls, and their times ----------------------------------------------------------
class PlainClient(asyncio.Protocol):
    def __init__(self, request: bytes, answer_bytes: int, outstanding: int, seconds: float) -> None:
        self.request, self.answer_bytes, self.outstanding = request, answer_bytes, outstanding
        self.end = time.perf_counter() + seconds
        self.pending = self.calls = 0
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.started = time.perf_counter()
        transport.write(self.request * self.outstanding)

    def data_received(self, data: bytes) -> None:
        count, self.pending = divmod(self.pending + len(data), self.answer_bytes)
        if not count:
            return
        now = time.perf_counter()
        self.times.append(now - self.started)
        self.started = now
        self.calls += count
        if now < self.end:
            self.transport.write(self.request * count)
        elif not self.done.done():
            self.done.set_result(None)


async def plain(port: int, message_bytes: int, outstanding: int, seconds: float) -> tuple[int, list[float]]:
    request_bytes, answer_bytes = sizes(message_bytes)
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(
        lambda: PlainClient(bytes(request_bytes), answer_bytes, outstanding, seconds), "127.0.0.1", port)
    await client.done
    transport.close()
    return client.calls, client.times


async def awaited(port: int, message_bytes: int, outstanding: int, seconds: float) -> tuple[int, list[float]]:
    connection = await connect("127.0.0.1", port, ConnectionOptions(user="bench"))
    message, times, end = bytes(message_bytes), [], time.perf_counter() + seconds

    async def caller() -> None:
        now = time.perf_counter()
        while now < end:
            await connection.call(ECHO, message, timeout_s=TIMEOUT_S)
            times.append(-now + (now := time.perf_counter()))

    await asyncio.gather(*(caller() for _ in range(outstanding)))
    await connection.close()
    return len(times), times


async def called_back(port: int, message_bytes: int, outstanding: int, seconds: float) -> tuple[int, list[float]]:
    connection = await connect("127.0.0.1", port, ConnectionOptions(user="bench"))
    message, times, end = bytes(message_bytes), [], time.perf_counter() + seconds
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start() -> None:
        now = time.perf_counter()

        def on_done(outcome: object) -> None:
            answered = time.perf_counter()
            times.append(answered - now)
            if answered < end:
                start()
            elif not connection.in_flight and not done.done():
                done.set_result(None)

        connection.start_call(ECHO, message, on_done, timeout_s=TIMEOUT_S)

    for _ in range(outstanding):
        start()
    await done
    await connection.close()
    return len(times), times


SUBJECTS = {"plain echo": (plain, 1), "krpc, callbacks": (called_back, 0), "krpc, awaited": (awaited, 0)}


def measure(pid: int, ports: list[int], name: str, message_bytes: int, outstanding: int,
            seconds: float) -> dict[str, float]:
    client, port_index = SUBJECTS[name]
    before, started = cpu_s("self") + cpu_s(pid), time.perf_counter()
    calls, times = asyncio.run(client(ports[port_index], message_bytes, outstanding, seconds))
    wall, used = time.perf_counter() - started, cpu_s("self") + cpu_s(pid) - before
    cuts = statistics.quantiles(times, n=100)
    return {"calls/s": calls / wall, "CPU us/call": used / calls * 1e6,
            "p50 us": cuts[49] * 1e6, "p99 us": cuts[98] * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--message-bytes", type=int, default=128)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.message_bytes))
        return
    child = subprocess.Popen([sys.executable, __file__, "--serve", f"--message-bytes={options.message_bytes}"],
                             stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        ports = [int(word) for word in child.stdout.readline().split()]
        for outstanding in (1, 64):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in SUBJECTS}
            for _ in range(options.rounds):
                for name in SUBJECTS:
                    found[name].append(measure(child.pid, ports, name, options.message_bytes, outstanding,
                                               options.seconds))
            for name, rounds in found.items():
                shown = []
                for figure in rounds[0]:
                    values = [each[figure] for each in rounds]
                    if outstanding == 1 or not figure.startswith("p"):
                        middle = statistics.median(values)
                        shown.append(f"{figure} {middle:,.1f} ({min(values):,.1f} to {max(values):,.1f})")
                print(f"{outstanding:3} outstanding, {name:16}", "; ".join(shown))
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main()
