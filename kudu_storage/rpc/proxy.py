"""Calls with protobuf messages: a service's methods and their types, over any connection or channel.

    proxy = Proxy(connection, "kudu.server.GenericService")
    status = await proxy.call("GetStatus", timeout_s=5)
    answer = await proxy.call("Scan", request, CallOptions(timeout_s=30, required_flags=(1,)))
    answer.message.data.num_rows, answer.sidecars[0]

May not touch: files.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from kudu_storage.errors import BadFrame, InvalidArgument
from kudu_storage.protos import message_class, pool
from kudu_storage.rpc.connection import Reply
from kudu_storage.rpc.framing import Method, Payload


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How one call is made.

    Args:
        timeout_s: also told to the server, which then need not answer later; None is none.
        sidecars: sent behind the request.
        required_flags: features that the server must know, or refuse the call (RequestRefused).
        request_id: a serialized RequestIdPB, for calls that must happen once.
    """

    timeout_s: float | None = 10.0
    sidecars: Sequence[Payload] = ()
    required_flags: Sequence[int] = ()
    request_id: bytes = b""


DEFAULTS = CallOptions()


class Answer(NamedTuple):
    """A parsed response and its sidecars (views of received memory)."""

    message: Any
    sidecars: tuple[memoryview, ...]


class Caller(Protocol):
    """What a proxy calls through: ClientConnection, Channel."""

    async def call(self, method: Method, message: Payload, *, sidecars: Sequence[Payload] = (),
                   timeout_s: float | None = None, required_flags: Sequence[int] = (),
                   request_id: bytes = b"") -> Reply:
        """Call and wait for the answer."""


class TypedMethod(NamedTuple):
    """A method with its message types."""

    method: Method
    request_type: Any
    response_type: Any


@cache
def typed_method(service: str, name: str) -> TypedMethod:
    """A method as the message schemas of this package describe it. Raises InvalidArgument if they do not."""
    try:
        found = pool().FindServiceByName(service).FindMethodByName(name)
    except KeyError:
        raise InvalidArgument(f"no method {name} of service {service} in this version's schemas") from None
    return TypedMethod(Method(service, name), message_class(found.input_type.full_name),
                       message_class(found.output_type.full_name))


class Proxy:
    """The methods of one service of one server."""

    def __init__(self, caller: Caller, service: str) -> None:
        self.caller, self.service = caller, service

    async def call(self, method: str, request: Any = None, options: CallOptions = DEFAULTS) -> Answer:
        """Call a method. Without a request an empty one is sent.

        Raises what the connection raises; an `error` field in the response is the caller's to look at.
        """
        typed = typed_method(self.service, method)
        if request is None:
            request = typed.request_type()
        if not request.IsInitialized():
            raise InvalidArgument(f"{typed.method}: the request lacks {', '.join(request.FindInitializationErrors())}")
        reply = await self.caller.call(typed.method, request.SerializeToString(), sidecars=options.sidecars,
                                       timeout_s=options.timeout_s, required_flags=options.required_flags,
                                       request_id=options.request_id)
        try:
            message = typed.response_type.FromString(reply.message)
        except DecodeError as error:
            raise BadFrame(f"{typed.method}: a response that cannot be parsed: {error}") from None
        return Answer(message, reply.sidecars)
