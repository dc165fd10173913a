"""Rows written by flushes and compactions are, at every snapshot of the history, what a plain model says."""
from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import delta_twin as twin
import pytest
from delta_rows import SCHEMA
from mini_tablet import COMPOSITE, MiniTablet, key_of, random_write, read_rowset, some_cells

from kudu_storage._native.bloom_reader import BloomReader
from kudu_storage._native.delta import encode_change
from kudu_storage._native.mvcc import Snapshot
from kudu_storage.common.keys import encode_key
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, Contradiction, InternalError
from kudu_storage.tablet.compaction import flush_delta_store
from kudu_storage.tablet.metadata import SuperblockChange


@pytest.fixture
def tablet(tmp_path: Path) -> Iterator[MiniTablet]:
    tablet = MiniTablet(tmp_path / "t")
    yield tablet
    tablet.close()


def test_a_flush_keeps_all_versions(tablet: MiniTablet) -> None:
    rng = random.Random(1)
    for _ in range(200):
        random_write(tablet, rng, 40)
    tablet.flush()
    assert len(tablet.rowset_ids) == 1
    tablet.verify()
    tablet.verify_counts()


def step(tablet: MiniTablet, rng: random.Random, keys: int) -> str:
    """Some writes, then a flush or a compaction with writes beside it; what it was."""
    for _ in range(rng.randrange(12)):
        random_write(tablet, rng, keys)

    def meanwhile() -> None:
        for _ in range(rng.randrange(4)):
            random_write(tablet, rng, keys)

    ids = tablet.rowset_ids
    what = rng.choice(["flush", "flush", "deltas", "deltas", "minor", "major", "merge", "mark", "undos", "rowsets",
                       "orphans"])
    if what == "flush":
        tablet.flush(meanwhile)
    elif what == "deltas" and ids:
        tablet.flush_deltas(rng.choice(ids))
    elif what == "minor" and ids:
        chosen = rng.choice(ids)
        count = len(tablet.files(chosen).redo_ids)
        if count >= 2:
            first = rng.randrange(count - 1)
            tablet.minor(chosen, first, rng.randrange(first + 2, count + 1))
    elif what == "major" and ids:
        chosen = rng.choice(ids)
        if tablet.files(chosen).redo_ids:
            others = range(tablet.schema.key_column_count, len(tablet.schema))
            tablet.major(chosen, rng.sample(others, rng.randrange(1, 4)))
    elif what == "merge" and ids:
        tablet.merge(rng.sample(ids, rng.randrange(1, len(ids) + 1)), meanwhile)
    elif what == "mark":
        tablet.mark = max(tablet.mark, tablet.now - rng.randrange(60))
    elif what == "undos":
        tablet.forget_undos()
    elif what == "rowsets":
        tablet.forget_rowsets()
    elif what == "orphans":
        tablet.metadata.delete_orphans()
    return what


SEEDS = int(os.environ.get("KUDU_STORAGE_SEEDS", "40"))


