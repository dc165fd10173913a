"""Snapshots of state machines over krpc: for followers that the leader's log can no longer help.

Kudu has no such call, since its replicas are copied as files; this is a service of our own beside ConsensusService.

    Install   32 bytes tablet id | u64 size of all | u64 offset | u32 CRC-32C of the piece | the piece
    answer    empty; to the last piece, when the snapshot is installed

C1  Pieces come in order; another begins at 0 again. What is kept is what came, not what was announced.
C2  At most SNAPSHOT_BYTES_MAX, and one snapshot at a time for each replica.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from consensus.transport.krpc import Endpoint, KrpcTransport
from kudu_storage._native.crc32c import crc32c
from kudu_storage.common.limits import MIB
from kudu_storage.errors import BadFrame, FrameTooLarge, RpcError
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.framing import Method
from kudu_storage.rpc.services import CallRefused, Request, Service

SNAPSHOT_BYTES_MAX: Final = 4096 * MIB
PIECE_BYTES: Final = 1 * MIB
PIECE_TIMEOUT_S: Final = 30.0
_SERVICE: Final = "kudu_storage.SnapshotService"
_INSTALL: Final = Method(_SERVICE, "Install")
_HEAD: Final = struct.Struct("<32sQQI")
_services: WeakKeyDictionary[Endpoint, SnapshotService] = WeakKeyDictionary()

OnCopy = Callable[[bytes], Awaitable[None]]


class SnapshotService:
    """The receiving side of one endpoint."""

    def __init__(self) -> None:
        self.replicas: dict[str, OnCopy] = {}
        self._parts: dict[str, bytearray] = {}

    def service(self) -> Service:
        return Service(_SERVICE, {"Install": self._install})

    def forget(self, tablet_id: str) -> None:
        """The replica goes, and what came for it."""
        self.replicas.pop(tablet_id, None)
        self._parts.pop(tablet_id, None)

    async def _install(self, request: Request) -> bytes:
        tablet_id, total, piece, offset = parse_piece(request.message)
        on_copy = self.replicas.get(tablet_id)
        if on_copy is None:
            raise CallRefused(f"no replica of {tablet_id} here", code=RpcCode.ERROR_APPLICATION)
        part = self._parts.setdefault(tablet_id, bytearray())
        if offset == 0:
            part.clear()
        if offset != len(part) or offset + len(piece) > total:
            raise CallRefused(f"a piece at {offset}, after {len(part)} bytes of {total}",
                              code=RpcCode.ERROR_INVALID_REQUEST)
        part += piece
        if len(part) == total:
            del self._parts[tablet_id]
            await on_copy(bytes(part))
        return b""


def parse_piece(message: Any) -> tuple[str, int, bytes, int]:
    """(tablet id, size of all, the piece, its offset). Raises BadFrame."""
    if len(message) < _HEAD.size:
        raise BadFrame(f"a piece of a snapshot of {len(message)} bytes")
    tablet_id, total, offset, crc = _HEAD.unpack_from(message)
    piece = bytes(message[_HEAD.size:])
    if total > SNAPSHOT_BYTES_MAX:
        raise FrameTooLarge(f"a snapshot of {total} bytes; {SNAPSHOT_BYTES_MAX} is the limit")
    if crc32c(piece) != crc:
        raise BadFrame("a piece of a snapshot whose checksum does not match")
    return tablet_id.rstrip(b"\0").decode("ascii", "replace"), total, piece, offset


def encode_piece(tablet_id: str, total: int, offset: int, piece: bytes) -> bytes:
    return _HEAD.pack(tablet_id.encode(), total, offset, crc32c(piece)) + piece


class CopyingTransport(KrpcTransport):
    """KrpcTransport that also carries snapshots: consensus.replica.ports.Network."""

    on_copy: OnCopy | None = None

    async def start(self, deliver: Any, on_connection: Any = None) -> None:
        service = _services.get(self.endpoint)
        if service is None:
            service = _services[self.endpoint] = SnapshotService()
            self.endpoint.registry.add(service.service())
        if self.on_copy is not None:
            service.replicas[self.tablet_id] = self.on_copy
        await super().start(deliver, on_connection)

    async def stop(self) -> None:
        service = _services.get(self.endpoint)
        if service is not None:
            service.forget(self.tablet_id)
        await super().stop()

    async def copy(self, to: str, data: bytes) -> None:
        """Send a snapshot, until it is installed there. Raises RpcError."""
        offset = 0
        while offset < len(data) or offset == 0:
            piece = data[offset:offset + PIECE_BYTES]
            await self._send_piece(to, encode_piece(self.tablet_id, len(data), offset, piece))
            offset += len(piece)

    async def _send_piece(self, to: str, message: bytes) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(outcome: Any) -> None:
            if done.done():
                return
            if isinstance(outcome, RpcError):
                done.set_exception(outcome)
            else:
                done.set_result(None)

        self.endpoint.peers.start_call(to, _INSTALL, [message], ended, PIECE_TIMEOUT_S)
        await done
