"""`kudu_storage.Tablet`: one tablet of a Kudu file system, open in this process with its log.

 B1  Opening recovers the log first (its torn tail is cut and synced), then replays it; the log is not rewritten (C5
     of docs/tablet.md).
 B2  Operations without a COMMIT are committed and applied before anybody sees a row, as a server does that is its own
     only voter: a new term, its NO_OP durable, then they, in order. Each gets its COMMIT.
 B3  New MemRowSets take an id above all that the superblock and the log name (C4).
 B4  The data directories are locked as Kudu locks them, and the log as this package does: one opener at a time, ours
     or real.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from kudu_storage._native.disk import Disk
from kudu_storage._native.key_encoder import KeyEncoder
from kudu_storage._native.memrowset import RowScan
from kudu_storage._native.row_layout import Projection
from kudu_storage._native.row_lookup import RowLookup
from kudu_storage.bootstrap.layout import create_tablet
from kudu_storage.bootstrap.log_port import LogPort, check_one_voter
from kudu_storage.bootstrap.log_replay import PendingOperation, RecoveredRows, recover_rows
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.common.schema_builder import without_column_ids
from kudu_storage.errors import BadFormat, InvalidArgument, NotFound, RowErrors, Unsupported
from kudu_storage.fs.blocks.directories import open_directories
from kudu_storage.fs.consensus_metadata import read_consensus_metadata
from kudu_storage.fs.file_system import server_instance
from kudu_storage.fs.layout import TabletFiles
from kudu_storage.fs.roots import ServerRoots, server_roots
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.protos import message_class
from kudu_storage.tablet.arrow_writes import WriteReport, write_arrow
from kudu_storage.tablet.operations import Record, WriteOperation
from kudu_storage.tablet.predicates import Column
from kudu_storage.tablet.result import Row, row_type
from kudu_storage.tablet.scanner import Scanner
from kudu_storage.tablet.session import Session, new_operation
from kudu_storage.tablet.store import TabletStore, no_op_commit
from kudu_storage.tablet.view import View
from kudu_storage.wal.log import Log

_NO_OP, _WRITE_OP = 1, 3
_LOG_OPTIONS = frozenset({"durability", "segment_size", "compression", "queue_size", "cache_size", "retention"})


class Tablet:
    """Rows in Kudu's format, embedded. Make it with Tablet.create() or Tablet.open(); threads may share it.

        with Tablet.create("data", schema) as t:
            session = t.new_session()
            session.apply(t.new_insert({"id": 1, "name": "one"}))
            session.flush()
            print(t.scanner().add_predicate(t["id"] >= 1).open().read_all_tuples())
    """

    def __init__(self, path: Path, superblock: Superblock, store: TabletStore, port: LogPort) -> None:
        self.path = str(path)
        self.tablet_id = superblock.tablet_id
        self.table_name = superblock.table_name
        self._store = store
        self._port = port
        self._row_type = row_type(store.schema)
        self._key_columns = store.schema.key_columns
        self._keys = KeyEncoder(store.view.layout)
        self._lookup = RowLookup(store.view.layout)

    # -- opening -------------------------------------------------------------------------------------------------------
    @classmethod
    def create(cls, path: str | os.PathLike[str], schema: Schema, *, table_name: str = "table",
               tablet_id: str | None = None, disk: Disk | None = None, **options: Any) -> Tablet:
        """Lay out a Kudu file system with one tablet, durably, and open it.

        Args:
            path: a folder that is empty or does not exist: WAL root and data root.
            schema: from schema_builder().
            table_name: what the tablet's table is called.
            tablet_id: 32 hexadecimal digits. Default: a new one.
            options: as for open().
        Raises:
            InvalidArgument: the folder holds something else, or a tablet. DiskError.
        """
        _check_options(options)
        create_tablet(path, schema, table_name=table_name, tablet_id=tablet_id, disk=disk,
                      compression=options.get("compression", "lz4"))
        return cls.open(path, disk=disk, **options)

    @classmethod
    def open(cls, path: str | os.PathLike[str], tablet_id: str | None = None, *, disk: Disk | None = None,
             **options: Any) -> Tablet:
        """Open a tablet that create() or a real server made, and replay its log.

        Args:
            path: its WAL root and data root.
            tablet_id: which one, where there are several.
            options: durability, segment_size, compression, queue_size, cache_size, retention: of the log, as for
            Log.open().
        Raises:
            NotFound, InvalidArgument. DirectoryLocked or LogLocked: open elsewhere. Unsupported: rows on disk,
            several voters. CorruptionError and its kinds: what the log or the metadata cannot be.
        """
        _check_options(options)
        roots = server_roots(path)
        uuid = server_instance(roots).uuid
        files = _choose(roots, tablet_id)
        directories = open_directories(roots.data_roots, read_only=False, disk=disk or Disk())
        try:
            superblock = _usable_superblock(files, uuid)
            log = Log.open(files.wal_dir, tablet_id=files.tablet_id, schema=superblock.schema,
                           schema_version=superblock.schema_version, disk=disk, **options)
        except BaseException:
            directories.close()
            raise
        return cls._open(roots, files, superblock, LogPort(log, _cmeta_of(files), uuid, directories, disk))

    @classmethod
    def _open(cls, roots: ServerRoots, files: TabletFiles, superblock: Superblock, port: LogPort) -> Tablet:
        try:
            recovered = recover_rows(files)
            store = _store_of(superblock, recovered, port)
            if recovered.pending:
                _commit_pending(store, recovered, port)
            port.anchor(max(port.log.first_index, 1), f"memrowset {store.view.memrowset_id}")
            return cls(roots.wal_root, superblock, store, port)
        except BaseException:
            port.close()
            raise

    def close(self) -> None:
        """Make durable and readable what was sent, close the log, let go of the folder. Once is enough."""
        self._store.close()

    def __enter__(self) -> Tablet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._store.closed:
            return f"<Tablet {self.tablet_id} of {self.table_name!r} in {self.path!r}, closed>"
        rows = self._store.view.memrowsets[-1].row_count
        return (f"<Tablet {self.tablet_id} of {self.table_name!r} in {self.path!r}: {len(self.schema)} columns, "
                f"{rows} keys>")

    # -- what it is ----------------------------------------------------------------------------------------------------
    @property
    def schema(self) -> Schema:
        """Its columns, with ids."""
        return self._store.schema

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
        encoded = self._keys.encode(self._key_values(key))
        snapshot = self._store.latest() if at is None else self._store.snapshot_at(at)
        view = self._store.view
        for rows in reversed(view.memrowsets):
            found = self._lookup.get(rows, snapshot, encoded)
            if found is not None:
                return self._row_type(found)
        return None

    def _key_values(self, key: Any) -> Sequence[Any]:
        if isinstance(key, tuple | list):
            return key
        if not isinstance(key, Mapping):
            return (key,)
        names = [column.name for column in self._key_columns]
        if key.keys() != set(names):
            raise InvalidArgument(f"a key is {', '.join(names)}, got {', '.join(map(str, key))}")
        return [key[name] for name in names]

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
        snapshot = self._store.latest() if at is None else self._store.snapshot_at(at)
        view = self._store.view
        return RowScan(list(view.memrowsets), view.layout, [snapshot] * len(view.memrowsets), 4096).checksum()

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, by name."""
        rows = self._store.view.memrowsets[-1]
        return {
            "tablet_id": self.tablet_id, "table": self.table_name, "path": self.path, "term": self._store.term,
            "in_flight": self._store.in_flight, "applied_timestamp": self._store.applied_timestamp,
            "memrowset": {"id": self._store.view.memrowset_id, "keys": rows.row_count, "versions": rows.version_count,
                          "memory_bytes": rows.memory_bytes, "content_bytes": rows.content_bytes},
            "rowsets": 0, "rows": self._store.counts(), "log": self._port.stats(),
        }


