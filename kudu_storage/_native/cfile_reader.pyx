"""Column files, read. docs/formats/cfile.md has the layout; knows one file at a time, nothing of rowsets or tablets.

Reads with pread from a descriptor that someone else keeps open: a file, or a window in a container.
 R1  Nothing of a block is looked at before its checksum was compared, and no length is followed or allocated for before
     it was compared with a limit or with the bytes at hand.
 R2  A block opened for a row starts at that row's entry in the positional index and holds exactly the rows up to the
     next.
 R3  Index trees are read once into flat lists (16 bytes and a key for each block), so a search touches no disk; the
     walk visits no more bytes than the file has, so a tree that points into itself ends.
 R4  prepare_*() load under the GIL and publish when complete; afterwards all is read-only and needs no lock.
Errors carry the path and the offset in it. A file whose footer says that it has no checksums is refused unless asked
for, since one flipped bit can say so too.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, EIO, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.binary_block cimport plain_free, plain_open, prefix_next, prefix_seek
from kudu_storage._native.block_cache cimport cached_block_new, cached_block_release, next_file_id
from kudu_storage._native.byte_buffer cimport buffer_append, buffer_append_fixed32, buffer_free, buffer_reserve
from kudu_storage._native.cfile_block cimport (
    BLOCK_PADDING_BYTES, DICT_CODES, ENCODING_BIT_SHUFFLE, ENCODING_DICT, ENCODING_PLAIN, ENCODING_PREFIX, ENCODING_RLE,
    column_reserve, decoder_free, decoder_init, decoder_mean_bytes, decoder_open, decoder_read, decoder_read_codes,
    decoder_value,
)
from kudu_storage._native.cfile_index cimport (
    IndexNode, compare_bytes, flat_append, flat_at_or_before, flat_free, flat_key, flat_pointer, node_entry, node_open,
)
from kudu_storage._native.codec cimport (
    CODEC_LZ4, CODEC_NONE, CODEC_SNAPPY, CODEC_ZLIB, codec_can_expand, codec_decompress,
)
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, block_init_column, block_new, block_release,
)
from kudu_storage._native.crc32c cimport crc32c_extend
from kudu_storage._native.cursor cimport Cursor, Field, cursor_left, cursor_of, read_field

import os

from kudu_storage.common import types as _types
from kudu_storage.common.limits import (
    CFILE_BLOCK_BYTES_MAX, CFILE_FOOTER_BYTES_MAX, CFILE_INDEX_DEPTH_MAX, CFILE_ROWS_MAX,
)
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import (
    BadChecksum, BadFormat, DiskError, ForeignFile, InvalidArgument, LimitExceeded, NewerVersion, NotFound, Truncated,
    Unsupported,
)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t pread(int fd, void* data, size_t size, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    int posix_fadvise(int fd, int64_t offset, int64_t size, int advice)
    enum: POSIX_FADV_WILLNEED

cdef enum:
    MAGIC_BYTES = 8
    LENGTH_BYTES = 4
    CHECKSUM_BYTES = 4
    READ_AHEAD_BYTES = 1048576
    EXPECTED_BYTES_MAX = 16777216
    FAIL_CHECKSUM = 1
    FAIL_FORMAT = 2
    FAIL_TRUNCATED = 3
    FAIL_LIMIT = 4
    FAIL_MEMORY = 5
    FEATURE_CHECKSUMS = 1
    FEATURE_ARRAYS = 2

cdef bytes MAGIC = b"kuducfl2"
cdef bytes MAGIC_V1 = b"kuducfil"
cdef uint64_t _block_bytes_max = CFILE_BLOCK_BYTES_MAX
cdef int _depth_max = CFILE_INDEX_DEPTH_MAX
_FAILURES = {FAIL_CHECKSUM: BadChecksum, FAIL_FORMAT: BadFormat, FAIL_TRUNCATED: Truncated, FAIL_LIMIT: LimitExceeded}
ENCODINGS = {ENCODING_PLAIN: "PLAIN_ENCODING", ENCODING_PREFIX: "PREFIX_ENCODING", ENCODING_RLE: "RLE",
             ENCODING_DICT: "DICT_ENCODING", ENCODING_BIT_SHUFFLE: "BIT_SHUFFLE"}
COMPRESSIONS = {CODEC_NONE: "NO_COMPRESSION", CODEC_SNAPPY: "SNAPPY", CODEC_LZ4: "LZ4", CODEC_ZLIB: "ZLIB"}


cdef inline uint32_t fixed32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef int64_t pread_all(int fd, uint8_t* data, size_t size, int64_t offset) noexcept nogil:
    """Bytes read, fewer than `size` at the end of the file; or -errno."""
    cdef size_t done = 0
    cdef Py_ssize_t got
    while done < size:
        got = pread(fd, data + done, size - done, offset + <int64_t> done)
        if got < 0:
            if errno == EINTR:
                continue
            return -<int64_t> errno
        if got == 0:
            break
        done += <size_t> got
    return <int64_t> done


cdef tuple allowed_encodings(object column_type):
    """What Kudu's writer can have chosen for a type; anything else is no file of it."""
    if column_type.is_binary:
        return ENCODING_PLAIN, ENCODING_DICT, ENCODING_PREFIX
    if column_type.name == "BOOL":
        return ENCODING_PLAIN, ENCODING_RLE
    if column_type.name in ("FLOAT", "DOUBLE", "DECIMAL128"):
        return ENCODING_PLAIN, ENCODING_BIT_SHUFFLE
    return ENCODING_PLAIN, ENCODING_BIT_SHUFFLE, ENCODING_RLE


