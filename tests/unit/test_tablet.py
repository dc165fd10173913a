"""An embedded tablet: sessions, scans, snapshots, reopening, and what it refuses."""
from __future__ import annotations

import asyncio
import datetime
import gc
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.common.schema import Schema
from kudu_storage.errors import (
    DirectoryLocked,
    InvalidArgument,
    MissingExtra,
    NotFound,
    RowErrors,
    RowExists,
    RowImmutable,
    RowInvalid,
    RowNotFound,
    SessionFull,
    TabletClosed,
    Unsupported,
)
from kudu_storage.fs.superblock import read_superblock, write_superblock


def small_schema() -> Schema:
    builder = kudu.schema_builder()
    builder.add_column("id").type(kudu.int64).nullable(False).primary_key()
    builder.add_column("name", kudu.string)
    builder.add_column("n", kudu.int32, nullable=False, default=7)
    builder.add_column("once", kudu.int8, immutable=True)
    return builder.build()


@pytest.fixture
def tablet(tmp_path: Path) -> Iterator[Tablet]:
    with Tablet.create(tmp_path / "t", small_schema(), durability="os") as opened:
        yield opened


def insert(tablet: Tablet, *rows: tuple[object, ...]) -> None:
    session = tablet.new_session()
    for row in rows:
        session.apply(tablet.new_insert(row))
    session.flush()


def ids(tablet: Tablet) -> list[object]:
    return [row[0] for row in tablet.scanner().set_projected_column_names(["id"]).open().read_all_tuples()]


# -- writing -----------------------------------------------------------------------------------------------------------
def test_rows_are_readable_after_a_flush_and_not_before(tablet: Tablet) -> None:
    session = tablet.new_session(flush_mode="manual")
    session.apply(tablet.new_insert({"id": 2, "name": "two"}))
    operation = session.new_insert()
    operation["id"], operation[1], operation["n"] = 1, None, -1
    session.apply(operation)
    assert session.has_pending_operations()
    assert ids(tablet) == []
    session.flush()
    assert not session.has_pending_operations()
    assert tablet.scanner().open().read_all_tuples() == [(1, None, -1, None), (2, "two", 7, None)]


def test_each_verb_does_to_a_row_what_its_name_says(tablet: Tablet) -> None:
    session = tablet.new_session()
    insert(tablet, (1, "a", 1, 1), (2, "b", 2, 2), (3, "c", 3, 3))
    session.apply(session.new_update({"id": 1, "name": "A"}))
    session.apply(session.new_delete({"id": 2}))
    session.apply(session.new_upsert({"id": 3, "n": 30}))
    session.apply(session.new_upsert({"id": 4, "name": "d"}))
    session.apply(session.new_insert_ignore({"id": 1, "name": "no"}))
    session.apply(session.new_update_ignore({"id": 9, "name": "no"}))
    session.apply(session.new_delete_ignore({"id": 9}))
    session.apply(session.new_upsert_ignore({"id": 3, "name": "C", "once": 9}))
    session.apply(session.new_insert({"id": 2, "name": "again"}))
    session.flush()
    assert tablet.scanner().open().read_all_tuples() == [
        (1, "A", 1, 1), (2, "again", 7, None), (3, "C", 30, 3), (4, "d", 7, None)]


def test_refused_rows_are_told_with_key_and_reason_and_the_others_stand(tablet: Tablet) -> None:
    insert(tablet, (1, "a", 1, 1))
    session = tablet.new_session()
    session.apply(session.new_insert({"id": 1}))
    session.apply(session.new_insert({"id": 5}))
    session.apply(session.new_update({"id": 8, "n": 1}))
    session.apply(session.new_delete({"id": 9}))
    session.apply(session.new_update({"id": 1, "once": 2}))
    session.apply(session.new_update({"id": 1}))
    session.apply(session.new_insert({"name": "no key"}))
    with pytest.raises(RowErrors) as raised:
        session.flush()
    kinds = [type(error) for error in raised.value.errors]
    assert kinds == [RowExists, RowNotFound, RowNotFound, RowImmutable, RowInvalid, RowInvalid]
    assert raised.value.count == 6
    assert [error.key for error in raised.value.errors[:3]] == [{"id": 1}, {"id": 8}, {"id": 9}]
    assert raised.value.errors[0].operation == "insert" and "key exists" in raised.value.errors[0].reason
    errors, overflowed = session.get_pending_errors()
    assert errors == list(raised.value.errors) and not overflowed
    assert session.get_pending_errors() == ([], False)
    assert ids(tablet) == [1, 5]
    session.flush()


