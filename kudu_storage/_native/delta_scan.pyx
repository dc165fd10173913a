"""See delta_scan.pxd.

X1  A scan's deltas are in the order of its kind, over pieces too, and name only rows that the rowset has.
X2  The bytes of a delta that was peeked at stay until release(): a row's deltas may lie in several pieces.
May not touch: files, but through a column reader. One thread for each object.
"""
from libc.stdlib cimport calloc, free

from kudu_storage._native.cfile_reader cimport CFileReader
from kudu_storage._native.column_block cimport BlockBuffers, block_release
from kudu_storage._native.delta cimport DeltaCells, buffer_free

from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum:
    MEMORY_ROWS = 4096          # a piece of a DeltaMemStore


cdef inline bint in_order(const Delta* before, const Delta* after, bint undo) noexcept nogil:
    if before.row != after.row:
        return before.row < after.row
    return before.timestamp >= after.timestamp if undo else before.timestamp <= after.timestamp


cdef inline int scan_peek(DeltaScan scan) except -1 nogil:
    """1: scan.deltas[scan.at] is there; 0: the end."""
    if scan.at >= scan.count:
        if scan.started and scan.count == 0:
            return 0
        scan._load_checked()
    return scan.count > 0


cdef inline int scan_step(DeltaScan scan) except -1 nogil:
    """To the next delta; as scan_peek()."""
    scan.at += 1
    return scan_peek(scan)


cdef class DeltaScan:
    def __init__(self):
        raise TypeError("one of FileDeltas and MemoryDeltas")

    cdef int load(self) except -1:
        raise NotImplementedError

    cdef int _load_checked(self) except -1 with gil:
        cdef Delta last
        if self.count:
            last = self.deltas[self.count - 1]
            self.before = last
        self.count = 0
        self.at = 0
        self.load()
        if self.count and self.started and not in_order(&self.before, &self.deltas[0], self.undo):
            raise BadFormat(f"the deltas of row {self.deltas[0].row} come behind those of row {self.before.row}")
        self.started = True
        return 0


cdef class FileDeltas(DeltaScan):
    """A delta file.

    Args:
        reader: its column file.
        row_count: of its rowset.
    Raises, and so does reading: what a CFileReader raises; BadFormat for malformed deltas.
    """

    def __init__(self, CFileReader reader not None, int64_t row_count, *, bint undo):
        if self.cursor is not None or not reader.has_values or not reader.type.is_binary:
            raise InvalidArgument("no delta file, or a scan used twice", path=reader.name)
        reader.prepare_keys()
        self.cursor = reader.cursor()
        self.row_count = row_count
        self.undo = undo
        self.kept = []

    cdef int load(self) except -1:
        cdef int64_t count = 0
        cdef BlockBuffers* block
        if self.run is not None:
            self.kept.append(self.run)
            self.run = None
        while count == 0 and self.leaf < self.cursor.reader.values.count:
            with nogil:
                count = self.cursor.open_leaf(self.leaf)
            self.leaf += 1
        if count == 0:
            return 0
        block = self.cursor._new_block(count)
        try:
            with nogil:
                self.cursor.read(self.cursor.block_first, <uint64_t> count, &block.columns[0], 0)
        except BaseException:
            block_release(block)
            raise
        block.row_count = count
        cells = self.cursor._wrap(block, None)
        try:
            self.run = DeltaRun.decode(cells, undo=self.undo, rows=self.row_count)
        except BadFormat as error:
            error.path = error.path or self.cursor.reader.name
            raise
        self.deltas = self.run.deltas
        self.count = self.run.count
        return 0


