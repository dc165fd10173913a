"""Negotiation, both sides: the transcript of a good one, and what is refused, with what advice."""
from __future__ import annotations

from typing import Any

import pytest

from kudu_storage.errors import AuthenticationRefused, BadFrame, InvalidArgument, NegotiationFailed, TlsRequired
from kudu_storage.protos import message_class
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.framing import (
    NEGOTIATE_CALL_ID,
    Frame,
    FrameReader,
    Method,
    encode_control,
    encode_error,
    encode_request,
    encode_response,
    parse_error,
    parse_response,
)
from kudu_storage.rpc.negotiation import CONNECTION_HEADER, ClientNegotiation, ServerNegotiation, State, is_trusted

NegotiatePB: Any = message_class("kudu.rpc.NegotiatePB")
NEGOTIATE, SASL_SUCCESS, SASL_INITIATE, TLS_HANDSHAKE = 1, 0, 2, 5


def one(data: bytes) -> Frame:
    (frame,) = FrameReader().feed(data)
    return frame


def from_server(**fields: Any) -> Frame:
    return one(b"".join(encode_response(NEGOTIATE_CALL_ID, NegotiatePB(**fields).SerializeToString())))


def from_client(**fields: Any) -> Frame:
    return one(encode_control(NEGOTIATE_CALL_ID, NegotiatePB(**fields).SerializeToString()))


OFFER = {"step": NEGOTIATE, "supported_features": [1], "authn_types": [{"sasl": {}}]}
PLAIN = [{"mechanism": "PLAIN"}]


def test_both_sides_of_ours_come_to_terms() -> None:
    client, server = ClientNegotiation("me", "secret"), ServerNegotiation()
    said = client.start()
    server.check_connection_header(said[:7])
    reply = server.receive(one(said[7:]))
    reply = server.receive(one(client.receive(one(reply))))
    assert server.receive(one(client.receive(one(reply)))) == b""
    assert client.state is server.state is State.DONE
    assert server.user == "me"
    assert client.server_features == server.client_features == {1}


def test_client_takes_a_server_that_offers_tls_too() -> None:
    client = ClientNegotiation("me")
    client.start()
    reply = client.receive(from_server(**OFFER | {"supported_features": [1, 2, 3]}, sasl_mechanisms=PLAIN))
    sent = NegotiatePB.FromString(bytes(one(reply).main))
    assert (sent.step, sent.token, [m.mechanism for m in sent.sasl_mechanisms]) == (SASL_INITIATE, b"\0me\0", ["PLAIN"])


def test_client_takes_a_server_that_names_no_kind_of_authentication() -> None:
    client = ClientNegotiation("me")
    client.receive(from_server(step=NEGOTIATE, sasl_mechanisms=PLAIN))
    assert client.state is State.AUTHENTICATE


@pytest.mark.parametrize(("offer", "names"), [
    ({"authn_types": [{"sasl": {}}], "sasl_mechanisms": [{"mechanism": "GSSAPI"}]}, "GSSAPI"),
    ({"authn_types": [{"token": {}}]}, "token"),
    ({"authn_types": [{"certificate": {}}]}, "certificate"),
    ({"authn_types": [{}]}, "None"),
])
def test_client_refuses_other_authentication_and_says_what_to_set(offer: dict[str, Any], names: str) -> None:
    client = ClientNegotiation("me", peer_text="host:7050")
    with pytest.raises(AuthenticationRefused, match=rf"host:7050 .*{names}.*--rpc_authentication=optional"):
        client.receive(from_server(step=NEGOTIATE, **offer))
    assert client.state is State.FAILED


def test_refusal_of_the_first_step_is_for_want_of_tls() -> None:
    client = ClientNegotiation("me")
    refused = one(b"".join(encode_error(NEGOTIATE_CALL_ID, RpcCode.FATAL_UNAUTHORIZED, "Not authorized: whatever")))
    with pytest.raises(TlsRequired, match="--rpc_encryption=optional"):
        client.receive(refused)


def test_refusal_of_the_user_is_told_with_the_servers_words() -> None:
    client = ClientNegotiation("me")
    client.receive(from_server(**OFFER, sasl_mechanisms=PLAIN))
    refused = one(b"".join(encode_error(NEGOTIATE_CALL_ID, RpcCode.FATAL_UNAUTHORIZED, "Not authorized: subnets")))
    with pytest.raises(AuthenticationRefused, match=r"FATAL_UNAUTHORIZED: Not authorized: subnets.*--trusted_subnets"):
        client.receive(refused)


@pytest.mark.parametrize("step", [SASL_SUCCESS, 3, TLS_HANDSHAKE, 999])
def test_client_refuses_steps_out_of_turn(step: int) -> None:
    with pytest.raises(NegotiationFailed, match="expected step NEGOTIATE"):
        ClientNegotiation("me").receive(from_server(step=step))


def test_client_refuses_frames_that_are_not_of_the_negotiation() -> None:
    with pytest.raises(BadFrame, match="call id 7"):
        ClientNegotiation("me").receive(one(b"".join(encode_response(7, b""))))
    with pytest.raises(BadFrame, match="required field"):
        ClientNegotiation("me").receive(one(b"".join(encode_response(NEGOTIATE_CALL_ID, b""))))