def test_more_errors_than_the_limit_are_counted(tablet: Tablet) -> None:
    session = tablet.new_session(error_limit=2)
    for key in range(5):
        session.apply(session.new_delete({"id": key}))
    with pytest.raises(RowErrors, match="5 row operations"):
        session.flush()
    errors, overflowed = session.get_pending_errors()
    assert len(errors) == 2 and overflowed


def test_each_flush_raises_its_own_errors(tablet: Tablet) -> None:
    session = tablet.new_session(error_limit=3)
    for first in (0, 100):
        for key in range(first, first + 2):
            session.apply(session.new_delete({"id": key}))
        with pytest.raises(RowErrors) as raised:
            session.flush()
        assert [error.key for error in raised.value.errors] == [{"id": first}, {"id": first + 1}]
    errors, overflowed = session.get_pending_errors()
    assert [error.key for error in errors] == [{"id": 0}, {"id": 1}, {"id": 100}] and overflowed


def test_sync_sessions_flush_each_operation(tablet: Tablet) -> None:
    session = tablet.new_session(flush_mode="sync")
    session.apply(session.new_insert({"id": 1}))
    assert ids(tablet) == [1]
    with pytest.raises(RowErrors):
        session.apply(session.new_insert({"id": 1}))


def test_background_sessions_write_without_a_flush(tablet: Tablet) -> None:
    session = tablet.new_session(flush_mode="background", flush_interval=0.01)
    written = threading.Event()
    answer = session._answer

    def answered(*arguments: object) -> None:
        answer(*arguments)      # type: ignore[arg-type]
        written.set()

    session._answer = answered  # type: ignore[method-assign]
    session.apply(session.new_insert({"id": 1}))
    assert written.wait(30)
    assert ids(tablet) == [1]
    session.close()


def test_background_sessions_send_whole_batches_and_hold_no_more_than_their_bound(tablet: Tablet) -> None:
    session = tablet.new_session(flush_mode="background", buffer_size="2MiB")
    text = "x" * 10_000
    for key in range(1000):
        session.apply(session.new_insert({"id": key, "name": text}))
        assert session._held_bytes <= 3 << 20
    session.flush()
    assert tablet.count() == 1000


def test_a_full_session_refuses_and_keeps_what_it_has(tablet: Tablet) -> None:
    session = tablet.new_session(buffer_size=1000)
    session.apply(session.new_insert({"id": 1, "name": "x" * 1000}))
    with pytest.raises(SessionFull):
        session.apply(session.new_insert({"id": 2}))
    session.flush()
    session.apply(session.new_insert({"id": 2}))
    session.flush()
    assert ids(tablet) == [1, 2]


@pytest.mark.parametrize(("record", "words"), [
    ({"id": "x"}, "'id' .*is not a value of that type"), ({"id": 2**63}, "out of range"), ("text", "no record"),
    ({"id": 1, "n": 2**31}, "out of range"), ({"id": 1, "name": b"x"}, "is not a str"), ({"id": True}, "not a value"),
    ({"id": 1, "nme": 1}, "no column named 'nme'"), ({"id": 1, "n": None}, "not nullable"),
    ({"id": 1, "name": "x" * 65_537}, "65537 bytes"), ((1, 2, 3, 4, 5), "5 values"),
    ({"id": 1, "once": 128}, "out of range"),
])
def test_values_that_fit_no_column_are_refused_and_leave_nothing(tablet: Tablet, record: object, words: str) -> None:
    session = tablet.new_session()
    session.apply(session.new_insert({"id": 77}))
    with pytest.raises(InvalidArgument, match=words):
        session.apply(session.new_insert(record))   # type: ignore[arg-type]
    session.flush()
    assert ids(tablet) == [77]


def test_async_flushes_are_awaited(tablet: Tablet) -> None:
    async def write() -> None:
        session = tablet.new_session()
        for key in range(10):
            session.apply(session.new_insert({"id": key}))
        await session.flush_async()
        session.apply(session.new_insert({"id": 3}))
        with pytest.raises(RowErrors):
            await session.flush_async()

    asyncio.run(write())
    assert ids(tablet) == list(range(10))


