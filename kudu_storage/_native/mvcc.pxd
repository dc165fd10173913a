"""Which operations a reader sees: snapshots of the applied timestamps. See docs/tablet.md, Visibility."""
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

cdef struct SnapshotInfo:
    uint64_t all_before         # every timestamp below is applied
    uint64_t none_from          # no timestamp at or above is
    const uint64_t* applied     # those applied in between, ascending; the Snapshot owns them
    size_t applied_count

cdef class Snapshot:
    cdef SnapshotInfo info
    cdef uint64_t* owned


cdef inline bint snapshot_applied(const SnapshotInfo* snapshot, uint64_t timestamp) noexcept nogil:
    cdef size_t low = 0, high, middle
    if timestamp < snapshot.all_before:
        return True
    if timestamp >= snapshot.none_from:
        return False
    high = snapshot.applied_count
    while low < high:
        middle = (low + high) >> 1
        if snapshot.applied[middle] == timestamp:
            return True
        if snapshot.applied[middle] < timestamp:
            low = middle + 1
        else:
            high = middle
    return False


cdef inline bint snapshot_may_apply_from(const SnapshotInfo* snapshot, uint64_t timestamp) noexcept nogil:
    """Some timestamp at or above the given one may be applied: REDOs from there on cannot be passed over."""
    return timestamp < snapshot.none_from


cdef inline bint snapshot_may_lack_up_to(const SnapshotInfo* snapshot, uint64_t timestamp) noexcept nogil:
    """Some timestamp at or below the given one may not be applied: UNDOs up to there cannot be passed over."""
    return timestamp >= snapshot.all_before
