"""Replay of logs that real servers wrote gives the rows, operations and checksums that those servers had."""
from __future__ import annotations

import itertools
import json

import pytest
from truth import (
    GOLDEN,
    Replica,
    comparable,
    copy_replica,
    float_columns,
    golden_replicas,
    json_rows,
    stored_replicas,
    truth_rows,
)

from kudu_storage.bootstrap import replay

REPLICAS = [*golden_replicas(), *stored_replicas()]
WITH_LOG = [r for r in REPLICAS if r.facts["last_logged_opid"] is not None]
WHOLE = [r for r in WITH_LOG if r.facts["log_starts_at_index"] == 1]
DAMAGES = json.loads((GOLDEN / "damaged" / "damage.json").read_text())


def by_name(replica: Replica) -> str:
    return replica.name


def test_the_repository_holds_every_kind_of_case() -> None:
    assert len({r.case for r in golden_replicas()}) >= 17


@pytest.mark.parametrize("replica", WITH_LOG, ids=by_name)
def test_operations_and_raft_state_are_those_of_the_server(replica: Replica) -> None:
    report, facts = replay(replica.root, replica.tablet_id).report, replica.facts
    assert report.ops_by_type == facts["ops_by_type"]
    assert report.last_opid == facts["last_logged_opid"]
    assert report.replaced == facts["replaced_ops"]
    assert report.pending == facts["uncommitted_at_tail"]
    assert report.committed_index == facts["max_committed_index_in_log"]
    assert (report.current_term, report.voted_for) == (facts["current_term"], facts["voted_for"])
    assert len(report.segments) == facts["segments"]


@pytest.mark.parametrize("replica", WHOLE, ids=by_name)
def test_a_whole_log_gives_the_checksum_of_ksck_and_no_problem(replica: Replica) -> None:
    report = replay(replica.root, replica.tablet_id).report
    assert report.problems == []
    # A table of several tablets has no checksum recorded for each of them.
    assert report.checksum == replica.facts["ksck_checksum"] or replica.facts["ksck_checksum"] is None


@pytest.mark.parametrize(("name", "replicas"), [
    (key, list(group)) for key, group in itertools.groupby(
        WHOLE, lambda r: f"{r.case}-{r.facts['server']}-{r.facts['table']}")])
def test_whole_logs_give_the_rows_of_their_table(name: str, replicas: list[Replica]) -> None:
    truth = truth_rows(replicas[0].rows_file)
    shown, floats = [], set()
    for replica in replicas:
        tablet = replay(replica.root, replica.tablet_id).tablet
        assert tablet is not None
        floats = float_columns(tablet)
        shown += json_rows(tablet)
    assert sorted(comparable(shown, floats)) == sorted(comparable(truth, floats))
    if len(replicas) == 1:
        assert comparable(shown, floats) == comparable(truth, floats), "rows come by primary key"


def test_a_log_that_was_collected_shows_only_rows_that_it_proves() -> None:
    replica = next(r for r in WITH_LOG if r.facts["log_starts_at_index"] != 1)
    result = replay(replica.root, replica.tablet_id)
    assert result.tablet is not None
    assert [p.kind for p in result.report.problems] == ["flushed_rowsets"]
    assert [r["id"] for r in result.report.flushed_rowsets] == [16]
    floats = float_columns(result.tablet)
    shown = comparable(json_rows(result.tablet), floats)
    assert set(shown) < set(comparable(truth_rows(replica.rows_file), floats))
    assert len(shown) == result.report.rows > 50


def test_a_tombstoned_replica_has_nothing_to_give() -> None:
    replica = next(r for r in REPLICAS if r.facts["last_logged_opid"] is None)
    result = replay(replica.root, replica.tablet_id)
    assert result.tablet is None
    assert [p.kind for p in result.report.problems] == ["tablet_not_ready", "no_log"]


@pytest.mark.parametrize(("case", "folder", "pending", "rows", "rows_with_pending"), [
    ("r04_uncommitted_tail", "crashed-t2", ["1.10", "1.11", "1.12", "1.13", "1.14"], 340, 345),
    ("s14_replicate_without_commit", "crashed", ["1.5"], 49, 50),
])
def test_pending_operations_are_named_and_applied_only_when_asked(
        case: str, folder: str, pending: list[str], rows: int, rows_with_pending: int) -> None:
    without, included = (replay(GOLDEN / case / folder, include_pending=ask).report for ask in (False, True))
    assert without.pending == included.pending == pending
    assert without.problems == included.problems == []
    assert (without.rows, included.rows) == (rows, rows_with_pending)


@pytest.mark.parametrize("damage", DAMAGES["damages"], ids=lambda d: d["name"])
def test_a_damaged_replica_gives_what_the_server_gave_or_a_reason(damage: dict, tmp_path) -> None:
    base = GOLDEN / DAMAGES["base_case"] / DAMAGES["base_replica"]
    copy = copy_replica(base, tmp_path / "replica")
    for name in damage["replaced"]:
        (copy / name).write_bytes((GOLDEN / "damaged" / damage["name"] / name).read_bytes())
    for name in damage["deleted"]:
        (copy / name).unlink()
    result = replay(copy, DAMAGES["tablet_id"], include_pending=True)
    if damage["tserver"]["tablet_state"] == "RUNNING":
        assert result.report.rows == damage["tserver"]["rows_scanned"]
    else:
        assert result.report.problems
        assert all(p.kind and p.detail for p in result.report.problems)
    lost_the_tail = result.report.rows != 170 or damage["name"] == "last_segment_missing"
    assert result.tablet is not None
    if not lost_the_tail:
        truth = truth_rows(GOLDEN / DAMAGES["base_case"] / "rows" / "c.jsonl.gz")
        assert comparable(json_rows(result.tablet), set()) == comparable(truth, set())


@pytest.mark.parametrize("name", ["first_segment_missing", "header_bad_magic"])
def test_rows_shown_without_the_first_segment_are_true(name: str, tmp_path) -> None:
    base = GOLDEN / DAMAGES["base_case"] / DAMAGES["base_replica"]
    copy = copy_replica(base, tmp_path / "replica")
    first = copy / "wals" / DAMAGES["tablet_id"] / "wal-000000001"
    if name == "first_segment_missing":
        first.unlink()
    else:
        first.write_bytes(b"kudulogX" + first.read_bytes()[8:])
    result = replay(copy)
    assert result.tablet is not None
    assert "missing_operations" in [p.kind for p in result.report.problems]
    truth = set(comparable(truth_rows(GOLDEN / DAMAGES["base_case"] / "rows" / "c.jsonl.gz"), set()))
    shown = comparable(json_rows(result.tablet), set())
    assert shown and set(shown) <= truth
