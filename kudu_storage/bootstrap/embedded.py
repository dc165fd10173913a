"""`kudu_storage.Tablet`: one tablet of a Kudu file system, open in this process with its log.

 B1  Opening recovers the log first (its torn tail is cut and synced), then replays it; the log is not rewritten (C5
     of docs/tablet.md).
 B2  Operations without a COMMIT are committed and applied before anybody sees a row, as a server does that is its own
     only voter: a new term, its NO_OP durable, then they, in order. Each gets its COMMIT.
 B3  New stores take ids above all that the superblock and the log name (C4).
 B4  The data directories are locked as Kudu locks them, and the log as this package does: one opener at a time, ours
     or real.
 B5  Blocks that no tablet's superblock names are what a crash left: they are deleted (C1).
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.disk import Disk
from kudu_storage._native.key_encoder import KeyEncoder
from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_checksum import checksum
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.bootstrap.layout import create_tablet
from kudu_storage.bootstrap.log_port import LogPort, check_one_voter
from kudu_storage.bootstrap.log_replay import recover_rows
from kudu_storage.bootstrap.maintained import MaintainedTablet, SchedulerCare
from kudu_storage.bootstrap.recovery import commit_pending, delete_garbage, store_of
from kudu_storage.common.limits import MIB
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_alterer import SchemaAlterer
from kudu_storage.common.sizes import parse_bytes
from kudu_storage.errors import BadFormat, InvalidArgument, NotFound, RowErrors, Unsupported
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.consensus_metadata import read_consensus_metadata
from kudu_storage.fs.file_system import server_instance
from kudu_storage.fs.layout import TabletFiles
from kudu_storage.fs.roots import ServerRoots, server_roots
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.tablet.arrow_writes import WriteReport, write_arrow
from kudu_storage.tablet.compaction_policy import CompactionPolicy
from kudu_storage.tablet.maintenance import Done, Maintenance
from kudu_storage.tablet.metadata import TabletMetadata
from kudu_storage.tablet.operations import Record, WriteOperation
from kudu_storage.tablet.point_reads import PointReader
from kudu_storage.tablet.predicates import Column
from kudu_storage.tablet.result import Row, row_type
from kudu_storage.tablet.rowset_writer import TARGET_ROWSET_BYTES
from kudu_storage.tablet.scanner import Scanner, scan_view
from kudu_storage.tablet.scheduler import Scheduler, process_scheduler
from kudu_storage.tablet.session import Session, new_operation
from kudu_storage.tablet.store import TabletStore
from kudu_storage.tablet.view import View
from kudu_storage.wal.log import Log

_LOG_OPTIONS = frozenset({"durability", "segment_size", "compression", "queue_size", "cache_size", "retention"})
_TABLET_OPTIONS = frozenset({"block_cache_size", "rowset_size", "maintenance"})
_MAINTENANCE = ("background", "manual")


@dataclass(frozen=True, slots=True)
class _Settings:
    block_cache_bytes: int = 256 * MIB
    rowset_bytes: int = TARGET_ROWSET_BYTES
    in_background: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> _Settings:
        """Raises InvalidArgument."""
        defaults = cls()
        maintenance = options.get("maintenance", "background")
        if maintenance not in _MAINTENANCE:
            raise InvalidArgument(f"maintenance is {maintenance!r}", advice=" or ".join(map(repr, _MAINTENANCE)))
        return cls(parse_bytes(options.get("block_cache_size", defaults.block_cache_bytes)),
                   max(1, parse_bytes(options.get("rowset_size", defaults.rowset_bytes))),
                   maintenance == "background")


class Tablet:
    """Rows in Kudu's format, embedded. Make it with Tablet.create() or Tablet.open(); threads may share it.

        with Tablet.create("data", schema) as t:
            session = t.new_session()
            session.apply(t.new_insert({"id": 1, "name": "one"}))
            session.flush()
            print(t.scanner().add_predicate(t["id"] >= 1).open().read_all_tuples())
    """

    def __init__(self, path: Path, superblock: Superblock, store: TabletStore, port: LogPort,
                 maintenance: Maintenance, maintained: MaintainedTablet) -> None:
        self.path = str(path)
        self.tablet_id = superblock.tablet_id
        self._store = store
        self._port = port
        self._by_key = _RowsByKey(store.view.layout)
        self._maintenance = maintenance
        self._maintained = maintained
        self._scheduler: Scheduler | None = None

    # -- opening -------------------------------------------------------------------------------------------------------
    @classmethod
    def create(cls, path: str | os.PathLike[str], schema: Schema, *, table_name: str = "table",
               tablet_id: str | None = None, history_seconds: int | None = None, disk: Disk | None = None,
               **options: Any) -> Tablet:
        """Lay out a Kudu file system with one tablet, durably, and open it.

        Args:
            path: a folder that is empty or does not exist: WAL root and data root.
            schema: from schema_builder().
            table_name: what the tablet's table is called.
            tablet_id: 32 hexadecimal digits. Default: a new one.
            history_seconds: how long a version of a row is kept at least after it was replaced, for snapshots; -1: for
            ever. Default: as servers have it, a week.
            options: as for open().
        Raises:
            InvalidArgument: the folder holds something else, or a tablet. DiskError.
        """
        _check_options(options)
        create_tablet(path, schema, table_name=table_name, tablet_id=tablet_id, disk=disk,
                      compression=options.get("compression", "lz4"), history_seconds=history_seconds)
        return cls.open(path, disk=disk, **options)

    @classmethod
    def open(cls, path: str | os.PathLike[str], tablet_id: str | None = None, *, disk: Disk | None = None,
             **options: Any) -> Tablet:
        """Open a tablet that create() or a real server made, and replay its log.

        Args:
            path: its WAL root and data root.
            tablet_id: which one, where there are several.
            options: durability, segment_size, compression, queue_size, cache_size, retention: of the log, as for
            Log.open(). block_cache_size: of blocks of column files. rowset_size: of a new rowset's files, about.
            maintenance: "background": this process's scheduler flushes, compacts and collects as needed, and writers
            wait when memory is at its budget; or "manual": nothing happens by itself.
        Raises:
            NotFound, InvalidArgument. DirectoryLocked or LogLocked: open elsewhere. Unsupported: several voters, or
            what cannot be written. CorruptionError and its kinds: what the log, the metadata or a rowset cannot be.
            NoSuchBlock, DirectoryFailed, DiskError.
        """
        _check_options(options)
        roots = server_roots(path)
        uuid = server_instance(roots).uuid
        files = _choose(roots, tablet_id)
        settings = _Settings.of(options)
        blocks = open_block_manager(roots.data_roots, disk=disk or Disk())
        try:
            superblock = _usable_superblock(files, uuid)
            log = Log.open(files.wal_dir, tablet_id=files.tablet_id, schema=superblock.schema,
                           schema_version=superblock.schema_version, disk=disk,
                           **{name: value for name, value in options.items() if name in _LOG_OPTIONS})
        except BaseException:
            blocks.close()
            raise
        return cls._open(roots, files, superblock, LogPort(log, _cmeta_of(files), uuid, blocks, disk), blocks, disk,
                         settings)

    @classmethod
    def _open(cls, roots: ServerRoots, files: TabletFiles, superblock: Superblock, port: LogPort, blocks: BlockManager,
              disk: Disk | None, settings: _Settings) -> Tablet:
        try:
            assert files.superblock_path is not None
            metadata = TabletMetadata(files.superblock_path, superblock.message, blocks, disk=disk)
            cache = BlockCache(settings.block_cache_bytes)
            recovered = recover_rows(files, blocks, cache)
            store = store_of(superblock, recovered, metadata, port)
            if recovered.pending:
                commit_pending(store, recovered, superblock, metadata, port)
            recovered.rows.share()
            maintenance = Maintenance(store, metadata, blocks, cache, target_rowset_bytes=settings.rowset_bytes)
            delete_garbage(roots, blocks)
            maintenance.clean_up()
            maintained = MaintainedTablet(superblock, store, port.log, maintenance)
            tablet = cls(roots.wal_root, superblock, store, port, maintenance, maintained)
            if settings.in_background and not store.is_read_only:
                tablet._scheduler = process_scheduler()
                tablet._scheduler.register(maintained)
                store.take_care(SchedulerCare(tablet._scheduler, maintained))
            return tablet
        except BaseException:
            port.close()
            raise

    def close(self) -> None:
        """Make durable and readable what was sent, close the log, let go of the folder. Once is enough.

        What is in memory stays in the log: the next opening replays it. Waits for flushes and compactions that run.
        """
        if self._scheduler is not None:
            self._scheduler.unregister(self._maintained)
        if not self._store.closed and self._store.is_of_this_process:
            self._maintenance.close()
        self._store.close()

    def __enter__(self) -> Tablet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._store.closed:
            return f"<Tablet {self.tablet_id} of {self.table_name!r} in {self.path!r}, closed>"
        view = self._store.view
        return (f"<Tablet {self.tablet_id} of {self.table_name!r} in {self.path!r}: {len(self.schema)} columns, "
                f"{sum(rows.row_count for rows in view.memrowsets)} keys in memory, {len(view.flushed)} rowsets>")

    # -- what it is ----------------------------------------------------------------------------------------------------
    @property
    def schema(self) -> Schema:
        """Its columns, with ids."""
        return self._store.schema

    @property
    def table_name(self) -> str:
        """What its table is called."""
        return self._maintenance.table_name

    @property
    def log(self) -> Log:
        """The log below: for looking, anchors and gc(). Appending to it is the tablet's."""
        return self._port.log

    @property
    def closed(self) -> bool:
        return self._store.closed

    def __getitem__(self, column: str | int) -> Column:
        """A column, for predicates: t["id"] >= 1."""
        position = self.schema.find(column) if isinstance(column, str) else column
        if position is None or not 0 <= position < len(self.schema):
            raise InvalidArgument(f"no column named {column!r}", advice=f"one of {', '.join(self.schema.names)}")
        return Column(self.schema.columns[position])

    # -- changing the schema -------------------------------------------------------------------------------------------
    def new_table_alterer(self) -> TableAlterer:
        """Changes of the schema: note them down, then alter().

            alterer = t.new_table_alterer()
            alterer.add_column("n", "int64", nullable=False, default=0)
            alterer.alter_column("v", rename_to="value").encoding("dict")
            alterer.drop_column("old")
            alterer.alter()
        """
        return TableAlterer(self)

    def alter(self, alterer: SchemaAlterer, *, timeout: float | None = None) -> Schema:
        """Change the schema, durably; the schema of now. Writers wait for it, scans that are open go on as they began.

        Rows in memory are flushed first. Operations made before map to the columns of now by name; where they cannot,
        they are refused as RowInvalid. Snapshots of before are read with the columns of now.

        Args:
            timeout: seconds to wait for operations under way; None: for ever.
        Raises:
            InvalidArgument: changes that do not fit. Unsupported: a tablet that can only be read. WaitTimeout, NoSpace,
            LogPoisoned, DirectoryFailed, DiskError: nothing was changed. TabletFailed: open the tablet again, that does
            what is left. TabletClosed.
        """
        return self._maintenance.alter(alterer, timeout=timeout)

    # -- writing -------------------------------------------------------------------------------------------------------
    def new_session(self, flush_mode: str = "manual", timeout: float | None = None, *, buffer_size: int | str = "64MiB",
                    error_limit: int = 1000, flush_interval: float = 1.0) -> Session:
        """A session: "manual", "sync" or "background" (see kudu_storage.tablet.session).

        Args:
            timeout: seconds that a flush waits; None: for ever.
            buffer_size: bound of operations that wait.
            error_limit: row errors kept for get_pending_errors().
            flush_interval: seconds that an operation waits at most in the background mode.
        """
        self._store.require_usable()
        return Session(self._store, flush_mode=flush_mode, timeout=timeout, buffer_size=buffer_size,
                       error_limit=error_limit, flush_interval=flush_interval)

    def new_insert(self, record: Record = None) -> WriteOperation:
        """An operation for session.apply(): a dict by column name, or values in column order."""
        return new_operation(self.schema, "insert", record)

    def new_insert_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "insert_ignore", record)

    def new_upsert(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "upsert", record)

    def new_upsert_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "upsert_ignore", record)

    def new_update(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "update", record)

    def new_update_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "update_ignore", record)

    def new_delete(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "delete", record)

    def new_delete_ignore(self, record: Record = None) -> WriteOperation:
        return new_operation(self.schema, "delete_ignore", record)

    def apply_arrow(self, data: Any, op: str = "upsert", *, on_error: Literal["raise", "collect"] = "raise",
                    timeout: float | None = None, error_limit: int = 1000) -> WriteReport:
        """One operation for each row of an Arrow stream. Durable and readable on return.

        Args:
            data: anything with __arrow_c_stream__: tables and frames of pyarrow, polars, pandas, DuckDB.
            op: "insert", "upsert", "update", "delete", or one of them with "_ignore".
            on_error: "raise" RowErrors when rows were refused, or "collect" them in what is returned.
            timeout: seconds to wait for the log; None: for ever.
            error_limit: row errors kept.
        Raises:
            InvalidArgument: columns or a value that do not fit: rows before it are written, and it says how many.
            RowErrors: some rows were refused, all others stand. NoSpace, WaitTimeout, LogPoisoned, TabletClosed.
        """
        if on_error not in ("raise", "collect"):
            raise InvalidArgument(f"on_error is {on_error!r}", advice='"raise" or "collect"')
        report = write_arrow(self._store, data, op, timeout=timeout, error_limit=error_limit)
        if report.refused and on_error == "raise":
            raise RowErrors(report.errors, report.refused)
        return report

    def upsert_arrow(self, data: Any, *, timeout: float | None = None) -> int:
        """apply_arrow() with upserts; the number of rows."""
        return self.apply_arrow(data, "upsert", timeout=timeout).rows

    def insert_arrow(self, data: Any, *, timeout: float | None = None, error_limit: int = 1000) -> int:
        """apply_arrow() with inserts; the number of rows."""
        return self.apply_arrow(data, "insert", timeout=timeout, error_limit=error_limit).rows

    # -- reading -------------------------------------------------------------------------------------------------------
    def scanner(self, timeout: float | None = None) -> Scanner:
        """A new scan; `timeout` bounds how long a snapshot waits for operations in flight."""
        self._store.require_usable()
        return Scanner(self._store, timeout)

    def get(self, key: Any, *, at: int | None = None) -> Row | None:
        """The row with this key, or None: a value, a sequence of values, or a dict by column name."""
        self._store.require_usable()
        snapshot, view = self._read_point(at)
        by_key = self._by_key
        if by_key.layout is not view.layout:
            by_key = self._by_key = _RowsByKey(view.layout)
        found = by_key.points.get(view, snapshot, by_key.keys.encode(by_key.values(key)))
        return None if found is None else by_key.row_type(found)

    def _read_point(self, at: int | None) -> tuple[Snapshot, View]:
        return self._store.read_point(self._store.latest if at is None else lambda: self._store.snapshot_at(at))

    def now(self) -> int:
        """A hybrid time between all operations so far and all that follow, for set_snapshot()."""
        return self._store.now()

    def checksum(self, at: int | None = None) -> int:
        """Sum of the row checksums, as `kudu cluster ksck --checksum_scan` reports it."""
        return self._sum(at)[1]

    def count(self, at: int | None = None) -> int:
        """Number of rows."""
        return self._sum(at)[0]

    def _sum(self, at: int | None) -> tuple[int, int]:
        self._store.require_usable()
        snapshot, view = self._read_point(at)
        if not view.flushed:
            return RowScan(view.memrowsets, view.layout, [snapshot] * len(view.memory), 4096).checksum()
        rows = total = 0
        for block in scan_view(view, view.layout, snapshot):
            rows += len(block)
            total += checksum(block)
        return rows, total % 2**64

    # -- maintenance ---------------------------------------------------------------------------------------------------
    @property
    def maintenance(self) -> Maintenance:
        """Single steps, for whoever decides what to do when."""
        return self._maintenance

    @property
    def maintained(self) -> MaintainedTablet:
        """What could be done now, with plans; for a kudu_storage.tablet.scheduler.Scheduler of one's own too."""
        return self._maintained

    def flush(self) -> None:
        """Rows in memory to disk, and changes of rows on disk, while writers and readers go on.

        What the log holds of them is needed no more: log.gc() removes it. Does nothing where nothing is in memory.
        Raises NoSpace, DirectoryFailed, DiskError: what was not flushed is in memory and in the log as before.
        TabletFailed, TabletClosed.
        """
        self._maintenance.flush_memory()
        for rowset_id in [flushed.id for flushed in self._store.view.flushed]:
            self._maintenance.flush_deltas(rowset_id)

    def compact(self, *, budget: int | str = "256MiB") -> list[Done]:
        """What makes reads quicker and files smaller, while writers and readers go on; what was done.

        Args:
            budget: bytes that one merge of rowsets may read.
        Raises as flush().
        """
        return self._maintenance.compact(CompactionPolicy(budget_bytes=parse_bytes(budget)))

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, by name; where rows lie, and what anchors the log from which operation on."""
        view = self._store.view
        rows = view.memory[-1].rows
        return {
            "tablet_id": self.tablet_id, "table": self.table_name, "path": self.path, "term": self._store.term,
            "in_flight": self._store.in_flight, "applied_timestamp": self._store.applied_timestamp,
            "history_mark": self._store.history_mark,
            "memrowset": {"id": view.memrowset_id, "keys": rows.row_count, "versions": rows.version_count,
                          "memory_bytes": rows.memory_bytes, "content_bytes": rows.content_bytes},
            "memrowsets_being_flushed": [store.id for store in view.memory[:-1]],
            "rowsets": len(view.flushed), "layout": self._maintenance.layout(),
            "rows": self._store.counts(), "anchors": self._anchors(), "log": self._port.stats(),
            "maintenance": self._maintenance_stats(),
        }

    def _maintenance_stats(self) -> dict[str, Any]:
        """Of the background, its failures among them."""
        if self._scheduler is None:
            return {"mode": "manual"}
        return {"mode": "background", **self._scheduler.stats_of(self._maintained)}

    def _anchors(self) -> list[dict[str, Any]]:
        self._store.move_anchors()
        return [anchor.to_json() for anchor in self._port.log.anchors.holders()]


class TableAlterer(SchemaAlterer):
    """A SchemaAlterer of one tablet. One thread uses it, once."""

    def __init__(self, tablet: Tablet) -> None:
        super().__init__()
        self._tablet = tablet

    def alter(self, timeout: float | None = None) -> Tablet:
        """Do all of it, as one change: see Tablet.alter()."""
        self._tablet.alter(self, timeout=timeout)
        return self._tablet


class _RowsByKey:
    """What point reads need, for one layout. Threads may share it."""

    def __init__(self, layout: RowLayout) -> None:
        self.layout = layout
        self.keys = KeyEncoder(layout)
        self.points = PointReader(layout)
        self.row_type = row_type(layout.schema)
        self._names = [column.name for column in layout.schema.key_columns]

    def values(self, key: Any) -> Sequence[Any]:
        """Of the key's columns, in order. Raises InvalidArgument."""
        if isinstance(key, tuple | list):
            return key
        if not isinstance(key, Mapping):
            return (key,)
        if key.keys() != set(self._names):
            raise InvalidArgument(f"a key is {', '.join(self._names)}, got {', '.join(map(str, key))}")
        return [key[name] for name in self._names]


