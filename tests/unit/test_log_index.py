"""The dense index: chunks of real servers, rebuilt ones against them and a model, cuts, and all that can be wrong."""
from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root
from hypothesis import given, settings
from hypothesis import strategies as st
from random_log import random_log

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_index import SLOT_BYTES, SlotCollector
from kudu_storage.errors import BadChecksum, BadFormat, DiskError, InvalidArgument, NotFound
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal import log_index
from kudu_storage.wal.log_index import (
    CHUNK_BYTES,
    SLOTS_PER_CHUNK,
    IndexReader,
    IndexSlot,
    chunk_name,
    clear_above,
    list_chunks,
    rebuild,
    refresh,
    remove_below,
)
from kudu_storage.wal.reader import Segment, list_segments, open_segment

REPLAY = Path(__file__).resolve().parents[1] / "golden" / "replay"
Slots = dict[int, tuple[int, int, int]]
OpIds = list[tuple[int, int]]


# -- logs to index -----------------------------------------------------------------------------------------------------
def replicate(term: int, index: int) -> Any:
    entry: Any = message_class("kudu.log.LogEntryPB")(type=1)
    entry.replicate.id.term, entry.replicate.id.index = term, index
    entry.replicate.timestamp, entry.replicate.op_type = 4096, 1
    return entry


def commit(term: int, index: int) -> Any:
    entry: Any = message_class("kudu.log.LogEntryPB")(type=2)
    entry.commit.op_type = 1
    entry.commit.commited_op_id.term, entry.commit.commited_op_id.index = term, index
    return entry


def header(sequence: int) -> Any:
    made: Any = message_class("kudu.log.LogSegmentHeaderPB")(tablet_id=b"t", sequence_number=sequence)
    made.schema.SetInParent()
    return made


def write_log(folder: Path, segments: list[list[list[Any]]], *, codec: spec.Codec = spec.Codec.LZ4) -> Slots:
    """Segments of batches of entries, numbered from 1, all but the last one closed; the slots they must give."""
    slots: Slots = {}
    for sequence, batches in enumerate(segments, start=1):
        footer = spec.footer_of(batches) if sequence < len(segments) else None
        data = spec.build_segment(header(sequence), batches, codec, footer=footer)
        (folder / f"wal-{sequence:09d}").write_bytes(data)
        slots = apply(slots, data)
    return slots


def apply(slots: Slots, data: bytes) -> Slots:
    """The model: protobuf reads each batch of the segment, and an operation voids all from its index on."""
    segment = spec.parse_segment(data)
    batches, _ = spec.read_batches(data, segment)
    for batch in batches:
        for entry in message_class("kudu.log.LogEntryBatchPB").FromString(batch.data).entry:  # type: ignore[attr-defined]
            if entry.type == 1:
                at = entry.replicate.id
                slots = {index: slot for index, slot in slots.items() if index < at.index}
                slots[at.index] = (at.term, segment.header.sequence_number, batch.offset)
    return slots


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[list[Segment]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_segment(file.path)) for file in list_segments(folder)]


def rebuild_from(folder: Path, target: Path | None = None) -> int:
    with opened(folder) as segments:
        return rebuild(target or folder, segments)


