from collections.abc import Sequence

from kudu_storage.common.schema import Schema

class ColumnTests:
    """What rows must pass.

    Args:
        schema: whose columns are tested.
        tests: (column, kind, cells): kind is one of "eq", "lt", "le", "gt", "ge" with one cell, "in" with any number,
            "null", "not_null". A NULL passes "null" alone; a NaN no comparison.
    """

    def __init__(self, schema: Schema, tests: Sequence[tuple[int, str, Sequence[bytes]]]) -> None: ...
    @property
    def schema(self) -> Schema: ...
    def __len__(self) -> int: ...
    def columns(self) -> list[int]:
        """The columns tested, each once, those first whose tests cost least and pass least."""
