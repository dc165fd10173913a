"""What a flush, a compaction and a scan use of a block store, whichever kind it is.

 B1  A block exists only whole: after a crash it has all its bytes, or there is no such block.
 B2  On return from `commit` its blocks survive a power cut. Only then may their ids go into a superblock.
 B3  On return from `delete_blocks` the blocks are gone for good. Only blocks that no superblock names may be deleted.
 B4  A block's bytes never change, and stay readable for whoever has it open, also after its deletion.
 B5  The log kind never gives out an id again that was ever recorded. Ids that superblocks name, live or orphaned, are
     made known with `notify_block_id`: what recorded them may be gone.

Blocks have no checksum of their own: that is the column file's part. Thread-safe, but for each writable block, which
belongs to one thread at a time. Calls may block on the disk; none holds the interpreter's lock while it waits for it.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from kudu_storage.errors import DiskError, InvalidArgument, KuduStorageError, Truncated

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kudu_storage.fs.blocks.report import FsReport

NO_BLOCK = 0        # the id that stands for none


def block_name(block_id: int) -> str:
    """An id as Kudu's tools show it and as the file kind names its files."""
    return f"{block_id:016d}"


class WritableBlock(Protocol):
    """A block being written. Whoever drops it without commit must abort it; BlockTransaction does."""

    @property
    def id(self) -> int: ...

    @property
    def bytes_appended(self) -> int: ...

    def append(self, data: Buffer) -> None:
        """Add bytes at the end; `data` may be reused on return.

        Raises NoSpace or DirectoryFailed; the block is aborted then.
        """

    def finish(self) -> None:
        """No more bytes follow; the next block may have the place behind. Makes nothing durable. Raises as append."""

    def abort(self) -> None:
        """Forget the block. Does nothing for one that is committed or aborted. Raises nothing."""


class ReadableBlock:
    """An open block: `length` bytes at `offset` of the file `path`, which is open as `fd`.

    Native readers may pread from `fd` as long as the block is open. A read that fails goes to `failed`.
    """

    __slots__ = ("_on_close", "_on_failure", "fd", "id", "length", "offset", "path")

    def __init__(self, block_id: int, fd: int, offset: int, length: int, path: str, on_close: Callable[[], None],
                 on_failure: Callable[[OSError], KuduStorageError]) -> None:
        self.id, self.fd, self.offset, self.length, self.path = block_id, fd, offset, length, path
        self._on_close: Callable[[], None] | None = on_close
        self._on_failure = on_failure

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of the block, all of it by default.

        Raises InvalidArgument for a range outside it, DirectoryFailed, DiskError, Truncated if the file is too short.
        """
        size = self.length - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > self.length:
            raise InvalidArgument(f"bytes {offset} to {offset + size} of a block of {self.length}", path=self.path)
        parts: list[bytes] = []
        at, end = self.offset + offset, self.offset + offset + size
        while at < end:
            try:
                part = os.pread(self.fd, end - at, at)
            except OSError as error:
                raise self.failed(error) from error
            if not part:
                raise Truncated(f"the file ends inside block {block_name(self.id)}", path=self.path, offset=at)
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def failed(self, error: OSError) -> KuduStorageError:
        """The error to raise for a failed read; a disk failure fails the block's directory."""
        return self._on_failure(error)

    def close(self) -> None:
        """Let go of the file. May be called again."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            self.fd = -1
            on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class BlockManager(Protocol):
    """A block store. Open one with `open_block_manager`."""

    @property
    def read_only(self) -> bool: ...

    @property
    def report(self) -> FsReport:
        """What opening found, and repaired."""

    def create_block(self, group: Sequence[str] | None = None) -> WritableBlock:
        """A new block in one of the data directories of a group (uuids; None: any).

        Raises DirectoryFailed if a directory of the group failed, NoSpace, InvalidArgument for an unknown uuid.
        """

    def commit(self, blocks: Iterable[WritableBlock]) -> None:
        """Make blocks durable together (B2), finishing those that are not.

        Raises NoSpace, DirectoryFailed or DiskError: none of them counts then, and all are aborted.
        """

    def transaction(self, group: Sequence[str] | None = None) -> BlockTransaction:
        """Blocks that are created, made durable, or dropped together."""

    def open_block(self, block_id: int) -> ReadableBlock:
        """Raises NoSuchBlock or DirectoryFailed."""

    def delete_blocks(self, block_ids: Iterable[int]) -> tuple[int, ...]:
        """Delete for good (B3). Returns those that were there; unknown ids are passed over, so it may be repeated.

        Raises NoSpace, DirectoryFailed or DiskError; some may be deleted then.
        """

    def live_blocks(self) -> dict[int, int]:
        """Length by id of all durable blocks, in healthy directories."""

    def notify_block_id(self, block_id: int) -> None:
        """Never give out this id, nor one below it (B5). To be called for all ids in a superblock when it is loaded."""

    def find_path(self, block_id: int) -> str | None:
        """The file that holds a block; None if there is no such block."""

    def create_group(self, size: int = 3) -> tuple[str, ...]:
        """Uuids of healthy data directories for a new tablet. Raises DirectoryFailed if there is none."""

    def check_group(self, group: Sequence[str]) -> None:
        """Raises DirectoryFailed, naming it, if one of the group failed; InvalidArgument for an unknown uuid."""

    def fail_directory(self, uuid: str, error: DiskError) -> KuduStorageError:
        """Take a directory out of use because of an error seen elsewhere. Returns what to raise for it."""

    def close(self) -> None:
        """Let go of locks and files. Writable blocks that are not committed are lost.

        Open blocks stay readable, unless whoever opens the directories next deletes them.
        """


class BlockTransaction:
    """Blocks that become durable together. Leaving the `with` without `commit` drops them all."""

    def __init__(self, manager: BlockManager, group: Sequence[str] | None) -> None:
        self._manager = manager
        self._group = group
        self._blocks: list[WritableBlock] = []

    def create_block(self) -> WritableBlock:
        """A new block of this transaction. Raises as BlockManager.create_block."""
        block = self._manager.create_block(self._group)
        self._blocks.append(block)
        return block

    def commit(self) -> tuple[int, ...]:
        """Make all durable; their ids, in order of creation. Raises as BlockManager.commit."""
        blocks, self._blocks = self._blocks, []
        self._manager.commit(blocks)
        return tuple(block.id for block in blocks)

    def abort(self) -> None:
        """Drop all blocks."""
        blocks, self._blocks = self._blocks, []
        for block in reversed(blocks):      # the last one first: what it took of a container is then free again
            block.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.abort()
