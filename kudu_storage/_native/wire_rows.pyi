from collections.abc import Sequence

from typing_extensions import Buffer

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema

class RowwiseEncoder:
    """Rows of column blocks as the sidecars of a RowwiseRowBlockPB, answer after answer. One thread at a time.

    Args:
        schema: of the blocks.
        places: which of their columns go out, in this order; default: all.
        pad_unixtime: PAD_UNIXTIME_MICROS_TO_16_BYTES.
        group_rows: in the indirect data the cells of so many rows, fewer where a block ends, lie column after column.
            Readers do not care.
    """

    def __init__(self, schema: Schema, *, places: Sequence[int] | None = None, pad_unixtime: bool = False,
                 group_rows: int = 128) -> None: ...
    @property
    def row_count(self) -> int:
        """Of the answer being gathered."""
    @property
    def size_bytes(self) -> int:
        """Of its sidecars."""
    def add(self, block: ColumnBlock, first: int, bytes_max: int, rows_max: int | None = None) -> int:
        """Take rows from `first` on while the answer stays within bytes_max (2**31 - 1 at most), at most rows_max.

        Returns how many. An answer without rows takes one whatever its size. Without the GIL.
        Raises InvalidArgument; InternalError: a block of another schema; MemoryError: the answer is empty again.
        """
    def take(self) -> tuple[int, memoryview, memoryview | None]:
        """The answer: its row count, its rows and its indirect data, None if there are none. The next one begins."""

def decode_rowwise(schema: Schema, row_count: int, rows: Buffer, indirect: Buffer | None = None, *,
                   pad_unixtime: bool = False) -> ColumnBlock:
    """The rows of an answer. The bytes are copied, and trusted in nothing; the GIL is released.

    Raises BadFormat, naming column and row: sizes that do not fit, cells outside the data or sharing bytes of it, a
    NULL or a BOOL that cannot be. LimitExceeded: more than a block holds.
    """
