from collections.abc import Iterator

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema

def jsonl(block: ColumnBlock) -> bytes:
    """All rows, one JSON object a line. Raises BadFormat for a schema whose decimals have an impossible scale."""

def jsonl_pieces(block: ColumnBlock, piece_bytes: int) -> Iterator[bytes]:
    """The same in pieces that end with the first row to reach piece_bytes."""

def csv(block: ColumnBlock, header: bool = False) -> bytes:
    """All rows as CSV, after the line of column names if `header`."""

def csv_pieces(block: ColumnBlock, piece_bytes: int) -> Iterator[bytes]:
    """The rows in pieces that end with the first row to reach piece_bytes; no header."""

def csv_header(schema: Schema) -> bytes:
    """The line of column names."""
