"""Bytes of the real tool and a real server: our parser reads them, our encoder gives the same, our machines fit in."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kudu_storage.protos import message_class
from kudu_storage.rpc.framing import (
    CONNECTION_CONTEXT_CALL_ID,
    NEGOTIATE_CALL_ID,
    FrameReader,
    Method,
    encode_control,
    encode_request,
    encode_response,
    parse_request,
    parse_response,
)
from kudu_storage.rpc.negotiation import CONNECTION_HEADER, ClientNegotiation, ServerNegotiation, State

GOLDEN = Path(__file__).parent / "rpc"
FILES = sorted(GOLDEN.glob("*.json"))
CONVERSATIONS = [(path.stem, {side: bytes.fromhex(data) for side, data in connection.items()})
                 for path in FILES for connection in json.loads(path.read_text())]


def client_frames(data: bytes) -> tuple[bytes, list[tuple[bytes, memoryview]]]:
    header = data[:len(CONNECTION_HEADER)]
    return header, list(FrameReader().feed(data[len(header):]))


def call_id(header: bytes, kind: str) -> int:
    found: int = message_class(f"kudu.rpc.{kind}").FromString(header).call_id    # type: ignore[attr-defined]
    return found


@pytest.fixture(params=CONVERSATIONS, ids=lambda c: c[0])
def conversation(request: pytest.FixtureRequest) -> dict[str, bytes]:
    found: dict[str, bytes] = request.param[1]
    return found


def test_there_is_a_conversation_of_each_kind() -> None:
    assert len(FILES) == 4
    assert {name for name, _ in CONVERSATIONS} == {path.stem for path in FILES}


def test_requests_of_the_real_tool_are_encoded_as_it_encoded_them(conversation: dict[str, bytes]) -> None:
    header, frames = client_frames(conversation["client"])
    again = header
    for frame in frames:
        number = call_id(frame[0], "RequestHeader")
        if number < 0:
            assert number in (NEGOTIATE_CALL_ID, CONNECTION_CONTEXT_CALL_ID)
            again += encode_control(number, bytes(frame[1]))
            continue
        request = parse_request(frame)  # type: ignore[arg-type]
        again += b"".join(encode_request(
            request.call_id, Method(request.service, request.method), request.message, request.sidecars,
            timeout_ms=request.timeout_ms, required_flags=request.required_flags))
    assert again == conversation["client"]


def test_responses_of_the_real_server_are_encoded_as_it_encoded_them(conversation: dict[str, bytes]) -> None:
    def again() -> Iterator[bytes]:
        for frame in FrameReader().feed(conversation["server"]):
            if call_id(frame.header, "ResponseHeader") < 0:     # in its negotiation the server leaves is_error out
                yield encode_control(NEGOTIATE_CALL_ID, bytes(frame.main)).replace(b"\x0b\x18\xdf", b"\x0b\x08\xdf", 1)
                continue
            response = parse_response(frame)
            yield b"".join(encode_response(response.call_id, response.message, response.sidecars,
                                           is_error=response.is_error))

    assert b"".join(again()) == conversation["server"]


def test_our_server_negotiates_with_the_real_tool(conversation: dict[str, bytes]) -> None:
    header, frames = client_frames(conversation["client"])
    negotiation = ServerNegotiation()
    negotiation.check_connection_header(header)
    for frame in frames[:3]:
        negotiation.receive(frame)      # type: ignore[arg-type]
    assert negotiation.state is State.DONE
    assert negotiation.user == "root"


def test_our_client_says_to_the_real_server_what_the_real_tool_says(conversation: dict[str, bytes]) -> None:
    _, frames = client_frames(conversation["client"])
    negotiation = ClientNegotiation("root")
    said = [negotiation.start()[len(CONNECTION_HEADER):]]
    answers = FrameReader().feed(conversation["server"])
    while negotiation.state is not State.DONE:
        said.append(negotiation.receive(next(answers)))
    real = [encode_control(call_id(frame[0], "RequestHeader"), bytes(frame[1])) for frame in frames[:3]]
    assert said[1:] == real[1:]
    # The first step differs in what is offered: the tool knows TLS (features 2 and 3) whatever its flags say.
    offers = [message_class("kudu.rpc.NegotiatePB").FromString(bytes(next(FrameReader().feed(data)).main))
              for data in (said[0], real[0])]
    assert [list(offer.supported_features) for offer in offers] == [[1], [1, 2, 3]]     # type: ignore[attr-defined]
    for offer in offers:
        offer.ClearField("supported_features")
    assert offers[0] == offers[1]


def test_scanned_rows_come_in_sidecars() -> None:
    scan = message_class("kudu.tserver.ScanResponsePB")
    rows = sidecars = 0
    for name, streams in CONVERSATIONS:
        if name != "remote_replica_dump":
            continue
        for frame in FrameReader().feed(streams["server"]):
            if call_id(frame.header, "ResponseHeader") > 0:
                response = parse_response(frame)
                message = scan.FromString(bytes(response.message))
                rows += message.data.num_rows   # type: ignore[attr-defined]
                sidecars += sum(map(len, response.sidecars))
    assert 0 < rows <= 20
    assert sidecars > rows * 28      # fixed cells of int64, int32, string
