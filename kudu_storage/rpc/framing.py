"""Frames of krpc: bytes in, frames out, and back. Pure: no socket, no clock, no policy.

A frame, both ways (docs/formats/krpc.md has the long story):
    u32 big-endian   bytes that follow
    varint           bytes of the header        then the header: RequestHeader or ResponseHeader
    varint           bytes of the main part     then the message and, behind it, its sidecars

F1  A length is compared with its limit before memory is allocated for it, and memory grows with the bytes that came.
F2  What is handed out are memoryviews of the buffer that the bytes were received in. It is used again only when none is
    left, so they stay valid; each keeps its whole buffer alive, so who keeps a small one for long copies it.
F3  Encoding copies no message above COPY_BYTES_MAX: it gives a list of buffers to be written in order.
F4  Frames and headers as most are go through _native/rpc_frames.pyx; the code here is for all, and names what is wrong.
F5  Whatever the bytes, the outcome is frames or a BadFrame, nothing else.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from kudu_storage._native.rpc_frames import request_header, response_header, small_frame, whole_frame
from kudu_storage.common.limits import (
    KIB,
    RPC_FRAME_BYTES_MAX,
    RPC_HEADER_BYTES_MAX,
    RPC_RECEIVE_STEP_BYTES,
    RPC_SIDECARS_MAX,
)
from kudu_storage.common.varint import encode_varint as _plain_varint
from kudu_storage.errors import BadFrame, FrameTooLarge, InvalidArgument
from kudu_storage.protos import message_class

Buffer: TypeAlias = bytes | bytearray | memoryview
# A message or a sidecar: one buffer, or several that are sent one after the other.
Payload: TypeAlias = Buffer | Sequence[Buffer]

NEGOTIATE_CALL_ID: Final = -33
CONNECTION_CONTEXT_CALL_ID: Final = -3
CALL_ID_MAX: Final = 2**31 - 1
LENGTH_WORD_BYTES: Final = 4
# Below it one copy is cheaper than another entry in a scatter-gather list.
COPY_BYTES_MAX: Final = 4 * KIB
# Memory to receive into, of a connection that receives little and of one that is busy: it doubles when one read fills
# it, and halves again.
RECEIVE_CHUNK_BYTES: Final = 16 * KIB
RECEIVE_CHUNK_BYTES_MAX: Final = 256 * KIB
# When less than this, or than the last frame, is left behind the last frame, the next bytes go to a new chunk.
_ROOM_BYTES_MIN: Final = 4 * KIB

_length_word = struct.Struct(">I")
_request_header: Any = message_class("kudu.rpc.RequestHeader")
_response_header: Any = message_class("kudu.rpc.ResponseHeader")


_NONE: Final[tuple[memoryview, ...]] = ()
_new: Final[Any] = tuple.__new__    # of a NamedTuple: half the price of calling it


class Frame(NamedTuple):
    """One frame: the header's bytes, and the main part as a view of the received buffer."""

    header: bytes
    main: memoryview


class RequestFrame(NamedTuple):
    """A parsed request. `timeout_ms` 0 is none, as in Kudu; `request_id` is a RequestIdPB, or None."""

    call_id: int
    service: str
    method: str
    timeout_ms: int
    required_flags: Sequence[int]
    request_id: Any
    message: memoryview
    sidecars: tuple[memoryview, ...]


class ResponseFrame(NamedTuple):
    """A parsed response. Of an error the message is an ErrorStatusPB."""

    call_id: int
    is_error: bool
    message: memoryview
    sidecars: tuple[memoryview, ...]


