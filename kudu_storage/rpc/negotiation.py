"""How two peers begin: connection header, features, SASL PLAIN, connection context. Pure: messages in, bytes out.

    client                                      server
    hrpc 09 00 00
    NEGOTIATE features, sasl        ->
                                    <-          NEGOTIATE features, sasl, PLAIN
    SASL_INITIATE \\0 user \\0 password ->
                                    <-          SASL_SUCCESS
    connection context, first calls ->

    START --NEGOTIATE--> AUTHENTICATE --SASL_SUCCESS--> (server: CONTEXT --context-->) DONE

N1  Neither side of ours offers TLS, so none is ever chosen. A peer that insists on it is refused: TlsRequired, which
    says what to set. A peer that only knows Kerberos, tokens or certificates is refused with AuthenticationRefused.
N2  A server takes any user name and any password (that is what PLAIN is for in Kudu), but only from trusted addresses.
N3  After an error the machine takes nothing more. A server's `farewell` is what to send before it closes.
"""
from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Any, Final

from google.protobuf.message import DecodeError

from kudu_storage.errors import AuthenticationRefused, BadFrame, InvalidArgument, NegotiationFailed, TlsRequired
from kudu_storage.protos import enum_name, message_class
from kudu_storage.rpc.codes import RpcCode, code_name
from kudu_storage.rpc.framing import (
    CONNECTION_CONTEXT_CALL_ID,
    NEGOTIATE_CALL_ID,
    Buffer,
    Frame,
    encode_control,
    encode_error,
    encode_response,
    parse_error,
    parse_response_header,
)

MAGIC: Final = b"hrpc"
RPC_VERSION: Final = 9
CONNECTION_HEADER: Final = MAGIC + bytes((RPC_VERSION, 0, 0))    # service class and authentication are always 0
APPLICATION_FEATURE_FLAGS: Final = 1
TLS: Final = 2
_PLAIN: Final = "PLAIN"
_HTTP_VERBS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"CONN", b"PATC", b"TRAC")
_STEPS: Final = "kudu.rpc.NegotiatePB.NegotiateStep"
_NEGOTIATE, _SASL_SUCCESS, _SASL_INITIATE = 1, 0, 2

_negotiate_pb: Any = message_class("kudu.rpc.NegotiatePB")
_context_pb: Any = message_class("kudu.rpc.ConnectionContextPB")
_request_header: Any = message_class("kudu.rpc.RequestHeader")


class State(Enum):
    """Where a negotiation is."""

    START = "before NEGOTIATE"
    AUTHENTICATE = "before authentication"
    CONTEXT = "before the connection context"
    DONE = "done"
    FAILED = "failed"


def is_trusted(host: str) -> bool:
    """Whether an unencrypted peer of this address is served: Kudu's default --trusted_subnets, private and loopback.

    A text that is no IP address names a socket of this machine.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_private or (mapped or address).is_loopback or (mapped or address).is_link_local)


class ClientNegotiation:
    """The client's side. Send what `start` gives, give each frame to `receive` and send what that gives, until DONE."""

    def __init__(self, user: str, password: str = "", peer_text: str = "the server") -> None:
        if "\0" in user or "\0" in password or not user:
            raise InvalidArgument("a user name must not be empty, and neither it nor the password may hold a NUL")
        self.user, self.password, self.peer_text = user, password, peer_text
        self.state = State.START
        self.server_features: frozenset[int] = frozenset()

    def start(self) -> bytes:
        """The connection header and the first step."""
        message = _negotiate_pb(step=_NEGOTIATE, supported_features=[APPLICATION_FEATURE_FLAGS])
        message.authn_types.add().sasl.SetInParent()
        return CONNECTION_HEADER + encode_control(NEGOTIATE_CALL_ID, message.SerializeToString())

    def receive(self, frame: Frame) -> bytes:
        """Take the server's next frame. Raises NegotiationFailed or one of its kinds, or BadFrame."""
        before, self.state = self.state, State.FAILED
        header = parse_response_header(frame.header)
        if header.call_id != NEGOTIATE_CALL_ID:
            raise BadFrame(f"call id {header.call_id} during the negotiation")
        if header.is_error:
            raise self._refusal(before, frame.main)
        message = _parse(_negotiate_pb, frame.main)
        if before is State.START:
            reply, self.state = self._choose(message), State.AUTHENTICATE
        elif before is State.AUTHENTICATE:
            reply, self.state = self._finish(message), State.DONE
        else:
            raise BadFrame(f"a negotiation step when it was {before.value}")
        return reply

    def _refusal(self, state: State, data: Buffer) -> NegotiationFailed:
        status = parse_error(data)
        detail = f"{self.peer_text} refused the connection: {code_name(status.code)}: {status.message}"
        if status.code != RpcCode.FATAL_UNAUTHORIZED:
            return NegotiationFailed(detail)
        if state is State.START:    # we offer SASL, so the lack of TLS is all that a server can object to so early
            return TlsRequired(detail, advice="start the server with --rpc_encryption=optional (or disabled)")
        return AuthenticationRefused(detail, advice="start the server with --rpc_authentication=optional (or disabled) "
                                                    "and connect from an address in its --trusted_subnets")

    def _choose(self, message: Any) -> bytes:
        _expect(message, _NEGOTIATE)
        self.server_features = frozenset(message.supported_features)
        kinds = {authn.WhichOneof("type") for authn in message.authn_types} or {"sasl"}
        mechanisms = _mechanisms(message)
        if "sasl" not in kinds or _PLAIN not in mechanisms:
            offered = ", ".join(mechanisms) if "sasl" in kinds else ", ".join(str(kind) for kind in kinds)
            raise AuthenticationRefused(
                f"{self.peer_text} wants authentication by {offered or 'nothing known'}; this version knows PLAIN only",
                advice="start the server with --rpc_authentication=optional (or disabled)")
        token = b"\0" + self.user.encode() + b"\0" + self.password.encode()
        initiate = _negotiate_pb(step=_SASL_INITIATE, token=token)
        initiate.sasl_mechanisms.add(mechanism=_PLAIN)
        return encode_control(NEGOTIATE_CALL_ID, initiate.SerializeToString())

    def _finish(self, message: Any) -> bytes:
        _expect(message, _SASL_SUCCESS)
        context = _context_pb()
        context.DEPRECATED_user_info.real_user = self.user
        return encode_control(CONNECTION_CONTEXT_CALL_ID, context.SerializeToString())


