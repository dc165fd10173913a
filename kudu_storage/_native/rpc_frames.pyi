from typing_extensions import Buffer

def whole_frame(data: Buffer, start: int, end: int, bytes_max: int) -> tuple[int, bytes, int] | None:
    """The frame that starts at `start`: where it ends, its header, and where its main part starts.

    None: it is not whole yet, too large, damaged, or has an uncommonly large header.
    """

def request_header(header: bytes) -> tuple[int, str, str, int] | None:
    """Call id, service, method, timeout in ms (0: none) of a RequestHeader that has no other fields. None: another."""

def response_header(header: bytes) -> int | None:
    """Call id of a ResponseHeader that says no error and has no sidecars. None: another."""

def small_frame(tag: int, call_id: int, tail: bytes, message: bytes) -> bytes:
    """A frame whose header is `tag`, the call id and `tail`, and whose main part is `message`."""
