"""What was cut off a log or replaced in it. See log_voids.pxd. Opens nothing, allocates nothing after it was made.

V1  `count` rises with each cut, and what a reader finds after it rose is of the log as the cut left it.
V2  since(n) names an index at or below all that stayed in cuts after the first n. (Of many at rising indexes the oldest are
    remembered as one: then it may be lower than it need be.)
"""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free

from kudu_storage._native.log_batch cimport kudu_add, kudu_load, kudu_store
from kudu_storage._native.posix cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)


cdef void voids_retain(VoidList* voids) noexcept nogil:
    kudu_add(&voids.references, 1)


cdef void voids_release(VoidList* voids) noexcept nogil:
    if voids != NULL and kudu_add(&voids.references, -1) == 0:
        pthread_mutex_destroy(&voids.mutex)
        free(voids)


cdef void voids_add(VoidList* voids, int64_t stayed, bint replaced) noexcept nogil:
    cdef int i
    pthread_mutex_lock(&voids.mutex)
    while voids.held and voids.stayed[voids.held - 1] >= stayed:
        voids.held -= 1
    if voids.held == VOIDS_HELD:
        # The lower index with the later number stands for both (V2).
        voids.numbers[0] = voids.numbers[1]
        for i in range(2, VOIDS_HELD):
            voids.numbers[i - 1] = voids.numbers[i]
            voids.stayed[i - 1] = voids.stayed[i]
        voids.held -= 1
    voids.numbers[voids.held] = voids.count + 1
    voids.stayed[voids.held] = stayed
    voids.held += 1
    if replaced and stayed + 1 < voids.replaced_from:
        kudu_store(&voids.replaced_from, stayed + 1)
    kudu_store(&voids.count, voids.count + 1)
    pthread_mutex_unlock(&voids.mutex)


cdef class Voids:
    def __cinit__(self):
        self.list = <VoidList*> calloc(1, sizeof(VoidList))
        if self.list == NULL:
            raise MemoryError()
        self.list.references = 1
        self.list.replaced_from = INT64_MAX
        pthread_mutex_init(&self.list.mutex, NULL)

    def __dealloc__(self):
        voids_release(self.list)

    @property
    def count(self):
        return kudu_load(&self.list.count)

    @property
    def replaced_from(self):
        return kudu_load(&self.list.replaced_from)

    def add(self, int64_t stayed):
        voids_add(self.list, stayed, False)

    def since(self, int64_t count):
        cdef int64_t now, stayed = INT64_MAX
        cdef int i
        pthread_mutex_lock(&self.list.mutex)
        now = self.list.count
        for i in range(self.list.held):
            if self.list.numbers[i] > count:
                stayed = self.list.stayed[i]
                break
        pthread_mutex_unlock(&self.list.mutex)
        return now, stayed

    def forget_replaced(self):
        pthread_mutex_lock(&self.list.mutex)
        kudu_store(&self.list.replaced_from, INT64_MAX)
        pthread_mutex_unlock(&self.list.mutex)
