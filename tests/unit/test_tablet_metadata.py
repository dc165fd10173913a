"""What a superblock says after changes, which ids are given, and in which order things become durable."""
from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import delta_rows
import pytest
from block_store import data_roots
from mini_tablet import new_superblock

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.errors import DiskError, InvalidArgument
from kudu_storage.fs.blocks import BlockManager, open_block_manager
from kudu_storage.fs.superblock import read_superblock
from kudu_storage.protos import message_class
from kudu_storage.tablet.metadata import RowSetEdit, SuperblockChange, TabletMetadata, apply_change
from kudu_storage.tablet.rowset_writer import ROWSET


def a_rowset(rowset_id: int, first_block: int, *, redos: int = 0, undos: int = 1) -> Any:
    """Blocks from `first_block` on: two columns, bloom filter, REDO files, UNDO files."""
    rowset: Any = message_class(ROWSET)(id=rowset_id, last_durable_dms_id=-1, live_row_count=10)
    for i in range(2):
        rowset.columns.add(column_id=i).block.id = first_block + i
    rowset.bloom_block.id = first_block + 2
    for i in range(redos):
        rowset.redo_deltas.add().block.id = first_block + 3 + i
    for i in range(undos):
        rowset.undo_deltas.add().block.id = first_block + 3 + redos + i
    return rowset


def a_superblock(*rowsets: Any) -> Any:
    message = new_superblock(delta_rows.SCHEMA)
    message.rowsets.extend(rowsets)
    return message


def redo_ids(rowset: Any) -> list[int]:
    return [delta.block.id for delta in rowset.redo_deltas]


# -- pure --------------------------------------------------------------------------------------------------------------
def test_blocks_that_are_named_no_more_are_orphaned_once() -> None:
    message = a_superblock(a_rowset(0, 10), a_rowset(1, 20))
    changed = apply_change(message, SuperblockChange(remove=(0,), add=(a_rowset(2, 30),)))
    assert [rowset.id for rowset in changed.rowsets] == [1, 2]
    assert [block.id for block in changed.orphaned_blocks] == [10, 11, 13, 12]
    again = apply_change(changed, SuperblockChange(remove=(1,)))
    assert [block.id for block in again.orphaned_blocks] == [10, 11, 13, 12, 20, 21, 23, 22]
    assert [rowset.id for rowset in message.rowsets] == [0, 1]


def test_redo_files_are_replaced_in_their_place() -> None:
    message = a_superblock(a_rowset(0, 10, redos=4))
    edit = RowSetEdit(remove_redos=(14, 15), add_redos=(99,))
    assert redo_ids(apply_change(message, SuperblockChange(edit={0: edit})).rowsets[0]) == [13, 99, 16]
    edit = RowSetEdit(add_redos=(99,), durable_dms_id=3, live_rows=-2)
    changed = apply_change(message, SuperblockChange(edit={0: edit})).rowsets[0]
    assert (redo_ids(changed), changed.last_durable_dms_id, changed.live_row_count) == ([13, 14, 15, 16, 99], 3, 8)


def test_a_new_undo_file_comes_first_and_old_ones_go() -> None:
    message = a_superblock(a_rowset(0, 10, undos=3))
    edit = RowSetEdit(column_blocks={1: 50, 7: 51}, add_undo=99, remove_undos=(14,))
    changed = apply_change(message, SuperblockChange(edit={0: edit}))
    assert [delta.block.id for delta in changed.rowsets[0].undo_deltas] == [99, 13, 15]
    assert {column.column_id: column.block.id for column in changed.rowsets[0].columns} == {0: 10, 1: 50, 7: 51}
    assert sorted(block.id for block in changed.orphaned_blocks) == [11, 14]


