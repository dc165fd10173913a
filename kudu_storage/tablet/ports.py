"""What a tablet needs of its log, as protocols: `tablet` and `wal` do not know each other; whoever embeds both wires
them. And what it tells whoever does its maintenance.

 K1  Tokens are acknowledged in the order of appending. A token that fails for want of space takes all behind it
     along, and their indexes are given again.
 K2  replicate() never waits for the disk; commit() may, for room in the queue.
"""
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import Schema


class Token(Protocol):
    """An operation's way into the log."""

    @property
    def done(self) -> bool:
        """Acknowledged: durable as the log's durability says. Raises what wait() would."""

    def wait(self, timeout: float | None = None) -> Any:
        """Until acknowledged. Raises WaitTimeout, NoSpace (it is not in the log), LogPoisoned (nobody knows)."""

    def __await__(self) -> Generator[Any, None, Any]: ...


class LogSink(Protocol):
    """Where a tablet's operations go. replicate() is called by one thread at a time, in OpId order."""

    def lead(self) -> int:
        """Become the leader of a new term, durably; that term. Before the first operation, and once."""

    def next_index(self) -> int: ...

    def replicate(self, message: bytes) -> Token | None:
        """Queue a ReplicateMsg. None: its index is not the next one any more (indexes were taken back).

        Raises LogBackpressure (nothing was queued), LogPoisoned, LogClosed.
        """

    def commit(self, message: bytes) -> None:
        """Queue a CommitMsg; nobody waits for it."""

    def sync(self) -> None:
        """Until all COMMITs queued so far survive a power cut, whatever the log's durability says (C2 of
        docs/tablet.md).

        Raises NoSpace, LogPoisoned, LogClosed, DiskError: some may not.
        """

    def set_schema(self, schema: Schema, version: int) -> None:
        """What segments of the log that are begun from now on say of the columns."""

    def anchor(self, index: int, owner: str) -> None:
        """Keep the log from `index` on for `owner`, in place of what it held before."""

    def release(self, owner: str) -> None:
        """Keep nothing for `owner` any more."""

    def bytes_from(self, indexes: Sequence[int]) -> list[int]:
        """For each index the bytes of the log's files from the one on that holds it: what keeping it costs."""

    def collect(self) -> int:
        """Remove the files that no anchor keeps; the bytes that were freed."""

    def durable(self) -> OpId: ...

    async def aside(self, function: Callable[[], object]) -> None:
        """function(), which may wait, without holding up the event loop."""

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Care(Protocol):
    """Whoever flushes a tablet, as its writers see them. Called without a lock of the tablet's."""

    def weighed(self, memory_bytes: int, log_bytes: int) -> None:
        """What the stores in memory use now, and how long the log is. Quick: once for each MiB written or so."""

    @property
    def has_room(self) -> bool:
        """Memory is below its budget. Quick: once for each operation."""

    def wait_for_room(self, timeout: float | None) -> None:
        """Until it is. Raises MemoryBackpressure: not in time, or flushing fails."""
