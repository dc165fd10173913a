"""Tablets of this package opened by a real tablet server, tablets of a real one opened here, and both taking turns."""
from __future__ import annotations

import random
import shutil
from pathlib import Path

import oracle
import pytest
from tablet_model import Model, model_schema, random_operation, write_batch
from taking_turns import ours, people, running, theirs, write_some

from kudu_storage import Tablet
from kudu_storage.errors import DirectoryLocked
from kudu_storage.wal.verify import verify


def test_a_real_server_and_this_package_take_turns_on_one_folder(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    root = tmp_path / "fs"
    model: dict[int, tuple[str | None, int, int | None]] = {}
    with Tablet.create(root, people(), table_name="people", segment_size="64KiB") as tablet:
        tablet_id = tablet.tablet_id
        write_some(tablet, model, 1)
        assert ours(tablet) == model
        # The last operation's COMMIT is lost: the server commits it itself.
        tablet._port.commit = lambda message: None      # type: ignore[method-assign]
        session = tablet.new_session()
        session.apply(session.new_upsert({"k": 1000, "v": "pending"}))
        session.flush()
        model[1000] = ("pending", 5, None)
    place = [f"--fs_wal_dir={root}", f"--fs_data_dirs={root}"]
    assert "0 (0 repaired)" in kudu.run("fs", "check", *place, check=True).stdout
    for turn in range(2):
        with running(kudu, tmp_path) as server:
            with pytest.raises(DirectoryLocked):
                Tablet.open(root)
            log = server.bootstrap(tablet_id)
            assert log.complete, log.failure
            assert log.stats["pending"] == (1 if turn == 0 else 0)
            assert theirs(server.dump_rows(tablet_id)) == model
        with Tablet.open(root) as tablet:
            assert ours(tablet) == model
            write_some(tablet, model, 2 + turn)
            assert ours(tablet) == model
        assert verify(root / "wals" / tablet_id).problems == ()


def test_the_real_checksum_of_our_tablet_is_ours(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    root = tmp_path / "ours" / "fs"
    with Tablet.create(root, people(), table_name="people") as tablet:
        write_some(tablet, {}, 7)
        checksum = tablet.checksum()
    with oracle.cluster_on_replica(kudu, root, tmp_path / "c") as cluster:
        assert list(cluster.checksums().values()) == [checksum]


@pytest.mark.parametrize("seed", range(2))
def test_a_real_server_decides_each_row_of_uncommitted_operations_as_we_do(seed: int, kudu: oracle.KuduBinaries,
                                                                          tmp_path: Path) -> None:
    """No COMMIT of ours is there to follow: the server works out every operation itself."""
    rng = random.Random(seed)
    model = Model()
    root = tmp_path / "ours" / "fs"
    with Tablet.create(root, model_schema()) as tablet:
        write_batch(tablet, model, [random_operation(rng) for _ in range(30)])
        tablet._port.commit = lambda message: None      # type: ignore[method-assign]
        for _ in range(60):
            write_batch(tablet, model, [random_operation(rng) for _ in range(rng.randrange(1, 60))])
        checksum = tablet.checksum()
    with oracle.cluster_on_replica(kudu, root, tmp_path / "c") as cluster:
        assert list(cluster.checksums().values()) == [checksum]
    with Tablet.open(root) as tablet:
        assert tablet.scanner().open().read_all_tuples() == model.sorted()
        assert tablet.checksum() == checksum


def test_a_tablet_of_a_real_server_goes_on_here_and_there(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    flags = ["--enable_maintenance_manager=false"]
    with oracle.MiniCluster(kudu, tmp_path / "c", tserver_flags=flags) as cluster:
        cluster.loadgen("--num_rows_per_thread=2000", "--num_threads=2", "--keep_auto_table=true",
                        "--table_num_hash_partitions=1", "--table_num_range_partitions=1")
        (table,) = cluster.table_names()
        (tablet_id,) = cluster.tablet_ids(table)
        (checksum,) = cluster.checksums().values()
        cluster.stop()
        root = cluster.tservers[0].root
        shutil.copytree(root, tmp_path / "before")
        with Tablet.open(root, tablet_id) as tablet:
            assert (tablet.count(), tablet.checksum(), tablet.table_name) == (4000, checksum, table)
            keys = [row[0] for row in tablet.scanner().set_limit(10).read_all_tuples()]
            session = tablet.new_session()
            for key in keys:
                session.apply(session.new_delete([key]))
            session.flush()
            changed = tablet.checksum()
            assert changed != checksum and tablet.count() == 3990
        cluster.start()
        assert list(cluster.checksums().values()) == [changed]
