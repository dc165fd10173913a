"""See mvcc.pxd.

S1  A snapshot never changes.
S2  all_before <= applied[0] < applied[1] < ... < none_from, and none_from is the last applied + 1, or all_before.
"""
from libc.stdlib cimport free, malloc

from kudu_storage.errors import InvalidArgument

TIMESTAMP_END = 0xFFFFFFFFFFFFFFFF


cdef class Snapshot:
    """Operations with a timestamp below `all_before` are applied, and those of `applied`.

    Args:
        all_before: hybrid time; a scan "at T" has all_before = T.
        applied: further timestamps, in any order, repetitions allowed.
    """

    def __cinit__(self, all_before, applied=()):
        cdef size_t i
        if not 0 <= all_before <= TIMESTAMP_END:
            raise InvalidArgument(f"{all_before} is no timestamp")
        above = sorted({t for t in applied if t >= all_before})
        last = max(above, default=all_before - 1)
        if last >= TIMESTAMP_END:
            raise InvalidArgument(f"{last} is no timestamp of an operation")
        self.info.all_before = all_before
        self.info.none_from = last + 1
        self.owned = <uint64_t*> malloc((len(above) + 1) * sizeof(uint64_t))
        if self.owned == NULL:
            raise MemoryError()
        for i in range(<size_t> len(above)):
            self.owned[i] = above[i]
        self.info.applied = self.owned
        self.info.applied_count = <size_t> len(above)

    def __dealloc__(self):
        free(self.owned)

    @staticmethod
    def everything():
        """All operations are applied."""
        return Snapshot(TIMESTAMP_END)

    @staticmethod
    def nothing():
        """No operation is applied."""
        return Snapshot(0)

    @property
    def all_before(self):
        return self.info.all_before

    @property
    def applied(self):
        """The timestamps applied at or above `all_before`."""
        return tuple(self.info.applied[i] for i in range(self.info.applied_count))

    @property
    def is_clean(self):
        """It is one timestamp: nothing is applied at or above `all_before`."""
        return self.info.applied_count == 0

    def includes(self, uint64_t timestamp):
        """The operation with that timestamp is applied."""
        return snapshot_applied(&self.info, timestamp)

    def __eq__(self, other):
        return isinstance(other, Snapshot) and self.all_before == other.all_before and self.applied == other.applied

    def __hash__(self):
        return hash((self.all_before, self.applied))

    def __repr__(self):
        return f"Snapshot({self.all_before}{f', {list(self.applied)}' if self.applied else ''})"
