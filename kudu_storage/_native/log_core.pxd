"""The writing half of one log: queue, group commit, segments. See log_core.pyx.

A LogCore is a C struct with counted references, because the pool's threads work on it without the GIL and may outlive the
Python object by a moment. Who touches what:
    under `mutex`       the queue, the indexes, the epoch, the cache, the flags
    by the one pumper   everything under "segment" and "index chunk"; `pumping` says that there is one
    under the pool's    its lists
    `ahead`             the next segment; who made its state AHEAD_BUSY may use the rest of it without the mutex
What readers see of the segment being written is a copy under the mutex (`seen_*`), taken when a group ends.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kudu_storage._native.disk cimport DiskOps, iovec
from kudu_storage._native.log_batch cimport Batch, Epoch
from kudu_storage._native.log_cache cimport BatchCache
from kudu_storage._native.log_voids cimport VoidList
from kudu_storage._native.posix cimport pthread_cond_t, pthread_mutex_t

cdef enum Durability:
    DURABILITY_FSYNC = 0        # acknowledged when synced
    DURABILITY_OS = 1           # acknowledged when the kernel has it
    DURABILITY_INTERVAL = 2     # as OS, and synced every interval

cdef enum TokenState:
    TOKEN_PENDING = 0
    TOKEN_DONE = 1
    TOKEN_NO_SPACE = 2
    TOKEN_POISONED = 3
    TOKEN_CLOSED = 4

cdef enum AppendStatus:
    APPEND_OK = 0
    APPEND_FULL = 1
    APPEND_POISONED = 2
    APPEND_CLOSED = 3
    APPEND_MUCH = 4             # OK, and the caller should pump: for what is only to be with the kernel, it is the cheapest

cdef enum AheadState:
    AHEAD_NONE = 0              # there is no segment made ahead
    AHEAD_WANTED = 1            # a thread of the pool should make it, or go on with it
    AHEAD_BUSY = 2              # a thread is at work with it, without the mutex
    AHEAD_READY = 3             # the next roll may take it

# The next segment, made ahead of need under a temporary name (log_segment.pyx).
cdef struct Ahead:
    # under the mutex
    AheadState state
    bint unwanted               # AHEAD_BUSY: who is at work removes it
    bint listed                 # in the pool's list
    int64_t tried_sequence      # it is made once a segment: what failed, or was not needed, is not tried again
    # under the mutex, or of who made it AHEAD_BUSY
    int fd                      # -1: no file
    int64_t sequence
    int64_t allocated
    int64_t zeroed
    bint asked                  # for space

# Something that a thread of the pool does for a log at some time.
cdef struct Due:
    Due* next                   # under the pool's mutex, as at_us
    LogCore* core
    int64_t at_us               # monotonic
    bint listed                 # under the log's mutex

cdef struct LogCore:
    int64_t references
    pthread_mutex_t mutex
    pthread_cond_t progress         # a group ended, or something that waiters must see happened
    pthread_cond_t work             # a lingering pool thread should go on
    # fixed when made
    const DiskOps* ops
    void* disk
    char* directory                 # without a slash at the end
    uint8_t* header_before          # LogSegmentHeaderPB before and after its sequence_number
    size_t header_before_bytes
    uint8_t* header_after
    size_t header_after_bytes
    int codec                       # kudu.CompressionType
    Durability durability
    int64_t interval_us
    int64_t segment_bytes
    int64_t idle_us                 # without a group for so long a log lets go of space
    bint zero_ahead                 # segments made ahead are written with zeros (DURABILITY_FSYNC)
    VoidList* voids
    size_t queued_bytes_max
    int64_t fork_generation
    # under the mutex
    Batch* queue_first
    Batch* queue_last
    size_t queued_bytes             # of the queue and the group being written
    bint pumping
    bint scheduled                  # in the pool's list, or a pool thread has it
    bint urgent                     # somebody waits: do not linger
    int64_t eager_serial            # what is queued behind it may wait for company (lazy)
    bint closing
    bint closed                     # nothing is written any more
    int sync_waiters
    int async_waiters
    int64_t term                    # of the next entry
    int64_t last_term               # of the last one
    int64_t next_index              # also read without the mutex: kudu_load, kudu_store
    int64_t next_serial
    uint64_t last_timestamp
    int64_t written_index           # with the kernel
    int64_t written_term
    int64_t written_serial          # tokens go by serials: indexes say nothing of COMMITs, and can be given again
    int64_t durable_index
    int64_t durable_term
    int64_t durable_serial
    bint seen_open                  # a segment is open
    int64_t seen_sequence
    int64_t seen_offset
    int64_t seen_min_index          # 0: none of its entries is a REPLICATE
    int64_t seen_replacements
    Epoch* epoch
    int poison_errno                # 0: healthy
    const char* poison_what
    Ahead ahead
    int64_t idle_groups             # `groups` when somebody began to watch whether the log is idle
    int64_t rolls_ahead             # took a segment that was made ahead
    int64_t refusals                # times that all that was queued failed, and appending went on
    int refusal_errno               # why, the last time
    BatchCache cache
    int64_t bytes_written
    int64_t groups
    int64_t syncs                   # the pumper's: kudu_add, kudu_load
    int64_t batches_written
    int64_t no_space_count
    # segment: the pumper's
    int fd                          # -1: none open yet
    int64_t sequence                # of the open segment, or of the last one
    int64_t offset                  # where the next entry goes
    int64_t allocated
    int64_t calm_offset             # where the segment was when the log was idle
    int64_t rolls
    int64_t segment_entries
    int64_t segment_min_index
    int64_t segment_max_index
    int64_t segment_last_index      # of the last REPLICATE
    int64_t segment_replacements    # REPLICATEs that replace an operation of the same segment
    int64_t unsynced_since_us       # 0: all is synced
    uint8_t* scratch                # compressed entries of a group
    size_t scratch_bytes
    # index chunk: the pumper's
    int index_fd
    int64_t index_chunk
    uint8_t* index_slots            # slots not written yet, of consecutive indexes
    int64_t index_first
    int64_t index_count
    # the pool's lists
    LogCore* pool_next
    LogCore* ahead_next
    Due sync_due
    Due idle_due
    int event_fd                    # told once a group while async_waiters > 0; -1: none

cdef void core_retain(LogCore* core) noexcept nogil
cdef void core_release(LogCore* core) noexcept nogil
# Queues the batch (takes over the reference) and gives it its indexes; `schedule`: let the pool write it some time.
cdef AppendStatus core_append(LogCore* core, Batch* batch, bint schedule) noexcept nogil
# Writes what is queued now, in groups, unless somebody else pumps. Never fails: what fails is noted.
cdef void core_pump(LogCore* core) noexcept nogil
# Of the batch with this serial; without an epoch, of the operation `index`, whoever appends it. Call with the mutex held.
cdef TokenState core_token_state(LogCore* core, const Epoch* epoch, int64_t serial, int64_t index) noexcept nogil
cdef void core_schedule(LogCore* core) noexcept nogil       # call with the mutex held
cdef TokenState core_wait(LogCore* core, const Epoch* epoch, int64_t serial, int64_t index, int64_t deadline_us,
                          int64_t slice_us) noexcept nogil
# Make the next segment now, in this thread. Whether there is one that a roll may take.
cdef bint core_prepare(LogCore* core) noexcept nogil
cdef int core_close(LogCore* core, bint seal) noexcept nogil
# Nothing is acknowledged any more. `what` must live for ever.
cdef void core_poison(LogCore* core, int error, const char* what) noexcept nogil
cdef LogCore* core_new(const DiskOps* ops, void* disk, const char* directory) noexcept nogil
cdef int64_t core_fork_generation() noexcept nogil
