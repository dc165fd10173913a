"""What our log writes, opened by the real tool; and a real tablet server on a replica made by this package alone."""
from __future__ import annotations

import random
import re
import secrets
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage.bootstrap import replay
from kudu_storage.common import types
from kudu_storage.common.opid import OpId
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.fs.consensus_metadata import TYPE as CMETA_TYPE
from kudu_storage.fs.consensus_metadata import write_consensus_metadata
from kudu_storage.fs.superblock import TYPE as SUPERBLOCK_TYPE
from kudu_storage.fs.superblock import write_superblock
from kudu_storage.protos import message_class
from kudu_storage.wal.verify import verify

CODECS = ["none", "lz4", "snappy", "zlib"]
WRITE_OP = 3


def real_dump(kudu: oracle.KuduBinaries, path: Path, *options: str) -> str:
    return kudu.run("wal", "dump", "-truncate_data=0", *options, path, check=True).stdout


# -- opaque entries ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", CODECS)
def test_the_real_tool_prints_every_payload_of_every_segment(kudu: oracle.KuduBinaries, codec: str,
                                                             tmp_path: Path) -> None:
    rng = random.Random(codec)
    payloads = [b"<%d:%s>" % (i, rng.randbytes(rng.randrange(200)).hex().encode()) for i in range(1, 401)]
    with Log.open(tmp_path, create=True, compression=codec, segment_size="16KiB") as log:
        at = 0
        while at < len(payloads):
            size = rng.randrange(1, 12)
            log.append_many(payloads[at:at + size]).wait()
            at += size
        # The one being written too: the tool takes its preallocated rest for what it is.
        open_segment = max(tmp_path.glob("wal-*"))
        assert payloads[-1].decode() in real_dump(kudu, open_segment, "-print_entries=pb")
    segments = sorted(tmp_path.glob("wal-*"))
    assert len(segments) > 2
    text = "".join(real_dump(kudu, path, "-print_entries=pb", "-print_meta=false") for path in segments)
    assert re.findall(r'payload_for_tests: "(.*?)"', text) == [payload.decode() for payload in payloads]
    assert re.findall(r"^\s*index: (\d+)", text, re.MULTILINE) == [str(i) for i in range(1, 401)]
    for path in segments:
        assert "Footer:" in real_dump(kudu, path, "-print_entries=id")
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize("codec", CODECS)
def test_the_real_tool_and_verify_agree_after_cuts_and_replacements(kudu: oracle.KuduBinaries, codec: str,
                                                                    tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression=codec, segment_size="16KiB") as log:
        for first in range(1, 301, 10):
            log.append_replicate(*(replicate(1, i, payload=b"%d" % i * 40) for i in range(first, first + 10))).wait()
            log.append_commit(*(commit(1, i) for i in range(first, first + 10))).wait()
        log.truncate_after(255)
        log.append_replicate(replicate(2, 250, payload=b"other"), replace=True).wait()
        log.append_commit(commit(2, 250)).wait()
    ids = "".join(real_dump(kudu, path, "-print_entries=id", "-print_meta=false")
                  for path in sorted(tmp_path.glob("wal-*")))
    replicates = re.findall(r"^(\d+\.\d+)@\d+\s+REPLICATE", ids, re.MULTILINE)
    commits = re.findall(r"COMMIT (\d+\.\d+)", ids)
    assert replicates == [f"1.{i}" for i in range(1, 256)] + ["2.250"]
    assert commits == [f"1.{i}" for i in range(1, 256)] + ["2.250"]
    report = verify(tmp_path)
    assert report.problems == ()


# -- a replica that nobody but this package wrote ----------------------------------------------------------------------
SCHEMA = Schema((
    ColumnSchema("k", types.BY_NAME["INT32"], is_key=True, id=10),
    ColumnSchema("v", types.BY_NAME["STRING"], nullable=True, id=11),
    ColumnSchema("n", types.BY_NAME["INT64"], id=12),
))
CLIENT_SCHEMA = Schema(tuple(replace(column, id=None) for column in SCHEMA))


