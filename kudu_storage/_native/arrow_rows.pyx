"""Arrow streams as row operations: no Python per row. The producer's buffers are read in place and never changed.

 R1  An array is released before the next one is asked for, and the stream when this object goes.
 R2  Offsets and views are trusted to lie within their buffers, as the C data interface promises; it carries no sizes.
 R3  A value that does not fit is an error of its row; nothing of that row is in the batch.
Types: integers of any width into integers (checked), float and double into either (checked), utf8 of all layouts into STRING
and VARCHAR, binary of all layouts into BINARY, STRING and VARCHAR, timestamps of all units (without a zone: UTC) into
UNIXTIME_MICROS, date32 and date64 into DATE, decimals of the same scale, bool; null arrays into any nullable column.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kudu_storage._native.arrow_abi cimport ArrowArray, ArrowArrayStream, ArrowSchema
from kudu_storage._native.delta cimport buffer_append, buffer_room
from kudu_storage._native.row_batch cimport BatchColumn, RowBatch

from kudu_storage.common.row_codec import RowOp
from kudu_storage.errors import InvalidArgument

cdef enum Source:
    SOURCE_NONE = 0             # not in the stream
    SOURCE_SIGNED
    SOURCE_UNSIGNED
    SOURCE_BIT
    SOURCE_FLOAT
    SOURCE_DOUBLE
    SOURCE_BYTES32              # offsets of 32 bits
    SOURCE_BYTES64
    SOURCE_VIEW
    SOURCE_FIXED                # bytes of a fixed size
    SOURCE_DECIMAL              # 16 bytes into any width
    SOURCE_NULL

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY
    FAULT_RANGE
    FAULT_NULL
    FAULT_TOO_LARGE
    FAULT_TOO_LONG
    FAULT_INEXACT

_FAULTS = {FAULT_RANGE: "is out of range", FAULT_NULL: "is NULL, and the column is not nullable",
           FAULT_TOO_LARGE: "has more bytes than a cell may have", FAULT_TOO_LONG: "has too many characters",
           FAULT_INEXACT: "would lose digits"}

cdef struct Plan:
    Source source
    int64_t child               # in the stream's struct
    uint32_t source_width
    int64_t multiply
    int64_t divide
    uint64_t[2] digits_limit    # decimals: absolute values are below it, low half first; 0 0: no limit
    # of the array in hand
    const uint8_t* validity
    const uint8_t* values
    const uint8_t* data
    const void** buffers
    int64_t offset


cdef class ArrowRows:
    cdef ArrowArrayStream stream
    cdef ArrowSchema schema
    cdef ArrowArray array
    cdef Plan* plans
    cdef int32_t column_count
    cdef list described
    cdef int32_t op
    cdef int64_t row                # next one of the array in hand
    cdef readonly int64_t rows
    cdef int32_t fault_column
    cdef bint ended

    def __cinit__(self, data, RowBatch batch not None, int32_t op):
        cdef ArrowArrayStream* given
        memset(&self.stream, 0, sizeof(ArrowArrayStream))
        memset(&self.schema, 0, sizeof(ArrowSchema))
        memset(&self.array, 0, sizeof(ArrowArray))
        self.op = op
        self.described = batch.described
        self.column_count = batch.column_count
        self.plans = <Plan*> calloc(<size_t> batch.column_count + 1, sizeof(Plan))
        if self.plans == NULL:
            raise MemoryError()
        if not hasattr(data, "__arrow_c_stream__"):
            raise InvalidArgument(f"{type(data).__name__} is no Arrow stream",
                                  advice="a table of pyarrow, polars or pandas: anything with __arrow_c_stream__")
        capsule = data.__arrow_c_stream__()
        given = <ArrowArrayStream*> PyCapsule_GetPointer(capsule, "arrow_array_stream")
        if given.release == NULL:
            raise InvalidArgument("the Arrow stream was consumed already")
        self.stream = given[0]
        given.release = NULL        # moved
        self._read_schema()

    def __dealloc__(self):
        if self.array.release != NULL:
            self.array.release(&self.array)
        if self.schema.release != NULL:
            self.schema.release(&self.schema)
        if self.stream.release != NULL:
            self.stream.release(&self.stream)
        free(self.plans)

    # -- the schema ------------------------------------------------------------------------------------------------
    cdef int _read_schema(self) except -1:
        cdef int status
        cdef int64_t i
        cdef dict positions = {c.name: n for n, c in enumerate(self.described)}
        cdef ArrowSchema* child
        with nogil:
            status = self.stream.get_schema(&self.stream, &self.schema)
        if status:
            raise self._stream_error(status)
        if self.schema.format == NULL or (<bytes> self.schema.format) != b"+s":
            raise InvalidArgument("the Arrow stream has no columns")
        for i in range(self.schema.n_children):
            child = self.schema.children[i]
            name = (<bytes> child.name).decode("utf-8", "replace") if child.name != NULL else ""
            position = positions.get(name)
            if position is None:
                raise InvalidArgument(f"no column named {name!r}", advice=f"one of {', '.join(positions)}")
            if self.plans[<int32_t> position].source != SOURCE_NONE:
                raise InvalidArgument(f"the Arrow stream has two columns named {name!r}")
            if child.dictionary != NULL:
                raise InvalidArgument(f"column {name!r} is dictionary-encoded", advice="cast it to its values' type")
            self._plan(<int32_t> position, i, (<bytes> child.format).decode("ascii", "replace"))
        self._check_columns()
        return 0

    cdef int _check_columns(self) except -1:
        """What every row would be refused for is refused once."""
        cdef int32_t i
        inserts = RowOp(self.op).is_insert
        for i, column in enumerate(self.described):
            there = self.plans[i].source != SOURCE_NONE
            if not there and (column.is_key or (inserts and not column.nullable and column.write_default is None)):
                raise InvalidArgument(f"the Arrow stream has no column {column.name!r}, which each row needs")
            if there and RowOp(self.op).is_delete and not column.is_key:
                raise InvalidArgument(f"a delete takes key columns alone, not {column.name!r}")
        return 0

    cdef int _plan(self, int32_t i, int64_t child, str format) except -1:
        cdef Plan* plan = &self.plans[i]
        column = self.described[i]
        kind = column.type.name
        plan.child = child
        plan.multiply = plan.divide = 1
        integers = {"c": (SOURCE_SIGNED, 1), "s": (SOURCE_SIGNED, 2), "i": (SOURCE_SIGNED, 4), "l": (SOURCE_SIGNED, 8),
                    "C": (SOURCE_UNSIGNED, 1), "S": (SOURCE_UNSIGNED, 2), "I": (SOURCE_UNSIGNED, 4), "L": (SOURCE_UNSIGNED, 8)}
        texts = {"u": SOURCE_BYTES32, "U": SOURCE_BYTES64, "vu": SOURCE_VIEW}
        binaries = {"z": SOURCE_BYTES32, "Z": SOURCE_BYTES64, "vz": SOURCE_VIEW}
        times = {"s": (1_000_000, 1), "m": (1000, 1), "u": (1, 1), "n": (1, 1000)}
        if format == "n":
            plan.source = SOURCE_NULL
        elif kind in ("INT8", "INT16", "INT32", "INT64") and format in integers:
            plan.source, plan.source_width = integers[format]
        elif kind == "BOOL" and format == "b":
            plan.source = SOURCE_BIT
        elif kind in ("FLOAT", "DOUBLE") and format in ("f", "g"):
            plan.source = SOURCE_FLOAT if format == "f" else SOURCE_DOUBLE
        elif kind in ("STRING", "VARCHAR") and format in texts:
            plan.source = texts[format]
        elif column.type.is_binary and format in binaries:
            plan.source = binaries[format]
        elif column.type.is_binary and format.startswith("w:"):
            plan.source, plan.source_width = SOURCE_FIXED, int(format[2:])
        elif kind == "UNIXTIME_MICROS" and format[:2] == "ts" and format[2:3] in times:
            plan.source, plan.source_width = SOURCE_SIGNED, 8
            plan.multiply, plan.divide = times[format[2]]
        elif kind == "DATE" and format == "tdD":
            plan.source, plan.source_width = SOURCE_SIGNED, 4
        elif kind == "DATE" and format == "tdm":
            plan.source, plan.source_width, plan.divide = SOURCE_SIGNED, 8, 86_400_000
        elif column.type.is_decimal and format.startswith("d:"):
            self._plan_decimal(i, format)
        if plan.source == SOURCE_NONE:
            raise InvalidArgument(f"column {column.name!r} ({kind}): Arrow's type {format!r} does not fit",
                                  advice="cast it first")
        return 0

    cdef int _plan_decimal(self, int32_t i, str format) except -1:
        cdef Plan* plan = &self.plans[i]
        column = self.described[i]
        numbers = [int(n) for n in format[2:].split(",")]
        if numbers[1] != column.scale:
            raise InvalidArgument(f"column {column.name!r}: a decimal of scale {numbers[1]}, the column has {column.scale}",
                                  advice="cast it first")
        width = numbers[2] if len(numbers) > 2 else 128
        if width == 128:
            plan.source = SOURCE_DECIMAL
        elif width in (32, 64):
            plan.source, plan.source_width = SOURCE_SIGNED, width // 8
        else:
            return 0
        limit = 10 ** (column.precision or 38)
        plan.digits_limit[0] = limit & 0xFFFFFFFFFFFFFFFF
        plan.digits_limit[1] = limit >> 64
        return 0

    cdef object _stream_error(self, int status):
        cdef const char* text = self.stream.get_last_error(&self.stream)
        words = (<bytes> text).decode("utf-8", "replace") if text != NULL else f"error {status}"
        return InvalidArgument(f"the Arrow stream failed: {words}", intact=f"{self.rows} rows before")

    # -- rows ------------------------------------------------------------------------------------------------------
    def fill(self, RowBatch batch not None, size_t bytes_max):
        cdef Fault fault
        while batch.rows.size + batch.indirect.size < bytes_max:
            if self.array.release == NULL or self.row >= self.array.length:
                if not self._next_array():
                    return False
                continue
            with nogil:
                fault = fill_some(self, batch, bytes_max)
            if fault == FAULT_MEMORY:
                raise MemoryError()
            if fault != FAULT_NONE:
                column = self.described[self.fault_column]
                raise InvalidArgument(f"column {column.name!r} ({column.type.name}) row {self.rows}: the value "
                                      f"{_FAULTS[fault]}")
        return True

    cdef bint _next_array(self) except -1:
        cdef int status
        if self.array.release != NULL:
            self.array.release(&self.array)
            self.array.release = NULL
        if self.ended:
            return False
        with nogil:
            status = self.stream.get_next(&self.stream, &self.array)
        if status:
            self.ended = True
            self.array.release = NULL
            raise self._stream_error(status)
        if self.array.release == NULL:
            self.ended = True
            return False
        self.row = 0
        if self.array.n_children != self.schema.n_children:
            raise InvalidArgument("a batch of the Arrow stream has other columns than its schema")
        if self.array.null_count > 0 and self.array.n_buffers and self.array.buffers[0] != NULL:
            raise InvalidArgument("rows of the Arrow stream are NULL as a whole")
        self._point()
        return True

    cdef int _point(self) except -1:
        """Where each column's cells of the array in hand are."""
        cdef int32_t i
        cdef Plan* plan
        cdef ArrowArray* child
        for i in range(self.column_count):
            plan = &self.plans[i]
            if plan.source == SOURCE_NONE or plan.source == SOURCE_NULL:
                continue
            child = self.array.children[plan.child]
            if child.n_buffers < 2 or child.length < self.array.offset + self.array.length:
                raise InvalidArgument("a column of the Arrow stream has fewer rows than its batch")
            plan.offset = self.array.offset + child.offset
            plan.buffers = child.buffers
            plan.validity = <const uint8_t*> child.buffers[0] if child.null_count != 0 else NULL
            plan.values = <const uint8_t*> child.buffers[1]
            plan.data = <const uint8_t*> child.buffers[2] if child.n_buffers > 2 else NULL
        return 0


