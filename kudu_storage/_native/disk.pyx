"""The real file system, and a recording one for tests. See disk.pxd.

RecordingDisk performs every call on real files and keeps a list of what was done. From that list a test computes what a crash
at any point may have left: bytes not synced dropped or torn, names not synced undone. It can also fail the k-th call.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINTR, EIO, ENOSPC, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset, strlen

from kudu_storage._native.posix cimport (
    pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_t, pthread_cond_wait,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock,
)

import os

from kudu_storage.errors import DiskError

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char* path, int flags, ...)
    int fallocate(int fd, int mode, int64_t offset, int64_t size)
    enum: O_RDONLY
    enum: O_DIRECTORY
    enum: O_CLOEXEC
    enum: FALLOC_FL_KEEP_SIZE
    enum: FALLOC_FL_PUNCH_HOLE

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int fdatasync(int fd)
    int fsync(int fd)
    int ftruncate(int fd, int64_t size)
    int c_unlink "unlink"(const char* path)
    int64_t c_pwrite "pwrite"(int fd, const void* data, size_t size, int64_t offset)

cdef extern from "<sys/stat.h>" nogil:
    int c_mkdir "mkdir"(const char* path, unsigned int mode)

cdef extern from "<sys/uio.h>" nogil:
    int64_t c_pwritev "pwritev"(int fd, const iovec* parts, int count, int64_t offset)

cdef extern from "<stdio.h>" nogil:
    int c_rename "rename"(const char* source, const char* target)


# -- the real one ------------------------------------------------------------------------------------------------------
cdef int real_open(void* context, const char* path, int flags) noexcept nogil:
    cdef int fd = c_open(path, flags | O_CLOEXEC, 0o644)
    return fd if fd >= 0 else -errno


cdef int real_close(void* context, int fd) noexcept nogil:
    return 0 if c_close(fd) == 0 else -errno


cdef int64_t real_pwritev(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept nogil:
    """Goes on after short writes; `parts` is not changed."""
    cdef int64_t written, done = 0
    cdef int first = 0
    cdef size_t inside = 0
    while first < count:
        if inside or count - first == 1:
            written = c_pwrite(fd, <uint8_t*> parts[first].iov_base + inside, parts[first].iov_len - inside, offset + done)
        else:
            written = c_pwritev(fd, parts + first, min(count - first, 1024), offset + done)
        if written < 0:
            if errno == EINTR:
                continue
            return done if done else -errno
        if written == 0:
            return done if done else -ENOSPC
        done += written
        while first < count and <size_t> written >= parts[first].iov_len - inside:
            written -= <int64_t> (parts[first].iov_len - inside)
            inside = 0
            first += 1
        inside += <size_t> written
    return done


cdef int real_sync(void* context, int fd) noexcept nogil:
    while fdatasync(fd) != 0:
        if errno != EINTR:          # a signal says nothing of the disk
            return -errno
    return 0


cdef int real_allocate(void* context, int fd, int64_t offset, int64_t size) noexcept nogil:
    return 0 if fallocate(fd, 0, offset, size) == 0 else -errno


cdef int real_truncate(void* context, int fd, int64_t size) noexcept nogil:
    return 0 if ftruncate(fd, size) == 0 else -errno


cdef int real_rename(void* context, const char* source, const char* target) noexcept nogil:
    return 0 if c_rename(source, target) == 0 else -errno


cdef int real_unlink(void* context, const char* path) noexcept nogil:
    return 0 if c_unlink(path) == 0 else -errno


cdef int real_sync_dir(void* context, const char* path) noexcept nogil:
    cdef int fd = c_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    cdef int status
    if fd < 0:
        return -errno
    status = 0 if fsync(fd) == 0 else -errno
    c_close(fd)
    return status


cdef int real_punch_hole(void* context, int fd, int64_t offset, int64_t size) noexcept nogil:
    return 0 if fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size) == 0 else -errno


cdef int real_make_dir(void* context, const char* path) noexcept nogil:
    return 0 if c_mkdir(path, 0o755) == 0 else -errno


cdef DiskOps REAL
REAL.open = real_open
REAL.close = real_close
REAL.pwritev = real_pwritev
REAL.sync = real_sync
REAL.allocate = real_allocate
REAL.truncate = real_truncate
REAL.rename = real_rename
REAL.unlink = real_unlink
REAL.sync_dir = real_sync_dir
REAL.punch_hole = real_punch_hole
REAL.make_dir = real_make_dir


cdef class Disk:
    """The file system. Its methods raise DiskError; those that may wait for the disk let other threads run."""

    def __cinit__(self, *arguments, **named):
        self.ops = &REAL
        self.context = NULL

    def open(self, str path not None, int flags):
        """A descriptor. `flags` as for os.open; new files get mode 0644."""
        encoded = os.fsencode(path)
        cdef const char* name = encoded
        cdef int status
        with nogil:
            status = self.ops.open(self.context, name, flags)
        return self._checked(status, "open", path)

    def close(self, int fd):
        cdef int status
        with nogil:
            status = self.ops.close(self.context, fd)
        self._checked(status, "close", None)

    def pwrite(self, int fd, bytes data not None, int64_t offset):
        """Write all of it."""
        self.write(fd, data, offset)

    def write(self, int fd, data, int64_t offset, str path=None):
        """Write all of any bytes-like object. `path` is for the text of an error."""
        cdef iovec part
        cdef int64_t done, written = 0, size
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            size = view.len
            while written < size:
                part.iov_base = <uint8_t*> view.buf + written
                part.iov_len = <size_t> (size - written)
                with nogil:
                    done = self.ops.pwritev(self.context, fd, &part, 1, offset + written)
                written += self._checked(done, "write", path)
        finally:
            PyBuffer_Release(&view)

    def sync(self, int fd, str path=None):
        """Make a file's bytes and size durable. A failure is EIO whatever the system said: space would not help."""
        cdef int status
        with nogil:
            status = self.ops.sync(self.context, fd)
        self._final(status, "sync", path)

    def allocate(self, int fd, int64_t offset, int64_t size, str path=None):
        """Reserve space; the file grows to the end of it."""
        cdef int status
        with nogil:
            status = self.ops.allocate(self.context, fd, offset, size)
        self._checked(status, "allocate", path)

    def punch_hole(self, int fd, int64_t offset, int64_t size, str path=None):
        """Give back the space of a range, which then reads as zeros."""
        cdef int status
        with nogil:
            status = self.ops.punch_hole(self.context, fd, offset, size)
        self._checked(status, "punch a hole", path)

    def make_dir(self, str path not None):
        """A new folder, mode 0755. Its name is durable after sync_dir() of the folder that holds it."""
        encoded = os.fsencode(path)
        cdef const char* name = encoded
        cdef int status
        with nogil:
            status = self.ops.make_dir(self.context, name)
        self._checked(status, "make the folder", path)

    def truncate(self, int fd, int64_t size):
        cdef int status
        with nogil:
            status = self.ops.truncate(self.context, fd, size)
        self._checked(status, "truncate", None)

    def rename(self, str source not None, str target not None):
        encoded_source, encoded_target = os.fsencode(source), os.fsencode(target)
        cdef const char* old = encoded_source
        cdef const char* new = encoded_target
        cdef int status
        with nogil:
            status = self.ops.rename(self.context, old, new)
        self._checked(status, "rename", source)

    def unlink(self, str path not None):
        encoded = os.fsencode(path)
        cdef const char* name = encoded
        cdef int status
        with nogil:
            status = self.ops.unlink(self.context, name)
        self._checked(status, "remove", path)

    def sync_dir(self, str path not None):
        """Make the names in a directory durable."""
        encoded = os.fsencode(path)
        cdef const char* name = encoded
        cdef int status
        with nogil:
            status = self.ops.sync_dir(self.context, name)
        self._final(status, "sync the directory", path)

    def _final(self, int status, str what, path):
        try:
            self._checked(status, what, path)
        except DiskError as error:
            error.errno = EIO
            raise

    def _checked(self, int64_t status, str what, path):
        if status < 0:
            error = DiskError(f"cannot {what}: {os.strerror(-status)}", path=path)
            error.errno = -status
            raise error
        return status


