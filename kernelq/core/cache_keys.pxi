# Under what a response is stored: keys, secondary keys, groups, and what of a response is kept; the
# contract stands in cache_rules.pxd.
#
# Theory of operation: a secondary key is a row of records, one for each field that Vary names:
#   known       1 byte, FIELD_*; 0: a name follows
#   name        2 bytes for its length and the name in lower case, only where known is 0
#   state       1 byte: ABSENT, LIST or LINES
#   value       4 bytes for its length and the bytes, unless absent
# The value of a field that is known to be a list is one text: elements with a comma between, so
# that lines and white space between elements make no difference. Of any other field nothing is
# known: each line counts, with its length before it. A key is compared without being built again:
# the same writer runs with the stored bytes in the place of room for new ones (KeySink).
#
# Rules
# - Two different values may only become one key where every reader of the field must take them for
#   the same. In doubt they are two.
# - Requests with one key must be one to the application as well. It is given the path decoded, and
#   only then are dot segments taken out (path_normalise()): in "/a%2Fb/../c" that takes out "b",
#   by RFC 3986 "a%2Fb", so the response for "/a/c" would be stored for "/c". A path with an escaped
#   slash and a dot segment therefore has no key.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strchr, strlen

from kernelq.core.bug cimport BUG_ON
from kernelq.core.cache_rules cimport (
    CACHE_KEY_NONE,
    SF_STRING,
    VARY_ABSENT,
    VARY_LINES,
    VARY_LIST,
    VARY_NAMES_MAX,
    FieldView,
    KeySink,
    Reference,
    SfItem,
    SipState,
)
from kernelq.core.fields cimport (
    FIELD_ACCEPT,
    FIELD_ACCEPT_CHARSET,
    FIELD_ACCEPT_ENCODING,
    FIELD_ACCEPT_LANGUAGE,
    FIELD_AC_REQUEST_HEADERS,
    FIELD_CACHE_CONTROL,
    FIELD_CONNECTION,
    FIELD_FORWARDED,
    FIELD_PRAGMA,
    FIELD_TE,
    FIELD_X_FORWARDED_FOR,
    field_find,
)
from kernelq.core.http1 cimport list_take
from kernelq.core.scan cimport scan_target
from kernelq.core.span cimport Span, byte_lower, span_is_nocase, span_of

cdef extern from "<string.h>":
    void *memmem(const void *at, size_t bytes, const void *wanted, size_t wanted_bytes) nogil


# ---- hash ----

cdef inline uint64_t rotate(uint64_t word, int bits) noexcept nogil:
    return word << bits | word >> (64 - bits)


cdef inline void sip_round(SipState *state) noexcept nogil:
    state.v0 += state.v1
    state.v2 += state.v3
    state.v1 = rotate(state.v1, 13) ^ state.v0
    state.v3 = rotate(state.v3, 16) ^ state.v2
    state.v0 = rotate(state.v0, 32)
    state.v2 += state.v1
    state.v0 += state.v3
    state.v1 = rotate(state.v1, 17) ^ state.v2
    state.v3 = rotate(state.v3, 21) ^ state.v0
    state.v2 = rotate(state.v2, 32)


cdef inline void sip_word(SipState *state, uint64_t word) noexcept nogil:
    state.v3 ^= word
    sip_round(state)
    state.v0 ^= word


cdef void sip_begin(SipState *state, const uint8_t *seed) noexcept nogil:
    cdef uint64_t low
    cdef uint64_t high
    memcpy(&low, seed, 8)
    memcpy(&high, seed + 8, 8)
    state.v0 = low ^ 0x736f6d6570736575ULL
    state.v1 = high ^ 0x646f72616e646f6dULL
    state.v2 = low ^ 0x6c7967656e657261ULL
    state.v3 = high ^ 0x7465646279746573ULL


cdef uint64_t sip_end(SipState *state, uint64_t rest, size_t bytes) noexcept nogil:
    # rest: the last 0 to 7 bytes.
    sip_word(state, rest | <uint64_t> bytes << 56)
    state.v2 ^= 0xff
    sip_round(state)
    sip_round(state)
    sip_round(state)
    return state.v0 ^ state.v1 ^ state.v2 ^ state.v3


