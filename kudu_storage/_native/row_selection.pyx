"""See row_selection.pxd. Knows column files and tests; neither rowsets nor snapshots.

 P1  A block of which no row is left is not opened.
 P2  A dictionary entry is judged once for each file; codewords are then looked up, and not even read where all entries
     pass or none does. The decoder has compared each codeword with the dictionary's count (D3 of cfile_block).
 P3  A cell that a delta changes is judged by its new value alone.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memset

from kudu_storage._native.byte_buffer cimport buffer_free, buffer_reserve
from kudu_storage._native.cfile_block cimport DICT_CODES, ENCODING_PREFIX, BlockDecoder, Dictionary
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBuffers, block_init_unset, block_new, block_release,
)

from kudu_storage.errors import InvalidArgument

cdef enum:
    ROWS_A_RUN = 24             # what starting a run costs, in rows read


# -- runs of picked rows -----------------------------------------------------------------------------------------------
cdef bint next_run(const uint8_t* picked, int64_t count, int64_t at, int64_t* first, int64_t* end) noexcept nogil:
    cdef const uint8_t* found = NULL
    if at < count:
        found = <const uint8_t*> memchr(picked + at, 1, <size_t> (count - at))
    if found == NULL:
        return False
    first[0] = found - picked
    found = <const uint8_t*> memchr(found, 0, <size_t> (count - first[0]))
    end[0] = count if found == NULL else found - picked
    return True


cdef bint runs_are_few(const uint8_t* picked, int64_t count) noexcept nogil:
    cdef int64_t at = 0, first = 0, cost = 0
    while cost < count and next_run(picked, count, at, &first, &at):
        cost += at - first + ROWS_A_RUN
    return cost < count


cdef int _no_memory() except -1 with gil:
    raise MemoryError()


cdef bint _judged_in_place(ColumnSelector self, uint64_t first, uint64_t count, uint8_t* picked) noexcept nogil:
    """Plain byte strings without NULLs are compared where they lie in the open block, whose offsets it has checked."""
    cdef const BlockDecoder* decoder = &self.cursor.decoder
    cdef ColumnBuffers cells
    if decoder.shape.width or decoder.shape.nullable or decoder.shape.encoding == ENCODING_PREFIX \
            or decoder.mode == DICT_CODES or first + count - self.cursor.block_first > decoder.value_count:
        return False
    memset(&cells, 0, sizeof(ColumnBuffers))
    cells.kind = KIND_BINARY
    cells.offsets = <int32_t*> decoder.plain.offsets + (first - self.cursor.block_first)
    cells.data = <uint8_t*> decoder.plain.data
    self.tests.run(self.column, &cells, <int64_t> count, picked)
    return True


# -- the object --------------------------------------------------------------------------------------------------------
cdef class ColumnSelector:

    def __init__(self, RowLayout layout not None, ColumnTests tests not None, int32_t column, ColumnCursor cursor):
        if self.layout is not None or not 0 <= column < layout.info.column_count:
            raise InvalidArgument(f"column {column} of {layout.info.column_count} columns")
        self.layout = layout
        self.tests = tests
        self.column = column
        self.cursor = cursor
        self.info = &layout.info.columns[column]
        self.null_passes = tests.passes(column, NULL, 0)

    def __dealloc__(self):
        free(self.words)
        buffer_free(&self.codes)
        buffer_free(&self.bits)
        buffer_free(&self.verdicts)

    cdef int select(self, uint64_t first, uint64_t count, const CellUpdate* updates, int64_t update_count,
                    uint8_t* picked) except -1 nogil:
        cdef int64_t i
        if buffer_reserve(&self.verdicts, <size_t> update_count + 1):
            _no_memory()
        for i in range(update_count):
            self.verdicts.data[i] = picked[updates[i].row] and self.tests.passes(self.column, updates[i].data, updates[i].size)
            picked[updates[i].row] = 0
        self._select_base(first, count, picked)
        for i in range(update_count):
            picked[updates[i].row] = self.verdicts.data[i]
        return 0

    cdef int _select_base(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil:
        cdef int64_t at = 0, end = 0, rows = <int64_t> count
        if self.cursor is None:
            if not self.tests.passes(self.column, self.info.read_default.data if self.info.has_read_default else NULL,
                                     self.info.read_default.size):
                memset(picked, 0, count)
            return 0
        while next_run(picked, rows, at, &at, &end):
            self.cursor.open_row(first + <uint64_t> at)
            end = min(rows, <int64_t> (self.cursor.block_end - first))
            if self.cursor.decoder.mode == DICT_CODES:
                self._select_codes(first + <uint64_t> at, <uint64_t> (end - at), picked + at)
            else:
                self._select_cells(first + <uint64_t> at, <uint64_t> (end - at), picked + at)
            at = end
        return 0

    cdef int _judge_words(self) except -1 nogil:
        cdef const Dictionary* dictionary = &self.cursor.reader.dictionary
        cdef uint32_t i
        self.words = <uint8_t*> calloc(<size_t> dictionary.count + 1, 1)
        if self.words == NULL:
            _no_memory()
        self.every_word = True
        for i in range(dictionary.count):
            self.words[i] = self.tests.passes(self.column, dictionary.data + dictionary.offsets[i],
                                              dictionary.offsets[i + 1] - dictionary.offsets[i])
            self.some_word |= self.words[i]
            self.every_word &= self.words[i]
        return 0

    cdef int _select_codes(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil:
        """Rows of one block."""
        cdef const uint32_t* codes
        cdef bint nullable = self.cursor.reader.shape.nullable
        cdef uint8_t present
        cdef int64_t nulls = 0
        cdef uint64_t i
        if self.words == NULL:
            self._judge_words()
        if self.every_word and (self.null_passes or not nullable):
            return 0
        if not self.some_word and not (self.null_passes and nullable):
            memset(picked, 0, count)
            return 0
        if buffer_reserve(&self.codes, count * sizeof(uint32_t) + 1) or buffer_reserve(&self.bits, count // 8 + 1):
            _no_memory()
        self.cursor.read_codes(first, count, <uint32_t*> self.codes.data, self.bits.data, 0, &nulls)
        codes = <const uint32_t*> self.codes.data
        if nulls == 0:
            for i in range(count):
                picked[i] &= self.words[codes[i]]
            return 0
        for i in range(count):
            present = (self.bits.data[i >> 3] >> (i & 7)) & 1
            picked[i] &= (self.words[codes[i]] & present) | (self.null_passes & (present ^ 1))
        return 0

    cdef int _select_cells(self, uint64_t first, uint64_t count, uint8_t* picked) except -1 nogil:
        """Rows of one block, decoded: all of them, or the picked ones packed."""
        cdef bint packed
        cdef BlockBuffers* cells
        cdef int64_t rows = 0, at = 0, begin = 0, i
        cdef uint8_t* passed = picked
        if _judged_in_place(self, first, count, picked):
            return 0
        packed = runs_are_few(picked, <int64_t> count)
        cells = block_new(1, <int64_t> count)
        if cells == NULL or block_init_unset(cells, 0, KIND_FIXED if self.info.width else KIND_BINARY, self.info.width,
                                             self.info.nullable) < 0 \
                or (packed and buffer_reserve(&self.bits, count + 1)):
            block_release(cells)
            _no_memory()
        try:
            if not packed:
                self.cursor.read(first, count, &cells.columns[0], 0)
                rows = <int64_t> count
            else:
                while next_run(picked, <int64_t> count, at, &begin, &at):
                    self.cursor.read(first + <uint64_t> begin, <uint64_t> (at - begin), &cells.columns[0], rows)
                    rows += at - begin
                passed = self.bits.data
                memset(passed, 1, <size_t> rows)
            self.decoded_rows += rows
            self.tests.run(self.column, &cells.columns[0], rows, passed)
            if packed:
                rows = 0
                at = 0
                while next_run(picked, <int64_t> count, at, &begin, &at):
                    for i in range(begin, at):
                        picked[i] = passed[rows]
                        rows += 1
        finally:
            block_release(cells)
        return 0
