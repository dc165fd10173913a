"""The client's side of a connection, on a clock that does not wait."""
from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import struct
from typing import Any

import pytest
from rpc_pair import ECHO, SERVICE, RawPeer, connect_raw, pair, turns, until
from virtual_time import run

from kudu_storage.common.limits import KIB, MIB
from kudu_storage.errors import (
    CallTimeout,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    NegotiationFailed,
    RemoteError,
    RpcBackpressure,
    RpcError,
    ServerTooBusy,
    ServerUnavailable,
)
from kudu_storage.rpc import (
    LATER,
    ConnectionOptions,
    Method,
    Reply,
    Request,
    Response,
    RpcCode,
    ServerOptions,
    connect,
)
from kudu_storage.rpc.connection import ClientConnection, State
from kudu_storage.rpc.deadlines import TICKS_PER_S, Deadlines
from kudu_storage.rpc.framing import encode_error, encode_response, parse_request
from kudu_storage.rpc.link import SocketLink

TICK_S = 1 / TICKS_PER_S
HOLD = Method(SERVICE, "Hold")


def no_idle(**options: Any) -> ConnectionOptions:
    return ConnectionOptions(user="tester", idle_s=0, **options)


async def served_by_hand(options: ConnectionOptions | None = None) -> tuple[ClientConnection, RawPeer]:
    client, far = connect_raw(options)
    peer = RawPeer(far)
    await peer.serve()
    await client.opened()
    return client, peer


class Outcomes:
    """Collects what calls came to."""

    def __init__(self) -> None:
        self.all: list[Reply | RpcError] = []

    def __call__(self, outcome: Reply | RpcError) -> None:
        self.all.append(outcome)

    @property
    def only(self) -> Reply | RpcError:
        (outcome,) = self.all
        return outcome


def test_call_is_answered_with_message_and_sidecars() -> None:
    async def main() -> None:
        client, _, _ = pair({"Back": lambda request: Response(request.message, request.sidecars)})
        reply = await client.call(Method(SERVICE, "Back"), [b"mess", b"age"], sidecars=[b"one", [b"t", b"wo"], b""])
        assert bytes(reply.message) == b"message"
        assert [bytes(sidecar) for sidecar in reply.sidecars] == [b"one", b"two", b""]
        await client.close()

    run(main())


def test_megabytes_of_cache_slices_arrive_whole_in_both_directions() -> None:
    async def main() -> None:
        client, served, _ = pair({"Back": lambda request: Response(request.message, request.sidecars)})
        slices = [memoryview(bytes([number % 251]) * 1999) for number in range(3000)]
        for _ in range(2):
            reply = await client.call(Method(SERVICE, "Back"), slices, sidecars=[bytes(5 * MIB)])
            assert reply.message == b"".join(slices)
            assert len(reply.sidecars[0]) == 5 * MIB
        client.check()
        served.check()
        await client.close()

    run(main())


def test_thousands_of_calls_are_in_flight_and_each_gets_its_own_answer() -> None:
    async def main() -> None:
        held: list[Request] = []

        def hold(request: Request) -> Any:
            held.append(request)
            return LATER

        client, served, _ = pair({"Hold": hold}, server_options=ServerOptions(idle_s=0, calls_max=10_000))
        calls = [asyncio.ensure_future(client.call(HOLD, str(number).encode(), timeout_s=60)) for number in range(5000)]
        await until(lambda: len(held) == 5000)
        client.check()
        served.check()
        assert client.in_flight == served.pending_calls == 5000
        for request in reversed(held):
            request.respond(b"answer to " + bytes(request.message))
        replies = await asyncio.gather(*calls)
        assert [bytes(reply.message) for reply in replies] == [f"answer to {number}".encode() for number in range(5000)]
        assert client.in_flight == served.pending_calls == 0
        client.check()
        await client.close()

    run(main())


