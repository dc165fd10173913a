"""The writing half of a log: queue, group commit, segments, in Kudu's format (docs/formats/wal.md). See log_core.pxd.

A group is what is queued when a pump begins, up to 4 MiB or the segment's end: one pwritev, one sync. Whoever waits and finds
nobody pumping pumps; else the pool's threads do. Order is kept, because there is one pumper at a time.

K1  written_serial and durable_serial never go back, and durable_serial <= written_serial < next_serial. The indexes of the
    last operation written and durable go with them; they go back only when Raft replaces operations.
K2  A batch is acknowledged only in order, and (DURABILITY_FSYNC) only after a sync that came after its write (W1).
K3  After a failed sync, or a failed write other than for want of space, nothing is acknowledged any more (W2).
K4  Out of space: the file is cut to the last whole entry, all that is queued fails in order, appending may go on (W6).
K5  A segment's name is durable before an entry in it is acknowledged (W4; not for DURABILITY_OS).
"""
from libc.errno cimport EDQUOT, ENOSPC, EIO
from libc.stdio cimport snprintf
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset, strdup

from kudu_storage._native.crc32c cimport crc32c_extend
from kudu_storage._native.entry cimport ENTRY_REPLICATE
from kudu_storage._native.log_batch cimport (
    ENTRY_HEADER_BYTES, batch_memory, batch_release, epoch_release, kudu_add, kudu_store,
)
from kudu_storage._native.lz4 cimport lz4_bound, lz4_compress
from kudu_storage._native.log_cache cimport cache_clear, cache_drop_unwritten, cache_put, cache_trim
from kudu_storage._native.posix cimport (
    CLOCK_MONOTONIC, SIG_SETMASK, c_write, monotonic_us, pthread_atfork, pthread_cond_broadcast, pthread_cond_destroy,
    pthread_cond_init, pthread_cond_signal, pthread_cond_timedwait, pthread_cond_wait, pthread_condattr_init,
    pthread_condattr_setclock, pthread_condattr_t, pthread_create, pthread_detach, pthread_mutex_destroy,
    pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, pthread_sigmask, pthread_t, realtime_us, sigfillset,
    sigset_t, timespec, timespec_of,
)
from kudu_storage._native.wire cimport put_bytes, put_fixed32, put_varint, varint_size

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDWR
    enum: O_CREAT
    enum: O_EXCL

cdef enum:
    GROUP_BYTES_MAX = 4 << 20
    GROUP_BATCHES_MAX = 1000            # IOV_MAX is 1024
    PATH_BYTES = 4096
    FOOTER_ROOM = 64
    INDEX_SLOT_BYTES = 24
    INDEX_CHUNK_SLOTS = 1000000
    INDEX_BUFFER_SLOTS = 4096
    FIRST_ALLOCATION = 64 << 10         # what an idle log may hold
    SCRATCH_BYTES_MAX = 8 << 20         # room for a compressed group
    LINGER_BYTES = 256 << 10            # this much queued is worth a group of its own
    LINGER_US = 1000
    CODEC_LZ4 = 3


# -- life --------------------------------------------------------------------------------------------------------------
cdef void core_retain(LogCore* core) noexcept nogil:
    kudu_add(&core.references, 1)


cdef void core_release(LogCore* core) noexcept nogil:
    cdef Batch* batch
    if kudu_add(&core.references, -1) != 0:
        return
    while core.queue_first != NULL:
        batch = core.queue_first
        core.queue_first = batch.next
        batch_release(batch)
    cache_clear(&core.cache)
    epoch_release(core.epoch)
    if core.fd >= 0:
        core.ops.close(core.disk, core.fd)
    if core.index_fd >= 0:
        core.ops.close(core.disk, core.index_fd)
    pthread_mutex_destroy(&core.mutex)
    pthread_cond_destroy(&core.progress)
    pthread_cond_destroy(&core.work)
    free(core.directory)
    free(core.header_before)
    free(core.header_after)
    free(core.scratch)
    free(core.index_slots)
    free(core)


# -- appending ---------------------------------------------------------------------------------------------------------
cdef inline bint _is_much(const LogCore* core) noexcept nogil:
    """Worth a group that nobody waits for yet. One batch alone is not: who appended it may be about to wait, and write it."""
    return core.queued_bytes >= LINGER_BYTES and core.queue_first != core.queue_last