cdef BlockPointer read_pointer(Field* field, bint* ok) noexcept nogil:
    """BlockPointerPB{1: offset, 2: size}."""
    cdef Cursor cursor = cursor_of(field.bytes.data, field.bytes.size)
    cdef Field inner
    cdef BlockPointer pointer
    cdef int seen = 0
    pointer.offset = 0
    pointer.size = 0
    while cursor_left(&cursor):
        if not read_field(&cursor, &inner):
            seen = 0
            break
        if inner.number == 1 and inner.wire == 0:
            pointer.offset = inner.value
            seen |= 1
        elif inner.number == 2 and inner.wire == 0 and inner.value <= <uint64_t> 0x7FFFFFFF:
            pointer.size = <uint32_t> inner.value
            seen |= 2
    ok[0] = seen == 3
    return pointer


cdef BlockPointer read_tree(Field* field, bint* ok) noexcept nogil:
    """BTreeInfoPB{1: root_block}."""
    cdef Cursor cursor = cursor_of(field.bytes.data, field.bytes.size)
    cdef Field inner
    cdef BlockPointer pointer
    pointer.offset = 0
    pointer.size = 0
    ok[0] = False
    while cursor_left(&cursor):
        if not read_field(&cursor, &inner):
            ok[0] = False
            return pointer
        if inner.number == 1 and inner.wire == 2:
            pointer = read_pointer(&inner, ok)
    return pointer


