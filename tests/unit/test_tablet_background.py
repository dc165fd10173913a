"""Background maintenance, the default of every tablet: leaving, forks, faults, memory at its budget."""
from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.bootstrap import recovery
from kudu_storage.bootstrap.maintained import SchedulerCare
from kudu_storage.errors import MemoryBackpressure, TabletClosed, Unsupported
from kudu_storage.tablet.maintenance_policy import Action, Policy
from kudu_storage.tablet.scheduler import Scheduler, process_scheduler
from kudu_storage.tablet.scoring import MaintenancePolicy

MIB = 1 << 20
WAIT_S = 60             # until a test gives up on a thread
# Whatever is in memory is flushed at once.
EAGER = Policy(MaintenancePolicy(flush_bytes=1))
# Nothing is flushed, unless memory is short.
LAZY = Policy(MaintenancePolicy(flush_after_s=1e6))
TABLE_ROWS = 20_000


def schema() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    builder.add_column("text", kudu.string)
    return builder.build()


def rows(first: int = 0, count: int = TABLE_ROWS) -> Any:
    return pyarrow.table({"key": pyarrow.array(range(first, first + count), pyarrow.int64()),
                          "text": [f"the text of row {key}" for key in range(first, first + count)]})


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """The process's. What a test sets is as before afterwards."""
    found = process_scheduler()
    policy, budget = found.policy, found.memory_budget_bytes
    yield found
    found.policy, found.memory_budget_bytes = policy, budget


def eventually(condition: Callable[[], bool], scheduler: Scheduler) -> None:
    turn = threading.Event()
    for _ in range(WAIT_S * 50):
        if condition():
            return
        scheduler.wake()
        turn.wait(0.02)
    raise AssertionError(scheduler.stats())


def test_it_is_the_default_and_can_be_left_to_the_user(tmp_path: Path, scheduler: Scheduler) -> None:
    with Tablet.create(tmp_path / "t", schema()) as tablet:
        assert tablet.stats()["maintenance"]["mode"] == "background"
        assert scheduler.stats()["tablets"] == [tablet.tablet_id]
    with Tablet.open(tmp_path / "t") as tablet:
        assert scheduler.stats()["tablets"] == [tablet.tablet_id]
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert tablet.stats()["maintenance"] == {"mode": "manual"}
        assert scheduler.stats()["tablets"] == []


def test_what_is_written_is_flushed_and_its_log_goes(tmp_path: Path, scheduler: Scheduler) -> None:
    scheduler.policy = EAGER
    with Tablet.create(tmp_path / "t", schema(), durability="os", segment_size="64KiB", compression="none") as tablet:
        tablet.insert_arrow(rows())
        eventually(lambda: tablet.stats()["rowsets"] >= 1 and tablet.stats()["memrowset"]["keys"] == 0
                   and tablet.log.stats()["first_index"] > 1, scheduler)
        assert tablet.count() == TABLE_ROWS
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert (tablet.count(), tablet.stats()["memrowset"]["keys"]) == (TABLE_ROWS, 0)


@pytest.mark.parametrize("bound", ["memory", "log"])
def test_a_burst_does_not_wait_for_the_interval(bound: str, tmp_path: Path) -> None:
    """The interval of this one is an hour."""
    policy = MaintenancePolicy(flush_after_s=1e6, **{"memory": {"flush_bytes": 4 * MIB},
                                                     "log": {"log_bytes_max": 2 * MIB}}[bound])
    scheduler = Scheduler(Policy(policy), interval_s=3600)
    with Tablet.create(tmp_path / "t", schema(), durability="os", segment_size="1MiB", compression="none",
                       maintenance="manual") as tablet:
        scheduler.register(tablet.maintained)
        tablet._store.take_care(SchedulerCare(scheduler, tablet.maintained))
        turn = threading.Event()
        for first in range(0, 100 * TABLE_ROWS, TABLE_ROWS):
            tablet.insert_arrow(rows(first))
            if tablet.stats()["rowsets"]:
                break
            turn.wait(0.02)
        assert tablet.stats()["rowsets"]
        scheduler.stop()


