"""Record what the real `kudu` tool and real servers say to each other: one JSON file of frames for each command.

    PYTHONPATH=tests/support python tests/golden/rpc/record.py OUT_DIR

A relay stands between the tool and the server. Encryption is off on both sides, so that the bytes can be read.
"""
from __future__ import annotations

import json
import selectors
import socket
import sys
import tempfile
import threading
from pathlib import Path

import oracle

PLAIN = ["--rpc_encryption=disabled", "--rpc_authentication=disabled"]


class Relay:
    """Listens, and passes bytes on to one server; keeps them by connection and direction."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self.target = (host, int(port))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.connections: list[dict[str, bytearray]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self.listening.accept()
            far = socket.create_connection(self.target)
            streams = {"client": bytearray(), "server": bytearray()}
            self.connections.append(streams)
            threading.Thread(target=self._pass_on, args=(near, far, streams), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket, streams: dict[str, bytearray]) -> None:
        selector = selectors.DefaultSelector()
        selector.register(near, selectors.EVENT_READ, ("client", far))
        selector.register(far, selectors.EVENT_READ, ("server", near))
        with near, far:
            while True:
                for key, _ in selector.select():
                    side, other = key.data
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    streams[side] += data
                    other.sendall(data)


def main(out: Path) -> None:
    kudu = oracle.find_kudu()
    assert kudu is not None, oracle.HOW_TO_GET
    with tempfile.TemporaryDirectory() as folder, oracle.MiniCluster(
            kudu, Path(folder), master_flags=PLAIN, tserver_flags=PLAIN) as cluster:
        cluster.loadgen("--keep_auto_table", "--num_rows_per_thread=20", "--num_threads=1", "--table_num_replicas=1",
                        "--table_num_hash_partitions=2", "--table_num_range_partitions=1", *PLAIN)
        (table,) = cluster.table_names()
        tablet = cluster.tablet_ids(table)[0]
        address = cluster.tservers[0].address
        assert address is not None
        for name, words in {
            "tserver_status": ["tserver", "status"],
            "tserver_timestamp": ["tserver", "timestamp"],
            "remote_replica_dump": ["remote_replica", "dump"],
            "remote_replica_dump_missing": ["remote_replica", "dump"],
        }.items():
            relay = Relay(address)
            more = [tablet] if name == "remote_replica_dump" else ["0" * 32] if "missing" in name else []
            kudu.run(*words, relay.address, *more, *PLAIN)
            streams = [{side: data.hex() for side, data in connection.items()} for connection in relay.connections]
            (out / f"{name}.json").write_text(json.dumps(streams, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
