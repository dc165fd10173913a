from typing import final

from kudu_storage._native.log_entries import Entry
from kudu_storage._native.log_voids import Voids

@final
class SegmentPlaces:
    """Where a closed segment has each operation from `first` to `last`. Owns the descriptor `fd`, also if this raises.

    slots: of the dense log index (docs/formats/log_index.md), one an operation; those of another segment or with an
    absurd offset count as unknown. entries lie between first_offset and end_offset.
    """

    def __new__(cls, fd: int, *, sequence: int, first: int, last: int, first_offset: int, end_offset: int, codec: int,
                slots: bytes) -> SegmentPlaces: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def unknown(self) -> int:
        """How many operations have no place."""
    @property
    def memory_bytes(self) -> int: ...

@final
class Places:
    """Those of a log's segments that were asked for. Their number and memory in the process are bounded: those that
    were not used for longest go. Any thread.

    voids: operations that it says were replaced are not found here."""

    def __new__(cls, voids: Voids | None = None) -> Places: ...
    def find(self, index: int) -> Entry | None:
        """The operation; None: nothing is known of it here, or what is there is not it. Then look properly."""
    def covers(self, index: int) -> bool: ...
    def add(self, places: SegmentPlaces) -> None: ...
    def drop_from(self, index: int) -> None:
        """Operations from `index` on were replaced."""
    def drop_below(self, index: int) -> None:
        """Operations below `index` were collected."""
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
