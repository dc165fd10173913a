"""See memrowset.pxd."""
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.arena cimport arena_alloc, arena_at, arena_free, arena_init
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.cursor cimport Slice
from kudu_storage._native.row_checksum cimport Gather, add, flush
from kudu_storage._native.row_layout cimport ColumnLayout, LayoutInfo, RowLayout, bit_is_set
from kudu_storage._native.row_ops cimport CELL_NULL, CELL_SET, CELL_UNSET

from kudu_storage.errors import BadFormat, InternalError, InvalidArgument, LimitExceeded

cdef enum:
    LAYOUT_COUNT_MAX = 0xFFF0
    STORED_BYTES_MAX = 0x7FFFFFFF       # of one row or version: offsets in it are 32-bit


# -- keys and search ---------------------------------------------------------------------------------------------------
cdef inline int _compare(MemRowSet rows, const DecodedRow* row, uint64_t prefix, uint32_t ref) noexcept nogil:
    """Order of row's key against the key of `ref`, whose prefix is given."""
    cdef const RowHeader* header
    cdef const uint8_t* key
    cdef size_t common
    cdef int order
    if row.key_prefix != prefix:
        return -1 if row.key_prefix < prefix else 1
    if rows.key_in_prefix:
        return 0
    header = <const RowHeader*> arena_at(&rows.arena, ref)
    key = <const uint8_t*> header + sizeof(RowHeader)
    common = min(row.key_size, <size_t> header.key_bytes)
    order = memcmp(row.key, key, common)
    if order:
        return order
    if row.key_size == header.key_bytes:
        return 0
    return -1 if row.key_size < header.key_bytes else 1


cdef inline void _search_leaf(MemRowSet rows, const DecodedRow* row, Leaf* leaf, Position* position) noexcept nogil:
    """First slot whose key is not below the row's."""
    cdef uint32_t low = 0, high = leaf.count, middle
    cdef int order
    position.leaf = leaf
    position.found = False
    while low < high:
        middle = (low + high) >> 1
        order = _compare(rows, row, leaf.prefixes[middle], leaf.rows[middle])
        if order == 0:
            position.slot = middle
            position.found = True
            return
        if order < 0:
            high = middle
        else:
            low = middle + 1
    position.slot = low


cdef inline uint32_t _search_inner(MemRowSet rows, const DecodedRow* row, Inner* node) noexcept nogil:
    """The child that holds or would hold the row's key."""
    cdef uint32_t low = 1, high = node.count, middle
    while low < high:
        middle = (low + high) >> 1
        if _compare(rows, row, node.prefixes[middle], node.rows[middle]) < 0:
            high = middle
        else:
            low = middle + 1
    return low - 1


cdef void _descend(MemRowSet rows, const DecodedRow* row, Position* position) noexcept nogil:
    cdef void* node = rows.root
    cdef int32_t level
    cdef Inner* inner
    for level in range(rows.height):
        inner = <Inner*> node
        position.path[level] = inner
        position.path_slot[level] = _search_inner(rows, row, inner)
        node = inner.children[position.path_slot[level]]
    position.has_path = True
    _search_leaf(rows, row, <Leaf*> node, position)


cdef inline bint _finger_holds(MemRowSet rows, const DecodedRow* row) noexcept nogil:
    cdef Leaf* leaf = rows.finger
    if leaf == NULL or leaf.count == 0 or _compare(rows, row, leaf.prefixes[0], leaf.rows[0]) < 0:
        return False
    return leaf.next == NULL or _compare(rows, row, leaf.next.prefixes[0], leaf.next.rows[0]) < 0


# -- tree growth -------------------------------------------------------------------------------------------------------
cdef Leaf* _new_leaf(MemRowSet rows) noexcept nogil:
    cdef Leaf* leaf = <Leaf*> malloc(sizeof(Leaf))
    if leaf != NULL:
        leaf.next = NULL
        leaf.count = 0
        rows.tree_bytes += sizeof(Leaf)
    return leaf


