# What HTTP says of caching, as pure functions over bytes: no store, no clock, no connection.
# RFC 9110 (conditions, ranges), 9111 (caching), 5861 (stale), 8246 (immutable), 9213 (targeted
# fields), 9875 (groups). Bodies: cache_rules.pxi, cache_fields.pxi (reading), cache_keys.pxi; they
# need target.pxi included before them.
#
# Contract
#   Field lines come as a FieldView. Of a request known is set and the name may be missing
#   (name_bytes 0) where it is; of a response names stand as sent and known is 0.
#
#   void request_facts_read(const FieldView *fields, int64_t now_s, RequestFacts *facts) noexcept
#                           nogil
#     What the request asks of a cache. Spans point into the view. now_s: wall clock; a date whose
#     year has two digits is read by it.
#   void response_facts_read(const FieldView *fields, uint32_t status, int64_t now_s,
#                            ResponseFacts *facts)
#     What the response allows. The first valid one of Kernelq-Cache-Control and CDN-Cache-Control
#     replaces Cache-Control and Expires; an invalid or empty one is as if it were not there (RFC
#     9213 §2.2). Of several max-age (or others with a number) in Cache-Control the first counts
#     (RFC 9111 §4.2.1), in a targeted field the last (RFC 9651 §4.2.2). No number: 0, that is
#     stale, in Cache-Control; as if it were not there in a targeted field.
#   bint directive_names_field(const FieldView *fields, Span name)
#     Whether no-cache="..." or private="..." of the field that counts names this one, which is then
#     left out of what is stored. Worth a call only if SAYS_NO_CACHE_FIELDS or SAYS_PRIVATE_FIELDS
#     was seen; reads the field anew each time.
#   bint response_is_storable(const ResponseFacts *response, const RequestFacts *request,
#                             uint8_t mode, bint has_query)
#     RFC 9111 §3, and what CACHE_PUBLIC adds: explicit public or s-maxage (or a targeted field), no
#     Set-Cookie. has_query: only what is explicitly fresh. Never a 206, 304, 412 or 416, and of 2xx
#     and 3xx only the ones known here (status_is_understood()).
#   uint32_t response_lifetime_s(const ResponseFacts *response, uint8_t mode, bint has_query,
#                                int64_t now_s)
#     RFC 9111 §4.2.1, or heuristically §4.2.2 (CACHE_RFC9111 only). now_s: wall clock, when the
#     response was received.
#   uint32_t response_age_s(const ResponseFacts *response, int64_t asked_s, int64_t now_s)
#     The corrected initial age of RFC 9111 §4.2.3; asked_s: when the request was made.
#   int reuse_decide(const StoredFacts *stored, const RequestFacts *request, uint64_t age_s)
#     REUSE_*: whether the stored response may answer this request at that age (RFC 9111 §4,
#     §5.2.1). only-if-cached is the caller's business: 504 where this is REUSE_REVALIDATE. Fresh
#     and immutable: max-age of a request does not count, no-cache does (RFC 8246 §2.1).
#   bint stale_is_allowed_on_error(const StoredFacts *stored, const RequestFacts *request,
#                                  uint64_t age_s)
#     RFC 5861 §4: instead of an error, or while there is no worker; never past must-revalidate,
#     proxy-revalidate or s-maxage. The larger stale-if-error of response and request counts.
#   uint32_t condition_status(const RequestFacts *request, Span etag, int64_t modified_s,
#                             uint32_t stored_status)
#     304, or stored_status: RFC 9110 §13.2.2 for what a cache evaluates (If-None-Match weakly, then
#     If-Modified-Since), only for a stored 200. etag: empty if it has none. modified_s: its
#     Last-Modified, else its Date, else when it was received (RFC 9111 §4.3.2).
#   int ranges_read(const RequestFacts *request, Span etag, int64_t modified_s, int64_t date_s,
#                   uint64_t bytes, ByteRange *ranges, uint32_t *count)
#     RANGES_NONE: ignore the Range field (none, malformed, other unit, If-Range does not match,
#     more than RANGES_MAX, overlapping ones that cost more than the whole, a suffix of nothing);
#     RANGES_SOME: count ranges within [0, bytes), as asked for, overlapping or adjacent ones
#     joined; RANGES_UNSATISFIABLE: 416. RFC 9110 §14. modified_s and date_s: of Last-Modified and
#     Date, -1 if it has none. ranges has room for RANGES_MAX.
#   int64_t http_date_read(Span text, int64_t now_s)
#     Seconds since 1970 of IMF-fixdate, RFC 850 and asctime forms; -1: none of them, or earlier.
#     Case does not matter, UTC is GMT (RFC 9111 §4.2), and the day's name may be a wrong one.
#   uint8_t *http_date_put(uint8_t *at, int64_t seconds)      # 29 bytes, IMF-fixdate
#   size_t vary_key_put(uint8_t *out, size_t room, const FieldView *vary, const FieldView *request)
#     The secondary key: for each field named by the response's Vary lines (view: the response's
#     fields), in the order of first mention without repeats: known id or lower-case name, and the
#     request's combined, normalised value or a mark for "absent" (RFC 9111 §4.1). 0: no Vary;
#     CACHE_KEY_NONE: it does not fit into room, Vary has "*" or what is no field name, or more
#     than VARY_NAMES_MAX of them.
#   bint vary_key_matches(const uint8_t *key, size_t bytes, const FieldView *request)
#     Whether this request has the same values. No allocation; an empty key always matches.
#   size_t cache_key_put(uint8_t *out, size_t room, bint is_https, Span host, Span target_path,
#                        Span query, bint has_query, Span extra)
#     scheme "://" host path ["?" query] [" " extra]: equivalent by RFC 3986 §6.2.2 and §6.2.3 means
#     equal (case of host and of escapes, escaped unreserved characters, dot segments, empty path,
#     default port), and nothing else does. CACHE_KEY_NONE: does not fit as it was sent, has no
#     host, or the path has an invalid escape, or both an escaped "/" and a dot segment (which the
#     application sees otherwise). A query with an invalid escape is taken as sent.
#   size_t reference_key_put(uint8_t *out, size_t room, bint is_https, Span host, Span target_path,
#                            Span query, bint has_query, Span extra, Span reference)
#     The key of what Location or Content-Location refers to, as seen from the target with these
#     parts (RFC 3986 §5.2). CACHE_KEY_NONE: nothing with a key, or of another origin. A relative
#     path needs room for itself and the target's path besides.
#   bint field_is_kept(const uint8_t *name, uint32_t bytes)
#     RFC 9111 §3.1: not what belongs to the connection or the framing, nor Age and
#     Kernelq-Cache-Control. What Connection names is not looked at: applications cannot send that
#     field (worker_response.pxi).
#   bint field_is_named(Span list, Span name)      # whether the value of one such line has the name
#   uint32_t groups_read(const FieldView *fields, const char *name, uint64_t *hashes, uint32_t most,
#                        const uint8_t seed[16])
#     Cache-Groups or Cache-Group-Invalidation (RFC 9875: a list of strings, at least 32 of 32
#     characters each): SipHash of each string, of what it means (without backslashes), so that
#     siphash() of a plain name is the same. name in lower case. Malformed: 0. How many there are,
#     maybe more than most: only the first of them are in hashes then, so store nothing.
#   uint64_t siphash(const uint8_t seed[16], const uint8_t *at, size_t bytes)   # SipHash-1-3

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.http1 cimport FieldLine
from kernelq.core.span cimport Span

