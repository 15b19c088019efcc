# Doors to cache_rules, cache_fields and cache_keys. Field lines come as (name, value) pairs.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from kernelq.core.cache_rules cimport (
    CACHE_KEY_NONE,
    CACHE_OFF,
    CACHE_PUBLIC,
    CACHE_RFC9111,
    DATE_STRONG_S,
    DELTA_MAX,
    GROUPS_MAX,
    HEURISTIC_MAX_S,
    RANGES_MAX,
    VALIDATOR_BYTES_MAX,
    VARY_NAMES_MAX,
    ByteRange,
    Directives,
    FieldView,
    RequestFacts,
    ResponseFacts,
    StoredFacts,
)
from kernelq.core.fields cimport field_find
from kernelq.core.http1 cimport FieldLine
from kernelq.core.span cimport Span, span_of

CACHE_MODES = {"off": CACHE_OFF, "public": CACHE_PUBLIC, "rfc9111": CACHE_RFC9111}
CACHE_BOUNDS = {
    "date_strong_s": DATE_STRONG_S,
    "delta": DELTA_MAX,
    "groups": GROUPS_MAX,
    "heuristic_s": HEURISTIC_MAX_S,
    "ranges": RANGES_MAX,
    "validator_bytes": VALIDATOR_BYTES_MAX,
    "vary_names": VARY_NAMES_MAX,
}
SAYS_NAMES = (
    "no-store", "no-cache", "no-cache-fields", "private", "private-fields", "public", "max-age",
    "s-maxage", "must-revalidate", "proxy-revalidate", "must-understand", "immutable",
    "stale-while-revalidate", "stale-if-error", "max-stale", "min-fresh", "only-if-cached",
)
REUSE_NAMES = ("fresh", "stale", "while-revalidate", "revalidate", "never")
RANGES_NAMES = ("none", "some", "unsatisfiable")

cdef Guard span_guard = Guard()
cdef Guard other_guard = Guard()


cdef Span guarded_span(bytes data):
    return span_of(span_guard.place(data), len(data))


cdef class FieldLines:
    """The lines of a message, right before an unreadable page."""

    cdef FieldView view
    cdef FieldLine *lines
    cdef Guard room

    def __cinit__(self, pairs, *, bint is_request=False):
        cdef bytes data = b""
        self.lines = <FieldLine *> malloc(max(1, len(pairs)) * sizeof(FieldLine))
        if self.lines == NULL:
            raise MemoryError
        memset(self.lines, 0xa5, len(pairs) * sizeof(FieldLine))
        for index, (name, value) in enumerate(pairs):
            known = field_find(name, len(name)) if is_request else 0
            self.lines[index].known = known
            self.lines[index].name_at = len(data)
            self.lines[index].name_bytes = 0 if known else len(name)
            data += b"" if known else name
            self.lines[index].value_at = len(data)
            self.lines[index].value_bytes = len(value)
            data += value
        self.room = Guard()
        self.view.at = self.room.place(data)
        self.view.lines = self.lines
        self.view.count = len(pairs)

    def __dealloc__(self):
        free(self.lines)


cdef object span_or_none(Span span):
    return None if span.at == NULL else span.at[:span.bytes]


cdef object directives_dict(const Directives *directives):
    said = {}
    for bit, name in enumerate(SAYS_NAMES):
        if directives.seen >> bit & 1:
            said[name] = True
    numbers = {"max-age": directives.max_age_s, "s-maxage": directives.s_maxage_s,
               "stale-while-revalidate": directives.stale_while_revalidate_s,
               "stale-if-error": directives.stale_if_error_s,
               "max-stale": directives.max_stale_s, "min-fresh": directives.min_fresh_s}
    for name, number in numbers.items():
        if name in said:
            said[name] = number
        elif number:
            raise AssertionError(f"{name} has a number without being there")
    return said


cdef RequestFacts request_facts_of(pairs, int64_t now_s):
    # The facts' spans live as long as kept_request.
    global kept_request
    cdef RequestFacts facts
    cdef FieldLines lines = FieldLines(pairs, is_request=True)
    memset(&facts, 0xa5, sizeof(facts))
    request_facts_read(&lines.view, now_s, &facts)
    kept_request = lines
    return facts


cdef ResponseFacts response_facts_of(pairs, uint32_t status, int64_t now_s):
    global kept_response
    cdef ResponseFacts facts
    cdef FieldLines lines = FieldLines(pairs)
    memset(&facts, 0xa5, sizeof(facts))
    response_facts_read(&lines.view, status, now_s, &facts)
    kept_response = lines
    return facts