def test_calls_made_before_the_connection_is_open_go_out_with_it() -> None:
    async def main() -> None:
        client, far = connect_raw()
        done = Outcomes()
        calls = [client.start_call(ECHO, bytes([number]), done, timeout_s=5) for number in range(3)]
        client.check()
        assert calls[1].cancel()
        client.check()
        peer = RawPeer(far)
        await peer.serve()
        assert [bytes(parse_request(await peer.frame()).message) for _ in range(2)] == [b"\0", b"\2"]
        client.check()
        await client.close()
        assert [outcome.maybe_sent for outcome in done.all if isinstance(outcome, ConnectionLost)] == [True, True]
        peer.close()

    run(main())


# -- deadlines ---------------------------------------------------------------------------------------------------------
def test_call_expires_at_its_deadline_and_the_late_answer_is_dropped() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(CallTimeout) as expired:
            await client.call(ECHO, b"", timeout_s=1.5)
        assert 1.5 <= loop.time() - start <= 1.5 + 2 * TICK_S
        assert expired.value.maybe_sent and expired.value.retry
        late = parse_request(await peer.frame())
        assert late.timeout_ms == 1500      # the server was told
        await peer.send(b"".join(encode_response(late.call_id, b"late")))
        answered = asyncio.ensure_future(client.call(ECHO, b"", timeout_s=1))
        await peer.send(b"".join(encode_response(parse_request(await peer.frame()).call_id, b"in time")))
        assert bytes((await answered).message) == b"in time"
        client.check()
        await client.close()
        peer.close()

    run(main())


def test_calls_expire_in_the_order_of_their_deadlines() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        loop = asyncio.get_running_loop()
        start = loop.time()
        expired: list[tuple[float, float]] = []
        waits = [3.0, 0.5, 2.0, 0.5, 60.0, 1.0]
        for wait in waits:

            def on_done(_: Reply | RpcError, wait: float = wait) -> None:
                expired.append((wait, loop.time() - start))

            client.start_call(ECHO, b"", on_done, timeout_s=wait)
        client.start_call(ECHO, b"", lambda _: expired.append((-1.0, 0.0)))    # no deadline: never
        client.check()
        await asyncio.sleep(100)
        assert [wait for wait, _ in expired] == sorted(waits)
        assert all(wait <= at <= wait + 2 * TICK_S for wait, at in expired)
        assert client.in_flight == 1
        client.check()
        await client.close()
        peer.close()

    run(main())


def test_deadline_counts_while_the_connection_is_made() -> None:
    async def main() -> None:
        client, far = connect_raw(no_idle(connect_s=5))
        with pytest.raises(CallTimeout) as expired:
            await client.call(ECHO, b"", timeout_s=1)
        assert not expired.value.maybe_sent
        with pytest.raises(NegotiationFailed, match="longer than 5 s"):
            await client.opened()
        far.close()

    run(main())


def test_deadlines_are_never_told_early_and_by_one_timer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        expired: dict[int, float] = {}
        deadlines = Deadlines(loop, lambda key: expired.setdefault(key, loop.time()))  # type: ignore[arg-type,return-value]
        start = loop.time()
        due = {key: start + key * 0.0017 for key in range(1, 400)}
        ticks = {key: deadlines.add(key, deadline) for key, deadline in due.items()}
        for key in range(0, 400, 3):
            deadlines.discard(key, ticks.get(key, 0))
        await asyncio.sleep(2)
        assert set(expired) == {key for key in due if key % 3}
        assert all(0 <= expired[key] - due[key] <= TICK_S for key in expired)
        assert len(deadlines) == 0

    run(main())


# -- cancelling --------------------------------------------------------------------------------------------------------
def test_cancelled_call_has_no_outcome_and_its_answer_is_dropped() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        done = Outcomes()
        call = client.start_call(ECHO, b"", done, timeout_s=5)
        request = parse_request(await peer.frame())
        assert call.cancel() and not call.cancel()
        client.check()
        await peer.send(b"".join(encode_response(request.call_id, b"too late")))
        await asyncio.sleep(10)
        assert done.all == [] and client.in_flight == 0 and client.state is State.OPEN
        await client.close()
        peer.close()

    run(main())


