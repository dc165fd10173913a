"""The log port on a real log whose writes wait for the test: what is read, reported and thrown away when."""
from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consensus.raft import Config, Kind, Run, voters
from consensus.replica.log_port import Events, LogPort, Proposed
from consensus.replica.trail import Trail
from consensus.transport.configs import config_record, record_config
from consensus.transport.names import Names
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.operations import look, operations
from kudu_storage.errors import InternalError

NAMES = Names("ab")


class Port:
    def __init__(self, path: Path, **options: Any) -> None:
        self.disk = RecordingDisk()
        self.log = Log.open(path, create=True, disk=self.disk, **options)
        self.log.writer.write_by_hand()
        self.told: list[Any] = []
        events = Events(lambda batch: self.told.append(batch), lambda after: self.told.append(f"cut {after}"),
                        lambda error: self.told.append(type(error).__name__))
        self.port = LogPort(self.log, asyncio.get_running_loop(), events, Trail(), self._encode,
                            lambda record, index: record_config(record, index, NAMES))
        self.batch = 0

    @staticmethod
    def _encode(config: Config) -> bytes:
        return config_record("t", voters("a"), config, NAMES)

    def append(self, *runs: Run, payload: Any = None) -> None:
        self.batch += 1
        assert self.port.append(self.batch, runs, payload, 77) is None

    def propose(self, term: int, first: int, *payloads: bytes) -> None:
        self.append(Run(term, first, first + len(payloads) - 1), payload=Proposed(list(payloads), 99))

    async def write(self) -> None:
        """The disk is at work, and the loop is told."""
        self.log.writer.pump()
        await asyncio.sleep(0.01)

    def read(self, first: int, last: int, room: int = 1 << 20) -> list[tuple[int, int, int]] | None:
        found = self.port.read(first, last, room)
        return None if found is None else [(r.term, r.first, r.last) for r in found.runs]


