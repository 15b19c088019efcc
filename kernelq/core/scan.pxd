# Finding the first byte that does not belong: the loops in which a parser spends its time.
#
# Each scan returns the first byte in [at, end) that stops it, or end; it never reads outside. The
# wide forms look at 8, 16 or 32 bytes at a time and must answer exactly as the plain loop does (a
# property test compares them, with the input before an unreadable page). scan_level says which may
# be used: the best that the machine has, found when the module is loaded, because wheels are built
# for any x86-64. Only tests change it.
#
# C and not Cython, because the instruction set is chosen function by function.

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #ifndef KQ_SCAN_H
    #define KQ_SCAN_H
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__x86_64__)
    #include <immintrin.h>
    #endif

    enum { SCAN_PLAIN, SCAN_8, SCAN_16, SCAN_32 };
    enum { CLASS_TOKEN = 1, CLASS_VALUE = 2, CLASS_TARGET = 4, CLASS_HOST = 8, CLASS_QUOTED = 16,
           CLASS_HEX = 32, CLASS_DIGIT = 64 };
    static uint8_t kq_classes[256];
    static int kq_scan_level;

    /* TOKEN   tchar (RFC 9110 5.6.2).
       VALUE   HTAB, SP, VCHAR, obs-text (RFC 9110 5.5).
       TARGET  visible ASCII without "#". Wider than RFC 3986, which has no raw "|", "[", "{" and
               the like: browsers send them (WHATWG URL), and nobody frames by them.
       HOST    reg-name without its escapes: unreserved, sub-delims (RFC 3986 3.2.2).
       QUOTED  qdtext (RFC 9110 5.6.4). */
    static uint8_t kq_class_of(int byte) {
        int digit = byte >= '0' && byte <= '9';
        int letter = (byte | 32) >= 'a' && (byte | 32) <= 'z';
        int visible = byte > 0x20 && byte < 0x7f;
        int value = visible || byte == ' ' || byte == '\\t' || byte >= 0x80;
        int hex = digit || ((byte | 32) >= 'a' && (byte | 32) <= 'f');
        int token = digit || letter || (byte != 0 && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
        int host = digit || letter || (byte != 0 && strchr("-._~!$&'()*+,;=", byte) != NULL);
        return (uint8_t)((token ? CLASS_TOKEN : 0) | (value ? CLASS_VALUE : 0)
            | (visible && byte != '#' ? CLASS_TARGET : 0) | (host ? CLASS_HOST : 0)
            | (value && byte != '"' && byte != '\\\\' ? CLASS_QUOTED : 0)
            | (hex ? CLASS_HEX : 0) | (digit ? CLASS_DIGIT : 0));
    }

    static int kq_scan_best(void) {
    #if defined(__x86_64__)
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") ? SCAN_32 : SCAN_16;
    #else
        return SCAN_8;
    #endif
    }

    __attribute__((constructor)) static void kq_scan_fill(void) {
        for (int byte = 0; byte < 256; byte++) kq_classes[byte] = kq_class_of(byte);
        kq_scan_level = kq_scan_best();
    }

    static inline const uint8_t *kq_scan_class(const uint8_t *at, const uint8_t *end,
                                               uint8_t wanted) {
        while (at < end && (kq_classes[*at] & wanted)) at++;
        return at;
    }

    /* Eight bytes at a time. A true answer may be due to any of them: the plain loop says which. */
    #define KQ_EACH(byte) (0x0101010101010101u * (uint8_t)(byte))
    #define KQ_BELOW(word, byte) (((word) - KQ_EACH(byte)) & ~(word) & KQ_EACH(0x80))
    #define KQ_EQUAL(word, byte) KQ_BELOW((word) ^ KQ_EACH(byte), 1)
    static inline uint64_t kq_stops_value_8(const uint8_t *at) {
        uint64_t word;
        memcpy(&word, at, 8);
        return KQ_BELOW(word, 0x20) | KQ_EQUAL(word, 0x7f);
    }
    static inline uint64_t kq_stops_target_8(const uint8_t *at) {
        uint64_t word;
        memcpy(&word, at, 8);
        return KQ_BELOW(word, 0x21) | (word & KQ_EACH(0x80)) | KQ_EQUAL(word, 0x7f)
            | KQ_EQUAL(word, '#');
    }

    #if defined(__x86_64__)
    /* One bit for each byte that stops the scan; HTAB is one, and is sorted out by the caller. */
    static inline unsigned kq_stops_value_16(const uint8_t *at) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        __m128i below = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        __m128i del = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(below, del));
    }
    static inline unsigned kq_stops_target_16(const uint8_t *at) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        /* Signed: 0x80 and above are negative, hence below 0x21 too. */
        __m128i below = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x21));
        __m128i del = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
        __m128i hash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('#'));
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(below, _mm_or_si128(del, hash)));
    }
    __attribute__((target("avx2"))) static inline unsigned kq_stops_value_32(const uint8_t *at) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)at);
        __m256i below = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
        __m256i del = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x7f));
        return (unsigned)_mm256_movemask_epi8(_mm256_or_si256(below, del));
    }
    __attribute__((target("avx2"))) static inline unsigned kq_stops_target_32(const uint8_t *at) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)at);
        __m256i below = _mm256_cmpgt_epi8(_mm256_set1_epi8(0x21), bytes);
        __m256i del = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x7f));
        __m256i hash = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('#'));
        return (unsigned)_mm256_movemask_epi8(_mm256_or_si256(below, _mm256_or_si256(del, hash)));
    }
    #endif

    /* Wide steps up to the first byte that may be wrong; the plain loop judges it and goes on. */
    #define KQ_SCAN_REST(what, class) \\
        static const uint8_t *kq_scan_rest_##what(const uint8_t *at, const uint8_t *end) { \\
            if (kq_scan_level >= SCAN_8) \\
                while (end - at >= 8 && !kq_stops_##what##_8(at)) at += 8; \\
            return kq_scan_class(at, end, class); \\
        }
    KQ_SCAN_REST(value, CLASS_VALUE)
    KQ_SCAN_REST(target, CLASS_TARGET)
    #if defined(__x86_64__)
    /* leave: gcc forgets to clear the upper halves before the tail call; SSE code then waits on
       them. */
    #define KQ_SCAN_WIDE(what, class, width, narrower, leave) \\
        static const uint8_t *kq_scan_##width##_##what(const uint8_t *at, const uint8_t *end) { \\
            for (; end - at >= width; at += width) { \\
                unsigned stops = kq_stops_##what##_##width(at); \\
                if (stops == 0) continue; \\
                at += __builtin_ctz(stops); \\
                if (!(kq_classes[*at] & class)) return at; \\
                break; \\
            } \\
            leave; \\
            return kq_scan_##narrower##_##what(at, end); \\
        }
    KQ_SCAN_WIDE(value, CLASS_VALUE, 16, rest, (void)0)
    KQ_SCAN_WIDE(target, CLASS_TARGET, 16, rest, (void)0)
    __attribute__((target("avx2"))) KQ_SCAN_WIDE(value, CLASS_VALUE, 32, 16, _mm256_zeroupper())
    __attribute__((target("avx2"))) KQ_SCAN_WIDE(target, CLASS_TARGET, 32, 16, _mm256_zeroupper())
    #define KQ_SCAN_LONG(what, at, end) \\
        (kq_scan_level >= SCAN_32 ? kq_scan_32_##what(at, end) : kq_scan_16_##what(at, end))
    #endif

    /* The first 16 bytes inline: most values and targets end there. */
    static inline const uint8_t *kq_scan_value(const uint8_t *at, const uint8_t *end) {
    #if defined(__x86_64__)
        if (kq_scan_level >= SCAN_16 && end - at >= 16) {
            unsigned stops = kq_stops_value_16(at);
            if (stops == 0) return KQ_SCAN_LONG(value, at + 16, end);
            at += __builtin_ctz(stops);
            return *at != '\\t' ? at : KQ_SCAN_LONG(value, at, end);
        }
    #endif
        return kq_scan_rest_value(at, end);
    }
    static inline const uint8_t *kq_scan_target(const uint8_t *at, const uint8_t *end) {
    #if defined(__x86_64__)
        if (kq_scan_level >= SCAN_16 && end - at >= 16) {
            unsigned stops = kq_stops_target_16(at);
            return stops ? at + __builtin_ctz(stops) : KQ_SCAN_LONG(target, at + 16, end);
        }
    #endif
        return kq_scan_rest_target(at, end);
    }

    /* How many bytes stand before the first ":" of the 32 from at on, all readable; 32: none. */
    static inline size_t kq_name_bytes_32(const uint8_t *at) {
    #if defined(__x86_64__)
        __m128i colon = _mm_set1_epi8(':');
        unsigned low = (unsigned)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)at), colon));
        if (low) return (size_t)__builtin_ctz(low);
        unsigned high = (unsigned)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)at + 1), colon));
        return high ? 16 + (size_t)__builtin_ctz(high) : 32;
    #else
        const uint8_t *colon = memchr(at, ':', 32);
        return colon ? (size_t)(colon - at) : 32;
    #endif
    }
    #endif
    """
    enum:
        SCAN_PLAIN
        SCAN_8
        SCAN_16
        SCAN_32
        CLASS_TOKEN
        CLASS_VALUE
        CLASS_TARGET
        CLASS_HOST
        CLASS_QUOTED
        CLASS_HEX
        CLASS_DIGIT
    const uint8_t classes "kq_classes"[256]
    int scan_level "kq_scan_level"
    int scan_best "kq_scan_best"() noexcept nogil
    const uint8_t *scan_class "kq_scan_class"(const uint8_t *at, const uint8_t *end,
                                              uint8_t wanted) noexcept nogil
    const uint8_t *scan_value "kq_scan_value"(const uint8_t *at, const uint8_t *end) noexcept nogil
    const uint8_t *scan_target "kq_scan_target"(const uint8_t *at,
                                                const uint8_t *end) noexcept nogil
    size_t name_bytes_32 "kq_name_bytes_32"(const uint8_t *at) noexcept nogil
