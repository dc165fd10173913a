"""Replicas with flipped bits and cut files: replay ends with a report, and shows no row that the replica never had."""
from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from truth import GOLDEN, copy_replica, json_rows, truth_rows

from kudu_storage.bootstrap import Replay, replay
from kudu_storage.errors import KuduStorageError

CASES = [("s14_replicate_without_commit", "t1"), ("s08_alter_schema", "t1"), ("r03_replaced_ops", "t1")]


def try_replay(folder: Path, tablet: str) -> Replay | None:
    try:
        return replay(folder, tablet)
    except KuduStorageError:
        return None


def texts(result: Replay) -> set[str]:
    """Rows as JSON, without the key order of the schema."""
    assert result.tablet is not None
    return {json.dumps(row, sort_keys=True) for row in json_rows(result.tablet)}


class Target:
    """One replica to damage, and all row states of its history."""

    def __init__(self, case: str, server: str, folder: Path, bare: bool) -> None:
        source = GOLDEN / case / server
        self.tablet = sorted((source / "wals").iterdir())[0].name
        if bare:
            folder.mkdir()
            self.root = copy_replica(source / "wals" / self.tablet, folder / self.tablet)
            self.wal = self.root / "wal-000000001"
        else:
            self.root = copy_replica(source, folder)
            self.wal = self.root / "wals" / self.tablet / "wal-000000001"
        whole = replay(self.root, self.tablet)
        assert whole.tablet is not None
        self.final = texts(whole)
        self.names = {c.name for c in whole.tablet.schema}
        self.history = set(self.final)
        # Every moment at which an operation came: bounded below by the first and above by the last.
        for at in self.moments():
            at_moment = replay(self.root, self.tablet, at=at)
            assert at_moment.tablet is not None
            self.history |= texts(at_moment)
        self.add_prefixes()

    def add_prefixes(self) -> None:
        """The log cut between any two entries is a state that the replica had, under the schema of that moment."""
        from kudu_storage.wal.reader import open_segment

        data = self.wal.read_bytes()
        with open_segment(self.wal) as segment:
            offsets = [offset for chunk in segment.scan() for offset, _, _ in chunk.refs()]
        for offset in offsets:
            self.wal.write_bytes(data[:offset])
            cut = replay(self.root, self.tablet)
            if cut.tablet is not None:
                self.history |= texts(cut)
        self.wal.write_bytes(data)

    def moments(self) -> list[int]:
        from kudu_storage._native.entry import parse_batch
        from kudu_storage.wal.reader import open_segment

        found = []
        with open_segment(self.wal) as segment:
            for chunk in segment.scan():
                for batch in chunk:
                    found += [e["timestamp"] + 1 for e in parse_batch(batch) if e["type"] == "REPLICATE"]
        return found

    def check(self) -> None:
        result = try_replay(self.root, self.tablet)
        if result is None or result.tablet is None:
            return
        shown = texts(result)
        if {c.name for c in result.tablet.schema} == self.names:
            assert shown <= self.history
        if not result.report.problems and result.report.last_opid is not None and not result.report.pending:
            assert shown == self.final or len(result.report.segments[0].detail) > 0


@pytest.mark.parametrize("bare", [False, True], ids=["replica", "segments alone"])
@pytest.mark.parametrize(("case", "server"), CASES, ids=[c for c, _ in CASES])
def test_flipped_bits_in_segment_headers_give_no_wrong_row(case: str, server: str, bare: bool, tmp_path: Path) -> None:
    target = Target(case, server, tmp_path / "replica", bare)
    data = target.wal.read_bytes()
    header = 12 + int.from_bytes(data[8:12], "little")
    for position in range(header):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            target.wal.write_bytes(damaged)
            target.check()


@pytest.mark.parametrize(("case", "server"), CASES, ids=[c for c, _ in CASES])
def test_flipped_bits_and_cuts_in_entries_give_no_wrong_row(case: str, server: str, tmp_path: Path) -> None:
    target = Target(case, server, tmp_path / "replica", False)
    data = target.wal.read_bytes()
    rng = random.Random(7)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        target.wal.write_bytes(damaged)
        target.check()
    for cut in rng.sample(range(len(data)), 200):
        target.wal.write_bytes(data[:cut])
        target.check()


@pytest.mark.parametrize("kind", ["consensus-meta", "tablet-meta"])
def test_damaged_metadata_gives_a_problem_and_the_same_rows(kind: str, tmp_path: Path) -> None:
    target = Target("s14_replicate_without_commit", "t1", tmp_path / "replica", False)
    path = target.root / kind / target.tablet
    data = path.read_bytes()
    rng = random.Random(11)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        result = try_replay(target.root, target.tablet)
        assert result is not None and result.tablet is not None
        assert texts(result) == target.final
        assert result.report.problems


def test_the_truth_is_what_the_undamaged_replica_shows(tmp_path: Path) -> None:
    target = Target("s14_replicate_without_commit", "t1", tmp_path / "replica", False)
    truth = truth_rows(GOLDEN / "s14_replicate_without_commit" / "rows" / "t.jsonl.gz")
    assert len(target.final) == len(truth)