# -- without the GIL ---------------------------------------------------------------------------------------------------
cdef Fault fill_some(ArrowRows self, RowBatch batch, size_t bytes_max) noexcept nogil:
    cdef size_t rows, indirect
    cdef Fault fault
    while self.row < self.array.length and batch.rows.size + batch.indirect.size < bytes_max:
        rows, indirect = batch.rows.size, batch.indirect.size
        fault = put_row(self, batch)
        if fault != FAULT_NONE:
            batch.rows.size, batch.indirect.size = rows, indirect
            return fault
        batch.count += 1
        self.row += 1
        self.rows += 1
    return FAULT_NONE


cdef Fault put_row(ArrowRows self, RowBatch batch) noexcept nogil:
    cdef size_t head = batch.rows.size
    cdef int32_t i
    cdef Plan* plan
    cdef int64_t at
    cdef uint8_t* bitmaps
    cdef Fault fault
    # Room for the whole row but its indirect data: nothing moves while it is put.
    if buffer_room(&batch.rows, 1 + 2 * batch.bitmap_bytes + 16 * <size_t> self.column_count) == NULL \
            or batch.begin(self.op) == NULL:
        return FAULT_MEMORY
    bitmaps = batch.rows.data + head + 1
    for i in range(self.column_count):
        plan = &self.plans[i]
        if plan.source == SOURCE_NONE:
            continue
        bitmaps[i >> 3] |= <uint8_t> (1 << (i & 7))
        at = plan.offset + self.row
        if plan.source == SOURCE_NULL or (plan.validity != NULL and not (plan.validity[at >> 3] >> (at & 7)) & 1):
            if not batch.columns[i].nullable:
                self.fault_column = i
                return FAULT_NULL
            bitmaps[batch.bitmap_bytes + (i >> 3)] |= <uint8_t> (1 << (i & 7))
            continue
        fault = put_cell(plan, at, batch, &batch.columns[i])
        if fault != FAULT_NONE:
            self.fault_column = i
            return fault
    return FAULT_NONE


