from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from block_store import TINY, content, data_roots

from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    CorruptionError,
    DirectoryLocked,
    InvalidArgument,
    NoSuchBlock,
    NotFound,
    Unsupported,
)
from kudu_storage.fs.blocks import BlockManager, BlockOptions, open_block_manager
from kudu_storage.fs.blocks.directories import INSTANCE_FILE
from kudu_storage.fs.blocks.log_manager import LogBlockManager
from kudu_storage.fs.blocks.records import TYPE, Extent, create_record
from kudu_storage.fs.pb_container import container_bytes, read_container, write_single
from kudu_storage.protos import message_class


@pytest.fixture(params=["log", "file"])
def roots(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    return data_roots(tmp_path, request.param)


@pytest.fixture
def log_roots(tmp_path: Path) -> list[Path]:
    return data_roots(tmp_path)


def put(manager: BlockManager, *sizes: int) -> list[int]:
    with manager.transaction() as transaction:
        for size in sizes:
            block = transaction.create_block()
            block.append(content(block.id, size))
            block.finish()
        return list(transaction.commit())


def get(manager: BlockManager, block_id: int) -> bytes:
    with manager.open_block(block_id) as block:
        return block.read()


def files(roots: list[Path], suffix: str) -> list[Path]:
    return sorted(path for root in roots for path in (root / "data").glob(f"*{suffix}"))


# -- blocks ------------------------------------------------------------------------------------------------------------
def test_appended_parts_come_back_as_one_block(roots: list[Path]) -> None:
    with open_block_manager(roots) as manager:
        block = manager.create_block()
        parts = [b"", b"a", bytearray(b"bc"), memoryview(b"def"), b"x" * 400_000, b"end"]
        for part in parts:
            block.append(part)
        assert block.bytes_appended == 400_009
        block.finish()
        manager.commit([block])
        whole = b"".join(bytes(part) for part in parts)
        with manager.open_block(block.id) as opened:
            assert (opened.id, opened.length) == (block.id, 400_009)
            assert opened.read() == whole and opened.read(3, 5) == whole[3:8] and opened.read(400_009, 0) == b""
            assert os.pread(opened.fd, opened.length, opened.offset) == whole
            assert manager.find_path(block.id) == opened.path
            for offset, size in ((-1, 2), (0, 400_010), (5, -1)):
                with pytest.raises(InvalidArgument):
                    opened.read(offset, size)


def test_nothing_is_seen_of_a_block_before_its_commit_nor_after_an_abort(roots: list[Path]) -> None:
    with open_block_manager(roots) as manager:
        with manager.transaction() as transaction:
            block = transaction.create_block()
            block.append(b"x" * 1000)
            block.finish()
            assert manager.live_blocks() == {}
            with pytest.raises(NoSuchBlock):
                manager.open_block(block.id)
        block.abort()
        assert manager.live_blocks() == {} and manager.find_path(block.id) is None
        with pytest.raises(InvalidArgument):
            block.append(b"more")
        with pytest.raises(InvalidArgument):
            manager.commit([block])


def test_an_error_inside_a_transaction_drops_its_blocks(roots: list[Path]) -> None:
    with open_block_manager(roots) as manager:
        with pytest.raises(ZeroDivisionError), manager.transaction() as transaction:
            transaction.create_block().append(b"x" * 300_000)
            raise ZeroDivisionError
        assert manager.live_blocks() == {}
        assert put(manager, 5)


def test_a_block_stays_readable_for_whoever_has_it_open_when_it_is_deleted(roots: list[Path]) -> None:
    with open_block_manager(roots, options=TINY) as manager:
        kept, gone = put(manager, 5000, 50_000)
        opened = manager.open_block(gone)
        assert manager.delete_blocks([gone, gone, 12345]) == (gone,)
        put(manager, 50_000, 50_000)
        assert opened.read() == content(gone, 50_000)
        opened.close()
        opened.close()
        assert manager.delete_blocks([gone]) == ()
        assert get(manager, kept) == content(kept, 5000)


def test_random_histories_equal_a_plain_map(roots: list[Path]) -> None:
    for seed in range(6):
        rng = random.Random(seed)
        model: dict[int, int] = {}
        manager = open_block_manager(roots, options=TINY)
        model.update(manager.live_blocks())
        readers: list[Any] = []
        for _ in range(40):
            step = rng.random()
            if step < 0.5:
                for block_id, size in zip(*_random_transaction(manager, rng), strict=True):
                    model[block_id] = size
            elif step < 0.8 and model:
                doomed = rng.sample(sorted(model), rng.randint(1, min(5, len(model))))
                assert sorted(manager.delete_blocks(doomed)) == sorted(doomed)
                for block_id in doomed:
                    del model[block_id]
            elif step < 0.9 and model:
                block_id = rng.choice(sorted(model))
                readers.append((block_id, model[block_id], manager.open_block(block_id)))
            else:
                _check_readers(readers)     # the next manager knows nothing of them
                manager.close()
                manager = open_block_manager(roots, options=TINY)
            if isinstance(manager, LogBlockManager):
                manager.check()
            assert manager.live_blocks() == model, f"seed {seed}"
        _check_readers(readers)
        assert all(get(manager, block_id) == content(block_id, size) for block_id, size in model.items())
        manager.close()


def _check_readers(readers: list[Any]) -> None:
    while readers:
        block_id, size, block = readers.pop()
        with block:
            assert block.read() == content(block_id, size)


def _random_transaction(manager: BlockManager, rng: random.Random) -> tuple[list[int], list[int]]:
    with manager.transaction() as transaction:
        ids, sizes = [], []
        for _ in range(rng.randint(1, 6)):
            size = rng.choice((0, 1, 599, 4095, 4096, rng.randint(0, 20_000)))
            block = transaction.create_block()
            data = content(block.id, size)
            block.append(data[:size // 3])
            block.append(data[size // 3:])
            if rng.random() < 0.5:
                block.finish()
            ids.append(block.id)
            sizes.append(size)
        if rng.random() < 0.3:
            return [], []
        transaction.commit()
        return ids, sizes


def test_threads_write_read_and_delete_together(roots: list[Path]) -> None:
    results: list[dict[int, int]] = []
    failures: list[BaseException] = []
    with open_block_manager(roots, options=TINY) as manager:
        def work(seed: int) -> None:
            try:
                rng, mine = random.Random(seed), {}
                for _ in range(15):
                    mine.update(zip(*_random_transaction(manager, rng), strict=True))
                    for block_id in list(mine)[:2]:
                        assert get(manager, block_id) == content(block_id, mine[block_id])
                    doomed = list(mine)[:1]
                    manager.delete_blocks(doomed)
                    for block_id in doomed:
                        del mine[block_id]
                results.append(mine)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        expected = {block_id: size for mine in results for block_id, size in mine.items()}
        assert manager.live_blocks() == expected
        if isinstance(manager, LogBlockManager):
            manager.check()
        assert all(get(manager, block_id) == content(block_id, size) for block_id, size in expected.items())


# -- containers --------------------------------------------------------------------------------------------------------
def test_small_blocks_that_are_written_together_share_one_container(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots) as manager:
        with manager.transaction() as transaction:
            blocks = [transaction.create_block() for _ in range(75)]
            for _ in range(3):
                for block in blocks:
                    block.append(b"x" * 1000)
            transaction.commit()
        put(manager, 5)
        assert len(files(log_roots, ".data")) == 1
        (data,) = files(log_roots, ".data")
        assert data.stat().st_blocks * 512 <= 76 * 4096 + 256 * 1024


def test_a_small_tablet_takes_little_of_the_disk(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots) as manager:
        put(manager, 3000, 200)
    assert sum(path.stat().st_blocks * 512 for path in (log_roots[0] / "data").iterdir()) < 300 * 1024


def test_blocks_start_on_boundaries_and_deleting_gives_their_space_back(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots, options=BlockOptions(preallocate_bytes=0)) as manager:
        ids = put(manager, 100_000, 1, 100_000, 1)
        for block_id in ids:
            with manager.open_block(block_id) as block:
                assert block.offset % 4096 == 0
        (data,) = files(log_roots, ".data")
        before = data.stat().st_blocks
        manager.delete_blocks([ids[0], ids[2]])
        assert data.stat().st_blocks * 512 <= before * 512 - 2 * 98_304
        assert get(manager, ids[1]) == content(ids[1], 1)


def test_full_containers_without_live_blocks_go_and_ids_still_are_not_given_out_again(log_roots: list[Path]) -> None:
    options = BlockOptions(buffer_bytes=100, container_bytes_max=8192)
    with open_block_manager(log_roots, options=options) as manager:
        ids = [block_id for _ in range(5) for block_id in put(manager, 9000)]
        assert len(files(log_roots, ".data")) == 5
        manager.delete_blocks(ids)
        # The one that knows the highest id stays.
        assert len(files(log_roots, ".data")) == len(files(log_roots, ".metadata")) == 1
    for _ in range(2):
        with open_block_manager(log_roots, options=options) as manager:
            assert manager.create_block().id == max(ids) + 1


def test_metadata_of_full_containers_is_rewritten_when_half_of_it_is_dead(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots, options=BlockOptions(container_records_max=40)) as manager:
        ids = put(manager, *[10] * 40)
        (metadata,) = files(log_roots, ".metadata")
        before = metadata.stat().st_size
        manager.delete_blocks(ids[:-3])
        assert metadata.stat().st_size < before
        assert len(read_container(metadata).records) == 3
        assert manager.live_blocks().keys() == set(ids[-3:])
    with open_block_manager(log_roots) as manager:
        assert manager.live_blocks().keys() == set(ids[-3:])
        assert manager.create_block().id == ids[-1] + 1


def test_ids_that_superblocks_name_are_not_given_out(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots) as manager:
        manager.notify_block_id(500)
        manager.notify_block_id(7)
        assert manager.create_block().id == 501


def test_many_readers_need_few_files(log_roots: list[Path]) -> None:
    options = BlockOptions(buffer_bytes=0, container_bytes_max=4096, idle_files_max=3)
    with open_block_manager(log_roots, options=options) as manager:
        ids = [put(manager, 5000)[0] for _ in range(20)]
        before = len(os.listdir("/proc/self/fd"))
        for block_id in ids * 2:
            assert get(manager, block_id) == content(block_id, 5000)
        assert len(os.listdir("/proc/self/fd")) <= before + 3


# -- opening -----------------------------------------------------------------------------------------------------------
def test_one_writer_many_readers(roots: list[Path]) -> None:
    with open_block_manager(roots) as writer:
        (block_id,) = put(writer, 10)
        with pytest.raises(DirectoryLocked):
            open_block_manager(roots)
        with open_block_manager(roots, read_only=True) as reader:
            assert get(reader, block_id) == content(block_id, 10)
            for refused in (reader.create_block, lambda: reader.delete_blocks([block_id]), lambda: reader.commit([])):
                with pytest.raises(InvalidArgument):
                    refused()
        with pytest.raises(DirectoryLocked):    # closing the reader's descriptor has not let go of the lock
            open_block_manager(roots)
    with pytest.raises(InvalidArgument):
        writer.create_block()
    open_block_manager(roots).close()


def test_reading_writes_nothing_and_changes_no_file(roots: list[Path]) -> None:
    with open_block_manager(roots) as manager:
        put(manager, 10, 5000)
    for path in files(roots, ".metadata"):
        path.write_bytes(path.read_bytes() + b"\x01")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in _all_files(roots)}
    with open_block_manager(roots, read_only=True) as manager:
        assert sorted(manager.live_blocks().values()) == [10, 5000]
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in _all_files(roots)} == before


def _all_files(roots: list[Path]) -> Iterator[Path]:
    return (path for root in roots for path in sorted(root.rglob("*")) if path.is_file())


def test_roots_that_were_not_formatted_and_kinds_that_are_not_known_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="fs format"):
        open_block_manager([tmp_path])
    with pytest.raises(InvalidArgument):
        open_block_manager([])
    (root,) = data_roots(tmp_path)
    path = root / "data" / INSTANCE_FILE
    message: Any = message_class("kudu.DirInstanceMetadataPB").FromString(read_container(path).records[0])
    for change, expected in ((("dir_type", "logr"), Unsupported), (("filesystem_block_size_bytes", 1000), BadFormat)):
        changed = message.__deepcopy__()
        setattr(changed, *change)
        write_single(path, changed)
        with pytest.raises(expected):
            open_block_manager([root])
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptionError):
        open_block_manager([root])


def test_directories_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (first,), (second,) = data_roots(tmp_path / "a"), data_roots(tmp_path / "b")
    with pytest.raises(BadFormat, match="two data directories"):
        open_block_manager([first, second])
    (third,) = data_roots(tmp_path / "c", "file")
    with pytest.raises(BadFormat, match="block manager"):
        open_block_manager([first, third])
    for root in (first, second, third):     # nothing stays locked
        open_block_manager([root]).close()


# -- damage ------------------------------------------------------------------------------------------------------------
def damaged(log_roots: list[Path], *framed: bytes) -> Path:
    """A container with these records and 4096 bytes of data."""
    path = log_roots[0] / "data" / ("c" * 32 + ".metadata")
    path.write_bytes(container_bytes(TYPE, []) + b"".join(framed))
    path.with_suffix(".data").write_bytes(b"d" * 4096)
    return path


def test_a_block_beyond_the_end_of_its_file_is_fatal_and_named(log_roots: list[Path]) -> None:
    path = damaged(log_roots, create_record(5, Extent(0, 4097), 1))
    with pytest.raises(CorruptionError, match="1 malformed") as caught:
        open_block_manager(log_roots)
    assert caught.value.path == str(path.with_suffix(""))
    before = path.read_bytes()
    with open_block_manager(log_roots, tolerate_fatal=True) as manager:
        assert "Fatal error: malformed record in container" in manager.report.text() and manager.live_blocks() == {}
    assert path.read_bytes() == before


def test_a_block_in_two_containers_is_fatal(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots) as manager:
        (block_id,) = put(manager, 10)
    damaged(log_roots, create_record(block_id, Extent(0, 5), 1))
    with pytest.raises(CorruptionError):
        open_block_manager(log_roots)


def test_a_misaligned_block_is_told_read_and_its_neighbours_survive_its_deletion(log_roots: list[Path]) -> None:
    path = damaged(log_roots, create_record(5, Extent(0, 100), 1), create_record(6, Extent(100, 300), 1))
    with open_block_manager(log_roots) as manager:
        assert manager.report.misaligned == [(str(path.with_suffix("")), 6)]
        manager.delete_blocks([6])
        assert get(manager, 5) == b"d" * 100


def test_a_flipped_bit_in_the_records_is_refused_by_name(log_roots: list[Path]) -> None:
    path = damaged(log_roots, create_record(5, Extent(0, 100), 1), create_record(6, Extent(0, 100), 2))
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadChecksum, match="metadata"):
        open_block_manager(log_roots)


