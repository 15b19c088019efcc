# What may be stored, and when it may be used again; the contract stands in cache_rules.pxd.
#
# Facts
# - Statuses whose caching is understood here: those of status_is_understood(). A 206 or 304 never
#   becomes an entry, nor does a 412 or 416, which answer conditions of one request; other 2xx and
#   3xx may change what a response means (226 is a difference to another one), so they are left
#   alone. An unknown error is as good as its class.
# - s-maxage means proxy-revalidate as well (RFC 9111 §5.2.2.10): a response with it is never served
#   stale, whatever stale-while-revalidate says beside it. Where both are wanted: max-age in a
#   targeted field.
# - immutable (RFC 8246 §2.1): a proxy is to skip revalidation of a fresh response unless the client
#   asks for it. max-age=0 is what any reload sends, the very case that immutable is for, so it does
#   not count; no-cache is a forced reload and does (RFC 8246 names it as such a signal), and so
#   does min-fresh, because the promise ends with the freshness.
# - A request's no-store does not forbid an answer from the store (RFC 9111 §5.2.1.5), but who sends
#   it wants nothing to do with one: passed on.

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from kernelq.core.cache_rules cimport (
    CACHE_OFF,
    CACHE_PUBLIC,
    CACHE_RFC9111,
    DATE_STRONG_S,
    DELTA_MAX,
    HEURISTIC_MAX_S,
    RANGES_MAX,
    RANGES_NONE,
    RANGES_SOME,
    RANGES_UNSATISFIABLE,
    REUSE_FRESH,
    REUSE_NEVER,
    REUSE_REVALIDATE,
    REUSE_STALE,
    REUSE_WHILE_REVALIDATE,
    SAYS_IMMUTABLE,
    SAYS_MAX_AGE,
    SAYS_MAX_STALE,
    SAYS_MIN_FRESH,
    SAYS_MUST_REVALIDATE,
    SAYS_MUST_UNDERSTAND,
    SAYS_NO_CACHE,
    SAYS_NO_STORE,
    SAYS_PRIVATE,
    SAYS_PROXY_REVALIDATE,
    SAYS_PUBLIC,
    SAYS_S_MAXAGE,
    SAYS_STALE_IF_ERROR,
    VALIDATOR_BYTES_MAX,
    ByteRange,
    DirectiveReader,
    Directives,
    FieldView,
    RequestFacts,
    ResponseFacts,
    StoredFacts,
)
from kernelq.core.fields cimport (
    FIELD_AUTHORIZATION,
    FIELD_CACHE_CONTROL,
    FIELD_IF_MATCH,
    FIELD_IF_MODIFIED_SINCE,
    FIELD_IF_NONE_MATCH,
    FIELD_IF_RANGE,
    FIELD_IF_UNMODIFIED_SINCE,
    FIELD_PRAGMA,
    FIELD_RANGE,
)
from kernelq.core.http1 cimport list_take
from kernelq.core.scan cimport CLASS_DIGIT, scan_class
from kernelq.core.span cimport Span, span_is, span_is_nocase, span_of


# ---- entity tags (RFC 9110 §8.8.3) ----