cdef enum:                         # --cache
    CACHE_OFF = 0
    CACHE_PUBLIC = 1
    CACHE_RFC9111 = 2

cdef enum:                         # Directives.seen
    SAYS_NO_STORE = 1 << 0
    SAYS_NO_CACHE = 1 << 1         # without field names
    SAYS_NO_CACHE_FIELDS = 1 << 2
    SAYS_PRIVATE = 1 << 3
    SAYS_PRIVATE_FIELDS = 1 << 4
    SAYS_PUBLIC = 1 << 5
    SAYS_MAX_AGE = 1 << 6
    SAYS_S_MAXAGE = 1 << 7
    SAYS_MUST_REVALIDATE = 1 << 8
    SAYS_PROXY_REVALIDATE = 1 << 9
    SAYS_MUST_UNDERSTAND = 1 << 10
    SAYS_IMMUTABLE = 1 << 11
    SAYS_STALE_WHILE_REVALIDATE = 1 << 12
    SAYS_STALE_IF_ERROR = 1 << 13
    SAYS_MAX_STALE = 1 << 14       # of requests; max_stale_s is UINT32_MAX without a value
    SAYS_MIN_FRESH = 1 << 15
    SAYS_ONLY_IF_CACHED = 1 << 16
    # With a number; without a meaning of its own in a malformed element; where it may stand.
    SAYS_NUMBERS = SAYS_MAX_AGE | SAYS_S_MAXAGE | SAYS_STALE_WHILE_REVALIDATE \
        | SAYS_STALE_IF_ERROR | SAYS_MAX_STALE | SAYS_MIN_FRESH
    SAYS_PERMITTING = SAYS_PUBLIC | SAYS_MUST_UNDERSTAND | SAYS_IMMUTABLE
    SAYS_OF_REQUESTS = SAYS_NO_STORE | SAYS_NO_CACHE | SAYS_MAX_AGE | SAYS_STALE_IF_ERROR \
        | SAYS_MAX_STALE | SAYS_MIN_FRESH | SAYS_ONLY_IF_CACHED
    SAYS_OF_RESPONSES = (1 << 14) - 1