cdef AppendStatus core_append(LogCore* core, Batch* batch, bint schedule) noexcept nogil:
    cdef size_t size = batch_memory(batch)
    if core.poison_errno:
        return APPEND_POISONED
    if core.closing:
        return APPEND_CLOSED
    if core.queued_bytes and core.queued_bytes + size > core.queued_bytes_max:
        return APPEND_FULL
    batch.serial = core.next_serial
    core.next_serial += 1
    if batch.kind == ENTRY_REPLICATE:
        kudu_store(&core.next_index, batch.first_index + batch.count)
        core.term = batch.term
        core.last_term = batch.term
        cache_put(&core.cache, batch)           # without room for its slot it is read from disk: no harm
        cache_trim(&core.cache, core.written_index)
    batch.next = NULL
    if core.queue_last == NULL:
        core.queue_first = batch
    else:
        core.queue_last.next = batch
    core.queue_last = batch
    core.queued_bytes += size
    if schedule:
        core_schedule(core)
        if _is_much(core):
            if core.durability == DURABILITY_OS and core.event_fd < 0 and not core.pumping:
                return APPEND_MUCH
            pthread_cond_signal(&core.work)
    return APPEND_OK


cdef TokenState core_token_state(LogCore* core, const Epoch* epoch, int64_t serial, int64_t index) noexcept nogil:
    # What an interval had not synced before the log was poisoned is not known to be on the disk.
    cdef bint fsync = core.durability == DURABILITY_FSYNC \
        or (core.durability == DURABILITY_INTERVAL and core.poison_errno != 0)
    if epoch == NULL:
        if index <= (core.durable_index if fsync else core.written_index):
            return TOKEN_DONE
    else:
        if epoch.ended and serial > epoch.last_serial:
            return TOKEN_NO_SPACE
        if serial <= (core.durable_serial if fsync else core.written_serial):
            return TOKEN_DONE
    if core.poison_errno:
        return TOKEN_POISONED
    return TOKEN_CLOSED if core.closed else TOKEN_PENDING


# -- files -------------------------------------------------------------------------------------------------------------
cdef void _poison(LogCore* core, int error, const char* what) noexcept nogil:
    """Call with the mutex held (K3)."""
    if core.poison_errno == 0:
        core.poison_errno = error if error else EIO
        core.poison_what = what


cdef inline bint _is_no_space(int64_t status) noexcept nogil:
    return status == -ENOSPC or status == -EDQUOT


cdef int64_t _write_all(LogCore* core, int fd, iovec* parts, int count, int64_t total, int64_t offset) noexcept nogil:
    """0, or -errno with a part possibly written. Changes `parts`."""
    cdef int64_t status, done = 0
    while done < total:
        status = core.ops.pwritev(core.disk, fd, parts, count, offset + done)
        if status < 0:
            return status
        if status == 0:
            return -EIO
        done += status
        while count and <size_t> status >= parts[0].iov_len:
            status -= <int64_t> parts[0].iov_len
            parts += 1
            count -= 1
        if count and status:
            parts[0].iov_base = <uint8_t*> parts[0].iov_base + status
            parts[0].iov_len -= <size_t> status
    return 0


cdef inline int _of_sync(int status) noexcept nogil:
    """A failed sync is final, also one for want of space: nobody knows what the disk has (K3)."""
    return -EIO if _is_no_space(status) else status


cdef int _sync(LogCore* core) noexcept nogil:
    cdef int status = _of_sync(core.ops.sync(core.disk, core.fd))
    kudu_add(&core.syncs, 1)
    if status == 0:
        core.unsynced_since_us = 0
    return status


cdef int _cut_back(LogCore* core) noexcept nogil:
    """Nothing behind the last whole entry stays, nor comes back after a crash: who waited was told so (K4). 0 or -EIO."""
    if core.ops.truncate(core.disk, core.fd, core.offset) < 0:
        return -EIO
    core.allocated = core.offset
    return -EIO if _sync(core) < 0 else 0


cdef int _write_footer(LogCore* core) noexcept nogil:
    """LogSegmentFooterPB | "closedls" | u32 size, and the file ends there."""
    cdef uint8_t footer[FOOTER_ROOM]
    cdef uint8_t* out = footer
    cdef uint8_t* start
    cdef iovec part
    cdef int64_t status
    out[0] = 0x08
    out = put_varint(out + 1, <uint64_t> core.segment_entries)
    if core.segment_min_index > 0:
        out[0] = 0x10
        out = put_varint(out + 1, <uint64_t> core.segment_min_index)
        out[0] = 0x18
        out = put_varint(out + 1, <uint64_t> core.segment_max_index)
    out[0] = 0x20
    out = put_varint(out + 1, <uint64_t> realtime_us())
    start = out
    out = put_bytes(out, <const uint8_t*> b"closedls", 8)
    out = put_fixed32(out, <uint32_t> (start - footer))
    part.iov_base = footer
    part.iov_len = <size_t> (out - footer)
    status = _write_all(core, core.fd, &part, 1, <int64_t> part.iov_len, core.offset)
    if status == 0:
        status = core.ops.truncate(core.disk, core.fd, core.offset + (out - footer))
    return <int> status


