# URIs that lead to keys: targets, references in responses, prefixes to flush.

cdef enum:
    REFERENCE_MAX = 2048           # of Location and Content-Location, as far as they invalidate
    ORIGIN_MAX = 512
    EXTRA_MAX = 256                # of what a trusted proxy adds to a key

cdef struct UriParts:              # RFC 3986 §3, without userinfo's and the fragment's use
    bint has_scheme
    bint is_https
    bint has_query
    Span host                      # empty: no authority
    Span path
    Span query


cdef Span span_until(Span text, uint8_t byte) noexcept nogil:
    cdef const uint8_t *at = NULL
    if text.bytes:
        at = <const uint8_t *> memchr(text.at, byte, text.bytes)
    return text if at == NULL else span_of(text.at, at - text.at)


cdef inline Span span_behind(Span text, size_t bytes) noexcept nogil:
    return span_of(text.at + bytes, text.bytes - bytes)


cdef void uri_split(Span text, UriParts *parts) noexcept nogil:
    # An absolute http(s) URI, "//host/path", or a path with its query. What is none of them becomes
    # a path that no key can be made of.
    cdef Span before
    memset(parts, 0, sizeof(UriParts))
    text = span_until(text, c"#")
    if text.bytes >= 7 and span_is_nocase(span_of(text.at, 7), b"http://", 7):
        parts.has_scheme = True
        text = span_behind(text, 5)
    elif text.bytes >= 8 and span_is_nocase(span_of(text.at, 8), b"https://", 8):
        parts.has_scheme = True
        parts.is_https = True
        text = span_behind(text, 6)
    if text.bytes >= 2 and text.at[0] == c"/" and text.at[1] == c"/":
        text = span_behind(text, 2)
        parts.host = span_until(span_until(text, c"/"), c"?")
        text = span_behind(text, parts.host.bytes)
    before = span_until(text, c"?")
    parts.has_query = before.bytes < text.bytes
    if parts.has_query:
        parts.query = span_behind(text, before.bytes + 1)
    parts.path = before


cdef size_t uri_key_put(uint8_t *out, size_t room, const UriParts *parts,
                        const Exchange *exchange) noexcept nogil:
    # exchange: through whose trusted proxy it was asked; NULL: none. CACHE_KEY_NONE: no key.
    cdef uint8_t extra[EXTRA_MAX]
    cdef uint8_t *end = extra
    if exchange != NULL:
        end = image_extra_put(extra, exchange)
        if end == NULL:
            return CACHE_KEY_NONE
    return cache_key_put(out, room, parts.is_https, parts.host, parts.path, parts.query,
                         parts.has_query, span_of(extra, end - extra))


cdef size_t uri_origin_put(uint8_t *out, const UriParts *parts) noexcept nogil:
    # "scheme://host"; 0: it has none, or a very long one.
    cdef Span none = span_of(out, 0)
    cdef size_t bytes = cache_key_put(out, ORIGIN_MAX, parts.is_https, parts.host, none, none, False,
                                      none)
    return 0 if bytes == CACHE_KEY_NONE else key_origin_bytes(span_of(out, bytes))


cdef size_t key_origin_bytes(Span key) noexcept nogil:
    # "scheme://host" of a key.
    cdef size_t at = 8 if key.bytes > 8 and key.at[4] == c"s" else 7
    while at < key.bytes and key.at[at] != c"/":
        at += 1
    return at


cdef Span path_merged(uint8_t *room, Span base, Span reference) noexcept nogil:
    # A relative path stands in the folder of the base (RFC 3986 §5.2.3); none is the base itself.
    # Empty: it is too long.
    cdef Span folder = base
    cdef uint8_t *at
    while reference.bytes and folder.bytes and folder.at[folder.bytes - 1] != c"/":
        folder.bytes -= 1
    if folder.bytes + reference.bytes > REFERENCE_MAX:
        return span_of(room, 0)
    at = span_put(room, folder)
    return span_of(room, span_put(at, reference) - room)


# --- what a trusted proxy adds --------------------------------------------------------------------

cdef inline bint field_is_extra(uint8_t known) noexcept nogil:
    # Applications put these into the links of their pages.
    return known == FIELD_X_FORWARDED_PREFIX or known == FIELD_X_FORWARDED_PORT


cdef uint8_t *extra_put(uint8_t *out, const uint8_t *end, uint8_t known, Span value) noexcept nogil:
    # NULL: no room.
    if value.bytes + 1 > <size_t> (end - out):
        return NULL
    out[0] = c"p" if known == FIELD_X_FORWARDED_PREFIX else c":"
    return span_put(out + 1, value)


cdef uint8_t *head_extra_put(uint8_t *out, const uint8_t *at,
                             const RequestHead *head) noexcept nogil:
    # Into EXTRA_MAX bytes; NULL: too long.
    cdef const uint8_t *end = out + EXTRA_MAX
    cdef const FieldLine *field
    cdef uint32_t index
    for index in range(head.field_count):
        field = &head.fields[index]
        if field_is_extra(field.known):
            out = extra_put(out, end, field.known, span_of(at + field.value_at, field.value_bytes))
            if out == NULL:
                return NULL
    return out


cdef uint8_t *image_extra_put(uint8_t *out, const Exchange *exchange) noexcept nogil:
    # The same of a request's record, which has these fields only from trusted proxies.
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef const FieldEntry *entries = <const FieldEntry *> (exchange.image + sizeof(RequestRecord))
    cdef const uint8_t *values = image_texts(exchange) + image_fixed_bytes(record)
    cdef const uint8_t *end = out + EXTRA_MAX
    cdef uint32_t index
    for index in range(record.field_count):
        values += entries[index].name_bytes
        if field_is_extra(entries[index].known):
            out = extra_put(out, end, entries[index].known,
                            span_of(values, entries[index].value_bytes))
            if out == NULL:
                return NULL
        values += entries[index].value_bytes
    return out
