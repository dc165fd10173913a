"""Answers to scans: the sidecars of a real tablet server on a replica of ours, and ours, byte for byte."""
from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import oracle
import pytest

import kudu_storage.client as client
from kudu_storage import Tablet
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.wire_columns import decode_columnar
from kudu_storage._native.wire_rows import decode_rowwise
from kudu_storage.protos import message_class
from kudu_storage.rpc import CallOptions, Proxy, connect
from kudu_storage.tablet.scanner import Scanner
from kudu_storage.tablet.wire_blocks import Blocks, ColumnarAnswers, RowwiseAnswers

ROWS = 2345
PADDED, COLUMNAR = 1, 2
WHOLE = 8 << 20         # --scanner_max_batch_size_bytes
LATEST, AT_SNAPSHOT = 1, 2
ORDERED = 2
IS_DELETED = 18
LAYOUTS = pytest.mark.parametrize("flags", [0, PADDED, COLUMNAR], ids=["rows", "padded rows", "columns"])
TYPES = ["int8", "int16", "int32", "int64", "bool", "float", "double", "string", "binary", "date", "unixtime_micros"]


def every_type() -> client.Schema:
    """Each type as one column that may be NULL and one that may not."""
    builder = client.schema_builder()
    builder.add_column("k1", client.string, nullable=False)
    builder.add_column("k2", client.int32, nullable=False)
    for prefix, nullable in (("n", True), ("c", False)):
        for name in TYPES:
            builder.add_column(f"{prefix}_{name}", name, nullable=nullable)
        builder.add_column(f"{prefix}_varchar", client.varchar, length=9, nullable=nullable)
        for precision in (9, 18, 38):
            builder.add_column(f"{prefix}_decimal{precision}", client.decimal, precision=precision, scale=2,
                               nullable=nullable)
    return builder.set_primary_keys(["k1", "k2"]).build()


def record(row: int, more: int = 0) -> dict[str, Any]:
    n = row * 7919 + more
    values: dict[str, Any] = {
        "int8": n % 256 - 128, "int16": n % 65536 - 32768, "int32": n * 12345 % 2**32 - 2**31, "int64": -n * 2**30,
        "bool": n % 3 == 0, "float": n / 8, "double": -n / 3, "string": "é" * (n % 5), "binary": bytes(range(n % 11)),
        "date": datetime.date(1970, 1, 1) + datetime.timedelta(days=n % 30000 - 9000),
        "unixtime_micros": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=n),
        "varchar": "v" * (n % 10), "decimal9": Decimal(n % 10**9).scaleb(-2),
        "decimal18": Decimal(-n * 10**6).scaleb(-2),
        "decimal38": Decimal(n * 10**20).scaleb(-2)}
    found = {"k1": f"key {row:06d}", "k2": -row}
    for place, (name, value) in enumerate(values.items()):
        found[f"c_{name}"] = value
        found[f"n_{name}"] = None if (row + place) % 4 == 0 else value
    return found


def write(tablet: Tablet, verb: str, rows: Sequence[dict[str, Any]]) -> None:
    session = tablet.new_session()
    for row in rows:
        session.apply(getattr(tablet, f"new_{verb}")(row))
    session.flush()


class Answered(NamedTuple):
    """One answer of the real server."""

    row_count: int
    described: bytes
    sidecars: list[bytes]


def new_scan(tablet_id: str, schema: client.Schema, flags: int, **more: Any) -> Any:
    request = message_class("kudu.tserver.ScanRequestPB")()
    scan = request.new_scan_request
    scan.tablet_id, scan.row_format_flags = tablet_id.encode(), flags
    for column in schema:
        projected = scan.projected_columns.add()
        column.to_pb(projected)
        projected.ClearField("id")
        projected.is_key = False
    for name, value in more.items():
        setattr(scan, name, value)
    return request


