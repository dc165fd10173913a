"""Deltas laid over base columns: what rows [first, end) of a rowset are at a snapshot. See docs/tablet.md, Visibility.

A batch is prepared once: liveness of each row, and for each column the cells that change, by ascending row. Columns are
then patched one by one, so that those not wanted yet cost nothing.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.column_block cimport BlockBuffers, ColumnBuffers
from kudu_storage._native.delta cimport ByteBuffer, DeltaFault
from kudu_storage._native.mvcc cimport Snapshot
from kudu_storage._native.row_layout cimport RowLayout

cdef struct CellUpdate:
    uint32_t row                # in the batch
    uint32_t size
    const uint8_t* data         # NULL: NULL. In a DeltaRun's or DeltaMemStore's memory, which the applier keeps alive.

cdef struct Problem:
    DeltaFault fault
    uint64_t row                # ordinal in the rowset
    uint64_t timestamp

cdef class DeltaApplier:
    cdef readonly RowLayout layout
    cdef readonly Snapshot snapshot
    cdef readonly Snapshot since            # of a diff scan, else None
    cdef object deleted_column              # name, or None
    cdef object out_schema
    # Of the batch in hand:
    cdef readonly int64_t first_row
    cdef readonly int64_t row_count
    cdef readonly int64_t shown_count
    cdef uint8_t* live                      # by row of the batch: 1 live, 0 dead
    cdef uint8_t* shown                     # 1: part of the result
    cdef ByteBuffer* updates                # by column: CellUpdate
    cdef list keeps                         # what the updates point into
    # Room:
    cdef uint8_t* flags                     # live and shown
    cdef uint32_t* counts
    cdef int64_t row_capacity
    cdef ByteBuffer entries
    cdef ByteBuffer slices
    cdef ByteBuffer memory_deltas
    cdef ByteBuffer marks
    cdef Problem problem

    # Columns that the batch changes, rows that it shows: patch column `column` of `base`, which has row_count rows, into
    # column `target` of `out`, keeping the shown rows only. 0, or -1: no memory, or 2 GiB exceeded.
    cdef int patch(self, int32_t column, const ColumnBuffers* base, BlockBuffers* out, int32_t target) noexcept nogil
