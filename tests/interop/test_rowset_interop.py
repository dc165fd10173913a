"""Rowsets that we flushed and compacted, opened by the real tools and served by a real server at several snapshots."""
from __future__ import annotations

import json
import random
import re
import struct
import time
from pathlib import Path
from typing import Any

import delta_rows
import delta_twin as twin
import oracle
import pytest
from mini_tablet import DATA_UUID, TABLET_ID, MiniTablet, expected_rows, random_write
from our_replica import Replica, rows_of
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage._native.disk import Disk
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.bootstrap import replay
from kudu_storage.common.schema import Schema
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.blocks.directories import create_directories
from kudu_storage.fs.consensus_metadata import TYPE as CMETA_TYPE
from kudu_storage.fs.consensus_metadata import write_consensus_metadata
from kudu_storage.protos import message_class
from kudu_storage.tablet.metadata import SuperblockChange, TabletMetadata
from kudu_storage.tablet.rowset_writer import flush_mem_rowset

SERVER = "c" * 32
QUIET = ["--enable_maintenance_manager=false"]
STAGES = ["flush", "deltas", "minor", "major", "merge", "again"]


def test_a_real_server_serves_a_replayed_log_that_we_flushed(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica", "lz4")
    replica.lead(1)
    for _ in range(300):
        replica.write(1, replica.some_writes())
    replica.log.close()
    ours = replay(replica.folder, replica.tablet_id)
    path = replica.folder / "tablet-meta" / replica.tablet_id
    create_directories([replica.folder], [DATA_UUID], "log", Disk())
    blocks = open_block_manager([replica.folder])
    metadata = TabletMetadata.open(path, blocks)
    metadata.message.data_dir_group.uuids[:] = [DATA_UUID.encode()]
    metadata.note_log_ids(mrs_ids=[0])
    with blocks.transaction() as transaction:
        written = flush_mem_rowset(ours.tablet.rows_in_memory, RowLayout(ours.tablet.schema), Snapshot.everything(),
                                   transaction, metadata.take_rowset_id, target_bytes=4096)
        change = SuperblockChange(add=tuple(rowset.message for rowset in written), durable_mrs_id=0)
        metadata.commit(change, transaction)
    blocks.close()
    with oracle.start_tserver_on_replica(kudu, replica.folder, tmp_path / "t", uuid=replica.server,
                                         flags=QUIET) as server:
        log = server.bootstrap(replica.tablet_id)
        assert log.complete, log.failure
        assert (log.stats["applied"], log.stats["ignored"]) == (301, 300), log.stats
        assert rows_of(server.dump_rows(replica.tablet_id)) == replica.rows
    with oracle.cluster_on_replica(kudu, replica.folder, tmp_path / "c", uuid=replica.server, flags=QUIET) as cluster:
        assert list(cluster.checksums().values()) == [ours.tablet.checksum()]


# -- every kind of compaction ------------------------------------------------------------------------------------------
def write_shell(folder: Path, schema: Schema) -> None:
    """Consensus metadata of a single voter, and a log with nothing but the beginning of its term."""
    for part in oracle.REPLICA_PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    message: Any = message_class(CMETA_TYPE)(current_term=1, voted_for=SERVER)
    message.committed_config.opid_index = -1
    message.committed_config.OBSOLETE_local = True
    peer = message.committed_config.peers.add(permanent_uuid=SERVER.encode(), member_type=1)
    peer.last_known_addr.host, peer.last_known_addr.port = "127.0.0.1", 7050
    write_consensus_metadata(folder / "consensus-meta" / TABLET_ID, message)
    with Log.open(folder / "wals" / TABLET_ID, create=True, tablet_id=TABLET_ID, schema=schema) as log:
        log.append_replicate(replicate(1, 1, timestamp=(time.time_ns() // 1000) << 12)).wait()
        log.append_commit(commit(1, 1)).wait()


def run_stages(tablet: MiniTablet, rng: random.Random, last: str) -> list[int]:
    """One kind of compaction after the other up to `last`. Returns some times between."""
    times = []

    def writes(count: int) -> None:
        for _ in range(count):
            random_write(tablet, rng, 300)
        times.append(tablet.now + 1)

    def beside() -> None:
        writes(20)

    def changed_deltas(rowset_id: int, files: int) -> None:
        for _ in range(files):
            writes(150)
            tablet.flush_deltas(rowset_id)

    for stage in STAGES[:STAGES.index(last) + 1]:
        if stage == "flush":
            writes(600)
            tablet.flush(beside)
        elif stage == "deltas":
            changed_deltas(tablet.rowset_ids[0], 3)
        elif stage == "minor":
            tablet.minor(tablet.rowset_ids[0], 1, 3)
        elif stage == "major":
            tablet.major(tablet.rowset_ids[0], [1, 2])
        elif stage == "merge":
            tablet.flush(beside)
            changed_deltas(tablet.rowset_ids[0], 1)
            tablet.flush(beside)
            tablet.merge(tablet.rowset_ids, beside)
        else:
            tablet.metadata.delete_orphans()
            changed_deltas(tablet.rowset_ids[0], 2)
            tablet.flush()
            tablet.major(tablet.rowset_ids[0], [1, 3])
            tablet.merge(tablet.rowset_ids, beside)
    tablet.flush()
    for rowset_id in tablet.rowset_ids:
        tablet.flush_deltas(rowset_id)
    return [*times, tablet.now + 1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_real_tools_and_a_real_server_read_each_kind_of_compaction(kudu: oracle.KuduBinaries, stage: str,
                                                                       tmp_path: Path) -> None:
    folder = tmp_path / "replica"
    schema = delta_rows.SCHEMA
    write_shell(folder, schema)
    create_directories([folder], [DATA_UUID], "log", Disk())
    # Long enough ago for every time to be past when the server starts.
    start = ((time.time_ns() // 1000) - 600_000_000) << 12
    tablet = MiniTablet(folder, schema, laid_out=True, first_timestamp=start)
    times = run_stages(tablet, random.Random(stage), stage)
    message = tablet.metadata.message
    live = {key: cells for key, cells in tablet.rows(tablet.now + 1).items()}
    assert live == expected_rows(tablet.histories, lambda _: True)
    tablet.close()
    judge_by_tools(kudu, folder, message, tmp_path)
    with oracle.cluster_on_replica(kudu, folder, tmp_path / "c", uuid=SERVER, flags=QUIET) as cluster:
        for at in [times[0], *times[len(times) // 2:]]:
            rows = list(expected_rows(tablet.histories, twin.before(at)).values())
            assert snapshot_checksum(cluster, at) == checksum(delta_rows.rows_block(0, rows)), f"at {at}"
        present = sum(struct.unpack("<i", cells[0] or b"")[0] < 60 for cells in live.values())
        assert refused_inserts(cluster, 60) == present > 0


def refused_inserts(cluster: oracle.MiniCluster, keys: int) -> int:
    """How many of the first keys the real server finds present, through our bloom filters and key indexes."""
    [table] = cluster.table_names()
    done = cluster.binaries.run("perf", "loadgen", cluster.master_address, f"--table_name={table}", "--num_threads=1",
                                f"--num_rows_per_thread={keys}")
    found = re.search(r"Encountered (\d+) write operation errors", done.stdout + done.stderr)
    return int(found[1]) if found else 0


def snapshot_checksum(cluster: oracle.MiniCluster, at: int) -> int:
    cluster.wait_healthy()
    done = cluster.binaries.run("cluster", "ksck", cluster.master_address, "--checksum_scan",
                                f"--checksum_snapshot_timestamp={at}", "-ksck_format=json_compact", check=True)
    [total] = oracle.parse_checksums(done.stdout).values()
    return total


def judge_by_tools(kudu: oracle.KuduBinaries, folder: Path, message: Any, tmp_path: Path) -> None:
    """`fs check`, `fs dump cfile`, `local_replica dump`, `pbc dump` find all of it, and nothing else."""
    root = tmp_path / "tools" / "fs"
    oracle.format_for_replicas(kudu, root, folder, SERVER)
    oracle.copy_replicas(folder, root)
    place = [f"--fs_wal_dir={root}", f"--fs_data_dirs={root}"]
    # What the superblock lists as orphaned is still there where nobody called delete_orphans().
    checked = kudu.run("fs", "check", *place)
    said = checked.stdout + checked.stderr
    for line in ("missing blocks: 0", "incomplete LBM containers: 0", "LBM partial records: 0"):
        assert re.search(line, said, re.IGNORECASE), said
    text = kudu.run("local_replica", "dump", "rowset", TABLET_ID, *place, "-dump_all_columns=true", check=True).stdout
    for rowset in message.rowsets:
        assert f"Dumping rowset {rowset.id}\n" in text
    ids = kudu.run("local_replica", "dump", "block_ids", TABLET_ID, *place, check=True).stdout
    blocks = {int(found) for found in re.findall(r"\b(\d{16,})\b", ids)}
    named = {block.id for rowset in message.rowsets for block in (
        *(column.block for column in rowset.columns), *(delta.block for delta in rowset.redo_deltas),
        *(delta.block for delta in rowset.undo_deltas))}
    assert blocks == named, ids         # bloom filters are not listed
    assert TABLET_ID in kudu.run("local_replica", "dump", "meta", TABLET_ID, *place, check=True).stdout
    for block_id in sorted(named):
        dumped = kudu.run("fs", "dump", "cfile", str(block_id), "-print_meta=true", *place)
        assert dumped.returncode == 0, dumped.stderr
    dumped = kudu.run("pbc", "dump", "-json", root / "tablet-meta" / TABLET_ID, check=True)
    told = json.loads(dumped.stdout)
    assert [int(rowset["id"]) for rowset in told["rowsets"]] == [rowset.id for rowset in message.rowsets]
