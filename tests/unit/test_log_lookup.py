"""Single operations by index: from wherever they are, whatever the index files say, and never a wrong one."""
from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage._native.entry import parse_batch
from kudu_storage._native.log_entries import Entry, EntryIterator
from kudu_storage._native.log_lookup import Places, SegmentPlaces
from kudu_storage._native.segment import read_batch_at
from kudu_storage.errors import (
    Collected,
    CorruptionError,
    InvalidArgument,
    KuduStorageError,
    LogClosed,
    NotYetWritten,
)
from kudu_storage.protos import message_class
from kudu_storage.wal.log_truncation import encode_entry

CODECS = ["none", "lz4", "snappy", "zlib"]


def payload(index: int) -> bytes:
    return b"%d-" % index * (index % 40)


def fill(folder: Path, count: int, batch: int, compression: str = "none") -> None:
    with Log.open(folder, create=True, durability="os", segment_size="16KiB", compression=compression) as log:
        for start in range(1, count + 1, batch):
            log.append_many([payload(i) for i in range(start, min(start + batch, count + 1))]).wait()


@pytest.fixture(params=["nothing cached", "all cached"])
def cache_size(request: pytest.FixtureRequest) -> int:
    return 0 if request.param == "nothing cached" else 16 << 20


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("batch", [1, 7, 200])
def test_get_finds_every_operation_of_closed_and_open_segments(batch: int, compression: str, cache_size: int,
                                                               tmp_path: Path) -> None:
    fill(tmp_path, 1000, batch, compression)
    with Log.open(tmp_path, durability="os", cache_size=cache_size, compression=compression) as log:
        for index in range(1001, 1100):
            log.append(payload(index))
        log.flush()
        for index in random.Random(batch).sample(range(1, 1100), 1099):
            entry = log.get(index)
            assert (entry.index, bytes(entry), entry.is_user) == (index, payload(index), True)
        for wrong, error in ((1100, NotYetWritten), (0, InvalidArgument), (-1, InvalidArgument)):
            with pytest.raises(error):
                log.get(wrong)
    with pytest.raises(LogClosed):
        log.get(1)


@pytest.mark.parametrize("compression", CODECS)
def test_payloads_are_those_of_the_entries(compression: str, tmp_path: Path) -> None:
    fill(tmp_path, 500, 3, compression)
    with Log.open(tmp_path) as log:
        expected = [payload(i) for i in range(1, 501)]
        assert list(log.payloads()) == expected
        assert list(log.payloads(400)) == expected[399:]
        assert list(log.payloads(501)) == []
        some = list(log.payloads(10, max_bytes=100))
        assert some == expected[9:9 + len(some)]
        assert sum(map(len, some)) >= 100 > sum(map(len, some[:-1]))
        with pytest.raises(NotYetWritten):
            log.payloads(502)


def test_commits_between_operations_do_not_confuse_places(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, durability="os", segment_size="16KiB", compression="none") as log:
        for index in range(1, 600):
            log.append_replicate(replicate(1, index, payload=payload(index)))
            for _ in range(index % 3):
                log.append_commit(commit(1, index))
        log.flush()
    with Log.open(tmp_path) as log:
        assert [bytes(log.get(i)) for i in range(1, 600)] == [payload(i) for i in range(1, 600)]


@pytest.mark.parametrize("harm", ["missing", "empty", "zeros", "noise", "shifted"])
def test_an_index_that_is_wrong_costs_time_and_nothing_else(harm: str, tmp_path: Path) -> None:
    fill(tmp_path, 800, 2)
    path = tmp_path / "index.000000000"
    size = path.stat().st_size
    data = path.read_bytes()[:24 * 900]
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "zeros": bytes(len(data)), "noise": random.Random(1).randbytes(len(data)),
                          "shifted": data[24 * 5:]}[harm])
        os.truncate(path, size)
    with Log.open(tmp_path) as log:
        for index in (1, 2, 3, 400, 799, 800, *range(1, 801)):
            assert bytes(log.get(index)) == payload(index)


def test_operations_that_go_are_not_found_any_more(tmp_path: Path) -> None:
    fill(tmp_path, 1000, 1)
    with Log.open(tmp_path, segment_size="16KiB") as log:
        assert [bytes(log.get(i)) for i in range(1, 1001)] == [payload(i) for i in range(1, 1001)]
        log.truncate_after(700)
        with pytest.raises(NotYetWritten):
            log.get(701)
        for index in range(701, 900):
            log.append(b"again %d" % index)
        log.flush()
        assert [bytes(log.get(i)) for i in range(690, 900)] == [
            *(payload(i) for i in range(690, 701)), *(b"again %d" % i for i in range(701, 900))]
        assert log.gc().segments > 0
        first = log.first_index
        assert first > 1
        with pytest.raises(Collected):
            log.get(first - 1)
        assert bytes(log.get(first)) == (payload(first) if first <= 700 else b"again %d" % first)


def test_what_raft_replaces_is_not_found_in_a_segment_that_was_asked_before(tmp_path: Path) -> None:
    fill(tmp_path, 600, 1)
    with Log.open(tmp_path, segment_size="16KiB", cache_size=0) as log:
        assert bytes(log.get(300)) == payload(300)
        log.append_replicate(*(replicate(2, i, payload=b"new") for i in range(250, 260)), replace=True).wait()
        for index in (249, 250, 259):
            entry = log.get(index)
            assert (entry.term, bytes(entry)) == ((1, payload(249)) if index == 249 else (2, b"new"))
        with pytest.raises(NotYetWritten):
            log.get(300)


