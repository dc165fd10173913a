"""See column_tests.pxd. Pure.

 T1  Cells of tests have the width of their column; checked when the tests are made.
 T2  A test of a whole column and one of a single cell agree. Whole columns go without branches where cells have a width.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int8_t, int16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from kudu_storage._native.column_block cimport KIND_FIXED

import functools

from kudu_storage.errors import InternalError, InvalidArgument

cdef enum Order:
    ORDER_LESS = -1
    ORDER_EQUAL = 0
    ORDER_GREATER = 1
    ORDER_NONE = 2          # a NaN

cdef extern from "<stdint.h>" nogil:
    const int64_t INT64_MIN
    const int64_t INT64_MAX

cdef enum:
    WIDE_INTEGER_BYTES = 16

_KINDS = {"eq": TEST_EQ, "lt": TEST_LT, "le": TEST_LE, "gt": TEST_GT, "ge": TEST_GE, "in": TEST_IN, "null": TEST_NULL,
          "not_null": TEST_NOT_NULL}


# -- one cell ----------------------------------------------------------------------------------------------------------
cdef inline int64_t integer_of(const uint8_t* cell, uint32_t width) noexcept nogil:
    cdef int8_t tiny
    cdef int16_t small
    cdef int32_t normal
    cdef int64_t big
    if width == 8:
        memcpy(&big, cell, 8)
        return big
    if width == 4:
        memcpy(&normal, cell, 4)
        return normal
    if width == 2:
        memcpy(&small, cell, 2)
        return small
    memcpy(&tiny, cell, 1)
    return tiny


cdef inline double real_of(const uint8_t* cell, uint32_t width) noexcept nogil:
    cdef float single
    cdef double value
    if width == 4:
        memcpy(&single, cell, 4)
        return single
    memcpy(&value, cell, 8)
    return value


cdef Order order_of(CellKind kind, uint32_t width, const uint8_t* a, size_t a_size, const uint8_t* b,
                    size_t b_size) noexcept nogil:
    cdef int64_t x, y
    cdef uint64_t x_low, y_low
    cdef double v, w
    cdef int compared
    if kind == CELL_BYTES:
        compared = memcmp(a, b, min(a_size, b_size)) if a_size and b_size else 0
        if compared == 0:
            compared = (a_size > b_size) - (a_size < b_size)
        return ORDER_LESS if compared < 0 else ORDER_GREATER if compared > 0 else ORDER_EQUAL
    if kind == CELL_REAL:
        v, w = real_of(a, width), real_of(b, width)
        return ORDER_LESS if v < w else ORDER_GREATER if v > w else ORDER_EQUAL if v == w else ORDER_NONE
    if width == 16:
        x, y = integer_of(a + 8, 8), integer_of(b + 8, 8)
        if x == y:
            x_low, y_low = <uint64_t> integer_of(a, 8), <uint64_t> integer_of(b, 8)
            return ORDER_LESS if x_low < y_low else ORDER_GREATER if x_low > y_low else ORDER_EQUAL
    else:
        x, y = integer_of(a, width), integer_of(b, width)
    return ORDER_LESS if x < y else ORDER_GREATER if x > y else ORDER_EQUAL


cdef bint _in_list(const Test* test, const uint8_t* cell, size_t size) noexcept nogil:
    cdef int32_t low = 0, high = test.value_count, middle
    cdef Order order
    while low < high:
        middle = (low + high) >> 1
        order = order_of(test.cells, test.width, cell, size, test.values[middle].data, test.values[middle].size)
        if order == ORDER_EQUAL:
            return True
        if order == ORDER_NONE:
            return False
        if order == ORDER_LESS:
            high = middle
        else:
            low = middle + 1
    return False


cdef bint _holds(const Test* test, const uint8_t* cell, size_t size) noexcept nogil:
    """For a cell that is not NULL."""
    cdef Order order
    if test.kind == TEST_NULL or test.kind == TEST_NOT_NULL:
        return test.kind == TEST_NOT_NULL
    if test.kind == TEST_IN:
        return _in_list(test, cell, size)
    if test.kind == TEST_EQ and test.cells == CELL_BYTES and size != test.values[0].size:
        return False
    order = order_of(test.cells, test.width, cell, size, test.values[0].data, test.values[0].size)
    if order == ORDER_LESS:
        return test.less
    if order == ORDER_GREATER:
        return test.greater
    return test.equal and order == ORDER_EQUAL


# -- whole columns -----------------------------------------------------------------------------------------------------
cdef void _in_range(const Test* test, const uint8_t* values, int64_t count, uint8_t* picked) noexcept nogil:
    cdef int64_t row, low = test.low, high = test.high
    cdef const int64_t* longs = <const int64_t*> values
    cdef const int32_t* ints = <const int32_t*> values
    cdef const int16_t* shorts = <const int16_t*> values
    cdef const int8_t* bytes = <const int8_t*> values
    if test.width == 8:
        for row in range(count):
            picked[row] &= (longs[row] >= low) & (longs[row] <= high)
    elif test.width == 4:
        for row in range(count):
            picked[row] &= (ints[row] >= low) & (ints[row] <= high)
    elif test.width == 2:
        for row in range(count):
            picked[row] &= (shorts[row] >= low) & (shorts[row] <= high)
    else:
        for row in range(count):
            picked[row] &= (bytes[row] >= low) & (bytes[row] <= high)


cdef void _compare_reals(const Test* test, const uint8_t* values, int64_t count, uint8_t* picked) noexcept nogil:
    cdef double value = real_of(test.values[0].data, test.width)
    cdef const double* doubles = <const double*> values
    cdef const float* singles = <const float*> values
    cdef uint8_t less = test.less, equal = test.equal, greater = test.greater
    cdef int64_t row
    if test.width == 8:
        for row in range(count):
            picked[row] &= (less & (doubles[row] < value)) | (equal & (doubles[row] == value)) \
                | (greater & (doubles[row] > value))
    else:
        for row in range(count):
            picked[row] &= (less & (singles[row] < value)) | (equal & (singles[row] == value)) \
                | (greater & (singles[row] > value))


cdef void _run_test(const Test* test, const ColumnBuffers* column, int64_t count, uint8_t* picked) noexcept nogil:
    cdef int64_t row
    cdef uint8_t wanted = test.kind != TEST_NULL
    if column.validity != NULL and column.null_count:
        for row in range(count):
            picked[row] &= ((column.validity[row >> 3] >> (row & 7)) & 1) == wanted
    elif not wanted:
        for row in range(count):
            picked[row] = 0
    if test.kind == TEST_NULL or test.kind == TEST_NOT_NULL:
        return
    if test.kind != TEST_IN and test.cells == CELL_INTEGER and test.width < WIDE_INTEGER_BYTES:
        _in_range(test, column.values, count, picked)
    elif test.kind != TEST_IN and test.cells == CELL_REAL:
        _compare_reals(test, column.values, count, picked)
    elif column.kind == KIND_FIXED:
        for row in range(count):
            if picked[row]:
                picked[row] = _holds(test, column.values + row * column.width, column.width)
    else:
        for row in range(count):
            if picked[row]:
                picked[row] = _holds(test, column.data + column.offsets[row],
                                     <size_t> (column.offsets[row + 1] - column.offsets[row]))


# -- the object --------------------------------------------------------------------------------------------------------
cdef class _Comparison:
    """Order of two cells of one column."""
    cdef CellKind kind
    cdef uint32_t width

    def __call__(self, bytes a, bytes b):
        return <int> order_of(self.kind, self.width, <const uint8_t*> PyBytes_AS_STRING(a), <size_t> len(a),
                              <const uint8_t*> PyBytes_AS_STRING(b), <size_t> len(b))


cdef void _set_range(Test* test, int64_t value) noexcept nogil:
    test.low = INT64_MIN if test.less else value
    test.high = INT64_MAX if test.greater else value
    if test.equal:
        return
    if value == (INT64_MIN if test.less else INT64_MAX):
        test.low, test.high = 1, 0
    elif test.less:
        test.high = value - 1
    else:
        test.low = value + 1


cdef list _sorted(const Test* test, list cells):
    """By the column's order, NaNs left out: nothing equals them."""
    cdef _Comparison compare = _Comparison.__new__(_Comparison)
    compare.kind, compare.width = test.cells, test.width
    return sorted([c for c in cells if compare(c, c) == ORDER_EQUAL], key=functools.cmp_to_key(compare))