cdef Inner* _new_inner(MemRowSet rows) noexcept nogil:
    cdef Inner* inner = <Inner*> malloc(sizeof(Inner))
    if inner != NULL:
        inner.count = 0
        rows.tree_bytes += sizeof(Inner)
    return inner


cdef inline void _leaf_put(Leaf* leaf, uint32_t slot, uint64_t prefix, uint32_t ref) noexcept nogil:
    cdef uint32_t i = leaf.count
    while i > slot:
        leaf.rows[i] = leaf.rows[i - 1]
        leaf.prefixes[i] = leaf.prefixes[i - 1]
        i -= 1
    leaf.rows[slot] = ref
    leaf.prefixes[slot] = prefix
    leaf.count += 1


cdef inline void _inner_put(Inner* inner, uint32_t slot, uint64_t prefix, uint32_t ref, void* child) noexcept nogil:
    cdef uint32_t i = inner.count
    while i > slot:
        inner.rows[i] = inner.rows[i - 1]
        inner.prefixes[i] = inner.prefixes[i - 1]
        inner.children[i] = inner.children[i - 1]
        i -= 1
    inner.rows[slot] = ref
    inner.prefixes[slot] = prefix
    inner.children[slot] = child
    inner.count += 1


cdef inline uint32_t _split_point(uint32_t slot, uint32_t capacity, bint may_fill) noexcept nogil:
    """Where a full node is cut. An insert at its end may leave it full: ascending keys then fill every node."""
    return capacity if slot == capacity and may_fill else capacity // 2


cdef int _insert_child(MemRowSet rows, Position* position, int32_t level, uint64_t prefix, uint32_t ref,
                       void* child) noexcept nogil:
    """Put `child`, whose least key is that of `ref`, behind the child of the path at `level`; splits upwards."""
    cdef Inner* node
    cdef Inner* right
    cdef Inner* top
    cdef uint32_t slot, cut, i
    while level >= 0:
        node = position.path[level]
        slot = position.path_slot[level] + 1
        if node.count < INNER_CAPACITY:
            _inner_put(node, slot, prefix, ref, child)
            return 0
        right = _new_inner(rows)
        if right == NULL:
            return -1
        cut = _split_point(slot, INNER_CAPACITY, True)
        for i in range(cut, INNER_CAPACITY):
            _inner_put(right, i - cut, node.prefixes[i], node.rows[i], node.children[i])
        node.count = cut
        if slot < cut or (slot == cut and cut < INNER_CAPACITY):
            _inner_put(node, slot, prefix, ref, child)
        else:
            _inner_put(right, slot - cut, prefix, ref, child)
        prefix = right.prefixes[0]
        ref = right.rows[0]
        child = right
        level -= 1
    if rows.height + 1 >= TREE_DEPTH_MAX:
        return -1
    top = _new_inner(rows)
    if top == NULL:
        return -1
    _inner_put(top, 0, 0, 0, rows.root)
    _inner_put(top, 1, prefix, ref, child)
    rows.root = top
    rows.height += 1
    return 0


