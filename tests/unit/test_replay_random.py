"""Replay of random histories gives the rows, snapshots and counts of the model that made them."""
from __future__ import annotations

import random
from pathlib import Path

import pytest
from random_log import TABLET_ID, RandomLog, random_log

from kudu_storage.bootstrap import Replay, replay
from kudu_storage.common.keys import encode_key

SEEDS = range(300)


def write_log(log: RandomLog, folder: Path) -> Path:
    target = folder / TABLET_ID.decode()
    target.mkdir()
    for number, segment in enumerate(log.segments, 1):
        (target / f"wal-{number:09d}").write_bytes(segment)
    return target


def rows_of(result: Replay, at: int | None = None) -> dict[bytes, dict[int | None, bytes | None]]:
    assert result.tablet is not None
    schema = result.tablet.schema
    shown = {}
    for block in result.tablet.scan(at=at):
        for row in range(len(block)):
            cells = block.cells(row)
            key = encode_key(schema, [c or b"" for c in cells[:schema.key_column_count]])
            shown[key] = {c.id: cell for c, cell in zip(schema, cells, strict=True)}
    return shown


@pytest.mark.parametrize("first_seed", SEEDS[::50])
def test_random_histories_replay_to_their_model(first_seed: int, tmp_path: Path) -> None:
    untrusted = 0
    for seed in range(first_seed, first_seed + 50):
        log = random_log(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        result = replay(write_log(log, folder))
        report = result.report
        assert report.last_opid == str(log.last_opid), seed
        assert report.ops_by_type == dict(log.ops_by_type), seed
        assert report.committed_index == log.committed_index, seed
        assert report.pending == [str(o) for o in log.pending], seed
        assert report.replaced == len(log.replaced), seed
        if [p.kind for p in report.problems] == ["schema_untrusted"]:
            # Nothing but one header tells a default that rows took: then nothing is shown.
            untrusted += 1
            assert report.rows == 0, seed
            continue
        assert report.problems == [], seed
        assert rows_of(result) == log.rows, seed
        for at, _ in random.Random(seed).sample(log.snapshots, min(4, len(log.snapshots))):
            for timestamp in (at, at + 1):
                assert rows_of(result, timestamp) == log.rows_at(timestamp), (seed, timestamp)
    assert untrusted < 10


@pytest.mark.parametrize("seed", range(300, 340))
def test_a_log_that_lost_its_first_segments_shows_only_true_rows(seed: int, tmp_path: Path) -> None:
    log = random_log(seed)
    if len(log.segments) < 2:
        pytest.skip("this history fits into one segment")
    folder = write_log(log, tmp_path)
    (folder / "wal-000000001").unlink()
    result = replay(folder)
    if result.tablet is None or result.report.last_opid != str(log.last_opid):
        assert result.report.problems
        return
    if any(p.kind not in ("flushed_rowsets", "schema_untrusted") for p in result.report.problems):
        return      # stopped early: the rows are of an earlier moment
    for key, cells in rows_of(result).items():
        assert log.rows.get(key) == cells


def test_empty_strings_without_indirect_data_are_not_null(tmp_path: Path) -> None:
    # A request whose binary cells are all empty carries no indirect_data at all.
    log = random_log(168)
    result = replay(write_log(log, tmp_path))
    assert rows_of(result, 7354150000032817168) == log.rows_at(7354150000032817168)
