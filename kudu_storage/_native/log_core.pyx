"""The writing half of a log: queue, group commit, segments, in Kudu's format (docs/formats/wal.md). See log_core.pxd.

A group is what is queued when a pump begins, up to 4 MiB or the segment's end: one pwritev, one sync. Whoever waits and finds
nobody pumping pumps; else the pool's threads do. Order is kept, because there is one pumper at a time.

K1  written_serial and durable_serial never go back, and durable_serial <= written_serial < next_serial. The indexes of the
    last operation written and durable go with them; they go back only when Raft replaces operations.
K2  A batch is acknowledged only in order, and (DURABILITY_FSYNC) only after a sync that came after its write (W1).
K3  After a failed sync, or a failed write other than for want of space, nothing is acknowledged any more (W2).
K4  Out of space: the file is cut to the last whole entry, all that is queued fails in order, appending may go on (W6).
K5  A segment's name is durable before an entry in it is acknowledged (W4; not for DURABILITY_OS).
K6  What readers see is one history at any time: operations that a group replaces are void from the moment it is written.
K7  Making a segment ahead of need never fails the log, and holds no thread that another log needs. There is none when the log
    is closed, poisoned or full, and none for long when it is idle.
"""
from libc.errno cimport EIO, ENOMEM
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
from kudu_storage._native.log_segment cimport (
    FIRST_ALLOCATION, OUT_OF_MEMORY, PATH_BYTES, ahead_remove, ahead_rename, ahead_step, header_bytes, is_no_space,
    make_segment, of_sync, segment_name, write_all,
)
from kudu_storage._native.log_voids cimport voids_add, voids_release
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

cdef enum:
    GROUP_BYTES_MAX = 4 << 20
    GROUP_BATCHES_MAX = 1000            # IOV_MAX is 1024
    FOOTER_ROOM = 64
    INDEX_SLOT_BYTES = 24
    INDEX_CHUNK_SLOTS = 1000000
    INDEX_BUFFER_SLOTS = 4096
    AHEAD_SHARE = 4                     # the next segment is made when a quarter of this one is full
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
    if core.ahead.fd >= 0:
        core.ops.close(core.disk, core.ahead.fd)
    voids_release(core.voids)
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


cdef inline bint _is_wanted(const LogCore* core) noexcept nogil:
    """Whether what is queued is to be written without a reason from elsewhere. Call with the mutex held."""
    return core.queue_first != NULL and core.queue_first.serial <= core.eager_serial


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
        core.eager_serial = batch.serial
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


cdef int _sync(LogCore* core) noexcept nogil:
    cdef int status = of_sync(core.ops.sync(core.disk, core.fd))
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
    status = write_all(core, core.fd, &part, 1, <int64_t> part.iov_len, core.offset)
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
    if status < 0 and is_no_space(status):
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
    """The next segment with its header, under its own name: the one made ahead, or one made now (K5). 0, -errno or
    OUT_OF_MEMORY."""
    cdef int64_t sequence = core.sequence + 1
    cdef int64_t header = header_bytes(core, sequence), allocated = header
    cdef int status = 0
    cdef int fd = _take_ahead(core, sequence, &allocated)
    if fd < 0:
        fd = make_segment(core, sequence)
    elif core.durability != DURABILITY_OS:
        status = of_sync(core.ops.sync_dir(core.disk, core.directory))
    if fd < 0 or status < 0:
        if fd >= 0:
            core.ops.close(core.disk, fd)
        return fd if fd < 0 else status
    core.fd = fd
    core.sequence = sequence
    core.offset = header
    core.allocated = allocated
    core.calm_offset = 0
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
    segment_name(core, core.sequence, name)
    core.ops.close(core.disk, core.fd)
    core.fd = -1
    if core.ops.unlink(core.disk, name) == 0:
        core.sequence -= 1


