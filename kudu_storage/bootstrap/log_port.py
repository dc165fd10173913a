"""The log as a tablet wants it (tablet/ports.py): operations of this process's own term, and who leads.

 G1  A term is durable, with this server's vote for itself, before its first operation is queued.
 G2  Only a configuration whose one voter is this server may be led without asking anybody.
"""
from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, LogBackpressure, LogPoisoned, NoSpace, Unsupported
from kudu_storage.fs.consensus_metadata import ConsensusMetadata, read_consensus_metadata, write_consensus_metadata
from kudu_storage.tablet.ports import Token
from kudu_storage.wal.anchors import Anchor
from kudu_storage.wal.log import Log, aside


class Closable(Protocol):
    def close(self) -> None: ...


class LogPort:
    """Implements tablet.ports.LogSink over a Log. `lock` goes with it."""

    def __init__(self, log: Log, cmeta_path: Path, server_uuid: str, lock: Closable | None = None,
                 disk: Disk | None = None) -> None:
        self.log = log
        self._cmeta_path = cmeta_path
        self._uuid = server_uuid
        self._lock = lock
        self._disk = disk
        self._anchors: dict[str, Anchor] = {}
        # COMMITs that may not be in the log yet, oldest first; None: there was no place for it. Under the lock.
        self._commits: deque[tuple[Token | None, bytes]] = deque()
        self._commits_lock = threading.Lock()

    def lead(self) -> int:
        metadata = read_consensus_metadata(self._cmeta_path)
        check_one_voter(metadata, self._uuid, str(self._cmeta_path))
        term = max(metadata.current_term, self.log.term, self.log.last.term) + 1
        message = metadata.message
        message.current_term, message.voted_for = term, self._uuid
        write_consensus_metadata(self._cmeta_path, message, disk=self._disk)
        self.log.term = term
        return term

    def next_index(self) -> int:
        return self.log.last.index + 1

    def replicate(self, message: bytes) -> Token | None:
        before = self.log.last
        try:
            return self.log.append_replicate(message)
        except BadFormat:
            if self.log.last == before:
                raise
            return None             # a failure for want of space took indexes back meanwhile

    def commit(self, message: bytes) -> None:
        # What cannot be written here shows at the next operation, and at sync(). Until then the message is kept.
        with self._commits_lock:
            self._forget_written()
            self._commits.append((self._append(message), message))

    def sync(self) -> None:
        with self._commits_lock:
            # Again those that found no space, or took no place in the queue.
            self._commits = deque((self._append(message) if _is_lost(token) else token, message)
                                  for token, message in self._commits)
            waited_for = [token for token, _ in self._commits]
        self.log.flush()
        for token in waited_for:
            if token is None:
                raise NoSpace("a COMMIT is not in the log", path=self.log.path)
            token.wait()
        self.log.sync()

    def set_schema(self, schema: Schema, version: int) -> None:
        self.log.set_schema(schema, version)

    def _append(self, message: bytes) -> Token | None:
        with contextlib.suppress(NoSpace, LogPoisoned):
            try:
                return self.log.append_commit(message)
            except LogBackpressure:
                self.log.flush()
                return self.log.append_commit(message)
        return None

    def _forget_written(self) -> None:
        """Those that nobody need remember any more; one that is lost goes to the end, once a call."""
        while self._commits:
            token, message = self._commits[0]
            if _is_lost(token):
                self._commits.popleft()
                self._commits.append((self._append(message), message))
                return
            if token is None or not _is_done(token):
                return
            self._commits.popleft()

    def anchor(self, index: int, owner: str) -> None:
        held = self._anchors.get(owner)
        if held is None:
            self._anchors[owner] = self.log.anchors.register(index, owner, kind="store")
        else:
            held.move_to(index)

    def release(self, owner: str) -> None:
        held = self._anchors.pop(owner, None)
        if held is not None:
            held.release()

    def bytes_from(self, indexes: Sequence[int]) -> list[int]:
        return self.log.bytes_from(indexes)

    def collect(self) -> int:
        return self.log.gc().bytes

    def durable(self) -> OpId:
        return self.log.durable

    async def aside(self, function: Callable[[], object]) -> None:
        await aside(function)

    def stats(self) -> dict[str, Any]:
        return self.log.stats()

    def close(self) -> None:
        try:
            self.log.close()
        finally:
            if self._lock is not None:
                self._lock.close()


def _is_done(token: Token) -> bool:
    try:
        return token.done
    except (NoSpace, LogPoisoned):
        return False            # waiting for it says so


def _is_lost(token: Token | None) -> bool:
    """It found no space; nobody will write it any more."""
    if token is None:
        return True
    with contextlib.suppress(LogPoisoned):
        try:
            _ = token.done
        except NoSpace:
            return True
    return False


def check_one_voter(metadata: ConsensusMetadata, server_uuid: str, path: str) -> None:
    """Raises Unsupported unless the server is the only voter (G2)."""
    voters = [peer.uuid for peer in metadata.voters]
    if voters != [server_uuid]:
        raise Unsupported(f"the replica's configuration has the voters {', '.join(voters) or 'none'}; this server is "
                          f"{server_uuid}", path=path, advice="replay reads it; only a sole voter can be written here")