def chunk_slots(path: Path) -> Slots:
    """All used slots of a chunk, without the reader. Chunks are sparse: only what has data is read."""
    number, found = int(path.name.split(".")[1]), {}
    with open(path, "rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            first = at // SLOT_BYTES
            data = os.pread(file.fileno(), end - first * SLOT_BYTES, first * SLOT_BYTES)
            for slot in range(len(data) // SLOT_BYTES):
                fields = struct.unpack_from("<qQQ", data, slot * SLOT_BYTES)
                if any(fields):
                    found[number * SLOTS_PER_CHUNK + first + slot] = fields
            at = end
    return found


def all_slots(folder: Path) -> Slots:
    found: Slots = {}
    for path in sorted(folder.glob("index.*")):
        found.update(chunk_slots(path))
    return found


def ops(*ids: tuple[int, int]) -> list[list[Any]]:
    """Batches of one REPLICATE each."""
    return [[replicate(*op)] for op in ids]


# -- chunks of real servers --------------------------------------------------------------------------------------------
def real_folders() -> list[Path]:
    stored = fixtures_root()
    roots = [REPLAY, *([stored / "kudu-fixtures"] if stored else [])]
    return sorted(path.parent for root in roots for path in root.glob("*/*/wals/*/index.000000000")
                  if path.parts[-5] != "damaged")


def case_name(folder: Path) -> str:
    return "/".join((folder.parts[-4], folder.parts[-3], folder.name[:4]))


@pytest.mark.parametrize("folder", real_folders(), ids=case_name)
def test_a_rebuilt_index_is_the_one_that_the_real_server_wrote(folder: Path, tmp_path: Path) -> None:
    """Slot by slot, for operations that the segments still hold: of the stored chunks only the unused end is cut off.

    A server's chunk can have two kinds of slots beyond ours: those of operations whose segments were collected (a chunk
    is removed only as a whole; s16 has some), and, where a log ends below operations that were replaced, those above
    its end, which nobody clears (no stored log ends so; test_a_replaced_operation_and_all_above_it_leave_no_slot).
    """
    count = rebuild_from(folder, tmp_path)
    ours, theirs = all_slots(tmp_path), chunk_slots(folder / "index.000000000")
    first_kept = min(ours)
    collected = {index: slot for index, slot in theirs.items() if index < first_kept}
    assert ours == {index: slot for index, slot in theirs.items() if index >= first_kept}
    assert count == len(ours)
    first_segment = min(file.sequence or 0 for file in list_segments(folder))
    assert all(sequence < first_segment for _, sequence, _ in collected.values())
    assert bool(collected) == ("s16" in str(folder))


def test_the_reader_finds_every_slot_of_a_real_chunk_and_the_batch_it_names() -> None:
    (folder,) = (REPLAY / "r03_replaced_ops" / "t1" / "wals").iterdir()
    known = chunk_slots(folder / "index.000000000")
    with IndexReader(folder) as reader, opened(folder) as segments:
        for index, slot in known.items():
            found = reader.lookup(index)
            assert found == IndexSlot(*slot)
            (batch,) = segments[0].batch_at(found.offset)
            entries = message_class("kudu.log.LogEntryBatchPB").FromString(batch).entry  # type: ignore[attr-defined]
            assert (found.term, index) in [(e.replicate.id.term, e.replicate.id.index) for e in entries]
        assert reader.lookup(0) is None
        assert reader.lookup(max(known) + 1) is None
        assert reader.lookup(SLOTS_PER_CHUNK) is None


# -- rebuilding --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", list(spec.Codec))
def test_all_operations_of_a_batch_have_the_offset_of_the_batch(tmp_path: Path, codec: spec.Codec) -> None:
    batches = [[replicate(1, 1), replicate(1, 2), replicate(1, 3)], [commit(1, 1)], [replicate(1, 4)]]
    expected = write_log(tmp_path, [batches], codec=codec)
    assert rebuild_from(tmp_path) == 4
    found = all_slots(tmp_path)
    assert found == expected
    assert len({found[index] for index in (1, 2, 3)}) == 1 and found[4][2] > found[1][2]


def test_a_chunk_has_exactly_the_size_that_kudu_gives_it_and_little_on_the_disk(tmp_path: Path) -> None:
    write_log(tmp_path, [ops((1, 1))])
    rebuild_from(tmp_path)
    stat = (tmp_path / chunk_name(0)).stat()
    assert stat.st_size == CHUNK_BYTES == 24_000_000
    assert stat.st_blocks * 512 <= 64 << 10


def test_a_replaced_operation_and_all_above_it_leave_no_slot(tmp_path: Path) -> None:
    log = [ops((1, 1), (1, 2), (1, 3), (1, 4), (1, 5)), ops((2, 3), (2, 4))]
    expected = write_log(tmp_path, log)
    assert rebuild_from(tmp_path) == 4
    assert all_slots(tmp_path) == expected
    with IndexReader(tmp_path) as reader:
        assert [reader.lookup(i) and reader.lookup(i)[:2] for i in range(6)] == [  # type: ignore[index]
            None, (1, 1), (1, 1), (2, 2), (2, 2), None]


def test_operations_fill_one_chunk_after_the_other(tmp_path: Path) -> None:
    first = SLOTS_PER_CHUNK - 3
    one_batch = [replicate(1, first + n) for n in range(6)]
    expected = write_log(tmp_path, [[one_batch], ops((1, first + 6))])
    assert rebuild_from(tmp_path) == 7
    assert list_chunks(tmp_path) == [0, 1]
    assert all_slots(tmp_path) == expected
    with IndexReader(tmp_path) as reader:
        for index, slot in expected.items():
            assert reader.lookup(index) == IndexSlot(*slot)


def test_operations_replaced_back_into_the_chunk_before_leave_no_chunk_behind(tmp_path: Path) -> None:
    edge = SLOTS_PER_CHUNK
    expected = write_log(tmp_path, [ops(*[(1, edge + n) for n in range(-3, 3)], (2, edge - 1))])
    (tmp_path / chunk_name(7)).write_bytes(b"\1" * 100)       # of an older life of this log
    assert rebuild_from(tmp_path) == 3
    assert all_slots(tmp_path) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.000000000", "wal-000000001"]


def test_a_log_without_operations_has_no_chunk(tmp_path: Path) -> None:
    write_log(tmp_path, [[[commit(1, 1)]]])
    (tmp_path / chunk_name(0)).write_bytes(bytes(48))
    assert rebuild_from(tmp_path) == 0
    assert list_chunks(tmp_path) == []


def test_index_zero_has_no_slot(tmp_path: Path) -> None:
    write_log(tmp_path, [[[replicate(0, 0)], [replicate(1, 1)]]])
    assert rebuild_from(tmp_path) == 1
    assert set(all_slots(tmp_path)) == {1}


def test_a_torn_tail_ends_the_index_where_the_log_ends(tmp_path: Path) -> None:
    expected = write_log(tmp_path, [ops((1, 1), (1, 2), (1, 3))])
    path = tmp_path / "wal-000000001"
    path.write_bytes(path.read_bytes()[:-1])
    assert rebuild_from(tmp_path) == 2
    assert all_slots(tmp_path) == {index: expected[index] for index in (1, 2)}


def test_damage_is_an_error_and_the_old_chunks_stay(tmp_path: Path) -> None:
    expected = write_log(tmp_path, [ops((1, 1), (1, 2), (1, 3)), ops((1, 4))])
    rebuild_from(tmp_path)
    path = tmp_path / "wal-000000001"
    data = bytearray(path.read_bytes())
    data[expected[2][2] + 18] ^= 1
    path.write_bytes(data)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BadChecksum):
        rebuild_from(tmp_path)
    assert all_slots(tmp_path) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def malformed_log(folder: Path, *, closed: bool) -> int:
    """Operation 1, then a batch that passes its checksum and is a REPLICATE and nonsense; the offset of that one."""
    bad = message_class("kudu.log.LogEntryBatchPB")(entry=[replicate(1, 2)]).SerializeToString() + b"\x0a\x7f"  # type: ignore[call-arg]
    data = spec.build_segment(header(1), ops((1, 1)), spec.Codec.NONE)
    offset = len(data)
    data += spec.build_entry(bad, spec.Codec.NONE)
    if closed:
        data += spec.build_footer(spec.footer_of(ops((1, 1))))
    (folder / "wal-000000001").write_bytes(data)
    return offset


def test_a_batch_that_is_no_batch_is_an_error_in_a_closed_segment(tmp_path: Path) -> None:
    offset = malformed_log(tmp_path, closed=True)
    with pytest.raises(BadFormat) as caught:
        rebuild_from(tmp_path)
    assert caught.value.offset == offset and list_chunks(tmp_path) == []


def test_a_batch_that_is_no_batch_ends_an_open_segment_as_it_does_for_kudu(tmp_path: Path) -> None:
    malformed_log(tmp_path, closed=False)
    assert rebuild_from(tmp_path) == 1
    assert set(all_slots(tmp_path)) == {1}


def test_nothing_is_taken_after_a_malformed_batch(tmp_path: Path) -> None:
    malformed_log(tmp_path, closed=True)
    with opened(tmp_path) as (segment,):
        chunk = segment.scanner().next_chunk()
        assert chunk is not None
        collector = SlotCollector(9)
        slots, runs = collector.take(chunk)
        assert struct.unpack("<qQQ", slots)[:2] == (1, 9) and runs == [(1, 1)]
        with pytest.raises(InvalidArgument):
            collector.take(chunk)
    with pytest.raises(InvalidArgument):
        SlotCollector(-1)


def test_segments_out_of_order_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [ops((1, 1)), ops((1, 2))])
    with opened(tmp_path) as segments, pytest.raises(InvalidArgument, match="listed behind"):
        rebuild(tmp_path, reversed(segments))
    assert list_chunks(tmp_path) == []


