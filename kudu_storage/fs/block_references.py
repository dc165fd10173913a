"""Which blocks a superblock names, in the order in which Kudu's tools list them. Pure."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kudu_storage.fs.blocks.manager import NO_BLOCK

COLUMN, REDO, UNDO, BLOOM, ADHOC_INDEX = "column", "redo", "undo", "bloom", "adhoc-index"


@dataclass(frozen=True, slots=True)
class BlockReference:
    """One block of a rowset, and what it is for."""

    rowset_id: int
    block_id: int
    kind: str                       # one of the names above
    column_id: int | None = None    # of a column's block


def rowset_blocks(rowset: Any) -> Iterator[BlockReference]:
    """The blocks of a kudu.tablet.RowSetDataPB: columns by id, then REDO, UNDO, bloom filter, key index."""
    for column in sorted(rowset.columns, key=lambda column: column.column_id):
        yield BlockReference(rowset.id, column.block.id, COLUMN, column.column_id)
    for delta in rowset.redo_deltas:
        yield BlockReference(rowset.id, delta.block.id, REDO)
    for delta in rowset.undo_deltas:
        yield BlockReference(rowset.id, delta.block.id, UNDO)
    if rowset.HasField("bloom_block") and rowset.bloom_block.id != NO_BLOCK:
        yield BlockReference(rowset.id, rowset.bloom_block.id, BLOOM)
    if rowset.HasField("adhoc_index_block") and rowset.adhoc_index_block.id != NO_BLOCK:
        yield BlockReference(rowset.id, rowset.adhoc_index_block.id, ADHOC_INDEX)


def live_references(superblock: Any) -> Iterator[BlockReference]:
    """All blocks that a kudu.tablet.TabletSuperBlockPB needs; orphaned ones are not among them."""
    for rowset in superblock.rowsets:
        yield from rowset_blocks(rowset)


def named_block_ids(superblock: Any) -> Iterator[int]:
    """All ids that it names, orphaned ones too: what BlockManager.notify_block_id must be told (B5)."""
    for reference in live_references(superblock):
        yield reference.block_id
    for block in superblock.orphaned_blocks:
        yield block.id