kept_request = kept_response = None


def cache_request(pairs, now_s=0):
    """What request_facts_read() finds."""
    cdef RequestFacts facts = request_facts_of(pairs, now_s)
    return {
        "directives": directives_dict(&facts.directives),
        "if_none_match": span_or_none(facts.if_none_match),
        "if_modified_since": span_or_none(facts.if_modified_since),
        "range": span_or_none(facts.range),
        "if_range": span_or_none(facts.if_range),
        "has_authorization": bool(facts.has_authorization),
        "has_preconditions": bool(facts.has_preconditions),
        "is_odd": bool(facts.is_odd),
    }


def cache_response(pairs, status=200, now_s=0):
    """What response_facts_read() finds."""
    cdef ResponseFacts facts = response_facts_of(pairs, status, now_s)
    return {
        "directives": directives_dict(&facts.directives),
        "is_targeted": bool(facts.is_targeted),
        "has_cache_control": bool(facts.has_cache_control),
        "has_set_cookie": bool(facts.has_set_cookie),
        "has_vary": bool(facts.has_vary),
        "has_vary_star": bool(facts.has_vary_star),
        "has_content_range": bool(facts.has_content_range),
        "has_expires": bool(facts.has_expires),
        "is_malformed": bool(facts.is_malformed),
        "status": facts.status,
        "date_s": facts.date_s,
        "expires_s": facts.expires_s,
        "modified_s": facts.modified_s,
        "age_s": facts.age_s,
        "etag": span_bytes(facts.etag),
        "modified": span_bytes(facts.modified),
        "location": span_or_none(facts.location),
        "content_location": span_or_none(facts.content_location),
    }


def cache_names_field(pairs, bytes name):
    """Does no-cache="..." or private="..." of the response name this field?"""
    cdef FieldLines lines = FieldLines(pairs)
    return bool(directive_names_field(&lines.view, guarded_span(name)))


def cache_is_storable(pairs, request=(), *, status=200, mode="rfc9111", has_query=False):
    cdef RequestFacts asked = request_facts_of(request, 0)
    cdef ResponseFacts facts = response_facts_of(pairs, status, 0)
    return bool(response_is_storable(&facts, &asked, CACHE_MODES[mode], has_query))


def cache_lifetime(pairs, *, status=200, mode="rfc9111", has_query=False, now_s=0):
    cdef ResponseFacts facts = response_facts_of(pairs, status, now_s)
    return response_lifetime_s(&facts, CACHE_MODES[mode], has_query, now_s)


def cache_age(pairs, asked_s, now_s):
    cdef ResponseFacts facts = response_facts_of(pairs, 200, now_s)
    return response_age_s(&facts, asked_s, now_s)


cdef StoredFacts stored_facts_of(pairs, uint32_t status, int64_t now_s):
    cdef ResponseFacts facts = response_facts_of(pairs, status, now_s)
    cdef StoredFacts stored
    stored.seen = facts.directives.seen
    stored.lifetime_s = response_lifetime_s(&facts, CACHE_RFC9111, False, now_s)
    stored.stale_while_revalidate_s = facts.directives.stale_while_revalidate_s
    stored.stale_if_error_s = facts.directives.stale_if_error_s
    return stored


def cache_reuse(pairs, request, age_s, *, status=200, now_s=0):
    """REUSE_* of a response with these lines at that age, by name."""
    cdef RequestFacts asked = request_facts_of(request, now_s)
    cdef StoredFacts stored = stored_facts_of(pairs, status, now_s)
    return REUSE_NAMES[reuse_decide(&stored, &asked, age_s)]


def cache_stale_on_error(pairs, request, age_s):
    cdef RequestFacts asked = request_facts_of(request, 0)
    cdef StoredFacts stored = stored_facts_of(pairs, 200, 0)
    return bool(stale_is_allowed_on_error(&stored, &asked, age_s))


def cache_condition(request, etag=b"", modified_s=-1, status=200, now_s=0):
    cdef RequestFacts asked = request_facts_of(request, now_s)
    return condition_status(&asked, guarded_span(etag), modified_s, status)


def cache_read_date(bytes text, now_s=0):
    return http_date_read(guarded_span(text), now_s)


def cache_put_date(seconds):
    cdef uint8_t room[30]
    room[29] = 0xa5
    if http_date_put(room, seconds) != room + 29 or room[29] != 0xa5:
        raise AssertionError("not 29 bytes")
    return room[:29]


