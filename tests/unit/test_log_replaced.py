"""Logs in which Raft replaced operations: what was replaced is never read, wherever the reading starts."""
from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from random_log import random_log
from typed_entries import commit, live_operations, opid_of, replicate

from kudu_storage import Log
from kudu_storage._native.entry import parse_batch
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat, Collected, InvalidArgument, NotYetWritten
from kudu_storage.wal import format as spec
from kudu_storage.wal.log_index import rebuild
from kudu_storage.wal.reader import open_segment
from kudu_storage.wal.verify import verify

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "replay" / "r03_replaced_ops"


def entries_of(folder: Path) -> list[Any]:
    return [entry for path in sorted(folder.glob("wal-*")) for entry in spec.read_entries(path.read_bytes())[0]]


def first_slots(paths: list[Path]) -> bytes:
    """Index slots of the first entry with each index: the wrong ones."""
    slots: dict[int, bytes] = {}
    for path in paths:
        with open_segment(path) as segment:
            for chunk in segment.scan():
                for body, (offset, _, _) in zip(chunk, chunk.refs(), strict=True):
                    for entry in parse_batch(body):
                        slot = struct.pack("<qQQ", entry["id"].term, segment.sequence, offset)
                        slots.setdefault(entry["id"].index, slot)
    return b"".join(slots.get(index, bytes(24)) for index in range(max(slots) + 1))


def assert_reads_as(log: Log, live: list[Any], starts: list[int] | None = None) -> None:
    """From each index on exactly the live operations, with their own bytes."""
    expected = [(opid_of(m), m.timestamp, m.op_type) for m in live]
    first = live[0].id.index
    assert (log.first_index, log.last) == (first, expected[-1][0])
    for start in starts or [*range(first, first + len(live) + 1)]:
        got = [(e.op_id, e.timestamp, e.op_type) for e in log.read(start)]
        assert got == expected[start - first:], start
    for i, wanted in enumerate(expected):
        entry = log.get(first + i)
        assert (entry.op_id, entry.timestamp, entry.op_type) == wanted
    assert list(log.payloads(first)) == [bytes(e) for e in log.read(first)]


@pytest.mark.parametrize("replica", ["t1", "t2", "t3"])
def test_operations_that_real_servers_replaced_are_not_read(replica: str, tmp_path: Path) -> None:
    (source,) = (GOLDEN / replica / "wals").iterdir()
    folder = tmp_path / "log"
    shutil.copytree(source, folder)
    live = live_operations(entries_of(folder))
    with Log.open(folder) as log:
        assert_reads_as(log, live)
        log.append(b"goes on").wait()
        assert [e.index for e in log.read(log.last.index)] == [live[-1].id.index + 1]


def test_the_golden_logs_hold_replaced_operations() -> None:
    entries = [entries_of(next((GOLDEN / replica / "wals").iterdir())) for replica in ("t1", "t2", "t3")]
    assert any(sum(1 for e in log if e.type == 1) > len(live_operations(log)) for log in entries)


@pytest.mark.parametrize("index_files", ["none", "rebuilt", "of what was replaced", "garbage"])
@pytest.mark.parametrize("seed", range(25))
def test_random_histories_read_as_the_simplest_reader_reads_them(seed: int, index_files: str, tmp_path: Path) -> None:
    history = random_log(seed)
    for number, data in enumerate(history.segments, 1):
        (tmp_path / f"wal-{number:09d}").write_bytes(data)
    paths = sorted(tmp_path.glob("wal-*"))
    if index_files == "rebuilt":
        rebuild(tmp_path, [open_segment(path) for path in paths])
    elif index_files == "of what was replaced":
        (tmp_path / "index.000000000").write_bytes(first_slots(paths))
    elif index_files == "garbage":
        (tmp_path / "index.000000000").write_bytes(random.Random(seed).randbytes(24 * 2000))
    live = live_operations(history.entries)
    assert live and opid_of(live[-1]) == history.last_opid
    with Log.open(tmp_path, cache_size=0) as log:
        assert_reads_as(log, live)


