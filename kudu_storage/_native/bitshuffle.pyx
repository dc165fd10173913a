"""BIT_SHUFFLE blocks: a 20-byte header, then pieces of 8 KiB, each bit-transposed and LZ4-compressed. Opens nothing.

    0  u32 ordinal of the first row     4  u32 elements     8  u32 size of all this
    12 u32 elements, rounded up to 8
    16 u32 bytes per element            20 pieces: u32 BIG-endian compressed size | LZ4 block
A piece holds 8192 / width elements (at least 128), the last one fewer. Decoding is by piece, so that a reader that
wants few rows pays for few, and a reader that wants all decodes in the first-level cache and straight into its column.
"""
from libc.stdint cimport uint16_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from kudu_storage._native.byte_buffer cimport buffer_append, buffer_append_fixed32, buffer_free, buffer_reserve
from kudu_storage._native.lz4 cimport lz4_bound, lz4_compress, lz4_decompress

from kudu_storage.errors import BadFormat, InvalidArgument

cdef extern from "bitshuffle_engine.h" nogil:
    ctypedef void (*kudu_bshuf_rows_fn)(const uint8_t* rows, size_t stride, uint8_t* plane, size_t first,
                                        size_t groups) noexcept nogil
    ctypedef void (*kudu_bshuf_plane_fn)(const uint8_t* plane, uint8_t* rows, size_t stride, size_t first,
                                         size_t groups) noexcept nogil
    cdef struct kudu_bshuf_engine:
        const char* name
        kudu_bshuf_rows_fn rows_to_plane
        kudu_bshuf_plane_fn plane_to_rows
    int kudu_bshuf_engines(kudu_bshuf_engine* engines) noexcept nogil
    void kudu_bshuf_planes_to_elements(const uint8_t* planes, uint8_t* elements, size_t count,
                                       size_t width) noexcept nogil
    void kudu_bshuf_elements_to_planes(const uint8_t* elements, uint8_t* planes, size_t count,
                                       size_t width) noexcept nogil

cdef enum:
    HEADER_BYTES = 20
    PIECE_LENGTH_BYTES = 4

cdef kudu_bshuf_engine[3] _engines
cdef int _engine_count = kudu_bshuf_engines(_engines)
cdef kudu_bshuf_engine _chosen = _engines[0]


cdef inline bint known_width(uint32_t width) noexcept nogil:
    return width == 1 or width == 2 or width == 4 or width == 8 or width == 16


