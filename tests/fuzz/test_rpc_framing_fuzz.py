"""Frames from anyone: whatever the bytes and however they are cut, the outcome is frames or a BadFrame."""
from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage.errors import BadFrame, KuduStorageError
from kudu_storage.protos import message_class
from kudu_storage.rpc.codes import remote_error
from kudu_storage.rpc.framing import (
    NEGOTIATE_CALL_ID,
    Frame,
    FrameReader,
    Method,
    encode_error,
    encode_request,
    encode_response,
    encode_varint,
    parse_error,
    parse_request,
    parse_response,
)
from kudu_storage.rpc.negotiation import CONNECTION_HEADER, ClientNegotiation, ServerNegotiation, State

METHOD = Method("kudu.tserver.TabletServerService", "Write")
payloads = st.one_of(st.binary(max_size=6000), st.lists(st.binary(max_size=300), max_size=4))


def joined(payload: bytes | list[bytes]) -> bytes:
    return payload if isinstance(payload, bytes) else b"".join(payload)


def cut(data: bytes, sizes: Sequence[int], chunk_bytes: int) -> list[Frame]:
    reader, frames, at, turn = FrameReader(chunk_bytes=chunk_bytes), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        frames.extend(reader.feed(data[at:at + size]))
        at, turn = at + size, turn + 1
    assert reader.pending_bytes == 0
    return frames


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), payloads, st.lists(payloads, max_size=5),
                          st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=3)),
                min_size=1, max_size=6),
       st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.sampled_from([64, 1000, 1 << 16]))
@settings(max_examples=150, deadline=None)
def test_requests_come_out_as_they_went_in_however_they_are_cut(
        calls: list[Any], sizes: list[int], chunk_bytes: int) -> None:
    data = b"".join(b"".join(encode_request(number, METHOD, message, sidecars, timeout_ms=timeout,
                                            required_flags=flags))
                    for number, message, sidecars, timeout, flags in calls)
    requests = [parse_request(frame) for frame in cut(data, sizes, chunk_bytes)]
    assert [(r.call_id, bytes(r.message), [bytes(s) for s in r.sidecars], r.timeout_ms, list(r.required_flags))
            for r in requests] == [(number, joined(message), [joined(s) for s in sidecars], timeout, flags)
                                   for number, message, sidecars, timeout, flags in calls]
    assert {(r.service, r.method) for r in requests} == {(METHOD.service, METHOD.name)}


def test_every_single_cut_gives_the_same_frames() -> None:
    data = (b"".join(encode_request(1, METHOD, b"m" * 20, [b"", b"sidecar"], timeout_ms=3, required_flags=(1, 300)))
            + b"".join(encode_response(7, b"x" * 200, [b"y" * 130]))
            + b"".join(encode_error(2**31 - 1, 4, "busy", {102: b"\x08\x01"}, (5,))))
    whole = [(frame.header, bytes(frame.main)) for frame in FrameReader().feed(data)]
    assert len(whole) == 3
    for at in range(len(data) + 1):
        for chunk_bytes in (16, 1 << 16):
            reader = FrameReader(chunk_bytes=chunk_bytes)
            frames = [*reader.feed(data[:at]), *reader.feed(data[at:])]
            assert [(frame.header, bytes(frame.main)) for frame in frames] == whole


def parsed_or_refused(parse: Callable[[], object]) -> None:
    with contextlib.suppress(BadFrame):
        parse()


def swallow(data: bytes) -> None:
    """Parse to the end in every way there is."""
    for frame in FrameReader(1 << 20).feed(data):
        parsed_or_refused(lambda frame=frame: parse_request(frame))
        parsed_or_refused(lambda frame=frame: parse_response(frame))
        parsed_or_refused(lambda frame=frame: remote_error(frame.main))


@given(st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    parsed_or_refused(lambda: swallow(data))
    parsed_or_refused(lambda: swallow(struct.pack(">I", len(data)) + data))
    header = struct.pack(">I", len(data) + 1 + 1) + bytes([min(len(data), 127)]) + data + b"\0"
    parsed_or_refused(lambda: swallow(header))
    parsed_or_refused(lambda: parse_error(data))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_frames_are_frames_or_refused(data: st.DataObject) -> None:
    good = bytearray(b"".join(encode_request(3, METHOD, b"message", [b"one", b"two"], timeout_ms=5,
                                               required_flags=(1,))))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    parsed_or_refused(lambda: swallow(bytes(good)))


@given(st.binary(max_size=200), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_negotiation_step_is_taken_or_refused(main: bytes, skip: bool, is_server: bool) -> None:
    machine: Any = ServerNegotiation() if is_server else ClientNegotiation("tester")
    if skip:
        machine.state = State.AUTHENTICATE
    header = (b"\x18" if is_server else b"\x08") + encode_varint(NEGOTIATE_CALL_ID)
    try:
        machine.receive(Frame(header, memoryview(main)))
        assert machine.state in (State.AUTHENTICATE, State.CONTEXT, State.DONE)
    except KuduStorageError:
        assert machine.state is State.FAILED
        assert bool(machine.farewell) if is_server else True


@given(st.binary(min_size=7, max_size=7))
def test_any_connection_header_but_ours_is_refused(header: bytes) -> None:
    if header[:5] != CONNECTION_HEADER[:5]:
        with pytest.raises(BadFrame):
            ServerNegotiation().check_connection_header(header)


@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=50), st.integers(0, 30),
       st.dictionaries(st.integers(100, 200), st.binary(max_size=50), max_size=3),
       st.lists(st.integers(0, 2**32 - 1), max_size=3))
@settings(deadline=None)
def test_errors_come_out_as_they_went_in(number: int, text: str, code: int, extensions: dict[int, bytes],
                                         flags: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    (frame,) = FrameReader().feed(b"".join(encode_error(number, code, text, extensions, flags)))
    response = parse_response(frame)
    assert response.is_error and response.call_id == number
    assert parse_error(response.message) == (code, text, extensions, tuple(flags))
    # and protobuf itself agrees, where it knows the code
    status: Any = message_class("kudu.rpc.ErrorStatusPB").FromString(bytes(response.message))
    assert status.message == text and list(status.unsupported_feature_flags) == flags
