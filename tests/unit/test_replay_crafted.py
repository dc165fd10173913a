"""Orders of entries that a valid log may have and few have, and logs that only an attacker writes."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from crafted_log import KEY_AND_TEXT, CraftedLog, RowOperation, client_of, column, int64

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.segment import BatchChunk, SegmentScanner
from kudu_storage.bootstrap import replay
from kudu_storage.bootstrap._replayer import DONE, Replayer
from kudu_storage.common.row_codec import RowOp
from kudu_storage.common.schema import Schema
from kudu_storage.errors import DiskError, InvalidArgument
from kudu_storage.protos import message_class
from kudu_storage.tablet.replayed import merged_scan
from kudu_storage.wal import format as spec
from kudu_storage.wal.reader import Segment, open_segment
from kudu_storage.wal.verify import verify


def _two_clients() -> tuple[Schema, Schema]:
    """One schema in two encodings, as the clients of two languages send it."""
    plain = client_of(KEY_AND_TEXT)
    return plain, Schema((plain.columns[0], replace(plain.columns[1], comment="x")))


def test_clients_that_take_turns_need_no_stack(tmp_path: Path) -> None:
    log = CraftedLog()
    clients = _two_clients()
    writes = [log.write([(RowOp.INSERT, {0: int64(i), 1: b"v"})], clients[i % 2]) for i in range(60_000)]
    for write in writes:
        log.commit(write, 1)
    # All in one chunk: the operations wait, and then are applied without a stop in between.
    report = replay(log.save(tmp_path, [log.entries])).report
    assert (report.rows, report.problems) == (60_000, [])


def test_more_client_schemas_than_are_remembered(tmp_path: Path) -> None:
    log = CraftedLog()
    plain = client_of(KEY_AND_TEXT)
    clients = [Schema((plain.columns[0], replace(plain.columns[1], comment=f"client {i}"))) for i in range(100)]
    for i in range(1000):
        log.applied([(RowOp.INSERT, {0: int64(i), 1: b"%d" % i})], clients[i * 7 % 100])
    result = replay(log.save(tmp_path))
    assert result.report.problems == []
    assert result.tablet is not None
    assert list(result.tablet.rows()) == [(i, str(i)) for i in range(1000)]


INSERT_ONE = (RowOp.INSERT, {0: int64(1), 1: b"inserted"})
UPDATE_ONE = (RowOp.UPDATE, {0: int64(1), 1: b"updated"})
UPDATE_ZERO = (RowOp.UPDATE, {0: int64(0), 1: b"updated"})
DELETE_ZERO = (RowOp.DELETE, {0: int64(0)})
INSERT_ZERO = (RowOp.INSERT, {0: int64(0), 1: b"again"})
ZERO = (0, "zero")


@pytest.mark.parametrize(("lost", "kept", "shown", "with_pending"), [
    (INSERT_ONE, UPDATE_ONE, [ZERO], [ZERO, (1, "updated")]),
    (DELETE_ZERO, INSERT_ZERO, [ZERO], [(0, "again")]),
    (UPDATE_ZERO, DELETE_ZERO, [ZERO], []),
    (UPDATE_ZERO, INSERT_ONE, [ZERO, (1, "inserted")], [(0, "updated"), (1, "inserted")]),
])
def test_a_crash_may_lose_an_earlier_commit_and_keep_a_later_one(
        tmp_path: Path, lost: RowOperation, kept: RowOperation, shown: list[object],
        with_pending: list[object]) -> None:
    log = CraftedLog()
    log.applied([(RowOp.INSERT, {0: int64(0), 1: b"zero"})])
    log.write([lost])
    log.commit(log.write([kept]), 1)
    folder = log.save(tmp_path)
    for ask, expected in ((False, shown), (True, with_pending)):
        result = replay(folder, include_pending=ask)
        assert (result.report.problems, result.report.pending) == ([], ["1.2"])
        assert result.tablet is not None
        assert list(result.tablet.rows()) == expected


def test_nothing_is_applied_past_a_pending_schema_change(tmp_path: Path) -> None:
    log = CraftedLog()
    log.applied([(RowOp.INSERT, {0: int64(0), 1: b"zero"})])
    log.schema = Schema((*KEY_AND_TEXT.columns, column("w", "INT64", nullable=True, id=12)))
    log.alter(log.schema, 1)
    log.applied([(RowOp.INSERT, {0: int64(1), 1: b"one", 2: int64(11)})])
    log.schema = KEY_AND_TEXT       # of the segment's header
    folder = log.save(tmp_path)
    without, included = replay(folder), replay(folder, include_pending=True)
    assert without.report.problems == included.report.problems == []
    assert without.tablet is not None and included.tablet is not None
    assert list(without.tablet.rows()) == [(0, "zero")]
    assert list(included.tablet.rows()) == [(0, "zero", None), (1, "one", 11)]


@pytest.mark.parametrize(("before", "after"), [("INT8", "DECIMAL128"), ("INT64", "STRING"), ("BINARY", "INT64")])
def test_a_schema_change_that_gives_a_column_another_type_ends_the_replay(
        tmp_path: Path, before: str, after: str) -> None:
    log = CraftedLog(Schema((KEY_AND_TEXT.columns[0], column("v", before, id=11))))
    cell = bytes(log.schema.columns[1].type.width_bytes)
    log.applied([(RowOp.INSERT, {0: int64(i), 1: cell}) for i in range(3)])
    log.commit(log.alter(Schema((KEY_AND_TEXT.columns[0], column("v", after, id=11))), 1))
    result = replay(log.save(tmp_path))
    assert [p.kind for p in result.report.problems] == ["schema_untrusted"]
    assert result.tablet is not None
    assert [c.type.name for c in result.tablet.schema] == ["INT64", before]
    assert result.report.rows == 3


def test_tablets_whose_columns_differ_in_type_are_not_merged(tmp_path: Path) -> None:
    tablets = []
    for name in ("INT8", "DECIMAL128", "STRING"):
        log = CraftedLog(Schema((KEY_AND_TEXT.columns[0], column("v", name, id=11))))
        log.applied([(RowOp.INSERT, {0: int64(1), 1: bytes(log.schema.columns[1].type.width_bytes)})])
        tablets.append(replay(log.save(tmp_path / name)).tablet)
    for other in tablets[1:]:
        assert tablets[0] is not None and other is not None
        for pair in ([tablets[0], other], [other, tablets[0]]):
            with pytest.raises(InvalidArgument, match="not of one table"):
                merged_scan(pair)


def test_descending_keys_above_a_full_leaf_share_leaves(tmp_path: Path) -> None:
    log = CraftedLog(Schema((KEY_AND_TEXT.columns[0],)))
    keys = [*range(64), *range(10**9, 10**9 - 20_000, -1)]
    for at in range(0, len(keys), 1000):
        log.applied([(RowOp.INSERT, {0: int64(k)}) for k in keys[at:at + 1000]])
    result = replay(log.save(tmp_path))
    assert result.tablet is not None
    assert [row[0] for row in result.tablet.rows()] == sorted(keys)
    # A chunk of 2 MiB for the rows, and leaves that are at least half full.
    assert result.report.memory_bytes < (2 << 20) + len(keys) * 40


def test_cells_that_share_bytes_make_no_rows(tmp_path: Path) -> None:
    log = CraftedLog()
    log.applied([(RowOp.INSERT, {0: int64(0), 1: b"good"})])
    write = log.write([(RowOp.INSERT, {0: int64(i), 1: b"x" * 1000}) for i in range(1, 1001)])
    log.commit(write, 1000)
    request = write.replicate.write_request.row_operations
    # Every cell is the last column of its row: u64 offset, u64 size.
    row_bytes = len(request.rows) // 1000
    first = request.rows[row_bytes - 16:row_bytes]
    request.rows = b"".join(request.rows[i:i + row_bytes - 16] + first
                            for i in range(0, len(request.rows), row_bytes))
    request.indirect_data = request.indirect_data[:1000]
    result = replay(log.save(tmp_path))
    assert [p.kind for p in result.report.problems] == ["bad_format"]
    assert result.tablet is not None
    assert list(result.tablet.rows()) == [(0, "good")]


class _FailingScanner:
    """A scan of a disk that breaks after the first chunk."""

    def __init__(self, scanner: SegmentScanner) -> None:
        self._scanner = scanner
        self._failing = False

    def next_chunk(self) -> BatchChunk | None:
        if self._failing:
            raise DiskError("read failed: Input/output error", offset=self._scanner.offset)
        self._failing = True
        return self._scanner.next_chunk(64)

    @property
    def offset(self) -> int:
        return self._scanner.offset


def test_a_read_error_keeps_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CraftedLog()
    for i in range(10):
        log.applied([(RowOp.INSERT, {0: int64(i), 1: b"x" * 100})])
    folder = log.save(tmp_path)
    whole = Segment.scanner
    monkeypatch.setattr(Segment, "scanner", lambda segment: _FailingScanner(whole(segment)))
    replayed = replay(folder, include_pending=True).report
    assert replayed.rows == 1
    for report in (replayed, verify(folder)):
        assert [(p.kind, p.segment) for p in report.problems] == [("io_error", 1)]
        assert [(s.status, s.entries) for s in report.segments] == [("unreadable", 1)]


def test_a_schema_change_that_is_logged_twice_counts_once(tmp_path: Path) -> None:
    log = CraftedLog()
    log.applied([(RowOp.INSERT, {0: int64(0), 1: b"zero"})])
    log.schema = Schema((*KEY_AND_TEXT.columns, column("w", "INT64", nullable=True, id=12)))
    for _ in range(2):
        log.commit(log.alter(log.schema, 1))
    log.applied([(RowOp.INSERT, {0: int64(1), 1: b"one", 2: int64(11)})])
    log.schema = KEY_AND_TEXT       # of the segment's header
    result = replay(log.save(tmp_path))
    assert result.report.problems == []
    assert result.tablet is not None
    assert list(result.tablet.rows()) == [(0, "zero", None), (1, "one", 11)]


@pytest.mark.parametrize("counter", [2**63 - 1, -1])
def test_numbers_that_no_server_gives_out_make_no_row(tmp_path: Path, counter: int) -> None:
    numbered = column("auto_incrementing_id", "INT64", is_key=True, auto_incrementing=True, id=12)
    log = CraftedLog(Schema((KEY_AND_TEXT.columns[0], numbered, KEY_AND_TEXT.columns[1])))
    write = log.write([(RowOp.INSERT, {0: int64(0), 2: b"zero"})])
    write.replicate.write_request.auto_incrementing_column.auto_incrementing_counter = counter
    log.commit(write, 1)
    report = replay(log.save(tmp_path)).report
    assert (report.rows, [p.kind for p in report.problems]) == (0, ["contradiction"])


@pytest.mark.parametrize(("stores", "active"), [
    ([{"mrs_id": 1}], True), ([{"mrs_id": 0}], False), ([{"rs_id": 4, "dms_id": 0}], False),
    ([{"rs_id": 4, "dms_id": 1}], True), ([{"rs_id": 99, "dms_id": 9}], False),
    ([{"rs_id": 4, "dms_id": 1}, {"rs_id": 99, "dms_id": 0}], True),
    ([{"rs_id": 99, "dms_id": 0}, {"rs_id": 4, "dms_id": 1}], True),
])
def test_an_orphaned_commit_needs_replay_if_any_of_its_stores_is_not_flushed(
        tmp_path: Path, stores: list[dict[str, int]], active: bool) -> None:
    log = CraftedLog(next_index=8)
    write = log.write([(RowOp.UPDATE, {0: int64(0), 1: b"x"})])
    log.commit(write)
    result = log.entries[-1].commit.result.ops.add()
    for store in stores:
        result.mutated_stores.add(**store)
    rows, layout = MemRowSet(), RowLayout(KEY_AND_TEXT)
    rows.add_layout(layout)
    replayer = Replayer(rows, layout, last_durable_mrs_id=0, rowsets=[(4, 0)])
    log.entries = log.entries[-1:]
    with open_segment(log.save(tmp_path) / "wal-000000001") as segment:
        for chunk in segment.scan():
            assert replayer.feed(chunk, 0) == DONE
    assert replayer.orphan_to_replay == ((1, 8) if active else None)


def test_no_entry_counts_of_a_batch_that_cannot_be_parsed(tmp_path: Path) -> None:
    log = CraftedLog()
    log.applied([(RowOp.INSERT, {0: int64(0), 1: b"zero"})])
    folder = log.save(tmp_path)
    log.entries = []
    log.applied([(RowOp.INSERT, {0: int64(1), 1: b"one"})])
    batch = message_class("kudu.log.LogEntryBatchPB")(entry=log.entries).SerializeToString()
    with open(folder / "wal-000000001", "ab") as segment:
        segment.write(spec.build_entry(batch + b"\x0a\x7f\x01", spec.Codec.NONE))
    result = replay(folder)
    assert result.tablet is not None
    assert list(result.tablet.rows()) == [(0, "zero")]
    assert result.report.problems == []
    for report in (result.report, verify(folder)):
        assert [(s.status, s.entries) for s in report.segments] == [("torn_tail", 2)]