cdef uint64_t siphash(const uint8_t *seed, const uint8_t *at, size_t bytes) noexcept nogil:
    cdef SipState state
    cdef const uint8_t *end = at + (bytes & ~<size_t> 7)
    cdef uint64_t word
    sip_begin(&state, seed)
    while at < end:
        memcpy(&word, at, 8)
        sip_word(&state, word)
        at += 8
    word = 0
    if bytes & 7:
        memcpy(&word, at, bytes & 7)
    return sip_end(&state, word, bytes)


# ---- the key ----

cdef inline bint byte_is_unreserved(uint8_t byte) noexcept nogil:
    # RFC 3986 §2.3.
    return c"a" <= (byte | 0x20) <= c"z" or c"0" <= byte <= c"9" or byte == c"-" \
        or byte == c"." or byte == c"_" or byte == c"~"


cdef inline uint8_t hex_upper(uint8_t byte) noexcept nogil:
    return byte - 32 if byte >= c"a" else byte


cdef inline const uint8_t *byte_normalise(const uint8_t *at, const uint8_t *end,
                                          uint8_t **out) noexcept nogil:
    # Takes one byte or one valid escape and writes it: an unreserved byte bare, another escape with
    # upper-case digits (RFC 3986 §6.2.2). Never writes more than it takes.
    cdef uint8_t byte = at[0]
    if byte != c"%" or not escape_is_valid(at, end):
        out[0][0] = byte
        out[0] += 1
        return at + 1
    byte = <uint8_t> (hex_value(at[1]) << 4 | hex_value(at[2]))
    if byte_is_unreserved(byte):
        out[0][0] = byte
        out[0] += 1
    else:
        out[0][0] = c"%"
        out[0][1] = hex_upper(at[1])
        out[0][2] = hex_upper(at[2])
        out[0] += 3
    return at + 3


cdef bint escapes_are_valid(Span text) noexcept nogil:
    cdef const uint8_t *end = text.at + text.bytes
    cdef const uint8_t *at = <const uint8_t *> memchr(text.at, c"%", text.bytes)
    while at != NULL:
        if not escape_is_valid(at, end):
            return False
        at = <const uint8_t *> memchr(at + 3, c"%", end - at - 3)
    return True


cdef uint8_t *key_host_put(uint8_t *out, Span host, bint is_https) noexcept nogil:
    # Lower case but for escapes, without a port that is empty or the scheme's own (RFC 3986
    # §6.2.3).
    cdef const uint8_t *at = host.at
    cdef const uint8_t *end = host.at + host.bytes
    cdef const uint8_t *port = end
    cdef uint8_t *start = out
    cdef Span digits
    while port > at and c"0" <= (port - 1)[0] <= c"9":
        port -= 1
    if port > at and (port - 1)[0] == c":":
        digits = span_of(port, end - port)
        if digits.bytes == 0 or span_is_nocase(digits, b"443" if is_https else b"80",
                                               3 if is_https else 2):
            end = port - 1
    if memchr(host.at, c"%", host.bytes) == NULL:
        while at < end:
            out[0] = byte_lower(at[0])
            out += 1
            at += 1
        return out
    while at < end:
        start = out
        at = byte_normalise(at, end, &out)
        if out - start == 1:
            start[0] = byte_lower(start[0])
    return out


cdef uint8_t *key_path_put(uint8_t *out, Span path) noexcept nogil:
    # path begins with "/" and has only valid escapes. Dot segments go once escapes are taken out:
    # "." is unreserved, so "%2e" is the same (RFC 3986 §6.2.2.3). NULL: see the rules above.
    cdef const uint8_t *at = path.at + 1
    cdef const uint8_t *end = path.at + path.bytes
    cdef uint8_t *root = out
    cdef uint8_t *segment = out + 1
    cdef bint has_dots = False
    cdef bint has_slash = False
    cdef int dots
    if memchr(path.at, c"%", path.bytes) == NULL and memmem(path.at, path.bytes, b"/.", 2) == NULL:
        memcpy(out, path.at, path.bytes)
        return out + path.bytes
    out[0] = c"/"
    out += 1
    while True:
        if at < end and at[0] != c"/":
            if at[0] == c"%" and at[1] == c"2" and at[2] | 0x20 == c"f":
                has_slash = True
            at = byte_normalise(at, end, &out)
            continue
        dots = segment_dots(segment, out - segment)
        if dots > 0:
            has_dots = True
            out = root + path_parent(root, segment - root) if dots == 2 else segment
        elif at < end:
            out[0] = c"/"
            out += 1
        segment = out
        if at >= end:
            return NULL if has_dots and has_slash else out
        at += 1


