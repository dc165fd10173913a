"""The reference replay gives the rows that real servers had: its proof before anything is held against it."""
from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from fixtures import fixtures_root
from random_log import random_log
from reference_replay import Replayed, replay

from kudu_storage.common.cell_text import json_value
from kudu_storage.common.schema import Schema
from kudu_storage.errors import Contradiction, MissingOperations
from kudu_storage.wal import format as spec

ROOT = fixtures_root()


def read_log(folder: Path) -> tuple[list[Any], Schema]:
    """All entries of a log folder, and the schema of its first segment."""
    entries: list[Any] = []
    schema = None
    for path in sorted(folder.glob("wal-*")):
        data = path.read_bytes()
        schema = schema or Schema.from_pb(spec.parse_segment(data).header.schema)
        found, outcome = spec.read_entries(data)
        assert outcome.error is None
        entries += found
    assert schema is not None
    return entries, schema


def json_rows(replayed: Replayed) -> list[str]:
    by_id = {column.id: column for column in replayed.schema}
    return [_normal({by_id[i].name: json_value(by_id[i], cell) for i, cell in row.items()}, replayed.schema)
            for row in replayed.rows.values()]


def truth_rows(path: Path, schema: Schema) -> list[str]:
    """One text a row. The file is gzipped when it is long; a line ends with a newline only (cells may hold others)."""
    data = path.read_bytes() if path.exists() else path.with_name(path.name + ".gz").read_bytes()
    data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return [_normal(json.loads(line), schema) for line in data.decode().split("\n") if line]


def _normal(row: dict[str, Any], schema: Schema) -> str:
    """Several decimals stand for the same 32-bit float."""
    singles = {c.name for c in schema if c.type.name == "FLOAT"}
    return json.dumps({name: struct.pack("<f", value).hex() if name in singles and isinstance(value, int | float)
                       else value for name, value in row.items()}, sort_keys=True)


def manifest() -> list[dict[str, Any]]:
    if ROOT is None:
        return []
    cases = json.loads((ROOT / "kudu-fixtures" / "manifest.json").read_text())["cases"]
    return [{"case": case["case"], **replica, "rows_file": next(t["rows_file"] for t in case["tables"]
                                                                if t["name"] == replica["table"]),
             "table_tablets": next(t["tablets"] for t in case["tables"] if t["name"] == replica["table"])}
            for case in cases for replica in case["replicas"]]


REPLICAS = manifest()
WHOLE = [r for r in REPLICAS if r["log_starts_at_index"] == 1 and not r["case"].startswith(("s15", "s16"))
         and r["segments"]]
PARTIAL = [r for r in REPLICAS if r["case"].startswith(("s15", "s16"))]
needs_fixtures = pytest.mark.skipif(ROOT is None, reason="no stored tablets of real servers (KUDU_STORAGE_SHARED)")


def _name(replica: dict[str, Any]) -> str:
    return f"{replica['case'].split('_')[0]}-{replica['server']}-{replica['tablet'][:6]}"


@needs_fixtures
@pytest.mark.parametrize("replica", WHOLE, ids=_name)
def test_counts_are_those_of_the_real_log(replica: dict[str, Any]) -> None:
    replayed = replay(*read_log(_fixtures() / replica["wal_dir"]))
    assert dict(replayed.ops_by_type) == replica["ops_by_type"]
    assert str(replayed.last_opid) == replica["last_logged_opid"]
    assert replayed.committed_index == replica["max_committed_index_in_log"]
    assert len(replayed.replaced) == replica["replaced_ops"]
    assert [str(opid) for opid in replayed.pending] == [_opid_text(o) for o in replica["uncommitted_at_tail"]]


@needs_fixtures
@pytest.mark.parametrize("replica", WHOLE, ids=_name)
def test_rows_of_every_whole_log_are_those_of_the_real_scan(replica: dict[str, Any]) -> None:
    # A table's rows are those of all its tablets; the replicas of one server together hold them.
    same_table = [r for r in WHOLE if (r["case"], r["server"]) == (replica["case"], replica["server"])
                  and r["tablet"] in replica["table_tablets"]]
    rows: list[str] = []
    for one in same_table:
        replayed = replay(*read_log(_fixtures() / one["wal_dir"]), include_pending=True,
                          nothing_flushed=one["last_durable_mrs_id"] == "-1")
        assert replayed.whole
        rows += json_rows(replayed)
    assert sorted(rows) == sorted(truth_rows(_fixtures() / replica["rows_file"], replayed.schema))


