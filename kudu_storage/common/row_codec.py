"""Row operations of a write request (RowOperationsPB), decoded and encoded the slow, obvious way. Pure functions.

The specification that the native decoder is held against, and what inspection tools use.
Source: common/row_operations.cc, the text in common/row_operations.proto.

    rows            one after the other:
                        u8 operation
                        bitmap, one bit a client column: the client set it
                        bitmap, one bit a client column: it is NULL     only if a client column is nullable
                        cells of the columns that are set and not NULL (a NULL for a column that the tablet holds as not
                        nullable still has a cell)
    cell            fixed types: little-endian; byte strings: u64 offset in indirect_data, u64 length
    indirect_data   the bytes of all byte strings

A refused row is a value, not an error: `RowOperation.failure` says why, as Kudu's COMMIT entries do. What makes the
request as a whole unreadable raises: BadFormat for bytes, Contradiction for schemas that do not fit each other.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from kudu_storage.common.cell_text import column_text, debug_text, row_text
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, Contradiction

# Kudu's --max_cell_size_bytes: a longer cell makes its row fail, and only its row.
CELL_BYTES_DEFAULT_MAX: Final = 64 * 1024
_INT64_MAX: Final = 2**63 - 1
_INDIRECT: Final = struct.Struct("<QQ")


class RowOp(IntEnum):
    """kudu.RowOperationsPB.Type, those that a write may hold."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3
    UPSERT = 5
    INSERT_IGNORE = 10
    UPDATE_IGNORE = 11
    DELETE_IGNORE = 12
    UPSERT_IGNORE = 13

    @property
    def is_insert(self) -> bool:
        """Carries a whole row (inserts and upserts)."""
        return self in _INSERTS

    @property
    def is_update(self) -> bool:
        return self in (RowOp.UPDATE, RowOp.UPDATE_IGNORE)

    @property
    def is_delete(self) -> bool:
        return self in (RowOp.DELETE, RowOp.DELETE_IGNORE)

    @property
    def is_upsert(self) -> bool:
        return self in (RowOp.UPSERT, RowOp.UPSERT_IGNORE)


_INSERTS: Final = frozenset({RowOp.INSERT, RowOp.INSERT_IGNORE, RowOp.UPSERT, RowOp.UPSERT_IGNORE})
_RANGE_OPS: Final = {0: "UNKNOWN", 4: "SPLIT_ROW", 6: "RANGE_LOWER_BOUND", 7: "RANGE_UPPER_BOUND",
                     8: "EXCLUSIVE_RANGE_LOWER_BOUND", 9: "INCLUSIVE_RANGE_UPPER_BOUND"}


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a row is refused: the name of Kudu's status code, and the message."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(slots=True)
class RowOperation:
    """One decoded operation on one row, by the tablet's column positions.

    `cells` of an insert or upsert is the whole row, defaults filled in; of an update, the key and the columns to
    change; of a delete, the key. None is NULL. `isset` names what the client gave a value: for inserts and upserts any
    column, for updates the columns that are changed. When `failure` is set the cells are what was read and may be
    incomplete.
    """

    op: RowOp
    cells: dict[int, bytes | None] = field(default_factory=dict)
    isset: set[int] = field(default_factory=set)
    failure: RowFailure | None = None
    error_ignored: bool = False     # UPDATE_IGNORE that named an immutable column

    def fail_once(self, code: str, message: str) -> None:
        """Keep the first failure, as Kudu does."""
        if self.failure is None:
            self.failure = RowFailure(code, message)

    def key_cells(self, tablet_schema: Schema) -> list[bytes]:
        """The key's cells. Raises BadFormat when the operation has no whole key."""
        cells = [self.cells.get(i) for i in range(tablet_schema.key_column_count)]
        if any(cell is None for cell in cells):
            raise BadFormat(f"{self.op.name} without a value for every key column")
        return [cell for cell in cells if cell is not None]

    def text(self, tablet_schema: Schema) -> str:
        """What Kudu's tools print for it (DecodedRowOperation::ToString)."""
        if self.failure is not None:
            return f"row error: {self.failure}"
        if self.op.is_insert:
            return f"{self.op.name.replace('_', ' ')} {row_text(tablet_schema, self.cells)}"
        key = row_text(tablet_schema, self.cells, tablet_schema.key_column_count)
        if self.op.is_delete:
            return f"MUTATE {key} DELETE"
        changes = ", ".join(f"{tablet_schema.columns[i].name}={debug_text(tablet_schema.columns[i], self.cells[i])}"
                            for i in self.cells if i >= tablet_schema.key_column_count)
        return f"MUTATE {key} SET {changes}"


