"""Rows to files and pipes in each format, read back."""
from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, one_column

from kudu_storage._native.column_block import ColumnBlock
from kudu_storage._native.row_text import csv, csv_header, jsonl
from kudu_storage.errors import BadFormat, InvalidArgument, Truncated
from kudu_storage.tablet.output import FORMATS, Format, write_rows

pa = pytest.importorskip("pyarrow")


def blocks(count: int = 3) -> list[ColumnBlock]:
    return [ColumnBlock.from_tuples(ALL_TYPES, [(10 * n + i, *SAMPLE_ROW[1:]) for i in range(4)]) for n in range(count)]


def written(format: Format, some: Any) -> bytes:
    out = io.BytesIO()
    write_rows(some, ALL_TYPES, format, out)
    return out.getvalue()


def table_from(format: str, data: bytes) -> Any:
    import pyarrow.parquet
    return pa.ipc.open_file(data).read_all() if format == "arrow" else pyarrow.parquet.read_table(io.BytesIO(data))


def test_jsonl_is_the_text_of_all_blocks() -> None:
    assert written("jsonl", iter(blocks())) == b"".join(map(jsonl, blocks()))


def test_csv_has_one_header_even_without_blocks() -> None:
    assert written("csv", iter(blocks())) == csv_header(ALL_TYPES) + b"".join(map(csv, blocks()))
    assert written("csv", []) == csv_header(ALL_TYPES)


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_arrow_and_parquet_files_read_back(format: Format) -> None:
    table = table_from(format, written(format, iter(blocks())))
    assert [tuple(row.values()) for row in table.to_pylist()] == [row for b in blocks() for row in b.to_tuples()]


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_files_without_rows_have_the_schema(format: Format) -> None:
    table = table_from(format, written(format, []))
    assert (table.num_rows, table.column_names) == (0, ALL_TYPES.names)


def test_small_blocks_share_a_parquet_row_group() -> None:
    import pyarrow.parquet
    assert pyarrow.parquet.ParquetFile(io.BytesIO(written("parquet", blocks(40)))).num_row_groups == 1


@pytest.mark.parametrize("format", FORMATS)
def test_the_number_of_rows_is_returned_and_the_file_stays_open(format: Format) -> None:
    out = io.BytesIO()
    assert write_rows(iter(blocks()), ALL_TYPES, format, out) == 12
    assert not out.closed


@pytest.mark.parametrize("format", FORMATS)
def test_a_pipe_will_do(format: Format) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        with os.fdopen(write, "wb") as out:
            write_rows(blocks(1), ALL_TYPES, format, out)
        assert source.read() == written(format, blocks(1))


class Dribble(io.RawIOBase):
    """An unbuffered file that takes seven bytes at a time."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data[:7])
        return min(len(data), 7)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_takes_a_part_at_a_time_gets_everything(format: Format) -> None:
    out = Dribble()
    write_rows(blocks(), ALL_TYPES, format, out)    # type: ignore[arg-type]
    assert out.data == written(format, blocks())


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_of_the_rows_comes_out_as_itself(format: Format) -> None:
    def failing() -> Iterator[ColumnBlock]:
        yield from blocks(1)
        raise Truncated("the file ends here")

    with pytest.raises(Truncated, match="the file ends here"):
        write_rows(failing(), ALL_TYPES, format, io.BytesIO())


def test_strings_that_are_not_utf8_need_the_option_for_parquet() -> None:
    block = one_column("STRING", b"\xff".decode("utf-8", "surrogateescape"))
    with pytest.raises(BadFormat, match="strings_as_binary"):
        write_rows([block], block.schema, "parquet", io.BytesIO())
    out = io.BytesIO()
    write_rows([block], block.schema, "parquet", out, strings_as_binary=True)
    assert table_from("parquet", out.getvalue()).column("c").to_pylist() == [b"\xff"]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no output format 'xml'"):
        write_rows([], ALL_TYPES, "xml", io.BytesIO())  # type: ignore[arg-type]


WITHOUT_PYARROW = """
import io, sys
sys.modules["pyarrow"] = None
from kudu_storage.common.schema import Schema
from kudu_storage.errors import MissingExtra
from kudu_storage.tablet.output import write_rows
assert write_rows([], Schema(()), "jsonl", io.BytesIO()) == 0
for format in ("arrow", "parquet"):
    try:
        write_rows([], Schema(()), format, io.BytesIO())
    except MissingExtra as error:
        assert "pip install 'kudu-storage[arrow]'" in str(error)
    else:
        raise SystemExit(1)
print("told")
"""


def test_without_pyarrow_text_works_and_the_rest_names_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert (done.stdout, done.stderr) == ("told\n", "")
