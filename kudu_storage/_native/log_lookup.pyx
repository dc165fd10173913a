"""One operation by its index: places of batches in memory, one pread, both checksums.

For each closed segment that was asked for there is an open file and four bytes an operation. Invariants:
 L1  A place is a hint. What is found there is returned only if header and body pass their checksums and the batch holds the
     operation; everything else is None, and who looks properly then finds the words for what is wrong.
 L2  Nothing is allocated by a length from disk before it was compared with what the file holds and with the limit.
 L3  At most OPEN_MAX files and MEMORY_MAX bytes of places in the process.
May not touch: segments that are written, policy. What is in the page cache is read with the GIL held (letting go of it costs as
much as the read); what is not, without.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.types cimport off_t
from posix.unistd cimport close, pread

import weakref

from kudu_storage._native.codec cimport CODEC_NONE, codec_can_expand, codec_decompress
from kudu_storage._native.crc32c cimport crc32c_extend
from kudu_storage._native.cursor cimport Cursor, cursor_of
from kudu_storage._native.entry cimport ENTRY_REPLICATE
from kudu_storage._native.log_batch cimport kudu_load
from kudu_storage._native.log_core cimport core_fork_generation
from kudu_storage._native.log_entries cimport Entry, Found, make_entry, take_entry
from kudu_storage._native.log_voids cimport Voids

from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX as _BATCH_BYTES_MAX
from kudu_storage.errors import InvalidArgument

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/uio.h>
    /* What the page cache has; -1 with EAGAIN when reading would wait for the disk. */
    static ssize_t kudu_pread_cached(int fd, void *to, size_t size, off_t offset) {
    #ifdef RWF_NOWAIT
        struct iovec part = {to, size};
        return preadv2(fd, &part, 1, offset, RWF_NOWAIT);
    #else
        errno = EAGAIN;
        return -1;
    #endif
    }
    """
    Py_ssize_t kudu_pread_cached(int fd, void* to, size_t size, off_t offset)

cdef enum:
    HEADER_BYTES = 16
    SLOT_BYTES = 24
    GUESS_BYTES_MAX = 65536         # read at once when the next batch is further away than that
    GIL_FREE_BYTES_MIN = 65536
    OPEN_MAX = 256
    MEMORY_MAX = 32 << 20

cdef uint64_t LENGTH_MAX = _BATCH_BYTES_MAX
cdef uint64_t _clock = 0            # counts lookups, to tell who was not used for longest
cdef list _registered = []          # weak references to all SegmentPlaces that belong to a log


cdef inline uint32_t _u32(const uint8_t* at) noexcept nogil:
    return <uint32_t> at[0] | (<uint32_t> at[1] << 8) | (<uint32_t> at[2] << 16) | (<uint32_t> at[3] << 24)


