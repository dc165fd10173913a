"""See rowset_scan.pxd.

Knows column files, deltas and layouts; neither blocks nor superblocks. Python runs a few times a batch and column here,
never per row. Invariants:
 S1  A batch's deltas are prepared before a column is read: a batch that shows no row costs no column.
 S2  A column file has the type and nullability of the layout's column, and as many rows as the rowset.
 S3  The columns that are tested are judged before others are read; these are read where rows are left, and there alone
     when these lie close. What comes out is what the tests would leave of the whole batch.
 S4  A key that the bloom filter turns away, or that is outside [min_key, max_key], is not looked for in the index.
"""
from cpython.object cimport PyObject
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kudu_storage._native.bloom cimport city_hash64
from kudu_storage._native.cfile_index cimport compare_bytes
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, PhysicalKind, block_append_bytes,
    block_init_column, block_init_unset, block_new, block_release,
)
from kudu_storage._native.column_tests cimport ColumnTests
from kudu_storage._native.delta cimport ByteBuffer
from kudu_storage._native.delta_apply cimport CellUpdate
from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.row_layout cimport ColumnLayout
from kudu_storage._native.row_selection cimport ColumnSelector, next_run, runs_are_few

from kudu_storage._native.delta import CELL_SCHEMA
from kudu_storage._native.row_layout import with_deleted_column
from kudu_storage.common.schema import Schema
from kudu_storage.errors import BadFormat, InvalidArgument


# -- keys --------------------------------------------------------------------------------------------------------------
cdef class KeyFinder:
    """Args:
        index: the file of encoded keys, or the key column's where it is the whole key.
        bloom: the rowset's bloom filter, or None.
        min_key: the first and the last encoded key.
    """

    def __init__(self, CFileReader index not None, BloomReader bloom, bytes min_key not None, bytes max_key not None):
        if not index.has_values:
            raise BadFormat("a column file of keys without a value index", path=index.name)
        self.index = index
        self.bloom = bloom
        self.min_key = min_key
        self.max_key = max_key
        self.low = <const uint8_t*> PyBytes_AS_STRING(min_key)
        self.low_bytes = PyBytes_GET_SIZE(min_key)
        self.high = <const uint8_t*> PyBytes_AS_STRING(max_key)
        self.high_bytes = PyBytes_GET_SIZE(max_key)
        index.prepare_keys()
        self.cursor = ColumnCursor(index)

    cdef int64_t find(self, const uint8_t* key, size_t size, uint64_t key_hash) except -2 nogil:
        cdef uint64_t row
        cdef bint exact
        if compare_bytes(key, size, self.low, self.low_bytes) < 0 or compare_bytes(key, size, self.high, self.high_bytes) > 0:
            return -1
        if self.bloom is not None and not self.bloom.may_contain(key, size, key_hash):
            self.bloom_misses += 1
            return -1
        self.cursor.seek_key(key, size, &row, &exact)
        return <int64_t> row if exact else -1

    cdef int64_t find_bound(self, const uint8_t* key, size_t size) except -1 nogil:
        cdef uint64_t row
        cdef bint exact
        self.cursor.seek_key(key, size, &row, &exact)
        return <int64_t> row

    def find_row(self, bytes key not None):
        """The row of an encoded key, or None: the rowset has no such key. Its row may be dead."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(key)
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef int64_t row
        with nogil:
            row = self.find(data, size, city_hash64(data, size))
        return None if row < 0 else row

    def first_row(self, bytes key not None):
        """The first row whose encoded key is not below `key`; the row count where there is none."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(key)
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef int64_t row
        with nogil:
            row = self.find_bound(data, size)
        return row


# -- rows --------------------------------------------------------------------------------------------------------------
cdef int _fill_default(const ColumnLayout* info, ColumnBuffers* column, int64_t count) noexcept nogil:
    """`count` times what a row has that was stored before the column was added. Buffers start as zeros and all valid."""
    cdef int64_t row
    if not info.has_read_default:
        if column.validity == NULL:
            return -2
        for row in range(count):
            column.validity[row >> 3] &= ~(<uint8_t> (1 << (row & 7)))
        column.null_count = count
        return 0
    if column.kind == KIND_FIXED:
        if info.read_default.size != column.width:
            return -2
        for row in range(count):
            memcpy(column.values + row * column.width, info.read_default.data, column.width)
        return 0
    for row in range(count):
        if block_append_bytes(column, info.read_default.data, info.read_default.size) < 0:
            return -1
        column.offsets[row + 1] = <int32_t> column.data_bytes
    return 0


