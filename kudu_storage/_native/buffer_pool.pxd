"""Large buffers of column blocks, kept for the next ones: fresh memory costs a page fault for each 4 KiB of a scan.

All are malloc's: any buffer may be given here instead of freed, and one from here freed or resized. From any thread.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

# At least `size` bytes, that hold anything. NULL: no memory. `capacity` (unless NULL): how many there really are.
cdef uint8_t* pool_take(size_t size, size_t* capacity) noexcept nogil
# Zeros.
cdef uint8_t* pool_take_zeroed(size_t size) noexcept nogil
cdef void pool_give(void* buffer) noexcept nogil        # NULL: nothing