@pytest.fixture
def ported(tmp_path: Path) -> Iterator[Callable[[Callable[[Port], Awaitable[None]]], None]]:
    count = itertools.count()

    def run(test: Callable[[Port], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            port = Port(tmp_path / f"log{next(count)}", **options)
            try:
                await test(port)
            finally:
                port.port.close()
                port.log.close()
        asyncio.run(main())
    yield run


def test_one_report_stands_for_all_that_one_sync_made_durable(ported: Any) -> None:
    async def test(p: Port) -> None:
        p.append(Run(1, 1, 1, Kind.NO_OP))
        p.propose(1, 2, b"x", b"y")
        p.propose(1, 4, b"z")
        await asyncio.sleep(0)
        assert p.told == []
        await p.write()
        assert p.told == [3]
    ported(test)


def test_what_is_not_written_yet_is_sent(ported: Any) -> None:
    async def test(p: Port) -> None:
        p.append(Run(1, 1, 1, Kind.NO_OP))
        p.propose(1, 2, b"x", b"y")
        assert p.read(1, 3) == [(1, 1, 1), (1, 2, 3)]
        assert p.read(3, 3) == [(1, 3, 3)]
    ported(test)


def test_a_request_has_at_least_one_operation_and_no_more_than_fit(ported: Any) -> None:
    async def test(p: Port) -> None:
        p.propose(1, 1, *[b"x" * 100] * 5)
        p.propose(1, 6, *[b"x" * 100] * 5)
        assert p.read(1, 10, 1) == [(1, 1, 1)]
        size = p.port.read(1, 1, 1).size_bytes  # type: ignore[union-attr]
        assert p.read(1, 10, 2 * size) == [(1, 1, 2)]
        assert p.read(1, 10, 6 * size) == [(1, 1, 6)]
        assert p.read(4, 10) == [(1, 4, 10)]
    ported(test)


def test_a_truncation_is_reported_and_what_replaces_is_read(ported: Any) -> None:
    async def test(p: Port) -> None:
        p.propose(1, 1, b"a", b"b", b"c")
        await p.write()
        p.batch += 1
        p.port.truncate(p.batch, 1)
        await asyncio.sleep(0.01)
        assert p.told == [1, 2]
        p.append(Run(3, 2, 2, Kind.NO_OP))
        p.propose(3, 3, b"d")
        assert p.read(2, 3) == [(3, 2, 2), (3, 3, 3)]
        assert [(r.term, r.first, r.last) for r in (await p.port.fetch(1, 3)).runs] == [(1, 1, 1)]
        await p.write()
        assert p.told == [1, 2, 4]
        assert [(e.term, e.index) for e in p.log.read()] == [(1, 1), (3, 2), (3, 3)]
    ported(test)


def test_what_is_fetched_ends_where_something_is_about_to_be_replaced(ported: Any) -> None:
    """The disk still has what the leader's log has no more."""
    async def test(p: Port) -> None:
        for first in range(1, 400, 10):
            p.propose(1, first, *[b"x" * 1000] * 10)
            await p.write()
        assert p.port.read(5, 400) is None, "the cache was to be too small for that"
        p.batch += 1
        p.port.truncate(p.batch, 100)
        p.append(Run(2, 101, 101, Kind.NO_OP))
        found = await p.port.fetch(90, 101, 1 << 20)
        assert [(r.term, r.first, r.last) for r in found.runs] == [(1, 90, 100)]
        assert p.read(101, 101) == [(2, 101, 101)]
    ported(test, cache_size="16KiB")


def test_what_is_fetched_ends_where_nothing_is_written(ported: Any) -> None:
    async def test(p: Port) -> None:
        for first in range(1, 400, 10):
            p.propose(1, first, *[b"x" * 1000] * 10)
            await p.write()
        p.propose(1, 401, b"y")
        found = await p.port.fetch(391, 401, 1 << 20)
        assert [(r.term, r.first, r.last) for r in found.runs] == [(1, 391, 400)]
        found = await p.port.fetch(5, 401, 20_000)
        assert found.runs[0].first == 5 and found.size_bytes <= 20_000 and len(found.runs) == 1
    ported(test, cache_size="16KiB")


def test_what_was_replaced_in_the_middle_of_a_batch_is_not_fetched(ported: Any) -> None:
    """Across segments and within one: the batch on disk still has it."""
    async def test(p: Port) -> None:
        for first in range(1, 100, 20):
            p.propose(1, first, *[b"%d" % i * 1000 for i in range(20)])
            await p.write()
        for term, first in ((2, 93), (3, 94), (4, 94)):
            p.batch += 1
            p.port.truncate(p.batch, first - 1)
            p.append(Run(term, first, first, Kind.NO_OP))
            await p.write()
        found = await p.port.fetch(1, 94, 1 << 20)
        assert [(r.term, r.first, r.last) for r in found.runs] == [(1, 1, 92), (2, 93, 93), (4, 94, 94)]
        pieces = await p.port.fetch_applicable(80, 94)
        assert [(o.term, o.index) for piece in pieces for o in piece.operations] == [
            *((1, i) for i in range(80, 93)), (2, 93), (4, 94)]
    for size in ("16KiB", "8MiB"):
        ported(test, cache_size="1KiB", segment_size=size, compression="none")


def test_what_is_fetched_has_no_holes_wherever_it_must_end(ported: Any) -> None:
    async def test(p: Port) -> None:
        first, sizes = 1, []
        for count in (1, 3, 2, 7, 1, 1, 5, 4):
            p.propose(1, first, *[b"x" * (31 * (first + i) % 400) for i in range(count)])
            first += count
            await p.write()
        body = b"".join(map(bytes, p.log.read_batches(1, 24, 1 << 30)))
        sizes = [look(body, i, i, 0)[2][0][4] for i in range(1, 25)]
        for start in range(1, 25):
            for room in range(0, 1500, 23):
                found = await p.port.fetch(start, 24, room)
                (run,) = found.runs
                assert run.first == start and found.size_bytes == sum(sizes[start - 1:run.last])
                assert run.last == 24 or run.last == start or found.size_bytes <= room
                # At least one, and all that fits at the end of a batch.
                assert found.size_bytes <= room or run.last == start
                assert [op.index for piece in found.payload for op in operations(piece, 1, 99)] == [
                    *range(start, run.last + 1)]
    ported(test, cache_size="1KiB")


def test_a_full_disk_is_one_cut_at_the_first_index_lost(ported: Any) -> None:
    async def test(p: Port) -> None:
        p.propose(1, 1, b"a", b"b")
        await p.write()
        p.disk.fail("write", 1, errno.ENOSPC)
        p.propose(1, 3, b"lost")
        p.propose(1, 4, b"lost")
        p.log.writer.pump()
        p.propose(1, 5, b"appended before the loop knew")
        await asyncio.sleep(0.01)
        assert p.told == [1, "cut 2"]
        p.append(Run(2, 3, 3, Kind.NO_OP))
        await p.write()
        assert p.told == [1, "cut 2", p.batch] and [(e.term, e.index) for e in p.log.read()] == [(1, 1), (1, 2), (2, 3)]
    ported(test)


def test_an_older_term_may_follow_what_a_full_disk_took_back(ported: Any) -> None:
    """Of a leader of term 5 nothing stayed; the next leader's log goes on with an operation of term 4."""
    async def test(p: Port) -> None:
        p.propose(3, 1, b"a")
        await p.write()
        p.disk.fail("write", 1, errno.ENOSPC)
        p.propose(5, 2, b"lost")
        p.log.writer.pump()
        await asyncio.sleep(0.01)
        assert p.told == [1, "cut 1"]
        other = Log.open(Path(p.log.path).parent / "other", create=True)
        other.term = 4
        other.append(b"other").wait()
        other.append(b"kept").wait()
        p.append(Run(4, 2, 2), payload=other.read_batches(2, 2, 1000))
        other.close()
        await p.write()
        assert [(e.term, e.index) for e in p.log.read()] == [(3, 1), (4, 2)]
    ported(test)


def test_a_failed_sync_is_told_once_and_nothing_after_it(ported: Any) -> None:
    told: list[list[Any]] = []

    async def test(p: Port) -> None:
        p.propose(1, 1, b"a")
        await p.write()
        p.disk.fail("sync", 1, errno.EIO)
        p.propose(1, 2, b"b")
        p.propose(1, 3, b"c")
        await p.write()
        told.append(list(p.told))
        await asyncio.sleep(0.01)
        told.append(p.told)
    # Closing the log says it again: of an assertion within nothing would be seen.
    with pytest.raises(OSError, match="sync failed"):
        ported(test)
    assert told == [[1, "LogPoisoned"]] * 2


def test_a_gap_is_a_bug(ported: Any) -> None:
    async def test(p: Port) -> None:
        with pytest.raises(InternalError):
            p.propose(1, 5, b"x")
    ported(test)


def test_configurations_are_read_as_they_were_written(ported: Any) -> None:
    async def test(p: Port) -> None:
        config = Config(voters("a", "b").peers, 1)
        p.append(Run(1, 1, 1, Kind.CONFIG, 0, config))
        found = p.port.read(1, 1)
        assert found is not None and found.runs[0].config == config
        await p.write()
        assert (await p.port.fetch(1, 1)).runs[0].config == config
    ported(test)
