from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal

from kudu_storage.common.schema import Schema

Value = int | float | bool | str | bytes | Decimal | date | datetime | None

class ColumnBlock:
    """A batch of rows, column by column. Immutable; safe to read from any thread."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises TypeError: blocks come from scans and from_tuples()."""
    @property
    def schema(self) -> Schema: ...
    @property
    def row_count(self) -> int: ...
    @property
    def cell_bytes(self) -> int:
        """Of all cells, without offsets and validity."""
    @property
    def references(self) -> int:
        """Holders of the buffers: this handle and every Arrow array not yet released."""
    def __len__(self) -> int: ...
    @classmethod
    def from_tuples(cls, schema: Schema, rows: Iterable[Sequence[Value]]) -> ColumnBlock:
        """A block of the given rows, values as in to_tuples().

        Besides: an int is taken for UNIXTIME_MICROS (microseconds since 1970), DATE (days since 1970) and decimals
        (a whole number). Raises InvalidArgument, naming column and row, for a value that the column cannot hold.
        """
    def to_tuples(self) -> list[tuple[Value, ...]]:
        """The rows as Python values.

        int; float; bool; str for STRING and VARCHAR (bytes that are not UTF-8 become lone surrogates, Python's
        "surrogateescape", and from_tuples turns them back); bytes for BINARY; Decimal with the column's scale; date;
        aware datetime in UTC; None. Raises Unsupported for a DATE or UNIXTIME_MICROS outside the years 1 to 9999.
        """
    def cells(self, row: int) -> list[bytes | None]:
        """The raw cells of one row, as they lie in memory."""
