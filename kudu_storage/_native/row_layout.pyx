"""See row_layout.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free

import dataclasses

from kudu_storage.common import types
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat, InvalidArgument


cdef Slice _slice_of(bytes value):
    cdef Slice slice
    slice.data = <const uint8_t*> PyBytes_AS_STRING(value)
    slice.size = PyBytes_GET_SIZE(value)
    return slice


cdef class RowLayout:
    """Layout of the rows of `schema`, whose columns must have ids.

    Args:
        schema: kudu_storage.common.schema.Schema.
    Raises:
        InvalidArgument: a column without id.
    """

    def __cinit__(self, schema):
        cdef int32_t i
        cdef uint32_t offset
        cdef ColumnLayout* column
        self.schema = schema
        self.info.column_count = len(schema)
        self.info.key_count = schema.key_column_count
        self.info.auto_increment = -1
        self.info.columns = <ColumnLayout*> calloc(max(self.info.column_count, 1), sizeof(ColumnLayout))
        self.info.defaults_used = <uint8_t*> calloc(max(self.info.column_count, 1), 1)
        self.info.by_id = <int32_t*> calloc(max(self.info.column_count, 1), 2 * sizeof(int32_t))
        if self.info.columns == NULL or self.info.defaults_used == NULL or self.info.by_id == NULL:
            raise MemoryError()
        any_nullable = any(c.nullable for c in schema)
        self.info.bitmap_bytes = (self.info.column_count + 7) // 8 if any_nullable else 0
        offset = self.info.bitmap_bytes
        self.info.key_fixed_bytes = 0
        for i in range(self.info.column_count):
            value = schema.columns[i]
            if value.id is None:
                raise InvalidArgument(f"column {value.name!r} has no id; a stored row needs one")
            column = &self.info.columns[i]
            column.id = value.id
            column.width = value.type.width_bytes
            column.row_offset = offset
            column.nullable = value.nullable
            column.immutable = value.immutable
            if value.write_default is not None:
                column.has_write_default = 1
                column.write_default = _slice_of(value.write_default)
            if value.read_default is not None:
                column.has_read_default = 1
                column.read_default = _slice_of(value.read_default)
            if value.auto_incrementing:
                if value.type.name != "INT64":
                    raise BadFormat(f"auto-incrementing column {value.name!r} is {value.type.name}, not INT64")
                self.info.auto_increment = i
            offset += column.width if column.width else 8
        self.info.fixed_bytes = offset
        for i, (column_id, position) in enumerate(sorted((c.id, n) for n, c in enumerate(schema))):
            self.info.by_id[2 * i] = column_id
            self.info.by_id[2 * i + 1] = position
        if all(c.type.width_bytes for c in schema.key_columns):
            self.info.key_fixed_bytes = sum(c.type.width_bytes for c in schema.key_columns)

    @property
    def defaults_used(self):
        """Names of the columns that some stored row took its write default for, or NULL for want of one."""
        return [c.name for i, c in enumerate(self.schema) if self.info.defaults_used[i]]

    def __dealloc__(self):
        free(self.info.columns)
        free(self.info.defaults_used)
        free(self.info.by_id)


cdef class Projection:
    """Maps the columns of a client's schema (no ids) to those of a tablet's, by name, as a write does.

    Raises:
        BadFormat: a column that the tablet lacks, has with another type, or key columns that differ: the log's writes
            and the tablet's schema do not belong together (common/row_operations.cc, ClientServerMapping).
    """

    def __cinit__(self, client_schema, RowLayout layout):
        cdef int32_t i
        self.layout = layout
        self.info.client_count = len(client_schema)
        self.info.bitmap_bytes = (self.info.client_count + 7) // 8
        self.info.has_nullable = any(c.nullable for c in client_schema)
        self.info.tablet_column = <int32_t*> calloc(max(self.info.client_count, 1), sizeof(int32_t))
        if self.info.tablet_column == NULL:
            raise MemoryError()
        if client_schema.key_column_count != layout.info.key_count:
            raise BadFormat(f"a write has {client_schema.key_column_count} key columns, the tablet has "
                            f"{layout.info.key_count}")
        for i in range(self.info.client_count):
            column = client_schema.columns[i]
            position = layout.schema.find(column.name)
            if position is None:
                raise BadFormat(f"a write has a column {column.name!r} which the tablet's schema lacks")
            target = layout.schema.columns[position]
            if target.type is not column.type:
                raise BadFormat(f"a write has column {column.name!r} as {column.type.name}, the tablet's schema as "
                                f"{target.type.name}")
            if i < layout.info.key_count and position != i:
                raise BadFormat(f"a write has key column {column.name!r} at position {i}, the tablet at {position}")
            self.info.tablet_column[i] = position

    def __dealloc__(self):
        free(self.info.tablet_column)


def with_deleted_column(schema, str name):
    """The schema of a diff scan's rows: those of `schema`, without ids since the new column has none, and a BOOL."""
    columns = tuple(dataclasses.replace(c, id=None) for c in schema)
    return Schema((*columns, ColumnSchema(name, types.BY_NAME["BOOL"])))
