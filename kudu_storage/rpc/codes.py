"""ErrorStatusPB's codes, and the one function that makes errors of them. Pure."""
from __future__ import annotations

from enum import IntEnum

from kudu_storage.errors import NoSuchMethod, RemoteError, RequestRefused, ServerTooBusy, ServerUnavailable
from kudu_storage.rpc.framing import Buffer, parse_error


class RpcCode(IntEnum):
    """ErrorStatusPB.RpcErrorCodePB. After one that starts with FATAL the connection is closed."""

    ERROR_APPLICATION = 1
    ERROR_NO_SUCH_METHOD = 2
    ERROR_NO_SUCH_SERVICE = 3
    ERROR_SERVER_TOO_BUSY = 4
    ERROR_INVALID_REQUEST = 5
    ERROR_REQUEST_STALE = 6
    ERROR_UNAVAILABLE = 7
    FATAL_UNKNOWN = 10
    FATAL_SERVER_SHUTTING_DOWN = 11
    FATAL_INVALID_RPC_HEADER = 12
    FATAL_DESERIALIZING_REQUEST = 13
    FATAL_VERSION_MISMATCH = 14
    FATAL_UNAUTHORIZED = 15
    FATAL_INVALID_AUTHENTICATION_TOKEN = 16
    ERROR_INVALID_AUTHORIZATION_TOKEN = 17
    FATAL_INVALID_JWT = 18


_FATAL = frozenset(code for code in RpcCode if code.name.startswith("FATAL_"))
_CLASSES: dict[int, type[RemoteError]] = {
    RpcCode.ERROR_NO_SUCH_METHOD: NoSuchMethod,
    RpcCode.ERROR_NO_SUCH_SERVICE: NoSuchMethod,
    RpcCode.ERROR_SERVER_TOO_BUSY: ServerTooBusy,
    RpcCode.ERROR_INVALID_REQUEST: RequestRefused,
    RpcCode.ERROR_UNAVAILABLE: ServerUnavailable,
    RpcCode.FATAL_SERVER_SHUTTING_DOWN: ServerUnavailable,
    RpcCode.FATAL_DESERIALIZING_REQUEST: RequestRefused,
}


def code_name(code: int) -> str:
    """The code's name, or "code N" of one that this version does not know."""
    try:
        return RpcCode(code).name
    except ValueError:
        return f"code {code}"


def is_fatal(code: int) -> bool:
    """Whether the peer closes the connection after it."""
    return code in _FATAL


def remote_error(data: Buffer, what: str = "") -> RemoteError:
    """The error that stands for an ErrorStatusPB in answer to the call `what`. Raises BadFrame."""
    status = parse_error(data)
    detail = f"{what}: " if what else ""
    detail += f"{code_name(status.code)}: {status.message}"
    if status.unsupported_flags:
        detail += f" ({', '.join(map(str, status.unsupported_flags))})"
    return _CLASSES.get(status.code, RemoteError)(detail, code=status.code, extensions=status.extensions,
                                                 unsupported_flags=status.unsupported_flags)