def test_leftovers_of_a_rebuild_that_a_crash_ended_are_removed(tmp_path: Path) -> None:
    write_log(tmp_path, [ops((1, 1))])
    (tmp_path / "index.000000003.kudutmp.abc123").write_bytes(b"x")
    (tmp_path / ".kudutmp.newsegmentabc").write_bytes(b"x")       # the writer's
    rebuild_from(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kudutmp.newsegmentabc", "index.000000000", "wal-000000001"]


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "ftruncate"])
def test_a_failing_disk_is_a_disk_error_and_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                     call: str) -> None:
    expected = write_log(tmp_path, [ops((1, 1), (1, 2))])
    rebuild_from(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_index.os, call, fail)
        with pytest.raises(DiskError, match="No space left"):
            rebuild_from(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert all_slots(tmp_path) == expected


def test_a_chunk_is_synced_before_it_takes_its_name_and_the_folder_after(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, [ops((1, SLOTS_PER_CHUNK - 1), (1, SLOTS_PER_CHUNK))])
    calls: list[str] = []
    fsync, rename, sync_directory = os.fsync, os.rename, log_index.sync_directory
    monkeypatch.setattr(log_index.os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(log_index.os, "rename", lambda a, b: (calls.append("rename"), rename(a, b)))
    monkeypatch.setattr(log_index, "sync_directory", lambda path: (calls.append("folder"), sync_directory(path)))
    rebuild_from(tmp_path)
    assert calls == ["sync", "sync", "rename", "rename", "folder", "sync"]     # the last one is the folder's own


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_any_log_gives_the_slots_that_protobuf_and_the_slow_reader_give(tmp_path_factory: pytest.TempPathFactory,
                                                                        seed: int) -> None:
    folder, log, expected = tmp_path_factory.mktemp("log"), random_log(seed), {}
    for number, data in enumerate(log.segments, start=1):
        (folder / f"wal-{number:09d}").write_bytes(data)
        expected = apply(expected, data)
    assert rebuild_from(folder) == len(expected)
    assert all_slots(folder) == expected
    assert max(expected) == log.last_opid.index


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(-6, 6), st.integers(1, 4)), min_size=1, max_size=5), max_size=6))
def test_jumps_back_and_forth_over_the_edge_of_a_chunk_give_the_model_s_slots(
        tmp_path_factory: pytest.TempPathFactory, log: list[list[tuple[int, int]]]) -> None:
    folder = tmp_path_factory.mktemp("log")
    segments = [[[replicate(term, SLOTS_PER_CHUNK + start + n) for n in range(length)]
                 for term, (start, length) in enumerate(batches, start=1)] for batches in log]
    expected = write_log(folder, segments) if segments else {}
    assert rebuild_from(folder) == len(expected)
    assert all_slots(folder) == expected
    assert list_chunks(folder) == sorted({index // SLOTS_PER_CHUNK for index in expected})


# -- the newest segments only ------------------------------------------------------------------------------------------
def refresh_from(folder: Path, first: int) -> int:
    with opened(folder) as segments:
        return refresh(folder, [segment for segment in segments if segment.sequence >= first])


def test_refreshing_writes_the_slots_of_the_newest_segments_into_the_chunks_that_are_there(tmp_path: Path) -> None:
    expected = write_log(tmp_path, [ops((1, 1), (1, 2)), ops((1, 3)), ops((1, 4))])
    rebuild_from(tmp_path)
    clear_above(tmp_path, 2)
    inode = (tmp_path / chunk_name(0)).stat().st_ino
    assert refresh_from(tmp_path, 2) == 2
    assert all_slots(tmp_path) == expected
    assert (tmp_path / chunk_name(0)).stat().st_ino == inode


def test_refreshing_makes_missing_chunks_of_the_right_size_and_leaves_older_operations_unknown(tmp_path: Path) -> None:
    edge = SLOTS_PER_CHUNK
    expected = write_log(tmp_path, [ops((1, edge - 2)), ops((1, edge - 1), (1, edge))])
    assert refresh_from(tmp_path, 2) == 2
    assert all_slots(tmp_path) == {index: slot for index, slot in expected.items() if slot[1] == 2}
    assert [(tmp_path / chunk_name(chunk)).stat().st_size for chunk in (0, 1)] == [CHUNK_BYTES] * 2


def test_refreshing_clears_what_the_newest_segments_replaced_and_what_is_above_their_end(tmp_path: Path) -> None:
    edge = SLOTS_PER_CHUNK
    older = ops(*[(1, edge + n) for n in range(-4, 3)])
    expected = write_log(tmp_path, [older, ops((2, edge - 2), (2, edge - 1), (3, edge - 2))])
    with opened(tmp_path) as segments:
        rebuild(tmp_path, segments[:1])
    assert refresh_from(tmp_path, 2) == 1
    assert all_slots(tmp_path) == expected
    assert list_chunks(tmp_path) == [0]


def test_refreshing_from_segments_without_operations_changes_nothing(tmp_path: Path) -> None:
    expected = write_log(tmp_path, [ops((1, 1)), [[commit(1, 1)]]])
    rebuild_from(tmp_path)
    assert refresh_from(tmp_path, 2) == 0
    assert all_slots(tmp_path) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_an_index_of_the_older_segments_refreshed_from_the_newer_ones_is_the_whole_index(
        tmp_path_factory: pytest.TempPathFactory, seed: int, older: int) -> None:
    folder, log, expected = tmp_path_factory.mktemp("log"), random_log(seed), {}
    for number, data in enumerate(log.segments, start=1):
        (folder / f"wal-{number:09d}").write_bytes(data)
        expected = apply(expected, data)
    with opened(folder) as segments:
        rebuild(folder, segments[:older])
        refresh(folder, segments[older:])
    assert all_slots(folder) == expected


# -- reading what is not right -----------------------------------------------------------------------------------------
def put_slot(path: Path, slot: int, fields: tuple[int, int, int]) -> None:
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.seek(slot * SLOT_BYTES)
        file.write(struct.pack("<qQQ", *fields))


def test_missing_short_and_empty_chunks_know_nothing(tmp_path: Path) -> None:
    put_slot(tmp_path / chunk_name(0), 5, (1, 1, 99))
    (tmp_path / chunk_name(1)).write_bytes(b"")
    with IndexReader(tmp_path) as reader:
        assert reader.lookup(5) == IndexSlot(1, 1, 99)
        assert [reader.lookup(i) for i in (0, 4, 6, SLOTS_PER_CHUNK, 2 * SLOTS_PER_CHUNK, (1 << 63) - 1)] == [None] * 6
    with open(tmp_path / chunk_name(0), "r+b") as file:
        file.truncate(5 * SLOT_BYTES + 23)
    with IndexReader(tmp_path) as reader:
        assert reader.lookup(5) is None
    with IndexReader(tmp_path / "nowhere") as reader:
        assert reader.lookup(5) is None


@pytest.mark.parametrize("fields", [(1, 1, 0), (-1, 1, 99), (1, 1 << 63, 99), (1, 1, 1 << 63)])
def test_slots_that_no_log_could_have_written_know_nothing(tmp_path: Path, fields: tuple[int, int, int]) -> None:
    put_slot(tmp_path / chunk_name(0), 5, fields)
    with IndexReader(tmp_path) as reader:
        assert reader.lookup(5) is None


def test_negative_indexes_are_refused(tmp_path: Path) -> None:
    with IndexReader(tmp_path) as reader, pytest.raises(InvalidArgument):
        reader.lookup(-1)
    with pytest.raises(InvalidArgument):
        clear_above(tmp_path, -1)


def test_a_chunk_that_cannot_be_read_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / chunk_name(0)).mkdir()
    with IndexReader(tmp_path) as reader, pytest.raises(DiskError):
        reader.lookup(5)


def test_a_chunk_that_appears_later_is_found_and_one_that_was_replaced_after_invalidate(tmp_path: Path) -> None:
    path = tmp_path / chunk_name(0)
    with IndexReader(tmp_path) as reader:
        assert reader.lookup(5) is None
        put_slot(path, 5, (1, 1, 99))
        assert reader.lookup(5) == IndexSlot(1, 1, 99)
        put_slot(path, 6, (1, 1, 100))                  # the writer goes on in the same file
        assert reader.lookup(6) == IndexSlot(1, 1, 100)
        other = tmp_path / "other"
        put_slot(other, 5, (2, 2, 200))
        other.rename(path)
        assert reader.lookup(5) == IndexSlot(1, 1, 99)
        reader.invalidate()
        assert reader.lookup(5) == IndexSlot(2, 2, 200)


def test_few_chunks_are_open_at_a_time_and_none_after_close(tmp_path: Path) -> None:
    for chunk in range(12):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, chunk, 99))
    before = len(os.listdir("/proc/self/fd"))
    reader = IndexReader(tmp_path)
    for chunk in [*range(12), 0, 11]:
        found = reader.lookup(chunk * SLOTS_PER_CHUNK + 5)
        assert found is not None and found.segment_sequence == chunk
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_that_look_up_while_another_invalidates_never_see_another_file(tmp_path: Path) -> None:
    for chunk in range(6):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, chunk, 99))
    reader, wrong = IndexReader(tmp_path), []

    def look(start: int) -> None:
        for step in range(600):
            chunk = (start + step) % 6
            found = reader.lookup(chunk * SLOTS_PER_CHUNK + 5)
            if found != IndexSlot(1, chunk, 99):
                wrong.append((chunk, found))

    threads = [threading.Thread(target=look, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reader.invalidate()
    for thread in threads:
        thread.join()
    reader.close()
    assert not wrong


@pytest.mark.parametrize("name", ["index.00000000", "index.0000000000", "index.000000000.kudutmp.x", "index.00000000a",
                                  "xindex.000000000", "index.000000000 "])
def test_only_the_names_that_kudu_gives_are_chunks(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "index.1234567890").write_bytes(b"")
    assert list_chunks(tmp_path) == [1234567890]


# -- cutting -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", [0, 1, 4, 5, 6])
def test_no_slot_above_the_cut_is_left_and_all_below_are(tmp_path: Path, index: int) -> None:
    expected = write_log(tmp_path, [ops(*[(1, n) for n in range(1, 6)])])
    rebuild_from(tmp_path)
    clear_above(tmp_path, index)
    assert all_slots(tmp_path) == {i: slot for i, slot in expected.items() if i <= index}
    assert (tmp_path / chunk_name(0)).stat().st_size == CHUNK_BYTES


@pytest.mark.parametrize("below", [2, 1, 0, -1])
def test_a_cut_removes_the_chunks_wholly_above_it(tmp_path: Path, below: int) -> None:
    edge = SLOTS_PER_CHUNK
    expected = write_log(tmp_path, [[[replicate(1, edge + n) for n in range(-2, 3)], [replicate(1, 3 * edge)]]])
    rebuild_from(tmp_path)
    assert list_chunks(tmp_path) == [0, 1, 3]
    index = edge - below
    clear_above(tmp_path, index)
    assert all_slots(tmp_path) == {i: slot for i, slot in expected.items() if i <= index}
    assert set(list_chunks(tmp_path)) <= {0, 1}


def test_a_cut_of_a_short_chunk_gives_it_its_size(tmp_path: Path) -> None:
    put_slot(tmp_path / chunk_name(0), 5, (1, 1, 99))
    clear_above(tmp_path, 100)
    assert all_slots(tmp_path) == {5: (1, 1, 99)}
    assert (tmp_path / chunk_name(0)).stat().st_size == CHUNK_BYTES


def test_a_reader_sees_the_cut_at_once(tmp_path: Path) -> None:
    write_log(tmp_path, [ops((1, 1), (1, 2))])
    rebuild_from(tmp_path)
    with IndexReader(tmp_path) as reader:
        assert reader.lookup(2) is not None
        clear_above(tmp_path, 1)
        assert reader.lookup(2) is None and reader.lookup(1) is not None


def test_chunks_below_what_is_kept_go_only_as_a_whole(tmp_path: Path) -> None:
    for chunk in (0, 1, 2):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, 1, 99))
    assert remove_below(tmp_path, SLOTS_PER_CHUNK - 1) == []
    assert remove_below(tmp_path, 2 * SLOTS_PER_CHUNK - 1) == ["index.000000000"]
    assert list_chunks(tmp_path) == [1, 2]