class FrameReader:
    """Cuts what was received into frames. The caller receives into `room()`, says how much, and asks for frames."""

    __slots__ = ("_buffer", "_chunk_bytes", "_chunk_bytes_min", "_end", "_filled", "_last_bytes", "_start", "_view",
                 "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = RPC_FRAME_BYTES_MAX, chunk_bytes: int = RECEIVE_CHUNK_BYTES) -> None:
        self.frame_bytes_max = frame_bytes_max  # length word included; may be changed between frames
        self._chunk_bytes = self._chunk_bytes_min = chunk_bytes
        self._filled = False    # a read has filled all the room since the chunk was taken
        self._last_bytes = 0    # size of the last whole frame
        self._use(bytearray(chunk_bytes))
        self._start = 0     # first byte that belongs to no frame yet
        self._end = 0       # one past the last byte received

    def _use(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)

    def room(self) -> memoryview:
        """Where the next bytes go; never empty once `next_frame` (or `take`) has said None."""
        return self._view[self._end:]

    def received(self, count: int) -> None:
        """So many bytes were written to the start of `room()`."""
        self._end += count
        if self._end == len(self._buffer):
            self._filled = True

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """The frames that end in `data`: for callers that have bytes already."""
        left = memoryview(data)
        while True:
            frame = self.next_frame()
            if frame is not None:
                yield frame
            elif not left:
                return
            else:
                room = self.room()
                count = min(len(room), len(left))
                room[:count] = left[:count]
                self.received(count)
                left = left[count:]

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no frame yet."""
        return self._end - self._start

    @property
    def capacity_bytes(self) -> int:
        """Memory held for bytes to come; frames handed out hold theirs themselves."""
        return len(self._buffer)

    def take(self, count: int) -> bytes | None:
        """So many bytes outside of any frame (the connection header); None until they have come."""
        if self._end - self._start < count:
            self._make_room(count)
            return None
        taken = bytes(self._view[self._start:self._start + count])
        self._start += count
        return taken

    def next_frame(self) -> Frame | None:
        """The next whole frame; None until it has come. A BadFrame ends the stream: there is no way to go on."""
        start = self._start
        found = whole_frame(self._buffer, start, self._end, self.frame_bytes_max)
        if found is not None:
            end, header, main_at = found
            self._start = end
            self._last_bytes = end - start
            frame: Frame = _new(Frame, (header, self._view[main_at:end]))
            return frame
        available = self._end - start
        if available < LENGTH_WORD_BYTES:
            self._make_room(LENGTH_WORD_BYTES)
            return None
        size = _length_word.unpack_from(self._buffer, start)[0] + LENGTH_WORD_BYTES
        if size > self.frame_bytes_max:
            raise FrameTooLarge(f"a frame of {size} bytes; at most {self.frame_bytes_max} are allowed",
                                advice="raise the limit on both sides (--rpc_max_message_size of a Kudu server), or "
                                       "send less at once")
        if size == LENGTH_WORD_BYTES:
            raise BadFrame("an empty frame")
        if available < size:
            self._make_room(size)
            return None
        self._start = start + size
        self._last_bytes = size
        return self._split(start + LENGTH_WORD_BYTES, start + size)

    def _split(self, at: int, end: int) -> Frame:
        buffer = self._buffer
        header_bytes, at = _read_varint(buffer, at, end)
        if header_bytes > end - at:
            raise BadFrame(f"a header of {header_bytes} bytes in a frame with {end - at} left")
        if header_bytes > RPC_HEADER_BYTES_MAX:
            raise FrameTooLarge(f"a header of {header_bytes} bytes; at most {RPC_HEADER_BYTES_MAX} are allowed")
        header = bytes(self._view[at:at + header_bytes])
        main_bytes, at = _read_varint(buffer, at + header_bytes, end)
        if main_bytes != end - at:
            raise BadFrame(f"a main part of {main_bytes} bytes in a frame with {end - at} left")
        return Frame(header, self._view[at:end])

    def _make_room(self, size: int) -> None:
        """See that the frame of `size` bytes that starts at `_start` can go on to be received (F1, F2)."""
        start, end, capacity = self._start, self._end, len(self._buffer)
        pending = end - start
        fits = end < capacity and capacity - start >= min(size, RPC_RECEIVE_STEP_BYTES)
        if fits and (pending or start == 0 or capacity - end >= max(_ROOM_BYTES_MIN, self._last_bytes)):
            return
        if self._filled:
            self._chunk_bytes = min(2 * self._chunk_bytes, RECEIVE_CHUNK_BYTES_MAX)
        elif self._chunk_bytes > max(self._chunk_bytes_min, 4 * self._last_bytes):
            self._chunk_bytes //= 2
        self._filled = False
        if not pending and capacity == self._chunk_bytes and self._reclaim():
            return
        grown = min(size, max(RPC_RECEIVE_STEP_BYTES, 4 * pending))
        buffer = bytearray(max(grown, self._chunk_bytes))
        buffer[:pending] = self._view[start:end]
        self._use(buffer)
        self._start, self._end = 0, pending


    def _reclaim(self) -> bool:
        """Start at the front of the same buffer again, if nobody looks into it any more."""
        self._view.release()
        try:
            self._buffer.pop()      # refused while there is a view of it; otherwise neither call moves it
            self._buffer.append(0)
        except BufferError:
            self._view = memoryview(self._buffer)
            return False
        self._use(self._buffer)
        self._start = self._end = 0
        return True


def _read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """A varint of at most 32 bits, and the place behind it."""
    value = shift = 0
    while at < end and shift < 35:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 32:
                break
            return value, at
        shift += 7
    raise BadFrame("a length that is cut or too large for 32 bits")


def parse_request(frame: Frame) -> RequestFrame:
    """The request in a frame. Raises BadFrame."""
    common = request_header(frame.header)
    if common is not None:
        request: RequestFrame = _new(RequestFrame, (*common, (), None, frame.main, _NONE))
        return request
    try:
        header = _request_header.FromString(frame.header)
    except DecodeError as error:
        raise BadFrame(f"a request header that cannot be parsed: {error}") from None
    call_id: int = header.call_id
    if call_id < 0 or not header.HasField("call_id") or not header.HasField("remote_method"):
        raise BadFrame(f"a request without a usable call id or without a method (call id {call_id})")
    remote = header.remote_method
    try:
        service, method = remote.service_name, remote.method_name
    except UnicodeDecodeError:
        service = method = None
    # What is not UTF-8 comes as bytes, or raises, depending on protobuf's version.
    if not service or not method or service.__class__ is not str or method.__class__ is not str:
        raise BadFrame("a request that names no service or no method in UTF-8")
    message, sidecars = frame.main, _NONE
    if offsets := header.sidecar_offsets:
        message, sidecars = split_sidecars(message, offsets)
    request_id = None
    if header.HasField("request_id"):
        request_id = header.request_id
        if not request_id.IsInitialized():
            raise BadFrame("a request id that lacks a required field")
    return RequestFrame(call_id, service, method, header.timeout_millis, header.required_feature_flags, request_id,
                        message, sidecars)


def parse_response(frame: Frame) -> ResponseFrame:
    """The response in a frame. Raises BadFrame."""
    call_id = response_header(frame.header)
    if call_id is not None:
        response: ResponseFrame = _new(ResponseFrame, (call_id, False, frame.main, _NONE))
        return response
    header = parse_response_header(frame.header)
    message, sidecars = frame.main, _NONE
    if offsets := header.sidecar_offsets:
        message, sidecars = split_sidecars(message, offsets)
    return ResponseFrame(header.call_id, header.is_error, message, sidecars)


def parse_response_header(data: bytes) -> Any:
    """A ResponseHeader that has its call id."""
    try:
        header = _response_header.FromString(data)
    except DecodeError as error:
        raise BadFrame(f"a response header that cannot be parsed: {error}") from None
    if not header.HasField("call_id"):
        raise BadFrame("a response without a call id")
    return header


def split_sidecars(main: memoryview, offsets: Sequence[int]) -> tuple[memoryview, tuple[memoryview, ...]]:
    """The message and its sidecars: each ends where the next begins, the last at the end."""
    if len(offsets) > RPC_SIDECARS_MAX:
        raise FrameTooLarge(f"{len(offsets)} sidecars; at most {RPC_SIDECARS_MAX} are allowed")
    bounds = [*offsets, len(main)]
    sidecars = []
    for first, end in pairwise(bounds):
        if end < first:
            raise BadFrame(f"a sidecar from offset {first} to {end} in a main part of {len(main)} bytes")
        sidecars.append(main[first:end])
    return main[:bounds[0]], tuple(sidecars)


# -- encoding ----------------------------------------------------------------------------------------------------------
def encode_varint(value: int) -> bytes:
    """A varint; negative numbers as 64-bit two's complement, as protobuf has them."""
    if 0 <= value < _SHORT_VARINTS_END:
        return _SHORT_VARINTS[value]
    if 0 < value < 1 << 21:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return _plain_varint(value & 2**64 - 1)


_NO_ERROR, _IS_ERROR = b"\x10\x00", b"\x10\x01"
_SHORT_VARINTS_END: Final = 1 << 14
_SHORT_VARINTS: Final = tuple(_plain_varint(value) for value in range(_SHORT_VARINTS_END))
# A method keeps what follows the call id in its headers, for so many different timeouts.
_TAILS_MAX: Final = 64


class Method:
    """A service's method, with its bytes in a request header. Make it once; it fits any connection."""

    __slots__ = ("_tails", "encoded", "name", "service")

    def __init__(self, service: str, name: str) -> None:
        if not service or not name:
            raise InvalidArgument("a method needs a service and a name")
        self.service, self.name = service, name
        body = _encode_text(b"\x0a", service) + _encode_text(b"\x12", name)
        self.encoded = b"\x32" + encode_varint(len(body)) + body    # remote_method = 6
        self._tails = {0: self.encoded}

    def header_tail(self, timeout_ms: int) -> bytes:
        """The fields remote_method and timeout_millis of a header."""
        tail = self._tails.get(timeout_ms)
        if tail is None:
            tail = self.encoded + b"\x50" + encode_varint(timeout_ms)
            if len(self._tails) < _TAILS_MAX:
                self._tails[timeout_ms] = tail
        return tail

    def __repr__(self) -> str:
        return f"{self.service}.{self.name}"


def _encode_text(tag: bytes, text: str) -> bytes:
    data = text.encode()
    return tag + encode_varint(len(data)) + data


def size_bytes(payload: Payload) -> int:
    """Bytes of a payload, all its parts together."""
    if isinstance(payload, memoryview):
        return payload.nbytes
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def encode_request(call_id: int, method: Method, message: Payload, sidecars: Sequence[Payload] = (), *,
                   timeout_ms: int = 0, required_flags: Sequence[int] = (), request_id: bytes = b"") -> list[Buffer]:
    """A request as buffers to be written in order. `request_id` is a serialized RequestIdPB."""
    if message.__class__ is bytes and not sidecars and not required_flags and not request_id \
            and len(message) <= COPY_BYTES_MAX:
        return [small_frame(0x18, call_id, method.header_tail(timeout_ms), message)]
    header = b"\x18" + encode_varint(call_id) + method.header_tail(timeout_ms)
    for flag in required_flags:
        header += b"\x58" + encode_varint(flag)
    if request_id:
        header += b"\x7a" + encode_varint(len(request_id)) + request_id
    return _encode_frame(header, b"\x80\x01", message, sidecars)


def encode_response(call_id: int, message: Payload, sidecars: Sequence[Payload] = (), *,
                    is_error: bool = False) -> list[Buffer]:
    """A response as buffers to be written in order."""
    if message.__class__ is bytes and not sidecars and len(message) <= COPY_BYTES_MAX:
        return [small_frame(0x08, call_id, _IS_ERROR if is_error else _NO_ERROR, message)]
    header = b"\x08" + encode_varint(call_id) + (_IS_ERROR if is_error else _NO_ERROR)
    return _encode_frame(header, b"\x18", message, sidecars)


def encode_control(call_id: int, message: bytes) -> bytes:
    """A request that names no method: a step of the negotiation, or the connection context."""
    return b"".join(_encode_frame(b"\x18" + encode_varint(call_id), b"\x80\x01", message, ()))


def _encode_frame(header: bytes, offset_tag: bytes, message: Payload, sidecars: Sequence[Payload]) -> list[Buffer]:
    main_bytes = size_bytes(message)
    if sidecars:
        if len(sidecars) > RPC_SIDECARS_MAX:
            raise InvalidArgument(f"{len(sidecars)} sidecars; at most {RPC_SIDECARS_MAX} can be sent")
        offsets = []
        for sidecar in sidecars:
            offsets.append(offset_tag + encode_varint(main_bytes))
            main_bytes += size_bytes(sidecar)
        header += b"".join(offsets)
    prefix = encode_varint(len(header)) + header + encode_varint(main_bytes)
    size = len(prefix) + main_bytes
    if size > CALL_ID_MAX:
        raise InvalidArgument(f"a frame of {size} bytes; Kudu's protocol ends at 2 GiB")
    prefix = _length_word.pack(size) + prefix
    if not sidecars and main_bytes <= COPY_BYTES_MAX and isinstance(message, (bytes, bytearray, memoryview)):
        return [prefix + message]
    buffers: list[Buffer] = [prefix]
    for payload in (message, *sidecars):
        if isinstance(payload, (bytes, bytearray, memoryview)):
            buffers.append(payload)
        else:
            buffers.extend(payload)
    return buffers


# -- ErrorStatusPB -----------------------------------------------------------------------------------------------------
class ErrorStatus(NamedTuple):
    """An ErrorStatusPB. Extensions (application errors) are kept as bytes, by number."""

    code: int
    message: str
    extensions: Mapping[int, bytes]
    unsupported_flags: tuple[int, ...]


def encode_error(call_id: int, code: int, message: str, extensions: Mapping[int, Buffer] | None = None,
                 unsupported_flags: Sequence[int] = ()) -> list[Buffer]:
    """A response that says that a call failed."""
    text = message.encode("utf-8", "replace")
    body = b"\x0a" + encode_varint(len(text)) + text + b"\x10" + encode_varint(code)
    for flag in unsupported_flags:
        body += b"\x18" + encode_varint(flag)
    for number, data in (extensions or {}).items():
        body += encode_varint(number << 3 | 2) + encode_varint(len(data)) + bytes(data)
    return encode_response(call_id, body, is_error=True)


def parse_error(data: Buffer) -> ErrorStatus:
    """Parse an ErrorStatusPB by hand: an unknown code and unknown extensions are kept. Raises BadFrame."""
    # Real servers leave the code out where a service answers with an extension (tablet copy does).
    code, message, flags = 1, "", []
    extensions: dict[int, bytes] = {}
    for number, value in _fields(bytes(data)):
        if isinstance(value, bytes):
            if number == 1:
                message = value.decode("utf-8", "replace")
            elif number >= 100:
                extensions[number] = extensions.get(number, b"") + value    # as protobuf merges a message sent twice
        elif number == 2:
            code = value
        elif number == 3:
            flags.append(value & 0xFFFFFFFF)
    return ErrorStatus(code, message, extensions, tuple(flags))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _read_varint(data, at, end)
        kind = tag & 7
        if kind == 0:
            value, at = _read_long_varint(data, at, end)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _read_varint(data, at, end)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise BadFrame(f"an error status with a field of unknown kind {kind}")
        if size > end - at:
            raise BadFrame("an error status that ends in the middle of a field")
        if kind == 2:
            yield tag >> 3, data[at:at + size]
        at += size


def _read_long_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise BadFrame("a number that is cut")
