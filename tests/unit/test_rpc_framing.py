"""Frames: limits before memory, views of what was received, no copies of what is large."""
from __future__ import annotations

import struct

import pytest

from kudu_storage.common.limits import MIB, RPC_RECEIVE_STEP_BYTES, RPC_SIDECARS_MAX
from kudu_storage.errors import BadFrame, FrameTooLarge, InvalidArgument
from kudu_storage.protos import message_class
from kudu_storage.rpc.framing import (
    COPY_BYTES_MAX,
    Frame,
    FrameReader,
    Method,
    encode_request,
    encode_response,
    encode_varint,
    parse_request,
    parse_response,
    split_sidecars,
)

METHOD = Method("a.Service", "Method")


def received(reader: FrameReader, data: bytes) -> Frame | None:
    room = reader.room()
    room[:len(data)] = data
    reader.received(len(data))
    return reader.next_frame()


def test_request_header_is_what_protobuf_encodes() -> None:
    request_id = message_class("kudu.rpc.RequestIdPB")(client_id="c", seq_no=1, first_incomplete_seq_no=1, attempt_no=0)
    expected = message_class("kudu.rpc.RequestHeader")(
        call_id=70000, timeout_millis=4_000_000_000, required_feature_flags=[1, 900], request_id=request_id,
        sidecar_offsets=[3, 5], remote_method={"service_name": "a.Service", "method_name": "Method"})
    buffers = encode_request(70000, METHOD, b"abc", [b"de", b"f"], timeout_ms=4_000_000_000, required_flags=(1, 900),
                             request_id=request_id.SerializeToString())
    (frame,) = FrameReader().feed(b"".join(buffers))
    assert frame.header == expected.SerializeToString()
    parsed = parse_request(frame)
    assert parsed.request_id == request_id
    assert [bytes(part) for part in (parsed.message, *parsed.sidecars)] == [b"abc", b"de", b"f"]


def test_large_buffers_are_sent_as_they_are() -> None:
    message, sidecar = bytearray(COPY_BYTES_MAX + 1), memoryview(bytes(10))
    buffers = encode_request(1, METHOD, message, [sidecar, [b"x", b"y"]])
    assert buffers[1] is message and buffers[2] is sidecar
    assert buffers[3:] == [b"x", b"y"]
    parts = [b"p" * 10, b"q" * 10]
    assert [part for part in encode_response(1, parts) if part in parts] == parts


def test_payload_is_a_view_of_the_received_memory() -> None:
    reader = FrameReader()
    memory = reader.room().obj
    frame = received(reader, b"".join(encode_response(1, b"m" * 5000, [b"s" * 9000])))
    assert frame is not None
    response = parse_response(frame)
    assert response.message.obj is memory and response.sidecars[0].obj is memory
    assert bytes(response.sidecars[0]) == b"s" * 9000


def test_memory_is_used_again_when_no_view_of_it_is_left_and_not_before() -> None:
    reader = FrameReader(chunk_bytes=10_000)
    data = b"".join(encode_response(1, b"m" * 7000))
    memory = reader.room().obj
    for _ in range(5):
        frame = received(reader, data)
        del frame
        assert reader.next_frame() is None      # here it is seen that there is no view
        assert reader.room().obj is memory
    kept = received(reader, data)
    assert kept is not None and kept.main.obj is memory
    assert reader.next_frame() is None
    assert reader.room().obj is not memory
    received(reader, b"".join(encode_response(1, b"n" * 7000)))
    assert bytes(kept.main) == b"m" * 7000


def test_payloads_are_not_overwritten_by_later_frames() -> None:
    reader = FrameReader(chunk_bytes=20_000)
    kept = {}
    for number in range(200):
        for frame in reader.feed(b"".join(encode_response(number, bytes([number]) * 3000))):
            if number % 7 < 5:
                kept[number] = parse_response(frame)
            del frame
    assert {number: bytes(response.message) for number, response in kept.items()} == {
        number: bytes([number]) * 3000 for number in range(200) if number % 7 < 5}


