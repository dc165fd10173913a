"""The server's side of a connection, and the server, on a clock that does not wait."""
from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from rpc_pair import ECHO, SERVICE, RawPeer, pair, raw_client, service, turns, until
from virtual_time import run

from kudu_storage.common.limits import KIB, MIB
from kudu_storage.errors import (
    BadFrame,
    CallTimeout,
    ConnectionLost,
    InternalError,
    InvalidArgument,
    NegotiationFailed,
    NoSuchMethod,
    NotFound,
    RemoteError,
    RequestRefused,
    ServerTooBusy,
    ServerUnavailable,
)
from kudu_storage.protos import message_class
from kudu_storage.rpc import (
    LATER,
    CallOptions,
    CallRefused,
    Channel,
    Method,
    Proxy,
    Request,
    Response,
    RpcCode,
    Server,
    ServerOptions,
    Service,
    ServiceRegistry,
    with_messages,
)
from kudu_storage.rpc.framing import (
    NEGOTIATE_CALL_ID,
    encode_control,
    encode_request,
    parse_error,
    parse_response,
)
from kudu_storage.rpc.link import LINGER_S
from kudu_storage.rpc.server import State


def method(name: str) -> Method:
    return Method(SERVICE, name)


class Held:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Any:
        self.requests.append(request)
        return LATER


# -- handlers ----------------------------------------------------------------------------------------------------------
def test_handlers_answer_at_once_later_or_as_coroutines() -> None:
    async def wait(request: Request) -> Response:
        await asyncio.sleep(3)
        return Response(b"waited", [request.message])

    async def main() -> None:
        held = Held()
        client, served, _ = pair({"Hold": held, "Wait": wait, "Parts": lambda _: [b"pa", b"rts"]})
        later = asyncio.ensure_future(client.call(method("Hold"), b"", timeout_s=7))
        waited = await client.call(method("Wait"), b"sidecar")
        assert (bytes(waited.message), bytes(waited.sidecars[0])) == (b"waited", b"sidecar")
        assert bytes((await client.call(method("Parts"), b"")).message) == b"parts"
        (request,) = held.requests
        assert request.peer.user == "tester"
        loop = asyncio.get_running_loop()
        assert request.deadline is not None and loop.time() < request.deadline <= loop.time() + 4
        request.respond(b"held")
        assert bytes((await later).message) == b"held"
        with pytest.raises(InternalError, match="twice"):
            request.respond(b"again")
        served.check()
        await client.close()

    run(main())


def test_futures_answer_without_a_task_with_their_result_or_error() -> None:
    async def main() -> None:
        futures: list[asyncio.Future[bytes]] = []

        def handler(_: Request) -> asyncio.Future[bytes]:
            futures.append(asyncio.get_running_loop().create_future())
            return futures[-1]

        client, served, _ = pair({"Wait": handler})
        calls = [asyncio.ensure_future(client.call(method("Wait"), b"")) for _ in range(4)]
        await until(lambda: len(futures) == 4)
        futures[0].set_result(b"done")
        futures[1].set_exception(CallRefused("no", code=RpcCode.ERROR_SERVER_TOO_BUSY))
        futures[2].cancel()
        assert bytes((await calls[0]).message) == b"done"
        with pytest.raises(ServerTooBusy):
            await calls[1]
        with pytest.raises(ServerUnavailable):
            await calls[2]
        assert served.pending_calls == 1
        await client.close()
        with pytest.raises(ConnectionLost):
            await calls[3]
        futures[3].set_result(b"too late")      # dropped; nothing is told to the loop's handler
        await turns()
        served.check()

    run(main())


def refusing(error: Exception) -> Any:
    def handler(request: Request) -> bytes:
        raise error

    return handler


def test_what_a_handler_raises_is_told_by_its_kind() -> None:
    async def fails_later(request: Request) -> bytes:
        await asyncio.sleep(1)
        raise CallRefused("not now", code=RpcCode.ERROR_UNAVAILABLE)

    async def main() -> None:
        client, served, _ = pair({
            "Refuse": refusing(CallRefused("no session", extensions={102: b"\x08\x02"})),
            "Ours": refusing(NotFound("tablet 17 is not here")), "Bug": refusing(RuntimeError("secret")),
            "Later": fails_later})
        with pytest.raises(RemoteError, match="no session") as refused:
            await client.call(method("Refuse"), b"")
        assert (refused.value.code, refused.value.extensions) == (RpcCode.ERROR_APPLICATION, {102: b"\x08\x02"})
        with pytest.raises(RemoteError, match="tablet 17 is not here"):
            await client.call(method("Ours"), b"")
        with pytest.raises(RemoteError) as failed:
            await client.call(method("Bug"), b"")
        assert "secret" not in str(failed.value) and failed.value.code == RpcCode.ERROR_APPLICATION
        with pytest.raises(ServerUnavailable, match="not now"):
            await client.call(method("Later"), b"")
        loop: Any = asyncio.get_running_loop()
        assert [str(context["exception"]) for context in loop.reported] == ["secret"]
        served.check()
        await client.close()

    run(main(), expect_reports=True)