cdef class CFileReader:
    def __cinit__(self, *arguments, **named):
        self.dictionary_block = NULL

    def __init__(self, int fd, offset, length, *, name=None, owner=None, BlockCache cache=None, file_id=None,
                 bint allow_unchecked=False):
        if offset < 0 or length < 0 or offset + length >= 1 << 62:
            raise InvalidArgument(f"a column file at {offset} of {length} bytes")
        if self.metadata is not None:
            raise InvalidArgument("a reader is opened once")
        self.fd = fd
        self.base = offset
        self.length = length
        self.name = name
        self.owner = owner
        self.cache = cache
        self.file_id = next_file_id() if file_id is None else file_id
        self.metadata = {}
        self._read_header()
        self._read_footer(allow_unchecked)

    def __dealloc__(self):
        flat_free(&self.positions)
        flat_free(&self.values)
        buffer_free(&self.first_rows)
        plain_free(&self.dictionary_plain)
        cached_block_release(self.dictionary_block)

    # -- errors --------------------------------------------------------------------------------------------------------
    cdef int fail(self, int kind, uint64_t offset, const char* why) except -1 with gil:
        if kind == FAIL_MEMORY:
            raise MemoryError(why.decode())
        if kind <= 0:
            error = DiskError(f"cannot read a column file: {os.strerror(-kind or EIO)}", path=self.name,
                              offset=self.base + offset)
            error.errno = -kind
            raise error
        raise _FAILURES[kind](why.decode(), path=self.name, offset=self.base + offset,
                              advice="another replica of this tablet")

    # -- header and footer ---------------------------------------------------------------------------------------------
    cdef bytes _raw(self, uint64_t offset, uint64_t size):
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef char* target = PyBytes_AS_STRING(data)
        cdef int64_t got
        if offset > self.length or size > self.length - offset:
            self.fail(FAIL_TRUNCATED, offset, b"a column file is shorter than its header and footer")
        with nogil:
            got = pread_all(self.fd, <uint8_t*> target, size, self.base + <int64_t> offset)
        if got < 0:
            self.fail(<int> got, offset, b"")
        if <uint64_t> got < size:
            self.fail(FAIL_TRUNCATED, offset + <uint64_t> got, b"a column file ends before its length")
        return data

    cdef int _read_header(self) except -1:
        cdef bytes start = self._raw(0, MAGIC_BYTES + LENGTH_BYTES)
        cdef uint64_t size
        cdef bytes rest, whole
        if start[:MAGIC_BYTES] == MAGIC_V1:
            raise Unsupported("a column file of format version 1, as written up to release 1.2", path=self.name,
                              offset=self.base, advice="rewriting it with a Kudu release that still reads it")
        if start[:MAGIC_BYTES] != MAGIC:
            raise ForeignFile(f"not a column file: it starts with {start[:MAGIC_BYTES]!r}", path=self.name,
                              offset=self.base)
        size = int.from_bytes(start[MAGIC_BYTES:], "little")
        if size > CFILE_FOOTER_BYTES_MAX:
            self.fail(FAIL_LIMIT, MAGIC_BYTES, b"a column file's header is above its limit")
        rest = self._raw(len(start), size + CHECKSUM_BYTES)
        whole = start + rest[:size]
        if crc32c_extend(0, whole, len(whole)) != int.from_bytes(rest[size:], "little"):
            # Files without checksums have a block here; _read_footer() says whether this is one.
            self.checksums = False
        else:
            self.checksums = True
        return 0

    cdef int _read_footer(self, bint allow_unchecked) except -1:
        cdef bytes tail = self._raw(max(self.length, 12) - 12, 12)
        cdef uint64_t size = int.from_bytes(tail[8:], "little"), at
        cdef bytes footer, checked
        cdef bint matches
        if tail[:MAGIC_BYTES] != MAGIC:
            self.fail(FAIL_FORMAT, self.length - 12, b"a column file does not end with its magic")
        if size > CFILE_FOOTER_BYTES_MAX:
            self.fail(FAIL_LIMIT, self.length - 4, b"a column file's footer is above its limit")
        if size + 12 + CHECKSUM_BYTES > self.length:
            self.fail(FAIL_TRUNCATED, 0, b"a column file is shorter than its header and footer")
        at = self.length - 12 - size - CHECKSUM_BYTES
        checked = self._raw(at, size + 12 + CHECKSUM_BYTES)
        footer = checked[CHECKSUM_BYTES:CHECKSUM_BYTES + size]
        matches = crc32c_extend(0, <const uint8_t*> PyBytes_AS_STRING(checked) + CHECKSUM_BYTES, size + 12) \
            == int.from_bytes(checked[:CHECKSUM_BYTES], "little")
        if not matches and not allow_unchecked:
            self.fail(FAIL_CHECKSUM, at, b"a column file's footer checksum does not match")
        self._parse_footer(footer, allow_unchecked)
        if self.row_count > <uint64_t> CFILE_ROWS_MAX:
            self.fail(FAIL_LIMIT, at, b"a column file's row count is above its limit")
        if self.shape.nullable and self.has_values:
            self.fail(FAIL_FORMAT, at, b"a value index over a nullable column")
        if matches != self.checksums:
            self.fail(FAIL_CHECKSUM, 0, b"a column file's header checksum does not match")
        return 0

    cdef int _parse_footer(self, bytes footer, bint allow_unchecked) except -1:
        cdef Cursor cursor = cursor_of(<const uint8_t*> PyBytes_AS_STRING(footer), PyBytes_GET_SIZE(footer))
        cdef Field field
        cdef int encoding = -1
        cdef int64_t number = -1
        cdef uint64_t features = 0, at = self.length - 12 - PyBytes_GET_SIZE(footer)
        cdef bint ok = True, counted = False
        self.codec = CODEC_NONE
        while cursor_left(&cursor):
            if not read_field(&cursor, &field):
                self.fail(FAIL_FORMAT, at, b"a column file's footer is malformed")
            if field.number == 1 and field.wire == 0:
                number = <int64_t> field.value
            elif field.number == 2 and field.wire == 0:
                encoding = <int> field.value
            elif field.number == 3 and field.wire == 0:
                self.row_count = field.value
                counted = True
            elif field.number == 4 and field.wire == 2:
                self.positions_root = read_tree(&field, &ok)
                self.has_positions = True
            elif field.number == 5 and field.wire == 2:
                self.values_root = read_tree(&field, &ok)
                self.has_values = True
            elif field.number == 6 and field.wire == 0:
                self.codec = <int> field.value
            elif field.number == 7 and field.wire == 2:
                ok = read_pair(&field, self.metadata)
            elif field.number == 8 and field.wire == 0:
                self.shape.nullable = field.value != 0
            elif field.number == 9 and field.wire == 2:
                self.dictionary_pointer = read_pointer(&field, &ok)
                self.has_dictionary = True
            elif field.number == 10 and field.wire == 0:
                features = field.value
            elif field.number == 12 and field.wire == 0 and field.value:
                features |= FEATURE_ARRAYS
            if not ok:
                self.fail(FAIL_FORMAT, at, b"a column file's footer is malformed")
        if number < 0 or not counted or encoding < 0:
            self.fail(FAIL_FORMAT, at, b"a column file's footer lacks its type, encoding or count")
        if features & FEATURE_ARRAYS:
            raise Unsupported("a column of arrays", path=self.name, advice="a newer version of kudu-storage")
        self.type = _types.by_number(number)
        return self._check_footer(encoding, features, allow_unchecked)

    cdef int _check_footer(self, int encoding, uint64_t features, bint allow_unchecked) except -1:
        if features & ~(<uint64_t> FEATURE_CHECKSUMS):
            raise NewerVersion(f"column file features {features:#x} are not all known", path=self.name,
                               advice="a newer version of kudu-storage")
        if not features & FEATURE_CHECKSUMS and not allow_unchecked:
            raise Unsupported("a column file without checksums: damage in it would not show", path=self.name,
                              advice="opening it with allow_unchecked=True")
        if features & FEATURE_CHECKSUMS == 0:
            self.checksums = False
        elif not self.checksums:
            self.fail(FAIL_CHECKSUM, 0, b"a column file's header checksum does not match")
        if encoding not in allowed_encodings(self.type):
            raise BadFormat(f"encoding {ENCODINGS.get(encoding, encoding)} of a {self.type.name} column",
                            path=self.name, offset=self.base + self.length)
        if self.codec not in COMPRESSIONS:
            raise BadFormat(f"compression codec {self.codec} is not known", path=self.name,
                            offset=self.base + self.length)
        if (encoding == ENCODING_DICT) != self.has_dictionary:
            raise BadFormat("a dictionary without the encoding, or the other way round", path=self.name,
                            offset=self.base + self.length)
        self.shape.encoding = encoding
        self.shape.width = self.type.width_bytes
        self.shape.is_bool = self.type.name == "BOOL"
        return 0

    # -- blocks --------------------------------------------------------------------------------------------------------
    cdef CachedBlock* fetch(self, BlockPointer pointer) except NULL nogil:
        return self.fetch_told(pointer, NULL)

    cdef CachedBlock* fetch_told(self, BlockPointer pointer, bint* from_disk) except NULL nogil:
        cdef CachedBlock* block
        cdef CachedBlock* body
        cdef size_t overhead = CHECKSUM_BYTES if self.checksums else 0
        cdef int64_t got
        cdef uint32_t expanded
        cdef size_t stored
        if pointer.offset > self.length or pointer.size > self.length - pointer.offset:
            self.fail(FAIL_FORMAT, pointer.offset, b"a block pointer leads outside of the column file")
            return NULL
        if self.cache is not None:
            block = self.cache.find(self.file_id, pointer.offset)
            if block != NULL:
                return block
        if from_disk != NULL:
            from_disk[0] = True
        if pointer.size < overhead:
            self.fail(FAIL_FORMAT, pointer.offset, b"a block is shorter than its checksum")
            return NULL
        if pointer.size > _block_bytes_max:
            self.fail(FAIL_LIMIT, pointer.offset, b"a block is above the size limit")
            return NULL
        block = cached_block_new(self.file_id, pointer.offset, pointer.size)
        if block == NULL:
            self.fail(FAIL_MEMORY, pointer.offset, b"no memory for a block")
            return NULL
        got = pread_all(self.fd, block.data, pointer.size, self.base + <int64_t> pointer.offset)
        if got != <int64_t> pointer.size:
            cached_block_release(block)
            self.fail(<int> got if got < 0 else FAIL_TRUNCATED, pointer.offset, b"a column file ends before its length")
            return NULL
        block.size = pointer.size - overhead
        if self.checksums and crc32c_extend(0, block.data, block.size) != fixed32(block.data + block.size):
            cached_block_release(block)
            self.fail(FAIL_CHECKSUM, pointer.offset, b"a block's checksum does not match")
            return NULL
        if self.codec != CODEC_NONE:
            if block.size < 4:
                cached_block_release(block)
                self.fail(FAIL_FORMAT, pointer.offset, b"a compressed block is shorter than its header")
                return NULL
            expanded = fixed32(block.data)
            stored = block.size - 4
            if expanded > _block_bytes_max or \
                    (expanded != stored and not codec_can_expand(self.codec, stored, expanded)):
                cached_block_release(block)
                self.fail(FAIL_LIMIT, pointer.offset, b"a compressed block's size is above its limit")
                return NULL
            body = cached_block_new(self.file_id, pointer.offset, expanded)
            if body == NULL:
                cached_block_release(block)
                self.fail(FAIL_MEMORY, pointer.offset, b"no memory for a block")
                return NULL
            if expanded == stored:
                memcpy(body.data, block.data + 4, stored)
                got = 0
            else:
                got = codec_decompress(self.codec, block.data + 4, stored, body.data, expanded)
            cached_block_release(block)
            block = body
            if got:
                cached_block_release(block)
                self.fail(FAIL_FORMAT, pointer.offset, b"a block does not decompress to its size")
                return NULL
        if self.cache is not None:
            self.cache.put(block)
        return block

    # -- indexes -------------------------------------------------------------------------------------------------------
    cdef int _walk(self, BlockPointer pointer, FlatIndex* flat, int depth, uint64_t* budget) except -1 nogil:
        """Appends the leaf entries below a node."""
        cdef CachedBlock* block
        cdef IndexNode node
        cdef BlockPointer child
        cdef const uint8_t* key
        cdef size_t key_size
        cdef uint32_t i
        if pointer.size > budget[0] or depth > _depth_max:
            return self.fail(FAIL_FORMAT, pointer.offset,
                             b"an index tree is larger than its file, or leads in a circle")
        budget[0] -= pointer.size
        block = self.fetch(pointer)
        try:
            if node_open(&node, block.data, block.size):
                return self.fail(FAIL_FORMAT, pointer.offset, node.why)
            for i in range(node.count):
                if node_entry(&node, i, &key, &key_size, &child):
                    return self.fail(FAIL_FORMAT, pointer.offset, node.why)
                if child.offset > self.length or child.size > self.length - child.offset or child.size == 0:
                    return self.fail(FAIL_FORMAT, pointer.offset, b"an index entry leads outside of the column file")
                if not node.leaf:
                    self._walk(child, flat, depth + 1, budget)
                elif flat_append(flat, key, key_size, &child):
                    return self.fail(FAIL_MEMORY, pointer.offset, b"no memory for an index")
        finally:
            cached_block_release(block)
        return 0

    cdef int _rows_from_index(self, FlatIndex* flat, ByteBuffer* rows) except -1:
        cdef uint32_t i, row, previous = 0
        cdef size_t size
        cdef const uint8_t* key
        for i in range(flat.count):
            key = flat_key(flat, i, &size)
            if size != 4:
                self.fail(FAIL_FORMAT, self.positions_root.offset, b"a positional index key is not 4 bytes long")
            row = (<uint32_t> key[0] << 24) | (<uint32_t> key[1] << 16) | (<uint32_t> key[2] << 8) | key[3]
            if (row <= previous if i else row != 0) or row >= self.row_count:
                self.fail(FAIL_FORMAT, self.positions_root.offset, b"a positional index is not in order")
            previous = row
            if buffer_append_fixed32(rows, row):
                raise MemoryError
        if (flat.count == 0) != (self.row_count == 0):
            self.fail(FAIL_FORMAT, self.positions_root.offset, b"a positional index does not go with the row count")
        return 0

    cdef int _rows_from_blocks(self, FlatIndex* flat, ByteBuffer* rows) except -1:
        """For files without a positional index: the ordinals are in the blocks themselves."""
        cdef BlockDecoder decoder
        cdef CachedBlock* block
        cdef uint64_t expected = 0
        cdef uint32_t i
        decoder_init(&decoder, &self.shape)
        try:
            for i in range(flat.count):
                block = self.fetch(flat_pointer(flat, i))
                try:
                    if decoder_open(&decoder, block.data, block.size):
                        self.fail(FAIL_FORMAT, flat_pointer(flat, i).offset, decoder.why)
                    if decoder.first_row != expected or decoder.row_count == 0:
                        self.fail(FAIL_FORMAT, flat_pointer(flat, i).offset,
                                  b"a block's rows do not follow the ones before")
                    expected += decoder.row_count
                finally:
                    cached_block_release(block)
                if expected > self.row_count or buffer_append_fixed32(rows, <uint32_t> decoder.first_row):
                    self.fail(FAIL_FORMAT, flat_pointer(flat, i).offset, b"blocks hold more rows than the file")
            if expected != self.row_count:
                self.fail(FAIL_FORMAT, self.values_root.offset, b"blocks hold fewer rows than the file")
        finally:
            decoder_free(&decoder)
        return 0

    cpdef int prepare_rows(self) except -1:
        cdef FlatIndex flat
        cdef ByteBuffer rows
        cdef uint64_t budget = self.length
        if self.positions_ready:
            return 0
        if self.has_dictionary and not self.dictionary_ready:
            self._load_dictionary()
        memset(&flat, 0, sizeof(flat))
        memset(&rows, 0, sizeof(rows))
        try:
            if self.has_positions:
                self._walk(self.positions_root, &flat, 0, &budget)
                self._rows_from_index(&flat, &rows)
            elif self.has_values:
                self._walk(self.values_root, &flat, 0, &budget)
                self._rows_from_blocks(&flat, &rows)
            elif self.row_count:
                self.fail(FAIL_FORMAT, self.length, b"a column file with rows and without an index")
            if not self.positions_ready:        # another thread may have come first while a read let go of the GIL
                self.positions, flat = flat, self.positions
                self.first_rows, rows = rows, self.first_rows
                self.positions_ready = True
        finally:
            flat_free(&flat)
            buffer_free(&rows)
        return 0

    cpdef int prepare_keys(self) except -1:
        cdef FlatIndex flat
        cdef uint64_t budget = self.length
        if self.values_ready:
            return 0
        if not self.has_values:
            raise InvalidArgument("this column file has no value index", path=self.name)
        if self.has_dictionary and not self.dictionary_ready:
            self._load_dictionary()
        memset(&flat, 0, sizeof(flat))
        try:
            self._walk(self.values_root, &flat, 0, &budget)
            if not self.values_ready:
                self.values, flat = flat, self.values
                self.values_ready = True
        finally:
            flat_free(&flat)
        return 0

    cdef int _load_dictionary(self) except -1:
        cdef CachedBlock* block = self.fetch(self.dictionary_pointer)
        cdef PlainBlock plain
        memset(&plain, 0, sizeof(plain))
        try:
            if plain_open(&plain, block.data, block.size):
                self.fail(FAIL_FORMAT, self.dictionary_pointer.offset, plain.why)
            if not self.dictionary_ready:
                self.dictionary_plain, plain = plain, self.dictionary_plain
                self.dictionary_block, block = block, self.dictionary_block
                self.dictionary.data = self.dictionary_plain.data
                self.dictionary.offsets = self.dictionary_plain.offsets
                self.dictionary.count = self.dictionary_plain.count
                self.dictionary_ready = True
        finally:
            plain_free(&plain)
            cached_block_release(block)
        return 0

    # -- for Python ----------------------------------------------------------------------------------------------------
    @property
    def num_values(self):
        return self.row_count

    @property
    def is_nullable(self):
        return bool(self.shape.nullable)

    @property
    def encoding(self):
        return ENCODINGS[self.shape.encoding]

    @property
    def compression(self):
        return COMPRESSIONS[self.codec]

    @property
    def has_value_index(self):
        return bool(self.has_values)

    @property
    def has_positional_index(self):
        return bool(self.has_positions)

    @property
    def block_cache_id(self):
        return self.file_id

    @property
    def block_count(self):
        self.prepare_rows()
        return self.positions.count

    def block_rows(self):
        """The first row of each data block."""
        self.prepare_rows()
        return [(<const uint32_t*> self.first_rows.data)[i] for i in range(self.positions.count)]

    def block_pointers(self):
        """(offset, size) of each data block in row order."""
        self.prepare_rows()
        return [(flat_pointer(&self.positions, i).offset, flat_pointer(&self.positions, i).size)
                for i in range(self.positions.count)]

    def index_keys(self):
        """The keys of the value index's leaves."""
        cdef size_t size
        cdef const uint8_t* key
        cdef list keys = []
        self.prepare_keys()
        for i in range(self.values.count):
            key = flat_key(&self.values, i, &size)
            keys.append(PyBytes_FromStringAndSize(<const char*> key, size))
        return keys

    def dictionary_values(self):
        """The dictionary's byte strings by codeword."""
        if not self.has_dictionary:
            raise InvalidArgument("this column file has no dictionary", path=self.name)
        if not self.dictionary_ready:
            self._load_dictionary()
        return [self.dictionary.data[self.dictionary.offsets[i]:self.dictionary.offsets[i + 1]]
                for i in range(self.dictionary.count)]

    def cursor(self):
        return ColumnCursor(self)