cdef int _close_segment(LogCore* core) noexcept nogil:
    cdef int status = 0
    if core.unsynced_since_us:
        # A footer on the disk says that all before it is there: it must not arrive first.
        status = _sync(core)
        if status < 0:
            return status
    status = _write_footer(core)
    if status < 0 and _is_no_space(status):
        # Without a footer the segment is again one that goes on.
        if _cut_back(core) < 0:
            return -EIO
    if status == 0 and core.durability != DURABILITY_OS:
        status = _sync(core)
    if status == 0:
        _flush_index(core)
        core.ops.close(core.disk, core.fd)
        core.fd = -1
    return status


cdef int _open_segment(LogCore* core) noexcept nogil:
    """Make the next segment under Kudu's temporary name, with its header, and give it its own (K5)."""
    cdef char temporary[PATH_BYTES]
    cdef char name[PATH_BYTES]
    cdef int64_t sequence = core.sequence + 1
    cdef size_t pb = core.header_before_bytes + 1 + varint_size(<uint64_t> sequence) + core.header_after_bytes
    cdef uint8_t* header
    cdef uint8_t* out
    cdef iovec part
    cdef int fd
    cdef int64_t status
    if snprintf(temporary, PATH_BYTES, b"%s/.kudutmp.newsegment%06lld", core.directory, <long long> sequence) >= PATH_BYTES:
        return -36      # ENAMETOOLONG
    snprintf(name, PATH_BYTES, b"%s/wal-%09lld", core.directory, <long long> sequence)
    header = <uint8_t*> malloc(12 + pb)
    if header == NULL:
        return -ENOSPC
    out = put_bytes(header, <const uint8_t*> b"kudulogf", 8)
    out = put_fixed32(out, <uint32_t> pb)
    out = put_bytes(out, core.header_before, core.header_before_bytes)
    out[0] = 0x30                                       # sequence_number = 6
    out = put_varint(out + 1, <uint64_t> sequence)
    out = put_bytes(out, core.header_after, core.header_after_bytes)
    core.ops.unlink(core.disk, temporary)               # left by a crash; mostly there is none
    fd = core.ops.open(core.disk, temporary, O_RDWR | O_CREAT | O_EXCL)
    status = fd if fd < 0 else 0
    if status == 0:
        part.iov_base = header
        part.iov_len = 12 + pb
        status = _write_all(core, fd, &part, 1, <int64_t> (12 + pb), 0)
    if status == 0 and core.durability != DURABILITY_OS:
        status = _of_sync(core.ops.sync(core.disk, fd))
    if status == 0:
        status = core.ops.rename(core.disk, temporary, name)
    if status == 0 and core.durability != DURABILITY_OS:
        status = _of_sync(core.ops.sync_dir(core.disk, core.directory))
    free(header)
    if status < 0:
        if fd >= 0:
            core.ops.close(core.disk, fd)
        core.ops.unlink(core.disk, temporary)
        return <int> status
    core.fd = fd
    core.sequence = sequence
    core.offset = <int64_t> (12 + pb)
    core.allocated = core.offset
    core.segment_entries = 0
    core.segment_min_index = 0
    core.segment_max_index = 0
    core.segment_last_index = 0
    core.segment_replacements = 0
    return 0


cdef void _drop_segment(LogCore* core) noexcept nogil:
    """Remove the open segment, in which nothing was written (the disk was full). If it comes back after a crash, opening
    removes it."""
    cdef char name[PATH_BYTES]
    snprintf(name, PATH_BYTES, b"%s/wal-%09lld", core.directory, <long long> core.sequence)
    core.ops.close(core.disk, core.fd)
    core.fd = -1
    if core.ops.unlink(core.disk, name) == 0:
        core.sequence -= 1


cdef int _make_room(LogCore* core, int64_t size) noexcept nogil:
    """Allocate ahead of the write: little for a log that is used little, the whole segment for a busy one."""
    cdef int64_t wanted = core.offset + size, target
    cdef int status
    if wanted <= core.allocated:
        return 0
    target = FIRST_ALLOCATION if wanted <= FIRST_ALLOCATION and FIRST_ALLOCATION < core.segment_bytes \
        else max(core.segment_bytes, wanted)
    status = core.ops.allocate(core.disk, core.fd, core.allocated, target - core.allocated)
    if status < 0:
        # A file system without fallocate: the write itself finds out whether there is room.
        return status if _is_no_space(status) else 0
    core.allocated = target
    return 0


