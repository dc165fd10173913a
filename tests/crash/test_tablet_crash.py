"""A crash behind every file call of a tablet's life: what a flush returned for is there. And faults of single calls."""
from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crash_disk import CrashedFolder, Fate, each_state, fates
from tablet_model import Model, Operation, model_schema, random_operation, write_batch

from kudu_storage import Tablet
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import KuduStorageError, LogPoisoned, NoSpace

if TYPE_CHECKING:
    from conftest import Counts

OPTIONS: dict[str, Any] = {"segment_size": "16KiB", "compression": "none", "maintenance": "manual"}


class Life:
    """A tablet's life on a recording disk: after which call which rows were promised."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.disk = RecordingDisk()
        self.rng = random.Random(seed)
        self.model = Model()
        self.promises: list[tuple[int, list[tuple[Any, ...]] | None]] = [(0, None)]     # None: not created yet
        root.mkdir()

    def promise(self) -> None:
        self.promises.append((len(self.disk), self.model.sorted()))

    def run(self, *, batches: int, reopen_at: int) -> None:
        tablet = Tablet.create(self.root, model_schema(), disk=self.disk, **OPTIONS)
        self.promise()
        for number in range(batches):
            write_batch(tablet, self.model, self.operations())
            self.promise()
            if number == reopen_at:
                tablet.close()
                tablet = Tablet.open(self.root, disk=self.disk, **OPTIONS)
        tablet.close()

    def operations(self) -> list[Operation]:
        return [random_operation(self.rng) for _ in range(self.rng.randrange(1, 40))]

    def allowed(self, calls: int) -> list[list[tuple[Any, ...]] | None]:
        """What was promised last, and what was under way."""
        last = max(i for i, (made, _) in enumerate(self.promises) if made <= calls)
        return [rows for _, rows in self.promises[last:last + 2]]


@pytest.mark.parametrize("seed", range(2))
def test_what_was_flushed_survives_a_crash_at_any_call(seed: int, tmp_path: Path, counts: Counts) -> None:
    life = Life(tmp_path / "t", seed)
    life.run(batches=10, reopen_at=4)
    calls = life.disk.calls()
    seen: set[tuple[bytes, int]] = set()
    for made in range(len(calls) + 1):
        allowed = life.allowed(made)

        def check(path: Path, digest: bytes, fate: Fate, made: int = made,
                  allowed: list[list[tuple[Any, ...]] | None] = allowed) -> None:
            counts.tried += 1
            counts.states.add(digest)
            if (digest, len(allowed[0] or ())) in seen:
                return
            seen.add((digest, len(allowed[0] or ())))
            try:
                check_opens(path, allowed)
            except BaseException as error:
                error.add_note(f"crash behind call {made} ({calls[made - 1][:6] if made else 'none'}), {fate}")
                raise

        each_state(CrashedFolder(life.root, calls[:made]), fates(made, 2), check)


def check_opens(path: Path, allowed: list[list[tuple[Any, ...]] | None]) -> None:
    try:
        tablet = Tablet.open(path, **OPTIONS)
    except KuduStorageError:
        if None not in allowed:
            raise
        return                          # create() had not returned
    with tablet:
        rows = tablet.scanner().open().read_all_tuples()
        assert rows in [found or [] for found in allowed]
        session = tablet.new_session()
        session.apply(session.new_upsert({"a": "after", "b": 1}))
        session.flush()
    with Tablet.open(path, **OPTIONS) as tablet:
        assert tablet.scanner().open().read_all_tuples() == sorted(
            [*rows, ("after", 1, None, 9, None)], key=lambda row: (row[0].encode(), row[1]))


# -- faults ------------------------------------------------------------------------------------------------------------
def test_a_full_disk_refuses_a_flush_and_the_next_one_sends_it_again(tmp_path: Path) -> None:
    disk = RecordingDisk()
    rng = random.Random(5)
    model = Model()
    with Tablet.create(tmp_path / "t", model_schema(), disk=disk, **OPTIONS) as tablet:
        write_batch(tablet, model, [random_operation(rng) for _ in range(20)])
        for partial in (0, 9):
            disk.fail("write", 1, errno.ENOSPC, partial=partial, onwards=True)
            session = tablet.new_session()
            for key in range(3):
                session.apply(session.new_upsert({"a": "full", "b": key, "v": "x" * 700}))
            with pytest.raises(NoSpace):
                session.flush()
            assert tablet.scanner().open().read_all_tuples() == model.sorted()
            assert session.has_pending_operations()
            disk.fail("write", 0, 0)
            session.flush()
            for key in range(3):
                model.apply("upsert", {"a": "full", "b": key, "v": "x" * 700})
            write_batch(tablet, model, [random_operation(rng) for _ in range(20)])
            assert tablet.scanner().open().read_all_tuples() == model.sorted()
    with Tablet.open(tmp_path / "t") as tablet:
        assert tablet.scanner().open().read_all_tuples() == model.sorted()


def test_after_a_failed_sync_nothing_is_acknowledged_and_reopening_tells(tmp_path: Path) -> None:
    disk = RecordingDisk()
    model = Model()
    tablet = Tablet.create(tmp_path / "t", model_schema(), disk=disk, **OPTIONS)
    write_batch(tablet, model, [("insert", {"a": "a", "b": 1})])
    disk.fail("sync", 1, errno.EIO)
    session = tablet.new_session()
    session.apply(session.new_insert({"a": "b", "b": 1}))
    with pytest.raises(LogPoisoned):
        session.flush()
    assert tablet.scanner().open().read_all_tuples() == model.sorted()
    with pytest.raises(LogPoisoned):
        write_batch(tablet, model.copy(), [("insert", {"a": "c", "b": 1})])
    with pytest.raises(LogPoisoned):
        tablet.close()
    with Tablet.open(tmp_path / "t") as tablet:
        assert [row[0] for row in tablet.scanner().open().read_all_tuples()] in (["a"], ["a", "b"])
