"""Rows from Arrow streams: every type and layout there and back, and what is refused."""
from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.errors import InvalidArgument, RowErrors, RowExists, TabletClosed

pa = pytest.importorskip("pyarrow")


def wide_schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("k", kudu.int64, nullable=False)
    for name in ("int8", "int16", "int32", "int64", "bool", "float", "double", "string", "binary", "date"):
        builder.add_column(f"c_{name}", name)
    builder.add_column("c_time", kudu.unixtime_micros)
    builder.add_column("c_varchar", kudu.varchar, length=5)
    for precision, name in ((9, "d32"), (18, "d64"), (38, "d128")):
        builder.add_column(name, kudu.decimal, precision=precision, scale=2)
    return builder.set_primary_keys(["k"]).build()


@pytest.fixture
def tablet(tmp_path: Path) -> Iterator[Tablet]:
    with Tablet.create(tmp_path / "t", wide_schema(), durability="os") as opened:
        yield opened


VALUES: dict[str, list[Any]] = {
    "k": [3, 1, 2], "c_int8": [-128, 127, None], "c_int16": [-2**15, None, 1], "c_int32": [None, -2**31, 2**31 - 1],
    "c_int64": [-2**63, 2**63 - 1, None], "c_bool": [True, None, False], "c_float": [1.5, None, -0.25],
    "c_double": [1e300, -1.0, None], "c_string": ["", "é" * 10, None], "c_binary": [b"\x00\xff", None, b"x" * 20],
    "c_date": [datetime.date(1, 1, 1), None, datetime.date(9999, 12, 31)],
    "c_time": [datetime.datetime(2026, 1, 1, 0, 0, 0, 7, datetime.UTC), None,
               datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)],
    "c_varchar": ["ééééé", None, "abc"], "d32": [Decimal("-1234567.89"), None, Decimal(0)],
    "d64": [Decimal("-1234567890123456.78"), None, Decimal(1)],
    "d128": [Decimal("9" * 36 + ".99"), Decimal("-0.01"), None],
}
TYPES = {
    "k": pa.int64(), "c_int8": pa.int8(), "c_int16": pa.int16(), "c_int32": pa.int32(), "c_int64": pa.int64(),
    "c_bool": pa.bool_(), "c_float": pa.float32(), "c_double": pa.float64(), "c_string": pa.string(),
    "c_binary": pa.binary(), "c_date": pa.date32(), "c_time": pa.timestamp("us", tz="UTC"), "c_varchar": pa.string(),
    "d32": pa.decimal128(9, 2), "d64": pa.decimal128(18, 2), "d128": pa.decimal128(38, 2),
}


def table(types: dict[str, Any] | None = None, **values: list[Any]) -> Any:
    types = {**TYPES, **(types or {})}
    return pa.table({name: pa.array(column, types[name]) for name, column in values.items()})


def in_order() -> list[tuple[Any, ...]]:
    return sorted(zip(*VALUES.values(), strict=True), key=lambda row: row[0])


def test_every_type_goes_in_and_comes_out_the_same(tablet: Tablet) -> None:
    assert tablet.insert_arrow(table(**VALUES)) == 3
    assert tablet.scanner().open().read_all_tuples() == in_order()
    back = pa.table(tablet.scanner().to_arrow())
    assert back.to_pylist() == table(**VALUES).sort_by("k").to_pylist()


def test_other_layouts_of_the_same_values_give_the_same_rows(tablet: Tablet) -> None:
    other = {"c_int8": pa.int64(), "c_int16": pa.int32(), "c_int32": pa.int64(), "c_string": pa.large_string(),
             "c_binary": pa.large_binary(), "c_varchar": pa.string_view(), "c_float": pa.float64(), "k": pa.uint32(),
             "c_date": pa.date64()}
    data = table(other, **VALUES)
    tablet.upsert_arrow(pa.concat_tables([data.slice(2), data.slice(0, 2)]))
    assert tablet.scanner().open().read_all_tuples() == in_order()
    for unit, factor in (("s", 1), ("ms", 10**3), ("ns", 10**9)):
        tablet.upsert_arrow(pa.table({"k": [1], "c_time": pa.array([7 * factor], pa.timestamp(unit))}))
        row = tablet.get(1)
        assert row is not None and row["c_time"] == datetime.datetime(1970, 1, 1, 0, 0, 7, tzinfo=datetime.UTC)


def test_views_and_long_values_in_their_buffers(tablet: Tablet) -> None:
    texts = ["short", "x" * 13, None, "y" * 5000, ""]
    data = [None if t is None else t.encode() for t in texts]
    tablet.upsert_arrow(pa.table({"k": list(range(5)), "c_string": pa.array(texts, pa.string_view()),
                                  "c_binary": pa.array(data, pa.binary_view())}))
    rows = tablet.scanner().set_projected_column_names(["c_string", "c_binary"]).open().read_all_tuples()
    assert rows == [(t, None if t is None else t.encode()) for t in texts]


def test_sliced_batches_and_null_columns(tablet: Tablet) -> None:
    data = table(k=list(range(100)), c_int32=[None if i % 3 == 0 else i for i in range(100)],
                 c_bool=[i % 2 == 0 for i in range(100)]).append_column("c_string", pa.nulls(100))
    tablet.upsert_arrow(data.slice(13, 50))
    rows = tablet.scanner().set_projected_column_names(["k", "c_int32", "c_bool", "c_string"]).open().read_all_tuples()
    assert rows == [(i, None if i % 3 == 0 else i, i % 2 == 0, None) for i in range(13, 63)]


