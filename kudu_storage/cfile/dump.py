"""A column file's values as Kudu's own tool prints them (`kudu fs dump cfile`). For people; reads batch by batch."""
from __future__ import annotations

from collections.abc import Iterator

from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage.common.cell_text import debug_text
from kudu_storage.common.schema import ColumnSchema

_BATCH_ROWS = 4096


def value_texts(reader: CFileReader) -> Iterator[str]:
    """One text for each row, "NULL" for nulls; bytes that are not UTF-8 are surrogate escapes. Decimals have no scale
    here."""
    column = ColumnSchema("value", reader.type, nullable=True)
    cursor = reader.cursor()
    for first in range(0, reader.num_values, _BATCH_ROWS):
        block = cursor.read_block(first, min(_BATCH_ROWS, reader.num_values - first))
        for row in range(len(block)):
            yield debug_text(column, block.cells(row)[0])
