"""Blocks as an Arrow C stream. No Arrow library is used: the structs are the ABI that its specification fixes.

Invariants:
 A1  A child array holds one reference to its block, and nothing of Python: it is released on any thread, without the GIL,
     in any order, also when the consumer moved it out of its parent.
 A2  The stream itself holds its Python state (schema, iterator, error) and takes the GIL for each call.
 A3  What goes out by reference is never changed afterwards (B1 of column_block). BOOL (packed to bits) and DECIMAL32 and
     DECIMAL64 (widened to 128 bits) are the only copies.
 A4  After an error the stream gives the same error for ever; after its end it stays ended.
The mapping of types and the fields' metadata are described in docs/formats/rows.md.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from kudu_storage._native.arrow_abi cimport ARROW_FLAG_NULLABLE, ArrowArray, ArrowArrayStream, ArrowSchema
from kudu_storage._native.column_block cimport (
    KIND_BINARY, BlockBuffers, ColumnBlock, ColumnBuffers, block_release, block_retain,
)
from kudu_storage._native.utf8 cimport is_ascii, is_utf8

from kudu_storage.errors import BadFormat, InvalidArgument

cdef enum Copy:
    COPY_NOTHING
    COPY_BITS           # BOOL
    COPY_WIDENED        # DECIMAL32, DECIMAL64

cdef enum:
    DECIMAL_BYTES = 16
    CHILD_BUFFERS_MAX = 3

cdef struct ColumnPlan:
    Copy copy
    bint is_text

# What a child array owns, in one allocation with its buffer pointers.
cdef struct ChildOwner:
    BlockBuffers* block
    uint8_t* copied             # values made for it, or NULL
    const void* buffers[CHILD_BUFFERS_MAX]

_FORMATS = {
    "INT8": "c", "INT16": "s", "INT32": "i", "INT64": "l", "FLOAT": "f", "DOUBLE": "g", "BOOL": "b", "STRING": "u",
    "VARCHAR": "u", "BINARY": "z", "UNIXTIME_MICROS": "tsu:UTC", "DATE": "tdD",
}
_DECIMAL_DIGITS_MAX = {"DECIMAL32": 9, "DECIMAL64": 18, "DECIMAL128": 38}


# -- arrays: no Python from here --------------------------------------------------------------------------------------
cdef void release_child(ArrowArray* array) noexcept nogil:
    cdef ChildOwner* owner = <ChildOwner*> array.private_data
    block_release(owner.block)
    free(owner.copied)
    free(owner)
    array.release = NULL


cdef void release_parent(ArrowArray* array) noexcept nogil:
    """Children that the consumer moved out have no release any more and live on."""
    cdef int64_t i
    for i in range(array.n_children):
        if array.children[i].release != NULL:
            array.children[i].release(array.children[i])
    free(array.private_data)
    array.release = NULL


cdef uint8_t* packed_bits(const uint8_t* values, int64_t count) noexcept nogil:
    cdef uint8_t* bits = <uint8_t*> calloc(<size_t> count // 8 + 1, 1)
    cdef int64_t i
    if bits != NULL:
        for i in range(count):
            bits[i >> 3] |= <uint8_t> ((values[i] != 0) << (i & 7))
    return bits


cdef uint8_t* widened(const uint8_t* values, uint32_t width, int64_t count) noexcept nogil:
    """Little-endian numbers of 4 or 8 bytes as numbers of 16."""
    cdef uint8_t* wide = <uint8_t*> malloc((<size_t> count + 1) * DECIMAL_BYTES)
    cdef int64_t i, number
    cdef int64_t[2] halves
    cdef int32_t small
    if wide == NULL:
        return NULL
    for i in range(count):
        if width == 4:
            memcpy(&small, values + i * 4, 4)
            number = small
        else:
            memcpy(&number, values + i * 8, 8)
        halves[0] = number
        halves[1] = -1 if number < 0 else 0
        memcpy(wide + i * DECIMAL_BYTES, halves, DECIMAL_BYTES)
    return wide


cdef int fill_child(ArrowArray* array, BlockBuffers* block, int32_t position, Copy copy) noexcept nogil:
    """0, or -1 when memory is short; then the array is not live."""
    cdef ColumnBuffers* column = &block.columns[position]
    cdef ChildOwner* owner = <ChildOwner*> calloc(1, sizeof(ChildOwner))
    if owner == NULL:
        return -1
    if copy == COPY_BITS:
        owner.copied = packed_bits(column.values, block.row_count)
    elif copy == COPY_WIDENED:
        owner.copied = widened(column.values, column.width, block.row_count)
    if copy != COPY_NOTHING and owner.copied == NULL:
        free(owner)
        return -1
    owner.buffers[0] = column.validity if column.null_count else NULL
    if column.kind == KIND_BINARY:
        owner.buffers[1] = column.offsets
        owner.buffers[2] = column.data
    else:
        owner.buffers[1] = owner.copied if owner.copied != NULL else column.values
    block_retain(block)
    owner.block = block
    array.length = block.row_count
    array.null_count = column.null_count
    array.n_buffers = 3 if column.kind == KIND_BINARY else 2
    array.buffers = owner.buffers
    array.release = release_child
    array.private_data = owner
    return 0


cdef int fill_array(ArrowArray* out, BlockBuffers* block, const ColumnPlan* plans) noexcept nogil:
    """The struct array of a block: 0, or -1 when memory is short; then nothing is held and *out is not live.

    One allocation: the pointer to the absent validity buffer, the pointers to the children, the children.
    """
    cdef int32_t i
    cdef size_t count = <size_t> block.column_count
    cdef uint8_t* memory = <uint8_t*> calloc(1, sizeof(void*) * (count + 1) + count * sizeof(ArrowArray))
    cdef ArrowArray* children
    memset(out, 0, sizeof(ArrowArray))
    if memory == NULL:
        return -1
    out.buffers = <const void**> memory
    out.children = <ArrowArray**> (memory + sizeof(void*))
    children = <ArrowArray*> (memory + sizeof(void*) * (count + 1))
    for i in range(block.column_count):
        out.children[i] = &children[i]
    out.length = block.row_count
    out.n_buffers = 1
    out.n_children = block.column_count
    out.private_data = memory
    for i in range(block.column_count):
        if fill_child(&children[i], block, i, plans[i].copy):
            release_parent(out)
            return -1
    out.release = release_parent
    return 0


cdef bint column_is_utf8(const ColumnBuffers* column, int64_t row_count) noexcept nogil:
    """The column's bytes as a whole, and no cell that starts inside a character."""
    cdef int64_t row
    cdef size_t end = <size_t> column.offsets[row_count]
    if is_ascii(column.data, end):
        return True
    if not is_utf8(column.data, end):
        return False
    for row in range(row_count):
        if <size_t> column.offsets[row] < end and (column.data[column.offsets[row]] & 0xC0) == 0x80:
            return False
    return True


