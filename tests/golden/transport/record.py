"""Record what real tablet servers say to each other about a replicated tablet: calls of ConsensusService, as JSON.

    PYTHONPATH=tests/support:. python tests/golden/transport/record.py OUT_DIR

A relay stands before each of three tablet servers, whose address is what the server advertises. Encryption is off, so
that the bytes can be read. Writes, a change of leader and a change of configuration; heartbeats are left out but for a
few.
"""
from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import oracle

from kudu_storage.protos import message_class
from kudu_storage.rpc.framing import FrameReader, parse_request, parse_response

PLAIN = ["--rpc_encryption=disabled", "--rpc_authentication=disabled"]
SERVICE = "kudu.consensus.ConsensusService"
OF_EACH_KIND = 12


class Relay:
    """Passes connections on to a server that may start later; keeps the bytes of both sides."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.target = free.getsockname()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.connections: list[dict[str, bytearray]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self.listening.accept()
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            streams = {"client": bytearray(), "server": bytearray()}
            self.connections.append(streams)
            threading.Thread(target=self._pass_on, args=(near, far, streams), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket, streams: dict[str, bytearray]) -> None:
        selector = selectors.DefaultSelector()
        selector.register(near, selectors.EVENT_READ, ("client", far))
        selector.register(far, selectors.EVENT_READ, ("server", near))
        with near, far, contextlib.suppress(OSError):
            while True:
                for key, _ in selector.select():
                    side, other = key.data
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    streams[side] += data
                    other.sendall(data)


def call_id(header: bytes, kind: str) -> int:
    found: int = message_class(f"kudu.rpc.{kind}").FromString(header).call_id    # type: ignore[attr-defined]
    return found


def calls(streams: dict[str, bytearray]) -> list[dict[str, Any]]:
    answers = {}
    for frame in FrameReader().feed(bytes(streams["server"])):
        if call_id(frame.header, "ResponseHeader") >= 0:
            response = parse_response(frame)
            answers[response.call_id] = (bytes(response.message), response.is_error)
    found = []
    for frame in FrameReader().feed(bytes(streams["client"][7:])):
        if call_id(frame.header, "RequestHeader") < 0:
            continue
        request = parse_request(frame)
        if request.service == SERVICE and request.call_id in answers and not answers[request.call_id][1]:
            found.append({"method": request.method, "request": bytes(request.message).hex(),
                          "response": answers[request.call_id][0].hex()})
    return found


def kind_of(call: dict[str, Any]) -> tuple[Any, ...]:
    if call["method"] != "UpdateConsensus":
        return (call["method"],)
    request: Any = message_class("kudu.consensus.ConsensusRequestPB").FromString(bytes.fromhex(call["request"]))
    response: Any = message_class("kudu.consensus.ConsensusResponsePB").FromString(bytes.fromhex(call["response"]))
    return (call["method"], sorted({op.op_type for op in request.ops}).__str__(), response.status.error.code,
            response.error.code if response.HasField("error") else 0)


def main(out: Path) -> None:
    kudu = oracle.find_kudu()
    assert kudu is not None, oracle.HOW_TO_GET
    relays = [Relay() for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        cluster = oracle.MiniCluster(kudu, Path(folder), 3, master_flags=PLAIN,
                                     tserver_flags=[*PLAIN, "--enable_maintenance_manager=false"])
        for server, relay in zip(cluster.tservers, relays, strict=True):
            server.flags += [f"--rpc_bind_addresses=127.0.0.1:{relay.target[1]}",
                             f"--rpc_advertised_addresses={relay.address}"]
        with cluster:
            record(cluster, kudu)
        kept: list[dict[str, Any]] = []
        seen: Counter[tuple[Any, ...]] = Counter()
        for relay in relays:
            for streams in relay.connections:
                for call in calls(streams):
                    seen[kind_of(call)] += 1
                    if seen[kind_of(call)] <= OF_EACH_KIND:
                        kept.append(call)
        print(seen)
        (out / "consensus_calls.json").write_text(json.dumps(kept, indent=1) + "\n")


def record(cluster: oracle.MiniCluster, kudu: oracle.KuduBinaries) -> None:
    column = {"column_name": "key", "column_type": "INT64", "is_nullable": False}
    value = {"column_name": "value", "column_type": "STRING", "is_nullable": False}
    cluster.create_table("t", [column, value], ["key"], replicas=3)
    cluster.loadgen("--table_name=t", "--num_rows_per_thread=200", "--num_threads=2", "--flush_per_n_rows=3",
                    "--string_len=8", *PLAIN)
    (tablet,) = cluster.tablet_ids("t")
    master = cluster.master_address
    kudu.run("tablet", "leader_step_down", master, tablet, *PLAIN, check=True)
    cluster.wait_healthy()
    cluster.loadgen("--table_name=t", "--num_rows_per_thread=20", "--num_threads=1", "--flush_per_n_rows=3",
                    "--string_len=8", "--seq_start=100000", *PLAIN)
    for kind in ("NON_VOTER", "VOTER"):
        for server in cluster.tservers:
            done = kudu.run("tablet", "change_config", "change_replica_type", master, tablet, str(server.uuid), kind,
                            *PLAIN)
            print(kind, done.returncode, done.stderr[-200:])
            if done.returncode == 0:
                break
    cluster.loadgen("--table_name=t", "--num_rows_per_thread=20", "--num_threads=1", "--flush_per_n_rows=3",
                    "--string_len=8", "--seq_start=200000", *PLAIN)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