cdef uint8_t *key_query_put(uint8_t *out, Span query) noexcept nogil:
    # A query with a lone "%" is no URI's: nothing is known to be equivalent to it. Most have none.
    cdef const uint8_t *at = query.at
    cdef const uint8_t *end = query.at + query.bytes
    out[0] = c"?"
    out += 1
    if memchr(query.at, c"%", query.bytes) == NULL or not escapes_are_valid(query):
        memcpy(out, query.at, query.bytes)
        return out + query.bytes
    while at < end:
        at = byte_normalise(at, end, &out)
    return out


cdef size_t cache_key_put(uint8_t *out, size_t room, bint is_https, Span host, Span target_path,
                          Span query, bint has_query, Span extra) noexcept nogil:
    cdef uint8_t *start = out
    cdef uint8_t *place
    # Nothing becomes longer than it was.
    if host.bytes == 0 or host.bytes + target_path.bytes + query.bytes + extra.bytes + 11 > room:
        return CACHE_KEY_NONE
    if target_path.bytes > 0:
        if target_path.at[0] != c"/" or not escapes_are_valid(target_path):
            return CACHE_KEY_NONE
    memcpy(out, b"https://", 8)
    out += 8
    if not is_https:
        memcpy(start + 4, b"://", 3)
        out -= 1
    place = out
    out = key_host_put(out, host, is_https)
    if out == place:
        return CACHE_KEY_NONE
    out = key_path_put(out, target_path if target_path.bytes > 0 else span_of(b"/", 1))
    if out == NULL:
        return CACHE_KEY_NONE
    if has_query:
        out = key_query_put(out, query)
    if extra.bytes > 0:
        out[0] = c" "
        memcpy(out + 1, extra.at, extra.bytes)
        out += extra.bytes + 1
    BUG_ON(<size_t> (out - start) > room)
    return out - start


# ---- the key of a reference (RFC 3986 §5.2) ----

cdef const uint8_t *first_of(const uint8_t *at, const uint8_t *end,
                             const char *stops) noexcept nogil:
    while at < end and (at[0] == 0 or strchr(stops, at[0]) == NULL):
        at += 1
    return at


cdef bint reference_split(Span reference, bint is_https, Reference *out) noexcept nogil:
    # False: no reference, or one to something that http has no name for. A fragment is none of the
    # server's business.
    cdef const uint8_t *at = reference.at
    cdef const uint8_t *end
    cdef const uint8_t *stop
    memset(out, 0, sizeof(Reference))
    if at == NULL:
        return False
    end = first_of(at, at + reference.bytes, b"#")
    if scan_target(at, end) != end:
        return False
    out.is_https = is_https
    stop = first_of(at, end, b":/?")
    if stop < end and stop[0] == c":":
        out.is_https = span_is_nocase(span_of(at, stop - at), b"https", 5)
        if not out.is_https and not span_is_nocase(span_of(at, stop - at), b"http", 4):
            return False
        at = stop + 1
        if not (end - at >= 2 and memcmp(at, b"//", 2) == 0):
            return False
    if end - at >= 2 and memcmp(at, b"//", 2) == 0:
        at += 2
        stop = first_of(at, end, b"/?")
        out.has_host = True
        out.host = span_of(at, stop - at)
        if not host_is_valid(out.host):
            return False
        at = stop
    stop = first_of(at, end, b"?")
    out.path = span_of(at, stop - at)
    if stop < end:
        out.has_query = True
        out.query = span_of(stop + 1, end - stop - 1)
    return True


cdef bint origin_is_same(uint8_t *out, size_t room, bint is_https, Span host,
                         const Reference *reference) noexcept nogil:
    # out: scratch.
    cdef Span none = span_of(NULL, 0)
    cdef size_t one = cache_key_put(out, room, is_https, host, none, none, False, none)
    cdef size_t other
    if one == CACHE_KEY_NONE:
        return False
    other = cache_key_put(out + one, room - one, reference.is_https, reference.host, none, none,
                          False, none)
    return other == one and memcmp(out, out + one, one) == 0