def test_unknown_services_methods_and_flags_are_refused() -> None:
    async def main() -> None:
        client, _, server = pair(flags=(1, 3))
        assert (await client.call(ECHO, b"", required_flags=(1, 3))).message == b""
        with pytest.raises(RequestRefused, match="unsupported feature flags") as flags:
            await client.call(ECHO, b"", required_flags=(1, 2, 3, 9))
        assert flags.value.unsupported_flags == (2, 9)
        for unknown in (method("None"), Method("no.Service", "Echo")):
            with pytest.raises(NoSuchMethod):
                await client.call(unknown, b"")
        server.registry.add(Service("no.Service", {"Echo": lambda request: b"now"}))
        assert bytes((await client.call(Method("no.Service", "Echo"), b"")).message) == b"now"
        server.registry.remove("no.Service")
        with pytest.raises(InvalidArgument, match="already"):
            server.registry.add(service())
        await client.close()

    run(main())


def test_typed_handlers_and_proxies_speak_in_messages() -> None:
    clock = message_class("kudu.server.ServerClockResponsePB")

    async def main() -> None:
        client, _, server = pair()
        server.registry.add(Service("kudu.server.GenericService", {
            "ServerClock": with_messages(message_class("kudu.server.ServerClockRequestPB"),
                                         lambda message, request: clock(timestamp=42)),
            "SetFlag": with_messages(message_class("kudu.server.SetFlagRequestPB"), lambda message, request: message),
            "GetStatus": lambda request: b"\xff"}))
        proxy = Proxy(client, "kudu.server.GenericService")
        assert (await proxy.call("ServerClock")).message.timestamp == 42
        with pytest.raises(InvalidArgument, match="lacks flag, value"):
            await proxy.call("SetFlag")
        with pytest.raises(InvalidArgument, match="no method"):
            await proxy.call("NoSuch", options=CallOptions(timeout_s=1))
        with pytest.raises(RequestRefused, match="missing fields: value"):
            await client.call(Method("kudu.server.GenericService", "SetFlag"), b"\x0a\x01f")
        with pytest.raises(RequestRefused, match="invalid parameter"):
            await client.call(Method("kudu.server.GenericService", "SetFlag"), b"\xff")
        with pytest.raises(BadFrame, match="response"):
            await proxy.call("GetStatus")
        await client.close()

    run(main())


def test_answer_above_the_limit_is_an_error_and_not_a_lost_connection() -> None:
    async def main() -> None:
        client, _, _ = pair({"Big": lambda request: bytes(2000)},
                            server_options=ServerOptions(idle_s=0, frame_bytes_max=2000))
        with pytest.raises(RemoteError, match="2000 is the limit"):
            await client.call(method("Big"), b"")
        assert len((await client.call(ECHO, bytes(1500))).message) == 1500
        await client.close()

    run(main())


# -- bounds ------------------------------------------------------------------------------------------------------------
def test_calls_beyond_the_bound_are_answered_too_busy() -> None:
    async def main() -> None:
        held = Held()
        client, served, _ = pair({"Hold": held}, server_options=ServerOptions(idle_s=0, calls_max=3))
        calls = [asyncio.ensure_future(client.call(method("Hold"), b"", timeout_s=60)) for _ in range(5)]
        outcomes = await asyncio.gather(*calls[3:], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ServerTooBusy] * 2
        served.check()
        for request in held.requests:
            request.respond(b"")
        await asyncio.gather(*calls[:3])
        assert (await client.call(ECHO, b"")).message == b""
        await client.close()

    run(main())