cdef enum:
    REUSE_FRESH = 0                # answer from the store
    REUSE_STALE = 1                # answer from the store: the request allows it (max-stale)
    REUSE_WHILE_REVALIDATE = 2     # answer from the store, and revalidate in the background
    REUSE_REVALIDATE = 3           # ask the worker first
    REUSE_NEVER = 4                # the request wants nothing stored (no-store)

cdef enum:
    RANGES_NONE = 0
    RANGES_SOME = 1
    RANGES_UNSATISFIABLE = 2
    RANGES_MAX = 16

cdef enum:
    VALIDATOR_BYTES_MAX = 1024     # of an entity tag that is remembered
    GROUPS_MAX = 64
    VARY_NAMES_MAX = 32            # fields that one Vary may name
    HEURISTIC_MAX_S = 86400        # the longest that nobody has asked for
    # A Last-Modified so much older than Date is a strong validator. RFC 9110 §8.8.2.2 is content
    # with one second where both come from one clock, which nobody promises here; RFC 7232 §2.2.2
    # had this number.
    DATE_STRONG_S = 60

cdef extern from *:
    """
    #define KQ_CACHE_KEY_NONE ((size_t)-1)
    #define KQ_DELTA_MAX 2147483648u
    """
    const size_t CACHE_KEY_NONE "KQ_CACHE_KEY_NONE"
    const uint32_t DELTA_MAX "KQ_DELTA_MAX"       # RFC 9111 §1.2.2; no enum holds it

ctypedef struct FieldView:
    const uint8_t *at              # offsets in lines count from here
    const FieldLine *lines
    uint32_t count

ctypedef struct Directives:
    uint32_t seen                  # SAYS_*
    uint32_t max_age_s, s_maxage_s, stale_while_revalidate_s, stale_if_error_s
    uint32_t max_stale_s, min_fresh_s

ctypedef struct RequestFacts:
    Directives directives          # Pragma: no-cache counts where there is no Cache-Control
    Span if_none_match             # at NULL: absent
    Span if_modified_since
    Span range
    Span if_range
    bint has_authorization
    bint has_preconditions         # If-Match, If-Unmodified-Since: for the worker
    bint is_odd                    # repeats a field that may stand once: not for the cache
    int64_t now_s

ctypedef struct ResponseFacts:
    Directives directives          # of the field that counts
    bint is_targeted               # that was Kernelq-Cache-Control or CDN-Cache-Control
    bint has_cache_control
    bint has_set_cookie
    bint has_vary
    bint has_vary_star             # or something in Vary that is no field name
    bint has_content_range
    bint has_expires
    bint is_malformed              # repeats a field that may stand once: not for the store
    uint16_t status
    int64_t date_s                 # -1: none or not valid
    int64_t expires_s              # 0: not valid, which means expired; -1: none
    int64_t modified_s             # -1: none or not valid
    int64_t age_s                  # 0: none
    Span etag                      # with W/ and quotes; empty: none, not valid, or too long
    Span modified                  # the text of a valid Last-Modified; at NULL: none
    Span location                  # at NULL: none
    Span content_location

ctypedef struct StoredFacts:       # of an entry: what reuse_decide() needs
    uint32_t seen                  # SAYS_* of the response
    uint32_t lifetime_s
    uint32_t stale_while_revalidate_s
    uint32_t stale_if_error_s

ctypedef struct ByteRange:
    uint64_t first
    uint64_t bytes


# ---- inside the rules ----

cdef enum:                         # SfItem.kind
    SF_INTEGER = 0
    SF_STRING = 1
    SF_TOKEN = 2
    SF_BOOLEAN = 3
    SF_INNER_LIST = 4
    SF_OTHER = 5                   # decimal, bytes, date, display string

ctypedef struct SfItem:
    uint32_t kind
    int64_t number                 # of an integer or boolean
    Span text                      # of a string (as sent), token or inner list (all within)

ctypedef struct DirectiveReader:
    Directives *out
    Span wanted                    # a field name to look for; empty: none
    uint32_t allowed               # SAYS_*
    bint is_request
    bint is_named                  # wanted stands in no-cache="..." or private="..."
    bint is_named_no_cache
    bint is_named_private

ctypedef struct Reference:
    Span host
    Span path
    Span query
    bint is_https
    bint has_host
    bint has_query

ctypedef struct DateParts:
    int64_t year, month, day, hour, minute, second

cdef enum:                         # a field in a secondary key
    VARY_ABSENT = 0
    VARY_LIST = 1
    VARY_LINES = 2

ctypedef struct KeySink:
    # Where a normalised value goes: into a new key, or against one that is there.
    uint8_t *out
    const uint8_t *expected        # instead of out
    size_t at
    size_t room
    bint is_well                   # it fits, and is what was expected

ctypedef struct SipState:
    uint64_t v0, v1, v2, v3
