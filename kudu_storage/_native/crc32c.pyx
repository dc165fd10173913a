"""CRC-32C (Castagnoli, not masked) with the fastest engine this processor has. Pure: bytes in, number out.

The engines are in crc32c_engine.h. The choice is made once, at import; only tests change it.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from kudu_storage.errors import InvalidArgument

cdef extern from "crc32c_engine.h" nogil:
    ctypedef uint32_t (*kudu_crc_fn)(uint32_t reg, const uint8_t* data, size_t size) noexcept nogil
    cdef struct kudu_crc_engine:
        const char* name
        kudu_crc_fn run
    int kudu_crc_engines(kudu_crc_engine* engines) noexcept nogil

# Below this size releasing the GIL costs more than the checksum.
cdef enum:
    GIL_FREE_BYTES_MIN = 32768

cdef kudu_crc_engine[4] _engines
cdef int _engine_count = kudu_crc_engines(_engines)
cdef kudu_crc_engine _chosen = _engines[0]


cdef uint32_t crc32c_extend(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil:
    return ~_chosen.run(~crc, data, size)


cdef crc32c_fn crc32c_function() noexcept nogil:
    return _chosen.run


def crc32c(data, crc=0):
    """The CRC-32C of `data`, continuing from `crc` (the CRC of the bytes before it)."""
    cdef Py_buffer view
    cdef uint32_t value = crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len >= GIL_FREE_BYTES_MIN:
            with nogil:
                value = crc32c_extend(value, <const uint8_t*> view.buf, <size_t> view.len)
        else:
            value = crc32c_extend(value, <const uint8_t*> view.buf, <size_t> view.len)
    finally:
        PyBuffer_Release(&view)
    return value


def engine():
    """Name of the engine in use."""
    return (<bytes> _chosen.name).decode("ascii")


def engines():
    """Names of all engines this processor can run, fastest first."""
    return tuple([(<bytes> _engines[i].name).decode("ascii") for i in range(_engine_count)])


def use_engine(str name):
    """For tests and benchmarks: switch to the engine `name` (one of `engines()`); returns the previous one's name.

    Every native module checksums through the same choice. Not to be called while another thread computes a checksum.
    """
    global _chosen
    before = engine()
    for i in range(_engine_count):
        if (<bytes> _engines[i].name).decode("ascii") == name:
            _chosen = _engines[i]
            return before
    raise InvalidArgument(f"no CRC engine {name!r} on this processor; there are {', '.join(engines())}")
