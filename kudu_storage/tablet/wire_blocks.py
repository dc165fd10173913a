"""Scan results in the two layouts of Kudu's wire protocol: what a tablet server puts beside a ScanResponsePB.

    answers = RowwiseAnswers(scan, pad_unixtime=True)          # or ColumnarAnswers(scan)
    answer = answers.next(request.batch_size_bytes)
    answer.describe(response.data)                             # or response.columnar_data
    sidecars, response.has_more_results = answer.sidecars, answers.has_more()

 A1  An answer ends between two rows, and the next one goes on there; see wire_rows and wire_columns for what is in it.
 A2  Rows go from block buffers into sidecars once, natively, without the GIL.
One thread at a time. Messages are filled by their attributes only. May not touch: files but through the scan, sockets.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.wire_columns import ColumnarEncoder
from kudu_storage._native.wire_rows import RowwiseEncoder
from kudu_storage.common.schema import Schema

# --scanner_default_batch_size_bytes
BATCH_BYTES = 1 << 20
_COLUMN_PARTS = ("data_sidecar", "varlen_data_sidecar", "non_null_bitmap_sidecar")


@dataclass(frozen=True, slots=True)
class RowwiseAnswer:
    """Rows of fixed width and the bytes that they refer to: a RowwiseRowBlockPB."""

    row_count: int
    rows: memoryview
    indirect: memoryview | None

    @property
    def sidecars(self) -> list[memoryview]:
        """In the order of Kudu's servers."""
        return [self.rows] if self.indirect is None else [self.rows, self.indirect]

    @property
    def size_bytes(self) -> int:
        return sum(len(sidecar) for sidecar in self.sidecars)

    def describe(self, message: Any, first_sidecar: int = 0) -> None:
        """Fill an empty kudu.RowwiseRowBlockPB. `first_sidecar`: the index that the first one has in the call."""
        message.num_rows, message.rows_sidecar = self.row_count, first_sidecar
        if self.indirect is not None:
            message.indirect_data_sidecar = first_sidecar + 1


@dataclass(frozen=True, slots=True)
class ColumnarAnswer:
    """For each column its values or offsets, bytes of cells, and bitmap of what is not NULL: a ColumnarRowBlockPB."""

    row_count: int
    columns: Sequence[tuple[memoryview, memoryview | None, memoryview | None]]

    @property
    def sidecars(self) -> list[memoryview]:
        """In the order of Kudu's servers."""
        return [part for column in self.columns for part in column if part is not None]

    @property
    def size_bytes(self) -> int:
        return sum(len(sidecar) for sidecar in self.sidecars)

    def describe(self, message: Any, first_sidecar: int = 0) -> None:
        """Fill an empty kudu.ColumnarRowBlockPB. `first_sidecar`: the index that the first one has in the call."""
        message.num_rows = self.row_count
        number = first_sidecar
        for column in self.columns:
            described = message.columns.add()
            for name, part in zip(_COLUMN_PARTS, column, strict=True):
                if part is not None:
                    setattr(described, name, number)
                    number += 1


class Blocks(Protocol):
    """A scan: TabletScan, Scanner after open()."""

    @property
    def schema(self) -> Schema:
        """Of the blocks."""

    def blocks(self) -> Iterable[ColumnBlock]:
        """The rows, once."""


class _Encoder(Protocol):
    @property
    def row_count(self) -> int: ...

    def add(self, block: ColumnBlock, first: int, bytes_max: int, rows_max: int | None = None) -> int: ...


_Answer = TypeVar("_Answer", RowwiseAnswer, ColumnarAnswer)


class _Answers(Generic[_Answer]):
    """Where a scan is between two answers."""

    def __init__(self, scan: Blocks, encoder: _Encoder) -> None:
        self._blocks = iter(scan.blocks())
        self._encoder = encoder
        self._block: ColumnBlock | None = None      # begun; rows before _row went out
        self._row = 0

    def has_more(self) -> bool:
        """Whether rows are left. Reads on to the next ones."""
        while self._block is None or self._row == len(self._block):
            self._block, self._row = next(self._blocks, None), 0
            if self._block is None:
                return False
        return True

    def next(self, batch_size_bytes: int = BATCH_BYTES, *, rows_max: int | None = None) -> _Answer:
        """The next rows: as many as fit, at least one of those left, at most rows_max. Without rows at the end.

        Raises InvalidArgument: a size below 0 or above 2**31 - 1; what the scan raises.
        """
        left = rows_max
        while (left is None or left > 0) and self.has_more():
            assert self._block is not None
            taken = self._encoder.add(self._block, self._row, batch_size_bytes, left)
            self._row += taken
            left = None if left is None else left - taken
            if self._row < len(self._block):
                break
        return self._taken()

    def _taken(self) -> _Answer:
        raise NotImplementedError

    def all(self, batch_size_bytes: int = BATCH_BYTES) -> Iterator[_Answer]:
        """The answers with what is left."""
        while self.has_more():
            yield self.next(batch_size_bytes)


class RowwiseAnswers(_Answers[RowwiseAnswer]):
    """A scan's rows, row by row.

    Args:
        scan: gives the blocks.
        pad_unixtime: PAD_UNIXTIME_MICROS_TO_16_BYTES, as Impala asks for.
        places: which columns of the scan go out, in this order; default: all.
        group_rows: see RowwiseEncoder.
    """

    def __init__(self, scan: Blocks, *, pad_unixtime: bool = False, places: Sequence[int] | None = None,
                 group_rows: int = 128) -> None:
        self._rows = RowwiseEncoder(scan.schema, places=places, pad_unixtime=pad_unixtime, group_rows=group_rows)
        super().__init__(scan, self._rows)

    def _taken(self) -> RowwiseAnswer:
        return RowwiseAnswer(*self._rows.take())


class ColumnarAnswers(_Answers[ColumnarAnswer]):
    """A scan's rows, column by column. Kudu knows no padding here.

    Args:
        scan: gives the blocks.
        places: which columns of the scan go out, in this order; default: all.
    """

    def __init__(self, scan: Blocks, *, places: Sequence[int] | None = None) -> None:
        self._columns = ColumnarEncoder(scan.schema, places=places)
        super().__init__(scan, self._columns)

    def _taken(self) -> ColumnarAnswer:
        return ColumnarAnswer(*self._columns.take())
