"""Predicates over column blocks: rows picked, column by column, and copied into a smaller block. Pure but for memory.

 F1  Each test looks at the rows that the tests before it left.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from kudu_storage._native.column_block cimport (
    KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.column_tests cimport ColumnTests

from kudu_storage.errors import InternalError


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


cdef class BlockFilter:
    cdef ColumnTests tests
    cdef object kept
    cdef int32_t kept_count
    cdef int32_t column_count
    cdef int32_t* places            # of what comes out, in what goes in
    cdef bint all_kept              # nothing is left out or moved

    def __cinit__(self, schema, kept, tests, places=None):
        cdef int32_t i
        self.tests = tests if isinstance(tests, ColumnTests) else ColumnTests(schema, tests)
        self.kept = kept
        self.column_count = <int32_t> len(schema)
        self.kept_count = <int32_t> len(kept)
        chosen = list(range(self.kept_count)) if places is None else list(places)
        if len(chosen) != self.kept_count or not all(0 <= place < self.column_count for place in chosen):
            raise InternalError("other columns come out of a filter than go in")
        self.all_kept = chosen == list(range(self.column_count))
        self.places = <int32_t*> malloc((<size_t> self.kept_count + 1) * sizeof(int32_t))
        if self.places == NULL:
            raise MemoryError()
        for i in range(self.kept_count):
            self.places[i] = chosen[i]

    def __dealloc__(self):
        free(self.places)

    def apply(self, ColumnBlock block not None, limit=None):
        cdef const BlockBuffers* source = block.buffers
        cdef BlockBuffers* target = NULL
        cdef int64_t most = source.row_count if limit is None else max(limit, 0), found = 0
        cdef uint8_t* picked
        cdef int status = 0
        if source.column_count != self.column_count:
            raise InternalError(f"a block of {source.column_count} columns in a filter for {self.column_count}")
        if self.tests.test_count == 0 and self.all_kept and source.row_count <= most:
            return block
        picked = <uint8_t*> malloc(<size_t> source.row_count + 1)
        if picked == NULL:
            raise MemoryError()
        with nogil:
            found = self._pick(source, picked, most)
            if found < source.row_count or not self.all_kept:
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
        for i in range(source.column_count):
            self.tests.run(i, &source.columns[i], source.row_count, picked)
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
            column = &source.columns[self.places[i]]
            if block_init_column(target, i, column.kind, column.width, column.validity != NULL) < 0 \
                    or copy_column(column, source.row_count, picked, &target.columns[i]) < 0:
                block_release(target)
                return NULL
        target.row_count = found
        return target
