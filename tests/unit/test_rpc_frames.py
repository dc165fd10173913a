"""The native short cuts of framing: they say what protobuf and the long way say, or nothing."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kudu_storage._native.rpc_frames import request_header, response_header, small_frame, whole_frame
from kudu_storage.common.varint import encode_varint
from kudu_storage.errors import BadFrame
from kudu_storage.protos import message_class
from kudu_storage.rpc.framing import FrameReader, Method, encode_request, encode_response, parse_request

request_pb: Any = message_class("kudu.rpc.RequestHeader")
response_pb: Any = message_class("kudu.rpc.ResponseHeader")
METHOD = Method("kudu.consensus.ConsensusService", "UpdateConsensus")


def header(**fields: Any) -> bytes:
    made = request_pb(**{"call_id": 7, "remote_method": {"service_name": "a.Service", "method_name": "Ask"}, **fields})
    data: bytes = made.SerializePartialToString()
    return data


def frame(head: bytes, main: bytes) -> bytes:
    body = encode_varint(len(head)) + head + encode_varint(len(main)) + main
    return len(body).to_bytes(4, "big") + body


def agrees(data: bytes) -> None:
    """What is taken natively is what protobuf finds."""
    found = request_header(data)
    if found is not None:
        message = request_pb.FromString(data)
        assert found == (message.call_id, message.remote_method.service_name, message.remote_method.method_name,
                         message.timeout_millis)
        assert message.call_id >= 0 and found[1] and found[2]
        assert not message.required_feature_flags and not message.sidecar_offsets
        assert not message.HasField("request_id") and message.IsInitialized()
    call_id = response_header(data)
    if call_id is not None:
        answer = response_pb.FromString(data)
        assert (call_id, answer.is_error, len(answer.sidecar_offsets)) == (answer.call_id, False, 0)
        assert answer.HasField("call_id")


def test_headers_of_most_calls_are_taken() -> None:
    assert request_header(header()) == (7, "a.Service", "Ask", 0)
    assert request_header(header(call_id=2**31 - 1, timeout_millis=2**32 - 1)) == (2**31 - 1, "a.Service", "Ask",
                                                                                   2**32 - 1)
    assert response_header(response_pb(call_id=0, is_error=False).SerializeToString()) == 0
    assert response_header(response_pb(call_id=300).SerializeToString()) == 300


@pytest.mark.parametrize("data", [
    b"", header(call_id=-1), header(call_id=-33), header(required_feature_flags=[1]), header(sidecar_offsets=[1]),
    header(request_id={"client_id": "c", "seq_no": 1, "attempt_no": 1, "first_incomplete_seq_no": 1}),
    header(remote_method={"service_name": "s"}), header(remote_method={"service_name": "", "method_name": "m"}),
    header() + header(), header() + b"\xa0\x06\x01", header().replace(b"Ask", b"\xff\xff\xff"), b"\x18\x01",
    header()[2:], header()[:-1], b"\x18" + b"\xff" * 9 + b"\x01" + header()[2:]], ids=range(15))
def test_other_request_headers_are_left_to_protobuf(data: bytes) -> None:
    assert request_header(data) is None


@pytest.mark.parametrize("data", [
    b"", b"\x08", response_pb(call_id=-1).SerializeToString(),
    response_pb(call_id=1, is_error=True).SerializeToString(),
    response_pb(call_id=1, sidecar_offsets=[0]).SerializeToString(), b"\x10\x00", b"\x08\x01\x08\x02",
    b"\x08\x01\x28\x01"], ids=range(8))
def test_other_response_headers_are_left_to_protobuf(data: bytes) -> None:
    assert response_header(data) is None


def broken() -> Iterator[bytes]:
    for whole in (header(timeout_millis=10_000), response_pb(call_id=77, is_error=False).SerializeToString()):
        for at in range(len(whole)):
            yield whole[:at]
            for bit in range(8):
                yield whole[:at] + bytes((whole[at] ^ 1 << bit,)) + whole[at + 1:]


def test_damaged_headers_are_taken_only_for_what_protobuf_takes_them() -> None:
    for data in broken():
        try:
            agrees(data)
        except Exception as error:      # DecodeError: protobuf refuses what was taken
            raise AssertionError(data) from error


@given(st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_taken_only_for_what_protobuf_takes_them(data: bytes) -> None:
    agrees(data)


def test_names_of_methods_are_not_remembered_without_end() -> None:
    for number in range(1000):
        name = f"Method{number}"
        assert request_header(header(remote_method={"service_name": "s", "method_name": name})) == (7, "s", name, 0)


@given(st.sampled_from([0x18, 0x08]), st.integers(-40, 2**31 - 1), st.binary(max_size=200), st.binary(max_size=5000))
@settings(max_examples=200, deadline=None)
def test_small_frames_are_put_together_as_the_format_says(tag: int, call_id: int, tail: bytes, message: bytes) -> None:
    assert small_frame(tag, call_id, tail, message) == frame(
        bytes((tag,)) + encode_varint(call_id & 2**64 - 1) + tail, message)


@given(st.binary(max_size=1100), st.binary(max_size=300), st.binary(max_size=20), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_whole_frames_are_found_between_others(head: bytes, main: bytes, before: bytes, after: bytes) -> None:
    data = before + frame(head, main) + after
    end = len(data) - len(after)
    found = whole_frame(data, len(before), len(data), 1 << 20)
    if found is None:       # left to the long way: nothing behind the header but an empty main part, or a large header
        assert len(head) > 1024 or not head
    else:
        assert found == (end, head, end - len(main))
    for size in range(len(before), end, 7):
        assert whole_frame(data, len(before), size, 1 << 20) is None
    assert whole_frame(data, len(before), len(data), end - len(before) - 1) is None


@pytest.mark.parametrize("data", [
    b"\x00\x00\x00\x00", b"\x00\x00\x00\x02\x05\x00", b"\x00\x00\x00\x03\x00\x02x",
    b"\x00\x00\x00\x08\x81\x80\x80\x80\x80\x00x\x00",       # a length in six bytes
    b"\x00\x00\x00\x0c\x00" + b"\x80" * 9 + b"\x01x", b"\xff\xff\xff\xff\x00\x00"], ids=range(6))
def test_damaged_frames_are_left_to_the_long_way_which_refuses_them(data: bytes) -> None:
    assert whole_frame(data, 0, len(data), 1 << 20) is None
    with pytest.raises(BadFrame):
        list(FrameReader(1 << 20).feed(data))


def test_places_outside_of_the_buffer_are_refused() -> None:
    data = frame(b"\x18\x01", b"main")
    for start, end in ((-1, len(data)), (0, len(data) + 1), (5, 2), (len(data) + 4, len(data) + 9)):
        assert whole_frame(data, start, end, 1 << 20) is None


def test_calls_with_everything_go_the_long_way_and_arrive() -> None:
    data = b"".join(encode_request(5, METHOD, b"m", [b"side"], timeout_ms=3, required_flags=(1,)))
    (found,) = (parse_request(each) for each in FrameReader().feed(data))
    assert (found.call_id, found.timeout_ms, list(found.required_flags), bytes(found.message)) == (5, 3, [1], b"m")
    assert [bytes(sidecar) for sidecar in found.sidecars] == [b"side"]
    large = b"".join(encode_response(5, [b"x" * 5000, b"y"]))
    assert bytes(next(FrameReader().feed(large)).main) == b"x" * 5000 + b"y"
