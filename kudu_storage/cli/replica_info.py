"""What `local_replica info` prints, as text and as JSON. Pure: takes what bootstrap.replica_info found."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kudu_storage.bootstrap.replica_info import ReplicaInfo, RowSetInfo
from kudu_storage.common.hybrid_time import to_micros
from kudu_storage.tablet.maintenance_plan import size_text
from kudu_storage.tablet.rowset_layout import Placed
from kudu_storage.wal.holders import duration_text, table_lines
from kudu_storage.wal.retention import time_text

_KEY_CHARS_SHOWN = 48


# -- JSON --------------------------------------------------------------------------------------------------------------
def info_json(info: ReplicaInfo) -> dict[str, Any]:
    """The object of `--format json`. Keys are encoded, in hexadecimal, and as text."""
    superblock, facts = info.superblock, info.facts
    placed = {p.rowset.id: p for p in info.layout.placed}
    return {
        "tablet_id": superblock.tablet_id, "table": superblock.table_name, "state": superblock.tablet_data_state,
        "schema_version": superblock.schema_version, "last_durable_mrs_id": superblock.last_durable_mrs_id,
        "orphaned_blocks": len(superblock.orphaned_blocks), "now": info.now, "history_mark": facts.history_mark,
        "rowsets": [_rowset_json(rowset, placed.get(rowset.id)) for rowset in info.rowsets],
        "average_height": info.layout.average_height,
        "log": {"bytes": facts.log.bytes, "collectable_bytes": facts.log.collectable_bytes,
                "segments": [segment.to_json() for segment in info.segments]},
        "anchors": [{**anchor.to_json(info.now), **_use_json(info, anchor.owner)} for anchor in facts.anchors],
        "maintenance": {
            "next": None if info.next_plan is None else info.next_plan.to_json(info.now),
            "possible": [{**option.to_json(), "plan": plan.to_json(info.now)}
                         for option, plan in zip(info.options, info.plans, strict=True)]},
        "problems": [problem.to_json() for problem in info.problems],
    }


def _rowset_json(rowset: RowSetInfo, placed: Placed | None) -> dict[str, Any]:
    facts, deltas = rowset.facts, rowset.deltas
    return {
        "id": rowset.id, "rows": rowset.row_count, "live_rows": rowset.live_row_count,
        "last_durable_dms_id": rowset.last_durable_dms_id, "data_bytes": facts.data_bytes,
        "disk_bytes": facts.disk_bytes, "min_key": facts.min_key.hex(), "max_key": facts.max_key.hex(),
        "min_key_text": rowset.min_key, "max_key_text": rowset.max_key,
        "low": None if placed is None else placed.low, "high": None if placed is None else placed.high,
        **{kind: [{"block_id": file.block_id, "bytes": file.file_bytes, "min_timestamp": file.min_timestamp,
                   "max_timestamp": file.max_timestamp, "deletes": file.delete_count, "reinserts": file.reinsert_count,
                   "updates": {str(column): count for column, count in sorted(file.update_counts.items())}}
                  for file in files] for kind, files in (("redos", deltas.redos), ("undos", deltas.undos))},
    }


def _use_json(info: ReplicaInfo, owner: str) -> dict[str, Any]:
    use = info.uses.get(owner)
    if use is None:
        return {"memrowset_id": None, "rowset_id": None, "dms_id": None}
    return {"memrowset_id": use.memrowset_id, "rowset_id": use.rowset_id, "dms_id": use.dms_id,
            "last_index": use.last_index, "operations": use.operations, "rows": use.rows, "bytes": use.bytes}


# -- text --------------------------------------------------------------------------------------------------------------
def info_lines(info: ReplicaInfo) -> Iterator[str]:
    """For people."""
    superblock = info.superblock
    yield f"Tablet {superblock.tablet_id} of table {superblock.table_name}"
    yield (f"  state {superblock.tablet_data_state}, schema version {superblock.schema_version}, "
           f"MemRowSets flushed up to {superblock.last_durable_mrs_id}, "
           f"{len(superblock.orphaned_blocks)} orphaned blocks")
    yield from _rowset_lines(info)
    yield from _log_lines(info)
    yield from _maintenance_lines(info)
    for problem in info.problems:
        yield f"Problem: {problem}"


def _rowset_lines(info: ReplicaInfo) -> Iterator[str]:
    if not info.rowsets:
        yield "Rowsets: none"
        return
    disk_bytes = sum(rowset.facts.disk_bytes for rowset in info.rowsets)
    yield (f"Rowsets: {len(info.rowsets)}, {size_text(disk_bytes)}; a lookup meets "
           f"{info.layout.average_height:.2f} of them on average")
    placed = {p.rowset.id: p for p in info.layout.placed}
    headings = ("ID", "ROWS", "LIVE", "SIZE", "REDO", "UNDO", "SHARE OF KEYS", "LAST CHANGE", "FIRST KEY", "LAST KEY")
    rows = []
    for rowset in info.rowsets:
        at = placed.get(rowset.id)
        rows.append((
            str(rowset.id), str(rowset.row_count),
            "?" if rowset.live_row_count is None else str(rowset.live_row_count), size_text(rowset.facts.disk_bytes),
            _files_text(rowset.deltas.redos), _files_text(rowset.deltas.undos),
            "" if at is None else f"{at.low:.3f}-{at.high:.3f}", _last_change(rowset), _cut(rowset.min_key),
            _cut(rowset.max_key)))
    for line in table_lines(headings, rows, right=(0, 1, 2, 3)):
        yield f"  {line}"


def _files_text(files: tuple[Any, ...]) -> str:
    return f"{len(files)}, {size_text(sum(file.file_bytes for file in files))}" if files else "0"


def _last_change(rowset: RowSetInfo) -> str:
    times = [file.max_timestamp for file in (*rowset.deltas.redos, *rowset.deltas.undos)]
    return time_text(to_micros(max(times)) / 1e6) if times else "?"


def _cut(text: str) -> str:
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= _KEY_CHARS_SHOWN else plain[:_KEY_CHARS_SHOWN - 3] + "..."


def _log_lines(info: ReplicaInfo) -> Iterator[str]:
    facts = info.facts
    count = len(info.segments)
    yield (f"Log: {count} segment{'' if count == 1 else 's'}, {size_text(facts.log.bytes)}, "
           f"{size_text(facts.log.collectable_bytes)} of it needed by nobody")
    if not facts.anchors:
        yield "  nothing in it is unflushed"
        return
    headings = ("HOLDER", "FROM", "SINCE", "HELD", "LOG", "OPERATIONS", "ROWS", "REQUESTS")
    rows = []
    for anchor in facts.anchors:
        use = info.uses.get(anchor.owner)
        rows.append((anchor.owner, str(anchor.log_index), time_text(anchor.since),
                     duration_text(info.now - anchor.since), size_text(anchor.log_bytes),
                     *(("", "", "") if use is None else (str(use.operations), str(use.rows), size_text(use.bytes)))))
    for line in table_lines(headings, rows, right=(1, 3, 4, 5, 6, 7)):
        yield f"  {line}"


def _maintenance_lines(info: ReplicaInfo) -> Iterator[str]:
    yield "Maintenance, once a server has started on this replica:"
    if info.next_plan is None:
        yield "  nothing is worth doing"
    else:
        for number, line in enumerate(info.next_plan.lines()):
            yield f"  {'first: ' if not number else ''}{line}"
    for option, plan in zip(info.options, info.plans, strict=True):
        if info.next_plan is None or option.action.kind != info.next_plan.action.kind:
            candidate = option.candidate
            yield (f"  possible: {candidate.kind} of {candidate.target}: gains {candidate.gain:.6f}, reads "
                   f"{size_text(plan.read_bytes)}, writes {size_text(plan.write_bytes)}")