# -- the recording one -------------------------------------------------------------------------------------------------
cdef enum:
    CALL_OPEN = 1
    CALL_CLOSE = 2
    CALL_WRITE = 3
    CALL_SYNC = 4
    CALL_ALLOCATE = 5
    CALL_TRUNCATE = 6
    CALL_RENAME = 7
    CALL_UNLINK = 8
    CALL_SYNC_DIR = 9
    CALL_PUNCH_HOLE = 10
    CALL_MAKE_DIR = 11

CALL_NAMES = {CALL_OPEN: "open", CALL_CLOSE: "close", CALL_WRITE: "write", CALL_SYNC: "sync", CALL_ALLOCATE: "allocate",
              CALL_TRUNCATE: "truncate", CALL_RENAME: "rename", CALL_UNLINK: "unlink", CALL_SYNC_DIR: "sync_dir",
              CALL_PUNCH_HOLE: "punch_hole", CALL_MAKE_DIR: "make_dir"}

cdef struct Call:
    int kind
    int fd
    int status              # what it returned: 0, a descriptor, or -errno
    int flags
    int64_t offset
    int64_t size
    uint8_t* data           # bytes written, or "path" / "old\0new"
    size_t data_bytes

cdef struct Recorder:
    pthread_mutex_t mutex
    Call* calls
    size_t count
    size_t capacity
    int64_t attempts[16]    # by kind
    int64_t fail_at[16]     # the attempt of that kind that fails; 0: none
    int fail_errno[16]
    int64_t fail_partial[16]    # a failing write writes this many bytes first
    bint fail_on[16]        # and every later attempt fails too
    int held[16]            # so many more calls of that kind wait; -1: all
    int64_t releases
    int waiting             # so many do
    pthread_cond_t released


