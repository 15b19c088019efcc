# The field names that the core and the worker know: one row each, everything else is made from the
# rows.
#
# A row: id, wire name in lower case, WSGI environ name. The rows up to FIELD_FRAMING_LAST mean
# something to the core itself; those from FIELD_FORWARDED to FIELD_FORWARDING_LAST are a proxy's
# word about the client.
#
# Theory of operation: names differ in (length, first byte, byte at three quarters, last byte), and
# field_slot() maps these to 256 slots without a collision, so that looking a name up is one load
# and one comparison. The comparison takes case into account without copying: where a row has a
# letter, bit 5 may differ. A name that equals a row is thereby known to be a token. The tables are
# filled when the module is loaded; a collision aborts.
#
# Rules: at most 63 rows (RequestHead.seen has one bit for each) and 31 bytes a name. A new row that
# collides needs another factor in kq_field_slot().

from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_FIELDS_H
    #define KQ_FIELDS_H
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    #define KQ_FIELDS(ROW) \\
        ROW(HOST, "host", "HTTP_HOST") \\
        ROW(CONNECTION, "connection", "HTTP_CONNECTION") \\
        ROW(CONTENT_LENGTH, "content-length", "CONTENT_LENGTH") \\
        ROW(TRANSFER_ENCODING, "transfer-encoding", "HTTP_TRANSFER_ENCODING") \\
        ROW(EXPECT, "expect", "HTTP_EXPECT") \\
        ROW(UPGRADE, "upgrade", "HTTP_UPGRADE") \\
        ROW(FORWARDED, "forwarded", "HTTP_FORWARDED") \\
        ROW(X_FORWARDED_FOR, "x-forwarded-for", "HTTP_X_FORWARDED_FOR") \\
        ROW(X_FORWARDED_PROTO, "x-forwarded-proto", "HTTP_X_FORWARDED_PROTO") \\
        ROW(X_FORWARDED_HOST, "x-forwarded-host", "HTTP_X_FORWARDED_HOST") \\
        ROW(X_FORWARDED_PORT, "x-forwarded-port", "HTTP_X_FORWARDED_PORT") \\
        ROW(X_FORWARDED_SERVER, "x-forwarded-server", "HTTP_X_FORWARDED_SERVER") \\
        ROW(X_FORWARDED_PREFIX, "x-forwarded-prefix", "HTTP_X_FORWARDED_PREFIX") \\
        ROW(ACCEPT, "accept", "HTTP_ACCEPT") \\
        ROW(ACCEPT_CHARSET, "accept-charset", "HTTP_ACCEPT_CHARSET") \\
        ROW(ACCEPT_ENCODING, "accept-encoding", "HTTP_ACCEPT_ENCODING") \\
        ROW(ACCEPT_LANGUAGE, "accept-language", "HTTP_ACCEPT_LANGUAGE") \\
        ROW(AC_REQUEST_HEADERS, "access-control-request-headers", \\
            "HTTP_ACCESS_CONTROL_REQUEST_HEADERS") \\
        ROW(AC_REQUEST_METHOD, "access-control-request-method", \\
            "HTTP_ACCESS_CONTROL_REQUEST_METHOD") \\
        ROW(AUTHORIZATION, "authorization", "HTTP_AUTHORIZATION") \\
        ROW(CACHE_CONTROL, "cache-control", "HTTP_CACHE_CONTROL") \\
        ROW(CONTENT_ENCODING, "content-encoding", "HTTP_CONTENT_ENCODING") \\
        ROW(CONTENT_TYPE, "content-type", "CONTENT_TYPE") \\
        ROW(COOKIE, "cookie", "HTTP_COOKIE") \\
        ROW(DATE, "date", "HTTP_DATE") \\
        ROW(DNT, "dnt", "HTTP_DNT") \\
        ROW(FROM, "from", "HTTP_FROM") \\
        ROW(IF_MATCH, "if-match", "HTTP_IF_MATCH") \\
        ROW(IF_MODIFIED_SINCE, "if-modified-since", "HTTP_IF_MODIFIED_SINCE") \\
        ROW(IF_NONE_MATCH, "if-none-match", "HTTP_IF_NONE_MATCH") \\
        ROW(IF_RANGE, "if-range", "HTTP_IF_RANGE") \\
        ROW(IF_UNMODIFIED_SINCE, "if-unmodified-since", "HTTP_IF_UNMODIFIED_SINCE") \\
        ROW(KEEP_ALIVE, "keep-alive", "HTTP_KEEP_ALIVE") \\
        ROW(ORIGIN, "origin", "HTTP_ORIGIN") \\
        ROW(PRAGMA, "pragma", "HTTP_PRAGMA") \\
        ROW(PRIORITY, "priority", "HTTP_PRIORITY") \\
        ROW(PROXY_AUTHORIZATION, "proxy-authorization", "HTTP_PROXY_AUTHORIZATION") \\
        ROW(RANGE, "range", "HTTP_RANGE") \\
        ROW(REFERER, "referer", "HTTP_REFERER") \\
        ROW(SAVE_DATA, "save-data", "HTTP_SAVE_DATA") \\
        ROW(SEC_CH_UA, "sec-ch-ua", "HTTP_SEC_CH_UA") \\
        ROW(SEC_CH_UA_MOBILE, "sec-ch-ua-mobile", "HTTP_SEC_CH_UA_MOBILE") \\
        ROW(SEC_CH_UA_PLATFORM, "sec-ch-ua-platform", "HTTP_SEC_CH_UA_PLATFORM") \\
        ROW(SEC_FETCH_DEST, "sec-fetch-dest", "HTTP_SEC_FETCH_DEST") \\
        ROW(SEC_FETCH_MODE, "sec-fetch-mode", "HTTP_SEC_FETCH_MODE") \\
        ROW(SEC_FETCH_SITE, "sec-fetch-site", "HTTP_SEC_FETCH_SITE") \\
        ROW(SEC_FETCH_USER, "sec-fetch-user", "HTTP_SEC_FETCH_USER") \\
        ROW(SEC_GPC, "sec-gpc", "HTTP_SEC_GPC") \\
        ROW(SEC_WEBSOCKET_KEY, "sec-websocket-key", "HTTP_SEC_WEBSOCKET_KEY") \\
        ROW(SEC_WEBSOCKET_VERSION, "sec-websocket-version", "HTTP_SEC_WEBSOCKET_VERSION") \\
        ROW(TE, "te", "HTTP_TE") \\
        ROW(TRACEPARENT, "traceparent", "HTTP_TRACEPARENT") \\
        ROW(TRACESTATE, "tracestate", "HTTP_TRACESTATE") \\
        ROW(TRAILER, "trailer", "HTTP_TRAILER") \\
        ROW(UPGRADE_INSECURE_REQUESTS, "upgrade-insecure-requests", \\
            "HTTP_UPGRADE_INSECURE_REQUESTS") \\
        ROW(USER_AGENT, "user-agent", "HTTP_USER_AGENT") \\
        ROW(VIA, "via", "HTTP_VIA") \\
        ROW(X_API_KEY, "x-api-key", "HTTP_X_API_KEY") \\
        ROW(X_CSRFTOKEN, "x-csrftoken", "HTTP_X_CSRFTOKEN") \\
        ROW(X_REAL_IP, "x-real-ip", "HTTP_X_REAL_IP") \\
        ROW(X_REQUEST_ID, "x-request-id", "HTTP_X_REQUEST_ID") \\
        ROW(X_REQUESTED_WITH, "x-requested-with", "HTTP_X_REQUESTED_WITH")

    #define KQ_FIELD_NAME_MAX 32
    #define KQ_FIELD_ENUM(id, wire, environ) FIELD_##id,
    enum { FIELD_UNKNOWN, KQ_FIELDS(KQ_FIELD_ENUM) FIELD_COUNT };
    enum { FIELD_FRAMING_LAST = FIELD_UPGRADE, FIELD_FORWARDING_LAST = FIELD_X_FORWARDED_PREFIX };
    _Static_assert(FIELD_COUNT <= 64, "one bit of a 64-bit word for each known field");
    #define KQ_FIELD_FITS(id, wire, environ) \\
        _Static_assert(sizeof(wire) - 1 < KQ_FIELD_NAME_MAX, "a known field name is too long");
    KQ_FIELDS(KQ_FIELD_FITS)

    typedef struct { const char *wire, *environ; uint8_t wire_bytes, environ_bytes; } KqField;
    #define KQ_FIELD_ROW(id, wire, environ) {wire, environ, sizeof(wire) - 1, sizeof(environ) - 1},
    static const KqField kq_fields[FIELD_COUNT] = {{"", "", 0, 0}, KQ_FIELDS(KQ_FIELD_ROW)};

    /* What a name is compared with: the row's bytes, and the bits in which the name may differ. */
    typedef struct { uint8_t lower[KQ_FIELD_NAME_MAX], strict[KQ_FIELD_NAME_MAX]; } KqFieldShape;
    static KqFieldShape kq_field_shapes[FIELD_COUNT];
    static uint8_t kq_field_slots[256];

    static inline uint8_t kq_field_slot(const uint8_t *name, size_t bytes) {
        uint32_t key = name[0] | (uint32_t)name[bytes * 3 >> 2] << 8 | (uint32_t)name[bytes
                                                                                      - 1] << 16
            | (uint32_t)bytes << 24;
        return (uint8_t)((key | 0x202020) * 0xb2d643a3u >> 24);
    }

    __attribute__((constructor)) static void kq_fields_fill(void) {
        for (int id = 1; id < FIELD_COUNT; id++) {
            const KqField *field = &kq_fields[id];
            KqFieldShape *shape = &kq_field_shapes[id];
            for (size_t at = 0; at < field->wire_bytes; at++) {
                uint8_t byte = (uint8_t)field->wire[at];
                shape->lower[at] = byte;
                shape->strict[at] = byte >= 'a' && byte <= 'z' ? 0xdf : 0xff;
            }
            shape->lower[field->wire_bytes] = ':';
            shape->strict[field->wire_bytes] = 0xff;
            uint8_t *slot = &kq_field_slots[kq_field_slot(shape->lower, field->wire_bytes)];
            if (*slot != 0) abort();
            *slot = (uint8_t)id;
        }
    }

    /* The id of a name of 1 to any number of bytes, or 0. Reads only [name, name + bytes). */
    static inline unsigned kq_field_find(const uint8_t *name, size_t bytes) {
        unsigned id = kq_field_slots[kq_field_slot(name, bytes)];
        if (kq_fields[id].wire_bytes != bytes) return 0;
        const KqFieldShape *shape = &kq_field_shapes[id];
        for (size_t at = 0; at < bytes; at++)
            if ((name[at] ^ shape->lower[at]) & shape->strict[at]) return 0;
        return id;
    }

    /* The same for a name before a ":" when the 32 bytes from name on may be read. */
    static inline unsigned kq_field_find_wide(const uint8_t *name, size_t bytes) {
    #if defined(__SSE2__)
        unsigned id = kq_field_slots[kq_field_slot(name, bytes)];
        const KqFieldShape *shape = &kq_field_shapes[id];
        const __m128i *lower = (const __m128i *)shape->lower;
        const __m128i *strict = (const __m128i *)shape->strict;
        __m128i low = _mm_xor_si128(_mm_loadu_si128((const __m128i *)name), _mm_loadu_si128(lower));
        __m128i high = _mm_xor_si128(_mm_loadu_si128((const __m128i *)name + 1),
                                     _mm_loadu_si128(lower + 1));
        __m128i wrong = _mm_or_si128(_mm_and_si128(low, _mm_loadu_si128(strict)),
                                     _mm_and_si128(high, _mm_loadu_si128(strict + 1)));
        /* The shape ends with the ":", so that it cannot fit a longer name; behind it anything
           goes. */
        return _mm_movemask_epi8(_mm_cmpeq_epi8(wrong, _mm_setzero_si128())) == 0xffff ? id : 0;
    #else
        return kq_field_find(name, bytes);
    #endif
    }
    #endif
    """
    ctypedef struct FieldName "KqField":
        const char *wire
        const char *environ
        uint8_t wire_bytes
        uint8_t environ_bytes
    const FieldName field_names "kq_fields"[]
    unsigned field_find "kq_field_find"(const uint8_t *name, size_t bytes) noexcept nogil
    unsigned field_find_wide "kq_field_find_wide"(const uint8_t *name, size_t bytes) noexcept nogil
    enum:
        FIELD_NAME_MAX "KQ_FIELD_NAME_MAX"
        FIELD_UNKNOWN
        FIELD_HOST
        FIELD_CONNECTION
        FIELD_CONTENT_LENGTH
        FIELD_TRANSFER_ENCODING
        FIELD_EXPECT
        FIELD_UPGRADE
        FIELD_FORWARDED
        FIELD_X_FORWARDED_FOR
        FIELD_X_FORWARDED_PROTO
        FIELD_X_FORWARDED_HOST
        FIELD_X_FORWARDED_PORT
        FIELD_X_FORWARDED_SERVER
        FIELD_X_FORWARDED_PREFIX
        FIELD_ACCEPT
        FIELD_ACCEPT_CHARSET
        FIELD_ACCEPT_ENCODING
        FIELD_ACCEPT_LANGUAGE
        FIELD_AC_REQUEST_HEADERS
        FIELD_AUTHORIZATION
        FIELD_CACHE_CONTROL
        FIELD_CONTENT_TYPE
        FIELD_COOKIE
        FIELD_DATE
        FIELD_IF_MATCH
        FIELD_IF_MODIFIED_SINCE
        FIELD_IF_NONE_MATCH
        FIELD_IF_RANGE
        FIELD_IF_UNMODIFIED_SINCE
        FIELD_KEEP_ALIVE
        FIELD_PRAGMA
        FIELD_RANGE
        FIELD_REFERER
        FIELD_TE
        FIELD_TRAILER
        FIELD_USER_AGENT
        FIELD_FRAMING_LAST
        FIELD_FORWARDING_LAST
        FIELD_COUNT


cdef inline uint64_t field_bit(unsigned known) noexcept nogil:
    return (<uint64_t> 1) << known