cdef size_t reference_key_put(uint8_t *out, size_t room, bint is_https, Span host, Span path,
                              Span query, bint has_query, Span extra,
                              Span reference) noexcept nogil:
    cdef Reference found
    cdef uint8_t *merged
    if not reference_split(reference, is_https, &found):
        return CACHE_KEY_NONE
    if found.has_host:
        if not origin_is_same(out, room, is_https, host, &found):
            return CACHE_KEY_NONE
    elif found.path.bytes == 0:
        found.path = path
        if not found.has_query:
            found.query = query
            found.has_query = has_query
    elif found.path.at[0] != c"/":
        # Beside the target: its path up to the last "/" and the reference's, put together at the
        # end of the room.
        while path.bytes > 0 and path.at[path.bytes - 1] != c"/":
            path.bytes -= 1
        if path.bytes == 0:
            path = span_of(b"/", 1)
        if path.bytes + found.path.bytes > room:
            return CACHE_KEY_NONE
        room -= path.bytes + found.path.bytes
        merged = out + room
        memcpy(merged, path.at, path.bytes)
        memcpy(merged + path.bytes, found.path.at, found.path.bytes)
        found.path = span_of(merged, path.bytes + found.path.bytes)
    return cache_key_put(out, room, is_https, host, found.path, found.query, found.has_query,
                         extra)


# ---- secondary keys (RFC 9111 §4.1) ----

cdef void sink_put(KeySink *sink, const uint8_t *at, size_t bytes) noexcept nogil:
    if not sink.is_well or bytes > sink.room - sink.at:
        sink.is_well = False
        return
    if bytes == 0:
        return
    if sink.expected == NULL:
        memcpy(sink.out + sink.at, at, bytes)
    elif memcmp(sink.expected + sink.at, at, bytes) != 0:
        sink.is_well = False
    sink.at += bytes


cdef inline bint field_is_list(unsigned known) noexcept nogil:
    # Fields that are defined as lists, and in which a quote begins nothing but a quoted string: no
    # entity tags (a backslash means nothing there), no comments.
    return known == FIELD_ACCEPT or known == FIELD_ACCEPT_ENCODING \
        or known == FIELD_ACCEPT_LANGUAGE or known == FIELD_ACCEPT_CHARSET \
        or known == FIELD_AC_REQUEST_HEADERS or known == FIELD_CACHE_CONTROL \
        or known == FIELD_CONNECTION or known == FIELD_FORWARDED or known == FIELD_PRAGMA \
        or known == FIELD_TE or known == FIELD_X_FORWARDED_FOR


cdef void list_elements_put(KeySink *sink, Span line, bint *is_first) noexcept nogil:
    # Each element as it stands, with "," between, the empty ones left out. A comma in quotes
    # separates nothing; a quote that is never closed takes the rest of the line.
    cdef const uint8_t *at = line.at
    cdef const uint8_t *end = line.at + line.bytes
    cdef const uint8_t *stop
    cdef const uint8_t *close
    while at < end:
        if at[0] == c"," or byte_is_space(at[0]):
            at += 1
            continue
        stop = at
        while stop < end and stop[0] != c",":
            if stop[0] == c'"':
                close = quote_close(stop + 1, end)
                stop = end - 1 if close == NULL else close
            stop += 1
        if not is_first[0]:
            sink_put(sink, b",", 1)
        is_first[0] = False
        close = stop
        while byte_is_space((close - 1)[0]):
            close -= 1
        sink_put(sink, at, close - at)
        at = stop


cdef inline bint line_has_name(const FieldView *view, uint32_t index, unsigned known,
                               Span name) noexcept nogil:
    # name, in lower case, counts where known is 0.
    if known != 0:
        return view.lines[index].known == known
    if view.lines[index].known != 0 or view.lines[index].name_bytes != name.bytes:
        return False
    return span_is_nocase(view_name(view, index), <const char *> name.at, name.bytes)


cdef void vary_value_put(KeySink *sink, const FieldView *request, unsigned known,
                         Span name) noexcept nogil:
    cdef bint is_list = field_is_list(known)
    cdef bint is_first = True
    cdef Span value
    cdef uint32_t index
    cdef uint32_t bytes
    for index in range(request.count):
        if not line_has_name(request, index, known, name):
            continue
        value = view_value(request, index)
        if is_list:
            list_elements_put(sink, value, &is_first)
        else:
            bytes = <uint32_t> value.bytes
            sink_put(sink, <const uint8_t *> &bytes, 4)
            sink_put(sink, value.at, value.bytes)