def test_frame_over_the_limit_is_refused_by_its_first_four_bytes() -> None:
    reader = FrameReader(frame_bytes_max=1000)
    with pytest.raises(FrameTooLarge, match="1001 bytes"):
        received(reader, struct.pack(">I", 997))
    assert reader.capacity_bytes <= 1 << 16
    assert received(FrameReader(frame_bytes_max=1000), struct.pack(">I", 996)) is None


def test_memory_grows_with_what_came_and_not_with_what_was_announced() -> None:
    reader = FrameReader()
    assert received(reader, struct.pack(">I", 40 * MIB)) is None
    assert reader.capacity_bytes <= RPC_RECEIVE_STEP_BYTES
    came = 4
    while came < 30 * MIB:
        count = min(len(reader.room()), 100_000)
        reader.received(count)
        came += count
        assert reader.next_frame() is None
        assert reader.capacity_bytes <= max(RPC_RECEIVE_STEP_BYTES, 4 * came)


def test_frame_of_one_mebibyte_is_received_into_memory_of_its_size() -> None:
    reader = FrameReader()
    data = b"".join(encode_response(1, [b"m" * MIB]))
    frames = list(reader.feed(data[:100])) + list(reader.feed(data[100:]))
    assert isinstance(frames[0].main.obj, bytearray)
    assert len(data) <= len(frames[0].main.obj) <= len(data) + (1 << 16)


@pytest.mark.parametrize(("name", "data"), [
    ("empty frame", b"\0\0\0\0"),
    ("header beyond the end", b"\0\0\0\x02\x05\0"),
    ("header length cut", b"\0\0\0\x02\xff\xff"),
    ("header length above 32 bits", b"\0\0\0\x06\xff\xff\xff\xff\x7f\0"),
    ("no main length", b"\0\0\0\x03\x02\x18\x01"),
    ("main too short", b"\0\0\0\x05\x02\x18\x01\x02a"),
    ("bytes behind the main part", b"\0\0\0\x05\x02\x18\x01\0a"),
])
def test_malformed_frame_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(BadFrame):
        list(FrameReader().feed(data))


@pytest.mark.parametrize("header", [
    b"", b"\x18\x01", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x32\x06\x0a\x01a\x12\x01b",
    b"\x32\x06\x0a\x01a\x12\x01b", b"\x18\x01\x32\x03\x0a\x01a", b"\x18\x01\x32\x06\x0a\x01\xff\x12\x01b",
    b"\x18\x01\x32\x06\x0a\x01a\x12\x01b\x7a\x03\x0a\x01c", b"\xff",
], ids=["empty", "no method", "negative id", "no id", "no method name", "not UTF-8", "half a request id", "no pb"])
def test_request_header_that_lacks_something_is_refused(header: bytes) -> None:
    with pytest.raises(BadFrame):
        parse_request(Frame(header, memoryview(b"")))


@pytest.mark.parametrize("offsets", [[11], [5, 4], [0, 11], [2**32 - 1]])
def test_sidecars_outside_of_the_message_are_refused(offsets: list[int]) -> None:
    with pytest.raises(BadFrame):
        split_sidecars(memoryview(b"0123456789"), offsets)


def test_sidecars_may_be_empty_and_reach_to_the_end() -> None:
    message, sidecars = split_sidecars(memoryview(b"0123456789"), [4, 4, 10])
    assert bytes(message) == b"0123"
    assert [bytes(sidecar) for sidecar in sidecars] == [b"", b"456789", b""]


def test_too_many_sidecars_are_refused_on_both_sides() -> None:
    with pytest.raises(FrameTooLarge):
        split_sidecars(memoryview(b""), [0] * (RPC_SIDECARS_MAX + 1))
    with pytest.raises(InvalidArgument):
        encode_request(1, METHOD, b"", [b""] * (RPC_SIDECARS_MAX + 1))
    (frame,) = FrameReader().feed(b"".join(encode_request(1, METHOD, b"m", [b"s"] * RPC_SIDECARS_MAX)))
    assert len(parse_request(frame).sidecars) == RPC_SIDECARS_MAX


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 2**31 - 1, 2**32 - 1, 2**63])
def test_varints_end_with_a_byte_below_128(value: int) -> None:
    data = encode_varint(value)
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(data)) == value
    assert data[-1] < 128 and all(byte >= 128 for byte in data[:-1])
