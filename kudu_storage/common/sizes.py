"""Sizes and numbers as people write them."""
from __future__ import annotations

import operator
import re
from typing import Any, Final

from kudu_storage.errors import InvalidArgument, WrongType

_UNITS: Final = {"": 1, "b": 1, "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2, "g": 1024**3, "gib": 1024**3,
                 "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")


def whole_number(value: Any, what: str) -> int:
    """An int, from whatever stands for one exactly (not 1.0, not "1"). Raises WrongType."""
    try:
        return operator.index(value)
    except TypeError:
        raise WrongType(f"{what} is a whole number, not {value!r:.80}") from None


def parse_bytes(size: int | str) -> int:
    """Bytes of 8388608, "8388608", "8MiB" or "8 MiB". Raises InvalidArgument."""
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise WrongType(f"{size!r:.80} is no size in bytes", advice='a number of bytes, or text such as "8MiB"')
    if isinstance(size, int):
        if size < 0:
            raise InvalidArgument(f"a size of {size} bytes is negative")
        return size
    match = _SIZE.match(size)
    if match is None or match[2].lower() not in _UNITS:
        raise InvalidArgument(f"{size!r} is no size", advice='a number of bytes, or text such as "8MiB"')
    return int(float(match[1]) * _UNITS[match[2].lower()])
