"""Column files, written. docs/formats/cfile.md has the layout. Bytes go to a BlockSink; nothing here opens or syncs.

Order in the file: header, data blocks with full index nodes between them, the rest of the positional index, of the
value index, the dictionary, the footer. After an error the writer refuses further use: its block is garbage for the
store to drop.
 W1  Each block's ordinal is the number of cells before it.
 W2  Value index keys never go down; a shortened key is above the last key of the block before and not above its own
     block's.
 W3  A compressed block is stored raw when its codec saves less than a tenth.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport ENOMEM
from libc.math cimport ceil, log
from libc.string cimport memcpy, memset

from kudu_storage._native.binary_block cimport common_prefix, plain_writer_finish
from kudu_storage._native.bloom cimport bloom_add, city_hash64
from kudu_storage._native.byte_buffer cimport (
    buffer_append, buffer_append_byte, buffer_append_fixed32, buffer_append_varint, buffer_free, buffer_reserve,
)
from kudu_storage._native.cfile_block cimport (
    ENCODING_AUTO, ENCODING_BIT_SHUFFLE, ENCODING_DICT, ENCODING_PLAIN, ENCODING_PREFIX, ENCODING_RLE,
)
from kudu_storage._native.cfile_encode cimport (
    encoder_add_fixed, encoder_add_nulls, encoder_add_string, encoder_edges, encoder_finish, encoder_free, encoder_full,
    encoder_init, encoder_reset,
)
from kudu_storage._native.cfile_index cimport (
    node_writer_add, node_writer_finish, node_writer_free, node_writer_reset, node_writer_size,
)
from kudu_storage._native.codec cimport CODEC_LZ4, CODEC_NONE, CODEC_SNAPPY, CODEC_ZLIB
from kudu_storage._native.column_block cimport KIND_FIXED, ColumnBlock
from kudu_storage._native.crc32c cimport crc32c_extend
from kudu_storage._native.lz4 cimport lz4_bound, lz4_compress

from kudu_storage._native.codec import compress as _compress_bytes
from kudu_storage.common.limits import CFILE_BLOCK_BYTES_MAX, CFILE_ROWS_MAX
from kudu_storage.common.types import ColumnType
from kudu_storage.common import types as _types
from kudu_storage.errors import InternalError, InvalidArgument

cdef enum:
    BLOCK_BYTES_DEFAULT = 262144
    BLOCK_BYTES_MIN = 512
    DELTA_BLOCK_BYTES = 32768
    KEY_INDEX_BLOCK_BYTES = 4096
    INDEX_NODE_BYTES = 32768
    BLOOM_BYTES = 4096
    # What went wrong, when it is not an errno.
    TROUBLE_TOO_LARGE = 1
    TROUBLE_TOO_MANY_ROWS = 2
    TROUBLE_NULL = 3
    TROUBLE_KIND = 4
    TROUBLE_STATE = 5
    TROUBLE_ORDER = 6

cdef uint64_t _block_bytes_max = CFILE_BLOCK_BYTES_MAX
cdef uint64_t _rows_max = CFILE_ROWS_MAX
_TROUBLES = {TROUBLE_TOO_LARGE: "a block would be larger than readers accept", TROUBLE_TOO_MANY_ROWS: "too many rows",
             TROUBLE_NULL: "a null in a column that has none", TROUBLE_KIND: "a column of another kind or width",
             TROUBLE_STATE: "the file is finished, or an earlier append failed", TROUBLE_ORDER: "keys out of order"}


cdef int resolve_encoding(object column_type, int wanted) except -1:
    """The encoding itself, or the type's default when it is AUTO or does not go with the type, as in Kudu."""
    if column_type.is_binary:
        return wanted if wanted in (ENCODING_PLAIN, ENCODING_PREFIX, ENCODING_DICT) else ENCODING_DICT
    if column_type.name == "BOOL":
        return wanted if wanted in (ENCODING_PLAIN, ENCODING_RLE) else ENCODING_RLE
    if wanted == ENCODING_RLE and column_type.name not in ("FLOAT", "DOUBLE", "DECIMAL128"):
        return wanted
    return ENCODING_PLAIN if wanted == ENCODING_PLAIN else ENCODING_BIT_SHUFFLE