# -- the dense index (a hint: losing it costs a scan, never an entry) --------------------------------------------------
cdef void _flush_index(LogCore* core) noexcept nogil:
    cdef char name[PATH_BYTES]
    cdef iovec part
    cdef int64_t chunk, slot, count
    cdef uint8_t* slots = core.index_slots
    while core.index_count > 0:
        chunk = core.index_first // INDEX_CHUNK_SLOTS
        slot = core.index_first % INDEX_CHUNK_SLOTS
        count = min(core.index_count, INDEX_CHUNK_SLOTS - slot)
        if core.index_fd < 0 or core.index_chunk != chunk:
            if core.index_fd >= 0:
                core.ops.close(core.disk, core.index_fd)
            snprintf(name, PATH_BYTES, b"%s/index.%09lld", core.directory, <long long> chunk)
            core.index_fd = core.ops.open(core.disk, name, O_RDWR | O_CREAT)
            core.index_chunk = chunk
            if core.index_fd >= 0:
                core.ops.truncate(core.disk, core.index_fd, INDEX_CHUNK_SLOTS * INDEX_SLOT_BYTES)
        if core.index_fd >= 0:
            part.iov_base = slots
            part.iov_len = <size_t> (count * INDEX_SLOT_BYTES)
            core.ops.pwritev(core.disk, core.index_fd, &part, 1, slot * INDEX_SLOT_BYTES)
        slots += count * INDEX_SLOT_BYTES
        core.index_first += count
        core.index_count -= count


cdef void _index_batch(LogCore* core, const Batch* batch, int64_t offset) noexcept nogil:
    cdef int64_t i, count, done = 0
    cdef int64_t term = batch.term, sequence = core.sequence
    cdef int64_t* slot
    if batch.kind != ENTRY_REPLICATE:
        return
    if core.index_slots == NULL:
        core.index_slots = <uint8_t*> malloc(INDEX_BUFFER_SLOTS * INDEX_SLOT_BYTES)
        if core.index_slots == NULL:
            return
    while done < batch.count:
        if core.index_count == INDEX_BUFFER_SLOTS \
                or (core.index_count and batch.first_index + done != core.index_first + core.index_count):
            _flush_index(core)
        if core.index_count == 0:
            core.index_first = batch.first_index + done
        count = min(batch.count - done, INDEX_BUFFER_SLOTS - core.index_count)
        slot = <int64_t*> (core.index_slots + core.index_count * INDEX_SLOT_BYTES)
        for i in range(count):
            slot[3 * i] = term
            slot[3 * i + 1] = sequence
            slot[3 * i + 2] = offset
        core.index_count += count
        done += count


# -- groups ------------------------------------------------------------------------------------------------------------
cdef struct Group:
    int count
    int64_t bytes                           # in the file
    Batch* batches[GROUP_BATCHES_MAX]       # the last one's `next` is written by who appends meanwhile
    iovec parts[GROUP_BATCHES_MAX]
    int64_t sizes[GROUP_BATCHES_MAX]        # of each entry in the file


cdef inline void _fill_header(uint8_t* header, uint32_t stored, uint32_t length, const uint8_t* body) noexcept nogil:
    put_fixed32(header, stored)
    put_fixed32(header + 4, length)
    put_fixed32(header + 8, crc32c_extend(0, body, stored))
    put_fixed32(header + 12, crc32c_extend(0, header, 12))


cdef int _encode(LogCore* core, Group* group) noexcept nogil:
    """Headers, checksums, LZ4. 0, or -1: out of memory."""
    cdef Batch* batch
    cdef size_t need = 0, used = 0, room
    cdef Py_ssize_t stored
    cdef uint8_t* out
    cdef int i
    if core.codec == CODEC_LZ4:
        for i in range(group.count):
            need += ENTRY_HEADER_BYTES + lz4_bound(group.batches[i].body_bytes)
        if need > core.scratch_bytes:
            out = <uint8_t*> realloc(core.scratch, need)
            if out == NULL:
                return -1
            core.scratch = out
            core.scratch_bytes = need
    for i in range(group.count):
        batch = group.batches[i]
        if batch.stored != NULL:
            out = batch.stored
            stored = <Py_ssize_t> batch.stored_bytes
        elif core.codec == CODEC_LZ4:
            out = core.scratch + used
            room = core.scratch_bytes - used - ENTRY_HEADER_BYTES
            stored = lz4_compress(batch.bytes + ENTRY_HEADER_BYTES, batch.body_bytes, out + ENTRY_HEADER_BYTES, room)
            if stored < 0:
                return -1
            used += ENTRY_HEADER_BYTES + <size_t> stored
        else:
            out = batch.bytes
            stored = <Py_ssize_t> batch.body_bytes
        _fill_header(out, <uint32_t> stored, <uint32_t> batch.body_bytes, out + ENTRY_HEADER_BYTES)
        group.parts[i].iov_base = out
        group.parts[i].iov_len = <size_t> (ENTRY_HEADER_BYTES + stored)
        group.sizes[i] = ENTRY_HEADER_BYTES + stored
    return 0


cdef void _take_group(LogCore* core, Group* group) noexcept nogil:
    """What is queued now, as far as one write goes. Call with the mutex held; the queue keeps it until it is done."""
    cdef Batch* batch = core.queue_first
    cdef size_t bytes = 0
    group.count = 0
    while batch != NULL and group.count < GROUP_BATCHES_MAX and (bytes == 0 or bytes + batch.body_bytes <= GROUP_BYTES_MAX):
        bytes += batch.body_bytes + ENTRY_HEADER_BYTES
        group.batches[group.count] = batch
        group.count += 1
        batch = batch.next


