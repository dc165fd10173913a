"""Which stores a log's COMMITs name: the native tally against protobuf's own parser."""
from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import stopped
from crafted_log import TABLET_ID, TIMESTAMP_STEP, CraftedLog, int64

from kudu_storage._native.store_anchors import StoreAnchors, StoreUse
from kudu_storage.common.row_codec import RowOp
from kudu_storage.errors import BadFormat
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.entries import COMMIT, open_log, segment_entries

Target = tuple[int, int, int]       # MemRowSet, rowset, delta store; -1: none


def tally(folder: Path) -> StoreAnchors:
    anchors = StoreAnchors()
    for segment in open_log(folder):
        for chunk in segment.scan(1):
            anchors.add(chunk)
    return anchors


def expected(folder: Path) -> tuple[list[StoreUse], list[tuple[int, int]]]:
    """The same, plainly; and the operations without a COMMIT, with their times."""
    waiting: dict[int, Any] = {}
    uses: dict[Target, dict[str, Any]] = {}
    for segment in open_log(folder):
        for entry in segment_entries(segment):
            if entry.type != COMMIT:
                index = entry.replicate.id.index
                waiting = {i: m for i, m in waiting.items() if i < index} | {index: entry.replicate}
                continue
            index = entry.commit.commited_op_id.index
            operation = waiting.pop(index, None)
            ops = entry.commit.result.ops
            for result in ops:
                if result.skip_on_replay or result.HasField("failed_status"):
                    continue
                for store in result.mutated_stores:
                    key = (store.mrs_id, -1, -1) if store.mrs_id >= 0 else (-1, store.rs_id, store.dms_id)
                    use = uses.setdefault(key, {"first": index, "operation": operation, "ops": [], "rows": 0,
                                                "bytes": 0.0})
                    use["ops"].append(index)
                    use["rows"] += 1
                    if operation is not None:
                        use["bytes"] += len(operation.write_request.SerializeToString()) / len(ops)
    found = [StoreUse(*(None if i < 0 else i for i in key), use["first"],
                      None if use["operation"] is None else use["operation"].timestamp, max(use["ops"]),
                      len(set(use["ops"])), use["rows"], int(use["bytes"])) for key, use in uses.items()]
    return found, [(index, message.timestamp) for index, message in waiting.items()]


def in_order(uses: Iterable[StoreUse]) -> list[StoreUse]:
    return sorted(uses, key=lambda u: (u.first_index, u.memrowset_id or -1, u.rowset_id or -1, u.dms_id or -1))


class Log(CraftedLog):
    """Writes of some rows, and COMMITs that name stores."""

    def rows(self, count: int = 1) -> Any:
        return self.write([(RowOp.UPSERT, {0: int64(i), 1: b"x" * i}) for i in range(count)])

    def done(self, replicate: Any, *stores_of_rows: list[Target]) -> Any:
        entry: Any = message_class("kudu.log.LogEntryPB")(type=2)
        entry.commit.op_type = 3
        entry.commit.commited_op_id.CopyFrom(replicate.replicate.id)
        for stores in stores_of_rows:
            result = entry.commit.result.ops.add()
            for memrowset, rowset, dms in stores:
                target = result.mutated_stores.add()
                if memrowset >= 0:
                    target.mrs_id = memrowset
                else:
                    target.rs_id, target.dms_id = rowset, dms
        self.entries.append(entry)
        return entry


def memrowset(number: int) -> Target:
    return number, -1, -1


def store(rowset: int, dms: int) -> Target:
    return -1, rowset, dms


def test_each_store_has_its_first_operation_and_what_it_took(tmp_path: Path) -> None:
    log = Log()
    one, two, three = log.rows(), log.rows(3), log.rows()
    log.done(one, [memrowset(4)])
    log.done(two, [store(7, 0)], [memrowset(4)], [store(7, 0), store(9, 1)])
    folder = log.save(tmp_path)
    anchors = tally(folder)
    assert [(u.memrowset_id, u.rowset_id, u.dms_id, u.first_index, u.operations, u.rows) for u in anchors.stores] == \
        [(4, None, None, 1, 2, 2), (None, 7, 0, 2, 1, 2), (None, 9, 1, 2, 1, 1)]
    assert in_order(anchors.stores) == in_order(expected(folder)[0])
    assert anchors.in_flight is not None
    assert tuple(anchors.in_flight) == (3, three.replicate.timestamp, 1)


