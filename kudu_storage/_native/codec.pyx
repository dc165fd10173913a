"""Decompression by Kudu's codec number: none, LZ4 and snappy raw blocks, zlib streams (RFC 1950). Opens nothing.

No size prefix and no frame anywhere: the caller knows the size from the entry header or block header, and gets exactly
that many bytes or a failure.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from kudu_storage._native.cursor cimport Cursor, cursor_of, read_varint
from kudu_storage._native.lz4 cimport lz4_bound, lz4_compress, lz4_decompress

import zlib as _zlib

from cramjam import snappy as _snappy

from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX as _BATCH_BYTES_MAX
from kudu_storage.errors import BadFormat, InvalidArgument, LimitExceeded, Unsupported

# Most output bytes one input byte can stand for. LZ4: a length byte of 255. Snappy: 64 bytes from a 3-byte copy.
# Deflate: 258 bytes from two 1-bit codes.
cdef enum:
    LZ4_RATIO_MAX = 255
    SNAPPY_RATIO_MAX = 22
    ZLIB_RATIO_MAX = 1032


cdef bint codec_can_expand(int codec, uint64_t source_bytes, uint64_t target_bytes) noexcept nogil:
    if codec == CODEC_NONE:
        return source_bytes == target_bytes
    if codec == CODEC_LZ4:
        return target_bytes <= source_bytes * LZ4_RATIO_MAX
    if codec == CODEC_SNAPPY:
        return target_bytes <= source_bytes * SNAPPY_RATIO_MAX
    if codec == CODEC_ZLIB:
        return target_bytes <= source_bytes * ZLIB_RATIO_MAX
    return False


cdef int _decompress_snappy(const uint8_t* source, size_t source_bytes,
                            uint8_t* target, size_t target_bytes) noexcept with gil:
    cdef Cursor cursor = cursor_of(source, source_bytes)
    cdef uint64_t claimed
    if not read_varint(&cursor, &claimed) or claimed != target_bytes:
        return -1
    if target_bytes == 0:
        return 0
    try:
        written = _snappy.decompress_raw_into(
            PyMemoryView_FromMemory(<char*> source, <Py_ssize_t> source_bytes, PyBUF_READ),
            PyMemoryView_FromMemory(<char*> target, <Py_ssize_t> target_bytes, PyBUF_WRITE))
    except BaseException:     # a panic inside cramjam is no Exception; nothing may leave a noexcept function
        return -1
    return 0 if written == target_bytes else -1


cdef int _decompress_zlib(const uint8_t* source, size_t source_bytes,
                          uint8_t* target, size_t target_bytes) noexcept with gil:
    cdef bytes data
    try:
        stream = _zlib.decompressobj()
        # One byte more than allowed, so that a stream that is too long shows itself.
        data = stream.decompress(PyMemoryView_FromMemory(<char*> source, <Py_ssize_t> source_bytes, PyBUF_READ),
                                 target_bytes + 1)
        if not stream.eof:
            return -1
    except BaseException:     # a panic inside cramjam is no Exception; nothing may leave a noexcept function
        return -1
    if <size_t> PyBytes_GET_SIZE(data) != target_bytes:
        return -1
    memcpy(target, PyBytes_AS_STRING(data), target_bytes)
    return 0


cdef int codec_decompress(int codec, const uint8_t* source, size_t source_bytes,
                          uint8_t* target, size_t target_bytes) noexcept nogil:
    if codec == CODEC_NONE:
        if source_bytes != target_bytes:
            return -1
        memcpy(target, source, source_bytes)
        return 0
    if codec == CODEC_LZ4:
        return 0 if lz4_decompress(source, source_bytes, target, target_bytes) == <Py_ssize_t> target_bytes else -1
    if codec == CODEC_SNAPPY:
        return _decompress_snappy(source, source_bytes, target, target_bytes)
    if codec == CODEC_ZLIB:
        return _decompress_zlib(source, source_bytes, target, target_bytes)
    return -1


def decompress(data, int codec, size):
    """`data` decompressed with Kudu's codec number `codec` to exactly `size` bytes.

    Raises Unsupported (unknown codec), LimitExceeded (size above the limit or impossible for so few bytes; nothing was
    allocated) or BadFormat.
    """
    cdef Py_buffer view
    cdef bytearray target
    cdef int failed
    cdef size_t target_bytes
    cdef uint8_t* out
    if codec not in (CODEC_NONE, CODEC_SNAPPY, CODEC_LZ4, CODEC_ZLIB):
        raise Unsupported(f"compression codec {codec} is not one of 1 (none), 2 (SNAPPY), 3 (LZ4), 4 (ZLIB)")
    if size < 0 or size > _BATCH_BYTES_MAX:
        raise LimitExceeded(f"{size} bytes after decompression is above the limit of {_BATCH_BYTES_MAX}")
    target_bytes = size
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not codec_can_expand(codec, <uint64_t> view.len, target_bytes):
            raise LimitExceeded(f"{view.len} compressed bytes cannot hold {size} bytes")
        target = bytearray(target_bytes)
        out = target
        with nogil:
            failed = codec_decompress(codec, <const uint8_t*> view.buf, <size_t> view.len, out, target_bytes)
    finally:
        PyBuffer_Release(&view)
    if failed:
        raise BadFormat(f"cannot decompress {view.len} bytes to {size} bytes with codec {codec}")
    return bytes(target)


def compress(data, int codec):
    """`data` compressed with Kudu's codec number `codec`: a raw block, no frame and no size prefix."""
    cdef Py_buffer view
    cdef bytearray target
    cdef Py_ssize_t size
    cdef uint8_t* out
    if codec == CODEC_NONE:
        return bytes(data)
    if codec == CODEC_SNAPPY:
        return bytes(_snappy.compress_raw(bytes(data)))
    if codec == CODEC_ZLIB:
        return _zlib.compress(data)
    if codec != CODEC_LZ4:
        raise Unsupported(f"compression codec {codec} is not one of 1 (none), 2 (SNAPPY), 3 (LZ4), 4 (ZLIB)")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len > _BATCH_BYTES_MAX:
            raise InvalidArgument(f"{view.len} bytes is above the limit of {_BATCH_BYTES_MAX} for one batch")
        target = bytearray(lz4_bound(<size_t> view.len))
        out = target
        with nogil:
            size = lz4_compress(<const uint8_t*> view.buf, <size_t> view.len, out, lz4_bound(<size_t> view.len))
    finally:
        PyBuffer_Release(&view)
    return bytes(target[:size])
