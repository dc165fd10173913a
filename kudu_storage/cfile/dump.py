"""A column file's values as Kudu's own tool prints them (`kudu fs dump cfile`). For people; reads batch by batch."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage.common.cell_text import debug_text
from kudu_storage.common.schema import ColumnSchema
from kudu_storage.errors import BadFormat
from kudu_storage.protos import message_class

_BATCH_ROWS = 4096
_MAGIC_BYTES: Final = 8


def value_texts(reader: CFileReader) -> Iterator[str]:
    """One text for each row, "NULL" for nulls; bytes that are not UTF-8 are surrogate escapes. Decimals have no scale
    here."""
    column = ColumnSchema("value", reader.type, nullable=True)
    cursor = reader.cursor()
    for first in range(0, reader.num_values, _BATCH_ROWS):
        block = cursor.read_block(first, min(_BATCH_ROWS, reader.num_values - first))
        for row in range(len(block)):
            yield debug_text(column, block.cells(row)[0])


def header_and_footer(read: Callable[[int, int], bytes], length: int) -> tuple[Any, Any]:
    """A column file's messages: kudu.cfile.CFileHeaderPB and CFileFooterPB.

    `read(offset, size)` gives bytes of the file, which a CFileReader has opened: sizes are checked. Raises BadFormat.
    """
    from google.protobuf.message import DecodeError

    header_bytes = int.from_bytes(read(_MAGIC_BYTES, 4), "little")
    footer_bytes = int.from_bytes(read(length - 4, 4), "little")
    parts = (("kudu.cfile.CFileHeaderPB", _MAGIC_BYTES + 4, header_bytes),
             ("kudu.cfile.CFileFooterPB", length - _MAGIC_BYTES - 4 - footer_bytes, footer_bytes))
    messages = []
    for name, offset, size in parts:
        message: Any = message_class(name)()
        try:
            message.ParseFromString(read(offset, size))
        except DecodeError as error:
            raise BadFormat(f"{name} cannot be parsed: {error}", offset=offset) from None
        messages.append(message)
    return messages[0], messages[1]