cdef uint8_t vary_state(const FieldView *request, unsigned known, Span name) noexcept nogil:
    cdef uint32_t index
    for index in range(request.count):
        if line_has_name(request, index, known, name):
            return VARY_LIST if field_is_list(known) else VARY_LINES
    return VARY_ABSENT


cdef const uint8_t *vary_record_read(const uint8_t *at, unsigned *known, Span *name,
                                     uint8_t *state, Span *value) noexcept nogil:
    # Of our own making: gives what follows.
    cdef uint16_t name_bytes
    cdef uint32_t value_bytes
    known[0] = at[0]
    name[0] = span_of(NULL, 0)
    value[0] = span_of(NULL, 0)
    at += 1
    if known[0] == 0:
        memcpy(&name_bytes, at, 2)
        name[0] = span_of(at + 2, name_bytes)
        at += 2 + name_bytes
    state[0] = at[0]
    at += 1
    if state[0] != VARY_ABSENT:
        memcpy(&value_bytes, at, 4)
        value[0] = span_of(at + 4, value_bytes)
        at += 4 + value_bytes
    return at


cdef bint vary_key_has(const uint8_t *key, size_t bytes, unsigned known,
                       Span name) noexcept nogil:
    cdef const uint8_t *end = key + bytes
    cdef unsigned record_known = 0
    cdef Span record_name
    cdef Span value
    cdef uint8_t state = 0
    while key < end:
        key = vary_record_read(key, &record_known, &record_name, &state, &value)
        if record_known == known and (known != 0 or spans_are_nocase(record_name, name)):
            return True
    return False


cdef void vary_record_put(KeySink *sink, const FieldView *request, unsigned known,
                          Span name) noexcept nogil:
    cdef uint8_t byte = <uint8_t> known
    cdef uint16_t name_bytes = <uint16_t> name.bytes
    cdef uint32_t value_bytes = 0
    cdef size_t index
    cdef size_t value_at
    cdef uint8_t *lower
    sink_put(sink, &byte, 1)
    if known == 0:
        if name.bytes > 0xffff:
            sink.is_well = False
        sink_put(sink, <const uint8_t *> &name_bytes, 2)
        lower = sink.out + sink.at
        sink_put(sink, name.at, name.bytes)
        if not sink.is_well:
            return
        for index in range(name.bytes):
            lower[index] = byte_lower(lower[index])
        name = span_of(lower, name.bytes)
    byte = vary_state(request, known, name)
    sink_put(sink, &byte, 1)
    if byte == VARY_ABSENT:
        return
    value_at = sink.at
    sink_put(sink, <const uint8_t *> &value_bytes, 4)
    vary_value_put(sink, request, known, name)
    if sink.is_well:
        value_bytes = <uint32_t> (sink.at - value_at - 4)
        memcpy(sink.out + value_at, &value_bytes, 4)


cdef size_t vary_key_put(uint8_t *out, size_t room, const FieldView *vary,
                         const FieldView *request) noexcept nogil:
    cdef KeySink sink
    cdef Span rest
    cdef Span name
    cdef uint32_t index
    cdef uint32_t count = 0
    cdef unsigned known
    sink.out = out
    sink.expected = NULL
    sink.at = 0
    sink.room = min(room, <size_t> 0xffffffff)
    sink.is_well = True
    for index in range(vary.count):
        if not span_is_nocase(view_name(vary, index), b"vary", 4):
            continue
        rest = view_value(vary, index)
        while list_take(&rest, &name):
            if name.bytes == 0:
                continue
            if not span_is_token(name) or (name.bytes == 1 and name.at[0] == c"*"):
                return CACHE_KEY_NONE
            known = field_find(name.at, name.bytes)
            if vary_key_has(out, sink.at, known, name):
                continue
            count += 1
            if count > VARY_NAMES_MAX:
                return CACHE_KEY_NONE
            vary_record_put(&sink, request, known, name)
            if not sink.is_well:
                return CACHE_KEY_NONE
    return sink.at