cdef inline size_t ordered_varint_size(uint8_t first) noexcept nogil:
    """Bytes of a memcmp-ordered varint, by its first byte."""
    if first <= 240:
        return 1
    if first <= 248:
        return 2
    return <size_t> first - 246


cdef class CFileWriter:
    def __init__(self, BlockSink sink not None, column_type, *, bint nullable=False, int encoding=ENCODING_AUTO,
                 int compression=0, block_bytes=0, bint positional_index=True, bint value_index=False,
                 bint shorten_keys=True, bint delta_keys=False, bint key_metadata=False):
        if self.sink is not None:
            raise InvalidArgument("a writer writes one file", path=sink.name)
        if not isinstance(column_type, ColumnType) or compression not in (0, CODEC_NONE, CODEC_SNAPPY, CODEC_LZ4,
                                                                          CODEC_ZLIB):
            raise InvalidArgument(f"a column file of {column_type!r} with codec {compression}", path=sink.name)
        if block_bytes > _block_bytes_max // 2 or not (positional_index or value_index):
            raise InvalidArgument(f"blocks of {block_bytes} bytes, or no index", path=sink.name)
        if value_index and (nullable or not column_type.is_key_type):
            raise InvalidArgument("a value index needs keys: a key type without nulls", path=sink.name)
        self.sink = sink
        self.type = column_type
        self.codec = compression or CODEC_NONE
        self.shape.encoding = resolve_encoding(column_type, encoding)
        self.shape.width = column_type.width_bytes
        self.shape.is_bool = column_type.name == "BOOL"
        self.shape.nullable = nullable
        self.write_positions = positional_index
        self.write_values = value_index
        self.shorten_keys = shorten_keys
        self.delta_keys = delta_keys
        self.key_metadata = key_metadata
        self.positions.depth = 1
        self.values.depth = 1
        self.pairs = []
        block_bytes = block_bytes if block_bytes > 0 else BLOCK_BYTES_DEFAULT
        if encoder_init(&self.encoder, &self.shape, max(block_bytes, BLOCK_BYTES_MIN)):
            raise MemoryError
        self._write_header()

    def __dealloc__(self):
        cdef int level
        encoder_free(&self.encoder)
        for level in range(INDEX_LEVELS_MAX):
            node_writer_free(&self.positions.levels[level])
            node_writer_free(&self.values.levels[level])
        buffer_free(&self.body)
        buffer_free(&self.stored)
        buffer_free(&self.footer)
        buffer_free(&self.first_key)
        buffer_free(&self.last_key)
        buffer_free(&self.key)

    @staticmethod
    def for_deltas(BlockSink sink not None):
        """A delta file: byte strings that start with their delta key; whole delta keys in the value index, no other
        index."""
        return CFileWriter(sink, _types.BY_NAME["BINARY"], encoding=ENCODING_PLAIN, compression=CODEC_LZ4,
                           block_bytes=DELTA_BLOCK_BYTES, positional_index=False, value_index=True, shorten_keys=False,
                           delta_keys=True)

    @staticmethod
    def for_key_index(BlockSink sink not None):
        """The index of a composite key: encoded keys, found by value only, min_key and max_key in the footer."""
        return CFileWriter(sink, _types.BY_NAME["BINARY"], encoding=ENCODING_PREFIX, compression=CODEC_LZ4,
                           block_bytes=KEY_INDEX_BLOCK_BYTES, positional_index=False, value_index=True,
                           key_metadata=True)

    # -- errors --------------------------------------------------------------------------------------------------------
    cdef int _trouble(self, int status) except -1 with gil:
        self.failed = True
        if status == -ENOMEM:
            raise MemoryError("no memory for a column file")
        if status < 0:
            self.sink.raise_failure()
            raise InternalError(f"a block sink failed with {status} and does not know it")
        raise InvalidArgument(_TROUBLES[status], path=self.sink.name)

    # -- blocks --------------------------------------------------------------------------------------------------------
    cdef Py_ssize_t _compress_with_gil(self, const uint8_t* body, size_t size) except -2 with gil:
        cdef bytes data = _compress_bytes(PyBytes_FromStringAndSize(<const char*> body, size), self.codec)
        if <size_t> PyBytes_GET_SIZE(data) >= size:
            return -1
        if buffer_append(&self.stored, <const uint8_t*> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            raise MemoryError
        return PyBytes_GET_SIZE(data)

    cdef int _compress(self, const uint8_t* body, size_t size, const uint8_t** data, size_t* data_size) except -1 nogil:
        """What follows the size field: compressed in `stored`, or the body itself."""
        cdef Py_ssize_t compressed
        self.stored.size = 0
        if self.codec == CODEC_LZ4:
            if buffer_reserve(&self.stored, lz4_bound(size)):
                return self._trouble(-ENOMEM)
            compressed = lz4_compress(body, size, self.stored.data, lz4_bound(size))
        else:
            compressed = self._compress_with_gil(body, size)
        if compressed < 0 or <size_t> compressed >= size or <double> compressed / <double> size > 0.9:
            data[0] = body
            data_size[0] = size
        else:
            data[0] = self.stored.data
            data_size[0] = <size_t> compressed
        return 0

    cdef int _write(self, const uint8_t* body, size_t size, BlockPointer* pointer) except -1 nogil:
        cdef const uint8_t* data = body
        cdef size_t data_size = size
        cdef uint32_t checksum = 0, expanded = <uint32_t> size
        cdef int status = 0
        if size + 8 > _block_bytes_max:
            return self._trouble(TROUBLE_TOO_LARGE)
        pointer.offset = <uint64_t> self.sink.length()
        if self.codec != CODEC_NONE:
            self._compress(body, size, &data, &data_size)
            checksum = crc32c_extend(0, <const uint8_t*> &expanded, 4)
            status = self.sink.append(<const uint8_t*> &expanded, 4)
        checksum = crc32c_extend(checksum, data, data_size)
        if not status:
            status = self.sink.append(data, data_size)
        if not status:
            status = self.sink.append(<const uint8_t*> &checksum, 4)
        if status:
            return self._trouble(status)
        pointer.size = <uint32_t> (<uint64_t> self.sink.length() - pointer.offset)
        return 0

    cdef int _encode_key(self, const uint8_t* value, size_t size, ByteBuffer* key) except -1 nogil:
        """Replaces `key` by the value's encoded key."""
        cdef size_t i, first
        key.size = 0
        if self.delta_keys:
            first = ordered_varint_size(value[0]) if size else 0
            if first == 0 or first >= size or first + ordered_varint_size(value[first]) > size:
                return self._trouble(TROUBLE_KIND)
            size = first + ordered_varint_size(value[first])
        if buffer_reserve(key, size + 1):
            return self._trouble(-ENOMEM)
        if self.shape.width:
            for i in range(size):
                key.data[i] = value[size - 1 - i]
            key.data[0] ^= 0x80
            key.size = size
        elif buffer_append(key, value, size):
            return self._trouble(-ENOMEM)
        return 0

    cdef int _index_block(self, const BlockPointer* pointer, const uint8_t* key, size_t size) except -1 nogil:
        """Enters a block's key into the value index, shortened to just above the last key of the block before."""
        if self.shorten_keys:
            size = min(size, common_prefix(self.last_key.data, self.last_key.size, key, size) + 1)
        return self._index(&self.values, 0, key, size, pointer)

    cdef int _finish_block(self) except -1 nogil:
        cdef uint64_t cells = self.encoder.cell_count
        cdef uint32_t first_row = <uint32_t> (self.row_count - cells)
        cdef uint8_t[4] ordinal
        cdef BlockPointer pointer
        cdef const uint8_t* first
        cdef const uint8_t* last
        cdef size_t first_size, last_size
        if cells == 0:
            return 0
        if self.write_values:
            encoder_edges(&self.encoder, &first, &first_size, &last, &last_size)
            self._encode_key(first, first_size, &self.key)
            # The block's last key replaces that of the block before only after the index entry: kept in `footer` so
            # far.
            self._encode_key(last, last_size, &self.footer)
        self.body.size = 0
        if encoder_finish(&self.encoder, first_row, &self.body):
            return self._trouble(-ENOMEM)
        self._write(self.body.data, self.body.size, &pointer)
        if self.write_positions:
            ordinal[0] = <uint8_t> (first_row >> 24)
            ordinal[1] = <uint8_t> (first_row >> 16)
            ordinal[2] = <uint8_t> (first_row >> 8)
            ordinal[3] = <uint8_t> first_row
            self._index(&self.positions, 0, ordinal, 4, &pointer)
        if self.write_values:
            if self.block_count == 0 and buffer_append(&self.first_key, self.key.data, self.key.size):
                return self._trouble(-ENOMEM)
            self._index_block(&pointer, self.key.data, self.key.size)
            self.last_key, self.footer = self.footer, self.last_key
        self.block_count += 1
        encoder_reset(&self.encoder)
        return 0

    # -- index trees ---------------------------------------------------------------------------------------------------
    cdef int _close_node(self, TreeWriter* tree, int level, BlockPointer* pointer) except -1 nogil:
        self.body.size = 0
        if node_writer_finish(&tree.levels[level], level == 0, &self.body):
            return self._trouble(-ENOMEM)
        return self._write(self.body.data, self.body.size, pointer)

    cdef int _index(self, TreeWriter* tree, int level, const uint8_t* key, size_t size,
                    const BlockPointer* pointer) except -1 nogil:
        cdef NodeWriter* node = &tree.levels[level]
        cdef BlockPointer written
        if level >= tree.depth:
            tree.depth = level + 1
        if node_writer_add(node, key, size, pointer):
            return self._trouble(-ENOMEM)
        if node.count > 1 and node_writer_size(node) > INDEX_NODE_BYTES and level + 1 < INDEX_LEVELS_MAX:
            self._close_node(tree, level, &written)
            self._index(tree, level + 1, node.first_key.data, node.first_key.size, &written)
            node_writer_reset(node)
        return 0

    cdef int _finish_tree(self, TreeWriter* tree, BlockPointer* root) except -1 nogil:
        cdef int level = 0
        cdef NodeWriter* node
        cdef BlockPointer written
        while level + 1 < tree.depth:
            node = &tree.levels[level]
            if node.count:
                self._close_node(tree, level, &written)
                self._index(tree, level + 1, node.first_key.data, node.first_key.size, &written)
                node_writer_reset(node)
            level += 1
        return self._close_node(tree, level, root)

    # -- header and footer ---------------------------------------------------------------------------------------------
    cdef int _write_header(self) except -1 nogil:
        cdef uint8_t[16] header
        cdef uint32_t checksum
        cdef int status
        memcpy(header, <const char*> b"kuducfl2", 8)
        memset(header + 8, 0, 4)
        checksum = crc32c_extend(0, header, 12)
        memcpy(header + 12, &checksum, 4)
        status = self.sink.append(header, 16)
        return self._trouble(status) if status else 0

    cdef int _add_pair(self, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size) except -1 nogil:
        """One metadata field of the footer."""
        cdef ByteBuffer pair
        cdef int failed
        memset(&pair, 0, sizeof(pair))
        failed = buffer_append_byte(&pair, 0x0A) or buffer_append_varint(&pair, name_size) \
            or buffer_append(&pair, name, name_size) or buffer_append_byte(&pair, 0x12) \
            or buffer_append_varint(&pair, size) or buffer_append(&pair, value, size) \
            or buffer_append_byte(&self.footer, 0x3A) or buffer_append_varint(&self.footer, pair.size) \
            or buffer_append(&self.footer, pair.data, pair.size)
        buffer_free(&pair)
        return self._trouble(-ENOMEM) if failed else 0

    cdef int _write_footer(self, const BlockPointer* positions, const BlockPointer* values,
                           const BlockPointer* dictionary) except -1 nogil:
        """CFileFooterPB by hand, fields in order, then magic and length; its checksum comes first."""
        cdef ByteBuffer* out = &self.footer
        cdef uint32_t checksum, size
        cdef int failed, status
        with gil:
            number, pairs = self.type.number, list(self.pairs)
            status = number
        out.size = 0
        failed = buffer_append_byte(out, 0x08) or buffer_append_varint(out, <uint64_t> status) \
            or buffer_append_byte(out, 0x10) or buffer_append_varint(out, <uint64_t> self.shape.encoding) \
            or buffer_append_byte(out, 0x18) or buffer_append_varint(out, self.row_count)
        if not failed and positions != NULL:
            failed = append_tree(out, 0x22, positions)
        if not failed and values != NULL:
            failed = append_tree(out, 0x2A, values)
        failed = failed or buffer_append_byte(out, 0x30) or buffer_append_varint(out, <uint64_t> self.codec)
        if failed:
            return self._trouble(-ENOMEM)
        if self.key_metadata and self.block_count:
            self._add_pair(b"min_key", 7, self.first_key.data, self.first_key.size)
            self._add_pair(b"max_key", 7, self.last_key.data, self.last_key.size)
        with gil:
            for name, value in pairs:
                self._add_pair(<const uint8_t*> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                               <const uint8_t*> PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        failed = buffer_append_byte(out, 0x40) or buffer_append_byte(out, <uint8_t> self.shape.nullable)
        if not failed and dictionary != NULL:
            failed = append_pointer(out, 0x4A, dictionary)
        failed = failed or buffer_append_byte(out, 0x50) or buffer_append_byte(out, 1)     # feature: checksums
        size = <uint32_t> out.size
        failed = failed or buffer_append(out, <const uint8_t*> <const char*> b"kuducfl2", 8) \
            or buffer_append_fixed32(out, size)
        if failed:
            return self._trouble(-ENOMEM)
        checksum = crc32c_extend(0, out.data, out.size)
        status = self.sink.append(<const uint8_t*> &checksum, 4)
        if not status:
            status = self.sink.append(out.data, out.size)
        if not status:
            status = self.sink.flush()
        return self._trouble(status) if status else 0

    # -- appending -----------------------------------------------------------------------------------------------------
    cdef int append_fixed(self, const uint8_t* values, uint64_t count) except -1 nogil:
        cdef int64_t taken
        if self.finished or self.failed or self.shape.width == 0:
            return self._trouble(TROUBLE_STATE)
        if count > _rows_max - self.row_count:
            return self._trouble(TROUBLE_TOO_MANY_ROWS)
        while count:
            taken = encoder_add_fixed(&self.encoder, values, count)
            if taken < 0:
                return self._trouble(-ENOMEM)
            values += <uint64_t> taken * self.shape.width
            count -= <uint64_t> taken
            self.row_count += <uint64_t> taken
            if encoder_full(&self.encoder):
                self._finish_block()
        return 0

    cdef int append_string(self, const uint8_t* value, size_t size) except -1 nogil:
        cdef int taken
        if self.finished or self.failed or self.shape.width:
            return self._trouble(TROUBLE_STATE)
        if self.row_count >= _rows_max:
            return self._trouble(TROUBLE_TOO_MANY_ROWS)
        taken = encoder_add_string(&self.encoder, value, size)
        if taken == 0:
            self._finish_block()
            taken = encoder_add_string(&self.encoder, value, size)
        if taken <= 0:
            return self._trouble(-ENOMEM)
        self.row_count += 1
        if encoder_full(&self.encoder):
            self._finish_block()
        return 0

    cdef int append_nulls(self, uint64_t count) except -1 nogil:
        if self.finished or self.failed:
            return self._trouble(TROUBLE_STATE)
        if not self.shape.nullable:
            return self._trouble(TROUBLE_NULL)
        if count > _rows_max - self.row_count:
            return self._trouble(TROUBLE_TOO_MANY_ROWS)
        if encoder_add_nulls(&self.encoder, count):
            return self._trouble(-ENOMEM)
        self.row_count += count
        return 0

    cdef int append(self, const ColumnBuffers* column, int64_t first, int64_t count) except -1 nogil:
        cdef int64_t row = first, end = first + count, start, i
        cdef bint present
        if (column.kind == KIND_FIXED) != (self.shape.width != 0) or column.width != self.shape.width:
            return self._trouble(TROUBLE_KIND)
        while row < end:
            start = row
            if column.validity == NULL or column.null_count == 0:
                present = True
                row = end
            else:
                present = (column.validity[row >> 3] >> (row & 7)) & 1
                while row < end and ((column.validity[row >> 3] >> (row & 7)) & 1) == present:
                    row += 1
            if not present:
                self.append_nulls(<uint64_t> (row - start))
            elif self.shape.width:
                self.append_fixed(column.values + start * self.shape.width, <uint64_t> (row - start))
            else:
                for i in range(start, row):
                    self.append_string(column.data + column.offsets[i],
                                       <size_t> (column.offsets[i + 1] - column.offsets[i]))
        return 0

    cdef int append_raw(self, const uint8_t* body, size_t size, const uint8_t* key, size_t key_size,
                        const uint8_t* last, size_t last_size) except -1 nogil:
        cdef BlockPointer pointer
        if self.finished or self.failed or self.row_count or self.write_positions:
            return self._trouble(TROUBLE_STATE)
        self._write(body, size, &pointer)
        self._index_block(&pointer, key, key_size)
        self.last_key.size = 0
        self.block_count += 1
        if buffer_append(&self.last_key, last, last_size):
            return self._trouble(-ENOMEM)
        return 0

    cdef int64_t complete(self) except -1 nogil:
        cdef BlockPointer positions, values, dictionary
        if self.finished or self.failed:
            return self._trouble(TROUBLE_STATE)
        self._finish_block()
        if self.write_positions:
            self._finish_tree(&self.positions, &positions)
        if self.write_values:
            self._finish_tree(&self.values, &values)
        if self.shape.encoding == ENCODING_DICT:
            self.body.size = 0
            if plain_writer_finish(&self.encoder.dictionary, 0, &self.body):
                return self._trouble(-ENOMEM)
            self._write(self.body.data, self.body.size, &dictionary)
        self._write_footer(&positions if self.write_positions else NULL, &values if self.write_values else NULL,
                           &dictionary if self.shape.encoding == ENCODING_DICT else NULL)
        self.finished = True
        return self.sink.length()

    # -- for Python ----------------------------------------------------------------------------------------------------
    def append_block(self, ColumnBlock block not None, int column=0, first=0, count=None):
        """Rows first .. first + count (all) of one column of a block."""
        cdef int64_t start = first
        cdef int64_t wanted
        if not 0 <= column < block.buffers.column_count or not 0 <= first <= block.buffers.row_count:
            raise InvalidArgument(f"column {column} from row {first} of a block", path=self.sink.name)
        wanted = block.buffers.row_count - start if count is None else count
        if not 0 <= wanted <= block.buffers.row_count - start:
            raise InvalidArgument(f"{wanted} rows from row {first} of a block", path=self.sink.name)
        with nogil:
            self.append(&block.buffers.columns[column], start, wanted)

    def append_strings(self, values):
        """Byte strings one by one: deltas and keys in tests and tools."""
        cdef bytes value
        for value in values:
            self.append_string(<const uint8_t*> PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))

    def add_metadata(self, str key not None, bytes value not None):
        """A pair for the footer, such as a delta file's statistics. Up to finish()."""
        if self.finished:
            raise InvalidArgument(_TROUBLES[TROUBLE_STATE], path=self.sink.name)
        self.pairs.append((key.encode("utf-8"), value))

    def finish(self):
        """Write what is left, the indexes and the footer; returns the file's length. The sink's owner syncs."""
        cdef int64_t length
        with nogil:
            length = self.complete()
        return length

    @property
    def num_values(self):
        return self.row_count

    @property
    def size_bytes(self):
        """Written so far, the open block not counted."""
        return self.sink.length()

    @property
    def min_key(self):
        """The encoded key of the first row; after finish(), and only with a value index."""
        return self.first_key.data[:self.first_key.size] if self.first_key.size else b""

    @property
    def max_key(self):
        return self.last_key.data[:self.last_key.size] if self.last_key.size else b""


cdef int append_pointer(ByteBuffer* out, uint8_t tag, const BlockPointer* pointer) noexcept nogil:
    cdef ByteBuffer inner
    cdef int failed
    memset(&inner, 0, sizeof(inner))
    failed = buffer_append_byte(&inner, 0x08) or buffer_append_varint(&inner, pointer.offset) \
        or buffer_append_byte(&inner, 0x10) or buffer_append_varint(&inner, pointer.size) \
        or buffer_append_byte(out, tag) or buffer_append_varint(out, inner.size) \
        or buffer_append(out, inner.data, inner.size)
    buffer_free(&inner)
    return failed


cdef int append_tree(ByteBuffer* out, uint8_t tag, const BlockPointer* root) noexcept nogil:
    cdef ByteBuffer inner
    cdef int failed
    memset(&inner, 0, sizeof(inner))
    failed = append_pointer(&inner, 0x0A, root) or buffer_append_byte(out, tag) \
        or buffer_append_varint(out, inner.size) or buffer_append(out, inner.data, inner.size)
    buffer_free(&inner)
    return failed


# -- bloom files -------------------------------------------------------------------------------------------------------
cdef class BloomWriter:
    def __init__(self, BlockSink sink not None, *, int block_bytes=BLOOM_BYTES, double false_positives=0.0001):
        cdef double natural = 0.69314718055994530942
        if not 16 <= block_bytes <= 1 << 20 or not 0 < false_positives < 1 or self.writer is not None:
            raise InvalidArgument(f"bloom blocks of {block_bytes} bytes with {false_positives} false positives")
        self.writer = CFileWriter(sink, _types.BY_NAME["BINARY"], encoding=ENCODING_PLAIN, positional_index=False,
                                  value_index=True)
        self.bloom_bytes = block_bytes
        self.keys_max = <uint32_t> ceil(-<double> block_bytes * 8 * natural * natural / log(false_positives))
        self.hash_count = max(1, <uint32_t> (<double> block_bytes * 8 * natural / self.keys_max))
        if buffer_reserve(&self.bits, self.bloom_bytes):
            raise MemoryError
        memset(self.bits.data, 0, self.bloom_bytes)

    def __dealloc__(self):
        buffer_free(&self.bits)
        buffer_free(&self.body)
        buffer_free(&self.first)
        buffer_free(&self.last)

    cdef int _finish_block(self) except -1 nogil:
        """u32 header size | BloomBlockHeaderPB | bits."""
        self.body.size = 0
        if buffer_append_fixed32(&self.body, 2) or buffer_append_byte(&self.body, 0x08) \
                or buffer_append_byte(&self.body, <uint8_t> self.hash_count) \
                or buffer_append(&self.body, self.bits.data, self.bloom_bytes):
            return self.writer._trouble(-ENOMEM)
        self.writer.append_raw(self.body.data, self.body.size, self.first.data, self.first.size, self.last.data,
                               self.last.size)
        memset(self.bits.data, 0, self.bloom_bytes)
        self.key_count = 0
        return 0

    cdef int add_key(self, const uint8_t* key, size_t size) except -1 nogil:
        if self.key_count == 0:
            self.first.size = 0
            if buffer_append(&self.first, key, size):
                return self.writer._trouble(-ENOMEM)
        bloom_add(self.bits.data, <uint64_t> self.bloom_bytes * 8, self.hash_count, city_hash64(key, size))
        self.key_count += 1
        self.last.size = 0
        if buffer_append(&self.last, key, size):
            return self.writer._trouble(-ENOMEM)
        return self._finish_block() if self.key_count >= self.keys_max else 0

    cdef int64_t complete(self) except -1 nogil:
        if self.key_count:
            self._finish_block()
        return self.writer.complete()

    def add_keys(self, keys):
        """Encoded keys, ascending."""
        cdef bytes key
        for key in keys:
            self.add_key(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def finish(self):
        """Write the rest; returns the file's length."""
        return self.complete()

    @property
    def keys_per_block(self):
        return self.keys_max
