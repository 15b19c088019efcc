# What a key has beside its URI: the prefix and port that a trusted proxy speaks of, since
# applications put them into the links of their pages.

cdef enum:
    EXTRA_MAX = 256


cdef inline bint field_is_extra(uint8_t known) noexcept nogil:
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
