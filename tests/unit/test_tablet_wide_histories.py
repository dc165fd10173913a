"""Random histories of tablets with random schemas, against a plain model: all types and encodings, keys of one to three
columns, diff scans, lookups at snapshots, a clock that moves the history mark; and writers in threads while stores are
rewritten.

KUDU_STORAGE_HISTORIES=N runs N of each instead of a few, from KUDU_STORAGE_FIRST_SEED on; a seed that fails is in its
name.
"""
from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tablet_steps import STEPS
from wide_model import WideModel, check_rows, in_order, random_keys, random_operation, random_schema, write_batch

from kudu_storage import Tablet
from kudu_storage.bootstrap import replay

HISTORIES = int(os.environ.get("KUDU_STORAGE_HISTORIES", "12"))
FIRST_SEED = int(os.environ.get("KUDU_STORAGE_FIRST_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + HISTORIES)
HISTORY_S = 10


class Clock:
    """Stands in for the computer's: it goes on by a microsecond each time it is asked, and in jumps when told."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    return clock


class History:
    def __init__(self, folder: Path, seed: int, clock: Clock) -> None:
        self.rng = random.Random(seed)
        self.folder, self.clock = folder, clock
        self.schema = random_schema(self.rng)
        self.keys = random_keys(self.schema, self.rng.choice([3, 12, 60]), self.rng)
        self.model = WideModel()
        self.options: dict[str, Any] = {"durability": "os", "segment_size": "16KiB", "maintenance": "manual",
                                        "rowset_size": self.rng.choice([1, 3000, "32MiB"])}
        self.history_s = self.rng.choice([None, HISTORY_S, HISTORY_S, 0])
        self.trace: list[str] = []
        self.tablet = Tablet.create(folder, self.schema, history_seconds=self.history_s, **self.options)
        self.busy = self.rng.random() < 0.5
        self.keep_writing()

    def keep_writing(self) -> None:
        """Batches before and after each change of the view."""
        if self.busy:
            store = self.tablet._store
            swap = store.swap

            def swap_and_write(make: Any) -> Any:
                self.write()
                found = swap(make)
                self.write()
                return found

            store.swap = swap_and_write             # type: ignore[method-assign]

    def write(self) -> None:
        count = self.rng.choice([1, 5, 25])
        write_batch(self.tablet, self.model, self.schema,
                    [random_operation(self.schema, self.keys, self.rng) for _ in range(count)])

    def step(self) -> None:
        rng, chance = self.rng, self.rng.random()
        if chance < 0.4:
            self.note("write", self.write)
        elif chance < 0.5:
            self.note("snapshot", lambda: self.model.note(self.tablet.now()))
        elif chance < 0.58:
            self.note("time", self.pass_time)
        elif chance < 0.92:
            name = rng.choice(list(STEPS))
            self.note(name, lambda: STEPS[name](self.tablet, rng))
        elif chance < 0.96:
            self.note("reopen", self.reopen)
        else:
            self.note("kill", self.kill)

    def note(self, name: str, do: Callable[[], object]) -> None:
        self.trace.append(name)
        do()

    def pass_time(self) -> None:
        self.clock.now_ns += self.rng.randrange(HISTORY_S * 10**9)

    def reopen(self) -> None:
        self.tablet.close()
        self.tablet = Tablet.open(self.folder, **self.options)
        self.keep_writing()

    def kill(self) -> None:
        """What a killed process leaves: the files as they are."""
        copy = self.folder.with_name(f"{self.folder.name}+")
        copy_sparse(self.folder, copy)
        self.tablet.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.tablet = Tablet.open(copy, **self.options)
        self.keep_writing()

    def check(self) -> None:
        mark = self.tablet.stats()["history_mark"]
        self.model.states = [state for state in self.model.states if state.at >= mark][-6:]
        check_rows(self.tablet, self.model, self.rng)

    def run(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.step()
                self.check()
        except BaseException as error:
            error.add_note(f"after {', '.join(self.trace)}; schema {self.schema}")
            raise
        finally:
            self.tablet.close()


def copy_sparse(source: Path, target: Path) -> None:
    """Chunks of the log's index are nearly all holes."""
    def copy(one: str, other: str) -> None:
        shutil.copystat(one, shutil.copyfile(one, other)) if "index." not in one else copy_holes(one, other)

    shutil.copytree(source, target, copy_function=copy)


def copy_holes(one: str, other: str) -> None:
    with open(one, "rb") as file, open(other, "wb") as made:
        size, at = os.fstat(file.fileno()).st_size, 0
        made.truncate(size)
        while at < size:
            try:
                first = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:         # only a hole is left
                return
            at = os.lseek(file.fileno(), first, os.SEEK_HOLE)
            os.pwrite(made.fileno(), os.pread(file.fileno(), at - first, first), first)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history_of_a_random_schema_agrees_with_the_model(seed: int, tmp_path: Path, clock: Clock) -> None:
    history = History(tmp_path / "t", seed, clock)
    history.run(50)
    with Tablet.open(history.folder, maintenance="manual") as tablet:
        history.tablet = tablet
        history.check()
        checksum = tablet.checksum()
    result = replay(history.folder, include_pending=True, data_dirs=[history.folder])
    assert result.tablet is not None and not result.report.problems, result.report.problems
    assert (result.report.rows, result.report.checksum) == (len(history.model.rows), checksum)


# -- threads -----------------------------------------------------------------------------------------------------------
class Writers:
    """Threads that write keys of their own, each with a model of its own, while `work` runs."""

    def __init__(self, tablet: Tablet, keys: list[Any], rng: random.Random, threads: int) -> None:
        self.tablet, self.schema = tablet, tablet.schema
        self.keys = [keys[i::threads] for i in range(threads)]
        self.models = [WideModel() for _ in range(threads)]
        self.seeds = [rng.randrange(1 << 30) for _ in range(threads)]
        self.failures: list[BaseException] = []

    def write(self, number: int, done: threading.Event) -> None:
        rng = random.Random(self.seeds[number])
        self.seeds[number] += 1
        try:
            while True:
                write_batch(self.tablet, self.models[number], self.schema,
                            [random_operation(self.schema, self.keys[number], rng) for _ in range(rng.randrange(1, 9))])
                key = rng.choice(self.keys[number])
                assert self.tablet.get(key) == self.models[number].rows.get(key)
                if done.is_set():
                    return
        except BaseException as error:
            self.failures.append(error)

    def beside(self, work: Callable[[], None]) -> None:
        done = threading.Event()
        threads = [threading.Thread(target=self.write, args=(i, done)) for i in range(len(self.models))]
        for thread in threads:
            thread.start()
        try:
            work()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        if self.failures:
            raise self.failures[0]

    @property
    def whole(self) -> WideModel:
        """All of them as one."""
        model = WideModel()
        for part in self.models:
            model.rows |= part.rows
            for position, key in enumerate(part.touched.surely):
                model.touched.add(key, position not in part.touched.doubtful)
        return model


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history_with_writers_in_threads_agrees_with_their_models(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    schema = random_schema(rng)
    options: dict[str, Any] = {"durability": "os", "segment_size": "16KiB", "maintenance": "manual",
                               "rowset_size": rng.choice([1, 3000, "1MiB"])}
    folder, history_s = tmp_path / "t", rng.choice([None, 0])
    tablet = Tablet.create(folder, schema, history_seconds=history_s, **options)
    trace: list[str] = []
    try:
        keys = random_keys(schema, 40, rng)
        writers = Writers(tablet, keys, rng, min(3, len(keys)))
        states: list[Any] = []

        def rewrite() -> None:
            for _ in range(rng.randrange(1, 6)):
                trace.append(rng.choice(list(STEPS)))
                STEPS[trace[-1]](tablet, rng)
                for state in states:
                    rows = tablet.scanner().set_snapshot(state.at).ordered().read_all_tuples()
                    assert rows == in_order(state.rows)

        for _ in range(6):
            writers.beside(rewrite)
            model = writers.whole
            if history_s is None:
                model.note(tablet.now())
                states += model.states
            check_rows(tablet, model, rng)
            if rng.random() < 0.4:
                trace.append("reopen")
                tablet.close()
                tablet = Tablet.open(folder, **options)
                writers.tablet = tablet
                check_rows(tablet, model, rng)
    except BaseException as error:
        error.add_note(f"after {', '.join(trace)}; schema {schema}")
        raise
    finally:
        tablet.close()
