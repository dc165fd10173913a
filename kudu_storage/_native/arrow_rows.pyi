from kudu_storage._native.row_batch import RowBatch

class ArrowRows:
    """The rows of an Arrow stream, to be put into batches of one tablet.

    Args:
        data: an object with __arrow_c_stream__: of pyarrow, polars, DuckDB, pandas and others.
        batch: one of the tablet's batches: its columns are found by name.
        op: what every row is: a RowOp.
    Raises InvalidArgument: no such object; a column that the tablet lacks, twice, or of a type that does not fit; a
    column that the operation needs and that is not there.
    """

    def __init__(self, data: object, batch: RowBatch, op: int) -> None: ...
    def fill(self, batch: RowBatch, bytes_max: int) -> bool:
        """Put rows into the batch until it holds about bytes_max. False: there are no more.

        Raises InvalidArgument naming column and row, for a value that does not fit; rows before it are in the batch.
        """
    @property
    def rows(self) -> int:
        """Rows put into batches so far."""
