"""A tablet for tests of flushes and compactions: real files, a real superblock, and dictionaries for everything else.

Where a key lives is known from reading all rowsets in the plainest way (CFileReader and the slow delta twin); what a
row should be at any time is known from a list of what happened to it. Neither uses the code that is tested.
"""
from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import delta_rows
import delta_twin as twin
from blocks import column
from memrows import OPS, MemRows

from kudu_storage._native.delta import DeltaRun, encode_change
from kudu_storage._native.delta_memstore import DeltaMemStore
from kudu_storage._native.disk import Disk
from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.memrowset_flush import MissedChanges
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import Schema
from kudu_storage.fs.blocks import BlockManager, BlockOptions, open_block_manager
from kudu_storage.fs.blocks.directories import create_directories
from kudu_storage.fs.superblock import TYPE
from kudu_storage.protos import message_class
from kudu_storage.tablet.compaction import (
    MergeInput,
    RowSetCompaction,
    RowSetFiles,
    compact_columns,
    compact_redos,
    drop_rowsets,
    drop_undos,
    flush_delta_store,
)
from kudu_storage.tablet.delta_policy import RowSetDeltas, ancient_undos, is_dead_and_ancient
from kudu_storage.tablet.metadata import RowSetEdit, SuperblockChange, TabletMetadata
from kudu_storage.tablet.rowset_writer import WrittenRowSet, flush_mem_rowset, write_missed

TABLET_ID = "0123456789abcdef0123456789abcdef"
DATA_UUID = f"{1:032x}"
Rows = dict[bytes, twin.Cells]          # shown rows by key cells


def key_of(schema: Schema, cells: twin.Cells) -> bytes:
    """The key cells in a form that no other key has."""
    return b"".join(struct.pack("<I", len(cell)) + cell for cell in
                    (cells[i] or b"" for i in range(schema.key_column_count)))


def new_superblock(schema: Schema, tablet_id: str = TABLET_ID, data_uuid: str = DATA_UUID) -> Any:
    message: Any = message_class(TYPE)(
        tablet_id=tablet_id.encode(), table_id=b"f" * 32, table_name="ours", last_durable_mrs_id=-1, schema_version=0,
        supports_live_row_count=True)
    schema.to_pb(message.schema)
    message.tablet_data_state = type(message).DESCRIPTOR.fields_by_name["tablet_data_state"].enum_type \
        .values_by_name["TABLET_DATA_READY"].number
    message.partition.partition_key_start = message.partition.partition_key_end = b""
    message.partition_schema.range_schema.SetInParent()
    message.data_dir_group.uuids.append(data_uuid.encode())
    return message


def read_rowset(files: RowSetFiles, schema: Schema, applied: twin.Applied, memory: DeltaMemStore | None = None
                ) -> list[twin.RowState]:
    """All rows of a rowset at a snapshot, dead ones too."""
    count = files.row_count
    columns = []
    for described in schema:
        reader = files.column(described.id)
        block = reader.cursor().read_block(column=described) if reader is not None else None
        columns.append([described.read_default] * count if block is None else
                       [block.cells(i)[0] for i in range(count)])
    base = [{schema.columns[i].id: cell for i, cell in enumerate(row)} for row in zip(*columns, strict=True)]

    def changes(block_id: int, undo: bool) -> Any:
        return DeltaRun.decode(files.file(block_id).cursor().read_block(), undo=undo, rows=count).to_list()

    redos = [changes(block_id, False) for block_id in files.redo_ids]
    if memory is not None:
        redos.append(memory.to_list())
    return twin.apply_deltas(base, 0, [changes(block_id, True) for block_id in files.undo_ids], redos, applied)  # type: ignore[arg-type]


def read_superblock_rows(message: Any, blocks: BlockManager, schema: Schema, applied: twin.Applied,
                         stores: dict[int, DeltaMemStore] | None = None) -> Rows:
    """The rows that all recorded rowsets show at a snapshot."""
    shown: Rows = {}
    for rowset in message.rowsets:
        files = RowSetFiles(blocks, rowset)
        for state in read_rowset(files, schema, applied, (stores or {}).get(rowset.id)):
            if state.live:
                key = key_of(schema, state.cells)
                assert key not in shown, "a key is live in two rowsets"
                shown[key] = state.cells
    return shown


