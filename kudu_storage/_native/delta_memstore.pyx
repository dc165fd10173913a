"""See delta_memstore.pxd.

Invariants:
 T1  A chain is ordered by timestamp; among equal ones the later arrival is newer.
 T2  What a reader once saw it sees for ever; changes that arrive later have timestamps that its snapshot lacks.
 T3  lowest_log_index never goes up.
"""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.arena cimport arena_alloc, arena_at, arena_free, arena_init
from kudu_storage._native.atomics cimport load_acquire, load_pointer, store_pointer, store_release
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.delta cimport (
    CHANGE_DELETE, DELTA_BAD_CELL, DELTA_FINE, ChangeCell, Delta, DeltaCells, DeltaFault, buffer_append, buffer_free,
    change_next, change_open, raise_delta_fault,
)
from kudu_storage._native.posix cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

from kudu_storage._native.delta import decode_change
from kudu_storage.errors import InvalidArgument

_ROW_COUNT_MAX = 2**32 - 1              # ordinals are 32-bit


cdef inline const uint8_t* _change(const ChangeNode* node) noexcept nogil:
    return <const uint8_t*> node + sizeof(ChangeNode)


cdef inline uint32_t* _page_of(DeltaMemStore store, uint64_t row) noexcept nogil:
    return <uint32_t*> load_pointer(<void**> &store.pages[row >> PAGE_SHIFT])


cdef uint32_t* _link_for(DeltaMemStore store, uint32_t* head, uint64_t timestamp) noexcept nogil:
    """Where a new node of that timestamp is to hang: before the first that is not newer."""
    cdef uint32_t* link = head
    cdef ChangeNode* node
    while link[0]:
        node = <ChangeNode*> arena_at(&store.arena, link[0])
        if node.timestamp <= timestamp:
            break
        link = &node.older
    return link


cdef int _put_locked(DeltaMemStore store, uint64_t row, uint64_t timestamp, const uint8_t* change, uint32_t size,
                     int64_t log_index) noexcept nogil:
    cdef uint32_t* page = store.pages[row >> PAGE_SHIFT]
    cdef uint32_t* link
    cdef uint32_t ref
    cdef ChangeNode* node
    if page == NULL:
        page = <uint32_t*> calloc(PAGE_ROWS, sizeof(uint32_t))
        if page == NULL:
            return PUT_NO_MEMORY
        store.page_bytes += PAGE_ROWS * sizeof(uint32_t)
        store_pointer(<void**> &store.pages[row >> PAGE_SHIFT], page)
    ref = arena_alloc(&store.arena, sizeof(ChangeNode) + <size_t> size)
    if ref == 0:
        return PUT_NO_MEMORY
    link = _link_for(store, &page[row & (PAGE_ROWS - 1)], timestamp)
    node = <ChangeNode*> arena_at(&store.arena, ref)
    node.timestamp = timestamp
    node.older = link[0]
    node.change_bytes = size
    memcpy(<uint8_t*> node + sizeof(ChangeNode), change, size)
    store_release(link, ref)
    store.changes += 1
    store.deletes += change[0] == CHANGE_DELETE
    store.lowest = min(store.lowest, timestamp)
    store.highest = max(store.highest, timestamp)
    store.lowest_log_index = min(store.lowest_log_index, log_index)
    return 0


