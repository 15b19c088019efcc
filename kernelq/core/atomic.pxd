# The only place that spells a memory order. Fields stay plain integers; they are touched by two
# threads or two processes only through these calls. Every release has an acquire of the same SYNC
# name (checked by tests/test_tidy.py).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_ATOMIC_H
    #define KQ_ATOMIC_H
    #include <stdint.h>
    #define kq_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define kq_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define kq_load_seq(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define kq_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define kq_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define kq_store_seq(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define kq_add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_ACQ_REL)
    #define kq_add_relaxed(p, v) __atomic_add_fetch((p), (v), __ATOMIC_RELAXED)
    /* Counting by the one thread that writes the word; others may read it at any moment. */
    static inline void kq_tally(uint64_t *p, uint64_t n) { kq_store_relaxed(p, *p + n); }
    static inline int kq_swap_if(uint64_t *p, uint64_t seen, uint64_t v) {
        return __atomic_compare_exchange_n(p, &seen, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    /* Of any type's pointers: hence an alias of them all. */
    typedef void *kq_pointer __attribute__((may_alias));
    static inline void *kq_load_acquire_ptr(const void *p) {
        return __atomic_load_n((const kq_pointer *)p, __ATOMIC_ACQUIRE);
    }
    static inline void *kq_load_relaxed_ptr(const void *p) {
        return __atomic_load_n((const kq_pointer *)p, __ATOMIC_RELAXED);
    }
    static inline void kq_store_release_ptr(void *p, const void *v) {
        __atomic_store_n((kq_pointer *)p, (void *)v, __ATOMIC_RELEASE);
    }
    static inline void kq_store_relaxed_ptr(void *p, const void *v) {
        __atomic_store_n((kq_pointer *)p, (void *)v, __ATOMIC_RELAXED);
    }
    #if defined(__SANITIZE_THREAD__)
    /* ThreadSanitizer does not understand fences: an RMW on a dummy orders as strongly. */
    static uint64_t kq_fence_dummy;
    #define kq_fence_seq() ((void)__atomic_fetch_add(&kq_fence_dummy, 1, __ATOMIC_SEQ_CST))
    #else
    #define kq_fence_seq() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #endif
    #define kq_cpu_relax() __builtin_ia32_pause_or_yield()
    #if defined(__x86_64__) || defined(__i386__)
    #define __builtin_ia32_pause_or_yield() __builtin_ia32_pause()
    #else
    #define __builtin_ia32_pause_or_yield() __asm__ volatile("yield" ::: "memory")
    #endif
    #endif
    """
    uint8_t load_relaxed_u8 "kq_load_relaxed"(const uint8_t *p) noexcept nogil
    void store_relaxed_u8 "kq_store_relaxed"(uint8_t *p, uint8_t v) noexcept nogil
    uint32_t load_relaxed_u32 "kq_load_relaxed"(const uint32_t *p) noexcept nogil
    uint32_t load_acquire_u32 "kq_load_acquire"(const uint32_t *p) noexcept nogil
    uint32_t load_seq_u32 "kq_load_seq"(const uint32_t *p) noexcept nogil
    void store_relaxed_u32 "kq_store_relaxed"(uint32_t *p, uint32_t v) noexcept nogil
    void store_release_u32 "kq_store_release"(uint32_t *p, uint32_t v) noexcept nogil
    void store_seq_u32 "kq_store_seq"(uint32_t *p, uint32_t v) noexcept nogil
    uint32_t add_u32 "kq_add"(uint32_t *p, uint32_t v) noexcept nogil
    uint64_t load_relaxed "kq_load_relaxed"(const uint64_t *p) noexcept nogil
    uint64_t load_acquire "kq_load_acquire"(const uint64_t *p) noexcept nogil
    uint64_t load_seq "kq_load_seq"(const uint64_t *p) noexcept nogil
    void store_relaxed "kq_store_relaxed"(uint64_t *p, uint64_t v) noexcept nogil
    void store_release "kq_store_release"(uint64_t *p, uint64_t v) noexcept nogil
    void store_seq "kq_store_seq"(uint64_t *p, uint64_t v) noexcept nogil
    uint32_t add_relaxed_u32 "kq_add_relaxed"(uint32_t *p, uint32_t v) noexcept nogil
    uint64_t add "kq_add"(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t add_relaxed "kq_add_relaxed"(uint64_t *p, uint64_t v) noexcept nogil
    void tally "kq_tally"(uint64_t *p, uint64_t n) noexcept nogil
    void *load_acquire_ptr "kq_load_acquire_ptr"(const void *p) noexcept nogil
    void *load_relaxed_ptr "kq_load_relaxed_ptr"(const void *p) noexcept nogil
    void store_release_ptr "kq_store_release_ptr"(void *p, const void *v) noexcept nogil
    void store_relaxed_ptr "kq_store_relaxed_ptr"(void *p, const void *v) noexcept nogil
    bint swap_if "kq_swap_if"(uint64_t *p, uint64_t seen, uint64_t v) noexcept nogil
    void fence_seq "kq_fence_seq"() noexcept nogil
    void cpu_relax "kq_cpu_relax"() noexcept nogil
