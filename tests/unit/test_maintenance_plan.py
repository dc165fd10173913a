"""What an action says before it runs."""
from __future__ import annotations

import json

import pytest
from maintained import (
    MIB,
    NOW,
    TABLET,
    anchor,
    changes_in_memory,
    delta_file,
    deltas,
    rows_in_memory,
    rowset,
    tablet,
)

from kudu_storage.errors import InvalidArgument
from kudu_storage.tablet.maintenance_facts import LogFacts, MemoryFacts, TabletFacts
from kudu_storage.tablet.maintenance_plan import Plan, plan_of, size_text
from kudu_storage.tablet.maintenance_policy import Action, Policy, possible_actions

ROWS = rows_in_memory(70 * MIB, 80 * MIB, 60, store_id=12, log_index=100)
CHANGES = changes_in_memory(7, 3 * MIB, 30 * MIB, 50, dms_id=3, log_index=500)


def plan(facts: TabletFacts, kind: str) -> Plan:
    (action,) = [o.action for o in possible_actions(facts, Policy(), memory=MemoryFacts(0, 1)) if o.action.kind == kind]
    return plan_of(facts, action)


def test_a_flush_frees_memory_its_anchor_and_log_down_to_the_next_anchor() -> None:
    found = plan(tablet(ROWS, CHANGES), "flush_memrowset")
    assert (found.read_bytes, found.write_bytes, found.removed_bytes) == (0, 70 * MIB, 0)
    assert found.memory_bytes_freed == 70 * MIB
    assert [a.owner for a in found.anchors_freed] == ["memrowset 12"]
    assert found.log_bytes_freed == 50 * MIB
    assert found.held_by is not None and found.held_by.owner == "store 7/3"
    assert found.lines() == [
        "flush_memrowset of memrowset 12",
        "  writes 3 rowsets: columns, UNDO deltas, bloom filter, key index, at most 70.0 MiB",
        "  frees 70.0 MiB of memory",
        "  frees the anchor of memrowset 12 at operation 100, 80.0 MiB of log",
        "  the log needs 50.0 MiB less: store 7/3 holds it from operation 500 on",
    ]


def test_a_flush_above_the_lowest_anchor_frees_no_log_yet() -> None:
    found = plan(tablet(ROWS, CHANGES), "flush_deltas")
    assert [a.owner for a in found.anchors_freed] == ["store 7/3"]
    assert found.log_bytes_freed == 0
    assert found.held_by is not None and found.held_by.owner == "memrowset 12"
    assert found.writes[0].text == "a REDO file of rowset 7, at most 3.0 MiB"


def test_readers_and_operations_in_flight_hold_the_log_too() -> None:
    log = LogFacts(90 * MIB, 0, 0, (anchor("a reader", 90, 85 * MIB), anchor("operations in flight", 900, MIB)))
    found = plan(tablet(ROWS, log=log), "flush_memrowset")
    assert found.log_bytes_freed == 0 and found.held_by is not None and found.held_by.owner == "a reader"
    log = LogFacts(90 * MIB, 0, 0, (anchor("operations in flight", 900, MIB),))
    assert plan(tablet(ROWS, log=log), "flush_memrowset").log_bytes_freed == 79 * MIB


def test_with_the_last_anchor_all_of_the_log_can_go() -> None:
    found = plan(tablet(ROWS), "flush_memrowset")
    assert (found.log_bytes_freed, found.held_by) == (80 * MIB, None)
    assert found.lines()[-1] == "  the log needs 80.0 MiB less: nothing else holds it"