cdef class DeltaMemStore:
    """An empty store.

    Args:
        row_count: rows of the rowset.
    """

    def __cinit__(self, row_count):
        if not 0 <= row_count <= _ROW_COUNT_MAX:
            raise InvalidArgument(f"a rowset of {row_count} rows")
        self.row_count = row_count
        self.lowest = 0xFFFFFFFFFFFFFFFF
        self.lowest_log_index = INT64_MAX
        self.page_count = <size_t> ((self.row_count + PAGE_ROWS - 1) >> PAGE_SHIFT)
        self.pages = <uint32_t**> calloc(self.page_count + 1, sizeof(uint32_t*))
        self.page_bytes = (self.page_count + 1) * sizeof(uint32_t*)
        if self.pages == NULL or arena_init(&self.arena) < 0 or pthread_mutex_init(&self.mutex, NULL):
            raise MemoryError()
        self.has_mutex = True

    def __dealloc__(self):
        cdef size_t i
        if self.pages != NULL:
            for i in range(self.page_count):
                free(self.pages[i])
        free(self.pages)
        arena_free(&self.arena)
        if self.has_mutex:
            pthread_mutex_destroy(&self.mutex)

    cdef int put(self, uint64_t row, uint64_t timestamp, const uint8_t* change, uint32_t size,
                 int64_t log_index) noexcept nogil:
        cdef int status
        if row >= <uint64_t> self.row_count:
            return PUT_NO_SUCH_ROW
        pthread_mutex_lock(&self.mutex)
        status = _put_locked(self, row, timestamp, change, size, log_index)
        pthread_mutex_unlock(&self.mutex)
        return status

    cdef int last_is_delete(self, uint64_t row) noexcept nogil:
        cdef uint32_t* page
        cdef uint32_t ref
        if row >= <uint64_t> self.row_count:
            return -1
        page = _page_of(self, row)
        ref = load_acquire(&page[row & (PAGE_ROWS - 1)]) if page != NULL else 0
        if ref == 0:
            return -1
        return _change(<const ChangeNode*> arena_at(&self.arena, ref))[0] == CHANGE_DELETE

    cdef int collect(self, uint64_t first, uint64_t end, ByteBuffer* deltas) noexcept nogil:
        cdef uint64_t row = first
        cdef uint32_t* page
        cdef uint32_t ref
        end = min(end, <uint64_t> self.row_count)
        while row < end:
            page = _page_of(self, row)
            if page == NULL:
                row = ((row >> PAGE_SHIFT) + 1) << PAGE_SHIFT
                continue
            ref = load_acquire(&page[row & (PAGE_ROWS - 1)])
            if ref:
                _collect_chain(self, row, ref, deltas)
            row += 1
        return -1 if deltas.failed else 0

    # -- what Python calls -----------------------------------------------------------------------------------------
    def add(self, row, timestamp, bytes change not None, *, log_index=None):
        """Add one change. Raises BadFormat for a malformed one, InvalidArgument for a row that is not there."""
        cdef Cursor cursor = cursor_of(change, <size_t> len(change))
        cdef ChangeCell cell
        cdef uint8_t type
        cdef int more = 1, status
        cdef DeltaFault fault = change_open(&cursor, &type)
        while fault == DELTA_FINE and more > 0:
            more = change_next(&cursor, &cell)
        if fault != DELTA_FINE or more < 0:
            raise_delta_fault(fault if fault != DELTA_FINE else DELTA_BAD_CELL, f"change of row {row}")
        status = self.put(row, timestamp, change, <uint32_t> len(change), INT64_MAX if log_index is None else log_index)
        if status == PUT_NO_SUCH_ROW:
            raise InvalidArgument(f"change of row {row} of a rowset of {self.row_count}")
        if status < 0:
            raise MemoryError()

    def is_deleted(self, row):
        """Whether the newest change of the row is a DELETE; None: no change of that row here."""
        found = self.last_is_delete(row)
        return None if found < 0 else bool(found)

    def write_to(self, DeltaCells cells not None, uint64_t first_row, *, size_t bytes_max=1 << 20):
        """Append the changes of rows from `first_row` on to `cells`, in file order, until they hold `bytes_max`.

        Returns the row to go on with, or None at the end. Changes that arrive meanwhile may be written or not.
        """
        cdef uint64_t row = first_row, end
        cdef ByteBuffer deltas
        cdef Delta* found
        cdef size_t i
        cdef int status = 0
        memset(&deltas, 0, sizeof(ByteBuffer))
        with nogil:
            while row < <uint64_t> self.row_count and cells.bytes.size < bytes_max and status == 0:
                end = row + PAGE_ROWS
                deltas.size = 0
                status = self.collect(row, end, &deltas)
                found = <Delta*> deltas.data
                for i in range(deltas.size // sizeof(Delta)):
                    if cells.append(found[i].row, found[i].timestamp, found[i].change, found[i].change_bytes) < 0:
                        status = -1
                        break
                row = end
            buffer_free(&deltas)
        if status < 0:
            raise MemoryError()
        return row if row < <uint64_t> self.row_count else None

    cdef StoreFacts facts(self) noexcept nogil:
        cdef StoreFacts found
        pthread_mutex_lock(&self.mutex)
        found.changes, found.deletes = self.changes, self.deletes
        found.lowest, found.highest, found.lowest_log_index = self.lowest, self.highest, self.lowest_log_index
        found.memory_bytes = self.arena.bytes_used + self.page_bytes
        pthread_mutex_unlock(&self.mutex)
        return found

    @property
    def change_count(self):
        return self.facts().changes

    @property
    def delete_count(self):
        return self.facts().deletes

    @property
    def memory_bytes(self):
        """Bytes in use: changes, pages and their table."""
        return self.facts().memory_bytes

    @property
    def min_timestamp(self):
        """The lowest timestamp, or None while empty."""
        cdef StoreFacts facts = self.facts()
        return facts.lowest if facts.changes else None

    @property
    def max_timestamp(self):
        cdef StoreFacts facts = self.facts()
        return facts.highest if facts.changes else None

    @property
    def min_log_index(self):
        """The lowest log index of a change in here, which its anchor holds, or None."""
        cdef StoreFacts facts = self.facts()
        return None if facts.lowest_log_index == INT64_MAX else facts.lowest_log_index

    def __len__(self):
        return self.facts().changes

    def to_list(self):
        """[(row, timestamp, type, {column id: cell or None})] in file order, for people and tests."""
        cdef ByteBuffer deltas
        cdef Delta* found
        cdef size_t i
        memset(&deltas, 0, sizeof(ByteBuffer))
        try:
            if self.collect(0, <uint64_t> self.row_count, &deltas) < 0:
                raise MemoryError()
            found = <Delta*> deltas.data
            return [(found[i].row, found[i].timestamp, *decode_change(found[i].change[:found[i].change_bytes]))
                    for i in range(deltas.size // sizeof(Delta))]
        finally:
            buffer_free(&deltas)


cdef void _collect_chain(DeltaMemStore store, uint64_t row, uint32_t ref, ByteBuffer* deltas) noexcept nogil:
    """Append a chain, oldest first."""
    cdef size_t low = deltas.size // sizeof(Delta), high
    cdef Delta delta
    cdef Delta* all_deltas
    cdef ChangeNode* node
    while ref:
        node = <ChangeNode*> arena_at(&store.arena, ref)
        delta.timestamp = node.timestamp
        delta.row = <uint32_t> row
        delta.change_bytes = node.change_bytes
        delta.change = _change(node)
        buffer_append(deltas, <const uint8_t*> &delta, sizeof(Delta))
        ref = load_acquire(&node.older)
    if deltas.failed:
        return
    all_deltas = <Delta*> deltas.data
    high = deltas.size // sizeof(Delta)
    while low + 1 < high:
        high -= 1
        delta = all_deltas[low]
        all_deltas[low] = all_deltas[high]
        all_deltas[high] = delta
        low += 1
