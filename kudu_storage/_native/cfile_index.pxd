"""Nodes of a column file's index trees, and the flat list that a reader makes of a tree's leaves. See
cfile_index.pyx."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.byte_buffer cimport ByteBuffer

cdef struct BlockPointer:
    uint64_t offset
    uint32_t size               # the checksum included

# One node in memory that someone else owns.
cdef struct IndexNode:
    const uint8_t* data
    size_t entries_size         # entries lie in data[0 .. entries_size]
    const uint8_t* offsets      # u32 each, little-endian, unaligned
    uint32_t count
    bint leaf
    const char* why

cdef int node_open(IndexNode* node, const uint8_t* body, size_t size) noexcept nogil            # 0, or -1 with `why`
cdef int node_entry(IndexNode* node, uint32_t index, const uint8_t** key, size_t* key_size,
                    BlockPointer* pointer) noexcept nogil                                       # 0, or -1 with `why`

# All leaf entries of a tree, in order: what a search runs on.
cdef struct FlatIndex:
    uint32_t count
    ByteBuffer pointers         # BlockPointer each
    ByteBuffer keys             # all keys, back to back
    ByteBuffer key_offsets      # u64 each, count + 1

cdef void flat_free(FlatIndex* flat) noexcept nogil
cdef int flat_append(FlatIndex* flat, const uint8_t* key, size_t size, const BlockPointer* pointer) noexcept nogil
cdef const uint8_t* flat_key(const FlatIndex* flat, uint32_t index, size_t* size) noexcept nogil
# The last entry whose key is <= `key`; -1: all are above it.
cdef int64_t flat_at_or_before(const FlatIndex* flat, const uint8_t* key, size_t size) noexcept nogil
cdef int compare_bytes(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil


cdef inline BlockPointer flat_pointer(const FlatIndex* flat, uint32_t index) noexcept nogil:
    return (<const BlockPointer*> flat.pointers.data)[index]


# A node being built.
cdef struct NodeWriter:
    ByteBuffer entries
    ByteBuffer offsets
    ByteBuffer first_key
    uint32_t count

cdef void node_writer_free(NodeWriter* writer) noexcept nogil
cdef void node_writer_reset(NodeWriter* writer) noexcept nogil
cdef int node_writer_add(NodeWriter* writer, const uint8_t* key, size_t size,
                         const BlockPointer* pointer) noexcept nogil
cdef size_t node_writer_size(const NodeWriter* writer) noexcept nogil       # as Kudu estimates it
cdef int node_writer_finish(NodeWriter* writer, bint leaf, ByteBuffer* out) noexcept nogil