def test_threads_write_and_scan_side_by_side(tablet: Tablet) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            session = tablet.new_session()
            for key in range(first, first + 500):
                session.apply(session.new_insert({"id": key, "n": first}))
                if key % 50 == 49:
                    session.flush()
                    rows = tablet.scanner().add_predicate(tablet["n"] == first).open().read_all_tuples()
                    assert [row[0] for row in rows] == list(range(first, key + 1))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert tablet.count() == 1500
    assert [row[0] for row in tablet.scanner().open().read_all_tuples()] == sorted(ids(tablet))    # type: ignore[type-var]


# -- reading -----------------------------------------------------------------------------------------------------------
def test_predicates_projection_and_limit_pick_rows(tablet: Tablet) -> None:
    insert(tablet, *((key, None if key % 3 == 0 else f"n{key}", key * 10, None) for key in range(-5, 5)))

    def found(*predicates: object) -> list[object]:
        scanner = tablet.scanner().set_projected_column_names(["id"])
        for predicate in predicates:
            scanner.add_predicate(predicate)    # type: ignore[arg-type]
        return [row[0] for row in scanner.open().read_all_tuples()]

    assert found(tablet["id"] >= 1) == [1, 2, 3, 4]
    assert found(tablet["id"] > -2, tablet["id"] <= 1) == [-1, 0, 1]
    assert found(tablet["id"] == -5) == [-5]
    assert found(tablet["id"] < -3, tablet["n"] > -45) == [-4]
    assert found(tablet["n"].in_list([10, -20, 99])) == [-2, 1]
    assert found(tablet["id"].in_list([])) == []
    assert found(tablet["name"].is_null()) == [-3, 0, 3]
    assert found(tablet["name"].is_not_null(), tablet["name"] >= "n3") == [4]
    assert found(tablet["name"] < "n-3") == [-2, -1]
    projected = tablet.scanner().set_limit(2).set_projected_column_names(["n", "id"]).open()
    assert projected.read_all_tuples() == [(-50, -5), (-40, -4)]
    assert tablet.scanner().set_limit(0).open().read_all_tuples() == []
    assert tablet.scanner().add_predicate(tablet["n"] >= 0).limit(1).count() == 1


def test_batches_come_one_by_one(tablet: Tablet) -> None:
    insert(tablet, *((key,) for key in range(10)))
    scanner = tablet.scanner().set_batch_rows(4).open()
    sizes = []
    while scanner.has_more_rows():
        sizes.append(len(scanner.read_next_batch_tuples()))
    assert sizes == [4, 4, 2]


def test_a_snapshot_shows_what_was_so_and_does_not_change(tablet: Tablet) -> None:
    insert(tablet, (1, "a"), (2, "b"))
    before = tablet.now()
    session = tablet.new_session()
    session.apply(session.new_update({"id": 1, "name": "A"}))
    session.apply(session.new_delete({"id": 2}))
    session.flush()

    def names(at: int | None) -> list[object]:
        scanner = tablet.scanner().set_projected_column_names(["name"])
        return [row[0] for row in (scanner if at is None else scanner.set_snapshot(at)).open().read_all_tuples()]

    assert names(before) == ["a", "b"]
    assert names(None) == names(tablet.now()) == ["A"]
    assert tablet.get(2) is None and tablet.get(2, at=before) == (2, "b", 7, None)
    assert tablet.count(at=before) == 2
    moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    assert tablet.scanner().set_snapshot(moment).open().read_all_tuples() == []


def test_an_open_scan_does_not_see_later_operations(tablet: Tablet) -> None:
    insert(tablet, *((key,) for key in range(100)))
    scanner = tablet.scanner().set_batch_rows(10).open()
    first = scanner.read_next_batch_tuples()
    insert(tablet, *((key,) for key in range(100, 200)))
    session = tablet.new_session()
    for key in range(50, 60):
        session.apply(session.new_delete({"id": key}))
    session.flush()
    rest = scanner.read_all_tuples()
    assert [row[0] for row in first + rest] == list(range(100))


