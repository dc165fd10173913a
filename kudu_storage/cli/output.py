"""Text to standard output as bytes, so that the locale changes nothing and any bytes from a disk can be printed."""
from __future__ import annotations

import sys
from typing import Any, TextIO


class ByteExactOutput:
    """A text sink over a stream's binary side: UTF-8, with surrogate escapes turned back into their bytes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: Any = sys.stdout if stream is None else stream
        self._stream.flush()

    def write(self, text: str) -> int:
        self._stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        return len(text)
