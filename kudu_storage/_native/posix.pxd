"""The few POSIX calls that several native modules need."""
from libc.stdint cimport int64_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    ctypedef unsigned long pthread_t
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_condattr_init(pthread_condattr_t* attributes)
    int pthread_condattr_setclock(pthread_condattr_t* attributes, int clock)
    int pthread_cond_init(pthread_cond_t* cond, pthread_condattr_t* attributes)
    int pthread_cond_destroy(pthread_cond_t* cond)
    int pthread_cond_signal(pthread_cond_t* cond)
    int pthread_cond_broadcast(pthread_cond_t* cond)
    int pthread_cond_wait(pthread_cond_t* cond, pthread_mutex_t* mutex)
    int pthread_cond_timedwait(pthread_cond_t* cond, pthread_mutex_t* mutex, const timespec* until)
    int pthread_create(pthread_t* thread, void* attributes, void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_detach(pthread_t thread)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)
    enum: SIG_SETMASK

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    enum: CLOCK_MONOTONIC
    enum: CLOCK_REALTIME
    enum: CLOCK_REALTIME_COARSE

cdef extern from "<unistd.h>" nogil:
    int64_t c_write "write"(int fd, const void* data, size_t size)


cdef inline int64_t monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline int64_t realtime_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline int64_t coarse_realtime_us() noexcept nogil:
    """As of the last timer tick, some milliseconds ago at most. Costs a fifth."""
    cdef timespec now
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline timespec timespec_of(int64_t microseconds) noexcept nogil:
    cdef timespec moment
    moment.tv_sec = microseconds // 1000000
    moment.tv_nsec = <long> (microseconds % 1000000) * 1000
    return moment
