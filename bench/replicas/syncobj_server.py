"""One member of a pysyncobj group as a process, and a socket to propose by: values of one size, a byte back for each.

    python syncobj_server.py ADDRESS OTHER,OTHER PORT JOURNAL VALUE_BYTES SYNC

`b"1"` is committed and applied here, `b"0"` anything else. The state machine counts.
"""
from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated


class Count(SyncObj):  # type: ignore[misc]
    def __init__(self, me: str, others: list[str], journal: str, sync: bool) -> None:
        super().__init__(me, others, SyncObjConf(journalFile=journal, flushJournal=sync, appendEntriesUseBatch=True,
                                                 autoTickPeriod=0.001, appendEntriesPeriod=0.01))
        self.count = 0

    @replicated  # type: ignore[untyped-decorator]
    def put(self, value: bytes) -> int:
        self.count += 1
        return self.count


def serve(client: socket.socket, group: Count, size: int) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def told(_: Any, error: Any) -> None:
        with contextlib.suppress(OSError):
            client.sendall(b"0" if error else b"1")

    data = b""
    while received := client.recv(1 << 20):
        data += received
        while len(data) >= size:
            group.put(data[:size], callback=told)
            data = data[size:]


def main() -> None:
    me, others, port, journal, size, sync = sys.argv[1:]
    group = Count(me, others.split(","), journal, sync == "1")
    listener = socket.create_server(("127.0.0.1", int(port)))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, group, int(size)), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    while line := sys.stdin.readline():     # until the parent is gone
        leader = group._getLeader()
        print("" if leader is None else str(leader), flush=True)
        del line


if __name__ == "__main__":
    main()