def test_requests_that_wait_hold_no_more_memory_than_the_bound() -> None:
    async def main() -> None:
        held = Held()
        client, served, _ = pair({"Hold": held}, server_options=ServerOptions(idle_s=0, pending_bytes_max=1 * MIB))
        calls = [asyncio.ensure_future(client.call(method("Hold"), bytes(100 * KIB))) for _ in range(60)]
        answered = 0
        while answered < 60:
            await until(lambda: len(held.requests) > answered)      # noqa: B023  # called before it changes
            await turns()
            assert served.pending_calls <= 11
            served.check()
            held.requests[answered].respond(b"")
            answered += 1
        await asyncio.gather(*calls)
        served.check()
        await client.close()

    run(main())


def test_peer_that_does_not_read_its_answers_holds_no_more_memory_than_the_bound() -> None:
    async def main() -> None:
        options = ServerOptions(idle_s=0, send_bytes_max=1 * MIB)
        server = Server(ServiceRegistry([service({"Big": lambda request: bytes(100 * KIB)})]), options)
        peer, served = await raw_client(server)
        sent = 0
        stalled = 0
        request = b"".join(encode_request(0, method("Big"), b"x" * 1000))
        while stalled < 50:      # until neither side moves any more
            try:
                sent += peer.sock.send(request[sent % len(request):])
                stalled = 0
            except BlockingIOError:
                stalled += 1
            await asyncio.sleep(0)
            served.check()
        complete = sent // len(request)
        assert complete > 15
        for _ in range(complete):      # now it reads, and gets all of them
            assert len(parse_response(await peer.frame()).message) == 100 * KIB
            served.check()
        peer.close()
        await server.stop()

    run(main())


def test_peer_that_takes_no_answers_for_the_idle_time_is_cut_off() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry([service({"Big": lambda request: bytes(8 * MIB)})]), ServerOptions(idle_s=60))
        peer, served = await raw_client(server)
        await peer.send(b"".join(encode_request(0, method("Big"), b"")))
        await asyncio.sleep(200)
        assert served.state is State.CLOSED
        assert isinstance(served.error, ConnectionLost)
        peer.close()

    run(main())


def test_call_whose_deadline_passed_while_it_waited_is_not_handled() -> None:
    async def main() -> None:
        held = Held()
        server = Server(ServiceRegistry([service({"Hold": held})]), ServerOptions(idle_s=0, pending_bytes_max=1000))
        peer, served = await raw_client(server)
        first = encode_request(0, method("Hold"), bytes(2000))      # alone more than what may wait
        rest = [encode_request(number, ECHO, b"", timeout_ms=timeout) for number, timeout in ((1, 1000), (2, 0))]
        await peer.send(b"".join(b"".join(buffers) for buffers in (first, *rest)))
        await until(lambda: bool(held.requests))
        await asyncio.sleep(5)
        assert served.pending_calls == 1
        held.requests[0].respond(b"")
        answers = {answer.call_id: answer for answer in [parse_response(await peer.frame()) for _ in range(3)]}
        assert {number: answer.is_error for number, answer in answers.items()} == {0: False, 1: True, 2: False}
        assert parse_error(answers[1].message).code == RpcCode.ERROR_SERVER_TOO_BUSY
        served.check()
        peer.close()
        await server.stop()

    run(main())


def test_last_answers_arrive_although_the_peer_went_on_sending() -> None:
    async def main() -> None:
        held = Held()
        server = Server(ServiceRegistry([service({"Hold": held})]), ServerOptions(idle_s=0))
        peer, _ = await raw_client(server)
        await peer.send(b"".join(encode_request(0, method("Hold"), b"")))
        await until(lambda: bool(held.requests))
        stopping = asyncio.ensure_future(server.stop(grace_s=5))
        await turns()
        answer = bytes(2 * MIB)
        held.requests[0].respond(answer)
        await peer.send(b"".join(encode_request(1, ECHO, bytes(100 * KIB))))
        await turns()
        assert parse_response(await peer.frame()).message == answer
        await peer.end()
        peer.close()
        await stopping

    run(main())


def test_peer_that_never_closes_is_not_waited_for_long() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry([service()]), ServerOptions(idle_s=0))
        peer, _ = await raw_client(server)
        await until(lambda: all(connection.user for connection in server.connections))
        loop = asyncio.get_running_loop()
        start = loop.time()
        await server.stop(grace_s=30)
        assert loop.time() - start == pytest.approx(LINGER_S)
        peer.close()

    run(main())