@pytest.mark.parametrize("change", [
    SuperblockChange(remove=(5,)),
    SuperblockChange(edit={5: RowSetEdit()}),
    SuperblockChange(add=(a_rowset(0, 50),)),
    SuperblockChange(edit={0: RowSetEdit(remove_redos=(13, 15))}),
    SuperblockChange(edit={0: RowSetEdit(remove_redos=(77,))}),
    SuperblockChange(edit={0: RowSetEdit(remove_undos=(13,))}),
    SuperblockChange(edit={0: RowSetEdit(durable_dms_id=-1)}),
    SuperblockChange(durable_mrs_id=-1),
], ids=["remove", "edit", "add", "not adjacent", "no redo", "no undo", "store twice", "memory twice"])
def test_a_change_that_does_not_fit_is_refused(change: SuperblockChange) -> None:
    message = a_superblock(a_rowset(0, 10, redos=3))
    before = message.SerializeToString(deterministic=True)
    with pytest.raises(InvalidArgument):
        apply_change(message, change)
    assert message.SerializeToString(deterministic=True) == before


def test_live_rows_are_not_counted_where_the_superblock_does_not_support_it() -> None:
    message = a_superblock()
    message.supports_live_row_count = False
    changed = apply_change(message, SuperblockChange(add=(a_rowset(0, 10),)))
    assert not changed.rowsets[0].HasField("live_row_count")


# -- on disk -----------------------------------------------------------------------------------------------------------
class Place:
    def __init__(self, folder: Path) -> None:
        self.disk = RecordingDisk()
        [root] = data_roots(folder)
        self.path = folder / "superblock"
        self.blocks: BlockManager = open_block_manager([root], disk=self.disk)
        self.metadata = TabletMetadata.create(self.path, a_superblock(), self.blocks, disk=self.disk)

    def committed(self, **more: Any) -> list[int]:
        """A change with a rowset of three new blocks; their ids."""
        with self.blocks.transaction() as transaction:
            blocks = [transaction.create_block() for _ in range(3)]
            for block in blocks:
                block.append(b"x" * 100)
            rowset: Any = message_class(ROWSET)(id=self.metadata.take_rowset_id(), last_durable_dms_id=-1)
            for i, block in enumerate(blocks[:2]):
                rowset.columns.add(column_id=i).block.id = block.id
            rowset.bloom_block.id = blocks[2].id
            self.metadata.commit(SuperblockChange(add=(rowset,)), transaction, **more)
            return [block.id for block in blocks]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.blocks.close()


def test_blocks_are_durable_before_the_log_is_synced_and_the_superblock_comes_last(place: Place) -> None:
    begin = len(place.disk)
    synced_at: list[int] = []
    place.committed(sync_log=lambda: synced_at.append(len(place.disk)))
    [at] = synced_at
    calls = place.disk.calls()
    replaced = [i for i, call in enumerate(calls) if call[0] == "rename" and call[6].endswith(b"/superblock")]
    assert [i >= at for i in replaced if i >= begin] == [True]
    assert [call[0] for call in calls[begin:at] if call[0] in ("write", "sync")][-1] == "sync"
    order = ["sync", "rename", "sync_dir"]
    assert [call[0] for call in calls[at:] if call[0] in order] == order
    assert read_superblock(place.path).message == place.metadata.message


def test_a_log_that_cannot_be_synced_leaves_the_old_superblock_and_no_blocks(place: Place) -> None:
    def fails() -> None:
        raise DiskError("the log cannot be synced")

    before = place.path.read_bytes()
    with pytest.raises(DiskError, match="the log"):
        place.committed(sync_log=fails)
    assert place.path.read_bytes() == before
    assert not place.blocks.live_blocks()
    ids = place.committed()
    assert place.blocks.live_blocks().keys() == set(ids)


def test_a_superblock_that_cannot_be_written_leaves_the_old_one_and_no_blocks(place: Place) -> None:
    place.committed()
    before, live = place.path.read_bytes(), place.blocks.live_blocks()
    place.disk.fail("rename", 1, errno.ENOSPC)
    with pytest.raises(DiskError):
        place.committed(sync_log=lambda: None)
    assert (place.path.read_bytes(), place.blocks.live_blocks(), place.metadata.failed) == (before, live, None)
    place.committed()


