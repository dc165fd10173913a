"""Tablets on disk, claim by claim: what COMMITs name, what anchors hold, what open scans keep, what plans say."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tablet_model import Model, check_rows, model_schema

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument, NoSpace, RowErrors, TabletClosed
from kudu_storage.protos import message_class
from kudu_storage.tablet.maintenance_facts import MemoryFacts
from kudu_storage.tablet.maintenance_policy import Policy, next_action
from kudu_storage.tablet.scoring import MaintenancePolicy


def numbers() -> Schema:
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.int32, nullable=False)
    builder.add_column("v", kudu.string)
    builder.add_column("n", kudu.int64)
    return builder.set_primary_keys(["id"]).build()


@pytest.fixture
def tablet(tmp_path: Path) -> Iterator[Tablet]:
    with Tablet.create(tmp_path / "t", numbers(), durability="os", segment_size="16KiB",
                       compression="none", maintenance="manual") as made:
        yield made


def write(tablet: Tablet, verb: str, *rows: dict[str, Any]) -> None:
    session = tablet.new_session()
    for row in rows:
        session.apply(getattr(session, f"new_{verb}")(row))
    session.flush()


def fill(tablet: Tablet, keys: range, text: str = "x") -> None:
    write(tablet, "insert", *({"id": key, "v": text, "n": key} for key in keys))


def rows_of(tablet: Tablet) -> list[tuple[Any, ...]]:
    return tablet.scanner().ordered().open().read_all_tuples()


def rowset_ids(tablet: Tablet) -> list[int]:
    return [rowset["id"] for rowset in tablet.stats()["layout"]]


def targets(tablet: Tablet) -> list[list[dict[str, int]]]:
    """Of each row operation from now on, the stores that its COMMIT names. Filled as operations are applied."""
    found: list[list[dict[str, int]]] = []
    commit = tablet._port.commit

    def note(message: bytes) -> None:
        parsed: Any = message_class("kudu.consensus.CommitMsg").FromString(message)
        for row in parsed.result.ops:
            found.append([{field.name: value for field, value in store.ListFields()} for store in row.mutated_stores])
        commit(message)

    tablet._port.commit = note          # type: ignore[method-assign]
    return found


def around_swaps(tablet: Tablet, work: Callable[[int], None]) -> None:
    """Have work(number) run after each change of the view."""
    swap, numbers = tablet._store.swap, iter(range(100))

    def swap_and_work(make: Any) -> Any:
        found = swap(make)
        work(next(numbers))
        return found

    tablet._store.swap = swap_and_work  # type: ignore[method-assign]


# -- writes ------------------------------------------------------------------------------------------------------------
def test_rows_on_disk_take_every_verb(tablet: Tablet) -> None:
    fill(tablet, range(10))
    tablet.flush()
    assert tablet.stats()["memrowset"]["keys"] == 0
    with pytest.raises(RowErrors) as refused:
        write(tablet, "insert", {"id": 3, "v": "again"}, {"id": 10, "v": "new"})
    assert refused.value.count == 1
    write(tablet, "insert_ignore", {"id": 3, "v": "again"})
    write(tablet, "update", {"id": 4, "v": "updated"})
    write(tablet, "upsert", {"id": 5, "v": None})
    write(tablet, "delete", {"id": 6}, {"id": 7})
    write(tablet, "insert", {"id": 7, "v": "second life"})
    with pytest.raises(RowErrors) as refused:
        write(tablet, "update", {"id": 6, "v": "gone"})
    assert refused.value.count == 1
    expected = [(0, "x", 0), (1, "x", 1), (2, "x", 2), (3, "x", 3), (4, "updated", 4), (5, None, 5),
                (7, "second life", None), (8, "x", 8), (9, "x", 9), (10, "new", None)]
    for _ in range(2):
        assert rows_of(tablet) == expected
        assert [tablet.get(row[0]) for row in expected] == expected
        assert tablet.get(6) is None
        tablet.flush()


def test_commits_name_the_stores_that_changed(tablet: Tablet) -> None:
    found = targets(tablet)
    fill(tablet, range(2))
    tablet.flush()
    write(tablet, "update", {"id": 0, "v": "u"})
    write(tablet, "insert", {"id": 7})
    write(tablet, "delete_ignore", {"id": 99})
    tablet.flush()
    write(tablet, "delete", {"id": 0})
    assert found == [[{"mrs_id": 0}], [{"mrs_id": 0}], [{"rs_id": 0, "dms_id": 0}], [{"mrs_id": 1}], [],
                     [{"rs_id": 0, "dms_id": 1}]]


def test_a_change_during_the_second_half_of_a_flush_or_merge_names_both_stores(tablet: Tablet) -> None:
    fill(tablet, range(10))
    found = targets(tablet)
    around_swaps(tablet, lambda number: write(tablet, "update", {"id": number, "v": f"after swap {number}"}))
    tablet.maintenance.flush_memory()       # swaps: frozen, second half, done
    assert found == [[{"mrs_id": 0}], [{"mrs_id": 0}, {"rs_id": 0, "dms_id": 0}], [{"rs_id": 0, "dms_id": 0}]]
    del found[:]
    tablet.maintenance.merge([0])           # swaps: second half, done
    assert found == [[{"rs_id": 0, "dms_id": 0}, {"rs_id": 1, "dms_id": 0}], [{"rs_id": 1, "dms_id": 0}]]
    assert [row[1] for row in rows_of(tablet)[:6]] == [f"after swap {number}" for number in range(5)] + ["x"]


# -- the log -----------------------------------------------------------------------------------------------------------
def test_flushing_lets_the_log_go(tablet: Tablet) -> None:
    for first in range(0, 2000, 100):
        fill(tablet, range(first, first + 100), "x" * 60)
    held = tablet.log.gc()
    assert held.segments == 0 and "memrowset 0" in str(held.blocked_by)
    tablet.flush()
    assert tablet.log.gc().segments > 5
    write(tablet, "update", {"id": 5, "v": "in memory"})
    for first in range(2000, 4000, 100):
        fill(tablet, range(first, first + 100), "x" * 60)
    tablet.maintenance.flush_memory()
    assert "store 0/0" in str(tablet.log.gc().blocked_by)
    anchors = {anchor["owner"]: anchor["index"] for anchor in tablet.stats()["anchors"]}
    assert anchors.keys() == {"store 0/0", "operations in flight"}
    tablet.flush()
    assert tablet.log.gc().segments > 5
    path = tablet.path
    tablet.close()
    with Tablet.open(path, maintenance="manual") as opened:
        assert opened.count() == 4000 and opened.get(5) == (5, "in memory", 5)
        assert opened.stats()["memrowset"]["keys"] == 0, "what is flushed was replayed"


def test_operations_since_the_last_step_are_kept_before_any_store_has_an_anchor_of_them(tablet: Tablet) -> None:
    fill(tablet, range(10))
    tablet.flush()
    for first in range(100, 600, 100):
        fill(tablet, range(first, first + 100), "x" * 200)          # more than a segment each
    assert "operations in flight" in str(tablet.log.gc().blocked_by)
    path = tablet.path
    tablet.close()
    with Tablet.open(path, maintenance="manual") as opened:
        assert opened.count() == 510


def test_one_operation_changes_rows_on_disk_in_the_order_of_its_rows(tablet: Tablet) -> None:
    """Many rows of an operation are looked up in key order, and changed in theirs."""
    fill(tablet, range(2000))
    tablet.flush()
    keys = [key * 7919 % 2000 for key in range(2000)]
    write(tablet, "update", *({"id": key, "v": "once"} for key in keys))
    session = tablet.new_session()
    for key in keys:
        session.apply(session.new_update({"id": key, "v": "twice"}))
        if key % 3 == 0:
            session.apply(session.new_delete({"id": key}))
            session.apply(session.new_update_ignore({"id": key, "v": "not there"}))
        if key % 6 == 0:
            session.apply(session.new_insert({"id": key, "v": "new life"}))
            session.apply(session.new_update({"id": key, "n": -1}))
    session.flush()
    expected = [(key, "new life", -1) if key % 6 == 0 else (key, "twice", key) for key in range(2000)
                if key % 3 or key % 6 == 0]
    assert rows_of(tablet) == expected
    tablet.flush()
    assert rows_of(tablet) == expected


def test_a_commit_that_found_no_space_is_written_before_a_superblock_counts_on_it(tablet: Tablet) -> None:
    class Refused:
        done = property(lambda self: self.wait())

        def wait(self, timeout: float | None = None) -> Any:
            raise NoSpace("no space left")

    append, sent = tablet.log.append_commit, []

    def append_commit(message: bytes) -> Any:
        sent.append(message)
        return Refused() if len(sent) == 1 else append(message)

    tablet._port.log.append_commit = append_commit          # type: ignore[method-assign]
    fill(tablet, range(1))
    write(tablet, "delete", {"id": 0})
    tablet.flush()
    assert sent[0] in sent[1:]
    path = tablet.path
    tablet.close()
    with Tablet.open(path, maintenance="manual") as opened:
        assert opened.stats()["term"] == 0, "an operation had no COMMIT"
        assert opened.count() == 0


# -- readers -----------------------------------------------------------------------------------------------------------
def test_an_open_scan_reads_on_while_its_files_are_replaced(tablet: Tablet) -> None:
    for first in (0, 100):
        fill(tablet, range(first, first + 100))
        tablet.flush()
    expected = rows_of(tablet)
    scanners = [tablet.scanner().set_batch_rows(10).open() for _ in range(2)]
    begun = [scanners[0].read_next_batch_tuples(), []]
    write(tablet, "delete", *({"id": key} for key in range(0, 200, 2)))
    tablet.flush()
    tablet.maintenance.compact_columns(0, [1, 2])
    tablet.maintenance.merge([0, 1])
    assert tablet.count() == 100
    assert tablet.maintenance._metadata.message.orphaned_blocks, "nothing was kept for the scans"
    for scanner, rows in zip(scanners, begun, strict=True):
        assert sorted(rows + scanner.read_all_tuples()) == expected
        scanner.close()
    del scanner
    scanners.clear()
    tablet.maintenance.delete_orphans()
    assert not tablet.maintenance._metadata.message.orphaned_blocks
    named = {c.block.id for r in tablet.maintenance._metadata.message.rowsets for c in r.columns}
    assert named <= tablet.maintenance._blocks.live_blocks().keys()


def test_a_snapshot_is_what_it_was_through_flushes_and_merges(tablet: Tablet) -> None:
    seen: list[tuple[int, list[tuple[Any, ...]]]] = []
    for life in range(4):
        fill(tablet, range(20), f"life {life}")
        seen.append((tablet.now(), rows_of(tablet)))
        tablet.flush()
        write(tablet, "update", *({"id": key, "v": "changed"} for key in range(5)))
        seen.append((tablet.now(), rows_of(tablet)))
        write(tablet, "delete", *({"id": key} for key in range(20)))
        seen.append((tablet.now(), []))
        tablet.flush()
    tablet.maintenance.merge(rowset_ids(tablet))
    for at, rows in seen:
        assert tablet.scanner().set_snapshot(at).ordered().read_all_tuples() == rows
        assert tablet.get(3, at=at) == (rows[3] if rows else None)
        assert tablet.count(at) == len(rows)


def test_a_snapshot_below_the_history_mark_is_refused_and_dead_rows_go(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", numbers(), history_seconds=0, maintenance="manual") as tablet:
        fill(tablet, range(20))
        at = tablet.now()
        tablet.flush()
        write(tablet, "delete", *({"id": key} for key in range(20)))
        tablet.flush()
        assert tablet.get(3, at=at) == (3, "x", 3) and tablet.count(at) == 20
        assert [done.kind for done in tablet.compact()] == ["rowset_gc"]
        for reading in (lambda: tablet.get(3, at=at), lambda: tablet.count(at),
                        lambda: tablet.scanner().set_snapshot(at).open()):
            with pytest.raises(InvalidArgument, match="history mark"):
                reading()
        assert tablet.stats()["rowsets"] == 0 and tablet.count() == 0
        fill(tablet, range(3))
        assert tablet.count() == 3
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert tablet.count() == 3
        with pytest.raises(InvalidArgument, match="history mark"):
            tablet.count(at)


# -- plans -------------------------------------------------------------------------------------------------------------
def test_plans_say_what_a_step_frees_and_running_them_ends(tablet: Tablet) -> None:
    for first in range(0, 1000, 50):
        fill(tablet, range(first, first + 50), "x" * 60)
    policy = Policy(MaintenancePolicy(log_bytes_max=1, flush_after_s=0, disk_bytes_min=0))
    memory = MemoryFacts(0, 1)
    (plan,) = tablet.maintained.plans(memory, policy)
    assert plan.action.target == "memrowset 0"
    assert [anchor.owner for anchor in plan.anchors_freed] == ["memrowset 0"] and plan.write_bytes > 1000 * 60
    assert plan.anchors_freed[0].log_bytes > 1000 * 60 and plan.memory_bytes_freed > 1000 * 60
    done: list[str] = []
    for first in range(0, 1000, 50):
        write(tablet, "upsert", *({"id": key, "v": "y" * 90} for key in range(first, first + 50)))
    while True:
        facts = tablet.maintained.facts()
        assert facts is not None
        chosen = next_action({0: facts}, memory, policy, dice=lambda: 1.0)
        if chosen is None:
            break
        done.append(chosen[1].kind)
        assert tablet.maintained.run(chosen[1])
        assert len(done) < 30, done
    assert "flush_memrowset" in done and "log_gc" in done
    assert tablet.count() == 1000
    assert tablet.stats()["memrowset"]["keys"] == 0


def test_overlapping_rowsets_are_merged_and_others_are_left(tablet: Tablet) -> None:
    for step in range(3):
        fill(tablet, range(step, 300, 3))
        tablet.flush()
    assert tablet.stats()["rowsets"] == 3
    assert [done.kind for done in tablet.compact()] == ["merge"]
    [rowset] = tablet.stats()["layout"]
    assert (rowset["rows"], rowset["live_rows"], rowset["redo_files"]) == (300, 300, 0)
    assert tablet.compact() == []
    assert tablet.count() == 300


# -- ends --------------------------------------------------------------------------------------------------------------
def test_closing_waits_for_what_runs_and_ends_it(tablet: Tablet) -> None:
    fill(tablet, range(10))
    flushing, go_on = threading.Event(), threading.Event()
    sync_log = tablet._store.sync_log

    def wait_and_sync() -> None:
        flushing.set()
        assert go_on.wait(60)
        sync_log()

    tablet._store.sync_log = wait_and_sync      # type: ignore[method-assign]
    worker = threading.Thread(target=tablet.maintenance.flush_memory)
    worker.start()
    assert flushing.wait(60)
    closer = threading.Thread(target=tablet.close)
    closer.start()
    go_on.set()
    worker.join()
    closer.join()
    assert tablet.closed
    with pytest.raises(TabletClosed):
        tablet.flush()
    with Tablet.open(tablet.path, maintenance="manual") as opened:
        assert opened.count() == 10 and opened.stats()["rowsets"] == 1


def test_a_flushed_tablet_that_nobody_closed_lets_go_of_its_folder(tmp_path: Path) -> None:
    tablet = Tablet.create(tmp_path / "t", numbers(), maintenance="manual")
    fill(tablet, range(10))
    tablet.flush()
    tablet.compact()
    assert tablet.maintained.facts() is not None
    del tablet
    with Tablet.open(tmp_path / "t", maintenance="manual") as opened:
        assert opened.count() == 10
    assert opened.stats()["rowsets"] == 1


def test_blocks_that_a_crash_left_are_deleted_at_the_next_opening(tmp_path: Path) -> None:
    with Tablet.create(tmp_path / "t", model_schema(), maintenance="manual") as tablet:
        model = Model()
        model.apply("insert", {"a": "a", "b": 1})
        write(tablet, "insert", {"a": "a", "b": 1})
        tablet.flush()
        named = tablet.maintenance._blocks.live_blocks().keys()
        with tablet.maintenance._blocks.transaction() as transaction:
            transaction.create_block().append(b"left over")
            transaction.commit()
        assert len(tablet.maintenance._blocks.live_blocks()) == len(named) + 1
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert tablet.maintenance._blocks.live_blocks().keys() == named
        check_rows(tablet, model)


# -- scans -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 3])
def test_predicates_limit_and_order_mean_the_same_whatever_lies_where(threads: int, tablet: Tablet) -> None:
    fill(tablet, range(0, 3000, 3))
    tablet.flush()
    fill(tablet, range(1, 3000, 3))
    tablet.flush()
    write(tablet, "update", *({"id": key, "v": "changed"} for key in range(0, 3000, 30)))
    write(tablet, "delete", *({"id": key} for key in range(1, 3000, 30)))
    fill(tablet, range(2, 3000, 3))
    everything = rows_of(tablet)
    assert len(everything) == 2900 and [row[0] for row in everything] == sorted(row[0] for row in everything)
    cases: list[tuple[list[Any], Callable[[tuple[Any, ...]], bool]]] = [
        ([], lambda row: True),
        ([tablet["v"] == "changed"], lambda row: row[1] == "changed"),
        ([tablet["id"] >= 500, tablet["id"] < 2000, tablet["v"] == "x"],
         lambda row: 500 <= row[0] < 2000 and row[1] == "x"),
        ([tablet["id"].in_list([0, 1, 2, 31, 2999, 5000])], lambda row: row[0] in (0, 2, 31, 2999)),
        ([tablet["n"].is_null()], lambda row: row[2] is None),
    ]
    for predicates, wanted in cases:
        expected = [row for row in everything if wanted(row)]
        found = tablet.scanner().add_predicates(predicates).set_threads(threads).open().read_all_tuples()
        assert sorted(found) == expected
        ordered = tablet.scanner().add_predicates(predicates).set_threads(threads).ordered()
        assert ordered.set_projected_column_names(["v", "id"]).open().read_all_tuples() == \
            [(row[1], row[0]) for row in expected]
        some = tablet.scanner().add_predicates(predicates).set_threads(threads).ordered().limit(7)
        assert some.open().read_all_tuples() == expected[:7]


def test_a_scan_has_a_sound_number_of_threads(tablet: Tablet) -> None:
    for wrong in (0, -1, 100_000):
        with pytest.raises(InvalidArgument, match="threads"):
            tablet.scanner().set_threads(wrong)


def test_a_diff_scan_shows_what_changed_and_what_went_whatever_was_flushed_between(tablet: Tablet) -> None:
    fill(tablet, range(100))
    tablet.flush()
    since = tablet.now()
    write(tablet, "update", {"id": 3, "v": "new"}, {"id": 4, "n": -4})
    write(tablet, "delete", {"id": 5}, {"id": 6})
    tablet.flush()
    fill(tablet, range(100, 103))
    write(tablet, "insert", {"id": 6, "v": "again", "n": 6}, {"id": 200, "v": "short", "n": 0})
    write(tablet, "delete", {"id": 200})
    until = tablet.now()
    write(tablet, "delete", {"id": 3}, {"id": 50})
    tablet.flush()
    changes = [(3, "new", 3, False), (4, "x", -4, False), (6, "again", 6, False),
               *((key, "x", key, False) for key in range(100, 103))]
    for _ in range(2):
        scanner = tablet.scanner().set_diff(since, until)
        assert scanner.schema.names == ["id", "v", "n", "is_deleted"]
        found = scanner.open().read_all_tuples()
        assert [row for row in found if not row[3]] == changes
        assert [row[0] for row in found if row[3]] == [5]
        some = tablet.scanner().set_diff(since, until).add_predicate(tablet["id"] > 4)
        assert [(row[0], row[1]) for row in some.set_projected_column_names(["id"]).open()] == \
            [(5, True), (6, False), (100, False), (101, False), (102, False)]
        assert [row[0] for row in tablet.scanner().set_diff(until).open() if row[3]] == [3, 50]
        tablet.compact()
    assert tablet.scanner().set_diff(since, since).open().read_all_tuples() == []
    with pytest.raises(InvalidArgument, match="backwards"):
        tablet.scanner().set_diff(until, since).open()