@cython.final
cdef class SegmentPlaces:
    cdef int fd
    cdef bint owned                 # fd was given: without arguments there is none to close
    cdef readonly int64_t first
    cdef readonly int64_t last
    cdef readonly Py_ssize_t unknown
    cdef int64_t end_offset
    cdef int codec
    cdef uint32_t* places           # of operation first + i; 0: unknown
    cdef Py_ssize_t count
    cdef uint64_t used
    cdef object log                 # weak reference to the Places that has it
    cdef object __weakref__

    def __cinit__(self, int fd, *, int64_t sequence, int64_t first, int64_t last, int64_t first_offset, int64_t end_offset,
                  int codec, bytes slots not None):
        cdef Py_ssize_t i
        cdef int64_t slot[3]
        self.fd = fd
        self.owned = True
        if first < 1 or last < first or PyBytes_GET_SIZE(slots) // SLOT_BYTES < last - first + 1:
            raise InvalidArgument(f"{len(slots)} bytes of slots are not those of operations {first} to {last}")
        self.first = first
        self.last = last
        self.end_offset = end_offset
        self.codec = codec
        self.count = <Py_ssize_t> (last - first + 1)
        self.places = <uint32_t*> calloc(<size_t> self.count, sizeof(uint32_t))
        if self.places == NULL:
            raise MemoryError()
        for i in range(self.count):
            memcpy(slot, PyBytes_AS_STRING(slots) + i * SLOT_BYTES, SLOT_BYTES)
            if slot[1] == sequence and first_offset <= slot[2] < end_offset and slot[2] <= <int64_t> UINT32_MAX:
                self.places[i] = <uint32_t> slot[2]
            else:
                self.unknown += 1

    def __dealloc__(self):
        if self.owned and self.fd >= 0:
            close(self.fd)
        free(self.places)

    @property
    def memory_bytes(self):
        return self.count * sizeof(uint32_t)

    cdef bytes read(self, Py_ssize_t size, int64_t offset):
        """None: there are not that many bytes."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef char* to = PyBytes_AS_STRING(data)
        cdef Py_ssize_t got = kudu_pread_cached(self.fd, to, <size_t> size, <off_t> offset), more
        if got == size:
            return data
        got = max(got, 0)
        with nogil:
            while got < size:
                more = pread(self.fd, to + got, <size_t> (size - got), <off_t> (offset + got))
                if more < 0 and errno == EINTR:
                    continue
                if more <= 0:
                    break
                got += more
        return data if got == size else None

    cdef Entry find(self, int64_t index):
        cdef Py_ssize_t at = <Py_ssize_t> (index - self.first), behind = at + 1
        cdef int64_t offset = self.places[at], size
        cdef bytes data
        cdef const uint8_t* head
        cdef uint64_t stored
        if offset == 0:
            return None
        while behind < self.count and self.places[behind] == offset:
            behind += 1
        size = self.end_offset - offset
        if behind < self.count and self.places[behind] > offset:
            size = self.places[behind] - offset
        data = self.read(<Py_ssize_t> min(size, <int64_t> GUESS_BYTES_MAX), offset)
        if data is None or PyBytes_GET_SIZE(data) <= HEADER_BYTES:
            return None
        head = <const uint8_t*> PyBytes_AS_STRING(data)
        stored = _u32(head)
        if crc32c_extend(0, head, 12) != _u32(head + 12) or stored == 0 or stored > LENGTH_MAX \
                or HEADER_BYTES + <int64_t> stored > self.end_offset - offset:
            return None
        if HEADER_BYTES + <Py_ssize_t> stored > PyBytes_GET_SIZE(data):
            data = self.read(HEADER_BYTES + <Py_ssize_t> stored, offset)
            if data is None:
                return None
        return self.parse(data, <size_t> stored, index)

    cdef Entry parse(self, bytes data, size_t stored, int64_t index):
        cdef const uint8_t* head = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* body = head + HEADER_BYTES
        cdef size_t length = _u32(head + 4)
        cdef Cursor cursor
        cdef Found found
        cdef bytes plain
        cdef char* to
        cdef int status
        if crc32c_extend(0, body, stored) != _u32(head + 8):
            return None
        if self.codec == CODEC_NONE:
            if length != stored:
                return None
        else:
            if length == 0 or length > LENGTH_MAX or not codec_can_expand(self.codec, stored, length):
                return None
            plain = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length)
            to = PyBytes_AS_STRING(plain)
            if length >= GIL_FREE_BYTES_MIN:
                with nogil:
                    status = codec_decompress(self.codec, body, stored, <uint8_t*> to, length)
            else:
                status = codec_decompress(self.codec, body, stored, <uint8_t*> to, length)
            if status != 0:
                return None
            data, body = plain, <const uint8_t*> to
        cursor = cursor_of(body, length)
        while take_entry(&cursor, &found) == 1:
            if found.type == ENTRY_REPLICATE and found.index == index:
                return make_entry(data, &found)
        return None


@cython.final
cdef class Places:
    cdef list segments              # by first operation; their operations do not overlap
    cdef int64_t fork_generation    # a child of a fork has no log
    cdef Voids voids                # operations from voids.replaced_from on are not found here any more; None: all are
    cdef object __weakref__

    def __cinit__(self, Voids voids=None):
        self.segments = []
        self.voids = voids
        self.fork_generation = core_fork_generation()

    def __len__(self):
        return len(self.segments)

    cdef SegmentPlaces of(self, int64_t index):
        cdef Py_ssize_t low = 0, high = PyList_GET_SIZE(self.segments), middle
        cdef SegmentPlaces places
        while low < high:
            middle = (low + high) // 2
            places = <SegmentPlaces> PyList_GET_ITEM(self.segments, middle)
            if index < places.first:
                high = middle
            elif index > places.last:
                low = middle + 1
            else:
                return places
        return None

    def find(self, int64_t index):
        global _clock
        cdef SegmentPlaces places = self.of(index)
        if places is None or self.fork_generation != core_fork_generation():
            return None
        if self.voids is not None and index >= kudu_load(&self.voids.list.replaced_from):
            return None
        _clock += 1
        places.used = _clock
        return places.find(index)

    def covers(self, int64_t index):
        return self.of(index) is not None

    def add(self, SegmentPlaces places not None):
        global _clock
        if self.of(places.first) is not None or self.of(places.last) is not None:
            raise InvalidArgument(f"there are places for operations {places.first} to {places.last} already")
        _clock += 1
        places.used = _clock
        places.log = weakref.ref(self)
        self.segments.append(places)
        self.segments.sort(key=_first_of)
        _registered.append(weakref.ref(places))
        _keep_bounds(places)

    def drop_from(self, int64_t index):
        self.segments = [p for p in self.segments if (<SegmentPlaces> p).last < index]

    def drop_below(self, int64_t index):
        self.segments = [p for p in self.segments if (<SegmentPlaces> p).last >= index]

    def clear(self):
        self.segments = []


def _first_of(SegmentPlaces places):
    return places.first


cdef int _keep_bounds(SegmentPlaces newest) except -1:
    """Let go of those that were not used for longest, but not of the newest (L3)."""
    cdef list alive = [p for p in [r() for r in _registered] if p is not None and (<SegmentPlaces> p).log is not None]
    cdef SegmentPlaces places
    cdef Places log
    alive.sort(key=_used_of)
    held = sum([p.memory_bytes for p in alive])
    while len(alive) > 1 and (len(alive) > OPEN_MAX or held > MEMORY_MAX) and alive[0] is not newest:
        places = alive.pop(0)
        held -= places.memory_bytes
        log = places.log()
        if log is not None:
            log.segments = [p for p in log.segments if p is not places]
        places.log = None
    _registered[:] = [weakref.ref(p) for p in alive]
    return 0


def _used_of(SegmentPlaces places):
    return places.used