cdef class ColumnTests:

    def __cinit__(self, schema, tests):
        self.schema = schema
        self.keeps = []
        self.tests = <Test*> calloc(<size_t> len(tests) + 1, sizeof(Test))
        if self.tests == NULL:
            raise MemoryError()
        for column, kind, cells in tests:
            self._add(column, kind, list(cells))

    cdef int _add(self, int32_t column, str kind, list cells) except -1:
        cdef Test* test = &self.tests[self.test_count]
        cdef Py_ssize_t i
        cdef bytes cell
        described = self.schema.columns[column].type
        test.column = column
        test.kind = _KINDS[kind]
        test.width = described.width_bytes
        test.cells = CELL_BYTES if described.is_binary else CELL_REAL if described.name in ("FLOAT", "DOUBLE") \
            else CELL_INTEGER
        if test.kind < TEST_IN and len(cells) != 1:
            raise InvalidArgument("a comparison has one value")
        for cell in cells:
            if test.width and len(cell) != test.width:
                raise InternalError(f"a cell of {len(cell)} bytes in a test of {described.name}")
        test.values = <Slice*> malloc((<size_t> len(cells) + 1) * sizeof(Slice))
        self.test_count += 1
        if test.values == NULL:
            raise MemoryError()
        if test.kind == TEST_IN:
            cells = _sorted(test, cells)
        self.keeps.append(cells)
        for i in range(len(cells)):
            cell = cells[i]
            test.values[i].data = <const uint8_t*> PyBytes_AS_STRING(cell)
            test.values[i].size = <size_t> PyBytes_GET_SIZE(cell)
        test.value_count = <int32_t> len(cells)
        test.less = test.kind == TEST_LT or test.kind == TEST_LE
        test.equal = test.kind == TEST_EQ or test.kind == TEST_LE or test.kind == TEST_GE
        test.greater = test.kind == TEST_GT or test.kind == TEST_GE
        if test.kind < TEST_IN and test.cells == CELL_INTEGER and test.width < WIDE_INTEGER_BYTES:
            _set_range(test, integer_of(test.values[0].data, test.width))
        return 0

    def __dealloc__(self):
        cdef int32_t i
        if self.tests != NULL:
            for i in range(self.test_count):
                free(self.tests[i].values)
        free(self.tests)

    def __len__(self):
        return self.test_count

    def columns(self):
        cdef int32_t i
        cost = {}
        for i in range(self.test_count):
            test = &self.tests[i]
            mine = (test.kind not in (TEST_EQ, TEST_IN), test.cells == CELL_BYTES)
            cost[test.column] = min(mine, cost.get(test.column, mine))
        return sorted(cost, key=cost.get)

    cdef bint passes(self, int32_t column, const uint8_t* cell, size_t size) noexcept nogil:
        cdef int32_t i
        for i in range(self.test_count):
            if self.tests[i].column != column:
                continue
            if not (self.tests[i].kind == TEST_NULL if cell == NULL else _holds(&self.tests[i], cell, size)):
                return False
        return True

    cdef void run(self, int32_t column, const ColumnBuffers* cells, int64_t count, uint8_t* picked) noexcept nogil:
        cdef int32_t i
        for i in range(self.test_count):
            if self.tests[i].column == column:
                _run_test(&self.tests[i], cells, count, picked)
