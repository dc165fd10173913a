from kudu_storage._native.cfile_reader import ColumnCursor
from kudu_storage._native.column_tests import ColumnTests
from kudu_storage._native.row_layout import RowLayout

class ColumnSelector:
    """Args:
        layout: of the scan.
        tests: on columns of it.
        column: the one whose tests these are.
        cursor: in its file, or None where the rowset lacks the column.
    """

    def __init__(self, layout: RowLayout, tests: ColumnTests, column: int, cursor: ColumnCursor | None) -> None: ...
    @property
    def column(self) -> int: ...
    @property
    def decoded_rows(self) -> int: ...
