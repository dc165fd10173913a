"""Row operations of a write applied to a MemRowSet alone: what a server does with a tablet that has no other rowset."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from kudu_storage._native.memrowset cimport MemRowSet
from kudu_storage._native.row_layout cimport LayoutInfo
from kudu_storage._native.row_ops cimport DecodedRow, RowScratch

# What became of a row operation.
cdef enum RowEffect:
    EFFECT_NO_MEMORY = -1
    EFFECT_INSERTED = 0
    EFFECT_REINSERTED = 1           # a row of that key was dead in here
    EFFECT_UPDATED = 2
    EFFECT_DELETED = 3
    EFFECT_NOTHING = 4              # an UPSERT that sets no column of a live row
    EFFECT_IGNORED = 5              # an _IGNORE operation that could not take effect
    EFFECT_ALREADY_PRESENT = 6
    EFFECT_NOT_FOUND = 7
    EFFECT_INVALID = 8              # refused for itself (RowFault)
    EFFECT_IMMUTABLE = 9            # would change a column that may not change

# The effect that an operation must have on a row that is live, or not.
cdef RowEffect judge_effect(const DecodedRow* row, bint live) noexcept nogil
cdef RowEffect apply_to_memrowset(MemRowSet rows, const LayoutInfo* layout, const DecodedRow* row,
                                  uint64_t timestamp) noexcept nogil