@pytest.mark.parametrize("seed", range(25))
def test_cut_histories_read_as_if_they_had_ended_there(seed: int, tmp_path: Path) -> None:
    history = random_log(seed)
    for number, data in enumerate(history.segments, 1):
        (tmp_path / f"wal-{number:09d}").write_bytes(data)
    live = live_operations(history.entries)
    commits = {(e.commit.commited_op_id.term, e.commit.commited_op_id.index)
               for e in history.entries if e.type == 2}
    cut = random.Random(seed).randrange(1, len(live))
    with Log.open(tmp_path) as log:
        log.truncate_after(live[cut - 1].id.index)
        assert_reads_as(log, live[:cut])
    left = entries_of(tmp_path)
    assert max(e.replicate.id.index for e in left if e.type == 1) == live[cut - 1].id.index
    # COMMITs of what stays stay, also those that came after operations that went.
    assert {(e.commit.commited_op_id.term, e.commit.commited_op_id.index) for e in left if e.type == 2} \
        == {(term, index) for term, index in commits if index <= live[cut - 1].id.index}
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_replacing_is_asked_for_and_hides_all_above(cache: int, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, cache_size=cache, segment_size="16KiB") as log:
        log.append_many([b"%d" % i for i in range(1, 21)]).wait()
        with pytest.raises(BadFormat, match="the next one is 21"):
            log.append_replicate(replicate(2, 15, payload=b"new"))
        token = log.append_replicate(replicate(2, 15, payload=b"new"), replicate(3, 16, payload=b"er"), replace=True)
        assert (token.first, token.last, log.last) == (OpId(2, 15), OpId(3, 16), OpId(3, 16))
        token.wait()
        assert log.durable == OpId(3, 16)
        assert [bytes(e) for e in log.read(14)] == [b"14", b"new", b"er"]
        with pytest.raises(NotYetWritten):
            log.read(18)
        with pytest.raises(BadFormat):
            log.append_replicate(replicate(9, 18), replace=True)
        with pytest.raises(BadFormat):
            log.append_replicate(replicate(9, 0), replace=True)
        # In Raft what replaces can be of an earlier term than what is replaced.
        log.append_replicate(replicate(1, 16, payload=b"old term"), replace=True).wait()
        assert log.last == OpId(1, 16)
        assert bytes(next(log.read(16))) == b"old term"
    with Log.open(tmp_path) as log:
        assert [bytes(e) for e in log.read(14)] == [b"14", b"new", b"old term"]


def test_until_it_is_written_a_replacement_is_not_read(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"1", b"2", b"3"]).wait()
        # What is queued is written some time later: whatever is read now is one history or the other, never a mixture.
        log.append_replicate(replicate(2, 2, payload=b"two"), replace=True)
        assert [bytes(e) for e in log.read()] in ([b"1", b"2", b"3"], [b"1", b"two"])
        log.flush()
        assert [bytes(e) for e in log.read()] == [b"1", b"two"]


def test_first_index_is_the_lowest_that_is_live_after_collection(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none") as log:
        for index in range(1, 41):
            log.append_replicate(replicate(1, index, payload=bytes(1000))).wait()
        # The oldest operations are replaced by later segments.
        for index in range(5, 61):
            log.append_replicate(replicate(2, index, payload=bytes(1000)), replace=index == 5).wait()
        log.gc()
        first = log.first_index
        assert [e.op_id for e in log.read()] == [OpId(1 if i < 5 else 2, i) for i in range(first, 61)]
        if first > 1:
            with pytest.raises(Collected):
                log.read(first - 1)


def test_commits_are_waited_for_themselves(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_replicate(replicate(1, 1)).wait()
        written = log.stats()["batches_written"]
        log.append_commit(commit(1, 1)).wait(timeout=30)
        assert log.stats()["batches_written"] == written + 1
        log.append_commit(commit(1, 1))
        log.flush()
        assert log.stats()["batches_written"] == written + 2
    assert [e.type for e in entries_of(tmp_path)] == [1, 2, 2]


def test_truncating_what_is_collected_or_negative_is_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none") as log:
        for _ in range(60):
            log.append(bytes(1000)).wait()
        log.gc()
        assert log.first_index > 2
        with pytest.raises(Collected):
            log.truncate_after(log.first_index - 1)
        with pytest.raises(InvalidArgument):
            log.truncate_after(-1)
        log.truncate_after(log.first_index)
        assert log.last.index == log.first_index
