"""What a server serves: services, their methods and feature flags, and what a handler gets and gives.

A handler is called on the loop's thread with a Request, must not block, and gives one of
    bytes-like                       the serialized response
    Response(message, sidecars)      the same with sidecars; either may be several buffers, which are not joined
    LATER                            the handler (or whom it told) will call `request.respond` or `request.fail`
    a future of the first two        answered when it is done
    an awaitable of the first two    run as a task; for handlers that wait
or raises: CallRefused with a code of its choice, any other error of this package (ERROR_APPLICATION with its text), or
anything else (ERROR_APPLICATION without it, since it may hold what the peer must not see; the loop's handler tells it).

S1  Each request is answered at most once; a second answer is a bug and raises InternalError.
S2  An answer to a peer that is gone is dropped.
May not touch: sockets.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from google.protobuf.message import DecodeError

from kudu_storage.errors import InternalError, InvalidArgument, KuduStorageError
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.framing import Buffer, Payload, RequestFrame


class Later:
    """The type of LATER."""

    __slots__ = ()


LATER: Final = Later()


class Response(NamedTuple):
    """A serialized response and its sidecars."""

    message: Payload
    sidecars: Sequence[Payload] = ()


Answer: TypeAlias = Payload | Response
Handler: TypeAlias = "Callable[[Request], Answer | Later | Awaitable[Answer]]"


class CallRefused(KuduStorageError):
    """Raised by a handler: answer with this code. `extensions` are application errors by number, serialized."""

    kind = "call_refused"
    fields = (*KuduStorageError.fields, "code", "extensions")

    def __init__(self, detail: str, *, code: int = RpcCode.ERROR_APPLICATION,
                 extensions: Mapping[int, Buffer] | None = None, **place: Any) -> None:
        super().__init__(detail, **place)
        self.code = code
        self.extensions = dict(extensions or {})


class Peer(Protocol):
    """The connection that a request came by."""

    @property
    def user(self) -> str:
        """Who the peer says it is (PLAIN: nothing proves it)."""

    @property
    def peer_text(self) -> str:
        """host:port of the peer."""

    @property
    def end_callbacks(self) -> list[Callable[[Exception | None], None]]:
        """Called once when the connection has ended, with the error if there was one. Add to it, remove from it.

        A peer whose process is killed is noticed here at once, long before any deadline.
        """

    def answer(self, request: Request, answer: Answer) -> None:
        """Send the answer."""

    def refuse(self, request: Request, code: int, text: str, extensions: Mapping[int, Buffer] | None = None,
               unsupported_flags: Sequence[int] = ()) -> None:
        """Send an ErrorStatusPB."""


class Request:
    """One request. The message and sidecars are views of received memory: copy what is kept beyond the answer."""

    __slots__ = ("answered", "call_id", "deadline", "message", "method", "peer", "request_id", "required_flags",
                 "service", "sidecars", "size_bytes")

    def __init__(self, peer: Peer, frame: RequestFrame, deadline: float | None, size_bytes: int) -> None:
        (self.call_id, self.service, self.method, _, self.required_flags, self.request_id, self.message,
         self.sidecars) = frame
        self.peer = peer
        self.deadline = deadline        # by the loop's clock; None is none
        self.size_bytes = size_bytes
        self.answered = False

    def __repr__(self) -> str:
        return f"{self.service}.{self.method} (call {self.call_id} from {self.peer.peer_text})"

    def respond(self, message: Payload, sidecars: Sequence[Payload] = ()) -> None:
        """Answer. Buffers must not change until the peer has taken them."""
        self.peer.answer(self, Response(message, sidecars) if sidecars else message)

    def fail(self, text: str, code: int = RpcCode.ERROR_APPLICATION,
             extensions: Mapping[int, Buffer] | None = None) -> None:
        """Answer with an ErrorStatusPB."""
        self.peer.refuse(self, code, text, extensions)

    def mark_answered(self) -> None:
        """For the connection (S1)."""
        if self.answered:
            raise InternalError(f"{self!r} was answered twice")
        self.answered = True


class Service:
    """A named set of methods, and the feature flags that their requests may require."""

    def __init__(self, name: str, methods: Mapping[str, Handler], feature_flags: Iterable[int] = ()) -> None:
        self.name = name
        self.methods = dict(methods)
        self.feature_flags = frozenset(feature_flags)


class ServiceRegistry:
    """Services by name. Shared by all connections of a server; services may be added while it runs."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._services: dict[str, Service] = {}
        for service in services:
            self.add(service)

    def add(self, service: Service) -> None:
        """Serve it from now on."""
        if service.name in self._services:
            raise InvalidArgument(f"service {service.name} is registered already")
        self._services[service.name] = service

    def remove(self, name: str) -> None:
        """Serve it no more; requests being handled are not touched."""
        del self._services[name]

    def find(self, name: str) -> Service | None:
        """The service of this name."""
        return self._services.get(name)

    def names(self) -> list[str]:
        """All services."""
        return sorted(self._services)


def with_messages(request_type: Any, handle: Callable[[Any, Request], Any]) -> Handler:
    """A handler from a function that takes a parsed message (and the Request), and gives a message.

    A request that cannot be parsed, or lacks a required field, is refused as Kudu refuses it.
    """

    def handler(request: Request) -> Answer:
        try:
            message = request_type.FromString(request.message)
        except DecodeError as error:
            raise CallRefused(f"Invalid argument: invalid parameter for call: {error}",
                              code=RpcCode.ERROR_INVALID_REQUEST) from None
        if not message.IsInitialized():
            missing = ", ".join(message.FindInitializationErrors())
            raise CallRefused(f"Invalid argument: invalid parameter for call: missing fields: {missing}",
                              code=RpcCode.ERROR_INVALID_REQUEST)
        answer: bytes = handle(message, request).SerializeToString()
        return answer

    return handler