def test_cancelling_the_wait_cancels_the_call() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        waiting = asyncio.ensure_future(client.call(ECHO, b""))
        await peer.frame()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert client.in_flight == 0
        await client.close()
        peer.close()

    run(main())


def test_call_cancelled_before_it_is_offered_to_the_kernel_never_leaves() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        done = Outcomes()
        first = client.start_call(ECHO, bytes(4 * MIB), done)     # more than the socket takes
        second = client.start_call(ECHO, b"never", done)
        client.start_call(ECHO, b"third", done)
        assert first.started and not second.started
        assert second.cancel()
        seen = [parse_request(await peer.frame()) for _ in range(2)]
        assert [bytes(request.message[:9]) for request in seen] == [bytes(9), b"third"]
        await turns()
        peer.receive()
        assert not peer.frames and client.queued_bytes == 0
        await client.close()
        peer.close()

    run(main())


# -- losses ------------------------------------------------------------------------------------------------------------
def test_lost_connection_tells_which_calls_were_certainly_not_sent() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        sent, unsent = Outcomes(), Outcomes()
        client.start_call(ECHO, bytes(4 * MIB), sent)
        client.start_call(ECHO, b"waits", unsent)
        peer.close()
        await client.closed()
        assert isinstance(sent.only, ConnectionLost) and sent.only.maybe_sent
        assert isinstance(unsent.only, ConnectionLost) and not unsent.only.maybe_sent
        with pytest.raises(ConnectionLost):
            client.start_call(ECHO, b"", unsent)
        client.check()

    run(main())


def test_outcome_is_never_told_from_within_start_call() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        peer.sock.close()
        done = Outcomes()
        client.start_call(ECHO, b"x", done)
        assert done.all == []
        await client.closed()
        assert isinstance(done.only, ConnectionLost)

    run(main())


@pytest.mark.parametrize("data", [
    struct.pack(">I", 1 << 31), b"\0\0\0\0", b"\0\0\0\x02\x05\0", b"\0\0\0\x02\0\0",
    b"".join(encode_response(99, b"never asked")), b"".join(encode_response(-1, b"")),
], ids=["too large", "empty", "cut", "no call id", "unknown call", "negative call"])
def test_bytes_that_are_no_answer_end_the_connection_with_the_reason(data: bytes) -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        done = Outcomes()
        client.start_call(ECHO, b"", done)
        await peer.send(data)
        await client.closed()
        assert isinstance(done.only, ConnectionLost) and done.only.maybe_sent
        assert client.error is not None and client.error.kind in ("bad_frame", "frame_too_large")
        peer.close()

    run(main())


