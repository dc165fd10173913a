"""Tablets of this package opened by a real tablet server, tablets of a real one opened here, and both taking turns."""
from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import oracle
import pytest
from tablet_model import Model, model_schema, random_operation, write_batch

import kudu_storage.client as kudu_client
from kudu_storage import Tablet
from kudu_storage.errors import DirectoryLocked, RowErrors
from kudu_storage.wal.verify import verify


def people() -> kudu_client.Schema:
    builder = kudu_client.schema_builder()
    builder.add_column("k", kudu_client.int32, nullable=False)
    builder.add_column("v", kudu_client.string)
    builder.add_column("n", kudu_client.int64, nullable=False, default=5)
    builder.add_column("once", kudu_client.int8, immutable=True)
    return builder.set_primary_keys(["k"]).build()


def write_some(tablet: Tablet, model: dict[int, tuple[str | None, int, int | None]], seed: int) -> None:
    """Random operations in several flushes, refused ones among them; noted in the model by the rules of each verb."""
    rng = random.Random(seed)
    session = tablet.new_session()
    for _ in range(12):
        for _ in range(rng.randrange(1, 40)):
            key, text = rng.randrange(-60, 60), rng.choice([None, "", "x", "é" * 9])
            number = rng.randrange(-2**40, 2**40)
            verb = rng.choice(["insert", "upsert", "update", "delete", "insert_ignore", "update_ignore",
                               "delete_ignore"])
            there = key in model
            if verb.startswith("delete"):
                session.apply(getattr(session, f"new_{verb}")({"k": key}))
                model.pop(key, None)
                continue
            once = {"once": 1} if verb == "insert" else {}
            session.apply(getattr(session, f"new_{verb}")({"k": key, "v": text, "n": number, **once}))
            if verb == "upsert" or (verb.startswith("insert") and not there) or (verb.startswith("update") and there):
                model[key] = (text, number, model[key][2] if there else once.get("once"))
        try:
            session.flush()
        except RowErrors as errors:
            assert errors.count > 0


def ours(tablet: Tablet) -> dict[int, tuple[str | None, int, int | None]]:
    return {k: (v, n, once) for k, v, n, once in tablet.scanner().open().read_all_tuples()}


def theirs(lines: list[str]) -> dict[int, tuple[str | None, int, int | None]]:
    """What `kudu remote_replica dump` prints."""
    found = {}
    for line in lines:
        matched = re.fullmatch(r'\(int32 k=(-?\d+), string v=(NULL|"(.*)"), int64 n=(-?\d+), '
                               r'int8 once=(NULL|-?\d+)\)', line)
        assert matched is not None, line
        text = None if matched[2] == "NULL" else matched[3].encode().decode("unicode_escape").encode("latin-1").decode()
        found[int(matched[1])] = (text, int(matched[4]), None if matched[5] == "NULL" else int(matched[5]))
    return found


@contextmanager
def running(kudu: oracle.KuduBinaries, folder: Path) -> Iterator[oracle.ReplicaServer]:
    """A tablet server on folder/fs itself, without a master."""
    server = oracle.Server(kudu, "kudu-tserver", folder, ["--tserver_master_addrs=127.0.0.1:1",
                                                          "--enable_maintenance_manager=false"])
    try:
        server.start()
        yield oracle.ReplicaServer(kudu, server)
    finally:
        server.stop()


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