cdef bint _touches_shown(DeltaApplier applier, int32_t column) noexcept nogil:
    """Whether the batch's deltas change a cell of the column in a row that is shown."""
    cdef const CellUpdate* updates = <const CellUpdate*> applier.updates[column].data
    cdef size_t i
    for i in range(applier.updates[column].size // sizeof(CellUpdate)):
        if applier.shown[updates[i].row]:
            return True
    return False


cdef int _no_memory() except -1 with gil:
    raise MemoryError()


cdef class RowSetReader:
    """Args:
        applier: made for the layout and the snapshot wanted.
        files: by column of the applier's layout: its file, or None where the rowset lacks the column.
        row_count: rows of the rowset.
        tests: ColumnTests on the layout's columns that rows must pass, or None.
        kept: how many of the layout's first columns come out; None: all.
    Raises:
        BadFormat: a file that is not one of such a column.
    """

    def __init__(self, DeltaApplier applier not None, files, row_count, ColumnTests tests=None, kept=None):
        cdef int32_t i
        if self.applier is not None:
            raise InvalidArgument("a reader is made once")
        self.applier = applier
        self.row_count = row_count
        self.cursors = []
        for i, file in enumerate(files):
            if file is not None:
                self._check_file(file, applier.layout.schema.columns[i])
            self.cursors.append(None if file is None else ColumnCursor(file))
        if len(self.cursors) != applier.layout.info.column_count:
            raise InvalidArgument(f"{len(self.cursors)} files for {applier.layout.info.column_count} columns")
        self.cursor_of = <PyObject**> calloc(<size_t> len(self.cursors) + 1, sizeof(PyObject*))
        if self.cursor_of == NULL:
            raise MemoryError()
        for i, cursor in enumerate(self.cursors):
            self.cursor_of[i] = NULL if cursor is None else <PyObject*> cursor
        self.kept = applier.layout.info.column_count if kept is None else kept
        if not 0 <= self.kept <= applier.layout.info.column_count:
            raise InvalidArgument(f"{self.kept} of {applier.layout.info.column_count} columns")
        self.schema = applier.schema
        if self.kept < applier.layout.info.column_count:
            self.schema = Schema(tuple(applier.layout.schema.columns[:self.kept]))
            if applier.deleted_column is not None:
                self.schema = with_deleted_column(self.schema, applier.deleted_column)
        self.selectors = [] if tests is None else [
            ColumnSelector(applier.layout, tests, column, self.cursors[column]) for column in tests.columns()]

    def __dealloc__(self):
        free(self.cursor_of)

    def _check_file(self, CFileReader file not None, column):
        if file.type is not column.type or bool(file.shape.nullable) != column.nullable:
            raise BadFormat(f"a file of {file.type.name}{' NULLABLE' if file.shape.nullable else ''} for column "
                            f"{column.name!r}", path=file.name)
        if <int64_t> file.row_count != self.row_count:
            raise BadFormat(f"{file.row_count} rows in a rowset of {self.row_count}", path=file.name)

    cdef int _read_base(self, int32_t column, int64_t first, int64_t count, BlockBuffers* out,
                        int32_t target) except -1 nogil:
        """Base cells of rows [first, first + count) as column `target` of `out`."""
        cdef const ColumnLayout* info = &self.applier.layout.info.columns[column]
        cdef PhysicalKind kind = KIND_FIXED if info.width else KIND_BINARY
        cdef int status
        if self.cursor_of[column] != NULL:
            if block_init_unset(out, target, kind, info.width, info.nullable) < 0:
                return _no_memory()
            (<ColumnCursor> self.cursor_of[column]).read(<uint64_t> first, <uint64_t> count, &out.columns[target], 0)
            self.read_bytes += <int64_t> out.columns[target].data_bytes
            return 0
        if block_init_column(out, target, kind, info.width, info.nullable) < 0:
            return _no_memory()
        status = _fill_default(info, &out.columns[target], count)
        if status == -2:
            return self._refuse_missing(column)
        return _no_memory() if status < 0 else 0

    cdef int _refuse_missing(self, int32_t column) except -1 with gil:
        raise BadFormat(f"the rowset lacks column {self.applier.layout.schema.columns[column].name!r}, for which there is "
                        "neither a default of its width nor NULL")

    cdef int _read_picked(self, int32_t column, BlockBuffers* out) except -1 nogil:
        """The shown rows alone, run by run, into column `column` of `out`."""
        cdef const ColumnLayout* info = &self.applier.layout.info.columns[column]
        cdef ColumnBuffers* to = &out.columns[column]
        cdef int64_t at = 0, end = 0, begin = 0
        if block_init_unset(out, column, KIND_FIXED if info.width else KIND_BINARY, info.width, info.nullable) < 0:
            return _no_memory()
        while next_run(self.applier.shown, self.applier.row_count, end, &begin, &end):
            (<ColumnCursor> self.cursor_of[column]).read(<uint64_t> (self.applier.first_row + begin),
                                                         <uint64_t> (end - begin), to, at)
            at += end - begin
        self.read_bytes += <int64_t> to.data_bytes
        return 0

    cdef int _read_column(self, int32_t column, BlockBuffers* out) except -1 nogil:
        cdef BlockBuffers* base
        cdef bint updated = _touches_shown(self.applier, column)
        if self.applier.shown_count == self.applier.row_count and not updated:
            return self._read_base(column, self.applier.first_row, self.applier.row_count, out, column)
        if self.few_runs and not updated and self.cursor_of[column] != NULL:
            return self._read_picked(column, out)
        base = block_new(1, self.applier.row_count)
        if base == NULL:
            return _no_memory()
        try:
            self._read_base(column, self.applier.first_row, self.applier.row_count, base, 0)
            if self.applier.patch(column, &base.columns[0], out, column) < 0:
                return _no_memory()
        finally:
            block_release(base)
        return 0

    cdef int _select(self) except -1:
        """The tests: fewer rows of the batch are shown."""
        cdef DeltaApplier applier = self.applier
        cdef ColumnSelector selector
        cdef ByteBuffer* updates
        cdef int64_t row, left
        for found in self.selectors:
            if applier.shown_count == 0:
                break
            selector = found
            updates = &applier.updates[selector.column]
            with nogil:
                selector.select(<uint64_t> applier.first_row, <uint64_t> applier.row_count, <const CellUpdate*> updates.data,
                                <int64_t> (updates.size // sizeof(CellUpdate)), applier.shown)
                left = 0
                for row in range(applier.row_count):
                    left += applier.shown[row]
            applier.shown_count = left
        return 0

    def read(self, int64_t first, int64_t count, list undos not None, list redos not None, DeltaMemStore memory=None):
        """Rows [first, first + count) that are shown at the snapshot; None where none is.

        `undos`, `redos`: DeltaRuns that hold all deltas of these rows; see DeltaApplier.prepare. Raises as CFileReader
        and DeltaApplier do.
        """
        cdef DeltaApplier applier = self.applier
        cdef BlockBuffers* out
        cdef int32_t i, columns = self.kept
        cdef int64_t row, at = 0
        if first < 0 or count < 0 or first + count > self.row_count:
            raise InvalidArgument(f"rows {first} to {first + count} of {self.row_count}")
        self.read_bytes = 0
        applier.prepare(first, count, undos, redos, memory)
        self._select()
        if applier.shown_count == 0:
            return None
        out = block_new(columns + (applier.deleted_column is not None), applier.shown_count)
        if out == NULL:
            raise MemoryError()
        self.few_runs = applier.shown_count < count and runs_are_few(applier.shown, count)
        try:
            with nogil:         # once for all: to take the GIL again may mean to wait for it
                for i in range(columns):
                    self._read_column(i, out)
            if out.column_count > columns:
                if block_init_column(out, columns, KIND_FIXED, 1, False) < 0:
                    raise MemoryError()
                for row in range(count):
                    if applier.shown[row]:
                        out.columns[columns].values[at] = not applier.live[row]
                        at += 1
            out.row_count = applier.shown_count
        except BaseException:
            block_release(out)
            raise
        return ColumnBlock.wrap(out, self.schema)

    @property
    def decoded_for_tests(self):
        """Cells decoded to be tested so far; codewords are not."""
        return sum(selector.decoded_rows for selector in self.selectors)


# -- delta files -------------------------------------------------------------------------------------------------------
def read_delta_leaf(ColumnCursor cursor not None, uint32_t index):
    """The cells of a delta file's block number `index` (in the order of its value index), to be decoded by DeltaRun."""
    cdef int64_t rows
    cdef BlockBuffers* block
    with nogil:
        rows = cursor.open_leaf(index)
    block = block_new(1, rows)
    if block == NULL or block_init_column(block, 0, KIND_BINARY, 0, False) < 0:
        block_release(block)
        raise MemoryError()
    try:
        with nogil:
            cursor.read(cursor.block_first, <uint64_t> rows, &block.columns[0], 0)
    except BaseException:
        block_release(block)
        raise
    block.row_count = rows
    return ColumnBlock.wrap(block, CELL_SCHEMA)
