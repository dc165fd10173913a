"""One entry batch of a log while it is in memory: encoded once, then shared by the queue, the cache and readers.

    16 bytes of entry header | the LogEntryBatchPB | a few bytes that an encoder may write over
The header (and the compressed copy) is the pumper's, when the batch is written. Everything else is set before the batch is
published and never changes. References are counted atomically; the last one frees it, on any thread, without the GIL.

Memory of batches that went is kept for the next ones of about the same size: fresh memory costs a page fault each 4 KiB,
which is as much as writing them. All logs share what is kept, a few MiB at most (log_batch.pyx).
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

cdef extern from * nogil:
    """
    #define kudu_add(counter, amount) __atomic_add_fetch((counter), (amount), __ATOMIC_ACQ_REL)
    #define kudu_load(counter) __atomic_load_n((counter), __ATOMIC_ACQUIRE)
    #define kudu_store(counter, value) __atomic_store_n((counter), (value), __ATOMIC_RELEASE)
    """
    int64_t kudu_add(int64_t* counter, int64_t amount)
    int64_t kudu_load(const int64_t* counter)
    void kudu_store(int64_t* counter, int64_t value)

cdef enum:
    ENTRY_HEADER_BYTES = 16
    BATCH_SLACK_BYTES = 64      # behind the body; an encoder that copies whole words may write there

# Batches appended between two failures. When one fails for want of space, all that waits behind it fails with it; what a
# token needs to know of that outlives the batches.
cdef struct Epoch:
    int64_t references
    int64_t ended           # 0 while it goes on; set once, under the log's mutex
    int64_t last_serial     # when ended: batches above it are gone
    int64_t last_index      # when ended: the last operation that is in the log
    int32_t error           # errno

cdef struct Batch:
    int64_t references
    Batch* next             # in the queue, or among those kept for later
    int64_t serial          # 1, 2, ... in the order of appending; never given twice
    int64_t first_index     # of its REPLICATEs; for COMMITs the index that the log had reached
    int64_t term
    int32_t count           # entries
    int32_t kind            # ENTRY_REPLICATE or ENTRY_COMMIT
    size_t body_bytes
    size_t memory_bytes     # of all this, as allocated
    uint8_t* bytes          # header room and body
    uint8_t* stored         # header room and compressed body, where the codec needs the GIL; else NULL
    size_t stored_bytes     # of the compressed body

# One reference, everything else zero but the sizes; NULL: out of memory.
cdef Batch* batch_new(size_t body_bytes) noexcept nogil
# The last reference went. Call batch_release().
cdef void batch_drop(Batch* batch) noexcept nogil


cdef inline void epoch_release(Epoch* epoch) noexcept nogil:
    if epoch != NULL and kudu_add(&epoch.references, -1) == 0:
        free(epoch)


cdef inline void batch_retain(Batch* batch) noexcept nogil:
    kudu_add(&batch.references, 1)


cdef inline void batch_release(Batch* batch) noexcept nogil:
    if kudu_add(&batch.references, -1) == 0:
        batch_drop(batch)


cdef inline size_t batch_memory(const Batch* batch) noexcept nogil:
    return batch.memory_bytes
