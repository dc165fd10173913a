"""Rows written by flushes and compactions are, at every snapshot of the history, what a plain model says."""
from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from mini_tablet import MiniTablet, random_write, some_cells


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
            tablet.major(chosen, rng.sample((1, 2, 3), rng.randrange(1, 4)))
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


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_survive_flushes_and_compactions(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    tablet = MiniTablet(tmp_path / "t", target_bytes=rng.choice([1, 2000, 32 << 20]))
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
        tablet.write("INSERT", some_cells(rng, key))
    for key in range(5):
        tablet.write("DELETE", {0: some_cells(rng, key)[0]})
    tablet.flush()
    tablet.mark = tablet.now + 1
    tablet.merge(tablet.rowset_ids)
    [rowset] = tablet.metadata.message.rowsets
    assert (rowset.live_row_count, len(rowset.redo_deltas), len(rowset.undo_deltas)) == (5, 0, 0)
    assert tablet.files(rowset.id).row_count == 5
    tablet.verify()
