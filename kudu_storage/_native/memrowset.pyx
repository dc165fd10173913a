"""See memrowset.pxd."""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from kudu_storage._native.arena cimport arena_alloc, arena_at, arena_free, arena_init
from kudu_storage._native.atomics cimport load_acquire, store_release
from kudu_storage._native.column_block cimport (
    KIND_BINARY, KIND_FIXED, BlockBuffers, ColumnBlock, ColumnBuffers, block_append_bytes, block_init_column, block_new,
    block_release,
)
from kudu_storage._native.cursor cimport Slice
from kudu_storage._native.mvcc cimport Snapshot, SnapshotInfo, snapshot_applied
from kudu_storage._native.posix cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from kudu_storage._native.prefetch cimport CACHE_LINE_BYTES, prefetch
from kudu_storage._native.row_checksum cimport Gather, add, flush
from kudu_storage._native.row_layout cimport ColumnLayout, LayoutInfo, RowLayout, bit_is_set, column_of_id
from kudu_storage._native.row_ops cimport CELL_NULL, CELL_SET, CELL_UNSET

from kudu_storage._native.row_layout import with_deleted_column
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
    cdef int status
    if not rows.shared:
        return _insert_into_tree(rows, position, row, ref)
    pthread_mutex_lock(&rows.mutex)
    status = _insert_into_tree(rows, position, row, ref)
    pthread_mutex_unlock(&rows.mutex)
    return status


cdef int _insert_into_tree(MemRowSet rows, Position* position, const DecodedRow* row, uint32_t ref) noexcept nogil:
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


cdef const uint8_t* stored_cell(const LayoutInfo* layout, const uint8_t* row, int32_t column, uint32_t* size) noexcept nogil:
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


cdef uint32_t _new_version(MemRowSet rows, const Position* position, uint8_t kind, uint64_t timestamp,
                           size_t payload_bytes) noexcept nogil:
    """Room for a version of the row with its header filled; 0: out of memory. Nobody sees it before _publish()."""
    cdef VersionHeader* version
    cdef uint32_t ref
    if payload_bytes > STORED_BYTES_MAX:
        return 0
    ref = arena_alloc(&rows.arena, sizeof(VersionHeader) + payload_bytes)
    if ref == 0:
        return 0
    version = <VersionHeader*> arena_at(&rows.arena, ref)
    version.timestamp = timestamp
    version.older = _row_at(rows, position).newest
    version.layout = rows.current.number
    version.kind = kind
    version.reserved = 0
    version.payload_bytes = <uint32_t> payload_bytes
    return ref


