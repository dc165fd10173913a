"""LZ4 raw blocks through the C code inside the `lz4` wheel, without the GIL. Opens no files of its own.

The wheel's extension module exports the C functions of liblz4. They are looked up once, at import, and tried out; when
one is missing (a distribution may hide the symbols) or misbehaves, the wheel's Python function is called for each block
with the GIL held. Sizes are ints in that C interface: callers keep them below limits.ENTRY_BATCH_BYTES_MAX.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

import lz4.block as _package

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* path, int flags) noexcept nogil
    void* dlsym(void* handle, const char* name) noexcept nogil
    int RTLD_NOW
    int RTLD_LOCAL

ctypedef int (*block_fn)(const char* source, char* target, int source_bytes, int target_bytes) noexcept nogil

cdef enum:
    BLOCK_BYTES_MAX = 0x7E000000      # LZ4_MAX_INPUT_SIZE

cdef block_fn _decompress = NULL
cdef block_fn _compress = NULL
cdef bint _native = False


cdef bint _works() noexcept nogil:
    """A round trip, and two inputs that must be refused."""
    cdef char[64] plain
    cdef char[128] packed
    cdef char[64] again
    cdef int i, size
    for i in range(64):
        plain[i] = <char> (i % 7)
    size = _compress(plain, packed, 64, 128)
    if size <= 0 or size >= 64 or _decompress(packed, again, size, 64) != 64 or memcmp(plain, again, 64) != 0:
        return False
    if _decompress(packed, again, size, 63) >= 0:
        return False
    packed[0] = 0x0F              # a match, but there is nothing before it to copy from
    packed[1] = 0x40
    packed[2] = 0x00
    return _decompress(packed, again, 3, 64) < 0


cdef bint _resolve() except -1:
    global _decompress, _compress
    cdef void* handle
    cdef bytes path
    try:
        import lz4.block._block as extension
        path = extension.__file__.encode()
    except (ImportError, AttributeError):
        return False
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)
    if handle == NULL:
        return False
    # The handle is kept for ever: the pointers live as long as this module.
    _decompress = <block_fn> dlsym(handle, "LZ4_decompress_safe")
    _compress = <block_fn> dlsym(handle, "LZ4_compress_default")
    return _decompress != NULL and _compress != NULL and _works()


_native = _resolve()
cdef bint _resolved = _native


cdef Py_ssize_t _decompress_by_package(const uint8_t* source, size_t source_bytes,
                                       uint8_t* target, size_t target_bytes) noexcept with gil:
    cdef bytes data
    try:
        data = _package.decompress(PyBytes_FromStringAndSize(<const char*> source, <Py_ssize_t> source_bytes),
                                   uncompressed_size=<int> target_bytes)
    except BaseException:     # nothing may leave a noexcept function: it would look like success
        return -1
    if <size_t> PyBytes_GET_SIZE(data) > target_bytes:
        return -1
    memcpy(target, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return PyBytes_GET_SIZE(data)


cdef Py_ssize_t _compress_by_package(const uint8_t* source, size_t source_bytes,
                                     uint8_t* target, size_t target_bytes) noexcept with gil:
    cdef bytes data
    try:
        data = _package.compress(PyBytes_FromStringAndSize(<const char*> source, <Py_ssize_t> source_bytes),
                                 store_size=False)
    except BaseException:     # nothing may leave a noexcept function: it would look like success
        return -1
    if <size_t> PyBytes_GET_SIZE(data) > target_bytes:
        return -1
    memcpy(target, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return PyBytes_GET_SIZE(data)


cdef Py_ssize_t lz4_decompress(const uint8_t* source, size_t source_bytes,
                               uint8_t* target, size_t target_bytes) noexcept nogil:
    cdef int size
    if source_bytes > BLOCK_BYTES_MAX or target_bytes > BLOCK_BYTES_MAX:
        return -1
    if not _native:
        return _decompress_by_package(source, source_bytes, target, target_bytes)
    size = _decompress(<const char*> source, <char*> target, <int> source_bytes, <int> target_bytes)
    return size if size >= 0 else -1


cdef Py_ssize_t lz4_compress(const uint8_t* source, size_t source_bytes,
                             uint8_t* target, size_t target_bytes) noexcept nogil:
    cdef int size
    if source_bytes > BLOCK_BYTES_MAX or target_bytes > BLOCK_BYTES_MAX:
        return -1
    if not _native:
        return _compress_by_package(source, source_bytes, target, target_bytes)
    size = _compress(<const char*> source, <char*> target, <int> source_bytes, <int> target_bytes)
    return size if size > 0 else -1


cdef size_t lz4_bound(size_t source_bytes) noexcept nogil:
    # LZ4_compressBound's formula; it is part of the library's stable interface.
    return source_bytes + source_bytes // 255 + 16


def engine():
    """"lz4 wheel, native" (C entry points, no GIL) or "lz4 package" (its Python function, GIL held)."""
    return "lz4 wheel, native" if _native else "lz4 package"


def use_native(bint wanted):
    """For tests: choose between the two engines; returns whether the native one is now in use.

    Not to be called while another thread compresses or decompresses.
    """
    global _native
    _native = wanted and _resolved
    return _native
