"""What opening makes of tails and damage: cut only what a crash can have left, refuse the rest and change nothing."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from crash_disk import CrashedFolder, Fate, each_state, fates

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import CorruptionError, MissingOperations, NotFound
from kudu_storage.protos import message_class
from kudu_storage.wal.reader import open_segment
from kudu_storage.wal.verify import verify


def killed(path: Path, groups: list[list[bytes]], **options: object) -> Path:
    """A log's folder as SIGKILL leaves it, groups acknowledged one by one. Returns the last segment."""
    with Log.open(path / "alive", create=True, compression="none", **options) as log:  # type: ignore[arg-type]
        for group in groups:
            log.append_many(group).wait(timeout=60)
        shutil.copytree(path / "alive", path / "killed")
    return sorted((path / "killed").glob("wal-*"))[-1]


def contents(log: Log) -> list[bytes]:
    return [bytes(e.payload) for e in log.read()]


def offsets(segment: Path) -> list[int]:
    """Where its entries begin, and where the last one ends."""
    with open_segment(segment) as opened:
        found = [(offset, stored) for chunk in opened.scan() for offset, stored, _ in chunk.refs()]
    return [offset for offset, _ in found] + [found[-1][0] + 16 + found[-1][1]]


def change(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def require_refused(segment: Path, offset: int) -> None:
    before = {path.name: path.read_bytes() for path in segment.parent.iterdir()}
    with pytest.raises(CorruptionError) as caught:
        Log.open(segment.parent)
    assert caught.value.offset == offset
    after = {path.name: path.read_bytes() for path in segment.parent.iterdir()}
    assert after == before, "a log that is refused was changed"


def test_a_tail_torn_anywhere_is_cut_at_the_last_whole_entry(tmp_path: Path) -> None:
    groups = [[b"first"], [b"second" * 20], [b"third" * 30]]
    segment = killed(tmp_path, groups)
    whole, ends = segment.read_bytes(), offsets(segment)
    for size in range(ends[0], ends[-1] + 1):
        segment.write_bytes(whole[:size])
        with Log.open(segment.parent) as log:
            kept = sum(end <= size for end in ends[1:])
            assert contents(log) == [group[0] for group in groups[:kept]]
        assert verify(segment.parent).problems == ()


@pytest.mark.parametrize("place", ["length", "header checksum", "body"])
def test_damage_before_good_entries_is_refused_with_its_offset(place: str, tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"%d" % i * 200] for i in range(20)])
    offset = offsets(segment)[7]
    at = offset + {"length": 1, "header checksum": 13, "body": 60}[place]
    change(segment, at, bytes([segment.read_bytes()[at] ^ 0x10]))
    require_refused(segment, offset)


def test_a_few_zeros_before_good_entries_are_damage(tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"%d" % i * 2000] for i in range(10)])
    offset = offsets(segment)[4]
    change(segment, offset + 30, bytes(400))
    require_refused(segment, offset)


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_an_entry_that_lacks_a_sector_is_torn_whatever_follows(lost: int, tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"kept" * 300], [os.urandom(4000)], [b"later" * 100]])
    first = offsets(segment)[1]
    change(segment, (first // 512 + lost) * 512, bytes(512))
    with Log.open(segment.parent) as log:
        assert contents(log) == [b"kept" * 300]
        log.append(b"goes on").wait()
    assert verify(segment.parent).problems == ()


def test_a_payload_that_looks_like_an_entry_does_not_make_a_torn_one_damage(tmp_path: Path) -> None:
    inner = killed(tmp_path / "inner", [[b"inside"]])
    start, end = offsets(inner)
    entry = inner.read_bytes()[start:end]
    segment = killed(tmp_path, [[b"kept"], [b"." * 100 + entry + b"." * 5000]])
    offset = offsets(segment)[1]
    change(segment, offset + 3000, b"\xff")
    with Log.open(segment.parent) as log:
        assert contents(log) == [b"kept"]


def test_a_segment_whose_header_was_wiped_is_not_thrown_away(tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"acknowledged"]])
    change(segment, 0, bytes(64))
    require_refused(segment, 0)


@pytest.mark.parametrize("content", [b"", bytes(65536)])
def test_a_last_segment_that_never_got_its_header_is_removed(content: bytes, tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"kept"]])
    segment.with_name("wal-000000002").write_bytes(content)
    with Log.open(segment.parent) as log:
        assert contents(log) == [b"kept"]
        log.append(b"more").wait()
    assert verify(segment.parent).problems == ()


