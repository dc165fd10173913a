"""Moments on the command line: hybrid-time integers, or dates and times."""
from __future__ import annotations

from datetime import UTC, datetime

import click

from kudu_storage.common.hybrid_time import from_micros


class HybridTime(click.ParamType):  # type: ignore[type-arg]
    """A hybrid-time integer, or a date and time (UTC unless it says otherwise)."""

    name = "timestamp"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        if text.isdecimal():
            if int(text) >= 2**64:
                self.fail(f"{text} is above 64 bits", param, ctx)
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither a hybrid-time integer nor a time such as 2026-11-23T14:59:24Z", param, ctx)
        elapsed = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        timestamp = from_micros((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds)
        if not 0 <= timestamp < 2**64:
            self.fail(f"{text} is outside what hybrid time can say (1970 to 2112)", param, ctx)
        return timestamp
