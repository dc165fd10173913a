from collections.abc import Iterable

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema

class ArrowStream:
    """Blocks as an Arrow C stream: any library with `from_stream`, `table` or the like takes it. Exported once.

    Args:
        schema: of every block; a block with another one is refused when its turn comes.
        blocks: taken one at a time, on the consumer's thread, as it asks for batches.
        strings_as_binary: STRING and VARCHAR as Arrow binary, with no look at their bytes. Without it a cell that is
            not UTF-8 is a BadFormat naming column and row.

    Raises BadFormat for a schema that Arrow cannot express (a decimal's precision or scale).
    """

    def __init__(self, schema: Schema, blocks: Iterable[ColumnBlock], *, strings_as_binary: bool = False) -> None: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def error(self) -> BaseException | None:
        """What stopped the stream: the consumer itself gets only a number and a text."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The "arrow_array_stream" capsule. Raises InvalidArgument the second time. No casts: requested_schema is left
        to the consumer."""
    def __arrow_c_schema__(self) -> object:
        """An "arrow_schema" capsule, as often as wanted."""