# -- memory at its budget ----------------------------------------------------------------------------------------------
def test_writers_do_not_outrun_flushes(tmp_path: Path, scheduler: Scheduler) -> None:
    """Far more than the budget goes through; what is in memory stays near it, and every row is there."""
    scheduler.policy = LAZY
    scheduler.memory_budget_bytes = budget = 6 * MIB
    peak = 0
    with Tablet.create(tmp_path / "t", schema(), durability="os") as tablet:
        threads = [threading.Thread(target=lambda at=at: [tablet.insert_arrow(rows(first)) for first in range(
            at * 10**6, at * 10**6 + 15 * TABLE_ROWS, TABLE_ROWS)]) for at in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, tablet._store.memory_bytes)
            threads[0].join(0.001)
        assert tablet.count() == 2 * 15 * TABLE_ROWS
        assert tablet.stats()["rowsets"] >= 1
        assert not tablet.stats()["maintenance"]["failures"]
    # What is let in at once: operations in flight, and what is written between two weighings.
    assert budget // 2 < peak < budget + 16 * MIB, peak


@pytest.fixture
def full_tablet(tmp_path: Path, scheduler: Scheduler) -> Iterator[Tablet]:
    """Over the budget, and its flushes wait for `go`."""
    scheduler.policy = LAZY
    with Tablet.create(tmp_path / "t", schema(), durability="os") as tablet:
        go, run = threading.Event(), tablet._maintained.run

        def held(action: Action) -> bool:
            assert go.wait(WAIT_S)
            return run(action)

        tablet._maintained.run = held  # type: ignore[method-assign]
        tablet.go = go  # type: ignore[attr-defined]
        tablet.insert_arrow(rows(0, 60_000))
        scheduler.memory_budget_bytes = MIB
        eventually(lambda: not scheduler.has_room, scheduler)
        yield tablet
        go.set()


def test_a_write_that_finds_no_room_in_time_says_so(full_tablet: Tablet) -> None:
    with pytest.raises(MemoryBackpressure, match=r"budget is 1048576; .* no room within 0\.01 s") as caught:
        full_tablet.insert_arrow(rows(100_000, 10), timeout=0.01)
    assert "0 rows before it are written" in str(caught.value)
    assert full_tablet.count() == 60_000


def test_a_session_keeps_what_found_no_room(full_tablet: Tablet) -> None:
    session = full_tablet.new_session(timeout=0.01)
    session.apply(session.new_insert({"key": 100_000, "text": "late"}))
    for _ in range(2):
        with pytest.raises(MemoryBackpressure):
            session.flush()
        assert session.has_pending_operations()
    full_tablet.go.set()  # type: ignore[attr-defined]
    session.flush(WAIT_S)
    assert full_tablet.get(100_000) is not None
    assert full_tablet.count() == 60_001


def test_a_session_in_the_background_waits_there(full_tablet: Tablet, scheduler: Scheduler) -> None:
    session = full_tablet.new_session("background", flush_interval=0.001)
    session.apply(session.new_insert({"key": 100_000, "text": "late"}))
    eventually(lambda: full_tablet.stats()["maintenance"]["memory"]["writers_waiting"] == 1, scheduler)
    assert full_tablet.get(100_000) is None
    full_tablet.go.set()  # type: ignore[attr-defined]
    session.flush()
    assert full_tablet.get(100_000) is not None


def test_an_event_loop_is_told_at_once_and_may_try_again(full_tablet: Tablet) -> None:
    async def write() -> None:
        session = full_tablet.new_session()
        session.apply(session.new_insert({"key": 100_000, "text": "late"}))
        with pytest.raises(MemoryBackpressure):
            await session.flush_async()
        assert session.has_pending_operations()
        full_tablet.go.set()  # type: ignore[attr-defined]
        for _ in range(WAIT_S * 50):
            try:
                return await session.flush_async()
            except MemoryBackpressure:
                await asyncio.sleep(0.02)

    asyncio.run(write())
    assert full_tablet.get(100_000) is not None


def test_a_tablet_in_nobodys_care_is_not_made_to_wait(tmp_path: Path, scheduler: Scheduler) -> None:
    scheduler.memory_budget_bytes = 1
    with Tablet.create(tmp_path / "t", schema(), durability="os", maintenance="manual") as tablet:
        tablet.insert_arrow(rows(), timeout=0)
        assert tablet.count() == TABLE_ROWS


