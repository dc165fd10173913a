"""Blocks as an Arrow C stream, held against pyarrow; and the buffers' lives: who holds them, who lets go, when."""
from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from blocks import ALL_TYPES, SAMPLE_ROW, column, one_column, rows_of
from hypothesis import given
from hypothesis import strategies as st

from kudu_storage._native.arrow import ArrowStream
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, InvalidArgument, Truncated

pa = pytest.importorskip("pyarrow")


def table_of(stream: ArrowStream) -> Any:
    table = pa.table(stream)
    table.validate(full=True)
    return table


def tuples(table: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(chunked.to_pylist() for chunked in table.columns), strict=True))


def sample_block(row_count: int = 5) -> ColumnBlock:
    return ColumnBlock.from_tuples(ALL_TYPES, [(n, *SAMPLE_ROW[1:]) for n in range(row_count)])


# -- values and types --------------------------------------------------------------------------------------------------
@given(st.lists(rows_of(ALL_TYPES, max_size=10), max_size=3))
def test_arrow_has_the_values_of_the_tuples(batches: list[list[tuple[Any, ...]]]) -> None:
    blocks = [ColumnBlock.from_tuples(ALL_TYPES, rows) for rows in batches]
    table = table_of(ArrowStream(ALL_TYPES, iter(blocks)))
    assert tuples(table) == [row for rows in batches for row in rows]
    assert [column.num_chunks for column in table.columns] == [len(batches)] * len(ALL_TYPES)


def test_types_are_those_documented() -> None:
    expected = {
        "INT8": pa.int8(), "INT16": pa.int16(), "INT32": pa.int32(), "INT64": pa.int64(), "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(), "BOOL": pa.bool_(), "STRING": pa.utf8(), "VARCHAR": pa.utf8(), "BINARY": pa.binary(),
        "UNIXTIME_MICROS": pa.timestamp("us", "UTC"), "DATE": pa.date32(), "DECIMAL32": pa.decimal128(9, 2),
        "DECIMAL64": pa.decimal128(18, 4), "DECIMAL128": pa.decimal128(38, 10),
    }
    for kind, arrow_type in expected.items():
        assert pa.schema(ArrowStream(Schema((column("c", kind),)), [])).field("c").type == arrow_type


def test_fields_say_nullability_key_and_kudu_type() -> None:
    schema = Schema((column("k", "DATE", is_key=True, nullable=False), column("v", "VARCHAR", length=9, comment="é")))
    key, value = pa.schema(ArrowStream(schema, []))
    assert not key.nullable and value.nullable
    assert key.metadata == {b"kudu.type": b"DATE", b"kudu.key": b"true"}
    assert value.metadata == {b"kudu.type": b"VARCHAR", b"kudu.key": b"false", b"kudu.length": b"9",
                              b"kudu.comment": "é".encode()}


def test_a_stream_without_blocks_is_an_empty_table() -> None:
    table = table_of(ArrowStream(ALL_TYPES, []))
    assert table.num_rows == 0 and table.column_names == ALL_TYPES.names


def test_blocks_without_rows_are_batches_without_rows() -> None:
    table = table_of(ArrowStream(ALL_TYPES, [sample_block(0), sample_block(2), sample_block(0)]))
    assert table.num_rows == 2


def test_blocks_without_columns_keep_their_number_of_rows() -> None:
    empty = Schema(())
    reader = pa.RecordBatchReader.from_stream(ArrowStream(empty, [ColumnBlock.from_tuples(empty, [()] * 3)]))
    batch = reader.read_next_batch()
    assert (batch.num_columns, batch.num_rows) == (0, 3)


@pytest.mark.parametrize("kind", sorted(c.type.name for c in ALL_TYPES.columns[1:16]))
@pytest.mark.parametrize("row_count", [1, 7, 8, 9, 64, 65])
def test_columns_of_nothing_but_nulls(kind: str, row_count: int) -> None:
    block = one_column(kind, *[None] * row_count)
    chunk = table_of(ArrowStream(block.schema, [block])).column("c")
    assert chunk.null_count == row_count and chunk.to_pylist() == [None] * row_count


def test_bools_at_every_bit_position() -> None:
    values = [n % 3 == 0 if n % 5 else None for n in range(67)]
    block = one_column("BOOL", *values)
    assert table_of(ArrowStream(block.schema, [block])).column("c").to_pylist() == values


def test_slices_read_the_right_rows() -> None:
    table = table_of(ArrowStream(ALL_TYPES, [sample_block(20), sample_block(20)]))
    part = table.slice(13, 10)
    part.validate(full=True)
    assert part.column("id").to_pylist() == [*range(13, 20), *range(3)]
    assert tuples(part)[0] == (13, *SAMPLE_ROW[1:])


def test_times_and_days_outside_python_keep_their_numbers() -> None:
    block = one_column("UNIXTIME_MICROS", 2**63 - 1, -2**63)
    assert table_of(ArrowStream(block.schema, [block])).column("c").cast(pa.int64()).to_pylist() == [2**63 - 1, -2**63]