# -- schemas -----------------------------------------------------------------------------------------------------------
def map_columns(client_schema: Schema, tablet_schema: Schema) -> list[int]:
    """The tablet's position of each client column, found by name.

    Raises Contradiction for an unknown column, one of another type, and a required column that the client lacks.
    """
    mapping = []
    for column in client_schema:
        position = tablet_schema.find(column.name)
        if position is None:
            raise Contradiction(f"Client provided column {column_text(column)} not present in tablet")
        if not _same_type(column, tablet_schema.columns[position]):
            _, _, wanted = column_text(tablet_schema.columns[position]).partition(" ")
            _, _, found = column_text(column).partition(" ")
            raise Contradiction(f"The column '{column.name}' must have type {wanted} found {found}")
        mapping.append(position)
    seen = set(mapping)
    for i, column in enumerate(tablet_schema):
        if i not in seen and column.write_default is None and not column.nullable:
            raise Contradiction(f"Client missing required column: {column_text(column)}")
    return mapping


def _same_type(a: ColumnSchema, b: ColumnSchema) -> bool:
    if a.type is not b.type or a.nullable != b.nullable:
        return False
    if a.type.is_decimal:
        return (a.precision, a.scale) == (b.precision, b.scale)
    return a.type.name != "VARCHAR" or a.length == b.length


# -- decoding ----------------------------------------------------------------------------------------------------------
def decode_row_operations(rows: bytes, indirect_data: bytes, client_schema: Schema, tablet_schema: Schema, *,
                          auto_incrementing_counter: int | None = None,
                          cell_bytes_max: int = CELL_BYTES_DEFAULT_MAX) -> list[RowOperation]:
    """All operations of one write request.

    `auto_incrementing_counter` is the request's (WriteRequestPB.auto_incrementing_column): the last value given out
    before this request; None means that the request has none.
    """
    return _Decoder(rows, indirect_data, client_schema, tablet_schema, auto_incrementing_counter, cell_bytes_max).all()