@pytest.mark.parametrize("schema", [SCHEMA, COMPOSITE], ids=["one", "composite"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_histories_survive_flushes_and_compactions(seed: int, schema: Schema, tmp_path: Path) -> None:
    rng = random.Random(seed)
    tablet = MiniTablet(tmp_path / "t", schema, target_bytes=rng.choice([1, 2000, 32 << 20]))
    keys = rng.choice([3, 10, 40])
    done: list[str] = []
    try:
        for _ in range(25):
            done.append(step(tablet, rng, keys))
            first = max(tablet.mark, tablet.first_timestamp)
            tablet.verify(sorted({first, tablet.now + 1, *(rng.randrange(first, tablet.now + 2) for _ in range(4))}))
            tablet.verify_counts()
        tablet.verify()
    except BaseException as error:
        error.add_note(f"seed {seed}, after {done}")
        raise
    finally:
        tablet.close()


def test_rows_and_undos_from_before_the_history_mark_are_dropped_by_a_merge(tablet: MiniTablet) -> None:
    rng = random.Random(2)
    for key in range(10):
        tablet.write("INSERT", some_cells(SCHEMA, rng, key))
    for key in range(5):
        tablet.write("DELETE", {0: some_cells(SCHEMA, rng, key)[0]})
    tablet.flush()
    tablet.mark = tablet.now + 1
    tablet.merge(tablet.rowset_ids)
    [rowset] = tablet.metadata.message.rowsets
    assert (rowset.live_row_count, len(rowset.redo_deltas), len(rowset.undo_deltas)) == (5, 0, 0)
    assert tablet.files(rowset.id).row_count == 5
    tablet.verify()


def test_lives_of_a_key_in_several_rowsets_are_merged_in_any_order(tablet: MiniTablet) -> None:
    """Rowset 0 has the first and third life, rowset 1 the second: what one has lies between what the other has."""
    rng = random.Random(3)
    for _ in range(3):
        tablet.write("INSERT" if not tablet.histories else "REINSERT", some_cells(SCHEMA, rng, 7))
        tablet.write("UPDATE", {0: struct.pack("<i", 7), 2: b"changed %d" % tablet.now})
        tablet.flush()
        if len(tablet.rowset_ids) < 3:
            tablet.write("DELETE", {0: struct.pack("<i", 7)})
            tablet.flush_deltas(tablet.rowset_ids[-1])
    first, second, third = tablet.rowset_ids
    tablet.merge([first, third])
    tablet.verify()
    tablet.merge(tablet.rowset_ids)
    assert second not in tablet.rowset_ids
    assert tablet.files(tablet.rowset_ids[0]).row_count == 1
    tablet.verify()


def test_a_row_deleted_and_inserted_again_by_one_operation_keeps_both_lives(tablet: MiniTablet) -> None:
    rng = random.Random(4)
    key = {0: struct.pack("<i", 1)}
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.flush()
    tablet.write("DELETE", key)
    tablet.write("REINSERT", some_cells(SCHEMA, rng, 1), timestamp=tablet.now)
    tablet.write("UPDATE", {**key, 1: None}, timestamp=tablet.now)
    tablet.flush()
    tablet.flush_deltas(tablet.rowset_ids[0])
    tablet.merge(tablet.rowset_ids)
    tablet.verify()
    assert len(tablet.rowset_ids) == 1


def test_places_of_merged_rows_are_those_of_their_keys(tablet: MiniTablet) -> None:
    rng = random.Random(5)
    tablet.target_bytes = 1
    for _ in range(3):
        for _ in range(60):
            random_write(tablet, rng, 30)
        tablet.flush()
    before = dict(tablet.places)
    ids = tablet.rowset_ids
    compaction = tablet.merge(ids)
    assert before
    for key, (rowset_id, row) in before.items():
        found = compaction.place_of(ids.index(rowset_id), row)
        assert found is not None
        index, place = found
        assert tablet.places[key] == (compaction.rowsets[index].id, place)


def test_many_deltas_of_one_row_pass_through_every_compaction(tablet: MiniTablet) -> None:
    """More than a block of a delta file holds, so that a row's deltas lie in several."""
    rng = random.Random(6)
    for key in range(3):
        tablet.write("INSERT", some_cells(SCHEMA, rng, key))
    tablet.flush()
    [rowset_id] = tablet.rowset_ids
    times = []
    for _ in range(2):
        for number in range(300):
            tablet.write("UPDATE", {0: struct.pack("<i", 1), 1: struct.pack("<q", number), 2: b"%d" % number * 100})
            times.append(tablet.now)
        tablet.flush_deltas(rowset_id)
    some = [*rng.sample(times, 20), tablet.now + 1]
    tablet.minor(rowset_id, 0, 2)
    tablet.verify(some)
    tablet.major(rowset_id, [2])
    tablet.verify(some)
    tablet.merge([rowset_id])
    tablet.verify(some)
    [merged] = tablet.metadata.message.rowsets
    assert (len(merged.redo_deltas), len(merged.undo_deltas)) == (0, 1)


def test_undo_files_are_forgotten_as_a_whole_and_only_when_ancient(tablet: MiniTablet) -> None:
    rng = random.Random(7)
    for key in range(5):
        tablet.write("INSERT", some_cells(SCHEMA, rng, key))
    tablet.flush()
    tablet.mark = tablet.now
    assert tablet.forget_undos() == 0
    tablet.mark = tablet.now + 1
    assert tablet.forget_undos() == 1
    tablet.verify()


def test_a_rowset_of_dead_rows_goes_when_the_last_death_is_ancient(tablet: MiniTablet) -> None:
    rng = random.Random(8)
    for key in range(5):
        tablet.write("INSERT", some_cells(SCHEMA, rng, key))
    tablet.flush()
    for key in range(5):
        tablet.write("DELETE", {0: struct.pack("<i", key)})
    tablet.flush_deltas(tablet.rowset_ids[0])
    tablet.mark = tablet.now
    assert tablet.forget_rowsets() == 0
    tablet.mark = tablet.now + 1
    assert tablet.forget_rowsets() == 1
    assert not tablet.rowset_ids
    orphans = {block.id for block in tablet.metadata.message.orphaned_blocks}
    assert orphans
    assert set(tablet.metadata.delete_orphans()) == orphans
    assert not tablet.blocks.live_blocks()


def test_nothing_is_written_for_rows_that_nobody_can_see(tablet: MiniTablet) -> None:
    rng = random.Random(9)
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.write("DELETE", {0: struct.pack("<i", 1)}, timestamp=tablet.now)
    assert tablet.flush() == []
    assert tablet.metadata.message.last_durable_mrs_id == 0
    assert not tablet.blocks.live_blocks()


def test_two_live_rows_of_a_key_are_refused(tablet: MiniTablet) -> None:
    rng = random.Random(10)
    cells = some_cells(SCHEMA, rng, 1)
    tablet.write("INSERT", cells)
    tablet.flush()
    tablet.histories.clear()
    tablet.write("INSERT", cells)
    tablet.flush()
    with pytest.raises(Contradiction, match="two live rows"):
        tablet.merge(tablet.rowset_ids)
    assert key_of(SCHEMA, cells) in tablet.places


def test_a_reinsert_among_redos_survives_a_major_compaction_and_a_merge(tablet: MiniTablet) -> None:
    """Servers of old wrote such; the row is left out of the fold."""
    rng = random.Random(11)
    key = struct.pack("<i", 1)
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.write("INSERT", some_cells(SCHEMA, rng, 2))
    tablet.flush()
    [rowset_id] = tablet.rowset_ids
    store = tablet.stores[rowset_id]
    whole = {1: struct.pack("<q", 5), 2: b"again", 3: struct.pack("<h", 6)}
    changes: list[tuple[str, dict[int, bytes | None]]] = [
        ("UPDATE", {2: b"first"}), ("DELETE", {}), ("REINSERT", dict(whole)), ("UPDATE", {1: None})]
    for kind, cells in changes:
        tablet.now += 1
        store.add(0, tablet.now, encode_change(kind, cells))
        tablet.histories[key_of(SCHEMA, {0: key})].append(twin.Op(tablet.now, kind, cells))
    tablet.write("UPDATE", {0: struct.pack("<i", 2), 2: b"other"})
    tablet.flush_deltas(rowset_id)
    tablet.major(rowset_id, [1, 2])
    assert len(tablet.files(rowset_id).undo_ids) == 2
    tablet.verify()
    tablet.merge([rowset_id])
    tablet.verify()


@pytest.mark.parametrize("schema", [SCHEMA, COMPOSITE], ids=["one", "composite"])
def test_every_key_is_found_in_the_bloom_filter_and_the_key_index(schema: Schema, tmp_path: Path) -> None:
    rng = random.Random(12)
    tablet = MiniTablet(tmp_path / "t", schema)
    for key in rng.sample(range(2000), 400):
        tablet.write("INSERT", some_cells(schema, rng, key))
    tablet.flush()
    for _ in range(2):
        [rowset] = tablet.metadata.message.rowsets
        files = tablet.files(rowset.id)
        keys = [encode_key(schema, [state.cells[i] or b"" for i in range(schema.key_column_count)])
                for state in read_rowset(files, schema, lambda _: True)]
        assert keys == sorted(keys)
        assert (rowset.min_encoded_key, rowset.max_encoded_key) == (keys[0], keys[-1])
        bloom = BloomReader(files.file(rowset.bloom_block.id))
        index = files.file(rowset.adhoc_index_block.id) if schema.key_column_count > 1 else files.column(0)
        assert index is not None
        assert (index.metadata["min_key"], index.metadata["max_key"]) == (keys[0], keys[-1])
        cursor = index.cursor()
        for row, key in enumerate(keys):
            assert bloom.probe(key)
            assert cursor.find(key) == (row, True)
            assert not cursor.find(key + b"\0")[1]
        tablet.merge(tablet.rowset_ids)
    tablet.close()


@pytest.mark.parametrize("seed", range(10))
def test_operations_in_flight_at_the_snapshot_are_handed_over(seed: int, tablet: MiniTablet) -> None:
    """The snapshot has some later operations and lacks earlier ones, as the latest one may."""
    rng = random.Random(seed)
    tablet.target_bytes = rng.choice((1, 32 << 20))

    def changes() -> Snapshot:
        low, done = tablet.now + 1, []
        for key in rng.sample(range(20), 15):
            if key_of(SCHEMA, {0: struct.pack("<i", key)}) in alive:
                cells: dict[int, bytes | None] = {0: struct.pack("<i", key)}
                if rng.random() < 0.3:
                    tablet.write("DELETE", cells)
                else:
                    tablet.write("UPDATE", {**cells, 3: struct.pack("<h", rng.randrange(99))})
                if rng.random() < 0.5:
                    done.append(tablet.now)
        return Snapshot(low, done)

    for key in range(20):
        tablet.write("INSERT", some_cells(SCHEMA, rng, key))
    alive = set(tablet.histories)
    tablet.flush(before=changes())
    tablet.verify()
    alive = set(tablet.places)
    compaction = tablet.merge(tablet.rowset_ids, before=changes())
    tablet.verify()
    tablet.verify_counts()
    assert compaction.rowsets


@pytest.mark.parametrize(("cells", "why"), [({3: b"x"}, "another width"), ({3: None}, "not nullable"),
                                            ({1: b"123456789"}, "another width")], ids=["short", "null", "long"])
def test_deltas_that_do_not_fit_their_column_stop_a_compaction(cells: dict[int, bytes | None], why: str,
                                                               tablet: MiniTablet) -> None:
    rng = random.Random(13)
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.flush()
    [rowset_id] = tablet.rowset_ids
    tablet.stores[rowset_id].add(0, tablet.now + 1, encode_change("UPDATE", cells))
    with tablet.blocks.transaction() as transaction:
        edit, _ = flush_delta_store(tablet.stores[rowset_id], tablet.dms_ids[rowset_id], transaction)
        tablet.metadata.commit(SuperblockChange(edit={rowset_id: edit}), transaction)
    before, live = tablet.metadata.message, tablet.blocks.live_blocks()
    tablet.now += 1
    for compact in (lambda: tablet.major(rowset_id, [1, 3]), lambda: tablet.merge([rowset_id])):
        with pytest.raises(BadFormat, match=why):
            compact()
    assert (tablet.metadata.message, tablet.blocks.live_blocks()) == (before, live)


def test_a_change_of_a_dead_row_stops_a_merge(tablet: MiniTablet) -> None:
    rng = random.Random(14)
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.flush()
    [rowset_id] = tablet.rowset_ids
    for kind, cells in (("DELETE", {}), ("UPDATE", {1: None})):
        tablet.now += 1
        tablet.stores[rowset_id].add(0, tablet.now, encode_change(kind, cells))  # type: ignore[arg-type]
    with pytest.raises(Contradiction, match="contradict"):
        tablet.merge([rowset_id])


def test_a_merge_at_a_snapshot_that_lacks_a_flushed_delta_is_a_bug(tablet: MiniTablet) -> None:
    rng = random.Random(15)
    tablet.write("INSERT", some_cells(SCHEMA, rng, 1))
    tablet.flush()
    tablet.write("UPDATE", {0: struct.pack("<i", 1), 1: None})
    tablet.flush_deltas(tablet.rowset_ids[0])
    with pytest.raises(InternalError, match="lacks a delta"):
        tablet.merge(tablet.rowset_ids, before=Snapshot(tablet.now))
