"""Our RPC client against the real servers, and the real `kudu` tool against our RPC server."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import oracle
import pytest

from kudu_storage.errors import NoSuchMethod, RemoteError, RequestRefused, TlsRequired
from kudu_storage.protos import message_class
from kudu_storage.rpc import (
    CallOptions,
    Method,
    Proxy,
    RpcCode,
    Server,
    Service,
    ServiceRegistry,
    connect,
    with_messages,
)
from kudu_storage.rpc.connection import ClientConnection

GENERIC = "kudu.server.GenericService"
TABLET_SERVER = "kudu.tserver.TabletServerService"
UUID = "0123456789abcdef0123456789abcdef"
ROWS = 3000


@pytest.fixture(scope="module")
def cluster(kudu: oracle.KuduBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[oracle.MiniCluster]:
    """A cluster with default security settings (TLS offered, not required) and a table of loadgen's rows."""
    with oracle.MiniCluster(kudu, tmp_path_factory.mktemp("rpc")) as cluster:
        cluster.loadgen("--keep_auto_table", f"--num_rows_per_thread={ROWS}", "--num_threads=1",
                        "--table_num_replicas=1", "--table_num_hash_partitions=2", "--table_num_range_partitions=1")
        yield cluster


def talk(server: oracle.Server, conversation: Callable[[ClientConnection], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        assert server.address is not None
        host, _, port = server.address.partition(":")
        connection = await connect(host, int(port))
        try:
            result = await conversation(connection)
            connection.check()
            return result
        finally:
            await connection.close()

    return asyncio.run(run())


def test_real_servers_tell_their_status_and_clock(cluster: oracle.MiniCluster) -> None:
    async def conversation(connection: ClientConnection) -> tuple[str, int, int]:
        generic = Proxy(connection, GENERIC)
        status = (await generic.call("GetStatus")).message.status
        clocks = [(await generic.call("ServerClock")).message.timestamp for _ in range(2)]
        return status.node_instance.permanent_uuid.decode(), clocks[0], clocks[1]

    for server in cluster.servers:
        uuid, before, after = talk(server, conversation)
        assert uuid == server.uuid
        assert 0 < before < after


def test_real_tablet_server_answers_many_calls_at_once(cluster: oracle.MiniCluster) -> None:
    async def conversation(connection: ClientConnection) -> int:
        proxy = Proxy(connection, TABLET_SERVER)
        # The server's queue holds 50; what is above it would be refused as too busy.
        answers = await asyncio.gather(*(proxy.call("Ping") for _ in range(40)))
        return len(answers)

    assert talk(cluster.tservers[0], conversation) == 40


async def scan(proxy: Proxy, tablet: Any, row_format_flags: int) -> tuple[int, int]:
    """Rows and bytes in sidecars of a whole tablet, in small batches so that there are several."""
    request = message_class("kudu.tserver.ScanRequestPB")()
    request.new_scan_request.tablet_id = tablet.tablet_status.tablet_id.encode()
    request.new_scan_request.row_format_flags = row_format_flags
    for column in tablet.schema.columns:
        projected = request.new_scan_request.projected_columns.add()
        projected.CopyFrom(column)
        projected.ClearField("id")
    request.call_seq_id = 0
    request.batch_size_bytes = 16 << 10
    rows = size = 0
    while True:
        answer = await proxy.call("Scan", request)
        message = answer.message
        assert not message.HasField("error"), message.error
        rows += message.columnar_data.num_rows if row_format_flags else message.data.num_rows
        size += sum(len(sidecar) for sidecar in answer.sidecars)
        if not message.has_more_results:
            return rows, size
        request = type(request)(scanner_id=message.scanner_id or request.scanner_id,
                                call_seq_id=request.call_seq_id + 1, batch_size_bytes=16 << 10)


@pytest.mark.parametrize("row_format_flags", [0, 2], ids=["rows", "columns"])
def test_scan_of_a_real_table_gives_all_rows_in_sidecars(cluster: oracle.MiniCluster, row_format_flags: int) -> None:
    async def conversation(connection: ClientConnection) -> list[tuple[int, int]]:
        proxy = Proxy(connection, TABLET_SERVER)
        tablets = (await proxy.call("ListTablets")).message.status_and_schema
        return [await scan(proxy, tablet, row_format_flags) for tablet in tablets]

    scanned = talk(cluster.tservers[0], conversation)
    assert len(scanned) == 2
    assert sum(rows for rows, _ in scanned) == ROWS
    assert sum(size for _, size in scanned) > ROWS * 16


def test_real_server_refuses_in_the_words_that_we_know(cluster: oracle.MiniCluster) -> None:
    async def conversation(connection: ClientConnection) -> None:
        with pytest.raises(NoSuchMethod) as no_service:
            await connection.call(Method("kudu.tserver.NoSuchService", "Ping"), b"", timeout_s=10)
        assert no_service.value.code == RpcCode.ERROR_NO_SUCH_SERVICE
        with pytest.raises(NoSuchMethod) as no_method:
            await connection.call(Method(TABLET_SERVER, "NoSuchMethod"), b"", timeout_s=10)
        assert no_method.value.code == RpcCode.ERROR_NO_SUCH_METHOD
        with pytest.raises(RequestRefused) as unknown_flag:
            await Proxy(connection, TABLET_SERVER).call("Ping", options=CallOptions(required_flags=(1, 4711)))
        assert unknown_flag.value.unsupported_flags == (4711,)
        with pytest.raises(RequestRefused):
            await connection.call(Method(TABLET_SERVER, "Write"), b"", timeout_s=10)    # lacks required fields
        await Proxy(connection, TABLET_SERVER).call("Ping")     # and the connection goes on

    talk(cluster.tservers[0], conversation)


def test_application_error_of_a_real_server_comes_with_its_extension(cluster: oracle.MiniCluster) -> None:
    async def conversation(connection: ClientConnection) -> tuple[int, dict[int, bytes]]:
        # The tablet copy service is the one that answers in this way, with a TabletCopyErrorPB.
        end_session = Method("kudu.tserver.TabletCopyService", "EndTabletCopySession")
        with pytest.raises(RemoteError) as refused:
            await connection.call(end_session, b"\x0a\x04none\x10\x01", timeout_s=10)   # session_id, is_success
        return refused.value.code, refused.value.extensions

    code, extensions = talk(cluster.tservers[0], conversation)
    assert code == RpcCode.ERROR_APPLICATION
    assert extensions[102].startswith(b"\x08\x02")      # code = NO_SESSION


def test_real_server_that_insists_on_tls_is_refused_with_advice(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    master = oracle.Server(kudu, "kudu-master", tmp_path / "master", ["--rpc_encryption=required"])
    master.start()
    try:
        with pytest.raises(TlsRequired, match="--rpc_encryption=optional"):
            talk(master, lambda connection: Proxy(connection, GENERIC).call("GetStatus"))
    finally:
        master.stop()


def test_real_server_without_security_is_spoken_to(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    master = oracle.Server(kudu, "kudu-master", tmp_path / "master",
                           ["--rpc_encryption=disabled", "--rpc_authentication=disabled"])
    master.start()
    try:
        answer = talk(master, lambda connection: Proxy(connection, GENERIC).call("GetStatus"))
        assert answer.message.status.node_instance.permanent_uuid.decode() == master.uuid
    finally:
        master.stop()


# -- the real tool against our server ----------------------------------------------------------------------------------
CLOCK = 7123456789 << 12


def generic_service(seen: list[tuple[str, str]]) -> Service:
    status = message_class("kudu.server.GetStatusResponsePB")()
    status.status.node_instance.permanent_uuid = UUID.encode()
    status.status.node_instance.instance_seqno = 1
    status.status.version_info.version_string = "kudu-storage test"
    flags = message_class("kudu.server.GetFlagsResponsePB")()
    flags.flags.add(name="a_flag", value="its value", is_default_value=False)
    clock = message_class("kudu.server.ServerClockResponsePB")(timestamp=CLOCK)

    def serve(answer: Any) -> Callable[[Any, Any], Any]:
        def handle(message: Any, request: Any) -> Any:
            seen.append((request.method, request.peer.user))
            return answer

        return handle

    return Service(GENERIC, {
        name: with_messages(message_class(f"kudu.server.{name}RequestPB"), serve(answer))
        for name, answer in [("GetStatus", status), ("ServerClock", clock), ("GetFlags", flags)]})


def run_tool(kudu: oracle.KuduBinaries, *arguments: str) -> tuple[str, list[tuple[str, str]]]:
    """What the tool printed about our server, and what it called, as whom."""
    seen: list[tuple[str, str]] = []

    async def run() -> str:
        server = Server(ServiceRegistry([generic_service(seen)]))
        host, port = await server.start()
        words = [f"{host}:{port}" if word == "ADDRESS" else word for word in arguments]
        done = await asyncio.to_thread(kudu.run, *words, timeout_s=60)
        await server.stop(grace_s=5)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return asyncio.run(run()), seen


@pytest.mark.parametrize("role", ["tserver", "master"])
def test_the_real_tool_reads_our_status(kudu: oracle.KuduBinaries, role: str) -> None:
    printed, seen = run_tool(kudu, role, "status", "ADDRESS")
    assert f'permanent_uuid: "{UUID}"' in printed
    assert "kudu-storage test" in printed
    assert [method for method, _ in seen] == ["GetStatus"]
    assert seen[0][1]       # it says who it is


def test_the_real_tool_reads_our_clock(kudu: oracle.KuduBinaries) -> None:
    printed, seen = run_tool(kudu, "tserver", "timestamp", "ADDRESS")
    assert str(CLOCK) in printed
    assert [method for method, _ in seen] == ["ServerClock"]


def test_the_real_tool_reads_our_flags(kudu: oracle.KuduBinaries) -> None:
    printed, _ = run_tool(kudu, "tserver", "get_flags", "ADDRESS")
    assert "a_flag" in printed and "its value" in printed


def test_the_real_tool_is_told_of_a_missing_service(kudu: oracle.KuduBinaries) -> None:
    async def run() -> str:
        server = Server(ServiceRegistry())
        host, port = await server.start()
        done = await asyncio.to_thread(kudu.run, "tserver", "status", f"{host}:{port}", timeout_s=60)
        await server.stop(grace_s=5)
        assert done.returncode != 0
        return done.stderr

    assert f"service {GENERIC} not registered" in asyncio.run(run())