def test_a_superblock_whose_name_may_not_be_durable_stops_everything(place: Place) -> None:
    first = place.committed()
    place.disk.fail("sync_dir", 1, errno.EIO)
    with pytest.raises(DiskError):
        place.committed()
    place.disk.fail("sync_dir", 0, 0)
    assert place.metadata.failed is not None
    assert len(place.blocks.live_blocks()) == 6, "neither the old blocks nor the new ones may go"
    for call in (lambda: place.metadata.commit(SuperblockChange()), place.metadata.delete_orphans):
        with pytest.raises(DiskError):
            call()
    reopened = TabletMetadata.open(place.path, place.blocks)
    assert len(reopened.message.rowsets) == 2
    assert set(first) <= place.blocks.live_blocks().keys()


def test_orphaned_blocks_are_listed_until_they_are_deleted(place: Place) -> None:
    ids = place.committed()
    place.metadata.commit(SuperblockChange(remove=(0,)))
    assert set(read_superblock(place.path).orphaned_blocks) == set(ids)
    assert set(place.metadata.delete_orphans(keep=ids[:1])) == set(ids[1:])
    place.metadata.commit(SuperblockChange())
    assert read_superblock(place.path).orphaned_blocks == (ids[0],)
    place.metadata.delete_orphans()
    place.metadata.commit(SuperblockChange())
    assert read_superblock(place.path).orphaned_blocks == ()
    assert not place.blocks.live_blocks()


def test_ids_exceed_those_of_the_superblock_and_of_the_log(place: Place) -> None:
    message = a_superblock(a_rowset(4, 10), a_rowset(7, 20))
    message.last_durable_mrs_id = 3
    message.rowsets[0].last_durable_dms_id = 5
    metadata = TabletMetadata(place.path, message, place.blocks)
    metadata.note_log_ids(mrs_ids=[2, 6], dms_ids=[(4, 8), (7, 0), (12, 1)])
    assert (metadata.take_mem_rowset_id(), metadata.take_mem_rowset_id()) == (7, 8)
    assert (metadata.take_rowset_id(), metadata.take_rowset_id()) == (13, 14)
    assert [metadata.take_delta_store_id(rowset_id) for rowset_id in (4, 4, 7, 13, 13)] == [9, 10, 1, 0, 1]
    metadata.check()


def test_a_crashed_compaction_s_rowset_id_is_not_given_again(place: Place) -> None:
    """Its COMMITs name a store of a rowset that no superblock names: they must not be taken for a new rowset's."""
    metadata = TabletMetadata(place.path, a_superblock(a_rowset(0, 10)), place.blocks)
    crashed = metadata.take_rowset_id()
    reopened = TabletMetadata(place.path, a_superblock(a_rowset(0, 10)), place.blocks)
    reopened.note_log_ids(dms_ids=[(0, 0), (crashed, 0)])
    assert reopened.take_rowset_id() > crashed


def test_block_ids_that_a_superblock_names_are_not_given_out(place: Place) -> None:
    message = a_superblock(a_rowset(0, 1000))
    message.orphaned_blocks.add(id=2000)
    TabletMetadata(place.path, message, place.blocks)
    with place.blocks.transaction() as transaction:
        assert transaction.create_block().id > 2000


def test_ids_and_the_message_do_not_wait_for_a_replace(place: Place) -> None:
    seen: list[int] = []

    def while_replacing() -> None:
        seen.append(place.metadata.take_mem_rowset_id())
        seen.append(place.metadata.take_delta_store_id(0))
        seen.append(len(place.metadata.message.rowsets))

    place.committed(sync_log=while_replacing)
    assert seen == [0, 0, 0]
