"""Memory that is needed soon, asked for ahead: a hint without effect on what is computed. Any address will do."""
cdef extern from * nogil:
    """
    #ifndef KUDU_PREFETCH
    #define KUDU_PREFETCH
    #define kudu_prefetch(address) __builtin_prefetch(address)
    #endif
    """
    void prefetch "kudu_prefetch"(const void* address) noexcept

cdef enum:
    CACHE_LINE_BYTES = 64
