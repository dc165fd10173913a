"""Random histories of a tablet against a plain model: verbs, snapshots, reopening, lost COMMITs, killed processes."""
from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tablet_model import Model, check_rows, model_schema, random_operation, write_batch

from kudu_storage import Tablet
from kudu_storage.bootstrap import replay


def lose_some_commits(tablet: Tablet, rng: random.Random) -> None:
    """As when their writes fail: the next opening finds operations without one, others behind them with theirs."""
    commit = tablet._port.commit
    tablet._port.commit = lambda message: commit(message) if rng.random() < 0.5 else None   # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_agrees_with_the_model_through_restarts(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    model = Model()
    tablet = Tablet.create(tmp_path / "t", model_schema(), durability="os", segment_size="16KiB", maintenance="manual",
                           compression=rng.choice(["lz4", "none", "snappy", "zlib"]))
    try:
        for _ in range(60):
            step = rng.random()
            if step < 0.7:
                write_batch(tablet, model, [random_operation(rng) for _ in range(rng.randrange(1, 30))])
            elif step < 0.85:
                model.snapshots.append((tablet.now(), dict(model.rows)))
            else:
                if rng.random() < 0.3:
                    lose_some_commits(tablet, rng)
                    for _ in range(5):
                        write_batch(tablet, model, [random_operation(rng) for _ in range(5)])
                tablet.close()
                tablet = Tablet.open(tmp_path / "t", durability="os", segment_size="16KiB", maintenance="manual")
            check_rows(tablet, model)
        checksum = tablet.checksum()
    finally:
        tablet.close()
    result = replay(tmp_path / "t", include_pending=True)       # our replay tool, and so the rules of a real server
    assert result.tablet is not None and not result.report.problems
    assert (result.report.rows, result.report.checksum) == (len(model.rows), checksum)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_any_operations_leave_what_the_rules_say(seed: int, sizes: list[int],
                                                 tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("t") / "t"
    model = Model()
    with Tablet.create(folder, model_schema(), durability="os") as tablet:
        for size in sizes:
            write_batch(tablet, model, [random_operation(rng) for _ in range(size)])
        check_rows(tablet, model)
    with Tablet.open(folder) as tablet:
        check_rows(tablet, model)


_CHILD = """
import random, sys, threading
sys.path.insert(0, {support!r})
from tablet_model import Model, random_operation, write_batch
from kudu_storage import Tablet
seed = int(sys.argv[2])
rng, model = random.Random(seed), Model()
tablet = Tablet.open(sys.argv[1], segment_size="16KiB", rowset_size=1000)

def keep_files_tidy():
    while True:
        tablet.flush()
        tablet.compact()
        tablet.log.gc()

if sys.argv[3] == "flushing":
    threading.Thread(target=keep_files_tidy, daemon=True).start()
while True:
    write_batch(tablet, model, [random_operation(rng) for _ in range(rng.randrange(1, 20))])
    print("done", flush=True)
"""


@pytest.mark.parametrize("others", ["alone", "flushing"])
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_loses_nothing_that_a_flush_returned_for(seed: int, others: str, tmp_path: Path) -> None:
    support = str(Path(__file__).resolve().parents[1] / "support")
    Tablet.create(tmp_path / "t", model_schema()).close()
    child = subprocess.Popen([sys.executable, "-c", _CHILD.format(support=support), str(tmp_path / "t"), str(seed),
                              others], stdout=subprocess.PIPE)
    assert child.stdout is not None
    flushed = 0
    for _ in range(25 + seed * 7):
        assert child.stdout.readline() == b"done\n"
        flushed += 1
    child.send_signal(signal.SIGKILL)
    flushed += child.stdout.read().count(b"done\n")
    child.wait()
    child.stdout.close()
    rng, model = random.Random(seed), Model()

    def one_batch() -> None:
        for _ in range(rng.randrange(1, 20)):
            model.apply(*random_operation(rng))

    for _ in range(flushed):
        one_batch()
    acknowledged = model.sorted()
    one_batch()                     # in flight when the process died: whole or not at all
    with Tablet.open(tmp_path / "t") as tablet:
        rows = tablet.scanner().ordered().open().read_all_tuples()
        assert rows in (acknowledged, model.sorted())
    with Tablet.open(tmp_path / "t") as tablet:
        assert tablet.scanner().ordered().open().read_all_tuples() == rows
