"""Predicates over column blocks: rows picked, column by column, and copied into a smaller block. Pure but for memory.

 F1  Each test looks at the rows that the tests before it left.
 F2  Cells of tests have the width of their column; checked when the filter is made.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.cursor cimport Slice

import functools

from kudu_storage.errors import InternalError, InvalidArgument

cdef enum Order:
    ORDER_LESS = -1
    ORDER_EQUAL = 0
    ORDER_GREATER = 1
    ORDER_NONE = 2          # a NaN

cdef enum CellKind:
    CELL_INTEGER            # signed, little-endian; BOOL too
    CELL_REAL
    CELL_BYTES

cdef enum TestKind:
    TEST_EQ
    TEST_LT
    TEST_LE
    TEST_GT
    TEST_GE
    TEST_IN
    TEST_NULL
    TEST_NOT_NULL

_KINDS = {"eq": TEST_EQ, "lt": TEST_LT, "le": TEST_LE, "gt": TEST_GT, "ge": TEST_GE, "in": TEST_IN, "null": TEST_NULL,
          "not_null": TEST_NOT_NULL}

cdef struct Test:
    int32_t column
    TestKind kind
    CellKind cells
    uint32_t width
    Slice* values           # ascending; the filter's `keeps` owns their bytes
    int32_t value_count


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


cdef bint passes(const Test* test, const uint8_t* cell, size_t size) noexcept nogil:
    cdef int32_t low = 0, high, middle
    cdef Order order
    if test.kind == TEST_IN:
        high = test.value_count
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
    order = order_of(test.cells, test.width, cell, size, test.values[0].data, test.values[0].size)
    if test.kind == TEST_EQ:
        return order == ORDER_EQUAL
    if test.kind == TEST_LT:
        return order == ORDER_LESS
    if test.kind == TEST_LE:
        return order == ORDER_LESS or order == ORDER_EQUAL
    if test.kind == TEST_GT:
        return order == ORDER_GREATER
    return order == ORDER_GREATER or order == ORDER_EQUAL


cdef void run_test(const Test* test, const ColumnBuffers* column, int64_t count, uint8_t* picked) noexcept nogil:
    cdef int64_t row
    cdef bint present
    for row in range(count):
        if not picked[row]:
            continue
        present = column.validity == NULL or (column.validity[row >> 3] >> (row & 7)) & 1
        if test.kind == TEST_NULL or test.kind == TEST_NOT_NULL:
            picked[row] = present == (test.kind == TEST_NOT_NULL)
        elif not present:
            picked[row] = 0
        elif column.kind == KIND_FIXED:
            picked[row] = passes(test, column.values + row * column.width, column.width)
        else:
            picked[row] = passes(test, column.data + column.offsets[row],
                                 <size_t> (column.offsets[row + 1] - column.offsets[row]))


cdef int copy_column(const ColumnBuffers* source, int64_t count, const uint8_t* picked, ColumnBuffers* target) noexcept nogil:
    cdef int64_t row, out = 0
    for row in range(count):
        if not picked[row]:
            continue
        if source.validity != NULL and not (source.validity[row >> 3] >> (row & 7)) & 1:
            target.validity[out >> 3] &= <uint8_t> ~(1 << (out & 7))
            target.null_count += 1
        if source.kind == KIND_FIXED:
            memcpy(target.values + out * source.width, source.values + row * source.width, source.width)
        else:
            if block_append_bytes(target, source.data + source.offsets[row],
                                  <size_t> (source.offsets[row + 1] - source.offsets[row])) < 0:
                return -1
            target.offsets[out + 1] = <int32_t> target.data_bytes
        out += 1
    return 0


cdef class _Comparison:
    """Order of two cells of one column."""
    cdef CellKind kind
    cdef uint32_t width

    def __call__(self, bytes a, bytes b):
        return <int> order_of(self.kind, self.width, <const uint8_t*> PyBytes_AS_STRING(a), <size_t> len(a),
                              <const uint8_t*> PyBytes_AS_STRING(b), <size_t> len(b))


cdef class BlockFilter:
    cdef object schema
    cdef object kept
    cdef int32_t kept_count
    cdef list keeps
    cdef Test* tests
    cdef int32_t test_count

    def __cinit__(self, schema, kept, tests):
        self.schema = schema
        self.kept = kept
        self.kept_count = <int32_t> len(kept)
        self.keeps = []
        if self.kept_count > len(schema):
            raise InternalError("more columns come out of a filter than go in")
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
            cells = self._sorted(test, cells)
        self.keeps.append(cells)
        for i in range(len(cells)):
            cell = cells[i]
            test.values[i].data = <const uint8_t*> PyBytes_AS_STRING(cell)
            test.values[i].size = <size_t> PyBytes_GET_SIZE(cell)
        test.value_count = <int32_t> len(cells)
        return 0

    cdef list _sorted(self, const Test* test, list cells):
        """By the column's order, NaNs left out: nothing equals them."""
        cdef _Comparison compare = _Comparison.__new__(_Comparison)
        compare.kind, compare.width = test.cells, test.width
        return sorted([c for c in cells if compare(c, c) == ORDER_EQUAL], key=functools.cmp_to_key(compare))

    def __dealloc__(self):
        cdef int32_t i
        if self.tests != NULL:
            for i in range(self.test_count):
                free(self.tests[i].values)
        free(self.tests)

    def apply(self, ColumnBlock block not None, limit=None):
        cdef const BlockBuffers* source = block.buffers
        cdef BlockBuffers* target = NULL
        cdef int64_t most = source.row_count if limit is None else max(limit, 0), found = 0
        cdef uint8_t* picked
        cdef int status = 0
        if self.test_count == 0 and self.kept_count == source.column_count and source.row_count <= most:
            return block
        picked = <uint8_t*> malloc(<size_t> source.row_count + 1)
        if picked == NULL:
            raise MemoryError()
        with nogil:
            found = self._pick(source, picked, most)
            if found < source.row_count or self.kept_count < source.column_count:
                target = self._copy(source, picked, found)
                status = -1 if target == NULL else 0
        free(picked)
        if status < 0:
            raise MemoryError()
        return block if target == NULL else ColumnBlock.wrap(target, self.kept)

    cdef int64_t _pick(self, const BlockBuffers* source, uint8_t* picked, int64_t most) noexcept nogil:
        cdef int32_t i
        cdef int64_t row, found = 0
        memset(picked, 1, <size_t> source.row_count)
        for i in range(self.test_count):
            run_test(&self.tests[i], &source.columns[self.tests[i].column], source.row_count, picked)
        for row in range(source.row_count):
            if found >= most:
                picked[row] = 0
            found += picked[row]
        return found

    cdef BlockBuffers* _copy(self, const BlockBuffers* source, const uint8_t* picked, int64_t found) noexcept nogil:
        cdef BlockBuffers* target = block_new(self.kept_count, found)
        cdef const ColumnBuffers* column
        cdef int32_t i
        if target == NULL:
            return NULL
        for i in range(self.kept_count):
            column = &source.columns[i]
            if block_init_column(target, i, column.kind, column.width, column.validity != NULL) < 0 \
                    or copy_column(column, source.row_count, picked, &target.columns[i]) < 0:
                block_release(target)
                return NULL
        target.row_count = found
        return target
