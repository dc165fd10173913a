"""Segments that real servers wrote: the small ones of the repository, and all stored replicas where there are any."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root
from segments import COUNTS, GOLDEN, golden

from kudu_storage._native.entry import EntryTally
from kudu_storage.common.opid import OpId
from kudu_storage.wal.reader import Segment, list_segments, open_segment
from kudu_storage.wal.verify import verify


def count(segment: Segment) -> EntryTally:
    tally = EntryTally()
    for chunk in segment.scan():
        tally.add(chunk)
    return tally


@pytest.mark.parametrize("name", COUNTS)
def test_golden_segment_has_the_known_counts(name: str) -> None:
    known = COUNTS[name]
    with open_segment(GOLDEN / name) as segment:
        tally = count(segment)
        assert segment.closed == known["closed"]
        assert segment.first_offset == known["first_entry_offset"]
        assert segment.end_offset == known["end_of_entries_offset"]
        assert segment.entry_count_error(tally.entries) is None
    assert (tally.batches, tally.entries) == (known["batches"], known["entries"])
    assert tally.min_replicate_index == known["min_replicate_index"]
    assert tally.max_replicate_index == known["max_replicate_index"]


def test_replaced_operations_show_as_steps_back() -> None:
    with open_segment(golden("replaced-ops")) as segment:
        tally = count(segment)
    assert tally.backward_jumps == 1 and tally.forward_jumps == 0
    assert tally.last_replicate == OpId(3, 23)


# -- all stored replicas -----------------------------------------------------------------------------------------------
def truths() -> list[Path]:
    root = fixtures_root()
    return sorted((root / "kudu-fixtures").glob("*/truth/truth.json")) if root else []


def replicas(truth: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(segment folder, what is known of it) of every replica of a case."""
    for table in json.loads(truth.read_text())["tables"]:
        for tablet in table["tablets"]:
            for label, known in tablet["files"].items():
                folder = truth.parents[1] / label / "wals" / tablet["tablet_id"]
                if folder.is_dir():
                    yield folder, known


needs_stored_replicas = pytest.mark.skipif(not truths(), reason="no stored replicas: set KUDU_STORAGE_SHARED")


@needs_stored_replicas
@pytest.mark.parametrize("truth", truths(), ids=lambda path: path.parents[1].name)
def test_every_stored_replica_has_the_known_segments_and_operations(truth: Path) -> None:
    checked = 0
    for folder, known in replicas(truth):
        files = {f["file"]: f for f in known["wal"] if f["file"].startswith("wal-")}
        ops: Counter[str] = Counter()
        replicates = commits = 0
        last, max_commit = None, -1
        for file in list_segments(folder):
            expected = files.pop(Path(file.path).name)
            with open_segment(file.path) as segment:
                tally = count(segment)
                assert segment.closed == expected["closed"]
                assert segment.first_offset == expected["first_entry_offset"]
            assert (tally.batches, tally.entries) == (expected["batches"], expected["entries"])
            assert (tally.min_replicate_index, tally.max_replicate_index) == (
                expected.get("min_replicate_index"), expected.get("max_replicate_index"))
            ops.update(tally.ops_by_type)
            replicates, commits = replicates + tally.replicates, commits + tally.commits
            last = tally.last_replicate or last
            max_commit = max(max_commit, -1 if tally.max_commit_index is None else tally.max_commit_index)
        log = known["log"]
        assert not files
        assert dict(ops) == log["ops_by_type"] and (replicates, commits) == (log["replicates"], log["commits"])
        assert str(last) == log["last_logged_opid"] and max_commit == log["max_committed_index_in_log"]
        checked += 1
    assert checked


@needs_stored_replicas
@pytest.mark.parametrize("truth", truths(), ids=lambda path: path.parents[1].name)
def test_no_problem_is_found_in_an_undamaged_log(truth: Path) -> None:
    for folder, _ in replicas(truth):
        report = verify(folder)
        assert report.problems == (), folder
        assert {s.status for s in report.segments} <= {"ok", "zero_tail"}


def damaged_copies() -> list[dict[str, Any]]:
    root = fixtures_root()
    if root is None:
        return []
    damage = json.loads((root / "kudu-fixtures" / "damaged" / "damage.json").read_text())
    copies: list[dict[str, Any]] = next(value for value in damage.values() if isinstance(value, list))
    return copies


@needs_stored_replicas
@pytest.mark.parametrize("copy", damaged_copies(), ids=lambda copy: copy["name"])
def test_damaged_segments_give_as_many_entries_as_the_real_tool_and_its_verdict(copy: dict[str, Any]) -> None:
    root = fixtures_root()
    assert root is not None
    folder = root / "kudu-fixtures" / "damaged" / copy["name"]
    for name, said in copy.get("tool", {}).items():
        if not name.startswith("wals/") or "entries_printed" not in said:
            continue
        (report,) = verify(folder / name).segments
        assert report.entries == said["entries_printed"]
        if copy["name"] == "footer_magic_flipped":
            assert report.status == "corrupt" and "footer" in report.detail        # the real tool does not notice
        else:
            assert (report.status in ("corrupt", "unreadable", "blank")) == (said["rc"] != 0)
