"""Block stores for tests: data directories, blocks with known bytes, a script whose promises a crash is judged by."""
from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kudu_storage._native.disk import Disk, RecordingDisk
from kudu_storage.errors import KuduStorageError, NoSpace, NoSuchBlock
from kudu_storage.fs.blocks import BlockOptions, open_block_manager
from kudu_storage.fs.blocks.directories import create_directories
from kudu_storage.fs.blocks.file_manager import FileBlockManager
from kudu_storage.fs.blocks.log_manager import LogBlockManager

# Small enough that every kind of thing happens within a few calls.
TINY = BlockOptions(preallocate_bytes=16384, buffer_bytes=600, container_bytes_max=40_000, container_records_max=14)


def data_roots(folder: Path, kind: str = "log", count: int = 1) -> list[Path]:
    """New roots with empty data directories, without instance files of a server."""
    roots = [folder / f"root{number}" for number in range(count)]
    for root in roots:
        root.mkdir(parents=True)
    create_directories(roots, [f"{number + 1:032x}" for number in range(count)], kind, Disk())
    return roots


def content(block_id: int, size: int) -> bytes:
    """Bytes that no other block has, nor another part of this one, nor a hole."""
    parts, at = [], 0
    while at < size:
        parts.append(hashlib.blake2b(b"%d %d" % (block_id, at), digest_size=64).digest().replace(b"\0", b"\1"))
        at += 64
    return b"".join(parts)[:size]


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds behind so many file calls. sizes: of every block that was ever created."""

    calls: int
    durable: frozenset[int]
    deleting: frozenset[int]        # being deleted: may be there or not
    deleted: frozenset[int]
    sizes: dict[int, int]


@dataclass
class BlockScript:
    """A run through a RecordingDisk that notes after each step what was promised."""

    root: Path
    options: BlockOptions = TINY
    disk: RecordingDisk = field(default_factory=RecordingDisk)
    durable: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    promises: list[Promise] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.promises.append(Promise(0, frozenset(), frozenset(), frozenset(), {}))
        self.manager = self._opened()
        self.note()

    def _opened(self) -> LogBlockManager | FileBlockManager:
        return open_block_manager([self.root], options=self.options, disk=self.disk)

    def note(self) -> None:
        self.promises.append(Promise(len(self.disk), frozenset(self.durable), frozenset(self.deleting),
                                     frozenset(self.deleted), dict(self.sizes)))
        if isinstance(self.manager, LogBlockManager):
            self.manager.check()

    def create(self, *sizes: int, commit: bool = True, parts: int = 3, interleaved: bool = False) -> list[int]:
        """Blocks of one transaction, committed or dropped; interleaved: all open at once."""
        with self.manager.transaction() as transaction:
            blocks = []
            for size in sizes:
                block = transaction.create_block()
                self.sizes[block.id] = size
                blocks.append(block)
                if not interleaved:
                    self._fill(block, size, parts)
                    block.finish()
            self.note()
            if interleaved:
                for part in range(parts):
                    for block, size in zip(blocks, sizes, strict=True):
                        first, end = (size * part // parts, size * (part + 1) // parts)
                        block.append(content(block.id, size)[first:end])
            if commit:
                transaction.commit()
                self.durable.update(block.id for block in blocks)
        self.note()
        return [block.id for block in blocks]

    def refused(self, call: str, attempt: int, *sizes: int, partial: int = 0) -> None:
        """Blocks for which there is no space: the attempt-th call of a kind says so, after a part was written."""
        self.disk.fail(call, attempt, errno.ENOSPC, partial=partial)
        try:
            self.create(*sizes)
        except NoSpace:
            self.note()
        else:
            raise AssertionError("nothing was refused")
        finally:
            self.disk.fail(call, 0, 0)

    @staticmethod
    def _fill(block: object, size: int, parts: int) -> None:
        data = content(block.id, size)                  # type: ignore[attr-defined]
        for part in range(parts):
            block.append(data[size * part // parts:size * (part + 1) // parts])     # type: ignore[attr-defined]

    def delete(self, *block_ids: int) -> None:
        self.durable.difference_update(block_ids)
        self.deleting.update(block_ids)
        self.note()
        self.manager.delete_blocks(block_ids)
        self.deleting.difference_update(block_ids)
        self.deleted.update(block_ids)
        self.note()

    def reopen(self) -> None:
        self.manager.close()
        self.manager = self._opened()
        self.note()

    def at(self, calls: int) -> Promise:
        """What was promised when so many calls had been made."""
        return [promise for promise in self.promises if promise.calls <= calls][-1]

    def known_at(self, calls: int) -> dict[int, int]:
        """Sizes of all blocks that may be there when so many calls had been made, finished ones and those begun."""
        later = next((promise for promise in self.promises if promise.calls > calls), self.promises[-1])
        return later.sizes


def judge(manager: LogBlockManager | FileBlockManager, promise: Promise, sizes: dict[int, int]) -> None:
    """B1, B2, B3: each block is whole or is not; what was reported durable is there, what was deleted is not."""
    live = manager.live_blocks()
    assert promise.durable <= live.keys(), f"lost: {promise.durable - live.keys()}"
    assert not promise.deleted & live.keys(), f"came back: {promise.deleted & live.keys()}"
    for block_id, length in live.items():
        assert block_id in sizes, f"block {block_id} was never created"
        assert length == sizes[block_id]
        with manager.open_block(block_id) as block:
            whole = block.read() == content(block_id, length)
        assert whole or block_id in promise.deleting, f"block {block_id} has other bytes"
    for block_id in promise.deleted:
        try:
            manager.open_block(block_id).close()
        except NoSuchBlock:
            continue
        raise AssertionError(f"block {block_id} can be opened")


def goes_on(manager: LogBlockManager | FileBlockManager, promise: Promise,
            sizes: Sequence[int] = (10, 5000, 900)) -> dict[int, int]:
    """A store that was reopened takes blocks as if nothing had happened, and disturbs none that are there.

    Returns the new blocks' sizes.
    """
    before = manager.live_blocks()
    recorded = promise.durable | promise.deleting | promise.deleted | before.keys()
    with manager.transaction() as transaction:
        made = {}
        for size in sizes:
            block = transaction.create_block()
            assert block.id not in recorded, "an id was given out again"
            block.append(content(block.id, size))
            made[block.id] = size
        transaction.commit()
    assert manager.live_blocks() == {**before, **made}
    for block_id, length in {**before, **made}.items():
        if block_id not in promise.deleting:
            with manager.open_block(block_id) as block:
                assert block.read() == content(block_id, length)
    if isinstance(manager, LogBlockManager):
        manager.check()
    return made


__all__ = ["TINY", "BlockScript", "KuduStorageError", "Promise", "content", "data_roots", "goes_on", "judge"]