cdef int _make_room(LogCore* core, int64_t size) noexcept nogil:
    """Allocate ahead of the write: little for a log that is used little, the whole segment for a busy one, in which more than
    that came since it was idle, or was new."""
    cdef int64_t wanted = core.offset + size, target
    cdef int status
    if wanted <= core.allocated:
        return 0
    target = core.calm_offset + FIRST_ALLOCATION
    if wanted > target or target > core.segment_bytes:
        target = max(core.segment_bytes, wanted)
    status = core.ops.allocate(core.disk, core.fd, core.allocated, target - core.allocated)
    if status < 0:
        # A file system without fallocate: the write itself finds out whether there is room.
        return status if is_no_space(status) else 0
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
    """Headers, checksums, LZ4. 0 or OUT_OF_MEMORY."""
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
                return OUT_OF_MEMORY
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
                return OUT_OF_MEMORY
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
        core.rolls += 1
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
    """0: written; -errno or OUT_OF_MEMORY. On failure for want of space the file is cut back (K4)."""
    cdef int64_t status, offset = core.offset
    cdef Batch* batch
    cdef int i
    status = _encode(core, group)
    if status < 0:
        return status
    status = _ensure_segment(core, group)
    if status < 0:
        return status
    offset = core.offset
    status = write_all(core, core.fd, group.parts, group.count, group.bytes, offset)
    if status < 0:
        if is_no_space(status):
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
    """All that is queued is not in the log, for want of space or memory (K4). Call with the mutex held."""
    cdef Batch* batch
    cdef Epoch* fresh = <Epoch*> calloc(1, sizeof(Epoch))
    if fresh == NULL:
        _poison(core, EIO, b"out of memory while all that was queued failed")
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
    core.eager_serial = core.written_serial
    kudu_store(&core.next_index, core.written_index + 1)
    core.last_term = core.written_term
    # By serial, not by index: a replacement has the index of what is in the log.
    cache_drop_unwritten(&core.cache, core.written_serial)
    core.refusals += 1
    core.refusal_errno = error
    if error != ENOMEM:
        core.no_space_count += 1


cdef void _finish_group(LogCore* core, Group* group, bint synced) noexcept nogil:
    """Take the group off the queue, move the indexes (K1) and say what it replaced (K6). Call with the mutex held."""
    cdef Batch* batch
    cdef int i
    cdef int64_t last = core.written_index, serial = core.written_serial
    for i in range(group.count):
        batch = core.queue_first
        core.queue_first = batch.next
        core.queued_bytes -= batch_memory(batch)
        core.bytes_written += group.sizes[i]
        if batch.kind == ENTRY_REPLICATE:
            if batch.first_index <= last and core.voids != NULL:
                voids_add(core.voids, batch.first_index - 1, True)
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
    cdef bint wrote, refused = False
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
            if is_no_space(status) or status == OUT_OF_MEMORY:
                if core.unsynced_since_us == 0 and core.durability != DURABILITY_OS:
                    _note_durable(core)     # the cut was synced, and all before it
                _fail_queue(core, ENOMEM if status == OUT_OF_MEMORY else <int> -status)
                refused = True
            else:
                _poison(core, <int> -status, b"a write failed")
        elif synced < 0:
            _poison(core, -synced, b"a sync failed")
        else:
            _finish_group(core, &group, core.unsynced_since_us == 0 and core.durability != DURABILITY_OS)
            _want_ahead(core)
        _show(core)
        _announce(core)
    core.pumping = False
    if core.unsynced_since_us and core.poison_errno == 0:
        _list_due(core, &core.sync_due, core.unsynced_since_us + core.interval_us)
    if core.poison_errno:
        _announce(core)
    if core.sync_waiters:
        pthread_cond_broadcast(&core.progress)      # somebody may have to pump now
    if _is_wanted(core) and core.poison_errno == 0 and not core.closing:
        core_schedule(core)
    if refused or core.poison_errno:
        _drop_ahead(core)           # its space may be what is wanted
    elif core.fd >= 0 and core.allocated - core.offset > FIRST_ALLOCATION and not core.closing:
        _watch(core)


# -- the next segment, ahead of need -----------------------------------------------------------------------------------
cdef void _want_ahead(LogCore* core) noexcept nogil:
    """Have the next segment made, if this log is busy: the whole segment is allocated, a good part of it is full, and it is
    not the first one. Not for segments that are no more than what an idle log may hold. The pumper calls it, with the mutex
    held."""
    if core.ahead.state != AHEAD_NONE or core.rolls == 0 or core.segment_bytes <= FIRST_ALLOCATION \
            or core.allocated < core.segment_bytes or core.offset < core.segment_bytes // AHEAD_SHARE \
            or core.ahead.tried_sequence == core.sequence + 1 or core.closing:
        return
    core.ahead.sequence = core.ahead.tried_sequence = core.sequence + 1
    core.ahead.state = AHEAD_WANTED
    _list_ahead(core)