# -- opening, piece by piece -------------------------------------------------------------------------------------------
def _check_options(options: Mapping[str, Any]) -> None:
    known = _LOG_OPTIONS | _TABLET_OPTIONS
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InvalidArgument(f"there is no option {unknown[0]!r}", advice=", ".join(sorted(known)))


def _choose(roots: ServerRoots, tablet_id: str | None) -> TabletFiles:
    if tablet_id is not None:
        return roots.tablet(tablet_id)
    found = [files for files in roots.tablets() if files.superblock_path is not None]
    if not found:
        raise NotFound("no tablet here", path=str(roots.wal_root), advice="Tablet.create()")
    if len(found) > 1:
        raise InvalidArgument(f"{len(found)} tablets here", path=str(roots.wal_root),
                              advice="name one of: " + ", ".join(files.tablet_id for files in found[:20]))
    return found[0]


def _usable_superblock(files: TabletFiles, uuid: str) -> Superblock:
    """Raises Unsupported for what cannot be opened here, NotFound for missing metadata."""
    if files.superblock_path is None:
        raise NotFound("the replica's tablet metadata is missing", path=str(files.wal_dir))
    superblock = read_superblock(files.superblock_path)
    if superblock.tablet_id != files.tablet_id:
        raise BadFormat(f"the metadata of another tablet, {superblock.tablet_id}", path=str(files.superblock_path))
    if not superblock.is_ready:
        raise Unsupported(f"the replica's state is {superblock.tablet_data_state}", path=str(files.superblock_path))
    if files.recovery_dir is not None:
        raise Unsupported("a server was stopped while it rewrote the log", path=str(files.recovery_dir),
                          advice="start and stop the server, or read it with kudu-storage replay")
    cmeta = _cmeta_of(files)
    check_one_voter(read_consensus_metadata(cmeta), uuid, str(cmeta))
    return superblock


def _cmeta_of(files: TabletFiles) -> Path:
    if files.cmeta_path is None:
        raise NotFound("the replica's consensus metadata is missing", path=str(files.wal_dir))
    return files.cmeta_path