def test_a_snapshot_waits_for_operations_in_flight_below_it(tablet: Tablet) -> None:
    batch = tablet._store.new_batch()
    batch.add(1, [1])
    operation = tablet._store.append(batch)
    assert not operation.settled
    at = tablet.now()
    assert tablet.scanner().set_snapshot(at).count() == 1
    assert operation.settled


def test_a_snapshot_in_the_future_is_refused(tablet: Tablet) -> None:
    with pytest.raises(InvalidArgument, match="future"):
        tablet.scanner().set_snapshot(tablet.now() + (1 << 50)).open()
    with pytest.raises(InvalidArgument, match="time zone"):
        tablet.scanner().set_snapshot(datetime.datetime(2000, 1, 1))


def test_get_takes_keys_in_several_forms(tmp_path: Path) -> None:
    builder = kudu.schema_builder()
    builder.add_column("a", kudu.string, nullable=False)
    builder.add_column("b", kudu.int32, nullable=False)
    builder.add_column("v", kudu.decimal, precision=9, scale=2)
    builder.set_primary_keys(["a", "b"])
    with Tablet.create(tmp_path / "t", builder.build()) as tablet:
        insert(tablet, ("x", 1, Decimal("1.50")), ("x", 2, None), ("x\0", 1, Decimal(3)))
        row = tablet.get(("x", 1))
        assert row is not None and row == tablet.get({"b": 1, "a": "x"}) == ("x", 1, Decimal("1.50"))
        assert (row["v"], row[2], row.as_dict()["b"]) == (Decimal("1.50"), Decimal("1.50"), 1)
        assert tablet.get(("x", 3)) is None
        for wrong in ("x", ("x",), {"a": "x"}, ("x", 1, 2)):
            with pytest.raises(InvalidArgument):
                tablet.get(wrong)
        assert tablet.scanner().add_predicate(tablet["a"] == "x").count() == 2
        scanner = tablet.scanner().add_predicates([tablet["a"] == "x", tablet["b"] > 1])
        assert scanner.open().read_all_tuples() == [("x", 2, None)]


def test_results_leave_as_arrow(tablet: Tablet) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    insert(tablet, (1, "a"), (2, None))
    result = tablet.scanner().to_arrow()
    assert result.num_rows == 2
    assert pyarrow.table(result).to_pydict() == {"id": [1, 2], "name": ["a", None], "n": [7, 7], "once": [None, None]}
    assert pyarrow.table(result).num_rows == 2       # as often as wanted
    assert pyarrow.table(tablet.scanner().set_projected_column_names(["n"])).to_pydict() == {"n": [7, 7]}
    assert pyarrow.table(tablet.scanner().set_limit(0).to_arrow()).num_columns == 4


def test_polars_is_asked_for_by_name_where_it_is_missing(tablet: Tablet) -> None:
    try:
        import polars  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="polars"):
            tablet.scanner().to_polars()
    else:
        assert tablet.scanner().to_polars().shape == (0, 4)


def test_scanners_refuse_what_they_cannot_do(tablet: Tablet) -> None:
    for wrong in (lambda: tablet["nope"], lambda: tablet.scanner().set_projected_column_names(["nope"]),
                  lambda: tablet["id"] == None, lambda: tablet["id"] >= "x", lambda: tablet["n"] < 2**31,    # noqa: E711
                  lambda: tablet["id"] != 1, lambda: tablet.scanner().set_read_mode("dirty"),    # type: ignore[arg-type]
                  lambda: tablet.scanner().set_limit(-1), lambda: tablet.scanner().open().set_limit(1),
                  lambda: tablet.scanner().add_predicate(True)):     # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            wrong()


# -- files -------------------------------------------------------------------------------------------------------------
def test_reopening_finds_the_rows_again(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "deep" / "t", small_schema(), table_name="people") as tablet:
        insert(tablet, (1, "a"), (2, "b"))
        session = tablet.new_session()
        session.apply(session.new_delete({"id": 1}))
        session.flush()
        rows, checksum, at = tablet.scanner().open().read_all_tuples(), tablet.checksum(), tablet.now()
    for _ in range(3):
        with Tablet.open(tmp_path / "deep" / "t") as tablet:
            assert (tablet.scanner().open().read_all_tuples(), tablet.checksum()) == (rows, checksum)
            assert tablet.table_name == "people" and tablet.now() > at
            assert tablet.stats()["memrowset"]["id"] >= 1
    with Tablet.open(tmp_path / "deep" / "t") as tablet:
        insert(tablet, (3, "c"))
        assert ids(tablet) == [2, 3]
    with Tablet.open(tmp_path / "deep" / "t") as tablet:
        assert ids(tablet) == [2, 3]