cdef int _insert_key(MemRowSet rows, Position* position, const DecodedRow* row, uint32_t ref) noexcept nogil:
    cdef Leaf* leaf = position.leaf
    cdef Leaf* right
    cdef uint32_t cut, i
    if leaf.count < LEAF_CAPACITY:
        _leaf_put(leaf, position.slot, row.key_prefix, ref)
        rows.finger = leaf
        return 0
    if not position.has_path:
        _descend(rows, row, position)
    right = _new_leaf(rows)
    if right == NULL:
        return -1
    # Descending keys just above a full leaf would each make a leaf of their own if that one stayed full.
    cut = _split_point(position.slot, LEAF_CAPACITY, leaf.next == NULL or leaf.next.count >= LEAF_CAPACITY // 2)
    for i in range(cut, LEAF_CAPACITY):
        _leaf_put(right, i - cut, leaf.prefixes[i], leaf.rows[i])
    leaf.count = cut
    if position.slot < cut or (position.slot == cut and cut < LEAF_CAPACITY):
        _leaf_put(leaf, position.slot, row.key_prefix, ref)
        rows.finger = leaf
    else:
        _leaf_put(right, position.slot - cut, row.key_prefix, ref)
        rows.finger = right
    right.next = leaf.next
    leaf.next = right
    return _insert_child(rows, position, rows.height - 1, right.prefixes[0], right.rows[0], right)


# -- stored rows -------------------------------------------------------------------------------------------------------
cdef inline const uint8_t* _value(const LayoutInfo* layout, const DecodedRow* row, int32_t column, uint32_t* size) noexcept nogil:
    """The cell that an insert stores: the given one, else the default, else NULL (returned as NULL)."""
    cdef const ColumnLayout* info = &layout.columns[column]
    if row.states[column] == CELL_SET:
        size[0] = row.sizes[column]
        return row.cells[column]
    if row.states[column] == CELL_UNSET and info.has_write_default:
        size[0] = <uint32_t> info.write_default.size
        return info.write_default.data
    size[0] = 0
    return NULL


cdef size_t _stored_size(const LayoutInfo* layout, const DecodedRow* row) noexcept nogil:
    cdef size_t total = layout.fixed_bytes
    cdef int32_t i
    cdef uint32_t size
    for i in range(layout.column_count):
        if layout.columns[i].width == 0:
            _value(layout, row, i, &size)
            total += size
    return total


cdef void _store_row(const LayoutInfo* layout, const DecodedRow* row, uint8_t* out) noexcept nogil:
    cdef int32_t i
    cdef uint32_t size, end = layout.fixed_bytes
    cdef const uint8_t* cell
    cdef const ColumnLayout* info
    if layout.bitmap_bytes:
        memset(out, 0, layout.bitmap_bytes)
    for i in range(layout.column_count):
        info = &layout.columns[i]
        cell = _value(layout, row, i, &size)
        if row.states[i] == CELL_UNSET:
            layout.defaults_used[i] = 1
        if info.width:
            if cell != NULL:
                memcpy(out + info.row_offset, cell, info.width)
            else:
                memset(out + info.row_offset, 0, info.width)
        else:
            memcpy(out + info.row_offset, &end, 4)
            memcpy(out + info.row_offset + 4, &size, 4)
            if size:
                memcpy(out + end, cell, size)
            end += size
        if cell == NULL and layout.bitmap_bytes:
            out[i >> 3] |= 1 << (i & 7)


cdef inline const uint8_t* _stored_cell(const LayoutInfo* layout, const uint8_t* row, int32_t column, uint32_t* size) noexcept nogil:
    """The cell, or NULL for a NULL."""
    cdef const ColumnLayout* info = &layout.columns[column]
    cdef uint32_t offset
    if layout.bitmap_bytes and bit_is_set(row, column):
        return NULL
    if info.width:
        size[0] = info.width
        return row + info.row_offset
    memcpy(&offset, row + info.row_offset, 4)
    memcpy(size, row + info.row_offset + 4, 4)
    return row + offset


cdef inline RowHeader* _row_at(MemRowSet rows, const Position* position) noexcept nogil:
    return <RowHeader*> arena_at(&rows.arena, position.leaf.rows[position.slot])


cdef VersionHeader* _push_version(MemRowSet rows, const Position* position, uint8_t kind, uint64_t timestamp,
                                  size_t payload_bytes) noexcept nogil:
    cdef RowHeader* row
    cdef VersionHeader* version
    cdef uint32_t ref
    if payload_bytes > STORED_BYTES_MAX:
        return NULL
    ref = arena_alloc(&rows.arena, sizeof(VersionHeader) + payload_bytes)
    if ref == 0:
        return NULL
    row = _row_at(rows, position)
    version = <VersionHeader*> arena_at(&rows.arena, ref)
    version.timestamp = timestamp
    version.older = row.newest
    version.layout = rows.current.number
    version.kind = kind
    version.reserved = 0
    version.payload_bytes = <uint32_t> payload_bytes
    row.newest = ref
    rows.version_count += 1
    rows.content_bytes += payload_bytes
    return version


cdef uint32_t _new_row(MemRowSet rows, const DecodedRow* row, uint64_t timestamp, uint16_t layout,
                       size_t stored_bytes) noexcept nogil:
    """Room for a row with its header and key filled; 0: out of memory."""
    cdef size_t key_bytes = 0 if rows.key_in_prefix else row.key_size
    cdef RowHeader* header
    cdef uint32_t ref
    if stored_bytes > STORED_BYTES_MAX:
        return 0
    ref = arena_alloc(&rows.arena, sizeof(RowHeader) + key_bytes + stored_bytes)
    if ref == 0:
        return 0
    header = <RowHeader*> arena_at(&rows.arena, ref)
    header.timestamp = timestamp
    header.newest = 0
    header.layout = layout
    header.key_bytes = <uint16_t> key_bytes
    if key_bytes:
        memcpy(<uint8_t*> header + sizeof(RowHeader), row.key, key_bytes)
    rows.row_count += 1
    rows.content_bytes += row.key_size + stored_bytes
    return ref


cdef void _free_inner(void* node, int32_t height) noexcept nogil:
    """Free the inner nodes; the leaves are freed along their chain."""
    cdef Inner* inner = <Inner*> node
    cdef uint32_t i
    if height == 0 or node == NULL:
        return
    for i in range(inner.count):
        _free_inner(inner.children[i], height - 1)
    free(inner)


cdef class MemRowSet:
    """An empty MemRowSet. `add_layout` must be called once before rows are written."""

    def __cinit__(self):
        self.layouts = []
        self.column_types = {}
        if arena_init(&self.arena) < 0:
            raise MemoryError()
        self.first_leaf = _new_leaf(self)
        if self.first_leaf == NULL:
            raise MemoryError()
        self.root = self.first_leaf

    def __dealloc__(self):
        _free_inner(self.root, self.height)
        cdef Leaf* leaf = self.first_leaf
        cdef Leaf* following
        while leaf != NULL:
            following = leaf.next
            free(leaf)
            leaf = following
        free(self.infos)
        arena_free(&self.arena)

    def add_layout(self, RowLayout layout not None):
        """New rows are written in this layout from now on. Key columns must not change. A layout serves one MemRowSet."""
        cdef const LayoutInfo** infos
        if self.frozen:
            raise InternalError("layout added to a frozen MemRowSet")
        if len(self.layouts) >= LAYOUT_COUNT_MAX:
            raise LimitExceeded(f"a tablet's log holds more than {LAYOUT_COUNT_MAX} schema changes")
        key_types = [c.type.name for c in layout.schema.key_columns]
        if self.layouts and key_types != [c.type.name for c in self.layouts[0].schema.key_columns]:
            raise InvalidArgument(f"a schema change gives other key columns: {key_types}")
        if self.row_count == 0:
            self.column_types.clear()           # nothing is stored in the layouts before
        for column in layout.schema:
            if self.column_types.setdefault(column.id, column.type) is not column.type:
                raise BadFormat(f"a schema change gives column {column.name!r} (id {column.id}) another type: "
                                f"{column.type.name}")
        infos = <const LayoutInfo**> realloc(self.infos, (len(self.layouts) + 1) * sizeof(LayoutInfo*))
        if infos == NULL:
            raise MemoryError()
        self.infos = infos
        layout.info.number = <uint16_t> len(self.layouts)
        self.layouts.append(layout)
        self.infos[layout.info.number] = &layout.info
        self.current = &layout.info
        self.key_in_prefix = 0 < layout.info.key_fixed_bytes <= 8

    def freeze(self):
        """No more writes; scans may start."""
        self.frozen = True

    @property
    def memory_bytes(self):
        """Memory reserved for rows, versions and the tree."""
        return self.arena.bytes_reserved + self.tree_bytes

    # -- writes ----------------------------------------------------------------------------------------------------
    cdef void find(self, const DecodedRow* row, Position* position) noexcept nogil:
        position.has_path = False
        if _finger_holds(self, row):
            _search_leaf(self, row, self.finger, position)
        else:
            _descend(self, row, position)
            self.finger = position.leaf

    cdef RowState state_at(self, const Position* position) noexcept nogil:
        cdef const RowHeader* row
        if not position.found:
            return STATE_ABSENT
        row = _row_at(self, position)
        if row.newest:
            return STATE_DEAD if (<VersionHeader*> arena_at(&self.arena, row.newest)).kind == VERSION_DELETE else STATE_LIVE
        return STATE_DEAD if row.layout == LAYOUT_GHOST else STATE_LIVE

    cdef int insert(self, Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil:
        cdef uint32_t ref = _new_row(self, row, timestamp, self.current.number, _stored_size(self.current, row))
        cdef uint8_t* header
        if ref == 0:
            return -1
        header = arena_at(&self.arena, ref)
        _store_row(self.current, row, header + sizeof(RowHeader) + (<RowHeader*> header).key_bytes)
        return _insert_key(self, position, row, ref)

    cdef int insert_ghost(self, Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil:
        cdef uint32_t ref = _new_row(self, row, timestamp, LAYOUT_GHOST, 0)
        return -1 if ref == 0 else _insert_key(self, position, row, ref)

    cdef int update(self, const Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil:
        """Set the columns that `row` sets; immutable ones keep their value (an UPSERT_IGNORE or UPDATE_IGNORE)."""
        cdef int32_t i
        cdef uint32_t id, stored
        cdef size_t payload = 0
        cdef uint8_t* out
        cdef VersionHeader* version
        for i in range(self.current.key_count, self.current.column_count):
            if row.states[i] != CELL_UNSET and not self.current.columns[i].immutable:
                payload += 8 + (row.sizes[i] if row.states[i] == CELL_SET else 0)
        if payload == 0:
            return 0
        version = _push_version(self, position, VERSION_UPDATE, timestamp, payload)
        if version == NULL:
            return -1
        out = <uint8_t*> version + sizeof(VersionHeader)
        for i in range(self.current.key_count, self.current.column_count):
            if row.states[i] == CELL_UNSET or self.current.columns[i].immutable:
                continue
            id = <uint32_t> self.current.columns[i].id
            stored = row.sizes[i] + 1 if row.states[i] == CELL_SET else 0
            memcpy(out, &id, 4)
            memcpy(out + 4, &stored, 4)
            out += 8
            if stored > 1:
                memcpy(out, row.cells[i], stored - 1)
                out += stored - 1
        return 0

    cdef int remove(self, const Position* position, uint64_t timestamp) noexcept nogil:
        return -1 if _push_version(self, position, VERSION_DELETE, timestamp, 0) == NULL else 0

    cdef int reinsert(self, const Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil:
        cdef VersionHeader* version = _push_version(self, position, VERSION_REINSERT, timestamp,
                                                    _stored_size(self.current, row))
        if version == NULL:
            return -1
        _store_row(self.current, row, <uint8_t*> version + sizeof(VersionHeader))
        return 0


# -- scans -------------------------------------------------------------------------------------------------------------
cdef struct ScanSource:
    const Arena* arena
    const LayoutInfo** infos
    Leaf* leaf                      # NULL: at its end
    uint32_t slot
    bint key_in_prefix
    uint64_t timestamp              # versions at or above it are not seen
    int32_t* base_columns           # [stored layout][output column] -> its column there, or -1


cdef inline int _order(const ScanSource* one, const ScanSource* other) noexcept nogil:
    """Order of the keys two sources stand at. Both have the same key columns."""
    cdef uint64_t a = one.leaf.prefixes[one.slot], b = other.leaf.prefixes[other.slot]
    cdef const RowHeader* x
    cdef const RowHeader* y
    cdef int order
    if a != b:
        return -1 if a < b else 1
    if one.key_in_prefix:
        return 0
    x = <const RowHeader*> arena_at(one.arena, one.leaf.rows[one.slot])
    y = <const RowHeader*> arena_at(other.arena, other.leaf.rows[other.slot])
    order = memcmp(<const uint8_t*> x + sizeof(RowHeader), <const uint8_t*> y + sizeof(RowHeader),
                   min(x.key_bytes, y.key_bytes))
    return order if order else <int> x.key_bytes - <int> y.key_bytes


cdef class RowScan:
    """Rows of frozen MemRowSets (tablets of one table, or just one) by key, as an iterator of ColumnBlocks.

    One thread; keeps the MemRowSets alive.

    Args:
        rows: the MemRowSets; their key columns have the same types.
        layout: the columns wanted, by id. A column that a row was stored without has its read default there, or NULL.
        timestamps: for each MemRowSet the snapshot, below which versions are seen; None: all.
        batch_rows: rows in a block; a block with much binary data has fewer.
    """
    cdef list rows
    cdef readonly RowLayout layout
    cdef Py_ssize_t batch_rows
    cdef ScanSource* sources
    cdef int32_t source_count
    cdef int32_t* by_id                 # output columns sorted by id: pairs of id, column
    cdef const uint8_t** cells          # of the row in hand
    cdef uint32_t* sizes
    cdef uint8_t* states

    def __cinit__(self, list rows not None, RowLayout layout not None, list timestamps not None, Py_ssize_t batch_rows):
        cdef int32_t columns = layout.info.column_count, i
        if batch_rows < 1:
            raise InvalidArgument("a batch has at least one row")
        if len(timestamps) != len(rows):
            raise InternalError("a scan has one timestamp for each MemRowSet")
        self.rows = rows
        self.layout = layout
        self.batch_rows = batch_rows
        self.cells = <const uint8_t**> calloc(columns + 1, sizeof(uint8_t*))
        self.sizes = <uint32_t*> calloc(columns + 1, sizeof(uint32_t))
        self.states = <uint8_t*> calloc(columns + 1, 1)
        self.by_id = <int32_t*> calloc(columns + 1, 2 * sizeof(int32_t))
        self.sources = <ScanSource*> calloc(len(rows) + 1, sizeof(ScanSource))
        if self.cells == NULL or self.sizes == NULL or self.states == NULL or self.by_id == NULL or self.sources == NULL:
            raise MemoryError()
        for i, (column_id, column) in enumerate(sorted((c.id, n) for n, c in enumerate(layout.schema))):
            self.by_id[2 * i] = column_id
            self.by_id[2 * i + 1] = column
        for source, timestamp in zip(rows, timestamps):
            self._add_source(source, 0xFFFFFFFFFFFFFFFF if timestamp is None else timestamp)

    cdef int _add_source(self, MemRowSet rows, uint64_t timestamp) except -1:
        cdef ScanSource* source = &self.sources[self.source_count]
        cdef int32_t columns = self.layout.info.column_count, i
        cdef Py_ssize_t stored
        cdef RowLayout base
        if not rows.frozen:
            raise InternalError("scan of a MemRowSet that still changes")
        for column in self.layout.schema:
            if rows.column_types.get(column.id, column.type) is not column.type:
                raise InvalidArgument(f"column {column.name!r} (id {column.id}) is no {column.type.name} in each of the "
                                      "tablets: they are not of one table")
        source.arena = &rows.arena
        source.infos = rows.infos
        source.leaf = rows.first_leaf
        source.key_in_prefix = rows.key_in_prefix
        source.timestamp = timestamp
        source.base_columns = <int32_t*> calloc((len(rows.layouts) + 1) * (columns + 1), sizeof(int32_t))
        self.source_count += 1
        if source.base_columns == NULL:
            raise MemoryError()
        for stored in range(len(rows.layouts)):
            base = rows.layouts[stored]
            positions = {c.id: n for n, c in enumerate(base.schema)}
            for i in range(columns):
                source.base_columns[stored * columns + i] = positions.get(self.layout.schema.columns[i].id, -1)
        return 0

    def __dealloc__(self):
        cdef int32_t i
        if self.sources != NULL:
            for i in range(self.source_count):
                free(self.sources[i].base_columns)
        free(self.sources)
        free(self.cells)
        free(self.sizes)
        free(self.states)
        free(self.by_id)

    def __iter__(self):
        return self

    def __next__(self):
        cdef BlockBuffers* block
        cdef int status
        block = block_new(self.layout.info.column_count, self.batch_rows)
        if block == NULL:
            raise MemoryError()
        with nogil:
            status = _init_columns(&self.layout.info, block)
            if status == 0:
                status = _fill(self, block)
        if status < 0:
            block_release(block)
            raise MemoryError()
        if block.row_count == 0:
            block_release(block)
            raise StopIteration
        return ColumnBlock.wrap(block, self.layout.schema)

    def checksum(self):
        """(rows, sum of their checksums modulo 2**64) of all rows that are left, without building blocks of them.

        The sum is that of kudu_storage._native.row_checksum.checksum over the blocks.
        """
        cdef int64_t count = 0, some = 1
        cdef uint64_t total = 0
        while some:             # in steps, so that a signal is seen
            with nogil:
                some = _sum_some(self, &total, 1 << 16)
            count += some
        return count, total


cdef int64_t _sum_some(RowScan scan, uint64_t* total, int64_t limit) noexcept nogil:
    """Add the checksums of up to `limit` keys' rows; the number of rows, 0 only at the end."""
    cdef int64_t count = 0
    cdef ScanSource* source
    cdef Gather gather
    while True:
        source = _least(scan)
        if source == NULL:
            return count
        if _resolve(scan, source, <RowHeader*> arena_at(source.arena, source.leaf.rows[source.slot])):
            total[0] += _row_checksum(scan, &gather)
            count += 1
        source.slot += 1
        if count >= limit:
            return count


cdef uint32_t _row_checksum(RowScan scan, Gather* gather) noexcept nogil:
    """As in row_checksum.pyx, from the cells of the row in hand."""
    cdef int32_t i
    cdef uint8_t present
    gather.crc = 0
    gather.used = 0
    for i in range(scan.layout.info.column_count):
        present = scan.states[i] == CELL_SET
        add(gather, <const uint8_t*> &i, 4)
        if scan.layout.info.columns[i].nullable:
            add(gather, &present, 1)
        if present:
            add(gather, scan.cells[i], scan.sizes[i])
    flush(gather)
    return gather.crc


cdef int _init_columns(const LayoutInfo* layout, BlockBuffers* block) noexcept nogil:
    cdef int32_t i
    cdef const ColumnLayout* info
    for i in range(layout.column_count):
        info = &layout.columns[i]
        if block_init_column(block, i, KIND_FIXED if info.width else KIND_BINARY, info.width, info.nullable) < 0:
            return -1
    return 0


cdef inline ScanSource* _least(RowScan scan) noexcept nogil:
    """The source that stands at the least key, or NULL: all are at their end."""
    cdef ScanSource* least = NULL
    cdef ScanSource* source
    cdef int32_t i
    for i in range(scan.source_count):
        source = &scan.sources[i]
        while source.leaf != NULL and source.slot >= source.leaf.count:
            source.leaf = source.leaf.next
            source.slot = 0
        if source.leaf != NULL and (least == NULL or _order(source, least) < 0):
            least = source
    return least


cdef int _fill(RowScan scan, BlockBuffers* block) noexcept nogil:
    """Up to batch_rows rows, or 4 MiB of binary cells, whichever comes first."""
    cdef size_t binary_bytes = 0
    cdef ScanSource* source
    while block.row_count < scan.batch_rows and binary_bytes < (4 << 20):
        source = _least(scan)
        if source == NULL:
            return 0
        if _resolve(scan, source, <RowHeader*> arena_at(source.arena, source.leaf.rows[source.slot])):
            if _emit(scan, block, &binary_bytes) < 0:
                return -1
        source.slot += 1
    return 0


cdef bint _resolve(RowScan scan, const ScanSource* source, const RowHeader* row) noexcept nogil:
    """Work out the row's cells at the snapshot, newest version first; False: the row is not visible there."""
    cdef uint32_t ref = row.newest
    cdef const VersionHeader* version
    memset(scan.states, CELL_UNSET, scan.layout.info.column_count)
    while ref:
        version = <const VersionHeader*> arena_at(source.arena, ref)
        ref = version.older
        if version.timestamp >= source.timestamp:
            continue
        if version.kind == VERSION_DELETE:
            # As the newest visible version it hides the row. Under newer ones it cannot come: a dead row's next version
            # is a REINSERT, and there the walk ends.
            return False
        if version.kind == VERSION_REINSERT:
            _take_base(scan, source, version.layout, <const uint8_t*> version + sizeof(VersionHeader))
            return True
        _take_update(scan, <const uint8_t*> version + sizeof(VersionHeader), version.payload_bytes)
    if row.timestamp >= source.timestamp or row.layout == LAYOUT_GHOST:
        return False
    _take_base(scan, source, row.layout, <const uint8_t*> row + sizeof(RowHeader) + row.key_bytes)
    return True


cdef void _take_update(RowScan scan, const uint8_t* payload, uint32_t size) noexcept nogil:
    cdef const uint8_t* end = payload + size
    cdef uint32_t id, stored
    cdef int32_t column
    while payload < end:
        memcpy(&id, payload, 4)
        memcpy(&stored, payload + 4, 4)
        payload += 8
        column = _column_of(scan, <int32_t> id)
        if column >= 0 and scan.states[column] == CELL_UNSET:
            scan.states[column] = CELL_SET if stored else CELL_NULL
            scan.cells[column] = payload
            scan.sizes[column] = stored - 1 if stored else 0
        if stored:
            payload += stored - 1


cdef int32_t _column_of(RowScan scan, int32_t id) noexcept nogil:
    """Output column of that id, or -1: dropped since, or not asked for."""
    cdef int32_t low = 0, high = scan.layout.info.column_count, middle
    while low < high:
        middle = (low + high) >> 1
        if scan.by_id[2 * middle] == id:
            return scan.by_id[2 * middle + 1]
        if scan.by_id[2 * middle] < id:
            low = middle + 1
        else:
            high = middle
    return -1


cdef void _take_base(RowScan scan, const ScanSource* source, uint16_t number, const uint8_t* stored) noexcept nogil:
    """Fill what no update has set from a stored row; columns that it lacks take their read default."""
    cdef const LayoutInfo* base = source.infos[number]
    cdef int32_t i, column
    cdef const ColumnLayout* info
    cdef const int32_t* columns = source.base_columns + <Py_ssize_t> number * scan.layout.info.column_count
    for i in range(scan.layout.info.column_count):
        if scan.states[i] != CELL_UNSET:
            continue
        column = columns[i]
        if column >= 0:
            scan.cells[i] = _stored_cell(base, stored, column, &scan.sizes[i])
            scan.states[i] = CELL_NULL if scan.cells[i] == NULL else CELL_SET
            continue
        info = &scan.layout.info.columns[i]
        if info.has_read_default:
            scan.cells[i] = info.read_default.data
            scan.sizes[i] = <uint32_t> info.read_default.size
            scan.states[i] = CELL_SET
        else:
            scan.states[i] = CELL_NULL


cdef int _emit(RowScan scan, BlockBuffers* block, size_t* binary_bytes) noexcept nogil:
    cdef int64_t row = block.row_count
    cdef int32_t i
    cdef ColumnBuffers* column
    for i in range(scan.layout.info.column_count):
        column = &block.columns[i]
        if scan.states[i] == CELL_NULL and column.validity != NULL:
            column.validity[row >> 3] &= ~(<uint8_t> (1 << (row & 7)))
            column.null_count += 1
        if column.kind == KIND_FIXED:
            if scan.states[i] == CELL_SET:
                memcpy(column.values + row * column.width, scan.cells[i], column.width)
            else:
                memset(column.values + row * column.width, 0, column.width)
        else:
            if scan.states[i] == CELL_SET:
                if block_append_bytes(column, scan.cells[i], scan.sizes[i]) < 0:
                    return -1
                binary_bytes[0] += scan.sizes[i]
            column.offsets[row + 1] = <int> column.data_bytes
    block.row_count = row + 1
    return 0