@pytest.mark.parametrize("left", [(".data",), (".metadata",), (".data", ".metadata")])
def test_files_that_never_held_a_block_are_removed(log_roots: list[Path], left: tuple[str, ...]) -> None:
    for suffix in left:
        (log_roots[0] / "data" / ("e" * 32 + suffix)).touch()
    with open_block_manager(log_roots, read_only=True) as manager:
        assert [entry.repaired for entry in manager.report.incomplete or ()] == [False]
    with open_block_manager(log_roots) as manager:
        assert [entry.repaired for entry in manager.report.incomplete or ()] == [True]
    assert [path.name for path in (log_roots[0] / "data").iterdir()] == [INSTANCE_FILE]


@pytest.mark.parametrize("missing", [".data", ".metadata"])
def test_a_container_that_lost_a_file_with_blocks_is_refused_by_name(log_roots: list[Path], missing: str) -> None:
    with open_block_manager(log_roots) as manager:
        put(manager, 10)
    (path,) = files(log_roots, missing)
    path.unlink()
    with pytest.raises(CorruptionError, match="missing") as caught:
        open_block_manager(log_roots)
    assert caught.value.path == str(path)


def test_space_that_a_crash_left_taken_is_given_back_when_opening(log_roots: list[Path]) -> None:
    with open_block_manager(log_roots, options=BlockOptions(preallocate_bytes=0)) as manager:
        first, second, third = put(manager, 300_000, 300_000, 300_000)
        manager.delete_blocks([second])
    (data,) = files(log_roots, ".data")
    with data.open("r+b") as file:      # as if the hole had not been punched
        file.seek(303_104)
        file.write(b"x" * 300_000)
    before = data.stat().st_blocks
    with open_block_manager(log_roots) as manager:
        assert data.stat().st_blocks * 512 <= before * 512 - 290_000
        assert get(manager, first) == content(first, 300_000) and get(manager, third) == content(third, 300_000)


def test_temporary_files_are_removed(roots: list[Path]) -> None:
    path = roots[0] / "data" / "x.metadata.kudutmp.abc"
    path.touch()
    open_block_manager(roots, read_only=True).close()
    assert path.exists()
    open_block_manager(roots).close()
    assert not path.exists()