def test_many_batches_stay_in_order(tablet: Tablet) -> None:
    count = 60_000
    data = table(k=list(range(count)), c_string=[f"value {i}" * 3 for i in range(count)])
    assert tablet.insert_arrow(data) == count
    assert tablet.log.last.index > 5
    again = data.set_column(1, "c_string", pa.array(["new"] * count))
    assert tablet.apply_arrow(again, "update").rows == count
    assert set(pa.table(tablet.scanner().to_arrow())["c_string"].to_pylist()) == {"new"}
    assert tablet.apply_arrow(data.select(["k"]).slice(1), "delete").rows == count - 1
    assert tablet.count() == 1


def test_refused_rows_are_counted_and_named(tablet: Tablet) -> None:
    tablet.insert_arrow(table(k=[5, 6]))
    with pytest.raises(RowErrors) as raised:
        tablet.insert_arrow(table(k=list(range(10))), error_limit=1)
    assert raised.value.count == 2 and len(raised.value.errors) == 1
    assert isinstance(raised.value.errors[0], RowExists) and raised.value.errors[0].key == {"k": 5}
    assert tablet.count() == 10
    assert tablet.apply_arrow(table(k=list(range(10))), "insert_ignore").rows == 10
    report = tablet.apply_arrow(table(k=[3, 33]), "insert", on_error="collect")
    assert (report.rows, report.refused, [error.key for error in report.errors]) == (1, 1, [{"k": 3}])
    with pytest.raises(InvalidArgument):
        tablet.apply_arrow(table(k=[1]), on_error="ignore")     # type: ignore[arg-type]


@pytest.mark.parametrize(("data", "words"), [
    (lambda: pa.table({"k": [1], "nope": [1]}), "no column named 'nope'"),
    (lambda: pa.table({"c_int8": [1]}), "no column 'k'"),
    (lambda: pa.table({"k": ["x"]}), "does not fit"), (lambda: pa.table({"k": [1], "c_binary": ["x"]}), "does not fit"),
    (lambda: pa.table({"k": [1.5]}), "does not fit"), (lambda: [1, 2], "no Arrow stream"),
    (lambda: pa.table({"k": [1], "d32": pa.array([Decimal("1.234")], pa.decimal128(9, 3))}), "scale 3"),
    (lambda: pa.table({"k": [1], "c_string": pa.array(["a"]).dictionary_encode()}), "dictionary"),
    (lambda: pa.table([[1], [2]], names=["k", "k"]), "two columns"),
])
def test_streams_that_do_not_fit_are_refused_before_a_row_is_written(tablet: Tablet, data: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        tablet.upsert_arrow(data())
    assert tablet.count() == 0


@pytest.mark.parametrize(("column", "values", "type", "words"), [
    ("c_int8", [1, 128], pa.int64(), "out of range"), ("c_int64", [1, 2**63], pa.uint64(), "out of range"),
    ("c_float", [1.0, 1e300], pa.float64(), "out of range"),
    ("c_varchar", ["ok", "six666"], pa.string(), "too many characters"),
    ("c_string", ["ok", "x" * 65_537], pa.string(), "more bytes"),
    ("c_time", [1000, 1], pa.timestamp("ns"), "lose digits"),
    ("c_time", [1, 2**62], pa.timestamp("s"), "out of range"),
    ("d32", [Decimal("1.00"), Decimal("12345678.00")], pa.decimal128(12, 2), "out of range"),
])
def test_a_value_that_does_not_fit_names_its_row_and_leaves_those_before_it(
        tablet: Tablet, column: str, values: list[Any], type: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"'{column}'.*row 1.*{words}") as raised:
        tablet.upsert_arrow(pa.table({"k": [10, 11], column: pa.array(values, type)}))
    assert raised.value.intact == "1 rows before it are written"
    assert tablet.count() == 1


def test_nulls_in_keys_are_refused(tablet: Tablet) -> None:
    with pytest.raises(InvalidArgument, match="not nullable"):
        tablet.upsert_arrow(table(k=[None]))


def test_an_empty_stream_writes_nothing(tablet: Tablet) -> None:
    last = tablet.log.last
    assert tablet.upsert_arrow(table(k=[])) == 0
    assert tablet.log.last == last


def test_a_stream_that_fails_says_so(tablet: Tablet) -> None:
    def batches() -> Iterator[Any]:
        yield pa.record_batch({"k": pa.array([1], pa.int64())})
        raise OSError("the cable was pulled")

    reader = pa.RecordBatchReader.from_batches(pa.schema([("k", pa.int64())]), batches())
    with pytest.raises(InvalidArgument, match="cable was pulled"):
        tablet.upsert_arrow(reader)
    assert tablet.count() == 1


def test_a_scan_of_one_tablet_flows_into_another(tmp_path: Path, tablet: Tablet) -> None:
    tablet.insert_arrow(table(**VALUES))
    with Tablet.create(tmp_path / "u", wide_schema()) as other:
        assert other.upsert_arrow(tablet.scanner()) == 3
        assert other.checksum() == tablet.checksum()
    with pytest.raises(TabletClosed):
        other.upsert_arrow(table(k=[1]))