cdef int64_t first_not_utf8(const ColumnBuffers* column, int64_t row_count) noexcept nogil:
    """The first row whose cell is not UTF-8, or -1."""
    cdef int64_t row
    if column_is_utf8(column, row_count):
        return -1
    for row in range(row_count):
        if not is_utf8(column.data + column.offsets[row], <size_t> (column.offsets[row + 1] - column.offsets[row])):
            return row
    return -1


# -- schemas -----------------------------------------------------------------------------------------------------------
cdef void release_schema(ArrowSchema* schema) noexcept nogil:
    cdef int64_t i
    for i in range(schema.n_children):
        if schema.children[i].release != NULL:
            schema.children[i].release(schema.children[i])
        free(schema.children[i])
    free(schema.children)
    free(schema.private_data)
    schema.release = NULL


cdef str format_of(object column, bint strings_as_binary):
    cdef str kind = column.type.name
    if not column.type.is_decimal:
        return "z" if strings_as_binary and column.type.is_binary else _FORMATS[kind]
    precision = column.precision or _DECIMAL_DIGITS_MAX[kind]
    if not 0 < precision <= _DECIMAL_DIGITS_MAX[kind] or not 0 <= column.scale <= precision:
        raise BadFormat(f"column {column.name!r}: {kind} cannot have precision {precision} and scale {column.scale}")
    return f"d:{precision},{column.scale}"


cdef bytes metadata_of(object column):
    """Arrow's encoding: i32 count, then i32 size and bytes of each key and value, in the machine's byte order."""
    pairs = {"kudu.type": column.type.name, "kudu.key": "true" if column.is_key else "false"}
    if column.type.name == "VARCHAR":
        pairs["kudu.length"] = str(column.length)
    if column.comment:
        pairs["kudu.comment"] = column.comment
    parts = [len(pairs).to_bytes(4, "little")]
    for text in (part for pair in pairs.items() for part in pair):
        data = text.encode("utf-8", "replace")
        parts += [len(data).to_bytes(4, "little"), data]
    return b"".join(parts)


