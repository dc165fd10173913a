"""Sequential scan of one segment file: preads of about 1 MiB, both checksums of each entry, decompression. No GIL.

May not touch: paths (it gets an open descriptor and never closes it), protobuf, policy. Invariants:
 S1  Batches come in file order without holes: a batch is returned only when every byte before it was.
 S2  A returned batch passed its header CRC and its body CRC and decompressed to exactly the length its header names.
 S3  No allocation by a length from disk before that length was compared with the bytes left in the file, with
     limits.ENTRY_BATCH_BYTES_MAX, and with what the codec can expand to.
 S4  Memory: one raw buffer of max(target, largest entry) and the chunk being filled, of the same bound (after
     decompression). Uncompressed batches are not copied: the chunk takes the raw buffer over, and only the partial
     entry at its end is carried into the next one, or read again if it is short.

The end of a segment is decided as Kudu's LogEntryReader does (consensus/log_util.cc). With a footer, anything bad is
corruption. Without one, the rest of the file is searched, byte by byte, for anything that has the form of an entry
header with a right checksum: found means corruption, not found means that the writer stopped here.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.types cimport off_t
from posix.unistd cimport pread

import os

from kudu_storage._native.codec cimport CODEC_NONE, codec_can_expand, codec_decompress
from kudu_storage._native.crc32c cimport crc32c_by, crc32c_extend, crc32c_function

from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX as _BATCH_BYTES_MAX
from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    CorruptionError,
    DiskError,
    InvalidArgument,
    LimitExceeded,
    Truncated,
)

cdef enum:
    STOP_NONE = 0
    STOP_END = 1                # no bytes left before end_offset
    STOP_NO_ROOM = 2            # fewer bytes left than a header and one byte
    STOP_HEADER_ZEROS = 3       # all header bytes zero
    STOP_HEADER_CRC = 4
    STOP_LENGTH_ZERO = 5
    STOP_BEYOND_FILE = 6        # the stored bytes would end after the file does
    STOP_BODY_CRC = 7
    STOP_LENGTH_LIMIT = 8
    STOP_LENGTHS_DIFFER = 9     # without a codec both lengths must be equal
    STOP_RATIO = 10             # no such codec can make that many bytes from so few
    STOP_DECOMPRESS = 11
    STOP_FILE_SHRANK = 12       # end of file before the size the caller named
    STOP_IO = 13
    STOP_MEMORY = 14

cdef enum:
    SEARCH_BYTES = 1048576      # read at a time when looking for entry headers after damage
    RAW_SLACK_BYTES = 65536     # room for the carried-over part of an entry beside a full read
    TARGET_BYTES_MIN = 64
    POOL_BUFFERS_MAX = 4
    POOL_BUFFER_BYTES_MAX = 4194304
    SPARE_REFS_MAX = 65536
    REREAD_BYTES_MAX = 4096

cdef uint64_t LENGTH_MAX = _BATCH_BYTES_MAX

# A few used buffers, because fresh pages cost as much as reading them. Touched only with the GIL held.
cdef uint8_t* _pool[POOL_BUFFERS_MAX]
cdef size_t _pool_bytes[POOL_BUFFERS_MAX]
cdef int _pool_count = 0
# And one used table of batches.
cdef BatchRef* _spare_refs = NULL
cdef Py_ssize_t _spare_refs_capacity = 0


cdef uint8_t* _take_buffer(size_t needed, size_t* capacity) noexcept:
    """A buffer of at least `needed` bytes (NULL: out of memory)."""
    global _pool_count
    cdef int i
    cdef uint8_t* buffer
    for i in range(_pool_count - 1, -1, -1):
        if _pool_bytes[i] >= needed and _pool_bytes[i] <= 2 * needed + RAW_SLACK_BYTES:
            buffer = _pool[i]
            capacity[0] = _pool_bytes[i]
            _pool_count -= 1
            _pool[i] = _pool[_pool_count]
            _pool_bytes[i] = _pool_bytes[_pool_count]
            return buffer
    capacity[0] = needed
    return <uint8_t*> malloc(needed)


cdef void _give_buffer(uint8_t* buffer, size_t capacity) noexcept:
    global _pool_count
    if buffer == NULL:
        return
    if _pool_count < POOL_BUFFERS_MAX and capacity <= POOL_BUFFER_BYTES_MAX:
        _pool[_pool_count] = buffer
        _pool_bytes[_pool_count] = capacity
        _pool_count += 1
    else:
        free(buffer)


cdef inline uint32_t _u32(const uint8_t* at) noexcept nogil:
    return <uint32_t> at[0] | (<uint32_t> at[1] << 8) | (<uint32_t> at[2] << 16) | (<uint32_t> at[3] << 24)


cdef inline bint _header_valid(const uint8_t* at, size_t header_bytes) noexcept nogil:
    return crc32c_extend(0, at, header_bytes - 4) == _u32(at + header_bytes - 4)


cdef inline size_t _zero_run(const uint8_t* data, size_t size) noexcept nogil:
    """How many zero bytes `data` starts with."""
    cdef size_t at = 0
    cdef uint64_t word
    while at + 8 <= size:
        memcpy(&word, data + at, 8)
        if word != 0:
            break
        at += 8
    while at < size and data[at] == 0:
        at += 1
    return at


cdef Py_ssize_t _read_at(int fd, uint8_t* target, size_t size, int64_t offset) noexcept nogil:
    """Bytes read (fewer than `size` only at the end of the file), or -errno."""
    cdef size_t done = 0
    cdef Py_ssize_t got
    while done < size:
        got = pread(fd, target + done, size - done, <off_t> (offset + <int64_t> done))
        if got < 0:
            if errno == EINTR:
                continue
            return -errno
        if got == 0:
            break
        done += <size_t> got
    return <Py_ssize_t> done


cdef int64_t _find_header(int fd, int64_t first, int64_t file_size, size_t header_bytes, uint8_t* window,
                          bint* only_zeros) noexcept nogil:
    """Offset of the first possible entry header at or after `first`: -1 none, -2 - errno when reading fails.

    As in Kudu a header counts only when at least one more byte follows it. `only_zeros` is set to False when a byte
    other than zero was seen. `window` has room for SEARCH_BYTES.
    """
    cdef int64_t base = first
    cdef size_t size, at, run
    cdef Py_ssize_t got
    while base < file_size:
        size = <size_t> min(file_size - base, <int64_t> SEARCH_BYTES)
        got = _read_at(fd, window, size, base)
        if got < 0:
            return -2 + got
        size = <size_t> got
        at = 0
        while at < size:
            run = _zero_run(window + at, size - at)
            if at + run == size:
                break
            only_zeros[0] = False
            # Zeros alone are no valid header; start where a header could include the first other byte.
            if run >= header_bytes:
                at += run - header_bytes + 1
            if at + header_bytes >= size:
                break
            if _header_valid(window + at, header_bytes):
                return base + <int64_t> at
            at += 1
        if size <= header_bytes or base + <int64_t> size >= file_size:
            break
        # Positions whose header would touch the window's end are looked at again in the next one.
        base += <int64_t> (size - header_bytes)
    return -1


def find_entry_header(int fd, int64_t first, int64_t file_size, bint v1=False):
    """Offset of the first bytes at or after `first` that look like an entry header with a right checksum, or None."""
    cdef bint only_zeros = True
    cdef int64_t found
    cdef size_t header_bytes = 12 if v1 else 16
    cdef uint8_t* window
    if first < 0:
        raise InvalidArgument(f"offset {first} is negative")
    window = <uint8_t*> malloc(SEARCH_BYTES)
    if window == NULL:
        raise MemoryError
    try:
        with nogil:
            found = _find_header(fd, first, file_size, header_bytes, window, &only_zeros)
    finally:
        free(window)
    if found <= -2:
        raise DiskError(f"read failed: {os.strerror(<int> (-2 - found))}")
    return None if found < 0 else found


cdef class BatchChunk:
    """Some consecutive batches of one segment: `len()` of them, `chunk[i]` is the bytes of one LogEntryBatchPB."""

    def __cinit__(self):
        self.data = NULL
        self.data_bytes = 0
        self.data_capacity = 0
        self.batches = NULL
        self.count = 0
        self.batch_capacity = 0

    def __dealloc__(self):
        global _spare_refs, _spare_refs_capacity
        _give_buffer(self.data, self.data_capacity)
        self.data = NULL
        if self.batch_capacity > _spare_refs_capacity and self.batch_capacity <= SPARE_REFS_MAX:
            self.batches, _spare_refs = _spare_refs, self.batches
            _spare_refs_capacity = self.batch_capacity
        free(self.batches)
        self.batches = NULL

    cdef void take_spare_refs(self) noexcept:
        """With the GIL held, before the chunk is filled without it."""
        global _spare_refs, _spare_refs_capacity
        self.batches, self.batch_capacity = _spare_refs, _spare_refs_capacity
        _spare_refs, _spare_refs_capacity = NULL, 0

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t position):
        if position < 0:
            position += self.count
        if position < 0 or position >= self.count:
            raise IndexError(position)
        cdef BatchRef* ref = &self.batches[position]
        return PyBytes_FromStringAndSize(<const char*> self.data + ref.data_offset, ref.data_bytes)

    def __iter__(self):
        for position in range(self.count):
            yield self[position]

    def refs(self):
        """Per batch: (offset of its entry header in the file, stored bytes, bytes after decompression)."""
        return [(self.batches[i].file_offset, self.batches[i].stored_bytes, self.batches[i].data_bytes)
                for i in range(self.count)]


cdef int _append_ref(BatchChunk chunk, int64_t file_offset, size_t data_offset, uint32_t data_bytes,
                     uint32_t stored_bytes) noexcept nogil:
    """0, or -1 when memory is short."""
    cdef Py_ssize_t capacity
    cdef BatchRef* grown
    cdef BatchRef* ref
    if chunk.count == chunk.batch_capacity:
        capacity = chunk.batch_capacity * 2 if chunk.batch_capacity else 256
        grown = <BatchRef*> realloc(chunk.batches, <size_t> capacity * sizeof(BatchRef))
        if grown == NULL:
            return -1
        chunk.batches = grown
        chunk.batch_capacity = capacity
    ref = &chunk.batches[chunk.count]
    ref.file_offset = file_offset
    ref.data_offset = data_offset
    ref.data_bytes = data_bytes
    ref.stored_bytes = stored_bytes
    chunk.count += 1
    return 0


cdef class SegmentScanner:
    """Reads the entries of one segment from `first_offset` on; see the module's text and segment.pyi."""

    def __cinit__(self, int fd, *, int64_t first_offset, int64_t end_offset, int64_t file_size, int codec=CODEC_NONE,
                  bint v1=False, bint closed=False):
        self.raw = NULL
        if first_offset < 0 or end_offset > file_size:
            raise InvalidArgument(f"entries at {first_offset} to {end_offset} do not lie in a file of {file_size} bytes")
        if codec < 0 or codec > 4:
            raise InvalidArgument(f"unknown compression codec {codec}")
        self.fd = fd
        self.offset = first_offset
        self.end_offset = end_offset
        self.file_size = file_size
        self.codec = codec if codec else CODEC_NONE
        self.v1 = v1
        self.closed = closed
        self.header_bytes = 12 if v1 else 16
        memset(&self.stop, 0, sizeof(Stop))

    def __dealloc__(self):
        _give_buffer(self.raw, self.raw_capacity)
        self.raw = NULL

    def next_chunk(self, Py_ssize_t target_bytes=1048576):
        """The next batches, about `target_bytes` of them (always at least one), or None at the end.

        After None: `outcome`, `offset`, `detail` and `error_kind` say how the segment ended. Raises DiskError when a
        read fails, MemoryError. Not to be called from two threads at once; may block on the disk, without the GIL.
        """
        cdef BatchChunk chunk
        cdef size_t target, capacity, rest
        cdef uint8_t* fresh
        if target_bytes < TARGET_BYTES_MIN:
            target_bytes = TARGET_BYTES_MIN
        if <uint64_t> target_bytes > LENGTH_MAX:
            target_bytes = <Py_ssize_t> LENGTH_MAX
        target = <size_t> target_bytes
        if self.ended:
            return None
        chunk = BatchChunk.__new__(BatchChunk)
        chunk.take_spare_refs()
        if self.stop.reason == STOP_NONE:
            if self.raw == NULL:
                self.raw = _take_buffer(target + RAW_SLACK_BYTES, &self.raw_capacity)
                if self.raw == NULL:
                    raise MemoryError
            if self.codec != CODEC_NONE:
                chunk.data = _take_buffer(target + RAW_SLACK_BYTES, &chunk.data_capacity)
                if chunk.data == NULL:
                    raise MemoryError
            with nogil:
                self.fill(chunk, target)
        if chunk.count == 0:
            self.set_outcome()
            self.ended = True
            _give_buffer(self.raw, self.raw_capacity)
            self.raw = NULL
            return None
        if self.codec == CODEC_NONE:
            # The chunk takes the buffer; what follows the last whole entry moves to a fresh one.
            rest = self.raw_end - self.raw_pos
            if rest < REREAD_BYTES_MAX:
                rest = 0                # read again, to the start of the fresh buffer: where the kernel copies fastest
            fresh = _take_buffer(max(target, rest) + RAW_SLACK_BYTES, &capacity)
            if fresh == NULL:
                raise MemoryError
            memcpy(fresh, self.raw + self.raw_pos, rest)
            chunk.data = self.raw
            chunk.data_capacity = self.raw_capacity
            chunk.data_bytes = self.raw_pos
            self.raw = fresh
            self.raw_capacity = capacity
            self.raw_pos = 0
            self.raw_end = rest
        return chunk

    cdef int refill(self, size_t needed, size_t target) noexcept nogil:
        """Read on until `needed` unconsumed bytes are there: 0, or -1 with `stop` set.

        `needed` was compared with the file's size and the limit by the caller.
        """
        cdef size_t have = self.raw_end - self.raw_pos
        cdef size_t want
        cdef uint8_t* grown
        cdef int64_t file_pos
        cdef Py_ssize_t got
        if self.raw_pos:
            memmove(self.raw, self.raw + self.raw_pos, have)
            self.raw_pos = 0
            self.raw_end = have
        if needed > self.raw_capacity:
            grown = <uint8_t*> realloc(self.raw, needed)
            if grown == NULL:
                self.stop.reason = STOP_MEMORY
                return -1
            self.raw = grown
            self.raw_capacity = needed
        file_pos = self.offset + <int64_t> have
        want = max(min(self.raw_capacity - have, target), needed - have)
        if <int64_t> want > self.file_size - file_pos:
            want = <size_t> (self.file_size - file_pos)
        got = _read_at(self.fd, self.raw + have, want, file_pos)
        if got < 0:
            self.stop.reason = STOP_IO
            self.stop.os_error = <int> -got
            return -1
        self.raw_end += <size_t> got
        if self.raw_end < needed:
            self.stop.reason = STOP_FILE_SHRANK
            return -1
        return 0

    cdef int parse_header(self, const uint8_t* header) noexcept nogil:
        """Fill `stop` with the header's numbers: 0, or -1 with a reason. Kudu's order of checks."""
        if self.v1:
            self.stop.data_bytes = _u32(header)
            self.stop.stored_bytes = self.stop.data_bytes
        else:
            self.stop.stored_bytes = _u32(header)
            self.stop.data_bytes = _u32(header + 4)
        self.stop.expected_crc = _u32(header + self.header_bytes - 8)
        if crc32c_by(self.crc, 0, header, self.header_bytes - 4) != _u32(header + self.header_bytes - 4):
            self.stop.reason = STOP_HEADER_CRC
            if _zero_run(header, self.header_bytes) == self.header_bytes:
                self.stop.reason = STOP_HEADER_ZEROS
            else:
                self.stop.computed_crc = crc32c_extend(0, header, self.header_bytes - 4)
                self.stop.expected_crc = _u32(header + self.header_bytes - 4)
            return -1
        if self.stop.data_bytes == 0:
            self.stop.reason = STOP_LENGTH_ZERO
            return -1
        if <int64_t> self.stop.stored_bytes > self.file_size - self.offset - <int64_t> self.header_bytes:
            self.stop.reason = STOP_BEYOND_FILE
            return -1
        if self.stop.stored_bytes > LENGTH_MAX:
            self.stop.reason = STOP_LENGTH_LIMIT
            return -1
        return 0

    cdef int append_copy(self, BatchChunk chunk, const uint8_t* body, size_t target) noexcept nogil:
        """Decompress into the chunk: 0, 1 when the chunk is full (nothing consumed), or -1 with a reason."""
        cdef size_t size = self.stop.data_bytes
        cdef uint8_t* grown
        if size > LENGTH_MAX:
            self.stop.reason = STOP_LENGTH_LIMIT
            return -1
        if not codec_can_expand(self.codec, self.stop.stored_bytes, size):
            self.stop.reason = STOP_RATIO
            return -1
        if chunk.data_bytes + size > chunk.data_capacity:
            if chunk.count:
                return 1
            grown = <uint8_t*> realloc(chunk.data, size)
            if grown == NULL:
                self.stop.reason = STOP_MEMORY
                return -1
            chunk.data = grown
            chunk.data_capacity = size
        if codec_decompress(self.codec, body, self.stop.stored_bytes, chunk.data + chunk.data_bytes, size) != 0:
            self.stop.reason = STOP_DECOMPRESS
            return -1
        if _append_ref(chunk, self.offset, chunk.data_bytes, <uint32_t> size, self.stop.stored_bytes) != 0:
            self.stop.reason = STOP_MEMORY
            return -1
        chunk.data_bytes += size
        return 0

    cdef void fill(self, BatchChunk chunk, size_t target) noexcept nogil:
        """Take whole entries until the chunk is full or something stops the scan (`stop.reason`)."""
        cdef size_t needed, have
        cdef const uint8_t* entry
        cdef uint32_t computed
        cdef bint copies = self.codec != CODEC_NONE
        cdef int64_t left
        cdef int full
        self.crc = crc32c_function()
        while chunk.data_bytes < target:
            self.stop.offset = self.offset
            left = self.end_offset - self.offset
            if left <= 0:
                self.stop.reason = STOP_END
                return
            if left <= <int64_t> self.header_bytes:
                self.stop.reason = STOP_NO_ROOM
                return
            needed = self.header_bytes
            have = self.raw_end - self.raw_pos
            if have < needed:
                if chunk.count and not copies:
                    return          # the chunk refers to the raw buffer, which must not move any more
                if self.refill(needed, target) != 0:
                    return
                have = self.raw_end - self.raw_pos
            if self.parse_header(self.raw + self.raw_pos) != 0:
                return
            needed += self.stop.stored_bytes
            if have < needed:
                if chunk.count and not copies:
                    return
                if self.refill(needed, target) != 0:
                    return
            entry = self.raw + self.raw_pos
            computed = crc32c_by(self.crc, 0, entry + self.header_bytes, self.stop.stored_bytes)
            if computed != self.stop.expected_crc:
                self.stop.computed_crc = computed
                self.stop.reason = STOP_BODY_CRC
                return
            if copies:
                full = self.append_copy(chunk, entry + self.header_bytes, target)
                if full != 0:
                    return
            else:
                if self.stop.stored_bytes != self.stop.data_bytes:
                    self.stop.reason = STOP_LENGTHS_DIFFER
                    return
                if _append_ref(chunk, self.offset, self.raw_pos + self.header_bytes, self.stop.data_bytes,
                               self.stop.stored_bytes) != 0:
                    self.stop.reason = STOP_MEMORY
                    return
            self.raw_pos += needed
            self.offset += <int64_t> needed

    cdef void set_outcome(self) except *:
        """Turn the reason into outcome, detail and kind; searches the rest of an unclosed segment."""
        cdef int reason = self.stop.reason
        cdef bint only_zeros = True
        cdef int64_t found = -1
        cdef int64_t first
        cdef uint8_t* window
        if reason == STOP_IO:
            raise DiskError(f"read failed: {os.strerror(self.stop.os_error)}", offset=self.offset)
        if reason == STOP_MEMORY:
            raise MemoryError
        if reason == STOP_END:
            self.outcome = "end"
            self.detail = ""
            return
        self.detail = self.describe()
        self.error_kind = _KINDS[reason].kind
        # A whole entry, checksums right, above our limits is not a torn one: stopping quietly would lose rows.
        if self.closed or reason == STOP_LENGTH_LIMIT or reason == STOP_RATIO:
            self.outcome = "corrupt"
            return
        window = <uint8_t*> malloc(SEARCH_BYTES)
        if window == NULL:
            raise MemoryError
        try:
            with nogil:
                # The bad header's own bytes only count for the question whether everything is zero.
                if self.file_size - self.offset <= <int64_t> self.header_bytes:
                    first = self.offset
                    _find_header(self.fd, first, self.file_size, self.header_bytes, window, &only_zeros)
                else:
                    first = self.offset + <int64_t> self.header_bytes
                    if self.stop.reason != STOP_HEADER_ZEROS:
                        only_zeros = False
                    found = _find_header(self.fd, first, self.file_size, self.header_bytes, window, &only_zeros)
        finally:
            free(window)
        if found <= -2:
            raise DiskError(f"read failed: {os.strerror(<int> (-2 - found))}", offset=self.offset)
        if found >= 0:
            self.outcome = "corrupt"
            self.detail += f"; what looks like an entry follows at offset {found}"
            return
        self.outcome = "zero_tail" if only_zeros else "torn_tail"
        self.error_kind = None if only_zeros else "torn_tail"

    cdef str describe(self):
        cdef int reason = self.stop.reason
        cdef int64_t body = self.stop.offset + <int64_t> self.header_bytes
        stored, size = self.stop.stored_bytes, self.stop.data_bytes
        if reason == STOP_NO_ROOM:
            return (f"truncated entry: {self.end_offset - self.stop.offset} bytes are left, an entry needs more than "
                    f"{self.header_bytes}")
        if reason == STOP_HEADER_ZEROS:
            return "preallocated space: the entry header is all zeros"
        if reason == STOP_HEADER_CRC:
            return (f"entry header checksum mismatch: expected {self.stop.expected_crc}, computed "
                    f"{self.stop.computed_crc}")
        if reason == STOP_LENGTH_ZERO:
            return "entry of length 0"
        if reason == STOP_BEYOND_FILE:
            return f"entry of {stored} bytes from offset {body} does not fit: the file ends at {self.file_size}"
        if reason == STOP_BODY_CRC:
            return (f"entry checksum mismatch in bytes {body} to {body + stored}: expected {self.stop.expected_crc}, "
                    f"computed {self.stop.computed_crc}")
        if reason == STOP_LENGTH_LIMIT:
            return f"entry of {stored} stored bytes, {size} after decompression, is above the limit of {LENGTH_MAX}"
        if reason == STOP_LENGTHS_DIFFER:
            return f"entry without compression has two lengths: {stored} stored, {size} after decompression"
        if reason == STOP_RATIO:
            return f"{stored} stored bytes cannot be {size} bytes compressed"
        if reason == STOP_DECOMPRESS:
            return f"cannot decompress the entry: {stored} stored bytes are not {size} bytes compressed"
        if reason == STOP_FILE_SHRANK:
            return f"the file became shorter than {self.file_size} bytes while it was read"
        return f"stopped for reason {reason}"


