"""Folders that hold one tablet, and what both sides do with copies of them."""
from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import oracle
from shapes import Shape

from kudu_storage import Tablet
from kudu_storage.fs.block_references import COLUMN, rowset_blocks
from kudu_storage.fs.blocks import open_block_manager
from kudu_storage.fs.superblock import read_superblock


def copied(source: Path, folder: Path) -> Path:
    """A copy of a tablet's folder as folder/fs, synced: its write-back does not slow down what is measured on it."""
    shutil.copytree(source, folder / "fs", copy_function=oracle._copy_synced)
    return folder / "fs"


def logged(shape: Shape, root: Path) -> Path:
    """A tablet with these rows in its log only."""
    with Tablet.create(root, shape.schema, durability="os") as tablet:
        tablet.insert_arrow(shape.table)
    return root


@contextmanager
def serving(binaries: oracle.KuduBinaries, folder: Path, flags: Sequence[str]) -> Iterator[oracle.Server]:
    """A real tablet server on folder/fs, without a master: a tablet of one voter needs none."""
    server = oracle.Server(binaries, "kudu-tserver", folder, ["--tserver_master_addrs=127.0.0.1:1", *flags])
    try:
        server.start()
        yield server
    finally:
        server.stop()


def superblock_of(root: Path) -> Any:
    [path] = [path for path in (root / "tablet-meta").iterdir() if len(path.name) == 32]
    return read_superblock(path)


def file_bytes(root: Path) -> Counter[str]:
    """Bytes of a stopped tablet's files: by column name for base data, by kind for the others."""
    superblock = superblock_of(root)
    names = {column.id: column.name for column in superblock.schema}
    found: Counter[str] = Counter()
    blocks = open_block_manager([root], read_only=True)
    try:
        for rowset in superblock.message.rowsets:
            columns = {column.block.id: names[column.column_id] for column in rowset.columns}
            for reference in rowset_blocks(rowset):
                name = columns[reference.block_id] if reference.kind == COLUMN else str(reference.kind)
                with blocks.open_block(reference.block_id) as block:
                    found[name] += block.length
    finally:
        blocks.close()
    return found