cdef inline uint64_t elements_of_piece(uint32_t width) noexcept nogil:
    cdef uint64_t elements = (BSHUF_PIECE_BYTES_MAX // width) & ~<uint64_t> 7
    return elements if elements > 128 else 128


cdef inline uint32_t big_endian(const uint8_t* at) noexcept nogil:
    return (<uint32_t> at[0] << 24) | (<uint32_t> at[1] << 16) | (<uint32_t> at[2] << 8) | at[3]


cdef inline uint32_t little_endian(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


# -- one piece ---------------------------------------------------------------------------------------------------------
cdef void unshuffle(const uint8_t* rows, uint8_t* elements, uint8_t* planes, size_t count,
                    uint32_t width) noexcept nogil:
    cdef size_t b, stride = count // 8
    if width == 1:
        _chosen.rows_to_plane(rows, stride, elements, 0, stride)
        return
    for b in range(width):
        _chosen.rows_to_plane(rows + b * count, stride, planes + b * count, 0, stride)
    kudu_bshuf_planes_to_elements(planes, elements, count, width)


cdef void shuffle(const uint8_t* elements, uint8_t* rows, uint8_t* planes, size_t count, uint32_t width) noexcept nogil:
    cdef size_t b, stride = count // 8
    kudu_bshuf_elements_to_planes(elements, planes, count, width)
    for b in range(width):
        _chosen.plane_to_rows(planes + b * count, rows + b * count, stride, 0, stride)


# -- reading -----------------------------------------------------------------------------------------------------------
cdef void shuffled_init(ShuffledBlock* block) noexcept nogil:
    memset(block, 0, sizeof(ShuffledBlock))


cdef void shuffled_free(ShuffledBlock* block) noexcept nogil:
    free(block.starts)
    free(block.scratch)
    memset(block, 0, sizeof(ShuffledBlock))


cdef inline int bad(ShuffledBlock* block, const char* why) noexcept nogil:
    block.why = why
    return -1


cdef int reserve_starts(ShuffledBlock* block, uint64_t pieces) noexcept nogil:
    cdef uint32_t* grown
    if block.scratch == NULL:
        block.scratch = <uint8_t*> malloc(3 * BSHUF_PIECE_BYTES_MAX)
        if block.scratch == NULL:
            return bad(block, b"out of memory")
    if pieces <= block.starts_capacity:
        return 0
    grown = <uint32_t*> realloc(block.starts, pieces * sizeof(uint32_t))
    if grown == NULL:
        return bad(block, b"out of memory")
    block.starts = grown
    block.starts_capacity = <uint32_t> pieces
    return 0


cdef int shuffled_open(ShuffledBlock* block, const uint8_t* payload, size_t size) noexcept nogil:
    cdef uint64_t pieces, piece, at = 0, length
    block.count = 0
    block.piece_count = 0
    block.held = 0
    if size < HEADER_BYTES:
        return bad(block, b"a bitshuffle block is shorter than its header")
    block.ordinal = little_endian(payload)
    block.count = little_endian(payload + 4)
    block.padded = little_endian(payload + 12)
    block.width = little_endian(payload + 16)
    block.data = payload + HEADER_BYTES
    block.size = size - HEADER_BYTES
    if little_endian(payload + 8) != size:
        return bad(block, b"a bitshuffle block's size field is not its size")
    if block.padded != ((block.count + 7) & ~<uint64_t> 7):
        return bad(block, b"a bitshuffle block's padded count does not go with its count")
    if not known_width(block.width):
        return bad(block, b"a bitshuffle block's element size is not 1, 2, 4, 8 or 16")
    block.piece_elements = elements_of_piece(block.width)
    pieces = (block.padded + block.piece_elements - 1) // block.piece_elements
    # Each piece takes at least its length field and one byte: the number of pieces is bounded before it is allocated.
    if pieces * (PIECE_LENGTH_BYTES + 1) > block.size:
        return bad(block, b"a bitshuffle block is too short for its count")
    if reserve_starts(block, pieces):
        return -1
    for piece in range(pieces):
        if block.size - at < PIECE_LENGTH_BYTES:
            return bad(block, b"a bitshuffle piece is cut off")
        block.starts[piece] = <uint32_t> at
        length = big_endian(block.data + at)
        at += PIECE_LENGTH_BYTES
        if length > block.size - at:
            return bad(block, b"a bitshuffle piece is cut off")
        at += length
    if at != block.size:
        return bad(block, b"bytes behind the last bitshuffle piece")
    block.piece_count = <uint32_t> pieces
    block.held = block.piece_count
    return 0


cdef inline uint64_t piece_size(const ShuffledBlock* block, uint32_t piece) noexcept nogil:
    cdef uint64_t first = piece * block.piece_elements
    return min(block.piece_elements, block.padded - first)


cdef int decode_piece(ShuffledBlock* block, uint32_t piece, uint8_t* target) noexcept nogil:
    cdef uint64_t elements = piece_size(block, piece)
    cdef size_t bytes = elements * block.width
    cdef const uint8_t* at = block.data + block.starts[piece]
    cdef uint8_t* shuffled = block.scratch + BSHUF_PIECE_BYTES_MAX
    if lz4_decompress(at + PIECE_LENGTH_BYTES, big_endian(at), shuffled, bytes) != <Py_ssize_t> bytes:
        return bad(block, b"a bitshuffle piece does not decompress to its size")
    unshuffle(shuffled, target, shuffled + BSHUF_PIECE_BYTES_MAX, elements, block.width)
    return 0


cdef int hold_piece(ShuffledBlock* block, uint32_t piece) noexcept nogil:
    if block.held == piece:
        return 0
    block.held = block.piece_count
    if decode_piece(block, piece, block.scratch):
        return -1
    block.held = piece
    return 0


cdef int shuffled_read(ShuffledBlock* block, uint64_t first, uint64_t count, uint8_t* target) noexcept nogil:
    cdef uint64_t inside, taken
    cdef uint32_t piece
    if first > block.count or count > block.count - first:
        return bad(block, b"rows outside of a bitshuffle block")
    while count:
        piece = <uint32_t> (first // block.piece_elements)
        inside = first - piece * block.piece_elements
        taken = min(count, piece_size(block, piece) - inside)
        if taken == block.piece_elements and block.held != piece:
            if decode_piece(block, piece, target):      # the whole piece: no copy
                return -1
        else:
            if hold_piece(block, piece):
                return -1
            memcpy(target, block.scratch + inside * block.width, taken * block.width)
        target += taken * block.width
        first += taken
        count -= taken
    return 0


cdef int shuffled_read_u32(ShuffledBlock* block, uint64_t first, uint64_t count, uint32_t* target) noexcept nogil:
    cdef uint64_t inside, taken, i
    cdef uint32_t piece
    cdef const uint16_t* halves
    cdef const uint8_t* bytes
    if block.width == 4:
        return shuffled_read(block, first, count, <uint8_t*> target)
    if block.width > 4:
        return bad(block, b"codewords of more than 4 bytes")
    if first > block.count or count > block.count - first:
        return bad(block, b"rows outside of a bitshuffle block")
    while count:
        piece = <uint32_t> (first // block.piece_elements)
        inside = first - piece * block.piece_elements
        taken = min(count, piece_size(block, piece) - inside)
        if hold_piece(block, piece):
            return -1
        if block.width == 1:
            bytes = block.scratch + inside
            for i in range(taken):
                target[i] = bytes[i]
        else:
            halves = <const uint16_t*> block.scratch + inside
            for i in range(taken):
                target[i] = halves[i]
        target += taken
        first += taken
        count -= taken
    return 0


# -- writing -----------------------------------------------------------------------------------------------------------
cdef int write_piece(ByteBuffer* out, const uint8_t* elements, uint64_t count, uint32_t width,
                     uint8_t* scratch) noexcept nogil:
    cdef size_t bytes = count * width, bound = lz4_bound(bytes)
    cdef Py_ssize_t size
    cdef uint8_t* at
    shuffle(elements, scratch, scratch + BSHUF_PIECE_BYTES_MAX, count, width)
    if buffer_reserve(out, bound + PIECE_LENGTH_BYTES):
        return -1
    at = out.data + out.size
    size = lz4_compress(scratch, bytes, at + PIECE_LENGTH_BYTES, bound)
    if size < 0:
        return -1
    at[0] = <uint8_t> (size >> 24)
    at[1] = <uint8_t> (size >> 16)
    at[2] = <uint8_t> (size >> 8)
    at[3] = <uint8_t> size
    out.size += PIECE_LENGTH_BYTES + <size_t> size
    return 0


cdef int shuffled_write(ByteBuffer* out, uint8_t* elements, uint64_t count, uint32_t width,
                        uint32_t ordinal) noexcept nogil:
    cdef uint64_t padded = (count + 7) & ~<uint64_t> 7, done = 0, piece = elements_of_piece(width)
    cdef size_t start = out.size
    cdef uint32_t total
    cdef uint8_t* scratch = <uint8_t*> malloc(2 * BSHUF_PIECE_BYTES_MAX)
    cdef int failed
    if scratch == NULL:
        return -1
    if padded > count:
        memset(elements + count * width, 0, (padded - count) * width)
    failed = buffer_append_fixed32(out, ordinal) or buffer_append_fixed32(out, <uint32_t> count) \
        or buffer_append_fixed32(out, 0) or buffer_append_fixed32(out, <uint32_t> padded) \
        or buffer_append_fixed32(out, width)
    while not failed and done < padded:
        failed = write_piece(out, elements + done * width, min(piece, padded - done), width, scratch)
        done += piece
    free(scratch)
    if failed:
        return -1
    total = <uint32_t> (out.size - start)
    memcpy(out.data + start + 8, &total, 4)
    return 0


# -- for tests ---------------------------------------------------------------------------------------------------------
def encode(data, int width, ordinal=0):
    """The BIT_SHUFFLE block of the elements in `data`, `width` bytes each."""
    cdef bytes source = bytes(data)
    cdef ByteBuffer out, elements
    cdef uint64_t count
    memset(&out, 0, sizeof(ByteBuffer))
    memset(&elements, 0, sizeof(ByteBuffer))
    if not known_width(width) or len(source) % width:
        raise InvalidArgument(f"{len(source)} bytes are not elements of {width} bytes")
    count = len(source) // width
    try:
        if buffer_append(&elements, source, len(source)) or buffer_reserve(&elements, 8 * width) \
                or shuffled_write(&out, elements.data, count, width, ordinal):
            raise MemoryError
        return out.data[:out.size]
    finally:
        buffer_free(&out)
        buffer_free(&elements)


def decode(block, first=0, count=None):
    """Elements first .. first + count (all) of a BIT_SHUFFLE block, as stored."""
    cdef bytes source = bytes(block)
    cdef ShuffledBlock opened
    cdef uint64_t start = first, wanted
    cdef bytearray target
    cdef uint8_t* out
    shuffled_init(&opened)
    try:
        if shuffled_open(&opened, source, len(source)):
            raise BadFormat((<bytes> opened.why).decode())
        wanted = opened.count - min(start, opened.count) if count is None else count
        if start > opened.count or wanted > opened.count - start:
            raise BadFormat("rows outside of a bitshuffle block")
        target = bytearray(wanted * opened.width)
        out = target
        if shuffled_read(&opened, start, wanted, out):
            raise BadFormat((<bytes> opened.why).decode())
        return bytes(target)
    finally:
        shuffled_free(&opened)


def engine():
    """Name of the engine in use."""
    return (<bytes> _chosen.name).decode("ascii")


def engines():
    """Names of all engines this processor can run, fastest first."""
    return tuple([(<bytes> _engines[i].name).decode("ascii") for i in range(_engine_count)])


def use_engine(str name):
    """For tests and benchmarks: switch to the engine `name`; returns the previous one's name. Not thread safe."""
    global _chosen
    before = engine()
    for i in range(_engine_count):
        if (<bytes> _engines[i].name).decode("ascii") == name:
            _chosen = _engines[i]
            return before
    raise InvalidArgument(f"no bitshuffle engine {name!r} on this processor; there are {', '.join(engines())}")