cdef const uint8_t *etag_end(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # [ W/ ] DQUOTE *etagc DQUOTE; gives what follows, or NULL.
    if end - at >= 2 and at[0] == c"W" and at[1] == c"/":
        at += 2
    if at == end or at[0] != c'"':
        return NULL
    at += 1
    while at < end and at[0] != c'"':
        if at[0] <= 0x20 or at[0] == 0x7f:
            return NULL
        at += 1
    return at + 1 if at < end else NULL


cdef inline bint etag_is_weak(Span etag) noexcept nogil:
    return etag.bytes >= 2 and etag.at[0] == c"W"


cdef bint etags_match(Span one, Span other, bint is_strong) noexcept nogil:
    # RFC 9110 §8.8.3.2. Both are well-formed or empty; what is empty matches nothing.
    if one.bytes == 0 or other.bytes == 0:
        return False
    if etag_is_weak(one):
        if is_strong:
            return False
        one = span_of(one.at + 2, one.bytes - 2)
    if etag_is_weak(other):
        if is_strong:
            return False
        other = span_of(other.at + 2, other.bytes - 2)
    return one.bytes == other.bytes and memcmp(one.at, other.at, one.bytes) == 0


cdef bint etag_list_has(Span list, Span etag) noexcept nogil:
    # If-None-Match: "*", which means any, or a list of tags compared weakly. One that is malformed
    # names nothing.
    cdef const uint8_t *at = list.at
    cdef const uint8_t *end = list.at + list.bytes
    cdef const uint8_t *stop
    cdef bint is_found = False
    if span_is(list, b"*", 1):
        return True
    while at < end:
        if at[0] == c"," or byte_is_space(at[0]):
            at += 1
            continue
        stop = etag_end(at, end)
        if stop == NULL:
            return False
        if etags_match(span_of(at, stop - at), etag, False):
            is_found = True
        at = stop
        while at < end and byte_is_space(at[0]):
            at += 1
        if at < end and at[0] != c",":
            return False
    return is_found


# ---- requests ----

cdef void fact_once(Span *place, Span value, bint *is_odd) noexcept nogil:
    if place.at != NULL:
        is_odd[0] = True
    else:
        place[0] = value


cdef void pragma_read(const FieldView *fields, RequestFacts *facts) noexcept nogil:
    cdef uint32_t index
    for index in range(fields.count):
        if fields.lines[index].known == FIELD_PRAGMA:
            if field_is_named(view_value(fields, index), span_of(b"no-cache", 8)):
                facts.directives.seen |= SAYS_NO_CACHE


cdef void request_facts_read(const FieldView *fields, int64_t now_s,
                             RequestFacts *facts) noexcept nogil:
    cdef DirectiveReader reader
    cdef bint has_cache_control = False
    cdef bint has_pragma = False
    cdef uint32_t index
    cdef unsigned known
    memset(facts, 0, sizeof(RequestFacts))
    facts.now_s = now_s
    reader_begin(&reader, &facts.directives, True, span_of(NULL, 0))
    for index in range(fields.count):
        known = fields.lines[index].known
        if known == FIELD_CACHE_CONTROL:
            has_cache_control = True
            cache_control_read(view_value(fields, index), &reader)
        elif known == FIELD_IF_NONE_MATCH:
            fact_once(&facts.if_none_match, view_value(fields, index), &facts.is_odd)
        elif known == FIELD_IF_MODIFIED_SINCE:
            fact_once(&facts.if_modified_since, view_value(fields, index), &facts.is_odd)
        elif known == FIELD_RANGE:
            fact_once(&facts.range, view_value(fields, index), &facts.is_odd)
        elif known == FIELD_IF_RANGE:
            fact_once(&facts.if_range, view_value(fields, index), &facts.is_odd)
        elif known == FIELD_AUTHORIZATION:
            facts.has_authorization = True
        elif known == FIELD_IF_MATCH or known == FIELD_IF_UNMODIFIED_SINCE:
            facts.has_preconditions = True
        elif known == FIELD_PRAGMA:
            has_pragma = True
    if has_pragma and not has_cache_control:
        pragma_read(fields, facts)


# ---- responses ----

cdef inline bint name_is(Span name, const char *lower, size_t bytes) noexcept nogil:
    return name.bytes == bytes and span_is_nocase(name, lower, bytes)


cdef void age_read(Span value, ResponseFacts *facts) noexcept nogil:
    # RFC 9111 §5.1: of several the first member counts; one that is no number is ignored.
    cdef Span first
    cdef uint32_t seconds = 0
    if list_take(&value, &first) and delta_read(first, &seconds):
        facts.age_s = seconds


cdef void vary_read(Span value, ResponseFacts *facts) noexcept nogil:
    # What is no field name may stand for anything, as "*" does.
    cdef Span element
    while list_take(&value, &element):
        if element.bytes == 0:
            continue
        facts.has_vary = True
        if not span_is_token(element) or span_is(element, b"*", 1):
            facts.has_vary_star = True


cdef inline void once_span(Span *place, Span value, ResponseFacts *facts) noexcept nogil:
    fact_once(place, value, &facts.is_malformed)


cdef void dates_judge(Span date, Span expires, int64_t now_s, ResponseFacts *facts) noexcept nogil:
    facts.date_s = -1
    facts.expires_s = -1
    facts.modified_s = -1
    if date.at != NULL:
        facts.date_s = http_date_read(date, now_s)
    if expires.at != NULL:
        # What is not a date, "0" above all, lies in the past (RFC 9111 §5.3).
        facts.has_expires = True
        facts.expires_s = max(http_date_read(expires, now_s), <int64_t> 0)
    if facts.modified.at != NULL:
        facts.modified_s = http_date_read(facts.modified, now_s)
    if facts.modified_s < 0:
        facts.modified = span_of(NULL, 0)


cdef void response_line_read(const FieldView *fields, uint32_t index, Span *date, Span *expires,
                             Span *age, ResponseFacts *facts) noexcept nogil:
    cdef Span name = view_name(fields, index)
    cdef Span value = view_value(fields, index)
    if name_is(name, b"date", 4):
        once_span(date, value, facts)
    elif name_is(name, b"etag", 4):
        once_span(&facts.etag, value, facts)
    elif name_is(name, b"vary", 4):
        vary_read(value, facts)
    elif name_is(name, b"age", 3):
        if age.at == NULL:
            age[0] = value
    elif name_is(name, b"expires", 7):
        once_span(expires, value, facts)
    elif name_is(name, b"location", 8):
        once_span(&facts.location, value, facts)
    elif name_is(name, b"set-cookie", 10):
        facts.has_set_cookie = True
    elif name_is(name, b"cache-control", 13):
        facts.has_cache_control = True
    elif name_is(name, b"content-range", 13):
        facts.has_content_range = True
    elif name_is(name, b"last-modified", 13):
        once_span(&facts.modified, value, facts)
    elif name_is(name, b"content-location", 16):
        once_span(&facts.content_location, value, facts)


cdef bint targeted_read(const FieldView *fields, const char *lower, size_t name_bytes,
                        DirectiveReader *reader) noexcept nogil:
    # True: the field is there, well-formed and not empty (RFC 9213 §2.2). Otherwise reader.out is
    # as if it were not there.
    cdef Span value
    cdef uint32_t index
    cdef uint32_t lines = 0
    cdef int members = 0
    cdef int count
    cdef bint is_well = True
    for index in range(fields.count):
        if not name_is(view_name(fields, index), lower, name_bytes):
            continue
        value = view_value(fields, index)
        lines += 1
        count = sf_dictionary_read(value, reader)
        if count < 0 or (lines > 1 and (count == 0 or members == 0)):
            is_well = False
        members += count
    if is_well and members > 0:
        return True
    reader_begin(reader, reader.out, False, reader.wanted)
    return False


cdef bint response_directives_read(const FieldView *fields, Directives *out, Span wanted,
                                   bint *is_named) noexcept nogil:
    # The field that counts; True: a targeted one. wanted: see directive_names_field().
    cdef DirectiveReader reader
    cdef uint32_t index
    reader_begin(&reader, out, False, wanted)
    if targeted_read(fields, b"kernelq-cache-control", 21, &reader) \
            or targeted_read(fields, b"cdn-cache-control", 17, &reader):
        is_named[0] = reader.is_named_no_cache or reader.is_named_private
        return True
    for index in range(fields.count):
        if name_is(view_name(fields, index), b"cache-control", 13):
            cache_control_read(view_value(fields, index), &reader)
    is_named[0] = reader.is_named
    return False


cdef bint directive_names_field(const FieldView *fields, Span name) noexcept nogil:
    cdef Directives directives
    cdef bint is_named = False
    response_directives_read(fields, &directives, name, &is_named)
    return is_named


cdef void response_facts_read(const FieldView *fields, uint32_t status, int64_t now_s,
                              ResponseFacts *facts) noexcept nogil:
    cdef Span date = span_of(NULL, 0)
    cdef Span expires = span_of(NULL, 0)
    cdef Span age = span_of(NULL, 0)
    cdef const uint8_t *end
    cdef uint32_t index
    cdef bint is_named
    memset(facts, 0, sizeof(ResponseFacts))
    facts.status = <uint16_t> status
    for index in range(fields.count):
        response_line_read(fields, index, &date, &expires, &age, facts)
    facts.is_targeted = response_directives_read(fields, &facts.directives, span_of(NULL, 0),
                                                 &is_named)
    dates_judge(date, expires, now_s, facts)
    if facts.is_targeted:
        facts.has_expires = False
        facts.expires_s = -1
    if age.at != NULL:
        age_read(age, facts)
    if facts.etag.at != NULL:
        end = facts.etag.at + facts.etag.bytes
        if facts.etag.bytes > VALIDATOR_BYTES_MAX or etag_end(facts.etag.at, end) != end:
            facts.etag = span_of(NULL, 0)


# ---- storing (RFC 9111 §3) ----

cdef bint status_is_heuristic(uint32_t status) noexcept nogil:
    # RFC 9110 §15.1, without 206.
    return status == 200 or status == 203 or status == 204 or status == 300 or status == 301 \
        or status == 308 or status == 404 or status == 405 or status == 410 or status == 414 \
        or status == 501


cdef bint status_is_understood(uint32_t status) noexcept nogil:
    # Each of these stands for itself: no other response, and nothing of the connection or of a
    # single request's conditions, is needed to know what it means.
    if 200 <= status <= 299:
        return status == 200 or status == 203 or status == 204
    if 300 <= status <= 399:
        return 300 <= status <= 303 or status == 307 or status == 308
    return status == 400 or 402 <= status <= 406 or 409 <= status <= 411 \
        or 413 <= status <= 415 or status == 421 or status == 422 or status == 429 \
        or status == 451 or 500 <= status <= 505


cdef bint status_is_storable(uint32_t status) noexcept nogil:
    if status < 400:
        return status_is_understood(status)
    return status <= 599 and status != 412 and status != 416


cdef bint directives_allow(const ResponseFacts *response,
                           const RequestFacts *request) noexcept nogil:
    # Nothing said forbids to store.
    cdef uint32_t seen = response.directives.seen
    if request.directives.seen & SAYS_NO_STORE or seen & SAYS_PRIVATE:
        return False
    if seen & SAYS_MUST_UNDERSTAND:
        # no-store is then for caches that do not know the status (RFC 9111 §5.2.2.3).
        if not status_is_understood(response.status):
            return False
    elif seen & SAYS_NO_STORE:
        return False
    # RFC 9111 §3.5.
    return not request.has_authorization \
        or seen & (SAYS_MUST_REVALIDATE | SAYS_PUBLIC | SAYS_S_MAXAGE) != 0


cdef bint lifetime_is_explicit(const ResponseFacts *response, int64_t now_s,
                               uint32_t *seconds) noexcept nogil:
    # RFC 9111 §4.2.1.
    cdef const Directives *says = &response.directives
    cdef int64_t since = response.date_s if response.date_s >= 0 else now_s
    seconds[0] = 0
    if says.seen & SAYS_S_MAXAGE:
        seconds[0] = says.s_maxage_s
    elif says.seen & SAYS_MAX_AGE:
        seconds[0] = says.max_age_s
    elif response.has_expires:
        if response.expires_s > since:
            seconds[0] = <uint32_t> min(response.expires_s - since, <int64_t> DELTA_MAX)
    else:
        return False
    return True


cdef bint response_is_storable(const ResponseFacts *response, const RequestFacts *request,
                               uint8_t mode, bint has_query) noexcept nogil:
    cdef uint32_t seen = response.directives.seen
    cdef uint32_t seconds
    cdef bint is_explicit
    if mode == CACHE_OFF or response.is_malformed or response.has_vary_star:
        return False
    if not status_is_storable(response.status) or response.has_content_range:
        return False
    if not directives_allow(response, request):
        return False
    # Without a Date any Expires but an expired one will do: what has passed until it arrives is not
    # known here.
    is_explicit = lifetime_is_explicit(response, 0, &seconds)
    if has_query and (not is_explicit or seconds == 0 or seen & SAYS_NO_CACHE):
        return False
    if seen & SAYS_NO_CACHE and response.etag.bytes == 0 and response.modified_s < 0:
        # Always to be validated, and nothing to validate it by.
        return False
    if mode == CACHE_PUBLIC:
        if response.has_set_cookie:
            return False
        return seen & (SAYS_PUBLIC | SAYS_S_MAXAGE) != 0 or (response.is_targeted and is_explicit)
    return is_explicit or seen & SAYS_PUBLIC != 0 or status_is_heuristic(response.status)


cdef uint32_t response_lifetime_s(const ResponseFacts *response, uint8_t mode, bint has_query,
                                  int64_t now_s) noexcept nogil:
    cdef int64_t since = response.date_s if response.date_s >= 0 else now_s
    cdef uint32_t seconds
    if lifetime_is_explicit(response, now_s, &seconds):
        return seconds
    if mode != CACHE_RFC9111 or has_query or response.modified_s < 0:
        return 0
    if not status_is_heuristic(response.status) and not response.directives.seen & SAYS_PUBLIC:
        return 0
    # RFC 9111 §4.2.2: a tenth of the time it has not changed for.
    if since <= response.modified_s:
        return 0
    return <uint32_t> min((since - response.modified_s) // 10, <int64_t> HEURISTIC_MAX_S)


cdef uint32_t response_age_s(const ResponseFacts *response, int64_t asked_s,
                             int64_t now_s) noexcept nogil:
    cdef int64_t apparent = 0
    cdef int64_t corrected = response.age_s
    if response.date_s >= 0 and now_s > response.date_s:
        apparent = now_s - response.date_s
    if now_s > asked_s:
        corrected += now_s - asked_s
    return <uint32_t> min(max(apparent, corrected), <int64_t> DELTA_MAX)


# ---- using again (RFC 9111 §4) ----

cdef inline bint stale_is_forbidden(const StoredFacts *stored) noexcept nogil:
    # RFC 9111 §4.2.4.
    return stored.seen & (SAYS_NO_CACHE | SAYS_MUST_REVALIDATE | SAYS_PROXY_REVALIDATE
                          | SAYS_S_MAXAGE) != 0


cdef int stale_decide(const StoredFacts *stored, const RequestFacts *request,
                      uint64_t stale_s) noexcept nogil:
    # Of a response that is stale since stale_s seconds (0: right now).
    cdef uint32_t asks = request.directives.seen
    if stale_is_forbidden(stored) or asks & SAYS_MIN_FRESH:
        return REUSE_REVALIDATE
    if asks & SAYS_MAX_STALE:
        if stale_s > request.directives.max_stale_s \
                and request.directives.max_stale_s != <uint32_t> 0xffffffff:
            return REUSE_REVALIDATE
    elif asks & SAYS_MAX_AGE:
        # RFC 9111 §5.2.1.1: max-age alone wants nothing stale.
        return REUSE_REVALIDATE
    # In the background rather than not at all.
    if stale_s < stored.stale_while_revalidate_s:
        return REUSE_WHILE_REVALIDATE
    return REUSE_STALE if asks & SAYS_MAX_STALE else REUSE_REVALIDATE


cdef int reuse_decide(const StoredFacts *stored, const RequestFacts *request,
                      uint64_t age_s) noexcept nogil:
    cdef const Directives *asks = &request.directives
    cdef bint is_fresh = stored.lifetime_s > age_s
    if asks.seen == 0 and is_fresh and not stored.seen & SAYS_NO_CACHE:
        return REUSE_FRESH
    if asks.seen & SAYS_NO_STORE:
        return REUSE_NEVER
    if (asks.seen | stored.seen) & SAYS_NO_CACHE:
        return REUSE_REVALIDATE
    if asks.seen & SAYS_MIN_FRESH and stored.lifetime_s < age_s + asks.min_fresh_s:
        return REUSE_REVALIDATE
    if asks.seen & SAYS_MAX_AGE and age_s > asks.max_age_s:
        if not is_fresh or not stored.seen & SAYS_IMMUTABLE:
            return REUSE_REVALIDATE
    if is_fresh:
        return REUSE_FRESH
    return stale_decide(stored, request, age_s - stored.lifetime_s)


cdef bint stale_is_allowed_on_error(const StoredFacts *stored, const RequestFacts *request,
                                    uint64_t age_s) noexcept nogil:
    cdef uint64_t allowed = 0
    cdef uint64_t stale_s = 0
    cdef bint is_fresh = stored.lifetime_s > age_s
    if (stored.seen | request.directives.seen) & SAYS_NO_CACHE:
        return False
    if request.directives.seen & SAYS_NO_STORE:
        return False
    if not is_fresh:
        if stale_is_forbidden(stored):
            return False
        stale_s = age_s - stored.lifetime_s
    # RFC 5861 §4: "regardless of other freshness information" of the request.
    if stored.seen & SAYS_STALE_IF_ERROR:
        allowed = stored.stale_if_error_s
    if request.directives.seen & SAYS_STALE_IF_ERROR:
        allowed = max(allowed, <uint64_t> request.directives.stale_if_error_s)
    return stale_s < allowed


# ---- conditions and ranges ----

cdef uint32_t condition_status(const RequestFacts *request, Span etag, int64_t modified_s,
                               uint32_t stored_status) noexcept nogil:
    cdef int64_t since
    if stored_status != 200:
        return stored_status
    if request.if_none_match.at != NULL:
        return 304 if etag_list_has(request.if_none_match, etag) else stored_status
    if request.if_modified_since.at == NULL or modified_s < 0:
        return stored_status
    since = http_date_read(request.if_modified_since, request.now_s)
    return 304 if since >= modified_s else stored_status


cdef bint if_range_holds(const RequestFacts *request, Span etag, int64_t modified_s,
                         int64_t date_s) noexcept nogil:
    # RFC 9110 §13.1.5: the same representation to the byte, or the range is not for it.
    cdef Span given = request.if_range
    cdef int64_t seconds
    if given.at == NULL:
        return True
    if given.bytes > 0 and (given.at[0] == c'"' or given.at[0] == c"W") \
            and etag_end(given.at, given.at + given.bytes) == given.at + given.bytes:
        return etags_match(given, etag, True)
    seconds = http_date_read(given, request.now_s)
    return seconds >= 0 and seconds == modified_s and date_s - modified_s >= DATE_STRONG_S


cdef const uint8_t *position_take(const uint8_t *at, const uint8_t *end, Span *digits,
                                  uint64_t *value) noexcept nogil:
    # Digits, maybe none. digits: without leading zeros; value: the largest there is if they say
    # more.
    cdef const uint8_t *stop = scan_class(at, end, CLASS_DIGIT)
    digits.bytes = stop - at
    while at < stop and at[0] == c"0":
        at += 1
    digits.at = at
    value[0] = 0
    while at < stop:
        if value[0] > (UINT64_MAX - 9) // 10:
            value[0] = UINT64_MAX
            break
        value[0] = value[0] * 10 + at[0] - 48
        at += 1
    # Where there were digits, but only zeros, one of them stays.
    if digits.bytes > 0:
        if digits.at == stop:
            digits.at -= 1
        digits.bytes = stop - digits.at
    return stop


cdef inline bint digits_exceed(Span one, Span other) noexcept nogil:
    if one.bytes != other.bytes:
        return one.bytes > other.bytes
    return memcmp(one.at, other.at, one.bytes) > 0


cdef const uint8_t *range_take(const uint8_t *at, const uint8_t *end, uint64_t bytes,
                               ByteRange *found, bint *is_empty_suffix) noexcept nogil:
    # int-range or suffix-range (RFC 9110 §14.1.1); gives what follows, or NULL. found.bytes 0: it
    # lies outside.
    cdef Span first
    cdef Span last
    cdef uint64_t from_at
    cdef uint64_t to_at
    at = position_take(at, end, &first, &from_at)
    if at == end or at[0] != c"-":
        return NULL
    at = position_take(at + 1, end, &last, &to_at)
    found.first = 0
    found.bytes = 0
    if first.bytes == 0:
        if last.bytes == 0:
            return NULL
        if bytes == 0 and to_at > 0:
            is_empty_suffix[0] = True
        found.bytes = min(to_at, bytes)
        found.first = bytes - found.bytes
        return at
    if last.bytes > 0 and digits_exceed(first, last):
        return NULL
    if from_at < bytes:
        found.first = from_at
        found.bytes = bytes - from_at
        if last.bytes > 0 and to_at < bytes:
            found.bytes = to_at - from_at + 1
    return at


cdef inline bint ranges_touch(const ByteRange *one, const ByteRange *other) noexcept nogil:
    return one.first <= other.first + other.bytes and other.first <= one.first + one.bytes


cdef uint32_t range_join(ByteRange *ranges, uint32_t count, ByteRange added) noexcept nogil:
    # Adds one, joined with all that it touches in the place of the first of them.
    cdef uint32_t place = count
    cdef uint32_t index
    cdef uint32_t left = 0
    cdef uint64_t end
    for index in range(count):
        if not ranges_touch(&ranges[index], &added):
            ranges[left] = ranges[index]
            left += 1
            continue
        end = max(added.first + added.bytes, ranges[index].first + ranges[index].bytes)
        added.first = min(added.first, ranges[index].first)
        added.bytes = end - added.first
        if place == count:
            place = left
            left += 1
    if place == count:
        place = left
        left += 1
    ranges[place] = added
    return left


cdef int ranges_read(const RequestFacts *request, Span etag, int64_t modified_s, int64_t date_s,
                     uint64_t bytes, ByteRange *ranges, uint32_t *count) noexcept nogil:
    cdef const uint8_t *at = request.range.at
    cdef const uint8_t *end = at + request.range.bytes
    cdef ByteRange found
    cdef uint64_t asked = 0
    cdef uint32_t specs = 0
    cdef bint is_empty_suffix = False
    cdef bint is_dear = False
    count[0] = 0
    if at == NULL or end - at < 6 or not span_is_nocase(span_of(at, 6), b"bytes=", 6):
        return RANGES_NONE
    at += 6
    while at < end:
        if at[0] == c"," or byte_is_space(at[0]):
            at += 1
            continue
        at = range_take(at, end, bytes, &found, &is_empty_suffix)
        if at == NULL:
            return RANGES_NONE
        while at < end and byte_is_space(at[0]):
            at += 1
        specs += 1
        if (at < end and at[0] != c",") or specs > RANGES_MAX:
            return RANGES_NONE
        if found.bytes > 0:
            if found.bytes > bytes - asked:
                is_dear = True
            else:
                asked += found.bytes
            count[0] = range_join(ranges, count[0], found)
    if specs == 0 or is_empty_suffix or not if_range_holds(request, etag, modified_s, date_s):
        return RANGES_NONE
    if count[0] == 0:
        return RANGES_UNSATISFIABLE
    return RANGES_NONE if is_dear else RANGES_SOME