def test_delta_compactions_read_what_they_replace() -> None:
    facts = tablet(deltas=[deltas(7, redos=[delta_file(70, 2 * MIB), delta_file(71, MIB)])])
    minor, major = plan(facts, "minor_delta"), plan(facts, "major_delta")
    assert (minor.read_bytes, minor.write_bytes, minor.removed_bytes) == (3 * MIB, 3 * MIB, 3 * MIB)
    assert minor.reads[0].text == "2 REDO files of rowset 7, 3.0 MiB"
    assert (major.read_bytes, major.write_bytes, major.removed_bytes) == (13 * MIB, 13 * MIB, 13 * MIB)
    assert [item.what for item in major.reads] == ["1 column of rowset 7", "2 REDO files of rowset 7"]
    assert not minor.anchors_freed and not major.anchors_freed


def test_a_merge_reads_data_and_removes_all_files_of_its_rowsets() -> None:
    found = plan(tablet(rowsets=[rowset(1, 0, 99), rowset(2, 0, 99)]), "merge")
    assert (found.read_bytes, found.write_bytes, found.removed_bytes) == (64 * MIB, 66 * MIB, 66 * MIB)
    assert found.writes[0].text == "2 rowsets without overlap, about 66.0 MiB"
    assert (found.memory_bytes_freed, found.anchors_freed) == (0, ())


def test_a_merge_takes_along_what_is_in_its_rowsets_memory() -> None:
    found = plan(tablet(ROWS, CHANGES, rowsets=[rowset(6, 0, 99), rowset(7, 0, 99)]), "merge")
    assert found.memory_bytes_freed == 3 * MIB
    assert [a.owner for a in found.anchors_freed] == ["store 7/3"]
    assert found.held_by is not None and (found.held_by.owner, found.log_bytes_freed) == ("memrowset 12", 0)


def test_what_goes_unread_writes_nothing() -> None:
    facts = tablet(changes_in_memory(6, 5, 40 * MIB), rowsets=[rowset(6, 0, 9)], history_mark=500, deltas=[
        deltas(5, undos=[delta_file(51, 3, 600, 700), delta_file(50, 4, 10, 20)]),
        deltas(6, redos=[delta_file(60, 10, 10, 20, deletes=9, updates={})], live=0)])
    undos, dead = plan(facts, "undo_gc"), plan(facts, "rowset_gc")
    assert (undos.read_bytes, undos.write_bytes, undos.removed_bytes) == (0, 0, 4)
    assert undos.removes[0].text == "1 UNDO file of rowset 5, 4 B"
    assert (dead.write_bytes, dead.removed_bytes) == (0, 33 * MIB)
    assert [a.owner for a in dead.anchors_freed] == ["store 6/0"]


def test_a_collection_of_log_says_who_keeps_the_rest() -> None:
    found = plan(tablet(ROWS, log=LogFacts(100 * MIB, 20 * MIB, 2)), "log_gc")
    assert found.removes[0].text == "2 segments of the log, 20.0 MiB"
    assert found.held_by is not None and found.held_by.owner == "memrowset 12"


def test_the_json_has_what_the_text_has() -> None:
    found = json.loads(json.dumps(plan(tablet(ROWS, CHANGES), "flush_memrowset").to_json(NOW)))
    assert found["action"]["kind"] == "flush_memrowset" and found["action"]["tablet_id"] == TABLET
    assert found["anchors_freed"] == [{"owner": "memrowset 12", "log_index": 100, "log_bytes": 80 * MIB,
                                       "since": NOW - 60, "held_seconds": 60}]
    assert found["held_by"]["owner"] == "store 7/3"
    assert found["writes"][0]["bound"] == "at most"


def test_an_action_of_another_tablet_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        plan_of(tablet(), Action("log_gc", "f" * 32))


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"),
                                             (5 << 50, "5120.0 TiB")])
def test_sizes_as_people_read_them(count: int, text: str) -> None:
    assert size_text(count) == text


def test_many_items_are_summed_up_in_the_text_and_all_in_the_json() -> None:
    found = plan(tablet(rowsets=[rowset(i, 0, 99, MIB) for i in range(9)]), "merge")
    assert "  reads 5 more, 5.0 MiB" in found.lines() and len(found.lines()) == 12
    assert len(found.to_json(NOW)["reads"]) == 9
