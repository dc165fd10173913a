from collections.abc import Iterable, Sequence

from typing_extensions import Buffer

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema

class ColumnSidecars:
    """Of one column, while they are gathered."""

class ColumnarEncoder:
    """Rows of column blocks as the sidecars of a ColumnarRowBlockPB, answer after answer. One thread at a time.

    Args:
        schema: of the blocks.
        places: which of their columns go out, in this order; default: all.
    """

    def __init__(self, schema: Schema, *, places: Sequence[int] | None = None) -> None: ...
    @property
    def row_count(self) -> int:
        """Of the answer being gathered."""
    @property
    def size_bytes(self) -> int:
        """Of its sidecars."""
    def add(self, block: ColumnBlock, first: int, bytes_max: int, rows_max: int | None = None) -> int:
        """Take rows from `first` on while the answer stays within bytes_max (2**31 - 1 at most), at most rows_max.

        Returns how many. An answer without rows takes one whatever its size. Columns are copied without the GIL.
        Raises InvalidArgument; InternalError: a block of another schema; MemoryError: the answer is empty again.
        """
    def take(self) -> tuple[int, list[tuple[memoryview, memoryview | None, memoryview | None]]]:
        """The answer: its row count, and data, varlen data and non-null bitmap of each column. The next one begins."""

def decode_columnar(schema: Schema, row_count: int,
                    columns: Iterable[tuple[Buffer, Buffer | None, Buffer | None]]) -> ColumnBlock:
    """The rows of an answer. The bytes are copied, and trusted in nothing; the GIL is released.

    Raises BadFormat, naming column and row: sizes that do not fit, offsets that go back or past the end, a NULL with
    bytes, a BOOL that cannot be. LimitExceeded: more than a block holds.
    """
