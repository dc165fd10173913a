"""Replay decisions. Pure: values in, a verdict out; nothing is read, kept or changed here.

Sources: Kudu's tablet/tablet_bootstrap.cc (what bootstrap does with a REPLICATE and a COMMIT), tablet/tablet.cc (what a
row operation does to a row). Where bootstrap trusts that the flushed stores hold the rest, replay from the log alone
must know when it does not know: hence ROW_UNKNOWN.

D1  Operations are applied in index order, each at most once.
D2  A REPLICATE at an index that is pending voids every pending operation at or above that index.
D3  A COMMIT's result decides row by row; only without one is a row operation worked out from the row's state.
D4  A row is shown only if its whole content follows from operations of this log.
"""
from libc.stdint cimport int32_t, int64_t

# -- the order of operations -------------------------------------------------------------------------------------------
cdef enum ReplicateVerdict:
    REPLICATE_APPEND = 1            # it is the next index
    REPLICATE_REPLACE = 2           # voids pending operations from its index on
    REPLICATE_GAP = 3               # operations before it are missing
    REPLICATE_BELOW_APPLIED = 4     # its index is applied already
    REPLICATE_OVER_COMMITTED = 5    # would void an operation that has a COMMIT

cdef enum CommitVerdict:
    COMMIT_BUFFER = 1               # pending; applied when its turn comes (at once when it is the first)
    COMMIT_ORPHAN = 2               # its REPLICATE is older than this log
    COMMIT_WITHOUT_REPLICATE = 3
    COMMIT_OTHER_TERM = 4           # the pending operation of that index has another term
    COMMIT_TWICE = 5


cdef inline ReplicateVerdict judge_replicate(int64_t index, int64_t first_pending, int64_t next_index,
                                             int64_t highest_committed) noexcept nogil:
    """`first_pending` .. `next_index` are the pending operations; at the log's first REPLICATE pass its own index."""
    if index == next_index:
        return REPLICATE_APPEND
    if index > next_index:
        return REPLICATE_GAP
    if index < first_pending:
        return REPLICATE_BELOW_APPLIED
    return REPLICATE_OVER_COMMITTED if index <= highest_committed else REPLICATE_REPLACE


cdef inline CommitVerdict judge_commit(int64_t index, int64_t term, int64_t first_index, int64_t first_pending,
                                       int64_t next_index, int64_t pending_term, bint has_commit) noexcept nogil:
    """`first_index` is the index of the log's first REPLICATE; `pending_term` and `has_commit` describe the pending
    operation of that index, if it is pending."""
    if index < first_index:
        return COMMIT_ORPHAN
    if index >= next_index:
        return COMMIT_WITHOUT_REPLICATE
    if index < first_pending:
        return COMMIT_TWICE
    if pending_term != term:
        return COMMIT_OTHER_TERM
    return COMMIT_TWICE if has_commit else COMMIT_BUFFER


# -- one row operation -------------------------------------------------------------------------------------------------
cdef enum RowKind:
    KIND_INSERT = 0
    KIND_UPSERT = 1
    KIND_UPDATE = 2
    KIND_DELETE = 3

cdef enum RowOutcome:
    OUTCOME_FAILED = 0      # failed_status: the server refused it
    OUTCOME_NOTHING = 1     # no mutated store: an ignored operation, or one that changed nothing
    OUTCOME_MUTATED = 2
    OUTCOME_FLUSHED = 3     # skip_on_replay: it did what it did, and that is in a flushed store
    OUTCOME_OPEN = 4        # no COMMIT (asked to include pending operations)

cdef enum RowKnowledge:
    ROW_UNKNOWN = 0         # the log is not whole, and says nothing of this row yet
    ROW_DEAD = 1
    ROW_LIVE = 2

cdef enum RowAction:
    ACTION_NONE = 0
    ACTION_INSERT = 1           # the row's content is what the operation says
    ACTION_UPDATE = 2
    ACTION_DELETE = 3
    ACTION_REMEMBER_DEAD = 4    # now known to be dead
    ACTION_UNKNOWN = 5          # it concerns a row whose content the log does not tell
    ACTION_CONTRADICTION = 6


cdef inline RowAction judge_row(RowKind kind, bint ignore, RowOutcome outcome, RowKnowledge row, bint sets_all,
                                bint sets_immutable) noexcept nogil:
    """What to do.

    `ignore`: the operation is of an _IGNORE kind. `sets_all`: it sets every column that is no key, none of them
    immutable, so that the content is known whatever was there. `sets_immutable`: it sets an immutable column.
    """
    if outcome == OUTCOME_FAILED or outcome == OUTCOME_NOTHING:
        return ACTION_NONE
    if kind == KIND_INSERT:
        if row == ROW_LIVE:
            return ACTION_CONTRADICTION if outcome == OUTCOME_MUTATED or (outcome == OUTCOME_FLUSHED and not ignore) \
                else ACTION_NONE
        if row == ROW_UNKNOWN and (outcome == OUTCOME_OPEN or (outcome == OUTCOME_FLUSHED and ignore)):
            return ACTION_UNKNOWN
        return ACTION_INSERT
    if kind == KIND_UPSERT:
        if row == ROW_LIVE and sets_immutable and not ignore:
            return ACTION_NONE if outcome == OUTCOME_OPEN else ACTION_CONTRADICTION     # a server refuses it
        if row == ROW_LIVE:
            return ACTION_UPDATE
        if row == ROW_UNKNOWN and not sets_all:
            return ACTION_UNKNOWN
        return ACTION_INSERT
    if kind == KIND_UPDATE and row == ROW_LIVE and sets_immutable and not ignore and outcome != OUTCOME_OPEN:
        return ACTION_CONTRADICTION         # a server refuses it
    # What is not there can be neither updated nor deleted. A result that says it was: the server knew better than this
    # log, or contradicts it.
    if row == ROW_DEAD:
        if outcome == OUTCOME_MUTATED or (outcome == OUTCOME_FLUSHED and not ignore):
            return ACTION_CONTRADICTION
        return ACTION_NONE
    if kind == KIND_UPDATE:
        if row == ROW_LIVE:
            return ACTION_NONE if outcome == OUTCOME_OPEN and sets_immutable and not ignore else ACTION_UPDATE
        if sets_all and (outcome == OUTCOME_MUTATED or (outcome == OUTCOME_FLUSHED and not ignore)):
            return ACTION_INSERT
        return ACTION_UNKNOWN
    return ACTION_DELETE if row == ROW_LIVE else ACTION_REMEMBER_DEAD
