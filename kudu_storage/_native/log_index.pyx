"""The log index's slots for the operations of entry batches. No GIL while parsing. Layout: docs/formats/log_index.md.

    slot    0   8  i64 term
            8   8  u64 sequence number of the segment
            16  8  u64 offset of the batch's entry header in the segment; 0 means that the slot was never used

May not touch: files, the order of segments, what a replaced operation means. Invariants:
 L1  All operations of one batch get the batch's own offset.
 L2  A run is consecutive indexes in the order of the entries; an index that is not one above the one before starts another.
 L3  A malformed batch gives no slot at all, and nothing behind it is taken.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc

from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.entry cimport ENTRY_REPLICATE, LogEntry, next_entry
from kudu_storage._native.segment cimport BatchChunk, BatchRef

from kudu_storage.errors import InvalidArgument

cdef struct Slot:
    int64_t term
    uint64_t sequence
    uint64_t offset

cdef struct Run:
    int64_t first_index
    Py_ssize_t count

SLOT_BYTES = sizeof(Slot)

cdef enum:
    TAKEN = 0
    MALFORMED = 1
    NO_MEMORY = 2
    CAPACITY_FIRST = 1024


cdef inline bint _follows(const Run* run, int64_t index) noexcept nogil:
    """The difference cannot overflow: both are indexes above 0."""
    return index - run.first_index == run.count


cdef class SlotCollector:
    """Slots of the batches of one segment. See log_index.pyi."""

    cdef readonly int64_t sequence
    cdef readonly object malformed_offset
    cdef Slot* slots
    cdef Py_ssize_t slot_count
    cdef Py_ssize_t slot_capacity
    cdef Run* runs
    cdef Py_ssize_t run_count
    cdef Py_ssize_t run_capacity

    def __cinit__(self, int64_t sequence):
        self.slots = NULL
        self.runs = NULL
        if sequence < 0:
            raise InvalidArgument(f"segment sequence number {sequence} is negative")
        self.sequence = sequence

    def __dealloc__(self):
        free(self.slots)
        self.slots = NULL
        free(self.runs)
        self.runs = NULL

    def take(self, BatchChunk chunk not None):
        """(slots of all REPLICATEs of the chunk, back to back; [(first index, count)] of their runs)."""
        cdef Py_ssize_t batch = 0
        cdef int status = TAKEN
        if self.malformed_offset is not None:
            raise InvalidArgument("a batch before this chunk was malformed", offset=self.malformed_offset)
        self.slot_count = 0
        self.run_count = 0
        with nogil:
            while batch < chunk.count:
                status = self.take_batch(chunk, &chunk.batches[batch])
                if status != TAKEN:
                    break
                batch += 1
        if status == NO_MEMORY:
            raise MemoryError
        if status == MALFORMED:
            self.malformed_offset = chunk.batches[batch].file_offset
        return (PyBytes_FromStringAndSize(<const char*> self.slots, self.slot_count * <Py_ssize_t> sizeof(Slot)),
                [(self.runs[i].first_index, self.runs[i].count) for i in range(self.run_count)])

    cdef int take_batch(self, BatchChunk chunk, const BatchRef* ref) noexcept nogil:
        """TAKEN, or MALFORMED or NO_MEMORY and nothing of the batch was taken."""
        cdef Cursor cursor = cursor_of(chunk.data + ref.data_offset, ref.data_bytes)
        cdef LogEntry entry
        cdef Py_ssize_t slots_before = self.slot_count
        cdef Py_ssize_t runs_before = self.run_count
        cdef Py_ssize_t last_count = self.runs[runs_before - 1].count if runs_before else 0
        cdef int got, status = TAKEN
        while status == TAKEN:
            got = next_entry(&cursor, &entry)
            if got == 0:
                return TAKEN
            if got < 0:
                status = MALFORMED
            # Index 0 is no operation: no slot stands for it.
            elif entry.type == ENTRY_REPLICATE and entry.index > 0:
                status = self.put(&entry, ref.file_offset)
        self.slot_count = slots_before
        self.run_count = runs_before
        if runs_before:
            self.runs[runs_before - 1].count = last_count
        return status

    cdef int put(self, const LogEntry* entry, int64_t offset) noexcept nogil:
        cdef Run* run
        cdef Slot* slot
        if self.make_room() != TAKEN:
            return NO_MEMORY
        if self.run_count == 0 or not _follows(&self.runs[self.run_count - 1], entry.index):
            run = &self.runs[self.run_count]
            run.first_index = entry.index
            run.count = 0
            self.run_count += 1
        self.runs[self.run_count - 1].count += 1
        slot = &self.slots[self.slot_count]
        slot.term = entry.term
        slot.sequence = <uint64_t> self.sequence
        slot.offset = <uint64_t> offset
        self.slot_count += 1
        return TAKEN

    cdef int make_room(self) noexcept nogil:
        """For one more slot and one more run."""
        cdef void* grown
        cdef Py_ssize_t capacity
        if self.slot_count == self.slot_capacity:
            capacity = 2 * self.slot_capacity if self.slot_capacity else CAPACITY_FIRST
            grown = realloc(self.slots, <size_t> capacity * sizeof(Slot))
            if grown == NULL:
                return NO_MEMORY
            self.slots = <Slot*> grown
            self.slot_capacity = capacity
        if self.run_count == self.run_capacity:
            capacity = 2 * self.run_capacity if self.run_capacity else CAPACITY_FIRST
            grown = realloc(self.runs, <size_t> capacity * sizeof(Run))
            if grown == NULL:
                return NO_MEMORY
            self.runs = <Run*> grown
            self.run_capacity = capacity
        return TAKEN