cdef int _ensure_segment(LogCore* core, Group* group) noexcept nogil:
    """An open segment for the group's first batch; the group is cut where the segment would be over its size."""
    cdef int status, i
    cdef int64_t room, used = 0
    if core.fd >= 0 and core.segment_entries and core.offset + group.sizes[0] > core.segment_bytes:
        status = _close_segment(core)
        if status < 0:
            return status
    if core.fd < 0:
        status = _open_segment(core)
        if status < 0:
            return status
    room = core.segment_bytes - core.offset
    for i in range(group.count):
        if i and used + group.sizes[i] > room:
            group.count = i
            break
        used += group.sizes[i]
    group.bytes = used
    return _make_room(core, used)


cdef int64_t _write_group(LogCore* core, Group* group) noexcept nogil:
    """0: written (and synced if asked); -errno. On failure for want of space the file is cut back (K4)."""
    cdef int64_t status, offset = core.offset
    cdef Batch* batch
    cdef int i
    if _encode(core, group) < 0:
        return -ENOSPC
    status = _ensure_segment(core, group)
    if status < 0:
        return status
    offset = core.offset
    status = _write_all(core, core.fd, group.parts, group.count, group.bytes, offset)
    if status < 0:
        if _is_no_space(status):
            # What was written of the group is cut off, and the preallocated rest with it.
            if _cut_back(core) < 0:
                return -EIO
        return status
    for i in range(group.count):
        batch = group.batches[i]
        _index_batch(core, batch, offset)
        offset += group.sizes[i]
        core.segment_entries += batch.count
        if batch.kind == ENTRY_REPLICATE:
            if batch.first_index <= core.segment_last_index:
                core.segment_replacements += 1
            core.segment_last_index = batch.first_index + batch.count - 1
            if core.segment_min_index == 0 or batch.first_index < core.segment_min_index:
                core.segment_min_index = batch.first_index
            core.segment_max_index = max(core.segment_max_index, batch.first_index + batch.count - 1)
    core.offset = offset
    return 0


cdef int _sync_group(LogCore* core) noexcept nogil:
    cdef int64_t now
    if core.durability == DURABILITY_FSYNC:
        return _sync(core)
    if core.durability == DURABILITY_INTERVAL:
        now = monotonic_us()
        if core.unsynced_since_us == 0:
            core.unsynced_since_us = now
        elif now - core.unsynced_since_us >= core.interval_us:
            return _sync(core)
    return 0


cdef void _fail_queue(LogCore* core, int error) noexcept nogil:
    """All that is queued is not in the log (K4). Call with the mutex held."""
    cdef Batch* batch
    cdef Epoch* fresh = <Epoch*> calloc(1, sizeof(Epoch))
    if fresh == NULL:
        _poison(core, EIO, b"out of memory after a full disk")
        return
    fresh.references = 1
    core.epoch.error = error
    core.epoch.last_serial = core.written_serial
    core.epoch.last_index = core.written_index
    core.epoch.ended = 1
    epoch_release(core.epoch)
    core.epoch = fresh
    while core.queue_first != NULL:
        batch = core.queue_first
        core.queue_first = batch.next
        core.queued_bytes -= batch_memory(batch)
        batch_release(batch)
    core.queue_last = NULL
    core.next_serial = core.written_serial + 1      # the tokens of before are told apart by their epoch
    kudu_store(&core.next_index, core.written_index + 1)
    core.last_term = core.written_term
    # By serial, not by index: a replacement has the index of what is in the log.
    cache_drop_unwritten(&core.cache, core.written_serial)
    core.no_space_count += 1


cdef void _finish_group(LogCore* core, Group* group, bint synced) noexcept nogil:
    """Take the group off the queue and move the indexes (K1). Call with the mutex held."""
    cdef Batch* batch
    cdef int i
    cdef int64_t last = core.written_index, serial = core.written_serial
    for i in range(group.count):
        batch = core.queue_first
        core.queue_first = batch.next
        core.queued_bytes -= batch_memory(batch)
        core.bytes_written += group.sizes[i]
        if batch.kind == ENTRY_REPLICATE:
            last = batch.first_index + batch.count - 1
            core.written_term = batch.term
        serial = batch.serial
        batch_release(batch)
    if core.queue_first == NULL:
        core.queue_last = NULL
    core.written_index = last
    core.written_serial = serial
    if synced:
        _note_durable(core)
    core.groups += 1
    core.batches_written += group.count
    cache_trim(&core.cache, core.written_index)


cdef void _note_durable(LogCore* core) noexcept nogil:
    """All that is written is synced. Call with the mutex held."""
    core.durable_index = core.written_index
    core.durable_term = core.written_term
    core.durable_serial = core.written_serial


