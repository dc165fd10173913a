"""Lists of blocks by tablet, as the real tool prints them. Reads superblocks, and nothing of the blocks themselves."""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kudu_storage.common.cell_text import column_text
from kudu_storage.errors import InvalidArgument, NoSuchBlock
from kudu_storage.fs.block_references import ADHOC_INDEX, BLOOM, COLUMN, REDO, UNDO, BlockReference, rowset_blocks
from kudu_storage.fs.blocks.manager import block_name
from kudu_storage.fs.file_system import superblock_paths
from kudu_storage.fs.roots import ServerRoots
from kudu_storage.fs.superblock import Superblock, read_superblock


# -- local_replica dump block_ids --------------------------------------------------------------------------------------
def block_ids_text(superblock: Superblock) -> str:
    """All data and delta blocks of a tablet, rowset by rowset."""
    if not superblock.message.rowsets:
        return f"No rowsets found on disk for tablet {superblock.tablet_id}\n"
    lines = [f"Listing all data blocks in tablet {superblock.tablet_id}:"]
    columns = {column.id: column for column in superblock.schema}
    for position, rowset in enumerate(superblock.message.rowsets):
        lines.append(f"Rowset {position}")
        found = list(rowset_blocks(rowset))
        for block in (block for block in found if block.kind == COLUMN):
            column = columns.get(block.column_id)
            shown = f" ({column_text(column)})" if column is not None else ""
            lines.append(f"Column block for column ID {block.column_id}{shown}: {block_name(block.block_id)}")
        lines += (f"{kind.upper()}: {block_name(block.block_id)}" for kind in (UNDO, REDO)
                  for block in found if block.kind == kind)
    return "".join(f"{line}\n" for line in lines)


# -- local_replica data_size -------------------------------------------------------------------------------------------
SIZE_HEADERS = ("table id", "tablet id", "rowset id", "block type", "size")
_OTHER_KINDS = {REDO: "REDO", UNDO: "UNDO", BLOOM: "BLOOM", ADHOC_INDEX: "PK"}


class _Sizes:
    """Bytes of columns by (id, name), and of the other kinds."""

    def __init__(self) -> None:
        self.columns: dict[tuple[int, str], int] = defaultdict(int)
        self.others: dict[str, int] = dict.fromkeys(_OTHER_KINDS, 0)

    def add(self, other: _Sizes) -> None:
        for key, size in other.columns.items():
            self.columns[key] += size
        for kind, size in other.others.items():
            self.others[kind] += size

    def rows(self, *place: str) -> Iterator[tuple[str, ...]]:
        from kudu_storage.cli.table import human_bytes

        shown = [(f"c{column_id} ({name})", size) for (column_id, name), size in sorted(self.columns.items())]
        shown += ((_OTHER_KINDS[kind], size) for kind, size in self.others.items())
        for name, size in (*shown, ("*", sum(size for _, size in shown))):
            yield (*place, name, human_bytes(size))


def size_rows(roots: ServerRoots, pattern: str, lengths: Mapping[int, int]) -> list[tuple[str, ...]]:
    """Sizes by rowset, tablet and table of the tablets that match. Raises NoSuchBlock for one that is missing."""
    matches = re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern) + r"\Z").match
    by_table: dict[str, _Sizes] = defaultdict(_Sizes)
    rows: list[tuple[str, ...]] = []
    for path in superblock_paths(roots):
        if not matches(path.name):
            continue
        superblock = read_superblock(path)
        tablet = _Sizes()
        for rowset in superblock.message.rowsets:
            sizes = _rowset_sizes(superblock, rowset_blocks(rowset), lengths)
            rows += sizes.rows(superblock.table_id, superblock.tablet_id, str(rowset.id))
            tablet.add(sizes)
        rows += tablet.rows(superblock.table_id, superblock.tablet_id, "*")
        by_table[superblock.table_id].add(tablet)
    for table_id, sizes in sorted(by_table.items()):
        rows += sizes.rows(table_id, "*", "*")
    return rows