class ServerNegotiation:
    """The server's side. Give it the connection header, then each frame, and send what it gives, until DONE."""

    def __init__(self, *, trusted: bool = True) -> None:
        self.trusted = trusted
        self.state = State.START
        self.user = ""
        self.client_features: frozenset[int] = frozenset()
        self.farewell = b""

    def check_connection_header(self, header: bytes) -> None:
        """The first seven bytes. Raises BadFrame; no answer is due to a peer that speaks something else."""
        if header[:4] in _HTTP_VERBS:
            raise BadFrame("an HTTP request on the RPC port", advice="use the web server's port")
        if header[:4] != MAGIC:
            raise BadFrame(f"the connection starts with {header[:4]!r}, not with {MAGIC!r}")
        if header[4] != RPC_VERSION:
            raise BadFrame(f"RPC version {header[4]}; this is version {RPC_VERSION}")

    def receive(self, frame: Frame) -> bytes:
        """Take the client's next frame. After an exception send `farewell`, if there is one, and close."""
        before, self.state = self.state, State.FAILED
        try:
            header = _parse(_request_header, frame.header)
            if before is State.CONTEXT:
                self._take_context(header.call_id, frame.main)
                self.state = State.DONE
                return b""
            if header.call_id != NEGOTIATE_CALL_ID:
                raise BadFrame(f"call id {header.call_id} during the negotiation")
            message = _parse(_negotiate_pb, frame.main)
            if before is State.START:
                reply, self.state = self._choose(message), State.AUTHENTICATE
            elif before is State.AUTHENTICATE:
                reply, self.state = self._authenticate(message), State.CONTEXT
            else:
                raise BadFrame(f"a negotiation step when it was {before.value}")
        except BadFrame as error:
            self._refuse(RpcCode.FATAL_DESERIALIZING_REQUEST, f"Invalid argument: {error}")
            raise
        except NegotiationFailed as error:
            self._refuse(RpcCode.FATAL_UNAUTHORIZED, f"Not authorized: {error}")
            raise
        return reply

    def _refuse(self, code: RpcCode, text: str) -> None:
        self.farewell = b"".join(encode_error(NEGOTIATE_CALL_ID, code, text))

    def _choose(self, message: Any) -> bytes:
        _expect(message, _NEGOTIATE)
        self.client_features = frozenset(message.supported_features)
        kinds = {authn.WhichOneof("type") for authn in message.authn_types}
        if kinds and "sasl" not in kinds:
            raise AuthenticationRefused("no authentication type in common; this server knows SASL PLAIN only")
        reply = _negotiate_pb(step=_NEGOTIATE, supported_features=[APPLICATION_FEATURE_FLAGS])
        reply.authn_types.add().sasl.SetInParent()
        reply.sasl_mechanisms.add(mechanism=_PLAIN)
        return self._encode(reply)

    def _authenticate(self, message: Any) -> bytes:
        if not self.trusted:
            raise AuthenticationRefused("unencrypted connections from public addresses are not served")
        if message.step == 5:
            raise TlsRequired("this server does not speak TLS")
        _expect(message, _SASL_INITIATE)
        mechanisms = _mechanisms(message)
        if mechanisms != [_PLAIN]:
            raise AuthenticationRefused(f"expected the mechanism PLAIN, not {', '.join(mechanisms) or 'none'}")
        parts = message.token.split(b"\0")
        if len(parts) != 3 or not parts[1]:
            raise AuthenticationRefused("a PLAIN token that is not: identity, NUL, user, NUL, password")
        try:
            self.user = parts[1].decode()
        except UnicodeDecodeError:
            raise AuthenticationRefused("a user name that is not UTF-8") from None
        return self._encode(_negotiate_pb(step=_SASL_SUCCESS))

    def _take_context(self, call_id: int, main: Buffer) -> None:
        if call_id != CONNECTION_CONTEXT_CALL_ID:
            raise BadFrame(f"call id {call_id} in place of the connection context")
        _parse(_context_pb, main)    # who it names was told already, by SASL

    def _encode(self, message: Any) -> bytes:
        return b"".join(encode_response(NEGOTIATE_CALL_ID, message.SerializeToString()))


def _parse(message_type: Any, data: Buffer) -> Any:
    try:
        message = message_type.FromString(bytes(data))
    except DecodeError as error:
        raise BadFrame(f"a {message_type.DESCRIPTOR.name} that cannot be parsed: {error}") from None
    if not message.IsInitialized():
        raise BadFrame(f"a {message_type.DESCRIPTOR.name} that lacks a required field")
    return message


def _mechanisms(message: Any) -> list[str]:
    try:
        return [str(offer.mechanism) for offer in message.sasl_mechanisms]   # bytes, if it is not UTF-8
    except UnicodeDecodeError:
        raise BadFrame("a mechanism whose name is not UTF-8") from None


def _expect(message: Any, step: int) -> None:
    if message.step != step:
        raise NegotiationFailed(f"expected step {enum_name(_STEPS, step)}, got {enum_name(_STEPS, message.step)}")