cdef bint _fails(Recorder* recorder, int kind) noexcept nogil:
    """Counts the attempt, after waiting while such calls are held. Call with the mutex held."""
    cdef int64_t release = recorder.releases
    if recorder.held[kind]:
        if recorder.held[kind] > 0:
            recorder.held[kind] -= 1
        recorder.waiting += 1
        while recorder.releases == release:
            pthread_cond_wait(&recorder.released, &recorder.mutex)
        recorder.waiting -= 1
    recorder.attempts[kind] += 1
    if recorder.fail_at[kind] == 0:
        return False
    return recorder.attempts[kind] == recorder.fail_at[kind] \
        or (recorder.fail_on[kind] and recorder.attempts[kind] > recorder.fail_at[kind])


cdef void _note(Recorder* recorder, int kind, int fd, int status, int flags, int64_t offset, int64_t size,
                const uint8_t* data, size_t data_bytes) noexcept nogil:
    cdef Call* call
    cdef Call* calls
    if recorder.count == recorder.capacity:
        calls = <Call*> realloc(recorder.calls, (recorder.capacity * 2 + 64) * sizeof(Call))
        if calls == NULL:
            return
        recorder.calls = calls
        recorder.capacity = recorder.capacity * 2 + 64
    call = &recorder.calls[recorder.count]
    memset(call, 0, sizeof(Call))
    call.kind = kind
    call.fd = fd
    call.status = status
    call.flags = flags
    call.offset = offset
    call.size = size
    if data_bytes:
        call.data = <uint8_t*> malloc(data_bytes)
        if call.data != NULL:
            memcpy(call.data, data, data_bytes)
            call.data_bytes = data_bytes
    recorder.count += 1


cdef int recording_open(void* context, const char* path, int flags) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    status = -recorder.fail_errno[CALL_OPEN] if _fails(recorder, CALL_OPEN) else real_open(NULL, path, flags)
    _note(recorder, CALL_OPEN, status, status, flags, 0, 0, <const uint8_t*> path, strlen(path))
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef int recording_close(void* context, int fd) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    status = real_close(NULL, fd)
    _note(recorder, CALL_CLOSE, fd, status, 0, 0, 0, NULL, 0)
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef int64_t recording_pwritev(void* context, int fd, const iovec* parts, int count, int64_t offset) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef size_t total = 0, room
    cdef uint8_t* joined
    cdef int64_t status
    cdef iovec part
    cdef int i
    for i in range(count):
        total += parts[i].iov_len
    joined = <uint8_t*> malloc(total + 1)
    if joined == NULL:
        return -ENOSPC
    room = 0
    for i in range(count):
        memcpy(joined + room, parts[i].iov_base, parts[i].iov_len)
        room += parts[i].iov_len
    pthread_mutex_lock(&recorder.mutex)
    if _fails(recorder, CALL_WRITE):
        total = min(total, <size_t> recorder.fail_partial[CALL_WRITE])
        status = -recorder.fail_errno[CALL_WRITE]
    else:
        status = <int64_t> total
    if total:
        part.iov_base = joined
        part.iov_len = total
        if status < 0:
            real_pwritev(NULL, fd, &part, 1, offset)        # a part was written, and nobody is told how much
        else:
            status = real_pwritev(NULL, fd, &part, 1, offset)
    _note(recorder, CALL_WRITE, fd, <int> status, 0, offset, <int64_t> total, joined, total)
    pthread_mutex_unlock(&recorder.mutex)
    free(joined)
    return status