cdef void _show(LogCore* core) noexcept nogil:
    """Let readers see the segment as it is now. The pumper calls it with the mutex held."""
    core.seen_open = core.fd >= 0
    core.seen_sequence = core.sequence
    core.seen_offset = core.offset
    core.seen_min_index = core.segment_min_index
    core.seen_replacements = core.segment_replacements


cdef void _announce(LogCore* core) noexcept nogil:
    """Wake those who wait. Call with the mutex held."""
    cdef uint64_t one = 1
    if core.sync_waiters:
        pthread_cond_broadcast(&core.progress)
    if core.async_waiters and core.event_fd >= 0:
        core.async_waiters = 0          # told once; the event loop asks again if it still waits
        c_write(core.event_fd, &one, 8)


cdef void core_pump(LogCore* core) noexcept nogil:
    pthread_mutex_lock(&core.mutex)
    if not core.pumping:
        _pump(core, core.next_serial - 1)
    pthread_mutex_unlock(&core.mutex)


cdef void _pump(LogCore* core, int64_t last_serial) noexcept nogil:
    """core_pump() when nobody pumps. Call with the mutex held; it is free while the disk is at work.

    Up to the group that has the batch `last_serial`: nobody writes for others for ever. What came meanwhile is the pool's.
    """
    cdef Group group
    cdef int64_t status
    cdef int synced
    cdef bint wrote
    core.pumping = True
    while core.queue_first != NULL and core.queue_first.serial <= last_serial and core.poison_errno == 0:
        _take_group(core, &group)
        pthread_mutex_unlock(&core.mutex)
        status = _write_group(core, &group)
        wrote = status == 0
        if core.scratch_bytes > SCRATCH_BYTES_MAX:
            free(core.scratch)          # one huge batch is no reason to keep as much for ever
            core.scratch = NULL
            core.scratch_bytes = 0
        synced = 0
        if wrote:
            synced = _sync_group(core)
        pthread_mutex_lock(&core.mutex)
        if not wrote:
            if _is_no_space(status):
                if core.unsynced_since_us == 0 and core.durability != DURABILITY_OS:
                    _note_durable(core)     # the cut was synced, and all before it
                _fail_queue(core, <int> -status)
            else:
                _poison(core, <int> -status, b"a write failed")
        elif synced < 0:
            _poison(core, -synced, b"a sync failed")
        else:
            _finish_group(core, &group, core.unsynced_since_us == 0 and core.durability != DURABILITY_OS)
        _show(core)
        _announce(core)
    core.pumping = False
    if core.unsynced_since_us and core.poison_errno == 0:
        _sync_at(core, core.unsynced_since_us + core.interval_us)
    if core.poison_errno:
        _announce(core)
    if core.sync_waiters:
        pthread_cond_broadcast(&core.progress)      # somebody may have to pump now
    if core.queue_first != NULL and core.poison_errno == 0 and not core.closing:
        core_schedule(core)


# -- the pool ----------------------------------------------------------------------------------------------------------
cdef struct Pool:
    pthread_mutex_t mutex           # taken after a log's, never before
    pthread_cond_t ready
    LogCore* first
    LogCore* last
    int count                       # of that list
    LogCore* late_first             # what is to be synced later, the earliest first
    int threads
    int idle
    int threads_max
    int64_t fork_generation

cdef Pool POOL
memset(&POOL, 0, sizeof(Pool))
POOL.threads_max = 4
_init_pool_locks()


cdef void _init_pool_locks() noexcept nogil:
    cdef pthread_condattr_t attributes
    pthread_mutex_init(&POOL.mutex, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&POOL.ready, &attributes)


cdef void _after_fork() noexcept nogil:
    """In the child none of the pool's threads lives, and no log of the parent's may be written."""
    POOL.fork_generation += 1
    _init_pool_locks()
    POOL.first = NULL
    POOL.last = NULL
    POOL.count = 0
    POOL.late_first = NULL
    POOL.threads = 0
    POOL.idle = 0


pthread_atfork(NULL, NULL, _after_fork)


cdef int64_t core_fork_generation() noexcept nogil:
    return POOL.fork_generation


cdef void _call_thread() noexcept nogil:
    """One more thing is to be done. Call with the pool's mutex held."""
    cdef pthread_t thread
    cdef sigset_t everything, before
    if POOL.idle and POOL.count <= POOL.idle:
        pthread_cond_signal(&POOL.ready)
        return
    if POOL.threads >= POOL.threads_max:
        return
    # Signals are for the threads that Python knows.
    sigfillset(&everything)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    if pthread_create(&thread, NULL, _pool_thread, NULL) == 0:
        pthread_detach(thread)
        POOL.threads += 1
    pthread_sigmask(SIG_SETMASK, &before, NULL)