def calls_of(disk: RecordingDisk) -> list[tuple[str, str]]:
    """(kind, name of the file or folder)."""
    names: dict[int, str] = {}
    found = []
    for kind, fd, status, _, _, _, data in disk.calls():
        if kind == "open" and status >= 0:
            names[status] = os.path.basename(data.decode())
        found.append((kind, names[fd] if fd in names else os.path.basename(data.decode())))
    return found


def test_cutting_goes_through_the_disk(tmp_path: Path) -> None:
    for chunk in (0, 1, 2):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, 1, 99))
    disk = RecordingDisk()
    clear_above(tmp_path, 3, disk)
    assert calls_of(disk) == [
        ("unlink", chunk_name(2)), ("unlink", chunk_name(1)), ("open", chunk_name(0)), ("truncate", chunk_name(0)),
        ("truncate", chunk_name(0)), ("sync", chunk_name(0)), ("close", chunk_name(0)), ("sync_dir", tmp_path.name)]
    assert list_chunks(tmp_path) == [0]


def test_removing_chunks_goes_through_the_disk(tmp_path: Path) -> None:
    for chunk in (0, 1):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, 1, 99))
    disk = RecordingDisk()
    disk.fail("unlink", 1, errno.EIO)
    with pytest.raises(DiskError, match=chunk_name(0)):
        remove_below(tmp_path, SLOTS_PER_CHUNK, disk)
    assert remove_below(tmp_path, SLOTS_PER_CHUNK, disk) == [chunk_name(0)]
    assert calls_of(disk)[-1] == ("unlink", chunk_name(0))
    assert list_chunks(tmp_path) == [1]