cdef void _make_ahead(LogCore* core, bint gives_way) noexcept nogil:
    """Go on with it, if it is wanted. `gives_way`: not while another log wants this thread. Call with the mutex held; it is free
    while the disk is at work."""
    cdef int status = 0
    if core.ahead.state != AHEAD_WANTED:
        return
    core.ahead.state = AHEAD_BUSY
    while status == 0 and not (core.ahead.unwanted or core.closing or core.poison_errno):
        if gives_way and _others_wait():
            core.ahead.state = AHEAD_WANTED
            _list_ahead(core)
            return
        pthread_mutex_unlock(&core.mutex)
        status = ahead_step(core)
        pthread_mutex_lock(&core.mutex)
    if status == 1 and not (core.ahead.unwanted or core.closing or core.poison_errno):
        core.ahead.state = AHEAD_READY
        _watch(core)
    else:
        _remove_ahead(core)


cdef void _remove_ahead(LogCore* core) noexcept nogil:
    """Of who made it AHEAD_BUSY. Call with the mutex held; it is free while the disk is at work."""
    pthread_mutex_unlock(&core.mutex)
    ahead_remove(core)
    pthread_mutex_lock(&core.mutex)
    _ahead_is_none(core)


cdef void _ahead_is_none(LogCore* core) noexcept nogil:
    core.ahead.state = AHEAD_NONE
    core.ahead.unwanted = False
    if core.sync_waiters:
        pthread_cond_broadcast(&core.progress)      # close() waits for it


cdef void _drop_ahead(LogCore* core) noexcept nogil:
    """It is not wanted any more. Whoever is at work with it removes it. Call with the mutex held; it may be free meanwhile."""
    if core.ahead.state == AHEAD_BUSY:
        core.ahead.unwanted = True
    elif core.ahead.fd >= 0:
        core.ahead.state = AHEAD_BUSY
        _remove_ahead(core)
    else:
        core.ahead.state = AHEAD_NONE


cdef int _take_ahead(LogCore* core, int64_t sequence, int64_t* allocated) noexcept nogil:
    """For a roll: the descriptor of the segment made ahead, which has its name now. -1: there is none, or it could not get it."""
    cdef int fd = -1
    pthread_mutex_lock(&core.mutex)
    if core.ahead.state == AHEAD_READY and core.ahead.sequence == sequence and not core.ahead.unwanted:
        core.ahead.state = AHEAD_BUSY
        pthread_mutex_unlock(&core.mutex)
        fd = ahead_rename(core)
        pthread_mutex_lock(&core.mutex)
        if fd >= 0:
            allocated[0] = core.ahead.allocated
            core.rolls_ahead += 1
        _ahead_is_none(core)
    else:
        _drop_ahead(core)           # too late
    pthread_mutex_unlock(&core.mutex)
    return -1 if fd < 0 else fd


cdef bint core_prepare(LogCore* core) noexcept nogil:
    cdef bint ready
    pthread_mutex_lock(&core.mutex)
    if core.ahead.state == AHEAD_NONE and not core.closing and core.poison_errno == 0:
        # A roll that is under way drops it: its number is taken then.
        core.ahead.sequence = core.ahead.tried_sequence = core.seen_sequence + 1
        core.ahead.state = AHEAD_WANTED
    _make_ahead(core, False)
    ready = core.ahead.state == AHEAD_READY
    pthread_mutex_unlock(&core.mutex)
    return ready


# -- the pool ----------------------------------------------------------------------------------------------------------
cdef struct Pool:
    pthread_mutex_t mutex           # taken after a log's, never before
    pthread_cond_t ready
    LogCore* first
    LogCore* last
    int count                       # of that list
    LogCore* ahead_first            # whose next segment is to be made
    LogCore* ahead_last
    bint making                     # one thread does that
    Due* due_first                  # what is to be done at some time, the earliest first
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
    POOL.ahead_first = NULL
    POOL.ahead_last = NULL
    POOL.making = False
    POOL.due_first = NULL
    POOL.threads = 0
    POOL.idle = 0


pthread_atfork(NULL, NULL, _after_fork)


cdef int64_t core_fork_generation() noexcept nogil:
    return POOL.fork_generation


cdef void _call_thread() noexcept nogil:
    """One more thing is to be done. Call with the pool's mutex held."""
    if POOL.idle and POOL.count <= POOL.idle:
        pthread_cond_signal(&POOL.ready)
    else:
        _add_thread()


