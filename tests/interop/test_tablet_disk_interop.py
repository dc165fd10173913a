"""Tablets of this package that were flushed and compacted, in the hands of the real tools and a real tablet server; and
flushed tablets of a real one, gone on with here."""
from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
from tablet_model import Model, check_rows, model_schema, random_operation, write_batch
from taking_turns import ours, people, running, theirs, write_some

from kudu_storage import Tablet

OPTIONS = {"segment_size": "64KiB", "rowset_size": 6000, "maintenance": "manual"}


def rowset_ids(tablet: Tablet) -> list[int]:
    return [rowset["id"] for rowset in tablet.stats()["layout"]]


def beside(tablet: Tablet, write: Callable[[], None]) -> None:
    """Have `write` run around each change of the view: what comes in between is carried over, and its COMMITs name two
    stores."""
    swap = tablet._store.swap

    def swap_and_write(make):       # type: ignore[no-untyped-def]
        write()
        found = swap(make)
        write()
        return found

    tablet._store.swap = swap_and_write     # type: ignore[method-assign]


def live(tablet: Tablet, write: Callable[[], None], rng: random.Random) -> None:
    """Flushes and compactions of all kinds."""
    beside(tablet, write)
    for _ in range(3):
        write()
        tablet.maintenance.flush_memory()
        for rowset_id in rowset_ids(tablet):
            tablet.maintenance.flush_deltas(rowset_id)
    for rowset_id in rowset_ids(tablet):
        write()
        tablet.maintenance.flush_deltas(rowset_id)
        files = [delta.block.id for delta in tablet.maintenance._metadata.rowset(rowset_id).redo_deltas]
        if len(files) >= 2:
            tablet.maintenance.compact_redos(rowset_id, files[:2])
    tablet.maintenance.compact_columns(rowset_ids(tablet)[0], [2])
    tablet.maintenance.merge(rng.sample(rowset_ids(tablet), 2))
    write()
    tablet.log.gc()


def test_the_real_tools_find_all_of_a_flushed_tablet_and_nothing_else(kudu: oracle.KuduBinaries,
                                                                      tmp_path: Path) -> None:
    root = tmp_path / "fs"
    rng, model = random.Random(3), Model()
    with Tablet.create(root, model_schema(), **OPTIONS) as tablet:
        tablet_id = tablet.tablet_id
        live(tablet, lambda: write_batch(tablet, model, [random_operation(rng) for _ in range(25)]), rng)
        check_rows(tablet, model)
        ids = rowset_ids(tablet)
    place = [f"--fs_wal_dir={root}", f"--fs_data_dirs={root}"]
    checked = kudu.run("fs", "check", *place, check=True).stdout
    for line in ("missing blocks: 0", "orphaned blocks: 0", "incomplete LBM containers: 0", "LBM partial records: 0"):
        assert re.search(line, checked, re.IGNORECASE), checked
    text = kudu.run("local_replica", "dump", "rowset", tablet_id, *place, "-dump_all_columns=true", check=True).stdout
    assert [int(found) for found in re.findall(r"Dumping rowset (\d+)\n", text)] == ids
    assert tablet_id in kudu.run("local_replica", "dump", "meta", tablet_id, *place, check=True).stdout


@pytest.mark.parametrize("seed", range(2))
def test_the_real_checksum_of_our_flushed_and_compacted_tablet_is_ours(seed: int, kudu: oracle.KuduBinaries,
                                                                       tmp_path: Path) -> None:
    root = tmp_path / "ours" / "fs"
    rng, model = random.Random(seed), Model()
    with Tablet.create(root, model_schema(), **OPTIONS) as tablet:
        live(tablet, lambda: write_batch(tablet, model, [random_operation(rng) for _ in range(25)]), rng)
        checksum = tablet.checksum()
        check_rows(tablet, model)
    with oracle.cluster_on_replica(kudu, root, tmp_path / "c") as cluster:
        assert list(cluster.checksums().values()) == [checksum]


