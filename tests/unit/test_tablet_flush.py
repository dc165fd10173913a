"""Tablets on disk: flushes and compactions through `kudu_storage.Tablet`, against a plain model.

KUDU_STORAGE_HISTORIES=N runs N random histories instead of a few; the seed of one that fails is in its name.
"""
from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altering_model
import pytest
from altering_model import AlteringModel
from tablet_model import Model, check_rows, model_schema, random_operation, write_batch
from tablet_steps import STEPS

from kudu_storage import Tablet
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.bootstrap import replay
from kudu_storage.common.schema import Schema

HISTORIES = int(os.environ.get("KUDU_STORAGE_HISTORIES", "16"))
FIRST_SEED = int(os.environ.get("KUDU_STORAGE_FIRST_SEED", "0"))
OPTIONS: dict[str, Any] = {"durability": "os", "segment_size": "16KiB", "maintenance": "manual"}


def check_live_rows(tablet: Tablet) -> None:
    """What is kept of rows being live, in memory and in the superblock, is so."""
    view, latest = tablet._store.view, tablet._store.latest()
    for flushed in view.flushed:
        shown = sum(len(block) for block in flushed.disk.scan(RowLayout(Schema(tablet.schema.key_columns)), latest))
        assert flushed.store.live.row_count - flushed.store.live.dead_count == shown, flushed.id
        if not flushed.disk.flushing:
            assert flushed.disk.message.live_row_count - flushed.disk.memory.delete_count == shown, flushed.id