cdef void _add_thread() noexcept nogil:
    """If there may be one more. Call with the pool's mutex held."""
    cdef pthread_t thread
    cdef sigset_t everything, before
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


cdef void _list_ahead(LogCore* core) noexcept nogil:
    """Let a thread of the pool make the next segment. Call with the log's mutex held."""
    if core.ahead.listed:
        return
    core.ahead.listed = True
    core_retain(core)
    pthread_mutex_lock(&POOL.mutex)
    core.ahead_next = NULL
    if POOL.ahead_last == NULL:
        POOL.ahead_first = core
    else:
        POOL.ahead_last.ahead_next = core
    POOL.ahead_last = core
    if POOL.idle > POOL.count:
        pthread_cond_signal(&POOL.ready)
    else:
        _add_thread()
    if POOL.threads == 0:
        # The system gives no thread: then none is made ahead.
        POOL.ahead_first = NULL
        POOL.ahead_last = NULL
        core.ahead.listed = False
        core.ahead.state = AHEAD_NONE
        kudu_add(&core.references, -1)
    pthread_mutex_unlock(&POOL.mutex)


cdef void _list_due(LogCore* core, Due* due, int64_t at_us) noexcept nogil:
    """Let the pool do it then (monotonic), if it is not listed. Call with the log's mutex held."""
    cdef Due** place = &POOL.due_first
    if due.listed:
        return
    due.listed = True
    due.core = core
    core_retain(core)
    pthread_mutex_lock(&POOL.mutex)
    due.at_us = at_us
    while place[0] != NULL and place[0].at_us <= at_us:
        place = &place[0].next
    due.next = place[0]
    place[0] = due
    if POOL.due_first == due:
        _call_thread()              # somebody has to wait until then
    pthread_mutex_unlock(&POOL.mutex)


cdef void _watch(LogCore* core) noexcept nogil:
    """See in a while whether the log is idle. Call with the mutex held."""
    if not core.idle_due.listed:
        core.idle_groups = core.groups
        _list_due(core, &core.idle_due, monotonic_us() + core.idle_us)


# What a thread of the pool may have to do for a log.
cdef enum Work:
    WORK_QUEUE
    WORK_AHEAD
    WORK_SYNC
    WORK_REST


cdef inline bint _may_make() noexcept nogil:
    """One thread at a time makes segments ahead, and only while there is another one for what is queued. Call with the pool's
    mutex held."""
    return POOL.ahead_first != NULL and not POOL.making and (POOL.idle > 0 or POOL.threads < POOL.threads_max)


cdef LogCore* _next_work(Work* work) noexcept nogil:
    """Waits for it. The caller gets the list's reference."""
    cdef LogCore* core = NULL
    cdef Due* due
    cdef timespec until
    pthread_mutex_lock(&POOL.mutex)
    while core == NULL:
        if POOL.due_first != NULL and POOL.due_first.at_us <= monotonic_us():
            due = POOL.due_first
            POOL.due_first = due.next
            core = due.core
            work[0] = WORK_SYNC if due == &core.sync_due else WORK_REST
        elif POOL.first != NULL:
            core = POOL.first
            POOL.first = core.pool_next
            POOL.count -= 1
            if POOL.first == NULL:
                POOL.last = NULL
            work[0] = WORK_QUEUE
        elif _may_make():
            core = POOL.ahead_first
            POOL.ahead_first = core.ahead_next
            if POOL.ahead_first == NULL:
                POOL.ahead_last = NULL
            POOL.making = True
            work[0] = WORK_AHEAD
        else:
            POOL.idle += 1
            if POOL.due_first != NULL:
                until = timespec_of(POOL.due_first.at_us)
                pthread_cond_timedwait(&POOL.ready, &POOL.mutex, &until)
            else:
                pthread_cond_wait(&POOL.ready, &POOL.mutex)
            POOL.idle -= 1
    pthread_mutex_unlock(&POOL.mutex)
    return core


cdef void* _pool_thread(void* nothing) noexcept nogil:
    cdef LogCore* core
    cdef Work work
    while True:
        core = _next_work(&work)
        if work == WORK_QUEUE:
            _serve(core)
        elif work == WORK_SYNC:
            _sync_late(core)
        elif work == WORK_REST:
            _rest(core)
        else:
            _serve_ahead(core)
        core_release(core)
    return NULL