async def answers(proxy: Proxy, request: Any, bytes_max: int) -> list[Answered]:
    found: list[Answered] = []
    columnar = bool(request.new_scan_request.row_format_flags & COLUMNAR)
    request.call_seq_id, request.batch_size_bytes = 0, bytes_max
    while True:
        message, sidecars = await proxy.call("Scan", request, CallOptions(timeout_s=60))
        assert not message.HasField("error"), message.error
        data = message.columnar_data if columnar else message.data
        found.append(Answered(data.num_rows, data.SerializeToString(), [bytes(sidecar) for sidecar in sidecars]))
        if not message.has_more_results:
            return found
        request = type(request)(scanner_id=message.scanner_id or request.scanner_id,
                                call_seq_id=request.call_seq_id + 1, batch_size_bytes=bytes_max)


def ask(server: oracle.Server, conversation: Callable[[Proxy], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        assert server.address is not None
        host, _, port = server.address.partition(":")
        connection = await connect(host, int(port))
        try:
            return await conversation(Proxy(connection, "kudu.tserver.TabletServerService"))
        finally:
            await connection.close()

    return asyncio.run(run())


class OneBlock:
    """All rows of a scan in one block: groups of rows then end where the server's do."""

    def __init__(self, scan: Scanner) -> None:
        self.schema, self._rows = scan.schema, scan.read_all_tuples()

    def blocks(self) -> list[ColumnBlock]:
        return [ColumnBlock.from_tuples(self.schema, self._rows)]


def ours(scan: Blocks, flags: int, row_counts: Sequence[int], group_rows: int = 128) -> list[Answered]:
    """Answers of as many rows as the server's."""
    kind = "kudu.ColumnarRowBlockPB" if flags & COLUMNAR else "kudu.RowwiseRowBlockPB"
    gathered: Any = ColumnarAnswers(scan) if flags & COLUMNAR else RowwiseAnswers(
        scan, pad_unixtime=bool(flags & PADDED), group_rows=group_rows)
    found = []
    for row_count in row_counts:
        answer = gathered.next(2**31 - 1, rows_max=row_count)
        message = message_class(kind)()
        answer.describe(message)
        found.append(Answered(answer.row_count, message.SerializeToString(), [bytes(part) for part in answer.sidecars]))
    assert not gathered.has_more()
    return found


def decoded(schema: client.Schema, flags: int, answer: Answered) -> list[tuple[Any, ...]]:
    if not flags & COLUMNAR:
        rows, *indirect = answer.sidecars
        return decode_rowwise(schema, answer.row_count, rows, *indirect, pad_unixtime=bool(flags & PADDED)).to_tuples()
    message = message_class("kudu.ColumnarRowBlockPB").FromString(answer.described)
    columns: list[Any] = [[answer.sidecars[getattr(told, name)] if told.HasField(name) else None
                           for name in ("data_sidecar", "varlen_data_sidecar", "non_null_bitmap_sidecar")]
                          for told in message.columns]
    return decode_columnar(schema, answer.row_count, columns).to_tuples()


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tablet]:
    """One rowset, without deltas."""
    with Tablet.create(tmp_path_factory.mktemp("flushed") / "fs", every_type(), durability="os") as tablet:
        write(tablet, "insert", [record(row) for row in range(ROWS)])
        tablet.flush()
        yield tablet


@pytest.fixture(scope="module")
def flushed_there(kudu: oracle.KuduBinaries, flushed: Tablet,
                  tmp_path_factory: pytest.TempPathFactory) -> Iterator[oracle.Server]:
    folder = tmp_path_factory.mktemp("there") / "ts"
    with oracle.start_tserver_on_replica(kudu, Path(flushed.path), folder) as replica:
        replica.bootstrap(flushed.tablet_id)
        replica.dump_rows(flushed.tablet_id)        # answers scans from here on
        yield replica.server


@LAYOUTS
@pytest.mark.parametrize("bytes_max", [WHOLE, 40_000])
def test_sidecars_are_those_of_a_real_server(flushed: Tablet, flushed_there: oracle.Server, flags: int,
                                             bytes_max: int) -> None:
    request = new_scan(flushed.tablet_id, flushed.schema, flags)
    theirs = ask(flushed_there, lambda proxy: answers(proxy, request, bytes_max))
    assert len(theirs) == 1 if bytes_max == WHOLE else len(theirs) > 4
    scan = flushed.scanner().open() if flags & COLUMNAR else OneBlock(flushed.scanner())
    assert ours(scan, flags, [answer.row_count for answer in theirs]) == theirs
    assert [row for answer in theirs for row in decoded(flushed.schema, flags, answer)] \
        == flushed.scanner().read_all_tuples()


@LAYOUTS
@pytest.mark.parametrize("names", [[], ["c_unixtime_micros"], ["n_string", "k2"], ["n_bool", "c_int8", "n_decimal38"]],
                         ids=lambda names: "+".join(names) or "none")
def test_sidecars_of_some_columns_are_those_of_a_real_server(flushed: Tablet, flushed_there: oracle.Server,
                                                             flags: int, names: list[str]) -> None:
    request = new_scan(flushed.tablet_id, flushed.schema.project(names), flags)
    theirs = ask(flushed_there, lambda proxy: answers(proxy, request, WHOLE))
    assert sum(answer.row_count for answer in theirs) == ROWS
    scan = flushed.scanner().set_projected_column_names(names)
    given = scan.open() if flags & COLUMNAR else OneBlock(scan)
    assert ours(given, flags, [answer.row_count for answer in theirs]) == theirs


def test_sidecars_of_changed_rows_and_of_diff_scans_are_those_of_a_real_server(kudu: oracle.KuduBinaries,
                                                                               tmp_path: Path) -> None:
    """Rows of several stores, some deleted. The server takes one row at a time, so that its groups are ours."""
    with Tablet.create(tmp_path / "fs", every_type(), durability="os") as tablet:
        write(tablet, "insert", [record(row) for row in range(300)])
        tablet.flush()
        write(tablet, "insert", [record(row) for row in range(300, 400)])
        tablet.flush()
        before = tablet.now()
        write(tablet, "upsert", [record(row, more=5) for row in range(0, 400, 7)])
        write(tablet, "delete", [{"k1": f"key {row:06d}", "k2": -row} for row in range(0, 400, 3)])
        write(tablet, "insert", [record(row) for row in range(900, 950)])
        after = tablet.now()
        with oracle.start_tserver_on_replica(kudu, Path(tablet.path), tmp_path / "ts",
                                             flags=["--scanner_batch_size_rows=1"]) as replica:
            replica.bootstrap(tablet.tablet_id)
            replica.dump_rows(tablet.tablet_id)
            for flags in (0, PADDED, COLUMNAR):
                request = new_scan(tablet.tablet_id, tablet.schema, flags, read_mode=AT_SNAPSHOT, snap_timestamp=after,
                                   order_mode=ORDERED)
                theirs = ask(replica.server, lambda proxy, request=request: answers(proxy, request, WHOLE))
                scan = tablet.scanner().set_snapshot(after).ordered().open()
                assert ours(scan, flags, [answer.row_count for answer in theirs], group_rows=1) == theirs
                assert 250 < sum(answer.row_count for answer in theirs) < 350

                request.new_scan_request.snap_start_timestamp = before
                marked = request.new_scan_request.projected_columns.add()
                marked.name, marked.type, marked.read_default_value = "is_deleted", IS_DELETED, b"\0"
                theirs = ask(replica.server, lambda proxy, request=request: answers(proxy, request, WHOLE))
                scan = tablet.scanner().set_diff(before, after).open()
                assert ours(scan, flags, [answer.row_count for answer in theirs], group_rows=1) == theirs
                rows = [row for answer in theirs for row in decoded(scan.schema, flags, answer)]
                assert sum(row[-1] for row in rows) == len(range(0, 400, 3)) and len(rows) > 200