def test_damage_is_told_and_never_returned(tmp_path: Path) -> None:
    fill(tmp_path, 60, 1)
    path = tmp_path / "wal-000000001"
    good = path.read_bytes()
    expected = {i: payload(i) for i in range(1, 61)}
    rng = random.Random(5)
    told = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(200, len(good) - 60)] ^= 1 << rng.randrange(8)
        with Log.open(tmp_path) as log:
            path.write_bytes(bad)
            for index in rng.sample(range(1, 61), 20):
                try:
                    entry = log.get(index)
                    assert bytes(entry) == expected[index]
                except CorruptionError:
                    told += 1
        path.write_bytes(good)
    assert told > 100


def test_open_files_and_memory_are_bounded_in_the_process(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    logs = []
    for number in range(20):
        fill(tmp_path / str(number), 2000, 1)
        log = Log.open(tmp_path / str(number))
        logs.append(log)
        for index in range(1, 2001, 20):
            assert bytes(log.get(index)) == payload(index)
    segments = sum(len(list((tmp_path / str(number)).glob("wal-*"))) for number in range(20))
    assert segments > 256
    assert len(os.listdir("/proc/self/fd")) <= before + 256 + 3 * len(logs)
    assert all(bytes(log.get(500)) == payload(500) for log in logs)
    for log in logs:
        log.close()
    del log, logs
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_places_refuse_what_does_not_fit(tmp_path: Path) -> None:
    fill(tmp_path, 10, 1)

    def places(first: int, last: int, slots: bytes) -> SegmentPlaces:
        return SegmentPlaces(os.open(tmp_path / "wal-000000001", os.O_RDONLY), sequence=1, first=first, last=last,
                             first_offset=10, end_offset=100, codec=1, slots=slots)

    for first, last, slots in ((0, 1, bytes(48)), (2, 1, b""), (1, 2, bytes(24)), (1, 1 << 62, bytes(24))):
        with pytest.raises(InvalidArgument):
            places(first, last, slots)
    known = Places()
    known.add(places(5, 9, bytes(24 * 5)))
    assert (known.find(5), known.find(4), known.covers(9), known.covers(10), len(known)) == (None, None, True, False, 1)
    with pytest.raises(InvalidArgument, match="already"):
        known.add(places(9, 9, bytes(24)))
    known.drop_from(9)
    assert len(known) == 0


# -- the iterator against protobuf -----------------------------------------------------------------------------------
def by_protobuf(body: bytes) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for entry in message_class("kudu.log.LogEntryBatchPB").FromString(body).entry:
        if entry.type == 1:
            r = entry.replicate
            is_user = r.op_type == 1 and r.noop_request.HasField("payload_for_tests")
            data = r.noop_request.payload_for_tests if is_user else r.noop_request.SerializeToString()
            found.append((r.id.term, r.id.index, r.timestamp, is_user, bytes(data)))
    return found


def by_iterator(body: bytes, folder: Path) -> list[tuple[Any, ...]]:
    if not body:
        return []
    path = folder / "entries"
    path.write_bytes(encode_entry(body, 1))
    fd = os.open(path, os.O_RDONLY)
    try:
        chunk = read_batch_at(fd, 0, file_size=path.stat().st_size)
    finally:
        os.close(fd)
    given = iter([(chunk, (1 << 63) - 1)])
    entries: Iterator[Entry] = EntryIterator(lambda index: next(given), 0, (1 << 63) - 1)
    found = []
    try:
        for entry in entries:
            found.append((entry.term, entry.index, entry.timestamp, entry.is_user, bytes(entry)))
    except RuntimeError:
        pass            # no further part
    return found


MESSAGES = st.builds(
    lambda term, index, timestamp, data: replicate(term, index, timestamp=timestamp, payload=data),
    st.integers(0, 1 << 62), st.integers(0, 100), st.integers(0, (1 << 64) - 1), st.none() | st.binary(max_size=300))


@given(messages=st.lists(MESSAGES, min_size=1, max_size=5))
def test_entries_are_parsed_as_protobuf_parses_them(messages: list[Any], tmp_path_factory: Any) -> None:
    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    for number, message in enumerate(messages):
        entry = batch.entry.add(type=1)
        entry.replicate.CopyFrom(message)
        entry.replicate.id.index = number * 1000 + message.id.index + 1
    body = batch.SerializeToString()
    assert by_iterator(body, tmp_path_factory.getbasetemp()) == by_protobuf(body)


def test_the_short_way_to_parse_is_as_strict_as_the_long_one(tmp_path: Path) -> None:
    """Each byte of an entry changed to each of some values: the strict parser decides, whichever was first."""
    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    batch.entry.add(type=1).replicate.CopyFrom(replicate(3, 7, timestamp=99, payload=b"payload"))
    good = batch.SerializeToString()
    for at in range(len(good)):
        values = (0, 1, 2, 7, 8, 0x0A, 0x10, 0x11, 0x12, 0x20, 0x7F, 0x80, 0xFF, good[at] + 1 & 0xFF, good[at] ^ 1)
        for value in values:
            body = good[:at] + bytes((value,)) + good[at + 1:]
            try:
                strict = [(e["id"].term, e["id"].index, e["timestamp"]) for e in parse_batch(body)
                          if e["type"] == "REPLICATE"]
            except KuduStorageError:
                strict = None
            try:
                mine = [e[:3] for e in by_iterator(body, tmp_path)]
            except KuduStorageError:
                mine = None
            assert mine == strict, (at, value)