cdef Fault put_cell(const Plan* plan, int64_t at, RowBatch batch, const BatchColumn* column) noexcept nogil:
    cdef double real
    cdef float single
    cdef uint8_t bit
    if plan.source == SOURCE_SIGNED or plan.source == SOURCE_UNSIGNED:
        return put_integer(plan, at, batch, column)
    if plan.source >= SOURCE_BYTES32 and plan.source <= SOURCE_FIXED:
        return put_bytes_at(plan, at, batch, column)
    if plan.source == SOURCE_DECIMAL:
        return put_decimal(plan, at, batch, column)
    if plan.source == SOURCE_BIT:
        bit = (plan.values[at >> 3] >> (at & 7)) & 1
        buffer_append(&batch.rows, &bit, 1)
        return FAULT_NONE
    if plan.source == SOURCE_FLOAT:
        memcpy(&single, plan.values + 4 * at, 4)
        real = single
    else:
        memcpy(&real, plan.values + 8 * at, 8)
        single = <float> real
    if column.width == 4:
        if plan.source == SOURCE_DOUBLE and single - single != 0 and real - real == 0:
            return FAULT_RANGE
        buffer_append(&batch.rows, <const uint8_t*> &single, 4)
    else:
        buffer_append(&batch.rows, <const uint8_t*> &real, 8)
    return FAULT_NONE


