from typing import NamedTuple

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_batch import RowBatch
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage._native.row_stores import RowStores

class FailedRow(NamedTuple):
    number: int         # of the operation in its batch
    code: int           # kudu.AppStatusPB.ErrorCode
    reason: str
    key: bytes          # encoded; empty when it has none

class Applier:
    """Applies operations to `rows`, whose layout is `layout`, and to the rowsets that place() names.

    Args:
        projection: from the columns of batches (those of the layout's schema).
        store_id: what COMMITs name the MemRowSet by.
        failures_max: rows refused that are kept for take_failures().
    """

    def __init__(self, rows: MemRowSet, layout: RowLayout, projection: Projection, *, store_id: int,
                 cell_bytes_max: int = ..., failures_max: int = ...) -> None: ...
    def place(self, rows: MemRowSet, store_id: int, *, frozen: MemRowSet | None = None, frozen_id: int = -1,
              frozen_heirs: RowStores | None = None, stores: RowStores | None = None,
              heirs: RowStores | None = None) -> None:
        """From now on new rows go to `rows`.

        Args:
            frozen: a MemRowSet that is being flushed: its rows are changed there.
            frozen_heirs: the rowsets that it becomes, from its flush's second half on (A5).
            stores: the flushed rowsets. heirs: what those of them that are inherited become (A5).
        """
    def apply(self, batch: RowBatch, term: int, index: int, timestamp: int,
              projection: Projection | None = None) -> bytes:
        """Returns the CommitMsg. `projection`: of a batch with other columns than those of the constructor's.

        Raises MemoryError, and what reading a rowset's keys can raise: some rows may be applied.
        """
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
