"""Replay over flushed rowsets: pending operations, lost tails, and superblocks that contradict the log."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stopped

from kudu_storage.bootstrap.log_replay import Replay, replay
from kudu_storage.fs.pb_container import read_single
from kudu_storage.fs.superblock import TYPE, write_superblock
from kudu_storage.protos import message_class
from kudu_storage.wal.entries import COMMIT
from kudu_storage.wal.reader import list_segments, open_segment

SERVER, LEADER = (next(s for s in stopped.golden_servers() if s.name == name)
                  for name in ("many-rowsets-part", "leader-pending-kill9"))
TABLETS = sorted(SERVER.checksums)
ON_LEADER = "59476955b8164f3b871e7ecbf6846ce6"       # its log was never rewritten: COMMITs still name their stores


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return SERVER.unpack(tmp_path / "server")


@pytest.fixture
def leader(tmp_path: Path) -> Path:
    return LEADER.unpack(tmp_path / "leader")


def read(root: Path, tablet: str, **more: Any) -> Replay:
    return replay(root / "wal", tablet, data_dirs=[root / "data"], **more)


def batches(root: Path, tablet: str) -> tuple[Path, list[tuple[int, bool]]]:
    """The last segment, and of each of its batches where it starts and whether it holds COMMITs."""
    path = Path(list_segments(root / "wal" / "wals" / tablet)[-1].path)
    found = []
    segment = open_segment(path)
    for chunk in segment.scan():
        for i, (offset, _, _) in enumerate(chunk.refs()):
            message: Any = message_class("kudu.log.LogEntryBatchPB").FromString(bytes(chunk[i]))
            found.append((offset, message.entry[0].type == COMMIT))
    segment.close()
    return path, found


def cut_at(path: Path, offset: int) -> None:
    """As a crash leaves it: zeros from there on."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(offset)
        file.truncate(size)


@pytest.mark.parametrize("tablet", TABLETS)
def test_pending_operations_do_what_their_lost_commits_said(root: Path, tablet: str) -> None:
    path, found = batches(root, tablet)
    tried = 0
    for i in range(len(found) - 1, 0, -1):
        offset, is_commit = found[i]
        if not is_commit or found[i - 1][1]:
            continue
        # From the end on: all COMMITs behind the last REPLICATE, then one operation more each time.
        cut_at(path, offset)
        pending = read(root, tablet, include_pending=True)
        without = read(root, tablet)
        assert pending.report.pending and pending.report.problems == []
        if tried == 0:
            assert pending.report.checksum == SERVER.checksums[tablet]
            assert pending.tablet is not None
        assert pending.tablet is not None and without.tablet is not None
        sound_before = without.report.checksum
        assert pending.tablet.checksum(at=without.report.applied_timestamp + 1) == sound_before
        tried += 1
        if tried == 5:
            break
    assert tried


def changed(root: Path, tablet: str, change: Callable[[Any], None]) -> None:
    path = root / "wal" / "tablet-meta" / tablet
    message: Any = read_single(path, message_class(TYPE))
    change(message)
    write_superblock(path, message)


def forget_flushes(message: Any) -> None:
    message.last_durable_mrs_id = -1


def test_rows_that_are_flushed_and_inserted_again_are_named(leader: Path) -> None:
    changed(leader, ON_LEADER, forget_flushes)
    result = read(leader, ON_LEADER)
    assert result.tablet is None and result.report.row_operations["inserted"] > 0
    assert [p.kind for p in result.report.problems] == ["contradiction"]
    assert "live in two rowsets" in result.report.problems[0].detail


def test_a_change_of_a_row_that_its_rowset_lacks_is_a_contradiction(root: Path) -> None:
    """Two rowsets with their ids exchanged."""
    def exchange(message: Any) -> None:
        first, second = message.rowsets[0], message.rowsets[1]
        first.id, second.id = second.id, first.id
        first.last_durable_dms_id, second.last_durable_dms_id = second.last_durable_dms_id, first.last_durable_dms_id

    kinds = []
    for tablet in TABLETS:
        changed(root, tablet, exchange)
        result = read(root, tablet)
        kinds += [p.kind for p in result.report.problems]
        if result.tablet is not None and result.report.problems:
            bound = result.report.applied_timestamp + 1
            assert result.report.checksum == result.tablet.checksum(at=bound)
    assert set(kinds) == {"contradiction"}


def test_a_missing_block_is_named_and_shows_no_rows(root: Path) -> None:
    def lose(message: Any) -> None:
        message.rowsets[1].columns[0].block.id = 999_999

    changed(root, TABLETS[0], lose)
    result = read(root, TABLETS[0])
    assert result.tablet is None and result.report.rows == 0
    assert [p.kind for p in result.report.problems] == ["no_such_block"]


def test_without_a_superblock_no_rows_are_shown(root: Path) -> None:
    (root / "wal" / "tablet-meta" / TABLETS[0]).unlink()
    result = read(root, TABLETS[0])
    assert result.tablet is None
    assert [p.kind for p in result.report.problems] == ["missing_metadata"]


def test_a_commit_of_an_older_operation_into_a_store_that_is_not_flushed_is_told(leader: Path) -> None:
    """The first segment begins behind the REPLICATE: what it did is nowhere."""
    path, found = batches(leader, ON_LEADER)
    commits = [offset for offset, is_commit in found if is_commit]
    data = path.read_bytes()
    path.write_bytes(data[:found[0][0]] + data[commits[1]:])
    assert read(leader, ON_LEADER).report.problems == []
    changed(leader, ON_LEADER, forget_flushes)
    assert [p.kind for p in read(leader, ON_LEADER).report.problems] == ["missing_operations"]


def test_a_pending_insert_becomes_visible_when_asked_for(leader: Path) -> None:
    assert read(leader, ON_LEADER).report.pending == ["1.5"]
    asked = read(leader, ON_LEADER, include_pending=True)
    assert asked.report.rows == read(leader, ON_LEADER).report.rows + asked.report.row_operations["inserted"]