cdef void _serve_ahead(LogCore* core) noexcept nogil:
    pthread_mutex_lock(&core.mutex)
    core.ahead.listed = False
    _make_ahead(core, True)
    pthread_mutex_unlock(&core.mutex)
    pthread_mutex_lock(&POOL.mutex)
    POOL.making = False
    pthread_mutex_unlock(&POOL.mutex)


cdef bint _others_wait() noexcept nogil:
    """For a thread of the pool."""
    cdef bint wait
    pthread_mutex_lock(&POOL.mutex)
    wait = POOL.count > POOL.idle \
        or (POOL.due_first != NULL and POOL.idle == 0 and POOL.due_first.at_us <= monotonic_us())
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
            if not _is_wanted(core) and core.next_serial == mark:
                break
            wanted = core.urgent or core.closing or _is_much(core) or _others_wait()
            if not wanted and (core.pumping or core.queue_first == NULL or core.queue_first.serial >= mark):
                continue            # what was queued then is written, or somebody writes it
        if core.pumping or core.queue_first == NULL or not (core.closing or _is_wanted(core)):
            # Whoever pumps has what he leaves scheduled again.
            break
        core.urgent = False
        _pump(core, core.next_serial - 1)
        if _others_wait():
            break
    core.scheduled = False
    if _is_wanted(core) and not core.pumping and core.poison_errno == 0:
        core_schedule(core)         # behind the others
    pthread_mutex_unlock(&core.mutex)


cdef void _sync_late(LogCore* core) noexcept nogil:
    """DURABILITY_INTERVAL: sync what the last group left unsynced."""
    cdef int status
    pthread_mutex_lock(&core.mutex)
    core.sync_due.listed = False
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
        _let_others_pump(core)
        if core.poison_errno:
            _drop_ahead(core)
    pthread_mutex_unlock(&core.mutex)


cdef void _let_others_pump(LogCore* core) noexcept nogil:
    """Who came meanwhile found somebody at work, and left or waits. Call with the mutex held."""
    if core.sync_waiters:
        pthread_cond_broadcast(&core.progress)
    if _is_wanted(core):
        core_schedule(core)


cdef void _rest(LogCore* core) noexcept nogil:
    """A log in which no group was written for a while holds no more space than a new one (K7)."""
    cdef int64_t keep
    pthread_mutex_lock(&core.mutex)
    core.idle_due.listed = False
    if core.closing or core.poison_errno:
        pass
    elif core.pumping or core.queue_first != NULL or core.groups != core.idle_groups:
        _watch(core)
    else:
        core.ahead.tried_sequence = 0
        _drop_ahead(core)
        # The mutex was free perhaps.
        keep = core.offset + FIRST_ALLOCATION
        if not core.pumping and core.queue_first == NULL and core.fd >= 0 and core.poison_errno == 0:
            core.calm_offset = core.offset
            if core.allocated > keep:
                core.pumping = True
                pthread_mutex_unlock(&core.mutex)
                if core.ops.truncate(core.disk, core.fd, keep) == 0:
                    core.allocated = keep
                pthread_mutex_lock(&core.mutex)
                core.pumping = False
                _let_others_pump(core)
        if core.ahead.state != AHEAD_NONE:
            _watch(core)
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
    _drop_ahead(core)
    while core.ahead.state != AHEAD_NONE:
        core.sync_waiters += 1
        pthread_cond_wait(&core.progress, &core.mutex)
        core.sync_waiters -= 1
    pthread_mutex_unlock(&core.mutex)
    if core.fd >= 0 and core.poison_errno == 0:
        if core.segment_entries == 0:
            _drop_segment(core)
        elif seal:
            status = _close_segment(core)
            if is_no_space(status):
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
    # Tokens and the pool's lists may keep the core for a while.
    free(core.scratch)
    core.scratch = NULL
    core.scratch_bytes = 0
    free(core.index_slots)
    core.index_slots = NULL
    pthread_mutex_lock(&core.mutex)
    if status < 0:
        _poison(core, -status, b"closing the segment failed")
    elif synced:
        _note_durable(core)
    core.closed = True
    cache_clear(&core.cache)
    _show(core)
    _announce(core)
    pthread_cond_broadcast(&core.progress)
    pthread_mutex_unlock(&core.mutex)
    return status


cdef void core_poison(LogCore* core, int error, const char* what) noexcept nogil:
    pthread_mutex_lock(&core.mutex)
    _poison(core, error, what)
    _announce(core)
    _drop_ahead(core)
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
    core.ahead.fd = -1
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
