"""What a replay found, as values and as the JSON and text that people and scripts read. Pure."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kudu_storage.wal.report import Problem, SegmentReport


@dataclass(frozen=True, slots=True)
class SegmentOps:
    """What became of one segment's operations while it was read."""

    applied: int            # operations applied
    pending: int            # operations pending at the segment's end
    replaced: int           # operations voided by a later term
    failed: int             # row operations that their COMMIT calls failed
    ignored: int            # row operations that changed nothing
    flushed: int            # row operations whose COMMIT was rewritten by a restart: they are in flushed stores
    unknown: int            # row operations on rows whose content this log does not tell
    orphan_commits: int     # COMMITs whose operation is older than this log

    def phrases(self) -> Iterator[str]:
        """The parts that are not zero, as words."""
        yield f"{self.applied} applied"
        for value, words in (
            (self.pending, "pending"), (self.replaced, "replaced"), (self.failed, "rows failed"),
            (self.ignored, "rows ignored"), (self.flushed, "rows in flushed stores"),
            (self.unknown, "rows not told by this log"), (self.orphan_commits, "commits of older operations"),
        ):
            if value:
                yield f"{value} {words}"


@dataclass(slots=True)
class ReplayReport:
    """One tablet's replay. Fields as in `kudu-storage replay --report json`."""

    tablet_id: str
    table: str | None = None
    replica_uuid: str | None = None
    last_opid: str | None = None                # "term.index"
    committed_index: int = 0
    current_term: int | None = None
    voted_for: str | None = None
    ops_by_type: dict[str, int] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    replaced: int = 0
    rows: int = 0
    checksum: int = 0
    flushed_rowsets: list[dict[str, Any]] = field(default_factory=list)
    segments: list[SegmentReport] = field(default_factory=list)
    segment_ops: list[SegmentOps | None] = field(default_factory=list)      # beside `segments`; None: not replayed
    problems: list[Problem] = field(default_factory=list)
    applied_opid: str | None = None             # last operation applied in turn
    applied_timestamp: int = 0                  # the highest hybrid time among those; 0: none
    row_operations: dict[str, int] = field(default_factory=dict)
    memory_bytes: int = 0
    content_bytes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The object of `--report json`, ready for json.dumps."""
        segments = []
        for segment, ops in zip(self.segments, self.segment_ops, strict=True):
            entry = segment.to_json()
            if ops is not None:
                entry["ops"] = {name: getattr(ops, name) for name in SegmentOps.__slots__}
            segments.append(entry)
        return {
            "tablet_id": self.tablet_id, "table": self.table, "replica_uuid": self.replica_uuid,
            "last_opid": self.last_opid, "committed_index": self.committed_index, "current_term": self.current_term,
            "voted_for": self.voted_for, "ops_by_type": self.ops_by_type, "pending": self.pending,
            "replaced": self.replaced, "rows": self.rows, "checksum": self.checksum,
            "flushed_rowsets": self.flushed_rowsets, "segments": segments,
            "problems": [p.to_json() for p in self.problems], "applied_opid": self.applied_opid,
            "applied_timestamp": self.applied_timestamp, "row_operations": self.row_operations,
            "memory_bytes": self.memory_bytes, "content_bytes": self.content_bytes, "seconds": round(self.seconds, 6),
        }

    def to_text(self) -> str:
        """The report for people."""
        lines = [f"Tablet {self.tablet_id}" + (f" of table {self.table}" if self.table else "")]
        for segment, ops in zip(self.segments, self.segment_ops, strict=True):
            lines.append("  " + _segment_line(segment, ops))
        lines += [
            f"  last operation {self.last_opid or 'none'}, committed index {self.committed_index}, "
            f"term {'unknown' if self.current_term is None else self.current_term}, "
            f"voted for {self.voted_for or 'nobody'}",
            "  operations: " + (", ".join(f"{n} {t}" for t, n in self.ops_by_type.items()) or "none")
            + f"; {self.replaced} replaced, {len(self.pending)} pending" + _listed(self.pending),
        ]
        if self.flushed_rowsets:
            lines.append(f"  {len(self.flushed_rowsets)} flushed rowsets: "
                         + ", ".join(str(r["id"]) for r in self.flushed_rowsets))
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines.append(f"  {self.rows} rows, checksum {self.checksum}, {self.seconds:.3f} s")
        return "\n".join(lines)


def _listed(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _segment_line(segment: SegmentReport, ops: SegmentOps | None) -> str:
    name = segment.path.rpartition("/")[2]
    line = (f"{name}: {segment.replicates} replicates, {segment.commits} commits, "
            f"{segment.bytes} bytes, {segment.codec or 'no codec'}, {segment.status}")
    if ops is not None:
        line += ", " + ", ".join(ops.phrases())
    if segment.detail:
        line += f" ({segment.detail})"
    return f"{line}, {segment.seconds:.3f} s"