def cache_key(bint is_https, bytes host, bytes path, query=None, bytes extra=b"", room=8192):
    """The key, or None. Each of the texts stands once before the unreadable page."""
    cdef bytes out = bytes(room)
    cdef bytes text
    cdef Span spans[4]
    cdef size_t count = 0
    texts = (host, path, query or b"", extra)
    found = set()
    for guarded in range(4):
        for index in range(4):
            text = texts[index]
            spans[index] = span_of(<const char *> text, len(text))
        text = texts[guarded]
        spans[guarded].at = span_guard.place(text)
        count = cache_key_put(<uint8_t *> <char *> out, room, is_https, spans[0], spans[1],
                              spans[2], query is not None, spans[3])
        if count != CACHE_KEY_NONE and count > <size_t> len(out):
            raise AssertionError("more than fits")
        found.add(None if count == CACHE_KEY_NONE else out[:count])
    if len(found) != 1:
        raise AssertionError("the place of a text changes the key")
    return found.pop()


def cache_reference_key(bint is_https, bytes host, bytes path, query, bytes reference, *,
                        bytes extra=b"", size_t room=4096):
    """The key of a reference seen from that target, or None."""
    cdef bytes text = query or b""
    cdef uint8_t *out = <uint8_t *> other_guard.place(bytes(room))
    cdef size_t count = reference_key_put(
        out, room, is_https, span_of(<const char *> host, len(host)),
        span_of(<const char *> path, len(path)), span_of(<const char *> text, len(text)),
        query is not None, span_of(<const char *> extra, len(extra)), guarded_span(reference))
    if count == CACHE_KEY_NONE:
        return None
    if count > room:
        raise AssertionError("more than fits")
    return out[:count]


def cache_vary_key(pairs, request, size_t room=4096):
    """The secondary key, or None. It is written right before an unreadable page."""
    cdef FieldLines vary = FieldLines(pairs)
    cdef FieldLines asked = FieldLines(request, is_request=True)
    cdef uint8_t *out = <uint8_t *> other_guard.place(bytes(room))
    cdef size_t count = vary_key_put(out, room, &vary.view, &asked.view)
    if count == CACHE_KEY_NONE:
        return None
    if count > room:
        raise AssertionError("more than fits")
    return out[:count]


def cache_vary_matches(bytes key, request):
    cdef FieldLines asked = FieldLines(request, is_request=True)
    return bool(vary_key_matches(span_guard.place(key), len(key), &asked.view))


def cache_siphash(bytes seed, bytes data):
    cdef uint8_t room[16]
    if len(seed) != 16:
        raise ValueError("a seed has 16 bytes")
    memcpy(room, <const char *> seed, 16)
    return siphash(room, span_guard.place(data), len(data))


def cache_is_named(bytes text, bytes name):
    """Does the list name the field?"""
    return bool(field_is_named(guarded_span(text),
                               span_of(other_guard.place(name), len(name))))


def cache_ranges(request, bytes_, *, etag=b"", modified_s=-1, date_s=-1, now_s=0):
    """("none" or "unsatisfiable", None), or ("some", [(first, bytes), ...])."""
    cdef RequestFacts asked = request_facts_of(request, now_s)
    cdef ByteRange ranges[RANGES_MAX]
    cdef uint32_t count = 99
    cdef int outcome = ranges_read(&asked, guarded_span(etag), modified_s, date_s, bytes_, ranges,
                                   &count)
    name = RANGES_NAMES[outcome]
    if name != "some":
        return name, None
    if count > RANGES_MAX:
        raise AssertionError("more than fit")
    return name, [(ranges[index].first, ranges[index].bytes) for index in range(count)]


def cache_groups(pairs, bytes name, *, uint32_t most=GROUPS_MAX, bytes seed=bytes(16)):
    """(how many were found, the hashes of those that fit)."""
    cdef FieldLines lines = FieldLines(pairs)
    cdef uint64_t hashes[GROUPS_MAX]
    cdef uint32_t count
    if most > GROUPS_MAX or len(seed) != 16:
        raise ValueError((most, seed))
    count = groups_read(&lines.view, name, hashes, most, <const uint8_t *> <const char *> seed)
    return count, [hashes[index] for index in range(min(count, most))]


def cache_is_kept(bytes name):
    """Is the field stored with a response?"""
    return bool(field_is_kept(span_guard.place(name), len(name)))
