"""Where a block's bytes are: a window of an open file, as block stores hand it out."""
from __future__ import annotations

from dataclasses import dataclass, field

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage.common import limits

_shared_cache: BlockCache | None = None


@dataclass(frozen=True, slots=True)
class BlockSource:
    """`length_bytes` at `offset` of `fd`. `owner` keeps the descriptor open for as long as a reader lives."""

    fd: int
    offset: int
    length_bytes: int
    path: str | None = None
    owner: object = field(default=None, repr=False)
    cache_id: int | None = None     # unique in the process; None: each reader has blocks of its own in the cache


def shared_block_cache() -> BlockCache:
    """The process's block cache, made when first asked for."""
    global _shared_cache
    if _shared_cache is None:
        _shared_cache = BlockCache(limits.BLOCK_CACHE_BYTES)
    return _shared_cache


def open_column_file(source: BlockSource, *, cache: BlockCache | None = None) -> CFileReader:
    """A reader of the column file in `source`. Raises as CFileReader does."""
    return CFileReader(source.fd, source.offset, source.length_bytes, name=source.path, owner=source.owner, cache=cache,
                       file_id=source.cache_id)