def expected_rows(histories: dict[bytes, list[twin.Op]], applied: twin.Applied) -> Rows:
    found = {key: twin.state_at(ops, applied) for key, ops in histories.items()}
    return {key: state.cells for key, state in found.items() if state is not None and state.live}


@dataclass
class MiniTablet:
    folder: Path
    schema: Schema = delta_rows.SCHEMA
    disk: Disk = field(default_factory=Disk)
    options: BlockOptions = field(default_factory=BlockOptions)
    kind: str = "log"
    target_bytes: int = 32 << 20
    first_timestamp: int = 10
    laid_out: bool = False              # the folder has data directories
    superblock: Any = None

    def __post_init__(self) -> None:
        if not self.laid_out:
            self.folder.mkdir(parents=True, exist_ok=True)
            create_directories([self.folder], [DATA_UUID], self.kind, Disk())
            (self.folder / "tablet-meta").mkdir()
        self.layout = RowLayout(self.schema)
        self.now = self.first_timestamp
        self.mark = 0
        self.histories: dict[bytes, list[twin.Op]] = {}
        self.old_mem: MemRows | None = None         # being flushed
        self.mem = MemRows(self.schema)
        self.places: dict[bytes, tuple[int, int]] = {}      # live keys on disk: (rowset, row)
        self.log_syncs = 0
        self.blocks = open_block_manager([self.folder], options=self.options, disk=self.disk)
        message = self.superblock or new_superblock(self.schema)
        self.metadata = TabletMetadata.create(self.superblock_path(self.folder), message, self.blocks, disk=self.disk)
        self.mem_id = self.metadata.take_mem_rowset_id()
        self.stores: dict[int, DeltaMemStore] = {}
        self.dms_ids: dict[int, int] = {}
        self.duplicate: Callable[[bytes, int, str, twin.Cells], None] | None = None

    @staticmethod
    def superblock_path(folder: Path) -> Path:
        return folder / "tablet-meta" / TABLET_ID

    def close(self) -> None:
        self.blocks.close()

    # -- writes --------------------------------------------------------------------------------------------------------
    def state(self, key: bytes) -> twin.RowState | None:
        return twin.state_at(self.histories.get(key, []), lambda _: True)

    def write(self, kind: str, cells: twin.Cells, *, timestamp: int | None = None) -> None:
        """INSERT, UPDATE, DELETE or REINSERT (an insert of a key that had a row before)."""
        if timestamp is None:
            self.now += 1
        timestamp = self.now if timestamp is None else timestamp
        key = key_of(self.schema, cells)
        keys = {i: cells[i] for i in range(self.schema.key_column_count)}
        rest = {c: v for c, v in cells.items() if c not in keys}
        self.histories.setdefault(key, []).append(twin.Op(timestamp, kind, cells if kind == "INSERT" else rest))
        if kind in ("INSERT", "REINSERT"):
            [effect] = self.mem.write(timestamp, (OPS["INSERT"], cells))
            assert effect in ("inserted", "reinserted")
        elif key in self.places:
            rowset_id, row = self.places[key]
            self.stores[rowset_id].add(row, timestamp, encode_change(kind, rest))
            if kind == "DELETE":
                del self.places[key]
        else:
            self._write_in_memory(timestamp, kind, cells, keys)

    def _write_in_memory(self, timestamp: int, kind: str, cells: twin.Cells, keys: twin.Cells) -> None:
        """The current MemRowSet if the row is live there, else the one that is being flushed."""
        for rows in (self.mem, self.old_mem):
            if rows is not None and rows.write(timestamp, (OPS[kind], cells if kind == "UPDATE" else keys)) \
                    in (["updated"], ["deleted"]):
                return
        raise AssertionError("no live row of that key in memory")

    # -- flush and compactions -----------------------------------------------------------------------------------------
    def commit(self, change: SuperblockChange, transaction: Any) -> None:
        def sync_log() -> None:
            self.log_syncs += 1
        self.metadata.commit(change, transaction, sync_log=sync_log)
        self.metadata.check()
        self.adopt()

    def adopt(self) -> None:
        """Look at all rowsets anew: stores for new ones, and where the live keys are."""
        message = self.metadata.message
        ids = {rowset.id for rowset in message.rowsets}
        self.stores = {rowset_id: store for rowset_id, store in self.stores.items() if rowset_id in ids}
        self.places = {}
        for rowset in message.rowsets:
            files = RowSetFiles(self.blocks, rowset)
            if rowset.id not in self.stores:
                self.new_store(rowset.id, files.row_count)
            states = read_rowset(files, self.schema, lambda _: True, self.stores[rowset.id])
            for row, state in enumerate(states):
                if state.live:
                    self.places[key_of(self.schema, state.cells)] = rowset.id, row

    def new_store(self, rowset_id: int, rows: int) -> None:
        self.stores[rowset_id] = DeltaMemStore(rows)
        self.dms_ids[rowset_id] = self.metadata.take_delta_store_id(rowset_id)

    def files(self, rowset_id: int) -> RowSetFiles:
        return RowSetFiles(self.blocks, self.metadata.rowset(rowset_id))

    @property
    def rowset_ids(self) -> list[int]:
        return [rowset.id for rowset in self.metadata.message.rowsets]

    def flush(self, meanwhile: Callable[[], None] = lambda: None, *, before: Snapshot | None = None
              ) -> list[WrittenRowSet]:
        """The MemRowSet to disk. `meanwhile` runs before and after the rows are written; that is handed over."""
        old, old_id = self.mem, self.mem_id
        before = before or Snapshot(self.now + 1)
        self.old_mem, self.mem, self.mem_id = old, MemRows(self.schema), self.metadata.take_mem_rowset_id()
        try:
            meanwhile()
            with self.blocks.transaction() as transaction:
                written = flush_mem_rowset(old.rows, self.layout, before, transaction, self.metadata.take_rowset_id,
                                           history_mark=self.mark, target_bytes=self.target_bytes)
                meanwhile()
                until = Snapshot(self.now + 1)
                write_missed(MissedChanges(old.rows, self.layout, before, until, history_mark=self.mark), written,
                             transaction)
                self.commit(SuperblockChange(add=tuple(rowset.message for rowset in written),
                                             durable_mrs_id=old_id), transaction)
        finally:
            self.old_mem = None
        return written

    def flush_deltas(self, rowset_id: int) -> None:
        store, dms_id = self.stores[rowset_id], self.dms_ids[rowset_id]
        with self.blocks.transaction() as transaction:
            edit, _ = flush_delta_store(store, dms_id, transaction)
            self.metadata.commit(SuperblockChange(edit={rowset_id: edit}), transaction)
        self.new_store(rowset_id, store.row_count)
        self.adopt()

    def edit(self, rowset_id: int, make: Callable[[RowSetFiles, Any], RowSetEdit]) -> None:
        with self.blocks.transaction() as transaction:
            edit = make(self.files(rowset_id), transaction)
            self.commit(SuperblockChange(edit={rowset_id: edit}), transaction)

    def minor(self, rowset_id: int, first: int, end: int) -> None:
        self.edit(rowset_id, lambda files, transaction: compact_redos(files, files.redo_ids[first:end], transaction))

    def major(self, rowset_id: int, column_ids: Sequence[int]) -> None:
        self.edit(rowset_id, lambda files, transaction: compact_columns(files, self.layout, column_ids, transaction,
                                                                        history_mark=self.mark))

    def merge(self, rowset_ids: Sequence[int], meanwhile: Callable[[], None] = lambda: None, *,
              before: Snapshot | None = None) -> RowSetCompaction:
        inputs = [MergeInput(self.files(rowset_id), self.stores[rowset_id]) for rowset_id in rowset_ids]
        compaction = RowSetCompaction(inputs, self.layout, before or Snapshot(self.now + 1), history_mark=self.mark)
        meanwhile()
        with self.blocks.transaction() as transaction:
            compaction.write(transaction, self.metadata.take_rowset_id, target_bytes=self.target_bytes)
            meanwhile()
            compaction.write_missed(Snapshot(self.now + 1), transaction)
            self.commit(compaction.change(), transaction)
        return compaction

    def forget_undos(self) -> int:
        """Undo GC; the number of files that went."""
        edits = {}
        for rowset_id in self.rowset_ids:
            files = self.files(rowset_id)
            ancient = ancient_undos(RowSetDeltas(rowset_id, {}, undos=tuple(map(files.facts, files.undo_ids))),
                                    self.mark)
            if ancient:
                edits[rowset_id] = drop_undos(ancient)
        if edits:
            self.commit(SuperblockChange(edit=edits), None)
        return sum(len(edit.remove_undos) for edit in edits.values())

    def forget_rowsets(self) -> int:
        """Deleted-rowset GC; the number of rowsets that went."""
        dead = []
        for rowset_id in self.rowset_ids:
            files, store = self.files(rowset_id), self.stores[rowset_id]
            facts = RowSetDeltas(rowset_id, {}, redos=tuple(map(files.facts, files.redo_ids)),
                                 live_row_count=files.message.live_row_count - store.delete_count,
                                 memory_max_timestamp=store.max_timestamp)
            if is_dead_and_ancient(facts, self.mark):
                dead.append(rowset_id)
        if dead:
            self.commit(drop_rowsets(dead), None)
        return len(dead)

    # -- what it holds -------------------------------------------------------------------------------------------------
    def rows(self, at: int) -> Rows:
        """What is shown at a snapshot, on disk and in memory."""
        shown = read_superblock_rows(self.metadata.message, self.blocks, self.schema, twin.before(at), self.stores)
        for block in RowScan([self.mem.rows], self.layout, [at], 4096):
            for i in range(len(block)):
                cells = dict(enumerate(block.cells(i)))
                key = key_of(self.schema, cells)
                assert key not in shown, "a key is live on disk and in memory"
                shown[key] = cells
        return shown

    def verify(self, times: Sequence[int] | None = None) -> None:
        """All snapshots from the history mark on, or some, are what the histories say."""
        for at in times if times is not None else range(max(self.mark, self.first_timestamp), self.now + 2):
            assert self.rows(at) == expected_rows(self.histories, twin.before(at)), f"at {at}"

    def verify_counts(self) -> None:
        for rowset in self.metadata.message.rowsets:
            states = read_rowset(RowSetFiles(self.blocks, rowset), self.schema, lambda _: True)
            assert rowset.live_row_count == sum(state.live for state in states)