cdef Fault put_integer(const Plan* plan, int64_t at, RowBatch batch, const BatchColumn* column) noexcept nogil:
    cdef int64_t number, bound
    cdef int64_t[2] wide
    cdef int8_t tiny
    cdef int16_t small
    cdef int32_t normal
    cdef uint16_t small_unsigned
    cdef uint32_t normal_unsigned
    cdef const uint8_t* cell = plan.values + at * plan.source_width
    if plan.source_width == 8:
        memcpy(&number, cell, 8)
        if plan.source == SOURCE_UNSIGNED and number < 0:
            return FAULT_RANGE
    elif plan.source_width == 4:
        memcpy(&normal, cell, 4)
        memcpy(&normal_unsigned, cell, 4)
        number = normal if plan.source == SOURCE_SIGNED else <int64_t> normal_unsigned
    elif plan.source_width == 2:
        memcpy(&small, cell, 2)
        memcpy(&small_unsigned, cell, 2)
        number = small if plan.source == SOURCE_SIGNED else <int64_t> small_unsigned
    else:
        memcpy(&tiny, cell, 1)
        number = tiny if plan.source == SOURCE_SIGNED else <int64_t> cell[0]
    if plan.divide != 1:
        if number % plan.divide:
            return FAULT_INEXACT
        number = number // plan.divide
    if plan.multiply != 1:
        if number > INT64_MAX // plan.multiply or number < -(INT64_MAX // plan.multiply):
            return FAULT_RANGE
        number *= plan.multiply
    if plan.digits_limit[0] and not plan.digits_limit[1] and plan.digits_limit[0] <= <uint64_t> INT64_MAX:
        bound = <int64_t> plan.digits_limit[0]
        if number >= bound or number <= -bound:
            return FAULT_RANGE
    if column.width < 8:
        bound = <int64_t> 1 << (8 * column.width - 1)
        if number >= bound or number < -bound:
            return FAULT_RANGE
    wide[0] = number
    wide[1] = -1 if number < 0 else 0
    buffer_append(&batch.rows, <const uint8_t*> wide, column.width)
    return FAULT_NONE