@pytest.mark.parametrize(("user", "password"), [("", ""), ("a\0b", ""), ("a", "b\0")])
def test_names_that_plain_cannot_carry_are_refused(user: str, password: str) -> None:
    with pytest.raises(InvalidArgument):
        ClientNegotiation(user, password)


@pytest.mark.parametrize(("header", "says"), [
    (b"GET / H", "HTTP"), (b"POST /x", "HTTP"), (b"\x16\x03\x01\0\0\0\0", "starts with"),
    (b"hrpc\x08\0\0", "RPC version 8"), (b"HRPC\x09\0\0", "starts with"),
])
def test_server_refuses_what_speaks_something_else(header: bytes, says: str) -> None:
    with pytest.raises(BadFrame, match=says):
        ServerNegotiation().check_connection_header(header)


def test_server_does_not_look_at_service_class_and_authentication_bytes() -> None:
    ServerNegotiation().check_connection_header(CONNECTION_HEADER[:5] + b"\x07\x09")


def refusal_of(server: ServerNegotiation, frame: Frame, error: type[Exception], match: str) -> int:
    with pytest.raises(error, match=match):
        server.receive(frame)
    assert server.state is State.FAILED
    response = parse_response(one(server.farewell))
    assert response.is_error and response.call_id == NEGOTIATE_CALL_ID
    return parse_error(response.message).code


def authenticating(*, trusted: bool = True) -> ServerNegotiation:
    server = ServerNegotiation(trusted=trusted)
    server.receive(from_client(**OFFER))
    return server


def test_server_takes_a_client_that_names_no_kind_of_authentication() -> None:
    server = ServerNegotiation()
    reply = NegotiatePB.FromString(bytes(one(server.receive(from_client(step=NEGOTIATE))).main))
    assert [m.mechanism for m in reply.sasl_mechanisms] == ["PLAIN"] and list(reply.supported_features) == [1]


def test_server_refuses_clients_without_sasl_and_says_so() -> None:
    frame = from_client(step=NEGOTIATE, authn_types=[{"token": {}}, {"certificate": {}}])
    assert refusal_of(ServerNegotiation(), frame, AuthenticationRefused, "in common") == RpcCode.FATAL_UNAUTHORIZED


@pytest.mark.parametrize("token", [b"", b"\0\0", b"me", b"\0me", b"a\0\0b", b"\0me\0x\0y", b"\0\xff\0"])
def test_server_refuses_tokens_without_a_user(token: bytes) -> None:
    frame = from_client(step=SASL_INITIATE, token=token, sasl_mechanisms=PLAIN)
    assert refusal_of(authenticating(), frame, AuthenticationRefused, "token|UTF-8") == RpcCode.FATAL_UNAUTHORIZED


def test_server_refuses_other_mechanisms() -> None:
    for mechanisms in ([], [{"mechanism": "GSSAPI"}], PLAIN * 2):
        frame = from_client(step=SASL_INITIATE, token=b"\0me\0", sasl_mechanisms=mechanisms)
        refusal_of(authenticating(), frame, AuthenticationRefused, "expected the mechanism PLAIN")


def test_server_refuses_tls_that_it_never_offered() -> None:
    refusal_of(authenticating(), from_client(step=TLS_HANDSHAKE, tls_handshake=b"hello"), TlsRequired, "TLS")


def test_server_refuses_unencrypted_peers_from_public_addresses() -> None:
    frame = from_client(step=SASL_INITIATE, token=b"\0me\0", sasl_mechanisms=PLAIN)
    code = refusal_of(authenticating(trusted=False), frame, AuthenticationRefused, "public")
    assert code == RpcCode.FATAL_UNAUTHORIZED


def test_server_refuses_a_call_before_the_context() -> None:
    server = authenticating()
    server.receive(from_client(step=SASL_INITIATE, token=b"\0me\0x", sasl_mechanisms=PLAIN))
    call = one(b"".join(encode_request(0, Method("a", "b"), b"")))
    assert refusal_of(server, call, BadFrame, "context") == RpcCode.FATAL_DESERIALIZING_REQUEST


def test_nothing_is_taken_after_a_failure() -> None:
    server = ServerNegotiation()
    refusal_of(server, from_client(step=SASL_SUCCESS), NegotiationFailed, "expected step NEGOTIATE")
    refusal_of(server, from_client(**OFFER), BadFrame, "failed")


@pytest.mark.parametrize(("host", "trusted"), [
    ("127.0.0.1", True), ("10.1.2.3", True), ("192.168.0.1", True), ("172.16.0.1", True), ("::1", True), ("", True),
    ("fe80::1%eth0", True), ("::ffff:10.0.0.1", True), ("8.8.8.8", False), ("::ffff:8.8.8.8", False),
    ("2a00:1450::1", False), ("172.32.0.1", False),
])
def test_private_addresses_are_trusted_and_public_ones_are_not(host: str, trusted: bool) -> None:
    assert is_trusted(host) is trusted
