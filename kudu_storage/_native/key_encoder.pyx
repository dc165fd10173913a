"""Primary keys from Python values, for lookups: what common/keys.py does slowly. The GIL serialises its callers."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int32_t, uint8_t, uint32_t

from kudu_storage._native.column_block cimport stored_bytes, stored_integer
from kudu_storage._native.row_layout cimport RowLayout
from kudu_storage._native.row_ops cimport RowScratch, encode_key

from kudu_storage.errors import InvalidArgument, LimitExceeded

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow) except? -1


cdef class KeyEncoder:
    cdef RowLayout layout
    cdef RowScratch scratch
    cdef list described
    cdef list plain             # by key column: it is an INT8 to INT64

    def __cinit__(self, RowLayout layout not None):
        self.layout = layout
        self.scratch = RowScratch()
        self.scratch.reserve(max(layout.info.column_count, 1))
        self.described = list(layout.schema.key_columns)
        self.plain = [c.type.name in ("INT8", "INT16", "INT32", "INT64") for c in self.described]

    def encode(self, values not None):
        cdef int32_t i
        cdef list cells = []
        cdef bytes cell
        if len(values) != len(self.described):
            raise InvalidArgument(f"a key of {len(self.described)} columns, got {len(values)} values")
        for i in range(<int32_t> len(self.described)):
            cells.append(self._cell(i, values[i]))
        # No Python code runs from here on until the key is copied: the scratch is this call's.
        for i in range(<int32_t> len(cells)):
            cell = <bytes> PyList_GET_ITEM(cells, i)
            self.scratch.row.cells[i] = <const uint8_t*> PyBytes_AS_STRING(cell)
            self.scratch.row.sizes[i] = <uint32_t> PyBytes_GET_SIZE(cell)
        if not encode_key(&self.layout.info, &self.scratch.row):
            raise LimitExceeded("the encoded key is longer than 16384 bytes")
        return PyBytes_FromStringAndSize(<const char*> self.scratch.row.key, <Py_ssize_t> self.scratch.row.key_size)

    cdef bytes _cell(self, int32_t i, object value):
        cdef long long number
        cdef int overflow = 0
        cdef uint32_t width = self.layout.info.columns[i].width
        if self.plain[i] and PyLong_CheckExact(value):
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow and (width == 8 or -(1LL << (8 * width - 1)) <= number < 1LL << (8 * width - 1)):
                return PyBytes_FromStringAndSize(<const char*> &number, width)
        if value is None:
            raise InvalidArgument(f"key column {self.described[i].name!r} cannot be NULL")
        if width == 0:
            return stored_bytes(self.described[i], 0, value)
        try:
            return stored_integer(self.described[i], 0, value).to_bytes(width, "little", signed=True)
        except OverflowError:
            raise InvalidArgument(f"column {self.described[i].name!r} ({self.described[i].type.name}): {value!r} is out "
                                  "of range") from None
