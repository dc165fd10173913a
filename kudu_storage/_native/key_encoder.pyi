from collections.abc import Sequence

from kudu_storage._native.row_layout import RowLayout

class KeyEncoder:
    """Encodes primary keys of one layout from Python values. Threads may share it."""

    def __init__(self, layout: RowLayout) -> None: ...
    def encode(self, values: Sequence[object]) -> bytes:
        """The encoded key of these values, one a key column.

        Raises InvalidArgument for another number of values or one that its column cannot hold, LimitExceeded above
        16 KiB.
        """
