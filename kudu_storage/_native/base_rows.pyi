from collections.abc import Sequence

from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.row_layout import RowLayout

class BaseRows:
    def __init__(self, layout: RowLayout, readers: Sequence[CFileReader | None], row_count: int, *,
                 batch_bytes: int = ...) -> None: ...
    @property
    def layout(self) -> RowLayout: ...
    @property
    def row_count(self) -> int: ...
    def next(self) -> ColumnBlock | None: ...