cdef int fill_schema(ArrowSchema* out, bytes format, bytes name, bytes metadata, int64_t flags) except -1:
    """Without children. The texts are kept in one allocation: format NUL name NUL metadata."""
    cdef Py_ssize_t format_bytes = PyBytes_GET_SIZE(format) + 1, name_bytes = PyBytes_GET_SIZE(name) + 1
    cdef char* texts = <char*> malloc(<size_t> (format_bytes + name_bytes + len(metadata)) + 1)
    if texts == NULL:
        raise MemoryError("no memory for an Arrow schema")
    memset(out, 0, sizeof(ArrowSchema))
    memcpy(texts, PyBytes_AS_STRING(format), format_bytes)
    memcpy(texts + format_bytes, PyBytes_AS_STRING(name), name_bytes)
    if metadata:
        memcpy(texts + format_bytes + name_bytes, PyBytes_AS_STRING(metadata), PyBytes_GET_SIZE(metadata))
        out.metadata = texts + format_bytes + name_bytes
    out.format = texts
    out.name = texts + format_bytes
    out.flags = flags
    out.release = release_schema
    out.private_data = texts
    return 0


cdef int export_schema(ArrowSchema* out, object schema, bint strings_as_binary) except -1:
    """A struct with one child a column. When it raises nothing is held."""
    cdef ArrowSchema* child
    fill_schema(out, b"+s", b"", b"", 0)
    try:
        out.children = <ArrowSchema**> calloc(<size_t> len(schema) + 1, sizeof(ArrowSchema*))
        if out.children == NULL:
            raise MemoryError("no memory for an Arrow schema")
        for column in schema:
            child = <ArrowSchema*> calloc(1, sizeof(ArrowSchema))
            if child == NULL:
                raise MemoryError("no memory for an Arrow schema")
            out.children[out.n_children] = child
            out.n_children += 1
            fill_schema(child, format_of(column, strings_as_binary).encode("ascii"),
                        column.name.replace("\0", "\ufffd").encode("utf-8", "replace"), metadata_of(column),
                        ARROW_FLAG_NULLABLE if column.nullable else 0)
    except BaseException:
        release_schema(out)
        raise
    return 0


# -- the stream --------------------------------------------------------------------------------------------------------
cdef class _StreamState:
    """What a live stream holds. Used under the GIL only."""
    cdef object schema
    cdef object blocks                  # iterator; None after the end or an error
    cdef bint strings_as_binary
    cdef ColumnPlan* plans
    cdef readonly object error          # the exception that stopped it
    cdef bytes error_text
    cdef int error_number
    cdef int64_t rows_before            # of the blocks already given

    def __cinit__(self, schema, blocks, bint strings_as_binary):
        cdef int32_t i
        self.schema = schema
        self.blocks = iter(blocks)
        self.strings_as_binary = strings_as_binary
        self.plans = <ColumnPlan*> calloc(<size_t> len(schema) + 1, sizeof(ColumnPlan))
        if self.plans == NULL:
            raise MemoryError("no memory for an Arrow stream")
        for i, column in enumerate(schema):
            format_of(column, strings_as_binary)    # refuses here, not in the consumer
            self.plans[i].is_text = column.type.is_binary and column.type.name != "BINARY" and not strings_as_binary
            if column.type.name == "BOOL":
                self.plans[i].copy = COPY_BITS
            elif column.type.name == "DECIMAL32" or column.type.name == "DECIMAL64":
                self.plans[i].copy = COPY_WIDENED

    def __dealloc__(self):
        free(self.plans)
        self.plans = NULL

    cdef int fail(self, object error) noexcept:
        """Remember the error; returns the errno-like number that the C interface wants."""
        self.blocks = None
        self.error = error
        self.error_text = f"{type(error).__name__}: {error}".replace("\0", "\ufffd").encode("utf-8", "replace")
        self.error_number = ENOMEM if isinstance(error, MemoryError) else EINVAL if isinstance(error, ValueError) else EIO
        return self.error_number

    cdef int check_text(self, BlockBuffers* buffers) except -1:
        cdef int32_t i
        cdef int64_t row
        for i in range(buffers.column_count):
            if not self.plans[i].is_text:
                continue
            with nogil:
                row = first_not_utf8(&buffers.columns[i], buffers.row_count)
            if row >= 0:
                raise BadFormat(f"column {self.schema.columns[i].name!r} row {self.rows_before + row}: the bytes are not UTF-8",
                                intact=f"{self.rows_before} rows before its batch were given",
                                advice="the option strings_as_binary=True")
        return 0

    cdef int next_into(self, ArrowArray* out) except -1:
        cdef ColumnBlock block
        cdef BlockBuffers* buffers
        cdef int failed
        try:
            found = next(self.blocks)
        except StopIteration:
            self.blocks = None
            return 0
        if not isinstance(found, ColumnBlock):
            raise InvalidArgument(f"an Arrow stream takes ColumnBlocks, not {type(found).__name__}")
        block = found
        if block.schema is not self.schema and block.schema != self.schema:
            raise InvalidArgument("a block has another schema than its Arrow stream")
        buffers = block.buffers
        self.check_text(buffers)
        with nogil:
            failed = fill_array(out, buffers, self.plans)
        if failed:
            raise MemoryError("no memory for an Arrow array")
        self.rows_before += buffers.row_count
        return 0


