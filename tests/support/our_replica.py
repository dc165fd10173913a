"""A replica for tests that nobody but this package wrote: superblock, consensus metadata, a log, and what it says."""
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
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage.common import types
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.fs.consensus_metadata import TYPE as CMETA_TYPE
from kudu_storage.fs.consensus_metadata import write_consensus_metadata
from kudu_storage.fs.superblock import TYPE as SUPERBLOCK_TYPE
from kudu_storage.fs.superblock import write_superblock
from kudu_storage.protos import message_class

WRITE_OP = 3
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
