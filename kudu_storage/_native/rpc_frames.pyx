"""Frames of krpc as most of them are. See rpc_frames.pyi.

What is not as most are (parts of frames, sidecars, feature flags, request ids, errors, damage) gives None, and rpc/framing.py
goes on with it: that is where limits are enforced and errors are named. So nothing here may take what it would refuse.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport INT32_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, Field, Slice, cursor_left, cursor_of, read_field, read_varint
from kudu_storage._native.wire cimport put_bytes, put_varint, varint_size

cdef enum:
    LENGTH_WORD_BYTES = 4
    HEADER_BYTES_MAX = 1024         # of headers as most are; far below what framing.py allows
    METHODS_MAX = 256               # names are remembered for so many methods, since peers choose them
    WIRE_VARINT = 0
    WIRE_BYTES = 2

cdef dict METHODS = {}              # the bytes of a RemoteMethodPB -> (service, method)


cdef inline uint32_t _big_endian(const uint8_t* at) noexcept nogil:
    return <uint32_t> at[0] << 24 | <uint32_t> at[1] << 16 | <uint32_t> at[2] << 8 | at[3]


cdef inline bint _read_size(Cursor* cursor, uint64_t* size) noexcept nogil:
    """A varint of at most 32 bits in at most five bytes."""
    cdef const uint8_t* at = cursor.pos
    return read_varint(cursor, size) and cursor.pos - at <= 5 and size[0] <= UINT32_MAX


def whole_frame(data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t bytes_max):
    """See rpc_frames.pyi."""
    cdef Py_buffer view
    cdef Cursor cursor
    cdef uint64_t size = 0, header_bytes = 0, main_bytes = 0
    cdef const uint8_t* base
    cdef bint whole = False
    cdef bytes header = None
    cdef Py_ssize_t main_at = 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if start < 0 or end > view.len or end - start <= LENGTH_WORD_BYTES:
            return None
        base = <const uint8_t*> view.buf
        size = <uint64_t> _big_endian(base + start) + LENGTH_WORD_BYTES
        if size > <uint64_t> bytes_max or size > <uint64_t> (end - start):
            return None
        cursor = cursor_of(base + start + LENGTH_WORD_BYTES, <size_t> size - LENGTH_WORD_BYTES)
        if not _read_size(&cursor, &header_bytes) or header_bytes > HEADER_BYTES_MAX \
                or header_bytes >= cursor_left(&cursor):
            return None
        header = PyBytes_FromStringAndSize(<const char*> cursor.pos, <Py_ssize_t> header_bytes)
        cursor.pos += header_bytes
        if not _read_size(&cursor, &main_bytes) or main_bytes != cursor_left(&cursor):
            return None
        main_at = <Py_ssize_t> (cursor.pos - base)
    finally:
        PyBuffer_Release(&view)
    return start + <Py_ssize_t> size, header, main_at


cdef tuple _method(Slice remote):
    """Service and method; None: not just those two, once each, in UTF-8."""
    cdef Cursor cursor = cursor_of(remote.data, remote.size)
    cdef Field field
    cdef bytes key = PyBytes_FromStringAndSize(<const char*> remote.data, <Py_ssize_t> remote.size)
    cdef bytes service = None
    cdef bytes method = None
    found = METHODS.get(key)
    if found is not None:
        return <tuple> found
    while cursor_left(&cursor):
        if not read_field(&cursor, &field) or field.wire != WIRE_BYTES or field.bytes.size == 0:
            return None
        if field.number == 1 and service is None:
            service = PyBytes_FromStringAndSize(<const char*> field.bytes.data, <Py_ssize_t> field.bytes.size)
        elif field.number == 2 and method is None:
            method = PyBytes_FromStringAndSize(<const char*> field.bytes.data, <Py_ssize_t> field.bytes.size)
        else:
            return None
    if service is None or method is None:
        return None
    try:
        names = (service.decode(), method.decode())
    except UnicodeDecodeError:
        return None
    if len(METHODS) < METHODS_MAX:
        METHODS[key] = names
    return names


def request_header(bytes header not None):
    """See rpc_frames.pyi."""
    cdef Cursor cursor = cursor_of(<const uint8_t*> PyBytes_AS_STRING(header), <size_t> PyBytes_GET_SIZE(header))
    cdef Field field
    cdef Slice remote
    cdef uint64_t call_id = 0, timeout_ms = 0
    cdef int seen = 0
    cdef int bit
    cdef tuple names
    remote.data = NULL
    remote.size = 0
    while cursor_left(&cursor):
        if not read_field(&cursor, &field):
            return None
        if field.number == 3 and field.wire == WIRE_VARINT and field.value <= INT32_MAX:
            call_id = field.value
            bit = 1
        elif field.number == 6 and field.wire == WIRE_BYTES:
            remote = field.bytes
            bit = 2
        elif field.number == 10 and field.wire == WIRE_VARINT and field.value <= UINT32_MAX:
            timeout_ms = field.value
            bit = 4
        else:
            return None
        if seen & bit:
            return None
        seen |= bit
    if seen & 3 != 3:
        return None
    names = _method(remote)
    if names is None:
        return None
    return call_id, names[0], names[1], timeout_ms


def response_header(bytes header not None):
    """See rpc_frames.pyi."""
    cdef Cursor cursor = cursor_of(<const uint8_t*> PyBytes_AS_STRING(header), <size_t> PyBytes_GET_SIZE(header))
    cdef Field field
    cdef uint64_t call_id = 0
    cdef int seen = 0
    cdef int bit
    while cursor_left(&cursor):
        if not read_field(&cursor, &field) or field.wire != WIRE_VARINT:
            return None
        if field.number == 1 and field.value <= INT32_MAX:
            call_id = field.value
            bit = 1
        elif field.number == 2 and field.value == 0:    # no error
            bit = 2
        else:
            return None
        if seen & bit:
            return None
        seen |= bit
    return call_id if seen & 1 else None


def small_frame(int tag, int64_t call_id, bytes tail not None, bytes message not None):
    """See rpc_frames.pyi."""
    cdef uint64_t number = <uint64_t> call_id           # as protobuf has negative ones
    cdef size_t tail_bytes = <size_t> PyBytes_GET_SIZE(tail)
    cdef size_t message_bytes = <size_t> PyBytes_GET_SIZE(message)
    cdef size_t header_bytes = 1 + varint_size(number) + tail_bytes
    cdef size_t size = varint_size(header_bytes) + header_bytes + varint_size(message_bytes) + message_bytes
    cdef bytes made
    cdef uint8_t* out
    if size > INT32_MAX:
        raise OverflowError("not a small frame")
    made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (LENGTH_WORD_BYTES + size))
    out = <uint8_t*> PyBytes_AS_STRING(made)
    out[0] = <uint8_t> (size >> 24)
    out[1] = <uint8_t> (size >> 16)
    out[2] = <uint8_t> (size >> 8)
    out[3] = <uint8_t> size
    out = put_varint(out + LENGTH_WORD_BYTES, header_bytes)
    out[0] = <uint8_t> tag
    out = put_varint(out + 1, number)
    out = put_bytes(out, <const uint8_t*> PyBytes_AS_STRING(tail), tail_bytes)
    out = put_varint(out, message_bytes)
    put_bytes(out, <const uint8_t*> PyBytes_AS_STRING(message), message_bytes)
    return made
