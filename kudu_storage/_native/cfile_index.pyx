"""Index tree nodes. Pure: bytes in, keys and pointers out.

    entries: varint key bytes | key | varint offset | varint size      then u32 entry offset * n
    then IndexBlockTrailerPB{1: number of entries, 2: 0 leaf, 1 internal} | u32 bytes of the trailer
An internal entry's key is the first key of its child. Leaves of a positional index have the 4-byte big-endian ordinal
of a block's first row as key; those of a value index a separator: above the block before, not above the block itself.
"""
from libc.string cimport memcmp, memcpy

from kudu_storage._native.byte_buffer cimport (
    buffer_append, buffer_append_byte, buffer_append_fixed32, buffer_append_varint, buffer_free,
)
from kudu_storage._native.cursor cimport (
    Cursor, Field, Slice, cursor_left, cursor_of, read_field, read_slice, read_varint,
)

cdef enum:
    FIELD_COUNT = 1
    FIELD_TYPE = 2
    TYPE_LEAF = 0
    TYPE_INTERNAL = 1


cdef inline uint32_t fixed32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline int bad(IndexNode* node, const char* why) noexcept nogil:
    node.why = why
    return -1


cdef int node_open(IndexNode* node, const uint8_t* body, size_t size) noexcept nogil:
    cdef Cursor cursor
    cdef Field field
    cdef uint64_t count = 0, kind = 99
    cdef bint counted = False
    cdef uint32_t trailer
    cdef size_t before
    if size < 4:
        return bad(node, b"an index block is shorter than its trailer's length")
    trailer = fixed32(body + size - 4)
    if trailer > size - 4:
        return bad(node, b"an index block's trailer does not fit into it")
    before = size - 4 - trailer
    cursor = cursor_of(body + before, trailer)
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return bad(node, b"an index block's trailer is malformed")
        if field.number == FIELD_COUNT and field.wire == 0:
            count = field.value
            counted = True
        elif field.number == FIELD_TYPE and field.wire == 0:
            kind = field.value
    if not counted or kind > TYPE_INTERNAL:
        return bad(node, b"an index block's trailer lacks its count or type")
    if count > before // 4:
        return bad(node, b"an index block is too short for its count")
    node.data = body
    node.count = <uint32_t> count
    node.leaf = kind == TYPE_LEAF
    node.entries_size = before - count * 4
    node.offsets = body + node.entries_size
    return 0


cdef int node_entry(IndexNode* node, uint32_t index, const uint8_t** key, size_t* key_size,
                    BlockPointer* pointer) noexcept nogil:
    cdef uint32_t offset
    cdef uint64_t size, at, block_size
    cdef Cursor cursor
    cdef Slice slice
    if index >= node.count:
        return bad(node, b"an index entry that is not there")
    offset = fixed32(node.offsets + <size_t> index * 4)
    if offset >= node.entries_size:
        return bad(node, b"an index entry lies outside of its block")
    cursor = cursor_of(node.data + offset, node.entries_size - offset)
    if not read_varint(&cursor, &size) or size > cursor_left(&cursor) or not read_slice(&cursor, size, &slice) \
            or not read_varint(&cursor, &at) or not read_varint(&cursor, &block_size) \
            or block_size > <uint64_t> 0xFFFFFFFF:
        return bad(node, b"an index entry is cut off")
    key[0] = slice.data
    key_size[0] = slice.size
    pointer.offset = at
    pointer.size = <uint32_t> block_size
    return 0


# -- the flat list -----------------------------------------------------------------------------------------------------
cdef void flat_free(FlatIndex* flat) noexcept nogil:
    buffer_free(&flat.pointers)
    buffer_free(&flat.keys)
    buffer_free(&flat.key_offsets)
    flat.count = 0


cdef int flat_append(FlatIndex* flat, const uint8_t* key, size_t size, const BlockPointer* pointer) noexcept nogil:
    cdef uint64_t end
    if flat.count == 0:
        end = 0
        if buffer_append(&flat.key_offsets, <const uint8_t*> &end, 8):
            return -1
    if flat.count == <uint32_t> 0xFFFFFFFF or buffer_append(&flat.keys, key, size) \
            or buffer_append(&flat.pointers, <const uint8_t*> pointer, sizeof(BlockPointer)):
        return -1
    end = flat.keys.size
    if buffer_append(&flat.key_offsets, <const uint8_t*> &end, 8):
        return -1
    flat.count += 1
    return 0


cdef const uint8_t* flat_key(const FlatIndex* flat, uint32_t index, size_t* size) noexcept nogil:
    cdef const uint64_t* offsets = <const uint64_t*> flat.key_offsets.data
    size[0] = offsets[index + 1] - offsets[index]
    return flat.keys.data + offsets[index]


cdef int compare_bytes(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil:
    cdef size_t shorter = min(a_size, b_size)
    cdef int order = memcmp(a, b, shorter) if shorter else 0
    if order:
        return order
    return (a_size > b_size) - (a_size < b_size)


cdef int64_t flat_at_or_before(const FlatIndex* flat, const uint8_t* key, size_t size) noexcept nogil:
    cdef int64_t low = 0, high = flat.count, middle
    cdef const uint8_t* other
    cdef size_t other_size
    while low < high:       # entries below `low` are <= key, those from `high` on are above it
        middle = (low + high) // 2
        other = flat_key(flat, <uint32_t> middle, &other_size)
        if compare_bytes(other, other_size, key, size) <= 0:
            low = middle + 1
        else:
            high = middle
    return low - 1


# -- writing -----------------------------------------------------------------------------------------------------------
cdef void node_writer_free(NodeWriter* writer) noexcept nogil:
    buffer_free(&writer.entries)
    buffer_free(&writer.offsets)
    buffer_free(&writer.first_key)
    writer.count = 0


cdef void node_writer_reset(NodeWriter* writer) noexcept nogil:
    writer.entries.size = 0
    writer.offsets.size = 0
    writer.first_key.size = 0
    writer.count = 0


cdef int node_writer_add(NodeWriter* writer, const uint8_t* key, size_t size,
                         const BlockPointer* pointer) noexcept nogil:
    if writer.count == 0 and buffer_append(&writer.first_key, key, size):
        return -1
    if buffer_append_fixed32(&writer.offsets, <uint32_t> writer.entries.size) \
            or buffer_append_varint(&writer.entries, size) or buffer_append(&writer.entries, key, size) \
            or buffer_append_varint(&writer.entries, pointer.offset) \
            or buffer_append_varint(&writer.entries, pointer.size):
        return -1
    writer.count += 1
    return 0


cdef size_t node_writer_size(const NodeWriter* writer) noexcept nogil:
    return writer.entries.size + writer.offsets.size + 16


cdef int node_writer_finish(NodeWriter* writer, bint leaf, ByteBuffer* out) noexcept nogil:
    cdef size_t start
    if buffer_append(out, writer.entries.data, writer.entries.size) \
            or buffer_append(out, writer.offsets.data, writer.offsets.size):
        return -1
    start = out.size
    if buffer_append_byte(out, FIELD_COUNT << 3) or buffer_append_varint(out, writer.count) \
            or buffer_append_byte(out, FIELD_TYPE << 3) \
            or buffer_append_byte(out, TYPE_LEAF if leaf else TYPE_INTERNAL):
        return -1
    return buffer_append_fixed32(out, <uint32_t> (out.size - start))
