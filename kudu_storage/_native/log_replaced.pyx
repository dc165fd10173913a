"""Which operations of a segment were replaced later in it: an operation voids all before it with its index or a higher one.

May not touch: files, other segments. Invariant:
 P1  An operation of the segment is void if and only if a later one has an index at or below its own. The later ones that can
     be the first such are exactly those whose index is not above the one before: the cuts.
"""
from libc.stdint cimport INT64_MAX, int64_t

from bisect import bisect_right

from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.entry cimport ENTRY_REPLICATE, LogEntry, next_entry
from kudu_storage._native.segment cimport BatchChunk, BatchRef

from kudu_storage.errors import BadFormat


cdef class Cuts:
    """The cuts of one segment. Give it all chunks in order, then ask. See log_replaced.pyi."""

    cdef list offsets               # of the batches with cuts
    cdef list indexes               # the lowest index of a cut at that offset or a later one, after close()
    cdef int64_t last_index

    def __cinit__(self):
        self.offsets = []
        self.indexes = []

    def __len__(self):
        return len(self.offsets)

    def add(self, BatchChunk chunk not None):
        """Look at the batches of a chunk."""
        cdef Py_ssize_t i
        cdef int64_t lowest
        for i in range(chunk.count):
            lowest = self.add_batch(chunk, &chunk.batches[i])
            if lowest < 0:
                raise BadFormat("a log entry batch cannot be parsed", offset=chunk.batches[i].file_offset)
            if lowest < INT64_MAX:
                self.offsets.append(chunk.batches[i].file_offset)
                self.indexes.append(lowest)

    cdef int64_t add_batch(self, BatchChunk chunk, const BatchRef* ref) noexcept nogil:
        """The lowest index of a cut in the batch, INT64_MAX for none, -1: malformed."""
        cdef Cursor cursor = cursor_of(chunk.data + ref.data_offset, ref.data_bytes)
        cdef LogEntry entry
        cdef int64_t lowest = INT64_MAX
        cdef int status
        while True:
            status = next_entry(&cursor, &entry)
            if status == 0:
                return lowest
            if status < 0:
                return -1
            if entry.type != ENTRY_REPLICATE:
                continue
            if entry.index <= self.last_index:
                lowest = min(lowest, entry.index)
            self.last_index = entry.index

    def close(self):
        """All chunks were added."""
        cdef Py_ssize_t i
        for i in range(len(self.indexes) - 2, -1, -1):
            self.indexes[i] = min(self.indexes[i], self.indexes[i + 1])

    def below(self, int64_t offset):
        """Operations of the batch at `offset` with an index at or above this one are void because of later batches; None:
        none is."""
        cdef Py_ssize_t at = bisect_right(self.offsets, offset)
        return self.indexes[at] if at < len(self.indexes) else None