def _rowset_sizes(superblock: Superblock, blocks: Iterator[BlockReference], lengths: Mapping[int, int]) -> _Sizes:
    names = {column.id: column.name for column in superblock.schema}
    sizes = _Sizes()
    for block in blocks:
        if block.block_id not in lengths:
            raise NoSuchBlock(f"no block {block_name(block.block_id)} of tablet {superblock.tablet_id}",
                              advice="kudu-storage fs check")
        if block.column_id is not None:
            sizes.columns[block.column_id, names.get(block.column_id, "?")] += lengths[block.block_id]
        else:
            sizes.others[block.kind] += lengths[block.block_id]
    return sizes


# -- fs list -----------------------------------------------------------------------------------------------------------
_TABLET, _ROWSET, _BLOCK = range(3)
_Row = tuple[Superblock, BlockReference | None]


def _block(row: _Row) -> BlockReference:
    assert row[1] is not None
    return row[1]


def _column_name(row: _Row) -> str:
    wanted = _block(row).column_id
    return next((column.name for column in row[0].schema if column.id == wanted and wanted is not None), "")


# name -> (how many rows it asks for, its text)
_FIELDS: dict[str, tuple[int, Callable[[_Row], str]]] = {
    "table": (_TABLET, lambda row: row[0].table_name),
    "table-id": (_TABLET, lambda row: row[0].table_id),
    "tablet-id": (_TABLET, lambda row: row[0].tablet_id),
    "partition": (_TABLET, lambda row: row[0].partition_schema.describe(row[0].partition)),
    "rowset-id": (_ROWSET, lambda row: str(_block(row).rowset_id)),
    "block-id": (_BLOCK, lambda row: str(_block(row).block_id)),
    "block-kind": (_BLOCK, lambda row: _block(row).kind),
    "column": (_BLOCK, _column_name),
    "column-id": (_BLOCK, lambda row: "" if _block(row).column_id is None else str(_block(row).column_id)),
}


@dataclass(frozen=True, slots=True)
class ListFilter:
    """What `fs list` is restricted to; empty and negative values restrict nothing, nor does block 0."""

    table_name: str = ""
    table_id: str = ""
    tablet_id: str = ""
    rowset_id: int = -1
    column_id: int = -1
    block_id: int = 0

    def takes_table(self, superblock: Superblock) -> bool:
        return self.table_name in ("", superblock.table_name) and self.table_id.lower() in ("", superblock.table_id)

    def takes(self, block: BlockReference) -> bool:
        return (self.column_id < 0 or block.column_id == self.column_id) \
            and (not self.block_id or block.block_id == self.block_id)


def parse_fields(columns: str) -> list[str]:
    """The names in a comma-separated list, in the real tool's spelling. Raises InvalidArgument for an unknown one."""
    names = [name.strip().replace("_", "-").lower() for name in columns.split(",") if name]
    for name in names:
        if name not in _FIELDS:
            raise InvalidArgument(f"unknown column: {name}", advice=f"some of {', '.join(_FIELDS)}")
    return names


def list_rows(roots: ServerRoots, fields: Sequence[str], wanted: ListFilter) -> list[tuple[str, ...]]:
    """One row a tablet, rowset or block, as the finest of the fields asks for."""
    if not fields:
        return []
    grain = max(_FIELDS[name][0] for name in fields)
    texts = [_FIELDS[name][1] for name in fields]
    rows: list[tuple[str, ...]] = []
    for path in superblock_paths(roots):
        if wanted.tablet_id.lower() not in ("", path.name):
            continue
        superblock = read_superblock(path)
        if wanted.takes_table(superblock):
            rows += (tuple(text((superblock, block)) for text in texts) for block in _grains(superblock, grain, wanted))
    return rows


def _grains(superblock: Superblock, grain: int, wanted: ListFilter) -> Iterator[BlockReference | None]:
    if grain == _TABLET:
        yield None
        return
    for rowset in superblock.message.rowsets:
        if wanted.rowset_id not in (-1, rowset.id):
            continue
        if grain == _ROWSET:
            yield BlockReference(rowset.id, 0, "")
        else:
            yield from filter(wanted.takes, rowset_blocks(rowset))