def test_a_real_server_and_this_package_take_turns_on_a_flushed_tablet(kudu: oracle.KuduBinaries,
                                                                       tmp_path: Path) -> None:
    root = tmp_path / "fs"
    rng = random.Random(9)
    model: dict[int, tuple[str | None, int, int | None]] = {}
    with Tablet.create(root, people(), table_name="people", **OPTIONS) as tablet:
        tablet_id = tablet.tablet_id
    for turn in range(3):
        with Tablet.open(root, **OPTIONS) as tablet:
            assert ours(tablet) == model
            seeds = iter(range(1000 * turn, 1000 * turn + 1000))
            live(tablet, lambda seeds=seeds, tablet=tablet: write_some(tablet, model, next(seeds)), rng)  # type: ignore[misc]
            assert ours(tablet) == model
        with running(kudu, tmp_path) as server:
            log = server.bootstrap(tablet_id)
            assert log.complete, log.failure
            assert theirs(server.dump_rows(tablet_id)) == model


def test_a_process_that_died_in_a_compaction_is_followed_by_a_real_server(kudu: oracle.KuduBinaries,
                                                                          tmp_path: Path) -> None:
    """Died, opened, flushed, died again: ids of the first life's stores in the log are not taken for the second's."""
    root = tmp_path / "one" / "fs"
    model: dict[int, tuple[str | None, int, int | None]] = {}
    tablet = Tablet.create(root, people(), table_name="people", **OPTIONS)
    seeds = iter(range(1000))
    for _ in range(2):
        write_some(tablet, model, next(seeds))
        tablet.flush()
    copies: list[Path] = []

    def die() -> None:
        write_some(tablet, model, next(seeds))
        if len(copies) < 3:
            tablet.log.flush()
            copies.append(tmp_path / f"died{len(copies)}" / "fs")
            shutil.copytree(root, copies[-1])
            models.append(dict(model))

    models: list[dict[int, tuple[str | None, int, int | None]]] = []
    beside(tablet, die)
    tablet.maintenance.merge(rowset_ids(tablet))
    tablet.close()
    for copy, rows in zip(copies, models, strict=True):
        again = Tablet.open(copy, **OPTIONS)
        assert ours(again) == rows
        write_some(again, rows, next(seeds))
        again.maintenance.flush_memory()
        write_some(again, rows, next(seeds))
        again.log.flush()
        second = copy.parent.parent / f"{copy.parent.name}again" / "fs"
        shutil.copytree(copy, second)
        again.close()
        with Tablet.open(second, **OPTIONS) as opened:
            assert ours(opened) == rows
        with running(kudu, second.parent) as server:
            log = server.bootstrap(opened.tablet_id)
            assert log.complete, log.failure
            assert theirs(server.dump_rows(opened.tablet_id)) == rows


def test_a_flushed_tablet_of_a_real_server_goes_on_here_and_there(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    """Its maintenance has flushed and compacted while the load ran; then ours does, and the server takes it back."""
    flags = ["--maintenance_manager_polling_interval_ms=20", "--flush_threshold_secs=1", "--flush_threshold_mb=1"]
    with oracle.MiniCluster(kudu, tmp_path / "c", tserver_flags=flags) as cluster:
        cluster.loadgen("--num_rows_per_thread=40000", "--num_threads=2", "--keep_auto_table=true",
                        "--table_num_hash_partitions=1", "--table_num_range_partitions=1")
        (table,) = cluster.table_names()
        (tablet_id,) = cluster.tablet_ids(table)
        (checksum,) = cluster.checksums().values()
        cluster.stop()
        root = cluster.tservers[0].root
        with Tablet.open(root, tablet_id) as tablet:
            assert tablet.stats()["rowsets"] > 0
            assert (tablet.count(), tablet.checksum()) == (80000, checksum)
            keys = [row[0] for row in tablet.scanner().set_limit(500).read_all_tuples()]
            session = tablet.new_session()
            for number, key in enumerate(keys):
                session.apply(session.new_delete([key]) if number % 2 else
                              session.new_update({tablet.schema.columns[0].name: key,
                                                  tablet.schema.columns[1].name: 7}))
            session.flush()
            tablet.flush()
            tablet.maintenance.merge(rowset_ids(tablet))
            changed = tablet.checksum()
            assert changed != checksum and tablet.count() == 80000 - 250
        cluster.start()
        assert list(cluster.checksums().values()) == [changed]
