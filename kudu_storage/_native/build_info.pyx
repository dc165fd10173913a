"""What the native code was built with. Constants of the compiler; nothing here runs."""

cdef extern from *:
    """
    #if defined(__clang__)
    #  define KS_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #  define KS_COMPILER "gcc " __VERSION__
    #else
    #  define KS_COMPILER "unknown"
    #endif
    #ifndef __has_feature
    #  define __has_feature(x) 0
    #endif
    #if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
    #  define KS_SANITIZER "address"
    #elif defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
    #  define KS_SANITIZER "thread"
    #else
    #  define KS_SANITIZER ""
    #endif
    #ifdef __OPTIMIZE__
    #  define KS_OPTIMIZED 1
    #else
    #  define KS_OPTIMIZED 0
    #endif
    """
    const char* KS_COMPILER
    const char* KS_SANITIZER
    int KS_OPTIMIZED
    int KUDU_STORAGE_DEBUG
    unsigned long CYTHON_HEX_VERSION


def build_info():
    """compiler, cython, debug, optimized, sanitizer (None for none) of this build."""
    cdef unsigned long version = CYTHON_HEX_VERSION
    sanitizer = KS_SANITIZER.decode()
    return {
        "compiler": KS_COMPILER.decode().strip(),
        "cython": f"{version >> 24}.{version >> 16 & 0xff}.{version >> 8 & 0xff}",
        "debug": bool(KUDU_STORAGE_DEBUG),
        "optimized": bool(KS_OPTIMIZED),
        "sanitizer": sanitizer or None,
    }