def test_a_footer_torn_at_any_byte_is_written_again(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log", create=True) as log:
        log.append_many([b"a", b"b"]).wait()
    path = tmp_path / "log" / "wal-000000001"
    closed = path.read_bytes()
    with open_segment(path) as segment:
        footer = segment.end_offset
    for cut in range(footer, len(closed)):
        for torn in (closed[:cut], closed[:cut] + bytes(len(closed) - cut), closed[:footer] + bytes(cut - footer)
                     + closed[cut:], closed + bytes(100)):
            path.write_bytes(torn)
            with Log.open(tmp_path / "log") as log:
                assert contents(log) == [b"a", b"b"]
            assert verify(tmp_path / "log").problems == ()


def test_operations_missing_between_segments_are_named(tmp_path: Path) -> None:
    for name, groups in (("long", 12), ("short", 3)):
        with Log.open(tmp_path / name, create=True, segment_size="16KiB", compression="none") as log:
            for _ in range(groups):
                log.append(bytes(3000)).wait()
    # As if the first segment had lost its end, which can be where nothing was synced.
    shutil.copy(tmp_path / "short" / "wal-000000001", tmp_path / "long" / "wal-000000001")
    with pytest.raises(MissingOperations, match="operation 3 is followed by operation 6"):
        Log.open(tmp_path / "long")


def test_an_empty_log_is_still_a_log(tmp_path: Path) -> None:
    Log.open(tmp_path / "new", create=True).close()
    with Log.open(tmp_path / "new") as log:
        log.append_many([b"a", b"b"]).wait()
        log.truncate_after(0)
    with Log.open(tmp_path / "new") as log:
        assert log.last.index == 0
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFound):
        Log.open(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_truncation_looks_behind_segments_that_hold_only_commits(tmp_path: Path) -> None:
    def commits(first: int, count: int) -> list[object]:
        return [message_class("kudu.consensus.CommitMsg")(op_type=4, commited_op_id={"term": 1, "index": first})
                for _ in range(count)]

    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none") as log:
        log.append_many([b"%d" % i * 1500 for i in range(8)]).wait()
        for _ in range(3):
            log.append_commit(*commits(2, 1000))
            log.append_commit(*commits(3, 1000))
        log.append(b"last").wait()
        assert log.stats()["segments"] > 2
        log.truncate_after(4)
        assert [e.index for e in log.read()] == [1, 2, 3, 4]
    with Log.open(tmp_path) as log:
        assert log.last.index == 4
        log.append(b"new").wait()
        assert contents(log) == [b"%d" % i * 1500 for i in range(4)] + [b"new"]
    assert verify(tmp_path).problems == ()


def test_a_crash_while_a_torn_tail_is_cut_does_not_make_it_damage(tmp_path: Path) -> None:
    segment = killed(tmp_path, [[b"kept" * 300], [os.urandom(700)], [b"later" * 300]])
    first = offsets(segment)[1]
    change(segment, first, bytes(512 - first % 512))            # the sector that was lost, where the footer will be
    start = {"wal-000000001": segment.read_bytes()}
    disk = RecordingDisk()
    Log.open(segment.parent, disk=disk).close()
    for made in range(len(disk) + 1):
        chosen = [fate for seed in range(8) for fate in fates(seed, 8)]
        each_state(CrashedFolder(segment.parent, disk.calls()[:made], start), iter(chosen), require_kept)


def test_what_is_written_behind_a_recovered_segment_survives_wherever_its_footer_fell(tmp_path: Path) -> None:
    """It is not the last one any more: half a footer at its end would be damage."""
    def require_both(path: Path, digest: bytes, fate: Fate) -> None:
        with Log.open(path) as log:
            assert [payload[:3] for payload in contents(log)] == [b"old", b"new"], fate

    split = 0
    for size in range(360, 420, 4):
        segment = killed(tmp_path / str(size), [[b"old" + bytes(size)]])
        start, end = {"wal-000000001": segment.read_bytes()}, offsets(segment)[-1]
        disk = RecordingDisk()
        with Log.open(segment.parent, disk=disk) as log:
            log.append(b"new").wait()
            calls = disk.calls()
        split += end // 512 < (segment.stat().st_size - 1) // 512
        each_state(CrashedFolder(segment.parent, calls, start), fates(size, 8), require_both)
    assert split > 5, "no footer lay in two sectors"


def require_kept(path: Path, digest: bytes, fate: Fate) -> None:
    with Log.open(path) as log:
        assert contents(log) == [b"kept" * 300]
    assert verify(path).problems == ()
