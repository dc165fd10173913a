"""A log that jumps over operations is damaged: no reader passes the place in silence; what is before it can be read."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crafted_log import CraftedLog
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage.errors import Collected, MissingOperations
from kudu_storage.protos import message_class
from kudu_storage.wal import format as spec
from kudu_storage.wal.log_index import rebuild
from kudu_storage.wal.reader import open_segment

# How the entries lie in the file: one a batch, three a batch, all in one.
GROUPINGS = {"alone": 1, "threes": 3, "together": 1000}


def entry(term: int, index: int, payload: bytes = b"") -> Any:
    message = replicate(term, index, payload=payload or b"%d" % index)
    return message_class("kudu.log.LogEntryPB")(type=1, replicate=message)


def commit_entry(index: int) -> Any:
    return message_class("kudu.log.LogEntryPB")(type=2, commit=commit(1, index))


def write_segment(folder: Path, sequence: int, entries: list[Any], *, grouping: int = 1, closed: bool = True,
                  codec: spec.Codec = spec.Codec.NONE, footer: Any = None) -> Path:
    header: Any = message_class("kudu.log.LogSegmentHeaderPB")(
        tablet_id=b"0" * 32, sequence_number=sequence, schema_version=0)
    CraftedLog().schema.to_pb(header.schema)
    batches: list[list[Any]] = []
    for one in entries:             # a batch has one kind of entry
        if not batches or len(batches[-1]) == grouping or batches[-1][0].type != one.type:
            batches.append([])
        batches[-1].append(one)
    if closed and footer is None:
        footer = spec.footer_of(batches)
    folder.mkdir(exist_ok=True)
    path = folder / f"wal-{sequence:09d}"
    path.write_bytes(spec.build_segment(header, batches, codec, footer=footer if closed else None))
    return path


def offset_of(path: Path, index: int) -> int:
    """Of the last batch that holds the operation."""
    data = path.read_bytes()
    batches, _ = spec.read_batches(data, spec.parse_segment(data))
    return max(b.offset for b in batches for e in message_class("kudu.log.LogEntryBatchPB").FromString(b.data).entry
               if e.type == 1 and e.replicate.id.index == index)


def read_until_error(entries: Iterator[Any]) -> tuple[list[int], MissingOperations]:
    given: list[int] = []
    with pytest.raises(MissingOperations) as caught:
        for one in entries:
            given.append(int(bytes(one)))
    return given, caught.value


READERS: dict[str, Callable[[Log, int], Iterator[Any]]] = {
    "read": lambda log, index: log.read(index), "payloads": lambda log, index: log.payloads(index),
    "tail": lambda log, index: log.tail(index, timeout=0)}


@pytest.mark.parametrize("index_files", [False, True], ids=["no index", "index"])
@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("codec", [spec.Codec.NONE, spec.Codec.LZ4], ids=["none", "lz4"])
@pytest.mark.parametrize("grouping", list(GROUPINGS))
def test_readers_stop_at_a_hole_with_its_place(grouping: str, codec: spec.Codec, reader: str, index_files: bool,
                                               tmp_path: Path) -> None:
    path = write_segment(tmp_path, 1, [entry(1, i) for i in (1, 2, 3, 4, 7, 8, 9)], grouping=GROUPINGS[grouping],
                         codec=codec)
    if index_files:
        rebuild(tmp_path, [open_segment(path)])
    with Log.open(tmp_path) as log:
        for start in (1, 3, 4):
            given, error = read_until_error(READERS[reader](log, start))
            assert given == [*range(start, 5)]
            assert (error.path, error.segment, error.offset) == (str(path), 1, offset_of(path, 7))
            assert "operations 5 to 6" in str(error) and "up to index 4" in str(error)
        for start in (5, 6):
            assert read_until_error(READERS[reader](log, start))[0] == []
        assert [int(bytes(e)) for e in log.read(7)] == [7, 8, 9]


@pytest.mark.parametrize("grouping", list(GROUPINGS))
def test_a_single_operation_in_a_hole_is_missing_and_its_neighbours_are_there(grouping: str, tmp_path: Path) -> None:
    path = write_segment(tmp_path, 1, [entry(1, i) for i in (1, 2, 4, 5)], grouping=GROUPINGS[grouping])
    with Log.open(tmp_path) as log:
        with pytest.raises(MissingOperations, match="operation 3 should") as caught:
            log.get(3)
        assert (caught.value.segment, caught.value.offset) == (1, offset_of(path, 4))
        assert [int(bytes(log.get(i))) for i in (1, 2, 4, 5)] == [1, 2, 4, 5]


def test_a_bound_in_bytes_within_a_hole_does_not_hide_it(tmp_path: Path) -> None:
    write_segment(tmp_path, 1, [entry(1, i) for i in (1, 2, 5)])
    with Log.open(tmp_path) as log:
        assert [int(bytes(e)) for e in log.read(1, max_bytes=2)] == [1, 2]
        assert read_until_error(log.read(1, max_bytes=3))[0] == [1, 2]


def test_who_reads_on_at_a_hole_is_told_again(tmp_path: Path) -> None:
    write_segment(tmp_path, 1, [entry(1, i) for i in (1, 2, 5)])
    with Log.open(tmp_path) as log:
        entries = log.read()
        for _ in range(3):
            read_until_error(entries)


@pytest.mark.parametrize("grouping", list(GROUPINGS))
def test_a_hole_behind_replaced_operations_is_found(grouping: str, tmp_path: Path) -> None:
    """Term 2 replaces 4 and above, and then jumps."""
    entries = [entry(1, i, b"%d" % (100 + i)) for i in range(1, 7)]
    entries += [entry(2, i, b"%d" % (200 + i)) for i in (4, 5, 8, 9)]
    path = write_segment(tmp_path, 1, entries, grouping=GROUPINGS[grouping])
    with Log.open(tmp_path) as log:
        given, error = read_until_error(log.read())
        assert given == [101, 102, 103, 204, 205]
        assert (error.segment, error.offset) == (1, offset_of(path, 8))
        with pytest.raises(MissingOperations):
            log.get(6)          # what was replaced does not fill the hole


@pytest.mark.parametrize("grouping", list(GROUPINGS))
def test_operations_that_go_back_and_commits_are_no_hole(grouping: str, tmp_path: Path) -> None:
    entries = [entry(1, i, b"%d" % (100 + i)) for i in range(5, 12)] + [commit_entry(5), commit_entry(99)]
    entries += [entry(2, i, b"%d" % (200 + i)) for i in range(8, 10)] + [commit_entry(7)]
    entries += [entry(3, i, b"%d" % (300 + i)) for i in range(9, 13)]
    write_segment(tmp_path, 1, entries, grouping=GROUPINGS[grouping])
    write_segment(tmp_path, 2, [commit_entry(9)], grouping=GROUPINGS[grouping])
    write_segment(tmp_path, 3, [entry(4, i, b"%d" % (400 + i)) for i in (12, 13)], grouping=GROUPINGS[grouping])
    with Log.open(tmp_path) as log:
        assert [int(bytes(e)) for e in log.read()] == [105, 106, 107, 208, 309, 310, 311, 412, 413]
        assert [int(bytes(log.get(i))) for i in range(5, 14)] == [105, 106, 107, 208, 309, 310, 311, 412, 413]


def test_a_segment_that_ends_before_what_its_footer_says_lacks_operations(tmp_path: Path) -> None:
    """Before: Collected, as if somebody had removed them while they were read."""
    footer = spec.footer_of([[entry(1, i)] for i in range(1, 7)])
    path = write_segment(tmp_path, 1, [entry(1, i) for i in range(1, 5)], footer=footer)
    size = path.stat().st_size
    write_segment(tmp_path, 2, [entry(1, i) for i in range(7, 9)])
    with Log.open(tmp_path) as log:
        given, error = read_until_error(log.read())
        assert given == [1, 2, 3, 4]
        assert (error.path, error.segment) == (str(path), 1)
        assert error.offset is not None and 0 < error.offset < size
        with pytest.raises(MissingOperations):
            log.get(6)
        assert [int(bytes(e)) for e in log.read(7)] == [7, 8]


def test_operations_that_were_replaced_while_they_were_read_are_not_missing(tmp_path: Path) -> None:
    """A reader that began before is told that they are gone: the log is not damaged."""
    with Log.open(tmp_path, create=True, cache_size=0, compression="none", segment_size="16KiB") as log:
        for _ in range(40):
            log.append(bytes(1000)).wait()
        reader = log.read(1)
        next(reader)
        log.append_replicate(replicate(2, 20, payload=b""), replace=True).wait()
        with pytest.raises(Collected):
            for _ in reader:
                pass
        assert [e.index for e in log.read()] == [*range(1, 21)]
