"""Calls to other servers: one channel each, shared by all replicas of this one.

P1  What is meant for a server that cannot be reached is dropped, not queued: while a connection is being made at most
    EARLY_BYTES_MAX wait for it (and one call, however large), between two attempts nothing.
P2  Back-off is the channel's alone (kudu_storage.rpc.channel): nothing else here waits before it tries again.
P3  A call that is not made raises; one that is made ends with exactly one `on_done`, from the loop.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

from typing import Final

from consensus.transport.configs import split_address
from kudu_storage.common.limits import KIB, MIB
from kudu_storage.errors import ConnectionLost, RpcBackpressure
from kudu_storage.rpc.channel import Channel
from kudu_storage.rpc.connection import OnDone, State
from kudu_storage.rpc.framing import Method, Payload, size_bytes
from kudu_storage.rpc.options import ConnectionOptions

EARLY_BYTES_MAX: Final = 256 * KIB
# What one peer that does not read may hold: the core's window of requests, and some heartbeats.
QUEUE_BYTES_MAX: Final = 16 * MIB
CONNECT_S: Final = 3.0


def default_options() -> ConnectionOptions:
    """How servers call each other. A connection that is not used for a while ends, and is made again when needed."""
    return ConnectionOptions(queue_bytes_max=QUEUE_BYTES_MAX, connect_s=CONNECT_S)


class Peers:
    """Servers by name, and how to reach them."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._addresses: dict[str, str] = {}
        self._channels: dict[str, Channel] = {}
        self._closing: list[Channel] = []

    def set_address(self, name: str, address: str) -> None:
        """Where a server is from now on. Calls under way to where it was go on. Raises InvalidArgument."""
        if self._addresses.get(name) == address:
            return
        split_address(address)
        self._addresses[name] = address
        old = self._channels.pop(name, None)
        if old is not None:
            self._closing.append(old)
        self._closing = [channel for channel in self._closing if not _is_idle(channel)]

    def address(self, name: str) -> str | None:
        return self._addresses.get(name)

    def waiting_bytes(self, name: str) -> int:
        """Bytes of calls that the kernel has not taken yet, or that wait for a connection."""
        channel = self._channels.get(name)
        return channel.connection.queued_bytes if channel is not None and channel.connection is not None else 0

    def start_call(self, to: str, method: Method, payload: Payload, on_done: OnDone, timeout_s: float) -> None:
        """Call a server. Raises an RpcError if nothing of it will be sent (P1, P3), InvalidArgument if it is larger
        than a frame may be."""
        channel = self._channels.get(to)
        if channel is None:
            channel = self._channel(to)
        connection = channel.connection
        if connection is not None and connection.state is not State.OPEN and connection.is_usable:
            waiting = connection.queued_bytes
            if waiting and waiting + size_bytes(payload) > EARLY_BYTES_MAX:
                raise RpcBackpressure(f"{to} is not connected, and {waiting} bytes wait for it already")
        channel.start_call(method, payload, on_done, timeout_s=timeout_s)

    def _channel(self, name: str) -> Channel:
        address = self._addresses.get(name)
        if address is None:
            raise ConnectionLost(f"nobody said where {name} is", maybe_sent=False)
        host, port = split_address(address)
        channel = self._channels[name] = Channel(host, port, self.options)
        return channel

    async def close(self) -> None:
        """End all connections; calls under way are lost."""
        channels = [*self._channels.values(), *self._closing]
        self._channels.clear()
        self._closing.clear()
        for channel in channels:
            await channel.close()


def _is_idle(channel: Channel) -> bool:
    return channel.connection is None or not channel.connection.in_flight
