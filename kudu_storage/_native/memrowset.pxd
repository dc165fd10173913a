"""Rows of a tablet in memory: an ordered tree over encoded keys, each row with the chain of its versions.

M1  Keys are unique and iteration yields them in memcmp order.
M2  A row is never removed: a deleted row keeps its place and ends in a DELETE version.
M3  Versions of a row are linked newest first; a version is visible in a snapshot T when its timestamp is below T.
M4  Once frozen nothing changes, and any number of scans may run.
M5  Once shared, any number of scans may run beside the one writer. They see all rows and versions of their snapshots,
    provided that no operation of those starts writing after the scan began, as Mvcc's snapshots see to. The tree changes
    under `mutex`; a scan takes it only to copy a leaf's references. Rows and versions are published whole and never
    change but for a row's link to its newest version.
One writer at a time. Without share(), no reader before freeze().

Objects in the arena, all little-endian, 8-byte aligned:
    row      u64 timestamp of the insert | u32 newest version (0 none) | u16 layout | u16 key bytes | key | stored row
             layout 0xFFFF: a ghost, known only to be deleted from that timestamp on; it has no stored row.
             The key is left out when the tree's 8-byte prefix is all of it.
    version  u64 timestamp | u32 next older | u16 layout (REINSERT) | u8 kind | u8 0 | u32 bytes | payload
             UPDATE's payload is a list of: u32 column | u32 size + 1 (0: NULL) | bytes       by column id
             REINSERT's is a stored row
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kudu_storage._native.arena cimport Arena
from kudu_storage._native.posix cimport pthread_mutex_t
from kudu_storage._native.row_layout cimport LayoutInfo
from kudu_storage._native.row_ops cimport DecodedRow

cdef enum:
    LEAF_CAPACITY = 64
    INNER_CAPACITY = 64
    TREE_DEPTH_MAX = 12
    LAYOUT_GHOST = 0xFFFF
    VERSION_UPDATE = 1
    VERSION_DELETE = 2
    VERSION_REINSERT = 3

cdef struct RowHeader:
    uint64_t timestamp
    uint32_t newest
    uint16_t layout
    uint16_t key_bytes

cdef packed struct VersionHeader:
    uint64_t timestamp
    uint32_t older
    uint16_t layout
    uint8_t kind
    uint8_t reserved
    uint32_t payload_bytes

cdef struct Leaf:
    Leaf* next
    uint32_t count
    uint32_t rows[LEAF_CAPACITY]
    uint64_t prefixes[LEAF_CAPACITY]

cdef struct Inner:
    uint32_t count                          # children; separators are count - 1
    uint32_t rows[INNER_CAPACITY]           # rows[i]: the row whose key is the least under children[i]; rows[0] unused
    uint64_t prefixes[INNER_CAPACITY]
    void* children[INNER_CAPACITY]

cdef struct Position:
    Leaf* leaf
    uint32_t slot
    bint found
    bint has_path                           # path is filled (a descent was made)
    Inner* path[TREE_DEPTH_MAX]
    uint32_t path_slot[TREE_DEPTH_MAX]

# A place between rows, in key order. Holds copies of one leaf's references, so that the tree may change meanwhile.
cdef struct RowCursor:
    const Arena* arena
    void** root
    int32_t* height
    Leaf* first_leaf
    pthread_mutex_t* mutex                  # NULL: frozen
    bint key_in_prefix
    uint32_t key_fixed_bytes
    const uint8_t* lower                    # first key wanted, or NULL: from the start. Its owner outlives the cursor.
    size_t lower_bytes
    const uint8_t* upper                    # first key not wanted any more, or NULL: to the end
    size_t upper_bytes
    Leaf* leaf                              # copied last; NULL before the first
    bint ended                              # no leaf after the copied rows is wanted
    uint32_t slot                           # of the row in hand, among the copied ones
    uint32_t count
    uint32_t rows[LEAF_CAPACITY]
    uint64_t prefixes[LEAF_CAPACITY]

cdef enum RowState:
    STATE_ABSENT = 0                        # no row of that key
    STATE_DEAD = 1
    STATE_LIVE = 2

cdef class MemRowSet:
    cdef Arena arena
    cdef void* root
    cdef int32_t height                     # inner levels above the leaves
    cdef Leaf* first_leaf
    cdef Leaf* finger                       # where the last key went: writes come in runs
    cdef size_t tree_bytes
    cdef bint key_in_prefix
    cdef pthread_mutex_t mutex              # over the tree, once shared
    cdef bint has_mutex
    cdef readonly bint shared
    cdef readonly bint frozen
    cdef int64_t lowest_log_index           # of an operation in here; INT64_MAX: none said
    cdef list layouts                       # RowLayout objects; they own what `infos` points to
    cdef const LayoutInfo** infos           # by number
    cdef dict column_types                  # by column id, of stored rows: a cell is read by its type's width
    cdef const LayoutInfo* current          # what new rows are written in
    cdef readonly int64_t row_count         # keys, dead ones too
    cdef readonly int64_t version_count
    cdef readonly int64_t content_bytes     # stored rows, update payloads and encoded keys: what the rows themselves need

    # All return 0, or -1: out of memory. find() never fails.
    cdef void find(self, const DecodedRow* row, Position* position) noexcept nogil
    cdef RowState state_at(self, const Position* position) noexcept nogil
    cdef int insert(self, Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil
    cdef int insert_ghost(self, Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil
    cdef int update(self, const Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil
    cdef int remove(self, const Position* position, uint64_t timestamp) noexcept nogil
    cdef int reinsert(self, const Position* position, const DecodedRow* row, uint64_t timestamp) noexcept nogil
    # The operation of that log index has changed something in here: its anchor must hold it.
    cdef void note_log_index(self, int64_t index) noexcept nogil
    cdef int start_cursor(self, RowCursor* cursor, bytes lower, bytes upper) except -1

# True: the cursor stands at a row, rows[slot]; step by adding to `slot`. False: at the end.
cdef bint cursor_at_row(RowCursor* cursor) noexcept nogil
# A stored row's cell, or NULL for a NULL.
cdef const uint8_t* stored_cell(const LayoutInfo* layout, const uint8_t* row, int32_t column, uint32_t* size) noexcept nogil