def test_rows_that_failed_or_are_flushed_name_no_store(tmp_path: Path) -> None:
    log = Log()
    commit = log.done(log.rows(3), [memrowset(1)], [memrowset(2)], [memrowset(3)])
    commit.commit.result.ops[0].skip_on_replay = True
    commit.commit.result.ops[1].failed_status.code = 1
    folder = log.save(tmp_path)
    assert [u.memrowset_id for u in tally(folder).stores] == [3]
    assert tally(folder).in_flight is None


def test_a_commit_whose_operation_is_older_than_the_log_has_no_time(tmp_path: Path) -> None:
    log = Log(next_index=10)
    old = log.rows()
    log.entries.clear()
    new = log.rows()
    log.done(old, [store(3, 3)])
    log.done(new, [store(3, 3)])
    (use,) = tally(log.save(tmp_path)).stores
    assert (use.first_index, use.first_timestamp, use.operations) == (10, None, 2)


def test_replaced_operations_are_forgotten(tmp_path: Path) -> None:
    log = Log()
    for _ in range(3):
        log.rows()
    log.next_index, log.term = 2, 2
    kept = log.rows()
    anchors = tally(log.save(tmp_path))
    assert anchors.in_flight is not None
    assert tuple(anchors.in_flight) == (1, kept.replicate.timestamp - 3 * TIMESTAMP_STEP, 2)


def test_thousands_of_stores_and_of_waiting_operations_fit(tmp_path: Path) -> None:
    log = Log()
    written = [log.rows() for _ in range(3000)]
    for number, replicate in reversed(list(enumerate(written))):
        if number:
            log.done(replicate, [store(number % 1500, number % 2)])
    folder = log.save(tmp_path)
    anchors = tally(folder)
    assert len(anchors.stores) == 1500
    assert anchors.in_flight is not None and anchors.in_flight.operations == 1
    assert {(u.rowset_id, u.dms_id): u.operations for u in anchors.stores} == \
        {(number % 1500, number % 2): 2 if number % 1500 else 1 for number in range(1, 3000)}
    assert min(u.first_index for u in anchors.stores) == 2


def test_a_malformed_result_is_told_with_its_place(tmp_path: Path) -> None:
    log = Log()
    commit = log.done(log.rows(), [memrowset(1)])
    entry = commit.SerializeToString()
    good = commit.commit.result.ops[0].SerializeToString()
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(
        tablet_id=TABLET_ID.encode(), sequence_number=1, schema_version=0)
    log.schema.to_pb(header.schema)
    head = spec.build_header(header)
    for broken in (good[:-1] + b"\xff", b"\x0b" + good[1:], good[:1] + b"\x7f" + good[2:]):
        batch = b"\x0a" + bytes([len(entry)]) + entry.replace(good, broken)
        path = tmp_path / "wal-000000001"
        path.write_bytes(head + spec.build_entry(batch, spec.Codec.NONE))
        with pytest.raises(BadFormat) as raised:
            tally(path)
        assert raised.value.offset == len(head)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_batches_with_right_checksums_are_refused_or_harmless(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    log = Log()
    for number in range(5):
        log.done(log.rows(2), [memrowset(number), store(number, 2)], [store(7, number)])
    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    batch.entry.extend(log.entries)
    good = bytes(batch.SerializeToString())
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(
        tablet_id=TABLET_ID.encode(), sequence_number=1, schema_version=0)
    log.schema.to_pb(header.schema)
    refused = 0
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = damaged[:rng.randrange(len(damaged))] if rng.random() < 0.3 else damaged
        path = tmp_path / "wal-000000001"
        path.write_bytes(spec.build_header(header) + spec.build_entry(bytes(cut), spec.Codec.NONE))
        try:
            anchors = tally(path)
        except BadFormat:
            refused += 1
            continue
        assert all(use.first_index >= 1 and use.operations >= 1 for use in anchors.stores)
    assert 0 < refused < 300


@pytest.mark.parametrize("server", [*stopped.golden_servers(), *stopped.shared_servers()], ids=lambda s: s.name)
def test_logs_of_real_servers_give_what_protobuf_reads(server: stopped.StoppedServer, tmp_path: Path) -> None:
    root = server.unpack(tmp_path)
    folders = sorted((root / "wal" / "wals").iterdir())
    assert folders
    for folder in folders:
        anchors = tally(folder)
        uses, waiting = expected(folder)
        assert [u._replace(bytes=0) for u in in_order(anchors.stores)] == [u._replace(bytes=0) for u in in_order(uses)]
        assert [u.bytes for u in in_order(anchors.stores)] == pytest.approx([u.bytes for u in in_order(uses)], abs=1)
        first = None if anchors.in_flight is None else (anchors.in_flight.first_index, anchors.in_flight.operations)
        assert first == (None if not waiting else (waiting[0][0], len(waiting)))