# -- faults ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_flush_that_fails_is_reported_and_tried_again(code: int, tmp_path: Path, scheduler: Scheduler,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    disk = RecordingDisk()
    with caplog.at_level(logging.WARNING, "kudu_storage"), \
            Tablet.create(tmp_path / "t", schema(), durability="os", disk=disk) as tablet:
        tablet.insert_arrow(rows())
        disk.fail("rename", 1, code)        # of the new superblock
        scheduler.policy = EAGER
        eventually(lambda: tablet.stats()["maintenance"]["failures"] != [], scheduler)
        failure = tablet.stats()["maintenance"]["failures"][0]
        assert failure["kind"] == "flush_memrowset" and os.strerror(code) in failure["error"]
        disk.fail("rename", 0, 0)
        assert tablet.count() == TABLE_ROWS
        if code == errno.ENOSPC:            # else the directory counts as failed until it is opened again
            eventually(lambda: tablet.stats()["rowsets"] == 1, scheduler)
            eventually(lambda: tablet.stats()["maintenance"]["failures"] == [], scheduler)
        scheduler.policy = LAZY
    records = [r.getMessage() for r in caplog.records if r.name.startswith("kudu_storage")]
    assert os.strerror(code) in records[0] and tablet.tablet_id in records[0]
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert (tablet.count(), tablet.stats()["rowsets"]) == (TABLE_ROWS, int(code == errno.ENOSPC))


def test_a_tablet_whose_folder_was_deleted_ends_quietly(tmp_path: Path, scheduler: Scheduler) -> None:
    tablet = Tablet.create(tmp_path / "t", schema(), durability="os")
    tablet.insert_arrow(rows())
    shutil.rmtree(tmp_path / "t")
    scheduler.policy = EAGER
    eventually(lambda: tablet.stats()["maintenance"]["failures"] != [], scheduler)
    assert tablet.count() == TABLE_ROWS
    tablet.close()
    assert scheduler.stats()["tablets"] == []
    assert not (tmp_path / "t").exists()
    with Tablet.create(tmp_path / "t", schema()) as other:
        assert other.count() == 0


# -- leaving -----------------------------------------------------------------------------------------------------------
def test_closing_waits_for_the_action_that_runs(full_tablet: Tablet, scheduler: Scheduler) -> None:
    eventually(lambda: full_tablet.stats()["maintenance"]["running"] == ["flush_memrowset"], scheduler)
    closer = threading.Thread(target=full_tablet.close)
    closer.start()
    while scheduler.stats()["tablets"]:
        pass
    assert not full_tablet.closed
    full_tablet.go.set()  # type: ignore[attr-defined]
    closer.join(WAIT_S)
    assert full_tablet.closed and scheduler.stats()["running"] == []
    with pytest.raises(TabletClosed):
        full_tablet.count()
    with Tablet.open(full_tablet.path, maintenance="manual") as tablet:
        assert (tablet.count(), tablet.stats()["rowsets"]) == (60_000, 1)


def test_a_writer_that_waits_for_room_is_told_that_the_tablet_was_closed(full_tablet: Tablet, scheduler: Scheduler
                                                                        ) -> None:
    outcome: list[BaseException] = []

    def write() -> None:
        try:
            full_tablet.insert_arrow(rows(100_000, 10))
        except BaseException as error:
            outcome.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: full_tablet.stats()["maintenance"]["memory"]["writers_waiting"] == 1, scheduler)
    full_tablet._store._closed = True       # as close() does, which waits for the flush first
    scheduler.unregister_later = threading.Thread(  # type: ignore[attr-defined]
        target=scheduler.unregister, args=(full_tablet.maintained,))
    scheduler.unregister_later.start()  # type: ignore[attr-defined]
    writer.join(WAIT_S)
    full_tablet._store._closed = False
    full_tablet.go.set()  # type: ignore[attr-defined]
    scheduler.unregister_later.join(WAIT_S)  # type: ignore[attr-defined]
    assert [type(error) for error in outcome] == [TabletClosed]


