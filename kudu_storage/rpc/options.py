"""What connections and servers may be told. Seconds are seconds, sizes bytes; None or 0 where it says so is "never"."""
from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from typing import Final

from kudu_storage.common.limits import MIB, RPC_FRAME_BYTES_MAX
from kudu_storage.errors import InvalidArgument

# Kudu's --rpc_default_keepalive_time_ms, --rpc_negotiation_timeout_ms.
IDLE_S: Final = 65.0
NEGOTIATION_S: Final = 3.0


def this_user() -> str:
    """The name that real clients give: that of the user who runs the process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):     # a user id without an entry, as in some containers
        return "unknown"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """A client's side.

    Args:
        user, password: for SASL PLAIN. Kudu looks at the name only.
        frame_bytes_max: largest answer taken, and largest request sent.
        calls_max: calls under way; one more is refused with RpcBackpressure.
        queue_bytes_max: when so many bytes wait to be taken by the kernel, calls are refused until half are gone. (The
            last one accepted may go beyond it.)
        connect_s: for connecting and negotiating together.
        idle_s: a connection without calls is closed after so long; 0 is never.
    """

    user: str = field(default_factory=this_user)
    password: str = ""
    frame_bytes_max: int = RPC_FRAME_BYTES_MAX
    calls_max: int = 10_000
    queue_bytes_max: int = 8 * MIB
    connect_s: float = 10.0
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        if self.calls_max < 1 or self.queue_bytes_max < 1 or self.frame_bytes_max < 64 or self.connect_s <= 0:
            raise InvalidArgument(f"connection options out of range: {self}")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A server's side; all but `connections_max` count per connection.

    Args:
        frame_bytes_max: largest request taken, and largest answer sent.
        calls_max: calls being handled; one more is answered with ERROR_SERVER_TOO_BUSY.
        pending_bytes_max: bytes of requests being handled; beyond it nothing is received until some are answered.
        send_bytes_max: bytes of answers not yet taken by the kernel; beyond it nothing is received until half are gone.
        negotiation_s: a peer that has not introduced itself by then is cut off.
        idle_s: a connection without calls is closed after so long; 0 is never.
        connections_max: connections beyond it are closed at once.
        trust_all: serve unencrypted connections from public addresses too.
    """

    frame_bytes_max: int = RPC_FRAME_BYTES_MAX
    calls_max: int = 1_000
    pending_bytes_max: int = 64 * MIB
    send_bytes_max: int = 8 * MIB
    negotiation_s: float = NEGOTIATION_S
    idle_s: float = IDLE_S
    connections_max: int = 10_000
    trust_all: bool = False

    def __post_init__(self) -> None:
        if min(self.calls_max, self.pending_bytes_max, self.send_bytes_max, self.connections_max) < 1:
            raise InvalidArgument(f"server options out of range: {self}")