cdef bint vary_key_matches(const uint8_t *key, size_t bytes,
                           const FieldView *request) noexcept nogil:
    cdef const uint8_t *end = key + bytes
    cdef KeySink sink
    cdef unsigned known = 0
    cdef Span name
    cdef Span value
    cdef uint8_t state = 0
    while key < end:
        key = vary_record_read(key, &known, &name, &state, &value)
        BUG_ON(key > end)
        if vary_state(request, known, name) != state:
            return False
        if state == VARY_ABSENT:
            continue
        sink.out = NULL
        sink.expected = value.at
        sink.at = 0
        sink.room = value.bytes
        sink.is_well = True
        vary_value_put(&sink, request, known, name)
        if not sink.is_well or sink.at != sink.room:
            return False
    return True


# ---- groups (RFC 9875) ----

cdef uint64_t string_hash(const uint8_t *seed, Span text) noexcept nogil:
    # siphash() of a string as it is meant, without the backslashes that it was sent with.
    cdef SipState state
    cdef uint64_t word = 0
    cdef size_t count = 0
    cdef size_t index = 0
    sip_begin(&state, seed)
    while index < text.bytes:
        if text.at[index] == c"\\":
            index += 1
        word |= <uint64_t> text.at[index] << 8 * (count & 7)
        index += 1
        count += 1
        if count & 7 == 0:
            sip_word(&state, word)
            word = 0
    return sip_end(&state, word, count)


cdef int64_t group_line_read(Span line, uint64_t *hashes, uint32_t most, uint32_t already,
                             const uint8_t *seed) noexcept nogil:
    # A list of strings (RFC 9651 §4.2.1). How many there are with those already found, or -1.
    cdef const uint8_t *at = line.at
    cdef const uint8_t *end = line.at + line.bytes
    cdef SfItem item
    cdef uint32_t count = already
    while at < end:
        at = sf_inner(at, end, &item)
        if at == NULL or item.kind != SF_STRING:
            return -1
        if count < most:
            hashes[count] = string_hash(seed, item.text)
        count += 1
        at = sf_comma(at, end)
        if at == NULL:
            return -1
    return count


cdef uint32_t groups_read(const FieldView *fields, const char *name, uint64_t *hashes,
                          uint32_t most, const uint8_t *seed) noexcept nogil:
    cdef size_t name_bytes = strlen(name)
    cdef uint32_t count = 0
    cdef uint32_t lines = 0
    cdef uint32_t index
    cdef int64_t found
    for index in range(fields.count):
        if not span_is_nocase(view_name(fields, index), name, name_bytes):
            continue
        found = group_line_read(view_value(fields, index), hashes, most, count, seed)
        lines += 1
        # An empty line among others is a comma with nothing beside it.
        if found < 0 or (lines > 1 and (count == 0 or found == count)):
            return 0
        count = <uint32_t> found
    return count


# ---- what is stored of a response (RFC 9111 §3.1) ----

cdef bint field_is_kept(const uint8_t *name, uint32_t bytes) noexcept nogil:
    # Not what belongs to a connection or to the framing, not the word of a proxy to its client
    # alone, not what the cache itself says anew with each hit, and not the field that is meant for
    # it.
    cdef Span field = span_of(name, bytes)
    if bytes == 2:
        return not span_is_nocase(field, b"te", 2)
    if bytes == 3:
        return not span_is_nocase(field, b"age", 3)
    if bytes == 7:
        return not (span_is_nocase(field, b"trailer", 7) or span_is_nocase(field, b"upgrade", 7))
    if bytes == 10:
        return not (span_is_nocase(field, b"connection", 10)
                    or span_is_nocase(field, b"keep-alive", 10))
    if bytes == 14:
        return not span_is_nocase(field, b"content-length", 14)
    if bytes == 16:
        return not span_is_nocase(field, b"proxy-connection", 16)
    if bytes == 17:
        return not span_is_nocase(field, b"transfer-encoding", 17)
    if bytes == 18:
        return not span_is_nocase(field, b"proxy-authenticate", 18)
    if bytes == 19:
        return not span_is_nocase(field, b"proxy-authorization", 19)
    if bytes == 21:
        return not span_is_nocase(field, b"kernelq-cache-control", 21)
    return not span_is_nocase(field, b"proxy-authentication-info", 25)