def test_many_tablets_have_one_thread_for_their_maintenance(tmp_path: Path, scheduler: Scheduler) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        tablets = [stack.enter_context(Tablet.create(tmp_path / str(number), schema(), durability="os"))
                   for number in range(40)]
        assert threading.active_count() - before <= 1
        assert scheduler.stats()["threads"] == 1
        for number, tablet in enumerate(tablets):
            tablet.insert_arrow(rows(number, 1))
        scheduler.policy = EAGER
        eventually(lambda: tablets[0].stats()["rowsets"] + tablets[-1].stats()["rowsets"] == 2, scheduler)
        scheduler.policy = LAZY
        assert threading.active_count() - before <= 1
        assert all(tablet.get(number) is not None for number, tablet in enumerate(tablets))
    assert scheduler.stats()["tablets"] == []


def test_what_can_only_be_read_is_left_alone(tmp_path: Path, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    with Tablet.create(tmp_path / "t", schema(), durability="os", maintenance="manual") as tablet:
        tablet.insert_arrow(rows())
    monkeypatch.setattr(recovery, "_part_of_a_table", lambda superblock: "a part of a table")
    scheduler.policy = EAGER
    with Tablet.open(tmp_path / "t") as tablet:
        assert scheduler.stats()["tablets"] == []
        with pytest.raises(Unsupported, match="a part of a table"):
            tablet.insert_arrow(rows())
        assert (tablet.count(), tablet.stats()["rowsets"]) == (TABLE_ROWS, 0)


# -- processes ---------------------------------------------------------------------------------------------------------
_PROCESS = """
import os, sys, threading
sys.path.insert(0, {unit!r})
from test_tablet_background import EAGER, Tablet, process_scheduler, rows, schema
if {early}:
    process_scheduler()             # made before there is a tablet
tablet = Tablet.create({folder!r}, schema(), durability="os")
run, begun = tablet.maintained.run, threading.Event()
def running(action):
    begun.set()
    return run(action)
tablet.maintained.run = running
tablet.insert_arrow(rows(0, 100_000))
process_scheduler().policy = EAGER
process_scheduler().wake()
assert begun.wait(60)
"""


def run_process(tmp_path: Path, script: str, *, early: bool = False) -> subprocess.CompletedProcess[str]:
    """With a tablet that nobody closed, while a flush runs."""
    text = _PROCESS.format(unit=str(Path(__file__).parent), early=early, folder=str(tmp_path / "t")) + script
    return subprocess.run([sys.executable, "-X", "dev", "-c", text], capture_output=True, text=True, timeout=120,
                          check=False)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("script", "code", "said"), [
    ("", 0, ""), ("sys.exit(3)", 3, ""), ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    ("del tablet, run, running", 0, "")])
def test_the_interpreter_ends_while_a_flush_runs(script: str, code: int, said: str, early: bool, tmp_path: Path
                                                 ) -> None:
    done = run_process(tmp_path, script, early=early)
    assert done.returncode in (code, 130 if code == -2 else code), done.stderr
    assert (said in done.stderr) if said else done.stderr == ""
    assert done.stderr.count("Error") == 0, done.stderr
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert tablet.count() == 100_000


def test_a_fork_while_a_flush_runs_leaves_the_tablet_to_the_parent(tmp_path: Path) -> None:
    done = run_process(tmp_path, """
pid = os.fork()
if pid == 0:
    assert process_scheduler().stats()["threads"] == 0
    try:
        tablet.insert_arrow(rows(500_000, 1))
    except Exception as error:
        assert type(error).__name__ == "TabletClosed", error
    tablet.close()
    with Tablet.create(tablet.path + "-child", schema(), durability="os") as other:
        other.insert_arrow(rows())
        assert process_scheduler().stats()["tablets"] == [other.tablet_id]
        assert other.count() == 20_000
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
tablet.insert_arrow(rows(200_000, 5))
tablet.close()
assert process_scheduler().stats()["tablets"] == []
""")
    assert (done.returncode, done.stderr) == (0, "") or "DeprecationWarning" in done.stderr, done.stderr
    with Tablet.open(tmp_path / "t", maintenance="manual") as tablet:
        assert tablet.count() == 100_005
