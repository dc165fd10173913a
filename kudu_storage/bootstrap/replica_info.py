"""What a stopped replica holds and what maintenance would do for it: rowsets and their overlap, who keeps the log since
when, the next action and its plan. Reads superblock, footers and keys of rowsets, and the whole log; writes nothing.

 I1  Anchors are those that the COMMITs in the log name and that the superblock does not call flushed (C3 of
     docs/tablet.md): what a server that starts on these files replays into memory.
 I2  Sizes in memory are those of the requests that brought the changes; a started server needs some more.
 I3  What cannot be read is a problem in the result, and the rest is told all the same.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kudu_storage._native.store_anchors import InFlight, StoreAnchors, StoreUse
from kudu_storage.bootstrap.rowsets_on_disk import damage, history_seconds
from kudu_storage.common.cell_text import row_text
from kudu_storage.common.hybrid_time import from_micros, to_micros
from kudu_storage.common.keys import decode_key
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, CorruptionError, DiskError, KuduStorageError, NoSuchBlock, NotFound
from kudu_storage.fs.block_references import COLUMN, REDO, UNDO, rowset_blocks
from kudu_storage.fs.blocks import BlockManager
from kudu_storage.fs.layout import TabletFiles
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.tablet.compaction import RowSetFiles
from kudu_storage.tablet.delta_policy import DeltaFileFacts, RowSetDeltas
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.maintenance_facts import (
    AnchorFacts,
    LogFacts,
    MemoryFacts,
    StoreInMemory,
    TabletFacts,
    bytes_from,
    delta_store_name,
    memrowset_name,
)
from kudu_storage.tablet.maintenance_plan import Plan, plan_of
from kudu_storage.tablet.maintenance_policy import Option, Policy, next_action, possible_actions
from kudu_storage.tablet.rowset_layout import Layout, RowSetFacts, lay_out
from kudu_storage.tablet.scheduler import default_budget_bytes
from kudu_storage.tablet.store import IN_FLIGHT_OWNER
from kudu_storage.wal.anchors import AnchorInfo
from kudu_storage.wal.report import Problem, SegmentReport
from kudu_storage.wal.retention import SegmentFacts, plan_gc
from kudu_storage.wal.verify import VerifyReport, verify


@dataclass(frozen=True, slots=True)
class RowSetInfo:
    """A flushed rowset. live_row_count: None where the superblock does not tell."""

    id: int
    row_count: int
    live_row_count: int | None
    last_durable_dms_id: int
    facts: RowSetFacts
    deltas: RowSetDeltas
    min_key: str
    max_key: str


@dataclass(slots=True)
class ReplicaInfo:
    """now: seconds since 1970. uses: what the log's COMMITs say of each store in `facts.stores`, by its name."""

    superblock: Superblock
    now: float
    rowsets: tuple[RowSetInfo, ...]
    layout: Layout
    segments: tuple[SegmentReport, ...]
    uses: Mapping[str, StoreUse]
    facts: TabletFacts
    options: tuple[Option, ...] = ()        # all that could be done
    plans: tuple[Plan, ...] = ()            # of each of those
    next_plan: Plan | None = None           # the one that would be done first
    problems: list[Problem] = field(default_factory=list)


def replica_info(files: TabletFiles, blocks: BlockManager | None, *, now: float, policy: Policy | None = None
                 ) -> ReplicaInfo:
    """Look at a stopped replica. blocks: None where the data directories are not at hand; rowsets are not told then.

    Raises NotFound without a superblock; what read_superblock() raises; DiskError for a folder that cannot be listed.
    """
    if files.superblock_path is None:
        raise NotFound(f"no tablet-meta file of tablet {files.tablet_id}", path=str(files.wal_dir),
                       advice="copy the file from another replica, or name its folder with --fs_metadata_dir")
    superblock = read_superblock(files.superblock_path)
    problems: list[Problem] = []
    rowsets = _read_rowsets(superblock, blocks, problems)
    uses, in_flight, log = _read_log(files.log_dir, problems)
    facts, named = _facts(superblock, now, rowsets, uses, in_flight, log.segments)
    info = ReplicaInfo(superblock, now, rowsets, lay_out(r.facts for r in rowsets if r.row_count), log.segments, named,
                       facts, problems=problems)
    _plan(info, policy or Policy())
    return info


def _plan(info: ReplicaInfo, policy: Policy) -> None:
    memory = MemoryFacts(info.facts.memory_bytes, default_budget_bytes())
    info.options = tuple(possible_actions(info.facts, policy, memory=memory))
    info.plans = tuple(plan_of(info.facts, option.action, policy) for option in info.options)
    first = next_action({0: info.facts}, memory, policy, dice=lambda: 0.0)
    info.next_plan = None if first is None else plan_of(info.facts, first[1], policy)


# -- rowsets -----------------------------------------------------------------------------------------------------------
def _read_rowsets(superblock: Superblock, blocks: BlockManager | None, problems: list[Problem]
                  ) -> tuple[RowSetInfo, ...]:
    if blocks is None:
        if superblock.rowsets:
            problems.append(Problem("flushed_rowsets", None, None, f"{len(superblock.rowsets)} flushed rowsets, and "
                                    "their data directories are not at hand", "--fs_data_dirs"))
        return ()
    found = []
    lengths = blocks.live_blocks()
    for message, metadata in zip(superblock.message.rowsets, superblock.rowsets, strict=True):
        try:
            disk = DiskRowSet.open(message, blocks, superblock.schema)
            files = RowSetFiles(blocks, message)
            facts = _rowset_facts(disk, lengths)
            deltas = _delta_facts(files, message, lengths, metadata.live_row_count)
            found.append(RowSetInfo(
                disk.id, disk.row_count, metadata.live_row_count, metadata.last_durable_dms_id, facts, deltas,
                _key_text(superblock.schema, disk.min_key), _key_text(superblock.schema, disk.max_key)))
        except (CorruptionError, DiskError, NoSuchBlock) as error:
            problems.append(damage(error))
    return tuple(found)


