from collections.abc import Sequence

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage.common.schema import Schema

class BlockFilter:
    """Picks rows of blocks: those that pass every test.

    Args:
        schema: of the blocks.
        kept: of what comes out: the first columns of `schema`, or those at `places` in it.
        tests: (column, kind, cells): kind is one of "eq", "lt", "le", "gt", "ge" with one cell, "in" with any number,
            "null", "not_null". A NULL passes "null" alone; a NaN no comparison.
    """

    def __init__(self, schema: Schema, kept: Schema, tests: ColumnTests | Sequence[tuple[int, str, Sequence[bytes]]],
                 places: Sequence[int] | None = None) -> None: ...
    def apply(self, block: ColumnBlock, limit: int | None = None) -> ColumnBlock:
        """The rows that pass, at most `limit`; the block itself when that is all of it."""