@needs_fixtures
@pytest.mark.parametrize("replica", PARTIAL, ids=_name)
def test_a_log_that_is_not_whole_shows_only_right_rows(replica: dict[str, Any]) -> None:
    replayed = replay(*read_log(_fixtures() / replica["wal_dir"]), include_pending=True)
    rows = json_rows(replayed)
    truth = truth_rows(_fixtures() / replica["rows_file"], replayed.schema)
    assert rows
    assert replayed.whole == (replica["log_starts_at_index"] == 1)
    assert set(rows) <= set(truth)
    assert (sorted(rows) == sorted(truth)) or not replayed.whole


@needs_fixtures
def test_a_snapshot_at_the_end_of_time_is_the_last_state_and_one_at_its_start_is_empty() -> None:
    replica = next(r for r in WHOLE if r["case"].startswith("s10"))
    entries, schema = read_log(_fixtures() / replica["wal_dir"])
    replayed = replay(entries, schema)
    first = min(e.replicate.timestamp for e in entries if e.type == 1 and e.replicate.op_type == 3)
    assert replayed.rows_at(first) == {}
    assert len(replayed.rows_at(first + 1)) == 1
    assert len(replayed.rows) == 170


@needs_fixtures
def test_a_commit_without_its_replicate_is_refused() -> None:
    entries, schema = read_log(_fixtures() / WHOLE[0]["wal_dir"])
    last = next(e for e in reversed(entries) if e.type == 2)
    with pytest.raises(Contradiction, match="not waiting"):
        replay([*entries, last], schema)


@needs_fixtures
def test_an_operation_that_is_missing_is_noticed() -> None:
    entries, schema = read_log(_fixtures() / WHOLE[0]["wal_dir"])
    gone = [e for e in entries if (e.replicate.id.index if e.type == 1 else e.commit.commited_op_id.index) != 9]
    with pytest.raises(MissingOperations):
        replay(gone, schema)


@needs_fixtures
def test_an_insert_that_the_log_says_happened_twice_is_a_contradiction() -> None:
    replica = next(r for r in WHOLE if r["case"].startswith("s10"))
    entries, schema = read_log(_fixtures() / replica["wal_dir"])
    first_insert = next(e for e in entries if e.type == 1 and e.replicate.op_type == 3)
    index = first_insert.replicate.id.index
    commit = next(e for e in entries if e.type == 2 and e.commit.commited_op_id.index == index)
    assert first_insert.replicate.write_request.row_operations.rows[0] == 1, "an INSERT"
    head = [e for e in entries if e.type == 1 and e.replicate.id.index < index]
    again, again_commit = type(first_insert)(), type(commit)()
    again.CopyFrom(first_insert)
    again_commit.CopyFrom(commit)
    again.replicate.id.index = again_commit.commit.commited_op_id.index = index + 1
    head_commits = [e for e in entries if e.type == 2 and e.commit.commited_op_id.index < index]
    assert len(replay([*head, *head_commits, first_insert, commit], schema).rows) == 1
    with pytest.raises(Contradiction, match="INSERT took effect, but the row exists"):
        replay([*head, *head_commits, first_insert, commit, again, again_commit], schema)


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_give_the_rows_of_their_model(seed: int) -> None:
    log = random_log(seed)
    entries = [entry for segment in log.segments for entry in spec.read_entries(segment)[0]]
    replayed = replay(entries, log.first_schema)
    assert replayed.whole
    assert replayed.rows == log.rows
    assert (replayed.pending, replayed.replaced, replayed.last_opid, replayed.committed_index) == \
        (log.pending, log.replaced, log.last_opid, log.committed_index)
    assert replayed.ops_by_type == log.ops_by_type
    assert replayed.schema == log.last_schema
    for timestamp, _ in log.snapshots:
        assert replayed.rows_at(timestamp) == log.rows_at(timestamp)
        assert replayed.rows_at(timestamp + 1) == log.rows_at(timestamp + 1)


def test_random_histories_have_what_they_are_for() -> None:
    logs = [random_log(seed) for seed in range(60)]
    assert sum(len(log.replaced) for log in logs) > 100
    assert sum(len(log.pending) for log in logs) > 50
    assert sum(log.ops_by_type["ALTER_SCHEMA_OP"] for log in logs) > 100
    assert {codec for log in logs for codec in log.codecs} == set(spec.Codec)
    commits = [[e.commit.commited_op_id.index for e in log.entries if e.type == 2] for log in logs]
    assert any(indexes != sorted(indexes) for indexes in commits), "COMMITs out of order"


def _fixtures() -> Path:
    assert ROOT is not None
    return ROOT / "kudu-fixtures"


def _opid_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value['term']}.{value['index']}"