def test_half_open_connection_fails_calls_by_their_deadlines_only() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()      # the peer is there, and says nothing any more
        outcomes = await asyncio.gather(*(client.call(ECHO, b"", timeout_s=number) for number in (1, 2, 3)),
                                        return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [CallTimeout] * 3
        assert client.state is State.OPEN
        await client.close()
        peer.close()

    run(main())


def test_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def main() -> None:
        client, peer = await served_by_hand(ConnectionOptions(user="tester", idle_s=65))
        loop = asyncio.get_running_loop()
        done = Outcomes()
        client.start_call(ECHO, b"", done)
        await asyncio.sleep(200)
        assert client.state is State.OPEN
        await peer.send(b"".join(encode_response(0, b"")))
        await until(lambda: bool(done.all))
        answered = loop.time()
        await client.closed()
        assert 65 <= loop.time() - answered <= 130
        assert client.error is None
        peer.close()

    run(main())


# -- negotiation -------------------------------------------------------------------------------------------------------
def test_peer_that_closes_during_the_negotiation_fails_all_calls_as_not_sent() -> None:
    async def main() -> None:
        client, far = connect_raw()
        done = Outcomes()
        client.start_call(ECHO, b"", done)
        far.close()
        with pytest.raises(NegotiationFailed):
            await client.opened()
        assert isinstance(done.only, NegotiationFailed)
        with pytest.raises(NegotiationFailed):
            client.start_call(ECHO, b"", done)

    run(main())


def test_address_where_nobody_listens_is_told() -> None:
    async def main() -> None:
        for host, port, error in (("127.0.0.1", 0, InvalidArgument), ("a" * 80, 1, ConnectionLost)):
            with pytest.raises(error):
                await connect(host, port)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            with pytest.raises(ConnectionLost, match=f"cannot connect to 127.0.0.1:{port}.*refused") as refused:
                await connect("127.0.0.1", port)
            assert not refused.value.maybe_sent

    asyncio.run(main())


# -- backpressure ------------------------------------------------------------------------------------------------------
def test_slow_server_holds_no_more_memory_than_the_bound() -> None:
    async def main() -> None:
        client, peer = await served_by_hand(no_idle(queue_bytes_max=1 * MIB))
        message = bytes(100 * KIB)
        accepted = 0
        with pytest.raises(RpcBackpressure) as refused:
            while True:
                client.start_call(ECHO, message, lambda _: None)
                accepted += 1
                assert client.queued_bytes <= 1 * MIB + len(message) + KIB
        assert refused.value.retry and accepted >= 10
        finished = []

        async def one_more(number: int) -> None:
            await client.call(ECHO, message)
            finished.append(number)

        waiting = [asyncio.ensure_future(one_more(number)) for number in range(40)]
        await turns()
        assert client.queued_bytes <= 1 * MIB + len(message) + KIB
        for _ in range(accepted + len(waiting)):     # now it reads, and answers
            request = parse_request(await peer.frame())
            assert client.queued_bytes <= 1 * MIB + len(message) + KIB
            await peer.send(b"".join(encode_response(request.call_id, b"")))
        await asyncio.gather(*waiting)
        assert sorted(finished) == list(range(40))
        client.check()
        await client.close()
        peer.close()

    run(main())


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    async def main() -> None:
        client, peer = await served_by_hand(no_idle(calls_max=2))
        replies = [asyncio.ensure_future(client.call(ECHO, bytes([number]), timeout_s=60)) for number in range(10)]
        for number in range(10):
            request = parse_request(await peer.frame())
            assert bytes(request.message) == bytes([number])
            await turns()
            assert client.in_flight <= 2
            client.check()
            await peer.send(b"".join(encode_response(request.call_id, request.message)))
        assert [bytes((await reply).message) for reply in replies] == [bytes([number]) for number in range(10)]
        await client.close()
        peer.close()

    run(main())


def test_waiting_for_room_has_the_calls_deadline_and_may_be_cancelled() -> None:
    async def main() -> None:
        client, peer = await served_by_hand(no_idle(calls_max=1))
        first = client.start_call(ECHO, b"", lambda _: None)
        with pytest.raises(CallTimeout) as expired:
            await client.call(ECHO, b"", timeout_s=1)
        assert not expired.value.maybe_sent
        waiting = [asyncio.ensure_future(client.call(ECHO, b"", timeout_s=9)) for _ in range(2)]
        await turns()
        first.cancel()      # wakes one of them, which is cancelled in the same turn: the other one takes its place
        waiting[0].cancel()
        await turns()
        assert client.in_flight == 1 and waiting[0].cancelled() and not waiting[1].done()
        await client.close()
        with pytest.raises(ConnectionLost):
            await waiting[1]
        peer.close()

    run(main())


def test_request_above_the_limit_is_refused_here() -> None:
    async def main() -> None:
        client, _, _ = pair(options=no_idle(frame_bytes_max=1000))
        await client.opened()
        with pytest.raises(InvalidArgument, match="1000"):
            await client.call(ECHO, bytes(1000))
        assert len((await client.call(ECHO, bytes(900))).message) == 900
        await client.close()

    run(main())


# -- errors from the server --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("code", "kind"), [
    (RpcCode.ERROR_SERVER_TOO_BUSY, ServerTooBusy), (RpcCode.ERROR_UNAVAILABLE, ServerUnavailable),
    (RpcCode.ERROR_APPLICATION, RemoteError), (4711, RemoteError),
])
def test_error_of_the_server_keeps_its_code_and_extensions(code: int, kind: type[RemoteError]) -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        answer = asyncio.ensure_future(client.call(ECHO, b""))
        request = parse_request(await peer.frame())
        await peer.send(b"".join(encode_error(request.call_id, code, "why", {102: b"\x08\x02"})))
        with pytest.raises(kind, match="why") as failed:
            await answer
        for error in (failed.value, pickle.loads(pickle.dumps(failed.value)), copy.copy(failed.value)):
            assert (error.code, error.extensions, str(error)) == (code, {102: b"\x08\x02"}, str(failed.value))
        assert client.state is State.OPEN
        await client.close()
        peer.close()

    run(main())