cdef class MemoryDeltas(DeltaScan):
    """A DeltaMemStore. Changes that arrive meanwhile are in it or not."""

    def __init__(self, DeltaMemStore store not None):
        self.store = store
        self.row_count = store.row_count
        self.kept = []

    def __dealloc__(self):
        buffer_free(&self.collected)

    cdef int load(self) except -1:
        cdef uint64_t end
        cdef int status = 0
        self.collected.size = 0
        with nogil:
            while self.row < <uint64_t> self.row_count and self.collected.size == 0 and status == 0:
                end = self.row + MEMORY_ROWS
                status = self.store.collect(self.row, end, &self.collected)
                self.row = end
        if status < 0:
            raise MemoryError()
        self.deltas = <const Delta*> self.collected.data
        self.count = <Py_ssize_t> (self.collected.size // sizeof(Delta))
        return 0


cdef class DeltaMerge:
    """Args:
        scans: of one kind and rowset, REDO stores oldest first, UNDO stores newest first.
    """

    def __cinit__(self, scans, *, bint undo):
        cdef DeltaScan scan
        cdef Py_ssize_t i
        self.undo = undo
        self.scans = list(scans)
        self.raw = <void**> calloc(len(self.scans) + 1, sizeof(void*))
        self.heap = <int32_t*> calloc(len(self.scans) + 1, sizeof(int32_t))
        if self.raw == NULL or self.heap == NULL:
            raise MemoryError()
        for i in range(len(self.scans)):
            scan = self.scans[i]
            if scan.undo != undo:
                raise InvalidArgument("UNDO and REDO stores in one run")
            self.raw[i] = <void*> scan

    def __dealloc__(self):
        free(self.raw)
        free(self.heap)

    cdef bint _less(self, int32_t a, int32_t b) noexcept nogil:
        cdef const Delta* first = &(<DeltaScan> self.raw[a]).deltas[(<DeltaScan> self.raw[a]).at]
        cdef const Delta* second = &(<DeltaScan> self.raw[b]).deltas[(<DeltaScan> self.raw[b]).at]
        if first.row != second.row:
            return first.row < second.row
        if first.timestamp != second.timestamp:
            return (first.timestamp > second.timestamp) if self.undo else (first.timestamp < second.timestamp)
        return a < b

    cdef void _sift(self, int32_t at) noexcept nogil:
        cdef int32_t child, moved = self.heap[at]
        while True:
            child = 2 * at + 1
            if child >= self.size:
                break
            if child + 1 < self.size and self._less(self.heap[child + 1], self.heap[child]):
                child += 1
            if not self._less(self.heap[child], moved):
                break
            self.heap[at] = self.heap[child]
            at = child
        self.heap[at] = moved

    cdef int _start(self) except -1 nogil:
        cdef int32_t i, count
        with gil:
            count = <int32_t> len(self.scans)
        for i in range(count):
            if scan_peek(<DeltaScan> self.raw[i]):
                self.heap[self.size] = i
                self.size += 1
        i = self.size // 2
        while i:
            i -= 1
            self._sift(i)
        self.started = True
        return 0

    cdef int peek(self, const Delta** delta) except -1 nogil:
        if not self.started:
            self._start()
        delta[0] = NULL
        if self.size:
            delta[0] = &(<DeltaScan> self.raw[self.heap[0]]).deltas[(<DeltaScan> self.raw[self.heap[0]]).at]
        return 0

    cdef int step(self) except -1 nogil:
        if not scan_step(<DeltaScan> self.raw[self.heap[0]]):
            self.size -= 1
            self.heap[0] = self.heap[self.size]
        if self.size > 1:
            self._sift(0)
        return 0

    cdef int release(self) except -1 nogil:
        return self._forget()

    cdef int _forget(self) except -1 with gil:
        cdef DeltaScan scan
        for scan in self.scans:
            if scan.kept:
                scan.kept.clear()
        return 0

    def copy_to(self, DeltaCells cells not None, *, size_t bytes_max=1 << 20):
        """Append deltas as they are until `cells` holds `bytes_max`. False: that was the last one."""
        cdef const Delta* delta
        cdef int status = 0
        with nogil:
            self.peek(&delta)
            while delta != NULL and status == 0 and cells.bytes.size < bytes_max:
                status = cells.append(delta.row, delta.timestamp, delta.change, delta.change_bytes)
                self.step()
                self.peek(&delta)
        self._forget()
        if status < 0:
            raise MemoryError()
        return delta != NULL
