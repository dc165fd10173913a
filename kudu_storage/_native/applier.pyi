from typing import NamedTuple

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_batch import RowBatch
from kudu_storage._native.row_layout import Projection, RowLayout

class FailedRow(NamedTuple):
    number: int         # of the operation in its batch
    code: int           # kudu.AppStatusPB.ErrorCode
    reason: str
    key: bytes          # encoded; empty when it has none

class Applier:
    """Applies operations to `rows`, whose layout is `layout`.

    Args:
        projection: from the columns of batches (those of the layout's schema).
        store_id: what COMMITs name the MemRowSet by.
        failures_max: rows refused that are kept for take_failures().
    """

    def __init__(self, rows: MemRowSet, layout: RowLayout, projection: Projection, *, store_id: int,
                 cell_bytes_max: int = ..., failures_max: int = ...) -> None: ...
    def apply(self, batch: RowBatch, term: int, index: int, timestamp: int) -> bytes:
        """Returns the CommitMsg. Raises MemoryError: some rows may be applied."""
    def apply_logged(self, rows: bytes, indirect: bytes, projection: Projection, term: int, index: int,
                     timestamp: int, results: bytes | None = None) -> bytes:
        """apply() of a write request that the log holds. `results`: the TxResultPB of its COMMIT, where it has one.

        Raises BadFormat, Contradiction (with `results`).
        """
    def take_failures(self) -> list[FailedRow]:
        """Rows that apply() refused since the last call, up to failures_max a call of apply()."""
    @property
    def failed(self) -> int:
        """Rows refused by the last apply()."""
    @property
    def counts(self) -> dict[str, int]:
        """Rows inserted, updated, deleted, ignored, failed since the beginning."""