def test_end_of_a_peer_is_told_once_to_those_who_asked() -> None:
    async def main() -> None:
        ended: list[Exception | None] = []

        def fails(_: Exception | None) -> None:
            raise RuntimeError("a listener's bug")

        def ask(request: Request) -> bytes:
            request.peer.end_callbacks.extend([fails, ended.append])
            return b""

        client, served, _ = pair({"Ask": ask})
        await client.call(method("Ask"), b"")
        assert ended == []
        client.abort()
        await until(lambda: served.state is State.CLOSED)
        assert ended == [None]
        loop: Any = asyncio.get_running_loop()
        assert [str(context["exception"]) for context in loop.reported] == ["a listener's bug"]
        await client.closed()

    run(main(), expect_reports=True)


# -- peers that are not what they should be ----------------------------------------------------------------------------
async def silent_peer(server: Server) -> tuple[RawPeer, Any]:
    near, far = socket.socketpair()
    return RawPeer(near), server.adopt(far)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01", b"hrpc\x08\0\0"])
def test_peer_that_speaks_something_else_is_cut_off(data: bytes) -> None:
    async def main() -> None:
        server = Server(ServiceRegistry())
        peer, served = await silent_peer(server)
        await peer.send(data)
        await peer.end()
        assert isinstance(served.error, BadFrame) and not server.connections
        peer.close()

    run(main())


def test_peer_that_says_nothing_is_cut_off_after_the_negotiation_time() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry(), ServerOptions(negotiation_s=3))
        loop = asyncio.get_running_loop()
        start = loop.time()
        peer, served = await silent_peer(server)
        await peer.send(b"hrpc\x09\0\0\0\0")       # half open: it begins, and then nothing
        await asyncio.sleep(2.9)
        assert server.connections
        await asyncio.sleep(0.2)
        assert not server.connections and loop.time() - start < 3.2
        assert isinstance(served.error, NegotiationFailed)
        peer.close()

    run(main())


def test_large_frames_are_refused_before_the_peer_has_introduced_itself() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry())
        peer, served = await silent_peer(server)
        await peer.send(b"hrpc\x09\0\0" + (1 * MIB).to_bytes(4, "big"))
        await peer.end()
        assert served.error is not None and served.error.kind == "frame_too_large"
        peer.close()

    run(main())


def test_negotiation_that_fails_ends_with_a_reason_for_the_peer() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry())
        peer, _ = await silent_peer(server)
        offer = message_class("kudu.rpc.NegotiatePB")(step=1, authn_types=[{"token": {}}])
        await peer.send(b"hrpc\x09\0\0" + encode_control(NEGOTIATE_CALL_ID, offer.SerializeToString()))
        response = parse_response(await peer.frame())
        assert response.is_error and parse_error(response.message).code == RpcCode.FATAL_UNAUTHORIZED
        await peer.end()
        peer.close()
        await until(lambda: not server.connections)

    run(main())


def test_bad_frame_of_one_peer_ends_its_connection_and_no_other() -> None:
    async def main() -> None:
        client, _, server = pair()
        await client.opened()
        peer, bad = await raw_client(server)
        await peer.send(b"\0\0\0\x02\0\0")
        await peer.end()
        assert isinstance(bad.error, BadFrame)
        assert bytes((await client.call(ECHO, b"fine")).message) == b"fine"
        await client.close()
        peer.close()

    run(main())


def test_peer_that_leaves_does_not_stop_its_handlers_and_their_answers_are_dropped() -> None:
    async def main() -> None:
        finished = []

        async def work(request: Request) -> bytes:
            await asyncio.sleep(10)
            finished.append(request.call_id)
            return b"nobody waits"

        held = Held()
        client, served, _ = pair({"Work": work, "Hold": held})
        for name in ("Work", "Hold"):
            client.start_call(method(name), b"", lambda _: None)
        await until(lambda: served.pending_calls == 2)
        await client.close()
        await until(lambda: served.state is State.CLOSED)
        held.requests[0].respond(b"nobody waits")
        await asyncio.sleep(20)
        assert finished == [0]
        served.check()

    run(main())


def test_idle_peer_is_closed_and_one_with_a_call_under_way_is_not() -> None:
    async def main() -> None:
        held = Held()
        client, served, server = pair({"Hold": held}, server_options=ServerOptions(idle_s=65))
        call = asyncio.ensure_future(client.call(method("Hold"), b""))
        await asyncio.sleep(300)
        assert server.connections
        held.requests[0].respond(b"")
        await call
        await client.closed()
        assert not server.connections and served.error is None

    run(main())


