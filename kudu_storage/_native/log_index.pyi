from typing import Final

from typing_extensions import disjoint_base

from kudu_storage._native.segment import BatchChunk

SLOT_BYTES: Final[int]

@disjoint_base
class SlotCollector:
    """The index slots of the operations in one segment's batches.

    take() gives those of a chunk: slots back to back, and the runs of consecutive indexes that they stand for, in the
    order of the file; one thread at a time. malformed_offset: of the first batch that passes its checksum and is no
    LogEntryBatchPB; what take() returned then ends before it, and no further chunk can be taken.
    """

    def __new__(cls, sequence: int) -> SlotCollector: ...
    @property
    def sequence(self) -> int: ...
    @property
    def malformed_offset(self) -> int | None: ...
    def take(self, chunk: BatchChunk) -> tuple[bytes, list[tuple[int, int]]]: ...