cdef int stream_get_schema(ArrowArrayStream* stream, ArrowSchema* out) noexcept with gil:
    cdef _StreamState state = <_StreamState> stream.private_data
    try:
        export_schema(out, state.schema, state.strings_as_binary)
    except BaseException as error:
        return state.fail(error)
    return 0


cdef int stream_get_next(ArrowArrayStream* stream, ArrowArray* out) noexcept with gil:
    cdef _StreamState state = <_StreamState> stream.private_data
    memset(out, 0, sizeof(ArrowArray))      # release == NULL: the end
    if state.error is not None:
        return state.error_number
    if state.blocks is None:
        return 0
    try:
        state.next_into(out)
    except BaseException as error:
        return state.fail(error)
    return 0


cdef const char* stream_last_error(ArrowArrayStream* stream) noexcept with gil:
    cdef _StreamState state = <_StreamState> stream.private_data
    return NULL if state.error_text is None else PyBytes_AS_STRING(state.error_text)


cdef void stream_release(ArrowArrayStream* stream) noexcept with gil:
    Py_DECREF(<object> stream.private_data)
    stream.private_data = NULL
    stream.release = NULL


cdef void drop_stream(object capsule) noexcept:
    """A capsule that nobody consumed; a consumer that moved the stream out left release NULL."""
    cdef ArrowArrayStream* stream = <ArrowArrayStream*> PyCapsule_GetPointer(capsule, "arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


cdef void drop_schema(object capsule) noexcept:
    cdef ArrowSchema* schema = <ArrowSchema*> PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


cdef class ArrowStream:
    cdef _StreamState state
    cdef readonly object schema
    cdef bint exported

    def __init__(self, schema, blocks, *, bint strings_as_binary=False):
        self.schema = schema
        self.state = _StreamState(schema, blocks, strings_as_binary)
        self.exported = False

    @property
    def error(self):
        return self.state.error

    def __arrow_c_stream__(self, requested_schema=None):
        cdef ArrowArrayStream* stream
        if self.exported:
            raise InvalidArgument("this Arrow stream was already exported", advice="a new scan for each consumer")
        stream = <ArrowArrayStream*> calloc(1, sizeof(ArrowArrayStream))
        if stream == NULL:
            raise MemoryError("no memory for an Arrow stream")
        stream.get_schema = stream_get_schema
        stream.get_next = stream_get_next
        stream.get_last_error = stream_last_error
        stream.release = stream_release
        stream.private_data = <void*> self.state
        Py_INCREF(self.state)
        try:
            capsule = PyCapsule_New(stream, "arrow_array_stream", drop_stream)
        except BaseException:
            stream.release(stream)
            free(stream)
            raise
        self.exported = True
        return capsule

    def __arrow_c_schema__(self):
        cdef ArrowSchema* schema = <ArrowSchema*> calloc(1, sizeof(ArrowSchema))
        if schema == NULL:
            raise MemoryError("no memory for an Arrow schema")
        try:
            export_schema(schema, self.schema, self.state.strings_as_binary)
            return PyCapsule_New(schema, "arrow_schema", drop_schema)
        except BaseException:
            if schema.release != NULL:
                schema.release(schema)
            free(schema)
            raise

    def __repr__(self):
        return f"<ArrowStream of {len(self.schema)} columns{', exported' if self.exported else ''}>"
