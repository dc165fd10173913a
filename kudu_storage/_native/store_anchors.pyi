from typing import NamedTuple

from typing_extensions import disjoint_base

from kudu_storage._native.segment import BatchChunk

class StoreUse(NamedTuple):
    memrowset_id: int | None
    rowset_id: int | None
    dms_id: int | None
    first_index: int
    first_timestamp: int | None
    last_index: int
    operations: int
    rows: int
    bytes: int

class InFlight(NamedTuple):
    first_index: int
    first_timestamp: int
    operations: int

@disjoint_base
class StoreAnchors:
    """Which stores the COMMITs of a log name: for each the operations that it took, and what they brought.

    A store whose first operation is older than the log has first_timestamp None. rows: row operations that changed
    something in the store. bytes: of the requests, a row operation's share being its request's size by their number.
    """

    def add(self, chunk: BatchChunk) -> None:
        """All entries of a chunk, in the log's order. Raises BadFormat at a malformed batch, with its offset; what
        was before it counts."""
    @property
    def stores(self) -> list[StoreUse]:
        """By first index."""
    @property
    def in_flight(self) -> InFlight | None:
        """Operations at the log's end that have no COMMIT."""
