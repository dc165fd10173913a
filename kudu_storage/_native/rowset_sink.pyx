"""Between rows and the files of a rowset being written: bytes into a block of a block store, keys into a bloom filter.

A StoreSink gathers as BlockSink does and hands what it gathered to a WritableBlock (kudu_storage.fs.blocks), so that small
files share a container and all writes go through the store's disk. Syncs nothing: the store's commit does. One thread.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint8_t

from kudu_storage._native.block_sink cimport BlockSink
from kudu_storage._native.cfile_writer cimport BloomWriter
from kudu_storage._native.column_block cimport KIND_BINARY, ColumnBlock, ColumnBuffers

from kudu_storage.errors import InvalidArgument


cdef class StoreSink(BlockSink):
    """Args:
        block: a WritableBlock, which the sink's owner commits or aborts.
    """
    cdef readonly object block
    cdef object error

    def __init__(self, block not None):
        if self.block is not None:
            raise InvalidArgument("a sink used twice")
        self.block = block
        self.name = f"block {block.id:016d}"

    cdef int flush(self) noexcept nogil:
        if self.failed or self.pending.size == 0:
            return self.failed
        with gil:
            return self._hand_over()

    cdef int _hand_over(self) noexcept:
        try:
            self.block.append(PyMemoryView_FromMemory(<char*> self.pending.data, <Py_ssize_t> self.pending.size, PyBUF_READ))
        except BaseException as error:      # raised again by raise_failure() on the way out of the native code
            self.error = error
            self.failed = -EIO
            return self.failed
        self.written += <int64_t> self.pending.size
        self.pending.size = 0
        return 0

    cdef int raise_failure(self) except -1:
        if self.error is not None:
            raise self.error
        return BlockSink.raise_failure(self)


def add_bloom_keys(BloomWriter bloom not None, ColumnBlock keys not None):
    """Encoded keys, ascending: the cells of a block of one BINARY column."""
    cdef const ColumnBuffers* column = &keys.buffers.columns[0]
    cdef int64_t i
    if keys.buffers.column_count != 1 or column.kind != KIND_BINARY or column.null_count:
        raise InvalidArgument("keys are the cells of one binary column without NULLs")
    with nogil:
        for i in range(keys.buffers.row_count):
            bloom.add_key(column.data + column.offsets[i], <size_t> (column.offsets[i + 1] - column.offsets[i]))


def key_at(ColumnBlock keys not None, int64_t row):
    """One key of such a block."""
    cdef const ColumnBuffers* column = &keys.buffers.columns[0]
    if keys.buffers.column_count != 1 or column.kind != KIND_BINARY or not 0 <= row < keys.buffers.row_count:
        raise InvalidArgument(f"key {row} of a block of {keys.buffers.row_count} rows")
    return (<const uint8_t*> column.data + column.offsets[row])[:column.offsets[row + 1] - column.offsets[row]]
