"""A million flushed rows of a real tablet server as answers to scans, in both of Kudu's layouts, in turn with others.

    python bench/scan_layouts.py [--rows N] [--rounds N] [--folder DIR]

Tables, server and warmth are those of bench/scan.py. Two comparisons, by the clock and by processor time, each the
other's time over ours within a round:
  encoding   blocks that lie in memory into sidecars of 1 MiB an answer, against
               copy     the same sidecars copied once more (malloc and memcpy)
               arrow    the blocks handed to pyarrow, which takes the buffers as they are
  scan       files into sidecars in this process, one thread, against
               kudu     the server that has these files open, asked for the same layout and size of answers over
                        loopback; its processor time alone, which has the sending of the answers in it
"""
from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scan import FLUSH, NARROW, WIDE, Table, Took, filled, flushed, in_turn, opened, processor_seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import oracle
import pyarrow

from kudu_storage._native.arrow import ArrowStream
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.protos import message_class
from kudu_storage.rpc import CallOptions, Proxy, connect
from kudu_storage.tablet.scanning import TabletScan
from kudu_storage.tablet.wire_blocks import ColumnarAnswers, RowwiseAnswers

ANSWER_BYTES = 1 << 20
LAYOUTS = {"rows": (0, RowwiseAnswers), "columns": (2, ColumnarAnswers)}


class Kept:
    """Blocks in memory, as a scan."""

    def __init__(self, schema: Any, blocks: Sequence[ColumnBlock]) -> None:
        self.schema, self._blocks = schema, blocks

    def blocks(self) -> Sequence[ColumnBlock]:
        return self._blocks


def scan_of(table: Table) -> TabletScan:
    return TabletScan(table.rowsets, [], table.schema, Snapshot.everything())


def timed(work: Callable[[], int], rows: int) -> Took:
    cpu, real = time.process_time(), time.perf_counter()
    found = work()
    took = Took(time.perf_counter() - real, time.process_time() - cpu)
    assert found == rows, f"{found} rows"
    return took


def encoded(scan: Any, kind: Any) -> int:
    """Answers are dropped as they come, as a server does that has sent them."""
    return sum(answer.row_count for answer in kind(scan).all(ANSWER_BYTES))


def copied(sidecars: Sequence[memoryview], rows: int) -> int:
    for sidecar in sidecars:
        bytes(sidecar)
    return rows


async def asked(address: str, tablet: str, schema: Any, flags: int) -> int:
    """Rows of a scan by the real server."""
    request = message_class("kudu.tserver.ScanRequestPB")(call_seq_id=0, batch_size_bytes=ANSWER_BYTES)
    request.new_scan_request.tablet_id, request.new_scan_request.row_format_flags = tablet.encode(), flags
    for column in schema:
        projected = request.new_scan_request.projected_columns.add()
        column.to_pb(projected)
        projected.ClearField("id")
        projected.is_key = False
    host, _, port = address.partition(":")
    connection = await connect(host, int(port))
    rows = 0
    try:
        while True:
            message, _ = await Proxy(connection, "kudu.tserver.TabletServerService").call(
                "Scan", request, CallOptions(timeout_s=60))
            assert not message.HasField("error"), message.error
            rows += message.columnar_data.num_rows if flags else message.data.num_rows
            if not message.has_more_results:
                return rows
            request = type(request)(scanner_id=message.scanner_id or request.scanner_id,
                                    call_seq_id=request.call_seq_id + 1, batch_size_bytes=ANSWER_BYTES)
    finally:
        await connection.close()


def served(server: oracle.Server, tablet: str, table: Table, flags: int, rows: int) -> Took:
    assert server.address is not None
    before, real = processor_seconds(server.pid), time.perf_counter()
    found = asyncio.run(asked(server.address, tablet, table.schema, flags))
    took = Took(time.perf_counter() - real, processor_seconds(server.pid) - before)
    assert found == rows, f"{found} rows"
    return took


def compare(server: oracle.Server, tablet: str, table: Table, rows: int, rounds: int) -> None:
    kept = Kept(table.schema, list(scan_of(table)))
    for name, (flags, kind) in LAYOUTS.items():
        sidecars = [part for answer in kind(kept).all(ANSWER_BYTES) for part in answer.sidecars]
        size = sum(map(len, sidecars))
        in_turn(f"{table.name}, {name}, encoding: {rows} rows, {size / 1e6:.1f} MB", {
            "ours": lambda kind=kind: timed(lambda: encoded(kept, kind), rows),
            "copy": lambda sidecars=sidecars: timed(lambda: copied(sidecars, rows), rows),
            "arrow": lambda: timed(lambda: pyarrow.table(ArrowStream(kept.schema, kept.blocks())).num_rows, rows),
        }, rounds)
        in_turn(f"{table.name}, {name}, scan", {
            "ours": lambda kind=kind: timed(lambda: encoded(scan_of(table), kind), rows),
            "kudu": lambda flags=flags: served(server, tablet, table, flags, rows),
        }, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--folder", type=Path, help="kept, and used again")
    given = parser.parse_args()
    binaries = oracle.find_kudu()
    if binaries is None:
        sys.exit(f"the real Kudu is not here: {oracle.HOW_TO_GET}")
    with tempfile.TemporaryDirectory() as made:
        run(binaries, given.folder or Path(made), given.rows, given.rounds)


def run(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cluster = oracle.MiniCluster(binaries, folder, tserver_flags=FLUSH)
    [server] = cluster.tservers
    try:
        if not server.root.exists():
            cluster.start()
            filled(cluster, NARROW, 3, rows)
            filled(cluster, WIDE, 20, rows // 4)
            flushed(server)
            server.stop()
        server.flags = ["--enable_maintenance_manager=false"]
        cluster.start()
        cluster.wait_healthy()
        for name, count in ((NARROW, rows), (WIDE, rows // 4)):
            [tablet] = cluster.tablet_ids(name)
            compare(server, tablet, opened(server.root, tablet, name, folder), count, rounds)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
