"""What was cut off a log, or replaced in it, since it was opened: readers that began before must not go on behind it.

Each cut or replacement has a number, 1, 2, ..., and the index up to which operations stayed. Who adds: a truncation, and the
log's pumper in the moment in which a group that replaces is written (log_core.pyx, with the log's mutex held). Readers
remember how many there were when they began. The mutex is the last one taken, for some instructions only.
"""
from libc.stdint cimport int64_t

from kudu_storage._native.posix cimport pthread_mutex_t

cdef enum:
    VOIDS_HELD = 64

cdef struct VoidList:
    int64_t references              # kudu_add
    pthread_mutex_t mutex
    int64_t count                   # written under the mutex; read by kudu_load, too
    int64_t replaced_from           # the lowest operation that was replaced, INT64_MAX: none; as `count`
    int held
    int64_t numbers[VOIDS_HELD]     # only those behind which none cut deeper: rising, as `stayed`
    int64_t stayed[VOIDS_HELD]

cdef void voids_retain(VoidList* voids) noexcept nogil
cdef void voids_release(VoidList* voids) noexcept nogil
# Operations above `stayed` are void; `replaced`: by others that are in the log from this moment on.
cdef void voids_add(VoidList* voids, int64_t stayed, bint replaced) noexcept nogil

cdef class Voids:
    """Python's handle on a VoidList. Any thread."""
    cdef VoidList* list