cdef void core_schedule(LogCore* core) noexcept nogil:
    if core.scheduled:
        return
    core.scheduled = True
    core_retain(core)
    pthread_mutex_lock(&POOL.mutex)
    core.pool_next = NULL
    if POOL.last == NULL:
        POOL.first = core
    else:
        POOL.last.pool_next = core
    POOL.last = core
    POOL.count += 1
    _call_thread()
    if POOL.threads == 0:
        # The system gives no thread. Whoever waits writes; the next append tries again.
        POOL.first = NULL
        POOL.last = NULL
        POOL.count = 0
        core.scheduled = False
        kudu_add(&core.references, -1)
    pthread_mutex_unlock(&POOL.mutex)


cdef void _sync_at(LogCore* core, int64_t due_us) noexcept nogil:
    """Let the pool sync the log then (monotonic). Call with its mutex held."""
    cdef LogCore** place = &POOL.late_first
    if core.late_listed:
        return
    core.late_listed = True
    core_retain(core)
    pthread_mutex_lock(&POOL.mutex)
    core.late_due_us = due_us
    while place[0] != NULL and place[0].late_due_us <= due_us:
        place = &place[0].late_next
    core.late_next = place[0]
    place[0] = core
    if POOL.late_first == core:
        _call_thread()              # somebody has to wait until then
    pthread_mutex_unlock(&POOL.mutex)


cdef LogCore* _next_work(bint* late) noexcept nogil:
    """Waits for it. The caller gets the list's reference."""
    cdef LogCore* core = NULL
    cdef timespec until
    pthread_mutex_lock(&POOL.mutex)
    while core == NULL:
        if POOL.late_first != NULL and POOL.late_first.late_due_us <= monotonic_us():
            core = POOL.late_first
            POOL.late_first = core.late_next
            late[0] = True
        elif POOL.first != NULL:
            core = POOL.first
            POOL.first = core.pool_next
            POOL.count -= 1
            if POOL.first == NULL:
                POOL.last = NULL
            late[0] = False
        else:
            POOL.idle += 1
            if POOL.late_first != NULL:
                until = timespec_of(POOL.late_first.late_due_us)
                pthread_cond_timedwait(&POOL.ready, &POOL.mutex, &until)
            else:
                pthread_cond_wait(&POOL.ready, &POOL.mutex)
            POOL.idle -= 1
    pthread_mutex_unlock(&POOL.mutex)
    return core


cdef void* _pool_thread(void* nothing) noexcept nogil:
    cdef LogCore* core
    cdef bint late
    while True:
        core = _next_work(&late)
        if late:
            _sync_late(core)
        else:
            _serve(core)
        core_release(core)
    return NULL


cdef bint _others_wait() noexcept nogil:
    """For a thread of the pool."""
    cdef bint wait
    pthread_mutex_lock(&POOL.mutex)
    wait = POOL.count > POOL.idle \
        or (POOL.late_first != NULL and POOL.idle == 0 and POOL.late_first.late_due_us <= monotonic_us())
    pthread_mutex_unlock(&POOL.mutex)
    return wait


cdef void _serve(LogCore* core) noexcept nogil:
    """Write what the log has queued, a moment later, for there may be more by then; stay until nothing comes any more.

    A caller that waits for each of its batches writes it by itself. To come back for each would cost more than writing it.
    """
    cdef timespec until
    cdef int64_t mark
    cdef bint wanted
    pthread_mutex_lock(&core.mutex)
    while core.poison_errno == 0:
        wanted = core.urgent or core.closing or _is_much(core)
        if core.pumping or not wanted:
            mark = core.next_serial
            until = timespec_of(monotonic_us() + LINGER_US)
            pthread_cond_timedwait(&core.work, &core.mutex, &until)
            if core.queue_first == NULL and core.next_serial == mark:
                break
            wanted = core.urgent or core.closing or _is_much(core) or _others_wait()
            if not wanted and (core.pumping or core.queue_first == NULL or core.queue_first.serial >= mark):
                continue            # what was queued then is written, or somebody writes it
        if core.pumping or core.queue_first == NULL:
            # Whoever pumps has what he leaves scheduled again.
            break
        core.urgent = False
        _pump(core, core.next_serial - 1)
        if _others_wait():
            break
    core.scheduled = False
    if core.queue_first != NULL and not core.pumping and core.poison_errno == 0:
        core_schedule(core)         # behind the others
    pthread_mutex_unlock(&core.mutex)


cdef void _sync_late(LogCore* core) noexcept nogil:
    """DURABILITY_INTERVAL: sync what the last group left unsynced."""
    cdef int status
    pthread_mutex_lock(&core.mutex)
    core.late_listed = False
    # A pumper that is at work lists the log again, if it leaves something unsynced.
    if not core.pumping and core.unsynced_since_us and core.poison_errno == 0:
        core.pumping = True
        pthread_mutex_unlock(&core.mutex)
        status = _sync(core)
        pthread_mutex_lock(&core.mutex)
        core.pumping = False
        if status < 0:
            _poison(core, -status, b"a sync failed")
        else:
            _note_durable(core)
        _announce(core)
        if core.sync_waiters:
            pthread_cond_broadcast(&core.progress)
        if core.queue_first != NULL:
            core_schedule(core)         # what came meanwhile found somebody at work and left
    pthread_mutex_unlock(&core.mutex)


