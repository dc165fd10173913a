"""Keeps a state machine's snapshot and lets go of the log that only the one before it needs. Runs in the event loop.

N1  The log loses nothing that is not in a snapshot on the disk: what may go is what the durable snapshot *before* the
    newest durable one has, so that peers which are a little behind are served from the log.
N2  A snapshot is of a moment between two operations, and its configuration is none that is ahead of the state.
Files are an executor's work.
"""
from __future__ import annotations

import asyncio
import logging
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable

from consensus.replica.snapshots import Snapshot, read_bytes, write_snapshot
from kudu_storage import Log
from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import OpId
from kudu_storage.wal.anchors import Anchor

_log = logging.getLogger(__name__)


class SnapshotKeeper:
    """The snapshot of one replica, at `path`.

    Args:
        every_bytes: of log, after which another is due.
        capture: gives the state as of now (N2).
    """

    def __init__(self, path: str, every_bytes: int, disk: Disk, capture: Callable[[], Awaitable[Snapshot]]) -> None:
        self.path = path
        self.index = 0                      # of the newest durable one
        self.first_index = 1                # of the log, as of the last collection
        self._every_bytes = every_bytes
        self._disk = disk
        self._capture = capture
        self._taken_bytes = 0               # of log, by the trail, when the last one was begun
        self._task: asyncio.Task[OpId] | None = None
        self._anchor: Anchor | None = None

    def use(self, log: Log, loop: AbstractEventLoop, snapshot: Snapshot | None, first_index: int) -> None:
        """The files that are open now."""
        self._log = log
        self._loop = loop
        self.index = 0 if snapshot is None else snapshot.last.index
        self.first_index = first_index
        self._taken_bytes = 0
        self._anchor = log.anchor(max(self.index, first_index, 1), "snapshot")

    def let_go(self) -> None:
        """The log is about to be closed for good."""
        if self._anchor is not None:
            self._anchor.release()
            self._anchor = None

    def grown(self, total_bytes: int) -> None:
        """The log has so many bytes, by the trail."""
        if total_bytes - self._taken_bytes > self._every_bytes and self._task is None:
            self._taken_bytes = total_bytes
            self._begin()

    async def take(self) -> OpId:
        """Now, or the one that is under way."""
        return await asyncio.shield(self._task or self._begin())

    async def quiet(self) -> None:
        """Until none is under way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def read(self) -> bytes:
        """The newest durable one, as a file. Raises DiskError."""
        return await self._loop.run_in_executor(None, read_bytes, self.path)

    async def write(self, snapshot: Snapshot) -> None:
        """In place of the one that is there. Raises DiskError."""
        await self._loop.run_in_executor(None, write_snapshot, self.path, snapshot, self._disk)

    def _begin(self) -> asyncio.Task[OpId]:
        self._task = self._loop.create_task(self._take())
        self._task.add_done_callback(self._ended)
        return self._task

    async def _take(self) -> OpId:
        snapshot = await self._capture()
        if snapshot.last.index > self.index:
            await self._loop.run_in_executor(None, self._keep, snapshot, self.index)
            self.index = snapshot.last.index
        return snapshot.last

    def _keep(self, snapshot: Snapshot, kept: int) -> None:
        write_snapshot(self.path, snapshot, self._disk)
        if kept > 0:
            anchor = self._log.anchor(max(kept, self._log.first_index), "snapshot")
            self.let_go()
            self._anchor = anchor
            self._log.gc()
            self.first_index = self._log.first_index

    def _ended(self, task: asyncio.Task[OpId]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("there is no new snapshot at %s: %s", self.path, error)
