from typing import Any

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout

class RowLookup:
    """Reads single rows by key.

    Args:
        layout: the columns wanted, by id; a column that a row was stored without has its read default there, or NULL.
    """

    def __init__(self, layout: RowLayout) -> None: ...
    def get(self, rows: MemRowSet, snapshot: Snapshot, key: bytes) -> list[Any] | None:
        """The row with this encoded key as Python values (see ColumnBlock.to_tuples), or None.

        `rows` is shared or frozen.
        """
