"""Loads and stores with which one writer publishes memory to readers that take no lock.

A reader that sees what was stored with `store_release` sees all that the writer wrote before it.
"""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from * nogil:
    """
    #ifndef KUDU_ATOMICS
    #define KUDU_ATOMICS
    static inline uint32_t kudu_load_u32(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void kudu_store_u32(uint32_t* at, uint32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    static inline void* kudu_load_pointer(void* const* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void kudu_store_pointer(void** at, void* value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    #endif
    """
    uint32_t load_acquire "kudu_load_u32"(const uint32_t* at) noexcept
    void store_release "kudu_store_u32"(uint32_t* at, uint32_t value) noexcept
    void* load_pointer "kudu_load_pointer"(void** at) noexcept
    void store_pointer "kudu_store_pointer"(void** at, void* value) noexcept
