"""Pure: who holds a log and what that keeps, as text and as JSON. Takes values, prints nothing, reads no clock."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kudu_storage.wal.anchors import AnchorInfo
from kudu_storage.wal.retention import GcPlan, GcResult, KeptSegment, time_text

_HEADINGS: Final = ("INDEX", "KIND", "OWNER", "SINCE", "HELD")
_UNITS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


def anchor_lines(anchors: Sequence[AnchorInfo], now: float) -> list[str]:
    """A table of all anchors, lowest index first; the first one decides what stays."""
    if not anchors:
        return ["nobody holds the log"]
    rows = [(str(a.index), a.kind, _one_line(a.owner), time_text(a.since), duration_text(now - a.since))
            for a in sorted(anchors, key=lambda a: a.index)]
    return table_lines(_HEADINGS, rows, right=(0, 4))


def anchors_json(anchors: Sequence[AnchorInfo], now: float) -> list[dict[str, Any]]:
    """One object an anchor, lowest index first; `held_seconds` is how long it has stood at its index."""
    return [{**a.to_json(), "held_seconds": now - a.since} for a in sorted(anchors, key=lambda a: a.index)]


def plan_lines(plan: GcPlan) -> list[str]:
    """What a collection would do."""
    names = [_segment(sequence) for sequence in plan.remove]
    span = f": {names[0]}" if len(names) == 1 else f": {names[0]} to {names[-1]}" if names else ""
    return [f"would remove {_count(len(names))}, {plan.bytes} bytes{span}", *_kept_lines(plan.blocked_by, plan.keep)]


def result_lines(result: GcResult) -> list[str]:
    """What a collection did."""
    return [f"removed {_count(result.segments)}, {result.bytes} bytes", *_kept_lines(result.blocked_by, result.kept)]


def explanation_json(outcome: GcPlan | GcResult, anchors: Sequence[AnchorInfo], now: float) -> dict[str, Any]:
    """A plan or a result, and all anchors beside it."""
    return {**outcome.to_json(), "anchors": anchors_json(anchors, now)}


def _kept_lines(blocked_by: str | None, kept: Sequence[KeptSegment]) -> list[str]:
    lines = [f"blocked by {_one_line(blocked_by)}" if blocked_by else "nothing holds back what the log does not need"]
    for segment in kept:
        lines.append(f"{_segment(segment.sequence)} stays")
        lines += [f"    {_one_line(reason.text)}" for reason in segment.reasons]
    return lines


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Columns as wide as their longest cell, two spaces apart; those named by `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    return ["  ".join(cell.rjust(width) if column in right else cell.ljust(width)
                      for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in (headings, *rows)]


def duration_text(seconds: float) -> str:
    """The two largest units: 3d4h, 5m2s, 0.25s. A clock that went back gives 0s."""
    for size, unit, rest_size, rest_unit in _UNITS:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole}{unit}{rest // rest_size}{rest_unit}"
    return f"{max(seconds, 0):.3g}s"


def _segment(sequence: int) -> str:
    return f"wal-{sequence:09d}"


def _count(segments: int) -> str:
    return f"{segments} segment{'' if segments == 1 else 's'}"


def _one_line(text: str) -> str:
    """Owners are named by callers: nothing in a name may break the table, or a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
