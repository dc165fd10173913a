"""`wal grep` and `wal export`: the right operations, the right outcomes."""
from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from random_log import RandomLog, random_log

from kudu_storage.errors import CorruptionError, InvalidArgument, NotFound
from kudu_storage.wal import format as spec
from kudu_storage.wal.export import META_COLUMNS, export
from kudu_storage.wal.grep import grep, parse_time


def write_log(log: RandomLog, folder: Path) -> Path:
    for i, data in enumerate(log.segments):
        (folder / f"wal-{i + 1:09d}").write_bytes(data)
    return folder


def replicates(log: RandomLog) -> list[Any]:
    return [entry.replicate for entry in log.entries if entry.type == 1]


@pytest.mark.parametrize("seed", range(8))
def test_grep_without_conditions_finds_every_operation_in_file_order(seed: int, tmp_path: Path) -> None:
    log = random_log(seed)
    found = list(grep(write_log(log, tmp_path)))
    assert [m.opid for m in found] == [(m.id.term, m.id.index) for m in replicates(log)]
    assert Counter(m.op_type for m in found) == log.ops_by_type
    assert not [m for m in found if "cannot be read" in m.detail]


def test_conditions_narrow_together(tmp_path: Path) -> None:
    log = random_log(4)
    source = write_log(log, tmp_path)
    third = replicates(log)[2]
    assert [m.timestamp for m in grep(source, since=third.timestamp, until=third.timestamp + 1)] == [third.timestamp]
    assert {m.op_type for m in grep(source, op_type="no_op")} == {"NO_OP"}
    assert {m.op_type for m in grep(source, op_type="write")} == {"WRITE_OP"}
    assert {m.opid.index for m in grep(source, index=(5, 7))} == {5, 6, 7}
    assert {m.opid.term for m in grep(source, term=1, index=(None, 9))} == {1}
    assert len(list(grep(source, limit=4))) == 4
    assert list(grep(source, limit=0)) == []


def test_grep_by_key_shows_what_touched_the_row(tmp_path: Path) -> None:
    log = next(log for log in map(random_log, range(50)) if log.first_schema.columns[0].type.name == "INT64"
               and len(log.first_schema.key_columns) == 1)
    source = write_log(log, tmp_path)
    by_number, by_text = list(grep(source, key=[7])), list(grep(source, key=["7"]))
    assert by_number and by_number == by_text
    assert all("k=7" in part for m in by_number for part in m.detail.split("; row"))
    with pytest.raises(InvalidArgument):
        list(grep(source, key=["seven"]))
    with pytest.raises(InvalidArgument):
        list(grep(source, key=[1, 2]))


@pytest.mark.parametrize(("text", "hybrid"), [
    ("7354150000000000000", 7354150000000000000), (12, 12), ("1970-01-01T00:00:01", 1_000_000 << 12),
    ("1970-01-01T01:00:00+01:00", 0), (None, None),
])
def test_times_are_hybrid_or_iso(text: int | str | None, hybrid: int | None) -> None:
    assert parse_time(text) == hybrid


def test_a_time_or_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    source = write_log(random_log(1), tmp_path)
    with pytest.raises(InvalidArgument):
        parse_time("yesterday")
    with pytest.raises(InvalidArgument):
        list(grep(source, op_type="INSERT"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        list(grep(tmp_path / "empty"))


# -- export ------------------------------------------------------------------------------------------------------------
def exported(source: Path) -> list[dict[str, Any]]:
    out = io.BytesIO()
    count = export(source, out)
    rows = [json.loads(line) for line in out.getvalue().decode().split("\n") if line]
    assert count == len(rows)
    return rows


def commit_outcomes(log: RandomLog) -> Counter[str]:
    results = [op for e in log.entries if e.type == 2 and e.commit.op_type == 3 for op in e.commit.result.ops]
    return Counter("failed" if op.HasField("failed_status") else "applied" if op.mutated_stores else "ignored"
                   for op in results)


@pytest.mark.parametrize("seed", range(20))
def test_export_says_of_every_row_operation_what_became_of_it(seed: int, tmp_path: Path) -> None:
    log = random_log(seed)
    rows = exported(write_log(log, tmp_path))
    outcomes = Counter(row["outcome"] for row in rows)
    assert Counter({k: v for k, v in outcomes.items() if k not in ("pending", "replaced")}) == commit_outcomes(log)
    assert {(r["term"], r["index"]) for r in rows if r["outcome"] == "pending"} <= set(log.pending)
    assert {(r["term"], r["index"]) for r in rows if r["outcome"] == "replaced"} <= set(log.replaced)
    writes = {(m.id.term, m.id.index) for m in replicates(log) if m.op_type == 3}
    assert {(r["term"], r["index"]) for r in rows} == writes


def test_all_formats_hold_the_same_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    log = next(log for log in map(random_log, range(100)) if len(log.first_schema) > 10)     # every column type
    source = write_log(log, tmp_path)
    rows = exported(source)
    arrow, text = io.BytesIO(), io.BytesIO()
    export(source, arrow, "arrow")
    export(source, text, "csv")
    export(source, tmp_path / "out.parquet", "parquet")
    table = pa.ipc.open_stream(arrow.getvalue()).read_all()
    assert table.column_names[:6] == list(META_COLUMNS)
    stored = parquet.read_table(tmp_path / "out.parquet")
    assert stored.column_names == table.column_names and stored.num_rows == table.num_rows
    for name in ("term", "index", "op", "outcome", "set_columns", "k"):
        assert table.column(name).to_pylist() == [row[name] for row in rows]
    dates = table.column("n_date").cast(pa.int32()).to_pylist()
    assert dates == [row["n_date"] for row in rows] and any(d is not None for d in dates)
    read = list(csv.reader(io.StringIO(text.getvalue().decode())))
    assert read[0] == table.column_names
    assert [line[3] for line in read[1:]] == [row["op"] for row in rows]


def test_export_up_to_damage_is_written_before_the_error(tmp_path: Path) -> None:
    log = next(log for log in map(random_log, range(100)) if len(log.segments) > 1)
    source = write_log(log, tmp_path)
    whole = exported(source)
    first = bytearray(log.segments[0])
    batches, _ = spec.read_batches(bytes(first), spec.parse_segment(bytes(first)))
    first[batches[-1].offset + 17] ^= 1
    (source / "wal-000000001").write_bytes(first)
    out = io.BytesIO()
    with pytest.raises(CorruptionError):
        export(source, out)
    rows = [json.loads(line) for line in out.getvalue().decode().split("\n") if line]
    assert len(rows) < len(whole)
    assert [(r["term"], r["index"], r["op"]) for r in rows] == \
        [(r["term"], r["index"], r["op"]) for r in whole[:len(rows)]]


def test_a_format_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        export(write_log(random_log(1), tmp_path), io.BytesIO(), "xml")