cdef bint read_pair(Field* field, dict metadata) except -1:
    """FileMetadataPairPB{1: key, 2: value}."""
    cdef Cursor cursor = cursor_of(field.bytes.data, field.bytes.size)
    cdef Field inner
    key = value = None
    while cursor_left(&cursor):
        if not read_field(&cursor, &inner):
            return False
        if inner.wire == 2 and inner.number == 1:
            key = PyBytes_FromStringAndSize(<const char*> inner.bytes.data, inner.bytes.size)
        elif inner.wire == 2 and inner.number == 2:
            value = PyBytes_FromStringAndSize(<const char*> inner.bytes.data, inner.bytes.size)
    if key is None or value is None:
        return False
    metadata[key.decode("utf-8", "surrogateescape")] = value
    return True


# -- predicates on byte strings ----------------------------------------------------------------------------------------
cdef class ValueFilter:
    def __init__(self, CFileReader reader not None, *, lower=None, upper=None, equal=None):
        cdef uint32_t i
        if self.matches != NULL or not reader.type.is_binary:
            raise InvalidArgument("a value filter is for a column of byte strings, and made once", path=reader.name)
        self.reader = reader
        self.equal = equal is not None
        self.lower = equal if self.equal else lower
        self.upper = None if self.equal else upper
        self.has_lower = self.lower is not None
        self.has_upper = self.upper is not None
        if self.has_lower:
            self.lower_data = <const uint8_t*> PyBytes_AS_STRING(self.lower)
            self.lower_size = PyBytes_GET_SIZE(self.lower)
        if self.has_upper:
            self.upper_data = <const uint8_t*> PyBytes_AS_STRING(self.upper)
            self.upper_size = PyBytes_GET_SIZE(self.upper)
        if reader.has_dictionary and not reader.dictionary_ready:
            reader._load_dictionary()
        self.matches = <uint8_t*> calloc(<size_t> reader.dictionary.count + 1, 1)
        if self.matches == NULL:
            raise MemoryError
        for i in range(reader.dictionary.count):
            self.matches[i] = self.accepts(reader.dictionary.data + reader.dictionary.offsets[i],
                                           reader.dictionary.offsets[i + 1] - reader.dictionary.offsets[i])
            self.match_count += self.matches[i]

    def __dealloc__(self):
        free(self.matches)

    cdef bint accepts(self, const uint8_t* value, size_t size) noexcept nogil:
        if self.equal:
            return size == self.lower_size and memcmp(value, self.lower_data, size) == 0
        if self.has_lower and compare_bytes(value, size, self.lower_data, self.lower_size) < 0:
            return False
        return not self.has_upper or compare_bytes(value, size, self.upper_data, self.upper_size) < 0