# -- opening, piece by piece -------------------------------------------------------------------------------------------
def _check_options(options: Mapping[str, Any]) -> None:
    unknown = sorted(options.keys() - _LOG_OPTIONS)
    if unknown:
        raise InvalidArgument(f"there is no option {unknown[0]!r}", advice=", ".join(sorted(_LOG_OPTIONS)))


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
    if superblock.rowsets or superblock.last_durable_mrs_id >= 0:
        raise Unsupported(f"the tablet has {len(superblock.rowsets)} rowsets on disk; only tablets whose rows are all "
                          "in their log can be opened", path=str(files.superblock_path), advice="kudu-storage replay")
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


def _store_of(superblock: Superblock, recovered: RecoveredRows, port: LogPort) -> TabletStore:
    recovered.rows.share()
    view = View(recovered.layout, recovered.schema_version, (recovered.rows,),
                max(superblock.last_durable_mrs_id, recovered.memrowset_id) + 1)
    return TabletStore(superblock.tablet_id, view, port, applied=recovered.applied_timestamp,
                       last_timestamp=recovered.last_timestamp, read_only=_part_of_a_table(superblock))


def _part_of_a_table(superblock: Superblock) -> str | None:
    """A row outside of a tablet's own partition would be found by no client."""
    partition = superblock.partition
    if partition.hash_buckets or partition.start or partition.end:
        return "this tablet holds a part of its table; only tablets that hold all of it can be written"
    return None


def _commit_pending(store: TabletStore, recovered: RecoveredRows, port: LogPort) -> None:
    """B2."""
    for operation in recovered.pending:
        if operation.op_type not in (_NO_OP, _WRITE_OP):
            op_id = OpId(operation.term, operation.index)
            raise Unsupported(f"operation {op_id} (type {operation.op_type}) has no COMMIT",
                              path=port.log.path, advice="start a server on the replica once")
    leading = store.lead()
    leading.token.wait()
    for operation in recovered.pending:
        commit = _apply_pending(store, operation)
        if operation.result is None:
            port.commit(commit)
        store.note_applied(operation.timestamp)
    store.settle(leading)


def _apply_pending(store: TabletStore, operation: PendingOperation) -> bytes:
    op_id = OpId(operation.term, operation.index)
    if operation.op_type == _NO_OP:
        return no_op_commit(op_id)
    request: Any = message_class("kudu.tserver.WriteRequestPB").FromString(operation.request or b"")
    projection = Projection(without_column_ids(Schema.from_pb(request.schema)), store.view.layout)
    return store.applier.apply_logged(request.row_operations.rows, request.row_operations.indirect_data, projection,
                                      *op_id, operation.timestamp, operation.result)


