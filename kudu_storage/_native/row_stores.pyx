"""See row_stores.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from kudu_storage._native.bloom cimport city_hash64
from kudu_storage._native.cfile_index cimport compare_bytes
from kudu_storage._native.delta_memstore cimport DeltaMemStore
from kudu_storage._native.rowset_scan cimport KeyFinder
from kudu_storage._native.wire cimport put_varint, varint_size

from kudu_storage.errors import InternalError, InvalidArgument


cdef class LiveRows:
    """Args:
        row_count: of the rowset; all are live.
    """

    def __cinit__(self, int64_t row_count):
        if row_count < 0:
            raise InvalidArgument(f"a rowset of {row_count} rows")
        self.row_count = row_count

    def __dealloc__(self):
        free(self.dead)

    cdef bint is_dead(self, int64_t row) noexcept nogil:
        return self.dead != NULL and (self.dead[row >> 3] >> (row & 7)) & 1

    cdef int mark_dead(self, int64_t row) noexcept nogil:
        if self.dead == NULL:
            self.dead = <uint8_t*> calloc(<size_t> (self.row_count >> 3) + 1, 1)
            if self.dead == NULL:
                return -1
        self.dead_count += not (self.dead[row >> 3] >> (row & 7)) & 1
        self.dead[row >> 3] |= <uint8_t> (1 << (row & 7))
        return 0

    def note_dead(self, int64_t first, bytes live not None):
        """Rows from `first` on whose byte is 0 are dead."""
        cdef const uint8_t* rows = <const uint8_t*> PyBytes_AS_STRING(live)
        cdef int64_t i, count = PyBytes_GET_SIZE(live)
        if first < 0 or first + count > self.row_count:
            raise InternalError(f"rows {first} to {first + count} of {self.row_count}")
        for i in range(count):
            if not rows[i] and self.mark_dead(first + i) < 0:
                raise MemoryError()

    def note_deletes(self, DeltaMemStore memory not None):
        """Rows whose last change in `memory` is a DELETE are dead."""
        cdef int64_t row
        if memory.row_count != self.row_count:
            raise InternalError(f"changes of {memory.row_count} rows for {self.row_count}")
        if not memory.delete_count:
            return
        for row in range(self.row_count):
            if memory.last_is_delete(<uint64_t> row) == 1 and self.mark_dead(row) < 0:
                raise MemoryError()

    def __getitem__(self, int64_t row):
        """Whether the row is live."""
        if not 0 <= row < self.row_count:
            raise InvalidArgument(f"row {row} of {self.row_count}")
        return not self.is_dead(row)


cdef class RowStore:
    """A rowset with the delta store that takes its changes.

    Args:
        finder: of its keys, for the applier alone.
        dms_id: what COMMITs name `memory` by.
        live: which rows are; shared with the stores that `memory` takes the place of.
    """

    def __cinit__(self, int64_t rowset_id, int64_t dms_id, KeyFinder finder not None, DeltaMemStore memory not None,
                  LiveRows live not None):
        cdef uint8_t* out
        if memory.row_count != live.row_count or rowset_id < 0 or dms_id < 0:
            raise InternalError(f"delta store {dms_id} of rowset {rowset_id} does not fit it")
        self.rowset_id, self.dms_id = rowset_id, dms_id
        self.finder, self.memory, self.live = finder, memory, live
        # mutated_stores = 3 { rs_id = 2, dms_id = 3 }
        self.target[0] = 0x1A
        self.target[1] = <uint8_t> (2 + varint_size(<uint64_t> rowset_id) + varint_size(<uint64_t> dms_id))
        self.target[2] = 0x10
        out = put_varint(self.target + 3, <uint64_t> rowset_id)
        out[0] = 0x18
        put_varint(out + 1, <uint64_t> dms_id)
        self.target_bytes = 2 + <size_t> self.target[1]


cdef class RowStores:
    """A table by key range: an interval tree laid flat.

    Args:
        stores: of rowsets that have rows.
        inherited: ids of the rowsets among them that are being compacted, in the second half of it.
    """

    def __cinit__(self, stores=(), inherited=()):
        cdef RowStore store
        cdef StorePlace* place
        cdef StorePlace* furthest
        cdef Py_ssize_t i
        self.keeps = sorted((s for s in stores if s.live.row_count), key=_first_key)
        self.count = len(self.keeps)
        self.places = <StorePlace*> calloc(<size_t> self.count + 1, sizeof(StorePlace))
        if self.places == NULL:
            raise MemoryError()
        for i in range(self.count):
            store = self.keeps[i]
            place = &self.places[i]
            place.store = <void*> store
            place.low, place.low_bytes = store.finder.low, store.finder.low_bytes
            place.high, place.high_bytes = store.finder.high, store.finder.high_bytes
            place.inherited = store.rowset_id in inherited
            place.reach = i
            if i:
                furthest = &self.places[self.places[i - 1].reach]
                if compare_bytes(furthest.high, furthest.high_bytes, place.high, place.high_bytes) > 0:
                    place.reach = self.places[i - 1].reach

    def __dealloc__(self):
        free(self.places)

    cdef int find(self, const uint8_t* key, size_t size, uint64_t key_hash, bint live_only, StorePlace** found,
                  int64_t* row) except -1 nogil:
        cdef Py_ssize_t low = 0, high = self.count, middle
        cdef StorePlace* place
        cdef StorePlace* furthest
        found[0] = NULL
        while low < high:                   # the first place whose keys all lie above
            middle = (low + high) >> 1
            place = &self.places[middle]
            if compare_bytes(place.low, place.low_bytes, key, size) <= 0:
                low = middle + 1
            else:
                high = middle
        while low:
            low -= 1
            place = &self.places[low]
            furthest = &self.places[place.reach]
            if compare_bytes(furthest.high, furthest.high_bytes, key, size) < 0:
                break                       # neither this one nor any before it reaches so far
            row[0] = (<RowStore> place.store).finder.find(key, size, key_hash)
            if row[0] >= 0 and not (live_only and (<RowStore> place.store).live.is_dead(row[0])):
                found[0] = place
                break
        return 0

    def __len__(self):
        return self.count

    def find_key(self, bytes key not None, *, bint live_only=True):
        """(rowset id, row) of an encoded key, or None; for tests and people."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(key)
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef int64_t row = -1
        cdef StorePlace* place
        with nogil:
            self.find(data, size, city_hash64(data, size), live_only, &place, &row)
        return None if place == NULL else ((<RowStore> place.store).rowset_id, row)


def _first_key(RowStore store not None):
    return store.finder.min_key, store.rowset_id