# A composite key with a byte string in front, which holds zeros, and one behind.
COMPOSITE = Schema((
    column("name", "STRING", is_key=True, nullable=False, id=0),
    column("number", "INT16", is_key=True, nullable=False, id=1),
    column("rest", "BINARY", is_key=True, nullable=False, id=2),
    column("flag", "BOOL", id=3),
    column("price", "DECIMAL128", id=4),
    column("text", "VARCHAR", nullable=False, id=5),
))


def some_cells(schema: Schema, rng: random.Random, key: int) -> twin.Cells:
    """A whole row."""
    keys = schema.key_column_count
    if keys == 1:
        return {0: struct.pack("<i", key), **{i: some_cell(schema, rng, i) for i in range(1, len(schema))}}
    cells: twin.Cells = {0: b"\0" * (key % 3) + b"n", 1: struct.pack("<h", key % 5 - 2), 2: b"r" * (key // 15)}
    return {**cells, **{i: some_cell(schema, rng, i) for i in range(keys, len(schema))}}


def some_cell(schema: Schema, rng: random.Random, i: int) -> bytes | None:
    described = schema.columns[i]
    if described.nullable and rng.random() < 0.2:
        return None
    if described.type.is_binary:
        return b"t%d" % rng.randrange(1000) * rng.choice((0, 1, 1, 5))
    if described.type.name == "BOOL":
        return bytes([rng.randrange(2)])
    return rng.randrange(-99, 99).to_bytes(described.type.width_bytes, "little", signed=True)


def random_write(tablet: MiniTablet, rng: random.Random, keys: int, *, inserts: bool = True) -> None:
    """One operation that succeeds, on one of so many keys (maybe none where it may not insert)."""
    schema = tablet.schema
    cells = some_cells(schema, rng, rng.randrange(keys))
    state = tablet.state(key_of(schema, cells))
    key = {i: cells[i] for i in range(schema.key_column_count)}
    if state is not None and state.live:
        if rng.random() < 0.35:
            tablet.write("DELETE", key)
        else:
            others = range(schema.key_column_count, len(schema))
            chosen = rng.sample(others, rng.randrange(1, len(others) + 1))
            tablet.write("UPDATE", {**key, **{i: cells[i] for i in sorted(chosen)}})
    elif inserts:
        tablet.write("INSERT" if state is None else "REINSERT", cells)