# -- stopping ----------------------------------------------------------------------------------------------------------
def test_stopping_server_finishes_what_it_has_and_refuses_what_comes() -> None:
    async def main() -> None:
        held = Held()
        client, _, server = pair({"Hold": held})
        first = asyncio.ensure_future(client.call(method("Hold"), b"first"))
        await until(lambda: bool(held.requests))
        stopping = asyncio.ensure_future(server.stop(grace_s=30))
        await turns()
        with pytest.raises(ServerUnavailable):
            await client.call(ECHO, b"late", timeout_s=5)
        held.requests[0].respond(b"done")
        assert bytes((await first).message) == b"done"
        await stopping
        await client.closed()
        assert not server.connections

    run(main())


def test_stopping_server_gives_up_after_the_grace_and_cancels_its_handlers() -> None:
    async def main() -> None:
        async def for_ever(request: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        client, served, server = pair({"Wait": for_ever})
        loop = asyncio.get_running_loop()
        start = loop.time()
        lost = asyncio.ensure_future(client.call(method("Wait"), b"", timeout_s=60))
        await until(lambda: served.pending_calls == 1)
        await server.stop(grace_s=5)
        assert loop.time() - start == pytest.approx(5, abs=0.1)
        with pytest.raises((ConnectionLost, ServerUnavailable)):
            await lost
        await turns()

    run(main())


def test_idle_connections_end_at_once_when_the_server_stops() -> None:
    async def main() -> None:
        client, _, server = pair()
        await client.call(ECHO, b"")
        loop = asyncio.get_running_loop()
        start = loop.time()
        await server.stop(grace_s=30)
        assert loop.time() == start
        await client.closed()

    run(main())


# -- over TCP ----------------------------------------------------------------------------------------------------------
def test_channel_connects_again_after_the_server_came_back() -> None:
    async def main() -> None:
        registry = ServiceRegistry([service()])
        server = Server(registry)
        host, port = await server.start()
        channel = Channel(host, port)
        assert bytes((await channel.call(ECHO, b"one", timeout_s=20)).message) == b"one"
        ended = []
        channel.on_end = ended.append
        first = channel.connection
        assert first is not None
        await server.stop()
        await first.closed()
        with pytest.raises(ConnectionLost):
            await channel.call(ECHO, b"", timeout_s=20)
        with pytest.raises(ConnectionLost, match="cannot connect"):     # at once: the back-off runs
            channel.start_call(ECHO, b"", lambda _: None)
        again = Server(registry)
        await again.start(host, port)

        async def until_served() -> bytes:
            while True:
                try:
                    return bytes((await channel.call(ECHO, b"two", timeout_s=20)).message)
                except ConnectionLost:
                    await asyncio.sleep(0)

        assert ended[0] is first and not ended[1].was_open
        assert await asyncio.wait_for(until_served(), 20) == b"two"
        await channel.close()
        await again.stop()

    asyncio.run(main())


def test_many_connections_at_once_and_no_more_than_allowed() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry([service()]), ServerOptions(connections_max=50))
        host, port = await server.start()
        channels = [Channel(host, port) for _ in range(60)]
        outcomes = await asyncio.gather(*(channel.call(ECHO, b"hello", timeout_s=20) for channel in channels),
                                        return_exceptions=True)
        served = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(served) == 50 and len(server.connections) == 50
        assert all(isinstance(outcome, (ConnectionLost, NegotiationFailed)) for outcome in refused)
        for channel in channels:
            await channel.close()
        await server.stop()
        assert not server.connections

    asyncio.run(main())


def test_address_in_use_is_told() -> None:
    async def main() -> None:
        server = Server(ServiceRegistry())
        host, port = await server.start()
        with pytest.raises(ConnectionLost, match=f"cannot listen on {host}:{port}.*in use"):
            await Server(ServiceRegistry()).start(host, port)
        await server.stop()

    asyncio.run(main())


def test_timeout_is_told_to_the_server_as_a_deadline() -> None:
    async def main() -> None:
        held = Held()
        client, _, _ = pair({"Hold": held})
        with pytest.raises(CallTimeout):
            await client.call(method("Hold"), b"", timeout_s=2.5)
        loop = asyncio.get_running_loop()
        assert held.requests[0].deadline is not None
        assert held.requests[0].deadline <= loop.time()
        held.requests[0].respond(b"too late")
        await turns()
        await client.close()

    run(main())
