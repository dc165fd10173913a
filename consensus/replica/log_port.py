"""ports.Log over kudu_storage.Log: what a replica appends, reads and learns of durability. Runs in one event loop.

User operations are REPLICATE entries with an opaque payload (docs/log.md), encoded once, natively, by the leader;
followers append the bytes that came. A batch costs some calls here, whatever is in it.

L1  Appends are reported durable in their order, by the newest batch of a group.
L2  Nothing here reads, writes or syncs in the loop's thread: appends are queued for the log's native threads, which
    tell an eventfd; what the cache does not have is read by an executor (`fetch`).
L3  Truncation is logical. Nothing is written for it: the next operation with a lower index voids what is above, and
    after a crash before that the log has again what it had, which Raft allows.
L4  When there is no space, all that is queued fails in order: the first index lost is told once, as a cut.
"""
from __future__ import annotations

import contextlib
import os
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from consensus.raft.configuration import Config
from consensus.raft.messages import Kind, Run
from consensus.replica.ports import Slice
from consensus.replica.trail import Trail
from kudu_storage import Log
from kudu_storage._native.log_writer import Append
from kudu_storage._native.operations import Operation, encode_commits, look, operations
from kudu_storage.errors import InternalError, KuduStorageError, LogBackpressure, NoSpace
from kudu_storage.protos import message_class
from kudu_storage.wal.log_batches import entry_bytes

REQUEST_BYTES_MAX: Final = 1 << 20
# COMMITs wait so long for operations to be written with. By themselves they would cost a sync that the next ones wait
# for.
COMMITS_S: Final = 0.2
_ALL: Final = 1 << 62
_KINDS: Final = {int(kind): kind for kind in Kind}
# OperationType of what a leader makes itself.
_OP_TYPES: Final = {Kind.NO_OP: 1, Kind.CONFIG: 5}
_replicate_pb: Any = message_class("kudu.consensus.ReplicateMsg")

# Native run: (term, first, last, kind, bytes, ChangeConfigRecordPB or None).
NativeRun = tuple[int, int, int, int, int, bytes | None]


class Proposed(NamedTuple):
    """Payload of a proposal, and the timestamp that its operations get."""

    payloads: list[bytes]
    timestamp: int


class Applicable(NamedTuple):
    """Operations to apply, and the rows of them that COMMITs are made of."""

    operations: list[Operation]
    runs: list[NativeRun]


class _Pending(NamedTuple):
    batch: int
    first: int
    token: Append | None        # None: nothing was written for it


class Events(NamedTuple):
    """Whom to tell. Called from the loop, never while an append is at work."""

    durable: Callable[[int], None]
    cut: Callable[[int], None]
    failed: Callable[[KuduStorageError], None]