def test_what_was_sent_and_not_waited_for_is_there_after_a_close(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", small_schema()) as tablet:
        batch = tablet._store.new_batch()
        batch.add(1, [1])
        tablet._store.append(batch)
    with Tablet.open(tmp_path / "t") as tablet:
        assert ids(tablet) == [1]


def test_operations_without_a_commit_are_committed_when_opening(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", small_schema()) as tablet:
        insert(tablet, (1, "a"))
        tablet._port.commit = lambda message: None      # type: ignore[method-assign]
        session = tablet.new_session()
        session.apply(session.new_insert({"id": 2}))
        session.flush()
        session.apply(session.new_insert({"id": 1}))
        session.apply(session.new_delete({"id": 1}))
        with pytest.raises(RowErrors):
            session.flush()
        term = tablet.log.term
    with Tablet.open(tmp_path / "t") as tablet:
        assert ids(tablet) == [2]
        assert tablet.log.term == term + 1
        rows = tablet.scanner().open().read_all_tuples()
    with Tablet.open(tmp_path / "t") as tablet:
        assert tablet.scanner().open().read_all_tuples() == rows
        assert tablet.log.term == term + 1              # nothing was left to be committed


def test_a_tablet_that_nobody_closed_lets_go_of_its_folder(tmp_path: Path) -> None:
    tablet = Tablet.create(tmp_path / "t", small_schema())
    insert(tablet, (1, "a"))
    del tablet
    gc.collect()
    with Tablet.open(tmp_path / "t") as tablet:
        assert ids(tablet) == [1]


def test_a_second_opener_is_refused(tablet: Tablet) -> None:
    with pytest.raises(DirectoryLocked):
        Tablet.open(tablet.path)


def test_a_closed_tablet_says_so(tmp_path: Path) -> None:
    tablet = Tablet.create(tmp_path / "t", small_schema())
    session, scanner = tablet.new_session(), tablet.scanner()
    session.apply(session.new_insert({"id": 1}))
    tablet.close()
    tablet.close()
    assert "closed" in repr(tablet)
    for use in (session.flush, scanner.open, tablet.new_session, tablet.scanner, tablet.now, tablet.count,
                lambda: tablet.get(1), lambda: session.apply(session.new_insert({"id": 2}))):
        with pytest.raises(TabletClosed):
            use()


def test_create_refuses_what_it_would_overwrite(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(InvalidArgument, match="not empty"):
        Tablet.create(tmp_path / "full", small_schema())
    Tablet.create(tmp_path / "t", small_schema()).close()
    with pytest.raises(InvalidArgument, match="tablet already"):
        Tablet.create(tmp_path / "t", small_schema())
    with pytest.raises(InvalidArgument, match="no option"):
        Tablet.create(tmp_path / "u", small_schema(), durable=True)
    assert not (tmp_path / "u").exists()
    with pytest.raises(NotFound):
        Tablet.open(tmp_path / "nothing")


def test_a_part_of_a_table_can_be_read_and_not_written(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", small_schema()) as tablet:
        insert(tablet, (1, "a"))
        path = tmp_path / "t" / "tablet-meta" / tablet.tablet_id
    message = read_superblock(path).message
    message.partition.partition_key_end = b"\x80\0\0\0\0\0\0\5"
    write_superblock(path, message)
    with Tablet.open(tmp_path / "t") as tablet:
        assert ids(tablet) == [1]
        session = tablet.new_session()
        with pytest.raises(Unsupported, match="part of its table"):
            session.apply(session.new_insert({"id": 2}))


def test_batches_of_tuples_come_from_an_iterator(tablet: Tablet) -> None:
    insert(tablet, *((key,) for key in range(5)))
    scanner = tablet.scanner().set_batch_rows(2).set_projected_column_names(["id"])
    assert [[row[0] for row in batch] for batch in scanner.xbatches()] == [[0, 1], [2, 3], [4]]
    assert "id" in repr(scanner) and "open" in repr(scanner)