class History:
    """A tablet and its model, through steps that a random generator picks."""

    schema_changes = 0.0            # their share of the steps

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.model: Any = self.new_model()
        self.folder = folder
        self.copies = 0
        self.trace: list[str] = []
        self.history_seconds = self.rng.choice([None, None, 0])
        self.options = {**OPTIONS, "rowset_size": self.rng.choice([1, 2000, "32MiB"])}
        self.busy = self.rng.random() < 0.7         # writers go on while a step runs
        self.tablet = Tablet.create(folder, self.schema(), history_seconds=self.history_seconds,
                                    compression=self.rng.choice(["lz4", "none"]), **self.options)
        self.keep_writing()

    # -- the model -----------------------------------------------------------------------------------------------------
    def new_model(self) -> Any:
        return Model()

    def schema(self) -> Schema:
        return model_schema()

    def write(self, tablet: Tablet, model: Any, most: int) -> None:
        write_batch(tablet, model, [random_operation(self.rng) for _ in range(self.rng.randrange(1, most))])

    def check(self, tablet: Tablet, model: Any) -> None:
        check_rows(tablet, model)

    def sorted(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.model.sorted()
        return found

    def snapshot(self) -> None:
        self.model.snapshots.append((self.tablet.now(), dict(self.model.rows)))

    def alter(self, tablet: Tablet, model: Any) -> None:
        raise NotImplementedError

    # -- what happens while a step runs --------------------------------------------------------------------------------
    def keep_writing(self) -> None:
        """Before and after each change of the view, and while the log is synced for a superblock."""
        if self.busy:
            store = self.tablet._store
            for name in ("swap", "sync_log"):
                setattr(store, name, self.surrounded(getattr(store, name)))

    def surrounded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def with_others(*args: Any) -> Any:
            self.meanwhile()
            found = call(*args)
            self.meanwhile()
            return found
        return with_others

    def meanwhile(self) -> None:
        rng = self.rng
        if rng.random() < 0.6 and not self.tablet._store.is_quiet:
            self.write(self.tablet, self.model, 12)
        if rng.random() < 0.2 and self.history_seconds is None:
            self.snapshot()
        if rng.random() < 0.2:
            assert self.tablet.scanner().ordered().open().read_all_tuples() == self.sorted()
        if rng.random() < 0.06:
            self.check_crash()

    def check_crash(self) -> None:
        """The process dies here: another one goes on from the files, and dies again."""
        self.copies += 1
        copy = self.folder.with_name(f"crash{self.copies}")
        shutil.copytree(self.folder, copy)
        model = self.model.copy()
        for number in range(3):
            tablet = Tablet.open(copy, **self.options)
            if number == 0 and tablet._store.view.schema_version > self.tablet._store.view.schema_version:
                model.adopt(self.model.coming)
            self.check(tablet, model)
            self.write(tablet, model, 12)
            if number == 1:
                tablet.flush()
                self.write(tablet, model, 12)
            if number == 2 and self.schema_changes:
                self.alter(tablet, model)
            tablet.close()
        result = replay(copy, include_pending=True, data_dirs=[copy])
        assert not result.report.problems and result.report.rows == len(model.rows), result.report.problems
        shutil.rmtree(copy)

    # -- steps ---------------------------------------------------------------------------------------------------------
    def step(self) -> None:
        rng = self.rng
        chance = rng.random()
        if chance < self.schema_changes:
            self.trace.append("alter")
            self.alter(self.tablet, self.model)
        elif chance < 0.45:
            self.trace.append("write")
            self.write(self.tablet, self.model, 25)
        elif chance < 0.5:
            self.trace.append("snapshot")
            self.snapshot()
        elif chance < 0.9:
            name = rng.choice(list(STEPS))
            self.trace.append(name)
            STEPS[name](self.tablet, rng)
        elif chance < 0.95:
            self.trace.append("reopen")
            self.tablet.close()
            self.tablet = Tablet.open(self.folder, **self.options)
            self.keep_writing()
        else:
            self.trace.append("kill")
            self.kill()
        self.forget_snapshots(self.tablet)

    def forget_snapshots(self, tablet: Tablet) -> None:
        mark = tablet.stats()["history_mark"]
        self.model.snapshots = [(at, rows) for at, rows in self.model.snapshots if at >= mark]

    def kill(self) -> None:
        """What a killed process leaves: the files as they are."""
        self.copies += 1
        copy = self.folder.with_name(f"{self.folder.name}{self.copies}")
        shutil.copytree(self.folder, copy)
        self.tablet.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.tablet = Tablet.open(copy, **self.options)
        self.keep_writing()

    def run(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.step()
                self.check(self.tablet, self.model)
                check_live_rows(self.tablet)
        except BaseException as error:
            error.add_note(f"after {', '.join(self.trace)}")
            raise
        finally:
            self.tablet.close()


class AlteringHistory(History):
    """The same, and the schema changes."""

    schema_changes = 0.12

    def new_model(self) -> AlteringModel:
        return AlteringModel()

    def schema(self) -> Schema:
        found: Schema = self.model.schema()
        return found

    def write(self, tablet: Tablet, model: AlteringModel, most: int) -> None:
        altering_model.write_some(tablet, model, self.rng, most)

    def check(self, tablet: Tablet, model: AlteringModel) -> None:
        altering_model.check_all(tablet, model)

    def sorted(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.model.tuples()
        return found

    def snapshot(self) -> None:
        self.model.snapshots.append((self.tablet.now(), self.model.frozen_rows()))

    def alter(self, tablet: Tablet, model: AlteringModel) -> None:
        altering_model.alter(tablet, model, self.rng)


@pytest.mark.parametrize("history_type", [History, AlteringHistory])
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + HISTORIES))
def test_a_random_history_of_flushes_and_compactions_agrees_with_the_model(
        seed: int, history_type: type[History], tmp_path: Path) -> None:
    history = history_type(tmp_path / "t", seed)
    history.run(60)
    with Tablet.open(history.folder, maintenance="manual") as tablet:
        history.forget_snapshots(tablet)
        history.check(tablet, history.model)
        checksum = tablet.checksum()
        tablet._maintenance._metadata.check()
    # The replay tool knows the rules of a real server, and not this package's tablet.
    result = replay(history.folder, include_pending=True, data_dirs=[history.folder])
    assert result.tablet is not None and not result.report.problems, result.report.problems
    assert (result.report.rows, result.report.checksum) == (len(history.model.rows), checksum)