cdef inline void _publish(MemRowSet rows, const Position* position, uint32_t ref) noexcept nogil:
    rows.version_count += 1
    rows.content_bytes += (<VersionHeader*> arena_at(&rows.arena, ref)).payload_bytes
    store_release(&_row_at(rows, position).newest, ref)


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
        self.lowest_log_index = INT64_MAX
        if pthread_mutex_init(&self.mutex, NULL):
            raise MemoryError()
        self.has_mutex = True
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
        if self.has_mutex:
            pthread_mutex_destroy(&self.mutex)

    def add_layout(self, RowLayout layout not None):
        """New rows are written in this layout from now on. Key columns must not change. A layout serves one MemRowSet."""
        cdef const LayoutInfo** infos
        if self.frozen or self.shared:
            raise InternalError("layout added to a MemRowSet that is read")
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

    def share(self):
        """Scans may start while it is written. It has one layout from now on."""
        if not self.layouts:
            raise InternalError("a MemRowSet without layout is shared")
        self.shared = True

    def freeze(self):
        """No more writes; scans may start."""
        self.frozen = True

    @property
    def min_log_index(self):
        """The lowest log index of an operation in here, which its anchor holds, or None."""
        return None if self.lowest_log_index == INT64_MAX else self.lowest_log_index

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
        cdef uint32_t ref
        for i in range(self.current.key_count, self.current.column_count):
            if row.states[i] != CELL_UNSET and not self.current.columns[i].immutable:
                payload += 8 + (row.sizes[i] if row.states[i] == CELL_SET else 0)
        if payload == 0:
            return 0
        ref = _new_version(self, position, VERSION_UPDATE, timestamp, payload)
        if ref == 0:
            return -1
        out = arena_at(&self.arena, ref) + sizeof(VersionHeader)
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
        _publish(self, position, ref)
        return 0

    cdef int remove(self, const Position* position, uint64_t timestamp) noexcept nogil:
        cdef uint32_t ref = _new_version(self, position, VERSION_DELETE, timestamp, 0)
        if ref == 0:
            return -1
        _publish(self, position, ref)
        return 0

    cdef int reinsert(self, const Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil:
        cdef uint32_t ref = _new_version(self, position, VERSION_REINSERT, timestamp, _stored_size(self.current, row))
        if ref == 0:
            return -1
        _store_row(self.current, row, arena_at(&self.arena, ref) + sizeof(VersionHeader))
        _publish(self, position, ref)
        return 0

    cdef void note_log_index(self, int64_t index) noexcept nogil:
        self.lowest_log_index = min(self.lowest_log_index, index)

    cdef int start_cursor(self, RowCursor* cursor, bytes lower, bytes upper) except -1:
        """`lower` and `upper` are kept alive by the caller."""
        if not self.frozen and not self.shared:
            raise InternalError("scan of a MemRowSet that still changes")
        memset(cursor, 0, sizeof(RowCursor))
        cursor.arena = &self.arena
        cursor.root = &self.root
        cursor.height = &self.height
        cursor.first_leaf = self.first_leaf
        cursor.mutex = NULL if self.frozen else &self.mutex
        cursor.key_in_prefix = self.key_in_prefix
        cursor.key_fixed_bytes = self.current.key_fixed_bytes if self.current != NULL else 0
        if lower is not None:
            cursor.lower = lower
            cursor.lower_bytes = <size_t> len(lower)
        if upper is not None:
            cursor.upper = upper
            cursor.upper_bytes = <size_t> len(upper)
        return 0


# -- cursors -----------------------------------------------------------------------------------------------------------
cdef inline uint64_t _prefix_of(const uint8_t* key, size_t size) noexcept nogil:
    cdef uint64_t prefix = 0
    cdef size_t i
    for i in range(8):
        prefix = (prefix << 8) | (key[i] if i < size else 0)
    return prefix


cdef int _compare_bound(const RowCursor* cursor, const uint8_t* bound, size_t size, uint64_t prefix,
                        uint32_t ref) noexcept nogil:
    """Order of a bound, which may be longer or shorter than any key, against a row's key."""
    cdef uint64_t bound_prefix = _prefix_of(bound, size)
    cdef const RowHeader* header
    cdef int order
    if bound_prefix != prefix:
        return -1 if bound_prefix < prefix else 1
    if cursor.key_in_prefix:
        return -1 if size < cursor.key_fixed_bytes else <int> (size > cursor.key_fixed_bytes)
    header = <const RowHeader*> arena_at(cursor.arena, ref)
    order = memcmp(bound, <const uint8_t*> header + sizeof(RowHeader), min(size, <size_t> header.key_bytes))
    if order:
        return order
    return -1 if size < header.key_bytes else <int> (size > header.key_bytes)


cdef inline int _compare_rows(const Arena* arena, const Arena* other_arena, bint key_in_prefix, uint64_t prefix,
                              uint32_t ref, uint64_t other_prefix, uint32_t other_ref) noexcept nogil:
    cdef const RowHeader* x
    cdef const RowHeader* y
    cdef int order
    if prefix != other_prefix:
        return -1 if prefix < other_prefix else 1
    if key_in_prefix:
        return 0
    x = <const RowHeader*> arena_at(arena, ref)
    y = <const RowHeader*> arena_at(other_arena, other_ref)
    order = memcmp(<const uint8_t*> x + sizeof(RowHeader), <const uint8_t*> y + sizeof(RowHeader),
                   min(x.key_bytes, y.key_bytes))
    return order if order else <int> x.key_bytes - <int> y.key_bytes


cdef Leaf* _leaf_of_bound(const RowCursor* cursor) noexcept nogil:
    """The leaf that holds or would hold the lower bound."""
    cdef void* node = cursor.root[0]
    cdef int32_t level
    cdef Inner* inner
    cdef uint32_t low, high, middle
    for level in range(cursor.height[0]):
        inner = <Inner*> node
        low = 1
        high = inner.count
        while low < high:
            middle = (low + high) >> 1
            if _compare_bound(cursor, cursor.lower, cursor.lower_bytes, inner.prefixes[middle], inner.rows[middle]) < 0:
                high = middle
            else:
                low = middle + 1
        node = inner.children[low - 1]
    return <Leaf*> node


cdef uint32_t _first_wanted(const RowCursor* cursor, const Leaf* leaf) noexcept nogil:
    """The first slot of `leaf` behind the rows copied last; at first, that is not below the lower bound.

    A leaf that was split since it was copied is followed by rows that were copied already.
    """
    cdef uint32_t low = 0, high = leaf.count, middle, last = cursor.count - 1
    cdef bint wanted
    if cursor.lower == NULL if cursor.leaf == NULL else cursor.mutex == NULL:
        return 0
    while low < high:
        middle = (low + high) >> 1
        if cursor.leaf == NULL:
            wanted = _compare_bound(cursor, cursor.lower, cursor.lower_bytes, leaf.prefixes[middle],
                                    leaf.rows[middle]) <= 0
        else:
            wanted = cursor.count == 0 or _compare_rows(
                cursor.arena, cursor.arena, cursor.key_in_prefix, cursor.prefixes[last], cursor.rows[last],
                leaf.prefixes[middle], leaf.rows[middle]) < 0
        if wanted:
            high = middle
        else:
            low = middle + 1
    return low


cdef void _cut_at_upper(RowCursor* cursor) noexcept nogil:
    cdef uint32_t low = 0, high = cursor.count, middle
    if cursor.upper == NULL:
        return
    while low < high:
        middle = (low + high) >> 1
        if _compare_bound(cursor, cursor.upper, cursor.upper_bytes, cursor.prefixes[middle], cursor.rows[middle]) <= 0:
            high = middle
        else:
            low = middle + 1
    if low < cursor.count:
        cursor.count = low
        cursor.ended = True


cdef void _copy_leaf(RowCursor* cursor) noexcept nogil:
    """Copy what is wanted of the next leaf that has something wanted; at the end, nothing and `ended`."""
    cdef Leaf* leaf
    cdef uint32_t first = 0, count
    if cursor.leaf != NULL:
        leaf = cursor.leaf.next
    else:
        leaf = cursor.first_leaf if cursor.lower == NULL else _leaf_of_bound(cursor)
    while leaf != NULL:
        first = _first_wanted(cursor, leaf)
        if first < leaf.count:
            break
        leaf = leaf.next
    cursor.slot = 0
    if leaf == NULL:
        cursor.count = 0
        cursor.ended = True
        return
    count = leaf.count - first
    memcpy(cursor.rows, &leaf.rows[first], count * sizeof(uint32_t))
    memcpy(cursor.prefixes, &leaf.prefixes[first], count * sizeof(uint64_t))
    cursor.count = count
    cursor.leaf = leaf


cdef inline void _expect_rows(const RowCursor* cursor) noexcept nogil:
    """Rows lie in the order of their arrival: in any other each is a wait for memory, unless all are asked for at once."""
    cdef const uint8_t* row
    cdef uint32_t i
    for i in range(cursor.count):
        row = arena_at(cursor.arena, cursor.rows[i])
        prefetch(row)
        prefetch(row + CACHE_LINE_BYTES)


cdef bint cursor_at_row(RowCursor* cursor) noexcept nogil:
    while cursor.slot >= cursor.count:
        if cursor.ended:
            return False
        if cursor.mutex != NULL:
            pthread_mutex_lock(cursor.mutex)
        _copy_leaf(cursor)
        if cursor.mutex != NULL:
            pthread_mutex_unlock(cursor.mutex)
        _expect_rows(cursor)
        _cut_at_upper(cursor)
    return True


# -- scans -------------------------------------------------------------------------------------------------------------
cdef struct ScanSource:
    RowCursor at
    const LayoutInfo** infos
    SnapshotInfo snapshot
    int32_t* base_columns           # [stored layout][output column] -> its column there, or -1


cdef inline int _order(const ScanSource* one, const ScanSource* other) noexcept nogil:
    """Order of the keys two sources stand at. Both have the same key columns."""
    return _compare_rows(one.at.arena, other.at.arena, one.at.key_in_prefix, one.at.prefixes[one.at.slot],
                         one.at.rows[one.at.slot], other.at.prefixes[other.at.slot], other.at.rows[other.at.slot])


cdef class RowScan:
    """Rows of frozen or shared MemRowSets (tablets of one table, or just one) by key, as an iterator of ColumnBlocks.

    One thread; keeps the MemRowSets alive.

    Args:
        rows: the MemRowSets; their key columns have the same types.
        layout: the columns wanted, by id. A column that a row was stored without has its read default there, or NULL.
        timestamps: for each MemRowSet what is seen: a Snapshot, or a timestamp, below which versions are; None: all.
        batch_rows: rows in a block; a block with much binary data has fewer.
        lower: the first encoded key wanted. upper: the first not wanted any more. Either may be a part of a key.
        since: a diff scan: only rows to which something was applied that this snapshot lacks.
        deleted_column: of a diff scan: rows deleted since are there too, and a BOOL column of that name says so.
    """
    cdef list rows
    cdef list keeps                     # bounds and snapshots that the sources point into
    cdef readonly RowLayout layout
    cdef Py_ssize_t batch_rows
    cdef ScanSource* sources
    cdef int32_t source_count
    cdef Snapshot since
    cdef object deleted_column
    cdef object schema                  # of the blocks
    cdef bint dead                      # the row in hand is: only in diff scans
    cdef const uint8_t** cells          # of the row in hand
    cdef uint32_t* sizes
    cdef uint8_t* states

    def __cinit__(self, list rows not None, RowLayout layout not None, timestamps not None, Py_ssize_t batch_rows, *,
                  bytes lower=None, bytes upper=None, Snapshot since=None, deleted_column=None):
        cdef int32_t columns = layout.info.column_count
        if batch_rows < 1:
            raise InvalidArgument("a batch has at least one row")
        if len(timestamps) != len(rows):
            raise InternalError("a scan has one timestamp for each MemRowSet")
        if deleted_column is not None and since is None:
            raise InvalidArgument("only a diff scan shows deleted rows")
        self.since = since
        self.deleted_column = deleted_column
        self.schema = layout.schema if deleted_column is None else with_deleted_column(layout.schema, deleted_column)
        self.keeps = [lower, upper]
        self.rows = rows
        self.layout = layout
        self.batch_rows = batch_rows
        self.cells = <const uint8_t**> calloc(columns + 1, sizeof(uint8_t*))
        self.sizes = <uint32_t*> calloc(columns + 1, sizeof(uint32_t))
        self.states = <uint8_t*> calloc(columns + 1, 1)
        self.sources = <ScanSource*> calloc(len(rows) + 1, sizeof(ScanSource))
        if self.cells == NULL or self.sizes == NULL or self.states == NULL or self.sources == NULL:
            raise MemoryError()
        for source, seen in zip(rows, timestamps):
            if not isinstance(seen, Snapshot):
                seen = Snapshot.everything() if seen is None else Snapshot(seen)
            self.keeps.append(seen)
            self._add_source(source, seen, lower, upper)

    cdef int _add_source(self, MemRowSet rows, Snapshot snapshot, bytes lower, bytes upper) except -1:
        cdef ScanSource* source = &self.sources[self.source_count]
        cdef int32_t columns = self.layout.info.column_count, i
        cdef Py_ssize_t stored
        cdef RowLayout base
        rows.start_cursor(&source.at, lower, upper)
        for column in self.layout.schema:
            if rows.column_types.get(column.id, column.type) is not column.type:
                raise InvalidArgument(f"column {column.name!r} (id {column.id}) is no {column.type.name} in each of the "
                                      "tablets: they are not of one table")
        source.infos = rows.infos
        source.snapshot = snapshot.info
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

    def __iter__(self):
        return self

    def __next__(self):
        cdef BlockBuffers* block
        cdef int status
        cdef int32_t columns = self.layout.info.column_count
        block = block_new(columns + (self.deleted_column is not None), self.batch_rows)
        if block == NULL:
            raise MemoryError()
        with nogil:
            status = _init_columns(&self.layout.info, block)
            if status == 0 and block.column_count > columns:
                status = block_init_column(block, columns, KIND_FIXED, 1, False)
            if status == 0:
                status = _fill(self, block)
        if status < 0:
            block_release(block)
            raise MemoryError()
        if block.row_count == 0:
            block_release(block)
            raise StopIteration
        return ColumnBlock.wrap(block, self.schema)

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
        if _resolve_any(scan, source):
            total[0] += _row_checksum(scan, &gather)
            count += 1
        source.at.slot += 1
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
        if cursor_at_row(&source.at) and (least == NULL or _order(source, least) < 0):
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
        if _resolve_any(scan, source):
            if _emit(scan, block, &binary_bytes) < 0:
                return -1
        source.at.slot += 1
    return 0


cdef bint _resolve_any(RowScan scan, const ScanSource* source) noexcept nogil:
    cdef RowHeader* row = <RowHeader*> arena_at(source.at.arena, source.at.rows[source.at.slot])
    if scan.since is None:
        return _resolve(scan, source, row)
    return _resolve_diff(scan, source, row) and (not scan.dead or scan.deleted_column is not None)


cdef bint _resolve_diff(RowScan scan, const ScanSource* source, RowHeader* row) noexcept nogil:
    """As _resolve, for V6 of docs/tablet.md; `dead` says whether the row is at the snapshot. A dead row has its last cells."""
    cdef uint32_t ref = load_acquire(&row.newest)
    cdef const VersionHeader* version
    cdef const SnapshotInfo* since = &scan.since.info
    cdef bint touched = False, newest = True, settled = False, live_before = True, knows_before = False
    scan.dead = False
    memset(scan.states, CELL_UNSET, scan.layout.info.column_count)
    if row.layout == LAYOUT_GHOST or not snapshot_applied(&source.snapshot, row.timestamp):
        return False
    while ref:
        version = <const VersionHeader*> arena_at(source.at.arena, ref)
        ref = version.older
        if not snapshot_applied(&source.snapshot, version.timestamp):
            continue
        if newest:
            scan.dead = version.kind == VERSION_DELETE
            newest = False
        if not snapshot_applied(since, version.timestamp):
            touched = True
        elif not knows_before:
            knows_before = True
            live_before = version.kind != VERSION_DELETE
        if settled:
            continue
        if version.kind == VERSION_REINSERT:
            _take_base(scan, source, version.layout, <const uint8_t*> version + sizeof(VersionHeader))
            settled = True
        elif version.kind == VERSION_UPDATE:
            _take_update(scan, <const uint8_t*> version + sizeof(VersionHeader), version.payload_bytes)
    if not snapshot_applied(since, row.timestamp):
        touched = True
        live_before = False
    if not touched or (scan.dead and not live_before):
        return False
    if not settled:
        _take_base(scan, source, row.layout, <const uint8_t*> row + sizeof(RowHeader) + row.key_bytes)
    return True


cdef bint _resolve(RowScan scan, const ScanSource* source, RowHeader* row) noexcept nogil:
    """Work out the row's cells at the snapshot, newest version first; False: the row is not visible there."""
    cdef uint32_t ref = load_acquire(&row.newest)
    cdef const VersionHeader* version
    memset(scan.states, CELL_UNSET, scan.layout.info.column_count)
    while ref:
        version = <const VersionHeader*> arena_at(source.at.arena, ref)
        ref = version.older
        if not snapshot_applied(&source.snapshot, version.timestamp):
            continue
        if version.kind == VERSION_DELETE:
            # As the newest visible version it hides the row. Under newer ones it cannot come: a dead row's next version
            # is a REINSERT, and there the walk ends.
            return False
        if version.kind == VERSION_REINSERT:
            _take_base(scan, source, version.layout, <const uint8_t*> version + sizeof(VersionHeader))
            return True
        _take_update(scan, <const uint8_t*> version + sizeof(VersionHeader), version.payload_bytes)
    if not snapshot_applied(&source.snapshot, row.timestamp) or row.layout == LAYOUT_GHOST:
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
        column = column_of_id(&scan.layout.info, id)
        if column >= 0 and scan.states[column] == CELL_UNSET:
            scan.states[column] = CELL_SET if stored else CELL_NULL
            scan.cells[column] = payload
            scan.sizes[column] = stored - 1 if stored else 0
        if stored:
            payload += stored - 1


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
            scan.cells[i] = stored_cell(base, stored, column, &scan.sizes[i])
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
    if block.column_count > scan.layout.info.column_count:
        block.columns[scan.layout.info.column_count].values[row] = scan.dead
    block.row_count = row + 1
    return 0
