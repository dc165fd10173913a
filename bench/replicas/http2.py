"""Unary gRPC over HTTP/2 with as little work as there can be, so that the client is not what is measured.

Headers are written as literals, once; of answers only the frames are looked at: one with data is a success (a refused
unary call has trailers only). Flow control is obeyed in both directions. One connection, one event loop.
"""
from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW_BYTES: Final = 1 << 30
_FRAME_BYTES: Final = 16384      # the largest that need not be agreed on


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that goes into no table (RFC 7541, 6.2.2), without Huffman coding."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class GrpcConnection(asyncio.Protocol):
    """Calls to one server. `call` tells `done(answer)`; None: refused, or the connection was lost."""

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode()
        self._headers: dict[str, bytes] = {}
        self._stream = -1
        self._done: dict[int, Callable[[bytes | None], None]] = {}
        self._answers: dict[int, bytes] = {}
        self._room = 65535
        self._stream_window = 65535
        self._stream_room: dict[int, int] = {}      # of messages that are not sent yet
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._buffer = b""
        self._out: list[bytes] = []
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW_BYTES))
                        + _frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_BYTES)))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        done, self._done = self._done, {}
        self._waiting.clear()
        for tell in done.values():
            tell(None)

    def close(self) -> None:
        self._transport.close()

    def call(self, path: str, message: bytes, done: Callable[[bytes | None], None]) -> None:
        if self.lost:
            self._loop.call_soon(done, None)
            return
        headers = self._headers.get(path)
        if headers is None:
            headers = self._headers[path] = b"".join([
                b"\x83\x86", _literal(b":path", path.encode()), _literal(b":authority", self._authority),
                _literal(b"content-type", b"application/grpc"), _literal(b"te", b"trailers")])
        self._stream += 2
        self._done[self._stream] = done
        self._stream_room[self._stream] = self._stream_window
        self._write(_frame(_HEADERS, _END_HEADERS, self._stream, headers))
        self._waiting.append((self._stream, b"\0" + struct.pack(">I", len(message)) + message))
        self._send()

    def _send(self) -> None:
        """Of what waits, as much as the windows allow; one message behind the other."""
        while self._waiting:
            stream, data = self._waiting[0]
            size = min(len(data), _FRAME_BYTES, self._room, self._stream_room[stream])
            if size <= 0:
                return
            self._room -= size
            self._stream_room[stream] -= size
            self._write(_frame(_DATA, _END_STREAM if size == len(data) else 0, stream, data[:size]))
            if size == len(data):
                self._waiting.popleft()
                del self._stream_room[stream]
            else:
                self._waiting[0] = (stream, data[size:])

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", buffer, at)
            end = at + 9 + (high << 8 | low)
            if end > len(buffer):
                break
            self._received(kind, flags, stream, buffer[at + 9:end])
            at = end
        self._buffer = buffer[at:]
        self._send()

    def _received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answers[stream] = self._answers.get(stream, b"") + payload
        elif kind == _WINDOW:
            more = struct.unpack(">I", payload)[0]
            if stream == 0:
                self._room += more
            elif stream in self._stream_room:
                self._stream_room[stream] += more
        elif kind == _SETTINGS and not flags & _ACK:
            self._stream_window = dict(struct.iter_unpack(">HI", payload)).get(4, self._stream_window)
            self._transport.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._transport.close()
        if kind == _RST or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            done = self._done.pop(stream, None)
            answer = self._answers.pop(stream, None)
            if done is not None:
                done(None if answer is None else answer[5:])


async def connect(port: int) -> GrpcConnection:
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: GrpcConnection(f"127.0.0.1:{port}"), "127.0.0.1", port)
    return protocol