@pytest.mark.parametrize("call", ["open", "truncate", "sync", "sync_dir", "unlink"])
def test_a_cut_that_fails_says_so(call: str, tmp_path: Path) -> None:
    for chunk in (0, 1):
        put_slot(tmp_path / chunk_name(chunk), 5, (1, 1, 99))
    disk = RecordingDisk()
    disk.fail(call, 1, errno.EIO)
    with pytest.raises(DiskError) as caught:
        clear_above(tmp_path, 3, disk)
    assert caught.value.errno == errno.EIO
    clear_above(tmp_path, 3, disk)
    assert all_slots(tmp_path) == {}


def test_a_log_cuts_and_collects_its_index_through_its_disk(tmp_path: Path) -> None:
    first = 2 * SLOTS_PER_CHUNK - 10
    disk = RecordingDisk()
    write_log(tmp_path, [[[replicate(1, first)]], [[replicate(1, first + 1)]]])
    put_slot(tmp_path / chunk_name(0), 5, (1, 1, 99))
    options: dict[str, Any] = {"disk": disk, "segment_size": "16KiB", "compression": "none"}
    with Log.open(tmp_path, **options) as log:
        for _ in range(40):
            log.append(bytes(1000)).wait()
        log.truncate_after(log.last.index - 1)
        assert ("sync", chunk_name(2)) in calls_of(disk)
        log.gc()
        assert ("unlink", chunk_name(0)) in calls_of(disk)
        assert 0 not in list_chunks(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for call in (lambda: clear_above(nowhere, 1), lambda: remove_below(nowhere, 1), lambda: rebuild(nowhere, []),
                 lambda: list_chunks(nowhere)):
        with pytest.raises(NotFound, match="nowhere"):
            call()