def _rowset_facts(disk: DiskRowSet, lengths: Mapping[int, int]) -> RowSetFacts:
    sizes = [(lengths.get(block.block_id, 0), block.kind) for block in rowset_blocks(disk.message)]
    return RowSetFacts(disk.id, disk.min_key, disk.max_key,
                       sum(size for size, kind in sizes if kind in (COLUMN, REDO, UNDO)),
                       sum(size for size, _ in sizes))


def _delta_facts(files: RowSetFiles, message: Any, lengths: Mapping[int, int], live: int | None) -> RowSetDeltas:
    def of(block_ids: Sequence[int]) -> tuple[DeltaFileFacts, ...]:
        return tuple(files.facts(block_id) for block_id in block_ids)

    columns = {column.column_id: lengths.get(column.block.id, 0) for column in message.columns}
    return RowSetDeltas(files.id, columns, of(files.redo_ids), of(files.undo_ids), live_row_count=live)


def _key_text(schema: Schema, key: bytes) -> str:
    keys = Schema(tuple(schema.key_columns))
    try:
        return row_text(keys, dict(enumerate(decode_key(keys, key))))
    except BadFormat:               # of an empty rowset, which has none
        return key.hex()


# -- the log -----------------------------------------------------------------------------------------------------------
def _read_log(folder: Path | None, problems: list[Problem]) -> tuple[list[StoreUse], InFlight | None, VerifyReport]:
    anchors = StoreAnchors()
    if folder is None:
        problems.append(Problem("no_log", None, None, "the replica has no log segments", "another replica"))
        return [], None, VerifyReport((), ())
    report = verify(folder, each=anchors.add)
    problems += report.problems
    return anchors.stores, anchors.in_flight, report


def _facts(superblock: Superblock, now: float, rowsets: Sequence[RowSetInfo], uses: Sequence[StoreUse],
           in_flight: InFlight | None, segments: Sequence[SegmentReport]) -> tuple[TabletFacts, dict[str, StoreUse]]:
    spans = [(segment.max_index, segment.bytes) for segment in segments]
    named = {_name_of(use): use for use in uses if _is_unflushed(use, superblock)}
    stores = tuple(StoreInMemory(max(1, use.bytes), AnchorFacts(
        name, use.first_index, bytes_from(spans, use.first_index), _seconds(use.first_timestamp, now)), use.rowset_id)
        for name, use in named.items())
    others = () if in_flight is None else (AnchorFacts(
        IN_FLIGHT_OWNER, in_flight.first_index, bytes_from(spans, in_flight.first_index),
        _seconds(in_flight.first_timestamp, now)),)
    config = superblock.message.extra_config
    facts = TabletFacts(
        superblock.tablet_id, now, stores, tuple(r.facts for r in rowsets if r.row_count),
        tuple(r.deltas for r in rowsets), _log_facts(segments, [*(s.anchor for s in stores), *others], others, now),
        _history_mark(superblock, now), config.maintenance_priority, config.disable_compaction)
    return facts, named


def _is_unflushed(use: StoreUse, superblock: Superblock) -> bool:
    if use.memrowset_id is not None:
        return use.memrowset_id > superblock.last_durable_mrs_id
    return any(rowset.id == use.rowset_id and use.dms_id is not None and use.dms_id > rowset.last_durable_dms_id
               for rowset in superblock.rowsets)


def _name_of(use: StoreUse) -> str:
    if use.memrowset_id is not None:
        return memrowset_name(use.memrowset_id)
    assert use.rowset_id is not None and use.dms_id is not None
    return delta_store_name(use.rowset_id, use.dms_id)


def _seconds(timestamp: int | None, unknown: float) -> float:
    return unknown if timestamp is None else to_micros(timestamp) / 1e6


def _log_facts(segments: Sequence[SegmentReport], anchors: Sequence[AnchorFacts], others: tuple[AnchorFacts, ...],
               now: float) -> LogFacts:
    total = sum(segment.bytes for segment in segments)
    known = [SegmentFacts(segment.sequence, segment.min_index, segment.max_index, segment.bytes,
                          is_open=position == len(segments) - 1)
             for position, segment in enumerate(segments) if segment.sequence is not None]
    last = max((segment.max_index for segment in segments if segment.max_index is not None), default=0)
    held = [AnchorInfo(anchor.log_index, anchor.owner, "store", anchor.since) for anchor in anchors]
    try:
        plan = plan_gc(known, anchors=held, durable_index=last, now_micros=int(now * 1e6))
    except KuduStorageError:            # two segments of one number: a problem says so
        return LogFacts(total, other_anchors=others)
    return LogFacts(total, plan.bytes, len(plan.remove), others)


def _history_mark(superblock: Superblock, now: float) -> int:
    seconds = history_seconds(superblock)
    return 0 if seconds < 0 else max(0, from_micros(int((now - seconds) * 1_000_000)))
