"""Schema changes of an embedded tablet: what is refused, what writers, scans and the log see of them."""
from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import altering_model
import pytest
from altering_model import AlteringModel

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.bootstrap import replay
from kudu_storage.errors import InvalidArgument, RowErrors, TabletClosed, WaitTimeout

OPTIONS = {"durability": "os", "maintenance": "manual"}


def people() -> Any:
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.int64).nullable(False).primary_key()
    builder.add_column("name", kudu.string)
    builder.add_column("note", kudu.string)
    return builder.build()


@pytest.fixture
def tablet(tmp_path: Path) -> Any:
    with Tablet.create(tmp_path / "t", people(), **OPTIONS) as found:
        write(found, {"id": 1, "name": "one", "note": "n"})
        yield found


def write(tablet: Tablet, *rows: dict[str, Any]) -> None:
    session = tablet.new_session()
    for row in rows:
        session.apply(tablet.new_upsert(row))
    session.flush()


def rows(tablet: Tablet) -> list[tuple[Any, ...]]:
    return tablet.scanner().ordered().open().read_all_tuples()


def test_columns_come_go_and_change_their_names(tablet: Tablet) -> None:
    before, at = tablet.schema, tablet.now()
    alterer = tablet.new_table_alterer()
    alterer.add_column("age", kudu.int32, nullable=False, default=7)
    alterer.alter_column("name", rename_to="full_name").encoding("dict").compression("lz4")
    alterer.drop_column("note")
    alterer.alter()
    assert tablet.schema.names == ["id", "full_name", "age"]
    write(tablet, {"id": 2, "full_name": "two"})
    assert rows(tablet) == [(1, "one", 7), (2, "two", 7)]
    assert tablet.scanner().set_snapshot(at).open().read_all_tuples() == [(1, "one", 7)]
    assert tablet.get(1) == (1, "one", 7)
    ids = [column.id for column in tablet.schema]
    assert ids[:2] == [column.id for column in before][:2] and ids[2] not in [column.id for column in before]


def test_a_change_of_defaults_leaves_the_rows_that_are_there(tablet: Tablet) -> None:
    alterer = tablet.new_table_alterer()
    alterer.add_column("age", kudu.int32, nullable=False, default=7)
    alterer.alter()
    alterer = tablet.new_table_alterer()
    alterer.alter_column("age").default(8)
    alterer.alter()
    write(tablet, {"id": 2})
    assert rows(tablet) == [(1, "one", "n", 7), (2, None, None, 8)]


def test_a_dropped_column_never_comes_back(tablet: Tablet) -> None:
    for _ in range(2):
        alterer = tablet.new_table_alterer()
        alterer.drop_column("note")
        alterer.add_column("note", kudu.string)
        alterer.alter()
        assert rows(tablet) == [(1, "one", None)]
        write(tablet, {"id": 1, "note": "again"})
        assert rows(tablet) == [(1, "one", "again")]
        tablet.flush()


def test_impossible_changes_leave_all_as_it_is(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", AlteringModel().schema(), **OPTIONS) as tablet:
        altering_model.impossible_changes(tablet)
        last = tablet.log.last
        tablet.new_table_alterer().alter()          # nothing to do: nothing in the log
        assert tablet.log.last == last


def test_operations_of_before_are_mapped_by_name_or_refused(tablet: Tablet) -> None:
    mapped, refused = tablet.new_session(), tablet.new_session()
    mapped.apply(tablet.new_upsert({"id": 2, "name": "two"}))
    refused.apply(tablet.new_upsert({"id": 3, "note": "three"}))
    alterer = tablet.new_table_alterer()
    alterer.add_column("age", kudu.int32)
    alterer.alter()
    mapped.flush()
    alterer = tablet.new_table_alterer()
    alterer.drop_column("note")
    alterer.alter()
    last = tablet.log.last
    with pytest.raises(RowErrors, match="note"):
        refused.flush()
    assert tablet.log.last == last
    assert rows(tablet) == [(1, "one", None), (2, "two", None)]


def test_an_open_scan_goes_on_as_it_began(tablet: Tablet) -> None:
    scan = tablet.scanner().open()
    alterer = tablet.new_table_alterer()
    alterer.drop_column("note")
    alterer.alter()
    tablet.compact()
    assert scan.read_all_tuples() == [(1, "one", "n")]


def test_the_schema_is_there_again_after_opening_and_in_the_log(tmp_path: Path) -> None:
    root = tmp_path / "t"
    with Tablet.create(root, people(), **OPTIONS) as tablet:
        alterer = tablet.new_table_alterer()
        alterer.rename("persons")
        alterer.add_column("age", kudu.int8, nullable=False, default=1)
        alterer.alter()
        write(tablet, {"id": 1})
    with Tablet.open(root, **OPTIONS) as tablet:
        assert (tablet.table_name, tablet.schema.names) == ("persons", ["id", "name", "note", "age"])
        assert rows(tablet) == [(1, None, None, 1)]
    assert replay(root, data_dirs=[root]).report.rows == 1


def test_writers_wait_for_a_change_in_threads_and_in_event_loops(tablet: Tablet) -> None:
    inside, go = threading.Event(), threading.Event()

    def quiet() -> None:
        with tablet._store.quiesced():
            inside.set()
            assert go.wait(60)

    async def flush() -> None:
        session = tablet.new_session()
        session.apply(tablet.new_upsert({"id": 2}))
        task = asyncio.ensure_future(session.flush_async())
        for _ in range(20):
            await asyncio.sleep(0)          # the loop runs on
        assert not task.done()
        waiting = tablet.new_session(timeout=0.01)
        waiting.apply(tablet.new_upsert({"id": 3}))
        with pytest.raises(WaitTimeout):
            waiting.flush()
        go.set()
        await asyncio.wait_for(task, 60)
        waiting.flush(timeout=60)

    thread = threading.Thread(target=quiet)
    thread.start()
    assert inside.wait(60)
    try:
        asyncio.run(flush())
    finally:
        go.set()
        thread.join()
    assert [row[0] for row in rows(tablet)] == [1, 2, 3]


def test_a_closed_tablet_and_foreign_names_are_refused(tablet: Tablet) -> None:
    alterer = tablet.new_table_alterer()
    with pytest.raises(InvalidArgument):
        alterer.rename("")
    alterer.drop_column("note")
    tablet.close()
    with pytest.raises(TabletClosed):
        alterer.alter()