@pytest.mark.parametrize(("precision", "scale"), [(10, 2), (4, 5), (9, -1)])
def test_a_decimal_that_arrow_cannot_express_is_refused_at_once(precision: int, scale: int) -> None:
    schema = Schema((column("c", "DECIMAL32", precision=precision, scale=scale),))
    with pytest.raises(BadFormat, match=f"column 'c': DECIMAL32 cannot have precision {precision} and scale {scale}"):
        ArrowStream(schema, [])


# -- UTF-8 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"long ascii \xe2\x82"])
@pytest.mark.parametrize("kind", ["STRING", "VARCHAR"])
def test_a_string_that_is_not_utf8_is_an_error_naming_column_and_row(kind: str, data: bytes) -> None:
    good = one_column(kind, *["ok"] * 10)
    bad = one_column(kind, "fine", None, "é", data.decode("utf-8", "surrogateescape"))
    stream = ArrowStream(good.schema, [good, bad])
    with pytest.raises(pa.ArrowInvalid, match=r"BadFormat: column 'c' row 13: .*strings_as_binary=True"):
        pa.table(stream)
    assert isinstance(stream.error, BadFormat)


def test_a_character_split_over_two_cells_is_no_utf8() -> None:
    halves = [b"\xc3".decode("utf-8", "surrogateescape"), b"\xa9".decode("utf-8", "surrogateescape")]
    block = one_column("STRING", "a", *halves)
    stream = ArrowStream(block.schema, [block])
    with pytest.raises(pa.ArrowInvalid, match="row 1"):
        pa.table(stream)


def test_strings_as_binary_gives_the_bytes() -> None:
    block = one_column("STRING", b"\xff".decode("utf-8", "surrogateescape"), "é", None)
    table = table_of(ArrowStream(block.schema, [block], strings_as_binary=True))
    assert table.schema.field("c").type == pa.binary()
    assert table.column("c").to_pylist() == [b"\xff", "é".encode(), None]


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_utf8_is_judged_as_python_judges_it(values: list[bytes]) -> None:
    block = one_column("STRING", *[value.decode("utf-8", "surrogateescape") for value in values])
    stream = ArrowStream(block.schema, [block])
    wrong = [row for row, value in enumerate(values) if not is_utf8(value)]
    if wrong:
        with pytest.raises(pa.ArrowInvalid, match=f"row {wrong[0]}:"):
            pa.table(stream)
    else:
        assert table_of(stream).column("c").to_pylist() == [value.decode() for value in values]


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# -- the stream --------------------------------------------------------------------------------------------------------
def test_a_stream_is_exported_once() -> None:
    stream = ArrowStream(ALL_TYPES, [sample_block()])
    assert pa.schema(stream).names == ALL_TYPES.names
    assert pa.table(stream).num_rows == 5
    with pytest.raises(InvalidArgument, match="already exported"):
        stream.__arrow_c_stream__()
    assert pa.schema(stream).names == ALL_TYPES.names


def test_an_error_of_the_blocks_reaches_the_consumer_and_is_kept() -> None:
    def blocks() -> Iterator[ColumnBlock]:
        yield sample_block()
        raise Truncated("the file ends here", path="wal-000000001", offset=77)

    stream = ArrowStream(ALL_TYPES, blocks())
    reader = pa.RecordBatchReader.from_stream(stream)
    assert reader.read_next_batch().num_rows == 5
    for _ in range(2):
        with pytest.raises(pa.ArrowInvalid, match="Truncated: wal-000000001 offset 77: the file ends here"):
            reader.read_next_batch()
    assert isinstance(stream.error, Truncated)


def test_an_ended_stream_stays_ended() -> None:
    reader = pa.RecordBatchReader.from_stream(ArrowStream(ALL_TYPES, [sample_block()]))
    reader.read_next_batch()
    for _ in range(2):
        with pytest.raises(StopIteration):
            reader.read_next_batch()


@pytest.mark.parametrize("found", [None, 5, one_column("INT8", 1)])
def test_what_is_no_block_of_the_schema_is_refused(found: Any) -> None:
    stream = ArrowStream(ALL_TYPES, [found])
    with pytest.raises(pa.ArrowInvalid, match="InvalidArgument"):
        pa.table(stream)


def test_blocks_are_taken_only_when_asked_for() -> None:
    taken: list[int] = []

    def blocks() -> Iterator[ColumnBlock]:
        for n in range(3):
            taken.append(n)
            yield sample_block(1)

    reader = pa.RecordBatchReader.from_stream(ArrowStream(ALL_TYPES, blocks()))
    assert taken == []
    reader.read_next_batch()
    assert taken == [0]


# -- lives -------------------------------------------------------------------------------------------------------------
def test_every_column_holds_the_block_and_lets_go_of_it() -> None:
    block = sample_block()
    table = pa.table(ArrowStream(ALL_TYPES, [block]))
    assert block.references == 1 + len(ALL_TYPES)
    kept = table.column("c_string").chunk(0)
    del table
    assert kept.to_pylist() == [SAMPLE_ROW[5]] * 5
    del kept
    assert block.references == 1


