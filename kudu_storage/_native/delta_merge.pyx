"""REDO files made into one: minor delta compactions, and what major ones leave of the files they fold.

G1  The result is in the order of a REDO file; equal (row, timestamp) keep the order of the files, then of the cells.
G2  Nothing is applied or dropped but the cells of columns that are named: DELETEs and REINSERTs always stay.
May not touch: files. Runs without the GIL.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, CHANGE_UPDATE, DELTA_FINE, ByteBuffer, ChangeCell, Delta, DeltaCells, DeltaRun, buffer_append,
    buffer_free, change_next, change_open, change_put, change_start,
)

from kudu_storage.errors import InternalError

# What is left of one run.
cdef struct Source:
    const Delta* at
    const Delta* end


cdef inline bint _is_named(const uint32_t* columns, size_t count, uint32_t column_id) noexcept nogil:
    cdef size_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if columns[middle] == column_id:
            return True
        if columns[middle] < column_id:
            low = middle + 1
        else:
            high = middle
    return False


cdef void _without_columns(const Delta* delta, const uint32_t* columns, size_t count, ByteBuffer* out) noexcept nogil:
    """The change list less the named columns; empty when it was an UPDATE of them alone."""
    cdef Cursor change = cursor_of(delta.change, delta.change_bytes)
    cdef ChangeCell cell
    cdef uint8_t type = 0
    out.size = 0
    if change_open(&change, &type) != DELTA_FINE:
        return
    change_start(out, type)
    while change_next(&change, &cell) > 0:
        if not _is_named(columns, count, cell.column_id):
            change_put(out, cell.column_id, cell.data, cell.size)
    if out.size == 1 and type == CHANGE_UPDATE:
        out.size = 0


cdef inline Source* _next_source(Source* sources, size_t count) noexcept nogil:
    """The one whose delta comes first, of equal ones the first; NULL: all are at their end."""
    cdef Source* least = NULL
    cdef Source* source
    cdef size_t i
    for i in range(count):
        source = &sources[i]
        if source.at == source.end:
            continue
        if least == NULL or source.at.row < least.at.row \
                or (source.at.row == least.at.row and source.at.timestamp < least.at.timestamp):
            least = source
    return least


cdef int _merge(Source* sources, size_t count, const uint32_t* columns, size_t column_count, ByteBuffer* change,
                DeltaCells cells) noexcept nogil:
    cdef Source* source
    cdef const Delta* delta
    while True:
        source = _next_source(sources, count)
        if source == NULL:
            return 0
        delta = source.at
        source.at += 1
        if column_count == 0 or delta.change[0] == CHANGE_DELETE:
            if cells.append(delta.row, delta.timestamp, delta.change, delta.change_bytes) < 0:
                return -1
            continue
        _without_columns(delta, columns, column_count, change)
        if change.failed:
            return -1
        if change.size and cells.append(delta.row, delta.timestamp, change.data, change.size) < 0:
            return -1


def merge_redos(list runs not None, DeltaCells cells not None, *, uint64_t first_row=0, uint64_t end_row=1 << 32,
                without=()):
    """Append the deltas of rows [first_row, end_row) of REDO runs, oldest file first, to `cells` as one file has them.

    Args:
        without: ids of columns whose cells are left out.
    """
    cdef ByteBuffer sources, columns, change
    cdef Source source
    cdef DeltaRun run
    cdef uint32_t column_id
    cdef int status
    memset(&sources, 0, sizeof(ByteBuffer))
    memset(&columns, 0, sizeof(ByteBuffer))
    memset(&change, 0, sizeof(ByteBuffer))
    try:
        for run in runs:
            if run.undo or cells.undo:
                raise InternalError("UNDO deltas among REDO deltas to merge")
            source.at = run.deltas + run.first_at(first_row)
            source.end = run.deltas + run.first_at(max(first_row, end_row))
            buffer_append(&sources, <const uint8_t*> &source, sizeof(Source))
        for column_id in sorted(without):
            buffer_append(&columns, <const uint8_t*> &column_id, sizeof(uint32_t))
        if sources.failed or columns.failed:
            raise MemoryError()
        with nogil:
            status = _merge(<Source*> sources.data, sources.size // sizeof(Source), <const uint32_t*> columns.data,
                            columns.size // sizeof(uint32_t), &change, cells)
        if status < 0:
            raise MemoryError()
    finally:
        buffer_free(&sources)
        buffer_free(&columns)
        buffer_free(&change)