cdef Fault put_decimal(const Plan* plan, int64_t at, RowBatch batch, const BatchColumn* column) noexcept nogil:
    """A number of 16 bytes; its absolute value is compared with ten to the column's precision."""
    cdef uint64_t[2] number
    cdef uint64_t low, high
    memcpy(number, plan.values + 16 * at, 16)
    low, high = number[0], number[1]
    if high >> 63:
        low = ~low + 1
        high = ~high + (low == 0)
    if high > plan.digits_limit[1] or (high == plan.digits_limit[1] and low >= plan.digits_limit[0]):
        return FAULT_RANGE
    buffer_append(&batch.rows, <const uint8_t*> number, column.width)      # a smaller limit fits the smaller width
    return FAULT_NONE


cdef Fault put_bytes_at(const Plan* plan, int64_t at, RowBatch batch, const BatchColumn* column) noexcept nogil:
    cdef const uint8_t* data
    cdef size_t size
    cdef int32_t[4] view
    cdef int32_t[2] short_offsets
    cdef int64_t[2] long_offsets
    if plan.source == SOURCE_BYTES32:
        memcpy(short_offsets, plan.values + 4 * at, 8)
        data, size = plan.data + short_offsets[0], <size_t> (short_offsets[1] - short_offsets[0])
    elif plan.source == SOURCE_BYTES64:
        memcpy(long_offsets, plan.values + 8 * at, 16)
        data, size = plan.data + long_offsets[0], <size_t> (long_offsets[1] - long_offsets[0])
    elif plan.source == SOURCE_FIXED:
        data, size = plan.values + at * plan.source_width, plan.source_width
    else:
        # i32 size, then up to 12 bytes in place, or 4 of them, i32 buffer, i32 offset
        memcpy(view, plan.values + 16 * at, 16)
        size = <size_t> view[0]
        data = plan.values + 16 * at + 4
        if size > 12:
            data = <const uint8_t*> plan.buffers[2 + view[2]] + view[3]
    if size > column.cell_bytes_max:
        return FAULT_TOO_LARGE
    if column.characters_max and size > column.characters_max and characters_of(data, size) > column.characters_max:
        return FAULT_TOO_LONG
    return FAULT_MEMORY if batch.put_indirect(data, size) < 0 else FAULT_NONE


cdef size_t characters_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t i, count = 0
    for i in range(size):
        count += (data[i] & 0xC0) != 0x80
    return count