class Replica:
    """Files of a single-voter tablet: superblock, consensus metadata, and a log of writes with a model of its rows."""

    def __init__(self, folder: Path, codec: str) -> None:
        self.folder, self.tablet_id, self.server = folder, secrets.token_hex(16), secrets.token_hex(16)
        self.rows: dict[int, tuple[bytes | None, int]] = {}
        self.rng = random.Random(codec)
        self.timestamp = 0
        for part in oracle.REPLICA_PARTS:
            (folder / part).mkdir(parents=True)
        self._write_superblock()
        self._write_consensus_metadata()
        self.log = Log.open(folder / "wals" / self.tablet_id, create=True, tablet_id=self.tablet_id, schema=SCHEMA,
                            compression=codec, segment_size="64KiB")

    def _write_superblock(self) -> None:
        message: Any = message_class(SUPERBLOCK_TYPE)(
            tablet_id=self.tablet_id.encode(), table_id=secrets.token_hex(16).encode(), table_name="ours",
            last_durable_mrs_id=-1, schema_version=0, supports_live_row_count=True)
        SCHEMA.to_pb(message.schema)
        message.tablet_data_state = type(message).DESCRIPTOR.fields_by_name["tablet_data_state"].enum_type \
            .values_by_name["TABLET_DATA_READY"].number
        message.partition.partition_key_start = message.partition.partition_key_end = b""
        message.partition_schema.range_schema.SetInParent()
        message.data_dir_group.uuids.append(secrets.token_hex(16).encode())
        write_superblock(self.folder / "tablet-meta" / self.tablet_id, message)

    def _write_consensus_metadata(self) -> None:
        message: Any = message_class(CMETA_TYPE)(current_term=3, voted_for=self.server)
        message.committed_config.opid_index = -1
        message.committed_config.OBSOLETE_local = True
        peer = message.committed_config.peers.add(permanent_uuid=self.server.encode(), member_type=1)
        peer.last_known_addr.host, peer.last_known_addr.port = "127.0.0.1", 7050
        write_consensus_metadata(self.folder / "consensus-meta" / self.tablet_id, message)

    def next_timestamp(self) -> int:
        """Hybrid time: what append() gives its entries comes from the same clock."""
        self.timestamp = max(self.timestamp + self.rng.randrange(1, 1 << 14), (time.time_ns() // 1000) << 12)
        return self.timestamp

    def lead(self, term: int) -> None:
        """The NO_OP with which a term begins, and its COMMIT."""
        index = self.log.last.index + 1
        self.log.append_replicate(replicate(term, index, timestamp=self.next_timestamp())).wait()
        self.log.append_commit(commit(term, index))

    def write(self, term: int, operations: list[tuple[int, dict[int, bytes | None]]], *, index: int | None = None,
              committed: bool = True) -> None:
        """A WRITE_OP, and its COMMIT if the operations count; every one must be one that succeeds."""
        message: Any = message_class("kudu.consensus.ReplicateMsg")(timestamp=self.next_timestamp(), op_type=WRITE_OP)
        message.id.term, message.id.index = term, index or self.log.last.index + 1
        request = message.write_request
        request.tablet_id = self.tablet_id.encode()
        CLIENT_SCHEMA.to_pb(request.schema)
        request.row_operations.rows, request.row_operations.indirect_data = encode_row_operations(
            operations, CLIENT_SCHEMA)
        token = self.log.append_replicate(message, replace=index is not None)
        if not committed:
            token.wait()
            return
        done: Any = message_class("kudu.consensus.CommitMsg")(op_type=WRITE_OP)
        done.commited_op_id.term, done.commited_op_id.index = token.last
        for _ in operations:
            done.result.ops.add().mutated_stores.add(mrs_id=0)
        self.log.append_commit(done)

    def some_writes(self) -> list[tuple[int, dict[int, bytes | None]]]:
        """Random operations that succeed, noted in the model; a key at most once in a batch."""
        operations: list[tuple[int, dict[int, bytes | None]]] = []
        for key in self.rng.sample(range(-200, 200), self.rng.randrange(1, 9)):
            cell = struct.pack("<i", key)
            text = None if self.rng.random() < 0.2 else self.rng.randbytes(self.rng.randrange(40)).hex().encode()
            number = self.rng.randrange(-2**40, 2**40)
            if key in self.rows and self.rng.random() < 0.3:
                operations.append((RowOp.DELETE, {0: cell}))
                del self.rows[key]
            elif key in self.rows and self.rng.random() < 0.5:
                operations.append((RowOp.UPDATE, {0: cell, 1: text}))
                self.rows[key] = (text, self.rows[key][1])
            else:
                kind = RowOp.UPSERT if key in self.rows or self.rng.random() < 0.3 else RowOp.INSERT
                operations.append((kind, {0: cell, 1: text, 2: struct.pack("<q", number)}))
                self.rows[key] = (text, number)
        return operations


def rows_of(lines: list[str]) -> dict[int, tuple[bytes | None, int]]:
    """What `kudu remote_replica dump` prints of SCHEMA's rows."""
    found = {}
    for line in lines:
        matched = re.fullmatch(r'\(int32 k=(-?\d+), string v=(NULL|"(.*)"), int64 n=(-?\d+)\)', line)
        assert matched is not None, line
        found[int(matched[1])] = (None if matched[2] == "NULL" else matched[3].encode(), int(matched[4]))
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_a_real_server_serves_the_rows_of_a_replica_that_we_wrote(kudu: oracle.KuduBinaries, codec: str,
                                                                  tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica", codec)
    replica.lead(1)
    for _ in range(150):
        replica.write(1, replica.some_writes())
    # Writes of an old leader that never committed, replaced by the next one's.
    lost = replica.log.last.index + 1
    for key in (1000, 1001, 1002):
        cells = {0: struct.pack("<i", key), 1: b"lost", 2: bytes(8)}
        replica.write(1, [(RowOp.INSERT, cells)], committed=False)
    replica.log.append_replicate(replicate(2, lost, timestamp=replica.next_timestamp()), replace=True)
    replica.log.append_commit(commit(2, lost))
    for _ in range(100):
        replica.write(2, replica.some_writes())
    # The server finds this one without a COMMIT and, being the only voter, commits it.
    replica.write(2, replica.some_writes(), committed=False)
    last = replica.log.last
    replica.log.close()
    assert last == OpId(2, lost + 101)
    assert len(list((replica.folder / "wals" / replica.tablet_id).glob("wal-*"))) > 1

    ours = replay(replica.folder, replica.tablet_id, include_pending=True)
    assert not ours.report.problems
    with oracle.start_tserver_on_replica(kudu, replica.folder, tmp_path / "t", uuid=replica.server) as server:
        log = server.bootstrap(replica.tablet_id)
        assert log.complete, log.failure
        assert (log.stats["read"], log.stats["overwritten"], log.stats["pending"]) == (1 + 150 + 3 + 1 + 101, 3, 1)
        assert rows_of(server.dump_rows(replica.tablet_id)) == replica.rows
    with oracle.cluster_on_replica(kudu, replica.folder, tmp_path / "c", uuid=replica.server) as cluster:
        assert list(cluster.checksums().values()) == [ours.tablet.checksum()]


def test_a_real_server_replays_opaque_entries_as_nothing(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica", "lz4")
    replica.lead(1)
    replica.write(1, replica.some_writes())
    for number in range(50):
        token = replica.log.append_many([b"opaque %d" % number, b""])
        replica.log.append_commit(*(commit(1, i) for i in range(token.first.index, token.last.index + 1)))
        replica.write(1, replica.some_writes())
    replica.log.close()
    with oracle.start_tserver_on_replica(kudu, replica.folder, tmp_path / "t", uuid=replica.server) as server:
        log = server.bootstrap(replica.tablet_id)
        assert log.complete, log.failure
        assert (log.stats["read"], log.stats["pending"]) == (152, 0)
        assert rows_of(server.dump_rows(replica.tablet_id)) == replica.rows
