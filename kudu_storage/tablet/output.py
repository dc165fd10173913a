"""Blocks of rows to a file or pipe: JSON lines, CSV, an Arrow IPC file or Parquet, one block in memory at a time.

JSON lines and CSV are written natively and in pieces, so that the text of a large block is never held whole. Arrow and
Parquet go through pyarrow, which is imported only then. Writes to `out` and never closes it.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, Literal, get_args

from kudu_storage._native import row_text
from kudu_storage._native.arrow import ArrowStream
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.limits import MIB
from kudu_storage.common.schema import Schema
from kudu_storage.errors import InvalidArgument, MissingExtra

Format = Literal["jsonl", "csv", "arrow", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_PIECE_BYTES: Final = MIB
# A Parquet row group is what readers skip and read in parallel; it is collected from blocks up to either bound.
_PARQUET_GROUP_ROWS_MAX: Final = 131_072
_PARQUET_GROUP_BYTES_MAX: Final = 64 * MIB


def write_rows(blocks: Iterable[ColumnBlock], schema: Schema, format: Format, out: BinaryIO, *,
               strings_as_binary: bool = False) -> int:
    """Write all rows of `blocks` to `out` and return how many there were. May block on `out`.

    `strings_as_binary` concerns Arrow and Parquet: see ArrowStream. Raises MissingExtra when they need pyarrow and it
    is not there, and whatever `blocks` raises.
    """
    if format == "jsonl":
        return _write_jsonl(blocks, out)
    if format == "csv":
        return _write_csv(blocks, schema, out)
    if format in ("arrow", "parquet"):
        return _write_with_pyarrow(blocks, schema, format, out, strings_as_binary)
    raise InvalidArgument(f"no output format {format!r}", advice=f"one of {', '.join(FORMATS)}")


def _write_all(out: BinaryIO, data: bytes | memoryview) -> None:
    """An unbuffered file may take only a part at a time."""
    left = memoryview(data)
    while left.nbytes:
        left = left[out.write(left):]


def _write_jsonl(blocks: Iterable[ColumnBlock], out: BinaryIO) -> int:
    rows = 0
    for block in blocks:
        for piece in row_text.jsonl_pieces(block, _PIECE_BYTES):
            _write_all(out, piece)
        rows += block.row_count
    return rows


def _write_csv(blocks: Iterable[ColumnBlock], schema: Schema, out: BinaryIO) -> int:
    _write_all(out, row_text.csv_header(schema))
    rows = 0
    for block in blocks:
        for piece in row_text.csv_pieces(block, _PIECE_BYTES):
            _write_all(out, piece)
        rows += block.row_count
    return rows


def _import_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("Arrow and Parquet files need the package pyarrow, which cannot be imported",
                           advice="pip install 'kudu-storage[arrow]'") from error
    return pyarrow


class _Sink:
    """`out` as pyarrow wants a file: it asks for the position, which a pipe cannot tell, and may close it."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._position_bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        _write_all(self._out, view)
        self._position_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._position_bytes

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _batches(stream: ArrowStream, reader: Any) -> Iterator[Any]:
    """The reader's batches; an error of ours comes out as itself, not as what pyarrow makes of its number and text."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except Exception:
            if stream.error is not None:
                raise stream.error from None
            raise
        yield batch


def _row_groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    rows = size_bytes = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        size_bytes += batch.nbytes
        if rows >= _PARQUET_GROUP_ROWS_MAX or size_bytes >= _PARQUET_GROUP_BYTES_MAX:
            yield group
            group, rows, size_bytes = [], 0, 0
    if rows:
        yield group


def _write_with_pyarrow(blocks: Iterable[ColumnBlock], schema: Schema, format: str, out: BinaryIO,
                        strings_as_binary: bool) -> int:
    pyarrow = _import_pyarrow()
    stream = ArrowStream(schema, blocks, strings_as_binary=strings_as_binary)
    reader = pyarrow.RecordBatchReader.from_stream(stream)
    sink = pyarrow.PythonFile(_Sink(out), mode="w")
    rows = 0
    if format == "arrow":
        with pyarrow.ipc.new_file(sink, reader.schema) as writer:
            for batch in _batches(stream, reader):
                writer.write_batch(batch)
                rows += batch.num_rows
    else:
        with pyarrow.parquet.ParquetWriter(sink, reader.schema) as writer:
            for group in _row_groups(_batches(stream, reader)):
                writer.write_table(pyarrow.Table.from_batches(group), row_group_size=_PARQUET_GROUP_ROWS_MAX)
                rows += sum(batch.num_rows for batch in group)
    sink.close()
    out.flush()
    return rows