def test_fatal_error_takes_what_is_still_answered_and_then_closes() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        done = Outcomes()
        for _ in range(2):
            client.start_call(ECHO, b"", done)
        await peer.send(b"".join(encode_error(0, RpcCode.FATAL_SERVER_SHUTTING_DOWN, "bye")))
        await until(lambda: len(done.all) == 1)
        assert isinstance(done.all[0], ServerUnavailable)
        with pytest.raises(ConnectionLost, match="bye"):
            client.start_call(ECHO, b"", done)
        await peer.send(b"".join(encode_response(1, b"still")))
        await client.closed()
        assert isinstance(done.all[1], Reply)
        peer.close()

    run(main())


# -- closing -----------------------------------------------------------------------------------------------------------
def test_graceful_close_waits_for_answers_and_takes_no_more_calls() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        done = Outcomes()
        client.start_call(ECHO, b"", done)
        closing = asyncio.ensure_future(client.close(grace_s=5))
        await turns()
        with pytest.raises(ConnectionClosed):
            client.start_call(ECHO, b"", done)
        await peer.send(b"".join(encode_response(0, b"answer")))
        await closing
        assert isinstance(done.only, Reply)
        assert client.state is State.CLOSED and client.error is None
        peer.close()

    run(main())


def test_close_gives_up_after_the_grace() -> None:
    async def main() -> None:
        client, peer = await served_by_hand()
        loop, done = asyncio.get_running_loop(), Outcomes()
        client.start_call(ECHO, b"", done)
        start = loop.time()
        await client.close(grace_s=5)
        assert loop.time() - start == pytest.approx(5)
        assert isinstance(done.only, ConnectionLost) and done.only.maybe_sent
        await client.close()    # twice is once
        peer.close()

    run(main())


def test_exception_of_one_caller_does_not_cost_the_others_their_answers() -> None:
    async def main() -> None:
        client, _, _ = pair()
        done = Outcomes()

        def fails(_: Reply | RpcError) -> None:
            raise RuntimeError("a caller's bug")

        client.start_call(ECHO, b"1", fails)
        client.start_call(ECHO, b"2", done)
        await until(lambda: bool(done.all))
        loop: Any = asyncio.get_running_loop()
        assert [str(context["exception"]) for context in loop.reported] == ["a caller's bug"]
        await client.close()

    run(main(), expect_reports=True)


def test_call_ids_start_again_after_the_last_and_skip_those_in_use() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        client = ClientConnection(no_idle(), call_id_end=4)
        client.attach(SocketLink(asyncio.get_running_loop(), near, client))
        peer = RawPeer(far)
        await peer.serve()
        held = client.start_call(ECHO, b"", lambda _: None)
        numbers = []
        for _ in range(7):
            answer = asyncio.ensure_future(client.call(ECHO, b""))
            request = parse_request(await peer.frame())
            if request.call_id == held.call_id:
                request = parse_request(await peer.frame())
            numbers.append(request.call_id)
            await peer.send(b"".join(encode_response(request.call_id, b"")))
            await answer
            client.check()
        assert numbers == [1, 2, 3, 1, 2, 3, 1]
        await client.close()
        peer.close()

    run(main())