_KINDS = {
    STOP_NO_ROOM: Truncated, STOP_HEADER_ZEROS: BadChecksum, STOP_HEADER_CRC: BadChecksum,
    STOP_LENGTH_ZERO: BadFormat, STOP_BEYOND_FILE: Truncated, STOP_BODY_CRC: BadChecksum,
    STOP_LENGTH_LIMIT: LimitExceeded, STOP_LENGTHS_DIFFER: BadFormat, STOP_RATIO: LimitExceeded,
    STOP_DECOMPRESS: BadFormat, STOP_FILE_SHRANK: Truncated,
}


def read_batch_at(int fd, int64_t offset, *, int64_t file_size, int codec=CODEC_NONE, bint v1=False):
    """The one batch whose entry header is at `offset`, as a BatchChunk of length 1.

    Raises the typed error (BadChecksum, Truncated, BadFormat, LimitExceeded, DiskError) when it is not there whole.
    """
    cdef SegmentScanner scanner = SegmentScanner(
        fd, first_offset=offset, end_offset=file_size, file_size=file_size, codec=codec, v1=v1, closed=True)
    chunk = scanner.next_chunk(TARGET_BYTES_MIN)
    if chunk is None:
        if scanner.outcome == "end":
            raise Truncated(f"no entry here: the file ends at {file_size}", offset=offset)
        raise _KINDS.get(scanner.stop.reason, CorruptionError)(scanner.detail, offset=offset)
    if (<BatchChunk> chunk).count > 1:
        (<BatchChunk> chunk).count = 1
    return chunk
