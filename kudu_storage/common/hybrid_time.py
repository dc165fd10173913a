"""Hybrid time: Kudu's timestamps (clock/hybrid_clock.cc). An int: microseconds since 1970 << 12 | logical counter."""
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

LOGICAL_BITS: Final = 12
LOGICAL_MASK: Final = (1 << LOGICAL_BITS) - 1
# Kudu's Timestamp::kMax. A snapshot at this time holds every operation.
TIMESTAMP_MAX: Final = 2**64 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_micros(micros: int, logical: int = 0) -> int:
    """The hybrid time of a wall-clock time in microseconds."""
    return (micros << LOGICAL_BITS) | logical


def to_micros(timestamp: int) -> int:
    """The wall-clock part of a hybrid time, in microseconds since 1970."""
    return timestamp >> LOGICAL_BITS


def to_datetime(timestamp: int) -> datetime:
    """The wall-clock part of a hybrid time as an aware datetime (UTC). Raises OverflowError beyond the year 9999."""
    return _EPOCH + timedelta(microseconds=to_micros(timestamp))