cdef int _file_call(void* context, int kind, int fd, int64_t offset, int64_t size) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    if _fails(recorder, kind):
        status = -recorder.fail_errno[kind]
    elif kind == CALL_SYNC:
        status = 0          # durability is what the recording says; the real call would only cost time
    elif kind == CALL_ALLOCATE:
        status = real_allocate(NULL, fd, offset, size)
    elif kind == CALL_PUNCH_HOLE:
        status = real_punch_hole(NULL, fd, offset, size)
    else:
        status = real_truncate(NULL, fd, size)
    _note(recorder, kind, fd, status, 0, offset, size, NULL, 0)
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef int recording_sync(void* context, int fd) noexcept nogil:
    return _file_call(context, CALL_SYNC, fd, 0, 0)


cdef int recording_allocate(void* context, int fd, int64_t offset, int64_t size) noexcept nogil:
    return _file_call(context, CALL_ALLOCATE, fd, offset, size)


cdef int recording_truncate(void* context, int fd, int64_t size) noexcept nogil:
    return _file_call(context, CALL_TRUNCATE, fd, 0, size)


cdef int recording_punch_hole(void* context, int fd, int64_t offset, int64_t size) noexcept nogil:
    return _file_call(context, CALL_PUNCH_HOLE, fd, offset, size)


cdef int recording_rename(void* context, const char* source, const char* target) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    cdef size_t first = strlen(source), second = strlen(target)
    cdef uint8_t* names = <uint8_t*> malloc(first + second + 1)
    if names == NULL:
        return -ENOSPC
    memcpy(names, source, first + 1)
    memcpy(names + first + 1, target, second)
    pthread_mutex_lock(&recorder.mutex)
    status = -recorder.fail_errno[CALL_RENAME] if _fails(recorder, CALL_RENAME) else real_rename(NULL, source, target)
    _note(recorder, CALL_RENAME, -1, status, 0, 0, 0, names, first + second + 1)
    pthread_mutex_unlock(&recorder.mutex)
    free(names)
    return status


cdef int recording_unlink(void* context, const char* path) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    status = -recorder.fail_errno[CALL_UNLINK] if _fails(recorder, CALL_UNLINK) else real_unlink(NULL, path)
    _note(recorder, CALL_UNLINK, -1, status, 0, 0, 0, <const uint8_t*> path, strlen(path))
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef int recording_sync_dir(void* context, const char* path) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    status = -recorder.fail_errno[CALL_SYNC_DIR] if _fails(recorder, CALL_SYNC_DIR) else 0
    _note(recorder, CALL_SYNC_DIR, -1, status, 0, 0, 0, <const uint8_t*> path, strlen(path))
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef int recording_make_dir(void* context, const char* path) noexcept nogil:
    cdef Recorder* recorder = <Recorder*> context
    cdef int status
    pthread_mutex_lock(&recorder.mutex)
    status = -recorder.fail_errno[CALL_MAKE_DIR] if _fails(recorder, CALL_MAKE_DIR) else real_make_dir(NULL, path)
    _note(recorder, CALL_MAKE_DIR, -1, status, 0, 0, 0, <const uint8_t*> path, strlen(path))
    pthread_mutex_unlock(&recorder.mutex)
    return status


