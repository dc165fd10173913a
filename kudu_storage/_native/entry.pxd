"""Log entries, parsed only as far as replay needs: type, OpId, timestamp, kind of operation, the rest as slices.

Schemas: consensus log.proto (LogEntryBatchPB, LogEntryPB) and consensus.proto (ReplicateMsg, CommitMsg). The slices point
into the batch's bytes. Unknown fields are skipped; a field with the wrong wire type makes the batch malformed.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t

from kudu_storage._native.cursor cimport Cursor, Slice

cdef enum:
    ENTRY_REPLICATE = 1
    ENTRY_COMMIT = 2

cdef enum:
    OP_UNKNOWN = 0
    OP_NO_OP = 1
    OP_WRITE = 3
    OP_ALTER_SCHEMA = 4
    OP_CHANGE_CONFIG = 5
    OP_PARTICIPANT = 6

cdef struct LogEntry:
    int32_t type            # ENTRY_REPLICATE or ENTRY_COMMIT
    int32_t op_type         # OP_*
    int64_t term            # of the REPLICATE's id, or of the operation that the COMMIT commits
    int64_t index
    uint64_t timestamp      # REPLICATE: hybrid time; COMMIT: 0
    Slice message           # the whole ReplicateMsg or CommitMsg
    Slice request           # REPLICATE: the request that belongs to op_type (write_request, alter_schema_request,
                            # change_config_record, participant_request, noop_request); data NULL when absent
    Slice result            # COMMIT: TxResultPB; data NULL when absent

# Takes the next entry of the LogEntryBatchPB under `batch`: 1 = *entry filled, 0 = the batch is used up,
# -1 = malformed (missing required field, cut off, or an entry of another type than REPLICATE and COMMIT).
cdef int next_entry(Cursor* batch, LogEntry* entry) noexcept nogil
