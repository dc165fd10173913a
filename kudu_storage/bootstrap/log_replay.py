"""Rebuild a tablet's rows from its log segments.

One thread reads, verifies and decompresses (kudu_storage.wal.reader); this one applies (_replayer). Both run native
code without the GIL, a chunk of about 1 MiB at a time, through a short queue: memory stays bounded whatever the log's
size. Everything is opened read-only. What is wrong becomes a Problem in the report; an exception means that the caller
asked for something impossible, or that this package has a bug.

L1  What is applied is a prefix of the log: after the first thing that cannot be trusted, entries are only counted.
L2  Rows are shown only as far as the log alone proves them (rules.pxd, D4; schema_evidence.py, E3).
L3  With the data directories at hand, rows are the flushed ones and what the log has beyond them. Where the log cannot
    be trusted to its end, they are shown as of the last operation before that: never some rows newer than others.
    Damage in a flushed store shows no row at all.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage._native.segment import BatchChunk
from kudu_storage.bootstrap import _replayer
from kudu_storage.bootstrap._replayer import Replayer
from kudu_storage.bootstrap.metadata import ReplicaMetadata, load_metadata
from kudu_storage.bootstrap.replay_problems import replay_problem
from kudu_storage.bootstrap.report import ReplayReport, SegmentOps
from kudu_storage.bootstrap.rowsets_on_disk import damage, history_mark, open_rowsets
from kudu_storage.bootstrap.schema_evidence import Choice, HeaderSchema, choose_initial, doubts
from kudu_storage.bootstrap.segment_feed import ScannedSegment, SegmentFeed
from kudu_storage.common.limits import PENDING_BYTES_MAX
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.errors import (
    BadFormat,
    BlankSegment,
    CorruptionError,
    DiskError,
    InternalError,
    InvalidArgument,
    KuduStorageError,
    NoSuchBlock,
    NotFound,
    SchemaUntrusted,
)
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.layout import TabletFiles, find_tablets
from kudu_storage.protos import enum_name, message_class
from kudu_storage.tablet.flushed import live_rows
from kudu_storage.tablet.replayed import ReplayedTablet
from kudu_storage.wal.judgement import judge_end, unreadable_end
from kudu_storage.wal.reader import Segment, SegmentFile, check_sequence, list_segments, open_segment
from kudu_storage.wal.report import Problem, SegmentReport, SegmentStatus
from kudu_storage.wal.sequence import tablet_problems, trusted_run

if TYPE_CHECKING:
    from kudu_storage._native.block_cache import BlockCache
    from kudu_storage.tablet.disk_rowset import DiskRowSet

_ERRORS = {error.kind: error for error in CorruptionError.__subclasses__()}

# Called after each chunk with (bytes read, bytes in all, row operations applied).
Progress = Callable[[int, int, int], None]


@dataclass(slots=True)
class Replay:
    """A finished replay: the rows, and the report. `tablet` is None when not even a schema could be had."""

    tablet: ReplayedTablet | None
    report: ReplayReport


def replay(directory: str | Path, tablet_id: str | None = None, *, at: int | None = None, include_pending: bool = False,
           progress: Progress | None = None, data_dirs: Sequence[str | os.PathLike[str]] | None = None,
           metadata_dir: str | os.PathLike[str] | None = None) -> Replay:
    """Rebuild one tablet.

    Args:
        directory: a server's WAL root, a folder holding wals/, consensus-meta/ and tablet-meta/, or one tablet's
            segment folder.
        tablet_id: needed when the directory holds several tablets.
        at: hybrid time; only operations below it are shown.
        include_pending: apply operations without a COMMIT too, as a server would once they commit.
        progress: see Progress.
        data_dirs: the server's data roots (the values of --fs_data_dirs): flushed rows are read too.
        metadata_dir: the root of consensus-meta and tablet-meta, where that is another one.
    Raises:
        NotFound: no such directory or tablet.
        InvalidArgument: several tablets and none named; `at` lies where the replica's history is no longer whole.
        CorruptionError's kinds, DirectoryFailed, Unsupported: the data directories cannot be opened.
    """
    found = find_tablets(Path(directory), metadata_dir=metadata_dir)
    if tablet_id is not None:
        found = [f for f in found if f.tablet_id == tablet_id]
    if not found:
        raise NotFound(f"no tablet {tablet_id} there" if tablet_id else "no tablet's files there", path=str(directory),
                       advice="the folder that holds wals/, or one tablet's folder of wal-* files")
    if len(found) > 1:
        raise InvalidArgument(f"{len(found)} tablets there", path=str(directory),
                              advice="name one of: " + ", ".join(f.tablet_id for f in found[:20]))
    blocks = None if data_dirs is None else open_block_manager(data_dirs, read_only=True)
    return replay_files(found[0], at=at, include_pending=include_pending, progress=progress, blocks=blocks)


def replay_files(files: TabletFiles, *, at: int | None = None, include_pending: bool = False,
                 progress: Progress | None = None, blocks: BlockManager | None = None) -> Replay:
    """Rebuild the tablet whose files were found by kudu_storage.fs.layout. Arguments as for replay().

    `blocks`: the server's block store, if flushed rows are to be read too. It must stay open as long as the tablet.
    """
    started = time.perf_counter()
    run = _Run(files, load_metadata(files), progress, blocks)
    tablet = run.replay(at, include_pending)
    report = run.report
    if tablet is not None:
        try:
            report.rows, report.checksum = tablet.count_and_checksum()
        except (CorruptionError, DiskError, NoSuchBlock) as error:
            report.problems.append(damage(error))
            tablet = None
    report.seconds = time.perf_counter() - started
    return Replay(tablet, report)


@dataclass(frozen=True, slots=True)
class RecoveredRows:
    """A tablet's rows as its files and its log leave them, to be written on.

    rows: what the log has beyond the rowsets. rowsets: in the superblock's order, with what the log has beyond their
    files in their `memory`.
    """

    rows: MemRowSet
    rowsets: tuple[DiskRowSet, ...]
    layout: RowLayout
    schema_version: int
    pending: tuple[PendingOperation, ...]
    last_timestamp: int             # of the log's last operation; 0: it has none
    applied_timestamp: int          # the highest one applied; 0: none
    applied: OpId | None            # the last operation applied in turn
    replayed_version: int           # of the schema, by the log: the superblock's may be newer
    column_id: int                  # the highest that the log's schemas have; -1: none
    # The highest ids that a COMMIT names; -1: none. (rowset, delta store) of each recorded rowset.
    memrowset_id: int
    rowset_id: int
    delta_store_ids: tuple[tuple[int, int], ...]
    report: ReplayReport


class PendingOperation(NamedTuple):
    """An operation that is in the log and not applied. `result`: the TxResultPB of its COMMIT, None: it has none."""

    term: int
    index: int      # type: ignore[assignment]      # hides tuple.index
    op_type: int
    timestamp: int
    request: bytes | None
    result: bytes | None


def recover_rows(files: TabletFiles, blocks: BlockManager | None, cache: BlockCache) -> RecoveredRows:
    """Rebuild the rows of a tablet from its rowsets and what its log has beyond them, so that it can go on from there.

    Raises the typed error of the first problem that files which are whole and untouched cannot have.
    """
    return _Run(files, load_metadata(files), None, blocks).recover(cache)


# -- one replay --------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Schemas:
    """Schemas met on the way, for the evidence at the end."""

    choice: Choice
    version: int
    highest_column_id: int = -1
    alters: list[Schema] = field(default_factory=list)
    clients: list[Schema] = field(default_factory=list)         # of writes before the first ALTER


class _Run:
    def __init__(self, files: TabletFiles, metadata: ReplicaMetadata, progress: Progress | None,
                 blocks: BlockManager | None) -> None:
        self._files = files
        self._metadata = metadata
        self._progress = progress
        self._blocks = blocks
        self._rowsets: list[DiskRowSet] | None = None       # None: rows come from the log alone
        self._segments: list[Segment] = []
        self._replayer: Replayer | None = None
        self._rows = MemRowSet()
        self._pending_bytes_max = PENDING_BYTES_MAX
        self._layout: RowLayout | None = None
        self._first_layout: RowLayout | None = None
        self._schemas: _Schemas | None = None
        self._bytes_total = 0
        self._begins_unread = self._goes_on_unread = False      # segments before or behind those that are replayed
        self._malformed: dict[int, BadFormat] = {}      # by segment number
        self.report = ReplayReport(tablet_id=files.tablet_id, problems=list(metadata.problems))
        self._describe_metadata()

    def replay(self, at: int | None, include_pending: bool) -> ReplayedTablet | None:
        try:
            self._open_segments()
            if self._blocks is not None and not self._open_rowsets():
                return None
            if not self._choose_schema():
                return None
            self._read_all()
            self._finish(include_pending)
            return self._tablet(at)
        finally:
            for segment in self._segments:
                segment.close()

    def recover(self, cache: BlockCache) -> RecoveredRows:
        self._pending_bytes_max = 1 << 40       # each is needed, and its log's queue was bounded
        try:
            self._open_segments()
            superblock = self._metadata.superblock
            if superblock is not None and self._blocks is not None:
                self._rowsets = open_rowsets(superblock, self._blocks, cache)
            if self._choose_schema():
                self._read_all()
                assert self._replayer is not None
                self._judge_completeness(self._replayer.counts)
        finally:
            for segment in self._segments:
                segment.close()
        replayer, layout, schemas = self._replayer, self._layout, self._schemas
        self._refuse_problems()
        if replayer is None or layout is None or schemas is None:
            raise InternalError("a log without problems has no rows")
        replayer.note_pending_stores()
        if superblock is not None and superblock.schema_version > schemas.version:
            layout = RowLayout(superblock.schema)       # its ALTER was flushed, and is older than this log
            self._rows.add_layout(layout)
        pending = tuple(PendingOperation(*operation) for operation in replayer.pending_operations())
        return RecoveredRows(
            self._rows, tuple(self._rowsets or ()), layout,
            schemas.version if superblock is None else max(schemas.version, superblock.schema_version), pending,
            replayer.last_timestamp, replayer.applied_timestamp,
            OpId(*replayer.applied_opid) if replayer.applied_opid else None, schemas.version, schemas.highest_column_id,
            replayer.highest_memrowset_id, replayer.highest_rowset_id, tuple(replayer.delta_store_ids), self.report)

    def _refuse_problems(self) -> None:
        """A torn tail is what a crash leaves; all else is for a person to look at."""
        problem = next((p for p in self.report.problems if p.kind != "torn_tail"), None)
        if problem is not None:
            kind = _ERRORS.get(problem.kind, CorruptionError)
            raise kind(problem.detail, path=str(self._files.wal_dir), segment=problem.segment, offset=problem.offset,
                       advice=problem.advice or "kudu-storage replay shows what can be recovered")

    # -- before the log ------------------------------------------------------------------------------------------------
    def _describe_metadata(self) -> None:
        report, metadata = self.report, self._metadata
        report.replica_uuid = metadata.uuid
        if metadata.superblock is not None:
            report.table = metadata.superblock.table_name
            report.flushed_rowsets = [
                {"id": r.id, "last_durable_dms_id": r.last_durable_dms_id, "live_row_count": r.live_row_count}
                for r in metadata.superblock.rowsets
            ]
            if metadata.superblock.tablet_id != self._files.tablet_id:
                self._add_problem("contradiction", None, None,
                                  f"tablet metadata is of tablet {metadata.superblock.tablet_id}",
                                  "put each file under the name of its own tablet")
            if metadata.superblock.tablet_data_state != "TABLET_DATA_READY":
                self._add_problem("tablet_not_ready", None, None,
                                  f"the replica's state is {metadata.superblock.tablet_data_state}",
                                  "another replica of the tablet")
        if metadata.consensus is not None:
            report.current_term = metadata.consensus.current_term
            report.voted_for = metadata.consensus.voted_for

    def _open_segments(self) -> None:
        directory = self._files.log_dir
        files = [] if directory is None else list_segments(directory)
        if not files:
            self._add_problem("no_log", None, None, "the replica has no log segments", "another replica of the tablet")
            return
        opened: dict[str, Segment] = {}
        for file in files:
            segment = self._open(file)
            if segment is not None:
                opened[file.path] = segment
        self._segments = list(opened.values())
        unreadable = {f.sequence for f in files if f.path not in opened and f.sequence is not None}
        self.report.problems += check_sequence(self._segments, unreadable) + tablet_problems(self._segments)
        self._segments, passed_over = trusted_run(self._segments)
        if self._segments:
            first, last = self._segments[0].sequence, self._segments[-1].sequence
            blank = {s.sequence for s in self.report.segments if s.status == "blank"}
            self._begins_unread = any(sequence < first for sequence in unreadable)
            self._goes_on_unread = bool(passed_over) or any(sequence > last for sequence in unreadable - blank)
        for segment in passed_over:
            self._skip(segment.path, segment.sequence, "not_replayed", "a segment before it is missing")
            segment.close()
        self._bytes_total = sum(s.file_size for s in self._segments)

    def _open_rowsets(self) -> bool:
        assert self._blocks is not None
        superblock = self._metadata.superblock
        if superblock is None:
            if self._metadata.tells_no_superblock:
                self._add_problem("missing_metadata", None, None,
                                  "without tablet metadata nobody knows the flushed rows",
                                  "name the folder that holds tablet-meta with --fs_metadata_dir")
            return False
        try:
            self._rowsets = open_rowsets(superblock, self._blocks)
        except (CorruptionError, DiskError, NoSuchBlock) as error:
            self.report.problems.append(damage(error))
            return False
        return True

    def _open(self, file: SegmentFile) -> Segment | None:
        """The segment, or None and a line in the report. A footer that cannot be read does not hide the entries."""
        try:
            return open_segment(file.path)
        except BlankSegment as error:
            self._skip(file.path, file.sequence, "blank", error.detail)
            return None
        except KuduStorageError as error:
            self.report.problems.append(Problem.of(error, file.sequence))
            try:
                return open_segment(file.path, ignore_footer=True)
            except KuduStorageError:
                self._skip(file.path, file.sequence, "unreadable", error.detail)
                return None

    def _skip(self, path: str, sequence: int | None, status: SegmentStatus, detail: str) -> None:
        self.report.segments.append(SegmentReport(
            sequence=sequence, path=path, entries=0, replicates=0, commits=0, bytes=Path(path).stat().st_size,
            codec=None, footer=False, min_index=None, max_index=None, status=status, detail=detail, seconds=0.0))
        self.report.segment_ops.append(None)

    def _choose_schema(self) -> bool:
        headers = []
        for segment in self._segments:
            try:
                headers.append(HeaderSchema(segment.sequence, segment.header.schema_version,
                                            Schema.from_pb(segment.header.schema)))
            except KuduStorageError as error:
                self._add_problem("bad_header", segment.sequence, None, f"its schema: {error.detail}", error.advice)
        superblock = self._metadata.superblock
        known = None if superblock is None else (superblock.schema_version, superblock.schema)
        choice = choose_initial(headers, known)
        if choice is None and known is not None and self._segments:
            choice = Choice(known[1], known[0], True)
        if choice is None:
            if self._segments:
                self._add_problem("schema_untrusted", None, None, "no segment header's schema can be read", None)
            return False
        for sequence in choice.outvoted:
            self._add_problem("bad_header", sequence, None,
                              "the header's schema (it has no checksum) differs from what the other files say",
                              "none needed: the other files' schema is used")
        try:
            self._layout = RowLayout(choice.schema)
        except KuduStorageError as error:
            self._add_problem(error.kind, None, None, error.detail, error.advice)
            return False
        self._first_layout = self._layout
        self._rows.add_layout(self._layout)
        self._schemas = _Schemas(choice, choice.version, max(_highest_id(header.schema) for header in headers)
                                 if headers else -1)
        self._replayer = Replayer(
            self._rows, self._layout, pending_bytes_max=self._pending_bytes_max,
            last_durable_mrs_id=None if superblock is None else superblock.last_durable_mrs_id,
            rowsets=[] if superblock is None else [(r.id, r.last_durable_dms_id) for r in superblock.rowsets],
            stores=None if self._rowsets is None else [(r.finder(), r.memory) for r in self._rowsets])
        return True

    # -- the log -------------------------------------------------------------------------------------------------------
    def _read_all(self) -> None:
        assert self._replayer is not None
        feed = SegmentFeed(self._segments)
        feed.start()
        done = 0
        before = self._replayer.counts
        if self._begins_unread and self._rowsets is not None:
            self._replayer.stop()       # L3
        try:
            for item in feed.items():
                if isinstance(item, ScannedSegment):
                    before = self._end_segment(item, before)
                    done += self._segments[item.number].file_size
                    continue
                number, chunk, offset = item
                self._feed(chunk, number)
                if self._progress is not None:
                    counts = self._replayer.counts
                    self._progress(done + offset, self._bytes_total,
                                   counts["rows_inserted"] + counts["rows_updated"] + counts["rows_deleted"])
        finally:
            feed.close()
        if self._rowsets is not None:
            self._check_reaches_rowsets(self._rowsets)
            if self._goes_on_unread:
                self._replayer.stop()   # L3

    def _check_reaches_rowsets(self, rowsets: list[DiskRowSet]) -> None:
        """A superblock names a rowset or delta file only when the log is durable up to its last operation (C2). Of a
        log that ends before, the end was lost, whatever its segments say."""
        assert self._replayer is not None
        flushed, last = max((r.max_timestamp or 0 for r in rowsets), default=0), self._replayer.last_timestamp
        if 0 < last < flushed:
            self._add_problem("missing_operations", self._segments[-1].sequence, None,
                              f"the log ends at timestamp {last}, a flushed store holds an operation of {flushed}",
                              "restore the log's last segment, or take another replica of the tablet")
            self._replayer.stop()

    def _feed(self, chunk: BatchChunk, number: int) -> None:
        assert self._replayer is not None
        event = self._replayer.feed(chunk, number)
        while event != _replayer.DONE:
            self._handle(event)
            event = self._replayer.resume()

    def _handle(self, event: int) -> None:
        assert self._replayer is not None
        if event == _replayer.CLIENT_SCHEMA:
            self._map_client_schema()
        elif event == _replayer.ALTER:
            self._alter()
        elif event == _replayer.RELOAD:
            number, offset = self._replayer.event_place
            self._replayer.reload(self._segments[number].batch_at(offset))
        elif event == _replayer.PROBLEM:
            facts = self._replayer.problem
            assert facts is not None
            if facts["code"] == "malformed":    # what it means depends on what follows it: judged at the segment's end
                self._malformed[facts["segment"]] = BadFormat("an entry passes its checksum and cannot be parsed",
                                                              offset=facts["offset"])
            else:
                self.report.problems.append(
                    replay_problem(facts, self._sequence(facts["segment"]), self._replayer.applied_opid))
        else:
            raise InternalError(f"unknown replay event {event}")

    def _map_client_schema(self) -> None:
        assert self._replayer is not None and self._layout is not None and self._schemas is not None
        message = message_class("kudu.SchemaPB")()
        try:
            schema = Schema.from_pb(_parse(message, self._replayer.event_bytes))
            projection = Projection(schema, self._layout)
        except KuduStorageError as error:
            self._fail_schema(error)
            return
        if not self._schemas.alters:
            self._schemas.clients.append(schema)
        self._replayer.add_projection(projection)

    def _alter(self) -> None:
        assert self._replayer is not None and self._schemas is not None
        message: Any = message_class("kudu.tserver.AlterSchemaRequestPB")()
        try:
            request = _parse(message, self._replayer.event_bytes)
            schema = Schema.from_pb(request.schema)
            if request.schema_version == self._schemas.version and self._layout is not None \
                    and schema == self._layout.schema:
                self._replayer.keep_layout()    # sent twice; older servers log it twice, and do nothing the second time
                return
            if request.schema_version <= self._schemas.version:
                raise SchemaUntrusted(
                    f"an ALTER makes schema version {request.schema_version}, the log was at version "
                    f"{self._schemas.version}: a segment header or the tablet metadata does not belong to this log")
            orphan = self._replayer.orphan_alter
            if orphan is not None and request.schema_version != self._schemas.version + 1:
                raise SchemaUntrusted(
                    f"an ALTER makes schema version {request.schema_version} of {self._schemas.version}; the log lacks "
                    f"what {OpId(*orphan)} changed")
            layout = RowLayout(schema)
            self._replayer.set_layout(layout)
        except KuduStorageError as error:
            self._fail_schema(error)
            return
        self._layout = layout
        self._schemas.version = request.schema_version
        self._schemas.alters.append(schema)
        self._schemas.highest_column_id = max(self._schemas.highest_column_id, _highest_id(schema))
        if request.HasField("new_table_name") and self._metadata.superblock is None:
            self.report.table = request.new_table_name

    def _fail_schema(self, error: KuduStorageError) -> None:
        assert self._replayer is not None
        self._replayer.fail_schema()
        facts = self._replayer.problem
        assert facts is not None
        self._add_problem("schema_untrusted" if error.kind == "bad_format" else error.kind,
                          self._sequence(facts["segment"]), facts["offset"],
                          f"operation {OpId(facts['term'], facts['index'])}: {error.detail}",
                          error.advice or "rows are those before this operation")

    def _end_segment(self, scanned: ScannedSegment, before: dict[str, int]) -> dict[str, int]:
        assert self._replayer is not None
        segment = self._segments[scanned.number]
        counts = self._replayer.counts
        delta = {name: counts[name] - before[name] for name in counts}
        if scanned.error is not None:
            end = unreadable_end(segment, scanned.scanner, delta["entries"], scanned.error)
        else:
            end = judge_end(segment, scanned.scanner, delta["entries"], self._malformed.pop(scanned.number, None))
        self.report.problems += end.problems
        if scanned.number < len(self._segments) - 1 and end.status == "torn_tail":
            self._add_problem("torn_tail", segment.sequence, end.offset,
                              f"the segment has no footer although others follow: {end.detail}",
                              "compare its last operation with the next segment's first one")
        if end.lossy:
            self._replayer.stop()
        indexes = self._replayer.take_index_range()
        self.report.segments.append(SegmentReport(
            sequence=segment.sequence, path=segment.path, entries=delta["entries"],
            replicates=delta["replicates"], commits=delta["commits"], bytes=segment.file_size, codec=segment.codec_name,
            footer=segment.closed, min_index=indexes[0] if indexes else None, max_index=indexes[1] if indexes else None,
            status=end.status, detail="; ".join(filter(None, [end.detail, *segment.notes])), seconds=scanned.seconds))
        self.report.segment_ops.append(SegmentOps(
            applied=delta["ops_applied"], pending=self._replayer.pending_count, replaced=delta["replaced"],
            failed=delta["rows_failed"], ignored=delta["rows_ignored"], flushed=delta["rows_flushed"],
            unknown=delta["rows_unknown"], orphan_commits=delta["orphan_commits"]))
        return counts

    # -- after the log -------------------------------------------------------------------------------------------------
    def _finish(self, include_pending: bool) -> None:
        assert self._replayer is not None
        if include_pending and self._rowsets is not None and self._replayer.pending_count:
            self._replayer.set_live_rows([live_rows(r) for r in self._rowsets])
        event = self._replayer.finish(include_pending=include_pending)
        while event not in (_replayer.DONE, _replayer.PROBLEM):
            self._handle(event)
            event = self._replayer.resume()
        if event == _replayer.PROBLEM:
            self._handle(event)
        replayer, report = self._replayer, self.report
        counts = replayer.counts
        report.last_opid = str(OpId(*replayer.last_opid)) if replayer.last_opid else None
        report.applied_opid = str(OpId(*replayer.applied_opid)) if replayer.applied_opid else None
        report.applied_timestamp = replayer.applied_timestamp
        report.committed_index = replayer.committed
        report.ops_by_type = {enum_name("kudu.consensus.OperationType", t): n for t, n in replayer.ops_by_type.items()}
        report.pending = [str(OpId(term, index)) for term, index, _, committed, _, _ in replayer.pending()
                          if not committed]
        report.replaced = counts["replaced"]
        report.row_operations = {n[5:]: counts[n] for n in counts if n.startswith("rows_")}
        report.memory_bytes = self._rows.memory_bytes + sum(r.memory.memory_bytes for r in self._rowsets or ())
        report.content_bytes = self._rows.content_bytes
        report.segments, report.segment_ops = _by_sequence(report.segments, report.segment_ops)
        self._judge_completeness(counts)

    def _judge_completeness(self, counts: dict[str, int]) -> None:
        """Whether all rows come from this log; if not, why."""
        assert self._replayer is not None
        starts_at, superblock = self._replayer.starts_at, self._metadata.superblock
        if self._lacks_an_alter():
            assert self._replayer.orphan_alter is not None
            self._add_problem("missing_operations", self._segments[0].sequence, None,
                              f"operation {OpId(*self._replayer.orphan_alter)} changed the schema; its request is in "
                              "an earlier, missing segment, and no header has what came of it",
                              "copy the earlier segments from a backup or another replica")
        orphan = self._replayer.orphan_to_replay
        flushed = superblock is None or superblock.last_durable_mrs_id >= 0 or bool(superblock.rowsets)
        if orphan or (starts_at is not None and starts_at > 1 and not flushed):
            first = f"; the first such COMMIT is of {OpId(*orphan)}" if orphan else ""
            self._add_problem("missing_operations", self._segments[0].sequence, None,
                              f"the log starts at index {starts_at}; what came before is in no flushed store{first}",
                              "copy the earlier segments from a backup or another replica; "
                              "only rows that this log proves are shown")
        elif self._rowsets is not None:
            return
        elif (starts_at is not None and starts_at > 1) or counts["rows_flushed"]:
            why = f"the log starts at index {starts_at}" if starts_at and starts_at > 1 else \
                f"{counts['rows_flushed']} row operations were marked as flushed by a restart"
            self._add_problem("flushed_rowsets", None, None,
                              f"{why}: part of the tablet is in flushed stores "
                              f"({len(self.report.flushed_rowsets)} rowsets); only rows that the log proves are shown",
                              "read the flushed stores too (the real kudu tools do)")

    def _lacks_an_alter(self) -> bool:
        """An ALTER took effect whose request is older than this log, and the schema that the log began with has it not.

        A server writes the superblock before the ALTER's COMMIT, and each ALTER makes the next version: so where the
        log's schemas come to the superblock's without a gap, none is missing.
        """
        assert self._replayer is not None and self._schemas is not None
        superblock = self._metadata.superblock
        return self._replayer.orphan_alter is not None \
            and (superblock is None or superblock.schema_version > self._schemas.version)

    def _tablet(self, at: int | None) -> ReplayedTablet | None:
        assert self._replayer is not None and self._layout is not None
        self._rows.freeze()
        visible_below = self._replayer.cut_timestamp
        unproved = self._doubts()
        if unproved:
            self._add_problem("schema_untrusted", self._segments[0].sequence, None,
                              "only a segment header, which has no checksum, tells: " + ", ".join(unproved),
                              "put the replica's tablet-meta file beside the log; no rows are shown without it")
            visible_below = 0
        if self._lacks_an_alter():
            visible_below = 0
        if self._rowsets is None:
            return ReplayedTablet(self._files.tablet_id, self._rows, self._layout, at=at, visible_below=visible_below)
        return self._whole_tablet(at, visible_below)

    def _whole_tablet(self, at: int | None, visible_below: int | None) -> ReplayedTablet:
        assert self._replayer is not None and self._layout is not None and self._rowsets is not None
        superblock, schemas = self._metadata.superblock, self._schemas
        assert superblock is not None and schemas is not None
        layout = self._layout
        if superblock.schema_version > schemas.version:
            layout = RowLayout(superblock.schema)       # its ALTER was flushed, and is older than this log
        if self._replayer.problem is not None:          # L3
            bound = self._replayer.applied_timestamp + 1 if self._replayer.applied_timestamp else 0
            visible_below = bound if visible_below is None else min(bound, visible_below)
        return ReplayedTablet(self._files.tablet_id, self._rows, layout, at=at, visible_below=visible_below,
                              rowsets=self._rowsets, blocks=self._blocks,
                              history_mark=history_mark(superblock, self._rowsets, self._replayer.last_timestamp))

    def _doubts(self) -> list[str]:
        assert self._schemas is not None and self._first_layout is not None
        schemas = self._schemas
        return doubts(schemas.choice, schemas.alters, schemas.clients, self._first_layout.defaults_used)

    # -- problems ------------------------------------------------------------------------------------------------------
    def _add_problem(self, kind: str, segment: int | None, offset: int | None, detail: str, advice: str | None) -> None:
        self.report.problems.append(Problem(kind=kind, segment=segment, offset=offset, detail=detail, advice=advice))

    def _sequence(self, number: int) -> int | None:
        return self._segments[number].sequence if 0 <= number < len(self._segments) else None


def _highest_id(schema: Schema) -> int:
    return max((column.id for column in schema if column.id is not None), default=-1)


def _parse(message: Any, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BadFormat(f"{message.DESCRIPTOR.full_name} cannot be parsed: {error}") from None
    return message


def _by_sequence(segments: list[SegmentReport], ops: list[SegmentOps | None]) \
        -> tuple[list[SegmentReport], list[SegmentOps | None]]:
    order = sorted(range(len(segments)), key=lambda i: (segments[i].sequence is None, segments[i].sequence or 0))
    return [segments[i] for i in order], [ops[i] for i in order]
