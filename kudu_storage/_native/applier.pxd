"""Applies row operations in log order, to a MemRowSet or to the delta stores of flushed rowsets, and writes down what
became of each: the COMMIT's result.

 A1  Operations come in index order, each once, from one thread at a time; readers may run beside it (M5 of memrowset).
 A2  What becomes of a row follows from its operation and the row's state alone: judge_operation() is pure.
 A3  What a COMMIT says already is not decided again.
A4  A row is live in one place at most. It is looked for in the MemRowSet, then in the one that is being flushed, then
    in the rowsets (key range, bloom filter, key index). A key that is live nowhere is inserted into the MemRowSet.
A5  Changes of a row that is being copied to a new rowset go to both places, and its result names both (C6 of
    docs/tablet.md): the frozen MemRowSet's once it has heirs, those of rowsets that are `inherited`.
"""
from libc.stdint cimport int32_t

from kudu_storage._native.row_ops cimport (
    ROW_AUTO_INCREMENT, ROW_DELETE, ROW_DELETE_IGNORE, ROW_DELETE_WITH_VALUES, ROW_INSERT, ROW_INSERT_IGNORE,
    ROW_KEY_MISSING, ROW_KEY_TOO_LONG, ROW_NOTHING_SET, ROW_NULL_FORBIDDEN, ROW_UPDATE, ROW_UPDATE_IGNORE, ROW_UPSERT,
    ROW_UPSERT_IGNORE, ROW_VALID, DecodedRow,
)

cdef enum Verdict:
    VERDICT_NOTHING = 0         # nothing changes and nothing is wrong
    VERDICT_INSERT = 1
    VERDICT_UPDATE = 2
    VERDICT_DELETE = 3
    # The row is refused; above here the reason.
    VERDICT_PRESENT = 16
    VERDICT_ABSENT = 17
    VERDICT_IMMUTABLE = 18
    VERDICT_KEY_MISSING = 19
    VERDICT_KEY_TOO_LONG = 20
    VERDICT_NULL_FORBIDDEN = 21
    VERDICT_AUTO_INCREMENT = 22
    VERDICT_NOTHING_SET = 23
    VERDICT_DELETE_WITH_VALUES = 24
    VERDICT_CELL_TOO_LARGE = 25
    VERDICT_END = 26


cdef inline Verdict verdict_of_fault(const DecodedRow* row) noexcept nogil:
    if row.fault == ROW_KEY_MISSING:
        return VERDICT_KEY_MISSING
    if row.fault == ROW_KEY_TOO_LONG:
        return VERDICT_KEY_TOO_LONG
    if row.fault == ROW_NULL_FORBIDDEN:
        return VERDICT_NULL_FORBIDDEN
    if row.fault == ROW_NOTHING_SET:
        return VERDICT_NOTHING_SET
    if row.fault == ROW_DELETE_WITH_VALUES:
        return VERDICT_DELETE_WITH_VALUES
    return VERDICT_AUTO_INCREMENT


cdef inline Verdict judge_operation(const DecodedRow* row, bint live, int32_t changes) noexcept nogil:
    """What a server makes of the operation (tablet/tablet.cc). `changes`: set columns that are neither key nor immutable."""
    if row.fault != ROW_VALID:
        return verdict_of_fault(row)
    if row.op == ROW_INSERT or row.op == ROW_INSERT_IGNORE:
        if not live:
            return VERDICT_INSERT
        return VERDICT_PRESENT if row.op == ROW_INSERT else VERDICT_NOTHING
    if row.op == ROW_UPSERT or row.op == ROW_UPSERT_IGNORE:
        if not live:
            return VERDICT_INSERT
        if row.immutable_set and row.op == ROW_UPSERT:
            return VERDICT_IMMUTABLE
        return VERDICT_UPDATE if changes else VERDICT_NOTHING
    if row.op == ROW_UPDATE or row.op == ROW_UPDATE_IGNORE:
        if row.immutable_set and row.op == ROW_UPDATE:
            return VERDICT_IMMUTABLE
        if changes == 0:
            return VERDICT_NOTHING_SET
        if live:
            return VERDICT_UPDATE
        return VERDICT_ABSENT if row.op == ROW_UPDATE else VERDICT_NOTHING
    if live:
        return VERDICT_DELETE
    return VERDICT_ABSENT if row.op == ROW_DELETE else VERDICT_NOTHING