class LogPort:
    """See above. `encode_config` makes the ChangeConfigRecordPB of a configuration, `decode_config` reads one."""

    def __init__(self, log: Log, loop: AbstractEventLoop, events: Events, trail: Trail,
                 encode_config: Callable[[Config], bytes], decode_config: Callable[[bytes, int], Config]) -> None:
        self.log = log
        self._writer = log.writer
        self._loop = loop
        self._events = events
        self._trail = trail
        self._encode_config = encode_config
        self._decode_config = decode_config
        self._pending: deque[_Pending] = deque()
        self._commits: list[NativeRun] = []     # that found no room in the log's queue
        self._room: list[Future[None]] = []
        self._commit_timer: TimerHandle | None = None
        self._settling = False
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._writer.set_async(self._fd, None)
        loop.add_reader(self._fd, self._on_event)

    def close(self) -> None:
        if self._fd >= 0:
            if self._commit_timer is not None:
                self._commit_timer.cancel()
            self._loop.remove_reader(self._fd)
            self._writer.set_async(-1, None)
            os.close(self._fd)
            self._fd = -1

    # -- appending -----------------------------------------------------------------------------------------------------
    def append(self, batch: int, runs: Sequence[Run], payload: object, timestamp: int) -> Future[None] | None:
        """A future: the log's queue is full, nothing was appended; do it again when the future is done."""
        first = runs[0].first
        try:
            token = self._append(runs, first, payload, timestamp)
        except LogBackpressure:
            if not self._pending:
                raise
            room: Future[None] = self._loop.create_future()
            self._room.append(room)
            return room
        self._trail.note(runs[-1].last, sum([run.size_bytes for run in runs]), self._loop.time())
        self._wait_for(_Pending(batch, first, token))
        return None

    def _append(self, runs: Sequence[Run], first: int, payload: object, timestamp: int) -> Append | None:
        writer = self._writer
        if type(payload) is Proposed:
            if writer.next_index != first:
                return self._lost(first)
            term = runs[0].term
            if writer.term != term:
                writer.term = term
            return writer.append_many(payload.payloads, payload.timestamp)
        if payload is None:
            body = self._own_entry(runs[0], timestamp)
        else:
            body = _cut(payload, first, runs[-1].last)
        behind = writer.next_index - first
        if behind < 0:
            return self._lost(first)
        # Only what really replaces must be told to the log's readers, which may wait for a collection at work.
        return self.log.append_entries(body, replace=True) if behind else writer.append_entries(body, replace=True)

    def _lost(self, first: int) -> Append | None:
        """For want of space what stands before it was thrown away, and that was not reported yet (L4)."""
        if not self._pending:
            raise InternalError(f"operation {first} would follow {self._writer.next_index - 1} in the log")
        return None

    def _own_entry(self, run: Run, timestamp: int) -> bytes:
        message = _replicate_pb(timestamp=timestamp, op_type=_OP_TYPES[run.kind])
        message.id.term, message.id.index = run.term, run.first
        if run.kind is Kind.CONFIG:
            assert run.config is not None
            message.change_config_record.ParseFromString(self._encode_config(run.config))
        else:
            message.noop_request.SetInParent()
        return entry_bytes(1, message.SerializeToString())

    def truncate(self, batch: int, after: int) -> None:
        self._trail.cut(after)
        self._wait_for(_Pending(batch, after + 1, None))

    def append_commits(self, runs: list[NativeRun]) -> None:
        """COMMITs of what was applied. Nobody waits for them: they are written with what comes next."""
        if self._commits:
            runs = self._commits + runs
            self._commits = []
        try:
            self._writer.append_entries(encode_commits(runs), lazy=True)
            if self._commit_timer is None:
                self._commit_timer = self._loop.call_later(COMMITS_S, self._write_commits)
        except LogBackpressure:
            self._commits = runs
        except KuduStorageError as error:
            self._events.failed(error)

    def _write_commits(self) -> None:
        self._commit_timer = None
        if self._fd >= 0:
            self._writer.hurry()

    # -- durability ----------------------------------------------------------------------------------------------------
    def _wait_for(self, pending: _Pending) -> None:
        self._pending.append(pending)
        if len(self._pending) > 1:
            # Who is told of the first one asks about the rest; the log's threads must know that somebody waits.
            self._writer.hurry()
        elif pending.token is None:
            self._settle_soon()
        else:
            self._arm(pending.token)

    def _arm(self, token: Append) -> None:
        try:
            settled = self._writer.arm(token)
        except KuduStorageError:
            settled = True
        if settled:
            self._settle_soon()
        else:
            self._writer.hurry()

    def _settle_soon(self) -> None:
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        if not self._settling:
            self._settle()

    def _settle(self) -> None:
        self._settling = False
        pending = self._pending
        done = 0
        try:
            while pending and ((token := pending[0].token) is None or token.done):
                done = pending.popleft().batch
        except NoSpace:
            self._report(done)
            self._cut_pending()
            return
        except KuduStorageError as error:
            self._report(done)
            pending.clear()
            self._events.failed(error)
            return
        self._report(done)
        if pending and not self._settling and (token := pending[0].token) is not None:
            self._arm(token)

    def _report(self, done: int) -> None:
        if done:
            self._make_room()
            self._events.durable(done)

    def _cut_pending(self) -> None:
        first = min(p.first for p in self._pending)
        self._pending.clear()
        self._make_room()
        self._trail.cut(first - 1)
        self._events.cut(first - 1)

    def _make_room(self) -> None:
        room, self._room = self._room, []
        for future in room:
            if not future.done():
                future.set_result(None)
        if self._commits:
            self.append_commits([])

    # -- reading -------------------------------------------------------------------------------------------------------
    def read(self, first: int, last: int, max_bytes: int = REQUEST_BYTES_MAX) -> Slice | None:
        """From the cache, also what is not durable yet. None: fetch() it."""
        parts: list[Any] = []
        runs: list[NativeRun] = []
        size = 0
        cached = self._writer.cached
        while first <= last and size < max_bytes:
            part = cached(first, unwritten=True)
            if part is None:
                break
            _, _, found = look(part, first, last, max_bytes - size)
            if not found:
                break
            if parts and size + found[0][4] > max_bytes:
                break
            parts.append(part)
            size += sum([run[4] for run in found])
            first = found[-1][2] + 1
            runs += found
        return Slice(self._runs(runs), parts, size) if runs else None

    def _runs(self, native: list[NativeRun]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for term, first, last, kind, size, record in native:
            before = runs[-1] if runs else None
            if kind == 0 and before is not None and before.kind is Kind.DATA and before.term == term:
                runs[-1] = Run(term, before.first, last, Kind.DATA, before.size_bytes + size)
            else:
                config = None if record is None else self._decode_config(record, first)
                runs.append(Run(term, first, last, _KINDS[kind], size, config))
        return tuple(runs)

    def fetch(self, first: int, last: int, max_bytes: int = REQUEST_BYTES_MAX) -> Future[Slice]:
        """read() of what must come from disk, as far as it is written: behind that the disk may have what is about to
        be replaced. The future may fail with Collected, CorruptionError, DiskError."""
        unwritten = min([p.first for p in self._pending if p.token is not None], default=last + 1)
        return self._loop.run_in_executor(None, self._fetch, first, min(last, unwritten - 1), max_bytes)

    def _fetch(self, first: int, last: int, max_bytes: int) -> Slice:
        parts = self.log.read_batches(first, last, max_bytes)
        runs = [run for part in parts for run in look(part, first, last, _ALL)[2]]
        return Slice(self._runs(runs), parts, sum([run[4] for run in runs]))

    def applicable(self, first: int, last: int) -> Applicable | None:
        """Operations for the state machine, a batch at a time. None: not in the cache."""
        part = self._writer.cached(first, unwritten=True)
        if part is None:
            return None
        return _applicable(part, first, last)

    def fetch_applicable(self, first: int, last: int) -> Future[list[Applicable]]:
        """applicable() of what must come from disk, about a MiB of it."""
        return self._loop.run_in_executor(None, self._fetch_applicable, first, last)

    def _fetch_applicable(self, first: int, last: int) -> list[Applicable]:
        found = []
        for part in self.log.read_batches(first, last, REQUEST_BYTES_MAX):
            piece = _applicable(part, first, last)
            if piece is not None:
                found.append(piece)
                first = piece.runs[-1][2] + 1
        return found


def _applicable(part: Any, first: int, last: int) -> Applicable | None:
    _, _, runs = look(part, first, last, _ALL)
    return Applicable(operations(part, first, last), runs) if runs else None


def _cut(payload: Any, first: int, last: int) -> bytes:
    """Operations `first` to `last` of what came with a request, as one batch."""
    body = getattr(payload, "body", None)
    parts = payload if body is None else (body,)
    pieces = []
    for part in parts:
        begin, end, _ = look(part, first, last, _ALL)
        if end > begin:
            if begin == 0 and len(parts) == 1 and type(part) is bytes and end == len(part):
                return part
            pieces.append(memoryview(part)[begin:end])
    return b"".join(pieces)
