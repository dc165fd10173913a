from collections.abc import Callable
from typing import Generic, TypeVar

from typing_extensions import disjoint_base

from kudu_storage._native.log_replaced import Cuts
from kudu_storage._native.segment import BatchChunk
from kudu_storage.common.opid import OpId

_T = TypeVar("_T")

@disjoint_base
class CachedBatch:
    """A batch held by a reader. A buffer: its LogEntryBatchPB, without a copy."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def term(self) -> int: ...

@disjoint_base
class Entry:
    """One REPLICATE of a log. A buffer: memoryview(entry) is its payload, without a copy."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def op_type(self) -> int: ...
    @property
    def is_user(self) -> bool: ...
    @property
    def op_id(self) -> OpId: ...
    @property
    def payload(self) -> memoryview: ...
    def __bytes__(self) -> bytes: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class EntryIterator(Generic[_T]):
    """Entries from `index` to `end`, about max_bytes of them (at least one); as_bytes: their payloads as bytes.

    source(index) gives the next part, which holds `index` and perhaps others: a batch of the cache; a chunk, and the
    index from which on later segments replace its operations; or entries that were looked through already. It raises
    when there is none. If it has a method missing(index, found, offset), operations follow each other without a gap:
    else what this returns is raised, where `found` (in the batch at this offset of the segment) stands for `index`.
    """

    def __init__(self, source: Callable[[int], CachedBatch | tuple[BatchChunk, int] | list[Entry]], index: int,
                 end: int, max_bytes: int | None = None, *, as_bytes: bool = False) -> None: ...
    def __iter__(self) -> EntryIterator[_T]: ...
    def __next__(self) -> _T: ...

def chunk_entries(chunk: BatchChunk, from_index: int = 1, below: int = ...,
                  cuts: Cuts | None = None) -> list[Entry]: ...