# -- waiting -----------------------------------------------------------------------------------------------------------
cdef TokenState core_wait(LogCore* core, const Epoch* epoch, int64_t serial, int64_t index, int64_t deadline_us,
                          int64_t slice_us) noexcept nogil:
    """Until the operation is acknowledged or failed, the deadline (monotonic) has passed, or so long; pumps if nobody does."""
    cdef int64_t now_us, slice_end_us = 0
    cdef TokenState state
    cdef timespec until
    cdef bint wrote = False
    pthread_mutex_lock(&core.mutex)
    while True:
        state = core_token_state(core, epoch, serial, index)
        if state != TOKEN_PENDING:
            break
        if not wrote and not core.pumping and core.queue_first != NULL:
            _pump(core, core.next_serial - 1 if epoch == NULL else serial)
            wrote = True
            continue
        wrote = False
        now_us = monotonic_us()
        if slice_end_us == 0:
            slice_end_us = min(deadline_us, now_us + slice_us)
        if now_us >= slice_end_us:
            break
        if not core.pumping and core.queue_first != NULL:
            continue
        until = timespec_of(slice_end_us)
        core.sync_waiters += 1
        pthread_cond_timedwait(&core.progress, &core.mutex, &until)
        core.sync_waiters -= 1
    pthread_mutex_unlock(&core.mutex)
    return state


cdef int core_close(LogCore* core, bint seal) noexcept nogil:
    """Write what is queued, sync, and (seal) close the segment with a footer. 0 or -errno. Call once."""
    cdef int status = 0
    cdef bint synced = False
    pthread_mutex_lock(&core.mutex)
    core.closing = True
    pthread_cond_signal(&core.work)
    # Not every pumper empties the queue: one may only owe a sync.
    while core.pumping or (core.queue_first != NULL and core.poison_errno == 0):
        if not core.pumping:
            _pump(core, INT64_MAX)
            continue
        core.sync_waiters += 1
        pthread_cond_wait(&core.progress, &core.mutex)
        core.sync_waiters -= 1
    core.pumping = True             # for good: nobody writes any more
    pthread_mutex_unlock(&core.mutex)
    if core.fd >= 0 and core.poison_errno == 0:
        if core.segment_entries == 0:
            _drop_segment(core)
        elif seal:
            status = _close_segment(core)
            if _is_no_space(status):
                status = 0              # no room for a footer: all entries are there, and opening finds where they end
        elif core.durability != DURABILITY_OS:
            status = _sync(core)
        synced = status == 0 and core.durability != DURABILITY_OS
    _flush_index(core)
    if core.fd >= 0:
        core.ops.close(core.disk, core.fd)
        core.fd = -1
    if core.index_fd >= 0:
        core.ops.close(core.disk, core.index_fd)
        core.index_fd = -1
    pthread_mutex_lock(&core.mutex)
    if status < 0:
        _poison(core, -status, b"closing the segment failed")
    elif synced:
        _note_durable(core)
    core.closed = True
    cache_clear(&core.cache)        # tokens may keep the core for long
    _show(core)
    _announce(core)
    pthread_cond_broadcast(&core.progress)
    pthread_mutex_unlock(&core.mutex)
    return status


cdef void core_poison(LogCore* core, int error, const char* what) noexcept nogil:
    pthread_mutex_lock(&core.mutex)
    _poison(core, error, what)
    _announce(core)
    pthread_mutex_unlock(&core.mutex)


# -- making one --------------------------------------------------------------------------------------------------------
cdef LogCore* core_new(const DiskOps* ops, void* disk, const char* directory) noexcept nogil:
    """A core with one reference and nothing set but what is given; NULL: out of memory."""
    cdef pthread_condattr_t attributes
    cdef LogCore* core = <LogCore*> calloc(1, sizeof(LogCore))
    if core == NULL:
        return NULL
    core.references = 1
    core.next_serial = 1
    core.fd = -1
    core.index_fd = -1
    core.event_fd = -1
    core.ops = ops
    core.disk = disk
    core.fork_generation = POOL.fork_generation
    core.directory = strdup(directory)
    core.epoch = <Epoch*> calloc(1, sizeof(Epoch))
    pthread_mutex_init(&core.mutex, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&core.progress, &attributes)
    pthread_cond_init(&core.work, &attributes)
    if core.directory == NULL or core.epoch == NULL:
        core_release(core)
        return NULL
    core.epoch.references = 1
    return core


def pool_threads():
    """(native threads of the pool, of those idle)."""
    cdef int threads, idle
    pthread_mutex_lock(&POOL.mutex)
    threads, idle = POOL.threads, POOL.idle
    pthread_mutex_unlock(&POOL.mutex)
    return threads, idle