# -- one column of a scan ----------------------------------------------------------------------------------------------
cdef inline uint64_t encode_key(const uint8_t* value, size_t width, uint8_t* out) noexcept nogil:
    """A little-endian signed integer as its key: big-endian, sign bit flipped."""
    cdef size_t i
    for i in range(width):
        out[i] = value[width - 1 - i]
    out[0] ^= 0x80
    return width


cdef class ColumnCursor:
    def __cinit__(self, CFileReader reader not None):
        if reader.has_positions or not reader.has_values:
            reader.prepare_rows()
        else:
            reader.prepare_keys()
        self.reader = reader
        self.block_index = -1
        decoder_init(&self.decoder, &reader.shape)

    def __dealloc__(self):
        decoder_free(&self.decoder)
        cached_block_release(self.block)
        buffer_free(&self.codes)
        free(self.scratch.validity)
        free(self.scratch.offsets)
        free(self.scratch.data)

    cdef int _refuse(self) except -1 nogil:
        return self.reader.fail(FAIL_FORMAT, self.pointer.offset, self.decoder.why)

    cdef void _read_ahead(self, int64_t index) noexcept nogil:
        """Once a cursor goes on from one block to the next, keep the kernel a window ahead of it."""
        cdef uint64_t at = self.pointer.offset + self.pointer.size, end
        if index != self.block_index + 1 or index == 0 or at + READ_AHEAD_BYTES // 2 < self.advised_to:
            return
        end = min(at + READ_AHEAD_BYTES, self.reader.length)
        if end > at:
            posix_fadvise(self.reader.fd, self.reader.base + <int64_t> at, <int64_t> (end - at), POSIX_FADV_WILLNEED)
        self.advised_to = end

    cdef int open_block(self, BlockPointer pointer, int64_t index) except -1 nogil:
        cdef CachedBlock* block
        cdef uint64_t first, end
        cdef bint from_disk = False
        if self.block != NULL and self.pointer.offset == pointer.offset:
            return 0
        block = self.reader.fetch_told(pointer, &from_disk)
        cached_block_release(self.block)
        self.block = block
        self.pointer = pointer
        if index >= 0 and from_disk:
            self._read_ahead(index)
        self.block_index = -1
        self.block_first = 0
        self.block_end = 0
        if decoder_open(&self.decoder, block.data, block.size):
            self.pointer.offset = pointer.offset
            cached_block_release(self.block)
            self.block = NULL
            return self._refuse()
        first = self.decoder.first_row
        end = first + self.decoder.row_count
        if index >= 0 and (first != (<const uint32_t*> self.reader.first_rows.data)[index] or end !=
                           ((<const uint32_t*> self.reader.first_rows.data)[index + 1]
                            if index + 1 < self.reader.positions.count else self.reader.row_count)) \
                or end > self.reader.row_count:
            cached_block_release(self.block)
            self.block = NULL
            return self.reader.fail(FAIL_FORMAT, pointer.offset, b"a block does not hold the rows that the index says")
        self.block_first = first
        self.block_end = end
        self.block_index = index
        return 0

    cdef int open_row(self, uint64_t row) except -1 nogil:
        cdef const uint32_t* first_rows = <const uint32_t*> self.reader.first_rows.data
        cdef int64_t low = 0, high = self.reader.positions.count, middle
        if self.block != NULL and self.block_first <= row < self.block_end:
            return 0
        if row >= self.reader.row_count or not self.reader.positions_ready:
            return self.reader.fail(FAIL_FORMAT, self.reader.length,
                                    b"a row above the column file's count, or not prepared")
        if self.block_index >= 0 and row == self.block_end:
            low = self.block_index + 2
        else:
            while low < high:       # blocks below `low` start at or before the row
                middle = (low + high) // 2
                if first_rows[middle] <= row:
                    low = middle + 1
                else:
                    high = middle
        self.open_block(flat_pointer(&self.reader.positions, <uint32_t> (low - 1)), low - 1)
        return 0

    cdef int read(self, uint64_t first, uint64_t count, ColumnBuffers* out, int64_t at) except -1 nogil:
        cdef uint64_t taken
        cdef size_t expected
        while count:
            self.open_row(first)
            taken = min(count, self.block_end - first)
            if taken < count and out.kind == KIND_BINARY:   # room for all at once, if the next blocks are like this one
                expected = min(decoder_mean_bytes(&self.decoder) * count, <size_t> EXPECTED_BYTES_MAX)
                if expected:
                    column_reserve(out, expected)
            if decoder_read(&self.decoder, first - self.block_first, taken, &self.reader.dictionary, out, at):
                return self._refuse()
            first += taken
            at += <int64_t> taken
            count -= taken
        return 0

    cdef int read_ranges(self, const RowRange* ranges, int64_t range_count, ColumnBuffers* out,
                         int64_t at) except -1 nogil:
        cdef int64_t i
        for i in range(range_count):
            self.read(ranges[i].first, ranges[i].end - ranges[i].first, out, at)
            at += <int64_t> (ranges[i].end - ranges[i].first)
        return 0

    cdef int64_t read_selected(self, uint64_t first, uint64_t count, const uint8_t* selection, ColumnBuffers* out,
                               int64_t at) except -1 nogil:
        cdef uint64_t i = 0, start
        cdef int64_t begin = at
        while i < count:
            if i & 7 == 0 and selection[i >> 3] == 0:
                i += 8
                continue
            if not (selection[i >> 3] >> (i & 7)) & 1:
                i += 1
                continue
            start = i
            while i < count and (selection[i >> 3] >> (i & 7)) & 1:
                i += 1
            self.read(first + start, i - start, out, at)
            at += <int64_t> (i - start)
        return at - begin

    cdef int64_t read_codes(self, uint64_t first, uint64_t count, uint32_t* codes, uint8_t* validity, int64_t at,
                            int64_t* null_count) except -1 nogil:
        cdef uint64_t taken
        cdef int64_t begin = at
        while count:
            self.open_row(first)
            if self.decoder.mode != DICT_CODES:
                break
            taken = min(count, self.block_end - first)
            if decoder_read_codes(&self.decoder, first - self.block_first, taken, &self.reader.dictionary, codes,
                                  validity,
                                  at, null_count):
                return self._refuse()
            first += taken
            at += <int64_t> taken
            count -= taken
        return at - begin

    cdef int _reserve_scratch(self, int64_t rows) except -1 nogil:
        """`scratch` becomes an empty binary column with room for `rows`."""
        cdef void* grown
        if rows > self.scratch_rows:
            grown = realloc(self.scratch.validity, <size_t> (rows + 7) // 8 + 1)
            if grown == NULL:
                return self.reader.fail(FAIL_MEMORY, 0, b"no memory for a batch")
            self.scratch.validity = <uint8_t*> grown
            grown = realloc(self.scratch.offsets, <size_t> (rows + 1) * sizeof(int32_t))
            if grown == NULL:
                return self.reader.fail(FAIL_MEMORY, 0, b"no memory for a batch")
            self.scratch.offsets = <int32_t*> grown
            self.scratch_rows = rows
        self.scratch.kind = KIND_BINARY
        self.scratch.offsets[0] = 0
        self.scratch.data_bytes = 0
        self.scratch.null_count = 0
        return 0

    cdef int apply_filter(self, ValueFilter filter, uint64_t first, uint64_t count, uint8_t* selection,
                          int64_t at) except -1 nogil:
        cdef uint64_t taken, i
        cdef int64_t nulls = 0, bit
        cdef uint32_t* codes
        cdef const int32_t* ends
        cdef bint keep
        while count:
            self.open_row(first)
            taken = min(count, self.block_end - first)
            taken = min(taken, <uint64_t> 65536)
            self._reserve_scratch(<int64_t> taken)
            if self.decoder.mode == DICT_CODES:
                if buffer_reserve(&self.codes, taken * sizeof(uint32_t)):
                    return self.reader.fail(FAIL_MEMORY, 0, b"no memory for a batch")
                codes = <uint32_t*> self.codes.data
                if decoder_read_codes(&self.decoder, first - self.block_first, taken, &self.reader.dictionary, codes,
                                      self.scratch.validity, 0, &nulls):
                    return self._refuse()
                for i in range(taken):
                    bit = at + <int64_t> i
                    keep = filter.matches[codes[i]] and (self.scratch.validity[i >> 3] >> (i & 7)) & 1
                    selection[bit >> 3] &= <uint8_t> ~(<uint32_t> (not keep) << (bit & 7))
            else:
                if decoder_read(&self.decoder, first - self.block_first, taken, &self.reader.dictionary,
                                &self.scratch, 0):
                    return self._refuse()
                ends = self.scratch.offsets
                for i in range(taken):
                    bit = at + <int64_t> i
                    keep = (self.scratch.validity[i >> 3] >> (i & 7)) & 1 and \
                        filter.accepts(self.scratch.data + ends[i], <size_t> (ends[i + 1] - ends[i]))
                    selection[bit >> 3] &= <uint8_t> ~(<uint32_t> (not keep) << (bit & 7))
            first += taken
            at += <int64_t> taken
            count -= taken
        return 0

    # -- keys ----------------------------------------------------------------------------------------------------------
    cdef int64_t open_leaf(self, uint32_t index) except -1 nogil:
        if index >= self.reader.values.count:
            return self.reader.fail(FAIL_FORMAT, self.reader.length, b"a block above the value index's count")
        self.open_block(flat_pointer(&self.reader.values, index), -1)
        return <int64_t> self.decoder.row_count

    cdef int _compare(self, uint64_t row, const uint8_t* key, size_t size, int* order) except -1 nogil:
        """The block's row against an encoded key."""
        cdef uint8_t[16] scratch
        cdef uint8_t[16] encoded
        cdef const uint8_t* data
        cdef size_t data_size
        if decoder_value(&self.decoder, row, &self.reader.dictionary, scratch, &data, &data_size):
            return self._refuse()
        if self.reader.shape.width:
            data_size = encode_key(data, data_size, encoded)
            data = encoded
        order[0] = compare_bytes(data, data_size, key, size)
        return 0

    cdef int _lower_bound(self, const uint8_t* key, size_t size, uint64_t* row, bint* exact) except -1 nogil:
        """The open block's first row whose key is >= `key`; its row count when there is none."""
        cdef uint64_t low = 0, high = self.decoder.row_count, middle, step = 1
        cdef int order = -1
        exact[0] = False
        if self.reader.shape.encoding == ENCODING_BIT_SHUFFLE \
                and self.decoder.shuffled.held < self.decoder.shuffled.piece_count:
            near_held(self, key, size, &low, &high)
        if self.reader.shape.encoding == ENCODING_PREFIX and self.decoder.prefix.restart_count:
            step = self.decoder.prefix.interval     # rows between restart points are found by reading on
            low = 0
            high = <uint64_t> self.decoder.prefix.restart_count + 1
        while low < high:
            middle = (low + high) // 2
            self._compare(middle * step, key, size, &order)
            if order < 0:
                low = middle + 1
            else:
                high = middle
        if step > 1:
            low = (low - 1) * step if low else 0
            while low < self.decoder.row_count:
                self._compare(low, key, size, &order)
                if order >= 0:
                    break
                low += 1
        elif low < self.decoder.row_count:
            self._compare(low, key, size, &order)
        exact[0] = low < self.decoder.row_count and order == 0
        row[0] = low
        return 0

    cdef int seek_key(self, const uint8_t* key, size_t size, uint64_t* row, bint* exact) except -1 nogil:
        cdef int64_t index = flat_at_or_before(&self.reader.values, key, size)
        row[0] = 0
        exact[0] = False
        if index < 0:
            return 0
        self.open_block(flat_pointer(&self.reader.values, <uint32_t> index),
                        index if self.reader.positions.count == self.reader.values.count else -1)
        self._lower_bound(key, size, row, exact)
        row[0] += self.block_first
        return 0

    # -- for Python ----------------------------------------------------------------------------------------------------
    cdef BlockBuffers* _new_block(self, int64_t rows) except NULL:
        cdef BlockBuffers* block = block_new(1, rows)
        if block == NULL or block_init_column(block, 0, KIND_FIXED if self.reader.shape.width else KIND_BINARY,
                                              self.reader.shape.width, self.reader.shape.nullable):
            block_release(block)
            raise MemoryError(f"no memory for {rows} rows")
        return block

    cdef object _wrap(self, BlockBuffers* block, object column):
        if column is None:
            column = ColumnSchema("value", self.reader.type, nullable=bool(self.reader.shape.nullable))
        return ColumnBlock.wrap(block, Schema((column,)))

    cdef int _check_rows(self, first, count) except -1:
        self.reader.prepare_rows()
        if first < 0 or count < 0 or first + count > self.reader.row_count:
            raise InvalidArgument(f"{count} rows from {first} of {self.reader.row_count}", path=self.reader.name)
        return 0

    def read_block(self, first=0, count=None, *, column=None):
        """Rows first .. first + count (all) as a ColumnBlock of one column."""
        rows = self.reader.row_count - first if count is None else count
        return self.read_block_ranges([(first, first + rows)], column=column)

    def read_block_ranges(self, ranges, *, column=None):
        """The rows of several ranges (first, end), one behind the other."""
        cdef BlockBuffers* block
        cdef ByteBuffer parts
        cdef RowRange part
        cdef int64_t total = 0, count = 0
        memset(&parts, 0, sizeof(parts))
        try:
            for first, end in ranges:
                self._check_rows(first, end - first)
                part.first = first
                part.end = end
                total += end - first
                count += 1
                if buffer_append(&parts, <const uint8_t*> &part, sizeof(part)):
                    raise MemoryError
            block = self._new_block(total)
            try:
                with nogil:
                    self.read_ranges(<const RowRange*> parts.data, count, &block.columns[0], 0)
            except BaseException:
                block_release(block)
                raise
        finally:
            buffer_free(&parts)
        block.row_count = total
        return self._wrap(block, column)

    def read_block_selected(self, first, count, bytes selection not None, *, column=None):
        """The rows first + i whose bit i of `selection` (least significant first) is set."""
        cdef BlockBuffers* block
        cdef uint64_t start, wanted
        cdef const uint8_t* bits = <const uint8_t*> PyBytes_AS_STRING(selection)
        self._check_rows(first, count)
        if len(selection) * 8 < count:
            raise InvalidArgument(f"{len(selection)} bytes of selection for {count} rows", path=self.reader.name)
        start = first
        wanted = count
        block = self._new_block(count)
        try:
            with nogil:
                block.row_count = self.read_selected(start, wanted, bits, &block.columns[0], 0)
        except BaseException:
            block_release(block)
            raise
        return self._wrap(block, column)

    def find(self, bytes key not None):
        """(first row whose encoded key is >= `key`, whether it is equal)."""
        cdef uint64_t row
        cdef bint exact
        self.reader.prepare_keys()
        self.seek_key(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &row, &exact)
        return row, bool(exact)

    def codewords(self, first, count):
        """Codewords (None for nulls) of as many rows as are stored as such."""
        cdef ByteBuffer codes, validity
        cdef int64_t nulls = 0, got
        self._check_rows(first, count)
        memset(&codes, 0, sizeof(codes))
        memset(&validity, 0, sizeof(validity))
        try:
            if buffer_reserve(&codes, 4 * count + 4) or buffer_reserve(&validity, count // 8 + 1):
                raise MemoryError
            got = self.read_codes(first, count, <uint32_t*> codes.data, validity.data, 0, &nulls)
            return [(<uint32_t*> codes.data)[i] if (validity.data[i >> 3] >> (i & 7)) & 1 else None for i in range(got)]
        finally:
            buffer_free(&codes)
            buffer_free(&validity)

    def matching(self, ValueFilter filter not None, first=0, count=None):
        """The rows of first .. first + count that the filter accepts."""
        cdef uint64_t wanted = max(0, self.reader.row_count - first) if count is None else count
        cdef ByteBuffer selection
        if filter.reader is not self.reader:
            raise InvalidArgument("a value filter belongs to one column file", path=self.reader.name)
        self._check_rows(first, wanted)
        memset(&selection, 0, sizeof(selection))
        try:
            if buffer_reserve(&selection, wanted // 8 + 1):
                raise MemoryError
            memset(selection.data, 0xFF, wanted // 8 + 1)
            self.apply_filter(filter, first, wanted, selection.data, 0)
            return [first + i for i in range(wanted) if (selection.data[i >> 3] >> (i & 7)) & 1]
        finally:
            buffer_free(&selection)


cdef int near_held(ColumnCursor self, const uint8_t* key, size_t size, uint64_t* low, uint64_t* high) except -1 nogil:
    """Bounds for _lower_bound, from the piece that is decoded and those behind it: keys that are asked for in order
    are found without decoding the pieces that a search from the middle would meet."""
    cdef uint64_t width = self.decoder.shuffled.piece_elements
    cdef uint64_t probe = self.decoder.shuffled.held * width
    cdef int order = 0
    if probe >= high[0]:
        return 0
    self._compare(probe, key, size, &order)
    if order >= 0:
        high[0] = probe
        return 0
    low[0] = probe + 1
    probe += width - 1                  # the last of the piece
    while low[0] < high[0]:
        probe = min(probe, high[0] - 1)
        self._compare(probe, key, size, &order)
        if order >= 0:
            high[0] = probe
            break
        low[0] = probe + 1
        probe += width
        width *= 2
    return 0