class _Decoder:
    """The position in one request's bytes, and what every row of it shares."""

    def __init__(self, rows: bytes, indirect_data: bytes, client_schema: Schema, tablet_schema: Schema,
                 counter: int | None, cell_bytes_max: int) -> None:
        self.rows = rows
        self.at = 0
        self.indirect_data = indirect_data
        self.client = client_schema
        self.tablet = tablet_schema
        self.mapping = map_columns(client_schema, tablet_schema)
        self.has_nullables = any(c.nullable for c in client_schema)
        self.bitmap_bytes = (len(client_schema) + 7) // 8
        self.cell_bytes_max = cell_bytes_max
        # -1 is below every valid counter: a row that needs a value then fails.
        self.counter = -1 if counter is None else counter
        self.defaults: dict[int, bytes | None] = {
            i: c.write_default for i, c in enumerate(tablet_schema) if c.write_default is not None or c.nullable}

    def all(self) -> list[RowOperation]:
        operations = []
        while self.at < len(self.rows):
            operation = RowOperation(self._op())
            if operation.op.is_insert:
                self._insert(operation)
            else:
                self._mutation(operation)
            operations.append(operation)
        return operations

    def _op(self) -> RowOp:
        number = self._take(1, "operation type")[0]
        try:
            return RowOp(number)
        except ValueError:
            if number in _RANGE_OPS:
                raise BadFormat(f"Invalid write operation type {_RANGE_OPS[number]}") from None
            raise BadFormat(f"Unknown operation type: {number}") from None

    def _take(self, count: int, what: str) -> bytes:
        taken = self.rows[self.at:self.at + count]
        if len(taken) < count:
            raise BadFormat(f"row operations end inside {what} at offset {self.at}", offset=self.at)
        self.at += count
        return taken

    def _bitmaps(self) -> tuple[bytes, bytes]:
        isset = self._take(self.bitmap_bytes, "the isset bitmap")
        null = self._take(self.bitmap_bytes, "the null bitmap") if self.has_nullables else bytes(self.bitmap_bytes)
        return isset, null

    def _cell(self, column: ColumnSchema) -> bytes:
        """The next cell, as the tablet's column has it."""
        if not column.type.is_binary:
            return self._take(column.type.width_bytes, f"column {column.name!r}")
        offset, length = _INDIRECT.unpack(self._take(_INDIRECT.size, f"column {column.name!r}"))
        if offset + length > len(self.indirect_data):
            raise BadFormat(f"column {column.name!r}: bytes {offset} to {offset + length} of {len(self.indirect_data)} "
                            "bytes of indirect data")
        return self.indirect_data[offset:offset + length]

    def _checked_cell(self, operation: RowOperation, column: ColumnSchema) -> bytes:
        """The next cell; one that is too long fails the row, and reading goes on."""
        cell = self._cell(column)
        if column.type.is_binary and len(cell) > self.cell_bytes_max:
            operation.fail_once("Invalid argument", f"value too large for column '{column.name}' ({len(cell)} bytes, "
                                                    f"maximum is {self.cell_bytes_max} bytes)")
        return cell

    # -- inserts and upserts
    def _insert(self, operation: RowOperation) -> None:
        isset, null = self._bitmaps()
        operation.cells.update(self.defaults)
        for client_position, position in enumerate(self.mapping):
            column = self.tablet.columns[position]
            if not _bit(isset, client_position):
                self._unset_column(operation, position, column)
                continue
            operation.isset.add(position)
            if not _bit(null, client_position):
                operation.cells[position] = (self._given_auto_increment(operation, column) if column.auto_incrementing
                                             else self._checked_cell(operation, column))
            elif column.nullable:
                operation.cells[position] = None
            else:
                operation.fail_once("Invalid argument",
                                    f"NULL values not allowed for non-nullable column: {column_text(column)}")
                self._cell(column)
        operation.cells = dict(sorted(operation.cells.items()))

    def _unset_column(self, operation: RowOperation, position: int, column: ColumnSchema) -> None:
        if column.auto_incrementing:
            operation.cells[position] = self._next_auto_increment(operation)
            operation.isset.add(position)
        elif not column.nullable and column.write_default is None:
            operation.fail_once("Invalid argument", f"No value provided for required column: {column_text(column)}")

    def _next_auto_increment(self, operation: RowOperation) -> bytes:
        # These end the whole request in Kudu too: no row after it is read.
        if operation.op.is_upsert:
            raise BadFormat("auto-incrementing column should be set for UPSERT/UPSERT_IGNORE operations")
        if self.counter == _INT64_MAX:
            raise BadFormat("max auto-incrementing column value reached")
        if self.counter < 0:
            raise BadFormat("invalid auto-incrementing column value")
        self.counter += 1
        return self.counter.to_bytes(8, "little", signed=True)

    def _given_auto_increment(self, operation: RowOperation, column: ColumnSchema) -> bytes:
        if not operation.op.is_upsert:
            raise BadFormat("auto-incrementing column should not be set for INSERT/INSERT_IGNORE operations")
        cell = self._cell(column)
        value = int.from_bytes(cell, "little", signed=True)
        if value < 0:
            raise BadFormat("auto-incrementing column value must be greater than zero")
        self.counter = max(self.counter, value)
        return cell

    # -- updates and deletes
    def _mutation(self, operation: RowOperation) -> None:
        isset, null = self._bitmaps()
        key_count = self.client.key_column_count
        if self.mapping[:key_count] != list(range(self.tablet.key_column_count)):
            raise Contradiction("the key columns of the request are not the tablet's")
        for position in range(key_count):
            self._key_cell(operation, position, _bit(isset, position), _bit(null, position))
        for client_position in range(key_count, len(self.mapping)):
            if _bit(isset, client_position):
                position = self.mapping[client_position]
                is_null = _bit(null, client_position)
                if operation.op.is_update:
                    self._changed_cell(operation, position, is_null)
                else:
                    self._stray_cell(operation, self.tablet.columns[position], is_null)
        if operation.op.is_update and not operation.isset:
            self._fail_empty_update(operation)

    def _key_cell(self, operation: RowOperation, position: int, is_set: bool, is_null: bool) -> None:
        column = self.tablet.columns[position]
        if not is_set:
            operation.fail_once("Invalid argument", f"No value provided for key column: {column_text(column)}")
        elif is_null:
            operation.fail_once("Invalid argument", f"NULL values not allowed for key column: {column_text(column)}")
            self._cell(column)
        else:
            operation.cells[position] = self._cell(column)

    def _changed_cell(self, operation: RowOperation, position: int, is_null: bool) -> None:
        column = self.tablet.columns[position]
        if column.immutable:
            if operation.op is RowOp.UPDATE:
                operation.fail_once("Immutable", f"UPDATE not allowed for immutable column: {column_text(column)}")
            else:
                operation.error_ignored = True
            if not is_null:
                self._cell(column)
        elif not is_null:
            operation.cells[position] = self._checked_cell(operation, column)
            operation.isset.add(position)
        elif column.nullable:
            operation.cells[position] = None
            operation.isset.add(position)
        else:
            operation.fail_once("Invalid argument",
                                f"NULL value not allowed for non-nullable column: {column_text(column)}")
            self._cell(column)

    def _stray_cell(self, operation: RowOperation, column: ColumnSchema, is_null: bool) -> None:
        operation.fail_once("Invalid argument", f"DELETE should not have a value for column: {column_text(column)}")
        if not is_null or not column.nullable:
            self._cell(column)

    def _fail_empty_update(self, operation: RowOperation) -> None:
        key = row_text(self.tablet, operation.cells, self.tablet.key_column_count)
        operation.fail_once("Invalid argument", f"No fields updated, key is: {key}")