class CArray(ctypes.Structure):
    """struct ArrowArray, for a consumer that uses the interface by hand."""


ReleaseArray = ctypes.CFUNCTYPE(None, ctypes.POINTER(CArray))
CArray._fields_ = [
    ("length", ctypes.c_int64), ("null_count", ctypes.c_int64), ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64), ("n_children", ctypes.c_int64), ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(CArray))), ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p), ("private_data", ctypes.c_void_p),
]


class CStream(ctypes.Structure):
    """struct ArrowArrayStream."""

    _fields_: ClassVar = [(name, ctypes.c_void_p) for name in
                          ("get_schema", "get_next", "get_last_error", "release", "private_data")]


def next_array(capsule: object) -> CArray:
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi))
    stream = CStream.from_address(get_pointer(capsule, b"arrow_array_stream"))
    array = CArray()
    get_next = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(CArray))(stream.get_next)
    assert get_next(ctypes.addressof(stream), ctypes.byref(array)) == 0
    return array


def release(array: CArray) -> None:
    """CFUNCTYPE lets go of the GIL for the call, so this also shows that release does not need it."""
    ReleaseArray(array.release)(ctypes.byref(array))
    assert array.release is None


def test_a_child_moved_out_of_its_parent_lives_on() -> None:
    block = sample_block()
    parent = next_array(ArrowStream(ALL_TYPES, [block]).__arrow_c_stream__())
    assert block.references == 1 + len(ALL_TYPES) == 1 + parent.n_children
    child = CArray.from_buffer_copy(parent.children[3].contents)
    parent.children[3].contents.release = None
    release(parent)
    assert block.references == 2
    assert ctypes.string_at(child.buffers[1], 20) == b"\x90\xee\xfe\xff" * 5
    release(child)
    assert block.references == 1


def test_columns_are_given_by_address_except_bools_and_small_decimals() -> None:
    block = sample_block()
    first, second = (next_array(ArrowStream(ALL_TYPES, [block]).__arrow_c_stream__()) for _ in range(2))
    for position, told in enumerate(ALL_TYPES):
        same = first.children[position].contents.buffers[1] == second.children[position].contents.buffers[1]
        assert same == (told.type.name not in ("BOOL", "DECIMAL32", "DECIMAL64")), told.name
    release(second)
    release(first)
    assert block.references == 1


def test_arrays_outlive_the_block_object() -> None:
    table = pa.table(ArrowStream(ALL_TYPES, iter([sample_block()])))
    gc.collect()
    assert tuples(table)[4] == (4, *SAMPLE_ROW[1:])


def test_a_stream_let_go_in_the_middle_lets_go_of_everything() -> None:
    held = [sample_block() for _ in range(3)]
    source = iter(held)
    reader = pa.RecordBatchReader.from_stream(ArrowStream(ALL_TYPES, source))
    batch = reader.read_next_batch()
    del reader
    gc.collect()
    assert [block.references for block in held] == [1 + len(ALL_TYPES), 1, 1]
    del batch
    assert [block.references for block in held] == [1, 1, 1]


class Source:
    """An iterator whose end can be watched."""

    def __iter__(self) -> Iterator[ColumnBlock]:
        return self

    def __next__(self) -> ColumnBlock:
        return sample_block()


def test_a_capsule_that_nobody_consumes_frees_its_stream() -> None:
    source = Source()
    watched = weakref.ref(source)
    stream = ArrowStream(ALL_TYPES, source)
    capsules = [stream.__arrow_c_stream__(), stream.__arrow_c_schema__()]
    del source, stream, capsules
    gc.collect()
    assert watched() is None


def test_a_consumed_stream_frees_its_source() -> None:
    source = Source()
    watched = weakref.ref(source)
    reader = pa.RecordBatchReader.from_stream(ArrowStream(ALL_TYPES, source))
    reader.read_next_batch()
    del source, reader
    gc.collect()
    assert watched() is None


def test_arrays_may_be_released_on_another_thread() -> None:
    block = sample_block()
    held = [pa.table(ArrowStream(ALL_TYPES, [block])) for _ in range(20)]
    threads = [threading.Thread(target=lambda: [held.pop() for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [] and block.references == 1


def test_a_stream_may_be_consumed_on_another_thread() -> None:
    results: list[Any] = []
    stream = ArrowStream(ALL_TYPES, [sample_block()])
    thread = threading.Thread(target=lambda: results.append(pa.table(stream).num_rows))
    thread.start()
    thread.join()
    assert results == [5]


def test_a_refused_block_is_not_held() -> None:
    block = one_column("STRING", b"\xff".decode("utf-8", "surrogateescape"))
    stream = ArrowStream(block.schema, [block])
    with pytest.raises(pa.ArrowInvalid):
        pa.table(stream)
    assert block.references == 1


def test_a_name_with_a_nul_does_not_cut_the_field() -> None:
    schema = Schema((replace(column("c", "INT8"), name="a\0b"),))
    assert pa.schema(ArrowStream(schema, [])).names == ["a\ufffdb"]
