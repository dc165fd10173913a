"""Each file call of a run over a block store fails once: errors are typed, nothing durable is lost, or leaks."""
from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from block_store import TINY, content, data_roots

from kudu_storage._native.disk import Disk, RecordingDisk
from kudu_storage.errors import DirectoryFailed, DiskError, KuduStorageError, NoSpace
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.blocks.file_manager import FileBlockManager
from kudu_storage.fs.blocks.log_manager import LogBlockManager

if TYPE_CHECKING:
    from conftest import Counts

KINDS = ("open", "write", "sync", "allocate", "truncate", "rename", "unlink", "sync_dir", "punch_hole", "make_dir")


class Trial:
    """A run in which something may fail. durable: sizes of blocks that must be there; maybe: deletions that failed."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root, self.disk = root, disk
        self.durable: dict[int, int] = {}
        self.maybe: dict[int, int] = {}
        self.refused: set[int] = set()
        self.failures: list[KuduStorageError] = []
        self.manager: LogBlockManager | FileBlockManager | None = None

    def run(self) -> None:
        self.open()
        first = self.create(10, 5000, 700, 12_000)
        self.create(9000, 30, commit=False)
        self.delete(first[1:2])
        second = self.create(20_000, 900, 15_000)
        self.delete(first[:1] + second[:1])
        self.open()
        self.delete(first[2:] + second[1:])
        for _ in range(2):
            self.delete(self.create(10, 20, 30))
        self.create(4096, 8192, 1)

    def open(self) -> None:
        if self.manager is not None:
            self._note_failed_directory()
            self.manager.close()
        for _ in range(2):      # it fails once
            try:
                self.manager = open_block_manager([self.root], options=TINY, disk=self.disk)
                return
            except KuduStorageError as error:
                self.failures.append(error)
        raise self.failures[-1]

    def _note_failed_directory(self) -> None:
        """Also where a failure changes nothing for the caller, a failing disk fails the directory."""
        assert self.manager is not None
        self.failures += (directory.failure for directory in self.manager.directories.all if directory.failure)

    def create(self, *sizes: int, commit: bool = True) -> list[int]:
        assert self.manager is not None
        made: dict[int, int] = {}
        try:
            with self.manager.transaction() as transaction:
                for size in sizes:
                    block = transaction.create_block()
                    made[block.id] = size
                    block.append(content(block.id, size)[:size // 2])
                    block.append(content(block.id, size)[size // 2:])
                    block.finish()
                if commit:
                    transaction.commit()
                    self.durable.update(made)
                    return list(made)
        except (NoSpace, DiskError) as error:
            self.failures.append(error)
        self.refused.update(made)
        return []

    def delete(self, block_ids: list[int]) -> None:
        assert self.manager is not None
        sizes = {block_id: self.durable.pop(block_id) for block_id in block_ids}
        try:
            self.manager.delete_blocks(block_ids)
        except (NoSpace, DiskError) as error:
            self.failures.append(error)
            self.maybe.update(sizes)

    def judge(self) -> None:
        """What the manager says now, and what is there after opening on a good disk."""
        assert self.manager is not None
        if isinstance(self.manager, LogBlockManager):
            self.manager.check()
        self._note_failed_directory()
        failed = any(directory.failure for directory in self.manager.directories.all)
        if not failed:
            self._compare(self.manager)
        self.manager.close()
        with open_block_manager([self.root], options=TINY) as manager:
            # A failed sync leaves the state of its transaction open; it was never reported as durable.
            self._compare(manager, orphans=failed)
        with open_block_manager([self.root], read_only=True) as manager:
            assert not manager.report.has_fatal_errors and not manager.report.partial

    def _compare(self, manager: LogBlockManager | FileBlockManager, *, orphans: bool = False) -> None:
        live = manager.live_blocks()
        assert self.durable.keys() <= live.keys(), "a durable block is lost"
        if not orphans:
            assert live.keys() <= self.durable.keys() | self.maybe.keys(), "an aborted block is there"
        for block_id in self.durable.keys() | (self.maybe.keys() & live.keys()):
            size = {**self.maybe, **self.durable}[block_id]
            with manager.open_block(block_id) as block:
                assert block.read() == content(block_id, size)


def attempts_of_a_good_run(folder: Path, kind: str) -> dict[str, int]:
    disk = RecordingDisk()
    trial = Trial(data_roots(folder, kind)[0], disk)
    trial.run()
    assert trial.failures == []
    trial.judge()
    return {call: disk.attempts(call) for call in KINDS}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("kind", ["log", "file"])
def test_any_call_may_fail_once(kind: str, number: int, tmp_path: Path, counts: Counts) -> None:
    for call, total in attempts_of_a_good_run(tmp_path / "good", kind).items():
        assert total > 0 or call in {"log": ["make_dir"], "file": ["allocate", "truncate", "punch_hole"]}[kind]
        for attempt in range(1, total + 1):
            for partial in (0, 20, 700) if call == "write" else (0,):
                disk = RecordingDisk()
                disk.fail(call, attempt, number, partial=partial)
                counts.faults += 1
                trial = Trial(data_roots(tmp_path / f"{call}-{attempt}-{partial}", kind)[0], disk)
                try:
                    trial.run()
                    trial.judge()
                    raised = {type(error) for error in trial.failures}
                    if call == "sync":
                        assert raised and NoSpace not in raised, "a failed sync went unnoticed"
                    elif call == "write" and number == errno.ENOSPC:
                        assert raised <= {NoSpace}
                    elif call in ("truncate", "punch_hole") and number == errno.ENOSPC:
                        assert raised == set(), "only space was at stake"
                except BaseException as error:
                    error.add_note(f"{call} {attempt} failed with {errno.errorcode[number]}, {partial} bytes written; "
                                   f"told: {trial.failures!r}")
                    raise


@pytest.mark.parametrize("kind", ["log", "file"])
@pytest.mark.parametrize("call", ["write", "allocate", "open", "rename"])
def test_a_full_disk_refuses_blocks_and_the_same_store_goes_on(call: str, kind: str, tmp_path: Path,
                                                               counts: Counts) -> None:
    disk = RecordingDisk()
    trial = Trial(data_roots(tmp_path, kind)[0], disk)
    trial.open()
    for round_number in range(6):
        trial.create(100, 3000)
        used = _space(trial.root)
        disk.fail(call, 1, errno.ENOSPC, partial=50, onwards=True)
        counts.faults += 1
        failures = len(trial.failures)
        for sizes in ((10,), (5000, 20), (700, 30_000)):
            trial.create(*sizes)
        disk.fail(call, 0, 0)
        refusals = {type(error) for error in trial.failures[failures:]}
        assert refusals <= {NoSpace}, f"round {round_number}"
        if call == "write":
            assert refusals == {NoSpace} and _space(trial.root) <= used, "refused blocks take space"
    trial.judge()


def _space(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["log", "file"])
def test_a_failed_directory_fails_its_tablets_only(kind: str, tmp_path: Path, counts: Counts) -> None:
    disk = RecordingDisk()
    roots = data_roots(tmp_path, kind, count=2)
    with open_block_manager(roots, disk=disk, options=TINY) as manager:
        groups = [[directory.uuid] for directory in manager.directories.all]
        ids = []
        for group in groups:
            with manager.transaction(group) as transaction:
                block = transaction.create_block()
                block.append(b"x" * 3000)
                ids += transaction.commit()
        disk.fail("sync", 1, errno.EIO)
        counts.faults += 1
        with manager.transaction(groups[0]) as transaction, pytest.raises(DirectoryFailed, match="root0/data"):
            transaction.create_block().append(b"y" * 2000)
            transaction.commit()
        for refused in (lambda: manager.create_block(groups[0]), lambda: manager.create_block(groups[0] + groups[1]),
                        lambda: manager.open_block(ids[0]), lambda: manager.delete_blocks(ids[:1]),
                        lambda: manager.check_group(groups[0])):
            with pytest.raises(DirectoryFailed, match="root0/data"):
                refused()
        with manager.transaction(groups[1]) as transaction:
            transaction.create_block().append(b"z" * 2000)
            (new,) = transaction.commit()
        with manager.open_block(new) as block:
            assert block.read() == b"z" * 2000
        assert manager.live_blocks().keys() == {ids[1], new}
        assert manager.create_group() == tuple(groups[1])
        assert manager.delete_blocks([ids[1]]) == (ids[1],)


def test_a_directory_that_is_gone_when_opening_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    roots = data_roots(tmp_path, count=3)
    with open_block_manager(roots) as manager:
        uuids = [directory.uuid for directory in manager.directories.all]
        with manager.transaction(uuids[2:]) as transaction:
            transaction.create_block().append(b"z")
            (kept,) = transaction.commit()
    (roots[1] / "data" / "block_manager_instance").unlink()
    for read_only in (True, False):
        with open_block_manager(roots, read_only=read_only) as manager:
            assert manager.live_blocks() == {kept: 1}
            with pytest.raises(DirectoryFailed, match="root1/data"):
                manager.check_group([uuids[1]])
            manager.check_group([uuids[0], uuids[2]])