cdef DiskOps RECORDING
RECORDING.open = recording_open
RECORDING.close = recording_close
RECORDING.pwritev = recording_pwritev
RECORDING.sync = recording_sync
RECORDING.allocate = recording_allocate
RECORDING.truncate = recording_truncate
RECORDING.rename = recording_rename
RECORDING.unlink = recording_unlink
RECORDING.sync_dir = recording_sync_dir
RECORDING.punch_hole = recording_punch_hole
RECORDING.make_dir = recording_make_dir


cdef class RecordingDisk(Disk):
    """A Disk for tests; see the module's head."""
    cdef Recorder* recorder

    def __cinit__(self):
        self.recorder = <Recorder*> malloc(sizeof(Recorder))
        if self.recorder == NULL:
            raise MemoryError()
        memset(self.recorder, 0, sizeof(Recorder))
        pthread_mutex_init(&self.recorder.mutex, NULL)
        pthread_cond_init(&self.recorder.released, NULL)
        self.ops = &RECORDING
        self.context = self.recorder

    def __dealloc__(self):
        cdef size_t i
        if self.recorder != NULL:
            for i in range(self.recorder.count):
                free(self.recorder.calls[i].data)
            free(self.recorder.calls)
            pthread_cond_destroy(&self.recorder.released)
            pthread_mutex_destroy(&self.recorder.mutex)
            free(self.recorder)

    def fail(self, str kind, int64_t attempt, int error, *, int64_t partial=0, bint onwards=False):
        """Let the `attempt`-th call of `kind` from now on fail with `error` (an errno), and all later ones if `onwards`.

        A failing write may write `partial` bytes first. attempt 0 lets calls of the kind succeed again.
        """
        cdef int number = {name: k for k, name in CALL_NAMES.items()}[kind]
        pthread_mutex_lock(&self.recorder.mutex)
        self.recorder.fail_at[number] = self.recorder.attempts[number] + attempt if attempt else 0
        self.recorder.fail_errno[number] = error
        self.recorder.fail_partial[number] = partial
        self.recorder.fail_on[number] = onwards
        pthread_mutex_unlock(&self.recorder.mutex)

    def hold(self, str kind, int calls=-1):
        """Let calls of `kind`, or the next so many, wait until release(): a disk that hangs."""
        pthread_mutex_lock(&self.recorder.mutex)
        self.recorder.held[{name: k for k, name in CALL_NAMES.items()}[kind]] = calls
        pthread_mutex_unlock(&self.recorder.mutex)

    def release(self):
        """Let all calls go on."""
        pthread_mutex_lock(&self.recorder.mutex)
        memset(self.recorder.held, 0, sizeof(self.recorder.held))
        self.recorder.releases += 1
        pthread_cond_broadcast(&self.recorder.released)
        pthread_mutex_unlock(&self.recorder.mutex)

    @property
    def waiting(self):
        """How many calls are held now."""
        pthread_mutex_lock(&self.recorder.mutex)
        try:
            return self.recorder.waiting
        finally:
            pthread_mutex_unlock(&self.recorder.mutex)

    def attempts(self, str kind):
        """How many calls of `kind` were made."""
        cdef int number = {name: k for k, name in CALL_NAMES.items()}[kind]
        cdef int64_t count
        pthread_mutex_lock(&self.recorder.mutex)
        count = self.recorder.attempts[number]
        pthread_mutex_unlock(&self.recorder.mutex)
        return count

    def __len__(self):
        cdef size_t count
        pthread_mutex_lock(&self.recorder.mutex)
        count = self.recorder.count
        pthread_mutex_unlock(&self.recorder.mutex)
        return count

    def calls(self):
        """(kind, fd, status, flags, offset, size, data) of every call so far, in order."""
        cdef size_t i
        cdef Call call
        found = []
        for i in range(<size_t> len(self)):
            # One by one, and objects are made without the mutex: that can start the collector, which may close a log.
            pthread_mutex_lock(&self.recorder.mutex)
            call = self.recorder.calls[i]
            pthread_mutex_unlock(&self.recorder.mutex)
            data = PyBytes_FromStringAndSize(<const char*> call.data, call.data_bytes) if call.data != NULL else b""
            found.append((CALL_NAMES[call.kind], call.fd, call.status, call.flags, call.offset, call.size, data))
        return found
