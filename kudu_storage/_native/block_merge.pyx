"""Streams of column blocks, each by primary key, merged into one by primary key. Pure: no files, no snapshots.

 G1  The keys of a block rise; one that does not is an error, never a row out of place.
 G2  A key comes out once. Two sources with the same key contradict each other, but in a diff scan, where at most one of
     them may be live at the end: a dead one gives way.
 G3  Rows are copied in runs: as many of one source as lie below all others. A block that lies below them whole, and
     needs no column cut off, is handed on as it is.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kudu_storage._native.byte_buffer cimport ByteBuffer, buffer_free, buffer_reserve
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.row_layout cimport bit_is_set

from kudu_storage.common.schema import Schema
from kudu_storage.errors import Contradiction, InvalidArgument

cdef enum:
    BINARY_BYTES_MAX = 4 << 20          # of one block that is put together here

cdef enum Step:
    STEP_FULL = 0                       # the block has enough rows
    STEP_REFILL = 1                     # `wanted` needs its next block
    STEP_END = 2
    STEP_MEMORY = 3
    STEP_TWICE = 4                      # two sources have the key of `wanted`
    STEP_DISORDER = 5

cdef struct KeyColumn:
    int32_t column
    bint last

cdef struct MergeSource:
    const BlockBuffers* block           # NULL: not begun, or ended
    int64_t row                         # the next one
    int64_t row_count
    ByteBuffer keys                     # of the block's rows, back to back; of a source not begun, its lower bound
    ByteBuffer ends                     # size_t each, 0 first
    bint begun
    bint ended


# -- keys of a block ---------------------------------------------------------------------------------------------------
cdef int _append_fixed_key(ByteBuffer* keys, const uint8_t* value, uint32_t width) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t* out
    if buffer_reserve(keys, width):
        return -1
    out = keys.data + keys.size
    for i in range(width):
        out[i] = value[width - 1 - i]
    out[0] ^= 0x80
    keys.size += width
    return 0


cdef int _append_binary_key(ByteBuffer* keys, const uint8_t* value, size_t size, bint last) noexcept nogil:
    cdef size_t i
    cdef uint8_t* out
    if buffer_reserve(keys, size if last else 2 * size + 2):
        return -1
    out = keys.data + keys.size
    if last:
        if size:
            memcpy(out, value, size)
        keys.size += size
        return 0
    for i in range(size):
        out[0] = value[i]
        out += 1
        if value[i] == 0:
            out[0] = 1
            out += 1
    out[0] = 0
    out[1] = 0
    keys.size = <size_t> (out + 2 - keys.data)
    return 0


cdef int _encode_keys(const BlockBuffers* block, const KeyColumn* columns, int32_t key_count, ByteBuffer* keys,
                      ByteBuffer* ends) noexcept nogil:
    """Source of the encoding: common/keys.py."""
    cdef int64_t row
    cdef int32_t i
    cdef int status
    cdef const ColumnBuffers* column
    keys.size = 0
    ends.size = 0
    if buffer_reserve(ends, <size_t> (block.row_count + 1) * sizeof(size_t)):
        return -1
    (<size_t*> ends.data)[0] = 0
    for row in range(block.row_count):
        for i in range(key_count):
            column = &block.columns[columns[i].column]
            if column.kind == KIND_FIXED:
                status = _append_fixed_key(keys, column.values + row * column.width, column.width)
            else:
                status = _append_binary_key(keys, column.data + column.offsets[row],
                                            <size_t> (column.offsets[row + 1] - column.offsets[row]), columns[i].last)
            if status:
                return -1
        (<size_t*> ends.data)[row + 1] = keys.size
    return 0


cdef inline int _compare_at(const MergeSource* one, int64_t row, const MergeSource* other, int64_t other_row) noexcept nogil:
    cdef const size_t* ends = <const size_t*> one.ends.data + row
    cdef const size_t* other_ends = <const size_t*> other.ends.data + other_row
    cdef size_t size = ends[1] - ends[0], other_size = other_ends[1] - other_ends[0]
    cdef int order = memcmp(one.keys.data + ends[0], other.keys.data + other_ends[0], min(size, other_size))
    if order:
        return order
    return 0 if size == other_size else -1 if size < other_size else 1


# -- copying -----------------------------------------------------------------------------------------------------------
cdef int _copy_rows(const ColumnBuffers* base, int64_t first, int64_t count, ColumnBuffers* out, int64_t at) noexcept nogil:
    cdef int64_t row
    cdef int64_t shift
    if base.validity != NULL and base.null_count and out.validity != NULL:
        for row in range(count):
            if not bit_is_set(base.validity, <size_t> (first + row)):
                out.validity[(at + row) >> 3] &= ~(<uint8_t> (1 << ((at + row) & 7)))
                out.null_count += 1
    if base.kind == KIND_FIXED:
        memcpy(out.values + at * out.width, base.values + first * base.width, <size_t> count * base.width)
        return 0
    shift = <int64_t> out.data_bytes - base.offsets[first]
    if block_append_bytes(out, base.data + base.offsets[first],
                          <size_t> (base.offsets[first + count] - base.offsets[first])) < 0:
        return -1
    for row in range(count):
        out.offsets[at + row + 1] = <int32_t> (base.offsets[first + row + 1] + shift)
    return 0


cdef class BlockMerge:
    """Args:
        sources: iterables of ColumnBlocks with the columns of `schema`, by key.
        schema: of the blocks that come in.
        key_columns: where the key columns lie in it, in the order of the key.
        batch_rows: rows of a block that comes out, unless a whole one is handed on.
        columns: how many of the first columns come out; default all.
        lower_keys: for each source an encoded key that none of its own is below, or None. It is begun when its turn comes.
        deleted_column: the last column that comes in is a diff scan's IS_DELETED.
    """
    cdef list iterators
    cdef list blocks                    # that the sources point into
    cdef readonly object schema         # of the blocks that come out
    cdef MergeSource* sources
    cdef int32_t source_count
    cdef KeyColumn* keys
    cdef int32_t key_count
    cdef int32_t* picked                # columns that come out
    cdef int32_t picked_count
    cdef int32_t deleted                # the IS_DELETED column, or -1
    cdef int64_t batch_rows
    cdef int32_t wanted

    def __cinit__(self, sources, schema, key_columns, batch_rows, *, columns=None, lower_keys=None,
                  bint deleted_column=False):
        cdef int32_t i, count = len(schema)
        cdef list chosen
        if batch_rows < 1 or not key_columns:
            raise InvalidArgument("a merge needs key columns and at least one row a batch")
        self.iterators = [iter(source) for source in sources]
        self.blocks = [None] * len(self.iterators)
        self.batch_rows = batch_rows
        self.deleted = count - 1 if deleted_column else -1
        chosen = list(range(count if columns is None else columns))
        if deleted_column and self.deleted not in chosen:
            chosen.append(self.deleted)
        self.schema = schema if len(chosen) == count else Schema(tuple(schema.columns[i] for i in chosen))
        self.keys = <KeyColumn*> calloc(len(key_columns), sizeof(KeyColumn))
        self.picked = <int32_t*> calloc(len(chosen) + 1, sizeof(int32_t))
        self.sources = <MergeSource*> calloc(len(self.iterators) + 1, sizeof(MergeSource))
        if self.keys == NULL or self.picked == NULL or self.sources == NULL:
            raise MemoryError()
        for i, column in enumerate(key_columns):
            if not 0 <= column < count:
                raise InvalidArgument(f"key column {column} of {count} columns")
            self.keys[i].column = column
            self.keys[i].last = i == len(key_columns) - 1
        self.key_count = len(key_columns)
        for i, column in enumerate(chosen):
            self.picked[i] = column
        self.picked_count = len(chosen)
        self.source_count = len(self.iterators)
        for i in range(self.source_count):
            self._bound(&self.sources[i], None if lower_keys is None else lower_keys[i])

    cdef int _bound(self, MergeSource* source, bytes key) except -1:
        """A source that is not begun stands at its lower bound: the empty key if it has none."""
        cdef size_t size = 0 if key is None else <size_t> len(key)
        if buffer_reserve(&source.keys, size + 1) or buffer_reserve(&source.ends, 2 * sizeof(size_t)):
            raise MemoryError()
        if size:
            memcpy(source.keys.data, <const char*> key, size)
        (<size_t*> source.ends.data)[0] = 0
        (<size_t*> source.ends.data)[1] = size
        return 0

    def __dealloc__(self):
        cdef int32_t i
        if self.sources != NULL:
            for i in range(self.source_count):
                buffer_free(&self.sources[i].keys)
                buffer_free(&self.sources[i].ends)
        free(self.sources)
        free(self.keys)
        free(self.picked)

    def __iter__(self):
        return self

    cdef int _refill(self) except -1:
        """The next block of source `wanted`."""
        cdef MergeSource* source = &self.sources[self.wanted]
        cdef ColumnBlock block
        cdef int status
        while True:
            block = next(self.iterators[self.wanted], None)
            source.begun = True
            source.row = 0
            if block is None:
                source.ended = True
                source.block = NULL
                source.row_count = 0
                self.blocks[self.wanted] = None
                return 0
            if block.buffers.row_count:
                break
        self.blocks[self.wanted] = block
        source.block = block.buffers
        source.row_count = block.buffers.row_count
        with nogil:
            status = _encode_keys(source.block, self.keys, self.key_count, &source.keys, &source.ends)
        if status:
            raise MemoryError()
        return 0

    cdef object _hand_on(self):
        """The block of source `wanted`, if it lies below all others and nothing need be cut off; else None."""
        cdef MergeSource* source = &self.sources[self.wanted]
        if source.block == NULL or source.row or self.picked_count != source.block.column_count \
                or not _is_below_others(self, source):
            return None
        block = self.blocks[self.wanted]
        source.row = source.row_count
        return block

    def __next__(self):
        cdef BlockBuffers* out = NULL
        cdef Step step
        try:
            while True:
                with nogil:
                    step = _merge(self, out)
                if step == STEP_REFILL:
                    self._refill()
                    if out == NULL or out.row_count == 0:
                        block = self._hand_on()
                        if block is not None:
                            return block
                elif step == STEP_FULL and out == NULL:
                    out = self._new_block()
                elif step == STEP_FULL or step == STEP_END:
                    if out == NULL or out.row_count == 0:
                        raise StopIteration
                    done = ColumnBlock.wrap(out, self.schema)
                    out = NULL
                    return done
                elif step == STEP_MEMORY:
                    raise MemoryError()
                else:
                    self._refuse(step)
        finally:
            block_release(out)

    cdef int _refuse(self, Step step) except -1:
        cdef MergeSource* source = &self.sources[self.wanted]
        cdef const size_t* ends = <const size_t*> source.ends.data + source.row
        key = (<const uint8_t*> source.keys.data)[ends[0]:ends[1]].hex()
        if step == STEP_TWICE:
            raise Contradiction(f"the row of key {key} is live in two rowsets", advice="another replica of the tablet")
        raise Contradiction(f"rows of a rowset are not in the order of their keys, at key {key}",
                            advice="another replica of the tablet")

    cdef BlockBuffers* _new_block(self) except NULL:
        """With the columns of a block in hand: which kinds they are, and which may be NULL."""
        cdef BlockBuffers* out = block_new(self.picked_count, self.batch_rows)
        cdef const ColumnBuffers* like
        cdef int32_t i
        if out == NULL:
            raise MemoryError()
        for i in range(self.picked_count):
            like = &self.sources[self.wanted].block.columns[self.picked[i]]
            if block_init_column(out, i, like.kind, like.width, bool(self.schema.columns[i].nullable)) < 0:
                block_release(out)
                raise MemoryError()
        return out


cdef inline int32_t _least(BlockMerge self) noexcept nogil:
    """The source that stands at the least key; one that is not begun goes before an equal one that is. -1: none is left."""
    cdef int32_t i, least = -1
    cdef int order
    for i in range(self.source_count):
        if self.sources[i].ended:
            continue
        if least < 0:
            least = i
            continue
        order = _compare_at(&self.sources[i], self.sources[i].row, &self.sources[least], self.sources[least].row)
        if order < 0 or (order == 0 and not self.sources[i].begun):
            least = i
    return least


cdef bint _is_below_others(BlockMerge self, const MergeSource* source) noexcept nogil:
    """The block in hand, whole."""
    cdef int32_t i
    cdef int64_t row
    for i in range(self.source_count):
        if &self.sources[i] == source or self.sources[i].ended:
            continue
        if _compare_at(source, source.row_count - 1, &self.sources[i], self.sources[i].row) >= 0:
            return False
    for row in range(source.row_count - 1):         # G1
        if _compare_at(source, row, source, row + 1) >= 0:
            return False
    return True


cdef int64_t _run_length(BlockMerge self, int32_t least, int64_t limit, Step* step) noexcept nogil:
    """How many rows of the least source lie below all others, up to `limit`. 0: another has the same key, which a diff
    scan may; then `step` says what to do."""
    cdef MergeSource* source = &self.sources[least]
    cdef const MergeSource* next_least = NULL
    cdef int32_t i
    cdef int64_t row
    cdef int order
    for i in range(self.source_count):
        if i != least and not self.sources[i].ended and (next_least == NULL or _compare_at(
                &self.sources[i], self.sources[i].row, next_least, next_least.row) < 0):
            next_least = &self.sources[i]
    limit = min(limit, source.row_count - source.row)
    row = source.row
    while row < source.row + limit:
        if row > 0 and _compare_at(source, row - 1, source, row) >= 0:
            source.row = row
            step[0] = STEP_DISORDER
            return 0
        if next_least != NULL:
            order = _compare_at(source, row, next_least, next_least.row)
            if order > 0 or (order == 0 and row > source.row):
                break
            if order == 0:
                step[0] = STEP_TWICE
                return 0
        row += 1
    return row - source.row


cdef bint _drop_dead(BlockMerge self, int32_t least) noexcept nogil:
    """Of all rows with the least key, those that are dead go while another is there. False: two are live."""
    cdef MergeSource* source = &self.sources[least]
    cdef MergeSource* other
    cdef int32_t i
    cdef const ColumnBuffers* column
    if self.deleted < 0:
        return False
    for i in range(self.source_count):
        other = &self.sources[i]
        if i == least or other.ended or not other.begun or _compare_at(source, source.row, other, other.row):
            continue
        column = &other.block.columns[self.deleted]
        if column.values[other.row]:
            other.row += 1
            return True
        column = &source.block.columns[self.deleted]
        if column.values[source.row]:
            source.row += 1
            return True
    return False


cdef Step _merge(BlockMerge self, BlockBuffers* out) noexcept nogil:
    """Move rows to `out` until it is full or a source runs out. Without `out` only find out whether there is a row."""
    cdef int32_t least, i
    cdef int64_t count
    cdef size_t binary_bytes
    cdef MergeSource* source
    cdef Step step
    while True:
        for i in range(self.source_count):
            if self.sources[i].begun and not self.sources[i].ended and self.sources[i].row >= self.sources[i].row_count:
                self.wanted = i
                return STEP_REFILL
        least = _least(self)
        if least < 0:
            return STEP_END
        self.wanted = least
        source = &self.sources[least]
        if not source.begun:
            return STEP_REFILL
        if out == NULL or out.row_count >= self.batch_rows:
            return STEP_FULL
        step = STEP_FULL
        count = _run_length(self, least, self.batch_rows - out.row_count, &step)
        if count == 0:
            if step == STEP_TWICE and _drop_dead(self, least):
                continue
            return step
        binary_bytes = 0
        for i in range(self.picked_count):
            if _copy_rows(&source.block.columns[self.picked[i]], source.row, count, &out.columns[i], out.row_count) < 0:
                return STEP_MEMORY
            binary_bytes += out.columns[i].data_bytes
        source.row += count
        out.row_count += count
        if binary_bytes > BINARY_BYTES_MAX:
            return STEP_FULL


def encoded_keys(ColumnBlock block not None, key_columns):
    """The encoded key of each row, for tests and for people."""
    cdef ByteBuffer keys, ends
    cdef KeyColumn[64] columns
    cdef int32_t i
    cdef int status
    cdef const size_t* places
    if not 1 <= len(key_columns) <= 64:
        raise InvalidArgument(f"{len(key_columns)} key columns")
    keys.data = ends.data = NULL
    keys.size = keys.capacity = ends.size = ends.capacity = 0
    for i, column in enumerate(key_columns):
        if not 0 <= column < block.buffers.column_count:
            raise InvalidArgument(f"key column {column} of {block.buffers.column_count} columns")
        columns[i].column = column
        columns[i].last = i == len(key_columns) - 1
    try:
        status = _encode_keys(block.buffers, columns, len(key_columns), &keys, &ends)
        if status:
            raise MemoryError()
        places = <const size_t*> ends.data
        return [(<const uint8_t*> keys.data)[places[row]:places[row + 1]] for row in range(block.buffers.row_count)]
    finally:
        buffer_free(&keys)
        buffer_free(&ends)
