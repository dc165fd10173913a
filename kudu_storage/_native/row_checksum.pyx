"""The row checksum of `kudu cluster ksck --checksum_scan`. Pure: a block in, a number out; runs without the GIL.

A row's checksum is the CRC-32C of these bytes, column after column:
    u32 position of the column | u8 1 present, 0 null (nullable columns only) | the cell, nothing for null
and a tablet's is their sum, so that neither order nor batches matter. Source: tserver/tablet_service.cc,
ScanResultChecksummer. Nullable is what the schema says, not whether the block holds nulls.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from kudu_storage._native.column_block cimport KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers

cdef uint32_t row_checksum(const BlockBuffers* block, const uint8_t* nullable, int64_t row, Gather* gather) noexcept nogil:
    cdef int32_t position
    cdef uint8_t present
    cdef const ColumnBuffers* column
    gather.crc = 0
    gather.used = 0
    for position in range(block.column_count):
        column = &block.columns[position]
        add(gather, <const uint8_t*> &position, 4)
        present = column.validity == NULL or (column.validity[row >> 3] >> (row & 7)) & 1
        if nullable[position]:
            add(gather, &present, 1)
        if not present:
            continue
        if column.kind == KIND_FIXED:
            add(gather, column.values + row * column.width, column.width)
        else:
            add(gather, column.data + column.offsets[row], <size_t> (column.offsets[row + 1] - column.offsets[row]))
    flush(gather)
    return gather.crc


def checksum(ColumnBlock block not None):
    cdef uint64_t total = 0
    cdef int64_t row
    cdef int32_t i
    cdef Gather gather
    cdef BlockBuffers* buffers = block.buffers
    cdef uint8_t* nullable = <uint8_t*> calloc(<size_t> buffers.column_count + 1, 1)
    if nullable == NULL:
        raise MemoryError("no memory for a row checksum")
    try:
        for i in range(buffers.column_count):
            nullable[i] = block.schema.columns[i].nullable
        with nogil:
            for row in range(buffers.row_count):
                total += row_checksum(buffers, nullable, row, &gather)
    finally:
        free(nullable)
    return total
