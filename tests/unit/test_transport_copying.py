"""Snapshots in pieces: in order, checked, bounded; what is wrong is refused and leaves nothing behind."""
from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.transport.copying import SNAPSHOT_BYTES_MAX, SnapshotService, encode_piece, parse_piece
from kudu_storage.errors import BadFrame, FrameTooLarge
from kudu_storage.rpc.services import CallRefused

TABLET = "0123456789abcdef" * 2


class Receiver:
    def __init__(self) -> None:
        self.service = SnapshotService()
        self.got: list[bytes] = []
        self.service.replicas[TABLET] = self._take

    async def _take(self, data: bytes) -> None:
        self.got.append(data)

    def give(self, message: bytes) -> bytes:
        request: Any = SimpleNamespace(message=memoryview(message))
        return asyncio.run(self.service._install(request))


def test_pieces_make_a_whole() -> None:
    receiver = Receiver()
    assert receiver.give(encode_piece(TABLET, 10, 0, b"01234")) == b"" and receiver.got == []
    receiver.give(encode_piece(TABLET, 10, 5, b"56789"))
    assert receiver.got == [b"0123456789"] and receiver.service._parts == {}


def test_a_new_beginning_forgets_what_came() -> None:
    receiver = Receiver()
    receiver.give(encode_piece(TABLET, 10, 0, b"xxxxx"))
    receiver.give(encode_piece(TABLET, 4, 0, b"abcd"))
    assert receiver.got == [b"abcd"]


@pytest.mark.parametrize(("total", "offset", "piece"),
                         [(10, 4, b"4"), (10, 6, b"6"), (10, 5, b"567890"), (3, 0, b"0123")])
def test_a_piece_that_does_not_fit_is_refused(total: int, offset: int, piece: bytes) -> None:
    receiver = Receiver()
    receiver.give(encode_piece(TABLET, 10, 0, b"01234"))
    with pytest.raises(CallRefused):
        receiver.give(encode_piece(TABLET, total, offset, piece))
    assert receiver.got == []


def test_a_replica_that_goes_takes_along_what_came() -> None:
    receiver = Receiver()
    receiver.give(encode_piece(TABLET, 10, 0, b"01234"))
    receiver.service.forget(TABLET)
    assert receiver.service._parts == {}


def test_a_replica_that_is_not_here_is_refused() -> None:
    with pytest.raises(CallRefused, match="no replica"):
        Receiver().give(encode_piece("f" * 32, 1, 0, b"x"))


def test_a_damaged_piece_is_refused() -> None:
    message = encode_piece(TABLET, 5, 0, b"01234")
    for end in range(len(message)):
        with pytest.raises(BadFrame):
            parse_piece(message[:end])
    with pytest.raises(BadFrame, match="checksum"):
        parse_piece(message[:-1] + b"5")


def test_what_is_announced_is_compared_with_a_limit() -> None:
    message = bytearray(encode_piece(TABLET, 5, 0, b"01234"))
    struct.pack_into("<Q", message, 32, SNAPSHOT_BYTES_MAX + 1)
    with pytest.raises(FrameTooLarge):
        parse_piece(bytes(message))