def _bit(bitmap: bytes, index: int) -> bool:
    return bitmap[index >> 3] >> (index & 7) & 1 == 1


# -- encoding ----------------------------------------------------------------------------------------------------------
def encode_row_operations(operations: Iterable[tuple[int, Mapping[int, bytes | None]]],
                          client_schema: Schema) -> tuple[bytes, bytes]:
    """`rows` and `indirect_data` as a client writes them.

    Each operation is its number and the cells that the client sets, by the client's column positions; None is NULL.
    A NULL for a column that is not nullable is written as clients do, with a cell of zeros; decoding refuses the row.
    """
    rows = bytearray()
    indirect = bytearray()
    has_nullables = any(c.nullable for c in client_schema)
    for op, cells in operations:
        rows.append(op)
        rows += _bitmap(cells, len(client_schema))
        if has_nullables:
            rows += _bitmap([i for i, cell in cells.items() if cell is None], len(client_schema))
        for i, column in enumerate(client_schema):
            if i in cells and (cells[i] is not None or not column.nullable):
                rows += _encode_cell(column, cells[i], indirect)
    return bytes(rows), bytes(indirect)


def _bitmap(positions: Iterable[int], column_count: int) -> bytes:
    bits = sum(1 << i for i in positions)
    return bits.to_bytes((column_count + 7) // 8, "little")


def _encode_cell(column: ColumnSchema, cell: bytes | None, indirect: bytearray) -> bytes:
    if not column.type.is_binary:
        return bytes(column.type.width_bytes) if cell is None else cell
    offset = len(indirect)
    indirect += cell or b""
    return _INDIRECT.pack(offset, len(cell or b""))
